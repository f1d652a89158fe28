"""Adaptive methods: who wants gradients, what a dtype can do, forces that are steep."""

import pytest
import torch
from torch import nn

import secondorder as so

D = torch.float64
OURS = [*so.ADAPTIVE]
ROUTES = {
    **dict.fromkeys(
        ["adaptive", "adaptive6"], ["backprop", "checkpoint", "reversible"]
    ),
    **dict.fromkeys(["rkn6", "rkn8", "rkn12"], ["backprop", "checkpoint"]),
}
PAIRS = [(m, g) for m, routes in ROUTES.items() for g in routes]


class Late(nn.Module):
    """A force whose weight is used from t = 1/2 on, or beyond some x."""

    def __init__(self, when):
        super().__init__()
        self.weight, self.when = nn.Parameter(torch.tensor(0.7, dtype=D)), when

    def forward(self, t, x):
        used = t > 0.5 if self.when == "time" else bool((x < 0.9).any())
        return -self.weight * torch.sin(x) if used else -torch.sin(x).detach()


@pytest.mark.parametrize("when", ["time", "place"])
@pytest.mark.parametrize("method, gradient", PAIRS)
def test_weights_that_are_used_late_are_differentiated(method, gradient, when):
    field = Late(when)
    x = torch.tensor([1.0], dtype=D)
    t = torch.tensor([0.0, 0.5, 1.5], dtype=D)

    def end(**how):
        how = {"rtol": 1e-7, "atol": 1e-7, "method": method} | how
        return so.odeint(so.SecondOrder(field), (x, None), t, **how).x[-1]

    found = end(gradient=gradient)
    (slope,) = torch.autograd.grad(found.sum(), field.weight)
    fine = {"method": "blanes_moan6", "step_size": 5e-3, "rtol": None, "atol": None}
    (wanted,) = torch.autograd.grad(end(**fine).sum(), field.weight)
    assert slope.item() == pytest.approx(wanted.item(), rel=1e-2)
    assert abs(slope.item()) > 0.05
    with torch.no_grad():
        assert torch.equal(end(gradient=gradient), end(gradient="backprop"))


@pytest.mark.parametrize("method, gradient", PAIRS)
def test_a_tensor_in_a_closure_that_is_used_late_is_not_lost(method, gradient):
    weight = torch.tensor(0.7, dtype=D, requires_grad=True)

    def field(t, x):
        return -weight * torch.sin(x) if t > 0.5 else -torch.sin(x)

    t = torch.tensor([0.0, 0.5, 1.5], dtype=D)
    start = torch.ones(1, dtype=D), None
    try:
        end = so.odeint(so.SecondOrder(field), start, t, method=method,
                        gradient=gradient).x[-1]  # fmt: skip
        (slope,) = torch.autograd.grad(end.sum(), weight)
    except (RuntimeError, ValueError) as error:
        assert gradient == "reversible", error
        assert "depends on a tensor" in str(error) or "closes" in str(error), error
    else:
        assert abs(slope.item()) > 0.1


@pytest.mark.parametrize("method", OURS)
def test_nothing_is_evaluated_twice_where_no_force_wants_a_gradient(method):
    system = so.SecondOrder(lambda t, x: -torch.sin(x))
    start, t = (torch.ones(1, dtype=D), None), torch.tensor([0.0, 1.0], dtype=D)
    costs = set()
    for gradient in ROUTES[method]:
        sol = so.odeint(system, start, t, method=method, gradient=gradient)
        assert not sol.x.requires_grad
        costs.add(sol.stats.evaluations)
    assert len(costs) == 1


def test_scipy_does_not_lose_the_gradient_of_a_closure_either():
    weight = torch.tensor(0.7, dtype=D, requires_grad=True)
    system = so.SecondOrder(lambda t, x: -weight * x if t > 0.5 else -x)
    start, t = (torch.ones(1, dtype=D), None), torch.tensor([0.0, 1.0], dtype=D)
    with pytest.raises(ValueError, match="outside autograd"):
        so.odeint(system, start, t, method="scipy_RK45")
    with torch.no_grad():
        assert so.odeint(system, start, t, method="scipy_RK45").x.isfinite().all()


# -- What a dtype can do --------------------------------------------------------------


def swing(dtype, method, **how):
    system = so.Newton(lambda t, x: torch.cos(t).to(x.dtype) - torch.sin(x))
    x = torch.tensor([1.0, 0.5]).to(dtype)
    return so.odeint(system, (x, None), [0.0, 1.0, 3.0], method=method, **how)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [*OURS, "dopri5", "rk4"])
def test_half_precision_has_tolerances_of_its_own(method, dtype):
    how = {"step_size": 0.1} if method == "rk4" else {}
    found = swing(dtype, method, **how)
    assert found.x.dtype == found.v.dtype == dtype
    wanted = swing(D, "rkn8", rtol=1e-9, atol=1e-9).x
    within = 6 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.x.double(), wanted, rtol=within, atol=within)
    assert found.stats.evaluations < 1000


@pytest.mark.parametrize("method", [*OURS, "dopri5"])
def test_complex_states_have_the_tolerances_of_their_parts(method):
    for dtype, parts in ((torch.complex128, D), (torch.complex64, torch.float32)):
        real, whole = swing(parts, method), swing(dtype, method)
        assert abs(whole.stats.accepted - real.stats.accepted) <= 1
        torch.testing.assert_close(whole.x.real, real.x, rtol=1e-6, atol=1e-6)


TIGHT = [
    (torch.float32, 1e-8),
    (torch.float32, 1e-13),
    (D, 1e-17),
    (torch.bfloat16, 1e-5),
    (torch.float16, 1e-6),
    (torch.complex64, 1e-9),
]


@pytest.mark.parametrize("method", [*OURS, "dopri5", "dopri8", "scipy_DOP853"])
@pytest.mark.parametrize("dtype, rtol", TIGHT)
def test_tolerances_below_rounding_are_refused_at_once(method, dtype, rtol):
    if "scipy" in method and dtype.is_complex:
        return
    with pytest.raises(ValueError, match=r"`rtol` = .* below the rounding .*`rtol` >="):
        swing(dtype, method, rtol=rtol, atol=rtol)
    # What the absolute tolerance allows is allowed (SciPy raises rtol itself).
    if "scipy" not in method:
        assert swing(dtype, method, rtol=rtol, atol=0.1).x.isfinite().all()


@pytest.mark.parametrize("method", [*OURS, "dopri5"])
def test_they_are_refused_where_the_state_has_grown(method):
    # From rest at 0 everything is below the absolute tolerance, for a while.
    system = so.Newton(lambda t, x: torch.ones_like(x))
    start = torch.zeros(1), None
    with pytest.raises(ValueError, match="below the rounding"):
        so.odeint(system, start, [0.0, 0.1, 30.0, 60.0], method=method, rtol=1e-12,
                  atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("method", [*OURS, "dopri5"])
def test_a_singularity_is_named_by_every_method(method):
    system = so.Newton(lambda t, x: 6 * x**2)  # x = 1/(1 − t)²
    start = torch.ones(1, dtype=D), 2 * torch.ones(1, dtype=D)
    with pytest.raises(RuntimeError, match="loosen"):
        so.odeint(system, start, [0.0, 2.0], method=method)


@pytest.mark.parametrize("method", [*OURS, "dopri5"])
def test_tolerances_are_numbers(method):
    one = swing(D, method, rtol=1e-4, atol=torch.tensor(1e-6, dtype=D))
    two = swing(D, method, rtol=torch.tensor(1e-4, dtype=D), atol=1e-6)
    assert torch.equal(one.x, two.x)
    for name in ("rtol", "atol"):
        for bad, error in (
            (torch.full((7,), 1e-3), ValueError),
            (torch.tensor(-1.0), ValueError),
            (torch.tensor(True), ValueError),
            (float("nan"), ValueError),
            ("1e-3", TypeError),
            ([1e-3, 1e-4, 1e-5], ValueError),  # two are for x and v
        ):
            with pytest.raises(error, match=f"`{name}`"):
                swing(D, method, **{name: bad})


# -- Forces that are steep ------------------------------------------------------------


def ramp(place, width):
    return so.Newton(lambda t, x: torch.tanh((t - place) / width) - x)


@pytest.mark.parametrize("name", ["rkn6", "rkn8"])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_a_steep_ramp_anywhere_in_a_step_is_seen(name, damping):
    # A pair with one weight for the last stage twice was wrong by 4e-3.
    start, width = (torch.ones(1, dtype=D), None), 1e-3
    for place in torch.linspace(0.7, 2.3, 12).tolist():
        system = so.Newton(
            lambda t, x, p=place: torch.tanh((t - p) / width) - x, damping=damping
        )
        ends = [place + k * width for k in (-20, -5, -2, -1, 0, 1, 2, 5, 20)]
        exact = so.odeint(system, start, [0.0, *ends, 4.0], method="rkn12",
                          rtol=1e-12, atol=1e-12).x[-1]  # fmt: skip
        found = so.odeint(system, start, [0.0, 4.0], method=name, rtol=1e-6,
                          atol=1e-6).x[-1]  # fmt: skip
        assert (found - exact).abs().item() < 1e-5


@pytest.mark.parametrize("tolerance, cost", [(1e-4, 2052), (1e-6, 4428), (1e-8, 9060)])
def test_seeing_steep_forces_costs_a_fifth_on_smooth_orbits(tolerance, cost):
    # 1710, 3690 and 7550 evaluations without it.
    kepler = so.Newton(lambda t, x: -x / x.norm() ** 3)
    total = 0
    for e in (0.1, 0.3, 0.5, 0.7, 0.9):
        x = torch.tensor([1 - e, 0.0], dtype=D)
        v = torch.tensor([0.0, ((1 + e) / (1 - e)) ** 0.5], dtype=D)
        sol = so.odeint(kepler, (x, v), [0.0, 20.0], method="rkn6", rtol=tolerance,
                        atol=tolerance)  # fmt: skip
        total += sol.stats.evaluations
    assert total <= cost
