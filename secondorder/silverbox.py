"""A real oscillator from raw record to test error: models of the Silverbox.

    ẍ + c ẋ = f(x, u(t)),    time in samples, c learned

with f = p + b u − k x − k₂ x² − k₃ x³ (six numbers in all, ``white_box``) or with a
small network for what is not linear (``neural``).  Both are simulated freely: the model
sees the input and the first 50 output samples, never the output after.  Both are fitted
by Gauss–Newton, for which the laws, being small, are simulated many at a time.

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

START = 8  # sample at which a simulation starts; derivatives need three on each side


class Polynomial(nn.Module):
    """f = b u + p − k x − k₂ x² − k₃ x³ with ``numbers`` = (p, b, k, k₂, k₃).

    The numbers may have leading axes: laws side by side, for states (laws, batch, 1).
    """

    size = 5

    def __init__(self, numbers):
        super().__init__()
        self.numbers = nn.Parameter(numbers)

    def forward(self, t, x, u):
        """Return the force, the shape of ``x``."""
        p, b, k, k2, k3 = (z[..., None, None] for z in self.numbers.unbind(-1))
        return p + b * u - x * (k + x * (k2 + x * k3))


class Network(nn.Module):
    """f = p + b u − k x + Σ_i a_i tanh(r_i x + s_i u + q_i), several laws as above.

    ``numbers`` = (p, b, k, a, r, s, q), the last four of ``hidden`` entries each.
    """

    hidden = 8  # of 4, 8 and 16 the best on the last fifth of the training part
    size = 3 + 4 * hidden

    def __init__(self, numbers):
        super().__init__()
        self.numbers = nn.Parameter(numbers)

    def forward(self, t, x, u):
        """Return the force, the shape of ``x``."""
        p, b, k = (z[..., None, None] for z in self.numbers[..., :3].unbind(-1))
        a, r, s, q = self.numbers[..., None, 3 : 3 + 4 * self.hidden].chunk(4, -1)
        wave = torch.tanh(r * x + s * u + q)
        return p + b * u - k * x + (a * wave).sum(-1, keepdim=True)


class CubicNetwork(Network):
    """The same − k₃ x³, the last number."""

    size = Network.size + 1

    def forward(self, t, x, u):
        """Return the force, the shape of ``x``."""
        return super().forward(t, x, u) - self.numbers[..., None, None, -1] * x**3


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
        Its field is called ``field(t, x, u)``; of one law, or of several side by side.
    u : Tensor, shape (2n − 1, batch)
        Input at half samples.
    y : Tensor, shape (m, batch), m >= 12
        The first measured outputs, which give the state at sample ``START``.

    Returns
    -------
    Tensor, shape (n − START, batch) or (n − START, laws, batch)
        The simulated output from sample ``START`` on.
    """
    x0 = y[START].unsqueeze(-1)
    v0 = slope(y[START - 3 : START + 4].T)
    laws = system.field.numbers.shape[:-1]
    start = tuple(z.expand(*laws, *z.shape) for z in (x0, v0))
    t = torch.arange(START, (len(u) + 1) // 2, dtype=torch.float64)
    # The steps visit exactly the half samples: read them off, no need to interpolate.
    u = u.unsqueeze(-1).unbind()

    def forcing(t):
        return u[round(2 * t.item())]

    return odeint(system, start, t, step_size=0.5, forcing=forcing).x[..., 0]


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


def training_windows(record, scale, length, count):
    """Evenly spread windows of the training part."""
    last = record.train.stop - length
    starts = torch.linspace(record.train.start, last, count).long()
    return windows(record, starts, length, scale)


def build(law, numbers):
    """The system of a law: ``numbers`` (..., 1 + law.size), the damping first."""
    damping = numbers[..., :1, None] if numbers.ndim > 1 else numbers[0]
    return Newton(law(numbers[..., 1:]), damping=nn.Parameter(damping))


def regress(record, scale, features):
    """Least squares for ÿ + c ẏ = Σ_i w_i feature_i(y, u) by numerical derivatives.

    A first guess: differentiating twice costs accuracy that simulation regains.

    Returns
    -------
    Tensor
        (c, w…).
    """
    u, y = (part[record.train] for part in standardised(record, scale))
    v = slope(y)
    a, v, y, u = slope(v), v[3:-3], y[6:-6], u[6:-6]
    columns = torch.cat((-v.unsqueeze(1), features(y, u)), 1)
    return torch.linalg.lstsq(columns, a.unsqueeze(1)).solution[:, 0]


def polynomial_guess(record, scale):
    """First numbers of the white box."""
    ones = torch.ones_like
    return regress(
        record, scale, lambda y, u: torch.stack((ones(y), u, -y, -(y**2), -(y**3)), 1)
    )


def network_guess(law, record, scale, generator):
    """First numbers of a network: random waves, the rest by linear regression."""
    r, s, q = torch.randn(
        3, law.hidden, generator=generator, dtype=torch.float64
    ) * torch.tensor([[0.7], [0.2], [1.0]])

    def features(y, u):
        waves = torch.tanh(torch.outer(y, r) + torch.outer(u, s) + q)
        plain = torch.stack((torch.ones_like(y), u, -y), 1)
        return torch.cat((plain, waves), 1)

    rest = torch.zeros(law.size - 3 - 4 * law.hidden, dtype=torch.float64)
    return torch.cat((regress(record, scale, features), r, s, q, rest))


def gauss_newton(law, record, guess, length=200, count=64, rounds=40):
    """Fit the numbers of a law by least squares on free simulations of windows.

    The derivative of a simulation with respect to all numbers is one simulation of as
    many laws side by side, each with one number moved a little.

    Parameters
    ----------
    law : type
        ``Polynomial``, ``Network`` or ``CubicNetwork``.
    record : Silverbox
    guess : Tensor, shape (1 + law.size,)
    length, count : int
        Samples in a window, number of windows.
    rounds : int, default 40
        Largest number of Gauss–Newton steps tried.

    Returns
    -------
    Newton
        With the fitted law and damping, for the standardised record.
    """
    u, y = training_windows(record, scales(record), length, count)
    # While the start is forgotten, errors say nothing about the law.
    wanted = y[SILVERBOX_GIVEN:].flatten()

    def outputs(numbers):
        with torch.no_grad():
            x = simulate(build(law, torch.as_tensor(numbers)), u, y)
        return x[SILVERBOX_GIVEN - START :]

    def residual(numbers):
        return (outputs(numbers).flatten() - wanted).numpy()

    def jacobian(numbers):
        shift = 1e-6 * np.maximum(np.abs(numbers), 0.1)
        moved = numbers + np.diag(shift)
        x = outputs(np.concatenate((numbers[None], moved)))  # (n, 1 + numbers, batch)
        change = (x[:, 1:] - x[:, :1]).movedim(1, 2).flatten(0, 1)
        return change.numpy() / shift

    result = least_squares(
        residual, guess.numpy(), jacobian, x_scale="jac", ftol=1e-4, max_nfev=rounds
    )
    return build(law, torch.from_numpy(result.x))


def white_box(record, length=600, **settings):
    """Fit the six numbers of the physics: c and those of ``Polynomial``.

    Few numbers afford long windows.  ``settings`` are those of ``gauss_newton``.
    """
    guess = polynomial_guess(record, scales(record))
    return gauss_newton(Polynomial, record, guess, length, **settings)


def neural(record, cubic=False, generator=None, **settings):
    """Fit a second-order neural ODE with learned damping.

    Parameters
    ----------
    record : Silverbox
    cubic : bool, default False
        Give the network one number more, the coefficient of x³: beyond the training
        amplitudes waves go on as a straight line, the circuit does not.
    generator : torch.Generator, optional
        Draws the first waves.
    **settings
        Those of ``gauss_newton``.

    Returns
    -------
    Newton
    """
    law = CubicNetwork if cubic else Network
    guess = network_guess(law, record, scales(record), generator)
    return gauss_newton(law, record, guess, **settings)


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
