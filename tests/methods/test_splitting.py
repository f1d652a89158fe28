"""Methods are numbers: their orders, costs, limits, and the plans made from them."""

import math
import warnings

import pytest
import torch
from problems import noise
from scipy.integrate import solve_ivp

import secondorder as so
from secondorder.plan import Drift, Kick, compile_plan, evaluations, step_counts
from secondorder.plan.flows import phi, tanhc

F64 = {"dtype": torch.float64}
# First numbers of steps at which the asymptotic regime has begun.
FIRST = {1: 400, 2: 100, 4: 16, 6: 4, 8: 4}


def forced_pendulum(t, x):
    return -torch.sin(x) + 0.5 * torch.cos(1.3 * t) * torch.cos(x)


def reference(epsilon):
    def slope(t, y):
        f = -math.sin(y[0]) + 0.5 * math.cos(1.3 * t) * math.cos(y[0])
        return [y[1], (f - y[1]) / epsilon]

    found = solve_ivp(slope, (0, 2), [1.0, 0.3], "DOP853", rtol=3e-14, atol=1e-15)
    return torch.tensor(found.y[:, -1])


def error(method, steps, truth, epsilon=1.0):
    if so.METHODS[method].takes_velocity:
        system = so.Acceleration(
            lambda t, x, v: forced_pendulum(t, x) / epsilon, damping=1 / epsilon
        )
    else:
        system = so.SecondOrder(forced_pendulum, epsilon)
    start = torch.tensor([1.0], **F64), torch.tensor([0.3], **F64)
    t = torch.tensor([0.0, 2.0], **F64)
    sol = so.odeint(system, start, t, method=method, step_size=2 / steps)
    return (torch.stack((sol.x[-1, 0], sol.v[-1, 0])) - truth).norm().item()


@pytest.mark.parametrize("name", so.METHODS)
def test_measured_order_is_the_registered_one(name):
    order, truth = so.METHODS[name].order, reference(1.0)
    steps = FIRST[order]
    errors = [error(name, steps * 2**k, truth) for k in range(3)]
    # Halve once more until the slope has settled, but stay above the rounding floor.
    while abs(math.log2(errors[-2] / errors[-1]) - order) > 0.05 * order:
        steps *= 2
        errors.append(error(name, steps * 4, truth))
        assert errors[-1] > 2e-15, "the rounding floor came before the order"
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(order, rel=0.05)


@pytest.mark.parametrize("name", so.METHODS)
def test_a_step_costs_what_the_table_says(name):
    method, n = so.METHODS[name], 50
    if method.takes_velocity:
        system = so.Acceleration(lambda t, x, v: -x)
    else:
        system = so.SecondOrder(lambda t, x: -x)
    plan = compile_plan(method, system, torch.tensor([0.0, 1.0]), [n], torch.zeros(1))
    # Steps share a closing kick, so the first one may cost one more.
    assert evaluations(plan) - n * method.evaluations_per_step in (0, 1)


@pytest.mark.parametrize("name", so.METHODS)
def test_steps_are_symmetric_and_consistent(name):
    method = so.METHODS[name]
    for flow in "AD":
        total = math.fsum(w for letter, w in method.flows if letter == flow)
        assert total in (0.0, pytest.approx(1.0, abs=1e-15))
    if method.order > 1:
        # Mixing pulls two velocities together: symmetric in nothing but the rest.
        flows = [f for f in method.flows if f[0] != "M"]
        assert [f[0] for f in flows] == [f[0] for f in reversed(flows)]
        assert [f[1] for f in flows] == pytest.approx([f[1] for f in reversed(flows)])


def test_f_is_evaluated_at_the_grid_times():
    seen = []

    def field(t, x):
        seen.append(t.item())
        return -x

    t = torch.tensor([0.0, 1.0, 3.0], **F64)
    start = (torch.ones(1, **F64), None)
    so.odeint(so.SecondOrder(field), start, t, method="momentum", step_size=0.5)
    assert seen == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    seen.clear()
    so.odeint(so.SecondOrder(field), start, t, method="verlet", step_size=0.5)
    # One evaluation for the two half kicks at t = 1, where the state is returned.
    assert seen == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.mark.parametrize(
    "span, size, count",
    [(1.0, 0.1, 10), (1.0, 0.3, 4), (0.3, 0.1, 3), (2.1, 0.7, 3), (1e-9, 0.1, 1)],
)
def test_intervals_are_divided_evenly_with_a_tolerance_of_ulps(span, size, count):
    assert step_counts(torch.tensor([0.0, span], **F64), size) == [count]
    assert step_counts(torch.tensor([span, 0.0], **F64), size) == [count]


def test_without_a_step_size_each_interval_is_one_step():
    assert step_counts(torch.tensor([0.0, 0.1, 5.0])) == [1, 1]


def test_the_damping_limit_raises_and_a_negative_gamma_warns():
    system = so.SecondOrder(lambda t, x: -x, 0.1)
    start, t = (torch.ones(1), None), torch.tensor([0.0, 1.0])
    for h, name in ((0.2, "momentum"), (1.0, "momentum"), (1.2, "blanes_moan4")):
        with pytest.raises(ValueError, match="`step_size` is too large.*chin4"):
            so.odeint(system, start, t * h, method=name)
    with pytest.warns(UserWarning, match="γ = 1 − h/ε negative"):
        so.odeint(system, start, t * 0.15, method="momentum")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("verlet", "momentum_exponential", "chin4"):
            so.odeint(system, start, t * 1e6, method=name)


@pytest.mark.parametrize("name", so.METHODS)
def test_damping_limits_are_where_unit_stiffness_turns_unstable(name):
    # Up to the limit every force −k x with k·h ≤ 1 is damped; at twice a finite limit
    # one of them is not.  The Euler rule's limit is that of damping alone, |γ| ≤ 1.
    method = so.METHODS[name]
    stiffest = 1e-9 if method.rule == "euler" else 1.0

    def radius(ratio):
        largest = 0.0
        for k in torch.linspace(0.05 * stiffest, stiffest, 20).tolist():
            # h = 1, ε = 1/ratio, ε ẍ + ẋ = −k x
            if method.takes_velocity:
                system = so.Acceleration(lambda t, x, v, k=k: -k * ratio * x, ratio)
            else:
                system = so.SecondOrder(lambda t, x, k=k: -k * x, 1 / ratio)
            unlimited = so.Splitting(
                method.order, method.flows, math.inf, method.rule, method.force_gradient
            )
            t, unit = torch.tensor([0.0, 1.0], **F64), torch.eye(2, **F64)
            sol = so.odeint(system, (unit[0], unit[1]), t, method=unlimited)
            matrix = torch.stack((sol.x[-1], sol.v[-1]))
            largest = max(largest, torch.linalg.eigvals(matrix).abs().max().item())
        return largest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # momentum says that its γ is negative
        limit = method.damping_limit
        if math.isinf(limit):
            assert radius(30.0) <= 1 + 1e-12
            assert radius(1e4) <= 1 + 1e-12
        else:
            assert radius(0.97 * limit) <= 1 + 1e-12
            assert radius(2 * limit) > 1


def test_decreasing_time_undoes_increasing_time():
    system = so.SecondOrder(forced_pendulum, 2.0)
    start = noise(2, 3, 1, dtype=torch.float64)
    t = torch.linspace(0, 1, 6, **F64)
    there = so.odeint(system, tuple(start), t, method="blanes_moan4")
    back = so.odeint(
        system, (there.x[-1], there.v[-1]), t.flip(0), method="blanes_moan4"
    )
    torch.testing.assert_close(back.x.flip(0), there.x, rtol=0, atol=1e-13)
    torch.testing.assert_close(back.v.flip(0), there.v, rtol=0, atol=1e-13)


def test_per_sample_times_equal_one_solve_per_sample():
    system = so.SecondOrder(forced_pendulum, 0.5)
    x0 = noise(2, 1, dtype=torch.float64)
    t = torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.1, 1.1]], **F64)  # padded by repetition
    both = so.odeint(system, (x0, None), t, method="blanes_moan4")
    one = so.odeint(system, (x0[:1], None), t[0], method="blanes_moan4")
    two = so.odeint(system, (x0[1:], None), t[1, :2], method="blanes_moan4")
    torch.testing.assert_close(both.x[:, :1], one.x, rtol=0, atol=1e-15)
    torch.testing.assert_close(both.x[:2, 1:], two.x, rtol=0, atol=1e-15)
    assert torch.equal(both.x[2, 1:], both.x[1, 1:])
    torch.testing.assert_close(both.v[2, 1:], both.v[1, 1:], rtol=0, atol=1e-15)


def test_per_coordinate_epsilon_equals_one_solve_per_coordinate():
    epsilon = torch.tensor([0.1, 1.0, 5.0], **F64)
    x0, t = noise(4, 3, dtype=torch.float64), torch.linspace(0, 1, 4, **F64)
    for name in ("momentum_exponential", "verlet", "blanes_moan4", "chin4"):
        all_ = so.odeint(so.SecondOrder(forced_pendulum, epsilon), (x0, None), t,
                         method=name, step_size=0.1)  # fmt: skip
        for k, e in enumerate(epsilon.tolist()):
            one = so.odeint(so.SecondOrder(forced_pendulum, e), (x0[:, k], None), t,
                            method=name, step_size=0.1)  # fmt: skip
            torch.testing.assert_close(all_.x[..., k], one.x, rtol=1e-14, atol=1e-15)
            torch.testing.assert_close(all_.v[..., k], one.v, rtol=1e-13, atol=1e-15)


def test_phi_and_tanhc_are_accurate_and_smooth_at_zero():
    z = torch.tensor([0.0, 1e-12, 9.9e-5, 1.01e-4, 0.5, 30.0, -2.0], **F64)
    z.requires_grad_()
    expected = [1.0 if a == 0 else -math.expm1(-a) / a for a in z.tolist()]
    torch.testing.assert_close(
        phi(z), torch.tensor(expected, **F64), rtol=1e-15, atol=0
    )
    (slope,) = torch.autograd.grad(phi(z).sum(), z)
    assert slope[0].item() == -0.5
    assert bool(slope.isfinite().all())
    expected = [1.0 if a == 0 else math.tanh(a) / a for a in z.tolist()]
    torch.testing.assert_close(
        tanhc(z), torch.tensor(expected, **F64), rtol=1e-15, atol=0
    )
    (slope,) = torch.autograd.grad(tanhc(z).sum(), z)
    assert slope[0].item() == 0.0
    assert bool(slope.isfinite().all())


def test_stiff_methods_never_step_backwards():
    for name in ("momentum_exponential", "verlet", "chin4"):
        system = so.SecondOrder(lambda t, x: -x, 1.0)
        plan = compile_plan(
            so.METHODS[name], system, torch.tensor([0.0, 1.0]), [3], torch.zeros(1)
        )
        assert all(m.weight > 0 for m in plan if isinstance(m, Kick | Drift))


@pytest.mark.parametrize(
    "flows, says",
    [
        ((("R", 0.5), ("X", 1.0), ("R", 0.5)), "letters out of"),
        ((), "letters out of"),
        ((("R", 1.0), ("A", 1.0)), "mix the letters"),
        ((("R", 1.0), ("D", 0.5)), "0.5 steps of time"),
        ((("B", 0.5), ("A", 1.0)), "0.5 steps of force"),
    ],
)
def test_flows_that_are_no_step_are_refused_when_the_method_is_built(flows, says):
    with pytest.raises(ValueError, match=says):
        so.Splitting(order=1, flows=flows)


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="`rule`"):
        so.Splitting(order=1, flows=(("R", 1.0), ("D", 1.0)), rule="implicit")
