"""The comparison of gradient routes: right numbers, reasons, and no side effects."""

from functools import partial

import pytest
import torch
from torch import nn

import secondorder as so


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
    return so.Autonomous(net)


def problem():
    system = so.SecondOrder(network(), nn.Parameter(torch.tensor(0.5)))
    return system, (torch.randn(4, 3), None), torch.linspace(0, 1, 21)


def test_routes_agree_to_the_precision_of_the_state():
    table = so.check_gradient(*problem())
    for route in ("backprop", "checkpoint", "reversible"):
        row = table[route]
        assert set(row.errors) == {"x0", "v0", "parameters"}
        assert 0 < max(row.errors.values()) < 2e-6
        assert row.seconds > 0 and row.saved > 0 and not row.reason
    assert table["reversible"].saved < table["checkpoint"].saved
    assert table["checkpoint"].saved < table["backprop"].saved


def test_in_double_precision_backprop_is_the_reference_itself():
    system, (x, _), t = problem()
    table = so.check_gradient(system.double(), (x.double(), None), t.double())
    assert set(table["backprop"].errors.values()) == {0.0}
    assert max(table["reversible"].errors.values()) < 1e-10


def test_a_wrong_gradient_shows():
    def wrong(plan, field, x, v, args=()):
        return [(y, 1.5 * w - 0.5 * w.detach()) for y, w in
                so.backprop(plan, field, x, v, args)]  # fmt: skip

    row = so.check_gradient(*problem(), gradients=[wrong])["wrong"]
    assert 0.01 < row.errors["parameters"] < 1
    right = so.check_gradient(*problem(), gradients=["backprop"])["backprop"]
    assert right.errors["parameters"] < 1e-6


@pytest.mark.parametrize("method", ["verlet", "adaptive", "rkn8", "dopri5"])
def test_routes_that_raise_give_their_reason(method):
    refused = {
        "verlet": {"adjoint"},
        "adaptive": {"adjoint"},
        "rkn8": {"adjoint", "reversible"},
        "dopri5": {"checkpoint", "reversible"},
    }[method]
    table = so.check_gradient(*problem(), method=method)
    assert {row.gradient for row in table.rows} == set(so.GRADIENTS)
    assert {row.gradient for row in table.rows if row.reason} == refused
    for route in refused:
        assert "gradient" in table[route].reason
        assert "raises: " in repr(table)
    within = 1e-4 if method == "dopri5" else 2e-5  # other steps in float64
    for row in table.rows:
        assert max(row.errors.values(), default=0) < within


def test_warnings_are_shown_not_raised():
    system, state, _ = problem()
    system.epsilon.data.fill_(0.05)
    t = torch.tensor([0.0, 1.0])
    table = so.check_gradient(system, state, t, method="rk4", gradients=["adjoint"])
    assert "digits" in table["adjoint"].warning
    assert "warns: " in repr(table)


def test_the_table_is_readable():
    text = repr(so.check_gradient(*problem(), gradients=["reversible", "adjoint"]))
    lines = text.splitlines()
    assert lines[0] == "method 'verlet', relative errors against backprop in float64"
    titles = ["gradient", "x0", "v0", "parameters", "kept", "time"]
    assert lines[1].split() == titles
    assert lines[2].startswith("reversible") and lines[2].endswith("ms")
    assert lines[3].startswith("adjoint") and "raises: " in lines[3]
    assert max(map(len, lines)) <= 88


def test_own_loss_arguments_and_options():
    system = so.SecondOrder(lambda t, x, k, n: -k * x)
    k = torch.tensor(2.0, requires_grad=True)
    table = so.check_gradient(
        system,
        (torch.ones(2), torch.zeros(2)),
        torch.linspace(0, 1, 11),
        method="blanes_moan4",
        step_size=0.05,
        args=(k, 3),
        gradients=[partial(so.reversible, keep=2), "backprop"],
        loss=lambda x, v: x[-1].sum(),
    )
    for row in table.rows:
        assert set(row.errors) == {"x0", "v0", "args"}
        assert max(row.errors.values()) < 1e-6
    assert k.grad is None


def test_nothing_of_the_system_changes():
    class Drop(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.3)

        def forward(self, t, x):
            return torch.tanh(self.drop(self.norm(x)))

    system = so.SecondOrder(Drop())
    before = {name: value.clone() for name, value in system.state_dict().items()}
    dice = torch.get_rng_state()
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    table = so.check_gradient(system, (x, None), torch.linspace(0, 1, 5))
    assert torch.equal(dice, torch.get_rng_state())
    for name, value in system.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in system.parameters())
    # The same masks for every route: they differ by rounding, not by chance.
    rows = [table[route].errors["x0"] for route in ("backprop", "reversible")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-2, abs=1e-5)


def test_a_field_that_takes_no_float64_is_compared_in_its_own_precision():
    net = network()
    system = so.SecondOrder(lambda t, x: net(t, x))
    table = so.check_gradient(system, (torch.ones(2, 3), None), torch.linspace(0, 1, 5))
    assert "float32" in table.reference
    assert set(table["backprop"].errors.values()) == {0.0}
    assert "closure" in table["reversible"].reason


def test_a_broken_field_raises_its_own_error():
    system = so.SecondOrder(lambda t, x: x[..., :1])
    with pytest.raises(ValueError, match="`field` returned"):
        so.check_gradient(system, (torch.ones(2, 3), None), torch.linspace(0, 1, 5))
