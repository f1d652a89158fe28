"""What is solved: second-order dynamics driven by a field of forces.

    SecondOrder(f, epsilon)        ε ẍ + ẋ = f(t, x)
    Newton(F, mass, damping)       m ẍ + c ẋ = F(t, x)
    Acceleration(a, damping)       ẍ + c ẋ = a(t, x, ẋ)
    FirstOrder(f)                  ẋ = f(t, x), the limit m → 0, c = 1

All are one ``System``, m ẍ + c ẋ = f, with different names for its numbers: every
method reads ``field``, ``mass``, ``damping`` and ``takes_velocity``.  As modules they
are also plain first-order vector fields on the pair (x, v), as torchdiffeq expects.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, eq. (3) for the layer v ← γ v + (1−γ) f(x), eq. (5) for its limit ODE.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from .. import checks
from ..checks import Number
from . import shown
from .fields import Forced
from .matrices import MatrixForce, check_matrices, needs_force
from .modal import ModalForce, diagonalise, from_modal, is_matrix, to_modal
from .numbers import (
    Positive,
    WithNumbers,
    as_double,
    in_dtype,
    keep_positive,
    register_number,
)
from .stiffness import Restored, check_stiffness, split

State = tuple[Tensor, Tensor]


class System(WithNumbers):
    """The equation m ẍ + c ẋ = f that all systems are.

    Attributes
    ----------
    field : callable
        ``field(t, x, *args)``, or ``field(t, x, v, *args)`` with ``takes_velocity``.
    mass, damping : float or Tensor
        m > 0 and c ≥ 0, scalar or per coordinate.
    modes : Tensor or None
        S ``(d, d)`` where mass or damping are matrices; then m = 1 and c = Λ hold in
        the modal coordinates y = S⁻¹x.
    """

    number_names: tuple[str, ...] = ("epsilon", "mass", "damping")
    equation = "m ẍ + c ẋ = f(t, x)"
    named: tuple[str, ...] = ("mass", "damping")  # those that the equation names
    takes_velocity = False
    first_order = False
    mass: Any
    damping: Any
    modes: Any
    stiffness: Any = None  # what an exact flow has to add
    modal_stiffness: Any

    def __init__(self, field: Callable[..., Tensor]) -> None:
        super().__init__()
        field = checks.function(field)
        if isinstance(field, Forced):
            field = field.with_velocity(self.takes_velocity)
        self.field = field

    def replace(self, field: Callable[..., Tensor]) -> "System":
        """The same equation with another field; nothing is copied, all is shared."""
        other = copy.copy(self)
        for name in ("_modules", "_parameters", "_buffers"):
            object.__setattr__(other, name, dict(getattr(self, name)))
        other.__dict__.pop("field", None)
        other._modules.pop("field", None)
        other.field = field
        return other

    def forward(self, t: Tensor, state: State, *args: Any) -> State:
        """Return ``(v, ẍ)``, the first-order field of torchdiffeq."""
        x, v = state
        seen = (x, v) if self.takes_velocity else (x,)
        return v, self.acceleration(self.field(t, *seen, *args), v)

    def acceleration(self, force: Tensor, v: Tensor) -> Tensor:
        """ẍ = (f − c ẋ)/m."""
        return acceleration(force, v, self.mass, self.damping, self.modes)

    def extra_repr(self) -> str:
        """The equation and its numbers."""
        return shown.text(self)

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return shown.html(self)

    def check_numbers(self) -> None:
        """Raise for learned numbers that have left their range, or are stale."""
        super().check_numbers()
        for name in ("epsilon", "mass", "damping"):
            value = getattr(self, name, None)
            if isinstance(value, Tensor) and value.requires_grad:
                checks.positive(value, name, zero=name == "damping")

    def check_shapes(self, x: Tensor) -> None:
        """Raise where a number per coordinate does not fit the state."""
        checks.fits(self.modes, x, "mass` or `damping", matrix=True)
        if self.modes is None:
            for name in ("epsilon", "mass", "damping"):
                checks.fits(getattr(self, name, None), x, name)
            checks.fits(split(self.field)[1], x, "stiffness")

    def rate(self) -> float:
        """The largest damping rate, max c/m (1/ε), as a number on the host."""
        rate: Any = as_double(self.damping) / as_double(self.mass)
        return rate.detach().abs().max().item() if isinstance(rate, Tensor) else rate

    def in_modes(self, like: Tensor, exact: bool = False) -> "Coordinates":
        """The equation with one damping per coordinate, and the way there and back.

        With ``exact`` a stiffness is a number of the equation, no part of its field.
        """
        field, stiffness = split(self.field) if exact else (self.field, None)
        if self.modes is None:
            if stiffness is None:
                return Coordinates(self, same, same)
            core = self.replace(field)
            core.stiffness = stiffness
            return Coordinates(core, same, same)
        modes = self.modes.to(like)
        core = System(ModalForce(field, modes))
        core.mass, core.damping, core.modes = 1.0, self.damping.to(like), None
        core.stiffness = None if stiffness is None else self.modal_stiffness
        return Coordinates(core, partial(to_modal, modes), partial(from_modal, modes))


def acceleration(
    force: Tensor, v: Tensor, mass: Any, damping: Any, modes: Tensor | None = None
) -> Tensor:
    """ẍ = (f − c ẋ)/m, by modes where m and c are matrices."""
    damping = in_dtype(damping, v)
    if modes is None:
        return (force - damping * v) / in_dtype(mass, v)
    modes = modes.to(v)  # M⁻¹F − M⁻¹C v = S (Sᵀ F − Λ S⁻¹ v)
    return from_modal(modes, force @ modes - damping * to_modal(modes, v))


class Coordinates(NamedTuple):
    """The equation a plan is made for, and the changes of coordinates around it."""

    system: System
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]


def same(value: Tensor) -> Tensor:
    """Return the value: where there are no modes, nothing changes."""
    return value


class SecondOrder(System):
    """The second-order neural ODE ε ẍ + ẋ = f(t, x).

    Parameters
    ----------
    field : callable
        ``field(t, x, *args) -> f`` with ``f.shape == x.shape``; ``t`` is a 0-d tensor
        (or ``(batch, 1, ..., 1)`` for per-sample times).
    epsilon : float, Tensor, nn.Parameter or Positive, default 1.0
        ε > 0, in the units of time: a scalar, or a tensor broadcastable to the last
        axes of ``x`` (one ε per coordinate).  A Parameter is learned; so is
        ``so.Positive(0.5)``, which stays positive whatever training does.

    Raises
    ------
    ValueError
        If ``epsilon`` is not positive and finite.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> system = so.SecondOrder(lambda t, x: -x, epsilon=0.5)
    >>> system(torch.tensor(0.0), (torch.ones(1), torch.zeros(1)))
    (tensor([0.]), tensor([-2.]))

    References
    ----------
    Sander et al., "Momentum Residual Neural Networks", ICML 2021, eq. (5).
    """

    equation = "ε ẍ + ẋ = f(t, x)"
    named = ("epsilon",)
    epsilon: Number
    damping = 1.0
    modes = None

    def __init__(
        self, field: Callable[..., Tensor], epsilon: Number | Positive = 1.0
    ) -> None:
        super().__init__(field)
        keep_positive(self, "epsilon", epsilon)

    @property
    def mass(self) -> Number:
        """The mass of the equivalent Newton equation, m = ε (with damping c = 1)."""
        return self.epsilon


class Newton(System):
    """Newton's equation with linear damping, m ẍ + c ẋ = F(t, x).

    Parameters
    ----------
    force : callable
        ``force(t, x, *args) -> F`` with ``F.shape == x.shape``.
    mass : float, Tensor, nn.Parameter or Positive, default 1.0
        m > 0: a scalar, one value per coordinate, or a symmetric positive definite
        ``(d, d)`` matrix acting on the last axis of ``x`` (``(..., d)``).
    damping : float, Tensor, nn.Parameter or Positive, default 0.0
        c ≥ 0 likewise; ``0.0`` is the undamped equation.  A matrix must be symmetric
        positive semidefinite.  ``so.Positive(0.1, zero=True)`` learns it down to 0.

    stiffness : float, Tensor, nn.Parameter or Positive, optional
        K in m ẍ + c ẋ + K x = F(t, x): a scalar, one value per coordinate, or a
        ``(d, d)`` matrix; of any sign.  The splittings solve the linear part exactly,
        for any step, where the matrices share their modes (K symmetric, damping none
        or proportional); the other methods take K x as a part of the force.

    Raises
    ------
    ValueError
        If ``mass`` is not positive (definite) or ``damping`` is negative (indefinite).

    Notes
    -----
    Matrices are diagonalised together (see ``systems/modal.py``), so every method and
    every gradient works with them.

    ``so.Positive(matrix)`` learns a matrix of mass or damping.  Beside one, beside a
    learned matrix of stiffness, where C is not proportional (C M⁻¹ K ≠ K M⁻¹ C), and
    where C has an antisymmetric (gyroscopic) part, C ẋ and K x are parts of the force:
    methods that take a velocity solve it, as for ``Acceleration``: the coupled ones,
    which reverse, ``"scipy_Radau"`` where it is stiff.  Without damping all methods do.
    ``system.field.mass`` and ``.damping`` read as matrices.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> spring = so.Newton(lambda t, x: -4 * x)
    >>> x, v = so.odeint(spring, (torch.ones(1), None), torch.linspace(0, 1, 101))
    """

    def __init__(
        self,
        force: Callable[..., Tensor],
        mass: Number | Positive = 1.0,
        damping: Number | Positive = 0.0,
        stiffness: Number | Positive | None = None,
    ) -> None:
        if stiffness is not None:
            stiffness = check_stiffness(stiffness)
            force = Restored(checks.function(force, "force"), stiffness)
        has_force = needs_force(mass, damping, stiffness)
        if has_force:
            checks.function(force, "force")
            force = MatrixForce(force, *check_matrices(mass, damping))
            mass, damping, stiffness = 1.0, 0.0, None
        super().__init__(force)
        self.takes_velocity = getattr(force, "takes_velocity", False) and has_force
        if any(is_matrix(value) for value in (mass, damping, stiffness)):
            modes, dampings, springs = diagonalise(mass, damping, stiffness)
            if springs is not None:
                self.register_buffer("modal_stiffness", springs)
            self.register_buffer("modes", modes)  # S (d, d); x = S y
            register_number(self, "mass", 1.0)
            register_number(self, "damping", dampings)
        else:
            self.register_buffer("modes", None)
            keep_positive(self, "mass", mass)
            keep_positive(self, "damping", damping, zero=True)


class Acceleration(System):
    """The general second-order equation ẍ + c ẋ = a(t, x, ẋ).

    Parameters
    ----------
    field : callable
        ``field(t, x, v, *args) -> a`` with ``a.shape == x.shape``.
    damping : float, Tensor, nn.Parameter or Positive, default 0.0
        c ≥ 0, scalar or per coordinate: the part −c ẋ of the acceleration that is
        linear in the velocity.  It is integrated exactly, so put as much of the
        damping as possible here and leave only the rest in ``field``.

    Notes
    -----
    The coupled methods take such a field and can be reversed; torchdiffeq's solvers
    take it.  So do ``"velocity_doubling"`` and ``"velocity_doubling4"``, cheaper and
    for any linear damping, but only where the force depends mildly on the velocity:
    they raise where they would be wrong.  The others raise.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> pol = so.Acceleration(lambda t, x, v: (1 - x**2) * v - x)
    >>> x, v = so.odeint(pol, (torch.ones(1), None), torch.linspace(0, 1, 101),
    ...                  method="dopri5")
    """

    equation = "ẍ + c ẋ = f(t, x, ẋ)"
    named = ("damping",)
    takes_velocity = True
    mass = 1.0
    modes = None

    def __init__(
        self, field: Callable[..., Tensor], damping: Number | Positive = 0.0
    ) -> None:
        super().__init__(field)
        keep_positive(self, "damping", damping, zero=True)


class FirstOrder(System):
    """The first-order equation ẋ = f(t, x), the neural ODE to compare with.

    Parameters
    ----------
    field : callable
        ``field(t, x, *args) -> f`` with ``f.shape == x.shape``.

    Notes
    -----
    Its state is x alone: ``odeint(system, x0, t)``, or ``(x0, None)`` for the pair; a
    velocity is refused.  Results are pairs as ever, with v = f(t, x).  The module is
    the field that torchdiffeq expects, ``system(t, x)``.

    The coupled methods solve it and undo it, torchdiffeq's and SciPy's solve it.  A
    splitting without negative substeps does so in its limit ε → 0, where a step forgets
    the velocity: ``"verlet"`` and ``"momentum_exponential"`` are the explicit Euler
    method, ``"chin4"`` is a method of order 2.  Others raise.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> decay = so.FirstOrder(lambda t, x: -x)
    >>> x, v = so.odeint(decay, torch.ones(1), torch.linspace(0, 1, 11), method="rk4")
    >>> torch.equal(v, -x)
    True

    References
    ----------
    Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations",
    NeurIPS 2018, eq. (2).
    """

    equation = "ẋ = f(t, x)"
    named = ()
    first_order = True
    # So light that e^{−h c/m} is 0 and (1 − e^{−h c/m})/c is 1 in every dtype, for any
    # step that a clock can tell from none.
    mass = 2.0**-100
    damping = 1.0
    modes = None

    def forward(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:  # type: ignore[override]
        """Return ẋ, the first-order field of torchdiffeq."""
        return self.field(t, x, *args)

    def along(self, t: Tensor) -> "System":
        """The system with a mass as light, of the sign in which time runs.

        Either way the velocity is forgotten: where time runs back, m ẍ + ẋ = f forgets
        it for m < 0.
        """
        span = (t[..., -1] - t[..., 0]).detach()
        if bool((span < 0).any()) and bool((span > 0).any()):
            raise ValueError(
                "`t` has per-sample grids that run forward and others that run back, "
                "which a FirstOrder system takes in two solves, got spans "
                f"{checks.describe(span)}"
            )
        if not bool((span < 0).any()):
            return self
        back = self.replace(self.field)
        back.mass = -self.mass
        return back

    def rate(self) -> float:
        """No damping has to be followed."""
        return 0.0
