"""What marching asks of a method: a step, part of one, and many again by a gradient.

A batch has one clock, or one for each sample; times and lengths are then ``(batch,)``.
Inside, a state is (x, v) in modal coordinates, or the two copies (y, z) of a coupled
method, of which y is the result.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients import Gradient, backprop
from ..monitor import WrappedField
from ..plan import Record
from ..plan.compile import check_damping
from ..plan.grid import Window
from ..systems.equations import as_double
from ..systems.problem import Problem
from .adaptive import Adaptive, Pull, derivative, each_sample
from .coupled import Coupled, derivatives
from .embedded import Embedded
from .joined import Form
from .method import Options
from .splitting import Splitting
from .step_size import Control
from .tolerances import ratios, relative_size, rounding_check, tolerances

State = Any  # two tensors, or these and the force between the steps of a pair


class Inside(WrappedField):
    """A field that sees its own side of the breakpoints around it."""

    def __init__(self, field: Any, window: Window) -> None:
        super().__init__(field)
        self.window = window

    def forward(self, time: Tensor, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        return self.field(self.window.inside(time), x, *args)


class Stride:
    """The steps of a splitting or of an adaptive pair.

    Attributes
    ----------
    core : System
        What is solved, in the coordinates of the states.
    watched : MonitoredField
        Its field, which counts.
    whole : bool
        Whether all steps together are a plan that a gradient route can run.
    """

    def __init__(self, how: Any, problem: Problem) -> None:
        self.how, self.problem = how, problem
        self.prepare()
        self.watched = problem.monitor.watch(self.core.field)
        self.window: Window | None = None
        self.ready()

    def prepare(self) -> None:
        """The coordinates."""
        exact = isinstance(self.how, Splitting)
        self.core, self.inward, self.outward = self.problem.system.in_modes(
            self.problem.x, exact
        )
        pair = isinstance(self.how, (Splitting, Embedded))
        self.whole = pair and not self.how.takes_velocity

    def within(self, t: Tensor, broken: Sequence[bool], i: int) -> "Stride":
        """The same from time i of a grid on, up to the next breakpoint if any."""
        if not broken:
            return self
        other, last = copy.copy(self), len(broken) - 1
        until = next((k for k in range(i + 1, last) if broken[k]), last)
        other.window = Window()
        other.window.enter(t, broken, i, until)
        other.ready()
        return other

    def see(self) -> None:
        """The field, as it is seen from inside the window."""
        window, watched = self.window, self.watched
        self.field: Any = Inside(watched, window) if window else watched
        self.core = self.core.replace(self.field)

    def ready(self) -> None:
        """What makes a step."""
        self.see()
        self.pull = Pull(self.field, self.problem.args)
        self.stepper: Any = None
        if isinstance(self.how, Adaptive):
            self.stepper = self.how.stepper(self.core, self.problem.x, self.pull)

    def start(self) -> State:
        """Where the solve begins."""
        return self.enter(self.problem.x, self.problem.v)

    def enter(self, x: Tensor, v: Tensor) -> State:
        """A state of the problem, inside."""
        return self.inward(x), self.inward(v)

    def leave(self, state: State) -> tuple[Tensor, Tensor]:
        """Back to the coordinates of the problem."""
        return self.outward(state[0]), self.outward(state[1])

    def step(self, t: Tensor, h: Tensor, state: State) -> tuple[State, Any]:
        """One step and its error, which is not known of a splitting."""
        if self.stepper is not None:
            made: tuple[State, Any] = self.stepper(t, h, state)
            return made
        both = torch.stack([t, t + h], -1)
        return (*self.run(both, [1], state, backprop)[0], None), None

    def part(self, t: Tensor, h: Tensor, state: State, whole: Tensor) -> State:
        """Part of a step whose whole length is known."""
        return self.step(t, h, (*state[:2], None))[0][:2]

    def run(
        self, grid: Tensor, keep: Sequence[int], state: State, route: Gradient
    ) -> list[State]:
        """The states at some nodes of a grid of times, by a gradient route."""
        table = self.how.table if isinstance(self.how, Embedded) else self.how
        counts = [1] * (grid.shape[-1] - 1)
        plan = Splitting.compile(
            table, self.core, grid, counts, state[0], self.problem.gamma
        )
        at, moves = iter(range(1, len(counts) + 1)), []
        for move in plan:
            if not isinstance(move, Record) or next(at) in keep:
                moves.append(move)
        return route.run(tuple(moves), self.field, *state[:2], self.problem.args)

    def control(self, options: Options) -> Control | None:
        """What decides about the length of steps; None where that is given."""
        if not isinstance(self.how, Adaptive):
            return None
        self.tolerances = rtol, atol = tolerances(options, self.problem.x)
        size = relative_size(rtol, atol, self.outward, options.norm)
        check = rounding_check(rtol, atol, self.problem.x)
        return self.how.controller(self.core, size, check, options)

    def errors(self, error: Any, before: State, after: State) -> list[Tensor]:
        """The errors of x and v in units of their tolerances."""
        return ratios(error, before, after, *self.tolerances, self.outward)

    def noted(self, nodes: Tensor, start: State) -> Any:
        """How an interval was divided, as dense output reads it."""
        if nodes.ndim > 1:
            return nodes, None
        fractions = (nodes - nodes[0]) / (nodes[-1] - nodes[0])
        return tuple(fractions.tolist()) if isinstance(self.how, Adaptive) else nodes

    def slopes(self, time: Any, state: State, force: Any = None) -> State:
        """The derivative of a state."""
        return derivative(self.core, self.pull, time, state, force)

    def check(self, h: Tensor) -> None:
        """Raise where steps of a given size are too long for the damping."""


class CoupledStride(Stride):
    """The steps of a coupled method, whose states are two copies."""

    whole = True

    def prepare(self) -> None:
        """The coordinates are those of the problem."""
        self.core = self.problem.system

    def ready(self) -> None:
        """What makes a step."""
        self.see()
        self.form = Form.of(self.problem, self.field)
        self.pull = Pull(self.form.field, self.form.args)
        self.stepper = self.how.stepper(self.pull)

    def start(self) -> State:
        """Where the solve begins."""
        return self.form.both(self.problem.goes_on(self.how))

    def enter(self, x: Tensor, v: Tensor) -> State:
        """Both copies start at one state."""
        y = self.form.enter(x, v)
        return y, y

    def leave(self, state: State) -> tuple[Tensor, Tensor]:
        """The first copy."""
        return self.form.leave(state[0])

    def part(self, t: Tensor, h: Tensor, state: State, whole: Tensor) -> State:
        """Part of a step: the copies are mixed by as much as has passed of it.

            y + s (1 − λ) (z − y) + Ψ_{sh}(t, y + s (z − y)),   0 ≤ s ≤ 1

        From y to where the step ends, without a jump at either end.
        """
        y, z = state[:2]
        passed = each_sample(h / whole, y).to(y)
        apart = passed * (z - y)
        push, _ = self.how.pushed(self.pull, t, h, y + apart, False)
        y = y + (1 - self.how.share) * apart + push
        return y, y

    def run(
        self, grid: Tensor, keep: Sequence[int], state: State, route: Gradient
    ) -> list[State]:
        """The states at some nodes of a grid of times, by a gradient route."""
        counts = [1] * (grid.shape[-1] - 1)
        asked = [k in keep for k in range(1, len(counts) + 1)]
        plan = self.how.compile(grid, counts, state[0], records=asked)
        return route.run(plan, self.form.field, *state[:2], self.form.args)

    def control(self, options: Options) -> Control | None:
        """What decides about the length of steps; None where that is given."""
        if not self.how.chooses(options):
            return None
        self.tolerances = tolerances(options, self.problem.x)
        return self.how.controller(self.problem, self.form, options)

    def errors(self, error: Any, before: State, after: State) -> list[Tensor]:
        """The errors of x and v in units of their tolerances."""
        leave, (rtol, atol) = self.leave, self.tolerances
        return ratios(leave(error), leave(before), leave(after), rtol, atol)

    def noted(self, nodes: Tensor, start: State) -> Any:
        """How an interval was divided, and where the second copy began."""
        if nodes.ndim > 1:
            return nodes, start[:2]
        fractions = (nodes - nodes[0]) / (nodes[-1] - nodes[0])
        return tuple(fractions.tolist()), start[1]

    def slopes(self, time: Any, state: State, force: Any = None) -> State:
        """The derivatives of both copies."""
        return derivatives(self.pull, time, state, force)

    def check(self, h: Tensor) -> None:
        """Raise where steps of a given size are too long for the damping."""
        if not self.core.first_order:
            mass, damping = as_double(self.core.mass), as_double(self.core.damping)
            check_damping(self.how, mass, damping, h)


def stride_of(how: Any, problem: Problem) -> Stride:
    """The steps of a method."""
    return (CoupledStride if isinstance(how, Coupled) else Stride)(how, problem)
