"""How time and memory grow with steps, batch and dimension, for each gradient route.

    python benchmarks/scaling.py [--quick] [--out DIR]

One forward and backward pass of ε ẍ + ẋ = f over t in [0, 1] by `verlet`, f a network
d → 16 → d with tanh, on one thread.  Each measurement has a process of its own: CPU
time of the pass (the least of three where it takes less than a second), and growth of
the resident set during it, everything that Python and torch hold included (Linux).
The exponent p of cost ∝ sizeᵖ is fitted to the three largest sizes of a sweep; memory
that does not grow by a tenth of a MiB says nothing and is left out.
"""

import argparse
import ctypes
import gc
import json
import math
import multiprocessing
import time
from pathlib import Path

import torch
from gradients import mlp, resident
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

import secondorder as so
from secondorder.plot.style import COLORS, MARKERS

ROUTES = ("backprop", "checkpoint", "reversible")
# name: (sizes, those of --quick, the other numbers)
SWEEPS = {
    "steps": (
        [10, 100, 1000, 10_000, 100_000, 1_000_000],
        [10, 100, 1000, 10_000],
        {"batch": 1, "d": 2},
    ),
    "batch": (
        [1, 16, 256, 4096, 16_384, 65_536],
        [1, 256, 4096, 16_384],
        {"steps": 50, "d": 2},
    ),
    "d": ([1, 4, 16, 64, 256, 1024], [4, 64, 256, 1024], {"steps": 50, "batch": 256}),
}
MOST_STEPS = {"backprop": 100_000, "checkpoint": 100_000}  # more would take gigabytes
LEAST = 0.1  # MiB that can be told from the noise of an allocator


def passes(route, steps, batch, d):
    """A call of both passes."""
    torch.manual_seed(0)
    field = so.Autonomous(mlp(d, 16))
    model = so.SecondOrderODE(field, t1=1.0, steps=steps, gradient=route)
    x = torch.randn(batch, d)

    def call():
        model(x.clone().requires_grad_()).sum().backward()
        model.zero_grad()

    return call


def cost(route, numbers):
    """Seconds and MiB of one pass, in this process."""
    torch.set_num_threads(1)
    c = ctypes.CDLL(None)
    # Pages of their own for tensors from 64 KiB on; they go back when freed.
    c.mallopt(-3, 65536)
    passes(route, 3, 2, numbers["d"])()  # loads everything
    call = passes(route, **numbers)
    gc.collect()
    c.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, seconds = resident("VmRSS"), math.inf
    for repeat in range(3):
        start = time.process_time()
        call()
        seconds = min(seconds, time.process_time() - start)
        if repeat == 0:
            grown = (resident("VmHWM") - before) / 1024
        if seconds > 1:
            break
    return seconds, grown


def measure(quick):
    """One row for each size of each sweep and each route."""
    rows = []
    for sweep, (sizes, few, others) in SWEEPS.items():
        for size in few if quick else sizes:
            numbers = {**others, sweep: size}
            for route in ROUTES:
                if numbers["steps"] > MOST_STEPS.get(route, math.inf):
                    continue
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    seconds, grown = pool.apply(cost, (route, numbers))
                row = {"sweep": sweep, "route": route, **numbers}
                rows.append({**row, "seconds": seconds, "MiB": grown})
                print(f"{sweep} = {size:<8} {route:11}{seconds:9.3f} s"
                      f"{grown:9.1f} MiB", flush=True)  # fmt: skip
    return rows


def exponent(rows, key):
    """The slope of log cost over log size for the three largest sizes."""
    least = LEAST if key == "MiB" else 0
    points = [(math.log(row[row["sweep"]]), math.log(row[key]))
              for row in rows if row[key] > least][-3:]  # fmt: skip
    if len(points) < 2:
        return math.nan
    x, y = torch.tensor(points, dtype=torch.float64).unbind(1)
    x = x - x.mean()
    return (x @ y / (x @ x)).item()


def chosen(rows, sweep, route):
    """The rows of one curve."""
    return [r for r in rows if r["sweep"] == sweep and r["route"] == route]


def table(rows):
    """The fitted exponents, and both costs at the largest size of each route."""
    found = []
    print(f"\n{'':8}{'':12}{'time ∝':>12}{'memory ∝':>14}   at")
    for sweep in SWEEPS:
        for route in ROUTES:
            own = chosen(rows, sweep, route)
            time_, memory = exponent(own, "seconds"), exponent(own, "MiB")
            found.append({"sweep": sweep, "route": route, "time": time_,
                          "memory": memory})  # fmt: skip
            powers = [f"{sweep}^{p:.2f}" if p == p else "–" for p in (time_, memory)]
            last = own[-1]
            print(f"{sweep:8}{route:12}{powers[0]:>12}{powers[1]:>14}   {last[sweep]}: "
                  f"{last['seconds']:.3g} s, {last['MiB']:.3g} MiB")  # fmt: skip
    return found


def picture(rows, exponents, path):
    """Time above, memory below, a column for each sweep."""
    fig = Figure(figsize=(10, 5.6), layout="constrained")
    panels = fig.subplots(2, len(SWEEPS), sharex="col", sharey="row")
    for column, (sweep, (_, _, others)) in zip(panels.T, SWEEPS.items(), strict=True):
        for ax, key, kind in zip(column, ("seconds", "MiB"), ("time", "memory"),
                                 strict=True):  # fmt: skip
            for n, route in enumerate(ROUTES):
                own = chosen(rows, sweep, route)
                power = next(e[kind] for e in exponents
                             if (e["sweep"], e["route"]) == (sweep, route))  # fmt: skip
                label = f"{route}, {power:.2f}" if power == power else route
                values = [max(r[key], LEAST) if key == "MiB" else r[key] for r in own]
                ax.plot([r[sweep] for r in own], values, color=COLORS[n],
                        marker=MARKERS[n], label=label)  # fmt: skip
            ax.set(xscale="log", yscale="log")
            ax.grid(alpha=0.3)
            ax.legend(title="exponent", fontsize=8, title_fontsize=8)
        fixed = ", ".join(f"{name} {value}" for name, value in others.items())
        column[0].set_title(f"growing {sweep}\n({fixed})", fontsize=10)
        column[1].set_xlabel(sweep)
    panels[0, 0].set_ylabel("CPU seconds, both passes")
    panels[1, 0].set_ylabel("growth of memory, MiB")
    plainly = FuncFormatter(lambda y, _: f"{y:g}")
    for ax in panels.ravel():
        ax.yaxis.set_major_formatter(plainly)
    fig.savefig(path, dpi=140)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 10⁴ steps")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    options = parser.parse_args()
    rows = measure(options.quick)
    exponents = table(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"torch": torch.__version__, "rows": rows, "exponents": exponents}
    (options.out / "scaling.json").write_text(json.dumps(report, indent=1))
    picture(rows, exponents, options.out / "scaling.png")
    print(f"\nall rows and the figure in {options.out}")


if __name__ == "__main__":
    main()
