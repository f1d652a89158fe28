"""No figure outlives the test or the docstring example that drew it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_figures_left():
    """Close what pyplot holds, if pyplot was imported at all."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
