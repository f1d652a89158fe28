"""The compiled route: a plan as rows of numbers, run by two compiled functions.

    forward     all rows, from state to state
    backward    all rows, from cotangents to cotangents

Both take the rows as data, so another number of steps, another ε or another splitting
method compiles nothing anew; another shape does, and so does whatever
``torch.compile`` guards of the field.  Parameters are inputs: what is compiled keeps
none.

``"backprop"`` keeps the positions at which forces were evaluated and evaluates them
again; ``"reversible"`` keeps the last state, as integers, and undoes the rows, in as
many calls as there are bytes of damping to move.  The two graphs are different, so that
the bits agree is no theorem: the fingerprint of the start is compared.

What cannot be compiled runs as it would without, after a ``CompileWarning``.
"""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ..plan.moves import Plan
from ..plan.rows import Unpackable
from .chunks import Holder, Inputs
from .compiling import (
    STRANGER,
    Compiled,
    CompileStats,
    CompileWarning,
    check_state,
    entry_of,
    told,
)
from .fixed_point import fingerprint, unit_of
from .gradient import Gradient
from .look import Look
from .replay import NotedBuffers, RandomStates
from .tables import bodies, grid_table_of, table_of
from .usable import UNFAITHFUL, check_grads, outside_compiler, refuse_untracked

State = tuple[Tensor, Tensor]
ROUNDED = (
    "With `compile=True` the compiler may also have rounded the field differently on "
    "the way back: leave out `compile` for this field"
)


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
        self.look = Look.of(field)
        self.entry, self.exact = entry_of(field), exact
        self.marked = self.table.marked
        if any(isinstance(a, (list, tuple, dict)) for a in args):
            raise Unpackable("its further arguments are nested")
        places = tuple(
            i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad
        )
        self.inputs = [*self.look.learned, *(args[i] for i in places)]
        self.bound = Inputs(
            [i.detach() for i in self.inputs],
            tuple(a.detach() if isinstance(a, Tensor) else a for a in args),
            self.look.names(self.entry.names, field),
            places,
            self.table.nested,
        )
        tensors = (x, v, *self.bound.learned, *self.bound.args)
        kinds = tuple(map(told, tensors))
        mode = x.device, torch.are_deterministic_algorithms_enabled()
        self.key = None if None in kinds else (self.look.layout, mode, kinds)
        self.field = field
        if not self.look.plain:
            self.probe(x, args)
        kind = self.bound.names, places, self.marked, self.bound.nested
        self.ahead, self.back = self.entry.pair(exact, *kind)
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
            refuse_untracked(value, "compiling", {id(i) for i in self.inputs})
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
                self.ahead, key, self.table.bodies, x, v, self.marked
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
            for _ in range(segment.bytes):
                u, low = grid.split(u, 8)
                stack.append(low)
            for _ in range(-segment.bytes):
                u = grid.join(u, stack.pop() if stack else None, 8)
            found, self.made = self.run(
                self.ahead, key, body, factors, x, u, self.marked
            )
            x, u, *kept = found
            states.append(kept)
        end = grid.position(x, q / fx), grid.read(u, rows.read * q / fu)
        return self.recorded(states, *end), (begin, x, u, stack)

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
        return self.run(self.back, key, rows, state, kept, seen)[0]

    def undone(self, key: Any, kept: Any, state: Any, seen: Any) -> Any:
        """The cotangents, once the rows are undone and the start is there again."""
        begin, x, u, bytes = kept
        alive = (x.isfinite() & u.isfinite()).reshape(
            1, len(x) if x.ndim > 1 else 1, -1
        )
        alive, stack = alive.all(-1), list(bytes)
        rows = self.rows
        for n in reversed(range(len(rows.segments))):
            segment = rows.segments[n]
            own = tuple(bodies(s[segment.start : segment.end]) for s in seen)
            given = rows.rows[n], self.factors[n], x, u, tuple(state), own
            (x, u, *state), _ = self.run(self.back, key, *given)
            for had in reversed(segment.moves):
                if had == "push":
                    u = rows.grid.join(u, stack.pop(), 8)
                else:
                    u, low = rows.grid.split(u, 8)
                    if had == "pop":
                        stack.append(low)
        now, was = fingerprint(x, u) * alive, begin * alive
        if bool((now != was).any().item()):
            raise RuntimeError(f"{UNFAITHFUL}. {ROUNDED}")
        return state


class CompiledSolve(torch.autograd.Function):
    """The solve as one node of the caller's graph."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, x: Tensor, v: Tensor, *inputs: Tensor) -> Any:
        """Run the rows."""
        outputs, kept = solve.forward(x.detach().contiguous(), v.detach().contiguous())
        ctx.solve, ctx.kept, ctx.like = solve, kept, torch.empty_like(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)  # autograd sees to it that they do not change
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor | None) -> Any:
        """Pull the cotangents back."""
        if ctx.solve.exact:
            check_grads(outputs)
        elif torch.is_grad_enabled():
            raise RuntimeError(
                "`compile=True` has first derivatives only (`create_graph=True` was "
                "asked for); leave `compile` out for higher derivatives"
            )
        _ = ctx.saved_tensors
        with torch.no_grad():
            return None, *ctx.solve.backward(ctx.kept, ctx.like, outputs)


@outside_compiler
def run_compiled(
    plan: Plan,
    field: Any,
    x: Tensor,
    v: Tensor,
    args: Sequence[Any] = (),
    *,
    eager: Gradient,
    **options: Any,
) -> list[State]:
    """Run a plan compiled, or by the eager route where that cannot be."""
    entry = entry_of(field)
    try:
        if eager.name not in ("backprop", "reversible"):
            raise Unpackable(f"`gradient` {eager.name!r} has no compiled form")
        if any(value for value in options.values()):
            raise Unpackable(f"the options {[*options]} have no compiled form")
        with torch.no_grad():
            solve = Solve(plan, field, x, v, args, eager.name == "reversible")
        tracked = (x, v, *solve.inputs)
        if torch.is_grad_enabled() and any(i.requires_grad for i in tracked):
            outputs = CompiledSolve.apply(solve, *tracked)
        else:
            with torch.no_grad():
                outputs, _ = solve.forward(*(s.detach().contiguous() for s in (x, v)))
    except Unpackable as error:
        reason = str(error)
    except Exception as error:  # of a compiler that is missing, or of the field's own
        error = getattr(error, "inner_exception", error)
        first = " ".join((str(error).strip() or "no message").splitlines()[:2])
        reason = (
            str(error)
            if isinstance(error, Unpackable)
            else f"torch.compile failed with {type(error).__name__}: {first}"
        )
    else:
        return list(zip(outputs[::2], outputs[1::2], strict=True))
    states = eager(**options).run(plan, field, x, v, args)
    if reason not in entry.stats.fallbacks:
        entry.stats.fallbacks.append(reason)
        warnings.warn(
            f"`compile=True` runs this solve without compiling: {reason}",
            CompileWarning,
            stacklevel=2,
        )
    return states


def compiled(gradient: Gradient) -> Gradient:
    """A route whose plans run compiled, where they can.

    Parameters
    ----------
    gradient : Gradient
        ``so.backprop`` or ``so.reversible``.

    Returns
    -------
    Gradient

    Raises
    ------
    ValueError
        For a gradient that runs no plan.

    Examples
    --------
    >>> import secondorder as so
    >>> so.compiled(so.reversible)
    reversible
    """
    if gradient.run_plan is None:
        raise ValueError(
            f"`compile` is for plans, which the gradient {gradient.name!r} does not run"
        )
    run = functools.partial(run_compiled, eager=replace(gradient, options={}))
    return replace(gradient, run_plan=run)


def compile_stats(field: Any) -> CompileStats:
    """What compiling has cost for a field so far.

    Parameters
    ----------
    field : callable

    Returns
    -------
    CompileStats

    Examples
    --------
    >>> import torch, secondorder as so
    >>> field = so.Autonomous(torch.nn.Linear(2, 2))
    >>> so.compile_stats(field).compilations
    0
    """
    return entry_of(field).stats
