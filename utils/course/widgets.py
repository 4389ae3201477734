"""`play`: sliders and menus that redraw a figure, with core ipywidgets only (7 and 8)."""

import contextlib
import html
import inspect
import io
import traceback
from collections.abc import Callable
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import display


def play(draw: Callable[..., Any], **controls: Any) -> None:
    """Show one control for each argument of `draw`, and its figure, drawn anew when a control is moved.

    draw: makes a matplotlib figure from the values it is called with. What it prints stands below it.
    controls: for each argument a tuple (min, max) or (min, max, step) of ints or floats (slider), a list or a dict
    (menu), a bool (tick box), or an ipywidgets widget; it starts at that argument's default, if there is one.
    Raises TypeError: a control of another kind. ValueError: a starting value outside its control.
    """
    arguments = inspect.signature(draw).parameters.items()
    starts = {name: argument.default for name, argument in arguments if argument.default is not argument.empty}
    widgets = {name: make_control(name, spec, starts.get(name)) for name, spec in controls.items()}
    # An Image widget swaps its picture in place: the page neither jumps nor flickers, as with a cleared output.
    image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", object_fit="contain"))
    text = ipywidgets.HTML()

    def redraw(change: Any = None) -> None:
        try:
            image.value, printed = render(draw, {name: widget.value for name, widget in widgets.items()})
        except Exception:
            # The first drawing fails like any cell. Later there is no cell to fail: the page must show it.
            if change is None:
                raise
            printed = traceback.format_exc()
        text.value = f"<pre>{html.escape(printed)}</pre>" if printed else ""

    redraw()
    for widget in widgets.values():
        widget.observe(redraw, names="value")
    display(ipywidgets.VBox([*widgets.values(), image, text]))


def render(draw: Callable[..., Any], values: dict[str, Any]) -> tuple[bytes, str]:
    """PNG of the last figure that `draw(**values)` makes, and what it printed. ValueError where it makes none."""
    before = set(plt.get_fignums())
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            draw(**values)
        if not set(plt.get_fignums()) - before:
            name = getattr(draw, "__name__", "draw")
            raise ValueError(f"{name} made no figure; it should call plt.subplots() and leave out plt.show()")
        buffer = io.BytesIO()
        plt.figure(max(plt.get_fignums())).savefig(buffer, format="png")
        return buffer.getvalue(), printed.getvalue()
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def make_control(name: str, spec: Any, start: Any = None) -> ipywidgets.Widget:
    """The widget for one argument of `play`; see there. `start` None leaves the choice to the widget."""
    if isinstance(spec, ipywidgets.Widget):
        return spec
    if not isinstance(spec, (bool, list, dict)) and not (isinstance(spec, tuple) and len(spec) in (2, 3)):
        raise TypeError(f"control {name}={spec!r}: expected (min, max), (min, max, step), list, dict, bool or widget")
    widget = ipywidgets.interactive.widget_from_abbrev(spec)
    if isinstance(spec, tuple):
        # Draw when the slider is let go, not at each of the hundred positions on the way.
        widget.continuous_update = False
        if start is not None and not widget.min <= start <= widget.max:
            raise ValueError(f"control {name} starts at {start}, outside {widget.min} to {widget.max}")
    if isinstance(widget, ipywidgets.FloatSlider) and len(spec) == 2:
        widget.step = (widget.max - widget.min) / 100
    if start is not None:
        widget.value = start
    widget.description = name.replace("_", " ")
    widget.style.description_width, widget.layout.width = "9em", "30em"
    return widget
