"""The door: checks what comes in, turns names into objects, hands over.

    odeint(system, (x0, v0), t, method=…, gradient=…) -> Solution

Nothing below this file sees a name or checks an argument again.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from .adaptive import ADAPTIVE, Adaptive, solve_adaptive
from .forcing import Driven, check_covered, inward, merge, one_sided
from .gradient import GRADIENTS, adjoint, backprop
from .moves import evaluations
from .solution import Solution, Stats, quintic_hermite
from .solvers import SOLVERS, solve
from .splitting import METHODS, Splitting, compile_plan, step_counts
from .system import in_modes
from .watch import Watched, close, progress_bar


def odeint(
    system,
    state,
    t,
    *,
    method="verlet",
    step_size=None,
    gradient="backprop",
    rtol=None,
    atol=None,
    args=(),
    forcing=None,
    breakpoints=None,
    progress=False,
    check_finite=False,
):
    """Solve ε ẍ + ẋ = f(t, x), or m ẍ + c ẋ = f, from (x0, v0) through the times t.

    Parameters
    ----------
    system : SecondOrder, Newton or Acceleration
        What is solved.
    state : (Tensor, Tensor or None)
        Initial position and velocity, each ``(..., d)``; None is zero velocity.
    t : Tensor
        Times ``(n,)``, strictly increasing or decreasing, the first one that of the
        state; or ``(batch, n)``, one grid per sample along the first axis of ``x0``
        (fixed-step methods; repeat the last time to pad).
    method : str, Splitting or Adaptive, default "verlet"
        A name in ``METHODS`` (fixed steps) or ``ADAPTIVE``, an entry of these, or the
        name of one of torchdiffeq's or SciPy's solvers.
    step_size : float, optional
        Largest step: each interval of ``t`` is divided evenly into
        ⌈Δt/step_size⌉ steps.  Without it each interval is one step.
    gradient : str or callable, default "backprop"
        A name in ``GRADIENTS``, or one of these functions with its options bound
        (``functools.partial(so.reversible, keep=8)``).

    Other Parameters
    ----------------
    rtol, atol : float, optional
        Tolerances of the adaptive methods.
    args : tuple
        Further arguments of the field, ``field(t, x, *args)``; tensors among them
        receive gradients.
    forcing : callable, optional
        u(t), or samples of it as ``so.forcing.Cubic(t, u)``: the field is then called
        as ``field(t, x, u(t), *args)``, or ``field(t, x, v, u(t), *args)``.
    breakpoints : Tensor or sequence of float, optional
        Times at which the field jumps or has a kink: steps of the fixed-step methods
        end there, and keep their order.
    progress : bool, default False
        Show a bar, counted in evaluations (needs the extra ``progress``).
    check_finite : bool, default False
        Raise FloatingPointError at the first force that is not finite, with its step
        and time.  Costs one device synchronisation per evaluation.

    Returns
    -------
    Solution
        Unpacks to ``x, v``, each ``(n, *x0.shape)``; also ``.t``, ``.stats`` and, as
        ``sol(times)``, the states in between.

    Raises
    ------
    TypeError, ValueError
        For arguments that cannot be right, before anything is computed.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.SecondOrder(lambda t, x: -x, epsilon=0.1)
    >>> t = torch.linspace(0, 1, 11)
    >>> x, v = so.odeint(system, (torch.ones(3), None), t, step_size=0.01)
    >>> x.shape
    torch.Size([11, 3])

    References
    ----------
    Sander et al., "Momentum Residual Neural Networks", ICML 2021, eq. (5).
    """
    check_system(system)
    x, v = check_state(state)
    t = check_times(t, x)
    args = tuple(args)
    if forcing is not None:
        check_covered(forcing, t)
        system = Driven(system, forcing)
    name, method = find_method(method)
    route, gradient = find(gradient, GRADIENTS, "gradient", None)
    watch = partial(
        watched, check_finite=check_finite, bar=progress_bar if progress else None
    )
    if not isinstance(method, Splitting):
        check_tolerances(rtol, atol)
        check_step_size(step_size)
        if breakpoints is not None:
            raise ValueError(
                f"`breakpoints` are for fixed-step methods, and {name!r} chooses its "
                "own steps; solve from one breakpoint to the next, or use one of "
                f"{list(METHODS)}"
            )
        if isinstance(method, Adaptive):
            if step_size is not None:
                raise ValueError(
                    f"`step_size` is for fixed-step methods, but {name!r} adapts its "
                    f"steps, got {step_size!r}; give `rtol` and `atol` instead"
                )
            return solve_adaptive(
                system, x, v, t, method=method, gradient=gradient, rtol=rtol,
                atol=atol, args=args, watch=watch,
            )  # fmt: skip
        return solve(
            system, x, v, t, method=method, gradient=route, rtol=rtol, atol=atol,
            step_size=step_size, args=args, watch=watch,
        )  # fmt: skip
    check_method_fits(system, name, method, gradient, rtol, atol)
    check_step_size(step_size)
    how = {"method": method, "gradient": gradient, "args": args, "watch": watch}
    if breakpoints is None:
        return integrate(system, x, v, t, step_counts(t, step_size), **how)
    grid, keep, broken = merge(t, breakpoints)
    counts = step_counts(grid, step_size)
    whole = integrate(system, x, v, grid, counts, broken=broken, **how)
    return Solution(t, whole.x[keep], whole.v[keep], whole.stats, lambda _, t: whole(t))


def integrate(
    system, x, v, t, counts, method, gradient, args=(), watch=None, broken=None, **how
):
    """Compile the plan of a checked problem, run it, and wrap what it returns."""
    core, enter, leave = in_modes(system, x)
    plan = compile_plan(method, core, t, counts, x, **how)
    if broken is not None:
        plan = one_sided(plan, broken, t)
    cost = evaluations(plan)
    field = core.field if watch is None else watch(core.field, t, counts, cost)
    start = (x, v) if enter is None else (enter(x), enter(v))
    inner = [start, *gradient(plan, field, *start, args)]
    close(field)
    if leave is None:
        states = inner
    else:
        states = [(x, v), *((leave(y), leave(w)) for y, w in inner[1:])]
    xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))

    def inside(i, times):
        # The same steps again from the left end, this time recording each.
        fractions = torch.linspace(0, 1, counts[i] + 1, dtype=t.dtype, device=t.device)
        fine = t[i] + fractions * (t[i + 1] - t[i])
        again = compile_plan(method, core, fine, [1] * counts[i], x, **how)
        clock = fine.to(x)
        if broken is not None:
            ends = [broken[i], *[False] * (counts[i] - 1), broken[i + 1]]
            again, clock = one_sided(again, ends, fine), inward(clock, ends)
        nodes = [inner[i], *backprop(again, core.field, *inner[i], args)]
        nodes = [
            (y, w, acceleration(core, clock[k], y, w, args))
            for k, (y, w) in enumerate(nodes)
        ]
        y, w = quintic_hermite(fine, nodes, times)
        return (y, w) if leave is None else (leave(y), leave(w))

    return Solution(t, xs, vs, Stats(cost, accepted=sum(counts)), inside)


def acceleration(core, t, x, v, args):
    """ẍ = (f − c ẋ)/m."""
    seen = (x, v) if core.takes_velocity else (x,)
    force = core.field(t, *seen, *args)
    return (force - core.damping * v) / core.mass


def find_method(value):
    """Name and object of a method: fixed-step, adaptive, or another library's."""
    table = {**METHODS, **ADAPTIVE}
    return find(value, table, "method", (Splitting, Adaptive), SOLVERS)


def find(value, table, argument, kind, more=()):
    """Name and object of a method or gradient given by either."""
    if isinstance(value, str):
        if value in table:
            return value, table[value]
        if value in more:
            return value, value
        names = [*table, *more]
        raise ValueError(f"`{argument}` must be one of {names}, got {value!r}")
    fits = callable(value) if kind is None else isinstance(value, kind)
    if not fits:
        raise TypeError(
            f"`{argument}` must be a name or an entry of its table, got "
            f"{type(value).__name__}"
        )
    base = value.func if isinstance(value, partial) else value
    return next((n for n, entry in table.items() if entry is base), "custom"), value


def watched(field, t=None, counts=None, cost=None, *, check_finite, bar):
    """A field under watch where something is to be watched."""
    if cost is not None and not check_finite and bar is None:
        return field

    def locate(time):
        if counts is None or t.ndim == 2 or time.numel() != 1:
            return f"t = {time}"
        grid, now = t.detach().double().cpu(), time.double().item()
        sign = -1.0 if grid[-1] < grid[0] else 1.0
        i = int(torch.searchsorted(sign * grid, sign * now, right=True)) - 1
        i = min(max(i, 0), len(counts) - 1)
        part = (now - grid[i].item()) / (grid[i + 1] - grid[i]).item()
        step = sum(counts[:i]) + min(int(part * counts[i]), counts[i] - 1)
        return f"step {step} of {sum(counts)}, t = {now:.6g}"

    meter = None if bar is None else bar(cost, "odeint")
    return Watched(field, check_finite, locate, meter)


def check_method_fits(system, name, method, gradient, rtol=None, atol=None):
    """Raise where a splitting cannot solve the system, or cannot as it was asked to."""
    if gradient is adjoint:
        raise ValueError(
            f'`gradient` "adjoint" belongs to torchdiffeq\'s solvers, not to {name!r}; '
            'use "reversible" (constant memory, exact), "backprop" or "checkpoint"'
        )
    if rtol is not None or atol is not None:
        raise ValueError(
            f"`rtol` and `atol` have no effect on the fixed-step method {name!r}; give "
            '`step_size`, or an adaptive method such as "dopri5"'
        )
    if getattr(system, "takes_velocity", False) != method.takes_velocity:
        needs = [n for n, m in METHODS.items() if m.takes_velocity]
        raise ValueError(
            f"the system is {type(system).__name__}, whose field takes a velocity; "
            f"{name!r} would ignore it: use one of {needs} or a torchdiffeq method"
            if system.takes_velocity
            else f"{name!r} is for `Acceleration`, whose field takes a velocity; for "
            f'{type(system).__name__} use "verlet" or another method'
        )


def check_system(system):
    """Raise unless ``system`` says what is solved."""
    if all(hasattr(system, name) for name in ("field", "mass", "damping")):
        return
    what = "a module" if isinstance(system, nn.Module) else type(system).__name__
    raise TypeError(
        f"`system` must be a SecondOrder, Newton or Acceleration, got {what}; wrap a "
        "force field f(t, x) as so.SecondOrder(f, epsilon), a network f(x) as "
        "so.SecondOrder(so.Autonomous(net), epsilon)"
    )


def check_state(state):
    """Return position and velocity, the latter zero for None, or raise."""
    if isinstance(state, Tensor) or not hasattr(state, "__len__") or len(state) != 2:
        raise TypeError(
            "`state` must be the pair (x0, v0), with v0 = None for zero velocity, got "
            f"{type(state).__name__}"
        )
    x, v = state
    for name, value in {"x0": x, "v0": v}.items():
        if name == "v0" and value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}")
        if not (value.is_floating_point() or value.is_complex()):
            raise TypeError(
                f"`{name}` must be floating point, got {value.dtype}; convert it with "
                ".float() or .double()"
            )
    if v is None:
        return x, torch.zeros_like(x)
    if v.shape != x.shape or v.dtype != x.dtype or v.device != x.device:
        raise ValueError(
            f"`v0` must match `x0`: {tuple(v.shape)}, {v.dtype}, {v.device} against "
            f"{tuple(x.shape)}, {x.dtype}, {x.device}"
        )
    return x, v


def check_times(t, x):
    """Return times as floating tensor on the state's device, or raise."""
    t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
    if not t.is_floating_point():
        raise TypeError(f"`t` must be floating point, got {t.dtype}; use t.double()")
    if t.ndim not in (1, 2) or t.shape[-1] == 0:
        raise ValueError(
            f"`t` must have shape (n,) or (batch, n) with n >= 1, got {tuple(t.shape)}"
        )
    if t.ndim == 2 and (x.ndim == 0 or t.shape[0] != x.shape[0]):
        raise ValueError(
            f"`t` has {t.shape[0]} per-sample grids, but `x0` has shape "
            f"{tuple(x.shape)}; the first axes must agree"
        )
    # Read on the host, once: the number of steps depends on the values anyway.
    steps = t.detach().cpu().diff(dim=-1)
    if not bool(t.detach().isfinite().all()):
        raise ValueError("`t` must be finite, got NaN or infinity")
    if t.ndim == 1:
        monotone = bool((steps > 0).all()) or bool((steps < 0).all())
    else:
        monotone = bool(((steps >= 0).all(-1) | (steps <= 0).all(-1)).all())
    if not monotone:
        bad = int((steps * steps.reshape(-1)[0] <= 0).reshape(-1).int().argmax())
        raise ValueError(
            "`t` must be strictly increasing or strictly decreasing, but step "
            f"{bad} changes by {steps.reshape(-1)[bad]:.3g}; sort it and drop repeats"
        )
    return t.to(x.device)


def check_step_size(step_size):
    """Raise unless the step size is None or positive and finite."""
    if step_size is None:
        return
    if isinstance(step_size, Tensor):
        raise TypeError(
            "`step_size` must be a float (the number of steps depends on it); to learn "
            "times, make `t` require a gradient"
        )
    if not (step_size > 0 and math.isfinite(step_size)):
        raise ValueError(
            f"`step_size` must be positive and finite, got {step_size!r}; its sign "
            "follows the order of `t`"
        )


def check_tolerances(rtol, atol):
    """Raise unless tolerances are None or positive."""
    for name, value in {"rtol": rtol, "atol": atol}.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"`{name}` must be positive and finite, got {value!r}")
