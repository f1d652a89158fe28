"""Numbers as exact integers: the grid on which a step can be undone bit for bit.

    x = q · X · 2^−fx        v = q · s · U · 2^−fu        X, U integers

Adding a rounded increment to an integer and subtracting the same increment is exact,
which is all that reversing a kick or a drift takes.  Multiplying v by a damp weight
changes the known scale s alone; when s has lost eight bits they are split off U as one
byte (``split``) and kept, so that damping, too, forgets nothing.

The unit q is a power of two, chosen once per solve from the state it starts from: one
number, or one per sample and coordinate where these differ by orders of magnitude.

The integers live in float64 (53 bits) for float32 and half precision input, and in
int64 (63 bits) for float64 input and for units that differ.

Reference: the bit buffer goes back to Maclaurin, Duvenaud, Adams, "Gradient-based
Hyperparameter Optimization through Reversible Learning", ICML 2015, section 3.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FixedPoint:
    """Resolution and container of the integers.

    Parameters
    ----------
    fx, fu : int
        Fractional bits of position and velocity.
    dtype : torch.dtype
        float64 or int64, the container.
    like : torch.dtype
        The dtype of the state outside.
    wide : torch.dtype
        The dtype in which increments are computed.
    """

    fx: int
    fu: int
    dtype: torch.dtype
    like: torch.dtype
    wide: torch.dtype = torch.float64

    def load(self, value: Tensor, factor: Any) -> Tensor:
        """``round(value · factor)`` of a state; NaN and infinity are 0 in int64."""
        integer = self.rounded(value.detach(), factor)
        if self.dtype == torch.int64:
            integer = torch.nan_to_num(integer, 0.0, 0.0, 0.0)
        return integer.to(self.dtype)

    def position(self, integer: Tensor, factor: Any) -> Tensor:
        """``integer · factor`` in the state's dtype, the factor a power of two."""
        # A power of two may scale after the rounding to fewer bits: less to move.
        narrow = self.like if self.like.itemsize >= 4 else torch.float32
        value = torch.empty_like(integer, dtype=narrow).copy_(integer)
        return cast(value.mul_(factor), self.like)

    def read(self, integer: Tensor, factor: Any) -> Tensor:
        """``integer · factor`` in the state's dtype."""
        return cast(cast(integer, self.wide) * factor, self.like)

    def rounded(self, value: Tensor, factor: Any) -> Tensor:
        """``round(value · factor)``, not yet in the container."""
        return (cast(value, self.wide) * factor).round_()

    def split(self, integer: Tensor, bits: Any) -> tuple[Tensor, Tensor]:
        """Floor division by 2^bits: the quotient and the remainder as bytes."""
        # Rounding half to even instead would leave remainders up to +128, which do
        # not fit a byte.
        if self.dtype == torch.int64:
            high = integer >> bits
            low = integer - (high << bits)
        else:
            radix = power(bits)
            high = torch.floor(integer / radix)
            low = integer - high * radix
        return high, low.to(torch.uint8)

    def join(self, high: Tensor, low: Tensor | None, bits: Any) -> Tensor:
        """Undo ``split``; ``low`` 0 shifts zeros in."""
        shifted = high << bits if self.dtype == torch.int64 else high * power(bits)
        return shifted if low is None else shifted + low.to(self.dtype)


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value.to(dtype)``, at no cost where it is of that dtype."""
    return value if value.dtype is dtype else value.to(dtype)


def constant(value: Any, dtype: torch.dtype) -> Any:
    """A number of Python as a tensor: products with it cost half as much."""
    return value.detach() if isinstance(value, Tensor) else remembered(value, dtype)


@functools.lru_cache(maxsize=4096)
def remembered(value: float, dtype: torch.dtype) -> Tensor:
    """The 0-d tensor of a number, on the host and never written to."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)


def power(bits: Any) -> Any:
    """2^bits for an int, or exactly for an integer tensor, from -1022 to 1023."""
    if not isinstance(bits, Tensor):
        return 2.0**bits
    # CUDA's exp2 and log2 may miss powers of two by an ulp: the bits of a float64 say
    # its exponent exactly.
    return ((bits.to(torch.int64) + 1023) << 52).view(torch.float64)


def exponent(size: Tensor) -> Tensor:
    """⌊log₂ size⌋ of positive float64 numbers, exactly."""
    return (size.view(torch.int64) >> 52) - 1023


def fixed_point_for(
    sensitivity: float, readout: float, dtype: torch.dtype, device: torch.device
) -> FixedPoint:
    """The resolution for a plan.

    Parameters
    ----------
    sensitivity : float
        max |∂x_N/∂v_n| over the plan with the forces frozen: how far a velocity error
        travels.  The velocity gets so many more bits that its rounding costs no more
        than the position's; without them γ → 1 loses accuracy like N^1.5.
    readout : float
        Largest factor on a returned velocity.
    dtype, device
        Of the state.

    Returns
    -------
    FixedPoint
        fx = 32 bits below the unit (resolution 2e-10 of it), or 46 for float64 (1e-14).
    """
    double = dtype == torch.float64
    # Devices without float64 get int64 states and float32 products.
    wide = torch.float32 if device.type == "mps" else torch.float64
    fx = 46 if double else 32
    fu = fx + math.ceil(math.log2(max(1.0, sensitivity, readout)))
    exact = double or wide == torch.float32
    return FixedPoint(fx, fu, torch.int64 if exact else torch.float64, dtype, wide)


SMALL = 2.0**-10  # where a start says little about what comes
FEW = 64  # numbers that are sooner compared one by one
# One unit will do for samples and coordinates that differ by fewer bits than this.
SPREAD = 8


def size_at_start(
    x: Tensor, v: Tensor, reach: float, push: float, force: Callable[[], Tensor | None]
) -> Tensor:
    """How large a state is, or its velocity or the first force soon makes it.

    Parameters
    ----------
    x, v : Tensor
    reach : float
        How far a velocity carries.
    push : float
        What the first force adds to it, a factor.
    force : callable
        That force, or None; it is asked for where the state says little.
    """
    size = torch.maximum(x.detach().abs(), reach * v.detach().abs()).double()
    if size.numel() and bool(size.max() < SMALL):  # from rest at the origin, say
        value = force()
        if value is not None:
            size = torch.maximum(size, reach * push * value.double().abs())
    return size


def unit_of(size: Tensor, double: bool = True) -> Tensor:
    """The unit q in which a state of magnitudes ``size`` is measured.

    Parameters
    ----------
    size : Tensor
        |x|, or how far the velocity would carry, of the shape of the state.
    double : bool
        Whether the state is float64, which knows smaller numbers.

    Returns
    -------
    Tensor
        A 0-d tensor on the host, or one of the state's shape: each element is measured
        by the largest of its sample (along the first axis) or of its coordinate (along
        the last), whichever is less.
    """
    size = torch.nan_to_num(size.detach(), 0.0, 0.0)
    top, least, rows, columns = magnitudes(size)
    if least >= top * 2.0**-SPREAD:  # or if all is zero
        number = unit_above(top, double) if top else 1.0
        return torch.tensor(number, dtype=torch.float64, device="cpu")
    rows = rows.reshape(-1, *[1] * (size.ndim - 1))
    each = torch.minimum(nonzero(rows), nonzero(columns))
    return power_above(each.clamp(max=top), double).expand(size.shape).contiguous()


def unit_of_few(x: Tensor, v: Tensor, reach: float, double: bool) -> float | None:
    """The same of ``size_at_start``, quickly where that is a few numbers.

    Returns
    -------
    float or None
        None where that takes a closer look: one unit will not do, or the start is so
        small, or so far from finite, that it says little.
    """
    if not 0 < x.numel() <= FEW:
        return None
    places, speeds = x.flatten().tolist(), v.flatten().tolist()
    if not all(map(math.isfinite, places + speeds)):
        return None
    pairs = zip(places, speeds, strict=True)
    size = [max(abs(place), reach * abs(speed)) for place, speed in pairs]
    top = max(size)
    if top < SMALL:
        return None
    across, last = len(size) // (len(x) if x.ndim > 1 else 1), x.shape[-1:].numel()
    rows = [max(size[n : n + across]) for n in range(0, len(size), across)]
    columns = [max(size[n::last]) for n in range(last)]
    least = min(magnitude for magnitude in rows + columns if magnitude)
    return unit_above(top, double) if least >= top * 2.0**-SPREAD else None


def magnitudes(size: Tensor) -> tuple[float, float, Tensor, Tensor]:
    """The largest number, the least of a sample's or coordinate's largest, and these.

    What is zero throughout has no magnitude of its own.
    """
    if not size.numel():
        return 0.0, 0.0, size, size
    rows = size.flatten(1).amax(1) if size.ndim > 1 else size.amax().reshape(1)
    columns = size.reshape(-1, size.shape[-1]).amax(0) if size.ndim else rows
    both = torch.cat([rows, columns])
    top, least = torch.stack([both.max(), nonzero(both).min()]).tolist()
    return top, least, rows, columns


def unit_above(top: float, double: bool) -> float:
    """The next power of two above a number, within the bounds of ``power_above``."""
    half, bits = math.frexp(top)
    bits -= half == 0.5
    return 2.0 ** min(max(bits, -900 if double else -100), 900)


def nonzero(size: Tensor) -> Tensor:
    """Magnitudes, infinite where they are zero."""
    return torch.where(size > 0, size, torch.inf)


def power_above(size: Tensor, double: bool) -> Tensor:
    """The next power of two, within what products with it leave room for."""
    size = size.double()
    below = exponent(size).clamp(-1000, 1000)
    above = below + (power(below) < size)
    return power(above.clamp(-900 if double else -100, 900))


def fingerprint(*integers: Tensor) -> Tensor:
    """64-bit hashes of integer tensors, one row each and one column per sample.

    Samples lie along the first axis; a state of fewer than two axes is one sample.
    Every element is mixed before the (wrapping) sum: in a plain sum the +1 and −1
    errors of a wrong reversal cancel now and then.
    """
    return torch.stack([samples(mixed(n.to(torch.int64))).sum(1) for n in integers])


def samples(value: Tensor) -> Tensor:
    """A tensor as a matrix with one row per sample."""
    return value.flatten(1) if value.ndim > 1 else value.reshape(1, -1)


def mixed(n: Tensor) -> Tensor:
    """Mix an int64 tensor element by element (the finaliser of MurmurHash3)."""
    n = (n ^ (n >> 33)).mul_(-49064778989728563)  # 0xff51afd7ed558ccd
    n = (n ^ (n >> 33)).mul_(-4265267296055464877)  # 0xc4ceb9fe1a85ec53
    return n ^ (n >> 33)
