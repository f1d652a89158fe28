"""Matrices of mass and damping, brought to one number per coordinate.

M = S⁻ᵀS⁻¹ and C = S⁻ᵀ Λ S⁻¹ (generalised symmetric eigenproblem): in the modal
coordinates y = S⁻¹x the equation M ẍ + C ẋ = F is ÿ + Λ ẏ = Sᵀ F(t, S y), one damping
per coordinate, so every method and every gradient works on it unchanged.

Reference: Golub & Van Loan, "Matrix Computations", 4th ed., section 8.7.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def is_matrix(value: object) -> bool:
    """Whether ``value`` is a square matrix (rather than one number per coordinate)."""
    return isinstance(value, Tensor) and value.ndim == 2 and len(set(value.shape)) == 1


def diagonalise(
    mass: Any, damping: Any, stiffness: Any = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Diagonalise M, C and K together: SᵀMS = I, SᵀCS = Λ, SᵀKS = κ.

    Returns S, Λ, κ.
    """
    one = next(v for v in (mass, damping, stiffness) if is_matrix(v))
    matrices = {}
    given = {"mass": mass, "damping": damping, "stiffness": stiffness}
    for name, value in given.items():
        if value is None:
            continue
        learned = isinstance(value, nn.Module)  # Positive
        if learned or (isinstance(value, Tensor) and value.requires_grad):
            raise ValueError(
                f"`{name}` is learned beside a matrix; eigenvectors of repeated "
                "dampings have no gradient, so learn per-coordinate values, or a "
                "matrix as so.Positive(matrix)"
            )
        value = check_matrix(value, name, len(one)).to(one.device)
        if not torch.allclose(value, value.mT, rtol=1e-12, atol=0):
            raise ValueError(
                f"`{name}` must be symmetric; move its antisymmetric (gyroscopic) part "
                "G into the field of an `Acceleration`, as −v @ G.mT"
            )
        matrices[name] = value
    values, vectors = torch.linalg.eigh(matrices["mass"])
    if values[0] <= 0:
        raise ValueError(
            f"`mass` must be positive definite, its least eigenvalue is {values[0]:.3g}"
        )
    root = vectors / values.sqrt()  # M^{-1/2} up to rotation
    modal = root.mT @ matrices["damping"] @ root
    springs = None
    if stiffness is None:
        dampings, rotation = torch.linalg.eigh(modal)
    else:
        dampings, springs, rotation = together(
            modal, root.mT @ matrices["stiffness"] @ root
        )
    if dampings[0] < -1e-12 * dampings.abs().max():
        raise ValueError(
            "`damping` must be positive semidefinite, its least modal value is "
            f"{dampings[0]:.3g}"
        )
    return root @ rotation, dampings.clamp(min=0), springs


def check_matrix(value: Any, name: str, size: int) -> Tensor:
    """A number as a finite matrix of float64, or an error."""
    here = value.device if isinstance(value, Tensor) else "cpu"
    value = torch.as_tensor(value, dtype=torch.float64, device=here)
    if not is_matrix(value):
        value = torch.diag(value.expand(size))
    if value.shape != (size, size) or not bool(value.isfinite().all()):
        raise ValueError(
            f"`{name}` must be a finite ({size}, {size}) matrix, got {value}"
        )
    return value


def least_eigenvalue(value: Tensor) -> float:
    """The least eigenvalue of the symmetric part of a matrix."""
    return torch.linalg.eigvalsh((value + value.mT) / 2)[0].item()


def together(damping: Tensor, stiffness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues of two matrices that share their eigenvectors, and those."""
    # Eigenvectors of a generic combination are those of both.
    pair = damping, stiffness
    scales = [torch.linalg.matrix_norm(a).clamp(min=1e-300) for a in pair]
    mixed = stiffness / scales[1] + 0.7390851332151607 * damping / scales[0]
    rotation = torch.linalg.eigh(mixed).eigenvectors
    values = []
    for matrix, scale in zip(pair, scales, strict=True):
        turned = rotation.mT @ matrix @ rotation
        values.append(turned.diagonal().clone())
        if bool(((turned - torch.diag(values[-1])).abs() > 1e-9 * scale).any()):
            raise ValueError(
                "`stiffness` has other modes than `mass` and `damping`, so there is "
                "no exact flow by modes; move the part that differs into `force`"
            )
    return values[0], values[1], rotation


def to_modal(modes: Tensor, x: Tensor) -> Tensor:
    """Modal coordinates y = S⁻¹x of the last axis."""
    wide = torch.promote_types(x.dtype, torch.float32)  # half precisions cannot solve
    return torch.linalg.solve(modes.to(wide), x.to(wide).unsqueeze(-1))[..., 0].to(x)


def from_modal(modes: Tensor, y: Tensor) -> Tensor:
    """The coordinates x = S y of the user."""
    return y @ modes.mT


class ModalForce(nn.Module):
    """A force in modal coordinates, y ↦ Sᵀ F(t, S y)."""

    modes: Tensor

    def __init__(self, force: Callable[..., Tensor], modes: Tensor) -> None:
        super().__init__()
        self.force = force
        self.register_buffer("modes", modes)

    def forward(self, t: Tensor, y: Tensor, *args: Any) -> Tensor:
        """Return the modal force, shape ``(..., d)`` like ``y``."""
        force = self.force(t, from_modal(self.modes, y), *args)
        return force.to(y.dtype) @ self.modes  # a forcing may be wider
