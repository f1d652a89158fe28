"""Plans that are found again by the values of what they follow from."""

import warnings

import torch

import secondorder as so
from secondorder.plan import known


def solve(field=lambda t, x: -x, epsilon=0.5, end=1.0, method="verlet", start=None):
    system = field if isinstance(field, so.SecondOrder) else None
    system = system or so.SecondOrder(field, epsilon)
    start = torch.ones(3) if start is None else start
    t = end if isinstance(end, torch.Tensor) else torch.tensor([0.0, end])
    return so.odeint(system, (start, None), t, step_size=0.1, method=method).x[-1]


def made(monkeypatch):
    """A list that grows with each plan that is made."""
    plans = []
    kept = known.with_notes
    monkeypatch.setattr(known, "with_notes", lambda p: plans.append(p) or kept(p))
    known.PLANS.clear()
    return plans


def test_equal_numbers_find_a_plan_and_others_do_not(monkeypatch):
    plans = made(monkeypatch)
    first = solve()
    assert torch.equal(solve(), first) and len(plans) == 1
    others = [
        {"epsilon": 0.25},
        {"end": 1.5},
        {"method": "momentum"},
        {"start": torch.ones(3).double()},
        {"epsilon": torch.tensor([0.5, 0.25, 0.5])},
    ]
    for n, other in enumerate(others, 2):
        assert not torch.equal(solve(**other).float(), first)
        assert len(plans) == n


def test_numbers_changed_in_place_are_seen(monkeypatch):
    plans = made(monkeypatch)
    epsilon, end = torch.tensor([0.5, 0.25, 0.5]), torch.tensor([0.0, 1.0])
    system = so.SecondOrder(lambda t, x: -x, epsilon)
    first = solve(system, end=end)
    system.epsilon.mul_(2)
    second = solve(system, end=end)
    end.mul_(2)
    third = solve(system, end=end)
    assert len(plans) == 3
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_a_field_that_writes_into_its_time_spoils_no_later_solve():
    def rude(t, x):
        value = t.clone() - x
        t.add_(1.0)
        return value

    def kind(t, x):
        return t - x

    for end in (1.0, 150.0):  # times as objects, and in one column
        wanted = solve(kind, end=end)
        solve(rude, end=end)
        assert torch.equal(solve(kind, end=end), wanted)


def test_what_is_learned_or_traced_is_made_anew(monkeypatch):
    plans = made(monkeypatch)
    epsilon = torch.tensor(0.5, requires_grad=True)
    for _ in range(2):
        (slope,) = torch.autograd.grad(solve(epsilon=epsilon).sum(), epsilon)
        assert slope != 0
    with torch.inference_mode():
        solve()
    torch.func.grad(lambda x: solve(start=x).sum())(torch.ones(3))
    torch.vmap(lambda x: solve(start=x))(torch.ones(2, 3))
    assert not plans
    start = torch.ones(3, requires_grad=True)
    solve(start=start).sum().backward()
    assert start.grad is not None and len(plans) == 1


def test_a_negative_momentum_is_told_of_at_each_solve():
    for _ in range(2):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            solve(method="momentum", epsilon=0.08)
        assert "negative" in str(told[0].message)


def test_few_plans_are_kept():
    for n in range(40):
        solve(end=1.0 + n / 100)
    assert len(known.PLANS) == known.MOST
