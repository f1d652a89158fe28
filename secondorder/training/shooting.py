"""Fit motions to records, window by window: multiple shooting.

    min Σ_i |h(x_w(t_i)) − y_i|² + λ Σ_w |(x_w, τ v_w)(end) − (x, τ v)_{w+1}(start)|²

A motion that is followed for long depends on its law in so many folds that fits stall.
Here each window of a record starts from a state of its own, which is learned too, and
must end where the next one starts.  All windows of all records are one batch: each has
its own times, with a step that ends at every observation, padded by repeating the last.

Reference: Bock, "Recent advances in parameter identification techniques for O.D.E.",
1983.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..odeint import odeint
from ..systems import System, forcing
from .records import check_records, starting_state
from .windows import cut, extended, padded, spread, stepped

SAMPLED = (forcing.Steps, forcing.Linear, forcing.Cubic)


class Shooting(nn.Module):
    """The loss of a system on records, with the states at which its windows start.

    Parameters
    ----------
    system : SecondOrder, Newton or Acceleration
        Its parameters are fitted, together with the starts of the windows.
    records : list of Recording or tuples
        (t, x), (t, x, v) or (t, x, v, u), of any lengths and times; NaN in x or v is
        missing.  The field of records with u is called as ``field(t, x, u(t))``.
    step_size : float
        Largest step of the solver.
    window : int, optional
        Observations per window, a few per half period; by default whole records.
    continuity : float, default 1.0
        λ, the weight of the mean square of the gaps between windows.
    observe : callable, optional
        ``h(t, x, v)`` for what was observed, with ``t (windows, n, 1)``, ``x`` and
        ``v`` ``(windows, n, d)``; by default x, beside v where the records have it.
    dimension : int, optional
        d, where ``observe`` makes it differ from the columns of the records.
    noise : float or Tensor, default 1.0
        Standard deviation of the observations (per column), which divides residuals:
        with it, a loss of 1 is the noise.
    forcing : callable or class, optional
        u(t) that all records share; or how their u is interpolated,
        ``so.forcing.Linear`` (default), ``Cubic`` or ``Steps``.
    **solve
        ``method`` (fixed steps) and ``gradient`` of ``odeint``.

    Attributes
    ----------
    x, v : nn.Parameter
        Starts of the windows ``(windows, d)``, in the units of the data's spread.

    Raises
    ------
    ValueError, TypeError
        For records or settings that cannot be right.

    Notes
    -----
    Fit it by ``so.fit(shooting, so.Shooting.loss, steps, lr)``, or in batches of
    windows with ``data=shooting.windows, batch_size=64``; by Gauss–Newton with
    ``so.Shooting.residuals``.  ``shooting.joined()`` then has whole records.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> t = torch.linspace(0, 6, 31, dtype=torch.float64)
    >>> records = [(t, (2 * t).cos()), (t[:20], (2 * t[:20]).sin())]
    >>> class Spring(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.k = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    ...     def forward(self, t, x):
    ...         return -self.k * x
    >>> shooting = so.Shooting(so.Newton(Spring()), records, step_size=0.05, window=8)
    >>> history = so.fit(shooting, so.Shooting.residuals, 10, progress=False,
    ...                  optimizer="gauss_newton")
    >>> round(shooting.system.field.k.item(), 2)
    4.0
    """

    t: Tensor  # (W, K)
    place: Tensor  # of the observations in t, (W, m)
    y: Tensor  # (W, m, columns)
    seen: Tensor
    windows: Tensor  # 0 … W − 1
    end: Tensor  # place of the next window's start in t, (W,)
    goes_on: Tensor
    noise: Tensor
    unit: Tensor
    tau: Tensor
    knots: Tensor  # of the inputs, (W, n)
    samples: Tensor  # (n, W, k)

    def __init__(
        self,
        system: System,
        records: Sequence[Any],
        *,
        step_size: float,
        window: int | None = None,
        continuity: float = 1.0,
        observe: Callable[..., Tensor] | None = None,
        dimension: int | None = None,
        noise: Any = 1.0,
        forcing: Any = None,
        **solve: Any,
    ) -> None:
        super().__init__()
        self.system = checks.system(system, System)
        self.records = check_records(records)
        self.observe = None if observe is None else checks.function(observe, "observe")
        self.continuity = checks.as_float(
            checks.positive(continuity, "continuity", zero=True)
        )
        if checks.step_size(step_size) is None:
            raise ValueError("`step_size` must be the largest step of the solver")
        size = checks.optional_count(window, "window") or math.inf
        self.cuts = cut(self.records, size)
        self.solve_by = solve
        self.settings = {
            "step_size": step_size,
            "continuity": continuity,
            "observe": observe,
            "dimension": dimension,
            "noise": noise,
            "forcing": forcing,
            **solve,
        }
        self.lay_out(step_size)
        sigma = torch.as_tensor(checks.positive(noise, "noise"), device=self.y.device)
        self.register_buffer("noise", sigma.to(self.y))
        self.forcing, self.sampled = self.find_forcing(forcing)
        self.start_from_data(dimension)

    def lay_out(self, step_size: float) -> None:
        """Times of all windows (W, K), and where observations (W, m) are in them."""
        grids, places, ys = [], [], []
        for index, first, last, goes_on in self.cuts:
            record = self.records[index]
            times, at = stepped(record.t[first : last + goes_on], step_size)
            grids.append(times)
            places.append(at)
            y = record.x if self.observe or record.v is None else torch.cat(
                (record.x, record.v), 1
            )  # fmt: skip
            ys.append(y[first:last])
        self.register_buffer("t", padded(grids))
        self.register_buffer("end", torch.stack([at[-1] for at in places]))
        observed = [at[: len(y)] for at, y in zip(places, ys, strict=True)]
        self.register_buffer("place", padded(observed))
        y = padded(ys, math.nan)
        self.register_buffer("seen", y.isfinite())
        self.register_buffer("y", torch.where(y.isfinite(), y, 0.0))
        on = torch.tensor([cut.goes_on for cut in self.cuts], device=y.device)
        self.register_buffer("goes_on", on)
        self.register_buffer("windows", torch.arange(len(y), device=y.device))

    def start_from_data(self, dimension: int | None) -> None:
        """Start each window from the data, or from 0 where only h(x, v) is known."""
        like = self.records[0].x
        d = like.shape[1] if dimension is None else checks.count(dimension, "dimension")
        if self.observe is None and d != like.shape[1]:
            raise ValueError(
                f"`dimension` is {d}, but the records have {like.shape[1]} columns of "
                "x; give `observe` if these are not the positions"
            )
        x, v = like.new_zeros(2, len(self.cuts), d).unbind()
        if self.observe is None:
            starts = [
                starting_state(self.records[index], first, last)
                for index, first, last, _ in self.cuts
            ]
            x, v = (torch.stack(part) for part in zip(*starts, strict=True))
        # The units of position and time in which starts are learned and gaps measured.
        self.register_buffer("unit", spread(x))
        self.register_buffer("tau", spread(x) / spread(v))
        self.x = nn.Parameter(x / self.unit)
        self.v = nn.Parameter(v * self.tau / self.unit)

    def find_forcing(self, forced: Any) -> tuple[Any, Any]:
        """A function of time, or a class and the samples that it interpolates."""
        kind = isinstance(forced, type)
        if self.records[0].u is None:
            if kind:
                raise ValueError(
                    f"`forcing` {forced.__name__} interpolates the u of records, which "
                    "these do not have; give a function of time, or (t, x, None, u)"
                )
            return forced, None
        if forced is not None and not (kind and issubclass(forced, SAMPLED)):
            raise ValueError(
                "`forcing` must be so.forcing.Linear, Cubic or Steps for records with "
                f"u, got {forced!r}"
            )
        pieces = []
        for index, first, last, _ in self.cuts:
            record = self.records[index]
            rows = slice(max(0, first - 2), last + 3)  # a cubic looks at neighbours
            pieces.append((record.t[rows], record.u[rows]))  # type: ignore[index]
        longest = max(len(t) for t, _ in pieces)
        knots, samples = zip(*(extended(*z, longest) for z in pieces), strict=True)
        self.register_buffer("knots", torch.stack(knots))
        self.register_buffer("samples", torch.stack(samples, 1))
        return None, forced or forcing.Linear

    def starts(self) -> tuple[Tensor, Tensor]:
        """Position and velocity at the starts of all windows, each (W, d)."""
        return self.unit * self.x, self.unit / self.tau * self.v

    @property
    def initial(self) -> tuple[Tensor, Tensor]:
        """Learned initial states ``(x0, v0)`` of the records, each (records, d)."""
        first = [i for i, cut in enumerate(self.cuts) if not cut.first]
        x, v = self.starts()
        return x[first], v[first]

    def parts(self, windows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Residuals of the observations (W, m, k) and gaps between windows (W, 2d).

        Both are divided by the noise; what is missing is 0.
        """
        x0, v0 = self.starts()
        rows = self.windows if windows is None else windows
        u = self.forcing
        if self.sampled is not None:
            u = self.sampled(self.knots[rows], self.samples[:, rows])
        state = x0[rows], v0[rows]
        x, v = odeint(self.system, state, self.t[rows], forcing=u, **self.solve_by)
        place = self.place[rows]
        mine = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        seen_x, seen_v = x[place, mine], v[place, mine]
        if self.observe is not None:
            time = self.t[rows].gather(1, place).unsqueeze(-1)
            found = self.observe(time, seen_x, seen_v)
        elif self.records[0].v is not None:
            found = torch.cat((seen_x, seen_v), -1)
        else:
            found = seen_x
        if found.shape != self.y[rows].shape:
            raise ValueError(
                f"`observe` returned {tuple(found.shape)}, but the records have "
                f"{tuple(self.y[rows].shape)} (windows, observations, columns)"
            )
        error = torch.where(self.seen[rows], (found - self.y[rows]) / self.noise, 0.0)
        after = (rows + 1).clamp_max(len(self.cuts) - 1)
        mine, end = mine[:, 0], self.end[rows]
        gap = torch.cat(
            (x[end, mine] - x0[after], self.tau * (v[end, mine] - v0[after])), -1
        )
        on = self.goes_on[rows].unsqueeze(-1)
        return error, torch.where(on, gap / self.noise.mean(), 0.0)

    def residuals(self, windows: Tensor | None = None) -> Tensor:
        """All residuals, whose mean square is the loss, ``(r,)``."""
        rows = self.windows if windows is None else windows
        error, gap = self.parts(windows)
        count = error.numel() + gap.numel()
        seen = self.seen[rows].sum().clamp_min(1).to(error)
        joints = (self.goes_on[rows].sum() * gap.shape[-1]).clamp_min(1).to(error)
        return torch.cat(
            (
                error.flatten() * (count / seen).sqrt(),
                gap.flatten() * (self.continuity * count / joints).sqrt(),
            )
        )

    def seeds(
        self, parameters: list[nn.Parameter]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Directions for Gauss–Newton: all even windows start elsewhere, then all odd.

        Returns
        -------
        seeds : Tensor, shape (directions, parameters)
        place : callable
            Makes the Jacobian of the products (residuals, directions) with them.
        """
        n, d = self.x.shape
        sizes = (n * self.y[0].numel(), n * 2 * d)
        rows = torch.cat(  # the window of each residual
            [self.windows.repeat_interleave(size // n) for size in sizes]
        )
        gap = torch.arange(sum(sizes), device=rows.device) >= sizes[0]
        colours, owners, count = [], [], 0
        for p in parameters:
            if p is self.x or p is self.v:
                owner = self.windows.repeat_interleave(d)
                own = count + d * (owner % 2)
                own = own + torch.arange(d, device=rows.device).repeat(n)
                count += 2 * d
            else:
                own = torch.arange(count, count + p.numel(), device=rows.device)
                owner, count = torch.full_like(own, -1), count + p.numel()
            colours.append(own)
            owners.append(owner)
        colour, owner = torch.cat(colours), torch.cat(owners)
        seeds = torch.nn.functional.one_hot(colour, count).T

        def place(products: Tensor) -> Tensor:
            meets = (rows[:, None] == owner) | (gap & (rows + 1 == owner[:, None])).T
            return torch.where(meets | (owner < 0), products[:, colour], 0.0)

        return seeds, place

    def loss(self, windows: Tensor | None = None) -> Tensor:
        """Mean square of what was observed, plus λ times that of the gaps."""
        return self.residuals(windows).square().mean()

    def forward(self) -> Tensor:
        """The loss."""
        return self.loss()

    def joined(self, window: int | None = None) -> "Shooting":
        """The same with longer windows (whole records), from the starts found so far.

        Parameters
        ----------
        window : int, optional
            A multiple of what it was.
        """
        other = Shooting(self.system, self.records, window=window, **self.settings)
        mine = {(cut.record, cut.first): i for i, cut in enumerate(self.cuts)}
        known = [mine.get((cut.record, cut.first)) for cut in other.cuts]
        if None in known:
            raise ValueError(
                f"`window` must be a multiple of the present one, got {window!r}"
            )
        x, v = self.starts()
        with torch.no_grad():
            other.x.copy_(x[known] / other.unit.to(x))
            other.v.copy_(v[known] * (other.tau / other.unit).to(x))
        return other.to(self.x.device)

    def extra_repr(self) -> str:
        """Show what there is to fit."""
        return (
            f"{len(self.records)} records in {len(self.cuts)} windows, "
            f"{int(self.seen.sum())} observations, {self.t.shape[1] - 1} steps"
        )
