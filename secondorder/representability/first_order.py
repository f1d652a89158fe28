"""The propagator of the first-order ODE ẋ = θx on [0, T]: Ψ(θ) = e^{θT}.

Which real matrices have a real logarithm is Culver's theorem: nonsingular ones whose
Jordan blocks of negative eigenvalues come in pairs.  It is the ε → 0 end of the
second-order theory, with threshold 0 and the value 0 itself left out.

Reference: Culver, "On the existence and uniqueness of the real logarithm of a matrix",
Proc. Amer. Math. Soc. 17 (1966), theorem 1.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .checks import evaluate, finite_points, number_or_array, positive
from .fold import Fold
from .propagator import Array, ComplexArray, Kind, Points, RealArray


@dataclass(frozen=True)
class FirstOrder:
    """The linear first-order ODE ẋ = θx on [0, T]: x(T) = e^{θT} x(0).

    Parameters
    ----------
    horizon : float, default 1.0
        T > 0.

    Raises
    ------
    ValueError
        If ``horizon`` is not positive and finite.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> m = rep.FirstOrder()
    >>> m.threshold, m.inverse(1.0)
    (0.0, 0.0)

    References
    ----------
    Culver, Proc. Amer. Math. Soc. 17 (1966).
    """

    horizon: float = 1.0

    threshold = 0.0
    log_threshold = -math.inf
    minimiser = -math.inf
    principal_threshold = 0.0
    principal_minimiser = -math.inf
    fold = Fold(0.0, -math.inf, 0)

    def __post_init__(self) -> None:
        """Check and store a plain float."""
        object.__setattr__(self, "horizon", positive(self.horizon, "horizon"))

    def response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Ψ(θ) = e^{θT}, of numbers or matrices; see ``Continuous.response``."""
        T = self.horizon
        return evaluate(
            theta,
            lambda theta: (T * theta).exp(),
            lambda theta: torch.linalg.matrix_exp(T * theta),
            elementwise,
        )

    def derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Ψ'(θ) = T e^{θT}, of numbers or matrices."""
        return self.horizon * self.response(theta, elementwise=elementwise)

    def inverse(self, x: Points) -> Points:
        """Principal inverse log(x)/T, from above on the cut (−∞, 0).

        Raises
        ------
        ValueError
            If some ``x`` is 0, which e^{θT} omits.
        """
        points = finite_points(x)
        if (points == 0).any():
            raise ValueError(
                "`x` must not contain 0; e^θ never vanishes; use Continuous(epsilon) "
                "to reach singular maps"
            )
        real = not np.iscomplexobj(points) and (points > 0).all()
        logarithm = np.log(points if real else _from_above(points))
        return number_or_array(logarithm / self.horizon)

    def real_preimages(self, value: float) -> RealArray:
        """Return log(value)/T, if the value is positive."""
        return np.array([math.log(value) / self.horizon] if value > 0 else [])


def _from_above(x: Array) -> ComplexArray:
    """Return complex ``x`` with −0j replaced by +0j: the upper side of the cut."""
    x = x.astype(complex)
    return np.where(x.imag == 0, x.real + 0j, x)
