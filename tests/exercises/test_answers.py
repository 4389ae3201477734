"""Answers that learners give: right ones of another kind pass, wrong ones are told what is wrong."""

import re

import pytest
import torch

from notebooks.exercises import nb02
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def softmax_of_two(x_t, signal, sigma):
    logits = torch.stack([x_t - signal, x_t + signal]).square() / (-2 * sigma**2)
    plus, minus = logits.softmax(0)
    return plus - minus


@pytest.mark.parametrize(("number", "answer"), [("02.3", softmax_of_two)])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def advance_by_half(encoding, k, max_period=10_000.0):
    return nb02.advance(encoding, k / 2, max_period)


def two_densities(x_t, signal, sigma):
    """Right where the densities are: far from both points it divides 0 by 0."""
    plus, minus = (torch.exp(-((x_t - a) ** 2) / (2 * sigma**2)) for a in (signal, -signal))
    return (plus - minus) / (plus + minus)


def likeliest_t(x_t, signals, sigmas):
    each = torch.tanh(signals * x_t[:, None] / sigmas**2)
    return each[:, 1]


@pytest.mark.parametrize(
    ("number", "answer", "told"),
    [
        ("02.2", advance_by_half, r"at t=\d+ column \d+ .* should be -?[\d.]+, got -?[\d.]+"),
        ("02.3", two_densities, r"x_t = -1, -0.2, 0, 0.2, 1 should give -1, -1, 0, 1, 1; got -1, nan, nan, nan, 1"),
        ("02.4", likeliest_t, r"x_t = -?[\d.]+ should give -?[\d.]+, got -?[\d.]+"),
    ],
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
