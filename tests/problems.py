"""Fields, blocks and helpers that several test files share."""

import torch
from torch import nn


def mlp(d=4, hidden=8, dtype=torch.float32, seed=0):
    """A small tanh block x -> f(x), its weights from a generator of its own."""
    net = nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, d))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    return net.to(dtype)


class Field(nn.Module):
    """A field that depends on time, and on an extra argument if there is one."""

    def __init__(self, d=3, dtype=torch.float64):
        super().__init__()
        self.net = mlp(d, 6, dtype)

    def forward(self, t, x, *args):
        return self.net(x) + torch.cos(t) + sum(args)


class DragField(Field):
    """The same with drag, for methods that take a velocity."""

    def forward(self, t, x, v, *args):
        return super().forward(t, x, *args) - 0.3 * v * v.abs()


def noise(*shape, dtype=torch.float32, seed=1):
    """Normal numbers from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def worst(found, expected):
    """Largest error over several tensors, each relative to its own largest entry."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
        for a, b in zip(found, expected, strict=True)
    )


def gradients(model, x, *args, loss=torch.sum):
    """Gradients of a loss of ``model(x)`` for the input and all parameters."""
    x = x.clone().requires_grad_()
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    out = loss(model(x, *args))
    found = torch.autograd.grad(out, wanted, allow_unused=True)
    pairs = zip(found, wanted, strict=True)
    return [torch.zeros_like(w) if g is None else g for g, w in pairs]


def counted(net, x):
    """Bytes that the graph of one forward pass keeps."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        out = net(x)
    del out
    return sum(kept)
