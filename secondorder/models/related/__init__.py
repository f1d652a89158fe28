"""Models from the neighbourhood, as plans over the same moves.

    ResNet           x ← x + f_n(x)                             not reversible
    RevNet           x ← x + F_n(y),  y ← y + G_n(x)            shears
    BDIANet          x₊ = γ x₋ + (1−γ) x + (1+γ) f_n(x),  γ = ±½ at random
    NeuralODE        ẋ = f(t, x), also with augmented coordinates
    SecondOrderNODE  ẍ = f(t, x, ẋ) from a learned ẋ(0)
    HeavyBallODE     ẍ + c ẋ = f(t, x), c learned
    NesterovODE      ẍ + (3/t) ẋ = f(t, x)
    CoRNN, UnICORNN, LinOSS      oscillators driven by a sequence

Each is differentiated by any gradient route that can undo it, and says so otherwise.
"""

from .layers import BDIANet, ResNet, RevNet
from .odes import HeavyBallODE, NesterovODE, NeuralODE, SecondOrderNODE
from .oscillators import CoRNN, LinOSS, UnICORNN

__all__ = [
    "BDIANet",
    "CoRNN",
    "HeavyBallODE",
    "LinOSS",
    "NesterovODE",
    "NeuralODE",
    "ResNet",
    "RevNet",
    "SecondOrderNODE",
    "UnICORNN",
]
