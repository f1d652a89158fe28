"""The layout is not a wish: import levels, docstrings and prints, by ast only.

The levels are those of ARCHITECTURE.md, read from there.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "secondorder"
ASIDE = {"plot", "representability"}  # they receive numbers and know no dynamics
COMMANDS = {"__main__", "cli"}
HANDED_OUT = {"State", "Stats", "DenseOutput", "System", "Adaptive", "History"}
CORE = {"torch", "torchdiffeq", "scipy", "matplotlib", "numpy"}
CORE |= sys.stdlib_module_names
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def level_name(path):
    """First part of a path below the package: the module or folder that has a level."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Yield the top modules of this package that a file imports, also in functions."""
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("secondorder")]
            yield from (name.split(".")[1] for name in names if "." in name)
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [a.name for a in node.names]
            yield from (name.split(".")[0] for name in names)


def floors():
    """Level of each module or folder, from the block of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    lines = re.findall(r"^ ?(\d+) {3}(.*)$", text, flags=re.M)
    return {room: int(level) for level, rooms in lines for room in rooms.split()}


def graph():
    """Which module or folder of the package imports which."""
    found = {level_name(path): set() for path in FILES}
    for path in FILES:
        found[level_name(path)] |= set(imported(path)) - {level_name(path)}
    found.pop("__init__")
    return found


def test_imports_go_down_the_floors():
    level = floors()
    assert level.keys() == graph().keys(), "give each a level in ARCHITECTURE.md"
    for room, below in graph().items():
        up = {other for other in below if level[other] >= level[room]}
        assert not up, f"{room} has level {level[room]} and imports {up}"


def test_no_file_is_long():
    lengths = {p.name: len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_the_map_names_every_module_and_folder():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.search(r"^## Map\n(.*?)^## ", text, flags=re.M | re.S)[1]
    named = set(re.findall(r"`([a-z_]+)(?:\.py|/)`", rows))
    assert named == graph().keys() - {"__main__"}


def test_theory_and_plots_stand_aside():
    for name, below in graph().items():
        if name in ASIDE:
            assert not below, f"{name} imports {below}"
        elif name not in COMMANDS:
            assert not below & (ASIDE | COMMANDS), f"{name} must not need {below}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_extras_are_imported_only_where_they_are_used(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= CORE
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in CORE


def public(tree):
    """Yield the public functions and classes of a module, and public methods."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = (n for n in node.body if isinstance(n, kinds[0]))
                yield from (n for n in methods if not n.name.startswith("_"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "open the file with what it is"
    for node in public(tree):
        assert ast.get_docstring(node), f"{node.name} has no docstring"


def exported():
    """Yield ``(path, node)`` of the functions and classes in the package's __all__."""
    init = ast.parse((PACKAGE / "__init__.py").read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in init.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    for path in FILES:
        if level_name(path) in ASIDE | COMMANDS:
            continue  # what they define is not what the package exports by that name
        for node in ast.parse(path.read_text()).body:
            kinds = (ast.FunctionDef, ast.ClassDef)
            if isinstance(node, kinds) and node.name in listed:
                yield pytest.param(node, id=node.name)


@pytest.mark.parametrize("node", [*exported()])
def test_public_docstrings_are_numpydoc_with_an_example(node):
    text = ast.get_docstring(node)
    headings = re.findall(r"^(\w+)\n-+$", text, flags=re.M)
    assert {"Parameters", "Attributes"} & {*headings}
    # What the library hands out rather than the user makes needs no example.
    assert "Examples" in headings or node.name in HANDED_OUT


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_commands_print_and_nobody_seeds_at_import_or_shows(path):
    tree = ast.parse(path.read_text())
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name = ast.unparse(call.func)
        assert name != "print" or level_name(path) in COMMANDS
        assert name.split(".")[-1] not in ("show", "set_default_dtype", "use")
    for statement in tree.body:
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            assert "manual_seed" not in ast.unparse(statement)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_user_input_is_never_checked_by_assert(path):
    tree = ast.parse(path.read_text())
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)]
