"""Toy problems on which first- and second-order flows differ.

    cubic            x ↦ −x³ on [−1, 1]: no increasing map comes closer than MSE 1/7
    nested_rings     points on concentric rings, classes alternating
    oscillator       ẍ = a(t, x, ẋ) sampled with noise, five kinds in OSCILLATORS

Every generator draws from the ``torch.Generator`` it is given and from nothing else;
``None`` means torch's default generator.  Nothing is seeded here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Generator, Tensor

from .. import checks

Array: TypeAlias = NDArray[np.float64]
Law: TypeAlias = Callable[[float, Array, Array], Array]  # a(t, x, v)


def cubic(
    n: int, generator: Generator | None = None, *, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Sample x uniformly on [−1, 1] with y = −x³, the map that a flow cannot make.

    Trajectories of a first-order ODE on the line never cross, so its flow is
    increasing; the mean squared error of an increasing map to −x³ is at least the
    variance of −x³, which is ∫₀¹ x⁶ dx = 1/7.

    Parameters
    ----------
    n : int
        Number of samples.
    generator : torch.Generator, optional
    dtype : torch.dtype, optional
        Default: torch's default dtype.

    Returns
    -------
    x, y : Tensor, shape (n, 1)

    Raises
    ------
    ValueError
        If ``n`` is not a positive integer.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> x, y = so.data.cubic(100, torch.Generator().manual_seed(0))
    >>> x.shape, bool((y == -(x**3)).all())
    (torch.Size([100, 1]), True)

    References
    ----------
    Sander et al., "Momentum Residual Neural Networks", ICML 2021, section 4.1.
    """
    checks.count(n, "n")
    x = 2 * torch.rand(n, 1, generator=generator, dtype=dtype) - 1
    return x, -(x**3)


def nested_rings(
    n: int,
    rings: int = 2,
    generator: Generator | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample points on concentric rings in the plane, classes 0, 1, 0, 1, … outwards.

    Ring k = 1, 2, … fills the radii [1.5 k, 1.5 k + 0.6] around the origin.

    Parameters
    ----------
    n : int
        Number of points, the same on every ring up to one.
    rings : int, default 2
    generator : torch.Generator, optional
    dtype : torch.dtype, optional
        Default: torch's default dtype.

    Returns
    -------
    x : Tensor, shape (n, 2)
    label : Tensor of int64, shape (n,)

    Raises
    ------
    ValueError
        If ``n`` or ``rings`` is not a positive integer.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> x, label = so.data.nested_rings(4, 2, torch.Generator().manual_seed(0))
    >>> label
    tensor([0, 1, 0, 1])
    >>> x.norm(dim=1) > 3
    tensor([False,  True, False,  True])
    """
    checks.count(n, "n")
    checks.count(rings, "rings")
    ring = torch.arange(n) % rings
    angle, depth = torch.rand(2, n, generator=generator, dtype=dtype)
    radius = 1.5 * (ring + 1) + 0.6 * depth
    angle = 2 * math.pi * angle
    x = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1)
    return x, ring % 2


class Oscillator(NamedTuple):
    """One kind of oscillator: its equation as text and as ``a(t, x, v)``."""

    equation: str
    acceleration: Law


OSCILLATORS: dict[str, Oscillator] = {
    "damped": Oscillator("ẍ = −0.4 ẋ − 4 x", lambda t, x, v: -0.4 * v - 4 * x),
    "forced": Oscillator(
        "ẍ = −0.4 ẋ − 4 x + 1.5 cos 1.3 t",
        lambda t, x, v: -0.4 * v - 4 * x + 1.5 * math.cos(1.3 * t),
    ),
    "pendulum": Oscillator(
        "ẍ = −0.4 ẋ − 4 sin x", lambda t, x, v: -0.4 * v - 4 * np.sin(x)
    ),
    "duffing": Oscillator("ẍ = −0.4 ẋ + x − x³", lambda t, x, v: -0.4 * v + x - x**3),
    "van_der_pol": Oscillator(
        "ẍ = (1 − x²) ẋ − x", lambda t, x, v: (1 - x * x) * v - x
    ),
}


class Motion(NamedTuple):
    """Sampled motions: ``t`` (n,); ``x``, ``v`` and ``observed`` (n, samples, 1)."""

    t: Tensor
    x: Tensor
    v: Tensor
    observed: Tensor

    def __repr__(self) -> str:
        """Shapes, not numbers."""
        parts = self._asdict().items()
        shown = (f"{k} {tuple(z.shape)}" for k, z in parts if isinstance(z, Tensor))
        return f"Motion({', '.join(shown)})"


def oscillator(
    kind: str,
    t: Tensor,
    samples: int = 1,
    noise: float = 0.0,
    generator: Generator | None = None,
) -> Motion:
    """Integrate an oscillator ẍ = a(t, x, ẋ) and observe x with Gaussian noise.

    Starting points are uniform in [−2, 2] × [−2, 2].  The truth is computed by SciPy's
    DOP853 to 1e-10, so it owes nothing to this library's methods.

    Parameters
    ----------
    kind : str
        A key of ``OSCILLATORS``.
    t : Tensor, shape (n,)
        Increasing times, n ≥ 2; the motion starts at ``t[0]``.
    samples : int, default 1
        Number of motions.
    noise : float, default 0.0
        Standard deviation of the noise, in the units of x.
    generator : torch.Generator, optional

    Returns
    -------
    Motion
        ``t``, the true ``x`` and ``v``, and ``observed`` = x + noise, in the dtype of
        ``t``.

    Raises
    ------
    ValueError
        For an unknown kind, times that do not increase, or negative noise.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> motion = so.data.oscillator("damped", torch.linspace(0, 5, 51), samples=3)
    >>> motion.observed.shape
    torch.Size([51, 3, 1])
    """
    if kind not in OSCILLATORS:
        raise ValueError(f"`kind` must be one of {sorted(OSCILLATORS)}, got {kind!r}")
    if t.ndim != 1 or len(t) < 2 or not bool((t.diff() > 0).all()):
        raise ValueError(
            f"`t` must hold at least two increasing times, shape (n,), got {t}"
        )
    checks.count(samples, "samples")
    if not noise >= 0:
        raise ValueError(f"`noise` is a standard deviation, >= 0, got {noise!r}")
    start = 4 * torch.rand(2, samples, generator=generator, dtype=torch.float64) - 2
    x, v = reference_motion(OSCILLATORS[kind].acceleration, start, t.double())
    x, v = x.to(t), v.to(t)
    blur = torch.randn(x.shape, generator=generator, dtype=t.dtype)
    return Motion(t, x, v, x + noise * blur.to(t))


def reference_motion(acceleration: Law, start: Tensor, t: Tensor) -> Tensor:
    """Return x and v, (n, samples, 1), of ẍ = a(t, x, ẋ) from start (2, samples)."""

    def slope(time: float, state: Array) -> Array:
        x, v = state.reshape(start.shape)
        return np.concatenate((v, acceleration(time, x, v)))

    span = (t[0].item(), t[-1].item())
    result = solve_ivp(
        slope, span, start.ravel().numpy(), "DOP853", t.numpy(), rtol=1e-10, atol=1e-10
    )
    states = torch.from_numpy(result.y).reshape(*start.shape, -1)
    return states.permute(0, 2, 1).unsqueeze(-1)
