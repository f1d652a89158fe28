"""Adaptive methods: pairs that share their forces, and the accepted steps kept.

``"adaptive"`` embeds an order-3 companion in Blanes and Moan's order 4: a pair of
errors (e_x, e_v) goes through the same flows as (x, v), and kick i adds d_i h f_i to
e_v, so that damping is exact in it, too.  Its accepted steps are a plan like any other:
every gradient route differentiates the steps that were taken, ``reversible`` included.

The Nyström pairs ``"rkn6"``, ``"rkn8"`` and ``"rkn12"`` need fewer evaluations, but
their steps cannot be undone: they differentiate by backprop or in segments.

Reference: Blanes & Moan, J. Comput. Appl. Math. 142 (2002), table 2.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from .control import Control, interval, march, node_times, relative_size
from .gradient import adjoint, backprop, checkpoint
from .gradient.checkpoint import two_contexts
from .gradient.replay import modules_of
from .moves import Drift, Kick, Record, evaluations, force
from .nystrom import DP6, DP8, DP12, Nystrom, nystrom_step
from .solution import Solution, Stats
from .splitting import METHODS, Splitting, compile_plan, flow_moves, phi, spread
from .system import in_modes, plain
from .watch import Watched, close


@dataclass(frozen=True)
class Adaptive:
    """An adaptive method: a pair of methods, and the limits of its steps.

    Parameters
    ----------
    order, companion : int
        Orders of the method and of the one its error is measured against.
    table : Splitting or Nystrom
        The numbers of a step.
    weights : tuple of float
        For a splitting: d_i, kick by kick.
    damping_limit : float
        Largest h·c/m; longer steps are cut.
    max_steps : int
        Steps, accepted or rejected, after which a solve gives up.
    summary : str
        One line saying when to choose it.

    Examples
    --------
    More steps than usual, for a very long orbit:

    >>> from dataclasses import replace
    >>> import secondorder as so
    >>> patient = replace(so.ADAPTIVE["rkn8"], max_steps=10**7)
    """

    order: int
    companion: int
    table: Splitting | Nystrom
    weights: tuple[float, ...] = ()
    damping_limit: float = math.inf
    max_steps: int = 100_000
    summary: str = ""

    @property
    def evaluations_per_step(self):
        """Evaluations of f per accepted step."""
        return self.table.evaluations_per_step


# With the kicks' times c_i and ã_i = Σ_{j<i} b_j (c_i − c_j), order 3 of the companion
# is Σd = Σdc = Σdc² = Σdã = 0.  Of all such d the shortest antisymmetric one is taken,
# scaled to Σdc³ = 0.01; the symmetric ones see an error that is too small.
_HALF = (-0.0639705958483201, 0.0629382242071427, -0.0455629912375817)

ADAPTIVE = {
    "adaptive": Adaptive(
        order=4,
        companion=3,
        table=METHODS["blanes_moan4"],
        weights=(*_HALF, 0.0, *(-d for d in reversed(_HALF))),
        damping_limit=METHODS["blanes_moan4"].damping_limit,
        summary="reversible: every gradient route replays the accepted steps",
    ),
    "rkn6": Adaptive(
        order=6,
        companion=4,
        table=DP6,
        damping_limit=30.0,
        summary="fewest evaluations at loose tolerances",
    ),
    "rkn8": Adaptive(
        order=8,
        companion=6,
        table=DP8,
        damping_limit=30.0,
        summary="fewest evaluations at tolerances from 1e-5 to 1e-9",
    ),
    "rkn12": Adaptive(
        order=12,
        companion=10,
        table=DP12,
        damping_limit=30.0,
        summary="fewest evaluations at the tightest tolerances and on long orbits",
    ),
}


def solve_adaptive(system, x, v, t, *, method, gradient, rtol, atol, args, watch):
    """Solve with steps chosen by an error estimate.

    Parameters
    ----------
    system, x, v, t, args
        As checked by ``odeint``.
    method : Adaptive
    gradient : callable
        An entry of ``GRADIENTS``, perhaps with options bound.
    rtol, atol : float or None
        1e-7 and 1e-9 by default, 1e-5 and 1e-6 below float64.
    watch : callable
        Wraps a field in a ``Watched``.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        For a system, a grid or a gradient that the method cannot take.
    RuntimeError
        If the step underflows or the steps run out.

    Notes
    -----
    The steps are differentiated, the choice of their lengths is not.
    """
    core, enter, leave = in_modes(system, x)
    check(method, core, gradient, t)
    double = x.dtype in (torch.float64, torch.complex128)
    rtol = (1e-7 if double else 1e-5) if rtol is None else rtol
    atol = (1e-9 if double else 1e-6) if atol is None else atol
    control = controller(method, core, relative_size(rtol, atol, leave))
    field: Watched = watch(core.field)
    pull, grid = forces(field, args), t.double().cpu()
    y, w = (x, v) if enter is None else (enter(x), enter(v))
    first = pull(t[0].to(x), y)
    wanted = wants((y, w, t, first, core.mass, core.damping, *args))
    direct = base(gradient) is backprop
    with torch.set_grad_enabled(wanted and direct):
        first = first if direct else first.detach()
        slopes = partial(derivative, core, pull)
        step = stepper(method, core, x, pull)
        path = march(step, control, (y, w, first), slopes, grid)
    close(field)
    inner, cost = path.states, field.evaluations
    if wanted and not direct:
        again = replay if isinstance(method.table, Splitting) else replay_segments
        inner, more = again(method, core, path, (y, w), grid, gradient, args)
        cost += more
    outside = partial(map_states, leave)

    def inside(i, times):
        # The accepted steps again, and part of one to each time: as accurate as the
        # method, which an interpolant of x, v and the acceleration is not at order 8.
        step = stepper(method, core, x, forces(core.field, args))
        found = outside(partial_steps(step, path, inner[i], i, grid, times))
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    states = [(x, v), *outside(inner[1:])]
    xs, vs = (torch.stack(parts) for parts in zip(*states, strict=True))
    return Solution(t, xs, vs, Stats(cost, path.accepted, path.rejected), inside)


def check(method, core, gradient, t):
    """Raise for what an adaptive method cannot take."""
    name = name_of(method)
    if core.takes_velocity:
        raise ValueError(
            f"{name} is for forces that do not depend on the velocity; for an "
            'Acceleration take "velocity_doubling4" with a `step_size`, or "dopri5"'
        )
    if t.ndim == 2:
        raise ValueError(
            f"{name} takes the same steps for all samples, but `t` has shape "
            f"{tuple(t.shape)}; use a 1-D `t`, or a fixed-step method"
        )
    route = base(gradient)
    if route is adjoint:
        raise ValueError(
            '`gradient` "adjoint" belongs to torchdiffeq\'s solvers, not to '
            f'{name}; use "backprop", "checkpoint" or, with "adaptive", "reversible"'
        )
    plan = isinstance(method.table, Splitting)
    if not plan and route not in (backprop, checkpoint):
        raise ValueError(
            f"the steps of {name} cannot be undone, so `gradient` must be "
            '"backprop" or "checkpoint"; for constant memory take method="adaptive"'
        )


def controller(method, core, size):
    """The limits of the steps of one solve."""
    rate = plain(core.damping) / plain(core.mass)
    rate = rate.detach().abs().max().item() if isinstance(rate, Tensor) else rate
    limit = method.damping_limit * (1 - 1e-9)  # what is at the limit may round above
    largest = limit / rate if rate > 0 else math.inf
    name = name_of(method)

    def words(x):
        reach = x.detach().abs().max().item() if x.numel() else 0.0
        return f"{name}, max |x| = {reach:.3g}, max c/m = 1/ε = {rate:.3g}"

    return Control(method.companion + 1, size, largest, method.max_steps, words)


def stepper(method, core, like, pull):
    """The function that takes one step; see ``nystrom_step``."""
    if isinstance(method.table, Splitting):
        return splitting_step(method, core, like, pull)
    return nystrom_step(method.table, core, like, pull)


def splitting_step(method, core, like, pull):
    """One step of kicks and damped flights, with the companion's difference."""
    mass, damping = plain(core.mass), plain(core.damping)
    heavy = mass.to(like) if isinstance(mass, Tensor) else mass
    kicks = [w for flow, w in method.table.flows if flow == "B"]
    flights = [w for flow, w in method.table.flows if flow == "A"]
    b, d, a = (torch.tensor(w, dtype=torch.float64) for w in
               (kicks, method.weights, flights))  # fmt: skip
    nodes = torch.cat([b.new_zeros(1), a.cumsum(0)[:-1], b.new_ones(1)])

    def step(t, h, state):
        x, v, g = state
        p, found = heavy * v, []
        times = (t + h * nodes).to(like).unbind()
        flows = flow_moves(method.table, "A", 1.0, h * a, mass, damping, like, None)
        push = spread(h * b, like)
        for i, time in enumerate(times):
            for move in flows[i - 1] if i > 0 else ():
                x, p = fly(move, x, p)
            if i > 0 or g is None:
                g = pull(time, x)
            p = p + push[i] * g
            found.append(g.detach())
        with torch.no_grad():
            error = difference(h * d, h * (1 - nodes), mass, damping, found)
        return (x, p / heavy, g), error

    return step


def difference(kicks, rest, mass, damping, forces):
    """The companion's (x, v) less the method's.

    Kick i of weight d_i h flies for the rest s_i of the step, so e_x = Σ d_i h (s_i/m)
    φ(λ s_i) f_i and e_v = Σ d_i h e^{−λ s_i} f_i / m: the flights add up.
    """
    forces = torch.stack(forces)
    column = (-1, *[1] * (forces.ndim - 1))
    kicks, rest = (w.to(forces).reshape(column) for w in (kicks, rest))
    z = rest * (damping / mass)
    weights = kicks * rest / mass * phi(z), kicks * torch.exp(-z) / mass
    return tuple((w.to(forces) * forces).sum(0) for w in weights)


def fly(move, x, p):
    """Part of a damped flight."""
    if isinstance(move, Drift):
        return x + move.weight * p, p
    return x, move.weight * p


def replay(method, core, path, start, t, gradient, args):
    """The accepted steps as a plan, through a gradient route; states and cost."""
    fine, counts = node_times(t, path.nodes), [1] * (len(path.nodes) - 1)
    plan = compile_plan(method.table, core, fine, counts, start[0])
    asked = iter([fraction == 0 for _, fraction in path.nodes[1:]])
    plan = tuple(m for m in plan if not isinstance(m, Record) or next(asked))
    states = gradient(plan, core.field, *start, args)
    return [start, *states], evaluations(plan)


def replay_segments(method, core, path, start, t, gradient, args):
    """The accepted steps again, of which only every so-many-th state is kept."""
    field = Watched(core.field)
    step = stepper(method, core, start[0], forces(field, args))
    steps = list(zip(path.nodes, path.nodes[1:], strict=False))
    segments = getattr(gradient, "keywords", {}).get("segments")
    size = max(1, math.ceil(len(steps) / (segments or math.sqrt(len(steps) or 1))))

    def segment(first, x, v):
        state, states = (x, v, None), []
        for (i, begin), (_, end) in steps[first : first + size]:
            now, h = interval(t, i, begin, end or 1.0)
            state, _ = step(now, h, state)
            states += [state[:2]] if end == 0 else []
        return states, state[:2]

    states, last = [start], start
    contexts = partial(two_contexts, modules_of(core.field))
    for first in range(0, len(steps), size):
        found, last = torch_checkpoint(
            segment, first, *last, use_reentrant=False, context_fn=contexts
        )
        states += found
    return states, field.evaluations


def partial_steps(step, path, start, i, t, times):
    """The states at times inside interval i, each by a step from the node before."""
    fractions = [f for k, f in path.nodes if k == i]
    span = t[i + 1] - t[i]
    states = [(*start, None)]
    for begin, end in zip(fractions, fractions[1:], strict=False):
        states.append(step(*interval(t, i, begin, end), states[-1])[0])
    found = []
    for time in times.double().cpu():
        part = ((time - t[i]) / span).item()
        k = max((k for k, f in enumerate(fractions) if f <= part), default=0)
        now = t[i] + fractions[k] * span
        found.append(step(now, time - now, states[k])[0][:2])
    return found


def derivative(core, pull, time, state, first=None):
    """(v, a) with a = (f − c v)/m, from the force where it is known."""
    x, v = state
    value = pull(torch.as_tensor(time).to(x), x) if first is None else first
    return v, ((value - core.damping * v) / core.mass).to(v.dtype)


def forces(field, args):
    """Return ``pull(time, x)``, the checked force in the dtype of the state."""

    def pull(time, x):
        value = force(field, Kick(1.0, time), x, None, args)
        return value if value.dtype == x.dtype else value.to(x.dtype)

    return pull


def map_states(leave, states):
    """States in the coordinates of the user."""
    return states if leave is None else [(leave(y), leave(w)) for y, w in states]


def wants(numbers):
    """Whether any of these is to be differentiated."""
    return torch.is_grad_enabled() and any(
        isinstance(n, Tensor) and n.requires_grad for n in numbers
    )


def base(gradient):
    """A gradient route without its options."""
    return gradient.func if isinstance(gradient, partial) else gradient


def name_of(method):
    """The name of a method in messages."""
    return next((f'"{n}"' for n, m in ADAPTIVE.items() if m == method), "this method")
