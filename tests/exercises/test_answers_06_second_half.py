"""Answers to exercises 06.5 to 06.7: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch

from notebooks.exercises import nb06
from utils.course.exercises import EXERCISES, grade

# -- right ---------------------------------------------------------------------------------------------------


def penalty_by_loop(critic, real, fake, mix):
    parts = []
    for one, other, share in zip(real, fake, mix):
        x = (other + share * (one - other))[None].requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).squeeze(), x, create_graph=True)
        parts.append((gradient.square().sum().sqrt() - 1) ** 2)
    return torch.stack(parts).mean()


def penalty_with_the_other_share(critic, real, fake, mix):
    return nb06.gradient_penalty(critic, fake, real, mix)


def penalty_by_ones(critic, real, fake, mix):
    x = torch.lerp(fake, real, mix).detach().requires_grad_(True)
    numbers = critic(x)
    ones = torch.ones_like(numbers)
    gradient = torch.autograd.grad(outputs=numbers, inputs=x, grad_outputs=ones, create_graph=True)[0]
    return ((gradient.reshape(len(real), -1).pow(2).sum(1) + 1e-16).sqrt() - 1).pow(2).mean()


def keeps_by_a_constant_image(step):
    for a, b in [(0.05, 0.2), (0.3, 0.9), (0.9, 1.0)]:
        x_0 = torch.full((200, 1, 16, 16), 0.8)
        x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * torch.randn_like(x_0)
        x_s = step(x_t, x_0, a, b, torch.randn_like(x_0))
        if abs(x_s.mean() - 0.8 * b**0.5) > 0.02 or abs(x_s.var() - (1 - b)) > 0.03:
            return False
    return True


def keeps_by_two_images(step):
    right = []
    for value in (-1.0, 1.0):
        for a, b in [(0.2, 0.5), (0.5, 1.0)]:
            x_0 = torch.full((40_000,), value, dtype=torch.float64)
            x_t = math.sqrt(a) * x_0 + math.sqrt(1 - a) * torch.randn_like(x_0)
            x_s = step(x_t, x_0, a, b, torch.randn_like(x_0))
            right.append(torch.allclose(x_s.mean(), value * torch.tensor(b).double().sqrt(), atol=0.03))
            right.append(torch.allclose(x_s.std(), torch.tensor(1 - b).double().sqrt(), atol=0.03))
    return torch.tensor(all(right))


def keeps_by_regression(step):
    for a, b in [(0.3, 0.6), (0.4, 1.0)]:
        x_0, noise, z = torch.randn(3, 60_000, dtype=torch.float64) + torch.tensor([[0.5], [0.0], [0.0]])
        x_s = step(a**0.5 * x_0 + (1 - a) ** 0.5 * noise, x_0, a, b, z)
        design = torch.stack([x_0, torch.ones_like(x_0)], 1)
        weights = torch.linalg.lstsq(design, x_s[:, None]).solution.flatten()
        rest = x_s - design @ weights
        wanted = torch.tensor([b**0.5, 0.0, 1 - b])
        if (torch.stack([*weights, rest.var()]) - wanted).abs().max() > 0.04:
            return False
    return True


def acceptance_by_softmax(logits):
    chances = logits.softmax(0)
    return chances / chances.max()


def acceptance_by_ratio(logits):
    best = logits.max()
    return torch.exp(logits.double() - best).clamp(0, 1)


def acceptance_by_log(logits):
    return torch.minimum(torch.zeros_like(logits), logits - max(logits.tolist())).exp()


RIGHT = {
    "06.5": [penalty_by_loop, penalty_with_the_other_share, penalty_by_ones],
    "06.6": [acceptance_by_softmax, acceptance_by_ratio, acceptance_by_log],
    "06.7": [keeps_by_a_constant_image, keeps_by_two_images, keeps_by_regression],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def penalty(of_gradient, between=None, create_graph=True):
    """A penalty of that function of the gradients (B, N), at another point."""

    def answer(critic, real, fake, mix):
        x = between(real, fake, mix) if between else mix * real + (1 - mix) * fake
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=create_graph)
        return of_gradient(gradient.flatten(1))

    return answer


def squares(gradient):
    return (gradient.norm(dim=1) - 1).square().mean()


def penalty_without_requiring(critic, real, fake, mix):
    x = mix * real + (1 - mix) * fake
    with torch.no_grad():
        numbers = critic(x).sum()
    return torch.autograd.grad(numbers, x, create_graph=True)[0].mean()


def penalty_by_backward(critic, real, fake, mix):
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    critic(x).sum().backward()
    return squares(x.grad.flatten(1))


def penalty_marks_real(critic, real, fake, mix):
    real.requires_grad_()
    return nb06.gradient_penalty(critic, real.detach(), fake, mix)


def penalty_with_a_constant_norm(critic, real, fake, mix):
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    return ((norms - 1) * (norms.detach() - 1)).mean()


def penalty_as_number(critic, real, fake, mix):
    return nb06.gradient_penalty(critic, real, fake, mix).item()


def keeps_at(pairs, mean=True, variance=True, image=1.0):
    """A test that asks at these pairs, for the mean, the variance or both, of a constant image."""

    def answer(step):
        for a, b in pairs:
            x_0 = torch.full((40_000,), image)
            x_s = step(a**0.5 * x_0 + (1 - a) ** 0.5 * torch.randn(40_000), x_0, a, b, torch.randn(40_000))
            off = abs(x_s.mean() - image * b**0.5) > 0.03 and mean
            if off or (variance and abs(x_s.var() - (1 - b)) > 0.03):
                return False
        return True

    return answer


def keeps_only_ddpm(step):
    x_t, x_0, z = torch.randn(3, 100)
    return torch.allclose(step(x_t, x_0, 0.3, 0.5, z), nb06.ddpm(x_t, x_0, 0.3, 0.5, z), atol=1e-4)


def keeps_too_strictly(step):
    x_0, noise, z = torch.randn(3, 1000)
    x_s = step(0.3**0.5 * x_0 + 0.7**0.5 * noise, x_0, 0.3, 0.5, z)
    return abs(float(x_s.var()) - 1) < 1e-3


def keeps_from_clean(step):
    return step(torch.randn(10), torch.randn(10), 1.0, 1.0, torch.randn(10)) is not None


WRONG = {
    "06.5": [
        (penalty(lambda g: (g.norm(dim=1) - 1).square().sum()), "sum over the images"),
        (penalty(lambda g: (g.norm() - 1).square()), "all images' gradients together; each"),
        (penalty(lambda g: (g.square().sum(1) - 1).square().mean()), "the norm needs a root"),
        (penalty(lambda g: (g.norm(dim=1).mean() - 1).square()), "square first"),
        (penalty(lambda g: (g.norm(dim=1) - 1).abs().mean()), "not squared"),
        (penalty(lambda g: g.norm(dim=1).square().mean()), "1 is not taken away"),
        (penalty(lambda g: (g - 1).square().mean()), "number by number"),
        (penalty(lambda g: (g.norm(dim=1) - 1).relu().square().mean()), "punishes both sides"),
        (penalty(lambda g: 10 * squares(g)), "factor 10"),
        (penalty(squares, lambda real, fake, mix: real), "at the real images"),
        (penalty(squares, lambda real, fake, mix: fake), "at the made images"),
        (penalty(squares, lambda real, fake, mix: (real + fake) / 2), "half-way"),
        (penalty(squares, create_graph=False), "create_graph=True"),
        (penalty_without_requiring, "requires_grad_"),
        (penalty_by_backward, "not backward"),
        (penalty_marks_real, "only the point between"),
        (penalty_with_a_constant_norm, "its gradient by the critic's weights is not"),
        (penalty_as_number, "teaches the critic nothing"),
    ],
    "06.6": [
        (torch.sigmoid, r"data / \(data \+ generator\)"),
        (lambda logits: (logits.min() - logits).exp(), "the sign is turned"),
        (lambda logits: (logits - logits.min()) / (logits.max() - logits.min()), "take its exponential"),
        (lambda logits: logits.exp().clamp(max=1), "cut off at 1"),
        (lambda logits: logits.exp(), "between 0 and 1"),
        (lambda logits: logits.softmax(0), "thrown away for nothing"),
        (lambda logits: torch.ones_like(logits), "in the proportion of data to generator"),
        (lambda logits: (logits - 1e6).exp(), "subtract the largest first"),
    ],
    "06.7": [
        (lambda step: True, "lets a faulty step pass: noise is left on in the last step"),
        (lambda step: False, "turns away a sound step, DDPM's"),
        (keeps_only_ddpm, "turns away a sound step, DDIM's"),
        (keeps_too_strictly, "turns away a sound step"),
        (keeps_at([(0.3, 0.5), (0.1, 0.2)]), "noise is left on in the last step"),
        (keeps_at([(0.3, 1.0)]), "the variance stands where its root belongs"),
        (keeps_at([(0.3, 0.5), (0.5, 1.0)], variance=False), "lets a faulty step pass"),
        (keeps_at([(0.3, 0.5), (0.5, 1.0)], mean=False), "lets a faulty step pass"),
        (keeps_at([(0.3, 0.5), (0.5, 1.0)], image=0.0), "lets a faulty step pass: the image has its weight at t"),
        (keeps_from_clean, "only a_bar_s may be 1"),
    ],
}


@pytest.mark.parametrize(
    ("number", "answer", "told"), [(number, *one) for number, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message


def test_the_solution_passes():
    for number in RIGHT:
        assert grade(number, EXERCISES[number].solution)[0] is True
