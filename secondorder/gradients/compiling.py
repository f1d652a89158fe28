"""What is compiled, for which field, at what cost, and what cannot be.

A field finds its functions by a weak key: they go when it goes, and hold no parameter.
"""

import time
import types
import warnings
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..monitor import MonitoredField, WrappedField, owner_of
from ..plan.rows import Unpackable
from .chunks import float_backward, float_forward, grid_backward, grid_forward
from .replay import autocast_state
from .survey import Survey


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


class Compiled:
    """One function, compiled for one field, with an account of what that costs."""

    def __init__(self, function: Any, stats: CompileStats) -> None:
        # torch.compile keeps its graphs with the code: a copy has its own, and they go
        # with this object.
        own = types.FunctionType(
            function.__code__.replace(),
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        self.plain, self.stats, self.made = function, stats, 0
        self.call = torch.compile(own, backend=self.backend, fullgraph=True)

    def backend(self, graph: Any, inputs: Any) -> Any:
        """Compile a graph; count it."""
        self.made += 1
        options = {} if any(cuda(i) for i in inputs) else {"cpp_wrapper": True}
        with warnings.catch_warnings():  # torch's own, about itself
            warnings.simplefilter("ignore")
            from torch._inductor.compile_fx import compile_fx

            return compile_fx(graph, inputs, config_patches=options)

    def __call__(self, *args: Any) -> Any:
        """Run it, compiling where there is nothing yet for such arguments."""
        before, start = self.made, time.perf_counter()
        result = self.call(*args)
        if self.made > before:
            self.stats.compilations += self.made - before
            self.stats.seconds += time.perf_counter() - start
        else:
            self.stats.hits += 1
        return result


def cuda(value: Any) -> bool:
    """Whether a value is a tensor on a GPU."""
    return isinstance(value, Tensor) and value.is_cuda


class Entry:
    """What is compiled for one field: its functions by kind of solve."""

    def __init__(self) -> None:
        self.stats = CompileStats()
        self.functions: dict[Any, tuple[Compiled, Compiled]] = {}

    def pair(self, exact: bool, *kind: Any) -> tuple[Compiled, Compiled]:
        """The functions forward and backward of a kind of solve."""
        if (exact, *kind) not in self.functions:
            both = (
                (grid_forward, grid_backward)
                if exact
                else (float_forward, float_backward)
            )
            self.functions[(exact, *kind)] = (
                Compiled(both[0], self.stats),
                Compiled(both[1], self.stats),
            )
        return self.functions[(exact, *kind)]


ENTRIES: "weakref.WeakKeyDictionary[Any, Entry]" = weakref.WeakKeyDictionary()


def entry_of(field: Any) -> Entry:
    """What is compiled for a field, found by what lies inside its wrappers."""
    while isinstance(field, WrappedField):
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


def check_field(survey: Survey) -> None:
    """Raise where a field could do what a graph does not repeat."""
    modules = [*survey.modules, *survey.hidden]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    if any(vars(m).get(name) for m in modules for name in hooks):
        raise Unpackable("its field has hooks")
    if any(isinstance(m, MonitoredField) for m in modules):
        raise Unpackable("`check_finite` or `progress` watch its evaluations")
    if survey.writes:
        raise Unpackable("its field writes into its input")
    if any(p.requires_grad for m in survey.hidden for p in m.parameters()):
        raise Unpackable("its field hides modules in a function")
    inner = (p for m in survey.modules for p in m._parameters.values())
    if any(p is not None and p.grad_fn is not None for p in inner):
        raise Unpackable("its field has parameters that are computed from others")
    if any(isinstance(m, torch.jit.ScriptModule) for m in modules):
        raise Unpackable("its field is scripted")
