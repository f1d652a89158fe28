"""What is solved: second-order dynamics driven by a field of forces.

    SecondOrder(f, epsilon)        ε ẍ + ẋ = f(t, x)
    Newton(F, mass, damping)       m ẍ + c ẋ = F(t, x)
    Acceleration(a, damping)       ẍ + c ẋ = a(t, x, ẋ)

All three are one equation m ẍ + c ẋ = f with different names for its numbers, so every
integrator reads just four attributes: ``field``, ``mass``, ``damping`` and
``takes_velocity``.  As modules they are also plain first-order vector fields on the
pair (x, v), which is what torchdiffeq expects.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks",
ICML 2021, eq. (3) for the layer v ← γ v + (1−γ) f(x), eq. (5) for its limit ODE.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

RULES = ("euler", "exponential")


class SecondOrder(nn.Module):
    """The second-order neural ODE ε ẍ + ẋ = f(t, x).

    Parameters
    ----------
    field : callable
        ``field(t, x, *args) -> f`` with ``f.shape == x.shape``; ``t`` is a 0-d tensor
        (or ``(batch, 1, ..., 1)`` for per-sample times).
    epsilon : float, Tensor or nn.Parameter, default 1.0
        ε > 0, in the units of time: a scalar, or a tensor broadcastable to the last
        axes of ``x`` (one ε per coordinate).  A Parameter is learned.

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

    takes_velocity = False
    damping = 1.0

    def __init__(self, field, epsilon=1.0):
        super().__init__()
        self.field = callable_field(field)
        hold(self, "epsilon", positive(epsilon, "epsilon"))

    @property
    def mass(self):
        """The mass of the equivalent Newton equation, m = ε (with damping c = 1)."""
        return self.epsilon

    def forward(self, t, state, *args):
        """Return ``(v, (f(t, x) − v)/ε)``, the first-order field of torchdiffeq."""
        return self.derivative(self.field, t, state, *args)

    def derivative(self, field, t, state, *args):
        """The same with another field in place of this system's."""
        x, v = state
        return v, (field(t, x, *args) - v) / self.epsilon

    def extra_repr(self):
        """Show ε."""
        return f"epsilon={describe(self.epsilon)}"


class Newton(nn.Module):
    """Newton's equation with linear damping, m ẍ + c ẋ = F(t, x).

    Parameters
    ----------
    force : callable
        ``force(t, x, *args) -> F`` with ``F.shape == x.shape``.
    mass : float or Tensor, default 1.0
        m > 0: a scalar, one value per coordinate, or a symmetric positive definite
        ``(d, d)`` matrix acting on the last axis of ``x`` (``(..., d)``).
    damping : float or Tensor, default 0.0
        c ≥ 0 likewise; ``0.0`` is the undamped equation.  A matrix must be symmetric
        positive semidefinite.

    Raises
    ------
    ValueError
        If ``mass`` is not positive (definite) or ``damping`` is negative (indefinite).

    Notes
    -----
    Matrices are diagonalised together, M = S⁻ᵀS⁻¹ and C = S⁻ᵀ Λ S⁻¹ (generalised
    symmetric eigenproblem): in the modal coordinates y = S⁻¹x the equation is
    ÿ + Λ ẏ = Sᵀ F(t, S y), one damping per coordinate, so every method and every
    gradient works on it unchanged.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> spring = so.Newton(lambda t, x: -4 * x)
    >>> x, v = so.odeint(spring, (torch.ones(1), None), torch.linspace(0, 1, 101))
    """

    takes_velocity = False

    def __init__(self, force, mass=1.0, damping=0.0):
        super().__init__()
        self.field = callable_field(force)
        if is_matrix(mass) or is_matrix(damping):
            modes, damping = modal_damping(mass, damping)
            self.register_buffer("modes", modes)  # S (d, d); x = S y
            hold(self, "mass", 1.0)
            hold(self, "damping", damping)
        else:
            self.register_buffer("modes", None)
            hold(self, "mass", positive(mass, "mass"))
            hold(self, "damping", positive(damping, "damping", zero=True))

    def forward(self, t, state, *args):
        """Return ``(v, (F(t, x) − c v)/m)``, the first-order field of torchdiffeq."""
        return self.derivative(self.field, t, state, *args)

    def derivative(self, field, t, state, *args):
        """The same with another field in place of this system's."""
        x, v = state
        force = field(t, x, *args)
        if self.modes is None:
            return v, (force - self.damping * v) / self.mass
        modes = self.modes.to(x)  # M⁻¹F − M⁻¹C v = S (Sᵀ F − Λ S⁻¹ v)
        slow = torch.linalg.solve(modes, v.unsqueeze(-1)).squeeze(-1)
        return v, (force @ modes - self.damping * slow) @ modes.mT

    def extra_repr(self):
        """Show mass and damping."""
        return f"mass={describe(self.mass)}, damping={describe(self.damping)}"


class Acceleration(nn.Module):
    """The general second-order equation ẍ + c ẋ = a(t, x, ẋ).

    Parameters
    ----------
    field : callable
        ``field(t, x, v, *args) -> a`` with ``a.shape == x.shape``.
    damping : float or Tensor, default 0.0
        c ≥ 0, scalar or per coordinate: the part −c ẋ of the acceleration that is
        linear in the velocity.  It is integrated exactly, so put as much of the
        damping as possible here and leave only the rest in ``field``.

    Notes
    -----
    Only the methods with ``takes_velocity`` (``"velocity_doubling"`` and
    ``"velocity_doubling4"``) and torchdiffeq's solvers take such a field; the others
    assume a force that does not see the velocity and raise.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> pol = so.Acceleration(lambda t, x, v: (1 - x**2) * v - x)
    >>> x, v = so.odeint(pol, (torch.ones(1), None), torch.linspace(0, 1, 101),
    ...                  method="velocity_doubling")
    """

    takes_velocity = True
    mass = 1.0

    def __init__(self, field, damping=0.0):
        super().__init__()
        self.field = callable_field(field)
        hold(self, "damping", positive(damping, "damping", zero=True))

    def forward(self, t, state, *args):
        """Return ``(v, a(t, x, v) − c v)``, the first-order field of torchdiffeq."""
        return self.derivative(self.field, t, state, *args)

    def derivative(self, field, t, state, *args):
        """The same with another field in place of this system's."""
        x, v = state
        return v, field(t, x, v, *args) - self.damping * v

    def extra_repr(self):
        """Show the damping."""
        return f"damping={describe(self.damping)}"


class Autonomous(nn.Module):
    """A field that ignores time: ``Autonomous(net)(t, x, *args) = net(x, *args)``.

    Parameters
    ----------
    module : callable
        ``module(x, *args) -> f`` with ``f.shape == x.shape``.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> field = so.Autonomous(torch.nn.Linear(2, 2))
    >>> field(torch.tensor(0.0), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, module):
        super().__init__()
        self.module = callable_field(module, "module")

    def forward(self, t, x, *args):
        """Evaluate the module; ``t`` is not used."""
        return self.module(x, *args)


class Potential(nn.Module):
    """The conservative force f(t, x) = −∇U(x) of a potential.

    Parameters
    ----------
    energy : callable
        ``energy(x) -> U`` with any shape; ``U.sum()`` is differentiated, so each entry
        must depend on its own sample only.  With ``time=True``: ``energy(t, x)``.
    time : bool, default False
        Whether the energy depends on time.

    Notes
    -----
    The gradient is taken in every gradient mode (also under ``torch.no_grad``); it is
    itself differentiable when the surrounding code records gradients.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> force = so.Potential(lambda x: 0.5 * (x**2).sum(-1))
    >>> force(torch.tensor(0.0), torch.tensor([[1.0, -2.0]]))
    tensor([[-1.,  2.]])
    """

    def __init__(self, energy, time=False):
        super().__init__()
        self.energy = callable_field(energy, "energy")
        self.time = time

    def forward(self, t, x):
        """Return −∇U at ``x``, same shape."""
        record = torch.is_grad_enabled()
        # An inference tensor cannot enter autograd: leave inference mode and copy.
        with torch.inference_mode(False), torch.enable_grad():
            if x.is_inference():
                x = x.clone()
            given = record and x.requires_grad
            if not given:
                x = x.detach().requires_grad_()
            energy = self.energy(t, x) if self.time else self.energy(x)
            if not energy.requires_grad:
                raise ValueError(
                    "`energy` returned a tensor that does not depend on `x` through "
                    "autograd; compute it from `x` with torch operations"
                )
            # Keep the graph only for what can be trained through it.
            record = record and (given or strangers(energy, {id(x)}) is not None)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=record)
        return -slope


class Modal(nn.Module):
    """A force in modal coordinates, y ↦ Sᵀ F(t, S y)."""

    def __init__(self, force, modes):
        super().__init__()
        self.force = force
        self.register_buffer("modes", modes)

    def forward(self, t, y, *args):
        """Return the modal force, shape ``(..., d)`` like ``y``."""
        return self.force(t, y @ self.modes.mT, *args) @ self.modes


def in_modes(system, like):
    """The system with damping per coordinate, and the changes of coordinates.

    Returns
    -------
    core : Core
        The equation to integrate.
    enter, leave : callable
        x ↦ y = S⁻¹x and y ↦ x = S y; None where nothing changes.
    """
    for name in ("epsilon", "mass", "damping"):  # training may have moved them
        value = getattr(system, name, None)
        if isinstance(value, nn.Parameter):
            positive(value, name, zero=name == "damping")
    if getattr(system, "modes", None) is None:
        takes_velocity = getattr(system, "takes_velocity", False)
        core = Core(system.field, system.mass, system.damping, takes_velocity)
        return core, None, None
    modes = system.modes.to(like)
    field = Modal(system.field, modes)

    def enter(x):
        return torch.linalg.solve(modes, x.unsqueeze(-1)).squeeze(-1)

    def leave(y):
        return y @ modes.mT

    return Core(field, 1.0, system.damping.to(like)), enter, leave


class Core(NamedTuple):
    """The equation m ẍ + c ẋ = f that a plan is made for."""

    field: object
    mass: object
    damping: object
    takes_velocity: bool = False


def gamma_from_epsilon(epsilon, step, rule="euler"):
    """Momentum γ of one step, 1 − h/ε (``"euler"``) or e^{−h/ε} (``"exponential"``).

    Parameters
    ----------
    epsilon, step : float or Tensor
        ε > 0 and the step h > 0, in the same units of time.
    rule : {"euler", "exponential"}
        The Momentum ResNet reads γ by the Euler rule; exact damping by the other.

    Raises
    ------
    ValueError
        For an unknown rule.

    Examples
    --------
    >>> import secondorder as so
    >>> so.gamma_from_epsilon(0.5, 0.25)
    0.5

    References
    ----------
    Sander et al., ICML 2021, section 3.1 (ε = 1/(1−γ) at unit step).
    """
    check_rule(rule)
    ratio = step / epsilon
    if rule == "euler":
        return 1 - ratio
    return torch.exp(-ratio) if isinstance(ratio, Tensor) else math.exp(-ratio)


def epsilon_from_gamma(gamma, step, rule="euler"):
    """ε of the momentum γ: ε = h/(1−γ) (``"euler"``) or −h/ln γ (``"exponential"``).

    Parameters
    ----------
    gamma : float or Tensor
        0 ≤ γ < 1 (0 < γ for the exponential rule).
    step : float or Tensor
        The step h > 0.
    rule : {"euler", "exponential"}

    Raises
    ------
    ValueError
        For an unknown rule, or γ outside its range.

    Examples
    --------
    >>> import secondorder as so
    >>> so.epsilon_from_gamma(0.5, 0.25)
    0.5
    """
    check_rule(rule)
    check_gamma(gamma)
    if rule == "euler":
        return step / (1 - gamma)
    if not isinstance(gamma, Tensor) and gamma == 0:
        raise ValueError(
            "`gamma` is 0, which the exponential rule reaches only for ε = 0; use "
            'rule="euler" (ε = h) or a small positive gamma'
        )
    log = torch.log(gamma) if isinstance(gamma, Tensor) else math.log(gamma)
    return -step / log


def check_rule(rule):
    """Raise unless ``rule`` is one of the two readings of γ."""
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {RULES}, got {rule!r}")


def check_gamma(gamma):
    """Raise unless every momentum lies in [0, 1)."""
    if isinstance(gamma, Tensor):
        fine = bool(((gamma >= 0) & (gamma < 1)).all())
    else:
        fine = 0 <= gamma < 1
    if not fine:
        raise ValueError(
            f"`gamma` must lie in [0, 1), got {describe(gamma)}; 0 is the residual "
            "network, values near 1 keep the most momentum"
        )


def positive(value, name, zero=False):
    """Return ``value`` as float or Tensor if finite and > 0 (or ≥ 0), or raise."""
    if not isinstance(value, Tensor):
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"`{name}` must be a float or a tensor, got {type(value).__name__}"
            ) from None
    number = torch.as_tensor(value).detach()
    if not number.is_floating_point():
        raise TypeError(f"`{name}` must be real floating point, got {number.dtype}")
    fine = number >= 0 if zero else number > 0
    if not bool((fine & number.isfinite()).all()):
        limit = ">= 0" if zero else "> 0"
        advice = ""
        if name == "epsilon":
            advice = "; for a first-order ODE use a small value such as 1e-6"
        raise ValueError(
            f"`{name}` must be finite and {limit}, got {describe(value)}{advice}"
        )
    return value


def plain(value):
    """A number as float64 tensor or, where it is scalar and fixed, as float."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0 and not value.requires_grad:
        return value.item()
    return value.double()


def strangers(value, known, more=()):
    """First leaf of a graph that is in neither of two collections, or None.

    ``known`` is a set of tensor ids, ``more`` a few tensors.
    """
    mine = {id(leaf) for leaf in more}
    if value.grad_fn is None:
        lost = value.requires_grad and id(value) not in known and id(value) not in mine
        return value if lost else None
    seen, todo = {None}, [value.grad_fn]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known and id(leaf) not in mine:
            return leaf
        todo.extend(parent for parent, _ in node.next_functions)
    return None


def hold(module, name, value):
    """Keep a number on a module: tensors as buffers, so that they move with it."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def callable_field(field, name="field"):
    """Return ``field`` if it can be called, or raise."""
    if not callable(field):
        raise TypeError(
            f"`{name}` must be callable, such as a function or an nn.Module, "
            f"got {type(field).__name__}"
        )
    return field


def is_matrix(value):
    """Whether ``value`` is a square matrix (rather than one number per coordinate)."""
    return isinstance(value, Tensor) and value.ndim == 2 and len(set(value.shape)) == 1


def modal_damping(mass, damping):
    """Diagonalise M and C together: S with SᵀMS = I, SᵀCS = diag(Λ).  Returns S, Λ."""
    size = len(mass) if is_matrix(mass) else len(damping)
    matrices = {}
    for name, value in {"mass": mass, "damping": damping}.items():
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"`{name}` is learned beside a matrix; eigenvectors of repeated "
                "dampings have no gradient, so learn per-coordinate values instead"
            )
        value = torch.as_tensor(value, dtype=torch.float64)
        if not is_matrix(value):
            value = torch.diag(value.expand(size))
        if value.shape != (size, size) or not bool(value.isfinite().all()):
            raise ValueError(
                f"`{name}` must be a finite ({size}, {size}) matrix, got {value}"
            )
        if not torch.allclose(value, value.mT, rtol=1e-12, atol=0):
            raise ValueError(
                f"`{name}` must be symmetric; move its antisymmetric (gyroscopic) part "
                "into the field of an `Acceleration`"
            )
        matrices[name] = value
    values, vectors = torch.linalg.eigh(matrices["mass"])
    if values[0] <= 0:
        raise ValueError(
            f"`mass` must be positive definite, its least eigenvalue is {values[0]:.3g}"
        )
    root = vectors / values.sqrt()  # M^{-1/2} up to rotation
    dampings, rotation = torch.linalg.eigh(root.mT @ matrices["damping"] @ root)
    if dampings[0] < -1e-12 * dampings.abs().max():
        raise ValueError(
            "`damping` must be positive semidefinite, its least modal value is "
            f"{dampings[0]:.3g}"
        )
    return root @ rotation, dampings.clamp(min=0)


def describe(value):
    """A short text for a number or tensor in messages."""
    if not isinstance(value, Tensor):
        return f"{value!r}"
    if value.numel() == 1:
        return f"{value.item():.6g}"
    low, high = value.detach().min().item(), value.detach().max().item()
    return f"tensor{tuple(value.shape)} in [{low:.6g}, {high:.6g}]"
