"""The field of a system of one coordinate: directions on the plane, and nullclines."""

import operator
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes

from .states import System, slopes
from .style import COLORS, LARGEST, Array, array, legend, size_of, with_gaps
from .style import axes as axes_or_new

Interval: TypeAlias = tuple[float, float]

NULLCLINES = COLORS[4], COLORS[2]  # ẋ = 0 and v̇ = 0


def vector_field(
    system: System,
    xlim: Interval,
    vlim: Interval,
    ax: Axes | None = None,
    *,
    t: float = 0.0,
    points: int = 21,
    nullclines: bool = True,
    **style: Any,
) -> Axes:
    """Draw the directions of (ẋ, v̇) in the plane (x, v), and the nullclines.

    Parameters
    ----------
    system : SecondOrder, Newton or Acceleration
        Of one coordinate.  Called as ``system(t, (x, v)) -> (v, a)`` with ``x`` and
        ``v`` ``(points², 1)``, in the dtype of its parameters.
    xlim, vlim : (float, float)
        The rectangle.
    ax : matplotlib Axes, optional
    t : float, default 0.0
        The time at which a field that depends on time is drawn.
    points : int, default 21
        Arrows along each axis.
    nullclines : bool, default True
        Draw the lines ẋ = 0 and v̇ = 0.
    **style
        Properties of the arrows (matplotlib's ``quiver``), such as ``alpha``.

    Returns
    -------
    matplotlib Axes
        Arrows have equal length; they are darker where the motion is faster.  There
        are none where the field is NaN or infinite.

    Raises
    ------
    ValueError
        If a limit is not increasing, if the system raises or returns other shapes on
        states of one coordinate, or if its field is nowhere finite.

    Examples
    --------
    >>> import secondorder as so
    >>> spring = so.Newton(lambda t, x: -x, damping=0.2)
    >>> so.plot.vector_field(spring, (-1, 1), (-1, 1)).get_xlabel()
    'position x'
    """
    xlim, vlim = interval(xlim, "xlim"), interval(vlim, "vlim")
    points = resolution(points)
    coarse = sample_field(system, xlim, vlim, t, points)
    fine = sample_field(system, xlim, vlim, t, 121) if nullclines else None
    ax = axes_or_new(ax)
    defaults = {"cmap": "Greys", "clim": (-0.6, 1.8), "pivot": "mid", "width": 0.004}
    look: dict[str, Any] = defaults | {"zorder": 0} | style
    shafts = arrows(coarse, xlim, vlim, 1.3 * points)
    ax.quiver(*shafts, angles="xy", scale_units="xy", scale=1, **look)
    if fine is not None:
        draw_nullclines(ax, fine)
    ax.set(xlim=xlim, ylim=vlim, xlabel="position x", ylabel="velocity v")
    return legend(ax, loc="best")


def arrows(
    field: tuple[Array, ...], xlim: Interval, vlim: Interval, per_side: float
) -> list[Array]:
    """x, v, the two parts of an arrow and its shade, where the field is finite.

    All arrows are as long on paper, measured in fractions of the rectangle.
    """
    x, v, dx, dv = field
    with np.errstate(all="ignore"):  # what overflows has no arrow
        speed = np.hypot(dx / (xlim[1] - xlim[0]), dv / (vlim[1] - vlim[0]))
        size = np.where(speed > 0, speed, 1.0) * per_side
        shade = speed / (speed[np.isfinite(speed)].max(initial=0.0) or 1.0)
        parts = [x, v, dx / size, dv / size, shade]
    seen = np.isfinite(parts).all(0)
    return [part[seen] for part in parts]


def draw_nullclines(ax: Axes, field: tuple[Array, ...]) -> None:
    """Draw the lines ẋ = 0 and v̇ = 0 of a field on a grid."""
    x, v, dx, dv = field
    width = size_of("lines.linewidth", 1.8)
    for level, color, line, name in (
        (dx, NULLCLINES[0], "--", "ẋ = 0"),
        (dv, NULLCLINES[1], ":", "v̇ = 0"),
    ):
        if np.nanmin(level) < 0 < np.nanmax(level):
            level = np.ma.masked_invalid(level)
            ax.contour(
                x, v, level, [0.0], colors=color, linestyles=line, linewidths=width
            )
            ax.plot([], [], color=color, linestyle=line, linewidth=width, label=name)


def interval(limits: Any, name: str) -> Interval:
    """Two numbers that increase, or an error."""
    ends = array(limits, name)
    if ends.shape != (2,) or not -LARGEST <= ends[0] < ends[1] <= LARGEST:
        raise ValueError(
            f"`{name}` must increase between two finite numbers, got {limits!r}"
        )
    low, high = ends.tolist()
    return low, high


def resolution(points: Any) -> int:
    """A number of arrows along an axis, or an error."""
    if isinstance(points, (bool, np.bool_)) or not hasattr(points, "__index__"):
        raise TypeError(f"`points` must be an integer, got {points!r}")
    if operator.index(points) < 2:
        raise ValueError(f"`points` must be at least 2, got {points!r}")
    return operator.index(points)


def mesh(xlim: Interval, ylim: Interval, points: int) -> tuple[Array, Array]:
    """The points of a grid of a rectangle: x and y, each (points, points)."""
    x, y = np.meshgrid(np.linspace(*xlim, points), np.linspace(*ylim, points))
    return x, y


def sample_field(
    system: System, xlim: Interval, vlim: Interval, t: float, points: int
) -> tuple[Array, Array, Array, Array]:
    """The field on a grid of the rectangle: x, v, dx, dv, each (points, points)."""
    x, v = mesh(xlim, vlim, points)
    dx, dv = slopes(system, t, x.reshape(-1, 1), v.reshape(-1, 1))
    whole = np.isfinite(dx) & np.isfinite(dv)
    dx, dv = (with_gaps(np.where(whole, z, np.nan), "system") for z in (dx, dv))
    return x, v, dx.reshape(x.shape), dv.reshape(x.shape)


def around(values: Array, margin: float = 0.12) -> Interval:
    """An interval a little wider than the values."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    pad = margin * (high - low) or max(1.0, 1e-6 * abs(high))
    return low - pad, high + pad
