"""Matrices with known Jordan structure, and the ensembles witnesses are tested on."""

import numpy as np
from scipy.linalg import block_diag


def jordan(size, value):
    return value * np.eye(size) + np.eye(size, k=1)


def jordan_matrix(blocks):
    """Return the direct sum of J_size(value) over pairs (value, size)."""
    return block_diag(*[jordan(size, value) for value, size in blocks])


def complex_jordan(size, real, imaginary):
    """Return the real form of J_size(real ± i imaginary)."""
    rotation = np.array([[real, -imaginary], [imaginary, real]])
    return np.kron(np.eye(size), rotation) + np.kron(np.eye(size, k=1), np.eye(2))


def unimodular(rng, d):
    """Return an integer matrix and its inverse, both exact in floating point."""
    lower = np.tril(rng.integers(-1, 2, (d, d)), -1) + np.eye(d)
    upper = np.triu(rng.integers(-1, 2, (d, d)), 1) + np.eye(d)
    inverse = np.linalg.inv(upper).round() @ np.linalg.inv(lower).round()
    return lower @ upper, inverse


def similar(rng, A):
    P, inverse = unimodular(rng, len(A))
    return P @ A @ inverse


def orthogonal(rng, d):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def shifted_gauss(rng, d):
    return rng.standard_normal((d, d)) / np.sqrt(d) + 2 * np.eye(d)


def squared_gauss(rng, d):
    return np.linalg.matrix_power(rng.standard_normal((d, d)) / np.sqrt(d), 2)


def rotation(rng, d):
    Q = orthogonal(rng, d)
    Q[:, 0] *= np.linalg.det(Q)
    return Q


def permutation(rng, d):
    """Return a permutation with an even number of even cycles: −1 an even number."""
    while True:
        P = np.eye(d)[rng.permutation(d)]
        if np.sum(np.abs(np.linalg.eigvals(P) + 1) < 1e-8) % 2 == 0:
            return P


def singular_definite(rng, d):
    A = rng.standard_normal((d, max(d // 2, 1))) / np.sqrt(d)
    return A @ A.T


def paired_negative(rng, d):
    Q, pairs = orthogonal(rng, d), max(d // 6, 1)
    values = [*[-2.0] * (2 * pairs), *rng.uniform(0.1, 3, d - 2 * pairs)]
    return Q @ np.diag(values) @ Q.T


def triangular(rng, d):
    upper = np.triu(rng.standard_normal((d, d)), 1) / np.sqrt(d)
    return upper + np.diag(rng.uniform(0.3, 2, d))


ENSEMBLES = [
    shifted_gauss,
    squared_gauss,
    rotation,
    permutation,
    singular_definite,
    paired_negative,
    triangular,
]
