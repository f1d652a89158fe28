"""The continuous adjoint of torchdiffeq: constant memory, approximate gradients.

Integrates the adjoint ODE backwards in time, for torchdiffeq's solvers only.  On
ε ẍ + ẋ = f the backward problem reconstructs a damped state, which multiplies errors by
e^{T/ε}: the gradient is wrong long before the forward solution is.

Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential
Equations", NeurIPS 2018, algorithm 1.
"""

import math
import warnings

import torch
import torchdiffeq

from ..system import strangers


def adjoint(system, state, t, *, rate, **options):
    """Solve with ``torchdiffeq.odeint_adjoint``, after two checks it does not make.

    Parameters
    ----------
    system : nn.Module
        First-order field ``system(t, (x, v))``.
    state : (Tensor, Tensor)
    t : Tensor
        Times ``(n,)``.
    rate : float
        max c/m (1/ε), for the warning.
    **options
        Of torchdiffeq: ``method``, ``rtol``, ``atol``, ``options``, ``adjoint_params``.

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
    exponent = rate * (t.detach()[-1] - t.detach()[0]).abs().item()
    # Measured: relative gradient error ≈ rtol · 1e-3 · e^{T/ε}, up to O(1).
    lost = exponent / math.log(10) - 3
    if torch.is_grad_enabled() and lost > 2:
        warnings.warn(
            f'gradient="adjoint" integrates a damped state backwards over T/ε = '
            f"{exponent:.3g}: about {lost:.0f} digits of `rtol` = "
            f"{options['rtol']:g} are lost, so the gradient may be wrong; use "
            'gradient="backprop", or a fixed-step or "adaptive" method with '
            'gradient="reversible"',
            stacklevel=5,
        )
    if torch.is_grad_enabled():
        refuse_closures(system, state, t, options["adjoint_params"])
    return torchdiffeq.odeint_adjoint(system, state, t, **options)


def refuse_closures(system, state, t, parameters):
    """Raise if the field uses a tensor that the adjoint would give no gradient."""
    with torch.enable_grad():
        leaves = [s.detach().requires_grad_() for s in state]
        _, change = system(t[0].detach(), tuple(leaves))
    known = {id(p) for p in (*parameters, *leaves)}
    stranger = strangers(change, known)
    if stranger is not None:
        raise ValueError(
            f"`field` depends on a tensor of shape {tuple(stranger.shape)} that "
            "requires a gradient but is none of its parameters or arguments, so the "
            "adjoint would lose that gradient; make it a parameter of the field, or "
            'use gradient="backprop"'
        )
