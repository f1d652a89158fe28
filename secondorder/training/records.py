"""Measured motions as people have them: of different lengths, at irregular times.

A record is (t, x), (t, x, v) or (t, x, v, u): times, positions, velocities if they were
measured, the input if there was one.  NaN marks what is missing in x and v.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Recording(NamedTuple):
    """One measured motion.

    Attributes
    ----------
    t : Tensor, shape (n,)
        Times, strictly increasing.
    x : Tensor, shape (n, d) or (n,)
        What was observed: positions, or what ``observe`` computes.
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
    found = [check_record(record, f"records[{i}]") for i, record in enumerate(records)]
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

    A parabola through the first few observations of each coordinate, or a line or a
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
        unit = time.abs().max().clamp_min(torch.finfo(time.dtype).tiny)
        degree = min(2, len(rows) - 1)
        powers = torch.stack([(time / unit) ** k for k in range(degree + 1)], 1)
        fitted = torch.linalg.lstsq(powers, record.x[rows, i].double()[:, None])
        x[i] = fitted.solution[0, 0]
        if degree:
            v[i] = fitted.solution[1, 0] / unit
    if record.v is not None:
        seen = record.v[first].isfinite()
        v = torch.where(seen, record.v[first], v)
    return x, v
