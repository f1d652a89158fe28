"""How a field is now, as far as compiling cares: its layers, and what it learns."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...monitor import MonitoredField
from ...plan.rows import Unpackable
from ..layers import SETTINGS
from ..survey import Survey, has_any_global_hook, hooked
from .chunks import Holder


class Look(NamedTuple):
    """A field as it is.

    Attributes
    ----------
    survey : Survey
    learned : list of Tensor
        Parameters that require gradients, each once.
    layout : tuple
        Equal where kinds, settings and wiring of modules are, and the pattern of what
        is learned.
    """

    survey: Survey
    learned: list[Tensor]
    layout: tuple[Any, ...]

    @classmethod
    def of(cls, field: Any) -> "Look":
        """Look at a field.

        Raises
        ------
        Unpackable
            If it could do what a graph does not repeat.
        """
        survey = Survey.of(field)
        if not survey.plain:
            check_field(survey)
        modules = [*survey.modules, *survey.hidden]
        places = {id(m): i for i, m in enumerate(modules)}
        learned: dict[int, Tensor] = {}
        order: dict[int, int] = {}
        named = not isinstance(field, nn.Module)
        layout: list[Any] = [type(field), named and getattr(field, "__name__", None)]
        for module in modules:
            own = vars(module)
            kind = type(module)
            layout += kind, own["training"]
            layout += [own[name] for name in SETTINGS.get(kind, ())]
            for name, child in own["_modules"].items():
                layout += name, places.get(id(child))
            for name, p in own["_parameters"].items():
                if p is None or not p.requires_grad:
                    layout += name, None
                    continue
                layout += name, order.setdefault(id(p), len(order))
                learned.setdefault(id(p), p)
        return cls(survey, list(learned.values()), tuple(layout))

    @property
    def plain(self) -> bool:
        """Whether the layout tells all that there is."""
        return self.survey.plain

    @property
    def fixed(self) -> list[Tensor]:
        """Buffers, and parameters that are not learned."""
        tables = (t for m in self.survey.modules for t in (m._parameters, m._buffers))
        each = (t for table in tables for t in table.values() if t is not None)
        return [t for t in each if not t.requires_grad]

    def names(self, known: dict[Any, tuple[str, ...]], field: Any) -> tuple[str, ...]:
        """The names of what is learned, in a ``Holder`` of the field."""
        if self.layout not in known:
            named = {id(p): name for name, p in Holder(field).named_parameters()}
            known[self.layout] = tuple(named[id(p)] for p in self.learned)
        return known[self.layout]


def check_field(survey: Survey) -> None:
    """Raise where a field could do what a graph does not repeat."""
    modules = [*survey.modules, *survey.hidden]
    if any(map(hooked, modules)):
        raise Unpackable("its field has hooks")
    if any(isinstance(m, MonitoredField) for m in modules):
        raise Unpackable("`check_finite` or `progress` watch its evaluations")
    if survey.writes:
        raise Unpackable("its field writes into its input")
    if any(p.requires_grad for m in survey.hidden for p in m.parameters()):
        raise Unpackable("its field hides modules in a function")
    inner = (p for m in survey.modules for p in m._parameters.values())
    if any(p is not None and p.grad_fn is not None for p in inner):
        raise Unpackable("its field has parameters that are computed from others")
    if has_any_global_hook():
        raise Unpackable("all modules have hooks")
    if any(isinstance(m, torch.jit.ScriptModule) for m in modules):
        raise Unpackable("its field is scripted")
