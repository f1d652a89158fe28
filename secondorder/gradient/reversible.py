"""Exact gradients in constant memory: run the plan on the grid, then run it back.

Three ways to differentiate a solve.  Backprop keeps every activation.  The continuous
adjoint keeps nothing and integrates backwards in time another ODE, whose solution is
not the forward one: on ε ẍ + ẋ = f its error grows like e^{T/ε}.  Reversible
differentiation keeps nothing either, but undoes the discrete moves themselves: on the
integer grid every state comes back bit for bit, so the gradient is the one of the
forward pass that was actually run, to rounding.

Kept between the passes: 16 bytes per element of the state, log2(1/γ)/8 bytes per
element and layer (what damping erases), and one random state per force that draws.

Reference: Gomez et al., "The Reversible Residual Network", NeurIPS 2017, for the idea;
Sander et al., ICML 2021, section 3.2, for momentum.
"""

from contextlib import ExitStack

import torch
from torch import Tensor

from ..grid import fingerprint
from ..moves import Damp, Drift, Record, force, shear
from ..system import strangers
from .replay import (
    Aliases,
    Dice,
    ScratchBuffers,
    autocast_again,
    autocast_state,
    modules_of,
    unobserved,
)
from .tape import KICK, RECORD, Integers, compile_tape

UNFAITHFUL = (
    "the states could not be reconstructed: the reversed state is not the one that "
    "the forward pass started from, so no gradient is returned. Either the field gave "
    "another value when it was evaluated again (nondeterministic kernels, random "
    "numbers not drawn from torch's generators, parameters or buffers changed before "
    "the backward pass, spectral_norm in training mode), or the state left the range "
    "of the grid (|x| < 3e7, or 5e5 in float64; pass a larger `scale` for large "
    'states). gradient="backprop" or "checkpoint" work without reconstruction'
)


@torch.compiler.disable
def reversible(plan, field, x, v, args=(), *, scale=1.0, keep=0):
    """Run a plan on the grid; differentiate it by exact reversal.

    Parameters
    ----------
    plan : sequence of moves
    field : callable
        ``field(time, x, *args)``; its parameters are found if it is a module, a
        method of one, or a ``functools.partial`` of these.
    x, v : Tensor
        Position and velocity ``(..., d)``, floating point.
    args : tuple
        Tensors among them receive gradients.
    scale : float, default 1.0
        Typical magnitude of the state; the grid resolves 4e-9 of it (6e-14 in float64).
    keep : int, default 0
        Keep the graphs of the last ``keep`` forces: more memory, fewer recomputed
        forces, the same gradients.

    Returns
    -------
    list of (Tensor, Tensor)
        The recorded states.

    Raises
    ------
    ValueError
        For a damp weight 0, a complex state, or a field that closes over a tensor that
        requires a gradient but is not one of its parameters.
    RuntimeError
        In the backward pass, if the states cannot be reconstructed (a field that is
        not deterministic, weights changed in between, a state beyond the grid).
    """
    return Run(plan, field, args, x, scale, keep).start(x, v)


class Run:
    """One solve on the grid: what its forward and its backward pass share.

    Parameters
    ----------
    plan, field, args, scale, keep
        As in ``reversible``.
    x : Tensor
        The position, for its dtype and device.
    remember : bool
        Keep the integers at the end and what rounding took at the start, for ``undo``.
    """

    def __init__(self, plan, field, args, x, scale=1.0, keep=0, remember=False):
        check_usable(x)
        self.plan, self.field, self.args = plan, field, list(args)
        self.keep, self.remember = keep, remember
        self.tape = compile_tape(plan, x.dtype, x.device, scale)
        self.modules = modules_of(field)
        self.parameters = Aliases(self.modules)
        self.places = [
            i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad
        ]
        self.numbers = list(
            {id(n): n for move in plan for n in differentiable(move)}.values()
        )
        self.inputs = (
            *self.parameters.originals,
            *(args[i] for i in self.places),
            *self.numbers,
        )
        self.tracked = False
        self.kept = {}  # graphs of the last forces, by move
        self.drew = []  # moves whose force drew random numbers

    def start(self, x, v):
        """Run forward, recording for autograd if anything wants a gradient."""
        inputs = (x, v, *self.inputs)
        self.tracked = torch.is_grad_enabled()
        # Nothing known wants a gradient: still tracked, lest a closure does.
        if self.tracked and any(i.requires_grad for i in inputs):
            self.versions = [i._version for i in self.inputs]
            outputs = Reversal.apply(self, *inputs)
        else:
            outputs, _ = self.forward(x, v, [self.args[i] for i in self.places])
        return list(zip(outputs[::2], outputs[1::2], strict=True))

    def stand_in(self, arguments):
        """Replace what wants gradients by leaves of our own."""
        self.leaves = [a.detach().requires_grad_(self.tracked) for a in arguments]
        self.arguments = list(self.args)
        for i, leaf in zip(self.places, self.leaves, strict=True):
            self.arguments[i] = leaf
        own = [n.detach().requires_grad_(self.tracked) for n in self.numbers]
        self.own_numbers = dict(zip(map(id, self.numbers), own, strict=True))
        leaves = (*self.parameters.aliases, *self.leaves, *own)
        self.known = {id(leaf) for leaf in leaves}

    def forward(self, x, v, arguments):
        """Run the tape; return recorded positions and velocities, and what to save."""
        self.stand_in(arguments)
        state = Integers.load(self.tape, x, v)
        begin = fingerprint(state.x, *state.lanes)
        if self.remember:
            grid = self.tape.grid
            self.rounded = (
                x.detach() - grid.position(state.x),
                v.detach() - grid.read(state.lanes[0], 2.0**-grid.fu),
            )
        self.autocast = autocast_state(x.device)
        dice = Dice(x.device)
        rolls, states = dice.states(), []
        last = set(self.last_forces() if self.tracked else ())
        outputs, value, checked = [], None, set()
        with self.quiet():
            for step in self.tape.steps:
                move = self.plan[step.index]
                if step.code == KICK:
                    if step.origin == step.index:
                        graph = self.evaluate(state, step)
                        value = graph[0].detach()
                        if self.tracked:
                            self.refuse_strangers(graph, step, checked)
                        before, (rolls, drew) = rolls, dice.rolled(rolls)
                        if drew:
                            self.drew.append(step.index)
                            states += before
                        if step.index in last:
                            self.kept[step.index] = graph
                    state.kick(step, move, value, 1)
                elif step.code == RECORD:
                    outputs.append(state.position())
                    outputs.append(plain(move.scale) * state.velocity(step.read))
                else:
                    state.move(step, 1)
        self.depths = [len(stack) for stack in state.stacks]
        end = state.pack()
        if self.remember:
            self.end, self.begin, self.states = end, begin, states
        if not self.kept:
            self.leaves = self.arguments = self.own_numbers = None
        return outputs, (begin, *arguments, *states, *end)

    def rewind(self, begin, states, end, adjoint=None):
        """Undo the tape from its end; return the state, checked against the start."""
        state = Integers.unpack(self.tape.grid, self.depths, end)
        finite = state.finite()
        dice = Dice(state.x.device)
        outside, count = dice.states(), len(dice.generators)
        rolls = {
            index: states[i * count : (i + 1) * count]
            for i, index in enumerate(self.drew)
        }
        graph = None
        with ExitStack() as stack:
            stack.callback(dice.restore, outside)
            stack.enter_context(autocast_again(self.autocast))
            stack.enter_context(self.quiet())
            stack.enter_context(ScratchBuffers(self.modules))
            for step in reversed(self.tape.steps):
                if step.code == KICK:
                    if graph is None:
                        graph = self.kept.pop(step.origin, None)
                    if graph is None:
                        if step.origin in rolls:
                            dice.restore(rolls[step.origin])
                        graph = self.evaluate(state, step)
                    state.kick(step, self.plan[step.index], graph[0].detach(), -1)
                    if adjoint:
                        adjoint.kick(self.plan[step.index], graph[0])
                    if step.origin == step.index:
                        if adjoint:
                            adjoint.pull(graph, self.plan[step.index])
                        graph = None
                else:
                    state.move(step, -1)
                    if adjoint and step.index >= 0:
                        adjoint.move(self.plan[step.index], state, step)
        now = fingerprint(state.x, *state.lanes)
        # A state that is not finite reverses to nonsense and needs no alarm: its
        # gradients are NaN, as with backprop.
        if bool(((now != begin).any() & finite).item()):
            raise RuntimeError(UNFAITHFUL)
        return state

    def undo(self, args=None):
        """The ``(x, v)`` that a remembered run started from, bit for bit, detached."""
        self.args = self.args if args is None else list(args)
        self.stand_in([self.args[i] for i in self.places])
        state = self.rewind(self.begin, self.states, self.end)
        with torch.no_grad():
            read = (2.0**-self.tape.grid.fu,)
            x = state.position() + self.rounded[0]
            return x, state.velocity(read) + self.rounded[1]

    def last_forces(self):
        """The moves of the last ``keep`` forces."""
        steps = self.tape.steps
        forces = [s.index for s in steps if s.code == KICK and s.origin == s.index]
        return forces[max(0, len(forces) - self.keep) :] if self.keep else []

    def quiet(self):
        """Context of both passes: own leaves in the modules, no hooks of the caller."""
        stack = ExitStack()
        # Gradient mode also in the forward pass, though its graphs are dropped: without
        # it other kernels run, whose last bits differ.
        stack.enter_context(torch.set_grad_enabled(self.tracked))
        if self.tracked:
            stack.enter_context(self.parameters.in_place())
            stack.enter_context(unobserved())
        return stack

    def evaluate(self, state, step):
        """The force of a kick, followed by the leaves x (and v) of its graph."""
        move = self.plan[step.origin]
        leaves = [state.position()]
        if move.side:
            leaves.append(state.number(state.other(step, move.side), step.read[0]))
        for leaf in leaves:
            leaf.requires_grad_(self.tracked)
        if self.own_numbers:
            move = move._replace(time=self.own(move.time), inner=self.own(move.inner))
        seen = leaves[1] if move.side else None
        return force(self.field, move, leaves[0], seen, self.arguments), *leaves

    def own(self, number):
        """The stand-in of a differentiable number; anything else as it is."""
        return self.own_numbers.get(id(number), number)

    def refuse_strangers(self, graph, step, checked):
        """Raise if a block's force depends on a tensor that would get no gradient."""
        time = self.plan[step.index].time
        block = time if isinstance(time, int) else None
        if block in checked:
            return
        checked.add(block)
        stranger = strangers(graph[0], self.known, graph[1:])
        if stranger is not None:
            raise ValueError(
                f"`field` depends on a tensor of shape {tuple(stranger.shape)} that "
                "requires a gradient but is none of its parameters or arguments, so "
                "reversal would lose that gradient; make it a parameter of the field "
                "(an nn.Module instead of a closure), pass it as an argument, or use "
                'gradient="backprop"'
            )


class Adjoint:
    """Gradients of the loss with respect to the state, and to the plan's numbers."""

    def __init__(self, x, lanes, outputs, dtype):
        self.x = torch.zeros_like(x, dtype=dtype)
        self.lanes = [torch.zeros_like(self.x) for _ in range(lanes)]
        self.outputs = list(outputs)  # (gx, gv) of the records not yet met
        self.numbers = {}
        self.pending = None

    def add(self, number, one, other):
        """Gradient of a number that multiplied ``other``, given that of the product."""
        if isinstance(number, Tensor) and number.requires_grad:
            part = (one * other).sum_to_size(number.shape)
            old = self.numbers.get(id(number))
            self.numbers[id(number)] = part if old is None else old + part

    def kick(self, move, value):
        """Collect what v += w f (and e += ± w f) asks of the force."""
        push = self.lanes[0]
        if move.side:
            push = push + move.side * self.lanes[1]
        self.add(move.weight, push, value.detach())
        part = plain(move.weight) * push
        self.pending = part if self.pending is None else self.pending + part

    def pull(self, graph, move):
        """Pull the pending gradient of a force back to everything it came from."""
        value, *leaves = graph
        pending, self.pending = self.pending, None
        if value.requires_grad:
            torch.autograd.backward(value, pending.to(value.dtype))
        if leaves[0].grad is not None:
            self.x += leaves[0].grad
        if move.side and leaves[1].grad is not None:
            self.lanes[0] += leaves[1].grad
            self.lanes[1] -= move.side * leaves[1].grad

    def move(self, move, state, step):
        """Drift x += w v; damp v *= w; record."""
        if isinstance(move, Drift):
            if wants(move.weight):
                self.add(move.weight, self.x, state.velocity(step.read))
            self.lanes[0] = shear(self.lanes[0], self.x, plain(move.weight))
        elif isinstance(move, Damp):
            lane = step.lane
            if wants(move.weight):
                before = state.velocity(step.read, lane)
                self.add(move.weight, self.lanes[lane], before)
            self.lanes[lane] *= plain(move.weight)
        elif isinstance(move, Record):
            gv, gx = self.outputs.pop(), self.outputs.pop()
            if gx is not None:
                self.x += gx
            if gv is not None:
                if wants(move.scale):
                    self.add(move.scale, gv, state.velocity(step.read))
                self.lanes[0] += plain(move.scale) * gv


class Reversal(torch.autograd.Function):
    """The plan as one node of the graph."""

    @staticmethod
    def forward(ctx, run, x, v, *inputs):
        """Run the plan; save the integers at its end, the arguments and the hash."""
        first = len(run.parameters.originals)
        arguments = inputs[first : first + len(run.places)]
        outputs, saved = run.forward(x, v, arguments)
        ctx.run, ctx.like = run, (x.dtype, v.dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*saved)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *outputs):
        """Rewind the plan, collecting gradients on the way."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                'gradient="reversible" has first derivatives only (`create_graph=True` '
                'was asked for); use gradient="backprop" for higher derivatives'
            )
        run = ctx.run
        check_versions(run)
        begin, *saved = ctx.saved_tensors
        arguments, saved = saved[: len(run.places)], saved[len(run.places) :]
        rolls = len(saved) - 1 - len(run.depths) - sum(run.depths)
        states, end = saved[:rolls], saved[rolls:]
        if not run.kept:
            run.stand_in(arguments)
        like = torch.empty_like(end[0], dtype=ctx.like[0])
        dtype = torch.promote_types(ctx.like[0], torch.float32)
        # Gradients of weights are sums of nearly cancelling parts, to which the weights
        # rounded to float32 would add a bias: the forward pass does not round them.
        dtype = run.tape.grid.wide if run.numbers else dtype
        adjoint = Adjoint(like, len(run.depths), outputs, dtype)
        try:
            run.rewind(begin, states, end, adjoint)
        finally:
            gradients = run.parameters.take_gradients()
        gradients += [leaf.grad for leaf in run.leaves]
        for number in run.numbers:
            parts = adjoint.numbers.get(id(number)), run.own(number).grad
            parts = [p.to(number) for p in parts if p is not None]
            gradients.append(sum(parts[1:], parts[0]) if parts else None)
        if not run.kept:
            run.leaves = run.arguments = run.own_numbers = None
        gx, gv = adjoint.x.to(ctx.like[0]), adjoint.lanes[0].to(ctx.like[1])
        return None, gx, gv, *gradients


def check_usable(x):
    """Raise where the grid cannot work."""
    if x.is_complex():
        raise ValueError(
            '`gradient="reversible"` takes real states; view a complex state as real '
            "with torch.view_as_real"
        )
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            '`gradient="reversible"` cannot run inside torch.func transforms (grad, '
            'vmap, jvp); use gradient="backprop" there'
        )


def check_versions(run):
    """Raise if a parameter, an argument or a weight changed since the forward pass."""
    for tensor, version in zip(run.inputs, run.versions, strict=True):
        if tensor._version != version:
            raise RuntimeError(
                f"a tensor of shape {tuple(tensor.shape)} that the reversible solve "
                "depends on was modified in place between its forward and backward "
                "pass (an optimizer step?); call backward first"
            )


def differentiable(move):
    """The numbers of a move that want gradients."""
    names = ("weight", "time", "inner", "scale")
    return [n for n in (getattr(move, name, None) for name in names) if wants(n)]


def wants(number):
    """Whether a number is a tensor that requires a gradient."""
    return isinstance(number, Tensor) and number.requires_grad


def plain(number):
    """A number without its graph."""
    return number.detach() if isinstance(number, Tensor) else number
