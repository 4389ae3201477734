"""Answers to notebook 08's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, Normal

from notebooks.exercises import nb08
from utils.course.exercises import grade
from utils.diffusion.sampling import ddpm_step, keep_known

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


def flow_by_autograd(log_snr):
    with torch.enable_grad():
        x = log_snr.detach().clone().requires_grad_()
        u = 1 / (1 + (x / 2).exp())
        (slope,) = torch.autograd.grad(u.sum(), x)
    return slope.abs(), (1 - u.detach()) ** -2


def flow_by_cosh(log_snr):
    return 1 / (8 * torch.cosh(log_snr / 4) ** 2), torch.exp(-log_snr / 2) * 4 * torch.cosh(log_snr / 4) ** 2


def flow_by_the_snr(log_snr):
    root = log_snr.exp().sqrt()  # a / s
    a, s = root / (1 + root), 1 / (1 + root)
    return [a * s / 2, ((a + s) / a) ** 2]


def factor_by_exp(log_snr, wanted, density):
    return wanted(log_snr) / (density(log_snr) * (1 + torch.exp(-log_snr)))


def factor_by_v(log_snr, wanted, density):
    noise_over_v = torch.cos(torch.atan(torch.exp(-log_snr / 2))) ** 2
    return noise_over_v * wanted(log_snr) / density(log_snr)


def factor_by_logarithms(log_snr, wanted, density):
    logs = wanted(log_snr).log() - density(log_snr).log() + torch.nn.functional.logsigmoid(log_snr)
    return logs.exp()


def pair_by_snr(x_t, end, a_bar_t):
    snr = a_bar_t / (1 - a_bar_t)
    return x_t * (1 - a_bar_t) ** -0.5 - snr**0.5 * end


def pair_by_v(x_t, end, a_bar_t):
    """By the v whose x_0 is the end."""
    signal, sigma = a_bar_t**0.5, (1 - a_bar_t) ** 0.5
    v = (signal * x_t - end) / sigma
    return sigma * x_t + signal * v


def pair_one_by_one(x_t, end, a_bar_t):
    rows = [(x - math.sqrt(a) * e) / math.sqrt(1 - a) for x, e, a in zip(x_t, end, a_bar_t.flatten().tolist())]
    return torch.stack(rows)


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
    "08.1": [velocity_by_edm, velocity_by_angle, velocity_in_polar],
    "08.2": [preconditioning_of_the_paper, preconditioning_by_angle, preconditioning_by_tensors],
    "08.3": [heun_from_euler, heun_as_mean, heun_by_tableau],
    "08.4": [straight_by_tensors, straight_by_variance, straight_in_numpy],
    "08.5": [flow_by_autograd, flow_by_cosh, flow_by_the_snr],
    "08.6": [factor_by_exp, factor_by_v, factor_by_logarithms],
    "08.7": [pair_by_snr, pair_by_v, pair_one_by_one],
    "08.8": [unmask_by_categorical, unmask_by_gumbel, unmask_with_stay],
    "08.9": [gradient_by_autograd, gradient_by_the_posterior, gradient_one_by_one],
    "08.10": [repaint_by_keep_known, repaint_up_first, repaint_by_recursion],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    torch.manual_seed(0)
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


def flow_with(density=None, weight=None):
    """The solution with another density or weight, functions of u."""

    def answer(log_snr):
        u, right = torch.sigmoid(-log_snr / 2), nb08.flow_matching(log_snr)
        return (density(u) if density else right[0]), (weight(u) if weight else right[1])

    return answer


def flow_in_place(log_snr):
    log_snr *= -0.5
    u = log_snr.sigmoid()
    return u * (1 - u) / 2, 1 / (1 - u) ** 2


def factor_with(mixed):
    """mixed(wanted, density, a2), their values."""
    return lambda log_snr, wanted, density: mixed(wanted(log_snr), density(log_snr), log_snr.sigmoid())


def pair_in_place(x_t, end, a_bar_t):
    return x_t.sub_(a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()


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
    "08.5": [
        (flow_with(lambda u: -u * (1 - u) / 2), "a density has no sign"),
        (flow_with(lambda u: u * (1 - u)), "a factor of 1/2 is missing"),
        (flow_with(lambda u: 2 / (u * (1 - u))), "is the inverse"),
        (flow_with(lambda u: u**2 * (1 - u) ** 2 / (u**2 + (1 - u) ** 2) ** 2), "half the log-SNR"),
        (flow_with(torch.ones_like), "the log-SNR is not"),
        (flow_with(lambda u: u), "its slope is the density"),
        (flow_with(lambda u: u / (1 - u) / 2), "give the two apart"),
        (flow_with(weight=lambda u: 1 / (1 - u)), "the errors are squared"),
        (flow_with(weight=lambda u: (1 - u) ** 2), "the other way round"),
        (flow_with(weight=lambda u: 1 / u**2), "signal and noise are exchanged"),
        (flow_with(weight=lambda u: (u / (1 - u)) ** 2), "the factor of the error of x_0"),
        (flow_with(weight=lambda u: 1 + (u / (1 - u)) ** 2), "add up before|the factor of v"),
        (flow_with(weight=torch.ones_like), "that of x_0 comes with it"),
        (flow_with(weight=lambda u: 3 / (1 - u) ** 2), "it should be 4.15"),
        (flow_with(weight=lambda u: u.sum()), r"the weight should have shape \(41,\)"),
        (lambda log_snr: nb08.flow_matching(log_snr)[0], "two tensors are asked for"),
        (lambda log_snr: nb08.flow_matching(log_snr)[::-1], "in the wrong order"),
        (lambda log_snr: math.exp(log_snr), "the functions of math take one number"),
        (flow_in_place, "changes what it is given, in place"),
    ],
    "08.6": [
        (factor_with(lambda w, p, a2: w / p), "that of v is a\\*\\*2 times it"),
        (factor_with(lambda w, p, a2: w * p * a2), "divide by the density"),
        (factor_with(lambda w, p, a2: w * a2), "the density plays no part"),
        (factor_with(lambda w, p, a2: a2 / p), "the wanted weight plays no part"),
        (factor_with(lambda w, p, a2: w / p / a2), "multiply by a\\*\\*2"),
        (factor_with(lambda w, p, a2: w / p * (1 - a2)), "in the place of a\\*\\*2"),
        (factor_with(lambda w, p, a2: w / p * a2.sqrt()), "the factor is a\\*\\*2, not a"),
        (factor_with(lambda w, p, a2: w / p * a2 / (1 - a2)), "this takes a\\*\\*2 for the SNR|SNR = "),
        (factor_with(lambda w, p, a2: 2 * w / p * a2), "it should be"),
        (lambda x, wanted, density: wanted(x) / density(x) * torch.sigmoid(2 * x), "not half"),
        (lambda x, wanted, density: wanted / density, "wanted and density are functions"),
    ],
    "08.7": [
        (lambda x, e, a: x - a.sqrt() * e, r"division by sqrt\(1 - a_bar_t\) is missing"),
        (lambda x, e, a: (x - e) / (1 - a).sqrt(), r"weight sqrt\(a_bar_t\), not 1"),
        (lambda x, e, a: (x - a * e) / (1 - a).sqrt(), "multiplied by its root"),
        (lambda x, e, a: (x - a.sqrt() * e) / (1 - a), "divide by its root"),
        (lambda x, e, a: (x - a * e) / (1 - a), "both roots are missing"),
        (lambda x, e, a: (x - (1 - a).sqrt() * e) / a.sqrt(), "the roots are exchanged"),
        (lambda x, e, a: (x - a.sqrt() * e) / a.sqrt(), r"divided by sqrt\(a_bar_t\)"),
        (lambda x, e, a: (a.sqrt() * e - x) / (1 - a).sqrt(), "the sign is turned round"),
        (lambda x, e, a: a.sqrt() * e + (1 - a).sqrt() * x, "mixes x_t and the end once more"),
        (lambda x, e, a: (a.sqrt() * x - e) / (1 - a).sqrt(), "this is the v of that pair"),
        (lambda x, e, a: nb08.paired_noise(x, e, a[:1]), "every image is treated like the first"),
        (lambda x, e, a: 2 * nb08.paired_noise(x, e, a), "mixed with the end, your noise gives"),
        (lambda x, e, a: (x - math.sqrt(a) * e) / (1 - a).sqrt(), "the functions of math take one number"),
        (lambda x, e, a: nb08.paired_noise(x, e, a).double(), r"the noise should be torch\.float32"),
        (lambda x, e, a: nb08.paired_noise(x, e, a)[:1], r"should have shape \(4, 1, 3, 3\)"),
        (pair_in_place, "changes what it is given, in place"),
    ],
    "08.8": [
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
    "08.9": [
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
    "08.10": [
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
    assert list(RIGHT) == list(WRONG) == [f"08.{k}" for k in range(1, 11)]
    assert all(len(answers) >= 3 for answers in RIGHT.values()) and all(len(found) >= 5 for found in WRONG.values())
