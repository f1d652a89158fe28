"""torchdiffeq's solvers, and SciPy's through it, on the same systems by name.

A second-order system is a first-order one on the pair (x, v), so any of these solvers
takes it; they know nothing of its structure, keep no symplectic form and cannot be
reversed.  They are here to compare with, for dense adaptive output, and for stiff
fields (SciPy's implicit methods).
"""

import warnings

import torch
import torchdiffeq
from torch import nn
from torchdiffeq._impl.odeint import SOLVERS as _TORCHDIFFEQ

from .gradient import adjoint
from .solution import Solution, Stats
from .system import plain
from .watch import Watched, close

SCIPY = {
    "scipy_solver": "LSODA",
    **{f"scipy_{name}": name for name in ("RK45", "DOP853", "Radau", "BDF", "LSODA")},
}
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams",
         "implicit_adams", "fixed_adams")  # fmt: skip
SOLVERS = tuple(_TORCHDIFFEQ) + tuple(n for n in SCIPY if n not in _TORCHDIFFEQ)


class FirstOrderForm(nn.Module):
    """A system as the field of torchdiffeq, with its extra arguments and a counter."""

    def __init__(self, system, args, watched):
        super().__init__()
        self.system, self.args, self.watched = system, args, watched

    def forward(self, t, state):
        """Return the derivative of (x, v)."""
        return self.system.derivative(self.watched, t, state, *self.args)


def solve(system, x, v, t, *, method, gradient, rtol, atol, step_size, args, watch):
    """Solve by a torchdiffeq method.

    Parameters
    ----------
    system, x, v, t, args
        As checked by ``odeint``.
    method : str
        One of ``SOLVERS``.
    gradient : {"backprop", "adjoint"}
    rtol, atol : float or None
        1e-7 and 1e-9 by default, 1e-5 and 1e-6 below float64.
    step_size : float or None
        Of the fixed-step methods.
    watch : callable
        Wraps a field in a ``Watched``.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        For a gradient the solver cannot give, with the alternatives.
    """
    if t.ndim != 1:
        raise ValueError(
            f"`t` holds per-sample grids, but {method!r} takes one grid for all; use a "
            'fixed-step method such as "verlet" or "blanes_moan4"'
        )
    wants = [p for p in system.parameters() if p.requires_grad]
    wants += [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    check(method, gradient, step_size, [*wants, x, v, t])
    watched: Watched = watch(system.field)
    form = FirstOrderForm(system, args, watched)
    settings = options_of(method, x, rtol, atol, step_size)

    def run(state, times):
        if gradient == "adjoint":
            rate = plain(system.damping) / plain(system.mass)
            rate = rate.max().item() if isinstance(rate, torch.Tensor) else rate
            own = {**settings, "adjoint_params": tuple(wants), "rate": rate}
            return adjoint(form, state, times, **own)
        if method not in SCIPY:
            return torchdiffeq.odeint(form, state, times, **settings)
        with warnings.catch_warnings():
            # torchdiffeq passes on a `min_step`, of which only LSODA knows.
            warnings.filterwarnings("ignore", ".*no effect.*`min_step`", UserWarning)
            return torchdiffeq.odeint(form, state, times, **settings)

    def inside(i, times):
        order = times.detach().argsort(descending=bool(t[-1] < t[0]))
        ask, back = times[order].unique_consecutive(return_inverse=True)
        first = bool(ask[0] == t[i])
        ask = ask if first else torch.cat([t[i : i + 1], ask])
        found = run((xs[i], vs[i]), ask)
        place = torch.empty_like(order)
        place[order] = back + (not first)
        return found[0][place], found[1][place]

    if len(t) == 1:
        xs, vs = x.unsqueeze(0), v.unsqueeze(0)
    else:
        xs, vs = run((x, v), t)
    close(watched)
    stats = Stats(watched.evaluations, accepted=0)
    return Solution(t, xs, vs, stats, inside)


def options_of(method, x, rtol, atol, step_size):
    """The settings of torchdiffeq, with tolerances that suit the state's precision."""
    double = x.dtype == torch.float64
    options = {"step_size": step_size} if step_size is not None else {}
    if method in SCIPY:
        options["solver"] = SCIPY[method]
    return {
        "method": "scipy_solver" if method in SCIPY else method,
        "rtol": (1e-7 if double else 1e-5) if rtol is None else rtol,
        "atol": (1e-9 if double else 1e-6) if atol is None else atol,
        "options": options or None,
    }


def check(method, gradient, step_size, wanting):
    """Raise for combinations that would be wrong or silently without gradients."""
    if gradient not in ("backprop", "adjoint"):
        raise ValueError(
            f'`gradient` is {gradient!r}, but {method!r} can use "backprop" or '
            f'"adjoint" only; for {gradient!r} take a splitting method or "adaptive"'
        )
    if step_size is not None and method not in FIXED:
        raise ValueError(
            f"`step_size` is for fixed-step methods, but {method!r} adapts its steps; "
            "give `rtol` and `atol` instead"
        )
    seeks = torch.is_grad_enabled() and any(w.requires_grad for w in wanting)
    if method in SCIPY and gradient == "backprop" and seeks:
        raise ValueError(
            f'{method!r} runs outside autograd and would return results without '
            'gradients; use gradient="adjoint", another method, or torch.no_grad() '
            "if no gradient is needed"
        )
