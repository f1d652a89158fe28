"""A solve by marching: until something happens, or by steps of each sample's own.

The marching itself is in ``march.py``.  Here are what it leads to: maps at events, the
states that were asked for, what happened on the way, and dense output.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..gradients import Gradient
from ..solution import DenseOutput, End, Solution, Stats
from ..systems.problem import Problem
from .adaptive import Adaptive
from .coupled import Coupled
from .event_functions import Happened, Watched, find_events
from .event_search import NEAR, column, event_rate, is_rounded_zero, pick
from .march import Walk
from .method import Options
from .own_dense import OwnDense
from .pace import EVENT, FAILED, STATUS, STUCK
from .saving import resumable
from .slopes import slopes
from .splitting import Splitting

State = Any
MOST_EVENTS = 10_000


def march(
    how: Any,
    problem: Problem,
    route: Gradient,
    options: Options,
    events: Watched | None = None,
    per_sample: bool = False,
    max_events: int | None = None,
    throw: bool = True,
) -> Solution:
    """Solve a checked problem, until something happens or by steps of each sample.

    Raises
    ------
    RuntimeError
        If a step underflows, the steps run out or events pile up, and ``throw``.
    """
    walk = Walk(how, problem, route, options, events, per_sample, throw)
    state = walk.stride.start()
    log, now, i, last = Log(walk), walk.t[0], 0, len(walk.t) - 1
    log.add(now, state)
    if last and problem.x.numel():
        walk.prepare(state, now)
        walk.complain(now)
    while i < last and bool(walk.going.any()) and problem.x.numel():
        path = walk.search(state, now, i)
        if path is None:
            continue
        found, grid = walk.follow(path, state, now)
        log.follow(path, found, grid)
        i += len(path.keep)
        state, now = found[-1], grid[..., -1]
        if not bool(path.fired.any()):
            continue
        now, state, index, together = walk.happen(path, state, now)
        log.happened(now, state, together)
        state = react(walk, now, state, index, together, log.count, max_events or 0)
        walk.complain(now)
        log.restart(now, state)
        if bool(walk.going.any()) and not bool(
            (walk.going & (now != walk.t[i + 1])).any()
        ):
            log.add(now, state)
            i += 1
    return log.solution(now, state)


def react(
    walk: Walk,
    now: Tensor,
    state: State,
    index: Tensor,
    together: Tensor,
    count: Tensor,
    most: int,
) -> State:
    """Where the solve goes on after events, or that it ends there."""
    watched, hit = walk.events, together.any(-1)
    owner = torch.tensor(watched.columns, device=index.device)
    x, v = walk.outside(now, state)
    final = hit & (count >= most) if most else torch.zeros_like(hit)
    moved = torch.zeros_like(hit)
    for k, event in enumerate(watched.events):
        mine = (together & (owner == k)).any(-1) & ~final
        if not bool(mine.any()):
            continue
        if event.on_event is None:
            ending = mine & event.terminal
            column_of = (together & (owner == k)).int().argmax(-1)
            index = torch.where(ending, column_of, index)
            final = final | ending
            continue
        there = checked_map(event.on_event(now, x, v), x)
        x, v = (
            torch.where(column(mine, new), new, old)
            for new, old in zip(there, (x, v), strict=True)
        )
        moved = moved | mine
    walk.ended = torch.where(final, index, walk.ended)
    walk.leave_out(final, EVENT, now)
    inner = tuple(
        torch.where(column(moved, new), new, old)
        for new, old in zip(walk.stride.enter(x, v), state, strict=True)
    )
    old = walk.sign
    going = hit & walk.going
    if bool(going.any()):
        walk.begin(inner, now, going)
        stuck = piled_up(walk, state, inner, now, index, moved & going, old)
        wait = 16 * abs(walk.h) * torch.finfo(x.dtype).eps ** 0.5
        again = moved & (index == walk.latest) & ((now - walk.since).abs() <= wait)
        stuck = stuck | again.detach()
        walk.leave_out(stuck | (going & (count >= MOST_EVENTS)), STUCK, now)
    walk.latest = torch.where(hit, index, walk.latest)
    walk.since = torch.where(hit, now.detach(), walk.since)
    return inner


def checked_map(pair: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a map at an event has returned, or an error."""
    fits = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not fits or not all(isinstance(p, Tensor) and p.shape == x.shape for p in pair):
        got = [tuple(getattr(p, "shape", ())) for p in pair] if fits else type(pair)
        raise ValueError(
            f"`on_event` must return a pair (x, v), each {tuple(x.shape)}, got {got}"
        )
    return pair[0].to(x), pair[1].to(x)


def piled_up(
    walk: Walk,
    before: State,
    after: State,
    now: Tensor,
    index: Tensor,
    moved: Tensor,
    old: Tensor,
) -> Tensor:
    """Which samples were sent back, but are beyond the event again at once.

    A ball on the floor whose next flight is shorter than rounding would fall through.
    """
    beyond = moved & (pick(walk.sign, index) != pick(old, index))
    if not bool(beyond.any()):
        return beyond
    before, after, now = (part for part in (before, after, now.detach()))
    ends = [tuple(p.detach() for p in pair[:2]) for pair in (before, after)]
    here = walk.event(now, ends[1])
    ahead = walk.after(ends[1], now, walk.h * torch.finfo(before[0].dtype).eps ** 0.5)
    near = pick(is_rounded_zero(walk, ends[1], now, here, ahead).int(), index).bool()
    # So is what crosses within the instant by which signs are told.
    near = near | (pick(here, index).abs() <= 16 * pick(ahead - here, index).abs())
    fast, slow = (event_rate(walk, end, now, now, index) for end in ends)
    if fast is None or slow is None:
        return beyond & near
    # And what was missed by no more than the rounding of the time.
    unit = torch.finfo(now.dtype).eps * now.abs()
    unit = unit + torch.finfo(before[0].dtype).eps * abs(walk.h)
    near = near | (pick(here, index).abs() <= NEAR * unit * fast.abs())
    through = fast * slow > 0
    return beyond & near & ~through


class Log:
    """What is kept of a solve: states asked for, events, and where the steps were."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []
        self.goal = 0  # of the times to be reached: those asked for and breakpoints
        self.pieces: list[tuple[Tensor, Tensor, Tensor]] = []  # where intervals begin
        self.starts: list[State] = []  # the same inside
        self.broken: list[bool] = []
        self.steps: list[list[Tensor]] = []
        self.events: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.nodes: list[Tensor] = [walk.t[0].detach()]
        self.count = torch.zeros_like(walk.accepted)

    def outside(self, state: State) -> tuple[Tensor, Tensor]:
        """A state in the coordinates of the problem."""
        problem = self.walk.problem
        return self.walk.stride.leave(state) if self.pieces else (problem.x, problem.v)

    def add(self, t: Tensor, state: State) -> None:
        """The state at the next time to be reached."""
        x, v = self.outside(state)
        broken, goal = self.walk.broken, self.walk.t[self.goal].detach()
        self.begin(t, x, v, state, bool(broken) and broken[self.goal])
        self.goal += 1
        if self.goal - 1 not in self.walk.keep:
            return
        after = self.walk.way * (goal - self.walk.stopped.detach()) > 0
        lost = (self.walk.status >= FAILED) & after
        if bool(lost.any()):
            x, v = (p.masked_fill(column(lost, p), torch.nan) for p in (x, v))
        self.asked.append((t, x, v))

    def begin(
        self, t: Tensor, x: Tensor, v: Tensor, state: State, broken: bool = False
    ) -> None:
        """An interval without events begins."""
        self.pieces.append((t, x, v))
        self.starts.append(state)
        self.broken.append(broken)
        self.steps.append([t.detach()])

    def follow(self, path: Any, states: Sequence[State], grid: Tensor) -> None:
        """A stretch of steps."""
        keep = dict(zip(path.keep, states, strict=False))
        for k, node in enumerate(path.nodes[1:], 1):
            self.nodes.append(node)
            self.steps[-1].append(node)
            if k in keep:
                self.add(grid[..., k], keep[k])

    def happened(self, t: Tensor, state: State, together: Tensor) -> None:
        """Events at one time, in the order of their functions."""
        x, v = self.walk.outside(t, state)
        for k, hit in enumerate(together.unbind(-1)):
            if bool(hit.any()):
                index = torch.where(hit, k, -1)
                lost = column(~hit, x)
                x_there, v_there = (p.masked_fill(lost, torch.nan) for p in (x, v))
                time = torch.where(hit, t, torch.nan)
                self.events.append((time, index, x_there, v_there))
                self.count = self.count + hit
        self.nodes.append(t.detach())
        self.steps[-1].append(t.detach())

    def restart(self, t: Tensor, state: State) -> None:
        """The state from which the solve goes on."""
        self.begin(t, *self.outside(state), state)

    def solution(self, now: Tensor, state: State) -> Solution:
        """All of it."""
        walk, problem = self.walk, self.walk.problem
        watched = walk.stride.watched
        watched.close()
        ended = bool((walk.status == EVENT).any())
        if walk.per_sample:
            while self.goal < len(walk.t):
                self.add(now, state)
        elif ended:
            self.asked.append((now, *self.outside(state)))
        else:
            while self.goal < len(walk.t):  # an empty state, or one that failed
                self.add(walk.t[self.goal], state)
        times, xs, vs = (torch.stack(parts) for parts in zip(*self.asked, strict=True))
        t = times.movedim(0, -1).to(problem.t.dtype) if ended else problem.t
        evaluations = watched.evaluations
        if problem.system.first_order:
            vs = slopes(problem.system, t, xs, problem.args, walk.route)
            evaluations += len(xs)
        words = [STATUS[k] for k in walk.status.reshape(-1).tolist()]
        each = walk.per_sample
        accepted: Any = walk.accepted if each else int(walk.accepted)
        rejected: Any = walk.rejected if each else int(walk.rejected)
        stats = Stats(evaluations, accepted, rejected, self.step_times())
        last = walk.ended if each else int(walk.ended)
        return Solution(
            t, xs, vs, stats, self.dense(),
            event=last if each or ended else None,
            events=self.all_events() if walk.events else None,
            status=words if each else words[0],
            end=self.end(state),
        )  # fmt: skip

    def end(self, state: State) -> End | None:
        """With what another solve goes on."""
        how, walk = self.walk.how, self.walk
        if not resumable(how):
            return None
        copy = state[1] if isinstance(how, Coupled) else None
        if walk.control is None:
            return End(how, copy)
        length: Any = walk.lengths
        previous: Any = walk.previous
        if not walk.per_sample:
            length, previous = float(length), float(previous)
        return End(how, copy, length, previous)

    def step_times(self) -> Tensor:
        """Where the steps of each sample began and ended."""
        nodes = torch.stack(self.nodes, -1)
        if not self.walk.per_sample:
            return torch.unique_consecutive(nodes)
        rows = [torch.unique_consecutive(row) for row in nodes]
        most = max((len(row) for row in rows), default=0)
        padded = [torch.cat([r, r[-1:].expand(most - len(r))]) for r in rows]
        return torch.stack(padded) if rows else nodes[:, :0]

    def all_events(self) -> Happened:
        """The events, those of each sample moved together."""
        like = self.walk.problem.x
        if not self.events:
            none = like.new_zeros((0, *like.shape))
            t = none.new_zeros((0, *self.walk.batch), dtype=torch.float64)
            return Happened(t, t.long(), none, none)
        t, index, x, v = (torch.stack(p) for p in zip(*self.events, strict=True))
        if not self.walk.per_sample:
            return Happened(t, index, x, v)
        order = (index < 0).int().argsort(dim=0, stable=True)[: int(self.count.max())]
        wide = column(order, x).expand(-1, *x.shape[1:])
        return Happened(
            t.gather(0, order),
            index.gather(0, order),
            x.gather(0, wide),
            v.gather(0, wide),
        )

    def dense(self) -> DenseOutput | None:
        """The states in between."""
        walk, problem, each = self.walk, self.walk.problem, self.walk.per_sample
        if each and not problem.x.numel():
            return None
        times, xs, vs = zip(*self.pieces, strict=True)
        ts, ys, ws = (torch.stack(parts) for parts in (times, xs, vs))
        divided: list[Any] = [
            walk.stride.noted(torch.stack(nodes, -1), start)
            for nodes, start in zip(self.steps[:-1], self.starts, strict=False)
        ]
        broken = tuple(self.broken) if any(self.broken) else ()
        if len(ts) > 1 and not each and bool(ts[-1] == ts[-2]):
            # A map at the very end is not between anything.
            ts, ys, ws, divided = ts[:-1], ys[:-1], ws[:-1], divided[:-1]
            broken = broken[:-1]
        ts = ts.mT if each else ts
        if problem.system.first_order:
            ws = slopes(problem.system, ts, ys, problem.args, walk.route)
        kind = OwnDense if each else DenseOutput
        return kind(walk.how, problem, ts, ys, ws, tuple(divided), broken)


def check_events(
    how: Any,
    problem: Problem,
    options: Options,
    event_fn: Any,
    on_event: Any,
    max_events: int | None,
    per_sample: bool,
) -> Watched | None:
    """The events of a solve, or an error where a method cannot march in this way."""
    adaptive = isinstance(how, Adaptive)
    if isinstance(how, Coupled):
        adaptive = how.chooses(options)
    elif not (adaptive or isinstance(how, Splitting)):
        raise ValueError(
            f"`event_fn` and `per_sample` are not known to {how.name!r} in `odeint`; "
            'take an adaptive method such as "rkn8", one of fixed steps such as '
            '"verlet", or `odeint_event`'
        )
    if event_fn is None and not adaptive:
        raise ValueError(
            f"`per_sample` gives each sample steps of its own, and {how.name!r} has "
            "fixed ones; take an adaptive method, or per-sample times `t`"
        )
    if per_sample and problem.x.ndim == 0:
        raise ValueError("`per_sample` needs a batch: x0 of shape (batch, ...)")
    if problem.t.ndim == 2 and not per_sample:
        raise ValueError(
            "`t` holds per-sample grids; events on them need `per_sample=True`"
        )
    checks.optional_count(max_events, "max_events")
    if event_fn is None:
        if on_event is not None or max_events is not None:
            raise ValueError("`on_event` and `max_events` need an `event_fn`")
        return None
    batch = tuple(problem.x.shape[:1]) if per_sample else ()
    return Watched(find_events(event_fn, on_event), batch)
