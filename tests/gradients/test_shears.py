"""Plans of shears run back bit for bit, whatever a step has mixed away."""

import functools
import math

import pytest
import torch
from problems import counted, mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder.gradients.shears import Remnants, Shears
from secondorder.plan import Damp, Drift, Kick, Mix, Record, Shear
from secondorder.plan.coupling import coupled_plan
from secondorder.plan.runge_kutta import RK4

D = torch.float64


class Pol(nn.Module):
    """Van der Pol's oscillator with a learned μ."""

    def __init__(self, dtype=D):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(5.0, dtype=dtype))

    def forward(self, t, x, v):
        return self.mu * (1 - x**2) * v - x


def plane(time, y, mu=5.0):
    """The same as a field of the plane."""
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, mu * (1 - x**2) * v - x], -1)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_eight_hundred_steps_of_a_limit_cycle_come_back(share, dtype):
    y = torch.tensor([[0.1, 0.0], [2.0, 1.0]], dtype=dtype)
    t = torch.tensor([0.0, 20.0], dtype=D)
    plan = coupled_plan(RK4, share, t, [800], y)
    with torch.no_grad():
        run = Shears(plan, plane, (), y)
        (x, *_), trace = run.forward(y, y, [])
        start = run.load(run.tape.grid, y, y, trace.unit)
        state, _ = run.rewind(trace)
        exact = so.backprop(plan, plane, y.double(), y.double())[0][0]
    for a, b in zip(state.integers, start.integers, strict=True):
        assert torch.equal(a, b)
    # 2e-5: eight hundred roundings of float32 inside the forces.
    torch.testing.assert_close(
        x.double(), exact, rtol=0, atol=1e-10 if dtype == D else 2e-3
    )
    # A byte holds 8 / log2(1/λ) steps of an element.
    stacks = trace.end.stacks[0]
    bits = {0.25: 2, 0.5: 1}[share]
    assert sum(n.nbytes for n in stacks) == 800 * bits // 8 * y.numel()


@functools.cache
def learned(problem, gradient, dtype, share=0.25):
    """Gradients of a loss over a path with respect to all that there is."""
    t = torch.tensor([0.0, 1.0, 2.5], dtype=D, requires_grad=True)
    rate = torch.tensor(0.1, dtype=dtype, requires_grad=True)
    x0, v0 = (z.requires_grad_() for z in noise(2, 3, 2, dtype=dtype))
    if problem == "pol":
        field = Pol(dtype)
        system, start = so.Acceleration(field, damping=rate), (x0, v0)
        inputs = [x0, v0, t, rate]
    else:
        field = so.Autonomous(mlp(2, 16, dtype))
        system, start, inputs = so.FirstOrder(field), x0, [x0, t]
    x, v = so.odeint(system, start, t, method=so.Coupled(RK4, share), step_size=0.02,
                     gradient=gradient)  # fmt: skip
    loss = x[1:].square().sum() + (x[-1] * v[-1].cos()).sum()
    return torch.autograd.grad(loss, [*inputs, *field.parameters()])


@pytest.mark.parametrize("problem", ["pol", "node"])
@pytest.mark.parametrize("share", [0.25])
@pytest.mark.parametrize("route", ["checkpoint", "reversible"])
def test_all_routes_agree(problem, share, route):
    exact = learned(problem, "backprop", D, share)
    assert worst(learned(problem, route, D, share), exact) < 1e-10
    single = [g.double() for g in learned(problem, route, torch.float32, share)]
    # As close as float32 comes over 125 steps.
    assert worst(single, exact) < 5e-5


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_bits_come_back_in_reverse(bits):
    stack, generator = Remnants(), torch.Generator().manual_seed(0)
    sizes = [bits, 1, bits, bits, 3, bits] * 4
    parts = [torch.randint(2**n, (7,), generator=generator) for n in sizes]
    for part, n in zip(parts, sizes, strict=True):
        stack.push(part, n)
    stack = Remnants(stack.kept())
    for part, n in zip(reversed(parts), reversed(sizes), strict=True):
        assert torch.equal(stack.pop(n), part)
    assert stack.bytes == []


def rev_net(blocks, mixing=()):
    """x ← x + F_n(v), v ← v + G_n(x), and mixings."""
    plan = []
    for n in range(0, len(blocks), 2):
        plan += [*mixing, Shear(1.0, (n,)), Shear(1.0, (n + 1,), velocity=True)]
    return (*plan, Record())


class Blocks(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, n, x, *args):
        return self.blocks[n](x, *args)


EACH = torch.tensor([0.25, 1.0, -0.5, 1.0], dtype=D)  # one for each coordinate


@pytest.mark.parametrize(
    "mixing",
    [
        (),
        (Mix(-0.5),),
        (Mix(0.25), Mix(0.5, velocity=True)),
        (Mix(1.0),),
        (Mix(EACH), Mix(0.5, velocity=True)),
    ],
)
def test_plans_of_ones_own(mixing):
    field = Blocks([mlp(4, dtype=D, seed=n) for n in range(20)])
    plan = rev_net(field.blocks, mixing)
    x, v = (z.requires_grad_() for z in noise(2, 3, 4, dtype=D))
    found = []
    for route in (so.backprop, so.checkpoint, so.reversible):
        ((a, b),) = route(plan, field, x, v)
        loss = (a * b.cos()).sum()
        found.append([a, b, *torch.autograd.grad(loss, [x, v, *field.parameters()])])
    assert worst(found[1], found[0]) < 1e-12
    assert worst(found[2], found[0]) < 1e-10
    _, (back, other, _) = so.plan.walk(so.plan.reverse(plan), field, a, b)
    least = [torch.as_tensor(mix.weight).abs().min().item() for mix in mixing]
    lost = math.prod(1 / weight for weight in least) ** 10  # in floating point
    assert worst([back, other], [x, v]) < 1e-11 * lost
    assert so.plan.evaluations(plan) == 20
    jacobian = torch.autograd.functional.jacobian(
        lambda z: torch.stack(so.backprop(plan, field, z[0], z[1])[0]),
        torch.stack([x[0].detach(), v[0].detach()]),
    )
    measured = torch.linalg.slogdet(jacobian.reshape(8, 8))[1]
    volume = float(so.plan.log_determinant(plan, dimension=4))
    assert measured.item() == pytest.approx(volume, abs=1e-15 * lost + 1e-9)


def test_signs_may_differ_between_samples():
    field = Blocks([mlp(4, dtype=D)] * 2)
    sign = torch.tensor([[0.5], [-0.5], [0.5]], dtype=D)
    plan = rev_net(field.blocks, (Mix(sign),))
    x, v = (z.requires_grad_() for z in noise(2, 3, 4, dtype=D))
    found = []
    for route in (so.backprop, so.reversible):
        ((a, b),) = route(plan, field, x, v)
        found.append([a, b, *torch.autograd.grad((a * b).sum(), [x, v])])
    assert worst(found[1], found[0]) < 1e-11


def test_memory_does_not_grow_but_by_the_bits():
    x = noise(64, 8)

    def kept(steps):
        net = so.Autonomous(mlp(8, 32))
        return counted(
            lambda y: so.odeint(
                so.FirstOrder(net), y, [0.0, 1.0], method="coupled_rk4",
                step_size=1 / steps, gradient="reversible",
            ).x[-1],
            x,
        )  # fmt: skip

    more = kept(80) - kept(16)
    assert more == 64 * x.numel() * 2 / 8 + 16  # and how full each of 16 bytes is


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(mlp(4, dtype=D), nn.Dropout(0.3))
        self.calls, self.broken = 0, False

    def forward(self, t, x):
        self.calls += 1
        return self.net(x) + (1e-9 * self.calls if self.broken else 0)


def solve(field, x, gradient="reversible", **how):
    return so.odeint(so.FirstOrder(field), x, [0.0, 1.0], method="coupled_heun2",
                     step_size=0.1, gradient=gradient, **how).x[-1]  # fmt: skip


def test_random_numbers_are_drawn_again_as_they_were():
    field, x, found = Noisy(), noise(5, 4, dtype=D).requires_grad_(), []
    for gradient in ("backprop", "checkpoint", "reversible"):
        torch.manual_seed(3)
        loss = solve(field, x, gradient).square().sum()
        found.append(torch.autograd.grad(loss, [x, *field.parameters()]))
    assert worst(found[1], found[0]) < 1e-12
    assert worst(found[2], found[0]) < 1e-10


def test_what_cannot_be_undone_raises():
    field, x = Noisy(), noise(5, 4, dtype=D).requires_grad_()
    field.broken = True
    with pytest.raises(RuntimeError, match="could not be reconstructed"):
        solve(field, x).sum().backward()
    field = so.Autonomous(mlp(4, dtype=D))
    loss = solve(field, x).sum()
    with torch.no_grad():
        next(field.parameters()).add_(1e-3)
    with pytest.raises(RuntimeError, match="modified in place"):
        loss.backward()
    weight = torch.ones(4, dtype=D, requires_grad=True)
    with pytest.raises(ValueError, match="reversal would lose that gradient"):
        solve(lambda t, x: weight * x, x)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(solve(field, x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="left the range of the grid"):
        solve(lambda t, x: 1e4 * x, x)


def test_one_bad_sample_is_nan_alone():
    field, x = so.Autonomous(mlp(4, dtype=D)), noise(5, 4, dtype=D)
    x[1, 2] = torch.nan
    grads = []
    for gradient in ("backprop", "reversible"):
        y = x.clone().requires_grad_()
        end = solve(field, y, gradient)
        (g,) = torch.autograd.grad(end[[0, 2, 3, 4]].sum(), y)
        assert bool(end[1].isnan().any()) and bool(end[0].isfinite().all())
        grads.append(g[[0, 2, 3, 4]])
    assert worst([grads[1]], [grads[0]]) < 1e-10


def test_a_graph_may_be_kept_and_run_twice():
    field, x = so.Autonomous(mlp(4, dtype=D)), noise(5, 4, dtype=D).requires_grad_()
    loss = solve(field, x).square().sum()
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, x)
    assert torch.equal(once, twice)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e9])
def test_states_of_any_size_and_from_rest(size):
    """The grid follows the state, also where part of it starts at 0."""
    system = so.Newton(lambda t, x: -x + size * torch.cos(t), damping=0.2)
    grads = []
    for gradient in ("backprop", "reversible"):
        x0 = torch.zeros(3, 1, dtype=D, requires_grad=True)
        x, v = so.odeint(system, (x0, None), [0.0, 2.0], method="coupled_rk4",
                         step_size=0.02, gradient=gradient)  # fmt: skip
        loss = (x[-1] / size).square().sum() + (v[-1] / size).sum()
        grads.append([x[-1] / size, *torch.autograd.grad(loss, x0)])
    assert worst(grads[1][:1], grads[0][:1]) < 1e-11
    assert worst(grads[1][1:], grads[0][1:]) < 1e-10


def test_refusals():
    x = noise(3, 4)
    with pytest.raises(ValueError, match=r"this one has \['Damp', 'Drift', 'Kick'\]"):
        so.reversible((Shear(1.0), Damp(0.5), Drift(1.0), Kick(1.0)), mlp, x, x)
    for weight in (0.3, 0.0, 2.0, torch.tensor([0.5, 0.3])):
        with pytest.raises(ValueError, match="whole number of bits"):
            so.reversible((Mix(weight), Record()), lambda t, x: x, x, x)
    with pytest.raises(ValueError, match="cannot learn the weight of a mixing"):
        so.reversible(
            (Mix(torch.tensor(0.5, requires_grad=True)),), lambda t, x: x, x, x
        )


def test_a_net_of_shears_runs_twice_in_one_autocast_region():
    """The second pass meets weights that autocast has cast before."""
    net = so.related.RevNet([mlp(2, seed=n) for n in range(4)])
    x = noise(3, 4).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, two = net(x), net(x)
    assert torch.equal(one, two)
    (both,) = torch.autograd.grad((one + two).sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = net(x)
    (alone,) = torch.autograd.grad(again.sum(), x)
    torch.testing.assert_close(both, 2 * alone)
