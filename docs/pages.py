"""Reference pages, one per room of the package, written from what it exports."""

import doctest
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.ext.napoleon import NumpyDocstring

import secondorder as so
from secondorder.cli import COMMANDS

HERE = Path(__file__).parent / "reference"
# Page: its title, what it is for, and the folders that its top-level names come from.
PAGES = {
    "systems": ("Systems", "What is solved, m ẍ + c ẋ = f(t, x).", ["systems"]),
    "solving": (
        "Solving",
        "One verb, what it returns, and the methods that make the steps.",
        ["odeint", "events", "methods", "plan", "solution"],
    ),
    "gradients": (
        "Gradients",
        "How a solve is differentiated: by name, or as an object with options.",
        ["gradients", "check_gradient"],
    ),
    "networks": ("Networks", "The same moves as modules.", ["models"]),
    "training": ("Training", "A loop around a model and a loss.", ["training"]),
}
MODULES = {
    "forcing": "Forcing",
    "related": "Related models",
    "plan": "Plans",
    "plot": "Pictures",
    "data": "Data",
    "representability": "Which linear maps",
}


def home(name: str, value: Any) -> str:
    """The folder or file of the package where a top-level name is made."""
    if inspect.ismodule(value):
        return ""
    if isinstance(value, dict):
        return "gradients" if name == "GRADIENTS" else "methods"
    if isinstance(value, so.Gradient):
        return "gradients"
    return value.__module__.split(".")[1]


def public(module: ModuleType) -> list[str]:
    """The names that a module hands out."""
    here = module.__name__
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == here
        ]
    return list(listed)


def entry(where: str, name: str, value: Any) -> Iterator[str]:
    """The lines that document one name."""
    whole = f"{where}.{name}"
    if isinstance(value, so.Gradient):
        text = inspect.getdoc(value.run_plan or value.run_solver) or ""
        text = NumpyDocstring(text.replace("|", r"\|"))
        yield f".. py:function:: {whole}(plan, field, x, v, args=(), **options)"
        yield ""
        yield from (f"   {line}".rstrip() for line in str(text).splitlines())
    elif isinstance(value, dict) and hasattr(next(iter(value.values())), "summary"):
        yield f".. py:data:: {whole}"
        yield ""
        yield "   Methods by name:"
        yield ""
        for key, method in value.items():
            yield f"   - ``{key}``: {method.summary}".rstrip(": ")
    elif inspect.isclass(value):
        yield f".. autoclass:: {whole}"
        yield "   :members:"
    elif callable(value):
        yield f".. autofunction:: {whole}"
    else:
        yield f".. py:data:: {whole}"
        if isinstance(value, dict):
            yield ""
            yield "   " + ", ".join(f"``{key}``" for key in value)
    yield ""


def page(title: str, text: str, entries: list[tuple[str, str, Any]]) -> str:
    """A page of reference."""
    lines = [title, "=" * len(title), "", text, ""]
    for one in entries:
        lines += entry(*one)
    return "\n".join(lines) + "\n"


def command_line() -> str:
    """The help of every command."""
    title = "Command line"
    lines = [title, "=" * len(title), ""]
    for name, text in COMMANDS.items():
        parser = import_module(f"secondorder.cli.{name}").parser()
        lines += [f"``python -m secondorder {name}``", "-" * (len(name) + 27), ""]
        lines += [text[:1].upper() + text[1:] + ".", "", ".. code-block:: text", ""]
        lines += [f"   {line}".rstrip() for line in parser.format_help().splitlines()]
        lines += [""]
    return "\n".join(lines) + "\n"


def gallery() -> str:
    """Every picture, drawn by the example of its docstring."""
    title = "Gallery"
    lines = [
        title,
        "=" * len(title),
        "",
        "Every picture with the code that drew it.",
        "",
    ]
    for name in so.plot.__all__:
        plot = getattr(so.plot, name)
        text = inspect.getdoc(plot) or ""
        examples = doctest.DocTestParser().get_examples(text)
        code = [line for e in examples for line in e.source.splitlines()]
        first = text.split("\n\n")[0].replace("\n", " ").replace("|", r"\|")
        lines += [name, "-" * len(name), "", first, ""]
        lines += [f":py:func:`secondorder.plot.{name}`", "", ".. plot::", ""]
        lines += [f"   {line}" for line in code] + [""]
    return "\n".join(lines) + "\n"


def write(app: Any = None) -> None:
    """Write all pages; a name without a page ends the build."""
    HERE.mkdir(exist_ok=True)
    left = [n for n in so.__all__ if n not in MODULES]
    for name, (title, text, folders) in PAGES.items():
        mine = [n for n in left if home(n, getattr(so, n)) in folders]
        left = [n for n in left if n not in mine]
        rows = [("secondorder", n, getattr(so, n)) for n in mine]
        (HERE / f"{name}.rst").write_text(page(title, text, rows))
    if left:
        raise SystemExit(f"docs/pages.py has no page for {left}")
    top = [getattr(so, n) for n in so.__all__]
    for name, title in MODULES.items():
        module = getattr(so, name)
        where = f"secondorder.{name}"
        rows = [(where, n, getattr(module, n)) for n in public(module)]
        rows = [row for row in rows if all(row[2] is not value for value in top)]
        text = f".. automodule:: {module.__name__}\n   :no-members:"
        text += "\n\n.. py:currentmodule:: None"
        (HERE / f"{name}.rst").write_text(page(title, text, rows))
    (HERE / "gallery.rst").write_text(gallery())
    (HERE / "command_line.rst").write_text(command_line())


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write, priority=100)
    return {"parallel_read_safe": True}
