"""Every model of the neighbourhood: its paper's formula, its gradients, its inverse."""

import math

import pytest
import torch
from problems import mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder import related

D = torch.float64
ROUTES = ("backprop", "checkpoint", "reversible")


def blocks(count=6, d=4):
    return [mlp(d, 6, D, seed=n) for n in range(count)]


class Drag(nn.Module):
    """ẍ = net(x) − ẋ |ẋ|."""

    def __init__(self):
        super().__init__()
        self.net = mlp(4, 6, D)

    def forward(self, t, x, v):
        return self.net(x) - v * v.abs() + torch.sin(t)


class Driven(nn.Module):
    """f(t, x) = net(x) + sin t."""

    def __init__(self, d=4):
        super().__init__()
        self.net = mlp(d, 6, D)

    def forward(self, t, x):
        return self.net(x) + torch.sin(t)


# Each model, and the formula of its paper written out by hand.


def resnet(gradient):
    return related.ResNet(blocks(), gradient), noise(3, 4, dtype=D)


def resnet_by_hand(net, x):
    for block in net.blocks:
        x = x + block(x)
    return x


def revnet(gradient):
    return related.RevNet(blocks(d=2), gradient=gradient), noise(3, 4, dtype=D)


def revnet_by_hand(net, x):
    a, b = x.chunk(2, -1)
    for f, g in zip(net.blocks[::2], net.blocks[1::2], strict=True):
        a = a + f(b)
        b = b + g(a)
    return torch.cat([a, b], -1)


def bdia(gradient):
    return related.BDIANet(blocks(), gradient=gradient), noise(3, 4, dtype=D)


def bdia_by_hand(net, x):
    before, now = x, x + net.blocks[0](x)
    for block in net.blocks[1:]:
        gamma = net.share * (2.0 * torch.randint(2, (3, 1)) - 1)
        after = gamma * before + (1 - gamma) * now + (1 + gamma) * block(now)
        before, now = now, after
    return now


def rk4(slope, y, h, steps):
    for n in range(steps):
        t = torch.tensor(n * h, dtype=D)
        k1 = slope(t, y)
        k2 = slope(t + h / 2, y + h / 2 * k1)
        k3 = slope(t + h / 2, y + h / 2 * k2)
        k4 = slope(t + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def node(gradient):
    model = related.NeuralODE(Driven(6), steps=40, augment=2, gradient=gradient)
    return model, noise(3, 4, dtype=D)


def node_by_hand(net, x):
    y = torch.cat([x, torch.zeros(len(x), 2, dtype=D)], -1)
    return rk4(net.system.field, y, 1 / 40, 40)


def sonode(gradient):
    start = mlp(4, 6, D, seed=5)
    model = related.SecondOrderNODE(Drag(), start, steps=40, gradient=gradient)
    return model, noise(3, 4, dtype=D)


def sonode_by_hand(net, x):
    def slope(t, y):
        return torch.stack([y[1], net.system.field(t, y[0], y[1])])

    return rk4(slope, torch.stack([x, net.velocity(x)]), 1 / 40, 40)[0]


def heavy_ball(gradient):
    return related.HeavyBallODE(Driven(), steps=40, gradient=gradient), noise(
        3, 4, dtype=D
    )


def heavy_ball_by_hand(net, x):
    def slope(t, y):
        return torch.stack(
            [y[1], net.system.field(t, y[0]) - net.system.damping * y[1]]
        )

    return rk4(slope, torch.stack([x, torch.zeros_like(x)]), 1 / 40, 40)[0]


def nesterov(gradient):
    model = related.NesterovODE(Driven(), t1=2.0, steps=60, gradient=gradient)
    return model, noise(3, 4, dtype=D)


def nesterov_by_hand(net, x):
    # With v = t u:  ẋ = t u,  u̇ = (f − 4 u)/t, regular from u(0) = f(0)/4 on.
    def slope(t, y):
        return torch.stack([t * y[1], (net.field(t, y[0]) - 4 * y[1]) / t.clamp(1e-12)])

    start = net.field(torch.tensor(0.0, dtype=D), x) / 4
    return rk4(slope, torch.stack([x, start]), 2 / 400, 400)[0]


def sequence():
    return noise(20, 3, 2, dtype=D)


def seeded(model):
    torch.manual_seed(0)
    return model().double()


def cornn(gradient):
    return seeded(lambda: related.CoRNN(2, 4, 0.1, 1.2, 0.7, gradient)), sequence()


def cornn_by_hand(net, u):
    y = z = torch.zeros(3, 4, dtype=D)
    found = []
    for step in u:
        push = torch.tanh(net.mix(y) + net.drive(step)) - 1.2 * y
        z = (z + 0.1 * push) / (1 + 0.1 * 0.7)
        y = y + 0.1 * z
        found.append(y)
    return torch.stack(found)


def unicornn(gradient):
    return seeded(lambda: related.UnICORNN(2, 4, gradient=gradient)), sequence()


def unicornn_by_hand(net, u):
    y = z = torch.zeros(3, 4, dtype=D)
    found = []
    for step in u:
        scale = 0.1 * (0.5 + 0.5 * torch.tanh(net.c / 2))
        z = z - scale * (torch.tanh(net.w * y + net.drive(step)) + y)
        y = y + scale * z
        found.append(y)
    return torch.stack(found)


def linoss(gradient):
    return seeded(lambda: related.LinOSS(2, 4, gradient=gradient)), sequence()


def linoss_by_hand(net, u):
    """The recurrence of the paper, by the matrix of a step."""
    a = torch.relu(net.stiffness)
    one = torch.ones_like(a)
    step = torch.stack(
        [torch.stack([one, -0.1 * a], -1), torch.stack([0.1 * one, 1 - 0.01 * a], -1)],
        -2,
    )
    state = torch.zeros(3, 4, 2, dtype=D)
    found = []
    for entry in u:
        push = net.drive(entry)
        drive = torch.stack([0.1 * push, 0.01 * push], -1)
        state = (step @ state.unsqueeze(-1)).squeeze(-1) + drive
        found.append(state[..., 1])
    return torch.stack(found)


# Close to rounding where the formula is the model; else how far two integrators are
# apart: coupled and plain Runge–Kutta at h = 1/40, order 2 at h = 1/40 and 1/30.
MODELS = {
    "ResNet": (resnet, resnet_by_hand, 1e-13),
    "RevNet": (revnet, revnet_by_hand, 1e-12),
    "BDIANet": (bdia, bdia_by_hand, 1e-12),
    "NeuralODE": (node, node_by_hand, 1e-8),
    "SecondOrderNODE": (sonode, sonode_by_hand, 1e-6),
    "HeavyBallODE": (heavy_ball, heavy_ball_by_hand, 1e-3),
    "NesterovODE": (nesterov, nesterov_by_hand, 1e-3),
    "CoRNN": (cornn, cornn_by_hand, 1e-12),
    "UnICORNN": (unicornn, unicornn_by_hand, 1e-12),
    "LinOSS": (linoss, linoss_by_hand, 1e-12),
}


def test_all_are_here():
    assert set(MODELS) == set(related.__all__)


@pytest.mark.parametrize("name", MODELS)
def test_forward_is_the_papers_formula(name):
    make, by_hand, close = MODELS[name]
    model, x = make("backprop")
    torch.manual_seed(7)
    found = model(x)
    torch.manual_seed(7)
    assert worst([found], [by_hand(model, x)]) < close


@pytest.mark.parametrize("name", MODELS)
def test_gradients_agree_or_the_model_says_why_not(name):
    make, *_ = MODELS[name]
    if name == "ResNet":
        with pytest.raises(ValueError, match="cannot undo a residual network"):
            make("reversible")
    grads = []
    for route in ROUTES[:2] if name == "ResNet" else ROUTES:
        model, x = make(route)
        x.requires_grad_()
        torch.manual_seed(7)
        loss = model(x).square().sum()
        grads.append(torch.autograd.grad(loss, [x, *model.parameters()]))
    for found in grads[1:]:
        assert worst(found, grads[0]) < 1e-10


@pytest.mark.parametrize("name", ["RevNet", "HeavyBallODE", "NesterovODE"])
def test_the_way_back_is_exact(name):
    model, x = MODELS[name][0]("reversible")
    start = model.enter(x)
    state = model.state(x)
    torch.testing.assert_close(model.leave(state.x, state.v), model(x))
    for found, wanted in zip(model.inverse(state), start, strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in zip(model.inverse((state.x, state.v)), start, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)


def test_a_deep_revnet_comes_back_in_single_precision():
    net = related.RevNet([mlp(8, 16, seed=n) for n in range(400)], dim=1)
    x = noise(5, 16)
    first, second = net.inverse(net.state(x))
    assert torch.equal(torch.cat([first, second], 1), x)


def test_bdia_takes_an_empty_batch():
    net = related.BDIANet(blocks(), gradient="reversible")
    x = torch.zeros(0, 4, dtype=D, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.shape == (0, 4)


def test_bdia_is_a_residual_network_in_evaluation():
    net, x = bdia("reversible")
    net.eval()
    assert torch.equal(net(x), resnet_by_hand(net, x))
    net(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    with pytest.raises(NotImplementedError, match="hands out no `state`"):
        net.state(x)


def test_nesterov_is_of_order_two():
    model, x = nesterov("backprop")
    wanted, errors = nesterov_by_hand(model, x), []
    for steps in (20, 40):
        model.steps = steps
        errors.append((model(x) - wanted).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_paths_and_other_methods():
    x = noise(3, 4, dtype=D)
    pairs = {"coupled_dopri5": "reversible", "dopri5": "adjoint", "rk4": "backprop",
             "verlet": "checkpoint"}  # fmt: skip
    for method, gradient in pairs.items():
        model = related.NeuralODE(Driven(), steps=8, method=method, gradient=gradient)
        path = model.trajectory(x)
        assert path.x.shape == (9, 3, 4)
        torch.testing.assert_close(path.x[-1], model(x), rtol=0, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="must be pairs F, G"):
        related.RevNet(blocks(3))
    with pytest.raises(ValueError, match="no two halves"):
        related.RevNet(blocks(2))(torch.zeros(3, 5, dtype=D))
    with pytest.raises(ValueError, match="`blocks` is empty"):
        related.ResNet([])
    with pytest.raises(TypeError, match=r"`blocks\[0\]` must be an nn.Module"):
        related.BDIANet([torch.tanh])
    with pytest.raises(ValueError, match="`share` must be 1/2"):
        related.BDIANet(blocks(), share=0.4)
    with pytest.raises(ValueError, match="`u` must have shape"):
        related.LinOSS(2, 4)(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="needs an ODE solver"):
        related.CoRNN(2, 4, gradient="adjoint")
    with pytest.raises(ValueError, match="`method` must be one of"):
        related.HeavyBallODE(Driven(), method="rk4")
    with pytest.raises(ValueError, match="'adaptive' is for second-order"):
        related.NeuralODE(Driven(), method="adaptive")(torch.zeros(3, 4, dtype=D))
    with pytest.raises(ValueError, match="`t1` must be"):
        related.NesterovODE(Driven(), t1=-1.0)
    assert so.related is related
