"""Plots are drawn without a screen, and leave nobody's settings changed."""

import matplotlib as mpl
import pytest

mpl.use("Agg")


@pytest.fixture(autouse=True)
def settings_stay():
    """Compare matplotlib's settings before and after each test."""
    settings = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == settings
