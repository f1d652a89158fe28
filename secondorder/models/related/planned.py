"""What all models that are a plan have in common: they say the plan, and the field."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ... import checks
from ...gradients import GRADIENTS, Gradient, find_gradient
from ...plan import Plan, Record
from ...systems.numbers import WithNumbers
from ..invert import State, invert, run_reversibly

Route = str | Gradient | Callable[..., Any]
Blocks = Iterable[nn.Module]


class Planned(WithNumbers):
    """A model that runs a plan from a pair (x, v) that it makes of its input.

    Parameters
    ----------
    gradient : str, Gradient or callable
        ``"reversible"``, ``"backprop"`` or ``"checkpoint"``.
    """

    def __init__(self, gradient: Route) -> None:
        super().__init__()
        self.gradient = find_gradient(gradient, GRADIENTS)
        if self.gradient.run_plan is None:
            raise ValueError(
                f"`gradient` {self.gradient.name!r} needs an ODE solver; a plan of "
                'moves takes "reversible", "backprop" or "checkpoint"'
            )

    def plan(self, x: Tensor) -> Plan:
        """The moves, without records."""
        raise NotImplementedError

    def force(self, time: Any, x: Tensor, *args: Any) -> Tensor:
        """What kicks and shears evaluate."""
        raise NotImplementedError

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pair that an input becomes."""
        raise NotImplementedError

    def leave(self, x: Tensor, v: Tensor) -> Tensor:
        """What is returned of the pair at the end."""
        return x

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Run the plan; further arguments go to the field."""
        plan = (*self.plan(x), Record())
        ((end, v),) = self.gradient.run(plan, self.force, *self.enter(x), args)
        return self.leave(end, v)

    def state(self, x: Tensor, *args: Any) -> State:
        """The pair at the end, and the bits that lead back."""
        return run_reversibly(self.plan(x), self.force, *self.enter(x), args)

    def inverse(self, state: Any, *args: Any) -> tuple[Tensor, Tensor]:
        """The pair at the start: exact from a ``State``, else in floating point."""
        return invert(self.plan(state[0]), self.force, state, args)


class Layered(Planned):
    """Blocks one after the other; the time of a move is the number of its block.

    Parameters
    ----------
    blocks : iterable of nn.Module
        ``block(x, *args) -> f``, the shape of ``x``, without the skip connection.
    gradient
        As above.
    """

    def __init__(self, blocks: Blocks, gradient: Route) -> None:
        super().__init__(gradient)
        blocks = list(blocks)
        if not blocks:
            raise ValueError("`blocks` is empty; give at least one block x -> f(x)")
        for n, block in enumerate(blocks):
            if not isinstance(block, nn.Module):
                raise TypeError(
                    f"`blocks[{n}]` must be an nn.Module, got {type(block).__name__}"
                )
        self.blocks = nn.ModuleList(blocks)

    def force(self, time: int, x: Tensor, *args: Any) -> Tensor:
        """Evaluate block ``time``."""
        return self.blocks[time](x, *args)


def positive(value: Any, name: str) -> float:
    """A positive number of a model that is not learned."""
    if isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a float, got a tensor")
    return float(checks.positive(value, name))
