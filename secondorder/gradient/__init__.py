"""How a solve is differentiated: functions of one signature.

``gradient(plan, field, x, v, args) -> [(x, v), ...]`` runs a plan and returns the
states at its records.  All routes compute the same numbers to rounding; they differ in
what they keep.  The continuous adjoint is no function of a plan: it belongs to
torchdiffeq's solvers.
"""

from .adjoint import adjoint
from .backprop import backprop
from .checkpoint import checkpoint
from .reversible import reversible

GRADIENTS = {
    "backprop": backprop,
    "checkpoint": checkpoint,
    "reversible": reversible,
    "adjoint": adjoint,
}

__all__ = ["GRADIENTS", "adjoint", "backprop", "checkpoint", "reversible"]
