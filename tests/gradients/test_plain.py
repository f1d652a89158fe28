"""Plain fields: what runs without a graph on the way there gives the same bits."""

import pytest
import torch
from torch import nn

import secondorder as so
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
    return Weights(field).plain


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
