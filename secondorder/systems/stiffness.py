"""A linear restoring force beside the field: m ẍ + c ẋ + K x = F(t, x).

As a field it is F(t, x) − K x, which every method can solve.  The splittings take it
apart again and let K into their exact flow (``stiff_flight`` in ``plan/flows.py``).

Reference: Hochbruck & Ostermann, "Exponential integrators", Acta Numerica 19 (2010).
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from torch import Tensor

from .. import checks
from .fields import Forced
from .modal import is_matrix
from .numbers import (
    Computed,
    Numbers,
    WithNumbers,
    in_dtype,
    is_structure,
    register_number,
)


class Restored(WithNumbers):
    """The force F(t, x) − K x; K a number, one per coordinate or ``(d, d)``."""

    number_names = ("stiffness",)
    stiffness: Any

    def __init__(self, force: Callable[..., Tensor], stiffness: Any) -> None:
        super().__init__()
        self.force = force
        register_number(self, "stiffness", stiffness)

    def forward(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the whole force."""
        k = in_dtype(self.stiffness, x)
        return self.force(t, x, *args) - (x @ k.mT if is_matrix(k) else k * x)


def split(field: Any) -> tuple[Any, Any]:
    """F and K of a field, also of a driven one; K is None where there is none."""
    if isinstance(field, Restored):
        return field.force, field.stiffness
    if isinstance(field, Forced) and isinstance(field.field, Restored):
        inner = field.field
        return Forced(inner.force, field.forcing, field.takes_velocity), inner.stiffness
    return field, None


def check_stiffness(value: Any) -> Any:
    """Return K if it is finite, or raise."""
    if isinstance(value, Computed):
        return value
    if is_structure(value):
        return Numbers(value, check_stiffness)
    if isinstance(value, Tensor):
        fine = value.is_floating_point() and bool(value.detach().isfinite().all())
    elif isinstance(value, Real):
        value = float(value)
        fine = math.isfinite(value)
    else:
        raise TypeError(
            f"`stiffness` must be a float or a tensor, got {type(value).__name__}"
        )
    if not fine:
        raise ValueError(
            "`stiffness` must be finite and real floating point, got "
            f"{checks.describe(value)}"
        )
    return value
