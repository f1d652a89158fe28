"""Where a system of several coordinates rests: Newton from a grid of starts.

The states x' = v, v' = a(x, v) rest where v = 0 and a(x, 0) = 0.  The 2d eigenvalues λ
of the Jacobian [[0, 1], [∂a/∂x, ∂a/∂v]] there tell what happens nearby.

Reference: Strogatz, "Nonlinear Dynamics and Chaos", section 6.3; Deuflhard, "Newton
Methods for Nonlinear Problems", section 3.1, for steps that are halved until they help.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from .states import System, number_of
from .style import Array
from .vectors import Interval, interval

STARTS = 600  # at most so many, whatever the dimension
ROUNDS = 60


class Equilibrium(NamedTuple):
    """A point of rest (x, 0) of a system of d coordinates.

    Attributes
    ----------
    x : array, shape (d,)
    eigenvalues : array of complex, shape (2d,)
        Of the Jacobian of (v, a) at (x, 0), by their real parts.
    kind : str
        "stable node", "stable focus", "unstable node", "unstable focus", "saddle";
        "centre or focus" where no eigenvalue decides; "degenerate" where one is 0.
    """

    x: Array
    eigenvalues: Array
    kind: str


def find_equilibria(
    system: System, limits: Sequence[Interval], t: float = 0.0
) -> list[Equilibrium]:
    """The points of rest in a box, one interval for each coordinate.

    Found are those that Newton's method reaches from 600 starts, a grid and random ones
    (the same in every call).
    """
    box = np.array([interval(pair, f"xlim[{k}]") for k, pair in enumerate(limits)])
    space = Space(system, len(box), t)
    ends = newton(space, starts(box), box)
    found: list[Array] = []
    width = (box[:, 1] - box[:, 0]).max()
    apart = max(1e-6, 100 * space.digits) * width
    for x in sorted(ends, key=tuple):
        if all(np.abs(x - other).max() > apart for other in found):
            found.append(x)
    return [described(space, x) for x in found]


def starts(box: Array) -> Array:
    """A grid with the middle in it, and random points where that is coarse."""
    d = len(box)
    each = min(25, int(STARTS ** (1 / d) + 1e-9) - 1 | 1)
    lines = [np.linspace(low, high, each) for low, high in box]
    grid = np.array(list(product(*lines))) if each > 1 else box.mean(1)[None]
    more = np.random.default_rng(0).random((max(0, STARTS - len(grid)), d))
    return np.concatenate([grid, box[:, 0] + more * (box[:, 1] - box[:, 0])])


class Space:
    """The acceleration a(x, v) of d coordinates, as numbers, its time frozen."""

    def __init__(self, system: System, d: int, t: float) -> None:
        self.system, self.d, self.t = system, d, t
        self.dtype = torch.float64
        try:
            double = self.tensor(*torch.zeros(2, 3, d)).dtype == torch.float64
        except Exception:  # a network in float32 does not take float64
            double = False
        if not double:
            self.dtype = number_of(system).dtype
        try:
            shape: object = tuple(self.tensor(*torch.zeros(2, 3, d)).shape)
        except RuntimeError as error:
            shape = error
        if shape != (3, d):
            raise ValueError(
                f"`system` must take states of {d} coordinates, one for each interval "
                f"of `xlim`; of states (3, {d}) it makes: {shape}"
            )
        self.digits = float(torch.finfo(self.dtype).eps)

    def tensor(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The accelerations, in ``dtype``."""
        like = number_of(self.system).device, self.dtype
        t = torch.as_tensor(self.t).to(*like)
        return self.system(t, (x.to(*like), v.to(*like)))[1]

    def __call__(self, x: Array, v: Array) -> Array:
        """Accelerations (n, d)."""
        with torch.no_grad():
            found = self.tensor(torch.from_numpy(x), torch.from_numpy(v))
        return found.double().cpu().numpy()

    def slopes(self, x: Array, v: Array, by_velocity: bool = False) -> Array:
        """∂a/∂x (or ∂a/∂v) at n states, (n, d, d), by central differences."""
        step, columns = self.digits ** (1 / 3), []
        for k in range(self.d):
            h = step * np.maximum(1.0, np.abs((v if by_velocity else x)[:, k]))
            shift = np.zeros_like(x)
            shift[:, k] = h
            dx, dv = (0 * shift, shift) if by_velocity else (shift, 0 * shift)
            ahead, behind = self(x + dx, v + dv), self(x - dx, v - dv)
            columns.append((ahead - behind) / (2 * h[:, None]))
        return np.stack(columns, axis=-1)


@np.errstate(all="ignore")  # steps that leave the field's range are halved
def newton(space: Space, x: Array, box: Array) -> Array:
    """Where damped Newton steps from many starts end, if that is a zero in the box."""
    rest = np.zeros_like(x)
    value = space(x, rest)
    size = np.linalg.norm(value, axis=1)
    usual = np.median(size[np.isfinite(size)]) if np.isfinite(size).any() else 0.0
    for _ in range(ROUNDS):
        slopes = np.nan_to_num(space.slopes(x, rest))
        step = -np.einsum("nij,nj->ni", np.linalg.pinv(slopes), np.nan_to_num(value))
        part = np.ones(len(x))
        for _ in range(12):
            trial = x + part[:, None] * step
            ahead = space(trial, rest)
            better = np.linalg.norm(ahead, axis=1) < size
            part = np.where(better, part, part / 2)
            if better.all():
                break
        x, value = (np.where(better[:, None], a, b)
                    for a, b in ((trial, x), (ahead, value)))  # fmt: skip
        size = np.linalg.norm(value, axis=1)
        if not better.any():
            break
    small = 1e3 * space.digits * max(usual, 1e-300) + 1e-12 * usual
    inside = ((x >= box[:, 0]) & (x <= box[:, 1])).all(1)
    return x[inside & (size <= small)]


def described(space: Space, x: Array) -> Equilibrium:
    """A point of rest with its eigenvalues and its kind."""
    at, rest, d = x[None], np.zeros((1, len(x))), len(x)
    slope, drag = (
        space.slopes(at, rest, by_velocity)[0] for by_velocity in (False, True)
    )
    jacobian = np.block([[np.zeros((d, d)), np.eye(d)], [slope, drag]])
    values = np.linalg.eigvals(jacobian)
    values = values[np.lexsort((values.imag, values.real))]
    zero = 10 * space.digits**0.5 * max(1.0, np.abs(values).max())
    arrive, leave = (values.real < -zero).all(), (values.real > zero).all()
    turns = (np.abs(values.imag) > zero).any()
    if (np.abs(values) <= max(zero, 1e-6)).any():
        kind = "degenerate"
    elif arrive or leave:
        kind = f"{'stable' if arrive else 'unstable'} {'focus' if turns else 'node'}"
    elif (values.real > zero).any():
        kind = "saddle" if (values.real < -zero).any() else "unstable focus"
    else:
        kind = "centre or focus"
    return Equilibrium(x, values, kind)
