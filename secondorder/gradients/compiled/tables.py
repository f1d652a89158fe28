"""A plan as the compiled loops take it: tensors of rows, made once and kept with it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...plan.known import noted
from ...plan.moves import Kick, Plan, untimed
from ...plan.rows import CHUNK, SPAN, Rows, Unpackable, as_number, grid_rows, pack
from ..fixed_point import FixedPoint, fixed_point_for
from ..tape import changes_of_units, host_weights, position_sensitivity

INNER = 8  # the column of nested kicks, behind times


class Table:
    """The rows of a plan on a device.

    Attributes
    ----------
    rows : Rows
    bodies : Tensor
        Rows followed by time and nested kick, ``(n, CHUNK, 9)``.
    weights : list
        Of the moves, from which a grid is made.
    nested : bool
        Whether kicks are nested.
    marked : bool
        Whether states before the last one are recorded.
    learned : Tensor or None
        The rows with their graph, where a number in them is learned.
    """

    def __init__(self, plan: Plan, dtype: torch.dtype, device: torch.device) -> None:
        with torch.enable_grad():
            weights, _ = changes_of_units(plan, with_expressions(plan))
            self.rows: Rows = pack(plan, weights)
        self.weights = [float(w) for w in weights]
        self.nested = self.rows.inner is not None
        self.marked = not self.rows.last_only
        table = host(self.rows.table)
        inner = host(self.rows.inner or [0.0] * len(table))
        with torch.enable_grad():
            rows = torch.cat([table, self.rows.times[:, None], inner[:, None]], 1)
            rows = with_learned(rows, self.rows.learned).to(device, dtype)
        self.learned = rows if rows.requires_grad else None
        self.table = rows.detach()
        self.bodies = bodies(self.table)
        self.last = self.rows.table[-1][4]  # how the last velocity is read


def with_expressions(plan: Plan) -> list[Any]:
    """The weights of every move as floats, those that are learned as expressions."""
    made: dict[Any, Any] = {}
    weights = host_weights(plan)
    for n, move in enumerate(untimed(plan)):
        number = move[0]
        if isinstance(number, Tensor) and number.requires_grad:
            weights[n] = as_number(number, made)
    return weights


def with_learned(table: Tensor, learned: Sequence[Any]) -> Tensor:
    """A table with learned numbers in it; column 7 of these is that of nested kicks."""
    if not learned:
        return table
    rows, columns, values = zip(*learned, strict=True)
    each = {id(v): v for v in values}  # many places have the same number
    order = {key: n for n, key in enumerate(each)}
    numbers = torch.stack([*each.values()])[[order[id(v)] for v in values]]
    columns = tuple(INNER if c == 7 else c for c in columns)
    places = torch.tensor([rows, columns], device="cpu")
    return table.index_put(tuple(places), numbers)


class Segment(NamedTuple):
    """Rows between two moves of bytes.

    Attributes
    ----------
    start, end : int
    bytes : int
        To push (> 0) or to pop (< 0) before it.
    moves : list of str
        What each of these is, in their order.
    """

    start: int
    end: int
    bytes: int
    moves: list[str]


class GridTable:
    """The same rows as factors of integers.

    Attributes
    ----------
    grid : FixedPoint
    reach, push : float
        How far a velocity carries, and the first weight of a force.
    segments : list of Segment
    """

    def __init__(
        self, plan: Plan, table: Table, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.reach, readout = position_sensitivity(plan, table.weights)
        self.grid: FixedPoint = fixed_point_for(self.reach, readout, dtype, device)
        if self.grid.wide != torch.float64:
            raise Unpackable("its device has no float64")
        kicks = (w for m, w in zip(untimed(plan), table.weights, strict=True)
                 if isinstance(m, Kick))  # fmt: skip
        self.push = abs(next(kicks, 0.0))
        numbers, shifts = grid_rows(table.rows)
        self.numbers, self.device = host(numbers), device
        self.read = numbers[-1][3]
        starts = [n for n, moved in enumerate(shifts) if moved or n == 0]
        ends = [*(SPAN * n for n in starts[1:]), len(numbers)]
        kinds = kinds_of(shifts)
        self.segments = [
            Segment(SPAN * n, end, shifts[n], kinds[n])
            for n, end in zip(starts, ends, strict=True)
        ]
        self.rows = [bodies(table.table[s.start : s.end]) for s in self.segments]
        self.made: tuple[float, Any] = 0.0, None

    def factors(self, q: float) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Rows of each segment by the unit, and scales of its state.

        Rows are (d₀, k₁, d₁, r, k₂, the unit of velocities before and after k₁, that
        of positions); scales those of (x, v) before it, where these are floats and
        where they are integers, and after it.
        """
        if self.made[0] != q:
            fx, fu = 2.0**self.grid.fx, 2.0**self.grid.fu
            factors = [fx / fu, fu / q, fx / fu, q / fu, fu / q, q / fu, q / fu, q / fx]
            every = (self.numbers * host(factors)).to(self.device)
            each = [bodies(every[s.start : s.end]) for s in self.segments]
            end = q / fx, self.read * q / fu
            both = [host(s).to(self.device) for s in
                    ((fx / q, fu / q, *end), (1.0, 1.0, *end))]  # fmt: skip
            self.made = q, (each, (both[0], both[1]))
        return self.made[1]


def table_of(plan: Plan, dtype: torch.dtype, device: torch.device) -> Table:
    """The rows of a plan, kept with it.

    Raises
    ------
    Unpackable
        If it has no such form.
    """
    return kept(plan, ("table", dtype, device), lambda: Table(plan, dtype, device))


def grid_table_of(
    plan: Plan, table: Table, dtype: torch.dtype, device: torch.device
) -> GridTable:
    """The rows of a plan as factors of integers, kept with it."""
    key = "grid", dtype, device
    return kept(plan, key, lambda: GridTable(plan, table, dtype, device))


def kept(plan: Plan, key: Any, make: Any) -> Any:
    """Like ``noted``, also of what cannot be made."""

    def attempt() -> Any:
        try:
            return make()
        except Unpackable as error:
            return str(error)

    found = noted(plan, key, attempt)
    if isinstance(found, str):
        raise Unpackable(found)
    return found


def host(numbers: Any) -> Tensor:
    """Numbers in float64, on the host whatever the default device is."""
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def bodies(rows: Tensor) -> Tensor:
    """Rows as the compiled loop takes them, CHUNK at a time, of any number."""
    if rows.storage_offset():  # which a graph would be guarded by
        rows = rows.clone()
    several = rows.unflatten(0, (-1, CHUNK))
    torch._dynamo.mark_dynamic(several, 0)
    return several


def kinds_of(bytes: Sequence[int]) -> list[list[str]]:
    """What each byte move was: a push, a pop, or zeros shifted in."""
    depth, found = 0, []
    for moved in bytes:
        here = ["push"] * moved
        depth += max(moved, 0)
        for _ in range(-moved):
            here.append("pop" if depth else "shift")
            depth = max(depth - 1, 0)
        found.append(here)
    return found
