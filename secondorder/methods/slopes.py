"""The velocities of a first-order system, v = f(t, x), where its states are known.

A solve of ẋ = f(t, x) returns pairs (x, v) like any other.  The velocity is no part of
its state: the field is evaluated once more at each time that is returned.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients import Gradient, backprop, checkpoint
from ..plan import Kick, Record
from ..systems.equations import System

State = tuple[Tensor, Tensor]


def slope(
    system: System,
    t: Tensor,
    x: Tensor,
    args: Sequence[Any],
    route: Gradient = backprop,
) -> Tensor:
    """V = f(t, x) at one time, or at one time for each sample ``(batch,)``."""
    time = t.to(x.device, torch.promote_types(x.dtype, torch.float32).to_real())
    if time.ndim:
        time = time.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    plan = (Kick(1.0, time), Record())
    ((_, v),) = route.run(plan, system.field, x, torch.zeros_like(x), args)
    return v


def slopes(
    system: System,
    t: Tensor,
    xs: Iterable[Tensor],
    args: Sequence[Any],
    gradient: Gradient,
) -> Tensor:
    """The velocities ``(n, *x.shape)`` at times ``(n,)`` or ``(batch, n)``.

    Where a solve keeps no graphs, these keep the states alone, which are returned.
    """
    direct = "reversible" != gradient.name != "checkpoint"
    route = backprop if direct else checkpoint(segments=1)
    pairs = zip(t.unbind(-1), xs, strict=True)
    return torch.stack([slope(system, time, x, args, route) for time, x in pairs])


def partial_steps(
    step: Any, nodes: Sequence[Tensor], states: Sequence[Any], times: Tensor
) -> list[Any]:
    """The states at times between nodes: from the node before, by part of a step.

    As accurate as the method, which an interpolant need not be.
    """
    grid = torch.stack([node.detach() for node in nodes])
    sign = -1.0 if len(grid) > 1 and grid[-1] < grid[0] else 1.0
    place = torch.searchsorted(sign * grid, sign * times.detach().to(grid), right=True)
    found = []
    for time, k in zip(
        times, (place - 1).clamp(0, len(grid) - 2).tolist(), strict=True
    ):
        found.append(step(nodes[k], time - nodes[k], states[k])[0])
    return found
