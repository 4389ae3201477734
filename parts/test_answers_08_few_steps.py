"""Answers to notebook 08's exercise on few steps: right ones of another kind pass, wrong ones are told what is wrong."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch

from utils.course.exercises import grade

spec = importlib.util.spec_from_file_location("nb08_few_steps", Path(__file__).with_name("nb08_few_steps.py"))
nb08 = importlib.util.module_from_spec(spec)  # in the end: from notebooks.exercises import nb08
spec.loader.exec_module(nb08)


def pair_by_snr(x_t, end, a_bar_t):
    snr = a_bar_t / (1 - a_bar_t)
    return x_t * (1 - a_bar_t) ** -0.5 - snr**0.5 * end


def pair_by_v(x_t, end, a_bar_t):
    """By the v whose x_0 is the end."""
    signal, sigma = a_bar_t**0.5, (1 - a_bar_t) ** 0.5
    v = (signal * x_t - end) / sigma
    return sigma * x_t + signal * v


def pair_one_by_one(x_t, end, a_bar_t):
    rows = [(x - math.sqrt(a) * e) / math.sqrt(1 - a) for x, e, a in zip(x_t, end, a_bar_t.flatten().tolist())]
    return torch.stack(rows)


RIGHT = {"08.7": [pair_by_snr, pair_by_v, pair_one_by_one]}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


def pair_in_place(x_t, end, a_bar_t):
    return x_t.sub_(a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()


WRONG = {
    "08.7": [
        (lambda x, e, a: x - a.sqrt() * e, r"division by sqrt\(1 - a_bar_t\) is missing"),
        (lambda x, e, a: (x - e) / (1 - a).sqrt(), r"weight sqrt\(a_bar_t\), not 1"),
        (lambda x, e, a: (x - a * e) / (1 - a).sqrt(), "multiplied by its root"),
        (lambda x, e, a: (x - a.sqrt() * e) / (1 - a), "divide by its root"),
        (lambda x, e, a: (x - (1 - a).sqrt() * e) / a.sqrt(), "the roots are exchanged"),
        (lambda x, e, a: (x - a.sqrt() * e) / a.sqrt(), r"divided by sqrt\(a_bar_t\)"),
        (lambda x, e, a: (a.sqrt() * e - x) / (1 - a).sqrt(), "the sign is turned round"),
        (lambda x, e, a: a.sqrt() * e + (1 - a).sqrt() * x, "mixes x_t and the end once more"),
        (lambda x, e, a: (a.sqrt() * x - e) / (1 - a).sqrt(), "this is the v of that pair"),
        (lambda x, e, a: nb08.paired_noise(x, e, a[:1]), "every image is treated like the first"),
        (lambda x, e, a: 2 * nb08.paired_noise(x, e, a), "mixed with the end, your noise gives"),
        (lambda x, e, a: (x - math.sqrt(a) * e) / (1 - a).sqrt(), "the functions of math take one number"),
        (lambda x, e, a: nb08.paired_noise(x, e, a).double(), r"the noise should be torch\.float32"),
        (lambda x, e, a: nb08.paired_noise(x, e, a)[:1], r"should have shape \(4, 1, 3, 3\)"),
        (pair_in_place, "changes what it is given, in place"),
    ]
}


@pytest.mark.parametrize(
    ("number", "answer", "told"), [(number, *one) for number, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
