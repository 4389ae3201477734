"""Answers to notebook 02's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import numpy as np
import pytest
import torch

from notebooks.exercises import nb02
from utils.course.exercises import grade
from utils.diffusion.embeddings import sinusoidal_embedding

# -- right ---------------------------------------------------------------------------------------------------


def encode_by_loop(t, dim, max_period=10_000.0):
    half = dim // 2
    frequencies = [max_period ** (-i / (half - 1)) for i in range(half)]
    rows = [[math.sin(w * k) for w in frequencies] + [math.cos(w * k) for w in frequencies] for k in t.tolist()]
    return torch.tensor(rows)


def encode_by_logspace(t, dim, max_period=10_000.0):
    frequencies = torch.logspace(0, -math.log10(max_period), dim // 2, dtype=torch.float64)
    angles = torch.outer(t.double(), frequencies)
    return torch.hstack([torch.sin(angles), torch.sin(angles + math.pi / 2)]).float()


def encode_by_numpy(t, dim, max_period=10_000.0):
    angles = t.numpy()[:, None] * np.geomspace(1, 1 / max_period, dim // 2)
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).float()


def encode_by_complex(t, dim, max_period=10_000.0):
    half = dim // 2
    tips = torch.exp(1j * t[:, None] * torch.exp(-torch.arange(half) * math.log(max_period) / (half - 1)))
    return torch.cat([tips.imag, tips.real], dim=-1)


def frequencies_of(dim, max_period):
    return max_period ** (-torch.arange(dim // 2) / (dim // 2 - 1))


def advance_by_complex(encoding, steps, max_period=10_000.0):
    half = encoding.shape[1] // 2
    tips = torch.complex(encoding[:, half:], encoding[:, :half])
    tips = tips * torch.exp(1j * steps * frequencies_of(2 * half, max_period))
    return torch.cat([tips.imag, tips.real], dim=1)


def advance_by_angles(encoding, steps, max_period=10_000.0):
    sines, cosines = encoding.chunk(2, dim=1)
    angles = torch.atan2(sines, cosines) + steps * frequencies_of(encoding.shape[1], max_period)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def advance_by_matrix(encoding, steps, max_period=10_000.0):
    turn = steps * frequencies_of(encoding.shape[1], max_period)
    cos, sin = torch.diag(turn.cos()), torch.diag(turn.sin())
    return encoding @ torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)]).T


def advance_by_loop(encoding, steps, max_period=10_000.0):
    half, new = encoding.shape[1] // 2, torch.empty_like(encoding)
    for i in range(half):
        turn = steps * max_period ** (-i / (half - 1))
        sine, cosine = encoding[:, i], encoding[:, half + i]
        new[:, i] = sine * math.cos(turn) + cosine * math.sin(turn)
        new[:, half + i] = cosine * math.cos(turn) - sine * math.sin(turn)
    return new


def two_points_by_softmax(x_t, signal, sigma):
    plus, minus = (torch.stack([x_t - signal, x_t + signal]).square() / (-2 * sigma**2)).softmax(0)
    return plus - minus


def two_points_by_sigmoid(x_t, signal, sigma):
    return 2 * torch.sigmoid(2 * signal * x_t / sigma**2) - 1


def two_points_by_loop(x_t, signal, sigma):
    return [math.tanh(signal * x / sigma**2) for x in x_t.tolist()]


def two_points_by_logarithms(x_t, signal, sigma):
    plus, minus = (-((x_t - a) ** 2) / (2 * sigma**2) for a in (signal, -signal))
    total = torch.logaddexp(plus, minus)
    return torch.exp(plus - total) - torch.exp(minus - total)


def unknown_t_by_densities(x_t, signals, sigmas):
    plus, minus = (torch.distributions.Normal(a * signals, sigmas).log_prob(x_t[:, None]).exp().sum(1) for a in (1, -1))
    return (plus - minus) / (plus + minus)


def unknown_t_by_loop(x_t, signals, sigmas):
    answers = []
    for x in x_t:
        known = nb02.denoise_two_points(x, signals, sigmas)
        kernel = torch.cosh(signals * x / sigmas**2) * torch.exp(-(x**2 + signals**2) / (2 * sigmas**2)) / sigmas
        answers.append((kernel * known).sum() / kernel.sum())
    return torch.stack(answers)


def unknown_t_by_pairs(x_t, signals, sigmas):
    """Bayes' rule for t and x_0 together: a softmax over all 2 T pairs."""
    means = torch.cat([signals, -signals])
    widths = sigmas.repeat(2)
    logits = -((x_t[:, None] - means) ** 2) / (2 * widths**2) - widths.log()
    return logits.softmax(1) @ torch.cat([torch.ones_like(signals), -torch.ones_like(signals)])


RIGHT = {
    "02.1": [sinusoidal_embedding, encode_by_loop, encode_by_logspace, encode_by_numpy, encode_by_complex],
    "02.2": [advance_by_complex, advance_by_angles, advance_by_matrix, advance_by_loop],
    "02.3": [two_points_by_softmax, two_points_by_sigmoid, two_points_by_loop, two_points_by_logarithms],
    "02.4": [unknown_t_by_densities, unknown_t_by_loop, unknown_t_by_pairs],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def encoding(frequencies=frequencies_of, join=lambda sines, cosines: torch.cat([sines, cosines], dim=1), time=float):
    """An encoding with one thing changed."""

    def answer(t, dim, max_period=10_000.0):
        angles = (t.float() * time(1))[:, None] * frequencies(dim, max_period)
        return join(angles.sin(), angles.cos())

    return answer


def power(divisor, sign=-1):
    return lambda dim, max_period: max_period ** (sign * torch.arange(dim // 2) / divisor(dim))


def taking_turns(sines, cosines):
    return torch.stack([sines, cosines], dim=2).flatten(1)


def cosines_first(sines, cosines):
    return torch.cat([cosines, sines], dim=1)


def linear(dim, max_period):
    return torch.linspace(1, 1 / max_period, dim // 2)


def as_columns(t, dim, max_period=10_000.0):
    return nb02.encode(t, dim, max_period).T


def in_place(t, dim, max_period=10_000.0):
    result = nb02.encode(t, dim, max_period)
    t += 1
    return result


def not_broadcast(t, dim, max_period=10_000.0):
    return torch.cat([(t * frequencies_of(dim, max_period)).sin()] * 2)


def outside(t, dim, max_period=10_000.0):
    w = frequencies_of(dim, max_period)
    return torch.cat([t[:, None].sin() * w, t[:, None].cos() * w], dim=1)


def rotation(turn=lambda w, n: n * w, frequencies=frequencies_of, join=None, minus=-1):
    """A step in time with one thing changed."""

    def answer(encoding, steps, max_period=10_000.0):
        sines, cosines = encoding.chunk(2, dim=1)
        angle = turn(frequencies(encoding.shape[1], max_period), steps)
        new_sines = sines * angle.cos() + cosines * angle.sin()
        new_cosines = cosines * angle.cos() + minus * sines * angle.sin()
        return (join or (lambda one, other: torch.cat([one, other], dim=1)))(new_sines, new_cosines)

    return answer


def added(encoding, steps, max_period=10_000.0):
    return encoding + nb02.encode(torch.tensor([steps]), encoding.shape[1], max_period)


def overwritten(encoding, steps, max_period=10_000.0):
    encoding.copy_(nb02.advance(encoding, steps, max_period))
    return encoding


def one_after_the_other(encoding, steps, max_period=10_000.0):
    """The new sines are used for the new cosines."""
    sines, cosines = encoding.chunk(2, dim=1)
    turn = steps * frequencies_of(encoding.shape[1], max_period)
    sines = sines * turn.cos() + cosines * turn.sin()
    cosines = cosines * turn.cos() - sines * turn.sin()
    return torch.cat([sines, cosines], dim=1)


def two_points(function):
    return lambda x_t, signal, sigma: function(x_t, signal, sigma)


def two_densities(x_t, signal, sigma):
    """Right where the densities are: far from both points it divides 0 by 0."""
    plus, minus = (torch.exp(-((x_t - a) ** 2) / (2 * sigma**2)) for a in (signal, -signal))
    return (plus - minus) / (plus + minus)


def exponentials(x_t, signal, sigma):
    u = signal * x_t / sigma**2
    return (u.exp() - (-u).exp()) / (u.exp() + (-u).exp())


def unknown_t(weigh):
    """The mean over t with weights weigh(log density, sigmas)."""

    def answer(x_t, signals, sigmas):
        x = x_t[:, None]
        log_density = torch.logaddexp(-((x - signals) ** 2) / (2 * sigmas**2), -((x + signals) ** 2) / (2 * sigmas**2))
        return (weigh(log_density, sigmas) * torch.tanh(signals * x / sigmas**2)).sum(1)

    return answer


def likeliest_t(log_density, sigmas):
    return torch.nn.functional.one_hot((log_density - sigmas.log()).argmax(1), len(sigmas))


def weighed(weights_of, dim=1):
    def answer(x_t, signals, sigmas):
        x = x_t[:, None]
        plus, minus = (torch.exp(-((x - sign * signals) ** 2) / (2 * sigmas**2)) for sign in (1, -1))
        weights = weights_of(plus, minus, sigmas)
        return (weights / weights.sum(dim, keepdim=True) * torch.tanh(signals * x / sigmas**2)).sum(1)

    return answer


def averaged_first(x_t, signals, sigmas):
    return torch.tanh(signals.mean() * x_t / sigmas.mean() ** 2)


def first_t(x_t, signals, sigmas):
    return torch.tanh(signals[0] * x_t / sigmas[0] ** 2)


def one_for_each_t(x_t, signals, sigmas):
    return torch.tanh(signals * x_t[:, None] / sigmas**2)


def encode_below(t, dim, max_period=10_000.0):
    return torch.cat(nb02.encode(t, dim, max_period).chunk(2, dim=1))


def encode_all_dim(t, dim, max_period=10_000.0):
    return nb02.encode(t, 2 * dim, max_period)


def advance_by_math(encoding, steps, max_period=10_000.0):
    turn = steps * frequencies_of(encoding.shape[1], max_period)
    return encoding * math.cos(turn)


WRONG = [
    ("02.1", encode_below, "stand one below the other"),
    ("02.1", encode_all_dim, "take J = dim/2 frequencies"),
    ("02.2", advance_by_math, "the functions of math take one number"),
    ("02.1", encoding(join=cosines_first), "the cosines stand first"),
    ("02.1", encoding(join=taking_turns), "take turns"),
    ("02.1", encoding(power(lambda dim: dim // 2)), r"the exponent is i/\(J-1\), not i/J"),
    ("02.1", encoding(power(lambda dim: dim // 2), join=cosines_first), "as in Stable Diffusion"),
    ("02.1", encoding(power(lambda dim: dim // 2), join=taking_turns), "the Transformer paper's arrangement"),
    ("02.1", encoding(power(lambda dim: dim)), r"divide i by J-1"),
    ("02.1", encoding(power(lambda dim: dim - 1)), r"divide i by J-1"),
    ("02.1", encoding(power(lambda dim: dim // 2 - 1, sign=1)), "the exponent needs a minus"),
    ("02.1", encoding(lambda dim, period: frequencies_of(dim, period).flip(0)), "from low to high"),
    ("02.1", encoding(lambda dim, period: frequencies_of(dim, 10_000.0)), "max_period is ignored"),
    ("02.1", encoding(lambda dim, period: 2 * math.pi * frequencies_of(dim, period)), "factor of 2 pi"),
    ("02.1", encoding(linear), "equal ratios"),
    ("02.1", encoding(join=lambda sines, cosines: torch.cat([sines, sines], dim=1)), "both halves are sines"),
    ("02.1", encoding(join=lambda sines, cosines: torch.cat([cosines, cosines], dim=1)), "both halves are cosines"),
    ("02.1", encoding(time=lambda one: one / 1000), "divided by the number of timesteps"),
    ("02.1", encoding(time=lambda one: -one), r"not eq. \(4\) for dim=8, .* at t=\d+ column \d"),
    ("02.1", encoding(join=lambda sines, cosines: sines), r"should have shape \(6, 8\), got \(6, 4\)"),
    ("02.1", encoding(join=lambda sines, cosines: torch.cat([sines, cosines], dim=1).double()), "float64"),
    ("02.1", as_columns, r"should have shape \(6, 8\), got \(8, 6\)"),
    ("02.1", in_place, "t was changed in place"),
    ("02.1", outside, "inside the sine"),
    ("02.1", not_broadcast, "t and frequencies do not fit"),
    ("02.2", rotation(turn=lambda w, n: -n * w), "backwards: for n=5"),
    ("02.2", rotation(turn=lambda w, n: 0 * w), "for n=5 the encoding came back as it was"),
    ("02.2", rotation(turn=lambda w, n: n * w / 2), r"dim=32, steps=5, .* at t=\d+ column \d+ .* should be"),
    ("02.2", rotation(turn=lambda w, n: torch.full_like(w, n)), "every hand was turned by n"),
    ("02.2", rotation(turn=lambda w, n: 2 * math.pi * n * w), "factor of 2 pi"),
    ("02.2", rotation(turn=lambda w, n: abs(n) * w), "backwards: for n=-40"),
    ("02.2", rotation(frequencies=power(lambda dim: dim // 2)), "the exponent i/J"),
    ("02.2", rotation(frequencies=lambda dim, period: frequencies_of(dim, 10_000.0)), "max_period is ignored"),
    ("02.2", rotation(join=cosines_first), "the cosines stand first"),
    ("02.2", rotation(join=taking_turns), "keep the two blocks"),
    ("02.2", rotation(join=lambda one, other: torch.cat([one, other], dim=1).double()), "float64"),
    ("02.2", rotation(join=lambda one, other: one), r"should have shape \(4, 32\), got \(4, 16\)"),
    ("02.2", rotation(minus=1), r"sin\^2 \+ cos\^2 of a pair is no longer 1"),
    ("02.2", one_after_the_other, r"sin\^2 \+ cos\^2 of a pair is no longer 1"),
    ("02.2", added, "encodings do not add up"),
    ("02.2", overwritten, "was changed in place"),
    ("02.3", two_densities, r"x_t = -1, -0.2, 0, 0.2, 1 should give -1, -1, 0, 1, 1; got -1, nan, nan, nan, 1"),
    ("02.3", exponentials, "does an exponential leave the range of floats"),
    ("02.3", two_points(lambda x, signal, sigma: x.sign()), "the likelier of the two"),
    ("02.3", two_points(lambda x, signal, sigma: x / signal), r"cannot lie outside \[-1, 1\]"),
    ("02.3", two_points(lambda x, signal, sigma: torch.tanh(x / sigma**2)), "the signal is missing"),
    ("02.3", two_points(lambda x, signal, sigma: torch.tanh(signal * x / sigma)), "sigma is not squared"),
    ("02.3", two_points(lambda x, signal, sigma: torch.tanh(signal * x / (2 * sigma**2))), "half of what"),
    (
        "02.3",
        two_points(lambda x, signal, sigma: torch.sigmoid(2 * signal * x / sigma**2)),
        "so the mean is 0; got 0.5",
    ),
    ("02.3", two_points(lambda x, signal, sigma: (signal * x / sigma**2).clamp(-1, 1)), "it has no corner"),
    ("02.3", two_points(lambda x, signal, sigma: torch.erf(signal * x / sigma**2)), "x_t=0.2 should give"),
    ("02.4", unknown_t(lambda log_density, sigmas: torch.full_like(log_density, 1 / 3)), "a plain mean over t"),
    ("02.4", unknown_t(lambda log_density, sigmas: log_density.softmax(1)), "lack the density's factor 1/sigma"),
    (
        "02.4",
        unknown_t(lambda log_density, sigmas: log_density.exp() / sigmas),
        r"should give -?[\d.]+, got|sum to one",
    ),
    ("02.4", unknown_t(likeliest_t), "the likeliest t alone"),
    ("02.3", two_points(lambda x, signal, sigma: torch.tanh(2 * signal * x / sigma**2)), "twice what it should be"),
    ("02.3", two_points(lambda x, signal, sigma: math.tanh(signal * x / sigma**2)), "take one number; a tensor has"),
    ("02.4", lambda x_t, signals, sigmas: torch.tanh(signals * x_t / sigmas**2).mean(), r"x_t\[:, None\] is \(B, 1\)"),
    ("02.4", weighed(lambda plus, minus, sigmas: plus / sigmas), "the half of x_0 = -1"),
    ("02.4", weighed(lambda plus, minus, sigmas: (plus + minus) / sigmas**2), "not 1/sigma"),
    ("02.4", weighed(lambda plus, minus, sigmas: (plus + minus) / sigmas, dim=0), "they should over t, dim=1"),
    ("02.4", averaged_first, "were averaged first"),
    ("02.4", first_t, r"x_t = -?[\d.]+ should give -?[\d.]+, got -?[\d.]+"),
    ("02.4", one_for_each_t, r"should have shape \(7,\), got \(7, 3\)"),
]


@pytest.mark.parametrize(("number", "answer", "fault"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, fault):
    passed, message = grade(number, answer)
    assert passed is False, message
    assert re.search(fault, message), message
