"""Problems at random: every route gives float64 backprop's numbers, or says why not.

A number is drawn for every choice: system and its numbers, method, times, forcing,
arguments, state, what is trained and how.  More than the suite has time for:
``PYTHONPATH=tests python tests/gradients/test_random.py 120 3000``.
"""

import random
import sys
import warnings
from contextlib import nullcontext

import pytest
import torch
from problems import mlp, noise
from torch import nn

import secondorder as so

F64 = torch.float64
# Rounding of some 10² operations, grown by e^(L t) on the way: 2^12 ε of the dtype.  In
# bfloat16, which has eight bits, 2^12 ε is everything: √(number of operations) ε.
TOLERANCE = {F64: 1e-10, torch.float32: 5e-4, torch.bfloat16: 0.15}
ADVICE = ("gradient=", '"backprop"', '"checkpoint"', "use ", "give ", "call ")


class Force(nn.Module):
    """A force with the usual troubles, each of which may be there or not."""

    def __init__(self, d, traits, velocity=False):
        super().__init__()
        self.net = mlp(d, 5, F64, seed=3)
        self.tied = "tied" in traits and mlp(d, 5, F64, seed=4)
        self.again = self.tied
        self.unused = nn.Parameter(torch.ones(2, dtype=F64))
        self.norm = nn.BatchNorm1d(d, dtype=F64) if "norm" in traits else nn.Identity()
        self.drop = nn.Dropout(0.3) if "dropout" in traits else nn.Identity()
        self.velocity, self.traits = velocity, traits
        if "frozen" in traits:
            self.net[0].weight.requires_grad_(False)
        if "eval" in traits:
            self.norm.eval()

    def forward(self, t, x, *rest, **more):
        rest = list(rest)
        value = -0.5 * x + 0.5 * self.drop(self.norm(self.net(x)))
        if self.velocity:
            value = value - 0.1 * torch.tanh(rest.pop(0))
        if self.tied:
            value = value + 0.3 * self.again(self.tied(x))
        if isinstance(t, torch.Tensor):
            value = value + 0.2 * torch.cos(t)
        todo = [*rest, more]
        while todo:
            part = todo.pop()
            if isinstance(part, dict):
                todo += part.values()
            elif isinstance(part, (list, tuple)):
                todo += part
            elif isinstance(part, torch.Tensor):
                value = value + 0.1 * torch.sin(part) * x
        return value.to(x.dtype) if "autocast" in self.traits else value


class Case:
    """One problem: ``solve(route, dtype)`` gives outputs and gradients by name."""

    def __init__(self, seed):
        r = self.random = random.Random(seed)
        pick = r.choice
        self.seed = seed
        self.layers = r.random() < 0.3
        self.kind = pick(["second", "newton", "matrix", "acceleration"])
        names = [n for n, m in so.METHODS.items() if m.takes_velocity
                 == (self.kind == "acceleration")]  # fmt: skip
        self.adaptive = r.random() < 0.15 and self.kind != "acceleration"
        self.method = pick([*so.ADAPTIVE] if self.adaptive else names)
        dtypes = [F64, F64, torch.float32, torch.float32, torch.bfloat16]
        self.dtype = pick(dtypes[: 3 if self.adaptive else 5])
        self.d = pick([1, 2, 3])
        self.batch = pick([(), (0,), (1,), (4,), (4,), (2, 3)])
        traits = ["frozen", "tied", "norm", "eval", "dropout"]
        self.traits = {n for n in traits if r.random() < 0.25}
        if self.batch not in [(4,)]:
            self.traits -= {"norm"}
        if self.adaptive:
            self.traits -= {"norm", "dropout"}
        if self.dtype == torch.bfloat16:  # a variance of four samples in eight bits
            self.traits -= {"norm"}
        if self.kind == "acceleration":  # two copies of a velocity see two masks
            self.traits -= {"dropout"}
        if self.dtype == torch.float32 and r.random() < 0.15 and not self.adaptive:
            self.traits |= {"autocast"}
        self.number = pick(["scalar", "each", "learned", "learned each", "positive"])
        self.times = pick(["fixed", "learned", "backwards", "per sample"])
        if self.times == "per sample" and (self.adaptive or not self.batch):
            self.times = "fixed"
        self.args = pick(["none", "tensor", "nested", "none"])
        self.forced = r.random() < 0.2 and not self.layers
        self.strided = r.random() < 0.3 and self.d > 1
        self.start = pick(["none", "tensor", "learned", "module"])
        self.intervals, self.step_size = pick([1, 3]), pick([None, 0.11])
        self.gamma = pick([0.5, 0.9, 0.99])
        self.keep, self.segments = pick([0, 1, 3, 99]), pick([None, 1, 2, 5])

    def __repr__(self):
        return str({k: v for k, v in vars(self).items() if k != "random"})

    def routes(self):
        if self.adaptive:
            return [so.checkpoint]
        ways = [so.checkpoint(segments=self.segments)] if self.segments else []
        return [*ways, so.reversible(keep=self.keep), so.backprop]

    def value(self, dtype, seed=9):
        """A number > 0 of the kind drawn, and what in it is learned."""
        each = 0.5 + torch.rand(
            self.d, generator=torch.Generator().manual_seed(seed), dtype=F64
        )
        single = each[:1].sum()
        each, single = each.bfloat16().to(dtype), single.bfloat16().to(dtype)
        if self.number == "scalar":
            return single.item()
        if self.number == "each":
            return each
        if self.number == "positive":
            return so.Positive(each).to(dtype)
        return nn.Parameter(each if "each" in self.number else single)

    def solve(self, route, dtype):
        torch.manual_seed(5)

        def make(*shape, seed=1):
            # Rounded once, so that all dtypes solve one problem.
            value = 0.7 * noise(*shape, dtype=F64, seed=seed)
            return value.bfloat16().to(dtype)

        shape = (*self.batch, self.d)
        x = make(*shape)
        if self.strided:
            x = make(*shape[::-1]).permute(*range(len(shape))[::-1])
        x.requires_grad_()
        wanted, args, kwargs = {"x": x}, (), {}
        if self.args == "tensor":
            wanted["arg"] = make(self.d, seed=6).requires_grad_()
            args = (wanted["arg"],)
        elif self.args == "nested":
            wanted["arg"] = make(*shape, seed=6).requires_grad_()
            wanted["deep"] = make(1, seed=7).requires_grad_()
            args = ([{"a": wanted["arg"], "b": (wanted["deep"], 3, None)}],)
        velocity = self.kind == "acceleration" and not self.layers
        field = Force(self.d, self.traits, velocity)
        field.load_state_dict({k: v.bfloat16().double() if v.is_floating_point() else v
                               for k, v in field.state_dict().items()})  # fmt: skip
        field.to(dtype)
        precision = torch.autocast("cpu", dtype=torch.bfloat16)
        with precision if "autocast" in self.traits else nullcontext():
            run = self.network if self.layers else self.equation
            outputs, owner = run(route, field, wanted, args, kwargs, make, dtype)
        wanted |= {n: p for n, p in owner.named_parameters() if p.requires_grad}
        weights = [noise(*o.shape, dtype=F64, seed=20).to(o) for o in outputs]
        pairs = zip(outputs, weights, strict=True)
        loss = sum((o.double() * w.double()).sum() for o, w in pairs)
        found = torch.autograd.grad(loss, [*wanted.values()], allow_unused=True)
        got = dict(zip(wanted, found, strict=True))
        got |= {f"out{i}": o.detach() for i, o in enumerate(outputs)}
        got |= {n: b for n, b in owner.named_buffers() if "running" in n}
        zero = {n: torch.zeros_like(w) for n, w in wanted.items()}
        return {n: (zero[n] if g is None else g).double() for n, g in got.items()}

    def network(self, route, field, wanted, args, kwargs, make, dtype):
        class Block(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x, *args, **kwargs):
                return self.inner(None, x, *args, **kwargs)

        if "tied" in self.traits:
            kwargs = {"extra": {"more": list(args)}, "flag": True}
            args = ()
        gamma = self.gamma
        if "learned" in self.number:
            shape = self.d if "each" in self.number else 1
            gamma = nn.Parameter(torch.full((shape,), gamma, dtype=dtype))
        elif self.number == "each":
            gamma = torch.full((self.d,), gamma, dtype=dtype)
        start = {"none": None, "tensor": make(self.d), "module": mlp(self.d, 3, dtype),
                 "learned": nn.Parameter(make(self.d, seed=8))}[self.start]  # fmt: skip
        count = 2 + 3 * self.intervals
        net = so.MomentumNet([Block(field)] * count, gamma, route, start).to(dtype)
        if self.intervals == 1:
            return [net(wanted["x"], *args, **kwargs)], net
        return list(net.trajectory(wanted["x"], *args, **kwargs)), net

    def equation(self, route, field, wanted, args, kwargs, make, dtype):
        number = self.value(dtype)
        if self.kind == "second":
            system = so.SecondOrder(field, number)
        elif self.kind == "newton":
            system = so.Newton(field, number, self.value(dtype, 11))
        elif self.kind == "matrix":
            a = make(self.d, self.d, seed=12)
            system = so.Newton(field, torch.eye(self.d, dtype=dtype) + a @ a.T, 0.5)
        else:
            system = so.Acceleration(field, number)
        t = torch.linspace(0, 1, self.intervals + 1, dtype=torch.float64).to(dtype)
        if self.times == "backwards":
            t = -0.5 * t
        elif self.times == "per sample":
            t = t * torch.linspace(0.5, 1, self.batch[0], dtype=dtype)[:, None]
        elif self.times == "learned":
            t = wanted["t"] = t.clone().requires_grad_()
        x = wanted["x"]
        v = None
        if self.start != "none":
            v = wanted["v"] = make(*x.shape, seed=2).requires_grad_()
        how = {}
        if self.forced:
            knots = torch.linspace(-1, 2, 4, dtype=dtype)
            samples = nn.Parameter(make(4, self.d, seed=15))
            how["forcing"] = so.forcing.Cubic(knots, samples)
            wanted["u"] = samples
        if self.adaptive:
            tight = 1e-8 if self.dtype == F64 else 1e-5
            how |= {"rtol": tight, "atol": tight}
        elif self.step_size:
            how["step_size"] = self.step_size
        found = so.odeint(
            system, (x, v), t, method=self.method, gradient=route, args=args, **how
        )
        return [found.x, found.v], system


def compare(case):
    """The differences of a case, empty if there are none."""
    same = {"dropout", "autocast"} & case.traits or case.adaptive
    reference = case.solve(so.backprop, case.dtype if same else F64)
    wrong = []
    for route in case.routes():
        try:
            found = case.solve(route, case.dtype)
        except (RuntimeError, ValueError) as error:
            if not any(word in str(error) for word in ADVICE):
                wrong.append((str(route), "no advice", str(error)))
            continue
        if not same and route.name == "backprop" and case.dtype == F64:
            continue
        tolerance = TOLERANCE[torch.bfloat16 if "autocast" in case.traits
                              else case.dtype]  # fmt: skip
        sizes = [g.abs().max().item() for g in reference.values() if g.numel()]
        top = max(sizes, default=0.0)
        for name, expected in reference.items():
            got = found[name]
            if got.shape != expected.shape:
                wrong.append((str(route), name, "shape", got.shape, expected.shape))
            elif got.numel():
                scale = expected.abs().max().item() + 0.05 * top + 1e-30
                error = (got - expected).abs().max().item() / scale
                if not error <= tolerance:
                    wrong.append((str(route), name, error, expected.abs().max().item()))
    return wrong


@pytest.mark.parametrize("part", range(5))
@pytest.mark.filterwarnings("ignore")
def test_routes_give_the_numbers_of_backprop_or_say_why_not(part):
    for seed in range(part, 120, 5):
        case = Case(seed)
        assert not compare(case), case


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    first, last = (int(a) for a in sys.argv[1:3])
    for seed in range(first, last):
        case = Case(seed)
        try:
            wrong = compare(case)
        except Exception as error:  # noqa: BLE001
            wrong = [(type(error).__name__, str(error)[:300])]
        if wrong:
            print(case, *wrong[:4], sep="\n   ", flush=True)
