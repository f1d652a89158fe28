"""Coupled Runge–Kutta methods: any explicit method, made exactly reversible.

Two copies y and z of one state, λ = share, and the increment Ψ_h of the method:

    y ← λ y + (1 − λ) z + Ψ_h(t, z)        z ← z − Ψ_{−h}(t + h, y)

A mixing and two shears, each undone by itself: y is the result, z keeps the way back.
In floating point that way divides by λ, so λ has to be near 1, where the coupling is
hardly stable (van der Pol, μ = 5: λ ≥ 0.9 ends in NaN).  On the integers of the
reversible route a mixing keeps the log2(1/λ) bits it erases, the way back is exact for
any λ, and at λ = 1/4 the coupling is about as stable and as accurate as its base.  It
costs twice the evaluations of that.

References: McCallum & Foster, "Efficient, Accurate and Stable Gradients for Neural
ODEs", arXiv:2410.11648 (2024), for the coupling.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor

from .. import checks
from ..checks import differentiated
from ..gradients import Gradient, backprop
from ..gradients.replay import with_copied_buffers
from ..plan.compile import check_damping
from ..plan.coupling import coupled_plan
from ..plan.grid import divide, merge, step_counts
from ..plan.moves import Plan, Shear, evaluations, increment, walk
from ..plan.runge_kutta import RungeKutta, combine
from ..solution import DenseOutput, End, Solution, Stats
from ..systems.equations import as_double
from ..systems.problem import Problem
from .adaptive import Pull, Search, each_sample, spread, time_of, wants
from .joined import Form
from .method import Options, Step
from .slopes import slope, slopes
from .step_size import Control, node_times, step_through
from .tolerances import relative_size, rounding_check, tolerances

State = tuple[Tensor, Tensor]
FARTHEST = 20.0  # of h·c/m, where a limit is looked for


@dataclass(frozen=True)
class Coupled:
    """Two copies of a state, coupled by the increments of a Runge–Kutta method.

    Parameters
    ----------
    tableau : RungeKutta
        The base.
    share : float, default 1/4
        λ, how much of y a step keeps: 2^−b, and b bits per element and step are kept
        for the way back.
    adaptive : bool, default False
        Whether it chooses its steps by the companion of the base where no
        ``step_size`` is given.
    max_steps : int
        Steps, accepted or rejected, after which an adaptive solve gives up.
    summary : str
        One line saying when to choose it.
    name : str

    Raises
    ------
    ValueError
        For a share that is no such power of two, or an adaptive method without a
        companion.

    Examples
    --------
    Ralston's method of order 2, reversible, on a limit cycle:

    >>> import torch, secondorder as so
    >>> ralston = so.RungeKutta(2, stages=((2 / 3,),), weights=(1 / 4, 3 / 4))
    >>> pol = so.Acceleration(lambda t, x, v: 5 * (1 - x**2) * v - x)
    >>> t = torch.linspace(0, 20, 801)
    >>> x, v = so.odeint(pol, (torch.full((1,), 0.1), None), t,
    ...                  method=so.Coupled(ralston), gradient="reversible")
    """

    tableau: RungeKutta
    share: float = 0.25
    adaptive: bool = False
    max_steps: int = 100_000
    summary: str = ""
    name: str = "custom"

    gradients = frozenset({"backprop", "checkpoint", "reversible"})
    takes_velocity = None
    first_order = True
    per_sample_times = True
    breakpoints = True
    events = "march"
    rule = "exponential"

    def __post_init__(self) -> None:
        """Refuse what is no method."""
        checks.share(self.share)
        if not isinstance(self.tableau, RungeKutta):
            raise TypeError(
                "`tableau` must be a RungeKutta(order, stages, weights), got "
                f"{type(self.tableau).__name__}"
            )
        if self.adaptive and not self.tableau.companion:
            raise ValueError(
                f"`adaptive` needs a tableau with a `companion`, and "
                f"{self.tableau.name!r} has none; give its weights, or adaptive=False"
            )

    @property
    def order(self) -> int:
        """Order of accuracy, that of the base."""
        return self.tableau.order

    @property
    def options(self) -> frozenset[str]:
        """Steps of a given size, or chosen by tolerances."""
        return frozenset(Options._fields if self.adaptive else {"step_size"})

    def chooses(self, options: Options) -> bool:
        """Whether it chooses its steps; raises where a size is given as well."""
        others = {k: v for k, v in options._asdict().items() if k != "step_size"}
        given = [name for name, value in others.items() if value is not None]
        if options.step_size is not None and given:
            raise ValueError(
                f"give `step_size`, or `{given[0]}`, not both: steps of a given size "
                f"are not chosen, got step_size={options.step_size!r}"
            )
        return self.adaptive and options.step_size is None

    @cached_property
    def evaluations_per_step(self) -> int:
        """Evaluations of f per step: the base's, twice, and what the error takes."""
        base, more = len(self.tableau.weights), len(self.tableau.companion)
        return 2 * base + (self.adaptive and more > base)

    @cached_property
    def damping_limit(self) -> float:
        """The largest q = h·c/m that it damps stably.

        Of ẏ = −q y the map of (y, z) has the determinant λ and the trace
        1 + λ − (R(q) − 1)(R(−q) − λ), with the base's R(q): stable where that product
        lies between 0 and 2 (1 + λ).
        """

        def amplification(q: float) -> float:
            times = self.tableau.nodes
            return 1 + self.tableau.increment(lambda _, y: q * y, times, 1.0, 1.0)

        def stable(q: float) -> bool:
            product = (amplification(q) - 1) * (amplification(-q) - self.share)
            return 0 <= product <= 2 * (1 + self.share)

        found = (k / 100 for k in range(1, int(100 * FARTHEST)) if not stable(k / 100))
        return next(found, FARTHEST) - 0.01

    def compile(
        self, t: Tensor, counts: Sequence[int], like: Tensor, **more: Any
    ) -> Plan:
        """The plan of this method; see ``coupled_plan``."""
        return coupled_plan(self.tableau, self.share, t, counts, like, **more)

    def solve(self, problem: Problem, gradient: Gradient, options: Options) -> Solution:
        """Solve in steps of a given size, or in steps that an error estimate chooses.

        Raises
        ------
        ValueError
            If steps of a given size are too long for the damping, or if both a size
            and tolerances are given.
        RuntimeError
            If a chosen step underflows or the steps run out.
        """
        if self.chooses(options):
            return self.solve_adaptively(problem, gradient, options)
        system, x, v, t = problem[:4]
        keep, broken = None, None
        if problem.breakpoints is not None:
            t, keep, broken = merge(t, problem.breakpoints)
        counts = step_counts(t, options.step_size)
        mass, damping = as_double(system.mass), as_double(system.damping)
        if not system.first_order:
            check_damping(cast(Any, self), mass, damping, divide(t, counts, x)[1])
        form = Form.of(problem)
        plan = self.compile(t, counts, form.start, broken=broken)
        cost = evaluations(plan)
        watched = None
        if problem.monitor:
            watched = problem.monitor.watch(system.field, cost)
            form = Form.of(problem, watched)
        start = form.both(problem.goes_on(self))
        pairs = gradient.run(plan, form.field, *start, form.args)
        if watched:
            watched.close()
        pairs = [start, *pairs]
        steps = [[k / count for k in range(count + 1)] for count in counts]
        xs, vs, dense = self.results(
            problem, gradient, form, t, pairs, steps, tuple(broken or ())
        )
        cost += len(xs) * system.first_order
        if keep is not None:
            xs, vs = xs[keep], vs[keep]
        stats, end = Stats(cost, accepted=sum(counts)), End(self, pairs[-1][1])
        return Solution(problem.t, xs, vs, stats, dense, end=end)

    def results(
        self,
        problem: Problem,
        gradient: Gradient,
        form: Form,
        t: Tensor,
        pairs: Sequence[State],
        steps: Sequence[Sequence[float]],
        broken: tuple[bool, ...] = (),
    ) -> tuple[Tensor, Tensor, DenseOutput]:
        """Positions and velocities of the first copy, and what is between them."""
        states = [(problem.x, problem.v), *(form.leave(y) for y, _ in pairs[1:])]
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        if problem.system.first_order:
            vs = slopes(problem.system, t, xs, problem.args, gradient)
        # The way through an interval again starts from both copies.
        again = tuple(
            (tuple(fractions), z)
            for fractions, (_, z) in zip(steps, pairs, strict=False)
        )
        return xs, vs, DenseOutput(self, problem, t, xs, vs, again, broken)

    def solve_adaptively(
        self, problem: Problem, gradient: Gradient, options: Options
    ) -> Solution:
        """Choose the steps by the companion; differentiate those accepted."""
        system, x, v, t, args = problem[:5]
        keep: list[int] | None = None
        broken: list[bool] = []
        if problem.breakpoints is not None:
            t, keep, broken = merge(t, problem.breakpoints)
        watched = problem.monitor.watch(system.field)
        form, grid = Form.of(problem, watched), t.double().cpu()
        direct = gradient.name == "backprop" or not torch.is_grad_enabled()
        pull = Pull(form.field, form.args)
        if not direct:
            wanted = wants((x, v, t, system.mass, system.damping, *args))
            pull = Search(form.field, form.args, wanted)
        control = self.controller(problem, form, options).after(problem.goes_on(self))
        enter_interval = partial(pull.window.enter, grid, broken)
        enter_interval(0)

        y, z = form.both(problem.goes_on(self))
        start: Any = (y, z, None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and direct):
            step = self.stepper(pull)
            path = step_through(
                step, control, start, partial(derivatives, pull), grid, enter_interval
            )
        watched.close()
        pairs, cost = path.states, watched.evaluations
        if isinstance(pull, Search) and pull.wanted:
            # The steps were found by the field itself, which so has counted them.
            again = Form.of(problem, with_copied_buffers(system.field))
            asked = [part == 0 for _, part in path.nodes[1:]]
            fine, counts = node_times(grid, path.nodes), [1] * len(asked)
            jumps = [broken[i] and f == 0 for i, f in path.nodes] if broken else None
            plan = self.compile(fine, counts, y, records=asked, broken=jumps)
            pairs = [(y, z), *gradient.run(plan, again.field, y, z, again.args)]
            cost += evaluations(plan)
        steps = [[f for k, f in path.nodes if k == i] for i in range(len(t))]
        xs, vs, dense = self.results(
            problem, gradient, form, t, pairs, steps, tuple(broken)
        )
        cost += len(xs) * system.first_order
        times = node_times(grid, path.nodes).detach().to(t.device)
        if keep is not None:
            xs, vs = xs[keep], vs[keep]
        stats = Stats(cost, path.accepted, path.rejected, times)
        end = End(self, pairs[-1][1], path.length, path.previous)
        return Solution(problem.t, xs, vs, stats, dense, end=end)

    def controller(self, problem: Problem, form: Form, options: Options) -> Control:
        """The limits of the steps of one solve."""
        rate, leave = problem.system.rate(), form.leave
        rtol, atol = tolerances(options, problem.x)
        size = relative_size(rtol, atol, norm=options.norm)
        check = rounding_check(rtol, atol, problem.x)
        limit = self.damping_limit * (1 - 1e-9)  # what is at the limit may round above
        largest = min(
            limit / rate if rate > 0 else math.inf, options.max_step or math.inf
        )

        def words(y: Tensor) -> str:
            reach = y.detach().abs().max().item() if y.numel() else 0.0
            return f'"{self.name}", largest |x|, |v| = {reach:.3g}, 1/ε = {rate:.3g}'

        return Control(
            self.tableau.companion_order + 1,
            lambda *states: size(*(leave(state[0]) for state in states)),
            largest,
            options.max_steps or self.max_steps,
            words,
            lambda state: check(leave(state[0])),
            options.first_step,
        )

    def stepper(self, pull: Pull) -> Callable[..., Any]:
        """Return ``step(t, h, (y, z, None)) -> ((y, z, None), (error,))``."""

        def step(t: Tensor, h: Tensor, state: Any) -> Any:
            y, z, _ = state
            push, error = self.pushed(pull, t, h, z)
            new = self.share * y + (1 - self.share) * z + push
            # Fields meet no NaN; nobody asks the device: the error rejects the step.
            met = torch.where(new.detach().isfinite(), new, y)
            back, _ = self.pushed(pull, t + h, -h, met, False)
            return (new, z - back, None), (error,)

        return step

    def pushed(
        self, pull: Pull, t: Tensor, h: Tensor, y: Tensor, measured: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Ψ_h(t, y), and its error where the base has a companion."""
        base = self.tableau
        t, h = each_sample(t, y), each_sample(h, y)
        nodes = torch.tensor(base.nodes, dtype=torch.float64, device=h.device)
        times = time_of(t + h * spread(nodes, h), y).unbind()
        size = h.to(y) if differentiated(h) or h.ndim else h.item()
        slopes = base.slopes(pull, times, size, y)
        push = size * combine(base.weights, slopes)
        if not (measured and base.companion):
            return push, None
        with torch.no_grad():
            found = [slope.detach() for slope in slopes]
            if len(base.companion) > len(base.weights):
                found.append(pull(time_of(t + h, y), (y + push).detach()))
            both = combine(base.companion, found) - combine(base.weights, found)
            return push, size * both

    def step(self, problem: Problem) -> Step:
        """One step of the base, and its error where it has a companion."""
        form = Form.of(problem)
        pull = Pull(form.field, form.args)

        def step(t: Tensor, h: Tensor, state: State) -> tuple[Any, Any]:
            push, error = self.pushed(pull, t, h, y := form.enter(*state))
            x, v = form.leave(y + push)
            if problem.system.first_order:
                v = slope(problem.system, t + h, x, problem.args)
            return (x, v), None if error is None else form.leave(error)

        return step

    def between(self, dense: DenseOutput, i: int, times: Tensor) -> State:
        """The same steps again, and part of one of the base to each time.

        As accurate as the method, also where no acceleration is known.
        """
        problem, (fractions, z) = dense.problem, dense.steps[i]
        form, t = Form.of(problem), dense.t.double()
        parts = torch.tensor(fractions, dtype=t.dtype, device=t.device)
        nodes, count = t[i] + parts * (t[i + 1] - t[i]), len(fractions) - 1
        broken = [False] * (count + 1)
        if dense.broken:
            broken[0], broken[-1] = dense.broken[i], dense.broken[i + 1]
        y = form.enter(dense.x[i], dense.v[i])
        plan = self.compile(nodes, [1] * count, y, broken=broken)
        ys = [y, *(y for y, _ in walk(plan, form.field, y, z, form.args)[0])]
        sign = -1.0 if nodes[-1] < nodes[0] else 1.0
        grid, wanted = sign * nodes.detach(), sign * times.detach().double()
        places = torch.searchsorted(grid, wanted, right=True) - 1
        found = []
        for time, k in zip(times.double(), places.clamp(0, count - 1), strict=True):
            part = torch.stack([nodes[k], time])
            sides = [broken[k], False]
            _, move, *_ = self.compile(part, [1], ys[k], broken=sides)
            push = increment(form.field, cast(Shear, move), ys[k], form.args)
            found.append(ys[k] + push)
        x, v = (
            torch.stack(parts) for parts in zip(*map(form.leave, found), strict=True)
        )
        if problem.system.first_order:
            v = slopes(problem.system, times, x, problem.args, backprop)
        return x, v


def derivatives(pull: Pull, time: Any, state: Any, force: Any = None) -> State:
    """The derivatives of both copies, which are equal."""
    if force is None:
        now = torch.as_tensor(time, dtype=torch.float64, device="cpu")
        force = pull(time_of(now, state[0]), state[0])
    return force, force
