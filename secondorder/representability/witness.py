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

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import schur
from scipy.linalg.lapack import dtrsyl, ztrexc, ztrsyl
from scipy.spatial.distance import squareform

from .checks import like, square_matrix
from .criterion import TOLERANCE, NotRepresentable, check_tolerance, groups, judge, side
from .discrete import Discrete
from .fold import Fold
from .inverse import commuting_newton
from .jordan import Eigenvalue, jordan_chains, lead
from .propagator import Array, ComplexArray, Matrix, MatrixLike, Propagator, RealArray

Grouping: TypeAlias = tuple[str, float]  # how to link, and up to which distance
Part: TypeAlias = tuple[RealArray, Array]  # a basis, and θ in it
Solver: TypeAlias = Callable[..., tuple[Array, float, int]]  # LAPACK's ?trsyl

# How eigenvalues are grouped, by distance relative to that from the cut.  Small groups
# suit almost everything.  Far from normal, many close eigenvalues need groups that are
# well separated ("single"), or large.  Tried in turn until the residual is rounding.
GROUPINGS: Sequence[Grouping] = (("complete", 0.2), ("single", 0.1), ("complete", 1.0))
ENOUGH = 1e-12  # relative residual


@dataclass(frozen=True)
class Witness:
    """A real θ that reaches D.

    Attributes
    ----------
    theta : array or Tensor, shape (d, d)
        float64.
    residual : float
        ‖Ψ(θ) − D‖ in the Frobenius norm, evaluated: the certificate.
    """

    theta: Matrix = field(repr=False)
    residual: float


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
        ``.theta`` (array in, array out; tensor in, float64 tensor out), ``.residual``.

    Raises
    ------
    NotRepresentable
        If no real θ exists; carries the verdict.
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
    verdict, spectrum = judge(array, m, check_tolerance(tolerance))
    if spectrum is None:
        raise NotRepresentable(verdict)
    lifted = [e for e in spectrum.low if e.value <= m.principal_threshold + e.noise]
    labels = np.full(len(array), -1)
    for k, e in enumerate(lifted):
        labels[list(e.index)] = k
    trials: list[tuple[RealArray, float]] = []
    for grouping in GROUPINGS:
        theta = _lift(spectrum.T, labels, lifted, m, grouping)
        trials.append(_polish(spectrum.Q @ theta @ spectrum.Q.T, array, m))
        if trials[-1][1] <= ENOUGH * np.linalg.norm(array):
            break
    theta, residual = min(trials, key=lambda trial: trial[1])
    if not residual <= 1e-8 * np.linalg.norm(array) + 1e-12:
        warnings.warn(
            f"a witness exists, but float64 resolves it only to ‖Ψ(θ) − D‖ = "
            f"{residual:.1e}, with ‖θ‖ = {np.linalg.norm(theta):.1e}. Increase ε (or "
            "γ) to move the threshold away from the eigenvalues.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Witness(like(theta, D), residual)


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
    theta_B = _lift_eigenvalue(B, lifted[label], m)
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


# -- one real eigenvalue, in its Jordan basis ------------------------------------------


def _lift_eigenvalue(B: RealArray, e: Eigenvalue, m: Propagator) -> RealArray:
    """Return a real θ with Ψ(θ) = B, for a block B with the one real eigenvalue e."""
    N = B - e.value * np.eye(len(B))
    chains = jordan_chains(N, max(e.noise, np.abs(N).max() * (len(N) == 1)))
    if m.fold and side(e, m) == "at":
        parts = _fold_parts(chains, m.fold, m)
    else:
        parts = _pair_parts(chains, e.value, m)
    X = np.hstack([basis for basis, _ in parts])
    theta, start = np.zeros_like(B), 0
    for _, block in parts:
        stop = start + len(block)
        theta[start:stop, start:stop] = block
        start = stop
    return X @ theta @ np.linalg.inv(X)


def _pair_parts(chains: list[RealArray], value: float, m: Propagator) -> list[Part]:
    """Lift equal chains two by two to conjugate blocks, single ones to real blocks."""
    parts, waiting = [], None
    above = m.inverse(value)  # on the cut, its value from above
    pairing = value < m.principal_threshold and _is_regular(above, m)
    for chain in chains:
        if not pairing:
            parts.append((chain, _real_block(chain.shape[1], value, m)))
        elif waiting is None:
            waiting = chain
        elif waiting.shape == chain.shape:
            G = _jordan_inverse(chain.shape[1], value, above, m)
            block = np.block([[G.real, -G.imag], [G.imag, G.real]])
            parts.append((np.hstack([waiting, chain]), block))
            waiting = None
        else:  # a longer chain is left over: only a network of layers can lift it
            parts.append((waiting, _real_block(waiting.shape[1], value, m)))
            waiting = chain
    if waiting is not None:
        parts.append((waiting, _real_block(waiting.shape[1], value, m)))
    return parts


def _is_regular(theta: complex, m: Propagator) -> bool:
    """Return whether Ψ' is far enough from 0 at θ for a Jordan block to be lifted."""
    slope = abs(m.derivative(theta)) * (1 + abs(theta))
    return slope > 1e-2 * abs(m.response(theta))


def _real_block(n: int, value: float, m: Propagator) -> RealArray:
    """Return a real θ over one Jordan block, from a simple real inverse image."""
    if value >= m.principal_threshold:
        return _jordan_inverse(n, value, m.inverse(value), m)
    # Only layers have other real preimages to offer.
    roots = cast(Discrete, m).real_preimages(value)
    regular = [root for root in roots if _is_regular(root, m)]
    if regular:
        root = min(regular, key=abs)
    else:
        root = max(roots, key=lambda root: abs(m.derivative(root)))
    return _jordan_inverse(n, value, root, m)


def _jordan_inverse(n: int, value: float, root: complex, m: Propagator) -> Array:
    """Return G with Ψ(G) = J_n(value) and the eigenvalue ``root``."""
    return commuting_newton(m, _jordan(n, value), root)


def _jordan(n: int, value: float) -> RealArray:
    """Return the Jordan block J_n(value)."""
    return value * np.eye(n) + np.eye(n, k=1)


def _fold_parts(chains: list[RealArray], fold: Fold, m: Propagator) -> list[Part]:
    """Lift groups of chains at the critical value to one Jordan block each.

    J_s over the fold goes to a matrix K with the blocks of the group; in a Jordan basis
    Y of K, the block is Y⁻¹ J_s Y.
    """
    parts, start = [], 0
    sizes = [chain.shape[1] for chain in chains]
    for group in groups(sizes, fold.order):
        count = sum(size > 0 for size in group)
        basis = np.hstack(chains[start : start + count])
        start += count
        over = _jordan(sum(group), fold.at)
        K = m.response(over) - fold.value * np.eye(len(over))
        K = np.triu(K, fold.order)  # the entries before are 0 up to rounding
        Y = np.hstack(jordan_chains(K, 1e-12 * float(np.linalg.norm(K))))
        parts.append((basis, np.linalg.solve(Y, over @ Y)))
    return parts


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


# -- Newton on the whole ---------------------------------------------------------------


@np.errstate(all="ignore")  # a step may overshoot; then it is not taken
def _polish(
    theta: RealArray, D: RealArray, m: Propagator, steps: int = 3
) -> tuple[RealArray, float]:
    """Return θ and ‖Ψ(θ) − D‖ after Newton steps, taken only while they help."""
    error = D - m.response(theta)
    residual = np.linalg.norm(error)
    for _ in range(steps):
        try:
            trial = theta + _newton_step(theta, error, m)
            trial_error = D - m.response(trial)
        except (np.linalg.LinAlgError, ValueError):  # defective θ: no eigenbasis
            break
        trial_residual = np.linalg.norm(trial_error)
        if not trial_residual < residual:
            break
        theta, error, residual = trial, trial_error, trial_residual
    return theta, float(residual)


def _newton_step(theta: RealArray, error: RealArray, m: Propagator) -> RealArray:
    """Solve the derivative of Ψ at θ = U diag(μ) U⁻¹ for the step that removes error.

    In that basis it multiplies by the divided differences Ψ[μ_i, μ_j].  Directions that
    Ψ does not move (μ_i ≠ μ_j over the same value) are left alone.
    """
    mu, U = np.linalg.eig(theta)
    rhs = np.linalg.solve(U, error @ U)
    psi = m.response(mu)
    gap = mu[:, None] - mu[None, :]
    middle = (mu[:, None] + mu[None, :]) / 2
    equal = np.abs(gap) <= 1e-5 * (1 + np.abs(middle))
    slopes = m.derivative(middle, elementwise=True)
    quotient = (psi[:, None] - psi[None, :]) / np.where(equal, 1, gap)
    quotient = np.where(equal, slopes, quotient)
    dead = np.abs(quotient) <= 1e-9 * np.abs(quotient).max()
    step = np.where(dead, 0, rhs / np.where(dead, 1, quotient))
    return np.linalg.solve(U.T, (U @ step).T).T.real
