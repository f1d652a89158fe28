"""What a solve returns: states at the requested times, and in between.

Dense output stores nothing: the method takes the steps of the interval that is asked
for once more, from its left end.  ``quintic_hermite`` then interpolates x, v and the
acceleration between steps, of order 6 in x and 5 in v on one step:

    x(t_n + s h) = Σ_k h^k [H_k(s) x_n^(k) + (−1)^k H_k(1−s) x_{n+1}^(k)],  k = 0, 1, 2

Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.6.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Stats:
    """What a solve cost.

    Attributes
    ----------
    evaluations : int
        Evaluations of the field in the forward pass.
    accepted, rejected : int
        Steps kept and steps thrown away (0 for fixed-step methods).  SciPy does not
        tell its steps: ``accepted`` is None.
    times : Tensor, optional
        Where the accepted steps of an adaptive method begin and end, ``(m,)``; with
        steps per sample ``(batch, m)``, the last time repeated to pad.
    compiled : CompileStats, optional
        With ``compile=True``: what compiling has cost for this field so far, and why
        solves of it ran without; ``so.compile_stats(field)``.
    """

    evaluations: int
    accepted: int | None
    rejected: int = 0
    times: Tensor | None = field(default=None, compare=False, repr=False)
    compiled: Any = field(default=None, compare=False, repr=False)


class End(NamedTuple):
    """What a solve leaves for one that goes on from it, beside its last state.

    Attributes
    ----------
    method : Method
        Another method starts from the state alone.
    copy : Tensor, optional
        The second copy of a coupled method.
    length : float or Tensor, optional
        Of the next step of an adaptive method; one for each sample with steps of its
        own.
    previous : float or Tensor
        The error of the last one, in units of what is tolerated.
    """

    method: Any
    copy: Tensor | None = None
    length: Any = None
    previous: Any = 1.0


@dataclass(frozen=True, repr=False)
class DenseOutput:
    """The states between the times of a solve, from every method; it can be pickled.

    Parameters
    ----------
    method : Method
        Its ``between(dense, i, times)`` gives the states inside interval i.
    problem : Problem
        The system and the arguments of its field.
    t, x, v : Tensor
        Times ``(n,)``, breakpoints included, and the states there.
    steps : tuple
        How each interval was divided, as the method notes it: a count of steps, or
        where they began.
    broken : tuple of bool
        Which times are breakpoints; empty where none is.
    recorded : bool
        Whether the solve was recorded by autograd; else this is not, either.
    """

    method: Any
    problem: Any
    t: Tensor
    x: Tensor
    v: Tensor
    steps: tuple[Any, ...] = ()
    broken: tuple[bool, ...] = ()
    recorded: bool = field(default_factory=torch.is_grad_enabled)

    def __repr__(self) -> str:
        """The method and the interval, not the numbers."""
        name, n = getattr(self.method, "name", self.method), self.t.shape[-1]
        return f"DenseOutput({name!r}, {n} times, state {tuple(self.x.shape[1:])})"

    def __call__(self, times: Tensor) -> State:
        """The states ``(x, v)`` at times ``(k,)``, each ``(k, *x0.shape)``."""
        with torch.set_grad_enabled(self.recorded and torch.is_grad_enabled()):
            return self.states(times)

    def states(self, times: Tensor) -> State:
        """The states, recorded by autograd where that is enabled."""
        if self.t.ndim != 1:
            raise ValueError(
                "dense output needs one time grid for all samples; solve with a 1-D `t`"
            )
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
        intervals = place.clamp(0, max(len(grid) - 2, 0)).tolist()
        found: list[State | None] = [None] * len(intervals)
        for i in sorted(set(intervals)):
            mine = [k for k, p in enumerate(intervals) if p == i]
            for k, state in zip(mine, self.inside(i, times[mine]), strict=True):
                found[k] = state
        if not found:
            empty = self.x[:0]
            return empty, empty.clone()
        xs, vs = zip(*(state for state in found if state is not None), strict=True)
        return torch.stack(xs), torch.stack(vs)

    def inside(self, i: int, times: Tensor) -> list[State]:
        """States at times of interval i; at its ends, the states themselves."""
        ends = {self.t[k].item(): k for k in (i, i + 1) if k < len(self.t)}
        alone = 0 if len(self.t) == 1 else None
        places = [ends.get(time, alone) for time in times.tolist()]
        known = [
            None if k is None else self.at(k, time)
            for k, time in zip(places, times, strict=True)
        ]
        if None not in places:
            return [state for state in known if state is not None]
        x, v = self.method.between(self, i, times)
        return [state or (x[k], v[k]) for k, state in enumerate(known)]

    def at(self, k: int, time: Tensor) -> State:
        """The state at the k-th time, which changes with time as the solution does."""
        x, v = self.x[k], self.v[k]
        if not (torch.is_grad_enabled() and time.requires_grad):
            return x, v
        _, a = self.problem.system(self.t[k].to(x), (x, v), *self.problem.args)
        h = (time - self.t[k]).to(x)  # 0
        return x + h * v + h * h / 2 * a, v + h * a


def table(title: str, rows: Mapping[str, str | None], folded: str = "") -> str:
    """Names and texts as HTML for a notebook, and a longer text that can be opened."""
    shown = (
        f"<tr><th>{name}</th><td>{escape(text)}</td></tr>"
        for name, text in rows.items()
        if text is not None
    )
    more = f"<details><summary>repr</summary><pre>{escape(folded)}</pre></details>"
    body = f"<table><caption>{escape(title)}</caption>{''.join(shown)}</table>"
    return body + (more if folded else "")


class Pair:
    """Something with a position and a velocity, which unpacks to these two."""

    x: Tensor
    v: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        """Unpack to position and velocity."""
        return iter((self.x, self.v))

    def __len__(self) -> int:
        """Two: position and velocity."""
        return 2

    def __getitem__(self, index: int) -> Tensor:
        """Position (0) or velocity (1), as from a tuple."""
        return (self.x, self.v)[index]


class Solution(Pair):
    """The solution of a second-order ODE; unpacks to ``x, v``.

    Attributes
    ----------
    t : Tensor
        The requested times, ``(n,)`` or ``(batch, n)``.
    x, v : Tensor
        Positions and velocities, ``(n, *x0.shape)``; ``x[0]`` is ``x0``.
    stats : Stats
    event : int, Tensor or None
        Which event ended it.
    events : optional
        All events of a solve with ``event_fn``: ``.t``, ``.index``, ``.x``, ``.v``.
    status : str or list of str
        ``"done"``, ``"event"``, or why a sample got no further: ``"failed"``,
        ``"max_steps"``, ``"stuck"``.  With ``per_sample`` one for each.
    end : End or None
        With which ``odeint(system, solution, t)`` goes on from the last state.
    saved : Tensor, tuple or None
        What ``save`` has returned at the requested times; ``x`` and ``v`` are then the
        last state alone, ``(1, *x0.shape)``.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.SecondOrder(lambda t, x: -x)
    >>> sol = so.odeint(system, (torch.ones(1), None), torch.linspace(0, 1, 11))
    >>> x, v = sol
    >>> x.shape, sol(0.25)[0].shape, sol.stats.evaluations
    (torch.Size([11, 1]), torch.Size([1]), 11)
    """

    saved: Any

    def __init__(
        self,
        t: Tensor,
        x: Tensor,
        v: Tensor,
        stats: Stats,
        dense: DenseOutput | None = None,
        event: Any = None,
        events: Any = None,
        status: Any = "done",
        end: End | None = None,
    ) -> None:
        self.t, self.x, self.v, self.stats = t, x, v, stats
        self.dense, self.event = dense, event
        self.events, self.status = events, status
        self.end, self.saved = end, None

    def __repr__(self) -> str:
        """Show times, shape and cost."""
        shape = tuple(self.x.shape[1:])
        return f"Solution({self.t.shape[-1]} times, state {shape}, {self.stats})"

    def _repr_html_(self) -> str:
        """A table for notebooks: what was solved, how, and what it cost."""
        t, stats = self.t.detach(), self.stats
        span = f"{t.min():.6g} … {t.max():.6g}" if t.numel() else "none"
        method = getattr(getattr(self.dense, "method", None), "name", None)
        steps = "not told" if stats.accepted is None else f"{stats.accepted}"
        rows = {
            "t": f"{tuple(t.shape)}, {span}",
            "x, v": f"{tuple(self.x.shape)}, {self.x.dtype}, {self.x.device}",
            "method": None if method is None else str(method),
            "evaluations": f"{stats.evaluations}",
            "steps": f"{steps} ({stats.rejected} rejected)",
            "event": None if self.event is None else f"{self.event}",
            "compiled": None if stats.compiled is None else f"{stats.compiled}",
        }
        return table("Solution", rows)

    def __call__(self, times: float | Tensor) -> State:
        """Dense output: the state ``(x, v)`` at any times of the interval.

        Parameters
        ----------
        times : float or Tensor
            Times between the first and the last, any shape ``(...)``.

        Returns
        -------
        x, v : Tensor
            ``(..., *x0.shape)``.  At a requested time of the grid, the state itself.
            With ``per_sample`` NaN for samples that have ended, or failed, by then.

        Raises
        ------
        ValueError
            Outside the interval, for per-sample time grids of fixed steps, or where
            nothing is kept in between.

        Notes
        -----
        Nothing is stored for this: the steps inside an interval that is asked for are
        taken again, from its left end.  Where h ≫ ε the velocity has a layer thinner
        than a step, which no interpolant resolves.
        """
        if self.dense is None:
            raise ValueError(
                "no states are kept between the times of this solution (`save` keeps "
                "what it returns, some solvers nothing of an event); solve again with "
                "`odeint`, up to the event's time"
            )
        times = torch.as_tensor(times, dtype=self.t.dtype, device=self.t.device)
        x, v = self.dense(times.reshape(-1))
        tail = self.x.shape[1:]
        return x.reshape((*times.shape, *tail)), v.reshape((*times.shape, *tail))


def quintic_hermite(
    t: Tensor, nodes: Sequence[tuple[Tensor, Tensor, Tensor]], times: Tensor
) -> State:
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
    value, slope = torch.zeros_like(s), torch.zeros_like(s)
    for k in range(3):
        value = value + basis(k, s) * left[k] + (-1) ** k * basis(k, 1 - s) * right[k]
        slope = slope + basis(k, s, True) * left[k]
        slope = slope - (-1) ** k * basis(k, 1 - s, True) * right[k]
    return value, slope / h


def basis(k: int, s: Tensor, slope: bool = False) -> Tensor:
    """H_k(s) of the quintic Hermite interpolant, or its derivative."""
    r = 1 - s
    if k == 0:
        return -30 * s**2 * r**2 if slope else r**3 * (1 + s * (3 + 6 * s))
    if k == 1:
        return r**2 * (1 + s * (2 - 15 * s)) if slope else s * r**3 * (1 + 3 * s)
    return s * r**2 * (1 - 2.5 * s) if slope else 0.5 * s**2 * r**3
