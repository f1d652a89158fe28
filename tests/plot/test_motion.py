"""Trajectories and phase planes show the numbers and the field they are given."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

import secondorder as so

t = torch.linspace(0, 1, 11)
x = torch.linspace(-1, 1, 5) * torch.cos(t).unsqueeze(1)  # (11, 5)
v = -torch.linspace(-1, 1, 5) * torch.sin(t).unsqueeze(1)
spring = so.Newton(lambda t, x: -4 * x, damping=0.5)


def test_trajectories_draw_every_curve_of_any_shape():
    for shape in ((11, 5), (11, 5, 1)):
        ax = so.plot.trajectories(t, x.reshape(shape), label="paths")
        lines = ax.get_lines()
        assert len(lines) == 5
        for line, curve in zip(lines, x.T, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), curve.double())
        assert len(ax.get_legend().get_texts()) == 1


def test_colours_follow_the_starting_point_not_the_order():
    colours = [line.get_color() for line in so.plot.trajectories(t, x).get_lines()]
    mixed = x[:, [3, 0, 4, 2, 1]]
    shuffled = [line.get_color() for line in so.plot.trajectories(t, mixed).get_lines()]
    for old, new in enumerate([3, 0, 4, 2, 1]):
        np.testing.assert_array_equal(shuffled[old], colours[new])
    one = so.plot.trajectories(t, x, color="k").get_lines()
    assert {line.get_color() for line in one} == {"k"}


def test_tensors_that_need_gradients_can_be_drawn():
    so.plot.trajectories(t, x.clone().requires_grad_())


def test_arrows_follow_the_field_and_have_equal_length_on_paper():
    ax = so.plot.vector_field(spring, (-1, 1), (-4, 4), points=7)
    (arrows,) = (c for c in ax.collections if isinstance(c, mpl.quiver.Quiver))
    x, v = arrows.XY.T
    a = -4 * x - 0.5 * v  # x'' of the spring, m = 1
    moving = np.hypot(v, a) > 1e-9
    cross = arrows.U * a - arrows.V * v
    np.testing.assert_allclose(cross[moving], 0, atol=1e-6)
    assert (arrows.U * v + arrows.V * a)[moving].min() > 0
    length = np.hypot(arrows.U / 2, arrows.V / 8)
    np.testing.assert_allclose(length[moving], length[moving][0], rtol=1e-6)


def test_nullclines_are_where_position_and_velocity_stand_still():
    ax = so.plot.vector_field(spring, (-1, 1), (-4, 4))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["ẋ = 0", "v̇ = 0"]
    still = [c for c in ax.collections if isinstance(c, mpl.contour.ContourSet)]
    for contour, residual in zip(
        still, (lambda x, v: v, lambda x, v: -4 * x - 0.5 * v), strict=True
    ):
        points = np.concatenate([path.vertices for path in contour.get_paths()])
        np.testing.assert_allclose(residual(*points.T), 0, atol=1e-6)  # float32
    plain = so.plot.vector_field(spring, (-1, 1), (-4, 4), nullclines=False)
    assert plain.get_legend() is None


def test_a_field_is_drawn_at_the_time_asked_for_and_in_its_own_dtype():
    seen = []

    def force(t, x):
        seen.append((t.item(), x.dtype))
        return t - x

    weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    so.plot.vector_field(so.SecondOrder(force, weight), (-1, 1), (-1, 1), t=2.0)
    assert set(seen) == {(2.0, torch.float64)}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: so.plot.trajectories(t, x[:-1]), "x"),
        (lambda: so.plot.phase_portrait(x, v[:-1]), "v"),
        (lambda: so.plot.phase_portrait(x, v[:, :2]), "x"),
        (lambda: so.plot.vector_field(spring, (1, -1), (-1, 1)), "xlim"),
        (lambda: so.plot.vector_field(spring, (-1, 1), (1, 1)), "vlim"),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"`{name}"):
        call()


def test_a_system_of_two_coordinates_has_no_phase_plane():
    plane = so.Newton(lambda t, x: x @ torch.ones(2, 2))
    with pytest.raises((ValueError, RuntimeError)):
        so.plot.vector_field(plane, (-1, 1), (-1, 1))
