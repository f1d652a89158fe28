"""What a solve returns: states at the requested times, and in between.

Between grid points the state is the quintic Hermite interpolant of x, v and the
acceleration at both ends of a step, of order 6 in x and 5 in v on one step:

    x(t_n + s h) = Σ_k h^k [H_k(s) x_n^(k) + (−1)^k H_k(1−s) x_{n+1}^(k)],  k = 0, 1, 2

Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.6.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stats:
    """What a solve cost.

    Attributes
    ----------
    evaluations : int
        Evaluations of the field in the forward pass.
    accepted, rejected : int
        Steps kept and steps thrown away (0 for fixed-step methods).
    """

    evaluations: int
    accepted: int
    rejected: int = 0


class Solution:
    """The solution of a second-order ODE; unpacks to ``x, v``.

    Attributes
    ----------
    t : Tensor
        The requested times, ``(n,)`` or ``(batch, n)``.
    x, v : Tensor
        Positions and velocities, ``(n, *x0.shape)``; ``x[0]`` is ``x0``.
    stats : Stats

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.SecondOrder(lambda t, x: -x)
    >>> sol = so.odeint(system, (torch.ones(1), None), torch.linspace(0, 1, 11))
    >>> x, v = sol
    >>> x.shape, sol(0.25)[0].shape, sol.stats.evaluations
    (torch.Size([11, 1]), torch.Size([1]), 11)
    """

    event = None  # which event ended it, for ``odeint_event``

    def __init__(self, t, x, v, stats, inside=None):
        self.t, self.x, self.v, self.stats = t, x, v, stats
        self._inside = inside

    def __iter__(self):
        """Unpack to positions and velocities."""
        return iter((self.x, self.v))

    def __len__(self):
        """Two: positions and velocities."""
        return 2

    def __getitem__(self, index):
        """Positions (0) or velocities (1), as from a tuple."""
        return (self.x, self.v)[index]

    def __repr__(self):
        """Show times, shape and cost."""
        shape = tuple(self.x.shape[1:])
        return f"Solution({self.t.shape[-1]} times, state {shape}, {self.stats})"

    def __call__(self, times):
        """Dense output: the state ``(x, v)`` at any times of the interval.

        Parameters
        ----------
        times : float or Tensor
            Times between the first and the last, any shape ``(...)``.

        Returns
        -------
        x, v : Tensor
            ``(..., *x0.shape)``.  At a requested time of the grid, the state itself.

        Raises
        ------
        ValueError
            Outside the interval, or for per-sample time grids.

        Notes
        -----
        Nothing is stored for this: the steps inside an interval that is asked for are
        taken again, from its left end.  Where h ≫ ε the velocity has a layer thinner
        than a step, which no interpolant resolves.
        """
        if self.t.ndim != 1:
            raise ValueError(
                "dense output needs one time grid for all samples; solve with a 1-D `t`"
            )
        times = torch.as_tensor(times, dtype=self.t.dtype, device=self.t.device)
        shape, times = times.shape, times.reshape(-1)
        # A grid that runs backwards is searched mirrored.
        sign = -1.0 if len(self.t) > 1 and self.t[-1] < self.t[0] else 1.0
        grid, wanted = sign * self.t.detach(), sign * times.detach()
        slack = 4 * torch.finfo(grid.dtype).eps * grid.abs().max()
        if not bool(((wanted >= grid[0] - slack) & (wanted <= grid[-1] + slack)).all()):
            raise ValueError(
                f"`times` must lie in [{sign * grid[0]:.6g}, {sign * grid[-1]:.6g}], "
                "the interval that was solved; solve further to look further"
            )
        place = torch.searchsorted(grid, wanted, right=True) - 1
        place = place.clamp(0, max(len(grid) - 2, 0)).tolist()
        found = [None] * len(place)
        for i in sorted(set(place)):
            mine = [k for k, p in enumerate(place) if p == i]
            for k, state in zip(mine, self._between(i, times[mine]), strict=True):
                found[k] = state
        if not found:
            empty = self.x.new_empty((*shape, *self.x.shape[1:]))
            return empty, empty.clone()
        x, v = (torch.stack(parts) for parts in zip(*found, strict=True))
        return x.reshape(*shape, *x.shape[1:]), v.reshape(*shape, *v.shape[1:])

    def _between(self, i, times):
        """States at times of interval i, as a list of pairs."""
        ends = {
            self.t[k].item(): (self.x[k], self.v[k])
            for k in (i, i + 1)
            if k < len(self.t)
        }
        at_end = [ends.get(time) for time in times.tolist()]
        if all(state is not None for state in at_end) and not times.requires_grad:
            return at_end
        x, v = self._inside(i, times)
        return [
            state or (x[k], v[k]) for k, state in enumerate(at_end)
        ]


def quintic_hermite(t, nodes, times):
    """Interpolate ``(x, v)`` between steps.

    Parameters
    ----------
    t : Tensor
        Step times ``(m,)``, monotone.
    nodes : list of (Tensor, Tensor, Tensor)
        x, v and acceleration at these times.
    times : Tensor
        ``(k,)`` inside.

    Returns
    -------
    x, v : Tensor
        ``(k, *x.shape)``.
    """
    sign = -1.0 if t[-1] < t[0] else 1.0
    place = torch.searchsorted(sign * t.detach(), sign * times.detach(), right=True) - 1
    place = place.clamp(0, len(t) - 2)
    x, v, a = (torch.stack(parts) for parts in zip(*nodes, strict=True))
    column = (-1, *[1] * (x.ndim - 1))
    h = (t[place + 1] - t[place]).to(x).reshape(column)
    s = (times - t[place]).to(x).reshape(column) / h
    left = (x[place], h * v[place], h * h * a[place])
    right = (x[place + 1], h * v[place + 1], h * h * a[place + 1])
    value, slope = 0.0, 0.0
    for k in range(3):
        value = value + basis(k, s) * left[k] + (-1) ** k * basis(k, 1 - s) * right[k]
        slope = slope + basis(k, s, True) * left[k]
        slope = slope - (-1) ** k * basis(k, 1 - s, True) * right[k]
    return value, slope / h


def basis(k, s: Tensor, slope=False):
    """H_k(s) of the quintic Hermite interpolant, or its derivative."""
    r = 1 - s
    if k == 0:
        return -30 * s**2 * r**2 if slope else r**3 * (1 + s * (3 + 6 * s))
    if k == 1:
        return r**2 * (1 + s * (2 - 15 * s)) if slope else s * r**3 * (1 + 3 * s)
    return s * r**2 * (1 - 2.5 * s) if slope else 0.5 * s**2 * r**3
