"""Spectra, probabilities and losses show which maps are out of reach."""

import numpy as np
import pytest
import torch

from secondorder.plot import targets
from secondorder.representability import Continuous

m = Continuous(1.0)


@pytest.mark.parametrize(
    "values, bad",
    [
        ([-1.0, 2.0], 1),
        ([-1.0, -1.0, 2.0], 0),
        ([-1.0, -1.0, -1.0], 3),
        ([-0.5, -0.1], 0),
        ([-1 + 0.5j, -1 - 0.5j], 0),
        (np.diag([-1.0, 2.0]), 1),
        (torch.diag(torch.tensor([-1.0, -2.0])), 2),
    ],
)
def test_spectrum_marks_unpaired_eigenvalues_below_the_threshold(values, bad):
    texts = targets.spectrum(values, m.threshold).get_legend().get_texts()
    assert texts[-1].get_text() == f"out of reach ({bad})"


def test_spectrum_takes_the_verdict_from_outside_too():
    ax = targets.spectrum([-1.0, -1.0], m.threshold, bad=[True, True])  # a Jordan block
    assert ax.get_legend().get_texts()[-1].get_text() == "out of reach (2)"


def test_nothing_is_out_of_reach_of_a_model_without_a_threshold():
    ax = targets.spectrum([-1.0, 2.0], -np.inf)
    assert ax.get_legend().get_texts()[-1].get_text() == "out of reach (0)"


@pytest.mark.parametrize(
    "draw, name",
    [
        (lambda: targets.spectrum(np.zeros((2, 3))), "`eigenvalues`"),
        (lambda: targets.spectrum([1.0], bad=[True, False]), "`bad`"),
        (lambda: targets.representable_probability([1], {"a": [1, 2]}), "probability"),
        (lambda: targets.training_curves({"a": [1]}, {"b": 1}), "`floors`"),
    ],
)
def test_bad_data_raise_with_the_name(draw, name):
    with pytest.raises(ValueError, match=name):
        draw()


def test_eigenvalues_take_the_colour_of_the_first_start_that_reaches_them():
    starts = {"c = 6": -1.5, "force": -np.inf}
    ax = targets.spectrum([-1.0, -3.0, -5.0, 2.0], m.threshold, starts=starts)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"c = 6 (1)", "force (2)", "fine (1)", "out of reach (0)"} <= {*texts}


def test_an_exact_law_is_dashed_and_named():
    curves = {"d = 2": [0.4, 0.9]}
    ax = targets.representable_probability([0.1, 1], curves, exact=curves)
    lines = {line.get_label(): line.get_linestyle() for line in ax.get_lines()}
    assert lines["d = 2, exact law"] == "--"
