"""Time the theory at d = 200: the response, its rival, and the witness.

Ψ(θ) is the upper left block of exp(T [[0, I], [θ/ε, −I/ε]]).  ``Continuous.response``
doubles cosh and sinhc of a d × d matrix instead of exponentiating 2d × 2d.  Errors are
relative, against the exact eigenvalues of a symmetric θ: speed is compared at equal
accuracy.  A witness is ``represent(D, m)``, its residual ‖Ψ(θ) − D‖/‖D‖.

    python benchmarks/response.py [--quick] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy.linalg import expm

from secondorder.representability import Continuous, represent

GOAL = 2.0  # how much faster the doubling should be
ENSEMBLES = {
    "Gauss/sqrt(d) + 2I": lambda rng, d: gauss(rng, d) + 2 * np.eye(d),
    "(Gauss/sqrt(d))^2": lambda rng, d: np.linalg.matrix_power(gauss(rng, d), 2),
    "rotation": lambda rng, d: orthogonal(rng, d, rotation=True),
    "-2 in pairs": lambda rng, d: paired(rng, d),
    "triangular": lambda rng, d: triangular(rng, d),
}


def gauss(rng, d):
    return rng.standard_normal((d, d)) / np.sqrt(d)


def orthogonal(rng, d, rotation=False):
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    if rotation:
        Q[:, 0] *= np.linalg.det(Q)
    return Q


def paired(rng, d):
    """Return a symmetric matrix with −2 an even number of times."""
    Q, pairs = orthogonal(rng, d), d // 6
    values = [*[-2.0] * (2 * pairs), *rng.uniform(0.1, 3, d - 2 * pairs)]
    return Q @ np.diag(values) @ Q.T


def triangular(rng, d):
    """Return a matrix far from normal: its eigenvectors are useless at d = 200."""
    return np.triu(gauss(rng, d), 1) + np.diag(rng.uniform(0.3, 2, d))


def by_companion(theta, epsilon):
    """Return Ψ(θ) as a block of scipy's exponential of the 2d × 2d companion."""
    d, eye = len(theta), np.eye(len(theta))
    rows = [[0 * eye, eye], [theta / epsilon, -eye / epsilon]]
    return expm(np.block(rows))[:d, :d]


def median_seconds(function, repetitions, warmup=2):
    """Return the median time of a call, and its spread (lowest, highest)."""
    for _ in range(warmup):
        function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times), max(times)


def response_rows(rng, d, repetitions):
    """Time both routes on the same symmetric θ and measure both against the truth."""
    rows = []
    Q, values = orthogonal(rng, d), rng.uniform(-8, 2, d)
    theta = Q @ np.diag(values) @ Q.T
    for epsilon in (5.0, 0.5, 0.05, 0.01):
        m = Continuous(epsilon)
        truth = Q @ np.diag(m.response(values)) @ Q.T
        routes = {
            "doubling": m.response,
            "expm": lambda t, e=epsilon: by_companion(t, e),
        }
        row = {"d": d, "epsilon": epsilon}
        for name, route in routes.items():
            error = np.linalg.norm(route(theta) - truth) / np.linalg.norm(truth)
            middle, low, high = median_seconds(lambda r=route: r(theta), repetitions)
            row[name] = {"seconds": middle, "range": [low, high], "error": error}
        row["speedup"] = row["expm"]["seconds"] / row["doubling"]["seconds"]
        rows.append(row)
    return rows


def witness_rows(rng, d, repetitions):
    """Time the construction of witnesses and take their certificates."""
    rows, m = [], Continuous(0.5)
    for name, draw in ENSEMBLES.items():
        D = draw(rng, d)
        witness = represent(D, m)  # the warm-up
        middle, low, high = median_seconds(
            lambda D=D: represent(D, m), repetitions, warmup=0
        )
        residual = witness.residual / np.linalg.norm(D)
        rows.append(
            {"d": d, "ensemble": name, "seconds": middle, "range": [low, high],
             "residual": residual}
        )  # fmt: skip
    return rows


def report(results):
    """Print both tables."""
    print("response      d    epsilon   doubling [ms]   expm [ms]   speedup   errors")
    for row in results["response"]:
        fast, slow = row["doubling"], row["expm"]
        print(
            f"{row['d']:15d} {row['epsilon']:10g} {1e3 * fast['seconds']:15.1f}"
            f" {1e3 * slow['seconds']:11.1f} {row['speedup']:8.1f}x"
            f"   {fast['error']:.0e} / {slow['error']:.0e}"
        )
    print("\nwitness       d    ensemble               time [s]    residual")
    for row in results["witness"]:
        print(
            f"{row['d']:15d}    {row['ensemble']:20s} {row['seconds']:10.2f}"
            f" {row['residual']:11.0e}"
        )
    least = min(row["speedup"] for row in results["response"])
    print(f"\nleast speedup {least:.1f}x (goal {GOAL:g}x), d = {results['d']}")


def main(argv=None):
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions, d = 60")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    args = parser.parse_args(argv)
    d, repetitions = (60, 3) if args.quick else (200, 15)
    rng = np.random.default_rng(0)
    results = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (np, scipy, torch)},
        "d": d,
        "response": response_rows(rng, d, repetitions),
        "witness": witness_rows(rng, d, max(repetitions // 5, 1)),
    }
    report(results)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
