"""Untied layers: with a time-dependent θ(t), second order reaches every linear map.

From rest, the path X(t) = I + p(t)V with p(t) = t²/2t₁ on [0, t₁] obeys
ε Ẍ + Ẋ = θ(t)X for

    θ(t) = (ε + t)/t₁ · V (I + p(t)V)⁻¹,     V = (D − I)/(t₁/2 + ε(1 − e^{−(T−t₁)/ε})),

and θ = 0 afterwards lets X coast to X(T) = D.  Only while coasting may X be singular.
So what cannot be represented is a matter of tying θ, not of the second-order ODE; a
first-order ODE stays with det > 0, tied or not.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .checks import layer_count, length, like, momentum, positive, square_matrix
from .propagator import Matrix, MatrixLike


@dataclass(frozen=True)
class Steering:
    """A bounded θ(t) on [0, T] that carries x(0), at rest, to D x(0).

    Attributes
    ----------
    epsilon, horizon : float
    switch : float
        t₁: θ acts on [0, t₁] and is 0 on (t₁, T].  Put it on the time grid.
    velocity : array or Tensor, shape (d, d)
        V, the velocity at which coasting starts.
    """

    epsilon: float
    horizon: float
    switch: float
    velocity: Matrix

    def __call__(self, t: float) -> Matrix:
        """θ(t), shape (d, d), of the kind of D."""
        t = float(t)
        if t > self.switch:
            return 0 * self.velocity
        scale = (self.epsilon + t) / self.switch
        # V and (I + pV)⁻¹ commute, so one solve does.
        library = torch if torch.is_tensor(self.velocity) else np
        return scale * library.linalg.solve(self.path(t), self.velocity)

    def path(self, t: float) -> Matrix:
        """X(t), shape (d, d): where the identity has been carried at time t."""
        t, eye = float(t), like(np.eye(len(self.velocity)), self.velocity)
        if t <= self.switch:
            return eye + t * t / (2 * self.switch) * self.velocity
        glide = -self.epsilon * math.expm1(-(t - self.switch) / self.epsilon)
        return eye + (self.switch / 2 + glide) * self.velocity


def steer(D: MatrixLike, epsilon: float, horizon: float = 1.0) -> Steering:
    """Construct θ(t) with ε ẍ + ẋ = θ(t)x, ẋ(0) = 0 and x(T) = D x(0), for any real D.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
        Singular and orientation-reversing maps included.
    epsilon : float
        ε > 0.
    horizon : float, default 1.0
        T > 0.

    Returns
    -------
    Steering
        Call it for θ(t); ``.path(t)`` is the exact solution.

    Raises
    ------
    ValueError
        If ``D`` is not a finite real square matrix, or ε or T is not positive.
    OverflowError
        If θ would be too large for float64.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> theta = rep.steer([[-1.0]], epsilon=0.5)
    >>> float(theta.path(1.0)[0, 0])
    -1.0
    """
    array = square_matrix(D)
    epsilon, horizon = positive(epsilon, "epsilon"), positive(horizon, "horizon")
    change = array - np.eye(len(array))
    size, switch = length(change), horizon / 2
    # ‖I − X‖ <= 1/2 while θ acts keeps X invertible; a shorter kick moves X less.
    if not size < 1e150:  # θ grows with its square
        raise OverflowError(
            f"`D` of norm {size:.1e} needs a θ(t) beyond float64; rescale it"
        )
    while switch / 2 * size > 0.5 * _reach(switch, epsilon, horizon):
        switch /= 2
    velocity = change / _reach(switch, epsilon, horizon)
    return Steering(epsilon, horizon, switch, like(velocity, D))


def steer_layers(D: MatrixLike, layers: int, gamma: float) -> Matrix:
    """Return θ₁, …, θ_N of untied layers that carry x_0 to D x_0, for any real D.

    One layer acts, θ₁ = (D − I)/(1 − γ^N); the others coast.

    Parameters
    ----------
    D : array_like or Tensor, shape (d, d)
    layers : int
        N >= 1.
    gamma : float
        In [0, 1).

    Returns
    -------
    array or Tensor, shape (layers, d, d)

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> rep.steer_layers([[-1.0]], layers=2, gamma=0.5).ravel()
    array([-2.66666667,  0.        ])
    """
    array, layers, gamma = square_matrix(D), layer_count(layers), momentum(gamma)
    theta = np.zeros((layers, *array.shape))
    theta[0] = (array - np.eye(len(array))) / (1 - gamma**layers)
    return like(theta, D)


def _reach(switch: float, epsilon: float, horizon: float) -> float:
    """Return how far a unit final velocity V carries: X(T) = I + reach V."""
    return switch / 2 - epsilon * math.expm1(-(horizon - switch) / epsilon)
