"""Responses, thresholds and inverses against closed forms and 15-digit references."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.linalg import expm

from secondorder.representability import Continuous, Discrete, FirstOrder

# Computed with mpmath at 30 digits: ε, T, θ, Ψ, Φ, (θ/ε)Φ, Ψ − Φ/ε.
RESPONSES = [
    (0.1, 1, 1, 2.30595773473241, 0.211242462197771, 2.11242462197771,
     0.193533112754696),
    (0.1, 1, -2.5, 0.0404276819945128, 0.00673794699908547, -0.168448674977137,
     -0.0269517879963419),
    (0.1, 1, -10, -0.00217011673932621, 0.000538548061605957, -0.0538548061605957,
     -0.00755559735538578),
    (1, 1, 1, 1.39729651650004, 0.741027921523577, 0.741027921523577,
     0.656268594976467),
    (1, 1, -0.25, 0.90979598956895, 0.606530659712633, -0.151632664928158,
     0.303265329856317),
    (1, 1, -11, -0.613480898930489, -0.0252876429141709, 0.278164072055879,
     -0.588193256016318),
    (0.5, 2, -3, -0.0909882155016212, -0.0587854024772313, 0.352712414863388,
     0.0265825894528415),
    (10, 1, -100, -0.951338813536084, -0.00610358976710667, 0.0610358976710667,
     -0.950728454559373),
    (0.01, 1, -1, 0.367898729408858, 0.00371653189043668, -0.371653189043668,
     -0.00375445963480956),
    (100, 1, 2, 1.00998336106752, 0.998336659932961, 0.0199667331986592,
     0.999999994468193),
]  # fmt: skip

# ε, y*, θ*, λ at T = 1.
THRESHOLDS = [
    (0.001, -250.020110369455, -7.75427633503845e-216),
    (0.01, -25.1942329227294, -2.14501892457937e-21),
    (0.05, -5.85381473258316, -1.1677708027378e-4),
    (0.1, -4.02768321247318, -0.0108329730904038),
    (0.25, -4.22360680930965, -0.154642300021524),
    (0.5, -6.29908302991933, -0.383321600264326),
    (1, -11.0478393720113, -0.613498603167405),
    (2, -20.8272901619635, -0.781147139975696),
    (5, -50.3829980789456, -0.905286688612607),
    (10, -99.7134886486859, -0.951348689288048),
    (100, -987.962180638799, -0.995013738115003),
    (1000, -9870.60457510286, -0.999500137636704),
]

INVERSES = [
    (0.1, -0.01, -3.767102179035),
    (0.1, 0, -3.20419241308336),
    (0.1, 0.5, -0.720633284433956),
    (0.1, 2, 0.819508990762295),
    (0.1, 1e6, 34.6643298771906),
    (0.1, -1, -1.01349681968124 + 3.49917991783505j),
    (0.1, 1j, -0.253784924147191 + 1.74638021275362j),
    (0.5, -0.01, -2.59965475602498),
    (0.5, 0, -2.55792918284726),
    (0.5, 0.5, -1.01986976484062),
    (0.5, 2, 1.43909240635818),
    (0.5, 1e6, 118.788303070949),
    (0.5, -1, -4.97456330442936 + 5.12184798047826j),
    (0.5, -3, -2.47091912934959 + 8.70616449396652j),
    (0.5, 1j, -1.12034849246684 + 2.67365278189415j),
    (0.5, -1 + 0.001j, -4.97113317580905 + 5.12007583635923j),
    (2, 0, -6.01092958187534),
    (2, -0.01, -6.09175345984928),
    (2, -1, -19.753739029496 + 9.20791775202131j),
    (2, 1j, -3.73511561335424 + 6.70447178589049j),
]

POLYNOMIALS = [
    (1, 0.5, -1, 0.5),
    (2, 0.5, -2.5, -0.5625),
    (3, 0.5, -1, -0.25),
    (3, 0.5, -8, -16),
    (4, 0.9, -4, -0.81),
    (8, 0.9, -1, -0.55322352),
    (8, 0.9, -35, -2.2676504),
    (10, 0.5, 0.7, 56.8744190251249),
    (16, 0.9, -0.3, -0.3545759036489),
    (33, 0.95, 0.1, 3.62813772326653),
    (100, 0.99, -0.05, -0.240440384677643),
    (4, 0, -3, 16),
    (5, 0, -3, -32),
]

# N, γ, right-most critical point and value, minimiser and global threshold.
DISCRETE_THRESHOLDS = [
    (2, 0.5, -2.5, -0.5625, -2.5, -0.5625),
    (2, 0.9, -14.5, -1.1025, -14.5, -1.1025),
    (3, 0.5, -1.464816241512, -0.359927468342888, -math.inf, -math.inf),
    (3, 0.9, -7.69337613708193, -0.930314093082694, -math.inf, -math.inf),
    (4, 0.5, -1, -0.25, -4.56872930440884, -0.445237297323368),
    (4, 0.9, -4.76499878576892, -0.84503881900752, -29.2584279717475,
     -1.61417757840693),
    (5, 0.9, -3.24824671011859, -0.785362577542403, -math.inf, -math.inf),
    (8, 0.5, -0.43803121945014, -0.0688110254599564, -5.44906387737992,
     -0.201547226367207),
    (8, 0.9, -1.4225508142832, -0.657236101066481, -35.3858081791758,
     -2.39229725959284),
    (10, 0.9, -0.95871359124453, -0.59050445687389, -36.2643642519805,
     -2.64815292081151),
    (16, 0.9, -0.422637685534781, -0.435217575545217, -37.2751247230741,
     -3.01845596426831),
    (32, 0.9, -0.13902309983821, -0.200541136746766, -37.7927273031568,
     -2.55243360842345),
    (32, 0.99, -0.961893571962346, -0.851459392509837, -396.09839623624,
     -12.0026316463676),
    (64, 0.99, -0.253299855139007, -0.727000884414198, -397.514789996008,
     -20.2697994131246),
]  # fmt: skip

PROPAGATORS = [Continuous(0.5), Continuous(0.02, 3.0), Discrete(4, 0.9),
               Discrete(5, 0.3), Discrete(4, 0.0), FirstOrder(2.0)]  # fmt: skip


def approx(value, rel=1e-12):
    return pytest.approx(value, rel=rel, abs=0)


def companion(theta, epsilon):
    eye = np.eye(len(theta))
    return np.block([[0 * eye, eye], [theta / epsilon, -eye / epsilon]])


# -- the continuous model -----------------------------------------------------------


@pytest.mark.parametrize("epsilon, T, theta, psi, phi, v_of_x, v_of_v", RESPONSES)
def test_response_and_velocity_response_match_fifteen_digits(
    epsilon, T, theta, psi, phi, v_of_x, v_of_v
):
    m = Continuous(epsilon, T)
    assert m.response(theta) == approx(psi)
    assert m.velocity_response(theta) == approx(phi)
    assert theta / epsilon * m.velocity_response(theta) == approx(v_of_x)
    velocity = m.response(theta) - m.velocity_response(theta) / epsilon
    assert velocity == approx(v_of_v)


def test_complex_and_matrix_reference_values():
    m, theta = Continuous(0.5), 1 + 2j
    assert m.response(theta) == approx(1.2690807443565 + 1.4444010017827j)
    assert m.velocity_response(theta) == approx(0.521283740477767 + 0.321670544918378j)
    expected = [
        [1.01565667142141, -0.54257973382891],
        [1.08515946765782, 0.581592884358279],
    ]
    result = m.response([[0.3, -1], [2, -0.5]])
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_numbers_agree_with_forty_digits_across_regimes():
    rng = np.random.default_rng(0)
    for epsilon, floor in ((1e6, 2e-15), (10, 2e-15), (0.1, 3e-15), (0.01, 1e-13),
                           (1e-3, 1e-11)):  # fmt: skip
        m = Continuous(epsilon)
        # z from 0 over |z| = 1, where the formula changes, to the oscillating side.
        z = rng.uniform(0, 1.2, 20) ** 2 * 6 * np.exp(1j * rng.uniform(0, 1.6, 20))
        theta = np.append((z**2 - m.kappa**2) / (2 * m.kappa), [1j, 3, -0.5, 0])
        with mpmath.workdps(60):
            for t, psi, slope in zip(
                theta, m.response(theta), m.derivative(theta), strict=True
            ):
                kappa = mpmath.mpf(1) / (2 * mpmath.mpf(epsilon))

                def exact(s, kappa=kappa):
                    root = mpmath.sqrt(kappa**2 + 2 * kappa * s)
                    ratio = mpmath.sinh(root) / root
                    return mpmath.exp(-kappa) * (mpmath.cosh(root) + kappa * ratio)

                t = mpmath.mpmathify(complex(t))
                root = mpmath.sqrt(kappa**2 + 2 * kappa * t)
                size = mpmath.exp(-kappa + mpmath.re(root))
                size *= 1 + min(kappa, kappa / abs(root))
                assert abs(exact(t) - psi) <= floor * size
                assert abs(mpmath.diff(exact, t) - slope) <= 3 * floor * kappa * size


@pytest.mark.parametrize("epsilon", [0.02, 0.5, 100])
def test_matrices_agree_with_the_exponential_of_the_companion(epsilon):
    rng, m = np.random.default_rng(1), Continuous(epsilon)
    for theta in rng.standard_normal((3, 4, 4)) * 3:
        block = expm(companion(theta, epsilon))
        psi, phi = m.response(theta), m.velocity_response(theta)
        scale = np.linalg.norm(block)
        assert np.linalg.norm(psi - block[:4, :4]) <= 3e-14 * scale
        assert np.linalg.norm(phi - block[:4, 4:]) <= 3e-14 * scale


@pytest.mark.parametrize("m", PROPAGATORS, ids=str)
def test_matrix_functions_act_on_eigenvalues(m):
    rng = np.random.default_rng(2)
    Q = rng.standard_normal((3, 3)) + 3 * np.eye(3)
    values = np.array([0.3, -1.1, 0.7])
    theta = Q @ np.diag(values) @ np.linalg.inv(Q)
    names = ["response", "derivative", "velocity_response", "epsilon_derivative"]
    for name in names:
        if not hasattr(m, name):
            continue
        function = getattr(m, name)
        expected = Q @ np.diag(function(values)) @ np.linalg.inv(Q)
        np.testing.assert_allclose(function(theta), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("m", PROPAGATORS, ids=str)
def test_derivative_is_what_autograd_finds(m):
    theta = torch.linspace(-3, 2, 11, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(m.response(theta).sum(), theta)
    torch.testing.assert_close(slope, m.derivative(theta), rtol=1e-11, atol=1e-13)


def test_gradients_exist_at_the_branch_point_to_second_order():
    m = Continuous(0.5)
    branch = -1 / (4 * m.epsilon)  # z = 0
    at = torch.tensor([branch, branch + 1e-9, branch - 1e-9, branch - 1.0, 5.0])
    theta = at.double().requires_grad_()
    assert torch.autograd.gradcheck(m.response, theta)
    assert torch.autograd.gradgradcheck(m.response, theta)
    assert torch.autograd.gradcheck(m.velocity_response, theta)
    eye = branch * torch.eye(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(m.response, eye.requires_grad_())
    assert torch.autograd.gradgradcheck(m.response, eye)


def test_derivative_in_epsilon_matches_a_central_difference():
    theta = np.array([-30.0, -2.0, -0.5, 0.0, 1.5])
    for epsilon in (0.05, 0.5, 20):
        step = 1e-5 * epsilon
        up, down = (Continuous(epsilon + s).response(theta) for s in (step, -step))
        expected = (up - down) / (2 * step)
        found = Continuous(epsilon).epsilon_derivative(theta)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_scaling_of_time_only_rescales_theta_and_velocity():
    m, unit, theta = Continuous(0.6, 3.0), Continuous(0.2), np.array([-5.0, 0.3, 1.0])
    np.testing.assert_allclose(m.response(theta), unit.response(3 * theta), rtol=1e-12)
    phi = 3 * unit.velocity_response(3 * theta)
    np.testing.assert_allclose(m.velocity_response(theta), phi, rtol=1e-12)
    assert m.threshold == approx(unit.threshold)
    assert m.minimiser == approx(unit.minimiser / 3)


@pytest.mark.parametrize("epsilon, minimiser, threshold", THRESHOLDS)
def test_threshold_matches_fifteen_digits(epsilon, minimiser, threshold):
    m = Continuous(epsilon)
    assert m.threshold == approx(threshold)
    assert m.minimiser == approx(minimiser)
    assert m.response(m.minimiser) == approx(threshold)
    assert m.log_threshold == approx(math.log(-threshold))


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 3.0])
def test_threshold_is_the_minimum_over_the_real_line(epsilon):
    m = Continuous(epsilon)
    theta = np.concatenate([np.linspace(-300, 3, 20001), -np.geomspace(1, 1e5, 5001)])
    assert m.response(theta).min() >= m.threshold * (1 + 1e-13)
    assert m.derivative(m.minimiser) == pytest.approx(0, abs=1e-15)


def test_threshold_decreases_from_zero_to_minus_one():
    epsilons = np.geomspace(1e-4, 1e6, 60)
    models = [Continuous(epsilon) for epsilon in epsilons]
    logs = np.array([m.log_threshold for m in models])
    assert (np.diff(logs) > 0).all() and logs[-1] < 0
    assert models[0].threshold == 0.0 and models[0].log_threshold < -4000  # underflow
    assert models[-1].threshold == pytest.approx(-1 + 1 / 2e6, rel=1e-12)
    kappa = models[0].kappa
    leading = math.log(0.217233628211 * (kappa + 1)) - kappa
    assert models[0].log_threshold == pytest.approx(leading, abs=11 / kappa**2)


@pytest.mark.parametrize("epsilon, x, theta", INVERSES)
def test_principal_inverse_matches_the_table(epsilon, x, theta):
    assert Continuous(epsilon).inverse(x) == approx(theta)


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 1.0, 1e6])
def test_principal_inverse_is_a_pick_function_and_inverts(epsilon):
    rng, m = np.random.default_rng(3), Continuous(epsilon)
    x = rng.standard_normal(40) + 1j * np.abs(rng.standard_normal(40))
    x = np.append(x, m.threshold + 1e-6 * np.exp(1j * np.linspace(0.1, 3, 5)))
    theta = m.inverse(x)
    assert (theta.imag > 0).all()
    assert (np.abs(m.response(theta) - x) <= 1e-12 * np.maximum(np.abs(x), 1e-3)).all()
    np.testing.assert_array_equal(m.inverse(x.conj()), theta.conj())


# -- layers --------------------------------------------------------------------------


@pytest.mark.parametrize("layers, gamma, theta, value", POLYNOMIALS)
def test_polynomial_matches_the_table(layers, gamma, theta, value):
    assert Discrete(layers, gamma).response(theta) == approx(value)


def test_polynomial_is_the_chebyshev_closed_form_and_the_network():
    layers, gamma = 7, 0.6
    m, q = Discrete(layers, gamma), math.sqrt(0.6)
    phi = np.linspace(0.2, 3, 9)
    theta = (2 * q * np.cos(phi) - 1 - gamma) / (1 - gamma)
    closed = (np.sin((layers + 1) * phi) - q * np.sin(layers * phi)) / np.sin(phi)
    np.testing.assert_allclose(m.response(theta), q**layers * closed, rtol=1e-11)
    moved = gamma * q ** (layers - 1) * np.sin(layers * phi) / np.sin(phi)
    np.testing.assert_allclose(m.velocity_response(theta), moved, rtol=1e-11)
    x, v = np.eye(2), np.zeros((2, 2))
    weight = np.array([[0.3, -1.0], [0.5, 0.2]])
    for _ in range(layers):
        v = gamma * v + (1 - gamma) * weight @ x
        x = x + v
    np.testing.assert_allclose(m.response(weight), x, rtol=1e-13)


@pytest.mark.parametrize("layers, gamma, at, value, argmin, least", DISCRETE_THRESHOLDS)
def test_discrete_thresholds_match_the_table(layers, gamma, at, value, argmin, least):
    m = Discrete(layers, gamma)
    assert m.principal_minimiser == approx(at)
    assert m.principal_threshold == approx(value)
    assert m.minimiser == approx(argmin)
    assert m.threshold == approx(least)


def test_critical_values_alternate_and_even_networks_are_lowest_at_the_left():
    for layers in (2, 4, 9, 16):
        for gamma in (0.05, 0.5, 0.95):
            m = Discrete(layers, gamma)
            assert len(m.critical_points) == layers - 1
            slopes = m.derivative(m.critical_points)
            scale = np.abs(m.derivative(m.critical_points + 0.1))
            assert (np.abs(slopes) < 1e-9 * (1 + scale)).all()
            np.testing.assert_allclose(
                m.response(m.critical_points), m.critical_values, rtol=1e-9
            )
            assert m.critical_values[-1] < 0
            assert (np.sign(m.critical_values[1:] * m.critical_values[:-1]) < 0).all()
            if layers % 2 == 0:
                assert m.threshold == m.critical_values[0] <= m.principal_threshold


def test_real_preimages_of_minus_one():
    np.testing.assert_allclose(Discrete(3, 0.5).real_preimages(-1), [-5.400884601])
    five = Discrete(5, 0.9).real_preimages(-1)
    np.testing.assert_allclose(five, [-35.579871035, -23.86054791, -20.323399333])
    assert Discrete(3, 0.0).real_preimages(-1) == [-2]
    assert Discrete(1, 0.5).real_preimages(-1) == [-4]
    assert len(Discrete(4, 0.5).real_preimages(-0.5)) == 0
    roots = Discrete(4, 0.5).real_preimages(-0.4)
    assert len(roots) == 2
    np.testing.assert_allclose(Discrete(4, 0.5).response(roots), -0.4, rtol=1e-12)


@pytest.mark.parametrize("m", [Discrete(5, 0.9), Discrete(16, 0.5), Discrete(4, 0.0)])
def test_discrete_inverse_inverts_in_the_plane(m):
    rng = np.random.default_rng(4)
    x = rng.standard_normal(20) + 1j * rng.standard_normal(20)
    assert np.abs(m.response(m.inverse(x)) - x).max() < 1e-12
    on_cut = m.inverse(m.principal_threshold - 1)
    assert on_cut.imag > 0
    assert m.response(on_cut) == approx(m.principal_threshold - 1 + 0j)


@pytest.mark.parametrize(
    "epsilon, theta, euler, exponential",
    [
        (1, 1.5, 0.854601, 0.599636),
        (1, -4, -0.809606, -0.585036),
        (0.1, 1.5, 5.959893, 2.227661),
        (5, -4, -0.346637, -0.316133),
    ],
)
def test_layers_approach_the_ode_with_the_predicted_constant(
    epsilon, theta, euler, exponential
):
    N, ode = 4096, Continuous(epsilon)
    gammas = {"euler": 1 - 1 / (N * epsilon), "exponential": math.exp(-1 / N / epsilon)}
    measured = {"euler": euler, "exponential": exponential}
    for rule, gamma in gammas.items():
        m = Discrete(N, gamma, rule)
        assert m.limit.epsilon == approx(epsilon, 1e-9)
        error = m.response(theta / N) - ode.response(theta)
        assert N * error == pytest.approx(measured[rule], rel=1e-5)
        assert m.limit_error(theta) == pytest.approx(error, rel=2e-3)


def test_discrete_threshold_approaches_the_continuous_one():
    euler, exponential = Discrete(512, 1 - 1 / 512), Discrete(512, math.exp(-1 / 512))
    assert euler.principal_threshold == approx(-0.612928236525, 1e-11)
    assert exponential.principal_threshold == approx(-0.613215263821, 1e-11)


# -- one interface -------------------------------------------------------------------


@pytest.mark.parametrize("m", PROPAGATORS, ids=str)
def test_every_propagator_has_the_same_interface(m):
    assert m.threshold <= m.principal_threshold <= 0
    assert m.response(0.0) == approx(1.0)
    assert m.inverse(1.0) == pytest.approx(0.0, abs=1e-14)
    assert m.log_threshold == (
        -math.inf if m.threshold == 0 else approx(math.log(-m.threshold))
    )
    assert m.minimiser <= m.principal_minimiser <= 0
    if math.isfinite(m.minimiser):
        assert m.response(m.minimiser) == pytest.approx(m.threshold, rel=1e-10)


@pytest.mark.parametrize("m", PROPAGATORS, ids=str)
def test_kind_shape_and_precision_of_the_input_are_kept(m):
    assert type(m.response(0.5)) is float and type(m.response(0.5j)) is complex
    assert m.response(np.ones(3)).shape == (3,)
    assert m.response(np.zeros((5, 2, 2))).shape == (5, 2, 2)
    grid = np.linspace(-1, 1, 6).reshape(3, 2)
    np.testing.assert_array_equal(
        m.response(grid, elementwise=True).ravel(), m.response(grid.ravel())
    )
    for dtype in (torch.float32, torch.float64, torch.complex128):
        assert m.response(torch.ones(2, 2, dtype=dtype)).dtype == dtype
    double = m.response(torch.full((2,), 0.3, dtype=torch.float64))
    single = m.response(torch.full((2,), 0.3))
    torch.testing.assert_close(single, double.float(), rtol=1e-7, atol=0)


def test_batches_of_matrices_are_matrices_one_by_one():
    thetas = np.random.default_rng(5).standard_normal((3, 2, 2))
    for m in PROPAGATORS:
        each = np.array([m.response(theta) for theta in thetas])
        np.testing.assert_allclose(m.response(thetas), each, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: Continuous(0.0), "`epsilon`"),
        (lambda: Continuous(-1.0), "`epsilon`"),
        (lambda: Continuous(math.nan), "`epsilon`"),
        (lambda: Continuous("small"), "`epsilon`"),
        (lambda: Continuous(1.0, horizon=math.inf), "`horizon`"),
        (lambda: FirstOrder(-2.0), "`horizon`"),
        (lambda: Discrete(0, 0.5), "`layers`"),
        (lambda: Discrete(2.5, 0.5), "`layers`"),
        (lambda: Discrete(2, 1.0), "`gamma`"),
        (lambda: Discrete(2, -0.1), "`gamma`"),
        (lambda: Discrete(2, 0.5, "midpoint"), "`rule`"),
        (lambda: Discrete(2, 0.0).limit, "FirstOrder"),
        (lambda: Continuous(1.0).response(np.ones((2, 3))), "elementwise"),
        (lambda: Continuous(1.0).response(np.ones((0, 0))), "`theta`"),
        (lambda: Continuous(1.0).response([[math.nan]]), "`theta`"),
        (lambda: FirstOrder().inverse(0.0), "`x`"),
    ],
)
def test_bad_input_raises_with_the_name_and_advice(make, name):
    with pytest.raises(ValueError, match=name) as error:
        make()
    assert len(str(error.value)) > 40  # says what to do, not only what is wrong
