"""Events at the edges: at the start, at zeros, of other dtypes, at the horizon."""

import math

import pytest
import torch

import secondorder as so

D = torch.float64


def coasting():
    """Free flight, which every method solves exactly."""
    return so.Newton(lambda t, x: torch.zeros_like(x))


def when(event_fn, x=0.0, v=1.0, system=None, t0=0.0, dtype=D, **how):
    """The time, and the index, of an event on a path from x with velocity v."""
    how = {"step_size": 1.0} | how
    x, v = torch.tensor([x], dtype=dtype), torch.tensor([v], dtype=dtype)
    t, sol = so.odeint_event(system or coasting(), (x, v), t0, event_fn=event_fn, **how)
    return t.item(), sol.event


@pytest.mark.parametrize("wait", [1e-3, 1e-8, 1e-9, 1e-10, 1e-12])
@pytest.mark.parametrize("back", [False, True])
def test_an_event_right_after_the_start_is_found(wait, back):
    # h √eps is 1.5e-8: nothing was seen that came before.
    sign = -1.0 if back else 1.0
    t, _ = when(lambda t, x, v: x[0], x=-wait * sign, reverse_time=back)
    assert t == pytest.approx(sign * wait, rel=1e-3)
    t, _ = when(lambda t, x, v: t - sign * wait, reverse_time=back)
    assert t == pytest.approx(sign * wait, rel=1e-3)
    # Beside another one that comes later, and one that starts at zero.
    t, index = when(
        lambda t, x, v: torch.stack([x[0] - 0.5 * sign, t, t - sign * wait]),
        reverse_time=back,
    )
    assert (t, index) == (pytest.approx(sign * wait, rel=1e-3), 2)


def test_samples_have_events_right_after_the_start_each_for_itself():
    x = torch.tensor([[-1e-10], [0.0], [-0.3], [-2.5]], dtype=D)
    v = torch.ones_like(x)

    def reach(t, x, v):
        return torch.stack([x[:, 0], x[:, 0] - 0.25], -1)

    t, sol = so.odeint_event(
        coasting(), (x, v), 0.0, event_fn=reach, step_size=1.0, per_sample=True
    )
    torch.testing.assert_close(
        t, torch.tensor([1e-10, 0.25, 0.3, 2.5], dtype=D), rtol=1e-3, atol=0
    )
    assert sol.event.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("t0", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_what_is_zero_up_to_rounding_is_a_zero(t0, dtype):
    # An event again and again from where the last one was.
    system = so.Newton(lambda t, x: -torch.sin(x))
    x, v = torch.tensor([0.3], dtype=dtype), torch.tensor([1.0], dtype=dtype)
    times = [torch.tensor(t0, dtype=D)]
    for _ in range(6):
        t, (xs, vs) = so.odeint_event(
            system, (x, v), times[-1], event_fn=lambda t, x, v: x[0] - 0.2,
            step_size=0.05, method="blanes_moan4",
        )  # fmt: skip
        x, v = xs[-1], vs[-1]
        times.append(t)
    assert torch.stack(times).diff().min() > 0.3


def test_a_zero_at_the_start_of_a_step_is_no_event():
    # x moves by less than its rounding for a while: g is exactly 0 when it is left.
    def functions(t, x, v):
        return torch.stack([(x[0] - 1.0).clamp(min=0.0), t - 3.7])

    t, index = when(functions, x=1.0 - 2.0, v=1.0)  # leaves 0 after 2 steps
    assert (t, index) == (pytest.approx(3.7), 1)
    t, index = when(lambda t, x, v: torch.stack([(x[0] - 1) ** 3, t - 0.7]), x=1.0)
    assert (t, index) == (pytest.approx(0.7), 1)
    t, index = when(lambda t, x, v: torch.stack([x[0] - 1, t - 0.7]), x=1.0, v=1e-9)
    assert (t, index) == (pytest.approx(0.7), 1)


def test_a_function_that_stays_at_zero_fires_where_its_zeros_begin():
    t, _ = when(lambda t, x, v: (1.3 - x[0]).clamp(min=0.0))
    assert t == pytest.approx(1.3, rel=1e-14)
    t, index = when(
        lambda t, x, v: torch.stack([(1.3 - x[0]).clamp(min=0.0), x[0] - 1.5])
    )
    assert (t, index) == (pytest.approx(1.3, rel=1e-14), 0)


SWITCHES = {
    "bool": lambda t, x, v: x[0] > 1.3,
    "bool off": lambda t, x, v: x[0] <= 1.3,
    "int": lambda t, x, v: (x[0] > 1.3).int() * 2 - 1,
    "int to 0": lambda t, x, v: (x[0] < 1.3).long(),
    "int8": lambda t, x, v: torch.where(x[0] > 1.3, 3, -2).to(torch.int8),
    "sign": lambda t, x, v: (x[0] - 1.3).sign(),
    "several": lambda t, x, v: torch.stack([x[0] > 2.0, x[0] > 1.3]),
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("method", ["verlet", "dopri5"])
@pytest.mark.parametrize("grad", [True, False])
def test_switches_fire_where_they_switch(name, method, grad):
    how = {} if method == "verlet" else {"step_size": None}
    with torch.set_grad_enabled(grad):
        t, index = when(SWITCHES[name], method=method, **how)
    assert t == pytest.approx(1.3, rel=1e-12 if method == "verlet" else 1e-6)
    if method == "verlet":
        assert index == (name == "several")


@pytest.mark.parametrize("method", ["verlet", "dopri5"])
def test_switches_have_no_gradients_and_say_so(method):
    x = torch.zeros(1, dtype=D, requires_grad=True)
    how = {"step_size": 1.0} if method == "verlet" else {}
    with pytest.raises(ValueError, match="through autograd"):
        so.odeint_event(
            coasting(), (x, torch.ones_like(x)), 0.0, method=method,
            event_fn=SWITCHES["bool"], **how,
        )  # fmt: skip
    with pytest.raises(TypeError, match="real"):
        when(lambda t, x, v: torch.complex(x[0], x[0]))


@pytest.mark.parametrize("method", ["verlet", "dopri5", "rk4"])
@pytest.mark.parametrize("back", [False, True])
def test_nothing_is_returned_from_beyond_the_horizon(method, back):
    sign = -1.0 if back else 1.0
    how = {"method": method, "reverse_time": back, "horizon": 0.5}
    how["step_size"] = None if method == "dopri5" else 1.0
    for later in (0.9, 0.51, 0.5 + 1e-9):
        with pytest.raises(RuntimeError, match=r"within 0\.5"):
            when(lambda t, x, v, at=later: x[0] - at * sign, **how)
    for before in (0.4, 0.49):
        t, _ = when(lambda t, x, v, at=before: x[0] - at * sign, **how)
        assert t == pytest.approx(sign * before, rel=1e-6)
    if method == "verlet":
        # Two changes in a step of which the second lies beyond: the first is seen.
        t, _ = when(lambda t, x, v: (x[0] - 0.4 * sign) * (x[0] - 0.8 * sign), **how)
        assert t == pytest.approx(0.4 * sign)
        for at in (0.0999, 0.25):  # the horizon is no multiple of the step
            t, _ = when(lambda t, x, v, at=at: x[0] - at * sign,
                        **how | {"step_size": 0.3})  # fmt: skip
            assert t == pytest.approx(at * sign)


def test_the_field_is_not_evaluated_beyond_the_horizon():
    def field(t, x):
        assert t <= 0.5
        return torch.zeros_like(x)

    with pytest.raises(RuntimeError, match="within"):
        when(lambda t, x, v: x[0] - 2, system=so.Newton(field), horizon=0.5,
             step_size=0.2)  # fmt: skip


@pytest.mark.parametrize("grad", [True, False])
def test_an_empty_batch_has_no_events(grad):
    x = torch.zeros(0, 2, dtype=D, requires_grad=grad)
    t, sol = so.odeint_event(
        so.Newton(lambda t, x: -x), (x, None), 0.0, step_size=0.1, per_sample=True,
        event_fn=lambda t, x, v: x,
    )  # fmt: skip
    assert t.shape == sol.event.shape == (0,)
    assert sol.x.shape == (2, 0, 2)
    if grad:
        (sol.x.sum() + t.sum()).backward()
        assert x.grad.shape == (0, 2)


def test_an_event_at_a_step_has_dense_output_up_to_it():
    x, v = torch.zeros(1, dtype=D), torch.ones(1, dtype=D)
    for at in (1.0, 2.0, math.nextafter(2.0, 3.0)):
        _, sol = so.odeint_event(
            coasting(), (x, v), 0.0, step_size=1.0,
            event_fn=lambda t, x, v, at=at: x[0] - at,
        )  # fmt: skip
        found = sol(torch.linspace(0, at, 9, dtype=D))[0].squeeze(-1)
        torch.testing.assert_close(found, torch.linspace(0, at, 9, dtype=D))
