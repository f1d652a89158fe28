"""The way there and back: a state that knows where it came from.

``run_reversibly`` runs the plan of a model on the grid and keeps what damping pushed
out of the state; ``invert`` undoes a plan, exactly from a ``State``, in floating point
from a plain pair (x, v).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import checks
from ..gradients.integers import Packed
from ..gradients.reversible import kind_of
from ..gradients.reversible import start as start_run
from ..gradients.run import Run, Trace
from ..gradients.shears import Shears
from ..gradients.tape import host_weights
from ..plan.moves import Plan, Record, log_determinant, reverse, walk
from ..solution import Pair

Field = Callable[..., Tensor]


class Context(NamedTuple):
    """In what mode a state was computed, which the way back has to be in, too."""

    plan: list[float]
    grad: bool
    autocast: tuple[str, torch.dtype, bool] | None


class State(Pair):
    """The end of a run, with the bits that damping pushed out of it.

    It holds data and no model: it can be saved, also for ``torch.load(...,
    weights_only=True)``, and is undone by the weights of the model it is given to.

    Attributes
    ----------
    x, v : Tensor
        Position and velocity; the state unpacks to these two.
    trace : Trace
        The integers behind them.
    rounded : (Tensor, Tensor)
        What rounding to the grid took at the start.
    context : Context
    """

    def __init__(
        self,
        x: Tensor,
        v: Tensor,
        trace: Trace,
        rounded: tuple[Tensor, Tensor],
        context: Context,
    ) -> None:
        self.x, self.v, self.trace = x, v, trace
        self.rounded, self.context = rounded, context

    def __repr__(self) -> str:
        """Show the shape, and what the way back takes."""
        return f"State(x, v {tuple(self.x.shape)}, {self.nbytes} bytes kept)"

    @property
    def nbytes(self) -> int:
        """Bytes kept for the way back."""
        x, velocities, stacks = self.trace.end
        return sum(n.nbytes for n in (x, *velocities, *sum(stacks, [])))


torch.serialization.add_safe_globals([State, Trace, Packed, Context])


class Remembering(Run):
    """A run whose trace can be taken away."""

    trace: Trace | None = None

    def forward(
        self, x: Tensor, v: Tensor, arguments: Sequence[Tensor]
    ) -> tuple[list[Tensor], Trace]:
        """Run the tape and keep the trace."""
        outputs, self.trace = super().forward(x, v, arguments)
        return outputs, self.trace


class RememberingShears(Remembering, Shears):
    """The same of a plan of shears."""


def run_reversibly(
    plan: Plan, field: Field, x: Tensor, v: Tensor, args: Sequence[Any]
) -> State:
    """Run a plan on the grid and keep the way back."""
    kind = RememberingShears if kind_of(plan) is Shears else Remembering
    run = kind((*plan, Record()), field, args, x)
    ((x_end, v_end),) = start_run(run, x, v)
    grid, trace = run.tape.grid, cast(Trace, run.trace)
    grid = replace(grid, dtype=trace.end.x.dtype)
    start = run.load(grid, x, v, trace.unit)
    with torch.no_grad():
        read = (2.0**-grid.fu,)
        rounded = x - start.position(), v - start.velocity(read)
    context = Context(digest(plan), run.tracked, run.autocast)
    return State(x_end, v_end, trace, rounded, context)


def invert(
    plan: Plan, field: Field, state: Any, args: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """Invert a plan from a ``State`` (exactly) or from a pair (in floating point)."""
    if isinstance(state, State):
        return undo(plan, field, state, args)
    x, v = checks.state(state)
    warn_if_lost(plan, x.dtype)
    return walk(reverse(plan), field, x, v, args)[1][:2]


def undo(
    plan: Plan, field: Field, state: State, args: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """The ``(x, v)`` that a state started from, bit for bit, detached."""
    if digest(plan) != state.context.plan:
        raise ValueError(
            "`state` comes from a model with another number of layers, γ, ε or step; "
            "give it to the model whose `.state(x)` it is, or invert the pair "
            "(state.x, state.v), which is done in floating point"
        )
    with torch.set_grad_enabled(state.context.grad):
        run = kind_of(plan)((*plan, Record()), field, args, state.x)
        run.autocast = state.context.autocast
        check_unedited(run, state)
        end, _ = run.rewind(state.trace)
        run.weights.take_gradients()
    with torch.no_grad():
        velocity = end.velocity((2.0**-run.tape.grid.fu,))
        return end.position() + state.rounded[0], velocity + state.rounded[1]


def check_unedited(run: Run, state: State) -> None:
    """Raise where somebody has changed x or v of a state."""
    x, v = run.end(state.trace)
    for name, found, kept in (("x", state.x, x), ("v", state.v, v)):
        if not torch.equal(found.detach().nan_to_num(), kept.nan_to_num()):
            raise ValueError(
                f"`state.{name}` was changed after the state was computed, but the way "
                "back starts from the integers behind it; invert the pair (state.x, "
                "state.v) instead, or change a copy"
            )


def digest(plan: Plan) -> list[float]:
    """A few numbers that tell plans apart: how many moves, and their weights."""
    total, folded = 0.0, 0.0
    for i, weight in enumerate(host_weights(plan)):
        whole = isinstance(weight, Tensor)
        number = weight.double().sum().item() if whole else float(weight)
        total, folded = total + number, folded + number * math.sin(i + 1.0)
    return [float(len(plan)), total, folded]


def warn_if_lost(plan: Plan, dtype: torch.dtype) -> None:
    """Warn if the inverse damping magnifies rounding errors to 1e-3 or more."""
    growth = -checks.as_float(log_determinant(plan))
    error = math.log(torch.finfo(dtype).eps) + growth
    if error > math.log(1e-3):
        warnings.warn(
            f"undoing the damping magnifies rounding errors by e^{growth:.1f}, which "
            f"leaves no digits in {dtype}; invert a State from `.state(x)`, which is "
            "exact, instead of a pair (x, v)",
            stacklevel=checks.caller(),
        )


def initial_velocity(velocity: Any, x: Tensor) -> Tensor | None:
    """v0 of the shape of x, or None for zero."""
    if velocity is None:
        return None
    value = velocity if isinstance(velocity, Tensor) else velocity(x)
    try:
        return value.to(x).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"`velocity` of shape {tuple(value.shape)} does not fit x of shape "
            f"{tuple(x.shape)}"
        ) from None
