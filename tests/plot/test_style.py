"""Plots follow matplotlib's settings and properties, and stay light and legible."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import secondorder as so
from secondorder.representability import Continuous, Discrete

t = torch.linspace(0, 10, 201)
spring = so.Newton(lambda t, x: -x, damping=0.1)
wide = so.odeint(spring, (torch.tensor([1.0, 2.0, 3.0, 4.0]), None), t)
layers = Discrete(4, 0.9)
theta = np.linspace(-38, 2, 100)

STYLED = {
    "response_curve": lambda **k: so.plot.response_curve(
        theta, Continuous(1.0).response(theta), **k
    ),
    "threshold_curve": lambda **k: so.plot.threshold_curve([0.1, 1], [-0.1, -0.6], **k),
    "discrete_branches": lambda **k: so.plot.discrete_branches(
        theta,
        layers.response(theta),
        layers.critical_points,
        layers.critical_values,
        **k,
    ),
    "training_curves": lambda **k: so.plot.training_curves({"a": [1.0, 0.5]}, **k),
    "representable_probability": lambda **k: so.plot.representable_probability(
        [0.1, 1], {"d = 2": [0.4, 0.9]}, **k
    ),
    "spectrum": lambda **k: so.plot.spectrum([-1.0, 2.0], -0.6, **k),
    "trajectories": lambda **k: so.plot.trajectories(wide, **k),
    "portraits": lambda **k: so.plot.portraits(wide, **k)[2],
    "poincare": lambda **k: so.plot.poincare(wide, coordinate=1, period=1.0, **k),
}


@pytest.mark.parametrize("draw", STYLED.values(), ids=STYLED)
def test_properties_of_lines_are_matplotlibs(draw):
    line = next(
        line
        for line in draw(lw=3.5, alpha=0.5).get_lines()
        if line.get_alpha() == 0.5 and line.get_linewidth() == 3.5
    )
    assert len(line.get_xdata()) > 0


def test_a_new_figure_has_the_size_and_the_lines_that_are_set():
    assert tuple(so.plot.trajectories(wide).figure.get_size_inches()) == (5, 3.6)
    usual = so.plot.trajectories(wide).get_lines()[0].get_linewidth()
    with mpl.rc_context({"figure.figsize": (3.3, 2.5), "lines.linewidth": 3.0}):
        ax = so.plot.trajectories(wide)
        assert ax.get_lines()[0].get_linewidth() == 2 * usual  # 3 in place of 1.5
        assert tuple(ax.figure.get_size_inches()) == (3.3, 2.5)
        panels = so.plot.portraits(wide)
    assert panels[0].figure.get_figwidth() == pytest.approx(3.3)
    assert panels[0].get_subplotspec().get_gridspec().ncols == 2


@pytest.mark.parametrize("width", [3.3, 5.0])
def test_a_legend_of_many_entries_covers_no_curve(width):
    with mpl.rc_context({"figure.figsize": (width, 2.5), "font.size": 8}):
        ax = so.plot.trajectories(wide)
    ax.figure.canvas.draw()
    legend, axes, figure = (
        z.get_window_extent() for z in (ax.get_legend(), ax, ax.figure)
    )
    assert not legend.overlaps(axes)
    below = legend.y1 <= ax.xaxis.label.get_window_extent().y0
    assert below == (width < 4)
    assert figure.x0 <= legend.x0 and legend.x1 <= figure.x1 and figure.y0 <= legend.y0
    assert axes.width > 0.6 * figure.width


def test_many_points_make_small_vector_files():
    x = np.cos(np.linspace(0, 1300, 100_000))[:, None]
    x = x + 0.01 * np.random.default_rng(0).random(x.shape)  # matplotlib drops less
    for draw in (
        lambda **k: so.plot.phase_portrait(x, x[::-1].copy(), **k),
        lambda **k: so.plot.trajectories(np.arange(100_000), x, **k),
    ):
        sizes = []
        for options in ({}, {"rasterized": False}):
            file = io.BytesIO()
            draw(**options).figure.savefig(file, format="pdf")
            sizes.append(len(file.getvalue()))
        assert sizes[0] < min(200_000, sizes[1] / 2)
    few = so.plot.phase_portrait(x[:1000], x[:1000])
    assert not any(line.get_rasterized() for line in few.get_lines())


def test_time_is_called_what_the_user_calls_it():
    assert so.plot.trajectories(wide, time="layer").get_xlabel() == "layer"
    one = so.odeint(spring, (torch.ones(1), None), t)
    named = so.plot.energy(one, lambda x, v: (x**2 + v**2).sum(-1), time="time t")
    assert named.get_xlabel() == "time t"
    ax = so.plot.space(one, ("t", 0, "v0"), time="seconds")
    assert ax.get_xlabel() == "seconds"


def test_less_than_a_decade_of_work_has_legible_numbers():
    ax = so.plot.work_precision({"verlet": ([10, 20, 40, 80], [1, 1e-2, 1e-4, 1e-6])})
    ax.figure.canvas.draw()
    shown = [z.get_text() for z in ax.get_xticklabels(which="both") if z.get_text()]
    assert {"10", "20", "50"} <= {*shown}
    assert {label[0] for label in shown} == {*"125"}  # 3, 4 and 6 would overlap
    plt.close("all")
