"""The steps of a stack, as its blocks are called: taken at once, or all at the end.

Walk    v ← γ v + (1−γ) (block(x) − x),  x ← x + v    when the block is called
Wait    the calls are kept; the last one runs the plan by the gradient's route
"""

import functools
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ... import checks
from ...gradients.replay import RandomStates, with_copied_buffers
from ...plan import Damp, Kick, Record
from .calls import (
    Arguments,
    Calls,
    Collector,
    Where,
    answer,
    nothing_collected,
    others,
    skeleton,
    with_answer,
    with_entry,
)

if TYPE_CHECKING:
    from .stack import Stack

MARK = "_secondorder_step"  # on a state between two blocks: where it comes from
DESCRIBED = {f"torch.Tensor.{n}" for n in ("shape", "dtype", "device", "ndim", "size")}
DESCRIBED |= {"torch.Tensor.dim", "torch.Tensor.is_floating_point"}
BETWEEN = (
    "what a block returns was used ({what}) before the last block was called, or "
    "besides the state, but while gradients are taken by reversal or checkpoints all "
    "blocks run when the last is called, and their states alone are kept; "
    'convert with gradient="backprop", which takes each step when its block is called'
)


class Walk:
    """The step of a block, taken when it is called; a mark on the state leads on.

    Attributes
    ----------
    n : int
        The block that comes next.
    """

    def __init__(self, stack: "Stack", where: Where) -> None:
        self.stack, self.where, self.n = stack, where, 0
        self.plan = stack.plan(torch.empty(0))
        self.x: Tensor | None = None  # in float32 where the network is in bfloat16
        self.v: Tensor | None = None

    def leads_to(self, stack: "Stack", n: int, where: Where) -> bool:
        """Whether this state belongs to a call."""
        return (self.stack, self.n, self.where) == (stack, n, where)

    def call(self, state: Tensor, args: Any, kwargs: Any) -> Any:
        """Take the step."""
        stack, block = self.stack, self.stack.blocks[self.n]
        collector = Collector.now()

        def call(own: Tensor) -> Any:
            rest, named = with_entry(args, kwargs, self.where, own)
            return block(*rest, **named)

        out = stack.evaluate(self.n, state, call)
        y = answer(out, block)
        after = Walk.__new__(Walk)
        vars(after).update(vars(self), n=self.n + 1, x=None, v=None)
        new = y
        if not note_change(stack, self.n, y, state):
            new = after.step(self, y, state)
        collector.correct(y, new)
        # Whatever keeps this state alive need not keep its velocity, too.
        self.n, self.x, self.v = -1, None, None
        if after.n < len(stack):
            vars(new)[MARK] = after
        return with_answer(out, new)

    def step(self, before: "Walk", y: Tensor, state: Tensor) -> Tensor:
        """Damp, kick, drift: from the state before to this one; return x."""
        damp, kick = cast(tuple[Damp, Kick], self.plan[3 * before.n :][:2])
        push = difference(y, state)
        if is_number(damp.weight, 0) and is_number(kick.weight, 1):
            self.v = push  # the residual network itself, without a rounding error
            return y
        x = wide(state) if before.x is None else before.x
        checks.fits(damp.weight, x, "gamma")
        self.v = kick.weight * push.to(x.dtype)
        if before.v is not None:
            self.v = damp.weight * before.v + self.v
        x = x + self.v
        if x.dtype != state.dtype:
            self.x = x
        return x.to(state.dtype)


class Wait:
    """All calls of the blocks, run when the last has come."""

    def __init__(self, stack: "Stack", where: Where) -> None:
        self.stack, self.where = stack, where
        self.collector = Collector.now()
        self.collector.refuse_others()
        self.calls: list[Arguments] = []
        self.x: Tensor | None = None
        self.form: Any = None
        self.passed: set[int] = set()  # what blocks return that others are given

    def leads_to(self, stack: "Stack", n: int, where: Where) -> bool:
        """Whether this is waiting for a call."""
        return (self.stack, len(self.calls), self.where) == (stack, n, where)

    def call(self, state: Any, args: Any, kwargs: Any) -> Any:
        """Keep the call; run all after the last."""
        args, kwargs = with_entry(args, kwargs, self.where, None)
        self.calls.append((tuple(map(self.known, args)), {
            name: self.known(value) for name, value in kwargs.items()
        }))  # fmt: skip
        first = self.x is None
        if first:
            self.x = state
            self.form = self.first_answer(state)
        done = len(self.calls) == len(self.stack)
        new = self.run() if done else Pending.of(self)
        if first:
            return with_answer(self.form, new)
        return with_answer(self.form, new, lambda place: Pending.of(self, place))

    def known(self, value: Any) -> Any:
        """An argument that an earlier block was to return: the first one did."""
        if isinstance(value, Pending) and value.wait is self:
            self.passed.add(value.place)
            return others(self.form)[value.place]
        return value

    def first_answer(self, x: Tensor) -> Any:
        """In what form blocks answer: the first is asked, once for each kind of call.

        What it returns besides the state (a position bias, computed for all others) is
        returned with its graph.
        """
        stack = self.stack
        key = f"{skeleton(self.calls[0])} {stack.blocks[0].training}"
        form = stack.forms.get(key)
        if form is None:
            ask: Any = stack.ask
            calls = Calls(self.calls, self.where)
            out = self.dry(with_copied_buffers(ask), 0, x, calls)
            form = calls.with_caches(with_answer(out, None))
            if all(value is None for value in others(form)):
                stack.forms[key] = form
        return form

    @staticmethod
    def dry(ask: Any, n: int, x: Tensor, calls: Calls) -> Any:
        """The answer of a block that is asked beforehand, leaving no trace."""
        generators = RandomStates(x.device)
        with nothing_collected():
            out, _ = ask(n, x.clone(), calls)
        generators.undo()
        return out

    def run(self) -> Tensor:
        """Run all blocks; return the last state."""
        stack, calls = self.stack, Calls(self.calls, self.where)
        x = cast(Tensor, self.x)
        if None in stack.changes:
            self.look(calls, x)
        if calls.caches and any(stack.changes):
            raise ValueError(
                "`cache` cannot be filled while gradients are taken where some blocks "
                "change the shape of the state; pass use_cache=False, or convert with "
                'gradient="backprop"'
            )
        plan, states, n = stack.plan(x), [x], 0
        wanted = self.collector.states is not None
        field: Any = functools.partial(stack.called, calls, self.form, self.passed)
        with nothing_collected():
            while n < len(stack):
                end = n + 1
                if stack.changes[n]:
                    x = answer(stack.ask(n, x, calls)[0], stack.blocks[n])
                    states.append(x)
                else:
                    while end < len(stack) and not stack.changes[end]:
                        end += 1
                    moves: list[Any] = []
                    for k in range(n, end):
                        moves += plan[3 * k : 3 * k + 3]
                        moves += [Record()] if wanted or k + 1 == end else []
                    start = (*stack.start(x, None), (calls.leaves,))
                    route = stack.route(tuple(moves), field, *start)
                    found = route.run(tuple(moves), field, *start)
                    states += [position for position, _ in found]
                    x = states[-1]
                n = end
        calls.fill_caches()
        self.collector.add(states)
        return x

    def look(self, calls: Calls, x: Tensor) -> None:
        """See which blocks change the shape of the state, on copies of everything."""
        ask: Any = self.stack.ask
        ask, x = with_copied_buffers(ask), x.detach()
        with torch.no_grad():
            for n, block in enumerate(self.stack.blocks):
                y = answer(self.dry(ask, n, x, calls), block)
                note_change(self.stack, n, y, x)
                x = y


class Pending(Tensor):
    """A tensor that is not computed yet: the state after a block, or what comes by it.

    Attributes
    ----------
    wait : Wait
    place : int
        Among what the first block returned besides the state; −1 for the state itself.
    """

    wait: Any
    place: int

    @classmethod
    def of(cls, wait: Wait, place: int = -1) -> "Pending":
        """What the block that was called last will return."""
        pending = torch.empty(0).as_subclass(cls)
        vars(pending).update(wait=wait, place=place)
        if place < 0:
            vars(pending)[MARK] = wait
        return pending

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Say what kind of tensor it will be; raise for all that needs numbers."""
        name = torch.overrides.resolve_name(function) or "an operation"
        if name.removesuffix(".__get__") in DESCRIBED and MARK in vars(args[0]):
            wait = vars(args[0])[MARK]
            if all(changes is False for changes in wait.stack.changes):
                return function(wait.x, *args[1:], **kwargs or {})
        raise RuntimeError(BETWEEN.format(what=name))


def note_change(stack: "Stack", n: int, y: Tensor, x: Tensor) -> bool:
    """Whether block n changes the shape of the state, which is settled once."""
    if y.is_nested or x.is_nested:
        return False
    changes = y.shape != x.shape
    if stack.changes[n] is None:
        stack.changes[n] = changes
        if all(stack.changes):
            raise ValueError(
                "every block of this stack changes the shape of the state, so none is "
                "a layer of a Momentum ResNet; so.to_residual(model) goes back, and a "
                "`path` to the blocks inside of them ('stages.0.layers') may fit"
            )
    elif changes and not stack.changes[n]:
        raise ValueError(
            f"{stack.name_of(n)} returned a state of shape {tuple(y.shape)} for one of "
            f"shape {tuple(x.shape)}, but kept the shape before; a layer of a Momentum "
            "ResNet keeps the shape of its state"
        )
    return bool(stack.changes[n])


def difference(y: Tensor, x: Tensor) -> Tensor:
    """Return block(x) − x, in float32 for half precision; what does not fit as is."""
    if y.is_nested or y.shape == x.shape:
        return wide(y) - wide(x)
    return y


def wide(x: Tensor) -> Tensor:
    """A tensor in at least float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def is_number(value: Any, number: float) -> bool:
    """Whether a weight is a certain float."""
    return not isinstance(value, Tensor) and value == number
