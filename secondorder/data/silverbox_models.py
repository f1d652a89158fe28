"""A real oscillator from raw record to test error: models of the Silverbox.

    ẍ + c ẋ = f(x, u(t)),    time in samples, c learned

with f = p + b u − k x − k₂ x² − k₃ x³ (six numbers in all, ``white_box``) or with a
small network for what is not linear (``neural``).  Both are simulated freely: the model
sees the input and the first 50 output samples, never the output after.  Both are fitted
by Gauss–Newton.

Two things decide the error.  The input is a smooth voltage, so it is interpolated by
cubics between samples (holding it costs 13 mV); and a step of half a sample is needed
where a period is nine samples long.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import torch
from torch import Generator, Tensor, nn

from ..odeint import odeint
from ..systems import Newton
from ..systems.forcing import Cubic
from ..training import GaussNewton, fit
from .silverbox import SILVERBOX_GIVEN, Silverbox, rmse_mv

Scale: TypeAlias = tuple[Tensor, Tensor]  # the units of input and output
START = 8  # sample at which a simulation starts; derivatives need three on each side


class Force(nn.Module):
    """A law f(x, u) given by ``size`` numbers."""

    size: int

    def __init__(self, numbers: Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers)

    def prior(self) -> Tensor:
        """Residuals that say which numbers are likely: none."""
        return self.numbers[:0]


class Polynomial(Force):
    """f = b u + p − k x − k₂ x² − k₃ x³ with ``numbers`` = (p, b, k, k₂, k₃)."""

    size = 5

    def forward(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Return the force, the shape of ``x``."""
        p, b, k, k2, k3 = self.numbers.unbind()
        return p + b * u - x * (k + x * (k2 + x * k3))


class Network(Force):
    """f = p + b u − k x + Σ_i a_i tanh(r_i x + s_i u + q_i).

    ``numbers`` = (p, b, k, a, r, s, q), the last four of ``hidden`` entries each.
    """

    # Both chosen on the last fifth of the training part: the best size of 4, 8 and 16,
    # and the stronger prior of 0.1 and 0.5 that costs less than a hundredth there.
    hidden = 8
    ridge = 0.1
    size = 3 + 4 * hidden

    def prior(self) -> Tensor:
        """Small waves: large ones that cancel go on as they like beyond the data."""
        return self.ridge * self.numbers[3 : 3 + self.hidden]

    def forward(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Return the force, the shape of ``x``."""
        p, b, k = self.numbers[:3].unbind()
        a, r, s, q = self.numbers[3 : 3 + 4 * self.hidden].chunk(4)
        wave = torch.tanh(r * x + s * u + q)
        return p + b * u - k * x + (a * wave).sum(-1, keepdim=True)


class CubicNetwork(Network):
    """The same − k₃ x³, the last number."""

    size = Network.size + 1

    def forward(self, t: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Return the force, the shape of ``x``."""
        return super().forward(t, x, u) - self.numbers[-1] * x**3


def half_samples(u: Tensor) -> Tensor:
    """Insert the cubic interpolant between samples: (n,) to (2n − 1,)."""
    n = torch.arange(len(u), dtype=u.dtype)
    return Cubic(n, u)(torch.arange(2 * len(u) - 1, dtype=u.dtype) / 2)


def slope(y: Tensor) -> Tensor:
    """ẏ per sample by the seven-point formula of order 6: (..., n) to (..., n − 6)."""
    n = y.shape[-1] - 6
    one, two, three = (
        y[..., 3 + j : 3 + j + n] - y[..., 3 - j : 3 - j + n] for j in (1, 2, 3)
    )
    return (45 * one - 9 * two + three) / 60


def simulate(system: Newton, u: Tensor, y: Tensor) -> Tensor:
    """Simulate windows freely from their first samples.

    Parameters
    ----------
    system : Newton
        Its field is a ``Force``.
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
    at_half = u.unsqueeze(-1).unbind()

    def forcing(t: Tensor) -> Tensor:
        return at_half[round(2 * t.item())]

    return odeint(system, (x0, v0), t, step_size=0.5, forcing=forcing).x[..., 0]


def windows(
    record: Silverbox, starts: Sequence[int] | Tensor, length: int, scale: Scale
) -> tuple[Tensor, Tensor]:
    """Cut windows of the standardised record: u at half samples, and y."""
    u, y = standardised(record, scale)
    fine = half_samples(u)
    index = torch.as_tensor(starts).unsqueeze(0)
    at_half = fine[2 * index + torch.arange(2 * length - 1).unsqueeze(1)]
    return at_half, y[index + torch.arange(length).unsqueeze(1)]


def standardised(record: Silverbox, scale: Scale) -> tuple[Tensor, Tensor]:
    """Input and output in units of their standard deviations on the training part."""
    return record.u / scale[0], record.y / scale[1]


def scales(record: Silverbox) -> Scale:
    """Standard deviations of u and y on the training part."""
    return record.u[record.train].std(), record.y[record.train].std()


def training_windows(
    record: Silverbox, scale: Scale, length: int, count: int
) -> tuple[Tensor, Tensor]:
    """Evenly spread windows of the training part."""
    last = record.train.stop - length
    starts = torch.linspace(record.train.start, last, count).long()
    return windows(record, starts, length, scale)


def build(law: type[Force], numbers: Tensor) -> Newton:
    """The system of a law: ``numbers`` (1 + law.size,), the damping first."""
    return Newton(law(numbers[1:].clone()), damping=nn.Parameter(numbers[0].clone()))


def regress(
    record: Silverbox, scale: Scale, features: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
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


def polynomial_guess(record: Silverbox, scale: Scale) -> Tensor:
    """First numbers of the white box."""
    ones = torch.ones_like
    return regress(
        record, scale, lambda y, u: torch.stack((ones(y), u, -y, -(y**2), -(y**3)), 1)
    )


def network_guess(
    law: type[Network], record: Silverbox, scale: Scale, generator: Generator | None
) -> Tensor:
    """First numbers of a network: random waves, the rest by linear regression."""
    r, s, q = torch.randn(
        3, law.hidden, generator=generator, dtype=torch.float64
    ) * torch.tensor([[0.7], [0.2], [1.0]])

    def features(y: Tensor, u: Tensor) -> Tensor:
        waves = torch.tanh(torch.outer(y, r) + torch.outer(u, s) + q)
        linear = torch.stack((torch.ones_like(y), u, -y), 1)
        cubic = -(y**3).unsqueeze(1)[:, : law.size - 3 - 4 * law.hidden]
        return torch.cat((linear, waves, cubic), 1)

    found = regress(record, scale, features)
    return torch.cat((found[: 4 + law.hidden], r, s, q, found[4 + law.hidden :]))


def simulated(
    law: type[Force],
    record: Silverbox,
    guess: Tensor,
    length: int = 200,
    count: int = 64,
    rounds: int = 40,
) -> Newton:
    """Fit the numbers of a law by least squares on free simulations of windows.

    Parameters
    ----------
    law : type
        ``Polynomial``, ``Network`` or ``CubicNetwork``.
    record : Silverbox
    guess : Tensor, shape (1 + law.size,)
    length, count : int
        Samples in a window, number of windows.
    rounds : int, default 40
        Largest number of Gauss–Newton steps.

    Returns
    -------
    Newton
        With the fitted law and damping, for the standardised record.
    """
    u, y = training_windows(record, scales(record), length, count)
    system = build(law, guess)

    def residuals(system: Newton) -> Tensor:
        # While the start is forgotten, errors say nothing about the law.
        x = simulate(system, u, y)[SILVERBOX_GIVEN - START :]
        error = (x - y[SILVERBOX_GIVEN:]).flatten()
        return torch.cat((error, cast(Force, system.field).prior()))

    method = GaussNewton(tolerance=1e-4)
    fit(system, residuals, rounds, progress=False, optimizer=method)
    return system


def white_box(record: Silverbox, length: int = 600, **settings: int) -> Newton:
    """Fit the six numbers of the physics: c and those of ``Polynomial``.

    Few numbers afford long windows.  ``settings`` are those of ``simulated``.
    """
    guess = polynomial_guess(record, scales(record))
    return simulated(Polynomial, record, guess, length, **settings)


def neural(
    record: Silverbox,
    cubic: bool = False,
    generator: Generator | None = None,
    **settings: int,
) -> Newton:
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
        Those of ``simulated``.

    Returns
    -------
    Newton
    """
    law = CubicNetwork if cubic else Network
    guess = network_guess(law, record, scales(record), generator)
    return simulated(law, record, guess, **settings)


def errors(system: Newton, record: Silverbox) -> dict[str, float]:
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
