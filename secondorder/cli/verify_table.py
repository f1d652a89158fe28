"""The lines of the table of ``verify``, and how far two maps are apart."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")


class Check(NamedTuple):
    """What was compared, the two sides, and the verdict."""

    part: str
    what: str
    measured: str
    wanted: str
    passed: bool


def below(part: str, what: str, value: float, bound: float) -> Check:
    """A check of an error against its bound."""
    return Check(part, what, f"{value:.0e}", f"< {bound:.0e}", bool(value < bound))


def distance(A: NDArray[np.float64], D: NDArray[np.float64]) -> float:
    """‖A − D‖/‖D‖ in the Frobenius norm (absolute where D is 0)."""
    return float(np.linalg.norm(A - D) / (np.linalg.norm(D) or 1.0))


def progress(items: Sequence[Item], label: str) -> Iterable[Item]:
    """Iterate with a bar if tqdm is installed and someone is watching."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=label, leave=False, disable=None)
