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


@pytest.mark.parametrize("hole", [float("nan"), float("inf"), 0.0, -1.0])
def test_what_has_no_place_on_logarithmic_axes_is_a_gap(hole):
    ax = so.plot.work_precision({"m": ([1, 10, 100, 200], [1.0, 0.1, 1e-3, hole])})
    assert ax.get_legend().get_texts()[0].get_text() == "m (slope −2.0)"
    kept = so.plot.memory([1, 2, 3], {"a": [2**20, hole, 2**21], "b": [1, 1, 2]})
    for picture in (ax, kept):
        picture.figure.canvas.draw()
        assert np.isfinite([*picture.get_xlim(), *picture.get_ylim()]).all()
    np.testing.assert_array_equal(kept.get_lines()[0].get_ydata(), [1, np.nan, 2])


def test_a_slope_needs_two_points_that_differ():
    for work, errors in (([1, 2], [1.0, 0.0]), ([7, 7], [1.0, 0.5]), ([3], [1.0])):
        ax = so.plot.work_precision({"m": (work, errors)})
        assert ax.get_legend().get_texts()[0].get_text() == "m"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda none: so.plot.memory([1, 2], {"a": none}), "saved"),
        (lambda none: so.plot.memory(none, {"a": [1, 2]}), "depth"),
        (lambda none: so.plot.work_precision({"a": ([1, 2], none)}), "results"),
        (lambda none: so.plot.work_precision({"a": (none, [1, 2])}), "evaluations"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_where_nothing_is_finite_there_is_nothing_to_draw(call, name, value):
    with pytest.raises(ValueError, match=f"`{name}"):
        call([value, value])


def test_a_route_that_keeps_nothing_has_no_curve_and_no_error():
    ax = so.plot.memory([1, 2], {"backprop": [8, 16], "nothing": [0, 0]})
    ax.figure.canvas.draw()
    assert len(ax.get_legend().get_texts()) == 2


def test_lines_take_the_properties_of_matplotlib():
    for ax in (
        so.plot.memory([1, 2], {"a": [1.0, 2.0]}, lw=3, marker="x"),
        so.plot.work_precision({"a": ([1, 2], [1.0, 0.5])}, lw=3, marker="x"),
    ):
        (line,) = ax.get_lines()
        assert (line.get_linewidth(), line.get_marker()) == (3, "x")
