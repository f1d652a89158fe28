"""Memory against depth: what each gradient route keeps, and what theory says.

    python benchmarks/memory.py [--device cuda] [--quick] [--out FILE]

The figure of the Momentum ResNet paper, for every route and for momentumnet 0.10 where
it is installed (bench extra).  On the CPU the bytes that autograd saves are counted; on
CUDA it is what the allocator holds more after the forward pass, but for its result.

    backprop      N · (bytes a block saves)
    checkpoint    ≈ √N of both
    reversible    16 bytes per element, and log₂(1/γ)/8 bytes per element and layer
"""

import argparse
import json
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

import secondorder as so
from secondorder.monitor import SavedBytes

try:
    import momentumnet
except ImportError:
    momentumnet = None

ROUTES = ("backprop", "checkpoint", "reversible")


def block(width, hidden):
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))


def network(route, blocks, gamma):
    if route == "momentumnet":
        return momentumnet.MomentumNet(
            list(blocks),
            gamma=gamma,
            init_speed=0,
            is_residual=True,
            use_backprop=False,
        )
    return so.MomentumNet(blocks, gamma, route)


def kept(model, parameters, x):
    """Bytes that the forward pass leaves for the backward pass."""
    if not x.is_cuda:
        with SavedBytes(parameters) as saved:
            y = model(x)
        total = saved.total
        y.sum().backward()
        return total
    model(x).sum().backward()  # what libraries allocate once is there
    before = torch.cuda.memory_allocated()
    y = model(x)
    total = torch.cuda.memory_allocated() - before - y.nbytes
    y.sum().backward()
    return total


def theory(elements, depth, gamma):
    """Bytes of the reversible route: the integers at the end, and the bits pushed."""
    return elements * (16 + depth * math.log2(1 / gamma) / 8)


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--quick", action="store_true", help="up to depth 100")
    text.add_argument("--device", default="cpu")
    text.add_argument("--gamma", type=float, default=0.9)
    text.add_argument("--out", type=Path, metavar="FILE", help="JSON; a PNG beside it")
    args = text.parse_args()
    width, hidden, batch = 64, 256, 128
    depths = [10, 30, 100] if args.quick else [10, 30, 100, 300, 1000]
    # momentumnet's store is no autograd state, so only an allocator sees it.
    peers = ["momentumnet"] if momentumnet and args.device != "cpu" else []
    routes = [*ROUTES, *peers]
    torch.manual_seed(0)
    x = torch.randn(batch, width, device=args.device, requires_grad=True)
    print(f"{width}–{hidden}–{width}, batch {batch}, γ = {args.gamma:g}; MiB")
    heads = (f"{route:>13}" for route in [*routes, "theory"])
    print(f"{'depth':>6}" + "".join(heads))
    found = {route: [] for route in [*routes, "reversible, theory"]}
    for depth in depths:
        blocks = nn.ModuleList(block(width, hidden) for _ in range(depth))
        blocks.to(args.device)
        for route in routes:
            model = network(route, blocks, args.gamma)
            found[route].append(kept(model, blocks.parameters(), x))
        found["reversible, theory"].append(theory(x.numel(), depth, args.gamma))
        row = (f"{values[-1] / 2**20:>13.3f}" for values in found.values())
        print(f"{depth:>6}" + "".join(row), flush=True)
    if args.out:
        numbers = {"depth": depths, "bytes": found, "device": args.device}
        args.out.write_text(json.dumps(numbers, indent=1))
        fig = Figure(figsize=(5.6, 3.8), layout="constrained")
        so.plot.memory(depths, found, fig.subplots())
        fig.savefig(args.out.with_suffix(".png"), dpi=140)


if __name__ == "__main__":
    main()
