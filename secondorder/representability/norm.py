"""How large θ has to be: a bound from below that a witness is measured against.

The Taylor coefficients of the responses Ψ, Φ, P in θ are not negative, since the memory
kernel 1 − e^{−t/ε} is not.  With R_c the response from v₀ = c x₀ (or from rest, from
the force, of layers, of first order)

    ‖D − R_c(0) I‖ = ‖R_c(θ) − R_c(0)‖ <= R_{|c|}(‖θ‖) − R_{|c|}(0),

so ‖θ‖₂ >= R_{|c|}⁻¹(R_{|c|}(0) + ‖D − R_c(0) I‖₂), on the increasing branch.  By
Gronwall's lemma the same bound holds, from rest, for sup ‖θ(t)‖ of untied layers, and
for the Lipschitz constant of any f with f(0) = 0, with r = |x(T) − x₀|/|x₀| in place of
‖D − I‖.  It is attained by D = αI, α >= 1.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from .checks import model, square_matrix
from .propagator import MatrixLike, Propagator


def min_norm(D: MatrixLike, m: Propagator) -> float:
    """Return a lower bound of ‖θ‖₂ over all real θ with response(θ) = D.

    From rest it is R⁻¹(1 + ‖D − I‖₂), and bounds sup ‖θ(t)‖₂ of untied layers, too.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from secondorder import representability as rep
    >>> m = rep.Continuous(0.5)
    >>> round(rep.min_norm(2 * np.eye(3), m), 12) == round(m.inverse(2.0), 12)
    True
    """
    array, m = square_matrix(D), model(m)
    at_zero = float(m.response(0.0))
    change = float(np.linalg.norm(array - at_zero * np.eye(len(array)), 2))
    start: Any = getattr(m, "start", "rest")
    if isinstance(start, float) and start < 0:
        changed: Any = m
        m = replace(changed, start=-start)
        at_zero = float(m.response(0.0))
    if change == 0:
        return 0.0
    return max(0.0, float(np.real(m.inverse(at_zero + change))))


def optimality(norm: float, least: float) -> float:
    """Return ‖θ‖₂ over its lower bound; 1.0 for θ = 0 up to rounding."""
    if norm <= 1e-12:
        return 1.0
    return norm / least if least > 0 else float("inf")
