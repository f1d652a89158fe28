"""The code in the pages of documentation runs."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parent.parent / "docs" / "coming_from.md"


def test_what_a_newcomer_is_told_to_write_runs_from_top_to_bottom():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    assert len(blocks) >= 4
    torch.manual_seed(0)
    names = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["x"].shape == names["x0"].shape
