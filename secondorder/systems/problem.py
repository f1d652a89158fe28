"""A problem: a system, where it starts, and the times it is wanted at, checked once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..checks import Number
from ..monitor import Monitor
from ..solution import End, Solution
from .equations import System
from .fields import Forced
from .forcing import check_covered

UNWATCHED = Monitor()


class Problem(NamedTuple):
    """What a method is given to solve; nothing in it needs to be checked again.

    Attributes
    ----------
    system : System
        Forced already, where there is a forcing.
    x, v : Tensor
        The state at ``t[0]``; zeros for the velocity of a first-order system.
    t : Tensor
        Requested times, ``(n,)`` or ``(batch, n)``.
    args : tuple
        Further arguments of the field.
    breakpoints : Tensor or sequence of float, optional
        Times at which steps have to end.
    monitor : Monitor
    gamma : float or Tensor, optional
        The momentum of one step, where it rather than ε was given.
    end : End, optional
        Of the solve that this one goes on from.
    """

    system: System
    x: Tensor
    v: Tensor
    t: Tensor
    args: tuple[Any, ...] = ()
    breakpoints: Tensor | Sequence[float] | None = None
    monitor: Monitor = UNWATCHED
    gamma: Number | None = None
    end: End | None = None

    def goes_on(self, method: Any) -> End:
        """The end of a solve by the same method; an empty one where there is none."""
        same = self.end is not None and self.end.method == method
        return self.end if same and self.end else End(method)

    def after(self, solution: Solution) -> "Problem":
        """The problem that goes on from a solution."""
        x, v = solution.x[-1], solution.v[-1]
        v = torch.zeros_like(v) if self.system.first_order else v
        return self._replace(x=x, v=v, end=solution.end)


def check_problem(
    system: Any,
    state: Any,
    t: Any,
    args: Any = (),
    forcing: Any = None,
    breakpoints: Any = None,
    monitor: Monitor = UNWATCHED,
) -> Problem:
    """Check the arguments of a solve and put them together."""
    system = checks.system(system, System)
    x, v, end = beginning(system, state)
    system.check_shapes(x)
    t = checks.times(t, x)
    if isinstance(state, Solution):
        check_end(state, t)
    system = forced(system, forcing, t)
    return Problem(system, x, v, t, tuple(args), breakpoints, monitor, None, end)


def beginning(system: System, state: Any) -> tuple[Tensor, Tensor, End | None]:
    """Where a solve starts, which may be where another one has ended."""
    if not isinstance(state, Solution):
        return *check_state(system, state), None
    last = state.x[-1], None if system.first_order else state.v[-1]
    return *check_state(system, last), state.end


def check_end(solution: Solution, t: Tensor) -> None:
    """Raise where no solve can go on from a solution through some times."""
    if solution.end is None:
        raise ValueError(
            "`state` is a solution that cannot be gone on from: its solver keeps more "
            "than a state (torchdiffeq's and SciPy's, velocity doubling); start from "
            "the pair (solution.x[-1], solution.v[-1])"
        )
    words = solution.status if isinstance(solution.status, list) else [solution.status]
    lost = [word for word in words if word not in ("done", "event")]
    if lost:
        raise ValueError(
            f"`state` is a solution that has got no further, status {lost[0]!r}; start "
            "from an earlier state, or leave these samples out"
        )
    last = solution.t[..., -1].detach().double()
    begin = t[..., 0].detach().double()
    eps = max(torch.finfo(part.dtype).eps for part in (solution.t, t))
    if bool(((begin - last).abs() > 4 * eps * last.abs().clamp(min=1e-30)).any()):
        raise ValueError(
            "`t` must begin where the solution has ended, at "
            f"{checks.describe(last)}, got {checks.describe(begin)}"
        )


def check_state(system: System, state: Any) -> tuple[Tensor, Tensor]:
    """The position and the velocity that a system starts from."""
    return checks.state(state, first_order=system.first_order)


def forced(system: System, forcing: Any, t: Tensor | None = None) -> System:
    """The system with a forcing, if there is one, which has to cover the times."""
    if forcing is None:
        return system
    if t is not None:
        check_covered(forcing, t)
    return system.replace(Forced(system.field, forcing, system.takes_velocity))
