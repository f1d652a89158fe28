"""Networks: the two models are one, residual limit, inverse, velocities, bad input."""

import copy
import functools
import warnings

import pytest
import torch
from problems import Field, gradients, mlp, noise, worst
from torch import nn

import secondorder as so

F64 = torch.float64
ROUTES = ["backprop", "reversible", "checkpoint"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("gamma", [0.1, 0.37, 0.9, 0.99])
def test_the_ode_with_the_momentum_rule_is_the_network_bit_for_bit(gamma, dtype, route):
    f, x, layers = mlp(dtype=dtype), noise(3, 4, dtype=dtype), 12
    net = so.MomentumNet([f] * layers, gamma, route)
    unit = {"t1": float(layers), "steps": layers, "gradient": route}
    field = so.Autonomous(f)
    ode = so.SecondOrderODE(field, gamma=gamma, method="momentum", **unit)
    assert torch.equal(ode(x), net(x))
    assert torch.equal(ode.trajectory(x).x, net.trajectory(x)[0])
    assert torch.equal(ode.trajectory(x).v, net.trajectory(x)[1])
    exponential = so.SecondOrderODE(
        field, gamma=gamma, method="momentum_exponential", **unit
    )
    assert torch.equal(exponential(x), net(x))
    epsilon = so.epsilon_from_gamma(gamma, 1.0)
    ode = so.SecondOrderODE(field, epsilon=epsilon, method="momentum", **unit)
    same = so.MomentumNet([f] * layers, so.gamma_from_epsilon(epsilon, 1.0), route)
    assert torch.equal(ode(x), same(x))


def test_gamma_zero_is_the_residual_network():
    blocks, x = [mlp(seed=n) for n in range(6)], noise(3, 4)
    expected = x
    for block in blocks:
        expected = expected + block(expected)
    found = so.MomentumNet(blocks, 0.0, "backprop")(x)
    assert torch.equal(found, expected)
    # γ → 0 tends to it at rate γ.
    for gamma in (1e-2, 1e-4):
        close = so.MomentumNet(blocks, gamma)(x)
        assert (close - expected).abs().max() < 10 * gamma


@pytest.mark.parametrize("scale", [(1, 1.0), (2, 0.5)])
def test_the_network_converges_to_the_ode(scale):
    # N layers with F = N f, h = 1/N: first order in 1/N by either rule of γ.
    f, x = mlp(dtype=F64), noise(5, 4, dtype=F64)
    field = so.Autonomous(f)
    fine = so.SecondOrderODE(field, epsilon=0.25, method="kahan_li8", steps=40)(x)
    errors = []
    for layers in (50, 100):
        gamma = so.gamma_from_epsilon(0.25, 1 / layers)
        blocks = [lambda x, n=layers: f(x) / n] * layers
        net = so.MomentumNet(blocks, gamma, "backprop")
        errors.append((net(x) - fine).norm().item())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_inverse_of_a_state_is_exact_and_of_a_pair_is_not(gamma, dtype):
    layers = 400 if gamma == 0.9 else 100  # γ^-N = 2e18 and 1e30
    net = so.MomentumNet([mlp(dtype=dtype, seed=n) for n in range(layers)], gamma)
    x = noise(3, 4, dtype=dtype)
    state = net.state(x)
    x_n, v_n = state
    with torch.no_grad():
        assert torch.equal(x_n, net(x))
    x0, v0 = net.inverse(state)
    assert torch.equal(x0, x)
    assert not v0.any()
    with pytest.warns(UserWarning, match="State"):
        net.inverse((x_n, v_n))
    shallow = so.MomentumNet(net.blocks[:3], gamma)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x0, v0 = shallow.inverse(tuple(shallow.state(x)))
    # Rounding of each layer, to the dtype or to the grid of 2^-44, times γ^-3.
    tolerance = 100 * max(torch.finfo(dtype).eps, 2.0**-46) / gamma**3
    torch.testing.assert_close(x0, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(v0, torch.zeros_like(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", so.METHODS)
def test_an_ode_is_inverted_exactly_too(method):
    if so.METHODS[method].takes_velocity:
        with pytest.raises(ValueError, match="Acceleration"):
            so.SecondOrderODE(Field(), method=method)
        return
    ode = so.SecondOrderODE(Field(), epsilon=0.3, steps=7, method=method)
    x, shift = noise(5, 3, dtype=F64), torch.tensor(0.2, dtype=F64)
    state = ode.state(x, shift)
    torch.testing.assert_close(state.x, ode(x, shift), rtol=0, atol=1e-11)
    torch.testing.assert_close(state.v, ode.trajectory(x, shift).v[-1], rtol=1e-9,
                               atol=1e-10)  # fmt: skip
    x0, v0 = ode.inverse(state, shift)
    assert torch.equal(x0, x)
    assert not v0.any()
    x0, v0 = ode.inverse((state.x, state.v), shift)
    torch.testing.assert_close(x0, x, rtol=0, atol=1e-9)


def test_a_state_carries_gradients_and_counts_its_bytes():
    net, x = so.MomentumNet([mlp(seed=n) for n in range(30)], 0.5), noise(3, 4)
    leaf = x.clone().requires_grad_()
    state = net.state(leaf)
    (found,) = torch.autograd.grad(state.x.sum(), leaf)
    (expected,) = gradients(net, x)[:1]
    assert torch.equal(found, expected)
    assert state.nbytes == x.numel() * (16 + 3)  # 30 bits: three full bytes
    assert len(state) == 2
    assert torch.equal(state[0], state.x)


@pytest.mark.parametrize("route", ROUTES)
def test_initial_velocities(route):
    x = noise(3, 4)
    one = nn.Parameter(noise(4))
    two = nn.Linear(4, 4)
    for velocity in (None, noise(4), noise(3, 4), one, two):
        net = so.MomentumNet([mlp(seed=n) for n in range(4)], 0.9, route, velocity)
        v = x * 0 if velocity is None else velocity
        v = (v if isinstance(v, torch.Tensor) else v(x)).expand_as(x)
        assert torch.equal(net.trajectory(x)[1][0], v)
        plain = so.MomentumNet(net.blocks, 0.9, "backprop", velocity)
        assert worst(gradients(net, x), gradients(plain, x)) < 1e-5
        ode = so.SecondOrderODE(lambda t, x: -x, velocity=velocity)
        assert torch.equal(ode.trajectory(x).v[0], v)
    for wrong in (noise(5), "fast"):
        with pytest.raises((TypeError, ValueError), match="`velocity`"):
            so.MomentumNet([mlp()], velocity=wrong)(x)


def test_learned_velocity_network_with_a_differentiable_argument():
    # momentumnet 0.10: RuntimeError.
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, shift):
            return self.net(x) + shift

    found = []
    for route in ("reversible", "backprop"):
        torch.manual_seed(0)
        net = so.MomentumNet([Block(), Block()], 0.9, route, nn.Linear(4, 4))
        shift = noise(4).requires_grad_()
        net(noise(3, 4), shift).sum().backward()
        found.append([shift.grad, *(p.grad for p in net.parameters())])
    assert worst(*found) < 1e-5


def test_unknown_keyword_arguments_reach_the_blocks():
    net = so.MomentumNet([mlp()], 0.9)
    with pytest.raises(TypeError, match="mask"):
        net(noise(3, 4), mask=None)


def test_epsilon_and_gamma_may_be_learned():
    x = noise(3, 3, dtype=F64)
    epsilon = nn.Parameter(torch.tensor(0.4, dtype=F64))
    ode = so.SecondOrderODE(Field(), epsilon=epsilon)
    ode(x).sum().backward()
    assert epsilon.grad is not None
    gamma = nn.Parameter(torch.tensor(0.7, dtype=F64))
    for method in ("momentum", "verlet"):
        gamma.grad = None
        ode = so.SecondOrderODE(Field(), gamma=gamma, method=method)
        ode(x).sum().backward()
        h, values = 1e-6, []
        for shift in (h, -h):
            with torch.no_grad():
                gamma += shift
                values.append(ode(x).sum())
                gamma -= shift
        slope = ((values[0] - values[1]) / (2 * h)).item()
        assert gamma.grad.item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "adaptive"])
def test_adaptive_methods_serve_as_a_layer(method):
    field, x = Field(), noise(3, 3, dtype=F64)
    fine = so.SecondOrderODE(field, method="kahan_li8", steps=20)
    adaptive = so.SecondOrderODE(field, method=method)
    torch.testing.assert_close(adaptive(x), fine(x), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="`method`"):
        adaptive.state(x)


def test_modules_copy_save_and_move():
    gamma = nn.Parameter(torch.tensor(0.8))
    net = so.MomentumNet([mlp(seed=n) for n in range(3)], gamma)
    other = copy.deepcopy(net)
    other.load_state_dict(net.state_dict())
    x = noise(3, 4)
    assert torch.equal(net(x), other(x))
    assert set(net.state_dict()) == {
        "gamma", *(f"blocks.{n}.{k}" for n in range(3) for k in mlp().state_dict())
    }  # fmt: skip
    assert net.double()(x.double()).dtype == F64


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: so.MomentumNet([]), ValueError, "`blocks` is empty"),
        (lambda: so.MomentumNet([3]), TypeError, r"`blocks\[0\]`"),
        (lambda: so.MomentumNet([mlp()], 1.0), ValueError, r"\[0, 1\)"),
        (lambda: so.MomentumNet([mlp()], -0.1), ValueError, r"\[0, 1\)"),
        (lambda: so.MomentumNet([mlp()], float("nan")), ValueError, r"\[0, 1\)"),
        (lambda: so.MomentumNet([mlp()], 0.0), ValueError, "checkpoint"),
        (lambda: so.MomentumNet([mlp()], 0.9, "adjoint"), ValueError, "reversible"),
        (lambda: so.MomentumNet([mlp()], 0.9, "fast"), ValueError, "`gradient`"),
        (lambda: so.SecondOrderODE(Field(), steps=0), ValueError, "`steps`"),
        (lambda: so.SecondOrderODE(Field(), steps=2.0), ValueError, "`steps`"),
        (lambda: so.SecondOrderODE(Field(), t1=0.0), ValueError, "`t1`"),
        (lambda: so.SecondOrderODE(Field(), epsilon=2.0, gamma=0.5), ValueError,
         "not both"),
        (lambda: so.SecondOrderODE(Field(), epsilon=-1.0), ValueError, "`epsilon`"),
        (lambda: so.SecondOrderODE(Field(), gamma=1.5), ValueError, "`gamma`"),
        (lambda: so.SecondOrderODE(Field(), gamma=0.0), ValueError, "euler"),
        (lambda: so.SecondOrderODE(Field(), method="rk5"), ValueError, "`method`"),
        (lambda: so.MomentumNet([nn.Linear(4, 5)])(noise(3, 4)), ValueError,
         r"block 0 returned \(3, 5\)"),
        (lambda: so.MomentumNet([mlp()])(noise(3, 4).long()), TypeError, "floating"),
        (lambda: so.MomentumNet([mlp()])([1.0]), TypeError, "tensor"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_with_advice(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("gamma, layers", [(0.9, 200), (0.9, 1000), (0.5, 50)])
def test_depths_at_which_momentumnet_is_wrong(gamma, layers):
    # momentumnet 0.10: relative gradient error 0.6, 1.0 and 0.8.
    blocks = [mlp(seed=n) for n in range(layers)]
    with torch.no_grad():
        for block in blocks:
            block[2].weight *= layers**-0.5
            block[2].bias *= layers**-0.5
    x = noise(3, 4)
    double = copy.deepcopy(so.MomentumNet(blocks, gamma, "backprop")).double()
    exact = gradients(double, x.double())
    found = [g.double() for g in gradients(so.MomentumNet(blocks, gamma), x)]
    assert worst(found, exact) < 1e-4


def test_importing_leaves_the_random_state_alone():
    import importlib
    import sys

    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    importlib.reload(sys.modules["secondorder.data"])
    assert torch.equal(torch.rand(2), expected)


def test_options_of_a_gradient_are_bound_by_partial():
    route = functools.partial(so.reversible, keep=2, scale=4.0)
    net = so.MomentumNet([mlp(seed=n) for n in range(5)], 0.9, route)
    plain = so.MomentumNet(net.blocks, 0.9, so.backprop)
    assert worst(gradients(net, noise(3, 4)), gradients(plain, noise(3, 4))) < 1e-5
    assert net.gradient == so.reversible(keep=2, scale=4.0)
