"""Which linear maps a tied linear model represents: theory, witnesses, floors.

    Continuous, Discrete, FirstOrder     θ -> Ψ(θ): the ODE, N layers, the first order
    is_representable, represent          yes or no with the reason; a θ with Ψ(θ) = D
    max_scale, min_epsilon               what it takes to make a map representable
    loss_floor, nearest                  how close one gets to the others
    steer, steer_layers                  untied layers, which reach everything

Arrays or tensors in, float64 inside.  References: Sander, Ablin, Blondel, Peyré,
"Momentum Residual Neural Networks", ICML 2021; Culver, Proc. AMS 17 (1966); Higham,
"Functions of Matrices", SIAM 2008.
"""

from .continuous import Continuous
from .criterion import NotRepresentable, Verdict, is_representable
from .discrete import Discrete
from .first_order import FirstOrder
from .floor import LossFloor, Nearest, loss_floor, nearest
from .scaling import max_scale, min_epsilon
from .steering import Steering, steer, steer_layers
from .witness import Witness, represent

__all__ = [
    "Continuous",
    "Discrete",
    "FirstOrder",
    "LossFloor",
    "Nearest",
    "NotRepresentable",
    "Steering",
    "Verdict",
    "Witness",
    "is_representable",
    "loss_floor",
    "max_scale",
    "min_epsilon",
    "nearest",
    "represent",
    "steer",
    "steer_layers",
]
