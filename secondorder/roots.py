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
) -> tuple[Tensor, Tensor]:
    """Roots of f in [a, b], for all entries of a tensor at once, and f there.

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
        nearer = fa.abs() < fb.abs()
        best, least_f = torch.where(nearer, a, b), torch.where(nearer, fa, fb)
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
    return best, least_f


def first_change(
    f: Callable[[Tensor], Tensor],
    sign: Tensor,
    a: Tensor,
    b: Tensor,
    fa: Tensor,
    fb: Tensor,
    tolerance: Tensor,
) -> Tensor:
    """Where in [a, b] a function loses the sign that it has at a; a root, if it is one.

    A function that stays at zero has no root to converge to: it is bisected for where
    the zeros begin.
    """
    root, value = chandrupatla(f, a, b, fa, fb, tolerance)
    if not bool((value == 0).any()):
        return root
    back = (a - root).sign() * (4 * tolerance).minimum((a - root).abs())
    flat = (value == 0) & (f(root + back).sign() != sign)
    if not bool(flat.any()):
        return root

    def lost(x: Tensor) -> Tensor:
        return torch.where(f(x).sign() == sign, sign, -sign)

    # Where nothing is flat, the bracket is empty.
    end = torch.where(flat, root, a)
    begin, _ = chandrupatla(lost, a, end, sign, -sign, tolerance)
    return torch.where(flat, begin, root)
