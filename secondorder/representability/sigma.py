"""Where D − μI is farthest from singular: max σ_min((D − μI)W) over intervals of μ.

σ_min moves by at most ‖W‖ |δμ|, so that an interval [a, b] cannot exceed
(f(a) + f(b) + ‖W‖(b − a))/2: branch and bound, then a refinement of the best place.
In many dimensions σ_min comes from Lanczos steps on the inverse of a triangular form,
O(d²) each, in place of an SVD for every μ.
"""

import heapq
from collections.abc import Callable, Iterable

import numpy as np
from scipy.linalg import rsf2csf, schur
from scipy.linalg.lapack import ztrtrs
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from .jordan import schur_eigenvalues
from .propagator import ComplexArray, RealArray

LARGE = 80  # dimensions from which an SVD for every μ costs more than Lanczos steps
CLOSE = 1e-3  # relative gap at which branch and bound ends
BUDGET = 120  # evaluations


def lower_bound(
    D: RealArray, threshold: float, root: RealArray | None = None
) -> tuple[float, float | None]:
    """Return max σ_min((D − μI)W) over the μ <= λ with det(D − μI) < 0, and that μ.

    det(D − μI) is positive for μ → −∞ and changes sign at each real eigenvalue.

    Parameters
    ----------
    D : array, shape (d, d)
    threshold : float
        λ.
    root : array, shape (d, d), optional
        W, symmetric; the identity if left out.
    """
    T, Q = schur(D, output="real")
    values = schur_eigenvalues(T)
    real = np.sort(values[values.imag == 0].real)
    edges: list[float] = [*real[real < threshold]]
    if len(edges) % 2:
        edges.append(threshold)
    if not edges:
        return 0.0, None
    if len(D) < LARGE:
        height = _by_svd(D, root)
    else:
        complex_T, complex_Q = rsf2csf(T, Q)
        height = _by_lanczos(complex_T, complex_Q, D, root)
    rate = 1.0 if root is None else float(np.linalg.norm(root, 2))
    spans = zip(edges[::2], edges[1::2], strict=True)
    return _highest(height, spans, rate)


def _by_svd(D: RealArray, root: RealArray | None) -> Callable[[float], float]:
    """Return μ -> σ_min by a singular value decomposition."""
    eye = np.eye(len(D))

    def height(mu: float) -> float:
        A = D - mu * eye
        A = A if root is None else A @ root
        return float(np.linalg.svd(A, compute_uv=False)[-1])

    return height


def _by_lanczos(
    T: ComplexArray, Q: ComplexArray, D: RealArray, root: RealArray | None
) -> Callable[[float], float]:
    """Return μ -> σ_min by the largest eigenvalue of (A Aᴴ)⁻¹, A = Q(T − μ)Qᴴ W."""
    n, exact = len(T), _by_svd(D, root)
    try:
        back = None if root is None else np.linalg.inv(root) @ Q
    except np.linalg.LinAlgError:  # no data in some direction
        return lambda mu: 0.0
    guess = np.ones(n, dtype=complex)
    places = np.arange(n)

    def height(mu: float) -> float:
        nonlocal guess
        A = T.copy(order="F")
        A[places, places] -= mu
        small = np.abs(A[places, places]) < 1e-30  # an edge, where σ_min is 0
        A[places[small], places[small]] = 1e-30

        def apply(x: ComplexArray) -> ComplexArray:
            # W⁻¹ Q (T − μ)⁻¹ (T − μ)⁻ᴴ Qᴴ W⁻¹, of which Q may be left out if W = I
            x = x if back is None else back.conj().T @ x
            x = ztrtrs(A, ztrtrs(A, x, trans=2)[0])[0]
            return x if back is None else back @ x

        operator = LinearOperator((n, n), matvec=apply, dtype=complex)
        try:
            top, vectors = eigsh(operator, 1, which="LA", v0=guess, tol=1e-9, ncv=16)
        except (ArpackError, np.linalg.LinAlgError):
            return exact(mu)
        guess = vectors[:, 0]
        return float(max(top[0], 0.0) ** -0.5) if top[0] > 0 else exact(mu)

    return height


def _highest(
    height: Callable[[float], float], spans: Iterable[tuple[float, float]], rate: float
) -> tuple[float, float | None]:
    """Return the largest height over the spans, whose slope is ``rate`` or less."""
    best, at, around = 0.0, None, (0.0, 0.0)
    heap: list[tuple[float, float, float, float, float]] = []

    def push(a: float, b: float, fa: float, fb: float) -> None:
        heapq.heappush(heap, (-(fa + fb + rate * (b - a)) / 2, a, b, fa, fb))

    def see(value: float, mu: float, low: float, high: float) -> None:
        nonlocal best, at, around
        if value > best:
            best, at, around = value, mu, (low, high)

    for low, high in spans:
        fa, fb = height(low), height(high)
        see(fa, low, low, high)
        see(fb, high, low, high)
        push(low, high, fa, fb)
    for _ in range(BUDGET):
        bound, a, b, fa, fb = heap[0]
        if -bound <= best * (1 + CLOSE):
            break
        heapq.heappop(heap)
        middle = (a + b) / 2
        value = height(middle)
        see(value, middle, a, b)
        push(a, middle, fa, value)
        push(middle, b, value, fb)
    low, high = around
    if at is None or not high > low:
        return best, at
    tiny = 1e-12 * max(abs(low), abs(high))
    found = minimize_scalar(
        lambda mu: -height(mu), bounds=(low, high), method="bounded",
        options={"xatol": tiny, "maxiter": 100},
    )  # fmt: skip
    see(float(-found.fun), float(found.x), low, high)
    return best, at
