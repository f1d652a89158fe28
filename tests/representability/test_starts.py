"""Where the flow starts: T1, T2 and T6 of the theory, on random cases."""

import math

import numpy as np
import pytest
import torch
from matrices import jordan, jordan_matrix, orthogonal
from scipy.linalg import expm

from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    extend,
    is_representable,
    loss_floor,
    nearest,
    represent,
)

LAMBDA_FORCE = [(0.2, -0.0834, -824), (0.5, -0.5267, -27.6), (1.0, -1.3956, -3.10),
                (5.0, -8.6397, -2.14)]  # fmt: skip
STARTS = ["rest", "force", 0.3, -0.4, -2.0, 3.0]


def run(theta, m):
    """Compute the map by scipy's exponential, or by running the layers."""
    d, eye = len(theta), np.eye(len(theta))
    v = theta if m.start == "force" else m.start_number * eye
    if isinstance(m, Continuous):
        rows = [[0 * eye, eye], [theta / m.epsilon, -eye / m.epsilon]]
        E = expm(m.horizon * np.block(rows))
        return E[:d, :d] + E[:d, d:] @ v
    x = eye
    for _ in range(m.layers):
        v = m.gamma * v + (1 - m.gamma) * theta @ x
        x = x + v
    return x


def certify(D, m):
    """Check a witness by a route that shares nothing with the construction."""
    witness = represent(D, m)
    bound = 1e-10 * np.linalg.norm(D) + 1e-13
    assert witness.residual <= bound
    assert np.linalg.norm(run(witness.theta, m) - D) <= 10 * bound


# -- responses ------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_responses_and_derivatives_of_numbers_and_matrices(start):
    rng = np.random.default_rng(0)
    for m in (
        Continuous(0.07, start=start),
        Continuous(1.3, 2.0, start),
        Discrete(4, 0.8, start=start),
        Discrete(7, 0.3, start=start),
    ):
        theta = rng.standard_normal((4, 4))
        np.testing.assert_allclose(m.response(theta), run(theta, m), rtol=1e-9)
        for t in (0.3, -3.0, -20.0, 1.5 + 1j):
            step = 1e-6
            slope = (m.response(t + step) - m.response(t - step)) / (2 * step)
            assert m.derivative(t) == pytest.approx(slope, rel=1e-6, abs=1e-9)
            (entry,) = m.response(np.array([[t]])).ravel()
            assert m.response(t) == pytest.approx(entry, rel=1e-9, abs=1e-13)
        t = torch.tensor([-9.0, -3.0, 0.4], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(m.response, t)
        assert torch.autograd.gradcheck(m.derivative, t)


def test_the_force_response_is_a_product_of_two_robin_problems():
    rng = np.random.default_rng(1)
    for _ in range(300):
        epsilon, theta = 10 ** rng.uniform(-1.5, 2), rng.standard_normal() * 30
        m = Continuous(epsilon, start="force")
        k = m.kappa
        z = np.sqrt(complex(k * k + 2 * k * theta)) / 2
        first = np.cosh(z) + k / (2 * z) * np.sinh(z)
        second = np.cosh(z) + 2 * z / k * np.sinh(z)
        product = np.exp(-k) * first * second
        size = np.exp(-k) * abs(np.cosh(z)) ** 2 * (1 + k / abs(z)) * (1 + abs(z) / k)
        assert abs(m.response(theta) - product) <= 1e-12 * max(size, abs(product))


# -- T1: from the force everything is reached ------------------------------------------


@pytest.mark.parametrize("ratio, threshold, theta", LAMBDA_FORCE)
def test_force_start_matches_the_table(ratio, threshold, theta):
    m = Continuous(ratio, start="force")
    assert m.principal_threshold == pytest.approx(threshold, abs=6e-5)
    assert m.threshold == -math.inf
    root = m.real_preimages(-1.0)[0]
    assert root == pytest.approx(theta, rel=5e-3)
    assert m.response(root) == pytest.approx(-1.0, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.4, 0.7759, 1.0, 5.0])
def test_force_start_reaches_every_kind_of_map(epsilon):
    rng, m = np.random.default_rng(2), Continuous(epsilon, start="force")
    targets = [
        -np.eye(3),
        np.diag([-1.0, 2.0]),
        jordan(2, -2.0),
        jordan(3, -0.5),
        jordan(3, 0.0),
        jordan_matrix([(-1, 2), (-1, 1), (2, 1)]),
        jordan(2, m.principal_threshold),
        m.principal_threshold * np.eye(2),
        np.zeros((2, 2)),
        *(rng.standard_normal((d, d)) for d in (1, 2, 3, 5, 8) for _ in range(3)),
    ]
    for D in targets:
        assert is_representable(D, m) and loss_floor(D, m) == 0.0
        certify(D, m)
        Q = orthogonal(rng, len(D))
        certify(Q @ D @ Q.T, m)


def test_force_start_passes_minus_one_at_the_stated_ratio():
    inside, outside = (Continuous(e, start="force") for e in (0.7760, 0.7758))
    assert inside.principal_threshold < -1 < outside.principal_threshold


def test_a_preimage_beyond_float64_is_refused_with_advice():
    m = Continuous(1e-3, start="force")
    assert is_representable([[-1.0]], m)
    with pytest.raises(ArithmeticError, match="increase ε"):
        represent([[-1.0]], m)


# -- T2: from v₀ = c x₀ the threshold moves -------------------------------------------


def test_threshold_of_a_start_in_proportion_is_the_least_value():
    rng = np.random.default_rng(3)
    for _ in range(30):
        epsilon, c = 10 ** rng.uniform(-1, 2), rng.standard_normal() * 4
        m = Continuous(epsilon, start=c)
        w = np.linspace(-400, 4 * abs(m.kappa + c) ** 2 + 10, 20001)
        values = m.response((w - m.kappa**2) / (2 * m.kappa))
        assert values.min() >= m.threshold * (1 + 1e-12)
        assert m.response(m.minimiser) == pytest.approx(m.threshold, rel=1e-9)
        assert values.min() == pytest.approx(m.threshold, rel=1e-3)
        assert m.log_threshold == pytest.approx(math.log(-m.threshold))


def test_the_least_expressive_start_and_both_ends():
    for epsilon in (0.2, 1.0, 7.0):
        worst = Continuous(epsilon, start=-0.5 / epsilon)
        assert worst.threshold == pytest.approx(-math.exp(-0.5 / epsilon), rel=1e-12)
        for step in (1e-3, 1.0, 30.0):
            for c in (-0.5 / epsilon - step, -0.5 / epsilon + step):
                assert Continuous(epsilon, start=c).threshold < worst.threshold
        for c in (-30.0, 200.0 / epsilon):
            assert Continuous(epsilon, start=c).threshold < -5
    assert Continuous(1.0, start=0.0).threshold == Continuous(1.0).threshold


@pytest.mark.parametrize("c", [0.7, -1.0, -2.5, 4.0])
def test_witnesses_and_refusals_of_a_start_in_proportion(c):
    rng, m = np.random.default_rng(4), Continuous(1.0, start=c)
    reached = 0
    for _ in range(25):
        D = rng.standard_normal((d := int(rng.integers(1, 6)), d))
        values = np.linalg.eigvals(D)
        low = values[(np.abs(values.imag) < 1e-12) & (values.real < m.threshold)]
        assert bool(is_representable(D, m)) == (len(low) == 0)
        if len(low) == 0:
            certify(D, m)
            reached += 1
    assert reached > 5
    for sizes in [(1,), (1, 1), (2, 1), (2, 2), (3, 2)]:
        certify(jordan_matrix([(m.threshold, n) for n in sizes] + [(1, 1)]), m)
    assert not is_representable(jordan(2, m.threshold), m)
    certify(np.kron(np.eye(2), jordan(2, m.threshold - 1)), m)


def test_floor_and_nearest_follow_the_threshold():
    for c in (-2.0, 1.0, 6.0):
        m = Continuous(1.0, start=c)
        D = np.diag([-4.0, 20.0])
        assert loss_floor(D, m) == pytest.approx(m.threshold + 4, rel=1e-9)
        assert represent(nearest(D, m).matrix, m).residual < 1e-11


def test_bad_starts_raise():
    for start in ("run", math.nan, None, [1.0]):
        for model in (Continuous, Discrete):
            with pytest.raises(ValueError, match="`start`"):
                model(2, 0.5, start=start)
    with pytest.raises(ValueError, match="`start`"):
        Continuous(1.0, start=-1e4)


# -- layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_critical_points_of_layers_are_all_there(start, gamma):
    for layers in (2, 3, 4, 7, 10):
        m = Discrete(layers, gamma, start=start)
        points, values = m.critical_points, m.critical_values
        assert len(points) == layers - 1 and (np.diff(points) > 0).all()
        signs = [(-1) ** (k + 1) for k in range(len(values))]
        assert np.sign(values[::-1]).tolist() == signs
        np.testing.assert_allclose(m.response(points), values, rtol=1e-6, atol=1e-9)
        margin = np.ptp(points) + 1
        theta = np.linspace(points[0] - margin / 9, points[-1] + margin / 9, 30001)
        if layers % 2 == 0:
            assert m.response(theta).min() >= m.threshold * (1 + 1e-9)
            assert m.response(m.minimiser) == pytest.approx(m.threshold, rel=1e-7)
        else:
            assert m.threshold == -math.inf


@pytest.mark.parametrize("start", ["force", 0.3, -0.4])
def test_odd_layers_reach_everything_and_even_ones_what_their_minimum_allows(start):
    rng = np.random.default_rng(5)
    for D in (-np.eye(3), jordan(2, -2.0), jordan(2, 0.0), rng.standard_normal((4, 4))):
        certify(D, Discrete(3, 0.6, start=start))
        certify(D, Discrete(5, 0.9, start=start))
        certify(D, Discrete(1, 0.9, start=start))
    m = Discrete(4, 0.6, start=start)
    below, above = [[m.threshold * 1.01]], [[m.threshold * 0.99]]
    assert not is_representable(below, m)
    assert loss_floor(below, m) == pytest.approx(-0.01 * m.threshold, rel=1e-6)
    certify(np.array(above), m)
    certify(m.threshold * np.eye(2), m)
    certify(1.5 * m.threshold * np.eye(2), m)


def test_layers_become_the_ode_with_the_same_start():
    for start in ("force", 0.8, -1.5):
        ode = Continuous(0.5, start=start)
        gaps = []
        for layers in (200, 400):
            c = start if start == "force" else start / layers
            m = Discrete(layers, 1 - 2 / layers, start=c)
            assert m.limit.epsilon == pytest.approx(0.5)
            assert m.limit.start == pytest.approx(start) if c != "force" else True
            gaps.append(m.response(-3.0 / layers) - ode.response(-3.0))
            gap = m.principal_threshold - ode.principal_threshold
            assert abs(gap) < 5 / layers
        assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)
    with pytest.raises(ValueError, match="from rest only|'rest'"):
        Discrete(4, 0.5, start="force").limit_error(1.0)


# -- T6: one zero channel ------------------------------------------------------------


def test_one_more_channel_makes_most_maps_representable():
    rng, m, failed, tried = np.random.default_rng(6), Continuous(1.0), 0, 0
    while tried < 60:
        D = rng.standard_normal((d := int(rng.integers(1, 6)), d))
        if is_representable(D, m):
            continue
        tried += 1
        try:
            larger = extend(D, m)
        except ArithmeticError:
            failed += 1
            continue
        np.testing.assert_array_equal(larger[:d, :d], D)
        assert represent(larger, m).residual <= 1e-9 * np.linalg.norm(larger)
    assert failed <= 2


def test_channels_of_named_maps():
    for D in ([[-1.0]], np.diag([-1.0, 2.0]), -np.eye(3), jordan(2, -2.0)):
        for m in (Continuous(0.3), FirstOrder(), Discrete(4, 0.9)):
            assert is_representable(extend(D, m), m)
    assert is_representable(extend(np.diag([0.0, 1.0]), FirstOrder()), FirstOrder())
    with pytest.raises(ArithmeticError, match="one channel"):
        extend(np.zeros((2, 2)), FirstOrder())  # nullity 2 needs two
    assert torch.is_tensor(extend(torch.eye(2), Continuous(1.0)))
