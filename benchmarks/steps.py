"""Time per step: our fixed steps against torchdiffeq's of the same order.

    python benchmarks/steps.py [--quick] [--out FILE]

The same field f for both, torchdiffeq on the first-order form (x, v); forward passes
without and with recording for autograd, medians of alternating repetitions in one run.
A ratio below 1 means that our step takes less time.

The adaptive methods follow, on a batch of pendulums: the least CPU time of a solve
divided by its steps, accepted or not, and by its evaluations of the force.  Their
controllers look at one number per step.  diffrax is jitted, where it is installed.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path

import torch
import torchdiffeq
from torch import nn

import secondorder as so
from secondorder.monitor import MonitoredField

PAIRS = [
    ("momentum", "euler"),
    ("momentum_exponential", "euler"),
    ("verlet", "midpoint"),
    ("blanes_moan4", "rk4"),
    ("chin4", "rk4"),
]


def pendulum(t, x):
    return -torch.sin(x)


def fields():
    """A field that costs nothing, and networks that cost more than the step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
    return {
        "d=2, pendulum": (pendulum, torch.ones(2)),
        "d=256, pendulum": (pendulum, torch.ones(256)),
        "d=256, network": (so.Autonomous(net), torch.ones(1, 256)),
        "d=256, network, batch 32": (so.Autonomous(net), torch.ones(32, 256)),
    }


def seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(field, x, mine, other, steps, repeats, grad):
    """Median seconds per step of both, alternating."""
    system = so.SecondOrder(field, 1.0)
    t = torch.tensor([0.0, 1.0])
    v = torch.zeros_like(x)
    grid = {"step_size": 1.0 / steps}

    def ours():
        with torch.set_grad_enabled(grad):
            so.odeint(system, (x, v), t, method=mine, step_size=1.0 / steps)

    def theirs():
        with torch.set_grad_enabled(grad):
            torchdiffeq.odeint(system, (x, v), t, method=other, options=grid)

    if grad:
        x = x.clone().requires_grad_()
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return [statistics.median(column) / steps for column in zip(*times, strict=True)]


def solvers(x, v, end, tolerance):
    """Name and a call that returns steps and evaluations, of adaptive methods."""
    system, t = so.Newton(pendulum, damping=0.1), torch.tensor([0.0, end])
    how = {"rtol": tolerance, "atol": tolerance}
    for method in ("adaptive", "rkn6", "rkn8", "rkn12", "coupled_dopri5"):

        def ours(method=method):
            stats = so.odeint(system, (x, v), t, method=method, **how).stats
            return stats.accepted + stats.rejected, stats.evaluations

        yield method, ours
    for method, cost in (("dopri5", 6), ("dopri8", 13)):

        def theirs(method=method, cost=cost):
            field = MonitoredField(system)
            torchdiffeq.odeint(field, (x, v), t, method=method, **how)
            return field.evaluations / cost, field.evaluations

        yield f"torchdiffeq {method}", theirs
    try:
        import diffrax
        import jax
        import jax.numpy as jnp
    except ImportError:
        return
    term = diffrax.ODETerm(lambda t, y, _: (y[1], -jnp.sin(y[0]) - 0.1 * y[1]))
    start = jnp.array(x.numpy()), jnp.array(v.numpy())
    for name, cost in (("Dopri5", 6), ("Dopri8", 13)):
        pace = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        solve = jax.jit(functools.partial(
            diffrax.diffeqsolve, term, getattr(diffrax, name)(), 0.0, end, None,
            stepsize_controller=pace,
        ))  # fmt: skip

        def jitted(solve=solve, cost=cost):
            taken = int(jax.block_until_ready(solve(start)).stats["num_steps"])
            return taken, cost * taken

        yield f"diffrax {name}", jitted


def adaptive(repeats):
    """Rows of microseconds per step and per evaluation."""
    x, rows = torch.linspace(0.5, 2.0, 16).unsqueeze(-1), []
    print(f"\n{'16 pendulums, T = 20, 1e-5':<30}{'steps':>7}{'µs/step':>9}{'µs/f':>7}")
    with torch.no_grad():
        for name, call in solvers(x, torch.zeros_like(x), 20.0, 1e-5):
            call()
            taken = [seconds(call) for _ in range(repeats)]
            (steps, cost), best = call(), 1e6 * min(taken)
            rows.append({"method": name, "steps": steps, "evaluations": cost,
                         "µs per step": best / steps})  # fmt: skip
            print(f"{name:<30}{steps:>7.0f}{best / steps:>9.0f}{best / cost:>7.0f}")
    return rows


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--quick", action="store_true", help="fewer repetitions")
    text.add_argument("--steps", type=int, default=200)
    text.add_argument("--out", type=Path, metavar="FILE", help="write JSON there")
    args = text.parse_args()
    rows = []
    print(f"{'field':<30}{'autograd':<10}{'ours':<22}{'torchdiffeq':<13}"
          f"{'µs/step':>9}{'µs/step':>9}{'ratio':>7}")  # fmt: skip
    for name, (field, x) in fields().items():
        for grad in (False, True):
            for mine, other in PAIRS:
                repeats = 3 if args.quick else 15
                a, b = compare(field, x, mine, other, args.steps, repeats, grad)
                rows.append({"field": name, "autograd": grad, "ours": mine,
                             "torchdiffeq": other, "seconds": [a, b]})  # fmt: skip
                print(f"{name:<30}{'on' if grad else 'off':<10}{mine:<22}{other:<13}"
                      f"{1e6 * a:>9.1f}{1e6 * b:>9.1f}{a / b:>7.2f}")  # fmt: skip
    rows += adaptive(5 if args.quick else 20)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
