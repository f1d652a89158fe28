"""Newton steps on a whole θ, taken while the residual drops.

Reference: Higham, "Functions of Matrices", SIAM 2008, section 3.2 (the derivative of a
matrix function in an eigenbasis).
"""

import math

import numpy as np

from .checks import length
from .propagator import Propagator, RealArray


@np.errstate(all="ignore")  # a step may overshoot; then it is not taken
def polish(
    theta: RealArray, D: RealArray, m: Propagator, steps: int = 3
) -> tuple[RealArray, float]:
    """Return θ and ‖Ψ(θ) − D‖ after Newton steps, taken only while they help."""
    error = D - _response(theta, m)
    residual = length(error)
    for _ in range(steps):
        try:
            trial = theta + _newton_step(theta, error, m)
            trial_error = D - _response(trial, m)
        except (np.linalg.LinAlgError, ValueError):  # defective θ: no eigenbasis
            break
        trial_residual = length(trial_error)
        if not trial_residual < residual:
            break
        theta, error, residual = trial, trial_error, trial_residual
    return theta, residual if math.isfinite(residual) else math.inf


def _response(theta: RealArray, m: Propagator) -> RealArray:
    """Return Ψ(θ), NaN where θ or Ψ leaves float64."""
    try:
        return m.response(theta)
    except (ValueError, ArithmeticError):
        return np.full_like(theta, np.nan)


def _newton_step(theta: RealArray, error: RealArray, m: Propagator) -> RealArray:
    """Solve the derivative of Ψ at θ = U diag(μ) U⁻¹ for the step that removes error.

    In that basis it multiplies by the divided differences Ψ[μ_i, μ_j].  Directions that
    Ψ does not move (μ_i ≠ μ_j over the same value) are left alone.
    """
    mu, U = np.linalg.eig(theta)
    rhs = np.linalg.solve(U, error @ U)
    psi = m.response(mu)
    gap = mu[:, None] - mu[None, :]
    middle = (mu[:, None] + mu[None, :]) / 2
    equal = np.abs(gap) <= 1e-5 * (1 + np.abs(middle))
    slopes = m.derivative(middle, elementwise=True)
    quotient = (psi[:, None] - psi[None, :]) / np.where(equal, 1, gap)
    quotient = np.where(equal, slopes, quotient)
    dead = np.abs(quotient) <= 1e-9 * np.abs(quotient).max()
    step = np.where(dead, 0, rhs / np.where(dead, 1, quotient))
    return np.linalg.solve(U.T, (U @ step).T).T.real
