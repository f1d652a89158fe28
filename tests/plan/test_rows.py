"""Plans as rows: the same states as the moves themselves give."""

import pytest
import torch
from problems import Field, noise

import secondorder as so
from secondorder.gradients.tape import changes_of_units, host_weights
from secondorder.plan import Damp, Drift, Kick, Record, compile_plan, walk
from secondorder.plan.rows import CHUNK, SPAN, Unpackable, grid_rows, pack


def packed(plan):
    """The rows of a plan."""
    plan = list(plan)
    return pack(plan, changes_of_units(plan, host_weights(plan))[0])


def run(rows, field, x, v):
    """Follow rows as their docstring says."""
    states = []
    for n, (d0, c1, k1, d1, r, c2, k2) in enumerate(rows.table):
        x = x + d0 * v
        f = field(rows.times[n], x)
        if rows.inner:
            f = field(rows.times[n], x + rows.inner[n] * f)
        v = c1 * v + k1 * f
        x = x + d1 * v
        if n in rows.marks:
            states.append((x, r * v))
        v = c2 * v + k2 * f
    return states


@pytest.mark.parametrize("counts", [[1, 1, 1], [4, 7], [13]])
@pytest.mark.parametrize("name", ["momentum", "verlet", "blanes_moan4", "chin4"])
def test_rows_give_the_states_of_the_moves(name, counts):
    field, x, v = Field(), *noise(2, 4, 3, dtype=torch.float64)
    t = torch.linspace(0, 1, len(counts) + 1, dtype=torch.float64)
    system = so.SecondOrder(field, epsilon=0.5)
    plan = compile_plan(so.METHODS[name], system, t, counts, x)
    rows = packed(plan)
    assert len(rows.table) % CHUNK == 0 and len(rows.table) >= SPAN
    assert rows.last_only == (len(counts) == 1)
    for ours, theirs in zip(
        run(rows, field, x, v), walk(plan, field, x, v)[0], strict=True
    ):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_plans_without_rows_are_refused():
    kick, end = Kick(1.0, torch.tensor(0.0)), Record()
    for plan in (
        [kick, Drift(torch.ones(3)), end],
        [kick._replace(velocity_copy=1), end],
        [kick, Record(), Record()],
        [kick, Drift(1.0)],
        [kick._replace(time=3), Drift(1.0), kick, end],  # a layer, and a time
    ):
        with pytest.raises(Unpackable):
            packed(plan)


def test_damping_that_outruns_the_bytes_is_refused():
    step = [Damp(1e-3), Kick(1.0, torch.tensor(0.0)), Drift(1.0)]
    with pytest.raises(Unpackable, match="damping"):
        grid_rows(packed([*(3 * step), Record()]))
