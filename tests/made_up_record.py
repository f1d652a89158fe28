"""A record like the Silverbox's that is small, and whose law is known."""

import torch

from secondorder.data import Silverbox
from secondorder.data import silverbox_models as models

# damping, offset, b, k, k2, k3
LAW = torch.tensor([0.07, 0.01, 0.2, 0.5, 0.0, 0.01], dtype=torch.float64)


def record(n=2500):
    """A made-up record whose law is LAW, its splits short."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    u = torch.nn.functional.avg_pool1d(noise.reshape(1, 1, -1), 9, 1, 4).reshape(-1)
    system = models.build(models.Polynomial, LAW)
    start = torch.zeros(16, 1, dtype=torch.float64)
    fine = models.half_samples(u).unsqueeze(1)
    with torch.no_grad():
        y = models.simulate(system, fine, start)[:, 0]
    y = torch.cat((y.new_zeros(models.START), y))
    tests = {"late": slice(2100, 2500), "early": slice(100, 400)}
    return Silverbox(u, y, 610.35, slice(450, 2050), tests)
