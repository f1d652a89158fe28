"""Plans of shears on the grid: two copies of a state, forward and back bit for bit.

    shear   X ± round(Ψ(v))          undone by the same Ψ, of a v that it left alone
    mix     X ← ±(X >> b) + V ∓ (V >> b)     for the weight w = ±2^−b

The b low bits of X that a mixing drops are kept, eight to a byte; all else is exact in
integers.  Both copies have one unit and as many bits; increments are rounded.

Reference: McCallum & Foster, "Efficient, Accurate and Stable Gradients for Neural
ODEs", arXiv:2410.11648 (2024), for two coupled copies; Maclaurin, Duvenaud & Adams,
ICML 2015, section 3, for keeping the bits.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..plan.moves import Mix, Record, Shear, increment, untimed
from .arguments import CHANGED, Leaves, contents_of
from .cotangents import Cotangents, detached
from .fixed_point import (
    SMALL,
    FixedPoint,
    exponent,
    fingerprint,
    fixed_point_for,
    power,
    samples,
)
from .forces import node_number
from .integers import NAN, RANGE, Packed, factor_of
from .precision import autocast_again
from .replay import RandomStates, without_saved_tensor_hooks
from .run import Field, Run, Trace
from .tape import Steps, Tape
from .usable import refuse_untracked

KINDS = (Shear, Mix, Record)
BYTE = 8


class Remnants:
    """A stack of a few bits per element, packed into bytes.

    Parameters
    ----------
    kept : list of list of Tensor
        As ``kept()`` gives it: the bytes, and how many bits are in each.
    """

    def __init__(self, kept: Sequence[Sequence[Tensor]] = ((), ())) -> None:
        self.bytes = list(kept[0])
        self.bits: list[int] = kept[1][0].tolist() if kept[1] else []

    def push(self, low: Tensor, bits: int) -> None:
        """Put ``bits`` bits of each element on the stack."""
        low = low.to(torch.uint8)
        if self.bits and self.bits[-1] + bits <= BYTE:
            self.bytes[-1] = (self.bytes[-1] << bits) | low
            self.bits[-1] += bits
        else:
            self.bytes.append(low)
            self.bits.append(bits)

    def pop(self, bits: int) -> Tensor:
        """Take them back."""
        low = self.bytes[-1] & (2**bits - 1)
        self.bits[-1] -= bits
        if self.bits[-1]:
            self.bytes[-1] = self.bytes[-1] >> bits
        else:
            del self.bytes[-1], self.bits[-1]
        return low.to(torch.int64)

    def kept(self) -> list[list[Tensor]]:
        """The stack as data."""
        bits = torch.tensor(self.bits, dtype=torch.uint8, device="cpu")
        return [list(self.bytes), [bits]]


class Copies:
    """Two states on one grid, int64, and what mixing has dropped from them.

    Attributes
    ----------
    left : Tensor
        Where a number left the range so far.
    poison : Tensor
        0 where all increments were finite, NaN elsewhere.
    """

    def __init__(
        self,
        grid: FixedPoint,
        unit: Tensor,
        integers: Sequence[Tensor],
        poison: Tensor,
        remnants: Remnants,
    ) -> None:
        self.grid, self.integers, self.remnants = grid, list(integers), remnants
        self.poison, self.unit = poison, factor_of(unit)
        self.left = torch.zeros_like(poison, dtype=torch.bool)

    @classmethod
    def load(cls, grid: FixedPoint, x: Tensor, v: Tensor, unit: Tensor) -> "Copies":
        """Round two states to a grid."""
        factor = 2.0**grid.fx / factor_of(unit)
        integers = [grid.load(part, factor) for part in (x, v)]
        return cls(grid, unit, integers, 0 * (x + v).detach(), Remnants())

    def packed(self) -> Packed:
        """The state as data; a poisoned position becomes the number ``NAN``."""
        x, v = self.integers
        x = torch.where(self.poison == 0, x, NAN)
        return Packed(x, [v], self.remnants.kept())

    @classmethod
    def unpacked(cls, grid: FixedPoint, unit: Tensor, end: Packed) -> "Copies":
        """Rebuild from ``packed``."""
        poison = torch.where(end.x == NAN, torch.nan, 0.0).to(grid.like)
        integers = (end.x, *end.velocities)
        return cls(grid, unit, integers, poison, Remnants(end.stacks))

    def read(self, which: int) -> Tensor:
        """A copy in the state's dtype, NaN where it is no longer finite."""
        factor = self.unit * 2.0**-self.grid.fx
        return self.grid.read(self.integers[which], factor).add_(self.poison)

    def position(self) -> Tensor:
        """The first copy."""
        return self.read(0)

    def velocity(self, read: Any = None) -> Tensor:
        """The second copy, whose scale never changes."""
        return self.read(1)

    def add(self, which: int, value: Tensor, sign: float) -> None:
        """Add a rounded increment, or take it back."""
        change = self.grid.rounded(value, 2.0**self.grid.fx / self.unit)
        # What is NaN or infinite adds 0 in both passes: the poison says what it was.
        self.poison.add_(value, alpha=0)
        change = torch.nan_to_num(change, 0.0, 0.0, 0.0)
        integer = self.integers[which] + int(sign) * change.to(torch.int64)
        self.integers[which] = integer
        self.left = self.left | (change.abs() >= RANGE) | (integer.abs() >= RANGE)

    def mix(self, move: Mix) -> None:
        """X ← w X + (1 − w) V."""
        (most, bits, sign), which = power_of_two(move.weight), int(move.velocity)
        mine, other = self.integers[which], self.integers[1 - which]
        if most:
            self.remnants.push(mine & ((1 << bits) - 1), most)
        part = sign * (mine >> bits) + other - sign * (other >> bits)
        self.integers[which] = part
        self.left = self.left | (part.abs() >= RANGE)

    def unmix(self, move: Mix) -> None:
        """Undo ``mix``."""
        (most, bits, sign), which = power_of_two(move.weight), int(move.velocity)
        mine, other = self.integers[which], self.integers[1 - which]
        mine = (sign * (mine - other + sign * (other >> bits))) << bits
        self.integers[which] = mine | self.remnants.pop(most) if most else mine

    def finite(self) -> Tensor:
        """Whether the numbers of each sample are finite."""
        return samples(self.poison == 0).all(1)


def power_of_two(weight: Any) -> tuple[int, Any, Any]:
    """The most bits, b and the sign of a weight ±2^−b, or of each entry of a tensor."""
    if isinstance(weight, Tensor) and weight.requires_grad:
        raise ValueError(
            '`gradient="reversible"` cannot learn the weight of a mixing, which is '
            'fixed to a power of two; use "backprop" or "checkpoint"'
        )
    if isinstance(weight, Tensor):
        size, sign = weight.detach().abs().double(), weight.sign().to(torch.int64)
        bits = -exponent(size)
        fine = (size == power(-bits)) & (bits >= 0) & (bits <= BYTE)
        if bool(fine.all()):
            return int(bits.max()) if bits.numel() else 0, bits, sign
    else:
        for b in range(BYTE + 1):
            if abs(weight) == 2.0**-b:
                return b, b, 1 if weight > 0 else -1
    raise ValueError(
        '`gradient="reversible"` mixes by weights ±1, ±1/2, … ±1/256, so that what is '
        f'erased is a whole number of bits, got {weight!r}; use "backprop" or '
        '"checkpoint"'
    )


class Shears(Run):
    """One solve of a plan of shears, where ``keep`` keeps nothing: see ``Run``."""

    def compile(self, x: Tensor) -> Tape:
        """A tape without steps: all that a plan of shears needs is the grid."""
        moves = untimed(self.plan)
        kinds = {type(m).__name__ for m in moves if not isinstance(m, KINDS)}
        if kinds:
            raise ValueError(
                '`gradient="reversible"` runs plans of Shear, Mix and Record, or plans '
                f"without shears; this one has {sorted(kinds)} beside them; use "
                '"backprop" or "checkpoint"'
            )
        for weight in {id(m): m.weight for m in moves if isinstance(m, Mix)}.values():
            power_of_two(weight)
        grid = fixed_point_for(1.0, 1.0, x.dtype, x.device)
        return Tape(Steps(), replace(grid, dtype=torch.int64), 1, 1.0, 0.0)

    def load(self, grid: FixedPoint, x: Tensor, v: Tensor, unit: Tensor) -> Any:
        """The two copies on the grid."""
        return Copies.load(grid, x, v, unit)

    def end(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """The copies at the end."""
        state = Copies.unpacked(self.tape.grid, trace.unit, trace.end)
        return state.position(), state.velocity()

    def size(self, x: Tensor, v: Tensor) -> Tensor:
        """How large the copies are at the start, or the first increment makes them."""
        size = torch.maximum(x.detach().abs(), v.detach().abs()).double()
        if not size.numel():
            return size
        each = size.reshape(-1, size.shape[-1]).amax(0) if size.ndim else size
        # A coordinate that starts from 0 will not stay there, nor will all of them.
        if bool((each >= SMALL * size.max().clamp(min=1)).all()):
            return size
        move = next((m for m in self.plan if isinstance(m, Shear)), None)
        if move is None or self.weights.rigid or self.weights.hidden:
            return size
        generators = RandomStates(x.device)
        with torch.no_grad():
            y = (x if move.velocity else v).detach()
            push = increment(self.weights.replica(), move, y, self.arguments.args)
        generators.undo()
        return torch.maximum(size, torch.nan_to_num(push.double().abs(), 0, 0, 0))

    def attempt(
        self, state: Any, arguments: Sequence[Tensor]
    ) -> tuple[list[Tensor], Trace]:
        """Run the plan from copies on the grid."""
        hashes = fingerprint(*state.integers)
        leaves, known = self.begin(arguments)
        generators = RandomStates(state.poison.device)
        random: dict[int, list[Tensor]] = {}
        outputs: list[Tensor] = []
        with self.undisturbed(self.tracked), ExitStack() as unseen:
            if self.tracked:
                unseen.enter_context(without_saved_tensor_hooks())
            before = contents_of(leaves.args)
            since = node_number() if self.tracked else 0
            for i, move in enumerate(self.plan):
                if isinstance(move, Shear):
                    push, y = self.push(self.weights.field, state, move, leaves)
                    if self.tracked:
                        roots = (y, *self.weights.inner)
                        refuse_untracked(push, "reversal", known, roots, since)
                        self.guard.watch(y)
                    drawn_from = generators.drawn_from()
                    if drawn_from:
                        random[i] = drawn_from
                    state.add(move.velocity, push.detach(), move.sign)
                elif isinstance(move, Mix):
                    state.mix(move)
                elif isinstance(move, Record):
                    outputs += [state.read(0), detached(move.scale) * state.read(1)]
            if self.tracked and contents_of(leaves.args) != before:
                raise RuntimeError(CHANGED)
        return outputs, self.leave(state, hashes, random, arguments)

    def rewind(
        self, trace: Trace, cotangents: Cotangents | None = None
    ) -> tuple[Any, Leaves]:
        """Undo the plan from its end; return the copies, checked against the start."""
        state = Copies.unpacked(self.tape.grid, trace.unit, trace.end)
        alive = state.finite()
        generators = RandomStates(state.poison.device)
        leaves = self.new_leaves(trace.arguments)
        self.weights.make_aliases()
        precision = autocast_again(self.autocast)
        with ExitStack() as stack:
            stack.callback(generators.undo)
            stack.enter_context(self.weights.in_place())
            stack.enter_context(self.undisturbed(self.tracked))
            if self.tracked:
                stack.enter_context(without_saved_tensor_hooks())
            field = self.weights.replica()
            for i in reversed(range(len(self.plan))):
                move = self.plan[i]
                if isinstance(move, Shear):
                    if i in trace.random:
                        generators.restore(trace.random[i])
                    with precision:
                        push, y = self.push(field, state, move, leaves)
                    state.add(move.velocity, push.detach(), -move.sign)
                    if cotangents:
                        self.guard.ours = True
                        cotangents.shear(move, push, y)
                        self.guard.ours = False
                elif isinstance(move, Mix):
                    state.unmix(move)
                    if cotangents:
                        cotangents.mix(move)
                elif isinstance(move, Record) and cotangents:
                    cotangents.record(move, lambda: state.read(1))
        self.compare(trace, state, alive, fingerprint(*state.integers))
        return state, leaves

    def push(
        self, field: Field, state: Copies, move: Shear, leaves: Leaves
    ) -> tuple[Tensor, Tensor]:
        """What a shear adds, and the leaf that its graph hangs on."""
        y = state.read(1 - move.velocity).requires_grad_(self.tracked)
        if leaves.numbers:
            times, weight = leaves.own(move.times), leaves.own(move.weight)
            move = move._replace(times=times, weight=weight)
        return increment(field, move, y, leaves.args), y
