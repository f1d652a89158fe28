"""How far a map has to shrink, or how much inertia it needs, to be representable.

The sets of representable maps grow with ε, and shrinking D moves its eigenvalues into
the interval [λ, 0) that momentum opened:

    α_max = |λ|/μ,     λ(ε_min/T) = −μ,

where −μ is the lowest real eigenvalue with an unpaired Jordan block.  λ stays above −1,
so no ε helps once μ >= 1.
"""

import math

from scipy.optimize import brentq

from .checks import model, positive, square_matrix
from .continuous import Continuous
from .criterion import TOLERANCE, check_tolerance, judge, odd_sizes
from .jordan import examine
from .propagator import MatrixLike, Propagator, RealArray


def max_scale(D: MatrixLike, m: Propagator, *, tolerance: float = TOLERANCE) -> float:
    """Return α_max: αD is representable for all 0 < α < α_max, and for none above.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder
    tolerance : float, default 1e-12
        As in ``is_representable``.

    Returns
    -------
    float
        inf if every multiple is representable, 0.0 if none is.  At α_max itself the
        verdict is that of the critical value (yes if its blocks have size 1).

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> round(rep.max_scale([[-1.0, 0.0], [0.0, 2.0]], rep.Continuous(1.0)), 12)
    0.613498603167
    """
    array, tolerance = square_matrix(D), check_tolerance(tolerance)
    fold = model(m).fold
    if fold is None:
        return math.inf
    if fold.value == 0 and m.log_threshold in (math.inf, -math.inf):
        return math.inf if judge(array, m, tolerance)[0] else 0.0
    lowest = _lowest_unpaired(array, tolerance)
    return math.exp(m.log_threshold - math.log(lowest)) if lowest else math.inf


def min_epsilon(
    D: MatrixLike, horizon: float = 1.0, *, tolerance: float = TOLERANCE
) -> float:
    """Return ε_min: D is representable on [0, T] for every ε > ε_min, for none below.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    horizon : float, default 1.0
        T; ε_min is proportional to it.
    tolerance : float, default 1e-12
        As in ``is_representable``.

    Returns
    -------
    float
        0.0 if every ε > 0 works, inf if none does (an unpaired eigenvalue <= −1).

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix or ``horizon`` is not positive.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> round(rep.min_epsilon([[-0.5]]), 12)
    0.698809909309
    """
    horizon = positive(horizon, "horizon")
    lowest = _lowest_unpaired(square_matrix(D), check_tolerance(tolerance))
    if lowest == 0:
        return 0.0
    if lowest >= 1:
        return math.inf

    def excess(log_epsilon: float) -> float:
        return Continuous(math.exp(log_epsilon)).log_threshold - math.log(lowest)

    # λ = −1 + 1/2ε + … near −1, and log |λ| ~ −1/2ε near 0: both ends are bracketed.
    low = math.log(0.4 / (1 - math.log(lowest)))
    while excess(low) > 0:
        low -= 1
    high = math.log(2 / (1 - lowest))
    while excess(high) < 0:
        high += 1
    return horizon * math.exp(brentq(excess, low, high, xtol=1e-15, rtol=1e-15))


def _lowest_unpaired(D: RealArray, tolerance: float) -> float:
    """Return |μ| of the lowest negative eigenvalue with an unpaired block, or 0."""
    low = examine(D, 0.0, tolerance).low
    unpaired = [-e.value for e in low if e.value < 0 and odd_sizes(e.sizes)]
    return max(unpaired, default=0.0)
