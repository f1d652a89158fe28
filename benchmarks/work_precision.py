"""What accuracy costs: evaluations and seconds to reach an error, every method.

    python benchmarks/work_precision.py [--quick] [--out DIR]

Twelve problems in the form x'' = −λ x' − K x + κ f(t, x), relative error of (x, v) at
the final time in the 2-norm.  Ours against torchdiffeq, SciPy and diffrax (with the
extra ``bench``), each over a range of steps or tolerances (rtol = atol).  Our
splittings solve K, of a wave, exactly; for all others it is a force.  Costs at a wanted
error are interpolated between the two runs around it, logarithmically; "<" marks a
method whose cheapest run was better than asked.

References: Kepler's equation for orbits; otherwise DOP853 at rtol 3e-14.
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import secondorder as so

TARGETS = (1e-3, 1e-6, 1e-9)
DEEP = 2e-10  # errors below this end a sweep


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


def contestants():
    """Name to (maker, name there); diffrax only where it is installed."""
    own = [n for n, m in so.METHODS.items() if not m.takes_velocity] + list(so.ADAPTIVE)
    table = {name: (ours, name) for name in own}
    for name in ("rk4", "dopri5", "dopri8"):
        table[f"torchdiffeq {name}"] = (ours, name)
    for name in ("DOP853", "Radau", "BDF"):
        table[f"scipy {name}"] = (scipys, name)
    try:
        import diffrax  # noqa: F401
    except ImportError:
        print("diffrax is not installed, its solvers are skipped: "
              "pip install secondorder[bench]")  # fmt: skip
        return table
    for name in ("Tsit5", "Dopri8", "SemiImplicitEuler"):
        table[f"diffrax {name}"] = (diffraxes, name)
    return table


# -- Measuring ------------------------------------------------------------------------


def sweep(run, stepped, true, most):
    """Evaluations, errors and seconds over step numbers or tolerances."""
    points = []
    if stepped:
        settings = [round(4 * 2 ** (k / 2)) for k in range(40)]
    else:
        settings = [10 ** (-k / 2) for k in range(2, 28)]
    for setting in settings:
        if points and points[-1][0] * (1.4 if stepped else 1.0) > most:
            break
        try:
            if not points:
                run(setting)  # compiles, warms up
            begin = time.perf_counter()
            y, evaluations = run(setting)
            seconds = time.perf_counter() - begin
        except Exception as error:  # a solver that gives up is a result, too
            if "h/ε" not in str(error):
                print(f"    {setting:.3g}: {str(error).splitlines()[0][:90]}")
            continue
        error = float(np.linalg.norm(y - true) / np.linalg.norm(true))
        if math.isfinite(error):
            points.append((evaluations, error, seconds))
        if error < DEEP:
            break
    return points


def cost(points, target, column):
    """Cost at an error: interpolated number and whether it is only a bound."""
    points = sorted(points)
    for k, point in enumerate(points):
        if point[1] <= target:
            if k == 0:
                return point[column], True
            before = points[k - 1]
            part = math.log(before[1] / target) / math.log(before[1] / point[1])
            return math.exp(
                math.log(before[column]) * (1 - part) + math.log(point[column]) * part
            ), False
    return math.inf, False


def cells(points, column, form):
    found = [cost(points, target, column) for target in TARGETS]
    return [
        ("<" if bound else "") + form.format(c) if math.isfinite(c) else "–"
        for c, bound in found
    ]


def best(results, own, target, column=0):
    names = [n for n in results if (n in so.METHODS or n in so.ADAPTIVE) == own]
    return min((cost(results[n], target, column)[0], n) for n in names)


def report(name, results):
    print(f"\n{name}\n{'':26}" + "".join(f"{t:>9.0e}" for t in TARGETS)
          + "  |" + "".join(f"{t:>10.0e}" for t in TARGETS))  # fmt: skip
    print(f"{'':26}{'evaluations':>27}  |{'seconds':>30}")
    for method, points in results.items():
        work = "".join(f"{c:>9}" for c in cells(points, 0, "{:.0f}"))
        clock = "".join(f"{c:>10}" for c in cells(points, 2, "{:.2g}"))
        print(f"{method:<26}{work}  |{clock}")
    for target in TARGETS:
        mine, one = best(results, True, target)
        theirs, two = best(results, False, target)
        if math.isfinite(mine) and math.isfinite(theirs):
            print(f"  {target:.0e}: {one} {mine:.0f}, {two} {theirs:.0f}, "
                  f"ratio {theirs / mine:.2f}")  # fmt: skip


def picture(everything, path):
    """Ours best at some error, and all others, one panel a problem."""
    columns = 3
    rows = math.ceil(len(everything) / columns)
    fig = Figure(figsize=(5.2 * columns, 4 * rows), layout="constrained")
    panels = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, results) in zip(panels, everything.items(), strict=False):
        shown = {best(results, True, t)[1] for t in TARGETS} | {"verlet", "adaptive"}
        shown |= {n for n in results if " " in n}
        curves = {
            n: tuple(zip(*points, strict=True))[:2]
            for n, points in results.items()
            if n in shown and points
        }
        so.plot.work_precision(curves, ax, slopes=False)
        for line in ax.get_lines():  # ours in colour, theirs in grey
            if " " in line.get_label():
                line.set(color="0.6", linestyle="-", linewidth=0.8, markersize=4)
            else:
                line.set(linestyle="-", linewidth=2, zorder=3)
        ax.set(title=name, ylim=(1e-10, 10))
        ax.legend(fontsize="xx-small", loc="lower left")
    for ax in panels[len(everything) :]:
        ax.remove()
    fig.savefig(path, dpi=120)


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--quick", action="store_true", help="at most 2000 evaluations")
    text.add_argument("--most", type=int, default=20_000, help="evaluations of a run")
    text.add_argument("--only", nargs="+", default=[""], help="words in problem names")
    text.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    args = text.parse_args()
    warnings.filterwarnings("ignore", message="h/ε")
    most = 2000 if args.quick else args.most
    everything = {}
    for problem in problems():
        if not any(word in problem.name for word in args.only):
            continue
        true, results = reference(problem), {}
        for name, (make, inner) in contestants().items():
            run, stepped = make(problem, inner)
            results[name] = sweep(run, stepped, true, most)
        everything[problem.name] = results
        report(problem.name, results)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "work_precision"
    columns = ["evaluations", "error", "seconds"]
    data = {"columns": columns, "problems": everything}
    path.with_suffix(".json").write_text(json.dumps(data, indent=1, ensure_ascii=False))
    picture(everything, path.with_suffix(".png"))
    print(f"\n{path}.json, {path}.png")


if __name__ == "__main__":
    main()
