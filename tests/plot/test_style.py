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
        lambda **k: so.plot.losses(2 + x[:, 0], **k),
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


LOGARITHMIC = {
    "losses": lambda x: so.plot.losses(x).yaxis,
    "spread": lambda x: so.plot.spread(np.arange(9), [x, x], log=True).yaxis,
    "training_curves": lambda x: so.plot.training_curves({"a": x}).yaxis,
    "memory": lambda x: so.plot.memory(np.arange(1, 10), {"a": x * 2**20}).yaxis,
    "work_precision": lambda x: so.plot.work_precision({"a": (x, x)}).xaxis,
    "threshold_curve": lambda x: so.plot.threshold_curve(x, -x / x[-1]).xaxis,
    "representable_probability": lambda x: (
        so.plot.representable_probability(x, {"a": x / x[-1]}).xaxis
    ),
}


@pytest.mark.parametrize("draw", LOGARITHMIC.values(), ids=LOGARITHMIC)
@pytest.mark.parametrize("span", [1.3, 8.0, 40.0])
@pytest.mark.parametrize("start", [0.31, 2e-6])
def test_numbers_beside_a_logarithmic_axis_are_there_and_do_not_overlap(
    draw, span, start
):
    with mpl.rc_context({"figure.figsize": (3.3, 2.4), "font.size": 8}):
        axis = draw(np.geomspace(start, span * start, 9))
        axis.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    shown = [
        label.get_window_extent()
        for where, label in zip(
            axis.get_ticklocs(minor=False), axis.get_ticklabels(), strict=True
        )
        if label.get_text() and low <= where <= high
    ]
    assert len(shown) >= 2
    assert not any(a.overlaps(b) for a, b in zip(shown, shown[1:], strict=False))
    assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))


def test_labels_of_a_logarithmic_axis_are_the_numbers_and_follow_the_limits():
    ax = so.plot.losses([1.0, 0.1, 1e-3, 1e-6])
    for limits in ((1e-7, 2), (0.3, 4), (0.31, 0.43), (2e-6, 9e-6)):
        ax.set_ylim(*limits)
        ax.figure.canvas.draw()
        for where, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
            text = label.get_text().translate(
                str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
            )
            text = text.replace("$\\mathdefault{10^{", "1e").removesuffix("}}$")
            text = text.replace("·10", "e").replace("10-", "1e-").replace("−", "-")
            assert float(text) == pytest.approx(where, rel=1e-9)
    plt.close("all")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: so.plot.losses([1.0, 0.5]),
        lambda: so.plot.spread([0, 1], [[1.0, 2.0], [2.0, 2.0]]),
        lambda: so.plot.training_curves({"a": [1.0, 0.5]}, {"a": 0.2}),
        lambda: so.plot.representable_probability([0.1, 1], {"a": [0.4, 0.9]}),
        lambda: so.plot.spectrum([-1.0, 2.0], -0.6),
        STYLED["discrete_branches"],
        STYLED["response_curve"],
        STYLED["threshold_curve"],
        lambda: so.plot.memory([1, 2], {"a": [1.0, 2.0]}),
        lambda: so.plot.energy(wide, lambda x, v: (x**2 + v**2).sum(-1)),
        lambda: so.plot.poincare(wide, coordinate=1, period=1.0),
    ],
)
def test_all_lines_and_markers_grow_with_the_settings(draw):
    sizes = []
    for factor in (1, 2):
        usual = mpl.rcParamsDefault
        names = ("lines.linewidth", "lines.markersize")
        with mpl.rc_context({name: factor * usual[name] for name in names}):
            lines = draw().get_lines()
        sizes.append([(ln.get_linewidth(), ln.get_markersize()) for ln in lines])
    np.testing.assert_allclose(sizes[1], 2 * np.array(sizes[0]))
