"""The door: what it returns, dense output, statistics, and what it refuses."""

import math

import pytest
import torch
from problems import Field, noise

import secondorder as so

F64 = torch.float64


def oscillator(epsilon=0.5):
    """ε ẍ + ẋ = −x with ε = ½: x = e^{−t}(cos t + sin t) from x0 = 1 at rest."""
    return so.SecondOrder(lambda t, x: -x, epsilon)


def exact(t):
    return torch.exp(-t) * (t.cos() + t.sin()), -2 * torch.exp(-t) * t.sin()


def test_the_solution_unpacks_starts_at_x0_and_counts():
    x0, t = noise(2, 3), torch.linspace(0, 1, 5)
    sol = so.odeint(oscillator(), (x0, None), t, step_size=0.1)
    x, v = sol
    assert x.shape == v.shape == (5, 2, 3)
    assert torch.equal(x[0], x0)
    assert not v[0].any()
    assert x.dtype == torch.float32
    assert torch.equal(sol.t, t)
    assert torch.equal(sol[0], x)
    # 0.25 in steps of at most 0.1: three per interval; verlet shares its kicks.
    assert sol.stats == so.Stats(evaluations=13, accepted=12, rejected=0)


@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "dopri5", "adaptive"])
def test_a_single_time_returns_the_start(method):
    x0 = noise(2, 3, dtype=F64)
    sol = so.odeint(oscillator(), (x0, None), torch.tensor([0.3]), method=method)
    assert torch.equal(sol.x, x0.unsqueeze(0))
    assert not sol.v.any()


@pytest.mark.parametrize("end", [2.0, -1.0])
@pytest.mark.parametrize("step_size", [None, 0.02])
def test_dense_output_is_the_solution_between_the_times(end, step_size):
    t = torch.linspace(0, end, 6 if step_size else 101, dtype=F64)
    start = (torch.ones(1, dtype=F64), None)
    sol = so.odeint(oscillator(), start, t, method="blanes_moan6", step_size=step_size)
    times = torch.linspace(0, end, 37, dtype=F64).flip(0).reshape(37, 1)
    x, v = sol(times)
    assert x.shape == (37, 1, 1)
    y, w = exact(times)
    # Hermite error on one step h = 0.02: h⁶/46080 |x⁽⁶⁾| < 1e-14 in x, h⁵ in v.
    torch.testing.assert_close(x[..., 0], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(v[..., 0], w, rtol=0, atol=1e-9)
    at_grid = sol(t[3])
    assert torch.equal(at_grid[0], sol.x[3])
    assert torch.equal(at_grid[1], sol.v[3])


def test_dense_output_converges_with_order_six():
    errors = []
    for n in (8, 16, 32):
        t = torch.linspace(0, 2, n + 1, dtype=F64)
        sol = so.odeint(oscillator(), (torch.ones(1, dtype=F64), None), t,
                        method="kahan_li8")  # fmt: skip
        times = torch.linspace(0, 2, 301, dtype=F64)
        errors.append((sol(times)[0][:, 0] - exact(times)[0]).abs().max().item())
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(6, rel=0.05)


def test_dense_output_is_differentiable_and_refuses_to_extrapolate():
    x0 = noise(3, dtype=F64).requires_grad_()
    t = torch.linspace(0, 1, 11, dtype=F64)
    sol = so.odeint(oscillator(), (x0, None), t, gradient="reversible")
    time = torch.tensor(0.55, dtype=F64, requires_grad=True)
    x, v = sol(time)
    slopes = torch.autograd.grad(x.sum(), (x0, time))
    # d/dx0 of a linear solution is the solution from 1; d/dt is v.  Verlet, h = 0.1.
    torch.testing.assert_close(
        slopes[0], exact(time.detach())[0].expand(3), rtol=5e-3, atol=0
    )
    torch.testing.assert_close(slopes[1], v.sum(), rtol=1e-9, atol=0)
    for outside in (-0.1, 1.1):
        with pytest.raises(ValueError, match="`times`"):
            sol(outside)
    assert sol(torch.zeros(0, dtype=F64))[0].shape == (0, 3)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_DOP853"])
def test_torchdiffeq_by_name_is_torchdiffeq(method):
    start = (noise(3, dtype=F64), noise(3, dtype=F64, seed=2))
    t = torch.linspace(0, 1, 5, dtype=F64)
    how = {"step_size": 0.01} if method == "rk4" else {"rtol": 1e-9, "atol": 1e-9}
    sol = so.odeint(so.SecondOrder(Field(), 0.3).requires_grad_(False), start, t,
                    method=method, **how)  # fmt: skip
    ours = so.odeint(so.SecondOrder(Field(), 0.3), start, t, method="verlet")
    assert sol.x.shape == ours.x.shape
    assert sol.stats.evaluations > 5
    x, v = sol(torch.tensor([0.25, 0.1, 0.99], dtype=F64))
    torch.testing.assert_close(x[0], sol.x[1], rtol=1e-7, atol=1e-9)
    assert v.shape == (3, 3)


def test_a_non_finite_force_is_reported_with_its_step_and_time():
    system = so.SecondOrder(lambda t, x: torch.where(t > 0.55, torch.nan, -x), 0.5)
    start, t = (torch.ones(3), None), torch.tensor([0.0, 0.4, 1.0])
    for gradient in ("backprop", "reversible"):
        with pytest.raises(FloatingPointError, match="step 6 of 10, t = 0.6"):
            so.odeint(system, start, t, step_size=0.1, check_finite=True,
                      gradient=gradient)  # fmt: skip
        x, _ = so.odeint(system, start, t, step_size=0.1, gradient=gradient)
        assert x[1].isfinite().all()
        assert x[2].isnan().all()


def test_progress_is_shown_on_request(capsys):
    pytest.importorskip("tqdm")
    so.odeint(oscillator(), (torch.ones(1), None), [0.0, 1.0], step_size=0.01,
              progress=True)  # fmt: skip
    assert "101/101" in capsys.readouterr().err


def test_no_field_is_evaluated_before_the_arguments_are_checked():
    def field(t, x):
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match="`t`"):
        so.odeint(so.SecondOrder(field), (torch.ones(2), None), [0.0, 1.0, 0.5])


ONES = (torch.ones(2, 3), None)
SYSTEM = oscillator()


@pytest.mark.parametrize(
    "arguments, options, error, says",
    [
        ((lambda t, x: x, ONES, [0.0, 1.0]), {}, TypeError, "`system`.*SecondOrder"),
        ((SYSTEM, torch.ones(2), [0.0, 1.0]), {}, TypeError, r"pair \(x0, v0\)"),
        ((SYSTEM, (torch.ones(2, dtype=torch.int64), None), [0.0, 1.0]), {},
         TypeError, "`x0` must be floating"),
        ((SYSTEM, (torch.ones(2), torch.ones(3)), [0.0, 1.0]), {}, ValueError, "`v0`"),
        ((SYSTEM, (torch.ones(2), torch.ones(2).double()), [0.0, 1.0]), {},
         ValueError, "`v0`.*float64"),
        ((SYSTEM, ONES, [0.0, 1.0, 1.0]), {}, ValueError, "`t`.*increasing"),
        ((SYSTEM, ONES, [0.0, 1.0, 0.5]), {}, ValueError, "`t`.*increasing"),
        ((SYSTEM, ONES, [0.0, math.nan]), {}, ValueError, "`t` must be finite"),
        ((SYSTEM, ONES, []), {}, ValueError, "`t` must have shape"),
        ((SYSTEM, ONES, torch.tensor([0, 1])), {}, TypeError, "`t` must be floating"),
        ((SYSTEM, ONES, torch.zeros(3, 2)), {}, ValueError, "per-sample"),
        ((SYSTEM, ONES, torch.zeros(2, 2, 2)), {}, ValueError, "`t` must have shape"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"method": "leapfrog"}, ValueError, "verlet"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"method": 3}, TypeError, "`method`"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"gradient": "magic"}, ValueError, "backprop"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"step_size": 0.0}, ValueError, "`step_size`"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"step_size": -0.1}, ValueError, "`step_size`"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"rtol": 1e-3}, ValueError, "`rtol`"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"method": "dopri5", "rtol": 0.0},
         ValueError, "`rtol`"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"method": "dopri5", "step_size": 0.1},
         ValueError, "`step_size`"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"method": "velocity_doubling"},
         ValueError, "Acceleration"),
        ((so.Acceleration(lambda t, x, v: -v), ONES, [0.0, 1.0]), {},
         ValueError, "velocity_doubling"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"gradient": "adjoint"}, ValueError, "reversible"),
        ((SYSTEM, ONES, [0.0, 1.0]), {"stepsize": 0.1}, TypeError, "stepsize"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_with_advice(arguments, options, error, says):
    with pytest.raises(error, match=says):
        so.odeint(*arguments, **options)


@pytest.mark.parametrize("method", ["dopri5", "adaptive"])
def test_adaptive_methods_refuse_per_sample_times(method):
    with pytest.raises(ValueError, match="`t`|per-sample"):
        so.odeint(SYSTEM, ONES, torch.tensor([[0.0, 1.0], [0.0, 2.0]]), method=method)


def test_scipy_refuses_to_lose_gradients():
    x0 = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="without gradients"):
        so.odeint(SYSTEM, (x0, None), [0.0, 1.0], method="scipy_RK45")
    with torch.no_grad():
        so.odeint(SYSTEM, (x0, None), [0.0, 1.0], method="scipy_LSODA")


class Reads(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts reads of tensor values by the host, which on a GPU are synchronisations.

    Their number must not grow with the steps.
    """

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
@pytest.mark.parametrize("learned", [False, True])
def test_no_step_reads_a_value_from_the_device(gradient, learned):
    epsilon = torch.nn.Parameter(torch.tensor(0.5)) if learned else 0.5
    system, x0 = so.SecondOrder(Field(dtype=torch.float32), epsilon), noise(4, 3)
    counts = []
    for steps in (5, 50):
        with Reads() as reads:
            sol = so.odeint(system, (x0, None), [0.0, 1.0], method="blanes_moan4",
                            step_size=1 / steps, gradient=gradient)  # fmt: skip
            sol.x[-1].sum().backward()
        counts.append(reads.count)
    assert counts[0] == counts[1]
