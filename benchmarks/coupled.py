"""Coupled Runge–Kutta methods beside what else differentiates an ODE.

    python benchmarks/coupled.py [--quick] [--out FILE]

Three problems with learned weights: van der Pol's limit cycle (μ = 5), a fall with
quadratic drag, and a neural ODE ẋ = f(t, x) that classifies.  In each, the same number
of steps by

    rk4, backprop             torchdiffeq's, every activation kept: what the others are
                              measured by in time and memory
    rk4, adjoint              torchdiffeq's continuous adjoint
    coupled_rk4, reversible   ours
    coupled at λ = 0.99       the float coupling: how far its way back misses the start
    velocity_doubling         ours, where the force sees a velocity

Errors are relative, of the end state and of all gradients together, against
coupled_dopri5 in float64 and a quarter of the step.  Time is that of a forward and a
backward pass, medians of alternating repetitions on one thread.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from pathlib import Path

import torch
import torchdiffeq
from torch import nn

import secondorder as so
from secondorder.methods.joined import Form
from secondorder.monitor import SavedBytes
from secondorder.plan import reverse, walk
from secondorder.plan.coupling import coupled_plan
from secondorder.plan.runge_kutta import RK4
from secondorder.systems import check_problem


class VanDerPol(nn.Module):
    """μ (1 − x²) v − x."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(5.0))

    def forward(self, t, x, v):
        """Return the acceleration."""
        return self.mu * (1 - x**2) * v - x


class Drag(nn.Module):
    """−g − k v|v| with a gust of wind."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.3))

    def forward(self, t, x, v):
        """Return the acceleration."""
        return -1.0 - self.k * v * v.abs() + 0.5 * torch.sin(t)


def problems(quick):
    """System, start, end and steps of each problem."""
    torch.manual_seed(0)
    part = 4 if quick else 1
    pol = so.Acceleration(VanDerPol())
    yield (
        "van der Pol, μ = 5",
        pol,
        (torch.full((1, 1), 0.1),),
        20.0 / part,
        640 // part,
    )
    fall = so.Acceleration(Drag())
    yield "quadratic drag", fall, (torch.ones(64, 3),), 5.0, 200 // part
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))
    node = so.FirstOrder(so.Autonomous(net))
    yield (
        "neural ODE classifier",
        node,
        (so.data.nested_rings(256)[0],),
        4.0,
        400 // part,
    )


def loss(x):
    return x.square().mean() + x.sin().sum()


def solve(system, start, end, method, gradient, steps):
    """End state and gradients; None where a method gives up."""
    x = start.clone().requires_grad_()
    state = x if system.first_order else (x, None)
    t = torch.tensor([0.0, end], dtype=torch.float64)
    saved = SavedBytes([x, *system.parameters()])
    begin = time.perf_counter()
    with saved:
        path = so.odeint(
            system, state, t, method=method, step_size=end / steps, gradient=gradient
        )
    value = path.x[-1]
    kept = saved.total
    grads = torch.autograd.grad(loss(value), [x, *system.parameters()])
    return value, grads, kept, time.perf_counter() - begin


def relative(found, wanted):
    """Of several tensors together."""
    found, wanted = (
        torch.cat([part.detach().reshape(-1).double() for part in parts])
        for parts in (found, wanted)
    )
    error = ((found - wanted).norm() / wanted.norm()).item()
    return error if math.isfinite(error) else math.inf


def float_coupling(system, start, end, steps, share=0.99):
    """Error of the way back of the coupling in floating point."""
    state = start if system.first_order else (start, None)
    form = Form.of(check_problem(system, state, [0.0, end]))
    t = torch.tensor([0.0, end], dtype=torch.float64)
    with torch.no_grad():
        plan = coupled_plan(RK4, share, t, [steps], form.start)
        y = form.start
        _, (one, two, _) = walk(plan, form.field, y, y, form.args)
        _, (back, *_) = walk(reverse(plan), form.field, one, two, form.args)
    return relative([form.leave(one)[0]], [start]), relative([back], [y]), one, form


def rows(system, start, end, steps, repeats):
    """One row for each way: error, gradient error, memory and time as ratios."""
    wide = {p: p.detach().clone() for p in system.parameters()}
    system.double()
    exact = solve(
        system, start.double(), end, "coupled_dopri5", "checkpoint", 4 * steps
    )
    system.float()
    for parameter, value in wide.items():
        parameter.data.copy_(value)
    ways = [("rk4", "backprop"), ("rk4", "adjoint"), ("coupled_rk4", "reversible")]
    if not system.first_order:
        ways.append(("velocity_doubling", "reversible"))
    runs = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    runs[way].append(solve(system, start, end, *way, steps))
                except RuntimeError as error:
                    runs[way] = [str(error)]
    base = runs[ways[0]]
    for (method, gradient), found in runs.items():
        if isinstance(found[0], str):
            yield {"way": f"{method}, {gradient}", "raises": found[0][:60]}
            continue
        value, grads, kept, _ = found[0]
        seconds = (statistics.median(r[3] for r in many) for many in (found, base))
        ours, theirs = seconds
        yield {
            "way": f"{method}, {gradient}",
            "error": relative([value], [exact[0]]),
            "gradient": relative(grads, exact[1]),
            # The adjoint's graphs live a moment each: what it keeps are the states.
            **({} if gradient == "adjoint" else {"memory": kept / base[0][2]}),
            "time": ours / theirs,
        }
    _, missed, one, form = float_coupling(system, start, end, steps)
    yield {
        "way": "coupled, floats, λ = 0.99",
        "error": relative([form.leave(one)[0]], [exact[0]]),
        "back": missed,
    }


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--quick", action="store_true", help="shorter, fewer repetitions")
    text.add_argument("--out", type=Path, metavar="FILE", help="write JSON there")
    args = text.parse_args()
    torch.set_num_threads(1)
    results = {}
    print(f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}; time and")
    print("memory as ratios to torchdiffeq's rk4 with backprop")
    for name, system, (start,), end, steps in problems(args.quick):
        print(f"\n{name}, {steps} steps")
        head = ("error", "gradient", "memory", "time", "back")
        print(f"  {'':<30}" + "".join(f"{title:>10}" for title in head))
        results[name] = []
        for row in rows(system, start, end, steps, 1 if args.quick else 5):
            results[name].append(row)
            if "raises" in row:
                print(f"  {row['way']:<30}  raises: {row['raises']}…")
                continue
            cells = [f"{row[key]:.3g}" if key in row else "" for key in head]
            print(f"  {row['way']:<30}" + "".join(f"{cell:>10}" for cell in cells))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
