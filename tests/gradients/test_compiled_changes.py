"""What is compiled is called without asking anew: every change must still be seen.

The traced graphs run without the C++ compiler, as in ``test_compiled.py``; what is seen
is one piece of code for both routes, so one of them is asked (to trace takes a second).
"""

import pytest
import torch
from problems import mlp, noise
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import secondorder as so
from secondorder.gradients.compiled import compiling, lowering

pytestmark = pytest.mark.usefixtures("traced")


def solve(field, compile, args=(), batch=5, dtype=torch.float32, **more):
    """The end and all gradients."""
    x = (noise(batch, 3).to(dtype) + 0.3).requires_grad_()
    how = {"method": "momentum", "step_size": 0.1, "gradient": "backprop", **more}
    system = so.SecondOrder(field, 0.5)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    out = so.odeint(system, (x, 0.5 * x), t, args=args, compile=compile, **how)
    loss = out.x[-1].square().sum() + out.v[-1].sin().sum()
    learned = field.parameters() if isinstance(field, nn.Module) else ()
    inputs = [x, *learned, *(a for a in args if isinstance(a, torch.Tensor))]
    inputs = [i for i in inputs if i.requires_grad]
    return [out.x[-1], *torch.autograd.grad(loss, inputs)]


def same(field, args=(), **more):
    """Compiled as eager, to the rounding of float32."""
    ours, theirs = (solve(field, c, args, **more) for c in (True, False))
    top = max(1.0, *(t.abs().max().item() for t in theirs))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * top)


def direct(field):
    """The calls that are made without torch.compile's checks."""
    pairs = compiling.entry_of(field).functions.values()
    return sum(len(function.known) for pair in pairs for function in pair)


def layers():
    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))
    return so.Autonomous(net)


def test_changes_of_plain_layers_are_seen():
    field = layers()
    net = field.module

    def changed(change):
        change()
        same(field)

    changed(lambda: None)
    known = direct(field)
    assert known == 2
    changed(lambda: net[0].weight.data.mul_(2))  # the same key
    changed(lambda: setattr(net[0], "bias", nn.Parameter(noise(6, seed=3))))
    assert direct(field) == known and so.compile_stats(field).compilations == 2
    changed(lambda: setattr(net[1], "eps", 0.5))
    changed(lambda: net.__setitem__(2, nn.ReLU()))
    changed(lambda: net.insert(3, nn.LeakyReLU(0.5)))
    changed(lambda: setattr(net[3], "negative_slope", 0.1))
    changed(lambda: setattr(net[0], "bias", None))
    changed(lambda: net[0].weight.requires_grad_(False))
    changed(lambda: setattr(net, "4", nn.Linear(6, 3, bias=False)))
    changed(lambda: net[4].weight.data.set_(noise(6, 3, seed=5).T))  # other strides
    assert not so.compile_stats(field).fallbacks


def test_shared_layers_are_no_copies():
    inner = nn.Linear(3, 3)
    same(so.Autonomous(nn.Sequential(inner, nn.Tanh(), inner)))
    field = so.Autonomous(nn.Sequential(inner, nn.Tanh(), nn.Linear(3, 3)))
    same(field)
    field.module[2].weight = inner.weight  # tied
    same(field)
    field.module[2] = inner
    same(field)


def test_hooks_and_other_layers_that_come_later_are_seen():
    field = layers()
    same(field)
    handle = field.module[2].register_forward_hook(lambda m, i, o: 2 * o)
    with pytest.warns(so.CompileWarning, match="hooks"):
        same(field)
    handle.remove()
    same(field)
    other = layers()
    other.module[0].register_full_backward_pre_hook(lambda m, g: (2 * g[0],))
    with pytest.warns(so.CompileWarning, match="hooks"):
        same(other)
    field.module[2] = nn.Dropout(0.5)
    with pytest.warns(so.CompileWarning, match="random"):
        solve(field, True)
    field.eval()
    same(field)


class Own(nn.Module):
    """A field whose attributes and closure only torch.compile can see."""

    def __init__(self):
        super().__init__()
        self.net, self.sign = mlp(3), "plus"
        self.shift = torch.zeros(3)

    def forward(self, t, x, *more):
        value = self.net(x) if self.sign == "plus" else -self.net(x)
        return value + self.shift + sum(more)


def test_attributes_and_arguments_are_seen():
    field = Own()
    a, b, c, d = (noise(3, seed=n) for n in range(4))
    learned = a.clone().requires_grad_()
    for sign, shift, args in [
        ("plus", 0 * a, ()),
        ("minus", a, ()),
        ("minus", b, (d, c)),
        ("minus", b, (d, 0.5, c)),
        ("minus", b, (d, 0.25, c)),
        ("minus", b, (learned, d)),
    ]:
        field.sign, field.shift = sign, shift
        same(field, args, gradient="reversible")
    field.shift = b.clone().requires_grad_()  # a weight that is no parameter
    with pytest.raises(ValueError, match="none of its parameters"):
        solve(field, True, gradient="reversible")
    with pytest.warns(so.CompileWarning, match="none of its parameters"):
        same(field)


def test_batches_and_dtypes_take_turns():
    field = layers()
    for batch in (5, 10, 1, 5):  # ten rows of two are five bodies, too
        same(field, batch=batch)
        same(field, batch=batch, gradient="reversible")
    field.double()
    same(field, dtype=torch.float64)
    field.float()
    same(field)
    assert not so.compile_stats(field).fallbacks


def test_a_force_of_another_shape_is_refused_as_ever():
    net = nn.Linear(3, 1)  # would broadcast
    with pytest.raises(ValueError, match="returned"):
        solve(so.Autonomous(net), True)


def test_tanh_from_exp_is_exact_to_two_units():
    x = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-40, 1, 100_001)])
    wanted = x.double().tanh()
    unit = torch.finfo(torch.float32).eps / 2 * 2.0 ** wanted.abs().log2().ceil()
    error = ((lowering.tanh(x) - wanted).abs() / unit)[wanted.abs() > 1e-37]
    assert error.max() < 2
    ends = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0])
    torch.testing.assert_close(lowering.tanh(ends), ends.tanh(), equal_nan=True)
    assert lowering.tanh(x.double()) is NotImplemented


@pytest.mark.parametrize(
    ("m", "k", "n", "bias", "left"),
    [
        (1, 1, 16, None, set()),  # written out
        (16, 1, 2, (16, 2), set()),
        (64, 1, 16, None, {"mm"}),  # too many
        (1, 16, 2, None, {"mm"}),  # of a single sample
        (1, 3, 8, (8,), {"mm"}),
        (64, 16, 2, (2,), {"mm"}),  # a narrow row has a loop of its own
        (8, 2, 16, (16,), {"mm"}),
        (64, 16, 2, (64, 2), {"mm"}),  # a gradient that is added to
        (8, 3, 600, (8, 600), {"addmm"}),  # a large one
        (5, 17, 9, None, {"mm"}),
    ],
)
def test_products_are_lowered_to_the_same_numbers(m, k, n, bias, left):
    a, b = noise(m, k), noise(k, n, seed=2)
    inputs = (a, b) if bias is None else (noise(*bias, seed=3), a, b)
    product = torch.ops.aten.mm if bias is None else torch.ops.aten.addmm
    graph = make_fx(lambda *inputs: product(*inputs))(*inputs)
    lowering.lower(graph.graph)
    graph.recompile()
    torch.testing.assert_close(graph(*inputs), product(*inputs), rtol=1e-5, atol=1e-6)
    names = {str(node.target).split(".")[1] for node in graph.graph.nodes
             if node.op == "call_function"}  # fmt: skip
    assert names & {"mm", "addmm"} == left


def test_no_product_is_made_a_sum_which_might_round_otherwise_on_the_way_back():
    table, aten = lowering.options(host=True)["decompositions"], torch.ops.aten
    assert not {aten.mm.default, aten.addmm.default, aten.bmm.default} & table.keys()


def test_sizes_that_varied_for_one_field_are_fixed_for_another(monkeypatch):
    """What is fixed in a graph is faster."""
    batches = []

    def backend(self, graph, inputs):
        self.made += 1
        values = (n.meta.get("example_value") for n in graph.graph.nodes
                  if n.op == "placeholder")  # fmt: skip
        states = (v for v in values if torch.is_tensor(v) and v.shape[-1:] == (3,))
        batches.append([type(state.shape[0]) for state in states if state.ndim == 2])
        return graph.forward

    monkeypatch.setattr(compiling.Compiled, "backend", backend)
    one, two = so.Autonomous(mlp(3)), so.Autonomous(mlp(3))
    for batch in (5, 6, 7):
        solve(one, True, batch=batch)
    known = len(batches)
    solve(two, True, batch=6)
    assert any(kind is not int for graph in batches[:known] for kind in graph)
    assert all(kind is int for graph in batches[known:] for kind in graph)
