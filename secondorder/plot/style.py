"""What all plots share: colours that everyone can tell apart, and how data come in.

Reference: Okabe and Ito, "Color Universal Design", 2008.
"""

from typing import Any, TypeAlias, TypedDict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Numbers: TypeAlias = ArrayLike | Tensor  # what a plot takes as data
Array: TypeAlias = NDArray[np.float64]  # what it makes of them

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GOOD, BAD, NEUTRAL = COLORS[0], COLORS[1], "0.35"
MARKERS = "osD^vP*"
LINES = ("-", "--", "-.", ":")
SEQUENTIAL = "cividis"  # even in lightness, and the same with two kinds of cones
LARGEST = 1e300  # beyond it the limits of an axis overflow


class Look(TypedDict):
    """How a curve differs from the others of its family."""

    color: str
    marker: str
    linestyle: str


def axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the axes of a new figure if it is None."""
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
    return ax


def array(value: Numbers, name: str = "data") -> Array:
    """A tensor, array or list as a float64 array on the CPU, off the graph."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = (value if value.is_complex() else value.double()).numpy()
    found = np.asarray(value)
    if np.iscomplexobj(found):
        raise ValueError(
            f"`{name}` must be real, got {found.dtype}; draw its .real or its .imag"
        )
    return np.asarray(found, dtype=float)


def with_gaps(values: Array, name: str, *, positive: bool = False) -> Array:
    """Values with NaN, which leaves a gap, where they cannot be drawn.

    On a logarithmic axis (``positive``) that is also where they are not > 0.
    """
    shown = np.abs(values) <= LARGEST  # False for NaN
    if values.size and not shown.any():
        raise ValueError(
            f"`{name}` holds no finite number, so there is nothing to draw; got "
            f"{values.size} like {np.ravel(values)[0]}"
        )
    return np.where(shown & (values > 0) if positive else shown, values, np.nan)


def pairs(first: str, x: Array, second: str, y: Array) -> None:
    """Raise unless there is a point of which both numbers can be drawn."""
    if not (np.isfinite(x) & np.isfinite(y)).any():
        raise ValueError(
            f"`{first}` and `{second}` are nowhere finite together, so there is "
            "nothing to draw"
        )


def line_properties(style: dict[str, Any]) -> dict[str, Any]:
    """Matplotlib's properties of lines under their full names (``lw``, ``c``, …)."""
    return normalize_kwargs(style, Line2D)


def pair(first: str, x: Numbers, second: str, y: Numbers) -> tuple[Array, Array]:
    """Two sequences of numbers of one length, as arrays."""
    x, y = array(x, first), array(y, second)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"`{second}` must have one number for each of `{first}`, both of shape "
            f"(n,); got shapes {y.shape} and {x.shape}. Flatten them, or draw one "
            "curve at a time."
        )
    return x, y


def look(index: int) -> Look:
    """Colour, marker and line style of curve ``index`` in a family of curves."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLORS) % len(LINES)],
    }


def number(value: float, digits: int = 3) -> str:
    """A number for the reader: rounded, with a minus as wide as a plus."""
    return f"{value:.{digits}f}".replace("-", "−")


def legend(ax: Axes, **options: Any) -> Axes:
    """Add or refresh the legend if anything has a name."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize="small", **options)
    return ax
