"""Where the response folds: the critical points of C + aS and of the force start.

With z = iy, C + aS = cos y + a sin y/y.  Its zeros are the eigenvalues of u″ = wu,
u'(0) = au(0), u(1) = 0, a Robin problem: real and simple, so that critical points are
real and interlace.  The right-most one is the global minimum: at critical points

    h² = (u + a + a²)²/(u² + (2a + a²)u + a²),  u = y²,

decreases in u from there on.  Started at v₀ = f(x₀) the response is e^{−κ} times

    F = cos y + (κ/2 − y²/2κ) sin y/y
      = (cos p + κ/2p sin p)(cos p − 2p/κ sin p),    y = 2p,

a product of two Robin problems with one zero y_j in each (jπ, (j + 1)π); between them
its extrema have the size (κ/y + y/κ)/2 or less, which grows without bound.
"""

import math

import numpy as np
from scipy.optimize import brentq

from .inverse import bisect
from .propagator import RealArray


def lowest(a: float) -> tuple[float, float]:
    """Return w where C + aS is least over the real line, and log |minimum|.

    Parameters
    ----------
    a : float
        κ + cT; κ from rest.

    Returns
    -------
    w, log_depth : float
    """
    if a >= 0:

        def condition(delta: float) -> float:
            y = math.pi + delta
            return (y * y + a) * math.sin(delta) - a * y * math.cos(delta)

        # Solved for δ = y − π: for small a it is small, and cos y = −cos δ is safe.
        delta = brentq(condition, 0.0, math.pi / 2, xtol=1e-300, rtol=1e-15)
        u = (math.pi + delta) ** 2
        return -u, math.log(math.cos(delta)) + math.log1p(a**2 / (u + a))
    w = brentq(lambda w: _turn(w, a), -(math.pi**2), a * a + 1, xtol=1e-14, rtol=1e-15)
    if w < 1:
        cosh, sinhc, _ = _kernels(w)
        return w, math.log(-cosh - a * sinhc)
    z = math.sqrt(w)
    tail = math.exp(-2 * z) * (1 - a / z)
    return w, z + math.log(-(1 + a / z + tail) / 2)


def _turn(w: float, a: float) -> float:
    """Return (S + aR)/C-like scale: the sign of the derivative of C + aS in w."""
    if w < 1:
        _, sinhc, ratio = _kernels(w)
        return sinhc + a * ratio
    z = math.sqrt(w)
    return math.tanh(z) * (1 - a / w) + a / z


def _kernels(w: float) -> tuple[float, float, float]:
    """Return C, S and R = (C − S)/w at w < 1."""
    if w > -1:
        terms = [1.0]
        for j in range(1, 12):
            terms.append(terms[-1] * w / ((2 * j - 1) * (2 * j)))
        cosh = sum(terms)
        sinhc = sum(t / (2 * j + 1) for j, t in enumerate(terms))
        ratio, power = 0.0, 1.0
        for j in range(12):
            ratio += 2 * (j + 1) * power / math.factorial(2 * j + 3)
            power *= w
        return cosh, sinhc, ratio
    y = math.sqrt(-w)
    cosh, sinhc = math.cos(y), math.sin(y) / y
    return cosh, sinhc, (sinhc - cosh) / (y * y)


# -- started at v₀ = f(x₀) -------------------------------------------------------------


def force_response(y: RealArray, kappa: float) -> RealArray:
    """F(y) = cos y + (κ/2 − y²/2κ) sin y/y, e^{κ} times the response."""
    return np.cos(y) + (kappa / y - y / kappa) / 2 * np.sin(y)


def force_zeros(first: int, count: int, kappa: float) -> RealArray:
    """Return the zeros y_j of F for j = first, …, one in each (jπ, (j + 1)π)."""
    j = np.arange(first, first + count)

    def factor(p: RealArray) -> RealArray:
        even = kappa * np.cos(p) - 2 * p * np.sin(p)
        odd = 2 * p * np.cos(p) + kappa * np.sin(p)
        return np.where(j % 2 == 0, even, odd)

    return 2 * bisect(factor, j * math.pi / 2, (j + 1) * math.pi / 2)


def force_extrema(zeros: RealArray, kappa: float) -> RealArray:
    """Return the y between neighbouring zeros where F turns."""

    def slope(y: RealArray) -> RealArray:
        weight = (kappa / y - y / kappa) / 2
        turn = weight * (np.cos(y) - np.sin(y) / y)
        return turn - np.sin(y) * (1 + 1 / kappa)

    return bisect(slope, zeros[:-1], zeros[1:])


def force_roots(depth: float, kappa: float) -> RealArray:
    """Return some y beyond the first minimum with F(y) = −depth, simple roots.

    Empty if they lie beyond what float64 resolves in y.

    Parameters
    ----------
    depth : float
        e^{κ} |value|.
    """
    size = max(depth, 1.0)
    # Extrema are as deep as ``depth`` from here on: (κ/y + y/κ)/2 >= depth.
    start = kappa * (size + math.sqrt(max(size * size - 1, 0.0)))
    if not start < 1e9:
        return np.array([])
    j = max(2, 2 * (int(start / math.pi) // 2) - 2)  # even: F turns negative there
    zeros = force_zeros(j, 14, kappa)
    bottoms = force_extrema(zeros, kappa)[::2]
    deep = force_response(bottoms, kappa) < -1.001 * depth
    left, right = zeros[:-1:2][deep], bottoms[deep]
    return bisect(lambda y: force_response(y, kappa) + depth, left, right)[:2]
