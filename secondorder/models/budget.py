"""How much memory a network of layers holds between its two passes.

    reversible     16 bytes per element, log2(1/γ)/8 per element and layer; kept graphs
    checkpoint     the states between √N segments
    backprop       the graphs of all layers; so does reversible that keeps all of them

What a layer's graph holds is measured: one forward pass, layer by layer, on saved
tensors, each counted once; weights, which are held anyway, are left out.
"""

import math
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .. import checks
from ..gradients.checkpoint import split
from ..gradients.replay import RandomStates, with_copied_buffers
from ..gradients.tape import POP, PUSH, compile_tape
from ..monitor import modules_of
from ..plan.moves import Kick, Plan, walk

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {f"{k}I": 2 ** (10 * n) for n, k in enumerate("KMGT", 1)}


class Layer(NamedTuple):
    """Bytes of a layer's graph in backprop, and of its force's graph if kept."""

    graph: int
    kept: int


class Budget:
    """How many graphs may be kept: as many of the last layers' as fit.

    Parameters
    ----------
    memory : int or str
        Bytes, or such as ``"512MB"`` (10^6) or ``"2GiB"`` (2^30).
    """

    def __init__(self, memory: int | str) -> None:
        self.bytes = parse_bytes(memory)
        self.known: dict[Any, int] = {}

    def keep(self, plan: Plan, field: Any, x: Tensor, v: Tensor, args: Any) -> int:
        """The number of graphs to keep, measured once for each kind of input."""
        shapes = [(t.shape, t.dtype) for t in (x, *tensors(args))]
        training = [m.training for m in modules_of(field)]
        key = (str(shapes), len(plan), tuple(training), torch.is_autocast_enabled())
        if key not in self.known:
            layers = measure(plan, field, x, v, args)
            self.known[key] = self.fit(held_by_reversal(plan, x), layers)
        return self.known[key]

    def fit(self, base: int, layers: Sequence[Layer]) -> int:
        """As many of the last layers' graphs as fit beside ``base`` bytes.

        All of them, where those of backprop fit: nothing is reversed then.
        """
        if sum(layer.graph for layer in layers) <= self.bytes:
            return len(layers)
        left = self.bytes - base
        if left < 0:
            raise ValueError(
                f"`memory` is {describe_bytes(self.bytes)}, but reversal itself holds "
                f"{describe_bytes(base)} for this input; give more, or a smaller batch"
            )
        count = 0
        for layer in layers[:0:-1]:
            left -= layer.kept
            if left < 0:
                break
            count += 1
        return count


def measure(
    plan: Plan, field: Callable[..., Tensor], x: Tensor, v: Tensor, args: Sequence[Any]
) -> list[Layer]:
    """What each layer of a plan would hold, without holding it."""
    starts = [i for i, m in enumerate(plan) if isinstance(m, Kick) and m.fresh]
    bounds = [0, *starts[1:], len(plan)]
    own = with_copied_buffers(field)  # running statistics are not to be updated
    outside = {address(p) for m in modules_of(own) for p in m.parameters()}
    outside |= {address(b) for m in modules_of(own) for b in m.buffers()}
    outside |= {address(t) for t in tensors(args)}
    generators = RandomStates(x.device)
    x, v = x.detach(), v.detach()
    found = []
    with torch.enable_grad():
        for a, b in zip(bounds, bounds[1:], strict=False):
            x, v = x.detach().requires_grad_(), v.detach().requires_grad_()
            watch = Watch(own, outside)
            with torch.autograd.graph.saved_tensors_hooks(watch.note, lambda t: t):
                _, (x, v, _) = walk(plan[a:b], watch.force, x, v, args)
            found.append(Layer(watch.size(watch.saved), watch.size(watch.own)))
            del watch
    generators.undo()
    return found


class Watch:
    """Notes what is saved in a layer, and which of it in its force."""

    def __init__(self, field: Callable[..., Tensor], outside: set[int]) -> None:
        self.field, self.outside = field, outside
        self.saved: list[Tensor] = []
        self.own: list[Tensor] = []

    def note(self, tensor: Tensor) -> Tensor:
        """Take note of a saved tensor."""
        self.saved.append(tensor)
        return tensor

    def force(self, time: Any, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field; what it saves hangs on x and leads to the force."""
        before = len(self.saved)
        value = self.field(time, x, *args)
        self.own += [x, value, *self.saved[before:]]
        return value

    def size(self, held: Sequence[Tensor]) -> int:
        """Bytes of what is held, each storage once."""
        stores = {address(t): t.untyped_storage().nbytes() for t in held}
        return sum(n for key, n in stores.items() if key not in self.outside)


def address(tensor: Tensor) -> int:
    """What tells storages apart that are alive together."""
    return tensor.untyped_storage().data_ptr()


def tensors(args: Any) -> list[Tensor]:
    """The tensors among arguments, nested or not."""
    return [t for t in tree_leaves(args) if isinstance(t, Tensor)]


def held_by_reversal(plan: Plan, x: Tensor) -> int:
    """Bytes that exact reversal holds without any graph."""
    steps = compile_tape(plan, x.dtype, x.device).steps
    pushed = sum((step.code == PUSH) - (step.code == POP) for step in steps)
    return x.numel() * (16 + max(0, pushed))


def parse_bytes(memory: int | str) -> int:
    """A number of bytes from an int, or from a text such as "512MB", or raise."""
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?I?)B?\s*", memory.upper())
        try:
            if match and match[2] in UNITS:
                return checks.count(int(float(match[1]) * UNITS[match[2]]), "memory")
        except ValueError:
            pass
    elif isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    raise ValueError(
        '`memory` must be a number of bytes or such as "512MB" or "2GiB", got '
        f"{memory!r}"
    )


def describe_bytes(size: int) -> str:
    """Bytes for people: 3 digits and a unit of 10^3."""
    power = min(4, int(math.log10(max(size, 1))) // 3)
    return f"{size / 1000**power:.3g} {('', 'k', 'M', 'G', 'T')[power]}B"


class MemoryReport:
    """What a network holds between its passes by each route; prints as a table.

    Attributes
    ----------
    held : dict of str to int
        Bytes by route, the weights left out.
    peak : dict of str to int
        The same with what the backward pass holds beside it for a moment: the graph of
        the layer, or the segment, that it evaluates again.
    """

    def __init__(self, held: dict[str, int], peak: dict[str, int]) -> None:
        self.held, self.peak = held, peak

    def __repr__(self) -> str:
        """Show the table."""
        wide = max(map(len, self.held))
        lines = [f"{'route':{wide}}  {'held':>9}  {'at most':>9}"]
        for route, size in self.held.items():
            held, peak = describe_bytes(size), describe_bytes(self.peak[route])
            lines.append(f"{route:{wide}}  {held:>9}  {peak:>9}")
        return "\n".join(lines)


def memory_report(net: Any, x: Tensor, *args: Any, **kwargs: Any) -> MemoryReport:
    """What each route would hold for this input; print it for a table.

    One forward pass is run, layer by layer; no more than one layer's graph is held.

    Parameters
    ----------
    net : MomentumNet
    x : Tensor
    *args, **kwargs
        As in ``net(x, ...)``.

    Returns
    -------
    MemoryReport
        Prints as a table; ``.held`` and ``.peak`` are bytes by route.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> net = so.MomentumNet([torch.nn.Linear(64, 64) for _ in range(100)], gamma=0.9)
    >>> so.memory_report(net, torch.zeros(100, 64))
    route                      held    at most
    backprop                2.56 MB    2.56 MB
    checkpoint               512 kB     768 kB
    reversible               109 kB     160 kB
    reversible, keep=50     2.67 MB    2.72 MB
    reversible, keep=100    2.56 MB    2.56 MB
    """
    x, v = net.start(x, None)
    field, rest = net.with_arguments(args, kwargs)
    plan = net.plan(x)
    layers = measure(plan, field, x, v, rest)
    graphs = [layer.graph for layer in layers]
    pieces = split(plan, None)
    counts = [sum(isinstance(m, Kick) for m in piece) for piece in pieces]
    ends = [*accumulate(counts)]
    spans = [sum(graphs[e - c : e]) for c, e in zip(counts, ends, strict=True)]
    between = 2 * x.numel() * x.element_size() * len(pieces)
    held = {"backprop": sum(graphs), "checkpoint": between}
    peak = {"backprop": sum(graphs), "checkpoint": between + max(spans)}
    try:
        base = held_by_reversal(plan, x)
    except ValueError:  # γ = 0
        return MemoryReport(held, peak)
    asked = net.gradient.options.get("keep", 0)
    if net.budget is not None:
        asked = net.budget.fit(base, layers)
    for k in sorted({0, len(layers) // 2, min(asked, len(layers)), len(layers)}):
        name = f"reversible, keep={k}" if k else "reversible"
        if k == len(layers):  # nothing is left to reverse
            held[name], peak[name] = held["backprop"], peak["backprop"]
            continue
        again = max([layer.kept for layer in layers[: len(layers) - k]], default=0)
        held[name] = base + sum(layer.kept for layer in layers[len(layers) - k :])
        peak[name] = held[name] + again
    return MemoryReport(held, peak)
