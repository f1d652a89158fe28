"""Cost: memory against depth, and error against work, on logarithmic axes.

A straight line of slope p means error ∝ work⁻ᵖ (or memory ∝ depth); reversibility is
the flat line.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .style import (
    Array,
    Numbers,
    axes,
    few_labels,
    legend,
    line_properties,
    look,
    number,
    outside,
    pair,
    with_gaps,
)


def memory(
    depth: Numbers, saved: Mapping[str, Numbers], ax: Axes | None = None, **style: Any
) -> Axes:
    """Draw the bytes kept for the backward pass against depth, one curve per route.

    Parameters
    ----------
    depth : sequence of int
        Number of layers or steps.
    saved : dict of str to sequence of float
        For each gradient route, the bytes at each depth.
    ax : matplotlib Axes, optional
    **style
        Properties of all lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes
        What is NaN, infinite or not > 0 has no place on these axes and is a gap.

    Raises
    ------
    ValueError
        If a route does not have one number per depth, or none that is finite.

    Examples
    --------
    >>> import secondorder as so
    >>> saved = {"backprop": [1e4, 1e5], "reversible": [1e3, 1.2e3]}
    >>> so.plot.memory([10, 100], saved).get_ylabel()
    'kept for the backward pass [MiB]'
    """
    counts = {
        name: on_log_axes("depth", depth, f"saved[{name!r}]", values)
        for name, values in saved.items()
    }
    ax, style = axes(ax), line_properties(style)
    for index, (name, (layers, kept)) in enumerate(counts.items()):
        ax.loglog(layers, kept / 2**20, label=name, **{**look(index), **style})
    ax.set(xlabel="depth [layers]", ylabel="kept for the backward pass [MiB]")
    few_labels(ax)
    ax.grid(alpha=0.3)
    return legend(ax)


def work_precision(
    results: Mapping[str, tuple[Numbers, Numbers]],
    ax: Axes | None = None,
    *,
    slopes: bool = True,
    **style: Any,
) -> Axes:
    """Draw error against field evaluations, one curve per method.

    Parameters
    ----------
    results : dict of str to (sequence, sequence)
        For each method its numbers of evaluations and its errors.
    ax : matplotlib Axes, optional
    slopes : bool, default True
        Write into the legend the order read off the last two points that are drawn.
    **style
        Properties of all lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes
        What is NaN, infinite or not > 0 has no place on these axes and is a gap.

    Raises
    ------
    ValueError
        If a method has not as many errors as evaluations, or none that is finite.

    Examples
    --------
    >>> import secondorder as so
    >>> ax = so.plot.work_precision({"verlet": ([10, 20, 40], [1e-2, 2.5e-3, 6e-4])})
    >>> ax.get_legend().get_texts()[0].get_text()
    'verlet (slope −2.1)'
    """
    runs = {
        name: on_log_axes("evaluations", evaluations, f"results[{name!r}]", errors)
        for name, (evaluations, errors) in results.items()
    }
    ax, style = axes(ax), line_properties(style)
    for index, (name, (work, error)) in enumerate(runs.items()):
        label = name + (slope(work, error) if slopes else "")
        ax.loglog(work, error, label=label, **{**look(index), **style})
    ax.set(xlabel="field evaluations", ylabel="error at the final time")
    few_labels(ax)
    ax.grid(alpha=0.3)
    # Many curves leave no corner free.
    return legend(ax, **(outside(ax) if len(results) > 5 else {}))


def on_log_axes(first: str, x: Numbers, second: str, y: Numbers) -> tuple[Array, Array]:
    """Two sequences of positive numbers of one length; gaps where they are not."""
    x, y = pair(first, x, second, y)
    x, y = with_gaps(x, first, positive=True), with_gaps(y, second, positive=True)
    return x, y


def slope(work: Array, error: Array) -> str:
    """The order read off the last two points, in words for the legend."""
    seen = np.isfinite(work) & np.isfinite(error)
    rise, run = (np.diff(np.log(z[seen][-2:])) for z in (error, work))
    return f" (slope {number((rise / run).item(), 1)})" if run.any() else ""
