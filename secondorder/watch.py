"""An eye on what runs: evaluations, progress, the first NaN, bytes kept for later.

Because the field is the one thing that every method and every gradient calls, what is
watched there works for all of them.
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
        # The module of a bound method: its parameters are found through this one.
        owner = getattr(field, "__self__", None)
        self.owner = owner if isinstance(owner, nn.Module) else None
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


def close(field):
    """End the progress bar: what a backward pass evaluates again is not counted."""
    if isinstance(field, Watched) and field.bar is not None:
        field.bar.close()
        field.bar = None


def progress_bar(total=None, label=None):
    """A tqdm bar, which needs the extra ``progress``."""
    try:
        from tqdm import tqdm  # .auto warns in notebooks without ipywidgets
    except ImportError:
        raise ImportError(
            "`progress=True` needs tqdm: pip install secondorder[progress]"
        ) from None
    return tqdm(total=total, desc=label, unit="f")


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """A context that counts what autograd saves in it for the backward pass.

    Parameters
    ----------
    own : iterable of Tensor
        Tensors that are there anyway, such as parameters, and do not count.

    Attributes
    ----------
    total : int
        Bytes; tensors that share memory count once.
    """

    def __init__(self, own=()):
        self.own = {p.untyped_storage().data_ptr() for p in own}
        self.storages = {}
        super().__init__(self.pack, lambda tensor: tensor)

    def __enter__(self):
        """Begin to count."""
        super().__enter__()
        return self

    def pack(self, tensor):
        """Count a saved tensor."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.storages[storage.data_ptr()] = storage  # held: no address comes twice
        return tensor

    @property
    def total(self):
        """Bytes so far."""
        return sum(storage.nbytes() for storage in self.storages.values())
