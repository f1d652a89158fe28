"""Motion: positions over depth, and the plane of position and velocity.

A second-order system x' = v, v' = a(t, x, v) is a vector field on the plane (x, v).
There its paths never cross (while nothing depends on t), although x(t) may: that is
how −x³ becomes possible.  The nullclines v = 0 and a = 0 meet at the points of rest.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.typing import ColorType
from torch import nn

from .style import COLORS, SEQUENTIAL, Array, Numbers, array, axes, curves, legend

Interval: TypeAlias = tuple[float, float]


def trajectories(
    t: Numbers,
    x: Numbers,
    ax: Axes | None = None,
    *,
    color: ColorType | None = None,
    label: str | None = None,
) -> Axes:
    """Draw x(t) over depth, each curve coloured by where it starts.

    Parameters
    ----------
    t : Tensor or array, shape (n,)
    x : Tensor or array, shape (n, ...)
        Each index of the later axes is one curve.
    ax : matplotlib Axes, optional
        Default: the axes of a new figure.
    color : matplotlib colour, optional
        One colour for all curves, instead of the colours by starting point.
    label : str, optional
        Legend entry of the whole bundle.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``x`` does not have one entry per time.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> t = torch.linspace(0, 1, 20)
    >>> x = torch.linspace(-1, 1, 5) * torch.cos(t).unsqueeze(1)
    >>> so.plot.trajectories(t, x).get_xlabel()
    'depth t'
    """
    t = curves(t, "t")[:, 0]
    x = curves(x, "x", len(t))
    ax = axes(ax)
    for curve, shade in zip(x.T, start_colors(x[0], color), strict=True):
        ax.plot(t, curve, color=shade, linewidth=1.4, label=label)
        label = None  # one legend entry for the bundle
    ax.set(xlabel="depth t", ylabel="position x(t)")
    ax.margins(x=0)
    return legend(ax, loc="best")


def phase_portrait(
    x: Numbers,
    v: Numbers,
    ax: Axes | None = None,
    *,
    system: nn.Module | None = None,
    t: float = 0.0,
    color: ColorType | None = None,
    label: str | None = None,
) -> Axes:
    """Draw paths in the plane of position and velocity, with the field behind them.

    Parameters
    ----------
    x, v : Tensor or array, shape (n, ...)
        Positions and velocities; each index of the later axes is one path.
    ax : matplotlib Axes, optional
    system : SecondOrder, Newton or Acceleration, optional
        Draw its vector field and nullclines at time ``t`` (see ``vector_field``); for
        states of one coordinate, ``(..., 1)``.
    t : float, default 0.0
    color : matplotlib colour, optional
        One colour for all paths, instead of the colours by starting position.
    label : str, optional
        Legend entry of the whole bundle.

    Returns
    -------
    matplotlib Axes
        A dot marks each start, a square each end.

    Raises
    ------
    ValueError
        If ``x`` and ``v`` have different shapes.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.Newton(lambda t, x: -x, damping=0.2)
    >>> start = (torch.tensor([[1.0], [2.0]]), None)
    >>> x, v = so.odeint(system, start, torch.linspace(0, 10, 101))
    >>> so.plot.phase_portrait(x, v, system=system).get_ylabel()
    'velocity v'
    """
    x, v = curves(x, "x"), curves(v, "v", len(x))
    if x.shape != v.shape:
        raise ValueError(
            f"`x` and `v` must have the same shape, got {x.shape} and {v.shape}"
        )
    ax = axes(ax)
    if system is not None:
        vector_field(system, around(x), around(v), ax, t=t)
    shades = start_colors(x[0], color)
    for xs, vs, shade in zip(x.T, v.T, shades, strict=True):
        ax.plot(xs, vs, color=shade, linewidth=1.6, label=label)
        ax.plot(xs[0], vs[0], "o", color=shade, markersize=4)
        ax.plot(xs[-1], vs[-1], "s", color=shade, markersize=5, markeredgecolor="white")
        label = None
    ax.set(xlabel="position x", ylabel="velocity v")
    return legend(ax, loc="best")


def vector_field(
    system: nn.Module,
    xlim: Interval,
    vlim: Interval,
    ax: Axes | None = None,
    *,
    t: float = 0.0,
    points: int = 21,
    nullclines: bool = True,
) -> Axes:
    """Draw the directions of (ẋ, v̇) in the plane (x, v), and the nullclines.

    Parameters
    ----------
    system : SecondOrder, Newton or Acceleration
        Called as ``system(t, (x, v)) -> (v, a)`` with ``x`` and ``v`` ``(points², 1)``,
        in the dtype of its parameters.
    xlim, vlim : (float, float)
        The rectangle.
    ax : matplotlib Axes, optional
    t : float, default 0.0
        The time at which a field that depends on time is drawn.
    points : int, default 21
        Arrows along each axis.
    nullclines : bool, default True
        Draw the lines ẋ = 0 and v̇ = 0.

    Returns
    -------
    matplotlib Axes
        Arrows have equal length; they are darker where the motion is faster.

    Raises
    ------
    ValueError
        If a limit is not increasing, or the system needs more than one coordinate.

    Examples
    --------
    >>> import secondorder as so
    >>> spring = so.Newton(lambda t, x: -x, damping=0.2)
    >>> so.plot.vector_field(spring, (-1, 1), (-1, 1)).get_xlabel()
    'position x'
    """
    for name, (low, high) in (("xlim", xlim), ("vlim", vlim)):
        if not low < high:
            raise ValueError(f"`{name}` must increase, got ({low}, {high})")
    ax = axes(ax)
    x, v, dx, dv = sample_field(system, xlim, vlim, t, points)
    # Equal length on paper: measured in fractions of the rectangle, not in its units.
    spans = np.array([xlim[1] - xlim[0], vlim[1] - vlim[0]])
    speed = np.hypot(dx / spans[0], dv / spans[1])
    size = np.where(speed > 0, speed, 1.0) * points * 1.3
    shade = speed / (speed.max() or 1.0)
    ax.quiver(
        x, v, dx / size, dv / size, shade, cmap="Greys", clim=(-0.6, 1.8),
        angles="xy", scale_units="xy", scale=1, pivot="mid", width=0.004, zorder=0,
    )  # fmt: skip
    if nullclines:
        x, v, dx, dv = sample_field(system, xlim, vlim, t, 121)
        for level, color, style, name in (
            (dx, COLORS[4], "--", "ẋ = 0"),
            (dv, COLORS[2], ":", "v̇ = 0"),
        ):
            if level.min() < 0 < level.max():
                ax.contour(
                    x, v, level, [0.0], colors=color, linestyles=style, linewidths=1.8
                )
                ax.plot([], [], color=color, linestyle=style, label=name)
    ax.set(xlim=xlim, ylim=vlim, xlabel="position x", ylabel="velocity v")
    return legend(ax, loc="best")


def sample_field(
    system: nn.Module, xlim: Interval, vlim: Interval, t: float, points: int
) -> tuple[Array, Array, Array, Array]:
    """The field on a grid of the rectangle: x, v, dx, dv, each (points, points)."""
    like = next(
        (p for p in (*system.parameters(), *system.buffers()) if p.is_floating_point()),
        torch.zeros(()),
    )
    x, v = np.meshgrid(np.linspace(*xlim, points), np.linspace(*vlim, points))
    state = [torch.as_tensor(z).reshape(-1, 1).to(like) for z in (x, v)]
    with torch.no_grad():
        slopes = system(torch.as_tensor(t).to(like), tuple(state))
    if any(slope.shape != state[0].shape for slope in slopes):
        raise ValueError(
            "`system` must map states of one coordinate, shape (..., 1), to the same "
            f"shape, got {[tuple(slope.shape) for slope in slopes]} for "
            f"{tuple(state[0].shape)}"
        )
    dx, dv = (array(slope).reshape(x.shape) for slope in slopes)
    return x, v, dx, dv


def around(values: Array, margin: float = 0.12) -> Interval:
    """An interval a little wider than the values."""
    low, high = values.min(), values.max()
    pad = margin * (high - low) or 1.0
    return low - pad, high + pad


def start_colors(start: Array, color: ColorType | None) -> Iterable[ColorType]:
    """One colour per curve: all alike, or by rank of the starting point."""
    if color is None and len(start) == 1:
        color = COLORS[0]
    if color is not None:
        return [color] * len(start)
    rank = np.argsort(np.argsort(start)) / (len(start) - 1)
    return colormaps[SEQUENTIAL](0.92 * rank)  # the last, pale yellow is lost on white
