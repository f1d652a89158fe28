"""A density on pairs (x, v): its determinant, its samples, its gradients."""

import math

import pytest
import torch
from problems import mlp, noise, worst
from torch import nn

import secondorder as so

D = torch.float64


def flow(gamma=0.8, gradient="reversible", depth=6, **how):
    blocks = [mlp(2, 8, D, seed=n) for n in range(depth)]
    return so.MomentumFlow(blocks, gamma, gradient, **how)


@pytest.mark.parametrize(
    ("gamma", "rule"),
    [(0.8, "momentum"), (-0.5, "unnormalised"), (1.0, "unnormalised"),
     ([0.5, 0.6, 0.7, 0.8, 0.9, 0.95], "momentum")],
)  # fmt: skip
def test_the_density_is_that_of_the_change_of_variables(gamma, rule):
    net = flow(gamma, rule=rule)

    def latent(pair):
        ends = net.run(pair[None, :2], (), {}, [6], pair[None, 2:])[-1]
        return torch.cat(ends, -1)[0]

    net.gradient = so.backprop
    x, v = noise(2, 3, 2, dtype=D)
    found = net.log_prob(x, v)
    for i in range(3):
        pair = torch.cat([x[i], v[i]])
        jacobian = torch.autograd.functional.jacobian(latent, pair)
        normal = torch.distributions.Normal(torch.zeros(4, dtype=D), 1.0)
        wanted = normal.log_prob(latent(pair)).sum()
        wanted = wanted + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(found[i], wanted)
        torch.testing.assert_close(net.log_prob(x[i], v[i]), wanted)


def test_it_integrates_to_one():
    torch.manual_seed(0)
    net = so.MomentumFlow([mlp(1, 8, D, seed=n) for n in range(3)], 0.7)
    axis = torch.linspace(-30, 30, 601, dtype=D)
    with torch.no_grad():
        x, v = torch.meshgrid(axis, axis, indexing="ij")
        mass = net.log_prob(x.reshape(-1, 1), v.reshape(-1, 1)).exp().sum() * 0.01
    assert mass.item() == pytest.approx(1, abs=1e-6)


def test_samples_come_from_the_density():
    """Of a sample and of the normal pair it comes from: they differ by the volume."""
    net = flow()
    torch.manual_seed(1)
    x, v = net.sample(50)
    assert x.shape == v.shape == (50, 2) and x.dtype == D
    torch.manual_seed(1)
    normal = torch.randn(2, 50, 2, dtype=D)
    latent = -normal.square().sum((0, 2)) / 2 - 2 * math.log(2 * math.pi)
    volume = 2 * 6 * math.log(0.8)
    torch.testing.assert_close(net.log_prob(x, v), latent + volume, rtol=0, atol=1e-10)
    (x + v).sum().backward()  # reparametrised
    assert all(p.grad is not None for p in net.parameters())


def test_gradients_of_all_routes_with_a_learned_momentum():
    x, v = noise(2, 5, 2, dtype=D)
    grads = []
    for gradient in ("backprop", "checkpoint", "reversible"):
        gamma = nn.Parameter(torch.tensor(0.8, dtype=D))
        net = flow(gamma, gradient)
        loss = -net.log_prob(x, v).mean()
        grads.append(torch.autograd.grad(loss, list(net.parameters())))
    assert worst(grads[1], grads[0]) < 1e-12
    assert worst(grads[2], grads[0]) < 1e-10


def test_images_empty_batches_and_other_shapes():
    class Scale(nn.Module):
        def forward(self, x):
            return 0.1 * x

    net = so.MomentumFlow([Scale()] * 3, 0.9)
    with pytest.raises(ValueError, match="`shape` of a sample is not known"):
        net.sample(3)
    assert net.log_prob(torch.ones(0, 2, 4, 4), torch.ones(0, 2, 4, 4)).shape == (0,)
    assert net.sample(3)[0].shape == (3, 2, 4, 4)
    assert so.MomentumFlow([Scale()], 0.9, shape=5).sample(0)[1].shape == (0, 5)


def test_refusals():
    with pytest.raises(ValueError, match="erases the velocity"):
        flow(0.0, "backprop")
    with pytest.raises(ValueError, match="`v0` must match"):
        flow().log_prob(torch.zeros(3, 2, dtype=D), torch.zeros(2, dtype=D))
    with pytest.raises(ValueError, match="`n` must be"):
        flow().sample(-1)
    with pytest.raises(ValueError, match="`x` must have shape"):
        flow().log_prob(torch.tensor(0.0), torch.tensor(0.0))
    with pytest.warns(UserWarning, match="undoing the damping"):
        flow(0.1, depth=40).sample(3)
