"""README's table of methods and gradients is that of the registries, and holds."""

import math
from pathlib import Path

from test_gradients import expected_to_work

import secondorder as so
from secondorder.solvers import SCIPY

README = Path(__file__).parent.parent / "README.md"


def marks(method):
    """One column per gradient: whether the pair works (see test_gradients.py)."""
    return ["✓" if expected_to_work(method, g) else "–" for g in so.GRADIENTS]


def table():
    """The table of README.md as it has to be."""
    head = ["method", "order", "f per step", "h/ε up to", *so.GRADIENTS, "for"]
    rows = [head, ["---"] * len(head)]
    for name, m in so.METHODS.items():
        limit = "any" if math.isinf(m.damping_limit) else f"{m.damping_limit:g}"
        cost = str(m.evaluations_per_step)
        rows.append(
            [f"`{name}`", str(m.order), cost, limit, *marks(name), m.summary]
        )
    for name, m in so.ADAPTIVE.items():
        cost = f"{m.evaluations_per_step}, adaptive"
        rows.append([f"`{name}`", str(m.order), cost, "", *marks(name), m.summary])
    theirs = [n for n in so.SOLVERS if n not in SCIPY]
    for names, what in ((theirs, "torchdiffeq's"), ([*SCIPY], "SciPy's")):
        text = " ".join(f"`{n}`" for n in names)
        rows.append([text, "", "", "", *marks(names[0]), f"{what} solvers, by name"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_the_readme_shows_the_registries():
    assert table() in README.read_text(), f"README.md should contain\n\n{table()}"
