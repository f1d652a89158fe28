"""What the exact flow keeps, the methods keep to rounding.

    JᵀΩJ = e^{−h/ε} Ω   for f = −∇U        det J = e^{−d h/ε}   for any f

and a step followed by its inverse is nothing: to rounding in floating point, bit for
bit on the integer grid.
"""

import math

import numpy as np
import pytest
import torch
from problems import DragField, Field, noise
from scipy.linalg import expm

import secondorder as so
from secondorder.models.invert import run_reversibly, undo
from secondorder.plan import Record, compile_plan, log_determinant, reverse, walk

D = torch.float64
H, EPSILON = 0.2, 0.7
POSITION = [name for name, m in so.METHODS.items() if not m.takes_velocity]
SMOOTH = [n for n in POSITION if all(flow != "N" for flow, _ in so.METHODS[n].flows)]


def henon_heiles(t, x):
    """−∇U, U = ½|x|² + (1 + cos(2t)/2) (x² y − y³/3)."""
    a, b = x[..., 0], x[..., 1]
    pump = 1 + torch.cos(2 * t) / 2
    return -x - pump * torch.stack([2 * a * b, a**2 - b**2], -1)


def swirl(t, x):
    """No gradient of anything."""
    a, b = x[..., 0], x[..., 1]
    return torch.stack([torch.sin(b) - a * b, torch.cos(3 * a) + t * b], -1)


def jacobian(field, method, damping=1.0):
    """J of one step of (x, v) in the plane, 4 × 4, and what contracts per step."""
    system = so.Newton(field, mass=EPSILON, damping=damping)
    t = torch.tensor([0.3, 0.3 + H], dtype=D)

    def step(state):
        sol = so.odeint(system, (state[:2], state[2:]), t, method=method)
        return torch.cat([sol.x[-1], sol.v[-1]])

    state = torch.tensor([0.3, -0.4, 0.5, 0.2], dtype=D)
    factor = math.exp(-H * damping / EPSILON)
    if so.METHODS[method].rule == "euler":
        factor = 1 - H * damping / EPSILON  # its γ
    return torch.autograd.functional.jacobian(step, state), factor


def form():
    """Ω of the plane, in (x, v)."""
    eye, zero = torch.eye(2, dtype=D), torch.zeros(2, 2, dtype=D)
    return torch.cat([torch.cat([zero, eye], 1), torch.cat([-eye, zero], 1)])


@pytest.mark.parametrize("damping", [0.0, 1.0])
@pytest.mark.parametrize("method", SMOOTH)
def test_gradient_fields_are_conformally_symplectic(method, damping):
    j, factor = jacobian(henon_heiles, method, damping)
    # A dozen products of matrices with entries of order 1.
    torch.testing.assert_close(j.mT @ form() @ j, factor * form(), rtol=0, atol=1e-14)


def test_the_nested_kick_is_symplectic_to_its_order_only():
    """F(x + c F(x)) is no gradient: O(h⁵) is left in a step of 0.2."""
    j, factor = jacobian(henon_heiles, "chin4")
    gap = (j.mT @ form() @ j - factor * form()).abs().max().item()
    assert 1e-10 < gap < 1e-5


@pytest.mark.parametrize("field", [henon_heiles, swirl])
@pytest.mark.parametrize("method", POSITION)
def test_volumes_contract_by_the_damping_alone(method, field):
    j, factor = jacobian(field, method)
    assert torch.linalg.det(j).item() == pytest.approx(factor**2, abs=1e-14)


@pytest.mark.parametrize("method", POSITION)
def test_the_log_determinant_of_a_plan_is_that_of_its_map(method):
    j, _ = jacobian(swirl, method)
    system, t = so.SecondOrder(swirl, EPSILON), torch.tensor([0.3, 0.3 + H], dtype=D)
    plan = compile_plan(so.METHODS[method], system, t, [1], torch.zeros(2, dtype=D))
    # In the variables (x, p) the first and the last damp turn v into p and back.
    found = float(log_determinant(plan, dimension=2))
    scale = 2 * math.log(float(plan[-1].scale))
    assert found + scale == pytest.approx(torch.linalg.slogdet(j)[1].item(), abs=1e-13)


def plan_of(method, steps, dtype=D):
    """A plan of a method with the field that suits it, per-coordinate ε included."""
    entry = so.METHODS[method]
    t = torch.tensor([0.0, 0.2 * steps], dtype=D)
    if entry.takes_velocity:
        system = so.Acceleration(DragField(), torch.tensor([0.0, 0.5, 1.0], dtype=D))
    else:
        epsilon = torch.tensor([0.7, 2.0, 30.0], dtype=D)
        system = so.SecondOrder(Field(), epsilon)
    plan = compile_plan(entry, system, t, [steps], torch.zeros(4, 3, dtype=dtype))
    return system.field, tuple(m for m in plan if not isinstance(m, Record))


@pytest.mark.parametrize("method", so.METHODS)
def test_a_step_and_its_inverse_are_nothing(method):
    field, plan = plan_of(method, 1)
    x, v = noise(4, 3, dtype=D), noise(4, 3, dtype=D, seed=2)
    with torch.no_grad():
        after = walk(plan, field, x, v)[1]
        assert (after[0] - x).abs().max() > 0.1
        y, w, e = walk(reverse(plan), field, *after[:2], e=after[2])[1]
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(w, v, rtol=0, atol=1e-14)
    if e is not None:
        assert e.abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [D, torch.float32])
@pytest.mark.parametrize("method", so.METHODS)
def test_on_the_grid_ten_steps_are_undone_bit_for_bit(method, dtype):
    field, plan = plan_of(method, 10, dtype)
    x, v = noise(4, 3, dtype=dtype), noise(4, 3, dtype=dtype, seed=2)
    field = field.to(dtype)
    with torch.no_grad():
        state = run_reversibly(plan, field, x, v, ())
        assert (state.x - x).abs().max() > 0.1
        back = undo(plan, field, state, ())
    assert torch.equal(back[0], x)
    assert torch.equal(back[1], v)


def kepler(t, x):
    return -x / (x * x).sum(-1, keepdim=True) ** 1.5


# Steps per period: some 240 evaluations.
ORBITS = {
    "verlet": (240, 2e-3), "blanes_moan4": (40, 5e-6), "blanes_moan6": (22, 5e-6),
    "blanes_moan6_long": (17, 2e-5), "kahan_li8": (14, 3e-4), "rk4": (60, None),
}  # fmt: skip


@pytest.mark.parametrize("method", ORBITS)
def test_the_energy_of_an_orbit_drifts_only_under_runge_kutta(method):
    """Eccentricity ½, 40 periods: the largest error of the first and the last tenth."""
    steps, size = ORBITS[method]
    periods = 40 if method != "rk4" else 20
    t = 2 * math.pi * torch.linspace(0, periods, 10 * periods + 1, dtype=D)
    start = torch.tensor([0.5, 0.0], dtype=D), torch.tensor([0.0, 3**0.5], dtype=D)
    # The grid of records divides the period in ten, the steps divide that.
    step = 2 * math.pi / (10 * math.ceil(steps / 10))
    with torch.no_grad():
        x, v = so.odeint(so.Newton(kepler), start, t, method=method, step_size=step)
    energy = (v * v).sum(-1) / 2 - 1 / x.norm(dim=-1)
    error = (energy / -0.5 - 1).abs()
    tenth = len(error) // 10
    first, last = error[:tenth].max().item(), error[-tenth:].max().item()
    if method == "rk4":
        assert last > 5 * first
    else:
        assert last < 1.2 * first
        assert last < size


def test_matrix_mass_and_damping_agree_with_the_exponential():
    """M ẍ + C ẋ + K x = g: (x, v) moves by the exponential of a 4 × 4 matrix."""
    m = np.array([[2.0, 0.3], [0.3, 1.0]])
    c = np.array([[0.5, -0.2], [-0.2, 0.3]])
    k = np.array([[3.0, 0.5], [0.5, 2.0]])
    g, start = np.array([0.3, -0.1]), np.array([1.0, -0.5, 0.2, 0.7])
    a = np.block(
        [
            [np.zeros((2, 2)), np.eye(2)],
            [-np.linalg.solve(m, k), -np.linalg.solve(m, c)],
        ]
    )
    rest = np.concatenate([np.linalg.solve(k, g), np.zeros(2)])
    exact = rest + expm(2.0 * a) @ (start - rest)
    mass, damping, stiff, push = map(torch.tensor, (m, c, k, g))
    state = torch.tensor(start).reshape(2, 2)
    system = so.Newton(lambda t, x: push - x @ stiff, mass, damping)
    t = torch.tensor([0.0, 2.0], dtype=D)
    for gradient in ("backprop", "checkpoint", "reversible"):
        sol = so.odeint(
            system, tuple(state), t, method="blanes_moan6", step_size=0.05,
            gradient=gradient,
        )  # fmt: skip
        found = torch.cat([sol.x[-1], sol.v[-1]]).numpy()
        # Order 6 at h = 0.05: 1e-12.
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-11)


def test_diagonal_matrices_are_numbers_per_coordinate():
    mass, damping = torch.tensor([2.0, 1.0], dtype=D), torch.tensor([0.5, 0.0], dtype=D)
    t, x = torch.linspace(0, 2, 21, dtype=D), noise(5, 2, dtype=D)
    one, other = (
        so.odeint(so.Newton(swirl, *numbers), (x, None), t, method="blanes_moan4")
        for numbers in ((mass, damping), (mass.diag(), damping.diag()))
    )
    torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, torch.enable_grad]
)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible"])
@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "chin4"])
def test_potential_forces_solve_in_every_mode_and_route(method, gradient, mode):
    pump = torch.tensor(0.4, dtype=D)
    force = so.Potential(
        lambda t, x: (x**2).sum(-1) / 2 + pump * torch.cos(t) * x.prod(-1), time=True
    )
    t, x = torch.linspace(0, 1, 5, dtype=D), noise(3, 2, dtype=D)

    def written(t, x):
        return -x - pump * torch.cos(t) * x.flip(-1)

    exact = so.odeint(so.SecondOrder(written), (x, None), t, method=method)
    with mode():
        found = so.odeint(
            so.SecondOrder(force), (x, None), t, method=method, gradient=gradient
        )
    # The reversible route rounds to its grid of 6e-14.
    torch.testing.assert_close(found.x, exact.x, rtol=0, atol=1e-12)
