"""Wall time per step: our fixed steps against torchdiffeq's of the same order.

    python benchmarks/steps.py [--quick] [--out FILE]

The same field f for both, torchdiffeq on the first-order form (x, v); forward passes
without and with recording for autograd, medians of alternating repetitions in one run.
A ratio below 1 means that our step takes less time.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torchdiffeq
from torch import nn

import secondorder as so

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
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
