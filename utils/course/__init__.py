"""What makes a notebook a lesson: runtime, plots, controls, exercises. Knows nothing of diffusion or NER."""

from utils.course.exercises import check, hint, solution
from utils.course.plots import COLOURS, animate, denoising_strip, name_bars, plain_ticks, save_grid, show_images
from utils.course.runtime import Runtime, peak_memory_mib, start
from utils.course.widgets import play

__all__ = [
    "COLOURS",
    "Runtime",
    "animate",
    "check",
    "denoising_strip",
    "hint",
    "name_bars",
    "peak_memory_mib",
    "plain_ticks",
    "play",
    "save_grid",
    "show_images",
    "solution",
    "start",
]
