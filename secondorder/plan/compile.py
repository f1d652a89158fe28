"""From a table, a system and times to a plan: the one place where plans are made.

    compile_plan      the steps of a splitting method on a grid of times
    compile_map       the same as a map of (x, v), without records
    momentum_plan     the layers of a Momentum ResNet

This file alone knows that most methods carry p = m v in place of v, that the closing
flow of a step and the opening flow of the next are one, and that a kick at a breakpoint
takes the force of its own side.
"""

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from .. import checks
from ..checks import Number
from ..systems.equations import System, as_double
from .flows import FLOWS, Numbers, Table, is_one, to_state_dtype
from .grid import divide, into_steps
from .moves import Damp, Drift, Kick, Move, Plan, Record, with_times


def compile_plan(
    table: Table,
    system: System,
    t: Tensor,
    counts: Sequence[int],
    like: Tensor,
    gamma: Number | None = None,
    broken: Sequence[bool] | None = None,
) -> Plan:
    """The plan of a method on a grid, with a ``Record`` at the end of each interval.

    Parameters
    ----------
    table : Splitting
    system : System
        With one mass and one damping per coordinate.
    t : Tensor
        Times ``(n,)``, or ``(batch, n)`` for per-sample grids; may require gradients.
    counts : list of int
        Steps in each of the n − 1 intervals.
    like : Tensor
        The position, whose dtype, device and shape the weights follow.
    gamma : float or Tensor, optional
        The momentum of a whole relaxation, where it rather than ε was given.
    broken : list of bool, optional
        Which of the n times are breakpoints.  A step that opens or closes with a kick
        evaluates the force at its very ends, and at a jump the two sides differ.  As
        the force is known by its time alone, a kick's side is told by moving that time
        by one unit in the last place, into its own step.

    Returns
    -------
    tuple of moves

    Raises
    ------
    ValueError
        If the damping per step is beyond the method's limit.
    """
    mass, damping = as_double(system.mass), as_double(system.damping)
    t, h = divide(t, counts, like)
    check_damping(table, mass, damping, h)
    stiffness = as_double(system.stiffness) if system.stiffness is not None else None
    numbers = Numbers(table, h, mass, damping, like, gamma, stiffness)
    flows, joined = rows(table)
    moves = [FLOWS[letter].moves(numbers, part) for letter, part in flows]
    ends = itertools.product((True, False), repeat=2)  # of an interval, in a step
    steps = {(a, b): list(places(table, joined, a, b)) for a, b in ends}
    momentum = Momentum.of(table, mass, like)
    shared: dict[tuple[int, bool], Move] = {}
    plan: list[Move] = momentum.enter()
    record = momentum.record()
    kicks: list[tuple[int, float, int]] = []
    moved = True
    for i, count in enumerate(counts):
        moved = moved or (broken is not None and broken[i])
        for k in range(count):
            for row, passed, side in steps[k == 0, k == count - 1]:
                for move in moves[row][i]:
                    if isinstance(move, Kick):
                        if broken is None or not broken[i + (side < 0)]:
                            side = 0
                        fresh = moved or FLOWS[flows[row][0]].regroups
                        own = shared.get((id(move), fresh))
                        if own is None:
                            own = shared[id(move), fresh] = move._replace(fresh=fresh)
                        plan.append(own)
                        kicks.append((i, k + passed, side))
                        moved = False
                    else:
                        plan.append(move)
                        moved = moved or isinstance(move, Drift)
        plan.append(record)
    return with_times(plan, kick_times(t, h, kicks, like))


def compile_map(
    table: Table,
    system: System,
    t: Tensor,
    counts: Sequence[int],
    like: Tensor,
    gamma: Number | None = None,
) -> Plan:
    """The plan of the map (x, v) ↦ (x, v) from the first to the last time."""
    plan = compile_plan(table, system, t, counts, like, gamma)
    moves = tuple(move for move in plan if not isinstance(move, Record))
    last = plan[-1]
    # Methods that carry p = m v record v = p/m: here a move like any other.
    if isinstance(last, Record) and not is_one(last.scale):
        return (*moves, Damp(last.scale, units=True))
    return moves


def momentum_plan(
    gamma: Number | Sequence[Number],
    layers: int,
    marks: Sequence[int] = (),
    rule: str = "momentum",
) -> Plan:
    """The plan of a Momentum ResNet, with x ← x + v after each of

        v ← γ v + (1−γ) f_n(x)    rule "momentum"
        v ← γ v + f_n(x)          rule "unnormalised"

    The time of kick n is the integer n, so that the field can pick block n.

    Parameters
    ----------
    gamma : float, Tensor, or list or tuple of these
        γ in [0, 1), or in [−1, 1] unnormalised; scalar or per coordinate.  A list has
        one for each layer.
    layers : int
        How many.
    marks : sequence of int
        Record the state after so many layers.
    rule : {"momentum", "unnormalised"}

    Returns
    -------
    tuple of moves
        Three moves a layer, and the records.
    """
    if not isinstance(gamma, (list, tuple)):
        gamma = [cast(Number, gamma)] * layers
    each: Sequence[Number] = gamma
    # One move for one γ, whatever number of layers it belongs to.
    keys = [id(g) if isinstance(g, Tensor) else g for g in each[:layers]]
    known = dict(zip(keys, each, strict=False))
    for g in known.values():
        checks.momentum(g, rule)
    damps = {key: Damp(g) for key, g in known.items()}
    rests = {k: 1.0 if rule == "unnormalised" else 1 - g for k, g in known.items()}
    drift, record = Drift(1.0), Record()
    plan: list[Move] = []
    for n, key in enumerate(keys):
        plan += [damps[key], Kick(rests[key], n), drift]
        if n + 1 in marks:
            plan.append(record)
    return tuple(plan)


class Momentum(NamedTuple):
    """The change between v and p = m v, the velocity of most plans; None for v itself.

    Attributes
    ----------
    mass : float, Tensor or None
    """

    mass: Number | None

    @classmethod
    def of(cls, table: Table, mass: Number, like: Tensor) -> "Momentum":
        """What the flows of a table act on."""
        acts = FLOWS[table.flows[0][0]].momentum
        if not acts or is_one(mass):
            return cls(None)
        if isinstance(mass, Tensor):
            mass = to_state_dtype(mass.unsqueeze(0), like).squeeze(0)
        return cls(mass)

    def enter(self) -> list[Move]:
        """The move v ↦ p."""
        return [] if self.mass is None else [Damp(self.mass, units=True)]

    def of_velocity(self, v: Tensor) -> Tensor:
        """Return p."""
        return v if self.mass is None else self.mass * v

    def velocity(self, p: Tensor) -> Tensor:
        """Return v."""
        return p if self.mass is None else p / self.mass

    def record(self) -> Record:
        """The record of v = p/m."""
        return Record(1.0 if self.mass is None else 1 / self.mass)


class Place(NamedTuple):
    """Where a flow stands in a step.

    Attributes
    ----------
    row : int
        Which of the ``rows``.
    passed : float
        How much of the step's time has passed before it.
    side : int
        1 before the first flow that carries time, −1 after the last one, at the ends of
        an interval; else 0.
    """

    row: int
    passed: float
    side: int


def rows(table: Table) -> tuple[list[tuple[str, float]], bool]:
    """The flows of a step, and whether one more is what joins two steps.

    Within an interval the closing flow of a step and the opening flow of the next are
    one flow; flows of exact parts add up, the Euler rule's relaxations do not.
    """
    (first, a), (last, b) = table.flows[0], table.flows[-1]
    exact = first != "R" or table.rule == "exponential"
    joined = first == last and exact
    return [*table.flows, *([(first, a + b)] if joined else [])], joined


def places(table: Table, joined: bool, first: bool, last: bool) -> Iterator[Place]:
    """The flows of a step that is the first, the last, both or none of an interval."""
    timed = [j for j, (letter, _) in enumerate(table.flows) if FLOWS[letter].time]
    end, passed = len(table.flows) - 1, 0.0
    for j, (letter, fraction) in enumerate(table.flows):
        if not joined or j > 0 or first:
            row = end + 1 if joined and j == end and not last else j
            opens, closes = first and j < timed[0], last and j > timed[-1]
            yield Place(row, passed, opens - closes)
        passed += fraction if FLOWS[letter].time else 0.0


def kick_times(
    t: Tensor, h: Tensor, kicks: Sequence[tuple[int, float, int]], like: Tensor
) -> Tensor:
    """Times of the kicks, one row each, in the state's dtype."""
    if not kicks:
        return t[:0]
    intervals, parts, sides = zip(*kicks, strict=True)
    index = torch.tensor(intervals, device=t.device)
    passed = torch.tensor(parts, dtype=t.dtype, device=t.device)
    passed = passed.reshape(-1, *[1] * (t.ndim - 1))
    times = to_state_dtype(t[index] + passed * h[index], like)
    if t.ndim == 1:  # what a field makes of it should not be float64 in float32
        times = times.to(torch.promote_types(like.dtype, torch.float32))
    if not any(sides):
        return times
    return into_steps(times, torch.tensor(sides, dtype=t.dtype, device=times.device), t)


def check_damping(table: Table, mass: Number, damping: Number, h: Tensor) -> None:
    """Raise where h·c/m is beyond what the method damps stably."""
    limit = table.damping_limit
    if math.isinf(limit):
        return
    rate = damping / mass
    size = rate.detach().abs().max().item() if isinstance(rate, Tensor) else abs(rate)
    largest = size * h.detach().abs().max().item() if h.numel() else 0.0
    if largest > limit or (table.rule == "euler" and largest >= limit):
        raise ValueError(
            f"`step_size` is too large for the damping: h/ε = {largest:.4g}, and "
            f"{table.name!r} is stable below {limit:g}; take smaller steps, or a "
            'method for any h/ε: "verlet", "momentum_exponential" or "chin4"'
        )
    if table.rule == "euler" and largest > 1:
        warnings.warn(
            f"h/ε = {largest:.4g} > 1 makes the momentum γ = 1 − h/ε negative, which "
            "flips the velocity at each step; take smaller steps or "
            '"momentum_exponential"',
            stacklevel=checks.caller(),
        )
