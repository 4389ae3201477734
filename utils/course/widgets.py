"""`play`: sliders and menus that redraw a figure, with core ipywidgets only (7 and 8)."""

import inspect
import io
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
    printed = ipywidgets.Output()

    def redraw(change: Any = None) -> None:
        printed.clear_output(wait=change is not None)
        # Output shows whatever is printed or raised inside it, so an error of `draw` is seen.
        with printed:
            image.value = render(draw, {name: widget.value for name, widget in widgets.items()})

    image.value = render(draw, {name: widget.value for name, widget in widgets.items()})
    for widget in widgets.values():
        widget.observe(redraw, names="value")
    display(ipywidgets.VBox([*widgets.values(), image, printed]))


def render(draw: Callable[..., Any], values: dict[str, Any]) -> bytes:
    """PNG of the figure that `draw(**values)` returns or, if it returns none, of the current one. Closes it.

    Raises:
        ValueError: `draw` made no figure.
    """
    before = set(plt.get_fignums())
    try:
        result = draw(**values)
        figure = result if isinstance(result, Figure) else getattr(result, "figure", None)
        new = [number for number in plt.get_fignums() if number not in before]
        if figure is None and not new:
            raise ValueError(f"{draw.__name__} made no figure; draw with matplotlib, without plt.show()")
        buffer = io.BytesIO()
        (figure or plt.figure(new[-1])).savefig(buffer, format="png")
        return buffer.getvalue()
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
