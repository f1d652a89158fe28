"""The Momentum ResNet as a module.

    MomentumNet(blocks)        v ← γ v + (1−γ) f_n(x),  x ← x + v   for n = 0 … N−1
    rule="unnormalised"        v ← γ v + f_n(x),        x ← x + v   with −1 ≤ γ ≤ 1

It is the second-order ODE with the method ``"momentum"``, one step per block, h = 1 and
γ = 1 − h/ε; γ → 0 is the residual network x ← x + f_n(x).

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, eq. (3).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import Number
from ..gradients import GRADIENTS, Gradient, checkpoint, find_gradient
from ..methods import compile_route
from ..plan import Plan, momentum_plan
from ..plan.known import known_layers
from .budget import Budget
from .invert import State, initial_velocity, invert, run_reversibly
from .momenta import WithMomenta, any_zero
from .second_order_ode import set_velocity

Blocks = Iterable[Callable[..., Tensor]]
RULES = ("momentum", "unnormalised")


class MomentumNet(WithMomenta):
    """The Momentum ResNet v ← γ v + (1−γ) f_n(x), x ← x + v over its blocks f_n.

    Parameters
    ----------
    blocks : iterable of nn.Module or callable
        ``block(x, *args, **kwargs) -> f``, the shape of ``x``, *without* the skip
        connection.  The same module may appear several times.
    gamma : float, nn.Parameter or list of these, default 0.9
        Momentum γ in [0, 1), scalar or per coordinate; 0 is the residual network.  A
        list or tuple has one for each layer.
    gradient : str or callable, default "reversible"
        As in ``odeint``: ``"reversible"``, ``"backprop"`` or ``"checkpoint"``.
    velocity : None, Tensor, nn.Parameter or nn.Module, default None
        Initial velocity: zero, a tensor broadcastable to ``x``, or a map x ↦ v0.
    rule : {"momentum", "unnormalised"}
        v ← γ v + (1−γ) f, or v ← γ v + f, whose γ may lie in [−1, 1].
    keep : int, optional
        With ``"reversible"``: keep the graphs of the last ``keep`` layers.  All of
        them, and the network runs as with ``"backprop"``: its numbers are those of
        floating point, otherwise those of the grid (equal to rounding).
    memory : int or str, optional
        In place of ``keep``: what may be held between the forward and the backward
        pass, in bytes or as ``"512MB"``, ``"2GiB"``.  What the layers need is measured
        at the first forward pass for each shape of ``x``.
    compile : bool, default False
        Run the layers compiled, there and back.  One block serves them all, the weights
        stacked by layer (a copy of them for each call), so the blocks must be alike but
        for their weights and buffers; other networks run as without, after a
        ``CompileWarning``.  ``state`` and ``inverse`` do not compile, and agree with
        ``forward`` to rounding.

    Raises
    ------
    TypeError, ValueError
        For no blocks, γ out of range, γ = 0 with ``"reversible"``, unknown names.

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

    passes_on = {"plain_force": "blocks[n]", "force": "blocks[n]"}

    def __init__(
        self,
        blocks: Blocks,
        gamma: Number = 0.9,
        gradient: str | Gradient | Callable[..., Any] = "reversible",
        velocity: Tensor | Callable[[Tensor], Tensor] | None = None,
        rule: str = "momentum",
        keep: int | None = None,
        memory: int | str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        blocks = list(blocks)
        if not blocks:
            raise ValueError("`blocks` is empty; give at least one block x -> f(x)")
        for n, block in enumerate(blocks):
            checks.function(block, f"blocks[{n}]")
        self.set_blocks(blocks)
        self.rule = checks.one_of(rule, "rule", RULES)
        self.gradient = find_gradient(gradient, GRADIENTS)
        if self.gradient.run_plan is None:
            raise ValueError(
                f"`gradient` {self.gradient.name!r} needs an ODE solver; a network of "
                'layers uses "reversible", "backprop" or "checkpoint"'
            )
        self.gradient = compile_route(self.gradient, None, compile)
        self.compiles, self.set_aside = compile, cast(Gradient | None, None)
        gamma = self.checked_gamma(gamma)
        if self.gradient.name == "reversible" and any_zero(gamma):
            raise ValueError(
                "`gamma` is 0, which erases the velocity at every layer and cannot be "
                'reversed; use gradient="checkpoint" or "backprop", or a positive gamma'
            )
        self.register_gamma(gamma)
        self.budget: Budget | None = None
        if keep is not None or memory is not None:
            self.set_memory(keep, memory)
        set_velocity(self, velocity)

    def set_blocks(self, blocks: Sequence[Callable[..., Tensor]]) -> None:
        """Keep the blocks."""
        self.blocks = nn.ModuleList(
            b if isinstance(b, nn.Module) else Function(b) for b in blocks
        )

    def set_memory(self, keep: int | None, memory: int | str | None) -> None:
        """Keep as many graphs as were asked for, or as fit."""
        if keep is not None and memory is not None:
            raise ValueError("give `keep` or `memory`, not both: one follows the other")
        name = "keep" if memory is None else "memory"
        if self.gradient.name != "reversible":
            raise ValueError(
                f'`{name}` belongs to gradient="reversible", got '
                f"{self.gradient.name!r}, which has no graphs to choose from"
            )
        if memory is not None:
            self.budget = Budget(memory)
        else:
            self.gradient = self.gradient(keep=keep)

    def set_gamma(self, gamma: Any) -> None:
        """Give the network another γ, also between two steps of training.

        A learned γ keeps its parameter, which is written into.  γ = 0 cannot be
        reversed: the route becomes ``"checkpoint"`` there, and what it was before as
        soon as γ is not 0.

        Parameters
        ----------
        gamma : float, Tensor, nn.Parameter or list of these
            As in the constructor; a list has one for each layer.

        Raises
        ------
        ValueError
            For γ out of range, or a list of another length.
        """
        gamma = self.checked_gamma(gamma)
        old = self.gamma
        if isinstance(old, nn.Parameter) and not isinstance(
            gamma, (tuple, nn.Parameter)
        ):
            with torch.no_grad():
                old.copy_(torch.as_tensor(gamma, device=old.device))
        else:
            names = [f"gamma_{n}" for n in range(self._layered)] or ["gamma"]
            for name in names:
                delattr(self, name)
            self.register_gamma(gamma)
        zero = any_zero(gamma)
        if zero and self.gradient.name == "reversible":
            self.set_aside = self.gradient
            self.gradient = compile_route(checkpoint, None, self.compiles)
        elif not zero and self.set_aside is not None:
            self.gradient, self.set_aside = self.set_aside, None

    def forward(
        self, x: Tensor, *args: Any, velocity: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Return x_N, the shape of ``x``.

        Parameters
        ----------
        x : Tensor
            Input ``(..., d)`` or of any shape that the blocks keep.
        *args, **kwargs
            Passed to every block; tensors among them, also nested, get gradients.
        velocity : Tensor, optional
            The initial velocity of this call, broadcastable to ``x``, in place of that
            of the network.
        """
        return self.run(x, args, kwargs, [len(self.blocks)], velocity)[-1][0]

    def trajectory(
        self, x: Tensor, *args: Any, velocity: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return all ``(x, v)``, each ``(N + 1, *x.shape)``; as ``forward``."""
        marks = range(1, len(self.blocks) + 1)
        states = self.run(x, args, kwargs, marks, velocity)
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        return xs, vs

    def run(
        self,
        x: Tensor,
        args: Any,
        kwargs: Any,
        marks: Sequence[int],
        velocity: Any = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """States at the input and after the layers in ``marks``."""
        x, v = self.start(x, velocity)
        field, rest = self.with_arguments(args, kwargs)
        plan = self.plan(x, marks)
        return [
            (x, v),
            *self.route(plan, field, x, v, rest).run(plan, field, x, v, rest),
        ]

    def start(self, x: Tensor, velocity: Any) -> tuple[Tensor, Tensor]:
        """Position and velocity before the first layer."""
        if not (velocity is None or isinstance(velocity, Tensor)):
            raise TypeError(
                "`velocity` of a call must be a tensor or None, got "
                f"{type(velocity).__name__}; a map x -> v0 belongs to the constructor"
            )
        own = self.velocity if velocity is None else velocity
        x, v = checks.state((x, initial_velocity(own, x)))
        for gamma in self.gamma if isinstance(self.gamma, tuple) else (self.gamma,):
            checks.fits(gamma, x, "gamma")
        return x, v

    def route(self, *problem: Any) -> Gradient:
        """How this call is differentiated, as much kept as the budget allows."""
        if self.budget is None or self.gradient.name != "reversible":
            return self.gradient
        if not torch.is_grad_enabled():
            return self.gradient
        return cast(Gradient, self.gradient(keep=self.budget.keep(*problem)))

    def plan(self, x: Tensor, marks: Sequence[int] = ()) -> Plan:
        """The moves of the network, with records after the layers in ``marks``."""
        self.check_numbers()
        gamma, count = self.gamma, len(self.blocks)
        if isinstance(gamma, float) and not torch.compiler.is_compiling():
            return known_layers(gamma, count, tuple(marks), self.rule)
        return momentum_plan(gamma, count, marks, self.rule)

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

    def state(
        self, x: Tensor, *args: Any, velocity: Tensor | None = None, **kwargs: Any
    ) -> State:
        """Return the final ``State``: x_N, v_N and the bits that damping pushed out.

        16 bytes per element and log2(1/γ)/8 bytes per element and layer.
        """
        x, v = self.start(x, velocity)
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
        rule = "" if self.rule == "momentum" else f", rule={self.rule!r}"
        return f"gamma={shown}, gradient={self.gradient.name!r}{rule}"


class Function(nn.Module):
    """A plain function as a block."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Call the function."""
        return self.function(x, *args, **kwargs)
