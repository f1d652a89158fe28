"""A plan compiled for the grid: what to add to which integers, and when to move bits.

The damp weights are known before the run, so is the scale s of the velocity at every
move.  A tape holds, move by move, the factors that turn forces and velocities into
integer increments, and the places where the scale has shrunk by a byte:

    push    the low byte of U goes to the stack, s grows by 2^8   (|s| < 2^-8)
    pop     it comes back, s shrinks                              (|s| > 1)
    shift   the stack is empty: zeros come in                     (|s| > 1)

The tape depends on the weights alone, never on the state.  Bytes per element after N
layers of a Momentum ResNet: N·log2(1/γ)/8, the entropy that damping destroys.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..grid import Grid, grid_for, power
from ..moves import Damp, Drift, Kick, Record

KICK, DRIFT, DAMP, RECORD, PUSH, POP, SHIFT = range(7)
BYTE = 8
# A damp that destroys more than 32 bits costs more to remember than a float32 state.
STRONGEST_DAMP = 2.0**-32
NAN = torch.iinfo(torch.int64).min  # stands for NaN among integers


class Step(NamedTuple):
    """One instruction: its code, its move's index and the numbers it needs."""

    code: int
    index: int
    lane: int = 0
    factor: object = None  # to integer increments; bits for push, pop and shift
    read: tuple = ()  # factors from the integers of the lanes to velocities
    origin: int = -1  # of a kick: the kick that evaluated its force


class Tape(NamedTuple):
    """Instructions, the grid they run on and the number of velocity lanes."""

    steps: list
    grid: Grid
    lanes: int


def compile_tape(plan, dtype, device, scale=1.0):
    """Compile a plan for states of a dtype and device.

    Raises
    ------
    ValueError
        If a damp weight is 0 or so small that its bits outweigh a stored state.
    """
    weights = host_weights(plan)
    lanes = 1 + any(isinstance(m, Kick) and m.side for m in plan)
    grid = grid_for(*coast(plan, weights), dtype, device, scale)
    fx, fu = 2.0**grid.fx, 2.0**grid.fu
    s, depth = [1.0] * lanes, [[] for _ in range(lanes)]
    steps, origin = [], -1

    def reads():
        return tuple(on(scale / fu, device) for scale in s)

    for i, (move, w) in enumerate(zip(plan, weights, strict=True)):
        if isinstance(move, Kick):
            origin = i if move.fresh else origin
            factor = tuple(on(w / scale * fu, device) for scale in s)
            read = reads() if move.side else ()
            steps.append(Step(KICK, i, 0, factor, read, origin))
        elif isinstance(move, Drift):
            factor = on(w * s[0] * (fx / fu), device)
            steps.append(Step(DRIFT, i, 0, factor, reads()[:1]))
        elif isinstance(move, Record):
            steps.append(Step(RECORD, i, 0, None, reads()[:1]))
        else:
            check_damp(w)
            touched = range(lanes) if move.lane is None else [move.lane]
            for lane in touched:
                if lane < lanes:
                    steps.append(Step(DAMP, i, lane, None, reads()))
                    s[lane] = s[lane] * w
                    s[lane] = rebalance(s[lane], depth[lane], steps, lane, device)
    return Tape(steps, grid, lanes)


class Integers:
    """A state on the grid: X, one U per velocity lane, and their byte stacks.

    Parameters
    ----------
    grid : Grid
    x : Tensor
        Integer positions.
    lanes, stacks : list
        Integer velocities and, for each, a list of byte tensors.
    poison : Tensor or None
        In int64, which knows no NaN: 0 where all forces were finite, NaN elsewhere.
    """

    def __init__(self, grid, x, lanes, stacks, poison=None):
        self.grid, self.x, self.lanes, self.stacks = grid, x, lanes, stacks
        self.poison = poison

    @classmethod
    def load(cls, tape, x, v):
        """Round a state to the grid of a tape."""
        grid = tape.grid
        lanes = [grid.load(v, grid.fu)]
        lanes += [torch.zeros_like(lanes[0]) for _ in range(tape.lanes - 1)]
        poison = 0 * (x + v).detach() if grid.dtype == torch.int64 else None
        return cls(grid, grid.load(x, grid.fx), lanes, [[] for _ in lanes], poison)

    def pack(self):
        """All tensors in one list; a poisoned position becomes the number ``NAN``."""
        x = self.x
        if self.poison is not None:
            x = torch.where(self.poison == 0, x, NAN)
        return [x, *self.lanes, *(byte for stack in self.stacks for byte in stack)]

    @classmethod
    def unpack(cls, grid, depths, tensors):
        """Rebuild from ``pack``; the tensors are copied, since undoing overwrites."""
        x, *rest = (n.clone() for n in tensors[: 1 + len(depths)])
        bytes_, stacks = list(tensors[1 + len(depths) :]), []
        for depth in depths:
            stacks.append(bytes_[:depth])
            bytes_ = bytes_[depth:]
        poison = None
        if grid.dtype == torch.int64:
            poison = torch.where(x == NAN, torch.nan, 0.0).to(grid.like)
        return cls(grid, x, rest, stacks, poison)

    def finite(self):
        """Whether all numbers are finite, as 0-d tensor (no synchronisation)."""
        if self.poison is not None:
            return (self.poison == 0).all()
        return self.x.isfinite().all() & self.lanes[0].isfinite().all()

    def position(self):
        """The position x in the state's dtype."""
        return self.poisoned(self.grid.position(self.x))

    def velocity(self, read, lane=0):
        """The velocity of a lane in the state's dtype."""
        return self.number(self.lanes[lane], read[lane])

    def number(self, integer, factor):
        """``integer · factor`` in the state's dtype, NaN where poisoned."""
        return self.poisoned(self.grid.read(integer, factor))

    def poisoned(self, value):
        """The value, NaN where poisoned."""
        return value if self.poison is None else value.add_(self.poison)

    def other(self, step, side):
        """The velocity v − side·e that a sided kick sees, as integer."""
        v, e = self.lanes
        ratio = step.read[1] / step.read[0]
        return v - side * self.grid.increment(e, ratio)

    def kick(self, step, move, value, sign):
        """Add or take back a force."""
        push = self.grid.increment
        if not move.side:
            self.lanes[0].add_(push(value, step.factor[0]), alpha=sign)
        else:
            # Three shears instead of v += k, e += side·k: what the kick saw must be
            # the same integer after it, or the way back would see other bits.
            seen = self.other(step, move.side)
            self.lanes[1].add_(push(value, step.factor[1]), alpha=sign * move.side)
            self.lanes[0] = seen
            self.lanes[0] = self.other(step, -move.side)
        if self.poison is not None and sign > 0:
            self.poison.add_(value, alpha=0)  # 0 · inf and 0 · NaN are NaN

    def move(self, step, sign):
        """Do (+1) or undo (−1) a move that needs no force."""
        code, lane, grid = step.code, step.lane, self.grid
        if code == DRIFT:
            self.x.add_(grid.increment(self.lanes[0], step.factor), alpha=sign)
        elif code == (PUSH if sign > 0 else POP):
            self.lanes[lane], low = grid.split(self.lanes[lane], step.factor)
            self.stacks[lane].append(low)
        elif code == (POP if sign > 0 else PUSH):
            low = self.stacks[lane].pop()
            self.lanes[lane] = grid.join(self.lanes[lane], low, step.factor)
        elif code == SHIFT and sign > 0:
            self.lanes[lane] = grid.join(self.lanes[lane], None, step.factor)
        elif code == SHIFT:  # what came in were zeros
            self.lanes[lane] = grid.split(self.lanes[lane], step.factor)[0]


def rebalance(s, depth, steps, lane, device):
    """Bring the scale back to [2^-8, 1]; append the byte moves that this takes."""
    while largest(s) > 1:
        # One byte holds the bits of all coordinates, so it comes back only when all
        # of them have room; otherwise zeros are as good, they only cost range.
        if depth and smallest(s) > 1:
            code, bits = POP, depth.pop()
        else:
            code, bits = SHIFT, bits_above_one(s)
        s = s / power(bits)
        steps.append(Step(code, -1, lane, on(bits, device)))
    while smallest(s) < 2.0**-BYTE:
        bits = bits_below_one(s)
        depth.append(bits)
        s = s * power(bits)
        steps.append(Step(PUSH, -1, lane, on(bits, device)))
    return s


def bits_below_one(s):
    """Bits, at most a byte, by which |s| may grow without passing 1."""
    if not isinstance(s, Tensor):
        return BYTE
    return (-s.abs().log2()).floor().clamp(0, BYTE).to(torch.int64)


def bits_above_one(s):
    """Bits by which |s| must shrink to be at most 1."""
    if not isinstance(s, Tensor):
        return BYTE
    return s.abs().log2().ceil().clamp(0, BYTE).to(torch.int64)


def on(value, device):
    """Move a tensor to a device, leave a number alone."""
    return value.to(device) if isinstance(value, Tensor) else value


def smallest(s):
    """Least magnitude of a scale; 1, which asks for nothing, in an empty batch."""
    if isinstance(s, Tensor):
        return s.abs().min().item() if s.numel() else 1.0
    return abs(s)


def largest(s):
    """Greatest magnitude of a scale; 1 in an empty batch."""
    if isinstance(s, Tensor):
        return s.abs().max().item() if s.numel() else 1.0
    return abs(s)


def check_damp(w):
    """Refuse damps whose bits outweigh a stored state."""
    weakest = smallest(w)
    if not weakest >= STRONGEST_DAMP:
        raise ValueError(
            f'`gradient="reversible"` cannot keep what a damp of {weakest:.3g} per '
            "move erases (γ = 0 erases the velocity; below 2^-32 storing the state is "
            'cheaper); use gradient="checkpoint"'
        )


def host_weights(plan):
    """The weight of every move as float, or as float64 CPU tensor per coordinate."""
    weights = [m.scale if isinstance(m, Record) else m.weight for m in plan]
    tensors = {id(w): w.detach() for w in weights if isinstance(w, Tensor)}
    scalars = {k: w for k, w in tensors.items() if w.numel() == 1}
    values = {k: w.double().cpu() for k, w in tensors.items() if k not in scalars}
    if scalars:  # one transfer, not one per weight
        numbers = torch.stack([w.double().reshape(()) for w in scalars.values()])
        values |= dict(zip(scalars, numbers.tolist(), strict=True))
    return [values[id(w)] if isinstance(w, Tensor) else float(w) for w in weights]


def coast(plan, weights):
    """``(max |∂x_N/∂v_n|, max readout)`` of a plan with frozen forces."""
    ahead, farthest, readout = 0.0, 0.0, 1.0
    for move, w in zip(reversed(plan), reversed(weights), strict=True):
        if isinstance(move, Drift):
            ahead = ahead + w
        elif isinstance(move, Damp) and move.lane != 1:
            ahead = ahead * w
        elif isinstance(move, Record):
            readout = max(readout, largest(w))
        farthest = max(farthest, largest(ahead))
    if not math.isfinite(farthest):
        raise ValueError(
            "the weights of the plan are not finite; check `epsilon`, `gamma` and `t`"
        )
    return farthest, readout
