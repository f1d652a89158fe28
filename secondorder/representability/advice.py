"""From a matrix, or from data, to a short table: where to start, and what it costs."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .channel import extend
from .checks import positive, square_matrix
from .continuous import Continuous
from .criterion import is_representable
from .first_order import FirstOrder
from .floor import loss_floor
from .norm import min_norm
from .propagator import MatrixLike, Propagator, RealArray
from .scaling import min_epsilon
from .steering import steer
from .witness import represent


class Row(NamedTuple):
    """One way to set up the model.

    Attributes
    ----------
    start : str
    reachable : bool
    least_epsilon : float
        Least ε (same T) from which on it is; 0 for every ε, inf for none.
    floor : float
        Least ‖Ψ(θ) − D‖, with the covariance of the data if there are any.
    norm : float
        ‖θ‖₂ of the witness (sup ‖θ(t)‖₂ if untied), nan without one.
    least_norm : float
        Its lower bound.
    sentence : str
    """

    start: str
    reachable: bool
    least_epsilon: float
    floor: float
    norm: float
    least_norm: float
    sentence: str


@dataclass(frozen=True)
class Advice:
    """The table; print it.

    Attributes
    ----------
    rows : tuple of Row
    D : array, shape (d, d)
        The target, or the best linear map of the data.
    covariance : array or None
        E[xxᵀ] of the data.
    """

    rows: tuple[Row, ...]
    D: RealArray
    covariance: RealArray | None = None

    def __str__(self) -> str:
        """Return a table in plain text."""
        lines = [
            f"{'':<20}{'reached':>8}{'least ε':>9}{'floor':>9}{'‖θ‖':>9}{'at least':>9}"
        ]
        for row in self.rows:
            numbers = (row.least_epsilon, row.floor, row.norm, row.least_norm)
            cells = "".join(f"{_short(value):>9}" for value in numbers)
            mark = "yes" if row.reachable else "no"
            lines.append(f"{row.start:<20}{mark:>8}{cells}  {row.sentence}")
        return "\n".join(lines)


def advise(
    D: MatrixLike | None = None,
    *,
    x: MatrixLike | None = None,
    y: MatrixLike | None = None,
    epsilon: float = 1.0,
    horizon: float = 1.0,
) -> Advice:
    """Say which start reaches D, from which ε on, how close, and with how large θ.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d), optional
    x, y : array_like or Tensor, shape (n, d), optional
        Instead of D: its least-squares map x -> y, with the covariance of x.
    epsilon, horizon : float, default 1.0

    Returns
    -------
    Advice
        ``print`` it; ``.rows`` are named tuples.

    Raises
    ------
    ValueError
        If neither D nor x and y of one shape are given.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> advice = rep.advise([[-1.0, 0.0], [0.0, 2.0]])
    >>> [(row.start, row.reachable) for row in advice.rows][:3]
    [('first order', False), ('from rest', False), ('force start', True)]
    """
    epsilon, horizon = positive(epsilon, "epsilon"), positive(horizon, "horizon")
    array, covariance = _target(D, x, y)
    rest = Continuous(epsilon, horizon)
    first, force = FirstOrder(horizon), Continuous(epsilon, horizon, "force")
    always = 0.0 if is_representable(array, first) else math.inf
    rows = [
        _row("first order", array, first, covariance, always),
        _row("from rest", array, rest, covariance, min_epsilon(array, horizon)),
        _row("force start", array, force, covariance, 0.0),
        _channel(array, rest),
        _untied(array, epsilon, horizon),
    ]
    return Advice(tuple(rows), array, covariance)


def _target(
    D: MatrixLike | None, x: MatrixLike | None, y: MatrixLike | None
) -> tuple[RealArray, RealArray | None]:
    """Return D and the covariance of the data it comes from."""
    if D is not None and x is None and y is None:
        return square_matrix(D), None
    if D is None and x is not None and y is not None:
        X, Y = (np.asarray(z, dtype=float) for z in (x, y))
        if X.ndim == 2 and X.shape == Y.shape and len(X):
            found = np.linalg.lstsq(X, Y, rcond=None)[0].T
            return square_matrix(found), X.T @ X / len(X)
    raise ValueError(
        "give `D` (d, d), or samples `x` and `y` of one shape (n, d), got "
        f"{[name for name, z in zip('Dxy', (D, x, y), strict=True) if z is not None]}"
    )


def _norm_of(find: Callable[[], float]) -> float:
    """Return a number, or nan where float64 has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return find()
        except (ArithmeticError, ValueError, RuntimeWarning, np.linalg.LinAlgError):
            return math.nan


def _row(
    name: str, D: RealArray, m: Propagator, covariance: RealArray | None, least: float
) -> Row:
    """Return the row of one model with tied θ."""
    reachable = bool(is_representable(D, m))
    floor = float(loss_floor(D, m, covariance=covariance))
    norm, bound = math.nan, min_norm(D, m)
    if reachable:
        norm = _norm_of(lambda: float(np.linalg.norm(represent(D, m).theta, 2)))
    if not reachable:
        sentence = f"Training stops at ‖Ψ(θ) − D‖ = {_short(floor)}."
        if 0 < least < math.inf:
            sentence += f" Raise ε above {_short(least)}."
    elif math.isnan(norm):
        sentence = "A θ exists, but too large for float64: raise ε."
    elif bound and norm > 20 * bound:
        sentence = "Reached, by a large θ: raise ε or choose another start."
    else:
        sentence = "Reached."
    return Row(name, reachable, least, floor, norm, bound, sentence)


def _channel(D: RealArray, rest: Continuous) -> Row:
    """Return the row of one more channel, filled with zeros, from rest."""
    name = "one extra channel"
    try:
        larger = extend(D, rest)
    except ArithmeticError:
        sentence = "One channel was not found to suffice: add more."
        return Row(name, False, math.nan, math.nan, math.nan, math.nan, sentence)
    norm = _norm_of(lambda: float(np.linalg.norm(represent(larger, rest).theta, 2)))
    sentence = "Reached from rest, on (x, 0); the last coordinate is not read."
    return Row(name, True, 0.0, 0.0, norm, min_norm(larger, rest), sentence)


def _untied(D: RealArray, epsilon: float, horizon: float) -> Row:
    """Return the row of a θ that changes over time."""

    def largest() -> float:
        path = steer(D, epsilon, horizon)
        times = np.linspace(0, path.switch, 33)
        return max(float(np.linalg.norm(path(t), 2)) for t in times)

    bound = min_norm(D, Continuous(epsilon, horizon))
    sentence = "Reached by every ε: tying the layers is the restriction."
    return Row("untied", True, 0.0, 0.0, _norm_of(largest), bound, sentence)


def _short(value: float) -> str:
    """Print a number in few characters."""
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if math.isfinite(value) else "none"
