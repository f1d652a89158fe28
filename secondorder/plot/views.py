"""Views of states that have more than a plane: sections, 3-D paths, small multiples.

A section keeps the states of a path at the times at which something happens: once per
period of a forcing (a stroboscope), or when g(t, x, v) passes 0 upwards.  A closed
orbit is a few points in it, a quasi-periodic one a curve, a chaotic one neither.

Reference: Strogatz, "Nonlinear Dynamics and Chaos", sections 8.7 and 12.5.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.typing import ColorType
from numpy.typing import NDArray

from .curves import Curves, smooth
from .energies import per_state, solved_states
from .motion import phase_portrait, start_colors
from .states import (
    Solved,
    axes_and_rest,
    choose,
    choose_some,
    is_coordinates,
    is_solved,
    samples,
    split,
    subscript,
)
from .style import Array, Numbers, legend, line_properties, size_of, with_gaps
from .style import axes as axes_or_new

Section = Callable[..., Any]  # g(t, x, v), one number per state
MANY = 5000  # points that are drawn as an image in vector files


def poincare(
    sol: Solved,
    section: Section | None = None,
    ax: Axes | None = None,
    *,
    period: float | None = None,
    phase: float = 0.0,
    direction: int = 1,
    skip: int = 0,
    wrap: float | None = None,
    coordinate: int | None = None,
    color: ColorType | Sequence[ColorType] | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw a Poincaré section: states once per period, or where a function passes 0.

    Parameters
    ----------
    sol : Solution
        Or anything with ``t`` (n,), ``x`` and ``v`` (n, ..., d).
    section : callable, optional
        ``section(t, x, v) -> g``, as an event function, but called with many states at
        once: t (m,), x and v (m, d), g (m,).  ``lambda t, x, v: x[..., 0]`` is the
        plane x₁ = 0.
    ax : matplotlib Axes, optional
    period : float, optional
        In place of ``section``: draw the states at the times ``phase`` + k ``period``.
    phase : float, default 0.0
    direction : 1, -1 or 0, default 1
        Whether g must rise through 0, fall, or either.
    skip : int, default 0
        Points at the start of each path that are left out, while it settles.
    wrap : float, optional
        Draw positions modulo ``wrap``, between ±wrap/2: 2π for a pendulum.
    coordinate : int, optional
        Draw the plane (x_k, v_k) of this coordinate, counted from 0.  A state of
        several coordinates needs it.
    color : matplotlib colour or one per path, optional
        Instead of the colours by starting position.
    label : str, optional
        Legend entry of the whole bundle.
    **style
        Properties of the points, such as ``markersize`` or ``alpha``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If not exactly one of ``section`` and ``period`` is given, no path has a point,
        the times of ``sol`` lie too far apart and it has no dense output, or the states
        have several coordinates of which none is chosen.

    Examples
    --------
    A driven Duffing oscillator, once per period of its force:

    >>> import torch, secondorder as so
    >>> duffing = so.Newton(lambda t, x: x - x**3 + 0.3 * torch.cos(t), damping=0.2)
    >>> t = 2 * torch.pi * torch.arange(0.0, 20.0)
    >>> sol = so.odeint(duffing, (torch.ones(1), None), t, step_size=0.1)
    >>> ax = so.plot.poincare(sol, period=2 * torch.pi, skip=5)
    >>> len(ax.get_lines()[0].get_xdata())
    15
    """
    if (section is None) == (period is None):
        raise ValueError(
            "give either `section`, a function of (t, x, v), or `period`, the time "
            "between two points"
        )
    d = solved_states(sol)[1].shape[2]
    if d > 1 and coordinate is None:
        raise ValueError(
            f"`sol` has states of {d} coordinates: choose the plane of one position "
            f"and velocity by coordinate=0, ..., {d - 1}"
        )
    k = 0 if coordinate is None else choose(coordinate, d)
    if direction not in (-1, 0, 1):
        raise ValueError(f"`direction` must be 1, -1 or 0, got {direction!r}")
    if section is not None:
        points = crossings(smooth(sol), section, direction)
        said = "`section` is passed by no path"
    else:
        points = stroboscope(sol, float(period or 0), float(phase))
        said = f"`period` {period!r} is longer than the solution"
    points = [(x[skip:, k], v[skip:, k]) for x, v in points]
    if not any(len(x) for x, _ in points):
        raise ValueError(f"{said}, or skip={skip} leaves nothing of it to draw")
    start = solved_states(sol)[1][0, :, k]
    ax, style = axes_or_new(ax), line_properties(style)
    shades = start_colors(start, style.pop("color", color))
    total = sum(len(x) for x, _ in points)
    size = size_of("lines.markersize", 3 if total < 2000 else 1.5)
    for (x, v), shade in zip(points, shades, strict=True):
        if wrap is not None:
            x = (x + wrap / 2) % wrap - wrap / 2
        look = {"linestyle": "", "marker": ".", "color": shade, "markersize": size}
        look |= {"markeredgewidth": 0, "rasterized": total > MANY}
        ax.plot(x, v, **{**look, **style}, label=label)
        label = None
    which = subscript(k) if d > 1 else ""
    ax.set(xlabel=f"position x{which}", ylabel=f"velocity v{which}")
    return legend(ax, loc="best")


def stroboscope(sol: Solved, period: float, phase: float) -> list[tuple[Array, Array]]:
    """The states (m, d) of each sample at the times phase + k period."""
    if not 0 < period < np.inf or not np.isfinite(phase):
        raise ValueError(
            f"`period` must be positive and `phase` finite, got {period!r}, {phase!r}"
        )
    t, x, v = solved_states(sol)
    t = np.repeat(t, x.shape[1] // t.shape[1], axis=1)
    slack = 1e-6 * np.abs(t).max()  # what float32 leaves of a time
    points = []
    curves: Curves | None = None
    for k in range(x.shape[1]):
        low, high = sorted((t[0, k], t[-1, k]))
        first = np.ceil((low - slack - phase) / period)
        last = np.floor((high + slack - phase) / period)
        wanted = phase + period * np.arange(first, last + 1)
        if t[-1, k] < t[0, k]:
            wanted = wanted[::-1]
        near = np.abs(t[:, k, None] - wanted).argmin(0) if len(wanted) else []
        if np.abs(t[near, k] - wanted).max(initial=0.0) <= slack:
            points.append((x[near, k], v[near, k]))  # no state between the times
            continue
        curves = curves or smooth(sol)
        one = Curves(*(part[:, k : k + 1] for part in curves))
        xs, vs = one.at(wanted)
        points.append((xs[:, 0], vs[:, 0]))
    return points


def crossings(
    curves: Curves, section: Section, direction: int
) -> list[tuple[Array, Array]]:
    """The states (m, d) of each sample where the section passes 0, in order."""

    def g(t: Array, x: Array, v: Array) -> Array:
        states = (torch.from_numpy(np.ascontiguousarray(z)) for z in (x, v))
        time = torch.from_numpy(np.ascontiguousarray(t))
        return per_state(lambda x, v: section(time, x, v), "section", *states)[:, 0]

    n, paths, d = curves.x.shape
    values = g(
        curves.t.ravel(), curves.x.reshape(-1, d), curves.v.reshape(-1, d)
    ).reshape(n, paths)
    left, right = values[:-1].copy(), values[1:]
    rises, falls = (left < 0) & (right >= 0), (left > 0) & (right <= 0)
    rises[0] |= (left[0] == 0) & (right[0] > 0)  # a path that starts in the section
    falls[0] |= (left[0] == 0) & (right[0] < 0)
    passed = (rises & (direction >= 0)) | (falls & (direction <= 0))
    k, i = np.nonzero(passed.T)
    low, high = np.zeros(len(i)), np.ones(len(i))
    sign = np.where(rises[i, k], 1.0, -1.0)
    for _ in range(40):
        middle = (low + high) / 2
        before = sign * g(*curves.inside(i, k, middle)) < 0 if len(i) else middle < 0
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    s = np.where(left[i, k] == 0, 0.0, high)
    t, x, v = curves.inside(i, k, s)
    if len(i):  # what jumps over 0, as an angle does, does not pass it
        largest = np.maximum(np.abs(left[i, k]), np.abs(right[i, k]))
        kept = np.abs(g(t, x, v)) <= 1e-3 * largest
        k, x, v = k[kept], x[kept], v[kept]
    return [(x[k == one], v[k == one]) for one in range(paths)]


def space(
    x: Numbers | Solved,
    axes: tuple[int | str, int | str, int | str] = (0, 1, 2),
    ax: Any = None,
    *,
    color: ColorType | Sequence[ColorType] | None = None,
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
    color : matplotlib colour or one per path, optional
        Instead of the colours by starting position along the first axis.
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
        places = split(samples(x, "x", False), True)
        t = v = np.empty(0)
    drawn = [with_gaps(along(axis, t, places, v), "x") for axis in axes]
    if ax is None:
        figure = plt.figure(layout="constrained")
        ax = figure.add_subplot(projection="3d")
    style = line_properties(style)
    shades = start_colors(drawn[0][0], style.pop("color", color))
    width, dot = size_of("lines.linewidth", 1.4), size_of("lines.markersize", 4)
    for a, b, c, shade in zip(*(z.T for z in drawn), shades, strict=True):
        ax.plot(a, b, c, **{"color": shade, "linewidth": width} | style, label=label)
        ax.plot(a[:1], b[:1], c[:1], "o", color=shade, markersize=dot)
        label = None
    names = [axis_name(axis, places.shape[2]) for axis in axes]
    ax.set(xlabel=names[0], ylabel=names[1], zlabel=names[2])
    ax.set_box_aspect(None, zoom=0.85)  # else the outer label is cut off
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize="small")
    return ax


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


def axis_name(axis: int | str, d: int) -> str:
    """What stands beside an axis."""
    if axis == "t":
        return "depth t"
    if isinstance(axis, str):
        return "velocity v" + (subscript(int(axis[1:])) if d > 1 else "")
    return f"x{subscript(axis % d)}" if d > 1 else "position x"


def portraits(
    x: Numbers | Solved,
    v: Numbers | None = None,
    ax: Sequence[Axes] | NDArray[Any] | None = None,
    *,
    coordinate: int | Sequence[int] | None = None,
    coordinates: bool | None = None,
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
    columns : int, optional
        Panels in a row.  Default: at most four, as many as fit a line.
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
        xs, vs = samples(x, "x", False), samples(v, "v", False)
        said = is_coordinates(xs, coordinates, coordinate, False)
        if xs.shape != vs.shape:
            raise ValueError(
                f"`x` and `v` must have the same shape, got {xs.shape} and {vs.shape}"
            )
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
    count: int,
    ax: Sequence[Axes] | NDArray[Any] | None,
    columns: int | None = None,
    **shared: Any,
) -> NDArray[Any]:
    """As many Axes as asked for, (count,): those that are given, or new ones."""
    if ax is not None:
        panels = np.ravel(np.asarray(ax, dtype=object))
        if len(panels) != count or not all(isinstance(one, Axes) for one in panels):
            raise ValueError(f"`ax` must be {count} Axes, one per panel, got {ax!r}")
        return panels
    wide = columns or min(count, 4 if count != 5 else 3)
    rows = -(-count // wide)
    width, height = plt.rcParams["figure.figsize"]
    size = (width, max(width / wide, 0.3 * height) * rows)
    fig, axs = plt.subplots(
        rows, wide, figsize=size, layout="constrained", squeeze=False, **shared
    )
    for spare in axs.ravel()[count:]:
        fig.delaxes(spare)
    return np.asarray(axs.ravel()[:count])
