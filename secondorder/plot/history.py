"""Histories: losses over training, and what seeds make of one experiment."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .style import (
    BAD,
    Array,
    Numbers,
    array,
    few_labels,
    legend,
    light,
    line_properties,
    look,
    size_of,
    with_gaps,
)
from .style import axes as axes_or_new


def losses(history: Any, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw the losses of one training or of several.

    Parameters
    ----------
    history : History, sequence of float, or dict of str to these
        What ``fit`` returns, or its losses.  Of a History its ``validation`` is drawn
        dashed if it has one, a band reaches over the ``members`` of an ensemble, and a
        cross marks where training stopped early.
    ax : matplotlib Axes, optional
    **style
        Properties of all lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes
        Logarithmic unless a loss is 0 or negative.  What is NaN or infinite is a gap.

    Raises
    ------
    ValueError
        If there is no history, or one holds no finite loss.

    Examples
    --------
    >>> import secondorder as so
    >>> ax = so.plot.losses({"first": [1.0, 0.5], "second": [1.0, 0.1]})
    >>> ax.get_yscale(), len(ax.get_lines())
    ('log', 2)
    """
    several = isinstance(history, Mapping)
    runs: dict[str, Any] = dict(history) if several else {"training": history}
    if not runs:
        raise ValueError("`history` is empty, so there is nothing to draw")
    curves: list[tuple[int, Any, Array, str, str]] = []  # index, x, y, name, line
    ends, bands = [], []
    for index, (name, run) in enumerate(runs.items()):
        line = str(look(index)["linestyle"])
        values = one_run(getattr(run, "loss", run), name)
        if np.size(getattr(run, "members", ())):
            bands.append((index, member_range(run.members, len(values))))
        steps = np.arange(1, len(values) + 1).astype(float)
        curves.append((index, steps, values, name, line))
        held_out = getattr(run, "validation", None)
        if held_out is not None and np.size(held_out):
            checked = one_run(held_out, f"validation of {name}")
            at = np.asarray(getattr(run, "validated", ()), dtype=float)
            if at.shape != checked.shape:  # at even distances, the last at the end
                at = len(values) / len(checked) * np.arange(1, len(checked) + 1)
            said = f"{name}, validation" if several else "validation"
            curves.append((index, at, checked, said, ":"))
        ended = getattr(run, "stopped", "")
        if ended and not ended.startswith("converged"):
            last = np.flatnonzero(np.isfinite(values))[-1]
            ends.append((steps[last], values[last]))
    ax, style = axes_or_new(ax), line_properties(style)
    dot = size_of("lines.markersize", 4)
    for index, steps, values, name, line in curves:
        drawn: dict[str, Any] = {"color": look(index)["color"], "linestyle": line}
        if len(values) < 30:
            drawn |= {"marker": look(index)["marker"], "markersize": dot}
        drawn |= light(len(values))
        named = name if several or len(curves) > 1 else None
        ax.plot(steps, values, **{**drawn, **style}, label=named)
    for index, (least, most) in bands:
        at = np.arange(1, len(least) + 1)
        color = look(index)["color"]
        ax.fill_between(at, least, most, color=color, alpha=0.2, linewidth=0, zorder=1)
    for n, (step, value) in enumerate(ends):
        label = None if n else "stopped early"
        ax.plot(step, value, "X", color=BAD, markersize=2 * dot, mec="k", label=label)
    if all(np.nanmin(values) > 0 for _, _, values, _, _ in curves):
        ax.set_yscale("log")
    few_labels(ax)
    ax.set(xlabel="step of training", ylabel="loss")
    ax.grid(alpha=0.3)
    return legend(ax, loc="best")


def spread(
    t: Numbers,
    runs: Numbers | Mapping[str, Numbers],
    ax: Axes | None = None,
    *,
    time: str = "depth t",
    log: bool = False,
    **style: Any,
) -> Axes:
    """Draw the median and the range of runs that differ by their seed.

    Parameters
    ----------
    t : sequence of float, shape (n,)
        Depths, times or steps.
    runs : array or Tensor, shape (seeds, n), or dict of str to these
        One row per seed.
    ax : matplotlib Axes, optional
    time : str, default "depth t"
        What stands below the axis, such as ``"step"``.
    log : bool, default False
        Draw the values on a logarithmic axis, where one that is not > 0 is a gap.
    **style
        Properties of the lines of the medians.

    Returns
    -------
    matplotlib Axes
        A line is the median, the band around it reaches from the least to the greatest.
        Where a run is NaN or infinite, all of this curve has a gap: a median of the
        runs that went well would flatter; the legend counts them.

    Raises
    ------
    ValueError
        If ``runs`` does not have rows of n numbers, or nowhere are all of them finite.

    Examples
    --------
    >>> import secondorder as so
    >>> ax = so.plot.spread([0, 1], {"verlet": [[1.0, 2.0], [1.0, 4.0], [1.0, 2.5]]})
    >>> ax.get_legend().get_texts()[0].get_text()
    'verlet (median and range of 3)'
    """
    t = array(t, "t")
    named = runs if isinstance(runs, Mapping) else {"": runs}
    tables: dict[str, Array] = {}
    bands: dict[str, Array] = {}
    for name, run in named.items():
        said = f"runs[{name!r}]" if name else "runs"
        table = array(run, said)
        if t.ndim != 1 or table.ndim != 2 or table.shape[1] != len(t) or not len(table):
            raise ValueError(
                f"`runs` must have one row per seed, shape (seeds, {t.size}); got "
                f"{table.shape}" + (f" for {name!r}" if name else "")
            )
        tables[name] = table
        band = [table.min(0), np.median(table, 0), table.max(0)]
        bands[name] = np.where(np.isfinite(table).all(0), band, np.nan)
        bands[name] = with_gaps(bands[name], said, positive=log)
    ax, style = axes_or_new(ax), line_properties(style)
    for index, (name, (least, median, most)) in enumerate(bands.items()):
        table = tables[name]
        bad = int((~np.isfinite(table)).any(1).sum())
        said = f"median and range of {len(table)}" + (
            f", {bad} not finite" if bad else ""
        )
        drawn: dict[str, Any] = {**look(index), **light(len(t))}
        drawn["markersize"] = size_of("lines.markersize", 4)
        drawn["markevery"] = max(1, len(t) // 8)
        drawn |= style
        label = f"{name} ({said})" if name else said
        (line,) = ax.plot(t, median, **drawn, label=label)
        ax.fill_between(
            t, least, most, color=line.get_color(), alpha=0.2, linewidth=0, zorder=1
        )
    ax.set(xlabel=time, ylabel="value")
    if log:
        ax.set_yscale("log")
        few_labels(ax)
    ax.margins(x=0)
    return legend(ax, loc="best")


def member_range(members: Any, steps: int) -> tuple[Array, Array]:
    """The least and the greatest loss of an ensemble at each step, each (n,)."""
    table = array(members, "members of the history")
    if table.ndim != 2 or len(table) != steps:
        raise ValueError(
            "`history` must hold the losses of its members, shape (steps, members); "
            f"got {table.shape} for {steps} steps"
        )
    shown = np.ma.masked_invalid(table)
    return shown.min(1).filled(np.nan), shown.max(1).filled(np.nan)


def one_run(values: Any, name: str) -> Array:
    """The losses of one run ``(n,)``, gaps where they are not finite, or an error."""
    found = array(values, f"history of {name}")
    if found.ndim != 1 or not found.size:
        raise ValueError(
            f"`history` must hold one loss per step, shape (n,); that of {name!r} has "
            f"shape {found.shape}"
        )
    return with_gaps(found, f"history of {name}")
