"""Small problems, where overhead decides: our routes and others in one table.

    python benchmarks/small_problems.py [--quick] [--out DIR]

Forward and backward pass of 50 steps of a field d → h → d with tanh, on one thread,
divided by a plain hand-written momentum loop with backprop: 1 is that loop.  All take
turns of three calls in a row, as training makes them, the first of which finds the
processor's caches filled by another contestant; a ratio is the median over turns of the
best call divided by the loop's best in the same turn, so that what slows the machine
for a while slows both.  It is wall time: XLA waits busily, beside the thread that
works, and CPU time would count both.  What compiles does so before, and what that took
(CPU time, compilers and all) stands in a column of its own.  torchdiffeq,
diffrax (in a jitted ``value_and_grad``) and momentumnet where they are installed (the
extra ``bench``); a step of another method is another amount of work, as the evaluations
a step say.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from statistics import median

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import torch
import torchdiffeq
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import nn

import secondorder as so
from secondorder.plot.style import COLORS, MARKERS

STEPS, GAMMA = 50, 0.9
SIZES = [(1, 16, 1), (2, 16, 1), (2, 16, 64), (2, 16, 256), (4, 32, 64)]  # d, h, batch
QUICK = [(2, 16, 256)]
METHODS = {"momentum": 1, "verlet": 1, "chin4": 4, "blanes_moan4": 6}
EPSILON = 1 / STEPS / -torch.tensor(GAMMA).log().item()  # γ = e^{−h/ε}, h = 1/50


def network(d, h):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, h), nn.Tanh(), nn.Linear(h, d))


def trained(net, x, end):
    """A call of both passes."""

    def call():
        start = x.clone().requires_grad_()
        end(start).sum().backward()
        net.zero_grad()

    return call


def plain(net):
    def end(x):
        v = torch.zeros_like(x)
        for _ in range(STEPS):
            v = GAMMA * v + (1 - GAMMA) * net(x)
            x = x + v
        return x

    return end


def ours(field, method, gradient, compiled):
    """One of secondorder's routes."""
    more = {"method": method, "gradient": gradient, "compile": compiled}
    if method == "momentum":
        return so.SecondOrderODE(field, gamma=GAMMA, steps=STEPS, t1=STEPS, **more)
    if method in METHODS:
        return so.SecondOrderODE(field, epsilon=EPSILON, t1=1.0, steps=STEPS, **more)
    system, times = so.SecondOrder(field, EPSILON), torch.tensor([0.0, 1.0])

    def end(x):
        how = {"rtol": 1e-4, "atol": 1e-4}
        return so.odeint(system, (x, None), times, **more, **how).x[-1]

    return end


def theirs(net, method, adjoint=False):
    """One of torchdiffeq's on the first-order form."""
    system = so.SecondOrder(so.Autonomous(net), EPSILON)
    solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    times = torch.tensor([0.0, 1.0])
    how = {"method": method, "options": {"step_size": 1 / STEPS}}
    if adjoint:
        how["adjoint_params"] = tuple(net.parameters())

    def end(x):
        return solve(system, (x, torch.zeros_like(x)), times, **how)[0][-1]

    return end


def momentumnets(net, backprop):
    import momentumnet

    return momentumnet.MomentumNet(
        [net] * STEPS, gamma=GAMMA, use_backprop=backprop, is_residual=True
    )


def diffraxes(net, x, name):
    """Both passes in one jitted call."""
    import diffrax
    import jax
    import jax.numpy as jnp

    weights = [jnp.array(p.detach().numpy()) for p in net.parameters()]

    def force(x, weights):
        a, b, c, d = weights
        return jnp.tanh(x @ a.T + b) @ c.T + d

    solver, rate = getattr(diffrax, name)(), 1 / EPSILON
    if name == "SemiImplicitEuler":  # in the gauge p = e^{λt} v, which it can split
        terms = (
            diffrax.ODETerm(lambda t, p, w: jnp.exp(-rate * t) * p),
            diffrax.ODETerm(lambda t, x, w: jnp.exp(rate * t) * rate * force(x, w)),
        )
    else:
        terms = diffrax.ODETerm(lambda t, y, w: (y[1], rate * (force(y[0], w) - y[1])))

    def loss(x, weights):
        sol = diffrax.diffeqsolve(
            terms, solver, 0.0, 1.0, 1 / STEPS, (x, jnp.zeros_like(x)), args=weights,
            saveat=diffrax.SaveAt(t1=True), max_steps=STEPS + 2,
        )  # fmt: skip
        return sol.ys[0].sum()

    both, start = jax.jit(jax.value_and_grad(loss, (0, 1))), jnp.array(x.numpy())
    return lambda: jax.block_until_ready(both(start, weights))


def contestants(net, x):
    """Name, evaluations a step and a call of both passes."""
    yield "plain loop", 1, trained(net, x, plain(net))
    field = so.Autonomous(net)  # shared: what one method compiled, another one uses
    for method, cost in {**METHODS, "adaptive": None}.items():
        for gradient in ("backprop", "reversible"):
            for compiled in (False, True) if method in METHODS else (False,):
                name = f"{method} {gradient}{', compiled' if compiled else ''}"
                end = ours(field, method, gradient, compiled)
                yield name, cost, trained(net, x, end)
    for method, cost in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        yield f"torchdiffeq {method}", cost, trained(net, x, theirs(net, method))
    yield "torchdiffeq euler adjoint", 1, trained(net, x, theirs(net, "euler", True))
    try:
        for name, backprop in (("backprop", True), ("reversible", False)):
            call = trained(net, x, momentumnets(net, backprop))
            yield f"momentumnet {name}", 1, call
    except ImportError:
        print("momentumnet is not installed: pip install secondorder[bench]")
    try:
        for name, cost in (("SemiImplicitEuler", 1), ("Tsit5", 6)):
            yield f"diffrax {name}", cost, diffraxes(net, x, name)
    except ImportError:
        print("diffrax is not installed: pip install secondorder[bench]")


def seconds(call, clock=time.perf_counter):
    begin = clock()
    call()
    return clock() - begin


def with_compilers():
    """CPU time of this process and of those it has started and waited for."""
    return sum(os.times()[:4])


def measure(size, repeats):
    """Rows of one size: ratios, seconds, and those of the first call."""
    d, h, batch = size
    net = network(d, h)
    x = torch.randn(batch, d)
    calls = {}
    for name, cost, call in contestants(net, x):
        calls[name] = (cost, call, seconds(call, with_compilers))
        print(f"  {name}: first call {calls[name][2]:.2f} s", flush=True)
    turns = [
        {
            name: min(seconds(call) for _ in range(3))
            for name, (_, call, _) in calls.items()
        }
        for _ in range(repeats)
    ]
    return [
        {"d": d, "h": h, "batch": batch, "name": name, "evaluations": cost,
         "ratio": median(turn[name] / turn["plain loop"] for turn in turns),
         "seconds": median(turn[name] for turn in turns), "first": first}
        for name, (cost, _, first) in calls.items()
    ]  # fmt: skip


def label(row):
    return f"{row['d']}–{row['h']}–{row['d']}, batch {row['batch']}"


def table(rows):
    """The ratios, one column a size, and the dearest first call."""
    sizes = list(dict.fromkeys(label(r) for r in rows))
    print(f"\n{'ratio to the plain loop':<34}" + "".join(f"{s:>19}" for s in sizes)
          + f"{'first call':>13}")  # fmt: skip
    for name in dict.fromkeys(r["name"] for r in rows):
        own = {label(r): r for r in rows if r["name"] == name}
        cells = "".join(f"{own[s]['ratio']:>19.2f}" for s in sizes)
        print(f"{name:<34}{cells}{max(r['first'] for r in own.values()):>11.1f} s")


def picture(rows, path):
    """Ratios on a logarithmic axis, one mark a size."""
    names = list(dict.fromkeys(r["name"] for r in rows))[::-1]
    fig = Figure(figsize=(8, 0.24 * len(names) + 1.4), layout="constrained")
    ax = fig.subplots()
    for n, size in enumerate(dict.fromkeys(map(label, rows))):
        own = [r for r in rows if label(r) == size]
        ax.plot([r["ratio"] for r in own], [names.index(r["name"]) for r in own],
                MARKERS[n], color=COLORS[n], label=size)  # fmt: skip
    ax.axvline(1.0, color="0.4", linewidth=1)
    ax.set(xscale="log", xlabel="time of both passes ÷ plain loop with backprop")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set_yticks(range(len(names)), names)
    ax.grid(alpha=0.3)
    fig.legend(loc="outside upper center", ncols=4)
    fig.savefig(path, dpi=140)


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--quick", action="store_true", help="one size, 5 turns")
    text.add_argument(
        "--out", type=Path, metavar="DIR", help="write JSON and PNG there"
    )
    args = text.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("always", so.CompileWarning)  # what did not compile is told
    rows = []
    for size in QUICK if args.quick else SIZES:
        print(f"d, h, batch = {size}")
        rows += measure(size, 5 if args.quick else 20)
    table(rows)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"torch": torch.__version__, "rows": rows}, indent=1)
        (args.out / "small_problems.json").write_text(text)
        picture(rows, args.out / "small_problems.png")


if __name__ == "__main__":
    main()
