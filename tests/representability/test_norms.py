"""T3, T4 and T5: least norms, the planar law, and floors on data."""

import math

import numpy as np
import pytest
import torch
from matrices import orthogonal
from scipy.integrate import solve_ivp
from scipy.linalg import sqrtm
from scipy.optimize import minimize

from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    advise,
    is_representable,
    loss_floor,
    min_norm,
    planar_probability,
    represent,
    steer,
)

MODELS = [
    Continuous(0.1),
    Continuous(1.0, 2.0),
    Continuous(0.7, start="force"),
    Continuous(0.7, start=1.2),
    Continuous(0.7, start=-1.2),
    Discrete(5, 0.9),
    Discrete(4, 0.5, start="force"),
    Discrete(4, 0.5, start=-0.3),
    FirstOrder(),
]

# -- T3: how large θ has to be --------------------------------------------------------


@pytest.mark.parametrize("m", MODELS, ids=str)
def test_no_theta_is_shorter_than_the_bound(m):
    rng = np.random.default_rng(0)
    for _ in range(60):
        d = int(rng.integers(1, 5))
        theta = rng.standard_normal((d, d)) * 10 ** rng.uniform(-2, 1)
        D = m.response(theta)
        assert min_norm(D, m) <= np.linalg.norm(theta, 2) * (1 + 1e-9)


@pytest.mark.parametrize("m", MODELS, ids=str)
def test_the_bound_is_attained_by_stretches(m):
    for theta in (0.01, 0.5, 3.0):
        D = float(m.response(theta)) * np.eye(3)
        least = min_norm(D, m)
        if getattr(m, "start_number", 0.0) < 0:
            assert 0 < least <= theta  # a bound only: coefficients of both signs
        else:
            assert least == pytest.approx(theta, rel=1e-9)
    assert min_norm(float(m.response(0.0)) * np.eye(2), m) == 0.0


def test_the_bound_holds_for_theta_that_changes_over_time():
    rng, m = np.random.default_rng(1), Continuous(0.6)
    for _ in range(30):
        d = 3
        pieces = rng.standard_normal((4, d, d)) * 10 ** rng.uniform(-1, 1)

        def slope(t, state, pieces=pieces, d=d):
            x, v = state.reshape(2, d, d)
            theta = pieces[min(int(4 * t), 3)]
            return np.concatenate([v.ravel(), ((theta @ x - v) / m.epsilon).ravel()])

        start = np.concatenate([np.eye(d).ravel(), np.zeros(d * d)])
        end = solve_ivp(slope, (0, 1), start, max_step=0.02, rtol=1e-8).y[: d * d, -1]
        largest = max(np.linalg.norm(theta, 2) for theta in pieces)
        assert min_norm(end.reshape(d, d), m) <= largest * (1 + 1e-5)
    for D in (-np.eye(2), np.diag([-1.0, 2.0]), 3 * orthogonal(rng, 3)):
        path = steer(D, m.epsilon)
        norms = [np.linalg.norm(path(t), 2) for t in np.linspace(0, 1, 50)]
        assert max(norms) >= min_norm(D, m)


def test_the_bound_holds_for_lipschitz_fields():
    rng, m = np.random.default_rng(2), Continuous(0.6)
    for _ in range(30):
        A, B = rng.standard_normal((2, 3, 3)) * 10 ** rng.uniform(-0.5, 0.5)
        lipschitz = np.linalg.norm(A, 2) * np.linalg.norm(B, 2)  # f = A tanh Bx, f(0)=0

        def slope(t, state, A=A, B=B):
            x, v = state.reshape(2, 3)
            return np.concatenate([v, (A @ np.tanh(B @ x) - v) / m.epsilon])

        x = rng.standard_normal(3)
        start = np.concatenate([x, np.zeros(3)])
        end = solve_ivp(slope, (0, 1), start, rtol=1e-9, atol=1e-12).y[:3, -1]
        moved = np.linalg.norm(end - x) / np.linalg.norm(x)
        assert m.inverse(1 + moved) <= lipschitz * (1 + 1e-6)


def test_witnesses_near_the_identity_are_near_the_bound():
    rng, m = np.random.default_rng(3), Continuous(1.0)
    ratios = []
    for _ in range(60):
        D = np.eye(6) + rng.standard_normal((6, 6)) / math.sqrt(6)
        if is_representable(D, m):
            witness = represent(D, m)
            norm = np.linalg.norm(witness.theta, 2)
            assert witness.optimality == pytest.approx(norm / min_norm(D, m))
            ratios.append(witness.optimality)
    assert min(ratios) >= 1 and np.median(ratios) < 1.6
    assert represent(np.eye(2), m).optimality == 1.0


# -- T4: how likely -------------------------------------------------------------------


@pytest.mark.parametrize(
    "m",
    [FirstOrder(), Continuous(0.3), Continuous(3.0), Continuous(1.0, start=6.0)],
    ids=str,
)
def test_the_planar_law_against_draws(m):
    rng = np.random.default_rng(4)
    draws = 400_000
    for sigma in (0.2, 0.5, 2.0):
        a, b, c, d = sigma * rng.standard_normal((4, draws))
        middle, disc = (a + d) / 2, ((a - d) / 2) ** 2 + b * c
        root = np.sqrt(np.maximum(disc, 0))
        below = (middle - root < m.threshold) & (disc > 0)
        share, exact = 1 - below.mean(), planar_probability(m, sigma)
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / draws) + 1e-6
        D = np.array([[a[:300], b[:300]], [c[:300], d[:300]]]).transpose(2, 0, 1)
        verdicts = [not is_representable(A, m) for A in D]
        np.testing.assert_array_equal(verdicts, below[:300])


def test_the_planar_law_at_the_ends():
    assert planar_probability(FirstOrder(), 1.0) == pytest.approx(0.39645, abs=1e-5)
    assert planar_probability(Discrete(3, 0.5), 1.0) == 1.0
    assert planar_probability(Continuous(1.0), 1e-9) == pytest.approx(1.0)
    assert planar_probability(Continuous(1.0), 1e9) == pytest.approx(0.39645, abs=1e-5)
    with pytest.raises(ValueError, match="`sigma`"):
        planar_probability(FirstOrder(), 0.0)


# -- T5: the floor on data ------------------------------------------------------------


def covariance(rng, d):
    A = rng.standard_normal((d, d))
    return A @ A.T / d + 0.1 * np.eye(d)


def test_the_floor_on_data_bounds_every_theta_and_is_approached():
    rng, tight = np.random.default_rng(5), []
    for _ in range(6):
        D, S = 1.5 * rng.standard_normal((2, 2)), covariance(rng, 2)
        W = sqrtm(S).real
        for m in (FirstOrder(), Continuous(0.5)):
            floor = loss_floor(D, m, covariance=S)
            theta = 6 * rng.standard_normal((800, 2, 2))
            theta = np.concatenate([theta, theta / 6, theta[:, :1, :1] * np.eye(2)])
            gaps = np.linalg.norm((m.response(theta) - D) @ W, axis=(1, 2))
            assert gaps.min() >= floor - 1e-9
            if floor.exact and floor > 0.1:
                start = theta[gaps.argmin()]

                def gap(flat, m=m, D=D, W=W):
                    return np.linalg.norm((m.response(flat.reshape(2, 2)) - D) @ W)

                best = minimize(gap, start.ravel(), bounds=[(-40, 40)] * 4).fun
                assert best >= floor - 1e-9
                tight.append(best / floor)
    assert np.median(tight) < 1.05


def test_the_floor_on_data_in_special_cases():
    rng, m = np.random.default_rng(6), Continuous(0.5)
    D = rng.standard_normal((4, 4)) - 0.5 * np.eye(4)
    plain = loss_floor(D, m)
    assert loss_floor(D, m, covariance=np.eye(4)) == pytest.approx(plain, abs=1e-9)
    scaled = loss_floor(D, m, covariance=9 * torch.eye(4))
    assert scaled == pytest.approx(3 * plain, abs=1e-9)
    mirror = np.diag([-1.0, 2.0])
    rare = loss_floor(mirror, m, covariance=np.diag([1e-4, 1.0]))
    assert rare == pytest.approx((1 + m.threshold) * 1e-2, rel=1e-6) and rare.exact
    assert loss_floor(mirror, m, covariance=np.diag([0.0, 1.0])) == 0.0
    assert loss_floor(np.eye(2), m, covariance=np.eye(2)).exact


@pytest.mark.parametrize("S", [np.eye(3), [[1.0, 2.0], [0.0, 1.0]], -np.eye(2)])
def test_a_bad_covariance_raises(S):
    with pytest.raises(ValueError, match="`covariance` must be symmetric"):
        loss_floor(np.eye(2) * -1.0 + np.diag([0, 3.0]), FirstOrder(), covariance=S)


def test_floors_in_many_dimensions_agree_with_the_ones_by_svd(monkeypatch):
    from secondorder.representability import sigma

    rng = np.random.default_rng(7)
    D, S = rng.standard_normal((90, 90)) / math.sqrt(90), covariance(rng, 90)
    fast = [loss_floor(D, FirstOrder()), loss_floor(D, FirstOrder(), covariance=S)]
    monkeypatch.setattr(sigma, "LARGE", 1000)
    slow = [loss_floor(D, FirstOrder()), loss_floor(D, FirstOrder(), covariance=S)]
    np.testing.assert_allclose(fast, slow, rtol=1e-6)


# -- advice ---------------------------------------------------------------------------


def test_advice_on_a_mirror_names_floor_inertia_and_ways_out():
    advice = advise(np.diag([-0.5, 2.0]), epsilon=0.3)
    first, rest, force, channel, untied = advice.rows
    assert not first.reachable and first.floor == pytest.approx(0.5)
    assert not rest.reachable and rest.least_epsilon == pytest.approx(0.6988, abs=1e-4)
    assert "Raise ε above 0.699" in rest.sentence
    assert force.reachable and channel.reachable and untied.reachable
    for row in (force, channel, untied):
        assert row.norm >= row.least_norm * (1 - 1e-9)
    text = str(advice)
    assert len(text.splitlines()) == 6 and "force start" in text


def test_advice_from_data_uses_the_best_map_and_its_covariance():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((500, 2)) * [0.1, 1.0]
    D = np.diag([-1.0, 2.0])
    advice = advise(x=x, y=x @ D.T + 1e-3 * rng.standard_normal((500, 2)))
    np.testing.assert_allclose(advice.D, D, atol=1e-2)
    expected = (1 + Continuous(1.0).threshold) * np.sqrt(np.mean(x[:, 0] ** 2))
    assert advice.rows[1].floor == pytest.approx(expected, rel=0.05)
    with pytest.raises(ValueError, match="`D`"):
        advise()
    with pytest.raises(ValueError, match="`x` and `y`"):
        advise(x=x, y=x[:10])
