"""Training: one loop for every model, and losses for motions as they are measured.

fit(model, loss, steps, lr, …)     the loop, by Adam, L-BFGS, Gauss–Newton, …
History                            what happened in it
Shooting, misfit                   motions against records, and against a grid of them
"""

from .ensemble import Ensemble, ensemble
from .fit import fit
from .gauss_newton import GaussNewton
from .history import History
from .misfit import misfit
from .records import Recording
from .settings import Model
from .shooting import Shooting

__all__ = [
    "Ensemble",
    "GaussNewton",
    "History",
    "Model",
    "Recording",
    "Shooting",
    "ensemble",
    "fit",
    "misfit",
]
