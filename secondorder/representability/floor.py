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

import numpy as np
from scipy.linalg import schur
from scipy.optimize import minimize_scalar

from .checks import like, square_matrix
from .criterion import is_representable
from .jordan import schur_eigenvalues
from .propagator import Matrix, MatrixLike, Propagator, RealArray


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


def loss_floor(D: MatrixLike, m: Propagator) -> LossFloor:
    """Return inf ‖Ψ(θ) − D‖ over real θ, in the Frobenius norm, or a bound from below.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder

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
    value, at = _lower_bound(array, m.threshold)
    planar = len(array) <= 2
    if planar:
        value = _planar_distance(array, m.threshold)
    if value == 0:
        return LossFloor(0.0, True, None)
    exact = planar or _is_closure(_corrected(array, at, m.threshold), m.threshold)
    return LossFloor(value, exact, at)


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
            "nearest representable matrix is not known. Minimise ‖Ψ(θ) − D‖ "
            "numerically, from several starts."
        )
    matrix = _corrected(array, floor.at, m.threshold)
    attained = bool(is_representable(matrix, m))
    return Nearest(like(matrix, D), float(floor), attained)


def _lower_bound(D: RealArray, threshold: float) -> tuple[float, float | None]:
    """Return max σ_min(D − μI) over the μ <= λ with det(D − μI) < 0, and that μ.

    det(D − μI) is positive for μ → −∞ and changes sign at each real eigenvalue.
    """
    values = schur_eigenvalues(schur(D, output="real")[0])
    real = np.sort(values[values.imag == 0].real)
    edges: list[float] = [*real[real < threshold]]
    if len(edges) % 2:
        edges.append(threshold)
    best: float = 0.0
    at: float | None = None
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        value, place = _highest(D, low, high)
        if value > best:
            best, at = value, place
    return best, at


def _highest(
    D: RealArray, low: float, high: float, points: int = 33
) -> tuple[float, float]:
    """Return the largest σ_min(D − μI) for μ in [low, high], with its μ."""

    def negative(mu: float) -> float:
        return -np.linalg.svd(D - mu * np.eye(len(D)), compute_uv=False)[-1]

    grid = np.linspace(low, high, points)
    heights = [-negative(mu) for mu in grid]
    k = int(np.argmax(heights))
    left, right = grid[max(k - 1, 0)], grid[min(k + 1, points - 1)]
    options = {"xatol": 1e-12 * max(abs(left), abs(right)), "maxiter": 200}
    refined = minimize_scalar(
        negative, bounds=(left, right), method="bounded", options=options
    )
    inside = -refined.fun, float(refined.x)
    return max((heights[k], float(grid[k])), inside, key=lambda pair: pair[0])


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
    return max(0.0, math.hypot(q, r) - math.hypot(s, max(p, 0.0)))


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


def _is_closure(A: RealArray, threshold: float) -> bool:
    """Return whether A lies in the closure of the representable set, up to rounding."""
    return _lower_bound(A, threshold)[0] <= 1e-7 * float(np.linalg.norm(A))
