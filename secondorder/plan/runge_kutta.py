"""Explicit Runge–Kutta methods as increments: y(t + h) ≈ y + Ψ_h(t, y).

    k_i = f(t + c_i h, y + h Σ_{j<i} a_ij k_j)        Ψ_h(t, y) = h Σ_i b_i k_i

References: Hairer, Nørsett & Wanner, "Solving Ordinary Differential Equations I",
II.1, table 1.2; Dormand & Prince, J. Comput. Appl. Math. 6 (1980), 19-26, table 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Row = tuple[float, ...]


@dataclass(frozen=True)
class RungeKutta:
    """The numbers of an explicit Runge–Kutta method.

    Parameters
    ----------
    order : int
        Order of accuracy.
    stages : tuple of tuple of float
        a_ij of the second, third, … stage: rows of 1, 2, … numbers.
    weights : tuple of float
        b_i, one more than there are rows.
    companion : tuple of float, optional
        Weights of a second method of a lower order, whose difference measures the
        error.  One more than b_i where the slope at the end of the step counts, too.
    companion_order : int
        Its order.
    name : str

    Raises
    ------
    ValueError
        For rows of another length, or weights that do not add up to 1.

    Examples
    --------
    The midpoint rule:

    >>> import secondorder as so
    >>> so.RungeKutta(order=2, stages=((0.5,),), weights=(0.0, 1.0)).nodes
    (0.0, 0.5)
    """

    order: int
    stages: tuple[Row, ...]
    weights: Row
    companion: Row = ()
    companion_order: int = 0
    name: str = "custom"

    def __post_init__(self) -> None:
        """Refuse what is no explicit method."""
        shape = [len(row) for row in self.stages]
        if shape != list(range(1, len(self.weights))):
            raise ValueError(
                "`stages` must be rows of 1, 2, … numbers, one row less than there are "
                f"`weights` (an explicit method), got rows of {shape} and "
                f"{len(self.weights)} weights"
            )
        for name, row in (("weights", self.weights), ("companion", self.companion)):
            if row and abs(sum(row) - 1) > 1e-9:
                raise ValueError(f"`{name}` must add up to 1, got {sum(row):.6g}")
        if self.companion and len(self.companion) - len(self.weights) not in (0, 1):
            raise ValueError(
                f"`companion` must have {len(self.weights)} weights, or one more for "
                f"the slope at the end, got {len(self.companion)}"
            )

    @cached_property
    def nodes(self) -> Row:
        """c_i, where in a step the stages are."""
        return (0.0, *(sum(row) for row in self.stages))

    def slopes(
        self, pull: Callable[..., Any], times: Sequence[Any], h: Any, y: Any
    ) -> list[Any]:
        """k_i from ``pull(time, y)``, at the times of the stages."""
        found = [pull(times[0], y)]
        for time, row in zip(times[1:], self.stages, strict=True):
            found.append(pull(time, y + h * combine(row, found)))
        return found

    def increment(
        self, pull: Callable[..., Any], times: Sequence[Any], h: Any, y: Any
    ) -> Any:
        """Ψ_h(t, y)."""
        return h * combine(self.weights, self.slopes(pull, times, h, y))


def combine(weights: Sequence[float], slopes: Sequence[Any]) -> Any:
    """Σ w_i k_i."""
    parts = [w * k for w, k in zip(weights, slopes, strict=False) if w]
    return sum(parts[1:], parts[0]) if parts else 0.0 * slopes[0]


EULER = RungeKutta(1, (), (1.0,), name="euler")
HEUN2 = RungeKutta(2, ((1.0,),), (0.5, 0.5), name="heun2")
RK4 = RungeKutta(
    4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), name="rk4"
)
DOPRI5 = RungeKutta(
    order=5,
    stages=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    companion=(
        5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40,
    ),
    companion_order=4,
    name="dopri5",
)  # fmt: skip
