"""Events: solve until g(t, x, v) changes sign, and differentiate when that happened.

Steps are taken until a sign changes; the time is then the root of

    τ ↦ g(t_n + τ, Φ_τ(x_n, v_n))

where Φ_τ takes the last step again with length τ, so that the event has the order of
the method.  Its derivative is the implicit function theorem's,

    dt*/dθ = −(∂g/∂θ) / (dg/dt),    dg/dt = g_t + g_x v + g_v a,

with ∂g/∂θ at a fixed time, and dg/dt along the flow Φ that was computed.

References: Chen, Amos, Nickel, "Learning Neural Event Functions for Ordinary
Differential Equations", ICLR 2021, section 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from . import checks
from .gradients import GRADIENTS, Gradient, find_gradient
from .methods import (
    METHODS,
    Coupled,
    External,
    Method,
    Splitting,
    check_fit,
    find_method,
)
from .methods.adaptive import Adaptive
from .methods.drive import check_events, march
from .methods.event_search import Search, find_step, refine_event
from .methods.saving import resumable
from .methods.slopes import slopes
from .methods.structured import solve_structured, structured
from .methods.transforms import transformable
from .monitor import MonitoredField
from .solution import DenseOutput, End, Solution, Stats
from .systems import Problem, System
from .systems.problem import beginning, check_end, forced

MOST_STEPS = 10_000


@transformable
def odeint_event(
    system: System,
    state: tuple[Any, Any] | Mapping[Any, Any] | Tensor | Solution,
    t0: float | Tensor,
    *,
    event_fn: Callable[..., Tensor],
    reverse_time: bool = False,
    method: str | Method = "verlet",
    step_size: float | None = None,
    horizon: float | None = None,
    per_sample: bool = False,
    gradient: str | Gradient | Callable[..., Any] = "backprop",
    rtol: float | None = None,
    atol: float | None = None,
    args: Sequence[Any] = (),
    forcing: Any = None,
) -> tuple[Tensor, Solution]:
    """Solve from (x0, v0) until ``event_fn(t, x, v)`` changes sign.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or FirstOrder
        What is solved.
    state : (Tensor, Tensor or None)
        Position and velocity at ``t0``, each ``(..., d)``, or structures of tensors as
        in ``odeint``, or a ``Solution`` to go on from.
    t0 : float or Tensor
        Initial time, 0-d; with ``per_sample`` also ``(batch,)``.
    event_fn : callable
        ``event_fn(t, x, v) -> g``: one number, or several ``(k,)`` of which the first
        to change sign ends the solve.
    reverse_time : bool, default False
        Solve backwards in time.
    method : str or Method, default "verlet"
        A fixed-step method, an adaptive or a coupled one, or one of torchdiffeq's,
        whose own ``odeint_event`` is then used.
    step_size : float
        The step; required by the fixed-step methods.  Two sign changes within one step,
        also of an adaptive method, are not seen.
    horizon : float, optional
        Longest time to wait; 10 000 steps by default.
    per_sample : bool, default False
        One event time for each sample along the first axis of ``x0``.  ``event_fn`` is
        then called with ``t`` of shape ``(batch,)`` and returns ``(batch,)`` or
        ``(batch, k)``.
    gradient, rtol, atol, args, forcing
        As in ``odeint``.

    Returns
    -------
    event_t : Tensor
        The time of the event, 0-d or ``(batch,)``, differentiable with respect to all
        that it depends on, parameters of ``event_fn`` included.
    solution : Solution
        At ``t0`` and ``event_t``: ``x, v = solution`` are ``(2, *x0.shape)``, dense in
        between.  ``solution.event`` is the index of the event among the k, an int or
        ``(batch,)`` (None from torchdiffeq).

    Raises
    ------
    RuntimeError
        If no sign changes within ``horizon``.
    TypeError, ValueError
        For arguments that cannot be right.

    Notes
    -----
    A zero at the start does not count: the sign to be left is the one just after it.
    So a ball that bounces can start again where it hit the floor.

    Derivatives are first derivatives; asking for second ones raises.

    Examples
    --------
    A ball falls from height 1 and hits the floor after √2 at g = 1:

    >>> import torch, secondorder as so
    >>> ball = so.Newton(lambda t, x: -torch.ones_like(x))
    >>> height = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> t, (x, v) = so.odeint_event(ball, (height, None), 0.0, step_size=0.1,
    ...                             event_fn=lambda t, x, v: x[0])
    >>> t.item(), v[-1].item()
    (1.4142135, -1.4142135)
    >>> t.backward()
    >>> height.grad.item()  # d √(2h)/dh
    0.7071067
    """
    if structured(system, state):
        return cast(tuple[Tensor, Solution], solve_structured(odeint_event, locals()))
    system = forced(checks.system(system, System), forcing)
    x, v, resumed = beginning(system, state)
    kind = t0.dtype if isinstance(t0, Tensor) else torch.float64
    t0 = checks.start_time(t0, x, per_sample)
    if isinstance(state, Solution):
        check_end(state, t0.unsqueeze(-1))
    how, route = find_method(method), find_gradient(gradient, GRADIENTS)
    if not callable(event_fn):
        got = type(event_fn).__name__
        raise TypeError(f"`event_fn` must be a function (t, x, v) -> g, got {got}")
    if horizon is not None and not horizon > 0:
        raise ValueError(f"`horizon` must be a positive length of time, got {horizon}")
    if not how.events:
        raise ValueError(
            f"`method` {how.name!r} has no events; use one of {[*METHODS]} with "
            '`step_size`, an adaptive method such as "rkn8", or a torchdiffeq method '
            'such as "dopri5"'
        )
    problem = Problem(system, x, v, t0.reshape(-1), tuple(args))
    options = check_fit(how, route, problem, step_size, rtol, atol)
    if how.events == "own":
        if per_sample:
            raise ValueError(
                f"`per_sample` events need a fixed-step method, {how.name!r} has "
                f'one time for all samples; use one of {[*METHODS]}, or "rkn8"'
            )
        return cast(External, how).solve_event(
            problem, t0, route, options, event_fn, reverse_time, horizon
        )
    chooses = isinstance(how, Adaptive)
    if isinstance(how, Coupled):
        chooses = how.chooses(options)
    if step_size is None and not chooses:
        raise ValueError(
            f"`step_size` is required: {how.name!r} has fixed steps, and there is "
            "no grid of times to take them from"
        )
    if chooses or isinstance(how, Coupled):
        most = math.inf if step_size is None else MOST_STEPS * step_size
        wait = most if horizon is None else float(horizon)
        span = torch.stack([t0, t0 + (-wait if reverse_time else wait)], -1)
        problem = Problem(system, x, v, span, tuple(args), end=resumed)
        options = options._replace(max_steps=MOST_STEPS if chooses else None)
        watched = check_events(how, problem, options, event_fn, None, None, per_sample)
        found = march(how, problem, route, options, watched, per_sample, throw=False)
        return reached(found, how.name, wait).to(kind), found
    size = cast(float, step_size)
    h = -size if reverse_time else size
    steps, wait = MOST_STEPS, math.inf
    if horizon is not None:
        steps, wait = max(1, math.ceil(horizon / size - 1e-9)), float(horizon)
    core, enter, leave = system.in_modes(x, exact=isinstance(how, Splitting))
    monitored = MonitoredField(core.field)
    search = Search(
        core.replace(monitored), cast(Splitting, how), route, problem.args, event_fn,
        leave, per_sample, h, steps, wait,
    )  # fmt: skip
    inner = enter(x), enter(v)
    step = find_step(search, inner, t0)
    event_t, end, index = refine_event(search, inner, t0, step)
    end = leave(end[0]), leave(end[1])
    xs, vs = (torch.stack(pair) for pair in zip((x, v), end, strict=True))
    most = step.count
    if isinstance(most, Tensor):
        most = int(most.max()) if most.numel() else 0
    stats = Stats(monitored.evaluations, accepted=most + 1)
    t = torch.stack([t0, event_t], -1)
    if system.first_order:
        vs = slopes(system, t, xs, problem.args, route)
    # Whole steps, and what is left; per-sample paths have no dense output.
    steps_taken: tuple[Tensor, ...] = ()
    if not per_sample:
        strides = h * torch.arange(most + 1, dtype=t0.dtype, device=t0.device)
        nodes = t0 + strides
        if most and bool(nodes[-1].detach() == event_t.detach()):
            nodes = nodes[:-1]
        steps_taken = (torch.cat([nodes, t[1:]]),)
    dense = DenseOutput(how, problem, t, xs, vs, steps_taken)
    event = index if per_sample else int(index)
    end_of = End(how) if resumable(how) else None
    return event_t.to(kind), Solution(t, xs, vs, stats, dense, event, end=end_of)


def reached(solution: Solution, name: str, wait: float) -> Tensor:
    """The times of the events in which an adaptive solve has ended, or an error."""
    words = solution.status if isinstance(solution.status, list) else [solution.status]
    lost = [k for k, word in enumerate(words) if word != "event"]
    if not lost:
        return solution.t[..., -1]
    who = f" for {len(lost)} samples (the first are {lost[:5]})" if words[1:] else ""
    if words[lost[0]] == "done":
        raise RuntimeError(
            f"`event_fn` did not change sign within {wait:g}{who}; wait longer with "
            "`horizon`, or go the other way with `reverse_time`"
        )
    raise RuntimeError(
        f"{name!r} came to no event{who}: {words[lost[0]]!r} (of {MOST_STEPS} steps, "
        "or where a step underflows or is not finite); give a `horizon`, looser "
        "tolerances, or go the other way with `reverse_time`"
    )
