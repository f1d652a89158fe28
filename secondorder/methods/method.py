"""What a method is: one interface of splittings, adaptive pairs, other solvers."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..gradients import Gradient
from ..solution import DenseOutput, Solution
from ..systems import Problem

Step = Callable[..., Any]  # step(t, h, state) -> state, error or None


class Options(NamedTuple):
    """How a method was asked to choose its steps; None where it was not."""

    step_size: float | None = None
    rtol: Any = None
    atol: Any = None
    first_step: float | None = None
    max_step: float | None = None
    max_steps: int | None = None
    norm: Any = None


class Method(Protocol):
    """How a step is made: what it can do, and how it does it."""

    @property
    def name(self) -> str:
        """Its key in the tables, or ``"custom"``."""

    @property
    def order(self) -> int | None:
        """Order of accuracy, if known."""

    @property
    def summary(self) -> str:
        """One line saying when to choose it."""

    @property
    def options(self) -> frozenset[str]:
        """Which of ``Options`` it takes."""

    @property
    def gradients(self) -> frozenset[str]:
        """The routes that differentiate it; README's table and the checks read this."""

    @property
    def takes_velocity(self) -> bool | None:
        """Whether its fields see the velocity; None where both kinds are welcome."""

    @property
    def per_sample_times(self) -> bool:
        """Whether samples may have grids of their own."""

    @property
    def breakpoints(self) -> bool:
        """Whether fields may jump."""

    @property
    def events(self) -> str:
        """``"steps"`` where they are looked for, ``"own"``, or empty for none."""

    def solve(self, problem: Problem, gradient: Gradient, options: Options) -> Solution:
        """Solve a checked problem."""

    def step(self, problem: Problem) -> Step:
        """``step(t, h, (x, v)) -> ((x, v), error)``; the error is None if unknown."""

    def between(
        self, dense: DenseOutput, i: int, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The states at times inside interval i of a solution."""
