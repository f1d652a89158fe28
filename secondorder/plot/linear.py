"""Linear theory: the response Ψ(θ) of a model, its threshold and its branches.

A real θ gives Ψ(θ) >= λ.  Real eigenvalues below the threshold λ must come in pairs;
momentum moves λ from 0 (first order) towards −1.  Everything drawn here is numbers,
sampled from the propagators of ``secondorder.representability``.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, section 4.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from .style import (
    BAD,
    COLORS,
    GOOD,
    NEUTRAL,
    SEQUENTIAL,
    Numbers,
    array,
    axes,
    few_labels,
    key,
    legend,
    line_properties,
    look,
    mark_height,
    pair,
    size_of,
)


def response_curve(
    theta: Numbers,
    response: Numbers,
    ax: Axes | None = None,
    *,
    threshold: float | None = None,
    minimiser: float | None = None,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw Ψ over θ, its minimum, and the values below that no real θ reaches.

    Call it again with the same ``ax`` for another model.

    Parameters
    ----------
    theta, response : array or Tensor, shape (n,)
        Real θ and Ψ(θ).
    ax : matplotlib Axes, optional
        Default: the axes of a new figure.
    threshold, minimiser : float, optional
        λ = Ψ(θ*) and θ*.  A minimum outside the sampled θ is not marked.
    label : str, optional
        Legend entry.
    **style
        Properties of the curve, such as ``linewidth`` or ``color``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``theta`` and ``response`` are not two sequences of the same length.

    Examples
    --------
    >>> import numpy as np, secondorder as so
    >>> from secondorder.representability import Continuous
    >>> m, theta = Continuous(1.0), np.linspace(-60, 3, 300)
    >>> ax = so.plot.response_curve(
    ...     theta, m.response(theta), threshold=m.threshold, minimiser=m.minimiser
    ... )
    >>> ax.get_ylabel()
    'response Ψ(θ)'
    """
    theta, response = pair("theta", theta, "response", response)
    ax = axes(ax)
    index = sum(line.get_gid() == "response" for line in ax.get_lines())
    usual = look(index)
    drawn = {"color": usual["color"], "linestyle": usual["linestyle"]}
    (curve,) = ax.plot(
        theta, response, label=label, gid="response", **drawn | line_properties(style)
    )
    color = curve.get_color()
    lowest = response.min()
    if threshold is None:
        lowest = min(lowest, 0)
    elif np.isfinite(threshold):
        lowest = min(lowest, threshold)
        # Light, and per model: overlapping bands darken, which shows their order.
        ax.axhspan(threshold - 10, threshold, color=color, alpha=0.08, lw=0)
        ax.axhline(threshold, color=color, lw=size_of("lines.linewidth", 0.8), ls=":")
        if minimiser is not None and theta.min() <= minimiser <= theta.max():
            ax.plot(minimiser, threshold, usual["marker"], color=color)
            mark_height(ax, threshold, color)
    ax.axhline(0, color=NEUTRAL, lw=size_of("lines.linewidth", 0.6))
    bottom = min(ax.get_ylim()[0] if index else 0, lowest - 0.35)
    ax.set(xlabel="θ", ylabel="response Ψ(θ)", ylim=(bottom, None))
    ax.margins(x=0)
    return legend(ax, loc="upper left")


def fold(
    value: Numbers,
    preimages: ArrayLike,
    ax: Axes | None = None,
    *,
    minimiser: float | None = None,
    **style: Any,
) -> Axes:
    """Draw where Ψ takes a value that sinks: two real θ meet, and leave as a pair.

    Above λ the value has two real preimages beside θ*, below it two conjugate ones: a
    real θ has both or none of them, which is why eigenvalues below λ come in pairs.

    Parameters
    ----------
    value : array or Tensor, shape (n,)
        Real values x, in order.
    preimages : array of complex, shape (n, k)
        θ with Ψ(θ) = x, each column a path.
    ax : matplotlib Axes, optional
    minimiser : float, optional
        θ*, where they meet.
    **style
        Properties of the points (matplotlib's ``scatter``), such as ``s``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If there is not one row of preimages for each value.

    Examples
    --------
    >>> import numpy as np
    >>> from secondorder.plot.linear import fold
    >>> x = np.linspace(1.0, -1.0, 41)  # of Ψ = θ²: λ = 0 at θ* = 0
    >>> root = np.sqrt(x + 0j)
    >>> fold(x, np.stack([root, -root], axis=1), minimiser=0.0).get_ylabel()
    'Im θ'
    """
    paths, x = np.asarray(preimages, dtype=complex), array(value)
    if x.ndim != 1 or paths.ndim != 2 or len(paths) != len(x):
        raise ValueError(
            "`preimages` must have one row (k,) for each of `value` (n,), got shapes "
            f"{paths.shape} and {x.shape}"
        )
    ax = axes(ax)
    ax.axhline(0, color=NEUTRAL, lw=size_of("lines.linewidth", 0.8))
    usual: dict[str, Any] = {"c": x, "cmap": SEQUENTIAL, "zorder": 3}
    usual["s"] = size_of("lines.markersize", 3.7) ** 2
    for path in paths.T:
        dots = ax.scatter(path.real, path.imag, **usual | style)
    ax.figure.colorbar(dots, ax=ax, label="x = Ψ(θ)")
    if minimiser is not None:
        ring: dict[str, Any] = {
            "ms": size_of("lines.markersize", 11),
            "mfc": "none",
            "mec": BAD,
        }
        ax.plot(minimiser, 0, "o", **ring, mew=1.8, label="θ*")
    ax.set(xlabel="Re θ", ylabel="Im θ")
    return legend(ax, loc="upper left")


def threshold_curve(
    epsilon: Numbers, threshold: Numbers, ax: Axes | None = None, **style: Any
) -> Axes:
    """Draw λ against ε/T on a logarithmic axis: what momentum opens below 0.

    Parameters
    ----------
    epsilon, threshold : array or Tensor, shape (n,)
        ε/T and λ.
    ax : matplotlib Axes, optional
    **style
        Properties of the curve, such as ``linewidth``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``epsilon`` and ``threshold`` are not two sequences of the same length.

    Examples
    --------
    >>> import numpy as np
    >>> from secondorder.plot.linear import threshold_curve
    >>> from secondorder.representability import Continuous
    >>> epsilon = np.geomspace(0.03, 300, 50)
    >>> thresholds = [Continuous(e).threshold for e in epsilon]
    >>> threshold_curve(epsilon, thresholds).get_xscale()
    'log'
    """
    epsilon, threshold = pair("epsilon", epsilon, "threshold", threshold)
    ax = axes(ax)
    drawn = {"color": GOOD} | line_properties(style)
    ax.semilogx(epsilon, threshold, **drawn, label="threshold λ")
    ax.fill_between(
        epsilon, threshold, 0, color=GOOD, alpha=0.15, lw=0, label="opened by momentum"
    )
    ax.fill_between(
        epsilon, -1.25, threshold, color=BAD, alpha=0.12, lw=0, hatch="//",
        label="in pairs only",
    )  # fmt: skip
    limit: dict[str, Any] = {
        "color": "k",
        "ls": "--",
        "lw": size_of("lines.linewidth", 1),
    }
    ax.axhline(-1, **limit, label="−1, never reached")
    ax.set(xlabel="ε / T", ylabel="real eigenvalue of D", ylim=(-1.25, 0.1))
    ax.margins(x=0)
    few_labels(ax)
    return legend(ax, loc="lower left")


def discrete_branches(
    theta: Numbers,
    response: Numbers,
    critical_points: Numbers,
    critical_values: Numbers,
    ax: Axes | None = None,
    *,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """Draw the polynomial P(θ) of N layers, branch by branch.

    The right-most branch (bold) is the one that becomes the ODE.  The others need θ
    that makes the layers oscillate; for odd N they reach everything.

    Parameters
    ----------
    theta, response : array or Tensor, shape (n,)
        Real θ of a layer, increasing, and P(θ).
    critical_points, critical_values : array or Tensor, shape (N − 1,)
        Where branches meet, and P there.
    ax : matplotlib Axes, optional
    label : str, optional
        Title of the legend.
    **style
        Properties of the branches' lines.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If lengths do not agree.

    Examples
    --------
    >>> import numpy as np
    >>> from secondorder.plot.linear import discrete_branches
    >>> from secondorder.representability import Discrete
    >>> m, theta = Discrete(4, 0.9), np.linspace(-38, 2, 400)
    >>> ax = discrete_branches(
    ...     theta, m.response(theta), m.critical_points, m.critical_values
    ... )
    >>> ax.get_legend().get_texts()[1].get_text()
    'branch that becomes the ODE'
    """
    theta, response = pair("theta", theta, "response", response)
    points, values = pair(
        "critical_points", critical_points, "critical_values", critical_values
    )
    ax = axes(ax)
    style, width = line_properties(style), size_of("lines.linewidth", 1.4)
    drawn: dict[str, Any]
    edges = [-np.inf, *points, np.inf]
    for k, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = (theta >= low) & (theta <= high)
        t, p = theta[inside], response[inside]
        if np.isfinite(low):  # join the branches exactly where they meet
            t, p = np.append(points[k - 1], t), np.append(values[k - 1], p)
        if np.isfinite(high):
            t, p = np.append(t, points[k]), np.append(p, values[k])
        name = None if k else "other branches"
        drawn = {"color": COLORS[3], "linestyle": "--", "linewidth": width}
        if k == len(points):
            name = "branch that becomes the ODE"
            drawn = {"color": GOOD, "linewidth": 1.8 * width}
        ax.plot(t, p, **drawn | style, label=name)
    if len(values):
        ax.axhline(values[-1], color=GOOD, lw=0.6 * width, ls=":")
        dot = size_of("lines.markersize", 4)
        ax.plot(points, values, "o", color="k", ms=dot, label="critical points")
        mark_height(ax, values[-1], GOOD)
    ax.axhline(0, color=NEUTRAL, lw=size_of("lines.linewidth", 0.6))
    # The outer branches grow like θ^N: keep the oscillating part in view.
    height = 1.4 * max(np.abs(values).max(initial=0), 1.0)
    ax.set(xlabel="θ of one layer", ylabel="P(θ)", ylim=(-height, height))
    ax.margins(x=0)
    return key(ax, title=label)
