"""Keep a function of the state at each time, instead of the states.

A solve through n times goes in blocks of √n of them, each of which goes on from the end
of the one before: no more than a block of states is there at once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..solution import Solution
from ..systems.problem import Problem
from .external import External, total
from .splitting import Splitting

Save = Callable[[Tensor, Any, Any], Any]


def solve_saving(
    solve: Callable[[Problem], Solution], problem: Problem, save: Save, whole: bool
) -> Solution:
    """Solve a problem and keep ``save(t, x, v)`` of each state, and the last state.

    Parameters
    ----------
    solve : callable
        Solves a checked problem.
    problem : Problem
    save : callable
    whole : bool
        Whether to solve at once and not in blocks.

    Raises
    ------
    TypeError
        If ``save`` is no function, or returns what cannot be stacked.
    """
    if not callable(save):
        raise TypeError(
            f"`save` must be a function (t, x, v) -> tensor, got {type(save).__name__}"
        )
    n, kept, costs = problem.t.shape[-1], [], []
    size = n if whole else max(1, math.isqrt(n))
    solution: Any = None
    for first in range(0, max(n - 1, 1), size):
        part = problem._replace(t=problem.t[..., first : first + size + 1])
        solution = solve(part if solution is None else part.after(solution))
        states = zip(solution.t.movedim(-1, 0), solution.x, solution.v, strict=True)
        kept.append(stacked([save(*state) for state in [*states][first > 0 :]]))
        costs.append(solution.stats)
    cost = costs[0]
    if costs[1:]:
        cost = total(costs, sum(part.evaluations for part in costs))
    last = Solution(
        problem.t if len(costs) > 1 else solution.t,
        solution.x[-1:].clone(), solution.v[-1:].clone(),
        cost, None, solution.event, solution.events, solution.status, solution.end,
    )  # fmt: skip
    last.saved = joined(kept)
    return last


def resumable(method: Any) -> bool:
    """Whether another solve can go on from the end of one by this method."""
    return not isinstance(method, External) and not (
        isinstance(method, Splitting) and method.takes_velocity
    )


def stacked(values: list[Any]) -> Any:
    """Tensors as one, time first; those in tuples and dictionaries each for itself."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values)
    if isinstance(first, (tuple, list)):
        return tuple(stacked(list(parts)) for parts in zip(*values, strict=True))
    if isinstance(first, dict):
        return {key: stacked([value[key] for value in values]) for key in first}
    raise TypeError(
        "`save` must return a tensor, or a tuple or dictionary of tensors, got "
        f"{type(first).__name__}"
    )


def joined(blocks: list[Any]) -> Any:
    """The same of several blocks."""
    first = blocks[0]
    if isinstance(first, Tensor):
        return torch.cat(blocks) if len(blocks) > 1 else first
    if isinstance(first, dict):
        return {key: joined([block[key] for block in blocks]) for key in first}
    return tuple(joined(list(parts)) for parts in zip(*blocks, strict=True))
