"""One compiled solve: what goes into the compiled functions, and what comes out."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..plan.moves import Plan
from ..plan.rows import Unpackable
from .chunks import Holder, Inputs
from .compiling import STRANGER, Compiled, check_state, entry_of, told
from .fixed_point import fingerprint, unit_of
from .look import Look
from .replay import NotedBuffers, RandomStates
from .stacking import Layers
from .tables import bodies, grid_table_of, table_of
from .usable import UNFAITHFUL, refuse_untracked

ROUNDED = (
    "With `compile=True` the compiler may also have rounded the field differently on "
    "the way back: leave out `compile` for this field"
)


class Unfaithful(RuntimeError):
    """The way back led elsewhere."""


class Solve:
    """One compiled solve: rows on the device, inputs, functions.

    Raises
    ------
    Unpackable
        If it cannot be compiled.
    """

    def __init__(
        self, plan: Plan, field: Any, x: Tensor, v: Tensor, args: Any, exact: bool
    ) -> None:
        check_state(x, v)
        self.table = table_of(plan, x.dtype, x.device)
        self.entry, self.exact = entry_of(field), exact
        layers = self.table.rows.layers
        rows = None if layers is None else Layers(field, layers)
        field = field if rows is None else rows.block
        self.look = Look.of(field)
        self.own = [] if rows is None else rows.stacked()
        self.marked = self.table.marked
        leaves, form = flat(args)
        places = tuple(
            i for i, a in enumerate(leaves) if isinstance(a, Tensor) and a.requires_grad
        )
        shared = [] if self.own else self.look.learned
        self.inputs = [*shared, *(leaves[i] for i in places)]
        self.bound = Inputs(
            [i.detach() for i in self.inputs],
            tuple(a.detach() if isinstance(a, Tensor) else a for a in leaves),
            form,
            () if self.own else self.look.names(self.entry.names, field),
            places,
            self.table.nested,
            rows.names if rows else (),
            rows.learned if rows else 0,
        )
        tensors = (x, v, *self.bound.learned, *self.bound.args, *self.own)
        kinds = tuple(map(told, tensors))
        mode = x.device, torch.are_deterministic_algorithms_enabled()
        self.key = None if None in kinds else (self.look.layout, mode, kinds, str(form))
        self.field = field
        if not self.look.plain:
            self.probe(x, args)
        kind = *self.bound[3:], self.marked
        self.ahead, self.back = self.entry.pair(exact, *kind)
        self.known = None if self.key is None else (exact, kind, self.key)
        if self.known in self.entry.refused:
            raise Unpackable(self.entry.refused[self.known])
        if exact:
            self.prepare(plan, x, v)

    def probe(self, x: Tensor, args: Sequence[Any]) -> None:
        """Evaluate the force once and see whether that leaves a trace."""
        if self.key is not None and self.key in self.entry.probed:
            return
        survey = self.look.survey
        random = RandomStates(x.device)
        noted = NotedBuffers([*survey.modules, *survey.hidden])
        versions = [b._version for *_, b, _ in noted.places]
        with torch.enable_grad():
            start = x.detach()
            value = self.field(self.table.bodies[0, 0, 7], start, *args)
        if random.drawn_from():
            random.undo()
            raise Unpackable("its field draws random numbers")
        if versions != [cast(Any, home[n])._version for home, n, *_ in noted.places]:
            noted.undo()
            raise Unpackable("its field changes its buffers (batch normalisation?)")
        try:
            known = {id(i) for i in (*self.inputs, *self.look.learned)}
            refuse_untracked(value, "compiling", known)
        except ValueError as error:
            raise Unpackable(STRANGER) from error
        self.entry.probed.add(self.key)

    def prepare(self, plan: Plan, x: Tensor, v: Tensor) -> None:
        """The grid: its resolution, and the rows as factors of integers."""
        self.rows = grid_table_of(plan, self.table, x.dtype, x.device)
        with torch.no_grad():
            size = torch.maximum(x.abs(), self.rows.reach * v.abs())
        unit = unit_of(size, False)
        if unit.ndim or not bool(size.any()):
            raise Unpackable("the grid has units per coordinate, or starts from zero")
        self.unit = unit.item()
        self.factors = self.rows.factors(self.unit)

    def run(self, function: Compiled, key: Any, *args: Any) -> Any:
        """Run a compiled function of the field."""
        return function(key, Holder(self.field), self.bound, *args)

    def forward(self, x: Tensor, v: Tensor) -> tuple[list[Tensor], Any]:
        """Run the rows; return the recorded states, and what the way back needs."""
        key = self.key if self.look.plain else None
        if not self.exact:
            found, self.made = self.run(
                self.ahead, key, self.table.bodies, self.rows_own(), x, v, self.marked
            )
            x, v, places, *kept = found
            r = self.table.last
            v = v if r == 1.0 or self.marked else r * v
            return self.recorded([kept], x, v), places
        rows, states, stack = self.rows, [], []
        grid, q = rows.grid, self.unit
        fx, fu = 2.0**grid.fx, 2.0**grid.fu
        x, u = grid.load(x, fx / q), grid.load(v, fu / q)
        begin = fingerprint(x, u)
        for segment, body, factors in zip(
            rows.segments, rows.rows, self.factors, strict=True
        ):
            own = self.rows_own(segment.start, segment.end)
            for _ in range(segment.bytes):
                u, low = grid.split(u, 8)
                stack.append(low)
            for _ in range(-segment.bytes):
                u = grid.join(u, stack.pop() if stack else None, 8)
            found, self.made = self.run(
                self.ahead, key, body, factors, own, x, u, self.marked
            )
            x, u, *kept = found
            states.append(kept)
        end = grid.position(x, q / fx), grid.read(u, rows.read * q / fu)
        return self.recorded(states, *end), (begin, x, u, stack)

    def prove(self, kept: Any, like: Tensor, outputs: Sequence[Tensor]) -> None:
        """Go the way back of what is newly compiled once, before anybody relies on it.

        Raises
        ------
        Unpackable
            If it does not lead back.
        """
        if self.made.proved:
            return
        try:
            self.backward(kept, like, [torch.zeros_like(o) for o in outputs])
        except Unfaithful as error:
            raise Unpackable(
                "the compiler rounds its field differently on the way back"
            ) from error
        self.made.proved = True

    def rows_own(self, start: int = 0, end: int | None = None) -> tuple[Tensor, ...]:
        """What rows have for themselves, as the compiled loop takes it."""
        return tuple(bodies(o.detach()[start:end]) for o in self.own)

    def recorded(self, states: Any, x: Tensor, v: Tensor) -> list[Tensor]:
        """Positions and velocities at the marks, in turns."""
        if not self.marked:
            return [x, v]
        xs, vs = (torch.cat(p).flatten(0, 1) for p in zip(*states, strict=True))
        marks = self.table.rows.marks
        return [s for n in marks for s in (xs[n].clone(), vs[n].clone())]

    def backward(self, kept: Any, like: Tensor, outputs: Any) -> tuple[Any, ...]:
        """Cotangents of the start and of the inputs."""
        gx, gv = torch.zeros_like(like), torch.zeros_like(like)
        seen: tuple[Tensor, ...] = ()
        if self.marked:
            count = len(self.table.table)
            seen = tuple(like.new_zeros(count, *like.shape) for _ in "xv")
            for n, *given in zip(
                self.table.rows.marks, outputs[::2], outputs[1::2], strict=True
            ):
                for all_rows, one in zip(seen, given, strict=True):
                    all_rows[n] = 0.0 if one is None else one
        else:
            gx = gx if outputs[0] is None else outputs[0].contiguous()
            r = self.table.last
            gv = gv if outputs[1] is None else (r * outputs[1]).contiguous()
        state = gx, gv, *map(torch.zeros_like, self.bound.learned)
        key = None if self.key is None else (self.made, self.key)
        if self.exact:
            return self.undone(key, kept, state, seen)
        torch._dynamo.mark_dynamic(kept, 0)
        rows, seen = self.table.bodies, tuple(bodies(s) for s in seen)
        own = self.rows_own()
        found, _ = self.run(self.back, key, rows, own, state, kept, seen)
        return self.with_own(found[: len(state)], [found[len(state) :]])

    def with_own(self, found: Any, parts: Any) -> Any:
        """The cotangents, and those of what rows have for themselves, in whole."""
        each = [torch.cat(part).flatten(0, 1) for part in zip(*parts, strict=True)]
        count = self.bound.layered_learned
        return *found, *each[:count], *[None] * (len(self.own) - count)

    def undone(self, key: Any, kept: Any, state: Any, seen: Any) -> Any:
        """The cotangents, once the rows are undone and the start is there again."""
        begin, x, u, bytes = kept
        alive = (x.isfinite() & u.isfinite()).reshape(
            1, len(x) if x.ndim > 1 else 1, -1
        )
        alive, stack = alive.all(-1), list(bytes)
        rows, count = self.rows, len(state)
        parts: list[Any] = []
        for n in reversed(range(len(rows.segments))):
            segment = rows.segments[n]
            both = segment.start, segment.end
            marks = tuple(bodies(s[slice(*both)]) for s in seen)
            given = rows.rows[n], self.factors[n], self.rows_own(*both)
            (x, u, *found), _ = self.run(
                self.back, key, *given, x, u, tuple(state), marks
            )
            state, part = found[:count], found[count:]
            parts.insert(0, part)
            for had in reversed(segment.moves):
                if had == "push":
                    u = rows.grid.join(u, stack.pop(), 8)
                else:
                    u, low = rows.grid.split(u, 8)
                    if had == "pop":
                        stack.append(low)
        now, was = fingerprint(x, u) * alive, begin * alive
        if bool((now != was).any().item()):
            raise Unfaithful(f"{UNFAITHFUL}. {ROUNDED}")
        return self.with_own(state, parts)


def flat(value: Any) -> tuple[list[Any], Any]:
    """The leaves of nested arguments, and their form with numbers in these places."""
    leaves: list[Any] = []

    def form(part: Any) -> Any:
        if type(part) in (tuple, list):
            return tuple(map(form, part))
        if type(part) is dict:
            return {key: form(inner) for key, inner in part.items()}
        leaves.append(part)
        return len(leaves) - 1

    return leaves, form(value)
