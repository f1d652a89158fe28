"""A phase portrait that answers: click to start a path, move sliders for parameters.

In a window or a notebook with live figures, matplotlib's own events do it, with the
system itself.  As a page (``page.html``) a browser does it alone: the page holds the
acceleration on a grid, for every setting of the sliders, and integrates paths itself.
"""

import base64
import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.widgets import Slider

from .field import Plane, autonomous, follow
from .rest import find_fixed_points, mark
from .states import System
from .style import (
    Array,
    Numbers,
    array,
    axes,
    figure_size,
    line_properties,
    palette,
    size_of,
)
from .vectors import NULLCLINES, Interval, interval, vector_field

LARGEST_PAGE = 6e6  # characters of numbers
GRIDS = (161, 81, 41)  # points along an axis of twice the rectangle's length
EXACT = 1e-4  # of the range of the acceleration
PATHS = [color for color in palette() if color not in NULLCLINES]


class Interactive:
    """What ``interactive`` returns.

    Attributes
    ----------
    ax, figure : matplotlib Axes and Figure
    sliders : dict of str to matplotlib Slider
    system : callable
        The system that the sliders ask for.
    starts : list of (float, float)
        Where the paths start.
    """

    def __init__(
        self,
        make: Callable[..., System],
        values: dict[str, Array],
        xlim: Interval,
        vlim: Interval,
        t1: float,
        title: str,
        ax: Axes | None,
        style: dict[str, Any],
    ) -> None:
        self.make, self.values, self.xlim, self.vlim = make, values, xlim, vlim
        self.t1, self.title, self.style = t1, title, style
        self.starts: list[tuple[float, float]] = []
        self.sliders: dict[str, Slider] = {}
        self.system = self.made(*(v[len(v) // 2] for v in values.values()))
        self.plane = autonomous(self.system, xlim, vlim)
        self.ax = self.with_sliders() if values else axes(ax)
        self.figure = self.ax.figure
        self.draw()
        self.figure.canvas.mpl_connect("button_press_event", self.clicked)
        # Events find their way by weak references only: the figure keeps this alive.
        self.figure._secondorder = self  # type: ignore[union-attr]

    def made(self, *numbers: float) -> System:
        """The system with these numbers, in the order of the sliders."""
        named = dict(zip(self.values, map(float, numbers), strict=True))
        system = self.make(**named)
        if not callable(system):
            raise TypeError(
                "`system` must return a system, such as so.Newton(...), where there "
                f"are `parameters`; got {type(system).__name__} for {named}"
            )
        return system

    def with_sliders(self) -> Axes:
        """New axes with a slider for each parameter below them."""
        count = len(self.values)
        (width, height), letter = figure_size(), plt.rcParams["font.size"]
        fig, axs = plt.subplots(
            1 + count, 1, figsize=(width, height + 0.03 * letter * count),
            layout="constrained", height_ratios=[height, *count * [0.02 * letter]],
        )  # fmt: skip
        for where, (name, values) in zip(axs[1:], self.values.items(), strict=True):
            slider = Slider(
                where, name, values[0], values[-1], valinit=values[len(values) // 2],
                valstep=values, valfmt="%.3g",
            )  # fmt: skip
            slider.on_changed(self.changed)
            self.sliders[name] = slider
        return axs[0]

    def changed(self, _: float = 0.0) -> None:
        """Take the numbers of the sliders, and draw all paths anew."""
        self.system = self.made(*(slider.val for slider in self.sliders.values()))
        self.plane = autonomous(self.system, self.xlim, self.vlim)
        self.draw()

    def clicked(self, event: Any) -> None:
        """Start a path where the mouse was pressed, unless a tool has the mouse."""
        tools = getattr(self.figure.canvas, "toolbar", None)
        if (
            event.inaxes is self.ax
            and event.button == 1
            and not getattr(tools, "mode", "")
        ):
            self.start(event.xdata, event.ydata)

    def draw(self) -> None:
        """The field, the points of rest and all paths."""
        self.ax.clear()
        vector_field(self.system, self.xlim, self.vlim, self.ax)
        mark(self.ax, rests(self.system, self.xlim), {})
        starts, self.starts = self.starts, []
        for x, v in starts:
            self.start(x, v)
        self.ax.set_title(self.title)
        self.figure.canvas.draw_idle()

    def start(self, x: float, v: float) -> Array:
        """Draw the path that starts at (x, v), and return its points (n, 2).

        It ends at ``t1``, or twice the rectangle's size away.
        """
        size = np.ptp([self.xlim, self.vlim], axis=1)
        middle = np.mean([self.xlim, self.vlim], axis=1)
        points = follow(self.plane, np.array([x, v], float), self.t1, middle, size)
        color = PATHS[len(self.starts) % len(PATHS)]
        look: dict[str, Any] = {"color": color, "zorder": 3}
        look |= {"linewidth": size_of("lines.linewidth", 1.6)} | self.style
        (path,) = self.ax.plot(*points, **look)
        dot = size_of("lines.markersize", 4)
        self.ax.plot(x, v, "o", color=path.get_color(), markersize=dot, zorder=3)
        self.starts.append((float(x), float(v)))
        self.figure.canvas.draw_idle()
        return points.T

    def clear(self) -> None:
        """Remove all paths."""
        self.starts.clear()
        self.draw()

    def html(self) -> str:
        """The page, which holds all that it needs and loads nothing."""
        data = json.dumps(self.data(), ensure_ascii=False, allow_nan=False)
        page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        page = page.replace("__TITLE__", html.escape(self.title))
        return page.replace("__DATA__", data.replace("<", "\\u003c"))

    def save(self, filename: str | Path) -> None:
        """Save as a page, ``.html``, or as a picture, as the name ends.

        The page works offline, in any browser: click to start a path, drag to move its
        start, step through the values of the parameters.
        """
        if Path(filename).suffix.lower() in (".html", ".htm"):
            Path(filename).write_text(self.html(), encoding="utf-8")
        else:
            self.figure.savefig(filename)  # type: ignore[union-attr]

    def _repr_html_(self) -> str | None:
        """The page within a notebook, unless its figures are live themselves."""
        backend = mpl.get_backend().lower()
        if backend != "agg" and "inline" not in backend:
            return None
        plt.close(self.figure)  # type: ignore[arg-type]
        height = 640 + 32 * len(self.values)
        return (
            f'<iframe srcdoc="{html.escape(self.html())}" sandbox="allow-scripts" '
            f'style="width: 100%; max-width: 800px; height: {height}px; border: 0">'
            "</iframe>"
        )

    def data(self) -> dict[str, Any]:
        """What the page holds: numbers, for each setting of the sliders."""
        settings = list(itertools.product(*self.values.values()))
        systems = [self.made(*numbers) for numbers in settings]
        planes = [autonomous(one, self.xlim, self.vlim) for one in systems]
        wide = [
            (1.5 * a - 0.5 * b, 1.5 * b - 0.5 * a) for a, b in (self.xlim, self.vlim)
        ]
        sizes = [n for n in GRIDS if n**2 * len(settings) * 16 / 3 < LARGEST_PAGE]
        for points in reversed(sizes or GRIDS[-1:]):
            found = [sampled(plane, wide[0], wide[1], points) for plane in planes]
            error = max(miss for _, miss in found)
            if error <= EXACT:
                break
        note = f"The field is sampled on {points} × {points} points"
        if error > EXACT:
            note += (
                f", too few to be exact: {100 * error:.2g} % of its range is the error"
            )
        starts = [int(np.abs(self.values[name] - slider.val).argmin())
                  for name, slider in self.sliders.items()]  # fmt: skip
        return {
            "title": self.title,
            "note": note + ".",
            "xlim": self.xlim,
            "vlim": self.vlim,
            "domain": {"x": wide[0], "v": wide[1]},
            "points": points,
            "t1": self.t1,
            "colors": PATHS,
            "sliders": [
                {"name": name, "values": values.tolist(), "start": start}
                for (name, values), start in zip(
                    self.values.items(), starts, strict=True
                )
            ],
            "fields": [
                base64.b64encode(field.astype("<f4").tobytes()).decode()
                for field, _ in found
            ],
            "rest": [
                [{"x": p.x, "kind": p.kind} for p in rests(one, self.xlim)]
                for one in systems
            ],
        }


def interactive(
    system: System | Callable[..., System],
    xlim: Interval = (-4.0, 4.0),
    vlim: Interval = (-3.0, 3.0),
    ax: Axes | None = None,
    *,
    parameters: Mapping[str, Numbers] | None = None,
    t1: float = 30.0,
    title: str = "phase portrait",
    **style: Any,
) -> Interactive:
    """Draw a phase portrait in which a click starts a path.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or callable
        ``system(t, (x, v)) -> (v, a)`` of one coordinate, without explicit time.  With
        ``parameters``, a function of these that returns such a system.
    xlim, vlim : (float, float)
        The rectangle.
    ax : matplotlib Axes, optional
        Not with ``parameters``, whose sliders need a figure of their own.
    parameters : dict of str to increasing sequence of float, optional
        The values that each slider steps through.
    t1 : float, default 30.0
        How long paths are followed, or until they are far outside of the rectangle.
    title : str, default "phase portrait"
    **style
        Properties of the paths' lines.

    Returns
    -------
    Interactive
        ``save("page.html")`` makes a page that works offline; a notebook shows the
        same page, or the live figure where it has those (``%matplotlib widget``).
        ``start(x, v)`` does what a click does.  ``ax`` and ``figure`` are matplotlib's.

    Raises
    ------
    ValueError
        If a limit does not increase, the system is not one of one coordinate or depends
        on time, or the parameters do not increase or have more than 400 settings.
    TypeError
        If ``system`` does not take ``parameters``, or does not return a system.

    Examples
    --------
    >>> import torch, numpy as np, secondorder as so
    >>> def pendulum(damping):
    ...     return so.Newton(lambda t, x: -torch.sin(x), damping=damping)
    >>> portrait = so.plot.interactive(
    ...     pendulum, parameters={"damping": np.linspace(0, 1, 5)}
    ... )
    >>> path = portrait.start(2.0, 0.0)
    >>> page = portrait.html()  # or portrait.save("pendulum.html")
    """
    xlim, vlim = interval(xlim, "xlim"), interval(vlim, "vlim")
    if not 0 < t1 < np.inf:
        raise ValueError(f"`t1` must be positive, got {t1!r}")
    values = {name: array(given, name) for name, given in (parameters or {}).items()}
    for name, numbers in values.items():
        steps = np.diff(numbers) if numbers.ndim == 1 else np.zeros(1)
        if not (np.isfinite(numbers).all() and len(steps) and (steps > 0).all()):
            raise ValueError(
                f"`parameters` must give each slider two numbers or more that "
                f"increase, such as np.linspace(0, 1, 11); got {numbers} for {name!r}"
            )
    if np.prod([len(numbers) for numbers in values.values()]) > 400:
        raise ValueError(
            "`parameters` have more than 400 settings together, too many for a page; "
            "give fewer values: " + str({k: len(v) for k, v in values.items()})
        )
    if values and ax is not None:
        raise ValueError(
            "`ax` cannot be given with `parameters`: their sliders need a figure"
        )
    if values and isinstance(system, torch.nn.Module):
        raise TypeError(
            "`system` must be a function of the `parameters` that returns a system, "
            "such as lambda damping: so.Newton(force, damping=damping); got "
            f"{type(system).__name__}"
        )
    make = system if values else lambda: system
    return Interactive(make, values, xlim, vlim, float(t1), title, ax,
                       line_properties(style))  # fmt: skip


def rests(system: System, xlim: Interval) -> Sequence[Any]:
    """The points of rest, none where there are no single ones."""
    try:
        return find_fixed_points(system, xlim)
    except ValueError:  # a free body rests everywhere
        return []


def sampled(
    plane: Plane, xlim: Interval, vlim: Interval, points: int
) -> tuple[Array, float]:
    """A on a grid (points, points), v by rows; and how far the page is off between.

    The page's cubic has the weights −1/16, 9/16, 9/16, −1/16 in the middle of a cell.
    The error, a fraction of the range, is that of 19 of 20 cells: a jump may be wrong.
    """
    xs, vs = np.linspace(*xlim, points), np.linspace(*vlim, points)

    def a(x: Array, v: Array) -> Array:
        mesh = np.meshgrid(x, v)
        found = plane(mesh[0].ravel(), mesh[1].ravel()).reshape(len(v), len(x))
        return np.where(np.abs(found) < 1e38, found, np.nan)

    field = a(xs, vs)
    view = slice(points // 4, -(points // 4))
    here = field[view, view]
    halves = [(z[1:-2] + z[2:-1]) / 2 for z in (xs[view], vs[view])]
    true = a(*halves)
    for _ in range(2):
        here = (9 * (here[1:-2] + here[2:-1]) - here[:-3] - here[3:]).T / 16
    miss = np.abs(here - true)
    if not np.isfinite(miss).any():
        raise ValueError("`system` is nowhere finite in the rectangle")
    # Without the outer values: a pole would have all of the range.
    scale = np.ptp(np.quantile(true[np.isfinite(true)], [0.02, 0.98])) or 1.0
    return field, float(np.quantile(miss[np.isfinite(miss)], 0.95) / scale)
