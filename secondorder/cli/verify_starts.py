"""Two more parts of ``verify``: the paper's statements, and where the flow starts.

    (d) paper    the formula of Ψ_ε, "up to a factor", ε → 0 and ε → ∞
    (e) starts   T1–T6: force, c x₀, least norms, chances, data, one more channel

Witnesses are run by ``SecondOrderODE`` and ``MomentumNet``.

Reference: Sander, Ablin, Blondel, Peyré, "Momentum Residual Neural Networks", ICML
2021, section 4, for (d).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models import MomentumNet, SecondOrderODE
from ..representability import (
    Continuous,
    Discrete,
    FirstOrder,
    extend,
    integrate,
    is_representable,
    loss_floor,
    max_scale,
    min_norm,
    planar_probability,
    represent,
    steer,
)
from ..representability.propagator import Propagator
from .verify_table import Check, below, distance, progress

Array = NDArray[np.float64]


def gauss(rng: np.random.Generator, highest: int = 5) -> Array:
    """Return a random matrix of random size."""
    d = int(rng.integers(1, highest + 1))
    return rng.standard_normal((d, d))


def solved(D: Array, m: Propagator) -> float:
    """Return ‖x(T) − D‖/‖D‖ of a witness that the library's solver runs."""
    options: dict[str, Any] = {"steps": 400, "method": "blanes_moan6"}
    network: Any = SecondOrderODE
    if isinstance(m, Discrete):
        network, options = MomentumNet, {"gradient": "backprop"}
    found = integrate(represent(D, m).theta, m, network, **options)
    return distance(np.asarray(found), D)


# -- (d) the paper -------------------------------------------------------------------


def series(theta: Array, epsilon: float) -> Array:
    """Ψ_ε(θ) as the paper writes it: e^{−1/2ε} Σ (1/(2n)! + 1/2ε(2n+1)!) wⁿ.

    w = θ/ε + I/4ε².
    """
    eye = np.eye(len(theta))
    w = theta / epsilon + eye / (4 * epsilon**2)
    power, total = eye, np.zeros_like(eye)
    for n in range(60):
        head = 1 / math.factorial(2 * n)
        total = total + (head + head / (2 * n + 1) / (2 * epsilon)) * power
        power = power @ w
    return math.exp(-1 / (2 * epsilon)) * total


def check_paper() -> Iterator[Check]:
    """Yield checks of statements of the paper."""
    rng = np.random.default_rng(0)
    error = 0.0
    for _ in range(40):
        theta, epsilon = gauss(rng), float(rng.choice([0.3, 1.0, 4.0]))
        gap = Continuous(epsilon).response(theta) - series(theta, epsilon)
        error = max(error, float(np.abs(gap).max()))
    yield below("d", "Ψ_ε(θ) is the series of the paper", error, 1e-11)
    error, wrong = 0.0, 0
    m = Continuous(0.5)
    for _ in progress(range(15), "up to a factor"):
        D = gauss(rng)
        scale = max_scale(D, m)
        if not math.isfinite(scale):
            continue
        error = max(error, solved(0.99 * scale * D, m))
        wrong += bool(is_representable(1.001 * scale * D, m))
    yield below("d", "αD is reached up to α_max, by odeint", error, 1e-8)
    yield Check("d", "αD is reached beyond α_max", str(wrong), "0", wrong == 0)
    yield from check_limits(gauss(rng, 3))


def check_limits(theta: Array) -> Iterator[Check]:
    """Yield the ends ε → 0 and ε → ∞: λ_ε and Ψ_ε against their limits."""
    # λ = −0.2172 (κ + 1) e^{−κ} (1 + O(κ⁻²)), compared in logarithms.
    depth = 0.217233628211
    ratios = []
    for kappa in (50.0, 100.0, 200.0):
        m = Continuous(1 / (2 * kappa))
        log = math.log(depth * (kappa + 1)) - kappa
        ratios.append(abs(math.expm1(m.log_threshold - log)) * kappa**2)
    passed = abs(ratios[-1] - 10.1) < 0.3
    yield Check("d", "ε → 0: (λ_ε/limit − 1) κ²", f"{ratios[-1]:.2f}", "10.1", passed)
    gaps = [
        np.linalg.norm(Continuous(e).response(theta) - FirstOrder().response(theta))
        for e in (1e-3, 5e-4)
    ]
    slope = float(np.log2(gaps[0] / gaps[1]))
    passed = abs(slope - 1) < 0.02
    yield Check("d", "ε → 0: Ψ_ε(θ) → e^θ, order in ε", f"{slope:.3f}", "1", passed)
    limit = 2 * 1e4 * (1 + Continuous(1e4).threshold)
    passed = abs(limit - 1) < 1e-3
    yield Check("d", "ε → ∞: 2ε(1 + λ_ε)", f"{limit:.5f}", "1 ± 0.001", passed)


# -- (e) where the flow starts -------------------------------------------------------


def check_starts(quick: bool) -> Iterator[Check]:
    """Yield checks of T1 to T6."""
    rng, count = np.random.default_rng(1), 6 if quick else 25
    force = [Continuous(e, start="force") for e in (0.5, 1.0, 5.0)]
    mirrors = [-np.eye(1), np.diag([-1.0, 2.0]), np.array([[-2.0, 1], [0, -2.0]])]
    targets = mirrors + [gauss(rng) for _ in range(count)]
    error = 0.0
    for D in progress(targets, "T1"):
        error = max(error, *(solved(D, m) for m in force))
    yield below("e", "T1 v₀ = f(x₀) reaches every D, by odeint", error, 1e-8)
    layers = [Discrete(5, 0.9, start="force"), Discrete(7, 0.5, start=0.4)]
    error = max(solved(D, m) for m in layers for D in targets)
    yield below("e", "T1 odd layers with a first velocity do, run", error, 1e-8)
    yield from check_proportion(rng, count)
    yield from check_norms(rng, count)
    yield check_planar_law(rng, 20_000 if quick else 200_000)
    yield check_data(rng, count)
    yield check_channel(rng, 4 * count)


def check_proportion(rng: np.random.Generator, count: int) -> Iterator[Check]:
    """Yield T2: thresholds of v₀ = c x₀ are minima, and witnesses run."""
    gap, error = 0.0, 0.0
    for _ in progress(range(count), "T2"):
        m = Continuous(10 ** rng.uniform(-0.5, 1), start=3 * rng.standard_normal())
        reach = abs(m.minimiser) + 5
        theta = m.minimiser + np.linspace(-reach, 0.9 * reach, 20001)
        least = float(np.min(m.response(theta)))
        gap = max(gap, abs(least / m.threshold - 1))
        D = gauss(rng)
        if is_representable(D, m):
            error = max(error, solved(D, m))
    yield below("e", "T2 v₀ = c x₀: λ(c) against the minimum on a grid", gap, 1e-4)
    yield below("e", "T2 witnesses above λ(c), by odeint", error, 1e-8)


def check_norms(rng: np.random.Generator, count: int) -> Iterator[Check]:
    """Yield T3: no θ, tied or not, is shorter than the bound; αI attains it."""
    m, least = Continuous(0.7), math.inf
    for _ in range(10 * count):
        theta = gauss(rng) * 10 ** rng.uniform(-1, 1)
        norm = float(np.linalg.norm(theta, 2))
        least = min(least, norm / min_norm(m.response(theta), m))
    for D in (-np.eye(2), np.diag([-1.0, 2.0]), 3 * np.eye(2)):
        path = steer(D, m.epsilon)
        norms = [np.linalg.norm(path(t), 2) for t in np.linspace(0, path.switch, 50)]
        least = min(least, float(max(norms)) / min_norm(D, m))
    passed = least >= 1 - 1e-9
    yield Check("e", "T3 ‖θ‖ over its bound, least", f"{least:.4f}", "≥ 1", passed)
    sharp = represent(2.5 * np.eye(3), m).optimality
    passed = abs(sharp - 1) < 1e-9
    yield Check("e", "T3 the same for D = 2.5 I", f"{sharp:.9f}", "1", passed)


def check_planar_law(rng: np.random.Generator, draws: int) -> Check:
    """Return T4: the exact planar law against draws, in standard errors."""
    worst = 0.0
    for m in (FirstOrder(), Continuous(0.5), Continuous(3.0)):
        for sigma in (0.3, 1.0):
            a, b, c, d = sigma * rng.standard_normal((4, draws))
            disc = ((a - d) / 2) ** 2 + b * c
            lower = (a + d) / 2 - np.sqrt(np.maximum(disc, 0))
            share = 1 - np.mean((disc > 0) & (lower < m.threshold))
            exact = planar_probability(m, sigma)
            spread = math.sqrt(exact * (1 - exact) / draws)
            worst = max(worst, float(abs(share - exact) / spread))
    what = "T4 planar law against draws, |z|"
    return Check("e", what, f"{worst:.1f}", "< 4", worst < 4)


def check_data(rng: np.random.Generator, count: int) -> Check:
    """Return T5: no θ gets below the floor on data with a covariance."""
    m, least = Continuous(0.5), math.inf
    for _ in range(count):
        D, A = 1.5 * rng.standard_normal((2, 2, 2))
        S = A @ A.T + 0.1 * np.eye(2)
        floor = float(loss_floor(D, m, covariance=S))
        theta = 6 * rng.standard_normal((500, 2, 2))
        error = m.response(theta) - D
        losses = np.sqrt(np.einsum("nij,jk,nik->n", error, S, error))
        if floor > 0:
            least = min(least, float(losses.min()) / floor)
    what = "T5 loss over the floor on data, least of random θ"
    return Check("e", what, f"{least:.3f}", "≥ 1", least >= 1 - 1e-9)


def check_channel(rng: np.random.Generator, count: int) -> Check:
    """Return T6: one zero channel makes maps out of reach representable."""
    m, tried, made = Continuous(1.0), 0, 0
    while tried < count:
        D = gauss(rng)
        if is_representable(D, m):
            continue
        tried += 1
        try:
            made += bool(is_representable(extend(D, m), m))
        except ArithmeticError:
            continue
    what = "T6 maps out of reach that one channel opens"
    return Check("e", what, f"{made}/{tried}", "≥ 95 %", made >= 0.95 * tried)
