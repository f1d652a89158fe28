"""One line of the table of ``verify``."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Check(NamedTuple):
    """What was compared, the two sides, and the verdict."""

    part: str
    what: str
    measured: str
    wanted: str
    passed: bool


def progress(items: Sequence[Item], label: str) -> Iterable[Item]:
    """Iterate with a bar if tqdm is installed and someone is watching."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=label, leave=False, disable=None)
