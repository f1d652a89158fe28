"""Gauss–Newton: few steps, exact derivatives, and a refusal where there are none."""

import pytest
import torch
from torch import nn

import secondorder as so
from secondorder.training.gauss_newton import Residuals

t = torch.linspace(0, 6, 31, dtype=torch.float64)
START = torch.tensor([[1.0], [-0.5]], dtype=torch.float64), None


class Spring(nn.Module):
    """m ẍ + c ẋ = −k x − x³ with m, c, k learned."""

    def __init__(self, mass=1.0, damping=0.1, stiffness=1.0, dtype=torch.float64):
        super().__init__()
        number = [torch.tensor(z, dtype=dtype) for z in (mass, damping, stiffness)]
        self.stiffness = nn.Parameter(number[2])
        self.system = so.Newton(
            self.force, so.Positive(number[0]), so.Positive(number[1], zero=True)
        )

    def force(self, t, x):
        return -self.stiffness * x - x**3

    def forward(self, **settings):
        return so.odeint(self.system, START, t, step_size=0.1, **settings).x

    def numbers(self):
        system = self.system
        return [z.item() for z in (system.mass, system.damping, self.stiffness)]


with torch.no_grad():
    TRUTH = Spring(1.3, 0.3, 2.0)()


def residuals(model):
    return model() - TRUTH


@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "chin4"])
@pytest.mark.parametrize("differences", [False, True])
def test_the_derivatives_reach_learned_mass_and_damping(method, differences):
    model = Spring()
    vector = Residuals(model, [*model.parameters()], lambda: model(method=method))
    found = so.GaussNewton(differences=differences).jacobian(vector)
    row = model(method=method)[-1, 0]
    wanted = torch.autograd.grad(row.sum(), [*model.parameters()])
    place = found.reshape(len(t), 2, -1)[-1, 0]
    # Two ways backward agree to rounding, differences to eps^(2/3).
    atol = 1e-8 if differences else 1e-12
    torch.testing.assert_close(place, torch.stack(wanted), atol=atol, rtol=0)
    assert (found.norm(dim=0) > 0.1).all()


def test_three_numbers_are_found_to_full_accuracy():
    model = Spring()
    history = so.fit(model, residuals, 30, optimizer="gauss_newton", progress=False)
    assert "converged" in history.stopped and len(history.loss) < 30
    assert model.numbers() == pytest.approx([1.3, 0.3, 2.0], rel=1e-8)
    assert history.loss == sorted(history.loss, reverse=True)


def test_single_precision_and_chunks_do_as_well():
    model = Spring(dtype=torch.float32)
    method = so.GaussNewton(chunk=1)
    so.fit(model, residuals, 30, optimizer=method, progress=False)
    assert model.numbers() == pytest.approx([1.3, 0.3, 2.0], rel=1e-5)


def test_a_number_that_a_step_moves_out_of_range_is_a_step_too_long():
    model = Spring(damping=0.05)
    value = torch.tensor(0.05, dtype=torch.float64)
    model.system = so.Newton(model.force, 1.0, nn.Parameter(value))
    start = model().detach()

    def grows(model):  # best at a negative damping
        return model() - start * torch.linspace(1, 2, 31).reshape(-1, 1, 1)

    history = so.fit(model, grows, 12, optimizer="gauss_newton", progress=False)
    assert history.loss[-1] < history.loss[0] and 0 <= model.system.damping < 0.01


def test_a_line_takes_one_step_and_one_to_notice():
    model = nn.Linear(1, 1).double()
    x = t.unsqueeze(1)
    history = so.fit(model, lambda m: m(x) - 2 * x, 9, optimizer=so.GaussNewton(1e-15),
                     progress=False)  # fmt: skip
    assert len(history.loss) <= 4 and "converged" in history.stopped
    assert model.weight.item() == pytest.approx(2.0, rel=1e-9)


def test_what_cannot_be_differentiated_twice_says_what_to_do():
    def reversed_residuals(model):
        return model(gradient="reversible") - TRUTH

    with pytest.raises(RuntimeError, match="differences=True"):
        so.fit(
            Spring(), reversed_residuals, 3, optimizer="gauss_newton", progress=False
        )
    method = so.GaussNewton(differences=True)
    model = Spring()
    so.fit(model, reversed_residuals, 30, optimizer=method, progress=False)
    assert model.numbers() == pytest.approx([1.3, 0.3, 2.0], rel=1e-6)


@pytest.mark.parametrize("bad", [lambda m: m().sum(), lambda m: [1.0]])
def test_one_number_is_no_residual(bad):
    with pytest.raises((ValueError, TypeError), match="residuals"):
        so.fit(Spring(), bad, 3, optimizer="gauss_newton", progress=False)


def test_residuals_that_are_not_finite_end_the_run():
    with pytest.warns(RuntimeWarning, match="the loss is nan"):
        so.fit(Spring(), lambda m: m() * float("nan"), 3, optimizer="gauss_newton",
               progress=False)  # fmt: skip
