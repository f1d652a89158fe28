"""Validation during a training, and the best model that it saw."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from .batches import NoBatches, find_batches
from .ending import End
from .ensemble import Ensemble
from .history import History

TIMES = 100  # validations in a training without epochs


class Validation:
    """Evaluates a model now and then; remembers the best and gives up in time."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any],
        validation: Any,
        every: Any,
        patience: Any,
        batches: NoBatches,
        steps: int,
    ) -> None:
        self.model = model
        self.state: dict[str, Any] | None = None
        self.patience = checks.optional_count(patience, "patience")
        self.measure: Callable[[], float] | None = None
        if validation is None:
            for name, value in {"patience": patience, "validate_every": every}.items():
                if value is not None:
                    raise ValueError(
                        f"`{name}` needs a `validation`: a function of the model, or "
                        f"data for the loss, got {name}={value!r} without one"
                    )
        elif callable(validation) and not isinstance(validation, Tensor):
            self.measure = lambda: as_number(one_by_one(model, validation))
        else:
            held_out = find_batches(validation, None, name="validation")
            self.measure = lambda: mean_loss(model, loss, held_out)
        usual = batches.per_epoch or -(-steps // TIMES)
        self.every = checks.optional_count(every, "validate_every") or usual

    def look(self, history: History) -> None:
        """Validate if it is time to, and end a training that gets no better."""
        done = len(history.loss)
        if self.measure is None or not done:
            return
        asked = history.validated[-1] if history.validated else 0
        if done % self.every == 0 and asked < done:
            with evaluating(self.model):
                value = self.measure()
            history.validation.append(value)
            history.validated.append(done)
            # NaN is never the least, and a first NaN is improved by any number.
            if history.best is None or not value >= least(history):
                history.best = done if value == value else history.best
                if self.patience is not None and history.best == done:
                    self.state = copy.deepcopy(self.model.state_dict())
        self.give_up(history)

    def give_up(self, history: History) -> None:
        """End the training if the best validation is too many validations ago."""
        if self.patience is None or not history.validated:
            return
        seen = sum(at > (history.best or 0) for at in history.validated)
        if seen >= self.patience:
            raise End(f"no better validation in {seen}")

    def restore(self) -> None:
        """Give the model its best state."""
        if self.patience is not None and self.state is not None:
            self.model.load_state_dict(self.state)


def least(history: History) -> float:
    """The best validation so far."""
    return history.validation[history.validated.index(history.best or 0)]


def one_by_one(model: nn.Module, function: Callable[..., Any], *batch: Any) -> Any:
    """A function of the model; of an ensemble the median over its members."""
    if isinstance(model, Ensemble):
        return model.each(function, *batch).nanmedian()
    return function(model, *batch)


def as_number(value: Any) -> float:
    """A validation as a float, or an error."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"`validation` must return one number, got shape {tuple(value.shape)}; "
            "take its .mean()"
        )
    return float(value)


def mean_loss(model: nn.Module, loss: Callable[..., Any], batches: NoBatches) -> float:
    """The loss on held-out data: the mean over batches, each by its rows."""
    total, rows = 0.0, 0
    for batch in batches.epoch():
        count = len(batch[0]) if isinstance(batch[0], Tensor) and batch[0].ndim else 1
        value = one_by_one(model, loss, *batch)
        if isinstance(value, Tensor) and value.numel() > 1:  # residuals
            value = value.square().mean()
        total, rows = total + count * as_number(value), rows + count
    if not rows:
        raise ValueError("`validation` has no batches, got data that are empty")
    return total / rows


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, and in the mode of evaluation, module by module and back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
