"""A solve whose state is a structure of tensors, by a solve of one tensor of all.

The fields, event functions and maps of the user see the structure, methods and
gradients one tensor (``systems/structure.py``); so all of them work unchanged.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .. import checks
from ..solution import Solution
from ..systems.equations import System
from ..systems.numbers import is_structure
from ..systems.structure import Layout, flattened
from .event_functions import Event


class StructuredSolution(Solution):
    """A solution whose ``x`` and ``v`` have the structure of the initial state.

    Attributes
    ----------
    x, v : tuple, list or dict of Tensor
        Each tensor ``(n, *shape)``.
    flat : Solution
        The solve behind it, of one tensor of all.
    """

    def __init__(self, flat: Solution, layout: Layout) -> None:
        self.__dict__.update(vars(flat))
        self.flat, self.layout = flat, layout
        self.x, self.v = layout.split(flat.x), layout.split(flat.v)
        if self.events is not None:
            x, v = layout.split(self.events.x), layout.split(self.events.v)
            self.events = dataclasses.replace(self.events, x=x, v=v)

    def __repr__(self) -> str:
        """Show times, number of entries and cost."""
        return f"Structured{self.flat!r}"

    def _repr_html_(self) -> str:
        return self.flat._repr_html_()

    def __call__(self, times: float | Tensor) -> Any:
        """Dense output: the state ``(x, v)``, in its structure, at any times."""
        x, v = self.flat(times)
        return self.layout.split(x), self.layout.split(v)


def structured(system: Any, state: Any) -> bool:
    """Whether a state is the pair of structures, or of one and None."""
    if isinstance(state, StructuredSolution):
        return True
    first_order = isinstance(system, System) and system.first_order
    if first_order and isinstance(state, Mapping):
        return True
    pair = isinstance(state, (tuple, list)) and len(state) == 2
    if not pair or not is_structure(state[0]):
        return False
    return not first_order or state[1] is None


def solve_structured(solve: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Call ``odeint`` or ``odeint_event`` for one tensor of all.

    Parameters
    ----------
    solve : callable
    given : dict
        All its arguments by name, the state a structure.
    """
    system, state = checks.system(given["system"], System), given["state"]
    start: Any
    grids = given.get("t")
    rows = given["per_sample"] or (isinstance(grids, Tensor) and grids.ndim == 2)
    if isinstance(state, StructuredSolution):
        layout, start, x = state.layout, state.flat, state.flat.x
    else:
        tree, velocities = (state, None) if isinstance(state, Mapping) else state
        layout = Layout(tree, rows)
        x = layout.join(tree, "x0")
        start = x, layout.velocity(velocities, x)
    flat = flattened(system, layout, x.device)
    call = {**given, "system": flat, "state": start}
    call["event_fn"] = for_each(given["event_fn"], layout)
    if "save" in given:
        call["save"] = for_each(given["save"], layout)
    if "on_event" in given:
        call["on_event"] = for_each(given["on_event"], layout, back=True)
    found = solve(**call)
    if isinstance(found, Solution):
        return StructuredSolution(found, layout)
    event_t, solution = found
    return event_t, StructuredSolution(solution, layout)


def for_each(functions: Any, layout: Layout, back: bool = False) -> Any:
    """Functions of structures as functions of one tensor, one or several."""
    if isinstance(functions, (list, tuple)):
        return [for_each(fn, layout, back) for fn in functions]
    if isinstance(functions, Event):
        moved = for_each(functions.on_event, layout, True)
        fn = for_each(functions.fn, layout)
        return dataclasses.replace(functions, fn=fn, on_event=moved)
    if not callable(functions):
        return functions  # None, or what is refused
    return OfStructures(functions, layout, back)


class OfStructures:
    """A function ``fn(t, x, v)`` of structures, called with one tensor each."""

    def __init__(self, fn: Callable[..., Any], layout: Layout, back: bool) -> None:
        self.fn, self.layout, self.back = fn, layout, back
        self.direction = getattr(fn, "direction", 0)  # as SciPy has them
        self.terminal = getattr(fn, "terminal", True)

    def __call__(self, t: Tensor, x: Tensor, v: Tensor) -> Any:
        """Evaluate it; where ``back``, its pair of structures as one tensor each."""
        found = self.fn(t, self.layout.split(x), self.layout.split(v))
        if not self.back:
            return found
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise ValueError(
                "`on_event` must return a pair (x, v) of structures, got "
                f"{type(found).__name__}"
            )
        names = ("on_event(t, x, v)[0]", "on_event(t, x, v)[1]")
        return tuple(map(self.layout.join, found, names))
