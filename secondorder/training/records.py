"""Measured motions as people have them: of different lengths, at irregular times.

A record is (t, x), (t, x, v) or (t, x, v, u): times, positions, velocities if they were
measured, the input if there was one.  NaN marks what is missing in x and v.  Where x
has three axes it holds many, (n, batch, d) or (batch, n, d).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .layout import time_first


class Recording(NamedTuple):
    """One measured motion.

    Attributes
    ----------
    t : Tensor, shape (n,)
        Times, strictly increasing.
    x : Tensor, shape (n, d) or (n,)
        What was observed: positions, or what ``observe`` computes.  With a third axis
        these are many records, ``(n, batch, d)`` or ``(batch, n, d)``, and so are v and
        u; t is then (n,) or (batch, n).
    v : Tensor or None, of the shape of x
        Velocities.
    u : Tensor or None, shape (n, k) or (n,)
        Input at these times, without gaps.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> t = torch.tensor([0.0, 0.4, 0.5])
    >>> record = so.Recording(t, torch.cos(t))
    """

    t: Tensor
    x: Tensor
    v: Tensor | None = None
    u: Tensor | None = None

    def __repr__(self) -> str:
        """Shapes, not numbers."""
        parts = self._asdict().items()
        shown = (f"{k} {tuple(z.shape)}" for k, z in parts if isinstance(z, Tensor))
        return f"Recording({', '.join(shown)})"


def check_records(records: Any) -> list[Recording]:
    """Return records with columns, (n, d), of one dtype, or raise."""
    if (
        isinstance(records, Recording)
        or not isinstance(records, Sequence)
        or not records
    ):
        raise TypeError(
            "`records` must be a list of so.Recording or of tuples (t, x), (t, x, v) "
            f"or (t, x, v, u), at least one, got {type(records).__name__}"
        )
    found = [
        check_record(each, f"records[{i}]")
        for i, record in enumerate(records)
        for each in separate(record, f"records[{i}]")
    ]
    for name in ("x", "v", "u"):
        columns = {
            None if part is None else (part.shape[1], part.dtype, part.device)
            for part in (getattr(record, name) for record in found)
        }
        if len(columns) > 1:
            raise ValueError(
                f"`records` must agree in the columns, dtype and device of {name}, or "
                f"in having none, got {columns}; NaN marks missing numbers"
            )
    return found


def separate(record: Any, name: str) -> list[Any]:
    """The records in one that has a third axis, else the record itself."""
    if not isinstance(record, (tuple, list)) or not 2 <= len(record) <= 4:
        return [record]  # `check_record` says what is wrong
    given = Recording(*record)
    if not isinstance(given.x, Tensor) or given.x.ndim != 3:
        return [record]
    if not isinstance(given.t, Tensor) or given.t.ndim not in (1, 2):
        raise ValueError(f"`{name}.t` must have shape (n,) or (batch, n)")
    try:
        x = time_first(given.x, given.t.shape[-1], f"{name}.x")
    except ValueError as error:
        said = str(error).split("; say ")
        advice = "give its records one by one, (t, x[:, i]) or (t, x[i])"
        raise ValueError("; ".join([said[0], advice][: len(said)])) from None
    batch = x.shape[1]
    if given.t.ndim == 2 and len(given.t) != batch:
        raise ValueError(
            f"`{name}.t` must have shape (n,) or ({batch}, n), a row for each record, "
            f"got {tuple(given.t.shape)}"
        )
    swapped = x is not given.x
    parts: list[Any] = [given.t.expand(batch, -1), x.unbind(1)]
    for part, value in (("v", given.v), ("u", given.u)):
        if value is None:
            parts.append([None] * batch)
            continue
        if not isinstance(value, Tensor) or value.shape[:2] != given.x.shape[:2]:
            raise ValueError(
                f"`{name}.{part}` must have the layout of x, {tuple(given.x.shape)}, "
                f"got {tuple(value.shape) if isinstance(value, Tensor) else value!r}"
            )
        parts.append(value.unbind(0 if swapped else 1))
    return [Recording(*each) for each in zip(*parts, strict=True)]


def check_record(record: Any, name: str) -> Recording:
    """Return one record with columns, or raise."""
    if not isinstance(record, (tuple, list)) or not 2 <= len(record) <= 4:
        raise TypeError(
            f"`{name}` must be (t, x), (t, x, v) or (t, x, v, u), got "
            f"{type(record).__name__}"
        )
    given = Recording(*record)
    for part, value in given._asdict().items():
        if value is None and part in ("v", "u"):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"`{name}.{part}` must be floating point, got {got}")
    t = given.t.detach()
    if t.ndim != 1 or not len(t):
        raise ValueError(f"`{name}.t` must have shape (n,), got {tuple(t.shape)}")
    if not bool(t.isfinite().all()) or not bool((t.diff() > 0).all()):
        raise ValueError(
            f"`{name}.t` must be finite and strictly increasing; sort the record and "
            "drop repeated times"
        )
    parts = {
        part: columns(value, f"{name}.{part}", len(t))
        for part, value in given._asdict().items()
        if part != "t" and value is not None
    }
    x, v, u = parts["x"], parts.get("v"), parts.get("u")
    if v is not None and v.shape != x.shape:
        raise ValueError(
            f"`{name}.v` must have the shape of x, {tuple(x.shape)}, got "
            f"{tuple(v.shape)}; a record without velocities but with an input is "
            "(t, x, None, u)"
        )
    if not bool(x.isfinite().any()):
        raise ValueError(f"`{name}.x` holds no finite number; leave the record out")
    if u is not None and not bool(u.isfinite().all()):
        raise ValueError(f"`{name}.u` must be finite: an input has no gaps")
    return Recording(t.double().to(x.device), x, v, u)


def columns(value: Tensor, name: str, n: int) -> Tensor:
    """Numbers as (n, columns), or an error."""
    value = value.detach()
    if value.ndim == 1:
        value = value.unsqueeze(1)
    if value.ndim != 2 or len(value) != n or not value.shape[1]:
        raise ValueError(
            f"`{name}` must have shape ({n}, d) or ({n},), one row per time, got "
            f"{tuple(value.shape)}"
        )
    return value


def starting_state(record: Recording, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Position and velocity at row ``first``, from the rows up to ``last``.

    A parabola along the first few observations of each coordinate, or a line or a
    constant where there are fewer.
    """
    x = record.x.new_zeros(record.x.shape[1])
    v = torch.zeros_like(x)
    for i in range(len(x)):
        rows = record.x[first:last, i].isfinite().nonzero()[:6, 0] + first
        if not len(rows):  # nothing was seen in this window: take what is nearest
            known = record.x[:, i].isfinite().nonzero()[:, 0]
            if not len(known):
                continue
            rows = known[(known - first).abs().argmin(dim=0, keepdim=True)]
        time = record.t[rows] - record.t[first]
        x[i], v[i] = parabola(time, record.x[rows, i].double())
    if record.v is not None:
        seen = record.v[first].isfinite()
        v = torch.where(seen, record.v[first], v)
    return x, v


def parabola(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Value and slope at t = 0 of the parabola of least squares; a line for two points.

    In orthogonal polynomials, p₀ = 1 and pₖ₊₁ = (t − a) pₖ − b pₖ₋₁: LAPACK's least
    squares differ in their last bits with where the numbers lie in memory.
    """
    unit = t.abs().max().clamp_min(torch.finfo(t.dtype).tiny)
    t = t / unit
    p, before = torch.ones_like(t), torch.zeros_like(t)
    start, slope = t.new_ones(()), t.new_zeros(())  # of p at t = 0
    start_before, slope_before = torch.zeros_like(start), torch.zeros_like(slope)
    value, rate, size = torch.zeros_like(start), torch.zeros_like(slope), None
    for _ in range(min(3, len(t))):
        norm = (p * p).sum()
        share = (p * y).sum() / norm
        value, rate = value + share * start, rate + share * slope
        a, b = (t * p * p).sum() / norm, 0.0 if size is None else norm / size
        p, before, size = (t - a) * p - b * before, p, norm
        start, start_before, slope, slope_before = (
            -a * start - b * start_before,
            start,
            start - a * slope - b * slope_before,
            slope,
        )
    return value, rate / unit
