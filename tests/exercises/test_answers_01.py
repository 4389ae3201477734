"""Answers to notebook 01's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
from itertools import pairwise

import pytest
import torch

from notebooks.exercises import nb01
from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def by_products(x_0, t, noise, betas):
    products = [math.prod((1 - betas[: int(k) + 1]).tolist()) for k in t]
    return torch.stack([a**0.5 * x + (1 - a) ** 0.5 * n for a, x, n in zip(products, x_0, noise)])


def by_logarithms(x_0, t, noise, betas):
    log = torch.log1p(-betas).cumsum(0)[t].float()
    signal, sigma = (0.5 * log).exp(), (-torch.expm1(log)).sqrt()
    return torch.einsum("b,b...->b...", signal, x_0) + torch.einsum("b,b...->b...", sigma, noise)


def by_walking_the_weights(x_0, t, noise, betas):
    signal, variance, weights = 1.0, 0.0, []
    for beta in betas:
        signal, variance = signal * (1 - beta) ** 0.5, (1 - beta) * variance + beta
        weights.append((signal, variance**0.5))
    signal, sigma = (torch.tensor(w)[t].view(-1, *[1] * (x_0.ndim - 1)).float() for w in zip(*weights))
    return signal * x_0 + sigma * noise


def in_float32(x_0, t, noise, betas):
    a_bar = (1 - betas.float()).cumprod(0).gather(0, t).reshape(len(t), *(1,) * (x_0.ndim - 1))
    return a_bar.sqrt() * x_0 + torch.sqrt(1 - a_bar) * noise


def cosine_by_loop(num_timesteps):
    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    T = num_timesteps
    betas = [min(1 - alpha_bar((k + 1) / T) / alpha_bar(k / T), 0.999) for k in range(T)]
    return torch.tensor(betas, dtype=torch.float64)


def cosine_normalised(num_timesteps):
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    f = (1 + torch.cos((u + 0.008) / 1.008 * math.pi)) / 2
    alpha_bar = f / f[0]
    return torch.minimum((alpha_bar[:-1] - alpha_bar[1:]) / alpha_bar[:-1], torch.tensor(0.999, dtype=f.dtype))


def cosine_by_sine(num_timesteps):
    u = torch.linspace(1, 0, num_timesteps + 1, dtype=torch.float64)
    log_alphas = (2 * torch.sin(u / 1.008 * math.pi / 2).clamp(min=1e-300).log()).diff()
    return -torch.expm1(log_alphas.clamp(min=math.log(0.001)))


def cosine_of_a_function(num_timesteps):
    steps = torch.arange(1, num_timesteps + 1).double()

    def f(step):
        return torch.cos((step / num_timesteps + 0.008) / 1.008 * torch.pi / 2).square()

    return torch.clip(1 - f(steps) / f(steps - 1), 0, 0.999)


def by_gain(a_bar_t, a_bar_s):
    """As a Kalman filter does it: what x_t, seen, says about x_s."""
    alpha = a_bar_t / a_bar_s
    gain = alpha.sqrt() * (1 - a_bar_s) / (1 - a_bar_t)
    return a_bar_s.sqrt() - gain * a_bar_t.sqrt(), gain, (1 - a_bar_s) * (1 - gain * alpha.sqrt())


def from_the_variance(a_bar_t, a_bar_s):
    alpha = a_bar_t / a_bar_s
    variance = (1 - alpha) * (1 - a_bar_s) / (1 - a_bar_t)
    x_t_weight = variance * alpha.sqrt() / (1 - alpha)
    return torch.stack([(a_bar_s.sqrt() - x_t_weight * a_bar_t.sqrt()), x_t_weight, variance])


def step_by_step(a_bar_t, a_bar_s):
    rows = []
    for t, s in zip(a_bar_t.tolist(), a_bar_s.tolist()):
        alpha, beta = t / s, 1 - t / s
        rows.append([s**0.5 * beta / (1 - t), alpha**0.5 * (1 - s) / (1 - t), beta * (1 - s) / (1 - t)])
    return list(torch.tensor(rows, dtype=torch.float64).T)


def first_step_apart(a_bar_t, a_bar_s):
    alpha = a_bar_t / a_bar_s
    beta, later = 1 - alpha, a_bar_s < 1
    rest = torch.where(later, 1 - a_bar_s, 1.0)
    P = alpha / beta + 1 / rest
    x_0_weight, x_t_weight = a_bar_s.sqrt() / rest / P, alpha.sqrt() / beta / P
    values = zip((x_0_weight, x_t_weight, 1 / P), (1.0, 0.0, 0.0))
    return tuple(torch.where(later, value, first) for value, first in values)


def respaced_by_products(betas, keep):
    edges = [0, *(keep + 1).tolist()]
    products = [torch.prod(1 - betas[low:high]) for low, high in pairwise(edges)]
    return 1 - torch.stack(products)


def respaced_by_loop(betas, keep):
    new, before = [], 1.0
    for k in keep:
        alpha_bar = torch.prod(1 - betas[: k + 1]).item()
        new.append(1 - alpha_bar / before)
        before = alpha_bar
    return torch.tensor(new, dtype=torch.float64)


def respaced_by_logarithms(betas, keep):
    log = torch.log1p(-betas).cumsum(0)[keep]
    return -torch.expm1(torch.diff(log, prepend=log.new_zeros(1)))


def snr_by_loop(snr):
    betas, product = [], 1.0
    for value in snr.tolist():
        betas.append(1 - value / (1 + value) / product)
        product *= 1 - betas[-1]
    return torch.tensor(betas, dtype=torch.float64)


def snr_by_difference(snr):
    total = torch.nn.functional.pad(1 / (1 + snr), (1, 0))  # 1 - alpha-bar, 0 before the first step
    return (total[1:] - total[:-1]) / (1 - total[:-1])


def snr_by_logarithms(snr):
    log = torch.nn.functional.logsigmoid(snr.log())
    return -torch.expm1(torch.diff(log, prepend=log.new_zeros(1)))


def at_one_noise_level(forward):
    for value in (-1.0, 0.0, 1.0):
        x_t = forward(torch.full((200_000,), value), 0.5)
        if abs(x_t.mean() - 0.5**0.5 * value) > 0.01 or abs(x_t.var() - 0.5) > 0.01:
            return False
    return True


def by_noise(forward):
    """Takes the image out, and looks at the noise that is left."""
    x_0 = torch.linspace(-1, 1, 200_000)
    noise = (forward(x_0, 0.4) - 0.4**0.5 * x_0) / 0.6**0.5
    slope = (noise * x_0).mean() / x_0.square().mean()
    return abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02 and abs(slope) < 0.03


def by_a_grid(forward):
    x_0 = torch.tensor([-1.0, -0.3, 0.6, 1.0]).repeat(100_000, 1)
    passed = torch.tensor(True)
    for a_bar in [0.2, 0.8]:
        x_t = forward(x_0, a_bar)
        passed &= torch.allclose(x_t.mean(0), a_bar**0.5 * x_0[0], atol=0.02)
        passed &= torch.allclose(x_t.var(0), torch.tensor(1 - a_bar), atol=0.02)
    return passed


RIGHT = {
    "01.1": [by_products, by_logarithms, by_walking_the_weights, in_float32],
    "01.2": [cosine_by_loop, cosine_normalised, cosine_by_sine, cosine_of_a_function],
    "01.3": [by_gain, from_the_variance, step_by_step, first_step_apart],
    "01.4": [respaced_by_products, respaced_by_loop, respaced_by_logarithms],
    "01.5": [snr_by_loop, snr_by_difference, snr_by_logarithms],
    "01.6": [at_one_noise_level, by_noise, by_a_grid],
}


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, all_ in RIGHT.items() for one in all_])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def jump(product_of, signal_of=torch.sqrt, sigma_of=lambda a: (1 - a).sqrt()):
    """A jump whose alpha-bar is a function of betas and t."""

    def answer(x_0, t, noise, betas):
        a = product_of(betas, t).view(-1, *[1] * (x_0.ndim - 1)).float()
        return signal_of(a) * x_0 + sigma_of(a) * noise

    return answer


def right_product(betas, t):
    return (1 - betas).cumprod(0)[t]


def one_too_few(betas, t):
    return torch.cat([torch.ones(1), (1 - betas).cumprod(0)[:-1]])[t]


def unshaped(x_0, t, noise, betas):
    a = (1 - betas).cumprod(0)[t].float()
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


def walk(fresh):
    def answer(x_0, t, noise, betas):
        rows = []
        for x, n, last in zip(x_0, noise, t):
            for beta in betas[: int(last) + 1].float():
                x = (1 - beta).sqrt() * x + beta.sqrt() * (torch.randn_like(n) if fresh else n)
            rows.append(x)
        return torch.stack(rows)

    return answer


def in_float64(x_0, t, noise, betas):
    return nb01.q_sample(x_0.double(), t, noise.double(), betas)


def betas_in_place(x_0, t, noise, betas):
    a = betas.neg_().add_(1).cumprod(0)[t].view(-1, *[1] * (x_0.ndim - 1)).float()
    return a.sqrt() * x_0 + (1 - a).sqrt() * noise


def curve(num_timesteps, u=None, offset=0.008, stretch=1.008, power=2, dtype=torch.float64):
    u = torch.linspace(0, 1, num_timesteps + 1, dtype=dtype) if u is None else u
    return torch.cos((u + offset) / stretch * torch.pi / 2) ** power


def ratios(f):
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def one_too_many_in_front(num_timesteps):
    u = torch.linspace(0, 1, num_timesteps, dtype=torch.float64)
    return ratios(torch.cat([torch.ones(1), curve(0, u)]))


def posterior(form):
    """From a formula in alpha-bar at t and s, alpha and beta: three values."""

    def answer(a_bar_t, a_bar_s):
        alpha = a_bar_t / a_bar_s
        right = nb01.posterior_weights(a_bar_t, a_bar_s)
        return form(a_bar_t, a_bar_s, alpha, 1 - alpha, right)

    return answer


def by_P_and_R(a_bar_t, a_bar_s):
    alpha = a_bar_t / a_bar_s
    P = alpha / (1 - alpha) + 1 / (1 - a_bar_s)
    return a_bar_s**0.5 / (1 - a_bar_s) / P, alpha**0.5 / (1 - alpha) / P, 1 / P


def short_chain(form):
    """From the long chain's alpha-bar at the kept timesteps, and the same one step before."""

    def answer(betas, keep):
        kept = torch.cumprod(1 - betas, 0)[keep]
        return form(kept, torch.cat([torch.ones(1), kept[:-1]]))

    return answer


def snr_with(form):
    def answer(snr):
        a = form(snr)
        return 1 - a / torch.cat([torch.ones(1), a[:-1]])

    return answer


def forward_test(alpha_bar=0.5, values=(-1.0, 1.0), mean=True, variance=True, errors=5.0):
    """A test of a forward process that leaves something out."""

    def answer(forward):
        n = 100_000
        for value in values:
            x_t, var = forward(torch.full((n,), value), alpha_bar), 1 - alpha_bar
            if mean and abs(x_t.mean() - alpha_bar**0.5 * value) > errors * (var / n) ** 0.5:
                return False
            if variance and abs(x_t.var() - var) > errors * var * (2 / n) ** 0.5:
                return False
        return True

    return answer


def cosine_converted(num_timesteps):
    curve = torch.cos((torch.linspace(0, 1, num_timesteps + 1) + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999).double()


def posterior_by_difference(a_bar_t, a_bar_s):
    beta = a_bar_s - a_bar_t
    x_t_weight = (1 - beta).sqrt() * (1 - a_bar_s) / (1 - a_bar_t)
    return a_bar_s.sqrt() * beta / (1 - a_bar_t), x_t_weight, beta * (1 - a_bar_s) / (1 - a_bar_t)


def asserts(forward):
    assert nb01.is_forward_process(forward)
    return True


def whole_numbers(forward):
    return bool(forward(torch.full((1000,), -1), 0.5).mean() < 0)


WRONG = [
    ("01.2", cosine_converted, "float64 from the first line"),
    ("01.3", posterior_by_difference, "not their difference"),
    ("01.1", jump(lambda betas, t: 1 - betas[t]), "what step t alone does"),
    ("01.1", jump(lambda betas, t: 1 - betas.cumsum(0)[t]), "the betas are added up"),
    ("01.1", jump(lambda betas, t: betas.cumsum(0).neg().exp()[t]), "an approximation"),
    ("01.1", jump(lambda betas, t: betas.cumprod(0)[t]), "the product of the betas"),
    ("01.1", jump(lambda betas, t: (1 - betas[t]).cumprod(0)), "runs over the batch"),
    ("01.1", jump(one_too_few), "step t itself is missing"),
    ("01.1", jump(lambda betas, t: (1 - betas).prod().expand(len(t))), "over the whole chain"),
    ("01.1", jump(lambda betas, t: (1 - betas).sqrt().cumprod(0)[t]), "the root is taken twice"),
    ("01.1", jump(lambda betas, t: 1 - right_product(betas, t)), "exchanged"),
    ("01.1", jump(right_product, sigma_of=lambda a: 1 - a), "a variance; take its root"),
    ("01.1", jump(right_product, signal_of=lambda a: a), "the image has weight alpha-bar"),
    ("01.1", jump(right_product, signal_of=lambda a: 1), "not shrunk"),
    ("01.1", jump(right_product, sigma_of=lambda a: 0.5 * (1 - a).sqrt()), "right are the roots of that product"),
    ("01.1", jump(lambda betas, t: right_product(betas, t[:1]).expand(len(t))), "a t of its own"),
    ("01.1", unshaped, "(B, 1, ...)"),
    ("01.1", walk(fresh=True), "draw none of your own"),
    ("01.1", walk(fresh=False), "piles up"),
    ("01.1", in_float64, "float32: convert the weights"),
    ("01.1", betas_in_place, "in place; make a new tensor"),
    ("01.2", lambda T: ratios(curve(T - 1)), "the curve is read at T + 1 values"),
    ("01.2", one_too_many_in_front, "the curve is read at T + 1 values"),
    ("01.2", lambda T: curve(T)[1:] / curve(T)[0], "this is alpha-bar"),
    ("01.2", lambda T: 1 - curve(T)[1:] / curve(T)[0], "the noise of all steps so far"),
    ("01.2", lambda T: curve(T)[1:] / curve(T)[:-1], "these are the alphas"),
    ("01.2", lambda T: curve(T)[:-1] - curve(T)[1:], "1 minus their ratio"),
    ("01.2", lambda T: (1 - curve(T)[:-1] / curve(T)[1:]).clamp(max=0.999), "upside down"),
    ("01.2", lambda T: ratios(curve(T, power=1)), "not squared"),
    ("01.2", lambda T: ratios(curve(T, offset=0, stretch=1)), "the offset 0.008 is missing"),
    ("01.2", lambda T: ratios(curve(T, stretch=1)), "divided by 1.008"),
    ("01.2", lambda T: 1 - curve(T)[1:] / curve(T)[:-1], "capped at 0.999"),
    ("01.2", lambda T: ratios(curve(T)).clamp(max=0.99), "capped at 0.999"),
    ("01.2", lambda T: ratios(curve(T)).float(), "loses digits in float32"),
    ("01.2", lambda T: ratios(curve(T, dtype=torch.float32)), "loses digits in float32"),
    ("01.2", lambda T: ratios(curve(T, offset=0.01)), "betas[0] should be"),
    ("01.2", lambda T: ratios(curve(T)).flip(0), "should be"),
    ("01.3", by_P_and_R, "nothing may be divided by 1 - a_bar_s"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[1], right[0], right[2])), "exchanged"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: right[:2]), "got 2"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[0], right[1], beta)), "the step forward"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[0], right[1], right[2].sqrt())), "square it"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[0], right[1], 1 / right[2])), "this is P"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[0], right[1], 1 - s)), "x_t tells more"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (s * beta / (1 - t), *right[1:])), "root of alpha-bar at s"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (t**0.5 * beta / (1 - t), *right[1:])), "at s, not at t"),
    (
        "01.3",
        posterior(lambda t, s, alpha, beta, right: (right[0], alpha * (1 - s) / (1 - t), right[2])),
        "the root of alpha",
    ),
    (
        "01.3",
        posterior(lambda t, s, alpha, beta, right: (right[0], t**0.5 * (1 - s) / (1 - t), right[2])),
        "here stands alpha-bar",
    ),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (s**0.5, *right[1:])), "what all have added"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (s**0.5 / (1 - s), *right[1:])), "factor in R"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[0], 1 - right[0], right[2])), "do not add up to 1"),
    ("01.3", posterior(lambda t, s, alpha, beta, right: (right[0], 0.9 * right[1], right[2])), "R / P and 1 / P"),
    ("01.4", lambda betas, keep: betas[keep], "returned as they were"),
    ("01.4", short_chain(lambda kept, before: kept), "this is alpha-bar"),
    ("01.4", short_chain(lambda kept, before: 1 - kept), "all steps so far"),
    ("01.4", short_chain(lambda kept, before: kept / before), "the alphas of the short chain"),
    ("01.4", short_chain(lambda kept, before: 1 - kept[1:] / before[1:]), "one beta too few"),
    (
        "01.4",
        lambda betas, keep: torch.diff(betas.cumsum(0)[keep], prepend=torch.zeros(1)),
        "the betas of the skipped steps are added up",
    ),
    (
        "01.4",
        lambda betas, keep: torch.cat(
            [betas[keep[:1]], short_chain(lambda kept, before: 1 - kept / before)(betas, keep)[1:]]
        ),
        "the first step of the short chain",
    ),
    ("01.4", lambda betas, keep: torch.linspace(1e-4, 0.02, len(keep)) * 1000 / len(keep), "alpha-bar"),
    ("01.4", lambda betas, keep: betas[keep] * len(betas) / len(keep), "multiplied by the same factor"),
    (
        "01.4",
        lambda betas, keep: 1 - (1 - betas).cumprod(0)[keep] / (1 - betas).cumprod(0)[keep - 1],
        "the step before in the long chain",
    ),
    ("01.5", snr_with(lambda snr: (snr / (1 + snr)).sqrt()), "the root of alpha-bar is taken"),
    ("01.5", snr_with(lambda snr: snr / (1 - snr)), "with a plus"),
    ("01.5", lambda snr: torch.diff(snr / (1 + snr), prepend=torch.ones(1)), "1 minus their ratio"),
    ("01.5", lambda snr: -torch.diff(snr / (1 + snr), prepend=torch.ones(1)), "1 minus their ratio"),
    ("01.6", asserts, "your test raises AssertionError; return False there"),
    ("01.6", whole_numbers, "give forward floats: torch.full((n,), -1.0)"),
    ("01.5", lambda snr: snr / (1 + snr), "this is alpha-bar"),
    ("01.5", lambda snr: 1 / (1 + snr), "the noise of all steps so far"),
    ("01.5", lambda snr: 1 - snr_with(lambda snr: snr / (1 + snr))(snr), "these are the alphas"),
    ("01.5", lambda snr: 1 - snr / torch.cat([snr[:1], snr[:-1]]), "ratios of the SNR itself"),
    ("01.5", snr_with(lambda snr: snr**2 / (1 + snr**2)), "already a ratio of squared factors"),
    ("01.5", lambda snr: nb01.betas_from_snr(snr)[1:], "one beta too few"),
    ("01.5", snr_with(lambda snr: snr**0.5 / (1 + snr**0.5)), "your betas give an SNR of"),
    ("01.5", snr_with(lambda snr: 1 / (1 + snr)), "1 / (1 + SNR) is 1 - alpha-bar"),
    ("01.5", snr_with(lambda snr: 1 / (2 + snr)), "between 0 and 1"),
    ("01.6", lambda forward: True, "lets a broken one pass"),
    ("01.6", lambda forward: False, "refuses the right forward process"),
    ("01.6", forward_test(values=(0.0,)), "lets a broken one pass: an image that is not shrunk"),
    ("01.6", forward_test(mean=False), "lets a broken one pass: an image that is not shrunk"),
    ("01.6", forward_test(variance=False), "lets a broken one pass: noise scaled by 1 - alpha-bar"),
    ("01.6", forward_test(values=(1.0,)), "lets a broken one pass: images moved to [0, 1]"),
    ("01.6", forward_test(alpha_bar=1e-5), "lets a broken one pass: noise scaled by 1 - alpha-bar"),
    ("01.6", forward_test(errors=0.5), "refuses the right forward process"),
]


@pytest.mark.parametrize(("number", "answer", "fault"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, fault):
    passed, message = grade(number, answer)
    assert passed is False and fault in message, message
