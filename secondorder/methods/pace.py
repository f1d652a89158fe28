"""How a batch steps: one clock, or a clock and a step size for each sample.

    h ← h · clip(0.9 e_n^{−0.7/k} e_{n−1}^{0.4/k}, 0.2, 5)       sample by sample

as in ``step_size.py``, with the errors of each sample in a norm of its own.  Steps of a
given size divide the time to the next requested one evenly.

Reference: Lienen, Günnemann, "torchode: A Parallel ODE Solver for PyTorch", 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients import Gradient
from ..plan.grid import merge
from ..systems.problem import Problem
from .method import Options
from .step_size import GROW, SAFETY, SHRINK
from .stride import stride_of

State = Any  # (x, v), or (x, v, force) between the steps of a pair
DONE, EVENT, FAILED, STEPS, STUCK = range(5)
STATUS = ("done", "event", "failed", "max_steps", "stuck")
WHY = {
    FAILED: "the step underflows, as the solution or the field has a singularity, or "
    "one of these or an event function is not finite there",
    STEPS: "the steps ran out; allow more with `max_steps`, or loosen the tolerances",
    STUCK: "events follow one another within rounding, or the state rests on one; end "
    "the solve before with `max_events`, or let `on_event` move the state away",
}


@dataclass
class Pace:
    """A batch on its way.

    Parameters
    ----------
    how : Splitting, Adaptive or Coupled
    problem : Problem
    route : Gradient
    options : Options
    events : object or None
        ``events.value(t, x, v) -> (*batch, k)`` and ``events.counts(rising)``.
    per_sample : bool
        Whether each sample has a clock of its own.
    """

    how: Any
    problem: Problem
    route: Gradient
    options: Options
    events: Any
    per_sample: bool
    throw: bool = True

    def __post_init__(self) -> None:
        """Prepare what stays the same."""
        problem, t, self.broken = self.problem, self.problem.t, list[bool]()
        self.keep = list(range(t.shape[-1]))
        if problem.breakpoints is not None:
            t, self.keep, self.broken = merge(t, problem.breakpoints)
        self.stride = stride_of(self.how, problem).within(t, self.broken, 0)
        self.batch: Any = problem.x.shape[:1] if self.per_sample else ()
        self.grid, clock = t, t.double()
        self.t = [clock[..., i].expand(self.batch) for i in range(clock.shape[-1])]
        spans = clock.detach()[..., -1] - clock.detach()[..., 0]
        self.way = -1.0 if bool((spans < 0).any()) else 1.0
        zero = torch.zeros(self.batch, dtype=torch.float64, device=problem.x.device)
        self.accepted, self.rejected = zero.long(), zero.long()
        self.status = torch.full_like(self.accepted, DONE)
        self.going = torch.ones_like(zero, dtype=torch.bool)
        self.previous, self.lengths, self.whole = zero + 1, zero, zero + 1
        self.sign = self.soon = torch.zeros((*self.batch, 0), device=zero.device)
        self.first = torch.zeros_like(self.going)
        self.ended = self.latest = torch.full_like(self.accepted, -1)
        self.since = self.stopped = zero
        control = self.stride.control(self.options)
        self.control: Any = control and control.after(problem.goes_on(self.how))
        if self.control:
            self.previous = self.each(self.control.previous)

    def each(self, number: Any) -> Tensor:
        """A number for each sample; of several for one clock, the least."""
        numbers = torch.as_tensor(number, device=self.lengths.device).to(self.lengths)
        fits = numbers.shape in ((), self.lengths.shape)
        return (numbers if fits else numbers.min()).expand(self.lengths.shape)

    def propose(self, rest: Tensor) -> Tensor:
        """The next step of each sample, with its sign."""
        left = rest.abs()
        if self.control is None:
            enough = self.lengths >= left * (1 - 1e-9)
            return rest.sign() * torch.where(enough, left, self.lengths)
        h = self.lengths.clamp(max=self.control.largest)
        part = torch.where(2 * h > left, left / 2, h)
        return rest.sign() * torch.where(h >= left * (1 - 1e-9), left, part)

    def judge(
        self,
        error: Any,
        state: State,
        new: State,
        tried: Tensor,
        now: Tensor,
        todo: Tensor,
    ) -> Tensor:
        """Which samples accept their step; how long the next one is."""
        length = tried.abs()
        if self.control is None:
            self.accepted = self.accepted + todo
            return todo
        size = self.sizes(self.stride.errors(error, state[:2], new[:2]))
        fine = todo & (size <= 1)
        k = self.control.order
        change = SAFETY * size ** (-0.7 / k) * self.previous ** (0.4 / k)
        smaller = (SAFETY * size ** (-1 / k)).clamp(max=1)
        change = torch.where(size > 1, smaller, change).clamp(SHRINK, GROW)
        change = torch.where(size.isfinite(), change, SHRINK)
        longer = torch.where(
            fine & (change == GROW),
            self.lengths.maximum(length * GROW),
            length * change,
        )
        self.lengths = torch.where(todo, longer, self.lengths)
        self.previous = torch.where(
            todo, torch.where(fine, size.clamp(min=1e-4), 1.0), self.previous
        )
        self.accepted = self.accepted + fine
        self.rejected = self.rejected + (todo & ~fine)
        ulp = torch.finfo(now.dtype).eps * now.abs().maximum(length)
        self.leave_out(todo & ~fine & (self.lengths <= 4 * ulp), FAILED, now)
        out = self.accepted + self.rejected >= self.control.max_steps
        self.leave_out(todo & out, STEPS, now)
        return fine & self.going

    def sizes(self, found: Sequence[Tensor]) -> Tensor:
        """The norm of the errors of each sample."""
        rows = [part.reshape(*self.batch, -1) for part in found if part.numel()]
        if not rows:
            return torch.zeros_like(self.previous)
        flat, norm = torch.cat(rows, -1).double(), self.options.norm
        if norm == "max":
            return flat.amax(-1)
        if norm not in (None, "rms"):
            each = flat.reshape(-1, flat.shape[-1])
            values = [torch.as_tensor(norm(row)).to(flat) for row in each]
            return torch.stack(values).reshape(self.batch)
        count = rows[0].shape[-1] + rows[1].shape[-1]
        return (flat.square().sum(-1) / count).sqrt()

    def leave_out(self, which: Tensor, why: int, now: Tensor) -> None:
        """Leave samples out."""
        which = which & self.going
        self.going = self.going & ~which
        self.stopped = torch.where(which, now, self.stopped)
        self.status = torch.where(which, why, self.status)

    def complain(self, now: Tensor) -> None:
        """Raise where samples have failed and nobody wants to go on without them."""
        lost = (self.status >= FAILED).reshape(-1).nonzero().reshape(-1).tolist()
        if not (self.throw and lost):
            return
        where = now.reshape(-1)[lost[0]].item()
        why, who = WHY[int(self.status.reshape(-1)[lost[0]])], ""
        if self.batch:
            who = f" for {len(lost)} samples (the first are {lost[:5]})"
        raise RuntimeError(
            f"{self.how.name!r} got no further than t = {where:.6g}{who}: {why}; or go "
            "on without, with `throw=False` and the `status` of the solution"
        )
