"""A system as the first-order field that torchdiffeq's solvers take.

    d/dt (x, v) = (v, (f − c v)/m)

with what goes with it: callbacks, counts of steps, and the words of a failure.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..gradients import Gradient
from ..plan.grid import Window
from ..plan.moves import Kick, checked
from ..solution import Stats
from ..systems.equations import System, same
from ..systems.fields import Forced
from ..systems.numbers import WithNumbers
from .slopes import slopes

State = tuple[Tensor, Tensor]
GIVING_UP = ("underflow in dt", "max_num_steps", "non-finite")  # torchdiffeq's words
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


class FirstOrderForm(nn.Module):
    """A system as the field of torchdiffeq, with its further arguments.

    Attributes
    ----------
    rate : float
        max c/m, how fast the damping forgets.
    outside : bool
        Whether the solver runs outside autograd and nobody differentiates it.
    check : callable
        Raises where the tolerances are below the rounding of a state.
    counts : dict
        Steps by torchdiffeq's name of what is called after them.

    Notes
    -----
    States of half precision are solved in float32, by forces of half precision:
    torchdiffeq's times and steps are rounded as the state is.
    """

    def __init__(self, system: System, args: Sequence[Any], kind: torch.dtype) -> None:
        super().__init__()
        self.system, self.args, self.rate = system, args, system.rate()
        self.kind, self.wide = kind, torch.promote_types(kind, torch.float32)
        self.outside, self.record = False, torch.is_grad_enabled()
        self.counts: dict[str, int] = {}
        self.heard: dict[str, list[Callable[..., Any]]] = {}
        self.ends: list[Tensor] = []
        self.window = Window()
        self.parts = 1 if system.first_order else 2
        self.check: Callable[[Any], Any] = same

    def forward(self, t: Tensor, state: State) -> State:
        """Return the derivative of (x, v)."""
        if self.outside and self.record:
            with torch.enable_grad():
                found = self.derivative(t, state)
            if any(part.requires_grad for part in found):
                raise ValueError(
                    "`field` depends on a tensor that requires a gradient, but SciPy's "
                    "solvers run outside autograd and would return results without; "
                    'use gradient="adjoint", another method, or torch.no_grad() if no '
                    "gradient is needed"
                )
            return found
        return self.derivative(t, state)

    def derivative(self, t: Tensor, state: Any) -> Any:
        """The derivative of (x, v), or of x alone, in the dtype that is solved in."""
        t = self.window.inside(t)
        if self.system.first_order:
            x = state[0].to(self.kind)
            value = checked(self.system(t, x, *self.args), Kick(1.0), x)
            return (value.to(self.wide),)
        x, v = (part.to(self.kind) for part in state)
        _, a = self.system(t, (x, v), *self.args)
        return state[1], a.to(self.wide)

    def listen(self, system: System, supported: set[str]) -> None:
        """Count the steps, and pass on what the user wants to be called after them."""
        self.counts = dict.fromkeys(supported, 0)
        for name, theirs in callbacks(system, CALLBACKS).items():
            if theirs or name in supported:
                self.heard[name] = theirs
        backward = [f"{name}_adjoint" for name in CALLBACKS]
        for name, theirs in callbacks(system, backward).items():
            for callback in theirs:
                setattr(self, name, callback)

    def __getattr__(self, name: str) -> Any:
        """What torchdiffeq calls after steps; as an attribute it would hold itself."""
        if name in self.__dict__.get("heard", ()):
            return partial(self.after, name, self.heard[name])
        return super().__getattr__(name)

    def after(
        self, name: str, theirs: Sequence[Any], t: Tensor, state: State, h: Tensor
    ) -> None:
        """Follow a step."""
        if name in self.counts:
            self.counts[name] += 1
        if name == "callback_accept_step":
            self.ends.append((t + torch.as_tensor(h, device=t.device)).detach())
        if name != "callback_reject_step":
            self.check(state)
        for callback in theirs:
            callback(t, state[0] if self.system.first_order else state, h)

    def stats(self, evaluations: int, begin: Tensor | None = None) -> Stats:
        """What a solve cost; SciPy does not tell its steps."""
        counts = self.counts
        if "callback_accept_step" in counts:
            rejected = counts["callback_reject_step"]
            times = None
            if begin is not None:
                starts = begin.detach().reshape(1)
                times = torch.cat(
                    [starts, *(e.to(starts).reshape(1) for e in self.ends)]
                )
            return Stats(evaluations, counts["callback_accept_step"], rejected, times)
        return Stats(evaluations, counts.get("callback_step"))

    def wanted(self) -> list[Tensor]:
        """What may want gradients besides the state and the times."""
        found: list[Tensor] = [p for p in self.parameters() if p.requires_grad]
        args = [a for a in self.args if isinstance(a, Tensor) and a.requires_grad]
        return found + args

    def run(
        self, gradient: Gradient, state: State, t: Tensor, settings: dict[str, Any]
    ) -> State:
        """The states at times ``(n,)``, each ``(n, *x.shape)``."""
        found: Any = [part.expand(len(t), *part.shape) for part in state]
        if len(t) > 1 and state[0].numel():
            with warnings.catch_warnings():
                # torchdiffeq passes on a `min_step`, of which only LSODA knows.
                warnings.filterwarnings(
                    "ignore", ".*no effect.*`min_step`", UserWarning
                )
                found = self.interface(gradient, self, state, t, **settings)
        if self.system.first_order:
            return found[0], slopes(self.system, t, found[0], self.args, gradient)
        x, v = found
        return x, v

    def interface(
        self, gradient: Gradient, form: Any, state: State, *times: Any, **settings: Any
    ) -> Any:
        """``torchdiffeq.odeint``, differentiated by a gradient."""
        if gradient.name == "adjoint":
            settings = {"adjoint_params": self.wanted()} | settings
            for name in ("rtol", "atol"):  # those of the state do not fit its adjoint
                if isinstance(settings[name], tuple):
                    least = min(float(part.min()) for part in settings[name])
                    settings[f"adjoint_{name}"] = least
            settings |= {f"adjoint_{k}": v for k, v in gradient.options.items()}
            if settings.pop("adjoint_seminorm", False):
                settings["adjoint_options"] = {"norm": "seminorm"}
        solver: Any = gradient.run_solver
        parts = state[: self.parts]
        start = tuple(part.to(self.wide) for part in parts)
        try:
            found = solver(form, start, *times, **settings)
        except AssertionError as error:
            if not any(words in str(error) for words in GIVING_UP):
                raise
            raise RuntimeError(
                f"torchdiffeq's {settings['method']!r} gave up ({error}): the solution "
                "or the field has a singularity or a jump, or is not finite, or `rtol` "
                "and `atol` are below rounding; loosen them, split `t` at jumps, or "
                "bound the field"
            ) from error
        if self.wide == self.kind:
            return found
        if "event_fn" not in settings:
            return tuple(part.to(self.kind) for part in found)
        event_t, (x, v) = found
        return event_t, (x.to(self.kind), v.to(self.kind))


def callbacks(
    system: System, names: Sequence[str]
) -> dict[str, list[Callable[..., Any]]]:
    """What a user's system and its field want to be called after steps, by names."""
    owners: list[Any] = [system, system.field]
    while isinstance(owners[-1], Forced):
        owners.append(owners[-1].field)
    owners = [owner for owner in owners if may_have(owner, names)]
    found = {name: [getattr(owner, name, None) for owner in owners] for name in names}
    return {name: [*filter(callable, theirs)] for name, theirs in found.items()}


def may_have(owner: Any, names: Sequence[str]) -> bool:
    """Whether an object may have an attribute, quickly for modules, which tell late."""
    if not isinstance(owner, nn.Module):
        return True
    kind, own = type(owner), vars(owner)
    if kind.__getattr__ not in (nn.Module.__getattr__, WithNumbers.__getattr__):
        return True
    tables = own, own["_modules"], own["_parameters"], own["_buffers"]
    for name in names:  # a loop, since generators take three times as long
        if hasattr(kind, name):
            return True
        for table in tables:
            if name in table:
                return True
    return False


def check_event(
    event_fn: Callable[..., Tensor], t0: Tensor, x: Tensor, v: Tensor
) -> Tensor:
    """Raise for events that torchdiffeq would get wrong; the value at the start."""
    g = event_fn(t0.detach(), x.detach(), v.detach())
    refuse_parameters(g)
    g = checks.event_value(g).detach()
    if bool((g == 0).any()):
        raise ValueError(
            "`event_fn` is 0 at `t0`, where torchdiffeq would stop at once; use a "
            "fixed-step method, which starts at a zero, or move off it"
        )
    return g


def check_differentiable(
    event_fn: Callable[..., Tensor], t: Tensor, x: Tensor, v: Tensor
) -> None:
    """Raise where the time of an event has no derivative, or has too many."""
    refuse_parameters(event_fn(t.detach(), x.detach(), v.detach()))
    leaves = [part.detach().requires_grad_() for part in (t, x, v)]
    g = event_fn(*leaves)
    if not isinstance(g, Tensor) or not g.requires_grad:
        raise ValueError(checks.NO_SLOPE)


def refuse_parameters(g: Tensor) -> None:
    """Raise for event functions whose own parameters are to be learned."""
    if torch.is_grad_enabled() and g.requires_grad:
        raise ValueError(
            "`event_fn` has parameters that require gradients, which torchdiffeq's "
            "events do not pass on; use a fixed-step method, or torch.no_grad()"
        )
