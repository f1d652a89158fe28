"""How a solve is differentiated, as an object with its options.

A gradient differentiates a plan, a solver of torchdiffeq, or both:

    run_plan(plan, field, x, v, args, **options) -> [(x, v), ...]    at its records
    run_solver(form, state, t, **settings) -> x, v                   as torchdiffeq's

``so.reversible(keep=8)`` is the same route with another option; ``so.reversible(plan,
field, x, v)`` runs a plan of one's own.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

Option = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Gradient:
    """A way to differentiate a solve.

    Parameters
    ----------
    name : str
    run_plan : callable, optional
        Runs a plan; see above.
    run_solver : callable, optional
        Runs a solver of torchdiffeq.
    allowed : dict of str to callable
        ``check(value, name) -> value`` for each option that there is.
    options : dict
        Those that were given.
    account : callable, optional
        Of a route that compiles: what that has cost for a field.

    Examples
    --------
    >>> import secondorder as so
    >>> so.reversible(keep=8)
    reversible(keep=8)
    """

    name: str
    run_plan: Callable[..., list[tuple[Tensor, Tensor]]] | None = None
    run_solver: Callable[..., Any] | None = None
    allowed: Mapping[str, Option] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    account: Callable[[Any], Any] | None = None

    def __call__(self, *problem: Any, **options: Any) -> Any:
        """With options only: the route with these options.  With a plan: run it.

        Parameters
        ----------
        *problem
            ``plan, field, x, v`` and, where there are any, ``args``.
        **options
            Of the route.

        Returns
        -------
        Gradient, or list of (Tensor, Tensor)
            The states at the records of the plan.

        Raises
        ------
        TypeError, ValueError
            For an unknown option, or one out of range.
        """
        for name, value in options.items():
            if name not in self.allowed:
                known = f"one of {[*self.allowed]}" if self.allowed else "none"
                raise TypeError(
                    f"`{name}` is no option of the gradient {self.name!r}, whose "
                    f"options are {known}"
                )
            self.allowed[name](value, name)
        route = replace(self, options={**self.options, **options})
        return route.run(*problem) if problem else route

    def run(self, *problem: Any) -> list[tuple[Tensor, Tensor]]:
        """Run ``plan, field, x, v`` (and ``args``); return the recorded states."""
        if self.run_plan is None:
            raise ValueError(
                f"`gradient` {self.name!r} belongs to torchdiffeq's solvers, it "
                'runs no plan; use "backprop", "checkpoint" or "reversible"'
            )
        return self.run_plan(*problem, **self.options)

    def __repr__(self) -> str:
        """Show the name and the options."""
        inside = ", ".join(f"{k}={v!r}" for k, v in self.options.items())
        return f"{self.name}({inside})" if inside else self.name


def find_gradient(value: Any, table: Mapping[str, Gradient]) -> Gradient:
    """The gradient of a name, an object, a partial of one, or a function of a plan."""
    if isinstance(value, str):
        if value not in table:
            raise ValueError(f"`gradient` must be one of {[*table]}, got {value!r}")
        return table[value]
    if isinstance(value, Gradient):
        return value
    if isinstance(value, functools.partial) and isinstance(value.func, Gradient):
        return value()  # options alone make a route with these options
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        known = inspect.signature(value).parameters.values()
        own = {p.name: as_it_is for p in known if p.kind is p.KEYWORD_ONLY}
        return Gradient(name, run_plan=value, allowed=own)
    raise TypeError(
        "`gradient` must be a name or an entry of its table, got "
        f"{type(value).__name__}"
    )


def as_it_is(value: Any, name: str) -> Any:
    """Take any value: the function of the user checks it."""
    return value
