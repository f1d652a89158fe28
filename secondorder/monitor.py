"""An eye on what runs: evaluations, progress, the first NaN, bytes kept for later.

Because the field is the one thing that every method and every gradient calls, what is
watched there works for all of them.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# The node of a leaf.
LEAF: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]


def owner_of(field: Any) -> nn.Module | None:
    """The module that a field is, or belongs to."""
    while isinstance(field, functools.partial):
        field = field.func
    if isinstance(field, nn.Module):  # which are slow to say what they have not
        return field
    owner = getattr(field, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def modules_of(field: Any) -> list[nn.Module]:
    """All modules reachable from a field: a module, a bound method or a partial."""
    todo, found = [owner_of(field)], {}
    while todo:
        module = todo.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            todo += module._modules.values()
    return list(found.values())


class WrappedField(nn.Module):
    """A field inside another, whose parameters are found through it.

    Parameters
    ----------
    field : callable
    """

    def __init__(self, field: Callable[..., Tensor]) -> None:
        super().__init__()
        self.field = field
        # Of a bound method and of a partial, the module is not found by itself.
        owner = owner_of(field)
        self.owner = None if owner is field else owner


class MonitoredField(WrappedField):
    """A field that reports how it is used.

    Parameters
    ----------
    field : callable
        ``field(time, x, *args)``.
    check_finite : bool
        Raise FloatingPointError at the first force that is not finite.  Costs one
        device synchronisation per evaluation.
    locate : callable, optional
        ``locate(time) -> str`` names the step for that message.
    bar : optional
        A tqdm bar; it is updated once per evaluation until it is closed.

    Attributes
    ----------
    evaluations : int
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        check_finite: bool = False,
        locate: Callable[[Tensor], str] | None = None,
        bar: Any = None,
    ) -> None:
        super().__init__(field)
        self.check_finite = check_finite
        self.locate, self.bar, self.evaluations = locate, bar, 0

    def forward(self, time: Tensor, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        value = self.field(time, x, *args)
        self.evaluations += 1
        if self.bar is not None:
            self.bar.update()
        if self.check_finite and not bool(torch.isfinite(value).all()):
            where = self.locate(time) if self.locate else f"t = {time}"
            bad = (~torch.isfinite(value)).sum().item()
            raise FloatingPointError(
                f"the field returned {bad} of {value.numel()} values that are not "
                f"finite at {where}, evaluation {self.evaluations}, where max |x| = "
                f"{x.detach().abs().max().item():.3g}; smaller steps, more damping or "
                "a bounded field (tanh) usually help"
            )
        return value

    def close(self) -> None:
        """End the progress bar: what a backward pass evaluates again does not count."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Monitor(NamedTuple):
    """What is to be watched in a solve: the first value that is not finite, a bar."""

    check_finite: bool = False
    progress: bool = False

    def __bool__(self) -> bool:
        """Whether anything is to be watched."""
        return self.check_finite or self.progress

    def watch(
        self,
        field: Callable[..., Tensor],
        total: int | None = None,
        locate: Callable[[Tensor], str] | None = None,
    ) -> MonitoredField:
        """A monitored field, its bar counting up to ``total`` evaluations."""
        bar = progress_bar(total, "odeint") if self.progress else None
        return MonitoredField(field, self.check_finite, locate, bar)


def progress_bar(total: int | None = None, label: str | None = None) -> Any:
    """A tqdm bar, which needs the extra ``progress``."""
    try:
        from tqdm import tqdm  # .auto warns in notebooks without ipywidgets
    except ImportError:
        raise ImportError(
            "`progress=True` needs tqdm: pip install secondorder[progress]"
        ) from None
    return tqdm(total=total, desc=label, unit="f")


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """A context that counts what autograd saves in it for the backward pass.

    Parameters
    ----------
    own : iterable of Tensor
        Tensors that are there anyway, such as parameters, and do not count.

    Attributes
    ----------
    total : int
        Bytes; tensors that share memory count once.
    """

    def __init__(self, own: Iterable[Tensor] = ()) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in own}
        self.storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(self.pack, lambda tensor: tensor)

    def __enter__(self) -> "SavedBytes":  # type: ignore[override]
        """Begin to count."""
        super().__enter__()
        return self

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a saved tensor."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.storages[storage.data_ptr()] = storage  # held: no address comes twice
        return tensor

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(storage.nbytes() for storage in self.storages.values())


def untracked_leaf(
    value: Tensor,
    known: set[int],
    more: Iterable[Tensor] = (),
    since: int | None = None,
) -> Tensor | None:
    """First leaf that a value depends on beyond what is known, or None.

    Parameters
    ----------
    value : Tensor
    known : set of int
        Ids of tensors that are accounted for.
    more : iterable of Tensor
        The same, a few tensors; those that are no leaves end the search, too.
    since : int, optional
        Sequence number of the first graph node of a pass: what was computed before it
        was computed outside, even if from leaves that are known.
    """
    own = {id(part) for part in more}
    if value.grad_fn is None:
        lost = value.requires_grad and id(value) not in known and id(value) not in own
        return value if lost else None
    # Lean, since every force of every pass is looked through: 0.2 µs a node.
    seen: set[Any] = {None, *(part.grad_fn for part in more)}
    todo: list[Any] = [] if value.grad_fn in seen else [value.grad_fn]
    if todo and precedes(todo[0], since):
        return first_leaf(todo[0])
    seen.update(todo)
    for node in todo:  # which grows
        for parent, _ in node.next_functions:
            if parent in seen:
                continue
            seen.add(parent)
            if type(parent) is LEAF:
                leaf: Tensor = parent.variable
                if id(leaf) not in known and id(leaf) not in own:
                    return leaf
            elif since is not None and parent._sequence_nr() < since:
                return first_leaf(parent)
            else:
                todo.append(parent)
    return None


def precedes(node: Any, since: int | None) -> bool:
    """Whether a node was made before a pass."""
    return since is not None and type(node) is not LEAF and node._sequence_nr() < since


def first_leaf(node: Any) -> Tensor | None:
    """Any leaf that a node depends on."""
    todo, seen = [node], {None}
    for node in todo:
        if type(node) is LEAF:
            return node.variable
        todo += [p for p, _ in node.next_functions if p not in seen]
        seen.update(todo)
    return None
