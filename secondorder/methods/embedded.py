"""Embedded pairs: splittings that measure their error on the forces they have.

A pair of errors (e_x, e_v) goes through the same flows as (x, v), and kick i adds
d_i h f_i to e_v, so that damping is exact in it, too.  The accepted steps are a plan
like any other: every gradient route differentiates them, ``reversible`` included.

References: Blanes & Moan, J. Comput. Appl. Math. 142 (2002), tables 2-3; Blanes, Casas
& Thalhammer, "Splitting and composition methods with embedded error estimators", Appl.
Numer. Math. 146 (2019), for estimates that reuse the stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients import Gradient
from ..plan.compile import Momentum, compile_plan
from ..plan.flows import FLOWS, Numbers, per_interval, phi
from ..plan.moves import Drift, Move, Record, evaluations
from ..systems.equations import System, as_double
from .adaptive import Adaptive, Pull, State, each_sample, spread, time_of
from .splitting import Splitting
from .step_size import Path, node_times
from .tables import SPLITTINGS

TABLES = {m.name: m for m in SPLITTINGS}


@dataclass(frozen=True)
class Embedded(Adaptive):
    """A splitting with a companion on the same forces; its steps can be undone.

    Parameters
    ----------
    table : Splitting
        Of kicks B and flights A, kick first.
    weights : tuple of float
        d_i, kick by kick.
    """

    table: Splitting = TABLES["blanes_moan4"]
    weights: tuple[float, ...] = ()

    @property
    def evaluations_per_step(self) -> int:
        """Evaluations of f per accepted step."""
        return self.table.evaluations_per_step

    def stepper(self, core: System, like: Tensor, pull: Pull) -> Callable[..., Any]:
        """One step of kicks and damped flights, with the companion's difference."""
        mass, damping = as_double(core.mass), as_double(core.damping)
        heavy = mass.to(like) if isinstance(mass, Tensor) else mass
        momentum = Momentum(heavy)
        kicks = [w for flow, w in self.table.flows if flow == "B"]
        flights = [w for flow, w in self.table.flows if flow == "A"]
        b, d, a = (
            torch.tensor(w, dtype=torch.float64, device="cpu")
            for w in (kicks, self.weights, flights)
        )
        nodes = torch.cat([b.new_zeros(1), a.cumsum(0)[:-1], b.new_ones(1)])

        def step(t: Tensor, h: Any, state: Any) -> Any:
            x, v, g = state
            p, found = momentum.of_velocity(v), []
            t, h = each_sample(t, like), each_sample(h, like)
            times = time_of(t + h * spread(nodes, h), like).unbind()
            numbers = Numbers(self.table, h * spread(a, h), mass, damping, like)
            flows = FLOWS["A"].moves(numbers, 1.0)
            push = per_interval(h * spread(b, h), like)
            for i, time in enumerate(times):
                for move in flows[i - 1] if i > 0 else ():
                    x, p = apply_flight(move, x, p)
                if i > 0 or g is None:
                    g = pull(time, x)
                p = p + push[i] * g
                found.append(g.detach())
            with torch.no_grad():
                kicks, rest = h * spread(d, h), h * spread(1 - nodes, h)
                error = difference(kicks, rest, mass, damping, found)
            return (x, momentum.velocity(p), g), error

        return step

    def replay(
        self,
        core: System,
        path: Path,
        start: State,
        t: Tensor,
        gradient: Gradient,
        args: Sequence[Any],
        broken: Sequence[bool] = (),
    ) -> tuple[list[State], int]:
        """The accepted steps as a plan, through a gradient route; states and cost."""
        fine, counts = node_times(t, path.nodes), [1] * (len(path.nodes) - 1)
        jumps = [broken[i] and part == 0 for i, part in path.nodes] if broken else None
        plan = compile_plan(self.table, core, fine, counts, start[0], broken=jumps)
        asked = iter([fraction == 0 for _, fraction in path.nodes[1:]])
        plan = tuple(m for m in plan if not isinstance(m, Record) or next(asked))
        states = gradient.run(plan, core.field, *start, args)
        return [start, *states], evaluations(plan)


def difference(
    kicks: Tensor, rest: Tensor, mass: Any, damping: Any, found: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The companion's (x, v) less the method's.

    Kick i of weight d_i h flies for the rest s_i of the step, so e_x = Σ d_i h (s_i/m)
    φ(λ s_i) f_i and e_v = Σ d_i h e^{−λ s_i} f_i / m: the flights add up.
    """
    forces = torch.stack(list(found))
    column = (-1, *[1] * (forces.ndim - 1))
    kicks, rest = (
        w.to(forces).reshape(column) if w.ndim == 1 else w.to(forces)
        for w in (kicks, rest)
    )
    z = rest * (damping / mass)
    weights = kicks * rest / mass * phi(z), kicks * torch.exp(-z) / mass
    return tuple((w.to(forces) * forces).sum(0) for w in weights)


def apply_flight(move: Move, x: Tensor, p: Tensor) -> State:
    """Part of a damped flight."""
    if isinstance(move, Drift):
        return x + move.weight * p, p
    return x, move.weight * p  # type: ignore[union-attr]


def antisymmetric(*half: float) -> tuple[float, ...]:
    """The weights d_i from the first half; a middle one, which is 0, ends that."""
    rest = half[:-1] if half[-1] == 0 else half
    return (*half, *(-d for d in reversed(rest)))


# A_ij = b_j (c_i − c_j) for j < i, of the kicks' times c_i.  The companion has order 3
# where Σd = Σdc = Σdc² = Σd(A1) = 0.  Of all such d the shortest antisymmetric one is
# taken, scaled to Σdc³ = 0.01; the symmetric ones see an error that is too small.
_THREE = (-0.0639705958483201, 0.0629382242071427, -0.0455629912375817)
# Order 5 is nine conditions more, from Σdc³ to Σd(A1)², the trees of Nyström methods.
# Six kicks and their mirror image leave two antisymmetric d: the shortest one again,
# scaled to Σdc⁵ = 0.01.
_FIVE = (
    -0.3941898062646012,
    0.8679673698039815,
    -0.444319727021864,
    0.1354173945256622,
    0.03343971808799567,
    -1.327007885713362,
)

EMBEDDED = (
    Embedded(
        name="adaptive",
        order=4,
        companion=3,
        weights=antisymmetric(*_THREE, 0.0),
        damping_limit=TABLES["blanes_moan4"].damping_limit,
        summary="reversible: every gradient route replays the accepted steps",
    ),
    Embedded(
        name="adaptive6",
        order=6,
        companion=5,
        table=TABLES["blanes_moan6"],
        weights=antisymmetric(*_FIVE),
        damping_limit=TABLES["blanes_moan6"].damping_limit,
        summary="the same at order 6: reversible at tight tolerances",
    ),
)
