"""ε → 0: the call that solves ε ẍ + ẋ = f at ε = 1 solves ẋ = f at ε = 1e-6."""

import math

import numpy as np
import pytest
import torch
from problems import noise
from scipy.integrate import solve_ivp

import secondorder as so

D = torch.float64
END, START = 5.0, 1.0
# Order in the limit, and the error of x at h = 0.1: integrators as measured before.
LIMIT = {"verlet": (1, 3e-3), "momentum_exponential": (1, 3e-3), "chin4": (2, 1.1e-4)}


def field(t, x):
    return -torch.sin(x) + 0.5 * torch.cos(1.3 * t)


def first_order_flow():
    """x(5) and v = f(5, x(5)) of ẋ = f."""
    x = solve_ivp(
        lambda t, x: -np.sin(x) + 0.5 * np.cos(1.3 * t), (0, END), [START],
        method="DOP853", rtol=1e-13, atol=1e-13,
    ).y[0, -1]  # fmt: skip
    return x, field(torch.tensor(END), torch.tensor(x)).item()


def solve(method, n, epsilon=1e-6, dtype=D, gradient="backprop"):
    x = torch.tensor([START], dtype=dtype)
    t = torch.linspace(0, END, n + 1, dtype=D)
    sol = so.odeint(
        so.SecondOrder(field, epsilon), (x, field(t[0], x)), t, method=method,
        gradient=gradient,
    )  # fmt: skip
    return sol.x[-1].item(), sol.v[-1].item()


@pytest.mark.parametrize("method", LIMIT)
def test_the_limit_is_the_first_order_flow_at_its_order(method):
    order, size = LIMIT[method]
    x, _ = first_order_flow()
    errors = [abs(solve(method, n)[0] - x) for n in (50, 200, 400)]
    assert errors[0] == pytest.approx(size, rel=0.5)
    # The slope is measured where the error is still above ε = 1e-6.
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, rel=0.05)


@pytest.mark.parametrize("ratio", [0.1, 1, 10, 1e3, 1e5, 1e12])
@pytest.mark.parametrize("method", LIMIT)
def test_every_ratio_of_step_to_epsilon_is_stable(method, ratio):
    """h = 0.1 fixed, over all ε: the errors of the table stay below one per cent."""
    epsilon = 0.1 / ratio
    x, _ = first_order_flow()
    if epsilon > 1e-4:  # where the solution still differs from that
        start, zero = torch.tensor([START], dtype=D), torch.zeros(1, dtype=D)
        x = so.odeint(
            so.SecondOrder(field, epsilon), (start, field(zero, start)),
            torch.tensor([0.0, END], dtype=D), method="blanes_moan6",
            step_size=min(0.05, 10 * epsilon),
        ).x[-1].item()  # fmt: skip
    assert abs(solve(method, 50, epsilon)[0] - x) < 1e-2


def test_the_velocity_of_the_default_is_right_in_the_limit():
    """Kick, drift, kick: v = f at the end of the step, whatever ε.  v = (x' − x)/h of
    the methods that end with a drift lags by h/2, and the kicks of a flight that ends
    the step would leave v of order h f/ε."""
    x, v = first_order_flow()
    assert abs(solve("verlet", 50)[1] - v) < 4e-3
    lag = abs(solve("momentum_exponential", 50)[1] - v)
    assert 1e-2 < lag < 6e-2
    assert math.isfinite(solve("chin4", 50)[1])


def test_with_gamma_zero_the_momentum_step_is_the_euler_step():
    """ε = 1e-6, h = 0.1: γ = e^{−100 000} is 0 in floating point."""
    t = torch.linspace(0, END, 51, dtype=D)
    x = torch.tensor([START], dtype=D)
    for now, following in zip(t[:-1], t[1:], strict=True):
        x = x + (following - now) * field(now, x)
    # The step of 51 rounded times is not the rounded step.
    assert solve("momentum_exponential", 50)[0] == pytest.approx(x.item(), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("method", LIMIT)
@pytest.mark.parametrize("epsilon", [1e-6, 1e-20])
def test_states_stay_finite_and_right_in_both_precisions(method, epsilon, dtype):
    found, exact = solve(method, 50, epsilon, dtype), first_order_flow()
    assert all(map(math.isfinite, found))
    # 50 roundings of float32.
    assert found[0] == pytest.approx(solve(method, 50, epsilon)[0], abs=5e-6)
    assert found[0] == pytest.approx(exact[0], abs=5e-3)


def test_coordinates_may_be_stiff_and_free_at_once():
    epsilon = torch.tensor([1e-6, 1.0, 30.0], dtype=D)
    t, x = torch.linspace(0, 2, 41, dtype=D), noise(3, dtype=D)
    whole = so.odeint(so.SecondOrder(field, epsilon), (x, None), t, method="chin4")
    for i in range(3):
        one = so.odeint(
            so.SecondOrder(field, epsilon[i].item()), (x[i : i + 1], None), t,
            method="chin4",
        )  # fmt: skip
        torch.testing.assert_close(whole.x[:, i : i + 1], one.x, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("method", LIMIT)
def test_gradients_stay_finite_for_every_epsilon(method):
    for value in (1.0, 1e-3, 1e-6, 1e-12):
        epsilon = torch.tensor(value, dtype=D, requires_grad=True)
        x = torch.tensor([START], dtype=D, requires_grad=True)
        t = torch.linspace(0, 1, 11, dtype=D)
        sol = so.odeint(so.SecondOrder(field, epsilon), (x, None), t, method=method)
        found = torch.autograd.grad(sol.x[-1].sum(), [x, epsilon])
        assert all(g.isfinite().all() for g in found)


def test_methods_with_negative_steps_say_that_they_cannot():
    for name in ("blanes_moan4", "blanes_moan6", "kahan_li8", "momentum"):
        with pytest.raises(ValueError, match="any h/ε"):
            solve(name, 50)
