"""Stiffness: linear parts are exact for any step, the rest keeps its order."""

import math

import pytest
import torch
from problems import noise

import secondorder as so

D = torch.float64


def exact(m, c, k, x, v, time):
    """The flow of one oscillator by the exponential of its matrix."""
    a = torch.tensor([[0.0, 1.0], [-k / m, -c / m]], dtype=D)
    return torch.matrix_exp(time * a) @ torch.tensor([x, v], dtype=D)


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
@pytest.mark.parametrize("method", ["blanes_moan4", "momentum"])
@pytest.mark.parametrize(
    "m, c, k", [(2.0, 0, 900.0), (1, 0.5, 40), (1, 3, 1), (1, 1, 0)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_linear_equation_is_exact_for_any_step(method, m, c, k, gradient, sign):
    if sign < 0 and k > 1:
        k = -1.0  # cosh
    free = so.Newton(lambda t, x: 0 * x, m, float(c), stiffness=float(k))
    start = torch.tensor([0.7], dtype=D), torch.tensor([-0.3], dtype=D)
    x, v = so.odeint(free, start, [0.0, 1.5, 3.0], method=method, gradient=gradient)
    wanted = exact(m, c, k, 0.7, -0.3, 3.0)
    # Rounding of ω t, and of the grid that reverses.
    torch.testing.assert_close(x[-1, 0], wanted[0], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(v[-1, 0], wanted[1], rtol=1e-10, atol=1e-10)


def wave(n=64):
    """u_tt = u_xx − sin u on a ring: K is singular, ω up to n/π."""
    eye = torch.eye(n, dtype=D)
    k = (2 * eye - eye.roll(1, 0) - eye.roll(-1, 0)) * (n / (2 * math.pi)) ** 2
    s = torch.arange(n, dtype=D) * 2 * math.pi / n
    return so.Newton(lambda t, x: -x.sin(), stiffness=k), (s.cos(), None)


@pytest.mark.parametrize("method, order", [("verlet", 2), ("blanes_moan4", 4)])
def test_a_stiff_wave_has_the_order_of_the_method(method, order):
    system, start = wave()
    errors = []
    fine, _ = so.odeint(system, start, [0.0, 4.0], method="blanes_moan6", step_size=0.1)
    for h in (0.5, 0.25):  # h ω is 10 and 5: beyond what the methods stand without K
        x, _ = so.odeint(system, start, [0.0, 4.0], method=method, step_size=h)
        errors.append((x[-1] - fine[-1]).abs().max().item())
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.8


def test_order_six_and_chin():
    """Damped: at least the orders that the methods have without K."""
    system = so.Newton(lambda t, x: -x.sin(), 1.0, 0.2, 30.0)
    start = torch.tensor([1.0], dtype=D), None
    fine, _ = so.odeint(system, start, [0, 2.0], method="blanes_moan6", step_size=0.02)
    for method, order in (("blanes_moan6", 6), ("chin4", 4)):
        errors = []
        for h in (0.25, 0.125):
            x, _ = so.odeint(system, start, [0, 2.0], method=method, step_size=h)
            errors.append((x[-1] - fine[-1]).abs().item())
        assert math.log2(errors[0] / errors[1]) > order - 0.5


def test_single_precision_keeps_its_digits():
    system = so.Newton(lambda t, x: 0 * x, stiffness=torch.tensor([1e4]))
    for gradient in ("backprop", "reversible"):
        kwargs = {"step_size": 0.1, "gradient": gradient}
        x, v = so.odeint(system, (torch.ones(1), None), [0.0, 1.0], **kwargs)
        assert x.dtype == v.dtype == torch.float32
        # The angle of a step is computed in double; ten steps round ten times.
        assert abs(x[-1].item() - math.cos(100)) < 1e-5
        assert abs(v[-1].item() + 100 * math.sin(100)) < 1e-3


def test_events_within_steps_longer_than_a_period():
    """The first zero of cos(t): one step of 3 would be wrong without K."""
    k = torch.ones(1, dtype=D, requires_grad=True)
    system = so.Newton(lambda t, x: 0 * x, stiffness=k)
    start = torch.ones(1, dtype=D), None
    kwargs = {"event_fn": lambda t, x, v: x[0], "step_size": 3.0}
    time, _ = so.odeint_event(system, start, 0.0, **kwargs)
    solution = so.odeint(system, start, [0.0, 3.0], **kwargs)
    assert abs(time.item() - math.pi / 2) < 1e-12
    assert abs(solution.t[-1].item() - math.pi / 2) < 1e-12
    time.backward()
    assert abs(k.grad.item() + math.pi / 4) < 1e-10  # d(π/2 √k⁻¹)/dk


def test_other_methods_take_it_as_a_force():
    system, start = wave(8)
    x, _ = so.odeint(system, start, [0.0, 1.0], method="blanes_moan6", step_size=0.05)
    y, _ = so.odeint(system, start, [0.0, 1.0], method="dopri5", rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("gradient", ["checkpoint", "reversible"])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_a_learned_stiffness_has_the_right_gradient(gradient, damping):
    k = torch.tensor([0.0, 30.0, 30.0], dtype=D, requires_grad=True)
    start = noise(2, 3).to(D), noise(2, 3).to(D)

    def end(k, route):
        system = so.Newton(lambda t, x: -(x**3), damping=damping, stiffness=k)
        x, v = so.odeint(system, start, [0.0, 1.0], step_size=0.5, gradient=route)
        return (x[-1] ** 2 + v[-1]).sum()

    assert torch.autograd.gradcheck(lambda k: end(k, "backprop"), k)
    one, two = (torch.autograd.grad(end(k, r), k)[0] for r in ("backprop", gradient))
    torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)


M2 = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=D)
K2 = torch.tensor([[9.0, 1.0], [1.0, 4.0]], dtype=D)
TURN = torch.tensor([[0.0, 1.5], [-1.5, 0.0]], dtype=D)
APART = {
    "damping": (1.0, torch.tensor([0.5, 1.0], dtype=D), K2),
    "mass and damping": (M2, 0.2 * torch.ones(2, 2, dtype=D), K2),
    "gyroscopic": (M2, 0.3 * M2 + TURN, K2),
    "gyroscopic, no stiffness": (1.0, TURN, None),
    "circulatory": (M2, 0.3, K2 + TURN),
    "learned": (so.Positive(M2), 0.3, K2),
}


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
@pytest.mark.parametrize("kind", APART)
def test_matrices_without_common_modes_are_forces(kind, gradient):
    """By the coupled methods, undone exactly, against the exponential of the block."""
    mass, damping, stiffness = APART[kind]
    system = so.Newton(lambda t, x: 0 * x, mass, damping, stiffness)
    m, c, k = (
        part if part.ndim == 2 else torch.diag(part.expand(2))
        for part in (
            torch.as_tensor(0.0 if n is None else n, dtype=D)
            for n in (M2 if kind == "learned" else mass, damping, stiffness)
        )
    )
    zero, eye = torch.zeros(2, 2, dtype=D), torch.eye(2, dtype=D)
    rows = torch.cat([zero, eye], 1), torch.linalg.solve(m, torch.cat([-k, -c], 1))
    wanted = torch.matrix_exp(torch.cat(rows))
    x0, v0 = (noise(3, 2, seed=s).to(D).requires_grad_() for s in (1, 2))
    how = {"method": "coupled_dopri5", "rtol": 1e-8, "atol": 1e-8}
    x, v = so.odeint(system, (x0, v0), [0.0, 1.0], gradient=gradient, **how)
    start, end = torch.cat([x0, v0], 1), torch.cat([x[-1], v[-1]], 1)
    torch.testing.assert_close(end, start @ wanted.mT, rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(x[-1, :, 0].sum(), v0)
    torch.testing.assert_close(slope[0], wanted[0, 2:], rtol=1e-5, atol=1e-5)
    for method in ("verlet", "adaptive6"):  # never without the damping between
        with pytest.raises(ValueError, match="takes a velocity"):
            so.odeint(system, (x0, v0), [0.0, 1.0], method=method)


@pytest.mark.parametrize("method", ["blanes_moan4", "adaptive6", "scipy_Radau"])
def test_without_damping_every_method_takes_them(method):
    """Flutter: a circulatory K, and a K that is learned."""
    k = (K2 + TURN).requires_grad_(method == "blanes_moan4")
    system = so.Newton(lambda t, x: 0 * x, stiffness=k)
    start = torch.tensor([1.0, -0.5], dtype=D), None
    root = torch.linalg.eig(k.detach())
    cosines = torch.diag(torch.cos(root.eigenvalues.sqrt() * 2))
    flow = (root.eigenvectors @ cosines @ torch.linalg.inv(root.eigenvectors)).real
    stepped = {"step_size": 0.02} if method in so.METHODS else {"rtol": 1e-8}
    with torch.set_grad_enabled(method == "blanes_moan4"):
        x, _ = so.odeint(system, start, [0.0, 2.0], method=method, **stepped)
    torch.testing.assert_close(x[-1], flow @ start[0], rtol=1e-5, atol=1e-5)
    if k.requires_grad:
        assert torch.autograd.grad(x[-1].sum(), k)[0].abs().min() > 0


def test_what_is_no_stiffness_is_refused():
    with pytest.raises(ValueError, match="`stiffness` must be finite"):
        so.Newton(lambda t, x: -x, stiffness=torch.tensor(math.nan))
    wide = so.Newton(lambda t, x: -x, stiffness=torch.ones(3))
    with pytest.raises(ValueError, match="`stiffness`"):
        so.odeint(wide, (torch.ones(2, 1), None), [0.0, 1.0])
    with pytest.raises(ValueError, match="must be a finite"):
        so.Newton(lambda t, x: -x, M2, 0.1, torch.eye(3))


def test_a_forcing_and_the_states_between_see_the_same_equation():
    stiff = so.Newton(lambda t, x, u: u - 0 * x, stiffness=900.0)
    start = torch.ones(1, dtype=D), None
    kwargs = {"forcing": lambda t: 0.0 * t, "step_size": 0.01}
    solution = so.odeint(stiff, start, [0.0, 3.0], **kwargs)
    x, _ = solution(torch.tensor([1.234], dtype=D))
    assert abs(x.item() - math.cos(30 * 1.234)) < 1e-5  # (ω h)⁶ of the interpolant
    assert solution.stats.evaluations == 301  # springs are not counted
