"""The training loop that every notebook needs: Adam, a progress bar, a history.

    θ ← θ − lr · Adam(∇ loss(model))       a few hundred times

``fit`` minimises ``loss(model)``: a function of the model and of nothing else, which
closes over its data.  Full batches, minibatches and several terms are then all the
same to the loop, and there is no loader to configure.
"""

import math
import operator
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

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


class History(NamedTuple):
    """What happened during ``fit``; plot it with ``plt.semilogy(history.loss)``.

    Attributes
    ----------
    loss : list of float
        The loss before each update.  The last entry belongs to the model before the
        last update.
    stopped : str
        Empty if all steps were made, else why not and where: numbers that are not
        finite, a parameter out of its range, or ``"interrupted"``.
    """

    loss: list[float]
    stopped: str = ""

    def __repr__(self) -> str:
        """Show the ends of the curve rather than all of it."""
        if not self.loss:
            return f"History(no steps{', ' + self.stopped if self.stopped else ''})"
        end = f", stopped: {self.stopped}" if self.stopped else ""
        first, last = self.loss[0], self.loss[-1]
        return f"History({len(self.loss)} steps, loss {first:.3g} to {last:.3g}{end})"


def fit(
    model: Model,
    loss: Callable[[Model], Tensor],
    steps: int,
    lr: float,
    progress: bool = True,
) -> History:
    """Minimise ``loss(model)`` over the parameters of ``model`` by Adam.

    The learning rate falls to zero along half a cosine, which makes the last steps
    settle; gradients are clipped at norm 1, which survives the odd steep batch.

    Parameters
    ----------
    model : nn.Module
        Trained in place; parameters with ``requires_grad=False`` stay as they are.
    loss : callable
        ``loss(model) -> Tensor`` with one element.  Draw minibatches inside it.
    steps : int
        Number of updates, at least 1.
    lr : float
        Initial learning rate, > 0; of a tensor or an array, the one number it holds.
    progress : bool, default True
        Show a bar with the loss if ``tqdm`` is installed (extra ``progress``).

    Returns
    -------
    History
        ``history.loss`` has one float per step.  Training ends early, and
        ``history.stopped`` says why and at which step, in three cases:

        * The loss or its gradient is not finite.  The parameters are those from before
          the update that would have spoiled them (also a ``RuntimeWarning``).
        * Training has pushed a learned ε, mass, damping, ... to where the solver
          refuses it (also a ``RuntimeWarning``; ``Positive`` keeps it in range).
        * The user interrupts it (Ctrl-C).  The parameters are those of the last
          complete step, and the history is that of all complete steps.

        However it ends, by an exception too, no gradients are left behind.

    Raises
    ------
    ValueError
        If ``steps`` or ``lr`` is out of range, the model has nothing to train, or the
        loss has more than one element or no gradient.
    TypeError
        If ``lr`` is not a number, or ``loss`` is not callable or does not return a
        tensor.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> model = torch.nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 50).unsqueeze(1)
    >>> history = so.fit(model, lambda model: (model(x) - 2 * x).square().mean(),
    ...                  steps=200, lr=0.1, progress=False)
    >>> history.loss[-1] < 1e-6
    True
    """
    parameters = trainable(model)
    steps, lr = checked_settings(loss, steps, lr)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    try:
        with bar(steps, progress) as advance:
            for step in range(steps):
                optimizer.zero_grad()
                value = evaluate(loss, model, later=step > 0)
                differentiate(value, parameters)
                with uninterrupted():
                    optimizer.step()
                    schedule.step()
                    losses.append(value.item())
                advance(losses[-1])
    except Stop as end:
        return stopped_early(losses, end)
    except KeyboardInterrupt:
        return History(losses, f"interrupted {where(losses)}")
    finally:
        optimizer.zero_grad()
    return History(losses)


class Stop(Exception):  # noqa: N818, it is no error of the caller
    """The reason to end a run, and what the user may do about it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.reason, self.advice = reason, advice


def evaluate(loss: Callable[[Model], Tensor], model: Model, later: bool) -> Tensor:
    """Return the loss, or stop where the parameters have left its domain.

    A solver that refuses a number ``later`` than in the first step has accepted it
    before: training has moved it.
    """
    try:
        value = checked_loss(loss(model))
    except ValueError as error:
        name = moved(error) if later else None
        if name is None:
            raise
        raise Stop(
            f"training pushed `{name}` out of range ({error})",
            IN_RANGE.get(name, POSITIVE),
        ) from error
    if not math.isfinite(value.item()):
        raise Stop(f"the loss is {value.item()}", SMALLER)
    return value


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


def differentiate(value: Tensor, parameters: list[nn.Parameter]) -> None:
    """Give each parameter its clipped gradient, or stop if it is not finite."""
    value.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    if not math.isfinite(norm):
        raise Stop(f"the gradient's norm is {norm.item()}", SMALLER)


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


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters to train, or a clear error if there are none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "`model` has no parameter with requires_grad=True, so there is nothing to "
            f"fit; got {type(model).__name__}"
        )
    return parameters


def checked_settings(loss: object, steps: Any, lr: Any) -> tuple[int, float]:
    """Return the numbers of ``fit`` as an int and a float, or raise."""
    if not callable(loss):
        raise TypeError(
            "`loss` must be a function of the model, such as "
            "lambda model: (model(x) - y).square().mean(); "
            f"got {type(loss).__name__}"
        )
    count, rate = single(steps), single(lr)
    if isinstance(count, bool) or not hasattr(count, "__index__") or count < 1:
        raise ValueError(f"`steps` must be a positive integer, got {steps!r}")
    if not isinstance(rate, (int, float)):
        raise TypeError(f"`lr` must be a number, got {lr!r}")
    if isinstance(rate, bool) or not 0 < rate < math.inf:
        raise ValueError(f"`lr` must be a positive and finite number, got {lr!r}")
    return operator.index(count), float(rate)


def single(value: Any) -> Any:
    """The number of Python in a tensor or array of one element; else what is given."""
    item = getattr(value, "item", None)
    count = math.prod(getattr(value, "shape", (0,)))
    return item() if callable(item) and count == 1 else value


def checked_loss(value: object) -> Tensor:
    """Return the loss as a scalar that has a gradient, or say what it is instead."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"`loss` must return a tensor, got {type(value).__name__}; do not call "
            ".item() on it, the gradient is needed"
        )
    if value.numel() != 1:
        raise ValueError(
            f"`loss` must return one number, got shape {tuple(value.shape)}; take its "
            ".mean() or .sum()"
        )
    if not value.requires_grad:
        raise ValueError(
            "`loss` returned a tensor without a gradient; compute it from the model "
            "that it receives, outside torch.no_grad() and without .detach()"
        )
    return value.reshape(())


def where(losses: list[float]) -> str:
    """The place in a run at which it ended."""
    before = f"last finite loss {losses[-1]:.6g}" if losses else "no finite loss before"
    return f"at step {len(losses)} ({before})"


def stopped_early(losses: list[float], end: Stop) -> History:
    """End a run that broke down: warn and return the history so far."""
    message = f"{end.reason} {where(losses)}"
    warnings.warn(
        f"fit stopped early: {message}; the parameters are those of this step. "
        f"{end.advice}",
        RuntimeWarning,
        stacklevel=3,
    )
    return History(losses, message)


@contextmanager
def bar(steps: int, progress: bool) -> Iterator[Callable[[float], None]]:
    """Yield ``advance(loss)``: a tqdm bar if wanted and installed, else nothing."""
    tqdm = find_tqdm() if progress else None
    if tqdm is None:
        yield lambda loss: None
        return
    with tqdm(total=steps) as line:

        def advance(loss: float) -> None:
            line.set_postfix(loss=f"{loss:.3g}", refresh=False)
            line.update()

        yield advance


def find_tqdm() -> Any:
    """The class of progress bars, or None where it is not installed."""
    try:
        # Not tqdm.auto, which warns in notebooks that lack ipywidgets.
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
