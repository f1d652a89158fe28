"""A state on the grid: integers that a tape moves, there and back.

    kick    U ± round(w f · factor)      drift   X ± round(U · factor)
    push    the low byte of U goes to the stack;  pop  it comes back

Integers in float64 that grow beyond 53 bits only lose exactness, which the fingerprint
tells.  Integers in int64 would wrap, so there every sum is watched.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fixed_point import FixedPoint, cast, constant, power, samples
from .tape import DRIFT, POP, PUSH, SHIFT, Step

RANGE = 2.0**61  # of int64: the sum of two such numbers does not wrap
NAN = torch.iinfo(torch.int64).min  # stands for NaN among integers


class Packed(NamedTuple):
    """A state on the grid as data: the integers, and the bytes pushed out of them."""

    x: Tensor
    velocities: list[Tensor]
    stacks: list[list[Tensor]]


class Integers:
    """A state on the grid: X, U (and one for the gap e), and their byte stacks.

    Parameters
    ----------
    grid : FixedPoint
    unit : Tensor
        q, 0-d or of the shape of the state.
    state : Packed
        The integers and the bytes; they are changed in place.
    poison : Tensor or None
        In int64, which knows no NaN: 0 where all forces were finite, NaN elsewhere.

    Attributes
    ----------
    left : Tensor or None
        In int64, which wraps: where a number left the range so far.
    """

    def __init__(
        self, grid: FixedPoint, unit: Tensor, state: Packed, poison: Tensor | None
    ) -> None:
        self.grid, self.poison = grid, poison
        self.x, self.velocities, self.stacks = state
        self.unit = factor_of(unit)
        self.left: Tensor | None = None
        self.scratch: Tensor | None = None
        if poison is not None:
            self.left = torch.zeros_like(poison, dtype=torch.bool)
        narrow = torch.promote_types(grid.like, torch.float32)
        factor: Any = 2.0**-grid.fx * self.unit
        self.to_position = constant(factor, narrow).to(narrow)

    @classmethod
    def load(
        cls, grid: FixedPoint, parts: int, x: Tensor, v: Tensor, unit: Tensor
    ) -> "Integers":
        """Round a state to a grid, with v alone or with v and the gap e as parts."""
        q = factor_of(unit)
        poison = 0 * (x + v).detach() if grid.dtype == torch.int64 else None
        velocities = [grid.load(v, 2.0**grid.fu / q)]
        velocities += [torch.zeros_like(velocities[0]) for _ in range(parts - 1)]
        stacks: list[list[Tensor]] = [[] for _ in velocities]
        state = Packed(grid.load(x, 2.0**grid.fx / q), velocities, stacks)
        return cls(grid, unit, state, poison)

    def packed(self) -> Packed:
        """The state as data; a poisoned position becomes the number ``NAN``."""
        x = self.x
        if self.poison is not None:
            x = torch.where(self.poison == 0, x, NAN)
        return Packed(x, list(self.velocities), [list(s) for s in self.stacks])

    @classmethod
    def unpacked(cls, grid: FixedPoint, unit: Tensor, end: Packed) -> "Integers":
        """Rebuild from ``packed``; tensors are copied, since undoing overwrites."""
        x, velocities = end.x.clone(), [u.clone() for u in end.velocities]
        poison = None
        if grid.dtype == torch.int64:
            poison = torch.where(x == NAN, torch.nan, 0.0).to(grid.like)
        own = Packed(x, velocities, [list(s) for s in end.stacks])
        return cls(grid, unit, own, poison)

    def finite(self) -> Tensor:
        """Whether the numbers of each sample are finite (no synchronisation)."""
        if self.poison is not None:
            return samples(self.poison == 0).all(1)
        fine = [samples(n.isfinite()).all(1) for n in (self.x, self.velocities[0])]
        return fine[0] & fine[1]

    def position(self) -> Tensor:
        """The position x in the state's dtype."""
        return self.poisoned(self.grid.position(self.x, self.to_position))

    def velocity(self, read: Sequence[Any], part: int = 0) -> Tensor:
        """The velocity (or the gap, part 1) in the state's dtype."""
        return self.number(self.velocities[part], read[part])

    def number(self, integer: Tensor, factor: Any) -> Tensor:
        """``q · integer · factor`` in the state's dtype, NaN where poisoned."""
        return self.poisoned(self.grid.read(integer, factor * self.unit))

    def poisoned(self, value: Tensor) -> Tensor:
        """The value, NaN where poisoned."""
        return value if self.poison is None else value.add_(self.poison)

    def add(self, integers: Tensor, value: Tensor, factor: Any, sign: int) -> None:
        """Add ``round(value · factor)``, watching the range of int64."""
        if self.left is None:
            # One scratch tensor serves every move: new ones cost as much as the sums.
            if self.scratch is None:
                self.scratch = torch.empty_like(integers)
            change = self.scratch
            factor = constant(factor, change.dtype)
            if value.dtype is change.dtype:
                torch.mul(value, factor, out=change).round_()
            else:
                change.copy_(value).mul_(factor).round_()
            integers.add_(change) if sign > 0 else integers.sub_(change)
            return
        change = self.grid.rounded(value, factor)
        # The increment of a force that is NaN or infinite is 0 in both passes: the
        # poison says what it was.
        change = torch.nan_to_num(change, 0.0, 0.0, 0.0)
        integers.add_(cast(change, torch.int64), alpha=sign)
        self.watch(integers, change)

    def watch_shift(self, integer: Tensor, bits: Any) -> None:
        """The same before bits come in from below."""
        if self.left is not None:
            self.watch(integer * power(bits))

    def watch(self, *numbers: Tensor) -> None:
        """Note whether any of these is so large that a sum of two could wrap."""
        if self.left is not None:
            for number in numbers:
                self.left = self.left | (number.abs() >= RANGE)

    def other(self, step: Step, copy: int) -> Tensor:
        """The velocity v ∓ e that a kick of the copy v ± e sees, as integer."""
        v, e = self.velocities
        ratio = step.read[1] / step.read[0]
        return v - copy * cast(self.grid.rounded(e, ratio), self.grid.dtype)

    def kick(self, step: Step, copy: int, value: Tensor, sign: int) -> None:
        """Add or take back a force."""
        if not copy:
            self.add(self.velocities[0], value, step.factor[0] / self.unit, sign)
        else:
            # Three shears instead of v += k, e ±= k: what the kick saw must be the
            # same integer after it, or the way back would see other bits.
            seen = self.other(step, copy)
            factor = step.factor[1] / self.unit
            self.add(self.velocities[1], value, factor, sign * copy)
            self.velocities[0] = seen
            self.velocities[0] = self.other(step, -copy)
            self.watch(seen, self.velocities[0])
        if self.poison is not None:
            self.poison.add_(value, alpha=0)  # 0 · inf and 0 · NaN are NaN

    def move(self, step: Step, sign: int) -> None:
        """Do (+1) or undo (−1) a move that needs no force."""
        code, part, grid = step.code, step.part, self.grid
        u, stack = self.velocities[part], self.stacks[part]
        if code == DRIFT:
            self.add(self.x, self.velocities[0], step.factor, sign)
        elif code == (PUSH if sign > 0 else POP):
            self.velocities[part], low = grid.split(u, step.factor)
            stack.append(low)
        elif code == (POP if sign > 0 else PUSH):
            self.watch_shift(u, step.factor)
            self.velocities[part] = grid.join(u, stack.pop(), step.factor)
        elif code == SHIFT and sign > 0:
            self.watch_shift(u, step.factor)
            self.velocities[part] = grid.join(u, None, step.factor)
        elif code == SHIFT:  # what came in were zeros
            self.velocities[part] = grid.split(u, step.factor)[0]


def factor_of(unit: Tensor) -> Any:
    """A unit as a float, or as a tensor; of exponents, as a trace keeps them, too."""
    if unit.ndim == 0:
        return unit.item()
    return power(unit) if unit.dtype == torch.int16 else unit
