"""Exercises of notebook 08, one family: few steps. The checks use closed forms only, nothing of utils.diffusion."""

from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import ONE_NUMBER, as_float64, called, close, normal, refuse_changes, refuse_dtype
from utils.course.exercises import Wrong, exercise

# -- 08.7: the noise that belongs to x_t and the end of its way ----------------------------------------


def wrong_pairs(x_t: Tensor, end: Tensor, a: Tensor) -> dict[str, Tensor]:
    signal, sigma = a.sqrt(), (1 - a).sqrt()
    return {
        "the division by sqrt(1 - a_bar_t) is missing": x_t - signal * end,
        "the end has the weight sqrt(a_bar_t), not 1": (x_t - end) / sigma,
        "a_bar_t is the square of the weight: the end is multiplied by its root": (x_t - a * end) / sigma,
        "1 - a_bar_t is a variance; divide by its root": (x_t - signal * end) / (1 - a),
        "the roots are exchanged": (x_t - sigma * end) / signal,
        "the difference is divided by sqrt(a_bar_t); the noise has the weight sqrt(1 - a_bar_t)": (x_t - signal * end)
        / signal,
        "the sign is turned round": (signal * end - x_t) / sigma,
        "this mixes x_t and the end once more; solve for the noise": signal * end + sigma * x_t,
        "this is the v of that pair; the noise is asked for": (signal * x_t - end) / sigma,
        "every image is treated like the first; each has an a_bar_t of its own": (x_t - signal[:1] * end) / sigma[:1],
    }


def check_paired_noise(paired_noise: Callable) -> None:
    a = torch.tensor([1e-4, 0.1, 0.5, 0.9]).view(-1, 1, 1, 1)
    given = [normal(4, 1, 3, 3).float(), normal(4, 1, 3, 3, seed=1).float().clamp(-1, 1), a]
    x_t, end, a_bar_t = (tensor.clone() for tensor in given)
    answer = called(paired_noise, x_t, end, a_bar_t, faults=ONE_NUMBER)
    refuse_changes([x_t, end, a_bar_t], given, "x_t, end and a_bar_t")
    refuse_dtype(answer, torch.float32, "the noise", "x_t and end are of that kind")
    seen = as_float64(answer, (4, 1, 3, 3), "the noise")
    x_t, end, a = (tensor.double() for tensor in given)
    right = (x_t - a.sqrt() * end) / (1 - a).sqrt()
    if close(seen, right, 1e-4, 1e-5):
        return
    for fault, wrong in wrong_pairs(x_t, end, a).items():
        if close(seen, wrong, 1e-4, 1e-5):
            raise Wrong(fault)
    mixed = a.sqrt() * end + (1 - a).sqrt() * seen
    one = [float(value.flatten()[0]) for value in (mixed, x_t)]
    raise Wrong(f"mixed with the end, your noise gives {one[0]:.4f} for the first value of x_t, which is {one[1]:.4f}")


@exercise(
    "08.7",
    "the noise of a pair that the teacher made",
    check_paired_noise,
    hints=[
        "Bring the end's part to the other side: x_t minus sqrt(a_bar_t) times the end is the noise's part.",
        "The noise's part is sqrt(1 - a_bar_t) times the noise: divide by that. a_bar_t is a tensor: a_bar_t.sqrt().",
        "(x_t - a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()",
    ],
)
def paired_noise(x_t, end, a_bar_t):
    return (x_t - a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()
