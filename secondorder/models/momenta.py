"""γ, the momentum of a network: one for all layers, or one for each."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import Number
from ..systems.numbers import WithNumbers, register_number


class WithMomenta(WithNumbers):
    """A network with a γ: a number, a parameter, or a list with one for each layer.

    Attributes
    ----------
    gamma : float, Tensor or tuple of these
    rule : {"momentum", "unnormalised"}
    blocks : sequence of nn.Module
        One for each layer.
    """

    number_names = ("gamma",)
    gamma: Number
    rule: str
    blocks: Any

    def checked_gamma(self, gamma: Any) -> Any:
        """γ as float, tensor, or tuple with one for each layer, or raise."""
        if isinstance(gamma, (list, tuple, nn.ParameterList)):
            if len(gamma) != len(self.blocks):
                raise ValueError(
                    f"`gamma` has {len(gamma)} entries for {len(self.blocks)} layers; "
                    "give one for each, or one number for all"
                )
            return tuple(self.checked_gamma(g) for g in gamma)
        if not isinstance(gamma, Tensor):
            gamma = float(gamma)
        checks.momentum(gamma, self.rule)
        return gamma

    def register_gamma(self, gamma: Any) -> None:
        """Keep γ: a number as ``gamma``, tensors of layers as ``gamma_0`` ...."""
        self._layered = 0
        if isinstance(gamma, tuple) and any(isinstance(g, Tensor) for g in gamma):
            self._layered = len(gamma)
            for n, g in enumerate(gamma):
                register_number(self, f"gamma_{n}", g)
        else:
            register_number(self, "gamma", gamma)

    def __getattr__(self, name: str) -> Any:
        if name == "gamma" and vars(self).get("_layered"):
            return tuple(getattr(self, f"gamma_{n}") for n in range(self._layered))
        return super().__getattr__(name)

    def fixed_numbers(self) -> dict[str, float]:
        """The numbers that are floats, those of the layers one by one."""
        each = vars(self).get("gamma", ())
        each = enumerate(each if isinstance(each, tuple) else ())
        return super().fixed_numbers() | {f"gamma[{n}]": g for n, g in each}

    def log_determinant(self, dimension: int) -> Number:
        """Log |det| of the map (x, v) ↦ (x_N, v_N): d Σ log |γ_n|, whatever the blocks.

        Parameters
        ----------
        dimension : int
            d, the number of coordinates of x (of one sample, for the determinant of
            one sample).  A γ per coordinate counts each of its entries equally often.

        Returns
        -------
        float or Tensor
            −inf where a γ is 0; differentiable in a learned γ.

        Raises
        ------
        ValueError
            If a γ per coordinate does not fit d.

        Examples
        --------
        >>> import torch, secondorder as so
        >>> net = so.MomentumNet([torch.nn.Linear(3, 3)] * 10, gamma=0.9)
        >>> net.log_determinant(3)  # 3 · 10 · log 0.9
        -3.16
        """
        checks.count(dimension, "dimension")
        gamma = self.gamma
        each = gamma if isinstance(gamma, tuple) else (gamma,) * len(self.blocks)
        if any(not isinstance(g, Tensor) and g == 0 for g in each):
            return -math.inf
        total: Number = 0.0
        for g in each:
            if not isinstance(g, Tensor):
                total = total + dimension * math.log(abs(g))
                continue
            if g.numel() == 0 or dimension % g.numel():
                raise ValueError(
                    f"`gamma` has {g.numel()} entries, which do not fit `dimension` "
                    f"{dimension}; give the number of coordinates of x"
                )
            total = total + dimension // g.numel() * g.abs().log().sum()
        return total


def any_zero(gamma: Any) -> bool:
    """Whether a γ, of a layer or of a coordinate, is 0."""
    if isinstance(gamma, tuple):
        return any(any_zero(g) for g in gamma)
    return bool((torch.as_tensor(gamma, device="cpu") == 0).any())
