"""The numbers of the splitting methods; ``so.METHODS`` holds them by name.

References: Blanes & Moan, J. Comput. Appl. Math. 142 (2002), tables 2-3 (SRKN);
Chin, Phys. Lett. A 226 (1997), eqs. (20)-(24); Kahan & Li, Math. Comp. 66 (1997);
McLachlan, SIAM J. Sci. Comput. 16 (1995), section 4; Tao, Phys. Rev. E 94 (2016),
eq. (2), for doubled phase spaces.
"""

import math
from collections.abc import Sequence

from .splitting import Flows, Splitting


def symmetric(letters: str, *fractions: float) -> Flows:
    """A palindromic step: ``fractions`` up to the middle flow, then mirrored.

    The two ``letters`` alternate, the first one opens and closes the step.
    """
    half = [(letters[i % 2], w) for i, w in enumerate(fractions)]
    return (*half, *reversed(half[:-1]))


def doubled(*weights: float) -> Flows:
    """Compose the order-2 step A½ W½ V W½ A½ of velocity doubling over ``weights``."""
    flows = [("A", 0.0)]
    for w in weights:
        flows[-1] = ("A", flows[-1][1] + w / 2)
        flows += [("W", w / 2), ("V", w), ("W", w / 2), ("A", w / 2)]
    # M acts on the difference of the velocities alone, which A leaves alone up to the
    # common damping: they commute, so M may stand before A and let A's merge.
    return (*flows[:-1], ("M", 1.0), flows[-1])


def leapfrogs(*weights: float) -> Flows:
    """Compose the order-2 step A½ B A½ over ``weights`` and their mirror image."""
    fractions: list[float] = []
    last = 0.0
    for w in weights:
        fractions += [(last + w) / 2, w]
        last = w
    return symmetric("AB", *fractions)


def remainder(half: Sequence[float], total: float = 1.0) -> tuple[float, ...]:
    """Append what is missing so that the mirrored ``half`` adds up to ``total``."""
    return (*half, total - 2 * sum(half))


def interleave(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """a, b, a, b, ... from two lists of which the first may be one longer."""
    merged = [w for pair in zip(first, second, strict=False) for w in pair]
    return merged + list(first[len(second) :])


# Blanes & Moan 2002, table 3: SRKN 6 (order 4), SRKN 11 and 14 (order 6).  The middle
# coefficient, or the last of the list without one, follows from consistency.
_BM4_B = remainder((0.0829844064174052, 0.396309801498368, -0.0390563049223486))
_BM4_A: tuple[float, ...] = (0.245298957184271, 0.604872665711080)
_BM4_A = (*_BM4_A, 0.5 - sum(_BM4_A))
_BM6_B: tuple[float, ...] = (
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
_BM14_B: tuple[float, ...] = (
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

SPLITTINGS = (
    Splitting(
        name="momentum",
        order=1,
        flows=(("R", 1.0), ("D", 1.0)),
        damping_limit=2.0,
        rule="euler",
        summary="the Momentum ResNet layer, γ = 1 − h/ε",
    ),
    Splitting(
        name="momentum_exponential",
        order=1,
        flows=(("R", 1.0), ("D", 1.0)),
        summary="the Momentum ResNet layer, γ = exp(−h/ε), any h/ε",
    ),
    Splitting(
        name="verlet",
        order=2,
        flows=symmetric("RD", 0.5, 1.0),
        summary="the default: one evaluation a step, x and v right for any h/ε",
    ),
    Splitting(
        name="blanes_moan4",
        order=4,
        flows=symmetric("BA", *interleave(_BM4_B, _BM4_A)),
        damping_limit=11.0,
        summary="the default at order 4, for moderate h/ε",
    ),
    Splitting(
        name="blanes_moan6",
        order=6,
        flows=symmetric("BA", *interleave(_BM6_B, _BM6_A)),
        damping_limit=23.0,
        summary="tight tolerances, 1e-6 to 1e-9",
    ),
    Splitting(
        name="blanes_moan6_long",
        order=6,
        flows=symmetric("AB", *interleave(_BM14_A, _BM14_B)),
        damping_limit=59.0,
        summary="order 6 with larger steps and stronger damping",
    ),
    Splitting(
        name="kahan_li8",
        order=8,
        flows=leapfrogs(*_KL8),
        damping_limit=15.0,
        summary="the tightest tolerances, long undamped orbits",
    ),
    Splitting(
        name="chin4",
        order=4,
        flows=symmetric("AN", 0.5 - _CHIN, 0.5, 2 * _CHIN),
        force_gradient=((2 - math.sqrt(3)) / 12, 0.25),
        summary="order 4 with positive substeps, stiff damping, any h/ε",
    ),
    Splitting(
        name="velocity_doubling",
        order=2,
        flows=doubled(1.0),
        summary="velocity: only mild, beside strong damping; else coupled_rk4",
    ),
    Splitting(
        name="velocity_doubling4",
        order=4,
        flows=doubled(*_ML4, *reversed(_ML4[:-1])),
        damping_limit=21.0,
        summary="the same at order 4",
    ),
)
