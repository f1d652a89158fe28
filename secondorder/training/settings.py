"""The arguments of ``fit``, checked."""

import math
import operator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .gauss_newton import GaussNewton

Model = TypeVar("Model", bound=nn.Module)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters to train, or a clear error if there are none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "`model` has no parameter with requires_grad=True, so there is nothing to "
            f"fit, got {type(model).__name__}"
        )
    return parameters


def checked_settings(
    loss: object, steps: Any, lr: Any, optimizer: Any = "adam"
) -> tuple[int, float | None]:
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
    count = operator.index(count)
    if rate is None and not needs_rate(optimizer):
        return count, None
    if not isinstance(rate, (int, float)):
        raise TypeError(f"`lr` must be a number, got {lr!r}")
    if isinstance(rate, bool) or not 0 < rate < math.inf:
        raise ValueError(f"`lr` must be a positive and finite number, got {lr!r}")
    return count, float(rate)


def needs_rate(optimizer: Any) -> bool:
    """Whether a learning rate has to be given: Adam has none that suits."""
    known = isinstance(optimizer, (torch.optim.Optimizer, GaussNewton))
    return optimizer == "adam" if not known else False


def single(value: Any) -> Any:
    """The number of Python in a tensor or array of one element; else what is given."""
    item = getattr(value, "item", None)
    count = math.prod(getattr(value, "shape", (0,)))
    return item() if callable(item) and count == 1 else value


def checked_clip(clip: Any) -> Any:
    """Return the largest norm of a gradient, None or "auto", or raise."""
    if clip is None or (isinstance(clip, str) and clip == "auto"):
        return clip
    value = single(clip)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(
            '`clip` must be the largest norm of the gradient, > 0, None, or "auto" (1 '
            f"for optimisers without a line search), got {clip!r}"
        )
    return float(value)


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


def checked_residuals(value: object) -> Tensor:
    """Return residuals, or say what they are instead."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"`loss` must return a floating point tensor of residuals, got {got}"
        )
    if value.ndim == 0:
        raise ValueError(
            "`loss` must return residuals for Gauss–Newton, such as model(x) - y, not "
            "one number; their mean square is minimised"
        )
    if value.numel() == 0:
        raise ValueError("`loss` returned no residuals, got an empty tensor")
    return value
