"""The grid measures a state by its own size: no magnitude is silently lost or wrapped.

Units, SI or other, are the user's affair: the reversible route gives what backprop
gives to rounding, whatever the size of states, velocities and masses, or it raises.
"""

import math

import pytest
import torch
from problems import gradients, mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder.gradients.fixed_point import (
    exponent,
    power,
    power_above,
    unit_of,
    unit_of_few,
)

F64 = torch.float64
GM = 1.327e20  # m³/s², of the sun


def close(dtype):
    """Some roundings of ten layers, in the dtype or on the grid of 2^-46."""
    return 1e-5 if dtype == torch.float32 else 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e-6, 1.0, 6e5, 1e12, 1e30])
def test_states_of_any_size_go_through_a_network(size, dtype):
    blocks = [nn.Linear(4, 4, bias=False, dtype=dtype) for _ in range(10)]
    x = size * noise(8, 4, dtype=dtype)
    one, two = (so.MomentumNet(blocks, 0.9, g) for g in ("reversible", "backprop"))
    assert worst([one(x)], [two(x)]) < close(dtype)
    assert worst(gradients(one, x), gradients(two, x)) < close(dtype)


def test_float64_does_not_wrap():
    net = so.MomentumNet([nn.Tanh()])
    x = torch.tensor([6e5], dtype=F64)
    assert net(x).item() == pytest.approx(6e5 + 0.1, rel=1e-12)


@pytest.mark.parametrize("amplitude", [1e-8, 1.0, 1000.0, 1e15])
def test_an_oscillator_of_any_amplitude_over_a_hundred_periods(amplitude):
    spring = so.Newton(lambda t, x: -x)
    start = torch.full((1,), amplitude, dtype=F64), None
    t = torch.tensor([0.0, 200 * math.pi], dtype=F64)
    one, two = (
        so.odeint(spring, start, t, step_size=0.1, gradient=g).x[-1] / amplitude
        for g in ("reversible", "backprop")
    )
    # 6283 steps that each round at 1e-14, and carry for 628 units of time.
    assert (one - two).abs().item() < 1e-10


@pytest.mark.parametrize("mass", [1.0, 5.97e24, 1e-26])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_year_of_the_earth_in_metres_seconds_and_kilograms(mass, dtype):
    def force(t, x):
        # In float32 the product with the mass of an electron would underflow.
        return -(GM / x.double().norm(dim=-1, keepdim=True) ** 3) * x.double() * mass

    orbit = so.Newton(force, mass=mass)
    x0 = torch.tensor([1.496e11, 0.0], dtype=dtype)
    v0 = torch.tensor([0.0, 29780.0], dtype=dtype)
    found = [
        so.odeint(orbit, (x0, v0), [0.0, 3.156e7], method="blanes_moan4",
                  step_size=2e5, gradient=g).x[-1]
        for g in ("reversible", "backprop")
    ]  # fmt: skip
    if dtype == torch.float32 and mass != 1:  # v·m and m itself leave float32
        return
    # 158 steps; float32 rounds each at 6e-8 of the radius, and phases add up.
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    assert (found[0] - found[1]).norm() < tolerance * 1.5e11


def test_samples_and_coordinates_of_their_own_size():
    blocks = [nn.Linear(3, 3, bias=False) for _ in range(10)]
    one, two = (so.MomentumNet(blocks, 0.9, g) for g in ("reversible", "backprop"))
    size = torch.tensor([1e6, 1e-3, 1.0, 1e-6, 1e3, 1e30])
    x = noise(6, 3) * size.unsqueeze(1)
    for a, b in zip(one(x), two(x), strict=True):
        assert worst([a], [b]) < 1e-5
    relaxing = so.SecondOrder(lambda t, x: -x)
    x = noise(6, 3) * torch.tensor([1e7, 1e-3, 1.0])
    one, two = (
        so.odeint(relaxing, (x, None), [0.0, 1.0], step_size=0.1, gradient=g).x[-1]
        for g in ("reversible", "backprop")
    )
    for k in range(3):
        assert worst([one[:, k]], [two[:, k]]) < 1e-5


def test_noise_beside_a_large_coordinate_may_grow_to_its_size():
    """cos(π/2) is 6e-17, not 0, and a rotation makes 1 of it."""
    turn = torch.tensor([[-1.0, 0.5], [0.5, -1.0]], dtype=F64)
    system = so.Newton(lambda t, x: x @ turn)
    x0 = torch.tensor([1.0, math.cos(math.pi / 2)], dtype=F64)
    one, two = (
        so.odeint(system, (x0, None), [0.0, 5.0], step_size=0.1, gradient=g).x[-1]
        for g in ("reversible", "backprop")
    )
    assert worst([one], [two]) < 1e-10


@pytest.mark.parametrize("push", [1e-10, 1e10])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_from_rest_at_the_origin_the_force_says_what_is_large(push, dtype):
    falling = so.Newton(lambda t, x: push * torch.ones_like(x))
    x = torch.zeros(2, 3, dtype=dtype)
    end = so.odeint(falling, (x, None), [0.0, 1.0], step_size=0.1,
                    gradient="reversible").x[-1]  # fmt: skip
    assert worst([end], [torch.full_like(end, push / 2)]) < close(dtype)


def test_the_first_force_is_asked_without_a_trace():
    """Random numbers, running statistics and attributes are those of one evaluation."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.calls = nn.BatchNorm1d(3), 0

        def forward(self, x):
            self.calls += 1
            return self.norm(x + torch.rand(3))

    block = Block()
    torch.manual_seed(0)
    so.MomentumNet([block] * 4)(torch.zeros(5, 3))
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(4, 3)
    assert torch.equal(torch.rand(1), after)
    assert block.calls == block.norm.num_batches_tracked == 4


def test_what_leaves_the_range_raises_and_says_what_to_do():
    growing = so.Newton(lambda t, x: x)
    start = torch.ones(1, dtype=F64), None
    with pytest.raises(RuntimeError, match="left the range.*scale"):
        so.odeint(growing, start, [0.0, 60.0], step_size=0.1, gradient="reversible")
    scaled = so.reversible(scale=math.cosh(60))
    so.odeint(growing, start, [0.0, 60.0], step_size=0.1, gradient=scaled)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, "big"])
def test_a_scale_that_is_no_size_is_refused(scale):
    with pytest.raises((TypeError, ValueError), match="`scale`"):
        so.reversible(scale=scale)


def test_a_scale_per_coordinate_has_to_fit_them():
    net = so.MomentumNet([mlp()], 0.9, so.reversible(scale=torch.ones(4)))
    net(noise(3, 4))
    with pytest.raises(ValueError, match="`scale` of shape"):
        so.MomentumNet([mlp()], 0.9, so.reversible(scale=torch.ones(5)))(noise(3, 4))


def test_one_unit_where_sizes_are_alike_and_many_where_they_are_not():
    assert unit_of(noise(50, 4).abs()).item() in (2.0, 4.0)
    assert unit_of(torch.zeros(3, 2)).item() == 1
    assert unit_of(torch.zeros(0, 2)).item() == 1
    each = unit_of(torch.tensor([[1.0, 1e-9], [1e6, 1e-3]]))
    assert each.shape == (2, 2)
    assert bool((each.log2() % 1 == 0).all())
    assert each[0, 1] < 0.01 < each[0, 0] <= 1 < each[1, 0]
    assert unit_of(torch.tensor([[math.nan, 2.0], [math.inf, 1.0]])).item() == 2


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (4, 1), (2, 3, 4), (8, 8)])
def test_the_unit_of_a_few_numbers_is_that_of_many(shape, dtype):
    double = dtype == F64
    alike, apart = 0, 0
    for n in range(60):
        x, v = (noise(*shape, seed=2 * n + k, dtype=dtype) for k in (1, 2))
        if x.ndim:  # sizes apart by samples, by coordinates or not; some of them 0
            axis = -(n % 2)
            each = torch.arange(x.shape[axis]) * (n % 3) * 2
            each = 10.0 ** each.view(-1, *([1] * (x.ndim - 1) if axis == 0 else []))
            x, v = (x * each).to(dtype), (v * each).to(dtype)
            if n % 4 == 0:
                x[..., 0] = v[..., 0] = 0.0
        size = torch.maximum(x.abs(), 4.0 * v.abs()).double()  # exact in both
        one, many = unit_of_few(x, v, 4.0, double), unit_of(size, double)
        if one is None:
            assert many.ndim or size.max() < 2.0**-10
            apart += 1
        else:
            assert many.ndim == 0 and one == many.item()
            alike += 1
    assert alike > 10 and (apart > 10 or x.numel() == 1)


def test_the_unit_of_what_is_empty_at_rest_or_not_finite_takes_a_closer_look():
    one = torch.ones(2, 2)
    for bad in (torch.zeros(0, 2), 0 * one, 1e-4 * one, one * math.nan, one / 0):
        assert unit_of_few(bad, 0 * bad.nan_to_num(0, 0, 0), 1.0, False) is None
    assert unit_of_few(one, one / 0, 1.0, False) is None
    assert unit_of_few(one, one.clone().fill_diagonal_(math.nan), 1.0, False) is None
    assert unit_of_few(torch.ones(65), torch.ones(65), 1.0, False) is None


def test_an_overflowing_sample_hides_no_other():
    """Sample 0 blows up; the noise in the others is still found."""

    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x**3 * self.calls / 100

    for dtype in (torch.float32, F64):
        x = noise(4, 3, dtype=dtype)
        x[0] = 1e30 if dtype == torch.float32 else 1e200  # their cubes overflow
        net = so.MomentumNet([Drifting()] * 6)
        out = net(x.requires_grad_())
        assert not out[0].isfinite().any()
        assert out[1:].isfinite().all()
        with pytest.raises(RuntimeError, match="could not be reconstructed"):
            out[1:].sum().backward()


def test_powers_of_two_are_exact():
    """A device's log2 and exp2 need not be: a bit lost there is a state lost."""
    n = torch.arange(-1022, 1024)
    assert torch.equal(power(n), torch.tensor([2.0**k for k in n.tolist()], dtype=F64))
    assert torch.equal(exponent(power(n)), n)
    inside = power(torch.arange(-99, 100))
    up = torch.nextafter(inside, torch.tensor(torch.inf, dtype=F64))
    assert torch.equal(exponent(up), exponent(inside))
    assert torch.equal(power_above(inside, double=True), inside)
    assert torch.equal(power_above(up, double=True), 2 * inside)


def test_units_that_differ_cost_two_bytes_an_element():
    blocks, kept = [mlp(seed=n) for n in range(3)], []
    for size in (torch.ones(4), torch.tensor([1.0, 1e4, 1e8, 1e-4])):
        net, x = so.MomentumNet(blocks, 0.9), noise(64, 4) * size
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept[-1].append(t.nbytes) or t, lambda t: t
        ):
            kept.append([])
            out = net(x.requires_grad_())
        found = torch.autograd.grad(out.sum(), x)
        plain = so.MomentumNet(blocks, 0.9, "backprop")
        assert worst(found, torch.autograd.grad(plain(x).sum(), x)) < 1e-5
    assert sum(kept[1]) - sum(kept[0]) == 2 * 64 * 4 - 8
