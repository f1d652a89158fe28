"""What every method returns: one kind of solution, dense, and made of data."""

import copy
import io
import pickle

import pytest
import torch
from problems import noise

import secondorder as so

METHODS = [*so.METHODS, *so.ADAPTIVE, "dopri5", "rk4", "scipy_RK45"]


class Spring(torch.nn.Module):
    """A field that can be pickled."""

    def __init__(self):
        super().__init__()
        self.stiffness = torch.nn.Parameter(torch.tensor(4.0, dtype=torch.float64))

    def forward(self, t, x, *rest):
        return -self.stiffness * x


@pytest.mark.parametrize("method", METHODS)
def test_a_solution_is_pickled_with_its_dense_output(method):
    velocity = method in so.METHODS and so.METHODS[method].takes_velocity
    system = so.Acceleration(Spring(), 0.3) if velocity else so.SecondOrder(Spring())
    fixed = method in so.METHODS or method == "rk4"
    how = {"step_size": 0.05} if fixed else {}
    with torch.no_grad():
        sol = so.odeint(system, (noise(2, 3, dtype=torch.float64), None),
                        [0.0, 0.5, 1.0], method=method, **how)  # fmt: skip
        assert isinstance(sol.dense, so.DenseOutput)
        times = torch.tensor([0.2, 0.5, 0.77], dtype=torch.float64)
        for twin in (pickle.loads(pickle.dumps(sol)), copy.deepcopy(sol)):
            for one, two in zip(sol(times), twin(times), strict=True):
                assert torch.equal(one, two)


def test_solutions_and_states_are_saved_by_torch():
    net, file = so.MomentumNet([torch.nn.Linear(3, 3)] * 3), io.BytesIO()
    x = noise(2, 3)
    torch.save(net.state(x), file)
    file.seek(0)
    assert torch.equal(net.inverse(torch.load(file, weights_only=True))[0], x)
