"""One compiled solve: what goes into the compiled functions, and what comes out."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...plan.moves import Plan
from ...plan.rows import Unpackable
from ..replay import NotedBuffers, RandomStates
from ..usable import refuse_untracked
from .chunks import Inputs
from .compiling import STRANGER, Compiled, check_state, entry_of, told
from .look import Look
from .stacking import Layers
from .tables import bodies, table_of


class Unfaithful(RuntimeError):
    """The way back led elsewhere."""


class Solve:
    """A compiled solve on floats: what it takes, runs and gives back.

    Raises
    ------
    Unpackable
        If it cannot be compiled.
    """

    kind = "float"  # of the functions that run it

    def __init__(self, plan: Plan, field: Any, x: Tensor, v: Tensor, args: Any) -> None:
        check_state(x, v)
        self.table = table_of(plan, x.dtype, x.device)
        self.entry = entry_of(field)
        layers = self.table.rows.layers
        rows = None if layers is None else Layers(field, layers)
        self.field = field = field if rows is None else rows.block
        self.look = Look.of(field)
        self.own = [] if rows is None else rows.stacked()
        self.marked = self.table.marked
        leaves, form = flat(args)
        own = apart(leaves)
        places = tuple(
            i for i, a in enumerate(leaves) if isinstance(a, Tensor) and a.requires_grad
        )
        shared = [] if self.own else self.look.learned
        self.inputs = [*shared, *(leaves[i] for i in places)]
        learned = self.table.learned
        self.tracked = [
            *self.inputs,
            *self.own,
            *([] if learned is None else [learned]),
        ]
        self.bound = Inputs(
            [*(p.detach() for p in shared), *(own[i] for i in places)],
            tuple(own),
            form,
            () if self.own else self.look.names(self.entry.names, field),
            places,
            self.table.nested,
            rows.names if rows else (),
            rows.learned if rows else 0,
            learned is not None,
        )
        fixed = (a for a in leaves if isinstance(a, Tensor) and not a.requires_grad)
        self.fixed = [*fixed, *([] if self.own else self.look.fixed)]
        tensors = (x, v, *self.bound.learned, *self.bound.args, *self.own)
        kinds = tuple(map(told, tensors))
        mode = x.device, torch.are_deterministic_algorithms_enabled()
        self.key = None if None in kinds else (self.look.layout, mode, kinds, str(form))
        self.args = args
        known = self.key is not None and self.key in self.entry.probed
        self.asked = self.look.plain or not known
        if not self.look.plain and not known:
            self.probe(x)
        self.prepare(plan, x, v)
        kind = self.kind, *self.bound[3:], self.marked
        self.ahead, self.back = self.entry.pair(*kind)
        self.known = None if self.key is None else (kind, self.key)
        if self.known in self.entry.refused:
            raise Unpackable(self.entry.refused[self.known])

    def probe(self, x: Tensor) -> None:
        """Evaluate the force once and see whether that leaves a trace."""
        survey = self.look.survey
        random = RandomStates(x.device)
        noted = NotedBuffers([*survey.modules, *survey.hidden])
        versions = [b._version for *_, b, _ in noted.places]
        with torch.enable_grad():
            start = x.detach()
            value = self.field(self.table.bodies[0, 0, 7], start, *self.args)
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
        """What else the functions need."""

    def run(self, function: Compiled, key: Any, *args: Any) -> Any:
        """Run a compiled function of the field."""
        return function(key, self.field, self.bound, *args)

    def rows_own(self, start: int = 0, end: int | None = None) -> tuple[Tensor, ...]:
        """What rows have for themselves, as the compiled loop takes it."""
        return tuple(bodies(o.detach()[start:end]) for o in self.own)

    def there(self, x: Tensor, v: Tensor) -> tuple[list[Tensor], Any]:
        """Run the rows; return the recorded states, and what the way back needs."""
        key = self.key if self.look.plain else None
        found, self.made = self.run(
            self.ahead, key, self.table.bodies, self.rows_own(), x, v, self.marked
        )
        x, v, *rest = found
        count = 1 + self.bound.numbers
        r = self.table.last
        read = v if r == 1.0 or self.marked else r * v
        # Aliases: an output has this solve as its origin, and would keep itself.
        kept = rest[:count], v.detach()
        return self.recorded([rest[count:]], x, read), kept

    def recorded(self, states: Any, x: Tensor, v: Tensor) -> list[Tensor]:
        """Positions and velocities at the marks, in turns."""
        if not self.marked:
            return [x, v]
        xs, vs = (torch.cat(p).flatten(0, 1) for p in zip(*states, strict=True))
        marks = self.table.rows.marks
        return [s for n in marks for s in (xs[n].clone(), vs[n].clone())]

    def prove(self, kept: Any, x: Tensor, outputs: Sequence[Tensor]) -> None:
        """Go the way back of what is newly compiled once, before anybody relies on it.

        Raises
        ------
        Unpackable
            If it does not lead back.
        """
        if self.made.proved:
            return
        if not self.asked:  # attributes may have changed, which a key does not tell
            self.probe(x)
        try:
            self.pull(kept, torch.empty_like(x), [torch.zeros_like(o) for o in outputs])
        except Unfaithful as error:
            raise Unpackable(
                "the compiler rounds its field differently on the way back"
            ) from error
        self.made.proved = True

    def pull(self, kept: Any, like: Tensor, outputs: Any) -> tuple[Any, ...]:
        """Cotangents of the start and of what is tracked."""
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
        key = None if self.key is None else (self.made, self.key)
        found, parts = self.returned(key, kept, (gx, gv), seen)
        each = [torch.cat(part).flatten(0, 1) for part in zip(*parts, strict=True)]
        count = self.bound.layered_learned
        rest: list[Any] = [*each[:count], *[None] * (len(self.own) - count)]
        if self.bound.numbers:
            if not self.marked and outputs[1] is not None:
                each[-1][-1, 4] += (outputs[1] * self.last(kept)).sum()
            rest.append(each[-1])
        return *found, *rest

    def last(self, kept: Any) -> Tensor:
        """The last velocity before it is read."""
        return cast(Tensor, kept[1])

    def returned(self, key: Any, kept: Any, state: Any, seen: Any) -> tuple[Any, Any]:
        """The cotangents at the start, and those of the rows' own by segments."""
        places = tuple(kept[0])
        for all_rows in places:
            torch._dynamo.mark_dynamic(all_rows, 0)
        marks = tuple(bodies(s) for s in seen)
        rows, own = self.table.bodies, self.rows_own()
        found, _ = self.run(self.back, key, rows, own, state, places, marks)
        count = 2 + len(self.bound.learned)
        return found[:count], [found[count:]]


def apart(leaves: Sequence[Any]) -> list[Any]:
    """Arguments without graphs, no two of them in one storage."""
    found: list[Any] = []
    storages: set[int] = set()
    for value in leaves:
        if isinstance(value, Tensor):
            value, at = value.detach(), value.untyped_storage().data_ptr()
            value = value.clone() if at in storages else value
            storages.add(at)
        found.append(value)
    return found


def flat(value: Any) -> tuple[list[Any], Any]:
    """The leaves of nested arguments, and their form with numbers in these places."""
    leaves: list[Any] = []
    return leaves, form_of(value, leaves)


def form_of(part: Any, leaves: list[Any]) -> Any:
    """The form of a part, whose leaves are appended."""
    if type(part) in (tuple, list):
        return tuple([form_of(inner, leaves) for inner in part])
    if type(part) is dict:
        return {key: form_of(inner, leaves) for key, inner in part.items()}
    leaves.append(part)
    return len(leaves) - 1
