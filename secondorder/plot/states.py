"""How states over time are read: which axes are samples, and which one coordinates.

    x (n, ..., d)    n times, then samples, then the d coordinates of one state
    t (n,)           for all samples, or (batch, n), a row per sample

Arrays may be (batch, n, ..., d), too: where times come with them the shapes tell, and
where both layouts fit, ``layout`` must say it.  A solution is always time first.

A path belongs to a sample.  A coordinate is half of a path, or less: it is never drawn
as if it were one.  Two axes ``(n, k)`` could be either; ``is_coordinates`` decides.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import torch
from matplotlib.axes import Axes

from .style import Array, array

LAYOUTS = ("time_first", "batch_first")

System: TypeAlias = Callable[..., Any]  # system(t, (x, v)) -> (v, a)


class Solved(Protocol):
    """What ``odeint`` returns, or anything else with these three."""

    t: Any
    x: Any
    v: Any


def is_solved(value: object) -> TypeGuard[Solved]:
    """Whether ``value`` has times, positions and velocities."""
    return all(hasattr(value, name) for name in "txv")


@dataclass
class Arrays:
    """Times, positions and velocities in place of a Solution, time first."""

    t: Any
    x: Any
    v: Any


def given(sol: Any) -> Solved:
    """A Solution, or arrays (t, x, v) whose last axis plainly holds coordinates."""
    if isinstance(sol, (tuple, list)) and len(sol) == 3:
        t, x, v = (torch.as_tensor(part) for part in sol)
        if x.ndim == 2 and min(x.shape) > 1:
            raise ValueError(
                f"`x` of shape {tuple(x.shape)} may be paths of one coordinate or one "
                "path of several: say x[..., None] or x[:, None], and v alike"
            )
        n = count(t)
        x, v = (time_first(z, name, None, n) for z, name in ((x, "x"), (v, "v")))
        return Arrays(t, x, v)
    if is_solved(sol):
        return sol
    raise TypeError(
        "`sol` must be a Solution, have `t`, `x` and `v`, or be arrays (t, x, v), got "
        f"{type(sol).__name__}"
    )


def axes_and_rest(
    solved: bool, name: str, value: Any, ax: Axes | None
) -> tuple[Any, Axes | None]:
    """Let ``plot(solution, ax)`` mean what it says; raise if data are left out."""
    if solved and isinstance(value, Axes) and ax is None:
        return None, value
    if solved != (value is None):
        raise TypeError(
            f"`{name}` must be left out after a solution, which has its own"
            if solved
            else f"`{name}` is missing: give arrays, or a Solution in place of them"
        )
    return value, ax


def time_first(value: Any, name: str, layout: str | None, n: int | None) -> Any:
    """Values with their times, n if that is known, on the first axis; or an error."""
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"`layout` must be one of {[*LAYOUTS]}, got {layout!r}")
    first, second = n in (None, *value.shape[:1]), n in value.shape[1:2]
    if n is not None and n > 1 and first and second and layout is None:
        raise ValueError(
            f"`{name}` of shape {tuple(value.shape)} may be time first or batch first, "
            f"with {n} times and as many samples: say layout='time_first' or "
            "'batch_first' (in place of arrays (t, x, v) give a Solution, or anything "
            "with `t`, `x` and `v`, which is time first)"
        )
    swapped = layout == "batch_first" or (layout is None and second and not first)
    return value.swapaxes(0, 1) if swapped and value.ndim > 1 else value


def count(t: Any) -> int | None:
    """How many times there are in (n,), (n, 1) or (batch, n); else None."""
    if t.ndim not in (1, 2) or not t.shape[-1]:
        return None
    return int(t.shape[0] if t.ndim == 1 or t.shape[1] == 1 else t.shape[1])


def samples(
    value: Any, name: str, solved: bool, n: int | None = None, layout: str | None = None
) -> Array:
    """Samples over time ``(n, ...)``, as numbers."""
    if solved and layout not in (None, "time_first"):
        raise ValueError(f"`layout` {layout!r}: a solution is time first")
    if solved and isinstance(value, (tuple, list, dict)):
        raise ValueError(
            f"`{name}` is a structure of {len(value)} parts; draw one part at a time, "
            f"such as {name}[0]"
        )
    found = array(value, name)
    if not solved:
        found = time_first(found, name, layout, n)
    if found.ndim == 0 or found.size == 0 or n not in (None, len(found)):
        wanted = "(n, ...)" if n is None else f"({n}, ...)"
        raise ValueError(
            f"`{name}` must have shape {wanted}, time on the first axis, got "
            f"{found.shape}"
        )
    return found


def times(value: Any, x: Array) -> Array:
    """Times ``(n, batch)`` of samples x ``(n, batch, ...)``; batch is 1 if shared."""
    t = array(value, "t")
    if t.ndim == 2 and x.ndim > 1 and t.shape == (x.shape[1], len(x)):
        steps = np.diff(t)
        if not (
            (steps <= 0).all(1) | (steps >= 0).all(1) | np.isnan(steps).any(1)
        ).all():
            raise ValueError(
                f"`t` of shape {t.shape} must have a row of times for each sample, "
                "which rise or fall: it is (batch, n) for x of either layout"
            )
        return t.T  # a grid per sample
    if t.size == 0 or t.shape not in ((len(t),), (len(t), 1)):
        raise ValueError(
            "`t` must have shape (n,), or (batch, n) for x of shape (n, batch, ...); "
            f"got {t.shape} for x of shape {x.shape}"
        )
    return t.reshape(-1, 1)


def positions_and_velocities(
    x: Any, v: Any, solved: bool, n: int | None = None, layout: str | None = None
) -> tuple[Array, Array]:
    """Samples over time of both, of one shape ``(n, ...)``, or an error."""
    x = samples(x, "x", solved, n, layout)
    v = samples(v, "v", solved, n, layout)
    if x.shape != v.shape:
        raise ValueError(
            f"`x` and `v` must have the same shape, got {x.shape} and {v.shape}"
        )
    return x, v


def solved_states(sol: Any) -> tuple[Array, Array, Array]:
    """Times (n, 1 or batch), x and v (n, samples, d) of a solution, or an error."""
    sol = given(sol)
    x, v = positions_and_velocities(sol.x, sol.v, True)
    t = times(sol.t, x)
    if len(t) != len(x):
        raise ValueError(f"`x` must have one entry per time, {len(t)}, got {x.shape}")
    alone = t.shape[1] > 1 and x.ndim == 2  # the only axis is that of the samples
    if alone:
        return t, x[:, :, None], v[:, :, None]
    return t, split(x, True), split(v, True)


def is_coordinates(
    x: Array, coordinates: bool | None, coordinate: object, solved: bool
) -> bool | None:
    """Whether the last axis of ``x`` holds coordinates; None where nothing tells.

    What is said goes first, then the shape: three axes or more end in coordinates, and
    so does the state of a solution.
    """
    if coordinate is not None:
        if coordinates is False:
            raise ValueError(
                f"`coordinate` {coordinate!r} chooses from the last axis, which "
                "`coordinates=False` says holds samples; give one of the two"
            )
        return True
    if coordinates is not None:
        return bool(coordinates)
    if x.ndim < 3 and not solved:
        return None if x.ndim == 2 and x.shape[1] > 1 else False
    return True


def split(x: Array, coordinates: bool) -> Array:
    """States as ``(n, samples, d)``."""
    d = x.shape[-1] if coordinates and x.ndim > 1 else 1
    return x.reshape(len(x), -1, d)


def choose(coordinate: Any, d: int, name: str = "coordinate") -> int:
    """The index of one of ``d`` coordinates, counted from 0, or an error."""
    try:
        if isinstance(coordinate, (bool, np.bool_)):
            raise TypeError
        index = operator.index(coordinate)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {coordinate!r}") from None
    if not -d <= index < d:
        raise ValueError(
            f"`{name}` must be one of 0, ..., {d - 1}, since the states have {d} "
            f"coordinates, got {index}"
        )
    return index % d


def choose_some(coordinate: Any, d: int) -> list[int]:
    """The indices of the coordinates that are drawn: all, some or one."""
    if coordinate is None:
        return list(range(d))
    if isinstance(coordinate, (Sequence, np.ndarray)) and np.ndim(coordinate) == 1:
        return [choose(one, d) for one in coordinate]
    return [choose(coordinate, d)]


def subscript(index: int) -> str:
    """Coordinate ``index`` as the reader counts: x₁ is the first."""
    return str(index + 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def phase_labels(k: int, d: int) -> tuple[str, str]:
    """What stands beside the axes of position and velocity k of d."""
    which = subscript(k) if d > 1 else ""
    return f"position x{which}", f"velocity v{which}"


def number_of(model: object) -> torch.Tensor:
    """A number with the dtype and the device of a module, or with torch's own."""
    numbers: list[torch.Tensor] = []
    if isinstance(model, torch.nn.Module):
        numbers = [*model.parameters(), *model.buffers()]
    return next((p for p in numbers if p.is_floating_point()), torch.zeros(()))


def slopes(system: System, t: float, x: Array, v: Array) -> tuple[Array, Array]:
    """The field at states x, v, in the dtype of the system's parameters, or an error.

    Raises
    ------
    ValueError
        If the system raises, or does not return a pair of the shape of ``x``.
    """
    said = "it returned"
    try:
        like = number_of(system)
        state = tuple(torch.as_tensor(z).to(like) for z in (x, v))
        with torch.no_grad():
            found = system(torch.as_tensor(t).to(like), state)
        dx, dv = (array(slope, "system") for slope in found)
        got = f"shapes {dx.shape} and {dv.shape}"
        cause = None
    except Exception as error:  # whatever a user's field may raise
        said, got, cause = "it raised", f"{type(error).__name__}: {error}", error
    if cause is not None or not dx.shape == dv.shape == x.shape:
        raise ValueError(
            "`system` must map states of one coordinate, a pair of shape (..., 1), to "
            f"two slopes of that shape; for {x.shape} {said} {got}. Paths of more "
            "coordinates are drawn by so.plot.plane"
        ) from cause
    return dx, dv


def couples(system: System, t: float, x: Array, v: Array) -> bool:
    """Whether x, v ``(n, k)`` are k coordinates of a system, not k samples of one.

    They are samples where each feels what it would feel alone.
    """
    rows = np.flatnonzero(np.isfinite(x).all(1) & np.isfinite(v).all(1))
    rows = rows[:: 1 + len(rows) // 100]
    if not len(rows):
        return False
    x, v = x[rows], v[rows]
    try:
        _, alone = slopes(system, t, x.reshape(-1, 1), v.reshape(-1, 1))
    except ValueError:
        return True
    try:
        _, together = slopes(system, t, x, v)
    except ValueError:
        return False
    alone = alone.reshape(together.shape)
    scale = np.abs(together[np.isfinite(together)]).max(initial=0.0)
    return not np.allclose(alone, together, 1e-3, 1e-5 * scale, equal_nan=True)
