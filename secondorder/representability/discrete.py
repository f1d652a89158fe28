"""The propagator of N tied linear layers of a Momentum ResNet, by their first velocity.

    v ← γ v + (1 − γ) θ x,   x ← x + v      gives  x_N = P(θ) x_0,

with Chebyshev polynomials of the second kind, q = √γ, ξ = (1 + γ + (1 − γ)θ)/2q:

    start     v_0      P
    "rest"    0        q^N [U_N − q U_{N−1}]
    c         c x_0    q^N [U_N − q(1 − c) U_{N−1}]
    "force"   θ x_0    q^N [U_N − 2q U_{N−1} + q² U_{N−2}]/(1 − γ)

γ = 0 gives (1 + θ)^N.  Every zero of P is real and simple: with ξ = cos φ it is
Im[e^{i(N+1)φ}(1 − qe^{−iφ})^k]/sin φ, k = 1 or 2, whose phase runs from 0 to (N + 1)π;
the start c is the characteristic polynomial of a Jacobi matrix.  So N − 1 real critical
points interlace.  The right-most one starts the branch that converges to the ODE; the
lowest one decides what the network can do.  If N is odd nothing is out of reach, from
any start: P takes every real value at a simple root.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, eq. (3) for the layers; the polynomials are elementary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .chebyshev import Chebyshev
from .checks import evaluate, finite_points, identity, layer_count, momentum, start_of
from .continuous import Continuous
from .fold import Fold
from .inverse import bisect, increasing_root, principal_inverse
from .propagator import Array, Kind, Points, RealArray

RULES = ("euler", "exponential")
Product: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # of numbers or of matrices


@dataclass(frozen=True)
class Discrete:
    """A Momentum ResNet of N tied linear layers, v ← γv + (1−γ)θx, x ← x + v.

    Parameters
    ----------
    layers : int
        N >= 1.
    gamma : float
        The momentum, in [0, 1); 0 is a residual network.
    rule : {"euler", "exponential"}
        How γ is read in the limit of many layers, γ = 1 − h/ε or γ = e^{−h/ε}; it
        decides ``limit`` and ``limit_error``, nothing else.
    start : "rest", "force" or float, default "rest"
        The first velocity: 0, the residual of the first layer θx_0 (the
        ``MomentumNet(blocks, velocity=block)`` of tied blocks), or c x_0.

    Raises
    ------
    ValueError
        If ``layers``, ``gamma``, ``rule`` or ``start`` is out of range.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> m = rep.Discrete(layers=4, gamma=0.9)
    >>> round(m.threshold, 12), round(m.principal_threshold, 12)
    (-1.614177578407, -0.845038819008)
    >>> rep.Discrete(layers=5, gamma=0.9).threshold
    -inf

    References
    ----------
    Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML 2021,
    eq. (3).
    """

    layers: int
    gamma: float
    rule: str = "euler"
    start: str | float = "rest"

    def __post_init__(self) -> None:
        """Check and store plain numbers."""
        object.__setattr__(self, "layers", layer_count(self.layers))
        object.__setattr__(self, "gamma", momentum(self.gamma))
        if self.rule not in RULES:
            raise ValueError(
                f"`rule` must be one of {RULES}, got {self.rule!r}; use 'euler' for "
                "γ = 1 − h/ε, the reading of Momentum ResNets"
            )
        object.__setattr__(self, "start", start_of(self.start))
        if not np.isfinite(self.critical_values).all():
            raise ValueError(
                f"`start` = {self.start!r} makes {self.layers} layers overflow; in the "
                "ODE's units c is N times smaller: try start=c/layers"
            )

    @property
    def start_number(self) -> float:
        """The c of a first velocity c x_0: 0 from rest, and 0 for "force"."""
        return self.start if isinstance(self.start, float) else 0.0

    @property
    def _gain(self) -> float:
        """The slope of one layer alone: (1 − γ), or 1 for "force"."""
        return 1.0 if self.start == "force" else 1 - self.gamma

    def response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """P(θ): x_N = P(θ) x_0 from the start.  θ belongs to one layer of unit step.

        Numbers or matrices, real or complex; see ``Continuous.response``.

        Examples
        --------
        >>> Discrete(2, 0.5).response(-2.5)
        -0.5625
        """
        return _evaluate(self._from_rest, theta, elementwise)

    def derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """P'(θ), of numbers, or the function P' of a matrix."""
        return _evaluate(self._sensitivity, theta, elementwise)

    def velocity_response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """γ q^{N−1} U_{N−1}(ξ): x_N = velocity_response(θ) v_0 from x_0 = 0."""
        return _evaluate(self._from_velocity, theta, elementwise)

    def inverse(self, x: Points) -> Points:
        """Principal inverse, the branch P > ``principal_threshold`` continued.

        It is the branch that becomes ``Continuous.inverse`` as N → ∞; on its cut
        (−∞, ``principal_threshold``] the value from above is returned.
        """
        points: Any = finite_points(x)[()]  # a number without axes comes out as one
        if self.layers == 1:
            return (points - self.response(0.0)) / self._gain
        if self.gamma == 0:
            return _root_of_power(points, self.layers)
        return principal_inverse(points, self)

    def real_preimages(self, value: float) -> RealArray:
        """All simple real θ with P(θ) = ``value``, in increasing order.

        One bracket per monotone branch; a double root (at a critical value) lies in
        none of them.
        """
        if self.gamma == 0:
            return self._preimages_of_power(value)
        edges = [-math.inf, *self.critical_points, math.inf]
        rise = 1.0 if self.layers % 2 else -1.0  # direction of the left-most branch
        roots = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            roots += self._branch_root(value, low, high, rise)
            rise = -rise
        return np.array(roots)

    @cached_property
    def critical_points(self) -> RealArray:
        """The distinct real zeros of P', increasing: N − 1 of them, or −1 if γ = 0."""
        if self.layers == 1:
            return np.array([])
        if self.gamma == 0:
            return np.array([-1.0])
        return self._theta(self._chebyshev.critical)

    @cached_property
    def critical_values(self) -> RealArray:
        """P at the critical points; signs alternate and the last one is negative."""
        return self._critical_signs * np.exp(self._critical_logs)

    @property
    def _critical_signs(self) -> RealArray:
        if self.layers == 1 or self.gamma == 0:
            return np.zeros(len(self.critical_points))
        return np.sign(self._chebyshev.values)

    @property
    def _critical_logs(self) -> RealArray:
        """The logarithms of |P| at the critical points, which do not underflow."""
        if self.layers == 1 or self.gamma == 0:
            return np.full(len(self.critical_points), -np.inf)
        scale = self.layers / 2 * math.log(self.gamma)
        if self.start == "force":
            scale -= math.log1p(-self.gamma)
        return scale + np.log(np.abs(self._chebyshev.values))

    @cached_property
    def _chebyshev(self) -> Chebyshev:
        q = math.sqrt(self.gamma)
        tail = (
            (-2 * q, self.gamma)
            if self.start == "force"
            else (-q * (1 - self.start_number),)
        )
        return Chebyshev(self.layers, (1.0, *tail))

    @cached_property
    def threshold(self) -> float:
        """Least value of P over the real line: −inf if N is odd."""
        return -math.inf if self.layers % 2 else float(self.critical_values.min())

    @cached_property
    def log_threshold(self) -> float:
        """The logarithm of |threshold|, ±inf where that is infinite or 0."""
        if self.layers % 2:
            return math.inf
        return float(self._critical_logs[self._lowest])

    @property
    def _lowest(self) -> int:
        """Which critical point is the lowest."""
        if self.gamma == 0:
            return 0
        negative = self._critical_signs < 0
        return int(np.where(negative, self._critical_logs, -np.inf).argmax())

    @property
    def minimiser(self) -> float:
        """Where the threshold is attained (−inf if N is odd)."""
        if self.layers % 2:
            return -math.inf
        return float(self.critical_points[self._lowest])

    @property
    def fold(self) -> Fold | None:
        """The critical value with a condition of its own, or None."""
        if self.layers > 1 and self.gamma == 0:
            return Fold(0.0, -1.0, self.layers)
        if self.layers % 2:
            return None
        return Fold(self.threshold, self.minimiser, 2)

    @property
    def principal_threshold(self) -> float:
        """Value at the right-most critical point: the threshold the ODE remembers."""
        return float(self.critical_values[-1]) if self.layers > 1 else -math.inf

    @property
    def principal_minimiser(self) -> float:
        """The right-most critical point, where the increasing branch starts."""
        return float(self.critical_points[-1]) if self.layers > 1 else -math.inf

    @property
    def limit(self) -> Continuous:
        """The ODE on [0, 1] that N layers of step 1/N discretize, with θ N times ours.

        Raises
        ------
        ValueError
            If γ = 0: the limit is FirstOrder().
        """
        if self.gamma == 0:
            raise ValueError(
                "`gamma` = 0 has no second-order limit; use FirstOrder() instead"
            )
        step = 1 / self.layers
        start: str | float = self.start
        if isinstance(start, float):
            start *= self.layers  # v is the step h ẋ
        if self.rule == "euler":
            return Continuous(step / (1 - self.gamma), start=start)
        return Continuous(-step / math.log(self.gamma), start=start)

    def limit_error(self, theta: ArrayLike) -> float | RealArray:
        """Leading term of P(θ/N) − Ψ(θ), the error of N layers against their limit.

        h [(θ/2ε) Φ − ½ ∂Ψ/∂ε] for γ = 1 − h/ε, which solves the ODE with ε − h/2, and
        h (θ/2ε) Φ for γ = e^{−h/ε}, where only the starting kick is late.  h = 1/N.

        Parameters
        ----------
        theta : float or array
            The θ of the ODE, N times that of a layer.

        Raises
        ------
        ValueError
            If ``start`` is not "rest": the constant is known from rest only.
        """
        if self.start != "rest":
            raise ValueError(
                f"`start` must be 'rest' for a limit error, got {self.start!r}; "
                "compare response(θ/N) with limit.response(θ) instead"
            )
        ode, step = self.limit, 1 / self.layers
        theta = np.asarray(theta, dtype=float)
        phi = ode.velocity_response(theta, elementwise=True)
        kick = theta / (2 * ode.epsilon) * phi
        if self.rule == "exponential":
            return step * kick
        shift = ode.epsilon_derivative(theta, elementwise=True) / 2
        return step * (kick - shift)

    # -- evaluation ------------------------------------------------------------------

    def _from_rest(self, theta: Tensor, one: Tensor, product: Product) -> Tensor:
        if self.start == "force":
            return self._run(theta, product, one, theta)
        return self._run(theta, product, one, self.start_number * one)

    def _from_velocity(self, theta: Tensor, one: Tensor, product: Product) -> Tensor:
        # The velocity is damped before it first moves x: hence the factor γ.
        return self._run(theta, product, torch.zeros_like(theta), one)

    def _run(self, theta: Tensor, product: Product, x: Tensor, v: Tensor) -> Tensor:
        """Run the layers from (x, v); return x_N."""
        for _ in range(self.layers):
            v = self.gamma * v + (1 - self.gamma) * product(theta, x)
            x = x + v
        return x

    def _sensitivity(self, theta: Tensor, one: Tensor, product: Product) -> Tensor:
        """Run the layers with their derivative in θ; return dx_N/dθ."""
        x, zero = one, torch.zeros_like(theta)
        v, dx, dv = self.start_number * one, zero, zero
        if self.start == "force":
            v, dv = theta, one
        for _ in range(self.layers):
            dv = self.gamma * dv + (1 - self.gamma) * (product(theta, dx) + x)
            v = self.gamma * v + (1 - self.gamma) * product(theta, x)
            x, dx = x + v, dx + dv
        return dx

    # -- critical points -------------------------------------------------------------

    def _theta(self, xi: RealArray) -> RealArray:
        """Return the θ of ξ = (1 + γ + (1 − γ)θ)/2q."""
        q = math.sqrt(self.gamma)
        return (2 * q * xi - 1 - self.gamma) / (1 - self.gamma)

    def _preimages_of_power(self, value: float) -> RealArray:
        """Return the simple real θ with (1 + θ)^N = value."""
        size = abs(value) ** (1 / self.layers)
        if self.layers % 2:
            simple = value != 0 or self.layers == 1
            return np.array([math.copysign(size, value) - 1] if simple else [])
        return np.array([-size - 1, size - 1] if value > 0 else [])

    def _branch_root(
        self, value: float, low: float, high: float, rise: float
    ) -> list[float]:
        """Return [θ] with P(θ) = value inside one monotone branch, or []."""
        if not math.isfinite(low) and not math.isfinite(high):
            return [(value - self.response(0.0)) / self._gain]  # one layer: affine
        if math.isfinite(low) and math.isfinite(high):

            def excess(theta: RealArray) -> RealArray:
                return self.response(theta) - value

            ends = np.array([low]), np.array([high])
            inside = excess(ends[0]) * excess(ends[1]) < 0
            return [bisect(excess, *ends).item()] if inside else []
        # An outer branch, mirrored if needed into one that increases from its edge.
        side = 1.0 if math.isfinite(low) else -1.0
        edge, up = (low, rise) if side > 0 else (high, -rise)
        if up * (value - self.response(edge)) <= 0:
            return []
        root = increasing_root(
            lambda t: up * self.response(side * t),
            lambda t: up * side * self.derivative(side * t),
            np.array([up * value]),
            side * edge,
        )
        return [side * root.item()]


def _evaluate(
    run: Callable[[Tensor, Tensor, Product], Tensor], theta: Kind, elementwise: bool
) -> Kind:
    """Call ``run(theta, one, product)`` for numbers or for matrices."""

    def numbers(theta: Tensor) -> Tensor:
        return run(theta, torch.ones_like(theta), torch.mul)

    def matrices(theta: Tensor) -> Tensor:
        return run(theta, identity(theta).expand_as(theta), torch.matmul)

    return evaluate(theta, numbers, matrices, elementwise)


def _root_of_power(x: Array, n: int) -> Any:
    """Return x^{1/n} − 1 with the principal root, from above on the negative axis."""
    if np.iscomplexobj(x) or (x < 0).any():
        x = np.where(x.imag == 0, x.real + 0j, x)
    return (np.asarray(x) ** (1 / n) - 1)[()]
