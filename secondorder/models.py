"""Networks: second-order neural ODEs and Momentum ResNets, modules over one machinery.

    SecondOrderODE(field)      x ↦ x(t1),  ε ẍ + ẋ = f(t, x),  x(0) = x
    MomentumNet(blocks)        v ← γ v + (1−γ) f_n(x),  x ← x + v   for n = 0 … N−1

The second is the first with the method ``"momentum"``, one step per block, h = 1 and
γ = 1 − h/ε; γ → 0 is the residual network x ← x + f_n(x).

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, eqs. (3) and (5).
"""

import math
import warnings
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .gradient import GRADIENTS
from .gradient.reversible import Run
from .moves import Damp, Record, log_determinant, reverse, walk
from .odeint import (
    check_method_fits,
    check_state,
    find,
    find_method,
    integrate,
    odeint,
)
from .splitting import METHODS, Splitting, compile_plan, is_one, momentum_plan
from .system import SecondOrder, check_gamma, epsilon_from_gamma, hold, plain


class State:
    """The end of a run, with the bits that damping pushed out of it.

    Attributes
    ----------
    x, v : Tensor
        Position and velocity; the state unpacks to these two.
    """

    def __init__(self, x, v, run):
        self.x, self.v, self._run = x, v, run

    def __iter__(self):
        """Unpack to position and velocity."""
        return iter((self.x, self.v))

    def __len__(self):
        """Two: position and velocity."""
        return 2

    def __getitem__(self, index):
        """Position (0) or velocity (1), as from a tuple."""
        return (self.x, self.v)[index]

    @property
    def nbytes(self):
        """Bytes kept for the way back."""
        return sum(n.nbytes for n in self._run.end)


class SecondOrderODE(nn.Module):
    """The map x ↦ x(t1) of a second-order neural ODE, ε ẍ + ẋ = f(t, x).

    Parameters
    ----------
    field : callable
        ``field(t, x, *args) -> f``, ``f.shape == x.shape``; see ``Autonomous``.
    epsilon : float, Tensor or nn.Parameter, default 1.0
        ε > 0; a Parameter is learned.
    gamma : float or nn.Parameter, optional
        Instead of ``epsilon``: the momentum of one step, in [0, 1).  ε follows from
        the method's rule, h/(1−γ) for ``"momentum"``, −h/ln γ for the others.
    t1 : float, default 1.0
        Final time.
    steps : int, default 10
        Number of steps, h = t1/steps.
    method, gradient
        As in ``odeint``.
    velocity : None, Tensor, nn.Parameter or nn.Module, default None
        Initial velocity: zero, a tensor broadcastable to ``x``, or a map x ↦ v0.

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

    def __init__(
        self,
        field,
        *,
        epsilon=1.0,
        gamma=None,
        t1=1.0,
        steps=10,
        method="verlet",
        gradient="backprop",
        velocity=None,
    ):
        super().__init__()
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"`steps` must be a positive integer, got {steps!r}")
        if not (math.isfinite(t1) and t1 != 0):
            raise ValueError(f"`t1` must be finite and not 0, got {t1!r}")
        self.t1, self.steps = float(t1), steps
        self.method_name, self.method = find_method(method)
        self.gradient_name, self.gradient = find(gradient, GRADIENTS, "gradient", None)
        self.system = SecondOrder(field, epsilon)
        self.velocity = check_velocity(velocity)
        if isinstance(self.method, Splitting):
            name = self.method_name
            check_method_fits(self.system, name, self.method, self.gradient)
        self.gamma = None
        if gamma is not None:
            if not is_one(epsilon):
                raise ValueError(
                    "give `epsilon` or `gamma`, not both: each follows from the other "
                    f"(got epsilon={epsilon!r}, gamma={gamma!r})"
                )
            check_gamma(gamma)
            del self.gamma
            hold(self, "gamma", gamma)
            self.dynamics()  # γ = 0 has no ε under the exponential rule

    @property
    def field(self):
        """The force field."""
        return self.system.field

    @property
    def step(self):
        """The step h = t1/steps."""
        return self.t1 / self.steps

    def dynamics(self):
        """The system that is solved; its ε follows γ where γ was given."""
        if self.gamma is None:
            return self.system
        rule = getattr(self.method, "rule", "exponential")
        epsilon = epsilon_from_gamma(self.gamma, abs(self.step), rule)
        return SecondOrder(self.field, epsilon)

    def forward(self, x, *args):
        """Return x(t1), the shape of ``x``.

        Parameters
        ----------
        x : Tensor
            Initial position ``(..., d)``.
        *args
            Further arguments of the field.
        """
        return self.solve(x, [0.0, self.t1], [self.steps], args).x[-1]

    def trajectory(self, x, *args):
        """Return the ``Solution`` at the ``steps + 1`` step times, from 0 to t1."""
        times = torch.linspace(0, self.t1, self.steps + 1, dtype=torch.float64)
        return self.solve(x, times, [1] * self.steps, args)

    def solve(self, x, times, counts, args):
        """Solve through given times, so many steps in each interval."""
        x, v = check_state((x, initial_velocity(self.velocity, x)))
        t = torch.as_tensor(times, dtype=torch.float64, device=x.device)
        system = self.dynamics()
        if not isinstance(self.method, Splitting):
            return odeint(
                system, (x, v), t, method=self.method, gradient=self.gradient,
                args=args,
            )  # fmt: skip
        return integrate(
            system, x, v, t, counts, self.method, self.gradient, args,
            gamma=self.step_gamma(),
        )  # fmt: skip

    def step_gamma(self):
        """The momentum of a whole relaxation, where γ rather than ε was given."""
        whole = isinstance(self.method, Splitting) and ("R", 1.0) in self.method.flows
        return self.gamma if whole else None

    def plan(self, x):
        """The moves from 0 to t1 without records."""
        if not isinstance(self.method, Splitting):
            raise ValueError(
                f"`method` {self.method!r} cannot be reversed; choose one of "
                f"{list(METHODS)}"
            )
        t = torch.tensor([0.0, self.t1], dtype=torch.float64)
        *moves, record = compile_plan(
            self.method, self.dynamics(), t, [self.steps], x, self.step_gamma()
        )
        # Methods that carry p = ε v record v = p/ε: here a move like any other.
        return (*moves, *(() if is_one(record.scale) else (Damp(record.scale),)))

    def state(self, x, *args):
        """Return the ``State`` at t1: x, v and all that is needed to come back."""
        x, v = check_state((x, initial_velocity(self.velocity, x)))
        return remembered(self.plan(x), self.field, x, v, args)

    def inverse(self, state, *args):
        """Return the ``(x0, v0)`` that leads to ``state``; see ``MomentumNet``."""
        return undone(self.plan(state[0]), self.field, state, args)

    def extra_repr(self):
        """Show the solver."""
        return (
            f"t1={self.t1:g}, steps={self.steps}, method={self.method_name!r}, "
            f"gradient={self.gradient_name!r}"
        )


class MomentumNet(nn.Module):
    """The Momentum ResNet v ← γ v + (1−γ) f_n(x), x ← x + v over its blocks f_n.

    Parameters
    ----------
    blocks : iterable of nn.Module or callable
        ``block(x, *args, **kwargs) -> f``, the shape of ``x``, *without* the skip
        connection.  The same module may appear several times.
    gamma : float or nn.Parameter, default 0.9
        Momentum γ in [0, 1), scalar or per coordinate; 0 is the residual network.
    gradient : str or callable, default "reversible"
        As in ``odeint``: ``"reversible"``, ``"backprop"`` or ``"checkpoint"``.
    velocity : None, Tensor, nn.Parameter or nn.Module, default None
        Initial velocity: zero, a tensor broadcastable to ``x``, or a map x ↦ v0.

    Raises
    ------
    TypeError, ValueError
        For no blocks, γ outside [0, 1), γ = 0 with ``"reversible"``, unknown names.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> net = so.MomentumNet([torch.nn.Linear(4, 4) for _ in range(10)], gamma=0.9)
    >>> x = torch.zeros(2, 4)
    >>> net(x).shape
    torch.Size([2, 4])
    >>> x0, v0 = net.inverse(net.state(x))
    >>> torch.equal(x0, x)
    True

    References
    ----------
    Sander et al., "Momentum Residual Neural Networks", ICML 2021, eq. (3).
    """

    def __init__(self, blocks, gamma=0.9, gradient="reversible", velocity=None):
        super().__init__()
        blocks = list(blocks)
        if not blocks:
            raise ValueError("`blocks` is empty; give at least one block x -> f(x)")
        for n, block in enumerate(blocks):
            if not callable(block):
                raise TypeError(
                    f"`blocks[{n}]` must be callable, got {type(block).__name__}"
                )
        self.blocks = nn.ModuleList(
            b if isinstance(b, nn.Module) else Function(b) for b in blocks
        )
        self.gradient_name, self.gradient = find(gradient, GRADIENTS, "gradient", None)
        if self.gradient_name == "adjoint":
            raise ValueError(
                '`gradient` "adjoint" needs an ODE solver; a network of layers uses '
                '"reversible", "backprop" or "checkpoint"'
            )
        if not isinstance(gamma, Tensor):
            gamma = float(gamma)
        check_gamma(gamma)
        residual = bool((torch.as_tensor(gamma) == 0).any())
        if residual and self.gradient_name == "reversible":
            raise ValueError(
                "`gamma` is 0, which erases the velocity at every layer and cannot be "
                'reversed; use gradient="checkpoint" or "backprop", or a positive gamma'
            )
        hold(self, "gamma", gamma)
        self.velocity = check_velocity(velocity)

    def forward(self, x, *args, **kwargs):
        """Return x_N, the shape of ``x``.

        Parameters
        ----------
        x : Tensor
            Input ``(..., d)`` or of any shape that the blocks keep.
        *args, **kwargs
            Passed to every block; tensors among them, also nested, get gradients.
        """
        return self.run(x, args, kwargs, [len(self.blocks)])[-1][0]

    def trajectory(self, x, *args, **kwargs):
        """Return all ``(x, v)``, each ``(N + 1, *x.shape)``."""
        states = self.run(x, args, kwargs, range(1, len(self.blocks) + 1))
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        return xs, vs

    def run(self, x, args, kwargs, marks):
        """States at the input and after the layers in ``marks``."""
        x, v, field, flat = self.prepare(x, args, kwargs)
        return [(x, v), *self.gradient(self.plan(marks), field, x, v, flat)]

    def plan(self, marks=()):
        """The moves of the network, with records after the layers in ``marks``."""
        moves, marks = momentum_plan(self.gamma, len(self.blocks)), set(marks)
        if not marks:
            return moves
        plan = []
        for n in range(1, len(self.blocks) + 1):
            plan += moves[3 * n - 3 : 3 * n]
            if n in marks:
                plan.append(Record())
        return tuple(plan)

    def prepare(self, x, args, kwargs):
        """Check the input; flatten the further arguments so that tensors are seen."""
        x, v = check_state((x, initial_velocity(self.velocity, x)))
        if not (args or kwargs):
            return x, v, self.plain_force, ()
        flat, spec = tree_flatten((args, kwargs))
        return x, v, partial(self.force, spec), tuple(flat)

    def plain_force(self, n, x):
        """Evaluate block n without further arguments."""
        return self.blocks[n](x)

    def force(self, spec, n, x, *flat):
        """Evaluate block n."""
        args, kwargs = tree_unflatten(list(flat), spec)
        return self.blocks[n](x, *args, **kwargs)

    def state(self, x, *args, **kwargs):
        """Return the final ``State``: x_N, v_N and the bits that damping pushed out.

        16 bytes per element and log2(1/γ)/8 bytes per element and layer.
        """
        x, v, field, flat = self.prepare(x, args, kwargs)
        return remembered(self.plan(), field, x, v, flat)

    def inverse(self, state, *args, **kwargs):
        """Return the ``(x0, v0)`` that leads to ``state``.

        Parameters
        ----------
        state : State or (Tensor, Tensor)
            From a ``State``: bit for bit what ``state`` started from, without
            gradients.  From a plain pair (x_N, v_N): the floating-point inverse
            x ← x − v, v ← (v − (1−γ) f_n(x))/γ, differentiable.
        *args, **kwargs
            As in ``forward``.

        Raises
        ------
        RuntimeError
            If a ``State`` does not lead back (the weights have changed).

        Warns
        -----
        UserWarning
            For a plain pair, if γ^−N magnifies rounding beyond use.
        """
        _, _, field, flat = self.prepare(state[0], args, kwargs)
        return undone(self.plan(), field, state, flat)

    def extra_repr(self):
        """Show γ and the gradient route."""
        value = plain(self.gamma)
        shown = f"{value:g}" if isinstance(value, float) else "learned"
        return f"gamma={shown}, gradient={self.gradient_name!r}"


class Function(nn.Module):
    """A plain function as a block."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, *args, **kwargs):
        """Call the function."""
        return self.function(x, *args, **kwargs)


def check_velocity(velocity):
    """Return an initial velocity that can be used, or raise."""
    if velocity is None or isinstance(velocity, Tensor) or callable(velocity):
        return velocity
    raise TypeError(
        "`velocity` must be None, a tensor, an nn.Parameter or a module x -> v0, got "
        f"{type(velocity).__name__}"
    )


def initial_velocity(velocity, x):
    """v0 of the shape of x, or None for zero."""
    if velocity is None:
        return None
    value = velocity if isinstance(velocity, Tensor) else velocity(x)
    try:
        return value.to(x).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"`velocity` of shape {tuple(value.shape)} does not fit x of shape "
            f"{tuple(x.shape)}"
        ) from None


def remembered(plan, field, x, v, args):
    """Run a plan on the grid and keep the way back."""
    run = Run((*plan, Record()), field, args, x, remember=True)
    ((x, v),) = run.start(x, v)
    return State(x, v, run)


def undone(plan, field, state, args):
    """Invert a plan from a ``State`` (exactly) or from a pair (in floating point)."""
    if isinstance(state, State):
        return state._run.undo(args or None)
    x, v = check_state(state)
    warn_if_lost(plan, x.dtype)
    return walk(reverse(plan), field, x, v, args)[1][:2]


def warn_if_lost(plan, dtype):
    """Warn if the inverse damping magnifies rounding errors to 1e-3 or more."""
    growth = -float(log_determinant(plan))
    error = math.log(torch.finfo(dtype).eps) + growth
    if error > math.log(1e-3):
        warnings.warn(
            f"undoing the damping magnifies rounding errors by e^{growth:.1f}, which "
            f"leaves no digits in {dtype}; invert a State from `.state(x)`, which is "
            "exact, instead of a pair (x, v)",
            stacklevel=4,
        )
