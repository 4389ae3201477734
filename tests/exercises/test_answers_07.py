"""Answers to notebook 07's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from notebooks.exercises import nb07
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def noise_by_the_score(noise, gradient, a_bar_t, w):
    sigma = (1 - a_bar_t) ** 0.5
    score = -noise / sigma + w * gradient
    return -sigma * score


def noise_by_tensors(noise, gradient, a_bar_t, w):
    sigma = torch.tensor(1 - a_bar_t, dtype=noise.dtype).sqrt()
    return torch.addcmul(noise, sigma, gradient, value=-w)


def noise_by_interpolation(noise, gradient, a_bar_t, w):
    """From the noise of w = 0 through that of w = 1."""
    return torch.lerp(noise, noise - math.sqrt(1 - a_bar_t) * gradient, w)


def gradient_by_cross_entropy(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.clone().requires_grad_(True)
        loss = F.cross_entropy(classifier(x, t), y, reduction="sum")
    return -torch.autograd.grad(loss, [x])[0]


def gradient_by_gather(classifier, x_t, t, y):
    x = x_t.detach()
    x.requires_grad = True
    with torch.set_grad_enabled(True):
        log_p = F.log_softmax(classifier(x, t), dim=-1).gather(1, y.view(-1, 1))
        found = torch.autograd.grad(log_p, x, grad_outputs=torch.ones_like(log_p))[0]
    return found


def gradient_one_by_one(classifier, x_t, t, y):
    rows = []
    for k in range(len(y)):
        with torch.enable_grad():
            x = x_t[k : k + 1].detach().requires_grad_()
            (row,) = torch.autograd.grad(classifier(x, t[k : k + 1]).log_softmax(1)[0, y[k]], x)
        rows.append(row)
    return torch.cat(rows)


def output_label_first(model, x_t, t, y, w):
    both = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([y, torch.full_like(y, model.num_classes)]))
    with_label, without = both[: len(y)], both[len(y) :]
    return w * with_label + (1 - w) * without


def output_by_lerp(model, x_t, t, y, w):
    labels = torch.stack([torch.full_like(y, 10), y]).flatten()
    return torch.lerp(*model(torch.cat([x_t] * 2), torch.cat([t] * 2), labels).chunk(2), w)


def output_by_ho(model, x_t, t, y, w):
    labels = torch.cat([y, torch.full_like(y, model.num_classes)])
    with_label, without = model(torch.cat([x_t, x_t]), torch.cat([t, t]), labels).split(len(y))
    return (1 + (w - 1)) * with_label - (w - 1) * without


def composed_by_cat(model, x_t, t, weights):
    labels = torch.cat([torch.full_like(t, k) for k in [10, *weights]])
    count = len(weights) + 1
    parts = model(torch.cat([x_t] * count), torch.cat([t] * count), labels).split(len(x_t))
    factors = [1 - sum(weights.values()), *weights.values()]
    return sum(factor * part for factor, part in zip(factors, parts))


def composed_by_einsum(model, x_t, t, weights):
    kinds = torch.tensor([*weights, model.num_classes])
    count, b = len(kinds), len(x_t)
    x, ts = x_t.expand(count, *x_t.shape), t.expand(count, b)
    parts = model(x.flatten(0, 1), ts.flatten(), kinds[:, None].expand(count, b).flatten()).unflatten(0, (count, b))
    factors = torch.tensor([*weights.values(), 1 - sum(weights.values())])
    return torch.einsum("k,k...->...", factors, parts)


def composed_by_image(model, x_t, t, weights):
    """All parts of an image one below the other, image by image."""
    count = len(weights) + 1
    labels = torch.tensor([model.num_classes, *weights]).repeat(len(x_t))
    parts = model(x_t.repeat_interleave(count, 0), t.repeat_interleave(count), labels)
    parts = parts.unflatten(0, (len(x_t), count))
    result = parts[:, 0].clone()
    for k, w in enumerate(weights.values()):
        result += w * (parts[:, k + 1] - parts[:, 0])
    return result


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
    "07.1": [noise_by_the_score, noise_by_tensors, noise_by_interpolation],
    "07.2": [gradient_by_cross_entropy, gradient_by_gather, gradient_one_by_one],
    "07.3": [output_label_first, output_by_lerp, output_by_ho],
    "07.4": [variance_by_powers, variance_by_lerp, variance_from_the_middle],
    "07.5": [term_by_pytorch, term_by_logs, term_in_log2],
    "07.6": [composed_by_cat, composed_by_einsum, composed_by_image],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def noise_with(factor):
    return lambda noise, gradient, a_bar_t, w: noise + factor(math.sqrt(1 - a_bar_t), w) * gradient


def noise_in_place(noise, gradient, a_bar_t, w):
    return noise.sub_(gradient, alpha=w * math.sqrt(1 - a_bar_t))


def noise_by_torch_sqrt(noise, gradient, a_bar_t, w):
    return noise - w * torch.sqrt(1 - a_bar_t) * gradient


def noise_of_the_score(noise, gradient, a_bar_t, w):
    return -noise / math.sqrt(1 - a_bar_t) + w * gradient


def gradient_with(of_logits, graph=False):
    """The gradient of `of_logits(logits, y)`, a number."""

    def answer(classifier, x_t, t, y):
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            return torch.autograd.grad(of_logits(classifier(x, t), y), x, create_graph=graph)[0]

    return answer


def own(values, y):
    return values[torch.arange(len(y)), y]


def gradient_without_a_graph(classifier, x_t, t, y):
    x = x_t.detach().requires_grad_()
    return torch.autograd.grad(own(classifier(x, t).log_softmax(1), y).sum(), x)[0]


def gradient_by_backward(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        own(classifier(x, t).log_softmax(1), y).sum().backward()
    return x.grad


def gradient_of_x_t_itself(classifier, x_t, t, y):
    with torch.enable_grad():
        x_t.requires_grad_()
        return torch.autograd.grad(own(classifier(x_t, t).log_softmax(1), y).sum(), x_t)[0]


def output_with(mixed, calls=1):
    """mixed(without, with_label, w), from one call or two."""

    def answer(model, x_t, t, y, w):
        if calls == 2:
            return mixed(model(x_t, t), model(x_t, t, y), w)
        labels = torch.cat([torch.full_like(y, model.num_classes), y])
        return mixed(*model(torch.cat([x_t, x_t]), torch.cat([t, t]), labels).chunk(2), w)

    return answer


def output_with_short_labels(model, x_t, t, y, w):
    without, with_label = model(torch.cat([x_t, x_t]), torch.cat([t, t]), y).chunk(2)
    return without + w * (with_label - without)


def output_with_minus_one(model, x_t, t, y, w):
    labels = torch.cat([torch.full_like(y, -1), y])
    without, with_label = model(torch.cat([x_t, x_t]), torch.cat([t, t]), labels).chunk(2)
    return without + w * (with_label - without)


def composed_with(mixed):
    """mixed(without, others, values)."""

    def answer(model, x_t, t, weights):
        count = len(weights) + 1
        labels = torch.tensor([model.num_classes, *weights]).repeat_interleave(len(x_t))
        without, *others = model(x_t.repeat(count, 1, 1, 1), t.repeat(count), labels).chunk(count)
        return mixed(without, others, [*weights.values()])

    return answer


def composed_label_by_label(model, x_t, t, weights):
    without = model(x_t, t)
    return without + sum(w * (model(x_t, t, torch.full_like(t, k)) - without) for k, w in weights.items())


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
    "07.1": [
        (noise_with(lambda sigma, w: w * sigma), "the gradient is added"),
        (noise_with(lambda sigma, w: -w), "sigma_t is missing"),
        (noise_with(lambda sigma, w: -w / sigma), "divided by sigma_t"),
        (noise_with(lambda sigma, w: -w * sigma**2), "take its root"),
        (noise_with(lambda sigma, w: -w * math.sqrt(1 - sigma**2)), r"not sqrt\(a_bar_t\)"),
        (noise_with(lambda sigma, w: -sigma), "w plays no part"),
        (noise_with(lambda sigma, w: -(1 + w) * sigma), "not 1 \\+ w times"),
        (noise_in_place, "changes what it is given, in place"),
        (noise_by_torch_sqrt, "math.sqrt takes its root"),
        (noise_of_the_score, "this is the guided score"),
        (noise_with(lambda sigma, w: -3 * w * sigma), "the first value should be"),
    ],
    "07.2": [
        (gradient_with(lambda logits, y: F.cross_entropy(logits, y, reduction="sum")), "the sign is turned round"),
        (gradient_with(lambda logits, y: own(logits, y).sum()), "gradient of the logit"),
        (gradient_with(lambda logits, y: own(logits.softmax(1), y).sum()), "this is the gradient of p"),
        (gradient_with(lambda logits, y: own(logits.log_softmax(1), y).mean()), "B times too small; add up"),
        (gradient_with(lambda logits, y: F.cross_entropy(logits, y)), "the mean loss's gradient"),
        (gradient_with(lambda logits, y: logits.log_softmax(1).sum()), "adds up over all classes"),
        (gradient_with(lambda logits, y: own(logits.log_softmax(1), y)), "the gradient is that of one number"),
        (gradient_with(lambda logits, y: own(logits.log_softmax(1), y).sum(), graph=True), "tied to the graph"),
        (gradient_with(lambda logits, y: own(logits.log_softmax(0), y).sum()), "less the mean row"),
        (gradient_without_a_graph, r"inside torch.enable_grad\(\)"),
        (gradient_by_backward, "own weights have got gradients"),
        (gradient_of_x_t_itself, "x_t itself now requires gradients"),
    ],
    "07.3": [
        (output_with(lambda u, c, w: c + w * (c - u)), "the other convention"),
        (output_with(lambda u, c, w: c + w * (u - c)), "halves are exchanged"),
        (output_with(lambda u, c, w: w * (u + c)), "counts 1 - w times"),
        (output_with(lambda u, c, w: w * (c - u)), "must be added once"),
        (output_with(lambda u, c, w: c), "w plays no part"),
        (output_with(lambda u, c, w: u + 2 * w * (c - u)), "the output should be"),
        (output_with(lambda u, c, w: u + w * (c - u), calls=2), "called 2 times"),
        (output_with_short_labels, "one entry per image"),
        (output_with_minus_one, "10 is 'no label'"),
    ],
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
    "07.6": [
        (
            composed_with(lambda u, cs, ws: sum(w * (c - u) for w, c in zip(ws, cs)) + 0 * u),
            "without a label is missing",
        ),
        (composed_with(lambda u, cs, ws: sum(u + w * (c - u) for w, c in zip(ws, cs)) + 0 * u), "once in all is right"),
        (composed_with(lambda u, cs, ws: u + sum(w * c for w, c in zip(ws, cs))), "without taking away"),
        (
            composed_with(lambda u, cs, ws: u + sum(w * (c - u) for w, c in zip(ws, cs)) / (sum(ws) or 1)),
            "divided by their sum",
        ),
        (
            composed_with(lambda u, cs, ws: u + sum(w * (c - u) for w, c in zip(ws, cs)) / max(1, len(ws))),
            "divided by how many",
        ),
        (composed_with(lambda u, cs, ws: u + sum(abs(w) * (c - u) for w, c in zip(ws, cs))), "yours pulls"),
        (composed_with(lambda u, cs, ws: u + sum(2 * w * (c - u) for w, c in zip(ws, cs))), "for each, to that"),
        (composed_label_by_label, "called 3 times"),
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
    assert list(RIGHT) == list(WRONG) == [f"07.{k}" for k in range(1, 7)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
