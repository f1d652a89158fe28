"""A problem: a system, where it starts, and the times it is wanted at, checked once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .. import checks
from ..checks import Number
from ..monitor import Monitor
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
    """

    system: System
    x: Tensor
    v: Tensor
    t: Tensor
    args: tuple[Any, ...] = ()
    breakpoints: Tensor | Sequence[float] | None = None
    monitor: Monitor = UNWATCHED
    gamma: Number | None = None


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
    x, v = check_state(system, state)
    system.check_shapes(x)
    t = checks.times(t, x)
    return Problem(
        forced(system, forcing, t), x, v, t, tuple(args), breakpoints, monitor
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
