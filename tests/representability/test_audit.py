"""What an audit found: no hang, no NaN certificate, no `exact` that is not."""

import copy
import math
import pickle
import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from matrices import jordan, jordan_matrix, orthogonal

from secondorder.representability import (
    Continuous,
    Discrete,
    FirstOrder,
    NotRepresentable,
    is_representable,
    loss_floor,
    max_scale,
    min_epsilon,
    nearest,
    represent,
    steer,
)


@contextmanager
def at_most(seconds):
    """Turn a loop without end into a failure."""

    def stop(*_):
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def honest(D, m):
    """Represent D or raise or warn; return the relative residual, inf if none."""
    size = np.abs(D).max()
    size = size * np.linalg.norm(D / (size or 1.0)) or 1.0
    with at_most(20), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            witness = represent(D, m)
        except (NotRepresentable, ArithmeticError, np.linalg.LinAlgError):
            return math.inf
    assert np.isfinite(witness.residual) and np.isfinite(witness.theta).all()
    relative = witness.residual / size
    told = [w for w in told if "resolves it only to" in str(w.message)]
    assert relative <= 1e-8 or witness.residual <= 1e-12 or told
    return 0.0 if told else relative


# -- overflow and brackets ------------------------------------------------------------


@pytest.mark.parametrize(
    "D, m",
    [
        ([[3.0]], Continuous(2e-4)),
        ([[1e295]], Continuous(1.0)),
        (np.diag([1e300, 1e299]), Continuous(1.0)),
        ([[1e20]], Continuous(1.0)),
        (1e20 * np.array([[1.0, 2.0], [-3.0, 4.0]]), Continuous(1.0)),
        ([[1e300]], Discrete(4, 0.9)),
        ([[1e300]], FirstOrder()),
        ([[1e300]], Continuous(1e5)),
        ([[1e200]], Continuous(1e-5)),
    ],
    ids=str,
)
def test_large_targets_are_reached(D, m):
    assert honest(np.array(D), m) < 1e-10


def test_the_response_overflows_to_infinity_not_to_nan():
    for m in (Continuous(2e-4), Continuous(1.0), Continuous(1.0, start=0.5)):
        for theta in (1e6, 1e100, 1e308):
            assert m.response(theta) == math.inf
            assert m.derivative(theta) == math.inf
        assert math.isfinite(m.response(-1e12))


@pytest.mark.parametrize("m", [Continuous(1.0), Discrete(3, 0.5), FirstOrder()])
@pytest.mark.parametrize("x", [math.nan, math.inf, [1.0, math.nan], complex("nan")])
def test_the_inverse_of_nothing_raises(m, x):
    with at_most(5), pytest.raises(ValueError, match="`x` must be finite"):
        m.inverse(x)


@pytest.mark.parametrize("ratio", [1e-300, 1e-160, 1e160, 1e300])
def test_ratios_beyond_float64_raise(ratio):
    with pytest.raises(ValueError, match="`epsilon`"):
        Continuous(ratio)


def test_other_brackets_end():
    with at_most(10):
        for value in (-5e-324, -1e-308, -1 + 2e-16, -0.5):
            assert 0 < min_epsilon([[value]]) < math.inf
        assert np.isfinite(steer([[1e100]], 1.0)(0.0)).all()
        for size in (1e300, 1.7e308):
            with pytest.raises(OverflowError, match="`D`"):
                steer(size * np.array([[1.0, 1], [-1, 1]]), 1.0)


# -- verdicts, floors and their certificates ------------------------------------------


def test_near_double_planar_maps_have_a_nearest():
    rng = np.random.default_rng(0)
    for _ in range(400):
        A = jordan(2, -1.0) if rng.random() < 0.5 else -np.eye(2)
        Q = orthogonal(rng, 2)
        D = Q @ (A + 10.0 ** rng.uniform(-17, -6) * rng.standard_normal((2, 2))) @ Q.T
        for m in (FirstOrder(), Continuous(0.5)):
            floor = loss_floor(D, m)
            near = nearest(D, m)
            assert near.distance == floor and floor.exact
            gap = np.linalg.norm(near.matrix - D)
            assert gap == pytest.approx(floor, abs=1e-9)


def test_exact_is_judged_against_the_floor():
    assert not loss_floor(np.diag([-1e-8, -2e-8, -4e-8, 1.0]), FirstOrder()).exact
    assert not loss_floor(np.diag([-1e-3, -2e-3, -4e-3, 1e5]), FirstOrder()).exact
    for scale in (1e-200, 1e-12, 1e12, 1e200):
        floor = loss_floor(scale * np.diag([-1.0, -2.0, -4.0]), FirstOrder())
        assert floor == pytest.approx(scale) and not floor.exact
        floor = loss_floor(scale * np.diag([-1.0, 2.0, 3.0]), FirstOrder())
        assert floor == pytest.approx(scale) and floor.exact


def test_graded_maps_get_one_answer_from_verdict_and_floor():
    m = Continuous(0.1)
    for D in (np.diag([1e14, -0.1]), np.diag([-0.1, 1e300]), np.diag([1e8, -0.1, 3])):
        assert not is_representable(D, m)
        assert loss_floor(D, m) == pytest.approx(m.threshold + 0.1, rel=1e-9)
    # Rotated, −0.1 is lost in the rounding of 1e14: both say so.
    Q = orthogonal(np.random.default_rng(0), 2)
    D = Q @ np.diag([1e16, -0.1]) @ Q.T
    assert is_representable(D, m) and loss_floor(D, m) == 0.0


def test_a_floor_of_rounding_size_is_zero():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.standard_normal((2, 4, 3))
        D = a @ b.T  # singular up to rounding
        D = D @ D
        floor = loss_floor(D, FirstOrder())
        assert floor == 0.0 or floor > 1e-14 * np.linalg.norm(D)


def test_minus_one_is_never_reached_from_rest():
    for epsilon in (1e3, 1e13, 1e15, 1e17, 1e50):
        assert not is_representable([[-1.0]], Continuous(epsilon))
        assert not is_representable(np.diag([-1.0, 2.0]), Continuous(epsilon))
    assert is_representable([[-1 + 1e-12]], Continuous(1e13))


def test_a_threshold_that_underflows_is_not_zero():
    m = Discrete(400, 0.01)
    assert m.threshold == 0 and m.log_threshold == pytest.approx(-921, abs=30)
    assert is_representable(jordan(2, 0.0), m)
    assert is_representable(jordan(2, 0.0), Continuous(1e-4))
    assert not is_representable([[-1e-300]], m)
    assert m.log_threshold < math.log(max_scale([[-1.0]], m) or 5e-324)


@pytest.mark.parametrize("delta", [1e-12, 1e-9, 1e-6, 1e-3])
def test_pairs_just_below_the_threshold_have_a_witness(delta):
    for m in (Continuous(0.5), Continuous(5.0), Discrete(4, 0.9), FirstOrder()):
        value = m.threshold * (1 + delta) or -delta
        D = value * np.eye(2)
        assert is_representable(D, m)
        assert represent(D, m).residual <= 2e-12 * (1 + abs(value))


@pytest.mark.parametrize("epsilon", [0.5, 30.0, 1000.0, 14000.0])
def test_witness_at_the_fold_of_any_inertia(epsilon):
    m = Continuous(epsilon)
    D = jordan_matrix([(m.threshold, 2), (m.threshold, 1)])
    witness = represent(D, m)
    assert witness.residual < 1e-13
    assert np.linalg.norm(witness.theta) < 40 * epsilon + 40
    Q = orthogonal(np.random.default_rng(3), 3)
    assert represent(Q @ D @ Q.T, m).residual < 1e-9


# -- what goes in and comes out -------------------------------------------------------


class Net:
    epsilon, t1 = 1.0, 1.0


@pytest.mark.parametrize("m", [1.0, None, Net(), Continuous])
@pytest.mark.parametrize(
    "function", [is_representable, represent, loss_floor, nearest, max_scale]
)
def test_what_is_no_model_raises_with_the_way_across(function, m):
    with pytest.raises(TypeError, match=r"`m` must be.*Continuous.*rep\.of\("):
        function([[0.5]], m)


def test_results_are_copied_and_pickled():
    floor = loss_floor([[-1.0]], FirstOrder())
    for twin in (copy.deepcopy(floor), pickle.loads(pickle.dumps(floor))):
        assert twin == floor and twin.exact and twin.at == floor.at
    with pytest.raises(NotRepresentable) as error:
        represent([[-1.0]], FirstOrder())
    twin = pickle.loads(pickle.dumps(error.value))
    assert str(twin) == str(error.value) and twin.verdict == error.value.verdict


@pytest.mark.parametrize("m", [Discrete(4, 0.0), Discrete(1, 0.5), Discrete(3, 0.5)])
def test_the_inverse_is_float64_inside(m):
    x = np.float32(0.3)
    for points in (x, np.array([x, 2 * x])):
        roots = m.inverse(points)
        assert np.asarray(roots).dtype == np.float64
        assert np.abs(m.response(roots) - points).max() < 1e-14


def test_verdicts_hold_plain_numbers():
    verdict = is_representable(-2 * np.eye(2), Continuous(1.0))
    assert "np." not in repr(verdict) and type(verdict.blocks[0][0]) is float
    assert type(represent(torch.eye(2), Continuous(1.0)).residual) is float


# -- the search -----------------------------------------------------------------------


def random_case(rng):
    """Draw (D, model) from the corners: scales, Jordan structures, bad bases."""
    sizes = rng.integers(1, 4, rng.integers(1, 4))
    scale = 10.0 ** rng.uniform(-300, 299) if rng.random() < 0.5 else 1.0
    pool = [0.0, 1.0, -1.0, -0.3, 2.0, 0.1, -1e-8, *rng.standard_normal(2)]
    A = jordan_matrix([(rng.choice(pool), n) for n in sizes])
    if rng.random() < 0.3:
        A = np.kron(np.eye(2), A)
    d = len(A)
    if rng.random() < 0.7:
        U, V = orthogonal(rng, d), orthogonal(rng, d)
        spread = np.logspace(0, rng.uniform(0, 8), d)
        A = U @ (spread[:, None] * (V.T @ A @ V) / spread) @ U.T
    A = A + rng.choice([0.0, 1e-14, 1e-7]) * rng.standard_normal((d, d))
    kind = rng.integers(4)
    if kind == 0:
        m = FirstOrder()
    elif kind == 1:
        m = Discrete(int(rng.integers(1, 12)), rng.choice([0.0, 0.01, 0.5, 0.9, 0.99]))
    else:
        m = Continuous(10.0 ** rng.uniform(-4, 6))
    return scale * A, m


@pytest.mark.parametrize("seed", range(8))
def test_search_for_hangs_nans_and_false_certificates(seed):
    rng = np.random.default_rng([13, seed])
    for _ in range(12):
        D, m = random_case(rng)
        honest(D, m)
        with at_most(20):
            floor, verdict = loss_floor(D, m), is_representable(D, m)
        assert 0 <= floor < math.inf
        if verdict:
            assert floor == 0.0
        if floor.exact and floor > 0:
            near = nearest(D, m)
            scale = np.abs(D).max()
            gap = np.linalg.norm((near.matrix - D) / scale) * scale
            assert gap == pytest.approx(floor, rel=1e-5, abs=1e-15 * scale)
            assert loss_floor(near.matrix, m) <= max(1e-5 * floor, 1e-13 * scale)
