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

from .checks import evaluate, positive
from .fold import Fold


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

    def __post_init__(self):
        """Check and store a plain float."""
        object.__setattr__(self, "horizon", positive(self.horizon, "horizon"))

    def response(self, theta, *, elementwise=False):
        """Ψ(θ) = e^{θT}, of numbers or matrices; see ``Continuous.response``."""
        return evaluate(theta, self._scalar, self._matrix, elementwise)

    def derivative(self, theta, *, elementwise=False):
        """Ψ'(θ) = T e^{θT}, of numbers or matrices."""
        return self.horizon * self.response(theta, elementwise=elementwise)

    def inverse(self, x):
        """Principal inverse log(x)/T, from above on the cut (−∞, 0).

        Raises
        ------
        ValueError
            If some ``x`` is 0, which e^{θT} omits.
        """
        x = np.asarray(x)
        if (x == 0).any():
            raise ValueError(
                "`x` must not contain 0; e^θ never vanishes. Use Continuous(epsilon) "
                "to reach singular maps."
            )
        real = not np.iscomplexobj(x) and (x > 0).all()
        result = np.log(x if real else _from_above(x)) / self.horizon
        return result.item() if result.ndim == 0 else result

    def _scalar(self, theta):
        return (self.horizon * theta).exp()

    def _matrix(self, theta):
        return torch.linalg.matrix_exp(self.horizon * theta)


def _from_above(x):
    """Return complex ``x`` with −0j replaced by +0j: the upper side of the cut."""
    x = x.astype(complex)
    return np.where(x.imag == 0, x.real + 0j, x)
