"""Velocity doubling is right only while its two velocities stay together: look at them.

A field of the velocity is called with one copy, v − e or v + e, and kicks the other.
Of two kicks in a row, the second one's force sees the copy that the first has kicked by
2 w f, so the gap 2 e between the copies follows from what the forces see:

    ± 2 e = (seen by the second) − 2 w f − (seen by the first)

Where the force depends too strongly on the velocity for the step, the gap grows without
bound, and a limit cycle can keep the wrong orbit finite.  Measured on van der Pol,
Rayleigh, drag and magnetic fields: below 0.1 of the largest velocity the error is that
of the order; beyond about 0.5 the orbit is another one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..monitor import WrappedField
from ..plan.known import noted
from ..plan.moves import Kick, Plan

FARTHEST = 0.2  # of the largest velocity


class VelocityCopies(WrappedField):
    """A field that notes how far apart the velocities are that it is called with.

    Parameters
    ----------
    field : callable
        ``field(time, x, v, *args)``.
    plan : sequence of moves
        In whose order it will be called.
    """

    def __init__(self, field: Callable[..., Tensor], plan: Plan) -> None:
        super().__init__(field)
        self.weights = weights_before(plan)
        self.notes = Notes()  # shared by the replicas that gradients make

    def forward(self, time: Tensor, x: Tensor, v: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        value = self.field(time, x, v, *args)
        if self.notes.watching:
            with torch.no_grad():
                self.notes.add(self.weights, v.detach(), value.detach())
        return value

    def check(self, name: str) -> None:
        """Raise if the copies have drifted apart; what follows is not watched."""
        notes = self.notes
        notes.watching, notes.last = False, None
        if notes.gap is None or notes.speed is None:
            return
        if bool((notes.gap > FARTHEST * notes.speed).any()):
            share = 2 * (notes.gap / notes.speed).nan_to_num().max().item()
            raise RuntimeError(
                f"the two velocities that {name!r} carries have drifted apart (by "
                f"{share:.2g} of the largest velocity), so its solution would be "
                "wrong: the force depends too strongly on the velocity for these "
                "steps. Take smaller steps, move linear damping from the field into "
                '`damping`, or use "dopri5" or "rk4"'
            )


class Notes:
    """What the forces of a solve have seen.

    Attributes
    ----------
    gap, speed : Tensor or None
        The largest |e| and |v| so far.
    """

    def __init__(self) -> None:
        self.watching, self.calls = True, 0
        self.last: tuple[Tensor, Tensor] | None = None
        self.gap: Tensor | None = None
        self.speed: Tensor | None = None

    def add(self, weights: Mapping[int, Any], v: Tensor, push: Tensor) -> None:
        """Note what a force has seen and returned."""
        if self.last is not None:
            seen, kick = self.last
            other = v - 2 * weights[self.calls] * kick
            self.gap = largest(self.gap, (other - seen) / 2)
            self.speed = largest(self.speed, (other + seen) / 2)
        self.calls += 1
        self.last = (v, push) if self.calls in weights else None


def watch_copies(field: Any, plan: Plan) -> VelocityCopies | None:
    """A field that notes the gap, where a plan has one and values can be read."""
    transformed = torch._C._are_functorch_transforms_active()
    if transformed or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    if not noted(plan, "copies", lambda: has_copies(plan)):
        return None
    return VelocityCopies(field, plan)


def has_copies(plan: Plan) -> bool:
    """Whether a plan has kicks of one velocity by a force that sees the other."""
    return any(isinstance(move, Kick) and move.velocity_copy for move in plan)


def weights_before(plan: Plan) -> dict[int, Any]:
    """The weight of the kick before a force, where that follows upon another copy's."""
    found: dict[int, Any] = {}
    calls, lonely = 0, True
    before: Any = None
    for move in plan:
        if isinstance(move, Kick) and move.fresh:
            pair = isinstance(before, Kick) and before.fresh
            if pair and before.velocity_copy == -move.velocity_copy and lonely:
                weight = before.weight
                found[calls] = weight.detach() if isinstance(weight, Tensor) else weight
                lonely = False  # one look at each point is enough
            calls += 1
        else:
            lonely = True
        before = move
    return found


def largest(so_far: Tensor | None, value: Tensor) -> Tensor:
    """The largest finite magnitude among the coordinates, so far."""
    size = value.abs()
    size = torch.where(size.isfinite(), size, 0.0)
    if size.ndim and size.shape[-1]:
        size = size.amax(-1)
    return size if so_far is None else torch.maximum(so_far, size)
