"""What all plots share: colours that everyone can tell apart, and how data come in.

Reference: Okabe and Ito, "Color Universal Design", 2008.
"""

from typing import Any, TypeAlias, TypedDict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cbook import normalize_kwargs
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Numbers: TypeAlias = ArrayLike | Tensor  # what a plot takes as data
Array: TypeAlias = NDArray[np.float64]  # what it makes of them

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GOOD, BAD, NEUTRAL = COLORS[0], COLORS[1], "0.35"
MARKERS = "osD^vP*"
LINES = ("-", "--", "-.", ":")
SEQUENTIAL = "cividis"  # even in lightness, and the same with two kinds of cones
MANY = 20_000  # points
LARGEST = 1e300  # beyond it the limits of an axis overflow


class Look(TypedDict):
    """How a curve differs from the others of its family."""

    color: str
    marker: str
    linestyle: str


def axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the axes of a new figure if it is None.

    It is 5 by 3.6 inches, or as large as the user's ``figure.figsize``.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=figure_size(), layout="constrained")
    return ax


def figure_size() -> tuple[float, float]:
    """5 by 3.6 inches, or what the user has set."""
    width, height = plt.rcParams["figure.figsize"]
    changed = [width, height] != [*plt.rcParamsDefault["figure.figsize"]]
    return (width, height) if changed else (5, 3.6)


def palette(n: int = len(COLORS)) -> list[str]:
    """The colours of the plots, the first ``n``, as hexadecimal numbers.

    Parameters
    ----------
    n : int, default 7
        Up to 7 are Okabe and Ito's, which colour-blind readers can tell apart; after
        them come tints and shades of these, 20 in all, which are not that far apart.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If ``n`` is negative or more than 20.

    Examples
    --------
    >>> import secondorder as so
    >>> so.plot.palette(2)
    ['#0072B2', '#D55E00']
    """
    tints = [to_hex(mixed(color, 0.5, 1.0)) for color in (*COLORS[:6], "#4D4D4D")]
    shades = [to_hex(mixed(color, 0.5, 0.0)) for color in COLORS[:6]]
    colors = [*COLORS, *tints, *shades]
    if not 0 <= n <= len(colors):
        raise ValueError(
            f"`n` must be between 0 and {len(colors)}, got {n}; for more take a "
            f"colour map, such as plt.colormaps[{SEQUENTIAL!r}]"
        )
    return colors[:n]


def mixed(color: str, share: float, gray: float) -> tuple[float, float, float]:
    """A colour to one part, and white (1), grey or black (0) for the rest."""
    r, g, b = (share * c + (1 - share) * gray for c in to_rgb(color))
    return r, g, b


def pale(color: str) -> tuple[float, float, float]:
    """A tint of a colour, on which markers and lines can be seen."""
    return mixed(color, 0.45, 1.0)


def size_of(setting: Any, usual: float) -> float:
    """A size that follows a setting of matplotlib, ``usual`` where that is as usual."""
    return usual * plt.rcParams[setting] / plt.rcParamsDefault[setting]


def array(value: Numbers, name: str = "data") -> Array:
    """A tensor, array or list as a float64 array on the CPU, off the graph."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        value = (value if value.is_complex() else value.double()).numpy()
    found = np.asarray(value)
    if np.iscomplexobj(found):
        raise ValueError(
            f"`{name}` must be real, got {found.dtype}; draw its .real or its .imag"
        )
    return np.asarray(found, dtype=float)


def with_gaps(values: Array, name: str, *, positive: bool = False) -> Array:
    """Values with NaN, which leaves a gap, where they cannot be drawn.

    On a logarithmic axis (``positive``) that is also where they are not > 0.
    """
    shown = np.abs(values) <= LARGEST  # False for NaN
    if values.size and not shown.any():
        raise ValueError(
            f"`{name}` holds no finite number, so there is nothing to draw; got "
            f"{values.size} like {np.ravel(values)[0]}"
        )
    return np.where(shown & (values > 0) if positive else shown, values, np.nan)


def pairs(first: str, x: Array, second: str, y: Array) -> None:
    """Raise unless there is a point of which both numbers can be drawn."""
    if not (np.isfinite(x) & np.isfinite(y)).any():
        raise ValueError(
            f"`{first}` and `{second}` are nowhere finite together, so there is "
            "nothing to draw"
        )


def line_properties(style: dict[str, Any]) -> dict[str, Any]:
    """Matplotlib's properties of lines under their full names (``lw``, ``c``, …)."""
    return normalize_kwargs(style, Line2D)


def pair(first: str, x: Numbers, second: str, y: Numbers) -> tuple[Array, Array]:
    """Two sequences of numbers of one length, as arrays."""
    x, y = array(x, first), array(y, second)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"`{second}` must have one number for each of `{first}`, both of shape "
            f"(n,), got shapes {y.shape} and {x.shape}; flatten them, or draw one "
            "curve at a time"
        )
    return x, y


def look(index: int) -> Look:
    """Colour, marker and line style of curve ``index`` in a family of curves."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLORS) % len(LINES)],
    }


def light(points: int) -> dict[str, Any]:
    """Draw curves of very many points as an image in vector files, which stay small."""
    return {"rasterized": True} if points > MANY else {}


class FewTicks(LogLocator):
    """Powers of ten, and 2 and 5 between them where these are too few."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """The ticks of an interval; evenly spaced where it has none of these."""
        low, high = sorted((vmin, vmax))
        short = is_short(low, high)
        self.set_params(subs=(1.0, 2.0, 5.0) if short else (1.0,))
        ticks = super().tick_values(low, high)
        enough = 2 <= sum(low <= tick <= high for tick in ticks) <= 5
        return ticks if enough or not short else MaxNLocator(4).tick_values(low, high)


class FewLabels(LogFormatterSciNotation):
    """Plain numbers on a short axis, else powers of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick."""
        if not is_short(*self.axis.get_view_interval()):  # type: ignore[union-attr]
            return str(super().__call__(x, pos))
        if 1e-3 <= x < 1e5:
            return f"{x:g}"
        digits, power = f"{x:.2e}".split("e")
        times = "" if float(digits) == 1 else f"{float(digits):g}·"
        raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        return f"{times}10{str(int(power)).translate(raised)}"


def is_short(low: float, high: float) -> bool:
    """Whether the powers of ten in an interval are too few to label nothing else."""
    if not 0 < low < high:
        return False
    first, last = np.log10([low, high])
    return bool(last - first < 1.5 or np.floor(last) - np.ceil(first) < 1)


def few_labels(ax: Axes) -> None:
    """Label logarithmic axes so that neighbours never overlap: no 3, 4, 6 × 10ᵏ."""
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(FewTicks())
            axis.set_major_formatter(FewLabels())
            axis.set_minor_formatter(NullFormatter())


def number(value: float, digits: int = 3) -> str:
    """A number for the reader: rounded, with a minus as wide as a plus."""
    return f"{value:.{digits}f}".replace("-", "−")


def mark_height(ax: Axes, height: float, color: ColorType, name: str = "λ =") -> None:
    """Write "λ = …" in the margin beside a height, off the curves."""
    ax.annotate(
        f"{name} {number(height)}", (1, height), (4, 0),
        xycoords=("axes fraction", "data"), textcoords="offset points",
        fontsize="small", color=color, va="center", annotation_clip=False,
    )  # fmt: skip


def width_of(ax: Axes) -> float:
    """The width of axes in inches, before a layout is made."""
    figure: Any = ax.figure
    return float(ax.get_position().width * figure.get_figwidth())


def outside(ax: Axes) -> dict[str, Any]:
    """Where a legend of many entries goes, off the curves: beside, or below if narrow.

    The distance below is in heights of its letters, four of which hold the labels.
    """
    if width_of(ax) > 2.6:
        return {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.5}
    return below | {"ncols": 2, "columnspacing": 1.0}


def key(ax: Axes, **options: Any) -> Axes:
    """A legend: inside where it is small, else outside the axes, off the paths."""
    count = len(ax.get_legend_handles_labels()[1])
    many = count > (3 if width_of(ax) > 2.6 else 2)
    place = outside(ax) if many else {"loc": "best"}
    return legend(ax, **options | place)


def legend(ax: Axes, **options: Any) -> Axes:
    """Add or refresh the legend if anything has a name."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize="small", **options)
    return ax
