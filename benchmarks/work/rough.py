"""Problems that are not smooth, or have no potential: jumps, impacts, a limit cycle.

References: matrix exponentials; energy and time of flight by quadrature; DOP853 at rtol
3e-14.
"""

import math
from functools import partial

import numpy as np
import torch
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq

import secondorder as so

from .smooth import DIFFRAX, unpack

D = torch.float64


def cases():
    """Name, and a function of the reference and the contestants (``smooth.cases``)."""
    yield "12 jumps, T=20", lambda: (jumped(), jumps())
    yield "12 impacts", lambda: (fallen(), impacts())
    yield "limit cycle, μ=2, T=10", lambda: (cycled(), cycle())


def by_steps(name):
    """Whether a method of ours, or of torchdiffeq, takes a number of steps."""
    return name in so.METHODS or name in ("rk4", "coupled_rk4")


def own(solve, names, span):
    """Name to (run, stepped) of methods by name: ``solve(method=, …) -> y, count``."""

    def run(name, setting):
        stepped = {"step_size": span / setting}
        tolerant = {"rtol": setting, "atol": setting}
        with torch.no_grad():
            return solve(method=name, **(stepped if by_steps(name) else tolerant))

    return {name: (partial(run, name), by_steps(name)) for name in names}


def torchs(names, table):
    """The same, torchdiffeq's names with its own before them."""
    return {
        n if n in so.METHODS | so.ADAPTIVE | so.COUPLED else f"torchdiffeq {n}": table[
            n
        ]
        for n in names
    }


def remarked(table, remark):
    return {f"{name}, {remark}": run for name, run in table.items()}


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        """Call it."""
        self.calls += 1
        return self.function(*args)


# -- Jumps: x'' = u(t) − x − x'/5, with u constant between twelve times --

DICE = np.random.default_rng(1)
JUMPS = np.sort(DICE.uniform(0, 20, 12))
LEVELS = DICE.uniform(-3, 3, 13)


def jumped():
    """Piece by piece, by the exponential of the matrix."""
    y = np.array([1.0, 0.0])
    for begin, end, u in zip([0, *JUMPS], [*JUMPS, 20], LEVELS, strict=True):
        a = np.array([[0, 1, 0], [-1, -0.2, u], [0, 0, 0]])
        y = (expm((end - begin) * a) @ [*y, 1.0])[:2]
    return y


def spring(t, y, u):
    return np.array([y[1], u - y[0] - 0.2 * y[1]])


def jumps():
    """With the times of the jumps told, and without."""
    times, levels = torch.tensor(JUMPS), torch.tensor(LEVELS)

    def force(t, x):
        return levels[torch.searchsorted(times, t.double(), right=True)] - x

    system = so.Newton(force, damping=0.2)
    start = torch.ones(1, dtype=D), None

    def solve(told, **how):
        breakpoints = times if told else None
        sol = so.odeint(system, start, [0.0, 20.0], breakpoints=breakpoints, **how)
        return np.array([sol.x[-1, 0], sol.v[-1, 0]]), sol.stats.evaluations

    names = ("blanes_moan4", "adaptive", "adaptive6", "rkn8", "dopri5", "dopri8")
    table = {}
    for told in (True, False):
        runs = torchs(names, own(partial(solve, told), names, 20))
        table |= remarked(runs, "told" if told else "untold")
    table["scipy DOP853, in pieces"] = (scipy_jumps, False)
    table["scipy DOP853, untold"] = (partial(scipy_jumps, pieces=False), False)
    if DIFFRAX:
        for told in (True, False):
            for name in ("Tsit5", "Dopri8"):
                label = f"diffrax {name}, {'told' if told else 'untold'}"
                table[label] = (diffrax_jumps(name, told), False)
    return table


def scipy_jumps(setting, pieces=True):
    y, calls = np.array([1.0, 0.0]), 0
    ends = [0, *JUMPS, 20] if pieces else [0, 20]
    how = {"method": "DOP853", "rtol": setting, "atol": setting}
    for k, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):

        def slope(t, y, k=k):
            piece = k if pieces else np.searchsorted(JUMPS, t, side="right")
            return spring(t, y, LEVELS[piece])

        sol = solve_ivp(slope, (begin, end), y, **how)
        y, calls = sol.y[:, -1], calls + sol.nfev
    return y, calls


def diffrax_jumps(name, told):
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    solver, times, levels = (
        getattr(diffrax, name)(),
        jnp.array(JUMPS),
        jnp.array(LEVELS),
    )

    def slope(t, y, _):
        u = levels[jnp.searchsorted(times, t, side="right")]
        return jnp.stack([y[1], u - y[0] - 0.2 * y[1]])

    @jax.jit
    def solve(tolerance):
        control = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        if told:
            control = diffrax.ClipStepSizeController(control, jump_ts=times)
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(slope), solver, 0.0, 20.0, None, jnp.array([1.0, 0.0]),
            saveat=diffrax.SaveAt(t1=True), max_steps=2**16,
            stepsize_controller=control,
        )  # fmt: skip
        return sol.ys[0], sol.stats["num_steps"]

    stages = solver.tableau.num_stages - solver.tableau.fsal
    return lambda setting: unpack(solve(setting), stages, 2)


# -- Impacts: a ball over uneven ground, x'' = −1 − sin(4 x)/2, v ← −0.9 v at x = 0 --

BOUNCE, IMPACTS = 0.9, 12


def height(x):
    """The potential, 0 at the ground."""
    return x + (1 - math.cos(4 * x)) / 8


def fallen():
    """Time and speed of the last impact: speeds by the energy, times by quadrature."""
    speed, t = math.sqrt(2 * height(1.0)), 0.0
    for k in range(IMPACTS):
        top = brentq(lambda x: height(x) - speed**2 / 2, 0, 1.5, xtol=1e-15)  # noqa: B023

        def slowness(s, top=top):  # x = top (1 − s²): no root in the denominator
            fall = 2 * math.sin(4 * top - 2 * top * s * s) * math.sin(2 * top * s * s)
            return 2 * top * s / math.sqrt(2 * (top * s * s + fall / 8))

        flight = quad(slowness, 0, 1, epsabs=1e-13, epsrel=1e-13)[0]
        t, last, speed = t + flight * (1 + (k > 0)), speed, BOUNCE * speed
    return np.array([t, -last])


def impacts():
    """In one call of ours; elsewhere flight by flight.

    torchdiffeq finds the impact that it starts from, again.
    """
    force = Counted(lambda t, x: -1 - torch.sin(4 * x) / 2)
    ball, start = so.Newton(force), (torch.ones(1, dtype=D), None)

    def solve(**how):
        force.calls = 0
        sol = so.odeint(
            ball, start, [0.0, 60.0], event_fn=lambda t, x, v: x[0],
            on_event=lambda t, x, v: (x, -BOUNCE * v), max_events=IMPACTS, **how,
        )  # fmt: skip
        last = sol.events
        return np.array([last.t[-1].item(), last.v[-1].item()]), force.calls

    names = ("verlet", "blanes_moan4", "adaptive", "adaptive6", "rkn8")
    table = own(solve, names, 60)
    table["scipy DOP853"] = (scipy_impacts, False)
    if DIFFRAX:
        table["diffrax Dopri8"] = (diffrax_impacts("Dopri8"), False)
    return table


def scipy_impacts(setting):
    def ground(t, y):
        return y[0] if t > begin else 1.0  # it starts on the ground

    ground.terminal, ground.direction = True, -1
    begin, y, calls = 0.0, np.array([1.0, 0.0]), 0
    how = {"method": "DOP853", "rtol": setting, "atol": setting, "events": ground}
    for _ in range(IMPACTS):
        sol = solve_ivp(
            lambda t, y: [y[1], -1 - math.sin(4 * y[0]) / 2], (begin, 60), y, **how
        )
        begin, end, calls = sol.t[-1], sol.y[:, -1], calls + sol.nfev
        y = np.array([0.0, -BOUNCE * end[1]])
    return np.array([begin, end[1]]), calls


def diffrax_impacts(name):
    import diffrax
    import jax
    import jax.numpy as jnp
    import optimistix

    jax.config.update("jax_enable_x64", True)
    solver = getattr(diffrax, name)()
    term = diffrax.ODETerm(
        lambda t, y, _: jnp.stack([y[1], -1 - jnp.sin(4 * y[0]) / 2])
    )
    finder = optimistix.Newton(1e-14, 1e-14)
    ground = diffrax.Event(lambda t, y, *_, **__: y[0], finder, direction=False)

    @jax.jit
    def flight(t, y, tolerance):
        sol = diffrax.diffeqsolve(
            term, solver, t, 60.0, None, y, event=ground, max_steps=2**14,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )  # fmt: skip
        return sol.ts[-1], sol.ys[-1], sol.stats["num_steps"]

    stages = solver.tableau.num_stages - solver.tableau.fsal

    def run(setting):
        t, y, calls = 0.0, jnp.array([1.0, 0.0]), 0
        for _ in range(IMPACTS):
            t, end, steps = flight(t, y, setting)
            y, calls = (
                jnp.array([0.0, -BOUNCE * end[1]]),
                calls + int(steps) * stages + 2,
            )
        return np.array([float(t), float(end[1])]), calls

    return run


# -- A limit cycle: van der Pol, where the force sees the velocity --


def pol(x, v):
    return 2 * (1 - x**2) * v - x


def cycled():
    slope = lambda t, y: [y[1], pol(*y)]  # noqa: E731
    how = {"method": "DOP853", "rtol": 3e-14, "atol": 1e-16}
    return solve_ivp(slope, (0, 10), [0.1, 0.0], **how).y[:, -1]


def cycle():
    """The coupled methods, which can be undone, beside those that cannot."""
    system = so.Acceleration(lambda t, x, v: pol(x, v))
    start = torch.full((1,), 0.1, dtype=D), None

    def solve(**how):
        sol = so.odeint(system, start, [0.0, 10.0], **how)
        return np.array([sol.x[-1, 0], sol.v[-1, 0]]), sol.stats.evaluations

    names = ("coupled_rk4", "coupled_dopri5", "rk4", "dopri5", "dopri8")
    table = torchs(names, own(solve, names, 10))

    def scipys(setting):
        how = {"method": "DOP853", "rtol": setting, "atol": setting}
        sol = solve_ivp(lambda t, y: [y[1], pol(*y)], (0, 10), [0.1, 0.0], **how)
        return sol.y[:, -1], sol.nfev

    return table | {"scipy DOP853": (scipys, False)}
