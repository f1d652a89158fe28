"""Counted memory: the bytes that every gradient route keeps for the backward pass.

A Momentum ResNet of small blocks, deeper and deeper.  Every tensor that autograd saves
passes through ``saved_tensors_hooks``; the weights, which are there anyway, do not
count, and tensors that share memory count once.
"""

import argparse
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import plot
from ..models import MomentumNet
from ..monitor import SavedBytes
from .arguments import common, count, parse, replaceable, write_json

ROUTES = ("backprop", "checkpoint", "reversible")


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of all distinct storages saved for the backward pass of ``model(x)``.

    Parameters
    ----------
    model : nn.Module
    x : Tensor

    Returns
    -------
    int
        Without the parameters of the model.
    """
    with SavedBytes(model.parameters()) as saved:
        y = model(x)
    total = saved.total
    del y
    return total


def network(
    depth: int,
    width: int,
    hidden: int,
    gamma: float,
    gradient: str,
    activation: type[nn.Module] = nn.ReLU,
) -> MomentumNet:
    """Blocks Linear–activation–Linear, ``depth`` of them."""
    blocks = [
        nn.Sequential(nn.Linear(width, hidden), activation(), nn.Linear(hidden, width))
        for _ in range(depth)
    ]
    return MomentumNet(blocks, gamma=gamma, gradient=gradient)


def parser() -> argparse.ArgumentParser:
    """Build the command line of ``python -m secondorder memory``."""
    text = argparse.ArgumentParser(
        prog="python -m secondorder memory",
        description="Count the bytes that each gradient route keeps, against depth.",
    )
    common(text, "memory.png", None)
    text.add_argument(
        "--depth",
        type=count,
        nargs="+",
        default=[10, 30, 100, 300, 1000],
        help="numbers of layers (default: 10 30 100 300 1000)",
    )
    text.add_argument("--gamma", type=float, default=0.9, help="γ (default: 0.9)")
    text.add_argument("--width", type=count, default=32, help="d (default: 32)")
    text.add_argument("--batch", type=count, default=64, help="samples (default: 64)")
    return text


def check(text: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what a network of one layer refuses, and a figure that cannot be made."""
    try:
        for route in ROUTES:
            saved_bytes(network(1, 1, 1, args.gamma, route), torch.zeros(1, 1))
    except ValueError as error:
        text.error(f"argument --gamma: {error}")
    if args.out:
        replaceable(text, [args.out / "memory.png"])


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print; return the exit status."""
    args, _ = parse(text := parser(), argv)
    check(text, args)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.batch, args.width, generator=generator)
    elements = x.numel()
    print(
        f"MomentumNet, γ = {args.gamma:g}, state of {args.batch} × {args.width} "
        f"float32, {elements * 4 / 1024:g} KiB; kept for the backward pass [KiB]\n"
    )
    print(f"{'depth':>6}" + "".join(f"{route:>14}" for route in ROUTES))
    counted: dict[str, list[int]] = {route: [] for route in ROUTES}
    for depth in args.depth:
        for route in ROUTES:
            model = network(depth, args.width, args.width, args.gamma, route)
            counted[route].append(saved_bytes(model, x))
        cells = (f"{counted[route][-1] / 1024:>14.1f}" for route in ROUTES)
        print(f"{depth:>6}" + "".join(cells), flush=True)
    numbers = {n: getattr(args, n) for n in ("depth", "gamma", "width", "batch")}
    write_json(args.json, {**numbers, "bytes": counted})
    if args.out:
        fig = Figure(figsize=(5, 3.6), layout="constrained")
        plot.memory(args.depth, counted, fig.subplots())
        fig.savefig(args.out / "memory.png", dpi=140)
        print(f"\n{args.out / 'memory.png'}")
    return 0
