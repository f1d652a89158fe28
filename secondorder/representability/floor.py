"""How close a model can come to a map it cannot represent.

The closures of the representable sets are shifts of one another,

    cl {Ψ(θ)} = {A : det(A − μI) >= 0 for all real μ <= λ} = λI + cl {e^θ},

so the distance of D to them is bounded below, in the spectral and Frobenius norms, by

    sup { σ_min(D − μI) : μ <= λ, det(D − μI) < 0 }:

on the way from D to any A of the closure some B has det(B − μI) = 0, and the nearest
such B is σ_min(D − μI) away.  For d <= 2, and whenever the rank-one correction found
at the best μ lies in the closure, the bound is the distance.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from .checks import like, model, power_of_two, square_matrix
from .criterion import TOLERANCE, is_representable, judge
from .propagator import Matrix, MatrixLike, Propagator, RealArray
from .sigma import lower_bound


class LossFloor(float):
    """A distance that knows whether it is exact; otherwise a float.

    Attributes
    ----------
    exact : bool
        True if the value is the distance to the closure of the representable set, False
        if it is only a lower bound of it.
    at : float or None
        The μ at which the bound is attained; None if the floor is 0.
    """

    exact: bool
    at: float | None

    def __new__(cls, value: float, exact: bool, at: float | None) -> "LossFloor":
        """Return the float ``value`` with its two attributes."""
        self = super().__new__(cls, value)
        self.exact, self.at = exact, at
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle with the two attributes."""
        return type(self), (float(self), self.exact, self.at)

    def __repr__(self) -> str:
        """Show the number and what it means."""
        return f"{float(self)!r} ({'exact' if self.exact else 'lower bound'})"


@dataclass(frozen=True)
class Nearest:
    """The nearest matrix of the closure of the representable set.

    Attributes
    ----------
    matrix : array or Tensor, shape (d, d)
    distance : float
        Frobenius (and spectral) distance, the loss floor.
    attained : bool
        Whether ``matrix`` itself is representable; if not, θ runs off to infinity as
        the loss approaches its floor.
    """

    matrix: Matrix
    distance: float
    attained: bool


def loss_floor(
    D: MatrixLike, m: Propagator, *, covariance: MatrixLike | None = None
) -> LossFloor:
    """Return inf ‖Ψ(θ) − D‖ over real θ, in the Frobenius norm, or a bound from below.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder
    covariance : array_like or Tensor, shape (d, d), optional
        S = E[xxᵀ] of the inputs (identity if left out); the floor is then that of
        ‖(Ψ(θ) − D)S^{1/2}‖, the root of the loss E‖Ψ(θ)x − Dx‖² on such data:
        sup σ_min((D − μI)S^{1/2}) over the same μ.

    Returns
    -------
    LossFloor
        A float; ``.exact`` tells a distance (always for d <= 2) from a lower bound.
        The squared loss E‖Ψ(θ)x − Dx‖² over x ~ N(0, I) is at least its square.

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> D = [[-1.0, 0.0], [0.0, 2.0]]
    >>> rep.loss_floor(D, rep.FirstOrder())
    1.0 (exact)
    >>> f"{rep.loss_floor(D, rep.Continuous(1.0)):.12f}"
    '0.386501396833'
    """
    array = square_matrix(D)
    root = None if covariance is None else _square_root(covariance, len(array))
    if judge(array, model(m), TOLERANCE)[0]:
        return LossFloor(0.0, True, None)
    if root is not None:
        return _on_data(array, m.threshold, root)
    unit = power_of_two(array)
    value, at, exact = _distance(array / unit, m.threshold / unit)
    return LossFloor(value * unit, exact, None if at is None else at * unit)


def _on_data(D: RealArray, threshold: float, root: RealArray) -> LossFloor:
    """Return the floor of ‖(A − D)W‖ over A in the closure, W = S^{1/2}."""
    unit, width = power_of_two(D), power_of_two(root)
    D, root, threshold = D / unit, root / width, threshold / unit
    value, at = lower_bound(D, threshold, root)
    if at is None:
        return LossFloor(0.0, True, None)
    if value <= 8 * np.finfo(float).eps * float(np.linalg.norm(root, 2)):
        return LossFloor(0.0, False, None)  # a direction without data, or rounding
    U, sigma, Vt = np.linalg.svd((D - at * np.eye(len(D))) @ root)
    nearest = D - sigma[-1] * np.outer(U[:, -1], np.linalg.solve(root, Vt[-1]))
    exact = _is_closure(nearest, threshold, value)
    return LossFloor(value * unit * width, exact, at * unit)


def _square_root(covariance: MatrixLike, d: int) -> RealArray:
    """Return S^{1/2} of a covariance matrix."""
    S = square_matrix(covariance, "covariance")
    scale = float(np.abs(S).max())
    values, vectors = np.linalg.eigh((S + S.T) / 2)
    symmetric = np.abs(S - S.T).max() <= 1e-8 * scale
    if len(S) != d or not symmetric or values[0] < -1e-10 * scale or not scale:
        raise ValueError(
            f"`covariance` must be symmetric, ({d}, {d}), not 0 and without negative "
            f"eigenvalues, got shape {S.shape} and least eigenvalue {values[0]:.3g}; "
            "use x.T @ x / len(x) for samples x (n, d)"
        )
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _distance(D: RealArray, threshold: float) -> tuple[float, float | None, bool]:
    """Return the floor of D, of norm about 1, the μ behind it, and whether it is exact.

    Below rounding, 8u‖D‖, it is 0.
    """
    value, at = lower_bound(D, threshold)
    planar = len(D) <= 2
    if planar:
        value = _planar_distance(D, threshold)
    if value <= _rounding(D, threshold):
        return 0.0, None, True
    exact = planar or _is_closure(_corrected(D, at, threshold), threshold, value)
    return value, at, exact


def nearest(D: MatrixLike, m: Propagator) -> Nearest:
    """Return the nearest matrix that the model comes arbitrarily close to.

    D itself if it is representable; otherwise the rank-one correction D − σuvᵀ, (σ, u,
    v) the least singular triple of D − μI at the best μ.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder

    Returns
    -------
    Nearest
        ``.matrix``, ``.distance``, ``.attained``.

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix, or if its floor is only a lower
        bound (then no closed form of the nearest matrix is known).

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> near = rep.nearest([[-1.0, 0.0], [0.0, 2.0]], rep.Continuous(0.5))
    >>> near.matrix.round(6)
    array([[-0.383322,  0.      ],
           [ 0.      ,  2.      ]])
    >>> near.attained
    True
    """
    array = square_matrix(D)
    floor = loss_floor(array, m)
    if not floor.exact:
        raise ValueError(
            f"`D` has a loss floor known only from below ({float(floor):.6g}), so its "
            "nearest representable matrix is not known; minimise ‖Ψ(θ) − D‖ "
            "numerically, from several starts"
        )
    unit = power_of_two(array)
    mu = None if floor.at is None else floor.at / unit
    matrix = _corrected(array / unit, mu, m.threshold / unit) * unit
    attained = bool(is_representable(matrix, m))
    return Nearest(like(matrix, D), float(floor), attained)


def _planar_distance(D: RealArray, threshold: float) -> float:
    """Return the exact distance for d <= 2.

    With A = D − λI = pI + q[[1, 0], [0, −1]] + r[[0, 1], [1, 0]] + s[[0, −1], [1, 0]]:
    max(0, √(q² + r²) − √(s² + max(p, 0)²)).
    """
    if threshold == -math.inf:
        return 0.0
    if len(D) == 1:
        return max(0.0, threshold - float(D[0, 0]))
    (a, b), (c, d) = D - threshold * np.eye(2)
    p, q, r, s = (a + d) / 2, (a - d) / 2, (b + c) / 2, (c - b) / 2
    outer, inner = math.hypot(q, r), math.hypot(s, max(p, 0.0))
    # The difference of squares, without cancellation: −det A where p > 0.
    squares = b * c - a * d if p > 0 else q * q + b * c
    return squares / (outer + inner) if squares > 0 else 0.0


def _corrected(D: RealArray, mu: float | None, threshold: float) -> RealArray:
    """Return D − σuvᵀ, which has the eigenvalue μ, doubled if μ lies below λ.

    D itself if there is no μ, because nothing is wrong with it.
    """
    if mu is None:
        return D.copy()
    U, sigma, Vt = np.linalg.svd(D - mu * np.eye(len(D)))
    u, v = U[:, -1], Vt[-1]
    if len(D) > 1 and mu < threshold and sigma[-2] - sigma[-1] <= 1e-6 * sigma[-2]:
        # Two singular values meet at the best μ.  Of the pairs they span, uᵀv = 0
        # makes the eigenvalue double, so that the determinant does not change sign.
        u, v = _orthogonal_pair(U[:, -2:], Vt[-2:].T)
    return D - sigma[-1] * np.outer(u, v)


def _orthogonal_pair(U: RealArray, V: RealArray) -> tuple[RealArray, RealArray]:
    """Return Uc and Vc for a unit vector c with cᵀUᵀVc = 0."""
    K = U.T @ V
    (low, high), axes = np.linalg.eigh((K + K.T) / 2)
    weights = np.sqrt(np.maximum([high, -low], 0.0))
    c = axes @ weights / max(np.linalg.norm(weights), np.finfo(float).tiny)
    return U @ c, V @ c


def _is_closure(A: RealArray, threshold: float, value: float) -> bool:
    """Return whether A lies in the closure, up to a small part of the floor."""
    return lower_bound(A, threshold)[0] <= 1e-5 * value


def _rounding(D: RealArray, threshold: float) -> float:
    """Return 8u times the norm of the part of D that has eigenvalues below λ.

    Parts are the connected components of its pattern, as in ``jordan.examine``.
    """
    count, labels = connected_components(D != 0, directed=False)
    sizes = []
    for label in range(count):
        part = D[np.ix_(labels == label, labels == label)]
        values = np.linalg.eigvals(part)
        if ((values.imag == 0) & (values.real < threshold)).any():
            sizes.append(float(np.linalg.norm(part, 2)))
    return 8 * np.finfo(float).eps * min(sizes, default=0.0)
