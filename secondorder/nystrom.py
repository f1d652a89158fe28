"""Runge-Kutta-Nyström pairs: high order per evaluation, for adaptive steps.

A Nyström method solves y'' = F(t, y), without y' on the right, and reuses that to reach
order p with fewer evaluations than a method for y' = F(t, y).  Damping is brought to
that form by a change of variable local to each step from t0 (λ = c/m, μ = λ/2):

    y(τ) = e^{μτ} x(t0 + τ)      =>      y'' = μ² y + e^{μτ} f(t0 + τ, e^{−μτ} y)/m

which is smooth, per coordinate, and starts afresh at every step, so nothing grows.

    Y_i = y + c_i h y' + h² Σ_j a_ij F_j,   F_i = F(t0 + c_i h, Y_i)
    y_1 = y + h y' + h² Σ_i b_i (1 − c_i) F_i,   y'_1 = y' + h Σ_i b_i F_i

with a second set of weights b̂ for the error.

References: Dormand, El-Mikkawy & Prince, IMA J. Numer. Anal. 7 (1987): "Families of
Runge-Kutta-Nyström formulae", 235-250, for 6(4); "High-order embedded
Runge-Kutta-Nyström formulae", 423-430, for 8(6) and 12(10).
"""

from dataclasses import dataclass
from fractions import Fraction

import torch

from .splitting import spread
from .system import plain


@dataclass(frozen=True)
class Nystrom:
    """The numbers of a pair.

    Parameters
    ----------
    nodes : tuple of float
        c_i, in units of the step.
    stages : tuple of tuple of float
        Rows a_ij, j < i, of the stages after the first.  Where the last row is missing
        it is b_j (1 − c_j): that stage is the first of the next step.
    weights, companion : tuple of float
        b_i and b̂_i, of the velocity; those of the position are b_i (1 − c_i).
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    companion: tuple[float, ...]

    @property
    def shares_last(self):
        """Whether the last stage is evaluated at the end of the step."""
        return len(self.stages) < len(self.nodes) - 1

    @property
    def evaluations_per_step(self):
        """Evaluations of f per step."""
        return len(self.nodes) - self.shares_last


def numbers(text):
    """Floats from fractions and decimals separated by blanks."""
    return tuple(float(Fraction(word)) for word in text.split())


def rows(text):
    """Rows of numbers separated by semicolons."""
    return tuple(numbers(row) for row in text.split(";"))


_C6 = numbers("""
    0 1/10 3/10 7/10 17/25 1
""")
_A6 = rows("""
    1/200;
    -1/2200 1/22;
    637/6600 -7/110 7/33;
    225437/1968750 -30073/281250 65569/281250 -9367/984375
""")
_B6 = numbers("""
    151/2142 25/522 275/684 275/252 -78125/112404 1/12
""")
_E6 = numbers("""
    1349/157500 7873/45000 27457/90000 521683/630000 -2/5 1/12
""")
_C8 = numbers("""
    0 1/20 1/10 3/10 1/2 7/10 9/10 1 1
""")
_A8 = rows("""
    1/800;
    1/600 1/300;
    9/200 -9/100 9/100;
    -66701/197352 28325/32892 -2665/5482 2170/24669;
    227015747/304251000 -54897451/30425100 12942349/10141700 -9499/304251 539/9250;
    -1131891597/901789000 41964921/12882700 -6663147/3220675 270954/644135 -108/5875
        114/1645;
    13836959/3667458 -17731450/1833729 1063919505/156478208 -33213845/39119552
        13335/28544 -705/14272 1645/57088
""")
_B8 = numbers("""
    223/7938 0 5875/36288 4625/21168 41/224 4625/21168 5875/36288 223/7938 0
""")
_E8 = numbers("""
    7987313/109941300 0 1610737/40207104 10023263/23454144 -497221/6204800
        10023263/23454144 1610737/40207104 -4251941/54970650 3/20
""")
_C12 = numbers("""
    0 1/50 1/25 1/10 2/15 4/25 1/20 1/5 1/4 1/3 1/2 5/9 3/4 6/7 8437/8926 1 1
""")
_A12 = rows("""
    1/5000;
    1/3750 1/1875;
    7/2400 -1/240 1/160;
    2/1215 0 4/729 32/18225;
    152/78125 0 1408/196875 2048/703125 432/546875;
    29/51200 0 341/387072 -151/345600 243/716800 -11/110592;
    37/12000 0 0 2/1125 27/10000 5/3168 224/20625;
    0.00365183937480113 0 0.003965171714072343 0.0031972582629306284
        0.008221467306855435 -0.0013130926959572379 0.009771586968064868
        0.003755769069232834;
    0.003707241068718501 0 0.005082045854555286 0.001174708002175412
        -0.021147629915126993 0.06010463698107881 0.02010573476850619
        -0.02835075012293358 7461389216/501451974639;
    0.03512537656073344 0 -0.008615749195138479 -0.005791448051007917
        1.945554823782616 -3.4351238674565137 -0.10930701107475221
        2.3496383118995166 -0.7560094086870229 0.10952897222156927;
    0.020527792537482496 0 -0.00728644676448018 -0.0021153556079618403
        0.9275807968723522 -1.6522824844257367 -0.02107956300568657
        1.2065364326207872 -0.4137144770010661 0.09079873982809654
        0.005355552600533985;
    -0.14324078875545515 0 0.012528703773091817 0.006826019163969827
        -4.799555395574387 5.6986250439519415 0.7553430369523645
        -0.12755487858281084 -1.9605926051117384 0.9185609056635262
        -0.23880085505284432 0.15911081357234216;
    0.8045019205520489 0 -0.016658527067011247 -0.021415834042629735
        16.827235928962466 -11.172835357176098 -3.377159297226324
        -15.243326655360846 17.179835738215417 -5.437719239823995 1.3878671618364655
        -0.5925827732652812 0.029603873171297354;
    -0.913296766697358 0 0.0024112725757805178 0.01765812269386174
        -14.851649779720384 2.1589708670045757 3.99791558311788 28.434151800232232
        -25.2593643549416 7.733878542362238 -1.8913028948478674 1.0014845070224718
        0.004641199599109052 0.011218755022148957;
    -0.27519629720559396 0 0.03661188877915492 0.009789519688231562
        -12.293062345886211 14.207226453937903 1.5866476906789537 2.4577735327595946
        -8.935193694403273 4.373672731613407 -1.8347181765449492 1.1592085289061491
        -0.017290253165383924 0.019325977904460768 0.005204442937554993;
    1.3076391847404059 0 0.017364109189745843 -0.018544456454265796
        14.811522032867726 9.38317630848247 -5.2284261999445425 -48.95128052584765
        38.297096034337926 -10.58738133697598 2.4332304376226275 -1.0453406042575444
        0.0717732095086726 0.0021622109708082783 0.007009595759602514 0
""")
_B12 = numbers("""
    63818747/5262156900 0 0 0 0 0 0.09083943422704079 0.3156836976483934
        -181439488/689294529 0.3047803786184589 -38620936/929468925
        0.2467756096762953 6370838528/41841694125 0.08143848163026961
        0.08502571193890811 -113178587/12362232960 1/40
""")
_E12 = numbers("""
    27121957/1594593000 0 0 0 0 0 0.07606245887455937 0.4650327216584413
        -652798592/1218449925 70079499/139272500 -36983428/140828625
        0.4262217898861095 4764516608/44377554375 0.11413965924142547
        0.06936338665004868 1/50 0
""")

DP6 = Nystrom(_C6, _A6, _B6, _E6)
DP8 = Nystrom(_C8, _A8, _B8, _E8)
DP12 = Nystrom(_C12, _A12, _B12, _E12)


def nystrom_step(table, core, like, pull):
    """Return the function that takes one step of a pair.

    Parameters
    ----------
    table : Nystrom
    core : Core
        The equation, for its mass and damping.
    like : Tensor
        The position, whose dtype, device and shape the numbers follow.
    pull : callable
        ``pull(time, x)``, the force.

    Returns
    -------
    callable
        ``step(t, h, (x, v, g)) -> ((x, v, g), (ex, ev))`` from the force g at the start
        to that at the end (None if not known), with the estimated errors.
    """
    mass, damping = plain(core.mass), plain(core.damping)
    mu = damping / mass / 2
    damped = isinstance(mu, torch.Tensor) or mu != 0
    own = mu.to(like) if isinstance(mu, torch.Tensor) else mu
    share = 1 / mass if not isinstance(mass, torch.Tensor) else (1 / mass).to(like)
    nodes = torch.tensor(table.nodes, dtype=torch.float64)
    b = torch.tensor(table.weights, dtype=torch.float64)
    d = b - torch.tensor(table.companion, dtype=torch.float64)
    stages = [torch.tensor(row, dtype=torch.float64).to(like) for row in table.stages]
    if table.shares_last:
        stages.append((b * (1 - nodes))[:-1].to(like))
    ends, errors = (torch.stack([w * (1 - nodes), w]).to(like) for w in (b, d))

    def growth(h):
        passed = h * nodes
        if isinstance(mu, torch.Tensor):
            passed = passed.reshape(-1, *[1] * mu.ndim).to(mu.device)
        return spread(torch.exp(mu * passed), like)

    def step(t, h, state):
        x, v, g = state
        times = (t + h * nodes).to(like).unbind()
        grow = growth(h) if damped else None
        slope = v + own * x if damped else v
        h = h.to(like) if h.requires_grad else h.item()
        forces = []
        for i, time in enumerate(times):
            y = x
            if i > 0:
                y = x + table.nodes[i] * h * slope
                y = y + h * h * combine(stages[i - 1], forces)
            if i > 0 or g is None:
                g = pull(time, y / grow[i] if damped else y)
            push = share * g
            forces.append(own * own * y + grow[i] * push if damped else push)
        rise, turn = combine(ends, forces)
        y, w = x + h * slope + h * h * rise, slope + h * turn
        with torch.no_grad():
            ey, ew = combine(errors, [f.detach() for f in forces])
            ey, ew = h * h * ey, h * ew
            if damped:
                ey = ey / grow[-1]
                ew = ew / grow[-1] - own * ey
        if damped:
            y = y / grow[-1]
            w = w / grow[-1] - own * y
        return (y, w, g if table.shares_last else None), (ey, ew)

    return step


def combine(weights, forces):
    """Σ_i w_i F_i, one sum for each row of weights."""
    total = weights @ torch.stack(forces).reshape(len(forces), forces[0].numel())
    return total.reshape((*weights.shape[:-1], *forces[0].shape))
