"""Every plot is listed, draws into the Axes it gets, and returns them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import secondorder as so
from secondorder.representability import Continuous, Discrete

t = torch.linspace(0, 1, 11)
x = torch.linspace(-1, 1, 5) * torch.cos(t).unsqueeze(1)  # (11, 5)
v = -torch.linspace(-1, 1, 5) * torch.sin(t).unsqueeze(1)
spring = so.Newton(lambda t, x: -4 * x, damping=0.5)
saddle = so.Newton(lambda t, x: x, damping=0.5)
theta = np.linspace(-40, 2, 50)
m, layers = Continuous(1.0), Discrete(4, 0.9)

DRAW = {
    "trajectories": lambda ax: so.plot.trajectories(t, x, ax),
    "phase_portrait": lambda ax: so.plot.phase_portrait(x, v, ax, system=spring),
    "plane": lambda ax: so.plot.plane(x, (0, 1), ax),
    "vector_field": lambda ax: so.plot.vector_field(spring, (-1, 1), (-2, 2), ax),
    "memory": lambda ax: so.plot.memory([1, 10], {"backprop": [1e3, 1e4]}, ax),
    "work_precision": lambda ax: so.plot.work_precision(
        {"verlet": ([10, 20], [1e-2, 2.5e-3])}, ax
    ),
    "response_curve": lambda ax: so.plot.response_curve(
        theta, m.response(theta), ax, threshold=m.threshold, minimiser=m.minimiser
    ),
    "threshold_curve": lambda ax: so.plot.threshold_curve([0.1, 1], [-0.01, -0.6], ax),
    "discrete_branches": lambda ax: so.plot.discrete_branches(
        theta,
        layers.response(theta),
        layers.critical_points,
        layers.critical_values,
        ax,
    ),
    "spectrum": lambda ax: so.plot.spectrum([-1.0, 1j, -1j], -0.6, ax),
    "representable_probability": lambda ax: so.plot.representable_probability(
        [0.1, 1], {"d = 2": [0.4, 0.9]}, ax, first_order={"d = 2": 0.4}, draws=10
    ),
    "training_curves": lambda ax: so.plot.training_curves(
        {"first": [2.0, 1.1], "second": [2.0, 0.4]}, {"first": 1.0, "second": 0.0}, ax
    ),
}

spring_path = so.odeint(spring, (torch.ones(1), None), t)
DRAW |= {
    "fixed_points": lambda ax: so.plot.fixed_points(spring, (-1, 1), ax=ax),
    "basins": lambda ax: so.plot.basins(spring, (-1, 1), (-2, 2), ax, points=5),
    "manifolds": lambda ax: so.plot.manifolds(saddle, (-1, 1), (-2, 2), ax, t1=2.0),
    "energy": lambda ax: so.plot.energy(
        spring_path, ax=ax, potential=lambda x: 2 * (x**2).sum(-1)
    ),
    "potential": lambda ax: so.plot.potential(
        lambda x: (x**2).sum(-1), (-1, 1), (-1, 1), ax=ax, points=11
    ),
    "losses": lambda ax: so.plot.losses([1.0, 0.5], ax),
    "spread": lambda ax: so.plot.spread([0, 1], [[1.0, 2.0], [2.0, 2.0]], ax),
}
DRAW |= {
    "fold": lambda ax: so.plot.fold([1.0, 0.0], [[1, -1], [0, 0]], ax, minimiser=0.0),
    "poincare": lambda ax: so.plot.poincare(spring_path, ax=ax, period=0.1),
}
# Listed with the plots, but they return numbers, or Axes of another number or kind.
DATA = {
    "animate",
    "interactive",
    "find_fixed_points",
    "palette",
    "space",
    "portraits",
    "decision_regions",
}


def test_every_plot_is_listed_and_tried():
    assert dir(so.plot) == sorted(so.plot.__all__) == sorted(DRAW.keys() | DATA)
    with pytest.raises(AttributeError, match="histogram"):
        so.plot.histogram  # noqa: B018


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_a_plot_draws_into_the_axes_it_gets_and_returns_them(draw, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("a plot called show"))
    fig, ax = plt.subplots()
    assert draw(ax) is ax
    assert plt.get_fignums() == [fig.number]
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.has_data()
    fig.canvas.draw()


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_without_axes_a_new_figure_is_made(draw):
    first, second = draw(None), draw(None)
    assert first.figure is not second.figure
