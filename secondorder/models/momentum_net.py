"""The Momentum ResNet as a module.

    MomentumNet(blocks)        v ← γ v + (1−γ) f_n(x),  x ← x + v   for n = 0 … N−1

It is the second-order ODE with the method ``"momentum"``, one step per block, h = 1 and
γ = 1 − h/ε; γ → 0 is the residual network x ← x + f_n(x).

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, eq. (3).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import Number
from ..gradients import GRADIENTS, Gradient, find_gradient
from ..plan import Plan, momentum_plan
from ..systems.numbers import WithNumbers, register_number
from .invert import State, initial_velocity, invert, run_reversibly
from .second_order_ode import set_velocity

Blocks = Iterable[Callable[..., Tensor]]


class MomentumNet(WithNumbers):
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

    number_names = ("gamma",)
    gamma: Number

    def __init__(
        self,
        blocks: Blocks,
        gamma: Number = 0.9,
        gradient: str | Gradient | Callable[..., Any] = "reversible",
        velocity: Tensor | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        blocks = list(blocks)
        if not blocks:
            raise ValueError("`blocks` is empty; give at least one block x -> f(x)")
        for n, block in enumerate(blocks):
            checks.function(block, f"blocks[{n}]")
        self.blocks = nn.ModuleList(
            b if isinstance(b, nn.Module) else Function(b) for b in blocks
        )
        self.gradient = find_gradient(gradient, GRADIENTS)
        if self.gradient.run_plan is None:
            raise ValueError(
                f"`gradient` {self.gradient.name!r} needs an ODE solver; a network of "
                'layers uses "reversible", "backprop" or "checkpoint"'
            )
        if not isinstance(gamma, Tensor):
            gamma = float(gamma)
        checks.momentum(gamma)
        residual = bool((torch.as_tensor(gamma) == 0).any())
        if residual and self.gradient.name == "reversible":
            raise ValueError(
                "`gamma` is 0, which erases the velocity at every layer and cannot be "
                'reversed; use gradient="checkpoint" or "backprop", or a positive gamma'
            )
        register_number(self, "gamma", gamma)
        set_velocity(self, velocity)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return x_N, the shape of ``x``.

        Parameters
        ----------
        x : Tensor
            Input ``(..., d)`` or of any shape that the blocks keep.
        *args, **kwargs
            Passed to every block; tensors among them, also nested, get gradients.
        """
        return self.run(x, args, kwargs, [len(self.blocks)])[-1][0]

    def trajectory(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all ``(x, v)``, each ``(N + 1, *x.shape)``."""
        states = self.run(x, args, kwargs, range(1, len(self.blocks) + 1))
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        return xs, vs

    def run(
        self, x: Tensor, args: Any, kwargs: Any, marks: Sequence[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """States at the input and after the layers in ``marks``."""
        x, v = checks.state((x, initial_velocity(self.velocity, x)))
        field, rest = self.with_arguments(args, kwargs)
        return [(x, v), *self.gradient.run(self.plan(x, marks), field, x, v, rest)]

    def plan(self, x: Tensor, marks: Sequence[int] = ()) -> Plan:
        """The moves of the network, with records after the layers in ``marks``."""
        self.check_numbers()
        return momentum_plan(self.gamma, len(self.blocks), marks)

    def with_arguments(self, args: Any, kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
        """The force of a block, and what it is called with besides x."""
        if args or kwargs:
            return self.force, (args, kwargs)
        return self.plain_force, ()

    def plain_force(self, n: int, x: Tensor) -> Tensor:
        """Evaluate block n without further arguments."""
        return self.blocks[n](x)

    def force(self, n: int, x: Tensor, args: Any, kwargs: Any) -> Tensor:
        """Evaluate block n."""
        return self.blocks[n](x, *args, **kwargs)

    def state(self, x: Tensor, *args: Any, **kwargs: Any) -> State:
        """Return the final ``State``: x_N, v_N and the bits that damping pushed out.

        16 bytes per element and log2(1/γ)/8 bytes per element and layer.
        """
        x, v = checks.state((x, initial_velocity(self.velocity, x)))
        field, rest = self.with_arguments(args, kwargs)
        return run_reversibly(self.plan(x), field, x, v, rest)

    def inverse(self, state: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
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
        ValueError
            If a ``State`` comes from another model, or was changed.
        RuntimeError
            If a ``State`` does not lead back (the weights have changed).

        Warns
        -----
        UserWarning
            For a plain pair, if γ^−N magnifies rounding beyond use.
        """
        field, rest = self.with_arguments(args, kwargs)
        return invert(self.plan(state[0]), field, state, rest)

    def extra_repr(self) -> str:
        """Show γ and the gradient route."""
        learned = isinstance(self.gamma, nn.Parameter)
        shown = "learned" if learned else checks.describe(self.gamma)
        return f"gamma={shown}, gradient={self.gradient.name!r}"


class Function(nn.Module):
    """A plain function as a block."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the function."""
        return self.function(x, *args, **kwargs)
