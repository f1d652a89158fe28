"""Points of rest of systems of several coordinates."""

from collections import Counter

import numpy as np
import pytest
import torch

import secondorder as so


def wells(t, x):
    return x - x**3


@pytest.mark.parametrize("d", [2, 3])
def test_products_of_wells_rest_where_each_of_them_does(d):
    found = so.plot.find_fixed_points(so.Newton(wells, damping=0.5), [(-2, 2)] * d)
    assert len(found) == 3**d
    assert Counter(p.kind for p in found) == {
        "stable focus": 2**d,
        "saddle": 3**d - 2**d,
    }
    # Newton converges to the rounding of the field.
    assert all(np.abs(p.x - p.x.round()).max() < 1e-9 for p in found)


def test_eigenvalues_are_those_of_the_linear_equation():
    """x'' + C x' + K x = 0 at a saddle, a node and a focus at once."""
    stiff = torch.tensor([-1.0, 2.0, 9.0], dtype=torch.float64)
    drag = torch.tensor([0.3, 4.0, 0.2], dtype=torch.float64)
    (rest,) = so.plot.find_fixed_points(
        so.Newton(lambda t, x: -stiff * x, damping=drag), [(-1, 1)] * 3
    )
    roots = np.concatenate(
        [np.roots([1, c, k]) for c, k in zip(drag, stiff, strict=True)]
    )
    roots = roots[np.lexsort((roots.imag, roots.real))]
    # Central differences of a linear field, in steps of eps^(1/3).
    np.testing.assert_allclose(rest.eigenvalues, roots, atol=1e-8)
    assert rest.kind == "saddle"


def test_undamped_wells_decide_nothing_and_flat_ones_are_degenerate():
    spring = so.Newton(lambda t, x: -x)
    assert so.plot.find_fixed_points(spring, [(-1, 1)] * 2)[0].kind == "centre or focus"
    flat = so.Newton(lambda t, x: -(x**3), damping=1.0)
    assert so.plot.find_fixed_points(flat, [(-1, 1)] * 2)[0].kind == "degenerate"


def test_a_network_in_float32_and_a_box_without_rest():
    torch.manual_seed(0)
    net = so.SecondOrder(so.Autonomous(torch.nn.Linear(2, 2)))
    (rest,) = so.plot.find_fixed_points(net, [(-9, 9), (-9, 9)])
    with torch.no_grad():
        value = net.field(0.0, torch.tensor(rest.x[None], dtype=torch.float32))
    assert value.abs().max() < 1e-5
    assert so.plot.find_fixed_points(net, [(50, 60), (50, 60)]) == []


def test_points_of_rest_are_marked_in_the_plane():
    ax = so.plot.fixed_points(so.Newton(wells, damping=0.5), [(-2, 2), (-2, 2)])
    names = {line.get_label(): len(line.get_xdata()) for line in ax.get_lines()}
    assert names == {"stable focus": 4, "saddle": 5}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x₁", "x₂")


def test_mistakes_are_named():
    well = so.Newton(wells)
    with pytest.raises(ValueError, match="xlim"):
        so.plot.find_fixed_points(well, [(1, 0), (0, 1)])
    with pytest.raises(ValueError, match="two"):
        so.plot.fixed_points(well, [(0, 1)] * 3)
    plane = so.Newton(lambda t, x: x @ torch.ones(2, 2, dtype=x.dtype))
    with pytest.raises(ValueError, match="coordinates"):
        so.plot.find_fixed_points(plane, [(0, 1)] * 3)
