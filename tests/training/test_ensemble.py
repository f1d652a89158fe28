"""An ensemble is its members: the same losses and gradients as one by one."""

import copy

import matplotlib as mpl
import pytest
import torch
from torch import nn

import secondorder as so

mpl.use("Agg")
x, y = so.data.cubic(40)


def make():
    force = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    return so.SecondOrderODE(so.Autonomous(force), epsilon=2.0, steps=5)


def loss(model, x=x, y=y):
    return (model(x.double()) - y).square().mean()


def members(n=4, make=make):
    torch.manual_seed(0)
    return so.ensemble(make, n)


def test_members_are_trained_as_if_each_were_alone():
    together = members()
    alone = [together[i] for i in range(4)]
    batches = {"data": (x, y), "batch_size": 16, "progress": False}
    torch.manual_seed(1)
    history = so.fit(together, loss, 12, 0.05, validation=loss, **batches)
    losses = []
    for i, model in enumerate(alone):
        torch.manual_seed(1)
        losses.append(so.fit(model, loss, 12, 0.05, **batches).loss)
        pairs = zip(model.parameters(), together[i].parameters(), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    wanted = torch.tensor(losses, dtype=torch.float64).T
    found = torch.tensor(history.members, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=0)
    torch.testing.assert_close(torch.tensor(history.loss).double(),
                               wanted.median(1).values)  # fmt: skip
    assert history.validation[-1] == pytest.approx(
        torch.stack([loss(model) for model in alone]).median().item()
    )


def test_one_member_that_breaks_down_does_not_stop_the_others():
    together = members()

    def breaks(model):
        weight = model.field.module[0].weight
        large = 2 * weight.sum() > sums.sort().values[2:].sum()  # one of four
        return loss(model) * torch.where(large, torch.nan, 1.0)

    each = [together[i].field.module[0].weight.sum() for i in range(4)]
    sums = torch.stack(each).detach()
    history = so.fit(together, breaks, 6, 0.01, progress=False)
    assert not history.stopped
    broken = torch.tensor(history.members).isnan()
    assert broken[0].sum() == 1 and not broken.all(1).any()
    assert all(p.isfinite().all() for p in together.parameters())
    ax = so.plot.losses(history)
    assert len(ax.collections) == 1


def test_all_broken_ends_the_training():
    with pytest.warns(RuntimeWarning, match="no member"):
        so.fit(members(), lambda m: loss(m) * torch.nan, 3, 0.1, progress=False)


def test_members_can_be_taken_out_copied_saved_and_resumed(tmp_path):
    together = members()
    assert together(x.double()).shape == (4, 40, 1)
    torch.testing.assert_close(together[2](x.double()), together(x.double())[2])
    other = members()
    other.load_state_dict(together.state_dict())
    assert torch.equal(copy.deepcopy(other)(x.double()), together(x.double()))
    whole = so.fit(together, loss, 8, 0.05, progress=False)
    file = {"checkpoint": tmp_path / "run.pt", "progress": False}
    so.fit(other, loss, 8, 0.05, **file, callback=lambda m, h: len(h.loss) == 3)
    assert so.fit(other, loss, 8, 0.05, **file, resume=True) == whole
    assert repr(together).startswith("Ensemble(\n  4 × SecondOrderODE")
    with pytest.raises(IndexError):
        together[4]


def test_buffers_and_frozen_parameters_are_kept():
    def frozen():
        model = nn.Sequential(nn.Linear(1, 3), nn.LayerNorm(3), nn.Linear(3, 1))
        model[0].weight.requires_grad_(False)
        model.register_buffer("shift", torch.ones(1))
        return model

    together = members(3, frozen)
    before = together[1][0].weight.clone()
    so.fit(together, lambda m: (m(x) - m.shift).square().mean(), 3, 0.1, progress=False)
    assert torch.equal(together[1][0].weight, before)
    assert torch.equal(together[2].shift, torch.ones(1))


@pytest.mark.parametrize(
    "epsilon", [lambda: so.Positive(1.0), lambda: nn.Parameter(torch.tensor(1.0))]
)
def test_learned_numbers_cannot_be_solved_side_by_side(epsilon):
    together = members(
        2, lambda: so.SecondOrderODE(so.Autonomous(nn.Linear(1, 1)), epsilon=epsilon())
    )
    with pytest.raises(RuntimeError, match="one by one"):
        so.fit(together, lambda m: m(x).mean(), 2, 0.1, progress=False)


@pytest.mark.parametrize("optimizer", ["lbfgs", "gauss_newton"])
def test_optimisers_that_couple_members_are_refused(optimizer):
    with pytest.raises(ValueError, match="`optimizer`"):
        so.fit(members(), loss, 2, optimizer=optimizer, progress=False)


def test_what_makes_no_equal_models_is_refused():
    with pytest.raises(TypeError, match="`make`"):
        so.ensemble(make(), 3)
    with pytest.raises(TypeError, match="`models`"):
        so.ensemble(lambda: 3, 3)
    with pytest.raises(ValueError, match="`n`"):
        so.ensemble(make, 0)
    sizes = iter([1, 2])
    with pytest.raises(ValueError, match="`models`"):
        so.ensemble(lambda: nn.Linear(next(sizes), 1), 2)
