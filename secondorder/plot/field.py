"""The field on the plane (x, v), as numbers: values, slopes of slopes, rough paths.

What the pictures of points of rest, basins and manifolds share.  A system of one
coordinate is asked in float64 where it can answer in float64.
"""

import warnings
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from scipy.integrate import solve_ivp

from .states import System, number_of, slopes
from .style import Array
from .vectors import Interval, mesh

Rates: TypeAlias = Callable[[Array, Array], Array]  # (x, v) -> a, all (n,)


class Plane:
    """The acceleration a(x, v) of a system of one coordinate, its time frozen at ``t``.

    Attributes
    ----------
    digits : float
        Relative size of the rounding errors of ``a``.
    """

    def __init__(self, system: System, t: float = 0.0) -> None:
        self.system, self.t = system, t
        self.dtype = torch.float64
        try:
            found = self.ask(torch.zeros(3, 1), torch.zeros(3, 1))
            double = all(z.dtype == torch.float64 for z in found)
        except Exception:  # a network in float32 does not take float64
            double = False
        if not double:
            slopes(system, t, np.zeros((3, 1)), np.zeros((3, 1)))  # says what is wrong
            self.dtype = number_of(system).dtype
        self.digits = float(torch.finfo(self.dtype).eps)

    def ask(self, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The system's own answer, in ``dtype``."""
        like = number_of(self.system).device, self.dtype
        t = torch.as_tensor(self.t)
        dx, dv = self.system(t.to(*like), (x.to(*like), v.to(*like)))
        return dx, dv

    def __call__(self, x: Array, v: Array) -> Array:
        """The accelerations ``(n,)`` at positions and velocities ``(n,)``."""
        x, v = np.broadcast_arrays(x, v)
        with torch.no_grad():
            pair = (torch.from_numpy(np.array(z, float))[:, None] for z in (x, v))
            _, dv = self.ask(*pair)
        return dv.double().cpu().numpy().reshape(-1)

    def slopes(self, x: Array, v: Array) -> Array:
        """∂a/∂x and ∂a/∂v at n states, ``(2, n)``.

        By autograd where it agrees with differences; else (a field that leaves torch on
        the way) by differences.
        """
        x, v = (np.array(z, float) for z in np.broadcast_arrays(x, v))
        step = self.digits ** (1 / 3)
        by_steps = []
        for dx, dv in ((1, 0), (0, 1)):
            h = step * np.maximum(1.0, np.abs(x if dx else v))
            ahead = self(x + h * dx, v + h * dv)
            by_steps.append((ahead - self(x - h * dx, v - h * dv)) / (2 * h))
        rough = np.array(by_steps)
        try:
            with torch.enable_grad():
                pair = [torch.from_numpy(z)[:, None].requires_grad_() for z in (x, v)]
                total = self.ask(*pair)[1].sum()
                exact = torch.autograd.grad(total, pair, allow_unused=True)
            parts = [np.zeros(len(x)) if g is None else g[:, 0].numpy() for g in exact]
        except Exception:  # no graph: the field is not made of torch operations
            return rough
        found = np.array(parts)
        agree = np.isclose(found, rough, rtol=0.01, atol=0.01 * abs(rough).max())
        return np.where(agree, found, rough)


def autonomous(system: System, xlim: Interval, vlim: Interval) -> Plane:
    """The field of a system in which nothing depends on t, or an error."""
    plane = Plane(system)
    x, v = (z.ravel() for z in mesh(xlim, vlim, 9))
    now = plane(x, v)
    scale = np.abs(now[np.isfinite(now)]).max(initial=0.0)
    for later in (0.377, 1.0, 10.83):
        then = Plane(system, later)(x, v)
        if not np.allclose(then, now, 1e-4, 1e-5 * (scale or 1.0), equal_nan=True):
            raise ValueError(
                "`system` depends on time, so its paths cross in the plane (x, v) and "
                "where they lead depends on when they start; draw a solution of it by "
                "so.plot.phase_portrait, or so.plot.poincare with its period"
            )
    return plane


def rk4(a: Rates, x: Array, v: Array, h: float) -> tuple[Array, Array]:
    """One step of the classical Runge–Kutta method; good enough for pictures only."""
    k1, l1 = v, a(x, v)
    k2 = v + h / 2 * l1
    l2 = a(x + h / 2 * k1, k2)
    k3 = v + h / 2 * l2
    l3 = a(x + h / 2 * k2, k3)
    k4 = v + h * l3
    l4 = a(x + h * k3, k4)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # paths that escape overflow
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x, v + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)


def follow(
    plane: Plane,
    start: Array,
    time: float,
    middle: Array,
    size: Array,
    sense: float = 1.0,
) -> Array:
    """The path (2, n) from a state, or to it with ``sense`` −1, with small errors.

    It ends after ``time``, or twice the size of the rectangle away from its middle.
    """

    def rate(_: float, z: Array) -> Array:
        return sense * np.array([z[1], plane(z[:1], z[1:])[0]])

    def leaves(_: float, z: Array) -> float:
        return float(2 - (np.abs(z - middle) / size).max())

    leaves.terminal = True  # type: ignore[attr-defined]
    exact = max(1e-8, 20 * plane.digits)
    with np.errstate(all="ignore"):
        path = solve_ivp(
            rate, (0, time), start, "RK45", rtol=exact, atol=exact * size,
            events=leaves, max_step=time / 400,
        )  # fmt: skip
    return np.asarray(path.y)
