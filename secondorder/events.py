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

from functools import partial
from typing import NamedTuple

import torch
import torchdiffeq
from torch import Tensor

from .forcing import Driven
from .gradient import GRADIENTS, backprop
from .moves import Record
from .odeint import (
    check_method_fits,
    check_state,
    check_step_size,
    check_system,
    check_tolerances,
    find,
    find_method,
    integrate,
)
from .roots import chandrupatla
from .solution import Solution, Stats
from .solvers import SCIPY, SOLVERS, FirstOrderForm, check, options_of
from .splitting import METHODS, Splitting, compile_plan
from .system import in_modes
from .watch import Watched

CHUNK = 32  # steps taken between two looks at the signs: one device synchronisation
MOST_STEPS = 10_000


def odeint_event(
    system,
    state,
    t0,
    *,
    event_fn,
    reverse_time=False,
    method="verlet",
    step_size=None,
    horizon=None,
    per_sample=False,
    gradient="backprop",
    rtol=None,
    atol=None,
    args=(),
    forcing=None,
):
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
    check_system(system)
    x, v = check_state(state)
    kind = t0.dtype if isinstance(t0, Tensor) else torch.float64
    t0 = check_start(t0, x, per_sample)
    args = tuple(args)
    name, method = find_method(method)
    route, gradient = find(gradient, GRADIENTS, "gradient", None)
    check_step_size(step_size)
    if not callable(event_fn):
        got = type(event_fn).__name__
        raise TypeError(f"`event_fn` must be a function (t, x, v) -> g, got {got}")
    if horizon is not None and not horizon > 0:
        raise ValueError(f"`horizon` must be a positive length of time, got {horizon}")
    if forcing is not None:
        system = Driven(system, forcing)
    if not isinstance(method, Splitting):
        if name in SCIPY or name not in SOLVERS:
            raise ValueError(
                f"`method` {name!r} has no events; use one of {list(METHODS)} with "
                '`step_size`, or a torchdiffeq method such as "dopri5"'
            )
        if per_sample:
            raise ValueError(
                f"`per_sample` events need a fixed-step method, {name!r} has one time "
                f"for all samples; use one of {list(METHODS)}"
            )
        check_tolerances(rtol, atol)
        return by_torchdiffeq(
            system, x, v, t0, event_fn, reverse_time, method, step_size, horizon, route,
            rtol, atol, args,
        )  # fmt: skip
    check_method_fits(system, name, method, gradient, rtol, atol)
    if step_size is None:
        raise ValueError(
            f"`step_size` is required: {name!r} has fixed steps, and there is no grid "
            "of times to take them from"
        )
    h = -step_size if reverse_time else step_size
    steps = MOST_STEPS if horizon is None else max(1, round(horizon / step_size))
    core, enter, leave = in_modes(system, x)
    watched = Watched(core.field)
    inner = (x, v) if enter is None else (enter(x), enter(v))
    search = Search(
        core._replace(field=watched), method, gradient, args, event_fn, leave,
        per_sample, h, steps,
    )  # fmt: skip
    count, before = march(search, inner, t0)
    event_t, end, index = arrive(search, inner, t0, count, before)
    end = end if leave is None else (leave(end[0]), leave(end[1]))
    xs, vs = (torch.stack(pair) for pair in zip((x, v), end, strict=True))

    def inside(_, times):
        # The same steps once more; only for a shared event, so that `count` is an int.
        grid = [t0, *([t0 + count * h] if count else []), event_t]
        counts = [*([count] if count else []), 1]
        whole = integrate(
            system, x, v, torch.stack(grid), counts, method, backprop, args
        )  # fmt: skip
        return whole(times)

    most = int(count.max()) if per_sample else count
    stats = Stats(watched.evaluations, accepted=most + 1)
    solution = Solution(torch.stack([t0, event_t], -1), xs, vs, stats, inside)
    solution.event = index if per_sample else int(index)
    return event_t.to(kind), solution


class Search(NamedTuple):
    """What stays the same while an event is looked for."""

    core: object
    method: Splitting
    gradient: object
    args: tuple
    event_fn: object
    leave: object
    per_sample: bool
    h: float
    steps: int

    def flow(self, state, t, counts=(1,), route=backprop, every=False):
        """States at the end of a time grid, or at every time of it."""
        plan = compile_plan(self.method, self.core, t, list(counts), state[0])
        if not every:
            *moves, last = plan
            plan = (*(m for m in moves if not isinstance(m, Record)), last)
        states = route(plan, self.core.field, *state, self.args)
        return states if every else states[-1]

    def event(self, t, state):
        """The event functions at a state, ``(k,)`` or ``(batch, k)``."""
        if self.leave is not None:
            state = tuple(self.leave(part) for part in state)
        g = self.event_fn(t, *state)
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


def march(search, state, t0):
    """Steps before a sign changes, and the state there.

    Returns
    -------
    count : int, or Tensor ``(batch,)``
        The change lies in step ``count``.
    before : (Tensor, Tensor)
        The state after that many steps.
    """
    with torch.no_grad():
        state, t0 = tuple(part.detach() for part in state), t0.detach()
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
                before = tuple(
                    torch.where(column(new, old), value, old)
                    for value, old in zip(last, before, strict=True)
                )
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


def first_sign(search, state, t0):
    """The signs just after the start: a zero at the start itself is no event."""
    t = t0 + probe(search, state)
    return search.event(t, search.flow(state, torch.stack([t0, t], -1))).sign()


def probe(search, state):
    """A time in which a state moves by more than its rounding, but hardly at all."""
    return search.h * torch.finfo(state[0].dtype).eps ** 0.5


def arrive(search, state, t0, count, before):
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
        here = tuple(part.detach() for part in before)
        length, index = locate(search, here, start.detach(), count)
        event_t = start.detach() + length
    if wanted:
        rate = speed(search, here, start.detach(), event_t, index)
        end = search.flow(
            before, torch.stack([start, event_t], -1), route=search.gradient
        )
        g = pick(search.event(event_t, end), index)
        event_t = ImplicitTime.apply(g, event_t, rate)
    end = search.flow(before, torch.stack([start, event_t], -1), route=search.gradient)
    return event_t, end, index


def locate(search, state, start, count):
    """Length of the last, partial step, and which of the functions is zero there."""
    h = search.h
    upper = torch.full_like(start, h)
    # In the very first step the zero at its start, if any, stays outside.
    lower = torch.where(
        torch.as_tensor(count, device=start.device) == 0, probe(search, state), 0.0
    ).to(start)

    def value(k, length):
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
    lengths = torch.stack(lengths, -1)
    length, index = lengths.min(-1)
    # Rounding may have moved a change of sign just across the end of the step.
    length = torch.where(length.isfinite(), length, abs(h))
    return length.copysign(upper), index


def speed(search, state, start, event_t, index):
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
    def forward(ctx, g, time, rate):
        """Return the time."""
        ctx.save_for_backward(rate)
        ctx.dtype = g.dtype
        return time.clone()

    @staticmethod
    def backward(ctx, grad):
        """Gradient of g."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "event times have first derivatives only, but `create_graph=True` was "
                "asked for"
            )
        (rate,) = ctx.saved_tensors
        return (-grad / rate).to(ctx.dtype), None, None


def pick(g, index):
    """The entry ``index`` of the last axis."""
    return g.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def column(mask, like):
    """A mask ``()`` or ``(batch,)`` that broadcasts against a state."""
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim))


def check_start(t0, x, per_sample):
    """Return the initial time as tensor, one per sample if events are."""
    if not isinstance(t0, Tensor):
        t0 = torch.as_tensor(t0, dtype=torch.float64)
    if not t0.is_floating_point():
        raise TypeError(f"`t0` must be floating point, got {t0.dtype}")
    if per_sample and x.ndim == 0:
        raise ValueError("`per_sample` needs a batch: x0 of shape (batch, ...)")
    shape = (x.shape[0],) if per_sample else ()
    if t0.numel() == 1:
        t0 = t0.reshape(())
    elif tuple(t0.shape) != shape:
        want = "() or (batch,)" if per_sample else "()"
        raise ValueError(f"`t0` must have shape {want}, got {tuple(t0.shape)}")
    if not bool(t0.detach().isfinite().all()):
        raise ValueError(f"`t0` must be finite, got {t0}")
    return t0.to(x.device, torch.float64).expand(shape)


def by_torchdiffeq(
    system, x, v, t0, event_fn, reverse_time, method, step_size, horizon, gradient,
    rtol, atol, args,
):  # fmt: skip
    """Delegate to ``torchdiffeq.odeint_event``."""
    wants = [p for p in system.parameters() if p.requires_grad]
    wants += [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    check(method, gradient, step_size, [*wants, x, v, t0])
    g = event_fn(t0.detach(), x.detach(), v.detach())
    if torch.is_grad_enabled() and g.requires_grad:
        raise ValueError(
            "`event_fn` has parameters that require gradients, which torchdiffeq's "
            "events do not pass on; use a fixed-step method, or torch.no_grad()"
        )
    if bool((g.detach() == 0).any()):
        raise ValueError(
            "`event_fn` is 0 at `t0`, where torchdiffeq would stop at once; use a "
            "fixed-step method, which starts at a zero, or move off it"
        )

    def event(t, state):
        if horizon is not None and abs(t.item() - t0.item()) > horizon:
            raise RuntimeError(
                f"no sign of `event_fn` changed within {horizon:.6g} of t0; wait "
                "longer with `horizon`"
            )
        return event_fn(t, *state)

    settings = options_of(method, x, rtol, atol, step_size)
    solver = torchdiffeq.odeint
    if gradient == "adjoint":
        solver = partial(torchdiffeq.odeint_adjoint, adjoint_params=tuple(wants))
    watched = Watched(system.field)
    form = FirstOrderForm(system, args, watched)
    event_t, (xs, vs) = torchdiffeq.odeint_event(
        form, (x, v), t0, event_fn=event, reverse_time=reverse_time,
        odeint_interface=solver, **settings,
    )  # fmt: skip

    def inside(_, times):
        raise ValueError(
            f"{method!r} keeps no dense output of an event; solve again with `odeint` "
            "up to the event's time"
        )

    stats = Stats(watched.evaluations, accepted=0)
    solution = Solution(torch.stack([t0, event_t]), xs, vs, stats, inside)
    return event_t, solution
