"""Motion: positions over depth, paths in a plane, and the field behind them.

A second-order system x' = v, v' = a(t, x, v) of one coordinate is a vector field on the
plane (x, v).  There its paths never cross (while nothing depends on t), although x(t)
may: that is how −x³ becomes possible.  The nullclines v = 0 and a = 0 meet at the
points of rest.  A system of d coordinates has a field on 2d axes instead, of which
``plane`` shows two.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like
from matplotlib.typing import ColorType

from .states import (
    Solved,
    System,
    axes_and_rest,
    choose,
    choose_some,
    count,
    couples,
    is_coordinates,
    is_solved,
    phase_labels,
    positions_and_velocities,
    samples,
    split,
    subscript,
    times,
)
from .style import (
    COLORS,
    LINES,
    MARKERS,
    SEQUENTIAL,
    Array,
    Numbers,
    array,
    key,
    legend,
    light,
    line_properties,
    pairs,
    size_of,
    with_gaps,
)
from .style import axes as axes_or_new
from .vectors import around, vector_field


def trajectories(
    t: Numbers | Solved,
    x: Numbers | None = None,
    ax: Axes | None = None,
    *,
    coordinate: int | Sequence[int] | None = None,
    coordinates: bool | None = None,
    layout: str | None = None,
    time: str = "depth t",
    color: ColorType | Sequence[ColorType] | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw x(t) over depth, each sample coloured by where it starts.

    Parameters
    ----------
    t : Tensor or array, shape (n,) or (batch, n); or Solution
        Times; with one grid per sample if ``x`` is ``(n, batch, ...)``.  A Solution (or
        anything with ``t``, ``x`` and ``v``) takes the place of ``t`` and ``x``.
    x : Tensor or array, shape (n, ..., d)
        The last axis holds the coordinates of a state, the axes between are samples.
        A state of several coordinates has one line style per coordinate, and a legend
        x₁, x₂, ...  **Two axes** ``(n, k)`` are k samples of one coordinate, unless
        ``coordinates`` or ``coordinate`` says otherwise or they are a Solution's.
    ax : matplotlib Axes, optional
        Default: the axes of a new figure.
    coordinate : int or sequence of int, optional
        Draw this coordinate, or these, counted from 0.
    coordinates : bool, optional
        Whether the last axis holds coordinates; if not, all later axes are samples.
    layout : {"time_first", "batch_first"}, optional
        Whether arrays are ``(n, batch, ...)`` or ``(batch, n, ...)``.  Default: the
        one that fits ``t``; where both do, it must be said.
    time : str, default "depth t"
        What stands below the axis, such as ``"time t"`` or ``"layer"``.
    color : matplotlib colour or one per sample, optional
        Colours of the curves, instead of the colours by starting point.
    label : str, optional
        Legend entry of the whole bundle.
    **style
        Properties of the lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes
        What is NaN or infinite is a gap.

    Raises
    ------
    ValueError
        If ``x`` does not have one entry per time, or nothing is finite.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> t = torch.linspace(0, 1, 20)
    >>> x = torch.linspace(-1, 1, 5) * torch.cos(t).unsqueeze(1)
    >>> so.plot.trajectories(t, x).get_xlabel()
    'depth t'

    Two coordinates of one state, from a solution:

    >>> spring = so.Newton(lambda t, x: -x)
    >>> sol = so.odeint(spring, (torch.tensor([1.0, 2.0]), None), t)
    >>> [text.get_text() for text in so.plot.trajectories(sol).get_legend().get_texts()]
    ['x₁', 'x₂']
    """
    solved = is_solved(t)
    x, ax = axes_and_rest(solved, "x", x, ax)
    if is_solved(t):
        x, t = t.x, t.t
    t = array(t, "t")  # type: ignore[arg-type]
    x = samples(x, "x", solved, count(t), layout)
    t = with_gaps(times(t, x), "t")
    if len(t) != len(x):
        raise ValueError(
            f"`x` must have shape ({len(t)}, ...), one entry per time on the first "
            f"axis, got {x.shape}"
        )
    if t.shape[1] > 1 and x.ndim == 2:  # the axis of the samples is taken
        x = x[:, :, None]
    x = split(x, bool(is_coordinates(x, coordinates, coordinate, solved)))
    d = x.shape[2]
    chosen = choose_some(coordinate, d)
    looks = [coordinate_look(k, len(t)) for k in range(len(chosen))]
    names = coordinate_names(chosen, label)
    x = with_gaps(x[:, :, chosen], "x")
    t = np.repeat(t, x.shape[1] // t.shape[1], axis=1)
    pairs("t", t[:, :, None], "x", x)
    ax, style = axes_or_new(ax), line_properties(style)
    shades = start_colors(x[0, :, 0], style.pop("color", color))
    width, common = size_of("lines.linewidth", 1.4), light(x.size) | style
    for sample, shade in enumerate(shades):
        for k, look in enumerate(looks):
            look = look | {"color": shade, "linewidth": width} | common
            text = names[k] if sample == 0 else None  # once for the bundle
            ax.plot(t[:, sample], x[:, sample, k], **look, label=text)
    which = subscript(chosen[0]) if d > 1 and len(chosen) == 1 else ""
    ax.set(xlabel=time, ylabel=f"position x{which}(t)")
    ax.margins(x=0)
    return key(ax)


def phase_portrait(
    x: Numbers | Solved,
    v: Numbers | None = None,
    ax: Axes | None = None,
    *,
    system: System | None = None,
    t: float = 0.0,
    coordinate: int | None = None,
    coordinates: bool | None = None,
    layout: str | None = None,
    color: ColorType | Sequence[ColorType] | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw paths in the plane of position and velocity, with the field behind them.

    Parameters
    ----------
    x, v : Tensor or array, shape (n, ..., 1); or a Solution in place of both
        Positions and velocities; each index of the axes between is one path.  **Two
        axes** ``(n, k)`` are k paths of one coordinate, unless ``coordinates`` or
        ``coordinate`` says otherwise, they are a Solution's, or ``system`` couples
        them.  States of several coordinates ``(n, ..., d)`` need ``coordinate``.
    ax : matplotlib Axes, optional
    system : SecondOrder, Newton or Acceleration, optional
        Draw its vector field and nullclines at time ``t`` (see ``vector_field``).  For
        states of several coordinates there is no such field on a plane, and none is
        drawn.
    t : float, default 0.0
    coordinate : int, optional
        Draw the plane (x_k, v_k) of this coordinate, counted from 0.
    coordinates : bool, optional
        Whether the last axis holds coordinates; if not, all later axes are samples.
    layout : {"time_first", "batch_first"}, optional
        Whether arrays are ``(n, batch, ...)`` or ``(batch, n, ...)``.  Default: the
        first; a Solution always is.
    color : matplotlib colour or one per path, optional
        Colours of the paths, instead of the colours by starting position.
    label : str, optional
        Legend entry of the whole bundle.
    **style
        Properties of the lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes
        A dot marks each start, a square each end.  What is NaN or infinite is a gap.

    Raises
    ------
    ValueError
        If ``x`` and ``v`` have different shapes, hold several coordinates of which none
        is chosen (``plane`` draws two of them), or nothing is finite.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.Newton(lambda t, x: -x, damping=0.2)
    >>> start = (torch.tensor([[1.0], [2.0]]), None)
    >>> solution = so.odeint(system, start, torch.linspace(0, 10, 101))
    >>> so.plot.phase_portrait(solution, system=system).get_ylabel()
    'velocity v'
    """
    solved = is_solved(x)
    v, ax = axes_and_rest(solved, "v", v, ax)
    own_times = False
    if is_solved(x):
        own_times, v, x = np.ndim(x.t) == 2, x.v, x.x
    x, v = positions_and_velocities(x, v, solved, layout=layout)
    if own_times and x.ndim == 2:  # the axis of the samples is taken
        x, v = x[:, :, None], v[:, :, None]
    last = is_coordinates(x, coordinates, coordinate, solved)
    if last is None:
        last = system is not None and couples(system, t, x, v)
    x, v = split(x, last), split(v, last)
    d = x.shape[2]
    if d > 1 and coordinate is None:
        raise ValueError(
            f"`x` has states of {d} coordinates, and their phase space {2 * d} axes: "
            "choose the plane of one position and velocity by coordinate=0, ..., "
            f"{d - 1}, or draw the path of two positions by so.plot.plane(x). If the "
            "last axis holds samples of one coordinate, say coordinates=False"
        )
    k = 0 if coordinate is None else choose(coordinate, d)
    x, v = with_gaps(x[:, :, k], "x"), with_gaps(v[:, :, k], "v")
    pairs("x", x, "v", v)
    if system is not None and d == 1:
        ax = vector_field(system, around(x), around(v), ax, t=t)
    ax = axes_or_new(ax)
    paths(ax, x, v, color, label, style)
    xlabel, ylabel = phase_labels(k, d)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return legend(ax, loc="best")


def plane(
    x: Numbers | Solved,
    axes: tuple[int, int] = (0, 1),
    ax: Axes | None = None,
    *,
    layout: str | None = None,
    color: ColorType | Sequence[ColorType] | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw the paths of states in the plane of two of their coordinates.

    Parameters
    ----------
    x : Tensor or array, shape (n, ..., d); or Solution
        Positions; the last axis always holds the coordinates, d ≥ 2, and each index of
        the axes between is one path.
    axes : (int, int), default (0, 1)
        Which coordinates, counted from 0: across, and up.
    ax : matplotlib Axes, optional
    layout : {"time_first", "batch_first"}, optional
        Whether arrays are ``(n, batch, ...)`` or ``(batch, n, ...)``.  Default: the
        first; a Solution always is.
    color : matplotlib colour or one per path, optional
        Colours of the paths, instead of the colours by starting position across.
    label : str, optional
        Legend entry of the whole bundle.
    **style
        Properties of the lines, such as ``linewidth`` or ``alpha``.

    Returns
    -------
    matplotlib Axes
        A dot marks each start, a square each end.  What is NaN or infinite is a gap.
        One unit is as long across as up, unless a path would shrink to a line.

    Raises
    ------
    ValueError
        If the states have fewer than two coordinates, or nothing is finite.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> kepler = so.Newton(lambda t, x: -x / x.norm(dim=-1, keepdim=True) ** 3)
    >>> start = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.2])
    >>> sol = so.odeint(kepler, start, torch.linspace(0, 16, 300))
    >>> so.plot.plane(sol).get_ylabel()
    'x₂'
    """
    solved = is_solved(x)
    x = samples(x.x if is_solved(x) else x, "x", solved, layout=layout)
    d = x.shape[-1] if x.ndim > 1 else 1
    if d < 2:
        raise ValueError(
            f"`x` must have states of two coordinates or more, shape (n, ..., d), got "
            f"{x.shape}; one coordinate is drawn by so.plot.phase_portrait"
        )
    if np.ndim(axes) != 1 or len(axes) != 2:
        raise ValueError(f"`axes` must be two coordinates such as (0, 1), got {axes!r}")
    across, up = (choose(k, d, "axes") for k in axes)
    if across == up:
        raise ValueError(f"`axes` must be two different coordinates, got {axes!r}")
    x = split(x, True)
    across_x, up_x = (with_gaps(x[:, :, k], "x") for k in (across, up))
    pairs(f"x[..., {across}]", across_x, f"x[..., {up}]", up_x)
    ax = axes_or_new(ax)
    paths(ax, across_x, up_x, color, label, style)
    spans = [float(np.nanmax(z) - np.nanmin(z)) for z in (across_x, up_x)]
    if max(spans) < 20 * min(spans):
        ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=f"x{subscript(across)}", ylabel=f"x{subscript(up)}")
    return legend(ax, loc="best")


def paths(
    ax: Axes,
    x: Array,
    y: Array,
    color: ColorType | Sequence[ColorType] | None,
    label: str | None,
    style: dict[str, Any],
) -> None:
    """Draw paths (n, paths) in a plane: a dot at each start, a square at each end."""
    style = line_properties(style)
    shades = start_colors(x[0], style.pop("color", color))
    ends: dict[str, Any] = {k: style[k] for k in {"alpha", "zorder"} & {*style}}
    width, dot = size_of("lines.linewidth", 1.6), size_of("lines.markersize", 5)
    common = light(x.size) | style
    for xs, ys, shade in zip(x.T, y.T, shades, strict=True):
        ends["color"] = shade
        ax.plot(xs, ys, **{"color": shade, "linewidth": width} | common, label=label)
        ax.plot(xs[0], ys[0], "o", markersize=0.8 * dot, **ends)
        ax.plot(xs[-1], ys[-1], "s", markersize=dot, markeredgecolor="white", **ends)
        label = None  # one legend entry for the bundle


def start_colors(start: Array, color: Any) -> Sequence[ColorType]:
    """One colour per curve: all alike, as given, or by rank of the starting point."""
    if color is None and len(start) == 1:
        color = COLORS[0]
    if color is not None and not is_color_like(color):
        if np.ndim(color) == 0 or len(color) != len(start):
            raise ValueError(
                f"`color` must be a colour, or one for each of the {len(start)} paths; "
                f"got {color!r}"
            )
        return list(color)
    if color is not None:
        return [color] * len(start)
    rank = np.argsort(np.argsort(start)) / (len(start) - 1)
    return list(colormaps[SEQUENTIAL](0.92 * rank))  # pale yellow is lost on white


def coordinate_names(chosen: Sequence[int], label: str | None) -> list[str | None]:
    """The legend entries of the coordinates that are drawn; one needs no index."""
    if len(chosen) == 1:
        return [label]
    return [(f"{label}, " if label else "") + f"x{subscript(k)}" for k in chosen]


def coordinate_look(k: int, n: int) -> dict[str, Any]:
    """Line style of the k-th coordinate drawn; from the fifth on, markers help."""
    if k >= len(LINES) * (1 + len(MARKERS)):
        raise ValueError(
            f"`x` has more coordinates than can be told apart ({k}); choose some by "
            "coordinate=[0, 1], or say coordinates=False if they are samples"
        )
    look: dict[str, Any] = {"linestyle": LINES[k % len(LINES)]}
    if k >= len(LINES):
        look["marker"] = MARKERS[k // len(LINES) - 1]
        look |= {"markersize": size_of("lines.markersize", 4)}
        look["markevery"] = max(1, n // 12)
    return look
