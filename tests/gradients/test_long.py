"""Many equal steps: what is kept between the passes does not grow into objects."""

import gc
import tracemalloc

import pytest
import torch
from problems import Field, noise, worst

import secondorder as so
from secondorder.plan import Kick, Record, compile_plan
from secondorder.plan.moves import Timed

F64 = torch.float64


def solve(steps, gradient, method="verlet"):
    system = so.SecondOrder(Field(), 0.5)
    x0 = noise(2, 3, dtype=F64).requires_grad_()
    sol = so.odeint(system, (x0, None), [0.0, 3.0], method=method,
                    step_size=3.0 / steps, gradient=gradient)  # fmt: skip
    return sol, [x0, *system.parameters()]


def test_a_step_keeps_less_than_two_hundred_bytes():
    """100 000 steps of a small system so keep less than 20 MB in all."""
    solve(50, "reversible")  # what is imported and cached once
    kept = []
    for steps in (1500, 3000):
        gc.collect()
        tracemalloc.start()
        sol, _ = solve(steps, "reversible")
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del sol
    assert (kept[1] - kept[0]) / 1500 < 200


@pytest.mark.parametrize("method", ["verlet", "momentum", "velocity_doubling"])
def test_columns_of_times_change_no_number(method):
    if method == "velocity_doubling":
        system = so.Acceleration(lambda t, x, v: -x - 0.1 * v * v.abs() + torch.cos(t))
    else:
        system = so.SecondOrder(Field(), 0.5)
    like, t = torch.zeros(2, 3, dtype=F64), torch.linspace(0, 3, 4, dtype=F64)
    plan = compile_plan(so.METHODS[method], system, t, [400] * 3, like)
    assert isinstance(plan, Timed)
    listed = tuple(plan)
    assert plan[-1] == listed[-1] == Record(plan[-1].scale)
    assert plan[3:9] == listed[3:9]
    kicks = [move for move in listed if isinstance(move, Kick)]
    times = torch.stack([move.time for move in kicks])
    assert bool((times.diff() >= 0).all())
    x, v = noise(2, 2, 3, dtype=F64)
    for route in so.backprop, so.reversible, so.checkpoint:
        one, two = (route(p, system.field, x, v) for p in (plan, listed))
        for (a, b), (c, d) in zip(one, two, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


def test_gradients_of_many_steps_are_those_of_backprop():
    found = []
    for gradient in ("reversible", "backprop"):
        sol, wanted = solve(2000, gradient)
        found.append(torch.autograd.grad(sol.x[-1].cos().sum(), wanted))
    # 2000 roundings to the grid of 2^-46, adding up like a random walk.
    assert worst(*found) < 1e-10
