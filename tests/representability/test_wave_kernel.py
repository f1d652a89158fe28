"""The doubling of the library against the wave-kernel functions by Padé approximants.

cosh √X = q(X)⁻¹p(X), the [m/m] approximant after X ← X/4^s; sinhc √X = 2 d/dx of it,
2 q⁻²(p'q − pq'); then s times C ← 2C² − I, S ← SC.

Reference: Nadukandi and Higham, "Computing the wave-kernel matrix functions", SIAM J.
Sci. Comput. 40 (2018), algorithm 5.1 in its simplest form: one degree, m = 7, and the
norm itself in place of estimates of ‖X^k‖^{1/k}.
"""

import math

import mpmath
import numpy as np
import pytest

from secondorder.representability import Continuous

DEGREE, RADIUS = 7, 9.0  # where the error of both kernels is below 1e-15


def coefficients(degree):
    with mpmath.workdps(60):
        taylor = [1 / mpmath.factorial(2 * j) for j in range(2 * degree + 1)]
        p, q = mpmath.pade(taylor, degree, degree)
    return np.array(p, dtype=float), np.array(q, dtype=float)


P, Q = coefficients(DEGREE)


def wave_kernels(X):
    """Return cosh √X and sinhc √X."""
    norm = np.linalg.norm(X, 1)
    halvings = max(0, math.ceil(math.log(max(norm, 1e-300) / RADIUS, 4)))
    X = X / 4.0**halvings
    powers = [np.eye(len(X))]
    for _ in range(DEGREE):
        powers.append(powers[-1] @ X)
    p, q = (sum(a * X_k for a, X_k in zip(c, powers, strict=True)) for c in (P, Q))
    steps = range(1, DEGREE + 1)
    dp, dq = (sum(k * c[k] * powers[k - 1] for k in steps) for c in (P, Q))
    C = np.linalg.solve(q, p)
    S = 2 * np.linalg.solve(q, dp - dq @ C)
    for _ in range(halvings):
        C, S = 2 * C @ C - np.eye(len(X)), S @ C
    return C, S


def response(theta, epsilon):
    """Return Ψ_ε(θ) for T = 1; overflows where cosh κ does."""
    kappa = 1 / (2 * epsilon)
    C, S = wave_kernels(kappa**2 * np.eye(len(theta)) + 2 * kappa * theta)
    return math.exp(-kappa) * (C + kappa * S)


def exact_response(theta, epsilon):
    """Ψ_ε(θ) to 60 digits, by Taylor terms and 40 doublings."""
    with mpmath.workdps(60):
        d, kappa = len(theta), 1 / (2 * mpmath.mpf(epsilon))
        eye = mpmath.eye(d)
        W = (mpmath.matrix(theta.tolist()) * 2 * kappa + eye * kappa**2) / 4**40
        C, S = eye + W / 2 + W * W / 24, eye + W / 6 + W * W / 120
        for _ in range(40):
            C, S = 2 * C * C - eye, S * C
        return np.array((mpmath.exp(-kappa) * (C + kappa * S)).tolist(), dtype=float)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5, 5.0, 100.0])
def test_doubling_is_as_accurate_as_the_wave_kernel_algorithm(epsilon):
    rng, ours, theirs = np.random.default_rng(20), [], []
    for k in range(6):
        theta = rng.standard_normal((4, 4)) * 10 ** rng.uniform(-1, 1.3)
        theta = np.triu(3 * theta) if k % 2 else theta  # far from normal, too
        exact = exact_response(theta, epsilon)
        size = np.linalg.norm(exact)
        found = Continuous(epsilon).response(theta)
        ours.append(np.linalg.norm(found - exact) / size)
        theirs.append(np.linalg.norm(response(theta, epsilon) - exact) / size)
    assert max(ours) < 3 * max(theirs) + 2e-15
    assert max(ours) < 1e-12
