"""Tolerances: what they are for each entry, and how large an error is beside them.

    |e_i| / (atol + rtol max(|y_i|, |y'_i|))      for each entry of y = (x, v)

and a norm of all of these, which must stay below 1: the root mean square, the largest
one, or a function of the user's.

Reference: Hairer, Nørsett & Wanner, "Solving Ordinary Differential Equations I", II.4,
eqs. (4.10) and (4.11).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..systems.equations import same
from .method import Options


def tolerances(options: Options, like: Tensor) -> tuple[Any, Any]:
    """The tolerances asked for, or what suits the precision of the state."""
    eps = torch.finfo(like.dtype).eps
    rtol, atol = 1e-5, 1e-6
    if eps < 1e-12:
        rtol, atol = 1e-7, 1e-9
    elif eps > 1e-5:  # half precisions
        rtol, atol = 2 * eps, eps / 2
    given = {"rtol": options.rtol, "atol": options.atol}
    for name, value in given.items():
        for part in value if isinstance(value, tuple) else (value,):
            shape = part.shape if isinstance(part, Tensor) else ()
            try:
                fits = torch.broadcast_shapes(shape, like.shape) == like.shape
            except RuntimeError:
                fits = False
            if not fits:
                raise ValueError(
                    f"`{name}` of shape {tuple(shape)} does not fit the state's, "
                    f"{tuple(like.shape)}"
                )
    return (
        rtol if options.rtol is None else options.rtol,
        atol if options.atol is None else options.atol,
    )


def relative_size(
    rtol: Any, atol: Any, leave: Callable[[Tensor], Tensor] = same, norm: Any = None
) -> Callable[..., float]:
    """Return ``size(error, before, after)``, an error in units of tolerance.

    The norm is the root mean square, ``"max"``, or a function of the errors ``(m,)`` in
    these units.  ``leave`` brings modal coordinates back to those the tolerances are
    meant in.
    """

    def size(error: Any, before: Any, after: Any) -> float:
        count = sum(e.numel() for e in error[:2])
        if not count:
            return 0.0
        with torch.no_grad():
            found = ratios(error, before, after, rtol, atol, leave)
            if norm in (None, "rms"):
                total = sum(ratio.square().sum() for ratio in found)
                return math.sqrt(total.item() / count)  # type: ignore[union-attr]
            flat = torch.cat([ratio.reshape(-1) for ratio in found])
            return float(flat.max() if norm == "max" else norm(flat))

    return size


def ratios(
    error: Any,
    before: Any,
    after: Any,
    rtol: Any,
    atol: Any,
    leave: Callable[[Tensor], Tensor] = same,
) -> list[Tensor]:
    """The errors of x and v in units of their tolerances, entry by entry.

    What follows (ex, ev) in an error are further measures of ev.
    """
    found: list[Tensor] = []
    scale: Any = None
    for k, e in enumerate(error):
        if k < 2:
            ends = [widened(leave(y[k])) for y in (before, after)]
            a, r = part_of(atol, k, ends[0]), part_of(rtol, k, ends[0])
            scale = a + r * torch.maximum(ends[0].abs(), ends[1].abs())
        found.append(widened(leave(e)).abs() / scale)
    return found


def part_of(tolerance: Any, k: int, like: Tensor) -> Any:
    """A tolerance of x (k = 0) or v (1), in the units of a state."""
    value = tolerance[k] if isinstance(tolerance, tuple) else tolerance
    if not isinstance(value, Tensor):
        return value
    return value.to(like.device, like.dtype.to_real())


def widened(value: Tensor) -> Tensor:
    """A value in float32 at least: half precisions have no room for tolerances."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def rounding_check(rtol: Any, atol: Any, like: Tensor) -> Callable[[Any], None]:
    """Return ``check((x, v))``, which raises where a tolerance is below rounding.

    No steps, however short, can then do what is asked: they only become ever more.
    """
    unit = torch.finfo(like.dtype).eps / 2
    size = relative_size(rtol, atol)
    least = min(smallest(part_of(rtol, k, like)) for k in (0, 1))

    def check(state: Any) -> None:
        if least >= unit:
            return
        rounding = tuple(unit * part.detach() for part in state)
        if size(rounding, state, state) > 1:
            reach = max(part.detach().abs().max().item() for part in state)
            raise ValueError(
                f"`rtol` = {described(rtol)} and `atol` = {described(atol)} are below "
                "the rounding of "
                f"{like.dtype} states, {unit:.1g} of their size (max |x|, |v| = "
                f"{reach:.3g}); take `rtol` >= {unit:.1g} or `atol` >= "
                f"{unit * reach:.1g}, or solve in float64"
            )

    return check


def smallest(tolerance: Any) -> float:
    """The least of a tolerance."""
    return tolerance.min().item() if isinstance(tolerance, Tensor) else tolerance


def described(tolerance: Any) -> str:
    """A tolerance in words."""
    if isinstance(tolerance, tuple):
        return " and ".join(map(described, tolerance))
    if isinstance(tolerance, Tensor):
        return checks.describe(tolerance)
    return f"{tolerance:g}"


def step_control(
    first_step: Any = None,
    max_step: Any = None,
    max_steps: Any = None,
    norm: Any = None,
) -> dict[str, Any]:
    """Return how steps are to be chosen, or raise."""
    if norm is not None and not callable(norm):
        checks.one_of(norm, "norm", ["rms", "max"])
    return {
        "first_step": checks.step_size(first_step, "first_step"),
        "max_step": checks.step_size(max_step, "max_step"),
        "max_steps": checks.optional_count(max_steps, "max_steps"),
        "norm": norm,
    }
