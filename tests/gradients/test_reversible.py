"""The reversible route: exact reconstruction, exact gradients, counted bytes, errors.

Everything that is claimed to be exact is compared with ``torch.equal``.
"""

import copy
import functools
import math

import pytest
import torch
from problems import Field, counted, gradients, mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder.gradients.integers import Integers
from secondorder.gradients.tape import KICK, compile_tape
from secondorder.models.invert import run_reversibly, undo
from secondorder.plan import Damp, Drift, Kick, Record, compile_plan, momentum_plan

F64 = torch.float64


def without_records(plan):
    return tuple(move for move in plan if not isinstance(move, Record))


def undamped(layers):
    """x ← x + v, v ← v + f(x): nothing is ever pushed."""
    return tuple(m for n in range(layers) for m in (Kick(0.01, n), Drift(1.0)))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99, 0.999, 1e-3, None])
@pytest.mark.parametrize("layers", [1, 10, 300])
def test_the_start_comes_back_bit_for_bit(layers, gamma, dtype):
    f, x, v = mlp(dtype=dtype), noise(3, 4, dtype=dtype), noise(3, 4, dtype=dtype)
    plan = undamped(layers) if gamma is None else momentum_plan(gamma, layers)
    with torch.no_grad():
        state = run_reversibly(plan, lambda n, x: f(x), x, v, ())
        x0, v0 = undo(plan, lambda n, x: f(x), state, ())
    assert torch.equal(x0, x)
    assert torch.equal(v0, v)


@pytest.mark.parametrize("gamma", [0.5, 0.999])
def test_ten_thousand_layers_come_back(gamma):
    net = so.MomentumNet([mlp()] * 10_000, gamma)
    x = noise(2, 4)
    x0, v0 = net.inverse(net.state(x))
    assert torch.equal(x0, x)
    assert not v0.any()


@pytest.mark.parametrize("name", so.METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_method_comes_back(name, dtype):
    method, epsilon = so.METHODS[name], torch.tensor([0.3, 1.0, 4.0], dtype=dtype)
    if method.takes_velocity:
        system = so.Acceleration(lambda t, x, v: torch.sin(x) * t - v**3, 1 / epsilon)
    else:
        system = so.SecondOrder(lambda t, x: torch.sin(x) * t, epsilon)
    x, v = noise(5, 3, dtype=dtype), noise(5, 3, dtype=dtype, seed=2)
    t = torch.tensor([0.0, 1.0, 1.3, 1.0], dtype=F64)[:3]
    plan = without_records(compile_plan(method, system, t, [12, 5], x))
    with torch.no_grad():
        state = run_reversibly(plan, system.field, x, v, ())
        x0, v0 = undo(plan, system.field, state, ())
    assert torch.equal(x0, x)
    assert torch.equal(v0, v)


def stored(net, x, monkeypatch):
    """Gradients of the same quantised forward from stored inputs of the blocks."""
    seen, position = [], Integers.position

    def spy(state):
        seen.append(position(state))
        return seen[-1].clone()

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(Integers, "position", spy)
        net(x)
    del seen[len(net.blocks) :]  # the end, which is recorded
    gx, gv = torch.ones_like(x), torch.zeros_like(x)
    total = {id(p): torch.zeros_like(p) for p in net.parameters()}
    for block, leaf in zip(reversed(net.blocks), reversed(seen), strict=True):
        gv = gv + gx
        out, parameters = block(leaf.requires_grad_()), list(block.parameters())
        found = torch.autograd.grad(out, [leaf, *parameters], (1 - net.gamma) * gv)
        gx = gx + found[0]
        for p, g in zip(parameters, found[1:], strict=True):
            total[id(p)] += g
        gv = net.gamma * gv
    return [gx, *(total[id(p)] for p in net.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.999])
def test_gradients_equal_those_of_stored_activations(gamma, dtype, monkeypatch):
    net = so.MomentumNet([mlp(dtype=dtype, seed=n) for n in range(50)], gamma)
    x = noise(3, 4, dtype=dtype)
    expected = stored(net, x, monkeypatch)
    for one, other in zip(gradients(net, x), expected, strict=True):
        assert torch.equal(one, other)


def test_gradients_are_at_least_as_accurate_as_plain_float32():
    blocks = [mlp(16, 32, seed=n) for n in range(1000)]
    with torch.no_grad():
        for block in blocks:  # forces of order N^-1/2, as at initialisation
            block[2].weight *= 1000**-0.5
            block[2].bias *= 1000**-0.5
    x = noise(4, 16)
    net = so.MomentumNet(blocks, 0.9)
    plain = so.MomentumNet(blocks, 0.9, gradient="backprop")
    exact = gradients(copy.deepcopy(plain).double(), x.double())
    ours = worst([g.double() for g in gradients(net, x)], exact)
    theirs = worst([g.double() for g in gradients(plain, x)], exact)
    assert ours <= 2 * theirs
    assert ours < 1e-4  # 1000 layers of rounding at 6e-8, not a wrong gradient


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_memory_is_16_bytes_and_the_entropy_of_damping(gamma):
    x = noise(64, 8)
    for layers in (10, 100, 1000):
        net = so.MomentumNet([mlp(8, 4)] * layers, gamma)
        entropy = layers * math.log2(1 / gamma) / 8  # bytes per element
        hashes, unit = 2 * 8, 8
        expected = x.numel() * 16 + hashes + unit
        excess = (counted(net, x) - expected) / x.numel()
        # Whole bytes move, so up to one byte per element is not full yet.
        assert entropy - 1 <= excess <= entropy


def test_without_a_gradient_nothing_is_kept():
    net, x = so.MomentumNet([mlp(8, 4)] * 100, 0.5), noise(64, 8)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert counted(net, x) == 0
            out = net(x)
        assert out.grad_fn is None
        assert torch.equal(out, net(x).detach())


@pytest.mark.parametrize("keep", [1, 3, 9])
def test_kept_graphs_change_the_memory_and_no_bit_of_the_gradient(keep):
    blocks = [mlp(seed=n) for n in range(10)]
    x = noise(3, 4)
    some = so.MomentumNet(blocks, 0.9, functools.partial(so.reversible, keep=keep))
    none = so.MomentumNet(blocks, 0.9)
    for a, b in zip(gradients(some, x), gradients(none, x), strict=True):
        assert torch.equal(a, b)
    x = x.requires_grad_()
    out = some(x).sum()
    first = torch.autograd.grad(out, x, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(out, x)[0])


@pytest.mark.parametrize("keep", [10, 99])
def test_with_all_graphs_kept_the_numbers_are_those_of_backprop(keep):
    blocks = [mlp(seed=n) for n in range(10)]
    x = noise(3, 4)
    every = so.MomentumNet(blocks, 0.9, so.reversible(keep=keep))
    plain = so.MomentumNet(blocks, 0.9, "backprop")
    assert torch.equal(every(x), plain(x))
    for a, b in zip(gradients(every, x), gradients(plain, x), strict=True):
        assert torch.equal(a, b)


def test_kept_graphs_are_counted():
    blocks = [mlp(64, 64, seed=n) for n in range(10)]
    x = noise(16, 64).requires_grad_()
    none, five, every = (
        counted(so.MomentumNet(blocks, 0.9, so.reversible(keep=k)), x)
        for k in (0, 5, 10)
    )
    force = (five - none) / 5
    assert force > 2 * x.nbytes  # at least what its two layers need
    two = counted(so.MomentumNet(blocks, 0.9, so.reversible(keep=2)), x)
    assert abs((two - none) - 2 * force) < 0.1 * force
    assert every == counted(so.MomentumNet(blocks, 0.9, "backprop"), x)


def test_with_all_graphs_kept_nothing_is_evaluated_again():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = mlp(), 0

        def forward(self, x):
            self.calls += 1
            return self.net(x) + self.calls * 0.01 * x  # never the same again

    block = Counting()
    x = noise(3, 4, dtype=torch.float32)
    found = gradients(so.MomentumNet([block] * 6, 0.9, so.reversible(keep=6)), x)
    assert block.calls == 6
    block.calls = 0
    expected = gradients(so.MomentumNet([block] * 6, 0.9, "backprop"), x)
    assert worst(found, expected) < 1e-5


def test_backward_twice_gives_the_same_gradient_and_needs_retain_graph():
    net, x = so.MomentumNet([mlp(seed=n) for n in range(5)], 0.9), noise(3, 4)
    x.requires_grad_()
    out = net(x).sum()
    (first,) = torch.autograd.grad(out, x, retain_graph=True)
    (second,) = torch.autograd.grad(out, x)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out, x)


def test_learned_gamma_gets_the_gradient_of_backprop():
    found = {}
    for route in ("backprop", "reversible"):
        gamma = nn.Parameter(torch.tensor(0.8, dtype=F64))
        net = so.MomentumNet([mlp(dtype=F64)] * 20, gamma, route)
        net(noise(3, 4, dtype=F64)).square().sum().backward()
        found[route] = gamma.grad
    # The int64 grid resolves 2^-46 = 1e-14 of states of order 1.
    torch.testing.assert_close(*found.values(), rtol=1e-11, atol=0)


class Tricky(nn.Module):
    """A block with arguments, an unused, a frozen and a tied parameter."""

    def __init__(self, d=4):
        super().__init__()
        self.one, self.two = nn.Linear(d, d), nn.Linear(d, d)
        self.two.weight = self.one.weight  # tied
        self.one.bias.requires_grad_(False)  # frozen
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x, shift, *, mask=None, nested=None):
        y = self.two(torch.tanh(self.one(x))) + shift
        y = y if mask is None else y * mask
        return y if nested is None else y * nested["scale"][0]


def test_arguments_masks_frozen_tied_and_unused_parameters():
    torch.manual_seed(0)
    blocks = [Tricky() for _ in range(6)]
    blocks[0].requires_grad_(False)  # a wholly frozen block
    results = []
    for route in ("reversible", "backprop", "checkpoint"):
        net = so.MomentumNet(blocks, 0.9, route)
        net.zero_grad(set_to_none=True)
        shift = noise(3, 4).requires_grad_()
        scale = torch.tensor(0.7, requires_grad=True)
        mask = torch.tensor([1, 0, 1, 1])  # integers pass through
        x = noise(3, 4, seed=5).requires_grad_()
        net(x, shift, mask=mask, nested={"scale": [scale]}).sum().backward()
        own = [p.grad for p in net.parameters()]
        results.append([x.grad, shift.grad, scale.grad, *own])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def test_dropout_draws_the_same_masks_in_every_route():
    blocks = [nn.Sequential(mlp(seed=n), nn.Dropout(0.5)) for n in range(8)]
    found, after = [], []
    for route in ("backprop", "reversible", "checkpoint"):
        torch.manual_seed(3)
        found.append(gradients(so.MomentumNet(blocks, 0.9, route), noise(3, 4)))
        after.append(torch.rand(3))
    assert worst(found[1], found[0]) < 1e-5
    assert worst(found[2], found[0]) < 1e-5
    # And leaves the generator where plain backprop leaves it.
    assert torch.equal(after[0], after[1])
    assert torch.equal(after[0], after[2])


@pytest.mark.parametrize("route", ["reversible", "checkpoint"])
def test_running_statistics_are_updated_once(route):
    def trained(route):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(5)]
        net = so.MomentumNet(blocks, 0.9, route)
        found = gradients(net, noise(16, 4))
        return found, dict(net.named_buffers())

    expected, statistics = trained("backprop")
    found, updated = trained(route)
    # Sums over a batch in float32; the gradient of a bias before BatchNorm is 0.
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name, value in statistics.items():
        torch.testing.assert_close(updated[name], value)
        if name.endswith("num_batches_tracked"):
            assert updated[name] == 1


def test_autocast_is_entered_again_in_the_backward_pass():
    net = so.MomentumNet([mlp(seed=n) for n in range(5)], 0.9)
    plain = so.MomentumNet(net.blocks, 0.9, "backprop")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = noise(3, 4).requires_grad_()
        out = net(x)
        assert out.dtype == torch.float32  # the state keeps its dtype
        total = out.sum()
    (found,) = torch.autograd.grad(total, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (expected,) = gradients(plain, noise(3, 4))[:1]
    # bfloat16 forces: 2^-8 each.
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_parameter_hooks_run_once():
    net = so.MomentumNet([mlp()] * 7, 0.9)
    calls = []
    for p in net.parameters():
        p.register_hook(lambda g: calls.append(1))
    net(noise(3, 4)).sum().backward()
    assert len(calls) == 4


def test_parameters_stay_where_they_are():
    net = so.MomentumNet([mlp(seed=n) for n in range(3)], 0.9)
    before = list(net.parameters())
    with pytest.raises(ZeroDivisionError):
        so.MomentumNet([*net.blocks, lambda x: 1 / 0], 0.9)(noise(3, 4))
    net(noise(3, 4)).sum().backward()
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.grad is not None for p in before)


def test_checkpointing_inside_a_block_and_nesting():
    from torch.utils.checkpoint import checkpoint

    inner = so.MomentumNet([mlp(seed=9)] * 3, 0.8)

    class Inside(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.net, self.reentrant = mlp(), reentrant

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=self.reentrant)

    for block in (Inside(False), Inside(True), inner):
        found = []
        for route in ("reversible", "backprop"):
            block.zero_grad()
            x = noise(3, 4).requires_grad_()
            # The reentrant kind allows .backward() only.
            so.MomentumNet([block] * 4, 0.9, route)(x).sum().backward()
            found.append([x.grad, *(p.grad.clone() for p in block.parameters())])
        assert worst(*found) < 1e-5


def test_a_compiled_block_works():
    block = mlp()
    compiled = torch.compile(block, backend="eager")
    one = gradients(so.MomentumNet([compiled] * 4, 0.9), noise(3, 4))
    two = gradients(so.MomentumNet([block] * 4, 0.9), noise(3, 4))
    assert worst(one, two) < 1e-5


def test_every_returned_time_carries_gradients():
    found = {}
    for route in ("backprop", "reversible"):
        torch.manual_seed(0)
        system = so.SecondOrder(Field(), nn.Parameter(torch.tensor(0.5, dtype=F64)))
        x0, v0 = noise(2, 4, 3, dtype=F64).requires_grad_()
        t = torch.tensor([0.0, 0.4, 0.5, 1.0], dtype=F64, requires_grad=True)
        sol = so.odeint(system, (x0, v0), t, step_size=0.1, gradient=route)
        weights = torch.arange(1.0, 5, dtype=F64).reshape(-1, 1, 1)
        loss = (weights * sol.x.cos()).sum() + (weights * sol.v).square().sum()
        wanted = [x0, v0, t, *system.parameters()]
        found[route] = torch.autograd.grad(loss, wanted)
    assert worst(found["reversible"], found["backprop"]) < 1e-11


# Errors: never a silently wrong or missing gradient.


def test_a_closed_over_tensor_is_refused():
    weight = torch.ones(3, requires_grad=True)
    system = so.SecondOrder(lambda t, x: weight * x)
    x0 = torch.ones(2, 3)
    with pytest.raises(ValueError, match="none of its parameters"):
        so.odeint(system, (x0, None), [0.0, 1.0], gradient="reversible")
    parent = nn.Linear(3, 3)
    derived = parent.weight * 2  # even of a parameter: its graph would be walked once

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.parent = parent

        def forward(self, x):
            return x @ derived

    with pytest.raises(ValueError, match="none of its parameters"):
        so.MomentumNet([Block()], 0.9)(x0)


def test_a_nondeterministic_block_is_detected():
    class Drifting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    x = noise(3, 4).requires_grad_()
    out = so.MomentumNet([Drifting()] * 3, 0.9)(x)
    with pytest.raises(RuntimeError, match="could not be reconstructed"):
        out.sum().backward()


def test_weights_that_changed_are_detected():
    net, x = so.MomentumNet([mlp()] * 3, 0.9), noise(3, 4)
    out = net(x)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified in place"):
        out.sum().backward()
    state = net.state(x)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="could not be reconstructed"):
        net.inverse(state)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_not_a_number_spreads_as_in_backprop(dtype, poison):
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, dtype=dtype))

        def forward(self, x):
            return torch.where(x > 2, poison, torch.sin(self.w * x))

    x = noise(3, 4, dtype=dtype)
    x[1, 2] = 2.5
    found = {}
    for route in ("reversible", "backprop"):
        leaf = x.clone().requires_grad_()
        out = so.MomentumNet([Bad()] * 5, 0.9, route)(leaf)
        out.sum().backward()
        assert not out[1, 2].isfinite()
        found[route] = leaf.grad
    rows = torch.tensor([0, 2])
    torch.testing.assert_close(
        found["reversible"][rows], found["backprop"][rows], rtol=1e-5, atol=1e-6
    )


def test_higher_derivatives_and_functorch_are_refused():
    net, x = so.MomentumNet([mlp()] * 3, 0.9), noise(3, 4).requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives"):
        torch.autograd.grad(net(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="torch.func"):
        torch.func.grad(lambda x: net(x).sum())(noise(3, 4))


@pytest.mark.parametrize("gamma", [0.0, 1e-12])
def test_a_damp_that_erases_too_much_is_refused(gamma):
    if gamma == 0:
        with pytest.raises(ValueError, match="checkpoint"):
            so.MomentumNet([mlp()], gamma)
    else:
        with pytest.raises(ValueError, match="checkpoint"):
            so.MomentumNet([mlp()], gamma)(noise(3, 4))


def test_complex_states_are_refused():
    system = so.SecondOrder(lambda t, x: 1j * x)
    x0 = torch.ones(2, dtype=torch.complex64)
    so.odeint(system, (x0, None), [0.0, 1.0])
    with pytest.raises(ValueError, match="view_as_real"):
        so.odeint(system, (x0, None), [0.0, 1.0], gradient="reversible")


def test_bytes_come_back_through_negative_substeps():
    # Yoshida's and Blanes-Moan's negative substeps pull bytes back: only the net
    # contraction e^{-T/ε} is stored.
    system = so.SecondOrder(lambda t, x: -x, 0.5)
    x = noise(100, dtype=F64)
    plan = compile_plan(
        so.METHODS["blanes_moan4"], system, torch.tensor([0.0, 20.0]), [200], x
    )
    plan = without_records(plan)
    with torch.no_grad():
        state = run_reversibly(plan, system.field, x, x, ())
    bytes_kept = state.nbytes / x.numel() - 16
    net_bytes = 20 / 0.5 / math.log(2) / 8
    assert net_bytes - 1 <= bytes_kept <= net_bytes + 3


def test_the_grid_gives_velocities_the_bits_that_coasting_needs():
    for gamma in (0.9, 0.999):
        plan = momentum_plan(gamma, 1000)
        tape = compile_tape(plan, torch.float32, torch.device("cpu"))
        coast = sum(gamma**k for k in range(1, 1001))
        assert tape.grid.fu - tape.grid.fx == math.ceil(math.log2(max(coast, 1)))
        assert sum(s.code == KICK for s in tape.steps) == 1000


def test_weights_of_damps_may_exceed_one():
    plan = tuple(m for n in range(50) for m in (Damp(1.05), Kick(0.1, n), Drift(0.1)))
    f, x = mlp(), noise(3, 4)
    with torch.no_grad():
        state = run_reversibly(plan, lambda n, x: f(x), x, x, ())
        x0, v0 = undo(plan, lambda n, x: f(x), state, ())
    assert torch.equal(x0, x)
    assert torch.equal(v0, x)
