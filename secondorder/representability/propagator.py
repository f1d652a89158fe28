"""What the three models have in common, and the types of what goes in and comes out.

The criterion, the witness and the floors know a model only by this interface: the
response Ψ with its derivative and principal inverse, and where its thresholds lie.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .fold import Fold

MatrixLike: TypeAlias = ArrayLike | Tensor  # what a user hands in as D
Matrix: TypeAlias = NDArray[np.float64] | Tensor  # what comes back: a Tensor for one
RealArray: TypeAlias = NDArray[np.float64]
ComplexArray: TypeAlias = NDArray[np.complex128]
Array: TypeAlias = NDArray[Any]  # either of the two
TensorMap: TypeAlias = Callable[[Tensor], Tensor]

# A function of θ returns what it gets: a number, an array or a Tensor.  Lists are taken
# for arrays, but a type checker wants them written as np.array([...]).
Kind = TypeVar("Kind", float, complex, Array, Tensor)
# The inverse takes no tensors, and of a real number it may be complex.
Points = TypeVar("Points", complex, Array)
PropagatorType = TypeVar("PropagatorType", bound="Propagator")


class Propagator(Protocol):
    """A model θ -> Ψ(θ): Continuous, Discrete or FirstOrder."""

    def response(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Ψ(θ), of numbers or matrices."""

    def derivative(self, theta: Kind, *, elementwise: bool = False) -> Kind:
        """Ψ'(θ), of numbers or matrices."""

    def inverse(self, x: Points) -> Points:
        """g(x) with Ψ(g(x)) = x on the principal branch; from above on the cut."""

    def real_preimages(self, value: float) -> RealArray:
        """Real θ at which Ψ crosses the value, those that are known."""

    @property
    def threshold(self) -> float:
        """λ: no real θ reaches real values below it."""

    @property
    def log_threshold(self) -> float:
        """The logarithm log |λ|, which does not underflow."""

    @property
    def minimiser(self) -> float:
        """θ* with Ψ(θ*) = λ, or −inf."""

    @property
    def principal_threshold(self) -> float:
        """Where the cut of ``inverse`` starts."""

    @property
    def principal_minimiser(self) -> float:
        """Where the increasing branch of Ψ starts, or −inf."""

    @property
    def fold(self) -> Fold | None:
        """The critical value with a condition of its own, if there is one."""
