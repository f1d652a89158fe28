"""Where reversal cannot run: said before, or instead of, a wrong gradient."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.lazy import LazyModuleMixin

from ..monitor import untracked_leaf

P = ParamSpec("P")
R = TypeVar("R")

UNFAITHFUL = (
    "the states could not be reconstructed: the reversed state is not the one that "
    "the forward pass started from, so no gradient is returned. Either the field gave "
    "another value when it was evaluated again (nondeterministic kernels, random "
    "numbers not drawn from torch's generators, parameters or buffers changed before "
    "the backward pass, spectral_norm in training mode), or the state left the range "
    "of the grid (2e6 times the size that it started with; give the largest size as "
    'so.reversible(scale=...)). gradient="backprop" evaluates nothing twice; '
    'gradient="checkpoint" needs no grid'
)
BEYOND = (
    "the state left the range of the grid: it grew by more than 2^25 = 3e7 times the "
    "size {size:.3g} that it started with. If it does not blow up, give its largest "
    'size as so.reversible(scale=...), or use gradient="backprop" or "checkpoint", '
    "which need no grid"
)


def outside_compiler(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.disable``, without its import (a second) where none compiles."""
    disabled: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call


def refuse_untracked(
    value: Tensor,
    loser: str,
    known: set[int],
    more: Iterable[Tensor] = (),
    since: int | None = None,
) -> None:
    """Raise if a force depends on a tensor that ``loser`` would give no gradient."""
    stranger = untracked_leaf(value, known, more, since)
    if stranger is not None:
        raise ValueError(
            f"`field` depends on a tensor of shape {tuple(stranger.shape)} that "
            "requires a gradient but is none of its parameters or arguments, so "
            f"{loser} would lose that gradient; make it a parameter of the field (an "
            "nn.Module instead of a closure), pass it as an argument, or use "
            'gradient="backprop"'
        )


def check_usable(
    x: Tensor, inputs: Iterable[Tensor], modules: Iterable[nn.Module]
) -> None:
    """Raise where the grid cannot work."""
    if x.is_complex():
        raise ValueError(
            '`gradient="reversible"` takes real states; view a complex state as real '
            "with torch.view_as_real"
        )
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            '`gradient="reversible"` cannot run inside torch.func transforms (grad, '
            'vmap, jvp); use gradient="backprop" there'
        )
    # before torch 2.7 there is no is_exporting
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    if torch.jit.is_tracing() or exporting():
        raise RuntimeError(
            '`gradient="reversible"` cannot be traced or exported; use '
            'gradient="backprop" for the exported model'
        )
    if torch.is_grad_enabled() and any(type(t).__name__ == "DTensor" for t in inputs):
        raise RuntimeError(
            '`gradient="reversible"` cannot gather the weights of blocks that are '
            "sharded one by one; call fully_shard on the whole network only, or use "
            'gradient="backprop"'
        )
    if forward_ad._current_level >= 0:
        duals = (forward_ad.unpack_dual(t).tangent for t in (x, *inputs))
        if any(tangent is not None for tangent in duals):
            raise RuntimeError(
                '`gradient="reversible"` has no forward-mode derivatives; use '
                'gradient="backprop" with dual numbers'
            )
    for module in modules:
        lazy = isinstance(module, LazyModuleMixin)
        if lazy and cast(Any, module).has_uninitialized_params():
            raise RuntimeError(
                f"{type(module).__name__} has parameters that its first call would "
                "make; call the module once, under torch.no_grad(), before it is "
                "differentiated by reversal"
            )
        scripted = isinstance(module, torch.jit.ScriptModule)
        learned = scripted and any(p.requires_grad for p in module.parameters())
        if learned and torch.is_grad_enabled():
            raise RuntimeError(
                '`gradient="reversible"` cannot reach the parameters of scripted '
                'modules; use gradient="backprop", or the module before scripting'
            )


def check_grads(outputs: Sequence[Tensor | None]) -> None:
    """Raise for derivatives that reversal does not have."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            'gradient="reversible" has first derivatives only (`create_graph=True` '
            'was asked for); use gradient="backprop" for higher derivatives'
        )
    functorch = torch._C._functorch
    batched = (functorch.is_batchedtensor, functorch.is_legacy_batchedtensor)
    if any(g is not None and kind(g) for g in outputs for kind in batched):
        raise RuntimeError(
            'gradient="reversible" takes one gradient at a time, but '
            "`is_grads_batched=True` or `vectorize=True` was asked for; leave it out, "
            'or use gradient="backprop"'
        )
