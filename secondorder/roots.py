"""Roots of scalar functions, for all entries of a tensor at once.

Chandrupatla's method keeps a bracket as bisection does, and replaces the midpoint by
inverse quadratic interpolation where the last three points lie on a curve that allows
it: eight or so evaluations to full precision, never more than bisection needs by much.

Reference: Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the
zero of a nonlinear function without using derivatives", Adv. Eng. Softw. 28 (1997).
"""

from collections.abc import Callable

import torch
from torch import Tensor


def chandrupatla(
    f: Callable[[Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    fa: Tensor,
    fb: Tensor,
    tolerance: Tensor,
    most: int = 60,
) -> Tensor:
    """Roots of f in [a, b], for all entries of a tensor at once.

    Inverse quadratic interpolation where the three last points are on a curve that
    allows it, bisection elsewhere.
    """
    c, fc = a, fa
    t = torch.full_like(a, 0.5)
    for _ in range(most):
        x = a + t * (b - a)
        fx = f(x)
        same = fx.sign() == fa.sign()
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        best = torch.where(fa.abs() < fb.abs(), a, b)
        width = (b - a).abs()
        if bool(((width <= tolerance) | (fa == 0) | (fb == 0)).all()):
            break
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        safe = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        iqi = fa / (fb - fa) * fc / (fb - fc)
        iqi = iqi + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        least = (0.5 * tolerance / width).clamp(max=0.5)
        t = torch.where(safe & iqi.isfinite(), iqi, 0.5)
        t = t.maximum(least).minimum(1 - least)
    return best
