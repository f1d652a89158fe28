"""How one update of the parameters is made, by the kinds of optimisers there are.

    first order      evaluate, differentiate, clip; then step: Adam and its like
    line search      the optimiser evaluates as often as it likes: L-BFGS
    least squares    the optimiser sees all residuals: Gauss–Newton
    side by side     first order, for each member of an ensemble

``prepare`` computes and may be interrupted, ``apply`` writes and may not.  However an
update fails, the parameters are those from before it.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from .ending import SMALLER, Stop, out_of_range
from .ensemble import Ensemble, member_norms
from .gauss_newton import GaussNewton
from .history import History
from .settings import checked_loss, checked_residuals


class Update:
    """One step of an optimiser of torch, after the gradient is clipped."""

    reads = staticmethod(checked_loss)

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        parameters: list[nn.Parameter],
        optimizer: Any,
        schedule: Any,
        clip: float | None,
    ) -> None:
        self.model, self.loss, self.parameters = model, loss, parameters
        self.optimizer, self.schedule, self.clip = optimizer, schedule, clip
        self.later = False  # than in the first step

    def prepare(self, batch: tuple[Any, ...]) -> float:
        """Give each parameter its gradient and return the loss, or stop."""
        self.clear()
        found = self.evaluate(batch)
        try:
            found.backward()
        except RuntimeError as error:
            if math.isfinite(found.item()):
                raise
            raise Stop(f"the loss is {found.item()}", SMALLER) from error
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = total_norm(gradients)
        # Read once all is under way: a device waits here, and only here.
        value, size = found.item(), norm.item()
        if not math.isfinite(value):
            raise Stop(f"the loss is {value}", SMALLER)
        if not math.isfinite(size):
            raise Stop(f"the gradient's norm is {size}", SMALLER)
        if self.clip is not None and size > self.clip:
            torch._foreach_mul_(gradients, self.clip / (size + 1e-6))
        return value

    def apply(self, history: History) -> None:
        """Move the parameters."""
        self.optimizer.step()
        self.end(history)

    def end(self, history: History) -> None:
        """Note the learning rate and change it."""
        self.later = True
        history.lr.append(float(self.optimizer.param_groups[0]["lr"]))
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step((history.validation or history.loss)[-1])
        elif self.schedule is not None:
            self.schedule.step()

    def evaluate(self, batch: tuple[Any, ...]) -> Tensor:
        """Return the loss, or stop where the parameters have left its domain."""
        try:
            return self.reads(self.loss(self.model, *batch))
        except ValueError as error:
            stop = out_of_range(error) if self.later else None
            if stop is None:
                raise
            raise stop from error

    def clear(self) -> None:
        """Leave no gradients behind."""
        for p in self.parameters:
            p.grad = None

    def state(self) -> dict[str, Any]:
        """Of the optimiser and the schedule."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load(self, state: dict[str, Any]) -> None:
        """Take them up again."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.later = True


class LineSearch(Update):
    """One step of an optimiser that evaluates the loss by itself."""

    def prepare(self, batch: tuple[Any, ...]) -> float:
        """Make the step; return the loss before it."""
        before = [p.detach().clone() for p in self.parameters]
        seen: list[float] = []

        def closure() -> Tensor:
            seen.append(super(LineSearch, self).prepare(batch))
            return torch.tensor(seen[-1], device="cpu")

        try:
            self.optimizer.step(closure)
            if not all(bool(p.isfinite().all()) for p in self.parameters):
                raise Stop("the line search found no finite parameters", SMALLER)
        except BaseException:
            with torch.no_grad():
                for p, value in zip(self.parameters, before, strict=True):
                    p.copy_(value)
            raise
        return seen[0]

    def apply(self, history: History) -> None:
        """Nothing is left to do but to note it."""
        self.end(history)


class LeastSquares(Update):
    """One step of Gauss–Newton."""

    reads = staticmethod(checked_residuals)

    def prepare(self, batch: tuple[Any, ...]) -> float:
        """Find and make the step; return the mean square before it."""
        with torch.no_grad():
            value = self.evaluate(batch).double().square().mean().item()
        if not math.isfinite(value):
            raise Stop(f"the loss is {value}", SMALLER)
        self.optimizer.step(
            self.model,
            self.parameters,
            lambda: self.reads(self.loss(self.model, *batch)),
        )
        return value

    def apply(self, history: History) -> None:
        """There is no learning rate, and no schedule of it."""
        self.later = True


class SideBySide(Update):
    """One step of the members of an ensemble, each by itself."""

    def prepare(self, batch: tuple[Any, ...]) -> float:
        """Give each member its clipped gradient; return the median of the losses."""
        self.clear()
        members = cast(Ensemble, self.model)
        each = members.each(self.loss, *batch)
        losses = torch.stack([checked_loss(value) for value in each])
        losses.sum().backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = member_norms(gradients)
        fine = losses.detach().isfinite() & norms.isfinite()
        if not bool(fine.any()):
            raise Stop("no member has a finite loss and gradient", SMALLER)
        ratio = torch.ones_like(norms)
        if self.clip is not None:
            ratio = (self.clip / (norms + 1e-6)).clamp_max(1.0)
        for g in gradients:
            shape = (-1, *[1] * (g.ndim - 1))
            # A member that broke down gets no gradient; the others go on.
            g.copy_(torch.where(fine.reshape(shape), g * ratio.reshape(shape), 0.0))
        self.found = losses.detach().where(fine, torch.nan).tolist()
        return losses.detach()[fine].median().item()

    def apply(self, history: History) -> None:
        """Move the parameters of all members."""
        history.members.append(self.found)
        super().apply(history)


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together."""
    if not gradients:
        return torch.zeros((), device="cpu")
    return torch.nn.utils.get_total_norm(gradients)


def find_update(
    model: nn.Module,
    loss: Callable[..., Tensor],
    parameters: list[nn.Parameter],
    steps: int,
    lr: float | None,
    optimizer: Any,
    schedule: Any,
    clip: Any,
) -> Update:
    """Turn names and factories into an update, or raise."""
    kind: type[Update] = Update
    if optimizer == "gauss_newton":
        optimizer = GaussNewton()
    if isinstance(optimizer, GaussNewton):
        if isinstance(model, Ensemble):
            refuse_coupled(False, optimizer)
        given = {"lr": lr, "schedule": None if schedule == "auto" else schedule,
                 "clip": None if clip == "auto" else clip}  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` has no meaning for Gauss–Newton, which finds the length "
                    f"of a step by itself; leave it out, got {value!r}"
                )
        return LeastSquares(model, loss, parameters, optimizer, None, None)
    made, parameters = find_optimizer(model, parameters, lr, optimizer)
    if needs_closure(made):
        kind = LineSearch
    plain = kind is Update
    if isinstance(model, Ensemble):
        refuse_coupled(plain, optimizer)
        kind = SideBySide
    if schedule == "auto":
        schedule = cosine(steps) if plain else None
    if schedule is not None:
        schedule = schedule(made)
        if not hasattr(schedule, "step") or not hasattr(schedule, "state_dict"):
            raise TypeError(
                "`schedule` must make a scheduler of torch from the optimiser, such as "
                "lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 100), "
                f"got {type(schedule).__name__}"
            )
    if clip == "auto":
        clip = 1.0 if plain else None
    return kind(model, loss, parameters, made, schedule, clip)


def refuse_coupled(entrywise: bool, optimizer: Any) -> None:
    """Raise for an optimiser that would couple the members of an ensemble."""
    if not entrywise:
        raise ValueError(
            "`optimizer` must work entry by entry for an ensemble, as Adam or SGD do, "
            f"got {optimizer!r}; train the members one by one"
        )


def cosine(steps: int) -> Callable[[Any], Any]:
    """The schedule that falls to zero along half a cosine."""
    return lambda optimizer: CosineAnnealingLR(optimizer, steps)


def find_optimizer(
    model: nn.Module, parameters: list[nn.Parameter], lr: float | None, optimizer: Any
) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    """An optimiser of torch from a name, a factory or itself, and what it moves."""
    if isinstance(optimizer, torch.optim.Optimizer):
        if lr is not None:
            raise ValueError(
                "`lr` belongs to the optimiser that is given as an instance, got "
                f"{lr!r}; pass lr=None, or the class in place of the instance"
            )
        moves = [p for group in optimizer.param_groups for p in group["params"]]
        own = {id(p) for p in parameters}
        if not any(id(p) in own for p in moves):
            raise ValueError(
                f"`optimizer` moves no parameter of the model; make it of the "
                f"parameters of this {type(model).__name__}"
            )
        return optimizer, [p for p in moves if p.requires_grad]
    if optimizer == "adam":
        # One kernel for all parameters, where there is one for them.
        fused = all(
            p.is_floating_point() and p.device.type in ("cpu", "cuda")
            for p in parameters
        )
        rate = cast(float, lr)
        return torch.optim.Adam(parameters, lr=rate, fused=fused), parameters
    if optimizer == "lbfgs":
        rate = 1.0 if lr is None else lr
        return torch.optim.LBFGS(
            parameters, lr=rate, line_search_fn="strong_wolfe"
        ), parameters
    if not callable(optimizer):
        raise ValueError(
            '`optimizer` must be "adam", "lbfgs", "gauss_newton", a class or function '
            "such as functools.partial(torch.optim.SGD, momentum=0.9), or an "
            f"optimiser, got {optimizer!r}"
        )
    made = optimizer(parameters, **({} if lr is None else {"lr": lr}))
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(
            "`optimizer` must make an optimiser of torch when it is called with "
            f"parameters and lr, got {type(made).__name__}"
        )
    return made, parameters


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step cannot be made without evaluating the loss in it."""
    found = inspect.signature(optimizer.step).parameters.get("closure")
    return found is not None and found.default is inspect.Parameter.empty
