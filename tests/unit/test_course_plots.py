"""Image grids, files and the player."""

import base64
import io
import itertools
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.transforms import Bbox
from PIL import Image

from utils.course import COLOURS, animate, denoising_strip, name_bars, plain_ticks, show_images
from utils.course.player import MAX_BYTES
from utils.course.plots import STYLE, as_images, picture_of


@pytest.fixture(autouse=True)
def figures_closed():
    plt.rcParams.update(STYLE)
    yield
    plt.close("all")


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_values_outside_the_range_are_clamped_not_wrapped():
    images = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0, float("inf")]).reshape(1, 1, 1, 6)
    assert picture_of(images, 1, 2)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_all_256_levels_come_back():
    levels = torch.arange(256).view(1, 1, 16, 16)
    assert (picture_of(levels / 127.5 - 1, 1, 2)[..., 0] == levels[0, 0].numpy()).all()


def test_colour_channels_keep_their_order_and_grey_is_repeated():
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
    assert picture_of(red, 1, 2)[0, 0].tolist() == [255, 0, 0]
    assert as_images(np.ones((2, 4, 5))).shape == (2, 1, 4, 5)
    assert picture_of(as_images(torch.ones(2, 4, 5)), 2, 1).shape == (4, 11, 3)


@pytest.mark.parametrize("shape", [(3, 2, 8, 8), (8, 8), (0, 1, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\)"):
        show_images(torch.zeros(shape))


def test_nan_is_refused_with_its_count():
    images = torch.zeros(1, 1, 2, 2)
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 of 4 image values are not a number"):
        show_images(images)


def test_a_grid_has_every_image_in_its_place():
    images = (torch.arange(5.0) * 51 / 127.5 - 1).view(5, 1, 1, 1).expand(5, 1, 2, 3)
    grid = picture_of(images, columns=2, gap=1)
    assert grid.shape == (3 * 2 + 2 * 1, 2 * 3 + 1, 3)
    places = [(0, 0), (0, 4), (3, 0), (3, 4), (6, 0), (6, 4), (2, 0)]  # the last two are white
    assert [int(grid[place][0]) for place in places] == [0, 51, 102, 153, 204, 255, 255]


def test_titles_stand_above_their_images():
    axes = show_images(torch.full((4, 1, 8, 8), -1.0), titles=list("abcd"), columns=2).axes[0]
    grid = axes.images[0].get_array()
    for text in axes.texts:
        x, y = (int(value) for value in text.get_position())
        assert (y == -1 or grid[y, x, 0] == 255) and grid[y + 1, x, 0] == 0  # on white, right above the image


@pytest.mark.parametrize("scale", [1, 3])
def test_each_image_pixel_covers_a_whole_number_of_figure_pixels(scale):
    image = (torch.randint(0, 256, (1, 1, 9, 13)) / 127.5) - 1
    expected = picture_of(image, 1, 2).repeat(scale, 0).repeat(scale, 1)
    drawn = pixels(show_images(image, scale=scale, title="a title much longer than the image is wide"))
    windows = np.lib.stride_tricks.sliding_window_view(drawn, expected.shape)
    assert any((window == expected).all() for window in windows.reshape(-1, *expected.shape))


@pytest.mark.parametrize(
    "named",
    [{}, {"title": "Title"}, {"title": "Two\nlines"}, {"titles": ["a"] * 2}, {"title": "T", "titles": ["t"] * 2}],
)
def test_there_is_no_empty_strip_around_a_grid(named):
    drawn = pixels(show_images(torch.full((2, 1, 28, 28), -1.0), scale=4, **named))
    rows = np.flatnonzero((drawn < 250).any((1, 2)))
    assert 6 <= rows[0] <= 14 and len(drawn) - 1 - rows[-1] == 10


def test_show_images_draws_into_given_axes():
    figure, axes = plt.subplots(1, 2)
    assert show_images(torch.zeros(4, 1, 8, 8), ax=axes[1], titles=list("abcd"), title="four") is figure
    assert [text.get_text() for text in axes[1].texts] == list("abcd")
    assert not axes[0].images and len(axes[1].images) == 1


def test_one_title_to_each_image():
    with pytest.raises(ValueError, match="2 titles for 3 images"):
        show_images(torch.zeros(3, 1, 8, 8), titles=["a", "b"])


def test_a_figure_that_is_the_last_value_of_a_cell_is_shown_once(monkeypatch):
    shown = []
    monkeypatch.setattr("utils.course.plots.display", lambda data, raw: shown.append(data))
    figure = show_images(torch.zeros(1, 8, 8))
    figure._ipython_display_()
    assert [set(data) for data in shown] == [{"image/png", "text/plain"}]
    # What is still open at the end of the cell would be shown again.
    assert not plt.get_fignums()


def test_denoising_strip_has_a_column_for_each_state():
    states = [torch.full((2, 1, 4, 4), value) for value in (-1.0, 0.0, 1.0)]
    figure = denoising_strip(states, titles=["t=0", "t=5", "t=10"])
    grid = figure.axes[0].images[0].get_array()
    assert [int(grid[y, x, 0]) for y in (1, 8) for x in (1, 7, 13)] == [0, 128, 255] * 2
    assert [text.get_text() for text in figure.axes[0].texts] == ["t=0", "t=5", "t=10", "", "", ""]


def test_plain_ticks_writes_plain_numbers():
    figure, ax = plt.subplots()
    ax.semilogy([1, 2], [0.4, 60])
    ax.set_ylim(0.4, 60)
    plain_ticks(ax)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    plt.close(figure)
    assert labels == ["0.5", "1", "2", "5", "10", "20", "50"]


def frames_of(page):
    encoded = json.loads(re.search(r"const frames = (\[.*?\]), labels", page).group(1))
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(frame))).convert("RGB")) for frame in encoded]


def test_animate_holds_every_frame_at_the_pixels_of_the_images():
    values = np.linspace(-1, 1, 5)
    page = animate([torch.full((4, 1, 8, 8), value) for value in values], columns=2).data
    frames = frames_of(page)
    assert [frame.shape for frame in frames] == [(17, 17, 3)] * 5
    assert [int(frame[3, 3, 0]) for frame in frames] == pytest.approx([0, 64, 128, 191, 255], abs=3)
    width = int(re.search(r"display:block;width:(\d+)px", page).group(1))
    assert width % 17 == 0 and width >= 17


def test_animate_needs_nothing_from_outside():
    page = animate([torch.zeros(1, 1, 8, 8)] * 2).data
    assert not re.search(r"https?:|//cdn|require\(|src=(?!\"data:)", page)


def test_players_are_deterministic_and_do_not_collide():
    frames = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)]
    name = re.compile(r"course-player-\w+")
    assert animate(frames).data == animate(frames).data
    assert name.findall(animate(frames).data) != name.findall(animate(frames, title="other").data)


def test_text_in_a_player_cannot_become_markup_or_a_placeholder():
    text = "</script><b>$frames & ${labels} $$</b>"
    page = animate([torch.zeros(1, 1, 8, 8)], titles=[text], title=text).data
    assert page.count("</script>") == 1 and "<b>" not in page.split("<script>")[0]
    assert json.loads(re.search(r"labels = (\[.*?\]), delay", page).group(1)) == [text]


def test_long_animations_get_a_lower_quality_and_too_long_ones_are_refused():
    noise = torch.randn(90, 36, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert 1_000_000 < len(animate(list(noise)).data) < MAX_BYTES
    with pytest.raises(ValueError, match="270 frames .* Use fewer frames"):
        animate(list(noise) * 3)


@pytest.mark.parametrize(
    ("frames", "titles", "message"),
    [
        ([], None, "no frames"),
        ([torch.zeros(1, 1, 8, 8)], ["a", "b"], "2 titles for 1 frames"),
        ([torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 9, 8)], None, "several sizes"),
    ],
)
def test_bad_frames_are_refused(frames, titles, message):
    with pytest.raises(ValueError, match=message):
        animate(frames, titles=titles)


def test_colours_are_told_apart_without_red_or_green():
    """Machado et al. (2009): deuteranopia and protanopia at full severity, on linear RGB."""
    deuteranopia = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protanopia = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    rgb = np.array([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in COLOURS])
    for matrix in (deuteranopia, protanopia):
        seen = (rgb**2.2 @ np.array(matrix).T).clip(0, 1) ** (1 / 2.2)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen)) * 9
        assert distance.min() > 0.15


def test_names_of_bars_keep_clear_of_each_other_of_bars_and_of_the_edge():
    bars = {"far left": (0.01, 20, 26), "one": (20, 58, 64), "its neighbour": (30, 57, 63), "above both": (25, 66, 71)}
    figure, ax = plt.subplots()
    ax.set(xscale="log", xlim=(0.009, 1000), ylim=(0, 80))
    name_bars(ax, bars)
    figure.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert set(boxes) == set(bars)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes.values(), 2))
    for x, low, high in bars.values():
        bar = Bbox(ax.transData.transform([(x, low), (x, high)])).padded(4)
        assert not bar.count_overlaps(list(boxes.values()))
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes.values())
    assert boxes["above both"].y0 > ax.transData.transform((25, 71))[1]  # above, where there is room


def test_a_name_without_room_stands_above_its_bar():
    figure, ax = plt.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    name_bars(ax, {"much too long " * 20: (0.5, 0.4, 0.6)})
    figure.canvas.draw()
    assert ax.texts[0].get_window_extent().y0 > ax.transData.transform((0.5, 0.6))[1]
