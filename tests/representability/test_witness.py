"""Constructed θ reach their targets: ‖Ψ(θ) − D‖ <= 1e-10 ‖D‖ + 1e-13."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import (
    ENSEMBLES,
    complex_jordan,
    jordan,
    jordan_matrix,
    orthogonal,
    paired_negative,
    rotation,
    similar,
    triangular,
)
from scipy.linalg import block_diag, expm

from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    NotRepresentable,
    is_representable,
    represent,
)


def certify(D, m):
    """Check a witness by a route that shares nothing with the construction."""
    witness = represent(D, m)
    theta, d = witness.theta, len(D)
    assert theta.shape == (d, d) and theta.dtype == np.float64
    bound = 1e-10 * np.linalg.norm(D) + 1e-13
    assert witness.residual <= bound
    assert np.linalg.norm(independent_response(theta, m) - D) <= 2 * bound
    return witness


def independent_response(theta, m):
    """Compute Ψ(θ) by scipy's exponential, or by running the layers."""
    d, eye = len(theta), np.eye(len(theta))
    if isinstance(m, FirstOrder):
        return expm(theta * m.horizon)
    if isinstance(m, Continuous):
        rows = [[0 * eye, eye], [theta / m.epsilon, -eye / m.epsilon]]
        return expm(m.horizon * np.block(rows))[:d, :d]
    x, v = eye, 0 * eye
    for _ in range(m.layers):
        v = m.gamma * v + (1 - m.gamma) * theta @ x
        x = x + v
    return x


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda f: f.__name__)
def test_witness_reaches_random_targets(ensemble, epsilon):
    rng = np.random.default_rng(7)
    for d in (2, 5, 16):
        certify(ensemble(rng, d), Continuous(epsilon))


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda f: f.__name__)
def test_witness_of_networks_and_of_first_order(ensemble):
    rng = np.random.default_rng(8)
    for m in (Discrete(4, 0.9), Discrete(5, 0.5), Discrete(8, 0.0), FirstOrder(2.0)):
        D = ensemble(rng, 6)
        if is_representable(D, m):  # singular ones are out of reach for two of them
            certify(D, m)


DEFECTIVE = [
    jordan(4, 1.0),
    jordan(2, 0.5),
    jordan(3, 0.0),
    complex_jordan(2, 1.0, 2.0),
    jordan_matrix([(2, 3), (2, 2), (1, 1)]),
    jordan_matrix([(-2, 2)] * 2),
    jordan_matrix([(-2, 3)] * 2 + [(-2, 1)] * 2),
    -np.eye(2),
    -np.eye(4),
    np.zeros((3, 3)),
    1e6 * np.array([[1.0, 2.0], [-3.0, 4.0]]),
]


@pytest.mark.parametrize("D", DEFECTIVE, ids=range(len(DEFECTIVE)))
def test_witness_of_defective_targets_in_any_basis(D):
    rng = np.random.default_rng(9)
    for basis in (np.eye(len(D)), orthogonal(rng, len(D))):
        for epsilon in (0.5, 5.0):
            certify(basis @ D @ basis.T, Continuous(epsilon))
        certify(basis @ D @ basis.T, Discrete(5, 0.9))


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (2, 1), (2, 2), (3, 2), (2, 2, 2, 1)])
def test_witness_at_the_critical_value(sizes):
    for m in (Continuous(0.5), Continuous(1.0), Discrete(2, 0.5), Discrete(6, 0.9)):
        certify(jordan_matrix([(m.fold.value, size) for size in sizes] + [(2, 1)]), m)


def test_witness_of_a_residual_network_is_a_root_of_nilpotent_parts():
    rng = np.random.default_rng(10)
    for sizes in [(1, 1), (2, 1, 1, 1), (2, 2, 1, 1, 1, 1, 1, 1)]:
        A = jordan_matrix([(0, size) for size in sizes] + [(-1, 1), (-1, 1), (2, 1)])
        Q = orthogonal(rng, len(A))
        certify(Q @ A @ Q.T, Discrete(4, 0.0))


def test_networks_use_the_branches_the_ode_does_not_have():
    # −1 lies below the principal threshold of four layers, above the global one.
    theta = certify(np.diag([-1.0, 2.0]), Discrete(4, 0.9)).theta
    assert theta.min() < -20  # grid-scale oscillation
    near, mixed = np.diag([-2.0, -2.0 - 1e-9]), np.diag([-4.0, -1.0, 3.0])
    for D in (jordan(2, -2.0), near, mixed):
        certify(D, Discrete(5, 0.9))
        certify(D, Discrete(3, 0.0))
    np.testing.assert_allclose(represent([[-1.0]], Discrete(3, 0.0)).theta, [[-2.0]])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from([-3, -2, -1]), st.integers(1, 2)), max_size=2
    ),
    free=st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 3)), min_size=1, max_size=2
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_witness_on_integer_matrices_with_known_blocks(pairs, free, seed):
    D = similar(np.random.default_rng(seed), jordan_matrix(pairs * 2 + free))
    for m in (Continuous(1.0), FirstOrder()):
        # Powers of the similarity eat digits: allow for its condition number.
        assert represent(D, m).residual <= 1e-9 * np.linalg.norm(D)


def test_witness_of_large_targets_far_from_normal():
    D = triangular(np.random.default_rng(200), 200)
    assert np.linalg.cond(np.linalg.eig(D)[1]) > 1e14  # no eigenbasis to speak of
    certify(D, Continuous(0.5))


def test_simple_targets_have_the_known_theta():
    theta = represent(np.diag([-0.383321600264326, 2.0]), Continuous(0.5)).theta
    expected = np.diag([-6.29908302991933, 1.43909240635818])
    np.testing.assert_allclose(theta, expected, rtol=1e-7, atol=1e-12)
    quarter = [[0.0, -1.0], [1.0, 0.0]]
    theta = represent(quarter, FirstOrder()).theta
    np.testing.assert_allclose(theta, np.pi / 2 * np.array(quarter), atol=1e-14)


def test_witness_of_a_normal_target_is_normal_and_the_shortest():
    rng, m = np.random.default_rng(11), Continuous(0.5)
    for D in (rotation(rng, 5), paired_negative(rng, 6)):
        theta = certify(D, m).theta
        scale = np.linalg.norm(theta) ** 2
        assert np.linalg.norm(theta @ theta.T - theta.T @ theta) < 1e-9 * scale
    # Other inverse images of the eigenvalue i, found by Newton, are all longer.
    theta = represent([[0.0, -1.0], [1.0, 0.0]], m).theta
    start = rng.uniform(-60, 20, 400) + 1j * rng.uniform(-40, 40, 400)
    for _ in range(60):
        slope = m.derivative(start)
        with np.errstate(all="ignore"):
            start = start - (m.response(start) - 1j) / slope
        start = np.where(np.isfinite(start), start, 0)
    roots = start[np.abs(m.response(start) - 1j) < 1e-9]
    assert len(np.unique(roots.round(4))) > 3
    assert np.linalg.norm(theta) <= math.sqrt(2) * np.abs(roots).min() * (1 + 1e-9)


def test_no_witness_without_a_verdict():
    with pytest.raises(NotRepresentable, match="lies below the threshold") as error:
        represent(np.diag([-1.0, 2.0]), Continuous(1.0))
    assert not error.value.verdict
    assert isinstance(error.value, ValueError)


def test_witness_is_of_the_kind_of_the_target():
    D = torch.eye(2, requires_grad=True)
    witness = represent(D, Continuous(1.0))
    assert torch.is_tensor(witness.theta) and witness.theta.dtype == torch.float64
    assert isinstance(witness.residual, float)
    assert isinstance(represent([[0.5]], Continuous(1.0)).theta, np.ndarray)


def test_unresolved_witness_says_so():
    # A large block just above the threshold: ‖θ‖ explodes, and float64 gives up.
    Q = orthogonal(np.random.default_rng(12), 5)
    D = Q @ block_diag(jordan(4, 0.0), 1.0) @ Q.T
    with pytest.warns(RuntimeWarning, match="resolves it only to"):
        witness = represent(D, Continuous(0.05))
    assert witness.residual > 1e-8


def test_resolved_witnesses_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        represent(-np.eye(2), Continuous(1e-3))
        represent(np.diag([1e-3, 1.0]), Continuous(1e4))


def test_bad_target_raises():
    with pytest.raises(ValueError, match="`D` must be a square"):
        represent([1.0, 2.0], Continuous(1.0))
