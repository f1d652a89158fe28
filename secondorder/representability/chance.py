"""How likely a random planar map is representable: an exact law.

For D with independent N(0, σ²) entries, d = 2, and t = λ/σ,

    P = 1 − 1/√2 + erfc(t)/(2√2) − ¼ e^{−t²/2} erfc(t/√2).

D is out of reach exactly if its eigenvalues are real and an odd number of them lies
below λ, det(D − λI) < 0, or two different ones do.  Trace and discriminant are made of
four independent normal numbers, and the integrals can be done.
"""

import math

from .checks import model, positive
from .propagator import Propagator


def planar_probability(m: Propagator, sigma: float) -> float:
    """Return the probability that a random 2 × 2 matrix is representable.

    Parameters
    ----------
    m : Continuous, Discrete or FirstOrder
    sigma : float
        Standard deviation of the independent normal entries.

    Returns
    -------
    float

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> round(rep.planar_probability(rep.FirstOrder(), 1.0), 4)
    0.3964
    """
    t = model(m).threshold / positive(sigma, "sigma")
    if t == -math.inf:
        return 1.0
    gauss = math.exp(-t * t / 2) if abs(t) < 38 else 0.0
    share = math.erfc(t) / (2 * math.sqrt(2)) - gauss * math.erfc(t / math.sqrt(2)) / 4
    return 1 - 1 / math.sqrt(2) + share
