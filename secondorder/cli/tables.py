"""Text in columns, for the tables that the commands print."""

import shutil
import sys
from collections.abc import Sequence

import torch
from torch import Tensor


def fitted(line: str) -> str:
    """A line no wider than the terminal it goes to; whole where there is none."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= width:
        return line
    return line[: width - 1] + "…"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text in columns, the first row as the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    rule = "─" * sum(widths, 2 * len(widths) - 2)
    return "\n".join(map(fitted, [lines[0], rule, *lines[1:]]))


def median_and_range(values: Tensor, form: str) -> str:
    """Median and range of a few numbers, each in the format ``form``."""
    low, middle, high = (f(values).item() for f in (torch.min, torch.median, torch.max))
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"
