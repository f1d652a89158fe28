"""Marching: until something happens, and each sample of a batch by steps of its own.

One loop serves both.  A batch has one clock, or one for each sample, and goes on until
all of it is at the next requested time or at an event:

    search    steps, each as long as its error allows, without a graph
    retrace   the same steps again, by the gradient route that was asked for
    event     the root of τ ↦ g(t_n + τ, Φ_τ(x_n, v_n)), differentiated by the implicit
              function theorem; then a map (x, v) ↦ (x', v'), and on from there

A sample that waits for others takes steps of length 0, which change nothing.

References: Chen, Amos, Nickel, "Learning Neural Event Functions for Ordinary
Differential Equations", ICLR 2021, section 3; Lienen, Günnemann, "torchode: A Parallel
ODE Solver for PyTorch", 2022, section 3 (a step size for each sample).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..gradients.checkpoint import in_segments
from .adaptive import each_sample, time_of
from .event_search import (
    ImplicitTime,
    column,
    event_rate,
    first_sign,
    pick,
    root_in_step,
)
from .pace import FAILED, Pace, State
from .slopes import slope
from .splitting import Splitting
from .step_size import first_step

# What a search that is taken back leaves as it was.
RESTORED = ("sign", "first", "lengths", "previous", "accepted", "rejected")


class Stretch(NamedTuple):
    """Steps until an event, or to the last requested time.

    Attributes
    ----------
    nodes : list of Tensor
        Times of the steps, each of the batch's shape.
    keep : list of int
        Which nodes are requested times.
    goals : list of int
        For each step, towards which requested time it goes.
    states : list
        The states at ``keep``, and at the last node.
    fired : Tensor ``(*batch, k)``
        Which event functions change their sign in the next step.
    upper : Tensor
        Length of that step.
    aim : int
        Towards which requested time that step goes.
    """

    nodes: list[Tensor]
    keep: list[int]
    goals: list[int]
    states: list[State]
    fired: Tensor
    upper: Tensor
    aim: int


@dataclass
class Walk(Pace):
    """A batch on its way, which looks for events and can be retraced."""

    # -- One step -----------------------------------------------------------------

    def retrace(self, grid: Tensor, keep: Sequence[int], state: State) -> list[State]:
        """The states at ``keep`` again, with their gradients."""
        wanted = [k for k in dict.fromkeys(keep) if k > 0]
        if not wanted:
            found = []
        elif self.stride.whole:
            found = self.stride.run(grid, wanted, state, self.route)
        else:
            found = self.step_again(grid, wanted, state)
        known = dict(zip(wanted, found, strict=True)) | {0: state[:2]}
        return [known[k] for k in keep]

    def step_again(self, grid: Tensor, keep: list[int], state: State) -> list[State]:
        """Step by step, or in segments of which only the ends are kept."""
        steps = list(range(grid.shape[-1] - 1))
        size = len(steps)
        if self.route.name == "checkpoint":
            pieces = self.route.options.get("segments") or math.sqrt(size)
            size = max(1, math.ceil(size / pieces))
        works = [steps[k : k + size] for k in range(0, len(steps), size)]
        stride = self.stride  # also when a backward pass takes the steps again

        def segment(work: list[int], x: Tensor, v: Tensor) -> Any:
            now, states = (x, v, None), []
            for k in work:
                begin = grid[..., k]
                if isinstance(self.how, Splitting):
                    both = grid[..., k : k + 2]
                    now = (*stride.run(both, [1], now, self.route)[0], None)
                else:
                    now, _ = stride.step(begin, grid[..., k + 1] - begin, now)
                states += [now[:2]] if k + 1 in keep else []
            return states, now[:2]

        if self.route.name == "checkpoint":
            return list(in_segments(segment, works, state[:2], stride.field))
        return segment(steps, *state[:2])[0]

    # -- Events: what event_search asks for ----------------------------------------

    @property
    def h(self) -> float:
        """The shortest step that is being tried, with its sign."""
        least = self.lengths[self.lengths > 0]
        span = (self.t[-1] - self.t[0]).detach().abs().max().item()
        return self.way * min(least.min().item() if least.numel() else 1.0, span)

    def event(self, t: Tensor, state: State) -> Tensor:
        """The event functions, ``(*batch, k)``."""
        return self.events.value(t, *self.outside(t, state))

    def outside(self, t: Tensor, state: State) -> State:
        """Position and velocity, the latter f(t, x) of a first-order system."""
        x, v = self.stride.leave(state)
        if self.stride.core.first_order:
            v = slope(self.stride.core, t, x, self.problem.args)
        return x, v

    def flow(self, state: State, t: Tensor, **_: Any) -> State:
        """Part of a step, from the first to the second of two times."""
        h = t[..., 1] - t[..., 0]
        return self.stride.part(t[..., 0], h, state, self.whole)

    def after(self, state: State, t: Tensor, length: Any) -> Tensor:
        """The event functions after one step of some length."""
        end = t + length
        return self.event(end, self.flow(state, torch.stack([t, end], -1)))

    # -- Search -------------------------------------------------------------------

    def begin(self, state: State, now: Tensor, mask: Tensor) -> None:
        """Take note of the signs to be left, for the samples that start here."""
        if self.events is None:
            return
        sign, soon = first_sign(self, state, now)
        new = mask.unsqueeze(-1)
        if self.sign.shape != sign.shape:
            self.sign, self.soon = sign, soon
        self.sign = torch.where(new, sign, self.sign)
        self.soon = torch.where(new, soon, self.soon)
        self.first = mask | self.first

    @torch.no_grad()
    def search(self, state: State, now: Tensor, i: int) -> Stretch | None:
        """Steps from here through the requested times, until an event or a breakpoint.

        None where samples have failed, which are then left out.
        """
        state, now = tuple(part.detach() for part in state), now.detach()
        self.stride = self.stride.within(self.grid, self.broken, i)
        nodes: list[Tensor] = [now]
        keep: list[int] = []
        goals: list[int] = []
        states: list[State] = []
        fired = torch.zeros_like(self.sign, dtype=torch.bool)
        upper = torch.zeros_like(now)
        for goal in range(i + 1, len(self.t)):
            before = (*state, None) if len(state) == 2 else state
            kept = {name: getattr(self, name) for name in RESTORED}
            alive = self.going
            state, now, fired, upper, more = self.advance(before, now, goal)
            if not bool((alive == self.going).all()):  # somebody has failed
                self.complain(now)
                for name, value in kept.items():
                    setattr(self, name, value)
                if goal == i + 1:
                    return None
                states.append(before[:2])
                return Stretch(nodes, keep, goals, states, fired & False, upper, goal)
            nodes += more
            goals += [goal] * len(more)
            if bool(fired.any()):
                break
            keep.append(len(nodes) - 1)
            states.append(state[:2])
            if self.broken and self.broken[goal]:
                break
        states.append(state[:2])
        return Stretch(nodes, keep, goals, states, fired, upper, goal)

    def advance(self, state: State, now: Tensor, goal: int) -> Any:
        """Steps to a requested time, or into an event."""
        target, nodes = self.t[goal].detach(), []
        fired = torch.zeros_like(self.sign, dtype=torch.bool)
        upper = torch.zeros_like(now)
        todo = self.going & (now != target)
        if self.control is None:  # equal steps, none longer than asked for
            left, size = (target - now).abs(), self.options.step_size
            count = torch.ones_like(left) if size is None else left / size
            count = (count * (1 - 16 * torch.finfo(left.dtype).eps)).ceil()
            self.lengths = left / count.clamp(min=1)
            self.stride.check(self.lengths)
        while bool(todo.any()):
            rest = target - now
            tried = torch.where(todo, self.propose(rest), 0.0)
            until = torch.where(tried == rest, target, now + tried)
            new, error = self.stride.step(now, until - now, state)
            fine = self.judge(error, state, new, tried, now, todo)
            hit = fired & False
            if self.events is not None:
                g = self.event(until, new)
                blown = fine & ~g.isfinite().all(-1)
                self.leave_out(blown, FAILED, now)
                self.sign = torch.where(self.sign == 0, g.sign(), self.sign)
                changed = (g.sign() != self.sign) & fine.unsqueeze(-1)
                hit = changed & self.events.counts(self.sign < 0)
            stop = hit.any(-1)
            move = fine & ~stop
            if self.events is not None:
                passed = changed & move.unsqueeze(-1)
                self.sign = torch.where(passed, g.sign(), self.sign)
                self.first = self.first & ~move
            fired, upper = fired | hit, torch.where(stop, until - now, upper)
            at_end = bool((move | (tried == 0)).all())  # else some force is of no state
            state = tuple(
                (b if at_end else None)
                if a is None or b is None
                else torch.where(column(move, b), b, a)
                for a, b in zip(state, new, strict=True)
            )
            if bool(move.any()):
                now = torch.where(move, until, now)
                nodes.append(now)
            todo = todo & self.going & ~stop & (now != target)
        return state, now, fired, upper, nodes

    # -- Gradients ----------------------------------------------------------------

    def prepare(self, state: State, now: Tensor) -> None:
        """The first steps and signs."""
        start = tuple(part.detach() for part in state)
        lost = torch.zeros_like(self.going)
        for part in start:
            lost = lost | ~part.isfinite().reshape(*self.batch, -1).all(-1)
        self.leave_out(lost, FAILED, now)
        if self.control is not None:
            self.control.check(start)
            with torch.no_grad():
                clock = [float(t.reshape(-1)[0]) for t in (self.t[0], self.t[-1])]
                h = self.control.first
                if h is None:
                    force = self.stride.pull(self.pull_time(now.detach()), start[0])
                    h = first_step(
                        self.control, self.stride.slopes, (*start, force), clock
                    )
            self.lengths = self.each(h)
        elif self.options.step_size is not None:
            self.lengths = self.lengths + self.options.step_size
        else:
            self.lengths = (self.t[1] - self.t[0]).detach().abs()
        with torch.no_grad():
            self.begin(start, now.detach(), self.going)

    def pull_time(self, t: Tensor) -> Tensor:
        """A time as fields see it."""
        return time_of(each_sample(t, self.problem.x), self.problem.x)

    def follow(
        self, path: Stretch, state: State, now: Tensor
    ) -> tuple[list[State], Tensor]:
        """The states of a stretch and the times of its nodes, with their gradients."""
        grid = torch.stack(path.nodes, -1)
        self.whole = torch.where(path.fired.any(-1), path.upper, 1.0)
        if not torch.is_grad_enabled():
            return path.states, grid
        if checks.differentiated(now) or checks.differentiated(self.grid):
            moved = now - now.detach()
            columns, begin, shift = [grid[..., 0] + moved], path.nodes[0], moved
            for k, goal in enumerate(path.goals, 1):
                if goal != (path.goals[k - 2] if k > 1 else goal):
                    begin, shift = path.nodes[k - 1], columns[-1] - path.nodes[k - 1]
                end = self.t[goal]
                part = (grid[..., k] - begin) / (end.detach() - begin)
                part = torch.where(part.isfinite(), part, 1.0)
                later = torch.where(end.detach().isfinite(), end - end.detach(), 0.0)
                columns.append(grid[..., k] + (1 - part) * shift + part * later)
            grid = torch.stack(columns, -1)
            if path.goals and path.aim != path.goals[-1]:
                begin, shift = path.nodes[-1], columns[-1] - path.nodes[-1]
            # A step is as long as the way to its goal, over a number.
            way = self.t[path.aim] - begin - shift
            plain = way.detach()
            moves = plain.isfinite() & (plain != 0)
            longer = torch.where(moves, way, 1.0) / torch.where(moves, plain, 1.0)
            self.whole = self.whole * longer
        later = self.way * (self.stopped - path.nodes[-1]) > 0
        fine = (self.status < FAILED) | later
        if not bool(fine.all()):
            if not bool(fine.any()):
                return path.states, grid
            healthy = int(fine.int().argmax())
            state = tuple(
                torch.where(column(fine, p), p, p[healthy].detach()) for p in state
            )
        keep = [*path.keep, len(path.nodes) - 1]
        return self.retrace(grid, keep, state), grid

    def happen(self, path: Stretch, state: State, start: Tensor) -> Any:
        """Time and state of events, the first function, and all that are zero there."""
        hit, here = path.fired.any(-1), tuple(p.detach() for p in state[:2])
        begin = start.detach()
        with torch.no_grad():
            length, index = root_in_step(
                self, here, begin, path.upper, self.first,
                path.fired, self.sign, self.soon,
            )  # fmt: skip
            time = begin + torch.where(hit, length, 0.0)
            time = torch.where(hit & (length == path.upper), begin + path.upper, time)
        event_t = time
        if torch.is_grad_enabled():
            rate = event_rate(self, here, begin, time, index)
            end = self.flow(state, torch.stack([start, time], -1))
            if rate is not None:
                g = pick(self.event(time, end), index)
                moment = ImplicitTime.apply(g, time, torch.where(hit, rate, 1.0))
                event_t = torch.where(hit, moment, start)
            elif any(part.requires_grad for part in (start, *end)):
                raise ValueError(checks.NO_SLOPE)
        end = self.flow(state, torch.stack([start, event_t], -1))
        end = tuple(
            torch.where(column(hit, new), new, old)
            for new, old in zip(end, state[:2], strict=True)
        )
        with torch.no_grad():
            # What else is zero here would be no event at the start of what follows.
            here = tuple(part.detach() for part in end)
            after, _ = first_sign(self, here, event_t.detach())
            together = (after != self.sign) & (self.sign != 0)
            together = together & self.events.counts(self.sign < 0)
            together = together.scatter(-1, index.unsqueeze(-1), True)
        return event_t, end, index, together & hit.unsqueeze(-1)
