"""The random states that a training depends on, taken and put back."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator


def random_state(generators: Sequence[Generator] = ()) -> dict[str, Any]:
    """The states of torch, numpy, Python and of some generators, as plain data."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002, the global one
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
        "generators": [generator.get_state() for generator in generators],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def load_random_state(
    state: dict[str, Any], generators: Sequence[Generator] = ()
) -> None:
    """Put the states back."""
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    for generator, own in zip(generators, state["generators"], strict=True):
        generator.set_state(own)
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
