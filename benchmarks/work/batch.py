"""A batch of mixed stiffness: 255 slow pendulums and a fast one.

    x'' = −ω² sin x     from rest, to t = 2

An evaluation is one of all samples at once.  Reference: Jacobi's elliptic functions.
"""

from functools import partial

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipj

import secondorder as so

from .rough import own, remarked, torchs
from .smooth import DIFFRAX

D = torch.float64
END = 2.0
OMEGA = np.append(np.random.default_rng(2).uniform(0.5, 2, 255), 30.0)
ANGLE = np.random.default_rng(3).uniform(0.5, 1.5, 256)


def cases():
    """Name, and a function of the reference and the contestants (``smooth.cases``)."""
    yield "batch of 256, ω=.5…2 and 30", lambda: (swung(), contestants())


def swung():
    """By sin(x/2) = k cd(ω t, k)."""
    k = np.sin(ANGLE / 2)
    sn, cn, dn, _ = ellipj(OMEGA * END, k**2)
    x = 2 * np.arcsin(k * cn / dn)
    v = -2 * k * OMEGA * (1 - k**2) * sn / dn**2 / np.cos(x / 2)
    return np.concatenate([x, v / OMEGA])


def contestants():
    """Steps for each sample, and one for all."""
    square = torch.tensor(OMEGA[:, None] ** 2)
    system = so.Newton(lambda t, x: -square * x.sin())
    start = torch.tensor(ANGLE[:, None]), None

    def solve(per_sample, **how):
        sol = so.odeint(system, start, [0.0, END], per_sample=per_sample, **how)
        y = torch.cat([sol.x[-1, :, 0], sol.v[-1, :, 0] / torch.tensor(OMEGA)])
        return y.numpy(), sol.stats.evaluations

    names = ("adaptive", "adaptive6", "rkn8")
    table = remarked(own(partial(solve, True), names, END), "each its own")
    table |= remarked(own(partial(solve, False), names, END), "together")
    one = partial(solve, False)
    table |= own(one, ("blanes_moan4", "blanes_moan6"), END)
    table |= torchs(("dopri5", "dopri8"), own(one, ("dopri5", "dopri8"), END))
    table["scipy DOP853"] = (scipy_batch, False)
    if importable("torchode"):
        for name in ("Dopri5", "Tsit5"):
            table[f"torchode {name}"] = (torchode_batch(name), False)
    if DIFFRAX:
        for name in ("Tsit5", "Dopri8"):
            table[f"diffrax {name}, vmapped"] = (diffrax_batch(name), False)
    return table


def importable(name):
    try:
        __import__(name)
    except ImportError:
        print(f"{name} is not installed, its rows are left out")
        return False
    return True


def scipy_batch(setting):
    slope = lambda t, y: np.concatenate([y[256:], -(OMEGA**2) * np.sin(y[:256])])  # noqa: E731
    start = np.append(ANGLE, np.zeros(256))
    how = {"method": "DOP853", "rtol": setting, "atol": setting}
    sol = solve_ivp(slope, (0, END), start, **how)
    return np.append(sol.y[:256, -1], sol.y[256:, -1] / OMEGA), sol.nfev


def torchode_batch(name):
    import torchode

    square = torch.tensor(OMEGA**2)

    def slope(t, y):
        return torch.stack([y[:, 1], -square * y[:, 0].sin()], -1)

    term = torchode.ODETerm(slope)
    start = torch.stack([torch.tensor(ANGLE), torch.zeros(256, dtype=D)], -1)
    t = torch.tensor([[0.0, END]], dtype=D).repeat(256, 1)

    def run(setting):
        method = getattr(torchode, name)(term=term)
        control = torchode.PIDController(
            atol=setting, rtol=setting, pcoeff=0.2, icoeff=0.5, dcoeff=0.0, term=term
        )
        adjoint = torchode.AutoDiffAdjoint(method, control)
        with torch.no_grad():
            sol = adjoint.solve(torchode.InitialValueProblem(y0=start, t_eval=t))
        y = sol.ys[:, -1]
        found = torch.cat([y[:, 0], y[:, 1] / torch.tensor(OMEGA)]).numpy()
        return found, int(sol.stats["n_f_evals"].max())

    return run


def diffrax_batch(name):
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    solver = getattr(diffrax, name)()
    term = diffrax.ODETerm(lambda t, y, w: jnp.stack([y[1], -w * w * jnp.sin(y[0])]))

    def one(y, w, tolerance):
        sol = diffrax.diffeqsolve(
            term, solver, 0.0, END, None, y, w, max_steps=2**14,
            saveat=diffrax.SaveAt(t1=True),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )  # fmt: skip
        return sol.ys[0], sol.stats["num_steps"]

    every = jax.jit(jax.vmap(one, (0, 0, None)))
    start = jnp.stack([jnp.array(ANGLE), jnp.zeros(256)], -1)
    stages = solver.tableau.num_stages - solver.tableau.fsal

    def run(setting):
        y, steps = every(start, jnp.array(OMEGA), setting)
        found = np.concatenate([y[:, 0], y[:, 1] / OMEGA])
        return found, int(steps.max()) * stages + 2

    return run
