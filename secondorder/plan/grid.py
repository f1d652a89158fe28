"""Grids of times: how intervals are divided, and where they are broken.

Times come from the grid, t_i + k h, and are never accumulated.  Everything here is
float64, whatever the state, and knows where the grid's gradients go.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import differentiated

FEW = 64  # times; up to so many are quicker as numbers of Python


def step_counts(t: Tensor, step_size: float | None = None) -> list[int]:
    """Steps per interval of the grid: ceil(Δt / step_size), one without a step size.

    ``t`` has shape ``(n,)`` or ``(batch, n)``; samples share the largest count.
    """
    if step_size is None or not t.numel():  # an empty batch has no spans to divide
        return [1] * max(t.shape[-1] - 1, 0)
    if t.ndim == 1 and len(t) <= FEW:
        times = t.detach().tolist()
        slack = 4 * torch.finfo(t.dtype).eps * max(map(abs, times))
        pairs = zip(times, times[1:], strict=False)
        return [max(1, math.ceil((abs(b - a) - slack) / step_size)) for a, b in pairs]
    spans = t.detach().double().diff().abs().cpu()
    if spans.ndim == 2:
        spans = spans.amax(0)
    # An interval that is a multiple of the step up to the rounding of the times (in
    # their own dtype) gets no extra step.
    slack = 4 * torch.finfo(t.dtype).eps * t.detach().abs().max().item()
    counts = ((spans - slack) / step_size).ceil()
    return [max(1, int(n)) for n in counts.tolist()]


def divide(t: Tensor, counts: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Interval starts and steps h as float64: ``(I,)``, or ``(I, batch, 1, ...)``."""
    steps = torch.tensor(counts, dtype=torch.float64, device="cpu")
    if not differentiated(t):
        t = t.detach().cpu()
    t = t.double()
    if t.ndim == 2:
        t = t.mT.reshape(t.shape[1], t.shape[0], *[1] * (like.ndim - 1))
        steps = steps.reshape(-1, *[1] * like.ndim)
        if like.device != t.device:
            t = t.to(like.device)
    return t, t.diff(dim=0) / steps.to(t.device)


def merge(
    t: Tensor, breakpoints: Tensor | Sequence[float]
) -> tuple[Tensor, list[int], list[bool]]:
    """Merge breakpoints into the requested times.

    Parameters
    ----------
    t : Tensor
        Requested times ``(n,)``, monotone.
    breakpoints : Tensor or sequence of float
        In any order; those outside the interval of ``t`` do not matter.

    Returns
    -------
    grid : Tensor
        All times in the order of ``t``; gradients flow to both.
    keep : list of int
        Where the requested times are.
    broken : list of bool
        Which times are breakpoints.

    Raises
    ------
    ValueError
        For per-sample times, or breakpoints that are not finite.
    """
    if t.ndim != 1:
        raise ValueError(
            "`breakpoints` need one time grid for all samples; put them into the "
            "per-sample `t` instead"
        )
    points = torch.as_tensor(breakpoints, dtype=t.dtype, device=t.device).reshape(-1)
    if not bool(points.detach().isfinite().all()):
        raise ValueError("`breakpoints` must be finite, got NaN or infinity")
    both, n = torch.cat([t, points]), len(t)
    times = both.detach().tolist()
    low, high = min(times[:n]), max(times[:n])
    slack = 4 * torch.finfo(t.dtype).eps * max(abs(low), abs(high))
    backward = times[n - 1] < times[0]
    chosen: list[int] = []
    broken: list[bool] = []
    for k in sorted(range(len(times)), key=times.__getitem__, reverse=backward):
        if not low - slack <= times[k] <= high + slack:
            continue
        point = k >= n
        twin = chosen and abs(times[k] - times[chosen[-1]]) <= slack
        if twin and (point or chosen[-1] >= n):
            broken[-1] = True
            chosen[-1] = min(k, chosen[-1])  # the requested time stands for both
        else:
            chosen.append(k)
            broken.append(point)
    keep = [i for i, k in enumerate(chosen) if k < n]
    return both[chosen], keep, broken


def next_float(time: Tensor, toward: Tensor) -> Tensor:
    """The next floating-point number after a time, with the gradient of the time."""
    now = time.detach()
    return time + (torch.nextafter(now, toward.detach().to(now)) - now)


def into_steps(times: Tensor, side: Tensor, t: Tensor) -> Tensor:
    """Times moved by a float: ahead on the grid t where ``side`` is 1, back at −1."""
    ahead = ((t[-1] - t[0]).detach() * torch.inf).to(times.device)
    return next_float(times, torch.where(side == 0, times.detach(), side * ahead))


def inward(times: Tensor, broken: Sequence[bool]) -> list[Tensor]:
    """Step times ``(m,)`` of one interval, with broken ends moved into it."""
    moved = list(times)
    if broken[0]:
        moved[0] = next_float(moved[0], moved[1])
    if broken[-1]:
        moved[-1] = next_float(moved[-1], moved[-2])
    return moved


class Window:
    """The interval that is being solved: at its broken ends a field sees its own side.

    As a field knows its side by the time alone, that is moved inward by one unit in the
    last place.
    """

    def __init__(self) -> None:
        self.edges: tuple[Tensor | None, Tensor | None] = (None, None)
        self.direction = 1.0

    def enter(self, t: Tensor, broken: Sequence[bool], i: int, until: int = 0) -> bool:
        """Keep to the times from ``t[i]`` to the next one, or to ``t[until]``.

        Returns whether the field jumps at the beginning.
        """
        end = until or i + 1
        if not broken or end >= len(t):
            return False
        ends = t[i].detach(), t[end].detach()
        self.edges = (ends[0] if broken[i] else None, ends[1] if broken[end] else None)
        self.direction = math.copysign(1.0, float(ends[1] - ends[0]))
        return broken[i]

    def inside(self, time: Tensor) -> Tensor:
        """The time, or the nearest one inside."""
        if self.edges == (None, None):
            return time
        now = moved = time.detach()
        for edge, inward in zip(self.edges, (1.0, -1.0), strict=True):
            if edge is not None:
                way = inward * self.direction
                nearest = next_float(edge.to(now), edge.to(now) + way)
                moved = torch.where((moved - nearest) * way < 0, nearest, moved)
        return time + (moved - now)
