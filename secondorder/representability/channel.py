"""One zero channel more: D is completed to a map [[D, b], [c, e]] that is reached.

The eigenvalues of the larger matrix can be chosen: for given b, each wanted μ is one
linear equation in (c, e),

    e − μ = c (D − μI)⁻¹ b,

pole placement by state feedback.  Data enter as (x, 0) and the last coordinate of the
answer is not read.  For D with cyclic vectors this places all d + 1 of them; repeated
blocks of D keep all but one of their copies, in even number or not.
"""

import numpy as np

from .checks import like, model, square_matrix
from .criterion import TOLERANCE, judge
from .propagator import Matrix, MatrixLike, Propagator, RealArray


def extend(D: MatrixLike, m: Propagator, *, tries: int = 24, seed: int = 0) -> Matrix:
    """Return a representable [[D, b], [c, e]], the smallest that was found.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder
    tries : int, default 24
        How many random b and sets of eigenvalues are tried.
    seed : int, default 0

    Returns
    -------
    array or Tensor, shape (d + 1, d + 1)
        [[D, 0], [0, 1]] if D is representable.

    Raises
    ------
    ArithmeticError
        If none was found, as for first order and nullity(D) > 1, or for three equal
        eigenvalues below λ of which two blocks differ.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> m = rep.Continuous(1.0)
    >>> bool(rep.is_representable([[-1.0]], m))
    False
    >>> bool(rep.is_representable(rep.extend([[-1.0]], m), m))
    True
    """
    array, m = square_matrix(D), model(m)
    d, rng = len(array), np.random.default_rng(seed)
    plain = np.zeros((d + 1, d + 1))
    plain[:d, :d], plain[d, d] = array, 1.0
    if judge(plain, m, TOLERANCE)[0]:
        return like(plain, D)
    best, least = None, np.inf
    for _ in range(tries):
        b = rng.standard_normal(d) / np.sqrt(d)
        b *= 10.0 ** rng.uniform(-0.5, 1.0) * np.linalg.norm(array, 2)
        found = _placed(array, b, _targets(array, m.threshold, rng))
        if found is None:
            continue
        size = float(np.linalg.norm(found, 2))
        if size < least and judge(found, m, TOLERANCE)[0]:
            best, least = found, size
    if best is None:
        raise ArithmeticError(
            "`D` could not be completed by one channel to a representable map; add "
            "more channels, start at the force, or untie the layers (steer)"
        )
    return like(best, D)


def _targets(D: RealArray, threshold: float, rng: np.random.Generator) -> list[complex]:
    """Return d + 1 eigenvalues: the fine ones nearly kept, the others mirrored."""
    values = np.linalg.eigvals(D).astype(complex)
    scale = max(float(np.abs(values).max()), 1e-3)
    wanted: list[complex] = [scale * rng.uniform(0.2, 1.2)]
    for value in values[values.imag >= 0]:
        moved = value * (1 + 0.05 * rng.standard_normal())
        if value.imag > 0:
            moved += 1e-3j * scale * (1 + rng.random())
            wanted += [moved, moved.conjugate()]
        elif value.real <= max(threshold, 0.0) + 1e-9 * scale:
            wanted.append(
                abs(value) * rng.uniform(0.2, 1.0) + 0.1 * scale * rng.random()
            )
        else:
            wanted.append(moved + 1e-2 * scale * rng.random())
    return wanted


def _placed(D: RealArray, b: RealArray, wanted: list[complex]) -> RealArray | None:
    """Return [[D, b], [c, e]] with the wanted eigenvalues, as far as b moves them."""
    d, eye = len(D), np.eye(len(D))
    rows, rhs = [], []
    for mu in wanted:
        try:
            row = np.append(np.linalg.solve(D - mu * eye, b.astype(complex)), -1)
        except np.linalg.LinAlgError:
            return None
        size = np.abs(row).max()
        rows += [row.real / size, row.imag / size]
        rhs += [-complex(mu).real / size, -complex(mu).imag / size]
    unknown = np.linalg.lstsq(np.array(rows), np.array(rhs), rcond=1e-12)[0]
    if not np.isfinite(unknown).all():
        return None
    found = np.zeros((d + 1, d + 1))
    found[:d, :d], found[:d, d], found[d] = D, b, unknown
    return found
