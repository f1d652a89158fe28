"""A normalising flow on pairs (x, v) whose determinant is known before it is trained.

A Momentum ResNet is a sequence of shears and of v ← γ v, so that for any blocks

    log |det ∂(x_N, v_N)/∂(x, v)| = d Σ_n log |γ_n|
    log p(x, v) = log 𝒩(x_N) + log 𝒩(v_N) + d Σ_n log |γ_n|

References: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, section 3.1, for the inverse; Dinh, Krueger, Bengio, "NICE", ICLR workshop 2015,
for flows of shears; Huang, Dinh, Courville, arXiv:2002.07101 (2020), for the second
variable.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import Number
from ..gradients import Gradient
from .momenta import any_zero
from .momentum_net import Blocks, MomentumNet


class MomentumFlow(MomentumNet):
    """A density on pairs (x, v): a Momentum ResNet takes them to standard normal ones.

    Parameters
    ----------
    blocks : iterable of nn.Module or callable
        ``block(x) -> f``, the shape of ``x``; no constraint beyond that.
    gamma : float, nn.Parameter or list of these, default 0.9
        Momentum, not 0: what is erased has no density.
    gradient : str or Gradient, default "reversible"
        ``log_prob`` in constant memory, or ``"backprop"``, ``"checkpoint"``.
    rule : {"momentum", "unnormalised"}
        As in ``MomentumNet``; ``"unnormalised"`` with γ = ±1 keeps volumes.
    shape : int or tuple of int, optional
        Of one sample, for ``sample``; by default that of the last ``log_prob``, or the
        number of inputs of the first linear layer.

    Raises
    ------
    ValueError
        For γ = 0, or out of range.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> from torch import nn
    >>> blocks = [nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))] * 8
    >>> flow = so.MomentumFlow(blocks, gamma=0.8)
    >>> x, v = torch.zeros(5, 2), torch.zeros(5, 2)
    >>> flow.log_prob(x, v).shape
    torch.Size([5])
    >>> x, v = flow.sample(100)
    >>> x.shape
    torch.Size([100, 2])
    """

    def __init__(
        self,
        blocks: Blocks,
        gamma: Number = 0.9,
        gradient: str | Gradient | Callable[..., Any] = "reversible",
        rule: str = "momentum",
        shape: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(blocks, gamma, gradient, rule=rule)
        if any_zero(self.gamma):
            raise ValueError(
                "`gamma` is 0, which erases the velocity, so there is no density; give "
                "a momentum that is not 0"
            )
        self.shape: tuple[int, ...] | None = None
        if shape is not None:
            self.shape = (shape,) if isinstance(shape, int) else tuple(shape)

    def log_prob(self, x: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The log-density of pairs.

        Parameters
        ----------
        x, v : Tensor
            ``(n, ...)``, or one sample ``(d,)``.
        *args, **kwargs
            Passed to every block.

        Returns
        -------
        Tensor
            ``(n,)``, or 0-d for one sample.
        """
        x, v = checks.state((x, v))
        if not x.ndim:
            raise ValueError(
                f"`x` must have shape (n, ...) or (d,), got {tuple(x.shape)}"
            )
        self.shape = tuple(x.shape[1:]) if x.ndim > 1 else tuple(x.shape)
        dimension = math.prod(self.shape)
        ends = self.run(x, args, kwargs, [len(self.blocks)], v)[-1]
        squares: Any = sum(end.square() for end in ends)
        total = squares.flatten(1).sum(1) if x.ndim > 1 else squares.sum()
        volume = self.log_determinant(dimension)
        return volume - total / 2 - dimension * math.log(2 * math.pi)

    def sample(self, n: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Draw pairs ``(x, v)``, each ``(n, *shape)``: the way back from normal ones.

        Differentiable (reparametrised); random numbers come from torch's generator.
        """
        checks.count(n, "n", 0)
        like = next(self.parameters(), torch.empty(0))
        size = (2, n, *self.sample_shape())
        if not like.is_floating_point():
            like = torch.empty(0)
        normal = torch.randn(size, dtype=like.dtype, device=like.device)
        return self.inverse((normal[0], normal[1]), *args, **kwargs)

    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        if self.shape is not None:
            return self.shape
        for module in self.modules():
            if isinstance(module, nn.Linear):
                return (module.in_features,)
        raise ValueError(
            "`shape` of a sample is not known: give it to MomentumFlow(..., shape=d), "
            "or call `log_prob` first"
        )
