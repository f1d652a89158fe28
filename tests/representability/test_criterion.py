"""Verdicts on named examples and on random matrices of known Jordan structure."""

import math
from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import complex_jordan, jordan, jordan_matrix, orthogonal, similar
from scipy.linalg import block_diag

from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    is_representable,
)

# γ = 2√2 − 2 puts the threshold of two layers, −γ − γ²/4, at −1: matrices with integer
# entries then meet the critical value exactly.
AT_MINUS_ONE = Discrete(2, 2 * math.sqrt(2) - 2)


def partitions(n, largest=None):
    """Return all decreasing tuples of positive integers with sum n."""
    largest = n if largest is None else largest
    if n == 0:
        return [()]
    return [
        (k, *rest)
        for k in range(min(n, largest), 0, -1)
        for rest in partitions(n - k, k)
    ]


def images(sizes, order):
    """Return the block sizes over the critical value of blocks ``sizes`` over θ*."""
    split = [size // order + (i < size % order) for size in sizes for i in range(order)]
    return tuple(sorted((size for size in split if size), reverse=True))


def expected(blocks, m):
    """Decide by definition: which structures have a preimage, by enumeration."""
    sizes = {}
    for value, size in blocks:
        sizes.setdefault(value, []).append(size)
    for value, found in sizes.items():
        found = tuple(sorted(found, reverse=True))
        if m.fold and abs(value - m.fold.value) < 1e-12:
            reached = (
                {images(p, m.fold.order) for p in partitions(sum(found))}
                if (m.fold.order)
                else set()
            )
            if found not in reached:
                return False
        elif value < m.threshold and any(c % 2 for c in Counter(found).values()):
            return False
    return True


# -- named examples ------------------------------------------------------------------

NAMED = [
    ("-1", [[-1.0]], False),
    ("diag(-1, 2)", np.diag([-1.0, 2.0]), False),
    ("exchange", [[0.0, 1.0], [1.0, 0.0]], False),
    ("-I2", -np.eye(2), True),
    ("-I3", -np.eye(3), False),
    ("-I4", -np.eye(4), True),
    ("diag(-1, -2)", np.diag([-1.0, -2.0]), False),
    ("diag(-2, 1)", np.diag([-2.0, 1.0]), False),
    ("-0.6 above the threshold", [[-0.6]], True),
    ("zero", np.zeros((3, 3)), True),
    ("J3(0)", jordan(3, 0.0), True),
    ("J2(-0.3)", jordan(2, -0.3), True),
    ("J2(-2)", jordan(2, -2.0), False),
    ("J2(-2) twice", jordan_matrix([(-2, 2)] * 2), True),
    ("J2(-2), J1(-2), J1(-2)", jordan_matrix([(-2, 2), (-2, 1), (-2, 1)]), False),
    ("J3 and J1, each twice", jordan_matrix([(-2, 3), (-2, 1)] * 2), True),
    ("complex pair at -2", complex_jordan(1, -2, 0.1), True),
    ("complex J2 at -2", complex_jordan(2, -2, 0.1), True),
    ("rotation by pi in a plane", block_diag(-np.eye(2), 1.0), True),
    ("reflection", np.diag([1.0, 1.0, -1.0]), False),
]


@pytest.mark.parametrize("name, D, verdict", NAMED, ids=[row[0] for row in NAMED])
def test_named_examples_at_epsilon_one(name, D, verdict):
    assert bool(is_representable(D, Continuous(1.0))) is verdict


FIRST_ORDER = [
    ([[-1.0]], False),
    ([[0.0]], False),
    (np.zeros((2, 2)), False),
    (np.diag([1.0, 0.0]), False),
    (-np.eye(2), True),
    (jordan(3, 1.0), True),
    (jordan_matrix([(-1, 2)] * 2), True),
    (jordan_matrix([(-1, 2), (-1, 1)]), False),
    ([[1e-20]], True),
]


@pytest.mark.parametrize("D, verdict", FIRST_ORDER)
def test_first_order_is_culvers_theorem(D, verdict):
    assert bool(is_representable(D, FirstOrder())) is verdict


def test_odd_numbers_of_layers_reach_everything_even_ones_do_not():
    for D in ([[-5.0]], jordan(3, -5.0), np.diag([-5.0, -6.0])):
        assert is_representable(D, Discrete(5, 0.9))
        assert not is_representable(D, Discrete(4, 0.9))
    # Below the principal threshold −0.845, above the global one −1.614.
    assert is_representable([[-1.0]], Discrete(4, 0.9))
    assert is_representable([[-7.0]], Discrete(1, 0.5))


def test_residual_networks_split_a_nilpotent_part_into_groups():
    four, three = Discrete(4, 0.0), Discrete(3, 0.0)
    for sizes, in_four, in_three in [
        ((1,), True, True),
        ((2,), False, False),
        ((2, 1, 1), False, True),
        ((2, 1, 1, 1), True, True),
        ((2, 2, 1, 1, 1, 1, 1, 1), True, True),
        ((3, 1, 1, 1), False, False),
    ]:
        D = block_diag(jordan_matrix([(0, size) for size in sizes]), 2.0)
        assert bool(is_representable(D, four)) is in_four
        assert bool(is_representable(D, three)) is in_three
    assert is_representable([[-1.0]], three)
    assert not is_representable([[-1.0]], four)


@pytest.mark.parametrize(
    "m", [Continuous(0.5), AT_MINUS_ONE, Discrete(4, 0.0)], ids=str
)
def test_every_partition_at_the_critical_value_is_judged_as_by_enumeration(m):
    for n in range(1, 7):
        for sizes in partitions(n):
            blocks = [(m.fold.value, size) for size in sizes]
            verdict = is_representable(jordan_matrix(blocks), m)
            assert bool(verdict) is expected(blocks, m), sizes


# -- random structures ---------------------------------------------------------------

VALUES = [-3, -2, -1, 0, 2]
BLOCKS = st.lists(
    st.tuples(st.sampled_from(VALUES), st.integers(1, 3)), min_size=1, max_size=5
)
PAIRED = st.lists(
    st.tuples(st.sampled_from(VALUES[:3]), st.integers(1, 3)), min_size=1, max_size=2
)
MODELS = [Continuous(1.0), Continuous(0.05), FirstOrder(), AT_MINUS_ONE,
          Discrete(4, 0.0), Discrete(3, 0.9)]  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(blocks=BLOCKS, paired=PAIRED, seed=st.integers(0, 2**32 - 1))
def test_verdict_on_integer_matrices_with_known_blocks(blocks, paired, seed):
    rng = np.random.default_rng(seed)
    for structure in (blocks, paired * 2):
        D = similar(rng, jordan_matrix(structure))
        for m in MODELS:
            verdict = is_representable(D, m)
            assert bool(verdict) is expected(structure, m), (m, verdict.reason)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-3, 3), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_verdict_on_symmetric_matrices_with_real_eigenvalues(values, seed):
    m = Continuous(0.5)
    values = [v for v in values if abs(v - m.threshold) > 1e-9]
    values = [v for i, v in enumerate(values) if i % 2 or v not in values[:i]]
    distinct = sorted(values)
    if not distinct or any(
        0 < b - a < 1e-6 for a, b in zip(distinct, distinct[1:], strict=False)
    ):
        return
    Q = orthogonal(np.random.default_rng(seed), len(values))
    counts = Counter(v for v in values if v < m.threshold)
    verdict = is_representable(Q @ np.diag(values) @ Q.T, m)
    assert bool(verdict) is all(count % 2 == 0 for count in counts.values())


def test_representable_sets_grow_with_epsilon_and_agree_with_the_parity_rule():
    rng = np.random.default_rng(0)
    for D in 0.5 * rng.standard_normal((30, 5, 5)) / np.sqrt(5):
        models = [FirstOrder(), *map(Continuous, (0.1, 0.3, 1.0, 3.0))]
        verdicts = [bool(is_representable(D, m)) for m in models]
        assert verdicts == sorted(verdicts)
        eigenvalues = np.linalg.eigvals(D)
        real = eigenvalues[eigenvalues.imag == 0].real
        assert verdicts == [not (real < m.threshold).any() for m in models]


# -- what floating point can decide ---------------------------------------------------


def test_simple_eigenvalues_are_compared_at_thirteen_digits():
    for m in (Continuous(1.0), Continuous(0.01), Discrete(8, 0.9)):
        assert is_representable([[m.threshold]], m)
        assert is_representable([[m.threshold * (1 - 1e-12)]], m)
        assert not is_representable([[m.threshold * (1 + 1e-12)]], m)


def test_thresholds_that_underflow_are_compared_in_logarithms():
    m = Continuous(5e-4)  # log |λ| = −994, and −1e-320 is below
    assert m.threshold == 0.0
    assert not is_representable([[-1e-320]], m)
    assert is_representable([[0.0]], m) and is_representable(np.zeros((2, 2)), m)
    assert not is_representable(np.diag([1.0, -1e-10]), Continuous(1e-3))


def test_the_tolerance_decides_what_counts_as_equal_and_is_reported():
    near = np.diag([-2.0, -2.0 - 1e-9])
    m = Continuous(1.0)
    assert not is_representable(near, m)
    assert is_representable(near, m, tolerance=1e-8)
    assert is_representable(near, m, tolerance=1e-8).tolerance == 1e-8
    assert is_representable([[-2.0, -1e-6], [1e-6, -2.0]], m)  # a pair, resolved
    # A Jordan block, not a pair, although its eigenvalues are −2 ± 1e-9i.
    assert not is_representable([[-2.0, 1.0], [-1e-18, -2.0]], m)


def test_verdicts_survive_rounding_of_the_basis():
    rng = np.random.default_rng(1)
    for _ in range(10):
        Q = orthogonal(rng, 6)
        good = jordan_matrix([(-2, 2), (-2, 2), (1, 2)])
        bad = jordan_matrix([(-2, 3), (-2, 1), (1, 2)])
        assert is_representable(Q @ good @ Q.T, Continuous(1.0))
        assert not is_representable(Q @ bad @ Q.T, Continuous(1.0))


# -- the sentence --------------------------------------------------------------------


def test_the_reason_names_eigenvalue_threshold_and_multiplicity():
    no = is_representable(np.diag([-1.0, 2.0]), Continuous(1.0))
    assert "-1 lies below the threshold -0.613" in no.reason and "simple" in no.reason
    no = is_representable(-2 * np.eye(3), Continuous(1.0))
    assert "3 times, an odd number" in no.reason
    no = is_representable(jordan(2, -2.0), FirstOrder())
    assert "block of size 2 occurs once" in no.reason
    no = is_representable(jordan(3, AT_MINUS_ONE.threshold), AT_MINUS_ONE)
    assert "critical value -1" in no.reason and "(3, 0)" in no.reason
    assert "never singular" in is_representable([[0.0]], FirstOrder()).reason
    yes = is_representable(-np.eye(2), Continuous(1.0))
    assert "pair up" in yes.reason and yes.blocks == ((-1.0, (1, 1)),)
    assert "No real eigenvalue" in is_representable(np.eye(2), Continuous(1.0)).reason
    for verdict in (no, yes):
        assert verdict.reason.endswith(".") and verdict.tolerance == 1e-12


def test_tensors_and_lists_are_judged_alike():
    D = [[-1.0, 0.0], [0.0, 2.0]]
    for kind in (np.array, torch.tensor, lambda D: torch.tensor(D, requires_grad=True)):
        assert not is_representable(kind(D), Continuous(1.0))


BAD = [
    (np.zeros((2, 3)), "square"),
    (np.zeros(4), "square"),
    (-1.0, "square"),
    (np.zeros((0, 0)), "square"),
    ([[1j]], "real"),
    (torch.ones(1, 1, dtype=torch.complex64), "real"),
    ([[math.nan]], "finite"),
    ([[1.0, math.inf], [0.0, 1.0]], "finite"),
    ([["a"]], "real numbers"),
]


@pytest.mark.parametrize("D, word", BAD)
def test_bad_matrices_raise_with_advice(D, word):
    with pytest.raises(ValueError, match=f"`D` must .*{word}"):
        is_representable(D, Continuous(1.0))


def test_a_bad_tolerance_raises():
    for tolerance in (0.0, 1.0, -1e-3):
        with pytest.raises(ValueError, match="`tolerance`"):
            is_representable(np.eye(2), Continuous(1.0), tolerance=tolerance)


def test_enumeration_itself_knows_the_split_of_a_block_over_the_fold():
    # J_k over θ*: the matrix θ* + J has these block sizes over λ, by ranks.
    m = Continuous(0.5)
    for k in range(1, 6):
        K = m.response(jordan(k, m.minimiser)) - m.threshold * np.eye(k)
        ranks = [
            np.linalg.matrix_rank(np.linalg.matrix_power(K, p), tol=1e-6)
            for p in range(k + 1)
        ]
        widths = -np.diff(ranks)
        sizes = tuple(int(np.sum(widths > i)) for i in range(widths[0]))
        assert sizes == images((k,), 2)
    pairs = combinations_with_replacement(range(1, 5), 2)
    assert all(images((a + b,), 2) != (a, b) or a - b <= 1 for b, a in pairs)
