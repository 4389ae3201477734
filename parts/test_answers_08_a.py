"""Answers to notebook 08's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from notebooks.exercises import nb08
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def velocity_by_edm(x, v, signal, sigma, signal_slope, sigma_slope):
    """Through EDM's denoiser: D = x_bar / (1 + sigma_bar^2) - sigma_bar / sqrt(1 + sigma_bar^2) v."""
    x_bar, sigma_bar = x / signal, sigma / signal
    denoised = x_bar / (1 + sigma_bar**2) - sigma_bar / math.sqrt(1 + sigma_bar**2) * v
    return signal_slope * denoised + sigma_slope * (x_bar - denoised) / sigma_bar


def velocity_by_angle(x, v, signal, sigma, signal_slope, sigma_slope):
    angle, length = math.atan2(sigma, signal), math.hypot(signal, sigma)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=x.dtype)
    x_0, noise = torch.einsum("ij,j...->i...", turn, torch.stack([x / length, v]))
    return x_0.mul(signal_slope).add(noise, alpha=sigma_slope)


def velocity_in_polar(x, v, signal, sigma, signal_slope, sigma_slope):
    """The length of the weights changes x along itself, their angle along v."""
    square = signal**2 + sigma**2
    growth = (signal * signal_slope + sigma * sigma_slope) / square
    turning = (signal * sigma_slope - sigma * signal_slope) / square
    return growth * x + turning * square**0.5 * v


def preconditioning_of_the_paper(sigma_bar, sigma_data):
    root = (sigma_bar**2 + sigma_data**2) ** 0.5
    return sigma_data**2 / root**2, sigma_bar * sigma_data / root, 1 / root


def preconditioning_by_angle(sigma_bar, sigma_data):
    angle = math.atan2(sigma_bar, sigma_data)
    return math.cos(angle) ** 2, sigma_bar * math.cos(angle), math.cos(angle) / sigma_data


def preconditioning_by_tensors(sigma_bar, sigma_data):
    s, d = torch.tensor([sigma_bar, sigma_data], dtype=torch.float64)
    return [1 / (1 + (s / d) ** 2), (s**-2 + d**-2) ** -0.5, torch.hypot(s, d).reciprocal()]


def heun_from_euler(slope, x, t, s):
    here = slope(x, t)
    ahead = x + (s - t) * here
    return ahead + (s - t) / 2 * (slope(ahead, s) - here)


def heun_as_mean(slope, x, t, s):
    """The mean of x and of two Euler steps, there and on."""
    first = x + (s - t) * slope(x, t)
    return (x + first + (s - t) * slope(first, s)) / 2


def heun_by_tableau(slope, x, t, s):
    h, found = s - t, []
    for k, row in enumerate([[], [1.0]]):
        found.append(slope(x + h * sum(a * one for a, one in zip(row, found)), (t, s)[k]))
    return x + h * torch.stack(found).mean(0)


def straight_by_tensors(states, times):
    x, t = torch.stack(states), torch.tensor(times, dtype=torch.float64)
    slopes = x.diff(dim=0) / t.diff()[:, None, None]
    shares = t.diff() / (t[-1] - t[0])
    return (shares[:, None] * (slopes - (x[-1] - x[0]) / (t[-1] - t[0])).square().sum(2)).sum(0)


def straight_by_variance(states, times):
    """The mean square of the slopes less the square of their mean."""
    span, mean_square = times[-1] - times[0], 0
    for (x, x_next), (t, s) in zip(pairwise(states), pairwise(times)):
        mean_square = mean_square + ((x_next - x) ** 2).sum(-1) / ((s - t) * span)
    return mean_square - ((states[-1] - states[0]) / span).norm(dim=1) ** 2


def straight_in_numpy(states, times):
    x = np.stack([state.numpy() for state in states])
    gaps = (
        np.gradient(x[[0, -1]], [times[0], times[-1]], axis=0)[0] - np.diff(x, axis=0) / np.diff(times)[:, None, None]
    )
    return np.average((gaps**2).sum(2), axis=0, weights=-np.diff(times))


RIGHT = {
    "08.1": [velocity_by_edm, velocity_by_angle, velocity_in_polar],
    "08.2": [preconditioning_of_the_paper, preconditioning_by_angle, preconditioning_by_tensors],
    "08.3": [heun_from_euler, heun_as_mean, heun_by_tableau],
    "08.4": [straight_by_tensors, straight_by_variance, straight_in_numpy],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def velocity_with(mixed, scale_x=True, scale_weights=True):
    """mixed(x_0, noise, weights), weights being (signal, sigma, signal_slope, sigma_slope)."""

    def answer(x, v, signal, sigma, signal_slope, sigma_slope):
        r = math.hypot(signal, sigma)
        x_t, (a, s) = x / r if scale_x else x, (signal / r, sigma / r) if scale_weights else (signal, sigma)
        return mixed(a * x_t - s * v, s * x_t + a * v, (signal, sigma, signal_slope, sigma_slope))

    return answer


def right_slope(x_0, noise, weights):
    return weights[2] * x_0 + weights[3] * noise


def velocity_of_minus_v(x, v, *weights):
    return nb08.velocity_from_v(x, -v, *weights)


def velocity_in_place(x, v, *weights):
    x /= math.hypot(*weights[:2])
    return nb08.velocity_from_v(x * math.hypot(*weights[:2]), v, *weights)


def velocity_by_torch_sqrt(x, v, signal, sigma, signal_slope, sigma_slope):
    return x / torch.sqrt(signal**2 + sigma**2)


def preconditioning_with(change):
    """change(c_skip, c_out, c_in, sigma_bar, sigma_data) of the right ones."""
    return lambda sigma_bar, sigma_data: change(*nb08.preconditioning(sigma_bar, sigma_data), sigma_bar, sigma_data)


def preconditioning_without_a_skip(sigma_bar, sigma_data):
    return 0.0, sigma_data, 1 / math.hypot(sigma_bar, sigma_data)


def heun_with(second, mean=lambda here, there: (here + there) / 2):
    """second(slope, x, ahead, t, s) is the slope at the far end."""

    def answer(slope, x, t, s):
        here = slope(x, t)
        return x + (s - t) * mean(here, second(slope, x, x + (s - t) * here, t, s))

    return answer


def far_slope(slope, x, ahead, t, s):
    return slope(ahead, s)


def heun_from_the_far_end(slope, x, t, s):
    here = slope(x, t)
    ahead = x + (s - t) * here
    return ahead + (s - t) * (here + slope(ahead, s)) / 2


def heun_that_asks_three_times(slope, x, t, s):
    ahead = x + (s - t) * slope(x, t)
    return x + (s - t) * (slope(x, t) + slope(ahead, s)) / 2


def heun_in_place(slope, x, t, s):
    before = x.clone()
    here = slope(x, t)
    x += (s - t) * here
    return before + (s - t) * (here + slope(x, s)) / 2


def straight_with(change):
    return lambda states, times: change(nb08.straightness(states, times), states, times)


def straight_without_shares(states, times):
    return nb08.measured(torch.stack(states), times, shares=False)


def straight_by_length(states, times):
    """Length of the path over the distance of its ends, less 1."""
    x = torch.stack(states)
    return x.diff(dim=0).norm(dim=2).sum(0) / (x[-1] - x[0]).norm(dim=1) - 1


WRONG = {
    "08.1": [
        (velocity_with(right_slope, scale_x=False, scale_weights=False), "scaled to the network's own point"),
        (velocity_with(right_slope, scale_weights=False), "its weights are not"),
        (velocity_with(right_slope, scale_x=False), "but x is not"),
        (velocity_of_minus_v, "the signs of v are exchanged"),
        (velocity_with(lambda x_0, noise, w: w[3] * x_0 + w[2] * noise), "image and noise are exchanged"),
        (velocity_with(lambda x_0, noise, w: w[3] * noise), "the part of the image is missing"),
        (velocity_with(lambda x_0, noise, w: w[2] * x_0), "the part of the noise is missing"),
        (velocity_with(lambda x_0, noise, w: w[0] * x_0 + w[1] * noise), "this is x itself"),
        (lambda x, v, *weights: v, "on the quarter circle"),
        (velocity_with(lambda x_0, noise, w: w[3] * noise - w[2] * x_0), "turned round"),
        (velocity_with(lambda x_0, noise, w: 2 * right_slope(x_0, noise, w)), "the first value should be"),
        (velocity_in_place, "changes what it is given, in place"),
        (velocity_by_torch_sqrt, "math.sqrt or math.hypot"),
    ],
    "08.2": [
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_skip, c_out**2, c_in)), "take its root"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_skip, -c_out, c_in)), "the positive root"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_skip, c_out, c_in**2)), "one over the variance"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_skip, c_out, 1 / (s + d))), "variances add"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_skip, c_out, c_in / 2)), "the input c_in x"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (1 - c_skip, c_out, c_in)), "the target of F"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_out, c_skip, c_in)), "the target of F"),
        (preconditioning_without_a_skip, "is not the least"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: (c_skip, c_out)), "three numbers are wanted"),
        (preconditioning_with(lambda c_skip, c_out, c_in, s, d: ("", c_out, c_in)), "c_skip should be a number"),
    ],
    "08.3": [
        (heun_with(lambda slope, x, ahead, t, s: slope(x, t)), "this is Euler's step"),
        (heun_with(lambda slope, x, ahead, t, s: slope(ahead, t)), "at the old time"),
        (heun_with(lambda slope, x, ahead, t, s: slope(x, s)), "at the old point"),
        (heun_with(far_slope, mean=lambda here, there: there), "only the slope at the far end"),
        (heun_with(far_slope, mean=lambda here, there: here + there), "take their mean"),
        (heun_from_the_far_end, "starts from the far end"),
        (lambda slope, x, t, s: x + (s - t) * slope(x + (s - t) / 2 * slope(x, t), (t + s) / 2), "the midpoint method"),
        (lambda slope, x, t, s: nb08.heun_step(lambda x, u: -slope(x, u if u == t else s), x, t, s), "it is s - t"),
        (lambda slope, x, t, s: x + (slope(x, t) + slope(x + slope(x, t), s)) / 2, "the step h is missing"),
        (heun_that_asks_three_times, "slope was asked 3 times"),
        (heun_in_place, "changes what it is given, in place"),
        (lambda slope, x, t, s: slope(t, x), "x first; it got a float"),
        (lambda slope, x, t, s: 2 * nb08.heun_step(slope, x, t, s), "the first value should be"),
    ],
    "08.4": [
        (straight_without_shares, "count by its share"),
        (straight_with(lambda found, states, times: found.sqrt()), "the first value should be"),
        (lambda states, times: nb08.measured(torch.stack(states), times, norm=1), "square the length"),
        (lambda states, times: nb08.measured(torch.stack(states), times, of_all=False), "the plain mean"),
        (straight_with(lambda found, states, times: found / 2), "do not average them"),
        (straight_with(lambda found, states, times: 0.9 * found), "shares of the segments add to 1"),
        (straight_with(lambda found, states, times: -0.9 * found), "the result is negative"),
        (straight_with(lambda found, states, times: found.mean()), r"should have shape \(3,\)"),
        (straight_with(lambda found, states, times: found + 1), "a straight line at constant speed should have 0"),
        (straight_by_length, "the first value should be"),
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
    assert list(RIGHT) == list(WRONG) == [f"08.{k}" for k in range(1, 5)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
