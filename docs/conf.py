"""The site: reference from docstrings, chapters from notebooks, a gallery that is run.

make docs       builds docs/_build/html; warnings are errors
"""

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the package of this checkout
sys.path.insert(0, str(HERE))

import secondorder  # noqa: E402

project = "secondorder"
author = "the secondorder authors"
copyright = "the secondorder authors, MIT license"
release = version = secondorder.__version__

extensions = [
    "myst_nb",
    "pages",  # reference pages, from what the package exports
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_copybutton",
]

# The chapters are stored with the outputs of their last run.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # attributes of one name in several classes

autodoc_typehints = "none"  # the docstrings name types, with shapes
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

plot_include_source = True
plot_html_show_source_link = False
plot_html_show_formats = False
plot_formats = [("png", 160)]
plot_pre_code = ""
plot_rcparams = {"figure.figsize": (5.6, 3.6)}
plot_apply_rcparams = True

html_theme = "furo"
html_title = f"secondorder {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build"]
linkcheck_timeout = 20


def copy_pages(app) -> None:
    """Bring the chapters and the pages of the repository's root into the site."""
    for folder in ("chapters", "project"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, HERE / "chapters")
    for name in ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG"):
        text = (HERE.parent / f"{name}.md").read_text()
        # Links between the pages stay; links to files of the repository become names.
        text = re.sub(r"\[([^]]*)\]\((\w+)\.md\)", r"[\1](\2.md)", text)
        (HERE / "project" / f"{name}.md").write_text(text)


def as_written(app, what, name, obj, options, lines) -> None:
    """Take docstrings literally where reStructuredText would not.

    A bar is an absolute value, not a substitution; a module's docstring is a table.
    """
    lines[:] = [line.replace("|", r"\|") for line in lines]
    if what == "module":
        lines[:] = [".. code-block:: text", "", *(f"   {line}" for line in lines)]


def setup(app) -> None:
    """Connect."""
    app.connect("autodoc-process-docstring", as_written, priority=1)
    app.connect("builder-inited", copy_pages, priority=100)
