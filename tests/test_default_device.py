"""torch.set_default_device says where a user's tensors are made, not where ours are.

Under the default device "meta", which holds no numbers, whatever the library makes
without naming a device would leave the numbers of the state behind.
"""

import pytest
import torch
from problems import DragField, Field, mlp, noise
from torch import nn

import secondorder as so
from secondorder.gradients.compiled.exact import ExactSolve

F64 = torch.float64
PAIRS = [
    (method, gradient)
    for table in (so.METHODS, so.COUPLED, so.ADAPTIVE)
    for method in table
    for gradient in so.GRADIENTS
    if gradient in table[method].gradients
]
PAIRS += [("dopri5", "backprop"), ("rk4", "adjoint")]


def found(call, inputs):
    """What a call returns, and the gradients of its sum, as numbers."""
    out = call()
    total = sum(part.sum() for part in out)
    slopes = torch.autograd.grad(total, inputs, allow_unused=True)
    return [part.detach() for part in (*out, *slopes) if part is not None]


def same(call, inputs):
    expected = found(call, inputs)
    with torch.device("meta"):
        there = found(call, inputs)
    assert len(there) == len(expected) > len(inputs) / 2
    for a, b in zip(there, expected, strict=True):
        assert a.device.type == "cpu"
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("method", "gradient"), PAIRS)
def test_solves_do_not_ask_for_the_default_device(method, gradient):
    x, v = noise(4, 3, dtype=F64).requires_grad_(), noise(4, 3, dtype=F64, seed=2)
    t = torch.tensor([0.0, 0.5, 1.2], dtype=F64)
    if getattr((so.METHODS | so.ADAPTIVE).get(method), "takes_velocity", False):
        system = so.Acceleration(DragField(), damping=0.3)
    else:
        system = so.SecondOrder(Field(), epsilon=so.Positive(0.7))
    fixed = method in so.METHODS or method in ("rk4", "coupled_heun2", "coupled_rk4")

    def call():
        return so.odeint(
            system, (x, v), t, method=method, gradient=gradient,
            step_size=0.1 if fixed else None,
        )  # fmt: skip

    same(call, [x, *system.parameters()])


@pytest.mark.parametrize("rule", ["momentum", "unnormalised"])
@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_networks_do_not_ask_for_the_default_device(rule, spread):
    net = so.MomentumNet(
        [mlp(seed=n) for n in range(5)], [0.5, 0.9] * 2 + [0.7], rule=rule
    )
    x = noise(6, 4)
    x[0] *= spread
    x.requires_grad_()
    same(lambda: (net(x),), [x, *net.parameters()])
    with torch.device("meta"), torch.no_grad():
        x0, _ = net.inverse(net.state(x))
    assert torch.equal(x0, x)


@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_models_of_the_neighbourhood_do_not_either(spread):
    x = noise(6, 4)
    x[0] *= spread
    x.requires_grad_()
    for net in (
        so.related.RevNet([mlp(2, seed=n) for n in range(6)]),
        so.related.NesterovODE(Field(4, torch.float32)),
        so.related.LinOSS(4, 3),
    ):
        same(lambda net=net: (net(x),), [x, *net.parameters()])
    node = so.related.NeuralODE(Field(4, torch.float32))
    same(lambda: node.trajectory(x)(0.33), [x, *node.parameters()])


def test_times_matrices_events_and_forcing_find_the_state():
    x = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    heavy = so.Newton(
        lambda t, x: -x,
        mass=torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64),
        damping=torch.tensor([[0.3, 0.0], [0.0, 0.1]], dtype=F64),
    )
    same(lambda: so.odeint(heavy, (x, None), [0.0, 0.3, 1.0], step_size=0.1), [x])
    ball = so.Newton(lambda t, x: torch.full_like(x, -9.81))

    def fall():
        t, solution = so.odeint_event(
            ball, (x, None), 0.0, event_fn=lambda t, x, v: x[0, 0], step_size=0.1
        )
        return (t, *solution)

    same(fall, [x])
    u = so.forcing.Cubic(torch.linspace(0, 1, 5, dtype=F64), noise(5, 2, dtype=F64))
    driven = so.SecondOrder(lambda t, x, u: u - x, 0.5)
    same(
        lambda: so.odeint(
            driven, (x, None), [0.0, 1.0], step_size=0.1, forcing=u, breakpoints=[0.55]
        ),
        [x],
    )
    model = so.SecondOrderODE(so.Autonomous(nn.Linear(2, 2).double()), epsilon=0.4)
    same(lambda: (model(x),), [x, *model.parameters()])
    same(lambda: model.trajectory(x)(0.33), [x])


@pytest.mark.parametrize("method", ["rkn8", "adaptive", "verlet"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_events_find_the_state(method, per_sample):
    x = torch.tensor([[1.0], [0.6]], dtype=F64, requires_grad=True)
    ball = so.Newton(lambda t, x: torch.full_like(x, -9.81))

    def fall(end):
        solution = so.odeint(
            ball, (x, None), [0.0, end], method=method, per_sample=per_sample,
            event_fn=lambda t, x, v: x[:, 0] if per_sample else x.min(),
            on_event=lambda t, x, v: (x, -0.8 * v), max_events=3,
            step_size=0.1 if method == "verlet" else None,
        )  # fmt: skip
        return *solution, solution.events.t

    same(lambda: fall(2.0), [x])
    same(lambda: fall(0.1), [x])  # none


def test_matrices_springs_and_windows_find_the_state():
    x = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
    for numbers in (
        {"mass": so.Positive(matrix)},
        {"stiffness": matrix},
        {"mass": matrix, "damping": 0.1},
    ):
        system = so.Newton(lambda t, x: -(x**3), **numbers)
        same(lambda s=system: so.odeint(s, (x, None), [0.0, 1.0], step_size=0.1), [x])
    t = torch.linspace(0, 1, 9, dtype=F64)
    records = [(t, torch.cos(t).unsqueeze(1))]
    spring = so.Newton(lambda t, x: -x, damping=so.Positive(0.1))

    def loss():
        return so.Shooting(spring, records, step_size=0.1, window=4).loss()

    with torch.device("meta"):
        there = loss()
    # Least squares at the start depend on where LAPACK finds its memory.
    torch.testing.assert_close(there, loss())


def test_a_compiled_solve_is_laid_out_beside_the_state():
    x, t = noise(4, 3), torch.tensor([0.0, 0.5, 1.2], dtype=F64)
    field = so.Autonomous(mlp(3, 6))
    plan = so.plan.compile_plan(
        so.METHODS["verlet"], so.SecondOrder(field), t, [2, 3], x
    )
    one = ExactSolve([*plan], field, x, x, ())  # a list: nothing is kept with it
    with torch.device("meta"):
        two = ExactSolve([*plan], field, x, x, ())
    assert torch.equal(one.table.table, two.table.table)
    for factors, others in zip(one.factors, two.factors, strict=True):
        assert torch.equal(factors, others)
