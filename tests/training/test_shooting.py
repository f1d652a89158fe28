"""Multiple shooting: each window is a solve, and what is missing counts for nothing."""

import copy
import io
import math

import pytest
import torch
from torch import nn

import secondorder as so
from secondorder.training.gauss_newton import Residuals
from secondorder.training.records import starting_state

DOUBLE = torch.float64


class Spring(nn.Module):
    """f = −k x (+ u)."""

    def __init__(self, k=2.0):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=DOUBLE))

    def forward(self, t, x, u=0.0):
        return u - self.k * x


def system(k=2.0, damping=0.3):
    number = torch.tensor(damping, dtype=DOUBLE)
    return so.Newton(Spring(k), damping=so.Positive(number))


def records(lengths=(9, 4, 1, 13), d=1):
    generator = torch.Generator().manual_seed(0)
    for n in lengths:
        t = torch.rand(n, generator=generator, dtype=DOUBLE).cumsum(0)
        yield t, torch.randn(n, d, generator=generator, dtype=DOUBLE)


def by_hand(shooting, step_size, observe=lambda t, x, v: x):
    """The loss, window by window."""
    squares, gaps, count = [], [], 0
    x0, v0 = shooting.starts()
    for w, (index, first, last, goes_on) in enumerate(shooting.cuts):
        record = shooting.records[index]
        t = record.t[first : last + goes_on]
        sol = so.odeint(shooting.system, (x0[w], v0[w]), t, step_size=step_size)
        n = last - first
        found = observe(t[:n, None], sol.x[:n], sol.v[:n])
        wanted = record.x[first:last]
        if record.v is not None:
            wanted = torch.cat((wanted, record.v[first:last]), 1)
        seen = wanted.isfinite()
        squares.append((found - wanted)[seen].square())
        if goes_on:
            tau = shooting.tau
            gaps += [sol.x[-1] - x0[w + 1], tau * (sol.v[-1] - v0[w + 1])]
            count += 1
    data = torch.cat(squares).mean()
    gap = torch.cat(gaps).square().mean() if gaps else 0.0
    return data + shooting.continuity * gap


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("d", [1, 2])
def test_the_loss_is_that_of_the_windows_one_by_one(window, d):
    shooting = so.Shooting(
        system(), [*records(d=d)], step_size=0.15, window=window, continuity=0.7
    )
    wanted = by_hand(shooting, 0.15)
    # Padding and batches change the order of sums, and nothing else.
    torch.testing.assert_close(shooting.loss(), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(shooting(), shooting.residuals().square().mean())
    parameters = [*shooting.parameters()]
    pairs = zip(
        torch.autograd.grad(shooting.loss(), parameters),
        torch.autograd.grad(wanted, parameters),
        strict=True,
    )
    for found, grad in pairs:
        torch.testing.assert_close(found, grad, rtol=1e-9, atol=1e-12)


def test_windows_of_one_observation_are_not_left_over():
    shooting = so.Shooting(system(), [*records((9,))], step_size=1.0, window=4)
    assert [cut[1:] for cut in shooting.cuts] == [(0, 4, True), (4, 9, False)]


def test_missing_numbers_count_for_nothing():
    (t, x), (s, y) = records((8, 6), d=2)
    x[2, 1] = x[5] = y[0] = math.nan
    shooting = so.Shooting(system(), [(t, x), (s, y)], step_size=0.2, window=3)
    torch.testing.assert_close(shooting.loss(), by_hand(shooting, 0.2))
    shooting.loss().backward()
    assert all(p.grad.isfinite().all() for p in shooting.parameters())


def test_velocities_are_fitted_where_they_were_measured():
    given = [(t, x, torch.full_like(x, math.nan)) for t, x in records()]
    for t, _, v in given:
        v[::2] = t[::2, None]
    shooting = so.Shooting(system(), given, step_size=0.2, window=4)
    wanted = by_hand(shooting, 0.2, lambda t, x, v: torch.cat((x, v), 1))
    torch.testing.assert_close(shooting.loss(), wanted)


def test_an_observation_may_be_any_function_of_the_state():
    def energy(t, x, v):
        return (x**2 + v**2).sum(-1, keepdim=True) + t

    shooting = so.Shooting(
        system(), [*records()], step_size=0.2, window=4, observe=energy, dimension=3
    )
    assert shooting.initial[0].shape == (4, 3)
    with torch.no_grad():
        shooting.x.copy_(torch.rand(shooting.x.shape))
    torch.testing.assert_close(shooting.loss(), by_hand(shooting, 0.2, energy))
    with pytest.raises(ValueError, match="`observe` returned"):
        so.Shooting(
            system(), [*records()], step_size=0.2, observe=lambda t, x, v: x[..., 0]
        ).loss()


@pytest.mark.parametrize("kind", [None, so.forcing.Cubic, so.forcing.Steps])
def test_inputs_of_records_are_interpolated_in_each_window(kind):
    lengths = (9, 12, 5)
    given = [(t, x, None, torch.sin(t)) for t, x in records(lengths)]
    shooting = so.Shooting(system(), given, step_size=0.2, window=4, forcing=kind)
    error, _ = shooting.parts()
    x0, v0 = shooting.starts()
    for w, (index, first, last, _) in enumerate(shooting.cuts):
        t, x, _, u = shooting.records[index]
        force = (kind or so.forcing.Linear)(t, u)
        sol = so.odeint(
            shooting.system, (x0[w], v0[w]), t[first:last], step_size=0.2, forcing=force
        )
        torch.testing.assert_close(error[w, : last - first], sol.x - x[first:last])


def test_batches_of_windows_add_up_to_all():
    shooting = so.Shooting(system(), [*records()], step_size=0.2, window=3)
    error, gap = shooting.parts()
    for rows in shooting.windows.split(3):
        some, gaps = shooting.parts(rows)
        torch.testing.assert_close(some, error[rows])
        torch.testing.assert_close(gaps, gap[rows])
    history = so.fit(
        shooting, so.Shooting.loss, 40, 0.05, False, data=shooting.windows, batch_size=4
    )
    assert sum(history.loss[-10:]) < sum(history.loss[:10])


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("window", [None, 3])
def test_windows_moved_together_give_the_whole_jacobian(window, d):
    shooting = so.Shooting(system(), [*records(d=d)], step_size=0.2, window=window)
    parameters = [*shooting.parameters()]
    vector = Residuals(shooting, parameters, shooting.residuals)
    together = so.GaussNewton().jacobian(vector)
    vector.model = None
    torch.testing.assert_close(together, so.GaussNewton().jacobian(vector))
    seeds, _ = shooting.seeds(parameters)
    assert len(seeds) == 2 + 4 * d < len(vector.start)


def test_joined_windows_start_where_the_old_ones_did():
    shooting = so.Shooting(
        system(), [*records()], step_size=0.2, window=3, continuity=0.2, noise=0.5
    )
    with torch.no_grad():
        shooting.v.add_(1.0)
    whole = shooting.joined()
    assert whole.system is shooting.system and len(whole.cuts) == 4
    assert (whole.continuity, whole.noise.item()) == (0.2, 0.5)
    for found, wanted in zip(whole.initial, shooting.initial, strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="multiple"):
        shooting.joined(4)


def test_starts_are_exact_for_parabolas():
    t = torch.tensor([0.0, 0.3, 0.4, 1.0, 1.5], dtype=DOUBLE)
    record = so.Recording(t, torch.stack((t**2 - t + 3, 2 * t), 1))
    x, v = starting_state(record, 1, 5)
    torch.testing.assert_close(x, record.x[1])
    torch.testing.assert_close(v, torch.tensor([-0.4, 2.0], dtype=DOUBLE))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_vectors_single_precision_copies_and_pickles(dtype):
    given = [(t.to(dtype), x[:, 0].to(dtype)) for t, x in records()]
    shooting = so.Shooting(
        so.Newton(lambda_free(dtype)), given, step_size=0.2, window=3
    )
    value = shooting.loss()
    assert value.dtype == dtype and shooting.x.dtype == dtype
    assert copy.deepcopy(shooting).loss() == value
    file = io.BytesIO()
    torch.save(shooting, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).loss() == value


def lambda_free(dtype):
    return so.Autonomous(nn.Linear(1, 1, dtype=dtype))


T = torch.tensor([0.0, 1.0, 2.0])
X = torch.tensor([1.0, 2.0, 3.0])
NAN = torch.full((3,), math.nan)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], TypeError),
        ((T, X), TypeError),
        (so.Recording(T, X), TypeError),
        ([(T,)], TypeError),
        ([T], TypeError),
        ([(T, [1, 2, 3])], TypeError),
        ([(T, T.long())], TypeError),
        ([(T[:2], X)], ValueError),
        ([(T.flip(0), X)], ValueError),
        ([(NAN, X)], ValueError),
        ([(T.unsqueeze(0), X)], ValueError),
        ([(T, NAN)], ValueError),
        ([(T, X, X[:2])], ValueError),
        ([(T, X, None, NAN)], ValueError),
        ([(T, X), (T, X.double())], ValueError),
        ([(T, X), (T, torch.ones(3, 2))], ValueError),
        ([(T, X), (T, X, X)], ValueError),
        ([(T, X), (T, X, None, X)], ValueError),
        ([(T[:0], X[:0])], ValueError),
    ],
)
def test_records_that_cannot_be_right_are_refused(given, error):
    with pytest.raises(error, match="`records"):
        so.Shooting(system(), given, step_size=0.1)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"window": 0}, "window"),
        ({"step_size": None}, "step_size"),
        ({"step_size": -1.0}, "step_size"),
        ({"continuity": -1.0}, "continuity"),
        ({"noise": 0.0}, "noise"),
        ({"dimension": 2}, "dimension"),
        ({"forcing": so.forcing.Linear}, "forcing"),
        ({"observe": 3}, "observe"),
        ({"method": "rkn8"}, "t"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(wrong, name):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        so.Shooting(system(), [(T, X)], **{"step_size": 0.1, **wrong}).loss()
