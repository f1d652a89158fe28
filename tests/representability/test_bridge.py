"""Models lend their numbers, and witnesses run as models."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import secondorder as so
from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    integrate,
    network_of,
    of,
    represent,
)

MIRROR = np.diag([-1.0, 2.0])
REACHED = np.array([[0.5, -1.0], [2.0, 0.3]])
LAYERS = [Discrete(6, 0.9, start=s) for s in ("rest", "force", 0.2)]
ODES = [Continuous(0.5, 1.5, s) for s in ("rest", "force", -0.7)]


@pytest.mark.parametrize("m", LAYERS + ODES + [FirstOrder(2.0)], ids=str)
def test_a_witness_integrates_to_its_target(m):
    theta = represent(REACHED, m).theta
    np.testing.assert_allclose(integrate(theta, m), REACHED, atol=1e-9)
    tensor = integrate(torch.as_tensor(theta), m)
    assert torch.is_tensor(tensor)


@pytest.mark.parametrize("m", LAYERS, ids=str)
def test_layers_run_as_a_momentum_net_and_lend_their_numbers(m):
    witness = represent(REACHED, m)
    net = witness.module(so.MomentumNet, gradient="backprop")
    x = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(net(x), x @ torch.as_tensor(REACHED).T)
    assert of(net) == m
    by_net = integrate(witness.theta, m, so.MomentumNet, gradient="backprop")
    np.testing.assert_allclose(by_net, REACHED, atol=1e-10)


@pytest.mark.parametrize("m", ODES, ids=str)
def test_an_ode_runs_as_a_module_and_lends_its_numbers(m):
    witness = represent(REACHED, m)
    options = {"steps": 200, "method": "blanes_moan6"}
    net = witness.module(so.SecondOrderODE, **options)
    x = torch.randn(7, 2, dtype=torch.float64)
    target = x @ torch.as_tensor(REACHED).T
    torch.testing.assert_close(net(x), target, rtol=1e-8, atol=1e-8)
    assert of(net) == m
    by_solver = integrate(witness.theta, m, so.SecondOrderODE, **options)
    np.testing.assert_allclose(by_solver, REACHED, atol=1e-8)


def test_the_velocity_of_a_momentum_net_is_the_start():
    block = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    net = so.MomentumNet([block] * 4, gamma=0.8, velocity=block, gradient="backprop")
    m = of(net)
    assert m == Discrete(4, 0.8, start="force")
    with torch.no_grad():
        expected = m.response(block.weight)
        found = net(torch.eye(2, dtype=torch.float64)).T
    torch.testing.assert_close(found, expected)
    twin = so.MomentumNet([block] * 4, gamma=0.8, velocity=copy.deepcopy(block))
    assert of(twin).start == "force"


def test_numbers_of_models():
    field = nn.Linear(2, 2, bias=False)
    ode = so.SecondOrderODE(so.Autonomous(field), epsilon=0.3, t1=2.0, steps=5)
    assert of(ode) == Continuous(0.3, 2.0)
    by_gamma = so.SecondOrderODE(
        so.Autonomous(field), gamma=0.8, t1=1.0, steps=10, method="momentum"
    )
    assert of(by_gamma).layers == 10
    assert of(by_gamma).gamma == pytest.approx(0.8)
    m = Continuous(1.0)
    assert of(m) is m
    resting = so.MomentumNet([field] * 3, velocity=torch.zeros(2))
    assert of(resting).start == "rest"


def test_what_the_theory_does_not_cover_raises():
    field = nn.Linear(2, 2, bias=False)
    with pytest.raises(TypeError, match="`network` must have `blocks`"):
        of(nn.ReLU())
    with pytest.raises(ValueError, match="`velocity` must be"):
        of(so.MomentumNet([field] * 3, velocity=torch.ones(2)))
    gammas = torch.tensor([0.5, 0.9])
    with pytest.raises(ValueError, match="`gamma` must be one number"):
        of(so.MomentumNet([field] * 3, gamma=nn.Parameter(gammas)))
    with pytest.raises(TypeError, match="FirstOrder has no inertia"):
        network_of(REACHED, FirstOrder(), so.SecondOrderODE)
    with pytest.raises(ValueError, match="`theta` must be a square"):
        integrate([1.0], Continuous(1.0))
