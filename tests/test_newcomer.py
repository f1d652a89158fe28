"""The first tasks of a new user, each in about ten lines, each to an exact bar."""

import matplotlib as mpl
import torch
from torch import nn

import secondorder as so

mpl.use("Agg")


def irregular_records(kind, count, span, most, noise):
    """Motions seen at random times, between half as often and ``most`` times."""
    random = torch.Generator().manual_seed(0)
    fine = torch.linspace(0, span, 801)
    x = so.data.oscillator(kind, fine, count, generator=random).x[..., 0]
    for i in range(count):
        n = int(torch.randint(most // 2, most + 1, (1,), generator=random))
        rows = torch.randperm(len(fine), generator=random)[:n].sort().values
        yield fine[rows], x[rows, i] + noise * torch.randn(n, generator=random)


def test_duffing_with_unknown_force_from_irregular_noisy_records():
    records = [*irregular_records("duffing", 40, span=8.0, most=40, noise=0.05)]

    torch.manual_seed(0)
    force = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    system = so.Newton(so.Autonomous(force), damping=so.Positive(0.1))
    fit = {"loss": so.Shooting.residuals, "optimizer": "gauss_newton"}
    windows = so.Shooting(system, records, step_size=0.2, window=6)
    so.fit(windows, steps=30, progress=False, **fit)
    whole = windows.joined()
    so.fit(whole, steps=12, progress=False, **fit)

    assert abs(system.damping.item() - 0.4) < 0.05 * 0.4
    assert whole.loss() < 0.05**2  # the noise: 0.115 is where whole records stall


def test_van_der_pol():
    records = [*irregular_records("van_der_pol", 8, span=10.0, most=60, noise=0.02)]

    class Law(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Parameter(torch.tensor(0.3))
            self.k = nn.Parameter(torch.tensor(0.5))

        def forward(self, t, x, v):
            return self.mu * (1 - x**2) * v - self.k * x

    law = Law()
    shooting = so.Shooting(
        so.Acceleration(law),
        records,
        step_size=0.1,
        window=8,
        method="velocity_doubling",
    )
    so.fit(
        shooting, so.Shooting.residuals, 10, progress=False, optimizer="gauss_newton"
    )
    assert abs(law.mu.item() - 1) < 0.02 and abs(law.k.item() - 1) < 0.02


def test_a_forced_circuit():
    """L q̈ + R q̇ + q/C = u(t): L and R from the charge under a known voltage."""
    t = torch.linspace(0, 12, 61, dtype=torch.float64)
    u = torch.sin(1.3 * t) + torch.sin(0.4 * t + 1)
    true = so.Newton(lambda t, q, u: u - q / 0.5, mass=0.8, damping=0.3)
    rest = torch.zeros(1, dtype=torch.float64), None
    q = so.odeint(true, rest, t, step_size=0.05, forcing=so.forcing.Cubic(t, u)).x
    q = q + 0.01 * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))

    circuit = so.Newton(lambda t, q, u: u - q / 0.5, so.Positive(1.0), so.Positive(1.0))
    shooting = so.Shooting(
        circuit, [(t, q, None, u)], step_size=0.1, forcing=so.forcing.Cubic
    )
    so.fit(shooting, so.Shooting.residuals, 7, progress=False, optimizer="gauss_newton")
    assert abs(circuit.mass.item() - 0.8) < 0.01
    assert abs(circuit.damping.item() - 0.3) < 0.01


def test_a_double_well_with_its_basins_and_points_of_rest():
    well = so.Newton(lambda t, x: x - x**3, damping=0.3)
    points = so.plot.find_fixed_points(well, (-2, 2))
    assert [round(p.x, 6) for p in points] == [-1, 0, 1]
    assert [p.kind for p in points] == ["stable focus", "saddle", "stable focus"]
    ax = so.plot.basins(well, (-2, 2), (-2, 2), points=24)
    so.plot.fixed_points(well, (-2, 2), ax=ax)
    start = torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.1], [0.1]])
    x, _ = so.odeint(well, start, torch.linspace(0, 60, 2), step_size=0.1)
    torch.testing.assert_close(x[-1], torch.tensor([[1.0], [-1.0]]), atol=1e-3, rtol=0)


def test_saved_and_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path):
    def train(**settings):
        torch.manual_seed(0)
        x, y = so.data.cubic(100)
        field = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        model = so.SecondOrderODE(so.Autonomous(field), steps=5)
        so.fit(model, lambda m, x, y: (m(x) - y).square().mean(), 30, lr=0.05,
               data=(x, y), batch_size=32, progress=False, **settings)  # fmt: skip
        return model(x)

    whole = train()
    file = tmp_path / "run.pt"
    stopped = train(checkpoint=file, callback=lambda m, h: len(h.loss) == 13)
    assert not torch.equal(stopped, whole)
    assert torch.equal(train(checkpoint=file, resume=True), whole)
