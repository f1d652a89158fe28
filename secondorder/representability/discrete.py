"""The propagator of N tied linear layers of a Momentum ResNet, started at rest.

    v ← γ v + (1 − γ) θ x,   x ← x + v      gives  x_N = P(θ) x_0,
    P(θ) = q^N [U_N(ξ) − q U_{N−1}(ξ)],   q = √γ,   ξ = (1 + γ + (1 − γ)θ)/2q,

with the Chebyshev polynomials of the second kind; γ = 0 gives (1 + θ)^N.  Every zero
of P is real and simple, so N − 1 real critical points interlace.  The right-most one
starts the branch that converges to the ODE; the lowest one decides what the network
can do (nothing is out of reach if N is odd).

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, eq. (3) for the layers; the polynomial is elementary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from .checks import evaluate, identity, layer_count, momentum
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

    Raises
    ------
    ValueError
        If ``layers``, ``gamma`` or ``rule`` is out of range.

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

    def __post_init__(self) -> None:
        """Check and store plain numbers."""
        object.__setattr__(self, "layers", layer_count(self.layers))
        object.__setattr__(self, "gamma", momentum(self.gamma))
        if self.rule not in RULES:
            raise ValueError(
                f"`rule` must be one of {RULES}; got {self.rule!r}. Use 'euler' for "
                "γ = 1 − h/ε, the reading of Momentum ResNets."
            )

    def response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """P(θ): x_N = P(θ) x_0 from v_0 = 0.  θ belongs to one layer of unit step.

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
        points: Any = np.asarray(x)[()]  # a number without axes comes out as one
        if self.layers == 1:
            return (points - 1) / (1 - self.gamma)
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
        return self._theta(np.cos(self._critical_angles))[::-1]

    @cached_property
    def critical_values(self) -> RealArray:
        """P at the critical points; signs alternate and the last one is negative."""
        if self.layers == 1 or self.gamma == 0:
            return np.zeros(len(self.critical_points))
        phi, q, n = self._critical_angles, math.sqrt(self.gamma), self.layers
        shape = (np.sin((n + 1) * phi) - q * np.sin(n * phi)) / np.sin(phi)
        return (q**n * shape)[::-1]

    @cached_property
    def threshold(self) -> float:
        """Least value of P over the real line: −inf if N is odd."""
        return -math.inf if self.layers % 2 else float(self.critical_values.min())

    @property
    def log_threshold(self) -> float:
        """The logarithm of |threshold|, ±inf where that is infinite or 0."""
        return math.log(-self.threshold) if self.threshold else -math.inf

    @property
    def minimiser(self) -> float:
        """Where the threshold is attained (−inf if N is odd)."""
        if self.layers % 2:
            return -math.inf
        return float(self.critical_points[self.critical_values.argmin()])

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
                "`gamma` = 0 has no second-order limit; use FirstOrder() instead."
            )
        step = 1 / self.layers
        if self.rule == "euler":
            return Continuous(step / (1 - self.gamma))
        return Continuous(-step / math.log(self.gamma))

    def limit_error(self, theta: ArrayLike) -> float | RealArray:
        """Leading term of P(θ/N) − Ψ(θ), the error of N layers against their limit.

        h [(θ/2ε) Φ − ½ ∂Ψ/∂ε] for γ = 1 − h/ε, which solves the ODE with ε − h/2, and
        h (θ/2ε) Φ for γ = e^{−h/ε}, where only the starting kick is late.  h = 1/N.

        Parameters
        ----------
        theta : float or array
            The θ of the ODE, N times that of a layer.
        """
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
        return self._run(theta, product, one, torch.zeros_like(theta))

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
        """Run the layers from (1, 0) with their derivative in θ; return dx_N/dθ."""
        x, v = one, torch.zeros_like(theta)
        dx, dv = v, v
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

    @cached_property
    def _critical_angles(self) -> RealArray:
        """φ in (0, π), increasing, with d/dφ [sin (N+1)φ − q sin Nφ]/sin φ = 0.

        The zeros of P are the eigenvalues of a Jacobi matrix with ½ beside the diagonal
        and q/2 in one corner; between neighbours the derivative changes sign once.
        """
        n, q = self.layers, math.sqrt(self.gamma)
        corner = np.zeros(n)
        corner[0] = q / 2
        zeros = np.arccos(eigvalsh_tridiagonal(corner, np.full(n - 1, 0.5)))[::-1]

        def slope(phi: RealArray) -> RealArray:
            value = np.sin((n + 1) * phi) - q * np.sin(n * phi)
            turn = (n + 1) * np.cos((n + 1) * phi) - q * n * np.cos(n * phi)
            return turn * np.sin(phi) - value * np.cos(phi)

        return bisect(slope, zeros[:-1], zeros[1:])

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
            return [(value - 1) / (1 - self.gamma)]  # one layer: affine
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
