"""The elementary maps every step is made of, and lists of them.

    Kick    v ← v + w · f(t, x)
    Drift   x ← x + w · v
    Damp    v ← w · v

and, where x and v are two copies of one state (or two halves of a RevNet),

    Shear   x ← x ± Ψ_w(t, v)       Ψ the increment of a Runge–Kutta method
    Mix     x ← w · x + (1 − w) · v

or the same with x and v exchanged.

A whole integration (steps × stages, uneven or adaptive steps) and a whole Momentum
ResNet are one flat list of such moves, a *plan*.  Forward and inverse maps, gradients
with respect to the weights (hence to ε, γ, h and t) and the log-determinant are each
one walk over that list.  ``Record`` marks where a state is returned.

Two refinements of the kick keep everything else unchanged:

- ``inner`` (force-gradient methods): the force is taken at x + inner · f(t, x);
- ``velocity_copy`` = ±1 (velocity doubling): the velocity has two copies v ± e, and
  the copy v ± e is kicked by the force that the other copy sees, so the state has a
  third part, half the gap e between the copies.  A field that takes no velocity has
  ``velocity_copy`` 0 and no gap.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .. import checks
from ..checks import Number
from .runge_kutta import EULER, RungeKutta

Field = Callable[..., Tensor]

MANY = 1000  # kicks; before that objects are faster than columns


class Kick(NamedTuple):
    """v ← v + weight · f(time, x); ``fresh`` is False where f was just evaluated."""

    weight: Number
    time: Any = None
    fresh: bool = True
    inner: Number | None = None
    velocity_copy: int = 0
    spring: bool = False  # the force is x itself


class Drift(NamedTuple):
    """x ← x + weight · v."""

    weight: Number


class Damp(NamedTuple):
    """v ← weight · v, and e with it; with ``gap_only`` e ← weight · e alone.

    ``units`` marks a change of units, between v and p = m v: it erases nothing.
    """

    weight: Number
    gap_only: bool = False
    units: bool = False


class Record(NamedTuple):
    """Return the state here, the velocity as ``scale`` · v."""

    scale: Number = 1.0


class Shear(NamedTuple):
    """x ← x + sign · Ψ(v) by the increment of a Runge–Kutta step of size ``weight``.

    With ``velocity`` v ← v + sign · Ψ(x).  The fields are called at ``times``, one for
    each stage.
    """

    weight: Number
    times: Any = (None,)
    base: RungeKutta = EULER
    sign: float = 1.0
    velocity: bool = False


class Mix(NamedTuple):
    """x ← weight · x + (1 − weight) · v; with ``velocity`` x and v exchanged."""

    weight: Number
    velocity: bool = False


Move = Kick | Drift | Damp | Shear | Mix | Record


class Timed(Sequence[Move]):
    """A plan of many equal steps: moves that are shared, and a column of times.

    Twelve bytes a move rather than an object each; a kick gets its time, and a shear
    its times, when it is looked at.
    """

    notes: dict[Any, Any] | None = None  # as in plan/known.py

    def __init__(self, moves: Sequence[Move], times: Tensor) -> None:
        self.moves, self.times = tuple(moves), times
        self.places = array("i")  # which of the times
        kicks = 0
        for move in self.moves:
            self.places.append(kicks)
            kicks += isinstance(move, (Kick, Shear))

    def __len__(self) -> int:
        """How many moves."""
        return len(self.moves)

    def __getitem__(self, index: Any) -> Any:
        """A move, or a tuple of them."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        move = self.moves[index]
        if isinstance(move, Kick):
            time = self.times[self.places[index]]
            return Kick(move.weight, time, *move[2:])
        if isinstance(move, Shear):
            return Shear(move.weight, self.times[self.places[index]], *move[2:])
        return move


Plan = Sequence[Move]


def with_times(moves: Sequence[Move], times: Tensor) -> Plan:
    """A plan whose kicks and shears have these times, one row each."""
    if len(times) >= MANY and not checks.differentiated(times):
        return Timed(moves, times)
    rows = iter(times.unbind())
    plan: list[Move] = []
    for move in moves:
        if isinstance(move, Kick):
            move = move._replace(time=next(rows))
        elif isinstance(move, Shear):
            move = move._replace(times=next(rows))
        plan.append(move)
    return tuple(plan)


def untimed(plan: Plan) -> Sequence[Move]:
    """The moves of a plan, where the times of the kicks do not matter."""
    return plan.moves if isinstance(plan, Timed) else plan


def force(
    field: Field, kick: Kick, x: Tensor, velocity: Tensor | None, args: Iterable[Any]
) -> Tensor:
    """Evaluate the force of a kick and check what the field returned."""
    if kick.spring:
        return x.clone()
    where = () if velocity is None else (velocity,)
    untold = torch.compiler.is_compiling() or x.is_inference()
    before = 0 if untold else x._version
    value = checked(field(kick.time, x, *where, *args), kick, x)
    if not untold and x._version != before:
        raise RuntimeError(
            f"{whose(kick)} wrote into the state that it was given, which the moves "
            "after it need; leave out in-place operations on its input (x.relu_(), "
            "x += ...), or let it start with x = x.clone()"
        )
    if kick.inner is not None:
        value = checked(field(kick.time, nudged(kick, x, value), *args), kick, x)
    return value


def nudged(kick: Kick, x: Tensor, value: Tensor) -> Tensor:
    """Where a nested kick takes its force, given that at x."""
    place = x + cast(Number, kick.inner) * value
    return place.to(x.dtype)  # a forcing may be wider


def increment(field: Field, move: Shear, y: Tensor, args: Iterable[Any] = ()) -> Tensor:
    """Ψ(y), what a shear adds."""

    def pull(time: Any, y: Tensor) -> Tensor:
        value = force(field, Kick(1.0, time), y, None, args)
        return value if value.dtype == y.dtype else value.to(y.dtype)

    return move.base.increment(pull, move.times, move.weight, y)


def whose(kick: Kick) -> str:
    """What evaluates the force of a kick, for messages."""
    return f"block {kick.time}" if isinstance(kick.time, int) else "`field`"


def checked(value: Any, kick: Kick, x: Tensor) -> Tensor:
    """Return the force if it is a tensor shaped like x, or say what it is."""
    if isinstance(value, Tensor) and value.shape == x.shape:
        return value
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"{whose(kick)} returned {got} for a state of shape {tuple(x.shape)}; a "
        "second-order model adds forces to states, so it must return a tensor of the "
        "state's shape"
    )


def walk(
    plan: Iterable[Move],
    field: Field,
    x: Tensor,
    v: Tensor,
    args: Sequence[Any] = (),
    e: Tensor | None = None,
) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor, Tensor | None]]:
    """Run a plan in floating point; return the recorded states and the last one.

    Parameters
    ----------
    plan : sequence of moves
    field : callable
        ``field(time, x, *args)``, or ``field(time, x, v, *args)`` for kicks of a
        velocity copy.
    x, v : Tensor
        Position and velocity, same shape ``(..., d)``.
    args : tuple
        Passed to the field unchanged.
    e : Tensor, optional
        The gap of a state that is already in the middle of a plan.

    Returns
    -------
    records : list of (Tensor, Tensor)
        The states (x, v) at the ``Record`` marks.
    last : tuple
        ``(x, v, e)`` at the end; ``e`` is None without velocity copies.
    """
    records: list[tuple[Tensor, Tensor]] = []
    push: Any = None
    for move in plan:
        if isinstance(move, Kick):
            if move.fresh:
                seen = None
                if move.velocity_copy:
                    e = torch.zeros_like(v) if e is None else e
                    seen = v - move.velocity_copy * e
                push = force(field, move, x, seen, args)
                # Only under mixed precision: the state keeps its own dtype.
                push = push if push.dtype == v.dtype else push.to(v.dtype)
            # Two operations, not add(alpha=w): a fused multiply-add would round
            # differently from the recursion v ← γ v + (1−γ) f written out by hand.
            kick = move.weight * push
            v = v + kick
            if move.velocity_copy:
                e = cast(Tensor, e) + move.velocity_copy * kick
        elif isinstance(move, Drift):
            x = shear(x, v, move.weight)
        elif isinstance(move, Damp):
            if not move.gap_only:
                v = move.weight * v
            if e is not None:
                e = move.weight * e
        elif isinstance(move, Shear):
            push = increment(field, move, x if move.velocity else v, args)
            if move.velocity:
                v = v + move.sign * push
            else:
                x = x + move.sign * push
        elif isinstance(move, Mix):
            if move.velocity:
                v = move.weight * v + (1 - move.weight) * x
            else:
                x = move.weight * x + (1 - move.weight) * v
        else:
            same = isinstance(move.scale, float) and move.scale == 1.0
            records.append((x, v if same else move.scale * v))
    return records, (x, v, e)


def shear(x: Tensor, v: Tensor, weight: Number) -> Tensor:
    """X + weight · v."""
    if isinstance(weight, Tensor):
        return x + weight * v
    return torch.add(x, v, alpha=weight)


def reverse(plan: Sequence[Move]) -> Plan:
    """The plan of the inverse map: moves undone in reverse order.

    Records stay where they are.  The inverse of ``Kick(w)`` is ``Kick(−w)``, of
    ``Damp(w)`` is ``Damp(1/w)``, of ``Mix(w)`` is ``Mix(1/w)``; it exists unless such a
    weight is 0.
    """
    undone: list[Move] = []
    regroup = True
    for move in reversed(plan):
        if isinstance(move, Kick):
            # Within a group of kicks at one point, the first one met evaluates f.
            undone.append(move._replace(weight=-move.weight, fresh=regroup))
            regroup = move.fresh
        elif isinstance(move, Drift):
            undone.append(Drift(-move.weight))
        elif isinstance(move, (Damp, Mix)):
            undone.append(move._replace(weight=1 / move.weight))
        elif isinstance(move, Shear):
            undone.append(move._replace(sign=-move.sign))
        else:
            undone.append(move)
    return tuple(undone)


def log_determinant(plan: Iterable[Move], dimension: int = 1) -> Number:
    """Log |det| of the map (x, v) ↦ (x', v'): kicks, drifts and shears have det 1.

    Parameters
    ----------
    plan : sequence of moves
    dimension : int
        Number of coordinates that a scalar weight acts on; a tensor weight counts its
        own entries.

    Returns
    -------
    float or Tensor
        Σ log |w| over the damps and the mixings, for any field.
    """
    checks.count(dimension, "dimension")
    total: Number = 0.0
    for move in plan:
        if isinstance(move, Mix) or (isinstance(move, Damp) and not move.gap_only):
            w = move.weight
            if isinstance(w, Tensor):
                repeat = dimension if w.ndim == 0 else 1
                total = total + repeat * w.abs().log().sum()
            else:
                total = total + dimension * math.log(abs(w))
    return total


def evaluations(plan: Plan) -> int:
    """Number of field evaluations the plan costs."""
    return sum(cost(move) for move in untimed(plan) if evaluates(move))


def cost(move: Any) -> int:
    """Evaluations of a move that calls the field."""
    if isinstance(move, Shear):
        return len(move.base.weights)
    return 0 if move.spring else 1 + (move.inner is not None)


def evaluates(move: Move) -> bool:
    """Whether a move calls the field: before it, a plan may be cut."""
    return isinstance(move, Shear) or (isinstance(move, Kick) and move.fresh)
