"""The page of pictures of ``verify``: what theory says, and what the checks found."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import plot
from ..plot.style import LINES, look
from ..representability import (
    Continuous,
    Discrete,
    FirstOrder,
    is_representable,
    planar_probability,
)
from ..representability.propagator import Propagator

Array: TypeAlias = NDArray[np.float64]
NETWORK = Discrete(layers=8, gamma=0.9)  # whose branches are drawn
TITLES = (  # of the panels, by the part of the table that checks them
    "(a) ODE from rest: Ψ of three ε",
    "(a, d) ODE from rest: λ, ε → 0 to ∞",
    "(a) 30 × 30 Gauss/√d, ODE with ε = 1",
    "(a, c) network of 8 layers, γ = 0.9",
    "(e, T4) ½ Gauss/√d, ODE from rest",
)


def probabilities(
    draws: int, dimensions: Sequence[int] = (2, 5, 10)
) -> tuple[Array, dict[str, list[float]], dict[str, float]]:
    """Fractions of random matrices ½ Gauss/√d that are representable."""
    epsilons = np.geomspace(0.05, 20, 9)
    models: list[Propagator] = [FirstOrder(), *map(Continuous, epsilons)]
    fractions: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for d in dimensions:
        rng, name = np.random.default_rng(d), f"d = {d}"
        samples = 0.5 * rng.standard_normal((draws, d, d)) / math.sqrt(d)
        counts = [sum(bool(is_representable(D, m)) for D in samples) for m in models]
        first[name], *fractions[name] = (count / draws for count in counts)
    return epsilons, fractions, first


def draw_theory(axs: Sequence[Axes] | NDArray[Any], draws: int) -> None:
    """Draw what theory says: responses, thresholds, a spectrum, branches, chances."""
    theta = np.linspace(-60, 2.2, 600)
    for epsilon in (0.2, 1.0, 5.0):
        m = Continuous(epsilon)
        plot.response_curve(
            theta,
            m.response(theta),
            axs[0],
            threshold=m.threshold,
            minimiser=m.minimiser,
            label=f"ε = {epsilon:g}",
        )
    epsilons = np.geomspace(0.03, 300, 80)
    thresholds = [Continuous(e).threshold for e in epsilons]
    plot.threshold_curve(epsilons, thresholds, axs[1])
    D = np.random.default_rng(0).standard_normal((30, 30)) / math.sqrt(30)
    plot.spectrum(D, Continuous(1.0).threshold, axs[2])
    theta = np.linspace(-39, 1.5, 1500)
    plot.discrete_branches(
        theta,
        NETWORK.response(theta),
        NETWORK.critical_points,
        NETWORK.critical_values,
        axs[3],
        label=f"N = {NETWORK.layers}, γ = {NETWORK.gamma}",
    )
    epsilons, fractions, first = probabilities(draws)
    # Entries of ½ Gauss/√2 have the standard deviation ½/√2.
    law = [planar_probability(Continuous(e), 0.5 / math.sqrt(2)) for e in epsilons]
    plot.representable_probability(
        epsilons, fractions, axs[4], first_order=first, draws=draws,
        exact={"d = 2": law},
    )  # fmt: skip
    for ax, title in zip(axs, TITLES, strict=False):
        ax.set_title(title, fontsize="medium")


def draw_limit(
    ax: Axes, depths: Sequence[int], curves: Mapping[str, tuple[Array, Array]]
) -> None:
    """Draw errors of networks against their depth, with the predictions.

    ``curves`` are pairs (errors, predicted) by name, over ``depths``.
    """
    for index, (name, (errors, predicted)) in enumerate(curves.items()):
        style = look(index)
        markers = style | {"linestyle": "none"}
        ax.loglog(depths, np.abs(errors), **markers, mfc="w", label=name)
        ax.loglog(depths, np.abs(predicted), color=style["color"])
    ax.plot([], [], "o", color="k", mfc="w", label="markers: measured")
    ax.plot([], [], color="k", label="lines: predicted")
    ax.set(xlabel="layers N", ylabel="|network − ODE|")
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.minorticks_off()
    ax.legend(fontsize="xx-small", ncols=2, loc="upper center")
    ax.set_ylim(top=50 * ax.get_ylim()[1])


def draw_starts(ax: Axes) -> None:
    """Draw the lowest simple value of the principal branch, by start, against ε."""
    epsilons = np.geomspace(0.1, 10, 60)
    starts: dict[str, str | float] = {
        "from rest": "rest",
        "v₀ = f(x₀)": "force",
        "v₀ = 2 x₀": 2.0,
        "v₀ = −2 x₀": -2.0,
    }
    for index, (name, start) in enumerate(starts.items()):
        levels = [Continuous(e, start=start).principal_threshold for e in epsilons]
        style = look(index)
        ax.semilogx(epsilons, levels, color=style["color"], ls=LINES[index], label=name)
    ax.axhline(-1, color="k", lw=0.8, ls=":")
    ax.set(xlabel="ε / T", ylabel="least value on the branch of 0", ylim=(-3, 0.1))
    ax.set_title("(e, T1–T2) ODE by its start", fontsize="medium")
    ax.legend(fontsize="small", loc="lower left")


def draw(
    out: Path,
    quick: bool,
    curves: Mapping[str, Array],
    floors: Mapping[str, float],
    depths: Sequence[int],
    errors: Mapping[str, tuple[Array, Array]],
) -> Path:
    """Write verify.png, all pictures on one page, and return where it is.

    ``curves`` are the distances during training, ``floors`` what they must not pass;
    ``errors`` are pairs (errors, predicted) of networks of ``depths`` layers.
    """
    fig = Figure(figsize=(18, 8), layout="constrained")
    axs = fig.subplots(2, 4).ravel()
    draw_theory(axs, draws=60 if quick else 400)
    plot.training_curves(curves, floors, axs[5]).set_title(
        "(b) target diag(−1, 2), best of 8 starts", fontsize="medium"
    )
    draw_limit(axs[6], depths, errors)
    axs[6].set_title("(c) layers against their ODE", fontsize="medium")
    draw_starts(axs[7])
    out.mkdir(parents=True, exist_ok=True)
    fig.savefig(out / "verify.png", dpi=110)
    return out / "verify.png"
