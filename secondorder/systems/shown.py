"""What a system says of itself: its equation, its numbers, its field."""

from typing import Any

from torch import Tensor, nn

from .. import checks
from ..solution import table
from .fields import Forced, name_of
from .matrices import MatrixForce
from .stiffness import Restored


def equation(system: Any) -> str:
    """The equation, with capital letters where its numbers are matrices."""
    said = str(system.equation)
    inner = core(system)
    if isinstance(inner, Restored):
        said = said.replace(" =", " + K x =")
    if isinstance(inner, MatrixForce) or system.modes is not None:
        said = said.replace("m ", "M ").replace("c ", "C ")
    return said


def numbers(system: Any) -> dict[str, str]:
    """The numbers of the equation in words, and whether they are learned."""
    inner = core(system)
    if system.modes is not None:
        found = {"modes": f"{tuple(system.modes.shape)}"}
        return found | {"damping of the modes": said(system, "damping")}
    holder = inner if isinstance(inner, MatrixForce) else system
    found = {name: said(holder, name) for name in system.named}
    if isinstance(inner, Restored):
        found["stiffness"] = said(inner, "stiffness")
    return found


def said(holder: Any, name: str) -> str:
    """A number in words."""
    value = getattr(holder, name)
    learned = isinstance(value, Tensor) and value.requires_grad
    return checks.describe(value) + (" (learned)" if learned else "")


def core(system: Any) -> Any:
    """The field inside what drives it."""
    return system.field.field if isinstance(system.field, Forced) else system.field


def law(system: Any) -> Any:
    """The field as it was given, without the matrices around it."""
    inner = core(system)
    wrapped = isinstance(inner, (MatrixForce, Restored))
    return inner.force if wrapped else system.field


def text(system: Any) -> str:
    """One line."""
    parts = [equation(system)]
    parts += [f"{name}={value}" for name, value in numbers(system).items()]
    field = law(system)
    if not isinstance(field, nn.Module):
        parts.append(f"field={name_of(field)}")
    return ", ".join(parts)


def html(system: Any) -> str:
    """A table for notebooks, with the tree of modules folded."""
    learned = sum(p.numel() for p in system.parameters() if p.requires_grad)
    rows = {"equation": equation(system), **numbers(system)}
    rows |= {"field": name_of(law(system)), "learned parameters": f"{learned}"}
    return table(type(system).__name__, rows, folded=repr(system))
