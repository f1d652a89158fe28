"""Time is the first axis of results; which it is in data, is never guessed."""

import pytest
import torch

import secondorder as so
from secondorder.training.records import parabola

t = torch.linspace(0, 4, 21, dtype=torch.float64)
spring = so.Newton(lambda t, x: -x, damping=0.1)


def solved(samples=3, d=1, times=t):
    start = torch.arange(1.0, 1 + samples * d, dtype=torch.float64).reshape(samples, d)
    return so.odeint(spring, (start, None), times)


def structured():
    law = so.Newton(lambda t, z: (-z[0], -z[1]))
    return so.odeint(law, ((torch.ones(2), torch.ones(3)), None), t)


def test_observations_in_both_layouts_have_the_same_residuals():
    sol = solved()
    y = sol.x + 0.1 * torch.randn(21, 3, 1, generator=torch.Generator().manual_seed(0))
    wanted = (sol.x - y).flatten()
    for given in (y, y.swapaxes(0, 1), y[..., 0], y[..., 0].T):
        torch.testing.assert_close(so.misfit(sol, given), wanted, rtol=0, atol=0)
    both = so.misfit(sol, y.swapaxes(0, 1), sol.v.swapaxes(0, 1))
    assert torch.equal(both, torch.cat((wanted, torch.zeros(63, dtype=y.dtype))))
    motion = so.data.oscillator("damped", t, samples=3)
    assert torch.equal(so.misfit(sol, motion), (sol.x - motion.x).flatten())


def test_what_was_not_seen_is_left_out_of_the_mean_and_of_the_gradient():
    start = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    sol = so.odeint(spring, (start, None), t)
    y = sol.x.detach() - 2
    y[:, 1], y[::2, 2] = torch.nan, torch.nan
    found = so.misfit(sol, y)
    assert found.shape == (21 + 10,) and bool((found - 2 < 1e-14).all())
    (slope,) = torch.autograd.grad(found.square().mean(), start)
    assert slope[1] == 0 and slope[0] != 0 and bool(slope.isfinite().all())


def test_as_many_times_as_samples_are_ambiguous_and_asked_about():
    sol = solved(samples=21)
    y = sol.x + torch.arange(21.0)[:, None, None]
    with pytest.raises(ValueError, match="`x`.*time first or batch first.*layout="):
        so.misfit(sol, y)
    wanted = -torch.arange(21.0).double().repeat_interleave(21)
    for given, layout in ((y, "time_first"), (y.swapaxes(0, 1), "batch_first")):
        found = so.misfit(sol, given, layout=layout)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not so.misfit(sol, sol).any()  # a solution knows


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda sol: so.misfit(sol, sol.x[1:]), ValueError, "x"),
        (lambda sol: so.misfit(sol, sol.x[:, 1:]), ValueError, "x"),
        (lambda sol: so.misfit(sol, sol.x, sol.v[:, 1:]), ValueError, "v"),
        (lambda sol: so.misfit(sol, sol.x, layout="batch_first"), ValueError, "x"),
        (lambda sol: so.misfit(sol, sol.x, layout="rows"), ValueError, "layout"),
        (lambda sol: so.misfit(sol, sol, layout="batch_first"), ValueError, "layout"),
        (lambda sol: so.misfit(sol, sol.x * torch.nan), ValueError, "x"),
        (lambda sol: so.misfit(sol, sol.x.tolist()), TypeError, "x"),
        (lambda sol: so.misfit(structured(), sol.x), TypeError, "solution"),
    ],
)
def test_observations_that_do_not_fit_are_refused(call, error, name):
    with pytest.raises(error, match=f"`{name}`"):
        call(solved())


def test_many_records_in_one_are_the_same_as_one_by_one():
    x = solved(samples=4, d=2).x
    u, own = torch.randn(21, 4, 1, dtype=t.dtype), t + torch.arange(4.0)[:, None]
    single = [(own[i], x[:, i], x[:, i] + 1, u[:, i]) for i in range(4)]
    together = (own, x, x + 1, u)
    other = (own, *(part.swapaxes(0, 1) for part in together[1:]))

    def shooting(records):
        driven = so.Newton(lambda t, x, u: u - x)
        return so.Shooting(driven, records, step_size=0.1, window=7)

    wanted = shooting(single)
    for given in ([together], [other], [so.Recording(*together)]):
        found = shooting(given)
        rows = slice(0, len(wanted.windows))
        for mine, same in zip(found.parts(), wanted.parts(), strict=True):
            torch.testing.assert_close(mine[rows], same, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ((t[:4], solved(4).x[:4]), "one by one"),
        ((t[:5], solved(4).x), r"\(batch, 5, ...\)"),
        ((t.expand(2, -1), solved(4).x), r"records\[0\].t.*\(4, n\)"),
        ((t, solved(4).x, solved(4).x.swapaxes(0, 1)), r"records\[0\].v.*layout"),
    ],
)
def test_many_records_in_one_that_do_not_fit_are_refused(record, says):
    with pytest.raises(ValueError, match=says):
        so.Shooting(spring, [record], step_size=0.1)


def test_starts_from_data_are_least_squares_to_the_last_bit():
    random = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 6):
        for scale in (1e-90, 1.0, 1e12):
            time = scale * torch.rand(n, generator=random, dtype=torch.float64)
            y = torch.randn(n, generator=random, dtype=torch.float64)
            powers = (time[:, None] / scale) ** torch.arange(min(n, 3))
            x = torch.linalg.lstsq(powers, y[:, None]).solution[:, 0]
            value, slope = parabola(time, y)
            # 1e3 units: how much three nearby points of six amplify rounding.
            torch.testing.assert_close(value, x[0], rtol=1e-12, atol=1e-12)
            wanted = x[1] if n > 1 else torch.zeros_like(slope)
            torch.testing.assert_close(scale * slope, wanted, rtol=1e-11, atol=1e-11)
    x = solved(samples=6, times=t[:13]).x
    records = [(t[:13], x[:, i] + 0.1 * torch.sin(9 * x[:, i])) for i in range(6)]
    found = set()
    for k in range(8):
        moved = [torch.empty(3 * i + k) for i in range(20)]  # other addresses
        shooting = so.Shooting(spring, records, step_size=0.1, window=5)
        found.add((*shooting.x.flatten().tolist(), *shooting.v.flatten().tolist()))
        del moved
    assert len(found) == 1
