"""Cost: memory against depth, and error against work, on logarithmic axes.

A straight line of slope p means error ∝ work⁻ᵖ (or memory ∝ depth); reversibility is
the flat line.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from .style import Numbers, axes, legend, look, number, pair


def memory(
    depth: Numbers, saved: Mapping[str, Numbers], ax: Axes | None = None
) -> Axes:
    """Draw the bytes kept for the backward pass against depth, one curve per route.

    Parameters
    ----------
    depth : sequence of int
        Number of layers or steps.
    saved : dict of str to sequence of float
        For each gradient route, the bytes at each depth.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a route does not have one number per depth.

    Examples
    --------
    >>> import secondorder as so
    >>> saved = {"backprop": [1e4, 1e5], "reversible": [1e3, 1.2e3]}
    >>> so.plot.memory([10, 100], saved).get_ylabel()
    'kept for the backward pass [MiB]'
    """
    ax = axes(ax)
    for index, (name, values) in enumerate(saved.items()):
        layers, kept = pair("depth", depth, f"saved[{name!r}]", values)
        ax.loglog(layers, kept / 2**20, label=name, **look(index))
    ax.set(xlabel="depth [layers]", ylabel="kept for the backward pass [MiB]")
    ax.grid(alpha=0.3)
    return legend(ax)


def work_precision(
    results: Mapping[str, tuple[Numbers, Numbers]],
    ax: Axes | None = None,
    *,
    slopes: bool = True,
) -> Axes:
    """Draw error against field evaluations, one curve per method.

    Parameters
    ----------
    results : dict of str to (sequence, sequence)
        For each method its numbers of evaluations and its errors.
    ax : matplotlib Axes, optional
    slopes : bool, default True
        Write into the legend the order read off the last two points.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a method has not as many errors as evaluations.

    Examples
    --------
    >>> import secondorder as so
    >>> ax = so.plot.work_precision({"verlet": ([10, 20, 40], [1e-2, 2.5e-3, 6e-4])})
    >>> ax.get_legend().get_texts()[0].get_text()
    'verlet (slope −2.1)'
    """
    ax = axes(ax)
    for index, (name, (evaluations, errors)) in enumerate(results.items()):
        work, error = pair("evaluations", evaluations, f"results[{name!r}]", errors)
        label = name
        if slopes and len(error) > 1:
            rise, run = np.diff(np.log((error[-2:], work[-2:]))).ravel()
            label = f"{name} (slope {number(rise / run, 1)})"
        ax.loglog(work, error, label=label, **look(index))
    ax.set(xlabel="field evaluations", ylabel="error at the final time")
    ax.grid(alpha=0.3)
    # Many curves leave no corner free.
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(results) > 5 else {}
    return legend(ax, **beside)
