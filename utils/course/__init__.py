"""What makes a notebook a lesson: runtime, plots, controls, exercises. Knows nothing of diffusion or NER."""

from utils.course.exercises import check, choose, hint, solution
from utils.course.player import animate
from utils.course.plots import COLOURS, denoising_strip, name_bars, plain_ticks, show_images
from utils.course.runtime import Runtime, start
from utils.course.widgets import play
