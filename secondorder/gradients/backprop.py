"""Ordinary autograd through the plan: every activation is kept.

The reference for the other routes, and the right choice for small problems, higher
derivatives, torch.func and torch.compile.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..plan.moves import Plan, walk
from .survey import protected


def run_plainly(
    plan: Plan,
    field: Callable[..., Tensor],
    x: Tensor,
    v: Tensor,
    args: Sequence[Any] = (),
) -> list[tuple[Tensor, Tensor]]:
    """Run a plan in floating point under autograd.

    Parameters
    ----------
    plan : sequence of moves
    field : callable
        ``field(time, x, *args)``.
    x, v : Tensor
        Position and velocity ``(..., d)``.
    args : tuple
        Passed to the field.

    Returns
    -------
    list of (Tensor, Tensor)
        The recorded states.
    """
    return walk(plan, protected(field), x, v, args)[0]
