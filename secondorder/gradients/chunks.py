"""All rows of a plan, there and back: the functions that are compiled.

    float    on floats, backwards from the places at which forces were evaluated
    grid     on integers, backwards by undoing them

Each is one loop, torch's ``scan``, whose body takes CHUNK rows: what is compiled serves
any number of rows.  Rows are those of ``plan/rows.py``, followed by the time and the
nested kick; the grid's are followed by the factor of positions.  ``own`` are the
weights that each row has for itself, where rows are layers (``layers.py``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan
from torch.func import functional_call, vjp

from ..monitor import WrappedField


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
    """

    learned: list[Tensor]
    args: tuple[Any, ...]
    form: Any
    names: tuple[str, ...]
    places: tuple[int, ...]
    nested: bool
    layered: tuple[str, ...] = ()
    layered_learned: int = 0


def evaluate(
    holder: nn.Module,
    inputs: Inputs,
    row: Tensor,
    x: Tensor,
    learned: Sequence[Tensor],
    own: Sequence[Tensor],
) -> Tensor:
    """The force of a row (…, time, inner) at x."""
    count = len(inputs.names)
    weights = dict(zip(inputs.names, learned[:count], strict=True))
    weights.update(zip(inputs.layered, own, strict=True))
    leaves = list(inputs.args)
    for place, value in zip(inputs.places, learned[count:], strict=True):
        leaves[place] = value
    args = formed(inputs.form, leaves)
    when = row[-2]
    f = functional_call(holder, weights, (when, x, *args))
    if inputs.nested:
        nudged = x + row[-1] * f
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
    """The last state, the places of the forces, and the states in between."""

    def chunk(state: Any, given: Any) -> Any:
        x, v = state
        rows, *own = given
        places, xs, vs = [], [], []
        for n, row in enumerate(rows.unbind()):
            d0, c1, k1, d1, r, c2, k2 = row[:7].unbind()
            x = x + d0 * v
            places.append(x)
            f = evaluate(holder, inputs, row, x, inputs.learned, [o[n] for o in own])
            v = c1 * v + k1 * f
            x = x + d1 * v
            if marks:
                xs.append(x)
                vs.append(r * v)
            v = c2 * v + k2 * f
        kept = (places, xs, vs) if marks else (places,)
        return (x, v), tuple(torch.stack(k) for k in kept)

    state, kept = scan(chunk, (x, v), (rows, *own))
    return *state, *kept


def float_backward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    own: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    places: Tensor,
    seen: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Cotangents back, the forces evaluated again where they were evaluated."""
    count = len(own)

    def chunk(state: Any, given: Any) -> Any:
        rows, places, *more = given
        own, seen, parts = more[:count], more[count:], []
        for n in reversed(range(len(rows))):
            _, pull = value_and_pull(
                holder, inputs, rows[n], places[n], [o[n] for o in own]
            )
            state, part = pull_row(rows[n], pull, state, [s[n] for s in seen])
            parts.append(part)
        return state, row_parts(parts, rows)

    state, parts = scan(chunk, state, (rows, places, *own, *seen), reverse=True)
    return *state, *parts


def row_parts(parts: Sequence[Sequence[Tensor]], rows: Tensor) -> tuple[Tensor, ...]:
    """What the rows of a chunk, last first, return for themselves; never nothing."""
    each = zip(*reversed(parts), strict=True)
    return tuple(map(torch.stack, each)) or (rows[0, :1].clone(),)


def value_and_pull(
    holder: nn.Module, inputs: Inputs, row: Tensor, x: Tensor, own: Sequence[Tensor]
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The force at x, and its pull-back to x and to what is learned."""
    count = inputs.layered_learned

    def force(x: Tensor, learned: Sequence[Tensor], mine: Sequence[Tensor]) -> Tensor:
        return evaluate(holder, inputs, row, x, learned, [*mine, *own[count:]])

    return cast(Any, vjp(force, x, list(inputs.learned), list(own[:count])))


def pull_row(
    row: Tensor,
    pull: Callable[[Tensor], Any],
    state: tuple[Tensor, ...],
    seen: Sequence[Tensor],
) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
    """Cotangents of x, of v and of what is learned, back through one row; its own."""
    d0, c1, k1, d1, r, c2, k2 = row[:7].unbind()
    gx, gv, *found = state
    push, gv = k2 * gv, c2 * gv
    if seen:
        gx, gv = gx + seen[0], gv + r * seen[1]
    gv = gv + d1 * gx
    push, gv = push + k1 * gv, c1 * gv
    moved, parts, mine = pull(push)
    gx = gx + moved
    found = [a + b for a, b in zip(found, parts, strict=True)]
    return (gx, gv + d0 * gx, *found), mine


def grid_forward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    grid: Tensor,
    own: tuple[Tensor, ...],
    x: Tensor,
    u: Tensor,
    marks: bool,
) -> tuple[Tensor, ...]:
    """The last state on integers, and the states in between as floats."""

    def chunk(state: Any, given: Any) -> Any:
        x, u = state
        rows, grid, *own = given
        xs, vs = [], []
        for n in range(len(rows)):
            d0, k1, d1, r, k2, scale = grid[n].unbind()
            x = x + torch.round(u * d0)
            place = x.to(rows.dtype) * scale.to(rows.dtype)
            mine = [o[n] for o in own]
            f = evaluate(holder, inputs, rows[n], place, inputs.learned, mine)
            f = f.to(x.dtype)
            u = u + torch.round(f * k1)
            x = x + torch.round(u * d1)
            if marks:
                xs.append(x.to(rows.dtype) * scale.to(rows.dtype))
                vs.append((u * r).to(rows.dtype))
            u = u + torch.round(f * k2)
        kept = (torch.stack(xs), torch.stack(vs)) if marks else (rows[0, :1].clone(),)
        return (x, u), kept

    state, kept = scan(chunk, (x, u), (rows, grid, *own))
    return *state, *(kept if marks else ())


def grid_backward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    grid: Tensor,
    own: tuple[Tensor, ...],
    x: Tensor,
    u: Tensor,
    state: tuple[Tensor, ...],
    seen: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """The state undone, and cotangents on the way."""
    count = len(own)

    def chunk(state: Any, given: Any) -> Any:
        x, u, *cotangents = state
        rows, grid, *more = given
        own, seen, parts = more[:count], more[count:], []
        for n in reversed(range(len(rows))):
            d0, k1, d1, _, k2, scale = grid[n].unbind()
            x = x - torch.round(u * d1)  # k₂ or d₁ is 0
            place = x.to(rows.dtype) * scale.to(rows.dtype)
            mine = [o[n] for o in own]
            f, pull = value_and_pull(holder, inputs, rows[n], place, mine)
            f = f.to(x.dtype)
            u = u - torch.round(f * k2)
            u = u - torch.round(f * k1)
            x = x - torch.round(u * d0)
            cotangents, part = pull_row(rows[n], pull, cotangents, [s[n] for s in seen])
            parts.append(part)
        return (x, u, *cotangents), row_parts(parts, rows)

    given = rows, grid, *own, *seen
    state, parts = scan(chunk, (x, u, *state), given, reverse=True)
    return *state, *parts
