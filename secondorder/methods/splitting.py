"""Splitting methods: a step is a table of flows, and a table of numbers a method.

The letters are those of ``plan/flows.py``; ``so.METHODS`` holds the methods by name.

The numbers are in ``tables.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..checks import Number
from ..gradients import Gradient, backprop
from ..plan.compile import compile_plan
from ..plan.flows import FLOWS
from ..plan.grid import inward, merge, step_counts
from ..plan.known import known_plan, noted
from ..plan.moves import Plan, evaluations, walk
from ..solution import DenseOutput, End, Solution, Stats, quintic_hermite
from ..systems.equations import FirstOrder, System
from ..systems.numbers import in_dtype
from ..systems.problem import Problem
from .method import Options, Step
from .slopes import partial_steps, slope, slopes
from .velocity_copies import watch_copies

STIFF = {"R": "B", "D": "A"}
Flows = tuple[tuple[str, float], ...]
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Splitting:
    """A method: which flows make one step.

    Parameters
    ----------
    order : int
        Order of accuracy of (x, v) as h → 0.
    flows : tuple of (str, float)
        Letters of ``so.plan.FLOWS`` with their fractions of the step.
    damping_limit : float
        Largest h·c/m at which every force with unit k·h stays stable.
    rule : {"exponential", "euler"}
        How a relaxation damps: e^{−z}, or 1 − z as Momentum ResNets read γ.
    force_gradient : (float, float)
        α and the cap c∞ of the nested kicks N.
    copy_damping : float
        Factor on the difference of the doubled velocities, once per step (M).
    summary : str
        One line saying when to choose it.
    name : str

    Raises
    ------
    ValueError
        For unknown letters, letters of v beside letters of p = m v, or fractions that
        do not add up to one step of time and of force.

    Examples
    --------
    Strang's splitting the other way round, kick first:

    >>> import torch, secondorder as so
    >>> kicks = so.Splitting(order=2, flows=(("B", 0.5), ("A", 1.0), ("B", 0.5)))
    >>> system = so.SecondOrder(lambda t, x: -x, epsilon=0.5)
    >>> t = torch.linspace(0, 1, 11)
    >>> x, v = so.odeint(system, (torch.ones(1), None), t, method=kicks)
    """

    order: int
    flows: Flows
    damping_limit: float = math.inf
    rule: str = "exponential"
    force_gradient: tuple[float, float] = (0.0, 1.0)
    copy_damping: float = 0.9
    summary: str = ""
    name: str = "custom"

    options = frozenset({"step_size"})
    gradients = frozenset({"backprop", "checkpoint", "reversible"})
    per_sample_times = True
    breakpoints = True
    events = "steps"

    def __post_init__(self) -> None:
        """Refuse what is no method."""
        check_flows(self.flows)
        if self.rule not in ("exponential", "euler"):
            raise ValueError(
                f'`rule` must be "exponential" or "euler", got {self.rule!r}'
            )

    @cached_property
    def evaluations_per_step(self) -> int:
        """Evaluations of f per step; a kick shared by two steps counts once."""
        cost = sum(FLOWS[flow].evaluations for flow, _ in self.flows)
        first, last = self.flows[0][0], self.flows[-1][0]
        shared = FLOWS[first].push > 0 and not FLOWS[first].regroups
        return cost - (first == last and shared)

    @cached_property
    def takes_velocity(self) -> bool:
        """Whether the field may depend on the velocity."""
        return any(flow in "VW" for flow, _ in self.flows)

    @cached_property
    def first_order(self) -> bool:
        """Whether it has a limit ε → 0, which solves ẋ = f(t, x)."""
        ahead = all(fraction >= 0 for _, fraction in self.flows)
        return ahead and math.isinf(self.damping_limit) and not self.takes_velocity

    @cached_property
    def whole_relaxation(self) -> bool:
        """Whether a step damps once, so that γ of a step is a number of the plan."""
        return ("R", 1.0) in self.flows

    def compile(
        self,
        system: System,
        t: Tensor,
        counts: Sequence[int],
        like: Tensor,
        gamma: Number | None = None,
        broken: Sequence[bool] | None = None,
    ) -> Plan:
        """The plan of this method; see ``so.plan.compile_plan``."""
        if system.stiffness is not None:  # one flow has all that is linear
            flows = tuple((STIFF.get(f, f), part) for f, part in self.flows)
            limit = math.inf if self.rule == "euler" else self.damping_limit
            table = replace(self, flows=flows, rule="exponential", damping_limit=limit)
            return compile_plan(table, system, t, counts, like, None, broken)
        gamma = gamma if self.whole_relaxation else None
        if isinstance(system, FirstOrder):
            system = system.along(t)
        return compile_plan(self, system, t, counts, like, gamma, broken)

    def solve(self, problem: Problem, gradient: Gradient, options: Options) -> Solution:
        """Compile the plan, run it by a gradient route, wrap what it returns.

        Raises
        ------
        RuntimeError
            If the copies of a doubled velocity have drifted apart.
        """
        system, x, v, t = problem[:4]
        core, enter, leave = system.in_modes(x, exact=True)
        keep, broken = None, None
        if problem.breakpoints is not None:
            t, keep, broken = merge(t, problem.breakpoints)
        counts = step_counts(t, options.step_size)
        plan = known_plan(self.compile, core, t, counts, x, problem.gamma, broken)
        cost = noted(plan, "cost", lambda: evaluations(plan))
        field = core.field
        watched = None
        if problem.monitor:
            watched = problem.monitor.watch(field, cost, partial(locate, t, counts))
            field = watched
        copies = watch_copies(field, plan)
        try:
            states = gradient.run(
                plan, copies or field, enter(x), enter(v), problem.args
            )
        finally:  # drifting copies may be why a run has failed
            if copies:
                copies.check(self.name)
        if watched:
            watched.close()
        states = [(x, v), *((leave(y), leave(w)) for y, w in states)]
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        if system.first_order:
            vs, cost = slopes(system, t, xs, problem.args, gradient), cost + len(xs)
        dense = DenseOutput(
            self, problem, t, xs, vs, tuple(counts), tuple(broken or ())
        )
        if keep is not None:
            xs, vs = xs[keep], vs[keep]
        stats = Stats(cost, accepted=sum(counts))
        end = None if self.takes_velocity else End(self)
        return Solution(problem.t, xs, vs, stats, dense, end=end)

    def step(self, problem: Problem) -> Step:
        """One step, in the coordinates of the problem."""
        core, enter, leave = problem.system.in_modes(problem.x, exact=True)

        def step(t: Tensor, h: Tensor, state: State) -> tuple[State, None]:
            grid = torch.stack([t, t + h], -1)
            plan = self.compile(core, grid, [1], problem.x, problem.gamma)
            start = enter(state[0]), enter(state[1])
            ((x, v),) = backprop.run(plan, core.field, *start, problem.args)
            return (leave(x), leave(v)), None

        return step

    def between(self, dense: DenseOutput, i: int, times: Tensor) -> State:
        """The same steps again from the left end, this time recording each."""
        problem, t, fine = dense.problem, dense.t, dense.steps[i]
        core, enter, leave = problem.system.in_modes(problem.x, exact=True)
        if isinstance(fine, int):
            part = torch.linspace(0, 1, fine + 1, dtype=t.dtype, device=t.device)
            fine = t[i] + part * (t[i + 1] - t[i])
        count = len(fine) - 1
        broken, clock = None, list(fine.to(problem.x))
        if dense.broken:
            broken = [dense.broken[i], *[False] * (count - 1), dense.broken[i + 1]]
            clock = inward(fine.to(problem.x), broken)
        plan = self.compile(core, fine, [1] * count, problem.x, problem.gamma, broken)
        start = enter(dense.x[i]), enter(dense.v[i])
        states = [start, *walk(plan, core.field, *start, problem.args)[0]]
        if core.first_order:
            found = partial_steps(self.step(problem), list(fine), states, times)
            pairs = zip(times, found, strict=True)
            vs = [slope(core, time, y, problem.args) for time, (y, _) in pairs]
            return torch.stack([y for y, _ in found]), torch.stack(vs)
        nodes = [
            (y, w, acceleration(core, clock[k], y, w, problem.args))
            for k, (y, w) in enumerate(states)
        ]
        y, w = quintic_hermite(fine, nodes, times)
        return leave(y), leave(w)


def acceleration(
    system: System, t: Tensor, x: Tensor, v: Tensor, args: Sequence[Any]
) -> Tensor:
    """ẍ = (f − c ẋ)/m."""
    seen = (x, v) if system.takes_velocity else (x,)
    force = system.field(t, *seen, *args)
    if system.stiffness is not None:
        force = force - in_dtype(system.stiffness, x) * x
    return system.acceleration(force, v)


def locate(t: Tensor, counts: Sequence[int], time: Tensor) -> str:
    """In words, which step of a solve a time lies in."""
    if t.ndim == 2 or time.numel() != 1:
        return f"t = {time}"
    grid, now = t.detach().double().cpu(), time.double().item()
    sign = -1.0 if grid[-1] < grid[0] else 1.0
    i = int(torch.searchsorted(sign * grid, sign * now, right=True)) - 1
    i = min(max(i, 0), len(counts) - 1)
    part = (now - grid[i].item()) / (grid[i + 1] - grid[i]).item()
    step = sum(counts[:i]) + min(int(part * counts[i]), counts[i] - 1)
    return f"step {step} of {sum(counts)}, t = {now:.6g}"


def check_flows(flows: Flows) -> None:
    """Raise unless these flows make one step of one equation."""
    unknown = [letter for letter, _ in flows if letter not in FLOWS]
    if unknown or not flows:
        raise ValueError(
            f"`flows` must be letters out of {[*FLOWS]} with their fractions, such as "
            f'(("R", 0.5), ("D", 1.0), ("R", 0.5)), got {unknown or flows}'
        )
    if len({FLOWS[letter].momentum for letter, _ in flows}) > 1:
        own = [letter for letter, flow in FLOWS.items() if not flow.momentum]
        raise ValueError(
            f"`flows` mix the letters {own}, which act on the velocity, with letters "
            f"that act on the momentum: {''.join(letter for letter, _ in flows)}"
        )
    for what, sums in (
        ("time", [FLOWS[letter].time * w for letter, w in flows]),
        ("force", [FLOWS[letter].push * w for letter, w in flows]),
    ):
        if not abs(sum(sums) - 1) < 1e-9:
            raise ValueError(
                f"the fractions of `flows` make {sum(sums):.6g} steps of {what}, but "
                "must make 1"
            )
