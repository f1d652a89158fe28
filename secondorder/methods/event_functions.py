"""What can happen in a solve: event functions, their directions, and what follows.

An event function g(t, x, v) fires where it loses its sign.  It can count only where it
rises or falls, end the solve or be recorded only, and send the state elsewhere:

    (x, v) ← map(t, x, v)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import checks

Map = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Event:
    """An event function with what it is for.

    Parameters
    ----------
    fn : callable
        ``fn(t, x, v) -> g``, one number or several; one or several for each sample
        with ``per_sample``.
    direction : {0, 1, -1}
        Whether it counts at each change of sign, where it rises, or where it falls.
    terminal : bool, default True
        Whether it ends the solve, or is recorded only.
    on_event : callable, optional
        ``on_event(t, x, v) -> (x, v)``: where the solve goes on instead of ending.

    Raises
    ------
    TypeError, ValueError
        For what is no function, or no direction.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> spring = so.Newton(lambda t, x: -x)
    >>> top = so.Event(lambda t, x, v: v[0], direction=-1, terminal=False)
    >>> start = torch.zeros(1), torch.ones(1)
    >>> sol = so.odeint(spring, start, [0.0, 20.0], method="rkn8", event_fn=top)
    >>> sol.events.t  # π/2 and every 2π
    tensor([ 1.5708,  7.8540, 14.1372], dtype=torch.float64)
    """

    fn: Callable[..., Tensor]
    direction: int = 0
    terminal: bool = True
    on_event: Map | None = None

    def __post_init__(self) -> None:
        """Check what was given."""
        if not callable(self.fn):
            raise TypeError(
                "`event_fn` must be a function (t, x, v) -> g, got "
                f"{type(self.fn).__name__}"
            )
        if self.on_event is not None and not callable(self.on_event):
            raise TypeError(
                "`on_event` must be a function (t, x, v) -> (x, v), got "
                f"{type(self.on_event).__name__}"
            )
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"`direction` must be 0, 1 or -1, got {self.direction!r}")


@dataclass(frozen=True)
class Happened:
    """The events of a solve, in order of time.

    Attributes
    ----------
    t : Tensor
        Their times ``(m,)``; with ``per_sample`` ``(m, batch)``, NaN where a sample has
        fewer.
    index : Tensor
        Which function it was, the same shape; −1 where none.
    x, v : Tensor
        The states there, ``(m, *x0.shape)``, before any map.
    """

    t: Tensor
    index: Tensor
    x: Tensor
    v: Tensor


@dataclass
class Watched:
    """All event functions of a solve.

    Attributes
    ----------
    columns : list of Event
        Whose each of the k values is; known after the first call of ``value``.
    """

    events: Sequence[Event]
    batch: tuple[int, ...]
    columns: list[int] = field(default_factory=list)

    def value(self, t: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """All values, ``(*batch, k)``."""
        found = [checks.event_value(e.fn(t, x, v), self.batch) for e in self.events]
        if not self.columns:
            self.columns = [i for i, g in enumerate(found) for _ in range(g.shape[-1])]
        kind = torch.result_type(found[0], x.real)
        return torch.cat([g.to(kind) for g in found], -1)

    def counts(self, rising: Tensor) -> Tensor:
        """Whether a change of sign counts, column by column."""
        ways = [self.events[i].direction for i in self.columns]
        wanted = torch.tensor(ways, device=rising.device)
        return (wanted == 0) | ((wanted > 0) == rising)


def find_events(event_fn: Any, on_event: Any) -> list[Event]:
    """The events of the arguments ``event_fn`` and ``on_event``."""
    several = isinstance(event_fn, (list, tuple))
    functions = list(event_fn) if several else [event_fn]
    maps = (
        on_event if isinstance(on_event, (list, tuple)) else [on_event] * len(functions)
    )
    if len(maps) != len(functions) or not functions:
        raise ValueError(
            f"`on_event` must be one function, or one (or None) for each of the "
            f"{len(functions)} event functions, got {len(maps)}"
        )
    found = []
    for fn, move in zip(functions, maps, strict=True):
        if isinstance(fn, Event):
            found.append(Event(fn.fn, fn.direction, fn.terminal, fn.on_event or move))
            continue
        rise = getattr(fn, "direction", 0)
        rise = (rise > 0) - (rise < 0)  # SciPy takes any number
        found.append(Event(fn, rise, bool(getattr(fn, "terminal", True)), move))
    return found
