"""A compiled solve on integers, undone on the way back.

Integers are float64 for float32 states, int64 for float64 states and where units differ
by element, as in ``fixed_point.py``.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...plan.moves import Plan
from ...plan.rows import Unpackable
from ..fixed_point import (
    FixedPoint,
    fingerprint,
    power,
    samples,
    size_at_start,
    unit_of,
    unit_of_few,
)
from ..integers import RANGE
from ..usable import UNFAITHFUL
from .solve import Solve, Unfaithful
from .tables import bodies, grid_table_of

FEW = 4096  # numbers that are kept as they are: quicker than hashes of them
ROUNDED = (
    "With `compile=True` the compiler may also have rounded the field differently on "
    "the way back: leave out `compile` for this field"
)


class ExactSolve(Solve):
    """A compiled solve on the grid."""

    kind = "grid"

    def prepare(self, plan: Plan, x: Tensor, v: Tensor) -> None:
        """The grid: its resolution, and the rows as factors of integers."""
        self.rows = grid_table_of(plan, self.table, x.dtype, x.device)
        double, reach, push = x.dtype == torch.float64, self.rows.reach, self.rows.push
        unit: Any = unit_of_few(x, v, reach, double)
        if unit is None:
            when = self.table.bodies[0, 0, 7]
            force = partial(self.field, when, x, *self.args)
            unit = unit_of(size_at_start(x, v, reach, push, force), double)
            unit = unit if unit.ndim else unit.item()
        grid: FixedPoint = self.rows.grid
        self.whole = isinstance(unit, Tensor) or grid.dtype == torch.int64
        self.grid = replace(grid, dtype=torch.int64) if self.whole else grid
        if self.whole:
            self.kind = "whole grid"
            each = torch.as_tensor(unit, dtype=torch.float64, device=x.device)
            each = each.expand(x.shape).contiguous()
            self.unit: Any = each
            self.units: tuple[Tensor, ...] = (each,)
            self.factors, self.scales = self.rows.factors(1.0)
        else:
            self.unit, self.units = unit, ()
            self.factors, self.scales = self.rows.factors(self.unit)

    def there(self, x: Tensor, v: Tensor) -> tuple[list[Tensor], Any]:
        """Run the rows; return the recorded states, and what the way back needs."""
        key = self.key if self.look.plain else None
        rows, grid, states, stack = self.rows, self.grid, [], []
        begin: Any = None
        noted: tuple[Tensor, ...] = ()
        if self.whole or rows.segments[0].bytes:
            if self.whole:
                poison = 0 * (x + v)
                noted = poison, torch.zeros_like(poison, dtype=torch.bool)
            fx, fu = 2.0**grid.fx, 2.0**grid.fu
            begin = grid.load(x, fx / self.unit), grid.load(v, fu / self.unit)
            x, u = begin
        else:
            x, u = x.double(), v.double()
        for segment, body, factors in zip(
            rows.segments, rows.rows, self.factors, strict=True
        ):
            for _ in range(segment.bytes):
                u, low = grid.split(u, 8)
                stack.append(low)
            for _ in range(-segment.bytes):
                if self.whole:
                    poison, left = noted
                    noted = poison, left | ((u * power(8)).abs() >= RANGE)
                u = grid.join(u, stack.pop() if stack else None, 8)
            own = self.rows_own(segment.start, segment.end)
            given = body, factors, own, self.units, (x, u, *noted), self.marked
            scales = self.scales[begin is not None]
            found, self.made = self.run(self.ahead, key, *given, scales)
            x, u, *more = found
            if self.whole:
                noted, more = (more[0], more[1]), more[2:]
            else:
                begin, more = begin or (more[0], more[1]), more[2:]
            end, kept = more[:2], more[2:]
            states.append(kept)
        if self.whole and bool(noted[1].any()):
            raise Unpackable("the state left the range of the grid")
        if x.numel() > FEW:
            begin = fingerprint(*begin)
        kept = begin, x, u, stack, noted[:1], end[1].detach()  # as in ``Solve.there``
        return self.recorded(states, *end), kept

    def last(self, kept: Any) -> Tensor:
        """The last velocity before it is read."""
        velocity: Tensor = kept[-1]
        return velocity / self.table.last

    def returned(self, key: Any, kept: Any, state: Any, seen: Any) -> tuple[Any, Any]:
        """The cotangents, once the rows are undone and the start is there again."""
        begin, x, u, bytes, poison, _ = kept
        end, stack = (x, u), list(bytes)
        rows, grid, count = self.rows, self.grid, 2 + len(self.bound.learned)
        parts: list[Any] = []
        learned: list[Tensor] = []
        for n in reversed(range(len(rows.segments))):
            segment = rows.segments[n]
            both = segment.start, segment.end
            marks = tuple(bodies(s[slice(*both)]) for s in seen)
            units = (*self.units, *poison)
            given = rows.rows[n], self.factors[n], self.rows_own(*both), units
            (x, u, *found), _ = self.run(self.back, key, *given, (x, u), state, marks)
            state, here, part = tuple(found[:2]), found[2:count], found[count:]
            pairs = zip(learned, here, strict=True)
            learned = [a + b for a, b in pairs] if learned else here
            parts.insert(0, part)
            for had in reversed(segment.moves):
                if had == "push":
                    u = grid.join(u, stack.pop(), 8)
                else:
                    u, low = grid.split(u, 8)
                    if had == "pop":
                        stack.append(low)
        few = isinstance(begin, tuple)
        if few and torch.equal(x, begin[0]) and torch.equal(u, begin[1]):
            return (*state, *learned), parts
        now, begin = fingerprint(x, u), fingerprint(*begin) if few else begin
        if not torch.equal(now, begin):  # a sample that has blown up may not come back
            fine = end[0].isfinite() & end[1].isfinite()
            for one in poison:
                fine = one == 0
            if bool(((now != begin) & samples(fine).all(1)).any()):
                raise Unfaithful(f"{UNFAITHFUL}. {ROUNDED}")
        return (*state, *learned), parts
