"""How far a solution is from what was observed: the residuals of least squares.

r = x − y    where y was seen
"""

from typing import Any

import torch
from torch import Tensor

from .layout import time_first


def misfit(
    solution: Any, x: Any, v: Tensor | None = None, *, layout: str | None = None
) -> Tensor:
    """The residuals of a solution against observations at its times.

    Parameters
    ----------
    solution : Solution
        Its x and v are ``(n, ..., d)``.
    x : Tensor, ``(n, ..., d)`` or ``(batch, n, ..., d)``; or Solution
        Observed positions, NaN where there is none.  A last axis of one coordinate may
        be missing.  A Solution (or motions of ``so.data.oscillator``) is time first.
    v : Tensor, optional
        Observed velocities, in the same layout.
    layout : {"time_first", "batch_first"}, optional
        Which of the two it is, where both fit the shape.

    Returns
    -------
    Tensor, shape (seen,)
        x − y of all that was seen, then the same of v.  Their mean square is the loss;
        Gauss–Newton takes them as they are.

    Raises
    ------
    ValueError
        If the shape is neither, or may be both and ``layout`` does not say which, or
        nothing was seen.
    TypeError
        For a state of several parts, or observations that are not tensors.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> t = torch.linspace(0, 1, 11)
    >>> solution = so.odeint(so.Newton(lambda t, x: -x), (torch.ones(3, 1), None), t)
    >>> observed = torch.cos(t).expand(3, 11)  # a row per sample
    >>> so.misfit(solution, observed).square().mean() < 1e-5
    tensor(True)
    """
    if hasattr(x, "x"):
        if layout not in (None, "time_first"):
            raise ValueError(f"`layout` {layout!r}: a solution is time first")
        x, layout = x.x, "time_first"
    parts = []
    for name, found, seen in (("x", solution.x, x), ("v", solution.v, v)):
        if name == "v" and seen is None:
            continue
        if not isinstance(found, Tensor):
            raise TypeError(
                "`solution` must have states that are tensors, got "
                f"{type(found).__name__}; subtract the parts of a structure one by one"
            )
        if not isinstance(seen, Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(seen).__name__}")
        seen = time_first(seen, len(found), name, layout)
        if seen.shape == found.shape[:-1] and found.shape[-1] == 1:
            seen = seen.unsqueeze(-1)
        if seen.shape != found.shape:
            raise ValueError(
                f"`{name}` must be observations of the states {tuple(found.shape)}; "
                f"with its time first it has shape {tuple(seen.shape)}"
            )
        known = seen.isfinite()
        parts.append(found[known] - seen[known].to(found))
    residuals = torch.cat(parts)
    if not len(residuals):
        raise ValueError("`x` holds no finite number: nothing was observed")
    return residuals
