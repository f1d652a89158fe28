"""What a solve cannot do inside torch.func transforms, in words that help.

Fixed steps by ``backprop`` run under vmap, grad, jvp and all of them together, and so
do adaptive steps, but for vmap: it hides the numbers that decide about a step.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Solve = TypeVar("Solve", bound=Callable[..., Any])

OTHERS = (
    "torchdiffeq's and SciPy's solvers do not run inside torch.func transforms; take "
    'one of this library\'s methods, such as `method="rkn8"` or "coupled_dopri5", '
    'with gradient="backprop"'
)
ADVICE = {  # by what torch says
    "saved tensor hooks": '`gradient="checkpoint"` cannot run inside torch.func.grad, '
    'vjp, jacrev or hessian; use gradient="backprop" there',
    "requires_grad_()": "events cannot be differentiated inside torch.func transforms; "
    "use torch.autograd, by which their derivatives are found",
    "vmap:": "torch.vmap hides the numbers that a solve decides by (whether a step is "
    "accepted, whether an event has happened, what lies in its arguments); solve the "
    "whole batch at once, with `per_sample=True` for steps and events of each "
    'sample\'s own, or take fixed steps such as method="verlet" with '
    'gradient="backprop"',
    "setup_context": OTHERS,
    "storage": OTHERS,
}


def transformable(solve: Solve) -> Solve:
    """Say what to do where a solve fails inside vmap, grad, jvp, jacrev or hessian."""

    @functools.wraps(solve)
    def solved(*args: Any, **kwargs: Any) -> Any:
        try:
            return solve(*args, **kwargs)
        except RuntimeError as error:
            inside = torch._C._are_functorch_transforms_active()
            cause = next((c for c in ADVICE if c in str(error)), None)
            if not inside or cause is None:
                raise
            raise RuntimeError(ADVICE[cause]) from error

    return solved  # type: ignore[return-value]
