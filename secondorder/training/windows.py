"""How records are cut into windows, and windows of all lengths laid side by side."""

from typing import NamedTuple

import torch
from torch import Tensor

from .records import Recording


class Window(NamedTuple):
    """Rows ``first`` to ``last`` (excluded) of a record; whether another follows."""

    record: int
    first: int
    last: int
    goes_on: bool


def cut(records: list[Recording], size: float) -> list[Window]:
    """Cut records into windows of so many observations; one that is left joins."""
    found = []
    for index, record in enumerate(records):
        n = len(record.t)
        step = int(min(size, n))
        firsts = [*range(0, n, step)]
        if len(firsts) > 1 and n - firsts[-1] == 1 and step > 1:
            firsts.pop()  # a window of one observation says nothing of the law
        for first, last in zip(firsts, [*firsts[1:], n], strict=True):
            found.append(Window(index, first, last, last < n))
    return found


def stepped(t: Tensor, step_size: float) -> tuple[Tensor, Tensor]:
    """Times with steps in between of at most a size, and where the given ones are."""
    counts = ((t.diff() / step_size) - 1e-9).ceil().clamp_min(1).long()
    at = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    within = torch.arange(int(at[-1]), device=t.device)
    interval = torch.repeat_interleave(
        torch.arange(len(counts), device=t.device), counts
    )
    part = (within - at[interval]).double() / counts[interval]
    fine = t[interval] + part * t.diff()[interval]
    return torch.cat((fine, t[-1:])), at


def padded(parts: list[Tensor], fill: float | None = None) -> Tensor:
    """Stack rows of different lengths, ended by a number or by their last one."""
    longest = max(len(part) for part in parts)
    rows = []
    for part in parts:
        end = part[-1:] if fill is None else torch.full_like(part[-1:], fill)
        more = end.expand(longest - len(part), *part.shape[1:])
        rows.append(torch.cat((part, more)))
    return torch.stack(rows)


def extended(t: Tensor, u: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """An input continued to so many samples, by which no interpolant inside changes.

    It goes on as the parabola through its end: the slope there stays what it was.
    """
    count = torch.arange(1, length - len(t) + 1, device=t.device).to(t)
    after = t[-1] + count * (t[-1] - t[-2] if len(t) > 1 else 1.0)
    values = u[-1:].expand(len(after), -1)
    if len(t) > 2:
        a, b, c = t[-3:].to(u)
        first, second = (u[-2] - u[-3]) / (b - a), (u[-1] - u[-2]) / (c - b)
        bend, time = (second - first) / (c - a), after.to(u).unsqueeze(1)
        values = values + (time - c) * (second + bend * (time - b))
    return torch.cat((t, after)), torch.cat((u, values))


def spread(z: Tensor) -> Tensor:
    """The root mean square of each coordinate, 1 where that is 0."""
    size = z.square().mean(0).sqrt()
    return torch.where(size > 0, size, 1.0)
