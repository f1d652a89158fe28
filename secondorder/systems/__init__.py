"""What is solved: systems m ẍ + c ẋ = f, and the fields that drive them."""

from . import forcing
from .equations import Acceleration, FirstOrder, Newton, SecondOrder, System
from .fields import Autonomous, Forced, Potential
from .momentum import epsilon_from_gamma, gamma_from_epsilon
from .numbers import Positive
from .problem import Problem, check_problem, check_state

__all__ = [
    "Acceleration",
    "Autonomous",
    "FirstOrder",
    "Forced",
    "Newton",
    "Positive",
    "Potential",
    "Problem",
    "SecondOrder",
    "System",
    "check_problem",
    "check_state",
    "epsilon_from_gamma",
    "forcing",
    "gamma_from_epsilon",
]
