"""play: controls and redrawing, without a front end."""

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from utils.course import play
from utils.course.widgets import make_control, render


@pytest.fixture
def page(monkeypatch):
    """The widget that play displays."""
    shown = []
    monkeypatch.setattr("utils.course.widgets.display", shown.append)
    yield shown
    plt.close("all")


def draw(level=0.25, colour="black"):
    if level < 0:
        raise ValueError(f"level is {level} < 0")
    print(f"<level {level}>")
    figure = plt.figure(figsize=(1, 1), dpi=20, facecolor=(level,) * 3, layout="none")
    return figure.axes


def brightness(image):
    return int(np.asarray(Image.open(io.BytesIO(image.value)).convert("L"))[10, 10])


def test_moving_a_control_redraws_the_figure_and_the_text(page):
    play(draw, level=(-1.0, 1.0), colour=["black", "white"])
    level, colour, image, text = page[0].children
    assert (level.value, colour.value) == (0.25, "black")
    assert brightness(image) == pytest.approx(64, abs=1)
    assert "&lt;level 0.25&gt;" in text.value
    level.value = 1.0
    assert brightness(image) == 255
    assert "level 1.0" in text.value


def test_no_figure_stays_open(page):
    mine = plt.figure()
    play(draw, level=(0.0, 1.0))
    page[0].children[0].value = 0.5
    assert plt.get_fignums() == [mine.number]


def test_an_error_in_the_first_drawing_fails_the_cell(page):
    with pytest.raises(ValueError, match="level is -1"):
        play(lambda level: draw(level), level=[-1, 0.5])
    assert not page and not plt.get_fignums()


def test_a_later_error_is_shown_and_the_control_goes_on_working(page):
    play(draw, level=(-1.0, 1.0))
    level, image, text = page[0].children
    level.value = -1.0
    assert "ValueError: level is -1.0 &lt; 0" in text.value
    level.value = 1.0
    assert "Error" not in text.value and brightness(image) == 255


def test_a_draw_without_a_figure_says_what_to_do():
    with pytest.raises(ValueError, match=r"nothing made no figure.*plt.subplots\(\)"):
        render(lambda_named("nothing"), {})


def lambda_named(name):
    def function():
        return None

    function.__name__ = name
    return function


@pytest.mark.parametrize(
    ("spec", "start", "kind", "value"),
    [
        ((0, 999, 10), None, ipywidgets.IntSlider, 490),
        ((0, 10), 3, ipywidgets.IntSlider, 3),
        ((0.0, 1.0, 0.1), None, ipywidgets.FloatSlider, 0.5),
        ((0, 2.0), None, ipywidgets.FloatSlider, 1.0),
        (["cosine", "linear"], None, ipywidgets.Dropdown, "cosine"),
        (["cosine", "linear"], "linear", ipywidgets.Dropdown, "linear"),
        ({"fast": 10, "good": 50}, None, ipywidgets.Dropdown, 10),
        (True, None, ipywidgets.Checkbox, True),
        (True, False, ipywidgets.Checkbox, False),
    ],
)
def test_the_kind_of_control_follows_from_its_values(spec, start, kind, value):
    control = make_control("num_steps", spec, start)
    assert type(control) is kind and control.value == value
    assert control.description == "num steps"


def test_sliders_redraw_when_they_are_let_go():
    assert make_control("t", (0, 999)).continuous_update is False
    assert make_control("w", (0.0, 9.0)).continuous_update is False


def test_a_widget_is_taken_as_it_is():
    mine = ipywidgets.IntText(value=7)
    assert make_control("t", mine) is mine


@pytest.mark.parametrize("spec", ["cosine", 3, (1, 2, 3, 4), None])
def test_other_kinds_are_refused(spec):
    with pytest.raises(TypeError, match=r"control t=.*expected \(min, max\)"):
        make_control("t", spec)


def test_a_start_outside_the_slider_is_refused():
    with pytest.raises(ValueError, match="t starts at 1000, outside 0 to 999"):
        make_control("t", (0, 999), start=1000)
