"""Backprop in segments: keep the states between them, run each segment twice.

With √M segments of M moves the memory is O(√M) activations for one extra forward pass.
Built on torch.utils.checkpoint, which replays random numbers and autocast.  What it
does not do is done here: running statistics are updated once, and a segment that gives
another state when it runs again raises, instead of a wrong gradient.

Reference: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost",
arXiv:1604.06174 (2016), section 4.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from ..monitor import modules_of
from ..plan.moves import Plan, evaluates, walk
from .arguments import CHANGED, contents_of
from .fixed_point import mixed
from .replay import ScratchBuffers
from .survey import hidden_modules, protected

UNFAITHFUL = (
    "a checkpointed segment gave another state when it ran again, so no gradient is "
    "returned: the field is not deterministic (random numbers not drawn from torch's "
    "generators, spectral_norm in training mode, nondeterministic kernels), or weights "
    "or buffers were changed before the backward pass. "
    'gradient="backprop" evaluates nothing twice'
)


def run_checkpointed(
    plan: Plan,
    field: Callable[..., Tensor],
    x: Tensor,
    v: Tensor,
    args: Sequence[Any] = (),
    *,
    segments: int | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Run a plan in floating point, checkpointed.

    Parameters
    ----------
    plan, field, x, v, args
        As for backprop.
    segments : int, optional
        Number of segments; √(kicks) by default, the number of kicks is one per force.

    Returns
    -------
    list of (Tensor, Tensor)
        The recorded states.

    Raises
    ------
    RuntimeError
        If an argument is changed by the field; in the backward pass, if a segment gives
        another state than before.
    """
    field = protected(field)
    if not torch.is_grad_enabled():
        return walk(plan, field, x, v, args)[0]
    before = contents_of(args)
    pieces = [(piece, field, args) for piece in split(plan, segments)]
    records = in_segments(walk_piece, pieces, (x, v, None), field)
    if contents_of(args) != before:
        raise RuntimeError(CHANGED)
    return records


def walk_piece(
    work: Any, x: Tensor, v: Tensor, e: Tensor | None
) -> tuple[list[tuple[Tensor, Tensor]], Any]:
    """Run one piece of a plan."""
    piece, field, args = work
    return walk(piece, field, x, v, args, e)


def in_segments(
    run: Callable[..., tuple[list[Any], Any]],
    works: Iterable[Any],
    state: Sequence[Tensor | None],
    field: Any,
) -> list[Any]:
    """Run segments one after the other, keeping only the states between them.

    Parameters
    ----------
    run : callable
        ``run(work, *state) -> (records, state)``.
    works : iterable
        What each segment is given.
    state : sequence of Tensor or None
    field : callable
        What is evaluated, for its buffers.

    Returns
    -------
    list
        All records.
    """
    modules = modules_of(field)
    modules += hidden_modules(field, modules)
    comparison = Comparison(modules)
    records: list[Any] = []
    # Without the early stop a segment runs to its end, where it can be compared.
    with set_checkpoint_early_stop(False):
        for n, work in enumerate(works):
            again = Again(run, comparison, n)
            found, state = checkpoint(
                again, work, *state, use_reentrant=False, context_fn=comparison.contexts
            )
            records += found
            wanted = any(part is not None and part.requires_grad for part in state)
            if comparison.last is None and wanted:
                comparison.last = n
    return records


class Comparison:
    """What all segments of a run share: were they the same when they ran again?

    Attributes
    ----------
    last : int or None
        The segment that a backward pass reaches last, the first with a gradient: there
        the host looks at the outcome, once.
    differences : list of Tensor
        0-d, whether a segment came out differently.
    """

    def __init__(self, modules: list[Any]) -> None:
        self.modules = modules
        self.last: int | None = None
        self.differences: list[Tensor] = []

    def contexts(self) -> Any:
        """Contexts of the first and of the later runs of a segment."""
        return nullcontext(), ScratchBuffers(self.modules)

    def add(self, n: int, before: Tensor, now: Tensor) -> None:
        """Compare the hashes of a segment; raise at the last one if any differed."""
        self.differences.append((before != now).any())
        if n == self.last:
            differ, self.differences = torch.stack(self.differences), []
            if bool(differ.any()):
                raise RuntimeError(UNFAITHFUL)


class Again:
    """A segment that compares its end with that of its first run."""

    def __init__(self, run: Callable[..., Any], comparison: Comparison, n: int) -> None:
        self.run, self.comparison, self.n = run, comparison, n
        self.end: Tensor | None = None

    def __call__(self, work: Any, *state: Tensor | None) -> Any:
        """Run the segment."""
        found, end = self.run(work, *state)
        now = hashes([part for part in end if part is not None])
        if self.end is None:
            self.end = now
        else:
            self.comparison.add(self.n, self.end, now)
        return found, end


def hashes(state: Iterable[Tensor]) -> Tensor:
    """A hash of the bits of each part of a state; a NaN equals a NaN."""
    found = []
    with torch.no_grad():
        for part in state:
            part = torch.view_as_real(part) if part.is_complex() else part
            part = part.detach().nan_to_num(nan=torch.pi)
            kind = {8: torch.int64, 4: torch.int32, 2: torch.int16}[part.element_size()]
            found.append(mixed(part.contiguous().view(kind).to(torch.int64)).sum())
    return torch.stack(found)


def split(plan: Plan, segments: int | None) -> list[Plan]:
    """Cut a plan into pieces of about equally many forces."""
    cuts = [i for i, move in enumerate(plan) if evaluates(move)]
    count = segments or max(1, round(math.sqrt(len(cuts))))
    size = max(1, math.ceil(len(cuts) / count))
    bounds = [0, *cuts[size::size], len(plan)]
    return [plan[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
