"""The continuous adjoint of torchdiffeq: constant memory, approximate gradients.

Integrates the adjoint ODE backwards in time, for torchdiffeq's solvers only.  On
ε ẍ + ẋ = f the backward problem reconstructs a damped state, which multiplies errors by
e^{T/ε}: the gradient is wrong long before the forward solution is.

Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential
Equations", NeurIPS 2018, algorithm 1.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

from .. import checks
from .usable import refuse_untracked

State = tuple[Tensor, Tensor]


def solve_adjoint(
    form: Any,
    state: State,
    t: Tensor,
    *,
    adjoint_params: Iterable[Tensor],
    **settings: Any,
) -> State:
    """Solve with ``torchdiffeq.odeint_adjoint``, after two checks it does not make.

    Parameters
    ----------
    form : nn.Module
        First-order field ``form(t, (x, v))``; ``form.rate`` is max c/m (1/ε).
    state : (Tensor, Tensor)
    t : Tensor
        Times ``(n,)``.
    adjoint_params : iterable of Tensor
        What receives gradients besides the state and the times.
    **settings
        Of torchdiffeq: ``method``, ``rtol``, ``atol``, ``options``, and the same
        for the way back, ``adjoint_rtol`` and so on.

    Returns
    -------
    x, v : Tensor
        ``(n, *x0.shape)``.

    Raises
    ------
    ValueError
        If the field closes over a tensor that requires a gradient.

    Warns
    -----
    UserWarning
        If the backward integration is expected to lose two digits or more.
    """
    parameters = tuple(adjoint_params)
    if torch.is_grad_enabled():
        rtol = settings.get("adjoint_rtol", settings["rtol"])
        warn_if_lost(form.rate, t.detach(), rtol)
        form = WithoutClosures(form, parameters)
    return torchdiffeq.odeint_adjoint(
        form, state, t, adjoint_params=parameters, **settings
    )


def warn_if_lost(rate: float, t: Tensor, rtol: float) -> None:
    """Warn where the backward problem magnifies errors beyond use."""
    exponent = rate * (t[-1] - t[0]).abs().item()
    # Measured: relative gradient error ≈ rtol · 1e-3 · e^{T/ε}, up to O(1).
    lost = exponent / math.log(10) - 3
    if lost > 2:
        warnings.warn(
            f'gradient="adjoint" integrates a damped state backwards over T/ε = '
            f"{exponent:.3g}: about {lost:.0f} digits of `rtol` = {rtol:g} are lost, "
            'so the gradient may be wrong; use gradient="backprop", or a fixed-step or '
            '"adaptive" method with gradient="reversible"',
            stacklevel=checks.caller(),
        )


class WithoutClosures(nn.Module):
    """A field that raises where it uses a tensor that would get no gradient.

    The forward pass of the adjoint records nothing; here every evaluation does, for as
    long as it takes to look at what it depends on.
    """

    def __init__(self, form: nn.Module, parameters: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.form, self.known = form, {id(p) for p in parameters}

    def __getattr__(self, name: str) -> Any:
        """Also the callbacks, which torchdiffeq looks for on the field it is given."""
        if name.startswith("callback_"):
            return getattr(self.form, name)
        return super().__getattr__(name)

    def forward(self, t: Tensor, state: State) -> State:
        """Evaluate the field."""
        if torch.is_grad_enabled():  # on the way back
            return self.form(t, state)
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_() for part in (t, *state)]
            found = self.form(leaves[0], tuple(leaves[1:]))
        for part in found:
            refuse_untracked(part, "the adjoint", self.known, leaves)
        return tuple(part.detach() for part in found)


def text(value: Any, name: str) -> str:
    """Return a name, or raise."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a name, got {type(value).__name__}")
    return value


def flag(value: Any, name: str) -> bool:
    """Return True or False, or raise."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}")
    return value


def tensors(value: Any, name: str) -> Sequence[Tensor]:
    """Return a list of tensors, or raise."""
    if isinstance(value, Tensor) or not all(isinstance(v, Tensor) for v in value):
        raise TypeError(f"`{name}` must be a list of tensors or parameters")
    return list(value)


def one_tolerance(value: Any, name: str) -> float:
    """Return a tolerance that is one positive number, or raise."""
    value = checks.tolerance(value, name)
    if not isinstance(value, float):
        raise TypeError(f"`{name}` must be one number, got {type(value).__name__}")
    return value
