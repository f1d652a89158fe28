"""Step control: breakpoints and jumps, limits of steps, tolerances, norms."""

import math

import pytest
import torch

import secondorder as so

D = torch.float64
NAMES = list(so.ADAPTIVE)
ROUTES = ("backprop", "checkpoint", "reversible")
PIECES = (2.0, math.pi)


def tensor(*values):
    return torch.tensor(values, dtype=D)


def jumping(t, x):
    """A spring whose rest jumps; the right side holds at each jump."""
    rest = torch.where(t < 2.0, 1.0, torch.where(t < math.pi, -3.0, 2.0))
    return rest.to(x) - x


def exactly(t, x=1.0, v=0.0):
    """The state at one time: arcs of circles around the rests."""
    now = 0.0
    for rest, end in ((1.0, 2.0), (-3.0, math.pi), (2.0, math.inf)):
        s = min(t, end) - now
        y = x - rest
        x = rest + y * math.cos(s) + v * math.sin(s)
        v = v * math.cos(s) - y * math.sin(s)
        now += s
    return x, v


def swing(name, field=jumping, times=(0.0, 1.0, 2.0, 5.0), tol=1e-8, x=1.5, **how):
    start = tensor(x) if isinstance(x, float) else x
    how = {"rtol": tol, "atol": tol} | how
    return so.odeint(
        so.Newton(field), (start, None), tensor(*times), method=name, **how
    )


@pytest.mark.parametrize("name", [*NAMES, "dopri5", "rk4", "midpoint"])
def test_steps_end_at_breakpoints_and_see_their_own_side(name):
    fixed = {"step_size": 0.02, "rtol": None, "atol": None}
    how = fixed if name in ("rk4", "midpoint") else {}
    sol = swing(name, breakpoints=PIECES, **how)
    within = 1e-3 if name == "midpoint" else 1e-6
    assert sol.x.shape == (4, 1)
    assert sol.x[-1].item() == pytest.approx(exactly(5.0, 1.5)[0], abs=within)
    between = sol(tensor(1.5, math.pi, 4.0))[0]
    for x, t in zip(between, (1.5, math.pi, 4.0), strict=True):
        assert x.item() == pytest.approx(exactly(t, 1.5)[0], abs=within)
    if how:
        return
    # A breakpoint is not searched for: few steps are thrown away, if any.
    plain = swing(name)
    assert sol.stats.rejected < plain.stats.rejected
    assert sol.stats.evaluations < plain.stats.evaluations
    back = so.odeint(
        so.Newton(jumping), (sol.x[-1], sol.v[-1]), tensor(5.0, 1.0, 0.0), method=name,
        breakpoints=PIECES, rtol=1e-8, atol=1e-8,
    )  # fmt: skip
    assert back.x[-1].item() == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_route_differentiates_through_breakpoints(name):
    for route in ROUTES:
        if route not in so.ADAPTIVE[name].gradients:
            continue
        x = tensor(1.5).requires_grad_()
        sol = swing(name, x=x, breakpoints=PIECES, gradient=route)
        (slope,) = torch.autograd.grad(sol.x[-1].sum(), x)
        assert slope.item() == pytest.approx(math.cos(5.0), abs=1e-4)


def test_a_breakpoint_may_be_learned():
    """dx(T)/db of a force that jumps by J at b is −J sin(T − b)."""
    at = tensor(2.0).requires_grad_()
    field = lambda t, x: -x + 4.0 * (t >= 2.0).to(x)  # noqa: E731
    for name in NAMES:
        sol = swing(name, field, (0.0, 5.0), breakpoints=at)
        (slope,) = torch.autograd.grad(sol.x[-1].sum(), at)
        assert slope.item() == pytest.approx(-4 * math.sin(3.0), abs=1e-6)


@pytest.mark.parametrize("tol", [1e-6, 1e-9])
@pytest.mark.parametrize("jump", [3.0, 1e3])
@pytest.mark.parametrize("name", NAMES)
def test_a_jump_that_nobody_told_of_costs_a_few_hundred_evaluations(name, jump, tol):
    at = math.pi / 2
    whole = swing(name, lambda t, x: -x + jump * (t > at), (0.0, 6.0), tol)
    first = swing(name, lambda t, x: -x, (0.0, at), tol)
    second = so.odeint(
        so.Newton(lambda t, x: -x + jump), (first.x[-1], first.v[-1]), tensor(at, 6.0),
        method=name, rtol=tol, atol=tol,
    )  # fmt: skip
    cost = whole.stats.evaluations - first.stats.evaluations - second.stats.evaluations
    # log2 of 0.1 over the length that is tolerated, 1e-11, are 33 bisections.
    assert cost < 50 * so.ADAPTIVE[name].evaluations_per_step
    assert (whole.x[-1] - second.x[-1]).abs() < 100 * tol * jump


@pytest.mark.parametrize("name", [*NAMES, "dopri5"])
def test_the_lengths_of_steps_are_told_and_kept_to(name):
    field = lambda t, x: -x  # noqa: E731
    free = swing(name, field, (0.0, 1.0, 3.0), 1e-4)
    times = free.stats.times
    assert len(times) == free.stats.accepted + 1
    assert times[0] == 0 and (times.diff() > 0).all()
    if name in NAMES:
        assert times[-1] == 3.0 and (times == 1.0).any()
    short = swing(name, field, (0.0, 3.0), 1e-4, max_step=0.01, first_step=0.004)
    steps = short.stats.times.diff()
    assert steps[0] == pytest.approx(0.004) and steps.max() < 0.01 * (1 + 1e-9)
    with pytest.raises(RuntimeError, match="max_(num_)?steps"):
        swing(name, field, (0.0, 3.0), 1e-4, max_step=0.01, max_steps=20)


@pytest.mark.parametrize("name", [*NAMES, "dopri5"])
def test_entries_may_have_tolerances_of_their_own(name):
    """Two oscillators of which only one is wanted: as many steps as it needs."""
    w = tensor(1.0, 7.0)
    field = lambda t, x: -w * w * x  # noqa: E731
    x, loose = torch.ones(2, dtype=D), tensor(1e-10, 1e9)

    def steps(atol):
        return swing(name, field, (0.0, 3.0), x=x, rtol=1e-12, atol=atol).stats.accepted

    assert steps(tensor(1e-7, 1e9)) < 0.5 * steps(1e-7)
    assert steps((1e-7, 1e9)) <= steps(1e-7)  # v may err
    assert steps(loose) > steps(tensor(1e-7, 1e9))


@pytest.mark.parametrize("name", NAMES)
def test_the_norm_of_an_error_can_be_chosen(name):
    x = torch.zeros(100, dtype=D)
    x[0] = 1.0
    field = lambda t, x: -x  # noqa: E731

    def error(norm):
        sol = swing(name, field, (0.0, 3.0), 1e-6, x=x, norm=norm)
        return abs(sol.x[-1, 0].item() - math.cos(3.0)), sol.stats

    mean, largest = error("rms")[0], error("max")[0]
    assert largest < mean  # 99 entries at rest hide one that moves from the mean
    assert error(None)[1] == error("rms")[1]
    assert error(lambda e: e.abs().max())[1] == error("max")[1]


def test_the_adjoint_has_settings_of_its_own():
    x = tensor(1.0).requires_grad_()
    count = 0

    def field(t, x):
        nonlocal count
        count += 1
        return -x

    def cost(**how):
        nonlocal count
        x.grad = None
        sol = swing("dopri5", field, (0.0, 3.0), x=x, gradient=so.adjoint(**how))
        count = 0
        sol.x[-1].sum().backward()
        return count, abs(x.grad.item() - math.cos(3.0))

    (tight, small), (loose, large) = cost(), cost(rtol=1e-3, atol=1e-3)
    assert loose < tight / 2 and small < 1e-6 and large < 1e-2
    assert cost(method="rk4")[0] != tight
    weight = torch.nn.Parameter(tensor(1.0))
    assert cost(seminorm=True, params=[weight])[1] < 1e-6
    with pytest.raises(TypeError, match="`steps` is no option"):
        so.adjoint(steps=3)
    with pytest.raises(ValueError, match="`rtol`"):
        so.adjoint(rtol=-1.0)


WRONG = [
    ({"first_step": -1.0}, ValueError, "`first_step`"),
    ({"max_step": 0.0}, ValueError, "`max_step`"),
    ({"max_steps": 0}, ValueError, "`max_steps`"),
    ({"norm": "l2"}, ValueError, "`norm`"),
    ({"rtol": torch.ones(5)}, ValueError, "`rtol` of shape"),
    ({"atol": (1e-3, 1e-3, 1e-3)}, ValueError, "`atol`"),
    ({"atol": tensor(1.0, -1.0)}, ValueError, "`atol` must be positive"),
    ({"breakpoints": [float("nan")]}, ValueError, "`breakpoints`"),
]


@pytest.mark.parametrize(("how", "error", "text"), WRONG)
def test_what_cannot_be_right_is_refused(how, error, text):
    with pytest.raises(error, match=text):
        swing("adaptive", **how)


@pytest.mark.parametrize("name", ["verlet", "rk4", "scipy_RK45"])
def test_what_a_method_does_not_know_is_refused(name):
    free = {"rtol": None, "atol": None}
    with torch.no_grad(), pytest.raises(ValueError, match="`first_step` has no effect"):
        swing(name, first_step=0.1, **free)
