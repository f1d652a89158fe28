"""Linear maps as targets: which are reached, how often, and how close one gets.

Below the threshold λ of a model, real eigenvalues must come in pairs.  A map that
breaks the rule is out of reach, and the loss of training stops at a floor.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, section 4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .style import (
    BAD,
    GOOD,
    NEUTRAL,
    Numbers,
    array,
    axes,
    few_labels,
    key,
    legend,
    line_properties,
    look,
    mark_height,
    number,
    pair,
    size_of,
    width_of,
)


def spectrum(
    eigenvalues: Numbers,
    threshold: float = 0.0,
    ax: Axes | None = None,
    *,
    bad: ArrayLike | None = None,
    starts: Mapping[str, float] | None = None,
    **style: Any,
) -> Axes:
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
    starts : dict of str to float, optional
        λ by the name of a start: an eigenvalue out of reach from ``threshold`` takes
        the colour of the first start that reaches it.
    **style
        Properties of the markers, such as ``markersize`` or ``alpha``.

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
    alone = np.asarray(_unpaired(values, threshold) if bad is None else bad, dtype=bool)
    if alone.shape != values.shape:
        raise ValueError(
            f"`bad` must have one entry per eigenvalue, shape {values.shape}, got "
            f"{alone.shape}; leave it out to have them found"
        )
    ax = axes(ax)
    finite = np.isfinite(threshold)
    reach = 1.15 * max(np.abs(values).max(), abs(threshold) if finite else 0.0, 1.0)
    thin: dict[str, Any] = {"color": NEUTRAL, "lw": size_of("lines.linewidth", 0.6)}
    ax.axhline(0, **thin)
    ax.axvline(0, **thin)
    if finite:
        ax.plot(
            [-reach, threshold], [0, 0], color=BAD, alpha=0.35,
            lw=size_of("lines.linewidth", 5),
            solid_capstyle="butt",
            label=f"in pairs only: below λ = {number(threshold)}",
        )  # fmt: skip
        end: dict[str, Any] = {"ms": size_of("lines.markersize", 14), "mew": 2}
        ax.plot(threshold, 0, marker="|", color=BAD, **end)
    opened = np.zeros_like(alone)
    style = line_properties(style)

    def dots(which: NDArray[np.bool_], name: str, size: float, **look: Any) -> None:
        at, size = values[which], size_of("lines.markersize", size)
        look |= {"linestyle": "", "markersize": size}
        ax.plot(at.real, at.imag, **look | style, label=f"{name} ({len(at)})")

    for index, (name, level) in enumerate((starts or {}).items()):
        reached = alone & ~opened & (values.real >= level)
        opened |= reached
        usual = look(index + 2)
        dots(
            reached,
            name,
            10,
            color=usual["color"],
            marker=usual["marker"],
            markeredgecolor="k",
        )
    dots(~alone, "fine", 5, color=GOOD, marker="o")
    crossed = {"color": BAD, "marker": "X", "markeredgecolor": "k"}
    dots(alone & ~opened, "out of reach", 10, **crossed)
    # Room above for the legend: no corner is free of eigenvalues.
    ax.set(xlim=(-reach, reach), ylim=(-reach, 1.5 * reach))
    ax.set(xlabel="Re μ", ylabel="Im μ", aspect="equal")
    return legend(ax, loc="upper center") if width_of(ax) > 2.6 else key(ax)


def representable_probability(
    epsilon: Numbers,
    probability: Mapping[str, Numbers],
    ax: Axes | None = None,
    *,
    first_order: Mapping[str, float] | None = None,
    draws: int | None = None,
    exact: Mapping[str, Numbers] | None = None,
    **style: Any,
) -> Axes:
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
    exact : dict of str to sequence, optional
        Curves known in closed form, for some of the same names: dashed, on top.
    **style
        Properties of all lines, such as ``linewidth``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a curve does not have one number per ε.

    Examples
    --------
    >>> from secondorder.plot.targets import representable_probability
    >>> ax = representable_probability([0.1, 1, 10], {"d = 2": [0.40, 0.89, 0.98]})
    >>> ax.get_xscale()
    'log'
    """
    ax, style = axes(ax), line_properties(style)
    dot = size_of("lines.markersize", 4)
    for index, (name, values) in enumerate(probability.items()):
        where, share = pair("epsilon", epsilon, f"probability[{name!r}]", values)
        usual: dict[str, Any] = {**look(index), "markersize": dot, **style}
        ax.semilogx(where, share, label=name, **usual)
        color = usual["color"]
        if draws:
            error = 2 * np.sqrt(share * (1 - share) / draws)
            ax.fill_between(
                where, share - error, share + error, color=color, alpha=0.15, lw=0
            )
        if first_order and name in first_order:
            ax.plot(
                0, first_order[name], transform=ax.get_yaxis_transform(), ls="none",
                marker=usual["marker"], color=color, mfc="w", clip_on=False,
                label="first order" if index == 0 else None,
            )  # fmt: skip
    thin = size_of("lines.linewidth", 1.2)
    for name, values in (exact or {}).items():
        where, share = pair("epsilon", epsilon, f"exact[{name!r}]", values)
        ax.semilogx(where, share, "k--", lw=thin, zorder=4, label=f"{name}, exact law")
    ax.set(xlabel="ε / T", ylabel="probability of being representable")
    ax.set_ylim(0, 1.05)
    few_labels(ax)
    ax.grid(alpha=0.3)
    return legend(ax, loc="lower right")


def training_curves(
    losses: Mapping[str, Numbers],
    floors: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw losses over training steps, each with the floor it cannot pass.

    Parameters
    ----------
    losses : dict of str to sequence, shape (n,)
        ‖Ψ(θ_k) − D‖ for each model.
    floors : dict of str to float, optional
        For the same names, the floors of the theory; a floor 0 is not drawn.
    ax : matplotlib Axes, optional
    **style
        Properties of all curves, such as ``linewidth``.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If a floor belongs to no loss.

    Examples
    --------
    >>> from secondorder.plot.targets import training_curves
    >>> ax = training_curves({"first order": [2.0, 1.2, 1.1]}, {"first order": 1.0})
    >>> ax.get_yscale()
    'log'
    """
    floors = floors or {}
    if unknown := set(floors) - set(losses):
        raise ValueError(
            f"`floors` must belong to curves of `losses`, got {sorted(unknown)}, "
            f"allowed are {sorted(losses)}; use the same names in both"
        )
    ax, style = axes(ax), line_properties(style)
    dot, wide = size_of("lines.markersize", 5), size_of("lines.linewidth", 1.6)
    for index, (name, values) in enumerate(losses.items()):
        loss = array(values)
        usual: dict[str, Any] = {**look(index), "markersize": dot}
        usual |= {"markevery": max(len(loss) // 8, 1)} | style
        ax.semilogy(np.arange(len(loss)), loss, **usual, label=name)
        if floors.get(name, 0) > 0:
            ax.axhline(floors[name], color=usual["color"], ls=":", lw=wide)
            mark_height(ax, floors[name], usual["color"], "floor")
    ax.set(xlabel="training step", ylabel="‖Ψ(θ) − D‖")
    ax.margins(x=0.02)
    few_labels(ax)
    return legend(ax)


def _eigenvalues(data: Numbers) -> NDArray[np.complex128]:
    """Return complex eigenvalues (n,), also of a square matrix."""
    if isinstance(data, Tensor):
        data = data.detach().cpu().numpy()
    values = np.asarray(data, dtype=complex)
    if values.ndim == 2 and values.shape[0] == values.shape[1] and values.size:
        real = values.real if not values.imag.any() else values
        values = np.linalg.eigvals(real).astype(complex)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            "`eigenvalues` must be numbers (n,) or a square matrix (d, d), got shape "
            f"{values.shape}"
        )
    return values


def _unpaired(values: NDArray[np.complex128], threshold: float) -> NDArray[np.bool_]:
    """Return a mask of the real values below the threshold that occur oddly often."""
    close = 1e-8 * np.abs(values).max()
    real = (np.abs(values.imag) <= close) & (values.real < threshold - close)
    same = np.abs(values[:, None] - values[None, :]) <= close
    return real & (same.sum(1) % 2 == 1)
