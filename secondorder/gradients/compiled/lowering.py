"""How the compiler is told to treat small tensors on the host.

Biases are added where the products are used: a product that starts from a bias first
copies it to all rows, which takes longer than the product itself.  Products of a few
numbers are written out, which saves the call of a library.  And tanh in float32
is taken from exp, in under half the time and to 1.3 units in the last place:

    tanh x = x + x³ P(x²)  for |x| < 5/8,   else ±(1 − 2/(e^{2|x|} + 1))

P is that of S. L. Moshier's Cephes library (``tanhf``).
"""

from typing import Any

import torch
from torch import Tensor

from ...plan.rows import Unpackable

NEAR = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
        -3.33332819422e-1)  # fmt: skip
WIDE = 16  # numbers in a register: narrower rows would be added one by one
FEW, SMALL = 4, 256  # terms of a sum, and products in all, that are written out
RANDOM = "its field draws random numbers"


def tanh(x: Tensor) -> Any:
    """Tanh in float32 on the host."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return NotImplemented
    square, size = x * x, x.abs()
    near = NEAR[0] * square + NEAR[1]
    for coefficient in NEAR[2:]:
        near = near * square + coefficient
    far = 1.0 - 2.0 / ((2.0 * size).exp() + 1.0)
    return torch.where(size < 0.625, near * square * x + x, far.copysign(x))


def lower(graph: Any) -> None:
    """Change one graph of the compiler's, after all that it does itself.

    Raises
    ------
    Unpackable
        Where the graph draws random numbers.
    """
    aten = torch.ops.aten
    for node in list(graph.nodes):
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            raise Unpackable(RANDOM)
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        small = few(a.meta["val"], b.meta["val"])
        if node.meta["val"].device.type != "cpu" or not (small or wide(*bias)):
            continue
        with graph.inserting_before(node):
            total = product(graph, a, b, small)
            total.meta = dict(node.meta)
            if bias:
                total = graph.call_function(aten.add.Tensor, (total, *bias))
                total.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        graph.erase_node(node)


def few(a: Tensor, b: Tensor) -> bool:
    """Whether a product of two matrices has few terms and few entries."""
    m, k, n = *a.shape, b.shape[1]
    fixed = all(isinstance(size, int) for size in (m, k, n))
    return fixed and 0 < k <= FEW and m * k * n <= SMALL


def wide(bias: Any = None) -> bool:
    """Whether a bias is a row that is better added by itself."""
    if bias is None:
        return False
    size = bias.meta["val"].shape
    return len(size) == 1 and size[0] >= WIDE


def product(graph: Any, a: Any, b: Any, small: bool) -> Any:
    """The product of two matrices, written out as Σ_k a_k b_k where it is small.

    The order of the sum is in the graph, so that both passes round alike.
    """
    aten = torch.ops.aten
    if not small:
        return graph.call_function(aten.mm.default, (a, b))
    total = None
    for k in range(a.meta["val"].shape[1]):
        column = graph.call_function(aten.slice.Tensor, (a, 1, k, k + 1))
        row = graph.call_function(aten.slice.Tensor, (b, 0, k, k + 1))
        term = graph.call_function(aten.mul.Tensor, (column, row))
        if total is not None:
            term = graph.call_function(aten.add.Tensor, (total, term))
        total = term
    return total


def options(host: bool) -> dict[str, Any]:
    """Further arguments of ``compile_fx``."""
    from torch._inductor.custom_graph_pass import CustomGraphPass
    from torch._inductor.decomposition import select_decomp_table

    class Lower(CustomGraphPass):
        """The pass above, and what the compiler's cache knows it by."""

        def __call__(self, graph: Any) -> None:
            lower(graph)

        def uuid(self) -> str:
            return "secondorder.gradients.lowering 2"

    patches: dict[str, Any] = {"post_grad_custom_post_pass": Lower()}
    if host:
        patches["cpp_wrapper"] = True
    table = {**select_decomp_table(), torch.ops.aten.tanh.default: tanh}
    return {"config_patches": patches, "decompositions": table}
