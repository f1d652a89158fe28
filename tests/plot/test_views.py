"""Sections hold the states they should, and panels the coordinates they name."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import secondorder as so

D = torch.float64
spring = so.Newton(lambda t, x: -x)


def solved(system, x, v, t, **options):
    start = tuple(torch.tensor(z, dtype=D) for z in (x, v))
    return so.odeint(system, start, torch.as_tensor(t, dtype=D), **options)


def bare(t, x, v):
    """A solution that knows nothing between its times."""
    return type("Bare", (), {"t": t, "x": x, "v": v})()


T = np.linspace(0, 20, 401)


def points(ax, line=0):
    return ax.get_lines()[line].get_xydata()


# -- Poincaré sections ----------------------------------------------------------------


def test_a_stroboscope_sees_the_state_once_per_period():
    x, v = np.cos(T)[:, None], -np.sin(T)[:, None]
    seen = points(so.plot.poincare(bare(T, x, v), period=1.0, phase=0.25, skip=2))
    times = 0.25 + np.arange(2, 20)
    np.testing.assert_allclose(seen[:, 0], np.cos(times), atol=1e-6)  # h⁴/384
    np.testing.assert_allclose(seen[:, 1], -np.sin(times), atol=1e-4)  # of order h³


def test_a_solution_at_the_periods_alone_is_drawn_as_it_is():
    force = so.Newton(lambda t, x: torch.cos(t) - x**3, damping=0.1)
    sol = solved(force, [[1.0], [0.3]], [[0.0], [0.2]], 2 * np.pi * np.arange(8),
                 step_size=0.1)  # fmt: skip
    ax = so.plot.poincare(sol, period=2 * np.pi)
    for k in range(2):
        np.testing.assert_array_equal(points(ax, k)[:, 0], sol.x[:, k, 0])
        np.testing.assert_array_equal(points(ax, k)[:, 1], sol.v[:, k, 0])


def test_too_few_times_are_refined_or_refused():
    sol = solved(spring, [1.0], [0.0], np.linspace(0, 20, 11), step_size=0.02,
                 method="blanes_moan4")  # fmt: skip
    seen = points(so.plot.poincare(sol, period=1.0))
    np.testing.assert_allclose(seen[:, 0], np.cos(np.arange(21)), atol=2e-3)
    with pytest.raises(ValueError, match="`sol` has too few times"):
        so.plot.poincare(bare(sol.t, sol.x, sol.v), period=1.0)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_section_is_passed_upwards_downwards_or_both(backwards):
    t = T[::-1] if backwards else T
    sol = bare(t, np.sin(t)[:, None], np.cos(t)[:, None])
    here = 0.5
    count = {}
    for direction in (1, -1, 0):
        ax = so.plot.poincare(
            sol, lambda t, x, v: x[..., 0] - here, direction=direction
        )
        seen = points(ax)
        count[direction] = len(seen)
        np.testing.assert_allclose(seen[:, 0], here, atol=1e-9)
        np.testing.assert_allclose(np.abs(seen[:, 1]), 0.75**0.5, atol=1e-4)
        if direction:
            forwards = -direction if backwards else direction
            assert (np.sign(seen[:, 1]) == forwards).all()
    assert count[0] == count[1] + count[-1] == 7  # 20/2π periods


def test_a_section_of_two_coordinates_shows_the_plane_of_the_other():
    # Two springs, ω = 1 and 2: where x₁ rises through 0, x₂ has phase 0 or π.
    springs = so.Newton(lambda t, x: -torch.tensor([1.0, 4.0], dtype=D) * x)
    sol = solved(springs, [0.0, 1.0], [1.0, 0.0], T, method="blanes_moan6")
    section = lambda t, x, v: x[..., 0]  # noqa: E731
    ax = so.plot.poincare(sol, section, coordinate=1)
    np.testing.assert_allclose(points(ax), [[1.0, 0.0]] * 4, atol=1e-3)
    assert ax.get_xlabel() == "position x₂"
    with pytest.raises(ValueError, match="coordinate=0"):
        so.plot.poincare(sol, section)


def test_an_angle_that_jumps_does_not_pass_the_section_and_can_be_wrapped():
    x, v = (2 * T)[:, None], np.full((401, 1), 2.0)
    wrapped = lambda t, x, v: torch.remainder(x[..., 0], 2) - 1  # noqa: E731
    ax = so.plot.poincare(bare(T, x, v), wrapped, direction=0, wrap=4.0)
    seen = np.sort(points(ax)[:, 0])
    np.testing.assert_allclose(seen, np.repeat([-1, 1], 10), atol=1e-9)


def test_a_section_says_what_is_wrong():
    sol = solved(spring, [1.0], [0.0], T)
    beyond = lambda t, x, v: x[..., 0] - 2  # noqa: E731
    with pytest.raises(ValueError, match="`section` is passed by no path"):
        so.plot.poincare(sol, beyond)
    with pytest.raises(ValueError, match="either `section`.* or `period`"):
        so.plot.poincare(sol)
    with pytest.raises(ValueError, match="`period`"):
        so.plot.poincare(sol, period=-1.0)
    with pytest.raises(ValueError, match="one number per state"):
        so.plot.poincare(sol, lambda t, x, v: x.repeat(1, 2))


def test_arrays_will_do_if_it_is_plain_which_axis_holds_coordinates():
    x, v = (np.stack([f(T), 2 * f(T)], axis=1) for f in (np.cos, lambda t: -np.sin(t)))
    ax = so.plot.poincare((T, x[..., None], v[..., None]), period=5.0)
    np.testing.assert_array_equal(points(ax, 1)[:, 0], x[::100, 1])
    one = so.plot.poincare((T, x[:, None], v[:, None]), period=5.0, coordinate=1)
    np.testing.assert_array_equal(points(one)[:, 0], x[::100, 1])
    assert len(so.plot.energy((T, x[..., None], v[..., None]), total).lines) == 2
    with pytest.raises(ValueError, match="paths of one coordinate or one path"):
        so.plot.poincare((T, x, v), period=5.0)
    with pytest.raises(TypeError, match="`sol` must be a Solution"):
        so.plot.poincare(x, period=5.0)


def total(x, v):
    return (x**2 + v**2).sum(-1) / 2


def test_a_time_that_is_there_twice_is_a_jump():
    # A ball on a spring is hit at t = 10, and goes back where it came from.
    before, after = T[:201], 20 - T[200:]
    t = np.concatenate([before, T[200:]])
    x = np.cos(np.concatenate([before, after]))[:, None]
    v = np.concatenate([-np.sin(before), np.sin(after)])[:, None]
    seen = points(so.plot.poincare(bare(t, x, v), lambda t, x, v: x[..., 0]))
    np.testing.assert_allclose(seen, [[0, 1]] * len(seen), atol=1e-3)
    assert len(seen) == 3  # 3π/2, and on the way back 5π/2 and π/2


# -- three dimensions, and one portrait per coordinate --------------------------------


def test_paths_in_space_have_the_axes_asked_for():
    sol = solved(spring, [[1.0], [2.0]], [[0.0], [0.0]], T)
    ax = so.plot.space(sol, ("t", 0, "v0"), color=["r", "b"], lw=3)
    path = ax.get_lines()[2]
    assert (path.get_color(), path.get_linewidth()) == ("b", 3)
    found = path.get_data_3d()
    for got, wanted in zip(found, (sol.t, sol.x[:, 1, 0], sol.v[:, 1, 0]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    names = ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()
    assert names == ("depth t", "position x", "velocity v")
    x = np.random.default_rng(0).normal(size=(9, 4))  # (n, d): one path
    again = plt.figure().add_subplot(projection="3d")
    assert so.plot.space(x, (3, 0, 1), again) is again
    np.testing.assert_array_equal(again.get_lines()[0].get_data_3d()[0], x[:, 3])
    assert again.get_xlabel() == "x₄"
    with pytest.raises(TypeError, match="`ax` must have three dimensions"):
        so.plot.space(x, ax=plt.figure().add_subplot())
    with pytest.raises(ValueError, match="only a Solution has"):
        so.plot.space(x, ("t", 0, 1))
    with pytest.raises(ValueError, match="three different"):
        so.plot.space(x, (0, 1, 1))


def test_each_coordinate_has_its_portrait_and_a_path_one_colour():
    x = np.random.default_rng(0).normal(size=(20, 3, 5))  # 3 paths of 5 coordinates
    panels = so.plot.portraits(x, 2 * x)
    assert [ax.get_xlabel() for ax in panels] == [f"position x{k}" for k in "₁₂₃₄₅"]
    for k, ax in enumerate(panels):
        paths = [line for line in ax.get_lines() if len(line.get_xdata()) == 20]
        for path, one in zip(paths, range(3), strict=True):
            np.testing.assert_array_equal(path.get_xdata(), x[:, one, k])
            np.testing.assert_array_equal(path.get_ydata(), 2 * x[:, one, k])
        same = [line.get_color() for line in paths]
        if k == 0:
            first = same
        assert same == first
    (one,) = so.plot.portraits(x, x, coordinate=2)
    assert one.get_xlabel() == "position x₃"
    assert len(so.plot.portraits(x[:, 0], x[:, 0])) == 5
    assert len(so.plot.portraits(x[:, 0], x[:, 0], coordinates=False)) == 1
    with pytest.raises(ValueError, match="`ax` must be 5 Axes"):
        so.plot.portraits(x, x, plt.figure().subplots(1, 3))
    with pytest.raises(ValueError, match="at most 24"):
        so.plot.portraits(np.ones((4, 30)), np.ones((4, 30)))


# -- decision regions ------------------------------------------------------------------


def mover():
    """A flow that carries all points by (1, 0) in unit time, and a line that cuts."""
    flow = so.SecondOrderODE(
        lambda t, x: torch.tensor([1.0, 0.0]).expand_as(x),
        epsilon=1e-6,
        steps=4,
        method="momentum_exponential",
    )
    cut = torch.nn.Linear(2, 1)
    with torch.no_grad():
        cut.weight.copy_(torch.tensor([[1.0, 0.0]]))
        cut.bias.fill_(-0.5)  # class 1 right of x₁ = 1/2
    return torch.nn.Sequential(flow, torch.nn.Dropout(0.5), cut)


def edge(panel):
    """Where the ground changes its colour along x₁."""
    image = panel.collections[0]
    across = image.get_coordinates()[0, :, 0]
    row = np.asarray(image.get_array()).reshape(121, 121)[60]
    assert set(row) == {0, 1}
    return across[np.flatnonzero(np.diff(row))[0] + 1]


def test_among_states_points_move_and_among_inputs_regions_do():
    x = torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    y = torch.tensor([0, 1, 0])
    model = mover().train()
    panels = so.plot.decision_regions(model, x, y, [0, 0.5, 1], time="depth")
    assert [ax.get_title() for ax in panels] == [
        "depth = 0",
        "depth = 0.5",
        "depth = 1",
    ]
    for moved, ax in zip((0, 0.5, 1), panels, strict=True):
        zeros, ones = (c.get_offsets() for c in ax.collections[1:])
        np.testing.assert_allclose(zeros[:, 0], [moved - 1, moved], atol=1e-5)
        np.testing.assert_allclose(ones[:, 0], [1 + moved], atol=1e-5)
        assert edge(ax) == pytest.approx(0.5, abs=0.03)  # a cell
    for moved, ax in zip(
        (0, 1), so.plot.decision_regions(model, x, y, 2, among="inputs"), strict=True
    ):
        np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 0], [-1, 0])
        assert edge(ax) == pytest.approx(0.5 - moved, abs=0.03)
    assert all(module.training for module in model.modules())


def test_layers_several_classes_and_wider_states():
    torch.manual_seed(0)
    x, y = torch.randn(50, 2), torch.arange(50) % 3
    net = so.MomentumNet([torch.nn.Linear(4, 4) for _ in range(5)])
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), net, torch.nn.Linear(4, 3))
    panels = so.plot.decision_regions(model, x, y, [0, 5], among="inputs")
    assert [ax.get_title() for ax in panels] == ["t = 0", "t = 5"]
    grid = torch.tensor(panels[1].collections[0].get_coordinates()).float()
    centres = (grid[1:, 1:] + grid[:-1, :-1]).reshape(-1, 2) / 2
    with torch.no_grad():
        wanted = model(centres).argmax(1)
    np.testing.assert_array_equal(panels[1].collections[0].get_array().ravel(), wanted)
    with pytest.raises(ValueError, match='among="inputs"'):
        so.plot.decision_regions(model, x, y)
    with pytest.raises(ValueError, match="`depths` must lie between 0 and 5"):
        so.plot.decision_regions(model, x, y, [7], among="inputs")
    with pytest.raises(ValueError, match="`readout` is missing"):
        so.plot.decision_regions(net, x, y)
    with pytest.raises(ValueError, match="one logit"):
        so.plot.decision_regions(mover(), x, y)


def test_the_palette_has_twenty_different_colours():
    assert len({*so.plot.palette(20)}) == 20
    assert so.plot.palette(7) == so.plot.palette(20)[:7]
    with pytest.raises(ValueError, match="`n` must be between"):
        so.plot.palette(21)
