"""The Silverbox: a real record of a damped nonlinear oscillator, and its score.

    m ÿ + d ẏ + k y + k₃ y³ = u,    an electronic circuit that obeys it nearly

Reference: Wigren & Schoukens, "Three free data sets for development and benchmarking in
nonlinear system identification", European Control Conference 2013.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Silverbox(NamedTuple):
    """The Silverbox record and its official split.

    Attributes
    ----------
    u, y : Tensor of float64, shape (131072,)
        Input and output, in volts.
    fs : float
        Sampling frequency, in hertz.
    train : slice
        The multisine realisations for training and validation.
    tests : dict of str to slice
        ``"multisine"``; ``"arrow"``, a noise of growing amplitude, whose end is beyond
        all training amplitudes; ``"arrow, no extrapolation"``, the arrow without it.
    """

    u: Tensor
    y: Tensor
    fs: float
    train: slice
    tests: dict[str, slice]


SILVERBOX_SHA256 = "ae62d5a91230c10f76e6dd02c8a4fac3c9d4d8a95fbf50e87cb0c4885003e0f1"
SILVERBOX_SOURCE = (
    "the PyPI package `nonlinear-benchmarks` downloads SNLS80mV.csv from "
    'nonlinearbenchmark.org and prints where it is: python -c "import '
    'nonlinear_benchmarks as n; print(n.Silverbox(data_file_locations=True))"'
)
SILVERBOX_GIVEN = 50  # output samples a simulation may see, by the official rule


def silverbox(path: str | Path) -> Silverbox:
    """Load the Silverbox record, an electronic oscillator m ÿ + d ẏ + k y + k₃ y³ = u.

    Parameters
    ----------
    path : str or Path
        The file ``SNLS80mV.csv``.  It is not part of this package.

    Returns
    -------
    Silverbox

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message says where to get it.
    ValueError
        If the file is not the published one (by its SHA-256).

    Examples
    --------
    >>> import secondorder as so
    >>> so.data.silverbox("nowhere/SNLS80mV.csv")
    Traceback (most recent call last):
    FileNotFoundError: `path` nowhere/SNLS80mV.csv does not exist; the PyPI package...

    References
    ----------
    Wigren and Schoukens, ECC 2013; the split is the one of nonlinearbenchmark.org.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` {path} does not exist; {SILVERBOX_SOURCE}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SILVERBOX_SHA256:
        raise ValueError(
            f"`path` {path} is not the published SNLS80mV.csv: its SHA-256 is {found}, "
            f"expected {SILVERBOX_SHA256}; {SILVERBOX_SOURCE}"
        )
    volts = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1))
    u, y = torch.from_numpy(volts).T.contiguous()
    tests = {
        "multisine": slice(105712, 127400),
        "arrow": slice(100, 40575),
        "arrow, no extrapolation": slice(100, 32100),
    }
    return Silverbox(u, y, 610.35, slice(40650, 105712), tests)


def rmse_mv(measured: Tensor, simulated: Tensor, skip: int = SILVERBOX_GIVEN) -> float:
    """Root mean squared error in millivolts, 1000 · √mean((y − ŷ)²).

    Parameters
    ----------
    measured, simulated : Tensor, shape (n,)
        In volts.
    skip : int, default 50
        The first samples, which a simulation may use to find its initial state, do not
        count.

    Returns
    -------
    float
        In millivolts.

    Raises
    ------
    ValueError
        If the shapes differ or nothing is left after ``skip``.

    Examples
    --------
    >>> import torch, secondorder as so
    >>> so.data.rmse_mv(torch.zeros(60), 0.002 * torch.ones(60))
    2.0
    """
    if measured.shape != simulated.shape or measured.ndim != 1:
        raise ValueError(
            "`measured` and `simulated` must be records of the same length, got shapes "
            f"{tuple(measured.shape)} and {tuple(simulated.shape)}"
        )
    if not 0 <= skip < len(measured):
        raise ValueError(
            f"`skip` must leave samples of the {len(measured)} given, got {skip!r}"
        )
    error = (measured - simulated)[skip:].double()
    return 1000 * error.square().mean().sqrt().item()
