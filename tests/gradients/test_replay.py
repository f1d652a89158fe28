"""The field is evaluated again, and nobody notices: no trace on modules or arguments.

What cannot be evaluated twice without a trace raises, in every route that does so.
"""

import copy
import io
import threading

import numpy as np
import pytest
import torch
from problems import gradients, mlp, noise, worst
from torch import nn
from torch.autograd import forward_ad

import secondorder as so

TWICE = ["reversible", "checkpoint"]  # the routes that evaluate a force again
ROUTES = ["backprop", *TWICE]


def network(route="reversible", depth=4, seed=0):
    return so.MomentumNet([mlp(seed=seed + n) for n in range(depth)], 0.9, route)


# Nobody else's modules are changed.


def test_threads_may_share_a_model():
    net = network(depth=20)
    before, failures = list(net.parameters()), []
    expected = [gradients(net, noise(3, 4, seed=n)) for n in range(3)]

    def work(n):
        for _ in range(10):
            found = gradients(net, noise(3, 4, seed=n))
            if not all(map(torch.equal, found, expected[n])):
                failures.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))


def test_functional_call_leaves_its_weights_nowhere():
    net = network()
    own = dict(net.named_parameters())
    for fast in ({k: (1.1 * p).detach().requires_grad_() for k, p in own.items()},
                 {k: 1.1 * p for k, p in own.items()}):  # fmt: skip
        found = {}
        for route in ("reversible", "backprop"):
            model = so.MomentumNet(net.blocks, 0.9, route)
            net.zero_grad()
            out = torch.func.functional_call(model, fast, (noise(3, 4),))
            wanted = [fast[k] for k in own]
            found[route] = torch.autograd.grad(out.sum(), wanted, retain_graph=True)
        assert worst(found["reversible"], found["backprop"]) < 1e-5
        assert all(a is b for a, b in zip(own.values(), net.parameters(), strict=True))


def test_weights_assigned_between_the_passes_stay():
    net, x = network(), noise(3, 4)
    old, expected = list(net.parameters()), gradients(net, x)[1:]
    out = net(x)
    new = {k: torch.zeros_like(p) for k, p in net.state_dict().items()}
    net.load_state_dict(new, assign=True)
    found = torch.autograd.grad(out.sum(), old)
    assert worst(found, expected) < 1e-6
    assert all(not p.any() for p in net.parameters())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("frozen", [False, True])
def test_statistics_are_counted_once_also_behind_a_closure(route, frozen):
    norm = nn.BatchNorm1d(4)
    norm.requires_grad_(not frozen)
    net = so.MomentumNet([lambda x: norm(x)], 0.9, route)
    x = noise(8, 4).requires_grad_()
    if route == "reversible" and not frozen:
        with pytest.raises(ValueError, match="none of its parameters"):
            net(x)
        return
    net(x).sum().backward()
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("route", ROUTES)
def test_adaptive_steps_count_statistics_as_often_as_they_evaluate(route):
    norm = nn.BatchNorm1d(3)
    system = so.SecondOrder(so.Autonomous(nn.Sequential(nn.Linear(3, 3), norm)))
    torch.manual_seed(0)
    so.odeint(system, (noise(8, 3), None), [0.0, 0.5], method="adaptive",
              gradient=route, rtol=1e-3, atol=1e-3)  # fmt: skip
    counted = int(norm.num_batches_tracked)
    norm.num_batches_tracked.zero_()
    with torch.no_grad():
        plain = so.odeint(system, (noise(8, 3), None), [0.0, 0.5], method="adaptive",
                          rtol=1e-3, atol=1e-3)  # fmt: skip
    assert counted == int(norm.num_batches_tracked) == plain.stats.evaluations


def test_attributes_that_blocks_set_are_those_of_the_forward_pass():
    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = mlp(), 0

        def forward(self, x):
            self.calls += 1
            return self.net(x)

    for keep in (0, 2, 9):
        block = Noting()
        net = so.MomentumNet([block] * 5, 0.9, so.reversible(keep=keep))
        net(noise(3, 4)).sum().backward()
        assert block.calls == 5


# Blocks that write into what they are given.


class InPlace(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.relu, self.net = nn.ReLU(inplace), mlp()

    def forward(self, x):
        return self.net(self.relu(x))


@pytest.mark.parametrize("route", ROUTES)
def test_blocks_that_begin_in_place_change_no_state(route):
    x = noise(3, 4)
    plain = gradients(so.MomentumNet([InPlace(False)] * 3, 0.9, "backprop"), x)
    net = so.MomentumNet([InPlace(True)] * 3, 0.9, route)
    assert worst(gradients(net, x), plain) < 1e-5
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            given = x.clone()
            net(given)
            assert torch.equal(given, x)


@pytest.mark.parametrize("route", ROUTES)
def test_other_ways_to_write_into_the_state_are_refused(route):
    net = so.MomentumNet([lambda x: x.mul_(2)] * 3, 0.9, route)
    with torch.no_grad(), pytest.raises(RuntimeError, match="wrote into the state"):
        net(noise(3, 4))
    with pytest.raises(RuntimeError, match="in-place"):
        net(noise(3, 4).requires_grad_() * 1).sum().backward()


# Arguments that remember, and activations that leak.


class Appending(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x, cache):
        cache.append(x.detach())
        return self.net(x) + sum(cache)


@pytest.mark.parametrize("route", ROUTES)
def test_what_blocks_append_arrives_and_is_refused_where_it_would_be_appended_twice(
    route,
):
    net, x = so.MomentumNet([Appending() for _ in range(3)], 0.9, route), noise(3, 4)
    cache = []
    with torch.no_grad():
        net(x, cache)
    assert len(cache) == 3
    if route == "backprop":
        net(x, cache := []).sum().backward()
        assert len(cache) == 3
        return
    with pytest.raises(RuntimeError, match="argument of the field was changed"):
        net(x, []).sum().backward()


class Cache:
    def __init__(self):
        self.layers, self.seen = [], {"tokens": torch.zeros(3, 4)}


@pytest.mark.parametrize("change", ["list", "dict", "tensor"])
@pytest.mark.parametrize("route", TWICE)
def test_objects_that_change_are_refused(route, change):
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, cache):
            if change == "list":
                cache.layers.append(1)
            elif change == "dict":
                cache.seen["more"] = x.detach()
            else:
                cache.seen["tokens"].add_(1)
            return self.net(x)

    net = so.MomentumNet([Caching()] * 2, 0.9, route)
    with pytest.raises(RuntimeError, match="argument of the field was changed"):
        net(noise(3, 4), Cache()).sum().backward()


@pytest.mark.parametrize("alone", [True, False])
def test_a_loss_on_a_recorded_activation_raises(alone):
    net, seen = network(), []
    net.blocks[1].register_forward_hook(lambda module, given, out: seen.append(out))
    out = net(noise(3, 4).requires_grad_())
    loss = seen[0].sum() if alone else seen[0].sum() + out.sum()
    with pytest.raises(RuntimeError, match="computed inside a field"):
        loss.backward()


# Fields that are not the same twice.


class NumpyNoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.noise = mlp(), np.random.default_rng(0)

    def forward(self, x):
        return self.net(x) * float(self.noise.random())


@pytest.mark.parametrize("route", TWICE)
@pytest.mark.parametrize("kind", ["numpy", "spectral norm", "optimizer"])
def test_fields_that_differ_when_evaluated_again_raise(route, kind):
    torch.manual_seed(0)
    if kind == "spectral norm":
        blocks = [nn.utils.spectral_norm(nn.Linear(4, 4)) for _ in range(4)]
    else:
        blocks = [NumpyNoise() if kind == "numpy" else mlp() for _ in range(4)]
    net = so.MomentumNet(blocks, 0.9, route)
    out = net(noise(3, 4).requires_grad_())
    if kind == "optimizer":
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)
    with pytest.raises(RuntimeError, match="another|modified|reconstructed"):
        out.sum().backward()


def test_autocast_regions_kept_in_float32_are_differentiated_in_float32():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            with torch.autocast("cpu", enabled=False):
                return self.net(x.float())

    blocks, found = [Careful() for _ in range(4)], {}
    for route in ("reversible", "backprop"):
        x = noise(3, 4).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = so.MomentumNet(blocks, 0.9, route)(x)
        found[route] = torch.autograd.grad(out.sum(), x)
    assert worst(found["reversible"], found["backprop"]) < 1e-5


# Tensors and transforms that would get no gradient.


def test_a_closure_used_late_is_refused():
    late = torch.ones(3, requires_grad=True)
    system = so.SecondOrder(lambda t, x: -x if t < 0.5 else -late * x)
    with pytest.raises(ValueError, match="none of its parameters"):
        so.odeint(system, (noise(2, 3), None), [0.0, 1.0], step_size=0.1,
                  gradient="reversible")  # fmt: skip


TRANSFORMS = {
    "forward mode": lambda net, x: dual(net, x),
    "batched": lambda net, x: torch.autograd.grad(
        net(x), x, torch.eye(12).reshape(12, 3, 4), is_grads_batched=True
    ),
    "vectorize": lambda net, x: torch.autograd.functional.jacobian(
        net, x, vectorize=True
    ),
    "jit": lambda net, x: torch.jit.trace(net, x),
    "export": lambda net, x: torch.export.export(net, (x,)),
    "vmap": lambda net, x: torch.func.vmap(net)(x),
}


def dual(net, x):
    with forward_ad.dual_level():
        return net(forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, says torch
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_without_a_way_back_say_so(name):
    with pytest.raises(RuntimeError, match='gradient="backprop"'):
        TRANSFORMS[name](network(), noise(3, 4).requires_grad_())


@pytest.mark.filterwarnings("ignore")
def test_lazy_and_scripted_modules_say_so():
    with pytest.raises(RuntimeError, match="call the module once"):
        so.MomentumNet([nn.LazyLinear(4)])(noise(3, 4))
    scripted = torch.jit.script(nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="scripted"):
        so.MomentumNet([scripted])(noise(3, 4))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # read by torch.compile
@pytest.mark.parametrize("route", TWICE)
def test_whole_networks_compile(route):
    net, x = network(route), noise(3, 4)
    expected = gradients(net, x)
    compiled = torch.compile(net, backend="eager")
    leaf = x.clone().requires_grad_()
    found = torch.autograd.grad(compiled(leaf).sum(), [leaf, *net.parameters()])
    assert worst(found, expected) < 1e-5


def test_recurrent_and_compiled_blocks_with_statistics():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(4, 4, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    torch.manual_seed(0)
    blocks = [Recurrent() for _ in range(3)]
    x = noise(2, 5, 4)
    one, two = (so.MomentumNet(blocks, 0.9, g) for g in ("reversible", "backprop"))
    assert worst(gradients(one, x), gradients(two, x)) < 1e-5
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    net = so.MomentumNet([torch.compile(body, backend="eager")] * 3, 0.9)
    net(noise(8, 4)).sum().backward()
    assert body[1].num_batches_tracked == 3


# States are data.


def test_a_state_is_data_and_leads_back_only_in_its_own_model():
    net, x = network(), noise(3, 4)
    state, file = net.state(x), io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(net.inverse(loaded)[0], x)
    assert len(file.getvalue()) < 8000  # no model in it
    with pytest.raises(RuntimeError, match="could not be reconstructed"):
        network(seed=9).inverse(state)
    with pytest.raises(ValueError, match="another number of layers"):
        so.MomentumNet(net.blocks, 0.8).inverse(state)
    with pytest.raises(ValueError, match="another number of layers"):
        so.MomentumNet(net.blocks[:3], 0.9).inverse(state)
    for name in ("x", "v"):
        with torch.no_grad():
            edited = copy.deepcopy(net.state(x))
        setattr(edited, name, getattr(edited, name) + 1)
        with pytest.raises(ValueError, match=f"`state.{name}` was changed"):
            net.inverse(edited)


def test_the_way_back_asks_no_velocity_network():
    velocity = nn.BatchNorm1d(4)
    net, x = so.MomentumNet([mlp()] * 3, 0.9, velocity=velocity), noise(8, 4)
    net.inverse(net.state(x))
    assert velocity.num_batches_tracked == 1
