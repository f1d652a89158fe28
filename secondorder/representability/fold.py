"""The one value at which representability depends on more than signs.

Above a real minimum of the response, the θ-line is folded: θ* + M goes to
λ + a M² + …, so a Jordan block of size n over θ* splits into blocks ⌈n/2⌉ and ⌊n/2⌋
over λ.  Where (1 + θ)^N vanishes it splits into N blocks.  e^θ omits its value 0.
"""

import math
from typing import NamedTuple


class Fold(NamedTuple):
    """A critical value: blocks there come in groups of ``order`` of nearly equal size.

    Attributes
    ----------
    value : float
        The critical value.
    at : float
        Its only real preimage (−inf if there is none).
    order : int
        The number of blocks one block over ``at`` splits into; 0 if the value is
        omitted.
    beyond : float
        No value up to here is critical, however close float64 puts them.
    """

    value: float
    at: float
    order: int
    beyond: float = -math.inf
