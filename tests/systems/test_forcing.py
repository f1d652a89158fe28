"""Forcing: what the interpolants are, that every method meets them, and jumps."""

import math

import pytest
import torch
from torch import nn

import secondorder as so
from secondorder import Forced
from secondorder.systems.forcing import Cubic, Linear, Steps

D = torch.float64
ROUTES = ("backprop", "checkpoint", "reversible")


def uneven(n=9, seed=0):
    """Increasing knots on [0, 2] with gaps that differ by a factor of two."""
    gen = torch.Generator().manual_seed(seed)
    gaps = 1 + torch.rand(n - 1, dtype=D, generator=gen)
    return torch.cat([torch.zeros(1, dtype=D), 2 * gaps.cumsum(0) / gaps.sum()])


@pytest.mark.parametrize("kind", [Steps, Linear, Cubic])
def test_samples_are_met_at_the_knots(kind):
    t = uneven()
    u = torch.randn(9, 3, dtype=D, generator=torch.Generator().manual_seed(1))
    curve = kind(t, u)
    for i in range(9):
        torch.testing.assert_close(curve(t[i]), u[i], rtol=0, atol=1e-15)
    torch.testing.assert_close(curve(t.unsqueeze(1)), u, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("kind", "degree"), [(Steps, 0), (Linear, 1), (Cubic, 2)])
def test_polynomials_are_reproduced_up_to_the_degree(kind, degree):
    t, times = uneven(), torch.linspace(0, 2, 101, dtype=D)

    def gap(power):
        return (kind(t, t**power)(times) - times**power).abs().max().item()

    assert gap(degree) < 4e-15  # a dozen roundings of numbers up to 4
    assert gap(degree + 1) > 1e-4


@pytest.mark.parametrize(("kind", "order"), [(Steps, 1), (Linear, 2), (Cubic, 3)])
def test_the_error_falls_with_the_order(kind, order):
    times = torch.linspace(0, 2, 4001, dtype=D)

    def gap(n):
        t = torch.linspace(0, 2, n + 1, dtype=D)
        return (kind(t, torch.sin(3 * t))(times) - torch.sin(3 * times)).abs().max()

    assert math.log2(gap(100) / gap(200)) == pytest.approx(order, rel=0.05)


def test_the_cubic_is_once_differentiable_across_knots():
    t = uneven()
    curve = Cubic(t, torch.sin(4 * t))
    delta = 1e-7
    for knot in t[1:-1]:
        sides = torch.stack([knot - delta, knot + delta]).requires_grad_()
        (slopes,) = torch.autograd.grad(curve(sides).sum(), sides)
        # The second derivative is at most some 30.
        assert abs(slopes[0] - slopes[1]).item() < 100 * delta


def test_the_slope_at_a_knot_is_that_of_the_parabola_through_its_neighbours():
    t = torch.linspace(0, 2, 9, dtype=D)
    h, knots = 0.25, t.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(Cubic(t, t**3)(knots).sum(), knots)
    exact = 3 * t**2 + h**2  # the central difference of t³
    exact[0], exact[-1] = -2 * h**2, 12 - 2 * h**2  # the one-sided ones
    torch.testing.assert_close(slopes, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", [Linear, Cubic])
def test_values_are_differentiable_in_samples_and_in_time(kind):
    t = uneven(5)
    u = torch.randn(5, 2, dtype=D, generator=torch.Generator().manual_seed(2))
    times = torch.tensor([[0.11], [0.9], [1.93]], dtype=D)
    inputs = u.requires_grad_(), times.requires_grad_()
    torch.autograd.gradcheck(lambda u, times: kind(t, u)(times), inputs)


@pytest.mark.parametrize("kind", [Steps, Linear, Cubic])
def test_shapes_broadcast_a_time_against_a_sample(kind):
    t, gen = uneven(5), torch.Generator().manual_seed(4)
    for sample, time, shape in [
        ((), (), ()),
        ((), (7,), (7,)),
        ((), (4, 1), (4, 1)),  # per-sample times of a state (4, d)
        ((3,), (), (3,)),
        ((3,), (4, 1), (4, 3)),
        ((3,), (4, 1, 1), (4, 1, 3)),
        ((4, 3), (), (4, 3)),
        ((4, 3), (4, 1), (4, 3)),
    ]:
        u = torch.randn(5, *sample, dtype=D, generator=gen)
        times = torch.rand(time, dtype=D, generator=gen)
        value = kind(t, u)(times)
        assert value.shape == shape
        # Each entry is the scalar curve of its own sample at its own time.
        lone = torch.broadcast_to(times, shape).reshape(-1)
        padded = u.reshape(5, *[1] * (len(shape) - len(sample)), *sample)
        flat = padded.expand(5, *shape).reshape(5, -1)
        for k in range(flat.shape[1]):
            one = kind(t, flat[:, k])(lone[k])
            assert value.reshape(-1)[k].item() == pytest.approx(one.item(), abs=1e-15)


@pytest.mark.parametrize("kind", [Steps, Linear, Cubic])
def test_each_sample_may_have_its_own_knots(kind):
    t = torch.stack([uneven(6, seed) for seed in range(4)])
    gen = torch.Generator().manual_seed(5)
    u = torch.randn(6, 4, 2, dtype=D, generator=gen)
    together = kind(t, u)
    for time in (torch.tensor(0.7, dtype=D), torch.rand(4, 1, dtype=D, generator=gen)):
        value = together(time)
        assert value.shape == (4, 2)
        for k in range(4):
            alone = kind(t[k], u[:, k])(time.expand(4, 1)[k] if time.ndim else time)
            torch.testing.assert_close(value[k], alone, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", [Steps, Linear, Cubic])
def test_the_end_values_are_held(kind):
    t = uneven(5)
    curve = kind(t, torch.sin(1 + t))
    assert curve(-1.0).item() == pytest.approx(math.sin(1), rel=1e-15)
    assert curve(3.0).item() == pytest.approx(math.sin(3), rel=1e-15)


def test_the_dtype_follows_the_time_and_to_moves_the_samples():
    curve = Cubic(uneven(5), torch.sin(uneven(5)))
    assert curve(torch.tensor(0.5)).dtype == torch.float32
    assert curve(torch.tensor(0.5, dtype=D)).dtype == D
    assert curve(0.5).dtype == D
    assert curve.float()(0.5).dtype == torch.float32
    assert set(curve.state_dict()) == {"t", "u"}


def test_samples_with_a_million_knots_cost_no_more_memory_than_themselves():
    u = torch.zeros(1_000_001, dtype=D)
    curve = Cubic(torch.linspace(0, 1, 1_000_001, dtype=D), u)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.nbytes) or tensor, lambda tensor: tensor
    ):
        curve(torch.tensor(0.5, dtype=D, requires_grad=True))
    assert sum(saved) < 1000


def spring():
    return so.Newton(lambda t, x, u: u - 4 * x - x**3, damping=0.7)


def spring_of(drive):
    """The same with the drive written into the field."""
    return so.Newton(lambda t, x: drive(t) - 4 * x - x**3, damping=0.7)


POSITION = [name for name, m in so.METHODS.items() if not m.takes_velocity]


@pytest.mark.parametrize("method", POSITION)
@pytest.mark.parametrize("times", ["shared", "per sample"])
def test_every_method_sees_the_forcing_at_its_substeps(method, times):
    t = torch.linspace(0, 1, 6, dtype=D)
    if times == "per sample":
        t = t * torch.tensor([[1.0], [1.3], [0.6]], dtype=D)
    x = torch.tensor([[0.3], [-0.1], [0.8]], dtype=D)

    def drive(t):
        return torch.cos(3 * t)

    how = {"method": method, "step_size": 0.05}
    driven = so.odeint(spring(), (x, None), t, forcing=drive, **how)
    written = so.odeint(spring_of(drive), (x, None), t, **how)
    assert torch.equal(driven.x, written.x)
    assert torch.equal(driven.v, written.v)
    if times == "shared":
        middle = torch.tensor([0.11, 0.97], dtype=D)
        assert torch.equal(driven(middle)[0], written(middle)[0])


@pytest.mark.parametrize("method", ["dopri5", "scipy_DOP853", "adaptive"])
def test_adaptive_methods_take_a_forcing(method):
    t = torch.linspace(0, 1, 6, dtype=D)
    x = torch.tensor([0.3], dtype=D)
    how = {"rtol": 1e-9, "atol": 1e-9}
    found = so.odeint(spring(), (x, None), t, forcing=torch.cos, method=method, **how)
    fine = so.odeint(
        spring_of(torch.cos), (x, None), t, method="blanes_moan6", step_size=0.01
    )
    torch.testing.assert_close(found.x, fine.x, rtol=0, atol=1e-7)  # 100 × tolerance


def test_velocity_dependent_fields_and_matrices_are_driven_too():
    t, x = torch.linspace(0, 1, 6, dtype=D), torch.tensor([0.3, 0.1], dtype=D)

    def drag(t, x, v, u):
        return u - x - v * v.abs()

    how = {"step_size": 0.1}
    a = so.odeint(
        so.Acceleration(drag), (x, None), t, method="velocity_doubling",
        forcing=torch.cos, **how,
    )  # fmt: skip
    b = so.odeint(
        so.Acceleration(lambda t, x, v: drag(t, x, v, torch.cos(t))), (x, None), t,
        method="velocity_doubling", **how,
    )  # fmt: skip
    assert torch.equal(a.x, b.x)
    mass = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=D)
    a = so.odeint(
        so.Newton(lambda t, x, u: u - x, mass), (x, None), t, forcing=torch.cos, **how
    )
    b = so.odeint(so.Newton(lambda t, x: torch.cos(t) - x, mass), (x, None), t, **how)
    assert torch.equal(a.x, b.x)


def test_arguments_come_after_the_forcing():
    t, x = torch.linspace(0, 1, 3, dtype=D), torch.zeros(1, dtype=D)
    push = so.Newton(lambda t, x, u, scale: scale * u + 0 * x)
    sol = so.odeint(push, (x, None), t, forcing=lambda t: 2.0, args=(3.0,))
    assert sol.x[-1].item() == pytest.approx(3.0, rel=1e-15)  # ½ 6 t²


class Evaluates(nn.Module):
    """As interpolants of other packages: a module without forward."""

    def evaluate(self, t):
        return torch.cos(t)


def test_objects_that_evaluate_are_forcings():
    t, x = torch.linspace(0, 1, 3, dtype=D), torch.zeros(1, dtype=D)
    a = so.odeint(spring(), (x, None), t, forcing=Evaluates())
    b = so.odeint(spring(), (x, None), t, forcing=torch.cos)
    assert torch.equal(a.x, b.x)


@pytest.mark.parametrize("kind", [Linear, Cubic])
def test_samples_and_stiffness_are_learned_by_every_route(kind):
    knots = uneven(7)
    gen = torch.Generator().manual_seed(3)
    curve = kind(knots, nn.Parameter(torch.randn(7, 1, dtype=D, generator=gen)))
    scale = nn.Parameter(torch.tensor(1.1, dtype=D))
    end = torch.tensor(1.65, dtype=D, requires_grad=True)  # 17 steps

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = scale

        def forward(self, t, x, u):
            return u - self.scale * torch.sin(x)

    wanted = [curve.u, scale, end]

    def loss(gradient):
        t = torch.stack([torch.zeros_like(end), end])
        x, v = so.odeint(
            so.SecondOrder(Field(), 0.6), (torch.ones(2, 1, dtype=D), None), t,
            step_size=0.1, forcing=curve, gradient=gradient,
        )  # fmt: skip
        return x[-1].square().sum() + v[-1].sum()

    exact = torch.autograd.grad(loss("backprop"), wanted)
    for route in ROUTES[1:]:
        found = torch.autograd.grad(loss(route), wanted)
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-11)
    differences, delta = [], 1e-6
    with torch.no_grad():
        for value in wanted:
            flat, found = value.view(-1), []
            for i in range(len(flat)):
                now, ends = flat[i].item(), []
                for sign in (1, -1):
                    flat[i] = now + sign * delta
                    ends.append(loss("backprop").item())
                flat[i] = now
                found.append((ends[0] - ends[1]) / (2 * delta))
            differences.append(torch.tensor(found, dtype=D).reshape(value.shape))
    torch.testing.assert_close(differences, list(exact), rtol=1e-7, atol=1e-8)


def test_a_model_takes_a_forced_field():
    drive = Linear(uneven(), nn.Parameter(torch.zeros(9, 1, dtype=D)))
    field = Forced(lambda t, x, u: u - x, drive)
    model = so.SecondOrderODE(field, t1=2.0, steps=20)
    x = torch.zeros(3, 1, dtype=D)
    (model(x) - 1).square().mean().backward()
    assert drive.u.grad.abs().min() > 0
    assert sum(p is drive.u for p in model.parameters()) == 1


# Jumps and kinks


def jumping(t):
    """−2 between 0.37 and 0.8123, 1 before, 1 after; as right limits."""
    return torch.where((t >= 0.37) & (t < 0.8123), -2.0, 1.0).to(t)


JUMPS = (0.8123, 0.37, 7.0)  # in any order; the last one is outside
SMOOTH = {"verlet": 2, "blanes_moan4": 4, "chin4": 4}


@pytest.mark.parametrize("method", SMOOTH)
@pytest.mark.parametrize("direction", [1, -1])
def test_breakpoints_keep_the_order_across_jumps(method, direction):
    order = SMOOTH[method]
    t = torch.linspace(0, 1.5, 4, dtype=D)
    t = t if direction > 0 else t.flip(0)
    start = torch.tensor([0.3], dtype=D), None

    def solve(n, method=method, breakpoints=JUMPS):
        return so.odeint(
            spring(), start, t, method=method, step_size=1.5 / n, forcing=jumping,
            breakpoints=breakpoints,
        ).x  # fmt: skip

    # The reference steps from jump to jump, each piece with its own constant.
    fine = pieces(start, t)

    def error(*args):
        return (solve(*args) - fine).abs().max().item()

    # 3 · 2^k steps per unit split every piece evenly enough for a slope.
    n = 96 if order == 2 else 24
    slope = math.log2(error(n) / error(4 * n)) / 2
    assert slope == pytest.approx(order, rel=0.1)
    assert error(n, method, None) > 20 * error(n)


def pieces(start, t):
    """The jumping problem solved piece by piece with smooth fields."""
    marks = sorted({*t.tolist(), 0.37, 0.8123}, reverse=bool(t[0] > t[-1]))
    x, v = start
    found = [x]
    for a, b in zip(marks, marks[1:], strict=False):
        u = jumping(torch.tensor((a + b) / 2)).item()
        piece = spring_of(lambda t, u=u: u)
        sol = so.odeint(
            piece, (x, v), torch.tensor([a, b], dtype=D), method="blanes_moan6",
            step_size=0.005,
        )  # fmt: skip
        x, v = sol.x[-1], sol.v[-1]
        if b in t.tolist():
            found.append(x)
    return torch.stack(found)


@pytest.mark.parametrize("direction", [1, -1])
def test_breakpoints_are_not_recorded_and_dense_output_respects_them(direction):
    t = torch.linspace(0, 1.5, 4, dtype=D)
    times = torch.tensor([0.1, 0.3699, 0.37, 0.3701, 0.81, 0.8123, 0.82], dtype=D)
    if direction < 0:
        t, times = t.flip(0), times.flip(0)
    start = torch.tensor([0.3], dtype=D), None
    sol = so.odeint(
        spring(), start, t, method="blanes_moan4", step_size=0.05, forcing=jumping,
        breakpoints=JUMPS,
    )  # fmt: skip
    assert torch.equal(sol.t, t)
    assert sol.x.shape == (4, 1)
    fine = pieces(start, torch.cat([t[:1], times]))[1:]
    # Order 4 at h = 0.05; an interpolant across a jump of ẍ by 3 would be off by 1e-4,
    # and one with the force of the wrong side at one end by 1e-6.
    torch.testing.assert_close(sol(times)[0], fine, rtol=0, atol=5e-8)


def test_times_beside_jumps_have_gradients():
    """The force jumps and depends on time, so its kicks at the jump do as well."""
    s = torch.tensor([0.33], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=D)

    def solve(s):
        push = Steps(torch.cat([torch.zeros(1, dtype=D), s]), torch.tensor([1.0, -1.0]))
        return so.odeint(
            so.Newton(lambda t, x, u: u * torch.exp(2 * t) - x),
            (torch.zeros(1, dtype=D), None), t, forcing=push.double(), breakpoints=s,
            method="verlet",
        ).x[-1, 0]  # fmt: skip

    (slope,) = torch.autograd.grad(solve(s), s)
    with torch.no_grad():
        difference = (solve(s + 1e-6) - solve(s - 1e-6)) / 2e-6
    assert slope.item() == pytest.approx(difference.item(), rel=1e-8)


def test_float32_states_see_the_right_side_of_a_jump():
    t = torch.linspace(0, 1.5, 4, dtype=D)
    sol = so.odeint(
        spring(), (torch.tensor([0.3]), None), t, step_size=0.01, forcing=jumping,
        breakpoints=JUMPS,
    )  # fmt: skip
    fine = pieces((torch.tensor([0.3], dtype=D), None), t)
    # Order 2 at h = 0.01; one force from the wrong side would cost 3 h/2 in v.
    torch.testing.assert_close(sol.x.double(), fine, rtol=0, atol=2e-4)


@pytest.mark.parametrize("gradient", ROUTES)
def test_switching_times_are_learned_exactly(gradient):
    """A push u = 1 up to s, then −1: x(1) = s (2 − s) − ½ from rest, x' = 2 (1 − s)."""
    s = torch.tensor([0.3], dtype=D, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=D)
    knots = torch.cat([torch.zeros(1, dtype=D), s])
    push = Steps(knots, torch.tensor([1.0, -1.0], dtype=D))
    x, v = so.odeint(
        so.Newton(lambda t, x, u: u + 0 * x), (torch.zeros(1, dtype=D), None), t,
        step_size=0.1, forcing=push, breakpoints=knots, gradient=gradient,
    )  # fmt: skip
    assert x[-1].item() == pytest.approx(0.3 * 1.7 - 0.5, abs=1e-13)
    (slope,) = torch.autograd.grad(x[-1].sum() + 2 * v[-1].sum(), s)
    assert slope.item() == pytest.approx(2 * 0.7 + 4, rel=1e-12)  # v(1) = 2 s − 1


def test_breakpoints_at_requested_times_and_at_both_ends_are_allowed():
    t = torch.linspace(0, 1, 3, dtype=D)
    push = so.Newton(lambda t, x, u: u + 0 * x)
    sol = so.odeint(
        push, (torch.zeros(1, dtype=D), None), t, forcing=Steps(t, 2 * t),
        breakpoints=[0.0, math.nextafter(0.5, 0), 0.5, 1.0],
    )  # fmt: skip
    # u = 0 on the first half, 1 on the second.
    torch.testing.assert_close(
        sol.x[:, 0], torch.tensor([0.0, 0.0, 0.125], dtype=D), rtol=0, atol=1e-15
    )


WRONG = [
    ({"forcing": 3.0}, TypeError, "`forcing`"),
    ({"forcing": Linear(uneven(), uneven())}, ValueError, r"\[0, 2\].*\[0, 3\]"),
    ({"breakpoints": [float("nan")]}, ValueError, "`breakpoints`"),
    ({"breakpoints": [1.0], "t": torch.zeros(1, 2)}, ValueError, "one time grid"),
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG)
def test_what_cannot_be_solved_raises(change, error, text):
    how = {"t": torch.linspace(0, 3, 4, dtype=D), "forcing": torch.cos, **change}
    with pytest.raises(error, match=text):
        so.odeint(spring(), (torch.zeros(1, 1, dtype=D), None), how.pop("t"), **how)


SAMPLES = [
    (torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3), ValueError, "strictly increasing"),
    (torch.linspace(0, 1, 3), torch.zeros(4), ValueError, r"\(3, ...\), time first"),
    (torch.rand(2, 3).cumsum(1), torch.zeros(3, 5), ValueError, r"\(3, 2, ...\)"),
    (torch.linspace(0, 1, 3), torch.full((3,), torch.nan), ValueError, "`u` holds NaN"),
    (torch.arange(3), torch.zeros(3), TypeError, "`t` must be a float"),
    (torch.linspace(0, 1, 3), [0.0] * 3, TypeError, "`u` must be a float.*list"),
    (torch.linspace(0, 1, 2), torch.zeros(2), ValueError, "n >= 3 for Cubic"),
]


@pytest.mark.parametrize(("t", "u", "error", "text"), SAMPLES)
def test_samples_that_cannot_be_right_raise(t, u, error, text):
    with pytest.raises(error, match=text):
        Cubic(t, u)


def test_a_bar_shows_the_progress_of_long_solves(capfd):
    t, x = torch.linspace(0, 1, 11, dtype=D), torch.zeros(1, dtype=D)
    so.odeint(spring(), (x, None), t, forcing=torch.cos)
    assert capfd.readouterr() == ("", "")
    so.odeint(spring(), (x, None), t, forcing=torch.cos, progress=True)
    shown = capfd.readouterr()
    assert "11/11" in shown.err and shown.out == ""
