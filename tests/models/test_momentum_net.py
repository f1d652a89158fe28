"""Momentum ResNets: rules, γ per layer and in training, velocities, memory."""

import copy
import math
import pickle

import pytest
import torch
from problems import counted, gradients, mlp, noise, worst
from torch import nn

import secondorder as so

F64 = torch.float64
ROUTES = ["backprop", "reversible", "checkpoint"]
SIGNED = [0.9, -0.5, 1.0, -1.0, 0.25, -0.9]


def blocks(n=6, dtype=F64):
    return [mlp(dtype=dtype, seed=i) for i in range(n)]


def by_hand(net, x, v, gammas, rule):
    for block, g in zip(net.blocks, gammas, strict=True):
        v = g * v + (1.0 if rule == "unnormalised" else 1 - g) * block(x)
        x = x + v
    return x, v


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "rule, gammas",
    [("momentum", [0.9, 0.1, 0.5, 0.99, 0.3, 0.7]), ("unnormalised", SIGNED)],
)
def test_rules_with_one_momentum_per_layer(route, rule, gammas):
    net = so.MomentumNet(blocks(), gammas, route, rule=rule)
    x, v0 = noise(3, 4, dtype=F64), noise(3, 4, dtype=F64, seed=7)
    xs, vs = net.trajectory(x, velocity=v0)
    x_n, v_n = by_hand(net, x, v0, gammas, rule)
    torch.testing.assert_close(xs[-1], x_n, rtol=0, atol=1e-11)
    torch.testing.assert_close(vs[-1], v_n, rtol=0, atol=1e-11)
    found = gradients(net, x)
    plain = so.MomentumNet(net.blocks, gammas, "backprop", rule=rule)
    assert worst(found, gradients(plain, x)) < 1e-10
    x0, back = net.inverse(net.state(x, velocity=v0))
    assert torch.equal(x0, x)
    assert torch.equal(back, v0)
    expected = 4 * sum(math.log(abs(g)) for g in gammas)
    assert net.log_determinant(4) == pytest.approx(expected)


def test_a_list_of_equal_numbers_is_the_number_bit_for_bit():
    x = noise(3, 4)
    for route in ROUTES:
        net = so.MomentumNet(blocks(dtype=torch.float32), 0.7, route)
        assert torch.equal(so.MomentumNet(net.blocks, 6 * [0.7], route)(x), net(x))


def test_learned_momenta_of_layers():
    gammas = [nn.Parameter(torch.tensor(g, dtype=F64)) for g in (0.9, -0.4)]
    net = so.MomentumNet(blocks(3), [*gammas, 0.5], rule="unnormalised")
    plain = so.MomentumNet(net.blocks, [*gammas, 0.5], "backprop", rule="unnormalised")
    x = noise(3, 4, dtype=F64)
    assert worst(gradients(net, x), gradients(plain, x)) < 1e-9
    assert {"gamma_0", "gamma_1"} <= {name for name, _ in net.named_parameters()}
    (slope,) = torch.autograd.grad(net.log_determinant(4), gammas[1])
    assert slope.item() == pytest.approx(4 / -0.4)
    other = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert torch.equal(other(x), net(x))
    other.load_state_dict(net.state_dict())


def test_other_fixed_momenta_are_told_when_a_checkpoint_is_loaded():
    net = so.MomentumNet(blocks(2), [0.5, 0.6])
    with pytest.raises(RuntimeError, match=r"gamma\[1\]"):
        so.MomentumNet(blocks(2), [0.5, 0.7]).load_state_dict(net.state_dict())


@pytest.mark.parametrize("route", ROUTES)
def test_a_velocity_for_one_call_gets_its_gradient(route):
    x, v = noise(3, 4, dtype=F64), noise(3, 4, dtype=F64, seed=3).requires_grad_()
    net = so.MomentumNet(blocks(), 0.9, route, velocity=noise(4, dtype=F64))
    expected, _ = by_hand(net, x, v, 6 * [0.9], "momentum")
    found = net(x, velocity=v)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    pairs = [torch.autograd.grad(y.square().sum(), v) for y in (found, expected)]
    assert worst(*pairs) < 1e-10
    assert torch.equal(net(x, velocity=None), net(x))
    with pytest.raises(TypeError, match="`velocity`"):
        net(x, velocity="fast")
    with pytest.raises(ValueError, match="`velocity`"):
        net(x, velocity=noise(5, dtype=F64))


def test_gamma_changes_in_training_and_takes_the_route_along():
    net, x = (
        so.MomentumNet(blocks(), 0.5, so.reversible(keep=2)),
        noise(3, 4, dtype=F64),
    )
    for gamma in (0.0, 0.2, 6 * [0.0], 0.9):
        net.set_gamma(gamma)
        zero = gamma in (0.0, 6 * [0.0])
        assert net.gradient == (so.checkpoint if zero else so.reversible(keep=2))
        plain = so.MomentumNet(net.blocks, gamma, "backprop")
        assert worst(gradients(net, x), gradients(plain, x)) < 1e-10
    assert so.MomentumNet(blocks(), 0.0, "backprop").log_determinant(4) == -math.inf
    learned = nn.Parameter(torch.tensor(0.5))
    net = so.MomentumNet(blocks(), learned)
    net.set_gamma(0.25)
    assert net.gamma is learned
    assert learned.item() == 0.25
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        net.set_gamma(-0.1)
    assert learned.item() == 0.25


def test_log_determinant_of_a_momentum_per_coordinate():
    gamma = torch.tensor([0.5, 0.25], dtype=F64)
    net = so.MomentumNet([nn.Linear(2, 2).double()] * 3, gamma)
    expected = 3 * math.log(0.5 * 0.25)
    assert net.log_determinant(2).item() == pytest.approx(expected)
    assert net.log_determinant(10).item() == pytest.approx(5 * expected)
    with pytest.raises(ValueError, match="`dimension`"):
        net.log_determinant(3)
    x, v = noise(2, dtype=F64), noise(2, dtype=F64, seed=2)

    def flow(z):
        both = so.MomentumNet(net.blocks, gamma, "backprop")
        xs, vs = both.trajectory(z[:2], velocity=z[2:])
        return torch.cat([xs[-1], vs[-1]])

    jacobian = torch.autograd.functional.jacobian(flow, torch.cat([x, v]))
    assert jacobian.det().abs().log().item() == pytest.approx(expected)


def test_kept_graphs_and_a_budget_change_no_gradient():
    net, x = so.MomentumNet(blocks(), 0.9), noise(5, 4, dtype=F64)
    expected = gradients(net, x)
    held = so.memory_report(net, x).held
    assert held["reversible, keep=6"] == held["backprop"]
    layer = (held["reversible, keep=3"] - held["reversible"]) / 3
    for keep in (0, 2, 6):
        kept = so.MomentumNet(net.blocks, 0.9, keep=keep)
        assert kept.gradient == so.reversible(keep=keep)
        memory = math.ceil(held["reversible"] + (keep + 0.5) * layer)
        memory = held["backprop"] if keep == 6 else memory
        fitted = so.MomentumNet(net.blocks, 0.9, memory=memory)
        for other in (kept, fitted):
            for found, wanted in zip(gradients(other, x), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)
        assert [*fitted.budget.known.values()] == [keep]
    assert [*so.memory_report(fitted, x).held][-1] == "reversible, keep=6"
    with pytest.raises(ValueError, match="`memory`"):
        so.MomentumNet(net.blocks, 0.9, memory=100)(x)


def test_the_report_counts_what_routes_hold():
    net, x = so.MomentumNet(blocks(16), 0.5), noise(50, 4, dtype=F64)
    report = so.memory_report(net, x)
    # Of each block the input and, once though two nodes save it, the hidden layer.
    assert report.held["backprop"] == 16 * (x.nbytes + 2 * x.nbytes)
    plain = so.MomentumNet(net.blocks, 0.5, "backprop")
    assert report.held["backprop"] < counted(plain, x) < 2 * report.held["backprop"]
    # 16 bits, the last eight of which are still in the velocity.
    assert report.held["reversible"] == net.state(x).nbytes == x.numel() * (16 + 1)
    assert report.held["checkpoint"] == 2 * 4 * x.nbytes
    assert "checkpoint" in str(report)
    assert "reversible" not in so.memory_report(
        so.MomentumNet(net.blocks, 0.0, "backprop"), x
    ).held  # fmt: skip


def test_measuring_leaves_statistics_and_random_numbers_alone():
    def make(**more):
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        return so.MomentumNet([block, copy.deepcopy(block)], 0.9, **more)

    x, ends = noise(8, 4), []
    for more in ({}, {"memory": "1MB"}):
        net = make(**more)
        torch.manual_seed(1)
        ends.append((net(x), torch.rand(2), *net.buffers()))
    for found, expected in zip(*ends, strict=True):
        torch.testing.assert_close(found, expected)  # all fit: floats, no grid


@pytest.mark.parametrize(
    "options, says",
    [
        ({"gamma": [0.5]}, "1 entries for 2 layers"),
        ({"gamma": [0.5, 1.0]}, r"\[0, 1\)"),
        ({"gamma": 1.1, "rule": "unnormalised"}, r"\[-1, 1\]"),
        ({"gamma": [0.5, 0.0]}, "checkpoint"),
        ({"rule": "fast"}, "`rule`"),
        ({"keep": 1, "memory": 10}, "not both"),
        ({"keep": -1}, "`keep`"),
        ({"keep": 1, "gradient": "backprop"}, "`keep`"),
        ({"memory": 10, "gradient": "checkpoint"}, "`memory`"),
        ({"memory": "much"}, "`memory`"),
        ({"memory": 0}, "`memory`"),
    ],
)
def test_bad_arguments_are_refused_with_advice(options, says):
    with pytest.raises(ValueError, match=says):
        so.MomentumNet(blocks(2), **options)


def test_amounts_of_memory_are_read():
    for text, size in {"512MB": 512e6, "2GiB": 2**31, "1.5 kb": 1500, "7": 7}.items():
        assert so.MomentumNet(blocks(1), memory=text).budget.bytes == size
