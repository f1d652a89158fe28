"""Plots of memory and of error against work show the numbers they are given."""

import numpy as np
import pytest

import secondorder as so
from secondorder.plot.style import COLORS


def test_the_slope_is_read_off_the_last_two_points():
    ax = so.plot.work_precision({"m": ([1, 10, 100], [1.0, 0.5, 0.5e-3])})
    assert ax.get_legend().get_texts()[0].get_text() == "m (slope −3.0)"


def test_memory_is_drawn_in_mebibytes():
    ax = so.plot.memory([1, 2], {"backprop": [2**20, 2**21]})
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [1.0, 2.0])


def test_curves_are_told_apart_by_marker_and_colour():
    saved = {str(i): [1.0, 2.0] for i in range(10)}
    lines = so.plot.memory([1, 2], saved).get_lines()
    looks = {(ln.get_color(), ln.get_marker(), ln.get_linestyle()) for ln in lines}
    assert len(looks) == 10
    assert len({ln.get_marker() for ln in lines[: len(COLORS)]}) == len(COLORS)


def test_hyphens_of_a_name_are_kept_beside_the_minus_of_the_slope():
    ax = so.plot.work_precision({"two-step": ([1, 10], [1.0, 0.1])})
    assert ax.get_legend().get_texts()[0].get_text() == "two-step (slope −1.0)"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: so.plot.memory([1, 2], {"a": [1.0]}), "saved"),
        (lambda: so.plot.work_precision({"a": ([1, 2], [1.0])}), "results"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"`{name}"):
        call()
