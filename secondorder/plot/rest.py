"""Where a system of one coordinate rests, and what happens around these points.

On the plane (x, v) the system x' = v, v' = a(x, v) rests where v = 0 and a(x, 0) = 0.
The eigenvalues λ of the Jacobian [[0, 1], [∂a/∂x, ∂a/∂v]] there tell what happens
nearby.

Reference: Strogatz, "Nonlinear Dynamics and Chaos", sections 5.2 and 6.3 to 6.5.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import brentq, minimize_scalar

from .equilibria import Equilibrium, find_equilibria
from .field import Plane
from .states import System
from .style import COLORS, key, line_properties, size_of
from .style import axes as axes_or_new
from .vectors import Interval, interval, resolution

# Filled where paths arrive, open where they leave, crossed where they do both.
LOOKS: dict[str, dict[str, Any]] = {
    "stable node": {"marker": "s", "color": COLORS[0]},
    "stable focus": {"marker": "o", "color": COLORS[0]},
    "centre": {"marker": "D", "color": COLORS[2]},
    "centre or focus": {"marker": "d", "color": COLORS[3]},
    "unstable focus": {"marker": "o", "color": COLORS[1], "markerfacecolor": "white"},
    "unstable node": {"marker": "s", "color": COLORS[1], "markerfacecolor": "white"},
    "saddle": {"marker": "X", "color": COLORS[1]},
    "degenerate": {"marker": "*", "color": COLORS[6]},
}


class FixedPoint(NamedTuple):
    """A point of rest (x, 0), and what the field does around it.

    Attributes
    ----------
    x : float
    eigenvalues : (complex, complex)
        Of the Jacobian of (v, a) at (x, 0).
    kind : str
        "stable node", "stable focus", "unstable node", "unstable focus", "saddle";
        "centre" where both eigenvalues are imaginary and a(x, v) = a(x, −v) nearby, so
        that paths close; "centre or focus" where the eigenvalues are imaginary and the
        linear part cannot tell; "degenerate" where an eigenvalue is 0.
    """

    x: float
    eigenvalues: tuple[complex, complex]
    kind: str


def find_fixed_points(
    system: System,
    xlim: Interval | Sequence[Interval],
    *,
    t: float = 0.0,
    points: int = 801,
) -> list[Any]:
    """Find the points of rest of a system, and their kinds.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or callable
        ``system(t, (x, v)) -> (v, a)``, called with states (n, d).
    xlim : (float, float), or a sequence of d of these
        Where to look: one coordinate, or a box of d, in which Newton's method starts
        from a grid of up to 600 points.
    t : float, default 0.0
        The time at which a field that depends on time is looked at.
    points : int, default 801
        Of one coordinate: points of the grid on which a(x, 0) is searched for changes
        of sign and for zeros that it touches.  Two points of rest between neighbours
        may be missed.

    Returns
    -------
    list of FixedPoint or Equilibrium
        From left to right.  ``x``, ``eigenvalues`` and ``kind`` of each; for d
        coordinates ``x`` is (d,) and there are 2d eigenvalues.

    Raises
    ------
    ValueError
        If ``xlim`` does not increase, the system has another number of coordinates, or
        it rests on a whole interval.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> well = so.Newton(lambda t, x: x - x**3, damping=0.5)
    >>> [(round(p.x, 6), p.kind) for p in so.plot.find_fixed_points(well, (-2, 2))]
    [(-1.0, 'stable focus'), (0.0, 'saddle'), (1.0, 'stable focus')]
    >>> box = [(-2, 2), (-2, 2)]  # two of them side by side
    >>> [p.kind for p in so.plot.find_fixed_points(well, box)].count("saddle")
    5
    """
    if np.ndim(xlim) == 2:
        return find_equilibria(system, xlim, t)  # type: ignore[arg-type]
    low, high = interval(xlim, "xlim")
    plane = Plane(system, t)
    return [described(plane, x, high - low) for x in zeros(plane, low, high, points)]


def fixed_points(
    system: System,
    xlim: Interval | Sequence[Interval],
    vlim: Interval | None = None,
    ax: Axes | None = None,
    *,
    t: float = 0.0,
    points: int = 801,
    **style: Any,
) -> Axes:
    """Mark the points of rest, each kind by its own marker.

    In the plane (x, v) for one coordinate, in that of x₁ and x₂ for a box of two.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or callable
        ``system(t, (x, v)) -> (v, a)`` of one coordinate, or of two.
    xlim : (float, float), or two of these
        Where to look.
    vlim : (float, float), optional
        Of one coordinate: set the limits of the axes, too.  Default: they stay.
    ax : matplotlib Axes, optional
        Such as those of ``vector_field`` or ``phase_portrait``.
    t, points
        As in ``find_fixed_points``, which returns the points as data.
    **style
        Properties of the markers, such as ``markersize``.

    Returns
    -------
    matplotlib Axes
        Filled markers attract, open ones repel, crosses are saddles.  The legend names
        what was found.

    Raises
    ------
    ValueError
        If a limit does not increase, the system is not one of one coordinate, or it
        rests on a whole interval.

    Examples
    --------
    >>> import secondorder as so
    >>> well = so.Newton(lambda t, x: x - x**3, damping=0.5)
    >>> ax = so.plot.vector_field(well, (-2, 2), (-1, 1), nullclines=False)
    >>> ax = so.plot.fixed_points(well, (-2, 2), ax=ax)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['stable focus', 'saddle']
    """
    vlim = None if vlim is None else interval(vlim, "vlim")
    found = find_fixed_points(system, xlim, t=t, points=points)
    ax, style = axes_or_new(ax), line_properties(style)
    if np.ndim(xlim) == 2:
        if len(xlim) != 2:
            raise ValueError(
                f"`xlim` has {len(xlim)} intervals, and a plane two; "
                "find_fixed_points returns the points in any number of coordinates"
            )
        mark(ax, found, style)
        ax.set(xlabel="x₁", ylabel="x₂")
        return key(ax)
    mark(ax, found, style)
    if vlim is not None:
        ax.set(xlim=xlim, ylim=vlim)
    ax.set(xlabel="position x", ylabel="velocity v")
    return key(ax)


def zeros(plane: Plane, low: float, high: float, points: int) -> list[float]:
    """The zeros of a(x, 0): changes of sign, poles left out, and touched zeros."""
    grid = np.linspace(low, high, resolution(points))
    values = plane(grid, np.zeros_like(grid))
    size = np.abs(values)
    usual = np.median(size[np.isfinite(size)]) if np.isfinite(size).any() else 0.0
    small = 50 * plane.digits * usual  # what rounding may leave of a zero
    none = size <= small
    runs = none[:-2] & none[1:-1] & none[2:]
    if runs.any():
        raise ValueError(
            f"`system` rests on a whole interval around x = {grid[1:-1][runs][0]:.3g}: "
            "there are no single points of rest to mark"
        )

    def a(x: float) -> float:
        return float(plane(np.array([x]), np.zeros(1))[0])

    found = []
    tiny = 4 * plane.digits * max(abs(low), abs(high))
    for k in range(len(grid) - 1):
        left, right = values[k], values[k + 1]
        if left == 0:
            found.append(grid[k])
        elif left * right < 0:
            x = brentq(a, grid[k], grid[k + 1], xtol=max(tiny, 1e-300), rtol=1e-14)
            if abs(a(x)) <= min(abs(left), abs(right)) + small:  # else a pole or a jump
                found.append(x)
    if values[-1] == 0:
        found.append(grid[-1])
    for k in range(1, len(grid) - 1):
        near = size[k - 1 : k + 2]
        if size[k] == near.min() < near.max() and (near > 0).all():
            if not (values[k - 1] * values[k] > 0 and values[k] * values[k + 1] > 0):
                continue
            bounds = (grid[k - 1], grid[k + 1])
            options = {"xatol": tiny}
            least = minimize_scalar(
                lambda x: abs(a(x)), bounds=bounds, method="bounded", options=options
            )
            if least.fun <= small:
                found.append(float(least.x))
    return sorted(float(x) for x in found)


def described(plane: Plane, x: float, width: float) -> FixedPoint:
    """The point of rest at (x, 0) with its eigenvalues and its kind."""
    slope, drag = plane.slopes(np.array([x]), np.zeros(1))[:, 0]
    values = np.linalg.eigvals(np.array([[0.0, 1.0], [slope, drag]])).astype(complex)
    values = values[np.lexsort((values.imag, values.real))]
    rounding = plane.digits**0.5
    speed = max(abs(drag), abs(slope) ** 0.5)
    if not np.isfinite(speed) or abs(slope) <= max(rounding, 1e-6) * max(1, drag**2):
        kind = "degenerate"
    elif slope > 0:
        kind = "saddle"
    elif abs(drag) <= rounding * speed:
        kind = "centre" if reversible(plane, x, width) else "centre or focus"
    else:
        shape = "node" if drag**2 / 4 + slope >= -rounding * speed**2 else "focus"
        kind = f"{'stable' if drag < 0 else 'unstable'} {shape}"
    return FixedPoint(x, (complex(values[0]), complex(values[1])), kind)


def reversible(plane: Plane, x: float, width: float) -> bool:
    """Whether a(x, v) = a(x, −v) around a point of rest: then paths there close."""
    near = np.linspace(-0.05, 0.05, 8) * width
    xs, vs = (z.ravel() for z in np.meshgrid(x + near, near))
    there, back = plane(xs, vs), plane(xs, -vs)
    size = np.abs(there[np.isfinite(there)]).max(initial=0.0)
    return np.allclose(there, back, 1e-9, 50 * plane.digits * size)


def mark(
    ax: Axes, found: Sequence[FixedPoint] | Sequence[Equilibrium], style: dict[str, Any]
) -> None:
    """Mark points of rest, with one entry of the legend per kind."""
    for kind, look in LOOKS.items():
        at = [np.append(p.x, 0.0)[:2] for p in found if p.kind == kind]
        if at:
            name = None if kind in ax.get_legend_handles_labels()[1] else kind
            more: dict[str, Any] = {"linestyle": "", "zorder": 4}
            more["markersize"] = size_of("lines.markersize", 8)
            if "markerfacecolor" in look:
                more["markeredgewidth"] = 1.8
            else:
                more["markeredgecolor"] = "white"
            ax.plot(*np.transpose(at), **{**look, **more, **style}, label=name)
