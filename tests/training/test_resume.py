"""A training taken up again equals one that was not left, bit for bit."""

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secondorder as so

x = torch.linspace(-1, 1, 40).unsqueeze(1)
y = (3 * x).sin()
STEPS, CUT = 24, 11


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2),
                         nn.Linear(8, 1))  # fmt: skip


def error(model, x=x, y=y):
    jitter = random.random() + np.random.rand()  # other random numbers
    return (model(x) - y + 0.01 * jitter * torch.randn(len(x), 1)).square().mean()


def residuals(model, x=x, y=y):
    return model(x) - y


def rows(**settings):
    return {"data": (x, y), "batch_size": 7, **settings}


def loader(**settings):
    own = torch.Generator().manual_seed(5)
    data = DataLoader(TensorDataset(x, y), 7, shuffle=True, generator=own)
    return {"data": data, **settings}


WAYS = {
    "whole": dict,
    "rows": rows,
    "own generator": lambda: rows(generator=torch.Generator().manual_seed(3)),
    "loader": loader,
    "loader, no generator": lambda: {
        "data": DataLoader(TensorDataset(x, y), 7, shuffle=True)
    },
    "list": lambda: {"data": [(x, y), (x[:3], y[:3])]},
    "validated": lambda: rows(validation=(x, y), patience=9, validate_every=2),
    "momentum": lambda: {"optimizer": functools.partial(torch.optim.SGD, momentum=0.9)},
    "steps": lambda: {"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.5)},
    "plateau": lambda: {
        "schedule": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1)
    },
    "lbfgs": lambda: {"optimizer": "lbfgs"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", ["callback", "error", "interrupt"])
def test_resumed_training_equals_uninterrupted(way, cut, tmp_path):
    def run(**more):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        settings = WAYS[way]()
        loss = more.pop("loss", error)
        history = so.fit(model, loss, STEPS, 0.05, False, **settings, **more)
        return history, [z.clone() for z in model.state_dict().values()]

    def breaks(model, *batch):
        value = error(model, *batch)
        if len(seen) == CUT:
            raise {"error": ZeroDivisionError, "interrupt": KeyboardInterrupt}[cut]
        return value

    def count(model, history):
        seen.append(None)
        return cut == "callback" and len(history.loss) == CUT

    model, seen = network(), []
    whole, wanted = run()
    model = network()
    file = {"checkpoint": tmp_path / "run.pt"}
    try:
        run(callback=count, loss=breaks, **file)
    except ZeroDivisionError:
        assert cut == "error"
    assert len(seen) == CUT
    model = network()
    for p in model.parameters():
        nn.init.zeros_(p)
    history, found = run(resume=True, **file)
    assert history == whole and len(history.loss) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert all(p.grad is None for p in model.parameters())
    again, found = run(resume=True, **file)  # nothing is left to do
    assert again == whole


def test_gauss_newton_is_resumed():
    for cut in (None, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
        method = so.GaussNewton()

        def stop(model, history, cut=cut):
            return len(history.loss) == cut

        settings = {"optimizer": method, "progress": False}
        history = so.fit(model, residuals, 6, **settings, callback=stop)
        if cut is None:
            whole = history
    assert history.loss == whole.loss[:2]


def test_what_a_checkpoint_cannot_continue_is_refused(tmp_path):
    file = tmp_path / "deep" / "run.pt"
    so.fit(network(), error, 3, 0.1, False, checkpoint=file)
    assert [*file.parent.iterdir()] == [file]
    for other in ({"lr": 0.2}, {"steps": 5}, {"optimizer": torch.optim.SGD}):
        settings = {"steps": 3, "lr": 0.1} | other
        with pytest.raises(ValueError, match=f"with {next(iter(other))} ="):
            so.fit(network(), error, progress=False, checkpoint=file, resume=True,
                   **settings)  # fmt: skip
    with pytest.raises(ValueError, match="`checkpoint`"):
        so.fit(network(), error, 3, 0.1, False, resume=True)


def test_a_constant_rate_can_go_on_for_longer(tmp_path):
    model, settings = network(), {"schedule": None, "checkpoint": tmp_path / "run.pt"}
    so.fit(model, error, 3, 0.1, False, **settings)
    assert len(so.fit(model, error, 5, 0.1, False, resume=True, **settings).loss) == 5


def test_without_a_file_it_starts(tmp_path):
    file = tmp_path / "run.pt"
    history = so.fit(network(), error, 3, 0.1, False, checkpoint=file, resume=True)
    assert len(history.loss) == 3 and file.exists()
