"""Layers of torch without graphs: their values, and their gradients by hand.

    linear       y = x Wᵀ + b      x̄ = ȳ W,  W̄ += ȳᵀ x,  b̄ += Σ ȳ
    activation   y = σ(x)          x̄ = σ'(x) ȳ
    norm         y = (x − μ)/s · w + b

The kernels are those that autograd would call, in the same order, so all bits are the
same.  Nothing is noted for an engine to read, which takes longer than the kernels of
small layers, and what no one needs any more is overwritten.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import Number
from ..plan.moves import Kick, checked, nudged
from .integers import Integers
from .precision import autocast_again
from .tape import Step

ATEN: Any = torch.ops.aten
Found = dict[int, Tensor]  # gradients by the ids of their parameters


def gather(found: Found, parameter: Tensor, part: Tensor) -> None:
    """Add a part to the gradient of a parameter."""
    known = found.get(id(parameter))
    if known is None:
        found[id(parameter)] = part
    else:
        known += part


class Linear:
    """``nn.Linear``."""

    keeps_output = False

    def __init__(self, module: nn.Linear) -> None:
        self.weight, self.bias = module.weight, module.bias

    def value(self, x: Tensor, own: bool) -> tuple[Tensor, Any]:
        """The output, and what ``pull`` needs."""
        return F.linear(x, self.weight, self.bias), x

    def pull(self, grad: Tensor, x: Tensor, found: Found) -> Tensor:
        """The gradient of the input, given that of the output."""
        rows = grad if grad.ndim == 2 else grad.reshape(-1, grad.shape[-1])
        if self.weight.requires_grad:
            x = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
            gather(found, self.weight, torch.mm(rows.t(), x))
        if self.bias is not None and self.bias.requires_grad:
            gather(found, self.bias, rows.sum(0))
        moved = torch.mm(rows, self.weight)
        return moved if grad.ndim == 2 else moved.view(*grad.shape[:-1], -1)


class Norm:
    """``nn.LayerNorm``."""

    keeps_output = False

    def __init__(self, module: nn.LayerNorm) -> None:
        self.shape, self.eps = module.normalized_shape, module.eps
        self.weight, self.bias = module.weight, module.bias
        learned = (p is not None and p.requires_grad for p in (self.weight, self.bias))
        self.wanted = [True, *learned]

    def value(self, x: Tensor, own: bool) -> tuple[Tensor, Any]:
        """The output, and what ``pull`` needs."""
        y, mean, scale = torch.native_layer_norm(
            x, self.shape, self.weight, self.bias, self.eps
        )
        return y, (x, mean, scale)

    def pull(self, grad: Tensor, kept: Any, found: Found) -> Tensor:
        """The gradient of the input, given that of the output."""
        x, mean, scale = kept
        moved, *parts = ATEN.native_layer_norm_backward.default(
            grad, x, self.shape, mean, scale, self.weight, self.bias, self.wanted
        )
        for parameter, part in zip((self.weight, self.bias), parts, strict=True):
            if part is not None:
                gather(found, parameter, part)
        return cast(Tensor, moved)


class ByOutput:
    """An activation whose slope its output tells: it may overwrite its input."""

    keeps_output = True

    def __init__(self, module: nn.Module) -> None:
        self.function, self.function_, self.slope = BY_OUTPUT[type(module)]

    def value(self, x: Tensor, own: bool) -> tuple[Tensor, Any]:
        """The output, and what ``pull`` needs."""
        y = self.function_(x) if own else self.function(x)
        return y, y

    def pull(self, grad: Tensor, y: Tensor, found: Found) -> Tensor:
        """The gradient of the input, in place of that of the output."""
        return cast(Tensor, self.slope(grad, y))


class ByInput:
    """An activation whose slope is known from its input."""

    keeps_output = False

    def __init__(self, module: nn.Module) -> None:
        self.function, slope, names = BY_INPUT[type(module)]
        self.settings = [getattr(module, name) for name in names]
        self.slope = slope

    def value(self, x: Tensor, own: bool) -> tuple[Tensor, Any]:
        """The output, and what ``pull`` needs."""
        return self.function(x, *self.settings), x

    def pull(self, grad: Tensor, x: Tensor, found: Found) -> Tensor:
        """The gradient of the input, in place of that of the output."""
        return cast(Tensor, self.slope(grad, x, *self.settings))


BY_OUTPUT: dict[type[nn.Module], tuple[Callable[..., Any], ...]] = {
    nn.Tanh: (
        torch.tanh,
        torch.tanh_,
        lambda g, y: ATEN.tanh_backward.grad_input(g, y, grad_input=g),
    ),
    nn.Sigmoid: (
        torch.sigmoid,
        torch.sigmoid_,
        lambda g, y: ATEN.sigmoid_backward.grad_input(g, y, grad_input=g),
    ),
    nn.ReLU: (
        torch.relu,
        torch.relu_,
        lambda g, y: ATEN.threshold_backward.grad_input(g, y, 0, grad_input=g),
    ),
}
BY_INPUT: dict[type[nn.Module], tuple[Callable[..., Any], Any, tuple[str, ...]]] = {
    nn.LeakyReLU: (
        F.leaky_relu,
        lambda g, x, slope: ATEN.leaky_relu_backward.grad_input(
            g, x, slope, False, grad_input=g
        ),
        ("negative_slope",),
    ),
    nn.ELU: (
        F.elu,
        lambda g, x, alpha: ATEN.elu_backward.grad_input(
            g, alpha, 1, 1, False, x, grad_input=g
        ),
        ("alpha",),
    ),
    nn.GELU: (
        lambda x, how: F.gelu(x, approximate=how),
        lambda g, x, how: ATEN.gelu_backward.grad_input(
            g, x, approximate=how, grad_input=g
        ),
        ("approximate",),
    ),
    nn.SiLU: (
        F.silu,
        lambda g, x: ATEN.silu_backward.grad_input(g, x, grad_input=g),
        (),
    ),
    nn.Softplus: (
        F.softplus,
        lambda g, x, beta, limit: ATEN.softplus_backward.grad_input(
            g, x, beta, limit, grad_input=g
        ),
        ("beta", "threshold"),
    ),
}
LAYERS: dict[Any, Any] = {
    nn.Linear: Linear,
    nn.LayerNorm: Norm,
    **dict.fromkeys(BY_OUTPUT, ByOutput),
    **dict.fromkeys(BY_INPUT, ByInput),
}
CONTAINERS = {nn.Sequential, nn.Identity}
# What they are made of besides weights.
SETTINGS: dict[Any, tuple[str, ...]] = {
    nn.LayerNorm: ("normalized_shape", "eps"),
    **{kind: names for kind, (_, _, names) in BY_INPUT.items()},
}
# What they were when this was read: a class that is patched is another layer.
FORWARDS: dict[Any, Any] = {kind: kind.forward for kind in (*LAYERS, *CONTAINERS)}


class Chain:
    """Layers one after another.

    Parameters
    ----------
    layers : iterable of nn.Module
        Of ``LAYERS``.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.layers = [LAYERS[type(m)](m) for m in layers]

    def value(self, x: Tensor) -> Tensor:
        """The output alone."""
        own = False  # whether x may be overwritten
        for layer in self.layers:
            x, _ = layer.value(x, own)
            own = True
        return x

    def kept_value(self, x: Tensor) -> tuple[Tensor, list[Any]]:
        """The output, and what ``pull`` needs."""
        own, kept = False, []
        for layer in self.layers:
            x, needed = layer.value(x, own)
            kept.append(needed)
            own = not layer.keeps_output
        return x, kept

    def pull(self, grad: Tensor, kept: list[Any], found: Found) -> Tensor:
        """The gradient of the input; ``grad``, that of the output, is overwritten."""
        for i in range(len(kept) - 1, -1, -1):
            grad = self.layers[i].pull(grad, kept[i], found)
        return grad


def layers_of(module: nn.Module) -> list[nn.Module]:
    """The layers of a module in the order of their evaluation."""
    if type(module) is nn.Sequential:
        children = cast(Iterable[nn.Module], module._modules.values())
        return [layer for child in children for layer in layers_of(child)]
    return [] if type(module) is nn.Identity else [module]


class Layered:
    """The forces of a field of layers: evaluated, and differentiated, by hand.

    Parameters
    ----------
    module : nn.Module
        What the field calls, or an ``nn.ModuleList`` whose module n it calls at time n.

    Attributes
    ----------
    found : dict of int to Tensor
        Gradients of the parameters so far, by their ids.
    last : sequence of int
        The moves of the forces that are kept for the way back.
    autocast : tuple or None
        The precision of the way out, as ``autocast_state`` saw it.
    """

    leaves: Any = None  # it has none

    def __init__(self, module: nn.Module) -> None:
        several = type(module) is nn.ModuleList
        self.modules = list(module._modules.values()) if several else [module]
        self.several = several
        self.chains: dict[int, Chain] = {}
        self.found: Found = {}
        self.last: Sequence[int] = ()
        self.autocast: Any = None
        self.kept: dict[int, Any] = {}

    @contextmanager
    def there(
        self, state: Integers, arguments: Sequence[Tensor], random: dict[int, Any]
    ) -> Iterator[Callable[[Kick, Step], Tensor]]:
        """Evaluate forces in this context, on the way out."""
        lasting = set(self.last)

        def evaluate(kick: Kick, step: Step) -> Tensor:
            if step.index not in lasting:
                return self.value(kick, state.position())
            graph = self.evaluate(kick, state.position())
            self.kept[step.index] = graph.value, graph.kept, graph.again
            return graph.value

        with torch.no_grad():
            yield evaluate

    @contextmanager
    def back(
        self, state: Integers, trace: Any
    ) -> Iterator[Callable[[Kick, Step], "LayeredGraph"]]:
        """Evaluate them again in this context, on the way back."""

        def evaluate(kick: Kick, step: Step) -> LayeredGraph:
            if step.origin not in trace.kept:
                return self.evaluate(kick, state.position())
            value, kept, again = trace.kept[step.origin]
            return LayeredGraph(value, kick, self.chain(kick), kept, again, self)

        with torch.no_grad(), autocast_again(self.autocast):
            yield evaluate

    def take_kept(self) -> dict[int, Any]:
        """What is kept for the way back, as data."""
        kept, self.kept = self.kept, {}
        return kept

    def chain(self, kick: Kick) -> Chain:
        """The layers that the force of a kick goes through."""
        if kick.spring:
            return Chain(())
        module = cast(nn.Module, self.modules[kick.time if self.several else 0])
        chain = self.chains.get(id(module))
        if chain is None:
            chain = self.chains[id(module)] = Chain(layers_of(module))
        return chain

    def value(self, kick: Kick, x: Tensor) -> Tensor:
        """The force alone."""
        chain = self.chain(kick)
        value = checked(chain.value(x), kick, x)
        if kick.inner is not None:
            value = checked(chain.value(nudged(kick, x, value)), kick, x)
        return value

    def evaluate(self, kick: Kick, x: Tensor) -> "LayeredGraph":
        """The force, and what its gradient needs."""
        chain = self.chain(kick)
        value, kept = chain.kept_value(x)
        again = None
        checked(value, kick, x)
        if kick.inner is not None:
            value, again = chain.kept_value(nudged(kick, x, value))
        return LayeredGraph(value, kick, chain, kept, again, self)


class LayeredGraph(NamedTuple):
    """A force of layers, and what its gradient needs."""

    value: Tensor
    kick: Kick
    chain: Chain
    kept: list[Any]
    again: list[Any] | None  # of the second evaluation of a nested kick
    home: Layered

    def pull(self, grad: Tensor) -> tuple[Tensor]:
        """The gradient of x, given that of the force, which is overwritten."""
        found = self.home.found
        if self.again is None:
            return (self.chain.pull(grad, self.kept, found),)
        outer = self.chain.pull(grad, self.again, found)
        inner = (cast(Number, self.kick.inner) * outer).to(outer.dtype)
        return (outer + self.chain.pull(inner, self.kept, found),)
