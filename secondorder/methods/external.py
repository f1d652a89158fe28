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

from ..gradients import Gradient, backprop
from ..solution import DenseOutput, Solution, Stats
from ..systems.equations import System
from ..systems.problem import Problem
from .adaptive import tolerances
from .method import Options, Step

State = tuple[Tensor, Tensor]
SCIPY = {
    "scipy_solver": "LSODA",
    **{f"scipy_{name}": name for name in ("RK45", "DOP853", "Radau", "BDF", "LSODA")},
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
        form = WithArguments(problem.system.replace(watched), problem.args)
        settings = self.settings(options, x)
        if len(t) == 1:
            xs, vs = x.unsqueeze(0), v.unsqueeze(0)
        else:
            xs, vs = form.run(gradient, (x, v), t, settings)
        watched.close()
        dense = DenseOutput(self, problem, t, xs, vs, (gradient, options))
        stats = Stats(watched.evaluations, accepted=0)
        return Solution(t, xs, vs, stats, dense)

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
        check_event(event_fn, t0, x, v)

        def event(t: Tensor, state: State) -> Tensor:
            if horizon is not None and abs(t.item() - t0.item()) > horizon:
                raise RuntimeError(
                    f"no sign of `event_fn` changed within {horizon:.6g} of t0; wait "
                    "longer with `horizon`"
                )
            return event_fn(t, *state)

        watched = problem.monitor.watch(problem.system.field)
        form = WithArguments(problem.system.replace(watched), problem.args)
        event_t, (xs, vs) = torchdiffeq.odeint_event(
            form,
            (x, v),
            t0,
            event_fn=event,
            reverse_time=reverse_time,
            odeint_interface=partial(form.interface, gradient),
            **self.settings(options, x),
        )
        stats = Stats(watched.evaluations, accepted=0)
        return event_t, Solution(torch.stack([t0, event_t]), xs, vs, stats)

    def step(self, problem: Problem) -> Step:
        """One interval of the solver."""
        form = WithArguments(problem.system, problem.args)
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
        ask, back = times[order].unique_consecutive(return_inverse=True)
        first = bool(ask[0] == t[i])
        ask = ask if first else torch.cat([t[i : i + 1], ask])
        form = WithArguments(problem.system, problem.args)
        settings = self.settings(options, problem.x)
        x, v = form.run(gradient, (dense.x[i], dense.v[i]), ask, settings)
        place = torch.empty_like(order)
        place[order] = back + (not first)
        return x[place], v[place]

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


class WithArguments(nn.Module):
    """A system as the field of torchdiffeq, with its further arguments.

    Attributes
    ----------
    rate : float
        max c/m, how fast the damping forgets.
    """

    def __init__(self, system: System, args: Sequence[Any]) -> None:
        super().__init__()
        self.system, self.args, self.rate = system, args, system.rate()

    def forward(self, t: Tensor, state: State) -> State:
        """Return the derivative of (x, v)."""
        return self.system(t, state, *self.args)

    def wanted(self) -> list[Tensor]:
        """What may want gradients besides the state and the times."""
        found: list[Tensor] = [p for p in self.parameters() if p.requires_grad]
        args = [a for a in self.args if isinstance(a, Tensor) and a.requires_grad]
        return found + args

    def run(
        self, gradient: Gradient, state: State, t: Tensor, settings: dict[str, Any]
    ) -> State:
        """The states at times ``(n,)``, each ``(n, *x.shape)``."""
        with warnings.catch_warnings():
            # torchdiffeq passes on a `min_step`, of which only LSODA knows.
            warnings.filterwarnings("ignore", ".*no effect.*`min_step`", UserWarning)
            return self.interface(gradient, self, state, t, **settings)

    def interface(self, gradient: Gradient, *problem: Any, **settings: Any) -> Any:
        """``torchdiffeq.odeint``, differentiated by a gradient."""
        if gradient.name == "adjoint":
            settings["adjoint_params"] = self.wanted()
        solver: Any = gradient.run_solver
        return solver(*problem, **settings)


def check_event(
    event_fn: Callable[..., Tensor], t0: Tensor, x: Tensor, v: Tensor
) -> None:
    """Raise for events that torchdiffeq would get wrong."""
    g = event_fn(t0.detach(), x.detach(), v.detach())
    if torch.is_grad_enabled() and g.requires_grad:
        raise ValueError(
            "`event_fn` has parameters that require gradients, which torchdiffeq's "
            "events do not pass on; use a fixed-step method, or torch.no_grad()"
        )
    if bool((g.detach() == 0).any()):
        raise ValueError(
            "`event_fn` is 0 at `t0`, where torchdiffeq would stop at once; use a "
            "fixed-step method, which starts at a zero, or move off it"
        )


def externals() -> tuple[External, ...]:
    """All solvers of torchdiffeq, and SciPy's that it passes on."""
    theirs = [
        External(name, fixed=issubclass(kind, FixedGridODESolver))
        for name, kind in TORCHDIFFEQ.items()
        if name not in SCIPY
    ]
    return (*theirs, *(External(name, scipy=kind) for name, kind in SCIPY.items()))
