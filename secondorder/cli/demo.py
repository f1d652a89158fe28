"""The main job, shown: what second-order flows do that first-order flows cannot.

    ε ẍ + ẋ = f(t, x)      with ε = 3, and with ε → 0, which is ẋ = f(t, x)

Both models of every pair are the same code, the same network, the same training; only
ε differs.  ``main`` writes one figure per act and a table of the numbers.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, section 4 (−x³, rings, linear maps).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .. import data, representability
from ..data.silverbox_models import errors, neural, white_box
from ..models import SecondOrderODE
from ..representability.propagator import Propagator
from ..systems import Autonomous, Newton, SecondOrder
from ..training import History, Model, fit
from .arguments import common, count, only, parse, replaceable, write_json
from .demo_figures import draw_cubic, draw_linear, draw_oscillator, draw_rings
from .demo_models import (
    FIRST_ORDER,
    INERTIA,
    ORDERS,
    SEEDS,
    Classifiers,
    Fields,
    Observed,
    by_order,
    everyone,
)
from .tables import median_and_range, table

NOISE = 0.1


class Train(Protocol):
    """``fit`` at the pace that the command line asks for."""

    def __call__(
        self, model: Model, loss: Callable[[Model], Tensor], steps: int, lr: float
    ) -> History:
        """Train ``model`` in place by about ``steps`` updates."""


class Row(NamedTuple):
    """A line of the table: what was measured, and for which model."""

    task: str
    measure: str
    first: str
    second: str
    remark: str = ""


def line(task: str, measure: str, cells: Iterable[str], remark: str = "") -> Row:
    """Make a line of the table; ``cells`` are one number per order."""
    first, second = cells
    return Row(task, measure, first, second, remark)


# -- acts: train both orders, write a figure, return lines of the table ---------------


def cubic(train: Train, out: Path) -> list[Row]:
    """Fit x ↦ −x³: first-order trajectories on a line cannot cross."""
    x, y = data.cubic(200, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = SecondOrderODE(Fields(1, 16), epsilon=INERTIA, steps=15)

    def mse(model: SecondOrderODE) -> Tensor:
        return (model(everyone(x)) - y).square().mean((1, 2))

    train(model, lambda model: mse(model).sum(), 600, 0.05)
    grid = torch.linspace(-1, 1, 15).unsqueeze(1)
    with torch.no_grad():
        solution = model.trajectory(everyone(grid))
        found = by_order(mse(model))
    draw_cubic(grid, solution, found, out)
    return [
        line(
            "x ↦ −x³ on [−1, 1]",
            f"MSE, median of {SEEDS} seeds [range]",
            (median_and_range(values, ".4f") for values in found.values()),
            "an increasing map has ≥ 1/7 = 0.1429 on average over x",
        )
    ]


def rings(train: Train, out: Path) -> list[Row]:
    """Separate three nested rings by a straight line after the flow."""
    generator = torch.Generator().manual_seed(0)
    x, label = data.nested_rings(600, 3, generator)
    fresh, truth = data.nested_rings(3000, 3, generator)
    scale = x.std()  # a unit that suits the networks' initial weights
    torch.manual_seed(0)
    model = Classifiers()

    def cross_entropy(model: Classifiers) -> Tensor:
        logits = model(x / scale)
        target = label.to(logits).expand_as(logits)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        )
        return loss.mean(1).sum()

    train(model, cross_entropy, 600, 0.05)
    with torch.no_grad():
        right = (model(fresh / scale) > 0) == truth.bool()
    found = by_order(right.float().mean(1))
    draw_rings(lambda z: model(z / scale), found, x, label, out)
    return [
        line(
            "three nested rings",
            f"accuracy on fresh points, median of {SEEDS} seeds [range]",
            (median_and_range(values, ".3f") for values in found.values()),
            "a flow of the plane keeps rings nested, no line separates them",
        )
    ]


def linear(train: Train, out: Path) -> list[Row]:
    """Reach the linear map D = diag(1, −1/2), a mirror image."""
    target = torch.diag(torch.tensor([1.0, -0.5]))
    theory: dict[str, Propagator] = {
        "first order": representability.FirstOrder(),
        "second order": representability.Continuous(epsilon=1.0),
    }
    models, histories, distance, floor = {}, {}, {}, {}
    for (name, propagator), epsilon in zip(
        theory.items(), (FIRST_ORDER, 1.0), strict=True
    ):
        models[name], histories[name] = train_linear(train, target, epsilon)
        distance[name] = gap(models[name], target).item()
        floor[name] = float(representability.loss_floor(target, propagator)) ** 2
    draw_linear(target, models, histories, floor["first order"], out)
    found = representability.represent(target.double(), theory["second order"])
    return [
        line(
            "linear map D = diag(1, −1/2)",
            "‖trained map − D‖²",
            (f"{distance[name]:.3g}" for name in theory),
            "det exp(θ) > 0, but det D < 0",
        ),
        line("", "floor in theory", (f"{floor[name]:.3g}" for name in theory)),
        Row(
            "",
            "‖map of the theory's θ − D‖",
            "—",
            f"{witness_gap(found.theta, target):.1e}",
            "integrated by blanes_moan4, 50 steps, nothing trained",
        ),
    ]


def train_linear(
    train: Train, target: Tensor, epsilon: float
) -> tuple[SecondOrderODE, History]:
    """Train ε ẍ + ẋ = θ x so that x(1) = D x(0)."""
    field = nn.Linear(len(target), len(target), bias=False)
    nn.init.zeros_(field.weight)
    # An even number of steps: an odd power of an Euler step 1 + θ/n can be negative,
    # and exp(θ) cannot.
    model = SecondOrderODE(Autonomous(field), epsilon=epsilon, steps=20)
    return model, train(model, partial(gap, target=target), 300, 0.3)


def gap(model: nn.Module, target: Tensor) -> Tensor:
    """‖map − D‖² of a linear model: it maps the rows of the identity to those of Dᵀ."""
    return (model(torch.eye(len(target), dtype=target.dtype)) - target.T).square().sum()


def witness_gap(theta: object, target: Tensor) -> float:
    """Integrate ε ẍ + ẋ = θ x with the θ of the theory and measure its map."""
    theta = torch.as_tensor(theta, dtype=torch.float64)
    model = SecondOrderODE(
        lambda t, x: x @ theta.T, epsilon=1.0, steps=50, method="blanes_moan4"
    )
    return gap(model, target.double()).sqrt().item()


def oscillator(train: Train, out: Path) -> list[Row]:
    """Learn the force and the damping of a pendulum from noisy positions."""
    generator = torch.Generator().manual_seed(0)
    t, longer = torch.linspace(0, 6, 31), torch.linspace(0, 18, 91)
    seen = data.oscillator("pendulum", t, 24, NOISE, generator)
    fresh = data.oscillator("pendulum", longer, 200, generator=generator)
    damping = nn.Parameter(torch.tensor(0.1))
    models, rmse = {}, {}
    for name in ORDERS:
        torch.manual_seed(0)
        force = Autonomous(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))
        inertia = name == "second order"
        system: SecondOrder | Newton = (
            Newton(force, damping=damping)
            if inertia
            else SecondOrder(force, FIRST_ORDER)
        )
        model = Observed(system, t, seen.observed, inertia)
        train(model, lambda m: (m(t).x - seen.observed).square().mean(), 300, 0.05)
        with torch.no_grad():
            error = model(longer, (fresh.x[0], fresh.v[0])).x - fresh.x
        models[name], rmse[name] = model, error.square().mean().sqrt().item()
    draw_oscillator(models, t, seen, fresh, out)
    return [
        line(
            data.OSCILLATORS["pendulum"].equation,
            f"RMSE of 200 fresh motions, 3 × as long; noise {NOISE}",
            (f"{rmse[name]:.3f}" for name in ORDERS),
            "x alone does not tell where a pendulum goes",
        ),
        Row("", "damping; true value 0.4", "—", f"{damping.item():.3f}"),
    ]


ACTS: dict[str, Callable[[Train, Path], list[Row]]] = {
    "cubic": cubic,
    "rings": rings,
    "linear": linear,
    "oscillator": oscillator,
}


# -- the Silverbox -------------------------------------------------------------------


class Fit(NamedTuple):
    """A model of the Silverbox: its size, its test errors and what it cost."""

    name: str
    parameters: int
    rmse: dict[str, float]  # in mV, by test
    seconds: float


def silverbox(record: data.Silverbox, seeds: int = 1, **settings: int) -> Iterator[Fit]:
    """Fit second-order models to the Silverbox record; yield the test errors in mV.

    The last one is fitted from ``seeds`` different starts.
    """

    def from_seed(seed: int, cubic: bool) -> Newton:
        return neural(record, cubic, torch.Generator().manual_seed(seed), **settings)

    fits: list[tuple[str, Callable[[], Newton]]] = [
        ("white box", lambda: white_box(record, **settings)),
        ("neural", partial(from_seed, 0, False)),
        *(("neural + x³", partial(from_seed, seed, True)) for seed in range(seeds)),
    ]
    for name, fitted in fits:
        start = time.perf_counter()
        system = fitted()
        seconds = time.perf_counter() - start
        size = sum(p.numel() for p in system.parameters())
        yield Fit(name, size, errors(system, record), seconds)


def silverbox_table(results: Iterable[Fit]) -> str:
    """Lay out the test errors of the models of the Silverbox."""
    rows: list[list[str]] = []
    for name, fits in groupby(results, lambda fit: fit.name):
        seeds = list(fits)
        if not rows:
            head = "Silverbox, simulation RMSE [mV]"
            rows.append([head, "parameters", *seeds[0].rmse, "fit"])
        values = torch.tensor([[*fit.rmse.values(), fit.seconds] for fit in seeds]).T
        if len(seeds) == 1:
            cells = [f"{value.item():.3f}" for value in values]
        else:
            name += f", median of {len(seeds)} seeds [range]"
            cells = [median_and_range(value, ".3f") for value in values]
        seconds = f"{values[-1].median().item():.0f} s"
        rows.append([name, str(seeds[0].parameters), *cells[:-1], seconds])
    return table(rows)


# -- the command ---------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Build the command line of ``python -m secondorder demo``."""
    text = argparse.ArgumentParser(
        prog="python -m secondorder demo",
        description="Fit −x³, nested rings, a linear map and a noisy oscillator with a "
        "first-order and a second-order flow; write figures and a table.",
    )
    common(
        text,
        "the figures",
        Path("figures"),
        quick="a fiftieth of the training: the pictures, not the numbers",
    )
    only(text, list(ACTS), "TASK")
    text.add_argument(
        "--silverbox",
        type=silverbox_record,
        metavar="PATH",
        help="fit this record too: SNLS80mV.csv, which the PyPI package "
        "nonlinear-benchmarks downloads (two minutes more)",
    )
    text.add_argument(
        "--seeds",
        type=count,
        default=1,
        help="with --silverbox: starts of its last model, whose spread is printed",
    )
    # The name that --quick had.
    text.add_argument(
        "--fast", dest="quick", action="store_true", help=argparse.SUPPRESS
    )
    return text


def silverbox_record(path: str) -> data.Silverbox:
    """The type of ``--silverbox``: a file that must be the published record."""
    try:
        return data.silverbox(path)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    args, _ = parse(text := parser(), argv)
    replaceable(text, (args.out / f"{name}.png" for name in args.only))
    bar = sys.stderr.isatty()

    def train(
        model: Model, loss: Callable[[Model], Tensor], steps: int, lr: float
    ) -> History:
        steps = max(2, steps // 50) if args.quick else steps
        history = fit(model, loss, steps, lr, bar)
        if history.stopped.startswith("interrupted"):
            raise KeyboardInterrupt  # the table is not made of half-trained models
        return history

    rows = [line("task", "measure", ORDERS, "what theory says")]
    # The random state outside the demo is left as it was.
    with torch.random.fork_rng(devices=[]):
        for name in args.only:
            start = time.perf_counter()
            rows += ACTS[name](train, args.out)
            seconds = time.perf_counter() - start
            print(f"{name}: {args.out / name}.png ({seconds:.0f} s)", flush=True)
        print(f"\n{table(rows)}", flush=True)
        write_json(args.json, [row._asdict() for row in rows[1:]])
        if args.silverbox is not None:
            settings = {"length": 100, "count": 4, "rounds": 2} if args.quick else {}
            fits = silverbox(args.silverbox, args.seeds, **settings)
            print(f"\n{silverbox_table(fits)}")
    return 0
