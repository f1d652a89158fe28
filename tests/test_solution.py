"""Dense output and what a solve cost: gradients, shapes, and where there are none."""

import io

import pytest
import torch

import secondorder as so

D = torch.float64
T = torch.tensor([0.0, 0.5, 1.0], dtype=D)
STEPPING = [*so.METHODS, *so.COUPLED, "rk4", "euler", "implicit_adams"]
METHODS = [*so.METHODS, *so.COUPLED, *so.ADAPTIVE, "dopri5", "rk4", "scipy_DOP853"]


def force(t, x):
    return torch.cos(t) - torch.sin(x)


def solve(method, x, t=T, **how):
    system = so.SecondOrder(how.pop("field", force), 0.8)
    if method.startswith("velocity_doubling"):
        system = so.Acceleration(lambda t, x, v: force(t, x))
    if method in STEPPING:
        how["step_size"] = 0.1
    return so.odeint(system, (x, None), t, method=method, **how)


@pytest.mark.parametrize("method", METHODS)
def test_states_of_any_shape_are_dense(method):
    wide = solve(method, torch.full((1,), 0.3, dtype=D))
    flat = solve(method, torch.tensor(0.3, dtype=D))
    for times in (0.3, 0.5, 1.0, torch.tensor([0.0, 0.2, 0.5]), torch.ones(2, 3) / 3):
        for one, two in zip(flat(times), wide(times), strict=True):
            assert one.shape == torch.as_tensor(times).shape
            torch.testing.assert_close(one, two.squeeze(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_solve_without_gradients_has_dense_output_without(method):
    x = torch.full((2,), 0.3, dtype=D, requires_grad=True)
    with torch.no_grad():
        sol = solve(method, x)
    times = torch.tensor([0.0, 0.2, 1.0], dtype=D, requires_grad=True)
    for dense in (sol(times), sol(0.5), sol(0.3)):
        assert not any(part.requires_grad for part in dense)
    if method == "scipy_DOP853":
        return
    recorded = solve(method, x)
    assert recorded(0.3)[0].requires_grad
    with torch.no_grad():
        assert not recorded(0.3)[0].requires_grad


@pytest.mark.parametrize("method", [m for m in METHODS if "scipy" not in m])
@pytest.mark.parametrize("end", [1.0, -1.0])
def test_dense_output_changes_with_time_as_the_solution_does(method, end):
    sol = solve(method, torch.tensor([0.3, -0.1], dtype=D), end * T)
    # At the times of the solve, between them, twice, and out of order.
    times = torch.tensor([0.2, 1.0, 0.5, 0.2, 0.0, 0.77, 0.2], dtype=D) * end
    times.requires_grad_()
    x, v = sol(times)
    for part, rate in ((x, v), (v, None)):
        (slope,) = torch.autograd.grad(part.sum(), times, retain_graph=True)
        if rate is None:
            h = 1e-4 * end
            inner = times.detach().clamp(min(h, end - h), max(h, end - h))
            rate = (sol(inner + h)[1] - sol(inner - h)[1]) / (2 * h)
        low = method in ("verlet", "momentum", "momentum_exponential", "rk4",
                         "velocity_doubling", "coupled_heun2")  # fmt: skip
        within = 0.2 if low else 1e-3
        torch.testing.assert_close(slope, rate.sum(-1), rtol=within, atol=within)
    x, _ = sol(times)
    for k in (1, 2, 4):  # at a time of the solve, the state itself
        i = int(times[k].abs() * 2)
        assert torch.equal(x[k], sol.x[i])


def test_a_solver_outside_autograd_says_that_times_have_no_gradient():
    sol = solve("scipy_DOP853", torch.ones(1, dtype=D))
    with pytest.raises(ValueError, match="`times` require a gradient"):
        sol(torch.tensor([0.3], dtype=D, requires_grad=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_single_time_is_all_that_can_be_asked_for(method):
    sol = solve(method, torch.ones(2, dtype=D), T[1:2])
    assert torch.equal(sol(0.5)[0], torch.ones(2, dtype=D))
    assert torch.equal(sol(0.5 + 1e-16)[0], torch.ones(2, dtype=D))
    time = torch.tensor(0.5, dtype=D, requires_grad=True)
    (slope,) = torch.autograd.grad(sol(time)[1].sum(), time)
    assert slope.item() != 0
    with pytest.raises(ValueError, match="`times` must lie in"):
        sol(0.6)


@pytest.mark.parametrize("method", ["verlet", "rkn8", "dopri5"])
def test_dense_output_survives_pickling(method):
    sol = solve(method, torch.ones(2, dtype=D))
    file = io.BytesIO()
    torch.save(sol.dense, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(torch.tensor([0.3], dtype=D))[0][0], sol(0.3)[0])


# -- torchdiffeq and SciPy ------------------------------------------------------------


class Counting(torch.nn.Module):
    """A field that torchdiffeq calls back."""

    def __init__(self, names):
        super().__init__()
        self.calls = []
        for name in names:
            setattr(self, name, lambda t, state, h, n=name: self.note(n, t, state, h))

    def note(self, name, t, state, h):
        x, v = state
        assert x.shape == v.shape == (2,)
        self.calls.append((name, t.item(), h.item()))

    def forward(self, t, x):
        return force(t, x)


ALL = ("callback_step", "callback_accept_step", "callback_reject_step")


@pytest.mark.parametrize("gradient", ["backprop", "adjoint"])
@pytest.mark.parametrize("where", ["field", "system", "forced"])
@pytest.mark.parametrize("end", [1.0, -1.0])
def test_torchdiffeqs_callbacks_are_called(gradient, where, end):
    x = torch.ones(2, dtype=D, requires_grad=True)
    for method, names in (("dopri5", ALL), ("rk4", ALL[:1])):
        how = {"step_size": 0.1} if method == "rk4" else {}
        field = Counting(names)
        system = so.SecondOrder(field)
        if where == "system":
            system = so.SecondOrder(force)
            for name in names:
                setattr(system, name, getattr(field, name))
        if where == "forced":
            field.forward = lambda t, x, u: force(t, x) + u
            how["forcing"] = torch.sin
        sol = so.odeint(system, (x, None), end * T, method=method, gradient=gradient,
                        **how)  # fmt: skip
        found = [name for name, *_ in field.calls]
        if method == "rk4":
            assert len(found) == sol.stats.accepted == 10
            assert field.calls[3][1] == pytest.approx(0.3 * end)
        else:
            assert found.count(ALL[1]) == sol.stats.accepted > 2
            assert found.count(ALL[2]) == sol.stats.rejected
            assert len(found) == 2 * found.count(ALL[0])


def test_callbacks_that_are_not_called_are_named():
    x = torch.ones(2, dtype=D)
    for method in ("verlet", "rkn8"):
        with pytest.warns(UserWarning, match=r"does not call \['callback_step'\]"):
            so.odeint(so.SecondOrder(Counting(ALL[:1])), (x, None), T, method=method)
    for method, names in (("rk4", ALL[1:2]), ("scipy_RK45", ALL[:1])):
        with pytest.warns(UserWarning, match="does not support callbacks"):
            so.odeint(so.SecondOrder(Counting(names)), (x, None), T, method=method)


def test_steps_of_other_libraries_are_counted_or_unknown():
    x = torch.ones(2, dtype=D)
    assert solve("rk4", x).stats.accepted == 10
    assert solve("implicit_adams", x).stats.accepted == 10
    assert solve("scipy_RK45", x).stats.accepted is None
    steep = solve("dopri5", x, field=lambda t, x: torch.tanh((t - 0.4) / 1e-3) - x)
    assert steep.stats.rejected > 0
    assert steep.stats.accepted > solve("dopri5", x).stats.accepted


@pytest.mark.parametrize(
    "method", [*so.SOLVERS, *so.METHODS, *so.COUPLED, *so.ADAPTIVE]
)
def test_an_empty_batch_is_solved(method):
    x = torch.ones(0, 2, dtype=D, requires_grad="scipy" not in method)
    sol = solve(method, x)
    assert sol.x.shape == sol.v.shape == (3, 0, 2)
    assert sol(0.3)[0].shape == (0, 2)
    if x.requires_grad:
        (slope,) = torch.autograd.grad(sol.x.sum() + sol.v.sum(), x)
        assert slope.shape == x.shape
