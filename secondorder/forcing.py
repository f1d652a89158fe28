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

from .moves import Drift, Kick, Record
from .system import callable_field, hold


class Steps(nn.Module):
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

    def __init__(self, t, u):
        super().__init__()
        keep_samples(self, t, u, least=1)

    def forward(self, t):
        """Return u(t), as ``Linear`` does."""
        now, i = place(self.t, self.u, t, len(self.u) - 1)
        return settle(entries(self.u, i), self.u, t)


class Linear(nn.Module):
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

    def __init__(self, t, u):
        super().__init__()
        keep_samples(self, t, u, least=2)

    def forward(self, t):
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
        now, i = place(self.t, self.u, t, len(self.u) - 2)
        left, right = entries(self.u, i), entries(self.u, i + 1)
        start = knots(self.t, i)
        s = (now - start) / (knots(self.t, i + 1) - start)
        return settle(left + s * (right - left), self.u, t)


class Cubic(nn.Module):
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

    def __init__(self, t, u):
        super().__init__()
        keep_samples(self, t, u, least=3)

    def forward(self, t):
        """Return u(t), as ``Linear`` does."""
        now, i = place(self.t, self.u, t, len(self.u) - 2)
        left, right = entries(self.u, i), entries(self.u, i + 1)
        start = knots(self.t, i)
        width = knots(self.t, i + 1) - start
        s = (now - start) / width
        r = 1 - s
        value = r * r * (1 + 2 * s) * left + s * s * (1 + 2 * r) * right
        bend = r * self.slope(i) - s * self.slope(i + 1)
        return settle(value + width * s * r * bend, self.u, t)

    def slope(self, i):
        """Slope at knot i of the parabola through it and its neighbours."""
        middle = i.clamp(1, len(self.u) - 2)  # the first parabola serves the end, too
        a, b, c = (knots(self.t, middle + k) for k in (-1, 0, 1))
        ua, ub, uc = (entries(self.u, middle + k) for k in (-1, 0, 1))
        first, second = (ub - ua) / (b - a), (uc - ub) / (c - b)
        bend = (second - first) / (c - a)
        return first + bend * ((knots(self.t, i) - a) + (knots(self.t, i) - b))


def keep_samples(module, t, u, least):
    """Check knots and samples and keep them on a module."""
    for name, value in {"t": t, "u": u}.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"`{name}` must be a floating point tensor, got {got}")
        if not bool(value.detach().isfinite().all()):
            raise ValueError(
                f"`{name}` holds NaN or infinity; leave missing samples out (with "
                "their times)"
            )
    if t.ndim not in (1, 2) or t.shape[-1] < least:
        raise ValueError(
            f"`t` must have shape (n,) or (batch, n) with n >= {least} for "
            f"{type(module).__name__}, got {tuple(t.shape)}"
        )
    if not bool((t.detach().diff(dim=-1) > 0).all()):
        raise ValueError("`t` must be strictly increasing; sort it and drop repeats")
    n, batch = t.shape[-1], t.shape[:-1]
    if u.shape[:1] != (n,) or (batch and u.shape[1:2] != batch):
        want = ", ".join(map(str, (n, *batch)))
        raise ValueError(
            f"`u` must have shape ({want}, ...), time first, for `t` of shape "
            f"{tuple(t.shape)}; got {tuple(u.shape)}"
        )
    hold(module, "t", t)
    hold(module, "u", u)


def place(t, u, time, last):
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
        ends = t[0], t[-1]
        i = torch.searchsorted(marks, now.detach().contiguous(), right=True)
    else:
        now = now.expand(len(t), *now.shape[1:])
        ends = (t[:, k].reshape(-1, *[1] * (axes - 1)) for k in (0, -1))
        rows = now.detach().flatten(1).contiguous()
        i = torch.searchsorted(marks, rows, right=True).reshape(now.shape)
    first, final = ends
    # Not clamp or maximum, which halve the derivative at the ends themselves.
    held = torch.where(now < first, first, torch.where(now > final, final, now))
    return held, (i - 1).clamp(0, last)


def knots(t, i):
    """Times of the knots i."""
    if t.ndim == 1:
        return t[i]
    batch = torch.arange(len(t), device=t.device)
    return t[batch.reshape(-1, *[1] * (i.ndim - 1)), i]


def entries(u, i):
    """Samples at the indices i, which broadcast against one sample."""
    own = u.shape[1:]
    grid = (
        torch.arange(n, device=u.device).reshape(-1, *[1] * (len(own) - 1 - k))
        for k, n in enumerate(own)
    )
    return u[(i, *grid)]


def settle(value, u, time):
    """A value in the shape and dtype that its time asks for."""
    if not isinstance(time, Tensor):
        return value.reshape(u.shape[1:]).to(u.dtype)
    shape = torch.broadcast_shapes(time.shape, u.shape[1:])
    return value.reshape(shape).to(time.dtype)


class Forced(nn.Module):
    """A field driven from outside: ``Forced(f, u)(t, x) = f(t, x, u(t))``.

    Use it where a model wants a field; ``odeint`` does it for its ``forcing``.

    Parameters
    ----------
    field : callable
        ``field(t, x, u, *args)``, or ``field(t, x, v, u, *args)``.
    forcing : callable or object with ``.evaluate(t)``
        ``forcing(t) -> u``.  Its parameters are learned, by every gradient route, if it
        is a module.
    takes_velocity : bool, default False
        Whether the field takes a velocity (for ``Acceleration``).

    Raises
    ------
    TypeError
        If ``forcing`` is no function of time.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> field = so.Forced(lambda t, x, u: u - x, torch.cos)
    >>> field(torch.tensor(0.0), torch.zeros(2))
    tensor([1., 1.])
    """

    def __init__(self, field, forcing, takes_velocity=False):
        super().__init__()
        self.field = callable_field(field)
        # Interpolants of other packages are modules without a forward: ask first.
        evaluate = hasattr(forcing, "evaluate")
        if not evaluate and not callable(forcing):
            raise TypeError(
                "`forcing` must be a function of time, such as "
                "so.forcing.Cubic(t, u) for samples u at times t, got "
                f"{type(forcing).__name__}"
            )
        self.forcing, self.takes_velocity = forcing, takes_velocity
        self.by_name = evaluate

    def forward(self, t, x, *rest):
        """Evaluate the field with u(t) after the state."""
        u = self.forcing.evaluate(t) if self.by_name else self.forcing(t)
        if self.takes_velocity:
            v, *args = rest
            return self.field(t, x, v, u, *args)
        return self.field(t, x, u, *rest)


class Driven(nn.Module):
    """A system with a forcing: the same numbers, another field."""

    def __init__(self, system, forcing):
        super().__init__()
        self.system = system
        self.takes_velocity = getattr(system, "takes_velocity", False)
        self.field = Forced(system.field, forcing, self.takes_velocity)
        self.mass, self.damping = system.mass, system.damping
        self.register_buffer("modes", getattr(system, "modes", None))

    def derivative(self, field, t, state, *args):
        """Time derivative of (x, v), for torchdiffeq."""
        return self.system.derivative(field, t, state, *args)

    def forward(self, t, state, *args):
        """The same with the forced field."""
        return self.derivative(self.field, t, state, *args)


def check_covered(forcing, t):
    """Raise if samples end before the requested times do."""
    if not isinstance(forcing, (Steps, Linear, Cubic)):
        return
    knots, t = forcing.t.detach(), t.detach().to(forcing.t.device)
    eps = max(torch.finfo(t.dtype).eps, torch.finfo(knots.dtype).eps)
    slack = 8 * eps * t.abs().max()
    last = None if isinstance(forcing, Steps) else knots[..., -1]
    early = t.amin(-1) < knots[..., 0] - slack
    late = torch.zeros_like(early) if last is None else t.amax(-1) > last + slack
    if bool((early | late).any()):
        raise ValueError(
            f"`forcing` has samples on [{knots.min():.6g}, {knots.max():.6g}], which "
            f"do not cover the times [{t.min():.6g}, {t.max():.6g}] of `t`; solve on a "
            "shorter interval, or append samples"
        )


def merge(t, breakpoints):
    """Merge breakpoints into the requested times.

    Parameters
    ----------
    t : Tensor
        Requested times ``(n,)``, monotone.
    breakpoints : Tensor or sequence of float
        In any order; those outside the interval of ``t`` do not matter.

    Returns
    -------
    grid : Tensor
        All times in the order of ``t``; gradients flow to both.
    keep : list of int
        Where the requested times are.
    broken : list of bool
        Which times are breakpoints.

    Raises
    ------
    ValueError
        For per-sample times, or breakpoints that are not finite.
    """
    if t.ndim != 1:
        raise ValueError(
            "`breakpoints` need one time grid for all samples; put them into the "
            "per-sample `t` instead"
        )
    points = torch.as_tensor(breakpoints, dtype=t.dtype, device=t.device).reshape(-1)
    if not bool(points.detach().isfinite().all()):
        raise ValueError("`breakpoints` must be finite, got NaN or infinity")
    both, n = torch.cat([t, points]), len(t)
    times = both.detach().tolist()
    low, high = min(times[:n]), max(times[:n])
    slack = 4 * torch.finfo(t.dtype).eps * max(abs(low), abs(high))
    backward = times[n - 1] < times[0]
    chosen, broken = [], []
    for k in sorted(range(len(times)), key=times.__getitem__, reverse=backward):
        if not low - slack <= times[k] <= high + slack:
            continue
        point = k >= n
        twin = chosen and abs(times[k] - times[chosen[-1]]) <= slack
        if twin and (point or chosen[-1] >= n):
            broken[-1] = True
            chosen[-1] = min(k, chosen[-1])  # the requested time stands for both
        else:
            chosen.append(k)
            broken.append(point)
    keep = [i for i, k in enumerate(chosen) if k < n]
    return both[chosen], keep, broken


def one_sided(plan, broken, t):
    """Let the kicks at a breakpoint take the force of their own side.

    A step that opens or closes with a kick evaluates the force at its very ends, where
    the next step may reuse it.  At a jump the two differ.  As the force is known by its
    time alone, a kick's side is told by moving that time by one unit in the last place,
    into its own step.

    Parameters
    ----------
    plan : sequence of moves
        With a ``Record`` at the end of each interval.
    broken : list of bool
        Which ends of the intervals are breakpoints; one more than the records.
    t : Tensor
        These ends, ``(n,)``.

    Returns
    -------
    tuple of moves
    """
    moves, start = list(plan), 0
    ends = [i for i, move in enumerate(moves) if isinstance(move, Record)]
    ahead = (t[-1] - t[0]).detach() * torch.inf
    for k, end in enumerate(ends):
        drifts = [i for i in range(start, end) if isinstance(moves[i], Drift)]
        opening, closing = range(start, drifts[0]), range(drifts[-1] + 1, end)
        for group, at, toward in ((opening, k, ahead), (closing, k + 1, -ahead)):
            kicks = [i for i in group if isinstance(moves[i], Kick)]
            for i in kicks if broken[at] else ():
                time = beside(moves[i].time, toward)
                fresh = i == kicks[0] or moves[i].fresh
                moves[i] = moves[i]._replace(time=time, fresh=fresh)
        start = end + 1
    return tuple(moves)


def inward(times, broken):
    """Step times ``(m,)`` of one interval, with broken ends moved into it."""
    times = list(times)
    if broken[0]:
        times[0] = beside(times[0], times[1])
    if broken[-1]:
        times[-1] = beside(times[-1], times[-2])
    return times


def beside(time, toward):
    """The next floating-point number after a time, with the gradient of the time."""
    now = time.detach()
    return time + (torch.nextafter(now, toward.detach().to(now)) - now)
