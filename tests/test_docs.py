"""The page for newcomers is true: its code runs, uses all it names, and agrees."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp

import secondorder as so

PAGE = Path(__file__).parent.parent / "docs" / "coming_from.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.M | re.S)
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in re.findall(r"^\|(?! there|---)(.*)\|$", TEXT, flags=re.M)
]


@pytest.fixture(scope="module")
def names():
    """What is there after all blocks ran, one after the other."""
    torch.manual_seed(0)
    found = {}
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), found)
    return found


def test_what_a_newcomer_is_told_to_write_runs_from_top_to_bottom(names):
    assert len(BLOCKS) >= 4
    assert names["t_hit"].shape == (5,) and names["x"].shape == (1, 3, 8)
    assert names["times"].tolist() == pytest.approx(
        [2**0.5, 2.6 * 2**0.5, (2.6 + 1.28) * 2**0.5]
    )


@pytest.mark.parametrize(("there", "here"), ROWS)
def test_every_word_of_a_row_is_used_by_the_code(there, here):
    code = "\n".join(BLOCKS)
    named = re.findall(r"`([^`]+)`", here)
    assert named
    for text in named:
        words = re.findall(
            r'\w+="\w+"|[\w.]+=(?=True|False|\W|$)|[\w.]+\(|[\w.]+', text
        )
        for word in words:
            assert word in code, f"no code for {word!r} of `{text}`"


def test_a_first_order_solve_is_torchdiffeqs(names):
    func, x0, t = names["func"], names["x0"], names["t"]
    how = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
    x, v = so.odeint(so.FirstOrder(func), x0, t, **how)
    theirs = torchdiffeq.odeint(func, x0, t, **how)
    torch.testing.assert_close(x, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(v, func(t, x))


def test_a_solve_by_its_name_is_scipys(names):
    system, x0, t = names["system"], names["x0"], names["t"]

    def slope(t, y):
        x, v = torch.tensor(y, dtype=torch.float32).reshape(2, 5, 2)
        pair = system(torch.tensor(t), (x, v))
        return torch.cat([part.reshape(-1) for part in pair]).numpy()

    start = np.concatenate([x0.numpy().ravel(), np.zeros(10)])
    with torch.no_grad():
        theirs = solve_ivp(slope, (0, 1), start, "DOP853", rtol=1e-5, atol=1e-6)
        how = {"method": "scipy_DOP853", "rtol": 1e-5, "atol": 1e-6}
        x, _ = so.odeint(system, (x0, None), t, **how)
    found = torch.tensor(theirs.y[:10, -1].reshape(5, 2), dtype=torch.float32)
    torch.testing.assert_close(x[-1], found, rtol=1e-4, atol=1e-4)
