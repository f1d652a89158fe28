"""Exact gradients in constant memory: run the plan on the grid, then run it back.

Three ways to differentiate a solve.  Backprop keeps every activation.  The continuous
adjoint keeps nothing and integrates backwards in time another ODE, whose solution is
not the forward one: on ε ẍ + ẋ = f its error grows like e^{T/ε}.  Reversible
differentiation keeps nothing either, but undoes the discrete moves themselves: on the
integer grid every state comes back bit for bit, so the gradient is the one of the
forward pass that was actually run, to rounding.

Kept between the passes (``Trace``): 16 bytes per element of the state, log2(1/γ)/8
bytes per element and layer (what damping erases), and one random state per force that
draws.

Reference: Gomez et al., "The Reversible Residual Network", NeurIPS 2017, for the idea;
Sander et al., ICML 2021, section 3.2, for momentum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..checks import Number
from ..plan.moves import Mix, Plan, Shear, evaluates, untimed
from .backprop import run_plainly
from .cotangents import Cotangents
from .run import Run, Trace, version
from .shears import Shears
from .usable import check_grads, outside_compiler

Field = Callable[..., Tensor]


class Reversal(torch.autograd.Function):
    """The solve as one node of the caller's graph."""

    @staticmethod
    def forward(ctx: Any, run: Run, x: Tensor, v: Tensor, *inputs: Tensor) -> Any:
        """Run the plan; keep the trace."""
        first = len(run.weights.originals)
        arguments = inputs[first : first + len(run.arguments.tensors)]
        outputs, trace = run.forward(x, v, arguments)
        tensors, ctx.spec = tree_flatten(trace)
        ctx.run, ctx.dtypes = run, (x.dtype, v.dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor | None) -> Any:
        """Rewind the plan, collecting gradients on the way."""
        run: Run = ctx.run
        check_grads(outputs)
        check_versions(run)
        trace: Trace = tree_unflatten(list(ctx.saved_tensors), ctx.spec)
        # Gradients of weights are sums of nearly cancelling parts, to which the weights
        # rounded to float32 would add a bias: the forward pass does not round them.
        narrow = torch.promote_types(ctx.dtypes[0], torch.float32)
        dtype = run.tape.grid.wide if run.numbers else narrow
        like = torch.empty_like(trace.end.x, dtype=dtype)
        cotangents = Cotangents(like, run.tape.parts, outputs)
        found = run.gradients(trace, cotangents)
        gx, gv = cotangents.x, cotangents.velocities[0]
        return None, gx.to(ctx.dtypes[0]), gv.to(ctx.dtypes[1]), *found


def start(run: Run, x: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Run forward, recording for autograd if anything wants a gradient."""
    inputs = (x, v, *run.inputs)
    # Nothing known wants a gradient: still tracked, lest a closure does.
    if run.tracked and any(i.requires_grad for i in inputs):
        outputs = Reversal.apply(run, *inputs)
    else:
        outputs, _ = run.forward(x, v, run.arguments.tensors)
    return list(zip(outputs[::2], outputs[1::2], strict=True))


@outside_compiler
def run_reversibly(
    plan: Plan,
    field: Field,
    x: Tensor,
    v: Tensor,
    args: Sequence[Any] = (),
    *,
    scale: Number | None = None,
    keep: int = 0,
) -> list[tuple[Tensor, Tensor]]:
    """Run a plan on the grid; differentiate it by exact reversal.

    Parameters
    ----------
    plan : sequence of moves
    field : callable
        ``field(time, x, *args)``; its parameters are found if it is a module, a
        method of one, or a ``functools.partial`` of these.
    x, v : Tensor
        Position and velocity ``(..., d)``, floating point.
    args : tuple
        Tensors among them receive gradients, also those in lists, tuples and
        dictionaries.
    scale : float or Tensor, optional
        Largest magnitude of the state, also per coordinate; the grid resolves 2e-10 of
        it (1e-14 in float64).  By default it is read off the state at the start, sample
        by sample and coordinate by coordinate where they differ.
    keep : int, default 0
        Keep the graphs of the last ``keep`` forces: more memory, fewer recomputed
        forces, no bit of the numbers changed.  With all of them kept there is nothing
        to reverse: the plan runs as with ``"backprop"``, at its cost and with its
        numbers, those of floating point instead of the grid's (equal to rounding).

    Returns
    -------
    list of (Tensor, Tensor)
        The recorded states.

    Raises
    ------
    ValueError
        For a damp weight 0, a complex state, or a field that closes over a tensor that
        requires a gradient but is not one of its parameters.
    RuntimeError
        In the backward pass, if the states cannot be reconstructed (a field that is
        not deterministic, weights changed in between, a state beyond the grid), or if
        a loss depends on what was computed inside a field.
    """
    if keep and keep >= sum(evaluates(move) for move in untimed(plan)):
        return run_plainly(plan, field, x, v, args)
    return start(kind_of(plan)(plan, field, args, x, scale, keep), x, v)


def kind_of(plan: Plan) -> type[Run]:
    """The kind of run that a plan needs."""
    return Shears if any(isinstance(m, Shear | Mix) for m in untimed(plan)) else Run


def check_versions(run: Run) -> None:
    """Raise if a parameter, an argument or a weight changed since the forward pass."""
    for tensor, before in zip(run.inputs, run.versions, strict=True):
        if version(tensor) != before:
            raise RuntimeError(
                f"a tensor of shape {tuple(tensor.shape)} that the reversible solve "
                "depends on was modified in place between its forward and backward "
                "pass (an optimizer step?); call backward first"
            )
