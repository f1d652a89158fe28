"""How a step is made: splittings, adaptive pairs, and the solvers of other libraries.

    METHODS     fixed steps: splittings by name
    COUPLED     Runge–Kutta methods made reversible, for every kind of system
    ADAPTIVE    steps chosen by an error estimate
    SOLVERS     torchdiffeq's and SciPy's

All are a ``Method``; ``find_method`` turns names into these objects, and ``fit`` says
whether one suits a problem, a gradient and the options that were given.
"""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..gradients import GRADIENTS, CompileWarning, Gradient, compiled
from ..solution import Solution
from ..systems import Problem, System
from .adaptive import Adaptive
from .coupled import Coupled
from .coupled_tables import COUPLED_METHODS
from .embedded import EMBEDDED, Embedded
from .event_functions import Event
from .external import External, externals
from .first_order_form import CALLBACKS, callbacks
from .method import Method, Options
from .nystrom import NYSTROM, Nystrom
from .splitting import Splitting
from .tables import SPLITTINGS
from .tolerances import step_control

METHODS: dict[str, Splitting] = {m.name: m for m in SPLITTINGS}
COUPLED: dict[str, Coupled] = {m.name: m for m in COUPLED_METHODS}
ADAPTIVE: dict[str, Any] = {m.name: m for m in (*EMBEDDED, *NYSTROM)}
SOLVERS: dict[str, External] = {m.name: m for m in externals()}

__all__ = [
    "ADAPTIVE",
    "COUPLED",
    "METHODS",
    "SOLVERS",
    "Adaptive",
    "Coupled",
    "Embedded",
    "Event",
    "External",
    "Method",
    "Nystrom",
    "Options",
    "Splitting",
    "check_fit",
    "check_system",
    "compile_route",
    "find_method",
    "with_account",
]


def compile_route(route: Gradient, method: Method | None, compile: bool) -> Gradient:
    """The route with its plans compiled, if asked for; warns where there are none.

    A network of layers has no method.
    """
    if not isinstance(compile, bool):
        raise TypeError(f"`compile` must be True or False, got {compile!r}")
    if not compile:
        return route
    adapts = isinstance(method, Adaptive) or getattr(method, "adaptive", False)
    unplanned = isinstance(method, External) or (adapts and route.name == "backprop")
    if method and unplanned:
        warnings.warn(
            f"`compile=True` runs this solve without compiling: {method.name!r} makes "
            f"no plan that gradient {route.name!r} runs; take one of {[*METHODS]}",
            CompileWarning,
            stacklevel=checks.caller(),
        )
        return route
    return compiled(route)


def with_account(solution: Solution, route: Gradient, field: Any) -> Solution:
    """A solution that tells what compiling has cost, if its route compiles."""
    if route.account is not None:
        told = route.account(field)
        solution.stats = replace(solution.stats, compiled=told)
    return solution


def find_method(value: Any) -> Method:
    """The method of a name; a method itself is returned."""
    if isinstance(value, str):
        for table in (METHODS, COUPLED, ADAPTIVE, SOLVERS):
            if value in table:
                return table[value]
        names = [*METHODS, *COUPLED, *ADAPTIVE, *SOLVERS]
        theirs = f"scipy_{value}"
        hint = f"; SciPy's method is {theirs!r} here" if theirs in SOLVERS else ""
        raise ValueError(f"`method` must be one of {names}, got {value!r}{hint}")
    if all(hasattr(value, name) for name in ("solve", "gradients", "takes_velocity")):
        return value
    raise TypeError(
        f"`method` must be a name or an entry of its table, got {type(value).__name__}"
    )


def check_fit(
    method: Method,
    gradient: Gradient,
    problem: Problem,
    step_size: Any = None,
    rtol: Any = None,
    atol: Any = None,
    marching: bool = False,
    **control: Any,
) -> Options:
    """Return the options, or raise where a method does not fit what it is asked."""
    options = Options(
        checks.step_size(step_size),
        checks.tolerance(rtol, "rtol"),
        checks.tolerance(atol, "atol"),
        **step_control(**control),
    )
    check_options(method, options)
    check_system(method, problem.system)
    problem.system.check_numbers()
    check_route(method, gradient, problem)
    if problem.t.ndim == 2 and not (method.per_sample_times or marching):
        raise ValueError(
            f"`t` holds per-sample grids {tuple(problem.t.shape)}, but {method.name!r} "
            "takes the same steps for all samples; use a 1-D `t`, or a fixed-step "
            'method such as "verlet" or "blanes_moan4"'
        )
    if not isinstance(method, External):
        warn_of_callbacks(method, problem.system)
    if problem.breakpoints is not None and not method.breakpoints:
        raise ValueError(
            f"`breakpoints` are not known to {method.name!r}; solve from one to "
            f"the next, or use one of {[*METHODS, *ADAPTIVE]}"
        )
    return options


def warn_of_callbacks(method: Method, system: System) -> None:
    """Warn where torchdiffeq would call something that a method does not."""
    heard = callbacks(system, CALLBACKS)
    unheard = [name for name, theirs in heard.items() if theirs]
    if unheard:
        warnings.warn(
            f"{method.name!r} does not call {unheard} of the system or its field, as "
            'torchdiffeq does; delete them, or use a method such as "dopri5"',
            stacklevel=checks.caller(),
        )


def check_options(method: Method, options: Options) -> None:
    """Raise for options that a method does not have."""
    given = {name for name, value in options._asdict().items() if value is not None}
    if "step_size" in given - method.options:
        raise ValueError(
            f"`step_size` is for fixed-step methods, but {method.name!r} adapts its "
            f"steps, got {options.step_size!r}; give `rtol` and `atol` instead"
        )
    control = given - method.options - {"rtol", "atol"}
    if control:
        fit = [m.name for m in (*ADAPTIVE.values(), *SOLVERS.values())]
        fit = [name for name in fit if control <= find_method(name).options]
        raise ValueError(
            f"`{min(control)}` has no effect on {method.name!r}; leave it out, or take "
            f"one of {fit}"
        )
    if given - method.options:
        raise ValueError(
            "`rtol` and `atol` have no effect on the fixed-step method "
            f"{method.name!r}; give `step_size`, or an adaptive method such as "
            '"dopri5"'
        )


def check_system(method: Method, system: System) -> None:
    """Raise where a field sees a velocity and the method has none, or vice versa."""
    if system.first_order and not getattr(method, "first_order", False):
        fit = [name for name, m in METHODS.items() if m.first_order]
        raise ValueError(
            f"{method.name!r} is for second-order systems; for FirstOrder use one of "
            f'{[*COUPLED, *fit]}, or a torchdiffeq method such as "dopri5" or "rk4"'
        )
    if method.takes_velocity in (None, system.takes_velocity):
        return
    if system.takes_velocity:
        needs = [name for name, m in METHODS.items() if m.takes_velocity]
        raise ValueError(
            f"the system is {type(system).__name__}, whose field takes a velocity; "
            f"{method.name!r} would ignore it: use one of {[*COUPLED]}, a torchdiffeq "
            'method such as "dopri5" or "rk4", or, where the velocity matters little, '
            f"one of {needs}"
        )
    raise ValueError(
        f"{method.name!r} is for `Acceleration`, whose field takes a velocity; for "
        f'{type(system).__name__} use "verlet" or another method'
    )


def check_route(method: Method, gradient: Gradient, problem: Problem) -> None:
    """Raise for a gradient that a method cannot give."""
    name = gradient.name
    if name in method.gradients:
        forgets = problem.system.first_order and isinstance(method, Splitting)
        if forgets and name == "reversible":
            raise ValueError(
                f'`gradient` "reversible" cannot undo the steps that {method.name!r} '
                'takes for FirstOrder, which forget the velocity; use "checkpoint" or '
                '"backprop"'
            )
        return
    if name not in GRADIENTS and "reversible" in method.gradients:
        return  # a function of a plan, of the user's own
    outside = method.gradients == {"adjoint"}
    if outside and name == "backprop":
        if not (torch.is_grad_enabled() and any(seekers(problem))):
            return
        raise ValueError(
            f"{method.name!r} runs outside autograd and would return results without "
            'gradients; use gradient="adjoint", another method, or torch.no_grad() '
            "if no gradient is needed"
        )
    works = " or ".join(f'"{g}"' for g in GRADIENTS if g in method.gradients)
    if name == "adjoint":
        why = f"belongs to torchdiffeq's solvers, not to {method.name!r}"
    elif "adjoint" in method.gradients:
        why = f"needs the moves of a plan, which {method.name!r} does not make"
    else:
        why = f"undoes steps, and the steps of {method.name!r} cannot be undone"
    tables: Iterable[Any] = (*ADAPTIVE.values(), *SOLVERS.values())
    other = next((m.name for m in tables if name in m.gradients), "verlet")
    raise ValueError(
        f'`gradient` "{name}" {why}; use {works}, or take method="{other}" for "{name}"'
    )


def seekers(problem: Problem) -> Iterable[bool]:
    """What of a problem wants a gradient."""
    yield from (p.requires_grad for p in problem.system.parameters())
    for part in (*problem.args, problem.x, problem.v, problem.t):
        yield isinstance(part, Tensor) and part.requires_grad
