"""Events of fixed-step methods: steps until a sign changes, then the root in one step.

A function g fires in the step at whose end it has no longer the sign that it had; the
time is the root of τ ↦ g(t_n + τ, Φ_τ(x_n, v_n)), where Φ_τ takes that step again with
length τ.  A zero at the start does not count: the sign to be left is the one after it.
What is zero, up to the rounding of the state and of the time, is a zero.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..gradients import Gradient, backprop
from ..plan import Record
from ..roots import first_change
from ..systems import System
from .slopes import slope
from .splitting import Splitting
from .velocity_copies import watch_copies

State = tuple[Tensor, Tensor]
CHUNK = 32  # steps taken between two looks at the signs: one device synchronisation
NEAR = 64  # units of rounding within which a function is zero at the start


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
    wait: float

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
        copies = watch_copies(self.core.field, plan) if sum(counts) > 1 else None
        field = copies or self.core.field
        states = route.run(plan, field, *state, self.args)
        if copies:
            copies.check(self.method.name)
        return states if every else states[-1]

    def event(self, t: Tensor, state: State) -> Tensor:
        """The event functions at a state, ``(k,)`` or ``(batch, k)``."""
        x, v = (self.leave(part) for part in state)
        if self.core.first_order:
            v = slope(self.core, t, x, self.args)
        g = self.event_fn(t, x, v)
        return checks.event_value(g, tuple(t.shape))

    def after(self, state: State, t: Tensor, length: Any) -> Tensor:
        """The event functions after one step of some length."""
        end = t + length
        return self.event(end, self.flow(state, torch.stack([t, end], -1)))

    def strides(self, count: Tensor) -> Tensor:
        """From t0 to the end of so many steps; the last one ends at the horizon."""
        whole = self.h * count
        return whole.clamp(-self.wait, self.wait)


class Found(NamedTuple):
    """The step in which an event lies.

    Attributes
    ----------
    count : int, or Tensor ``(batch,)``
        How many steps come before it.
    before : (Tensor, Tensor)
        The state after these.
    fired : Tensor
        Which functions change their sign in it, ``(k,)`` or ``(batch, k)``.
    sign : Tensor
        The signs that they leave.
    soon : Tensor
        Which functions change their sign in the first instant after t0.
    """

    count: Any
    before: State
    fired: Tensor
    sign: Tensor
    soon: Tensor


def find_step(search: Search, state: State, t0: Tensor) -> Found:
    """Take steps until a sign changes."""
    with torch.no_grad():
        state, t0 = (state[0].detach(), state[1].detach()), t0.detach()
        sign, soon = first_sign(search, state, t0)
        found = torch.zeros(t0.shape, dtype=torch.bool, device=t0.device)
        lost, count = torch.zeros_like(found), torch.zeros_like(found, dtype=torch.long)
        before, left, fired = state, sign, torch.zeros_like(soon)
        for start in range(0, search.steps, CHUNK):
            size = min(CHUNK, search.steps - start)
            passed = torch.arange(
                start, start + size + 1, dtype=t0.dtype, device=t0.device
            )
            times = t0.unsqueeze(-1) + search.strides(passed)
            states = search.flow(state, times, [1] * size, every=True)
            for k, last in enumerate([state, *states[:-1]]):
                g = search.event(times[..., k + 1], states[k])
                sign = torch.where(sign == 0, g.sign(), sign)
                lost = lost | (~g.isfinite().all(-1) & ~found)
                changed = g.sign() != sign
                new = changed.any(-1) & ~found
                count = torch.where(new, start + k, count)
                fired = torch.where(new.unsqueeze(-1), changed, fired)
                left = torch.where(new.unsqueeze(-1), sign, left)
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
                number = count if search.per_sample else int(count)
                return Found(number, before, fired, left, soon)
            state = states[-1]
    raise RuntimeError(not_found(search, found))


def not_found(search: Search, found: Tensor) -> str:
    """Say that no sign changed."""
    wait, who = min(search.wait, search.steps * abs(search.h)), ""
    if search.per_sample:
        idle = (~found).nonzero().flatten().tolist()
        who = f" for {len(idle)} of {len(found)} samples (the first are {idle[:5]})"
    return (
        f"no sign of `event_fn` changed within {wait:.6g} of t0{who}; wait longer with "
        "`horizon`, take smaller steps (two changes within one step are not seen), or "
        "check that the event happens in this direction of time"
    )


def first_sign(search: Any, state: State, t0: Tensor) -> tuple[Tensor, Tensor]:
    """The signs to be left, and which functions leave them at once.

    A zero at the start does not count: its sign is that of the first instant.
    """
    now, ahead = search.event(t0, state), search.after(state, t0, probe(search, state))
    soon = (now != 0) & (now.sign() != ahead.sign())
    if bool(soon.any()):
        soon = soon & ~is_rounded_zero(search, state, t0, now, ahead)
    return torch.where(soon, now.sign(), ahead.sign()), soon


def is_rounded_zero(
    search: Any, state: State, t0: Tensor, now: Tensor, ahead: Tensor
) -> Tensor:
    """Whether event functions are zero at the start but for rounding.

    That is where the time to the zero is no more than rounding, as at the end of an
    earlier event, or where the rounding of t, x and v moves g by as much as it is.
    """
    eps, fine = torch.finfo(state[0].dtype).eps, torch.finfo(t0.dtype).eps
    wait = abs(probe(search, state)) * (now.abs() / (now.abs() + ahead.abs()))
    unit = eps * abs(search.h) + fine * t0.abs().unsqueeze(-1)
    near = wait <= NEAR * unit
    with torch.enable_grad():
        leaves = [part.detach().requires_grad_() for part in (t0, *state)]
        g = search.event(leaves[0], (leaves[1], leaves[2]))
        if not g.requires_grad:
            return near
        noise = []
        for k in range(g.shape[-1]):
            slopes = torch.autograd.grad(
                g[..., k].sum(), leaves, retain_graph=True, allow_unused=True
            )
            total = torch.zeros_like(t0)
            for part, slope, ulp in zip(leaves, slopes, (fine, eps, eps), strict=True):
                if slope is not None:
                    size = (part.detach() * slope).abs().to(t0)
                    total = total + ulp * size.reshape(*t0.shape, -1).sum(-1)
            noise.append(total)
    return near | (now.abs() <= NEAR * torch.stack(noise, -1))


def probe(search: Any, state: State) -> float:
    """A time in which a state moves by more than its rounding, but hardly at all."""
    return search.h * torch.finfo(state[0].dtype).eps ** 0.5


def refine_event(
    search: Search, state: State, t0: Tensor, found: Found
) -> tuple[Tensor, State, Tensor]:
    """Time, state and index of the event in the step, with their gradients."""
    wanted = torch.is_grad_enabled()
    count, before = found.count, found.before
    # An integer tensor times a float would be a float32.
    steps = count.to(t0) if search.per_sample else count
    start = t0 + search.h * steps
    if wanted:
        # The path again, now by the gradient route that was asked for.
        if search.per_sample:
            most = int(count.max()) if count.numel() else 0
            strides = torch.arange(most + 1, dtype=t0.dtype, device=t0.device)
            # Samples that are there already wait: steps of length 0 change nothing.
            strides = strides.minimum(steps.unsqueeze(-1))
            grid, counts = t0.unsqueeze(-1) + search.h * strides, [1] * most
        else:
            grid, counts = torch.stack([t0, start]), [count] if count else []
        before = search.flow(state, grid, counts, search.gradient) if counts else state
    with torch.no_grad():
        here = before[0].detach(), before[1].detach()
        length, index = locate(search, here, start.detach(), found)
        event_t = start.detach() + length
    if wanted:
        rate = event_rate(search, here, start.detach(), event_t, index)
        end = search.flow(
            before, torch.stack([start, event_t], -1), route=search.gradient
        )
        if rate is not None:
            g = pick(search.event(event_t, end), index)
            event_t = ImplicitTime.apply(g, event_t, rate)
        elif any(part.requires_grad for part in (start, *end)):
            raise ValueError(checks.NO_SLOPE)
    end = search.flow(before, torch.stack([start, event_t], -1), route=search.gradient)
    return event_t, end, index


def locate(
    search: Search, state: State, start: Tensor, found: Found
) -> tuple[Tensor, Tensor]:
    """Length of the last, partial step, and which of the functions is zero there."""
    count = torch.as_tensor(found.count, dtype=start.dtype, device=start.device)
    upper = torch.full_like(start, search.h)
    if search.wait < search.steps * abs(search.h):
        cut = search.strides(count + 1) - search.h * count
        upper = torch.where((search.h * (count + 1)).abs() > search.wait, cut, upper)
    return root_in_step(
        search, state, start, upper, count == 0, found.fired, found.sign, found.soon
    )


def root_in_step(
    search: Any,
    state: State,
    start: Tensor,
    upper: Tensor,
    first: Tensor,
    fired: Tensor,
    sign: Tensor,
    soon: Tensor,
) -> tuple[Tensor, Tensor]:
    """How far into a step of length ``upper`` the first event is, and which one.

    ``first`` says where the step is the first one after a start.
    """
    # In the very first step the zero at its start, if any, stays outside.
    lower = torch.where(first, probe(search, state), 0.0).to(start)
    low = search.after(state, start, lower)
    lowers = lower.unsqueeze(-1).expand(low.shape)
    at_once = first.unsqueeze(-1) & soon
    if bool(at_once.any()):
        start_g = search.after(state, start, torch.zeros_like(start))
        low = torch.where(at_once, start_g, low)
        lowers = torch.where(at_once, 0.0, lowers)
    high = search.after(state, start, upper)
    eps = torch.finfo(state[0].dtype).eps
    tolerance = 2 * eps * abs(search.h) + 2 * torch.finfo(start.dtype).eps * start.abs()
    lengths = []
    for k in range(low.shape[-1]):
        hit, left, lower = fired[..., k], sign[..., k], lowers[..., k]
        if not bool(hit.any()):
            lengths.append(torch.full_like(start, torch.inf))
            continue
        a, b = low[..., k], high[..., k]
        # Rounding may have moved a change of sign just across an end of the step.
        inside = (a.sign() == left) & (b.sign() != left)
        late = hit & (a.sign() == left) & ~inside
        # Without a change of sign there is nothing to find: an empty bracket.
        top = torch.where(hit & inside, upper, lower)

        def value(length: Tensor, k: int = k) -> Tensor:
            return search.after(state, start, length)[..., k]

        root = first_change(value, left, lower, top, a, b, tolerance)
        root = torch.where(late, upper, root)
        lengths.append(torch.where(hit, root.abs(), torch.inf))
    length, index = torch.stack(lengths, -1).min(-1)
    return length.copysign(upper), index


def event_rate(
    search: Any, state: State, start: Tensor, event_t: Tensor, index: Tensor
) -> Tensor | None:
    """dg/dt along the flow of the last step; None for a g that knows no derivative."""
    with torch.enable_grad():
        t = event_t.detach().requires_grad_()
        end = search.flow(state, torch.stack([start, t], -1))
        g = pick(search.event(t, end), index)
        if not g.requires_grad:
            return None
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
