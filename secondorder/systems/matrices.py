"""Matrices without modes of their own: M⁻¹ by Cholesky, C ẋ and K x as forces.

    M ẍ + C ẋ = F(t, x)   as   ẍ = a(t, x, ẋ) = M⁻¹(F(t, x) − C ẋ)

Eigenvectors of repeated eigenvalues have no gradient, so a learned matrix is not
brought to its modes: M⁻¹ is two triangular solves by the Cholesky factor, M = L Lᵀ,
whose gradients are finite.  Without damping a depends on x alone, and every method
takes it.  The same holds where M, C and K share no modes: their flow mixes x and v of
all coordinates, which no shears of whole vectors undo.  C may have an antisymmetric
(gyroscopic) part, and K a circulatory one.

References: Golub & Van Loan, "Matrix Computations", 4th ed., section 4.2; Caughey &
O'Kelly, J. Appl. Mech. 32 (1965), 583-588, for when modes are shared.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import checks
from .modal import check_matrix, is_matrix, least_eigenvalue
from .numbers import Positive, WithNumbers, in_dtype, register_number


class MatrixForce(WithNumbers):
    """The acceleration M⁻¹(F − C ẋ), of M and C that are numbers or matrices."""

    number_names = ("mass", "damping")
    mass: Any
    damping: Any

    def __init__(self, force: Callable[..., Tensor], mass: Any, damping: Any) -> None:
        super().__init__()
        self.force = force
        self.takes_velocity = not (isinstance(damping, (int, float)) and damping == 0)
        register_number(self, "mass", mass)
        register_number(self, "damping", damping)

    def forward(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the acceleration, ``(..., d)``."""
        v, rest = (args[0], args[1:]) if self.takes_velocity else (None, args)
        force = self.force(t, x, *rest)
        if v is not None:
            c = in_dtype(self.damping, x)
            force = force - (v @ c.mT if is_matrix(c) else c * v)
        mass = self._modules.get("mass")
        if isinstance(mass, Positive) and mass.matrix:
            return solve(mass.cholesky(), force)
        m = in_dtype(self.mass, x)
        return solve(torch.linalg.cholesky(m), force) if is_matrix(m) else force / m


def solve(factor: Tensor, force: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ f along the last axis."""
    kind = torch.promote_types(force.dtype, torch.float32)  # half precisions cannot
    columns = force.reshape(-1, force.shape[-1]).mT.to(kind)
    found = torch.cholesky_solve(columns, factor.to(kind))
    return found.mT.reshape(force.shape).to(force.dtype)


def needs_force(mass: Any, damping: Any, stiffness: Any) -> bool:
    """Whether there are no modes to take: learned matrices, or such as share none."""
    numbers = {"mass": mass, "damping": damping, "stiffness": stiffness}
    now = {name: shape(value) for name, value in numbers.items()}
    if any(is_matrix(now[n]) and is_learned(value) for n, value in numbers.items()):
        return True
    if not is_matrix(now["stiffness"]) and not (
        stiffness is not None and any(map(is_matrix, now.values()))
    ):
        return is_matrix(now["damping"]) and not is_symmetric(now["damping"])
    return not share_modes(**now)


def share_modes(mass: Any, damping: Any, stiffness: Any) -> bool:
    """Whether one change of coordinates diagonalises M, C and K.

    It does for symmetric ones where C M⁻¹ K = K M⁻¹ C (Caughey & O'Kelly 1965).
    """
    numbers = {"mass": mass, "damping": damping, "stiffness": stiffness}
    size = max(len(v) for v in numbers.values() if is_matrix(v))
    m, c, k = (check_matrix(v, name, size) for name, v in numbers.items())
    if not all(map(is_symmetric, (m, c, k))):
        return not is_symmetric(m)  # which no way is open to: let the modes say so
    product = c @ torch.linalg.solve(m, k)
    scale = torch.linalg.matrix_norm(product)
    return bool(((product - product.mT).abs() <= 1e-9 * scale).all())


def is_symmetric(value: Tensor) -> bool:
    """Whether a matrix equals its transpose to rounding."""
    return torch.allclose(value, value.mT, rtol=1e-12, atol=0)


def is_learned(value: Any) -> bool:
    """Whether a number has a gradient."""
    return isinstance(value, Positive) or (
        isinstance(value, Tensor) and value.requires_grad
    )


def check_matrices(mass: Any, damping: Any) -> tuple[Any, Any]:
    """Mass and damping as they are kept, or an error that names the one."""
    pairs = {"mass": mass, "damping": damping}
    size = max((len(v) for v in map(shape, pairs.values()) if is_matrix(v)), default=0)
    for name, value in pairs.items():
        now = shape(value)
        if is_matrix(now) and len(now) != size:
            raise ValueError(f"`{name}` is {tuple(now.shape)} beside ({size}, {size})")
        if isinstance(value, Positive):
            continue
        if not is_matrix(value):
            pairs[name] = checks.positive(value, name, zero=name == "damping")
            continue
        value = check_matrix(value, name, size)
        least = least_eigenvalue(value)
        if least < -1e-12 * value.abs().max() or (name == "mass" and least <= 0):
            kind = (
                "definite" if name == "mass" else "semidefinite in its symmetric part"
            )
            raise ValueError(
                f"`{name}` must be positive {kind}, its least eigenvalue is {least:.3g}"
            )
        pairs[name] = value
    m = pairs["mass"]
    if is_matrix(m) and not torch.allclose(m, m.mT, rtol=1e-12, atol=0):
        raise ValueError(f"`mass` must be symmetric, got {m.tolist()}")
    return pairs["mass"], pairs["damping"]


def shape(value: Any) -> Any:
    """A number as a tensor, however it is stored."""
    return value().detach() if isinstance(value, Positive) else value
