"""Critical points of Σ_k a_k U_{N−k}(ξ), the polynomials of N momentum layers.

a = (1, −ρ) for a first velocity in proportion to x, (1, −2q, q²) for the force: all N
zeros are real and simple, and between neighbours the derivative changes sign once.
"""

from functools import cached_property

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from .inverse import bisect
from .propagator import RealArray


class Chebyshev:
    """The polynomial Σ_k a_k U_{N−k} with its zeros and critical points, increasing.

    Parameters
    ----------
    degree : int
        N >= 2 (shorter ones have no critical points).
    a : tuple of float
        (1, −ρ), or (1, −2q, q²) with 0 < q < 1.
    """

    def __init__(self, degree: int, a: tuple[float, ...]) -> None:
        self.degree, self.a = degree, a
        # One zero leaves (−1, 1) where |ρ| > 1 + 1/N; then angles do not do.
        self.inside = len(a) == 3 or abs(a[1]) * degree <= degree + 1

    @cached_property
    def zeros(self) -> RealArray:
        """The N zeros, increasing."""
        n, a = self.degree, self.a
        if len(a) == 2:
            corner = np.zeros(n)
            corner[0] = -a[1] / 2
            return eigvalsh_tridiagonal(corner, np.full(n - 1, 0.5))
        q, level = -a[1] / 2, np.pi * np.arange(1, n + 1)

        def phase(phi: RealArray) -> RealArray:
            turn = np.arctan2(q * np.sin(phi), 1 - q * np.cos(phi))
            return (n + 1) * phi + 2 * turn - level

        return np.cos(bisect(phase, np.zeros(n), np.full(n, np.pi)))[::-1]

    @cached_property
    def critical(self) -> RealArray:
        """The N − 1 zeros of the derivative, increasing."""
        if self.inside:
            return np.cos(self._angles)[::-1]
        zeros = self.zeros
        return bisect(lambda xi: self._evaluate(xi)[1], zeros[:-1], zeros[1:])

    @cached_property
    def values(self) -> RealArray:
        """The polynomial at its critical points."""
        if not self.inside:
            return self._evaluate(self.critical)[0]
        return (self._sine(self._angles)[0] / np.sin(self._angles))[::-1]

    @cached_property
    def _angles(self) -> RealArray:
        """The φ of the critical points, increasing."""
        angles = np.arccos(np.clip(self.zeros, -1, 1))[::-1]

        def slope(phi: RealArray) -> RealArray:
            value, turn = self._sine(phi)
            return turn * np.sin(phi) - value * np.cos(phi)

        return bisect(slope, angles[:-1], angles[1:])

    def _sine(self, phi: RealArray) -> tuple[RealArray, RealArray]:
        """Return Σ a_k sin (N + 1 − k)φ and its derivative."""
        terms = [(a, self.degree + 1 - k) for k, a in enumerate(self.a)]
        value = sum((a * np.sin(n * phi) for a, n in terms), np.zeros_like(phi))
        turn = sum((a * n * np.cos(n * phi) for a, n in terms), np.zeros_like(phi))
        return value, turn

    @np.errstate(all="ignore")  # far outside [−1, 1] it overflows
    def _evaluate(self, xi: RealArray) -> tuple[RealArray, RealArray]:
        """Return the polynomial and its derivative by the recurrence of U."""
        one, zero = np.ones_like(xi), np.zeros_like(xi)
        u, slope = [zero, one], [zero, zero]  # U_{−1}, U_0
        for _ in range(self.degree):
            slope.append(2 * u[-1] + 2 * xi * slope[-1] - slope[-2])
            u.append(2 * xi * u[-1] - u[-2])
        value = sum((a * u[-1 - k] for k, a in enumerate(self.a)), zero)
        return value, sum((a * slope[-1 - k] for k, a in enumerate(self.a)), zero)
