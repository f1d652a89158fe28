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


@pytest.mark.parametrize("loss", [[], [1.0], [1.0, 0.1, float("nan")], [0.0, 1.0]])
def test_a_history_is_shown_whatever_is_in_it(loss):
    page(so.History(loss, "a < b"))
