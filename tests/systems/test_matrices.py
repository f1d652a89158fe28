"""Learned matrices of mass and damping: positive definite, with finite gradients."""

import pytest
import torch
from problems import noise

import secondorder as so

D = torch.float64
M = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=D)
C = torch.tensor([[0.6, -0.2], [-0.2, 0.3]], dtype=D)
K = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=D)
START = noise(2, 2, seed=1).to(D), noise(2, 2, seed=2).to(D)
TIMES = torch.linspace(0, 1, 5, dtype=D)


def force(t, x):
    return -(x @ K)


def test_a_matrix_stays_positive_definite():
    for zero in (False, True):
        number = so.Positive(M, zero=zero)
        torch.testing.assert_close(number(), M)
        optimiser = torch.optim.SGD(number.parameters(), lr=0.3)
        for _ in range(20):
            optimiser.zero_grad()
            number().diagonal().sum().backward()
            optimiser.step()
        found = torch.linalg.eigvalsh(number().detach())
        assert bool((found >= -1e-14).all()) and (zero or bool((found > 0).all()))
    assert [name for name, _ in number.named_parameters()] == ["factor"]


@pytest.mark.parametrize("method", ["verlet", "blanes_moan4", "adaptive", "dopri5"])
def test_a_learned_mass_moves_as_a_fixed_one(method):
    tight = {"rtol": 1e-9, "atol": 1e-9} if method in ("adaptive", "dopri5") else {}
    learned, fixed = so.Newton(force, so.Positive(M)), so.Newton(force, M)
    kwargs = {"method": method, **tight}
    one, two = (so.odeint(s, START, TIMES, **kwargs) for s in (learned, fixed))
    tol = 1e-7 if tight else 1e-12
    torch.testing.assert_close(one.x, two.x, rtol=tol, atol=tol)
    torch.testing.assert_close(one.v, two.v, rtol=tol, atol=tol)


@pytest.mark.parametrize(
    "mass, damping",
    [
        (so.Positive(M), C),
        (so.Positive(M), 0.3),
        (so.Positive(M), so.Positive(C, zero=True)),
        (2.0, so.Positive(C)),
        (M, so.Positive(C)),
        (
            so.Positive(M),
            C + torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=D),
        ),  # gyroscopic
    ],
)
@pytest.mark.parametrize("method", ["dopri5", "coupled_dopri5"])
def test_a_damping_beside_one_is_that_of_the_exponential(mass, damping, method):
    def matrix(value):
        value = value() if isinstance(value, so.Positive) else value
        return value if isinstance(value, torch.Tensor) else value * torch.eye(2)

    m, c = matrix(mass).detach().to(D), matrix(damping).detach().to(D)
    top = torch.cat([torch.zeros(2, 2, dtype=D), torch.eye(2, dtype=D)], 1)
    down = torch.linalg.solve(m, torch.cat([-K, -c], 1))
    flow = torch.matrix_exp(torch.cat([top, down]))
    wanted = torch.cat(START, 1) @ flow.mT
    system = so.Newton(force, mass, damping)
    kwargs = {"method": method, "rtol": 1e-9, "atol": 1e-9}
    x, v = so.odeint(system, START, TIMES, **kwargs)
    found = torch.cat([x[-1], v[-1]], 1)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="takes a velocity"):
        so.odeint(system, START, TIMES, method="blanes_moan4")


@pytest.mark.parametrize("gradient", ["checkpoint", "reversible"])
@pytest.mark.parametrize("matrix", [M, torch.eye(2, dtype=D)])  # repeated eigenvalues
def test_gradients_of_a_mass_are_right_on_every_route(gradient, matrix):
    number = so.Positive(matrix)

    def end(factor, route):
        if factor is not None:
            number._parameters.pop("factor", None)
            number.factor = factor
        x, v = so.odeint(so.Newton(force, number), START, TIMES, gradient=route)
        return (x[-1] ** 3).sum() + v[-1].sum()

    one, two = (
        torch.autograd.grad(end(None, r), number.factor)[0]
        for r in ("backprop", gradient)
    )
    torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)
    assert bool(one.isfinite().all()) and one[0, 1] == 0  # L is lower triangular
    if gradient == "checkpoint":
        factor = number.factor.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda f: end(f, "backprop"), factor)


def test_a_damping_of_repeated_eigenvalues_has_a_gradient_bit_for_bit_reversed():
    number = so.Positive(0.3 * torch.eye(2, dtype=D))
    system = so.Newton(force, so.Positive(torch.eye(2, dtype=D)), number)
    found = []
    for route in ("backprop", "reversible"):
        x, _ = so.odeint(system, START, TIMES, method="coupled_rk4", gradient=route)
        found.append(torch.autograd.grad(x[-1].prod(-1).sum(), number.factor)[0])
    assert bool(found[0].isfinite().all()) and found[0][1, 0] != 0
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-8)


def test_a_mass_is_recovered_from_data():
    data, _ = so.odeint(so.Newton(force, M), START, TIMES)
    number = so.Positive(torch.eye(2, dtype=D))
    system = so.Newton(force, number)
    optimiser = torch.optim.LBFGS(
        system.parameters(), max_iter=60, line_search_fn="strong_wolfe",
        tolerance_grad=1e-14, tolerance_change=1e-16,
    )  # fmt: skip

    def loss():
        optimiser.zero_grad()
        value = (so.odeint(system, START, TIMES).x - data).square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(number().detach(), M, rtol=1e-4, atol=1e-4)


def test_what_is_no_such_matrix_is_refused():
    for bad in (
        -M,
        torch.ones(2, 2),
        torch.tensor([[1.0, 0.2], [0.0, 1.0]]),
        M * torch.nan,
    ):
        with pytest.raises(ValueError, match="`value` must be symmetric and positive"):
            so.Positive(bad)
    with pytest.raises(ValueError, match="`epsilon` is a learned matrix"):
        so.SecondOrder(force, so.Positive(M))
    with pytest.raises(ValueError, match="`damping` must be positive semidefinite in"):
        so.Newton(force, so.Positive(M), -C)
    with pytest.raises(ValueError, match=r"`mass` is \(2, 2\) beside \(3, 3\)"):
        so.Newton(force, so.Positive(M), torch.eye(3))
    with pytest.raises(ValueError, match="`mass` must be symmetric"):
        so.Newton(force, M + torch.tensor([[0, 0.1], [0, 0]]), so.Positive(C))
    with pytest.raises(ValueError, match="cannot be matrices"):
        pair = ((torch.ones(2), torch.ones(2)), None)
        so.odeint(so.Newton(force, so.Positive(M)), pair, [0.0, 1.0])
