"""The precision of a pass: autocast, to be entered again as it was."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast_state(device: torch.device) -> tuple[str, torch.dtype, bool] | None:
    """The precision context of a device type, to be entered again."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return None
    return kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)


def autocast_again(
    state: tuple[str, torch.dtype, bool] | None,
) -> AbstractContextManager[Any]:
    """A context with the precision that ``autocast_state`` saw."""
    if state is None:
        return nullcontext()
    kind, dtype, enabled = state
    if not enabled and not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, dtype=dtype, enabled=enabled)
