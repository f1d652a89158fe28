"""Solutions between their times, for the pictures that need a state at any time.

On an interval of length h, with s from 0 to 1, the cubic of Hermite has the positions
and the velocities of both ends:

    x(s) = (1 + 2s)(1 − s)² x₀ + s²(3 − 2s) x₁ + h s (1 − s) [(1 − s) v₀ − s v₁]

x is wrong by O(h⁴) and v, its slope, by O(h³).  Where the times lie too far apart for
that, a Solution is asked for more; anything else is refused.

Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.6.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .states import Solved, given, solved_states
from .style import Array

Indices: TypeAlias = NDArray[np.intp]

EXACT = 2e-3  # of the extent of the paths: less than the width of a line
MOST = 400_000  # times


class Curves(NamedTuple):
    """Times (n, samples), positions and velocities (n, samples, d) of a solution."""

    t: Array
    x: Array
    v: Array

    def inside(self, i: Indices, k: Indices, s: Array) -> tuple[Array, Array, Array]:
        """Times (m,) and states (m, d) in the intervals i of the samples k, at s."""
        h = self.t[i + 1, k] - self.t[i, k]
        x0, x1, v0, v1 = self.x[i, k], self.x[i + 1, k], self.v[i, k], self.v[i + 1, k]
        x, v = hermite(x0, x1, v0, v1, h[:, None], s[:, None])
        return self.t[i, k] + s * h, x, v

    def at(self, times: Array) -> tuple[Array, Array]:
        """Positions and velocities (m, samples, d) at times (m,) of all samples.

        Before the first time of a sample and after its last, it rests where it is.
        """
        found = []
        for k in range(self.x.shape[1]):
            t = self.t[:, k]
            sign = -1.0 if t[-1] < t[0] else 1.0
            i = np.searchsorted(sign * t, sign * times, side="right") - 1
            i = i.clip(0, len(t) - 2)
            h = t[i + 1] - t[i]
            s = ((times - t[i]) / np.where(h == 0, 1.0, h)).clip(0, 1)
            found.append(self.inside(i, np.full(len(i), k), s)[1:])
        x, v = (np.stack(parts, axis=1) for parts in zip(*found, strict=True))
        return x, v


def hermite(
    x0: Array, x1: Array, v0: Array, v1: Array, h: Array, s: Array
) -> tuple[Array, Array]:
    """The cubic and its slope; at the ends exactly the states that are there."""
    r = 1 - s
    with np.errstate(all="ignore"):
        x = (1 + 2 * s) * r**2 * x0 + s**2 * (3 - 2 * s) * x1
        x = x + h * s * r * (r * v0 - s * v1)
        v = 6 * s * r * (x1 - x0) / h + r * (1 - 3 * s) * v0 + s * (3 * s - 2) * v1
    v = np.where(h == 0, r * v0 + s * v1, v)  # a time that is there twice
    return x, np.where(s == 0, v0, np.where(s == 1, v1, v))


def roughness(curves: Curves) -> float:
    """How far the cubic misses the states, as a fraction of the extent of the paths.

    Every other state is left out and interpolated, where the error is 16 times as large
    in x and 8 times in v.  One interval in twenty may be worse: a ball may bounce.
    """
    t, x, v = curves
    if len(t) < 3:
        return np.inf
    if len(t) % 2 == 0:
        t, x, v = t[:-1], x[:-1], v[:-1]
    h = (t[2::2] - t[:-2:2])[:, :, None]
    with np.errstate(all="ignore"):
        s = (t[1::2] - t[:-2:2])[:, :, None] / h
        found = hermite(x[:-2:2], x[2::2], v[:-2:2], v[2::2], h, s)
    worst = 0.0
    for guess, true, gain in ((found[0], x, 16), (found[1], v, 8)):
        miss = np.abs(guess - true[1::2]) / gain
        extent = true[np.isfinite(true)]
        size = np.ptp(extent) if extent.size else 0.0
        miss = miss[np.isfinite(miss)]
        if miss.size and size > 0:
            worst = max(worst, float(np.quantile(miss, 0.95) / size))
    return worst


def smooth(sol: Solved) -> Curves:
    """The curves of a solution at times that are close enough for the cubic."""
    sol = given(sol)
    t, x, v = solved_states(sol)
    curves = Curves(np.repeat(t, x.shape[1] // t.shape[1], axis=1), x, v)
    while (rough := roughness(curves)) > EXACT:
        finer = halved(sol, curves) if len(curves.t) < MOST else None
        if finer is None:
            raise ValueError(
                f"`sol` has too few times, {len(t)}: between them its paths would be "
                f"drawn wrong by about {min(rough, 1):.1%} of their extent. Solve with "
                "a finer `t`, or in float32 where half precision is the cause"
            )
        curves = finer
    return curves


def halved(sol: Any, curves: Curves) -> Curves | None:
    """The curves with a time more in each interval, if the solution can tell them."""
    shared = (curves.t == curves.t[:, :1]).all()
    if not callable(sol) or getattr(sol, "dense", None) is None or not shared:
        return None
    t = curves.t[:, 0]
    if len(t) < 2:
        return None
    middle = (t[:-1] + t[1:]) / 2
    with torch.no_grad():
        states = sol(torch.from_numpy(middle))
    merged = np.insert(t, np.arange(1, len(t)), middle)
    parts = []
    for old, new in zip((curves.x, curves.v), states, strict=True):
        new = new.detach().cpu().double().numpy().reshape(len(middle), *old.shape[1:])
        parts.append(np.insert(old, np.arange(1, len(t)), new, axis=0))
    return Curves(np.repeat(merged[:, None], curves.t.shape[1], axis=1), *parts)
