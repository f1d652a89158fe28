"""Momentum and inertia: γ ↔ ε of one step.

    euler          γ = 1 − h/ε        how a Momentum ResNet reads γ
    exponential    γ = e^{−h/ε}       exact damping over a step

Reference: Sander et al., "Momentum Residual Neural Networks", ICML 2021, section 3.1.
"""

import math

import torch
from torch import Tensor

from .. import checks
from ..checks import Number

RULES = ("euler", "exponential")


def gamma_from_epsilon(epsilon: Number, step: Number, rule: str = "euler") -> Number:
    """Momentum γ of one step, 1 − h/ε (``"euler"``) or e^{−h/ε} (``"exponential"``).

    Parameters
    ----------
    epsilon, step : float or Tensor
        ε > 0 and the step h > 0, in the same units of time.
    rule : {"euler", "exponential"}
        The Momentum ResNet reads γ by the Euler rule; exact damping by the other.

    Raises
    ------
    ValueError
        For an unknown rule, or numbers that are not > 0.

    Examples
    --------
    >>> import secondorder as so
    >>> so.gamma_from_epsilon(0.5, 0.25)
    0.5

    References
    ----------
    Sander et al., ICML 2021, section 3.1 (ε = 1/(1−γ) at unit step).
    """
    checks.one_of(rule, "rule", RULES)
    ratio = checks.positive(step, "step") / checks.positive(epsilon, "epsilon")
    if rule == "euler":
        return 1 - ratio
    return torch.exp(-ratio) if isinstance(ratio, Tensor) else math.exp(-ratio)


def epsilon_from_gamma(gamma: Number, step: Number, rule: str = "euler") -> Number:
    """ε of the momentum γ: ε = h/(1−γ) (``"euler"``) or −h/ln γ (``"exponential"``).

    Parameters
    ----------
    gamma : float or Tensor
        0 ≤ γ < 1 (0 < γ for the exponential rule).
    step : float or Tensor
        The step h > 0.
    rule : {"euler", "exponential"}

    Raises
    ------
    ValueError
        For an unknown rule, γ outside its range, or a step that is not > 0.

    Examples
    --------
    >>> import secondorder as so
    >>> so.epsilon_from_gamma(0.5, 0.25)
    0.5
    """
    checks.one_of(rule, "rule", RULES)
    checks.momentum(gamma)
    checks.positive(step, "step")
    if rule == "euler":
        return step / (1 - gamma)
    if not isinstance(gamma, Tensor) and gamma == 0:
        raise ValueError(
            "`gamma` is 0, which the exponential rule reaches only for ε = 0; use "
            'rule="euler" (ε = h) or a small positive gamma'
        )
    log = torch.log(gamma) if isinstance(gamma, Tensor) else math.log(gamma)
    return -step / log
