"""Poincaré sections: the states of a path at the times at which something happens.

Once per period of a forcing (a stroboscope), or when g(t, x, v) passes 0 upwards.  A
closed orbit is a few points of a section, a quasi-periodic one a curve, a chaotic one
neither.

Reference: Strogatz, "Nonlinear Dynamics and Chaos", sections 8.7 and 12.5.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.typing import ColorType

from .curves import Curves, smooth
from .energies import per_state
from .motion import start_colors
from .states import Solved, choose, phase_labels, solved_states
from .style import Array, legend, line_properties, size_of
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
        Or anything with ``t`` (n,), ``x`` and ``v`` (n, ..., d), or
        these as a tuple.
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
    xlabel, ylabel = phase_labels(k, d)
    ax.set(xlabel=xlabel, ylabel=ylabel)
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
