"""Runge-Kutta-Nyström pairs: high order per evaluation, for adaptive steps.

A Nyström method solves y'' = F(t, y), without y' on the right, and reuses that to reach
order p with fewer evaluations than a method for y' = F(t, y).  Damping is brought to
that form by a change of variable local to each step from t0 (λ = c/m, μ = λ/2):

    y(τ) = e^{μτ} x(t0 + τ)      =>      y'' = μ² y + e^{μτ} f(t0 + τ, e^{−μτ} y)/m

which is smooth, per coordinate, and starts afresh at every step, so nothing grows.

    Y_i = y + c_i h y' + h² Σ_j a_ij F_j,   F_i = F(t0 + c_i h, Y_i)
    y_1 = y + h y' + h² Σ_i b_i (1 − c_i) F_i,   y'_1 = y' + h Σ_i b_i F_i

with a second set of weights b̂ for the error.  These steps cannot be undone: they
differentiate by backprop or in segments.

Reference: Dormand, El-Mikkawy & Prince, IMA J. Numer. Anal. 7 (1987), 235-250.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import differentiated
from ..gradients import Gradient
from ..gradients.checkpoint import in_segments
from ..monitor import MonitoredField
from ..plan.flows import per_interval
from ..systems.equations import System, as_double
from .adaptive import Adaptive, Pull, each_sample, spread, time_of
from .nystrom_tables import DP6, DP8, DP12, Tableau
from .step_size import Path, interval


@dataclass(frozen=True)
class Nystrom(Adaptive):
    """A Nyström pair.

    Parameters
    ----------
    table : Tableau
        The numbers of a step.

    Examples
    --------
    More steps than usual, for a very long orbit:

    >>> from dataclasses import replace
    >>> import secondorder as so
    >>> patient = replace(so.ADAPTIVE["rkn8"], max_steps=10**7)
    """

    table: Tableau = DP8

    gradients = frozenset({"backprop", "checkpoint"})

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of f per accepted step."""
        return self.table.evaluations_per_step

    def stepper(self, core: System, like: Tensor, pull: Pull) -> Callable[..., Any]:
        """The function that takes one step."""
        return nystrom_step(self.table, core, like, pull)

    def replay(
        self,
        core: System,
        path: Path,
        start: tuple[Tensor, Tensor],
        t: Tensor,
        gradient: Gradient,
        args: Sequence[Any],
        broken: Sequence[bool] = (),
    ) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """The accepted steps again, of which only every so-many-th state is kept."""
        field = MonitoredField(core.field)
        pull = Pull(field, args)
        step = self.stepper(core, start[0], pull)
        steps = list(zip(path.nodes, path.nodes[1:], strict=False))
        segments = gradient.options.get("segments") or math.sqrt(len(steps) or 1)
        size = max(1, math.ceil(len(steps) / segments))
        works = [steps[first : first + size] for first in range(0, len(steps), size)]

        def segment(work: Any, x: Tensor, v: Tensor) -> Any:
            state, states = (x, v, None), []
            for (i, begin), (_, end) in work:
                if pull.window.enter(t, broken, i) and begin == 0:
                    state = (*state[:2], None)
                state, _ = step(*interval(t, i, begin, end or 1.0), state)
                states += [state[:2]] if end == 0 else []
            return states, state[:2]

        states = [start, *in_segments(segment, works, start, core.field)]
        return states, field.evaluations


NYSTROM = (
    Nystrom(
        name="rkn6",
        order=6,
        companion=4,
        table=DP6,
        damping_limit=30.0,
        summary="fewest evaluations at loose tolerances",
    ),
    Nystrom(
        name="rkn8",
        order=8,
        companion=6,
        table=DP8,
        damping_limit=30.0,
        summary="fewest evaluations at tolerances from 1e-5 to 1e-9",
    ),
    Nystrom(
        name="rkn12",
        order=12,
        companion=10,
        table=DP12,
        damping_limit=30.0,
        summary="fewest evaluations at the tightest tolerances and on long orbits",
    ),
)


def nystrom_step(
    table: Tableau, core: System, like: Tensor, pull: Pull
) -> Callable[..., Any]:
    """Return the function that takes one step of a pair.

    Parameters
    ----------
    table : Tableau
    core : System
        The equation, for its mass and damping.
    like : Tensor
        The position, whose dtype, device and shape the numbers follow.
    pull : callable
        ``pull(time, x)``, the force.

    Returns
    -------
    callable
        ``step(t, h, (x, v, g)) -> ((x, v, g), (ex, ev, ...))`` from the force g at the
        start to that at the end (None if not known), with the estimated errors; more
        than two are further measures of the velocity's.
    """
    mass, damping = as_double(core.mass), as_double(core.damping)
    mu = damping / mass / 2
    damped = isinstance(mu, torch.Tensor) or mu != 0
    own = mu.to(like) if isinstance(mu, torch.Tensor) else mu
    inverse_mass = (
        1 / mass if not isinstance(mass, torch.Tensor) else (1 / mass).to(like)
    )
    nodes = torch.tensor(table.nodes, dtype=torch.float64, device="cpu")
    b = torch.tensor(table.weights, dtype=torch.float64, device="cpu")
    d = b - torch.tensor(table.companion, dtype=torch.float64, device="cpu")
    stages = [
        torch.tensor(row, dtype=torch.float64, device="cpu").to(like)
        for row in table.stages
    ]
    if table.shares_last:
        stages.append((b * (1 - nodes))[:-1].to(like))
    ends, errors = (torch.stack([w * (1 - nodes), w]).to(like) for w in (b, d))
    check = torch.tensor(table.check, dtype=torch.float64, device="cpu").to(like)

    def growth(h: Tensor) -> Sequence[Any]:
        passed = h * spread(nodes, h)
        if isinstance(mu, torch.Tensor) and not h.ndim:
            passed = passed.reshape(-1, *[1] * mu.ndim).to(mu.device)
        return per_interval(torch.exp(mu * passed), like)

    def step(t: Tensor, h: Any, state: Any) -> Any:
        x, v, g = state
        t, h = each_sample(t, like), each_sample(h, like)
        times = time_of(t + h * spread(nodes, h), like).unbind()
        grow: Any = growth(h) if damped else None
        slope = v + own * x if damped else v
        h = h.to(like) if differentiated(h) or h.ndim else h.item()
        forces: list[Tensor] = []
        for i, time in enumerate(times):
            y = x
            if i > 0:
                y = x + table.nodes[i] * h * slope
                y = y + h * h * combine(stages[i - 1], forces)
            if i > 0 or g is None:
                g = pull(time, y / grow[i] if damped else y)
            push = inverse_mass * g
            forces.append(own * own * y + grow[i] * push if damped else push)
        dx, dv = combine(ends, forces)
        y, w = x + h * slope + h * h * dx, slope + h * dv
        with torch.no_grad():
            found = [f.detach() for f in forces]
            ey, ew = combine(errors, found)
            more = [h * combine(check, found)] if table.check else []
            ey, ew = h * h * ey, h * ew
            if damped:
                ey = ey / grow[-1]
                ew = ew / grow[-1] - own * ey
                more = [e / grow[-1] for e in more]
        if damped:
            y = y / grow[-1]
            w = w / grow[-1] - own * y
        return (y, w, g if table.shares_last else None), (ey, ew, *more)

    return step


def combine(weights: Tensor, forces: list[Tensor]) -> Tensor:
    """Σ_i w_i F_i, one sum for each row of weights."""
    total = weights @ torch.stack(forces).reshape(len(forces), forces[0].numel())
    return total.reshape((*weights.shape[:-1], *forces[0].shape))
