"""Every notebook runs from top to bottom, as stored, in a fast setting.

The fast setting replaces text of the notebook, and each replacement must be found, so
that it cannot rot.  A notebook without an entry runs as it is.  They run in the process
of the tests: fifteen kernels would spend a minute on importing torch.
"""

import ast
import io
import linecache
import os
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAST = {
    "01_first_flow.ipynb": {"STEPS = 600": "STEPS = 10"},
    "02_integrators.ipynb": {
        "ends = [2.0, 4.0, 6.0, 8.0]": "ends = [1.0]",
        "torch.linspace(0, 20, 801": "torch.linspace(0, 2, 81",
        "(0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)": "(1, 10)",
        "(120, 240, 480, 960)": "(240, 960)",
        "t = 1.2 * torch.arange(9": "t = 1.2 * torch.arange(3",
        "periods = 30": "periods = 3",
        "end(1000, u.t)": "end(200, u.t)",
    },
    "03_which_linear_maps.ipynb": {"DRAWS, sigma = 400": "DRAWS, sigma = 20"},
    "05_convert_a_transformer.ipynb": {
        "STEPS = 100": "STEPS = 2",
        "[3, 6, 12, 24, 48]": "[1, 2]",
        "Reader(24)": "Reader(2)",
        "sample(128)": "sample(2)",
        "depth=6": "depth=2",
        "count=16, length=64": "count=2, length=16",
        "torch.randn(16, 64": "torch.randn(1, 64",
    },
    "06_pictures.ipynb": {
        "STEPS = 300": "STEPS = 3",
        "torch.arange(0.0, 600.0": "torch.arange(0.0, 60.0",
        "torch.arange(120.0)": "torch.arange(30.0)",
    },
    "08_learning_to_optimise.ipynb": {
        "STEPS = (5, 10, 20, 30), 250": "STEPS = (5, 10), 2"
    },
    "15_spheres_and_parity.ipynb": {
        '"parity": 200, "spheres": 300': '"parity": 2, "spheres": 2',
        "SEEDS = 5": "SEEDS = 2",
        "SEEDS = 20": "SEEDS = 2",
        "[1, 2, 3]": "[1]",
    },
    "12_memory_and_exactness.ipynb": {", 100, 300, 1000]": "]", "(100": "(10"},
    "07_learned_potential.ipynb": {"STEPS = 400": "STEPS = 4"},
    "09_crossing_and_rings.ipynb": {
        "{1: 300, 2: 200, 4: 600}": "{1: 3, 2: 3, 4: 3}",
        "factor=16": "factor=2",
        ", seconds=2": ", seconds=0.5",
    },
    "10_density_flows.ipynb": {
        '{"CNF": 140, "MomentumFlow": 1250}, 3': '{"CNF": 2, "MomentumFlow": 2}, 1',
        "draws = [1, 4, 16, 64, 256]": "draws = [1, 4]",
        "draws=64": "draws=2",
    },
    "11_digits.ipynb": {
        "STEPS, SEEDS = 400, 3": "STEPS, SEEDS = 20, 1",
        ", 24, 48, 96]": "]",
        'ResNet", 96)': 'ResNet", 12)',
    },
    "13_silverbox.ipynb": {"ROUNDS = 16, 150, 10": "ROUNDS = 4, 100, 2"},
    "14_oscillator_from_data.ipynb": {"300, 30, 30, 12": "2, 2, 2, 1"},
}


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def kernel(monkeypatch):
    """Run cells as a kernel does, and leave the settings of this process alone."""
    monkeypatch.chdir(ROOT)
    for name in set(os.environ) & {"SILVERBOX", "SPHERES"}:
        monkeypatch.delenv(name)
    space, dtype = {"__name__": "__main__"}, torch.get_default_dtype()
    with mpl.rc_context({"backend": "agg"}), torch.random.fork_rng(devices=[]):
        yield lambda source, name: run(source, name, space)
    torch.set_default_dtype(dtype)
    plt.close("all")


def run(source, name, space):
    """Run a cell: its statements, what its last line shows, its figures."""
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    tree = ast.parse(source, name)
    last = tree.body[-1] if tree.body else None
    shown = isinstance(last, ast.Expr) and not source.rstrip().endswith(";")
    if shown:
        tree.body.pop()
    exec(compile(tree, name, "exec"), space)
    if shown:
        value = eval(compile(ast.Expression(last.value), name, "eval"), space)
        getattr(value, "_repr_html_", lambda: repr(value))()
    for number in plt.get_fignums():
        plt.figure(number).savefig(io.BytesIO())
    plt.close("all")


def execute(notebook):
    """Run a notebook in a kernel of its own, as ``make notebooks`` does."""
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},  # where the package is
    )
    client.execute()


def assert_finished(path):
    """Assert that a notebook is stored with its outputs, and has what it needs."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom"
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000
    assert notebook.cells[0].source.startswith("# ")
    text = path.read_text()
    assert "/home/" not in text
    assert "/work/" not in text
    assert "/tmp/" not in text


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request):
    return request.param


def test_there_are_notebooks_and_every_fast_setting_belongs_to_one():
    assert NOTEBOOKS
    assert FAST.keys() <= {path.name for path in NOTEBOOKS}


# What matplotlib and numpy warn each other of, and files that a chapter leaves open.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_notebook_runs(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    for old, new in FAST.get(path.name, {}).items():
        holders = [cell for cell in code(notebook) if old in cell.source]
        assert holders, f"{path.name} no longer contains {old!r}"
        for cell in holders:
            cell.source = cell.source.replace(old, new)
    for number, cell in enumerate(code(notebook), start=1):
        kernel(cell.source, f"{path.name}[{number}]")


def test_a_notebook_is_stored_as_a_finished_run(path):
    assert_finished(path)
