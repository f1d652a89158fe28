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
from ..plan.rows import CHUNK, SPAN, Rows, Unpackable, grid_rows, pack
from .chunks import Holder, Inputs
from .compiling import CompileStats, CompileWarning, check_field, check_state, entry_of
from .fixed_point import FixedPoint, fingerprint, fixed_point_for, unit_of
from .gradient import Gradient
from .replay import NotedBuffers, RandomStates
from .survey import Survey
from .tape import changes_of_units, host_weights, position_sensitivity
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
        weights, _ = changes_of_units(plan, host_weights(plan))
        self.rows: Rows = pack(plan, weights)
        self.survey = Survey.of(field)
        check_field(self.survey)
        self.holder = Holder(field)
        self.entry, self.exact = entry_of(field), exact
        known = {n: p for n, p in self.holder.named_parameters() if p.requires_grad}
        if any(isinstance(a, (list, tuple, dict)) for a in args):
            raise Unpackable("its further arguments are nested")
        places = tuple(
            i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad
        )
        self.inputs = [*known.values(), *(args[i] for i in places)]
        plain = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        self.bound = Inputs(
            [i.detach() for i in self.inputs],
            plain,
            tuple(known),
            places,
            self.rows.inner is not None,
        )
        table = host(self.rows.table)
        inner = host(self.rows.inner or [0.0] * len(table))
        rows = torch.cat([table, self.rows.times[:, None], inner[:, None]], 1)
        self.table = rows.to(x.device, x.dtype)
        self.bytes = [0] * (len(table) // SPAN)
        self.marked = not self.rows.last_only
        self.probe(field, x, args)
        kind = self.bound.names, places, self.marked, self.bound.nested
        self.ahead, self.back = self.entry.pair(exact, *kind)
        if exact:
            self.prepare(weights, plan, x, v)

    def probe(self, field: Any, x: Tensor, args: Sequence[Any]) -> None:
        """Evaluate the force once and see whether that leaves a trace."""
        random = RandomStates(x.device)
        noted = NotedBuffers([*self.survey.modules, *self.survey.hidden])
        versions = [b._version for *_, b, _ in noted.places]
        with torch.enable_grad():
            start = x.detach()
            value = field(self.table[0, 7], start, *args)
        if random.changed_since(random.first)[1]:
            random.undo()
            raise Unpackable("its field draws random numbers")
        if versions != [cast(Any, home[n])._version for home, n, *_ in noted.places]:
            noted.undo()
            raise Unpackable("its field changes its buffers (batch normalisation?)")
        try:
            refuse_untracked(value, "compiling", {id(i) for i in self.inputs})
        except ValueError as error:
            raise Unpackable(
                "its field depends on a tensor that requires a gradient but is none of "
                "its parameters"
            ) from error

    def prepare(self, weights: Any, plan: Plan, x: Tensor, v: Tensor) -> None:
        """The grid: its resolution, and the rows as factors of integers."""
        reach, readout = position_sensitivity(plan, weights)
        self.grid: FixedPoint = fixed_point_for(reach, readout, x.dtype, x.device)
        if self.grid.dtype == torch.int64:
            raise Unpackable("the grid of float64 states has no compiled form")
        with torch.no_grad():
            size = torch.maximum(x.abs(), reach * v.abs())
        unit = unit_of(size, False)
        if unit.ndim or not bool(size.any()):
            raise Unpackable("the grid has units per coordinate, or starts from zero")
        q, fx, fu = unit.item(), 2.0**self.grid.fx, 2.0**self.grid.fu
        table, self.bytes = grid_rows(self.rows)
        factors = host([fx / fu, fu / q, fx / fu, q / fu, fu / q])
        grid = host(table) * factors
        scale = grid.new_full((len(grid), 1), q / fx)
        self.factors = torch.cat([grid, scale], 1).to(x.device)
        self.scales = q / fx, [row[3] * q / fu for row in table]
        self.load = fx / q, fu / q

    def segments(self) -> list[tuple[int, int]]:
        """The rows between two moves of bytes, from and to."""
        starts = [n for n, moved in enumerate(self.bytes) if moved or n == 0]
        ends = [*starts[1:], len(self.bytes)]
        return [(SPAN * n, SPAN * m) for n, m in zip(starts, ends, strict=True)]

    def forward(self, x: Tensor, v: Tensor) -> tuple[list[Tensor], Any]:
        """Run the rows; return the recorded states, and what the way back needs."""
        if not self.exact:
            x, v, places, *kept = self.ahead(
                self.holder, self.bound, bodies(self.table), x, v, self.marked
            )
            r = self.rows.table[-1][4]
            v = v if r == 1.0 or self.marked else r * v
            return self.recorded([kept], x, v), places
        grid, states, stack = self.grid, [], []
        px, pu = self.load
        x, u = grid.load(x, px), grid.load(v, pu)
        begin = fingerprint(x, u)
        for a, b in self.segments():
            for _ in range(self.bytes[a // SPAN]):
                u, low = grid.split(u, 8)
                stack.append(low)
            for _ in range(-self.bytes[a // SPAN]):
                u = grid.join(u, stack.pop() if stack else None, 8)
            both = bodies(self.table[a:b]), bodies(self.factors[a:b])
            x, u, *kept = self.ahead(self.holder, self.bound, *both, x, u, self.marked)
            states.append(kept)
        position, velocity = self.scales
        end = grid.position(x, position), grid.read(u, velocity[-1])
        return self.recorded(states, *end), (begin, x, u, stack)

    def recorded(self, states: Any, x: Tensor, v: Tensor) -> list[Tensor]:
        """Positions and velocities at the marks, in turns."""
        if not self.marked:
            return [x, v]
        xs, vs = (torch.cat(p).flatten(0, 1) for p in zip(*states, strict=True))
        return [s for n in self.rows.marks for s in (xs[n].clone(), vs[n].clone())]

    def backward(self, kept: Any, like: Tensor, outputs: Any) -> tuple[Any, ...]:
        """Cotangents of the start and of the inputs."""
        gx, gv = torch.zeros_like(like), torch.zeros_like(like)
        seen: tuple[Tensor, ...] = ()
        if self.marked:
            seen = tuple(like.new_zeros(len(self.table), *like.shape) for _ in "xv")
            for n, *given in zip(
                self.rows.marks, outputs[::2], outputs[1::2], strict=True
            ):
                for all_rows, one in zip(seen, given, strict=True):
                    all_rows[n] = 0.0 if one is None else one
        else:
            gx = gx if outputs[0] is None else outputs[0].contiguous()
            row = self.rows.table[-1]
            gv = gv if outputs[1] is None else (row[4] * outputs[1]).contiguous()
        state = gx, gv, *map(torch.zeros_like, self.bound.learned)
        if self.exact:
            return self.undone(kept, state, seen)
        seen = tuple(bodies(s) for s in seen)
        torch._dynamo.mark_dynamic(kept, 0)
        rows = bodies(self.table)
        return self.back(self.holder, self.bound, rows, state, kept, seen)

    def undone(self, kept: Any, state: Any, seen: Any) -> Any:
        """The cotangents, once the rows are undone and the start is there again."""
        begin, x, u, bytes = kept
        alive = (x.isfinite() & u.isfinite()).reshape(
            1, len(x) if x.ndim > 1 else 1, -1
        )
        alive, stack = alive.all(-1), list(bytes)
        depth = shift_depths(self.bytes)
        for a, b in reversed(self.segments()):
            both = bodies(self.table[a:b]), bodies(self.factors[a:b])
            own = tuple(bodies(s[a:b]) for s in seen)
            x, u, *state = self.back(
                self.holder, self.bound, *both, x, u, tuple(state), own
            )
            for had in reversed(depth[a // SPAN]):
                if had == "push":
                    u = self.grid.join(u, stack.pop(), 8)
                else:
                    u, low = self.grid.split(u, 8)
                    if had == "pop":
                        stack.append(low)
        now, was = fingerprint(x, u) * alive, begin * alive
        if bool((now != was).any().item()):
            raise RuntimeError(f"{UNFAITHFUL}. {ROUNDED}")
        return state


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


def shift_depths(bytes: Sequence[int]) -> list[list[str]]:
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
        moves = list(plan)
        with torch.no_grad():
            solve = Solve(moves, field, x, v, args, eager.name == "reversible")
        tracked = (x, v, *solve.inputs)
        if torch.is_grad_enabled() and any(i.requires_grad for i in tracked):
            outputs = CompiledSolve.apply(solve, *tracked)
        else:
            with torch.no_grad():
                outputs, _ = solve.forward(x, v)
    except Unpackable as error:
        reason = str(error)
    except Exception as error:  # of a compiler that is missing, or of the field's own
        first = " ".join((str(error).strip() or "no message").splitlines()[:2])
        reason = f"torch.compile failed with {type(error).__name__}: {first}"
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
