"""The verb: checks what comes in, turns names into objects, hands over.

    odeint(system, (x0, v0), t, method=…, gradient=…) -> Solution

Nothing below this file sees a name or checks an argument again.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor

from .gradients import GRADIENTS, Gradient, find_gradient
from .methods import Method, check_fit, compile_route, find_method, with_account
from .methods.drive import check_events, march
from .methods.saving import resumable, solve_saving
from .methods.structured import solve_structured, structured
from .methods.transforms import transformable
from .monitor import Monitor
from .solution import Solution
from .systems import System, check_problem


@transformable
def odeint(
    system: System,
    state: tuple[Any, Any] | Mapping[Any, Any] | Tensor | Solution,
    t: Tensor | Sequence[float],
    *,
    method: str | Method = "verlet",
    step_size: float | None = None,
    gradient: str | Gradient | Callable[..., Any] = "backprop",
    rtol: Any = None,
    atol: Any = None,
    first_step: float | None = None,
    max_step: float | None = None,
    max_steps: int | None = None,
    norm: Any = None,
    event_fn: Any = None,
    on_event: Any = None,
    max_events: int | None = None,
    per_sample: bool = False,
    throw: bool = True,
    save: Callable[..., Any] | None = None,
    args: Sequence[Any] = (),
    forcing: Any = None,
    breakpoints: Tensor | Sequence[float] | None = None,
    progress: bool = False,
    check_finite: bool = False,
    compile: bool = False,
) -> Solution:
    """Solve ε ẍ + ẋ = f(t, x), or m ẍ + c ẋ = f, from (x0, v0) through the times t.

    Parameters
    ----------
    system : SecondOrder, Newton, Acceleration or FirstOrder
        What is solved.
    state : (Tensor, Tensor or None)
        Initial position and velocity, each ``(..., d)``; None is zero velocity.  For
        FirstOrder x0 alone, or (x0, None).  Each may be a tuple, list or dictionary of
        tensors, also nested: the field then gets and returns this structure,
        ``Solution.x`` and ``.v`` have it, and so may the numbers of the system.
        Or a ``Solution``, to go on from where it has ended, as if it had not.
    t : Tensor
        Times ``(n,)``, strictly increasing or decreasing, the first one that of the
        state; or ``(batch, n)``, one grid per sample along the first axis of ``x0``
        (fixed-step methods; repeat the last time to pad).
    method : str or Method, default "verlet"
        A name in ``METHODS`` (fixed steps), ``ADAPTIVE`` or ``SOLVERS`` (torchdiffeq's
        and SciPy's), or an entry of these.
    step_size : float, optional
        Largest step: each interval of ``t`` is divided evenly into
        ⌈Δt/step_size⌉ steps.  Without it each interval is one step.
    gradient : str or Gradient, default "backprop"
        A name in ``GRADIENTS``, or one of these with its options, such as
        ``so.reversible(keep=8)``.

    Other Parameters
    ----------------
    rtol, atol : float or Tensor, optional
        Tolerances of the adaptive methods: numbers, tensors that broadcast with ``x0``,
        or a pair of these for x and for v.
    first_step, max_step : float, optional
        Lengths of the first step to try and of the longest one, for adaptive methods.
    max_steps : int, optional
        Steps, rejected ones included, after which an adaptive solve gives up.
    norm : {"rms", "max"} or callable, optional
        How the errors of all entries, in units of their tolerances, make one number
        that must stay below 1; a function gets them as one tensor ``(m,)``.
    event_fn : callable, Event, or list of these, optional
        ``event_fn(t, x, v) -> g``: the solve ends where a g changes sign, and the state
        there is the last one; where none does, it ends with ``t``.  ``so.Event`` adds a
        direction and events that are recorded only, as SciPy's attributes
        ``direction`` and ``terminal`` do.  All are in ``solution.events``.
    on_event : callable, or list with one (or None) for each event, optional
        ``on_event(t, x, v) -> (x, v)``: the solve goes on from there instead.
    max_events : int, optional
        End the solve at so many events.
    per_sample : bool, default False
        Each sample along the first axis of ``x0`` has events of its own, and with an
        adaptive method steps of its own.  Fields and event functions then get a time
        for each sample: ``(batch, 1, ...)`` and ``(batch,)``.
    throw : bool, default True
        Whether a sample whose step underflows, or whose events pile up, ends the solve
        with an error; else its states are NaN from there on, and ``solution.status``
        says why.
    save : callable, optional
        ``save(t, x, v) -> tensor`` (or a tuple or dictionary of these) is kept at each
        time, as ``solution.saved``, in place of all states: ``solution.x`` and ``.v``
        are then the last one, ``(1, *x0.shape)``.
    args : tuple
        Further arguments of the field, ``field(t, x, *args)``; tensors among them
        receive gradients.
    forcing : callable, optional
        u(t), or samples of it as ``so.forcing.Cubic(t, u)``: the field is then called
        as ``field(t, x, u(t), *args)``, or ``field(t, x, v, u(t), *args)``.
    breakpoints : Tensor or sequence of float, optional
        Times at which the field jumps or has a kink: steps end there, see the field of
        their own side, and keep their order.
    progress : bool, default False
        Show a bar, counted in evaluations (needs the extra ``progress``).
    check_finite : bool, default False
        Raise FloatingPointError at the first force that is not finite, with its step
        and time.  Costs one device synchronisation per evaluation.
    compile : bool, default False
        Run the steps compiled (``torch.compile``), with the gradients ``"backprop"``
        and ``"reversible"``; what cannot be compiled runs as without, after a
        ``CompileWarning``.  ``sol.stats.compiled`` says what it has cost.

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
    if structured(system, state):
        return cast(Solution, solve_structured(odeint, locals()))
    monitor = Monitor(check_finite, progress)
    problem = check_problem(system, state, t, args, forcing, breakpoints, monitor)
    how, route = find_method(method), find_gradient(gradient, GRADIENTS)
    control = {
        "first_step": first_step, "max_step": max_step, "max_steps": max_steps,
        "norm": norm,
    }  # fmt: skip
    route = compile_route(route, how, compile)
    marching = event_fn is not None or per_sample
    options = check_fit(
        how, route, problem, step_size, rtol, atol, marching=marching, **control
    )
    solve = partial(how.solve, gradient=route, options=options)
    if marching:
        watched = check_events(
            how, problem, options, event_fn, on_event, max_events, per_sample
        )
        solve = partial(
            march, how, route=route, options=options, events=watched,
            per_sample=per_sample, max_events=max_events, throw=throw,
        )  # fmt: skip
    elif on_event is not None or max_events is not None or not throw:
        raise ValueError(
            "`on_event` and `max_events` need an `event_fn`, `throw=False` needs that "
            "or `per_sample=True`"
        )
    if save is not None:
        whole = marching or progress or not resumable(how)
        solution = solve_saving(solve, problem, save, whole)
    else:
        solution = solve(problem)
    return with_account(solution, route, problem.system.field)
