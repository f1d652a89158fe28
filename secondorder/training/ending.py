"""How a training ends before its last step, and what must not be cut in two."""

import math
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch import Tensor

SMALLER = "Try a smaller lr, more solver steps, or check the data for nan"
# What a solver says when training has pushed one of its numbers out of range, and how
# that number is kept in range.
OUT_OF_RANGE = re.compile("`(epsilon|mass|damping|stiffness|gamma|t1|t|step_size)`")
POSITIVE = "Learn it as so.Positive(value), which stores the logarithm"
IN_RANGE = {
    "gamma": "Learn its logit, through torch.nn.utils.parametrize",
    "t1": "Learn its logarithm, through torch.nn.utils.parametrize",
    "t": "Learn the logarithms of the differences of times",
    "step_size": "Take more steps, or a method for any h/ε",
}


class End(Exception):  # noqa: N818, it is no error
    """The reason to end a run that went well."""


class Stop(Exception):  # noqa: N818, it is no error of the caller
    """The reason to end a run that broke down, and what the user may do about it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


def out_of_range(error: ValueError) -> Stop | None:
    """The end of a run whose parameters have left the domain of a solver, if it is one.

    A solver that refuses a number later than in the first step has accepted it before:
    training has moved it.
    """
    name = moved(error)
    if name is None:
        return None
    return Stop(
        f"training pushed `{name}` out of range ({error})", IN_RANGE.get(name, POSITIVE)
    )


def moved(error: ValueError) -> str | None:
    """The learned number that a line of this package has refused, if it is that.

    An error that the user's lines raise, or about a tensor that is data, is none.
    """
    name, trace = OUT_OF_RANGE.search(str(error)), error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if name is None or trace is None:
        return None
    module = trace.tb_frame.f_globals.get("__name__", "")
    value = trace.tb_frame.f_locals.get(name[1])
    data = isinstance(value, Tensor) and not value.requires_grad
    here = module.split(".")[0] == __name__.split(".")[0]
    return name[1] if here and not data else None


def where(losses: list[float]) -> str:
    """The place in a run at which it ended."""
    known = losses and math.isfinite(losses[-1])
    before = f"last finite loss {losses[-1]:.6g}" if known else "no finite loss before"
    return f"at step {len(losses)} ({before})"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of an update, which is made whole or not at all."""
    handler = signal.getsignal(signal.SIGINT)
    caught: list[tuple[int, FrameType | None]] = []
    if threading.current_thread() is not threading.main_thread() or not callable(
        handler
    ):
        yield  # signals come to the main thread
        return
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[-1])
