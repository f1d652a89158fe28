"""How a solve is differentiated: routes of one interface, with their options.

All routes compute the same numbers to rounding; they differ in what they keep.  The
continuous adjoint runs no plan: it belongs to torchdiffeq's solvers.
"""

import torchdiffeq

from .. import checks
from .adjoint import flag, one_tolerance, solve_adjoint, tensors, text
from .backprop import run_plainly
from .checkpoint import run_checkpointed
from .compiled import compile_stats, compiled
from .compiled.compiling import CompileStats, CompileWarning
from .gradient import Gradient, find_gradient
from .reversible import run_reversibly

backprop = Gradient("backprop", run_plainly, torchdiffeq.odeint)
checkpoint = Gradient(
    "checkpoint", run_checkpointed, allowed={"segments": checks.optional_count}
)
reversible = Gradient(
    "reversible",
    run_reversibly,
    allowed={"keep": checks.whole, "scale": checks.optional_positive},
)
adjoint = Gradient(
    "adjoint",
    run_solver=solve_adjoint,
    allowed={
        "rtol": one_tolerance,
        "atol": one_tolerance,
        "method": text,
        "params": tensors,
        "seminorm": flag,
    },
)

GRADIENTS = {g.name: g for g in (backprop, checkpoint, reversible, adjoint)}

__all__ = [
    "GRADIENTS",
    "CompileStats",
    "CompileWarning",
    "Gradient",
    "adjoint",
    "backprop",
    "checkpoint",
    "compile_stats",
    "compiled",
    "find_gradient",
    "reversible",
]
