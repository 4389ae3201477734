"""Answers to exercises 07.4 and 07.5: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from notebooks.exercises import nb07
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def variance_by_powers(second, beta, beta_tilde):
    return beta ** ((1 + second) / 2) * beta_tilde ** ((1 - second) / 2)


def variance_by_lerp(second, beta, beta_tilde):
    ends = torch.broadcast_tensors(beta_tilde.log(), beta.log(), (second + 1) / 2)
    return torch.lerp(*ends).exp()


def variance_from_the_middle(second, beta, beta_tilde):
    return (beta * beta_tilde).sqrt() * (beta / beta_tilde).sqrt() ** second


def term_by_pytorch(true_mean, beta_tilde, mean, variance):
    q = Normal(true_mean, beta_tilde.sqrt().expand_as(true_mean))
    return kl_divergence(q, Normal(mean.detach(), variance.sqrt())).mean(dim=(1, 2, 3)) / math.log(2)


def term_by_logs(true_mean, beta_tilde, mean, variance):
    with torch.no_grad():
        gap = (true_mean - mean).square()
    nats = 0.5 * (variance.log() - beta_tilde.log() - 1 + beta_tilde / variance + gap / variance)
    return torch.stack([image.mean() for image in nats]) / torch.log(torch.tensor(2.0))


def term_in_log2(true_mean, beta_tilde, mean, variance):
    ratio = beta_tilde / variance
    rest = ratio + (true_mean - mean.detach()) ** 2 / variance - 1
    return 0.5 * (rest / math.log(2) - torch.log2(ratio)).reshape(len(mean), -1).mean(-1)


RIGHT = {
    "07.4": [variance_by_powers, variance_by_lerp, variance_from_the_middle],
    "07.5": [term_by_pytorch, term_by_logs, term_in_log2],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_a_right_answer_of_another_kind_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def term_of(wrong):
    """The solution, with other arguments or another result."""
    return lambda *given: wrong(nb07.bound_term, *given)


def term_both_held(true_mean, beta_tilde, mean, variance):
    return nb07.bound_term(true_mean, beta_tilde, mean, variance.detach())


def term_nothing_held(true_mean, beta_tilde, mean, variance):
    return nb07.divergence(true_mean, beta_tilde, mean, variance).flatten(1).mean(1) / math.log(2)


def in_bits(nats):
    return nats.flatten(1).mean(1) / math.log(2)


def variance_in_place(second, beta, beta_tilde):
    second += 1
    return torch.exp(second / 2 * beta.log() + (1 - second / 2) * beta_tilde.log())


WRONG = {
    "07.4": [
        (lambda s, b, bt: bt * (b / bt) ** s, r"v = \(output \+ 1\) / 2"),
        (lambda s, b, bt: b * (bt / b) ** ((s + 1) / 2), "the ends are exchanged"),
        (lambda s, b, bt: (s + 1) / 2 * b.log() + (1 - s) / 2 * bt.log(), "exp is missing"),
        (lambda s, b, bt: nb07.step_variance(s, b, bt).sqrt(), "this is the standard deviation"),
        (lambda s, b, bt: (s + 1) / 2 * b + (1 - s) / 2 * bt, "mix their logarithms"),
        (lambda s, b, bt: nb07.step_variance(s.clamp(-1, 1), b, bt), "the paper leaves it free"),
        (lambda s, b, bt: nb07.step_variance(s.sin() / math.sin(1), b, bt), "should lie on a straight line"),
        (lambda s, b, bt: nb07.step_variance(s, b, bt) + 1, "the variance should be beta itself"),
        (lambda s, b, bt: nb07.step_variance(s, b, bt)[:, :1], r"should have shape \(3, 2, 4, 4\)"),
        (lambda s, b, bt: torch.exp(math.log(b) * s), "the functions of math take one number"),
        (variance_in_place, "changes what it is given, in place"),
    ],
    "07.5": [
        (term_nothing_held, "a gradient reaches the mean"),
        (term_both_held, "no gradient reaches the variance"),
        (lambda m, bt, mean, v: in_bits(nb07.divergence(mean.detach(), v, m, bt)), "the other way round"),
        (term_of(lambda f, m, bt, mean, v: f(m, bt**2, mean, v**2)), "do not square them"),
        (term_of(lambda f, *given: f(*given) + 0.5 / math.log(2)), "the -1 is missing"),
        (term_of(lambda f, *given: 2 * f(*given)), "a factor of 1/2 is missing"),
        (term_of(lambda f, *given: f(*given) * math.log(2)), "divide by log 2"),
        (term_of(lambda f, *given: 16 * f(*given)), "per dimension is their mean"),
        (term_of(lambda f, m, bt, mean, v: f(m, bt, m, v)), "the gap of the means is left out"),
        (term_of(lambda f, *given: f(*given).mean()), r"should have shape \(3,\)"),
        (term_of(lambda f, *given: 3 * f(*given)), "the first image's term should be"),
    ],
}


@pytest.mark.parametrize(
    ("number", "answer", "told"), [(number, *one) for number, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
