"""The training loop that every notebook needs: Adam, a progress bar, a history.

    θ ← θ − lr · Adam(∇ loss(model))       a few hundred times

``fit`` minimises ``loss(model)``: a function of the model and of nothing else, which
closes over its data.  Full batches, minibatches and several terms are then all the
same to the loop, and there is no loader to configure.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class History(NamedTuple):
    """What happened during ``fit``; plot it with ``plt.semilogy(history.loss)``.

    Attributes
    ----------
    loss : list of float
        The loss before each update.  The last entry belongs to the model before the
        last update.
    stopped : str
        Empty if all steps were made, else why not and where.
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
        Initial learning rate, > 0.
    progress : bool, default True
        Show a bar with the loss if ``tqdm`` is installed (extra ``progress``).

    Returns
    -------
    History
        ``history.loss`` has one float per step.  Where the loss or its gradient is not
        finite, training stops before the update that would spoil the parameters, and
        ``history.stopped`` (also a ``RuntimeWarning``) says at which step.

    Raises
    ------
    ValueError
        If ``steps`` or ``lr`` is out of range, the model has nothing to train, or the
        loss has more than one element or no gradient.
    TypeError
        If ``loss`` is not callable or does not return a tensor.

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
    check_settings(loss, steps, lr)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    with bar(steps, progress) as advance:
        for step in range(steps):
            optimizer.zero_grad()
            value = checked_loss(loss(model))
            number = value.item()
            if not math.isfinite(number):
                return stop(losses, step, f"the loss is {number}")
            value.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if not math.isfinite(norm):
                return stop(losses, step, f"the gradient's norm is {norm.item()}")
            optimizer.step()
            schedule.step()
            losses.append(number)
            advance(number)
    optimizer.zero_grad()
    return History(losses)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters to train, or a clear error if there are none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "`model` has no parameter with requires_grad=True, so there is nothing to "
            f"fit; got {type(model).__name__}"
        )
    return parameters


def check_settings(loss: object, steps: object, lr: float) -> None:
    """Raise unless the settings of ``fit`` make sense."""
    if not callable(loss):
        raise TypeError(
            "`loss` must be a function of the model, such as "
            "lambda model: (model(x) - y).square().mean(); "
            f"got {type(loss).__name__}"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps` must be a positive integer, got {steps!r}")
    if not 0 < lr < math.inf:
        raise ValueError(f"`lr` must be positive and finite, got {lr!r}")


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


def stop(losses: list[float], step: int, reason: str) -> History:
    """End a run that broke down: warn and return the history so far."""
    before = f"last finite loss {losses[-1]:.6g}" if losses else "no finite loss before"
    message = f"{reason} at step {step} ({before})"
    warnings.warn(
        f"fit stopped early: {message}; the parameters are those of this step. "
        "Try a smaller lr, more solver steps, or check the data for nan",
        RuntimeWarning,
        stacklevel=3,
    )
    return History(losses, message)


@contextmanager
def bar(steps: int, progress: bool) -> Iterator[Callable[[float], None]]:
    """Yield ``advance(loss)``: a tqdm bar if wanted and installed, else nothing."""
    try:
        if not progress:
            raise ImportError
        # Not tqdm.auto, which warns in notebooks that lack ipywidgets.
        from tqdm import tqdm
    except ImportError:
        yield lambda loss: None
        return
    with tqdm(total=steps) as line:

        def advance(loss: float) -> None:
            line.set_postfix(loss=f"{loss:.3g}", refresh=False)
            line.update()

        yield advance
