"""``fit`` trains, reports honestly, and stops where the numbers break down."""

import builtins
import contextlib
import copy
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import secondorder as so
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


# -- settings of other kinds of number ------------------------------------------------


@pytest.mark.parametrize(
    "lr",
    [
        torch.tensor(0.1),
        torch.tensor([0.1]),
        torch.tensor(0.1, requires_grad=True),
        np.float32(0.1),
        np.float64(0.1),
        np.array(0.1),
        np.array([[0.1]]),
    ],
)
def test_the_learning_rate_of_the_caller_is_read_and_not_changed(lr):
    before = copy.deepcopy(lr)
    model, same = line(), line()
    history = fit(model, loss, 20, lr, progress=False)
    assert lr == before
    assert history.loss == fit(same, loss, 20, lr.item(), progress=False).loss
    assert fit(model, loss, 20, lr, progress=False).loss[0] < history.loss[0]  # again


@pytest.mark.parametrize("steps", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_steps_may_be_any_integer(steps):
    assert len(fit(line(), loss, steps, 0.1, progress=False).loss) == 3


@pytest.mark.parametrize(
    "steps", [np.bool_(True), torch.tensor(True), np.float64(3), "3", None, [3]]
)
def test_steps_are_no_other_number(steps):
    with pytest.raises(ValueError, match="`steps`"):
        fit(line(), loss, steps, 0.1, progress=False)


@pytest.mark.parametrize(
    ("lr", "error"),
    [
        (True, ValueError),
        (np.bool_(True), ValueError),
        (torch.tensor(True), ValueError),
        (np.float32("nan"), ValueError),
        (torch.tensor(-0.1), ValueError),
        (torch.tensor([0.1, 0.2]), TypeError),
        ("0.1", TypeError),
        (None, TypeError),
        (0.1j, TypeError),
    ],
)
def test_lr_is_no_other_number(lr, error):
    with pytest.raises(error, match="`lr`"):
        fit(line(), loss, 1, lr, progress=False)


# -- every way out --------------------------------------------------------------------


def fails_at(step, error):
    """The loss of a line, which raises an error (or calls a function) at a step."""
    calls = []

    def fails(model):
        calls.append(None)
        value = loss(model)
        value.backward(retain_graph=True)  # leaves gradients of its own
        if len(calls) == step + 1:
            if not isinstance(error, BaseException):
                return error(value)
            raise error
        return value

    return fails


def nan_gradient(value):
    return value + 0 * (value - value).sqrt()  # the slope of √ at 0


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(
    "way",
    [
        RuntimeError("boom"),
        ValueError("`epsilon` is wrong, says the user's own code"),
        SystemExit(3),
        KeyboardInterrupt(),
        lambda value: value * float("inf"),
        lambda value: value.item(),
        lambda value: value.detach(),
        nan_gradient,
    ],
)
@pytest.mark.filterwarnings("ignore:fit stopped early")
def test_no_gradients_are_left_behind_however_it_ends(way, step):
    model = line()
    with contextlib.suppress(RuntimeError, ValueError, TypeError, SystemExit):
        history = fit(model, fails_at(step, way), 10, 0.1, progress=False)
        assert history.stopped and len(history.loss) == step
    assert all(p.grad is None for p in model.parameters())


def test_an_error_of_the_loss_keeps_its_traceback():
    for error in (ZeroDivisionError("x"), ValueError("`epsilon` must be > 0")):
        with pytest.raises(type(error)) as caught:
            fit(line(), fails_at(2, error), 10, 0.1, progress=False)
        assert caught.value is error
        assert caught.traceback[-1].name == "fails"
        assert error.__context__ is None and error.__cause__ is None


# -- Ctrl-C ---------------------------------------------------------------------------


def after(steps, of=10):
    """The weights after the first steps of a run."""
    model = line()
    with contextlib.suppress(RuntimeError):
        fit(model, fails_at(steps, RuntimeError()), of, 0.1, progress=False)
    return [p.detach() for p in model.parameters()]


def press_ctrl_c(*_):
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [0, 3, 9])
@pytest.mark.parametrize("progress", [False, True])
def test_ctrl_c_returns_what_there_is(step, progress):
    model = line()
    stop = fails_at(step, lambda value: press_ctrl_c() or value)
    history = fit(model, stop, 10, 0.1, progress=progress)
    assert len(history.loss) == step
    assert f"interrupted at step {step}" in history.stopped
    assert "interrupted" in repr(history)
    for found, wanted in zip(model.parameters(), after(step), strict=True):
        assert torch.equal(found, wanted)


def test_ctrl_c_in_the_middle_of_an_update_waits_for_its_end():
    """Adam has changed the weight, and not yet the bias."""
    model, seen = line(), []

    class Pressed(torch.optim.Adam):
        def step(self):
            before = [p.detach().clone() for p in model.parameters()]
            super().step()
            changed = model.bias.detach().clone()
            with torch.no_grad():
                model.bias.copy_(before[1])
            if len(seen) == 3:
                press_ctrl_c()
            with torch.no_grad():
                model.bias.copy_(changed)
            seen.append(None)

    handler = signal.getsignal(signal.SIGINT)
    with mock.patch.object(torch.optim, "Adam", Pressed):
        history = fit(model, fails_at(99, None), 10, 0.1, progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(history.loss) == 4 and "interrupted at step 4" in history.stopped
    for found, wanted in zip(model.parameters(), after(4), strict=True):
        assert torch.equal(found, wanted)


def test_outside_the_main_thread_it_trains_as_well():
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(fit, line(), loss, 5, 0.1, progress=False).result()
    assert len(history.loss) == 5


# -- numbers that training pushes out of range ----------------------------------------


def learned(value):
    return nn.Parameter(torch.tensor(value))


def pushed(model, number, sign=-1.0):
    """A loss that solves, and whose slope pushes a number one way."""

    def solve_and_push(m):
        start = torch.ones(3, 2)
        if isinstance(m, (so.SecondOrderODE, so.MomentumNet)):
            end = m(start)
        else:
            end = so.odeint(m, (start, None), torch.tensor([0.0, 1.0])).x
        return 0 * end.square().mean() - sign * number.sum()

    return solve_and_push


CASES = {
    "epsilon": lambda p: so.SecondOrderODE(lambda t, x: -x, epsilon=p, steps=5),
    "mass": lambda p: so.Newton(lambda t, x: -x, mass=p),
    "damping": lambda p: so.Newton(lambda t, x: -x, damping=p),
    "epsilon, system": lambda p: so.SecondOrder(lambda t, x: -x, p),
}


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("value", [0.25, [0.25, 0.25]])
def test_a_number_that_training_pushes_out_of_range_ends_the_run(what, value):
    number = learned(value)
    model = CASES[what](number)
    name = what.split(",")[0]
    with pytest.warns(RuntimeWarning, match=f"`{name}` out of range.*so.Positive"):
        history = fit(model, pushed(model, number), 20, 0.1, progress=False)
    assert 1 < len(history.loss) < 20
    assert f"at step {len(history.loss)}" in history.stopped
    assert number.detach().max() <= 0 and number.grad is None


def test_a_number_that_starts_out_of_range_is_an_error_of_the_caller():
    number = learned(0.25)
    model = so.Newton(lambda t, x: -x, mass=number)
    with torch.no_grad():
        number.fill_(-1.0)
    with pytest.raises(ValueError, match="`mass`"):
        fit(model, pushed(model, number), 20, 0.1, progress=False)


def test_a_number_that_is_data_is_an_error_of_the_caller():
    model = so.SecondOrder(so.Autonomous(nn.Linear(1, 1)))
    batches = iter([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0]])

    def batch_loss(model):
        t = torch.tensor(next(batches))
        return so.odeint(model, (torch.ones(1, 1), None), t).x.square().mean()

    with pytest.raises(ValueError, match="`t` must be strictly"):
        fit(model, batch_loss, 3, 0.1, progress=False)


def test_times_that_training_pushes_past_each_other_end_the_run():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = learned([0.0, 0.2])

    def end(model):
        system = so.SecondOrder(lambda t, x: -x)
        x = so.odeint(system, (torch.ones(1, 1), None), model.t).x
        return 0 * x.sum() + model.t[1] - model.t[0]

    with pytest.warns(RuntimeWarning, match="`t` out of range"):
        assert fit(Timed(), end, 20, 0.1, progress=False).loss


def test_positive_numbers_can_be_pushed_for_ever():
    number = so.Positive(0.25)
    model = so.Newton(lambda t, x: -x, damping=number)
    push = pushed(model, next(number.parameters()))
    assert not fit(model, push, 50, 0.1, progress=False).stopped
