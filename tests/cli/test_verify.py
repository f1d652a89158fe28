"""``python -m secondorder verify``: every check can pass, and each can fail."""

import math

import numpy as np
import pytest
import torch

from secondorder.cli import verify, verify_starts
from secondorder.representability import Continuous, Discrete, represent


def test_quick_verification_passes_and_draws(tmp_path, capsys):
    state = torch.get_rng_state()
    assert verify.main(["--quick", "--out", str(tmp_path / "new")]) == 0
    assert torch.equal(state, torch.get_rng_state())
    assert (tmp_path / "new" / "verify.png").stat().st_size > 50_000
    lines = capsys.readouterr().out.splitlines()
    for part in "abcde":
        assert any(line.startswith(f"ok   {part}") for line in lines)
    assert "all passed" in lines[-1] and not any("FAIL" in line for line in lines)


def test_a_failed_check_is_shown_and_sets_the_exit_status(
    monkeypatch, tmp_path, capsys
):
    wrong = [verify.Check("a", "something", "1", "0", False)]
    monkeypatch.setattr(verify, "check_named", lambda: wrong)
    monkeypatch.setattr(verify, "check_ensembles", lambda quick: [])
    monkeypatch.setattr(verify, "check_training", lambda quick: ([], {}, {}))
    monkeypatch.setattr(verify, "check_limit", lambda: ([], {}))
    monkeypatch.setattr(verify, "check_paper", lambda: [])
    monkeypatch.setattr(verify, "check_starts", lambda quick: [])
    monkeypatch.setattr(verify, "draw", lambda *args: tmp_path / "verify.png")
    assert verify.main(["--quick"]) == 1
    text = capsys.readouterr().out
    assert "FAIL a  something" in text and "SOME FAILED" in text


def test_the_models_that_are_run_are_those_of_the_theory():
    D = np.array([[0.5, -1.0], [2.0, 0.3]])
    theta = represent(D, Continuous(0.5)).theta
    assert verify.distance(verify.integrated(theta, 0.5), D) < 1e-11
    assert verify.distance(verify.integrated(theta, 0.6), D) > 1e-2  # another ε
    m = Discrete(6, 0.9)
    theta = represent(D, m).theta
    assert verify.distance(verify.through_layers(theta, m), D) < 1e-12
    assert verify.distance(verify.through_layers(theta, Discrete(5, 0.9)), D) > 1e-2


def test_a_wrong_verdict_fails_the_named_checks(monkeypatch):
    D, wanted = verify.NAMED["−1"]
    monkeypatch.setitem(verify.NAMED, "−1", (D, (True, *wanted[1:])))
    failed = [check for check in verify.check_named() if not check.passed]
    assert [check.what[:2] for check in failed] == ["−1"]


@pytest.mark.parametrize("floor_factor", [0.8, 1.2])
def test_a_wrong_floor_fails_the_training_check(monkeypatch, floor_factor):
    """Too low a floor is not reached, too high a floor is passed."""

    def shifted(D, m, exact=verify.loss_floor):
        floor = exact(D, m)
        return type(floor)(floor * floor_factor, floor.exact, floor.at)

    monkeypatch.setattr(verify, "loss_floor", shifted)
    monkeypatch.setattr(verify, "TARGETS", {"diag(−1, 2)": np.diag([-1.0, 2.0])})
    monkeypatch.setattr(verify, "RACERS", {"ε = 0.5": Continuous(0.5)})
    (check,), _, _ = verify.check_training(quick=True)
    assert not check.passed


def test_a_wrong_constant_fails_the_limit_check(monkeypatch):
    right = Discrete.limit_error
    monkeypatch.setattr(
        Discrete, "limit_error", lambda self, theta: 1.01 * right(self, theta)
    )
    checks, _ = verify.check_limit()
    assert not any(check.passed for check in checks if "constant" in check.what)
    assert math.isfinite(sum(len(check.wanted) for check in checks))


def test_a_wrong_threshold_fails_the_checks_of_the_paper(monkeypatch):
    assert all(check.passed for check in verify_starts.check_paper())
    monkeypatch.setattr(Continuous, "threshold", -0.99)
    monkeypatch.setattr(Continuous, "log_threshold", -0.01)
    checks = verify_starts.check_limits(np.eye(2))
    failed = [check.what for check in checks if not check.passed]
    assert any("ε → 0" in what for what in failed)
    assert any("ε → ∞" in what for what in failed)


def test_a_wrong_bound_floor_law_or_channel_fails(monkeypatch):
    rng = np.random.default_rng(0)
    exact = verify_starts.loss_floor
    monkeypatch.setattr(verify_starts, "min_norm", lambda D, m: 50.0)
    monkeypatch.setattr(
        verify_starts, "loss_floor", lambda *args, **more: 5 * exact(*args, **more)
    )
    monkeypatch.setattr(verify_starts, "planar_probability", lambda m, sigma: 0.5)
    monkeypatch.setattr(verify_starts, "extend", lambda D, m: -np.eye(1))
    assert not next(verify_starts.check_norms(rng, 3)).passed
    assert not verify_starts.check_data(rng, 5).passed
    assert not verify_starts.check_planar_law(rng, 5000).passed
    assert not verify_starts.check_channel(rng, 5).passed
