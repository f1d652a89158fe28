"""README's table of methods and gradients is that of the registries, and holds."""

import math
from pathlib import Path

import secondorder as so
from secondorder.methods import find_method

README = Path(__file__).parents[2] / "README.md"


def marks(method):
    """One column per gradient: whether the pair works."""
    works = find_method(method).gradients
    return ["✓" if g in works else "–" for g in so.GRADIENTS]


def table():
    """The table of README.md as it has to be."""
    head = ["method", "order", "f per step", "h/ε up to", *so.GRADIENTS, "for"]
    rows = [head, ["---"] * len(head)]
    for name, m in so.METHODS.items():
        limit = "any" if math.isinf(m.damping_limit) else f"{m.damping_limit:g}"
        cost = str(m.evaluations_per_step)
        rows.append([f"`{name}`", str(m.order), cost, limit, *marks(name), m.summary])
    for name, m in so.ADAPTIVE.items():
        cost = f"{m.evaluations_per_step}, adaptive"
        rows.append([f"`{name}`", str(m.order), cost, "", *marks(name), m.summary])
    for summary in dict.fromkeys(m.summary for m in so.SOLVERS.values()):
        names = [n for n, m in so.SOLVERS.items() if m.summary == summary]
        text = " ".join(f"`{n}`" for n in names)
        rows.append([text, "", "", "", *marks(names[0]), summary])
    for name, m in so.COUPLED.items():
        cost = f"{m.evaluations_per_step}{', adaptive' if m.adaptive else ''}"
        limit = f"{m.damping_limit:.3g}"
        rows.append([f"`{name}`", str(m.order), cost, limit, *marks(name), m.summary])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_the_readme_shows_the_registries():
    assert table() in README.read_text(), f"README.md should contain\n\n{table()}"
