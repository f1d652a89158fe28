"""Solves inside torch.func: right numbers, or an error that says what to do."""

import math

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import secondorder as so

# Forward-mode rules of torch are scripted when first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
D = torch.float64
W = torch.tensor([1.0, 2.0, 3.0], dtype=D)
LOOSE = {"rtol": 1e-5, "atol": 1e-5}
METHODS = {
    "verlet": {"step_size": 0.02},
    "coupled_rk4": {"step_size": 0.1},
    "coupled_dopri5": LOOSE,
    "adaptive": LOOSE,
    "rkn8": LOOSE,
}
TRANSFORMS = {  # of cos w
    "vmap": (lambda f: vmap(f)(W), torch.cos(W)),
    "grad": (lambda f: grad(f)(W[0]), -torch.sin(W[0])),
    "jacrev": (lambda f: jacrev(f)(W[1]), -torch.sin(W[1])),
    "jacfwd": (lambda f: jacfwd(f)(W[1]), -torch.sin(W[1])),
    "jvp": (lambda f: jvp(f, (W[2],), (2 * W[0],))[1], -2 * torch.sin(W[2])),
    "hessian": (lambda f: hessian(f)(W[1]), -torch.cos(W[1])),
    "vmap of grad": (lambda f: vmap(grad(f))(W), -torch.sin(W)),
}


def oscillation(method, route="backprop", **how):
    """The map w to cos w, by a solve."""

    def end(w):
        one = torch.ones(1, dtype=D)
        system = so.Newton(lambda t, x, w: -w * w * x)
        sol = so.odeint(system, (one, None), [0.0, 1.0], args=(w,), method=method,
                        gradient=route, **METHODS.get(method, {}) | how)  # fmt: skip
        return sol.x[-1, 0]

    return end


def works(method, route, name):
    """What there is; all else is refused."""
    adapts = METHODS[method] is LOOSE
    if route == "reversible" or (adapts and "vmap" in name):
        return False
    return route == "backprop" or name in ("vmap", "jacfwd", "jvp")


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("route", ["backprop", "checkpoint", "reversible"])
def test_every_transform_by_every_route(method, route, name):
    transform, exact = TRANSFORMS[name]
    if method == "rkn8" and route == "reversible":
        return
    if works(method, route, name):
        found = transform(oscillation(method, route))
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)
        return
    words = "per_sample=True|" if "vmap" in name else ""
    with pytest.raises(RuntimeError, match=words + "cannot run inside torch.func"):
        transform(oscillation(method, route))


@pytest.mark.parametrize("method", [*METHODS])
@pytest.mark.parametrize("route", ["backprop", "checkpoint"])
@pytest.mark.parametrize("each", [False, True])
def test_forward_derivatives_of_times_are_velocities(method, route, each):
    if each and METHODS[method] is not LOOSE:
        return  # steps of their own have the adaptive methods

    def end(t):
        start = torch.ones(1, 1, dtype=D), None
        system = so.Newton(lambda t, x: -x)
        return so.odeint(system, start, t, method=method, gradient=route,
                         per_sample=each, **METHODS[method]).x[-1, 0, 0]  # fmt: skip

    t = torch.tensor([0.0, 0.7, 1.5], dtype=D)
    x, slope = jvp(end, (t,), (torch.tensor([0.0, 1.0, 2.0], dtype=D),))
    assert x.item() == pytest.approx(math.cos(1.5), abs=1e-3)
    assert slope.item() == pytest.approx(-2 * math.sin(1.5), abs=1e-3)


def test_what_cannot_be_transformed_says_what_to_do():
    for method in ("dopri5", "scipy_RK45"):
        with pytest.raises(RuntimeError, match="take one of this library's methods"):
            grad(oscillation(method, "adjoint"))(W[0])
    for method in ("verlet", "rkn8", "coupled_dopri5"):

        def fall(h, method=method):
            ball = so.Newton(lambda t, x: -torch.ones_like(x))
            how = METHODS[method]
            return so.odeint_event(ball, (h.reshape(1), None), 0.0, method=method,
                                   event_fn=lambda t, x, v: x[0], **how)[0]  # fmt: skip

        with pytest.raises(RuntimeError, match="use torch.autograd"):
            grad(fall)(W[0])
        with pytest.raises(RuntimeError, match="`per_sample=True`"):
            vmap(fall)(W)
    model = so.SecondOrderODE(lambda t, x: -x, method="adaptive")
    with pytest.raises(RuntimeError, match="`per_sample=True`"):
        vmap(model)(torch.ones(2, 1, dtype=D))


@pytest.mark.parametrize("name", ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"])
def test_scipy_solvers_go_by_their_names(name):
    spring, start = so.Newton(lambda t, x: -x), (torch.ones(1, dtype=D), None)
    how = {"rtol": 1e-8, "atol": 1e-8, "gradient": "adjoint"}
    x, v = so.odeint(spring, start, [0.0, 1.0], method=f"scipy_{name}", **how)
    assert x[-1].item() == pytest.approx(math.cos(1.0), abs=1e-6)
    assert v[-1].item() == pytest.approx(-math.sin(1.0), abs=1e-6)
    with pytest.raises(ValueError, match=f"SciPy's method is 'scipy_{name}' here"):
        so.odeint(spring, start, [0.0, 1.0], method=name)
