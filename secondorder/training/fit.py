"""The training loop: minimise a loss of a model, and survive what happens on the way.

    θ ← θ − lr · Adam(∇ loss(model))       a few hundred times

``fit`` minimises ``loss(model)``: a function of the model, which closes over its data,
or of batches too, ``loss(model, *batch)``.  What is around an update has a file each:
``updates`` (optimisers), ``batches``, ``validation``, ``checkpoint``, ``ending``.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

from torch import Generator, Tensor

from .batches import find_batches
from .checkpoint import Checkpoint, callbacks
from .ending import End, Stop, uninterrupted, where
from .history import History
from .settings import Model, checked_clip, checked_settings, trainable
from .updates import find_update
from .validation import Validation


def fit(
    model: Model,
    loss: Callable[..., Tensor],
    steps: int,
    lr: float | None = None,
    progress: bool = True,
    *,
    optimizer: Any = "adam",
    schedule: Any = "auto",
    clip: float | str | None = "auto",
    data: Any = None,
    batch_size: int | None = None,
    generator: Generator | None = None,
    validation: Any = None,
    validate_every: int | None = None,
    patience: int | None = None,
    callback: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
) -> History:
    """Minimise ``loss(model)`` over the parameters of ``model``, by Adam or else.

    The learning rate falls to zero along half a cosine, which makes the last steps
    settle; gradients are clipped at norm 1, which survives the odd steep batch.

    Parameters
    ----------
    model : nn.Module
        Trained in place; parameters with ``requires_grad=False`` stay as they are.
    loss : callable
        ``loss(model) -> Tensor`` with one element; ``loss(model, *batch)`` with
        ``data``; residuals of any shape for Gauss–Newton.
    steps : int
        Number of updates, at least 1.
    lr : float
        Initial learning rate, > 0; of a tensor or an array, the one number it holds.
        None for Gauss–Newton and for an optimiser given as an instance.
    progress : bool, default True
        Show a bar with the loss if ``tqdm`` is installed (extra ``progress``).

    Other Parameters
    ----------------
    optimizer : str, class, callable or Optimizer, default "adam"
        ``"adam"``, ``"lbfgs"`` (a line search, no schedule, no clipping),
        ``"gauss_newton"`` or ``so.GaussNewton(...)``; what makes an optimiser of
        ``(parameters, lr=lr)``, such as ``torch.optim.AdamW``; or an optimiser.
    schedule : callable or None, default "auto"
        Makes a scheduler of torch from the optimiser; it is stepped after each update.
        None keeps the learning rate.
    clip : float or None, default "auto"
        Largest norm of the gradient.  None does not clip.
    data : Tensor, tuple of Tensor, or DataLoader, optional
        Tensors are cut into batches of ``batch_size`` rows (first axis), shuffled in
        every epoch by ``generator``; a loader is iterated again and again.
    batch_size : int, optional
        All rows by default.
    generator : torch.Generator, optional
        Shuffles the rows of tensors.  Its state is kept in the checkpoint, so use it
        for what else is random in the loss.
    validation : callable or data, optional
        ``validation(model) -> number``, or held-out data for the loss; computed without
        gradients and in evaluation mode.
    validate_every : int, optional
        Updates between two validations; an epoch by default, or a hundredth of the
        steps.
    patience : int, optional
        End after so many validations without a better one, and leave the model in its
        best state, however training ended.
    callback : callable or list of callable, optional
        ``callback(model, history)`` after each update; True ends the training.
    checkpoint : path, optional
        File of the training, written every minute and when it ends in any way.
    resume : bool, default False
        Go on from this file if it is there: model, optimiser, schedule, history, place
        in the data and random states.  The result equals that of an uninterrupted
        training bit for bit.

    Returns
    -------
    History
        ``history.loss`` has one float per step.  Training ends early, and
        ``history.stopped`` says why and at which step, in these cases:

        * The loss or its gradient is not finite.  The parameters are those from before
          the update that would have spoiled them (also a ``RuntimeWarning``).
        * Training has pushed a learned ε, mass, damping, ... to where the solver
          refuses it (also a ``RuntimeWarning``; ``Positive`` keeps it in range).
        * Validation gets no better, a callback says so, or Gauss–Newton has converged.
        * The user interrupts it (Ctrl-C).  The parameters are those of the last
          complete step, and the history is that of all complete steps.

        However it ends, by an exception too, no gradients are left behind.

    Raises
    ------
    ValueError
        If ``steps`` or ``lr`` is out of range, the model has nothing to train, the loss
        has more than one element or no gradient, or settings contradict each other.
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
    steps, lr = checked_settings(loss, steps, lr, optimizer)
    update = find_update(
        model, loss, parameters, steps, lr, optimizer, schedule, checked_clip(clip)
    )
    batches = find_batches(data, batch_size, generator)
    watch = Validation(
        model, loss, validation, validate_every, patience, batches, steps
    )
    history = History()
    settings = {
        "steps": steps if schedule == "auto" else None,  # a cosine that is longer
        "lr": lr,
        "optimizer": type(update.optimizer).__name__,
        "schedule": type(update.schedule).__name__,
        "clip": update.clip,
        "batch_size": batch_size,
        "patience": patience,
        "validate_every": watch.every,
    }
    own = [] if generator is None else [generator]
    file = Checkpoint(checkpoint, model, update, batches, watch, history, own, settings)
    told = callbacks(callback)
    if resume:
        file.resume()
    try:
        with bar(steps, progress, len(history.loss)) as advance:
            watch.look(history)
            while len(history.loss) < steps:
                file.begin()
                value = update.prepare(batches.draw())
                with uninterrupted():
                    history.loss.append(value)
                    update.apply(history)
                    file.end()
                advance(value)
                watch.look(history)
                for call in told:
                    if call(model, history) is True:
                        name = getattr(call, "__name__", type(call).__name__)
                        raise End(f"callback {name}")
                file.save_if_due()
    except End as end:
        history.stopped = f"{end} {where(history.loss)}"
    except Stop as end:
        history.stopped = f"{end.reason} {where(history.loss)}"
        warnings.warn(
            f"fit stopped early: {history.stopped}; the parameters are those of this "
            f"step. {end.advice}",
            RuntimeWarning,
            stacklevel=2,
        )
    except KeyboardInterrupt:
        history.stopped = f"interrupted {where(history.loss)}"
    finally:
        update.clear()
        file.save()
    watch.restore()
    return history


@contextmanager
def bar(steps: int, progress: bool, done: int) -> Iterator[Callable[[float], None]]:
    """Yield ``advance(loss)``: a tqdm bar if wanted and installed, else nothing."""
    tqdm = find_tqdm() if progress else None
    if tqdm is None:
        yield lambda loss: None
        return
    with tqdm(total=steps, initial=done) as line:

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
