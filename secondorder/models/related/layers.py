"""Residual networks: plain, split in halves, and bidirectional.

References: He, Zhang, Ren, Sun, CVPR 2016, eq. (1), for ResNet; Gomez, Ren, Urtasun,
Grosse, "The Reversible Residual Network", NeurIPS 2017, eqs. (6)-(8), for RevNet;
Zhang, Lewis, Kleijn, "On Exact Bit-level Reversible Transformers Without Changing
Architectures", arXiv:2407.09093 (2024), for BDIA.
"""

from typing import Any

import torch
from torch import Tensor

from ... import checks
from ...gradients import backprop
from ...plan import Mix, Plan, Record, Shear, momentum_plan
from ...plan.moves import Move
from ..invert import State
from .planned import Blocks, Layered, Route


class ResNet(Layered):
    """The residual network x ← x + f_n(x), the limit γ → 0 of the Momentum ResNet.

    A layer forgets what it started from: ``"reversible"`` raises.

    Parameters
    ----------
    blocks : iterable of nn.Module
    gradient : {"backprop", "checkpoint"}
    """

    def __init__(self, blocks: Blocks, gradient: Route = "backprop") -> None:
        super().__init__(blocks, gradient)
        if self.gradient.name == "reversible":
            raise ValueError(
                '`gradient` "reversible" cannot undo a residual network, whose layers '
                'forget where they started; use "checkpoint" or "backprop", or RevNet, '
                "BDIANet or MomentumNet"
            )

    def plan(self, x: Tensor) -> Plan:
        """One kick from rest and one drift a layer."""
        return momentum_plan(0.0, len(self.blocks))

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From rest."""
        return checks.state((x, None))


class RevNet(Layered):
    """The reversible residual network x ← x + F_n(y), y ← y + G_n(x) of two halves.

    Parameters
    ----------
    blocks : iterable of nn.Module
        F_0, G_0, F_1, G_1, …: maps of halves of the input.
    dim : int, default -1
        The axis along which the input is split, of even length.
    gradient : str, Gradient or callable, default "reversible"
        Reversed on integers: the way back is exact, however many layers there are.
    """

    def __init__(
        self, blocks: Blocks, dim: int = -1, gradient: Route = "reversible"
    ) -> None:
        super().__init__(blocks, gradient)
        self.dim = dim
        if len(self.blocks) % 2:
            raise ValueError(
                "`blocks` must be pairs F, G, one after the other, got "
                f"{len(self.blocks)} blocks"
            )

    def plan(self, x: Tensor) -> Plan:
        """One shear of each half by turns."""
        numbers = range(len(self.blocks))
        return tuple(Shear(1.0, (n,), velocity=bool(n % 2)) for n in numbers)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves."""
        x, _ = checks.state((x, None))
        if x.ndim == 0 or x.shape[self.dim] % 2:
            raise ValueError(
                f"`x` of shape {tuple(x.shape)} has no two halves along dim "
                f"{self.dim}; its length there must be even"
            )
        first, second = x.chunk(2, self.dim)
        return first, second

    def leave(self, x: Tensor, v: Tensor) -> Tensor:
        """The halves side by side."""
        return torch.cat([x, v], self.dim)


class BDIANet(Layered):
    """Bidirectional layers x₊ = γ x₋ + (1−γ) x + (1+γ) f_n(x) with random signs of γ.

    In training γ = ±``share`` is drawn for each sample and layer, so that each layer
    can be undone at log2(1/share) bits per element; in evaluation γ is 0, its mean, and
    this is the residual network.

    Parameters
    ----------
    blocks : iterable of nn.Module
    share : float, default 1/2
        |γ|, a power of two.
    gradient : str, Gradient or callable, default "reversible"
        In training; in evaluation backprop.
    """

    def __init__(
        self, blocks: Blocks, share: float = 0.5, gradient: Route = "reversible"
    ) -> None:
        super().__init__(blocks, gradient)
        self.share = checks.share(share)

    def plan(self, x: Tensor) -> Plan:
        """Layers that write over the older of two states by turns; draws the signs."""
        if not self.training:
            return momentum_plan(0.0, len(self.blocks))
        column = (len(x), *[1] * (x.ndim - 1)) if x.ndim > 1 else ()
        plan: list[Move] = [Shear(1.0, (0,))]  # x₁ = x₀ + f₀(x₀)
        for n in range(1, len(self.blocks)):
            sign = 2.0 * torch.randint(2, column, device=x.device) - 1
            gamma = self.share * sign.to(x.dtype)
            second = bool(n % 2)
            plan += [Mix(gamma, second), Shear(1 + gamma, (n,), velocity=second)]
        return tuple(plan)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two copies; from rest in evaluation."""
        x, rest = checks.state((x, None))
        return x, x if self.training else rest

    def leave(self, x: Tensor, v: Tensor) -> Tensor:
        """The state that was written last."""
        return v if self.training and len(self.blocks) % 2 == 0 else x

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Run the layers."""
        if self.training:
            return super().forward(x, *args)
        plan = (*self.plan(x), Record())
        return backprop.run(plan, self.force, *self.enter(x), args)[-1][0]

    def state(self, x: Tensor, *args: Any) -> State:
        """Refuse: the way back would need the signs."""
        raise NotImplementedError(
            "BDIANet draws new signs at each call, so it hands out no `state`; its "
            "gradient is reversed all the same. RevNet and MomentumNet have inverses"
        )
