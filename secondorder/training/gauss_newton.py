"""Least squares by Gauss–Newton with Levenberg's damping: few steps, full accuracy.

    min ½ ‖r(θ)‖²,    (JᵀJ + μ D²) δ = −Jᵀr,    J = ∂r/∂θ,  D = diag of column norms

One decomposition J D⁻¹ = Q U S Vᵀ serves all μ that are tried.  μ falls after a step
that did what the linear model predicted, and grows until one lowers the loss.

References: Moré, "The Levenberg–Marquardt algorithm", 1978, for D; Nielsen, "Damping
parameter in Marquardt's method", 1999, for μ.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from .. import checks
from .ending import End, Stop, out_of_range

STILL = 1e-12  # a part of the parameters that is no move
TRIALS = 20  # of μ in one step, which spans a factor beyond all reason
FORWARD = (
    "`gauss_newton` differentiates the residuals forward, which failed here ({}); "
    'solve with gradient="backprop" and without torch.autograd.grad inside, or take '
    "differences: optimizer=so.GaussNewton(differences=True)"
)


class GaussNewton:
    """Levenberg–Marquardt for losses that are means of squares: ``fit(optimizer=…)``.

    The ``loss`` of ``fit`` then returns the residuals r, a tensor of any shape, and
    mean(r²) is minimised.  A step costs about as much as p solves for p parameters,
    side by side, and takes memory for p of them (``chunk`` bounds it): for models of up
    to some hundred parameters, where it replaces thousands of steps of Adam.

    Parameters
    ----------
    damping : float, default 1e-3
        μ at the start, relative to the squares of the columns of J.
    tolerance : float, default 1e-8
        Training has converged when a step lowers the loss by less than this part.
    chunk : int, optional
        Parameters that are differentiated side by side; all of them by default.
    differences : bool, default False
        Central differences for what cannot be differentiated forward.

    Raises
    ------
    ValueError
        For numbers out of range.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> model = torch.nn.Linear(1, 1).double()
    >>> x = torch.linspace(-1, 1, 50, dtype=torch.float64).unsqueeze(1)
    >>> history = so.fit(model, lambda model: model(x) - 2 * x, steps=20,
    ...                  optimizer="gauss_newton", progress=False)
    >>> history.stopped[:9], round(model.weight.item(), 6)
    ('converged', 2.0)
    """

    def __init__(
        self,
        damping: float = 1e-3,
        tolerance: float = 1e-8,
        chunk: int | None = None,
        differences: bool = False,
    ) -> None:
        self.damping = checks.as_float(checks.positive(damping, "damping"))
        self.tolerance = checks.as_float(checks.positive(tolerance, "tolerance", True))
        self.chunk = checks.optional_count(chunk, "chunk")
        self.differences = differences
        self.scale: Tensor | None = None
        self.converged = False

    def __repr__(self) -> str:
        """Show the damping as it is now."""
        return f"GaussNewton(damping={self.damping:.3g}, tolerance={self.tolerance:g})"

    def step(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        residuals: Callable[[], Tensor],
    ) -> None:
        """Lower the loss once, or end the training because that cannot be done.

        Parameters
        ----------
        model : nn.Module
        parameters : list of nn.Parameter
            Those of the model that are fitted.
        residuals : callable
            r at the model's present parameters.
        """
        if self.converged:
            raise End("converged")
        vector = Residuals(model, parameters, residuals)
        r = vector(vector.start)
        jacobian = self.jacobian(vector)
        norms = jacobian.norm(dim=0)
        self.scale = norms if self.scale is None else torch.maximum(self.scale, norms)
        scale = torch.where(self.scale > 0, self.scale, 1.0)
        orthogonal, upper = torch.linalg.qr(jacobian / scale)
        left, s, right = torch.linalg.svd(upper, full_matrices=False)
        target = left.mT @ (orthogonal.mT @ r)
        cost, grow = r.square().mean().item(), 2.0
        for _ in range(TRIALS):
            part = s * target / (s.square() + self.damping)
            move = -(right.mT @ part) / scale
            predicted = cost - (r + jacobian @ move).square().mean().item()
            still = (scale * move).norm() <= STILL * (scale * vector.start).norm()
            if still or not predicted > self.tolerance**2 * cost:
                break
            new = vector.cost(vector.start + move)
            if new < cost:
                gain = min(1.0, (cost - new) / predicted)
                self.damping *= max(1 / 3, 1 - (2 * gain - 1) ** 3)
                self.damping = max(self.damping, 1e-14)
                vector.put(vector.start + move)
                self.converged = cost - new <= self.tolerance * cost
                return
            self.damping, grow = self.damping * grow, 2 * grow
        raise vector.refused or End("converged")

    def jacobian(self, vector: "Residuals") -> Tensor:
        """∂r/∂θ at the start, ``(residuals, parameters)``, in float64."""
        start = vector.start
        if not self.differences:
            return self.forward(vector)
        # The cube root balances rounding against curvature.
        eps = max(torch.finfo(p.dtype).eps for p in vector.parameters) ** (1 / 3)
        columns = []
        for i, value in enumerate(start.tolist()):
            shift = torch.zeros_like(start)
            shift[i] = eps * max(abs(value), 0.1)
            change = vector(start + shift) - vector(start - shift)
            columns.append(change / (2 * shift[i]))
        return torch.stack(columns, 1)

    def forward(self, vector: "Residuals") -> Tensor:
        """∂r/∂θ column by column in forward mode, all columns side by side."""
        start = vector.start
        column = vmap(
            lambda way: jvp(vector, (start,), (way,))[1],
            out_dims=1,
            chunk_size=self.chunk,
        )
        with torch.no_grad(), warnings.catch_warnings():
            # PyTorch loads formulas for this by a function that it has deprecated.
            warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
            try:
                return column(torch.eye(len(start)).to(start))
            except (RuntimeError, NotImplementedError) as error:
                raise RuntimeError(FORWARD.format(error)) from error

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        names = ("damping", "scale", "converged")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that up again."""
        for name, value in state.items():
            setattr(self, name, value)


class Residuals:
    """Residuals as a function of one vector of float64: r(θ), flat."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        residuals: Callable[[], Tensor],
    ) -> None:
        self.residuals, self.parameters = residuals, parameters
        self.refused: Stop | None = None  # why the last θ is none that can be tried
        # A parameter that modules share is in several places.
        places = [(m._parameters, n) for m in model.modules() for n in m._parameters]
        self.places = [
            [(own, name) for own, name in places if own[name] is p] for p in parameters
        ]
        self.start = torch.cat([p.detach().double().flatten() for p in parameters])

    def split(self, theta: Tensor) -> list[Tensor]:
        """The parameters that a vector holds."""
        parts = theta.split([p.numel() for p in self.parameters])
        pairs = zip(self.parameters, parts, strict=True)
        return [part.reshape(p.shape).to(p) for p, part in pairs]

    def __call__(self, theta: Tensor) -> Tensor:
        """r(θ) in float64, without a graph."""
        # Not by functional_call, which reads what it replaces: Positive reads as the
        # number, not as the module.
        try:
            for own, value in zip(self.places, self.split(theta), strict=True):
                for parameters, name in own:
                    parameters[name] = cast(nn.Parameter, value)
            with torch.no_grad():
                return self.residuals().flatten().double()
        finally:
            for own, p in zip(self.places, self.parameters, strict=True):
                for parameters, name in own:
                    parameters[name] = p

    def cost(self, theta: Tensor) -> float:
        """mean(r²), infinite where a solver refuses a number that was moved too far."""
        self.put(theta)  # into the parameters themselves, whose range solvers check
        try:
            with torch.no_grad():
                cost = self.residuals().double().square().mean().item()
        except ValueError as error:
            self.refused = out_of_range(error)
            if self.refused is None:
                raise
            return math.inf
        finally:
            self.put(self.start)
        return cost if math.isfinite(cost) else math.inf

    def put(self, theta: Tensor) -> None:
        """Write the parameters into the model."""
        with torch.no_grad():
            for p, value in zip(self.parameters, self.split(theta), strict=True):
                p.copy_(value)
