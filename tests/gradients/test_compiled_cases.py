"""What compiles, and what says that it does not: every method, learned numbers, grids.

What dynamo has traced runs as it is, without the C++ compiler, which
``benchmarks/compiled_cases.py`` asks.
"""

import itertools
import warnings

import pytest
import torch
from problems import Field, mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder.gradients.compiled.exact import Unfaithful

F32, F64 = torch.float32, torch.float64
ROUTES = ["backprop", "reversible"]
BOUND = {F32: 2e-6, F64: 1e-13}


pytestmark = pytest.mark.usefixtures("traced")


def both(solve, inputs):
    """States and gradients, compiled and not."""
    found = []
    for compiled in (True, False):
        sol = solve(compiled)
        loss = sol.x.square().mean() + sol.v.sin().mean()
        parts = torch.autograd.grad(loss, inputs, allow_unused=True)
        pairs = zip(parts, inputs, strict=True)
        parts = [torch.zeros_like(i) if g is None else g for g, i in pairs]
        found.append([sol.x, sol.v, *parts])
    return found


def agree(solve, inputs, field, dtype=F32):
    """They agree to rounding, and something was compiled."""
    ours, theirs = both(solve, inputs)
    top = max(t.detach().abs().nan_to_num().max() for t in theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=BOUND[dtype] * top.item(), equal_nan=True
        )
    stats = so.compile_stats(field)
    assert stats.compilations == 2 and not stats.fallbacks


class Wave(nn.Module):
    """A small field of time, with one weight."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, t, x):
        return torch.cos(t) - self.weight * x.sin()


class Drag(Wave):
    """The same with drag."""

    def forward(self, t, x, v):
        return super().forward(t, x) - 0.3 * v


METHODS = [*so.METHODS, *so.COUPLED, "adaptive", "rkn8", "dopri5"]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("gradient", ROUTES)
def test_every_method_compiles_or_says_once_why_not(gradient, dtype):
    x = noise(3, 3, dtype=dtype).requires_grad_()
    t = torch.linspace(0, 1, 2, dtype=F64)
    fields = Wave(dtype)  # of all that compile: once
    eager, compiled = set(), set()
    replayed = {"adaptive"} if gradient == "reversible" else set()  # accepted steps
    for name in METHODS:
        method = so.METHODS.get(name)
        sees = bool(method and method.takes_velocity)
        packs = (method is not None and not sees) or name in replayed
        field = fields if packs else Drag(dtype) if sees else Wave(dtype)
        kind = so.Acceleration if sees else so.SecondOrder
        adaptive = name not in so.METHODS and name not in (
            "coupled_rk4",
            "coupled_heun2",
        )
        how = {} if adaptive else {"step_size": 0.2}

        def solve(compile, kind=kind, field=field, name=name, how=how):
            with warnings.catch_warnings():  # torchdiffeq's, of float32 times
                warnings.simplefilter("ignore", UserWarning)
                warnings.simplefilter("always", so.CompileWarning)
                return so.odeint(kind(field), (x, None), t, method=name,
                                 gradient=gradient, compile=compile, **how)  # fmt: skip

        try:
            solve(False)
        except ValueError:
            continue  # no such route, compiled or not
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            ours, theirs = both(solve, [x, *field.parameters()])
        told = [w for w in told if w.category is so.CompileWarning]
        (eager if told else compiled).add(name)
        assert len(told) == (not packs)
        assert worst(ours, theirs) < (0 if told else 3 * BOUND[dtype]) + 1e-30
    assert len(compiled) >= 6 and {"velocity_doubling", "coupled_dopri5"} <= eager
    assert so.compile_stats(fields).compilations == 4  # nested kicks are another kind


@pytest.mark.parametrize(
    ("gradient", "dtype"), [("backprop", F32), ("reversible", F32), ("reversible", F64)]
)
def test_learned_numbers_get_their_gradients(gradient, dtype):
    field = so.Autonomous(mlp(3, dtype=dtype))
    mass, damping = (
        torch.tensor(n, dtype=dtype, requires_grad=True) for n in (2.0, 9.0)
    )
    t = torch.tensor([0.0, 0.3, 1.0], dtype=F64, requires_grad=True)
    system = so.Newton(field, mass=mass, damping=damping)  # damping moves bytes
    x = noise(3, 3, dtype=dtype).requires_grad_()
    agree(
        lambda compiled: so.odeint(system, (x, x), t, step_size=0.02, compile=compiled,
                                   gradient=gradient),
        [x, t, mass, damping, *field.parameters()], field, dtype,
    )  # fmt: skip


@pytest.mark.parametrize("gradient", ROUTES)
def test_nested_kicks_and_momenta_of_layers_are_learned(gradient):
    field = Field(3, F32)
    epsilon = torch.tensor(0.5, requires_grad=True)
    x = noise(3, 3).requires_grad_()
    system, t = so.SecondOrder(field, epsilon), torch.tensor([0.0, 1.0])
    agree(
        lambda compiled: so.odeint(system, (x, None), t, method="chin4", step_size=0.2,
                                   compile=compiled, gradient=gradient),
        [x, epsilon, *field.parameters()], field,
    )  # fmt: skip
    gammas = [nn.Parameter(torch.tensor(g)) for g in (0.9, 0.1, 0.5)]
    net = so.MomentumNet([mlp(3, seed=n) for n in range(3)], gammas, gradient,
                         compile=True)  # fmt: skip
    eager = so.MomentumNet(net.blocks, gammas, gradient)
    found = [
        torch.autograd.grad(m(x).square().sum(), [x, *gammas]) for m in (net, eager)
    ]
    assert worst(*found) < 2e-6
    assert not so.compile_stats(net).fallbacks


STARTS = {
    "of all sizes": noise(9, 3) * torch.logspace(-6, 3, 9)[:, None],  # units differ
    "from zero": torch.zeros(4, 3),
    "with NaN": torch.tensor([[0.1, 0.2, 0.3], [torch.nan, 0.0, 1.0]]),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_grid_takes_all_starts(name):
    field = so.Autonomous(mlp(3))
    x = STARTS[name].clone().requires_grad_()
    t = torch.tensor([0.0, 1.0])
    agree(
        lambda compiled: so.odeint(so.SecondOrder(field), (x, None), t, step_size=0.1,
                                   gradient="reversible", compile=compiled),
        [x, *field.parameters()], field,
    )  # fmt: skip


def test_what_leaves_the_grid_raises_as_it_does_without():
    system = so.Newton(lambda t, x: 30 * x)
    x = noise(3, 2, dtype=F64).requires_grad_()
    with pytest.raises(RuntimeError, match="left the range of the grid"):
        so.odeint(system, (x, None), [0.0, 9.0], step_size=0.1, compile=True,
                  gradient="reversible")  # fmt: skip


@pytest.mark.parametrize("gradient", ROUTES)
def test_forcings_and_nested_arguments_compile(gradient):
    class Pushed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(3)

        def forward(self, t, x, u, more):
            return more["gain"] * self.net(x) + more["shifts"][0] + u

    field, x = Pushed(), noise(5, 3).requires_grad_()
    gain, shift = (z.requires_grad_() for z in noise(2, 3, seed=2).unbind())
    forcing = so.forcing.Cubic(torch.linspace(0, 1, 3), noise(3, 3, seed=4))
    args = ({"gain": gain, "shifts": (shift, None)},)
    agree(
        lambda compiled: so.odeint(so.SecondOrder(field), (x, None), [0.0, 0.6, 1.0],
                                   step_size=0.1, gradient=gradient, args=args,
                                   forcing=forcing, compile=compiled),
        [x, gain, shift, *field.parameters()], field,
    )  # fmt: skip


def test_what_is_evaluated_again_must_not_change():
    scale = torch.tensor(2.0)  # no gradient is asked of it
    field = so.Autonomous(lambda x, scale: -scale * x.sin())
    x = noise(3, 2).requires_grad_()
    system, t = so.Newton(field), [0.0, 1.0]
    sol = so.odeint(system, (x, None), t, step_size=0.2, compile=True, args=(scale,))
    scale.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        sol.x.sum().backward()


def test_a_way_back_that_leads_elsewhere_is_not_relied_on(monkeypatch):
    from secondorder.gradients.compiled.exact import ExactSolve

    def elsewhere(self, *given):
        raise Unfaithful("elsewhere")

    monkeypatch.setattr(ExactSolve, "returned", elsewhere)
    field, x = so.Autonomous(mlp(3)), noise(3, 3).requires_grad_()

    def solve(compiled):
        return so.odeint(so.SecondOrder(field), (x, None), [0.0, 1.0], step_size=0.1,
                         gradient="reversible", compile=compiled)  # fmt: skip

    with pytest.warns(so.CompileWarning, match="rounds its field differently"):
        ours, theirs = both(solve, [x, *field.parameters()])
    assert all(map(torch.equal, ours, theirs))
    made = so.compile_stats(field).compilations
    solve(True)
    assert so.compile_stats(field).compilations == made  # it is not tried again


def test_an_ensemble_says_that_it_runs_eagerly():
    x = noise(5, 3)
    made = itertools.count()

    def make(compiled):
        return so.SecondOrderODE(so.Autonomous(mlp(3, seed=next(made))), steps=3,
                                 compile=compiled)  # fmt: skip

    members = so.ensemble(lambda: make(True), 2)
    with pytest.warns(so.CompileWarning, match="inside another transform"):
        ours = members(x)
    made = itertools.count()
    torch.testing.assert_close(ours, so.ensemble(lambda: make(False), 2)(x))
