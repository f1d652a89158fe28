"""Click at a page of ``so.plot.interactive`` in a headless browser: ``make browser``.

The suite checks what the page holds; this checks what it does: a click, a slider and
the box for the way back, with no network, against ``odeint``.  Needs chromium.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

import secondorder as so

mpl.use("Agg")

CLICKS = """
<script>
window.onerror = message => { document.title = "error: " + message; };
const at = (x, v, name) => {
  const rect = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new PointerEvent(name, {bubbles: true, buttons: 1,
    clientX: rect.left + across(x), clientY: rect.top + up(v)}));
};
const ends = () => paths.map(path => [path.x, path.v, ...path.there.at(-1)]);
at(2, 0, "pointerdown");
const report = {click: ends()};
at(1, 1, "pointermove");
window.dispatchEvent(new PointerEvent("pointerup"));
report.drag = ends();
const slider = document.getElementById("slider-damping");
slider.value = 0; slider.dispatchEvent(new Event("input"));
report.slider = ends();
find("backwards").click();
report.back = paths[0].back.at(-1);
find("clear").click();
report.cleared = paths.length;
report.loaded = performance.getEntriesByType("resource").length;
document.title = JSON.stringify(report);
</script>
"""


def pendulum(damping):
    return so.Newton(lambda t, x: -torch.sin(x), damping=damping)


def end(damping, x, v, t):
    """The state after t, by odeint."""
    state = tuple(torch.tensor([z], dtype=torch.float64) for z in (x, v))
    times = torch.tensor([0.0, t], dtype=torch.float64)
    sol = so.odeint(pendulum(damping), state, times, method="rkn8", rtol=1e-9)
    return sol.x[-1].item(), sol.v[-1].item()


def clicked(browser):
    """What the page says after the clicks."""
    portrait = so.plot.interactive(
        pendulum, t1=10.0, parameters={"damping": np.linspace(0, 1, 5)}
    )
    page = portrait.html().replace("</body>", CLICKS + "</body>")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        run = subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
             "--virtual-time-budget=3000", f"--user-data-dir={folder}/profile",
             path.as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", run.stdout)
    if not title or not title[1].startswith("{"):
        sys.exit(f"the page did not answer: {title and title[1]}\n{run.stderr[-2000:]}")
    return json.loads(title[1])


def main():
    browser = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("google-chrome")
    )
    if not browser:
        sys.exit("no chromium found: install it, or say CHROMIUM=path")
    report = clicked(browser)
    wrong = []
    for name, damping, start in (
        ("click", 0.5, (2, 0)),
        ("drag", 0.5, (1, 1)),
        ("slider", 0.0, (1, 1)),
    ):
        ((x, v, t, *found),) = report[name]
        wanted = end(damping, x, v, 10.0)
        off = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
        print(f"{name:7} from ({x:.3f}, {v:.3f}): off by {off:.1e}")
        if t != 10 or off > 2e-3 or max(abs(x - start[0]), abs(v - start[1])) > 0.02:
            wrong.append(name)
    t, *found = report["back"]
    wanted = end(0.0, *report["slider"][0][:2], -10.0)
    off = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
    print(f"{'back':7} {off:.1e}")
    wrong += ["back"] * (t != 10 or off > 2e-3)
    wrong += [name for name in ("cleared", "loaded") if report[name]]
    print("wrong: " + ", ".join(wrong) if wrong else "the page does what it should")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
