"""The plan of a coupled Runge–Kutta method: of each step a mixing and two shears.

    x ← λ x + (1 − λ) v + Ψ_h(t, v)        v ← v − Ψ_{−h}(t + h, x)

Here x and v are two copies of one state, which both start where it starts.

Reference: McCallum & Foster, "Efficient, Accurate and Stable Gradients for Neural
ODEs", arXiv:2410.11648 (2024).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .flows import per_interval, to_state_dtype
from .grid import divide, into_steps
from .moves import Mix, Move, Plan, Record, Shear, with_times
from .runge_kutta import RungeKutta


def coupled_plan(
    base: RungeKutta,
    share: float,
    t: Tensor,
    counts: Sequence[int],
    like: Tensor,
    broken: Sequence[bool] | None = None,
    records: Sequence[bool] | None = None,
) -> Plan:
    """The plan of two copies on a grid of times.

    Parameters
    ----------
    base : RungeKutta
        Whose increments couple them.
    share : float
        λ.
    t : Tensor
        Times ``(n,)``, or ``(batch, n)`` for per-sample grids; may require gradients.
    counts : list of int
        Steps in each of the n − 1 intervals.
    like : Tensor
        The state, whose dtype and device the times follow.
    broken : list of bool, optional
        Which of the n times are breakpoints, where the stages take the field of their
        own step's side.
    records : list of bool, optional
        After which intervals to record; after all by default.

    Returns
    -------
    sequence of moves
    """
    t, h = divide(t, counts, like)
    times = stage_times(base, t, h, counts, like, broken)
    sizes: Sequence[Any] = per_interval(h, like)
    asked = [True] * len(counts) if records is None else records
    plan = list[Move]()
    mixes = mixings(share, h, like)
    for mix, size, count, recorded in zip(mixes, sizes, counts, asked, strict=True):
        there = Shear(size, base=base)
        back = Shear(-size, base=base, sign=-1.0, velocity=True)
        step: list[Move] = [mix, there, back]
        plan += step * count
        if recorded:
            plan.append(Record())
    return with_times(plan, times)


def mixings(share: float, h: Tensor, like: Tensor) -> list[Mix]:
    """The mixing of each interval; samples whose steps have length 0 are not mixed."""
    mix = Mix(share)
    if h.ndim == 1:
        return [mix] * len(h)
    still = (h.detach() == 0).to(like.device)
    weights = torch.full_like(still, share, dtype=like.dtype).masked_fill(still, 1.0)
    waiting = still.flatten(1).any(1).tolist()
    pairs = zip(weights, waiting, strict=True)
    return [Mix(weight) if waits else mix for weight, waits in pairs]


def stage_times(
    base: RungeKutta,
    t: Tensor,
    h: Tensor,
    counts: Sequence[int],
    like: Tensor,
    broken: Sequence[bool] | None,
) -> Tensor:
    """Times of the stages ``(2 · steps, s)``, there and back by turns.

    Of per-sample grids ``(2 · steps, s, batch, 1, ...)``.
    """
    samples = [1] * (t.ndim - 1)

    def column(values: Sequence[float]) -> Tensor:
        each = torch.tensor(values, dtype=torch.float64, device=t.device)
        return each.reshape(-1, 1, 1, *samples)

    places = [(i, k) for i, count in enumerate(counts) for k in range(count)]
    index = torch.tensor([i for i, _ in places], dtype=torch.long, device=t.device)
    nodes = torch.tensor(base.nodes, dtype=torch.float64, device=t.device)
    parts = torch.stack([nodes, 1 - nodes]).reshape(2, -1, *samples)
    passed = column([k for _, k in places]) + parts
    begin, size = (part[index].unsqueeze(1).unsqueeze(1) for part in (t[:-1], h))
    times = to_state_dtype((begin + passed * size).flatten(0, 1), like)
    kind = torch.promote_types(like.dtype, torch.float32).to_real()
    times = times.to(like.device, kind)  # what a field makes of it is no wider
    if broken is None or not any(broken):
        return times
    jumps = torch.tensor(broken, device=t.device)
    opens = jumps[index].reshape(-1, 1, 1) & (passed == 0)
    closes = jumps[index + 1].reshape(-1, 1, 1) & (passed == column(counts)[index])
    side = (opens.double() - closes.double()).flatten(0, 1).to(times)
    return into_steps(times, side, t)
