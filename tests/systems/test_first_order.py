"""ẋ = f(t, x) as a system: what solves it, what it returns, what it refuses."""

import copy
import math
import pickle

import pytest
import torch
import torchdiffeq
from problems import mlp, noise
from torch import nn

import secondorder as so

D = torch.float64
T = torch.linspace(0, 1, 11, dtype=D)
EULER = ("momentum_exponential", "verlet")
LIMITS = (*EULER, "chin4")


class Decay(nn.Module):
    """ẋ = −k x + sin t."""

    def __init__(self, rate=1.5):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=D))

    def forward(self, t, x):
        return -self.rate * x + torch.sin(t)


def exact(t, x0, k):
    """Closed form."""
    tail = (x0 + 1 / (1 + k * k)) * torch.exp(-k * t)
    return tail + (k * torch.sin(t) - torch.cos(t)) / (1 + k * k)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_DOP853", *LIMITS])
@pytest.mark.parametrize("backward", [False, True])
def test_methods_solve_it_and_return_its_slopes(method, backward):
    field, x0 = Decay(), noise(3, dtype=D)
    t = T.flip(0) if backward else T
    k, shift = field.rate.detach(), t[0]
    start = exact(t[0], x0, k)
    fixed = method in LIMITS
    how = {"step_size": 1e-3} if fixed else {}
    with torch.no_grad():
        x, v = so.odeint(so.FirstOrder(field), start, t, method=method, **how)
        pair = so.odeint(so.FirstOrder(field), (start, None), t, method=method, **how)
        wanted = exact(t.unsqueeze(-1), x0, k)
        slopes = torch.stack([field(time, y) for time, y in zip(t, x, strict=True)])
    assert shift == t[0] and torch.equal(v, slopes) and torch.equal(pair.x, x)
    # Euler's error is about h; the others' tolerances and orders leave 1e-5.
    worst = (x - wanted).abs().max()
    assert worst < (2e-3 if method in EULER else 1e-5)


@pytest.mark.parametrize("method", EULER)
def test_verlet_is_the_explicit_euler_method(method):
    for dtype, close in ((D, 1e-15), (torch.float32, 1e-6), (torch.float16, 1e-2)):
        net, x = so.Autonomous(mlp(3, dtype=dtype)), noise(4, 3, dtype=dtype)
        found = so.odeint(so.FirstOrder(net), x, T, method=method).x[-1]
        for _ in T[1:]:
            x = x + 0.1 * net(None, x)
        torch.testing.assert_close(found, x, rtol=0, atol=close)


def test_chin_is_of_order_two_in_the_limit():
    field, x0 = Decay(), noise(3, dtype=D)
    errors = []
    for n in (20, 40):
        x, _ = so.odeint(so.FirstOrder(field), x0, T, method="chin4", step_size=1 / n)
        errors.append((x[-1] - exact(T[-1], x0, field.rate)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("method", "gradient"),
    [("dopri5", "backprop"), ("dopri5", "adjoint"), ("scipy_LSODA", "adjoint"),
     *((m, g) for m in LIMITS for g in ("backprop", "checkpoint"))],
)  # fmt: skip
def test_gradients_of_positions_slopes_and_times(method, gradient):
    field = Decay()
    x0 = noise(3, dtype=D).requires_grad_()
    t = torch.tensor([0.0, 0.4, 1.0], dtype=D, requires_grad=True)
    how = {"step_size": 1e-3} if method in LIMITS else {"rtol": 1e-10, "atol": 1e-10}
    x, v = so.odeint(
        so.FirstOrder(field), x0, t, method=method, gradient=gradient, **how
    )
    found = torch.autograd.grad((x * v).sum(), [x0, field.rate, t])
    y = exact(t.unsqueeze(-1), x0, field.rate)
    w = -field.rate * y + torch.sin(t).unsqueeze(-1)
    wanted = torch.autograd.grad((y * w).sum(), [x0, field.rate, t])
    tolerance = 1e-2 if method in EULER else 1e-5
    for a, b in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    # The closed form takes the start to be at 0: only the later times compare.
    torch.testing.assert_close(found[2][1:], wanted[2][1:], rtol=10 * tolerance, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "rk4", *LIMITS])
def test_dense_output_and_forcing(method):
    system = so.FirstOrder(lambda t, x, u: -x + u)
    fixed = {} if method == "dopri5" else {"step_size": 1e-3}
    x0 = torch.ones(2, dtype=D)
    sol = so.odeint(system, x0, T, method=method, forcing=torch.cos, **fixed)
    times = torch.tensor([0.123, 0.5, 0.987], dtype=D)
    x, v = sol(times)
    wanted = (torch.cos(times) + torch.sin(times) + torch.exp(-times)) / 2
    close = 2e-3 if method in EULER else 1e-6
    torch.testing.assert_close(x, wanted[:, None].expand(3, 2), rtol=0, atol=close)
    torch.testing.assert_close(v, torch.cos(times)[:, None] - x, rtol=0, atol=1e-12)


def test_it_is_the_field_of_torchdiffeq_and_a_module():
    system = so.FirstOrder(Decay())
    x0 = noise(3, dtype=D)
    theirs = torchdiffeq.odeint(system, x0, T, method="rk4")
    for own in (system, copy.deepcopy(system), pickle.loads(pickle.dumps(system))):
        ours = so.odeint(own, x0, T, method="rk4")
        assert torch.equal(ours.x, theirs)
    again = pickle.loads(pickle.dumps(ours))
    assert torch.equal(again(0.31)[0], ours(0.31)[0])


@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (1, 2)])
def test_shapes(shape):
    x, v = so.odeint(so.FirstOrder(lambda t, x: -x), torch.ones(shape), T)
    assert x.shape == v.shape == (11, *shape)
    assert torch.equal(v, -x)


def test_samples_with_grids_of_their_own():
    system, x0 = so.FirstOrder(Decay()), noise(2, 3, dtype=D)
    both = torch.stack([T, 2 * T])
    x, v = so.odeint(system, x0, both, method="chin4")
    for i in range(2):
        alone = so.odeint(system, x0[i : i + 1], both[i], method="chin4")
        torch.testing.assert_close(x[:, i], alone.x[:, 0])
        torch.testing.assert_close(v[:, i], alone.v[:, 0])


@pytest.mark.parametrize("method", LIMITS)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_events_see_the_slope(method, dtype):
    start = torch.ones(1, dtype=dtype, requires_grad=True)
    t, sol = so.odeint_event(
        so.FirstOrder(lambda t, x: -x), start, 0.0, method=method, step_size=0.01,
        event_fn=lambda t, x, v: v[0] + 0.5,
    )  # fmt: skip
    assert t.item() == pytest.approx(math.log(2), rel=1e-2)
    assert sol.v[-1].item() == pytest.approx(-0.5, rel=1e-5)
    t.backward()  # t = ln(2 x0)
    assert start.grad.item() == pytest.approx(1, rel=1e-2)


def test_check_gradient_knows_it():
    table = so.check_gradient(
        so.FirstOrder(so.Autonomous(mlp(3))), noise(4, 3), T, gradients=["checkpoint"]
    )
    assert set(table["checkpoint"].errors) == {"x0", "parameters"}
    assert max(table["checkpoint"].errors.values()) < 1e-5


def test_what_cannot_be_is_refused():
    system, x = so.FirstOrder(lambda t, x: -x), torch.ones(2)
    with pytest.raises(ValueError, match="`v0` must be None for a FirstOrder"):
        so.odeint(system, (x, x), T)
    with pytest.raises(TypeError, match="`state` must be the pair"):
        so.odeint(system, [x], T)
    with pytest.raises(TypeError, match="`x0` must be a tensor"):
        so.odeint(system, ("x", None), T)
    with pytest.raises(ValueError, match="'adaptive' is for second-order systems"):
        so.odeint(system, x, T, method="adaptive")
    with pytest.raises(ValueError, match="'momentum' is for second-order systems"):
        so.odeint(system, x, T, method="momentum")
    with pytest.raises(ValueError, match="forget the velocity"):
        so.odeint(system, x, T, gradient="reversible")
    with pytest.raises(ValueError, match="no events for FirstOrder"):
        so.odeint_event(system, x, 0.0, event_fn=lambda t, x, v: x[0], method="dopri5")
    with pytest.raises(ValueError, match="returned"):
        so.odeint(so.FirstOrder(lambda t, x: x[:1]), x, T, method="dopri5")
    with pytest.raises(TypeError, match="`state` must be the pair"):
        so.odeint(so.Newton(lambda t, x: -x), x, T)
