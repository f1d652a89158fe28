"""Every check of user input, in one voice, and the numbers that come out of them.

A check returns the value in the form the library works with, or raises ``TypeError`` or
``ValueError`` with the argument in backticks, the value received, the values allowed
and what to do.  This is the lowest level: whatever is checked, is checked here, once.
"""

import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Number = float | Tensor
OURS = (__name__.partition(".")[0], "torch", "torchdiffeq", "functools", "contextlib")
NO_SLOPE = (
    "`event_fn` does not depend on the state or the time through autograd; compute it "
    "with torch operations, or solve under torch.no_grad()"
)


def describe(value: object) -> str:
    """A short text for a number or tensor in messages."""
    if not isinstance(value, Tensor):
        return f"{value!r}"
    if value.numel() == 1:
        return f"{value.item():.6g}"
    if value.numel() == 0:
        return f"tensor{tuple(value.shape)}"
    low, high = value.detach().min().item(), value.detach().max().item()
    return f"tensor{tuple(value.shape)} in [{low:.6g}, {high:.6g}]"


def caller() -> int:
    """How far up a warning has to point, to the first line that is not ours."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in OURS:
            break
        frame, level = frame.f_back, level + 1
    return level


def as_float(value: Number) -> float:
    """A number as a float of Python, without its graph."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def differentiated(value: Tensor) -> bool:
    """Whether derivatives pass through a tensor, backward or forward (a tangent)."""
    return value.requires_grad or forward_ad.unpack_dual(value).tangent is not None


def positive(value: Any, name: str, zero: bool = False) -> Number:
    """Return ``value`` as float or Tensor if finite and > 0 (or ≥ 0), or raise."""
    if not isinstance(value, Tensor):
        try:
            if isinstance(value, str):  # float would read it
                raise TypeError
            value = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"`{name}` must be a float or a tensor, got {type(value).__name__}"
            ) from None
    elif not value.is_floating_point():
        raise TypeError(f"`{name}` must be real floating point, got {value.dtype}")
    inside: Any = value >= 0 if zero else value > 0
    inside = inside & (value < math.inf)
    if not (bool(inside.all()) if isinstance(inside, Tensor) else inside):
        limit = ">= 0" if zero else "> 0"
        advice = ""
        if name == "epsilon":
            advice = "; a first-order equation is so.FirstOrder(field)"
        if getattr(value, "requires_grad", False):
            more = ", zero=True" if zero else ""
            advice += (
                f"; training moved it there, learn it as {name}=so.Positive(...{more})"
                ", which stays in range"
            )
        raise ValueError(
            f"`{name}` must be finite and {limit}, got {describe(value)}{advice}"
        )
    return value


def fits(value: Any, x: Tensor, name: str, matrix: bool = False) -> None:
    """Raise unless a number, or one per coordinate, acts on a state without widening.

    With ``matrix``, a square matrix may act on its last axis.
    """
    if isinstance(value, (tuple, list, dict)):
        raise ValueError(
            f"`{name}` is a structure of numbers, but the state is one tensor; give a "
            "number, one value per coordinate, or a state of the same structure"
        )
    if not isinstance(value, Tensor) or value.ndim == 0:
        return
    shape, d = tuple(value.shape), x.shape[-1] if x.ndim else 1
    square = matrix and value.ndim == 2 and shape[0] == shape[1]
    try:
        wide = torch.broadcast_shapes(shape, x.shape)
    except RuntimeError:
        wide = None
    if (square and shape == (d, d)) or (not square and wide == x.shape):
        return
    allowed = f"a number or of shape ({d},)" + (f" or ({d}, {d})" if matrix else "")
    raise ValueError(
        f"`{name}` has shape {shape}, which does not act on states of shape "
        f"{tuple(x.shape)}; it must be {allowed}, or broadcast to the state"
    )


def momentum(gamma: Number, rule: str = "momentum") -> None:
    """Raise unless every momentum lies in [0, 1), or in [−1, 1] if unnormalised."""
    signed = rule == "unnormalised"
    if isinstance(gamma, Tensor):
        inside = (gamma.abs() <= 1) if signed else (gamma >= 0) & (gamma < 1)
        fine = bool(inside.all())
    else:
        fine = abs(gamma) <= 1 if signed else 0 <= gamma < 1
    if not fine:
        raise ValueError(
            f"`gamma` must lie in {'[-1, 1]' if signed else '[0, 1)'}, got "
            f"{describe(gamma)}; 0 is the residual network, values near 1 keep the "
            "most momentum" + ("" if signed else ', rule="unnormalised" takes -1 to 1')
        )


def share(value: Any) -> float:
    """Return a share that integers can be divided by, 2^−b with b = 1 … 8, or raise."""
    number = 0.0 if isinstance(value, (str, Tensor)) else float(value)
    if number not in [2.0**-bits for bits in range(1, 9)]:
        raise ValueError(
            "`share` must be 1/2, 1/4, 1/8, … or 1/256, so that what a step erases is "
            f"a whole number of bits, got {value!r}"
        )
    return number


def one_of(value: str, name: str, allowed: Sequence[str]) -> str:
    """Return a name that is among those allowed, or raise."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}")
    return value


def function(value: Any, name: str = "field") -> Callable[..., Any]:
    """Return ``value`` if it can be called, or raise."""
    if not callable(value):
        raise TypeError(
            f"`{name}` must be callable, such as a function or an nn.Module, "
            f"got {type(value).__name__}"
        )
    return value


def forcing_function(value: Any) -> Any:
    """Return a function of time, or an object with ``evaluate``, or raise."""
    # Interpolants of other packages are modules without a forward: ask first.
    if not hasattr(value, "evaluate") and not callable(value):
        raise TypeError(
            "`forcing` must be a function of time, such as "
            "so.forcing.Cubic(t, u) for samples u at times t, got "
            f"{type(value).__name__}"
        )
    return value


def system(value: Any, kind: type) -> Any:
    """Return ``value`` if it says what is solved, or raise."""
    if isinstance(value, kind):
        return value
    what = "a module" if isinstance(value, nn.Module) else type(value).__name__
    raise TypeError(
        "`system` must be a SecondOrder, Newton, Acceleration or FirstOrder, got "
        f"{what}; wrap a force field f(t, x) as so.SecondOrder(f, epsilon), a network "
        "f(x) as so.SecondOrder(so.Autonomous(net), epsilon)"
    )


def state(pair: Any, first_order: bool = False) -> tuple[Tensor, Tensor]:
    """Return position and velocity, the latter zero for None, or raise.

    A first-order system has a position only, which may stand alone.
    """
    if first_order:
        pair = (pair, None) if isinstance(pair, Tensor) else pair
        if hasattr(pair, "__len__") and len(pair) == 2 and pair[1] is not None:
            raise ValueError(
                "`v0` must be None for a FirstOrder system, whose velocity is f(t, x), "
                f"got {type(pair[1]).__name__}; give x0 alone, or (x0, None)"
            )
    if isinstance(pair, Tensor) or not hasattr(pair, "__len__") or len(pair) != 2:
        raise TypeError(
            "`state` must be the pair (x0, v0), with v0 = None for zero velocity, got "
            f"{type(pair).__name__}"
        )
    x, v = pair
    for name, value in {"x0": x, "v0": v}.items():
        if name == "v0" and value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}")
        if not (value.is_floating_point() or value.is_complex()):
            raise TypeError(
                f"`{name}` must be floating point, got {value.dtype}; convert it with "
                ".float() or .double()"
            )
    if v is None:
        return x, torch.zeros_like(x)
    if v.shape != x.shape or v.dtype != x.dtype or v.device != x.device:
        raise ValueError(
            f"`v0` must match `x0`: {tuple(v.shape)}, {v.dtype}, {v.device} against "
            f"{tuple(x.shape)}, {x.dtype}, {x.device}"
        )
    return x, v


def times(t: Any, x: Tensor) -> Tensor:
    """Return times as floating tensor on the state's device, or raise."""
    t = (
        t
        if isinstance(t, Tensor)
        else torch.as_tensor(t, dtype=torch.float64, device="cpu")
    )
    if not t.is_floating_point():
        raise TypeError(f"`t` must be floating point, got {t.dtype}; use t.double()")
    if t.ndim not in (1, 2) or t.shape[-1] == 0:
        raise ValueError(
            f"`t` must have shape (n,) or (batch, n) with n >= 1, got {tuple(t.shape)}"
        )
    if t.ndim == 2 and (x.ndim == 0 or t.shape[0] != x.shape[0]):
        raise ValueError(
            f"`t` has {t.shape[0]} per-sample grids, but `x0` has shape "
            f"{tuple(x.shape)}; the first axes must agree"
        )
    # Read on the host, once: the number of steps depends on the values anyway.
    steps = t.detach().cpu().diff(dim=-1)
    if not bool(t.detach().isfinite().all()):
        raise ValueError("`t` must be finite, got NaN or infinity")
    if t.ndim == 1:
        monotone = bool((steps > 0).all()) or bool((steps < 0).all())
    else:
        monotone = bool(((steps >= 0).all(-1) | (steps <= 0).all(-1)).all())
    if not monotone:
        bad = int((steps * steps.reshape(-1)[0] <= 0).reshape(-1).int().argmax())
        raise ValueError(
            "`t` must be strictly increasing or strictly decreasing, but step "
            f"{bad} changes by {steps.reshape(-1)[bad]:.3g}; sort it and drop repeats"
        )
    return t.to(x.device)


def start_time(t0: Any, x: Tensor, per_sample: bool) -> Tensor:
    """Return an initial time as float64 tensor, one per sample if asked for."""
    if not isinstance(t0, Tensor):
        t0 = torch.as_tensor(t0, dtype=torch.float64, device=x.device)
    if not t0.is_floating_point():
        raise TypeError(f"`t0` must be floating point, got {t0.dtype}")
    if per_sample and x.ndim == 0:
        raise ValueError("`per_sample` needs a batch: x0 of shape (batch, ...)")
    shape = (x.shape[0],) if per_sample else ()
    if t0.numel() == 1:
        t0 = t0.reshape(())
    elif tuple(t0.shape) != shape:
        want = "() or (batch,)" if per_sample else "()"
        raise ValueError(f"`t0` must have shape {want}, got {tuple(t0.shape)}")
    if not bool(t0.detach().isfinite().all()):
        raise ValueError(f"`t0` must be finite, got {t0}")
    return t0.to(x.device, torch.float64).expand(shape)


def step_size(value: Any, name: str = "step_size") -> float | None:
    """Return the length of a step if it is None or positive and finite, or raise."""
    if value is None:
        return None
    if not isinstance(value, Real):
        raise TypeError(
            f"`{name}` must be a float (the number of steps depends on it), got "
            f"{type(value).__name__}; to learn times, make `t` require a gradient"
        )
    length = float(value)
    if not (length > 0 and math.isfinite(length)):
        raise ValueError(
            f"`{name}` must be positive and finite, got {value!r}; its sign follows "
            "the order of `t`"
        )
    return length


def tolerance(value: Any, name: str) -> Any:
    """Return a tolerance if it is None or positive and finite, or raise.

    One number, one for each entry of the state, or a pair of these for x and for v.
    """
    if value is None:
        return None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                f"`{name}` must be a number, a tensor, or a pair of these for x and v, "
                f"got {len(value)} values"
            )
        return tuple(tolerance(part, name) for part in value)
    if isinstance(value, Tensor):
        value = value.detach()
        if value.is_complex() or value.dtype == torch.bool:
            raise ValueError(f"`{name}` must be real numbers, got {value.dtype}")
        if value.ndim > 0:
            if not bool(((value > 0) & value.isfinite()).all()):
                raise ValueError(
                    f"`{name}` must be positive and finite, got {describe(value)}"
                )
            return value.double()
        value = value.item()
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
    value = float(value)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"`{name}` must be positive and finite, got {value!r}")
    return value


def event_value(g: Any, batch: tuple[int, ...] = ()) -> Tensor:
    """Return the value of an event function as ``(k,)`` or ``(batch, k)``, or raise.

    A boolean function becomes −1 and 1, which changes sign where it changes.
    """
    fits = isinstance(g, Tensor) and g.ndim <= len(batch) + 1
    if not fits or g.shape[: len(batch)] != batch:
        got = tuple(g.shape) if isinstance(g, Tensor) else type(g).__name__
        want = "(batch,) or (batch, k)" if batch else "() or (k,)"
        raise ValueError(
            f"`event_fn` must return a tensor of shape {want}, got {got}"
            + ("" if batch else "; one event per sample needs per_sample=True")
        )
    if g.is_complex():
        raise TypeError(
            f"`event_fn` must return real numbers, whose sign can change, got {g.dtype}"
        )
    if g.dtype == torch.bool:
        g = 2.0 * g - 1.0
    elif not g.is_floating_point():
        g = g.double()
    return g.unsqueeze(-1) if g.ndim == len(batch) else g


def count(value: Any, name: str, least: int = 1) -> int:
    """Return a whole number that is large enough, or raise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        what = "a positive integer" if least == 1 else f"an integer >= {least}"
        raise ValueError(f"`{name}` must be {what}, got {value!r}")
    return value


def optional_count(value: Any, name: str) -> int | None:
    """Return None or a positive whole number, or raise."""
    return None if value is None else count(value, name)


def optional_positive(value: Any, name: str) -> Number | None:
    """Return None or a positive finite number, or raise."""
    return None if value is None else positive(value, name)


def whole(value: Any, name: str) -> int:
    """Return a whole number that is not negative, or raise."""
    return count(value, name, 0)


def velocity(value: Any) -> Any:
    """Return an initial velocity that a model can use, or raise."""
    if value is None or isinstance(value, Tensor) or callable(value):
        return value
    raise TypeError(
        "`velocity` must be None, a tensor, an nn.Parameter or a module x -> v0, got "
        f"{type(value).__name__}"
    )


def samples(t: Any, u: Any, least: int, kind: str) -> None:
    """Raise unless t and u are times and samples that can be interpolated."""
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
            f"{kind}, got {tuple(t.shape)}"
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
