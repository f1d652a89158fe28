"""Where reversal cannot run: said before, or instead of, a wrong gradient."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


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
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(
            '`gradient="reversible"` cannot be traced or exported; use '
            'gradient="backprop" for the exported model'
        )
    if forward_ad._current_level >= 0:
        duals = (forward_ad.unpack_dual(t).tangent for t in (x, *inputs))
        if any(tangent is not None for tangent in duals):
            raise RuntimeError(
                '`gradient="reversible"` has no forward-mode derivatives; use '
                'gradient="backprop" with dual numbers'
            )
    for module in modules:
        uninitialised = getattr(module, "has_uninitialized_params", None)
        if uninitialised is not None and uninitialised():
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
