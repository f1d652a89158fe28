"""SecondOrderODE: its numbers do what they say, with every method, and are saved."""

import copy
import io

import pytest
import torch
from problems import mlp, noise
from torch import nn

import secondorder as so

F64 = torch.float64
MINE = [name for name, m in so.METHODS.items() if not m.takes_velocity]
STEPPING = ["euler", "midpoint", "heun2", "heun3", "rk4"]
STEPPING += ["explicit_adams", "implicit_adams", "fixed_adams"]
DIFFERENTIABLE = [*STEPPING[:5], "implicit_adams", "dopri8", "dopri5", "bosh3"]


def field(t, x):
    return torch.cos(t) - torch.sin(x)


@pytest.mark.parametrize("method", STEPPING)
@pytest.mark.parametrize(("t1", "steps"), [(1.0, 10), (-0.7, 7), (0.3, 3), (1.0, 1)])
def test_steps_are_the_steps_of_torchdiffeqs_methods_too(method, t1, steps):
    x = noise(3, dtype=F64)
    model = so.SecondOrderODE(field, t1=t1, steps=steps, method=method)
    t = torch.linspace(0, t1, steps + 1, dtype=F64)
    expected = so.odeint(so.SecondOrder(field), (x, None), t, method=method).x
    assert torch.equal(model(x), expected[-1])
    assert torch.equal(model.trajectory(x).x, expected)
    if steps > 1:
        single = so.SecondOrderODE(field, t1=t1, steps=1, method=method)
        assert not torch.allclose(model(x), single(x), rtol=1e-6)


@pytest.mark.parametrize("method", [*MINE, *so.ADAPTIVE, "rk4", "dopri5"])
@pytest.mark.parametrize("t1", [2.0, -0.5])
@pytest.mark.parametrize("learned", [False, True])
def test_a_momentum_is_its_epsilon_whichever_way_time_runs(method, t1, learned):
    rule = getattr(so.METHODS.get(method), "rule", "exponential")
    epsilon = so.epsilon_from_gamma(0.8, abs(t1) / 10, rule)
    gamma = nn.Parameter(torch.tensor(0.8, dtype=F64)) if learned else 0.8
    one = so.SecondOrderODE(field, gamma=gamma, t1=t1, method=method)
    two = so.SecondOrderODE(field, epsilon=epsilon, t1=t1, method=method)
    x = noise(3, dtype=F64)
    torch.testing.assert_close(one(x), two(x), rtol=1e-12, atol=1e-12)
    found, expected = one.trajectory(x), two.trajectory(x)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.v, expected.v, rtol=1e-12, atol=1e-12)
    if method in MINE:
        torch.testing.assert_close(one.state(x).x, two.state(x).x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [*MINE, *so.ADAPTIVE, *DIFFERENTIABLE])
@pytest.mark.parametrize("kind", ["parameter", "positive"])
def test_a_learned_final_time_is_a_parameter_with_the_velocity_as_its_gradient(
    method, kind
):
    start = torch.tensor(1.5, dtype=F64)
    t1 = nn.Parameter(start) if kind == "parameter" else so.Positive(start)
    model = so.SecondOrderODE(field, epsilon=2.0, t1=t1, steps=100, method=method)
    (parameter,) = model.parameters()
    x = torch.tensor([0.4], dtype=F64)
    out = model(x)
    (slope,) = torch.autograd.grad(out.sum(), parameter)
    slope = slope if kind == "parameter" else slope / 1.5
    velocity = model.trajectory(x).v[-1].item()
    low = {"momentum", "momentum_exponential", *DIFFERENTIABLE}
    within = 5e-2 if method in low else 1e-3
    assert slope.item() == pytest.approx(velocity, rel=within)


def test_the_system_follows_gamma_and_is_made_once():
    model = so.SecondOrderODE(field, gamma=0.9, steps=10)
    first = model.system
    assert model.system is first and "system" in dict(model.named_modules())
    assert [*model.modules()].count(first) == 0  # no part of the model
    model.gamma = 0.5
    second = model.system
    assert second.epsilon == so.epsilon_from_gamma(0.5, 0.1, "exponential")
    assert first.epsilon == so.epsilon_from_gamma(0.9, 0.1, "exponential")
    second.epsilon = 3.0  # what is changed there changes no model
    assert model.system.epsilon == so.epsilon_from_gamma(0.5, 0.1, "exponential")
    twin, blob = copy.deepcopy(model), io.BytesIO()
    torch.save(model, blob)
    blob.seek(0)
    for other in (twin, torch.load(blob, weights_only=False)):
        assert other.system is not model.system and other.gamma == 0.5
        other.gamma = 0.9
        assert model.system.epsilon != other.system.epsilon == first.epsilon


NUMBERS = {
    "ode gamma": lambda n: so.SecondOrderODE(field, gamma=n),
    "ode epsilon": lambda n: so.SecondOrderODE(field, epsilon=n),
    "ode t1": lambda n: so.SecondOrderODE(field, t1=n),
    "net gamma": lambda n: so.MomentumNet([mlp()], gamma=n),
    "system epsilon": lambda n: so.SecondOrder(field, n),
    "system mass": lambda n: so.Newton(field, mass=n),
    "system damping": lambda n: so.Acceleration(lambda t, x, v: -x, damping=n),
    "inside": lambda n: nn.Sequential(so.SecondOrderODE(field, epsilon=n), mlp()),
}


@pytest.mark.parametrize("method", ["momentum", "verlet"])
@pytest.mark.parametrize("learned", [False, True])
def test_the_system_of_a_model_is_the_one_that_is_solved(method, learned):
    gamma = nn.Parameter(torch.tensor(0.9)) if learned else 0.9
    model = so.SecondOrderODE(so.Autonomous(mlp()), gamma=gamma, method=method, steps=5)
    x = noise(3, 4)
    own = so.odeint(model.system, (x, None), [0.0, 1.0], method=method, step_size=0.2)
    # ε is computed from γ and γ from it again, in float32 where it is learned.
    torch.testing.assert_close(own.x[-1], model(x), rtol=1e-5, atol=1e-6)
    assert "gamma=0.9" in repr(model)
    assert "epsilon" not in repr(model)  # which the equation alone does not know
    assert not any("numbers" in m for k, m in model.state_dict()._metadata.items() if k)


def test_a_number_out_of_range_stops_the_way_there_and_back_too():
    model = so.SecondOrderODE(field, epsilon=nn.Parameter(torch.tensor(0.5)))
    state = model.state(noise(3, 4))
    with torch.no_grad():
        model.system.epsilon.fill_(-1.0)
    for call in (lambda: model.state(noise(3, 4)), lambda: model.inverse(state)):
        with pytest.raises(ValueError, match="`epsilon` must be finite and > 0"):
            call()


@pytest.mark.parametrize("number", ["epsilon", "gamma"])
@pytest.mark.parametrize("call", ["forward", "state", "trajectory"])
def test_a_number_of_another_shape_is_named(number, call):
    model = so.SecondOrderODE(field, **{number: torch.full((3,), 0.5)})
    with pytest.raises(ValueError, match=rf"`{number}` has shape \(3,\)"):
        getattr(model, call)(noise(3, 4))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("saved", [False, True])
def test_a_float_is_noted_in_the_state_dict_and_compared_when_loaded(name, saved):
    make = NUMBERS[name]
    source = make(0.25).state_dict()
    assert source.keys() == make(0.5).state_dict().keys()
    if saved:
        file = io.BytesIO()
        torch.save(source, file)
        file.seek(0)
        source = torch.load(file, weights_only=True)
    make(0.25).load_state_dict(source)
    with pytest.raises(RuntimeError, match=r"= 0\.25 \(`\w+` is 0\.5 here"):
        make(0.5).load_state_dict(source)
    make(0.5).load_state_dict(source, strict=False)
    make(0.5).load_state_dict(dict(source))  # from elsewhere: tensors alone


@pytest.mark.parametrize("make", [
    lambda v: so.SecondOrderODE(field, velocity=v),
    lambda v: so.MomentumNet([torch.sin], velocity=v),
])  # fmt: skip
def test_a_tensor_velocity_is_saved_and_moves_with_the_model(make):
    source, other = make(noise(4, seed=1)), make(noise(4, seed=2))
    x = noise(2, 4, seed=3)
    assert "velocity" in source.state_dict()
    other.load_state_dict(source.state_dict())
    assert torch.equal(source(x), other(x))
    assert source.double().velocity.dtype == F64
    assert not list(source.parameters())
