"""The blocks of somebody else's network, run as a Momentum ResNet.

    for layer in stack: x = layer(x, mask)      v ← γ v + (1−γ) (block(x, mask) − x)
                                                x ← x + v

A stack takes the place of the ``ModuleList`` or ``Sequential`` that held the blocks.
The loop over it is the one of the network that it is in; its entries are ``Layer``s:

- without gradients, or with ``"backprop"``, each takes its step when it is called;
- otherwise each answers with a ``Pending`` and the last one runs all of them, since
  a route that differentiates a plan has to see the whole of it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...gradients import Gradient
from ...gradients.arguments import CHANGED
from ...gradients.run import version
from ..momentum_net import MomentumNet
from .calls import Calls, Where, answer, entry, first_state, others, parts, tensors_in
from .steps import MARK, Wait, Walk, difference

ALONE = (
    "{block} was called on something that the block before it did not return (alone, "
    "out of order, or on a state that was changed between the two), but the blocks of "
    "a Momentum ResNet share a velocity. Call them one after the other, each on the "
    "answer of the one before; so.to_residual(model) gives the blocks back"
)

WRITTEN = (
    "{block} wrote into the state that it was given, which the step needs; leave out "
    "in-place operations on its input (x.relu_(), x += ...), or let it start with x = "
    "x.clone()"
)


class Stack(MomentumNet):
    """A Momentum ResNet of blocks x ↦ block(x) that stays iterable as it was.

    Parameters
    ----------
    container : nn.ModuleList or nn.Sequential
        Its blocks keep their names.
    gamma, gradient, rule, memory
        As in ``MomentumNet``.

    Attributes
    ----------
    changes : list of (bool or None)
        Which blocks change the shape of the state: they are not residual, and are left
        as they are.  None where it has not been seen yet.
    """

    def __init__(
        self,
        container: nn.ModuleList | nn.Sequential,
        gamma: Any = 0.9,
        gradient: str | Gradient | Callable[..., Any] = "reversible",
        rule: str = "momentum",
        memory: int | str | None = None,
    ) -> None:
        self.named = dict(container._modules)
        super().__init__([*self.named.values()], gamma, gradient, None, rule,
                         memory=memory)  # fmt: skip
        del self.named
        shell = object.__new__(type(container))
        vars(shell).update(vars(container), _modules={})
        self.original = (shell,)  # in a tuple: it is no part of the network
        self.changes: list[bool | None] = [None] * len(self.blocks)
        self.forms: dict[str, Any] = {}
        self.compiled = False
        self.training = container.training

    def set_blocks(self, blocks: Sequence[Callable[..., Tensor]]) -> None:
        """Keep the blocks under the names that they had."""
        self._modules.update(self.named)

    @property
    def blocks(self) -> Any:
        """The blocks themselves."""
        return [*self._modules.values()]

    def residual(self) -> nn.Module:
        """The container that was converted, with the present blocks."""
        (shell,) = self.original
        container = object.__new__(type(shell))
        vars(container).update(vars(shell), _modules=dict(self._modules))
        container.training = self.training
        return container

    def __iter__(self) -> Iterator[Any]:
        return (Layer(self, n) for n in range(len(self.blocks)))

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: Any) -> Any:
        count = len(self)
        if not isinstance(index, slice):
            if not -count <= index < count:
                raise IndexError(f"index {index} is out of range for {count} blocks")
            return Layer(self, index % count)
        chosen = range(count)[index]
        return self if chosen == range(count) else self.part(chosen)

    def part(self, chosen: Sequence[int]) -> "Stack":
        """A stack of some of the blocks, which shares everything with this one."""
        names = [*self._modules]
        container = self.residual()
        container._modules = {names[n]: self._modules[names[n]] for n in chosen}
        gamma = self.gamma
        if isinstance(gamma, tuple):
            gamma = tuple(gamma[n] for n in chosen)
        part = type(self)(container, gamma, self.gradient, self.rule)  # type: ignore[arg-type]
        part.budget = self.budget
        part.changes = [self.changes[n] for n in chosen]
        return part

    def __repr__(self) -> str:
        """Show γ before the blocks."""
        return nn.Module.__repr__(self)

    def forward(
        self, x: Tensor, *args: Any, velocity: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Run all blocks, which get the same arguments."""
        if velocity is not None:
            return super().forward(x, *args, velocity=velocity, **kwargs)
        for layer in self:
            x = layer(x, *args, **kwargs)
        return x

    def call(self, n: int, args: Any, kwargs: Any) -> Any:
        """Call block n: take its step, or wait for the last."""
        if n == 0:
            where = first_state(self.blocks[0], args, kwargs)
            kind = Wait if self.waits(args, kwargs) else Walk
            return kind(self, where).call(entry(args, kwargs, where), args, kwargs)
        places: list[Where] = [*range(len(args)), *kwargs]
        for where in places:
            state = entry(args, kwargs, where)
            before: Any = getattr(state, "__dict__", {}).get(MARK)
            if before is not None and before.leads_to(self, n, where):
                return before.call(state, args, kwargs)
        raise RuntimeError(ALONE.format(block=self.name_of(n)))

    def name_of(self, n: int) -> str:
        """A block in messages."""
        return f"block {n} ({type(self.blocks[n]).__name__})"

    def waits(self, args: Any, kwargs: Any) -> bool:
        """Whether this call has to see all blocks before it runs any."""
        if self.gradient.name == "backprop" or not torch.is_grad_enabled():
            return False
        given = tensors_in([*args, *kwargs.values()])
        return any(t.requires_grad for t in (*given, *self.parameters()))

    def plain_force(self, n: int, x: Tensor) -> Tensor:
        """Evaluate block(x) − x without further arguments."""
        return self.force(n, x, (), {})

    def force(self, n: int, x: Tensor, args: Any, kwargs: Any) -> Tensor:
        """Evaluate block(x) − x."""
        block = self.blocks[n]
        out = self.evaluate(n, x, lambda own: block(own, *args, **kwargs))
        return difference(answer(out, block), x)

    def evaluate(self, n: int, x: Tensor, call: Callable[[Tensor], Any]) -> Any:
        """What a call of block n answers for a state, which it may not overwrite."""
        modules = self.blocks[n].modules()
        writes = any(vars(m).get("inplace") is True for m in modules)
        before = version(x)
        out = call(x.clone() if writes else x)
        if version(x) != before:
            raise RuntimeError(WRITTEN.format(block=self.name_of(n)))
        return out

    def ask(
        self, n: int, x: Tensor, calls: Calls, leaves: Sequence[Any] | None = None
    ) -> tuple[Any, Any]:
        """Call block n as it was called; return its answer, and with what."""
        given = calls.of(n, x, calls.leaves if leaves is None else leaves)
        before = parts(given)
        out = self.blocks[n](*given[0], **given[1])
        if parts(given) != before:
            raise RuntimeError(CHANGED)
        return out, given

    def called(
        self, calls: Calls, form: Any, passed: set[int], n: int, x: Tensor, leaves: Any
    ) -> Tensor:
        """Evaluate block(x) − x with the arguments that the block was called with."""
        block = self.blocks[n]
        out, (args, kwargs) = self.evaluate(
            n, x, lambda own: self.ask(n, own, calls, leaves)
        )
        y, found = answer(out, block), others(calls.with_caches(out))
        calls.leave_graphs()
        given = [id(t) for t in tensors_in([*args, *kwargs.values()])]
        if not same_form(found, others(form)) or any(
            n > 0 and id(found[place]) not in given for place in passed
        ):
            raise TypeError(
                f"{self.name_of(n)} returned {kinds(found)} besides its state, which "
                f"gradient={self.gradient.name!r} cannot hand on: what the first block "
                "returns is handed on to all (a position bias), and the others must "
                "return it unchanged, or at least what nobody uses, in the same form; "
                'convert with gradient="backprop"'
            )
        return difference(y, x)


class MomentumList(Stack, nn.ModuleList):
    """The blocks of a ``ModuleList`` as a Momentum ResNet."""


class MomentumSequential(Stack, nn.Sequential):  # type: ignore[misc]
    """The blocks of a ``Sequential`` as a Momentum ResNet."""


class Layer:
    """One entry of a stack: called, it is a layer; read, it is the block."""

    def __init__(self, stack: Stack, n: int) -> None:
        vars(self).update(_stack=stack, _n=n)

    @torch.compiler.disable
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the step of this layer."""
        return self._stack.call(self._n, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("_stack", "_n"):
            raise AttributeError(name)
        return getattr(self._stack.blocks[self._n], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._stack.blocks[self._n], name, value)

    def __getitem__(self, index: Any) -> Any:
        return self._stack.blocks[self._n][index]

    def __reduce__(self) -> Any:
        return Layer, (self._stack, self._n)

    def __repr__(self) -> str:
        """Show the block."""
        return f"Layer {self._n}: {self._stack.blocks[self._n]!r}"


def same_form(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether a block returned what another did: tensors, or the same objects."""
    return len(found) == len(expected) and all(
        a is b
        or (isinstance(a, Tensor) and isinstance(b, Tensor))
        or (isinstance(a, (bool, int, float, str)) and a == b)
        for a, b in zip(found, expected, strict=True)
    )


def kinds(values: Sequence[Any]) -> str:
    """The types of values, for messages."""
    return ", ".join(type(value).__name__ for value in values) or "nothing"
