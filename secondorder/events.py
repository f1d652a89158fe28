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

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from . import checks
from .gradients import GRADIENTS, Gradient, backprop, find_gradient
from .methods import METHODS, External, Method, Splitting, check_fit, find_method
from .monitor import MonitoredField
from .plan import Record
from .roots import chandrupatla
from .solution import DenseOutput, Solution, Stats
from .systems import Problem, System
from .systems.problem import forced

State = tuple[Tensor, Tensor]
CHUNK = 32  # steps taken between two looks at the signs: one device synchronisation
MOST_STEPS = 10_000


def odeint_event(
    system: System,
    state: tuple[Tensor, Tensor | None],
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
    system : SecondOrder, Newton or Acceleration
        What is solved.
    state : (Tensor, Tensor or None)
        Position and velocity at ``t0``, each ``(..., d)``.
    t0 : float or Tensor
        Initial time, 0-d; with ``per_sample`` also ``(batch,)``.
    event_fn : callable
        ``event_fn(t, x, v) -> g``: one number, or several ``(k,)`` of which the first
        to change sign ends the solve.
    reverse_time : bool, default False
        Solve backwards in time.
    method : str or Splitting, default "verlet"
        A fixed-step method, or one of torchdiffeq's, whose own ``odeint_event`` is then
        used.
    step_size : float
        The step; required by the fixed-step methods.  Two sign changes within one step
        are not seen.
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
    system = forced(checks.system(system, System), forcing)
    x, v = checks.state(state)
    kind = t0.dtype if isinstance(t0, Tensor) else torch.float64
    t0 = checks.start_time(t0, x, per_sample)
    how, route = find_method(method), find_gradient(gradient, GRADIENTS)
    if not callable(event_fn):
        got = type(event_fn).__name__
        raise TypeError(f"`event_fn` must be a function (t, x, v) -> g, got {got}")
    if horizon is not None and not horizon > 0:
        raise ValueError(f"`horizon` must be a positive length of time, got {horizon}")
    if not how.events:
        raise ValueError(
            f"`method` {how.name!r} has no events; use one of {[*METHODS]} with "
            '`step_size`, or a torchdiffeq method such as "dopri5"'
        )
    problem = Problem(system, x, v, t0.reshape(-1), tuple(args))
    options = check_fit(how, route, problem, step_size, rtol, atol)
    if how.events == "own":
        if per_sample:
            raise ValueError(
                f"`per_sample` events need a fixed-step method, {how.name!r} has "
                f"one time for all samples; use one of {[*METHODS]}"
            )
        return cast(External, how).solve_event(
            problem, t0, route, options, event_fn, reverse_time, horizon
        )
    if step_size is None:
        raise ValueError(
            f"`step_size` is required: {how.name!r} has fixed steps, and there is "
            "no grid of times to take them from"
        )
    h = -step_size if reverse_time else step_size
    steps = MOST_STEPS if horizon is None else max(1, round(horizon / step_size))
    core, enter, leave = system.in_modes(x)
    watched = MonitoredField(core.field)
    search = Search(
        core.replace(watched), cast(Splitting, how), route, problem.args, event_fn,
        leave, per_sample, h, steps,
    )  # fmt: skip
    inner = enter(x), enter(v)
    count, before = find_step(search, inner, t0)
    event_t, end, index = refine_event(search, inner, t0, count, before)
    end = leave(end[0]), leave(end[1])
    xs, vs = (torch.stack(pair) for pair in zip((x, v), end, strict=True))
    most = int(count.max()) if isinstance(count, Tensor) else count
    stats = Stats(watched.evaluations, accepted=most + 1)
    t = torch.stack([t0, event_t], -1)
    # Whole steps, and what is left; per-sample paths have no dense output.
    strides = h * torch.arange(most + 1, dtype=t0.dtype, device=t0.device)
    steps_taken = () if per_sample else (torch.cat([t0 + strides, t[1:]]),)
    dense = DenseOutput(how, problem, t, xs, vs, steps_taken)
    event = index if per_sample else int(index)
    return event_t.to(kind), Solution(t, xs, vs, stats, dense, event)


class Search(NamedTuple):
    """What stays the same while an event is looked for."""

    core: System
    method: Splitting
    gradient: Gradient
    args: tuple[Any, ...]
    event_fn: Callable[..., Tensor]
    leave: Callable[[Tensor], Tensor]
    per_sample: bool
    h: float
    steps: int

    def flow(
        self,
        state: State,
        t: Tensor,
        counts: Sequence[int] = (1,),
        route: Gradient = backprop,
        every: bool = False,
    ) -> Any:
        """States at the end of a time grid, or at every time of it."""
        plan = self.method.compile(self.core, t, list(counts), state[0])
        if not every:
            *moves, last = plan
            plan = (*(m for m in moves if not isinstance(m, Record)), last)
        states = route.run(plan, self.core.field, *state, self.args)
        return states if every else states[-1]

    def event(self, t: Tensor, state: State) -> Tensor:
        """The event functions at a state, ``(k,)`` or ``(batch, k)``."""
        g: Any = self.event_fn(t, *(self.leave(part) for part in state))
        batch = tuple(t.shape)  # () or (batch,)
        fits = isinstance(g, Tensor) and g.ndim <= len(batch) + 1
        if not fits or g.shape[: len(batch)] != batch:
            got = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
            want = "(batch,) or (batch, k)" if batch else "() or (k,)"
            raise ValueError(
                f"`event_fn` must return a tensor of shape {want}, got {got}"
                + ("" if batch else "; one event per sample needs per_sample=True")
            )
        return g.reshape(*batch, -1)


def find_step(search: Search, state: State, t0: Tensor) -> tuple[int | Tensor, State]:
    """Steps before a sign changes, and the state there.

    Returns
    -------
    count : int, or Tensor ``(batch,)``
        The change lies in step ``count``.
    before : (Tensor, Tensor)
        The state after that many steps.
    """
    with torch.no_grad():
        state, t0 = (state[0].detach(), state[1].detach()), t0.detach()
        sign = first_sign(search, state, t0)
        found = torch.zeros(t0.shape, dtype=torch.bool, device=t0.device)
        lost, count = torch.zeros_like(found), torch.zeros_like(found, dtype=torch.long)
        before = state
        for start in range(0, search.steps, CHUNK):
            size = min(CHUNK, search.steps - start)
            times = t0.unsqueeze(-1) + search.h * torch.arange(
                start, start + size + 1, dtype=t0.dtype, device=t0.device
            )
            states = search.flow(state, times, [1] * size, every=True)
            for k, last in enumerate([state, *states[:-1]]):
                g = search.event(times[..., k + 1], states[k])
                sign = torch.where(sign == 0, g.sign(), sign)
                lost = lost | (~g.isfinite().all(-1) & ~found)
                new = (g.sign() != sign).any(-1) & ~found
                count = torch.where(new, start + k, count)
                x, v = (
                    torch.where(column(new, old), value, old)
                    for value, old in zip(last, before, strict=True)
                )
                before = x, v
                found = found | new
            if bool(lost.any()):
                raise RuntimeError(
                    "`event_fn` is not finite after at most "
                    f"{start + size} steps, so the solution has probably blown up; try "
                    "smaller steps"
                )
            if bool(found.all()):
                return (count if search.per_sample else int(count)), before
            state = states[-1]
    wait = search.steps * abs(search.h)
    who = ""
    if search.per_sample:
        idle = (~found).nonzero().flatten().tolist()
        who = f" for {len(idle)} of {len(found)} samples (the first are {idle[:5]})"
    raise RuntimeError(
        f"no sign of `event_fn` changed within {wait:.6g} of t0{who}; wait longer with "
        "`horizon`, take smaller steps (two changes within one step are not seen), or "
        "check that the event happens in this direction of time"
    )


def first_sign(search: Search, state: State, t0: Tensor) -> Tensor:
    """The signs just after the start: a zero at the start itself is no event."""
    t = t0 + probe(search, state)
    return search.event(t, search.flow(state, torch.stack([t0, t], -1))).sign()


def probe(search: Search, state: State) -> float:
    """A time in which a state moves by more than its rounding, but hardly at all."""
    return search.h * torch.finfo(state[0].dtype).eps ** 0.5


def refine_event(
    search: Search, state: State, t0: Tensor, count: Any, before: State
) -> tuple[Tensor, State, Tensor]:
    """Time, state and index of the event in step ``count``, with their gradients."""
    wanted = torch.is_grad_enabled()
    # An integer tensor times a float would be a float32.
    steps = count.to(t0) if search.per_sample else count
    start = t0 + search.h * steps
    if wanted:
        # The path again, now by the gradient route that was asked for.
        if search.per_sample:
            most = int(count.max())
            strides = torch.arange(most + 1, dtype=t0.dtype, device=t0.device)
            # Samples that are there already wait: steps of length 0 change nothing.
            strides = strides.minimum(steps.unsqueeze(-1))
            grid, counts = t0.unsqueeze(-1) + search.h * strides, [1] * most
        else:
            grid, counts = torch.stack([t0, start]), [count] if count else []
        before = search.flow(state, grid, counts, search.gradient) if counts else state
    with torch.no_grad():
        here = before[0].detach(), before[1].detach()
        length, index = locate(search, here, start.detach(), count)
        event_t = start.detach() + length
    if wanted:
        rate = event_rate(search, here, start.detach(), event_t, index)
        end = search.flow(
            before, torch.stack([start, event_t], -1), route=search.gradient
        )
        g = pick(search.event(event_t, end), index)
        event_t = ImplicitTime.apply(g, event_t, rate)
    end = search.flow(before, torch.stack([start, event_t], -1), route=search.gradient)
    return event_t, end, index


def locate(
    search: Search, state: State, start: Tensor, count: Any
) -> tuple[Tensor, Tensor]:
    """Length of the last, partial step, and which of the functions is zero there."""
    h = search.h
    upper = torch.full_like(start, h)
    # In the very first step the zero at its start, if any, stays outside.
    lower = torch.where(
        torch.as_tensor(count, device=start.device) == 0, probe(search, state), 0.0
    ).to(start)

    def value(k: int, length: Tensor) -> Tensor:
        t = start + length
        end = search.flow(state, torch.stack([start, t], -1))
        return search.event(t, end)[..., k]

    low, high = (
        search.event(start + s, search.flow(state, torch.stack([start, start + s], -1)))
        for s in (lower, upper)
    )
    eps = torch.finfo(state[0].dtype).eps
    tolerance = 2 * eps * abs(h) + 2 * torch.finfo(start.dtype).eps * start.abs()
    lengths = []
    for k in range(low.shape[-1]):
        fired = low[..., k].sign() * high[..., k].sign() <= 0
        if not bool(fired.any()):
            lengths.append(torch.full_like(start, torch.inf))
            continue
        # Without a change of sign there is nothing to find: an empty bracket.
        top = torch.where(fired, upper, lower)
        ends = low[..., k], high[..., k]
        root = chandrupatla(partial(value, k), lower, top, *ends, tolerance)
        lengths.append(torch.where(fired, root.abs(), torch.inf))
    length, index = torch.stack(lengths, -1).min(-1)
    # Rounding may have moved a change of sign just across the end of the step.
    length = torch.where(length.isfinite(), length, abs(h))
    return length.copysign(upper), index


def event_rate(
    search: Search, state: State, start: Tensor, event_t: Tensor, index: Tensor
) -> Tensor:
    """dg/dt along the flow of the last step, shape of the time."""
    with torch.enable_grad():
        t = event_t.detach().requires_grad_()
        end = search.flow(state, torch.stack([start, t], -1))
        g = pick(search.event(t, end), index)
        if not g.requires_grad:
            raise ValueError(
                "`event_fn` does not depend on the state or the time through autograd; "
                "compute it with torch operations, or solve under torch.no_grad()"
            )
        (rate,) = torch.autograd.grad(g.sum(), t)
    return rate


class ImplicitTime(torch.autograd.Function):
    """The time t* at which g is zero: dt* = −dg/(dg/dt)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, time: Tensor, rate: Tensor) -> Tensor:
        """Return the time."""
        ctx.save_for_backward(rate)
        ctx.dtype = g.dtype
        return time.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradient of g."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "event times have first derivatives only, but `create_graph=True` was "
                "asked for"
            )
        (rate,) = ctx.saved_tensors
        return (-grad / rate).to(ctx.dtype), None, None


def pick(g: Tensor, index: Tensor) -> Tensor:
    """The entry ``index`` of the last axis."""
    return g.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def column(mask: Tensor, like: Tensor) -> Tensor:
    """A mask ``()`` or ``(batch,)`` that broadcasts against a state."""
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim))
