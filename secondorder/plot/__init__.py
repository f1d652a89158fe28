"""Pictures: every function takes data and an Axes, and returns the Axes.

    motion   trajectories over depth, phase portraits, paths in a plane of coordinates,
             vector fields with nullclines
    views    3-D paths, a phase portrait per coordinate; sections: Poincaré sections
    animation  points that move, as a film or in a notebook
    browser  a phase portrait to click at, in a notebook or as a page
    regions  what a classifier sees of the plane at each depth of its flow
    rest     points of rest, as data and as marks; portrait: basins and manifolds
    energies energy along paths, contours of a potential with paths
    history  losses over training, median and range over seeds
    linear   response curves Ψ(θ), thresholds, branches of layers
    targets  spectra against the representable region, probabilities, losses and floors
    cost     memory against depth, error against work

Nothing is shown or saved here, and nobody's matplotlib settings are changed.  Colours
are Okabe and Ito's, which colour-blind readers can tell apart, and no curve is told
from another by colour alone.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker and an editor read instead of the loader below
    from .animation import animate as animate
    from .browser import interactive as interactive
    from .cost import memory as memory
    from .cost import work_precision as work_precision
    from .energies import energy as energy
    from .energies import potential as potential
    from .history import losses as losses
    from .history import spread as spread
    from .linear import discrete_branches as discrete_branches
    from .linear import fold as fold
    from .linear import response_curve as response_curve
    from .linear import threshold_curve as threshold_curve
    from .motion import phase_portrait as phase_portrait
    from .motion import plane as plane
    from .motion import trajectories as trajectories
    from .portrait import basins as basins
    from .portrait import manifolds as manifolds
    from .regions import decision_regions as decision_regions
    from .rest import find_fixed_points as find_fixed_points
    from .rest import fixed_points as fixed_points
    from .sections import poincare as poincare
    from .style import palette as palette
    from .targets import representable_probability as representable_probability
    from .targets import spectrum as spectrum
    from .targets import training_curves as training_curves
    from .vectors import vector_field as vector_field
    from .views import portraits as portraits
    from .views import space as space

# Loaded at first use: matplotlib takes longer to import than the rest of the package.
PARTS = {
    name: part
    for part, names in {
        "animation": ("animate",),
        "browser": ("interactive",),
        "cost": ("memory", "work_precision"),
        "energies": ("energy", "potential"),
        "history": ("losses", "spread"),
        "linear": ("response_curve", "fold", "threshold_curve", "discrete_branches"),
        "motion": ("trajectories", "phase_portrait", "plane"),
        "portrait": ("basins", "manifolds"),
        "regions": ("decision_regions",),
        "rest": ("find_fixed_points", "fixed_points"),
        "sections": ("poincare",),
        "style": ("palette",),
        "targets": ("spectrum", "representable_probability", "training_curves"),
        "vectors": ("vector_field",),
        "views": ("space", "portraits"),
    }.items()
    for name in names
}
__all__ = list(PARTS)


def __getattr__(name: str) -> Callable[..., Any]:
    """Import the part of the package that holds the plot ``name``."""
    if name not in PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PARTS[name]}"), name)


def __dir__() -> list[str]:
    """List the plots, loaded or not."""
    return sorted(PARTS)
