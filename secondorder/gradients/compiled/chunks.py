"""All rows of a plan, there and back: the functions that are compiled.

    float    on floats, backwards from the places at which forces were evaluated
    grid     on integers, backwards by undoing them

Each is one loop, torch's ``scan``, whose body takes CHUNK rows: what is compiled serves
any number of rows.  Rows are those of ``plan/rows.py``, followed by the time and the
nested kick; the grid's are those of ``tables.GridTable``.  ``own`` are the
weights that each row has for itself, where rows are layers (``layers.py``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan
from torch.func import functional_call, vjp

from ...monitor import WrappedField
from ..integers import RANGE


class Holder(WrappedField):
    """Any field as a module, whose parameters ``functional_call`` can replace."""

    def forward(self, when: Any, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        return self.field(when, x, *args)


class Inputs(NamedTuple):
    """What the force depends on besides time and place.

    Attributes
    ----------
    learned : list of Tensor
        Parameters that require gradients, then arguments that do.
    args : tuple
        The leaves of the further arguments, detached.
    form : tuple
        Of these arguments, with the numbers of the leaves.
    names : tuple of str
        Of the parameters.
    places : tuple of int
        Of the arguments.
    nested : bool
        Whether the force is taken where a first evaluation pushes.
    layered : tuple of str
        Names of the weights that each row has for itself.
    layered_learned : int
        How many of these, the first, want a gradient.
    numbers : bool
        Whether the numbers in the rows want one.
    """

    learned: list[Tensor]
    args: tuple[Any, ...]
    form: Any
    names: tuple[str, ...]
    places: tuple[int, ...]
    nested: bool
    layered: tuple[str, ...] = ()
    layered_learned: int = 0
    numbers: bool = False


def evaluate(
    holder: nn.Module,
    inputs: Inputs,
    clock: Tensor,
    x: Tensor,
    learned: Sequence[Tensor],
    own: Sequence[Tensor],
) -> Tensor:
    """The force at x, by the time of a row and its nested kick."""
    count = len(inputs.names)
    weights = dict(zip(inputs.names, learned[:count], strict=True))
    weights.update(zip(inputs.layered, own, strict=True))
    leaves = list(inputs.args)
    for place, value in zip(inputs.places, learned[count:], strict=True):
        leaves[place] = value
    args = formed(inputs.form, leaves)
    when, inner = clock.unbind()
    f = functional_call(holder, weights, (when, x, *args))
    if inputs.nested:
        nudged = x + inner * f
        f = functional_call(holder, weights, (when, nudged, *args))
    return f.to(x.dtype)


def formed(form: Any, leaves: Sequence[Any]) -> Any:
    """Nested arguments from their leaves."""
    if isinstance(form, int):
        return leaves[form]
    if isinstance(form, dict):
        return {key: formed(part, leaves) for key, part in form.items()}
    return tuple([formed(part, leaves) for part in form])


def float_forward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    own: tuple[Tensor, ...],
    x: Tensor,
    v: Tensor,
    marks: bool,
) -> tuple[Tensor, ...]:
    """The last state, the places of the forces, and the states in between.

    Where numbers are learned, the velocities before the forces follow the places.
    """

    def chunk(state: Any, given: Any) -> Any:
        x, v = state
        rows, *own = given
        kept: tuple[list[Tensor], ...] = [], [], [], []
        places, felt, xs, vs = kept
        for n, row in enumerate(rows.unbind()):
            d0, c1, k1, d1, r, c2, k2 = row[:7].unbind()
            x = x + d0 * v
            places.append(x)
            felt.append(v)
            mine = [o[n] for o in own]
            f = evaluate(holder, inputs, row[7:], x, inputs.learned, mine)
            v = c1 * v + k1 * f
            x = x + d1 * v
            xs.append(x)
            vs.append(r * v)
            v = c2 * v + k2 * f
        wanted = (True, inputs.numbers, marks, marks)
        pairs = zip(kept, wanted, strict=True)
        return (x, v), tuple(torch.stack(k) for k, wants in pairs if wants)

    state, kept = scan(chunk, (x, v), (rows, *own))
    return *state, *kept


def float_backward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    own: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    kept: tuple[Tensor, ...],
    seen: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Cotangents back, the forces evaluated again where they were evaluated."""
    count, ends = len(own), len(own) + len(kept)

    def chunk(state: Any, given: Any) -> Any:
        rows, *more = given
        own, kept, seen = more[:count], more[count:ends], more[ends:]
        parts = []
        for n in reversed(range(len(rows))):
            mine = [o[n] for o in own]
            f, pull = value_and_pull(holder, inputs, rows[n], kept[0][n], mine)
            felt = None
            if inputs.numbers:
                v = kept[1][n]
                felt = f, v, rows[n, 1] * v + rows[n, 2] * f
            state, part = pull_row(rows[n], pull, state, [s[n] for s in seen], felt)
            parts.append(part)
        return state, row_parts(parts, rows)

    given = rows, *own, *kept, *seen
    found, parts = scan(chunk, from_zero(state, inputs), given, reverse=True)
    return *found, *parts


def from_zero(state: tuple[Tensor, ...], inputs: Inputs) -> tuple[Tensor, ...]:
    """Cotangents of a state, followed by those of what is learned, still 0."""
    return *state, *map(torch.zeros_like, inputs.learned)


def row_parts(parts: Sequence[Sequence[Tensor]], rows: Tensor) -> tuple[Tensor, ...]:
    """What the rows of a chunk, last first, return for themselves; never nothing."""
    each = zip(*reversed(parts), strict=True)
    return tuple(map(torch.stack, each)) or (rows[0, :1].clone(),)


def value_and_pull(
    holder: nn.Module, inputs: Inputs, row: Tensor, x: Tensor, own: Sequence[Tensor]
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The force at x, and its pull-back to x and to what is learned."""
    count = inputs.layered_learned

    def force(
        x: Tensor, learned: Sequence[Tensor], mine: Sequence[Tensor], *clock: Tensor
    ) -> Tensor:
        when = clock[0] if clock else row[7:]
        return evaluate(holder, inputs, when, x, learned, [*mine, *own[count:]])

    clock = [row[7:]] if inputs.numbers else []
    return cast(Any, vjp(force, x, list(inputs.learned), list(own[:count]), *clock))


def pull_row(
    row: Tensor,
    pull: Callable[[Tensor], Any],
    state: tuple[Tensor, ...],
    seen: Sequence[Tensor],
    felt: tuple[Tensor, ...] | None,
) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
    """Cotangents back through one row: those that go on, and those of its own.

    ``felt`` are the force and the velocities before and after its first kick, where
    numbers are learned.
    """
    d0, c1, k1, d1, r, c2, k2 = row[:7].unbind()
    gx, gv, *found = state
    last, (one, two) = gv, seen or (torch.zeros_like(gx), torch.zeros_like(gv))
    push, gv = k2 * gv, c2 * gv
    if seen:
        gx, gv = gx + one, gv + r * two
    after = gx
    gv = gv + d1 * gx
    both = gv
    push, gv = push + k1 * gv, c1 * gv
    moved, parts, mine, *clock = pull(push)
    gx = gx + moved
    found = [a + b for a, b in zip(found, parts, strict=True)]
    if felt is not None:
        f, v0, v1 = felt
        pairs = (gx, v0), (both, v0), (both, f), (after, v1), (two, v1), (last, v1), (last, f)  # fmt: skip  # noqa: E501
        numbers = torch.stack([(a * b).sum() for a, b in pairs])
        mine = [*mine, torch.cat([numbers, *clock])]
    return (gx, gv + d0 * gx, *found), mine


def added(
    number: Tensor, value: Tensor, factor: Any, left: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """An integer and ``round(value · factor)``, and where int64 was ever left."""
    change = torch.round(value.to(torch.float64) * factor)
    if number.dtype == torch.float64:
        return number + change, left
    # As in ``integers.py``: a force that is not finite adds nothing, which is noted.
    change = torch.nan_to_num(change, 0.0, 0.0, 0.0)
    number = number + change.to(torch.int64)
    if left is not None:
        left = left | (number.abs() >= RANGE) | (change.abs() >= RANGE)
    return number, left


def position(x: Tensor, scale: Tensor, unit: Sequence[Tensor], like: Tensor) -> Tensor:
    """A position from its integer; the factor is a power of two."""
    for one in unit:
        scale = scale * one
    return x.to(like.dtype) * scale.to(like.dtype)


def velocity(u: Tensor, scale: Tensor, unit: Sequence[Tensor], like: Tensor) -> Tensor:
    """A velocity from its integer."""
    for one in unit:
        scale = scale * one
    return (u.to(torch.float64) * scale).to(like.dtype)


def grid_forward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    grid: Tensor,
    own: tuple[Tensor, ...],
    unit: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    marks: bool,
    scales: Tensor,
) -> tuple[Tensor, ...]:
    """The last state on integers, the first one, and states as floats.

    ``unit`` is that of each element in int64, whose state is followed by where forces
    were not finite and where the range was left; float64 has one unit, in ``grid``, and
    is rounded here: ``scales`` are those of the state before, and those of positions
    and velocities when they are read.  Floats are the last state and those in between.
    """
    whole, to = bool(unit), scales.unbind()
    if not whole:
        state = torch.round(state[0] * to[0]), torch.round(state[1] * to[1])
    begin = () if whole else state

    def chunk(state: Any, given: Any) -> Any:
        x, u, *noted = state
        poison: Any = noted[0] if whole else None
        left: Any = noted[1] if whole else None
        rows, grid, *own = given
        xs, vs = [], []
        for n in range(len(rows)):
            d0, k1, d1, r, k2, _, _, scale = grid[n].unbind()
            x, left = added(x, u, d0, left)
            place = position(x, scale, unit, rows)
            place = place + poison if whole else place
            mine = [o[n] for o in own]
            f = evaluate(holder, inputs, rows[n, 7:], place, inputs.learned, mine)
            if whole:
                poison = poison + 0.0 * f  # 0 · f the compiler takes for 0
                k1, k2 = k1 / unit[0], k2 / unit[0]
            u, left = added(u, f, k1, left)
            x, left = added(x, u, d1, left)
            if marks:
                xs.append(position(x, scale, unit, rows))
                vs.append(velocity(u, r, unit, rows))
                if whole:
                    xs[-1], vs[-1] = xs[-1] + poison, vs[-1] + poison
            u, left = added(u, f, k2, left)
        kept = (torch.stack(xs), torch.stack(vs)) if marks else (rows[0, :1].clone(),)
        return (x, u, *((poison, left) if whole else ())), kept

    last, kept = scan(chunk, state, (rows, grid, *own))
    x, u, *noted = last
    end = position(x, to[2], unit, rows), velocity(u, to[3], unit, rows)
    if whole:
        end = end[0] + noted[0], end[1] + noted[0]
    return *last, *begin, *end, *(kept if marks else ())


def grid_backward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    grid: Tensor,
    own: tuple[Tensor, ...],
    unit: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    cotangents: tuple[Tensor, ...],
    seen: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """The state undone, and cotangents on the way; ``unit`` with the poison."""
    count, whole = len(own), bool(unit)
    units, poisons = unit[:1], unit[1:]

    def chunk(state: Any, given: Any) -> Any:
        x, u, *cotangents = state
        rows, grid, *more = given
        own, seen, parts = more[:count], more[count:], []
        for n in reversed(range(len(rows))):
            d0, k1, d1, _, k2, before, after, scale = grid[n].unbind()
            x, _ = added(x, u, -d1)  # k₂ or d₁ is 0
            place = position(x, scale, units, rows)
            for poison in poisons:
                place = place + poison
            mine = [o[n] for o in own]
            f, pull = value_and_pull(holder, inputs, rows[n], place, mine)
            if whole:
                k1, k2 = k1 / unit[0], k2 / unit[0]
            u, _ = added(u, f, -k2)
            one = u
            u, _ = added(u, f, -k1)
            felt = None
            if inputs.numbers:
                v0 = velocity(u, before, units, rows)
                felt = f, v0, velocity(one, after, units, rows)
            x, _ = added(x, u, -d0)
            marks = [s[n] for s in seen]
            cotangents, part = pull_row(rows[n], pull, cotangents, marks, felt)
            parts.append(part)
        return (x, u, *cotangents), row_parts(parts, rows)

    given = rows, grid, *own, *seen
    start = *state, *from_zero(cotangents, inputs)
    found, parts = scan(chunk, start, given, reverse=True)
    return *found, *parts
