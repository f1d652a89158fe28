"""What training scripts do around a network works with the reversible route, too.

Each case trains two copies for three steps, one by backprop and one by reversal, in the
same way, and compares the weights: in float64 they agree to 1e-9 (the gradients to
1e-11, times three steps), with autocast to the rounding of bfloat16.
"""

import copy

import pytest
import torch
from problems import mlp, noise, worst
from torch import nn
from torch.utils.checkpoint import checkpoint

import secondorder as so

F32, F64 = torch.float32, torch.float64


class Around(nn.Module):
    """A network as in a script: an embedding, momentum blocks, a head."""

    def __init__(self, route, blocks=None, dtype=F64):
        super().__init__()
        blocks = blocks or [mlp(seed=n, dtype=dtype) for n in range(4)]
        self.enter = nn.Linear(4, 4).to(dtype)
        self.body = so.MomentumNet(copy.deepcopy(blocks), 0.9, route)
        self.head = nn.Linear(4, 1).to(dtype)
        with torch.no_grad():
            for n, p in enumerate((*self.enter.parameters(), *self.head.parameters())):
                p.copy_(noise(*p.shape, dtype=dtype, seed=n) * 0.5)

    def forward(self, x):
        return self.head(self.body(torch.tanh(self.enter(x))))


def plain(model, x, y):
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()


def accumulated(model, x, y):
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
            (model(a) - b).square().mean().backward()
        optimiser.step()


def scaled(model, x, y):
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for _ in range(3):
        optimiser.zero_grad()
        scaler.scale((model(x) - y).square().mean()).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimiser)
        scaler.update()


def clipped(model, x, y):
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()


def in_backward(model, x, y):
    """Each weight is updated as soon as its gradient is complete."""
    optimisers = {p: torch.optim.SGD([p], 0.05) for p in model.parameters()}

    def update(p):
        optimisers[p].step()
        p.grad = None

    handles = [p.register_post_accumulate_grad_hook(update) for p in optimisers]
    for _ in range(3):
        (model(x) - y).square().mean().backward()
    for handle in handles:
        handle.remove()


def hooked(model, x, y):
    """Hooks on weights may change gradients."""
    handles = [
        p.register_hook(lambda g: g.clamp(-0.01, 0.01)) for p in model.parameters()
    ]
    plain(model, x, y)
    for handle in handles:
        handle.remove()


def averaged(model, x, y):
    """An exponential moving average of the weights takes the model's place."""
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
        average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())


def retained(model, x, y):
    """Two losses on one graph, backward twice."""
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        out = model(x)
        (out - y).square().mean().backward(retain_graph=True)
        out.abs().mean().backward()
        optimiser.step()


def scheduled(model, x, y):
    optimiser = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3)
    for _ in range(3):
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()
        schedule.step()


def frozen(model, x, y):
    """Layers freeze and thaw between steps."""
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    for n in range(3):
        for k, block in enumerate(model.body.blocks):
            block.requires_grad_(k % 2 == n % 2)
        optimiser.zero_grad()
        (model(x) - y).square().mean().backward()
        optimiser.step()


def saved(model, x, y):
    """Saved, loaded into a fresh optimiser and model, and continued."""
    plain(model, x, y)
    other = copy.deepcopy(model)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    plain(other, x, y)
    model.load_state_dict(other.state_dict())


WAYS = [plain, accumulated, scaled, clipped, in_backward, hooked, averaged, retained,
        scheduled, frozen, saved]  # fmt: skip


def trained(way, route, blocks=None):
    model = Around(route, blocks)
    x, y = noise(6, 4, dtype=F64), noise(6, 1, dtype=F64, seed=5)
    way(model, x, y)
    return list(model.parameters())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_training_by_reversal_is_training_by_backprop(way):
    before = [p.detach().clone() for p in Around("backprop").parameters()]
    expected = trained(way, "backprop")
    assert worst(expected, before) > 1e-3, "nothing was trained"
    assert worst(trained(way, "reversible"), expected) < 1e-9


class Checkpointed(nn.Module):
    """A block that checkpoints its inside."""

    def __init__(self, seed):
        super().__init__()
        self.inside = mlp(seed=seed, dtype=F64)

    def forward(self, x):
        return checkpoint(self.inside, x, use_reentrant=False)


class Compiled(nn.Module):
    """A block compiled by itself, by torch's tracer without a code generator."""

    def __init__(self, seed):
        super().__init__()
        self.inside = torch.compile(mlp(seed=seed, dtype=F64), backend="eager")

    def forward(self, x):
        return self.inside(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # read by torch.compile
@pytest.mark.parametrize("kind", [Checkpointed, Compiled])
def test_blocks_may_checkpoint_or_compile_their_inside(kind):
    blocks = [kind(n) for n in range(3)]
    expected = trained(plain, "backprop", blocks)
    assert worst(trained(plain, "reversible", blocks), expected) < 1e-9


def test_autocast_trains_as_backprop_does():
    blocks = [mlp(seed=n) for n in range(4)]
    x, y = noise(6, 4), noise(6, 1, seed=5)
    found = {}
    for route in ("backprop", "reversible"):
        model = Around(route, blocks, torch.float32)
        optimiser = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(3):
            optimiser.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = model(x)
            (out.float() - y).square().mean().backward()
            optimiser.step()
        found[route] = list(model.parameters())
    # Both round to bfloat16 (2^-8) in every block, not in the same places.
    assert worst(found["reversible"], found["backprop"]) < 2.0**-6


# -- what the paper's own package gets wrong (version 0.10, torch 2.13) ---------------


@pytest.mark.parametrize(("gamma", "layers"), [(0.9, 200), (0.9, 1000), (0.5, 50)])
def test_deep_networks_with_negative_velocities_have_their_gradient(gamma, layers):
    """There: an error of 0.6, 1.0 and 0.8, from truncation and a full int64."""
    blocks = [mlp(seed=n) for n in range(layers)]
    x = -noise(8, 4).abs()
    found = {}
    for route, kind in [("reversible", F32), ("backprop", F32), ("backprop", F64)]:
        net = so.MomentumNet(copy.deepcopy(blocks), gamma, route).to(kind)
        leaf = x.detach().to(kind).requires_grad_()
        net(leaf).square().mean().backward()
        flat = [leaf.grad.flatten(), *(p.grad.flatten() for p in net.parameters())]
        found[route, kind] = torch.cat(flat).double()
    truth = found["backprop", F64]
    ours, plain = (found[r, F32] for r in ("reversible", "backprop"))
    # What float32 costs backprop itself; the grid of 2e-10 is finer than float32.
    assert (ours - truth).norm() < 3 * (plain - truth).norm() + 1e-6 * truth.norm()


def test_float64_stays_float64_and_gamma_is_not_rounded():
    """There: computed in float32, with γ = n/2^16 in one of two modes."""
    gamma, block = 1 / 3, mlp(dtype=F64)
    x, v = noise(3, 4, dtype=F64), torch.zeros(3, 4, dtype=F64)
    for route in so.GRADIENTS.keys() - {"adjoint"}:
        y = so.MomentumNet([block] * 5, gamma, route)(x)
        a, b = x, v
        for _ in range(5):
            b = gamma * b + (1 - gamma) * block(a)
            a = a + b
        assert y.dtype == F64
        # The grid of the reversible route resolves 1e-14 of the state.
        torch.testing.assert_close(y, a, rtol=0, atol=1e-12)


def test_a_frozen_block_and_a_velocity_network_beside_an_argument():
    """There: IndexError and RuntimeError."""

    class WithArgument(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = mlp(seed=seed, dtype=F64)

        def forward(self, x, bias=None):
            return self.net(x) + bias

    blocks = [WithArgument(n) for n in range(3)]
    blocks[1].requires_grad_(False)
    start = mlp(seed=9, dtype=F64)
    found = {}
    for route in ("backprop", "reversible"):
        bias = noise(4, dtype=F64, seed=3).requires_grad_()
        net = so.MomentumNet(blocks, 0.9, route, velocity=start)
        net.zero_grad()
        net(noise(5, 4, dtype=F64), bias=bias).square().sum().backward()
        learned = [p for p in net.parameters() if p.requires_grad]
        found[route] = [bias.grad, *(p.grad.clone() for p in learned)]
    assert worst(found["reversible"], found["backprop"]) < 1e-10
