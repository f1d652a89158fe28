"""Adaptive methods: orders, tolerances, replay of the accepted steps, refusals."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import secondorder as so
from secondorder.methods.adaptive import Pull, derivative
from secondorder.methods.embedded import difference
from secondorder.methods.nystrom import nystrom_step
from secondorder.methods.nystrom_tables import DP6, DP8, DP12, Tableau
from secondorder.methods.step_size import (
    Control,
    factor,
    first_step,
    next_step_length,
    node_times,
    step_through,
)
from secondorder.methods.tolerances import relative_size
from secondorder.plan import Record, compile_plan, reverse, walk
from secondorder.systems.equations import same

DOUBLE = torch.float64
NAMES = list(so.ADAPTIVE)
NYSTROM = [n for n in NAMES if n.startswith("rkn")]
REVERSIBLE = [n for n in NAMES if n not in NYSTROM]


def tensor(*values):
    return torch.tensor(values, dtype=DOUBLE)


def driven_pendulum(t, x):
    return -2 * torch.sin(x) + 0.5 * torch.cos(1.3 * t)


def kepler(t, x):
    return -x / x.square().sum(-1, keepdim=True) ** 1.5


def orbit(eccentricity):
    """Start of a Kepler orbit of period 2π at the perihelion."""
    speed = math.sqrt((1 + eccentricity) / (1 - eccentricity))
    return tensor(1 - eccentricity, 0.0), tensor(0.0, speed)


def network(*widths, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    parts = [part for layer in layers for part in (layer, nn.Tanh())][:-1]
    return so.Autonomous(nn.Sequential(*parts).double())


def gap(one, other):
    """Relative distance of two states or gradients."""
    one, other = (torch.cat([p.reshape(-1) for p in parts]) for parts in (one, other))
    return ((one - other).norm() / other.norm()).item()


def solve(system, start, t, name, tolerance, **how):
    return so.odeint(
        system, start, t, method=name, rtol=tolerance, atol=tolerance, **how
    )


def fixed(name, system, x, v, end, steps, error=False):
    """The end of equal steps of a pair, or its estimate of the last error."""
    core = system.in_modes(x).system
    step = so.ADAPTIVE[name].stepper(core, x, Pull(core.field, ()))
    state, h = (x, v, None), tensor(end)[0] / steps
    for k in range(steps):
        state, estimate = step(k * h, h, state)
    return estimate if error else state[:2]


# -- The pairs ------------------------------------------------------------------------


@pytest.mark.parametrize("table, order", [(DP6, 6), (DP8, 8), (DP12, 12)])
def test_nystrom_numbers_meet_the_order_conditions(table, order):
    c, b = tensor(*table.nodes), tensor(*table.weights)
    for row, node in zip(table.stages, table.nodes[1:], strict=False):
        assert sum(row) == pytest.approx(node**2 / 2, abs=1e-13)
        assert len(row) == table.nodes.index(node) or node == 1 or order == 12
    for k in range(order):
        assert (b * c**k).sum().item() == pytest.approx(1 / (k + 1), abs=1e-13)
    assert abs((b * c**order).sum().item() - 1 / (order + 1)) > 1e-9
    differ = b - tensor(*table.companion)
    for k in range(order - 2):
        assert (differ * c**k).sum().item() == pytest.approx(0, abs=1e-13)
    assert abs((differ * c ** (order - 2)).sum().item()) > 1e-8


@pytest.mark.parametrize("damping", [0.0, 1.0, tensor(2.5, 0.5)])
@pytest.mark.parametrize(
    "name, counts",
    [
        ("adaptive", (48, 96)),
        ("adaptive6", (8, 16)),
        ("rkn6", (24, 48)),
        ("rkn8", (8, 16)),
    ],
)
def test_order_with_and_without_damping(name, counts, damping):
    """Slope over a halving that lies above rounding and below the first terms."""
    system = so.Newton(driven_pendulum, damping=damping)
    start = tensor(1.0, -0.5), tensor(0.0, 0.3)
    true = fixed("rkn12", system, *start, 2.0, 40)
    one, two = (gap(fixed(name, system, *start, 2.0, n), true) for n in counts)
    assert math.log2(one / two) == pytest.approx(so.ADAPTIVE[name].order, rel=0.05)


@pytest.mark.parametrize("damping", [0.0, 0.1, tensor(0.25, 0.05)])
def test_order_12_with_and_without_damping(damping):
    """On an oscillator: elsewhere double precision ends before the slope is clean."""
    system = so.Newton(lambda t, x: -x, damping=damping)
    start = tensor(1.0, -0.5), tensor(0.0, 0.3)
    true = fixed("rkn12", system, *start, 10.0, 200)
    one, two = (gap(fixed("rkn12", system, *start, 10.0, n), true) for n in (5, 10))
    assert math.log2(one / two) == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize("damping", [0.0, 1.0])
@pytest.mark.parametrize("name", ["adaptive", "adaptive6", "rkn6", "rkn8"])
def test_error_estimate_has_the_order_of_the_companion(name, damping):
    system = so.Newton(driven_pendulum, damping=damping)
    start = tensor(1.0, -0.5), tensor(0.0, 0.3)
    sizes = []
    for h in (0.25, 0.125):
        ex, ev = fixed(name, system, *start, h, 1, error=True)[:2]
        sizes.append(torch.cat([ex, ev]).norm().item())
    power = so.ADAPTIVE[name].companion + 1
    assert math.log2(sizes[0] / sizes[1]) == pytest.approx(power, rel=0.05)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_the_companion_of_kicks_flies_like_the_method(name):
    """Kick by kick and flight by flight, with the difference d of the weights alone."""
    method, h, mass, damping = so.ADAPTIVE[name], 0.3, 2.0, tensor(0.0, 5.0)
    torch.manual_seed(0)
    kicks, forces = (
        tensor(*method.weights),
        torch.randn(len(method.weights), 4, 2, dtype=DOUBLE),
    )
    flights = [w for flow, w in method.table.flows if flow == "A"]
    x, v = torch.zeros(2, 4, 2, dtype=DOUBLE)
    for i, f in enumerate(forces):
        if i > 0:
            s, rate = flights[i - 1] * h, damping / mass
            x = x + v * torch.where(rate == 0, s, -torch.expm1(-rate * s) / rate)
            v = v * torch.exp(-rate * s)
        v = v + kicks[i] * h * f / mass
    passed = tensor(0.0, *flights).cumsum(0)
    found = difference(kicks * h, h * (1 - passed), mass, damping, list(forces))
    assert gap(found, (x, v)) < 1e-13


@pytest.mark.parametrize("table", [DP6, DP8, DP12])
def test_the_nystrom_estimate_is_the_distance_to_the_companion(table):
    """Taken as a method of its own, on the same stages."""
    c, b = tensor(*table.nodes), tensor(*table.weights)
    last = ((b * (1 - c))[:-1].tolist(),) if table.shares_last else ()
    other = Tableau(
        table.nodes, (*table.stages, *last), table.companion, table.companion
    )
    core, x = so.SecondOrder(driven_pendulum, tensor(0.3, 2.0)), tensor(1.0, -0.5)
    ends = []
    for numbers in (table, other):
        step = nystrom_step(numbers, core, x, Pull(core.field, ()))
        ends.append(step(tensor(0.2)[0], tensor(0.5)[0], (x, 2 * x, None)))
    ((x1, v1, _), error), ((x2, v2, _), _) = ends
    assert gap(error[:2], (x1 - x2, v1 - v2)) < 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_free_flight_and_constant_force_have_no_error(name):
    for force in (0.0, 1.0):
        system = so.Newton(lambda t, x, w=force: torch.full_like(x, w))
        error = fixed(name, system, tensor(1.0), tensor(2.0), 0.5, 1, error=True)
        assert max(e.abs().max() for e in error) < 1e-15


@pytest.mark.parametrize("name", REVERSIBLE)
def test_strong_damping_cuts_the_steps(name):
    """Or the plan of the accepted steps would be refused."""
    x = tensor(1.0).requires_grad_()
    system, t = so.SecondOrder(lambda t, x: -x, 0.01), tensor(0.0, 1.0)
    sol = solve(system, (x, -x.detach()), t, name, 1.0, gradient="reversible")
    limit = so.ADAPTIVE[name].damping_limit
    assert sol.stats.accepted >= 100 / limit
    assert 0.2 < torch.autograd.grad(sol.x[-1], x)[0].item() < 0.4


def test_the_size_of_an_error_is_its_root_mean_square_in_units_of_tolerance():
    one, zero = torch.ones(5, 20, dtype=DOUBLE), torch.zeros(5, 20, dtype=DOUBLE)
    size = relative_size(0.0, 0.1)
    assert size((one, one), (zero, zero), (zero, zero)) == pytest.approx(10)
    assert size((one, zero), (zero, zero), (zero, zero)) == pytest.approx(50**0.5)
    size = relative_size(0.1, 0.1)
    assert size((one, one), (-9 * one, zero), (zero, 9 * one)) == pytest.approx(1)
    half = relative_size(0.0, 0.1, leave=lambda y: y / 2)
    assert half((one, one), (zero, zero), (zero, zero)) == pytest.approx(5)
    assert size((one[:0], one[:0]), (one[:0], one[:0]), (one[:0], one[:0])) == 0


# -- Accuracy -------------------------------------------------------------------------

# Class D of DETEST (Hull, Enright, Fellen & Sedgwick 1972): x(20) by eccentricity.
ORBITS = {
    0.1: (0.2198835352008, 0.9427076846342),
    0.3: (-0.1777027357140, 0.9467784719906),
    0.5: (-0.5780432953035, 0.8633840009194),
    0.7: (-0.9538990293416, 0.6907409024219),
    0.9: (-1.2952662509876, 0.4003938963792),
}


@pytest.mark.parametrize("eccentricity", ORBITS)
@pytest.mark.parametrize(
    "name, tolerance, within",
    [
        ("adaptive", 1e-5, 2e-3),
        ("adaptive6", 1e-9, 1e-7),
        ("rkn6", 1e-7, 1e-4),
        ("rkn8", 1e-9, 1e-6),
        ("rkn12", 1e-13, 2e-11),
    ],
)
def test_orbits_end_where_detest_says(eccentricity, name, tolerance, within):
    system = so.Newton(kepler)
    x, _ = so.odeint(
        system,
        orbit(eccentricity),
        tensor(0.0, 20.0),
        method=name,
        rtol=tolerance,
        atol=tolerance,
    )
    assert (x[-1] - tensor(*ORBITS[eccentricity])).abs().max() < within


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_error_follows_the_tolerance(name, epsilon):
    system = so.SecondOrder(driven_pendulum, epsilon)
    start, t = (tensor(1.0, -0.5), None), tensor(0.0, 4.0)
    true = solve(system, start, t, "rkn12", 1e-14)
    errors, tolerances = [], [1e-3, 1e-5, 1e-6]
    for tolerance in tolerances:
        sol = solve(system, start, t, name, tolerance)
        errors.append(gap((sol.x[-1], sol.v[-1]), (true.x[-1], true.v[-1])))
        assert errors[-1] < 10 * tolerance
    slope = math.log(errors[0] / errors[-1]) / math.log(1e3)
    assert 0.7 < slope < 1.6


# -- Replay ---------------------------------------------------------------------------


def problem():
    """A learned field with everything else to differentiate, too."""
    field = network(3, 8, 3)
    epsilon = nn.Parameter(tensor(0.3, 1.0, 2.0))
    torch.manual_seed(1)
    x, v = (torch.randn(2, 3, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    drive = tensor(0.2).requires_grad_()
    module = Scaled(field)
    t = tensor(0.0, 0.7, 2.0).requires_grad_()
    wanted = [x, v, t, drive, epsilon, *module.parameters()]
    return so.SecondOrder(module, epsilon), (x, v), t, (drive,), wanted


class Scaled(nn.Module):
    """A field with a further argument, that counts its calls."""

    def __init__(self, field):
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t, x, drive):
        self.calls += 1
        return self.field(t, x) + drive * torch.cos(2 * t)


def gradients(sol, wanted):
    weights = torch.arange(1.0, 4.0, dtype=DOUBLE)
    loss = (sol.x**2).sum() + (weights * torch.sin(sol.v)).sum()
    return torch.autograd.grad(loss, wanted)


@pytest.mark.parametrize(
    "name, gradient",
    [
        *((name, "reversible") for name in REVERSIBLE),
        *((name, "checkpoint") for name in NAMES),
    ],
)
def test_every_route_differentiates_the_same_accepted_steps(name, gradient):
    system, start, t, args, wanted = problem()
    how = {"args": args, "rtol": 1e-4, "atol": 1e-6, "method": name}
    plain = so.odeint(system, start, t, **how)
    other = so.odeint(system, start, t, gradient=gradient, **how)
    assert plain.stats.accepted == other.stats.accepted > 3
    assert gap(other, plain) < 1e-11
    pairs = zip(gradients(other, wanted), gradients(plain, wanted), strict=True)
    assert all(gap((one,), (two,)) < 1e-9 for one, two in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_differential_equation(name):
    """Against the closed form of ε ẍ + ẋ = −k x with ε = 1, k = 1/4: x = 2 e^{−t/2}."""
    k = tensor(0.25).requires_grad_()
    x = tensor(1.0).requires_grad_()
    v = tensor(-0.5).requires_grad_()
    t = tensor(0.0, 3.0).requires_grad_()
    system = so.SecondOrder(lambda t, x, k: -k * x)
    sol = solve(system, (x, v), t, name, 1e-9, args=(k,))
    end = math.exp(-1.5)
    # x = (x0 + (v0 + x0/2) t) e^{−t/2} at the double root, so x(t) = e^{−t/2} here.
    assert sol.x[-1].item() == pytest.approx(end, abs=1e-8)
    dx, dv, dt = torch.autograd.grad(sol.x[-1], (x, v, t), retain_graph=True)
    assert dx.item() == pytest.approx(2.5 * end, abs=1e-7)
    assert dv.item() == pytest.approx(3.0 * end, abs=1e-7)
    assert dt.tolist() == pytest.approx([0.5 * end, -0.5 * end], abs=1e-7)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_accepted_steps_run_back_to_the_start(name):
    """The inverse of the recorded plan, in floating point and on the grid."""
    torch.manual_seed(0)
    x, v = torch.randn(2, 4, 8, dtype=DOUBLE)
    system = so.SecondOrder(network(8, 16, 8), 1.0)
    core = system.in_modes(x).system
    pull = Pull(core.field, ())
    method, t = so.ADAPTIVE[name], tensor(0.0, 1.0, 4.0)
    control = method.controller(core, relative_size(1e-6, 1e-8, same))
    step = method.stepper(core, x, pull)
    with torch.no_grad():
        path = step_through(
            step, control, (x, v, None), partial(derivative, core, pull), t
        )
        fine = node_times(t, path.nodes)
        plan = compile_plan(method.table, core, fine, [1] * (len(fine) - 1), x)
        records, (x1, v1, _) = walk(plan, core.field, x, v)
        marks = [k for k, (_, part) in enumerate(path.nodes) if part == 0][1:]
        for k, state in zip(marks, path.states[1:], strict=True):
            assert gap(records[k - 1], state) < 1e-13
        back = tuple(move for move in plan if not isinstance(move, Record))
        _, (x0, v0, _) = walk(reverse(back), core.field, x1, v1)
    assert gap((x0, v0), (x, v)) < 1e-12


OFFERED = [(n, g) for n in NAMES for g in ("backprop", "checkpoint")]


@pytest.mark.parametrize(
    "name, gradient", [*OFFERED, *((name, "reversible") for name in REVERSIBLE)]
)
def test_evaluations_are_counted_with_the_replay(name, gradient):
    system, start, t, args, _ = problem()
    how = {"method": name, "gradient": gradient, "args": args, "rtol": 1e-4}
    stats = so.odeint(system, start, t, **how).stats
    assert stats.evaluations == system.field.calls
    system.field.calls = 0
    with torch.no_grad():
        alone = so.odeint(system, start, t, **how).stats
    assert alone.evaluations == system.field.calls
    per_step, steps = so.ADAPTIVE[name].evaluations_per_step, stats.accepted
    assert alone.rejected == 0
    assert alone.evaluations <= per_step * steps + 2
    assert stats.evaluations < 2 * per_step * steps + 2 + math.sqrt(steps) + 1


def test_nothing_is_replayed_where_nothing_is_differentiated():
    sol = solve(
        so.SecondOrder(driven_pendulum),
        (tensor(1.0), None),
        tensor(0.0, 2.0),
        "adaptive",
        1e-5,
        gradient="reversible",
    )
    assert sol.stats.evaluations == 6 * sol.stats.accepted + 2
    assert not sol.x.requires_grad


def test_a_learned_closure_is_differentiated_or_refused_but_not_lost():
    weight = tensor(1.5).requires_grad_()
    system = so.SecondOrder(lambda t, x: -weight * x)
    start, t = (tensor(1.0), None), tensor(0.0, 1.0)
    sol = solve(system, start, t, "adaptive", 1e-6)
    assert torch.autograd.grad(sol.x[-1], weight)[0] != 0
    with pytest.raises(ValueError, match="closure"):
        solve(system, start, t, "adaptive", 1e-6, gradient="reversible")


# -- The controller -------------------------------------------------------------------


def stub(size, power=4):
    """A step whose error is (h/size)^power, and the steps it was asked for."""
    asked = []

    def step(t, h, state):
        x, v, _ = state
        asked.append((t.item(), h.item()))
        return (x + h, v, None), (torch.full_like(x, abs(h.item() / size) ** power), v)

    return step, asked


def run(step, t, power=4, largest=math.inf, max_steps=1000):
    def size(error, before, after):
        return error[0].item()

    control = Control(power, size, largest, max_steps, lambda x: f"x = {x.item():g}")
    zero = tensor(0.0)
    slopes = lambda time, state, first=None: (zero + 1, zero)  # noqa: E731
    return step_through(step, control, (zero, zero, None), slopes, t)


def test_steps_settle_where_the_error_is_tolerated():
    step, asked = stub(size=0.1)
    path = run(step, tensor(0.0, 10.0))
    assert path.rejected == 0
    settled = [h for _, h in asked[20:-1]]
    assert min(settled) > 0.06 and max(settled) < 0.1
    assert len(asked) == path.accepted < 160


def test_steps_land_on_the_times_and_keep_their_length_between():
    step, asked = stub(size=0.5)
    t = tensor(0.0, 5.0, 5.001, 5.002, 10.0)
    path = run(step, t)
    ends = [time + h for time, h in asked]
    assert all(min(abs(end - time) for end in ends) == 0 for time in t[1:].tolist())
    after = next(h for time, h in asked if time == 5.002)
    assert after > 0.3  # not 0.001, nor five times that
    assert torch.equal(node_times(t, path.nodes)[-1], t[-1])
    x = torch.stack([x for x, _ in path.states]).squeeze(-1)
    assert torch.allclose(x, t, atol=1e-14)


def test_the_last_step_of_an_interval_is_no_crumb():
    assert next_step_length(1.0, 5.0) == 1.0
    assert next_step_length(1.0, 1.5) == 0.75
    assert next_step_length(1.0, 1.0 + 1e-12) == 1.0 + 1e-12
    assert next_step_length(1.0, 0.2) == 0.2


def test_steps_do_not_exceed_the_damping_limit():
    step, asked = stub(size=100.0)
    run(step, tensor(0.0, 10.0), largest=0.3)
    assert max(h for _, h in asked) == pytest.approx(0.3)


def test_factor_is_cautious():
    assert factor(0.0, 1.0, 4) == factor(1e-30, 1.0, 4) == 5.0
    assert factor(math.nan, 1.0, 4) == factor(math.inf, 1.0, 4) == 0.2
    assert factor(1e30, 1.0, 4) == 0.2
    assert factor(16.0, 1.0, 4) == pytest.approx(0.45)
    assert factor(1.0, 1.0, 4) == pytest.approx(0.9)


def test_first_step_is_small_where_the_slopes_are_large():
    control = Control(5, relative_size(1e-6, 1e-6), math.inf, 10, str)
    clock, zero = [0.0, 10.0], tensor(0.0)

    def length(rate):
        slopes = lambda time, state, first=None: tuple(rate * y for y in state)  # noqa: E731
        return first_step(control, slopes, (tensor(1.0), tensor(1.0), zero), clock)

    assert length(100.0) < length(1.0) / 5 < 0.01
    assert 0 < length(0.0) <= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_pulse_is_found_by_rejecting_steps(name):
    system = so.SecondOrder(lambda t, x: -x + 50 * torch.exp(-(((t - 5) / 0.1) ** 2)))
    start, t = (tensor(1.0), None), tensor(0.0, 8.0)
    sol = solve(system, start, t, name, 1e-6)
    assert sol.stats.rejected > 0
    fine = so.odeint(system, start, t, method="blanes_moan6", step_size=0.02)
    assert gap(sol, fine) < 1e-4


def test_a_step_into_the_undefined_is_taken_back():
    """√ of a negative number is NaN: the step is shortened, not propagated."""
    system = so.SecondOrder(lambda t, x: 10 - 10 / torch.sqrt(1 - x), 0.5)
    for name in NAMES:
        sol = solve(system, (tensor(0.9), tensor(0.0)), tensor(0.0, 3.0), name, 1e-4)
        assert bool(sol.x.isfinite().all())


# -- States, dtypes, directions -------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_time_runs_backwards(name):
    system = so.SecondOrder(driven_pendulum, 2.0)
    t = tensor(0.0, 1.0, 1.5, 3.0)
    start = (tensor(1.0, -0.5), tensor(0.2, 0.0))
    there = solve(system, start, t, name, 1e-9)
    back = solve(system, (there.x[-1], there.v[-1]), t.flip(0), name, 1e-9)
    assert gap((back.x.flip(0), back.v.flip(0)), there) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_float32_keeps_its_dtype_and_its_accuracy(name):
    epsilon = torch.tensor([0.5, 1.0], dtype=DOUBLE)  # must not widen the state
    seen = set()

    def field(t, x):
        seen.update((t.dtype, x.dtype))
        return driven_pendulum(t, x)

    t = torch.linspace(0, 3, 4)
    x = torch.tensor([1.0, -0.5])
    sol = so.odeint(so.SecondOrder(field, epsilon), (x, None), t, method=name)
    assert sol.x.dtype == sol.v.dtype == torch.float32 and seen == {torch.float32}
    system = so.SecondOrder(driven_pendulum, epsilon)
    fine = solve(system, (x.double(), None), t.double(), "rkn8", 1e-12)
    assert gap([y.double() for y in sol], fine) < 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1, 2), (0, 2), (3, 1, 2)])
def test_states_of_any_shape(name, shape):
    x = torch.linspace(0.5, 1, max(1, math.prod(shape)), dtype=DOUBLE)
    x = x[: math.prod(shape)].reshape(shape).requires_grad_()
    t = tensor(0.0, 0.5, 1.0)
    sol = solve(so.SecondOrder(driven_pendulum), (x, None), t, name, 1e-8)
    assert sol.x.shape == sol.v.shape == (3, *shape)
    single = solve(so.SecondOrder(driven_pendulum), (tensor(0.5), None), t, name, 1e-8)
    if x.numel():
        one = sol.x[-1].flatten()[0].item()
        assert one == pytest.approx(single.x[-1].item(), abs=1e-7)
    (slope,) = torch.autograd.grad(sol.x[-1].sum(), x)
    assert slope.shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_one_time_returns_the_state(name):
    system, start = so.SecondOrder(driven_pendulum), (tensor(1.0), None)
    sol = solve(system, start, tensor(2.0), name, 1e-6)
    assert sol.x.tolist() == [[1.0]] and sol.stats.accepted == 0


@pytest.mark.parametrize("name", NAMES)
def test_damping_per_coordinate_is_each_coordinate_alone(name):
    epsilon, t = tensor(0.05, 1.0, 20.0), tensor(0.0, 0.5, 1.0)
    start = tensor(1.0, 1.0, 1.0), tensor(0.5, 0.5, 0.5)
    sol = solve(so.SecondOrder(driven_pendulum, epsilon), start, t, name, 1e-7)
    for i, one in enumerate(epsilon.tolist()):
        system = so.SecondOrder(driven_pendulum, one)
        alone = solve(system, [y[i : i + 1] for y in start], t, name, 1e-7)
        assert gap((sol.x[:, i], sol.v[:, i]), alone) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_matrices_of_mass_and_damping(name):
    mass = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=DOUBLE)
    damping = torch.tensor([[0.6, -0.2], [-0.2, 0.4]], dtype=DOUBLE)
    system = so.Newton(lambda t, x: -torch.sin(x) + torch.cos(t), mass, damping)
    start, t = (tensor(1.0, -1.0), tensor(0.0, 0.5)), tensor(0.0, 1.0, 2.0)
    sol = solve(system, start, t, name, 1e-9)
    other = so.odeint(system, start, t, method="dopri8", rtol=1e-11, atol=1e-12)
    assert gap(sol, other) < 1e-7
    assert torch.equal(sol.x[0], start[0])


@pytest.mark.parametrize("name", NAMES)
def test_between_the_times_as_accurate_as_at_them(name):
    system = so.SecondOrder(driven_pendulum, 0.2)
    start = (tensor(1.0, -0.5), None)
    sol = solve(system, start, tensor(0.0, 1.0, 4.0), name, 1e-7)
    t = torch.linspace(0, 4, 9, dtype=DOUBLE)
    fine = solve(system, start, t, "rkn12", 1e-13)
    x, v = sol(t.reshape(3, 3))
    assert x.shape == (3, 3, 2)
    assert gap((x.reshape(9, 2), v.reshape(9, 2)), fine) < 1e-6
    assert torch.equal(x[0, 0], sol.x[0]) and torch.equal(x[2, 2], sol.x[2])
    time = tensor(2.3).requires_grad_()
    x, v = sol(time)
    (slope,) = torch.autograd.grad(x[0, 0], time)
    assert slope.item() == pytest.approx(v[0, 0].item(), rel=1e-5)


def test_a_potential_needs_no_recording():
    force = so.Potential(lambda x: (1 - torch.cos(x)).sum(-1))
    for name in NAMES:
        with torch.no_grad():
            sol = solve(
                so.Newton(force), (tensor(0.1), None), tensor(0.0, 1.0), name, 1e-8
            )
        assert sol.x[-1].item() == pytest.approx(0.1 * math.cos(1.0), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_takes_adaptive_methods(name):
    model = so.SecondOrderODE(network(2, 8, 2), epsilon=0.5, method=name)
    x = torch.ones(3, 2, dtype=DOUBLE)
    fixed_steps = so.SecondOrderODE(
        model.field, epsilon=0.5, method="blanes_moan6", steps=20
    )
    assert gap((model(x),), (fixed_steps(x),)) < 1e-6
    assert model.trajectory(x).x.shape == (11, 3, 2)


# -- Refusals -------------------------------------------------------------------------

REFUSALS = {
    "step_size": ({"step_size": 0.1}, "`step_size` is for fixed-step methods"),
    "adjoint": ({"gradient": "adjoint"}, 'gradient` "adjoint" belongs to torchdiffeq'),
    "rtol": ({"rtol": -1.0}, "`rtol` must be positive"),
    "atol": ({"atol": 0.0}, "`atol` must be positive"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_right_is_refused(name, case):
    how, message = REFUSALS[case]
    system, start = so.SecondOrder(driven_pendulum), (tensor(1.0), None)
    with pytest.raises(ValueError, match=message):
        so.odeint(system, start, tensor(0.0, 1.0), method=name, **how)


@pytest.mark.parametrize("name", NAMES)
def test_other_systems_and_grids_are_refused(name):
    start = (torch.ones(2, 1, dtype=DOUBLE), None)
    general = so.Acceleration(lambda t, x, v: -v * x)
    with pytest.raises(ValueError, match="velocity_doubling4"):
        solve(general, start, tensor(0.0, 1.0), name, 1e-6)
    each = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=DOUBLE)
    with pytest.raises(ValueError, match="same steps for all samples"):
        solve(so.SecondOrder(driven_pendulum), start, each, name, 1e-6)


@pytest.mark.parametrize("name", NYSTROM)
def test_steps_that_cannot_be_undone_say_so(name):
    with pytest.raises(ValueError, match='cannot be undone.*method="adaptive"'):
        solve(
            so.SecondOrder(driven_pendulum),
            (tensor(1.0), None),
            tensor(0.0, 1.0),
            name,
            1e-6,
            gradient=partial(so.reversible, keep=2),
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_singularity_is_named(name):
    """x = 1/(1 − t) ends at t = 1."""
    system = so.Newton(lambda t, x: 2 * x**3)
    with pytest.raises(RuntimeError, match=r"fell to .* t = 1(.0000.)? .*split `t`"):
        solve(system, (tensor(1.0), tensor(1.0)), tensor(0.0, 2.0), name, 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_is_never_finite_is_named(name):
    system = so.SecondOrder(lambda t, x: x / 0)
    with pytest.raises(RuntimeError, match="t = 0 with .*not finite"):
        solve(system, (tensor(1.0), None), tensor(0.0, 2.0), name, 1e-3)
    with pytest.raises(FloatingPointError, match="not finite"):
        solve(
            system, (tensor(1.0), None), tensor(0.0, 2.0), name, 1e-3, check_finite=True
        )


@pytest.mark.parametrize("name", NAMES)
def test_steps_run_out(name):
    few = replace(so.ADAPTIVE[name], max_steps=3)
    start, t = (tensor(1.0), None), tensor(0.0, 100.0)
    with pytest.raises(RuntimeError, match="`max_steps` = 3 steps: reached .*of 100"):
        so.odeint(so.SecondOrder(driven_pendulum), start, t, method=few)
    with pytest.raises(RuntimeError, match=r"reached t = 0 .*1/ε = 1e\+09.*chin4"):
        solve(so.SecondOrder(driven_pendulum, 1e-9), start, t, name, 1e-3)
