"""Which linear maps a tied linear model represents: theory, witnesses, floors.

    Continuous, Discrete, FirstOrder     θ -> Ψ(θ): the ODE, N layers, the first order
    is_representable, represent          yes or no with the reason; a θ with Ψ(θ) = D
    max_scale, min_epsilon               what it takes to make a map representable
    loss_floor, nearest                  how close one gets to the others
    min_norm                             how large θ has to be
    advise, extend                       where to start; one extra channel
    steer, steer_layers                  untied layers, which reach everything
    of, network_of, integrate            from a model to its numbers, and back
    planar_probability                   how likely a random 2 × 2 matrix is reached

Arrays or tensors in, float64 inside.  References: Sander, Ablin, Blondel, Peyré,
"Momentum Residual Neural Networks", ICML 2021; Culver, Proc. AMS 17 (1966); Higham,
"Functions of Matrices", SIAM 2008.
"""

from .advice import Advice, advise
from .bridge import integrate, network_of, of
from .chance import planar_probability
from .channel import extend
from .continuous import Continuous
from .criterion import NotRepresentable, Verdict, is_representable
from .discrete import Discrete
from .first_order import FirstOrder
from .floor import LossFloor, Nearest, loss_floor, nearest
from .norm import min_norm
from .scaling import max_scale, min_epsilon
from .steering import Steering, steer, steer_layers
from .witness import Witness, represent

__all__ = [
    "Advice",
    "Continuous",
    "Discrete",
    "FirstOrder",
    "LossFloor",
    "Nearest",
    "NotRepresentable",
    "Steering",
    "Verdict",
    "Witness",
    "advise",
    "extend",
    "integrate",
    "is_representable",
    "loss_floor",
    "max_scale",
    "min_epsilon",
    "min_norm",
    "nearest",
    "network_of",
    "of",
    "planar_probability",
    "represent",
    "steer",
    "steer_layers",
]
