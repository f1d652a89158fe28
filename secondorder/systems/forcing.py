"""Forces from outside: m ẍ + c ẋ = f(t, x, u(t)), with u a function or samples.

    Steps     u(t) = u_i                      on t_i ≤ t < t_{i+1} = t_i + Δ
    Linear    u(t) = u_i + s (u_{i+1} − u_i)  with s = (t − t_i)/Δ
    Cubic     Hermite's cubic through u_i and u_{i+1} with slopes m_i and m_{i+1}

The slope m_i is that of the parabola through a knot and its two neighbours (three-point
finite differences): exact for quadratics, error O(Δ³), and local, so that nothing has
to be solved for and records of any length cost the same per evaluation.

Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.6.
"""

import torch
from torch import Tensor, nn

from .. import checks
from .numbers import register_number


class Samples(nn.Module):
    """Samples u_i at knots t_i, at least so many; what lies between, subclasses say."""

    least: int
    t: Tensor
    u: Tensor

    def __init__(self, t: Tensor, u: Tensor) -> None:
        super().__init__()
        checks.samples(t, u, self.least, type(self).__name__)
        register_number(self, "t", t)
        register_number(self, "u", u)


class Steps(Samples):
    """Piecewise constant samples: u(t) = u_i for t_i ≤ t < t_{i+1}.

    Parameters
    ----------
    t, u : Tensor
        As for ``Linear``.

    Notes
    -----
    A method keeps its order across the jumps if they are ``breakpoints`` of the solve:
    ``odeint(..., forcing=u, breakpoints=u.t)``.  Then the jump times, too, have exact
    gradients.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> u = so.forcing.Steps(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 7.0]))
    >>> u(torch.tensor([0.9, 1.0, 3.0]))
    tensor([5., 7., 7.])
    """

    least = 1

    def forward(self, t: float | Tensor) -> Tensor:
        """Return u(t), as ``Linear`` does."""
        now, i = locate_interval(self.t, self.u, t, len(self.u) - 1)
        return match_time(entries(self.u, i), self.u, t)


class Linear(Samples):
    """Linear interpolation of samples (t_i, u_i).

    Parameters
    ----------
    t : Tensor
        Knots ``(n,)``, strictly increasing, or ``(batch, n)``, one record per sample.
    u : Tensor or nn.Parameter
        Samples ``(n, ...)``, each of a shape that broadcasts against the state:
        ``(n, d)`` for a force that a batch shares, ``(n, batch, d)`` for one each (the
        shape of ``Solution.x``).  A Parameter is learned.

    Raises
    ------
    TypeError, ValueError
        For knots that do not increase, samples that do not fit, or NaN among either.

    Notes
    -----
    Outside the knots the end values are held, so that a solver may look past its last
    time; ``odeint(..., forcing=u)`` raises if the requested times are not covered.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> u = so.forcing.Linear(torch.tensor([0.0, 1.0]), torch.tensor([5.0, 7.0]))
    >>> u(0.5)
    tensor(6.)
    >>> spring = so.Newton(lambda t, x, u: u - x)
    >>> t = torch.linspace(0, 1, 11)
    >>> x, v = so.odeint(spring, (torch.zeros(1), None), t, forcing=u)
    """

    least = 2

    def forward(self, t: float | Tensor) -> Tensor:
        """Return u(t).

        Parameters
        ----------
        t : float or Tensor
            0-d, or any shape that broadcasts against one sample, as the per-sample
            times ``(batch, 1, ..., 1)`` of a solve do.

        Returns
        -------
        Tensor
            The broadcast shape; the dtype of ``t`` if that is a tensor.
        """
        now, i = locate_interval(self.t, self.u, t, len(self.u) - 2)
        left, right = entries(self.u, i), entries(self.u, i + 1)
        start = knots(self.t, i)
        s = (now - start) / (knots(self.t, i + 1) - start)
        return match_time(left + s * (right - left), self.u, t)


class Cubic(Samples):
    """Cubic Hermite interpolation of samples, with three-point slopes; once smooth.

    Parameters
    ----------
    t, u : Tensor
        As for ``Linear``, with n ≥ 3.

    Notes
    -----
    The second derivative jumps at the knots.  Methods of order 2 do not notice; those
    of higher order keep it if steps end at the knots, which ``breakpoints=u.t`` or a
    step that divides the sampling interval sees to.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> t = torch.linspace(0, 2, 5)
    >>> u = so.forcing.Cubic(t, t**2)
    >>> u(torch.tensor([0.1, 1.7]))
    tensor([0.0100, 2.8900])
    """

    least = 3

    def forward(self, t: float | Tensor) -> Tensor:
        """Return u(t), as ``Linear`` does."""
        now, i = locate_interval(self.t, self.u, t, len(self.u) - 2)
        left, right = entries(self.u, i), entries(self.u, i + 1)
        start = knots(self.t, i)
        width = knots(self.t, i + 1) - start
        s = (now - start) / width
        r = 1 - s
        value = r * r * (1 + 2 * s) * left + s * s * (1 + 2 * r) * right
        bend = r * self.slope(i) - s * self.slope(i + 1)
        return match_time(value + width * s * r * bend, self.u, t)

    def slope(self, i: Tensor) -> Tensor:
        """Slope at knot i of the parabola through it and its neighbours."""
        middle = i.clamp(1, len(self.u) - 2)  # the first parabola serves the end, too
        a, b, c = (knots(self.t, middle + k) for k in (-1, 0, 1))
        ua, ub, uc = (entries(self.u, middle + k) for k in (-1, 0, 1))
        first, second = (ub - ua) / (b - a), (uc - ub) / (c - b)
        bend = (second - first) / (c - a)
        return first + bend * ((knots(self.t, i) - a) + (knots(self.t, i) - b))


def locate_interval(
    t: Tensor, u: Tensor, time: float | Tensor, last: int
) -> tuple[Tensor, Tensor]:
    """Times held to the knots, and the interval 0 … ``last`` that each lies in.

    Both have as many dimensions as the value, and at least one: indexing by a 0-d
    tensor would wait for the device.
    """
    time = torch.as_tensor(time, dtype=getattr(time, "dtype", u.dtype), device=u.device)
    wide = torch.promote_types(time.dtype, t.dtype)
    axes = max(1, time.ndim, u.ndim - 1)
    now, t = time.to(wide).reshape(*[1] * (axes - time.ndim), *time.shape), t.to(wide)
    marks = t.detach().contiguous()
    if t.ndim == 1:
        first, final = t[0], t[-1]
        i = torch.searchsorted(marks, now.detach().contiguous(), right=True)
    else:
        now = now.expand(len(t), *now.shape[1:])
        first, final = (t[:, k].reshape(-1, *[1] * (axes - 1)) for k in (0, -1))
        rows = now.detach().flatten(1).contiguous()
        i = torch.searchsorted(marks, rows, right=True).reshape(now.shape)
    # Not clamp or maximum, which halve the derivative at the ends themselves.
    held = torch.where(now < first, first, torch.where(now > final, final, now))
    return held, (i - 1).clamp(0, last)


def knots(t: Tensor, i: Tensor) -> Tensor:
    """Times of the knots i."""
    if t.ndim == 1:
        return t[i]
    batch = torch.arange(len(t), device=t.device)
    return t[batch.reshape(-1, *[1] * (i.ndim - 1)), i]


def entries(u: Tensor, i: Tensor) -> Tensor:
    """Samples at the indices i, which broadcast against one sample."""
    own = u.shape[1:]
    grid = (
        torch.arange(n, device=u.device).reshape(-1, *[1] * (len(own) - 1 - k))
        for k, n in enumerate(own)
    )
    return u[(i, *grid)]


def match_time(value: Tensor, u: Tensor, time: float | Tensor) -> Tensor:
    """A value in the shape and dtype that its time asks for."""
    if not isinstance(time, Tensor):
        return value.reshape(u.shape[1:]).to(u.dtype)
    shape = torch.broadcast_shapes(time.shape, u.shape[1:])
    return value.reshape(shape).to(time.dtype)


def check_covered(forcing: object, t: Tensor) -> None:
    """Raise if samples end before the requested times do."""
    if not isinstance(forcing, Samples) or not t.numel():
        return
    knots, t = forcing.t.detach(), t.detach().to(forcing.t.device)
    eps = max(torch.finfo(t.dtype).eps, torch.finfo(knots.dtype).eps)
    slack = 8 * eps * t.abs().max()
    early = t.amin(-1) < knots[..., 0] - slack
    late = t.amax(-1) > knots[..., -1] + slack
    if isinstance(forcing, Steps):  # the last sample holds for ever
        late = torch.zeros_like(early)
    if bool((early | late).any()):
        raise ValueError(
            f"`forcing` has samples on [{knots.min():.6g}, {knots.max():.6g}], which "
            f"do not cover the times [{t.min():.6g}, {t.max():.6g}] of `t`; solve on a "
            "shorter interval, or append samples"
        )
