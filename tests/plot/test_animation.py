"""An animation shows the states of its times, plays in a notebook, and can be saved."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import secondorder as so

D = torch.float64
springs = so.Newton(lambda t, x: -x)
t = torch.linspace(0, 6, 61, dtype=D)
start = torch.tensor([[1.0], [2.0]], dtype=D), None
sol = so.odeint(springs, start, t, method="blanes_moan6")


def parts(motion):
    dots, tails = motion.ax.collections[-2:]
    return np.asarray(dots.get_offsets()), tails.get_segments()


def test_each_frame_has_the_states_of_its_time_and_a_trail_that_ends_there():
    motion = so.plot.animate(sol, seconds=1, fps=10, trail=0.5, time="depth")
    assert isinstance(motion, mpl.animation.FuncAnimation)
    np.testing.assert_allclose(motion.times, np.linspace(0, 6, 11))
    for index, now in enumerate(motion.times):
        motion._func(index)
        dots, tails = parts(motion)
        wanted = np.array([1, 2])[:, None] * [[np.cos(now), -np.sin(now)]]
        np.testing.assert_allclose(dots, wanted, atol=1e-4)  # O(h³), h = 0.1
        for dot, tail in zip(dots, tails, strict=True):
            np.testing.assert_array_equal(tail[-1], dot)
            size = np.hypot(*dot)
            np.testing.assert_allclose(np.hypot(*tail.T), size, rtol=1e-3)
        assert motion.ax.get_title() == f"depth = {now:.2f}"
    first = np.array([np.cos(3), -np.sin(3)])  # half of the time behind the end
    np.testing.assert_allclose(tails[0][0], first, atol=1e-3)
    assert (motion.ax.get_xlabel(), motion.ax.get_ylabel()) == (
        "position x",
        "velocity v",
    )


def test_states_of_two_coordinates_move_in_their_plane_in_their_colours():
    wide = so.odeint(springs, (torch.randn(5, 3, dtype=D), None), t)
    colors = [so.plot.palette(2)[k] for k in (0, 1, 1, 0, 1)]
    motion = so.plot.animate(wide, axes=(2, 0), color=colors, trail=0)
    motion._func(0)
    dots, tails = parts(motion)
    np.testing.assert_array_equal(dots, wide.x[0][:, [2, 0]])
    assert not tails
    faces = [
        mpl.colors.to_hex(c).upper() for c in motion.ax.collections[-2]._facecolors
    ]
    assert faces == colors
    assert (motion.ax.get_xlabel(), motion.ax.get_ylabel()) == ("x₃", "x₁")
    motion = so.plot.animate(wide, coordinate=1)
    np.testing.assert_array_equal(parts(motion)[0][:, 1], wide.v[0][:, 1])


def test_times_may_run_backwards_and_axes_are_those_given():
    back = so.odeint(springs, start, t.flip(0), method="blanes_moan6")
    fig, ax = plt.subplots()
    motion = so.plot.animate(back, ax, system=springs, seconds=1, fps=4)
    assert motion.ax is ax
    np.testing.assert_allclose(motion.times, [6, 4.5, 3, 1.5, 0])
    np.testing.assert_array_equal(parts(motion)[0][:, 0], [1, 2])
    assert any(isinstance(c, mpl.quiver.Quiver) for c in ax.collections)
    assert plt.get_fignums() == [fig.number]


def test_a_gif_has_all_frames_and_a_film_without_ffmpeg_says_so(tmp_path):
    motion = so.plot.animate(sol, seconds=0.4, fps=10)
    motion.save(tmp_path / "motion.gif", dpi=40)
    with Image.open(tmp_path / "motion.gif") as image:
        assert image.n_frames == 5
        assert image.info["duration"] == 100
    with pytest.raises(ValueError, match="`filename` must end in .gif"):
        motion.save(tmp_path / "motion.doc")
    with (
        mpl.rc_context({"animation.ffmpeg_path": "no-such-program"}),
        pytest.raises(ValueError, match="needs the program ffmpeg"),
    ):
        motion.save(tmp_path / "motion.mp4")


def test_a_notebook_plays_it_and_shows_no_second_figure():
    with mpl.rc_context({"savefig.dpi": 40}):
        page = so.plot.animate(sol, seconds=0.4, fps=10)._repr_html_()
    assert page.count("data:image/png;base64") == 5
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seconds": 0}, "seconds"),
        ({"fps": -1}, "fps"),
        ({"trail": 2}, "trail"),
        ({"axes": (0, 1), "coordinate": 0}, "axes"),
        ({"color": ["r"] * 3}, "color"),
    ],
)
def test_bad_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        so.plot.animate(sol, **options)
    coarse = type("Bare", (), {"t": t[::20], "x": sol.x[::20], "v": sol.v[::20]})()
    with pytest.raises(ValueError, match="`sol` has too few times"):
        so.plot.animate(coarse)
