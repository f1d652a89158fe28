"""Scales, smallest inertia and loss floors: closed forms, attainment, optimisation."""

import math

import numpy as np
import pytest
import torch
from matrices import jordan, orthogonal
from scipy.optimize import minimize

from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    is_representable,
    loss_floor,
    max_scale,
    min_epsilon,
    nearest,
    represent,
)

MODELS = [FirstOrder(), *map(Continuous, (0.1, 0.5, 1.0, 5.0))]
TO_MINUS_ONE = [1.0, 0.989167026909596, 0.616678399735674, 0.386501396832595,
                0.094713311387393]  # fmt: skip
FLOORS = [
    ([[-1.0]], TO_MINUS_ONE),
    (np.diag([-1.0, 2.0]), TO_MINUS_ONE),
    ([[0.0, 1.0], [1.0, 0.0]], TO_MINUS_ONE),
    (-np.eye(3), TO_MINUS_ONE),
    (np.diag([-1.0, -2.0]), [0.5] * 5),
    (np.diag([-2.0, 1.0]), [1.5, 1.5, 1.5, 1.386501396832595, 1.094713311387393]),
]

MIN_EPSILON = [
    (-0.01, 0.0982334864806883),
    (-0.1, 0.200834398162581),
    (-0.25, 0.340965552867099),
    (-0.5, 0.698809909308685),
    (-0.75, 1.71383394620702),
    (-0.9, 4.72069005857197),
    (-0.99, 49.7242896695387),
]


# -- scaling --------------------------------------------------------------------------


@pytest.mark.parametrize("value, epsilon", MIN_EPSILON)
def test_smallest_epsilon_matches_the_table(value, epsilon):
    assert min_epsilon([[value]]) == pytest.approx(epsilon, rel=1e-12)
    assert min_epsilon([[value]], horizon=3.0) == pytest.approx(3 * epsilon, rel=1e-12)
    D = np.diag([value, 1.0])
    assert is_representable(D, Continuous(epsilon * (1 + 1e-9)))
    assert not is_representable(D, Continuous(epsilon * (1 - 1e-9)))


def test_smallest_epsilon_at_the_ends():
    assert min_epsilon([[-1.0]]) == math.inf
    assert min_epsilon(np.eye(2)) == 0.0
    assert min_epsilon(-np.eye(2)) == 0.0  # paired, even below −1
    assert min_epsilon(jordan(2, 0.0)) == 0.0
    tiny = min_epsilon([[-1e-200]])
    assert Continuous(tiny).log_threshold == pytest.approx(math.log(1e-200), rel=1e-12)
    close = min_epsilon([[-1 + 1e-6]])
    assert close == pytest.approx(1 / 2e-6, rel=1e-4)


@pytest.mark.parametrize(
    "m", [Continuous(0.1), Continuous(1.0), Discrete(4, 0.9)], ids=str
)
def test_largest_scale_is_sharp(m):
    D = np.diag([-1.0, 2.0, -0.2])
    scale = max_scale(D, m)
    assert scale == pytest.approx(-m.threshold, rel=1e-14)
    assert max_scale(4 * D, m) == pytest.approx(scale / 4, rel=1e-14)
    assert is_representable(scale * D, m) and is_representable(scale / 2 * D, m)
    assert not is_representable(scale * (1 + 1e-9) * D, m)
    defective = max_scale(jordan(2, -1.0), m) * jordan(2, -1.0)
    assert not is_representable(defective, m)  # at α_max only blocks of size 1


def test_largest_scale_at_the_ends():
    assert max_scale(np.eye(2), Continuous(1.0)) == math.inf
    assert max_scale([[-1.0]], FirstOrder()) == 0.0
    assert max_scale(np.zeros((2, 2)), FirstOrder()) == 0.0
    assert max_scale([[2.0]], FirstOrder()) == math.inf
    assert max_scale([[-1.0]], Discrete(5, 0.9)) == math.inf
    assert max_scale([[-1.0]], Discrete(3, 0.0)) == math.inf
    assert max_scale([[-1.0]], Discrete(4, 0.0)) == 0.0
    assert 0 < max_scale([[-1.0]], Continuous(1e-3)) < 1e-215


# -- floors ---------------------------------------------------------------------------


@pytest.mark.parametrize("D, floors", FLOORS, ids=range(len(FLOORS)))
def test_floor_matches_the_table(D, floors):
    for m, expected in zip(MODELS, floors, strict=True):
        floor = loss_floor(D, m)
        assert floor == pytest.approx(expected, abs=1e-10)
        assert floor.exact


def test_floor_is_zero_for_representable_maps_and_their_limits():
    for D in (-np.eye(2), [[-0.3]], [[0.0, -1.0], [1.0, 0.0]]):
        assert loss_floor(D, Continuous(1.0)) == 0.0
    assert loss_floor(jordan(2, -2.0), Continuous(1.0)) == 0.0  # a limit, not a member
    assert loss_floor([[-7.0]], Discrete(5, 0.5)) == 0.0
    floor = loss_floor([[-2.0]], Discrete(4, 0.9))
    assert floor == pytest.approx(2 - 1.61417757840693)


def test_planar_formula_and_singular_values_agree():
    rng = np.random.default_rng(0)
    block = np.zeros((3, 3))
    block[2, 2] = 1e3  # far away: the third dimension is of no help
    for _ in range(30):
        D = rng.standard_normal((2, 2)) - 0.5 * np.eye(2)
        block[:2, :2] = D
        for m in (FirstOrder(), Continuous(1.0)):
            planar, general = loss_floor(D, m), loss_floor(block, m)
            assert planar == pytest.approx(general, abs=1e-7)


def test_floor_is_unchanged_by_rotations_and_moves_at_most_with_the_target():
    rng, m = np.random.default_rng(1), Continuous(0.5)
    for _ in range(5):
        D, Q = rng.standard_normal((4, 4)), orthogonal(rng, 4)
        floor = loss_floor(D, m)
        assert loss_floor(Q @ D @ Q.T, m) == pytest.approx(floor, abs=1e-8)
        change = 0.1 * rng.standard_normal((4, 4))
        moved = loss_floor(D + change, m)
        assert abs(moved - floor) <= np.linalg.norm(change, 2) + 1e-8


def test_translation_identity():
    # The representable sets are shifts of each other, so floors are too.
    rng, m = np.random.default_rng(2), Continuous(0.7)
    for d in (1, 2, 4):
        D = rng.standard_normal((d, d))
        shifted = loss_floor(D - m.threshold * np.eye(d), FirstOrder())
        assert loss_floor(D, m) == pytest.approx(shifted, abs=1e-9)


def test_only_where_the_determinant_is_negative_something_is_out_of_reach():
    # Two close pairs, far apart: between the pairs the determinant is positive.
    floor = loss_floor(np.diag([-1.0, -1.2, -5.0, -5.1]), FirstOrder())
    assert floor == pytest.approx(0.1) and floor.at == pytest.approx(-1.1)


def test_several_bad_intervals_give_only_a_bound():
    D = np.diag([-1.0, -2.0, -4.0])
    floor = loss_floor(D, FirstOrder())
    assert floor == pytest.approx(1.0) and not floor.exact
    assert "lower bound" in repr(floor)
    with pytest.raises(ValueError, match="known only from below"):
        nearest(D, FirstOrder())


def least_distance(D, m, starts):
    """Minimise ‖Ψ(θ) − D‖ by quasi-Newton from several random θ."""
    target, best = torch.tensor(D, dtype=torch.float64), math.inf
    rng = np.random.default_rng(3)

    def loss(flat):
        theta = torch.tensor(flat.reshape(D.shape), requires_grad=True)
        value = ((m.response(theta) - target) ** 2).sum()
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.numpy().ravel()

    for _ in range(starts):
        start = 2 * rng.standard_normal(D.size)
        found = minimize(loss, start, jac=True, method="L-BFGS-B",
                         bounds=[(-60, 60)] * D.size)  # fmt: skip
        best = min(best, math.sqrt(found.fun))
    return best


@pytest.mark.parametrize(
    "D, m, starts",
    [
        (np.diag([-1.0, 2.0]), Continuous(0.5), 2),
        (np.diag([-1.0, 2.0]), FirstOrder(), 2),
        (np.diag([-1.0, -2.0]), Continuous(0.5), 4),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), FirstOrder(), 4),
        (np.diag([-1.0, 1.0, 2.0]), Continuous(0.5), 4),
    ],
    ids=["threshold", "first order", "interior", "exchange", "three dimensions"],
)
def test_optimisation_comes_close_to_the_floor_and_never_passes_it(D, m, starts):
    floor = loss_floor(D, m)
    assert floor.exact
    reached = least_distance(D, m, starts)
    assert floor - 1e-9 <= reached <= 1.02 * floor


# -- nearest --------------------------------------------------------------------------


def test_nearest_is_attained_at_the_threshold_and_not_inside():
    m = Continuous(0.5)
    near = nearest(np.diag([-1.0, 2.0]), m)
    assert near.attained and near.distance == pytest.approx(0.616678399735674)
    np.testing.assert_allclose(near.matrix, np.diag([m.threshold, 2.0]), atol=1e-9)
    assert represent(near.matrix, m).residual < 1e-12
    # The best μ = −1.5 lies inside: two eigenvalues meet in a Jordan block.
    near = nearest(np.diag([-1.0, -2.0]), m)
    assert not near.attained
    np.testing.assert_allclose(np.linalg.eigvals(near.matrix), -1.5, atol=1e-5)
    # First order would have to reach a singular matrix.
    assert not nearest(np.diag([-1.0, 2.0]), FirstOrder()).attained


@pytest.mark.parametrize(
    "m", [Continuous(0.5), FirstOrder(), Discrete(4, 0.9)], ids=str
)
def test_nearest_is_at_the_floor_and_in_the_closure(m):
    rng, exact = np.random.default_rng(4), 0
    for d in (1, 2, 2, 3, 4, 5):
        D = 2 * rng.standard_normal((d, d))
        floor = loss_floor(D, m)
        if not floor.exact:
            continue
        exact += floor > 0
        near = nearest(D, m)
        assert np.linalg.norm(near.matrix - D) == pytest.approx(floor, abs=1e-6)
        assert np.linalg.norm(near.matrix - D, 2) == pytest.approx(floor, abs=1e-6)
        assert loss_floor(near.matrix, m) < 1e-6
    assert exact >= 2


def test_a_floor_of_rounding_size_does_not_stop_the_search_for_the_nearest():
    rng = np.random.default_rng(5)
    for side in rng.standard_normal((50, 2)):  # det D = 0 up to rounding
        assert nearest(np.outer(side, side), FirstOrder()).distance < 1e-14


def test_nearest_to_a_representable_map_is_itself():
    near = nearest(torch.eye(2), Continuous(1.0))
    assert near.attained and near.distance == 0.0
    assert torch.equal(near.matrix, torch.eye(2, dtype=torch.float64))
    assert not nearest(jordan(2, -2.0), Continuous(1.0)).attained


@pytest.mark.parametrize("function", [loss_floor, nearest, max_scale])
def test_bad_target_raises(function):
    with pytest.raises(ValueError, match="`D` must be"):
        function(np.zeros((2, 3)), Continuous(1.0))


def test_bad_horizon_raises():
    with pytest.raises(ValueError, match="`horizon`"):
        min_epsilon([[-0.5]], horizon=0.0)
