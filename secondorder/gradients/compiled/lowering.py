"""How the compiler is told to treat small tensors on the host.

Biases are added where the products are used: a product that starts from a bias first
copies it to all rows, which takes longer than the product itself.  And tanh in float32
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
        if node.target is not aten.addmm.default or node.kwargs:
            continue
        bias, a, b = node.args
        size, host = bias.meta["val"].shape, bias.meta["val"].device.type == "cpu"
        if len(size) != 1 or size[0] < WIDE or not host:
            continue
        with graph.inserting_before(node):
            product = graph.call_function(aten.mm.default, (a, b))
            total = graph.call_function(aten.add.Tensor, (product, bias))
        product.meta = total.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        graph.erase_node(node)


def options(host: bool) -> dict[str, Any]:
    """Further arguments of ``compile_fx``."""
    from torch._inductor.custom_graph_pass import CustomGraphPass
    from torch._inductor.decomposition import select_decomp_table

    class Lower(CustomGraphPass):
        """The pass above, and what the compiler's cache knows it by."""

        def __call__(self, graph: Any) -> None:
            lower(graph)

        def uuid(self) -> str:
            return "secondorder.gradients.lowering 1"

    patches: dict[str, Any] = {"post_grad_custom_post_pass": Lower()}
    if host:
        patches["cpp_wrapper"] = True
    table = {**select_decomp_table(), torch.ops.aten.tanh.default: tanh}
    return {"config_patches": patches, "decompositions": table}
