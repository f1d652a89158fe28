"""What a field is called with: tensors that want gradients, and what must not change.

In both passes the field meets private leaves in place of the caller's tensors.  What it
is given besides must be the same in both, and what it computes must not be
differentiated behind the back of the route: both are checked here.
"""

from collections.abc import Iterable
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

LEAKED = (
    "a loss depends on a tensor that was computed inside a field (recorded by a hook, "
    "stored on a module, or collected in an argument), whose graph the reversible "
    "route does not keep; return it through the state (`trajectory`), detach it, or "
    'use gradient="backprop"'
)
CHANGED = (
    "an argument of the field was changed while the field was evaluated (a cache, or a "
    "list that blocks append to), and would be changed again in the backward pass, so "
    "no gradient is returned. Pass it in evaluation only (use_cache=False in "
    'training), return what it collects, or use gradient="backprop"'
)


class Arguments:
    """The further arguments of a field, and the tensors among them, nested or not.

    Parameters
    ----------
    args : tuple
        Tensors in lists, tuples and dictionaries are found; what else there is (masks,
        caches, flags) is passed as it is.

    Attributes
    ----------
    tensors : list of Tensor
        Those that require gradients.
    """

    def __init__(self, args: Iterable[Any]) -> None:
        self.args = tuple(args)
        self.flat, self.spec = tree_flatten(self.args, is_leaf=lambda v: not plain(v))
        self.places = [
            i
            for i, value in enumerate(self.flat)
            if isinstance(value, Tensor) and value.requires_grad
        ]
        self.tensors = [self.flat[i] for i in self.places]

    def with_tensors(self, tensors: Iterable[Tensor]) -> tuple[Any, ...]:
        """The arguments with other tensors in place of ``tensors``."""
        if not self.places:
            return self.args
        flat = list(self.flat)
        for i, tensor in zip(self.places, tensors, strict=True):
            flat[i] = tensor
        return tree_unflatten(flat, self.spec)


def plain(value: Any) -> bool:
    """Whether a value is a container that may be rebuilt from its entries."""
    return type(value) in (list, tuple, dict) or hasattr(value, "_fields")


def contents_of(value: Any, depth: int = 6) -> Any:
    """What may change inside an argument, to be compared before and after a pass."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    if isinstance(value, (str, bytes, int, float, complex, type(None))):
        return value
    if depth == 0 or isinstance(value, (nn.Module, type, FunctionType)):
        return id(value)
    if isinstance(value, dict):
        return [(k, contents_of(v, depth - 1)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [contents_of(v, depth - 1) for v in value]
    if isinstance(value, (set, frozenset)):
        return id(value), len(value)
    inside = getattr(value, "__dict__", {})
    return id(value), [(k, contents_of(v, depth - 1)) for k, v in inside.items()]


class Leaves:
    """Private leaves for what wants a gradient, besides the parameters.

    Attributes
    ----------
    arguments : list of Tensor
        In place of the tensors among the arguments.
    numbers : dict of int to Tensor
        In place of the differentiable numbers of the plan, by their ids.
    args : tuple
        The arguments to evaluate the field with.
    """

    def __init__(
        self,
        arguments: Arguments,
        tensors: Iterable[Tensor],
        numbers: Iterable[Tensor],
        tracked: bool,
    ) -> None:
        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_(tracked)

        self.arguments = [leaf(tensor) for tensor in tensors]
        self.numbers = {id(n): leaf(n) for n in numbers}
        self.args = arguments.with_tensors(self.arguments)

    def own(self, number: Any) -> Any:
        """The stand-in of a differentiable number; anything else as it is."""
        return self.numbers.get(id(number), number)


class Guard:
    """A hook on the states that forces see: no gradient may come but through us."""

    def __init__(self) -> None:
        self.ours = False

    def watch(self, leaf: Any) -> None:
        """Be the hook of a leaf; where there are none yet, without a handle to it."""
        if leaf._backward_hooks is None:
            leaf._backward_hooks = {-1: self}
        else:
            leaf.register_hook(self)

    def __call__(self, grad: Tensor) -> None:
        """Raise if something else differentiates what was computed inside a field."""
        if not self.ours:
            raise RuntimeError(LEAKED)
