"""The recipes of CONTRIBUTING.md, each followed step by step."""

import functools
import re
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from methods_of_readme import table
from problems import gradients, mlp, noise
from test_notebooks import assert_finished, code, execute
from torch import nn

import secondorder as so
from secondorder import checks
from secondorder.cli import orders
from secondorder.gradients import GRADIENTS, find_gradient
from secondorder.methods import Method
from secondorder.models.invert import invert, run_reversibly
from secondorder.plan import FLOWS, Damp, Drift, Flow, Kick, Record, walk
from secondorder.plan.flows import columns
from secondorder.plot.style import COLORS, axes, curves
from secondorder.solution import DenseOutput, Solution, Stats, quintic_hermite
from secondorder.systems.numbers import register_number
