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
the bits agree is no theorem: what is new goes its way back once before it is used, and
later on the fingerprint of the start is compared.

What cannot be compiled runs as it would without, after a ``CompileWarning``.
"""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import checks
from ...plan.moves import Plan
from ...plan.rows import Unpackable
from ..gradient import Gradient
from ..usable import check_grads, outside_compiler
from .compiling import CompileStats, CompileWarning, entry_of
from .exact import ExactSolve
from .solve import Solve

State = tuple[Tensor, Tensor]


class CompiledSolve(torch.autograd.Function):
    """The solve as one node of the caller's graph."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, x: Tensor, v: Tensor, *inputs: Tensor) -> Any:
        """Run the rows."""
        outputs, kept = solve.there(x.detach(), v.detach())
        ctx.solve, ctx.kept, ctx.like = solve, kept, torch.empty_like(x)
        solve.prove(kept, x, outputs)
        ctx.set_materialize_grads(False)
        # Autograd sees to it that what is evaluated again has not changed.
        ctx.save_for_backward(*inputs, *solve.fixed)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor | None) -> Any:
        """Pull the cotangents back."""
        if isinstance(ctx.solve, ExactSolve):
            check_grads(outputs)
        elif torch.is_grad_enabled():
            raise RuntimeError(
                "`compile=True` has first derivatives only (`create_graph=True` was "
                "asked for); leave `compile` out for higher derivatives"
            )
        _ = ctx.saved_tensors
        with torch.no_grad():
            return None, *ctx.solve.pull(ctx.kept, ctx.like, outputs)


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
    entry, solve = entry_of(field), None
    try:
        if eager.name not in ("backprop", "reversible"):
            raise Unpackable(f"`gradient` {eager.name!r} has no compiled form")
        if any(value for value in options.values()):
            raise Unpackable(f"the options {[*options]} have no compiled form")
        start = x.contiguous(), v.contiguous()
        with torch.no_grad():
            kind = ExactSolve if eager.name == "reversible" else Solve
            solve = kind(plan, field, *start, args)
        tracked = (*start, *solve.tracked)
        if torch.is_grad_enabled() and any(i.requires_grad for i in tracked):
            outputs = CompiledSolve.apply(solve, *tracked)
        else:
            with torch.no_grad():
                outputs, _ = solve.there(*(part.detach() for part in start))
    except Exception as error:  # of a missing compiler or the field's own, too
        error = getattr(error, "inner_exception", error)
        reason = str(error)
        if not isinstance(error, Unpackable):
            first = " ".join((reason.strip() or "no message").splitlines()[:2])
            reason = f"torch.compile failed with {type(error).__name__}: {first}"
    else:
        return list(zip(outputs[::2], outputs[1::2], strict=True))
    states = eager(**options).run(plan, field, x, v, args)
    if solve is not None and solve.known is not None:
        entry.refused[solve.known] = reason  # it is not compiled again to no end
    if reason not in entry.stats.fallbacks:
        entry.stats.fallbacks.append(reason)
        warnings.warn(
            f"`compile=True` runs this solve without compiling: {reason}",
            CompileWarning,
            stacklevel=checks.caller(),
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
    return replace(gradient, run_plan=run, account=compile_stats)


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
