"""The pictures of the demo, one function and one file per act."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import plot
from ..data import Motion
from ..plot.style import COLORS
from ..solution import Solution
from ..training import History
from .demo_models import Observed

COLOR = {"first order": COLORS[1], "second order": COLORS[0]}
STYLE = {"first order": "--", "second order": "-"}
LETTER = [  # the outline of an F, which shows turns and flips
    [-1.0, -1.2], [-0.4, -1.2], [-0.4, -0.2], [0.5, -0.2], [0.5, 0.3], [-0.4, 0.3],
    [-0.4, 0.7], [0.8, 0.7], [0.8, 1.2], [-1.0, 1.2], [-1.0, -1.2],
]  # fmt: skip


def canvas(columns: int) -> tuple[Figure, NDArray[Any]]:
    """A figure with a row of axes, without pyplot and its global state."""
    fig = Figure(figsize=(3.6 * columns, 3.3), layout="constrained")
    return fig, fig.subplots(1, columns)


def save(fig: Figure, path: Path) -> None:
    """Write a figure at a size that is legible on a README page."""
    fig.savefig(path, dpi=140)


def draw_cubic(
    grid: Tensor, solution: Solution, mse: Mapping[str, Tensor], out: Path
) -> None:
    """Draw the trajectories of the best seed of each order, and the maps."""
    fig, axs = canvas(3)
    for k, (name, values) in enumerate(mse.items()):
        best = k * len(values) + int(values.argmin())
        plot.trajectories(solution.t, solution.x[:, best], axs[k])
        axs[k].set_title(f"{name}, best of {len(values)}: MSE {values.min():.4f}")
        style = {"color": COLOR[name], "linestyle": STYLE[name]}
        axs[2].plot(grid, solution.x[-1, best], **style, label=name)
    axs[2].plot(grid, -(grid**3), "k:", label="−x³")
    axs[2].set(xlabel="x(0)", ylabel="x(1)", title="the map")
    axs[2].legend(fontsize="small")
    save(fig, out / "cubic.png")


def draw_rings(
    logits: Callable[[Tensor], Tensor],
    accuracy: Mapping[str, Tensor],
    x: Tensor,
    label: Tensor,
    out: Path,
) -> None:
    """Draw the points, and where the best seed of each order sees which class.

    ``logits`` maps points (n, 2) to one number per network and point, (networks, n).
    """
    fig, axs = canvas(2)
    for k, (name, values) in enumerate(accuracy.items()):
        best = k * len(values) + int(values.argmax())
        draw_regions(axs[k], logits, best, x, label)
        axs[k].set_title(f"{name}, best of {len(values)}: {values.max():.1%}")
    save(fig, out / "rings.png")


def draw_regions(
    ax: Axes, logits: Callable[[Tensor], Tensor], index: int, x: Tensor, label: Tensor
) -> None:
    """Draw points over the two regions that network ``index`` tells apart."""
    reach = 1.1 * x.abs().max().item()
    side = torch.linspace(-reach, reach, 121)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        values = logits(grid)[index].reshape(121, 121).T
    ax.contourf(side, side, values, [-1e9, 0, 1e9], colors=COLORS[4:6], alpha=0.45)
    for c, marker in enumerate("o^"):
        ax.plot(*x[label == c].T, marker, color=COLORS[6 if c else 1], markersize=2.5)
    ax.set(aspect="equal", xlabel="x₁", ylabel="x₂")


def draw_linear(
    target: Tensor,
    models: Mapping[str, nn.Module],
    histories: Mapping[str, History],
    floor: float,
    out: Path,
) -> None:
    """Draw a letter, the training curves over the floor, and the letter's images."""
    letter = torch.tensor(LETTER)
    fig, axs = canvas(3)
    axs[0].plot(*letter.T, "k")
    axs[2].plot(*(letter @ target.T).T, "k:", linewidth=4, label="wanted")
    for name, model in models.items():
        style = {"color": COLOR[name], "linestyle": STYLE[name]}
        axs[1].semilogy(histories[name].loss, **style, label=name)
        with torch.no_grad():
            axs[2].plot(*model(letter).T, **style, label=name)
    axs[1].axhline(floor, color="k", ls=":", label="floor in theory")
    axs[1].set(title="training", xlabel="step", ylabel="‖map − D‖²")
    for ax, title in ((axs[0], "a letter"), (axs[2], "its image under the maps")):
        ax.set(title=title, xlabel="x₁", ylabel="x₂")
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.4, 1.7))
    for ax in axs[1:]:
        ax.legend(fontsize="small")
    save(fig, out / "linear.png")


def draw_oscillator(
    models: Mapping[str, Observed], t: Tensor, seen: Motion, fresh: Motion, out: Path
) -> None:
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
    save(fig, out / "oscillator.png")
