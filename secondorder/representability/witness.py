"""A real θ with Ψ(θ) = D, for any D the criterion admits.

1. Real Schur form; each real eigenvalue that the principal inverse g cannot lift (on
   its cut) is split off by a Sylvester equation and lifted in a Jordan basis:
   below the threshold two equal blocks become one complex block g(J) = A + iB, written
   [[A, −B], [B, A]]; at the critical value two nearly equal blocks become one block
   over θ*.
2. The rest: g of a matrix by the block Schur-Parlett method, with Newton in the
   commutant for groups of close eigenvalues.
3. Newton steps on the whole, kept while the residual drops.

References: Davies & Higham, "A Schur-Parlett algorithm for computing matrix functions",
SIAM J. Matrix Anal. 25 (2003); Higham, "Functions of Matrices", SIAM 2008, chapters 7,
9 and 11.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import schur
from scipy.linalg.lapack import dtrsyl, ztrexc, ztrsyl
from scipy.spatial.distance import squareform

from .bridge import network_of
from .checks import length, like, model, square_matrix
from .criterion import TOLERANCE, NotRepresentable, check_tolerance, judge
from .inverse import commuting_newton
from .jordan import Eigenvalue, lead
from .lift import lift_eigenvalue
from .norm import min_norm, optimality
from .polish import polish
from .propagator import Array, ComplexArray, Matrix, MatrixLike, Propagator, RealArray

Grouping: TypeAlias = tuple[str, float]  # how to link, and up to which distance
Solver: TypeAlias = Callable[..., tuple[Array, float, int]]  # LAPACK's ?trsyl

# How eigenvalues are grouped, by distance relative to that from the cut.  Small groups
# suit almost everything.  Far from normal, many close eigenvalues need groups that are
# well separated ("single"), or large.  Tried in turn until the residual is rounding.
GROUPINGS: Sequence[Grouping] = (("complete", 0.2), ("single", 0.1), ("complete", 1.0))
ENOUGH = 1e-12  # relative residual
SHOWN = 8  # the largest d for which a notebook shows θ


@dataclass(frozen=True)
class Witness:
    """A real θ that reaches D.

    Attributes
    ----------
    theta : array or Tensor, shape (d, d)
        float64.
    residual : float
        ‖Ψ(θ) − D‖ in the Frobenius norm, evaluated: the certificate.
    optimality : float
        ‖θ‖₂ over ``min_norm(D, m)``: no θ is shorter by more than this factor.
    model : Continuous, Discrete or FirstOrder
    """

    theta: Matrix = field(repr=False)
    residual: float
    optimality: float
    model: Propagator

    def _repr_html_(self) -> str:
        """θ as a table, or its shape where it is large, and its certificate."""
        theta = self.theta
        title = (
            f"<p>θ {tuple(theta.shape)} reaches D under {escape(repr(self.model))}: "
            f"residual {self.residual:.2g}, optimality {self.optimality:.3g}</p>"
        )
        if len(theta) > SHOWN:
            return title
        rows = "".join(
            f"<tr>{''.join(f'<td>{float(z):.5g}</td>' for z in row)}</tr>"
            for row in theta
        )
        return f"{title}<table>{rows}</table>"

    def module(self, network: Callable[..., Any], **options: Any) -> Any:
        """Return a network that computes D: ``witness.module(so.MomentumNet)``.

        ``so.SecondOrderODE`` for a Continuous model; ``options`` are passed on.
        """
        return network_of(self.theta, self.model, network, **options)


def represent(D: MatrixLike, m: Propagator, *, tolerance: float = TOLERANCE) -> Witness:
    """Construct a real θ with Ψ(θ) = D.

    For normal D it is the solution of smallest Frobenius norm among normal θ (as far
    as the principal inverse has the smallest modulus, see ``Continuous.inverse``).

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder
    tolerance : float, default 1e-12
        As in ``is_representable``.

    Returns
    -------
    Witness
        ``.theta`` (array in, array out; tensor in, float64 tensor out), ``.residual``,
        ``.optimality``, ``.module(so.SecondOrderODE)``.

    Raises
    ------
    NotRepresentable
        If no real θ exists; carries the verdict.
    ArithmeticError
        If θ exists but its construction leaves the range of float64.
    ValueError
        If ``D`` is not a finite real square matrix.

    Warns
    -----
    RuntimeWarning
        If θ exists but float64 does not resolve it (a large Jordan block just above
        the threshold makes ‖θ‖ explode); the residual tells by how much.

    Examples
    --------
    >>> import numpy as np
    >>> from secondorder import representability as rep
    >>> m = rep.Continuous(0.5)
    >>> witness = rep.represent([[0.0, 1.0], [-1.0, 0.0]], m)
    >>> witness.theta.round(6)
    array([[-1.120348,  2.673653],
           [-2.673653, -1.120348]])
    >>> witness.residual < 1e-14
    True

    References
    ----------
    Higham, "Functions of Matrices", SIAM 2008, chapter 9 (Schur-Parlett).
    """
    array = square_matrix(D)
    verdict, spectrum = judge(array, model(m), check_tolerance(tolerance))
    if spectrum is None:
        raise NotRepresentable(verdict)
    lifted = [e for e in spectrum.low if e.value <= m.principal_threshold + e.noise]
    labels = np.full(len(array), -1)
    for k, e in enumerate(lifted):
        labels[list(e.index)] = k
    size = length(array)
    trials: list[tuple[RealArray, float]] = []
    with np.errstate(all="ignore"):
        for grouping in GROUPINGS:
            try:
                theta = _lift(spectrum.T, labels, lifted, m, grouping)
            except (np.linalg.LinAlgError, OverflowError):
                continue
            trials.append(polish(spectrum.Q @ theta @ spectrum.Q.T, array, m))
            if trials[-1][1] <= ENOUGH * size:
                break
    theta, residual = min(trials, key=lambda t: t[1], default=(array, math.inf))
    if not math.isfinite(residual):
        raise ArithmeticError(
            f"a witness exists ({verdict.reason}), but float64 cannot compute it: "
            "the construction leaves its range; increase ε (or γ), or rescale `D`, of "
            f"norm {size:.1e}"
        )
    if not residual <= 1e-8 * size + 1e-12:
        warnings.warn(
            f"a witness exists, but float64 resolves it only to ‖Ψ(θ) − D‖ = "
            f"{residual:.1e}, with ‖θ‖ = {length(theta):.1e}; increase ε (or "
            "γ) to move the threshold away from the eigenvalues",
            RuntimeWarning,
            stacklevel=2,
        )
    ratio = optimality(float(np.linalg.norm(theta, 2)), min_norm(array, m))
    return Witness(like(theta, D), residual, ratio, m)


def _lift(
    T: RealArray,
    labels: NDArray[np.int_],
    lifted: list[Eigenvalue],
    m: Propagator,
    grouping: Grouping,
) -> RealArray:
    """Return θ with Ψ(θ) = T for a real Schur form whose labels name the eigenvalues.

    One labelled eigenvalue is moved to the front and decoupled,
    T = Z [[B, RC − BR], [0, C]] Zᵀ; θ has the same form.
    """
    if not len(T):
        return T
    label = labels.max()
    if label < 0:
        return _principal(T, m, grouping)
    chosen = labels == label
    n = np.count_nonzero(chosen)
    T, Z, _ = lead(T, np.flatnonzero(chosen))
    B, C = T[:n, :n], T[n:, n:]
    theta_B = lift_eigenvalue(B, lifted[label], m)
    theta_C = _lift(C, labels[~chosen], lifted, m, grouping)
    R = _decouple(B, C, T[:n, n:], dtrsyl)
    theta = np.zeros_like(T)
    theta[:n, :n], theta[n:, n:] = theta_B, theta_C
    theta[:n, n:] = R @ theta_C - theta_B @ R
    return Z @ theta @ Z.T


def _decouple(B: Array, C: Array, coupling: Array, solver: Solver) -> Array:
    """Solve R C − B R = coupling for (quasi-)triangular B and C."""
    if not (B.size and C.size):
        return np.zeros_like(coupling)
    R, scale, _ = solver(B, C, -coupling, isgn=-1)
    return R / scale


# -- everything off the cut: block Schur-Parlett ---------------------------------------


def _principal(T: Array, m: Propagator, grouping: Grouping) -> RealArray:
    """Return the real matrix g(T), for T without eigenvalues on the cut."""
    T, U = schur(T, output="complex")
    T, U, sizes = _gather(T, U, _group(np.diag(T), m, *grouping))
    edges = np.concatenate([[0], np.cumsum(sizes)])
    blocks = [T[i:j, i:j] for i, j in zip(edges[:-1], edges[1:], strict=True)]
    starts = m.inverse(np.array([np.diag(block).mean() for block in blocks]))
    atoms = [
        np.array([[start]]) if block.size == 1 else commuting_newton(m, block, start)
        for block, start in zip(blocks, starts, strict=True)
    ]
    return (U @ _parlett(T, atoms) @ U.conj().T).real


def _group(
    values: ComplexArray, m: Propagator, linking: str, close: float
) -> NDArray[np.int_]:
    """Label eigenvalues by groups: "complete" bounds their size, "single" the gaps."""
    if len(values) == 1:
        return np.zeros(1, dtype=int)
    beyond = values - m.principal_threshold
    to_cut = np.where(beyond.real > 0, np.abs(beyond), np.abs(values.imag))
    to_cut = np.maximum(to_cut, np.finfo(float).tiny)
    gaps = np.abs(values[:, None] - values[None, :])
    gaps = gaps / np.minimum(to_cut[:, None], to_cut[None, :])
    np.fill_diagonal(gaps, 0.0)
    tree = linkage(squareform(np.minimum(gaps, 1e300), checks=False), linking)
    return fcluster(tree, close, "distance")


def _gather(
    T: ComplexArray, U: ComplexArray, labels: Iterable[int]
) -> tuple[ComplexArray, ComplexArray, list[int]]:
    """Reorder a complex Schur form so that equal labels are neighbours."""
    labels, sizes, place = list(labels), [], 0
    while place < len(labels):
        label, start = labels[place], place
        for j in range(start, len(labels)):
            if labels[j] == label:
                if j > place:
                    T, U, _ = ztrexc(T, U, j + 1, place + 1)
                    labels.insert(place, labels.pop(j))
                place += 1
        sizes.append(place - start)
    return T, U, sizes


def _parlett(T: ComplexArray, atoms: list[Array]) -> Array:
    """Return g of a block triangular T from its diagonal blocks, by halves."""
    if len(atoms) == 1:
        return atoms[0]
    half = len(atoms) // 2
    n = sum(len(atom) for atom in atoms[:half])
    B, C = T[:n, :n], T[n:, n:]
    G = np.zeros_like(T)
    G[:n, :n], G[n:, n:] = _parlett(B, atoms[:half]), _parlett(C, atoms[half:])
    R = _decouple(B, C, T[:n, n:], ztrsyl)
    G[:n, n:] = R @ G[n:, n:] - G[:n, :n] @ R
    return G
