"""Step size control: how far to go next, given the error of the last step.

The next step is the largest whose error should stay below  atol + rtol·max(|y|, |y'|)
in the root mean square over all entries of the state y = (x, v) of the whole batch:

    h ← h · clip(0.9 e_n^{−0.7/k} e_{n−1}^{0.4/k}, 0.2, 5),   k = companion's order + 1

and h ← h · clip(0.9 e_n^{−1/k}, 0.2, 1) after a step that was rejected, e_n > 1.

Where the field jumps, errors fall as h and not as h^k.  Two rejected steps in a row
show that; the jump is then bracketed by bisection until a step across it is tolerated,
and the step from before it is tried again behind it.

References: Gustafsson, ACM Trans. Math. Softw. 17 (1991), 533-554; Hairer, Nørsett &
Wanner, "Solving Ordinary Differential Equations I", II.4, eqs. (4.11)-(4.14).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..solution import End
from ..systems.equations import same

Nodes = list[tuple[int, float]]
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0


class Wall(NamedTuple):
    """A jump that lies somewhere before a time at which rejected steps have ended.

    Attributes
    ----------
    time : float
    tolerated : float
        Length of a step across the jump whose error would be tolerated.
    before : float
        Length of the step that met it first.
    """

    time: float
    tolerated: float
    before: float

    def step(self, now: float) -> float:
        """Half way to the wall, or all of it where that is short enough."""
        rest = abs(self.time - now)
        return rest if rest <= self.tolerated else rest / 2

    def reached(self, time: float, length: float) -> bool:
        """Whether a step of some length has ended at the wall, or behind it."""
        return abs(self.time - time) < 1e-6 * length


class Path(NamedTuple):
    """The accepted steps of a solve.

    Attributes
    ----------
    nodes : list of (int, float)
        Where steps begin and end: interval of the time grid and fraction of it.
    states : list of (Tensor, Tensor)
        The states (x, v) at the requested times.
    accepted, rejected : int
    length, previous : float
        Of the step that would come next, and the error of the last one.
    """

    nodes: Nodes
    states: list[tuple[Tensor, Tensor]]
    accepted: int
    rejected: int
    length: float = 0.0
    previous: float = 1.0


class Control(NamedTuple):
    """What decides about steps.

    Attributes
    ----------
    order : int
        k, the power of h in the local error of the companion.
    size : callable
        ``size(error, before, after)``, the error of a pair (x, v) in units of what is
        tolerated.
    largest : float
        The longest step that the damping allows.
    max_steps : int
    describe : callable
        ``describe(x) -> str``, for the message when a solve fails.
    check : callable
        ``check((x, v))`` raises where the tolerances are below the rounding of a state.
    first : float, optional
        The first step to try; guessed without.
    previous : float
        The error of the step before it, 1 where there was none.
    """

    order: int
    size: Callable[..., float]
    largest: float
    max_steps: int
    describe: Callable[[Tensor], str]
    check: Callable[[Any], Any] = same
    first: Any = None
    previous: Any = 1.0

    def after(self, end: End) -> "Control":
        """The same where a solve goes on from another one."""
        if self.first is not None or end.length is None:
            return self
        return self._replace(first=end.length, previous=end.previous)


def step_through(
    step: Callable[..., Any],
    control: Control,
    start: tuple[Tensor, Tensor, Tensor],
    derivative: Callable[..., tuple[Tensor, Tensor]],
    t: Tensor,
    enter: Callable[[int], bool] = lambda i: False,
) -> Path:
    """Step through the times t, landing on each.

    Parameters
    ----------
    step : callable
        ``step(t, h, (x, v, g)) -> ((x, v, g), (ex, ev))``.
    control : Control
    start : (Tensor, Tensor, Tensor)
        Position, velocity and force at the first time.
    derivative : callable
        ``derivative(time, (x, v)) -> (v, a)``, for the length of the first step.
    t : Tensor
        Times ``(n,)``, float64 on the host.
    enter : callable
        ``enter(i)`` is called before interval i and says whether the force jumps there.

    Returns
    -------
    Path

    Raises
    ------
    RuntimeError
        If the step underflows, or after ``max_steps`` steps.
    """
    states: list[Any] = [start[:2]]
    nodes: Nodes = [(0, 0.0)]
    state: Any = start
    accepted, rejected, previous = 0, 0, float(control.previous)
    wall: Wall | None = None
    lost: list[
        tuple[float, float]
    ] = []  # lengths and errors of rejected steps in a row
    clock = t.detach().tolist()
    control.check(start[:2])
    h = control.first or (
        first_step(control, derivative, start, clock) if len(clock) > 1 else 0.0
    )
    if abs(clock[-1] - clock[0]) > control.max_steps * control.largest:
        h = control.largest
        raise RuntimeError(out_of_steps(control, clock[0], h, start[0], clock))
    for i, (begin, end) in enumerate(zip(clock, clock[1:], strict=False)):
        length, done = abs(end - begin), 0.0
        if enter(i) and i > 0:
            state = (*state[:2], None)
        while done < 1:
            now = begin + done * (end - begin)
            ulp = math.ulp(max(abs(now), length))
            if wall and wall.step(now) <= 16 * ulp:  # what is left is rounding
                h, wall = SHRINK * wall.before, None
            h = min(wall.step(now) if wall else h, control.largest)
            part = next_step_length(h, (1 - done) * length) / length
            until = 1.0 if done + part > 1 - 1e-12 else done + part
            tried = (until - done) * length
            if accepted + rejected >= control.max_steps:
                raise RuntimeError(out_of_steps(control, now, h, state[0], clock))
            if tried <= 4 * ulp:
                raise RuntimeError(underflow(control, now, tried, state[0]))
            new, error = step(*interval(t, i, done, until), state)
            error = control.size(error, state[:2], new[:2])
            change = factor(error, previous, control.order)
            if error <= 1:
                accepted, previous = accepted + 1, max(error, 1e-4)
                state, done = new, until
                control.check(state[:2])
                nodes.append((i, done) if done < 1 else (i + 1, 0.0))
                # A step cut short to land on t says little about a longer one.
                h = max(h, tried * change) if change == GROW else tried * change
                lost.clear()
                if wall and wall.reached(begin + until * (end - begin), tried):
                    h, wall = max(h, SHRINK * wall.before), None
            else:
                rejected, h = rejected + 1, tried * change
                previous = 1.0
                lost.append((tried, error))
                if wall or is_jump(lost, control.order):
                    before = wall.before if wall else lost[0][0]
                    stop = begin + until * (end - begin)
                    wall = Wall(stop, tried / (2 * error), before)
        states.append(state[:2])
    return Path(nodes, states, accepted, rejected, h, previous)


def is_jump(lost: Sequence[tuple[float, float]], order: int) -> bool:
    """Whether errors of rejected steps fall much more slowly than smooth ones do."""
    if len(lost) < 2:
        return False
    (long, large), (short, small) = lost[-2:]
    if not (math.isfinite(large) and math.isfinite(small)):
        return False
    return math.log(large / small) < order / 2 * math.log(long / short)


def next_step_length(h: float, rest: float) -> float:
    """The next step: h, all that is left, or half of it rather than h and a crumb."""
    if h >= rest * (1 - 1e-9):
        return rest
    return rest / 2 if 2 * h > rest else h


def interval(t: Tensor, i: int, begin: float, end: float) -> tuple[Tensor, Tensor]:
    """Time and length of a step, as float64 tensors that know where t came from."""
    span = t[i + 1] - t[i]
    return t[i] + begin * span, (end - begin) * span


def node_times(t: Tensor, nodes: Nodes) -> Tensor:
    """The times of nodes, a float64 tensor that knows where t came from."""
    place = torch.tensor([i for i, _ in nodes], device=t.device)
    part = torch.tensor([f for _, f in nodes], dtype=torch.float64, device=t.device)
    after = (place + 1).clamp(max=len(t) - 1)
    return t[place] + part * (t[after] - t[place])


def factor(error: float, previous: float, order: int) -> float:
    """By how much the next step is longer than the one with this error."""
    if not math.isfinite(error):
        return SHRINK
    if error > 1:
        return min(1.0, max(SHRINK, SAFETY * error ** (-1 / order)))
    if error == 0:
        return GROW
    change = SAFETY * error ** (-0.7 / order) * previous ** (0.4 / order)
    return min(GROW, max(SHRINK, change))


def first_step(
    control: Control,
    derivative: Callable[..., tuple[Tensor, Tensor]],
    start: tuple[Tensor, Tensor, Tensor],
    clock: Sequence[float],
) -> float:
    """A careful guess from the slopes at the start, for one evaluation more."""
    y, sign = start[:2], math.copysign(1.0, clock[-1] - clock[0])
    with torch.no_grad():
        slope = derivative(clock[0], y, start[2])
        d0, d1 = control.size(y, y, y), control.size(slope, y, y)
        usable = min(d0, d1) > 1e-5 and math.isfinite(d1)
        h = 0.01 * d0 / d1 if usable else 1e-6
        h = min(h, abs(clock[-1] - clock[0]))
        probe = tuple(a + sign * h * b for a, b in zip(y, slope, strict=True))
        ahead = derivative(clock[0] + sign * h, probe)
        change = tuple(b - a for a, b in zip(slope, ahead, strict=True))
        bend = max(d1, control.size(change, y, y) / h)
    if not math.isfinite(bend):
        return h
    longer = (0.01 / bend) ** (1 / control.order) if bend > 1e-15 else 1e-3
    return min(100 * h, max(longer, 1e-3 * h))


def underflow(control: Control, now: float, h: float, x: Tensor) -> str:
    """Say that no step is short enough."""
    return (
        f"the step fell to {h:.3g} at t = {now:.6g} with {control.describe(x)}: the "
        "solution or the field has a singularity or a jump there, or is not finite, or "
        "the tolerances are below rounding; loosen `rtol` and `atol`, split `t` at "
        "jumps, or bound the field"
    )


def out_of_steps(
    control: Control, now: float, h: float, x: Tensor, clock: Sequence[float]
) -> str:
    """Say that the steps ran out."""
    return (
        f"no end after `max_steps` = {control.max_steps} steps: reached t = {now:.6g} "
        f"of {clock[-1]:.6g} with step {h:.3g} and {control.describe(x)}. Loosen "
        '`rtol` and `atol`; where h must follow a small ε, take "verlet" or "chin4", '
        "which run at any h/ε; or allow more with `max_steps`"
    )
