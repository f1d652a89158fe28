"""A training in a file: taken up again, it goes on as if it had not been left.

Kept are the model, the optimiser, the schedule, the place in the data, the history, the
best state so far and every random state, all as they were between two updates.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from .batches import NoBatches
from .history import History
from .random import load_random_state, random_state
from .updates import Update
from .validation import Validation

EVERY = 60.0  # seconds between two files, beside the one at the end


class Checkpoint:
    """The file of one training, and what belongs into it."""

    def __init__(
        self,
        path: Any,
        model: nn.Module,
        update: Update,
        batches: NoBatches,
        watch: Validation,
        history: History,
        generators: Sequence[Generator],
        settings: dict[str, Any],
    ) -> None:
        self.path = Path(path) if path is not None else None
        self.model, self.update, self.batches = model, update, batches
        self.watch, self.history = watch, history
        self.generators, self.settings = [*generators, *batches.generators], settings
        self.saved = time.monotonic()
        self.before: dict[str, Any] | None = None

    def begin(self) -> None:
        """Note what an update that fails in its middle will have changed."""
        if self.path is not None:
            self.before = self.moving()

    def end(self) -> None:
        """An update is complete: nothing has to be undone."""
        self.before = None

    def moving(self) -> dict[str, Any]:
        """Random states, the place in the data, and buffers such as running means."""
        return {
            "random": random_state(self.generators),
            "batches": self.batches.state(),
            "buffers": [buffer.clone() for buffer in self.model.buffers()],
        }

    def save_if_due(self) -> None:
        """Save if the last file is old."""
        if self.path is not None and time.monotonic() - self.saved > EVERY:
            self.save()

    def save(self) -> None:
        """Write the file, or leave the old one whole."""
        if self.path is None:
            return
        now = self.moving() if self.before is None else self.before
        with torch.no_grad():
            for buffer, value in zip(
                self.model.buffers(), now.pop("buffers"), strict=True
            ):
                buffer.copy_(value)
        state = {
            **now,
            "settings": self.settings,
            "model": self.model.state_dict(),
            "update": self.update.state(),
            "history": asdict(self.history),
            "best": self.watch.state,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        torch.save(state, part)
        os.replace(part, self.path)
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Take up the training in the file, if there is one."""
        if self.path is None:
            raise ValueError("`resume` needs the file of the training, `checkpoint`")
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, value in self.settings.items():
            kept = state["settings"].get(name)
            if kept != value:
                raise ValueError(
                    f"`checkpoint` {self.path} was written by a training with {name} = "
                    f"{kept!r}, and this one has {value!r}; go on with the same "
                    "settings, or start anew with resume=False"
                )
        self.model.load_state_dict(state["model"])
        self.update.load(state["update"])
        for name, value in state["history"].items():
            setattr(self.history, name, value)
        self.history.stopped = ""
        self.watch.state = state["best"]
        self.batches.load(state["batches"])
        load_random_state(state["random"], self.generators)


def callbacks(given: Any) -> list[Callable[..., Any]]:
    """The functions to call after each update, or an error."""
    found = [] if given is None else given
    found = [*found] if isinstance(found, (list, tuple)) else [found]
    for one in found:
        if not callable(one):
            raise TypeError(
                "`callback` must be a function callback(model, history) or a list of "
                f"them, got {type(one).__name__}"
            )
    return found
