"""``fit`` trains, reports honestly, and stops where the numbers break down."""

import builtins

import pytest
import torch
from torch import nn

from secondorder.training import fit


def line(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(1, 1)


x = torch.linspace(-1, 1, 40).unsqueeze(1)


def loss(model):
    return (model(x) - (3 * x - 1)).square().mean()


def test_a_line_is_found_and_the_history_has_one_loss_per_step():
    model = line()
    first = loss(model).item()
    history = fit(model, loss, steps=300, lr=0.1, progress=False)
    assert len(history.loss) == 300
    assert history.loss[0] == first
    assert not history.stopped
    assert loss(model).item() < 1e-6
    torch.testing.assert_close(model.weight.item(), 3.0, atol=1e-2, rtol=0)
    assert all(p.grad is None for p in model.parameters())


def test_the_run_is_reproducible_and_quiet_without_progress(capfd):
    runs = [fit(line(), loss, 20, 0.1, progress=False).loss for _ in range(2)]
    assert runs[0] == runs[1]
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_the_loss(capfd):
    fit(line(), loss, 5, 0.1)
    assert "loss=" in capfd.readouterr().err


def test_without_tqdm_the_run_goes_on_silently(monkeypatch, capfd):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert len(fit(line(), loss, 5, 0.1).loss) == 5
    assert capfd.readouterr() == ("", "")


def test_frozen_parameters_stay():
    model = line()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    fit(model, loss, 10, 0.1, progress=False)
    assert torch.equal(model.bias, before)


def test_minibatches_may_be_drawn_inside_the_loss():
    generator = torch.Generator().manual_seed(0)

    def batch_loss(model):
        rows = torch.randint(len(x), (8,), generator=generator)
        return (model(x[rows]) - (3 * x[rows] - 1)).square().mean()

    model = line()
    fit(model, batch_loss, 400, 0.1, progress=False)
    assert loss(model).item() < 1e-4


def test_a_loss_of_nan_stops_the_run_and_says_where():
    calls = []

    def breaks(model):
        calls.append(None)
        return loss(model) * (float("nan") if len(calls) == 4 else 1.0)

    model = line()
    with pytest.warns(RuntimeWarning, match="nan at step 3 .last finite loss"):
        history = fit(model, breaks, 10, 0.1, progress=False)
    assert len(history.loss) == len(calls) - 1 == 3
    assert "step 3" in history.stopped
    assert f"{history.loss[-1]:.6g}" in history.stopped
    assert "stopped" in repr(history)


def test_a_gradient_of_nan_stops_before_it_reaches_the_parameters():
    model = line()
    with torch.no_grad():
        model.weight.zero_()

    def breaks(model):  # the square root has a finite value and an infinite slope at 0
        return model.weight.abs().sqrt().sum() + 0 * model.bias.sum()

    with pytest.warns(RuntimeWarning, match="gradient's norm is (nan|inf) at step 0"):
        history = fit(model, breaks, 10, 0.1, progress=False)
    assert history.loss == []
    assert "no finite loss" in history.stopped
    assert model.weight.item() == 0


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match="`steps`"):
        fit(line(), loss, steps, 0.1, progress=False)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_lr_must_be_positive_and_finite(lr):
    with pytest.raises(ValueError, match="`lr`"):
        fit(line(), loss, 1, lr, progress=False)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="`model`"):
        fit(nn.Identity(), loss, 1, 0.1, progress=False)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("mse", TypeError),
        (lambda model: loss(model).item(), TypeError),
        (lambda model: (model(x) - x).square(), ValueError),
        (lambda model: loss(model).detach(), ValueError),
    ],
)
def test_a_bad_loss_is_explained(bad, error):
    with pytest.raises(error, match="`loss`"):
        fit(line(), bad, 1, 0.1, progress=False)
