"""Motion as motion: points that move through depth, with a trail behind them.

The frames are evenly spaced in time, whatever the times of the solution are: between
them a cubic is followed (``curves``).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba_array
from matplotlib.typing import ColorType

from .curves import smooth
from .motion import start_colors
from .states import Solved, System, choose, phase_labels, subscript
from .style import Array, number, size_of
from .style import axes as axes_or_new
from .vectors import around, vector_field


class Animation(FuncAnimation):
    """A matplotlib animation that knows how to save and to show itself.

    Attributes
    ----------
    times : array, shape (frames,)
        The time of each frame.
    ax : matplotlib Axes
    """

    def __init__(self, ax: Axes, frames: Any, times: Array, fps: Any) -> None:
        self.ax, self.times, self.fps = ax, times, fps
        super().__init__(
            ax.figure,  # type: ignore[arg-type]
            frames,
            frames=len(times),
            interval=1000 / fps,
            blit=False,
            cache_frame_data=False,
        )
        # An animation that is not looked at is no mistake: matplotlib need not warn.
        self._draw_was_started = True

    def save(  # type: ignore[override]
        self, filename: Any, writer: Any = None, fps: float | None = None, **more: Any
    ) -> None:
        """Save as a GIF, a film or a page, as the name ends.

        Parameters
        ----------
        filename : str or path
            ``.gif`` needs nothing else; ``.mp4``, ``.m4v``, ``.mov`` and ``.webm``
            need the program ffmpeg; ``.html`` is a page that plays it.
        writer : str or matplotlib writer, optional
            As in matplotlib, whatever the name.
        fps : float, optional
            Frames per second.
        **more
            As in matplotlib, such as ``dpi``.

        Raises
        ------
        ValueError
            If the name ends otherwise, or there is no ffmpeg.
        """
        rate: Any = fps or self.fps
        end = Path(filename).suffix.lower()
        if writer is not None:
            own: Any = rate if isinstance(writer, str) else fps
            super().save(filename, writer, fps=own, **more)
        elif end == ".gif":
            super().save(filename, PillowWriter(fps=rate), **more)
        elif end == ".html":
            page = self.to_jshtml(rate, default_mode="loop")
            Path(filename).write_text(page, encoding="utf-8")
        elif end not in (".mp4", ".m4v", ".mov", ".webm"):
            raise ValueError(
                "`filename` must end in .gif, .mp4, .m4v, .mov, .webm or .html, got "
                f"{str(filename)!r}"
            )
        elif not shutil.which(str(plt.rcParams["animation.ffmpeg_path"])):
            raise ValueError(
                f"`filename` {str(filename)!r} needs the program ffmpeg, which is not "
                "found (rcParams['animation.ffmpeg_path']); a .gif or a .html needs "
                "nothing"
            )
        else:
            codec = "libvpx-vp9" if end == ".webm" else None
            super().save(filename, FFMpegWriter(rate, codec), **more)

    def _repr_html_(self) -> str:
        """Play in a notebook, with buttons; the figure is not shown a second time."""
        own = plt.rcParams["savefig.dpi"]
        with plt.rc_context({"savefig.dpi": 72 if own == "figure" else own}):
            page = self.to_jshtml(self.fps, default_mode="loop")
        plt.close(self.ax.figure)  # type: ignore[arg-type]
        return page


def animate(
    sol: Solved,
    ax: Axes | None = None,
    *,
    axes: tuple[int, int] | None = None,
    coordinate: int | None = None,
    system: System | None = None,
    seconds: float = 5.0,
    fps: float = 15.0,
    trail: float = 0.15,
    time: str = "t",
    color: ColorType | Sequence[ColorType] | None = None,
    **style: Any,
) -> Animation:
    """Let the states of a solution move.

    Parameters
    ----------
    sol : Solution
        Or anything with ``t`` (n,) or (batch, n), ``x`` and ``v`` (n, ..., d), or
        these as a tuple.
    ax : matplotlib Axes, optional
        What is drawn in it stays, and so do limits that were set.
    axes : (int, int), optional
        Draw the plane of these two coordinates, counted from 0.  Default for states of
        several coordinates: the first two.
    coordinate : int, optional
        Draw the plane (x_k, v_k) of this coordinate instead, as for states of one.
    system : SecondOrder, Newton or Acceleration, optional
        Draw its vector field at the first time behind states of one coordinate.
    seconds, fps : float, default 5.0 and 15.0
        How long it lasts, and frames per second.
    trail : float, default 0.15
        How much of its path each point draws behind it, as a fraction of all: 0 is
        none, 1 the path from its start.
    time : str, default "t"
        What the title calls the time.
    color : matplotlib colour or one per path, optional
        Instead of the colours by starting position: ``palette`` has some for classes.
    **style
        Properties of the points (matplotlib's ``scatter``), such as ``s`` or ``alpha``.

    Returns
    -------
    Animation
        A matplotlib ``FuncAnimation``.  ``save("motion.gif")`` needs nothing else,
        ``save("motion.mp4")`` needs ffmpeg; a notebook plays it.

    Raises
    ------
    ValueError
        If ``axes`` and ``coordinate`` are both given or not of the states, a number is
        out of its range, nothing is finite, or the times of ``sol`` lie too far apart
        and it has no dense output.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> pendulum = so.Newton(lambda t, x: -torch.sin(x), damping=0.1)
    >>> start = torch.tensor([[1.0], [2.0]]), None
    >>> sol = so.odeint(pendulum, start, torch.linspace(0, 20, 201))
    >>> motion = so.plot.animate(sol, system=pendulum, seconds=2)
    >>> len(motion.times), motion.ax.get_ylabel()
    (31, 'velocity v')
    """
    for name, value in (("seconds", seconds), ("fps", fps)):
        if not 0 < value < np.inf:
            raise ValueError(f"`{name}` must be positive, got {value!r}")
    if not 0 <= trail <= 1:
        raise ValueError(f"`trail` must be a fraction from 0 to 1, got {trail!r}")
    curves = smooth(sol)
    d = curves.x.shape[2]
    if axes is not None and coordinate is not None:
        raise ValueError("give `axes` or `coordinate`, not both: a plane has two axes")
    first, last = curves.t[0].mean(), curves.t[-1].mean()
    backwards = last < first
    ends = curves.t.min(), curves.t.max()
    count = max(2, round(seconds * fps) + 1)
    times = np.linspace(*(ends[::-1] if backwards else ends), count)
    # Trails have their own times, so that fast paths are round in few frames.
    fine = -(-max(400, 2 * count) // (count - 1))
    dense = np.linspace(times[0], times[-1], fine * (count - 1) + 1)
    x, v = curves.at(dense)
    if d == 1 or coordinate is not None:
        k = 0 if coordinate is None else choose(coordinate, d)
        places = np.stack([x[:, :, k], v[:, :, k]], axis=-1)
        names = phase_labels(k, d)
    else:
        pair = [choose(k, d, "axes") for k in axes or (0, 1)]
        places = x[:, :, pair]
        names = f"x{subscript(pair[0])}", f"x{subscript(pair[1])}"
    if not np.isfinite(places).all(-1).any():
        raise ValueError("`sol` holds no finite state, so there is nothing to draw")
    places[~np.isfinite(places).all(-1)] = np.nan
    mine = ax is None
    xlim, ylim = (around(places[:, :, side], 0.06) for side in (0, 1))
    if system is not None and d == 1:
        ax = vector_field(system, xlim, ylim, ax, t=float(times[0]))
    ax = axes_or_new(ax)
    if mine or ax.get_autoscale_on():
        ax.set(xlim=xlim, ylim=ylim)
    if mine and names[0] != "position x" and coordinate is None:
        ax.set_aspect("equal")
    ax.set(xlabel=names[0], ylabel=names[1])
    shades = start_colors(places[0, :, 0], color)
    if mine:  # nothing moves but the states, so the layout is made once
        ax.set_title(f"{time} = 0")
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]
        ax.figure.set_layout_engine("none")  # type: ignore[union-attr]
    return Animation(ax, mover(ax, places, times, fine, trail, time, shades, style),
                     times, fps)  # fmt: skip


def mover(
    ax: Axes,
    places: Array,
    times: Array,
    fine: int,
    trail: float,
    time: str,
    shades: Sequence[ColorType],
    style: dict[str, Any],
) -> Any:
    """The function that draws frame n: the points, their trails and the time."""
    n, paths, _ = places.shape
    width = size_of("lines.linewidth", 1.4 if paths < 50 else 0.7)
    size = size_of("lines.markersize", 5 if paths < 50 else 3) ** 2
    look: dict[str, Any] = {"s": size, "zorder": 3, "linewidth": 0} | style
    if not {"c", "color", "facecolor", "facecolors"} & {*style}:
        look["color"] = shades
    dots = ax.scatter(places[0, :, 0], places[0, :, 1], **look)
    tails = LineCollection(
        [], colors=to_rgba_array(shades), linewidths=width, alpha=0.6, zorder=2.5
    )
    ax.add_collection(tails, autolim=False)
    length = round(trail * (n - 1))
    digits = max(0, 2 - int(np.floor(np.log10(np.ptp(times) or 1.0))))

    def frame(index: int) -> tuple[Any, ...]:
        now = index * fine
        dots.set_offsets(np.ma.masked_invalid(places[now]))
        behind = places[max(0, now - length) : now + 1]
        tails.set_segments(list(behind.transpose(1, 0, 2)) if length else [])
        ax.set_title(f"{time} = {number(times[index], digits)}")
        return dots, tails

    frame(0)
    return frame
