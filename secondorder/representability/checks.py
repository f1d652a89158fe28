"""What enters and what leaves: arrays or tensors in, the same kind out, float64 inside.

Every public function of the theory passes its input through this door once and trusts
it afterwards.  Errors name the argument, the value received, and what to do.
"""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .propagator import (
    Array,
    Kind,
    Matrix,
    MatrixLike,
    PropagatorType,
    RealArray,
    TensorMap,
)


def positive(value: float, name: str) -> float:
    """Return ``value`` as a float, if it is positive and finite."""
    number = _number(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(
            f"`{name}` must be one positive finite number, got {value!r}; "
            "the undamped and the first-order limit are other propagators: use "
            "FirstOrder() for ε = 0"
        )
    return number


def layer_count(value: int) -> int:
    """Return ``value`` as an int, if it counts at least one layer."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(
            f"`layers` must be an integer >= 1, got {value!r}; "
            "count the residual blocks of the network"
        )
    return number


def momentum(value: float) -> float:
    """Return ``value`` as a float, if it is a momentum 0 <= γ < 1."""
    number = _number(value)
    if not 0 <= number < 1:
        raise ValueError(
            f"`gamma` must lie in [0, 1), got {value!r}; gamma = 0 is a residual "
            "network; gamma -> 1 is the undamped limit and is not reached"
        )
    return number


def start_of(value: str | float) -> str | float:
    """Return ``value`` if it names a start, as a float if it is a number."""
    if isinstance(value, str):
        if value in ("rest", "force"):
            return value
    elif math.isfinite(number := _number(value)):
        return number
    raise ValueError(
        f'`start` must be "rest" (v₀ = 0), "force" (v₀ = f(x₀)) or a finite number c '
        f"(v₀ = c x₀), got {value!r}"
    )


def model(m: PropagatorType) -> PropagatorType:
    """Return ``m`` if it is a propagator."""
    if isinstance(m, type) or not all(
        hasattr(m, name) for name in ("response", "log_threshold", "fold")
    ):
        raise TypeError(
            "`m` must be Continuous(epsilon), Discrete(layers, gamma) or FirstOrder(); "
            f"got {m!r}; for a SecondOrderODE or MomentumNet write rep.of(model)"
        )
    return m


def finite_points(x: Any) -> Array:
    """Return ``x`` as a float64 or complex128 array, if it is finite."""
    points = np.asarray(x)
    wide = np.complex128 if np.iscomplexobj(points) else np.float64
    points = points.astype(wide)
    if not np.isfinite(points).all():
        raise ValueError(
            f"`x` must be finite, got {x!r}; remove NaN and infinite entries"
        )
    return points


def length(A: Array) -> float:
    """‖A‖ in the Frobenius norm, without overflow on the way; NaN if A holds NaN."""
    size = float(np.abs(A).max(initial=0.0))
    if not 0 < size < math.inf:
        return size
    return size * float(np.linalg.norm(A / size))


def power_of_two(A: Array) -> float:
    """Return the power of two below max |A|, which divides A without rounding."""
    size = float(np.abs(A).max()) or 1.0
    return 2.0 ** min(max(math.floor(math.log2(size)), -1000), 1000)


def _number(value: float) -> float:
    """Return ``value`` as a float, NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def square_matrix(D: MatrixLike, name: str = "D") -> RealArray:
    """Return ``D`` as a float64 array (d, d), if it is real, square and finite."""
    array = D.detach().cpu().numpy() if torch.is_tensor(D) else np.asarray(D)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
        raise ValueError(
            f"`{name}` must be a square matrix (d, d) with d >= 1, got shape "
            f"{array.shape}; for d = 1 write [[value]]"
        )
    if np.iscomplexobj(array):
        raise ValueError(
            f"`{name}` must be real, got dtype {array.dtype}; the theory asks which "
            f"real maps a real θ reaches: pass `{name}.real` if the imaginary part is "
            "rounding"
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"`{name}` must hold real numbers, got dtype {array.dtype}; "
            "convert it to float64 first"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(
            f"`{name}` must be finite, got {array[row, column]} at entry "
            f"({row}, {column}); remove NaN and infinite entries"
        )
    return array


def like(array: RealArray, original: MatrixLike) -> Matrix:
    """Return the float64 ``array`` as a tensor if ``original`` is one."""
    if torch.is_tensor(original):
        return torch.from_numpy(np.ascontiguousarray(array)).to(original.device)
    return array


def evaluate(
    theta: Kind, scalar: TensorMap, matrix: TensorMap, elementwise: bool
) -> Kind:
    """Apply ``scalar`` to numbers or ``matrix`` to square matrices, in float64.

    Parameters
    ----------
    theta : number, array_like or Tensor
        Numbers of shape () or (n,), or matrices (..., d, d).
    scalar, matrix : callable
        Tensor -> Tensor, float64 or complex128.
    elementwise : bool
        Treat every entry of ``theta`` as a number, whatever its shape.

    Raises
    ------
    ValueError
        If ``theta`` has two axes or more and is not square in the last two.
    """
    # A copy in C order: torch takes no negative strides.
    tensor = (
        theta if torch.is_tensor(theta) else torch.tensor(np.array(theta, order="C"))
    )
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    function = scalar
    if tensor.ndim >= 2 and not elementwise:
        function = matrix
        _check_matrices(tensor)
    result: Any = function(tensor.to(wide))
    if torch.is_tensor(theta):
        exact = tensor.is_floating_point() or tensor.is_complex()
        return result.to(theta.dtype) if exact else result
    return number_or_array(result.numpy())


def number_or_array(array: Array) -> Any:
    """Return ``array``, as a number if it has no axes."""
    return array.item() if array.ndim == 0 else array


def identity(theta: Tensor) -> Tensor:
    """Return I (d, d) of the dtype and device of ``theta`` (..., d, d)."""
    return torch.eye(theta.shape[-1], dtype=theta.dtype, device=theta.device)


def _check_matrices(theta: Tensor) -> None:
    """Raise unless ``theta`` holds finite square matrices in its last two axes."""
    if theta.shape[-1] != theta.shape[-2] or theta.numel() == 0:
        raise ValueError(
            f"`theta` of shape {tuple(theta.shape)} is neither numbers (0 or 1 axis) "
            "nor square matrices (..., d, d); pass elementwise=True to treat every "
            "entry as a number"
        )
    if not torch.isfinite(theta).all():
        raise ValueError(
            "`theta` must be finite, got NaN or infinity; in training, lower the "
            "learning rate or start nearer to zero"
        )
