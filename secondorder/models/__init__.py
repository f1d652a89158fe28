"""Networks: second-order neural ODEs and Momentum ResNets over one machinery."""

from . import related
from .budget import MemoryReport, memory_report
from .convert import to_momentum, to_residual
from .invert import State
from .momentum_flow import MomentumFlow
from .momentum_net import MomentumNet
from .second_order_ode import SecondOrderODE

__all__ = [
    "MemoryReport",
    "MomentumFlow",
    "MomentumNet",
    "SecondOrderODE",
    "State",
    "memory_report",
    "related",
    "to_momentum",
    "to_residual",
]
