"""What a field is made of: modules that it registers, and others that it refers to.

A field is a module, a method of one, a ``functools.partial`` of these, or a plain
function.  Functions hide modules in their closures, defaults and globals, and modules
in attributes; those matter for running statistics and for in-place operations.
"""

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from ..monitor import WrappedField, modules_of, owner_of
from .layers import FORWARDS

Field = Callable[..., Tensor]
HOOKS = tuple(
    f"_{k}_hooks" for k in ("forward", "forward_pre", "backward", "backward_pre")
)
REFERRING = {types.FunctionType, types.MethodType, functools.partial, list, tuple}


def hooked(module: nn.Module) -> bool:
    """Whether hooks run with a module."""
    own = vars(module)
    return any([own[name] for name in HOOKS])


def has_any_global_hook() -> bool:
    """Whether hooks are registered that run at every call of any module."""
    return any([getattr(every_module, "_global" + name) for name in HOOKS])


def hidden_modules(field: Any, known: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules that functions of a field refer to, registered nowhere."""
    todo = [
        field,
        *(v for module in known if may_refer(module) for v in referring(module)),
    ]
    seen = {id(module) for module in known}
    hidden: list[nn.Module] = []
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            hidden.append(value)
            todo += [*value._modules.values(), *referring(value)]
        elif isinstance(value, functools.partial):
            todo += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, types.MethodType):
            todo += [value.__self__, value.__func__]
        elif isinstance(value, types.FunctionType):
            todo += contents(value)
        elif type(value) in (list, tuple):
            todo += [v for v in value if isinstance(v, nn.Module) or callable(v)]
    return hidden


def may_refer(module: nn.Module) -> bool:
    """Whether the attributes of a module may refer to other modules or weights."""
    # Those of torch's own layers do not, but for the flat weights of recurrent ones.
    foreign = type(module).__module__.startswith("torch.nn.modules")
    return not foreign or isinstance(module, nn.RNNBase)


def layered(field: Field, modules: Iterable[nn.Module]) -> nn.Module | None:
    """What a field calls, if that is layers of torch, as they are, without hooks.

    Such layers run the same kernels with a graph and without one, draw no random
    numbers and know no tensors but their parameters.
    """
    owner = owner_of(field)
    if owner is None or isinstance(field, functools.partial):
        return None
    name, several = passed_on(field, owner)
    module = owner._modules.get(name)
    if module is None or has_any_global_hook():
        return None
    own = {owner, module} if several else {owner}
    if not all(m in own or type(m) in FORWARDS for m in modules):
        return None
    kinds = {type(m) for m in modules} & FORWARDS.keys()
    patched = any(kind.forward is not FORWARDS[kind] for kind in kinds)
    return None if patched or not all(map(bare, modules)) else module


def passed_on(field: Field, owner: nn.Module) -> tuple[str, bool]:
    """The attribute that a field of ours does nothing but call, or call the nth of."""
    name = "forward" if field is owner else getattr(field, "__name__", "")
    for home in type(owner).__mro__:
        if name in vars(home):  # not if a subclass has a method of its own
            child: str = vars(home).get("passes_on", {}).get(name, "")
            return child.removesuffix("[n]"), child.endswith("[n]")
    return "", False


def bare(module: nn.Module) -> bool:
    """Whether a module is what its class says: no hooks, no weights of another kind."""
    own = vars(module)
    replaced = "forward" in own or "weight" in own or "bias" in own or own["_buffers"]
    return not (replaced or hooked(module)) and own.get("_compiled_call_impl") is None


class Survey(NamedTuple):
    """What a field is made of.

    Attributes
    ----------
    modules : list of nn.Module
        Those registered.
    hidden : list of nn.Module
        Those that functions refer to.
    writes : bool
        Whether one of them may write into its input.
    layers : nn.Module or None
        What the field calls, if it is layers of torch that can run without a graph.
    """

    modules: list[nn.Module]
    hidden: list[nn.Module]
    writes: bool
    layers: nn.Module | None = None

    @property
    def plain(self) -> bool:
        """Whether it is such layers, and depends on nothing unknown."""
        return self.layers is not None

    @classmethod
    def of(cls, field: Field) -> "Survey":
        """Look through a field."""
        modules = modules_of(field)
        # torch.compile cannot follow references.
        compiling = torch.compiler.is_compiling()
        hidden = [] if compiling else hidden_modules(field, modules)
        marks = (vars(module).get("inplace") for module in (*modules, *hidden))
        writes = any(mark is True for mark in marks)
        plain = not (writes or hidden or compiling)
        layers = layered(field, modules) if plain else None
        return cls(modules, hidden, writes, layers)


class Copying(WrappedField):
    """A field that is given copies of the state, since it writes into its input."""

    def forward(self, time: Any, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        copies = (a.clone() if getattr(a, "shape", 0) == x.shape else a for a in args)
        return self.field(time, x.clone(), *copies)


def protected(field: Field) -> Field:
    """A field that cannot overwrite the state, though ``inplace=True`` is in it."""
    return Copying(field) if Survey.of(field).writes else field


def referring(module: nn.Module) -> list[Any]:
    """Attributes of a module that may refer to other modules without registering."""
    return [value for value in vars(module).values() if type(value) in REFERRING]


def contents(function: types.FunctionType) -> list[Any]:
    """What a function refers to: closure, defaults, and globals that it names."""
    cells = function.__closure__ or ()
    found = [cell.cell_contents for cell in cells if cell_filled(cell)]
    names = function.__code__.co_names
    found += [function.__globals__[n] for n in names if n in function.__globals__]
    return [*found, *(function.__defaults__ or ())]


def cell_filled(cell: types.CellType) -> bool:
    """Whether a variable of a closure has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
