"""torchdiffeq's solvers, and SciPy's through it, on the same systems by name.

A second-order system is a first-order one on the pair (x, v), so any of these solvers
takes it; they know nothing of its structure, keep no symplectic form and cannot be
reversed.  They are here to compare with, for dense adaptive output, and for stiff
fields (SciPy's implicit methods).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn
from torchdiffeq._impl.odeint import SOLVERS as TORCHDIFFEQ
from torchdiffeq._impl.solvers import FixedGridODESolver

from .. import checks
from ..gradients import Gradient, backprop
from ..plan.moves import Kick, checked
from ..solution import DenseOutput, Solution, Stats
from ..systems.equations import System, same
from ..systems.fields import Forced
from ..systems.problem import Problem
from .adaptive import tolerances
from .method import Options, Step
from .slopes import slopes
from .step_size import rounding_check

State = tuple[Tensor, Tensor]
SCIPY = {
    "scipy_solver": "LSODA",
    **{f"scipy_{name}": name for name in ("RK45", "DOP853", "Radau", "BDF", "LSODA")},
}

GIVING_UP = ("underflow in dt", "max_num_steps", "non-finite")  # torchdiffeq's words
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass(frozen=True)
class External:
    """A solver of torchdiffeq, or one of SciPy's.

    Parameters
    ----------
    name : str
    fixed : bool
        Whether it takes steps of a given size.
    scipy : str
        SciPy's name of the solver; empty for torchdiffeq's own.
    """

    name: str
    fixed: bool = False
    scipy: str = ""

    order = None
    takes_velocity = None
    first_order = True
    per_sample_times = False
    breakpoints = False

    @property
    def summary(self) -> str:
        """Whose solver it is."""
        return f"{'SciPy' if self.scipy else 'torchdiffeq'}'s solvers, by name"

    @property
    def options(self) -> frozenset[str]:
        """Tolerances, also for the implicit ones of the fixed-step solvers."""
        return frozenset({"rtol", "atol"} | ({"step_size"} if self.fixed else set()))

    @property
    def gradients(self) -> frozenset[str]:
        """SciPy runs outside autograd: only the adjoint differentiates it."""
        return frozenset({"adjoint"} if self.scipy else {"backprop", "adjoint"})

    @property
    def events(self) -> str:
        """Torchdiffeq has events of its own."""
        return "" if self.scipy else "own"

    def solve(self, problem: Problem, gradient: Gradient, options: Options) -> Solution:
        """Solve the first-order form by the solver."""
        x, v, t = problem.x, problem.v, problem.t
        watched = problem.monitor.watch(problem.system.field)
        form = self.form(problem, gradient, options, problem.system.replace(watched))
        xs, vs = form.run(gradient, (x, v), t, self.settings(options, x))
        watched.close()
        dense = DenseOutput(self, problem, t, xs, vs, (gradient, options))
        return Solution(t, xs, vs, form.stats(watched.evaluations), dense)

    def solve_event(
        self,
        problem: Problem,
        t0: Tensor,
        gradient: Gradient,
        options: Options,
        event_fn: Callable[..., Tensor],
        reverse_time: bool = False,
        horizon: float | None = None,
    ) -> tuple[Tensor, Solution]:
        """Delegate to ``torchdiffeq.odeint_event``."""
        x, v = problem.x, problem.v
        if problem.system.first_order:
            raise ValueError(
                f"`method` {self.name!r} has no events for FirstOrder; use a "
                'fixed-step method that solves it, such as "verlet", with `step_size`'
            )
        sign = check_event(event_fn, t0, x, v).sign()
        late = RuntimeError(
            f"no sign of `event_fn` changed within {horizon} of t0; wait longer with "
            "`horizon`"
        )

        def beyond(t: Tensor) -> bool:
            if horizon is None:
                return False
            slack = 4 * torch.finfo(t.dtype).eps * (abs(t0.item()) + horizon)
            return abs(t.item() - t0.item()) > horizon + slack

        def event(t: Tensor, state: State) -> Tensor:
            g = checks.event_value(event_fn(t, *state))
            # A step may end beyond the horizon with the event before it.
            if beyond(t) and bool((g.detach().sign() == sign).all()):
                raise late
            return g

        watched = problem.monitor.watch(problem.system.field)
        form = self.form(problem, gradient, options, problem.system.replace(watched))
        event_t, (xs, vs) = torchdiffeq.odeint_event(
            form,
            (x, v),
            t0,
            event_fn=event,
            reverse_time=reverse_time,
            odeint_interface=partial(form.interface, gradient),
            **self.settings(options, x),
        )
        if beyond(event_t.detach()):
            raise late
        if torch.is_grad_enabled() and xs.requires_grad:
            check_differentiable(event_fn, event_t, xs[-1], vs[-1])
        stats = form.stats(watched.evaluations)
        return event_t, Solution(torch.stack([t0, event_t]), xs, vs, stats)

    def step(self, problem: Problem) -> Step:
        """One interval of the solver."""
        form = self.form(problem, backprop, Options())
        settings = self.settings(Options(), problem.x)

        def step(t: Tensor, h: Tensor, state: State) -> tuple[State, None]:
            x, v = form.run(backprop, state, torch.stack([t, t + h]), settings)
            return (x[-1], v[-1]), None

        return step

    def between(self, dense: DenseOutput, i: int, times: Tensor) -> State:
        """Solve again from the left end of the interval."""
        problem, t = dense.problem, dense.t
        gradient, options = dense.steps
        order = times.detach().argsort(descending=bool(t[-1] < t[0]))
        ask = times[order]
        new = ask.detach().diff(prepend=t[i : i + 1].detach()) != 0
        if times.requires_grad:
            # A time that is asked for twice is two times to autograd.
            twice = order[1:][~new[1:]]
            if len(twice):
                once = order[torch.isin(order, twice, invert=True)]
                parts = [self.between(dense, i, times[k]) for k in (once, twice)]
                back = torch.cat([once, twice]).argsort()
                x, v = (torch.cat(pair)[back] for pair in zip(*parts, strict=True))
                return x, v
        form = self.form(problem, gradient, options)
        if form.outside and torch.is_grad_enabled() and times.requires_grad:
            raise ValueError(
                f"`times` require a gradient, but {self.name!r} runs outside autograd "
                "and would return states without; use another method, or detach them"
            )
        ask, back = torch.cat([t[i : i + 1], ask[new]]), new.cumsum(0)
        settings = self.settings(options, problem.x)
        x, v = form.run(gradient, (dense.x[i], dense.v[i]), ask, settings)
        place = torch.empty_like(order)
        place[order] = back
        return x[place], v[place]

    def form(
        self,
        problem: Problem,
        gradient: Gradient,
        options: Options,
        system: System | None = None,
    ) -> "FirstOrderForm":
        """The field of the solver."""
        form = FirstOrderForm(system or problem.system, problem.args, problem.x.dtype)
        form.check = rounding_check(*tolerances(options, problem.x), problem.x)
        form.check((problem.x, problem.v))
        supported = TORCHDIFFEQ["scipy_solver" if self.scipy else self.name]
        form.listen(problem.system, supported.valid_callbacks())
        form.outside = bool(self.scipy) and gradient.name == "backprop"
        return form

    def settings(self, options: Options, like: Tensor) -> dict[str, Any]:
        """The settings of torchdiffeq."""
        rtol, atol = tolerances(options, like)
        more: dict[str, Any] = {}
        if options.step_size is not None:
            more["step_size"] = options.step_size
        if self.scipy:
            more["solver"] = self.scipy
        return {
            "method": "scipy_solver" if self.scipy else self.name,
            "rtol": rtol,
            "atol": atol,
            "options": more or None,
        }


class FirstOrderForm(nn.Module):
    """A system as the field of torchdiffeq, with its further arguments.

    Attributes
    ----------
    rate : float
        max c/m, how fast the damping forgets.
    outside : bool
        Whether the solver runs outside autograd and nobody differentiates it.
    check : callable
        Raises where the tolerances are below the rounding of a state.
    counts : dict
        Steps by torchdiffeq's name of what is called after them.

    Notes
    -----
    States of half precision are solved in float32, by forces of half precision:
    torchdiffeq's times and steps are rounded as the state is.
    """

    def __init__(self, system: System, args: Sequence[Any], kind: torch.dtype) -> None:
        super().__init__()
        self.system, self.args, self.rate = system, args, system.rate()
        self.kind, self.wide = kind, torch.promote_types(kind, torch.float32)
        self.outside, self.record = False, torch.is_grad_enabled()
        self.counts: dict[str, int] = {}
        self.parts = 1 if system.first_order else 2
        self.check: Callable[[Any], Any] = same

    def forward(self, t: Tensor, state: State) -> State:
        """Return the derivative of (x, v)."""
        if self.outside and self.record:
            with torch.enable_grad():
                found = self.derivative(t, state)
            if any(part.requires_grad for part in found):
                raise ValueError(
                    "`field` depends on a tensor that requires a gradient, but SciPy's "
                    "solvers run outside autograd and would return results without; "
                    'use gradient="adjoint", another method, or torch.no_grad() if no '
                    "gradient is needed"
                )
            return found
        return self.derivative(t, state)

    def derivative(self, t: Tensor, state: Any) -> Any:
        """The derivative of (x, v), or of x alone, in the dtype that is solved in."""
        if self.system.first_order:
            x = state[0].to(self.kind)
            value = checked(self.system(t, x, *self.args), Kick(1.0), x)
            return (value.to(self.wide),)
        x, v = (part.to(self.kind) for part in state)
        _, a = self.system(t, (x, v), *self.args)
        return state[1], a.to(self.wide)

    def listen(self, system: System, supported: set[str]) -> None:
        """Count the steps, and pass on what the user wants to be called after them."""
        self.counts = dict.fromkeys(supported, 0)
        for name in CALLBACKS:
            theirs = callbacks(system, name)
            if theirs or name in supported:
                setattr(self, name, partial(self.after, name, theirs))
        for name in (f"{name}_adjoint" for name in CALLBACKS):
            for callback in callbacks(system, name):
                setattr(self, name, callback)

    def after(
        self, name: str, theirs: Sequence[Any], t: Tensor, state: State, h: Tensor
    ) -> None:
        """Follow a step."""
        if name in self.counts:
            self.counts[name] += 1
        if name != "callback_reject_step":
            self.check(state)
        for callback in theirs:
            callback(t, state[0] if self.system.first_order else state, h)

    def stats(self, evaluations: int) -> Stats:
        """What a solve cost; SciPy does not tell its steps."""
        counts = self.counts
        if "callback_accept_step" in counts:
            rejected = counts["callback_reject_step"]
            return Stats(evaluations, counts["callback_accept_step"], rejected)
        return Stats(evaluations, counts.get("callback_step"))

    def wanted(self) -> list[Tensor]:
        """What may want gradients besides the state and the times."""
        found: list[Tensor] = [p for p in self.parameters() if p.requires_grad]
        args = [a for a in self.args if isinstance(a, Tensor) and a.requires_grad]
        return found + args

    def run(
        self, gradient: Gradient, state: State, t: Tensor, settings: dict[str, Any]
    ) -> State:
        """The states at times ``(n,)``, each ``(n, *x.shape)``."""
        found: Any = [part.expand(len(t), *part.shape) for part in state]
        if len(t) > 1 and state[0].numel():
            with warnings.catch_warnings():
                # torchdiffeq passes on a `min_step`, of which only LSODA knows.
                warnings.filterwarnings(
                    "ignore", ".*no effect.*`min_step`", UserWarning
                )
                found = self.interface(gradient, self, state, t, **settings)
        if self.system.first_order:
            return found[0], slopes(self.system, t, found[0], self.args, gradient)
        x, v = found
        return x, v

    def interface(
        self, gradient: Gradient, form: Any, state: State, *times: Any, **settings: Any
    ) -> Any:
        """``torchdiffeq.odeint``, differentiated by a gradient."""
        if gradient.name == "adjoint":
            settings["adjoint_params"] = self.wanted()
        solver: Any = gradient.run_solver
        parts = state[: self.parts]
        start = tuple(part.to(self.wide) for part in parts)
        try:
            found = solver(form, start, *times, **settings)
        except AssertionError as error:
            if not any(words in str(error) for words in GIVING_UP):
                raise
            raise RuntimeError(
                f"torchdiffeq's {settings['method']!r} gave up ({error}): the solution "
                "or the field has a singularity or a jump, or is not finite, or `rtol` "
                "and `atol` are below rounding; loosen them, split `t` at jumps, or "
                "bound the field"
            ) from error
        if self.wide == self.kind:
            return found
        if "event_fn" not in settings:
            return tuple(part.to(self.kind) for part in found)
        event_t, (x, v) = found
        return event_t, (x.to(self.kind), v.to(self.kind))


def callbacks(system: System, name: str) -> list[Callable[..., Any]]:
    """What a user's system and its field want to be called after steps."""
    owners: list[Any] = [system, system.field]
    while isinstance(owners[-1], Forced):
        owners.append(owners[-1].field)
    found = (getattr(owner, name, None) for owner in owners)
    return [callback for callback in found if callable(callback)]


def check_event(
    event_fn: Callable[..., Tensor], t0: Tensor, x: Tensor, v: Tensor
) -> Tensor:
    """Raise for events that torchdiffeq would get wrong; the value at the start."""
    g = event_fn(t0.detach(), x.detach(), v.detach())
    refuse_parameters(g)
    g = checks.event_value(g).detach()
    if bool((g == 0).any()):
        raise ValueError(
            "`event_fn` is 0 at `t0`, where torchdiffeq would stop at once; use a "
            "fixed-step method, which starts at a zero, or move off it"
        )
    return g


def check_differentiable(
    event_fn: Callable[..., Tensor], t: Tensor, x: Tensor, v: Tensor
) -> None:
    """Raise where the time of an event has no derivative, or has too many."""
    refuse_parameters(event_fn(t.detach(), x.detach(), v.detach()))
    leaves = [part.detach().requires_grad_() for part in (t, x, v)]
    g = event_fn(*leaves)
    if not isinstance(g, Tensor) or not g.requires_grad:
        raise ValueError(checks.NO_SLOPE)


def refuse_parameters(g: Tensor) -> None:
    """Raise for event functions whose own parameters are to be learned."""
    if torch.is_grad_enabled() and g.requires_grad:
        raise ValueError(
            "`event_fn` has parameters that require gradients, which torchdiffeq's "
            "events do not pass on; use a fixed-step method, or torch.no_grad()"
        )


def externals() -> tuple[External, ...]:
    """All solvers of torchdiffeq, and SciPy's that it passes on."""
    theirs = [
        External(name, fixed=issubclass(kind, FixedGridODESolver))
        for name, kind in TORCHDIFFEQ.items()
        if name not in SCIPY
    ]
    return (*theirs, *(External(name, scipy=kind) for name, kind in SCIPY.items()))
