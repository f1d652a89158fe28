"""Which real matrices are Ψ(θ) for a real θ: the exact criterion.

D is representable if and only if

    (i)   at every real eigenvalue below the threshold λ, Jordan blocks of each size
          occur an even number of times;
    (ii)  at the critical value λ itself, block sizes n₁ >= n₂ >= … (padded with 0) obey
          n₁ − n₂ <= 1, n₃ − n₄ <= 1, … .

Why: over values that no real number reaches, a real θ has conjugate pairs of blocks;
around its minimum Ψ is two-to-one.  λ = 0, with 0 left out, is Culver's theorem on
logarithms; for diagonalizable D this is the theorem of Sander et al. on linear maps.

References: Culver, Proc. Amer. Math. Soc. 17 (1966), theorem 1; Higham, "Functions of
Matrices", SIAM 2008, theorem 1.23 (logarithms) and section 1.7.
"""

import math
from collections import Counter
from dataclasses import dataclass

from .checks import square_matrix
from .jordan import examine

TOLERANCE = 1e-12  # relative error a matrix is supposed to carry
AT_THRESHOLD = 1e-13  # relative distance at which a value counts as the threshold


@dataclass(frozen=True)
class Verdict:
    """Whether a matrix is representable, and why.

    Attributes
    ----------
    representable : bool
        Also the truth value of the verdict.
    reason : str
        One sentence: which eigenvalue, which threshold, which multiplicities.
    tolerance : float
        Relative error of ``D`` up to which eigenvalues were taken for equal.
    blocks : tuple of (float, tuple of int)
        The real eigenvalues that the criterion looked at, with their block sizes.
    """

    representable: bool
    reason: str
    tolerance: float
    blocks: tuple = ()

    def __bool__(self):
        """Return ``representable``."""
        return self.representable


class NotRepresentable(ValueError):
    """No real θ reaches the matrix; ``.verdict`` says why."""

    def __init__(self, verdict):
        super().__init__(
            f"`D` is not representable: {verdict.reason} See `nearest`, `max_scale` "
            "and `min_epsilon` for what is."
        )
        self.verdict = verdict


def is_representable(D, m, *, tolerance=TOLERANCE):
    """Decide whether Ψ(θ) = D for some real θ, for any real D.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder
    tolerance : float, default 1e-12
        Relative error that ``D`` may carry.  Repeated eigenvalues are never exact in
        floating point: groups that a perturbation of this size can merge are judged
        as merged.

    Returns
    -------
    Verdict
        True or false in a condition; ``.reason`` says why in one sentence.

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> bool(rep.is_representable([[-1.0]], rep.Continuous(1.0)))
    False
    >>> bool(rep.is_representable([[-0.6]], rep.Continuous(1.0)))
    True
    >>> bool(rep.is_representable([[-1.0, 0.0], [0.0, -1.0]], rep.FirstOrder()))
    True

    References
    ----------
    Culver, Proc. Amer. Math. Soc. 17 (1966); Sander, Ablin, Blondel, Peyré,
    "Momentum Residual Neural Networks", ICML 2021, section 4.
    """
    return judge(square_matrix(D), m, check_tolerance(tolerance))[0]


def check_tolerance(tolerance):
    """Return ``tolerance`` if it lies in (0, 1)."""
    if not 0 < tolerance < 1:
        raise ValueError(
            f"`tolerance` must lie in (0, 1); got {tolerance!r}. It is the relative "
            "error `D` carries, 1e-12 for a matrix computed in float64."
        )
    return float(tolerance)


def judge(D, m, tolerance):
    """Return the verdict on an array, with the spectrum it was read from."""
    critical = m.fold.value if m.fold else -math.inf
    spectrum = examine(D, max(m.principal_threshold, critical), tolerance)
    judged = [(e, side(e, m)) for e in spectrum.low]
    judged = [(e, where) for e, where in judged if where != "above"]
    blocks = tuple((e.value, e.sizes) for e, _ in judged)
    for e, where in judged:
        fault = _odd_size(e) if where == "below" else _uneven_group(e, m.fold.order)
        if fault:
            return Verdict(False, _why_not(e, m, where, fault), tolerance, blocks), None
    return Verdict(True, _why(judged, m), tolerance, blocks), spectrum


def side(e, m):
    """Return whether an eigenvalue lies "below" or "above" the threshold or "at" it.

    "at" is the critical value, which for γ = 0 is 0, whatever the threshold.  Compared
    in logarithms, since the threshold underflows for small ε.
    """
    if m.fold and _coincides(e, m):
        return "at"
    below = e.value < 0 and math.log(-e.value) > m.log_threshold
    return "below" if below else "above"


def _coincides(e, m):
    """Return whether an eigenvalue cannot be told from the critical value."""
    critical = m.fold.value
    if critical == 0 and math.isfinite(m.log_threshold):
        return False  # λ underflowed; 0 itself lies above it
    if critical == 0 or e.value == 0:
        return e.value == critical
    return abs(e.value - critical) <= e.noise + AT_THRESHOLD * abs(critical)


def groups(sizes, order):
    """Split decreasing block sizes, padded with 0, into consecutive groups."""
    padded = list(sizes) + [0] * (-len(sizes) % order)
    return [tuple(padded[i : i + order]) for i in range(0, len(padded), order)]


def odd_sizes(sizes):
    """Return {size: count} for the block sizes that occur an odd number of times."""
    return {size: count for size, count in Counter(sizes).items() if count % 2}


def _odd_size(e):
    """Return the largest offending (size, count) below the threshold, or None."""
    odd = odd_sizes(e.sizes)
    return max(odd.items()) if odd else None


def _uneven_group(e, order):
    """Return the first group of block sizes that differ by 2 or more, or None."""
    if order == 0:
        return e.sizes  # an omitted value admits no blocks at all
    return next((g for g in groups(e.sizes, order) if g[0] - g[-1] > 1), None)


def _why_not(e, m, where, fault):
    """Say in one sentence which condition fails."""
    mu, threshold = f"{e.value:.6g}", _number(m.threshold, m)
    if where == "at" and m.fold.order == 0:
        return "The eigenvalue 0 is out of reach: e^θ is never singular."
    if where == "at":
        return (
            f"At the critical value {_number(m.fold.value, m)} the Jordan blocks must "
            f"come in groups of {m.fold.order} whose sizes differ by at most 1, and "
            f"the eigenvalue {mu} has a group of sizes {fault}."
        )
    size, count = fault
    if e.sizes == (1,):
        what = "is simple"
    else:
        times = "once" if count == 1 else f"{count} times, an odd number"
        what = f"its Jordan block of size {size} occurs {times}"
    return (
        f"The eigenvalue {mu} lies below the threshold {threshold} and {what}: a real "
        "θ reaches such values only in conjugate pairs, each block twice."
    )


def _why(judged, m):
    """Say in one sentence why nothing stands in the way."""
    if m.threshold == -math.inf and not judged:
        return "An odd number of layers reaches every real value: no condition applies."
    threshold = _number(m.threshold, m)
    if not judged:
        return f"No real eigenvalue lies at or below the threshold {threshold}."
    names = ", ".join(f"{e.value:.6g} (blocks {list(e.sizes)})" for e, _ in judged)
    return (
        f"The real eigenvalues at or below the threshold {threshold}, {names}, have "
        "Jordan blocks that pair up."
    )


def _number(value, m):
    """Print a threshold, also one that underflows."""
    if value == 0 and math.isfinite(m.log_threshold):
        return f"-1e{m.log_threshold / math.log(10):.1f}"
    return f"{value:.6g}"
