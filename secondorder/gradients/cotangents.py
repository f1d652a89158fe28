"""Gradients on their way back through a plan.

kick    v += w f(x)     g_f = w g_v,  g_w = ⟨g_v, f⟩,  g_x += (∂f/∂x)ᵀ g_f
drift   x += w v        g_v += w g_x,  g_w = ⟨g_x, v⟩
damp    v *= w          g_w = ⟨g_v, v⟩,  g_v *= w
shear   x ± Ψ(v)        g_v ± = (∂Ψ/∂v)ᵀ g_x
mix     w x + (1−w) v   g_v += (1−w) g_x,  g_x *= w
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..plan.moves import Damp, Drift, Kick, Mix, Move, Record, Shear, shear
from .fixed_point import cast, constant
from .integers import Integers
from .tape import Step

ENGINE: Any = torch.autograd.Variable._execution_engine


class Graph(NamedTuple):
    """A force with its graph, and the leaves x (and v) that this hangs on."""

    value: Tensor
    leaves: Sequence[Tensor]

    def pull(self, grad: Tensor) -> list[Tensor | None]:
        """Gradients of the leaves, given that of the force; weights keep theirs."""
        run_backward(self.value, grad)
        return [leaf.grad for leaf in self.leaves]


def run_backward(value: Tensor, grad: Tensor) -> None:
    """``torch.autograd.backward``, without its checks: a quarter of a small block."""
    if value.requires_grad:
        ENGINE.run_backward(
            (value,), (grad,), False, False, (),
            allow_unreachable=True, accumulate_grad=True,
        )  # fmt: skip


class Cotangents:
    """Gradients of the loss with respect to the state, and to the plan's numbers."""

    def __init__(
        self, like: Tensor, parts: int, outputs: Sequence[Tensor | None]
    ) -> None:
        self.x = torch.zeros_like(like)
        self.velocities = [torch.zeros_like(self.x) for _ in range(parts)]
        self.outputs = list(outputs)  # (gx, gv) of the records not yet met
        self.numbers: dict[int, Tensor] = {}
        self.pending: Tensor | None = None

    def add(self, number: Any, one: Tensor, other: Tensor) -> None:
        """Gradient of a number that multiplied ``other``, given that of the product."""
        if isinstance(number, Tensor) and number.requires_grad:
            part = (one * other).sum_to_size(number.shape)
            old = self.numbers.get(id(number))
            self.numbers[id(number)] = part if old is None else old + part

    def kick(self, move: Kick, value: Tensor) -> None:
        """Collect what v += w f (and e ±= w f) asks of the force."""
        push = self.velocities[0]
        if move.velocity_copy:
            push = push + move.velocity_copy * self.velocities[1]
        if wants_gradient(move.weight):
            self.add(move.weight, push, value.detach())
        part = constant(move.weight, self.x.dtype) * push
        self.pending = part if self.pending is None else self.pending + part

    def pull(self, graph: Any, move: Kick) -> None:
        """Pull the pending gradient of a force back to everything it came from."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        x, *v = graph.pull(cast(pending, graph.value.dtype))
        if x is not None:
            self.x += x
        if move.velocity_copy and v[0] is not None:
            self.velocities[0] += v[0]
            self.velocities[1] -= move.velocity_copy * v[0]

    def move(self, move: Move, state: Integers, step: Step) -> None:
        """Drift x += w v; damp v *= w; record."""
        if isinstance(move, Drift):
            if wants_gradient(move.weight):
                self.add(move.weight, self.x, state.velocity(step.read))
            self.velocities[0] = shear(
                self.velocities[0], self.x, detached(move.weight)
            )
        elif isinstance(move, Damp):
            part = step.part
            if wants_gradient(move.weight):
                before = state.velocity(step.read, part)
                self.add(move.weight, self.velocities[part], before)
            self.velocities[part] *= constant(move.weight, self.x.dtype)
        elif isinstance(move, Record):
            self.record(move, lambda: state.velocity(step.read))

    def record(self, move: Record, velocity: Callable[[], Tensor]) -> None:
        """Take in the gradients of a recorded state."""
        gv, gx = self.outputs.pop(), self.outputs.pop()
        if gx is not None:
            self.x += gx
        if gv is not None:
            if wants_gradient(move.scale):
                self.add(move.scale, gv, velocity())
            self.velocities[0] += detached(move.scale) * gv

    def shear(self, move: Shear, push: Tensor, y: Tensor) -> None:
        """Pull the gradient of what a shear added back to all it came from."""
        pair = [self.x, self.velocities[0]]
        seed = move.sign * pair[move.velocity]
        run_backward(push, seed.to(push.dtype))
        if y.grad is not None:
            pair[1 - move.velocity] += y.grad

    def mix(self, move: Mix) -> None:
        """Share the gradient of a mixed copy out."""
        pair = [self.x, self.velocities[0]]
        mine, other = pair[move.velocity], pair[1 - move.velocity]
        other += (1 - move.weight) * mine
        mine *= move.weight


def differentiable(move: Move) -> list[Tensor]:
    """The numbers of a move that want gradients."""
    names = ("weight", "time", "times", "inner", "scale")
    numbers = (getattr(move, name, None) for name in names)
    return [n for n in numbers if isinstance(n, Tensor) and n.requires_grad]


def wants_gradient(number: Any) -> bool:
    """Whether a number is a tensor that requires a gradient."""
    return isinstance(number, Tensor) and number.requires_grad


def detached(number: Any) -> Any:
    """A number without its graph."""
    return number.detach() if isinstance(number, Tensor) else number
