"""Pictures: every function takes data and an Axes, and returns the Axes.

    motion   trajectories over depth, phase portraits, vector fields with nullclines
    linear   response curves Ψ(θ), thresholds, spectra against the representable region
    cost     memory against depth, error against work

Nothing is shown or saved here, and nobody's matplotlib settings are changed.  Colours
are Okabe and Ito's, which colour-blind readers can tell apart, and no curve is told
from another by colour alone.
"""

from importlib import import_module

# Loaded at first use: matplotlib takes longer to import than the rest of the package.
PARTS = {
    "trajectories": "motion",
    "phase_portrait": "motion",
    "vector_field": "motion",
    "response_curve": "linear",
    "threshold_curve": "linear",
    "spectrum": "linear",
    "discrete_branches": "linear",
    "representable_probability": "linear",
    "training_curves": "linear",
    "memory": "cost",
    "work_precision": "cost",
}
__all__ = list(PARTS)


def __getattr__(name):
    """Import the part of the package that holds the plot ``name``."""
    if name not in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PARTS[name]}"), name)


def __dir__():
    """List the plots, loaded or not."""
    return sorted(PARTS)
