"""What is solved: the right-hand sides, γ ↔ ε, potentials, matrices, bad input."""

import math

import pytest
import torch
import torchdiffeq
from problems import Field, noise
from torch import nn

import secondorder as so

HALF = 0.5


def test_second_order_is_a_first_order_field_of_torchdiffeq():
    # ε ẍ + ẋ = −x at ε = ½ has roots −1 ± i: x = e^{−t}(cos t + sin t) from rest.
    system = so.SecondOrder(lambda t, x: -x, HALF)
    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    start = (torch.ones(1, dtype=t.dtype), torch.zeros(1, dtype=t.dtype))
    x, v = torchdiffeq.odeint(system, start, t, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(x[:, 0], torch.exp(-t) * (t.cos() + t.sin()))
    torch.testing.assert_close(v[:, 0], -2 * torch.exp(-t) * t.sin())


@pytest.mark.parametrize(
    "system, expected",
    [
        (so.SecondOrder(lambda t, x: t * x, 0.25), (2.0 - 3.0) / 0.25),
        (so.Newton(lambda t, x: t * x, mass=4.0, damping=0.5), (2.0 - 1.5) / 4),
        (so.Newton(lambda t, x: t * x), 2.0),
        (so.Acceleration(lambda t, x, v: t * x - v**2, damping=2.0), 2.0 - 9 - 6),
    ],
)
def test_derivatives_are_the_equations(system, expected):
    x, v = torch.tensor([1.0]), torch.tensor([3.0])
    slope, acceleration = system(torch.tensor(2.0), (x, v))
    assert torch.equal(slope, v)
    torch.testing.assert_close(acceleration, torch.tensor([expected]))


@pytest.mark.parametrize("rule", ["euler", "exponential"])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 0.999])
def test_gamma_and_epsilon_are_inverse_of_each_other(rule, gamma):
    epsilon = so.epsilon_from_gamma(gamma, 0.1, rule)
    # 1 − γ loses log2(1/(1−γ)) bits.
    assert so.gamma_from_epsilon(epsilon, 0.1, rule) == pytest.approx(gamma, rel=1e-13)
    tensor = so.epsilon_from_gamma(torch.tensor(gamma, dtype=torch.float64), 0.1, rule)
    assert tensor.item() == pytest.approx(epsilon, rel=1e-15)


def test_gamma_rules_are_the_formulas():
    assert so.gamma_from_epsilon(2.0, 0.5) == 0.75
    assert so.gamma_from_epsilon(2.0, 0.5, "exponential") == math.exp(-0.25)
    assert so.epsilon_from_gamma(0.0, 0.5) == 0.5


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: so.SecondOrder(lambda t, x: x, 0.0), ValueError, "`epsilon`.*> 0"),
        (lambda: so.SecondOrder(lambda t, x: x, -1.0), ValueError, "-1"),
        (lambda: so.SecondOrder(lambda t, x: x, math.nan), ValueError, "nan"),
        (
            lambda: so.SecondOrder(lambda t, x: x, torch.tensor([1.0, 0.0])),
            ValueError,
            "`epsilon`",
        ),
        (lambda: so.SecondOrder(lambda t, x: x, "1e-3x"), TypeError, "`epsilon`"),
        (
            lambda: so.SecondOrder(lambda t, x: x, torch.tensor(1)),
            TypeError,
            "floating",
        ),
        (lambda: so.SecondOrder(3.0), TypeError, "`field` must be callable"),
        (lambda: so.Newton(lambda t, x: x, mass=0.0), ValueError, "`mass`"),
        (lambda: so.Newton(lambda t, x: x, damping=-0.1), ValueError, "`damping`"),
        (
            lambda: so.Newton(lambda t, x: x, mass=torch.diag(torch.tensor([1.0, -1]))),
            ValueError,
            "positive definite",
        ),
        (
            lambda: so.Newton(
                lambda t, x: x, damping=torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
            ),
            ValueError,
            "semidefinite in its symmetric part",
        ),
        (lambda: so.epsilon_from_gamma(1.0, 0.1), ValueError, r"\[0, 1\)"),
        (lambda: so.epsilon_from_gamma(-0.1, 0.1), ValueError, r"\[0, 1\)"),
        (lambda: so.epsilon_from_gamma(0.0, 0.1, "exponential"), ValueError, "0"),
        (lambda: so.gamma_from_epsilon(1.0, 0.1, "midpoint"), ValueError, "`rule`"),
    ],
)
def test_bad_numbers_are_refused_with_advice(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_learned_epsilon_is_a_parameter_and_a_fixed_tensor_moves_with_the_module():
    learned = so.SecondOrder(Field(), nn.Parameter(torch.tensor(0.3)))
    assert "epsilon" in dict(learned.named_parameters())
    fixed = so.SecondOrder(Field(), torch.tensor([0.3, 1.0, 2.0])).double()
    assert fixed.epsilon.dtype == torch.float64


@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "adaptive"])
def test_an_epsilon_that_training_made_negative_is_refused(method):
    system = so.SecondOrder(Field(), nn.Parameter(torch.tensor(0.3).double()))
    with torch.no_grad():
        system.epsilon -= 1.0
    with pytest.raises(ValueError, match="`epsilon`.*-0.7"):
        so.odeint(system, (noise(2, 3).double(), None), [0.0, 1.0], method=method)


class Well(nn.Module):
    def __init__(self):
        super().__init__()
        self.depth = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x):
        return self.depth * (1 - torch.cos(x)).sum(-1)


MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.mark.parametrize("mode", MODES)
def test_a_potential_force_is_minus_the_gradient_in_every_mode(mode):
    potential = so.Potential(Well())
    with mode():
        x = noise(5, 2, dtype=torch.float64)
        force = potential(torch.tensor(0.0), x)
        torch.testing.assert_close(force, -2 * torch.sin(x))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_a_potential_is_trained_through_every_route(gradient):
    force = so.Potential(Well())
    system = so.SecondOrder(force, 0.5)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    x0 = noise(3, 2, dtype=torch.float64)
    sol = so.odeint(system, (x0, None), t, gradient=gradient)
    sol.x[-1].square().sum().backward()
    # Central difference: truncation h² and rounding u/h balance near h = 1e-5.
    h, depth = 1e-5, force.energy.depth
    values = []
    for shift in (h, -h):
        with torch.no_grad():
            depth += shift
            values.append(so.odeint(system, (x0, None), t).x[-1].square().sum())
            depth -= shift
    assert depth.grad.item() == pytest.approx(
        ((values[0] - values[1]) / (2 * h)).item(), rel=1e-7
    )


def test_a_potential_without_a_graph_says_so():
    with pytest.raises(ValueError, match="`energy`"):
        so.Potential(lambda x: torch.zeros(3))(torch.tensor(0.0), torch.ones(3))


def test_forces_that_differentiate_inside_stay_on_one_thread():
    """CUDA's thread numbers graph nodes by itself; reversal reads these numbers."""
    seen = []

    def energy(x):
        seen.append(torch._C._is_multithreading_enabled())
        return (x**2).sum(-1)

    def force(t, x):
        seen.append(torch._C._is_multithreading_enabled())
        return -x

    for f in (so.Potential(energy), force):
        x = torch.ones(2, 3, requires_grad=True)
        end = so.odeint(
            so.SecondOrder(f), (x, None), [0.0, 1.0], gradient="reversible"
        ).x[-1]
        end.sum().backward()
    assert seen
    assert not any(seen)
    assert torch._C._is_multithreading_enabled()
