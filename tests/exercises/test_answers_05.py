"""Answers to notebook 05's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re

import pytest
import torch

from notebooks.exercises import nb05
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def ddpm_by_line_4(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    alpha = a_bar_t / a_bar_s
    noise = (x_t - a_bar_t**0.5 * x_0) / (1 - a_bar_t) ** 0.5
    mean = (x_t - (1 - alpha) / (1 - a_bar_t) ** 0.5 * noise) / alpha**0.5
    return mean + ((1 - alpha) * (1 - a_bar_s) / (1 - a_bar_t)) ** 0.5 * z


def ddpm_by_tensors(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    a_t, a_s = torch.tensor(a_bar_t), torch.tensor(a_bar_s)
    alpha, beta = a_t / a_s, 1 - a_t / a_s
    mean = torch.sqrt(a_s) * beta * x_0 + torch.sqrt(alpha) * (1 - a_s) * x_t
    return torch.addcmul(mean / (1 - a_t), torch.sqrt(beta * (1 - a_s) / (1 - a_t)), z)


def ddpm_by_precision(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    """Complete the square, times 1 - alpha-bar at s."""
    alpha = a_bar_t / a_bar_s
    precision = alpha * (1 - a_bar_s) / (1 - alpha) + 1
    mean = (math.sqrt(alpha) * (1 - a_bar_s) / (1 - alpha) * x_t + math.sqrt(a_bar_s) * x_0) / precision
    return mean + math.sqrt((1 - a_bar_s) / precision) * z


def ddpm_by_ddim(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    return nb05.ddim_step(x_t, x_0, a_bar_t, a_bar_s, z, eta=1.0)


def ddim_by_weights(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    variance = eta**2 * (1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s)
    kept = ((1 - a_bar_s - variance) / (1 - a_bar_t)) ** 0.5
    return kept * x_t + (a_bar_s**0.5 - a_bar_t**0.5 * kept) * x_0 + variance**0.5 * z


def ddim_by_tensors(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    a_t, a_s = (torch.tensor(a, dtype=x_t.dtype) for a in (a_bar_t, a_bar_s))
    sigma = eta * ((1 - a_s) / (1 - a_t)).sqrt() * (1 - a_t / a_s).sqrt()
    noise = (x_t - a_t.sqrt() * x_0).div((1 - a_t).sqrt())
    return a_s.sqrt() * x_0 + (1 - a_s - sigma.square()).clamp(min=0).sqrt() * noise + sigma * z


def ddim_with_guards(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    if a_bar_s == 1:
        return x_0.clone()
    sigma = eta * nb05.ddpm_weights(a_bar_t, a_bar_s)[2] if eta > 0 else 0.0
    angle = math.asin(sigma / math.sqrt(1 - a_bar_s))
    fresh = math.sin(angle) * z + math.cos(angle) * noise
    return math.sqrt(a_bar_s) * x_0 + math.sqrt(1 - a_bar_s) * fresh


def line_by_weights(x_0, x_0_before, h, h_before):
    part = h / (2 * h_before)
    return (1 + part) * x_0 - part * x_0_before


def line_by_lerp(x_0, x_0_before, h, h_before):
    return torch.lerp(x_0_before, x_0, (h_before + h / 2) / h_before)


def line_by_ends(x_0, x_0_before, h, h_before):
    """The mean of the line's values at both ends of the step."""
    end = x_0 + (x_0 - x_0_before) * h / h_before
    return (x_0 + end) / 2


def slerp_by_loop(a, b, weight):
    rows = []
    for one, other in zip(a, b):
        cosine = float((one * other).sum() / (one.norm() * other.norm()))
        theta = math.acos(max(-1.0, min(1.0, cosine)))
        if theta < 1e-6:
            rows.append(one)
        else:
            parts = math.sin((1 - weight) * theta) * one + math.sin(weight * theta) * other
            rows.append(parts / math.sin(theta))
    return torch.stack(rows)


def slerp_by_gram_schmidt(a, b, weight):
    """Turn a towards the part of b that is orthogonal to it."""
    norm = a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    first, second = a / norm, b / norm
    cosine = (first * second).flatten(1).sum(1).view(-1, 1, 1, 1)
    rest = second - cosine * first
    length = rest.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    theta = weight * torch.atan2(length, cosine)
    return norm * (theta.cos() * first + theta.sin() * rest / length.clamp(min=1e-12))


def slerp_by_nan_to_num(a, b, weight):
    theta = torch.acos(torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1))[:, None, None, None]
    arc = (torch.sin((1 - weight) * theta) * a + torch.sin(weight * theta) * b) / torch.sin(theta)
    return torch.where(theta > 1e-6, arc, a)


def again_by_variance(x_s, a_bar_s, a_bar_t, z):
    keep = (a_bar_t / a_bar_s) ** 0.5
    return keep * x_s + (1 - a_bar_t - keep**2 * (1 - a_bar_s)) ** 0.5 * z


def again_by_beta(x_s, a_bar_s, a_bar_t, z):
    beta = 1 - a_bar_t / a_bar_s
    return torch.sqrt(torch.tensor(1 - beta)) * x_s + torch.sqrt(torch.tensor(beta)) * z


def again_with_the_other_sign(x_s, a_bar_s, a_bar_t, z):
    return nb05.noise_again(x_s, a_bar_s, a_bar_t, -z)


def line_by_quadrature(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    sigma_t, sigma_s = ((1 + math.exp(2 * one)) ** -0.5 for one in (lambda_t, lambda_s))
    count = 20_000
    middles = lambda_t + (torch.arange(count, dtype=torch.float64) + 0.5) * (lambda_s - lambda_t) / count
    weights = middles.exp() * (lambda_s - lambda_t) / count
    part = (middles - lambda_before) / (lambda_t - lambda_before)
    of_x_0, of_before = float((weights * part).sum()), float((weights * (1 - part)).sum())
    return sigma_s / sigma_t * x_t + sigma_s * (of_x_0 * x_0 + of_before * x_0_before)


def line_by_parts(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    a_t, a_s = (1 / (1 + math.exp(-2 * one)) for one in (lambda_t, lambda_s))
    h, slope = lambda_s - lambda_t, (x_0 - x_0_before) / (lambda_t - lambda_before)
    ddim = nb05.ddim_step(x_t, x_0, a_t, a_s, 0.0)
    return ddim + math.sqrt(a_s) * (h - 1 + math.exp(-h)) * slope


def line_by_expm1(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    sigma_t, sigma_s = (math.sqrt(1 / (1 + math.exp(2 * one))) for one in (lambda_t, lambda_s))
    h, slope = lambda_s - lambda_t, (x_0 - x_0_before) / (lambda_t - lambda_before)
    grown = math.exp(lambda_t) * (math.expm1(h) * x_0 + (h * math.exp(h) - math.expm1(h)) * slope)
    return sigma_s * (x_t / sigma_t + grown)


RIGHT = {
    "05.1": [ddpm_by_line_4, ddpm_by_tensors, ddpm_by_precision, ddpm_by_ddim],
    "05.2": [ddim_by_weights, ddim_by_tensors, ddim_with_guards],
    "05.3": [line_by_weights, line_by_lerp, line_by_ends],
    "05.4": [slerp_by_loop, slerp_by_gram_schmidt, slerp_by_nan_to_num],
    "05.5": [again_by_variance, again_by_beta, again_with_the_other_sign],
    "05.6": [line_by_quadrature, line_by_parts, line_by_expm1],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def ddpm_with(of_x_t=None, of_x_0=None, of_z=None):
    """A step with these weights, as functions of alpha-bar before and after; None: the right one."""

    def answer(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
        right = nb05.ddpm_weights(a_bar_t, a_bar_s)
        chosen = [one(a_bar_t, a_bar_s) if one else weight for one, weight in zip((of_x_t, of_x_0, of_z), right)]
        return sum(weight * one for weight, one in zip(chosen, (x_t, x_0, z)))

    return answer


def ddpm_own_noise(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    return nb05.ddpm_step(x_t, x_0, a_bar_t, a_bar_s, torch.randn_like(x_t))


def ddpm_in_place(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    of_x_t, of_x_0, std = nb05.ddpm_weights(a_bar_t, a_bar_s)
    x_t *= of_x_t
    return x_t + of_x_0 * x_0 + std * z


def ddpm_of_notebook_00(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    return nb05.ddim_step(x_t, x_0, a_bar_t, a_bar_s, z)


def ddpm_by_zero(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    beta = 1 - a_bar_t / a_bar_s
    precision = (1 - beta) / beta + 1 / (1 - a_bar_s)
    mean = ((1 - beta) ** 0.5 / beta * x_t + a_bar_s**0.5 / (1 - a_bar_s) * x_0) / precision
    return mean + precision**-0.5 * z


def ddpm_float64(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    return nb05.ddpm_step(x_t.double(), x_0, a_bar_t, a_bar_s, z)


def ddpm_clipped(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    return nb05.ddpm_step(x_t, x_0.clamp(-1, 1), a_bar_t, a_bar_s, z)


def ddim_with(sigma_of=None, direction_of=None, noise_of=None, image_of=None):
    """A step with another sigma_tilde(a, b, eta), direction's weight(b, sigma), noise(x_t, x_0, a), image's weight."""

    def answer(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
        share = (1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s)
        sigma = sigma_of(share, a_bar_s, eta) if sigma_of else eta * share**0.5
        direction = direction_of(a_bar_s, sigma) if direction_of else max(0.0, 1 - a_bar_s - sigma**2) ** 0.5
        noise = (x_t - a_bar_t**0.5 * x_0) / (1 - a_bar_t) ** 0.5
        noise = noise_of(x_t, x_0, a_bar_t) if noise_of else noise
        image = image_of(a_bar_t, a_bar_s) if image_of else a_bar_s**0.5
        return image * x_0 + direction * noise + sigma * z

    return answer


def ddim_own_noise(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    return nb05.ddim_step(x_t, x_0, a_bar_t, a_bar_s, torch.randn_like(z), eta=eta)


def line_plus(part):
    return lambda x_0, x_0_before, h, h_before: x_0 + part(h, h_before) * (x_0 - x_0_before)


def line_step_plus(part):
    """DDIM's step, and a part of the slope."""

    def answer(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
        a_t, a_s = (1 / (1 + math.exp(-2 * one)) for one in (lambda_t, lambda_s))
        slope = (x_0 - x_0_before) / (lambda_t - lambda_before)
        gained = a_s**0.5 * part(lambda_s - lambda_t) * slope
        return nb05.ddim_step(x_t, x_0, a_t, a_s, 0.0) + gained

    return answer


def line_step_of_the_coming_slope(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    stretched = x_0 - (x_0 - x_0_before) * (lambda_t - lambda_before) / (lambda_s - lambda_t)
    return nb05.line_step(x_t, x_0, stretched, lambda_before, lambda_t, lambda_s)


def line_step_unscaled(x_t, x_0, x_0_before, *lambdas):
    return nb05.line_step(0 * x_t, x_0, x_0_before, *lambdas) + x_t


def line_step_without_sigma(x_t, x_0, x_0_before, *lambdas):
    sigma_s = (1 + math.exp(2 * lambdas[2])) ** -0.5
    zero = torch.zeros_like(x_t)
    return nb05.line_step(x_t, zero, zero, *lambdas) + nb05.line_step(zero, x_0, x_0_before, *lambdas) / sigma_s


def line_step_by_torch(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    return x_t / (1 / (1 + math.exp(2 * lambda_t))).sqrt()


def slerp_straight(a, b, weight):
    return (1 - weight) * a + weight * b


def slerp_rescaled(a, b, weight):
    straight = (1 - weight) * a + weight * b
    norms = a.flatten(1).norm(dim=1) / straight.flatten(1).norm(dim=1)
    return straight * norms.view(-1, 1, 1, 1)


def slerp_one_angle(a, b, weight):
    theta = torch.acos((a * b).sum() / (a.norm() * b.norm()))
    return (torch.sin((1 - weight) * theta) * a + torch.sin(weight * theta) * b) / torch.sin(theta)


def slerp_unshaped(a, b, weight):
    theta = torch.acos(((a * b).flatten(1).sum(1) / a.flatten(1).norm(dim=1) ** 2).clamp(-1, 1))
    return (torch.sin((1 - weight) * theta) * a + torch.sin(weight * theta) * b) / torch.sin(theta)


def slerp_swapped(a, b, weight):
    return nb05.slerp_batch(a, b, 1 - weight)


def slerp_nan(a, b, weight):
    theta = torch.acos(torch.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1))[:, None, None, None]
    return (torch.sin((1 - weight) * theta) * a + torch.sin(weight * theta) * b) / torch.sin(theta)


def slerp_flat(a, b, weight):
    return nb05.slerp_batch(a, b, weight).flatten(1)


def again(of_x_s, of_z):
    return lambda x_s, a_bar_s, a_bar_t, z: of_x_s(a_bar_t, a_bar_s) * x_s + of_z(a_bar_t, a_bar_s) * z


def again_in_place(x_s, a_bar_s, a_bar_t, z):
    return x_s.mul_(keep(a_bar_t, a_bar_s)).add_(z, alpha=(1 - a_bar_t / a_bar_s) ** 0.5)


def again_shifted(x_s, a_bar_s, a_bar_t, z):
    return nb05.noise_again(x_s, a_bar_s, a_bar_t, z) + 0.1


def keep(a, b):
    return (a / b) ** 0.5


def fresh(a, b):
    return (1 - a / b) ** 0.5


def std(a, b):
    return nb05.ddpm_weights(a, b)[2]


def ddpm_by_torch_sqrt(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    return torch.sqrt(a_bar_s) * x_0


def ddim_sigma_not_squared(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    sigma = eta * math.sqrt((1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s))
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    return math.sqrt(a_bar_s) * x_0 + math.sqrt(max(0.0, 1 - a_bar_s - sigma)) * noise + sigma * z


WRONG = {
    "05.1": [
        (ddpm_by_torch_sqrt, "plain numbers: take their roots with math.sqrt"),
        (
            ddpm_with(
                lambda a, b: (1 - b + a) ** 0.5 * (1 - b) / (1 - a),
                lambda a, b: b**0.5 * (b - a) / (1 - a),
                lambda a, b: ((b - a) * (1 - b) / (1 - a)) ** 0.5,
            ),
            "yours is 1 minus their difference",
        ),
        (ddpm_with(of_z=lambda a, b: 0), "fresh noise is missing"),
        (ddpm_with(of_z=lambda a, b: std(a, b) ** 2), "multiplied with the variance; take its root"),
        (ddpm_with(of_z=fresh), "standard deviation of beta, the forward step's"),
        (ddpm_with(of_z=lambda a, b: (1 - b) ** 0.5), "all the noise at s"),
        (ddpm_with(of_x_t=lambda a, b: a / b * (1 - b) / (1 - a)), "x_t needs the root of alpha"),
        (ddpm_with(of_x_0=lambda a, b: b * (1 - a / b) / (1 - a)), "x_0 needs the root of alpha-bar at s"),
        (ddpm_with(of_x_0=lambda a, b: a**0.5 * (1 - a / b) / (1 - a)), "alpha-bar at s in it, not at t"),
        (ddpm_with(lambda a, b: 0, lambda a, b: b**0.5, lambda a, b: (1 - b) ** 0.5), "x_t plays no part"),
        (ddpm_with(keep, lambda a, b: 0, fresh), "this is a forward step"),
        (
            ddpm_with(lambda a, b: a**0.5 * (1 - b) / (1 - a), lambda a, b: b**0.5, lambda a, b: (1 - b) ** 0.5),
            "alpha_t is this step's own",
        ),
        (ddpm_of_notebook_00, "this is notebook 00's step"),
        (ddpm_own_noise, "draw no noise of your own"),
        (ddpm_in_place, "changes what it is given, in place"),
        (ddpm_by_zero, "nothing may be divided by 1 - a_bar_s"),
        (ddpm_float64, "x_s should be torch.float32, got torch.float64"),
        (ddpm_clipped, "a weight times x_t, plus one times x_0"),
        (ddpm_with(of_x_t=lambda a, b: 0.5), r"x_t 0.5000 \(right: 0.5533\)"),
    ],
    "05.2": [
        (ddim_sigma_not_squared, "sigma_tilde is squared"),
        (ddim_with(sigma_of=lambda share, b, eta: 0.0), "eta = 0; eta plays no part"),
        (ddim_with(sigma_of=lambda share, b, eta: share**0.5), "eta = 1; eta plays no part"),
        (ddim_with(sigma_of=lambda share, b, eta: eta * share), "in eq. 16 the root is missing"),
        (ddim_with(sigma_of=lambda share, b, eta: (eta * share) ** 0.5), "eta belongs before the root"),
        (ddim_with(sigma_of=lambda share, b, eta: eta * (1 - b) ** 0.5), "not of all the noise at s"),
        (ddim_with(direction_of=lambda b, sigma: (1 - b) ** 0.5), "the noise is not made less"),
        (ddim_with(direction_of=lambda b, sigma: (1 - b) ** 0.5 - sigma), "variances are subtracted"),
        (ddim_with(direction_of=lambda b, sigma: 1 - b - sigma**2), "the direction needs a root"),
        (ddim_with(noise_of=lambda x_t, x_0, a: x_t - a**0.5 * x_0), "divide by the root of 1 - a_bar_t"),
        (ddim_with(noise_of=lambda x_t, x_0, a: (x_t - x_0) / (1 - a) ** 0.5), "takes away x_0 whole"),
        (ddim_with(noise_of=lambda x_t, x_0, a: x_t), "as if it were the noise"),
        (ddim_with(image_of=lambda a, b: a**0.5), "its weight at s"),
        (ddim_with(image_of=lambda a, b: b), "the root of alpha-bar at s"),
        (ddim_own_noise, "draw no noise of your own"),
        (ddim_with(image_of=lambda a, b: 0.9), r"these weights: x_t .* x_0 .* \(right: "),
    ],
    "05.3": [
        (line_plus(lambda h, h_before: 0.0), "the one before plays no part"),
        (line_plus(lambda h, h_before: h / h_before), "at the end of the step"),
        (line_plus(lambda h, h_before: -0.5), "half-way through the step before"),
        (line_plus(lambda h, h_before: -h / (2 * h_before)), "the line goes the wrong way"),
        (line_plus(lambda h, h_before: h_before / (2 * h)), "not over h"),
        (line_plus(lambda h, h_before: 0.5), "right only where both steps are equally long"),
        (line_plus(lambda h, h_before: h / 2), "not divided by h_before"),
        (lambda x_0, x_0_before, h, h_before: h / (2 * h_before) * (x_0 - x_0_before), "add x_0"),
        (line_plus(lambda h, h_before: h / 3), "the line half-way has 2.2500 and -1.2500"),
    ],
    "05.4": [
        (slerp_straight, "a straight line does that"),
        (slerp_rescaled, "of its own angle"),
        (slerp_one_angle, "one angle for the whole batch"),
        (slerp_unshaped, "lets each meet its own image"),
        (slerp_swapped, "weight 0 should give a itself"),
        (slerp_nan, "your result is not a number"),
        (slerp_flat, r"should have shape \(5, 1, 8, 8\), got \(5, 64\)"),
    ],
    "05.5": [
        (again(lambda a, b: math.sqrt(b / a), lambda a, b: math.sqrt(1 - b / a)), "not the other way round"),
        (again(lambda a, b: (a / b).sqrt(), keep), "math.sqrt takes its root"),
        (again_in_place, "changes what it is given, in place"),
        (again(lambda a, b: a**0.5, lambda a, b: (1 - a) ** 0.5), "x_t should hold 0.5477; .* it holds 0.3873"),
        (again(keep, lambda a, b: (1 - a) ** 0.5), "together have the variance 1.0000; x_t should have 0.7000"),
        (again(keep, lambda a, b: (b - a) ** 0.5), "together have the variance 0.5000"),
        (again(keep, lambda a, b: 1 - a / b), "together have the variance"),
        (again(lambda a, b: a / b, lambda a, b: 1 - a / b), "with your factor of x_s, 0.6000"),
        (again(lambda a, b: 1.0, fresh), "with your factor of x_s, 1.0000"),
        (again(lambda a, b: -keep(a, b), fresh), "turns the image into its negative"),
        (again_shifted, "and nothing else"),
    ],
    "05.6": [
        (line_step_plus(lambda h: 0.0), "this is DDIM's step"),
        (line_step_plus(lambda h: -math.expm1(-h) * h / 2), "this is 2M's own rule"),
        (line_step_plus(lambda h: h), "by parts leaves a second term"),
        (line_step_plus(lambda h: h + 1 - math.exp(-h)), "has a minus"),
        (line_step_of_the_coming_slope, "the distance between the two estimates"),
        (line_step_plus(lambda h: -math.expm1(-h) * h), "integrate by parts"),
        (line_step_plus(lambda h: 1 - h - math.exp(-h)), "integrate by parts"),
        (line_step_unscaled, "sigma_s / sigma_t times x_t"),
        (line_step_without_sigma, "the step should be DDIM's"),
        (line_step_by_torch, "the lambdas are plain numbers"),
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
    assert list(RIGHT) == list(WRONG) == [f"05.{k}" for k in range(1, 7)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
