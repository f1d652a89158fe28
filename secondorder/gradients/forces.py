"""The forces of a pass, of fields of any kind: watched, and met again as they were.

    there   the way out: each force is evaluated with a graph, which is looked through
            for tensors that would lose their gradient, and dropped
    back    the way back: the same values again, and their graphs

``layers.py`` has the forces that need no graph.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..plan.moves import Kick, force
from .arguments import CHANGED, Leaves, contents_of
from .cotangents import Graph
from .integers import Integers
from .precision import autocast_again
from .replay import RandomStates, without_saved_tensor_hooks
from .tape import Step
from .usable import refuse_untracked

if TYPE_CHECKING:
    from .run import Run, Trace


class Watched:
    """The forces of one run.

    Attributes
    ----------
    kept : dict of int to Graph
        Graphs of the last forces, by move.
    leaves : Leaves or None
        What the graphs hang on, besides states and parameters.
    """

    def __init__(self, run: "Run") -> None:
        self.run: Run = weakref.proxy(run)  # which holds this: no cycle keeps states
        self.kept: dict[int, Graph] = {}
        self.leaves: Leaves | None = None

    @contextmanager
    def there(
        self, state: Integers, arguments: Sequence[Tensor], random: dict[int, Any]
    ) -> Iterator[Callable[[Kick, Step], Tensor]]:
        """Evaluate forces in this context; ``random`` notes where they draw from."""
        run, weights = self.run, self.run.weights
        leaves, known = run.begin(arguments)
        rolls = RandomStates(state.x.device)
        tracked, field = run.tracked, weights.field
        replicable = not (weights.rigid or weights.hidden)
        last = run.last_forces() if replicable else []
        lasting, before = set(last), contents_of(leaves.args)
        with run.undisturbed(tracked), ExitStack() as unseen:
            if tracked:
                unseen.enter_context(without_saved_tensor_hooks())
            since = node_number() if tracked else 0

            def evaluate(kick: Kick, step: Step) -> Tensor:
                nonlocal field
                if last and step.index == last[0]:
                    unseen.close()  # graphs that stay are counted
                    self.leaves = leaves
                    weights.make_aliases()
                    field = weights.replica(share_buffers=True)
                    known.update(id(p) for p in weights.aliases)
                graph = self.evaluate(field, state, step, leaves)
                if tracked:
                    roots = (*graph.leaves, *weights.inner)
                    refuse_untracked(graph.value, "reversal", known, roots, since)
                    for leaf in graph.leaves:
                        run.guard.watch(leaf)
                drawn_from = rolls.drawn_from()
                if drawn_from:
                    random[step.index] = drawn_from
                if step.index in lasting:
                    self.kept[step.index] = graph
                return graph.value.detach()

            yield evaluate
            weights.carry_back()
            if tracked and contents_of(leaves.args) != before:
                raise RuntimeError(CHANGED)

    @contextmanager
    def back(
        self, state: Integers, trace: "Trace"
    ) -> Iterator[Callable[[Kick, Step], Graph]]:
        """Meet the same forces again in this context, from the last to the first."""
        run, weights = self.run, self.run.weights
        rolls = RandomStates(state.x.device)
        if not self.kept or self.leaves is None:
            self.leaves = run.new_leaves(trace.arguments)
            weights.make_aliases()
        leaves, precision = self.leaves, autocast_again(run.autocast)
        with ExitStack() as stack:
            stack.callback(rolls.undo)
            stack.enter_context(weights.in_place())
            stack.enter_context(run.undisturbed(run.tracked))
            if run.tracked:
                stack.enter_context(without_saved_tensor_hooks())
            field = weights.replica()

            def evaluate(kick: Kick, step: Step) -> Graph:
                graph = self.kept.pop(step.origin, None)
                if graph is None:
                    if step.origin in trace.random:
                        rolls.restore(trace.random[step.origin])
                    with precision:
                        graph = self.evaluate(field, state, step, leaves)
                return graph

            yield evaluate

    def take_kept(self) -> dict[int, Any]:
        """What is kept as data: nothing, since graphs are none."""
        return {}

    def evaluate(
        self, field: Callable[..., Tensor], state: Integers, step: Step, leaves: Leaves
    ) -> Graph:
        """The force of a kick with its graph."""
        move = cast(Kick, self.run.plan[step.origin])
        seen = [state.position()]
        if move.velocity_copy:
            other = state.other(step, move.velocity_copy)
            seen.append(state.number(other, step.read[0]))
        if torch.is_grad_enabled():
            for leaf in seen:
                leaf.requires_grad_()
        if leaves.numbers:
            time, inner = leaves.own(move.time), leaves.own(move.inner)
            move = move._replace(time=time, inner=inner)
        velocity = seen[1] if move.velocity_copy else None
        return Graph(force(field, move, seen[0], velocity, leaves.args), seen)


def node_number() -> int:
    """The sequence number of a graph node that is made now."""
    with torch.enable_grad():
        leaf = torch.zeros((), device="cpu", requires_grad=True)
        node: Any = leaf.view(()).grad_fn
    return node._sequence_nr()
