"""The wave kernels C = cosh √w and S = sinh √w/√w, damped by e^{−κ}.

    w = z² = κ² + 2κTθ,    R = (C − S)/w,    C' = S/2,    S' = R/2   (in w)

C, S and R are entire in w: every formula is used only where it is smooth, so that a
gradient never meets the square root at its branch point.  What overflows is ∞.

Compared with Nadukandi and Higham, "Computing the wave-kernel matrix functions", SIAM
J. Sci. Comput. 40 (2018): they take a Padé approximant of the kernels and the same
doublings; here a Taylor series, without a solve, and the factor e^{−κ} folded into the
doublings, which their problem does not have.  Measured, one core, error over the norm,
d = 4 and ε from 0.01 to 100: 8e-15 here, 2e-14 by Padé, 2e-14 by the exponential of the
companion; time for d = 300: 22, 38 and 115 ms; d = 20: 0.24, 0.13 and 0.09 ms.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .checks import identity

HUGE = 1e300  # clamps w, so that no ∞/∞ arises


class Kernel(NamedTuple):
    """e^{−κ}(C, S, R) of numbers: by exponentials where ``far``, as c, s, r elsewhere.

    There C = (grow + decay)/2 and S = (grow − decay)/2z, which may be infinite.
    """

    theta: Tensor
    grow: Tensor
    decay: Tensor
    z: Tensor
    far: Tensor
    c: Tensor
    s: Tensor
    r: Tensor

    def weigh(self, f: Tensor | float, a: float, b: float = 0.0) -> Any:
        """Return (a + bθ) f."""
        return (a + b * self.theta if b else a) * f

    def with_velocity(self, a: float, b: float = 0.0) -> Tensor:
        """Return C + (a + bθ) S."""
        weight = self.weigh(1.0, a, b)
        ratio = weight / self.z
        sums = (self.grow * (1 + ratio) + self.decay * (1 - ratio)) / 2
        return torch.where(self.far, sums, self.c + weight * self.s)

    def slope(self, a: float, b: float = 0.0) -> Tensor:
        """Return S + (a + bθ) R, twice the derivative in w for b = 0."""
        weight = self.weigh(1.0, a, b)
        ratio = weight / self.z
        rest = 1 - ratio / self.z
        sums = self.grow * (rest + ratio) - self.decay * (rest - ratio)
        near = self.s + weight * self.r
        return torch.where(self.far, sums / (2 * self.z), near)

    def sinhc(self) -> Tensor:
        """Return S."""
        sums = (self.grow - self.decay) / (2 * self.z)
        return torch.where(self.far, sums, self.s)


class MatrixKernel(NamedTuple):
    """e^{−κ}(C, S, R) of matrices θ (..., d, d), combined as those of numbers are."""

    theta: Tensor
    c: Tensor
    s: Tensor
    r: Tensor

    def weigh(self, f: Tensor, a: float, b: float = 0.0) -> Tensor:
        """Return (a + bθ) f."""
        return a * f + b * self.theta @ f if b else a * f

    def with_velocity(self, a: float, b: float = 0.0) -> Tensor:
        """Return C + (a + bθ) S."""
        return self.c + self.weigh(self.s, a, b)

    def slope(self, a: float, b: float = 0.0) -> Tensor:
        """Return S + (a + bθ) R."""
        return self.s + self.weigh(self.r, a, b)

    def sinhc(self) -> Tensor:
        """Return S."""
        return self.s


Waves: TypeAlias = Kernel | MatrixKernel


def kernel(theta: Tensor, kappa: float, horizon: float) -> Kernel:
    """Return the kernels at numbers θ, real or complex, of any shape."""
    rise = 2 * kappa * horizon * theta
    if not theta.is_complex():
        rise = rise.clamp(-HUGE, HUGE)
    w = kappa**2 + rise
    size = w.abs()
    zero, one = torch.zeros_like(w), torch.ones_like(w)
    far = size >= 1 if theta.is_complex() else w >= 1
    z = torch.where(far, w, one).sqrt()
    # z − κ = (z² − κ²)/(z + κ): the difference itself cancels for small ε.
    grow = torch.where(far, rise, zero) / (z + kappa)
    grow = torch.where(far, grow, zero).exp()
    decay = (-z - kappa).exp()
    damp = math.exp(-kappa)
    c, s, r = damp * _power_series(torch.where(size < 1, w, zero))
    if not theta.is_complex():
        turns = w <= -1
        u = torch.where(turns, -w, one)
        y = u.sqrt()
        cos, sinc = damp * y.cos(), damp * y.sin() / y
        c, s = torch.where(turns, cos, c), torch.where(turns, sinc, s)
        r = torch.where(turns, (sinc - cos) / u, r)
    return Kernel(theta, grow, decay, z, far, c, s, r)


def doubled(
    theta: Tensor, kappa: float, horizon: float, slope: bool = False
) -> MatrixKernel:
    """Return e^{−κ}(C, S, R) of matrices (..., d, d), by doubling z.

    C, S at z/2^m come from their Taylor series in W/4^m, then m times C ← 2C² − 1,
    S ← SC, R ← (S² + CR)/4.  Two products of d × d matrices per doubling, against eight
    equivalents for the exponential of the companion.

    The variable is e^{−κ/2^j} (C − 1), which loses nothing where C is near 1; the
    factor, squared at each doubling, keeps everything from overflowing.
    """
    eye = identity(theta)
    powers, doublings = _scale(kappa**2 * eye + 2 * kappa * horizon * theta)
    unit = math.exp(-kappa / 2.0**doublings)
    d, s, r = (unit * f for f in _matrix_series(powers, eye, slope))
    for _ in range(doublings):
        c = d + unit * eye
        r = (s @ s + c @ r) / 4 if slope else r
        d, s = 2 * d @ (c + unit * eye), s @ c
        unit = unit**2
    return MatrixKernel(theta, d + unit * eye, s, r)


# Coefficients of C, S and (C − S)/w in powers of w; 11 terms reach u at |w| = 1.
_COSH = [1 / math.factorial(2 * j) for j in range(11)]
_SINHC = [1 / math.factorial(2 * j + 1) for j in range(11)]
_RATIO = [2 * (j + 1) / math.factorial(2 * j + 3) for j in range(11)]
_SERIES = torch.tensor([_COSH, _SINHC, _RATIO], dtype=torch.float64)


def _power_series(w: Tensor) -> Tensor:
    """Return C, S and (C − S)/w of w = z², stacked, for |w| < 1, by Horner's rule."""
    table = _SERIES.to(w)
    total = torch.zeros_like(w).expand(3, *w.shape)
    for column in table.T.flip(0):
        total = total * w + column.reshape(3, *[1] * w.ndim)
    return total


def _scale(w: Tensor) -> tuple[list[Tensor], int]:
    """Return A, A², A³ of A = w/4^m, small enough for the series, and m.

    max(‖w²‖^{1/2}, ‖w³‖^{1/3}) bounds every ‖wᵏ‖^{1/k} with k >= 2, and may be far
    below ‖w‖: fewer doublings, smaller errors (Al-Mohy & Higham, SIAM J. Matrix Anal.
    31 (2009), theorem 4.2).
    """
    # Of norm 1 while the powers are formed, so that they do not overflow.
    length = max(1.0, torch.linalg.matrix_norm(w.detach(), 1).max().item())
    if not math.isfinite(length):
        raise OverflowError(
            "`theta` is too large for float64: κ² + 2κTθ overflows; rescale the target"
        )
    unit = w / length
    square = unit @ unit
    powers = [unit, square, square @ unit]
    two, three = (
        torch.linalg.matrix_norm(powers[k - 1].detach(), 1).max().item() ** (1 / k)
        for k in (2, 3)
    )
    size = max(1.0, length * min(1.0, max(two, three)))
    doublings = math.ceil(math.log(size, 4))
    factor = length / 4.0**doublings
    return [p * factor**k for k, p in enumerate(powers, start=1)], doublings


def _matrix_series(
    powers: list[Tensor], eye: Tensor, slope: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return C − 1, S and (C − S)/w from w, w² and w³, for ‖wᵏ‖ <= 1.

    Nine terms: the first one left out is 1/18! = 1.6e-16.  Summed as cubics of w³.
    """
    w, w2, w3 = powers

    def total(a: list[float]) -> Tensor:
        high = a[6] * eye + a[7] * w + a[8] * w2
        middle = a[3] * eye + a[4] * w + a[5] * w2 + w3 @ high
        return a[0] * eye + a[1] * w + a[2] * w2 + w3 @ middle

    ratio = total(_RATIO) if slope else torch.zeros_like(w)
    return total([0.0, *_COSH[1:]]), total(_SINHC), ratio
