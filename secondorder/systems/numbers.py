"""The numbers of a system or a model: fixed, learned, learned within their range.

    0.5                                fixed
    torch.tensor([0.5, 2.0])           fixed, one per coordinate; moves with the module
    nn.Parameter(torch.tensor(0.5))    learned; training may push it out of its range
    Positive(0.5)                      learned as log a, positive whatever happens
    Positive(matrix)                   learned as L of L Lᵀ, positive definite
    (0.5, Positive(2.0)), {"q": 0.5}   one for each tensor of a state of several

A module with such numbers reads each as a float or a tensor under its name.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import Number
from ..monitor import modules_of

FREED = "backward through the graph a second time"
MOST_NODES = 10_000  # of a graph that is searched for what a backward pass has freed


class Computed(nn.Module):
    """A number that is computed whenever it is read."""


class Positive(Computed):
    """A positive number that is learned: stored as log a, read as a.

    It takes the place of a float wherever an ``epsilon``, a ``mass`` or a ``damping``
    is expected, and no step of an optimiser can make it negative.  A step on log a
    changes a by a factor, so numbers of any size (1e-8 … 1e8) learn at one rate.

    Parameters
    ----------
    value : float or Tensor
        The number at the start, > 0: a scalar, one per coordinate, or a symmetric
        positive definite matrix ``(d, d)`` for the mass or the damping of ``Newton``.
        A matrix is learned as L of L Lᵀ, with the logarithm of L's diagonal.
    zero : bool, default False
        For a damping that may vanish: stored as √a, so that a = 0 can be reached; a
        matrix as L itself, so that it may become semidefinite.

    Raises
    ------
    ValueError
        For numbers out of range, or a matrix that is not positive definite.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.SecondOrder(lambda t, x: -x, epsilon=so.Positive(0.5))
    >>> system.epsilon.item(), [name for name, _ in system.named_parameters()]
    (0.5, ['epsilon.log'])
    """

    def __init__(self, value: Number, zero: bool = False) -> None:
        super().__init__()
        self.zero = zero
        shape = value.shape if isinstance(value, Tensor) else ()
        self.matrix = len(shape) == 2 and shape[0] == shape[1]
        value = cast(Tensor, value) if self.matrix else checks.positive(value, "value")
        number = value if isinstance(value, Tensor) else torch.tensor(value)
        number = number.detach().double()
        kind = value.dtype if isinstance(value, Tensor) else torch.get_default_dtype()
        if self.matrix:
            name, stored = "factor", first_factor(number)
            if not zero:
                stored.diagonal().log_()
        else:
            name, stored = ("root", number.sqrt()) if zero else ("log", number.log())
        self.register_parameter(name, nn.Parameter(stored.to(kind).contiguous()))

    def forward(self) -> Tensor:
        """Return the number, differentiable."""
        if self.matrix:
            factor = self.cholesky()
            return factor @ factor.mT
        stored: Any = self.root if self.zero else self.log
        return stored.square() if self.zero else stored.exp()

    def cholesky(self) -> Tensor:
        """The lower triangular L of a matrix L Lᵀ, differentiable."""
        factor: Any = self.factor
        if self.zero:
            return factor.tril()
        return factor.tril(-1) + torch.diag(factor.diagonal().exp())

    def __float__(self) -> float:
        """Return the number as a float of Python."""
        return self().detach().item()

    def extra_repr(self) -> str:
        """Show the number."""
        return checks.describe(self().detach())


def first_factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor that a matrix is learned from, or an error."""
    even = torch.allclose(matrix, matrix.mT, rtol=1e-6, atol=0)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not even or failed or not matrix.numel() or not bool(factor.isfinite().all()):
        raise ValueError(
            "`value` must be symmetric and positive definite where it is a square "
            f"matrix, got {matrix.tolist()}"
        )
    return factor


class WithNumbers(nn.Module):
    """A module whose numbers are read by name, however they are stored.

    Attributes
    ----------
    number_names : tuple of str
        Those that a float may stand for.  A state_dict notes such floats beside its
        tensors (in its metadata, the keys stay as they are), and loading compares.
    """

    number_names: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value() if isinstance(value, Computed) else value

    def fixed_numbers(self) -> dict[str, float]:
        """The numbers that are floats."""
        own = vars(self)
        names = (n for n in self.number_names if isinstance(own.get(n), (int, float)))
        return {name: float(own[name]) for name in names}

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None and self.fixed_numbers():
            metadata.setdefault(prefix[:-1], {})["numbers"] = self.fixed_numbers()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
            error_msgs,
        )  # fmt: skip
        saved = (local_metadata or {}).get("numbers", {})
        for name, value in self.fixed_numbers().items():
            if saved.get(name, value) != value:
                # Not an error message: those are raised with strict=False, too.
                unexpected_keys.append(
                    f"{prefix}{name} = {saved[name]!r} (`{name}` is {value!r} here: "
                    "build the model with the saved number, or load with strict=False "
                    "to keep this one)"
                )

    def check_numbers(self) -> None:
        """Raise for numbers that were computed once and are stale."""
        for module in modules_of(self):
            sources = module.__dict__.get("_sources")
            for name, source in sources.items() if sources else ():
                check_fresh(getattr(module, name, None), name, source)


def register_number(module: nn.Module, name: str, value: Any) -> None:
    """Keep a number on a module: tensors as buffers, so that they move with it."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
        if value.grad_fn is not None:
            sources = vars(module).setdefault("_sources", {})
            sources[name] = Source(value)
    else:
        setattr(module, name, value)


def keep_positive(module: nn.Module, name: str, value: Any, zero: bool = False) -> None:
    """Check a number of a system and keep it."""
    if is_structure(value):
        value = Numbers(value, lambda leaf: checks.positive(leaf, name, zero))
    elif not isinstance(value, Positive):
        value = checks.positive(value, name, zero)
    elif value.matrix:
        raise ValueError(
            f"`{name}` is a learned matrix, which only the mass and the damping of "
            "`Newton` can be; learn one number per coordinate, (d,)"
        )
    register_number(module, name, value)


class Numbers(WithNumbers, Computed):
    """Numbers in the structure of a state, each fixed or learned."""

    def __init__(self, tree: Any, check: Callable[[Any], Any]) -> None:
        super().__init__()
        names: list[str] = []
        self.tree = self.keep(tree, check, names)
        self.number_names = tuple(names)

    def keep(self, tree: Any, check: Callable[[Any], Any], names: list[str]) -> Any:
        """Register all numbers, and return their names in the same structure."""
        if is_structure(tree):
            kept = [self.keep(part, check, names) for _, part in branches(tree)]
            return rebuild(tree, kept)
        names.append(f"number{len(names)}")
        value = tree if isinstance(tree, Positive) else check(tree)
        register_number(self, names[-1], value)
        return names[-1]

    def forward(self) -> Any:
        """Return the structure of numbers."""
        return build(self.tree, (getattr(self, name) for name in self.number_names))


def is_structure(value: Any) -> bool:
    """Whether a value holds others: a tuple, a list or a dictionary."""
    return isinstance(value, (tuple, list, Mapping))


def branches(tree: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and the values of a tuple, a list or a dictionary."""
    return tree.items() if isinstance(tree, Mapping) else enumerate(tree)


def rebuild(tree: Any, values: Iterable[Any]) -> Any:
    """The same tuple, named tuple, list or dictionary of other values."""
    if isinstance(tree, Mapping):
        return dict(zip(tree, values, strict=True))
    if hasattr(tree, "_fields"):
        return type(tree)(*values)
    return list(values) if isinstance(tree, list) else tuple(values)


def build(tree: Any, values: Iterator[Any]) -> Any:
    """The same structure of other values."""
    if not is_structure(tree):
        return next(values)
    return rebuild(tree, [build(part, values) for _, part in branches(tree)])


class Source:
    """The leaves that a number was computed from, as they were then."""

    def __init__(self, value: Tensor) -> None:
        leaves = (getattr(node, "variable", None) for node in graph(value))
        self.leaves = [
            (weakref.ref(leaf), leaf._version) for leaf in leaves if leaf is not None
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {"leaves": []}

    def changed(self) -> bool:
        """Whether one of them has been written into."""
        now = ((leaf(), version) for leaf, version in self.leaves)
        return any(leaf is not None and leaf._version != v for leaf, v in now)


def check_fresh(value: Any, name: str, source: Source) -> None:
    """Raise where a number computed beforehand is differentiated once too often."""
    if not isinstance(value, Tensor):
        return
    if source.changed():
        why = "has changed since (by an optimiser)"
    elif torch.is_grad_enabled() and any(freed(node) for node in graph(value)):
        why = "a backward pass has already gone through"
    else:
        return
    learned = ""
    if name in ("epsilon", "mass", "damping"):
        learned = f", or learn it as {name}=so.Positive(...), which stays positive"
    raise ValueError(
        f"`{name}` was computed once, from a tensor that {why}: it has the old value, "
        "and its graph is gone. Compute it and build the system or model with it in "
        f"every step, or make it an nn.Parameter{learned}"
    )


def graph(value: Tensor) -> Iterator[Any]:
    """The nodes of a graph behind a tensor."""
    seen: set[Any] = {None}
    todo: list[Any] = [value.grad_fn]
    while todo and len(seen) < MOST_NODES:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo.extend(parent for parent, _ in node.next_functions)


def freed(node: Any) -> bool:
    """Whether a backward pass has freed what a node had saved."""
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                getattr(node, name)
            except RuntimeError as error:
                if FREED in str(error):
                    return True
    return False


def as_double(value: Number) -> Number:
    """A number as float64 tensor or, where it is scalar and fixed, as float."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0 and not checks.differentiated(value):
        return value.item()
    return value.double()


def in_dtype(value: Any, like: Tensor) -> Any:
    """A number per coordinate in the dtype of a state; others change no dtype."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.dtype != like.dtype:
        return value.to(like.dtype)
    return value
