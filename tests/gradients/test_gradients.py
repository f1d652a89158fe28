"""The whole table, method × gradient × dtype: each works or raises with advice."""

import functools
import warnings

import pytest
import torch
from problems import DragField, Field, counted, gradients, mlp, noise, worst
from torch import nn

import secondorder as so
from secondorder.methods import find_method
from secondorder.methods.external import SCIPY

NAMES = [*so.METHODS, *so.COUPLED, *so.ADAPTIVE, *so.SOLVERS]
SLOW = ("fehlberg2", "adaptive_heun", "bosh3")  # low order: a loose tolerance will do


def expected_to_work(method, gradient):
    """Which pairs are promised (the table in README.md)."""
    return gradient in find_method(method).gradients


@functools.cache
def solve(method, gradient, dtype):
    """A solve and the gradients of a loss over all its times."""
    torch.manual_seed(0)
    epsilon = nn.Parameter(torch.tensor(0.8, dtype=dtype))
    velocity = method in so.METHODS and so.METHODS[method].takes_velocity
    if velocity:
        system = so.Acceleration(DragField(dtype=dtype), damping=epsilon)
    else:
        system = so.SecondOrder(Field(dtype=dtype), epsilon)
    x0, v0 = noise(2, 4, 3, dtype=dtype)
    x0, v0 = x0.requires_grad_(), v0.requires_grad_()
    shift = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64)
    if method in (*so.METHODS, *so.COUPLED):
        how = {"step_size": 0.1}
    elif method in so.SOLVERS and so.SOLVERS[method].fixed:
        how = {"step_size": 0.05}
    else:
        tight = 1e-4 if method in SLOW else 1e-6
        how = {"rtol": tight, "atol": tight}
    sol = so.odeint(system, (x0, v0), t, method=method, gradient=gradient,
                    args=(shift,), **how)  # fmt: skip
    loss = sol.x.cos().sum() + sol.v.square().sum()
    wanted = [x0, v0, shift, *system.parameters()]
    return [sol.x, sol.v, *torch.autograd.grad(loss, wanted)]


# Adaptive steps need more digits than bfloat16 has.
TABLE = [
    (method, gradient, dtype)
    for method in NAMES
    for gradient in so.GRADIENTS
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
    if dtype != torch.bfloat16 or method in (*so.METHODS, *so.COUPLED)
]


# torchdiffeq passes the options of LSODA to all of SciPy's solvers, which say so.
@pytest.mark.filterwarnings("ignore:The following arguments have no effect")
@pytest.mark.parametrize("method, gradient, dtype", TABLE)
def test_every_pair_works_or_raises_with_advice(method, gradient, dtype):
    if not expected_to_work(method, gradient):
        with pytest.raises(ValueError, match=r"use|take|can"):
            solve(method, gradient, dtype)
        return
    found = solve(method, gradient, dtype)
    assert all(f.dtype == dtype and bool(f.isfinite().all()) for f in found)
    if gradient == "backprop" or method in SCIPY:
        return
    plain = solve(method, "backprop", dtype)
    if gradient == "adjoint":  # as good as its tolerance and its step
        assert worst(found, plain) < (0.2 if method in ("euler", *SLOW) else 2e-2)
    elif dtype == torch.float64:  # five steps on a grid of 2^-46 = 1e-14
        assert worst(found, plain) < 1e-10
    else:  # no less accurate than backprop in that dtype, up to chance
        truth = solve(method, "backprop", torch.float64)
        ours, theirs = ([g.double() for g in route] for route in (found, plain))
        slack = 60 * torch.finfo(dtype).eps
        assert worst(ours, truth) < 3 * worst(theirs, truth) + slack


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (3,), ()])
def test_empty_batches_single_samples_and_bare_vectors(gradient, shape):
    system = so.SecondOrder(so.Autonomous(nn.Tanh()), 0.5)
    x0 = noise(*shape).requires_grad_()
    sol = so.odeint(system, (x0, None), [0.0, 0.5, 1.0], gradient=gradient)
    assert sol.x.shape == (3, *shape)
    (slope,) = torch.autograd.grad(sol.x.sum(), x0)
    assert slope.shape == shape


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
@pytest.mark.parametrize("step_size", [None, 0.1])
def test_an_empty_batch_may_have_times_of_its_own(gradient, step_size):
    system, t = so.SecondOrder(so.Autonomous(nn.Tanh()), 0.5), torch.zeros(0, 4)
    sol = so.odeint(system, (noise(0, 3), None), t, gradient=gradient,
                    step_size=step_size)  # fmt: skip
    assert sol.x.shape == sol.v.shape == (4, 0, 3)


@pytest.mark.parametrize("segments", [1, 3, 7, 50])
def test_checkpointing_any_number_of_segments_changes_no_bit(segments):
    blocks = [mlp(seed=n) for n in range(7)]
    route = functools.partial(so.checkpoint, segments=segments)
    one = gradients(so.MomentumNet(blocks, 0.9, route), noise(3, 4))
    two = gradients(so.MomentumNet(blocks, 0.9, "backprop"), noise(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_checkpointing_keeps_less_than_backprop():
    blocks, x = [mlp(8, 32)] * 100, noise(64, 8)
    backprop = counted(so.MomentumNet(blocks, 0.9, "backprop"), x)
    # What torch.utils.checkpoint holds are arguments of its segments, not saved
    # tensors: no activation of a block is packed.
    assert counted(so.MomentumNet(blocks, 0.9, "checkpoint"), x) < backprop / 8


@pytest.mark.parametrize("segments", [0, -1, 2.5])
def test_segments_must_be_a_positive_integer(segments):
    with pytest.raises(ValueError, match="`segments`"):
        so.checkpoint((), lambda t, x: x, noise(1), noise(1), segments=segments)


def test_the_adjoint_warns_when_damping_eats_the_digits():
    system = so.SecondOrder(Field(), 0.05)
    start = (noise(4, 3, dtype=torch.float64), None)
    with pytest.warns(UserWarning, match="digits.*reversible"):
        so.odeint(system, start, [0.0, 1.0], method="dopri5", gradient="adjoint")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        so.odeint(system, start, [0.0, 0.2], method="dopri5", gradient="adjoint")


@pytest.mark.parametrize("method", ["dopri5", "verlet"])
def test_constant_memory_routes_refuse_closures(method):
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    system = so.SecondOrder(lambda t, x: weight * x)
    route = "adjoint" if method == "dopri5" else "reversible"
    with pytest.raises(ValueError, match="none of its parameters"):
        so.odeint(system, (torch.ones(3).double(), None), [0.0, 1.0],
                  method=method, gradient=route)  # fmt: skip


def test_backprop_has_second_derivatives_vmap_and_compiles_whole():
    system = so.SecondOrder(lambda t, x: torch.sin(x), 0.5)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)

    def end(x0):
        return so.odeint(system, (x0, torch.zeros_like(x0)), t).x[-1]

    x0 = noise(3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(end, x0.clone().requires_grad_())
    batch = noise(5, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(end)(batch), end(batch))
    net = so.MomentumNet([nn.Linear(3, 3)] * 3, 0.9, "backprop")
    whole = torch.compile(net, backend="eager", fullgraph=True)
    x = noise(2, 3)
    torch.testing.assert_close(whole(x), net(x))


def test_gradients_are_objects_with_options():
    assert so.reversible(keep=3) == functools.partial(so.reversible, keep=3)()
    assert so.reversible(keep=3)(scale=2.0).options == {"keep": 3, "scale": 2.0}
    assert repr(so.checkpoint(segments=4)) == "checkpoint(segments=4)"
    with pytest.raises(TypeError, match="`depth` is no option.*segments"):
        so.checkpoint(depth=4)
    with pytest.raises(TypeError, match="none"):
        so.backprop(keep=1)
    with pytest.raises(ValueError, match="`keep`"):
        so.reversible(keep=-1)
    with pytest.raises(ValueError, match="runs no plan"):
        so.adjoint((), Field(), noise(3), noise(3))


def test_adjoint_fits_its_solvers_like_the_others():
    system = so.SecondOrder(Field(), 0.8)
    start = (noise(4, 3, dtype=torch.float64), None)
    one, two = (
        so.odeint(system, start, [0.0, 0.5], method="dopri5", gradient=g).x
        for g in (functools.partial(so.adjoint), "adjoint")
    )
    assert torch.equal(one, two)


def test_a_route_of_ones_own_is_a_function_of_a_plan():
    calls = []

    def counting(plan, field, x, v, args=(), *, label="mine"):
        calls.append(label)
        return so.backprop(plan, field, x, v, args)

    system, start = so.SecondOrder(Field(), 0.8), (noise(4, 3).double(), None)
    for gradient in (counting, functools.partial(counting, label="yours")):
        so.odeint(system, start, [0.0, 0.5], gradient=gradient)
    assert calls == ["mine", "yours"]


@pytest.mark.parametrize("method", ["dopri5", "scipy_RK45"])
def test_the_adjoint_refuses_a_closure_that_is_used_late(method):
    late = torch.ones(3, dtype=torch.float64, requires_grad=True)
    system = so.SecondOrder(lambda t, x: -x if t < 0.5 else -late * x)
    with pytest.raises(ValueError, match="none of its parameters"):
        so.odeint(system, (noise(2, 3).double(), None), [0.0, 1.0], method=method,
                  gradient="adjoint")  # fmt: skip
