"""What accuracy costs: evaluations and seconds to reach an error, every method.

    python benchmarks/work_precision.py [--quick] [--only WORDS] [--out DIR]

Twelve smooth problems, a stiff wave among them, and jumps, impacts, a limit cycle and a
batch of mixed stiffness, defined in ``work/``.
Relative error of (x, v) at the final time in the 2-norm.  Ours against torchdiffeq,
SciPy, diffrax and torchode (the last two with the extra ``bench``), each over a range
of steps or tolerances (rtol = atol).  Costs at a wanted error are interpolated between
the two runs around it, logarithmically; "<" marks a method whose cheapest run was
better than asked.
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from work import batch, rough, smooth

import secondorder as so

TARGETS = (1e-3, 1e-6, 1e-9)
DEEP = 2e-10  # errors below this end a sweep


# -- Measuring ------------------------------------------------------------------------


def sweep(run, stepped, true, most):
    """Evaluations, errors and seconds over step numbers or tolerances."""
    points = []
    if stepped:
        settings = [round(4 * 2 ** (k / 2)) for k in range(40)]
    else:
        settings = [10 ** (-k / 2) for k in range(2, 28)]
    for setting in settings:
        if stepped and setting > most:
            break
        if len(points) > 1 and points[-1][0] * (1.4 if stepped else 1.0) > most:
            break
        try:
            if not points:
                run(setting)  # compiles, warms up
            begin = time.perf_counter()
            y, evaluations = run(setting)
            seconds = time.perf_counter() - begin
        except Exception as error:  # a solver that gives up is a result, too
            if "h/ε" not in str(error):
                print(f"    {setting:.3g}: {str(error).splitlines()[0][:90]}")
            continue
        error = float(np.linalg.norm(y - true) / np.linalg.norm(true))
        if math.isfinite(error):
            points.append((evaluations, error, seconds))
        if error < DEEP:
            break
    return points


def cost(points, target, column):
    """Cost at an error: interpolated number and whether it is only a bound."""
    points = sorted(points)
    for k, point in enumerate(points):
        if point[1] <= target:
            if k == 0:
                return point[column], True
            before = points[k - 1]
            part = math.log(before[1] / target) / math.log(before[1] / point[1])
            return math.exp(
                math.log(before[column]) * (1 - part) + math.log(point[column]) * part
            ), False
    return math.inf, False


def cells(points, column, form):
    found = [cost(points, target, column) for target in TARGETS]
    return [
        ("<" if bound else "") + form.format(c) if math.isfinite(c) else "–"
        for c, bound in found
    ]


def is_ours(name):
    """Whether a row is a method of this library, with or without a remark."""
    return name.split(",")[0] in so.METHODS | so.ADAPTIVE | so.COUPLED


def best(results, own, target, column=0):
    names = [n for n in results if is_ours(n) == own]
    return min((cost(results[n], target, column)[0], n) for n in names)


def report(name, results):
    print(f"\n{name}\n{'':26}" + "".join(f"{t:>9.0e}" for t in TARGETS)
          + "  |" + "".join(f"{t:>10.0e}" for t in TARGETS))  # fmt: skip
    print(f"{'':26}{'evaluations':>27}  |{'seconds':>30}")
    for method, points in results.items():
        work = "".join(f"{c:>9}" for c in cells(points, 0, "{:.0f}"))
        clock = "".join(f"{c:>10}" for c in cells(points, 2, "{:.2g}"))
        print(f"{method:<26}{work}  |{clock}")
    for target in TARGETS:
        mine, one = best(results, True, target)
        theirs, two = best(results, False, target)
        if math.isfinite(mine) and math.isfinite(theirs):
            print(f"  {target:.0e}: {one} {mine:.0f}, {two} {theirs:.0f}, "
                  f"ratio {theirs / mine:.2f}")  # fmt: skip


def picture(everything, path):
    """Ours best at some error, and all others, one panel a problem."""
    columns = 3
    rows = math.ceil(len(everything) / columns)
    fig = Figure(figsize=(5.2 * columns, 4 * rows), layout="constrained")
    panels = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, results) in zip(panels, everything.items(), strict=False):
        shown = {best(results, True, t)[1] for t in TARGETS} | {"verlet", "adaptive"}
        shown |= {n for n in results if not is_ours(n)}
        curves = {
            n: tuple(zip(*points, strict=True))[:2]
            for n, points in results.items()
            if n in shown and points
        }
        so.plot.work_precision(curves, ax, slopes=False)
        for line in ax.get_lines():  # ours in colour, theirs in grey
            if not is_ours(line.get_label()):
                line.set(color="0.6", linestyle="-", linewidth=0.8, markersize=4)
            else:
                line.set(linestyle="-", linewidth=2, zorder=3)
        ax.set(title=name, ylim=(1e-10, 10))
        ax.legend(fontsize="xx-small", loc="lower left")
    for ax in panels[len(everything) :]:
        ax.remove()
    fig.savefig(path, dpi=120)


def main():
    text = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    text.add_argument(
        "--quick", action="store_true", help="2000 evaluations, no DETEST"
    )
    text.add_argument("--most", type=int, default=20_000, help="evaluations of a run")
    text.add_argument("--only", nargs="+", default=[""], help="words in problem names")
    text.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    args = text.parse_args()
    warnings.filterwarnings("ignore", message="h/ε")
    warnings.filterwarnings("ignore", "overflow|invalid value")  # of steps too long
    most = 2000 if args.quick else args.most
    everything = {}
    if not smooth.DIFFRAX:
        print("diffrax is not installed, its rows are left out: pip install "
              "secondorder[bench]")  # fmt: skip
    for name, case in (*smooth.cases(), *rough.cases(), *batch.cases()):
        if not any(word in name for word in args.only) or (
            args.quick and name.startswith("DETEST")
        ):
            continue
        true, contestants = case()
        everything[name] = {
            method: sweep(run, stepped, true, most)
            for method, (run, stepped) in contestants.items()
        }
        report(name, everything[name])
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "work_precision"
    columns = ["evaluations", "error", "seconds"]
    data = {"columns": columns, "problems": everything}
    path.with_suffix(".json").write_text(json.dumps(data, indent=1, ensure_ascii=False))
    picture(everything, path.with_suffix(".png"))
    print(f"\n{path}.json, {path}.png")


if __name__ == "__main__":
    main()
