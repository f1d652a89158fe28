"""Measured orders: the error of every fixed-step method against its number of steps.

    ε ẍ + ẋ = −4 sin x + 2 cos 3t,   ε = 1,   0 ≤ t ≤ 4

nonlinear, damped and time-dependent, so that no part of a method is idle.  The truth is
SciPy's DOP853 at 1e-13.  The order is the slope of log error over the last halvings of
the step before rounding takes over.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from torch import Tensor

from .. import plot
from ..methods import COUPLED, METHODS
from ..odeint import odeint
from ..systems import Acceleration, SecondOrder
from .arguments import common, only, parse, replaceable, write_json
from .tables import fitted

START, END = (1.2, 0.3), 4.0
FLOOR = 1e-12  # errors below this are rounding
WINDOW = 0.05  # a measured order this far off (relatively) is a wrong order
STEPS = [round(2 ** (k / 2)) for k in range(4, 21)]  # 4 … 1024 in half octaves


def fixed_steps() -> dict[str, Any]:
    """The methods that take steps of a given size."""
    return {**METHODS, **COUPLED}


def force(t: Tensor, x: Tensor) -> Tensor:
    """Return the driven force of a pendulum."""
    return -4 * torch.sin(x) + 2 * torch.cos(3 * t)


def acceleration(t: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Return ẍ of the same equation for methods that take the velocity."""
    return force(t, x) - v


def truth() -> Tensor:
    """Position and velocity at the end, by another package."""

    def slope(t: float, state: Sequence[float]) -> tuple[float, float]:
        x, v = state
        return v, -4 * math.sin(x) + 2 * math.cos(3 * t) - v

    result = solve_ivp(slope, (0, END), START, "DOP853", rtol=1e-13, atol=1e-13)
    return torch.from_numpy(result.y[:, -1])


def measure(
    name: str, wanted: Tensor, steps: Sequence[int] = STEPS
) -> tuple[list[int], list[float]]:
    """Evaluations and errors of one method, down to the first error below the floor.

    It begins with the largest steps that the method stands.

    Parameters
    ----------
    name : str
        A key of METHODS or COUPLED.
    wanted : Tensor, shape (2,)
        x and v at the end.
    steps : sequence of int
        Numbers of steps, increasing.

    Returns
    -------
    evaluations, errors : list of int, list of float
        Errors are the larger of those in x and v.
    """
    doubled = fixed_steps()[name].takes_velocity
    system = Acceleration(acceleration) if doubled else SecondOrder(force, 1.0)
    x0, v0 = torch.tensor([[z] for z in START], dtype=torch.float64)
    evaluations: list[int] = []
    errors: list[float] = []
    for n in steps:
        t = torch.tensor([0.0, END], dtype=torch.float64)
        try:
            with torch.no_grad():
                end = odeint(system, (x0, v0), t, method=name, step_size=END / n)
        except (RuntimeError, ValueError):
            if errors or n == steps[-1]:
                raise
            continue  # steps that are too large for the method, which says so
        error = (torch.cat((end.x[-1], end.v[-1])) - wanted).abs().max().item()
        if error < FLOOR or not math.isfinite(error):
            break
        evaluations.append(end.stats.evaluations)
        errors.append(error)
    return evaluations, errors


def slope(
    evaluations: Sequence[float], errors: Sequence[float], points: int = 3
) -> float:
    """Order of convergence by regression over the last points, in log–log scale."""
    work = torch.tensor(evaluations[-points:], dtype=torch.float64).log()
    error = torch.tensor(errors[-points:], dtype=torch.float64).log()
    work, error = work - work.mean(), error - error.mean()
    return -(work @ error / (work @ work)).item()


def parser() -> argparse.ArgumentParser:
    """Build the command line of ``python -m secondorder orders``."""
    text = argparse.ArgumentParser(
        prog="python -m secondorder orders",
        description="Measure the order of every method on a damped, driven pendulum; "
        "exit status 1 if one is not what its table says.",
    )
    common(text, "orders.png", None)
    only(text, list(fixed_steps()), "METHOD")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the orders; return the exit status."""
    args, _ = parse(text := parser(), argv)
    if args.out:
        replaceable(text, [args.out / "orders.png"])
    wanted = truth()
    results: dict[str, tuple[list[int], list[float]]] = {}
    wrong: list[str] = []
    rows: list[dict[str, object]] = []
    print(fitted(f"{'method':<20} order  measured  f/step  h·c/m up to  use"))
    for name in args.only:
        method, results[name] = fixed_steps()[name], measure(name, wanted)
        found = slope(*results[name])
        if abs(found - method.order) > WINDOW * method.order:
            wrong.append(name)
        evaluations, errors = results[name]
        rows.append({"method": name, "order": method.order, "measured": found,
                     "evaluations": evaluations, "errors": errors})  # fmt: skip
        line = (
            f"{name:<20} {method.order:>5}  {found:>8.2f}  "
            f"{method.evaluations_per_step:>6}  {method.damping_limit:>11g}  "
            f"{method.summary}"
        )
        print(fitted(line), flush=True)
    write_json(args.json, rows)
    if args.out:
        fig = Figure(figsize=(8, 4.5), layout="constrained")
        plot.work_precision(results, fig.subplots())
        fig.savefig(args.out / "orders.png", dpi=140)
        print(f"\n{args.out / 'orders.png'}")
    if wrong:
        print(f"\nnot of the order that the table says: {', '.join(wrong)}")
    return 1 if wrong else 0
