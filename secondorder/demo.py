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
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import nn

from . import data, plot, representability
from .models import SecondOrderODE
from .odeint import odeint
from .plot.style import COLORS
from .silverbox import errors, neural, white_box
from .system import Autonomous, Newton, SecondOrder
from .training import fit

EPSILON = 3.0
# ε → 0: the inertia is gone, γ = exp(−h/ε) is exactly 0 and each step is x ← x + h f.
FIRST_ORDER = 1e-6
ORDERS = {"first order": FIRST_ORDER, "second order": EPSILON}
COLOR = {"first order": COLORS[1], "second order": COLORS[0]}
STYLE = {"first order": "--", "second order": "-"}
SEEDS = 5  # networks trained side by side; the table shows the median and the range
NOISE = 0.1
LETTER = [  # the outline of an F, which shows turns and flips
    [-1.0, -1.2], [-0.4, -1.2], [-0.4, -0.2], [0.5, -0.2], [0.5, 0.3], [-0.4, 0.3],
    [-0.4, 0.7], [0.8, 0.7], [0.8, 1.2], [-1.0, 1.2], [-1.0, -1.2],
]  # fmt: skip


class Row(NamedTuple):
    """A line of the table: what was measured, and for which model."""

    task: str
    measure: str
    first: str
    second: str
    remark: str = ""


# All networks of both kinds are trained side by side, along the first axis: (10, n, d).
# Only their ε differs.
INERTIA = torch.tensor([*ORDERS.values()]).repeat_interleave(SEEDS).reshape(-1, 1, 1)


class Fields(nn.Module):
    """Networks W₂ tanh(W₁ x + b₁) + b₂, one per entry of INERTIA.

    Both orders start from the same weights, seed by seed.
    """

    def __init__(self, size, hidden):
        super().__init__()

        def draw(fan_in, *shape):
            weights = (2 * torch.rand(SEEDS, *shape) - 1) / fan_in**0.5
            return nn.Parameter(weights.repeat(len(ORDERS), 1, 1))

        self.w1, self.b1 = draw(size, size, hidden), draw(size, 1, hidden)
        self.w2, self.b2 = draw(hidden, hidden, size), draw(hidden, 1, size)

    def forward(self, t, x):
        """Return the field at x, shape (networks, n, size)."""
        hidden = torch.tanh(torch.baddbmm(self.b1, x, self.w1))
        return torch.baddbmm(self.b2, hidden, self.w2)


class Classifiers(nn.Module):
    """Flows of the plane, each with a straight line that cuts the result in two."""

    def __init__(self):
        super().__init__()
        self.flow = SecondOrderODE(Fields(2, 16), epsilon=INERTIA, steps=15)
        normal = torch.randn(SEEDS, 2, 1).repeat(len(ORDERS), 1, 1)
        self.normal = nn.Parameter(normal)
        self.offset = nn.Parameter(torch.zeros(len(INERTIA), 1, 1))

    def forward(self, x):
        """Return logits (networks, n) of points x (n, 2)."""
        x = self.flow(everyone(x))
        return torch.baddbmm(self.offset, x, self.normal)[..., 0]


def everyone(x):
    """Give the same points (n, d) to all networks: (networks, n, d)."""
    return x.expand(len(INERTIA), -1, -1)


def by_order(values):
    """Split one number per network into the seeds of each order."""
    return dict(zip(ORDERS, values.split(SEEDS), strict=True))


def cubic(train, out):
    """Fit x ↦ −x³: first-order trajectories on a line cannot cross."""
    x, y = data.cubic(200, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = SecondOrderODE(Fields(1, 16), epsilon=INERTIA, steps=15)

    def mse(model):
        return (model(everyone(x)) - y).square().mean((1, 2))

    train(model, lambda model: mse(model).sum(), 600, 0.05)
    grid = torch.linspace(-1, 1, 15).unsqueeze(1)
    with torch.no_grad():
        path, found = model.trajectory(everyone(grid)), by_order(mse(model))
    draw_cubic(grid, path, found, out)
    return [
        Row(
            "x ↦ −x³ on [−1, 1]",
            f"MSE, median of {SEEDS} seeds [range]",
            *(spread(values, ".4f") for values in found.values()),
            "an increasing map has ≥ 1/7 = 0.1429 on average over x",
        )
    ]


def draw_cubic(grid, path, found, out):
    """Draw the trajectories of the best seed of each order, and the maps."""
    fig, axs = canvas(3)
    for k, (name, values) in enumerate(found.items()):
        best = k * SEEDS + int(values.argmin())
        plot.trajectories(path.t, path.x[:, best], axs[k])
        axs[k].set_title(f"{name}, best of {SEEDS}: MSE {values.min():.4f}")
        axs[2].plot(grid, path.x[-1, best], STYLE[name], color=COLOR[name], label=name)
    axs[2].plot(grid, -(grid**3), "k:", label="−x³")
    axs[2].set(xlabel="x(0)", ylabel="x(1)", title="the map")
    axs[2].legend(fontsize="small")
    save(fig, out, "cubic.png")


def rings(train, out):
    """Separate three nested rings by a straight line after the flow."""
    generator = torch.Generator().manual_seed(0)
    x, label = data.nested_rings(600, 3, generator)
    fresh, truth = data.nested_rings(3000, 3, generator)
    scale = x.std()  # a unit that suits the networks' initial weights
    torch.manual_seed(0)
    model = Classifiers()

    def cross_entropy(model):
        logits = model(x / scale)
        target = label.to(logits).expand_as(logits)
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        )
        return loss.mean(1).sum()

    train(model, cross_entropy, 600, 0.05)
    fig, axs = canvas(2)
    with torch.no_grad():
        right = (model(fresh / scale) > 0) == truth.bool()
        found = by_order(right.float().mean(1))
        for k, (name, values) in enumerate(found.items()):
            best = k * SEEDS + int(values.argmax())
            regions(axs[k], lambda z, i=best: model(z / scale)[i], x, label)
            axs[k].set_title(f"{name}, best of {SEEDS}: {values.max():.1%}")
    save(fig, out, "rings.png")
    return [
        Row(
            "three nested rings",
            f"accuracy on fresh points, median of {SEEDS} seeds [range]",
            *(spread(values, ".3f") for values in found.values()),
            "a flow of the plane keeps rings nested, no line separates them",
        )
    ]


def linear(train, out):
    """Reach the linear map D = diag(1, −1/2), a mirror image."""
    target = torch.diag(torch.tensor([1.0, -0.5]))
    theory = {
        "first order": representability.FirstOrder(),
        "second order": representability.Continuous(epsilon=1.0),
    }
    letter = torch.tensor(LETTER)
    fig, axs = canvas(3)
    axs[0].plot(*letter.T, "k")
    axs[2].plot(*(letter @ target.T).T, "k:", linewidth=4, label="wanted")
    distance, floor = {}, {}
    for (name, propagator), epsilon in zip(
        theory.items(), (FIRST_ORDER, 1.0), strict=True
    ):
        model, history = train_linear(train, target, epsilon)
        distance[name] = gap(model, target).item()
        floor[name] = float(representability.loss_floor(target, propagator)) ** 2
        axs[1].semilogy(history.loss, STYLE[name], color=COLOR[name], label=name)
        with torch.no_grad():
            axs[2].plot(*model(letter).T, STYLE[name], color=COLOR[name], label=name)
    axs[1].axhline(floor["first order"], color="k", ls=":", label="floor in theory")
    axs[1].set(title="training", xlabel="step", ylabel="‖map − D‖²")
    for ax, title in ((axs[0], "a letter"), (axs[2], "its image under the maps")):
        ax.set(title=title, xlabel="x₁", ylabel="x₂")
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.4, 1.7))
    for ax in axs[1:]:
        ax.legend(fontsize="small")
    save(fig, out, "linear.png")
    found = representability.represent(target.double(), theory["second order"])
    return [
        Row(
            "linear map D = diag(1, −1/2)",
            "‖trained map − D‖²",
            *(f"{distance[name]:.3g}" for name in theory),
            "det exp(θ) > 0, but det D < 0",
        ),
        Row("", "floor in theory", *(f"{floor[name]:.3g}" for name in theory)),
        Row(
            "",
            "‖map of the theory's θ − D‖",
            "—",
            f"{witness_gap(found.theta, target):.1e}",
            "integrated by blanes_moan4, 50 steps, nothing trained",
        ),
    ]


def train_linear(train, target, epsilon):
    """Train ε ẍ + ẋ = θ x so that x(1) = D x(0)."""
    field = nn.Linear(*target.shape, bias=False)
    nn.init.zeros_(field.weight)
    # An even number of steps: an odd power of an Euler step 1 + θ/n can be negative,
    # and exp(θ) cannot.
    model = SecondOrderODE(Autonomous(field), epsilon=epsilon, steps=20)
    return model, train(model, partial(gap, target=target), 300, 0.3)


def gap(model, target):
    """‖map − D‖² of a linear model: it maps the rows of the identity to those of Dᵀ."""
    return (model(torch.eye(len(target), dtype=target.dtype)) - target.T).square().sum()


def witness_gap(theta, target):
    """Integrate ε ẍ + ẋ = θ x with the θ of the theory and measure its map."""
    theta = torch.as_tensor(theta, dtype=torch.float64)
    model = SecondOrderODE(
        lambda t, x: x @ theta.T, epsilon=1.0, steps=50, method="blanes_moan4"
    )
    return gap(model, target.double()).sqrt().item()


class Observed(nn.Module):
    """An ODE with the unknown states from which the observed motions start."""

    def __init__(self, system, t, observed, inertia):
        super().__init__()
        self.system = system
        self.x0 = nn.Parameter(observed[0].clone())
        speed = (observed[2] - observed[0]) / (t[2] - t[0])
        self.v0 = nn.Parameter(speed) if inertia else None

    def forward(self, t, start=None):
        """Solve through times t from the own states, or from a pair (x0, v0)."""
        start = (self.x0, self.v0) if start is None else start
        return odeint(self.system, start, t)


def oscillator(train, out):
    """Learn the force and the damping of a pendulum from noisy positions."""
    generator = torch.Generator().manual_seed(0)
    t, longer = torch.linspace(0, 6, 31), torch.linspace(0, 18, 91)
    seen = data.oscillator("pendulum", t, 24, NOISE, generator)
    fresh = data.oscillator("pendulum", longer, 200, generator=generator)
    models, rmse = {}, {}
    for name in ORDERS:
        torch.manual_seed(0)
        force = Autonomous(nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)))
        inertia = name == "second order"
        system = SecondOrder(force, FIRST_ORDER)
        if inertia:
            system = Newton(force, damping=nn.Parameter(torch.tensor(0.1)))
        model = Observed(system, t, seen.observed, inertia)
        train(model, lambda m: (m(t).x - seen.observed).square().mean(), 300, 0.05)
        with torch.no_grad():
            error = model(longer, (fresh.x[0], fresh.v[0])).x - fresh.x
        models[name], rmse[name] = model, error.square().mean().sqrt().item()
    draw_oscillator(models, t, seen, fresh, out)
    damping = models["second order"].system.damping.item()
    return [
        Row(
            data.OSCILLATORS["pendulum"].equation,
            f"RMSE of 200 fresh motions, 3 × as long; noise {NOISE}",
            *(f"{rmse[name]:.3f}" for name in ORDERS),
            "x alone does not tell where a pendulum goes",
        ),
        Row("", "damping; true value 0.4", "—", f"{damping:.3f}"),
    ]


def draw_oscillator(models, t, seen, fresh, out):
    """Draw fits over time, and the learned phase portrait with true motions."""
    fig, axs = canvas(2)
    axs[0].plot(t, seen.observed[:, 0, 0], "k.", label="observed")
    axs[0].plot(t, seen.x[:, 0, 0], "k:", label="truth")
    for name, model in models.items():
        with torch.no_grad():
            x = model(t).x[:, 0, 0]
        axs[0].plot(t, x, STYLE[name], color=COLOR[name], label=name)
    axs[0].set(xlabel="time t", ylabel="position x", title="one of 24 noisy motions")
    axs[0].legend(fontsize="small")
    few = slice(0, 4)
    learned = models["second order"]
    with torch.no_grad():
        x, v = learned(torch.linspace(0, 6, 121), (fresh.x[0, few], fresh.v[0, few]))
    plot.phase_portrait(x, v, axs[1], system=learned.system)
    axs[1].plot(fresh.x[:31, few, 0], fresh.v[:31, few, 0], "k.", markersize=3)
    axs[1].set_title("learned field, fresh motions (dots: truth)", fontsize="medium")
    save(fig, out, "oscillator.png")


def silverbox(record, **settings):
    """Fit second-order models to the Silverbox record; yield the test errors in mV."""
    seed = torch.Generator().manual_seed(0)
    fits = {
        "white box": lambda: white_box(record, **settings),
        "neural": lambda: neural(record, False, seed, **settings),
        "neural + x³": lambda: neural(record, True, seed, **settings),
    }
    for name, fitted in fits.items():
        start = time.perf_counter()
        system = fitted()
        seconds = time.perf_counter() - start
        count = sum(p.numel() for p in system.parameters())
        yield name, count, errors(system, record), seconds


ACTS = {"cubic": cubic, "rings": rings, "linear": linear, "oscillator": oscillator}


def canvas(columns):
    """A figure with a row of axes, without pyplot and its global state."""
    fig = Figure(figsize=(3.6 * columns, 3.3), layout="constrained")
    return fig, fig.subplots(1, columns)


def save(fig, out, name):
    """Write a figure at a size that is legible on a README page."""
    fig.savefig(out / name, dpi=140)


def regions(ax, score, x, label):
    """Draw points over the two regions in which ``score`` is positive or negative."""
    reach = 1.1 * x.abs().max().item()
    side = torch.linspace(-reach, reach, 121)
    grid = torch.cartesian_prod(side, side)
    values = score(grid).reshape(121, 121).T
    ax.contourf(side, side, values, [-1e9, 0, 1e9], colors=COLORS[4:6], alpha=0.45)
    for c, marker in enumerate("o^"):
        ax.plot(*x[label == c].T, marker, color=COLORS[6 if c else 1], markersize=2.5)
    ax.set(aspect="equal", xlabel="x₁", ylabel="x₂")


def spread(values, form):
    """Median and range of a few numbers."""
    low, middle, high = (f(values).item() for f in (torch.min, torch.median, torch.max))
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def table(rows):
    """Lay out rows of text in columns, the first row as the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "─" * sum(widths, 2 * len(widths) - 2), *lines[1:]])


def parser():
    """Build the command line of ``python -m secondorder demo``."""
    text = argparse.ArgumentParser(
        prog="python -m secondorder demo",
        description="Fit −x³, nested rings, a linear map and a noisy oscillator with a "
        "first-order and a second-order flow; write figures and a table.",
    )
    text.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    text.add_argument("--only", choices=ACTS, nargs="+", default=list(ACTS))
    text.add_argument(
        "--silverbox",
        type=Path,
        metavar="PATH",
        help="fit this record too: SNLS80mV.csv, which the PyPI package "
        "nonlinear-benchmarks downloads (two minutes more)",
    )
    text.add_argument(
        "--fast",
        action="store_true",
        help="a fiftieth of the training: the pictures, not the numbers",
    )
    return text


def main(argv=None):
    """Run the demo; return the exit status."""
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    bar = sys.stderr.isatty()

    def train(model, loss, steps, lr):
        return fit(model, loss, max(2, steps // 50) if args.fast else steps, lr, bar)

    record = data.silverbox(args.silverbox) if args.silverbox else None
    rows = [Row("task", "measure", *ORDERS, "what theory says")]
    # The random state outside the demo is left as it was.
    with torch.random.fork_rng(devices=[]):
        for name in args.only:
            start = time.perf_counter()
            rows += ACTS[name](train, args.out)
            seconds = time.perf_counter() - start
            print(f"{name}: {args.out / name}.png ({seconds:.0f} s)", flush=True)
        print(f"\n{table(rows)}", flush=True)
        if record is not None:
            settings = {"length": 100, "count": 4, "rounds": 2} if args.fast else {}
            print(f"\n{silverbox_table(silverbox(record, **settings))}")
    return 0


def silverbox_table(results):
    """Lay out the test errors of the models of the Silverbox."""
    rows = []
    for name, count, rmse, seconds in results:
        if not rows:
            head = "Silverbox, simulation RMSE [mV]"
            rows.append([head, "parameters", *rmse, "fit"])
        numbers = [f"{value:.3f}" for value in rmse.values()]
        rows.append([name, str(count), *numbers, f"{seconds:.0f} s"])
    return table(rows)
