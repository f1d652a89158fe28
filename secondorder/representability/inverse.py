"""The principal inverse of a response, by continuation from the real axis.

The inverse g of Ψ on its increasing branch [θ*, ∞) continues to the plane cut along
(−∞, λ]: all critical values are real and Ψ, of order below 1, has no finite asymptotic
value, so nothing stops it in the open half-planes.  It maps the upper one into itself
(a Pick function), as the logarithm does.

Nevanlinna, "Analytic Functions", chapter XI, for the two facts used.
"""

from collections.abc import Callable

import numpy as np

from .checks import finite_points, length, number_or_array
from .propagator import Array, ComplexArray, Points, Propagator, RealArray

TINY = 4 * np.finfo(float).eps


def principal_inverse(x: Points, m: Propagator) -> Points:
    """Return g(x) with Ψ(g(x)) = x on the principal branch; from above on the cut.

    Parameters
    ----------
    x : number or array_like
        Real or complex, any shape.
    m : propagator
        With ``response``, ``derivative``, ``principal_threshold`` λ and
        ``principal_minimiser`` θ*.

    Returns
    -------
    number or array
        Real if all ``x`` are real and >= λ, complex otherwise.
    """
    flat = np.atleast_1d(finite_points(x)).ravel()
    roots: Array
    if np.iscomplexobj(x) or (flat < m.principal_threshold).any():
        roots = _complex_branch(flat.astype(complex), m)
    else:
        roots = _real_branch(flat.astype(float), m)
    return number_or_array(roots.reshape(np.shape(x)))


def _real_branch(x: RealArray, m: Propagator) -> RealArray:
    """Invert the increasing branch at real x >= λ, shape (n,)."""
    return increasing_root(m.response, m.derivative, x, m.principal_minimiser)


def _complex_branch(x: ComplexArray, m: Propagator, steps: int = 12) -> ComplexArray:
    """Continue g along circles about λ, from the real axis to x, shape (n,)."""
    lower = x.imag < 0
    x = np.where(lower, x.conj(), x.real + 1j * np.abs(x.imag))
    centre = m.principal_threshold
    radius, angle = np.abs(x - centre), np.angle(x - centre)
    theta = _real_branch(centre + radius, m).astype(complex)
    for k in range(1, steps + 1):
        on_arc = centre + radius * np.exp(1j * angle * k / steps)
        theta = _newton(m, theta, on_arc, iterations=2)
    theta = _newton(m, theta, x, iterations=6)
    return np.where(lower, theta.conj(), theta)


def _newton(
    m: Propagator, theta: ComplexArray, x: ComplexArray, iterations: int
) -> ComplexArray:
    """Return θ after Newton steps for Ψ(θ) = x; stays where Ψ' vanishes."""
    for _ in range(iterations):
        slope = m.derivative(theta)
        step = (m.response(theta) - x) / np.where(slope == 0, np.inf, slope)
        theta = theta - step
    return theta


@np.errstate(all="ignore")  # steps that overflow end the iteration
def commuting_newton(
    m: Propagator, T: Array, start: complex, iterations: int = 40
) -> Array:
    """Solve Ψ(G) = T by Newton among matrices that commute with T.

    Parameters
    ----------
    m : propagator
    T : array, shape (n, n)
        Its eigenvalues lie close together, or coincide (Jordan blocks are welcome: in
        the nilpotent direction Newton is exact after log₂ n steps).
    start : number
        An inverse image of their mean.

    Returns
    -------
    array, shape (n, n)
        The iterate with the smallest residual.
    """
    G = start * np.eye(len(T))
    best, least, idle = G, np.inf, 0
    for _ in range(iterations):
        excess = m.response(G) - T
        residual = length(excess)
        if not residual < least / 2:
            idle += 1
        if residual < least:
            best, least = G, residual
        if residual == 0 or idle == 3 or not np.isfinite(residual):
            break
        try:
            G = G - np.linalg.solve(m.derivative(G), excess)
        except (np.linalg.LinAlgError, ArithmeticError):
            # Ψ'(G) is singular, or too large: stay with the best so far.
            break
        if not np.isfinite(G).all():
            break
    return best


def increasing_root(
    function: Callable[[RealArray], RealArray],
    derivative: Callable[[RealArray], RealArray],
    target: RealArray,
    low: float,
) -> RealArray:
    """Solve f(t) = target for increasing f on [low, ∞), by Newton inside a bracket.

    Parameters
    ----------
    function, derivative : callable
        Arrays (n,) -> arrays (n,).
    target : array, shape (n,)
        Not below f(low).
    low : float
        Where f starts to increase.

    Returns
    -------
    array, shape (n,)
    """
    left = np.full(target.shape, float(low))
    width = np.full(target.shape, 1.0 + abs(low))
    # What is not finite lies beyond every target: f overflowed, or t did.
    while (short := function(left + width) < target).any():
        width[short] *= 2
    right = left + width
    theta, last = right.copy(), width.copy()
    for _ in range(1200):
        excess, slope = function(theta) - target, derivative(theta)
        above = ~(excess <= 0)
        right, left = np.where(above, theta, right), np.where(above, left, theta)
        with np.errstate(all="ignore"):
            step = -excess / slope
            # Newton where it stays inside and halves its step, bisection elsewhere.
            good = (theta + step > left) & (theta + step < right)
            good &= np.abs(step) < np.abs(last) / 2
        step = np.where(good, step, (left + right) / 2 - theta)
        step = np.where(excess == 0, 0.0, step)
        theta, last = theta + step, step
        if (np.abs(step) <= TINY * np.abs(theta)).all():
            break
    return theta


def bisect(
    function: Callable[[RealArray], RealArray], left: RealArray, right: RealArray
) -> RealArray:
    """Return the sign changes of ``function`` between arrays left and right (n,)."""
    rising = function(left) < 0
    for _ in range(80):
        middle = (left + right) / 2
        below = (function(middle) < 0) == rising
        left, right = np.where(below, middle, left), np.where(below, right, middle)
    return (left + right) / 2
