"""The command line: help, exit statuses, and what the commands print and write."""

import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from made_up_record import record

from secondorder.cli import COMMANDS, bench, demo, main, memory, orders, plot, tables
from secondorder.methods import METHODS
from secondorder.training import History


def test_the_package_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "secondorder", "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0
    for name in COMMANDS:
        assert name in run.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"python -m secondorder {name}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["dmeo"], ["orders", "--only", "rk4"]])
def test_a_wrong_command_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_commands_are_imported_only_when_called():
    assert all(find_spec(f"secondorder.cli.{name}") for name in COMMANDS)
    code = (
        "import sys, secondorder.cli as m; "
        "sys.exit(any(f'secondorder.cli.{name}' in sys.modules for name in m.COMMANDS))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_demo_prints_its_table_and_writes_its_figures(tmp_path, capsys):
    state = torch.get_rng_state()
    assert main(["demo", "--quick", "--out", str(tmp_path / "new")]) == 0
    assert torch.equal(state, torch.get_rng_state())
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == sorted(f"{act}.png" for act in demo.ACTS)
    assert all(path.stat().st_size > 10_000 for path in (tmp_path / "new").iterdir())
    text = capsys.readouterr().out
    assert "first order" in text
    assert "−x³" in text
    assert "nested rings" in text
    assert "D = diag(1, −1/2)" in text
    assert "ẍ = −0.4 ẋ − 4 sin x" in text


def test_the_cubic_is_out_of_reach_of_the_first_order_flow_alone(tmp_path):
    def train(model, loss, steps, lr):
        return demo.fit(model, loss, steps // 4, 2 * lr, progress=False)

    with torch.random.fork_rng(devices=[]):
        (row,) = demo.cubic(train, tmp_path)
    first, second = (float(cell.split()[0]) for cell in (row.first, row.second))
    assert first > 0.13  # 1/7 up to the sample, whatever the training
    assert second < 0.03


def test_theory_and_training_agree_on_the_linear_map(tmp_path):
    def train(model, loss, steps, lr):
        return demo.fit(model, loss, steps // 3, lr, progress=False)

    with torch.random.fork_rng(devices=[]):
        reached, floor, witness = demo.linear(train, tmp_path)
    assert float(floor.first) == 0.25
    assert float(reached.first) >= 0.25 - 1e-4
    assert float(reached.first) < 0.26
    assert float(reached.second) < 1e-2  # a twentieth of what is left to the first
    assert float(witness.second) < 1e-8


def test_orders_measures_what_it_is_asked_to_and_draws_it(tmp_path, capsys):
    argv = ["--out", str(tmp_path), "--json", str(tmp_path / "orders.json")]
    assert main(["orders", "--only", "verlet", "chin4", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["verlet", "chin4"]
    assert float(lines[1].split()[2]) == pytest.approx(2, rel=0.05)
    assert float(lines[2].split()[2]) == pytest.approx(4, rel=0.05)
    assert (tmp_path / "orders.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "orders.json").read_text())
    assert [row["order"] for row in rows] == [2, 4]
    assert len(rows[0]["errors"]) == len(rows[0]["evaluations"])


def test_orders_fails_where_the_table_is_wrong(monkeypatch, capsys):
    import dataclasses

    lie = dataclasses.replace(METHODS["verlet"], order=3)
    monkeypatch.setitem(METHODS, "verlet", lie)
    assert main(["orders", "--only", "verlet"]) == 1
    assert "verlet" in capsys.readouterr().out.splitlines()[-1]


def test_the_slope_of_a_power_law_is_its_power():
    work = [10.0, 20.0, 40.0, 80.0]
    errors = [1.0, *(3 * w**-2.5 for w in work[1:])]
    assert orders.slope(work, errors) == pytest.approx(2.5)


def test_memory_grows_with_depth_for_backprop_but_not_for_reversible(tmp_path, capsys):
    argv = ["--depth", "10", "100", "--width", "8", "--batch", "16"]
    assert main(["memory", *argv, "--out", str(tmp_path)]) == 0
    *_, ten, hundred, _, _ = capsys.readouterr().out.splitlines()
    ten, hundred = ([float(cell) for cell in row.split()] for row in (ten, hundred))
    assert (ten.pop(0), hundred.pop(0)) == (10, 100)
    assert hundred[0] == pytest.approx(10 * ten[0])  # backprop
    assert hundred[1] < 5 * ten[1]  # checkpoint: about √N
    assert hundred[2] < 1.5 * ten[2]  # reversible
    assert (tmp_path / "memory.png").exists()


def test_bench_compares_the_routes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "SIZES", [bench.Size(2, 4, 8, 20)])
    assert main(["bench", "--quick", "--json", str(tmp_path / "b.json")]) == 0
    rows = json.loads((tmp_path / "b.json").read_text())
    assert [row["route"] for row in rows] == list(memory.ROUTES)
    assert rows[0]["ratio"] == 1 and rows[0]["bytes"] > rows[2]["bytes"] > 0
    assert "2–4–2, batch 8, 20 layers" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*plot.SYSTEMS, "made_up_system:well"])
def test_plot_draws_a_portrait(name, tmp_path, monkeypatch):
    (tmp_path / "made_up_system.py").write_text(
        "import secondorder as so\nwell = so.SecondOrderODE(lambda t, x: x - x**3)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["plot", name, "--paths", "2", "--out", "pictures", "--page"]) == 0
    assert "<script" in (tmp_path / "pictures" / "portrait.html").read_text()
    assert (tmp_path / "pictures" / "portrait.png").stat().st_size > 10_000


def test_plot_refuses_what_has_no_plane(tmp_path, monkeypatch, capsys):
    (tmp_path / "made_up_plane.py").write_text(
        "import secondorder as so, torch\n"
        "swirl = so.Newton(lambda t, x: x @ torch.ones(2, 2, dtype=x.dtype))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "system" in refused(main, ["plot", "made_up_plane:swirl"], capsys)


def test_lines_fit_the_terminal(monkeypatch):
    line = "x" * 100
    assert tables.fitted(line) == line  # into a file
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert tables.fitted(line) == "x" * 79 + "…"


def test_saved_bytes_counts_each_storage_once_and_no_weights():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    x = torch.zeros(3, 4)
    # The linear layer saves its input (3 × 4), tanh its output (3 × 4).
    assert memory.saved_bytes(model, x) == 2 * 12 * 4


def test_the_demo_reports_every_silverbox_model(monkeypatch, capsys, tmp_path):
    made_up = record()
    monkeypatch.setattr(demo.data, "silverbox", lambda path: made_up)
    argv = ["--fast", "--only", "linear", "--out", str(tmp_path)]
    assert demo.main([*argv, "--silverbox", "SNLS80mV.csv", "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    assert "median of 2 seeds [range]" in text
    for name in ("white box", "neural  ", "neural + x³"):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert len(re.findall(r"\d+\.\d{3}", line)) == (6 if "seeds" in line else 2)


def refused(call, argv, capsys):
    """The line with which a command refuses its arguments, before any work."""
    with pytest.raises(SystemExit) as stop:
        call(argv)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and printed.err.endswith("--help)\n")
    return printed.err


BAD = {
    "memory --depth 0": "--depth",
    "memory --depth -3": "--depth",
    "memory --depth 10 2.5": "--depth",
    "memory --depth 1e3": "--depth",
    "memory --depth ten": "--depth",
    "memory --depth": "--depth",
    "memory --width 0": "--width",
    "memory --batch 0": "--batch",
    "memory --gamma 1": "--gamma",
    "memory --gamma -0.1": "--gamma",
    "memory --gamma 0": "--gamma",  # the reversible route has nothing to reverse
    "memory --gamma nan": "--gamma",
    "memory --gamma much": "--gamma",
    "memory --gamma 1e-320": "--gamma",
    "memory --out {tmp}/file": "--out",
    "memory --out {tmp}/file/below": "--out",
    "memory --out /proc/nowhere": "--out",
    "memory --out {tmp}/held": "memory.png",
    "memory extra": "extra",
    "memory --dpeth 3": "--dpeth",
    "orders --only rk4": "--only",
    "orders --out {tmp}/file": "--out",
    "orders --out /proc/nowhere": "--out",
    "orders --out {tmp}/held": "orders.png",
    "demo --only cubic oscilator": "--only",
    "demo --out {tmp}/file": "--out",
    "demo --out {tmp}/held --only linear rings": "rings.png",
    "demo --silverbox {tmp}/no.csv": "nonlinear-benchmarks",
    "demo --silverbox {tmp}/file": "SHA-256",
    "demo --silverbox {tmp}": "--silverbox",
    "demo --seeds 0": "--seeds",
    "demo --json {tmp}": "--json",
    "orders --json {tmp}/no/file.json": "--json",
    "bench --repeats 0": "--repeats",
    "bench --device nowhere": "--device",
    "bench --json {tmp}": "--json",
    "plot": "system",
    "plot nosuch": "double_well",
    "plot no.such:thing": "no",
    "plot secondorder:odeint": "so.Newton",
    "plot pendulum --xlim 1 1": "--xlim",
    "plot pendulum --vlim 1": "--vlim",
    "plot pendulum --paths 0": "--paths",
    "plot pendulum --time nan": "--time",
    "plot pendulum --out {tmp}/held": "portrait.png",
    "verify --out {tmp}/file": "--out",
    "verify --out {tmp}/held": "verify.png",
    "verify --quick --out /proc/nowhere": "--out",
    "verify --quikc": "--quikc",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_arguments_are_refused_in_one_line_before_any_work(line, tmp_path, capsys):
    (tmp_path / "file").write_text("not a record, and no directory\n")
    for name in ("memory", "orders", "rings", "portrait", "verify"):
        (tmp_path / "held" / f"{name}.png").mkdir(parents=True)  # no file goes there
    before = sorted(tmp_path.rglob("*"))
    command, *argv = line.format(tmp=tmp_path).split(" ")
    text = refused(main, [command, *argv], capsys)
    assert text.startswith(f"python -m secondorder {command}: ")
    assert BAD[line] in text
    module = import_module(f"secondorder.cli.{command}")
    assert refused(module.main, argv, capsys) == text
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_directory_name_is_refused(capsys):
    for command in ("memory", "orders", "demo"):
        assert "--out" in refused(main, [command, "--out", ""], capsys)


def test_a_closed_directory_is_refused(tmp_path, monkeypatch, capsys):
    # To root, who runs the CI, no directory is closed: let the system say it is.
    denied = failing(PermissionError(13, "Permission denied"))
    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    assert "denied" in refused(main, ["memory", "--out", f"{tmp_path}"], capsys)


def test_the_status_of_the_process_is_two():
    argv = [sys.executable, "-m", "secondorder", "memory", "--gamma", "7"]
    run = subprocess.run(argv, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == "" and run.stderr.count("\n") == 1


def failing(error):
    def fails(*args, **kwargs):
        raise error

    return fails


def test_status_one_is_for_failed_checks_only(monkeypatch, capsys):
    argv = ["memory", "--depth", "1"]
    for error, status, text in (
        (OSError(28, "No space left on device"), 2, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("a bug"), 3, "RuntimeError: a bug"),
    ):
        monkeypatch.setattr(memory, "main", failing(error))
        try:
            assert main(argv) == status
        except SystemExit as stop:
            assert stop.code == status
        assert text in capsys.readouterr().err


def test_an_interrupted_demo_ends_and_prints_no_table(monkeypatch, tmp_path, capsys):
    """``fit`` returns what it has; the demo must not go on with that."""
    calls = []

    def press_ctrl_c(model, loss, *args):
        calls.append(model)
        return History([1.0], "interrupted at step 1 (last finite loss 1)")

    monkeypatch.setattr(demo, "fit", press_ctrl_c)
    assert main(["demo", "--fast", "--out", str(tmp_path)]) == 130
    assert len(calls) == 1
    assert "what theory says" not in capsys.readouterr().out


def test_an_order_is_measured_from_the_first_steps_that_a_method_stands(monkeypatch):
    """Some methods refuse large steps, which does not make their order wrong."""
    wanted, solve = orders.truth(), orders.odeint
    usual = orders.measure("verlet", wanted)

    def refuses(*args, step_size, **how):
        if step_size > orders.END / 20 or how["method"] == "momentum":
            raise RuntimeError("take smaller steps")
        return solve(*args, step_size=step_size, **how)

    monkeypatch.setattr(orders, "odeint", refuses)
    evaluations, errors = orders.measure("verlet", wanted)
    assert errors == usual[1][-len(errors) :] and len(errors) == len(usual[1]) - 5
    with pytest.raises(RuntimeError, match="smaller steps"):  # none it stands
        orders.measure("momentum", wanted)
