"""The language: every step and every layer is a list of moves, a plan.

    Kick    v ← v + w · f(t, x)
    Drift   x ← x + w · v
    Damp    v ← w · v
    Shear   x ← x ± Ψ(v) and Mix  x ← w · x + (1 − w) · v, of two copies
    Record  return the state here

A plan of your own needs no method.  It runs, runs back and is differentiated like those
of the library, by ``so.plan.walk`` in floating point or by any gradient route:

>>> import torch, secondorder as so
>>> from secondorder.plan import Damp, Drift, Kick, Record
>>> step = (Drift(0.05), Kick(0.1), Drift(0.05), Damp(0.99), Record())
>>> field = lambda t, x: -x
>>> x, v = torch.ones(1), torch.zeros(1)
>>> states = so.reversible(10 * step, field, x, v)
>>> len(states), round(states[-1][0].item(), 2)
(10, 0.55)
>>> so.plan.log_determinant(10 * step)  # of the whole map, for any field
-0.1005
"""

from .compile import compile_map, compile_plan, momentum_plan
from .flows import FLOWS, Flow, Numbers
from .grid import step_counts
from .moves import (
    Damp,
    Drift,
    Kick,
    Mix,
    Move,
    Plan,
    Record,
    Shear,
    evaluations,
    log_determinant,
    reverse,
    walk,
)
from .runge_kutta import RungeKutta

__all__ = [
    "FLOWS",
    "Damp",
    "Drift",
    "Flow",
    "Kick",
    "Mix",
    "Move",
    "Numbers",
    "Plan",
    "Record",
    "RungeKutta",
    "Shear",
    "compile_map",
    "compile_plan",
    "evaluations",
    "log_determinant",
    "momentum_plan",
    "reverse",
    "step_counts",
    "walk",
]
