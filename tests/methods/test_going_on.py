"""Going on from a solution, and keeping a function of the state instead of states."""

import math
import pickle

import pytest
import torch
from torch import nn

import secondorder as so

D = torch.float64
T = torch.linspace(0.0, 2.0, 21, dtype=D)
ALL = so.METHODS | so.COUPLED | so.ADAPTIVE
ENDS = [name for name in ALL if "doubling" not in name]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=D)


def how(method, size=0.03):
    fixed = method in so.METHODS or method in ("coupled_heun2", "coupled_rk4")
    return {"method": method} | ({"step_size": size} if fixed else {})


def driven(t, x):
    return -torch.sin(x) + t


@pytest.mark.parametrize("method", ENDS)
@pytest.mark.parametrize("back", [False, True])
def test_a_solve_goes_on_as_if_it_had_not_ended(method, back):
    """Bit for bit: fixed steps, and adaptive ones with the length of the last."""
    t = T.flip(0) if back else T
    system, start = so.Newton(driven, damping=0.2), (noise(3, 2), noise(3, 2))
    whole = so.odeint(system, start, t, **how(method))
    first = so.odeint(system, start, t[:8], **how(method))
    middle = so.odeint(system, first, t[7:8], **how(method))
    last = so.odeint(system, middle, t[7:], **how(method))
    assert torch.equal(last.x, whole.x[7:]) and torch.equal(last.v, whole.v[7:])
    steps = first.stats.accepted + last.stats.accepted
    assert steps == whole.stats.accepted
    assert first.stats.rejected + last.stats.rejected == whole.stats.rejected
    kept = pickle.loads(pickle.dumps(first.end))
    assert kept.length == first.end.length


@pytest.mark.parametrize("method", ["blanes_moan4", "kahan_li8", "chin4"])
def test_a_mass_costs_a_rounding(method):
    """Methods of p = m v give v, of which m v is p but for its last bit."""
    system, start = so.SecondOrder(driven, 0.7), (noise(3, 2), noise(3, 2))
    whole = so.odeint(system, start, T, **how(method))
    first = so.odeint(system, start, T[:11], **how(method))
    last = so.odeint(system, first, T[10:], **how(method))
    torch.testing.assert_close(last.x, whole.x[10:], rtol=0, atol=1e-14)


class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(1.3, dtype=D))

    def forward(self, t, x):
        return -self.stiffness * torch.sin(x) + torch.cos(t)


@pytest.mark.parametrize("method", ["verlet", "adaptive", "rkn8", "coupled_dopri5"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
def test_gradients_flow_through_both_parts_and_through_what_is_saved(method, gradient):
    if gradient not in ALL[method].gradients:
        return
    field, x0, t = Force(), noise(3, 1).requires_grad_(), T.clone().requires_grad_()
    system, wanted = so.Newton(field), [x0, t, field.stiffness]
    more = how(method) | {"gradient": gradient}
    whole = so.odeint(system, (x0, None), t, **more)
    first = so.odeint(system, (x0, None), t[:11], **more)
    last = so.odeint(system, first, t[10:], **more)
    saved = so.odeint(system, (x0, None), t, save=lambda t, x, v: x[:, 0] * t, **more)
    torch.testing.assert_close(saved.saved, whole.x[..., 0] * t[:, None])
    exact = torch.autograd.grad(whole.x[-1].square().sum(), wanted, retain_graph=True)
    torch.testing.assert_close(
        torch.autograd.grad(last.x[-1].square().sum(), wanted), exact
    )
    exact = torch.autograd.grad((whole.x[..., 0] * t[:, None]).sum(), wanted)
    torch.testing.assert_close(torch.autograd.grad(saved.saved.sum(), wanted), exact)


@pytest.mark.parametrize("method", [*ALL, "dopri5", "rk4"])
def test_save_keeps_what_it_returns_and_the_last_state(method):
    kind = ALL.get(method)
    seen = so.Acceleration(lambda t, x, v: -x - 0.1 * v)
    system = seen if kind and kind.takes_velocity else so.Newton(driven)
    start = noise(5, 4), None
    states = so.odeint(system, start, T, **how(method))
    sol = so.odeint(
        system, start, T, save=lambda t, x, v: {"x": x[:, 0], "all": (t, v.sum())},
        **how(method),
    )  # fmt: skip
    assert torch.equal(sol.saved["x"], states.x[..., 0])
    assert torch.equal(sol.saved["all"][0], T)
    torch.testing.assert_close(sol.saved["all"][1], states.v.sum((1, 2)))
    assert torch.equal(sol.x, states.x[-1:]) and torch.equal(sol.v, states.v[-1:])
    assert torch.equal(sol.t, T) and sol.stats.accepted == states.stats.accepted
    # Nothing of what was not asked for is held.
    assert sol.saved["x"].untyped_storage().nbytes() == 21 * 5 * 8
    assert sol.x.untyped_storage().nbytes() == 20 * 8
    with pytest.raises(ValueError, match="`save` keeps what it returns"):
        sol(0.5)


@pytest.mark.parametrize("method", ["verlet", "rkn8", "coupled_rk4", "coupled_dopri5"])
def test_events_go_on_and_are_saved(method):
    ball = so.Newton(lambda t, x: -torch.ones_like(x))
    h = torch.tensor([[0.5], [2.0]], dtype=D)

    def solve(start, t, **more):
        return so.odeint(
            ball, start, t, event_fn=lambda t, x, v: x[:, 0], per_sample=True,
            **{"on_event": lambda t, x, v: (x, -0.8 * v)} | how(method, 0.1) | more,
        )  # fmt: skip

    t = torch.tensor([0.0, 0.5, 1.5, 3.0], dtype=D)
    whole, first = solve((h, None), t), solve((h, None), t[:3])
    last = solve(first, t[2:])
    torch.testing.assert_close(last.x[-1], whole.x[-1], rtol=1e-12, atol=1e-12)
    saved = solve((h, None), t, save=lambda t, x, v: x + 0 * v)
    assert torch.equal(saved.saved, whole.x)
    assert torch.equal(saved.events.t.nan_to_num(), whole.events.t.nan_to_num())
    # From where an event has ended it, which is not one of what follows.
    landed = solve((h, None), t, on_event=None)
    assert landed.t[:, -1].tolist() == pytest.approx([1.0, 2.0], abs=1e-12)
    beyond = landed.t[:, -1:] + torch.tensor([0.0, 1.0], dtype=D)
    again = solve(landed, beyond, on_event=None)
    assert again.status == ["done", "done"] and again.events.t.shape[0] == 0


@pytest.mark.parametrize("method", ["verlet", "rkn8", "coupled_rk4", "coupled_dopri5"])
def test_from_one_event_to_the_next(method):
    spring, t = so.Newton(lambda t, x: -x), torch.zeros((), dtype=D)
    sol, found = (torch.ones(1, dtype=D), None), []
    for _ in range(3):
        t, sol = so.odeint_event(
            spring, sol, t, event_fn=lambda t, x, v: x[0], **how(method)
        )
        found.append(t.item() / math.pi)
    assert found == pytest.approx([0.5, 1.5, 2.5], abs=1e-3)
    sol = so.odeint(spring, sol, [t.item(), t.item() + math.pi], **how(method))
    assert sol.v[-1].item() == pytest.approx(1.0, abs=1e-3)


def test_structures_and_models():
    system = so.Newton(lambda t, s: {"a": -s["a"], "b": s["a"].sum(-1) - s["b"]})
    start = {"a": noise(3, 2), "b": noise(3)}
    whole = so.odeint(system, (start, None), T, step_size=0.1)
    first = so.odeint(system, (start, None), T[:11], step_size=0.1)
    last = so.odeint(
        system, first, T[10:], step_size=0.1, save=lambda t, x, v: x["b"] + v["b"]
    )
    assert torch.equal(last.saved, whole.x["b"][10:] + whole.v["b"][10:])
    assert last.x["a"].shape == (1, 3, 2)
    model = so.SecondOrderODE(driven, gamma=0.9, method="momentum", steps=10)
    x = noise(4, 2)
    saved = model.trajectory(x, save=lambda t, x, v: x.norm(dim=-1)).saved
    assert torch.equal(saved, model.trajectory(x).x.norm(dim=-1))
    decay, x = so.FirstOrder(lambda t, x: -x), noise(3)
    for method in ("verlet", "coupled_rk4"):
        first = so.odeint(decay, x, T[:11], method=method)
        last = so.odeint(decay, first, T[10:], method=method)
        whole = so.odeint(decay, x, T, method=method)
        assert torch.equal(last.x, whole.x[10:]) and torch.equal(last.v, whole.v[10:])


def test_what_cannot_go_on_or_be_saved_raises():
    spring, x = so.Newton(lambda t, x: -x), torch.ones(2, 1, dtype=D)
    first = so.odeint(spring, (x, None), [0.0, 1.0], method="rkn8")
    with pytest.raises(ValueError, match=r"`t` must begin where .* at 1, got 0"):
        so.odeint(spring, first, [0.0, 1.0])
    for method in ("dopri5", "explicit_adams"):
        other = so.odeint(spring, (x, None), [0.0, 1.0], method=method)
        with pytest.raises(ValueError, match="cannot be gone on from"):
            so.odeint(spring, other, [1.0, 2.0])
    bang = so.Newton(lambda t, x: 6 * x**2)  # at t = 1
    lost = so.odeint(bang, (x, 2 * x), [0.0, 2.0], method="rkn8", per_sample=True,
                     throw=False)  # fmt: skip
    with pytest.raises(ValueError, match="status 'failed'"):
        so.odeint(bang, lost, [2.0, 3.0])
    # Another method, or other tolerances, start from the state.
    x, _ = so.odeint(spring, first, [1.0, 2.0], method="kahan_li8", step_size=0.05)
    assert x[-1, 0].item() == pytest.approx(math.cos(2.0), abs=1e-7)
    for save, text in ((3.0, "`save` must be"), (lambda t, x, v: 1.0, "must return")):
        with pytest.raises(TypeError, match=text):
            so.odeint(spring, (x[0], None), [0.0, 1.0], save=save)
