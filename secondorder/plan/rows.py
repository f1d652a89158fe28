"""A plan as a matrix: one row per evaluation of the force, for compiled loops.

    x ← x + d₀ v,   f = f(t, x),   v ← c₁ v + k₁ f,   x ← x + d₁ v,   [read v as r v]
    v ← c₂ v + k₂ f

Kicks and damps between two evaluations are composed, so plans of all splitting methods
have this form; what follows the last record is dropped.  Rows come in chunks of
``CHUNK``, at least ``SPAN`` of them; rows that do nothing, at the point of the first
evaluation, fill up the first chunk.  The grid's scale s and its bytes are as in
``gradients/tape.py``, but bytes move between spans only: of SPAN rows, the last of
which may have a chunk more.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .expressions import Expression
from .moves import Damp, Drift, Kick, Plan, Record

CHUNK = 2  # rows in the body of the compiled loop: more take longer to compile
SPAN = 2 * CHUNK  # two bodies at least: torch takes a loop of one for a special case
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
    layers : list of int or None
        In place of times, the blocks that a network of layers evaluates.
    learned : list of (int, int, Tensor)
        Row, column and value of the numbers that are learned; column 7 is the nested
        kick.
    """

    table: list[list[float]]
    times: Tensor
    marks: list[int]
    inner: list[float] | None
    layers: list[int] | None = None
    learned: Sequence[tuple[int, int, Tensor]] = ()

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
        One for each move, of a record its scale; an ``Expression`` where it is learned.

    Raises
    ------
    Unpackable
        For per-coordinate weights, doubled velocities and other moves that a row does
        not have.
    """
    made: dict[Any, Any] = {}
    kinds = []
    for move in plan:
        kind, weight = type(move), move[0]
        if type(weight) is not float:
            check_number(weight)
        more = (*move[2:],) if kind is Kick else (*move[1:],)
        if any(isinstance(n, Tensor) for n in more):
            more = tuple(as_number(n, made) for n in more)
        kinds.append((kind, *more))
    fixed = not made and not any(type(w) is Expression for w in weights)
    make = packed if fixed else packed.__wrapped__
    table, marks, inner, at = make(tuple(kinds), tuple(weights))
    learned: list[Any] = []
    if not fixed:
        rows = [[*row, *([inner[n]] if inner else [])] for n, row in enumerate(table)]
        learned = [
            (n, column, w.tensor)
            for n, row in enumerate(rows)
            for column, w in enumerate(row)
            if type(w) is Expression
        ]
        table = [[float(w) for w in row] for row in table]
        inner = [float(w) for w in inner] if inner else None
    times = [cast(Kick, plan[i]).time for i in at]
    if all(isinstance(t, int) for t in times):
        none = torch.zeros(len(times), dtype=torch.float64, device="cpu")
        return Rows(table, none, marks, inner, cast(list[int], times), learned)
    if any(isinstance(t, int) for t in times):
        raise Unpackable("some of its kicks have times and others layers")
    when = torch.stack(
        [t if isinstance(t, Tensor) else torch.tensor(t, device="cpu") for t in times]
    )
    if when.ndim > 1:
        raise Unpackable("its plan has numbers per sample or per coordinate")
    return Rows(table, when.double().cpu(), marks, inner, None, learned)


def as_number(number: Any, made: dict[Any, Any]) -> Any:
    """A number of a move as a float, or as an expression if it is learned."""
    if not isinstance(number, Tensor):
        return number
    check_number(number)
    return Expression.of(number, made) if number.requires_grad else number.item()


def check_number(number: Any) -> None:
    """Raise where a row cannot hold a number."""
    if isinstance(number, Tensor) and number.numel() != 1:
        raise Unpackable("its plan has numbers per sample or per coordinate")


def check_kind(kind: type, more: Any) -> None:
    """Raise where a move is no move of a row."""
    if kind not in (Kick, Drift, Damp, Record):
        raise Unpackable(f"its plan has moves of kind {kind.__name__}")
    if kind is Kick:
        if more[2]:
            raise Unpackable("the method doubles the velocity")
        if more[3]:
            raise Unpackable("its plan has kicks by the position itself")
    if kind is Damp and more[0]:
        raise Unpackable("the method doubles the velocity")


@functools.lru_cache(64)
def packed(kinds: tuple[Any, ...], weights: tuple[float, ...]) -> Any:
    """Table, marks, nested kicks and places of the rows' kicks; made once per plan."""
    table: list[list[float]] = []
    at: list[int] = []
    marks: list[int] = []
    inner: list[Any] = []
    ahead, damp = [0.0, 1.0], 1.0  # d₀ and c₁ of the next row; what d₁ is followed by
    marked = leaving = False
    for kind, *more in set(kinds):
        check_kind(kind, more)
    for i, ((kind, *more), weight) in enumerate(zip(kinds, weights, strict=True)):
        row = table[-1] if table else None
        if kind is Kick and more[0]:
            if row and not leaving:
                row[C2] *= damp
            table.append([ahead[0], ahead[1], weight, 0.0, 1.0, 1.0, 0.0])
            ahead, damp, marked, leaving = [0.0, 1.0], 1.0, False, False
            at.append(i)
            inner.append(more[1])
        elif kind is Record:
            if row is None or marked or leaving or row[K2]:
                raise Unpackable("its plan records twice between two evaluations")
            row[R], marked = weight * damp, True
            marks.append(len(table) - 1)
        elif row is None or leaving or (kind is Drift and marked):
            if kind is Kick:
                raise Unpackable("its plan kicks twice by a force of another place")
            if row and not leaving:
                row[C2] *= damp
                damp = 1.0
            leaving = row is not None
            if kind is Drift:
                ahead[0] += weight * ahead[1]
            else:
                ahead[1] *= weight
        elif kind is Drift:
            row[D1] += weight * damp
        elif kind is Damp:
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
    depth = inner[:last] if any(nested) else None
    return filled_up(table[:last], marks, depth, at[:last])


def filled_up(
    table: list[list[float]], marks: list[int], inner: list[float] | None, at: list[int]
) -> Any:
    """Rows in whole chunks: those that do nothing come first."""
    more = max(-len(table) % CHUNK, SPAN - len(table))
    if more:
        first = [table[0][D0], *IDENTITY[1:]]
        table[0][D0] = 0.0
        table = [first, *(list(IDENTITY) for _ in range(more - 1)), *table]
    inner = [inner[0]] * more + inner if inner else None
    return table, [m + more for m in marks], inner, [at[0]] * more + at


def grid_rows(rows: Rows) -> tuple[list[list[float]], list[int]]:
    """Rows of a velocity that is kept as v/s, and the bytes to move before each span.

    Returns
    -------
    table : list of list of float
        (d₀, k₁, d₁, r, k₂) in units of the scale s at their place, s before and after
        k₁, and 1.
    bytes : list of int
        Before each span: bytes to push (> 0) or to pop (< 0).

    Raises
    ------
    Unpackable
        Where damping outruns the bytes within one span, or kicks cannot be undone.
    """
    s = 1.0
    table: list[list[float]] = []
    shifts: list[int] = []
    for n, row in enumerate(rows.table):
        if n % SPAN == 0 and n + SPAN <= len(rows.table):
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
                f"its damping within {SPAN} evaluations is too strong for the grid"
            )
        table.append(
            [
                *(row[D0] * s, row[K1] / one, row[D1] * one, row[R] * one),
                *(row[K2] / two, s, one, 1.0),
            ]
        )
        s = two
    return table, shifts
