"""How the compiler is told to treat small tensors on the host.

What is added to a product is added where it is used: a product that starts from a bias
first copies it to all rows, and one that adds to a gradient first copies that, which
takes longer than the product itself.  Small products of a column and a row are written
out, which saves the call of a library.  All others are the library's: the compiler
would make those of a single sample sums of its own, which may be rounded otherwise on
the way back.  And tanh in float32 is taken from exp, in under half the time and to 1.3
units in the last place:

    tanh x = x + x³ P(x²)  for |x| < 5/8,   else ±(1 − 2/(e^{2|x|} + 1))

P is that of S. L. Moshier's Cephes library (``tanhf``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...plan.rows import Unpackable

NEAR = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
        -3.33332819422e-1)  # fmt: skip
WIDE = 16  # numbers in a register: narrower rows have a loop of their own
SMALL = 256  # products of one number each that are written out
CHEAP = 4096  # numbers that are sooner added in passing than copied
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
    from torch._inductor.inductor_prims import force_stride_order

    aten = torch.ops.aten
    for node in list(graph.nodes):
        if draws(node):
            raise Unpackable(RANDOM)
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *more, a, b = node.args
        result = node.meta["val"]
        stride = tuple(result.stride())
        row = bool(more) and more[0].meta["val"].ndim == 1 and fixed(stride)
        size = result.numel() if fixed(result.shape) else CHEAP + 1
        outer = size <= SMALL and a.meta["val"].shape[1] == 1
        if result.device.type != "cpu" or not (
            outer or row or (more and size <= CHEAP)
        ):
            continue
        with graph.inserting_before(node):
            product = aten.mul.Tensor if outer else aten.mm.default
            total = graph.call_function(product, (a, b))
            if more:
                total = graph.call_function(aten.add.Tensor, (total, *more))
            if row and not outer and result.shape[1] < WIDE:
                total = graph.call_function(force_stride_order, (total, stride))
        total.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        graph.erase_node(node)


def draws(node: Any) -> bool:
    """Whether a node draws random numbers; attention without dropout only might."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.name == "dropout_p":
            given = node.args[place:] or [node.kwargs.get("dropout_p", 0.0)]
            return bool(given[0] != 0.0)
    return True


def fixed(sizes: Sequence[Any]) -> bool:
    """Whether a graph is made for these sizes alone."""
    return all(isinstance(size, int) for size in sizes)


def options(host: bool) -> dict[str, Any]:
    """Further arguments of ``compile_fx``."""
    from torch._inductor.custom_graph_pass import CustomGraphPass
    from torch._inductor.decomposition import select_decomp_table

    class Lower(CustomGraphPass):
        """The pass above, and what the compiler's cache knows it by."""

        def __call__(self, graph: Any) -> None:
            lower(graph)

        def uuid(self) -> str:
            return "secondorder.gradients.lowering 12"

    patches: dict[str, Any] = {"post_grad_custom_post_pass": Lower()}
    if host:
        patches["cpp_wrapper"] = True
    aten = torch.ops.aten
    table = {**select_decomp_table(), aten.tanh.default: tanh}
    for product in (aten.mm, aten.addmm, aten.bmm):
        table.pop(product.default, None)
    return {"config_patches": patches, "decompositions": table}
