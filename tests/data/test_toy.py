"""The toy sets are what they say, and their randomness is the generator's alone."""

import math

import pytest
import torch

from secondorder import data

GENERATORS = {
    "cubic": lambda g: data.cubic(50, g),
    "nested_rings": lambda g: data.nested_rings(50, 3, g),
    "oscillator": lambda g: data.oscillator(
        "damped", torch.linspace(0, 1, 5), 3, 0.1, g
    ),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_a_generator_decides_everything_and_the_global_state_is_left_alone(make):
    before = torch.get_rng_state()
    first, again, other = make(seeded()), make(seeded()), make(seeded(1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) or not torch.equal(first[-1], other[-1])


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_without_a_generator_the_default_one_is_used(make):
    torch.manual_seed(3)
    first = make(None)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, make(None), strict=True))


def test_the_best_constant_on_the_cubic_costs_one_seventh():
    x, y = data.cubic(200_000, seeded(), dtype=torch.float64)
    assert x.shape == y.shape == (200_000, 1)
    assert x.dtype == torch.float64
    assert x.abs().max() <= 1
    # Standard error of the mean of x⁶ (variance 1/13 − 1/49) over 200 000 samples.
    margin = 5 * math.sqrt((1 / 13 - 1 / 49) / 200_000)
    assert y.square().mean().item() == pytest.approx(1 / 7, abs=margin)


@pytest.mark.parametrize("rings", [1, 2, 4])
def test_rings_fill_their_radii_with_alternating_classes(rings):
    x, label = data.nested_rings(403, rings, seeded())
    radius = x.norm(dim=1)
    ring = torch.arange(403) % rings
    assert torch.equal(label, ring % 2)
    assert bool((radius >= 1.5 * (ring + 1) - 1e-5).all())
    assert bool((radius <= 1.5 * (ring + 1) + 0.6 + 1e-5).all())
    # Around the whole circle: the mean direction of uniform angles is near zero.
    assert (x / radius.unsqueeze(1)).mean(0).norm() < 5 / math.sqrt(403)


def test_the_damped_oscillator_is_its_closed_form():
    t = torch.linspace(1.0, 9.0, 81, dtype=torch.float64)
    motion = data.oscillator("damped", t, samples=4, generator=seeded())
    x0, v0 = motion.x[0], motion.v[0]
    rate, frequency = 0.2, math.sqrt(4 - 0.2**2)
    s = (t - 1).reshape(-1, 1, 1)
    wave = x0 * (frequency * s).cos()
    wave = wave + (v0 + rate * x0) / frequency * (frequency * s).sin()
    torch.testing.assert_close(motion.x, (-rate * s).exp() * wave, atol=1e-8, rtol=0)
    assert torch.equal(motion.observed, motion.x)


@pytest.mark.parametrize("kind", data.OSCILLATORS)
def test_every_oscillator_obeys_its_equation(kind):
    t = torch.linspace(0, 2, 2001, dtype=torch.float64)
    motion = data.oscillator(kind, t, samples=2, generator=seeded())
    h = (t[1] - t[0]).item()
    velocity = (motion.x[2:] - motion.x[:-2]) / (2 * h)
    torch.testing.assert_close(velocity, motion.v[1:-1], atol=1e-4, rtol=0)
    slope = (motion.v[2:] - motion.v[:-2]) / (2 * h)
    law = data.OSCILLATORS[kind].acceleration
    for i in (1, 700, 1999):
        wanted = law(t[i].item(), motion.x[i].numpy(), motion.v[i].numpy())
        torch.testing.assert_close(
            slope[i - 1], torch.as_tensor(wanted), atol=1e-4, rtol=0
        )


def test_noise_has_the_stated_size_and_dtype_follows_t():
    t = torch.linspace(0, 1, 2001)
    motion = data.oscillator("damped", t, 10, noise=0.05, generator=seeded())
    assert motion.observed.shape == (2001, 10, 1)
    assert motion.observed.dtype == torch.float32
    assert (motion.observed - motion.x).std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: data.cubic(0), "n"),
        (lambda: data.cubic(2.5), "n"),
        (lambda: data.nested_rings(10, 0), "rings"),
        (lambda: data.oscillator("spring", torch.linspace(0, 1, 3)), "kind"),
        (lambda: data.oscillator("damped", torch.tensor([0.0, 1.0, 1.0])), "t"),
        (lambda: data.oscillator("damped", torch.zeros(1)), "t"),
        (lambda: data.oscillator("damped", torch.linspace(0, 1, 3), 0), "samples"),
        (
            lambda: data.oscillator("damped", torch.linspace(0, 1, 3), noise=-1.0),
            "noise",
        ),
    ],
)
def test_bad_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        call()
