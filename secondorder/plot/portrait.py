"""Portraits of a system of one coordinate: which paths lead where.

A saddle's stable manifold parts the plane (x, v) into the basins of its attractors.

Reference: Strogatz, "Nonlinear Dynamics and Chaos", sections 5.2 and 6.4.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from scipy.linalg import solve_continuous_lyapunov

from .field import Plane, autonomous, follow, rk4
from .rest import LOOKS, FixedPoint, find_fixed_points, mark
from .states import System
from .style import BAD, GOOD, Array, key, line_properties, pale, palette, size_of
from .style import axes as axes_or_new
from .vectors import Interval, interval, mesh, resolution

UNDECIDED = "0.82"
# Whether states (x, v) with the potential u are where no path leaves a stable point.
Trap: TypeAlias = Callable[[Array, Array, Array], Array]


def basins(
    system: System,
    xlim: Interval,
    vlim: Interval,
    ax: Axes | None = None,
    *,
    t1: float = 50.0,
    steps: int | None = None,
    points: int = 150,
    **style: Any,
) -> Axes:
    """Colour every starting point (x, v) by the point of rest that it reaches.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or callable
        ``system(t, (x, v)) -> (v, a)`` of one coordinate, without explicit time.
    xlim, vlim : (float, float)
        The rectangle of starting points.  Attractors are looked for in three times its
        width.
    ax : matplotlib Axes, optional
    t1 : float, default 50.0
        How long they are followed.
    steps : int, optional
        All starting points are followed together by ``steps`` equal steps of RK4, which
        is good enough for pictures only.  Default: as the fastest motion in the
        rectangle needs, at most 20000.  Where they are too few, paths escape and stay
        grey.
    points : int, default 150
        Starting points along each axis.
    **style
        Properties of the image (matplotlib's ``pcolormesh``), such as ``alpha``.

    Returns
    -------
    matplotlib Axes
        A start takes the colour of an attractor once its path cannot leave it: has too
        little energy to leave the well, where energy can only fall, or has entered an
        ellipse in which a quadratic Lyapunov function decreases.  Grey starts have done
        neither by t1: they escape, circle, or need more time.

    Raises
    ------
    ValueError
        If a limit does not increase, the system is not one of one coordinate, depends
        on time, or ``t1`` or ``steps`` is not positive.

    Examples
    --------
    >>> import secondorder as so
    >>> well = so.Newton(lambda t, x: x - x**3, damping=0.5)
    >>> ax = so.plot.basins(well, (-2, 2), (-2, 2), points=20, steps=500)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['to x = −1', 'to x = 1']
    """
    xlim, vlim = interval(xlim, "xlim"), interval(vlim, "vlim")
    points = resolution(points)
    if not 0 < t1 < np.inf or not (steps is None or steps >= 1):
        raise ValueError(f"`t1` and `steps` must be positive, got {t1!r} and {steps!r}")
    plane = autonomous(system, xlim, vlim)
    steps = enough_steps(plane, xlim, vlim, t1) if steps is None else int(steps)
    wide = 2 * xlim[0] - xlim[1], 2 * xlim[1] - xlim[0]
    rests = find_fixed_points(system, wide, points=1201)
    stable = [p for p in rests if p.kind.startswith("stable ")]
    land = landscape(plane, wide)
    traps = [well(plane, p, rests, land) or trap(plane, p, xlim, vlim) for p in stable]
    xs, vs = np.linspace(*xlim, points), np.linspace(*vlim, points)
    grid = [z.ravel() for z in np.meshgrid(xs, vs)]
    reached = destinations(plane, grid[0], grid[1], land, traps, t1, steps)
    ax = axes_or_new(ax)
    used = [k for k in range(len(stable)) if (reached == k).any()]
    # Without black and grey, which are those of starts that are not decided.
    bright = [color for color in palette(20) if len({*to_rgb(color)}) > 1]
    colors = (bright * (1 + len(used) // len(bright)))[: len(used)]
    shades = [pale(color) for color in colors]
    image = np.full(reached.shape, len(used))
    for n, k in enumerate(used):
        image[reached == k] = n
    look: dict[str, Any] = {
        "shading": "nearest",
        "zorder": -1,
        "rasterized": True,
    } | style
    cmap = ListedColormap([*shades, to_rgb(UNDECIDED)])
    square = image.reshape(points, points)
    ax.pcolormesh(xs, vs, square, cmap=cmap, vmin=-0.5, vmax=len(used) + 0.5, **look)
    swatch: dict[str, Any] = {"linestyle": "", "markeredgecolor": "k"}
    swatch["markersize"] = size_of("lines.markersize", 8)
    for n, k in enumerate(used):
        name = f"to x = {short(stable[k].x)}"
        marker = LOOKS[stable[k].kind]["marker"]
        ax.plot([], [], marker="s", color=shades[n], label=name, **swatch)
        ax.plot(stable[k].x, 0, marker=marker, color=colors[n], markeredgecolor="k")
    if (reached < 0).any():
        name = f"none by t = {t1:g}"
        ax.plot([], [], marker="s", color=UNDECIDED, label=name, **swatch)
    ax.set(xlim=xlim, ylim=vlim, xlabel="position x", ylabel="velocity v")
    return key(ax)


def manifolds(
    system: System,
    xlim: Interval,
    vlim: Interval,
    ax: Axes | None = None,
    *,
    t1: float = 50.0,
    **style: Any,
) -> Axes:
    """Draw the paths that lead into the saddles of a system, and out of them.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or callable
        ``system(t, (x, v)) -> (v, a)`` of one coordinate, without explicit time.
    xlim, vlim : (float, float)
        The rectangle.
    ax : matplotlib Axes, optional
    t1 : float, default 50.0
        How long a path is followed, or until it is twice the rectangle's size away.
    **style
        Properties of the lines, such as ``linewidth``.

    Returns
    -------
    matplotlib Axes
        Stable manifolds (which part the basins) are dashed, unstable ones full.

    Raises
    ------
    ValueError
        If a limit does not increase, the system is not one of one coordinate, or it
        depends on time.

    Examples
    --------
    >>> import secondorder as so
    >>> well = so.Newton(lambda t, x: x - x**3, damping=0.5)
    >>> ax = so.plot.manifolds(well, (-2, 2), (-2, 2), t1=5.0)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['stable manifold', 'unstable manifold', 'saddle']
    """
    xlim, vlim = interval(xlim, "xlim"), interval(vlim, "vlim")
    plane = autonomous(system, xlim, vlim)
    saddles = [p for p in find_fixed_points(system, xlim) if p.kind == "saddle"]
    ax, style = axes_or_new(ax), line_properties(style)
    size = np.array([xlim[1] - xlim[0], vlim[1] - vlim[0]])
    middle = np.array([sum(xlim), sum(vlim)]) / 2
    named = set()
    for saddle in saddles:
        for value in sorted(z.real for z in saddle.eigenvalues):
            kind = "stable" if value < 0 else "unstable"
            line, color = ("--", GOOD) if value < 0 else ("-", BAD)
            look: dict[str, Any] = {"linestyle": line, "color": color, "zorder": 2}
            look["linewidth"] = size_of("lines.linewidth", 1.8)
            for side in (-1, 1):
                xs, vs = branch(plane, saddle.x, value, side, t1, middle, size)
                name = None if kind in named else f"{kind} manifold"
                ax.plot(xs, vs, **{**look, **style}, label=name)
                named.add(kind)
    mark(ax, saddles, {})
    ax.set(xlim=xlim, ylim=vlim, xlabel="position x", ylabel="velocity v")
    return key(ax)


def enough_steps(plane: Plane, xlim: Interval, vlim: Interval, t1: float) -> int:
    """Steps of RK4 that follow what happens in the rectangle.

    A third of a radian of the fastest oscillation loses 2e-5 of its energy in a step; a
    step may be as long as the fastest damping takes, which errs by 2 % of what is lost.
    """
    states = (side.ravel() for side in mesh(xlim, vlim, 31))
    stiffness, drag = np.abs(plane.slopes(*states))
    seen = np.isfinite(stiffness) & np.isfinite(drag)
    if not seen.any():
        return 1000
    # Not the largest of all: a pole would have it.
    stiffness, drag = (float(np.quantile(z[seen], 0.98)) for z in (stiffness, drag))
    return int(np.clip(np.ceil(t1 * max(3 * stiffness**0.5, drag)), 50, 20000))


def landscape(plane: Plane, wide: Interval) -> tuple[Array, Array]:
    """X on a grid, and the potential U(x) = −∫ a(x, 0) dx there."""
    xs = np.linspace(*wide, 4801)
    force = plane(xs, np.zeros_like(xs))
    rise = -(force[1:] + force[:-1]) / 2 * (xs[1] - xs[0])
    return xs, np.concatenate([[0.0], np.cumsum(rise)])


def well(
    plane: Plane,
    point: FixedPoint,
    rests: Sequence[FixedPoint],
    land: tuple[Array, Array],
) -> Trap | None:
    """The states around a stable point with too little energy to leave its well.

    Between the neighbouring points of rest v²/2 + U(x) may only fall, which is looked
    at on 61 × 61 points; else there is no such trap.
    """
    xs, heights = land
    places = [p.x for p in rests]
    here = places.index(point.x)
    left = places[here - 1] if here else xs[0]
    right = places[here + 1] if here + 1 < len(places) else xs[-1]
    bottom, *rims = np.interp([point.x, left, right], xs, heights)
    depth = min(rims) - bottom
    if not depth > 0:  # NaN, too
        return None
    brim = bottom + 0.999 * depth
    x, v = mesh((left, right), (-1, 1), 61)
    inside = np.interp(x, xs, heights) <= brim
    x, v = x[inside], v[inside] * (2 * depth) ** 0.5
    gain = v * (plane(x, v) - plane(x, np.zeros_like(x)))
    if not gain.max() <= 100 * plane.digits * depth:
        return None
    return lambda x, v, u: (left < x) & (x < right) & (v**2 / 2 + u < brim)


def trap(plane: Plane, point: FixedPoint, xlim: Interval, vlim: Interval) -> Trap:
    """An ellipse zᵀPz < 1 around a stable point that no path leaves.

    P solves JᵀP + PJ = −D; the ellipse shrinks until the form decreases along the field
    at 48 × 12 points of it.
    """
    slope, drag = plane.slopes(np.array([point.x]), np.zeros(1))[:, 0]
    jacobian = np.array([[0.0, 1.0], [slope, drag]])
    size = np.array([xlim[1] - xlim[0], vlim[1] - vlim[0]])
    form = solve_continuous_lyapunov(jacobian.T, -np.diag(1 / size**2))
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.linalg.solve(
        np.linalg.cholesky(form).T, np.array([np.cos(angle), np.sin(angle)])
    )
    circle = circle / (np.abs(circle) / size[:, None]).max()
    radius = 0.5
    for _ in range(24):
        rings = [radius * r * circle for r in np.linspace(0.08, 1, 12)]
        dx, dv = np.concatenate(rings, axis=1)
        rate = np.array([dv, plane(point.x + dx, dv)])
        if ((form @ np.array([dx, dv])) * rate).sum(0).max() < 0:
            break
        radius /= 2
    edge = radius * circle[:, 0]
    form = form / (edge @ form @ edge)

    def inside(x: Array, v: Array, _: Array) -> Array:
        z = np.array([x - point.x, v])
        return (z * (form @ z)).sum(0) < 1

    return inside


def destinations(
    plane: Plane,
    x: Array,
    v: Array,
    land: tuple[Array, Array],
    traps: Sequence[Trap],
    t1: float,
    steps: int,
) -> Array:
    """For each start the number of the point of rest whose trap it enters, else −1."""
    reached = np.full(len(x), -1)
    moving = np.arange(len(x))
    for step in range(steps + 1):
        if step % 2 == 0 or step == steps:
            with np.errstate(all="ignore"):
                u = np.interp(x, *land)
                for k, inside in enumerate(traps):
                    reached[moving[inside(x, v, u)]] = k
            open_ = (reached[moving] < 0) & (np.abs(x) < 1e12) & (np.abs(v) < 1e12)
            moving, x, v = moving[open_], x[open_], v[open_]
        if not len(moving) or step == steps:
            break
        with np.errstate(all="ignore"):
            x, v = rk4(plane, x, v, t1 / steps)
    return reached


def branch(
    plane: Plane,
    x: float,
    value: float,
    side: int,
    t1: float,
    middle: Array,
    size: Array,
) -> tuple[Array, Array]:
    """One half of a manifold: the path that leaves (x, 0) along an eigenvector."""
    away = np.array([1.0, value]) / np.hypot(1 / size[0], value / size[1])
    start = np.array([x, 0.0]) + side * 1e-4 * away
    # The slow way out of the saddle is not counted.
    time = t1 + np.log(1e4) / abs(value)
    path = follow(plane, start, time, middle, size, np.sign(value))
    xs, vs = np.concatenate([[[x], [0.0]], path], axis=1)
    return xs, vs


def short(value: float) -> str:
    """A number of three digits for the legend, with a real minus and without −0."""
    text = f"{value:.3g}" if abs(value) > 1e-9 else "0"
    return text.replace("-", "−")
