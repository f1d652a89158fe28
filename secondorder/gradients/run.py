"""A plan on the grid, forward and back: what both passes of the reversible route share.

    Run.forward    the tape from its start to its end; leaves a Trace
    Run.rewind     the tape from its end to its start; feeds Cotangents on the way

``reversible.py`` makes one node of the caller's graph of the two.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..checks import Number
from ..plan.moves import Kick, Plan, Record, force, untimed
from .arguments import Arguments, Guard, Leaves
from .cotangents import Cotangents, detached, differentiable, wants_gradient
from .fixed_point import (
    FixedPoint,
    exponent,
    fingerprint,
    power_above,
    size_at_start,
    unit_of,
)
from .forces import Watched
from .integers import Integers, Packed
from .layers import Layered
from .precision import autocast_state
from .replay import RandomStates, Weights
from .tape import KICK, RECORD, Tape, compile_tape
from .usable import BEYOND, UNFAITHFUL, check_usable

Field = Callable[..., Tensor]

COARSER = 2.0**9  # by how much units grow where int64 was left


class Trace(NamedTuple):
    """What the forward pass leaves behind: all that the way back needs.

    Attributes
    ----------
    unit : Tensor
        The power of two that the integers are counted in, 0-d, or the exponents of one
        per element.
    begin : Tensor
        Fingerprint of the integers at the start.
    end : Packed
        The integers at the end, and the bytes that damping pushed out.
    random : dict of int to list of Tensor
        States of the generators before each force that drew from them, by move.
    arguments : list of Tensor
        The tensors among the further arguments, detached.
    kept : dict of int to list
        What is kept of forces of layers, by move.
    """

    unit: Tensor
    begin: Tensor
    end: Packed
    random: dict[int, list[Tensor]]
    arguments: list[Tensor]
    kept: dict[int, Any]


class Run:
    """One solve on the grid: what its forward and its backward pass share.

    Parameters
    ----------
    plan, field, args, scale, keep
        As in ``so.reversible``.
    x : Tensor
        The position, for its dtype and device.
    """

    def __init__(
        self,
        plan: Plan,
        field: Field,
        args: Sequence[Any],
        x: Tensor,
        scale: Number | None = None,
        keep: int = 0,
    ) -> None:
        self.plan = plan
        self.tracked = torch.is_grad_enabled()
        self.arguments = Arguments(args)
        self.weights = Weights(field)
        numbers = {id(n): n for move in untimed(plan) for n in differentiable(move)}
        self.numbers = list(numbers.values())
        self.inputs = (*self.weights.originals, *self.arguments.tensors, *self.numbers)
        check_usable(x, self.inputs, self.weights.modules)
        self.versions = [version(i) for i in self.inputs]
        self.tape = self.compile(x)
        self.scale = scale
        self.autocast = autocast_state(x.device)
        self.keep = keep if self.tracked else 0
        self.guard = Guard()
        self.forces: Layered | Watched = self.by_hand(x) or Watched(self)

    def by_hand(self, x: Tensor) -> Layered | None:
        """The forces of known layers that are given nothing but a state."""
        layered = self.weights.layered
        cast = self.autocast is not None and self.autocast[2]
        nested = (getattr(move, "inner", None) for move in untimed(self.plan))
        if (
            layered is None or self.arguments.args or cast or self.tape.parts > 1
            or type(x) not in (Tensor, nn.Parameter)
            or (self.numbers and any(map(wants_gradient, nested)))
        ):  # fmt: skip
            return None
        layered.last, layered.autocast = self.last_forces(), self.autocast
        return layered

    def compile(self, x: Tensor) -> Tape:
        """The plan in numbers."""
        return compile_tape(self.plan, x.dtype, x.device)

    def load(self, grid: FixedPoint, x: Tensor, v: Tensor, unit: Tensor) -> Integers:
        """The state on the grid."""
        return Integers.load(grid, self.tape.parts, x, v, unit)

    def end(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """The state of the last record, from what the forward pass left."""
        grid = replace(self.tape.grid, dtype=trace.end.x.dtype)
        state = Integers.unpacked(grid, trace.unit, trace.end)
        last = self.tape.steps.at(len(self.tape.steps) - 1)
        return state.position(), state.velocity(last.read)

    def forward(
        self, x: Tensor, v: Tensor, arguments: Sequence[Tensor]
    ) -> tuple[list[Tensor], Trace]:
        """Run the tape; return recorded positions and velocities, and the trace."""
        unit = self.unit(x, v)
        grid = self.tape.grid
        if unit.ndim > 0:  # finer units for some within the range of the others
            grid = replace(grid, dtype=torch.int64)
        if grid.dtype != torch.int64:
            # Floats beyond their range only lose exactness, and the way back says so.
            return self.attempt(self.load(grid, x, v, unit), arguments)
        # Integers wrap.  What grew too much is measured once more, first by the largest
        # of all, then coarser than that, as long as its start is still resolved.
        top, noted = unit.max(), (RandomStates(x.device), self.weights.noted())
        for coarser in (top, top * COARSER, None):
            state = self.load(grid, x, v, unit)
            outputs, trace = self.attempt(state, arguments)
            left, poison = cast(Tensor, state.left), cast(Tensor, state.poison)
            if coarser is None:
                left = left & (poison == 0)  # what is NaN anyway is no failure
            if not bool(left.any()):
                return outputs, trace
            self.forces.kept.clear()
            for things in noted:
                things.undo()
            if coarser is not None:
                unit = torch.where(left, torch.maximum(coarser, unit), unit)
        raise RuntimeError(BEYOND.format(size=top.item()))

    def unit(self, x: Tensor, v: Tensor) -> Tensor:
        """What the state is measured in: chosen once, by how it starts."""
        if self.scale is not None:
            size = self.scale
            if not isinstance(size, Tensor):
                size = torch.as_tensor(size, dtype=torch.float64, device=x.device)
            size = size.detach().double()
            unit = power_above(size, x.dtype == torch.float64)
            if unit.ndim == 0:
                return unit.cpu()
            try:
                return unit.to(x.device).expand(x.shape)
            except RuntimeError:
                raise ValueError(
                    f"`scale` of shape {tuple(unit.shape)} does not fit a state of "
                    f"shape {tuple(x.shape)}; give a number, or one per coordinate"
                ) from None
        return unit_of(self.size(x, v), x.dtype == torch.float64)

    def size(self, x: Tensor, v: Tensor) -> Tensor:
        """How large the state is at the start, or soon will be."""
        tape = self.tape
        return size_at_start(
            x, v, tape.reach, tape.push, lambda: self.first_force(x, v)
        )

    def first_force(self, x: Tensor, v: Tensor) -> Tensor | None:
        """The force at the start, evaluated without a trace, where there is one."""
        kicks = (m for m in self.plan if isinstance(m, Kick) and not m.spring)
        kick = next(kicks, None)
        if kick is None or self.weights.rigid or self.weights.hidden:
            return None
        generators = RandomStates(x.device)
        with torch.no_grad():
            seen = v.detach() if kick.velocity_copy else None
            field = self.weights.replica()
            value = force(field, kick, x.detach(), seen, self.arguments.args)
        generators.undo()
        return value

    def attempt(
        self, state: Integers, arguments: Sequence[Tensor]
    ) -> tuple[list[Tensor], Trace]:
        """Run the tape from a state on the grid."""
        hashes = fingerprint(state.x, *state.velocities)
        random: dict[int, list[Tensor]] = {}
        moves, outputs, value = untimed(self.plan), list[Tensor](), state.x
        with self.forces.there(state, arguments, random) as force:
            for step in self.tape.steps:
                if step.code == KICK:
                    move = cast(Kick, moves[step.index])
                    if step.origin == step.index:
                        value = force(move, step)
                    state.kick(step, move.velocity_copy, value, 1)
                elif step.code == RECORD:
                    scale = cast(Record, moves[step.index]).scale
                    outputs.append(state.position())
                    outputs.append(detached(scale) * state.velocity(step.read))
                else:
                    state.move(step, 1)
        return outputs, self.leave(state, hashes, random, arguments)

    def begin(self, arguments: Sequence[Tensor]) -> tuple[Leaves, set[int]]:
        """What a forward pass hangs its graphs on, and the ids of all that may be."""
        if self.autocast and self.autocast[2]:
            # Weights cast before this pass would seem to come from outside.
            torch.clear_autocast_cache()
        leaves = self.new_leaves(arguments)
        known = {id(t) for t in (*leaves.arguments, *leaves.numbers.values())}
        return leaves, known | {id(p) for p in self.weights.originals}

    def leave(
        self, state: Any, hashes: Tensor, random: Any, arguments: Sequence[Tensor]
    ) -> Trace:
        """What a forward pass leaves behind."""
        # A sample that overflows reverses to nonsense and needs no alarm: its gradients
        # are NaN, as with backprop.  The others are still compared.
        begin = (hashes * state.finite()).sum(1)
        unit = state.unit
        if not isinstance(unit, Tensor):
            unit = torch.tensor(unit, dtype=torch.float64, device="cpu")
        if unit.ndim > 0:  # two bytes an element rather than eight
            unit = exponent(unit).to(torch.int16)
        packed, kept = state.packed(), self.forces.take_kept()
        return Trace(unit, begin, packed, random, list(arguments), kept)

    def rewind(
        self, trace: Trace, cotangents: Cotangents | None = None
    ) -> tuple[Integers, Leaves]:
        """Undo the tape from its end; return the state, checked against the start."""
        grid = replace(self.tape.grid, dtype=trace.end.x.dtype)
        state = Integers.unpacked(grid, trace.unit, trace.end)
        alive, moves, graph = state.finite(), untimed(self.plan), None
        with self.forces.back(state, trace) as evaluate:
            for step in reversed(self.tape.steps):
                move: Any = moves[step.index]
                if step.code == KICK:
                    graph = graph or evaluate(move, step)
                    state.kick(step, move.velocity_copy, graph.value.detach(), -1)
                    if cotangents:
                        cotangents.kick(move, graph.value)
                    if step.origin == step.index:
                        if cotangents:
                            self.guard.ours = True
                            cotangents.pull(graph, move)
                            self.guard.ours = False
                        graph = None
                else:
                    state.move(step, -1)
                    if cotangents and step.index >= 0:
                        cotangents.move(move, state, step)
        self.compare(trace, state, alive, fingerprint(state.x, *state.velocities))
        return state, self.forces.leaves or self.new_leaves(trace.arguments)

    def compare(self, trace: Trace, state: Any, alive: Tensor, hashes: Tensor) -> None:
        """Raise unless the integers have come back to what they were at the start."""
        now = (hashes * alive).sum(1)
        # A NaN that has spread on the way back (through BatchNorm, say) is in all
        # gradients, and tells nothing.
        spread = (alive & ~state.finite()).any()
        if bool(((now != trace.begin).any() & ~spread).item()):
            raise RuntimeError(UNFAITHFUL)

    def gradients(self, trace: Trace, cotangents: Cotangents) -> list[Tensor | None]:
        """Rewind, and return the gradients of ``inputs``."""
        try:
            _, leaves = self.rewind(trace, cotangents)
        finally:
            found = self.weights.take_gradients()
            self.forces.leaves = None
        found += [leaf.grad for leaf in leaves.arguments]
        for number in self.numbers:
            both = cotangents.numbers.get(id(number)), leaves.own(number).grad
            parts = [p.to(number) for p in both if p is not None]
            found.append(sum(parts[1:], parts[0]) if parts else None)
        return found

    def new_leaves(self, arguments: Iterable[Tensor]) -> Leaves:
        """Leaves of our own in place of what wants a gradient."""
        return Leaves(self.arguments, arguments, self.numbers, self.tracked)

    def last_forces(self) -> list[int]:
        """The moves of the last ``keep`` forces."""
        if not self.keep:
            return []
        moves = enumerate(untimed(self.plan))
        fresh = [i for i, move in moves if isinstance(move, Kick) and move.fresh]
        return fresh[-self.keep :]

    def undisturbed(self, tracked: bool) -> ExitStack:
        """Context of both passes: the same kernels, no other pass in between."""
        stack = ExitStack()
        # Gradient mode also in the forward pass, though its graphs are dropped: without
        # it other kernels may run, whose last bits differ, unless the field is plain.
        stack.enter_context(torch.set_grad_enabled(tracked))
        stack.enter_context(self.weights.undisturbed())
        # Forces that differentiate inside (potentials) stay on this thread: others
        # number their graph nodes by themselves, and CUDA has a thread of its own.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        return stack


def version(tensor: Tensor) -> int:
    """How often a tensor was modified in place; inference tensors do not say."""
    return 0 if tensor.is_inference() else tensor._version
