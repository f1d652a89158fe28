"""Forces that see the velocity: ẍ + c ẋ = a(t, x, ẋ) by velocity doubling."""

import math

import numpy as np
import pytest
import torch
from problems import DragField, noise, worst
from scipy.integrate import solve_ivp

import secondorder as so

D = torch.float64
DOUBLING = {"velocity_doubling": 2, "velocity_doubling4": 4}


def exactly(a, damping, x, v, end):
    """(x, v) at the end, by DOP853 at its tightest."""

    def slope(t, y):
        now = torch.tensor(y, dtype=D)
        return np.array([y[1], a(torch.tensor(t), now[0], now[1]) - damping * y[1]])

    return solve_ivp(
        slope, (0, end), [x, v], method="DOP853", rtol=1e-13, atol=1e-13
    ).y[:, -1]


def solve(a, damping, x, v, end, n, method):
    state = torch.tensor([x], dtype=D), torch.tensor([v], dtype=D)
    sol = so.odeint(
        so.Acceleration(a, damping), state, torch.tensor([0.0, end], dtype=D),
        method=method, step_size=end / n,
    )  # fmt: skip
    return np.array([sol.x[-1].item(), sol.v[-1].item()])


def pendulum(t, x, v):
    """Smooth drag: the orders of a method are those of smooth fields."""
    return -torch.sin(x) - v**3 / (2 + v**2) + 0.3 * torch.cos(t)


def stiff_pendulum(t, x, v):
    return 10 * (0.3 * torch.cos(t) - torch.sin(x)) - v**3 / (2 + v**2)


def van_der_pol(t, x, v):
    return (1 - x**2) * v - x


PROBLEMS = {  # a, damping, end, steps from which on the slope is measured
    "damped": (pendulum, 1.0, 3.0, {2: 100, 4: 12}),
    "strongly damped": (stiff_pendulum, 10.0, 1.0, {2: 150, 4: 40}),
    "van der Pol": (van_der_pol, 0.0, 3.0, {2: 200, 4: 40}),
}


@pytest.mark.parametrize("method", DOUBLING)
@pytest.mark.parametrize("name", PROBLEMS)
def test_measured_orders_with_drag_and_strong_damping(name, method):
    a, damping, end, steps = PROBLEMS[name]
    order = DOUBLING[method]
    exact = exactly(a, damping, 1.2, 0.4, end)
    n = steps[order]
    coarse, fine = (
        np.linalg.norm(solve(a, damping, 1.2, 0.4, end, k, method) - exact)
        for k in (n, 2 * n)
    )
    assert math.log2(coarse / fine) == pytest.approx(order, rel=0.05)


# DETEST, class E (Hull, Enright, Fellen, Sedgwick 1972), at t = 20 from t = 0.
DETEST = {
    "E1": (  # Bessel's equation of order ½ at t + 1
        lambda t, x, v: -v / (t + 1) - (1 - 0.25 / (t + 1) ** 2) * x,
        (0.6713967071418030, 0.09540051444747446),
        (0.14567236007282, -0.098835001955746),
    ),
    "E2": (van_der_pol, (2.0, 0.0), (2.008149762175, -0.0425088752732)),
    "E4": (
        lambda t, x, v: 0.32 - 0.4 * v**2,
        (30.0, 0.0),
        (46.155677392031, 0.89442610092078),
    ),
    "E5": (
        lambda t, x, v: torch.sqrt(1 + v**2) / (25 - t),
        (0.0, 0.0),
        (14.117973905426, 2.4),
    ),
}


@pytest.mark.parametrize("name", DETEST)
def test_the_reference_values_of_detest(name):
    a, start, reference = DETEST[name]
    # Order 4.  The relaxation oscillation E2 needs half the step.
    n, tolerance = (800, 2e-6) if name == "E2" else (400, 3e-8)
    found = solve(a, 0.0, *start, 20.0, n, "velocity_doubling4")
    np.testing.assert_allclose(found, reference, rtol=tolerance, atol=tolerance)


def test_linear_damping_is_exact_however_strong():
    """A free flight under c = 100: x = (1 − e^{−100 t})/100, in steps of 0.5."""
    found = solve(lambda t, x, v: 0 * x, 100.0, 0.0, 1.0, 1.0, 2, "velocity_doubling")
    np.testing.assert_allclose(found, [0.01, math.exp(-100)], rtol=1e-13)


@pytest.mark.parametrize("method", DOUBLING)
@pytest.mark.parametrize("damping", [0.0, 2.0, "per coordinate"])
def test_reversal_gives_the_gradients_of_backprop(method, damping):
    if damping == "per coordinate":
        damping = torch.tensor([0.0, 1.0, 3.0], dtype=D, requires_grad=True)
    else:
        damping = torch.tensor(damping, dtype=D, requires_grad=True)
    field = DragField()
    system = so.Acceleration(field, damping)
    x, v = (noise(4, 3, dtype=D, seed=s).requires_grad_() for s in (1, 2))
    wanted = [x, v, damping, *field.parameters()]

    def gradients(route):
        sol = so.odeint(
            system, (x, v), torch.tensor([0.0, 0.4, 1.0], dtype=D), method=method,
            step_size=0.1, gradient=route,
        )  # fmt: skip
        return torch.autograd.grad(sol.x[1:].square().sum() + sol.v[-1].sum(), wanted)

    exact = gradients("backprop")
    # The grid resolves 6e-14 of a position; v − w is damped by 0.9 per step.
    assert worst(gradients("reversible"), exact) < 1e-10
    assert worst(gradients("checkpoint"), exact) < 1e-12


def test_without_a_velocity_in_the_force_doubling_is_the_leapfrog():
    """The two velocities never part, and A½ B A½ is left."""
    leapfrog = so.Splitting(order=2, flows=(("A", 0.5), ("B", 1.0), ("A", 0.5)))
    t, x = torch.linspace(0, 1, 11, dtype=D), noise(3, dtype=D)

    def force(t, x):
        return torch.cos(t) - torch.sin(x)

    doubled = so.odeint(
        so.Acceleration(lambda t, x, v: force(t, x), 0.7), (x, None), t,
        method="velocity_doubling",
    )  # fmt: skip
    single = so.odeint(so.Newton(force, damping=0.7), (x, None), t, method=leapfrog)
    # The kick comes in two halves on one of the velocities: rounding.
    torch.testing.assert_close(doubled.x, single.x, rtol=0, atol=1e-14)


def test_methods_that_would_ignore_the_velocity_raise():
    t, x = torch.linspace(0, 1, 3), torch.zeros(2)
    for name, method in so.METHODS.items():
        general = so.Acceleration(lambda t, x, v: -v)
        force = so.SecondOrder(lambda t, x: -x)
        system, other = (force, general) if method.takes_velocity else (general, force)
        with pytest.raises(ValueError, match=f"(?s){name}.*(Acceleration|velocity)"):
            so.odeint(system, (x, None), t, method=name)
        so.odeint(other, (x, None), t, method=name, step_size=0.1)


@pytest.mark.parametrize("method, steps, wanted", [
    ("blanes_moan4", 400, 1e-7), ("blanes_moan6", 400, 1e-9), ("kahan_li8", 300, 1e-9),
])  # fmt: skip
def test_detest_e3_is_the_printed_value(method, steps, wanted):
    # A pendulum's cubic under a sine, whose field needs no velocity; 13 digits printed.
    def forced(t, x):
        return x**3 / 6 - x + 2 * torch.sin(2.78535 * t)

    start = torch.zeros(1, dtype=torch.float64), None
    sol = so.odeint(so.Newton(forced), start, torch.tensor([0.0, 20.0]).double(),
                    method=method, step_size=20 / steps)  # fmt: skip
    assert abs(sol.x[-1].item() + 0.1004178858647) < wanted
    assert abs(sol.v[-1].item() - 0.2411400132096) < wanted


# -- The copies must stay together ----------------------------------------------------


def van_der_pol(mu):
    return so.Acceleration(lambda t, x, v: mu * (1 - x**2) * v - x)


class Drag(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = torch.nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, t, x, v):
        return -x - self.c * v * v.abs()


DRIFTING = {
    "NaN": (van_der_pol(5.0), 0.1, 0.0, 6.0, 0.025),
    "finite": (van_der_pol(5.0), 0.1, 0.0, 6.0, 0.0125),
    "other start": (van_der_pol(2.0), 3.0, 2.0, 5.0, 0.0125),
    "coarse": (van_der_pol(2.0), 0.1, 0.0, 12.0, 0.05),
    "linear": (so.Acceleration(lambda t, x, v: -x - 5 * v), 1.0, 0.3, 10.0, 0.1),
    "drag": (so.Acceleration(Drag(5.0)), 1.0, 1.0, 10.0, 0.2),
}


@pytest.mark.parametrize("gradient", ["backprop", "reversible", "checkpoint"])
@pytest.mark.parametrize("name", DRIFTING)
def test_velocities_that_drift_apart_raise_instead_of_another_orbit(name, gradient):
    system, x, v, end, h = DRIFTING[name]
    start = torch.tensor([x], dtype=D), torch.tensor([v], dtype=D)
    t = torch.tensor([0.0, end / 2, end], dtype=D)
    with pytest.raises(RuntimeError, match="drifted apart.*dopri5"):
        so.odeint(system, start, t, method="velocity_doubling", step_size=h,
                  gradient=gradient)  # fmt: skip
    batch = tuple(torch.cat([0 * part, part]).unsqueeze(-1) for part in start)
    with torch.no_grad(), pytest.raises(RuntimeError, match="drifted apart"):
        so.odeint(system, batch, t, method="velocity_doubling", step_size=h)


@pytest.mark.parametrize("method", ["velocity_doubling", "velocity_doubling4"])
@pytest.mark.parametrize(
    ("system", "x", "v", "h"),
    [
        (van_der_pol(5.0), 0.1, 0.0, 0.004),
        (van_der_pol(2.0), 0.1, 0.0, 0.0125),
        (van_der_pol(1.0), 1.0, 0.0, 0.05),
        (so.Acceleration(Drag(0.3)), 1.0, 1.0, 0.2),
        (so.Acceleration(Drag(0.3), damping=50.0), 1.0, 1.0, 0.2),
        (so.Acceleration(lambda t, x, v: -x - 0.5 * v), 1.0, 0.3, 0.2),
    ],
)
def test_what_is_accurate_does_not_raise(method, system, x, v, h):
    start = torch.tensor([x], dtype=D), torch.tensor([v], dtype=D)
    t = torch.tensor([0.0, 5.0], dtype=D)
    with torch.no_grad():
        found = so.odeint(system, start, t, method=method, step_size=h).x[-1]
        wanted = so.odeint(system, start, t, method="dopri5", rtol=1e-9, atol=1e-9).x
    torch.testing.assert_close(found, wanted[-1], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("gradient", ["backprop", "reversible", "checkpoint"])
def test_the_look_at_the_copies_changes_no_gradient(gradient):
    field = Drag(0.3)
    system = so.Acceleration(field, damping=0.2)
    start = torch.ones(2, 1, dtype=D, requires_grad=True)
    t = torch.linspace(0, 1, 3, dtype=D)

    def loss(c):
        with torch.no_grad():
            field.c.fill_(c)
        sol = so.odeint(system, (start, None), t, method="velocity_doubling",
                        step_size=0.1, gradient=gradient)  # fmt: skip
        assert sol.stats.evaluations == 30
        return sol.x.square().sum()

    for _ in range(2):  # also the second time round
        (slope,) = torch.autograd.grad(loss(0.3), field.c)
        with torch.no_grad():
            difference = (loss(0.3 + 1e-5) - loss(0.3 - 1e-5)) / 2e-5
        assert slope.item() == pytest.approx(difference.item(), rel=1e-6)


def test_an_event_of_copies_that_drift_apart_raises():
    start = torch.tensor([0.1], dtype=D), torch.zeros(1, dtype=D)
    with pytest.raises(RuntimeError, match="drifted apart"):
        so.odeint_event(
            van_der_pol(5.0), start, 0.0, event_fn=lambda t, x, v: t - 5.9,
            method="velocity_doubling", step_size=0.0125,
        )  # fmt: skip


def test_the_copies_are_not_recommended_as_safe():
    system = van_der_pol(1.0)
    with pytest.raises(ValueError, match="velocity") as error:
        so.odeint(system, (torch.ones(1), None), [0.0, 1.0])
    text = str(error.value)
    assert text.index("dopri5") < text.index("velocity_doubling")
