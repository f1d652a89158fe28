"""The coupled methods by name: which Runge–Kutta methods are made reversible."""

from ..plan.runge_kutta import DOPRI5, HEUN2, RK4
from .coupled import Coupled

COUPLED_METHODS = (
    Coupled(
        HEUN2,
        name="coupled_heun2",
        summary="any field of (x, v), and ẋ = f: reversible at order 2",
    ),
    Coupled(
        RK4,
        name="coupled_rk4",
        summary="limit cycles, drag and plain neural ODEs, reversible at order 4",
    ),
    Coupled(
        DOPRI5,
        adaptive=True,
        name="coupled_dopri5",
        summary="the same at order 5, adaptive or in steps of a given size",
    ),
)
