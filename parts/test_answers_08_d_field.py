"""Answers to notebook 08's exercises, section 6: other right ones pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, Normal

from notebooks.exercises import nb08
from utils.course.exercises import grade
from utils.diffusion.sampling import ddpm_step, keep_known

# -- right ---------------------------------------------------------------------------------------------------


def unmask_by_categorical(x_t, logits, t, s, generator):
    drawn = Categorical(logits=logits).sample()
    return torch.where((x_t != -1) | (torch.rand(x_t.shape) >= 1 - s / t), x_t, drawn)


def unmask_by_gumbel(x_t, logits, t, s, generator):
    noise = -torch.empty(logits.shape).exponential_(generator=generator).log()
    drawn, x_s = (logits + noise).argmax(-1), x_t.clone()
    shown = (x_t == -1) & (torch.rand(x_t.shape, generator=generator) * t >= s)
    x_s[shown] = drawn[shown]
    return x_s


def unmask_with_stay(x_t, logits, t, s, generator):
    """One draw: the mask itself is one more outcome, with the share s / t."""
    chances = torch.cat([(1 - s / t) * logits.softmax(-1), torch.full((*x_t.shape, 1), s / t)], dim=-1)
    drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view(x_t.shape)
    drawn[drawn == logits.shape[-1]] = -1
    return torch.where(x_t == -1, drawn, x_t)


def gradient_by_autograd(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        total = a_bar_t * variance + 1 - a_bar_t
        x_0 = mean + a_bar_t**0.5 * variance / total * (x - a_bar_t**0.5 * mean)
        C = variance * (1 - a_bar_t) / total * A @ A.T + noise_variance * torch.eye(len(A), dtype=A.dtype)
        gap = y - x_0 @ A.T
        return torch.autograd.grad(-0.5 * torch.einsum("bp,pq,bq->", gap, C.inverse(), gap), x)[0]


def gradient_by_the_posterior(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    """Tweedie's formula twice: the mean of x_0 given x_t and y, minus that given x_t."""
    precision = 1 / variance + a_bar_t / (1 - a_bar_t)
    shared = mean / variance + a_bar_t**0.5 / (1 - a_bar_t) * x_t
    with_y = precision * torch.eye(A.shape[1], dtype=A.dtype) + A.T @ A / noise_variance
    x_0_with = torch.linalg.solve(with_y, (shared + y @ A / noise_variance).T).T
    return a_bar_t**0.5 / (1 - a_bar_t) * (x_0_with - shared / precision)


def gradient_one_by_one(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    rows = [
        nb08.normal_gradient(x_t[k : k + 1], y[k : k + 1], a_bar_t, mean, variance, A, noise_variance)[0]
        for k in range(len(y))
    ]
    return torch.stack(rows)


def repaint_by_keep_known(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    constrain, alpha = keep_known(known, mask), a_bar_t / a_bar_s
    x_s = constrain(ddpm_step(x_t, guess(x_t), a_bar_t, a_bar_s, noise()), a_bar_s)
    for _ in range(repeats - 1):
        x_t = alpha**0.5 * x_s + (1 - alpha) ** 0.5 * noise()
        x_s = constrain(ddpm_step(x_t, guess(x_t), a_bar_t, a_bar_s, noise()), a_bar_s)
    return x_s


def repaint_up_first(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    for k in range(repeats):
        if k:
            x_t = math.sqrt(a_bar_t / a_bar_s) * x_t + math.sqrt(1 - a_bar_t / a_bar_s) * noise()
        x_t = ddpm_step(x_t, guess(x_t), a_bar_t, a_bar_s, noise())
        kept = mask.double()
        x_t = kept * (a_bar_s**0.5 * known + (1 - a_bar_s) ** 0.5 * noise()) + (1 - kept) * x_t
    return x_t


def repaint_by_recursion(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    x_s = ddpm_step(x_t, guess(x_t), a_bar_t, a_bar_s, noise())
    x_s[mask] = (math.sqrt(a_bar_s) * known + math.sqrt(1 - a_bar_s) * noise())[mask]
    if repeats == 1:
        return x_s
    x_t = Normal(math.sqrt(a_bar_t / a_bar_s) * x_s, math.sqrt(1 - a_bar_t / a_bar_s)).sample()
    return repaint_by_recursion(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats - 1, noise)


RIGHT = {
    "08.d1": [unmask_by_categorical, unmask_by_gumbel, unmask_with_stay],
    "08.d2": [gradient_by_autograd, gradient_by_the_posterior, gradient_one_by_one],
    "08.d3": [repaint_by_keep_known, repaint_up_first, repaint_by_recursion],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    torch.manual_seed(0)
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def unmask_with(share=lambda t, s: (t - s) / t, draw=None, coin=None, where=lambda x: x == -1):
    """The solution with another share, other draws, another coin or other places."""

    def answer(x_t, logits, t, s, generator):
        drawn = draw(logits) if draw else Categorical(logits=logits).sample()
        toss = coin(x_t) if coin else torch.rand(x_t.shape, generator=generator)
        return torch.where(where(x_t) & (toss < share(t, s)), drawn, x_t)

    return answer


def unmask_in_place(x_t, logits, t, s, generator):
    x_t[x_t == -1] = 0
    return x_t


def unmask_without_flatten(x_t, logits, t, s, generator):
    return torch.multinomial(logits.softmax(-1), 1)


def unmask_from_logits(x_t, logits, t, s, generator):
    return torch.multinomial(logits.flatten(0, 1), 1).view(x_t.shape)


def unmask_as_floats(x_t, logits, t, s, generator):
    return nb08.unmask_step(x_t, logits, t, s, generator).float()


def gradient_with(key):
    """The mistake that the check knows by this piece of its message."""

    def answer(*given):
        found = nb08.wrong_gradients(*given)
        return next(gradient for fault, gradient in found.items() if key in fault)

    return answer


def gradient_without_transpose(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    return (y - x_t @ A) @ A


def repaint_with(put=None, up=None, last_up=False, extra=0):
    """The solution with another way to put pixels back, or to go up again."""

    def answer(x_t, guess, a_t, a_s, known, mask, repeats, noise):
        for k in range(repeats + extra):
            x_s = ddpm_step(x_t, guess(x_t), a_t, a_s, noise())
            noisy = math.sqrt(a_s) * known + math.sqrt(1 - a_s) * noise()
            x_s = put(x_s, noisy, known, mask, k == repeats - 1) if put else torch.where(mask, noisy, x_s)
            again = (
                up(x_s, a_t, a_s, noise()) if up else math.sqrt(a_t / a_s) * x_s + math.sqrt(1 - a_t / a_s) * noise()
            )
            x_t = again if k < repeats - 1 or last_up else x_t
        return again if last_up else x_s

    return answer


WRONG = {
    "08.d1": [
        (unmask_with(draw=lambda logits: logits.argmax(-1)), r"\*draw\* it"),
        (unmask_with(draw=lambda logits: torch.randint(3, logits.shape[:2])), r"softmax\(logits\) is"),
        (unmask_with(share=lambda t, s: t - s), "that is t - s"),
        (unmask_with(share=lambda t, s: s / t), "the share that stays masked"),
        (unmask_with(share=lambda t, s: 1 - s), "that is 1 - s"),
        (unmask_with(share=lambda t, s: 2.0), "the others wait"),
        (unmask_with(share=lambda t, s: 1 - (s / t) ** 3), r"the share \(t - s\) / t"),
        (unmask_with(coin=lambda x: torch.rand(len(x), 1)), "a number of its own"),
        (unmask_with(where=lambda x: x >= -1), "stays as it is"),
        (unmask_with(draw=lambda logits: Categorical(logits=logits).sample() + 1), "neither the mask nor a level"),
        (unmask_in_place, "changes what it is given"),
        (unmask_without_flatten, "one row of probabilities"),
        (unmask_from_logits, "not logits"),
        (unmask_as_floats, "whole numbers"),
        (lambda x_t, logits, t, s, generator: F.one_hot(x_t + 1), r"should have shape \(20000, 4\)"),
    ],
    "08.d2": [
        (gradient_with("sign is turned"), "sign is turned round"),
        (gradient_with("yours is DPS"), "yours is DPS"),
        (gradient_with("PiGDM's guess"), "PiGDM's guess"),
        (gradient_with("smaller than that of the data"), r"\*given x_t\* is smaller"),
        (gradient_with("do not square"), "do not square it"),
        (gradient_with("do not take its root"), "do not take its root"),
        (gradient_with("chain rule"), "chain rule's factor"),
        (gradient_with("compare it with A times"), "A times the estimate of x_0"),
        (gradient_with("as if the noise in x_t were 0"), "as if the noise in x_t were 0"),
        (gradient_with("not divided by"), "not divided by the covariance"),
        (gradient_without_transpose, r"x @ A\.T"),
        (lambda *given: 2 * nb08.normal_gradient(*given), "the first value should be"),
        (lambda *given: nb08.normal_gradient(*given).sum(), r"should have shape \(5, 2\)"),
    ],
    "08.d3": [
        (repaint_with(put=lambda x, noisy, known, mask, last: x), "are not put back"),
        (repaint_with(put=lambda x, noisy, known, mask, last: torch.where(mask, x, noisy)), r"\*outside\* the mask"),
        (repaint_with(put=lambda x, noisy, known, mask, last: torch.where(mask, known, x)), "put back without noise"),
        (
            repaint_with(put=lambda x, noisy, known, mask, last: torch.where(mask & torch.tensor(last), noisy, x)),
            "in the last repeat only",
        ),
        (repaint_with(last_up=True), "after the last repeat too"),
        (repaint_with(up=lambda x, a_t, a_s, z: x + math.sqrt(1 - a_t / a_s) * z), "is not shrunk"),
        (repaint_with(up=lambda x, a_t, a_s, z: math.sqrt(a_t) * x + math.sqrt(1 - a_t) * z), "as if it were clean"),
        (repaint_with(up=lambda x, a_t, a_s, z: x), "going back to t is missing"),
        (repaint_with(up=lambda x, a_t, a_s, z: math.sqrt(a_t / a_s) * x + z), "mean ± standard deviation"),
        (repaint_with(extra=1), "was asked 2 times"),
    ],
}


@pytest.mark.parametrize(
    ("number", "answer", "told"), [(number, *one) for number, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    torch.manual_seed(0)
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message


def test_every_exercise_has_three_other_right_answers_and_five_wrong_ones():
    assert list(RIGHT) == list(WRONG) == [f"08.d{k}" for k in range(1, 4)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
