"""Untied layers reach every real map: the path is integrated, not trusted."""

import numpy as np
import pytest
import torch
from matrices import jordan
from scipy.integrate import solve_ivp

from secondorder.representability import steer, steer_layers

TARGETS = {
    "minus one": [[-1.0]],
    "zero": np.zeros((2, 2)),
    "exchange": [[0.0, 1.0], [1.0, 0.0]],
    "identity": np.eye(2),
    "J2(-2)": jordan(2, -2.0),
    "large": [[30.0, -20.0], [5.0, -40.0]],
}


def integrate(theta, d):
    """Return X(T) by an adaptive solver, restarted where θ(t) jumps."""

    def field(t, state):
        X, V = state.reshape(2, d, d)
        return np.stack([V, (theta(t) @ X - V) / theta.epsilon]).ravel()

    state = np.stack([np.eye(d), np.zeros((d, d))]).ravel()
    times = [0.0, theta.switch, theta.horizon]
    for start, stop in zip(times[:-1], times[1:], strict=True):
        # θ(t₁) is the value before the jump; coasting starts just after.
        begin = np.nextafter(start, stop) if start else start
        solution = solve_ivp(
            field, (begin, stop), state, "DOP853", rtol=1e-11, atol=1e-11
        )
        state = solution.y[:, -1]
    return state.reshape(2, d, d)[0]


@pytest.mark.parametrize("epsilon, horizon", [(1.0, 1.0), (0.05, 1.0), (3.0, 0.5)])
@pytest.mark.parametrize("name", TARGETS)
def test_the_steered_ode_arrives(name, epsilon, horizon):
    D = np.array(TARGETS[name])
    theta = steer(D, epsilon, horizon)
    np.testing.assert_allclose(theta.path(horizon), D, atol=1e-12)
    arrived = integrate(theta, len(D))
    np.testing.assert_allclose(arrived, D, atol=1e-7 * (1 + np.abs(D).max()))


def test_theta_is_bounded_and_stops():
    theta = steer(TARGETS["large"], 0.5)
    assert 0 < theta.switch <= 0.5
    times = np.linspace(0, theta.switch, 50)
    conditions = [np.linalg.cond(theta.path(t)) for t in times]
    assert max(conditions) <= 3.001  # ‖X − I‖ <= 1/2 while θ acts
    assert not theta(np.nextafter(theta.switch, 1)).any()


def test_tensors_steer_too():
    theta = steer(torch.tensor([[-1.0]]), 0.5)
    assert torch.is_tensor(theta(0.1)) and torch.is_tensor(theta.path(0.1))
    np.testing.assert_allclose(theta(0.1), steer([[-1.0]], 0.5)(0.1))


@pytest.mark.parametrize("layers, gamma", [(1, 0.0), (3, 0.0), (4, 0.9), (50, 0.99)])
def test_one_active_layer_reaches_everything(layers, gamma):
    for D in TARGETS.values():
        thetas = steer_layers(D, layers, gamma)
        assert thetas.shape == (layers, *np.shape(D)) and not thetas[1:].any()
        x, v = np.eye(len(D)), np.zeros(np.shape(D))
        for theta in thetas:
            v = gamma * v + (1 - gamma) * theta @ x
            x = x + v
        np.testing.assert_allclose(x, D, atol=1e-12)


def test_bad_input_raises():
    with pytest.raises(ValueError, match="`epsilon`"):
        steer([[1.0]], 0.0)
    with pytest.raises(ValueError, match="`D`"):
        steer([1.0], 1.0)
    with pytest.raises(ValueError, match="`gamma`"):
        steer_layers([[1.0]], 3, 1.0)
    with pytest.raises(ValueError, match="`layers`"):
        steer_layers([[1.0]], 0, 0.5)
