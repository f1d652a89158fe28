"""What a solve held is freed when its solution is dropped, not when Python tidies up.

Objects that refer to each other in a circle wait for the garbage collector, and the
states of a solve with them: memory would grow until it happens to run.
"""

import gc

import pytest
import torch
from problems import DragField, Field, mlp, noise
from torch import Tensor

import secondorder as so

TABLES = (so.METHODS, so.COUPLED, so.ADAPTIVE)
ROUTES = [
    (method, gradient)
    for table in TABLES
    for method in table
    for gradient in so.GRADIENTS
    if gradient in table[method].gradients
]
ROUTES += [("dopri5", "backprop"), ("dopri5", "adjoint"), ("rk4", "backprop")]


def waiting(call):
    """Tensors that wait for the garbage collector after a call."""
    call()  # what is imported and kept once
    gc.freeze()  # what there is already is not looked at
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        call()
        gc.collect()
        return [value for value in gc.garbage if isinstance(value, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize(("method", "gradient"), ROUTES)
def test_solves_leave_no_tensor_behind(method, gradient, event):
    table = so.METHODS | so.COUPLED
    doubled = getattr(table.get(method), "takes_velocity", False)
    system = so.Acceleration(DragField()) if doubled else so.SecondOrder(Field(), 0.7)
    more = {"step_size": 0.25} if method in table else {}
    if event and method not in ("dopri5", "rk4"):
        more["event_fn"] = lambda t, x, v: x.sum() - 9.0

    def call():
        x = noise(2, 3, dtype=torch.float64).requires_grad_()
        solution = so.odeint(
            system, (x, None), [0.0, 0.5, 1.0], method=method, gradient=gradient, **more
        )
        (solution.x.sum() + solution(0.3)[0].sum()).backward()

    assert not waiting(call)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("gradient", "compile"),
    [("checkpoint", False)]  # which has no compiled form
    + [
        (name, compile)
        for name in ("backprop", "reversible")
        for compile in (False, True)
    ],
)
def test_networks_leave_no_tensor_behind(gradient, compile):
    blocks = [mlp(seed=n) for n in range(4)]
    net = so.MomentumNet(blocks, gamma=0.9, gradient=gradient, compile=compile)
    model = so.SecondOrderODE(
        so.Autonomous(mlp()), steps=4, gradient=gradient, compile=compile
    )
    x = noise(5, 4)

    def call():
        (net(x).sum() + model(x).sum() + model.trajectory(x).x.sum()).backward()

    assert not waiting(call)


def test_states_on_the_grid_leave_no_tensor_behind():
    net = so.MomentumNet([mlp(seed=n) for n in range(4)], gamma=0.9)

    def call():
        with torch.no_grad():
            net.inverse(net.state(noise(5, 4)))

    assert not waiting(call)
