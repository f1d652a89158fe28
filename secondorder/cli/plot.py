"""The phase portrait of a system with one coordinate, named or of a module of yours.

Field, nullclines, points of rest with their kind, and paths from the edge of the
picture.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import plot
from ..odeint import odeint
from ..systems import Acceleration, Newton, System
from .arguments import common, count, parse, replaceable

SYSTEMS: dict[str, tuple[str, System]] = {
    "spring": ("ẍ + 0.2 ẋ = −x", Newton(lambda t, x: -x, damping=0.2)),
    "pendulum": ("ẍ + 0.2 ẋ = −sin x", Newton(lambda t, x: -torch.sin(x), damping=0.2)),
    "double_well": ("ẍ + 0.3 ẋ = x − x³", Newton(lambda t, x: x - x**3, damping=0.3)),
    "van_der_pol": (
        "ẍ = (1 − x²) ẋ − x",
        Acceleration(lambda t, x, v: (1 - x**2) * v - x),
    ),
}


def system_of(name: str) -> tuple[str, System]:
    """The type of the system: a name, or ``module:attribute``."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    place, _, attribute = name.partition(":")
    if not attribute:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(SYSTEMS)}, or module:attribute, got {name!r}"
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    finally:
        sys.path.pop(0)
    found = getattr(found, "system", found)  # of a SecondOrderODE
    if not isinstance(found, System):
        raise argparse.ArgumentTypeError(
            f"{name} is a {type(found).__name__}, not a system such as so.Newton"
        )
    return attribute, found


def starts(xlim: Sequence[float], vlim: Sequence[float], number: int) -> Tensor:
    """Points (number, 2) on an ellipse just inside the picture."""
    middle = torch.tensor([sum(xlim) / 2, sum(vlim) / 2], dtype=torch.float64)
    reach = torch.tensor([xlim[1] - xlim[0], vlim[1] - vlim[0]], dtype=torch.float64)
    angle = 2 * torch.pi * (torch.arange(number, dtype=torch.float64) + 0.5) / number
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return middle + 0.45 * reach * circle


def draw(
    system: System, title: str, xlim: tuple[float, float], vlim: tuple[float, float],
    paths: int, t1: float,
) -> Figure:  # fmt: skip
    """The picture."""
    begin = starts(xlim, vlim, paths)
    x0, v0 = begin[:, :1], begin[:, 1:]
    t = torch.linspace(0, t1, 400, dtype=torch.float64)
    with torch.no_grad():
        sol = odeint(system.double(), (x0, v0), t, method="dopri5")
    fig = Figure(figsize=(6, 4.4), layout="constrained")
    ax = fig.subplots()
    plot.vector_field(system, xlim, vlim, ax)
    plot.phase_portrait(sol, ax=ax)
    plot.fixed_points(system, xlim, ax=ax)
    ax.set(xlim=xlim, ylim=vlim, title=title)
    return fig


def parser() -> argparse.ArgumentParser:
    """Build the command line of ``python -m secondorder plot``."""
    text = argparse.ArgumentParser(
        prog="python -m secondorder plot",
        description="Draw a phase portrait: the field, points of rest, a few paths.",
    )
    text.add_argument(
        "system",
        type=system_of,
        help=f"{', '.join(SYSTEMS)}, or module:attribute, a system of your own",
    )
    common(text, "the picture", Path("figures"), numbers=False)
    for name, axis in (("--xlim", "position"), ("--vlim", "velocity")):
        text.add_argument(
            name, type=float, nargs=2, default=[-3.0, 3.0], metavar=("FROM", "TO"),
            help=f"{axis} (default: -3 3)",
        )  # fmt: skip
    text.add_argument(
        "--page",
        action="store_true",
        help="write portrait.html, too, where a click starts a path",
    )
    text.add_argument("--paths", type=count, default=8, help="how many (default: 8)")
    text.add_argument("--time", type=float, default=20.0, help="length (default: 20)")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; return the exit status."""
    args, _ = parse(text := parser(), argv)
    title, system = args.system
    for name, limits in (("--xlim", args.xlim), ("--vlim", args.vlim)):
        if not limits[0] < limits[1]:
            text.error(f"argument {name}: must be two increasing numbers")
    if not 0 < args.time < float("inf"):
        text.error(f"argument --time: must be > 0 and finite, got {args.time}")
    path, page = args.out / "portrait.png", args.out / "portrait.html"
    replaceable(text, [path, *([page] if args.page else [])])
    try:
        fig = draw(system, title, args.xlim, args.vlim, args.paths, args.time)
        if args.page:
            where = (tuple(args.xlim), tuple(args.vlim))
            plot.interactive(system, *where, t1=args.time, title=title).save(page)
    except (ValueError, RuntimeError) as error:  # of a field for another dimension
        text.error(f"argument system: not one of one coordinate: {error}")
    fig.savefig(path, dpi=140)
    print(path)
    if args.page:
        print(page)
    return 0
