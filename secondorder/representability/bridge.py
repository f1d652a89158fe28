"""Between the theory and models: their numbers, and witnesses that run.

Duck-typed in both directions: ``of`` reads the attributes of a model, and the classes
of networks are handed in, so that the theory needs none of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from .checks import like, model, square_matrix
from .continuous import Continuous
from .discrete import Discrete
from .first_order import FirstOrder
from .propagator import Matrix, MatrixLike, Propagator, RealArray


def of(network: Any) -> Propagator:
    """Return the propagator with the numbers of a model, as if its field were linear.

    Parameters
    ----------
    network : SecondOrderODE, MomentumNet or alike
        What has ``blocks`` and ``gamma`` is a network of layers; what has ``epsilon``
        (itself, or its ``system``; or ``gamma`` with ``steps``) and ``t1`` is an ODE.
        Its ``velocity`` is the start: None from rest; the block or the field itself
        (or a copy of it) the force; a module c·x, such as that of ``network_of``, c.
        A propagator is returned as it is.

    Returns
    -------
    Continuous, Discrete or FirstOrder
        The ODE is the one that is solved exactly: the method and the number of steps
        are not part of it, but for ``method="momentum"``, whose steps are layers.

    Raises
    ------
    TypeError
        If it has neither set of attributes.
    ValueError
        If its numbers differ between layers or coordinates, or its velocity is none of
        the three starts.

    Examples
    --------
    >>> import secondorder as so, torch
    >>> from secondorder import representability as rep
    >>> block = torch.nn.Linear(2, 2, bias=False)
    >>> rep.of(so.MomentumNet([block] * 6, gamma=0.9))
    Discrete(layers=6, gamma=0.9, rule='euler', start='rest')
    """
    if hasattr(network, "log_threshold") and hasattr(network, "fold"):
        return network
    velocity = getattr(network, "velocity", None)
    if hasattr(network, "blocks") and hasattr(network, "gamma"):
        blocks = list(network.blocks)
        if getattr(network, "rule", "momentum") not in ("momentum", "euler"):
            raise ValueError(
                f"`network` has rule={network.rule!r}, but the theory is written for "
                "v ← γv + (1 − γ)f; divide its θ by 1 − γ and give Discrete(layers, γ)"
            )
        start = _start(velocity, blocks[0])
        return Discrete(len(blocks), _one(network.gamma, "gamma"), start=start)
    if not hasattr(network, "t1"):
        raise TypeError(
            "`network` must have `blocks` and `gamma` (MomentumNet), or `epsilon` and "
            f"`t1` (SecondOrderODE), got {type(network).__name__}; give the numbers to "
            "Continuous(epsilon, horizon) or Discrete(layers, gamma)"
        )
    source: Any = network
    if not hasattr(source, "epsilon"):
        source = getattr(network, "system", None)
    horizon = abs(_one(network.t1, "t1"))
    if not hasattr(source, "epsilon"):
        return FirstOrder(horizon)
    epsilon = _one(source.epsilon, "epsilon")
    start = _start(velocity, getattr(network, "field", None))
    name = getattr(network, "method", None)
    if getattr(name, "name", name) == "momentum":
        layers = int(network.steps)
        if isinstance(start, float):
            start *= horizon / layers
        return Discrete(layers, 1 - horizon / layers / epsilon, start=start)
    return Continuous(epsilon, horizon, start)


def _one(value: Any, name: str) -> float:
    """Return the one number that a tensor holds, a repeated one too."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    numbers = np.unique(np.asarray(value, dtype=float))
    if numbers.size != 1:
        raise ValueError(
            f"`{name}` must be one number for all layers and coordinates, got "
            f"{numbers}; the theory of tied layers has no other case"
        )
    return float(numbers[0])


def _start(velocity: Any, field: Any) -> str | float:
    """Return the start that a velocity amounts to."""
    if velocity is None:
        return "rest"
    if isinstance(velocity, Tensor):
        if not velocity.detach().any():
            return "rest"
    elif velocity is field or _same(velocity, field):
        return "force"
    elif hasattr(velocity, "factor"):
        return _one(velocity.factor, "velocity.factor")
    raise ValueError(
        f"`velocity` must be None, the field itself, or a module with a `factor` c "
        f"(v₀ = c x₀), got {velocity!r}; name the start yourself: start='force'"
    )


def _same(velocity: Any, field: Any) -> bool:
    """Return whether two modules compute the same linear map."""
    first, second = (getattr(f, "weight", None) for f in (velocity, field))
    return (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and first.shape == second.shape
        and torch.equal(first, second)
    )


class Linear(nn.Module):
    """The field θx, called as block(x) or as field(t, x).

    Parameters
    ----------
    weight : array or Tensor, shape (d, d)
    """

    def __init__(self, weight: Any) -> None:
        super().__init__()
        tensor = torch.as_tensor(weight, dtype=torch.float64).detach().clone()
        self.weight = nn.Parameter(tensor)

    def forward(self, *arguments: Tensor) -> Tensor:
        """Return θx for the last argument x (..., d)."""
        return arguments[-1] @ self.weight.T


class Scaled(nn.Module):
    """The first velocity c x.

    Parameters
    ----------
    factor : float
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return c x."""
        return self.factor * x


def network_of(
    theta: MatrixLike, m: Propagator, network: Callable[..., Any], **options: Any
) -> Any:
    """Return a module with the field θx and the numbers of ``m``, float64.

    Parameters
    ----------
    theta : array_like or Tensor, shape (d, d)
    m : Continuous or Discrete
    network : class
        ``so.SecondOrderODE`` for Continuous, ``so.MomentumNet`` for Discrete.
    **options
        Passed to it: ``steps``, ``method``, ``gradient``.

    Returns
    -------
    Module

    Examples
    --------
    >>> import secondorder as so, torch
    >>> from secondorder import representability as rep
    >>> m = rep.Discrete(5, 0.9)
    >>> net = rep.network_of(rep.represent([[-1.0]], m).theta, m, so.MomentumNet)
    >>> round(net(torch.ones(1, 1, dtype=torch.float64)).item(), 9)
    -1.0
    """
    field = Linear(square_matrix(theta, "theta"))
    start = getattr(model(m), "start", "rest")
    velocity: Any = None
    if start == "force":
        velocity = field
    elif isinstance(start, float):
        velocity = Scaled(start)
    if isinstance(m, Discrete):
        blocks = [field] * m.layers
        return network(blocks, gamma=m.gamma, velocity=velocity, **options)
    if not isinstance(m, Continuous):
        raise TypeError(
            f"`m` must be Continuous or Discrete, got {m!r}; FirstOrder has no inertia "
            "and no network here"
        )
    numbers = {"epsilon": m.epsilon, "t1": m.horizon, "velocity": velocity}
    return network(field, **numbers, **options)


def integrate(
    theta: MatrixLike,
    m: Propagator,
    network: Callable[..., Any] | None = None,
    **options: Any,
) -> Matrix:
    """Run θ: integrate the ODE, or run the layers, from every basis vector.

    Shares nothing with the formulas of the response, which it checks.

    Parameters
    ----------
    theta : array_like or Tensor, shape (d, d)
    m : Continuous, Discrete or FirstOrder
    network : class, optional
        ``so.SecondOrderODE`` or ``so.MomentumNet``: run it by that, with ``options``.
        Left out, the ODE is integrated by DOP853 to 1e-12, and layers by a loop.

    Returns
    -------
    array or Tensor, shape (d, d)
        The map x(0) -> x(T).

    Examples
    --------
    >>> from secondorder import representability as rep
    >>> m = rep.Continuous(0.5, start="force")
    >>> theta = rep.represent([[-1.0]], m).theta
    >>> bool(abs(rep.integrate(theta, m)[0, 0] + 1) < 1e-9)
    True
    """
    array, m = square_matrix(theta, "theta"), model(m)
    if network is not None:
        eye = torch.eye(len(array), dtype=torch.float64)
        with torch.no_grad():
            result = network_of(array, m, network, **options)(eye)
        return like(result.T.numpy(), theta)
    return like(_run(array, m), theta)


def _run(theta: RealArray, m: Propagator) -> RealArray:
    """Return x(T) for x(0) = I."""
    d, eye = len(theta), np.eye(len(theta))
    start = getattr(m, "start", "rest")
    v = theta if start == "force" else getattr(m, "start_number", 0.0) * eye
    if isinstance(m, Discrete):
        x = eye
        for _ in range(m.layers):
            v = m.gamma * v + (1 - m.gamma) * theta @ x
            x = x + v
        return x
    if isinstance(m, FirstOrder):

        def slope(t: float, state: RealArray) -> RealArray:
            return (theta @ state.reshape(d, d)).ravel()

        initial, horizon = eye.ravel(), m.horizon
    else:
        epsilon, horizon = getattr(m, "epsilon", 1.0), getattr(m, "horizon", 1.0)

        def slope(t: float, state: RealArray) -> RealArray:
            x, v = state.reshape(2, d, d)
            return np.concatenate([v.ravel(), ((theta @ x - v) / epsilon).ravel()])

        initial = np.concatenate([eye.ravel(), v.ravel()])
    solution = solve_ivp(
        slope, (0.0, horizon), initial, "DOP853", rtol=1e-12, atol=1e-14
    )
    return solution.y[: d * d, -1].reshape(d, d)
