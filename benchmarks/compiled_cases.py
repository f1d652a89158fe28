"""Exact reversal compiled: does every case come back bit for bit, by the real compiler?

    python benchmarks/compiled_cases.py [--quick] [--only NAME ...] [--out FILE]

The compiled way there and the compiled way back are different graphs, and that they
round alike is no theorem.  Each case is a field at a shape; several methods and ε run
through what is compiled for it (chin4, which nests its kicks and is compiled on its
own, in every eighth case).  A solve is exact if it was compiled, if the integers it
comes back to are those it started from (``torch.equal``), and if its gradients are
those of the eager reversible route to 2e-6 of the largest (float64: 1e-12), or, for
fields that magnify rounding, to four times what that errs by itself, against float64.
Where the compiler rounds a field differently on the way back, the solve runs eagerly
and says so.

The exit status is 1 if anything else happens.  Compiling takes 10 to 60 s a case.
"""

import argparse
import copy
import importlib
import json
import math
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import secondorder as so

route = importlib.import_module("secondorder.gradients.compiled.exact")

METHODS = {  # with ε and steps to t = 1; at ε = 0.1 damping pushes two bytes out
    "momentum": (0.5, 10),
    "verlet": (0.1, 21),
    "blanes_moan4": (2.0, 3),
    "chin4": (0.5, 5),
}
BOUND = {torch.float32: 2e-6, torch.float64: 1e-12}


def mlp(d, hidden, layer=nn.Tanh):
    return nn.Sequential(nn.Linear(d, hidden), layer(), nn.Linear(hidden, d))


def conv(n, channels, hidden, middle=nn.Tanh):
    """A convolution of n-dimensional signals, there and back."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    return nn.Sequential(
        kind(channels, hidden, 3, padding=1),
        middle(),
        kind(hidden, channels, 3, padding=1),
    )


class Attention(nn.Module):
    """Softmax attention of tokens, each seeing those before it if ``causal``."""

    def __init__(self, d, heads=1, causal=False):
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(d), nn.Linear(d, 3 * d)
        self.out, self.heads, self.causal = nn.Linear(d, d), heads, causal

    def forward(self, x):  # noqa: D102
        b, n, d = x.shape
        parts = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(d // self.heads)
        if self.causal:
            scores = scores + torch.full((n, n), -1e9, device=x.device).triu(1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


class Function(nn.Module):
    """A formula with one learned number."""

    def __init__(self, formula):
        super().__init__()
        self.formula, self.weight = formula, nn.Parameter(torch.tensor(0.7))

    def forward(self, t, x):  # noqa: D102
        return self.formula(self.weight, t, x)


class Gated(nn.Module):
    """A gated linear unit after a normalisation by the root mean square."""

    def __init__(self, d, hidden):
        super().__init__()
        self.norm, self.up, self.down = nn.RMSNorm(d), mlp(d, hidden), nn.Linear(d, d)

    def forward(self, x):  # noqa: D102
        return self.down(nn.functional.silu(self.up(self.norm(x))) * x)


def square(x):
    """|x|² of each sample."""
    return x.square().sum(-1, keepdim=True)


def bodies(w, t, x):
    """Softened gravity between points in the plane, (batch, n, 2)."""
    apart = x.unsqueeze(1) - x.unsqueeze(2)
    return w * (apart / (apart.square().sum(-1, keepdim=True) + 0.1) ** 1.5).sum(2)


def of_time(d, hidden):
    """A network of x and of time."""
    net = mlp(d + 1, hidden)
    net[-1] = nn.Linear(hidden, d)

    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, x):
            return self.net(torch.cat([x, t.to(x).expand(*x.shape[:-1], 1)], -1))

    return Timed()


def cases():
    """Name, field and shape of the state."""
    for d, hidden, batch in (
        (1, 16, 1), (2, 16, 1), (3, 8, 1), (3, 33, 1), (1, 7, 33), (2, 16, 256),
        (3, 5, 3), (4, 32, 64), (5, 17, 7), (7, 3, 5), (17, 33, 17), (33, 65, 9),
        (64, 256, 128),
    ):  # fmt: skip
        yield f"tanh {d}-{hidden}-{d}, batch {batch}", mlp(d, hidden), (batch, d)
    for layer in (nn.GELU, nn.SiLU, nn.ReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Mish):
        yield f"{layer.__name__} 5-17-5", mlp(5, 17, layer), (7, 5)
    yield "Sigmoid 2-16-2, batch 1", mlp(2, 16, nn.Sigmoid), (1, 2)
    yield "GELU by tanh 3-7-3", mlp(3, 7, lambda: nn.GELU("tanh")), (5, 3)
    for d in (3, 17, 32):
        norm = nn.Sequential(nn.LayerNorm(d), mlp(d, 2 * d + 1, nn.GELU))
        yield f"LayerNorm, GELU {d}", norm, (9, d)
    yield "RMSNorm, gated 7", Gated(7, 13), (5, 7)
    soft = nn.Sequential(nn.Linear(5, 9), nn.Softmax(-1), nn.Linear(9, 5))
    yield "softmax of 5", soft, (3, 5)
    yield "attention 5 × 7", Attention(7), (3, 5, 7)
    yield "causal attention 17 × 8, 2 heads", Attention(8, 2, True), (3, 17, 8)
    yield "attention 33 × 12, 3 heads", Attention(12, 3), (1, 33, 12)
    both = nn.Sequential(Attention(8, 2), nn.LayerNorm(8), mlp(8, 33, nn.GELU))
    yield "attention, LayerNorm, GELU 7 × 8", both, (5, 7, 8)
    yield "convolution 1d", conv(1, 3, 5), (3, 3, 17)
    yield "convolution 1d, one channel", conv(1, 1, 3, nn.GELU), (1, 1, 33)
    yield "convolution 2d", conv(2, 3, 7), (5, 3, 7, 7)
    yield "convolution 2d, odd image", conv(2, 1, 5, nn.ReLU), (3, 1, 5, 17)
    yield "convolution 3d", conv(3, 2, 3), (1, 2, 5, 3, 3)
    grouped = nn.Sequential(nn.GroupNorm(2, 4), conv(2, 4, 6, nn.SiLU))
    yield "GroupNorm, convolution", grouped, (3, 4, 7, 7)
    group1 = nn.Sequential(conv(1, 6, 9, nn.GELU), nn.GroupNorm(3, 6))
    yield "convolution, GroupNorm 1d", group1, (5, 6, 17)
    formulas = {
        "pendulum": (lambda w, t, x: -w * torch.sin(x), (33,)),
        "forced pendulum": (lambda w, t, x: torch.cos(3 * t) - w * x.sin(), (7, 1)),
        "Toda, exp": (lambda w, t, x: w * ((-x).exp() - 1.0), (17, 3)),
        "Morse, exp": (lambda w, t, x: (-2 * w * x).exp() - (-w * x).exp(), (5, 1)),
        "Duffing": (lambda w, t, x: x - w * x**3 + 0.3 * torch.cos(t), (33, 1)),
        "log cosh": (lambda w, t, x: -w * torch.tanh(3 * x) - x / (1 + x * x), (3, 7)),
        "sqrt, norm": (lambda w, t, x: -w * x / (1 + square(x)).sqrt(), (9, 3)),
        "chain": (lambda w, t, x: x.roll(1, -1) - 2 * x + w * x.roll(-1, -1), (3, 17)),
        "gravity of 5": (bodies, (3, 5, 2)),
        "sine of products": (lambda w, t, x: torch.sin(w * x * square(x)), (7, 5)),
    }  # fmt: skip
    for name, (formula, shape) in formulas.items():
        yield name, Function(formula), shape
    yield "of time, tanh 3-9-3", of_time(3, 9), (5, 3)


def solved(field, start, method, compiled):
    """The end and all gradients, and the integers that were compared."""
    epsilon, steps = METHODS[method]
    x = start.clone().requires_grad_()
    integers = []
    hashed, few = route.fingerprint, route.FEW

    def noted(*state):
        integers.append([n.clone() for n in state])
        return hashed(*state)

    route.fingerprint, route.FEW = noted, 0  # few numbers would not be hashed
    try:
        sol = so.odeint(
            so.SecondOrder(field, epsilon), (x, 0.5 * x), torch.tensor([0.0, 1.0]),
            method=method, step_size=1 / steps, gradient="reversible", compile=compiled,
        )  # fmt: skip
        loss = sol.x[-1].square().mean() + sol.v[-1].sin().mean()
        found = torch.autograd.grad(loss, [x, *field.parameters()])
    finally:
        route.fingerprint, route.FEW = hashed, few
    return found, integers


def check(name, field, shape, method, dtype, apart=False):
    """One solve, compiled and not: a row of the table."""
    torch.manual_seed(1)
    start = torch.randn(shape, dtype=dtype)
    start = start + 0.3 * start.sign()  # one unit does: others are another case
    if apart:  # a unit for each element, in int64
        start.view(-1)[::2] *= 1e-6
    row = {"case": name, "method": method, "dtype": str(dtype), "error": None}
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", so.CompileWarning)
        try:
            found, integers = solved(field, start, method, True)
        except RuntimeError as error:
            return row | {"verdict": "not reversed: " + str(error).split(":")[0]}
    row["seconds"] = time.perf_counter() - began
    reasons = so.compile_stats(field).fallbacks
    if reasons:
        return row | {"verdict": f"eager, as {reasons[-1]}"}
    began, *_, ended = integers
    if not all(map(torch.equal, began, ended)):
        return row | {"verdict": "not reversed"}
    expected, _ = solved(field, start, method, False)
    top = max(g.abs().max().item() for g in expected)
    pairs = zip(found, expected, strict=True)
    row["error"] = max((a - b).abs().max().item() for a, b in pairs) / top
    good = row["error"] <= BOUND[dtype]
    if not good and dtype == torch.float32:  # no nearer than float32 itself is?
        exact, _ = solved(copy.deepcopy(field).double(), start.double(), method, False)
        pairs = zip(expected, exact, strict=True)
        row["eager"] = max((a - b).abs().max().item() for a, b in pairs) / top
        good = row["error"] <= 4 * row["eager"]
    return row | {"verdict": "exact" if good else "gradients differ"}


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument("--quick", action="store_true", help="every eighth case")
    text.add_argument("--only", nargs="+", metavar="NAME", help="parts of names")
    text.add_argument("--apart", action="store_true", help="sizes that differ by 1e6")
    text.add_argument("--double", action="store_true", help="float64")
    text.add_argument("--out", type=Path, metavar="FILE", help="write JSON there")
    args = text.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = torch.float64 if args.double else torch.float32
    chosen = list(cases())
    chosen = [c for k in range(4) for c in chosen[k::4]][:: 8 if args.quick else 1]
    if args.only:
        chosen = [c for c in chosen if any(part in c[0] for part in args.only)]
    rows = []
    for n, (name, net, shape) in enumerate(chosen):
        timed = isinstance(net, Function) or type(net).__name__ == "Timed"
        field = (net if timed else so.Autonomous(net)).to(dtype)
        methods = [m for m in METHODS if m != "chin4" or n % 8 == 0]
        own = [check(name, field, shape, m, dtype, args.apart) for m in methods]
        rows += own
        bad = {r["verdict"] for r in own} - {"exact"}
        worst = max((r["error"] or 0.0 for r in own), default=0.0)
        took = sum(r.get("seconds", 0.0) for r in own)
        told = "; ".join(sorted(bad)) or f"exact, gradients to {worst:.1e}"
        print(f"{name:<36}{told} ({took:.0f} s)", flush=True)
    fine = sum(r["verdict"] == "exact" for r in rows)
    told = sum(r["verdict"].startswith("eager") for r in rows)
    print(
        f"{len(chosen)} cases, {len(rows)} solves: {fine} exact, {told} told that they "
        f"run eagerly, {len(rows) - fine - told} wrong"
    )
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))
    raise SystemExit(fine + told < len(rows))


if __name__ == "__main__":
    main()
