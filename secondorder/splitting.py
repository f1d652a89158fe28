"""Splitting methods as tables of numbers, and the plans they make.

One step composes exact flows of the parts of m ẍ + c ẋ = f (λ = c/m, φ(z) = (1−e⁻ᶻ)/z):

    A(s)  damped flight     x += s φ(λs) v;  v *= e^{−λs};  t += s
    B(s)  kick              v += s f(t, x)/m
    N(s)  nested kick       v += s f(t, x + α h² tanhc(αλh/c∞) f(t, x)/m)/m
    D(s)  drift             x += s v;  t += s
    R(s)  relaxation        v ← e^{−λs} v + s φ(λs) f(t, x)/m
    V(s), W(s)              kicks of the two velocities of velocity doubling
    M                       pulls these two together

With {D, R} and ε ẍ + ẋ = f a step is a layer of a Momentum ResNet,
v ← γ v + (1−γ) f(x), x ← x + h v.  Methods built from {A, B, N} carry the momentum
p = m v instead of v (with c = 1, p = u − x in the variables x, u = x + ε v): their
weights s, (m/c)(1 − e^{−λs})/m and e^{−λs} stay finite as ε → 0, no 1/ε appears.

References: Blanes & Moan, J. Comput. Appl. Math. 142 (2002), tables 2-3 (SRKN);
Chin, Phys. Lett. A 226 (1997), eqs. (20)-(24); Kahan & Li, Math. Comp. 66 (1997);
Tao, Phys. Rev. E 94 (2016) for doubled phase spaces.
"""

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .moves import Damp, Drift, Kick, Record
from .system import check_gamma, plain

KICKS = "BNRVW"
TIMED = "AD"  # the flows that time travels with


@dataclass(frozen=True)
class Splitting:
    """A method: which flows make one step.

    Parameters
    ----------
    order : int
        Order of accuracy of (x, v) as h → 0.
    flows : tuple of (str, float)
        Letters of the module docstring with their fractions of the step.
    damping_limit : float
        Largest h·c/m at which every force with unit k·h stays stable.
    rule : {"exponential", "euler"}
        How a relaxation damps: e^{−z}, or 1 − z as Momentum ResNets read γ.
    nudge : (float, float)
        α and the cap c∞ of the nested kicks.
    mix : float
        Factor on the difference of the doubled velocities, once per step.
    summary : str
        One line saying when to choose it.
    """

    order: int
    flows: tuple[tuple[str, float], ...]
    damping_limit: float = math.inf
    rule: str = "exponential"
    nudge: tuple[float, float] = (0.0, 1.0)
    mix: float = 0.9
    summary: str = ""

    @cached_property
    def evaluations_per_step(self):
        """Evaluations of f per step; a kick shared by two steps counts once."""
        cost = sum({"N": 2}.get(flow, 1) for flow, _ in self.flows if flow in KICKS)
        first, last = self.flows[0][0], self.flows[-1][0]
        return cost - (first == last and first in "BR")

    @cached_property
    def takes_velocity(self):
        """Whether the field may depend on the velocity."""
        return any(flow in "VW" for flow, _ in self.flows)


def symmetric(letters, *fractions):
    """A palindromic step: ``fractions`` up to the middle flow, then mirrored.

    The two ``letters`` alternate, the first one opens and closes the step.
    """
    half = [(letters[i % 2], w) for i, w in enumerate(fractions)]
    return (*half, *reversed(half[:-1]))


def doubled(*weights, mix=True):
    """Compose the order-2 step A½ W½ V W½ A½ of velocity doubling over ``weights``."""
    flows = [("A", 0.0)]
    for w in weights:
        flows[-1] = ("A", flows[-1][1] + w / 2)
        flows += [("W", w / 2), ("V", w), ("W", w / 2), ("A", w / 2)]
    # M acts on the difference of the velocities alone, which A leaves alone up to the
    # common damping: they commute, so M may stand before A and let A's merge.
    return (*flows[:-1], ("M", 1.0), flows[-1])


def leapfrogs(*weights):
    """Compose the order-2 step A½ B A½ over ``weights`` and their mirror image."""
    fractions, last = [], 0.0
    for w in weights:
        fractions += [(last + w) / 2, w]
        last = w
    return symmetric("AB", *fractions)


def remainder(half, total=1.0):
    """Append what is missing so that the mirrored ``half`` adds up to ``total``."""
    return (*half, total - 2 * sum(half))


def interleave(first, second):
    """a, b, a, b, ... from two lists of which the first may be one longer."""
    merged = [w for pair in zip(first, second, strict=False) for w in pair]
    return merged + list(first[len(second) :])


# Blanes & Moan 2002, table 3: SRKN 6 (order 4), SRKN 11 and 14 (order 6).  The middle
# coefficient, or the last of the list without one, follows from consistency.
_BM4_B = remainder((0.0829844064174052, 0.396309801498368, -0.0390563049223486))
_BM4_A = (0.245298957184271, 0.604872665711080)
_BM4_A = (*_BM4_A, 0.5 - sum(_BM4_A))
_BM6_B = (
    0.0414649985182624,
    0.198128671918067,
    -0.0400061921041533,
    0.0752539843015807,
    -0.0115113874206879,
)
_BM6_B = (*_BM6_B, 0.5 - sum(_BM6_B))
_BM6_A = remainder(
    (
        0.123229775946271,
        0.290553797799558,
        -0.127049212625417,
        -0.246331761062075,
        0.357208872795928,
    )
)
_BM14_A = remainder(
    (
        0.0378593198406116,
        0.102635633102435,
        -0.0258678882665587,
        0.314241403071447,
        -0.130144459517415,
        0.106417700369543,
        -0.00879424312851058,
    )
)
_BM14_B = (
    0.09171915262446165,
    0.183983170005006,
    -0.05653436583288827,
    0.004914688774712854,
    0.143761127168358,
    0.328567693746804,
)
_BM14_B = (*_BM14_B, 0.5 - sum(_BM14_B))
# Kahan & Li 1997, the 17-stage order-8 composition of a symmetric order-2 method.
_KL8 = remainder(
    (
        0.13020248308889008087881763,
        0.56116298177510838456196441,
        -0.38947496264484728640807860,
        0.15884190655515560089621075,
        -0.39590389413323757733623154,
        0.18453964097831570709183254,
        0.25837438768632204729397911,
        0.29501172360931029887096624,
    )
)
_CHIN = math.sqrt(3) / 6
# McLachlan 1995, the 5-stage order-4 composition of a symmetric order-2 method.
_ML4 = remainder((0.28, 0.62546642846767))

METHODS = {
    "momentum": Splitting(
        order=1,
        flows=(("R", 1.0), ("D", 1.0)),
        damping_limit=2.0,
        rule="euler",
        summary="the Momentum ResNet layer, γ = 1 − h/ε",
    ),
    "momentum_exponential": Splitting(
        order=1,
        flows=(("R", 1.0), ("D", 1.0)),
        summary="the Momentum ResNet layer, γ = exp(−h/ε), any h/ε",
    ),
    "verlet": Splitting(
        order=2,
        flows=symmetric("RD", 0.5, 1.0),
        summary="the default: one evaluation a step, x and v right for any h/ε",
    ),
    "blanes_moan4": Splitting(
        order=4,
        flows=symmetric("BA", *interleave(_BM4_B, _BM4_A)),
        damping_limit=11.0,
        summary="the default at order 4, for moderate h/ε",
    ),
    "blanes_moan6": Splitting(
        order=6,
        flows=symmetric("BA", *interleave(_BM6_B, _BM6_A)),
        damping_limit=23.0,
        summary="tight tolerances, 1e-6 to 1e-9",
    ),
    "blanes_moan6_long": Splitting(
        order=6,
        flows=symmetric("AB", *interleave(_BM14_A, _BM14_B)),
        damping_limit=59.0,
        summary="order 6 with larger steps and stronger damping",
    ),
    "kahan_li8": Splitting(
        order=8,
        flows=leapfrogs(*_KL8),
        damping_limit=15.0,
        summary="the tightest tolerances, long undamped orbits",
    ),
    "chin4": Splitting(
        order=4,
        flows=symmetric("AN", 0.5 - _CHIN, 0.5, 2 * _CHIN),
        nudge=((2 - math.sqrt(3)) / 12, 0.25),
        summary="order 4 with positive substeps, stiff damping, any h/ε",
    ),
    "velocity_doubling": Splitting(
        order=2,
        flows=doubled(1.0),
        summary="forces that depend on the velocity, any linear damping",
    ),
    "velocity_doubling4": Splitting(
        order=4,
        flows=doubled(*_ML4, *reversed(_ML4[:-1])),
        damping_limit=21.0,
        summary="the same at order 4",
    ),
}


def step_counts(t, step_size=None):
    """Steps per interval of the grid: ceil(Δt / step_size), one without a step size.

    ``t`` has shape ``(n,)`` or ``(batch, n)``; samples share the largest count.
    """
    spans = t.detach().double().diff().abs().cpu()
    if step_size is None or not t.numel():  # an empty batch has no spans to divide
        return [1] * spans.shape[-1]
    if spans.ndim == 2:
        spans = spans.amax(0)
    # An interval that is a multiple of the step up to the rounding of the times (in
    # their own dtype) gets no extra step.
    slack = 4 * torch.finfo(t.dtype).eps * t.detach().abs().max().item()
    counts = ((spans - slack) / step_size).ceil()
    return [max(1, int(n)) for n in counts.tolist()]


def compile_plan(method, system, t, counts, like, gamma=None):
    """The plan of a method on a grid, with a ``Record`` at the end of each interval.

    Parameters
    ----------
    method : Splitting
    system : SecondOrder, Newton or Acceleration
    t : Tensor
        Times ``(n,)``, or ``(batch, n)`` for per-sample grids; may require gradients.
    counts : list of int
        Steps in each of the n − 1 intervals.
    like : Tensor
        The position, whose dtype, device and shape the weights follow.
    gamma : float or Tensor, optional
        The momentum of every step, instead of the one that ε and h give.

    Returns
    -------
    tuple of moves

    Raises
    ------
    ValueError
        If the damping per step is beyond the method's limit.
    """
    mass, damping = (plain(value) for value in (system.mass, system.damping))
    t, spans = grid(t, counts, like)
    check_damping(method, mass, damping, spans)
    fractions = [w for _, w in method.flows]
    letters = [flow for flow, _ in method.flows]
    last = len(letters) - 1
    # Within an interval the closing flow of a step and the opening flow of the next
    # are one flow; flows of exact parts add up, the Euler rule's relaxations do not.
    exact = letters[0] != "R" or method.rule == "exponential"
    joined = letters[0] == letters[last] and exact
    if joined:
        letters = [*letters, letters[0]]
        fractions = [*fractions, fractions[0] + fractions[last]]
    momentum = "R" not in letters  # the velocity slot carries p = m v
    table = [
        flow_moves(method, flow, w, spans, mass, damping, like, gamma)
        for flow, w in zip(letters, fractions, strict=True)
    ]
    scale = 1.0
    sketch, kicks, moved = [], [], True
    if momentum and not is_one(mass):
        if isinstance(mass, Tensor):
            mass = fitting(mass.unsqueeze(0), like).squeeze(0)
        sketch.append(Damp(mass))
        scale = 1 / mass
    for i, count in enumerate(counts):
        for k in range(count):
            passed = 0.0
            for j in range(last + 1):
                flow, w = letters[j], fractions[j]
                if joined and j == 0 and k > 0:
                    passed += w if flow in TIMED else 0.0
                    continue
                merged = joined and j == last and k < count - 1
                for move in table[last + 1 if merged else j][i]:
                    if isinstance(move, Kick):
                        fresh = moved or flow in "NVW"
                        sketch.append(move._replace(fresh=fresh))
                        kicks.append((i, k + passed))
                        moved = False
                    else:
                        sketch.append(move)
                        moved = moved or isinstance(move, Drift)
                passed += w if flow in TIMED else 0.0
        sketch.append(Record(scale))
    times = iter(kick_times(t, spans, kicks, like))
    return tuple(
        move._replace(time=next(times)) if isinstance(move, Kick) else move
        for move in sketch
    )


def grid(t, counts, like):
    """Interval starts and steps h as float64: ``(I,)``, or ``(I, batch, 1, ...)``."""
    steps = torch.tensor(counts, dtype=torch.float64)
    if not t.requires_grad:
        t = t.detach().cpu()
    t = t.double()
    if t.ndim == 2:
        t = t.mT.reshape(t.shape[1], t.shape[0], *[1] * (like.ndim - 1))
        steps = steps.reshape(-1, *[1] * like.ndim)
        if like.device != t.device:
            t = t.to(like.device)
    return t, t.diff(dim=0) / steps.to(t.device)


def kick_times(t, spans, kicks, like):
    """Times of the kicks as tensors of the state's dtype, views of one tensor."""
    if not kicks:
        return []
    index, passed = zip(*kicks, strict=True)
    index = torch.tensor(index, device=t.device)
    passed = torch.tensor(passed, dtype=t.dtype, device=t.device)
    passed = passed.reshape(-1, *[1] * (t.ndim - 1))
    times = fitting(t[index] + passed * spans[index], like)
    if t.ndim == 1:  # what a field makes of it should not be float64 in float32
        times = times.to(torch.promote_types(like.dtype, torch.float32))
    return times.unbind()


def flow_moves(method, flow, fraction, spans, mass, damping, like, gamma):
    """The moves of one flow for each interval: a list of lists of moves."""
    h = spans
    for value in (mass, damping):
        if isinstance(value, Tensor):
            h = h.to(value.device)
            if h.ndim == 1:
                h = h.reshape(-1, *[1] * value.ndim)
    s = fraction * h
    z = s * (damping / mass)

    def each(make, *weights):
        columns = (spread(w, like) for w in weights)
        return [make(*row) for row in zip(*columns, strict=True)]

    if flow == "A" and not isinstance(damping, Tensor) and damping == 0:
        return each(lambda w: [Drift(w)], s / mass)
    if flow == "A":
        free = s / mass * phi(z)
        return each(lambda w, g: [Drift(w), Damp(g)], free, torch.exp(-z))
    if flow == "B":
        return each(lambda w: [Kick(w)], s)
    if flow == "N":
        alpha, cap = method.nudge
        nudge = alpha * h * h / mass * tanhc(alpha / cap * h * (damping / mass))
        return each(lambda w, a: [Kick(w, inner=a)], s, nudge)
    if flow == "D":
        return each(lambda w: [Drift(w)], s)
    if flow == "R" and gamma is not None:
        return [[Damp(gamma), Kick(1 - gamma)]] * len(spans)
    if flow == "R" and method.rule == "euler":
        keep = 1 - z
        # With c = 1 the kick is 1 − γ of the rounded γ: bit for bit the network's.
        return each(
            lambda g, w: [Damp(g), Kick(w)],
            keep,
            1 - keep if is_one(damping) else s / mass,
        )
    if flow == "R":
        push = s / mass * phi(z)
        return each(lambda g, w: [Damp(g), Kick(w)], torch.exp(-z), push)
    if flow in "VW":
        side = 1 if flow == "V" else -1
        return each(lambda w: [Kick(w, side=side)], s / 2)
    return [[Damp(method.mix, lane=1)]] * len(spans)


def spread(weights, like):
    """Weights of the intervals as floats where nothing else is needed, else tensors."""
    if weights.ndim == 1 and not weights.requires_grad:
        return weights.tolist()
    return fitting(weights, like).unbind()


def fitting(numbers, like):
    """Numbers, one per row, ready to be combined with the state row by row."""
    # Scalars do not change the dtype of what they multiply: they keep their digits,
    # which a half precision state lacks.
    if numbers.ndim == 1:
        return numbers.to(like.device)
    return numbers.to(like)


def is_one(value):
    """Whether a number is the float 1, so that multiplying by it can be left out."""
    return not isinstance(value, Tensor) and value == 1.0


def check_damping(method, mass, damping, spans):
    """Raise where h·c/m is beyond what the method damps stably."""
    if math.isinf(method.damping_limit):
        return
    rate = damping / mass
    rate = rate.detach().abs().max().item() if isinstance(rate, Tensor) else abs(rate)
    largest = rate * spans.detach().abs().max().item() if spans.numel() else 0.0
    limit = method.damping_limit
    name = next((name for name, m in METHODS.items() if m is method), "this method")
    if largest > limit or (method.rule == "euler" and largest >= limit):
        raise ValueError(
            f"`step_size` is too large for the damping: h/ε = {largest:.4g}, and "
            f"{name!r} is stable below {limit:g}; take smaller steps, or a method for "
            'any h/ε: "verlet", "momentum_exponential" or "chin4"'
        )
    if method.rule == "euler" and largest > 1:
        warnings.warn(
            f"h/ε = {largest:.4g} > 1 makes the momentum γ = 1 − h/ε negative, which "
            "flips the velocity at each step; take smaller steps or "
            '"momentum_exponential"',
            stacklevel=4,
        )


def momentum_plan(gamma, layers):
    """The plan of a Momentum ResNet: v ← γ v + (1−γ) f_n(x), x ← x + v for n < layers.

    The time of kick n is the integer n, so that the field can pick block n.

    Parameters
    ----------
    gamma : float or Tensor
        γ in [0, 1), scalar or per coordinate.
    layers : int

    Returns
    -------
    tuple of moves
        3·layers moves and no records.
    """
    check_gamma(gamma)
    damp, rest, drift = Damp(gamma), 1 - gamma, Drift(1.0)
    return tuple(m for n in range(layers) for m in (damp, Kick(rest, n), drift))


def phi(z):
    """φ(z) = (1 − e⁻ᶻ)/z, accurate and differentiable at 0."""
    small = z.abs() < 1e-4
    # The double `where` keeps 0/0 out of the branch that is not taken, whose gradient
    # would be nan otherwise.
    safe = torch.where(small, torch.ones_like(z), z)
    series = 1 - z / 2 * (1 - z / 3 * (1 - z / 4))
    return torch.where(small, series, -torch.expm1(-safe) / safe)


def tanhc(z):
    """Evaluate tanh(z)/z, accurate and differentiable at 0."""
    small = z.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(z), z)
    square = z * z
    series = 1 - square / 3 * (1 - 0.4 * square)
    return torch.where(small, series, torch.tanh(safe) / safe)
