"""Time and memory of the gradient routes on this machine, as ratios to backprop.

A Momentum ResNet of small, medium and wide blocks, forward and backward; the routes
take turns, and the least time of each counts.  The memory is what the forward pass
leaves for the backward pass: what CUDA's allocator holds more, elsewhere what autograd
saves.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .arguments import common, count, parse, write_json
from .memory import ROUTES, network, saved_bytes
from .tables import table


class Size(NamedTuple):
    """Blocks Linear–Tanh–Linear, so wide and so many, and their batch."""

    width: int
    hidden: int
    batch: int
    depth: int

    def __str__(self) -> str:
        """As in the table."""
        shape = f"{self.width}–{self.hidden}–{self.width}"
        return f"{shape}, batch {self.batch}, {self.depth} layers"


SIZES = (Size(2, 16, 256, 50), Size(64, 256, 128, 100), Size(256, 1024, 512, 20))


def seconds(model: nn.Module, x: Tensor) -> float:
    """Time of one forward and backward pass."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    model.zero_grad()
    wait()
    begin = time.perf_counter()
    model(x).square().mean().backward()
    wait()
    return time.perf_counter() - begin


def kept(model: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass leaves for the backward pass."""
    if not x.is_cuda:
        return saved_bytes(model, x)
    before = torch.cuda.memory_allocated()
    y = model(x)
    return torch.cuda.memory_allocated() - before - y.nbytes


def measure(size: Size, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """One row for each route: seconds, ratio to backprop, bytes."""
    x = torch.randn(size.batch, size.width, device=device)
    shape = size.depth, size.width, size.hidden
    models = {
        route: network(*shape, 0.9, route, nn.Tanh).to(device) for route in ROUTES
    }
    bytes_ = {}
    for route, model in models.items():
        seconds(model, x)  # to warm up
        bytes_[route] = kept(model, x)
    times = {route: [seconds(models[route], x)] for route in ROUTES}
    for _ in range(repeats - 1):
        for route, model in models.items():
            times[route].append(seconds(model, x))
    least = {route: min(values) for route, values in times.items()}
    return [
        {"size": str(size), "route": route, "seconds": least[route],
         "ratio": least[route] / least["backprop"], "bytes": bytes_[route]}
        for route in ROUTES
    ]  # fmt: skip


def device_of(name: str) -> torch.device:
    """The type of ``--device``: one that is there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {first}") from None
    return device


def parser() -> argparse.ArgumentParser:
    """Build the command line of ``python -m secondorder bench``."""
    text = argparse.ArgumentParser(
        prog="python -m secondorder bench",
        description="Time the gradient routes on this machine, forward and backward, "
        "as ratios to backprop; the benchmarks/ of the repository have the peers.",
    )
    common(text, quick="two repetitions")
    text.add_argument(
        "--device", type=device_of, default="cpu", help="cpu, cuda, … (default: cpu)"
    )
    text.add_argument(
        "--repeats", type=count, default=10, help="repetitions (default: 10)"
    )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    args, _ = parse(parser(), argv)
    rows: list[dict[str, Any]] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for size in SIZES:
            rows += measure(size, args.device, 2 if args.quick else args.repeats)
    head = ["blocks, γ = 0.9", "route", "ms", "ratio", "MiB"]
    cells = [
        [row["size"], row["route"], f"{1e3 * row['seconds']:.2f}",
         f"{row['ratio']:.2f}", f"{row['bytes'] / 2**20:.2f}"]
        for row in rows
    ]  # fmt: skip
    print(table([head, *cells]))
    write_json(args.json, rows)
    return 0
