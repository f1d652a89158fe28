"""Many models of one kind, trained in one pass: seeds side by side.

    Θ = (θ_1, …, θ_n) stacked,    (loss(θ_1), …, loss(θ_n)) by one ``vmap``

Members do not see each other: gradients are clipped, and breakdowns end, one by one.
Small models cost little more together than one of them alone, as their time goes into
the number of operations rather than their size.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .. import checks

TOGETHER = (
    "the members of an ensemble cannot be solved side by side ({}): numbers that "
    "decide about steps, such as a learned epsilon, mass, damping or t1, must be equal "
    "and fixed, and methods take fixed steps; train such models one by one"
)


class Ensemble(nn.Module):
    """Models with parameters of their own and equal shapes; made by ``so.ensemble``.

    Parameters
    ----------
    models : list of nn.Module
        Of one architecture.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> members = so.ensemble(lambda: torch.nn.Linear(2, 1), 5)
    >>> members(torch.zeros(3, 2)).shape, len(members), members[0]
    (torch.Size([5, 3, 1]), 5, Linear(in_features=2, out_features=1, bias=True))
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        models = list(models)
        if not models or not all(isinstance(model, nn.Module) for model in models):
            raise TypeError("`models` must be a list of modules, at least one")
        shapes = [{k: z.shape for k, z in m.state_dict().items()} for m in models]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                "`models` must have parameters of the same names and shapes; train "
                "different architectures one by one"
            )
        parameters, buffers = stack_module_state(models)
        self.template = [copy.deepcopy(models[0])]  # in a list: no module of this one
        self.names, self.buffer_names = [*parameters], [*buffers]
        wanted = [p.requires_grad for p in models[0].parameters()]
        self.stacked = nn.ParameterList(
            nn.Parameter(z.detach(), wants)
            for z, wants in zip(parameters.values(), wanted, strict=True)
        )
        for i, value in enumerate(buffers.values()):
            self.register_buffer(f"buffer{i}", value)

    def __len__(self) -> int:
        """Number of members."""
        return len(self.stacked[0])

    def __getitem__(self, i: int) -> nn.Module:
        """A copy of one member, with its parameters as they are now."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} members, got {i}")
        model = copy.deepcopy(self.template[0]).to(self.stacked[0].device)
        pairs = [*zip(self.names, self.stacked, strict=True), *self.buffers_by_name()]
        model.load_state_dict({name: z[i] for name, z in pairs}, strict=False)
        return model.train(self.training)

    def buffers_by_name(self) -> list[tuple[str, Tensor]]:
        """Stacked buffers under the names that they have in a member."""
        return [
            (name, getattr(self, f"buffer{i}"))
            for i, name in enumerate(self.buffer_names)
        ]

    def forward(self, *args: Any) -> Tensor:
        """Apply all members to the same arguments: ``(n, …)``."""
        return self.each(lambda model, *args: model(*args), *args)

    def each(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """``function(model, *args)`` for all members, stacked.

        Raises
        ------
        RuntimeError
            Where it cannot be evaluated side by side.
        """
        call = Call(self.template[0].train(self.training), function, args)
        state = {
            **{f"model.{k}": z for k, z in zip(self.names, self.stacked, strict=True)},
            **{f"model.{k}": z for k, z in self.buffers_by_name()},
        }
        try:
            return vmap(
                lambda own: functional_call(call, own, ()), randomness="different"
            )(state)
        except RuntimeError as error:
            if "vmap" not in str(error) and "functorch" not in str(error):
                raise
            raise RuntimeError(TOGETHER.format(str(error).split("\n")[0])) from error
        except TypeError as error:  # Positive reads as a number
            if "torch.nn.Module" not in str(error):
                raise
            raise RuntimeError(TOGETHER.format("so.Positive")) from error

    def extra_repr(self) -> str:
        """Show the members."""
        return f"{len(self)} × {type(self.template[0]).__name__}"


class Call(nn.Module):
    """A function of a module, as a module."""

    def __init__(
        self, model: nn.Module, function: Callable[..., Tensor], args: Any
    ) -> None:
        super().__init__()
        self.model, self.function, self.args = model, function, args

    def forward(self) -> Tensor:
        """Call it."""
        return self.function(self.model, *self.args)


def ensemble(make: Callable[[], nn.Module], n: int) -> Ensemble:
    """Make n models that ``fit`` trains in one pass, each from its own start.

    Parameters
    ----------
    make : callable
        ``make() -> nn.Module``, called n times: random starts differ.
    n : int
        Number of members.

    Returns
    -------
    Ensemble
        Goes where a model goes: ``fit(members, loss, …)`` with the loss of one model.
        ``history.loss`` is then the median of the members' losses and
        ``history.members`` has all; ``so.plot.losses`` draws their spread.
        ``members(x)`` is ``(n, …)``, ``members[i]`` one model.

    Raises
    ------
    TypeError, ValueError
        If ``make`` makes no modules, or they differ in shape.

    Notes
    -----
    All see the same batches.  Optimisers must work entry by entry, as Adam does.
    Forces may differ; ε, mass, damping and times must be fixed numbers.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> x, y = so.data.cubic(50)
    >>> def make():
    ...     force = torch.nn.Sequential(
    ...         torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    ...     return so.SecondOrderODE(so.Autonomous(force), epsilon=3.0, steps=5)
    >>> members = so.ensemble(make, 4)
    >>> history = so.fit(members, lambda model: (model(x) - y).square().mean(),
    ...                  steps=3, lr=0.1, progress=False)
    >>> len(history.members), len(history.members[0])
    (3, 4)
    """
    if isinstance(make, nn.Module):
        raise TypeError(
            "`make` must be a function that makes a model, so that each starts "
            f"elsewhere, such as lambda: nn.Linear(2, 2), got a {type(make).__name__}"
        )
    checks.function(make, "make")
    return Ensemble([make() for _ in range(checks.count(n, "n"))])


def member_norms(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of each member's gradient, ``(n,)``."""
    squares = [g.flatten(1).square().sum(1) for g in gradients]
    return torch.stack(squares).sum(0).sqrt()
