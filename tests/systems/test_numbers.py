"""Numbers of a system: learned within their range, fresh, and of the right dtype."""

import copy
import io

import pytest
import torch
import torchdiffeq
from torch import nn

import secondorder as so

F64 = torch.float64
T = torch.tensor([0.0, 0.5, 1.0], dtype=F64)


def field(t, x, *args):
    return -torch.sin(x)


def drag(t, x, v, *args):
    return -torch.sin(x) - 0.1 * v


def solve(system, **how):
    how = {"step_size": 0.05} | how
    x = torch.tensor([1.0, -0.5], dtype=F64)
    if system.takes_velocity:
        how["method"] = "velocity_doubling"
    return so.odeint(system, (x, None), T, **how).x[-1]


SYSTEMS = {
    "epsilon": lambda n: so.SecondOrder(field, n),
    "mass": lambda n: so.Newton(field, mass=n),
    "damping": lambda n: so.Newton(field, damping=n),
    "drag": lambda n: so.Acceleration(drag, damping=n),
}


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("gradient", ["backprop", "reversible", "checkpoint"])
def test_a_positive_number_is_read_learned_and_saved_as_any_other(name, gradient):
    make = SYSTEMS[name]
    number = so.Positive(torch.tensor([0.7, 2.0], dtype=F64))
    system, plain = make(number), make(torch.tensor([0.7, 2.0], dtype=F64))
    how = {"gradient": gradient}
    found, expected = solve(system, **how), solve(plain, **how)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    # d/d log a = a d/da
    learned = nn.Parameter(torch.tensor([0.7, 2.0], dtype=F64))
    (slope,) = torch.autograd.grad(found.sum(), number.log)
    (wanted,) = torch.autograd.grad(solve(make(learned), **how).sum(), learned)
    torch.testing.assert_close(slope, learned * wanted, rtol=1e-9, atol=1e-12)
    other = copy.deepcopy(system)
    assert torch.equal(solve(other), solve(system))
    file = io.BytesIO()
    torch.save(system.state_dict(), file)
    file.seek(0)
    fresh = make(so.Positive(torch.ones(2, dtype=F64)))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(solve(fresh), solve(system))
    for route in ("dopri5", "rk4"):
        if name != "drag":
            close = so.odeint(system, (torch.ones(2, dtype=F64), None), T, method=route)
            assert close.x.requires_grad


@pytest.mark.parametrize("value", [1e-8, 0.3, 1.0, 1e8])
def test_positive_numbers_of_any_size_keep_their_digits(value):
    assert float(so.Positive(value)) == pytest.approx(value, rel=2e-6)
    exact = so.Positive(torch.tensor(value, dtype=F64))
    assert float(exact) == pytest.approx(value, rel=1e-14)
    assert float(so.Positive(value, zero=True)) == pytest.approx(value, rel=1e-6)
    assert repr(so.Positive(0.25)) == "Positive(0.25)"


@pytest.mark.parametrize("name", SYSTEMS)
def test_training_that_wants_a_negative_number_does_not_get_one(name):
    # The loss pulls the number below 0 as hard as it can.
    zero = name in ("damping", "drag")
    number = so.Positive(0.05, zero=zero)
    system = SYSTEMS[name](number)
    optimiser = torch.optim.SGD(system.parameters(), lr=0.5 if zero else 10.0)
    for _ in range(20):
        optimiser.zero_grad()
        number().sum().backward()
        optimiser.step()
        assert float(number) >= 0
    if zero:
        assert solve(system).isfinite().all()


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("method", ["ours", "dopri5"])
def test_a_number_out_of_range_names_the_one_that_stays(name, method):
    value = nn.Parameter(torch.tensor(0.1))
    system = SYSTEMS[name](value)
    with torch.no_grad():
        value.fill_(-0.1)
    argument = "damping" if name == "drag" else name
    how = {} if method == "ours" else {"method": method, "step_size": None}
    if name == "drag" and method != "ours":
        with pytest.raises(ValueError, match=r"so\.Positive"):
            so.odeint(system, (torch.ones(2), None), T, method=method)
        return
    with pytest.raises(ValueError, match=rf"`{argument}` must.*so\.Positive\("):
        solve(system, **how)


def test_what_is_no_positive_number_is_refused():
    for bad in (0.0, -1.0, float("nan"), torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="`value`"):
            so.Positive(bad)
    with pytest.raises(ValueError, match="learned beside a matrix"):
        so.Newton(field, torch.eye(2), so.Positive(0.1))


COMPUTED = {
    "exp": lambda raw: raw.exp(),  # its graph is freed by the first backward pass
    "twice": lambda raw: 2 * raw,  # nothing is freed, but its value is old
    "softplus": torch.nn.functional.softplus,
}


@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.parametrize("name", [*SYSTEMS, "gamma", "t1", "velocity", "net", "ode"])
@pytest.mark.parametrize("trained", [True, False])
def test_a_number_computed_beforehand_is_used_once(name, how, trained):
    raw = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def build():
        number = COMPUTED[how](raw)
        if name in SYSTEMS:
            system = SYSTEMS[name](number)
            return lambda: solve(system).sum()
        if name == "net":
            net = so.MomentumNet([torch.sin], gamma=number / 4)
            return lambda: net(torch.ones(2, dtype=F64)).sum()
        if name == "ode":
            model = so.SecondOrderODE(field, epsilon=number)
        else:
            model = so.SecondOrderODE(
                field, **{name: number / 4 if name == "gamma" else number}
            )
        return lambda: model(torch.ones(2, dtype=F64)).sum()

    loss = build()
    first = loss()
    first.backward()
    slope = raw.grad.clone()
    if trained:
        with torch.no_grad():
            raw.sub_(0.05)
    argument = {"drag": "damping", "net": "gamma", "ode": "epsilon"}.get(name, name)
    if trained or how != "twice":
        with pytest.raises(ValueError, match=f"`{argument}` was computed once"):
            loss()
    # Built in every step, it is right.
    raw.grad = None
    again = build()()
    again.backward()
    if not trained:
        assert torch.equal(raw.grad, slope)
        assert torch.equal(again, first)
    else:
        assert not torch.equal(again, first)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_first_order_forms_keep_the_dtype_of_the_state(dtype):
    x, v = torch.ones(2, 3).to(dtype), torch.zeros(2, 3).to(dtype)
    spread = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    matrix = torch.diag(spread)
    for system in (
        so.Newton(field, matrix, 0.1 * matrix),
        so.Newton(field, matrix.float()),
        so.Newton(field, damping=matrix),
        so.Newton(field, spread, spread),
        so.SecondOrder(field, spread),
        so.Acceleration(lambda t, x, v: -x, spread),
    ):
        first, second = system(torch.tensor(0.0), (x, v))
        assert first.dtype == second.dtype == dtype
        if dtype == torch.float32:
            found, _ = torchdiffeq.odeint(system, (x, v), T.float(), method="rk4")
            expected, _ = so.odeint(system, (x, v), T.float(), method="rk4")
            assert torch.equal(found, expected)


def test_a_forced_field_is_told_by_its_system_whether_there_is_a_velocity():
    # f(t, x, v, u): without the system's word u and v would change places.
    def pushed(t, x, v, u):
        return u - x - 0.5 * v

    start = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    how = {"method": "velocity_doubling", "step_size": 0.01}
    field = so.Forced(pushed, torch.cos)
    told = so.Forced(pushed, torch.cos, takes_velocity=True)
    found = so.odeint(so.Acceleration(field), start, T, **how).x
    expected = so.odeint(so.Acceleration(told), start, T, **how).x
    assert torch.equal(found, expected)
    plain = so.Acceleration(lambda t, x, v: pushed(t, x, v, torch.cos(t)))
    assert torch.equal(found, so.odeint(plain, start, T, **how).x)
    forced = so.odeint(so.Acceleration(pushed), start, T, forcing=torch.cos, **how).x
    assert torch.equal(found, forced)
    assert torch.equal(found, so.odeint(so.Acceleration(field), start, T, **how).x)
    with pytest.raises(ValueError, match="`takes_velocity`"):
        so.SecondOrder(told)
    with pytest.raises(ValueError, match="`takes_velocity`"):
        so.Acceleration(so.Forced(pushed, torch.cos, takes_velocity=False))


# PyTorch's own forward mode loads a part of it that it has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["mass", "damping"])
def test_forward_derivatives_reach_learned_numbers(name):
    """A tangent is a derivative, too: it must not be lost by reading a float."""

    def end(number):
        system = so.Newton(lambda t, x: -x, **{name: number})
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return so.odeint(system, (torch.ones(1).double(), None), t, step_size=0.1).x[-1]

    number = torch.tensor(0.5, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(number, torch.ones_like(number))
        found = torch.autograd.forward_ad.unpack_dual(end(dual)).tangent
    number.requires_grad_()
    (wanted,) = torch.autograd.grad(end(number).sum(), number)
    torch.testing.assert_close(found.sum(), wanted)
