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
from matplotlib.figure import Figure


def play(draw: Callable[..., Any], **controls: Any) -> None:
    """Show one control for each argument of `draw`, and its figure, drawn anew when a control is moved.

    Args:
        draw: makes a matplotlib figure from the values it is called with. What it prints stands below it.
        controls: for each argument a tuple (min, max) or (min, max, step) of ints or floats (slider), a list
            or a dict (menu), a bool (tick box), or an ipywidgets widget. A control starts at the default
            value of that argument of `draw`, if it has one.

    Raises:
        TypeError: a control of another kind.
        ValueError: a starting value outside its control.
    """
    widgets = {name: make_control(name, spec, _default(draw, name)) for name, spec in controls.items()}
    # An Image widget swaps its picture in place: the page neither jumps nor flickers, as it would
    # if the output were cleared and drawn again.
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
    """PNG of the figure that `draw(**values)` returns or has made, and what it printed. Closes its figures.

    Raises:
        ValueError: `draw` made no figure.
    """
    before = set(plt.get_fignums())
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = draw(**values)
        new = [number for number in plt.get_fignums() if number not in before]
        if isinstance(result, Figure):
            figure = result
        elif new:
            figure = plt.figure(new[-1])
        else:
            name = getattr(draw, "__name__", "draw")
            raise ValueError(f"{name} made no figure; it should call plt.subplots() and leave out plt.show()")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue(), printed.getvalue()
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def make_control(name: str, spec: Any, start: Any = None) -> ipywidgets.Widget:
    """The widget for one argument of `play`; see there. `start` None leaves the choice to the widget."""
    look = {
        "description": name.replace("_", " "),
        "style": {"description_width": "9em"},
        "layout": ipywidgets.Layout(width="30em"),
    }
    if start is not None:
        look["value"] = start
    if isinstance(spec, ipywidgets.Widget):
        return spec
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(**{"value": spec} | look)
    if isinstance(spec, (list, dict)):
        options = list(spec.items()) if isinstance(spec, dict) else spec
        return ipywidgets.Dropdown(options=options, **look)
    if isinstance(spec, tuple) and len(spec) in (2, 3):
        return _slider(name, spec, look)
    raise TypeError(
        f"control {name}={spec!r}: expected (min, max), (min, max, step), a list, a dict, a bool or a widget"
    )


def _slider(name: str, spec: tuple, look: dict[str, Any]) -> ipywidgets.Widget:
    low, high, *step = spec
    whole = all(isinstance(number, int) for number in spec)
    if not low <= look.get("value", low) <= high:
        raise ValueError(f"control {name} starts at {look['value']}, outside {low} to {high}")
    look.setdefault("value", low + (high - low) // 2 if whole else (low + high) / 2)
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    # Draw when the slider is let go, not at each of the hundred positions on the way.
    return kind(
        min=low,
        max=high,
        step=step[0] if step else (1 if whole else (high - low) / 100),
        continuous_update=False,
        **look,
    )


def _default(draw: Callable[..., Any], name: str) -> Any:
    parameter = inspect.signature(draw).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
