"""Time and memory of the gradient routes of a Momentum ResNet, beside momentumnet.

    python benchmarks/gradients.py [--quick] [--only BLOCK ...] [--out DIR]

For an MLP, a convolution with BatchNorm and a transformer layer, at depth 10, 100 and
1000: process time of one forward and backward pass as a ratio to plain backprop
(the least of alternating repetitions in one process after a warm-up), peak memory
(growth of the resident set during a pass in a child process, gradients of the weights
included, which backprop allocates as it frees activations; Linux), and the relative
error of the gradient against float64 backprop.  The goal is the row `wide`,
where the block dominates: at most 1.40, of which 4/3 is the recomputed forward pass.
"""

import argparse
import contextlib
import copy
import ctypes
import gc
import json
import multiprocessing
import time
from pathlib import Path

import torch
from torch import nn

import secondorder as so

ROUTES = ("backprop", "checkpoint each", "checkpoint √N", "reversible", "momentumnet")
GAMMA = 0.9


def mlp(d, hidden):
    return nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, d))


def conv(channels):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


class Encoder(nn.Module):
    """What one transformer layer adds to its input."""

    def __init__(self, d, heads):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            d, heads, 2 * d, dropout=0.0, batch_first=True
        )

    def forward(self, x):
        """Subtract the skip connection again."""
        return self.layer(x) - x


# block, input shape for a depth
CASES = {
    "mlp": (lambda: mlp(64, 256), {10: (1024, 64), 100: (256, 64), 1000: (128, 64)}),
    "conv": (
        lambda: conv(16),
        {10: (32, 16, 16, 16), 100: (8, 16, 16, 16), 1000: (2, 16, 16, 16)},
    ),
    "encoder": (
        lambda: Encoder(32, 4),
        {10: (16, 32, 32), 100: (4, 32, 32), 1000: (1, 32, 32)},
    ),
    "tiny": (lambda: mlp(2, 16), {40: (256, 2)}),
    "wide": (lambda: mlp(256, 1024), {40: (512, 256)}),
}


def blocks_of(case, depth):
    """Blocks whose last layer is scaled by depth^-1/2, as at initialisation."""
    torch.manual_seed(0)
    blocks = [CASES[case][0]() for _ in range(depth)]
    with torch.no_grad():
        for block in blocks:
            last = [m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            last[-1].weight *= depth**-0.5
    return blocks


def network(route, blocks):
    """The same network by a route; None where the package is missing."""
    if route == "momentumnet":
        try:
            import momentumnet
        except ImportError:
            return None
        return momentumnet.MomentumNet(
            blocks, gamma=GAMMA, is_residual=True, use_backprop=False
        )
    gradient = {
        "checkpoint each": so.checkpoint(segments=len(blocks)),
        "checkpoint √N": "checkpoint",
    }.get(route, route)
    return so.MomentumNet(blocks, GAMMA, gradient)


def present():
    """Routes whose package is installed."""
    return [route for route in ROUTES if network(route, [mlp(1, 1)]) is not None]


def passes(net, x):
    """Take one forward and one backward pass."""
    net(x).square().sum().backward()


def times(case, depth, repetitions):
    """Least process time of each route, in seconds, runs of the routes alternating."""
    blocks, shape = blocks_of(case, depth), CASES[case][1][depth]
    x = torch.randn(shape, requires_grad=True)
    nets = {route: network(route, blocks) for route in ROUTES}
    seconds = {route: [] for route, net in nets.items() if net is not None}
    for repetition in range(repetitions + 1):
        for route in seconds:
            gc.collect()
            start = time.process_time()
            passes(nets[route], x)
            if repetition:  # the first one warms up
                seconds[route].append(time.process_time() - start)
    return {route: min(s) for route, s in seconds.items()}


def errors(case, depth):
    """Largest gradient error of each route, relative to float64 backprop."""
    blocks, shape = blocks_of(case, depth), CASES[case][1][depth]
    x = torch.randn((min(shape[0], 4), *shape[1:]))

    def gradient(net, x):
        x = x.clone().requires_grad_()
        net.zero_grad()
        passes(net, x)
        return [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]

    truth = gradient(copy.deepcopy(network("backprop", blocks)).double(), x.double())
    scale = max(g.abs().max() for g in truth)
    found = {}
    for route in ROUTES:
        net = network(route, blocks)
        if net is not None:
            pairs = zip(gradient(net, x), truth, strict=True)
            found[route] = max(((a - b).abs().max() / scale).item() for a, b in pairs)
    return found


def peak(case, depth, route):
    """Growth of the resident set in MiB during a pass, in a child process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(growth, (case, depth, route))


def growth(case, depth, route):
    """Growth of the resident set in MiB; two layers first, which load everything."""
    # Tensors of 64 KiB and more get pages of their own, which are returned when freed;
    # from the heap they would hide in what is left from before.
    c = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # not glibc
        c.mallopt(-3, 65536)
    blocks, shape = blocks_of(case, depth), CASES[case][1][depth]
    net = network(route, blocks)
    passes(network(route, blocks[:2]), torch.randn((2, *shape[1:]), requires_grad=True))
    x = torch.randn(shape, requires_grad=True)
    net.zero_grad()
    gc.collect()
    with contextlib.suppress(AttributeError):
        c.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    passes(net, x)
    return (resident("VmHWM") - before) / 1024


def resident(key):
    """A figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def show(rows):
    """Print a table, one line per route."""
    header = f"{'block':9}{'depth':>6}  {'route':17}{'time':>6}{'MiB':>8}{'error':>10}"
    print(header, "-" * len(header), sep="\n")
    for row in rows:
        print(
            f"{row['block']:9}{row['depth']:>6}  {row['route']:17}{row['time']:>6.2f}"
            f"{row['MiB']:>8.1f}{row['error']:>10.1e}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="depth up to 40")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--depth", nargs="+", type=int, help="only these depths")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in options.only:
        shapes = CASES[case][1]
        wanted = options.depth or [d for d in shapes if d <= 40 or not options.quick]
        for depth in (d for d in shapes if d in wanted):
            memory = {route: peak(case, depth, route) for route in present()}
            count = max(3, options.repetitions // (1 + depth // 500))
            seconds, wrong = times(case, depth, count), errors(case, depth)
            rows += [
                {
                    "block": case,
                    "depth": depth,
                    "route": route,
                    "time": seconds[route] / seconds["backprop"],
                    "MiB": memory[route],
                    "error": wrong[route],
                }
                for route in seconds
            ]
            show(rows[-len(seconds) :])
    if "momentumnet" not in {row["route"] for row in rows}:
        print("momentumnet is not installed: pip install secondorder[bench]")
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.out / "gradients.json"
    report.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))
    print(f"\nall rows in {report}")


if __name__ == "__main__":
    main()
