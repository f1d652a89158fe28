"""Blocks that are alike as one field: parameters stacked, one entry for each layer.

    f_n(x) = f(x; θ_n),    θ = (θ_0, …, θ_{N−1})

What is compiled is one block; which weights it has is data.  Autograd takes the stack
apart: the gradient of a weight that several layers share is their sum.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...monitor import WrappedField, owner_of
from ...plan.rows import Unpackable
from ..survey import hooked, passed_on

TABLES = "_parameters", "_buffers", "_modules"
COMMON = vars(nn.Module()).keys()  # what all modules have
PLAIN = (
    bool, int, float, complex, str, bytes, set, frozenset, slice, range,
    torch.device, torch.dtype,
)  # fmt: skip
PREFIX = "field.field."  # of the names of a block in a ``Block`` in a ``Holder``


class Block(WrappedField):
    """A block as a field of time: which block it is, its weights say."""

    passes_on = {"forward": "field"}

    def forward(self, when: Any, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the block, called by ``force`` with (args, kwargs)."""
        positional, named = args or ((), {})
        return self.field(x, *positional, **named)


def blocks_of(field: Any) -> list[nn.Module]:
    """The blocks that a field of layers evaluates, or raise."""
    owner = owner_of(field)
    name, several = ("", False) if owner is None else passed_on(field, owner)
    if owner is None or not several:
        raise Unpackable("its layers are no blocks that can be looked at one by one")
    return [*cast(nn.ModuleList, owner._modules[name])]


class Layers:
    """The blocks of a network, layer by layer, as one block with stacked weights.

    Parameters
    ----------
    field : callable
        ``MomentumNet.force`` or the like.
    layers : list of int
        Which of its blocks each row evaluates.

    Attributes
    ----------
    block : Block
        The first, as a field.
    names : tuple of str
        Of parameters and buffers, those that are learned first; none where all layers
        are one block.
    learned : int
        How many do.

    Raises
    ------
    Unpackable
        Where blocks differ by more than their weights.
    """

    def __init__(self, field: Any, layers: Sequence[int]) -> None:
        every = blocks_of(field)
        blocks = [every[n] for n in layers]
        first, *others = {id(b): b for b in blocks}.values()
        self.block = Block(first)
        self.names: tuple[str, ...] = ()
        self.learned = 0
        self.states: list[dict[str, Tensor]] = []
        if not others:
            return
        states = {id(first): alike(first, first)}
        for other in others:
            try:
                states[id(other)] = alike(first, other)
            except Unpackable as told:
                n = next(n for n, b in enumerate(every) if b is other)
                raise Unpackable(
                    f"its blocks 0 and {n} are not alike: {told}"
                ) from None
        self.states = [states[id(b)] for b in blocks]
        wanted = {
            name: any(s[name].requires_grad for s in states.values())
            for name in states[id(first)]
        }
        names = sorted(wanted, key=lambda name: not wanted[name])
        self.names = tuple(PREFIX + name for name in names)
        self.learned = sum(wanted.values())

    def stacked(self) -> list[Tensor]:
        """The weights of all layers, one tensor for each of ``names``."""
        own = (name[len(PREFIX) :] for name in self.names)
        with torch.enable_grad():
            return [torch.stack([state[name] for state in self.states]) for name in own]


def alike(a: nn.Module, b: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a block b that is like a but for their values.

    They are under the names that ``functional_call`` knows them by, each once.  What a
    block does is its class and its attributes, so these must be equal; this is looked
    at in each call, so quickly.

    Raises
    ------
    Unpackable
        Saying in what they differ.
    """
    found: dict[str, Tensor] = {}
    ours: dict[int, str] = {}
    theirs: dict[int, str] = {}
    todo = [("", a, b)]
    while todo:
        path, one, other = todo.pop()
        if type(one) is not type(other):
            where = f" at {path[:-1]!r}" if path else ""
            kinds = f"{type(one).__name__} and {type(other).__name__}"
            raise Unpackable(kinds + where)
        mine, its = vars(one), vars(other)
        for name in (mine.keys() ^ its.keys()) | (mine.keys() - COMMON) | {"training"}:
            if name not in mine or not equal(mine[name], its.get(name)):
                raise Unpackable(f"`{path}{name}` differs")
        if hooked(one) or hooked(other):
            raise Unpackable("they have hooks")
        if any(mine[table].keys() != its[table].keys() for table in TABLES):
            raise Unpackable(f"{type(one).__name__} has other parts")
        for name, child in mine["_modules"].items():
            if child is not None or its["_modules"][name] is not None:
                todo.append((f"{path}{name}.", child, its["_modules"][name]))
        for table in ("_parameters", "_buffers"):
            for name, value in mine[table].items():
                own = its[table][name]
                if value is None and own is None:
                    continue
                name = path + name
                if kind_of(value) != kind_of(own):
                    raise Unpackable(f"`{name}` is {kind_of(value)} and {kind_of(own)}")
                first = ours.setdefault(id(value), name)
                if first != theirs.setdefault(id(own), name):
                    raise Unpackable(f"`{name}` is shared inside one of them only")
                if first == name:
                    found[name] = own
    return found


def kind_of(weight: Any) -> Any:
    """What has to be the same to stack weights."""
    if weight is None:
        return None
    return (*weight.shape, weight.dtype, weight.device)


def equal(a: Any, b: Any) -> bool:
    """Whether two attributes are the same to a block, as far as can be told."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return isinstance(a, PLAIN) and bool(a == b)
