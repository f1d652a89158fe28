"""Energy: along paths, and as a landscape with paths in it.

    E(x, v) = Σ m vᵢ²/2 + U(x)

is constant along the exact paths of m ẍ = −∇U, and falls where there is damping.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from .motion import paths as draw_paths
from .motion import start_colors
from .states import (
    Solved,
    choose,
    given,
    is_solved,
    samples,
    solved_states,
    split,
    subscript,
)
from .style import (
    NEUTRAL,
    SEQUENTIAL,
    Array,
    Numbers,
    array,
    legend,
    light,
    line_properties,
    pairs,
    size_of,
    with_gaps,
)
from .style import axes as axes_or_new
from .vectors import Interval, interval, mesh, resolution

Function = Callable[..., Any]


def energy(
    sol: Solved,
    energy: Function | None = None,
    ax: Axes | None = None,
    *,
    potential: Function | None = None,
    mass: Numbers = 1.0,
    relative: bool = False,
    time: str = "depth t",
    color: ColorType | Sequence[ColorType] | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw the energy along paths over depth.

    Parameters
    ----------
    sol : Solution
        Or anything with ``t`` (n,), ``x`` and ``v`` (n, ..., d), or these as a tuple.
    energy : callable, optional
        ``energy(x, v) -> E`` of shape (n, ...), called once with all states.
    ax : matplotlib Axes, optional
    potential : callable, optional
        ``potential(x) -> U`` of shape (n, ...), in place of ``energy``: draws
        Σ m vᵢ²/2 + U, and of a single path its kinetic and potential parts, too.
        ``so.Potential`` will do.
    mass : float or (d,), default 1.0
        m for ``potential``.
    relative : bool, default False
        Draw (E − E₀)/|E₀| instead, what a method has lost or gained.
    time : str, default "depth t"
        What stands below the axis.
    color : matplotlib colour or one per path, optional
        Colours of the curves, instead of the colours by starting energy.
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
        If not exactly one of ``energy`` and ``potential`` is given, they do not return
        one number per state, or ``relative`` divides by E₀ = 0.
    TypeError
        If ``sol`` is not a Solution.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> spring = so.Newton(lambda t, x: -x)
    >>> sol = so.odeint(spring, (torch.ones(1), None), torch.linspace(0, 10, 101))
    >>> ax = so.plot.energy(sol, potential=lambda x: (x**2).sum(-1) / 2)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['energy', 'kinetic', 'potential']
    """
    sol = given(sol)
    t, x, v = solved_states(sol)
    if (energy is None) == (potential is None):
        raise ValueError(
            "give either `energy`, a function of (x, v), or `potential`, a function of "
            "x alone"
        )
    parts: list[tuple[Array, str]] = []
    if energy is not None:
        total = per_state(energy, "energy", sol.x, sol.v)
    else:
        kinetic = (array(mass, "mass") * v**2 / 2).sum(-1)
        stored = per_state(inside(potential), "potential", sol.x)
        total = kinetic + stored
        if total.shape[1] == 1 and not relative:
            parts = [(kinetic, "kinetic"), (stored, "potential")]
    if relative:
        if (total[0] == 0).any():
            raise ValueError("`relative` divides by the first energy, and one is 0")
        total = (total - total[0]) / np.abs(total[0])
    total = with_gaps(total, "energy")
    t = np.repeat(with_gaps(t, "t"), total.shape[1] // t.shape[1], axis=1)
    pairs("t", t, "energy", total)
    ax, style = axes_or_new(ax), line_properties(style)
    shades = start_colors(total[0], style.pop("color", color))
    name = label or ("energy" if parts else None)
    thin, common = size_of("lines.linewidth", 1.2), light(total.size) | style
    for k, shade in enumerate(shades):
        look = {"color": shade, "linewidth": 4 / 3 * thin} | common
        ax.plot(t[:, k], total[:, k], **look, label=name if k == 0 else None)
    for (part, said), line in zip(parts, ("--", ":"), strict=False):
        look = {"color": shades[0], "linewidth": thin} | common | {"linestyle": line}
        ax.plot(t[:, 0], part[:, 0], **look, label=said)
    ax.set(xlabel=time, ylabel="(E − E₀)/|E₀|" if relative else "energy E")
    ax.margins(x=0)
    return legend(ax, loc="best")


def potential(
    energy: Function,
    xlim: Interval,
    ylim: Interval,
    paths: Solved | Numbers | None = None,
    ax: Axes | None = None,
    *,
    axes: tuple[int, int] = (0, 1),
    layout: str | None = None,
    levels: int | Sequence[float] = 16,
    points: int = 121,
    colorbar: bool = True,
    color: ColorType | Sequence[ColorType] | None = None,
    **style: Any,
) -> Axes:
    """Draw the contours of a potential of two coordinates, and paths over it.

    Parameters
    ----------
    energy : callable
        ``energy(x) -> U`` for x (points², 2), one number each; ``so.Potential`` will
        do.  Where U is NaN or infinite nothing is drawn.
    xlim, ylim : (float, float)
        The rectangle.
    paths : Solution, Tensor or array of shape (n, ..., 2), optional
        Paths to draw: a dot marks each start, a square each end.
    ax : matplotlib Axes, optional
    axes : (int, int), default (0, 1)
        Which coordinates of the paths, if the order is another.
    layout : {"time_first", "batch_first"}, optional
        Whether arrays are ``(n, batch, ...)`` or ``(batch, n, ...)``.  Default: the
        first; a Solution always is.
    levels : int or increasing sequence of float, default 16
        Contours, or how many, evenly spaced over all but the outer 2 % of the values,
        so that a pole does not take them all.
    points : int, default 121
        Points of the grid along each axis.
    colorbar : bool, default True
        Add a colour bar for U beside the axes.
    color : matplotlib colour or one per path, optional
        Colours of the paths.  Default: dark red-orange, which no contour has.
    **style
        Properties of the paths' lines.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a limit does not increase, ``energy`` does not return one number per state or
        is nowhere finite, or the paths have not two coordinates.

    Examples
    --------
    >>> import secondorder as so
    >>> ax = so.plot.potential(lambda x: (x**2).sum(-1), (-1, 1), (-1, 1))
    >>> ax.get_ylabel()
    'x₂'
    """
    xlim, ylim = interval(xlim, "xlim"), interval(ylim, "ylim")
    points = resolution(points)
    across, up = mesh(xlim, ylim, points)
    grid = torch.from_numpy(np.stack([across.ravel(), up.ravel()], axis=-1))
    values = per_state(inside(energy), "energy", grid)[:, 0]
    values = with_gaps(values, "energy").reshape(across.shape)
    drawn = None
    if paths is not None:
        given = is_solved(paths)
        x = samples(
            paths.x if is_solved(paths) else paths, "paths", given, None, layout
        )
        if x.ndim < 2 or x.shape[-1] < 2:
            raise ValueError(
                f"`paths` must have states of two coordinates, got shape {x.shape}"
            )
        x = split(x, True)
        chosen = [choose(k, x.shape[2], "axes") for k in axes]
        drawn = [with_gaps(x[:, :, k], "paths") for k in chosen]
    shown = np.ma.masked_invalid(values)
    if isinstance(levels, int):
        low, high = np.nanquantile(values, [0.02, 0.98])
        spread = high - low or max(1e-9, 1e-9 * abs(high))
        low, high = max(low - spread / levels, np.nanmin(values)), high
        levels = np.linspace(low, low + max(high - low, spread), levels).tolist()
    heights = np.asarray(levels, dtype=float)
    ends = heights[0], heights[-1]
    beyond = (np.nanmin(values) < ends[0], np.nanmax(values) > ends[1])
    ax = axes_or_new(ax)
    filled = ax.contourf(
        across, up, shown, heights, cmap=SEQUENTIAL, alpha=0.55, zorder=-1,
        extend=("neither", "max", "min", "both")[2 * beyond[0] + beyond[1]],
    )  # fmt: skip
    ax.contour(
        across, up, shown, heights, colors=NEUTRAL, linestyles="-", zorder=0,
        linewidths=size_of("lines.linewidth", 0.5),
    )  # fmt: skip
    if colorbar:
        # A tick beyond the colours would be moved to their end.
        ticks = [
            u for u in MaxNLocator(6).tick_values(*ends) if ends[0] <= u <= ends[1]
        ]
        ax.figure.colorbar(filled, ax=ax, label="U", shrink=0.9, ticks=ticks)
    if drawn is not None:
        draw_paths(ax, drawn[0], drawn[1], color or "#8C2D04", None, style)
    wide, tall = xlim[1] - xlim[0], ylim[1] - ylim[0]
    if max(wide, tall) < 5 * min(wide, tall):
        ax.set_aspect("equal")
    names = [f"x{subscript(k)}" for k in axes]
    ax.set(xlim=xlim, ylim=ylim, xlabel=names[0], ylabel=names[1])
    return ax


def inside(energy: Any) -> Function:
    """The function in a ``so.Potential``, or the function itself."""
    return energy.energy if callable(getattr(energy, "energy", None)) else energy


def per_state(function: Function, name: str, *states: Any) -> Array:
    """What a function of states returns: one number per state, ``(n, samples)``."""
    with torch.no_grad():
        found = array(function(*states), name)
    shape = tuple(states[0].shape)
    each = shape if len(shape) == 1 else shape[:-1]
    if found.shape in (each, (*shape[:-1], 1)):
        return found.reshape(shape[0], -1)
    raise ValueError(
        f"`{name}` must return one number per state, shape {shape[:-1]} for states "
        f"{shape}; got {found.shape}. Sum over the coordinates: (...).sum(-1)"
    )
