"""What a loss is given beside the model: nothing, rows of tensors, a loader's batches.

Batches are drawn without end, epoch after epoch.  A position in them can be kept and
found again, so that a training which is taken up later sees the batches that it would
have seen: the order of rows is part of it, and of a loader the random state at the
start of its epoch, from which the epoch is drawn again up to where it was.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from .. import checks
from .random import load_random_state, random_state


class NoBatches:
    """A loss that closes over its data."""

    per_epoch: int | None = None
    generators: list[Generator] = []

    def draw(self) -> tuple[Any, ...]:
        """Nothing."""
        return ()

    def epoch(self) -> Iterator[tuple[Any, ...]]:
        """All there is, once."""
        yield ()

    def state(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to find again."""


class Rows(NoBatches):
    """Rows of tensors, in a new random order in every epoch.

    With all rows in one batch they keep their order.
    """

    def __init__(
        self, tensors: tuple[Tensor, ...], size: int, generator: Generator | None
    ) -> None:
        self.tensors, self.size, self.generator = tensors, size, generator
        self.count = len(tensors[0])
        self.per_epoch = -(-self.count // size)
        self.order: Tensor | None = None
        self.place = 0

    def draw(self) -> tuple[Tensor, ...]:
        """The next batch."""
        if self.size >= self.count:
            return self.tensors
        if self.order is None or self.place >= self.count:
            # On the CPU: the same rows are drawn wherever the data are.
            self.order = torch.randperm(self.count, generator=self.generator)
            self.place = 0
        rows = self.order[self.place : self.place + self.size]
        self.place += self.size
        return tuple(z[rows.to(z.device)] for z in self.tensors)

    def epoch(self) -> Iterator[tuple[Tensor, ...]]:
        """All rows, in their order."""
        for start in range(0, self.count, self.size):
            yield tuple(z[start : start + self.size] for z in self.tensors)

    def state(self) -> dict[str, Any]:
        """The order of this epoch and the place in it."""
        return {"order": self.order, "place": self.place}

    def load(self, state: dict[str, Any]) -> None:
        """Go there."""
        self.order, self.place = state["order"], state["place"]


class Loader(NoBatches):
    """The batches of a DataLoader, or of anything else that can be iterated again."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.batches: Iterator[Any] | None = None
        self.taken = 0
        self.began: dict[str, Any] = {}
        self.per_epoch = len(loader) if hasattr(loader, "__len__") else None
        # A loader and its samplers may have random numbers of their own.
        inner = getattr(loader, "batch_sampler", None)
        outer = getattr(loader, "sampler", None)
        owners = (loader, outer, inner, getattr(inner, "sampler", None))
        found = (getattr(owner, "generator", None) for owner in owners)
        own = {id(g): g for g in found if isinstance(g, Generator)}
        self.generators = [*own.values()]

    def start(self) -> None:
        """Begin an epoch."""
        self.began, self.taken = random_state(self.generators), 0
        self.batches = iter(self.loader)

    def draw(self) -> tuple[Any, ...]:
        """The next batch, of this epoch or the first of the next."""
        if self.batches is None:
            self.start()
        for fresh in (False, True):
            if fresh:
                self.start()
            for batch in self.batches or ():
                self.taken += 1
                return unpacked(batch)
        raise ValueError(
            "`data` has no batches, got a loader that is empty, or used up"
        )

    def epoch(self) -> Iterator[tuple[Any, ...]]:
        """All batches once, apart from those of the training."""
        return (unpacked(batch) for batch in self.loader)

    def state(self) -> dict[str, Any]:
        """Where this epoch began and how many batches were taken."""
        return {"began": self.began, "taken": self.taken}

    def load(self, state: dict[str, Any]) -> None:
        """Draw the epoch again, up to there; the caller restores the random state."""
        if not state["began"]:
            return
        load_random_state(state["began"], self.generators)
        self.start()
        for _ in range(state["taken"]):
            self.draw()


def unpacked(batch: Any) -> tuple[Any, ...]:
    """The arguments of a loss after the model."""
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def find_batches(
    data: Any, batch_size: Any, generator: Any = None, name: str = "data"
) -> NoBatches:
    """Turn ``data`` into batches, or raise."""
    if data is None:
        if batch_size is not None:
            raise ValueError(
                f"`batch_size` {batch_size!r} needs `data`: tensors, whose rows are "
                "drawn; the loss is then called as loss(model, *batch)"
            )
        return NoBatches()
    if isinstance(data, Tensor):
        data = (data,)
    tensors = isinstance(data, (tuple, list)) and all(
        isinstance(z, Tensor) for z in data
    )
    if tensors and data:
        counts = {len(z) if z.ndim else 0 for z in data}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(
                f"`{name}` must be tensors with equally many rows, at least one, got "
                f"shapes {[tuple(z.shape) for z in data]}; states of a Solution have "
                "time first, move their batch there by .transpose(0, 1)"
            )
        (count,) = counts
        size = count if batch_size is None else checks.count(batch_size, "batch_size")
        return Rows(tuple(data), size, generator)
    if batch_size is not None:
        raise ValueError(
            f"`batch_size` belongs to tensors; `{name}` is a {type(data).__name__}, "
            "which makes its own batches"
        )
    if iter_once(data):
        raise TypeError(
            f"`{name}` must be tensors or something that can be iterated in every "
            f"epoch, such as a DataLoader, got {type(data).__name__}; a generator is "
            "used up after one, make a list of it"
        )
    return Loader(data)


def iter_once(data: Any) -> bool:
    """Whether data cannot be iterated, or only once."""
    if isinstance(data, DataLoader):
        return False
    return not hasattr(data, "__iter__") or iter(data) is data
