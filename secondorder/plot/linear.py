"""Linear theory: which values a tied linear model reaches, in six pictures.

A real θ gives Ψ(θ) >= λ.  Real eigenvalues below the threshold λ must come in pairs;
momentum moves λ from 0 (first order) towards −1.  Everything drawn here is numbers,
sampled from the propagators of ``secondorder.representability``.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, section 4.
"""

import numpy as np

from .style import COLORS, array, axes, look

__all__ = [
    "discrete_branches",
    "representable_probability",
    "response_curve",
    "spectrum",
    "threshold_curve",
    "training_curves",
]

GOOD, BAD, NEUTRAL = COLORS[0], COLORS[1], "0.35"


def response_curve(
    theta, response, ax=None, *, threshold=None, minimiser=None, label=None
):
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
    theta, response = _pair("theta", theta, "response", response)
    ax = axes(ax)
    index = sum(line.get_gid() == "response" for line in ax.get_lines())
    style = look(index)
    marker = style.pop("marker")
    ax.plot(theta, response, label=label, gid="response", **style)
    if threshold is not None and np.isfinite(threshold):
        # Light, and per model: overlapping bands darken, which shows their order.
        ax.axhspan(threshold - 10, threshold, color=style["color"], alpha=0.08, lw=0)
        ax.axhline(threshold, color=style["color"], lw=0.8, ls=":")
    if minimiser is not None and theta.min() <= minimiser <= theta.max():
        ax.plot(minimiser, threshold, color=style["color"], marker=marker, ls="none")
        text = f"λ = {threshold:.3f}".replace("-", "−")
        middle = (theta.min() + theta.max()) / 2
        ax.annotate(
            text, (minimiser, threshold), (0, -12), textcoords="offset points",
            fontsize="small", color=style["color"],
            ha="right" if minimiser > middle else "left",
        )  # fmt: skip
    ax.axhline(0, color=NEUTRAL, lw=0.6)
    lowest = min(response.min(), threshold if threshold is not None else 0)
    bottom = min(ax.get_ylim()[0] if index else 0, lowest - 0.35)
    ax.set(xlabel="θ", ylabel="response Ψ(θ)", ylim=(bottom, None))
    ax.margins(x=0)
    return _legend(ax, loc="upper left")


def threshold_curve(epsilon, threshold, ax=None):
    """Draw λ against ε/T on a logarithmic axis: what momentum opens below 0.

    Parameters
    ----------
    epsilon, threshold : array or Tensor, shape (n,)
        ε/T and λ.
    ax : matplotlib Axes, optional

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
    epsilon, threshold = _pair("epsilon", epsilon, "threshold", threshold)
    ax = axes(ax)
    ax.semilogx(epsilon, threshold, color=GOOD, label="threshold λ")
    ax.fill_between(
        epsilon, threshold, 0, color=GOOD, alpha=0.15, lw=0, label="opened by momentum"
    )
    ax.fill_between(
        epsilon, -1.25, threshold, color=BAD, alpha=0.12, lw=0, hatch="//",
        label="in pairs only",
    )  # fmt: skip
    ax.axhline(-1, color="k", ls="--", lw=1, label="−1, never reached")
    ax.set(xlabel="ε / T", ylabel="real eigenvalue of D", ylim=(-1.25, 0.1))
    ax.margins(x=0)
    return _legend(ax, loc="lower left")


def spectrum(eigenvalues, threshold=0.0, ax=None, *, bad=None):
    """Draw eigenvalues in the plane, the forbidden half-line, and who stands on it.

    Parameters
    ----------
    eigenvalues : array or Tensor, shape (n,) or (d, d)
        Eigenvalues, real or complex; of a square matrix they are computed.
    threshold : float, default 0.0
        λ.  Real eigenvalues below it are reached in pairs only.
    ax : matplotlib Axes, optional
    bad : array of bool, shape (n,), optional
        Which eigenvalues to mark.  Default: the real ones below λ that occur an odd
        number of times (to 1e-8 of the largest).

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``eigenvalues`` is neither a list of numbers nor a square matrix, or
        ``bad`` has another length.

    Examples
    --------
    >>> import secondorder as so
    >>> ax = so.plot.spectrum([-1.0, 2.0, 0.5 + 1j, 0.5 - 1j], threshold=-0.613)
    >>> [text.get_text() for text in ax.get_legend().get_texts()][-1]
    'out of reach (1)'
    """
    values = _eigenvalues(eigenvalues)
    bad = _unpaired(values, threshold) if bad is None else np.asarray(bad, dtype=bool)
    if bad.shape != values.shape:
        raise ValueError(
            f"`bad` must have one entry per eigenvalue, shape {values.shape}; got "
            f"{bad.shape}. Leave it out to have them found."
        )
    ax = axes(ax)
    reach = 1.15 * max(np.abs(values).max(), abs(threshold), 1.0)
    ax.axhline(0, color=NEUTRAL, lw=0.6)
    ax.axvline(0, color=NEUTRAL, lw=0.6)
    if np.isfinite(threshold):
        name = f"in pairs only: below λ = {threshold:.3f}".replace("-", "−")
        ax.plot(
            [-reach, threshold], [0, 0], color=BAD, lw=5, alpha=0.35, label=name,
            solid_capstyle="butt",
        )  # fmt: skip
        ax.plot(threshold, 0, marker="|", color=BAD, ms=14, mew=2)
    good = values[~bad]
    ax.plot(good.real, good.imag, "o", color=GOOD, ms=5, label=f"fine ({len(good)})")
    ax.plot(
        values[bad].real, values[bad].imag, "X", color=BAD, ms=10, mec="k",
        label=f"out of reach ({bad.sum()})",
    )  # fmt: skip
    # Room above for the legend: no corner is free of eigenvalues.
    ax.set(xlim=(-reach, reach), ylim=(-reach, 1.5 * reach))
    ax.set(xlabel="Re μ", ylabel="Im μ", aspect="equal")
    return _legend(ax, loc="upper center")


def discrete_branches(
    theta, response, critical_points, critical_values, ax=None, *, label=None
):
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
    theta, response = _pair("theta", theta, "response", response)
    points, values = _pair(
        "critical_points", critical_points, "critical_values", critical_values
    )
    ax = axes(ax)
    edges = [-np.inf, *points, np.inf]
    for k, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        last = k == len(points)
        inside = (theta >= low) & (theta <= high)
        t, p = theta[inside], response[inside]
        if np.isfinite(low):  # join the branches exactly where they meet
            t, p = np.append(points[k - 1], t), np.append(values[k - 1], p)
        if np.isfinite(high):
            t, p = np.append(t, points[k]), np.append(p, values[k])
        if last:
            ax.plot(t, p, color=GOOD, lw=2.6, label="branch that becomes the ODE")
        else:
            name = None if k else "other branches"
            ax.plot(t, p, color=COLORS[3], lw=1.4, ls="--", label=name)
    if len(values):
        ax.axhline(values[-1], color=GOOD, lw=0.9, ls=":")
        ax.plot(points, values, "o", color="k", ms=4, label="critical points")
        text = f"λ = {values[-1]:.3f}".replace("-", "−")
        ax.annotate(
            text, (0, values[-1]), (4, -11), xycoords=("axes fraction", "data"),
            textcoords="offset points", color=GOOD, fontsize="small",
            bbox={"fc": "w", "ec": "none", "pad": 0.5, "alpha": 0.8},
        )  # fmt: skip
    ax.axhline(0, color=NEUTRAL, lw=0.6)
    # The outer branches grow like θ^N: keep the oscillating part in view.
    height = 1.4 * max(np.abs(values).max(initial=0), 1.0)
    ax.set(xlabel="θ of one layer", ylabel="P(θ)", ylim=(-height, height))
    ax.margins(x=0)
    return _legend(ax, title=label)


def representable_probability(
    epsilon, probability, ax=None, *, first_order=None, draws=None
):
    """Draw the fraction of random matrices that are representable, against ε/T.

    Parameters
    ----------
    epsilon : array or Tensor, shape (n,)
        ε/T.
    probability : dict of str to sequence, each of shape (n,)
        One curve per ensemble.
    ax : matplotlib Axes, optional
    first_order : dict of str to float, optional
        The same for ẋ = θx, drawn at the left edge.
    draws : int, optional
        Matrices per point; draws two standard errors around each curve.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a curve does not have one number per ε.

    Examples
    --------
    >>> from secondorder.plot.linear import representable_probability
    >>> ax = representable_probability([0.1, 1, 10], {"d = 2": [0.40, 0.89, 0.98]})
    >>> ax.get_xscale()
    'log'
    """
    ax = axes(ax)
    for index, (name, values) in enumerate(probability.items()):
        where, values = _pair("epsilon", epsilon, f"probability[{name!r}]", values)
        style = look(index)
        ax.semilogx(where, values, label=name, ms=4, **style)
        if draws:
            error = 2 * np.sqrt(values * (1 - values) / draws)
            color = style["color"]
            ax.fill_between(
                where, values - error, values + error, color=color, alpha=0.15, lw=0
            )
        if first_order and name in first_order:
            ax.plot(
                0, first_order[name], transform=ax.get_yaxis_transform(), ls="none",
                marker=style["marker"], color=style["color"], mfc="w", clip_on=False,
                label="first order" if index == 0 else None,
            )  # fmt: skip
    ax.set(xlabel="ε / T", ylabel="probability of being representable")
    ax.set_ylim(0, 1.05)
    ax.grid(alpha=0.3)
    return _legend(ax, loc="lower right")


def training_curves(losses, floors=None, ax=None):
    """Draw losses over training steps, each with the floor it cannot pass.

    Parameters
    ----------
    losses : dict of str to sequence, shape (n,)
        ‖Ψ(θ_k) − D‖ for each model.
    floors : dict of str to float, optional
        For the same names, the floors of the theory; a floor 0 is not drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a floor belongs to no loss.

    Examples
    --------
    >>> from secondorder.plot.linear import training_curves
    >>> ax = training_curves({"first order": [2.0, 1.2, 1.1]}, {"first order": 1.0})
    >>> ax.get_yscale()
    'log'
    """
    floors = floors or {}
    if unknown := set(floors) - set(losses):
        raise ValueError(
            f"`floors` must belong to curves of `losses`; got {sorted(unknown)}, "
            f"allowed are {sorted(losses)}. Use the same names in both."
        )
    ax = axes(ax)
    for index, (name, values) in enumerate(losses.items()):
        style = look(index)
        values = array(values)
        ax.semilogy(
            np.arange(len(values)), values, label=name, ms=5,
            markevery=max(len(values) // 8, 1), **style,
        )  # fmt: skip
        if floors.get(name, 0) > 0:
            ax.axhline(floors[name], color=style["color"], ls=":", lw=1.6)
            ax.annotate(
                f"floor {floors[name]:.3f}", (1, floors[name]), (-4, -11),
                xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", fontsize="small", color=style["color"],
            )  # fmt: skip
    ax.set(xlabel="training step", ylabel="‖Ψ(θ) − D‖")
    ax.margins(x=0.02)
    return _legend(ax)


def _pair(first, x, second, y):
    """Return two sequences of numbers of one length, as arrays."""
    x, y = array(x), array(y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"`{second}` must have one number for each of `{first}`, both of shape "
            f"(n,); got shapes {y.shape} and {x.shape}. Flatten them, or draw one "
            "curve at a time."
        )
    return x, y


def _eigenvalues(values):
    """Return complex eigenvalues (n,), also of a square matrix."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    values = np.asarray(values, dtype=complex)
    if values.ndim == 2 and values.shape[0] == values.shape[1] and values.size:
        real = values.real if not values.imag.any() else values
        values = np.linalg.eigvals(real).astype(complex)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            "`eigenvalues` must be numbers (n,) or a square matrix (d, d); got shape "
            f"{values.shape}."
        )
    return values


def _unpaired(values, threshold):
    """Return a mask of the real values below the threshold that occur oddly often."""
    close = 1e-8 * np.abs(values).max()
    real = (np.abs(values.imag) <= close) & (values.real < threshold - close)
    same = np.abs(values[:, None] - values[None, :]) <= close
    return real & (same.sum(1) % 2 == 1)


def _legend(ax, **options):
    """Add a legend if anything has a name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", **options)
    return ax
