"""The portrait answers clicks and sliders, and its page holds the field it names.

What the page does in a browser is checked by ``make browser``, where there is one.
"""

import base64
import json
import re

import matplotlib as mpl
import numpy as np
import pytest
import torch

import secondorder as so


def pendulum(damping=0.5):
    return so.Newton(lambda t, x: -torch.sin(x), damping=damping)


def portrait(**options):
    return so.plot.interactive(
        pendulum, parameters={"damping": [0.0, 0.5, 1.0]}, t1=5.0, **options
    )


def end(damping, x, v, t):
    state = tuple(torch.tensor([z], dtype=torch.float64) for z in (x, v))
    times = torch.tensor([0.0, t], dtype=torch.float64)
    sol = so.odeint(pendulum(damping), state, times, method="rkn8", rtol=1e-10)
    return [sol.x[-1].item(), sol.v[-1].item()]


def read(page):
    """The numbers of a page, and its fields as arrays."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S
    )
    data = json.loads(text)
    n = data["points"]
    fields = [
        np.frombuffer(base64.b64decode(field), "<f4").reshape(n, n)
        for field in data["fields"]
    ]
    return data, fields


def lines(live):
    """The paths of a live portrait."""
    return [line for line in live.ax.get_lines() if len(line.get_xdata()) > 50]


def press(live, x, y, button=1):
    """Press the mouse at a place in pixels."""
    event = mpl.backend_bases.MouseEvent(
        "button_press_event", live.figure.canvas, x, y, button=button
    )
    live.figure.canvas.callbacks.process("button_press_event", event)


def test_a_click_starts_a_path_and_a_slider_changes_it():
    live = portrait()
    live.figure.canvas.draw()  # the layout is made
    press(live, *live.ax.transData.transform((2.0, 1.0)))
    np.testing.assert_allclose(live.starts, [[2.0, 1.0]], atol=1e-9)
    (path,) = lines(live)
    np.testing.assert_allclose(path.get_xydata()[-1], end(0.5, 2, 1, 5), atol=1e-5)
    live.sliders["damping"].set_val(0.0)
    (path,) = lines(live)
    np.testing.assert_allclose(path.get_xydata()[-1], end(0.0, 2, 1, 5), atol=1e-5)
    live.clear()
    assert not lines(live) and not live.starts


def test_only_the_left_button_within_the_axes_starts_a_path():
    live = so.plot.interactive(pendulum())
    press(live, 0, 0)
    press(live, 250, 200, button=3)
    assert not live.starts
    assert live.start(1.0, 0.0).shape[1] == 2  # as a click does


def test_the_page_holds_the_field_of_each_setting(tmp_path):
    live = portrait(title="<a> & pendulum")
    live.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    data, fields = read(page)
    assert "<title>&lt;a&gt; &amp; pendulum</title>" in page
    assert data["title"] == "<a> & pendulum"
    assert [(s["name"], s["values"], s["start"]) for s in data["sliders"]] == [
        ("damping", [0.0, 0.5, 1.0], 1)
    ]
    assert data["domain"] == {"x": [-8, 8], "v": [-6, 6]}  # twice the rectangle
    x, v = np.linspace(-8, 8, data["points"]), np.linspace(-6, 6, data["points"])
    for damping, field in zip((0.0, 0.5, 1.0), fields, strict=True):
        wanted = -np.sin(x) - damping * v[:, None]
        np.testing.assert_allclose(field, wanted, atol=2e-6)  # float32
    for rest in data["rest"]:
        np.testing.assert_allclose([p["x"] for p in rest], [-np.pi, 0, np.pi])
    kinds = [[p["kind"] for p in rest][1] for rest in data["rest"]]
    assert kinds == ["centre", "stable focus", "stable focus"]


def test_the_page_loads_nothing():
    page = portrait().html()
    assert "default-src 'none'" in page
    for way_out in ("http://", "https://", " src=", "import ", "fetch(", "@import",
                    "url(", "<link", "XMLHttp", "WebSocket"):  # fmt: skip
        assert way_out not in page
    assert "__DATA__" not in page and "__TITLE__" not in page


def test_the_cubic_of_the_page_is_as_exact_as_the_page_says():
    # The weights in page.html, in the middle of a cell; the note names larger errors.
    _, fields = read(so.plot.interactive(pendulum()).html())
    field = fields[0].astype(float)
    quarter = len(field) // 4
    here = field[quarter:-quarter, quarter:-quarter]
    for _ in range(2):
        here = (9 * (here[1:-2] + here[2:-1]) - here[:-3] - here[3:]).T / 16
    x, v = (np.linspace(-s, s, len(field))[quarter:-quarter] for s in (8, 6))
    x, v = ((z[1:-2] + z[2:-1]) / 2 for z in (x, v))
    wanted = -np.sin(x) - 0.5 * v[:, None]
    np.testing.assert_allclose(here, wanted, atol=1e-4 * np.ptp(wanted))
    fast = so.Newton(lambda t, x: torch.sin(200 * x))
    assert "too few to be exact" in so.plot.interactive(fast).data()["note"]


def test_a_notebook_shows_the_page_or_the_live_figure():
    with mpl.rc_context():
        live = portrait()
        inside = live._repr_html_()
    assert inside.startswith("<iframe srcdoc=")
    assert '"application/json"' not in inside  # escaped
    assert not mpl.pyplot.get_fignums()


def test_what_has_no_portrait_is_refused():
    forced = so.Newton(lambda t, x: torch.cos(t) - x)
    with pytest.raises(ValueError, match="`system` depends on time"):
        so.plot.interactive(forced)
    with pytest.raises(TypeError, match="`system` must be a function"):
        so.plot.interactive(pendulum(), parameters={"damping": [0.0, 1.0]})
    with pytest.raises(TypeError, match="`system` must return a system"):
        so.plot.interactive(lambda c: c, parameters={"c": [0.0, 1.0]})
    for bad in ([1.0], [1.0, 0.0], [[0.0, 1.0]], [0.0, np.nan]):
        with pytest.raises(ValueError, match="`parameters` must give"):
            so.plot.interactive(pendulum, parameters={"damping": bad})
    many = {"damping": np.linspace(0, 1, 500)}
    with pytest.raises(ValueError, match="too many for a page"):
        so.plot.interactive(pendulum, parameters=many)
    with pytest.raises(ValueError, match="`ax` cannot be given"):
        portrait(ax=mpl.pyplot.figure().subplots())


def test_no_path_has_the_colour_of_a_nullcline():
    drawn = portrait()
    nullclines = {
        ln.get_color() for ln in drawn.ax.get_lines() if not len(ln.get_xdata())
    }
    assert len(nullclines) >= 2
    paths = {read(drawn.html())[0]["colors"][k] for k in range(5)}
    for k in range(7):
        drawn.start(0.1 * k, 1.0)
    paths |= {ln.get_color() for ln in drawn.ax.get_lines() if len(ln.get_xdata()) > 9}
    assert len(paths) == 5 and not paths & nullclines
