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

import functools
import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..plan.moves import Damp, Drift, Kick, Move, Plan, Record, untimed
from .fixed_point import FixedPoint, fixed_point_for, power

KICK, DRIFT, DAMP, RECORD, PUSH, POP, SHIFT = range(7)
BYTE = 8
# A damp that destroys more than 32 bits costs more to remember than a float32 state.
STRONGEST_DAMP = 2.0**-32
SHORT = 2048  # moves; the tapes of such plans are remembered, as objects


class Step(NamedTuple):
    """One instruction: its code, its move's index and the numbers it needs."""

    code: int
    index: int  # type: ignore[assignment]  # tuple.index is not used
    part: int = 0  # 0 for v, 1 for the gap e of velocity copies
    factor: Any = None  # to integer increments; bits for push, pop and shift
    read: tuple[Any, ...] = ()  # factors from the integers of v and e to velocities
    origin: int = -1  # of a kick: the kick that evaluated its force


class Steps:
    """Instructions in columns of numbers: some thirty bytes each, not objects."""

    def __init__(self) -> None:
        self.codes, self.parts = bytearray(), bytearray()
        self.indices, self.origins = array("i"), array("i")
        self.factors = array("d")
        self.others: dict[int, tuple[Any, tuple[Any, ...]]] = {}  # what is no float
        self.objects: list[Step] = []  # of a short tape, made once

    def append(self, step: Step) -> None:
        """Note an instruction."""
        factor = step.factor
        single = factor[0] if isinstance(factor, tuple) and len(factor) == 1 else factor
        plain = isinstance(single, float | int) and not step.read
        if not plain:
            self.others[len(self.codes)] = factor, step.read
        self.codes.append(step.code)
        self.parts.append(step.part)
        self.indices.append(step.index)
        self.origins.append(step.origin)
        self.factors.append(single if plain else 0.0)

    def at(self, n: int) -> Step:
        """The instruction n."""
        code, factor, read = self.codes[n], self.factors[n], ()
        whole: Any = (factor,) if code == KICK else factor
        if n in self.others:
            whole, read = self.others[n]
        elif code in (PUSH, POP, SHIFT):
            whole = int(factor)
        return Step(code, self.indices[n], self.parts[n], whole, read, self.origins[n])

    def __len__(self) -> int:
        """How many there are."""
        return len(self.codes)

    def __iter__(self) -> Iterator[Step]:
        """In the order of the forward pass."""
        return iter(self.short() or map(self.at, range(len(self))))

    def __reversed__(self) -> Iterator[Step]:
        """In the order of the way back."""
        short = self.short()
        return reversed(short) if short else map(self.at, reversed(range(len(self))))

    def short(self) -> list[Step]:
        """The instructions as objects, if they are few."""
        if not self.objects and len(self) <= 2 * SHORT:
            self.objects = [self.at(n) for n in range(len(self))]
        return self.objects


class Tape(NamedTuple):
    """A compiled plan.

    Attributes
    ----------
    steps : Steps
    grid : FixedPoint
    parts : int
        1 for v, 2 for v and the gap e.
    reach : float
        max |∂x_N/∂v_n|: how far a velocity carries.
    push : float
        Largest weight of the first force.
    """

    steps: Steps
    grid: FixedPoint
    parts: int
    reach: float
    push: float


def compile_tape(plan: Plan, dtype: torch.dtype, device: torch.device) -> Tape:
    """Compile a plan for states of a dtype and device.

    Raises
    ------
    ValueError
        If a damp weight is 0 or so small that its bits outweigh a stored state.
    """
    moves = untimed(plan)
    if len(moves) > SHORT or any(isinstance(n, Tensor) for m in moves for n in m):
        return new_tape(plan, dtype, device)
    # Moves of two kinds are equal as tuples, so the kinds are part of the key.
    return remembered_tape(tuple(moves), tuple(map(type, moves)), dtype, device)


@functools.lru_cache(maxsize=8)
def remembered_tape(
    moves: tuple[Move, ...], kinds: Any, dtype: torch.dtype, device: torch.device
) -> Tape:
    """The tape of a plan without tensors, which nothing changes: compiled once."""
    return new_tape(moves, dtype, device)


def new_tape(plan: Plan, dtype: torch.dtype, device: torch.device) -> Tape:
    """Compile a plan, whether or not it was compiled before."""
    weights = host_weights(plan)
    copies = (isinstance(m, Kick) and m.velocity_copy != 0 for m in untimed(plan))
    parts = 1 + any(copies)
    weights, units = changes_of_units(plan, weights)
    reach, readout = position_sensitivity(plan, weights)
    grid = fixed_point_for(reach, readout, dtype, device)
    fx, fu = 2.0**grid.fx, 2.0**grid.fu
    s: list[Any] = [1.0] * parts
    depth: list[list[Any]] = [[] for _ in range(parts)]
    steps, origin = Steps(), -1

    def reads(c: Any) -> tuple[Any, ...]:
        return tuple(on(scale * c / fu, device) for scale in s)

    def learns(c: Any, weight: Any) -> tuple[Any, ...]:
        # The velocity is looked at for the gradient of a weight.
        return reads(c) if isinstance(weight, Tensor) and weight.requires_grad else ()

    c: Any = 1.0
    for i, (move, w) in enumerate(zip(untimed(plan), weights, strict=True)):
        before, c = c, units.get(i, c)
        if isinstance(move, Kick):
            origin = i if move.fresh else origin
            factor = tuple(on(w / scale * fu, device) for scale in s)
            read = reads(c) if move.velocity_copy else ()
            steps.append(Step(KICK, i, 0, factor, read, origin))
        elif isinstance(move, Drift):
            factor = on(w * s[0] * (fx / fu), device)
            steps.append(Step(DRIFT, i, 0, factor, learns(c, move.weight)[:1]))
        elif isinstance(move, Record):
            steps.append(Step(RECORD, i, 0, None, reads(c)[:1]))
        elif isinstance(move, Damp):
            check_damp(w)
            for part in range(move.gap_only, parts):
                steps.append(Step(DAMP, i, part, 0.0, learns(before, move.weight)))
                s[part] = rebalance(s[part] * w, depth[part], steps, part, device)
    kicks = (
        w for m, w in zip(untimed(plan), weights, strict=True) if isinstance(m, Kick)
    )
    push = largest(next(kicks, 0.0))
    return Tape(steps, grid, parts, reach, push)


def rebalance(
    s: Any, depth: list[Any], steps: Steps, part: int, device: torch.device
) -> Any:
    """Bring the scale back to [2^-8, 1]; append the byte moves that this takes."""
    while largest(s) > 1:
        # One byte holds the bits of all coordinates, so it comes back only when all
        # of them have room; otherwise zeros are as good, they only cost range.
        if depth and smallest(s) > 1:
            code, bits = POP, depth.pop()
        else:
            code, bits = SHIFT, bits_above_one(s)
        s = s / power(bits)
        steps.append(Step(code, -1, part, on(bits, device)))
    while smallest(s) < 2.0**-BYTE:
        bits = bits_below_one(s)
        depth.append(bits)
        s = s * power(bits)
        steps.append(Step(PUSH, -1, part, on(bits, device)))
    return s


def bits_below_one(s: Any) -> Any:
    """Bits, at most a byte, by which |s| may grow without passing 1."""
    if not isinstance(s, Tensor):
        return BYTE
    return (-s.abs().log2()).floor().clamp(0, BYTE).to(torch.int64)


def bits_above_one(s: Any) -> Any:
    """Bits by which |s| must shrink to be at most 1."""
    if not isinstance(s, Tensor):
        return BYTE
    return s.abs().log2().ceil().clamp(0, BYTE).to(torch.int64)


def on(value: Any, device: torch.device) -> Any:
    """Move a tensor to a device, leave a number alone."""
    return value.to(device) if isinstance(value, Tensor) else value


def smallest(s: Any) -> float:
    """Least magnitude of a scale; 1, which asks for nothing, in an empty batch."""
    if isinstance(s, Tensor):
        return s.abs().min().item() if s.numel() else 1.0
    return abs(s)


def largest(s: Any) -> float:
    """Greatest magnitude of a scale; 1 in an empty batch."""
    if isinstance(s, Tensor):
        return s.abs().max().item() if s.numel() else 1.0
    return abs(s)


def check_damp(w: Any) -> None:
    """Refuse damps whose bits outweigh a stored state."""
    weakest = smallest(w)
    if not weakest >= STRONGEST_DAMP:
        raise ValueError(
            f'`gradient="reversible"` cannot keep what a damp of {weakest:.3g} per '
            "move erases (γ = 0 erases the velocity; below 2^-32 storing the state is "
            'cheaper); use gradient="checkpoint"'
        )


def host_weights(plan: Plan) -> list[Any]:
    """The weight of every move as float, or as float64 CPU tensor per coordinate."""
    weights = [m.scale if isinstance(m, Record) else m.weight for m in untimed(plan)]
    tensors = {id(w): w.detach() for w in weights if isinstance(w, Tensor)}
    scalars = {k: w for k, w in tensors.items() if w.numel() == 1}
    values = {k: w.double().cpu() for k, w in tensors.items() if k not in scalars}
    if scalars:  # one transfer, not one per weight
        numbers = torch.stack([w.double().reshape(()) for w in scalars.values()])
        values |= dict(zip(scalars, numbers.tolist(), strict=True))
    return [values[id(w)] if isinstance(w, Tensor) else float(w) for w in weights]


def changes_of_units(
    plan: Plan, weights: Sequence[Any]
) -> tuple[list[Any], dict[int, Any]]:
    """The weights with p = m v measured in powers of two next to m.

    Masses are a matter of units: so measured, p is of the size of v, however light or
    heavy things are, and the change between the two is a factor between 1/2 and 1.

    Returns
    -------
    weights : list
        Of the plan in which the velocity slot holds v/c.
    units : dict of int to number
        c from that move on.
    """
    found, units = [], {}
    c: Any = 1.0
    for i, (move, w) in enumerate(zip(untimed(plan), weights, strict=True)):
        if isinstance(move, Kick):
            w = w / c
        elif isinstance(move, Drift | Record):
            w = w * c
        elif isinstance(move, Damp) and move.units:
            size = (
                torch.as_tensor(w, dtype=torch.float64, device="cpu")
                .abs()
                .log2()
                .ceil()
            )
            power_of_two = torch.exp2(size.clamp(-900, 900))
            near = power_of_two if isinstance(w, Tensor) else power_of_two.item()
            units[i] = c = c * near
            w = w / near
        found.append(w)
    return found, units


def position_sensitivity(plan: Plan, weights: Sequence[Any]) -> tuple[float, float]:
    """``(max |∂x_N/∂v_n|, max readout)`` of a plan with frozen forces."""
    ahead: Any = 0.0
    farthest, readout = 0.0, 1.0
    for move, w in zip(reversed(untimed(plan)), reversed(weights), strict=True):
        if isinstance(move, Drift):
            ahead = ahead + w
        elif isinstance(move, Damp) and not move.gap_only:
            ahead = ahead * w
        elif isinstance(move, Record):
            readout = max(readout, largest(w))
        farthest = max(farthest, largest(ahead))
    if not math.isfinite(farthest):
        raise ValueError(
            "the weights of the plan are not finite; check `epsilon`, `gamma` and `t`"
        )
    return farthest, readout
