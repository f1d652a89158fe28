"""Second-order neural ODEs ε ẍ + ẋ = f(t, x) and Momentum ResNets in PyTorch.

system     what is solved              SecondOrder, Newton, Acceleration
method     how a step is made          METHODS, or the name of an adaptive solver
gradient   how it is differentiated    GRADIENTS

and one verb, ``odeint(system, (x0, v0), t, method=…, gradient=…)``.  Networks, the
theory of what they represent, data and plots are built on these.
"""

from . import data, forcing, plot
from .adaptive import ADAPTIVE, Adaptive
from .checking import check_gradient
from .events import odeint_event
from .forcing import Forced
from .gradient import GRADIENTS, backprop, checkpoint, reversible
from .models import MomentumNet, SecondOrderODE, State
from .odeint import odeint
from .solution import Solution, Stats
from .solvers import SOLVERS
from .splitting import METHODS, Splitting
from .system import (
    Acceleration,
    Autonomous,
    Newton,
    Potential,
    SecondOrder,
    epsilon_from_gamma,
    gamma_from_epsilon,
)
from .training import fit

__version__ = "0.1.0"

__all__ = [
    # dynamics
    "Acceleration",
    "Autonomous",
    "Forced",
    "Newton",
    "Potential",
    "SecondOrder",
    "epsilon_from_gamma",
    "gamma_from_epsilon",
    # methods
    "ADAPTIVE",
    "Adaptive",
    "METHODS",
    "SOLVERS",
    "Splitting",
    # gradients
    "GRADIENTS",
    "backprop",
    "checkpoint",
    "reversible",
    # the verb and what it returns
    "Solution",
    "Stats",
    "odeint",
    "odeint_event",
    "check_gradient",
    # networks
    "MomentumNet",
    "SecondOrderODE",
    "State",
    # around them
    "data",
    "fit",
    "forcing",
    "plot",
]
