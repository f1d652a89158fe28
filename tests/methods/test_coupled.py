"""Coupled Runge–Kutta methods: accuracy, stability, every kind of system, refusals."""

import copy
import functools
import math

import pytest
import torch
from problems import mlp, noise, worst
from scipy.integrate import solve_ivp
from torch import nn

import secondorder as so
from secondorder.plan.runge_kutta import DOPRI5, HEUN2, RK4

D = torch.float64
T = torch.linspace(0, 1, 6, dtype=D)


def van_der_pol(mu):
    return so.Acceleration(lambda t, x, v: mu * (1 - x**2) * v - x)


def limit_cycle(mu, x0, v0, end, h, method, **how):
    """The largest error of x over all of van der Pol's path."""

    def slope(t, y):
        return y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]

    t = torch.linspace(0, end, 401, dtype=D)
    wanted = solve_ivp(
        slope, (0, end), (x0, v0), "DOP853", rtol=1e-12, atol=1e-13, t_eval=t
    )
    start = torch.tensor([[x0], [v0]], dtype=D)
    x, _ = so.odeint(van_der_pol(mu), (*start,), t, method=method, step_size=h, **how)
    return (x[:, 0] - torch.from_numpy(wanted.y[0])).abs().max().item()


# The table of the prototype: the coupling at 1/4 or 1/2 is as good as its base.
@pytest.mark.parametrize(
    "problem, h, bound",
    [((5, 0.1, 0.0, 20), 0.025, 2e-3), ((5, 0.1, 0.0, 20), 0.0125, 1e-4),
     ((2, 3.0, 2.0, 10), 0.025, 2e-4), ((2, 0.1, 0.0, 20), 0.0125, 3e-6)],
)  # fmt: skip
def test_it_follows_limit_cycles(problem, h, bound):
    share = 0.5 if h == 0.025 else 0.25
    with torch.no_grad():
        assert limit_cycle(*problem, h, so.Coupled(RK4, share)) < bound


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize(("base", "h"), [(HEUN2, 0.02), (RK4, 0.05), (DOPRI5, 0.1)])
def test_orders_on_quadratic_drag_and_in_the_plane(base, h, share):
    drag = so.Acceleration(
        lambda t, x, v: -torch.sin(x) - 0.5 * v * v.abs() + 0.3 * torch.cos(t)
    )
    plane = so.FirstOrder(lambda t, x: torch.sin(x.flip(-1) + t) - 0.3 * x)
    x0 = torch.tensor([0.4, 1.1], dtype=D)
    for system, start in ((drag, (x0, x0.flip(0) + 2)), (plane, x0)):
        with torch.no_grad():
            exact = so.odeint(system, start, T, method="scipy_DOP853", rtol=1e-13,
                              atol=1e-13)  # fmt: skip
        errors = [
            (so.odeint(system, start, T, method=so.Coupled(base, share),
                       step_size=step).x - exact.x).abs().max().item()
            for step in (h, h / 2)
        ]  # fmt: skip
        order = math.log2(errors[0] / errors[1])
        assert base.order - 0.25 < order < base.order + 1.2


@pytest.mark.parametrize(
    ("base", "share", "limit"),
    [(RK4, 0.25, 2.37), (RK4, 0.5, 0.70), (HEUN2, 0.25, 1.91), (DOPRI5, 0.25, 1.40)],
)
def test_the_damping_limit_is_where_stability_ends(base, share, limit):
    method = so.Coupled(base, share)
    assert method.damping_limit == pytest.approx(limit, abs=0.02)
    for factor in (0.98, 1.03):
        rate = factor * method.damping_limit
        decay = so.FirstOrder(lambda t, x, rate=rate: -rate * x)
        one = torch.ones(1, dtype=D)
        x, _ = so.odeint(decay, one, [0.0, 100.0, 200.0], method=method,
                         step_size=1.0)  # fmt: skip
        assert (x[2].abs() < x[1].abs()).item() == (factor < 1)
    with pytest.raises(ValueError, match="too large for the damping"):
        so.odeint(so.SecondOrder(lambda t, x: -x, 0.1 / (1.03 * method.damping_limit)),
                  (torch.ones(1), None), T, method=method, step_size=0.1)  # fmt: skip


M = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=D)
SYSTEMS = {
    "epsilon": so.SecondOrder(lambda t, x: -torch.sin(x) + t, 0.7),
    "coordinates": so.Newton(lambda t, x: -x, torch.tensor([1.0, 3.0], dtype=D), 0.2),
    "matrices": so.Newton(lambda t, x: -torch.sin(x), M, 0.1 * M @ M),
    "velocity": so.Acceleration(lambda t, x, v: -x - 0.1 * v**3, 0.2),
    "first order": so.FirstOrder(lambda t, x: -torch.sin(x) + t),
}


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("method", so.COUPLED)
@pytest.mark.parametrize("backward", [False, True])
def test_every_kind_of_system_between_the_times_too(kind, method, backward):
    system, t = SYSTEMS[kind], T.flip(0) if backward else T
    x0, v0 = noise(2, 3, 2, dtype=D)
    start = x0 if system.first_order else (x0, v0)
    with torch.no_grad():
        how = {"method": "scipy_DOP853", "rtol": 1e-12, "atol": 1e-12}
        exact = so.odeint(system, start, t, **how)
        sol = so.odeint(system, start, t, method=method, step_size=0.01)
    close = 3e-4 if method == "coupled_heun2" else 1e-8
    times = torch.tensor([0.113, 0.4, 0.77], dtype=D)
    for found, wanted in ((sol, exact), (sol(times), exact(times))):
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=close)
    assert torch.equal(copy.deepcopy(sol)(0.3)[1], sol(0.3)[1])


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (1, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16])
def test_shapes_and_dtypes(shape, dtype):
    x0 = noise(*shape, dtype=dtype).requires_grad_()
    for gradient in ("backprop", "checkpoint", "reversible"):
        for system in (so.SecondOrder(lambda t, x: -x), so.FirstOrder(lambda t, x: -x)):
            start = x0 if system.first_order else (x0, None)
            x, v = so.odeint(system, start, T, method="coupled_rk4", gradient=gradient)
            assert x.shape == v.shape == (6, *shape) and x.dtype == v.dtype == dtype
            (slope,) = torch.autograd.grad(x.sum() + v.sum(), x0)
            assert slope.shape == shape and bool(slope.isfinite().all())


@pytest.mark.parametrize("shape", [(2, 1), (2,)])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_samples_may_have_times_of_their_own(shape, gradient):
    """Each as alone; one waits at its end, by steps of length 0."""
    x0 = torch.tensor([0.5, 1.2], dtype=D).reshape(shape).requires_grad_()
    t = torch.tensor([[0.0, 0.5, 1.0, 1.0], [1.0, 0.7, 0.6, 0.1]], dtype=D)
    t.requires_grad_()
    system = so.Acceleration(lambda t, x, v: torch.cos(t) - x - 0.3 * v**3)

    def solve(x, t):
        how = {"method": "coupled_rk4", "step_size": 0.05, "gradient": gradient}
        return so.odeint(system, (x, None), t, **how)

    x, v = solve(x0, t)
    assert torch.equal(x[3, 0], x[2, 0]) and torch.equal(v[3, 0], v[2, 0])
    grads = torch.autograd.grad(x.sum() + v[-1].sin().sum(), [x0, t])
    # Alone, a sample takes fewer steps, so they agree to the error of these, h⁴.
    for k, times in enumerate((t[:1], t[1:])):
        y, w = solve(x0[k : k + 1], times)
        torch.testing.assert_close(x[:, k], y[:, 0], rtol=0, atol=1e-6)
        own = torch.autograd.grad(y.sum() + w[-1].sin().sum(), [x0, t])
        torch.testing.assert_close(grads[0][k], own[0][k], rtol=0, atol=1e-5)
        torch.testing.assert_close(grads[1][k], own[1][k], rtol=0, atol=1e-5)


def test_breakpoints_keep_the_order():
    def jump(t, x):
        return torch.where(t < 0.5, 1.0, -3.0) * torch.ones_like(x) + 0 * x

    system, x0 = so.Newton(jump), torch.zeros(1, dtype=D)
    x, v = so.odeint(system, (x0, None), [0.0, 1.0], method="coupled_rk4",
                     step_size=0.3, breakpoints=[0.5])  # fmt: skip
    assert v[-1].item() == pytest.approx(-1.0, abs=1e-14)
    assert x[-1].item() == pytest.approx(0.125 + 0.25 - 0.375, abs=1e-14)
    sol = so.odeint(system, (x0, None), [0.0, 1.0], method="coupled_heun2",
                    step_size=0.3, breakpoints=[0.5])  # fmt: skip
    assert sol(0.4)[1].item() == pytest.approx(0.4, abs=1e-14)
    assert sol(0.6)[1].item() == pytest.approx(0.2, abs=1e-14)


class Pol(nn.Module):
    """Van der Pol with a learned μ."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(3.0, dtype=D))

    def forward(self, t, x, v):
        return self.mu * (1 - x**2) * v - x


@functools.cache
def learned(gradient, **how):
    """A solve of Pol, and the gradients of a loss."""
    field = Pol()
    start = torch.tensor([[0.5], [2.0]], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 1.0, 3.0], dtype=D, requires_grad=True)
    sol = so.odeint(so.Acceleration(field), (start, None), t, gradient=gradient, **how)
    between = sol(torch.tensor([2.5], dtype=D))
    loss = (sol.x * sol.v.cos()).sum() + between[0].sum()
    grads = torch.autograd.grad(loss, [start, field.mu, t])
    return sol, [sol.x, sol.v, *between], grads


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_adaptive_steps_are_replayed(gradient):
    sol, states, grads = learned(
        gradient, method="coupled_dopri5", rtol=1e-8, atol=1e-8
    )
    _, exact, true = learned("backprop", method="coupled_rk4", step_size=0.005)
    assert sol.stats.accepted > 20
    assert worst(states, exact) < 1e-6
    assert worst(grads, true) < 1e-5


def test_adaptive_steps_in_a_few_words():
    method, system = so.COUPLED["coupled_dopri5"], van_der_pol(2)
    start = (torch.full((1,), 0.1, dtype=D), None)
    loose, tight = (
        so.odeint(system, start, [0.0, 5.0], method=method, rtol=r, atol=r)
        for r in (1e-4, 1e-7)
    )
    assert loose.stats.accepted < tight.stats.accepted / 2
    fixed = so.odeint(system, start, [0.0, 5.0], method=method, step_size=0.01)
    assert fixed.stats.accepted == 500 and fixed.stats.rejected == 0
    torch.testing.assert_close(fixed.x, tight.x, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="not both"):
        so.odeint(system, start, T, method=method, step_size=0.1, rtol=1e-3)
    with pytest.raises(RuntimeError, match="the step fell to"):
        so.odeint(so.FirstOrder(lambda t, x: x**2), start[0] + 1, [0.0, 2.0],
                  method=method)  # fmt: skip


def test_models_take_it():
    net = so.Autonomous(mlp(2))
    x = noise(5, 2)
    exact = so.SecondOrderODE(net, epsilon=0.5, steps=20, method="blanes_moan4")
    for name in so.COUPLED:
        for gradient in ("backprop", "reversible"):
            model = so.SecondOrderODE(
                net, epsilon=0.5, steps=20, method=name, gradient=gradient
            )
            torch.testing.assert_close(model(x), exact(x), rtol=0, atol=1e-3)
            with pytest.raises(ValueError, match="no plan of"):
                model.state(x)
            path = model.trajectory(x)
            torch.testing.assert_close(path.x[-1], model(x), rtol=0, atol=1e-5)


def test_a_monitor_sees_the_field():
    with pytest.raises(FloatingPointError, match="the field returned 1 of 1"):
        so.odeint(so.FirstOrder(lambda t, x: x / 0), torch.zeros(1), T,
                  method="coupled_rk4", check_finite=True)  # fmt: skip


def test_what_is_no_method_is_refused():
    with pytest.raises(ValueError, match="`share` must be 1/2, 1/4"):
        so.Coupled(RK4, share=0.3)
    with pytest.raises(ValueError, match="`share`"):
        so.Coupled(RK4, share=1.0)
    with pytest.raises(TypeError, match="`tableau` must be a RungeKutta"):
        so.Coupled("rk4")
    with pytest.raises(ValueError, match="needs a tableau with a `companion`"):
        so.Coupled(RK4, adaptive=True)
    with pytest.raises(ValueError, match="`stages` must be rows of 1, 2"):
        so.RungeKutta(2, stages=((0.5, 0.5),), weights=(0.5, 0.5))
    with pytest.raises(ValueError, match="`weights` must add up to 1"):
        so.RungeKutta(1, stages=(), weights=(0.9,))
    with pytest.raises(ValueError, match="`companion` must have"):
        so.RungeKutta(1, stages=(), weights=(1.0,), companion=(0.5, 0.25, 0.25))
    with pytest.raises(ValueError, match="belongs to torchdiffeq's solvers"):
        so.odeint(van_der_pol(1), (torch.ones(2, 1), None), T, method="coupled_rk4",
                  gradient="adjoint")  # fmt: skip
    with pytest.raises(ValueError, match="returned"):
        so.odeint(so.Newton(lambda t, x: x[:, :1]), (torch.ones(2, 3), None), T,
                  method="coupled_rk4")  # fmt: skip
