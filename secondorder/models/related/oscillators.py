"""Recurrent networks of driven oscillators: kicks by an input sequence, and drifts.

    CoRNN       ÿ + ε ẏ + γ y = tanh(W y + V u + b)
    UnICORNN    ÿ = −σ(c)² [tanh(w ⊙ y + V u + b) + α y] as two equations of order 1
    LinOSS      ÿ + A y = B u,  A ≥ 0 diagonal

Each step is a kick z ← z + Δt (…), with the damping of z where there is any, and a
drift y ← y + Δt z: a plan like any other, which is undone exactly.

References: Rusch & Mishra, "Coupled Oscillatory Recurrent Neural Network (coRNN)", ICLR
2021, eqs. (1) and (3), here without the weights on hidden velocities, with which a step
is no shear; Rusch & Mishra, "UnICORNN", ICML 2021, eqs. (2)-(4); Rusch & Rus,
"Oscillatory State-Space Models" (LinOSS), ICLR 2025, eqs. (1) and (6), the IMEX scheme.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ... import checks
from ...plan import Damp, Drift, Kick, Plan, Record
from ...plan.moves import Move
from .planned import Planned, Route, positive


class Oscillators(Planned):
    """What the three have in common: a sequence in, the positions of all steps out.

    Parameters
    ----------
    inputs, hidden : int
        Numbers of input channels and of oscillators.
    dt : float
        Δt.
    gradient : str, Gradient or callable
    """

    def __init__(self, inputs: int, hidden: int, dt: float, gradient: Route) -> None:
        super().__init__(gradient)
        self.inputs = checks.count(inputs, "inputs")
        self.hidden, self.dt = checks.count(hidden, "hidden"), positive(dt, "dt")

    def weights(self) -> tuple[Any, Any, Any]:
        """Of a step: what the velocity keeps, and the weights of kick and drift."""
        return None, self.dt, self.dt

    def plan(self, x: Tensor) -> Plan:
        """A damp, a kick and a drift for each entry of a sequence ``(n, ...)``."""
        keep, push, drift = self.weights()
        damps: list[Move] = [] if keep is None else [Damp(keep)]
        return tuple(
            move
            for n in range(len(x))
            for move in (*damps, Kick(push, n), Drift(drift), Record())
        )

    def force(self, time: int, x: Tensor, u: Tensor) -> Tensor:
        """The kick of step ``time`` at positions x."""
        raise NotImplementedError

    def forward(self, u: Tensor) -> Tensor:
        """Positions after each entry of ``u``: ``(n, ..., inputs)`` to ``(n, ..., d)``.

        The oscillators start at rest at 0.
        """
        checks.state((u, None))
        if u.ndim < 2 or u.shape[-1] != self.inputs or not len(u):
            raise ValueError(
                f"`u` must have shape (n, ..., {self.inputs}), time first and n >= 1, "
                f"got {tuple(u.shape)}"
            )
        rest = u.new_zeros(*u.shape[1:-1], self.hidden)
        states = self.gradient.run(self.plan(u), self.force, rest, rest, (u,))
        return torch.stack([y for y, _ in states])


class CoRNN(Oscillators):
    """Oscillators ÿ + ε ẏ + γ y = tanh(W y + V u + b), damped implicitly.

    z ← (z + Δt [tanh(W y + V u_n + b) − γ y])/(1 + Δt ε),   y ← y + Δt z

    Parameters
    ----------
    inputs, hidden : int
    dt : float, default 0.05
    gamma, epsilon : float, default 1.0
        Stiffness and damping.
    gradient : str, Gradient or callable, default "reversible"
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        dt: float = 0.05,
        gamma: float = 1.0,
        epsilon: float = 1.0,
        gradient: Route = "reversible",
    ) -> None:
        super().__init__(inputs, hidden, dt, gradient)
        self.gamma = float(checks.positive(gamma, "gamma", zero=True))
        self.epsilon = float(checks.positive(epsilon, "epsilon", zero=True))
        self.mix = nn.Linear(hidden, hidden)
        self.drive = nn.Linear(inputs, hidden, bias=False)

    def weights(self) -> tuple[float, float, float]:
        """The damping of z by the end of the step."""
        keep = 1 / (1 + self.dt * self.epsilon)
        return keep, self.dt * keep, self.dt

    def force(self, time: int, x: Tensor, u: Tensor) -> Tensor:
        """Coupling and drive through tanh, and the spring."""
        return torch.tanh(self.mix(x) + self.drive(u[time])) - self.gamma * x


class UnICORNN(Oscillators):
    """Undamped oscillators, independent of each other, of learned time scales σ(c).

    z ← z − Δt σ(c) [tanh(w ⊙ y + V u_n + b) + α y],   y ← y + Δt σ(c) z

    Parameters
    ----------
    inputs, hidden : int
    dt : float, default 0.1
    alpha : float, default 1.0
    gradient : str, Gradient or callable, default "reversible"
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        dt: float = 0.1,
        alpha: float = 1.0,
        gradient: Route = "reversible",
    ) -> None:
        super().__init__(inputs, hidden, dt, gradient)
        self.alpha = float(checks.positive(alpha, "alpha", zero=True))
        self.drive = nn.Linear(inputs, hidden)
        self.w = nn.Parameter(torch.rand(hidden))
        self.c = nn.Parameter(torch.rand(hidden) * 0.2 - 0.1)

    def weights(self) -> tuple[None, Tensor, Tensor]:
        """Steps of each oscillator's own length."""
        step = self.dt * torch.sigmoid(self.c)
        return None, -step, step

    def force(self, time: int, x: Tensor, u: Tensor) -> Tensor:
        """Minus the force."""
        return torch.tanh(self.w * x + self.drive(u[time])) + self.alpha * x


class LinOSS(Oscillators):
    """Linear oscillators ÿ + A y = B u by the volume-preserving scheme (IMEX).

    z ← z + Δt (B u_n − A y),   y ← y + Δt z,   A = relu(a) diagonal

    Parameters
    ----------
    inputs, hidden : int
    dt : float, default 0.1
        Stable for Δt² A < 4.
    gradient : str, Gradient or callable, default "reversible"
    """

    def __init__(
        self, inputs: int, hidden: int, dt: float = 0.1, gradient: Route = "reversible"
    ) -> None:
        super().__init__(inputs, hidden, dt, gradient)
        self.stiffness = nn.Parameter(torch.rand(hidden))
        self.drive = nn.Linear(inputs, hidden, bias=False)

    def force(self, time: int, x: Tensor, u: Tensor) -> Tensor:
        """The drive and the springs."""
        return self.drive(u[time]) - torch.relu(self.stiffness) * x
