"""What ``fit`` is given: optimisers, schedules, batches, validation, callbacks."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secondorder as so

x = torch.linspace(-1, 1, 40).unsqueeze(1)
y = 3 * x - 1


def line():
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def loss(model, x=x, y=y):
    return (model(x) - y).square().mean()


def fit(model, steps=60, lr=0.1, loss=loss, **settings):
    return so.fit(model, loss, steps, lr, progress=False, **settings)


# -- optimisers and schedules ---------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW,
        functools.partial(torch.optim.SGD, momentum=0.9),
        lambda parameters, lr: torch.optim.RMSprop(parameters, lr),
        "lbfgs",
    ],
)
def test_optimisers_lower_the_loss(optimizer):
    history = fit(line(), optimizer=optimizer)
    assert history.loss[-1] < 0.05 * history.loss[0] and len(history.lr) == 60


def test_an_optimiser_of_ones_own_keeps_its_rates():
    model = line()
    own = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.0}, {"params": [model.bias]}], lr=0.1
    )
    before = model.weight.item()
    history = fit(model, lr=None, optimizer=own, schedule=None)
    assert model.weight.item() == before != model.bias.item()
    assert history.loss[-1] < history.loss[0]
    with pytest.raises(ValueError, match="`lr`"):
        fit(model, optimizer=own)
    with pytest.raises(ValueError, match="`optimizer` moves no parameter"):
        fit(line(), lr=None, optimizer=own)


def test_lbfgs_is_exact_and_a_failed_search_leaves_the_parameters():
    model = line()
    assert fit(model, steps=5, lr=None, optimizer="lbfgs").loss[-1] < 1e-10

    calls = []

    def breaks(model):
        calls.append(None)
        return loss(model) * (float("nan") if len(calls) == 3 else 1.0)

    model = line()
    before = [p.clone() for p in model.parameters()]
    with pytest.warns(RuntimeWarning, match="the loss is nan"):
        assert fit(model, loss=breaks, lr=1.0, optimizer="lbfgs").loss == []
    assert len(calls) == 3
    for p, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, value)


def test_the_schedule_is_stepped_once_an_update():
    halves = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    assert fit(line(), 5, schedule=halves).lr == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert fit(line(), 3, schedule=None).lr == [0.1] * 3
    cosine = [0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert fit(line(), 4).lr == pytest.approx(cosine)


@pytest.mark.parametrize("clip", [0.5, 1e-3])
def test_gradients_are_clipped_together(clip):
    model, seen = line(), []
    sgd = functools.partial(torch.optim.SGD)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    fit(model, 1, 1.0, optimizer=sgd, clip=clip)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(clip, rel=1e-4)
    model = line()
    loss(model).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    fit(model, 1, 1.0, optimizer=sgd, clip=None)
    free = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(before - free, gradient)
    assert not seen


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"optimizer": "sgd"}, ValueError),
        ({"optimizer": lambda p, lr: 3}, TypeError),
        ({"schedule": lambda optimizer: 3}, TypeError),
        ({"clip": 0.0}, ValueError),
        ({"clip": "1"}, ValueError),
        ({"optimizer": "gauss_newton"}, ValueError),
        ({"batch_size": 4}, ValueError),
        ({"data": (x, y[:3])}, ValueError),
        ({"data": (x, y), "batch_size": 0}, ValueError),
        ({"data": [(x, y)], "batch_size": 3}, ValueError),
        ({"data": iter([(x, y)])}, TypeError),
        ({"data": 3}, TypeError),
        ({"data": []}, ValueError),
        ({"patience": 3}, ValueError),
        ({"validation": loss, "patience": 0}, ValueError),
        ({"validation": lambda model: model(x)}, ValueError),
        ({"callback": 3}, TypeError),
    ],
)
def test_settings_that_cannot_be_right_are_refused(wrong, error):
    with pytest.raises(error, match="`"):
        fit(line(), **wrong)


# -- batches --------------------------------------------------------------------------


def test_every_epoch_draws_every_row_once_in_a_new_order():
    seen = []

    def note(model, rows):
        seen.append(rows)
        return loss(model)

    rows = torch.arange(10)
    torch.manual_seed(0)
    fit(line(), steps=8, loss=note, data=rows, batch_size=3)
    assert [len(batch) for batch in seen] == [3, 3, 3, 1] * 2
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert torch.equal(first.sort().values, rows)
    assert torch.equal(second.sort().values, rows) and not torch.equal(first, second)


@pytest.mark.parametrize("size", [None, 40, 100])
def test_one_batch_of_all_rows_is_the_loss_on_all(size):
    history = fit(line(), data=(x, y), batch_size=size)
    assert history.loss == fit(line()).loss


def test_a_loader_is_iterated_again():
    loader = DataLoader(TensorDataset(x, y), 16)
    history = fit(line(), steps=7, data=loader)
    assert len(history.loss) == 7
    assert history.loss == fit(line(), 7, data=[*loader]).loss


# -- validation -----------------------------------------------------------------------


def test_validation_sees_the_model_in_evaluation_mode_and_leaves_it_as_it_was():
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[1].eval()
    modes = []

    def validate(model):
        modes.append([m.training for m in model.modules()])
        assert not torch.is_grad_enabled()
        return loss(model)

    before = [m.training for m in model.modules()]
    history = fit(model, 6, validation=validate, validate_every=2)
    assert history.validated == [2, 4, 6] and len(history.validation) == 3
    assert not any(any(mode) for mode in modes)
    assert [m.training for m in model.modules()] == before


def test_patience_ends_the_training_and_restores_the_best_model():
    wanted, states = [5.0, 3.0, 4.0, float("nan"), 3.5, 1.0], []

    def validate(model):
        states.append([p.clone() for p in model.parameters()])
        return wanted[len(states) - 1]

    model = line()
    history = fit(model, validation=validate, validate_every=1, patience=3)
    assert "no better validation in 3 at step 5" in history.stopped
    assert history.best == 2 and "best validation 3 after 2" in repr(history)
    for p, value in zip(model.parameters(), states[1], strict=True):
        assert torch.equal(p, value)


def test_held_out_data_are_averaged_by_their_rows():
    model = line()
    batches = [(x[:30], y[:30]), (x[30:], y[30:])]
    history = fit(model, 1, validation=batches, validate_every=1)
    whole = fit(line(), 1, validation=(x, y), validate_every=1)
    torch.testing.assert_close(history.validation, whole.validation)
    assert whole.validation[0] == pytest.approx(loss(model).item())


# -- callbacks and histories ----------------------------------------------------------


def test_callbacks_are_called_after_each_update_and_may_end_it():
    seen = []

    def stop(model, history):
        return len(history.loss) == 4

    history = fit(line(), callback=[lambda m, h: seen.append(h.loss[-1]), stop])
    assert seen == history.loss and len(seen) == 4
    assert "callback stop at step 4" in history.stopped


def test_a_history_is_a_table_and_shows_itself():
    history = fit(line(), 6, validation=loss, validate_every=3)
    table = history.table
    assert {len(column) for column in table.values()} == {6}
    assert [*table] == ["step", "loss", "lr", "validation"]
    assert math.isnan(table["validation"][0])
    assert table["validation"][5] == history.validation[1]
    page = history._repr_html_()
    assert "<polyline" in page and page.count("<tr>") == 7
    assert "nan" not in so.History([1.0, math.nan, 0.0], "<why>")._repr_html_()[:40]
    assert "&lt;why&gt;" in so.History([1.0], "<why>")._repr_html_()
    assert "no steps" in so.History()._repr_html_()


def test_validation_is_drawn_where_it_was_taken():
    history = fit(line(), 7, validation=loss, validate_every=3)
    _, drawn = so.plot.losses(history).get_lines()
    assert [*drawn.get_xdata()] == [3, 6]
