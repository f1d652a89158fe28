"""The letters of a splitting method: one function each, from a flow to its moves.

One step composes exact flows of the parts of m ẍ + c ẋ = f (λ = c/m, φ(z) = (1−e⁻ᶻ)/z):

    A(s)  damped flight     x += s φ(λs) v;  v *= e^{−λs};  t += s
    B(s)  kick              v += s f(t, x)/m
    N(s)  nested kick       v += s f(t, x + α h² tanhc(αλh/c∞) f(t, x)/m)/m
    D(s)  drift             x += s v;  t += s
    R(s)  relaxation        v ← e^{−λs} v + s φ(λs) f(t, x)/m
    V(s), W(s)              kicks of the two velocities of velocity doubling
    M                       pulls these two together

With {D, R} and ε ẍ + ẋ = f a step is a layer of a Momentum ResNet,
v ← γ v + (1−γ) f(x), x ← x + h v.  Methods built from the others carry the momentum
p = m v instead of v (with c = 1, p = u − x in the variables x, u = x + ε v): their
weights s, (m/c)(1 − e^{−λs})/m and e^{−λs} stay finite as ε → 0, no 1/ε appears.

To add a letter, write its function and enter it into ``FLOWS``.

References: Blanes & Moan, J. Comput. Appl. Math. 142 (2002), section 4, for {A, B};
Chin, Phys. Lett. A 226 (1997), eqs. (20)-(24), for N; Sander et al., ICML 2021,
eq. (3), for {D, R}; Tao, Phys. Rev. E 94 (2016), eq. (2), for {V, W, M}.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from ..checks import Number, differentiated
from .moves import Damp, Drift, Kick, Move

MOST_PARTS = 1000  # of one exact flow
Columns = list[list[Move]]  # the moves of a flow, for each interval of the grid


class Table(Protocol):
    """The numbers of a splitting method that a plan is made from."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def damping_limit(self) -> float:
        """Largest h·c/m."""

    @property
    def flows(self) -> tuple[tuple[str, float], ...]:
        """Letters with their fractions of a step."""

    @property
    def rule(self) -> str:
        """How R damps: ``"exponential"`` or ``"euler"``."""

    @property
    def force_gradient(self) -> tuple[float, float]:
        """α and the cap c∞ of N."""

    @property
    def copy_damping(self) -> float:
        """The factor of M."""


class Numbers(NamedTuple):
    """What the moves of a solve are computed from.

    Attributes
    ----------
    table : Table
    steps : Tensor
        h, one row per interval, float64.
    mass, damping : float or Tensor
    like : Tensor
        The position, for its dtype, device and shape.
    gamma : float or Tensor, optional
        The momentum of a whole relaxation, where it rather than ε was given.
    """

    table: Table
    steps: Tensor
    mass: Number
    damping: Number
    like: Tensor
    gamma: Number | None = None
    stiffness: Number | None = None

    @property
    def h(self) -> Tensor:
        """The steps, shaped so as to multiply masses and dampings."""
        h = self.steps
        for value in (self.mass, self.damping, self.stiffness):
            if isinstance(value, Tensor):
                h = h.to(value.device)
                if h.ndim == 1:
                    h = h.reshape(-1, *[1] * value.ndim)
        return h


def flight(n: Numbers, fraction: float) -> Columns:
    """A: x += s φ(λs) p/m, p *= e^{−λs}."""
    if n.stiffness is not None:
        return stiff_flight(n, fraction)
    s = fraction * n.h
    if not isinstance(n.damping, Tensor) and n.damping == 0:
        return columns(lambda w: [Drift(w)], n.like, s / n.mass)
    z = s * (n.damping / n.mass)
    free = s / n.mass * phi(z)
    return columns(lambda w, g: [Drift(w), Damp(g)], n.like, free, torch.exp(-z))


def stiff_flight(n: Numbers, fraction: float) -> Columns:
    """A with a stiffness: the exact flow of m ẍ + c ẋ + k x = 0, by three shears.

    With λ = c/m and κ = k/m the flow of (x, v) over τ is [[1 − κ q, b], [−κ b, ·]] of
    determinant e^{−λτ}, where q″ + λq′ + κq = 1 from rest and b = q′.  It equals a
    drift, a kick by the spring, a drift and a damp.
    """
    kappa = cast(Number, n.stiffness) / n.mass
    rate = n.damping / n.mass
    tau = fraction * n.h
    kappa, rate, tau = torch.broadcast_tensors(
        *(torch.as_tensor(a, dtype=torch.float64, device=n.h.device)
          for a in (kappa, rate, tau))
    )  # fmt: skip
    undamped = not isinstance(n.damping, Tensor) and n.damping == 0
    if undamped:  # whole turns change nothing
        bound = kappa > 0
        omega = torch.where(bound, kappa, torch.ones_like(kappa)).sqrt()
        turn = 2 * torch.pi / omega
        tau = torch.where(bound, tau - turn * (tau / turn).detach().round(), tau)
    angle = (tau.abs() * kappa.abs().sqrt()).detach() * 2 / torch.pi
    widest = torch.maximum(angle, (rate * tau).abs().detach())
    most = widest.max().item() if widest.numel() else 0.0
    if not most < MOST_PARTS:
        raise ValueError(
            f"`step_size` times the rates of `stiffness` and `damping` is {most:.3g}, "
            f"beyond {MOST_PARTS}, the most parts of one flow; take smaller steps"
        )
    parts = max(1, math.ceil(most))
    tau = tau / parts
    b, q = responses(kappa * tau * tau, rate * tau)
    _, back = responses(kappa * tau * tau, -rate * tau)
    g = torch.exp(-rate * tau)
    first, last = g * tau * back / b / n.mass, g * tau * q / b / n.mass
    pull = -kappa * tau * b / g * n.mass

    def make(a: Number, w: Number, c: Number, damp: Number) -> list[Move]:
        part: list[Move] = [Drift(a), Kick(w, spring=True), Drift(c)]
        if not undamped:
            part.append(Damp(damp))
        return part * parts

    return columns(make, n.like, first, pull, last, g)


def responses(kappa: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Return q′ and q at time 1, where q″ + λ q′ + κ q = 1 from rest; any signs."""
    zero, one = torch.zeros_like(kappa), torch.ones_like(kappa)
    rows = (zero, one, zero), (-kappa, -rate, one), (zero, zero, zero)
    flow = torch.matrix_exp(torch.stack([torch.stack(row, -1) for row in rows], -2))
    return flow[..., 0, 1], flow[..., 0, 2]


def kick(n: Numbers, fraction: float) -> Columns:
    """B: p += s f."""
    return columns(lambda w: [Kick(w)], n.like, fraction * n.h)


def nested_kick(n: Numbers, fraction: float) -> Columns:
    """N: p += s f(x + α h² tanhc(αλh/c∞) f/m)."""
    alpha, cap = n.table.force_gradient
    h, mass, damping = n.h, n.mass, n.damping
    s = fraction * h
    inner = alpha * h * h / mass * tanhc(alpha / cap * h * (damping / mass))
    return columns(lambda w, a: [Kick(w, inner=a)], n.like, s, inner)


def drift(n: Numbers, fraction: float) -> Columns:
    """D: x += s v."""
    return columns(lambda w: [Drift(w)], n.like, fraction * n.h)


def relaxation(n: Numbers, fraction: float) -> Columns:
    """R: v ← g v + w f with g = e^{−z}, or 1 − z by the Euler rule."""
    if n.gamma is not None:
        return [[Damp(n.gamma), Kick(1 - n.gamma)]] * len(n.h)
    s = fraction * n.h
    z = s * (n.damping / n.mass)
    if n.table.rule == "euler":
        keep = 1 - z
        # With c = 1 the kick is 1 − γ of the rounded γ: bit for bit the network's.
        push = 1 - keep if is_one(n.damping) else s / n.mass
    else:
        push = s / n.mass * phi(z)
        keep = torch.exp(-z)
    return columns(lambda g, w: [Damp(g), Kick(w)], n.like, keep, push)


def kick_first(n: Numbers, fraction: float) -> Columns:
    """V: kick the copy v + e by the force that v − e sees."""
    return columns(lambda w: [Kick(w, velocity_copy=1)], n.like, fraction * n.h / 2)


def kick_second(n: Numbers, fraction: float) -> Columns:
    """W: kick the copy v − e by the force that v + e sees."""
    return columns(lambda w: [Kick(w, velocity_copy=-1)], n.like, fraction * n.h / 2)


def pull_together(n: Numbers, fraction: float) -> Columns:
    """M: e ← μ e."""
    return [[Damp(n.table.copy_damping, gap_only=True)]] * len(n.h)


class Flow(NamedTuple):
    """What a letter stands for.

    Attributes
    ----------
    moves : callable
        ``moves(numbers, fraction)``, the moves for each interval.
    time, push : float
        How far a fraction of 1 carries the time, and how much of f it adds.
    evaluations : int
    momentum : bool
        Whether the flow acts on p = m v rather than on v.
    regroups : bool
        Whether its kick needs a force of its own, whatever was evaluated just before.
    """

    moves: Callable[[Numbers, float], Columns]
    time: float = 0.0
    push: float = 0.0
    evaluations: int = 0
    momentum: bool = True
    regroups: bool = False


FLOWS = {
    "A": Flow(flight, time=1.0),
    "B": Flow(kick, push=1.0, evaluations=1),
    "N": Flow(nested_kick, push=1.0, evaluations=2, regroups=True),
    "D": Flow(drift, time=1.0, momentum=False),
    "R": Flow(relaxation, push=1.0, evaluations=1, momentum=False),
    "V": Flow(kick_first, push=0.5, evaluations=1, regroups=True),
    "W": Flow(kick_second, push=0.5, evaluations=1, regroups=True),
    "M": Flow(pull_together),
}


def columns(
    make: Callable[..., Sequence[Move]], like: Tensor, *weights: Tensor
) -> Columns:
    """Moves for each interval from the weights, one row per interval, of each."""
    rows = zip(*(per_interval(w, like) for w in weights), strict=True)
    return [list(make(*row)) for row in rows]


def per_interval(weights: Tensor, like: Tensor) -> Sequence[Number]:
    """Weights of the intervals as floats where nothing else is needed, else tensors."""
    if weights.ndim == 1 and not differentiated(weights):
        return weights.tolist()
    return to_state_dtype(weights, like).unbind()


def to_state_dtype(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers, one per row, ready to be combined with the state row by row."""
    # Scalars do not change the dtype of what they multiply: they keep their digits,
    # which a half precision state lacks.
    if numbers.ndim == 1:
        return numbers.to(like.device)
    return numbers.to(like)


def is_one(value: object) -> bool:
    """Whether a number is the float 1, so that multiplying by it can be left out."""
    return not isinstance(value, Tensor) and value == 1.0


def phi(z: Tensor) -> Tensor:
    """φ(z) = (1 − e⁻ᶻ)/z, accurate and differentiable at 0."""
    small = z.abs() < 1e-4
    # The double `where` keeps 0/0 out of the branch that is not taken, whose gradient
    # would be nan otherwise.
    safe = torch.where(small, torch.ones_like(z), z)
    series = 1 - z / 2 * (1 - z / 3 * (1 - z / 4))
    return torch.where(small, series, -torch.expm1(-safe) / safe)


def tanhc(z: Tensor) -> Tensor:
    """Evaluate tanh(z)/z, accurate and differentiable at 0."""
    small = z.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(z), z)
    square = z * z
    series = 1 - square / 3 * (1 - 0.4 * square)
    return torch.where(small, series, torch.tanh(safe) / safe)
