"""The models of the demo: the same networks with inertia and without.

    ε ẍ + ẋ = f(t, x)      with ε = 3, and with ε → 0, which is ẋ = f(t, x)

The networks of both orders and of all seeds are trained side by side, along the first
axis: states are (networks, n, d), the seeds of the first order before those of the
second.  Only their ε differs.
"""

import torch
from torch import Tensor, nn

from ..models import SecondOrderODE
from ..odeint import odeint
from ..solution import Solution
from ..systems import Newton, SecondOrder

EPSILON = 3.0
# ε → 0: the inertia is gone, γ = exp(−h/ε) is exactly 0 and each step is x ← x + h f.
FIRST_ORDER = 1e-6
ORDERS = {"first order": FIRST_ORDER, "second order": EPSILON}
SEEDS = 5  # networks of each order; the table shows the median and the range
INERTIA = torch.tensor([*ORDERS.values()]).repeat_interleave(SEEDS).reshape(-1, 1, 1)


class Fields(nn.Module):
    """Networks W₂ tanh(W₁ x + b₁) + b₂, one per entry of INERTIA.

    Both orders start from the same weights, seed by seed.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()

        def draw(fan_in: int, *shape: int) -> nn.Parameter:
            weights = (2 * torch.rand(SEEDS, *shape) - 1) / fan_in**0.5
            return nn.Parameter(weights.repeat(len(ORDERS), 1, 1))

        self.w1, self.b1 = draw(size, size, hidden), draw(size, 1, hidden)
        self.w2, self.b2 = draw(hidden, hidden, size), draw(hidden, 1, size)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the field at x, shape (networks, n, size)."""
        hidden = torch.tanh(torch.baddbmm(self.b1, x, self.w1))
        return torch.baddbmm(self.b2, hidden, self.w2)


class Classifiers(nn.Module):
    """Flows of the plane, each with a straight line that cuts the result in two."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = SecondOrderODE(Fields(2, 16), epsilon=INERTIA, steps=15)
        normal = torch.randn(SEEDS, 2, 1).repeat(len(ORDERS), 1, 1)
        self.normal = nn.Parameter(normal)
        self.offset = nn.Parameter(torch.zeros(len(INERTIA), 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (networks, n) of points x (n, 2)."""
        x = self.flow(everyone(x))
        return torch.baddbmm(self.offset, x, self.normal)[..., 0]


class Observed(nn.Module):
    """An ODE with the unknown states from which the observed motions start."""

    def __init__(
        self, system: SecondOrder | Newton, t: Tensor, observed: Tensor, inertia: bool
    ) -> None:
        super().__init__()
        self.system = system
        self.x0 = nn.Parameter(observed[0].clone())
        speed = (observed[2] - observed[0]) / (t[2] - t[0])
        self.v0 = nn.Parameter(speed) if inertia else None

    def forward(
        self, t: Tensor, start: tuple[Tensor, Tensor | None] | None = None
    ) -> Solution:
        """Solve through times t from the own states, or from a pair (x0, v0)."""
        start = (self.x0, self.v0) if start is None else start
        return odeint(self.system, start, t)


def everyone(x: Tensor) -> Tensor:
    """Give the same points (n, d) to all networks: (networks, n, d)."""
    return x.expand(len(INERTIA), -1, -1)


def by_order(values: Tensor) -> dict[str, Tensor]:
    """Split one number per network into the seeds of each order."""
    return dict(zip(ORDERS, values.split(SEEDS), strict=True))
