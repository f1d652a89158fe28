"""A real oscillator from raw record to test error: models of the Silverbox.

    ẍ + c ẋ = f(x, u(t)),    time in samples, c learned

with f = b (u + u₀) − k x − k₂ x² − k₃ x³ (six numbers in all, ``white_box``) or with a
small network in place of what is not linear (``neural``).  Both are simulated freely:
the model sees the input and the first 50 output samples, never the output after.

Two things decide the error.  The input is a smooth voltage, so it is interpolated by
cubics between samples (holding it costs 13 mV); and a step of half a sample is needed
where a period is nine samples long.
"""

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import nn

from .data import SILVERBOX_GIVEN, rmse_mv
from .forcing import Cubic
from .odeint import odeint
from .system import Newton
from .training import fit

START = 8  # sample at which a simulation starts; derivatives need three on each side


class Polynomial(nn.Module):
    """f = b (u + u₀) − k x − k₂ x² − k₃ x³ with ``numbers`` = (b, b u₀, k, k₂, k₃)."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = nn.Parameter(numbers)

    def forward(self, t, x, u):
        """Return the force, the shape of ``x``."""
        b, offset, k, k2, k3 = self.numbers
        return b * u + offset - x * (k + x * (k2 + x * k3))


class Network(nn.Module):
    """f = A (x, u) + W₂ tanh(W₁ (x, u) + b₁) + b₂ − k₃ x³, the last term optional."""

    def __init__(self, hidden=32, cubic=False):
        super().__init__()
        self.linear = nn.Linear(2, 1, dtype=torch.float64)
        self.hidden = nn.Linear(2, hidden, dtype=torch.float64)
        self.out = nn.Linear(hidden, 1, bias=False, dtype=torch.float64)
        self.k3 = nn.Parameter(torch.zeros((), dtype=torch.float64)) if cubic else None
        nn.init.zeros_(self.out.weight)  # start as the linear oscillator

    def forward(self, t, x, u):
        """Return the force, the shape of ``x``."""
        both = torch.cat((x, u), -1)
        force = self.linear(both) + self.out(torch.tanh(self.hidden(both)))
        return force if self.k3 is None else force - self.k3 * x**3


def half_samples(u):
    """Insert the cubic interpolant between samples: (n,) to (2n − 1,)."""
    n = torch.arange(len(u), dtype=u.dtype)
    return Cubic(n, u)(torch.arange(2 * len(u) - 1, dtype=u.dtype) / 2)


def slope(y):
    """ẏ per sample by the seven-point formula of order 6: (..., n) to (..., n − 6)."""
    n = y.shape[-1] - 6
    one, two, three = (
        y[..., 3 + j : 3 + j + n] - y[..., 3 - j : 3 - j + n] for j in (1, 2, 3)
    )
    return (45 * one - 9 * two + three) / 60


def simulate(system, u, y):
    """Simulate windows freely from their first samples.

    Parameters
    ----------
    system : Newton
        Its field is called ``field(t, x, u)``.
    u : Tensor, shape (2n − 1, batch)
        Input at half samples.
    y : Tensor, shape (m, batch), m >= 12
        The first measured outputs, which give the state at sample ``START``.

    Returns
    -------
    Tensor, shape (n − START, batch)
        The simulated output from sample ``START`` on.
    """
    x0 = y[START].unsqueeze(-1)
    v0 = slope(y[START - 3 : START + 4].T)
    t = torch.arange(START, (len(u) + 1) // 2, dtype=torch.float64)
    # The steps visit exactly the half samples: read them off, no need to interpolate.
    u = u.unsqueeze(-1).unbind()

    def forcing(t):
        return u[round(2 * t.item())]

    return odeint(system, (x0, v0), t, step_size=0.5, forcing=forcing).x[..., 0]


def windows(record, starts, length, scale):
    """Cut windows of the standardised record: u at half samples, and y."""
    u, y = standardised(record, scale)
    fine = half_samples(u)
    index = torch.as_tensor(starts).unsqueeze(0)
    at_half = fine[2 * index + torch.arange(2 * length - 1).unsqueeze(1)]
    return at_half, y[index + torch.arange(length).unsqueeze(1)]


def standardised(record, scale):
    """Input and output in units of their standard deviations on the training part."""
    return record.u / scale[0], record.y / scale[1]


def scales(record):
    """Standard deviations of u and y on the training part."""
    return record.u[record.train].std(), record.y[record.train].std()


def regress(record, scale, powers):
    """Least squares for ÿ = b u + b u₀ − c ẏ − Σ_p k_p yᵖ by numerical derivatives.

    A first guess: differentiating twice costs accuracy that the simulation regains.
    """
    u, y = (part[record.train] for part in standardised(record, scale))
    v = slope(y)
    a, v, u, y = slope(v), v[3:-3], u[6:-6], y[6:-6]
    columns = [u, torch.ones_like(u), -v, *(-(y**p) for p in powers)]
    solution = torch.linalg.lstsq(torch.stack(columns, 1), a.unsqueeze(1)).solution
    return solution[:, 0]


def white_box(record, length=600, count=64):
    """Fit the six numbers by Gauss–Newton on free simulations of training windows.

    Returns
    -------
    Newton
    """
    scale = scales(record)
    b, offset, c, *k = regress(record, scale, (1, 2, 3))
    guess = torch.stack((c, b, offset, *k))
    u, y = training_windows(record, scale, length, count)

    def build(numbers):
        numbers = torch.as_tensor(numbers)
        return Newton(Polynomial(numbers[1:]), damping=nn.Parameter(numbers[0]))

    def residual(numbers):
        with torch.no_grad():
            x = simulate(build(numbers), u, y)
        return (x - y[START:])[SILVERBOX_GIVEN - START :].flatten().numpy()

    size = np.maximum(np.abs(guess.numpy()), 1e-3)
    result = least_squares(residual, guess.numpy(), x_scale=size, ftol=1e-6)
    return build(result.x)


def training_windows(record, scale, length, count):
    """Evenly spread windows of the training part."""
    last = record.train.stop - length
    starts = torch.linspace(record.train.start, last, count).long()
    return windows(record, starts, length, scale)


# Window length and number of updates: short windows find the force, long ones its
# small errors, which accumulate over the memory of some 60 samples.
STAGES = ((24, 300), (56, 300), (136, 500))


def neural(record, train=fit, cubic=False, stages=STAGES, generator=None):
    """Train a second-order neural ODE with learned damping on growing windows.

    Parameters
    ----------
    record : Silverbox
    train : callable, default ``fit``
        ``train(model, loss, steps, lr)``.
    cubic : bool, default False
        Give the network one further number, the coefficient of x³: beyond the training
        amplitudes a tanh network goes on as a straight line, the circuit does not.
    stages : sequence of (int, int)
        Window length in samples and number of updates.
    generator : torch.Generator, optional
        Draws the windows.

    Returns
    -------
    Newton
    """
    scale = scales(record)
    b, offset, c, k = regress(record, scale, (1,))
    law = Network(cubic=cubic)
    with torch.no_grad():
        law.linear.weight.copy_(torch.stack((-k, b)).unsqueeze(0))
        law.linear.bias.copy_(offset.unsqueeze(0))
    system = Newton(law, damping=nn.Parameter(c.clone()))
    for stage, (length, steps) in enumerate(stages):

        def loss(system, length=length):
            last = record.train.stop - record.train.start - length
            starts = torch.randint(last, (256,), generator=generator)
            u, y = windows(record, starts + record.train.start, length, scale)
            return (simulate(system, u, y) - y[START:]).square().mean()

        train(system, loss, steps, 1e-2 / 2**stage)
    return system


def errors(system, record):
    """Simulation RMSE in mV on the official test parts, all in one batch.

    Returns
    -------
    dict of str to float
    """
    scale = scales(record)
    parts = list(record.tests.values())
    longest = max(part.stop - part.start for part in parts)
    u, y = standardised(record, scale)
    # Shorter parts run on into what follows them, which is then not scored.
    fine = half_samples(torch.cat((u, u.new_zeros(longest))))
    index = 2 * torch.tensor([part.start for part in parts])
    fine = fine[index + torch.arange(2 * longest - 1).unsqueeze(1)]
    first = torch.stack([y[part][: 2 * START] for part in parts], 1)
    with torch.no_grad():
        x = simulate(system, fine, first)
    x = torch.cat((first[:START], x)) * scale[1]
    return {
        name: rmse_mv(record.y[part], x[: part.stop - part.start, i])
        for i, (name, part) in enumerate(record.tests.items())
    }
