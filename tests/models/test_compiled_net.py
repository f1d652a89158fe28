"""Momentum ResNets compiled: one block for all layers, the weights stacked.

What dynamo has traced runs as it is, without the C++ compiler: what is tested is how
weights, buffers and arguments reach the rows, and what is refused.
"""

import copy
import pickle
import warnings

import pytest
import torch
from problems import gradients, mlp, noise, worst
from torch import nn

import secondorder as so

ROUTES = ["backprop", "reversible"]


pytestmark = pytest.mark.usefixtures("traced")


class Shifted(nn.Module):
    """A block with a buffer, and with arguments, one of them nested."""

    def __init__(self, seed):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(4), mlp(4, seed=seed))
        self.register_buffer("shift", noise(4, seed=seed))

    def forward(self, x, mask, push=None):
        return mask * self.net(x + self.shift) + push["by"]


def distinct(n=6):
    return [mlp(4, seed=i) for i in range(n)]


CASES = {  # routes in turns
    "tied": (lambda: 7 * [mlp(4)], 0.9),
    "in turns": (lambda: 20 * [mlp(4), mlp(4, seed=1)], 0.8),  # bytes move
    "distinct": (distinct, 0.9),
    "momenta of layers": (lambda: distinct(3), [0.9, 0.2, 0.5]),
}


@pytest.mark.parametrize(("name", "route"), [*zip(CASES, 2 * ROUTES, strict=True)])
def test_layers_compiled_are_the_layers(name, route):
    make, gamma = CASES[name]
    net = so.MomentumNet(make(), gamma, route, compile=True)
    eager = so.MomentumNet(net.blocks, gamma, route)
    x = noise(3, 4)
    assert worst(gradients(net, x), gradients(eager, x)) < 2e-6
    stats = so.compile_stats(net)
    assert stats.compilations == 2 and not stats.fallbacks


def test_a_compiled_network_is_a_network_like_any_other():
    net = so.MomentumNet(distinct(3), compile=True)
    eager = so.MomentumNet(net.blocks)
    x = noise(3, 4)
    with torch.no_grad():  # no way back to compile
        for ours, theirs in zip(net.trajectory(x), eager.trajectory(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            torch.testing.assert_close(other(x), eager(x), rtol=0, atol=2e-6)
            assert so.compile_stats(other).compilations == 1  # it compiles, too
    state = net.state(x)
    assert torch.equal(net.inverse(state)[0], x)
    assert net.state_dict().keys() == eager.state_dict().keys()


@pytest.mark.parametrize("route", ROUTES)
def test_buffers_frozen_weights_and_arguments_reach_their_layers(route):
    net = so.MomentumNet([Shifted(i) for i in range(5)], 0.9, route, compile=True)
    net.blocks[2].net[1][0].weight.requires_grad_(False)
    eager = so.MomentumNet(net.blocks, 0.9, route)
    mask, by = noise(3, 1, seed=5), noise(4, seed=6).requires_grad_()

    def found(model):
        model.zero_grad()
        by.grad = None
        model(noise(3, 4), mask, push={"by": by}).square().sum().backward()
        learned = [p for p in model.parameters() if p.requires_grad]
        assert model.blocks[2].net[1][0].weight.grad is None
        return [by.grad, *(p.grad.clone() for p in learned)]

    assert worst(found(net), found(eager)) < 2e-6
    assert not so.compile_stats(net).fallbacks


def test_a_network_trains_compiled():
    x = noise(16, 4)
    losses = []
    for compiled in (True, False):
        net = so.MomentumNet(distinct(), compile=compiled)
        history = so.fit(net, lambda net: (net(x) + x).square().mean(), steps=5,
                         lr=0.01, progress=False)  # fmt: skip
        losses.append(torch.tensor(history.loss))
    assert so.compile_stats(net).compilations == 0  # the eager one
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    assert losses[0][-1] < losses[0][0]


def relu():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def sharper():
    block = mlp(4)
    block[1].power = 2.0  # whatever a block may read
    return block


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (relu, "Tanh and ReLU at '1'"),
        (lambda: mlp(4, 9), "blocks 0 and 1 .*_features` differs"),
        (sharper, "`1.power` differs"),
        (lambda: mlp(4).append(nn.Identity()), "other parts"),
        (lambda: lambda x: -x, "Sequential and Function"),
        (lambda: mlp(4).eval(), "`training` differs"),
    ],
)
def test_blocks_that_are_not_alike_run_eagerly_after_one_warning(other, reason):
    net = so.MomentumNet([mlp(4), other()], compile=True)
    eager = so.MomentumNet(net.blocks)
    x = noise(3, 4)
    with pytest.warns(so.CompileWarning, match=reason):
        ours = net(x)
    assert torch.equal(ours, eager(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(x)


def test_what_a_network_does_not_compile_is_told():
    x = noise(3, 4)
    for more, reason in (
        ({"gradient": "checkpoint"}, "'checkpoint' has no compiled form"),
        ({"keep": 2}, "the options"),
    ):
        with pytest.warns(so.CompileWarning, match=reason):
            so.MomentumNet(distinct(), compile=True, **more)(x)
    net = so.MomentumNet(distinct(), compile=True)
    net.set_gamma(0.0)
    with pytest.warns(so.CompileWarning, match="'checkpoint'"):
        net(x)
    net.set_gamma(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(x)
    with pytest.raises(TypeError, match="`compile` must be True or False"):
        so.MomentumNet(distinct(), compile="yes")
