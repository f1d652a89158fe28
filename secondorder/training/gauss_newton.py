"""Least squares by Gauss–Newton with Levenberg's damping: few steps, full accuracy.

    min ½ ‖r(θ)‖²,    (JᵀJ + μ D²) δ = −Jᵀr,    J = ∂r/∂θ,  D = diag of column norms

μ falls after a step that did what the linear model predicted, and grows until one
lowers the loss.  A model may know that some of its parameters never meet in a residual:
``seeds()`` then says which of them are moved together to find J in fewer solves.

References: Moré, "The Levenberg–Marquardt algorithm", 1978, for D; Nielsen, "Damping
parameter in Marquardt's method", 1999, for μ.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from .ending import End, Stop, out_of_range

LEAST = 1e-14  # damping: below it the equations are solved as without
SMALL = 3  # steps: a single small one may be a short one, on the way into a valley
STILL = 1e-12  # a part of the parameters that is no move
TRIALS = 20  # of μ in one step, which spans a factor beyond all reason
TWICE = (
    "`gauss_newton` differentiates the residuals twice, which failed here ({}); solve "
    'with gradient="backprop", or take differences: '
    "optimizer=so.GaussNewton(differences=True)"
)


class GaussNewton:
    """Levenberg–Marquardt for losses that are means of squares: ``fit(optimizer=…)``.

    The ``loss`` of ``fit`` then returns the residuals r, a tensor of any shape, and
    mean(r²) is minimised.  A step costs about as much as p solves for p parameters,
    side by side, and takes memory for p of them (``chunk`` bounds it): for models of up
    to some hundred parameters, where it replaces thousands of steps of Adam.

    Parameters
    ----------
    damping : float, default 0.1
        μ at the start, relative to the squares of the columns of J.
    tolerance : float, default 1e-8
        Training has converged when three steps in a row lower the loss by less than
        this part.
    chunk : int, optional
        Parameters that are differentiated side by side; all of them by default.
    differences : bool, default False
        Central differences for what cannot be differentiated twice.

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
        damping: float = 0.1,
        tolerance: float = 1e-8,
        chunk: int | None = None,
        differences: bool = False,
    ) -> None:
        self.damping = checks.as_float(checks.positive(damping, "damping"))
        self.tolerance = checks.as_float(checks.positive(tolerance, "tolerance", True))
        self.chunk = checks.optional_count(chunk, "chunk")
        self.differences = differences
        self.scale: Tensor | None = None
        self.small = 0  # steps in a row that hardly helped

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
        if self.small >= SMALL:
            raise End("converged")
        vector = Residuals(model, parameters, residuals)
        with torch.no_grad():
            r = vector.value()
        jacobian = self.jacobian(vector)
        norms = jacobian.norm(dim=0)
        self.scale = norms if self.scale is None else torch.maximum(self.scale, norms)
        scale = torch.where(self.scale > 0, self.scale, 1.0)
        scaled = jacobian / scale
        curvature, slope = scaled.mT @ scaled, scaled.mT @ r
        cost, grow = r.square().mean().item(), 2.0
        for _ in range(TRIALS):
            move = solved(curvature, self.damping, slope)
            if move is not None:
                predicted = cost - (r - scaled @ move).square().mean().item()
                still = move.norm() <= STILL * (scale * vector.start).norm()
                if still or not predicted > self.tolerance**2 * cost:
                    break
                new = vector.cost(vector.start - move / scale)
                if new < cost:
                    gain = min(1.0, (cost - new) / predicted)
                    self.damping *= max(1 / 3, 1 - (2 * gain - 1) ** 3)
                    self.damping = max(self.damping, LEAST)
                    vector.put(vector.start - move / scale)
                    small = cost - new <= self.tolerance * cost
                    self.small = self.small + 1 if small else 0
                    return
            self.damping, grow = self.damping * grow, 2 * grow
        raise vector.refused or End("converged")

    def jacobian(self, vector: "Residuals") -> Tensor:
        """∂r/∂θ, ``(residuals, parameters)``, in float64."""
        know = getattr(vector.model, "seeds", None)
        if know is None:
            return self.products(vector, torch.eye(len(vector.start), device="cpu"))
        seeds, place = know(vector.parameters)
        return place(self.products(vector, seeds))

    def products(self, vector: "Residuals", ways: Tensor) -> Tensor:
        """J times directions (k, parameters), as columns (residuals, k)."""
        start, ways = vector.start, ways.to(vector.start)
        if self.differences:
            # The cube root balances rounding against curvature.
            eps = max(torch.finfo(p.dtype).eps for p in vector.parameters) ** (1 / 3)
            shifts = eps * start.abs().clamp_min(0.1) * ways
            moved = zip(shifts, ways, strict=True)
            return torch.stack([vector.change(step, way) for step, way in moved], 1)
        # Jᵀw is linear in w, so its derivative by w, transposed, is J again: backward
        # passes alone give all directions side by side.
        with torch.enable_grad():
            r = vector.value()
            w = torch.zeros_like(r, requires_grad=True)
        try:
            back = torch.autograd.grad(
                r, vector.parameters, w, create_graph=True, allow_unused=True
            )
            pairs = zip(back, vector.parameters, strict=True)
            each = [torch.zeros_like(p) if g is None else g for g, p in pairs]
            pulled = torch.cat([g.flatten().double() for g in each])
            found = [
                torch.autograd.grad(
                    pulled, w, some, retain_graph=True, is_grads_batched=True
                )[0]
                for some in ways.split(self.chunk or len(ways))
            ]
        except (RuntimeError, NotImplementedError) as error:
            raise RuntimeError(TWICE.format(error)) from error
        return torch.cat(found).T

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        names = ("damping", "scale", "small")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take that up again."""
        for name, value in state.items():
            setattr(self, name, value)


def solved(curvature: Tensor, damping: float, slope: Tensor) -> Tensor | None:
    """(JᵀJ + μ)⁻¹ Jᵀr, or None where rounding leaves no positive matrix."""
    damped = curvature + damping * torch.eye(len(slope), device="cpu").to(curvature)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        return None
    return torch.cholesky_solve(slope[:, None], factor)[:, 0]


class Residuals:
    """Residuals of a model as a function of one vector of float64: r(θ), flat."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        residuals: Callable[[], Tensor],
    ) -> None:
        self.model, self.residuals, self.parameters = model, residuals, parameters
        self.refused: Stop | None = None  # why the last θ is none that can be tried
        self.start = torch.cat([p.detach().double().flatten() for p in parameters])

    def value(self) -> Tensor:
        """R at the parameters as they are."""
        return self.residuals().flatten().double()

    def put(self, theta: Tensor) -> None:
        """Write a vector into the parameters."""
        parts = theta.split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for p, part in zip(self.parameters, parts, strict=True):
                p.copy_(part.reshape(p.shape))

    def at(self, theta: Tensor) -> Tensor:
        """r(θ), without a graph; the parameters stay as they are."""
        self.put(theta)
        try:
            with torch.no_grad():
                return self.value()
        finally:
            self.put(self.start)

    def change(self, step: Tensor, way: Tensor) -> Tensor:
        """A central difference along a step, per unit of a direction."""
        length = (step * way).sum() / way.square().sum()
        change = self.at(self.start + length * way) - self.at(self.start - length * way)
        return change / (2 * length)

    def cost(self, theta: Tensor) -> float:
        """mean(r²), infinite where a solver refuses a number that was moved too far."""
        try:
            cost = self.at(theta).square().mean().item()
        except ValueError as error:
            self.refused = out_of_range(error)
            if self.refused is None:
                raise
            return math.inf
        return cost if math.isfinite(cost) else math.inf
