"""Answers to notebook 08's exercises on weights: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch

from notebooks.exercises import nb08
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def flow_by_autograd(log_snr):
    with torch.enable_grad():
        x = log_snr.detach().clone().requires_grad_()
        u = 1 / (1 + (x / 2).exp())
        (slope,) = torch.autograd.grad(u.sum(), x)
    return slope.abs(), (1 - u.detach()) ** -2


def flow_by_cosh(log_snr):
    return 1 / (8 * torch.cosh(log_snr / 4) ** 2), torch.exp(-log_snr / 2) * 4 * torch.cosh(log_snr / 4) ** 2


def flow_by_the_snr(log_snr):
    root = log_snr.exp().sqrt()  # a / s
    a, s = root / (1 + root), 1 / (1 + root)
    return [a * s / 2, ((a + s) / a) ** 2]


def factor_by_exp(log_snr, wanted, density):
    return wanted(log_snr) / (density(log_snr) * (1 + torch.exp(-log_snr)))


def factor_by_v(log_snr, wanted, density):
    noise_over_v = torch.cos(torch.atan(torch.exp(-log_snr / 2))) ** 2
    return noise_over_v * wanted(log_snr) / density(log_snr)


def factor_by_logarithms(log_snr, wanted, density):
    logs = wanted(log_snr).log() - density(log_snr).log() + torch.nn.functional.logsigmoid(log_snr)
    return logs.exp()


RIGHT = {
    "08.5": [flow_by_autograd, flow_by_cosh, flow_by_the_snr],
    "08.6": [factor_by_exp, factor_by_v, factor_by_logarithms],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def flow_with(density=None, weight=None):
    """The solution with another density or weight, functions of u."""

    def answer(log_snr):
        u, right = torch.sigmoid(-log_snr / 2), nb08.flow_matching(log_snr)
        return (density(u) if density else right[0]), (weight(u) if weight else right[1])

    return answer


def flow_in_place(log_snr):
    log_snr *= -0.5
    u = log_snr.sigmoid()
    return u * (1 - u) / 2, 1 / (1 - u) ** 2


def factor_with(mixed):
    """mixed(wanted, density, a2), their values."""
    return lambda log_snr, wanted, density: mixed(wanted(log_snr), density(log_snr), log_snr.sigmoid())


WRONG = {
    "08.5": [
        (flow_with(lambda u: -u * (1 - u) / 2), "a density has no sign"),
        (flow_with(lambda u: u * (1 - u)), "a factor of 1/2 is missing"),
        (flow_with(lambda u: 2 / (u * (1 - u))), "is the inverse"),
        (flow_with(lambda u: u**2 * (1 - u) ** 2 / (u**2 + (1 - u) ** 2) ** 2), "half the log-SNR"),
        (flow_with(torch.ones_like), "the log-SNR is not"),
        (flow_with(lambda u: u), "its slope is the density"),
        (flow_with(lambda u: u / (1 - u) / 2), "give the two apart"),
        (flow_with(weight=lambda u: 1 / (1 - u)), "the errors are squared"),
        (flow_with(weight=lambda u: (1 - u) ** 2), "the other way round"),
        (flow_with(weight=lambda u: 1 / u**2), "signal and noise are exchanged"),
        (flow_with(weight=lambda u: (u / (1 - u)) ** 2), "the factor of the error of x_0"),
        (flow_with(weight=lambda u: 1 + (u / (1 - u)) ** 2), "add up before|the factor of v"),
        (flow_with(weight=torch.ones_like), "that of x_0 comes with it"),
        (flow_with(weight=lambda u: 3 / (1 - u) ** 2), "it should be 4.15"),
        (flow_with(weight=lambda u: u.sum()), r"the weight should have shape \(41,\)"),
        (lambda log_snr: nb08.flow_matching(log_snr)[0], "two tensors are asked for"),
        (lambda log_snr: math.exp(log_snr), "the functions of math take one number"),
        (flow_in_place, "changes what it is given, in place"),
    ],
    "08.6": [
        (factor_with(lambda w, p, a2: w / p), "that of v is a\\*\\*2 times it"),
        (factor_with(lambda w, p, a2: w * p * a2), "divide by the density"),
        (factor_with(lambda w, p, a2: w * a2), "the density plays no part"),
        (factor_with(lambda w, p, a2: a2 / p), "the wanted weight plays no part"),
        (factor_with(lambda w, p, a2: w / p / a2), "multiply by a\\*\\*2"),
        (factor_with(lambda w, p, a2: w / p * (1 - a2)), "in the place of a\\*\\*2"),
        (factor_with(lambda w, p, a2: w / p * a2.sqrt()), "the factor is a\\*\\*2, not a"),
        (factor_with(lambda w, p, a2: w / p * a2 / (1 - a2)), "this takes a\\*\\*2 for the SNR|SNR = "),
        (factor_with(lambda w, p, a2: 2 * w / p * a2), "it should be"),
        (lambda x, wanted, density: wanted(x) / density(x) * torch.sigmoid(2 * x), "not half"),
        (lambda x, wanted, density: wanted / density, "wanted and density are functions"),
    ],
}


@pytest.mark.parametrize(
    ("number", "answer", "told"), [(number, *one) for number, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message


def test_every_exercise_has_three_other_right_answers_and_five_wrong_ones():
    assert list(RIGHT) == list(WRONG) == ["08.5", "08.6"]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
