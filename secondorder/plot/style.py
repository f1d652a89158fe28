"""What all plots share: colours that everyone can tell apart, and empty axes.

Reference: Okabe and Ito, "Color Universal Design", 2008.
"""

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
LINES = ("-", "--", "-.", ":")
SEQUENTIAL = "cividis"  # even in lightness, and the same with two kinds of cones


def axes(ax):
    """Return ``ax``, or the axes of a new figure if it is None."""
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
    return ax


def array(value):
    """A tensor, array or list as a float64 array on the CPU, off the graph."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=float)


def curves(value, name, n=None):
    """Samples over time as a matrix ``(n, curves)``: all later axes become curves."""
    value = array(value)
    if value.ndim == 0 or value.size == 0 or (n is not None and len(value) != n):
        wanted = "(n, ...)" if n is None else f"({n}, ...)"
        raise ValueError(
            f"`{name}` must have shape {wanted}, time on the first axis, got "
            f"{value.shape}"
        )
    return value.reshape(len(value), -1)


def look(index):
    """Colour, marker and line style of curve ``index`` in a family of curves."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLORS) % len(LINES)],
    }
