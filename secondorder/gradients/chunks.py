"""CHUNK rows of a plan, there and back: the functions that are compiled.

    float    on floats, backwards from the places at which forces were evaluated
    grid     on integers, backwards by undoing them

Rows are those of ``plan/rows.py``, followed by the time and the nested kick.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ..monitor import WrappedField
from ..plan.rows import CHUNK


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
        The further arguments, detached.
    names : tuple of str
        Of the parameters.
    places : tuple of int
        Of the arguments.
    nested : bool
        Whether the force is taken where a first evaluation pushes.
    """

    learned: list[Tensor]
    args: tuple[Any, ...]
    names: tuple[str, ...]
    places: tuple[int, ...]
    nested: bool


def evaluate(
    holder: nn.Module, inputs: Inputs, row: Tensor, x: Tensor, learned: Sequence[Tensor]
) -> Tensor:
    """The force of a row (…, time, inner) at x."""
    count = len(inputs.names)
    weights = dict(zip(inputs.names, learned[:count], strict=True))
    args = list(inputs.args)
    for place, value in zip(inputs.places, learned[count:], strict=True):
        args[place] = value
    when = row[-2]
    f = functional_call(holder, weights, (when, x, *args))
    if inputs.nested:
        nudged = x + row[-1] * f
        f = functional_call(holder, weights, (when, nudged, *args))
    return f.to(x.dtype)


def float_forward(
    holder: nn.Module, inputs: Inputs, rows: Tensor, x: Tensor, v: Tensor, marks: bool
) -> tuple[Tensor, ...]:
    """CHUNK rows: the state, the places of the forces, and the states in between."""
    places, xs, vs = [], [], []
    for n in range(CHUNK):
        d0, c1, k1, d1, r, c2, k2 = rows[n, :7].unbind()
        x = x + d0 * v
        places.append(x)
        f = evaluate(holder, inputs, rows[n], x, inputs.learned)
        v = c1 * v + k1 * f
        x = x + d1 * v
        if marks:
            xs.append(x)
            vs.append(r * v)
        v = c2 * v + k2 * f
    kept = (torch.stack(xs), torch.stack(vs)) if marks else ()
    return x, v, torch.stack(places), *kept


def pull_rows(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    gx: Tensor,
    gv: Tensor,
    seen: tuple[Tensor, ...],
    undo: Callable[[int, Any], Any],
) -> tuple[Any, ...]:
    """Cotangents back through CHUNK rows; ``undo(n, force)`` gives value and pull."""
    pushes: list[Tensor] = []
    places: list[Tensor] = []
    for n in reversed(range(CHUNK)):
        d0, c1, k1, d1, r, c2, k2 = rows[n, :7].unbind()
        force = functools.partial(
            lambda row, x: evaluate(holder, inputs, row, x, inputs.learned), rows[n]
        )
        place, pull = undo(n, force)
        push, gv = k2 * gv, c2 * gv
        if seen:
            gx, gv = gx + seen[0][n], gv + r * seen[1][n]
        gv = gv + d1 * gx
        push, gv = push + k1 * gv, c1 * gv
        gx = gx + pull(push)[0]
        gv = gv + d0 * gx
        pushes.insert(0, push)
        places.insert(0, place)
    found: tuple[Tensor, ...] = ()
    if inputs.learned:
        at = torch.stack(places)

        def forces(learned: Sequence[Tensor]) -> Any:
            each = functools.partial(evaluate, holder, inputs, learned=learned)
            return vmap(each)(rows, at)

        both: Any = vjp(forces, list(inputs.learned))
        found = tuple(both[1](torch.stack(pushes))[0])
    return gx, gv, found


def float_backward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    gx: Tensor,
    gv: Tensor,
    places: Tensor,
    seen: tuple[Tensor, ...],
) -> tuple[Any, ...]:
    """CHUNK rows back, evaluating the forces again where they were evaluated."""

    def undo(n: int, force: Any) -> Any:
        value_and_pull: Any = vjp(force, places[n])
        return places[n], value_and_pull[1]

    return pull_rows(holder, inputs, rows, gx, gv, seen, undo)


def grid_forward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    grid: Tensor,
    x: Tensor,
    u: Tensor,
    like: Tensor,
    marks: bool,
) -> tuple[Tensor, ...]:
    """CHUNK rows on integers; ``grid`` has their factors, then that of positions."""
    xs, vs = [], []
    for n in range(CHUNK):
        d0, k1, d1, r, k2, scale = grid[n].unbind()
        x = x + torch.round(u * d0)
        place = x.to(like.dtype) * scale.to(like.dtype)
        f = evaluate(holder, inputs, rows[n], place, inputs.learned).to(x.dtype)
        u = u + torch.round(f * k1)
        x = x + torch.round(u * d1)
        if marks:
            xs.append(x.to(like.dtype) * scale.to(like.dtype))
            vs.append((u * r).to(like.dtype))
        u = u + torch.round(f * k2)
    kept = (torch.stack(xs), torch.stack(vs)) if marks else ()
    return x, u, *kept


def grid_backward(
    holder: nn.Module,
    inputs: Inputs,
    rows: Tensor,
    grid: Tensor,
    x: Tensor,
    u: Tensor,
    gx: Tensor,
    gv: Tensor,
    seen: tuple[Tensor, ...],
) -> tuple[Any, ...]:
    """CHUNK rows undone, cotangents on the way."""
    state = [x, u]

    def undo(n: int, force: Any) -> Any:
        d0, k1, d1, _, k2, scale = grid[n].unbind()
        x, u = state
        x = x - torch.round(u * d1)  # k₂ or d₁ is 0
        place = x.to(gx.dtype) * scale.to(gx.dtype)
        f, pull = cast(Any, vjp(force, place))
        f = f.to(x.dtype)
        u = u - torch.round(f * k2)
        u = u - torch.round(f * k1)
        state[:] = x - torch.round(u * d0), u
        return place, pull

    gx, gv, found = pull_rows(holder, inputs, rows, gx, gv, seen, undo)
    return *state, gx, gv, found
