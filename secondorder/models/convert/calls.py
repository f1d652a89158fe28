"""How the blocks of a network of others are called, and what is made of their answers.

    y = block(x, mask, ...)            (y, None, ...)            block(hidden_states=x)

The state x may be any argument, the new one y the answer or its first entry.  What a
block is called with is kept until the last block was called, each tensor once; caches
of keys and values are copied for every pass over the blocks.
"""

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...gradients.arguments import CHANGED, LEAKED, plain

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Where = int | str


def first_state(block: nn.Module, args: Any, kwargs: Any) -> Where:
    """Where the state is when the first block is called, or raise."""
    if args and floating(args[0]):
        return 0
    names = [*inspect.signature(block.forward).parameters]
    order = [*range(len(args)), *names[:1], "hidden_states", *kwargs]
    for where in order:
        if floating(args[where] if isinstance(where, int) else kwargs.get(where)):
            return where
    raise TypeError(
        f"{type(block).__name__} was called without a state: none of its arguments is "
        "a tensor of floating point numbers"
    )


def floating(value: Any) -> bool:
    """Whether a value is a tensor of numbers that moves can be added to."""
    return isinstance(value, Tensor) and value.is_floating_point()


def entry(args: Any, kwargs: Any, where: Where) -> Any:
    """The argument at a place, None where there is none."""
    if isinstance(where, int):
        return args[where] if where < len(args) else None
    return kwargs.get(where)


def with_entry(args: Any, kwargs: Any, where: Where, value: Any) -> Arguments:
    """The arguments with another value at a place."""
    if isinstance(where, str):
        return args, {**kwargs, where: value}
    return (*args[:where], value, *args[where + 1 :]), kwargs


def answer(out: Any, block: Any) -> Tensor:
    """The new state in what a block returned: all of it, or the first entry."""
    value = out
    if isinstance(out, Mapping) and out:
        value = next(iter(out.values()))
    elif isinstance(out, (tuple, list)) and out:
        value = out[0]
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{type(block).__name__} returned {type(out).__name__} without a new state;"
            " a block must return a tensor, or a tuple that begins with one"
        )
    return value


def others(out: Any) -> list[Any]:
    """What a block returned besides the new state."""
    if isinstance(out, Mapping):
        return [*out.values()][1:]
    return [*out[1:]] if isinstance(out, (tuple, list)) else []


def with_answer(
    out: Any, state: Any, pending: Callable[[int], Any] | None = None
) -> Any:
    """What a block returned, with another state, and others for further tensors."""
    rest = others(out)
    if pending is not None:
        tensors = (isinstance(value, Tensor) for value in rest)
        pairs = enumerate(zip(rest, tensors, strict=True))
        rest = [pending(place) if own else value for place, (value, own) in pairs]
    if isinstance(out, Mapping):
        same = copy.copy(cast(dict[Any, Any], out))
        same.update(zip(out, [state, *rest], strict=True))
        return same
    if isinstance(out, (tuple, list)):
        values = [state, *rest]
        return type(out)(*values) if hasattr(out, "_fields") else type(out)(values)
    return state


class Calls:
    """What all blocks are called with, each tensor once.

    Parameters
    ----------
    calls : list of (args, kwargs)
        One for each block, None in the place of the state.
    where : int or str
        That place.

    Attributes
    ----------
    leaves : tuple
        All values in them; the ones that want gradients get them through here.
    """

    def __init__(self, calls: Sequence[Arguments], where: Where) -> None:
        self.where = where
        places: dict[int, int] = {}
        leaves: list[Any] = []
        self.forms: list[tuple[list[int], Any]] = []
        for call in calls:
            flat, form = tree_flatten(call, is_leaf=lambda v: not plain(v))
            for value in flat:
                if id(value) not in places:
                    places[id(value)] = len(leaves)
                    leaves.append(value)
            self.forms.append(([places[id(value)] for value in flat], form))
        self.caches = {i: c for i, c in enumerate(leaves) if is_cache(c)}
        self.noted = {i: copy_of(cache) for i, cache in self.caches.items()}
        held = tensors_in(self.noted)
        if any(t.requires_grad for t in held):
            raise ValueError(
                "`cache` holds keys and values that want gradients (of a pass before "
                "this one, or learned), which the reversible route would lose; "
                "go on from a cache under torch.no_grad(), or convert with "
                'gradient="backprop"'
            )
        self.versions = [(t, t._version) for t in held]
        self.copies: dict[int, Any] = {}
        self.filled: set[int] = set(range(len(calls)))
        self.leaves = tuple(None if is_cache(v) else v for v in leaves)

    def of(self, n: int, x: Tensor, leaves: Sequence[Any]) -> Arguments:
        """The arguments of block n for a state, with copies of the caches."""
        if self.caches and n in self.filled:
            self.copies = {i: copy_of(cache) for i, cache in self.noted.items()}
            self.filled = set()
        self.filled.add(n)
        places, form = self.forms[n]
        flat = [self.copies.get(i, leaves[i]) for i in places]
        args, kwargs = tree_unflatten(flat, form)
        return with_entry(args, kwargs, self.where, x)

    def with_caches(self, out: Any) -> Any:
        """What a block returned, with the caller's caches in place of copies."""
        own: dict[int, Any] = {}
        own |= {id(copied): self.caches[i] for i, copied in self.copies.items()}
        if not own or not isinstance(out, (tuple, list)):
            return out
        values: list[Any] = [own.get(id(value), value) for value in out]
        return type(out)(*values) if hasattr(out, "_fields") else type(out)(values)

    def leave_graphs(self) -> None:
        """Cut what blocks put into the caches from their graphs, which are not kept."""
        if not self.caches:
            return
        for cache in self.copies.values():
            map_tensors(cache, cut)
        if any(t._version != version for t, version in self.versions):
            raise RuntimeError(CHANGED)

    def fill_caches(self) -> None:
        """Give the caller's caches what the copies were given."""
        for i, copied in self.copies.items():
            vars(self.caches[i]).update(vars(copied))
        self.copies, self.filled = {}, set(range(len(self.forms)))


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of keys and values that blocks write into."""
    return hasattr(value, "get_seq_length") and hasattr(value, "__dict__")


def cut(tensor: Tensor) -> Tensor:
    """A tensor out of its graph, through which no gradient may be taken."""
    if tensor.grad_fn is None:
        return tensor
    tensor = tensor.detach().requires_grad_()
    tensor.register_hook(refuse)
    return tensor


def refuse(grad: Tensor) -> None:
    """Raise: a loss depends on what a block put into a cache."""
    raise RuntimeError(LEAKED)


def copy_of(value: Any) -> Any:
    """A copy of a cache that shares its tensors."""
    if isinstance(value, (list, tuple, set)):
        return type(value)(copy_of(v) for v in value)
    if isinstance(value, dict):
        return {k: copy_of(v) for k, v in value.items()}
    if not is_part(value):
        return value
    copy = object.__new__(type(value))
    vars(copy).update({k: copy_of(v) for k, v in vars(value).items()})
    return copy


def is_part(value: Any) -> bool:
    """Whether a value in a cache is an object with entries of its own."""
    apart = isinstance(value, (Tensor, nn.Module, type)) or callable(value)
    return hasattr(value, "__dict__") and not apart


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Put changed tensors into a cache."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        value.update({k: map_tensors(v, change) for k, v in value.items()})
    elif isinstance(value, list):
        value[:] = [map_tensors(v, change) for v in value]
    elif isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map_tensors(v, change) for v in value)
    elif is_part(value):
        map_tensors(vars(value), change)
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a cache."""
    found: list[Tensor] = []
    map_tensors(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


class Collector(NamedTuple):
    """What transformers collects while a model runs, by hooks on its modules.

    Attributes
    ----------
    wanted : dict or None
        Lists by name, such as ``"hidden_states"``.
    """

    wanted: dict[str, Any] | None

    @classmethod
    def now(cls) -> "Collector":
        """The one of the model that is running."""
        variable = collecting()
        return cls(None if variable is None else variable.get())

    @property
    def states(self) -> list[Any] | None:
        """The list for the states between blocks, if it is wanted."""
        return None if self.wanted is None else self.wanted.get("hidden_states")

    def refuse_others(self) -> None:
        """Raise where something is wanted that lives inside of blocks."""
        names = [name for name in self.wanted or () if name[0] != "_"]
        for name in names:
            if name != "hidden_states":
                raise ValueError(
                    f"`output_{name}` asks for what blocks compute on the way, whose "
                    "graph the reversible route does not keep; ask for it under "
                    'torch.no_grad(), or convert with gradient="backprop"'
                )

    def correct(self, y: Any, x: Any) -> None:
        """Replace the answer of a block, if it was collected, by the next state."""
        if self.states and self.states[-1] is y:
            self.states[-1] = x

    def add(self, states: Sequence[Tensor]) -> None:
        """Collect the state before the first block (once) and after each."""
        found = self.states
        if found is None or self.wanted is None:
            return
        chosen = self.wanted.get("_hidden_states_layers")
        for state in states[1:] if found else states:
            found.append(state if chosen is None or len(found) in chosen else None)


def collecting() -> Any:
    """The variable in which transformers keeps what it collects, if it is loaded."""
    module = sys.modules.get("transformers.utils.output_capturing")
    return getattr(module, "_active_collector", None)


@contextmanager
def nothing_collected() -> Iterator[None]:
    """A context in which no hook of transformers collects anything."""
    variable = collecting()
    token = None if variable is None else variable.set(None)
    try:
        yield
    finally:
        if variable is not None:
            variable.reset(token)


def parts(call: Arguments) -> tuple[list[int], Any]:
    """What lists and dictionaries in a call hold, to be compared later."""
    flat, form = tree_flatten(call, is_leaf=lambda v: not plain(v))
    return [id(value) for value in flat], form


def skeleton(call: Arguments) -> str:
    """What tells calls apart that may be answered in different form."""
    flat, form = tree_flatten(call, is_leaf=lambda v: not plain(v))
    shown = [v if isinstance(v, (bool, int, str)) else type(v).__name__ for v in flat]
    return f"{shown} {form} {torch.is_autocast_enabled()}"
