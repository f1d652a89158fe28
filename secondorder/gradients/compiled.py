"""The compiled route: a plan as rows of numbers, run by two compiled functions.

    forward     CHUNK rows at once, from state to state
    backward    CHUNK rows at once, from cotangents to cotangents

Both take the rows as data, so another number of steps, another ε or another splitting
method compiles nothing anew; another shape does, and so does whatever
``torch.compile`` guards of the field.  Parameters are inputs: what is compiled keeps
none.  The gradients of the parameters are taken for a chunk at once, under ``vmap``.

``"backprop"`` keeps the positions at which forces were evaluated and evaluates them
again; ``"reversible"`` keeps the last state, as integers, and undoes the chunks.  The
two graphs are different, so that the bits agree is no theorem: the fingerprint of the
start is compared.

What cannot be compiled runs as it would without, after a ``CompileWarning``.
"""

import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ..plan.moves import Plan
from ..plan.rows import CHUNK, Rows, Unpackable, grid_rows, pack
from .chunks import Holder, Inputs
from .compiling import CompileStats, CompileWarning, check_field, check_state, entry_of
from .fixed_point import FixedPoint, fingerprint, fixed_point_for, unit_of
from .gradient import Gradient
from .replay import NotedBuffers, RandomStates
from .survey import Survey
from .tape import changes_of_units, host_weights, position_sensitivity
from .usable import UNFAITHFUL, check_grads, refuse_untracked

State = tuple[Tensor, Tensor]


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
        table = torch.tensor(self.rows.table, dtype=torch.float64)
        inner = torch.tensor(self.rows.inner or [0.0] * len(table), dtype=torch.float64)
        rows = torch.cat([table, self.rows.times[:, None], inner[:, None]], 1)
        self.chunks = rows.to(x.device, x.dtype).split(CHUNK)
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
            value = field(self.chunks[0][0, 7], start, *args)
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
        factors = torch.tensor(
            [[fx / fu, fu / q, fx / fu, q / fu, fu / q]], dtype=torch.float64
        )
        grid = torch.tensor(table, dtype=torch.float64) * factors
        scale = torch.full((len(grid), 1), q / fx, dtype=torch.float64)
        self.factors = torch.cat([grid, scale], 1).to(x.device).split(CHUNK)
        self.scales = q / fx, [row[3] * q / fu for row in table]
        self.load = fx / q, fu / q

    def forward(self, x: Tensor, v: Tensor) -> tuple[list[Tensor], Any]:
        """Run the rows; return the recorded states, and what the way back needs."""
        states: list[tuple[Tensor, ...]] = []
        if not self.exact:
            places = []
            for rows in self.chunks:
                x, v, place, *kept = self.ahead(
                    self.holder, self.bound, rows, x, v, self.marked
                )
                places.append(place)
                states.append(tuple(kept))
            r = self.rows.table[-1][4]
            return self.recorded(states, x, v if r == 1.0 else r * v), places
        like, grid = x[:0], self.grid
        px, pu = self.load
        x, u = grid.load(x, px), grid.load(v, pu)
        begin, stack = fingerprint(x, u), []
        for rows, factors, moved in zip(
            self.chunks, self.factors, self.bytes, strict=True
        ):
            for _ in range(moved):
                u, low = grid.split(u, 8)
                stack.append(low)
            for _ in range(-moved):
                u = grid.join(u, stack.pop() if stack else None, 8)
            x, u, *kept = self.ahead(
                self.holder, self.bound, rows, factors, x, u, like, self.marked
            )
            states.append(tuple(kept))
        position, velocity = self.scales
        end = grid.position(x, position), grid.read(u, velocity[-1])
        return self.recorded(states, *end), (begin, x, u, stack)

    def recorded(self, states: Any, x: Tensor, v: Tensor) -> list[Tensor]:
        """Positions and velocities at the marks, in turns."""
        if not self.marked:
            return [x, v]
        xs, vs = (torch.cat(parts) for parts in zip(*states, strict=True))
        return [s for n in self.rows.marks for s in (xs[n].clone(), vs[n].clone())]

    def backward(self, kept: Any, like: Tensor, outputs: Any) -> tuple[Any, ...]:
        """Cotangents of the start and of the inputs."""
        gx, gv = torch.zeros_like(like), torch.zeros_like(like)
        seen: Any = [()] * len(self.chunks)
        if self.marked:
            gxs, gvs = (like.new_zeros(len(self.rows.table), *like.shape) for _ in "xv")
            for n, one, other in zip(
                self.rows.marks, outputs[::2], outputs[1::2], strict=True
            ):
                gxs[n] = 0.0 if one is None else one
                gvs[n] = 0.0 if other is None else other
            seen = list(zip(gxs.split(CHUNK), gvs.split(CHUNK), strict=True))
        else:
            gx = gx if outputs[0] is None else outputs[0].contiguous()
            row = self.rows.table[-1]
            gv = gv if outputs[1] is None else (row[4] * outputs[1]).contiguous()
        found = [torch.zeros_like(i) for i in self.bound.learned]
        back = self.unfinished(kept)
        for rows, own, more in zip(
            reversed(self.chunks), reversed(seen), back, strict=True
        ):
            gx, gv, parts = more(rows, gx, gv, own)
            if found:
                torch._foreach_add_(found, list(parts))
        return gx, gv, found

    def unfinished(self, kept: Any) -> Iterable[Any]:
        """For each chunk, from the last, how its cotangents are pulled back."""
        if not self.exact:
            for place in reversed(kept):
                yield lambda rows, gx, gv, own, place=place: self.back(
                    self.holder, self.bound, rows, gx, gv, place, own
                )
            return
        begin, x, u, stack = kept
        alive = (x.isfinite() & u.isfinite()).reshape(
            1, len(x) if x.ndim > 1 else 1, -1
        )
        alive = alive.all(-1)
        stack, state = list(stack), [x, u]
        depth = shift_depths(self.bytes)

        def chunk(factors: Tensor, rows: Any, gx: Any, gv: Any, own: Any) -> Any:
            *state[:], gx, gv, found = self.back(
                self.holder, self.bound, rows, factors, *state, gx, gv, own
            )
            return gx, gv, found

        for n in reversed(range(len(self.chunks))):
            yield functools.partial(chunk, self.factors[n])
            for had in reversed(depth[n]):
                if had == "push":
                    state[1] = self.grid.join(state[1], stack.pop(), 8)
                else:
                    state[1], low = self.grid.split(state[1], 8)
                    if had == "pop":
                        stack.append(low)
        now, was = fingerprint(*state) * alive, begin * alive
        if bool((now != was).any().item()):
            raise RuntimeError(UNFAITHFUL)


def shift_depths(bytes: Sequence[int]) -> list[list[str]]:
    """What each byte move was: a push, a pop, or zeros shifted in."""
    depth, found = 0, []
    for moved in bytes:
        chunk = ["push"] * moved
        depth += max(moved, 0)
        for _ in range(-moved):
            chunk.append("pop" if depth else "shift")
            depth = max(depth - 1, 0)
        found.append(chunk)
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
            gx, gv, found = ctx.solve.backward(ctx.kept, ctx.like, outputs)
        return None, gx, gv, *found


@torch.compiler.disable
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
