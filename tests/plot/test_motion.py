"""Trajectories and phase planes show the numbers and the field they are given."""

from unittest import mock

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


# -- states of several coordinates ----------------------------------------------------

D = torch.float64
kepler = so.Newton(lambda t, x: -x / (x * x).sum(-1, keepdim=True) ** 1.5)
year = torch.linspace(0, 2 * torch.pi, 101, dtype=D)
start = torch.tensor([0.5, 0.0], dtype=D), torch.tensor([0.0, 3**0.5], dtype=D)


def orbit(*batch):
    """A Kepler orbit of eccentricity 1/2, once around, for each of a batch."""
    state = tuple(z.expand(*batch, 2) for z in start)
    return so.odeint(kepler, state, year, method="blanes_moan6")


def paths(ax, n=101):
    """The lines of a picture that have as many points as a path."""
    return [line for line in ax.get_lines() if len(line.get_xdata()) == n]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def has_field(ax):
    return any(isinstance(c, mpl.quiver.Quiver) for c in ax.collections)


def test_a_kepler_orbit_is_one_closed_curve_in_its_plane():
    sol = orbit()
    for given in (sol, sol.x, sol.x.numpy(), sol.x.unsqueeze(1)):
        ax = so.plot.plane(given)
        (line,) = paths(ax)
        np.testing.assert_array_equal(line.get_xydata(), sol.x.reshape(-1, 2))
        np.testing.assert_allclose(*line.get_xydata()[[0, -1]], atol=1e-5)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x₁", "x₂")
    (turned,) = paths(so.plot.plane(sol, (1, np.int64(-2))))
    np.testing.assert_array_equal(turned.get_xydata(), sol.x[:, [1, 0]])
    assert len(paths(so.plot.plane(orbit(2, 3)))) == 6


def test_a_unit_of_a_plane_is_as_long_across_as_up_unless_that_hides_it():
    square = so.plot.plane(orbit())
    thin = so.plot.plane(orbit().x * torch.tensor([1.0, 1e-9]))
    for ax, aspect in ((square, 1.0), (thin, "auto")):
        ax.figure.canvas.draw()
        assert ax.get_aspect() == aspect


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda: so.plot.plane(x[:, 0]), ValueError, "x"),
        (lambda: so.plot.plane(x.unsqueeze(2)), ValueError, "x"),
        (lambda: so.plot.plane(orbit(), (0, 2)), ValueError, "axes"),
        (lambda: so.plot.plane(orbit(), (1, -1)), ValueError, "axes"),
        (lambda: so.plot.plane(orbit(), (0, 1, 0)), ValueError, "axes"),
        (lambda: so.plot.plane(orbit(), 1), ValueError, "axes"),
        (lambda: so.plot.plane(orbit(), (0, True)), TypeError, "axes"),
        (lambda: so.plot.plane(orbit(), (0, 0.5)), TypeError, "axes"),
    ],
)
def test_a_plane_needs_two_coordinates(call, error, name):
    with pytest.raises(error, match=f"`{name}"):
        call()


def test_coordinates_have_styles_and_names_and_samples_have_colours():
    sol = orbit(3)
    x = sol.x + torch.arange(3)[:, None]  # three starts
    ax = so.plot.trajectories(sol.t, x)
    lines = paths(ax)
    assert len(lines) == 6
    for k, line in enumerate(lines):
        np.testing.assert_array_equal(line.get_ydata(), x[:, k // 2, k % 2])
        assert line.get_linestyle() == ("-", "--")[k % 2]
        assert np.array_equal(line.get_color(), lines[k - k % 2].get_color())
    assert len({tuple(line.get_color()) for line in lines}) == 3
    assert legend_of(ax) == ["x₁", "x₂"]
    assert legend_of(so.plot.trajectories(sol, label="orbit")) == [
        "orbit, x₁",
        "orbit, x₂",
    ]


def test_a_dozen_coordinates_can_be_told_apart_and_a_thousand_are_refused():
    x = torch.randn(len(year), 1, 1000)
    lines = paths(so.plot.trajectories(year, x[..., :12]))
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == 12
    figures = len(mpl.pyplot.get_fignums())
    with pytest.raises(ValueError, match="`x`.*`*coordinate="):
        so.plot.trajectories(year, x)
    assert len(mpl.pyplot.get_fignums()) == figures  # nothing empty is left


def test_one_coordinate_or_some_can_be_chosen():
    sol = orbit(3)
    one = so.plot.trajectories(sol, coordinate=1, label="bodies")
    assert one.get_ylabel() == "position x₂(t)" and legend_of(one) == ["bodies"]
    for line, curve in zip(paths(one), sol.x[..., 1].T, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), curve)
        assert line.get_linestyle() == "-"
    both = so.plot.trajectories(sol, coordinate=[1, 0])
    assert legend_of(both) == ["x₂", "x₁"] and len(paths(both)) == 6
    for bad, error in ((2, ValueError), (-3, ValueError), (True, TypeError)):
        for plot in (so.plot.trajectories, so.plot.phase_portrait):
            with pytest.raises(error, match="`coordinate`"):
                plot(sol, coordinate=bad)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3)])
def test_a_phase_portrait_of_several_coordinates_asks_for_one(batch):
    sol = orbit(*batch)
    how = {"coordinates": True} if len(batch) == 0 else {}
    for call in (
        lambda **more: so.plot.phase_portrait(sol, **more),
        lambda **more: so.plot.phase_portrait(sol.x, sol.v, **how, **more),
        lambda **more: so.plot.phase_portrait(sol.x, sol.v, system=kepler, **more),
    ):
        with pytest.raises(ValueError, match="`x`.*coordinate=.*so.plot.plane"):
            call()
    ax = so.plot.phase_portrait(sol, coordinate=1, system=kepler)
    shape = (len(year), -1, 2)
    wanted = torch.stack([sol.x.reshape(shape)[..., 1], sol.v.reshape(shape)[..., 1]])
    found = [line.get_xydata().T for line in paths(ax)]
    np.testing.assert_array_equal(np.stack(found, -1), wanted)
    assert not has_field(ax)  # of the four-dimensional one
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("position x₂", "velocity v₂")


def test_two_axes_are_samples_unless_the_system_or_the_caller_says_otherwise():
    """(n, k) of arrays: the springs do not feel each other, the two of Kepler do."""
    ax = so.plot.phase_portrait(x, v, system=spring)
    assert len(paths(ax, len(t))) == 5 and has_field(ax)
    assert len(paths(so.plot.phase_portrait(x, v), len(t))) == 5
    net = so.SecondOrder(so.Autonomous(torch.nn.Linear(1, 1)))
    assert has_field(so.plot.phase_portrait(x, v, system=net))
    pair = so.SecondOrder(so.Autonomous(torch.nn.Linear(5, 5)))
    masses = so.Newton(lambda t, x: -x, mass=torch.arange(1.0, 6.0))
    for system in (pair, masses):
        with pytest.raises(ValueError, match="`x`.*5 coordinates"):
            so.plot.phase_portrait(x, v, system=system)
    with pytest.raises(ValueError, match="5 coordinates"):
        so.plot.phase_portrait(x, v, coordinates=True)
    assert legend_of(so.plot.trajectories(t, x, coordinates=True))[-1] == "x₅"
    cube = torch.zeros(11, 2, 3)  # said to be samples
    assert len(paths(so.plot.trajectories(t, cube, coordinates=False), 11)) == 6
    with pytest.raises(ValueError, match="`coordinate`.*`coordinates=False`"):
        so.plot.trajectories(t, x, coordinates=False, coordinate=1)


def test_a_solution_takes_the_place_of_its_arrays_and_axes_may_follow():
    sol = so.odeint(spring, (torch.tensor([[1.0], [2.0]]), None), t)
    for plot, arrays in (
        (so.plot.trajectories, (sol.t, sol.x)),
        (so.plot.phase_portrait, (sol.x, sol.v)),
    ):
        _, ax = mpl.pyplot.subplots()
        assert plot(sol, ax) is ax
        for line, same in zip(paths(ax, 11), paths(plot(*arrays), 11), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())
        with pytest.raises(TypeError, match="left out"):
            plot(sol, sol.v)
        with pytest.raises(TypeError, match="missing"):
            plot(sol.x)
    motion = so.data.oscillator("damped", t, samples=3)
    assert len(paths(so.plot.trajectories(motion), 11)) == 3


def test_samples_with_times_of_their_own_are_drawn_over_them():
    grids = torch.stack([t, 2 * t])
    for d in ((), (1,), (2,)):
        sol = so.odeint(spring, (torch.ones(2, *d), None), grids)
        lines = paths(so.plot.trajectories(sol), 11)
        assert len(lines) == 2 * max(d, default=1)
        for k, line in enumerate(lines):
            np.testing.assert_array_equal(
                line.get_xdata(), grids[k // max(d, default=1)].double()
            )
    assert has_field(so.plot.phase_portrait(sol, system=spring, coordinates=False))
    with pytest.raises(ValueError, match="`t`"):
        so.plot.trajectories(grids, x)


def test_a_state_of_several_parts_is_drawn_part_by_part():
    parts = mock.Mock(spec=["t", "x", "v"], t=t[:2], x=(x[:2], x[:2]), v=(v, v))
    for plot in (so.plot.trajectories, so.plot.phase_portrait, so.plot.plane):
        with pytest.raises(ValueError, match="`x`.*parts"):
            plot(parts)


def test_lines_take_the_properties_of_matplotlib():
    for call in (
        lambda **style: so.plot.trajectories(t, x, **style),
        lambda **style: so.plot.phase_portrait(x, v, **style),
        lambda **style: so.plot.plane(x, **style),
    ):
        for line in paths(call(lw=3, alpha=0.5, c="k", linestyle=":"), 11):
            assert line.get_linewidth() == 3 and line.get_alpha() == 0.5
            assert line.get_color() == "k" and line.get_linestyle() == ":"
        with pytest.raises(AttributeError, match="colour"):
            call(colour="k")
    ax = so.plot.vector_field(spring, (-1, 1), (-1, 1), alpha=0.3)
    assert ax.collections[0].get_alpha() == 0.3


def test_complex_numbers_are_not_drawn_by_half():
    with pytest.raises(ValueError, match="`x`.*real"):
        so.plot.trajectories(t, x * 1j)


# -- what is not finite ---------------------------------------------------------------

nan, inf = float("nan"), float("inf")
HOLES = (nan, inf, -inf, 1e308)  # the last one overflows the limits of an axis


@pytest.mark.parametrize("hole", HOLES)
def test_what_is_not_finite_is_a_gap(hole):
    holed, fast = x.double().unsqueeze(2).clone(), v.double().unsqueeze(2).clone()
    holed[3, 1], holed[:, 0], fast[-1, 2], fast[0, 3] = hole, hole, hole, hole
    two = torch.cat([holed, fast], 2)
    for ax, n in (
        (so.plot.trajectories(t, holed), 5),
        (so.plot.phase_portrait(holed, fast), 5),
        (so.plot.phase_portrait(holed, fast, system=spring), 5),
        (so.plot.phase_portrait(two, two, coordinate=1), 5),
        (so.plot.plane(two), 5),
        (so.plot.trajectories(torch.where(t == t[4], nan, t.double()), holed), 5),
    ):
        ax.figure.canvas.draw()
        assert np.abs([*ax.get_xlim(), *ax.get_ylim()]).max() < 4
        lines = paths(ax, len(t))
        assert len(lines) == n
        for line in lines:
            assert not np.isinf(line.get_xydata()).any()
    seen = np.isfinite(paths(so.plot.trajectories(t, holed), 11)[1].get_ydata())
    assert seen.tolist() == [k != 3 for k in range(11)]


@pytest.mark.parametrize("hole", HOLES)
def test_where_nothing_is_finite_there_is_nothing_to_draw(hole):
    none = torch.full((11, 5), hole, dtype=D)
    for call, name in (
        (lambda: so.plot.trajectories(t, none), "x"),
        (lambda: so.plot.trajectories(none[:, 0], x), "t"),
        (lambda: so.plot.phase_portrait(none, v), "x"),
        (lambda: so.plot.phase_portrait(x, none), "v"),
        (lambda: so.plot.phase_portrait(x, none, system=spring), "v"),
        (lambda: so.plot.plane(none), "x"),
        (lambda: so.plot.vector_field(spring, (hole, 1), (-1, 1)), "xlim"),
        (lambda: so.plot.vector_field(spring, (-1, 1), (0, hole)), "vlim"),
        (lambda: so.plot.vector_field(hole_field(hole), (-1, 1), (0, 1)), "system"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            call()
    assert not mpl.pyplot.get_fignums()  # nothing empty is left
    half = torch.where(torch.arange(11)[:, None] < 6, hole, x.double())
    with pytest.raises(ValueError, match="`x` and `v`"):
        so.plot.phase_portrait(half, half.flip(0)[:, [0]] * torch.ones(5))


def hole_field(hole):
    return so.Newton(lambda t, x: torch.full_like(x, hole) * 1e308)


def test_a_field_with_a_pole_is_drawn_around_it():
    for pole in (lambda t, x: -1 / x, lambda t, x: x.log(), lambda t, x: 1e30 * x):
        ax = so.plot.vector_field(so.Newton(pole), (-1, 1), (-1, 1), points=5)
        ax.figure.canvas.draw()
        (arrows,) = (c for c in ax.collections if isinstance(c, mpl.quiver.Quiver))
        assert np.isfinite([arrows.U, arrows.V]).all() and len(arrows.U) >= 10


# -- systems without a phase plane ----------------------------------------------------


def broken(t, x):
    raise IndexError("too few coordinates")


@pytest.mark.parametrize(
    "system",
    [
        so.Newton(lambda t, x: x @ torch.ones(2, 2)),  # raises in the field
        so.Newton(lambda t, x: torch.stack([x[..., 1], -x[..., 0]], -1)),
        so.Newton(broken),
        so.SecondOrder(so.Autonomous(torch.nn.Linear(2, 2))),
        so.SecondOrder(lambda t, x: -x, epsilon=torch.tensor([1.0, 2.0])),
        so.Newton(lambda t, x: -x, mass=2 * torch.eye(2)),
        so.Newton(lambda t, x: x.expand(-1, 3)),  # returns more
        so.Newton(lambda t, x: x[:-1]),  # returns less
        so.Newton(lambda t, x: x.squeeze(-1)),
        so.Newton(lambda t, x: None),
        so.Newton(lambda t, x: x * 1j),
        so.Newton(lambda t, x, u: u - x),  # wants more
        torch.nn.Linear(1, 1),
        lambda t, state: state[0],
        lambda t, state: None,
        None,
    ],
)
def test_a_system_that_is_not_of_one_coordinate_has_no_field(system):
    with pytest.raises(ValueError, match="`system` must map states of one coordinate"):
        so.plot.vector_field(system, (-1, 1), (-1, 1))
    if system is not None:
        with pytest.raises(ValueError):
            so.plot.phase_portrait(x[..., None], v[..., None], system=system)
    assert not mpl.pyplot.get_fignums()


def test_the_error_says_what_the_system_said():
    with pytest.raises(ValueError, match="IndexError: too few coordinates") as caught:
        so.plot.vector_field(so.Newton(broken), (-1, 1), (-1, 1))
    assert isinstance(caught.value.__cause__, IndexError)


@pytest.mark.parametrize(
    ("how", "error", "name"),
    [
        ({"points": 1}, ValueError, "points"),
        ({"points": True}, TypeError, "points"),
        ({"points": 7.5}, TypeError, "points"),
        ({"xlim": 3}, ValueError, "xlim"),
        ({"vlim": (0, 1, 2)}, ValueError, "vlim"),
    ],
)
def test_bad_settings_of_a_field_are_named(how, error, name):
    with pytest.raises(error, match=f"`{name}`"):
        so.plot.vector_field(spring, **{"xlim": (-1, 1), "vlim": (-1, 1)} | how)


def test_settings_may_be_numpy_numbers_and_tensors_and_systems_functions():
    lim = torch.tensor([-1.0, 1.0])
    ax = so.plot.vector_field(
        lambda t, s: (s[1], -s[0]), lim, np.array([-1, 1]), points=np.int64(5)
    )
    assert len(ax.collections[0].U) == 25
