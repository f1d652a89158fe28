"""The second-order neural ODE as a module.

    SecondOrderODE(field)      x ↦ x(t1),  ε ẍ + ẋ = f(t, x),  x(0) = x

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, eq. (5).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import Number
from ..gradients import GRADIENTS, Gradient, find_gradient
from ..methods import (
    METHODS,
    Coupled,
    Method,
    Splitting,
    check_fit,
    check_system,
    compile_route,
    find_method,
    with_account,
)
from ..methods.saving import resumable, solve_saving
from ..methods.transforms import transformable
from ..plan import Plan, compile_map
from ..solution import Solution
from ..systems import Problem, SecondOrder, System, epsilon_from_gamma
from ..systems.numbers import Positive, WithNumbers, register_number
from .invert import State, initial_velocity, invert, run_reversibly


class SecondOrderODE(WithNumbers):
    """The map x ↦ x(t1) of a second-order neural ODE, ε ẍ + ẋ = f(t, x).

    Parameters
    ----------
    field : callable
        ``field(t, x, *args) -> f``, ``f.shape == x.shape``; see ``Autonomous``.
    epsilon : float, Tensor, nn.Parameter or Positive, default 1.0
        ε > 0; a Parameter is learned, and ``so.Positive(0.5)`` in such a way that it
        stays positive.
    gamma : float or nn.Parameter, optional
        Instead of ``epsilon``: the momentum of one step, in [0, 1).  ε follows from
        the method's rule, h/(1−γ) for ``"momentum"``, −h/ln γ for the others.
    t1 : float, nn.Parameter or Positive, default 1.0
        Final time, not 0; a Parameter is learned.
    steps : int, default 10
        Number of steps, h = t1/steps, of a fixed-step method; adaptive methods choose
        their own.
    method, gradient
        As in ``odeint``.
    velocity : None, Tensor, nn.Parameter or nn.Module, default None
        Initial velocity: zero, a tensor broadcastable to ``x``, or a map x ↦ v0.
    compile : bool, default False
        Run the steps compiled; as in ``odeint``.

    Raises
    ------
    TypeError, ValueError
        For arguments out of range, both ``epsilon`` and ``gamma``, unknown names.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> net = so.Autonomous(torch.nn.Sequential(torch.nn.Linear(2, 16),
    ...                                         torch.nn.Tanh(),
    ...                                         torch.nn.Linear(16, 2)))
    >>> model = so.SecondOrderODE(net, epsilon=0.5, steps=20)
    >>> model(torch.zeros(8, 2)).shape
    torch.Size([8, 2])

    References
    ----------
    Sander et al., ICML 2021, eq. (5).
    """

    number_names = ("gamma", "t1")
    t1: Number
    gamma: Number | None
    _followed: SecondOrder | None = None

    def __init__(
        self,
        field: Callable[..., Tensor],
        *,
        epsilon: Number | Positive = 1.0,
        gamma: Number | None = None,
        t1: Number | Positive = 1.0,
        steps: int = 10,
        method: str | Method = "verlet",
        gradient: str | Gradient | Callable[..., Any] = "backprop",
        velocity: Tensor | Callable[[Tensor], Tensor] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.steps = checks.count(steps, "steps")
        register_number(self, "t1", check_horizon(t1))
        self.method = find_method(method)
        route = find_gradient(gradient, GRADIENTS)
        self.gradient = compile_route(route, self.method, compile)
        equation: System = SecondOrder(field, epsilon)
        self.add_module("system", equation)
        set_velocity(self, velocity)
        check_system(self.method, equation)
        self.gamma = None
        if gamma is not None:
            if isinstance(epsilon, Tensor) or epsilon != 1.0:
                raise ValueError(
                    "give `epsilon` or `gamma`, not both: each follows from the other "
                    f"(got epsilon={epsilon!r}, gamma={gamma!r})"
                )
            checks.momentum(gamma)
            del self.gamma
            register_number(self, "gamma", gamma)
            equation.named = equation.number_names = ()  # its ε is none of its own
        x = torch.zeros(1, device="cpu")
        problem = Problem(self.system, x, x, self.times(x, 1))
        with torch.no_grad():
            check_fit(self.method, self.gradient, problem)

    @property
    def field(self) -> Callable[..., Tensor]:
        """The force field."""
        field: Callable[..., Tensor] = self._modules["system"].field  # type: ignore
        return field

    @property
    def step(self) -> float:
        """The step h = t1/steps, a number."""
        return checks.as_float(self.t1) / self.steps

    @property
    def system(self) -> System:
        """The system that is solved; its ε follows γ where γ was given."""
        if self.gamma is None:
            return cast(System, self._modules["system"])
        rule = getattr(self.method, "rule", "exponential")
        h: Any = self.t1 / self.steps
        epsilon, last = epsilon_from_gamma(self.gamma, abs(h), rule), self._followed
        fixed = isinstance(epsilon, float) and not torch.compiler.is_compiling()
        if fixed and last and last.field is self.field and last.epsilon == epsilon:
            return last  # making one takes longer than a small step
        system = SecondOrder(self.field, epsilon)
        if fixed:  # past nn.Module, which would make it a part of the model
            object.__setattr__(self, "_followed", system)
        return system

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Return x(t1), the shape of ``x``.

        Parameters
        ----------
        x : Tensor
            Initial position ``(..., d)``.
        *args
            Further arguments of the field.
        """
        return self.solve(x, 1, args).x[-1]

    def trajectory(
        self, x: Tensor, *args: Any, save: Callable[..., Any] | None = None
    ) -> Solution:
        """Return the ``Solution`` at the ``steps + 1`` step times, from 0 to t1.

        With ``save(t, x, v)`` it keeps what that returns, as in ``odeint``.
        """
        return self.solve(x, self.steps, args, save)

    @transformable
    def solve(
        self,
        x: Tensor,
        intervals: int,
        args: tuple[Any, ...],
        save: Callable[..., Any] | None = None,
    ) -> Solution:
        """Solve to t1 through so many intervals."""
        x, v = checks.state((x, initial_velocity(self.velocity, x)))
        system = self.fitting(x)
        adapts = getattr(self.method, "adaptive", False)
        fixed = "step_size" in self.method.options and not adapts
        own = isinstance(self.method, (Splitting, Coupled))
        if fixed and not own:
            intervals = self.steps  # others round t1/h up, to a step more or less
        problem = Problem(
            system, x, v, self.times(x, intervals), args, gamma=self.momentum
        )
        h = abs(self.step) if fixed and intervals == 1 else None
        options = check_fit(self.method, self.gradient, problem, h)
        run = partial(self.method.solve, gradient=self.gradient, options=options)
        if save is not None:
            solution = solve_saving(run, problem, save, not resumable(self.method))
        else:
            solution = run(problem)
        return with_account(solution, self.gradient, system.field)

    def fitting(self, x: Tensor) -> System:
        """The system, once its numbers are known to fit a state."""
        self.check_numbers()
        checks.fits(self.gamma, x, "gamma")  # before the ε that follows it
        system = self.system
        system.check_shapes(x)
        return system

    def times(self, x: Tensor, intervals: int) -> Tensor:
        """The ends of so many intervals from 0 to t1."""
        if isinstance(self.t1, Tensor):
            times = equally_spaced(1.0, intervals).to(self.t1.device) * self.t1
            return times.to(x.device)
        return equally_spaced(self.t1, intervals).to(x.device)

    @property
    def momentum(self) -> Number | None:
        """γ as a number of the plan, where it was given and time runs forward."""
        learned = isinstance(self.t1, Tensor) and self.t1.requires_grad
        return self.gamma if self.step > 0 and not learned else None

    def plan(self, x: Tensor) -> Plan:
        """The moves from 0 to t1 without records."""
        if not isinstance(self.method, Splitting):
            raise ValueError(
                f"`method` {self.method.name!r} has no plan of (x, v) for `state` and "
                f"`inverse`; choose one of {[*METHODS]}"
            )
        system = self.fitting(x)
        system.check_numbers()
        table, t = self.method, self.times(x, 1)
        gamma = self.momentum if table.whole_relaxation else None
        return compile_map(table, system, t, [self.steps], x, gamma)

    def state(self, x: Tensor, *args: Any) -> State:
        """Return the ``State`` at t1: x, v and all that is needed to come back."""
        x, v = checks.state((x, initial_velocity(self.velocity, x)))
        return run_reversibly(self.plan(x), self.field, x, v, args)

    def inverse(self, state: Any, *args: Any) -> tuple[Tensor, Tensor]:
        """Return the ``(x0, v0)`` that leads to ``state``; see ``MomentumNet``."""
        return invert(self.plan(state[0]), self.field, state, args)

    def extra_repr(self) -> str:
        """Show the solver."""
        gamma = "" if self.gamma is None else f"gamma={checks.describe(self.gamma)}, "
        return (
            f"{gamma}t1={checks.as_float(self.t1):g}, steps={self.steps}, "
            f"method={self.method.name!r}, gradient={self.gradient.name!r}"
        )


def check_horizon(t1: Any) -> Any:
    """Return a final time that is a finite number other than 0, or raise."""
    if isinstance(t1, Positive):
        return t1
    if not isinstance(t1, Tensor):
        t1 = float(t1)
    value = checks.as_float(t1)
    if not (math.isfinite(value) and value != 0):
        raise ValueError(f"`t1` must be finite and not 0, got {t1!r}")
    return t1


def set_velocity(model: nn.Module, velocity: Any) -> None:
    """Keep an initial velocity on a model, in its state_dict if it is a tensor."""
    velocity = checks.velocity(velocity)
    if isinstance(velocity, Tensor):
        register_number(model, "velocity", velocity)
    else:
        model.velocity = velocity


def equally_spaced(end: float, intervals: int) -> Tensor:
    """Times from 0 to ``end``, in float64 on the host."""
    return torch.linspace(0, end, intervals + 1, dtype=torch.float64, device="cpu")
