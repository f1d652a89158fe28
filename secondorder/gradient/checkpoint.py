"""Backprop in segments: keep the states between them, run each segment twice.

With √M segments of M moves the memory is O(√M) activations for one extra forward pass.
Built on torch.utils.checkpoint, which replays random numbers and autocast; running
statistics are protected here, so that they are updated once.

Reference: Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost",
arXiv:1604.06174 (2016), section 4.
"""

import math
from contextlib import nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from ..moves import Kick, walk
from .replay import ScratchBuffers, modules_of


def checkpoint(plan, field, x, v, args=(), *, segments=None):
    """Run a plan in floating point, checkpointed.

    Parameters
    ----------
    plan, field, x, v, args
        As in ``backprop``.
    segments : int, optional
        Number of segments; √(kicks) by default, the number of kicks is one per force.

    Returns
    -------
    list of (Tensor, Tensor)
        The recorded states.

    Raises
    ------
    ValueError
        If ``segments`` is not a positive integer.
    """
    if segments is not None and (not isinstance(segments, int) or segments < 1):
        raise ValueError(f"`segments` must be a positive integer, got {segments!r}")
    if not torch.is_grad_enabled():
        return walk(plan, field, x, v, args)[0]
    contexts = partial(two_contexts, modules_of(field))
    records, e = [], None
    for piece in split(plan, segments):
        found, (x, v, e) = torch_checkpoint(
            walk, piece, field, x, v, args, e, use_reentrant=False, context_fn=contexts
        )
        records += found
    return records


def two_contexts(modules):
    """Contexts of the first and the second run of a segment."""
    return nullcontext(), ScratchBuffers(modules)


def split(plan, segments):
    """Cut a plan into pieces of about equally many forces."""
    # A piece starts with a kick that evaluates its force.
    cuts = [i for i, m in enumerate(plan) if isinstance(m, Kick) and m.fresh]
    count = segments or max(1, round(math.sqrt(len(cuts))))
    size = max(1, math.ceil(len(cuts) / count))
    bounds = [0, *cuts[size::size], len(plan)]
    return [plan[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
