"""Do the gradients agree?  Every route on your own problem, side by side.

Each route solves the same problem in the dtype it came in; its gradients are compared
with ordinary backprop through the same method in float64, in the relative 2-norm

    ‖g − g64‖ / ‖g64‖

of each of x0, v0, the parameters together, and the further arguments together.
"""

import copy
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import checks
from .gradients import GRADIENTS, Gradient
from .methods import Method
from .monitor import SavedBytes
from .odeint import odeint
from .systems import System, check_state
from .systems.problem import forced

GROUPS = ("x0", "v0", "parameters", "args")
FAILURES = (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Row:
    """What one route gave.

    Attributes
    ----------
    gradient : str
    errors : dict of str to float
        Relative errors, by group; groups without anything to differentiate are absent.
    seconds : float
        One forward and backward pass, the second of two.
    saved : int
        Bytes kept between them, parameters not counted.
    reason : str
        Why there are no numbers: what the route raised.
    warning : str
        What it warned of.
    """

    gradient: str
    errors: dict[str, float] = field(default_factory=dict)
    seconds: float = float("nan")
    saved: int = 0
    reason: str = ""
    warning: str = ""


class GradientCheck:
    """The rows of a comparison; printing it shows a table.

    Attributes
    ----------
    rows : list of Row
        Also by name, ``check["reversible"]``.
    reference : str
        What the errors are measured against.
    """

    def __init__(self, rows: list[Row], method: str, reference: str) -> None:
        self.rows, self.method, self.reference = rows, method, reference

    def __getitem__(self, gradient: str) -> Row:
        """Return the row of a route."""
        return next(row for row in self.rows if row.gradient == gradient)

    def __repr__(self) -> str:
        """Show the table."""
        groups = [g for g in GROUPS if any(g in row.errors for row in self.rows)]
        titles = [*groups, "kept", "time"]
        lines = [
            f"method {self.method!r}, relative errors against {self.reference}",
            f"{'gradient':<12}" + "".join(f"{title:>12}" for title in titles),
        ]
        for row in self.rows:
            if row.reason:
                lines += remark(row.gradient, f"raises: {row.reason}")
                continue
            cells = [f"{row.errors[g]:.1e}" if g in row.errors else "" for g in groups]
            cells += [f"{row.saved / 1024:.1f} KiB", f"{1e3 * row.seconds:.1f} ms"]
            lines.append(f"{row.gradient:<12}" + "".join(f"{c:>12}" for c in cells))
            if row.warning:
                lines += remark("", f"warns: {row.warning}")
        return "\n".join(lines)


def check_gradient(
    system: System,
    state: tuple[Tensor, Tensor | None] | Tensor,
    t: Tensor | Sequence[float],
    *,
    method: str | Method = "verlet",
    step_size: float | None = None,
    gradients: Sequence[str | Gradient | Callable[..., Any]] | None = None,
    loss: Callable[..., Tensor] | None = None,
    args: Sequence[Any] = (),
    rtol: float | None = None,
    atol: float | None = None,
    forcing: Any = None,
    breakpoints: Tensor | Sequence[float] | None = None,
) -> GradientCheck:
    """Compare the gradient routes on one problem.

    Parameters
    ----------
    system, state, t, method, step_size, args, rtol, atol, forcing, breakpoints
        As in ``odeint``.
    gradients : sequence of str or callable, optional
        Routes to compare; all of ``GRADIENTS`` by default.
    loss : callable, optional
        ``loss(x, v) -> 0-d tensor`` of all states, each ``(n, *x0.shape)``; by default
        ½ Σ x² + ½ Σ v² over the times after the first.

    Returns
    -------
    GradientCheck
        A table when printed; errors, time and memory as numbers in ``rows``.  A route
        that raises has its reason instead.

    Notes
    -----
    The system is copied, so its gradients, buffers and random numbers stay as they are.
    Where a field cannot be copied or cast (a closure over another module), the
    reference is backprop in the dtype of the state, and says so.  An adaptive method
    may choose other steps in float64; its errors then contain the tolerance.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> net = so.Autonomous(torch.nn.Linear(2, 2))
    >>> table = so.check_gradient(so.SecondOrder(net), (torch.ones(3, 2), None),
    ...                           torch.linspace(0, 1, 11))
    >>> max(table["reversible"].errors.values()) < 1e-5
    True
    """
    x, v = (y.detach() for y in check_state(checks.system(system, System), state))
    system = forced(system, forcing)
    t = t.detach() if isinstance(t, Tensor) else t
    how = {
        "method": method,
        "step_size": step_size,
        "rtol": rtol,
        "atol": atol,
        "breakpoints": breakpoints,
    }
    solve = partial(differentiate, system, x, v, t, tuple(args), loss or energy, how)
    try:
        wide = x.to(torch.promote_types(x.dtype, torch.float64))
        reference = solve("backprop", wide.dtype)
        against = f"backprop in {wide.dtype}"
    except FAILURES:
        reference = solve("backprop", x.dtype)
        against = f"backprop in {x.dtype}, as the field takes no float64"
    routes = list(GRADIENTS) if gradients is None else gradients
    rows = [compare(solve, route, x.dtype, reference[0]) for route in routes]
    return GradientCheck(rows, label(method), against.replace("torch.", ""))


def compare(
    solve: Callable[..., Any], route: Any, dtype: torch.dtype, reference: Any
) -> Row:
    """One row: run a route twice, the first time counting bytes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found, saved, _ = solve(route, dtype, count=True)
            *_, seconds = solve(route, dtype)
        except FAILURES as error:
            return Row(label(route), reason=str(error))
    errors = {
        group: relative(found[group], reference[group])
        for group in GROUPS
        if reference[group]
    }
    warning = str(caught[0].message) if caught else ""
    return Row(label(route), errors, seconds, saved, warning=warning)


def differentiate(
    system: System,
    x: Tensor,
    v: Tensor,
    t: Any,
    args: tuple[Any, ...],
    loss: Callable[..., Tensor],
    how: dict[str, Any],
    route: Any,
    dtype: torch.dtype,
    count: bool = False,
) -> tuple[dict[str, list[Tensor]], int, float]:
    """Gradients by group, bytes kept and seconds of one solve in some dtype."""
    system = twin(system, dtype)
    x, v = (y.to(dtype, copy=True).requires_grad_() for y in (x, v))
    args = tuple(cast(a, dtype) for a in args)
    inputs: dict[str, list[Tensor]] = {
        "x0": [x],
        "v0": [] if system.first_order else [v],
        "parameters": [p for p in system.parameters() if p.requires_grad],
        "args": [a for a in args if isinstance(a, Tensor) and a.requires_grad],
    }
    flat = [p for group in inputs.values() for p in group]
    devices = [x.device] if x.device.type == "cuda" else []
    saved = SavedBytes(flat)
    with torch.random.fork_rng(devices), torch.enable_grad():
        begin = time.perf_counter()
        with saved if count else nullcontext():
            state = x if system.first_order else (x, v)
            pair = odeint(system, state, t, gradient=route, args=args, **how)
            value = loss(*pair)
        kept = saved.total
        saved.storages.clear()
        grads = torch.autograd.grad(value, flat, allow_unused=True)
        wait(devices)
        seconds = time.perf_counter() - begin
    pairs = zip(flat, grads, strict=True)
    each = iter([torch.zeros_like(p) if g is None else g for p, g in pairs])
    found = {name: [next(each) for _ in group] for name, group in inputs.items()}
    return found, kept, seconds


def relative(found: Any, reference: Any) -> float:
    """‖g − g64‖ / ‖g64‖ over a group of tensors."""
    found, reference = (
        torch.cat([g.reshape(-1).to(reference[0].dtype) for g in group])
        for group in (found, reference)
    )
    scale = reference.norm().item()
    error = (found - reference).norm().item()
    return error / scale if scale else error


def energy(x: Tensor, v: Tensor) -> Tensor:
    """½ Σ x² + ½ Σ v² without the initial state."""
    return 0.5 * (x[1:].abs().square().sum() + v[1:].abs().square().sum())


def twin(system: Any, dtype: torch.dtype) -> Any:
    """A copy of a system in some dtype; the system itself where it cannot be copied."""
    try:
        own = copy.deepcopy(system)
    except (RuntimeError, TypeError):
        return system
    return own.to(dtype) if not dtype.is_complex else own


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A copy of a floating tensor in some dtype, with its wish for a gradient."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    dtype = dtype.to_real()
    return value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)


def wait(devices: Sequence[torch.device]) -> None:
    """Let the device finish, so that the clock is read after the work."""
    for device in devices:
        torch.cuda.synchronize(device)


def label(value: Any) -> str:
    """A name for a method or a route."""
    if isinstance(value, (str, Gradient)):
        return str(value)
    value = getattr(value, "func", value)
    return getattr(value, "name", getattr(value, "__name__", "custom"))


def remark(name: str, text: str) -> list[str]:
    """A sentence under a row, wrapped."""
    return textwrap.wrap(
        text, 86, initial_indent=f"{name:<12}  ", subsequent_indent=" " * 14
    )
