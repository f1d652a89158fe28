"""What a notebook shows of results: the numbers that a user would ask for."""

import xml.dom.minidom

import pytest
import torch

import secondorder as so
from secondorder import representability as rep


def page(value):
    """The HTML of a result, after a parser has read it."""
    html = value._repr_html_()
    xml.dom.minidom.parseString(f"<div>{html}</div>")
    return html


@pytest.mark.parametrize("method", ["verlet", "rkn8", "dopri5"])
def test_a_solution_tells_its_shape_its_times_and_its_cost(method):
    system = so.SecondOrder(lambda t, x: -x)
    start = torch.ones(3, 2, requires_grad=True), None
    solution = so.odeint(system, start, torch.linspace(0, 1, 11), method=method)
    html = page(solution)
    for text in ("(11, 3, 2)", "0 … 1", method, f">{solution.stats.evaluations}<"):
        assert text in html
    grids = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    assert "(2, 2), 0 … 3" in page(so.odeint(system, (torch.ones(2, 1), None), grids))


def test_a_verdict_says_why_and_a_witness_shows_its_matrix():
    D, m = torch.diag(torch.tensor([-0.5, 2.0])), rep.Continuous(1.0)
    witness = rep.represent(D, m)
    html = page(witness)
    assert f"{witness.theta[0, 0]:.5g}" in html and html.count("<tr>") == 2
    large = rep.represent(torch.eye(9), m)
    assert "<tr>" not in page(large) and "(9, 9)" in page(large)
    verdict = rep.is_representable(D, rep.FirstOrder())
    html = page(verdict)
    assert "<b>not representable</b>" in html and "-0.5" in html
    assert "<b>representable</b>" in page(rep.is_representable(D, m))


def pendulum(t, x):
    return -torch.sin(x)


SYSTEMS = [
    (so.SecondOrder(pendulum, 0.5), "ε ẍ + ẋ = f(t, x)", "epsilon=0.5", "pendulum"),
    (so.Newton(pendulum, damping=so.Positive(0.1)), "m ẍ + c ẋ = f(t, x)",
     "damping=0.1 (learned)", "pendulum"),
    (so.Newton(pendulum, stiffness=4.0), "m ẍ + c ẋ + K x = f(t, x)",
     "stiffness=4.0", "pendulum"),
    (so.Newton(pendulum, mass=2 * torch.eye(2)), "M ẍ + C ẋ = f(t, x)",
     "modes=(2, 2)", "pendulum"),
    (so.Newton(pendulum, mass=so.Positive(torch.eye(2))), "M ẍ + C ẋ = f(t, x)",
     "mass=tensor(2, 2) in [0, 1] (learned)", "pendulum"),
    (so.Newton(so.Forced(lambda t, x, u: u - x, torch.cos)), "m ẍ + c ẋ = f(t, x)",
     "mass=1.0", "Forced(lambda, cos)"),
    (so.Newton(so.Potential(torch.sum)), "m ẍ + c ẋ = f(t, x)", "damping=0.0",
     "Potential(sum)"),
    (so.Acceleration(pendulum, 0.2), "ẍ + c ẋ = f(t, x, ẋ)", "damping=0.2", "pendulum"),
    (so.FirstOrder(so.Autonomous(torch.nn.Linear(1, 1))), "ẋ = f(t, x)", "",
     "Autonomous(Linear)"),
]  # fmt: skip


@pytest.mark.parametrize(("system", "equation", "number", "field"), SYSTEMS)
def test_a_system_tells_its_equation_its_numbers_and_its_field(
    system, equation, number, field
):
    name, html = type(system).__name__, page(system)
    learned = sum(p.numel() for p in system.parameters())
    for told in (name, equation, field, f"<td>{learned}</td>"):
        assert told in html
    assert equation in repr(system) and number in repr(system)
    if number:
        key, value = number.split("=")
        assert f"<th>{key}</th><td>{value}</td>" in html
    if field == "pendulum":  # PyTorch shows modules, but no functions
        assert "field=pendulum" in repr(system)


def test_what_holds_many_numbers_shows_their_shapes():
    t = torch.linspace(0, 1, 2000)
    sol = so.odeint(so.Newton(pendulum), (torch.ones(7, 3), None), t)
    net = so.MomentumNet([torch.nn.Linear(3, 3)] * 2)
    for value, shape in (
        (sol, "state (7, 3)"),
        (sol.dense, "state (7, 3)"),
        (so.Recording(t, sol.x[:, 0]), "x (2000, 3)"),
        (so.data.oscillator("damped", t, 4), "observed (2000, 4, 1)"),
        (net.state(torch.ones(7, 3)), "(7, 3)"),
    ):
        assert shape in repr(value) and len(repr(value)) < 120
        assert repr(value).startswith(type(value).__name__)


@pytest.mark.parametrize("loss", [[], [1.0], [1.0, 0.1, float("nan")], [0.0, 1.0]])
def test_a_history_is_shown_whatever_is_in_it(loss):
    page(so.History(loss, "a < b"))
