"""torchdiffeq's solvers, and SciPy's through it, on the same systems by name.

A second-order system is a first-order one on the pair (x, v), so any of these solvers
takes it; they know nothing of its structure, keep no symplectic form and cannot be
reversed.  They are here to compare with, for dense adaptive output, and for stiff
fields (SciPy's implicit methods).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchdiffeq
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS as TORCHDIFFEQ
from torchdiffeq._impl.solvers import FixedGridODESolver

from .. import checks
from ..gradients import Gradient, backprop
from ..plan.grid import merge
from ..solution import DenseOutput, Solution, Stats
from ..systems.equations import System
from ..systems.problem import Problem
from .first_order_form import FirstOrderForm, check_differentiable, check_event
from .method import Options, Step
from .tolerances import part_of, rounding_check, tolerances

State = tuple[Tensor, Tensor]
SCIPY = {
    "scipy_solver": "LSODA",
    **{
        f"scipy_{name}": name
        for name in ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
    },
}


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
    breakpoints = True

    @property
    def summary(self) -> str:
        """Whose solver it is."""
        return f"{'SciPy' if self.scipy else 'torchdiffeq'}'s solvers, by name"

    @property
    def options(self) -> frozenset[str]:
        """Tolerances, also for the implicit ones of the fixed-step solvers."""
        if self.fixed:
            return frozenset({"rtol", "atol", "step_size"})
        more = {"max_step"} if self.scipy else {"first_step", "max_step", "max_steps"}
        return frozenset({"rtol", "atol"} | more)

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
        keep, broken = None, [False] * len(t)
        if problem.breakpoints is not None:
            t, keep, broken = merge(t, problem.breakpoints)
        watched = problem.monitor.watch(problem.system.field)
        system, settings = problem.system.replace(watched), self.settings(options, x)
        cuts = [k for k in range(1, len(t) - 1) if broken[k]]
        pieces, state, steps = [], (x, v), []
        for i, end in itertools.pairwise([0, *cuts, len(t) - 1]):
            form = self.form(problem, gradient, options, system)
            form.window.enter(t, broken, i, end)
            path = form.run(gradient, state, t[i : end + 1], settings)
            state = path[0][-1], path[1][-1]
            pieces.append(path if end == len(t) - 1 else [y[:-1] for y in path])
            steps.append(form.stats(0, t[i]))
        watched.close()
        xs, vs = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        dense = DenseOutput(
            self, problem, t, xs, vs, (gradient, options), tuple(broken if keep else ())
        )
        if keep is not None:
            xs, vs = xs[keep], vs[keep]
        stats = total(steps, watched.evaluations)
        return Solution(problem.t, xs, vs, stats, dense)

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
        form.window.enter(t, dense.broken, i)
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
        given = {
            "step_size": options.step_size, "first_step": options.first_step,
            "max_step": options.max_step, "max_num_steps": options.max_steps,
        }  # fmt: skip
        more: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.scipy:
            more["solver"] = self.scipy
        return {
            "method": "scipy_solver" if self.scipy else self.name,
            "rtol": self.tolerance(rtol, "rtol", like),
            "atol": self.tolerance(atol, "atol", like),
            "options": more or None,
        }

    def tolerance(self, value: Any, name: str, like: Tensor) -> Any:
        """A tolerance as torchdiffeq reads it: a number, or flat ones of x and v."""
        if isinstance(value, float):
            return value
        if self.scipy:
            raise ValueError(
                f"`{name}` must be one number for {self.name!r}; another method "
                "has tolerances of each entry"
            )
        parts = (
            torch.as_tensor(part_of(value, k, like.real), device=like.device)
            for k in (0, 1)
        )
        return tuple(p.expand(like.shape).reshape(-1) for p in parts)


def total(parts: Sequence[Stats], evaluations: int) -> Stats:
    """What the pieces of a solve cost together."""
    accepted = [part.accepted for part in parts]
    known = [n for n in accepted if n is not None]
    times = [part.times for part in parts if part.times is not None]
    return Stats(
        evaluations,
        sum(known) if len(known) == len(accepted) else None,
        sum(part.rejected for part in parts),
        torch.cat([times[0][:1], *(each[1:] for each in times)]) if times else None,
    )


def externals() -> tuple[External, ...]:
    """All solvers of torchdiffeq, and SciPy's that it passes on."""
    theirs = [
        External(name, fixed=issubclass(kind, FixedGridODESolver))
        for name, kind in TORCHDIFFEQ.items()
        if name not in SCIPY
    ]
    return (*theirs, *(External(name, scipy=kind) for name, kind in SCIPY.items()))
