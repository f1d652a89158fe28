"""The controller reads one number from the device per step; the rest stays there."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import secondorder as so


class Reads(TorchDispatchMode):
    """Counts reads of numbers that depend on the state, which is float32.

    Times are float64 on the host, whatever the device; reading them waits for nothing.
    """

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += args[0].dtype != torch.float64
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize(
    "method", ["adaptive", "rkn6", "rkn8", "rkn12", "coupled_dopri5"]
)
def test_one_read_per_step(method, gradient):
    pendulum = so.Newton(lambda t, x: -torch.sin(x), damping=0.1)
    x, counts = torch.linspace(0.5, 2, 8).unsqueeze(-1), []
    for end in (2.0, 6.0):
        with Reads() as reads:
            stats = so.odeint(
                pendulum, (x, None), [0.0, end], method=method, gradient=gradient,
                rtol=1e-5, atol=1e-5,
            ).stats  # fmt: skip
        counts.append((reads.count, stats.accepted + stats.rejected))
    (reads, steps), (more_reads, more_steps) = counts
    assert more_steps > steps
    assert more_reads - reads == more_steps - steps
