"""Responses, thresholds and branches are drawn where the numbers say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from secondorder.plot import linear
from secondorder.representability import Continuous, Discrete

theta = np.linspace(-40, 2, 50)
m, layers = Continuous(1.0), Discrete(4, 0.9)


def test_response_curves_of_several_models_differ_in_more_than_colour():
    _, ax = plt.subplots()
    for k in range(3):
        linear.response_curve(theta, m.response(theta) + k, ax, label=str(k))
    lines = [line for line in ax.get_lines() if line.get_gid() == "response"]
    assert len({line.get_color() for line in lines}) == 3
    assert len(ax.get_legend().get_texts()) == 3


def test_a_minimum_outside_the_picture_is_not_marked():
    inside, outside = (
        linear.response_curve(theta, theta, threshold=m.threshold, minimiser=place)
        for place in (m.minimiser, -100.0)
    )
    assert len(inside.texts) == 1 and not outside.texts


def test_a_model_without_a_threshold_is_drawn_without_one():
    odd = Discrete(5, 0.3)  # reaches everything: λ = −inf
    ax = linear.response_curve(
        theta, odd.response(theta), threshold=odd.threshold, minimiser=odd.minimiser
    )
    assert not ax.texts and not ax.patches


def test_branches_of_the_polynomial_join_at_the_critical_points():
    ax = linear.discrete_branches(
        theta, layers.response(theta), layers.critical_points, layers.critical_values
    )
    ends = [line.get_xydata()[-1] for line in ax.get_lines()[:3]]
    np.testing.assert_allclose(np.array(ends)[:, 0], layers.critical_points)
    np.testing.assert_allclose(np.array(ends)[:, 1], layers.critical_values)


@pytest.mark.parametrize(
    "draw, name",
    [
        (lambda: linear.response_curve([1, 2], [1]), "`response`"),
        (lambda: linear.threshold_curve([1, 2], [[1, 2]]), "`threshold`"),
        (lambda: linear.discrete_branches([1], [1], [1, 2], [1]), "`critical_values`"),
    ],
)
def test_bad_data_raise_with_the_name(draw, name):
    with pytest.raises(ValueError, match=name):
        draw()


def test_labels_of_thresholds_stand_in_the_margin():
    ax = linear.response_curve(
        theta, m.response(theta), threshold=m.threshold, minimiser=m.minimiser
    )
    (text,) = ax.texts
    assert text.xy == (1, m.threshold) and text.xycoords[0] == "axes fraction"


def test_the_fold_shows_real_preimages_that_leave_as_a_pair():
    x = np.linspace(1, -1, 21)
    root = np.sqrt(x + 0j)
    ax = linear.fold(x, np.stack([root, -root], axis=1), minimiser=0.0)
    first, second = (dots.get_offsets() for dots in ax.collections)
    np.testing.assert_allclose(first, -np.asarray(second))
    assert (first[:10, 1] == 0).all() and (first[11:, 0] == 0).all()
    with pytest.raises(ValueError, match="`preimages`"):
        linear.fold(x, root)
