"""Neural ODEs of first order, of second order, and with the friction of optimisers.

References: Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018; Dupont,
Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019, section 4; Norcliffe et al., "On
Second Order Behaviour in Augmented Neural ODEs", NeurIPS 2020, eq. (3); Xia et al.,
"Heavy Ball Neural Ordinary Differential Equations", NeurIPS 2021, eq. (6); Su, Boyd,
Candès, J. Mach. Learn. Res. 17 (2016), eq. (3), and Nguyen et al., "Improving Neural
Ordinary Differential Equations with Nesterov's Accelerated Gradient Method", NeurIPS
2022, for Nesterov's.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ... import checks
from ...checks import Number
from ...gradients import GRADIENTS, find_gradient
from ...methods import METHODS, Method, Splitting, find_method
from ...odeint import odeint
from ...plan import Damp, Drift, Kick, Plan, compile_map
from ...plan.moves import Move
from ...solution import Solution
from ...systems import Acceleration, FirstOrder, Newton, Positive, System
from ..invert import initial_velocity
from ..second_order_ode import equally_spaced
from .planned import Planned, Route, positive

Field = Callable[..., Tensor]


class Flow(nn.Module):
    """The map x ↦ x(t1) of a system, in equal steps or by an adaptive method."""

    def __init__(
        self, system: System, t1: float, steps: int, method: Any, gradient: Any
    ) -> None:
        super().__init__()
        self.system, self.t1 = system, positive(t1, "t1")
        self.steps, self.method = checks.count(steps, "steps"), find_method(method)
        self.gradient = find_gradient(gradient, GRADIENTS)

    def enter(self, x: Tensor) -> Any:
        """The state that an input becomes."""
        return x

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Return x(t1)."""
        return self.solve(x, 1, args).x[-1]

    def trajectory(self, x: Tensor, *args: Any) -> Solution:
        """Return the ``Solution`` at the ``steps + 1`` step times."""
        return self.solve(x, self.steps, args)

    def solve(self, x: Tensor, intervals: int, args: tuple[Any, ...]) -> Solution:
        """Solve to t1 through so many intervals."""
        t = equally_spaced(self.t1, intervals)
        adapts = getattr(self.method, "adaptive", False)
        fixed = "step_size" in self.method.options and not adapts
        h = self.t1 / self.steps if fixed else None
        return odeint(
            self.system, self.enter(x), t.to(x.device), method=self.method,
            gradient=self.gradient, step_size=h, args=args,
        )  # fmt: skip


class NeuralODE(Flow):
    """The neural ODE ẋ = f(t, x), plain or augmented, differentiated exactly.

    Parameters
    ----------
    field : callable
        ``field(t, x, *args)``.
    t1 : float, default 1.0
    steps : int, default 10
        Of a fixed-step method.
    augment : int, default 0
        Zeros appended to the last axis of the input (augmented neural ODE); they are
        part of the result.
    method : str or Method, default "coupled_rk4"
        Any that solves ``FirstOrder``.
    gradient : str, Gradient or callable, default "reversible"
    """

    def __init__(
        self,
        field: Field,
        t1: float = 1.0,
        steps: int = 10,
        augment: int = 0,
        method: str | Method = "coupled_rk4",
        gradient: Route = "reversible",
    ) -> None:
        super().__init__(FirstOrder(field), t1, steps, method, gradient)
        self.augment = checks.whole(augment, "augment")

    def enter(self, x: Tensor) -> Tensor:
        """The input, with zeros beside it."""
        return nn.functional.pad(x, (0, self.augment)) if self.augment else x


class SecondOrderNODE(Flow):
    """SONODE, ẍ = f(t, x, ẋ) with ẋ(0) = g(x(0)).

    Parameters
    ----------
    field : callable
        ``field(t, x, v, *args)``.
    velocity : None, Tensor or callable, optional
        The initial velocity: zero, a tensor, or a map x ↦ v0 that is learned.
    t1, steps, method, gradient
        As in ``NeuralODE``.
    """

    def __init__(
        self,
        field: Field,
        velocity: Any = None,
        t1: float = 1.0,
        steps: int = 10,
        method: str | Method = "coupled_rk4",
        gradient: Route = "reversible",
    ) -> None:
        super().__init__(Acceleration(field), t1, steps, method, gradient)
        self.velocity = checks.velocity(velocity)

    def enter(self, x: Tensor) -> Any:
        """The input with its velocity."""
        return x, initial_velocity(self.velocity, x)


class HeavyBallODE(Planned):
    """The heavy-ball ODE ẍ + c ẋ = f(t, x) with a learned damping c.

    Parameters
    ----------
    field : callable
        ``field(t, x, *args)``.
    damping : float, nn.Parameter or Positive, optional
        c ≥ 0; by default learned from 1/2, as ``Positive(0.5, zero=True)``.
    velocity : None, Tensor or callable, optional
        As in ``SecondOrderNODE``.
    t1, steps
        As in ``NeuralODE``.
    method : str or Splitting, default "verlet"
        A splitting, which damps exactly.
    gradient : str, Gradient or callable, default "reversible"
    """

    def __init__(
        self,
        field: Field,
        damping: Number | Positive | None = None,
        velocity: Any = None,
        t1: float = 1.0,
        steps: int = 10,
        method: str | Splitting = "verlet",
        gradient: Route = "reversible",
    ) -> None:
        super().__init__(gradient)
        learned = Positive(0.5, zero=True) if damping is None else damping
        self.system = Newton(field, damping=learned)
        self.velocity = checks.velocity(velocity)
        self.t1, self.steps = positive(t1, "t1"), checks.count(steps, "steps")
        found = find_method(method)
        if not isinstance(found, Splitting) or found.takes_velocity:
            names = [name for name, m in METHODS.items() if not m.takes_velocity]
            raise ValueError(f"`method` must be one of {names}, got {found.name!r}")
        self.method = found

    def plan(self, x: Tensor) -> Plan:
        """The steps of the splitting."""
        self.system.check_numbers()
        t = equally_spaced(self.t1, 1).to(x.device)
        return compile_map(self.method, self.system, t, [self.steps], x)

    def force(self, time: Any, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        return self.system.field(time, x, *args)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input with its velocity."""
        return checks.state((x, initial_velocity(self.velocity, x)))


class NesterovODE(Planned):
    """Nesterov's ODE ẍ + (3/t) ẋ = f(t, x) from rest at t = 0.

    The damping is integrated exactly: over a step from s to s' it takes v to
    (s/s')³ v, and a constant force adds (s' − s (s/s')³)/4 times it.  Half of that,
    a drift, and the other half make a step of order 2.

    Parameters
    ----------
    field : callable
        ``field(t, x, *args)``.
    t1, steps, gradient
        As in ``NeuralODE``.
    """

    def __init__(
        self,
        field: Field,
        t1: float = 1.0,
        steps: int = 10,
        gradient: Route = "reversible",
    ) -> None:
        super().__init__(gradient)
        self.field = checks.function(field)
        self.t1, self.steps = positive(t1, "t1"), checks.count(steps, "steps")

    def plan(self, x: Tensor) -> Plan:
        """Relax to the middle, drift, relax to the end."""
        h, plan = self.t1 / self.steps, list[Move]()
        kind = torch.promote_types(x.dtype, torch.float32)
        times = h * torch.arange(self.steps + 1, dtype=torch.float64, device="cpu")
        for n, (s, end) in enumerate(itertools.pairwise(times.to(x.device, kind))):
            # The force at the end of a step is that at the start of the next.
            plan += relax(n * h, (n + 0.5) * h, s, n == 0)
            plan += [Drift(h), *relax((n + 0.5) * h, (n + 1) * h, end, True)]
        return tuple(plan)

    def force(self, time: Any, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        return self.field(time, x, *args)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From rest."""
        return checks.state((x, None))


def relax(s: float, end: float, time: Tensor, fresh: bool) -> list[Move]:
    """Damp by 3/t from s to the end, and kick by the force at some time."""
    keep = (s / end) ** 3
    kick = Kick((end - s * keep) / 4, time, fresh)
    return [Damp(keep), kick] if s else [kick]  # at rest there is nothing to damp
