"""Toy problems, and a real record of a damped nonlinear oscillator.

    cubic, nested_rings, oscillator     samples of maps and motions
    silverbox, rmse_mv                  a measured record and its score

The models that are fitted to the record solve equations, which this does not: import
them from ``secondorder.data.silverbox_models``.
"""

from .silverbox import (
    SILVERBOX_GIVEN,
    SILVERBOX_SHA256,
    SILVERBOX_SOURCE,
    Silverbox,
    rmse_mv,
    silverbox,
)
from .toy import OSCILLATORS, Motion, Oscillator, cubic, nested_rings, oscillator

__all__ = [
    # toy problems
    "OSCILLATORS",
    "Motion",
    "Oscillator",
    "cubic",
    "nested_rings",
    "oscillator",
    # the Silverbox
    "SILVERBOX_GIVEN",
    "SILVERBOX_SHA256",
    "SILVERBOX_SOURCE",
    "Silverbox",
    "rmse_mv",
    "silverbox",
]
