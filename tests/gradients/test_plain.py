"""Plain fields: what runs without a graph on the way there gives the same bits."""

import pytest
import torch
from torch import nn

import secondorder as so
from secondorder.gradients.layers import LAYERS, Layered
from secondorder.gradients.replay import Weights
from secondorder.gradients.tape import compile_tape
from secondorder.plan.moves import Drift, Kick, Record


def mlp(d=4, activation=nn.Tanh):
    return nn.Sequential(nn.Linear(d, 7), activation(), nn.LayerNorm(7),
                         nn.Linear(7, d, bias=False))  # fmt: skip


class Own(nn.Linear):
    """A layer that no one knows."""


class OwnNet(so.MomentumNet):
    """A network that does more than call its blocks."""

    def plain_force(self, n, x):
        """Twice the block."""
        return 2 * self.blocks[n](x)


def hooked():
    net = mlp()
    net[0].register_forward_hook(lambda module, args, out: 2 * out)
    return net


def patched():
    net = mlp()
    net[1].forward = torch.sin
    return net


def loose():
    net, weight = mlp(), torch.ones(7, 4, requires_grad=True)
    del net[0].weight
    net[0].weight = weight
    return net


def normed():
    net = mlp()
    nn.utils.parametrizations.weight_norm(net[0])
    return net


UNKNOWN = (hooked, patched, loose, normed, lambda: Own(4, 4), lambda: nn.Dropout(0.5),
           lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)))  # fmt: skip


def plain(field):
    return Weights(field).layered is not None


def test_layers_of_torch_are_plain_in_our_wrappers_too():
    net = mlp()
    assert plain(so.Autonomous(net)) and plain(so.Autonomous(net).forward)
    assert plain(so.MomentumNet([net, mlp()]).plain_force)


@pytest.mark.parametrize("make", UNKNOWN)
def test_what_may_draw_refer_or_change_is_not(make):
    block = make()
    assert not plain(so.Autonomous(block))
    assert not plain(so.MomentumNet([mlp(), block]).plain_force)


def test_nor_are_functions_subclasses_and_global_hooks():
    assert not plain(so.Autonomous(nn.ModuleList([mlp()])))
    assert not plain(lambda t, x: x) and not plain(so.Autonomous(torch.sin))
    assert not plain(OwnNet([mlp()]).plain_force)
    assert not plain(so.MomentumNet([mlp(), torch.sin]).plain_force)
    assert not plain(so.MomentumNet([mlp()], velocity=Own(4, 4)).plain_force)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not plain(so.Autonomous(mlp()))
    finally:
        handle.remove()
    assert plain(so.Autonomous(mlp()))


def test_a_loose_weight_is_still_refused():
    net = so.MomentumNet([mlp(), loose()])
    with pytest.raises(ValueError, match="none of its parameters"):
        net(torch.ones(3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (33, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.Softplus])
def test_the_bits_are_those_of_a_field_that_is_watched(dtype, shape, activation):
    torch.manual_seed(0)
    blocks = [mlp(5, activation).to(dtype) for _ in range(3)]
    x = torch.randn(shape, dtype=dtype)

    def numbers(net):
        net.zero_grad()
        leaf = x.clone().requires_grad_()
        out = net(leaf)
        out.square().sum().backward()
        return [out.detach(), leaf.grad, *(p.grad for p in net.parameters())]

    watched = so.MomentumNet([nn.Sequential(b, nn.Dropout(0.0)) for b in blocks])
    assert not plain(watched.plain_force)
    pairs = zip(numbers(so.MomentumNet(blocks)), numbers(watched), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def by_hand_and_by_autograd(module, x):
    """Value and gradients of a module, by its layers and by the engine."""
    seed = torch.randn_like(module(x))
    leaf = x.clone().requires_grad_()
    learned = [p for p in module.parameters() if p.requires_grad]
    value = module(leaf)
    found = torch.autograd.grad(value, [leaf, *learned], seed, materialize_grads=True)
    forces = Layered(module)
    given, graph = x.clone(), forces.evaluate(Kick(1.0), x)
    with torch.no_grad():
        assert torch.equal(forces.value(Kick(1.0), x), value)
        (gx,) = graph.pull(seed.clone())
    assert torch.equal(x, given) and forces.found.keys() == {id(p) for p in learned}
    ours = [graph.value, gx, *(forces.found[id(p)] for p in learned)]
    return zip(ours, [value, *found], strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (7, 4), (2, 3, 4)])
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind is not nn.Linear])
def test_every_layer_has_the_bits_of_autograd(kind, shape, dtype):
    torch.manual_seed(0)
    layer = kind(4) if kind is nn.LayerNorm else kind()
    one, two = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    first = nn.Sequential(nn.Tanh(), layer, nn.Sigmoid(), one)
    second = nn.Sequential(one, layer, layer, two, nn.Identity())
    x = (3 * torch.randn(shape)).to(dtype)
    for module in (layer, first, second):
        pairs = by_hand_and_by_autograd(module.to(dtype), x)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_settings_of_layers_are_minded_and_frozen_weights_left_alone():
    torch.manual_seed(0)
    layers = (nn.LeakyReLU(0.3), nn.ELU(0.5), nn.GELU("tanh"), nn.Softplus(2.0, 3.0),
              nn.LayerNorm(4, eps=0.1, bias=False), nn.LayerNorm((2, 4)),
              nn.LayerNorm(4, elementwise_affine=False))  # fmt: skip
    for layer in layers:
        first, last = nn.Linear(4, 4), nn.Linear(4, 4)
        first.weight.requires_grad_(False)
        last.bias.requires_grad_(False)
        module = nn.Sequential(first, layer, last)
        pairs = by_hand_and_by_autograd(module, 3 * torch.randn(5, 2, 4))
        assert all(torch.equal(a, b) for a, b in pairs)


def test_nested_kicks_and_weights_used_twice_are_differentiated():
    torch.manual_seed(0)
    linear = nn.Linear(3, 3)
    net = nn.Sequential(linear, nn.Tanh(), linear, nn.SiLU()).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    found = []
    for gradient in ("reversible", so.reversible(keep=5), "backprop"):
        net.zero_grad()
        model = so.SecondOrderODE(
            so.Autonomous(net), epsilon=0.5, steps=4, method="chin4", gradient=gradient
        )
        leaf = x.clone().requires_grad_()
        model(leaf).square().sum().backward()
        found.append([leaf.grad, *(p.grad for p in net.parameters())])
    # The grid resolves 1e-14 of a state of size 3; sums of some hundred parts follow.
    for kept, reversed_, exact in zip(found[1], found[0], found[2], strict=True):
        assert torch.equal(kept, reversed_)
        torch.testing.assert_close(reversed_, exact, rtol=1e-11, atol=1e-11)


def test_a_class_that_was_patched_is_run_as_it_is(monkeypatch):
    field = so.Autonomous(mlp())
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: x.sin())
    assert not plain(field)


def test_autocast_around_the_backward_pass_changes_nothing():
    torch.manual_seed(0)
    net, x = so.MomentumNet([mlp(), mlp()]), torch.randn(3, 4)

    def gradients(around):
        net.zero_grad()
        loss = net(x).square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            loss.backward()
        return [p.grad for p in net.parameters()]

    pairs = zip(gradients(True), gradients(False), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_graphs_that_are_kept_are_there():
    torch.manual_seed(0)
    blocks, x = [mlp() for _ in range(4)], torch.randn(3, 4)

    def gradients(**how):
        net = so.MomentumNet(blocks, **how)
        net.zero_grad()
        net(x).square().sum().backward()
        return [p.grad for p in net.parameters()]

    pairs = zip(gradients(), gradients(keep=2), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_remembered_tapes_tell_moves_apart_that_are_equal_as_tuples():
    start = (Kick(1.0), Drift(1.0))
    assert Drift(1.0) == Record(1.0)  # why the kinds matter
    tapes = [compile_tape((*start, last), torch.float32, torch.device("cpu"))
             for last in (Drift(1.0), Record(1.0), Drift(1.0))]  # fmt: skip
    codes = [bytes(tape.steps.codes) for tape in tapes]
    assert codes[0] != codes[1] and tapes[0] is tapes[2]
