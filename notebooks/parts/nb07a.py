"""Exercises 07.5 and 07.6, learned variance. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import ONE_NUMBER, as_float64, called, close, normal, refuse_changes
from utils.course.exercises import Wrong, exercise

# -- 07.5 ------------------------------------------------------------------------------------------


def check_step_variance(step_variance: Callable) -> None:
    beta = torch.tensor([0.02, 0.3, 0.999], dtype=torch.float64).view(3, 1, 1, 1)
    tilde = torch.tensor([0.001, 0.29, 0.5], dtype=torch.float64).view(3, 1, 1, 1)
    second = 0.9 * normal(3, 2, 4, 4)
    for name, values in {"1": torch.ones_like(second), "-1": -torch.ones_like(second), "between": second}.items():
        given = [values.clone(), beta.clone(), tilde.clone()]
        answer = called(step_variance, *given, faults=ONE_NUMBER)
        refuse_changes(given, [values, beta, tilde], "second, beta and beta_tilde")
        seen = as_float64(answer, tuple(second.shape), "the variance")
        if close(seen, variance_between(values, beta, tilde), 1e-6):
            continue
        where = "at a network output of 1 and -1" if name != "between" else "between the ends"
        for fault, wrong in wrong_variances(values, beta, tilde).items():
            if close(seen, wrong, 1e-6):
                raise Wrong(f"{where}: {fault}")
        if name != "between":
            end = "beta" if name == "1" else "beta-tilde"
            raise Wrong(f"where the network says {name}, the variance should be {end} itself; it is not")
        raise Wrong("the ends are right, but between them the logarithm of the variance should lie on a straight line")


def variance_between(second: Tensor, beta: Tensor, tilde: Tensor) -> Tensor:
    return tilde * (beta / tilde) ** ((second + 1) / 2)


def wrong_variances(second: Tensor, beta: Tensor, tilde: Tensor) -> dict[str, Tensor]:
    fraction, right = (second + 1) / 2, variance_between(second, beta, tilde)
    return {
        "the output runs from -1 to 1, eq. 15's v from 0 to 1: v = (output + 1) / 2": tilde * (beta / tilde) ** second,
        "the ends are exchanged: 1 is beta, -1 is beta-tilde": beta * (tilde / beta) ** fraction,
        "this is the logarithm of the variance; exp is missing": right.log(),
        "this is the standard deviation; the variance is asked for": right.sqrt(),
        "this is a mixture of the variances; mix their logarithms": fraction * beta + (1 - fraction) * tilde,
        "the output is cut off at -1 and 1; the paper leaves it free (section 3.1)": variance_between(
            second.clamp(-1, 1), beta, tilde
        ),
    }


@exercise(
    "07.5",
    "a variance between two ends",
    check_step_variance,
    hints=[
        "First bring the network's -1 to 1 to eq. 15's v, 0 to 1.",
        "v * log(beta) + (1 - v) * log(beta_tilde) is the logarithm of the variance.",
        "Take torch.exp of it. All factors have shapes that fit each other already.",
    ],
)
def step_variance(second, beta, beta_tilde):
    v = (second + 1) / 2
    return torch.exp(v * torch.log(beta) + (1 - v) * torch.log(beta_tilde))


# -- 07.6 ------------------------------------------------------------------------------------------


def check_bound_term(bound_term: Callable) -> None:
    true_mean, tilde = normal(3, 1, 4, 4), torch.tensor([0.01, 0.2, 0.5], dtype=torch.float64).view(3, 1, 1, 1)
    given = [true_mean, tilde, true_mean + 0.3 * normal(3, 1, 4, 4, seed=1), tilde * normal(3, 1, 4, 4, seed=2).exp()]
    mean, variance = (tensor.clone().requires_grad_() for tensor in given[2:])
    answer = called(bound_term, given[0].clone(), tilde.clone(), mean, variance, faults=ONE_NUMBER)
    seen = as_float64(answer, (3,), "the result, one number for each image,")
    nats = divergence(*given)
    right = nats.flatten(1).mean(1) / math.log(2)
    if not close(seen, right, 1e-5):
        for fault, wrong in wrong_terms(*given).items():
            if close(seen, wrong, 1e-5):
                raise Wrong(fault)
        raise Wrong(
            f"the first image's term should be {right[0]:.4f} bits per dimension, yours is {seen[0]:.4f}; for each "
            "pixel: (log(variance / beta_tilde) + (beta_tilde + gap**2) / variance - 1) / 2"
        )
    if not answer.requires_grad:
        raise Wrong("no gradient reaches the variance, which should learn from this; only the mean is held fixed")
    of_mean, of_variance = torch.autograd.grad(answer.sum(), [mean, variance], allow_unused=True)
    if of_mean is not None and bool(of_mean.abs().max() > 0):
        raise Wrong("the value is right, but a gradient reaches the mean: mean.detach() stops it (eq. 16)")
    expected = (1 / given[3] - (tilde + (given[0] - given[2]) ** 2) / given[3] ** 2) / (2 * 16 * math.log(2))
    if of_variance is None or not close(of_variance, expected, 1e-4):
        raise Wrong("the value is right, but the gradient of the variance is not: do not detach the variance")


def divergence(true_mean: Tensor, tilde: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Of N(true_mean, tilde) from N(mean, variance), for each pixel, in nats."""
    return 0.5 * ((variance / tilde).log() + (tilde + (true_mean - mean) ** 2) / variance - 1)


def wrong_terms(true_mean: Tensor, tilde: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    nats, gap = divergence(true_mean, tilde, mean, variance), (true_mean - mean) ** 2
    bits = {
        "this is the divergence the other way round: q comes first, the step second": divergence(
            mean, variance, true_mean, tilde.expand_as(mean)
        ),
        "the variances are used as standard deviations: do not square them": 0.5
        * (2 * (variance / tilde).log() + (tilde**2 + gap) / variance**2 - 1),
        "the -1 is missing: two equal normals have the divergence 0": nats + 0.5,
        "the gap of the means has to be squared": 0.5
        * ((variance / tilde).log() + (tilde + (true_mean - mean)) / variance - 1),
        "the ratio in the logarithm stands upside down": nats - (variance / tilde).log(),
        "a factor of 1/2 is missing": 2 * nats,
        "the gap of the means is left out": 0.5 * ((variance / tilde).log() + tilde / variance - 1),
    }
    found = {fault: wrong.flatten(1).mean(1) / math.log(2) for fault, wrong in bits.items()}
    found["these are nats; divide by log 2"] = nats.flatten(1).mean(1)
    found["this is the sum over the pixels; per dimension is their mean"] = nats.flatten(1).sum(1) / math.log(2)
    return found


@exercise(
    "07.6",
    "the bound's term, with the mean held fixed",
    check_bound_term,
    hints=[
        "The divergence of N(m_1, s_1) from N(m_2, s_2), s being variances, is "
        "(log(s_2 / s_1) + (s_1 + (m_1 - m_2)**2) / s_2 - 1) / 2.",
        "mean.detach() has the same values and passes no gradient on.",
        ".flatten(1).mean(1) is the mean over the pixels of each image; nats divided by math.log(2) are bits.",
    ],
)
def bound_term(true_mean, beta_tilde, mean, variance):
    gap = true_mean - mean.detach()
    nats = (torch.log(variance / beta_tilde) + (beta_tilde + gap**2) / variance - 1) / 2
    return nats.flatten(1).mean(1) / math.log(2)
