"""States of several tensors: the numbers are those of one tensor of all."""

import copy
import math
import pickle
from typing import NamedTuple

import pytest
import torch
from problems import mlp, noise
from torch import nn

import secondorder as so

D = torch.float64


class Bodies(NamedTuple):
    """Places (b, 2) and angles (b,)."""

    place: torch.Tensor
    angle: torch.Tensor


class Coupled(nn.Module):
    """A field on two tensors, one a dictionary deeper, that depends on both."""

    def __init__(self):
        super().__init__()
        self.net = mlp(3, 4, D)

    def forward(self, t, x):
        q, a = x["q"], x["rest"][0]
        both = self.net(torch.cat([q, a.unsqueeze(-1)], -1)) - torch.cos(t)
        return {"rest": [both[..., 2]], "q": both[..., :2]}  # in another order


def start():
    x = {"q": noise(2, 2).to(D), "rest": [noise(2, seed=2).to(D)]}
    v = {"q": noise(2, 2, seed=3).to(D), "rest": [noise(2, seed=4).to(D)]}
    for leaf in (x["q"], x["rest"][0], v["q"], v["rest"][0]):
        leaf.requires_grad_()
    return x, v


def parts(state):
    x, v = state
    return [x["q"], x["rest"][0], v["q"], v["rest"][0]]


METHODS = {
    "verlet": {"step_size": 0.25},
    "blanes_moan4": {"step_size": 0.5},
    "adaptive": {"rtol": 1e-5, "atol": 1e-5},
    "rkn6": {"rtol": 1e-8, "atol": 1e-8},
    "dopri5": {"rtol": 1e-8, "atol": 1e-8},
    "coupled_rk4": {"step_size": 0.25},
}
CASES = [
    *((m, r) for m in ("verlet", "blanes_moan4") for r in ("backprop", "checkpoint")),
    *((m, "backprop") for m in ("adaptive", "rkn6", "dopri5", "coupled_rk4")),
    *((m, "reversible") for m in ("verlet", "blanes_moan4", "adaptive", "coupled_rk4")),
    ("dopri5", "adjoint"),
]


def flat(part):
    return torch.cat([part["q"].reshape(-1), part["rest"][0]])


@pytest.mark.parametrize("method, gradient", CASES)
def test_values_and_gradients_are_those_of_one_tensor(method, gradient):
    field, options = Coupled(), METHODS[method]
    mass = so.Positive(torch.tensor(2.0, dtype=D))
    x0, v0 = start()

    def flat_field(t, x):
        return flat(field(t, {"q": x[:4].reshape(2, 2), "rest": [x[4:]]}))

    masses = torch.cat([mass().expand(4), torch.full((2,), 0.5, dtype=D)])
    plain = so.Newton(flat_field, mass=masses)
    system = so.Newton(field, mass={"q": mass, "rest": [0.5]})
    t = torch.tensor([0.0, 0.5, 1.0], dtype=D)
    kwargs = {"method": method, **options}
    x, v = so.odeint(system, (x0, v0), t, gradient=gradient, **kwargs)
    y, w = so.odeint(plain, (flat(x0), flat(v0)), t, **kwargs)
    # The grid of the reversible route, and the tolerance of the adjoint.
    tol = {"reversible": 1e-7, "adjoint": 1e-6}.get(gradient, 1e-11)
    loose = {"rtol": tol, "atol": tol}
    assert x["q"].shape == (3, 2, 2) and v["rest"][0].shape == (3, 2)
    torch.testing.assert_close(x["q"].reshape(3, 4), y[:, :4], **loose)
    torch.testing.assert_close(v["rest"][0], w[:, 4:], **loose)
    one = (x["q"] ** 2).sum() + x["rest"][0].sum() + (v["q"][1] * v["rest"][0][1]).sum()
    two = (y[:, :4] ** 2).sum() + y[:, 4:].sum()
    two = two + (w[1, :4].reshape(2, 2) * w[1, 4:]).sum()
    wanted = [*parts((x0, v0)), *mass.parameters(), *field.parameters()]
    found, expected = (torch.autograd.grad(loss, wanted) for loss in (one, two))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **loose)


def spring(t, x):
    return Bodies(-x.place, -4 * x.angle)


BODIES = Bodies(torch.ones(3, 2, dtype=D), torch.ones(3, dtype=D))


def test_velocities_may_be_left_out_and_kinds_are_kept():
    system = so.Newton(spring)
    half = Bodies(None, torch.zeros(3, dtype=D))
    one = so.odeint(system, (BODIES, None), [0.0, 1.0], step_size=0.01)
    two = so.odeint(system, (BODIES, half), [0.0, 1.0], step_size=0.01)
    assert isinstance(one.x, Bodies) and one.x.place.shape == (2, 3, 2)
    assert torch.equal(one.x.angle, two.x.angle) and torch.equal(one.v[0], two.v[0])
    assert abs(one.x.angle[-1, 0].item() - math.cos(2)) < 1e-4
    x, v = one(torch.tensor([0.3, 0.5], dtype=D))
    assert x.place.shape == (2, 3, 2)
    assert abs(v.place[1, 0, 0].item() + math.sin(0.5)) < 1e-4
    again = pickle.loads(pickle.dumps(copy.deepcopy(one)))
    assert torch.equal(again(0.3)[0].place, x.place[0])
    assert "Structured" in repr(one) and "<table>" in one._repr_html_()


def test_numbers_of_each_tensor():
    """Two oscillators with their own mass, damping and stiffness, solved exactly."""
    system = so.Newton(
        lambda t, x: (0 * x[0], 0 * x[1]),
        mass=(2.0, torch.ones(3)), damping=(0.0, 0.5), stiffness=(8.0, so.Positive(1)),
    )  # fmt: skip
    start = (torch.ones((), dtype=D), torch.ones(3, dtype=D)), None
    (x, y), _ = so.odeint(system, start, [0.0, 5.0])
    assert abs(x[-1].item() - math.cos(10)) < 1e-12
    w = math.sqrt(1 - 0.25**2)
    wanted = math.exp(-1.25) * (math.cos(5 * w) + 0.25 / w * math.sin(5 * w))
    assert (y[-1] - wanted).abs().max() < 1e-12
    assert [name for name, _ in system.named_parameters()] == [
        "field.stiffness.number1.log"
    ]


def test_forcing_velocities_args_and_first_order():
    pull = so.Acceleration(lambda t, x, v, u, k: (u - k * v[0], 0 * x[1]))
    start = (torch.zeros(2, dtype=D), torch.zeros(1, dtype=D)), None
    kwargs = {"forcing": lambda t: 1.0 + 0 * t, "args": (2.0,), "method": "dopri5"}
    _, (v, _) = so.odeint(pull, start, [0.0, 1.0], **kwargs)
    assert abs(v[-1, 0].item() - (1 - math.exp(-2)) / 2) < 1e-6
    decay = so.FirstOrder(lambda t, x: {"a": -x["a"]})
    for state in ({"a": torch.ones(2)}, ({"a": torch.ones(2)}, None)):
        x, v = so.odeint(decay, state, [0.0, 1.0], method="rk4", step_size=0.1)
        assert torch.equal(v["a"], -x["a"])


@pytest.mark.parametrize("time", [False, True])
def test_the_energy_of_a_structure(time):
    def energy(*args):
        return (args[-1].place ** 2).sum() / 2 + 2 * (args[-1].angle ** 2).sum()

    found, wanted = (
        so.odeint(so.Newton(f), (BODIES, None), [0.0, 1.0], step_size=0.1).x
        for f in (so.Potential(energy, time=time), spring)
    )
    torch.testing.assert_close(found.place, wanted.place)
    torch.testing.assert_close(found.angle, wanted.angle)


def test_a_ball_of_two_tensors_bounces():
    ball = so.Newton(lambda t, x: {"z": -torch.ones_like(x["z"]), "y": 0 * x["y"]})
    start = {"z": torch.ones(1, dtype=D), "y": torch.zeros(1, dtype=D)}
    speed = {"z": torch.zeros(1, dtype=D), "y": torch.ones(1, dtype=D)}

    def hit(t, x, v):
        return x["z"][0]

    def bounce(t, x, v):
        return x, {**v, "z": -0.5 * v["z"]}

    hit.direction = -1
    kwargs = {"event_fn": hit, "on_event": bounce, "step_size": 0.1}
    solution = so.odeint(ball, (start, speed), [0.0, 2.0], **kwargs)
    fall = math.sqrt(2)
    assert abs(solution.events.t[0].item() - fall) < 1e-12
    assert abs(solution.events.v["z"][0, 0].item() + fall) < 1e-12
    assert abs(solution.v["z"][-1, 0].item() - (fall / 2 - (2 - fall))) < 1e-12
    t, there = so.odeint_event(ball, (start, speed), 0.0, event_fn=hit, step_size=0.1)
    assert abs(there.x["y"][-1, 0].item() - fall) < 1e-12 and t.item() > 1.41


def test_samples_with_steps_of_their_own_keep_their_axis():
    system, t = so.Newton(spring), torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    x, _ = so.odeint(system, (BODIES, None), t.to(D), method="blanes_moan6")
    assert x.place.shape == (2, 3, 2) and x.angle.shape == (2, 3)
    assert (x.place[-1, :, 0] - torch.cos(t[:, 1])).abs().max() < 1e-3
    kwargs = {"method": "rkn8", "per_sample": True, "rtol": 1e-9, "atol": 1e-9}
    x, _ = so.odeint(system, (BODIES, None), [0.0, 2.0], **kwargs)
    assert (x.angle[-1] - math.cos(4)).abs().max() < 1e-7
    with pytest.raises(ValueError, match=r"`x0\[1\]` has shape \(2,\)"):
        pair = Bodies(torch.ones(3, 2), torch.ones(2)), None
        so.odeint(system, pair, [0.0, 2.0], **kwargs)


ONE = torch.ones(2)
WRONG = {
    "empty": (((), None), {}, "at least one tensor"),
    "no tensor": (
        (({"a": [1.0]},), None),
        {},
        r"`x0\[0\]\['a'\]\[0\]` must be a tensor",
    ),
    "dtype": (((ONE, ONE.double()), None), {}, r"`x0\[1\]` is torch.float64"),
    "integers": (((ONE.int(), ONE.int()), None), {}, "`x0` must be floating point"),
    "velocity": (((ONE, ONE), (ONE,)), {}, "`v0` must have the structure"),
    "shape": (((ONE, ONE), (ONE, ONE[:1])), {}, r"`v0\[1\]` must be a tensor \(2\)"),
    "kind": (((ONE, ONE), (ONE, ONE.double())), {}, r"`v0\[1\]` must match"),
    "field": (((ONE, ONE, ONE), None), {}, r"`field\(t, x\)` must have the structure"),
    "mass": (((ONE, ONE), None), {"mass": torch.ones(2)}, "`mass` has one value per"),
    "matrix": (((ONE, ONE), None), {"mass": torch.eye(2)}, "cannot be matrices"),
    "numbers": (((ONE, ONE), None), {"damping": {"a": 1.0}}, "`damping` must have the"),
    "width": (((ONE, ONE), None), {"mass": (1.0, torch.ones(3))}, r"`mass\[1\]`"),
    "one tensor": ((ONE, None), {"mass": (1.0, 2.0)}, "`mass` is a structure"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name):
    state, numbers, message = WRONG[name]
    system = so.Newton(lambda t, x: (x[0], x[1]), **numbers)
    with pytest.raises((ValueError, TypeError), match=message):
        so.odeint(system, state, [0.0, 1.0])


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`mass` must be finite and > 0"):
        so.Newton(spring, mass=(1.0, -1.0))
