"""Systems as first-order fields of one tensor, for methods that take any ẏ = g(t, y).

y = (x, v) side by side along the last axis,   ẏ = (v, (f − c v)/m)
y = x                                          ẏ = f(t, x) of a first-order system
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..monitor import WrappedField
from ..plan.moves import Kick, checked
from ..solution import End
from ..systems.equations import System, acceleration
from ..systems.problem import Problem

State = tuple[Tensor, Tensor]


class Joined(WrappedField):
    """The field ``joined(t, y, (mass, damping), *args)`` of a second-order system.

    The numbers are arguments, so that a gradient finds them however they are stored.
    """

    def __init__(self, system: System, whole: bool) -> None:
        super().__init__(system.field)
        self.takes_velocity, self.modes = system.takes_velocity, system.modes
        self.whole = whole  # whether a sample of the state has an axis

    def forward(
        self, time: Any, y: Tensor, numbers: Sequence[Any], *args: Any
    ) -> Tensor:
        """Return ẏ."""
        x, v = self.parts(y)
        if isinstance(time, Tensor) and time.ndim > x.ndim:  # of samples without axes
            time = time.squeeze(-1)
        seen = (x, v) if self.takes_velocity else (x,)
        force = checked(self.field(time, *seen, *args), Kick(1.0), x)
        mass, damping = numbers
        push = acceleration(force, v, mass, damping, self.modes)
        return self.join(v, push.to(v.dtype))

    def join(self, x: Tensor, v: Tensor) -> Tensor:
        """One tensor of both."""
        return torch.cat([x, v], -1) if self.whole else torch.stack([x, v], -1)

    def parts(self, y: Tensor) -> State:
        """Position and velocity."""
        if not self.whole:
            return y[..., 0], y[..., 1]
        d = y.shape[-1] // 2
        return y[..., :d], y[..., d:]


class Form(NamedTuple):
    """A problem as one of first order.

    Attributes
    ----------
    field : callable
        ``field(t, y, *args)``.
    start : Tensor
        y at the first time.
    args : tuple
    leave : callable
        ``leave(y) -> x, v``; of a first-order system, x and x.
    enter : callable
        ``enter(x, v) -> y``.
    """

    field: Callable[..., Tensor]
    start: Tensor
    args: tuple[Any, ...]
    leave: Callable[[Tensor], State]
    enter: Callable[[Tensor, Tensor], Tensor]

    def both(self, end: End) -> State:
        """Two copies that start together, or go on as another solve has left them."""
        return self.start, self.start if end.copy is None else end.copy

    @classmethod
    def of(cls, problem: Problem, field: Any = None) -> "Form":
        """The form of a problem, with another field (one that is watched) if given."""
        system, x, v = problem[:3]
        if field is not None:
            system = system.replace(field)
        if system.first_order:
            return cls(system.field, x, problem.args, twice, first)
        joined = Joined(system, x.ndim > 1)
        numbers = system.mass, system.damping
        args = (numbers, *problem.args)
        return cls(joined, joined.join(x, v), args, joined.parts, joined.join)


def twice(x: Tensor) -> State:
    """A pair of one."""
    return x, x


def first(x: Tensor, v: Tensor) -> Tensor:
    """The first of two."""
    return x
