"""The propagator of ε ẍ + ẋ = θx on [0, T], by where the flow starts.

    x(T) = Ψ(θ) x(0) + Φ(θ) ẋ(0),   Ψ = e^{−κ}(C + κS),   Φ = e^{−κ} T S,
    κ = T/2ε,   z² = κ² + 2κTθ,   C = cosh z,   S = sinh z / z.

    start     ẋ(0)      x(T)/x(0)              over the real line
    "rest"    0         Ψ                      minimum λ in (−1, 0)
    c         c x(0)    Ψ + cΦ                 minimum λ(c), −∞ for c → ±∞
    "force"   θ x(0)    Ψ + θΦ                 takes every value

C and S are even in z, so all are entire functions of θ (of order 1/2) with real zeros.
A response with a minimum has it at the right-most double root, λ = Ψ(θ*) < 0: real
eigenvalues below λ are out of reach, but in pairs.  Reference: Sander, Ablin, Blondel,
Peyré, "Momentum Residual Neural Networks", ICML 2021, section 3 and appendix (from
rest, the case of diagonalizable maps); the starts c and "force" are ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from torch import Tensor

from .checks import evaluate, positive, start_of
from .fold import Fold
from .inverse import principal_inverse
from .propagator import Kind, Points, RealArray
from .robin import force_extrema, force_response, force_roots, force_zeros, lowest
from .wave import Waves, doubled, kernel

OfWaves: TypeAlias = Callable[[Waves], Tensor]


@dataclass(frozen=True)
class Continuous:
    """The linear second-order ODE ε ẍ + ẋ = θx on [0, T].

    Parameters
    ----------
    epsilon : float
        ε > 0, in the units of time.
    horizon : float, default 1.0
        T > 0.  What can be represented depends on ε/T (and cT) only.
    start : "rest", "force" or float, default "rest"
        The velocity at 0: none, the force θx(0), or c x(0) for a number c.

    Raises
    ------
    ValueError
        If ``epsilon`` or ``horizon`` is not positive and finite, or ``start`` is none
        of the three.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> m = rep.Continuous(epsilon=1.0)
    >>> round(m.threshold, 12)
    -0.613498603167
    >>> round(m.response(1.0), 12)
    1.3972965165
    >>> rep.Continuous(1.0, start="force").threshold
    -inf

    References
    ----------
    Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML 2021.
    """

    epsilon: float
    horizon: float = 1.0
    start: str | float = "rest"

    def __post_init__(self) -> None:
        """Check and store plain floats."""
        object.__setattr__(self, "epsilon", positive(self.epsilon, "epsilon"))
        object.__setattr__(self, "horizon", positive(self.horizon, "horizon"))
        object.__setattr__(self, "start", start_of(self.start))
        ratio = self.epsilon / self.horizon
        if not 1e-100 < ratio < 1e100:
            raise ValueError(
                f"`epsilon`/`horizon` must lie in (1e-100, 1e100), where float64 can "
                f"square it, got {ratio!r}; use FirstOrder() for ε = 0"
            )
        if not self.start_number * self.horizon > -600 or not (
            self.start_number * self.horizon < 1e8
        ):
            raise ValueError(
                f"`start` times the horizon must lie in (−600, 1e8), or the response "
                f"overflows, got {self.start!r} times {self.horizon!r}"
            )

    @property
    def kappa(self) -> float:
        """κ = T/2ε, half the number of relaxation times in the horizon."""
        return self.horizon / (2 * self.epsilon)

    @property
    def start_number(self) -> float:
        """The c of a start c x(0): 0 from rest, and 0 for "force"."""
        return self.start if isinstance(self.start, float) else 0.0

    def response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """The response, x(T) = response(θ) x(0) from the start: Ψ, Ψ + cΦ or Ψ + θΦ.

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
        return self._evaluate(
            theta, lambda waves: waves.with_velocity(*self._weight), elementwise
        )

    def velocity_response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Φ(θ): where a unit velocity is carried, x(T) = Φ(θ) ẋ(0) from x(0) = 0.

        Takes and returns what ``response`` does.  The velocities follow from both:
        ẋ(T) = (θ/ε) Φ x(0) + (Ψ − Φ/ε) ẋ(0).
        """
        return self._evaluate(
            theta, lambda waves: self.horizon * waves.sinhc(), elementwise
        )

    def derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """The derivative of ``response`` in θ; for matrices that function of θ.

        From rest Ψ'(θ) = κT e^{−κ} (S + κ(C − S)/z²).

        Takes and returns what ``response`` does.
        """
        return self._evaluate(theta, self._slope, elementwise, slope=True)

    def epsilon_derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """∂Ψ/∂ε = (κ/ε) (Ψ − Φ/T − (κ + Tθ) Ψ'/κT) at fixed θ, for numbers or matrices.

        Of Ψ, the response from rest, whatever the start.
        Takes and returns what ``response`` does.
        """
        return self._evaluate(theta, self._psi_by_epsilon, elementwise, slope=True)

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

    def real_preimages(self, value: float) -> RealArray:
        """Real θ at which the response crosses the value, the largest first.

        The principal one, if there is one; from "force" also some of those on later
        branches, which lie at θ = −(y² + κ²)/2κT with y about 2κ e^{κ} |value|.
        """
        roots = []
        if value > self.principal_threshold:
            roots.append(float(np.real(self.inverse(value))))
        if self.start == "force" and value <= 0 and self.kappa < 600:
            y = force_roots(-value * math.exp(self.kappa), self.kappa)
            roots += list(self._theta(-(y**2)))
        return np.array(roots)

    @cached_property
    def threshold(self) -> float:
        """λ, the minimum over the real line: in (−1, 0) and decreasing in ε from rest.

        λ(c) for a start c, −inf for "force".  Underflows to −0.0 for ε/T < 6.8e-4;
        ``log_threshold`` does not.
        """
        return -math.inf if self.start == "force" else self.principal_threshold

    @cached_property
    def log_threshold(self) -> float:
        """The logarithm log |λ| = −κ + log cos δ + log(1 + a²/(y² + a)), y = π + δ."""
        if self.start == "force":
            return math.inf
        return -self.kappa + self._lowest[1]

    @property
    def minimiser(self) -> float:
        """θ* with Ψ(θ*) = λ: θ* = −(y² + κ²)/(2κT); −inf for "force"."""
        return -math.inf if self.start == "force" else self.principal_minimiser

    @property
    def fold(self) -> Fold | None:
        """Where the plane is folded: Ψ' vanishes, simply, above λ; None for "force"."""
        if self.start == "force":
            return None
        # From rest λ stays above −1, by less than float64 resolves if ε is large.
        beyond = -1.0 if self.start == "rest" else -math.inf
        return Fold(self.threshold, self.minimiser, 2, beyond)

    @cached_property
    def principal_threshold(self) -> float:
        """Where the cut of ``inverse`` starts: the minimum of the branch through 0."""
        return -math.exp(self._lowest[1] - self.kappa)

    @cached_property
    def principal_minimiser(self) -> float:
        """Where the increasing branch of the response starts."""
        return float(self._theta(np.array(self._lowest[0])))

    @cached_property
    def _lowest(self) -> tuple[float, float]:
        """Return w = z² at the minimum of the principal branch and log(e^{κ}|λ|)."""
        kappa = self.kappa
        if self.start != "force":
            return lowest(kappa + self.start_number * self.horizon)
        (y,) = force_extrema(force_zeros(0, 2, kappa), kappa)
        return -float(y * y), math.log(-float(force_response(y, kappa)))

    def _theta(self, w: RealArray) -> RealArray:
        """Return the θ of w = κ² + 2κTθ."""
        return (w - self.kappa**2) / (2 * self.kappa * self.horizon)

    # -- evaluation ------------------------------------------------------------------

    def _evaluate(
        self, theta: Kind, value: OfWaves, elementwise: bool, **how: bool
    ) -> Kind:
        """Return what a function of the wave kernels is at numbers or matrices θ."""
        scales = self.kappa, self.horizon
        return evaluate(
            theta,
            lambda theta: value(kernel(theta, *scales)),
            lambda theta: value(doubled(theta, *scales, **how)),
            elementwise,
        )

    @property
    def _weight(self) -> tuple[float, float]:
        """The a and b in response = e^{−κ}(C + (a + bθ)S): κ + cT and 0, or κ and T."""
        share = self.horizon if self.start == "force" else 0.0
        return self.kappa + self.horizon * self.start_number, share

    def _slope(self, waves: Waves) -> Tensor:
        slope = self.kappa * self.horizon * waves.slope(*self._weight)
        return slope + self.horizon * waves.sinhc() if self.start == "force" else slope

    def _psi_by_epsilon(self, waves: Waves) -> Tensor:
        kappa = self.kappa
        turn = waves.weigh(waves.slope(kappa), kappa, self.horizon)
        change = waves.with_velocity(kappa) - waves.sinhc() - turn
        return kappa / self.epsilon * change
