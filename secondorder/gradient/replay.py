"""Everything that makes a field give the same bits twice.

The backward pass evaluates every force again, so it has to meet the same weights, the
same random numbers, the same precision and the same buffers, and must leave no trace:

- parameters are replaced by private aliases in both passes; their gradients gather
  there and return through autograd once, so hooks on parameters run once;
- random states are noted before each force that draws (dropout), and restored;
- autocast is re-entered as it was;
- buffers (running statistics) are replaced by copies in the second pass.
"""

import functools
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


def modules_of(field):
    """All modules reachable from a field: a module, a bound method or a partial."""
    while isinstance(field, functools.partial):
        field = field.func
    owner = getattr(field, "__self__", field)
    return list(owner.modules()) if isinstance(owner, nn.Module) else []


class Aliases:
    """Private stand-ins for the parameters of a field.

    Parameters
    ----------
    modules : list of nn.Module

    Attributes
    ----------
    originals : list of nn.Parameter
        The parameters that require gradients, each once.
    """

    def __init__(self, modules):
        self.places = [
            (module._parameters, name, parameter)
            for module in modules
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.requires_grad
        ]
        self.originals = list({id(p): p for *_, p in self.places}.values())
        self.aliases = [nn.Parameter(p.detach()) for p in self.originals]
        self.of = dict(zip(map(id, self.originals), self.aliases, strict=True))

    @contextmanager
    def in_place(self):
        """Put the aliases where the parameters are, and the parameters back."""
        for home, name, parameter in self.places:
            home[name] = self.of[id(parameter)]
        try:
            yield
        finally:
            for home, name, parameter in self.places:
                home[name] = parameter

    def take_gradients(self):
        """The gradients gathered so far, in the order of ``originals``."""
        gradients = [alias.grad for alias in self.aliases]
        for alias in self.aliases:
            alias.grad = None
        return gradients


class ScratchBuffers:
    """A context, to be entered any number of times, in which buffers are copies."""

    def __init__(self, modules):
        self.modules, self.saved = modules, []

    def __enter__(self):
        places = [
            (module._buffers, name, buffer)
            for module in self.modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.saved.append(places)
        for home, name, buffer in places:
            home[name] = buffer.clone()

    def __exit__(self, *error):
        for home, name, buffer in self.saved.pop():
            home[name] = buffer


def autocast_state(device):
    """The precision context of a device type, to be entered again."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return None
    return kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)


def autocast_again(state):
    """A context with the precision that ``autocast_state`` saw."""
    if state is None:
        return nullcontext()
    kind, dtype, enabled = state
    return torch.autocast(kind, dtype=dtype, enabled=enabled)


class Dice:
    """The random number generators that a field on some device may draw from."""

    def __init__(self, device):
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            index = device.index
            index = torch.cuda.current_device() if index is None else index
            self.generators.append(torch.cuda.default_generators[index])

    def states(self):
        """The present states."""
        return [g.get_state() for g in self.generators]

    def restore(self, states):
        """Return to noted states."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def rolled(self, before):
        """The states now, and whether anything was drawn since ``before``."""
        now = self.states()
        # Raw bytes: torch.equal takes ten times as long on tensors this small.
        pairs = zip(before, now, strict=True)
        drew = any(a.numpy().tobytes() != b.numpy().tobytes() for a, b in pairs)
        return now, drew


@contextmanager
def unobserved():
    """Keep the caller's saved-tensor hooks away from graphs that live a moment."""
    if torch._C._autograd._top_saved_tensors_default_hooks(False) is None:
        yield
        return
    # detach: handing back the tensor itself would tie a result to its own graph node.
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, same):
        yield


def same(value):
    """Return the value."""
    return value
