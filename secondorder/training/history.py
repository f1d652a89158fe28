"""What happened during a training: losses, validations, why it ended.

A notebook shows it as a curve and a small table; ``so.plot.losses(history)`` draws it.
"""

import math
from dataclasses import dataclass, field
from html import escape

WIDE, HIGH = 360, 120  # of the curve in a notebook, in pixels
ROWS = 8  # of the table there


@dataclass
class History:
    """What happened during ``fit``; plot it with ``so.plot.losses(history)``.

    Attributes
    ----------
    loss : list of float
        The loss before each update.  The last entry belongs to the model before the
        last update.
    stopped : str
        Empty if all steps were made, else why not and where: numbers that are not
        finite, a parameter out of its range, no better validation, a callback,
        ``"converged"`` or ``"interrupted"``.
    validation : list of float
        Validation losses, if there is a ``validation``.
    validated : list of int
        After how many updates each of them was taken.
    lr : list of float
        The learning rate of each update (of the first parameter group).
    best : int or None
        After how many updates the validation was least; with ``patience``, the model
        is the one of then.
    members : list of list of float
        For an ensemble, the losses of all members before each update, NaN for one that
        broke down; ``loss`` is then their median.
    """

    loss: list[float] = field(default_factory=list)
    stopped: str = ""
    validation: list[float] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    best: int | None = None
    members: list[list[float]] = field(default_factory=list)

    def __repr__(self) -> str:
        """Show the ends of the curve rather than all of it."""
        if not self.loss:
            return f"History(no steps{', ' + self.stopped if self.stopped else ''})"
        end = f", stopped: {self.stopped}" if self.stopped else ""
        if self.best is not None:
            least = self.validation[self.validated.index(self.best)]
            end = f", best validation {least:.3g} after {self.best}{end}"
        first, last = self.loss[0], self.loss[-1]
        return f"History({len(self.loss)} steps, loss {first:.3g} to {last:.3g}{end})"

    @property
    def table(self) -> dict[str, list[float]]:
        """Columns of one length, for ``pandas.DataFrame(history.table)`` or a file.

        ``validation`` is NaN after the updates at which it was not taken.
        """
        steps = range(1, len(self.loss) + 1)
        columns: dict[str, list[float]] = {"step": [*steps], "loss": [*self.loss]}
        if self.lr:
            columns["lr"] = [*self.lr]
        if self.validation:
            found = dict(zip(self.validated, self.validation, strict=True))
            columns["validation"] = [found.get(step, math.nan) for step in steps]
        return columns

    def _repr_html_(self) -> str:
        """A curve and some rows of the table, for notebooks."""
        columns = self.table
        title = f"<p><code>{escape(repr(self))}</code></p>"
        if not self.loss:
            return title
        last = len(self.loss) - 1
        shown = sorted({round(k * last / (ROWS - 1)) for k in range(ROWS)})
        head = "".join(f"<th>{name}</th>" for name in columns)
        rows = (
            "".join(f"<td>{column[i]:.4g}</td>" for column in columns.values())
            for i in shown
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"{title}{curve(self.loss)}<table><tr>{head}</tr>{body}</table>"


def curve(losses: list[float]) -> str:
    """The losses as an SVG line, logarithmic where all of them are positive."""
    finite = [(i, y) for i, y in enumerate(losses) if math.isfinite(y)]
    if len(finite) < 2:
        return ""
    kind = ""
    if all(y > 0 for _, y in finite):
        kind = ", logarithmic"
        finite = [(i, math.log(y)) for i, y in finite]
    every = -(-len(finite) // WIDE)  # a point per pixel is enough
    finite = finite[::every] + finite[-1:]
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    x_unit = (WIDE - 4) / max(1, len(losses) - 1)
    y_unit = (HIGH - 4) / ((high - low) or 1.0)
    points = " ".join(
        f"{2 + x_unit * i:.1f},{2 + y_unit * (high - y):.1f}" for i, y in finite
    )
    return (
        f'<svg width="{WIDE}" height="{HIGH}" role="img"><title>loss{kind}</title>'
        f'<polyline points="{points}" fill="none" stroke="#0072B2"/></svg>'
    )
