"""Plans that are made once: a solve like one before finds its plan, and what it told.

A plan follows from numbers.  Where none of them is learned, it is found by their
values; what is worked out of a plan, such as its cost, is kept in its ``notes``.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..checks import Number
from ..systems.equations import System
from .compile import momentum_plan
from .moves import Damp, Kick, Plan, Timed

PLANS: "OrderedDict[Any, Plan]" = OrderedDict()
MOST = 16  # plans, the last ones that were wanted
LONGEST = 50_000  # moves
Made = TypeVar("Made")


class Known(tuple[Any, ...]):
    """A plan that is found again.

    Attributes
    ----------
    notes : dict
        What was worked out of it.
    """

    notes: dict[Any, Any]


def known_plan(
    make: Callable[..., Plan],
    system: System,
    t: Tensor,
    counts: Sequence[int],
    like: Tensor,
    gamma: Number | None,
    broken: Sequence[bool] | None,
) -> Plan:
    """The plan of a method that compiles as ``make``, found again where it can be."""
    numbers = system.mass, system.damping, system.stiffness, gamma, t
    key = None if transformed() else by_value(numbers)
    if key is None or type(like) not in (Tensor, nn.Parameter):
        return make(system, t, counts, like, gamma, broken)
    shape = like.dtype, like.device, like.shape, type(system), tuple(counts)
    key = make, key, shape, None if broken is None else tuple(broken)
    try:
        plan = PLANS.pop(key, None)  # not only looked at: another thread may drop it
    except TypeError:  # a method of the user's own, with a list in it
        return make(system, t, counts, like, gamma, broken)
    if plan is None or written(plan):
        plan = make(system, t, counts, like, gamma, broken)
        # A damp below 0 is told of at each solve.
        if len(plan) > LONGEST or any(
            type(m) is Damp and not isinstance(m.weight, Tensor) and m.weight < 0
            for m in plan
        ):
            return plan
        plan = with_notes(plan)
    PLANS[key] = plan
    if len(PLANS) > MOST:
        PLANS.popitem(last=False)
    return plan


def transformed() -> bool:
    """Whether tensors made now belong to a trace, a transform or a mode."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch.is_inference_mode_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
    )


def by_value(numbers: Sequence[Any]) -> Any:
    """Numbers as something to compare; None if one is learned, or none that we know."""
    key: list[Any] = []
    for number in numbers:
        if not isinstance(number, Tensor):
            key.append(number)
            continue
        if number.requires_grad or type(number) not in (Tensor, nn.Parameter):
            return None
        plain = number.detach().cpu()
        if plain.dtype not in (torch.float32, torch.float64):
            return None
        place = number.device, number.dtype, number.shape
        key.append((*place, plain.numpy().tobytes()))
    return tuple(key)


@functools.lru_cache(MOST)
def known_layers(gamma: Any, layers: int, marks: tuple[int, ...], rule: str) -> Plan:
    """``momentum_plan`` of numbers that are all floats, found again."""
    return with_notes(momentum_plan(gamma, layers, marks, rule))


def with_notes(plan: Plan) -> Plan:
    """A plan that can be kept, with room for notes."""
    if not isinstance(plan, Timed):
        plan = Known(plan)
    clock = clock_of(plan)
    plan.notes = {"clock": None if clock is None else clock._version}
    return plan


def clock_of(plan: Any) -> Tensor | None:
    """The tensor whose parts a field is given as its times, if it is one."""
    if isinstance(plan, Timed):
        return plan.times
    time = next((m.time for m in plan if isinstance(m, Kick)), None)
    return time if isinstance(time, Tensor) else None


def written(plan: Any) -> bool:
    """Whether a field wrote into its times."""
    clock = clock_of(plan)
    return clock is not None and clock._version != plan.notes["clock"]


def noted(plan: Any, name: Any, make: Callable[[], Made]) -> Made:
    """What is worked out of a plan, once if the plan is known."""
    notes = getattr(plan, "notes", None)
    if notes is None:
        return make()
    if name not in notes:
        notes[name] = make()
    return notes[name]
