"""Smooth problems x'' = −λ x' − K x + κ f(t, x), and how each library solves them.

Our splittings solve K, of a wave, exactly; for all others it is a force.

References: Kepler's equation for orbits; otherwise DOP853 at rtol 3e-14.
"""

import importlib.util
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import secondorder as so

DIFFRAX = importlib.util.find_spec("diffrax") is not None


class Problem(NamedTuple):
    """x'' = −damping·x' − stiffness·x + scale·force(xp, t, x).

    xp is torch, numpy or jax.numpy.
    """

    name: str
    force: object
    damping: float
    scale: float
    x: list
    v: list
    end: float
    eccentricity: float | None = None
    stiffness: np.ndarray | None = None


def overdamped(epsilon):
    return {"damping": 1 / epsilon, "scale": 1 / epsilon}


def duffing(xp, t, x):
    return x - x**3 + 0.5 * xp.cos(1.2 * t)


def pendulum(xp, t, x):
    return -xp.sin(x)


def gravity(xp, t, x):
    return -x / (x * x).sum() ** 1.5


def network():
    """A random field 8-32-32-8 with tanh, and a start."""
    dice = np.random.default_rng(0)
    sizes = ((8, 32), (32, 32), (32, 8))
    weights = [dice.normal(size=s) / math.sqrt(s[0]) for s in sizes]
    tensors = [torch.tensor(w) for w in weights]

    def force(xp, t, x):
        a, b, c = tensors if xp is torch else weights
        return xp.tanh(xp.tanh(x @ a) @ b) @ c

    return force, dice.normal(size=8).tolist()


def orbit(name, e, end):
    speed = math.sqrt((1 + e) / (1 - e))
    return Problem(name, gravity, 0.0, 1.0, [1 - e, 0.0], [0.0, speed], end, e)


def ring(n):
    """u_tt = u_xx − sin u on a ring of n points: frequencies up to n/π."""
    eye = np.eye(n)
    k = (2 * eye - np.roll(eye, 1, 0) - np.roll(eye, -1, 0)) * (n / (2 * math.pi)) ** 2
    hill = np.exp(-4 * (1 - np.cos(np.arange(n) * 2 * math.pi / n))).tolist()
    return {"x": hill, "v": [0.0] * n, "stiffness": k}


def cases():
    """Name, and a function of (x, v) at the end and the contestants.

    These are name to (run, stepped): ``run(setting) -> (x, v) and evaluations``, where
    a setting is a number of steps if ``stepped``, and a tolerance otherwise.
    """
    for p in problems():
        yield p.name, lambda p=p: (reference(p), contestants(p))


def problems():
    force, start = network()
    swing = {"force": pendulum, "x": [1.5], "v": [0.0]}
    weights = {"force": force, "x": start, "v": [0.0] * 8}
    orbits = enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)
    return [
        Problem("Duffing, ε=1, T=10", duffing, 1.0, 1.0, [1.0], [0.0], end=10),
        Problem("pendulum, ε=.1, T=2", **swing, **overdamped(0.1), end=2),
        Problem("pendulum, ε=.1, T=10", **swing, **overdamped(0.1), end=10),
        Problem("pendulum, ε=10, T=20", **swing, **overdamped(10), end=20),
        orbit("Kepler, e=.5, 3 periods", 0.5, 6 * math.pi),
        Problem("network 8-32-32-8, T=5", **weights, **overdamped(1), end=5),
        Problem("wave, 128 points, T=4", pendulum, 0.0, 1.0, **ring(128), end=4),
        *(orbit(f"DETEST D{i}, e={e}", e, 20.0) for i, e in orbits),
    ]


def first_order(problem, xp):
    """The problem as y' = g(t, y), y = (x, v), for libraries that take that."""
    size = len(problem.x)
    stiff = problem.stiffness

    def slope(t, y):
        x, v = y[:size], y[size:]
        a = problem.scale * problem.force(xp, t, x) - problem.damping * v
        if stiff is not None:
            a = a - stiff @ x
        return xp.concatenate([v, a])

    return slope


def reference(problem):
    """(x, v) at the end."""
    e = problem.eccentricity
    if e is not None:
        turns = brentq(lambda u: u - e * math.sin(u) - problem.end, 0, 100, xtol=1e-15)
        c, s, root = math.cos(turns), math.sin(turns), math.sqrt(1 - e * e)
        rate = 1 / (1 - e * c)
        return np.array([c - e, root * s, -rate * s, rate * root * c])
    start = np.array(problem.x + problem.v)
    span = (0, problem.end)
    slope = first_order(problem, np)
    how = {"method": "DOP853", "rtol": 3e-14, "atol": 1e-18}
    return solve_ivp(slope, span, start, **how).y[:, -1]


# -- Methods: run(setting) -> (x, v) at the end and evaluations ------------------------


def ours(problem, name):
    """One of secondorder's names, torchdiffeq's through it included."""
    system = so.Newton(
        lambda t, x: problem.scale * problem.force(torch, t, x),
        damping=problem.damping,
        stiffness=None if (k := problem.stiffness) is None else torch.tensor(k),
    )
    start = [torch.tensor(y, dtype=torch.float64) for y in (problem.x, problem.v)]
    t = torch.tensor([0.0, problem.end], dtype=torch.float64)
    stepped = name in so.METHODS or name in ("euler", "midpoint", "rk4")

    def run(setting):
        how = {"step_size": problem.end / setting} if stepped else {}
        how = how or {"rtol": setting, "atol": setting}
        with torch.no_grad():
            sol = so.odeint(system, start, t, method=name, **how)
        return torch.cat([sol.x[-1], sol.v[-1]]).numpy(), sol.stats.evaluations

    return run, stepped


def scipys(problem, name):
    slope, count = first_order(problem, np), [0]

    def counted(t, y):
        count[0] += 1  # also for the finite differences of an implicit method
        return slope(t, y)

    def run(setting):
        count[0] = 0
        start = np.array(problem.x + problem.v)
        sol = solve_ivp(
            counted, (0, problem.end), start, method=name, rtol=setting, atol=setting
        )
        return sol.y[:, -1], count[0]

    return run, False


def diffraxes(problem, name):
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    solver = getattr(diffrax, name)()
    save = diffrax.SaveAt(t1=True)
    if name == "SemiImplicitEuler":  # in the gauge p = e^{λt} v, which it can split
        rate, size = problem.damping, len(problem.x)
        rest = first_order(problem._replace(damping=0.0), jnp)

        def force(t, x):
            return rest(t, jnp.concatenate([x, x]))[size:]

        terms = (
            diffrax.ODETerm(lambda t, p, _: jnp.exp(-rate * t) * p),
            diffrax.ODETerm(lambda t, x, _: jnp.exp(rate * t) * force(t, x)),
        )  # fmt: skip
        start = (jnp.array(problem.x), jnp.array(problem.v))

        @jax.jit
        def solve(steps):
            sol = diffrax.diffeqsolve(
                terms, solver, 0.0, problem.end, problem.end / steps, start,
                saveat=save, max_steps=2**20,
            )  # fmt: skip
            x, p = sol.ys
            end = jnp.exp(-rate * problem.end) * p[0]
            return jnp.concatenate([x[0], end]), sol.stats["num_steps"]

        return lambda setting: unpack(solve(float(setting)), 1, 0), True
    table = solver.tableau
    slope = first_order(problem, jnp)
    terms = diffrax.ODETerm(lambda t, y, _: slope(t, y))
    start = jnp.array(problem.x + problem.v)

    @jax.jit
    def solve(tolerance):
        sol = diffrax.diffeqsolve(
            terms, solver, 0.0, problem.end, None, start, saveat=save, max_steps=2**16,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )  # fmt: skip
        return sol.ys[0], sol.stats["num_steps"]

    stages = table.num_stages - table.fsal
    # Two more to choose the first step, the first stage among them.
    return lambda setting: unpack(solve(setting), stages, 2), False


def unpack(result, stages, extra):
    y, steps = result
    return np.asarray(y), stages * int(steps) + extra


def contestants(problem):
    """Name to (run, stepped); diffrax only where it is installed."""
    own = [n for n, m in so.METHODS.items() if not m.takes_velocity] + list(so.ADAPTIVE)
    table = {name: (ours, name) for name in own}
    for name in ("rk4", "dopri5", "dopri8"):
        table[f"torchdiffeq {name}"] = (ours, name)
    stiff = ["Radau", "BDF"] if problem.stiffness is not None else []
    for name in ("DOP853", *stiff):
        table[f"scipy {name}"] = (scipys, name)
    if DIFFRAX:
        for name in ("Tsit5", "Dopri8", "SemiImplicitEuler"):
            table[f"diffrax {name}"] = (diffraxes, name)
    return {name: make(problem, inner) for name, (make, inner) in table.items()}
