"""What a classifier says of the plane at each depth of its flow.

A flow x ↦ x(t) moves the points, and a readout tells classes apart where they arrive.
Two pictures of the same thing: among the states at depth t the readout's regions stand
still and the points move; among the inputs the points stand still and the regions,
{x : readout(x(t)) = k}, move.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from .states import is_solved, number_of
from .style import MARKERS, Array, Numbers, array, number, pale, palette, size_of
from .vectors import Interval, around, mesh, resolution
from .views import grid_of_axes

Readout = Callable[..., Any]


def decision_regions(
    model: Any,
    x: Numbers,
    y: Numbers,
    depths: int | Sequence[float] = 4,
    ax: Sequence[Axes] | NDArray[Any] | None = None,
    *,
    readout: Readout | None = None,
    among: str = "states",
    points: int = 121,
    time: str = "t",
    **style: Any,
) -> NDArray[Any]:
    """Draw points at several depths, over the regions in which the readout sees them.

    Parameters
    ----------
    model : Module
        A flow with ``trajectory(x)``, such as ``SecondOrderODE`` or ``MomentumNet``,
        or an ``nn.Sequential`` that has one: what is before it maps the inputs to
        states, what is after it is the readout.
    x : Tensor or array, shape (n, 2)
        Inputs.
    y : Tensor or array, shape (n,)
        Their classes: 0, 1, …, or for a single logit any two numbers.
    depths : int or sequence of float, default 4
        So many evenly spread ones, or these; the nearest that the flow records are
        drawn, and named in the titles.
    ax : sequence of matplotlib Axes, optional
        One per depth.
    readout : callable, optional
        Maps states (m, d) to logits (m, classes), or (m, 1) or (m,) for two classes.
    among : "states" or "inputs", default "states"
        Draw the plane of states, where the points move, or the plane of inputs, where
        the regions do.  States of more than two coordinates have the second only.
    points : int, default 121
        Points of the grid along each axis.
    time : str, default "t"
        What the titles call the depth.
    **style
        Properties of the points (matplotlib's ``scatter``), such as ``s`` or ``alpha``.

    Returns
    -------
    array of matplotlib Axes
        One per depth; the colour of the ground is the class that is seen there.

    Raises
    ------
    ValueError
        If the model has no flow or no readout, inputs or states are not points of a
        plane, or the logits do not fit the classes.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> x, y = so.data.nested_rings(200, 2, torch.Generator().manual_seed(0))
    >>> flow = so.SecondOrderODE(so.Autonomous(torch.nn.Linear(2, 2)), steps=4)
    >>> model = torch.nn.Sequential(flow, torch.nn.Linear(2, 1))
    >>> [ax.get_title() for ax in so.plot.decision_regions(model, x, y, [0, 0.5, 1])]
    ['t = 0', 't = 0.5', 't = 1']
    """
    inputs, labels = array(x, "x"), array(y, "y").squeeze()
    if inputs.ndim != 2 or inputs.shape[1] != 2 or not len(inputs):
        raise ValueError(
            f"`x` must be points of a plane, shape (n, 2), got {inputs.shape}"
        )
    if labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"`y` must have one class per point, shape {inputs.shape[:1]}; got "
            f"{labels.shape}"
        )
    if among not in ("states", "inputs"):
        raise ValueError(f'`among` must be "states" or "inputs", got {among!r}')
    encode, flow, read = parts(model, readout)
    points = resolution(points)

    def follow(where: Array) -> tuple[Array, torch.Tensor]:
        return path(flow, encode(torch.as_tensor(where).to(number_of(model))))

    with torch.no_grad(), evaluating(model):
        t, states = follow(inputs)
        chosen = nearest(t, depths)
        seen, d = states[chosen].cpu().double().numpy(), states.shape[-1]
        if among == "states" and d != 2:
            raise ValueError(
                f"`model` has states of {d} coordinates, which have no plane; draw the "
                'regions among="inputs"'
            )
        frames = [seen[k] if among == "states" else inputs for k in range(len(chosen))]
        limits = [square(frame) for frame in frames]
        grids = [
            np.stack([side.ravel() for side in mesh(*both, points)], axis=-1)
            for both in limits
        ]
        if among == "states":
            asked = [torch.as_tensor(grid).to(states) for grid in grids]
        else:
            asked = list(follow(grids[0])[1][chosen])
        kinds, classes = labels, []
        for one in asked:
            kinds, found = classify(read, one, labels)
            classes.append(found)
    panels = grid_of_axes(len(chosen), ax)
    colors = palette(len(kinds))
    ground = ListedColormap([pale(color) for color in colors])
    look: dict[str, Any] = {"s": size_of("lines.markersize", 3) ** 2, "zorder": 2}
    look |= {"linewidth": size_of("lines.linewidth", 0.3), "edgecolor": "white"}
    look["rasterized"] = len(inputs) > 5000
    for panel, index, frame, both, found in zip(
        panels, chosen, frames, limits, classes, strict=True
    ):
        sides = [np.linspace(*limit, points) for limit in both]
        panel.pcolormesh(
            *sides, found.reshape(points, points), cmap=ground, vmin=-0.5,
            vmax=len(kinds) - 0.5, shading="nearest", rasterized=True, zorder=-1,
        )  # fmt: skip
        for k, kind in enumerate(kinds):
            mine = frame[labels == kind]
            drawn = {**look, "color": colors[k], "marker": MARKERS[k % len(MARKERS)]}
            panel.scatter(*mine.T, **drawn | style, label=f"class {kind:g}")
        names = ("x₁", "x₂") if among == "states" else ("x₁(0)", "x₂(0)")
        panel.set(xlim=both[0], ylim=both[1], xlabel=names[0], ylabel=names[1])
        panel.set_title(f"{time} = {number(t[index], 3).rstrip('0').rstrip('.')}")
        if np.isclose(np.ptp(both[0]), np.ptp(both[1])):
            panel.set_aspect("equal")
    if ax is None:
        figure = panels[0].figure
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center",
            ncols=8, fontsize="small", markerscale=1.5,
        )  # fmt: skip
        figure.set_figheight(figure.get_figheight() + 0.03 * plt.rcParams["font.size"])
    return panels


def parts(model: Any, readout: Readout | None) -> tuple[Readout, Any, Readout]:
    """What comes before the flow of a model, the flow, and the readout after it."""
    encode: Readout = torch.nn.Identity()
    flow, rest = model, readout
    if isinstance(model, torch.nn.Sequential) and not hasattr(model, "trajectory"):
        layers = list(model)
        flows = [k for k, layer in enumerate(layers) if hasattr(layer, "trajectory")]
        if len(flows) != 1:
            raise ValueError(
                f"`model` must have one flow, a layer with `trajectory`; found "
                f"{len(flows)} in {type(model).__name__}"
            )
        encode, flow = model[: flows[0]], layers[flows[0]]
        if readout is None and flows[0] + 1 < len(layers):
            rest = model[flows[0] + 1 :]
    if not callable(getattr(flow, "trajectory", None)):
        raise ValueError(
            "`model` must have `trajectory(x)`, as SecondOrderODE and MomentumNet, or "
            f"be an nn.Sequential with such a layer; got {type(model).__name__}"
        )
    if rest is None:
        raise ValueError(
            "`readout` is missing: give what maps states to logits, or "
            "nn.Sequential(flow, readout) as `model`"
        )
    return encode, flow, rest


def path(flow: Any, start: torch.Tensor) -> tuple[Array, torch.Tensor]:
    """Depths (n,) and the states (n, samples, d) of a flow."""
    found = flow.trajectory(start)
    if is_solved(found):
        return array(found.t, "t"), found.x
    states = found[0]  # of layers, which are counted
    return np.arange(len(states), dtype=float), states


def nearest(t: Array, depths: int | Sequence[float]) -> list[int]:
    """The indices of the recorded depths that are drawn."""
    if isinstance(depths, (int, np.integer)) and not isinstance(depths, bool):
        if depths < 1:
            raise ValueError(f"`depths` must be at least 1, got {depths}")
        wanted = np.linspace(t[0], t[-1], int(depths)) if depths > 1 else t[-1:]
    else:
        wanted = array(depths, "depths")
    slack = 1e-6 * np.abs(t).max()
    outside = (wanted < t.min() - slack) | (wanted > t.max() + slack)
    if wanted.ndim != 1 or not wanted.size or outside.any():
        raise ValueError(
            f"`depths` must lie between {t.min():g} and {t.max():g}, got {depths!r}"
        )
    return [int(np.abs(t - depth).argmin()) for depth in wanted]


def square(frame: Array) -> tuple[Interval, Interval]:
    """Limits around points (n, 2): a square, unless they would shrink to a line."""
    limits = around(frame[:, 0], 0.08), around(frame[:, 1], 0.08)
    sizes = np.ptp(limits, axis=1)
    if sizes.max() > 5 * sizes.min():
        return limits
    half = sizes.max() / 2
    (x, y) = (float(middle) for middle in np.mean(limits, axis=1))
    return (x - half, x + half), (y - half, y + half)


def classify(read: Readout, states: torch.Tensor, labels: Array) -> tuple[Array, Array]:
    """The classes, and the index of the one that the readout sees at states (m, d)."""
    logits = array(read(states), "readout")
    kinds = np.unique(labels)
    if logits.shape in ((len(states),), (len(states), 1)):
        if len(kinds) > 2:
            raise ValueError(
                f"`readout` returns one logit, which tells two classes apart; `y` has "
                f"{len(kinds)}"
            )
        if np.isin(kinds, [0, 1]).all():
            kinds = np.array([0.0, 1.0])  # one of them may have no point
        return kinds, (logits.reshape(-1) > 0).astype(float)
    if logits.ndim != 2 or len(logits) != len(states):
        raise ValueError(
            f"`readout` must map states {tuple(states.shape)} to logits "
            f"({len(states)}, classes), got {logits.shape}"
        )
    if not np.isin(kinds, np.arange(logits.shape[1])).all():
        raise ValueError(
            f"`y` must be classes 0, …, {logits.shape[1] - 1}, as many as the readout "
            f"has logits; got {kinds}"
        )
    return np.arange(float(logits.shape[1])), logits.argmax(1).astype(float)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, without dropout, as long as this lasts."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
