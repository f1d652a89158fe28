"""Adaptive methods: steps chosen by an error estimate, and the accepted ones kept.

What the pairs of ``embedded.py`` and ``nystrom.py`` share.  Steps are looked for, with
a graph where backprop wants one; other routes differentiate those that were taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..checks import differentiated
from ..gradients import Gradient
from ..gradients.replay import with_copied_buffers
from ..plan.grid import Window, merge
from ..plan.moves import Kick, force
from ..solution import DenseOutput, End, Solution, Stats
from ..systems.equations import System, same
from ..systems.problem import Problem
from .method import Options, Step
from .step_size import Control, Path, interval, node_times, step_through
from .tolerances import relative_size, rounding_check, tolerances

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Adaptive:
    """An adaptive method: a pair of methods, and the limits of its steps.

    Parameters
    ----------
    order, companion : int
        Orders of the method and of the one its error is measured against.
    damping_limit : float
        Largest h·c/m; longer steps are cut.
    max_steps : int
        Steps, accepted or rejected, after which a solve gives up.
    summary : str
        One line saying when to choose it.
    name : str
    """

    order: int
    companion: int
    damping_limit: float = math.inf
    max_steps: int = 100_000
    summary: str = ""
    name: str = "custom"

    options = frozenset(Options._fields) - {"step_size"}
    gradients = frozenset({"backprop", "checkpoint", "reversible"})
    takes_velocity = False
    per_sample_times = False
    breakpoints = True
    events = "march"

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of f per accepted step."""
        raise NotImplementedError

    def stepper(self, core: System, like: Tensor, pull: "Pull") -> Callable[..., Any]:
        """Return ``step(t, h, (x, v, g)) -> ((x, v, g), (ex, ev))``."""
        raise NotImplementedError

    def replay(
        self,
        core: System,
        path: Path,
        start: State,
        t: Tensor,
        gradient: Gradient,
        args: Sequence[Any],
        broken: Sequence[bool] = (),
    ) -> tuple[list[State], int]:
        """The accepted steps again, through a gradient route; states and cost."""
        raise NotImplementedError

    def solve(self, problem: Problem, gradient: Gradient, options: Options) -> Solution:
        """Choose the steps by an error estimate; differentiate those accepted.

        Raises
        ------
        ValueError
            If the tolerances are below the rounding of the state.
        RuntimeError
            If the step underflows or the steps run out.

        Notes
        -----
        The steps are differentiated, the choice of their lengths is not.
        """
        system, x, v, t, args = problem[:5]
        keep: list[int] | None = None
        broken: list[bool] = []
        if problem.breakpoints is not None:
            t, keep, broken = merge(t, problem.breakpoints)
        core, enter, leave = system.in_modes(x)
        rtol, atol = tolerances(options, x)
        size = relative_size(rtol, atol, leave, options.norm)
        check = rounding_check(rtol, atol, x)
        control = self.controller(core, size, check, options)
        control = control.after(problem.goes_on(self))
        field = problem.monitor.watch(core.field)
        pull, grid = Pull(field, args), t.double().cpu()
        y, w = enter(x), enter(v)
        direct = gradient.name == "backprop" or not torch.is_grad_enabled()
        if not direct:
            wanted = wants((y, w, t, core.mass, core.damping, *args))
            pull = Search(field, args, wanted)
        enter_interval = partial(pull.window.enter, grid, broken)
        enter_interval(0)
        with torch.set_grad_enabled(torch.is_grad_enabled() and direct):
            first = pull(time_of(t[0], x), y)
            slopes = partial(derivative, core, pull)
            step = self.stepper(core, x, pull)
            start = y, w, first
            path = step_through(step, control, start, slopes, grid, enter_interval)
        field.close()
        inner, cost = path.states, field.evaluations
        if isinstance(pull, Search) and pull.wanted:
            # The steps were found by the field itself, which so has counted them.
            again = core.replace(with_copied_buffers(core.field))
            inner, more = self.replay(again, path, (y, w), grid, gradient, args, broken)
            cost += more
        states = [(x, v), *((leave(a), leave(b)) for a, b in inner[1:])]
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        steps = [[f for k, f in path.nodes if k == i] for i in range(len(t))]
        fractions = tuple(map(tuple, steps))
        dense = DenseOutput(self, problem, t, xs, vs, fractions, tuple(broken))
        times = node_times(grid, path.nodes).detach().to(t.device)
        stats = Stats(cost, path.accepted, path.rejected, times)
        if keep is not None:
            xs, vs = xs[keep], vs[keep]
        end = End(self, None, path.length, path.previous)
        return Solution(problem.t, xs, vs, stats, dense, end=end)

    def step(self, problem: Problem) -> Step:
        """One step and its error, in the coordinates of the problem."""
        core, enter, leave = problem.system.in_modes(problem.x)
        step = self.stepper(core, problem.x, Pull(core.field, problem.args))

        def outside(t: Tensor, h: Tensor, state: State) -> tuple[State, State]:
            start = enter(state[0]), enter(state[1]), None
            (x, v, _), error = step(t, h, start)
            return (leave(x), leave(v)), (leave(error[0]), leave(error[1]))

        return outside

    def between(self, dense: DenseOutput, i: int, times: Tensor) -> State:
        """The accepted steps again, and part of one to each time.

        As accurate as the method, which an interpolant of x, v and the acceleration is
        not at order 8.
        """
        problem, fractions = dense.problem, dense.steps[i]
        core, enter, leave = problem.system.in_modes(problem.x)
        pull = Pull(core.field, problem.args)
        step = self.stepper(core, problem.x, pull)
        t, times = dense.t.double().cpu(), times.double().cpu()
        pull.window.enter(t, dense.broken, i)
        states: list[Any] = [(enter(dense.x[i]), enter(dense.v[i]), None)]
        for begin, end in zip(fractions, fractions[1:], strict=False):
            states.append(step(*interval(t, i, begin, end), states[-1])[0])
        found, span = [], t[i + 1] - t[i]
        for time in times:
            part = ((time - t[i]) / span).item()
            k = max((k for k, f in enumerate(fractions) if f <= part), default=0)
            now = t[i] + fractions[k] * span
            y, w, _ = step(now, time - now, states[k])[0]
            found.append((leave(y), leave(w)))
        x, v = (torch.stack(parts) for parts in zip(*found, strict=True))
        return x, v

    def controller(
        self,
        core: System,
        size: Callable[..., float],
        check: Callable[[Any], Any] = same,
        options: Options = Options(),  # noqa: B008
    ) -> Control:
        """The limits of the steps of one solve."""
        rate = core.rate()
        limit = self.damping_limit * (1 - 1e-9)  # what is at the limit may round above
        largest = min(
            limit / rate if rate > 0 else math.inf, options.max_step or math.inf
        )
        most = options.max_steps or self.max_steps

        def words(x: Tensor) -> str:
            reach = x.detach().abs().max().item() if x.numel() else 0.0
            return f'"{self.name}", max |x| = {reach:.3g}, max c/m = 1/ε = {rate:.3g}'

        return Control(
            self.companion + 1, size, largest, most, words, check, options.first_step
        )


def derivative(
    core: System, pull: "Pull", time: Any, state: State, first: Tensor | None = None
) -> State:
    """(v, a) with a = (f − c v)/m, from the force where it is known."""
    x, v = state
    value = (
        pull(time_of(torch.as_tensor(time, device=x.device), x), x)
        if first is None
        else first
    )
    return v, core.acceleration(value, v).to(v.dtype)


class Pull:
    """``pull(time, x)``, the checked force of a field in the dtype of the state."""

    def __init__(self, field: Callable[..., Tensor], args: Sequence[Any]) -> None:
        self.field, self.args = field, args
        self.window = Window()

    def __call__(self, time: Tensor, x: Tensor) -> Tensor:
        """Evaluate the force."""
        time = self.window.inside(time)
        value = force(self.field, Kick(1.0, time), x, None, self.args)
        return value if value.dtype == x.dtype else value.to(x.dtype)


class Search(Pull):
    """Forces while steps are looked for: without a graph, but noting who wants one.

    Attributes
    ----------
    wanted : bool
        Whether anything is to be differentiated; a force at any time may show that it
        depends on something that is (on the weights, or on a tensor in a closure).
    """

    def __init__(
        self, field: Callable[..., Tensor], args: Sequence[Any], wanted: bool
    ) -> None:
        super().__init__(field, args)
        self.wanted = wanted

    def __call__(self, time: Tensor, x: Tensor) -> Tensor:
        """Evaluate the force."""
        with torch.set_grad_enabled(not self.wanted):
            value = super().__call__(time, x)
        self.wanted = self.wanted or differentiated(value)
        return value.detach()


def time_of(t: Tensor, like: Tensor) -> Tensor:
    """Times that a field is called with: no coarser than float32, as in a plan."""
    kind = torch.promote_types(like.dtype, torch.float32)
    return t.to(like.device, kind)


def each_sample(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers ``()``, or one for each sample ``(batch,)`` as a column of the state."""
    if not numbers.ndim:
        return numbers
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


def spread(numbers: Tensor, h: Tensor) -> Tensor:
    """The numbers of a table ``(k,)``, to be multiplied by steps ``()`` or columns."""
    return numbers.to(h.device).reshape(-1, *[1] * h.ndim)


def wants(numbers: Sequence[Any]) -> bool:
    """Whether any of these is to be differentiated."""
    return torch.is_grad_enabled() and any(
        isinstance(n, Tensor) and differentiated(n) for n in numbers
    )
