"""What cannot be right raises, and the message names the argument.

One line per mistake: the call, the kind of error, and what its message must name.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

import secondorder as so
from secondorder import representability as rep
from secondorder.plan import Damp, Drift, Kick, Record

x, v = torch.ones(3, 2), torch.zeros(3, 2)
t = torch.linspace(0.0, 1.0, 5)
system = so.SecondOrder(lambda t, x: -x)
push = so.Newton(lambda t, x: -x)
block = nn.Linear(2, 2)
nan = float("nan")


def solve(*args, **options):
    """``odeint`` of the usual problem, but for what a line says."""
    given = dict(enumerate(args))
    start = (given.get(0, system), given.get(1, (x, v)), given.get(2, t))
    return so.odeint(*start, **options)


def net(**options):
    return so.MomentumNet(**{"blocks": [block] * 2, **options})


def model(**options):
    return so.SecondOrderODE(so.Autonomous(block), **options)


def event(**options):
    given = {"event_fn": lambda t, x, v: x[0, 0], "step_size": 0.1, **options}
    return so.odeint_event(system, (x, v), given.pop("t0", 0.0), **given)


# (what to do, error, what its message names)
BAD = {
    # systems
    "SecondOrder field": (lambda: so.SecondOrder(3), TypeError, "`field`"),
    "epsilon zero": (lambda: so.SecondOrder(block, 0.0), ValueError, "`epsilon`"),
    "epsilon nan": (lambda: so.SecondOrder(block, nan), ValueError, "`epsilon`"),
    "epsilon text": (
        lambda: so.SecondOrder(block, "1"),
        (TypeError, ValueError), "`epsilon`"),
    "epsilon integers": (
        lambda: so.SecondOrder(block, torch.tensor([1, 2])), TypeError, "`epsilon`"),
    "epsilon one coordinate too many": (
        lambda: solve(so.SecondOrder(lambda t, x: -x, torch.ones(3)), (x, v)),
        ValueError, "`epsilon`"),
    "gamma one coordinate too many": (
        lambda: net(gamma=torch.full((3,), 0.9))(x), ValueError, "`gamma`"),
    "gamma that widens the state": (
        lambda: net(gamma=torch.full((4, 3, 2), 0.9))(x), ValueError, "`gamma`"),
    "damping matrix of another size": (
        lambda: solve(so.Newton(lambda t, x: -x, damping=torch.eye(5))),
        ValueError, "`damping`"),
    "mass that widens the state": (
        lambda: solve(so.Newton(lambda t, x: -x, mass=torch.ones(4, 3, 2))),
        ValueError, "`mass`"),
    "ODE epsilon one coordinate too many": (
        lambda: model(epsilon=torch.ones(5))(x), ValueError, "`epsilon`"),
    "mass negative": (lambda: so.Newton(block, mass=-1.0), ValueError, "`mass`"),
    "mass infinite": (lambda: so.Newton(block, mass=math.inf), ValueError, "`mass`"),
    "damping negative": (
        lambda: so.Newton(block, damping=-1e-3),
        ValueError, "`damping`"),
    "mass matrix not symmetric": (
        lambda: solve(so.Newton(lambda t, x: -x, mass=torch.eye(2).cumsum(1))),
        ValueError, "`mass`"),
    "stiffness text": (
        lambda: so.Newton(block, stiffness="2"), TypeError, "`stiffness`"),
    "stiffness nan": (lambda: so.Newton(block, stiffness=nan), ValueError, "finite"),
    "compile text": (lambda: solve(compile="yes"), TypeError, "`compile`"),
    "compile of a model": (lambda: model(compile=1), TypeError, "`compile`"),
    "Acceleration damping": (
        lambda: so.Acceleration(lambda t, x, v: -x, damping=nan),
        ValueError, "`damping`"),
    "Autonomous": (lambda: so.Autonomous(1.0), TypeError, "module|function"),
    "Potential": (lambda: so.Potential(2.0), TypeError, "`energy`"),
    "Potential constant": (
        lambda: so.Potential(lambda x: torch.ones(3))(t, x), ValueError, "`energy`"),
    "Positive": (lambda: so.Positive(-1.0), ValueError, "`value`"),
    "gamma beyond": (lambda: so.epsilon_from_gamma(1.5, 0.1), ValueError, "`gamma`"),
    "rule": (
        lambda: so.gamma_from_epsilon(1.0, 0.1, rule="eulr"), ValueError, "`rule`"),
    "step": (lambda: so.gamma_from_epsilon(1.0, -0.1), ValueError, "`step`"),
    # odeint
    "state no pair": (
        lambda: solve(system, x),
        (TypeError, ValueError), "x0|state|pair"),
    "state of three": (
        lambda: solve(system, (x, v, v)), (TypeError, ValueError), "x0|state|pair"),
    "state integers": (
        lambda: solve(system, (x.long(), None)), TypeError, "`x0`|`x`"),
    "velocity of another shape": (
        lambda: solve(system, (x, v[:2])), ValueError, "`v0`|velocity"),
    "velocity of another dtype": (
        lambda: solve(system, (x, v.double())), (TypeError, ValueError), "`v0`|dtype"),
    "times repeat": (
        lambda: solve(system, (x, v), [0.0, 0.0, 1.0]), ValueError, "`t`"),
    "times turn": (lambda: solve(system, (x, v), [0.0, 2.0, 1.0]), ValueError, "`t`"),
    "times nan": (lambda: solve(system, (x, v), [0.0, nan]), ValueError, "`t`"),
    "times integers": (
        lambda: solve(system, (x, v), torch.arange(3)), TypeError, "`t`"),
    "times of another batch": (
        lambda: solve(system, (x, v), torch.rand(2, 4).cumsum(1)), ValueError, "`t`"),
    "no times": (lambda: solve(system, (x, v), []), ValueError, "`t`"),
    "method": (lambda: solve(method="verlett"), ValueError, "method|verlet"),
    "gradient": (lambda: solve(gradient="bakcprop"), ValueError, "gradient"),
    "step_size zero": (lambda: solve(step_size=0.0), ValueError, "`step_size`"),
    "step_size nan": (lambda: solve(step_size=nan), ValueError, "`step_size`"),
    "step_size of adaptive": (
        lambda: solve(method="rkn6", step_size=0.1), ValueError, "step_size"),
    "step_size text": (lambda: solve(step_size="0.1"), TypeError, "`step_size`"),
    "first_step text": (
        lambda: solve(method="rkn8", first_step="1"), TypeError, "`first_step`"),
    "max_step zero": (
        lambda: solve(method="rkn8", max_step=0.0), ValueError, "`max_step`"),
    "rtol of fixed": (lambda: solve(method="verlet", rtol=1e-5), ValueError, "rtol"),
    "rtol negative": (
        lambda: solve(method="adaptive", rtol=-1.0), ValueError, "`rtol`"),
    "too strong damping": (
        lambda: solve(so.SecondOrder(lambda t, x: -x, 1e-6), method="blanes_moan4"),
        ValueError, "damping|h/ε|h·c/m"),
    "momentum too strong": (
        lambda: solve(so.SecondOrder(lambda t, x: -x, 0.01), method="momentum"),
        ValueError, "damping|h/ε|h·c/m|γ"),
    "field of another shape": (
        lambda: solve(so.SecondOrder(lambda t, x: x[..., :1])), ValueError, "field"),
    "field returns no tensor": (
        lambda: solve(so.SecondOrder(lambda t, x: 1.0)),
        (TypeError, ValueError), "field"),
    "wrong kind for the method": (
        lambda: solve(method="velocity_doubling"), ValueError, "Acceleration"),
    "adjoint of a splitting": (
        lambda: solve(gradient="adjoint"), ValueError, "adjoint"),
    "keep": (lambda: so.reversible(keep=-1), ValueError, "`keep`"),
    "segments": (lambda: so.checkpoint(segments=0), ValueError, "`segments`"),
    "unknown option": (lambda: so.reversible(kep=1), (TypeError, ValueError), "kep"),
    "breakpoints nan": (lambda: solve(breakpoints=[nan]), ValueError, "`breakpoints`"),
    # events
    "event_fn": (lambda: event(event_fn=3), TypeError, "`event_fn`"),
    "event t0": (lambda: event(t0=nan), ValueError, "`t0`"),
    # networks
    "no blocks": (lambda: net(blocks=[]), ValueError, "`blocks`"),
    "blocks no functions": (lambda: net(blocks=[1]), TypeError, "`blocks`|block"),
    "net gamma": (lambda: net(gamma=1.0), ValueError, "`gamma`"),
    "net gammas": (lambda: net(gamma=[0.9] * 5), ValueError, "`gamma`"),
    "net gamma zero": (lambda: net(gamma=0.0)(x), ValueError, "γ|`gamma`"),
    "net rule": (lambda: net(rule="nesterov"), ValueError, "`rule`"),
    "net gradient": (lambda: net(gradient="adjoint"), ValueError, "gradient"),
    "net memory": (lambda: net(memory="lots"), (TypeError, ValueError), "`memory`"),
    "net keep and memory": (
        lambda: net(keep=1, memory="1MB"), ValueError, "`keep`|`memory`"),
    "net input": (lambda: net()(x.long()), (TypeError, ValueError), "`x0?`"),
    "net velocity": (
        lambda: net()(x, velocity=v[:1, :1, None]), ValueError, "velocity"),
    "block of another shape": (
        lambda: net(blocks=[nn.Linear(2, 3)])(x), (RuntimeError, ValueError), "shape"),
    "model steps": (lambda: model(steps=0), ValueError, "`steps`"),
    "model t1": (lambda: model(t1=0.0), ValueError, "`t1`"),
    "model epsilon and gamma": (
        lambda: model(epsilon=0.5, gamma=0.9), ValueError, "`gamma`"),
    "model gamma": (lambda: model(gamma=-0.1), ValueError, "`gamma`"),
    # plans
    "plan gradient": (
        lambda: so.backprop((Kick(1.0, 0.0), Drift(1.0), Damp(0.5)), 3, x, v),
        TypeError, "field|callable"),
    "log_determinant": (
        lambda: so.plan.log_determinant((Damp(0.5), Record()), dimension=0),
        ValueError, "`dimension`"),
    # training
    "fit steps": (
        lambda: so.fit(model(), lambda m: m(x).sum(), 0, 0.1), ValueError, "`steps`"),
    "fit lr": (
        lambda: so.fit(model(), lambda m: m(x).sum(), 2, -0.1), ValueError, "`?lr`?"),
    "fit loss": (
        lambda: so.fit(model(), lambda m: m(x), 2, 0.1, False), ValueError, "loss"),
    # data
    "samples": (lambda: so.data.cubic(0), ValueError, "`samples`|`n`"),
    "kind": (lambda: so.data.oscillator("pendelum", t), ValueError, "`kind`"),
    "rings": (lambda: so.data.nested_rings(10, 0), ValueError, "`rings`"),
    # representability
    "D not square": (
        lambda: rep.represent(np.ones((2, 3)), rep.Continuous(1.0)), ValueError, "`D`"),
    "D nan": (
        lambda: rep.is_representable([[nan]], rep.FirstOrder()), ValueError, "`D`"),
    "D complex": (
        lambda: rep.loss_floor(1j * np.eye(2), rep.FirstOrder()),
        (TypeError, ValueError), "`D`"),
    "model of a map": (
        lambda: rep.represent(np.eye(2), "continuous"), TypeError, "`m`"),
    "Continuous epsilon": (lambda: rep.Continuous(0.0), ValueError, "`epsilon`"),
    "Continuous horizon": (lambda: rep.Continuous(1.0, -1.0), ValueError, "`horizon`"),
    "Continuous start": (
        lambda: rep.Continuous(1.0, start="rset"), ValueError, "`start`"),
    "Discrete layers": (lambda: rep.Discrete(0, 0.9), ValueError, "`layers`"),
    "Discrete gamma": (lambda: rep.Discrete(3, 1.0), ValueError, "`gamma`"),
    "covariance": (
        lambda: rep.loss_floor(np.eye(2), rep.FirstOrder(), covariance=-np.eye(2)),
        ValueError, "`covariance`"),
    # pictures
    "trajectories": (
        lambda: so.plot.trajectories(t, torch.ones(4, 2)), ValueError, "`x`|`t`"),
    "portrait": (
        lambda: so.plot.phase_portrait(x, v[:2]), ValueError, "`v`|`x`"),
    "xlim": (
        lambda: so.plot.vector_field(push, (1, -1), (-1, 1)), ValueError, "`xlim`"),
    "axes of a plane": (
        lambda: so.plot.plane(torch.ones(5, 2), axes=(0, 7)), ValueError, "`axes`"),
}  # fmt: skip


def test_there_are_enough():
    assert len(BAD) >= 60


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_named(case):
    call, kind, named = BAD[case]
    with pytest.raises(kind, match=named) as caught:
        call()
    assert len(str(caught.value)) > 20, "say what is allowed, or what to do"
