"""An eye on a field: counts its evaluations, moves a progress bar, finds the first NaN.

Because the field is the one thing that every method and every gradient calls, what is
watched here works for all of them.
"""

import torch
from torch import nn


class Watched(nn.Module):
    """A field that reports how it is used.

    Parameters
    ----------
    field : callable
        ``field(time, x, *args)``.
    check_finite : bool
        Raise FloatingPointError at the first force that is not finite.  Costs one
        device synchronisation per evaluation.
    locate : callable, optional
        ``locate(time) -> str`` names the step for that message.
    bar : optional
        A tqdm bar; it is updated once per evaluation until it is closed.

    Attributes
    ----------
    evaluations : int
    """

    def __init__(self, field, check_finite=False, locate=None, bar=None):
        super().__init__()
        self.field, self.check_finite = field, check_finite
        self.locate, self.bar, self.evaluations = locate, bar, 0

    def forward(self, time, x, *args):
        """Evaluate the field."""
        value = self.field(time, x, *args)
        self.evaluations += 1
        if self.bar is not None:
            self.bar.update()
        if self.check_finite and not bool(torch.isfinite(value).all()):
            where = self.locate(time) if self.locate else f"t = {time}"
            bad = (~torch.isfinite(value)).sum().item()
            raise FloatingPointError(
                f"the field returned {bad} of {value.numel()} values that are not "
                f"finite at {where}, evaluation {self.evaluations}, where max |x| = "
                f"{x.detach().abs().max().item():.3g}; smaller steps, more damping or "
                "a bounded field (tanh) usually help"
            )
        return value


def progress_bar(total=None, label=None):
    """A tqdm bar, which needs the extra ``progress``."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            "`progress=True` needs tqdm: pip install secondorder[progress]"
        ) from None
    return tqdm(total=total, desc=label, unit="f")
