"""ARCHITECTURE.md and CONTRIBUTING.md are true: names, ways of numbers, code."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import secondorder as so
from secondorder.plan import Damp, Kick
from secondorder.plan.known import PLANS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "secondorder"
PAGES = {
    name: (ROOT / name).read_text() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")
}


def code(page):
    """What a page quotes on one line or two between backticks, spaces made one."""
    found = re.findall(r"(?<!`)`([^`]+)`(?!`)", PAGES[page])
    return [" ".join(text.split()) for text in found]


def steps(title):
    """The functions ``file.py: name`` that a numbered list names, in order."""
    part = PAGES["ARCHITECTURE.md"].split(title)[1].split("\n\n")[1]
    return re.findall(r"`([\w/]+\.py): ([\w.]+)`", part)


def calls(function):
    """Functions of the package that are called, as (file, name), in order."""
    PLANS.clear()  # the plan of an equal solve would be found
    found = []

    def profile(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            name = path.relative_to(PACKAGE).as_posix()
            found.append((name, frame.f_code.co_name))

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def assert_called_in_order(named, called):
    """Assert that each step is called after the one before it."""
    place = -1
    for file, name in named:
        rest = called[place + 1 :]
        step = (file, name.split(".")[-1])
        assert step in rest, f"{file} does not call {name} here"
        place += 1 + rest.index(step)


def field(t, x):
    return -x


def test_the_way_of_x0_is_the_one_described():
    system, t = so.SecondOrder(field, 0.5), torch.linspace(0, 1, 3)
    start = (torch.ones(2, 3), None)
    called = calls(lambda: so.odeint(system, start, t, method="verlet"))
    named = steps("The way of x0")
    assert len(named) >= 10
    assert_called_in_order(named, called)


def test_the_way_of_gamma_is_the_one_described():
    def run():
        model = so.SecondOrderODE(field, gamma=0.9, method="momentum")
        return model(torch.ones(2, 3))

    named = steps("The way of γ")
    assert len(named) >= 5
    assert_called_in_order(named, calls(run))


def test_gamma_is_the_weight_of_a_damp_and_verlet_damps_twice_by_its_root():
    gamma, x = torch.nn.Parameter(torch.tensor(0.9)), torch.ones(1)
    plan = so.SecondOrderODE(field, gamma=gamma, method="momentum").plan(x)
    assert all(move.weight is gamma for move in plan if isinstance(move, Damp))
    kicks = [move.weight for move in plan if isinstance(move, Kick)]
    assert kicks and all(torch.equal(w, 1 - gamma) for w in kicks)
    plan = so.SecondOrderODE(field, gamma=0.9, method="verlet").plan(x)
    ends = [move.weight for move in (plan[0], plan[-2])]
    assert ends == [pytest.approx(0.9**0.5, rel=1e-12)] * 2


@pytest.mark.parametrize("page", PAGES)
def test_files_functions_and_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    paths = [text for text in code(page) if re.fullmatch(r"[\w/.]+(/|\.\w+)", text)]
    for path in (p for p in paths if "/" in p or p.endswith((".py", ".md"))):
        assert (ROOT / path).exists() or (PACKAGE / path).exists(), path
    for text in code(page):
        if match := re.fullmatch(r"([\w/]+)\.py: ([\w.]+)", text):
            value = importlib.import_module("secondorder." + match[1].replace("/", "."))
            for name in match[2].split("."):
                value = getattr(value, name)
        if match := re.match(r"so\.[a-z_]*\.?\w+", text):
            value = so
            for name in match[0].split(".")[1:]:
                value = getattr(value, name)
        if match := re.fullmatch(r"make ([a-z ]+)", text):
            for target in match[1].split():
                assert re.search(rf"^{target}:", makefile, flags=re.M), text


def test_the_links_lead_to_files():
    for text in PAGES.values():
        for target in re.findall(r"\]\(((?!http)[^)]+)\)", text):
            assert (ROOT / target).exists()


def test_the_plan_of_ones_own_runs_back():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGES["ARCHITECTURE.md"],
                          flags=re.M | re.S)  # fmt: skip
    names = {}
    exec(compile(block, "ARCHITECTURE.md", "exec"), names)
    assert names["h"].grad is not None
    torch.testing.assert_close(names["x_start"], names["x"], rtol=0, atol=1e-6)
    torch.testing.assert_close(names["v_start"], names["v"], rtol=0, atol=1e-6)
    assert names["cost"] == 10
    assert names["volume"] == pytest.approx(30 * torch.tensor(0.99).log().item())


def test_what_the_page_calls_interfaces_is_what_there_is():
    system, t = so.SecondOrder(field, 0.5), torch.linspace(0, 1, 3)
    other = system.replace(lambda t, x: -2 * x)
    assert other.epsilon == 0.5
    assert type(other) is so.SecondOrder
    sol = so.odeint(system, (torch.ones(1), None), t)
    assert isinstance(sol.dense, so.DenseOutput)
    assert sol.dense.method is so.METHODS["verlet"]
    assert sol.dense.problem.system.epsilon == 0.5
