"""Arrays are drawn whether time or the batch comes first, and never by a guess."""

import numpy as np
import pytest
import torch

import secondorder as so

t = torch.linspace(0, 1, 11)
x = torch.linspace(-1, 1, 5) * torch.cos(t).unsqueeze(1)  # (11, 5)
v = -torch.linspace(-1, 1, 5) * torch.sin(t).unsqueeze(1)
spring = so.Newton(lambda t, x: -4 * x, damping=0.5)


def paths(ax, n):
    """The lines of a picture that have as many points as a path."""
    return [line for line in ax.get_lines() if len(line.get_xdata()) == n]


def test_arrays_are_drawn_in_both_layouts_and_never_by_a_guess():
    cube = torch.stack([x, v], -1)  # (11, 5, 2)
    turned = cube.swapaxes(0, 1)
    for plot, arrays in (
        (so.plot.trajectories, lambda z: (t, z)),
        (so.plot.phase_portrait, lambda z: (z[..., :1], z[..., 1:])),
        (so.plot.plane, lambda z: (z,)),
    ):
        drawn = paths(plot(*arrays(cube)), 11)
        said = {} if plot is so.plot.trajectories else {"layout": "batch_first"}
        for line, same in zip(paths(plot(*arrays(turned), **said), 11), drawn,
                              strict=True):  # fmt: skip
            np.testing.assert_array_equal(line.get_xydata(), same.get_xydata())
        with pytest.raises(ValueError, match="`layout`"):
            plot(*arrays(cube), layout="rows")
    square = x[:5]
    with pytest.raises(ValueError, match="`x`.*layout="):
        so.plot.trajectories(t[:5], square)
    for layout, rows in (("time_first", square.T), ("batch_first", square)):
        lines = paths(so.plot.trajectories(t[:5], square, layout=layout), 5)
        np.testing.assert_array_equal([ln.get_ydata() for ln in lines], rows)
    sol = so.odeint(spring, (torch.ones(5, 1), None), t[:5])
    assert len(paths(so.plot.trajectories(sol), 5)) == 5  # a solution knows
    with pytest.raises(ValueError, match="`layout`.*time first"):
        so.plot.trajectories(sol, layout="batch_first")
    with pytest.raises(ValueError, match="`x`.*Solution"):
        so.plot.energy((sol.t, sol.x, sol.v), lambda x, v: (x + v).sum(-1))
    wide = so.odeint(spring, (torch.ones(3, 1), None), t)
    flipped = (wide.t, wide.x.swapaxes(0, 1), wide.v.swapaxes(0, 1))
    for given in ((wide.t, wide.x, wide.v), flipped):
        ax = so.plot.energy(given, lambda x, v: (x + v).sum(-1))
        assert len(paths(ax, 11)) == 3
    columns = torch.arange(5.0)[:, None] * torch.ones(5)
    with pytest.raises(ValueError, match="`t`.*row of times"):
        so.plot.trajectories(columns + torch.tensor([0, 2, 1, 3, 4]), square,
                             layout="time_first")  # fmt: skip


def test_paths_in_space_over_a_landscape_and_side_by_side_in_both_layouts():
    cube = torch.stack([x, v, x + v], -1)
    turned = cube.swapaxes(0, 1)
    kwargs = {"layout": "batch_first"}
    for one, two in zip(
        so.plot.space(cube).get_lines(), so.plot.space(turned, **kwargs).get_lines(),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(one.get_data_3d(), two.get_data_3d())
    for panel, other in zip(
        so.plot.portraits(cube, -cube), so.plot.portraits(turned, -turned, **kwargs),
        strict=True,
    ):  # fmt: skip
        drawn = [line.get_xydata() for line in panel.get_lines()]
        same = [line.get_xydata() for line in other.get_lines()]
        assert all(np.array_equal(a, b) for a, b in zip(drawn, same, strict=True))
    box = (lambda z: (z**2).sum(-1), (-1, 1), (-1, 1))
    first = so.plot.potential(*box, cube[..., :2], points=9)
    second = so.plot.potential(*box, turned[..., :2], points=9, layout="batch_first")
    for one, two in zip(paths(first, 11), paths(second, 11), strict=True):
        np.testing.assert_array_equal(one.get_xydata(), two.get_xydata())
