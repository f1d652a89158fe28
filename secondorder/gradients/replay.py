"""Everything that makes a field give the same bits twice, and leaves no trace.

The backward pass evaluates every force again, so it has to meet the same weights, the
same random numbers, the same precision and the same buffers:

- it works on a *replica* of the field's modules, which shares everything with them but
  the tables of parameters and buffers: the parameters are private aliases, whose
  gradients gather there and return through autograd once (so hooks on parameters run
  once), the buffers are copies.  The caller's modules are never touched, so another
  thread, ``torch.func.functional_call`` and ``load_state_dict(assign=True)`` are safe;
- modules that cannot be replicated (compiled, scripted, or with a ``forward`` of their
  own) get the aliases for as long as a pass runs, one pass at a time;
- random states are noted before each force that draws (dropout), and restored;
- autocast is re-entered as it was.
"""

import functools
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..monitor import modules_of
from .layers import Layered
from .survey import Copying, Field, Survey, may_refer

TABLES = {"_parameters", "_buffers", "_modules"}
SWAPPING = threading.RLock()  # held while modules that cannot be replicated are changed


def opaque(module: nn.Module) -> bool:
    """Whether a shallow copy of a module would still run the original."""
    own = vars(module).get("forward")
    if own is not None and getattr(own, "__self__", None) is not module:
        return True
    return vars(module).get("_compiled_call_impl") is not None


class Weights:
    """The parameters of a field as they were in the forward pass, and aliases of them.

    Parameters
    ----------
    field : callable

    Attributes
    ----------
    originals : list of Tensor
        The parameters that require gradients, each once.
    inner : list of Tensor
        Those that are computed from others (``torch.func.functional_call``).
    layered : Layered or None
        The forces by hand, where nothing but known layers of plain parameters is
        evaluated: there is nothing to watch.
    """

    def __init__(self, field: Field) -> None:
        survey = Survey.of(field)
        self.field = Copying(field) if survey.writes else field
        self.modules = modules_of(self.field) if survey.writes else survey.modules
        self.hidden = [module for module in survey.hidden if module._buffers]
        rigid = [m for module in self.modules if opaque(module)
                 for m in module.modules()]  # fmt: skip
        self.rigid = list({id(m): m for m in rigid}.values())
        self.tables = {id(m): dict(m._parameters) for m in self.modules}
        tables = self.tables.values()
        present = [p for table in tables for p in table.values() if p is not None]
        learned = {id(p): p for p in present if p.requires_grad}
        self.originals = list(learned.values())
        self.inner = [p for p in self.originals if p.grad_fn is not None]
        kinds = set(map(type, present))
        known = survey.plain and not self.inner and kinds <= {nn.Parameter}
        self.layered = Layered(cast(nn.Module, survey.layers)) if known else None
        self.aliases: list[Tensor] = []
        self.clones: list[tuple[nn.Module, nn.Module]] = []

    def make_aliases(self) -> None:
        """New leaves for the gradients of one backward pass."""
        # As nn.Parameter(p.detach()) does it, at half the cost.
        make, kind = Tensor._make_subclass, nn.Parameter
        self.aliases = [
            make(kind, p, True) if type(p) is kind else kind(p.detach())
            for p in self.originals
        ]

    def replica(self, share_buffers: bool = False) -> Field:
        """The field on private aliases of its parameters and copies of its buffers."""
        pairs = zip(self.originals, self.aliases or self.originals, strict=True)
        stand_ins: dict[int, Any] = {id(p): alias for p, alias in pairs}
        shared = {id(m) for m in self.rigid}
        clones: dict[int, nn.Module] = {}
        parents: list[tuple[dict[str, Any], nn.Module]] = []
        foreign: list[dict[str, Any]] = []
        for module in self.modules:
            own, refers = vars(module), may_refer(module)
            weights, children = self.tables[id(module)], own["_modules"]
            buffers = own["_buffers"]
            nothing = not (refers or weights or children or buffers)
            if nothing or id(module) in shared:
                clones[id(module)] = module
                continue
            clone = clones[id(module)] = object.__new__(type(module))
            table = vars(clone)
            table.update(own)
            table["_parameters"] = {
                n: stand_ins.get(id(p), p) for n, p in weights.items()
            }
            if buffers and not share_buffers:
                table["_buffers"] = copied(buffers)
            if children:
                parents.append((table, module))
            if refers:
                foreign.append(table)
        for table, module in parents:
            table["_modules"] = {
                name: None if child is None else clones[id(child)]
                for name, child in module._modules.items()
            }
        for table in foreign:
            for name, value in table.items():
                if isinstance(value, (types.MethodType, functools.partial)):
                    table[name] = rebind(value, clones)
                elif type(value) is list and any(id(v) in stand_ins for v in value):
                    # The flat weights of recurrent layers.
                    table[name] = [stand_ins.get(id(v), v) for v in value]
        self.clones = [(m, clones[id(m)]) for m in self.modules if share_buffers]
        return rebind(self.field, clones)

    def carry_back(self) -> None:
        """Give the modules what their replicas have noted in plain attributes."""
        for module, clone in self.clones:
            own = vars(module)
            for name, value in vars(clone).items():
                if own.get(name) is not value and name not in TABLES:
                    own[name] = value
        self.clones = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put aliases and copied buffers into what cannot be replicated, and back."""
        changed = [*self.rigid, *self.hidden]
        if not changed:
            yield
            return
        pairs = zip(self.originals, self.aliases, strict=True)
        stand_ins = {id(p): alias for p, alias in pairs}
        with SWAPPING:
            before = [(m, m._parameters, m._buffers) for m in changed]
            for module, parameters, buffers in before:
                vars(module)["_parameters"] = {
                    name: stand_ins.get(id(p), p) for name, p in parameters.items()
                }
                vars(module)["_buffers"] = copied(buffers)
            try:
                yield
            finally:
                for module, parameters, buffers in before:
                    vars(module)["_parameters"] = parameters
                    vars(module)["_buffers"] = buffers

    def noted(self) -> "NotedBuffers":
        """What the buffers are now."""
        return NotedBuffers([*self.modules, *self.hidden])

    def undisturbed(self) -> AbstractContextManager[Any]:
        """A context in which no other pass changes the modules of this one."""
        return SWAPPING if self.rigid or self.hidden else nullcontext()

    def take_gradients(self) -> list[Tensor | None]:
        """The gradients gathered so far, in the order of ``originals``."""
        if self.aliases or self.layered is None:
            gradients, self.aliases = [alias.grad for alias in self.aliases], []
            return gradients
        found, self.layered.found = self.layered.found, {}
        return [found.get(id(p)) for p in self.originals]


def with_copied_buffers(field: Field) -> Field:
    """A field with the same parameters, whose running statistics are its own."""
    weights = Weights(field)
    if not any(module._buffers for module in weights.modules):
        return field
    return weights.replica()


def rebind(field: Any, clones: dict[int, nn.Module]) -> Field:
    """A field with its modules replaced."""
    if isinstance(field, functools.partial):
        inner = rebind(field.func, clones)
        return functools.partial(inner, *field.args, **field.keywords)
    if isinstance(field, types.MethodType):
        owner = clones.get(id(field.__self__), field.__self__)
        return types.MethodType(field.__func__, owner)
    return clones.get(id(field), field)


def copied(buffers: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """A table of buffers with copies of them."""
    return {name: None if b is None else b.clone() for name, b in buffers.items()}


class ScratchBuffers:
    """A context, to be entered any number of times, in which buffers are copies."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.saved: list[Any] = []

    def __enter__(self) -> None:
        tables = [(m, m._buffers) for m in self.modules if m._buffers]
        self.saved.append(tables)
        for module, buffers in tables:
            vars(module)["_buffers"] = copied(buffers)

    def __exit__(self, *error: Any) -> None:
        for module, buffers in self.saved.pop():
            vars(module)["_buffers"] = buffers


class NotedBuffers:
    """The buffers of modules as they are now, to return to."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.places = [
            (module._buffers, name, buffer, buffer.clone())
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def undo(self) -> None:
        """Return to what they were."""
        for home, name, buffer, value in self.places:
            home[name] = buffer.copy_(value)


class RandomStates:
    """The random number generators that a field on some device may draw from."""

    def __init__(self, device: torch.device) -> None:
        self.generators = [torch.default_generator]
        if device.type == "cuda":
            index = device.index
            index = torch.cuda.current_device() if index is None else index
            self.generators.append(torch.cuda.default_generators[index])
        self.first = self.now()
        raw = [state.numpy().tobytes() for state in self.first]
        self.seen = self.first, raw  # by the last look, also as bytes

    def undo(self) -> None:
        """Return to the states at the time this object was made."""
        self.restore(self.first)

    def now(self) -> list[Tensor]:
        """The present states."""
        return [g.get_state() for g in self.generators]

    def restore(self, states: Iterable[Tensor]) -> None:
        """Return to noted states."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def drawn_from(self) -> list[Tensor] | None:
        """The states before what was drawn since the last call, if anything was."""
        now = self.now()
        # Raw bytes: torch.equal takes ten times as long on tensors this small.
        raw = [state.numpy().tobytes() for state in now]
        was, before = self.seen
        self.seen = now, raw
        return was if raw != before else None


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """Keep the caller's saved-tensor hooks away from graphs that live a moment."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is not None and top(False) is None:  # before torch 2.7 nobody tells
        yield
        return
    # detach: handing back the tensor itself would tie a result to its own graph node.
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, same):
        yield


def same(value: Any) -> Any:
    """Return the value."""
    return value
