"""Numbers that remember how they came from numbers that are learned.

    w = Expression of a tensor:   float(w) is its value,   w.tensor is differentiable

Code that composes floats by + and × composes these, too, and equal compositions are
made once: a plan of a thousand equal steps takes as many operations as one step.
"""

from typing import Any

from torch import Tensor


class Expression(float):
    """A number with the 0-d tensor that it is the value of."""

    tensor: Tensor
    made: dict[Any, Any]

    @classmethod
    def of(cls, tensor: Tensor, made: dict[Any, Any]) -> "Expression":
        """The expression of a tensor with one entry, found again in ``made``."""
        key = id(tensor)
        if key not in made:
            value = cls(tensor.item())
            value.tensor = tensor.reshape(()).double().cpu()
            value.made, made[key] = made, (value, tensor)
        found: Expression = made[key][0]
        return found

    def with_number(self, how: str, other: float) -> "Expression":
        """The sum or the product with another number."""
        known = isinstance(other, Expression)
        key = how, id(self), id(other) if known else float(other)
        if key not in self.made:
            one, two = self.tensor, getattr(other, "tensor", other)
            plain = float(self), float(other)
            if how == "+":
                value, tensor = Expression(plain[0] + plain[1]), one + two
            else:
                value, tensor = Expression(plain[0] * plain[1]), one * two
            value.tensor, value.made = tensor, self.made
            self.made[key] = value, other  # which is kept, so that its id is its own
        found: Expression = self.made[key][0]
        return found

    def __mul__(self, other: Any) -> "Expression":
        plain = type(other) in (int, float)
        return self if plain and other == 1 else self.with_number("*", other)

    def __add__(self, other: Any) -> "Expression":
        plain = type(other) in (int, float)
        return self if plain and other == 0 else self.with_number("+", other)

    def __truediv__(self, other: Any) -> "Expression":
        return self * (1 / other)  # by powers of two, where units change

    __rmul__, __radd__ = __mul__, __add__
