"""Events: when a sign changes, where, and how both depend on everything."""

import math

import pytest
import torch
from torch import nn

import secondorder as so

D = torch.float64
ROUTES = ("backprop", "checkpoint", "reversible")


def first_coordinate(t, x, v):
    return x[0]


def falling():
    """Free fall at g = 1, which every method solves exactly."""
    return so.Newton(lambda t, x: -torch.ones_like(x))


def pendulum():
    return so.SecondOrder(lambda t, x: -torch.sin(x))


@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "chin4", "kahan_li8"])
def test_a_ball_from_height_h_lands_after_root_2h(method):
    h = torch.tensor([0.7], dtype=D)
    t, sol = so.odeint_event(
        falling(),
        (h, None),
        2.0,
        event_fn=first_coordinate,
        method=method,
        step_size=0.3,
    )
    x, v = sol
    exact = math.sqrt(1.4)
    # t* is found to 2 ulp of t, and x there moves by |v| ≈ 1.2 times that.
    assert t.item() == pytest.approx(2 + exact, rel=2e-15)
    assert abs(x[-1].item()) < 3e-15
    assert v[-1].item() == pytest.approx(-exact, rel=5e-15)
    assert torch.equal(x[0], h)
    assert sol.t.tolist() == [2.0, t.item()]
    assert sol.event == 0
    assert sol.stats.accepted == 4


@pytest.mark.parametrize(
    ("method", "order"), [("verlet", 2), ("blanes_moan4", 4), ("blanes_moan6", 6)]
)
def test_the_time_of_an_event_has_the_order_of_the_method(method, order):
    state = torch.tensor([1.0], dtype=D), None

    def when(n, method=method):
        return so.odeint_event(
            pendulum(), state, 0.0, event_fn=first_coordinate, method=method,
            step_size=2.6 / n,
        )[0].item()  # fmt: skip

    exact = when(200, "kahan_li8")
    # Coarse enough that order 6 stays above rounding, fine enough for the slope.
    n = {2: 200, 4: 20, 6: 8}[order]
    errors = [abs(when(k * n) - exact) for k in (1, 2)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, rel=0.05)


class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(1.3, dtype=D))

    def forward(self, t, x):
        return -self.stiffness * torch.sin(x) + 0.3 * torch.cos(t)


class Line(nn.Module):
    """An event function with a parameter, of all three arguments."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.2, dtype=D))

    def forward(self, t, x, v):
        return x[0] - self.level * torch.cos(t) + 0.1 * v[0]


def problem():
    field, event = Force(), Line()
    epsilon = nn.Parameter(torch.tensor(0.8, dtype=D))
    x = torch.tensor([1.0, 0.3], dtype=D, requires_grad=True)
    v = torch.tensor([0.1, 0.0], dtype=D, requires_grad=True)
    t0 = torch.tensor(0.2, dtype=D, requires_grad=True)
    wanted = [x, v, t0, field.stiffness, event.level, epsilon]

    def loss(method="blanes_moan4", gradient="backprop", step_size=0.1):
        t, sol = so.odeint_event(
            so.SecondOrder(field, epsilon), (x, v), t0, event_fn=event, method=method,
            step_size=step_size, gradient=gradient,
        )  # fmt: skip
        weights = torch.tensor([1.0, 2.0], dtype=D)
        return t**2 + (weights * sol.x[-1]).sum() + sol.v[-1].square().sum()

    return loss, wanted


@pytest.mark.parametrize("step_size", [0.1, 4.0], ids=["after steps", "in the first"])
@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "chin4"])
def test_gradients_agree_with_finite_differences_by_every_route(method, step_size):
    loss, wanted = problem()

    def gradient(route):
        parts = torch.autograd.grad(loss(method, route, step_size), wanted)
        return torch.cat([part.reshape(-1) for part in parts])

    exact, differences, delta = gradient("backprop"), [], 1e-5
    with torch.no_grad():
        for value in wanted:
            flat = value.view(-1)
            for i in range(len(flat)):
                now = flat[i].item()
                ends = []
                for sign in (1, -1):
                    flat[i] = now + sign * delta
                    ends.append(loss(method, step_size=step_size).item())
                flat[i] = now
                differences.append((ends[0] - ends[1]) / (2 * delta))
    # Central differences: δ² ≈ 1e-10 times third derivatives, here up to some 100.
    torch.testing.assert_close(
        exact, torch.tensor(differences, dtype=D), rtol=1e-6, atol=1e-7
    )
    # The grid of the reversible route resolves 6e-14.
    for route in ("checkpoint", "reversible"):
        torch.testing.assert_close(gradient(route), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gradient", ROUTES)
def test_the_height_of_a_ball_sets_its_landing_time(gradient):
    h = torch.tensor([0.7], dtype=D, requires_grad=True)
    t, (_, v) = so.odeint_event(
        falling(), (h, None), 0.0, event_fn=first_coordinate, step_size=0.3,
        gradient=gradient,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(t, h, retain_graph=True)
    assert slope.item() == pytest.approx(1 / math.sqrt(1.4), rel=1e-12)
    (slope,) = torch.autograd.grad(v[-1, 0], h)  # v = −√(2h)
    assert slope.item() == pytest.approx(-1 / math.sqrt(1.4), rel=1e-12)


def test_second_derivatives_raise_instead_of_being_wrong():
    h = torch.tensor([0.7], dtype=D, requires_grad=True)
    t, _ = so.odeint_event(
        falling(), (h, None), 0.0, event_fn=first_coordinate, step_size=0.3
    )
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(t, h, create_graph=True)


def bounce(times, restitution=0.8, gradient="backprop", height=None, step_size=0.1):
    """Impact times of a ball at g = 1: each flight starts at a zero of the event."""
    x = torch.ones(1, dtype=D) if height is None else height
    t, v, impacts = 0.0, None, []
    for _ in range(times):
        t, (xs, vs) = so.odeint_event(
            falling(), (x, v), t, event_fn=first_coordinate, step_size=step_size,
            gradient=gradient,
        )  # fmt: skip
        x, v = xs[-1], -restitution * vs[-1]
        impacts.append(t)
    return torch.stack(impacts)


def impacts_of(height, restitution, times):
    """√(2h) (1 + 2 r + 2 r² + …)."""
    powers = restitution ** torch.arange(1.0, times, dtype=D)
    return (2 * height) ** 0.5 * torch.cat(
        [torch.ones(1, dtype=D), 1 + 2 * powers.cumsum(0)]
    )


def test_a_bouncing_ball_meets_the_floor_at_the_times_of_the_geometric_series():
    # The last flights are shorter than a step: 2 √2 0.8^29 = 0.004 against 0.1.
    found = bounce(30)
    # Each restart inherits some ulp of the one before.
    torch.testing.assert_close(found, impacts_of(1.0, 0.8, 30), rtol=1e-13, atol=0)


def test_gradients_pass_through_bounces():
    h = torch.ones(1, dtype=D, requires_grad=True)
    r = torch.tensor(0.8, dtype=D, requires_grad=True)
    found = torch.autograd.grad(bounce(6, r, "reversible", h)[-1], [h, r])
    exact = torch.autograd.grad(impacts_of(h, r, 6)[-1], [h, r])
    torch.testing.assert_close(found, exact, rtol=1e-11, atol=0)


def test_the_first_of_several_events_ends_the_solve():
    def walls(t, x, v):
        return torch.stack([x[0], x[1] - 3.0, t - 1.5])

    def solve(vx, vy):
        return so.odeint_event(
            so.Newton(lambda t, x: 0 * x),
            (torch.ones(2, dtype=D), torch.tensor([vx, vy], dtype=D)), 0.0,
            event_fn=walls, step_size=1.0,
        )  # fmt: skip

    for (vx, vy), when, which in (
        ((-1.25, 1.0), 0.8, 0),
        ((-1.0, 4.0), 0.5, 1),
        ((-0.5, 0.5), 1.5, 2),
        ((-1.0, 2.5), 0.8, 1),  # both walls within one step
    ):
        t, sol = solve(vx, vy)
        assert t.item() == pytest.approx(when, rel=1e-14)
        assert sol.event == which


def test_each_sample_of_a_batch_has_its_own_event():
    h = torch.linspace(0.1, 3, 7, dtype=D).unsqueeze(1).requires_grad_()

    def floor_or_late(t, x, v):
        return torch.stack([x[:, 0], t - 2.0], -1)  # falls longer than 2 from h > 2

    def solve(**how):
        return so.odeint_event(
            falling(), (h, None), 0.0, event_fn=floor_or_late, step_size=0.17,
            per_sample=True, **how,
        )  # fmt: skip

    t, sol = solve()
    exact = (2 * h.detach()[:, 0]).sqrt().clamp(max=2.0)
    torch.testing.assert_close(t, exact, rtol=1e-14, atol=0)
    assert sol.event.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert sol.t.shape == (7, 2)
    assert sol.x.shape == (2, 7, 1)
    torch.testing.assert_close(sol.v[-1, :, 0], -exact, rtol=1e-14, atol=0)
    slopes = torch.autograd.grad(t.sum(), h)[0][:, 0]
    expected = torch.where(exact < 2.0, 1 / exact, 0.0)
    torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=1e-14)
    for gradient in ("checkpoint", "reversible"):
        again = torch.autograd.grad(solve(gradient=gradient)[0].sum(), h)[0][:, 0]
        torch.testing.assert_close(again, slopes, rtol=1e-11, atol=1e-12)


def test_samples_together_are_samples_one_by_one():
    torch.manual_seed(0)
    x = torch.rand(5, 2, dtype=D) + 0.5
    t0 = torch.rand(5, dtype=D)
    field = so.SecondOrder(lambda t, x: -torch.sin(x) + 0.1 * torch.cos(t))
    t, sol = so.odeint_event(
        field, (x, None), t0, event_fn=lambda t, x, v: x[:, 0], step_size=0.1,
        per_sample=True,
    )  # fmt: skip
    for i in range(5):
        one, alone = so.odeint_event(
            field, (x[i], None), t0[i], event_fn=first_coordinate, step_size=0.1
        )
        assert t[i].item() == pytest.approx(one.item(), rel=1e-14)
        torch.testing.assert_close(sol.x[-1, i], alone.x[-1], rtol=0, atol=1e-14)


def test_time_may_run_backwards():
    # Thrown up at t = 0 with v = 1 from x = 0.5: on the floor at t = 1 ± √2.
    state = torch.tensor([0.5], dtype=D), torch.ones(1, dtype=D)
    for backwards, when in ((False, 1 + math.sqrt(2)), (True, 1 - math.sqrt(2))):
        t, sol = so.odeint_event(
            falling(), state, 0.0, event_fn=first_coordinate, step_size=0.1,
            reverse_time=backwards,
        )  # fmt: skip
        assert t.item() == pytest.approx(when, rel=1e-13)
        x, v = sol(0.5 * t)
        half = 0.5 * when
        assert x.item() == pytest.approx(0.5 + half - half**2 / 2, rel=1e-12)
        assert v.item() == pytest.approx(1 - half, rel=1e-12)


def test_the_path_to_an_event_is_dense():
    t, sol = so.odeint_event(
        pendulum(), (torch.ones(1, dtype=D), None), 0.0, event_fn=first_coordinate,
        method="blanes_moan4", step_size=0.1,
    )  # fmt: skip
    times = torch.linspace(0, 1, 9, dtype=D) * t
    x, v = sol(times)
    fine = so.odeint(
        pendulum(), (torch.ones(1, dtype=D), None), times, method="blanes_moan6",
        step_size=0.02,
    )  # fmt: skip
    # The error of the method at this step, 4e-8, dominates the interpolant's.
    torch.testing.assert_close(x, fine.x, rtol=0, atol=1e-7)
    torch.testing.assert_close(v, fine.v, rtol=0, atol=1e-7)


def test_modes_forcing_and_velocity_dependent_fields_have_events_too():
    x = torch.tensor([1.0, 0.4], dtype=D)
    mass = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=D)
    stiff = torch.tensor([[3.0, 0.5], [0.5, 2.0]], dtype=D)
    matrix = so.Newton(lambda t, x: -x @ stiff, mass=mass, damping=0.1 * stiff)
    plain = so.Acceleration(
        lambda t, x, v: -torch.linalg.solve(mass, (x + 0.1 * v) @ stiff)
    )
    t, sol = so.odeint_event(
        matrix, (x, None), 0.0, event_fn=first_coordinate, method="blanes_moan6",
        step_size=0.05,
    )  # fmt: skip
    again, other = so.odeint_event(
        plain, (x, None), 0.0, event_fn=first_coordinate, method="velocity_doubling4",
        step_size=0.02,
    )  # fmt: skip
    # Order 4 at h = 0.02.
    assert t.item() == pytest.approx(again.item(), rel=1e-6)
    torch.testing.assert_close(sol.v[-1], other.v[-1], rtol=0, atol=1e-6)
    push = so.Newton(lambda t, x, u: u + 0 * x)
    t, _ = so.odeint_event(
        push, (torch.ones(1, dtype=D), None), 0.0, event_fn=first_coordinate,
        step_size=0.1, forcing=lambda t: -1.0,
    )  # fmt: skip
    assert t.item() == pytest.approx(math.sqrt(2), rel=1e-13)


def test_float32_states_have_events_to_their_precision():
    x = torch.ones(1, requires_grad=True)
    t, sol = so.odeint_event(
        falling(),
        (x, None),
        torch.tensor(0.0),
        event_fn=first_coordinate,
        step_size=0.1,
    )
    assert t.dtype == torch.float32 and sol.x.dtype == torch.float32
    # The state carries 14 roundings of 6e-8.
    assert t.item() == pytest.approx(math.sqrt(2), rel=1e-6)
    assert torch.autograd.grad(t, x)[0].item() == pytest.approx(
        1 / math.sqrt(2), rel=1e-5
    )


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
def test_torchdiffeq_solves_events_with_its_own_methods(gradient):
    h = torch.tensor([0.7], dtype=D, requires_grad=True)
    t, sol = so.odeint_event(
        falling(), (h, None), 0.0, event_fn=first_coordinate, method="dopri5",
        gradient=gradient,
    )  # fmt: skip
    # It bisects to atol = 1e-9.
    assert t.item() == pytest.approx(math.sqrt(1.4), rel=1e-8)
    assert sol.v[-1].item() == pytest.approx(-math.sqrt(1.4), rel=1e-7)
    (slope,) = torch.autograd.grad(t, h)
    assert slope.item() == pytest.approx(1 / math.sqrt(1.4), rel=1e-6)


def test_no_gradient_costs_no_second_solve():
    loss = []
    for enabled in (False, True):
        with torch.set_grad_enabled(enabled):
            _, sol = so.odeint_event(
                falling(), (torch.ones(1, dtype=D), None), 0.0, step_size=0.1,
                event_fn=first_coordinate,
            )  # fmt: skip
        loss.append(sol.stats.evaluations)
    assert loss[0] + 14 <= loss[1]


THEIRS = {"method": "dopri5", "step_size": None}
WRONG = [
    ({"step_size": None}, ValueError, "`step_size` is required"),
    ({"horizon": 1.0}, RuntimeError, "within 1 of t0"),
    ({"horizon": -1.0}, ValueError, "`horizon`"),
    ({"event_fn": 3.0}, TypeError, "`event_fn`"),
    ({"event_fn": lambda t, x, v: x.unsqueeze(0)}, ValueError, "per_sample=True"),
    (
        {"event_fn": lambda t, x, v: torch.tensor(0.5 - t.item())},
        ValueError,
        "torch op",
    ),
    ({"per_sample": True}, ValueError, r"\(batch,\)"),
    ({"method": "scipy_DOP853", "step_size": None}, ValueError, "no events"),
    ({"method": "adaptive"}, ValueError, "`step_size`"),
    ({"method": "rkn8", "step_size": None, "horizon": 0.1}, RuntimeError, "within 0.1"),
    ({**THEIRS, "per_sample": True}, ValueError, "fixed-step"),
    ({**THEIRS, "event_fn": Line()}, ValueError, "parameters"),
    ({**THEIRS, "event_fn": lambda t, x, v: v[0]}, ValueError, "starts at a zero"),
    ({**THEIRS, "horizon": 0.1}, RuntimeError, "within 0.1"),
    ({"method": "euler3"}, ValueError, "`method`"),
    ({"gradient": "adjoint"}, ValueError, "adjoint"),
    ({"method": "velocity_doubling"}, ValueError, "Acceleration"),
    ({"t0": torch.zeros(3)}, ValueError, "`t0`"),
    ({"t0": float("nan")}, ValueError, "`t0`"),
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
def test_what_cannot_be_right_raises(change, error, text):
    x = torch.ones(2, dtype=D, requires_grad=True)
    how = {"t0": 0.0, "event_fn": first_coordinate, "step_size": 0.1, **change}
    with pytest.raises(error, match=text):
        so.odeint_event(falling(), (x, None), how.pop("t0"), **how)


def test_a_solution_that_blows_up_is_no_event():
    runaway = so.Newton(lambda t, x: x**3)
    with pytest.raises(RuntimeError, match="not finite"):
        so.odeint_event(
            runaway, (torch.full((1,), 3.0), None), 0.0, event_fn=first_coordinate,
            step_size=0.1,
        )  # fmt: skip


def test_samples_without_an_event_are_named():
    h = torch.tensor([[0.1], [50.0], [0.2]], dtype=D)
    with pytest.raises(RuntimeError, match=r"1 of 3 samples \(the first are \[1\]\)"):
        so.odeint_event(
            falling(), (h, None), 0.0, event_fn=lambda t, x, v: x[:, 0], step_size=0.1,
            horizon=2.0, per_sample=True,
        )  # fmt: skip
