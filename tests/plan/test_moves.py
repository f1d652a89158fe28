"""The elementary maps: forward, inverse, determinant, the hand-written recursion."""

import math

import pytest
import torch
from problems import mlp, noise

import secondorder as so
from secondorder.plan import (
    Damp,
    Drift,
    Kick,
    Record,
    compile_plan,
    log_determinant,
    momentum_plan,
    reverse,
    walk,
)

SIDELESS = [name for name, m in so.METHODS.items() if not m.takes_velocity]


@pytest.mark.parametrize("layers", [1, 10, 1000])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_plan_is_the_momentum_recursion(layers, gamma, dtype):
    f, x0 = mlp(dtype=dtype), noise(3, 4, dtype=dtype)
    plan = (*momentum_plan(gamma, layers), Record())
    with torch.no_grad():
        ((x, v),), _ = walk(plan, lambda n, x: f(x), x0, torch.zeros_like(x0))
        y, w = x0, torch.zeros_like(x0)
        for _ in range(layers):
            w = gamma * w + (1 - gamma) * f(y)
            y = y + w
    # The same operations in the same order: not one bit differs.
    assert torch.equal(x, y)
    assert torch.equal(v, w)


@pytest.mark.parametrize("name", SIDELESS)
def test_a_step_and_its_inverse_are_the_identity(name):
    # Smooth field, h/ε = 0.4: no amplification, so a few roundings of 1.1e-16.
    system = so.SecondOrder(lambda t, x: torch.sin(x.flip(-1)) + torch.cos(t), 0.5)
    x, v = noise(2, 5, 3, dtype=torch.float64)
    plan = compile_plan(
        so.METHODS[name], system, torch.tensor([0.3, 0.5]).double(), [1], x
    )
    (pair,), _ = walk(plan, system.field, x, v)
    scale = plan[-1].scale  # records show v, moves carry what the method carries
    back = reverse(plan[:-1])
    _, (y, w, _) = walk(back, system.field, pair[0], pair[1] / scale)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(w, v, rtol=0, atol=2e-14)


@pytest.mark.parametrize("name", SIDELESS)
def test_log_determinant_is_that_of_the_jacobian(name):
    system = so.SecondOrder(lambda t, x: torch.sin(x.flip(-1)) * x, 0.7)
    state = noise(4, dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 0.7], dtype=torch.float64)
    plan = compile_plan(so.METHODS[name], system, t, [2, 1], state[:2])

    def step(s):
        records, _ = walk(plan, system.field, s[:2], s[2:])
        return torch.cat(records[-1])

    jacobian = torch.autograd.functional.jacobian(step, state)
    scale = plan[-1].scale
    expected = log_determinant(plan, 2) + 2 * math.log(scale)
    assert torch.logdet(jacobian).item() == pytest.approx(expected, abs=1e-12)
    if name != "momentum":
        assert expected == pytest.approx(-2 * 0.7 / 0.7, abs=1e-12)  # −d T/ε


def test_log_determinant_counts_coordinates():
    plan = (Damp(0.5), Kick(1.0), Drift(2.0), Damp(torch.tensor([0.5, 0.25])))
    assert float(log_determinant(plan, 2)) == pytest.approx(-5 * math.log(2))


@pytest.mark.parametrize("value", [torch.zeros(2, 5), 1.0, None])
def test_a_field_of_another_shape_is_named(value):
    with pytest.raises(ValueError, match="`field` returned"):
        so.odeint(
            so.SecondOrder(lambda t, x: value), (torch.zeros(2, 4), None), [0.0, 1.0]
        )
