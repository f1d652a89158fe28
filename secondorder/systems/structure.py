"""States of several tensors: tuples, lists, named tuples and dictionaries, nested.

    x = {"q": (b, 3), "charge": (b,)}   ↔   one tensor, the entries of all side by side

A solve sees one tensor; the field sees, and returns, the structure.  Where samples have
times or steps of their own, the first axis is kept: ``(b, d)``, else ``(d,)``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..monitor import WrappedField
from .equations import System
from .fields import Potential
from .matrices import MatrixForce
from .numbers import Computed, Numbers, branches, build, is_structure
from .stiffness import Restored

NUMBERS = ("epsilon", "mass", "damping")


class Layout:
    """Where each tensor of a structure lies in one tensor of all.

    Parameters
    ----------
    tree : tuple, list or dict of Tensor, nested
    rows : bool
        Whether the first axis, which all tensors then share, is kept.

    Raises
    ------
    TypeError, ValueError
        For a structure without tensors, or tensors that do not go together; the message
        names the one, such as ``x0['q'][1]``.
    """

    def __init__(self, tree: Any, rows: bool = False) -> None:
        self.rows = int(rows)
        found = list(leaves(tree, "x0"))
        if not found:
            raise ValueError("`x0` must hold at least one tensor, got an empty one")
        first, like = found[0]
        for name, leaf in found:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"`{name}` must be a tensor, got {type(leaf).__name__}")
            if leaf.dtype != like.dtype or leaf.device != like.device:
                raise ValueError(
                    f"`{name}` is {leaf.dtype} on {leaf.device}, but `{first}` is "
                    f"{like.dtype} on {like.device}; the tensors of a state share both"
                )
            if rows and leaf.shape[:1] != like.shape[:1] or leaf.ndim < self.rows:
                raise ValueError(
                    f"`{name}` has shape {tuple(leaf.shape)}; with times or steps for "
                    "each sample, all tensors of a state share the first axis, that of "
                    f"`{first}`: {tuple(like.shape)}"
                )
        self.names = [name.removeprefix("x0") for name, _ in found]
        self.shapes = [tuple(leaf.shape[self.rows :]) for _, leaf in found]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self.tree = build(tree, iter(range(len(found))))

    def split(self, flat: Tensor) -> Any:
        """The structure of one tensor ``(..., d)``; leading axes stay."""
        parts = flat.split(self.sizes, -1)
        shaped = (
            part.reshape((*flat.shape[:-1], *shape))
            for part, shape in zip(parts, self.shapes, strict=True)
        )
        return build(self.tree, shaped)

    def join(self, tree: Any, name: str) -> Tensor:
        """One tensor of a structure, which has to be that of the state."""
        parts = []
        for found, shape, (place, leaf) in zip(
            self.names, self.shapes, matched(self.tree, tree, name), strict=True
        ):
            lead = leaf.ndim - len(shape) if isinstance(leaf, Tensor) else -1
            if lead < self.rows or tuple(leaf.shape[lead:]) != shape:
                got = (
                    f"shape {tuple(leaf.shape)}"
                    if isinstance(leaf, Tensor)
                    else type(leaf).__name__
                )
                want = ", ".join(map(str, ("batch",) * self.rows + shape))
                raise ValueError(
                    f"`{place}` must be a tensor ({want}), as `x0{found}` is, got {got}"
                )
            size = torch.Size(shape).numel()
            parts.append(leaf.reshape((*leaf.shape[:lead], size)))
        return torch.cat(parts, -1)

    def velocity(self, tree: Any, like: Tensor) -> Tensor | None:
        """One tensor of the velocities, zeros for each None."""
        if tree is None:
            return None
        zeros = iter_leaves(self.split(torch.zeros_like(like)))
        filled = []
        for (place, leaf), zero in zip(
            matched(self.tree, tree, "v0"), zeros, strict=True
        ):
            if isinstance(leaf, Tensor) and (
                leaf.dtype != like.dtype or leaf.device != like.device
            ):
                raise ValueError(
                    f"`{place}` must match `x0`: {leaf.dtype} on {leaf.device} against "
                    f"{like.dtype} on {like.device}"
                )
            filled.append(zero if leaf is None else leaf)
        return self.join(build(self.tree, iter(filled)), "v0")

    def number(self, tree: Any, name: str, device: torch.device) -> Tensor:
        """One value per entry, from one number for each tensor of the state."""
        parts = []
        for (place, value), shape in zip(
            matched(self.tree, tree, name), self.shapes, strict=True
        ):
            value = torch.as_tensor(value, dtype=torch.float64, device=device)
            try:
                parts.append(value.expand(shape).reshape(-1))
            except RuntimeError:
                raise ValueError(
                    f"`{place}` must be a number or broadcast to {shape}, got shape "
                    f"{tuple(value.shape)}"
                ) from None
        return torch.cat(parts)


def leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What a structure holds, with its name."""
    if not is_structure(tree):
        yield name, tree
        return
    for key, branch in branches(tree):
        yield from leaves(branch, f"{name}[{key!r}]")


def iter_leaves(tree: Any) -> Iterator[Any]:
    """What a structure holds."""
    return (leaf for _, leaf in leaves(tree, ""))


def matched(tree: Any, value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What a value holds in the order of another structure, which it has to have."""
    if not is_structure(tree):
        yield name, value
        return
    keys = [key for key, _ in branches(tree)]
    kind = Mapping if isinstance(tree, Mapping) else (tuple, list)
    found = dict(branches(value)) if isinstance(value, kind) else None
    if found is None or found.keys() != set(keys):
        got = type(value).__name__ if found is None else f"{list(found)}"
        what = "a dictionary" if kind is Mapping else "a tuple or list"
        raise ValueError(
            f"`{name}` must have the structure of `x0`, here {what} with {keys}; "
            f"got {got}"
        )
    for key, branch in branches(tree):
        yield from matched(branch, found[key], f"{name}[{key!r}]")


class StructuredField(WrappedField):
    """A field of one tensor around a field of a structure."""

    def __init__(
        self, field: Callable[..., Any], layout: Layout, takes_velocity: bool
    ) -> None:
        super().__init__(field)
        self.layout, self.states = layout, 2 if takes_velocity else 1

    def forward(self, t: Tensor, *args: Any) -> Tensor:
        """Evaluate the field."""
        states = (self.layout.split(part) for part in args[: self.states])
        value = self.field(t, *states, *args[self.states :])
        return self.layout.join(value, "field(t, x)")


class StructuredEnergy(WrappedField):
    """An energy of one tensor around that of a structure, with the time or without."""

    def __init__(self, energy: Callable[..., Tensor], layout: Layout) -> None:
        super().__init__(energy)
        self.layout = layout

    def forward(self, *args: Tensor) -> Tensor:
        """Evaluate the energy."""
        return self.field(*args[:-1], self.layout.split(args[-1]))


def around(field: Any, layout: Layout, takes_velocity: bool = False) -> nn.Module:
    """A field of one tensor around one of a structure."""
    if isinstance(field, Potential):
        return Potential(StructuredEnergy(field.energy, layout), field.time)
    return StructuredField(field, layout, takes_velocity)


class Spread(Computed):
    """Numbers for each tensor of a state, as one value per entry."""

    def __init__(
        self, numbers: nn.Module, layout: Layout, name: str, device: torch.device
    ) -> None:
        super().__init__()
        self.numbers, self.layout, self.name = numbers, layout, name
        self.device = device

    def forward(self) -> Tensor:
        """Return one value per entry, differentiable."""
        return self.layout.number(self.numbers(), self.name, self.device)


def flattened(system: System, layout: Layout, device: torch.device) -> System:
    """The same equation for one tensor of all."""
    if system.modes is not None or isinstance(system.field, MatrixForce):
        raise ValueError(
            "`mass`, `damping` and `stiffness` cannot be matrices where the state is "
            "a structure; give a number for each tensor, or join the tensors into one"
        )
    field: Any = system.field
    if isinstance(field, Restored):
        inner = around(field.force, layout)
        flat: Any = Restored(inner, spread(field, "stiffness", layout, device))
    else:
        flat = around(field, layout, system.takes_velocity)
    core = system.replace(flat)
    for name in NUMBERS:
        if name in vars(system) or name in system._modules or name in system._buffers:
            value = spread(system, name, layout, device)
            if isinstance(value, Spread):
                setattr(core, name, value)
    return core


def spread(owner: Any, name: str, layout: Layout, device: torch.device) -> Any:
    """A number as it is stored, or one value per entry of a structure of numbers."""
    stored = owner._modules.get(name)
    if isinstance(stored, Numbers):
        return Spread(stored, layout, name, device)
    value = getattr(owner, name)
    if isinstance(value, Tensor) and value.ndim > 0:
        raise ValueError(
            f"`{name}` has one value per coordinate, {checks.describe(value)}, but the "
            "state is a structure; give one number, or the same structure of numbers"
        )
    return value if stored is None else stored
