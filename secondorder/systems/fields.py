"""Fields made of other things: of a network, of a potential, of a forcing.

Autonomous(net)        f(t, x) = net(x)
Potential(U)           f(t, x) = −∇U(x)
Forced(g, u)           f(t, x) = g(t, x, u(t))
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..monitor import untracked_leaf


def name_of(field: Any) -> str:
    """What a field is called: the name of a function, the type of a module."""
    if isinstance(field, nn.Module):
        return str(getattr(field, "said", type(field).__name__))
    name = getattr(field, "__name__", type(field).__name__)
    return "lambda" if name == "<lambda>" else str(name)


class Field(nn.Module):
    """A field made of others, which says of which."""

    parts: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """Its name, with those of its parts."""
        parts = ", ".join(name_of(getattr(self, part)) for part in self.parts)
        return f"{type(self).__name__}({parts})"

    def extra_repr(self) -> str:
        """The parts that are functions, which PyTorch does not show."""
        parts = {part: getattr(self, part) for part in self.parts}
        return ", ".join(
            f"{name}={name_of(part)}"
            for name, part in parts.items()
            if not isinstance(part, nn.Module)
        )


class Autonomous(Field):
    """A field that ignores time: ``Autonomous(net)(t, x, *args) = net(x, *args)``.

    Parameters
    ----------
    module : callable
        ``module(x, *args) -> f`` with ``f.shape == x.shape``.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> field = so.Autonomous(torch.nn.Linear(2, 2))
    >>> field(torch.tensor(0.0), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    passes_on = {"forward": "module"}  # and does nothing else
    parts = ("module",)

    def __init__(self, module: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = checks.function(module, "module")

    def forward(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:
        """Evaluate the module; ``t`` is not used."""
        return self.module(x, *args)


class Potential(Field):
    """The conservative force f(t, x) = −∇U(x) of a potential.

    Parameters
    ----------
    energy : callable
        ``energy(x) -> U`` with any shape; ``U.sum()`` is differentiated, so each entry
        must depend on its own sample only.  With ``time=True``: ``energy(t, x)``.
    time : bool, default False
        Whether the energy depends on time.

    Notes
    -----
    The gradient is taken in every gradient mode (also under ``torch.no_grad``); it is
    itself differentiable when the surrounding code records gradients.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> force = so.Potential(lambda x: 0.5 * (x**2).sum(-1))
    >>> force(torch.tensor(0.0), torch.tensor([[1.0, -2.0]]))
    tensor([[-1.,  2.]])
    """

    parts = ("energy",)

    def __init__(self, energy: Callable[..., Tensor], time: bool = False) -> None:
        super().__init__()
        self.energy = checks.function(energy, "energy")
        self.time = time

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return −∇U at ``x``, same shape."""
        record = torch.is_grad_enabled()
        # An inference tensor cannot enter autograd: leave inference mode and copy.
        # On one thread: CUDA's would number the nodes of the graph by itself, and then
        # nothing tells what was computed before a pass.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autograd.set_multithreading_enabled(False),
        ):
            if x.is_inference():
                x = x.clone()
            given = record and x.requires_grad
            if not given:
                x = x.detach().requires_grad_()
            energy = self.energy(t, x) if self.time else self.energy(x)
            if not energy.requires_grad:
                raise ValueError(
                    "`energy` returned a tensor that does not depend on `x` through "
                    "autograd; compute it from `x` with torch operations"
                )
            # Keep the graph only for what can be trained through it.
            record = record and (given or untracked_leaf(energy, {id(x)}) is not None)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=record)
        return -slope


class Forced(Field):
    """A field driven from outside: ``Forced(f, u)(t, x) = f(t, x, u(t))``.

    Use it where a model wants a field; ``odeint`` does it for its ``forcing``.

    Parameters
    ----------
    field : callable
        ``field(t, x, u, *args)``, or ``field(t, x, v, u, *args)``.
    forcing : callable or object with ``.evaluate(t)``
        ``forcing(t) -> u``.  Its parameters are learned, by every gradient route, if it
        is a module.
    takes_velocity : bool, optional
        Whether the field takes a velocity.  A system knows: ``Acceleration`` passes
        one, the others do not.  For use without a system, False by default.

    Raises
    ------
    TypeError
        If ``forcing`` is no function of time.
    ValueError
        If ``takes_velocity`` contradicts the system that the field is given to.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> field = so.Forced(lambda t, x, u: u - x, torch.cos)
    >>> field(torch.tensor(0.0), torch.zeros(2))
    tensor([1., 1.])
    """

    parts = ("field", "forcing")

    def __init__(
        self,
        field: Callable[..., Tensor],
        forcing: Any,
        takes_velocity: bool | None = None,
    ) -> None:
        super().__init__()
        self.field = checks.function(field)
        self.forcing = checks.forcing_function(forcing)
        self.takes_velocity = takes_velocity

    def with_velocity(self, takes_velocity: bool) -> "Forced":
        """The same field for a system that does, or does not, pass a velocity."""
        if self.takes_velocity is None:
            return Forced(self.field, self.forcing, takes_velocity)
        if self.takes_velocity is not takes_velocity:
            raise ValueError(
                f"`takes_velocity` is {self.takes_velocity} for this Forced field, but "
                f"the system {'passes' if takes_velocity else 'does not pass'} a "
                "velocity (only Acceleration does); leave it out, the system knows"
            )
        return self

    def forward(self, t: Tensor, x: Tensor, *rest: Any) -> Tensor:
        """Evaluate the field with u(t) after the state."""
        by_name = hasattr(self.forcing, "evaluate")
        u = self.forcing.evaluate(t) if by_name else self.forcing(t)
        if self.takes_velocity:
            v, *args = rest
            return self.field(t, x, v, u, *args)
        return self.field(t, x, u, *rest)
