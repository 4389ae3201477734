"""Answers to notebook 00's three pieces: right ones of another kind pass, wrong ones are told what is wrong."""

import math

import pytest
import torch
import torch.nn.functional as F

from notebooks.exercises.nb00 import q_sample
from utils.course.exercises import choose, grade

# -- right ---------------------------------------------------------------------------------------------------


def by_loop(x_0, t, noise, alphas_cumprod):
    weights = [alphas_cumprod[int(k)] for k in t]
    return torch.stack([a**0.5 * x + (1 - a) ** 0.5 * n for a, x, n in zip(weights, x_0, noise)])


def by_einsum(x_0, t, noise, alphas_cumprod):
    a = alphas_cumprod[t]
    return torch.einsum("b,b...->b...", a.sqrt(), x_0) + torch.einsum("b,b...->b...", (1 - a).sqrt(), noise)


def by_gather(x_0, t, noise, alphas_cumprod):
    a = alphas_cumprod.gather(0, t).reshape(len(t), *(1,) * (x_0.ndim - 1))
    return torch.lerp(torch.zeros_like(x_0), x_0, a.sqrt()) + torch.sqrt(1 - a) * noise


def zero_grad_last(model, optimizer, x_0, alphas_cumprod):
    t = torch.randint(0, len(alphas_cumprod), size=x_0.shape[:1])
    guess = model(q_sample(x_0, t, torch.randn_like(x_0), alphas_cumprod), t)
    errors = F.mse_loss(guess, x_0, reduction="none").flatten(1).mean(1)
    loss = (errors / (1 - alphas_cumprod[t]).clamp(min=0.1)).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def mixed_by_hand(model, optimizer, x_0, alphas_cumprod):
    t = (torch.rand(len(x_0)) * len(alphas_cumprod)).long()
    a = alphas_cumprod[t].reshape(-1, *(1,) * (x_0.dim() - 1))
    error = x_0 - model(a.sqrt() * x_0 + (1 - a).sqrt() * torch.randn(x_0.shape), t)
    loss = ((error / torch.clamp(1 - a, 0.1).sqrt()) ** 2).mean()
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def gradient_by_hand(model, optimizer, x_0, alphas_cumprod):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))
    error = model(q_sample(x_0, t, torch.randn_like(x_0), alphas_cumprod), t) - x_0
    loss = (error.pow(2).flatten(1).mean(1) / (1 - alphas_cumprod[t]).clamp(0.1)).sum() / len(x_0)
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = gradient
    optimizer.step()
    return loss.item()


def antithetic_steps(model, optimizer, x_0, alphas_cumprod):
    """t and T - 1 - t in pairs, as the code of DDIM draws them; every step is equally likely."""
    half = torch.randint(len(alphas_cumprod), (len(x_0) // 2,))
    t = torch.cat([half, len(alphas_cumprod) - 1 - half])
    optimizer.zero_grad()
    error = model(q_sample(x_0, t, torch.normal(0.0, 1.0, x_0.shape), alphas_cumprod), t=t) - x_0
    weights = torch.minimum(1 / (1 - alphas_cumprod), torch.tensor(10.0))[t]
    loss = torch.einsum("b,b...->b...", weights, error.square()).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def by_angle(x_t, x_0, a_bar_t, a_bar_s):
    """Salimans & Ho 2022, appendix D: a turn from one angle to the other."""
    angle, turn = math.acos(a_bar_t**0.5), math.acos(a_bar_t**0.5) - math.acos(a_bar_s**0.5)
    v = (math.cos(angle) * x_t - x_0) / math.sin(angle)
    return math.cos(turn) * x_t - math.sin(turn) * v


def by_score(x_t, x_0, a_bar_t, a_bar_s):
    a, b = torch.tensor(a_bar_t), torch.tensor(a_bar_s)
    score = (a.sqrt() * x_0 - x_t) / (1 - a)
    return b.sqrt() * x_0 - ((1 - b) * (1 - a)).sqrt() * score


def by_angle_of_mixing(x_0, t, noise, alphas_cumprod):
    angle = alphas_cumprod.sqrt().acos()[t]
    while angle.ndim < x_0.ndim:
        angle = angle[..., None]
    return angle.cos() * x_0 + angle.sin() * noise


def by_ratio(x_t, x_0, a_bar_t, a_bar_s):
    ratio = ((1 - a_bar_s) / (1 - a_bar_t)) ** 0.5
    return ratio * x_t + (a_bar_s**0.5 - a_bar_t**0.5 * ratio) * x_0


def by_part_of_the_way(x_t, x_0, a_bar_t, a_bar_s):
    """From x_t's own mixture, a part of the way; then the rest of the weight for the guess."""
    kept = ((1 - a_bar_s) / (1 - a_bar_t)) ** 0.5
    return x_0 + kept * (x_t - x_0) - (1 - kept - (a_bar_s**0.5 - a_bar_t**0.5 * kept)) * x_0


def by_q_sample(x_t, x_0, a_bar_t, a_bar_s):
    curve, t = torch.tensor([a_bar_s], dtype=x_0.dtype), torch.zeros(len(x_0), dtype=torch.long)
    return q_sample(x_0, t, (x_t - a_bar_t**0.5 * x_0) / (1 - a_bar_t) ** 0.5, curve)


RIGHT = {
    "00.1": [by_loop, by_einsum, by_gather, by_angle_of_mixing],
    "00.2": [zero_grad_last, mixed_by_hand, gradient_by_hand, antithetic_steps],
    "00.3": [by_ratio, by_part_of_the_way, by_q_sample, by_angle, by_score],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def column(values, x):
    return values.view(-1, *[1] * (x.ndim - 1))


def mix(signal_of, sigma_of):
    """A q_sample with these two weights, as functions of alpha-bar."""

    def answer(x_0, t, noise, alphas_cumprod):
        a = column(alphas_cumprod[t], x_0)
        return signal_of(a) * x_0 + sigma_of(a) * noise

    return answer


def unshaped(x_0, t, noise, alphas_cumprod):
    return alphas_cumprod[t].sqrt() * x_0 + (1 - alphas_cumprod[t]).sqrt() * noise


def own_noise(x_0, t, noise, alphas_cumprod):
    return q_sample(x_0, t, torch.randn_like(x_0), alphas_cumprod)


def first_t_for_all(x_0, t, noise, alphas_cumprod):
    return q_sample(x_0, t[:1].expand(len(t)), noise, alphas_cumprod)


def one_step_early(x_0, t, noise, alphas_cumprod):
    return q_sample(x_0, t - 1, noise, alphas_cumprod)


def clean_at_0(x_0, t, noise, alphas_cumprod):
    return torch.where(column(t, x_0) == 0, x_0, q_sample(x_0, t, noise, alphas_cumprod))


def clamped(x_0, t, noise, alphas_cumprod):
    return q_sample(x_0, t, noise, alphas_cumprod).clamp(-1, 1)


def step(t_of=None, noise_of=torch.randn_like, loss_of=None, clear=True, update=True, clean=False, shape=column):
    """A training step with one thing changed."""

    def answer(model, optimizer, x_0, alphas_cumprod):
        total, count = len(alphas_cumprod), len(x_0)
        t = t_of(total, count) if t_of else torch.randint(total, (count,))
        noise = noise_of(x_0)
        x_t = x_0 if clean else q_sample(x_0, t, noise, alphas_cumprod)
        output = model(x_t, t)
        variance = (1 - shape(alphas_cumprod[t], x_0)).clamp(min=0.1)
        loss = loss_of(output, x_0, noise, variance) if loss_of else ((output - x_0) ** 2 / variance).mean()
        if clear:
            optimizer.zero_grad()
        loss.backward()
        if update:
            optimizer.step()
        return loss.item()

    return answer


def mixed_as_an_image(model, optimizer, x_0, alphas_cumprod):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))
    a = alphas_cumprod[t].view(-1, 1, 1, 1)
    return model(a.sqrt() * x_0 + (1 - a).sqrt() * torch.randn_like(x_0), t)


def seeded(model, optimizer, x_0, alphas_cumprod):
    torch.manual_seed(0)
    return step()(model, optimizer, x_0, alphas_cumprod)


def a_tensor(model, optimizer, x_0, alphas_cumprod):
    return torch.tensor(step()(model, optimizer, x_0, alphas_cumprod))


def swapped(model, optimizer, x_0, alphas_cumprod):
    return step()(lambda x_t, t: model(t, x_t), optimizer, x_0, alphas_cumprod)


def no_limit(model, optimizer, x_0, alphas_cumprod):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))
    error = model(q_sample(x_0, t, torch.randn_like(x_0), alphas_cumprod), t) - x_0
    loss = (error.square() / (1 - alphas_cumprod[t])[:, None]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def reverse(form):
    """A reverse step from a formula in x_t, x_0, the implied noise, alpha-bar at t (a) and at s (b)."""

    def answer(x_t, x_0, a_bar_t, a_bar_s):
        noise = (x_t - a_bar_t**0.5 * x_0) / (1 - a_bar_t) ** 0.5
        return form(x_t, x_0, noise, a_bar_t, a_bar_s)

    return answer


def in_place(x_0, t, noise, alphas_cumprod):
    a = alphas_cumprod[t].view(-1, *[1] * (x_0.ndim - 1))
    return x_0.mul_(a.sqrt()).add_((1 - a).sqrt() * noise)


def solution_step(x_t, x_0, a, b):
    return b**0.5 * x_0 + (1 - b) ** 0.5 * (x_t - a**0.5 * x_0) / (1 - a) ** 0.5


def largest(output, x_0, noise, variance):
    return ((output - x_0).square() / max(variance, 0.1)).mean()


WRONG = [
    ("00.2", step(loss_of=largest), "Python's max and if take one number"),
    ("00.1", mix(lambda a: a.sqrt(), lambda a: 1 - a), "a variance; take its root"),
    ("00.1", mix(lambda a: a, lambda a: (1 - a).sqrt()), "the image has weight alpha-bar"),
    ("00.1", mix(lambda a: a, lambda a: 1 - a), "for the image and for the noise"),
    ("00.1", mix(lambda a: a.sqrt(), lambda a: 1 - a.sqrt()), "the weights add up to 1"),
    ("00.1", mix(lambda a: (1 - a).sqrt(), lambda a: a.sqrt()), "exchanged"),
    ("00.1", mix(lambda a: 1, lambda a: (1 - a).sqrt()), "not shrunk"),
    ("00.1", mix(lambda a: a.sqrt(), lambda a: 0.5 * (1 - a).sqrt()), "right are the roots of alpha-bar"),
    ("00.1", unshaped, "(B, 1, ...)"),
    ("00.1", own_noise, "mix in the noise that is given"),
    ("00.1", first_t_for_all, "each has a t of its own"),
    ("00.1", one_step_early, "step t - 1"),
    ("00.1", mix(lambda a: a**1 / 2, lambda a: (1 - a) ** 1 / 2), "the root is a**0.5"),
    ("00.1", clean_at_0, "at t = 0, where alpha-bar is 0.9975, your x_0 has weight 1.0000"),
    ("00.1", clamped, "no mixture of x_0 and noise"),
    ("00.2", step(shape=lambda values, x: values[:, None]), "do not fit x_0 of shape (512, 1, 4, 4)"),
    ("00.2", mixed_as_an_image, "x_t has shape (512, 1, 512, 2) and x_0 (512, 2); do the weights fit?"),
    ("00.2", step(shape=lambda values, x: values[:, :, None]), "do not fit x_0 of shape (512, 2)"),
    (
        "00.2",
        step(loss_of=lambda output, x_0, noise, variance: ((output - x_0) ** 2).mean((1, 2, 3)).mean()),
        "has 2 axes; .flatten(1)",
    ),
    ("00.2", step(t_of=lambda total, count: (torch.rand(count) ** 2 * total).long()), "equally likely"),
    ("00.2", step(t_of=lambda total, count: torch.randint(200, (count,))), "draw below len(alphas_cumprod)"),
    ("00.2", step(t_of=lambda total, count: torch.rand(count) * total), "whole numbers"),
    ("00.2", step(t_of=lambda total, count: torch.arange(count) % total), "draw anew"),
    ("00.2", step(noise_of=lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(0))), "draw anew"),
    ("00.2", seeded, "set no seed"),
    ("00.2", step(noise_of=lambda x: torch.randn(len(x), *[1] * (x.ndim - 1)).expand_as(x)), "serves a whole item"),
    ("00.2", step(noise_of=lambda x: torch.randn(x.shape[1:]).expand_as(x)), "every item has the same noise"),
    ("00.2", step(noise_of=lambda x: (torch.rand_like(x) - 0.5) * 12**0.5), "uniform"),
    ("00.2", step(noise_of=torch.zeros_like), "standard deviation 0.00"),
    ("00.2", step(noise_of=lambda x: 2 * torch.randn_like(x)), "instead of 0 and 1"),
    ("00.2", a_tensor, "loss.item()"),
    ("00.2", swapped, "model(x_t, t)"),
    ("00.2", step(loss_of=lambda output, x_0, noise, variance: ((output - x_0) / variance).square().mean()), "squared"),
    ("00.2", step(loss_of=lambda output, x_0, noise, variance: ((output - x_0) ** 2 * variance).mean()), "multiplies"),
    (
        "00.2",
        step(loss_of=lambda output, x_0, noise, variance: (output - x_0).square().mean() / variance.mean()),
        "of its own step",
    ),
    (
        "00.2",
        step(loss_of=lambda output, x_0, noise, variance: ((output - x_0) ** 2 / variance).flatten(1).sum(1).mean()),
        "an item's squared errors",
    ),
    ("00.2", step(t_of=lambda total, count: torch.randint(total, (1,)).expand(count)), "draw one for each"),
    ("00.2", step(t_of=lambda total, count: torch.randint(1, total, (count,))), "from 1 to 39"),
    ("00.2", step(t_of=lambda total, count: torch.randint(total - 1, (count,))), "from 0 to 38"),
    ("00.2", step(noise_of=torch.rand_like), "uniform"),
    ("00.2", step(loss_of=lambda output, x_0, noise, variance: (output - noise).square().mean()), "asked for x_0"),
    ("00.2", step(loss_of=lambda output, x_0, noise, variance: (output - x_0).square().mean()), "divide each"),
    (
        "00.2",
        step(loss_of=lambda output, x_0, noise, variance: ((output - x_0) ** 2 / variance).sum()),
        "take their mean",
    ),
    ("00.2", step(loss_of=lambda output, x_0, noise, variance: ((output - x_0).abs() / variance).mean()), "square it"),
    ("00.2", no_limit, ".clamp(min=0.1)"),
    ("00.2", step(clear=False), "optimizer.zero_grad()"),
    ("00.2", step(update=False), "optimizer.step()"),
    ("00.2", step(clean=True), "mix noise into it first"),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 - (1 - b) ** 0.5 * noise), "is added"),
    ("00.3", lambda x_t, x_0, a, b: b.sqrt() * x_0 + (1 - b).sqrt() * x_t, "plain numbers"),
    ("00.3", lambda x_t, x_0, a, b: torch.sqrt(b) * x_0, "plain numbers"),
    (
        "00.3",
        lambda x_t, x_0, a, b: b**1 / 2 * x_0 + (1 - b) ** 1 / 2 * (x_t - a**1 / 2 * x_0) / (1 - a) ** 1 / 2,
        "the root is a**0.5",
    ),
    ("00.3", lambda x_t, x_0, a, b: solution_step(x_t, x_0.clamp(-1, 1), a, b), "no mixture"),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: x_0), "the whole way"),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: x_t), "nothing has moved"),
    (
        "00.3",
        reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 + (1 - b) ** 0.5 * torch.randn_like(x_0)),
        "fresh noise",
    ),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 + (1 - b) ** 0.5 * x_t), "as if it were the noise"),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 + (1 - a) ** 0.5 * noise), "not made less"),
    (
        "00.3",
        reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 + (1 - b) ** 0.5 * (x_t - a**0.5 * x_0)),
        "divide by the root",
    ),
    (
        "00.3",
        reverse(lambda x_t, x_0, noise, a, b: b * x_0 + (1 - b) * (x_t - a * x_0) / (1 - a)),
        "the square of the weight",
    ),
    (
        "00.3",
        reverse(lambda x_t, x_0, noise, a, b: (b**0.5 * (1 - a / b) * x_0 + (a / b) ** 0.5 * (1 - b) * x_t) / (1 - a)),
        "the paper's step",
    ),
    ("00.1", in_place, "in place; make a new tensor"),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: noise), "the noise alone"),
    ("00.3", lambda x_t, x_0, a, b: solution_step(x_t, x_0, b, a), "exchanged"),
    (
        "00.3",
        reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 + (1 - b) ** 0.5 * (x_t - x_0)),
        "its weight times the guess",
    ),
    (
        "00.3",
        reverse(lambda x_t, x_0, noise, a, b: b**0.5 * x_0 + (1 - b**0.5) * (x_t - a**0.5 * x_0) / (1 - a**0.5)),
        "is not (1 - a)**0.5",
    ),
    ("00.3", reverse(lambda x_t, x_0, noise, a, b: x_t + (b - a) * (x_0 - x_t)), "mixing guess and noise anew"),
]


@pytest.mark.parametrize(("number", "answer", "fault"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, fault):
    passed, message = grade(number, answer)
    assert passed is False and fault in message, message


# -- choose --------------------------------------------------------------------------------------------------


def test_a_right_piece_is_used_and_else_the_course_s(capsys):
    def course_q_sample(x_0, t, noise, alphas_cumprod):
        return q_sample(x_0, t, noise, alphas_cumprod)

    assert choose("00.1", by_loop, course_q_sample) is by_loop
    assert "yours" in capsys.readouterr().out
    assert choose("00.1", own_noise, course_q_sample) is course_q_sample
    assert choose("00.1", course_q_sample, course_q_sample) is course_q_sample  # its cell run a second time
    assert "yours" not in capsys.readouterr().out
