"""Second-order neural ODEs ε ẍ + ẋ = f(t, x) and Momentum ResNets in PyTorch.

system     what is solved              SecondOrder, Newton, Acceleration, FirstOrder
method     how a step is made          METHODS, ADAPTIVE, SOLVERS, by name or as objects
gradient   how it is differentiated    GRADIENTS, by name or as so.reversible(keep=8)

and one verb, ``odeint(system, (x0, v0), t, method=…, gradient=…)``.  Networks, the
theory of what they represent, data and plots are built on these.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from . import data, plan, plot
from .check_gradient import check_gradient
from .events import odeint_event
from .gradients import (
    GRADIENTS,
    CompileStats,
    CompileWarning,
    Gradient,
    adjoint,
    backprop,
    checkpoint,
    compile_stats,
    compiled,
    reversible,
)
from .methods import (
    ADAPTIVE,
    COUPLED,
    METHODS,
    SOLVERS,
    Adaptive,
    Coupled,
    Event,
    Splitting,
)
from .models import (
    MomentumFlow,
    MomentumNet,
    SecondOrderODE,
    State,
    memory_report,
    related,
    to_momentum,
    to_residual,
)
from .odeint import odeint
from .plan import RungeKutta
from .solution import DenseOutput, Solution, Stats
from .systems import (
    Acceleration,
    Autonomous,
    FirstOrder,
    Forced,
    Newton,
    Positive,
    Potential,
    SecondOrder,
    System,
    epsilon_from_gamma,
    forcing,
    gamma_from_epsilon,
)
from .training import (
    Ensemble,
    GaussNewton,
    History,
    Recording,
    Shooting,
    ensemble,
    fit,
    misfit,
)

__version__ = "0.1.0"

__all__ = [
    # dynamics
    "Acceleration",
    "Autonomous",
    "FirstOrder",
    "Forced",
    "Newton",
    "Positive",
    "Potential",
    "SecondOrder",
    "System",
    "epsilon_from_gamma",
    "gamma_from_epsilon",
    # methods
    "ADAPTIVE",
    "Adaptive",
    "COUPLED",
    "Coupled",
    "METHODS",
    "RungeKutta",
    "SOLVERS",
    "Splitting",
    # gradients
    "GRADIENTS",
    "Gradient",
    "adjoint",
    "backprop",
    "checkpoint",
    "compile_stats",
    "compiled",
    "CompileStats",
    "CompileWarning",
    "reversible",
    # the verb and what it returns
    "DenseOutput",
    "Event",
    "Solution",
    "Stats",
    "odeint",
    "odeint_event",
    "check_gradient",
    # networks
    "MomentumFlow",
    "MomentumNet",
    "SecondOrderODE",
    "State",
    "memory_report",
    "to_momentum",
    "to_residual",
    # around them
    "data",
    "Ensemble",
    "GaussNewton",
    "History",
    "Recording",
    "Shooting",
    "ensemble",
    "fit",
    "forcing",
    "misfit",
    "plan",
    "plot",
    "related",
    "representability",
]


def __getattr__(name: str) -> _Any:
    """Load the linear theory, which needs SciPy's decompositions, at first use."""
    if name == "representability":
        return _import_module(".representability", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
