"""Answers that learners give: right ones of another kind pass, wrong ones are told what is wrong."""

import re

import pytest
import torch

from notebooks.exercises import nb02, nb04, nb05
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def at_one_noise_level(forward):
    for value in (-1.0, 0.0, 1.0):
        x_t = forward(torch.full((200_000,), value), 0.5)
        if abs(x_t.mean() - 0.5**0.5 * value) > 0.01 or abs(x_t.var() - 0.5) > 0.01:
            return False
    return True


def softmax_of_two(x_t, signal, sigma):
    logits = torch.stack([x_t - signal, x_t + signal]).square() / (-2 * sigma**2)
    plus, minus = logits.softmax(0)
    return plus - minus


def gradients_of_parts(model, mean_loss, batch, part_size):
    parameters = list(model.parameters())
    sums, total = [torch.zeros_like(p) for p in parameters], 0.0
    for part in batch.split(part_size):
        loss = mean_loss(model, part) * (len(part) / len(batch))
        for one, gradient in zip(sums, torch.autograd.grad(loss, parameters)):
            one += gradient
        total += loss.item()
    for parameter, one in zip(parameters, sums):
        parameter.grad = one
    return total


@pytest.mark.parametrize(
    ("number", "answer"), [("01.4", at_one_noise_level), ("02.3", softmax_of_two), ("04.3", gradients_of_parts)]
)
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def not_shrunk_unseen(forward):
    """Looks at images of 0 only, so that what is done to the image stays unseen."""
    x_t = forward(torch.zeros(100_000), 0.5)
    return bool(abs(x_t.mean()) < 0.02 and abs(x_t.var() - 0.5) < 0.02)


def advance_by_half(encoding, k, max_period=10_000.0):
    return nb02.advance(encoding, k / 2, max_period)


def two_densities(x_t, signal, sigma):
    """Right where the densities are: far from both points it divides 0 by 0."""
    plus, minus = (torch.exp(-((x_t - a) ** 2) / (2 * sigma**2)) for a in (signal, -signal))
    return (plus - minus) / (plus + minus)


def likeliest_t(x_t, signals, sigmas):
    each = torch.tanh(signals * x_t[:, None] / sigmas**2)
    return each[:, 1]


def one_backward(model, mean_loss, batch, part_size):
    model.zero_grad()
    total = sum(mean_loss(model, part) * len(part) / len(batch) for part in batch.split(part_size))
    total.backward()
    return total.item()


def graphs_held(model, mean_loss, batch, part_size):
    model.zero_grad()
    total = 0.0
    for part in batch.split(part_size):
        loss = mean_loss(model, part) * len(part) / len(batch)
        loss.backward(retain_graph=True)
        total = total + loss
    return total.item()


def a_tensor(model, mean_loss, batch, part_size):
    return torch.tensor(nb04.accumulate_gradients(model, mean_loss, batch, part_size))


def nan_loss(model, mean_loss, batch, part_size):
    nb04.accumulate_gradients(model, mean_loss, batch, part_size)
    return float("nan")


def a_number_for_each_pixel(x_t, noise, a_bar_t, a_bar_s):
    mean, std = nb05.jump(x_t, noise, a_bar_t, a_bar_s)
    return mean, torch.full_like(x_t, std)


@pytest.mark.parametrize(
    ("number", "answer", "told"),
    [
        ("01.4", not_shrunk_unseen, "lets a broken one pass: an image that is not shrunk"),
        ("02.2", advance_by_half, r"at t=\d+ column \d+ .* should be -?[\d.]+, got -?[\d.]+"),
        ("02.3", two_densities, r"x_t = -1, -0.2, 0, 0.2, 1 should give -1, -1, 0, 1, 1; got -1, nan, nan, nan, 1"),
        ("02.4", likeliest_t, r"x_t = -?[\d.]+ should give -?[\d.]+, got -?[\d.]+"),
        ("04.3", one_backward, "12 items in parts of 4: .* memory holds several parts at once"),
        ("04.3", graphs_held, "memory holds several parts at once"),
        ("04.3", a_tensor, "as a float, not as a tensor"),
        ("04.3", nan_loss, "should be a finite number, got nan"),
        ("05.1", a_number_for_each_pixel, "the standard deviation should be a number"),
    ],
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
