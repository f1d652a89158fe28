"""Dense output where each sample has steps, and events, of its own.

A solve is made of pieces, between requested times and events.  Each sample is in its
own piece at a time: the steps of that are taken again, and part of one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..solution import DenseOutput, State
from .slopes import slope
from .stride import stride_of


@dataclass(frozen=True, repr=False)
class OwnDense(DenseOutput):
    """The states between the times of samples with clocks of their own.

    Parameters
    ----------
    t : Tensor ``(batch, m)``
        Where the pieces of each sample begin; the last one is where it has ended.
    x, v : Tensor ``(m, batch, ...)``
        The states there.
    steps : tuple
        Of each piece but the last, the times of its steps ``(batch, k)`` and, of a
        coupled method, where both copies begin.
    broken : tuple of bool
        Which pieces begin at a breakpoint.
    """

    def states(self, times: Tensor) -> State:
        """The states; NaN for samples that had not begun or have ended by then."""
        begin, ends = self.t.detach().mT, self.t[:, -1].detach()
        way = -1.0 if bool((ends < begin[0]).any()) else 1.0
        found = [self.state(time, begin, way) for time in times.double()]
        if not found:
            return self.x[:0], self.v[:0]
        x, v = (torch.stack(parts) for parts in zip(*found, strict=True))
        return x, v

    def state(self, time: Tensor, begin: Tensor, way: float) -> State:
        """The state of all samples at one time."""
        now = time.detach()
        slack = 4 * torch.finfo(begin.dtype).eps * begin.abs().amax(0)
        inside = way * (now - begin[0]) >= -slack
        inside = inside & (way * (now - begin[-1]) <= slack)
        if not bool(inside.any()):
            low, high = begin.min().item(), begin.max().item()
            raise ValueError(
                f"`times` must lie in [{low:.6g}, {high:.6g}], the interval that was "
                "solved; solve further to look further"
            )
        place = (way * (now - begin) >= 0).sum(0) - 1
        place = place.clamp(0, len(begin) - 1)
        x, v = (torch.full_like(part[0], torch.nan) for part in (self.x, self.v))
        for i in place[inside].unique().tolist():
            mine = inside & (place == i)
            mine = mine.reshape(-1, *[1] * (x.ndim - 1))
            last = i == len(begin) - 1
            y, w = (self.x[i], self.v[i]) if last else self.piece(i, time)
            x, v = torch.where(mine, y, x), torch.where(mine, w, v)
        return x, v

    def piece(self, i: int, time: Tensor) -> State:
        """The steps of a piece again, and part of one to a time."""
        nodes, start = self.steps[i]
        # All samples are at a breakpoint together.
        stride = stride_of(self.method, self.problem)
        stride = stride.within(self.t.mean(0), self.broken, i)
        states: list[Any] = [(*(start or stride.enter(self.x[i], self.v[i])), None)]
        for k in range(nodes.shape[-1] - 2):
            begin = nodes[:, k]
            states.append(stride.step(begin, nodes[:, k + 1] - begin, states[-1])[0])
        ys, zs = (torch.stack(p) for p in zip(*(s[:2] for s in states), strict=True))
        sign = torch.sign(nodes[:, -1] - nodes[:, 0])
        passed = sign * (time.detach() - nodes.mT[:-1]) >= 0
        k = (passed.sum(0) - 1).clamp(min=0)
        each = torch.arange(len(k), device=k.device)
        begin = nodes[each, k]
        whole = nodes[each, k + 1] - begin
        whole = torch.where(whole == 0, 1.0, whole)
        here = ys[k, each], zs[k, each]
        x, v = stride.leave(stride.part(begin, time - begin, here, whole))
        if stride.core.first_order:
            v = slope(stride.core, time.expand(len(k)), x, self.problem.args)
        return x, v
