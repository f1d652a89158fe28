"""Conversion: other people's stacks as Momentum ResNets, and back."""

import copy
import gc
import pickle
import random
import weakref

import pytest
import torch
from conversion import agree, error, gradients
from problems import noise
from torch import nn

import secondorder as so

# torch's own layers, as they are, in evaluation with a padding mask.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
KEY_MASK = torch.tensor([[False, False, False, True, True]] + 2 * [5 * [False]])


class Residual(nn.Module):
    """A ResNet's block: convolutions, BatchNorm, in-place ReLU, a shortcut."""

    def __init__(self, inner, outer, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """What torchvision's look like."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(*(Residual(8, 8) for _ in range(2)))
        self.layer2 = nn.Sequential(
            Residual(8, 16, 2), *(Residual(16, 16) for _ in range(3))
        )

    def forward(self, x):
        return self.layer2(self.layer1(self.conv(x))).mean((2, 3))


class Block(nn.Module):
    """A residual block that takes and returns its state in some form."""

    def __init__(self, form="plain"):
        super().__init__()
        self.lin, self.form, self.dropout = nn.Linear(4, 4), form, 0.0

    def forward(self, *args, hidden_states=None, bias=None, scale=1.0, seen=None):
        x = args[-1] if args else hidden_states
        f = nn.functional.dropout(torch.tanh(self.lin(x)), self.dropout)
        y = x + scale * f
        if self.form == "bias":
            bias = self.lin.weight.sum(0) if bias is None else bias
            return y + bias, bias
        if self.form in ("leaky", "aside"):
            return y, self.lin(x)  # such as attention weights
        if self.form == "inplace":
            return x.mul_(2.0)
        if self.form == "appends":
            seen.append(y)
        return {"second": {"h": y}, "keyword": (y, None)}.get(self.form, y)


class Loop(nn.Module):
    """Somebody's loop over blocks."""

    def __init__(self, form="plain", count=4):
        super().__init__()
        self.form = form
        self.blocks = nn.ModuleList(Block(form) for _ in range(count))

    def forward(self, x):
        bias, seen = None, []
        for n, block in enumerate(self.blocks[: len(self.blocks)]):
            scale = torch.tensor(1.0 + n)  # an argument for each layer
            if self.form == "keyword":
                x, _ = block(hidden_states=x, scale=scale)
            elif self.form == "second":
                x = block(torch.tensor(n), x, scale=scale)["h"]
            elif self.form in ("bias", "leaky"):
                x, bias = block(x, bias=bias)
            elif self.form == "aside":
                x, _ = block(x)
            else:
                x = block(x, scale=scale, seen=seen)
        return x


def transformer():
    return nn.Transformer(8, 2, 2, 3, 16, dropout=0.1, batch_first=True)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 3)


def padded(model):
    return model(noise(3, 5, 8), src_key_padding_mask=KEY_MASK)


def both(model):
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    x, y = noise(3, 5, 8), noise(3, 4, 8, seed=2)
    return model(x, y, tgt_mask=causal, src_key_padding_mask=KEY_MASK)


def vectors(model):
    return model(noise(3, 4))


def images(model):
    return model(noise(4, 3, 10, 10))


STACKS = {
    "Sequential": (lambda: nn.Sequential(*(Block() for _ in range(4))), "", vectors),
    "ModuleList": (Loop, "blocks", vectors),
    "keyword": (lambda: Loop("keyword"), "blocks", vectors),
    "second": (lambda: Loop("second"), "blocks", vectors),
    "bias": (lambda: Loop("bias"), "blocks", vectors),
    "aside": (lambda: Loop("aside"), "blocks", vectors),
    "ResNet": (ResNet, ["layer1", "layer2"], images),
    "encoder": (encoder, "layers", padded),
    "transformer": (transformer, ["encoder.layers", "decoder.layers"], both),
}


def built(name):
    make, path, call = STACKS[name]
    torch.manual_seed(0)
    return make(), path, call


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", STACKS)
def test_routes_agree_and_no_momentum_is_the_network(name, train):
    model, path, call = built(name)
    agree(model.train(train), path, call)


def test_the_recursion_by_hand():
    model = Loop()
    x = noise(3, 4)
    expected, v = x, torch.zeros_like(x)
    for n, block in enumerate(model.blocks):
        v = 0.7 * v + 0.3 * (block(expected, scale=1.0 + n) - expected)
        expected = expected + v
    for route in ("backprop", "reversible"):
        found = so.to_momentum(copy.deepcopy(model), "blocks", 0.7, route)(x)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gamma", [-0.5, [0.5, -1.0, 0.25, -0.9]])
def test_the_unnormalised_rule(gamma):
    model, path, call = built("ModuleList")
    both = [
        so.to_momentum(copy.deepcopy(model), path, gamma, route, "unnormalised")
        for route in ("reversible", "backprop")
    ]
    (out, found), (value, expected) = (gradients(m, call) for m in both)
    assert error([out], [value]) < 1e-6
    assert error(found, expected) < 5e-6


def test_running_statistics_are_updated_once():
    states = []
    for route in ("reversible", "backprop"):
        model, path, call = built("ResNet")
        so.to_momentum(model, path, gradient=route)
        call(model).sum().backward()
        states.append(model.state_dict())
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key], value)
    assert states[0]["layer2.3.bn2.num_batches_tracked"] == 1


def test_blocks_that_change_the_shape_stay():
    model, path, call = built("ResNet")
    so.to_momentum(model, path)
    call(model)
    assert model.layer2.changes == [True, False, False, False]
    with pytest.raises(ValueError, match=r"block 0 returned \(1, 16, 4, 4\)"):
        model.layer2.state(noise(1, 8, 8, 8))
    for route in ("backprop", "reversible"):
        shrinking = nn.Sequential(Residual(3, 8, 2), Residual(8, 16, 2))
        with pytest.raises(ValueError, match="every block of this stack changes"):
            so.to_momentum(shrinking, "", gradient=route)(noise(2, 3, 8, 8))
    loop = so.to_momentum(Loop(), "blocks", gradient="backprop")
    loop(noise(3, 4))
    loop.blocks[1].lin.register_forward_hook(lambda m, a, out: out[:, None])
    with pytest.raises(ValueError, match="block 1.*kept the shape before"):
        loop(noise(3, 4))


def test_blocks_that_start_in_place_do_not_spoil_the_state():
    torch.manual_seed(0)
    parts = (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)) for _ in range(3))
    model = nn.Sequential(*parts)
    x, v = noise(3, 4), 0.0
    expected = x
    for block in model:
        v = 0.5 * v + 0.5 * (block(expected.clone()) - expected)
        expected = expected + v
    for route in ("backprop", "reversible", "checkpoint"):
        momentum = so.to_momentum(copy.deepcopy(model), "", 0.5, route)
        torch.testing.assert_close(momentum(x.clone()), expected)
        with torch.no_grad():
            torch.testing.assert_close(momentum(x.clone()), expected)


def test_states_and_velocities_die_with_their_last_user():
    model = so.to_momentum(Loop(), "blocks", gradient="backprop")
    seen = []
    for block in model.blocks.blocks:
        block.register_forward_pre_hook(
            lambda m, args: seen.append(weakref.ref(args[0]))
        )
    gc.disable()  # no cycle may keep them until it runs
    try:
        with torch.no_grad():
            out = model(noise(3, 4))
        assert [ref() is None for ref in seen] == 4 * [True]
    finally:
        gc.enable()
    assert not vars(out)


def test_learned_gamma_and_a_ramp():
    gamma = nn.Parameter(torch.tensor(0.5))
    model, path, call = built("ModuleList")
    so.to_momentum(model, path, gamma)
    _, found = gradients(model, call)
    twin = so.to_momentum(
        so.to_residual(copy.deepcopy(model)),
        path,
        nn.Parameter(torch.tensor(0.5)),
        "backprop",
    )
    assert error(found, gradients(twin, call)[1]) < 5e-6
    model, path, call = built("ModuleList")
    out = call(model)
    so.to_momentum(model, path, 0.5)
    model.blocks.set_gamma(0.0)
    torch.testing.assert_close(call(model), out, rtol=1e-6, atol=1e-6)
    model.blocks.set_gamma(0.5)
    assert model.blocks.gradient.name == "reversible"


def test_an_inner_half_precision():
    # float32 carries the state and the difference of rounded states: 4e-3 is one bit.
    model, path, call = built("ModuleList")
    exact = call(so.to_momentum(copy.deepcopy(model), path, gradient="backprop"))
    model = so.to_momentum(model, path).bfloat16()
    x = noise(3, 4).bfloat16()
    out = model(x)
    out.sum().backward()
    with torch.no_grad():
        walked = model(x)
    assert out.dtype == walked.dtype == torch.bfloat16
    for found in (out, walked):
        torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.05)


class Nudge(nn.Module):
    """One unit of bfloat16 at 1."""

    def forward(self, x):
        return x + 2**-7


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_state_gathers_what_it_cannot_show(gradient, dtype):
    # v = (1 − 0.9ⁿ) 2⁻⁷ stays below half a unit of bfloat16 for 5 layers, so a state
    # rounded after each would not move; their sum is 1.31 units, or 10.5 of float16.
    # (By "checkpoint" the state has the network's own dtype.)
    model = nn.Sequential(nn.Sequential(*(Nudge() for _ in range(5))))
    so.to_momentum(model, "0", gamma=0.9, gradient=gradient)
    x = torch.ones(2, 3, dtype=dtype)
    moved = sum(1 - 0.9**n for n in range(1, 6)) * 2**-7
    expected = (x.double() + moved).to(dtype)
    assert (expected > 1).all()
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    out = model(x.requires_grad_())
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_twice_under_autocast():
    # The second pass meets weights that autocast has cast before.
    model = so.to_momentum(Loop(), "blocks")
    x = noise(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = (model(x) * model(x)).sum()
    loss.backward()
    assert model.blocks[0].lin.weight.grad.abs().sum() > 0


def test_momentum_of_each_coordinate():
    gamma, x, loop = torch.tensor([0.9, 0.5, 0.7, 0.8]), noise(3, 4), Loop()
    routes = ("reversible", "backprop")
    one, two = (
        so.to_momentum(copy.deepcopy(loop), "blocks", gamma=gamma, gradient=route)(x)
        for route in routes
    )
    torch.testing.assert_close(one, two)
    for route in routes:
        wrong = so.to_momentum(Loop(), "blocks", gamma=gamma[:3], gradient=route)
        with pytest.raises(ValueError, match="`gamma` has shape"):
            wrong(x)


def test_frozen_parts_and_stacks_that_need_no_gradient():
    model, path, call = built("encoder")
    model.layers[0].requires_grad_(False)
    agree(model, path, call)
    model.requires_grad_(False)
    assert so.to_momentum(model, path)(noise(3, 5, 8)).grad_fn is None


def test_checkpoints_pickles_and_copies(tmp_path):
    model, path, call = built("encoder")
    model.eval()
    momentum = so.to_momentum(copy.deepcopy(model), path)
    momentum.load_state_dict(model.state_dict())
    model.load_state_dict(momentum.state_dict())
    for twin in (copy.deepcopy(momentum), pickle.loads(pickle.dumps(momentum))):
        torch.testing.assert_close(call(twin), call(momentum), rtol=0, atol=0)
        assert type(so.to_residual(twin).layers) is nn.ModuleList
    torch.save(momentum, tmp_path / "model.pt")
    back = torch.load(tmp_path / "model.pt", weights_only=False)
    torch.testing.assert_close(call(back), call(momentum), rtol=0, atol=0)
    assert momentum.double()(noise(3, 5, 8).double()).dtype == torch.float64


def test_blocks_are_read_through():
    model = so.to_momentum(Loop(), "blocks", 0.3)
    assert model.blocks[-1].lin is dict(model.named_modules())["blocks.3.lin"]
    assert [block.form for block in model.blocks] == 4 * ["plain"]
    model.blocks[1].note = 5
    assert model.get_submodule("blocks.1").note == 5
    assert len(model.blocks) == 4
    assert "gamma=0.3" in repr(model)
    with pytest.raises(IndexError, match="out of range"):
        model.blocks[4]
    part = model.blocks[1:3]
    assert [*part.state_dict()] == [
        f"{n}.lin.{p}" for n in (1, 2) for p in ("weight", "bias")
    ]
    twin = so.to_momentum(copy.deepcopy(model.blocks.residual()), "", 0.3, "backprop")
    x = noise(3, 4)
    torch.testing.assert_close(part(x), twin[1:3](x))
    sequential = so.to_momentum(
        nn.Sequential(*(nn.Sequential(Block()) for _ in "ab")), ""
    )
    assert sequential[0][0].form == "plain"


def test_the_stack_is_a_momentum_net():
    model, path, call = built("Sequential")
    stack = so.to_momentum(model, path, 0.5)
    x = noise(3, 4)
    x0, v0 = stack.inverse(stack.state(x))
    assert torch.equal(x0, x) and not v0.any()
    torch.testing.assert_close(stack.trajectory(x)[0][-1], stack(x))
    assert "reversible" in repr(so.memory_report(stack, x))
    kept = so.to_momentum(so.to_residual(stack), "", 0.5, memory="1MB")
    out, found = gradients(kept, call)
    plain = so.to_momentum(so.to_residual(kept), "", 0.5, "backprop")
    assert error(found, gradients(plain, call)[1]) < 5e-6
    moved = stack(x, velocity=torch.ones(4))
    assert not torch.allclose(moved, stack(x))


def test_compiled_blocks():
    model, path, call = built("ModuleList")
    out, expected = gradients(
        so.to_momentum(copy.deepcopy(model), path, gradient="backprop"), call
    )
    model = so.to_momentum(model, path, compile={"backend": "eager"})
    keys = [*model.state_dict()]
    value, found = gradients(model, call)
    assert error([value], [out]) < 1e-6
    assert error(found, expected) < 5e-6
    whole = torch.compile(so.to_momentum(built("ModuleList")[0], path), backend="eager")
    value, found = gradients(whole, call)  # runs uncompiled, and right
    assert error([value], [out]) < 1e-6
    assert error(found, expected) < 5e-6
    back = so.to_residual(model)
    assert [*back.state_dict()] == keys
    assert back.blocks[0]._compiled_call_impl is None


def test_hidden_graphs_are_refused_not_lost():
    x = noise(3, 4)
    with pytest.raises(TypeError, match=r"block 1 \(Block\) returned Tensor besides"):
        so.to_momentum(Loop("leaky"), "blocks")(x)
    so.to_momentum(Loop("leaky"), "blocks", gradient="backprop")(x)
    with pytest.raises(TypeError, match=r"block 1 \(Block\) returned NoneType besides"):
        model = Loop("aside")
        model.blocks[1].form = "keyword"
        so.to_momentum(model, "blocks")(x)
    blocks = so.to_momentum(Loop("aside", 2), "blocks").blocks
    weights = blocks[1](blocks[0](x)[0])[1]  # of the last block, never computed
    with pytest.raises(RuntimeError, match="what a block returns was used"):
        weights.sum()
    with pytest.raises(RuntimeError, match="argument of the field was changed"):
        so.to_momentum(Loop("appends"), "blocks")(x)
    for route in ("reversible", "backprop"):
        with pytest.raises(RuntimeError, match="wrote into the state|in-place"):
            so.to_momentum(Loop("inplace"), "blocks", gradient=route)(x)


def test_the_state_between_blocks_is_not_there_yet():
    blocks = so.to_momentum(Loop(), "blocks").blocks
    x = noise(3, 4)
    for use in (lambda h: h + 1, torch.tanh, lambda h: h.sum(), lambda h: x + h):
        with pytest.raises(RuntimeError, match="what a block returns was used"):
            use(blocks[0](x))
    between = blocks[0](x)
    with pytest.raises(RuntimeError, match="what a block returns was used"):
        between.shape  # noqa: B018 (not known before the first pass)
    blocks(x)
    assert blocks[0](x).shape == (3, 4)
    assert isinstance(between, torch.Tensor)
    with pytest.raises(RuntimeError, match=r"block 2 \(Block\) was called on"):
        blocks[2](between)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="called on something"):
            blocks[1](x)
        with pytest.raises(RuntimeError, match="called on something"):
            blocks[1](blocks[0](x) + 1)
        between = blocks[0](x)
        blocks[1](between)
        with pytest.raises(RuntimeError, match="called on something"):
            blocks[1](between)  # its velocity was handed on
    with pytest.raises(TypeError, match="without a state"):
        blocks[0](torch.tensor(3))


def test_paths_that_lead_nowhere():
    model = transformer()
    with pytest.raises(
        ValueError, match="'encoder.layer' leads nowhere.*'encoder.layers'"
    ):
        so.to_momentum(model, "encoder.layer")
    with pytest.raises(ValueError, match="leads to a TransformerEncoderLayer"):
        so.to_momentum(model, "encoder.layers.0")
    with pytest.raises(TypeError, match="`path` must be a str"):
        so.to_momentum(model, 3)
    with pytest.raises(ValueError, match="it is empty"):
        so.to_momentum(nn.Sequential(), "")
    with pytest.raises(ValueError, match="nothing looks like a stack"):
        so.to_momentum(nn.Linear(2, 2), "weight")
    with pytest.raises(ValueError, match="`gamma` is 0"):
        so.to_momentum(model, ["encoder.layers"], 0.0)
    with pytest.raises(ValueError, match="so.to_momentum has converted"):
        so.to_residual(model)  # nothing was changed by all of these
    so.to_momentum(model, "encoder.layers")
    with pytest.raises(ValueError, match="is converted already"):
        so.to_momentum(model, "encoder.layers")


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_is_right(seed):
    """Blocks, dtype, γ, depth, arguments and frozen parts, drawn at random."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    form = draw.choice(["plain", "keyword", "second", "bias", "aside"])
    model = Loop(form, draw.choice([1, 2, 5, 9])).to(
        dtype := draw.choice([torch.float32, torch.float64])
    )
    rule = draw.choice(["momentum", "unnormalised"])
    signs = (-1, 1) if rule == "unnormalised" else (1,)
    sizes = [0.9, 0.5, 1e-4, 0.99]
    gamma = [draw.choice(signs) * draw.choice(sizes) for _ in model.blocks]
    if draw.random() < 0.5:
        gamma = gamma[0]
    for block in model.blocks:
        block.dropout = draw.choice([0.0, 0.3])
        block.requires_grad_(draw.random() < 0.7)
    x = noise(3, 4, seed=seed, dtype=dtype).requires_grad_(draw.random() < 0.5)
    if not (x.requires_grad or any(p.requires_grad for p in model.parameters())):
        x.requires_grad_()
    wanted = [t for t in (x, *model.parameters()) if t.requires_grad]
    found = []
    for route in ("backprop", so.reversible(keep=draw.choice([0, 1])), "checkpoint"):
        so.to_momentum(model, "blocks", gamma, route, rule)
        torch.manual_seed(seed)
        grads = torch.autograd.grad(model(x).square().sum(), wanted, allow_unused=True)
        pairs = zip(grads, wanted, strict=True)
        found.append([torch.zeros_like(t) if g is None else g for g, t in pairs])
        so.to_residual(model)
    for grads in found[1:]:
        assert error(grads, found[0]) < (5e-6 if dtype == torch.float32 else 1e-11)
