"""Points of rest are where the field says, of the kind its eigenvalues say."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.integrate import odeint

import secondorder as so

well = so.Newton(lambda t, x: x - x**3, damping=0.3)


def kinds(system, xlim=(-2, 2)):
    return [point.kind for point in so.plot.find_fixed_points(system, xlim)]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def linear(slope, drag):
    return so.Acceleration(lambda t, x, v: slope * x + drag * v)


@pytest.mark.parametrize(
    ("slope", "drag", "kind"),
    [
        (-1, -0.5, "stable focus"),
        (-1, -2, "stable node"),
        (-1, -3, "stable node"),
        (-1, 0.5, "unstable focus"),
        (-1, 3, "unstable node"),
        (1, -0.5, "saddle"),
        (-1, 0, "centre"),
    ],
)
def test_the_kind_follows_from_the_jacobian(slope, drag, kind):
    (point,) = so.plot.find_fixed_points(linear(slope, drag), (-1.1, 2))
    assert abs(point.x) < 1e-12
    assert point.kind == kind
    expected = np.roots([1, -drag, -slope])
    for value in expected:
        assert min(abs(np.array(point.eigenvalues) - value)) < 1e-6


def test_what_linear_theory_cannot_tell_is_not_claimed():
    assert kinds(so.Acceleration(lambda t, x, v: -x - v**3)) == ["centre or focus"]
    assert kinds(so.Newton(lambda t, x: x**2, damping=0.1)) == ["degenerate"]
    assert kinds(so.Newton(lambda t, x: 1 / x)) == []  # a pole is no point of rest
    with pytest.raises(ValueError, match="whole interval"):
        kinds(so.Newton(lambda t, x: 0 * x))


def test_fields_in_float32_and_outside_torch_are_understood():
    torch.manual_seed(0)
    net = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(net.weight, -0.3)
    (point,) = so.plot.find_fixed_points(so.SecondOrder(so.Autonomous(net)), (-20, 20))
    assert point.x == pytest.approx(-(net.bias / net.weight).item(), rel=1e-4)
    outside = so.Newton(lambda t, x: torch.from_numpy(-np.sin(x.detach().numpy())))
    assert kinds(outside, (-4, 4)) == ["saddle", "centre", "saddle"]


def test_each_kind_has_one_entry_in_the_legend():
    ax = so.plot.fixed_points(well, (-2, 2), (-1, 1))
    assert legend_of(ax) == ["stable focus", "saddle"]
    focus, saddle = ax.get_lines()
    np.testing.assert_allclose(focus.get_xdata(), [-1, 1], atol=1e-12)
    np.testing.assert_allclose(saddle.get_xdata(), [0], atol=1e-12)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-2, 2), (-1, 1))


def image_and_ends(system, t1, h):
    """The colours of a coarse picture, and the states of its starts after t1."""
    ax = so.plot.basins(system, (-2, 2), (-2, 2), points=10)
    image = np.asarray(ax.collections[0].get_array()).reshape(10, 10)
    mesh = np.meshgrid(np.linspace(-2, 2, 10), np.linspace(-2, 2, 10))
    start = tuple(torch.tensor(z.reshape(-1, 1)) for z in mesh)
    t = torch.tensor([0.0, t1], dtype=torch.float64)
    sol = so.odeint(system, start, t, step_size=h)
    return ax, image, [z[-1].numpy().reshape(10, 10) for z in (sol.x, sol.v)]


def test_basins_are_where_solutions_end():
    ax, image, (x, _) = image_and_ends(well, 60.0, 0.02)
    assert legend_of(ax) == ["to x = −1", "to x = 1"]
    np.testing.assert_array_equal(image == 1, x > 0)


def test_a_start_is_decided_once_its_energy_is_below_the_rim_of_a_well():
    weak = so.Newton(lambda t, x: x - x**3, damping=0.15)
    ax, image, (x, _) = image_and_ends(weak, 150.0, 0.05)
    # By then each has too little energy to leave its well, though none is at rest.
    assert legend_of(ax) == ["to x = −1", "to x = 1"]
    np.testing.assert_array_equal(image == 1, x > 0)


def test_no_energy_is_trusted_where_it_can_grow():
    # Van der Pol's oscillator, backwards: x = 0 attracts within an unstable cycle only.
    cycle = so.Acceleration(lambda t, x, v: -x - (1 - x**2) * v)
    with np.errstate(all="ignore"):
        ax = so.plot.basins(cycle, (-4, 4), (-4, 4), points=41)
    image = np.asarray(ax.collections[0].get_array()).reshape(41, 41)
    x, v = np.meshgrid(np.linspace(-4, 4, 41), np.linspace(-4, 4, 41))
    t = np.linspace(0, 20, 2001)
    forwards = odeint(
        lambda z, t: [z[1], -z[0] + (1 - z[0] ** 2) * z[1]], [2.0, 0.0], t
    )[-667:]  # its period is 6.66
    edge = mpl.path.Path(forwards * [1, -1])  # the same cycle, time reversed
    inside = edge.contains_points(np.c_[x.ravel(), v.ravel()], radius=0.0)
    near = np.hypot(x.ravel()[:, None] - edge.vertices[:, 0],
                    v.ravel()[:, None] - edge.vertices[:, 1]).min(1) < 0.05  # fmt: skip
    np.testing.assert_array_equal((image.ravel() == 0)[~near], inside[~near])


def test_more_attractors_than_colours_of_the_palette_stay_apart():
    pendulum = so.Newton(lambda t, x: -torch.sin(x), damping=0.3)
    ax = so.plot.basins(pendulum, (-30, 30), (-1, 1), points=40)
    colors = {line.get_color() for line in ax.get_lines() if line.get_label()[0] == "t"}
    assert len(colors) == len(legend_of(ax)) >= 9


def test_what_reaches_nothing_stays_grey():
    free = so.Newton(lambda t, x: -x)
    assert legend_of(so.plot.basins(free, (-1, 1), (-1, 1), points=5, t1=5.0)) == [
        "none by t = 5"
    ]


def test_manifolds_stay_on_the_level_of_the_saddle():
    free = so.Newton(lambda t, x: x - x**3)
    ax = so.plot.manifolds(free, (-2, 2), (-1, 1), t1=3.0)
    assert legend_of(ax) == ["stable manifold", "unstable manifold", "saddle"]
    for line in ax.get_lines()[:4]:
        x, v = line.get_data()
        np.testing.assert_allclose(v**2 / 2 - x**2 / 2 + x**4 / 4, 0, atol=1e-6)


def test_a_field_that_depends_on_time_has_no_basins():
    forced = so.Newton(lambda t, x: torch.cos(t) - x, damping=0.1)
    for draw in (so.plot.basins, so.plot.manifolds):
        with pytest.raises(ValueError, match="`system` depends on time"):
            draw(forced, (-1, 1), (-1, 1))


def test_energy_is_kinetic_and_potential():
    spring = so.Newton(lambda t, x: -x)
    start = torch.eye(2, dtype=torch.float64)
    t = torch.linspace(0, 6, 61, dtype=torch.float64)
    sol = so.odeint(spring, (start, None), t, method="blanes_moan6")
    ax = so.plot.energy(sol, potential=lambda x: (x**2).sum(-1) / 2)
    assert len(ax.get_lines()) == 2
    for line in ax.get_lines():
        np.testing.assert_allclose(line.get_ydata(), 0.5, atol=1e-6)
    with pytest.raises(ValueError, match="one number per state"):
        so.plot.energy(sol, lambda x, v: x)


def test_a_pole_of_the_potential_leaves_levels_for_the_rest():
    path = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    ax = so.plot.potential(
        lambda x: -1 / x.norm(dim=-1), (-2, 2), (-2, 2), path, points=41
    )
    assert ax.get_xlim() == (-2, 2)
    assert ax.collections[0].levels[0] > -20
    np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), path)


def test_a_bar_of_a_potential_has_no_number_that_its_colours_do_not_reach():
    ax = so.plot.potential(lambda x: (x**2).sum(-1) - 0.3, (-2, 2), (-1, 1), points=21)
    bar = ax.figure.axes[1]
    ax.figure.canvas.draw()
    levels = ax.collections[0].levels
    shown = [float(z.get_text().replace("−", "-")) for z in bar.get_yticklabels()]
    assert len(shown) > 2 and levels[0] <= min(shown) and max(shown) <= levels[-1]
    assert ax.collections[0].extend == "max"  # nothing is lower than the lowest level


def test_losses_and_seeds():
    history = so.training.History([1.0, 0.5, 0.1], "interrupted")
    ax = so.plot.losses({"a": history, "b": [2.0, float("nan"), 1.0]})
    assert legend_of(ax) == ["a", "b", "stopped early"]
    runs = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, np.nan], [2.0, 5.0, 4.0]])
    ax = so.plot.spread([0, 1, 2], {"a": runs})
    assert legend_of(ax) == ["a (median and range of 3, 1 not finite)"]
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [2, 2, np.nan])
