"""What a conversion must keep, for the tests of all kinds of networks."""

import copy

import torch

import secondorder as so


def gradients(model, call):
    """Value and gradients of some function of the outputs, randomness fixed."""
    torch.manual_seed(1)
    out = call(model)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad((out * weights).sum(), wanted, allow_unused=True)
    pairs = zip(found, wanted, strict=True)
    return out.detach(), [torch.zeros_like(p) if g is None else g for g, p in pairs]


def error(found, expected):
    """Largest relative error; zero gradients (key biases) by the largest of all."""
    top = max(b.abs().max().item() for b in expected)
    pairs = zip(found, expected, strict=True)
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-2 * top)).item()
        for a, b in pairs
    )


def agree(model, path, call):
    """Routes agree; γ = 0 is the network itself; the way back is."""
    keys = list(model.state_dict())
    out, grads = gradients(model, call)
    plain = so.to_momentum(copy.deepcopy(model), path, 0.0, "backprop")
    assert list(plain.state_dict()) == keys
    same, same_grads = gradients(plain, call)
    torch.testing.assert_close(same, out, rtol=1e-6, atol=1e-6)
    assert error(same_grads, grads) < 5e-6
    looked = []
    with torch.no_grad():
        for m in (plain, model):
            torch.manual_seed(2)
            looked.append(call(m))
    torch.testing.assert_close(*looked, rtol=1e-6, atol=1e-6)
    expected = gradients(
        so.to_momentum(copy.deepcopy(model), path, gradient="backprop"), call
    )
    assert error([expected[0]], [out]) > 1e-3  # another function
    for route in ("reversible", "checkpoint"):
        momentum = so.to_momentum(copy.deepcopy(model), path, gradient=route)
        assert list(momentum.state_dict()) == keys
        found = gradients(momentum, call)
        # The grid is finer than float32; a normalisation at the end may magnify.
        assert error([found[0]], [expected[0]]) < 3e-6
        assert error(found[1], expected[1]) < 5e-6
    before = {k: v.clone() for k, v in momentum.state_dict().items()}
    back = so.to_residual(momentum)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert list(back.state_dict()) == keys
    assert all(torch.equal(v, before[k]) for k, v in back.state_dict().items())
