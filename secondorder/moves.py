"""The three elementary maps every step is made of, and lists of them.

    Kick    v ← v + w · f(t, x)
    Drift   x ← x + w · v
    Damp    v ← w · v

A whole integration (steps × stages, uneven or adaptive steps) and a whole Momentum
ResNet are one flat list of such moves, a *plan*.  Forward and inverse maps, gradients
with respect to the weights (hence to ε, γ, h and t) and the log-determinant are each
one walk over that list.  ``Record`` marks where a state is returned.

Two refinements of the kick keep everything else unchanged:

- ``inner`` (force-gradient methods): the force is taken at x + inner · f(t, x);
- ``side`` (velocity doubling): the velocity has two copies v ± e and the copy
  ``v + side·e`` is kicked by the force that the other copy sees, so the state has a
  second lane e.  A field that takes no velocity has side 0 and no lane e.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Tensor


class Kick(NamedTuple):
    """v ← v + weight · f(time, x); ``fresh`` is False where f was just evaluated."""

    weight: Number
    time: object = None
    fresh: bool = True
    inner: Number | None = None
    side: int = 0


class Drift(NamedTuple):
    """x ← x + weight · v."""

    weight: Number


class Damp(NamedTuple):
    """v ← weight · v, or e ← weight · e in lane 1; ``lane`` None damps both."""

    weight: Number
    lane: int | None = None


class Record(NamedTuple):
    """Return the state here, the velocity as ``scale`` · v."""

    scale: Number = 1.0


Move = Kick | Drift | Damp | Record
Plan = tuple[Move, ...]


def force(field, kick, x, velocity, args):
    """Evaluate the force of a kick and check what the field returned."""
    where = () if velocity is None else (velocity,)
    value = checked(field(kick.time, x, *where, *args), kick, x)
    if kick.inner is not None:
        value = checked(field(kick.time, x + kick.inner * value, *args), kick, x)
    return value


def checked(value, kick, x):
    """Return the force if it is a tensor shaped like x, or say what it is."""
    if isinstance(value, Tensor) and value.shape == x.shape:
        return value
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    where = f"block {kick.time}" if isinstance(kick.time, int) else "`field`"
    raise ValueError(
        f"{where} returned {got} for a state of shape {tuple(x.shape)}; a second-order "
        "model adds forces to states, so it must return a tensor of the state's shape"
    )


def walk(plan, field, x, v, args=(), e=None):
    """Run a plan in floating point; return the recorded states and the last one.

    Parameters
    ----------
    plan : sequence of moves
    field : callable
        ``field(time, x, *args)``, or ``field(time, x, v, *args)`` for sided kicks.
    x, v : Tensor
        Position and velocity, same shape ``(..., d)``.
    args : tuple
        Passed to the field unchanged.
    e : Tensor, optional
        The second lane of a state that is already in the middle of a plan.

    Returns
    -------
    records : list of (Tensor, Tensor)
        The states (x, v) at the ``Record`` marks.
    last : tuple
        ``(x, v, e)`` at the end; ``e`` is None without sided kicks.
    """
    records, push = [], None
    for move in plan:
        kind = type(move)
        if kind is Kick:
            if move.fresh:
                seen = None
                if move.side:
                    e = torch.zeros_like(v) if e is None else e
                    seen = v - move.side * e
                push = force(field, move, x, seen, args)
                # Only under mixed precision: the state keeps its own dtype.
                push = push if push.dtype == v.dtype else push.to(v.dtype)
            # Two operations, not add(alpha=w): a fused multiply-add would round
            # differently from the recursion v ← γ v + (1−γ) f written out by hand.
            kick = move.weight * push
            v = v + kick
            if move.side:
                e = e + move.side * kick
        elif kind is Drift:
            x = shear(x, v, move.weight)
        elif kind is Damp:
            if move.lane != 1:
                v = move.weight * v
            if move.lane != 0 and e is not None:
                e = move.weight * e
        else:
            same = isinstance(move.scale, float) and move.scale == 1.0
            records.append((x, v if same else move.scale * v))
    return records, (x, v, e)


def shear(x, v, weight):
    """X + weight · v."""
    if isinstance(weight, Tensor):
        return x + weight * v
    return torch.add(x, v, alpha=weight)


def reverse(plan):
    """The plan of the inverse map: moves undone in reverse order.

    Records stay where they are.  The inverse of ``Kick(w)`` is ``Kick(−w)``, of
    ``Damp(w)`` is ``Damp(1/w)``; it exists unless a damp weight is 0.
    """
    undone, regroup = [], True
    for move in reversed(plan):
        if isinstance(move, Kick):
            # Within a group of kicks at one point, the first one met evaluates f.
            undone.append(move._replace(weight=-move.weight, fresh=regroup))
            regroup = move.fresh
        elif isinstance(move, Drift):
            undone.append(Drift(-move.weight))
        elif isinstance(move, Damp):
            undone.append(Damp(1 / move.weight, move.lane))
        else:
            undone.append(move)
    return tuple(undone)


def log_determinant(plan, dimension=1):
    """Log |det| of the map (x, v) ↦ (x', v'): kicks and drifts are shears, det 1.

    Parameters
    ----------
    plan : sequence of moves
    dimension : int
        Number of coordinates that a scalar weight acts on; a tensor weight counts its
        own entries.

    Returns
    -------
    float or Tensor
        Σ log |w| over the damps, for any field.
    """
    total = 0.0
    for move in plan:
        if isinstance(move, Damp) and move.lane != 1:
            w = move.weight
            if isinstance(w, Tensor):
                repeat = dimension if w.ndim == 0 else 1
                total = total + repeat * w.abs().log().sum()
            else:
                total = total + dimension * math.log(abs(w))
    return total


def evaluations(plan):
    """Number of field evaluations the plan costs."""
    return sum(
        1 + (move.inner is not None)
        for move in plan
        if isinstance(move, Kick) and move.fresh
    )
