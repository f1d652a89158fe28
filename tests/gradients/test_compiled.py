"""The compiled route against the eager ones.

Most cases run the traced graphs without the C++ compiler (``traced``): what they test
is the rows, the byte moves, the inputs and the fallbacks.
"""

import copy
import gc
import pickle
import warnings

import pytest
import torch
from problems import mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder.gradients.compiled import compiling


def solve(field, gradient, compile=True, points=2, method="verlet", step=0.1, **more):
    """States and gradients, by x0 and by the parameters and arguments."""
    x = (noise(more.pop("batch", 5), 3) + 0.3).requires_grad_()
    system = so.SecondOrder(field, more.pop("epsilon", 0.5))
    out = so.odeint(
        system,
        (x, 0.5 * x),
        torch.linspace(0, 1, points),
        step_size=step,
        method=method,
        gradient=gradient,
        compile=compile,
        **more,
    )
    loss = (out.x.square().sum() + out.v.sin().sum()) / out.x.numel()
    owner = [*field.parameters()] if isinstance(field, nn.Module) else []
    inputs = [x, *(p for p in owner if p.requires_grad)]
    inputs += [a for a in more.get("args", ()) if a.requires_grad]
    return [out.x, out.v, *torch.autograd.grad(loss, inputs)]


def compare(field, gradient, **more):
    """Compiled and eager agree to 2e-6 of the largest gradient (float32)."""
    ours = solve(field, gradient, **more)
    theirs = solve(field, gradient, False, **more)
    top = max(t.abs().max().item() for t in theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * max(1.0, top))


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
def test_one_compilation_serves_every_method_step_and_epsilon(traced, gradient):
    field = so.Autonomous(mlp(3))
    for method, step, epsilon in (
        ("verlet", 0.01, 0.1),  # whose damping pushes bytes: rows of several calls
        ("verlet", 0.1, 0.5),
        ("momentum", 0.04, 0.2),
        ("blanes_moan4", 0.3, 0.7),
    ):
        compare(field, gradient, method=method, step=step, epsilon=epsilon)
    stats = so.compile_stats(field)
    assert stats.compilations == 2 and not stats.fallbacks and stats.hits >= 6
    told = so.odeint(
        so.SecondOrder(field), (noise(5, 3), None), [0.0, 1.0], gradient=gradient,
        step_size=0.1, compile=True,
    ).stats  # fmt: skip
    assert told.compiled == stats
    model = so.SecondOrderODE(field, gradient=gradient, compile=True)
    assert model.trajectory(noise(5, 3)).stats.compiled == so.compile_stats(field)
    assert so.odeint(so.SecondOrder(field), (noise(5, 3), None), [0.0, 1.0],
                     step_size=0.1).stats.compiled is None  # fmt: skip


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
def test_trajectories_nested_kicks_and_arguments(traced, gradient):
    class Pushed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(3)

        def forward(self, t, x, push):
            return self.net(x) + t.cos() * push

    push = noise(3, seed=4).requires_grad_()
    field = Pushed()
    field.net[0].bias.requires_grad_(False)
    compare(field, gradient, points=4, step=0.2, method="chin4", args=(push,))
    assert not so.compile_stats(field).fallbacks


def test_the_compiler_itself_reverses_exactly(monkeypatch):
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))
    field = so.Autonomous(net)
    compare(field, "reversible", step=0.2)
    stats = so.compile_stats(field)
    made = stats.compilations
    assert made >= 2 and stats.seconds > 0 and not stats.fallbacks
    with torch.no_grad():  # an optimiser's step: nothing compiled keeps a parameter
        for p in field.parameters():
            p.mul_(0.5)
    compare(field, "reversible", step=0.07)
    assert stats.compilations == made


def test_the_compiler_itself_reverses_a_single_sample_exactly():
    field = so.Autonomous(mlp(3, hidden=8))
    compare(field, "reversible", batch=1, step=0.02)
    assert not so.compile_stats(field).fallbacks


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
def test_states_that_are_not_contiguous(gradient):
    """The compiler's own code insists on the strides that it was made for."""
    field, found = so.Autonomous(mlp(3)), []
    x = noise(3, 5).requires_grad_()
    for compile in (False, True):
        model = so.SecondOrderODE(
            field, gamma=0.5, steps=4, gradient=gradient, compile=compile,
            velocity=torch.ones(3),
        )  # fmt: skip
        for _ in "twice":  # first by torch.compile, then directly
            loss = (
                model(x.T).square().sum() + model(x.new_ones(1, 3).expand(5, 3)).sum()
            )
            found.append(torch.autograd.grad(loss, [x, *field.parameters()]))
    assert not so.compile_stats(field).fallbacks
    assert worst(found[-1], found[0]) < 2e-6


def test_the_compiler_itself_keeps_what_is_not_finite():
    field = so.Autonomous(mlp(2).double())
    x = noise(3, 2, dtype=torch.float64)
    x[0, 0], x[1, 0] = torch.nan, torch.inf
    ends = []
    for compile in (False, True):
        with torch.no_grad():
            sol = so.odeint(
                so.SecondOrder(field, 0.5), (x, None), [0.0, 1.0], step_size=0.25,
                gradient="reversible", compile=compile,
            )  # fmt: skip
        ends.append(sol.x[-1])
    assert not so.compile_stats(field).fallbacks
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12, equal_nan=True)


def test_a_warning_points_at_the_line_that_asked(traced):
    field = Noisy(nn.Dropout(0.5))
    model = so.SecondOrderODE(field, compile=True)
    net = so.MomentumNet([mlp(3), nn.Linear(3, 3)], gamma=0.9, compile=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model(noise(5, 3))
        net(noise(5, 3))
        so.SecondOrderODE(field, method="rk4", compile=True)
    assert [w.filename for w in told] == [__file__] * 3


def test_models_train_compiled_and_copies_too(traced):
    x = noise(5, 3)
    model = so.SecondOrderODE(so.Autonomous(mlp(3)), compile=True)
    eager = so.SecondOrderODE(so.Autonomous(mlp(3)))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), eager(x), rtol=0, atol=2e-6)


class Noisy(nn.Module):
    """A field that is not the same twice, or that leaves a trace."""

    def __init__(self, layer):
        super().__init__()
        self.net, self.layer = mlp(3), layer

    def forward(self, t, x):
        return self.layer(self.net(x))


@pytest.mark.parametrize(
    ("layer", "reason"), [(nn.Dropout(0.5), "random"), (nn.BatchNorm1d(3), "buffers")]
)
def test_what_is_not_repeatable_runs_eagerly_after_one_warning(traced, layer, reason):
    field, before = Noisy(layer), copy.deepcopy(layer.state_dict())
    torch.manual_seed(0)
    with pytest.warns(so.CompileWarning, match=reason):
        ours = solve(field, "backprop")
    layer.load_state_dict(before)
    torch.manual_seed(0)
    for one, other in zip(ours, solve(field, "backprop", False), strict=True):
        assert torch.equal(one, other)  # nothing was drawn or counted twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(field, "backprop")  # says it once


def test_other_reasons_are_told(traced):
    weight = torch.tensor(0.5, requires_grad=True)
    hooked = so.Autonomous(mlp(3))
    hooked.register_forward_hook(lambda *_: None)
    cases = [
        (lambda t, x: -weight * x, {}, "none of its parameters"),
        (hooked, {}, "hooks"),
        (so.Autonomous(mlp(3)), {"epsilon": torch.ones(3)}, "per coordinate"),
        (so.Autonomous(mlp(3)), {"check_finite": True}, "check_finite"),
    ]
    for field, more, reason in cases:
        with pytest.warns(so.CompileWarning, match=reason):
            solve(field, "backprop", **more)


@pytest.mark.filterwarnings("ignore:dynamo_pgo")  # if nothing was compiled before
def test_without_a_compiler_it_runs_eagerly(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/no/such/compiler"))
    field = so.Autonomous(mlp(3))
    told = pytest.warns(so.CompileWarning, match=r"torch\.compile failed")
    with config.patch(force_disable_caches=True), told:
        ours = solve(field, "backprop")
    for one, other in zip(ours, solve(field, "backprop", False), strict=True):
        assert torch.equal(one, other)


def test_changed_parameters_are_noticed(traced):
    gc.collect()
    before = len(compiling.ENTRIES)
    model = so.SecondOrderODE(so.Autonomous(mlp(3)), compile=True)
    loss = model(noise(5, 3)).sum()
    with torch.no_grad():
        model.field.module[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()
    assert len(compiling.ENTRIES) == before + 1
    del model, loss
    gc.collect()
    assert len(compiling.ENTRIES) == before  # what was compiled goes with the field


@pytest.mark.parametrize("method", ["rkn8", "adaptive", "dopri5"])
def test_methods_without_plans_say_that_nothing_is_compiled(method):
    start = noise(3, 2), None
    how = {"method": method, "compile": True}
    with pytest.warns(so.CompileWarning, match="makes no plan"):
        so.odeint(so.Newton(lambda t, x: -x), start, [0.0, 1.0], **how)
    with pytest.warns(so.CompileWarning, match="makes no plan"):
        so.SecondOrderODE(so.Autonomous(mlp(2)), **how)
