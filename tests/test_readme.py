"""The README's code runs, and what it points at exists."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

from secondorder.cli import COMMANDS

mpl.use("Agg")

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.M | re.S)


def test_the_code_runs_from_top_to_bottom():
    assert len(BLOCKS) >= 3
    torch.manual_seed(0)
    names = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert names["history"].loss[-1] < 0.05  # below 1/7: it did cross
    assert names["x"].shape == names["x0"].shape


def test_the_first_example_has_five_lines_of_use():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) - 1 <= 5  # without the import


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)\)", TEXT))
def test_links_lead_to_files(target):
    assert (ROOT / target).exists()


def test_commands_and_targets_exist():
    named = set(re.findall(r"python -m secondorder (\w+)", TEXT))
    assert named == set(COMMANDS)
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", TEXT, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M)
