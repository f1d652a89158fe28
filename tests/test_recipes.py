"""The recipes of CONTRIBUTING.md, each followed step by step."""

import functools
import math
import re
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from problems import gradients, mlp, noise, worst
from test_notebooks import assert_finished, execute
from torch import nn

import secondorder as so
from secondorder import checks
from secondorder.cli import orders
from secondorder.gradients import GRADIENTS, find_gradient
from secondorder.methods import Method
from secondorder.models.invert import invert, run_reversibly
from secondorder.plan import FLOWS, Damp, Drift, Flow, Kick, Record, walk
from secondorder.plan.flows import columns
from secondorder.plot.style import COLORS, axes, pair
from secondorder.solution import DenseOutput, Solution, Stats
from secondorder.systems.numbers import register_number

mpl.use("Agg")

CONTRIBUTING = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
T = torch.linspace(0, 1, 6, dtype=torch.float64)
START = (noise(3, 2, dtype=torch.float64), noise(3, 2, dtype=torch.float64, seed=2))


def pendulum(damping=0.3, **how):
    return so.Newton(lambda t, x: -torch.sin(x), damping=damping, **how)


def measured_order(method, system, steps=(20, 40)):
    """Slope of the error of (x, v) at t = 1 between two numbers of steps."""
    exact = so.odeint(system, START, T, method="kahan_li8", step_size=0.01)
    errors = [
        worst([*so.odeint(system, START, T[[0, -1]], method=method, step_size=1 / n)],
              [exact.x[[0, -1]], exact.v[[0, -1]]])
        for n in steps
    ]  # fmt: skip
    return math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])


def test_every_recipe_is_followed_here():
    recipes = re.findall(r"^## Add an? (.*)$", CONTRIBUTING, flags=re.M)
    here = [name for name in globals() if name.startswith("test_recipe_")]
    for recipe in recipes:
        start = "test_recipe_" + recipe.replace(" ", "_")
        assert [name for name in here if name.startswith(start)], recipe
    assert len(recipes) == 5


# A method: a table of numbers.

FLOWS_OF_RUTH = (("A", 0.5), ("B", 1.0), ("A", 0.5))


def test_recipe_method_of_numbers(monkeypatch, capsys):
    mine = so.Splitting(order=2, flows=FLOWS_OF_RUTH)  # step 1
    assert measured_order(mine, pendulum()) == pytest.approx(2, rel=0.05)
    model = so.SecondOrderODE(lambda t, x: -x, method=mine)
    assert model.inverse(model.state(START[0]))[0].equal(START[0])

    mine = replace(mine, name="leapfrog", summary="a method for this test")  # step 2
    monkeypatch.setitem(so.METHODS, mine.name, mine)
    assert orders.main(["--only", "leapfrog"]) == 0  # step 3
    assert "a method for this test" in capsys.readouterr().out
    for gradient in ("backprop", "checkpoint", "reversible"):
        found = so.odeint(pendulum(), START, T, method="leapfrog", gradient=gradient)
        assert found.x.shape == (6, 3, 2)
    wrong = replace(mine, order=4)
    monkeypatch.setitem(so.METHODS, mine.name, wrong)
    assert orders.main(["--only", "leapfrog"]) == 1  # as the recipe promises


def friction(n, fraction):
    """L: p ← e^{−λs} p, the damping alone."""
    z = fraction * n.h * (n.damping / n.mass)
    return columns(lambda g: [Damp(g)], n.like, torch.exp(-z))


def free_flight(n, fraction):
    """F: x ← x + s p/m, the flight alone."""
    return columns(lambda w: [Drift(w)], n.like, fraction * n.h / n.mass)


def test_recipe_method_with_a_flow_of_its_own(monkeypatch):
    monkeypatch.setitem(FLOWS, "L", Flow(friction))
    monkeypatch.setitem(FLOWS, "F", Flow(free_flight, time=1.0))
    half = (("L", 0.5), ("F", 0.5))
    mine = so.Splitting(order=2, flows=(*half, ("B", 1.0), *half[::-1]))
    order = measured_order(mine, pendulum(mass=0.7))
    assert order == pytest.approx(2, rel=0.05)


# A method: a new kind.


@dataclass(frozen=True)
class Ralston:
    """Ralston's method of order 2 on the pair (x, v)."""

    name: str = "ralston"

    order = 2
    summary = "a method for this test"
    options = frozenset({"step_size"})
    gradients = frozenset({"backprop"})
    takes_velocity = None
    per_sample_times = False
    breakpoints = False
    events = ""

    def step(self, problem):
        def move(t, h, state):
            first = problem.system(t, state, *problem.args)
            middle = [s + 2 / 3 * h * d for s, d in zip(state, first, strict=True)]
            second = problem.system(t + 2 / 3 * h, (*middle,), *problem.args)
            slopes = [(a + 3 * b) / 4 for a, b in zip(first, second, strict=True)]
            return tuple(s + h * d for s, d in zip(state, slopes, strict=True)), None

        return move

    def solve(self, problem, gradient, options):
        counts = so.plan.step_counts(problem.t, options.step_size)
        states = [(problem.x, problem.v)]
        for i, count in enumerate(counts):
            states.append(self.along(problem, problem.t[i : i + 2], count, states[-1]))
        xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
        dense = DenseOutput(self, problem, problem.t, xs, vs, tuple(counts))
        stats = Stats(2 * sum(counts), accepted=sum(counts))
        return Solution(problem.t, xs, vs, stats, dense)

    def between(self, dense, i, times):
        left = (dense.x[i], dense.v[i])
        found = [
            self.along(dense.problem, torch.stack([dense.t[i], time]), 20, left)
            for time in times
        ]
        x, v = (torch.stack(parts) for parts in zip(*found, strict=True))
        return x, v

    def along(self, problem, t, count, state):
        move, h = self.step(problem), (t[1] - t[0]) / count
        for k in range(count):
            state, _ = move(t[0] + k * h, h, state)
        return state


def test_recipe_method_of_a_new_kind(monkeypatch):
    named = {n for n in vars(Method) if not n.startswith("_")}
    assert named <= {*dir(Ralston), *Ralston.__dataclass_fields__}  # step 1
    mine = Ralston()
    assert measured_order(mine, pendulum()) == pytest.approx(2, rel=0.05)  # step 3
    solution = so.odeint(pendulum(), START, T, method=mine, step_size=0.01)
    exact = so.odeint(pendulum(), START, T, method="kahan_li8", step_size=0.01)
    for found, wanted in zip(solution(0.33), exact(0.33), strict=True):  # step 2
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    net = so.SecondOrderODE(so.Autonomous(mlp(2)), method=mine, steps=20)
    plain = so.SecondOrderODE(net.field, method="verlet", steps=20)
    x = noise(3, 2)
    pairs = gradients(net, x), gradients(plain, x)
    assert worst(*pairs) < 1e-2
    with pytest.raises(ValueError, match='use "backprop"'):
        so.odeint(pendulum(), START, T, method=mine, gradient="reversible")
    with pytest.raises(ValueError, match="no events"):
        so.odeint_event(pendulum(), START, 0.0, method=mine, step_size=0.1,
                        event_fn=lambda t, x, v: x[0, 0])  # fmt: skip
    monkeypatch.setitem(so.ADAPTIVE, mine.name, mine)  # step 4
    again = so.odeint(pendulum(), START, T, method="ralston", step_size=0.01)
    assert again.x.equal(solution.x)


# A gradient route.


def truncated(plan, field, x, v, args=(), *, kicks=10):
    """Backprop through the last kicks only."""
    fresh = [i for i, m in enumerate(plan) if isinstance(m, Kick) and m.fresh]
    cut = fresh[-kicks] if 0 < kicks <= len(fresh) else 0
    with torch.no_grad():
        early, (x_cut, v_cut, e) = walk(plan[:cut], field, x, v, args)
    if cut == 0:
        x_cut, v_cut = x, v
    return [*early, *walk(plan[cut:], field, x_cut, v_cut, args, e)[0]]


class Spring(nn.Module):
    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, t, x):
        return -self.stiffness * x


def stiffness_gradient(gradient, method="verlet"):
    """Of a loss at t = 1, five steps of Verlet or whatever is adapted."""
    field = Spring()
    x, _ = so.odeint(so.Newton(field), START, T, method=method, gradient=gradient)
    (found,) = torch.autograd.grad(x[-1].square().sum(), field.stiffness)
    return found


def test_recipe_gradient_route(monkeypatch):
    exact = stiffness_gradient("backprop")
    assert torch.equal(stiffness_gradient(truncated), exact)  # step 2
    few = stiffness_gradient(functools.partial(truncated, kicks=2))
    assert 0 < (few / exact).item() < 1
    report = so.check_gradient(
        so.Newton(Spring()), START, T, gradients=["backprop", truncated]
    )
    assert report["truncated"].errors["parameters"] < 1e-12
    assert "truncated" in str(report)

    route = so.Gradient("truncated", truncated, allowed={"kicks": checks.whole})
    monkeypatch.setitem(GRADIENTS, route.name, route)  # step 3
    with pytest.raises(ValueError, match="cannot be undone|undoes steps"):
        stiffness_gradient("truncated")
    for kind in (so.Splitting, type(so.ADAPTIVE["adaptive"])):  # step 4
        monkeypatch.setattr(kind, "gradients", kind.gradients | {route.name})
    assert torch.equal(stiffness_gradient("truncated"), exact)
    assert torch.equal(stiffness_gradient(route(kicks=2)), few)
    adapted = stiffness_gradient(route(kicks=10_000), "adaptive")
    torch.testing.assert_close(adapted, stiffness_gradient("backprop", "adaptive"))
    with pytest.raises(ValueError, match="`kicks` must be"):
        route(kicks=-1)
    with pytest.raises(TypeError, match="`moves` is no option"):
        route(moves=1)
    assert "truncated" in str(so.check_gradient(so.Newton(Spring()), START, T))


# A model.


class LeapfrogNet(nn.Module):
    """Layers x ← x + v/2, v ← γ v + h_n f_n(x), x ← x + v/2 with learned h_n."""

    def __init__(self, blocks, gamma=0.9, gradient="reversible"):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.steps = nn.Parameter(torch.linspace(0.1, 0.3, len(blocks)))
        checks.momentum(gamma)
        register_number(self, "gamma", gamma)
        self.gradient = find_gradient(gradient, GRADIENTS)

    def plan(self, x):
        layers = zip(range(len(self.blocks)), self.steps.unbind(), strict=True)
        half, damp = Drift(0.5), Damp(self.gamma)
        return tuple(
            m for n, h in layers for m in (half, damp, Kick(h, time=n), half)
        )  # fmt: skip

    def force(self, n, x, *args):
        return self.blocks[n](x, *args)

    def forward(self, x, *args):
        plan, v = (*self.plan(x), Record()), torch.zeros_like(x)
        return self.gradient.run(plan, self.force, x, v, args)[-1][0]

    def state(self, x, *args):
        return run_reversibly(self.plan(x), self.force, x, torch.zeros_like(x), args)

    def inverse(self, state, *args):
        return invert(self.plan(state[0]), self.force, state, args)


def test_recipe_model():
    blocks = [mlp(4, seed=n) for n in range(30)]
    net = LeapfrogNet(blocks, gamma=nn.Parameter(torch.tensor(0.9)))
    x = noise(5, 4)
    net.gradient = find_gradient("backprop", GRADIENTS)
    wanted = gradients(net, x)
    net.gradient = find_gradient(so.reversible(keep=3), GRADIENTS)
    assert worst(gradients(net, x), wanted) < 1e-4  # step 6; rounding of float32
    assert torch.equal(net.inverse(net.state(x))[0], x)
    back = net.inverse((*net.state(x),))  # from a plain pair, in floating point
    torch.testing.assert_close(back[0], x, rtol=0, atol=1e-3)


# A plot.


def energy(t, total, ax=None, *, label=None):
    """Draw an energy over time."""
    t, total = pair("t", t, "total", total)
    ax = axes(ax)
    ax.plot(t, total, color=COLORS[1], label=label)
    ax.set(xlabel="time t", ylabel="energy")
    return ax


def test_recipe_plot(monkeypatch):
    # Step 1: a function in a file of secondorder/plot/; step 2: its entry in PARTS.
    module = types.ModuleType("secondorder.plot.energies")
    module.energy = energy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(so.plot.PARTS, "energy", "energies")
    assert "energy" in dir(so.plot)

    x, v = so.odeint(pendulum(), START, T)
    total = (0.5 * v.square() - torch.cos(x)).sum((-2, -1))
    fig, ax = plt.subplots()  # step 3: what tests/plot/test_plots.py does with DRAW
    assert so.plot.energy(T, total, ax) is ax
    assert ax.has_data() and ax.get_xlabel() and ax.get_ylabel()
    assert plt.get_fignums() == [fig.number]
    assert so.plot.energy(T, total).figure is not fig


# A notebook.


# ipykernel and pyzmq leave sockets and event loops to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_recipe_notebook(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A small one"),
        nbformat.v4.new_code_cell(
            "%matplotlib inline\nimport torch, secondorder as so"
        ),
        nbformat.v4.new_code_cell(
            "t = torch.linspace(0, 1, 11)\n"
            "start = torch.ones(1), None\n"
            "x, v = so.odeint(so.SecondOrder(lambda t, x: -x), start, t)\n"
            "so.plot.trajectories(t, x);"
        ),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)  # step 1
    path = tmp_path / "05_small.ipynb"
    with pytest.raises(AssertionError, match="run it from top to bottom"):
        nbformat.write(notebook, path)
        assert_finished(path)
    execute(notebook)  # step 2, as `make notebooks` does
    nbformat.write(notebook, path)
    assert_finished(path)
