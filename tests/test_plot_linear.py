"""Plots of the linear theory show the numbers they are given."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from secondorder.plot import linear
from secondorder.representability import Continuous, Discrete

theta = np.linspace(-40, 2, 50)
m, layers = Continuous(1.0), Discrete(4, 0.9)
DRAW = {
    "response_curve": lambda ax: linear.response_curve(
        theta, m.response(theta), ax, threshold=m.threshold, minimiser=m.minimiser
    ),
    "threshold_curve": lambda ax: linear.threshold_curve([0.1, 1], [-0.01, -0.6], ax),
    "spectrum": lambda ax: linear.spectrum([-1.0, 1j, -1j], -0.6, ax),
    "discrete_branches": lambda ax: linear.discrete_branches(
        theta,
        layers.response(theta),
        layers.critical_points,
        layers.critical_values,
        ax,
    ),
    "representable_probability": lambda ax: linear.representable_probability(
        [0.1, 1], {"d = 2": [0.4, 0.9]}, ax, first_order={"d = 2": 0.4}, draws=10
    ),
    "training_curves": lambda ax: linear.training_curves(
        {"first": [2.0, 1.1], "second": [2.0, 0.4]}, {"first": 1.0, "second": 0.0}, ax
    ),
}


@pytest.fixture(autouse=True)
def close_figures():
    plt.close("all")
    yield
    plt.close("all")


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_a_plot_returns_the_axes_it_drew_into(draw):
    fig, ax = plt.subplots()
    assert draw(ax) is ax and plt.get_fignums() == [fig.number]
    assert ax.get_xlabel() and ax.get_ylabel() and ax.has_data()
    fig.canvas.draw()
    assert draw(None).figure is not fig


def test_every_plot_is_exported_and_tried():
    assert set(linear.__all__) == set(DRAW)


def test_response_curves_of_several_models_differ_in_more_than_colour():
    _, ax = plt.subplots()
    for k in range(3):
        linear.response_curve(theta, m.response(theta) + k, ax, label=str(k))
    lines = [line for line in ax.get_lines() if line.get_gid() == "response"]
    assert len({line.get_color() for line in lines}) == 3
    assert len(ax.get_legend().get_texts()) == 3


def test_a_minimum_outside_the_picture_is_not_marked():
    inside = DRAW["response_curve"](None)
    outside = linear.response_curve(
        theta, theta, threshold=m.threshold, minimiser=-100.0
    )
    assert len(inside.texts) == 1 and not outside.texts


@pytest.mark.parametrize(
    "values, bad",
    [
        ([-1.0, 2.0], 1),
        ([-1.0, -1.0, 2.0], 0),
        ([-1.0, -1.0, -1.0], 3),
        ([-0.5, -0.1], 0),
        ([-1 + 0.5j, -1 - 0.5j], 0),
        (np.diag([-1.0, 2.0]), 1),
        (torch.diag(torch.tensor([-1.0, -2.0])), 2),
    ],
)
def test_spectrum_marks_unpaired_eigenvalues_below_the_threshold(values, bad):
    texts = linear.spectrum(values, m.threshold).get_legend().get_texts()
    assert texts[-1].get_text() == f"out of reach ({bad})"


def test_spectrum_takes_the_verdict_from_outside_too():
    ax = linear.spectrum([-1.0, -1.0], m.threshold, bad=[True, True])  # a Jordan block
    assert ax.get_legend().get_texts()[-1].get_text() == "out of reach (2)"


def test_branches_of_the_polynomial_join_at_the_critical_points():
    ax = DRAW["discrete_branches"](None)
    ends = [line.get_xydata()[-1] for line in ax.get_lines()[:3]]
    np.testing.assert_allclose(np.array(ends)[:, 0], layers.critical_points)
    np.testing.assert_allclose(np.array(ends)[:, 1], layers.critical_values)


@pytest.mark.parametrize(
    "draw, name",
    [
        (lambda: linear.response_curve([1, 2], [1]), "`response`"),
        (lambda: linear.threshold_curve([1, 2], [[1, 2]]), "`threshold`"),
        (lambda: linear.spectrum(np.zeros((2, 3))), "`eigenvalues`"),
        (lambda: linear.spectrum([1.0], bad=[True, False]), "`bad`"),
        (lambda: linear.discrete_branches([1], [1], [1, 2], [1]), "`critical_values`"),
        (lambda: linear.representable_probability([1], {"a": [1, 2]}), "probability"),
        (lambda: linear.training_curves({"a": [1]}, {"b": 1}), "`floors`"),
    ],
)
def test_bad_data_raise_with_the_name(draw, name):
    with pytest.raises(ValueError, match=name):
        draw()
