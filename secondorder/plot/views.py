"""Views of states that have more than a plane: paths in space, small multiples."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from .motion import phase_portrait, start_colors
from .states import (
    Solved,
    axes_and_rest,
    choose,
    choose_some,
    is_coordinates,
    is_solved,
    phase_labels,
    positions_and_velocities,
    samples,
    solved_states,
    split,
    subscript,
)
from .style import (
    Array,
    Numbers,
    figure_size,
    legend,
    light,
    line_properties,
    size_of,
    with_gaps,
)


def space(
    x: Numbers | Solved,
    axes: tuple[int | str, int | str, int | str] = (0, 1, 2),
    ax: Any = None,
    *,
    layout: str | None = None,
    color: ColorType | Sequence[ColorType] | None = None,
    time: str = "depth t",
    label: str | None = None,
    **style: Any,
) -> Any:
    """Draw paths in three dimensions.

    Parameters
    ----------
    x : Tensor or array, shape (n, ..., d); or Solution
        Positions; the last axis always holds the coordinates, and each index of the
        axes between is one path.
    axes : three of int or str, default (0, 1, 2)
        Coordinates, counted from 0.  Of a Solution also ``"v0"``, ``"v1"``, … for
        velocities and ``"t"`` for the time: ``("t", 0, "v0")`` for one coordinate.
    ax : matplotlib Axes in 3-D, optional
    layout : {"time_first", "batch_first"}, optional
        Whether arrays are ``(n, batch, ...)`` or ``(batch, n, ...)``.  Default: the
        first; a Solution always is.
    color : matplotlib colour or one per path, optional
        Instead of the colours by starting position along the first axis.
    time : str, default "depth t"
        What the axis of ``"t"`` is called.
    label : str, optional
        Legend entry of the whole bundle.
    **style
        Properties of the lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes3D
        A dot marks each start.  What is NaN or infinite is a gap.

    Raises
    ------
    ValueError
        If ``axes`` are not three different ones of the states, or nothing is finite.
    TypeError
        If ``ax`` is not in three dimensions.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> spring = so.Newton(lambda t, x: -x, damping=0.1)
    >>> sol = so.odeint(spring, (torch.ones(1), None), torch.linspace(0, 20, 200))
    >>> so.plot.space(sol, ("t", 0, "v0")).get_zlabel()
    'velocity v'
    """
    if ax is not None and not getattr(ax, "name", "") == "3d":
        raise TypeError(
            "`ax` must have three dimensions, such as "
            'plt.figure().add_subplot(projection="3d"); got ' + type(ax).__name__
        )
    if np.ndim(axes) != 1 or len(axes) != 3 or len({*map(str, axes)}) != 3:
        raise ValueError(
            f"`axes` must be three different ones such as (0, 1, 2), got {axes!r}"
        )
    if is_solved(x):
        t, places, v = solved_states(x)
        t = np.repeat(t, places.shape[1] // t.shape[1], axis=1)
    else:
        places = split(samples(x, "x", False, layout=layout), True)
        t = v = np.empty(0)
    drawn = [with_gaps(along(axis, t, places, v), "x") for axis in axes]
    if ax is None:
        figure = plt.figure(figsize=figure_size(), layout="constrained")
        ax = figure.add_subplot(projection="3d")
    style = line_properties(style)
    shades = start_colors(drawn[0][0], style.pop("color", color))
    width, dot = size_of("lines.linewidth", 1.4), size_of("lines.markersize", 4)
    style = light(places.size) | style
    for a, b, c, shade in zip(*(z.T for z in drawn), shades, strict=True):
        ax.plot(a, b, c, **{"color": shade, "linewidth": width} | style, label=label)
        ax.plot(a[:1], b[:1], c[:1], "o", color=shade, markersize=dot)
        label = None
    names = [axis_name(axis, places.shape[2], time) for axis in axes]
    ax.set(xlabel=names[0], ylabel=names[1], zlabel=names[2])
    ax.locator_params(nbins=5)  # labels that are slanted away need room
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.labelpad += 0.8 * (plt.rcParams["font.size"] - 10)
    ax.set_box_aspect(None, zoom=0.85)  # else the outer label is cut off
    return legend(ax)


def along(axis: int | str, t: Array, x: Array, v: Array) -> Array:
    """The numbers (n, samples) along one axis: a position, "v0" or "t"."""
    if isinstance(axis, str):
        if not t.size:
            raise ValueError(f"`axes` has {axis!r}, which only a Solution has")
        if axis == "t":
            return t
        if axis[:1] == "v" and axis[1:].isdigit():
            return v[:, :, choose(int(axis[1:]), v.shape[2], "axes")]
        raise ValueError(f"`axes` must be integers, 'v0', 'v1', … or 't', got {axis!r}")
    return x[:, :, choose(axis, x.shape[2], "axes")]


def axis_name(axis: int | str, d: int, time: str) -> str:
    """What stands beside an axis."""
    if axis == "t":
        return time
    if isinstance(axis, str):
        return phase_labels(int(axis[1:]), d)[1]
    return f"x{subscript(axis % d)}" if d > 1 else "position x"


def portraits(
    x: Numbers | Solved,
    v: Numbers | None = None,
    ax: Sequence[Axes] | NDArray[Any] | None = None,
    *,
    coordinate: int | Sequence[int] | None = None,
    coordinates: bool | None = None,
    layout: str | None = None,
    columns: int | None = None,
    **style: Any,
) -> NDArray[Any]:
    """Draw one phase portrait (x_k, v_k) per coordinate, side by side.

    Parameters
    ----------
    x, v : Tensor or array, shape (n, ..., d); or a Solution in place of both
        Positions and velocities; the last axis holds the coordinates unless
        ``coordinates=False``.
    ax : sequence of matplotlib Axes, optional
        As many as coordinates are drawn.
    coordinate : int or sequence of int, optional
        Draw these, counted from 0.  Default: all.
    coordinates : bool, optional
        Whether the last axis holds coordinates.
    layout : {"time_first", "batch_first"}, optional
        Whether arrays are ``(n, batch, ...)`` or ``(batch, n, ...)``.  Default: the
        first; a Solution always is.
    columns : int, optional
        Panels in a row.  Default: at most four, and as many as fit a line.
    **style
        As in ``phase_portrait``: ``color``, ``label``, properties of the lines.

    Returns
    -------
    array of matplotlib Axes
        A path has one colour in all panels.

    Raises
    ------
    ValueError
        If there are more than 24 coordinates to draw, ``ax`` has another number of
        Axes, or ``x`` and ``v`` do not fit.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> springs = so.Newton(lambda t, x: -torch.tensor([1.0, 2.0, 3.0]) * x)
    >>> sol = so.odeint(springs, (torch.ones(3), None), torch.linspace(0, 9, 200))
    >>> [ax.get_xlabel() for ax in so.plot.portraits(sol)]
    ['position x₁', 'position x₂', 'position x₃']
    """
    solved = is_solved(x)
    v, _ = axes_and_rest(solved, "v", v, None)
    if is_solved(x):
        _, xs, vs = solved_states(x)
    else:
        xs, vs = positions_and_velocities(x, v, False, layout=layout)
        said = is_coordinates(xs, coordinates, coordinate, False)
        xs, vs = (split(z, said is not False) for z in (xs, vs))
    chosen = choose_some(coordinate, xs.shape[2])
    if not 1 <= len(chosen) <= 24:
        raise ValueError(
            f"`x` has {len(chosen)} coordinates to draw, at most 24 fit a page; choose "
            "some by coordinate=[0, 1]"
        )
    panels = grid_of_axes(len(chosen), ax, columns)
    style = line_properties(style)
    style["color"] = start_colors(xs[0, :, chosen[0]], style.get("color"))
    for panel, k in zip(panels, chosen, strict=True):
        phase_portrait(xs, vs, panel, coordinate=k, **style)
        style.pop("label", None)  # one entry for the bundle
    return panels


def grid_of_axes(
    count: int, ax: Sequence[Axes] | NDArray[Any] | None, columns: int | None = None
) -> NDArray[Any]:
    """As many Axes as asked for, (count,): those that are given, or new ones."""
    if ax is not None:
        panels = np.ravel(np.asarray(ax, dtype=object))
        if len(panels) != count or not all(isinstance(one, Axes) for one in panels):
            raise ValueError(f"`ax` must be {count} Axes, one per panel, got {ax!r}")
        return panels
    size, letter = figure_size(), plt.rcParams["font.size"]
    changed = size != (5, 3.6)
    room = size[0] if changed else 9.0
    # Numbers and labels take as much of a panel as their letters are large.
    fitting = max(1, min(4, int(room / (0.16 * letter))))
    wide = columns or -(-count // -(-count // fitting))  # as full rows as possible
    rows, side = -(-count // wide), room / wide if changed else 2.25
    fig, axs = plt.subplots(
        rows, wide, figsize=(side * wide, (0.72 * side + 0.05 * letter) * rows),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for panel in axs.ravel():
        panel.locator_params(nbins=4)
    for spare in axs.ravel()[count:]:
        fig.delaxes(spare)
    return np.asarray(axs.ravel()[:count])
