"""Jordan structure at real eigenvalues, as far as floating point can know it.

A matrix known to a relative error of 1e-12 does not have multiple eigenvalues; it is
close to matrices that have.  The real Schur form gives eigenvalues.  A set of them is
taken for one eigenvalue μ when the block B they span makes N = B − μI nilpotent up to
that error, which the staircase decides by orthogonal deflations:

    null(N), then the null space of N on the quotient by it, and so on to dimension 0.

The dimensions found are the increments of nullity(N^k), and conjugate to block sizes.

References: Golub & Wilkinson, "Ill-conditioned eigensystems and the computation of the
Jordan canonical form", SIAM Review 18 (1976), section 10; Kagstrom & Ruhe, ACM TOMS 6
(1980).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import ClusterNode, linkage, to_tree
from scipy.linalg import schur
from scipy.linalg.lapack import dtrsen
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist

from .checks import power_of_two
from .propagator import ComplexArray, RealArray

# Eigenvalues of a perturbed Jordan block of size n lie within (error)^{1/n} of its own,
# relative to the norm: 0.05 lets blocks up to size 9 be recognised at 1e-12.
REACH = 0.05


@dataclass(frozen=True)
class Eigenvalue:
    """A real eigenvalue with its Jordan blocks.

    Attributes
    ----------
    value : float
    sizes : tuple of int
        Sizes of its Jordan blocks, decreasing.
    noise : float
        Absolute uncertainty of ``value``.
    index : tuple of int
        Its places on the diagonal of the Schur form.
    """

    value: float
    sizes: tuple[int, ...]
    noise: float
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class Spectrum:
    """A real Schur form D = Q T Qᵀ with the real eigenvalues of interest."""

    T: RealArray
    Q: RealArray
    low: tuple[Eigenvalue, ...]


def examine(D: RealArray, below: float, tolerance: float) -> Spectrum:
    """Find the real eigenvalues of D up to ``below``, with their Jordan blocks.

    Parameters
    ----------
    D : array, shape (d, d)
    below : float
        Look at eigenvalues <= ``below``, within their uncertainty.
    tolerance : float
        Relative error ``D`` is supposed to carry.  An eigenvalue within it of 0 is
        snapped to 0 (a simple one: within 8u).  Parts of D that are not coupled by a
        single entry are judged each by its own norm; others by the norm of all.

    Returns
    -------
    Spectrum
    """
    unit = power_of_two(D)
    below = float(np.clip(below / unit, -1e300, 1e300))
    T, Q, scale = _schur_by_parts(D / unit)
    values = schur_eigenvalues(T)
    near = values.real <= below + REACH * scale
    near &= np.abs(values.imag) <= REACH * scale
    units = _units(np.flatnonzero(near), values)
    found = _split(T, units, values, scale, tolerance) if units else []
    found = [_snap(e) for e in found if e.value <= below + e.noise]
    low = [
        Eigenvalue(float(e.value * unit), e.sizes, float(e.noise * unit), e.index)
        for e in found
    ]
    return Spectrum(T * unit, Q, tuple(sorted(low, key=lambda e: e.value)))


def _schur_by_parts(D: RealArray) -> tuple[RealArray, RealArray, RealArray]:
    """Return T and Q of D = Q T Qᵀ and, for each place, the norm of its part.

    The parts are the connected components of the pattern of D: each has a rounding
    error of its own, so that diag(1e14, −0.1) keeps its −0.1.
    """
    count, labels = connected_components(D != 0, directed=False)
    order = np.argsort(labels, kind="stable")
    T, Q, scale = np.zeros_like(D), np.zeros_like(D), np.zeros(len(D))
    start = 0
    for label in range(count):
        index = order[labels[order] == label]
        inside = slice(start, start + len(index))
        part = D[np.ix_(index, index)]
        T[inside, inside], Q[index, inside] = schur(part, output="real")
        scale[inside] = np.linalg.norm(part, 2)
        start += len(index)
    return T, Q, scale


def schur_eigenvalues(T: RealArray) -> ComplexArray:
    """Return the eigenvalues of a real Schur form, in the order of its diagonal."""
    values = np.diag(T).astype(complex)
    for i in np.flatnonzero(np.diag(T, -1)):
        # LAPACK standardizes 2 x 2 blocks: equal diagonal, off-diagonal signs differ.
        half = np.sqrt(complex(T[i, i + 1] * T[i + 1, i]))
        values[i], values[i + 1] = T[i, i] + half, T[i, i] - half
    return values


def lead(T: RealArray, index: Collection[int]) -> tuple[RealArray, RealArray, float]:
    """Reorder a real Schur form so that the eigenvalues at ``index`` come first.

    Returns
    -------
    T, Z : arrays, shape (d, d)
        The reordered form and the orthogonal Z with Z T_new Zᵀ = T_old.
    projector_norm : float
        Norm of the spectral projector of the leading eigenvalues (1 if orthogonal).
    """
    n = len(T)
    if len(index) == n:
        return T, np.eye(n), 1.0
    select = np.zeros(n, dtype=np.int32)
    select[list(index)] = 1
    new, Z, _, _, _, s, _, _ = dtrsen(select, T, np.eye(n), job=b"E", lwork=n * n)
    return new, Z, 1 / max(s, np.finfo(float).tiny)


def staircase(N: RealArray, noise: float) -> list[RealArray] | None:
    """Return bases V_k of null(N^k) / null(N^{k−1}), k = 1, 2, …, or None.

    None means that N is not nilpotent to within ``noise``.

    Parameters
    ----------
    N : array, shape (n, n)
    noise : float
        Singular values up to this count as 0.

    Returns
    -------
    list of arrays, shape (n, w_k), with orthonormal columns, or None
    """
    steps, rest = [], np.eye(len(N))
    while rest.shape[1]:
        _, sigma, Vt = np.linalg.svd(rest.T @ N @ rest)
        null = sigma <= noise
        if not null.any():
            return None
        steps.append(rest @ Vt[null].T)
        rest = rest @ Vt[~null].T
    return steps


def block_sizes(steps: list[RealArray]) -> tuple[int, ...]:
    """Return the Jordan block sizes, decreasing, from the bases of ``staircase``."""
    widths = [step.shape[1] for step in steps]
    return tuple(sum(w > i for w in widths) for i in range(widths[0]))


def jordan_chains(N: RealArray, noise: float) -> list[RealArray]:
    """Return the chains [N^{k−1}g, …, Ng, g] of a nilpotent N, longest first.

    Parameters
    ----------
    N : array, shape (n, n)
    noise : float
        As in ``staircase``.

    Returns
    -------
    list of arrays, shape (n, k), in each of which N acts as one Jordan block

    Raises
    ------
    LinAlgError
        If N is not nilpotent to within ``noise``.
    """
    steps = staircase(N, noise)
    if steps is None:
        raise np.linalg.LinAlgError(
            f"`D` has Jordan blocks that float64 does not resolve to {noise:.1e}; "
            "raise `tolerance`"
        )
    chains: list[RealArray] = []
    for k in range(len(steps), 0, -1):
        V = steps[k - 1]
        # What longer chains already cover of this level, in its own coordinates.
        covered = [V.T @ chain[:, k - 1] for chain in chains]
        free = V
        if covered:
            full, _ = np.linalg.qr(np.array(covered).T, mode="complete")
            free = V @ full[:, len(covered) :]
        for g in free.T:
            chain = [g]
            for _ in range(k - 1):
                chain.append(N @ chain[-1])
            chains.append(np.array(chain[::-1]).T)
    return chains


def _units(index: Iterable[int], values: ComplexArray) -> list[tuple[int, ...]]:
    """Group places into real eigenvalues (i,) and conjugate pairs (i, i+1)."""
    pairs = [(i, i + 1) for i in index if values[i].imag > 0]
    return pairs + [(i,) for i in index if values[i].imag == 0]


def _split(
    T: RealArray,
    units: list[tuple[int, ...]],
    values: ComplexArray,
    scale: RealArray,
    tolerance: float,
) -> list[Eigenvalue]:
    """Return the real eigenvalues among ``units``, largest admissible groups first.

    Walks down the single-linkage tree of the points (Re, |Im|).
    """
    if len(units) == 1:
        one = _recognise(T, units, values, scale, tolerance)
        return [one] if one else []
    points = [(values[u[0]].real, abs(values[u[0]].imag)) for u in units]

    def walk(node: ClusterNode) -> list[Eigenvalue]:
        group = [units[i] for i in node.pre_order()]
        one = _recognise(T, group, values, scale, tolerance)
        if one:
            return [one]
        return [] if node.is_leaf() else walk(node.left) + walk(node.right)

    return walk(to_tree(linkage(pdist(np.array(points)), "single")))


def _recognise(
    T: RealArray,
    units: list[tuple[int, ...]],
    values: ComplexArray,
    scale: RealArray,
    tolerance: float,
) -> Eigenvalue | None:
    """Return the one eigenvalue that a group of computed ones stands for, or None."""
    index = tuple(sorted(i for unit in units for i in unit))
    mean = values[list(index)].real.mean()
    n, unit_roundoff = len(index), np.finfo(float).eps
    size = float(scale[list(index)].max())
    if np.abs(values[list(index)] - mean).max() > REACH * size:
        return None
    new, _, projector = lead(T, index)
    if n == 1:
        return Eigenvalue(mean, (1,), 8 * unit_roundoff * size * projector, index)
    noise = tolerance * size * projector
    steps = staircase(new[:n, :n] - mean * np.eye(n), noise)
    if steps is None:
        return None
    return Eigenvalue(mean, block_sizes(steps), noise, index)


def _snap(e: Eigenvalue) -> Eigenvalue:
    """Return ``e`` with value 0 if it cannot be told from 0."""
    # Singular matrices are meant singular; λ may be far smaller than rounding.
    zero = abs(e.value) <= e.noise
    return Eigenvalue(0.0, e.sizes, e.noise, e.index) if zero else e
