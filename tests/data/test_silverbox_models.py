"""The models of the Silverbox find the law that made a record."""

import pytest
import torch
from made_up_record import LAW, record

from secondorder.data import silverbox_models as models


def test_half_samples_keep_the_samples_and_are_exact_for_quadratics():
    n = torch.arange(12, dtype=torch.float64)
    u = 0.3 * n**2 - n + 2
    fine = models.half_samples(u)
    half = torch.arange(23, dtype=torch.float64) / 2
    torch.testing.assert_close(fine, 0.3 * half**2 - half + 2)


def test_the_derivative_formula_is_of_order_six():
    errors = []
    for h in (0.2, 0.1):
        t = torch.arange(-3, 4, dtype=torch.float64) * h
        errors.append(abs(models.slope(torch.exp(t)).item() / h - 1))
    assert errors[0] / errors[1] == pytest.approx(2**6, rel=0.05)


def test_the_white_box_finds_the_law_that_made_a_record():
    made_up = record()
    system = models.white_box(made_up, length=120, count=8, rounds=9)
    errors = models.errors(system, made_up)
    assert errors.keys() == made_up.tests.keys()
    assert max(errors.values()) < 1e-3 * 1000 * made_up.y.std()  # a thousandth of y
    su, sy = models.scales(made_up)
    p, b, k, k2, k3 = system.field.numbers.detach()
    found = torch.stack((system.damping.detach(), p * sy, b * sy / su, k))
    torch.testing.assert_close(found, LAW[:4], atol=2e-3, rtol=0)
    assert (k3 / sy**2).item() == pytest.approx(0.01, abs=2e-3)
    assert (k2 / sy).item() == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("cubic", [False, True])
def test_the_neural_model_fits_what_it_was_not_told(cubic):
    made_up = record()
    generator = torch.Generator().manual_seed(0)
    system = models.neural(made_up, cubic, generator, length=120, count=8, rounds=9)
    errors = models.errors(system, made_up)
    assert max(errors.values()) < 1e-2 * 1000 * made_up.y.std()
