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
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from .checks import model, square_matrix
from .fold import Fold
from .jordan import Eigenvalue, Spectrum, examine
from .propagator import MatrixLike, Propagator, RealArray

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
    blocks: tuple[tuple[float, tuple[int, ...]], ...] = ()

    def __bool__(self) -> bool:
        """Return ``representable``."""
        return self.representable

    def _repr_html_(self) -> str:
        """The sentence, and the eigenvalues that it is about, for notebooks."""
        answer = "representable" if self.representable else "not representable"
        rows = "".join(
            f"<tr><td>{value:.6g}</td><td>{', '.join(map(str, sizes))}</td></tr>"
            for value, sizes in self.blocks
        )
        if rows:
            rows = f"<table><tr><th>eigenvalue</th><th>blocks</th></tr>{rows}</table>"
        return f"<p><b>{answer}</b>: {escape(self.reason)}</p>{rows}"


class NotRepresentable(ValueError):
    """No real θ reaches the matrix; ``.verdict`` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(
            f"`D` is not representable: {verdict.reason} See `nearest`, `max_scale` "
            "and `min_epsilon` for what is."
        )
        self.verdict = verdict

    def __reduce__(self) -> tuple[type, tuple[Verdict]]:
        """Pickle by the verdict."""
        return type(self), (self.verdict,)


def is_representable(
    D: MatrixLike, m: Propagator, *, tolerance: float = TOLERANCE
) -> Verdict:
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
    return judge(square_matrix(D), model(m), check_tolerance(tolerance))[0]


def check_tolerance(tolerance: float) -> float:
    """Return ``tolerance`` if it lies in (0, 1)."""
    if not 0 < tolerance < 1:
        raise ValueError(
            f"`tolerance` must lie in (0, 1), got {tolerance!r}; it is the relative "
            "error `D` carries, 1e-12 for a matrix computed in float64"
        )
    return float(tolerance)


def judge(
    D: RealArray, m: Propagator, tolerance: float
) -> tuple[Verdict, Spectrum | None]:
    """Return the verdict on an array, if it is yes with the spectrum behind it."""
    fold = m.fold
    critical = fold.value if fold else -math.inf
    spectrum = examine(D, max(m.principal_threshold, critical), tolerance)
    sides: list[tuple[Eigenvalue, str]] = [(e, side(e, m)) for e in spectrum.low]
    judged = [(e, where) for e, where in sides if where != "above"]
    blocks = tuple((e.value, e.sizes) for e, _ in judged)
    for e, where in judged:
        at = fold if where == "at" else None
        fault = _fault_at(e, at, m) if at else _fault_below(e, m)
        if fault:
            return Verdict(False, fault, tolerance, blocks), None
    return Verdict(True, _why(judged, m), tolerance, blocks), spectrum


def side(e: Eigenvalue, m: Propagator) -> Literal["below", "at", "above"]:
    """Return whether an eigenvalue lies "below" or "above" the threshold or "at" it.

    "at" is the critical value, which for γ = 0 is 0, whatever the threshold.  Compared
    in logarithms, since the threshold underflows for small ε.
    """
    if m.fold and _coincides(e, m.fold.value, m):
        return "at"
    never = m.fold is not None and e.value <= m.fold.beyond
    below = never or (e.value < 0 and math.log(-e.value) > m.log_threshold)
    return "below" if below else "above"


def _coincides(e: Eigenvalue, critical: float, m: Propagator) -> bool:
    """Return whether an eigenvalue cannot be told from the critical value."""
    if m.fold and e.value <= m.fold.beyond:
        return False
    if critical == 0 and math.isfinite(m.log_threshold):
        return False  # λ underflowed; 0 itself lies above it
    if critical == 0 or e.value == 0:
        return e.value == critical
    # The exponent −κ of λ carries rounding of its own.
    relative = max(AT_THRESHOLD, 2e-15 * abs(m.log_threshold))
    return abs(e.value - critical) <= e.noise + relative * abs(critical)


def groups(sizes: Sequence[int], order: int) -> list[tuple[int, ...]]:
    """Split decreasing block sizes, padded with 0, into consecutive groups."""
    padded = list(sizes) + [0] * (-len(sizes) % order)
    return [tuple(padded[i : i + order]) for i in range(0, len(padded), order)]


def odd_sizes(sizes: Sequence[int]) -> dict[int, int]:
    """Return {size: count} for the block sizes that occur an odd number of times."""
    return {size: count for size, count in Counter(sizes).items() if count % 2}


def _fault_below(e: Eigenvalue, m: Propagator) -> str | None:
    """Say in one sentence which block has no partner below the threshold, or None."""
    odd = odd_sizes(e.sizes)
    if not odd:
        return None
    size, count = max(odd.items())
    if e.sizes == (1,):
        what = "is simple"
    else:
        times = "once" if count == 1 else f"{count} times, an odd number"
        what = f"its Jordan block of size {size} occurs {times}"
    return (
        f"The eigenvalue {e.value:.6g} lies below the threshold "
        f"{_number(m.threshold, m)} and {what}: a real "
        "θ reaches such values only in conjugate pairs, each block twice."
    )


def _fault_at(e: Eigenvalue, fold: Fold, m: Propagator) -> str | None:
    """Say in one sentence which blocks at the critical value do not fit, or None."""
    if fold.order == 0:  # an omitted value admits no blocks at all
        return "The eigenvalue 0 is out of reach: e^θ is never singular."
    for group in groups(e.sizes, fold.order):
        if group[0] - group[-1] > 1:
            return (
                f"At the critical value {_number(fold.value, m)} the Jordan blocks "
                f"must come in groups of {fold.order} whose sizes differ by at most 1, "
                f"and the eigenvalue {e.value:.6g} has a group of sizes {group}."
            )
    return None


def _why(judged: list[tuple[Eigenvalue, str]], m: Propagator) -> str:
    """Say in one sentence why nothing stands in the way."""
    if m.threshold == -math.inf and not judged:
        if hasattr(m, "layers"):
            return "An odd number of layers reaches every real value: no condition."
        return "Started at the force, the ODE reaches every real value: no condition."
    threshold = _number(m.threshold, m)
    if not judged:
        return f"No real eigenvalue lies at or below the threshold {threshold}."
    names = ", ".join(f"{e.value:.6g} (blocks {list(e.sizes)})" for e, _ in judged)
    return (
        f"The real eigenvalues at or below the threshold {threshold}, {names}, have "
        "Jordan blocks that pair up."
    )


def _number(value: float, m: Propagator) -> str:
    """Print a threshold, also one that underflows."""
    if value == 0 and math.isfinite(m.log_threshold):
        return f"-1e{m.log_threshold / math.log(10):.1f}"
    return f"{value:.6g}"
