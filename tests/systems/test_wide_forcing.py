"""A forcing that is wider than the state: its times are never coarser than float32."""

import pytest
import torch
from problems import noise

import secondorder as so

HALF = torch.bfloat16


@pytest.mark.parametrize("method", ["chin4", "verlet"])
@pytest.mark.parametrize("matrix", [False, True])
def test_a_half_precision_network_takes_a_forcing(method, matrix):
    net = torch.nn.Linear(2, 2, dtype=HALF)
    mass = torch.tensor([[2.0, 0.3], [0.3, 1.0]]) if matrix else 1.0
    system = so.Newton(lambda t, x, u: net(x) + u, mass=mass)
    u = so.forcing.Cubic(torch.linspace(0, 1, 5), torch.ones(5))
    with torch.no_grad():
        sol = so.odeint(system, (noise(3, 2, dtype=HALF), None), [0.0, 0.5, 1.0],
                        method=method, forcing=u)  # fmt: skip
    assert sol.x.dtype == HALF
    assert bool(sol.x.isfinite().all())


def test_an_empty_batch_with_times_of_its_own_takes_a_forcing():
    u = so.forcing.Linear(torch.linspace(0, 1, 5), torch.ones(5))
    system = so.SecondOrder(lambda t, x, u: u - x)
    sol = so.odeint(system, (torch.zeros(0, 2), None), torch.zeros(0, 3), forcing=u)
    assert sol.x.shape == (3, 0, 2)
