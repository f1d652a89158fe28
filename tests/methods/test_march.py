"""Events in a solve with every method, and steps of each sample's own."""

import math
import pickle

import pytest
import torch
from torch import nn

import secondorder as so

D = torch.float64
ROUTES = ("backprop", "checkpoint", "reversible")
METHODS = ["verlet", "blanes_moan4", *so.ADAPTIVE, *so.COUPLED]
ADAPTIVE = [*so.ADAPTIVE, "coupled_dopri5"]
SOME = ("verlet", "adaptive", "rkn8", "coupled_rk4", "coupled_dopri5")


def tensor(*values):
    return torch.tensor(values, dtype=D)


def steps(method, size=0.1, tol=1e-9):
    """How a method is to choose its steps."""
    if method in so.METHODS or method in ("coupled_heun2", "coupled_rk4"):
        return {"method": method, "step_size": size}
    return {"method": method, "rtol": tol, "atol": tol}


def routes(method):
    """The gradients of a method."""
    table = so.METHODS | so.ADAPTIVE | so.COUPLED
    return [route for route in ROUTES if route in table[method].gradients]


def falling():
    """Free fall at g = 1, which every method solves exactly."""
    return so.Newton(lambda t, x: -torch.ones_like(x))


def floor(t, x, v):
    return x[..., 0]


def impacts(height, restitution, times):
    """√(2h) (1 + 2 r + 2 r² + …)."""
    powers = restitution ** torch.arange(1.0, times, dtype=D)
    return (2 * height) ** 0.5 * torch.cat([tensor(1.0), 1 + 2 * powers.cumsum(0)])


def bounce(method, height=None, restitution=0.8, most=12, end=20.0, **how):
    height = tensor(1.0) if height is None else height
    return so.odeint(
        falling(), (height, None), tensor(0.0, 1.0, 2.0, end), event_fn=floor,
        on_event=lambda t, x, v: (x, -restitution * v), max_events=most,
        **steps(method) | how,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_twelfth_impact_of_a_bouncing_ball_in_one_call(method):
    sol = bounce(method)
    torch.testing.assert_close(sol.events.t, impacts(1.0, 0.8, 12), rtol=0, atol=1e-12)
    assert sol.status == "event" and sol.event == 0
    assert sol.events.index.tolist() == [0] * 12
    assert sol.t.tolist() == [0.0, 1.0, 2.0, sol.events.t[-1].item()]
    assert sol.x[1].item() == pytest.approx(0.5, abs=1e-13)
    assert abs(sol.x[-1].item()) < 1e-13
    # Dense output jumps at an impact: the speed there is the one after it.
    first = math.sqrt(2.0)
    x, v = sol(tensor(1.2, first + 0.3))
    assert x[0].item() == pytest.approx(1 - 0.72, abs=1e-12)
    assert x[1].item() == pytest.approx(0.8 * first * 0.3 - 0.045, abs=1e-12)
    assert v[1].item() == pytest.approx(0.8 * first - 0.3, abs=1e-12)
    again = pickle.loads(pickle.dumps(sol.events))
    assert torch.equal(again.t, sol.events.t)


@pytest.mark.parametrize("method", SOME)
def test_the_restitution_is_found_from_the_times_of_impacts(method):
    seen = impacts(1.0, 0.7, 3)
    r = tensor(0.6).requires_grad_()
    for _ in range(6):  # Gauss–Newton
        found = bounce(method, restitution=r, most=3).events.t
        slopes = torch.stack(
            [torch.autograd.grad(t, r, retain_graph=True)[0] for t in found]
        )
        with torch.no_grad():
            r -= (slopes[:, 0] @ (found - seen)) / slopes.square().sum()
    assert r.item() == pytest.approx(0.7, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_pass_through_bounces_by_every_route(method):
    for route in routes(method):
        h, r = tensor(1.0).requires_grad_(), tensor(0.8).requires_grad_()
        sol = bounce(method, h, r, 4, gradient=route)
        found = torch.autograd.grad(sol.events.t[-1] + sol.v[-1].sum(), [h, r])
        # The fourth impact has the speed r³ √(2h).
        exact = impacts(h, r, 4)[-1] - r[0] ** 3 * (2 * h[0]) ** 0.5
        wanted = torch.autograd.grad(exact, [h, r])
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(tensor(1.3)[0])

    def forward(self, t, x):
        return -self.stiffness * torch.sin(x) + 0.3 * torch.cos(t)


@pytest.mark.parametrize(
    "method", ["blanes_moan4", "adaptive", "rkn8", "coupled_rk4", "coupled_dopri5"]
)
@pytest.mark.parametrize("each", [False, True])
def test_gradients_are_those_of_finite_differences(method, each):
    field, level = Force(), tensor(0.2).requires_grad_()
    tol = 1e-7 if method == "adaptive" else 1e-10  # of order 4
    x = torch.tensor([[1.0], [0.7]], dtype=D, requires_grad=True)
    v = torch.tensor([[0.1], [-0.3]], dtype=D, requires_grad=True)
    t = tensor(0.2, 1.3, 3.1).requires_grad_()
    wanted = [x, v, t, level, field.stiffness]

    def wall(t, x, v):
        return (
            (x[:, 0] if each else x[0, 0])
            - level[0] * torch.cos(t)
            + 0.1 * (v[:, 0] if each else v[0, 0])
        )

    def loss(route):
        sol = so.odeint(
            so.SecondOrder(field, 0.8), (x, v), t, event_fn=wall, max_events=2,
            on_event=lambda t, x, v: (x + 0.01 * t.reshape(-1, 1), -0.9 * v),
            # No span is a multiple of the step: their number does not change with t.
            per_sample=each, gradient=route, **steps(method, 0.097, tol),
        )  # fmt: skip
        weights = torch.tensor([1.0, 2.0], dtype=D)[:, None]
        return (weights * sol.x).square().sum() + sol.v[-1].sum() + sol.events.t.sum()

    generator = torch.Generator().manual_seed(0)
    ways = [torch.randn(w.shape, generator=generator, dtype=D) for w in wanted]
    slopes = []
    for route in routes(method):
        found = torch.autograd.grad(loss(route), wanted)
        pairs = zip(found, ways, strict=True)
        slopes.append(sum((g * w).sum().item() for g, w in pairs))
    delta, ends = 1e-4, []
    with torch.no_grad():
        for step in (delta, -2 * delta):
            for value, way in zip(wanted, ways, strict=True):
                value += step * way
            ends.append(loss("backprop").item())
    # δ² times third derivatives; an adaptive loss is smooth to its tolerance over δ.
    within = max(1e-5, tol / delta)
    assert slopes[0] == pytest.approx((ends[0] - ends[1]) / (2 * delta), rel=within)
    assert slopes == pytest.approx([slopes[0]] * len(slopes), rel=1e-9)


@pytest.mark.parametrize("method", SOME)
def test_each_sample_bounces_for_itself(method):
    h = torch.tensor([[0.1], [1.0], [3.0], [30.0]], dtype=D, requires_grad=True)
    sol = bounce(method, h, most=None, end=3.0, per_sample=True)
    assert sol.status == ["done"] * 4
    assert sol.x.shape == (4, 4, 1)
    for k in range(4):
        one = impacts(h[k, 0].detach(), 0.8, 20)
        one = one[one < 3.0]
        found = sol.events.t[:, k].detach()
        torch.testing.assert_close(found[~found.isnan()], one, rtol=1e-12, atol=0)
        alone = bounce(method, h[k].detach(), most=None, end=3.0)
        torch.testing.assert_close(sol.x[:, k].detach(), alone.x, rtol=0, atol=1e-11)
    (slopes,) = torch.autograd.grad(sol.events.t[0].nan_to_num().sum(), h)
    exact = (0.5 / h.detach()).sqrt()
    exact[3] = 0.0  # has not fallen yet
    torch.testing.assert_close(slopes, exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", SOME)
def test_what_is_between_the_times_of_samples_that_bounce(method):
    h = torch.tensor([[0.1], [1.0], [3.0]], dtype=D, requires_grad=True)
    sol = bounce(method, h, most=None, end=3.0, per_sample=True)
    times = tensor(0.0, 0.2, 1.0, 1.7, 2.0, 2.9, 3.0)
    x, v = sol(times)
    for k in range(3):
        y, w = bounce(method, h[k], most=None, end=3.0)(times)
        torch.testing.assert_close(x[:, k], y, rtol=0, atol=1e-11)
        torch.testing.assert_close(v[:, k], w, rtol=0, atol=1e-11)
        (slope,) = torch.autograd.grad(x[1, k, 0], h, retain_graph=True)
        (alone,) = torch.autograd.grad(y[1, 0], h)
        torch.testing.assert_close(slope, alone, rtol=1e-9, atol=1e-9)
    # Where a sample has ended there is nothing more, and times may differ.
    t = torch.tensor([[0.0, 3.0], [0.5, 2.0], [1.0, 9.0]], dtype=D)
    ended = so.odeint(
        falling(),
        (h.detach(), None),
        t,
        event_fn=floor,
        per_sample=True,
        **steps(method),
    )
    fell = ended(1.0)[0].flatten()
    assert fell.isnan().tolist() == [True, False, False]
    torch.testing.assert_close(fell[1:], tensor(0.875, 3.0), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"lie in \[0, 3.4"):
        ended(5.0)


@pytest.mark.parametrize("method", SOME)
def test_samples_end_at_events_of_their_own(method):
    h = torch.tensor([[0.5], [2.0], [30.0]], dtype=D)
    sol = so.odeint(
        falling(), (h, None), tensor(0.0, 0.5, 1.5, 3.0), event_fn=floor,
        per_sample=True, **steps(method),
    )  # fmt: skip
    assert sol.status == ["event", "event", "done"]
    assert sol.event.tolist() == [0, 0, -1]
    exact = torch.tensor(
        [[0.0, 0.5, 1, 1], [0, 0.5, 1.5, 2], [0, 0.5, 1.5, 3]], dtype=D
    )
    torch.testing.assert_close(sol.t, exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(sol.v[..., 0].mT, -exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", SOME)
def test_directions_records_and_several_events(method):
    spring = so.Newton(lambda t, x: -x)
    start = tensor(0.0), tensor(1.0)  # x = sin t

    def solve(events, **more):
        return so.odeint(
            spring,
            start,
            tensor(0.0, 10.0),
            event_fn=events,
            **steps(method, 0.05),
            **more,
        )

    top = so.Event(lambda t, x, v: v[0], direction=-1, terminal=False)
    sol = solve([top, lambda t, x, v: t - 9.0])
    within = 1e-3 if method == "verlet" else 1e-6
    expected = [(math.pi / 2, 0), (math.pi * 2.5, 0), (9.0, 1)]
    assert sol.events.index.tolist() == [k for _, k in expected]
    assert sol.events.t.tolist() == pytest.approx([t for t, _ in expected], abs=within)
    assert sol.event == 1 and sol.t[-1].item() == pytest.approx(9.0)

    def down(t, x, v):  # as SciPy marks them
        return x[0]

    down.direction, down.terminal = -1, True
    assert solve(down).t[-1].item() == pytest.approx(math.pi, abs=within)
    down.direction = 1
    assert solve(down).t[-1].item() == pytest.approx(2 * math.pi, abs=within)
    # Nothing happens: the state at the end, and a status.
    sol = solve(lambda t, x, v: x[0] - 3.0)
    assert sol.status == "done" and sol.event is None and len(sol.events.t) == 0
    assert sol.x[-1].item() == pytest.approx(math.sin(10.0), abs=10 * within)
    sol = solve([down, lambda t, x, v: v[0]], on_event=[None, lambda t, x, v: (x, v)])
    assert sol.events.index.tolist() == [1, 1, 0]


@pytest.mark.parametrize("method", SOME)
@pytest.mark.parametrize("each", [False, True])
def test_what_happens_at_one_time_happens_together(method, each):
    """A ball meets floor and wall in the corner; a record there stops nothing."""
    gravity = torch.tensor([-1.0, 0.0], dtype=D)
    system = so.Newton(lambda t, x: gravity.expand_as(x))
    x, v = torch.tensor([[0.5, 1.0]], dtype=D), torch.tensor([[0.0, -1.0]], dtype=D)

    def bounce(k):
        sign = torch.ones(2, dtype=D)
        sign[k] = -1
        return lambda t, x, v: (x, sign * v)

    def at(k):
        return lambda t, x, v: x[:, k] if each else x[0, k]

    def solve(*events):
        return so.odeint(
            system, (x, v), tensor(0.0, 1.5), event_fn=list(events), per_sample=each,
            **steps(method, 0.3),
        )  # fmt: skip

    clock = so.Event(lambda t, x, v: t - 1.0, terminal=False)
    both = [so.Event(at(k), direction=-1, on_event=bounce(k)) for k in (0, 1)]
    sol = solve(clock, *both)
    assert sol.events.index.flatten().tolist() == [0, 1, 2]
    torch.testing.assert_close(sol.events.t.flatten(), tensor(1.0, 1.0, 1.0))
    exact = torch.tensor([[0.375, 0.5]], dtype=D)
    torch.testing.assert_close(sol.x[-1], exact, rtol=1e-12, atol=0)
    sol = solve(clock, so.Event(at(1), terminal=False), at(0))
    assert int(sol.event) == 2 and sol.t[..., -1].item() == pytest.approx(1.0)
    assert sol.events.index.flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", SOME)
@pytest.mark.parametrize("r", [0.5, 0.0])
def test_a_ball_at_rest_neither_hangs_nor_falls_through(method, r):
    with pytest.raises(RuntimeError, match="`max_events`"):
        bounce(method, restitution=r, most=None)
    sol = bounce(method, restitution=r, most=None, throw=False)
    assert sol.status == "stuck"
    ends = math.sqrt(2) * (1 + 2 * r / (1 - r))
    # The flights that are left are shorter than the instant that tells signs.
    assert sol.events.t[-1].item() == pytest.approx(ends, abs=1e-4)
    assert sol.x[-1].isnan().all() and not sol.x[0].isnan().any()


@pytest.mark.parametrize("method", [*ADAPTIVE, "coupled_rk4"])
@pytest.mark.parametrize("horizon", [None, 9.0])
def test_methods_solve_until_an_event(method, horizon):
    for route in routes(method):
        for each in (False, True):
            h = torch.tensor([[0.5], [2.0]][: 1 + each], dtype=D, requires_grad=True)
            start = tensor(0.25)[0].requires_grad_()
            t, sol = so.odeint_event(
                falling(), (h, None), start, horizon=horizon, per_sample=each,
                event_fn=floor if each else lambda t, x, v: x[0, 0], gradient=route,
                **steps(method),
            )  # fmt: skip
            fall = (2 * h).sqrt()
            exact = start + (fall[:, 0] if each else fall[0, 0])
            torch.testing.assert_close(t, exact, rtol=1e-12, atol=0)
            torch.testing.assert_close(sol.v[-1], -fall, rtol=1e-12, atol=0)
            found = torch.autograd.grad((t + sol.v[-1].sum()).sum(), [h, start])
            wanted = torch.autograd.grad((exact - fall.sum()).sum(), [h, start])
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_time_runs_backwards_and_velocities_may_be_what_happens():
    for method in SOME:
        sol = so.odeint(
            so.Newton(lambda t, x: -x), (tensor(0.0), tensor(1.0)), tensor(0.0, -9.0),
            event_fn=lambda t, x, v: v[0], **steps(method, 0.01),
        )  # fmt: skip
        assert sol.t[-1].item() == pytest.approx(-math.pi / 2, abs=1e-4)
    t, _ = so.odeint_event(
        so.Newton(lambda t, x: -x), (tensor(0.0), tensor(1.0)), 0.0, reverse_time=True,
        event_fn=lambda t, x, v: v[0], **steps("rkn8"),
    )  # fmt: skip
    assert t.item() == pytest.approx(-math.pi / 2, abs=1e-6)


@pytest.mark.parametrize("each", [False, True])
def test_an_event_that_never_comes_raises(each):
    x = torch.ones(1, 1, dtype=D)
    spring, bang = (lambda t, x: -x), (lambda t, x: 6 * x**2)  # blows up at t = 1
    for force, horizon, text in ((spring, 3.0, "within 3"), (bang, None, "no event")):
        with pytest.raises(RuntimeError, match=text):
            so.odeint_event(
                so.Newton(force), (x, 2 * x), 0.0, horizon=horizon, method="rkn8",
                per_sample=each,
                event_fn=lambda t, x, v: (x[:, 0] if each else x[0, 0]) + 9,
            )  # fmt: skip


# -- Steps of each sample -------------------------------------------------------------


def mixed(omega, per_sample, method="rkn8", tol=1e-6, times=(0.0, 1.0, 2.0), **how):
    w = omega.reshape(-1, 1)
    x = torch.ones_like(w)
    return so.odeint(
        so.Newton(lambda t, x, w: -w * w * x), (x, None), tensor(*times), method=method,
        rtol=tol, atol=tol, per_sample=per_sample, args=(w,), **how,
    )  # fmt: skip


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_fast_sample_is_as_exact_among_slow_ones_as_alone(method):
    omega = torch.cat([tensor(30.0), torch.linspace(0.5, 1.5, 31, dtype=D)])
    with torch.no_grad():
        own, joint = mixed(omega, True, method), mixed(omega, False, method)
        alone = mixed(omega[:1], False, method)
    exact = torch.cos(30.0 * tensor(0.0, 1.0, 2.0))
    errors = [(s.x[:, 0, 0] - exact).abs().max().item() for s in (own, joint, alone)]
    # A joint root mean square over 32 samples is up to √32 looser on one of them.
    assert errors[0] < 2 * errors[2] and errors[0] < errors[1] / 3
    assert own.stats.accepted[0] > 4 * own.stats.accepted[1:].max()
    times = own.stats.times
    assert times.shape == (32, own.stats.accepted.max() + 1)
    assert times[:, 0].max() == 0 and times[:, -1].min() == 2.0
    at = tensor(0.3, 1.7)
    x, v = own(at)
    exact = torch.cos(omega[:, None] * at).mT
    assert (x[..., 0] - exact).abs().max() < 2e-3


@pytest.mark.parametrize("method", ADAPTIVE)
def test_samples_with_steps_of_their_own_have_the_gradients_of_samples_alone(method):
    omega = tensor(1.0, 5.0, 0.3).requires_grad_()
    found = []
    for route in routes(method):
        sol = mixed(omega, True, method, 1e-9, gradient=route)
        found.append(torch.autograd.grad(sol.x[-1].sum(), omega)[0])
        # cos(2ω)' is −2 sin(2ω)
        torch.testing.assert_close(
            found[-1], -2 * torch.sin(2 * omega.detach()), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(found[-1], found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_one_sample_that_fails_does_not_end_the_batch(method):
    omega, x = tensor(1.0, 2.0, 3.0), torch.ones(3, 1, dtype=D)
    x[1] = math.nan
    weight = tensor(1.0).requires_grad_()

    def solve(field, x, v=None, **how):
        return so.odeint(
            so.Newton(field), (x, v), tensor(0.0, 0.5, 2.0), method=method,
            per_sample=True, **how,
        )  # fmt: skip

    spring = lambda t, x: -weight * omega[:, None] ** 2 * x  # noqa: E731
    with pytest.raises(RuntimeError, match=r"1 samples \(the first are \[1\]\)"):
        solve(spring, x)
    sol = solve(spring, x, throw=False)
    assert sol.status == ["done", "failed", "done"]
    assert sol.x[:, 1].isnan().all()
    good = sol.x[-1, [0, 2], 0]
    torch.testing.assert_close(good, torch.cos(2 * omega[[0, 2]]), rtol=0, atol=1e-5)
    (slope,) = torch.autograd.grad(good.sum(), weight)
    exact = -(omega[[0, 2]] * torch.sin(2 * omega[[0, 2]])).sum()
    assert slope.item() == pytest.approx(exact.item(), abs=1e-4)
    # x = 1/(1 − t) ends at t = 1, the other one before 3.
    start = tensor(1.0, 0.25).reshape(2, 1)
    sol = solve(lambda t, x: 2 * x**3, start, start**2, throw=False)
    assert sol.status == ["failed", "done"]
    assert sol.x[1, 0].item() == pytest.approx(2.0, rel=1e-4)
    assert sol.x[2].isnan().flatten().tolist() == [True, False]
    assert sol(1.5)[0].isnan().flatten().tolist() == [True, False]
    sol = mixed(omega, True, method, max_steps=20, throw=False, times=(0.0, 20.0))
    assert "max_steps" in sol.status


def test_samples_may_have_times_of_their_own():
    t = torch.tensor([[0.0, 1.0, 2.0], [1.0, 4.0, 5.0]], dtype=D)
    x = torch.ones(2, 1, dtype=D)
    sol = so.odeint(
        so.Newton(lambda t, x: -x), (x, None), t, method="rkn8", per_sample=True
    )
    torch.testing.assert_close(
        sol.x[..., 0].mT, torch.cos(t - t[:, :1]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (3,), (2, 1, 2)])
def test_batches_of_any_shape(shape):
    x = torch.full(shape, 0.5, dtype=D, requires_grad=True)
    for method in ADAPTIVE:
        sol = so.odeint(
            so.SecondOrder(lambda t, x: -torch.sin(x), 0.5), (x, None), [0.0, 1.0],
            method=method, per_sample=True,
        )  # fmt: skip
        assert sol.x.shape == (2, *shape) and len(sol.status) == shape[0]
        (slope,) = torch.autograd.grad(sol.x[-1].sum(), x)
        assert slope.shape == shape


BALL = {"event_fn": floor}
WRONG = [
    ({"event_fn": 3.0}, TypeError, "`event_fn`"),
    ({"on_event": lambda t, x, v: (x, v)}, ValueError, "need an `event_fn`"),
    ({"max_events": 3}, ValueError, "need an `event_fn`"),
    ({**BALL, "max_events": 0}, ValueError, "`max_events`"),
    (
        {"event_fn": lambda t, x, v: x[0, 0], "on_event": lambda t, x, v: x},
        ValueError,
        "`on_event` must return",
    ),
    ({**BALL, "on_event": [None, None]}, ValueError, "one .* for each of the 1"),
    ({**BALL, "method": "dopri5"}, ValueError, "odeint_event"),
    ({"per_sample": True, "method": "verlet"}, ValueError, "fixed"),
    ({"event_fn": lambda t, x, v: x}, ValueError, r"shape \(\) or \(k,\)"),
]


@pytest.mark.parametrize(("how", "error", "text"), WRONG)
def test_what_cannot_be_right_is_refused(how, error, text):
    how = {"method": "rkn8"} | how
    with pytest.raises(error, match=text):
        so.odeint(falling(), (torch.ones(2, 2, dtype=D), None), tensor(0.0, 9.0), **how)


# -- Breakpoints, and copies that wait ------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("each", [False, True])
def test_a_force_may_jump_on_the_way_to_an_event(method, each):
    """Gravity grows from 1 to 3 at τ: h = t²/2 + (t − τ)² where the ball lands."""
    tau = tensor(0.75).requires_grad_()

    def pull(t, x):
        return -torch.where(t < tau.detach(), 1.0, 3.0) * torch.ones_like(x)

    heights = tensor(0.1, 1.0, 3.0)[:, None] if each else tensor(1.0)[None]
    for route in routes(method):
        sol = so.odeint(
            so.Newton(pull), (heights, None), tensor(0.0, 0.4, 5.0), event_fn=floor,
            per_sample=each, breakpoints=tau, gradient=route, **steps(method, 0.3),
        )  # fmt: skip
        h, s = heights[:, 0], tau
        late = (2 * s + (6 * h - 2 * s * s).clamp(min=0).sqrt()) / 3
        exact = torch.where((2 * h).sqrt() < s, (2 * h).sqrt(), late)
        found = sol.events.t[0]
        torch.testing.assert_close(
            found, exact if each else exact[0], rtol=1e-12, atol=0
        )
        (slope,) = torch.autograd.grad(found.sum(), tau, retain_graph=True)
        (wanted,) = torch.autograd.grad(exact.sum(), tau)
        torch.testing.assert_close(slope, wanted, rtol=1e-9, atol=1e-12)
    if not each:  # both sides of the jump, between the times
        x, v = sol(tensor(0.7, 0.8))
        torch.testing.assert_close(v[:, 0, 0], tensor(-0.7, -0.9), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_force_may_jump_for_samples_with_steps_of_their_own(method):
    omega = tensor(1.0, 3.0)[:, None]

    def field(t, x):
        return torch.where(t < 1.0, 0.0, -1.0) * omega**2 * x

    start = torch.ones(2, 1, dtype=D), torch.ones(2, 1, dtype=D)
    sol = so.odeint(
        so.Newton(field), start, tensor(0.0, 2.0), method=method, rtol=1e-9, atol=1e-9,
        breakpoints=[1.0], per_sample=True,
    )  # fmt: skip
    swing = torch.arange(1, 11, dtype=D)[:, None, None] / 10  # after 1
    exact = 2 * torch.cos(omega * swing) + torch.sin(omega * swing) / omega
    torch.testing.assert_close(sol.x[1], exact[-1], rtol=0, atol=1e-6)
    x, _ = sol(torch.cat([tensor(0.5), 1 + swing.flatten()]))
    torch.testing.assert_close(x[0], torch.full_like(x[0], 1.5), rtol=1e-12, atol=0)
    torch.testing.assert_close(x[1:], exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", so.COUPLED)
def test_copies_that_wait_for_others_stay_as_they_are(method):
    """A sample among others takes the steps that it takes alone."""
    omega = tensor(0.5, 1.3, 7.0)[:, None]
    system = so.Acceleration(lambda t, x, v, w: (1 - x * x) * v - w * w * x)

    def solve(w, route):
        one = torch.ones_like(w)
        return so.odeint(
            system, (2 * one, 0 * one), tensor(0.0, 1.0, 3.0), gradient=route,
            event_fn=floor, on_event=lambda t, x, v: (x, 0.9 * v), per_sample=True,
            args=(w,), **steps(method, 0.05, 1e-6) | first,
        )  # fmt: skip

    # The first step is guessed for the batch as a whole.
    first = {"first_step": 0.01} if method == "coupled_dopri5" else {}
    for route in ROUTES:
        x = solve(omega, route).x
        alone = torch.cat([solve(w, route).x for w in omega.split(1)], 1)
        close = 0.0 if route == "backprop" else 1e-11
        torch.testing.assert_close(x, alone, rtol=close, atol=close)


def test_the_period_of_a_limit_cycle():
    """Van der Pol at μ = 5: 11.6122306677, and how it grows with μ."""
    mu = tensor(5.0).requires_grad_()
    pol = so.Acceleration(lambda t, x, v, mu: mu * (1 - x * x) * v - x)
    rise = so.Event(lambda t, x, v: x[0], direction=1, terminal=False)
    grown = []
    for route in ("backprop", "reversible"):
        sol = so.odeint(
            pol, (tensor(2.0), None), tensor(0.0, 30.0), event_fn=rise, args=(mu,),
            max_events=2, gradient=route, **steps("coupled_dopri5", tol=1e-7),
        )  # fmt: skip
        period = sol.events.t[1] - sol.events.t[0]
        assert period.item() == pytest.approx(11.6122306677, abs=1e-5)
        grown.append(torch.autograd.grad(period, mu)[0].item())
    assert grown[1] == pytest.approx(grown[0], rel=1e-6)


def test_first_order_systems_have_events():
    """ẋ = −x falls below 1/2 after ln 2x, and is sent up again."""
    x0 = torch.tensor([[1.0], [3.0]], dtype=D, requires_grad=True)
    for method in ("coupled_rk4", "coupled_dopri5"):
        for route in ROUTES:
            sol = so.odeint(
                so.FirstOrder(lambda t, x: -x), x0, tensor(0.0, 4.0), per_sample=True,
                event_fn=lambda t, x, v: x[:, 0] + v[:, 0] * 0 - 0.5, gradient=route,
                on_event=lambda t, x, v: (x - v, v), **steps(method, 0.01),
            )  # fmt: skip
            exact = torch.log(2 * x0[:, 0])
            torch.testing.assert_close(sol.events.t[0], exact, rtol=0, atol=1e-9)
            steps_between = sol.events.t[1] - sol.events.t[0]
            torch.testing.assert_close(
                steps_between.detach(), tensor(2.0, 2.0).log(), rtol=0, atol=1e-9
            )
            (slope,) = torch.autograd.grad(sol.events.t[1].sum(), x0)
            torch.testing.assert_close(slope, 1 / x0.detach(), rtol=1e-8, atol=0)
