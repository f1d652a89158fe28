"""The propagator of ε ẍ + ẋ = θx on [0, T].

    x(T) = Ψ(θ) x(0) + Φ(θ) ẋ(0),   Ψ = e^{−κ}(C + κS),   Φ = e^{−κ} T S,
    κ = T/2ε,   z² = κ² + 2κTθ,   C = cosh z,   S = sinh z / z.

C and S are even in z, so Ψ and Φ are entire functions of θ (of order 1/2).  Ψ has its
minimum over the real line, λ = Ψ(θ*) < 0, at the first double root: real eigenvalues
below λ are out of reach.  Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual
Neural Networks", ICML 2021, section 3 and appendix (the case of diagonalizable maps).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from .checks import evaluate, identity, positive
from .fold import Fold
from .inverse import principal_inverse
from .propagator import Kind, Points


@dataclass(frozen=True)
class Continuous:
    """The linear second-order ODE ε ẍ + ẋ = θx on [0, T], started at rest.

    Parameters
    ----------
    epsilon : float
        ε > 0, in the units of time.
    horizon : float, default 1.0
        T > 0.  What can be represented depends on ε/T only.

    Raises
    ------
    ValueError
        If ``epsilon`` or ``horizon`` is not positive and finite.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> m = rep.Continuous(epsilon=1.0)
    >>> round(m.threshold, 12)
    -0.613498603167
    >>> round(m.response(1.0), 12)
    1.3972965165

    References
    ----------
    Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML 2021.
    """

    epsilon: float
    horizon: float = 1.0

    def __post_init__(self) -> None:
        """Check and store plain floats."""
        object.__setattr__(self, "epsilon", positive(self.epsilon, "epsilon"))
        object.__setattr__(self, "horizon", positive(self.horizon, "horizon"))

    @property
    def kappa(self) -> float:
        """κ = T/2ε, half the number of relaxation times in the horizon."""
        return self.horizon / (2 * self.epsilon)

    def response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Ψ(θ): where x(0) = 1, ẋ(0) = 0 is carried, x(T) = Ψ(θ) x(0).

        Parameters
        ----------
        theta : number, array_like or Tensor
            Real or complex: numbers of shape () or (n,), matrices (..., d, d).
            Computed in float64; tensors keep their dtype and device, and can be
            differentiated any number of times, at θ = −1/4ε (z = 0) too.
        elementwise : bool, default False
            Treat every entry as a number, whatever the shape.

        Returns
        -------
        number, array or Tensor, of the shape of ``theta``

        Raises
        ------
        ValueError
            If ``theta`` has two axes or more and is not square.

        Examples
        --------
        >>> m = Continuous(0.5)
        >>> m.response([[0.3, -1.0], [2.0, -0.5]]).round(6)
        array([[ 1.015657, -0.54258 ],
               [ 1.085159,  0.581593]])
        """
        return evaluate(theta, self._psi, self._matrix_psi, elementwise)

    def velocity_response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Φ(θ): where a unit velocity is carried, x(T) = Φ(θ) ẋ(0) from x(0) = 0.

        Takes and returns what ``response`` does.  The velocities follow from both:
        ẋ(T) = (θ/ε) Φ x(0) + (Ψ − Φ/ε) ẋ(0).
        """
        return evaluate(theta, self._phi, self._matrix_phi, elementwise)

    def derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Ψ'(θ) = κT e^{−κ} (S + κ(C − S)/z²); for matrices the function Ψ' of θ.

        Takes and returns what ``response`` does.
        """
        return evaluate(theta, self._slope, self._matrix_slope, elementwise)

    def epsilon_derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """∂Ψ/∂ε = (κ/ε) (Ψ − Φ/T − (κ + Tθ) Ψ'/κT) at fixed θ, for numbers or matrices.

        Takes and returns what ``response`` does.
        """
        return evaluate(
            theta, self._psi_by_epsilon, self._matrix_psi_by_epsilon, elementwise
        )

    def inverse(self, x: Points) -> Points:
        """Principal inverse g(x): Ψ(g(x)) = x with the smallest |g| there is.

        Analytic on the plane cut along (−∞, λ], real on [λ, ∞).  On the cut the value
        from above is returned.  (That no other preimage is smaller was measured over
        ε/T in [0.01, 100], not proved.)

        Parameters
        ----------
        x : number or array_like
            Real or complex, any shape.

        Examples
        --------
        >>> round(Continuous(0.5).inverse(2.0), 12)
        1.439092406358
        """
        return principal_inverse(x, self)

    @cached_property
    def threshold(self) -> float:
        """λ = min Ψ over the real line, in (−1, 0), decreasing in ε.

        Underflows to −0.0 for ε/T < 6.8e-4; ``log_threshold`` does not.
        """
        y, kappa = math.pi + self._critical_angle, self.kappa
        depth = math.exp(-kappa) * math.cos(self._critical_angle)
        return -depth * (1 + kappa**2 / (y * y + kappa))

    @cached_property
    def log_threshold(self) -> float:
        """The logarithm log |λ| = −κ + log cos δ + log(1 + κ²/(y² + κ)), y = π + δ."""
        delta, kappa = self._critical_angle, self.kappa
        y = math.pi + delta
        return (
            -kappa + math.log(math.cos(delta)) + math.log1p(kappa**2 / (y * y + kappa))
        )

    @cached_property
    def minimiser(self) -> float:
        """θ* with Ψ(θ*) = λ: θ* = −(y² + κ²)/(2κT)."""
        y = math.pi + self._critical_angle
        return -(y * y + self.kappa**2) / (2 * self.kappa * self.horizon)

    @property
    def fold(self) -> Fold:
        """Where the plane is folded: Ψ' vanishes, simply, above λ."""
        return Fold(self.threshold, self.minimiser, 2)

    @property
    def principal_threshold(self) -> float:
        """Where the cut of ``inverse`` starts: λ."""
        return self.threshold

    @property
    def principal_minimiser(self) -> float:
        """Where the increasing branch of Ψ starts: θ*."""
        return self.minimiser

    @cached_property
    def _critical_angle(self) -> float:
        """δ = y* − π: Ψ' = 0 is (y² + κ) sin y = κ y cos y, once in (π, 3π/2)."""
        kappa = self.kappa

        def condition(delta: float) -> float:
            y = math.pi + delta
            return (y * y + kappa) * math.sin(delta) - kappa * y * math.cos(delta)

        # Solved for δ, not y: for large ε it is small, and cos y = −cos δ is safe.
        return brentq(condition, 0.0, math.pi / 2, xtol=1e-300, rtol=1e-15)

    # -- numbers ---------------------------------------------------------------------

    def _psi(self, theta: Tensor) -> Tensor:
        c, s, _, _ = self._scaled(theta)
        return _as_input(c + self.kappa * s, theta)

    def _phi(self, theta: Tensor) -> Tensor:
        _, s, _, _ = self._scaled(theta)
        return _as_input(self.horizon * s, theta)

    def _slope(self, theta: Tensor) -> Tensor:
        c, s, r, far = self._scaled(theta)
        w = torch.where(far, self._square(theta), torch.ones_like(c))
        r = torch.where(far, (c - s) / w, r)
        return _as_input(self.kappa * self.horizon * (s + self.kappa * r), theta)

    def _psi_by_epsilon(self, theta: Tensor) -> Tensor:
        turn = (1 / self.horizon + theta / self.kappa) * self._slope(theta)
        change = self._psi(theta) - self._phi(theta) / self.horizon - turn
        return self.kappa / self.epsilon * change

    def _square(self, theta: Tensor) -> Tensor:
        """Return w = z² = κ² + 2κTθ, as a complex tensor."""
        w = self.kappa**2 + 2 * self.kappa * self.horizon * theta
        return w.to(torch.complex128)

    def _scaled(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return e^{−κ} (C, S, (C − S)/z² where |z| < 1) and the mask |z| >= 1.

        Far from z = 0 by exponentials, near it by power series in z².  Each formula is
        evaluated only at points where it is smooth (the others are moved to z² = 1 or
        0 first): a gradient never meets the square root at its branch point.
        """
        kappa, w = self.kappa, self._square(theta)
        far = w.abs() >= 1
        z = torch.where(far, w, torch.ones_like(w)).sqrt()
        # z − κ = (z² − κ²)/(z + κ): the difference itself cancels for small ε.
        growth = 2 * kappa * self.horizon * theta / (z + kappa)
        # Where `near`, z is not the root of w; keep the unused branch finite.
        growth = torch.where(far, growth, torch.zeros_like(growth)).exp()
        decay = (-z - kappa).exp()
        near = torch.where(far, torch.zeros_like(w), w)
        series = math.exp(-kappa) * _power_series(near)
        c = torch.where(far, (growth + decay) / 2, series[0])
        s = torch.where(far, (growth - decay) / (2 * z), series[1])
        return c, s, series[2], far

    # -- matrices --------------------------------------------------------------------

    def _matrix_psi(self, theta: Tensor) -> Tensor:
        c, s, _ = self._doubled(theta)
        return c + self.kappa * s

    def _matrix_phi(self, theta: Tensor) -> Tensor:
        return self.horizon * self._doubled(theta)[1]

    def _matrix_slope(self, theta: Tensor) -> Tensor:
        _, s, r = self._doubled(theta, slope=True)
        return self.kappa * self.horizon * (s + self.kappa * r)

    def _matrix_psi_by_epsilon(self, theta: Tensor) -> Tensor:
        slope = self._matrix_slope(theta)
        turn = slope / self.horizon + theta @ slope / self.kappa
        change = self._matrix_psi(theta) - self._matrix_phi(theta) / self.horizon - turn
        return self.kappa / self.epsilon * change

    def _doubled(
        self, theta: Tensor, slope: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return e^{−κ} (C, S, R = (C − S)/W) of W = κ² + 2κTθ, by doubling z.

        C, S at z/2^m come from their Taylor series in W/4^m, then m times
        C ← 2C² − 1, S ← SC, R ← (S² + CR)/4.  Two products of d × d matrices per
        doubling, against eight equivalents for the exponential of the companion.

        The variable is e^{−κ/2^j} (C − 1), which loses nothing where C is near 1; the
        factor, squared at each doubling, keeps everything from overflowing.
        """
        kappa = self.kappa
        eye = identity(theta)
        powers, doublings = _scale(kappa**2 * eye + 2 * kappa * self.horizon * theta)
        unit = math.exp(-kappa / 2.0**doublings)
        d, s, r = (unit * f for f in _matrix_series(powers, eye, slope))
        for _ in range(doublings):
            c = d + unit * eye
            r = (s @ s + c @ r) / 4 if slope else r
            d, s = 2 * d @ (c + unit * eye), s @ c
            unit = unit**2
        return d + unit * eye, s, r


def _as_input(value: Tensor, theta: Tensor) -> Tensor:
    """Drop the imaginary part that real θ cannot have."""
    return value if theta.is_complex() else value.real


# Coefficients of C, S and (C − S)/w in powers of w; 11 terms reach u at |w| = 1.
_COSH = [1 / math.factorial(2 * j) for j in range(11)]
_SINHC = [1 / math.factorial(2 * j + 1) for j in range(11)]
_RATIO = [2 * (j + 1) / math.factorial(2 * j + 3) for j in range(11)]
_SERIES = torch.tensor([_COSH, _SINHC, _RATIO], dtype=torch.float64)


def _power_series(w: Tensor) -> Tensor:
    """Return C, S and (C − S)/w of w = z², stacked, for |w| < 1, by Horner's rule."""
    table = _SERIES.to(w)
    total = torch.zeros_like(w).expand(3, *w.shape)
    for column in table.T.flip(0):
        total = total * w + column.reshape(3, *[1] * w.ndim)
    return total


def _scale(w: Tensor) -> tuple[list[Tensor], int]:
    """Return A, A², A³ of A = w/4^m, small enough for the series, and m.

    max(‖w²‖^{1/2}, ‖w³‖^{1/3}) bounds every ‖wᵏ‖^{1/k} with k >= 2, and may be far
    below ‖w‖: fewer doublings, smaller errors (Al-Mohy & Higham, SIAM J. Matrix Anal.
    31 (2009), theorem 4.2).
    """
    # Of norm 1 while the powers are formed, so that they do not overflow.
    length = max(1.0, torch.linalg.matrix_norm(w.detach(), 1).max().item())
    unit = w / length
    square = unit @ unit
    powers = [unit, square, square @ unit]
    two, three = (
        torch.linalg.matrix_norm(powers[k - 1].detach(), 1).max().item() ** (1 / k)
        for k in (2, 3)
    )
    size = max(1.0, length * min(1.0, max(two, three)))
    doublings = math.ceil(math.log(size, 4))
    factor = length / 4.0**doublings
    return [p * factor**k for k, p in enumerate(powers, start=1)], doublings


def _matrix_series(
    powers: list[Tensor], eye: Tensor, slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return C − 1, S and (C − S)/w from w, w² and w³, for ‖wᵏ‖ <= 1.

    Nine terms: the first one left out is 1/18! = 1.6e-16.  Summed as cubics of w³.
    """
    w, w2, w3 = powers

    def total(a: list[float]) -> Tensor:
        high = a[6] * eye + a[7] * w + a[8] * w2
        middle = a[3] * eye + a[4] * w + a[5] * w2 + w3 @ high
        return a[0] * eye + a[1] * w + a[2] * w2 + w3 @ middle

    ratio = total(_RATIO) if slope else torch.zeros_like(w)
    return total([0.0, *_COSH[1:]]), total(_SINHC), ratio
