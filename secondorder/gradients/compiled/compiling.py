"""What is compiled, for which field, at what cost, and what cannot be.

A field finds its functions by a weak key: they go when it goes, and hold no parameter.
"""

import itertools
import operator
import threading
import time
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...monitor import WrappedField, owner_of
from ...plan.rows import Unpackable
from ...systems.fields import Forced
from ..precision import autocast_state
from .chunks import (
    Holder,
    Inputs,
    float_backward,
    float_forward,
    grid_backward,
    grid_forward,
)
from .lowering import options

NUMBERS = itertools.count()  # of the functions that are compiled
MOST = 64  # kinds of calls of one function that are known
STRANGER = (
    "its field depends on a tensor that requires a gradient but is none of its "
    "parameters"
)


class CompileWarning(UserWarning):
    """A solve with ``compile=True`` was run without compiling; says why.

    Parameters
    ----------
    message : str

    Examples
    --------
    >>> import secondorder as so
    >>> issubclass(so.CompileWarning, UserWarning)
    True
    """


@dataclass
class CompileStats:
    """What compiling has cost so far, for one field.

    Attributes
    ----------
    compilations : int
        Graphs made, two for each kind of solve and shape.
    seconds : float
        Wall time spent on making them.
    hits : int
        Calls that compiled nothing.
    fallbacks : list of str
        Why solves were run eagerly.

    Examples
    --------
    >>> import secondorder as so
    >>> so.CompileStats().hits
    0
    """

    compilations: int = 0
    seconds: float = 0.0
    hits: int = 0
    fallbacks: list[str] = field(default_factory=list)


class Artefact:
    """One compiled graph: what the compiler made of it, and what its inputs are."""

    def __init__(self, run: Any, graph: Any) -> None:
        self.run, self.proved = run, False  # whether the way back of its like is known
        nodes = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self.examples = [n.meta.get("example_value") for n in nodes]

    def places(
        self, given: Any, returned: Any, flat: Sequence[Any], result: Any
    ) -> list[Any] | None:
        """Where its inputs are among the tensors of a call, if all come from there.

        A place is the index of a tensor, or with a dimension the size of one.
        """
        if len(result) != len(returned) or any(map(operator.is_not, result, returned)):
            return None
        at = {id(t): i for i, t in enumerate(flat)}
        sizes: dict[str, Any] = {}
        found: list[Any] = []
        for example, value in zip(self.examples, given, strict=True):
            if isinstance(value, Tensor) and id(value) in at:
                found.append(at[id(value)])
                for dim, size in enumerate(example.shape):
                    sizes.setdefault(str(size), (found[-1], dim))
            else:
                found.append(str(example))
        found = [p if isinstance(p, int) else sizes.get(p) for p in found]
        return None if None in found or len(at) < len(flat) else found


class Direct(NamedTuple):
    """A call without ``torch.compile``'s checks, once it is known what it leads to."""

    artefact: Artefact
    places: list[Any]

    def __call__(self, flat: Sequence[Any]) -> Any:
        """Run it on the tensors of a call."""
        places = self.places
        return self.artefact.run(
            *[flat[p] if type(p) is int else flat[p[0]].shape[p[1]] for p in places]
        )


class Compiled:
    """One function, compiled for one field, with an account of what that costs.

    Its calls go through ``torch.compile``, which compares all that it knows of the
    field with what it has compiled.  A call with a ``key``, which stands for all that
    matters, finds what the first such call was run by.
    """

    def __init__(self, function: Any, stats: CompileStats) -> None:
        # torch.compile keeps its graphs with the code, and by its name the sizes that
        # have varied so far: a copy has its own, and they go with this object.
        name = f"{function.__name__}_{next(NUMBERS)}"
        own = types.FunctionType(
            function.__code__.replace(co_name=name),
            function.__globals__,
            name,
            function.__defaults__,
            function.__closure__,
        )
        self.plain, self.stats = function, stats
        self.made, self.running = 0, threading.local()
        self.known: OrderedDict[Any, Direct] = OrderedDict()
        self.call = torch.compile(own, backend=self.take, fullgraph=True)

    def take(self, graph: Any, inputs: Any) -> Any:
        """Have a graph compiled."""
        refuse(graph)
        artefact = Artefact(self.backend(graph, inputs), graph)

        def run(*inputs: Any) -> Any:
            outputs = artefact.run(*inputs)
            self.running.last = artefact, inputs, outputs
            return outputs

        return run

    def backend(self, graph: Any, inputs: Any) -> Any:
        """Compile a graph; count it."""
        self.made += 1
        host = not any(cuda(i) for i in inputs)
        with warnings.catch_warnings():  # torch's own, about itself
            warnings.simplefilter("ignore")
            from torch._inductor.compile_fx import compile_fx

            return compile_fx(graph, inputs, **options(host))

    def __call__(
        self, key: Any, field: Any, inputs: Inputs, *args: Any
    ) -> tuple[Any, Artefact]:
        """Run it, compiling where there is nothing yet for such arguments."""
        flat = tensors_in((inputs.learned, inputs.args, *args))
        direct = None if key is None else self.known.get(key)
        if direct is not None:
            self.stats.hits += 1
            return direct(flat), direct.artefact
        before, start = self.made, time.perf_counter()
        result = self.call(Holder(field), inputs, *args)
        artefact, *both = self.running.__dict__.pop("last")
        places = None
        if key is not None:
            places = artefact.places(*both, flat, result)
        if places is not None:
            self.known[key] = Direct(artefact, places)
            if len(self.known) > MOST:
                self.known.popitem(last=False)
        if self.made > before:
            self.stats.compilations += self.made - before
            self.stats.seconds += time.perf_counter() - start
        else:
            self.stats.hits += 1
        return result, artefact


def tensors_in(args: Iterable[Any]) -> list[Any]:
    """The tensors of a call, in their order."""
    found: list[Any] = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors_in(value)
    return found


def told(value: Any) -> Any:
    """What a graph is made for, of one of its inputs; None where that is not known."""
    if type(value) is Tensor or type(value) is nn.Parameter:
        return value.shape, value.stride(), value.dtype
    plain = value is None or isinstance(value, (bool, int, float, str))
    return (type(value), value) if plain else None


def refuse(graph: Any) -> None:
    """Raise where a graph would take a weight that is learned for a constant."""
    for node in graph.graph.nodes:
        value = node.meta.get("example_value")
        if node.op == "placeholder" and getattr(value, "requires_grad", False):
            raise Unpackable(STRANGER)


def cuda(value: Any) -> bool:
    """Whether a value is a tensor on a GPU."""
    return isinstance(value, Tensor) and value.is_cuda


class Entry:
    """What is compiled for one field, and what is known of it; it holds no tensor.

    Attributes
    ----------
    functions : dict
        Forward and backward, by kind of solve.
    names : dict
        Of what is learned, by what the field is made of.
    probed : set
        How the field was when it was looked at.
    refused : dict of str
        What could not be compiled, and why.
    """

    def __init__(self) -> None:
        self.stats = CompileStats()
        self.functions: dict[Any, tuple[Compiled, Compiled]] = {}
        self.names: dict[Any, tuple[str, ...]] = {}
        self.probed: set[Any] = set()
        self.refused: dict[Any, str] = {}

    def pair(self, kind: str, *more: Any) -> tuple[Compiled, Compiled]:
        """The functions forward and backward of a kind of solve."""
        if (kind, *more) not in self.functions:
            both = (
                (float_forward, float_backward)
                if kind == "float"
                else (grid_forward, grid_backward)
            )
            self.functions[(kind, *more)] = (
                Compiled(both[0], self.stats),
                Compiled(both[1], self.stats),
            )
        return self.functions[(kind, *more)]


ENTRIES: "weakref.WeakKeyDictionary[Any, Entry]" = weakref.WeakKeyDictionary()


def entry_of(field: Any) -> Entry:
    """What is compiled for a field, found by what lies inside its wrappers."""
    while isinstance(field, (WrappedField, Forced)):  # made anew for each solve
        field = field.field
    owner = owner_of(field)
    return ENTRIES.setdefault(field if owner is None else owner, Entry())


def check_state(x: Tensor, v: Tensor) -> None:
    """Raise where the numbers have no compiled form."""
    if x.dtype not in (torch.float32, torch.float64) or v.dtype != x.dtype:
        raise Unpackable(f"its state is {x.dtype}")
    if x.numel() == 0:
        raise Unpackable("its batch is empty")
    if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        raise Unpackable("it runs inside another transform")
    if torch.is_inference_mode_enabled() or torch.jit.is_tracing():
        raise Unpackable("it runs in inference mode, or is traced")
    state = autocast_state(x.device)
    if state is not None and state[2]:
        raise Unpackable("autocast is on")
    if torch.autograd.forward_ad._current_level >= 0:
        raise Unpackable("it runs in forward mode")
