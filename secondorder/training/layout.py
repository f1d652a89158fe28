"""Which axis of observations is time: the first one in results, not always in data.

    time_first     (n, batch, ..., d)     what ``odeint`` returns
    batch_first    (batch, n, ..., d)     what data sets often are

Times are ``(n,)`` for all samples, or ``(batch, n)``, a row per sample, in both.
"""

from typing import Any

from torch import Tensor

from .. import checks

LAYOUTS = ("time_first", "batch_first")


def time_first(value: Tensor, n: int, name: str, layout: Any = None) -> Tensor:
    """Return values with their n times on the first axis, which is never guessed.

    Where both layouts fit the shape, ``layout`` has to say which it is.
    """
    if layout is not None:
        checks.one_of(layout, "layout", LAYOUTS)
    shape = tuple(value.shape)
    fits = {
        "time_first": shape[:1] == (n,),
        "batch_first": len(shape) > 1 and shape[1] == n,
    }
    if layout is None and all(fits.values()) and n > 1:
        raise ValueError(
            f"`{name}` of shape {shape} may be time first or batch first, with {n} "
            "times and as many samples; say layout='time_first' or 'batch_first'"
        )
    chosen = layout or next((each for each in LAYOUTS if fits[each]), None)
    if chosen is None or not fits[chosen]:
        wanted = {"time_first": f"({n}, ...)", "batch_first": f"(batch, {n}, ...)"}
        allowed = " or ".join(wanted[each] for each in (layout and [layout]) or LAYOUTS)
        raise ValueError(f"`{name}` must have shape {allowed}, got {shape}")
    return value if chosen == "time_first" else value.swapaxes(0, 1)
