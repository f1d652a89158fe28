"""The Silverbox loader refuses what is not the record, and scores by the rules."""

import hashlib
import sys

import pytest
import torch

from secondorder import data

# By name: ``data.silverbox`` is the function of that module.
MODULE = sys.modules["secondorder.data.silverbox"]


def test_the_error_in_millivolts_ignores_the_given_samples():
    y = torch.zeros(150, dtype=torch.float64)
    guess = torch.full_like(y, 3e-3)
    guess[:50] = 100.0
    assert data.rmse_mv(y, guess) == pytest.approx(3.0)
    assert data.rmse_mv(y, guess, skip=0) > 1000


@pytest.mark.parametrize(
    ("measured", "simulated", "name"), [(60, 61, "measured"), (50, 50, "skip")]
)
def test_records_that_cannot_be_compared_are_refused(measured, simulated, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        data.rmse_mv(torch.zeros(measured), torch.zeros(simulated))


def test_a_missing_silverbox_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nonlinear-benchmarks"):
        data.silverbox(tmp_path / "SNLS80mV.csv")


def test_a_changed_silverbox_file_is_refused(tmp_path):
    path = tmp_path / "SNLS80mV.csv"
    path.write_text('"V1","V2",\n0.1,0.2,\n')
    with pytest.raises(ValueError, match="SHA-256"):
        data.silverbox(path)


def test_the_silverbox_loader_splits_as_published(tmp_path, monkeypatch):
    rows = "".join(f"{i / 131072},{-i / 131072},\n" for i in range(131072))
    path = tmp_path / "SNLS80mV.csv"
    path.write_text('"V1","V2",\n' + rows)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(MODULE, "SILVERBOX_SHA256", digest)
    record = data.silverbox(str(path))
    assert record.u.shape == record.y.shape == (131072,)
    assert record.u.dtype == torch.float64
    assert record.fs == 610.35
    assert torch.equal(record.y, -record.u)
    assert len(record.u[record.train]) == 105712 - 40650
    lengths = {name: len(record.u[part]) for name, part in record.tests.items()}
    assert lengths == {
        "multisine": 127400 - 105712,
        "arrow": 40575 - 100,
        "arrow, no extrapolation": 32100 - 100,
    }
    for name in ("multisine", "arrow"):  # no test sample was trained on
        part = record.tests[name]
        assert part.stop <= record.train.start or part.start >= record.train.stop
