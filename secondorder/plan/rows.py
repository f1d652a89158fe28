"""A plan as a matrix: one row per evaluation of the force, for compiled loops.

    x ← x + d₀ v,   f = f(t, x),   v ← c₁ v + k₁ f,   x ← x + d₁ v,   [read v as r v]
    v ← c₂ v + k₂ f

Kicks and damps between two evaluations are composed, so plans of all splitting methods
have this form; what follows the last record is dropped.  Rows come in chunks of
``CHUNK``; rows that do nothing, at the point of the first evaluation, fill up the first
chunk.  The grid's scale s and its bytes are as in ``gradients/tape.py``, but bytes move
between chunks only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .moves import Damp, Drift, Kick, Plan, Record

CHUNK = 5  # more take longer to compile, fewer longer to run
D0, C1, K1, D1, R, C2, K2 = range(7)
IDENTITY = (0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0)


class Unpackable(Exception):
    """A plan, or a field, that has no compiled form; the message says why."""


class Rows(NamedTuple):
    """A plan as numbers.

    Attributes
    ----------
    table : list of list of float
        One row (d₀, c₁, k₁, d₁, r, c₂, k₂) for each evaluation, in whole chunks.
    times : Tensor
        Of the evaluations, float64 on the host.
    marks : list of int
        The rows in which a state is recorded.
    inner : list of float or None
        The nested kicks of force-gradient methods, where there are any.
    """

    table: list[list[float]]
    times: Tensor
    marks: list[int]
    inner: list[float] | None

    @property
    def last_only(self) -> bool:
        """Whether only the last state is wanted."""
        return self.marks == [len(self.table) - 1]


def pack(plan: Plan, weights: Sequence[Any]) -> Rows:
    """The rows of a plan whose moves have these weights.

    Parameters
    ----------
    plan : sequence of moves
    weights : sequence of float
        One for each move, of a record its scale.

    Raises
    ------
    Unpackable
        For learned or per-coordinate weights, doubled velocities and other moves that
        a row does not have.
    """
    table: list[list[float]] = []
    times: list[Any] = []
    marks: list[int] = []
    inner: list[Any] = []
    ahead, damp = [0.0, 1.0], 1.0  # d₀ and c₁ of the next row; what d₁ is followed by
    marked = leaving = False
    for move, weight in zip(plan, weights, strict=True):
        check_plain(move, weight)
        row = table[-1] if table else None
        if isinstance(move, Kick) and move.fresh:
            if row and not leaving:
                row[C2] *= damp
            table.append([ahead[0], ahead[1], weight, 0.0, 1.0, 1.0, 0.0])
            ahead, damp, marked, leaving = [0.0, 1.0], 1.0, False, False
            times.append(move.time)
            inner.append(move.inner)
        elif isinstance(move, Record):
            if row is None or marked or leaving or row[K2]:
                raise Unpackable("its plan records twice between two evaluations")
            row[R], marked = weight * damp, True
            marks.append(len(table) - 1)
        elif row is None or leaving or (isinstance(move, Drift) and marked):
            if isinstance(move, Kick):
                raise Unpackable("its plan kicks twice by a force of another place")
            if row and not leaving:
                row[C2] *= damp
                damp = 1.0
            leaving = row is not None
            if isinstance(move, Drift):
                ahead[0] += weight * ahead[1]
            else:
                ahead[1] *= weight
        elif isinstance(move, Drift):
            row[D1] += weight * damp
        elif isinstance(move, Damp):
            if row[D1] == 0 and not marked:
                row[C1], row[K1] = row[C1] * weight, row[K1] * weight
            else:
                damp, row[K2] = damp * weight, row[K2] * weight
        elif row[D1] == 0 and not marked:
            row[K1] += weight
        elif row[D1] == 0:
            row[K2] += weight
        else:
            raise Unpackable("its plan kicks twice by a force of another place")
    if not marks:
        raise Unpackable("its plan records nothing")
    last = marks[-1] + 1
    nested = [i is not None for i in inner[:last]]
    if any(nested) and not all(nested):
        raise Unpackable("some of its kicks are nested and others not")
    return filled_up(table[:last], times[:last], marks, inner[:last], any(nested))


def filled_up(
    table: list[list[float]],
    times: list[Any],
    marks: list[int],
    inner: list[Any],
    nested: bool,
) -> Rows:
    """Rows in whole chunks: those that do nothing come first."""
    more = -len(table) % CHUNK
    if more:
        first = [table[0][D0], *IDENTITY[1:]]
        table[0][D0] = 0.0
        table = [first, *(list(IDENTITY) for _ in range(more - 1)), *table]
    when = torch.stack([torch.as_tensor(t).double().cpu() for t in times])
    when = torch.cat([when[:1].expand(more), when])
    depth = [inner[0]] * more + inner if nested else None
    return Rows(table, when, [m + more for m in marks], depth)


def check_plain(move: Any, weight: Any) -> None:
    """Raise where a move is no move of a row."""
    if not isinstance(move, (Kick, Drift, Damp, Record)):
        raise Unpackable(f"its plan has moves of kind {type(move).__name__}")
    if isinstance(getattr(move, "time", None), int):
        raise Unpackable("its layers are blocks of their own")
    tensors = [n for n in (weight, *move) if isinstance(n, Tensor)]
    if any(n.requires_grad for n in tensors):
        raise Unpackable("a number of its plan (epsilon, gamma, t) is learned")
    if any(n.numel() != 1 for n in tensors):
        raise Unpackable("its plan has numbers per sample or per coordinate")
    if getattr(move, "velocity_copy", 0) or getattr(move, "gap_only", False):
        raise Unpackable("the method doubles the velocity")


def grid_rows(rows: Rows) -> tuple[list[list[float]], list[int]]:
    """Rows of a velocity that is kept as v/s, and the bytes to move before each chunk.

    Returns
    -------
    table : list of list of float
        (d₀, k₁, d₁, r, k₂) in units of the scale s at their place.
    bytes : list of int
        Before each chunk: bytes to push (> 0) or to pop (< 0).

    Raises
    ------
    Unpackable
        Where damping outruns the bytes within one chunk, or kicks cannot be undone.
    """
    s = 1.0
    table: list[list[float]] = []
    shifts: list[int] = []
    for n, row in enumerate(rows.table):
        if n % CHUNK == 0:
            moved = 0
            while s < 2.0**-8:
                s, moved = s * 2.0**8, moved + 1
            while s > 2.0**8:
                s, moved = s / 2.0**8, moved - 1
            shifts.append(moved)
        if row[D1] and row[K2]:
            raise Unpackable("its plan kicks twice by a force of another place")
        one = s * row[C1]
        two = one * row[C2]
        if not 2.0**-20 <= min(abs(one), abs(two)) <= max(one, two) <= 2.0**12:
            raise Unpackable(
                f"its damping within {CHUNK} evaluations is too strong for the grid"
            )
        table.append(
            [row[D0] * s, row[K1] / one, row[D1] * one, row[R] * one, row[K2] / two]
        )
        s = two
    return table, shifts
