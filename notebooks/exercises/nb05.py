"""Exercises of notebook 05, sampling. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import as_float64, as_number, close
from utils.course.exercises import Wrong, exercise

# -- 05.1 ------------------------------------------------------------------------------------------


def check_jump(jump: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, noise = torch.randn(2, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    for a_bar_t, a_bar_s in [(0.3, 0.5), (0.01, 0.2), (0.9, 0.99), (0.6, 1.0)]:
        answer = jump(x_t.clone(), noise.clone(), a_bar_t, a_bar_s)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong(f"two values are asked for, (mean, standard deviation); got {type(answer).__name__}")
        mean = as_float64(answer[0], tuple(x_t.shape), "the mean")
        std = as_number(answer[1], "the standard deviation")
        x_0 = (x_t - math.sqrt(1 - a_bar_t) * noise) / math.sqrt(a_bar_t)
        alpha = a_bar_t / a_bar_s
        variance = (1 - alpha) * (1 - a_bar_s) / (1 - a_bar_t)
        right = (math.sqrt(a_bar_s) * (1 - alpha) * x_0 + math.sqrt(alpha) * (1 - a_bar_s) * x_t) / (1 - a_bar_t)
        where = f"from a_bar_t = {a_bar_t} to a_bar_s = {a_bar_s}"
        if not close(mean, right, atol=1e-5):
            _explain_mean(mean, x_t, noise, a_bar_t, a_bar_s, where)
        if abs(std - math.sqrt(variance)) > 1e-6:
            if abs(std - variance) < 1e-6:
                raise Wrong(f"{where} you return the variance, {std:.4f}; its square root is asked for")
            if abs(std - math.sqrt(1 - alpha)) < 1e-6:
                raise Wrong(
                    f"{where} your standard deviation is that of beta; that of the posterior (beta-tilde) is asked "
                    f"for, and it is 0 at a_bar_s = 1"
                )
            raise Wrong(f"{where} your standard deviation is {std:.4f}; the posterior's is {math.sqrt(variance):.4f}")


def _explain_mean(mean: Tensor, x_t: Tensor, noise: Tensor, a_bar_t: float, a_bar_s: float, where: str) -> None:
    if a_bar_s == 1.0:
        raise Wrong(f"{where} nothing of the noise is left, so the mean should be the estimate of x_0; yours is not")
    design = torch.stack([x_t, noise]).flatten(1).T
    own = torch.linalg.lstsq(design, mean.flatten()[:, None]).solution.flatten().tolist()
    alpha = a_bar_t / a_bar_s
    right = [1 / math.sqrt(alpha), -(1 - alpha) / math.sqrt(1 - a_bar_t) / math.sqrt(alpha)]
    raise Wrong(
        f"{where} your mean has the weight {own[0]:.4f} of x_t and {own[1]:.4f} of the noise; line 4 with "
        f"alpha = a_bar_t / a_bar_s = {alpha:.4f} has {right[0]:.4f} and {right[1]:.4f}"
    )


@exercise(
    "05.1",
    "Algorithm 2 with jumps",
    check_jump,
    hints=[
        "Everything in line 4 carries over if you find what takes the place of alpha_t and beta_t.",
        "The step from s to t keeps sqrt(a_bar_t / a_bar_s) of x_s: alpha = a_bar_t / a_bar_s, beta = 1 - alpha. "
        "alpha-bar_{t-1} becomes a_bar_s.",
        "mean = (x_t - beta / sqrt(1 - a_bar_t) * noise) / sqrt(alpha); "
        "variance = beta * (1 - a_bar_s) / (1 - a_bar_t). Return its root.",
    ],
)
def jump(x_t, noise, a_bar_t, a_bar_s):
    alpha = a_bar_t / a_bar_s
    mean = (x_t - (1 - alpha) / math.sqrt(1 - a_bar_t) * noise) / math.sqrt(alpha)
    return mean, math.sqrt((1 - alpha) * (1 - a_bar_s) / (1 - a_bar_t))


# -- 05.2 ------------------------------------------------------------------------------------------


def check_slerp(slerp_batch: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 1, 8, 8, generator=generator, dtype=torch.float64)
    b[1] = a[1] + 0.5 * b[1]  # a small angle, a large one, and one and the same noise
    b[2] = -a[2] + 0.5 * b[2]
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    b[3] = a[3]
    shape, norms = tuple(a.shape), a.flatten(1).norm(dim=1)
    angles = torch.acos(((a * b).flatten(1).sum(1) / norms**2).clamp(-1, 1))
    for weight in [0.0, 1.0, 0.5, 0.2]:
        answer = slerp_batch(a.clone(), b.clone(), weight)
        if isinstance(answer, Tensor) and tuple(answer.shape) == shape and bool(answer[3].isnan().any()):
            raise Wrong("where a[k] equals b[k] the angle is 0 and your result is not a number; return a[k] there")
        seen = as_float64(answer, shape)
        for end, images in [(0.0, a), (1.0, b)]:
            if weight == end and not close(seen, images, atol=1e-5):
                raise Wrong(f"weight {end:.0f} should give {'a' if end == 0 else 'b'} itself")
        own = seen.flatten(1).norm(dim=1)
        if not close(own, norms, atol=1e-5):
            k = int((own - norms).abs().argmax())
            why = "; a straight line does that" if close(seen, (1 - weight) * a + weight * b, atol=1e-5) else ""
            raise Wrong(f"the norm should stay {norms[k]:.3f}; at weight {weight}, image {k} has {own[k]:.3f}{why}")
        turned = torch.acos(((a * seen).flatten(1).sum(1) / (norms * own)).clamp(-1, 1))
        if not torch.allclose(turned, weight * angles, atol=1e-4):
            k = int((turned - weight * angles).abs().argmax())
            raise Wrong(
                f"at weight {weight} image {k} should have turned by {weight:g} of its own angle, "
                f"{weight * angles[k]:.3f}; yours has turned by {turned[k]:.3f}"
            )


@exercise(
    "05.2",
    "slerp for a batch",
    check_slerp,
    hints=[
        "Sum over everything but the first axis: (a * b).flatten(1).sum(1) has one number for each image.",
        "Give the angles the shape (B, 1, 1, 1) before you multiply, so that each meets its own image.",
        "Where a[k] equals b[k] the sine is 0. torch.where picks a[k] there; make sure that the other branch "
        "does not divide by 0.",
    ],
)
def slerp_batch(a, b, weight):
    norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    cosine = (a * b).flatten(1).sum(1) / norms
    theta = torch.acos(cosine.clamp(-1, 1)).view(-1, 1, 1, 1)
    sine = torch.sin(theta)
    same = sine < 1e-6
    sine = torch.where(same, torch.ones_like(sine), sine)
    arc = (torch.sin((1 - weight) * theta) * a + torch.sin(weight * theta) * b) / sine
    return torch.where(same, a, arc)


# -- 05.3 ------------------------------------------------------------------------------------------


def check_again(noise_again: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    x_s, z = torch.randn(2, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    for a_bar_s, a_bar_t in [(0.5, 0.3), (1.0, 0.4), (0.02, 0.001), (0.99, 0.98)]:
        answer = noise_again(x_s.clone(), a_bar_s, a_bar_t, z.clone())
        seen = as_float64(answer, tuple(x_s.shape))
        weights = torch.linalg.lstsq(torch.stack([x_s, z]).flatten(1).T, seen.flatten()[:, None]).solution
        signal, sigma = weights.flatten().tolist()
        if not close(seen, signal * x_s + sigma * z, atol=1e-5):
            raise Wrong("the result should be a number times x_s plus a number times z, and nothing else")
        where = f"from a_bar_s = {a_bar_s} to a_bar_t = {a_bar_t}"
        if not abs(signal**2 * a_bar_s - a_bar_t) <= 1e-6:
            raise Wrong(
                f"{where}: x_s holds {math.sqrt(a_bar_s):.4f} of the image, x_t should hold {math.sqrt(a_bar_t):.4f}; "
                f"with your factor of x_s, {signal:.4f}, it holds {signal * math.sqrt(a_bar_s):.4f}"
            )
        variance = signal**2 * (1 - a_bar_s) + sigma**2
        if signal < 0 or not abs(variance - (1 - a_bar_t)) <= 1e-6:
            raise Wrong(
                f"{where}: the noise in x_s (variance {1 - a_bar_s:.4f}) and yours together have the variance "
                f"{variance:.4f}; x_t should have {1 - a_bar_t:.4f}"
            )


@exercise(
    "05.3",
    "the missing piece of RePaint",
    check_again,
    hints=[
        "One forward step is sqrt(1 - beta) x + sqrt(beta) z. Several at once have the same form.",
        "x_s holds sqrt(a_bar_s) of the image, x_t must hold sqrt(a_bar_t): that gives the factor of x_s. "
        "Its square is alpha = a_bar_t / a_bar_s.",
        "x_s brings the noise variance alpha (1 - a_bar_s) along. What is missing to 1 - a_bar_t?",
    ],
)
def noise_again(x_s, a_bar_s, a_bar_t, z):
    alpha = a_bar_t / a_bar_s
    return math.sqrt(alpha) * x_s + math.sqrt(1 - alpha) * z


# -- 05.4 ------------------------------------------------------------------------------------------


def check_line(line_step: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, x_0, before = torch.randn(3, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    zero, shape = torch.zeros_like(x_t), tuple(x_t.shape)
    for lambdas in [(-1.5, -0.5, 1.0), (-3.0, -2.5, -1.5), (0.0, 0.2, 1.7)]:
        first, last = (1 / math.sqrt(1 + math.exp(2 * value)) for value in lambdas[1:])
        h, r = lambdas[2] - lambdas[1], (lambdas[2] - lambdas[1]) / (lambdas[1] - lambdas[0])
        where = f"at lambdas {lambdas}"
        answer = line_step(x_t.clone(), zero.clone(), zero.clone(), *lambdas)
        if not close(as_float64(answer, shape), last / first * x_t, atol=1e-4):
            raise Wrong(f"{where}: where both estimates are 0, x_s should be sigma_s / sigma_t times x_t")
        flat = as_float64(line_step(zero.clone(), x_0.clone(), x_0.clone(), *lambdas), shape)
        constant = last * (math.exp(lambdas[2]) - math.exp(lambdas[1]))
        if not close(flat, constant * x_0, atol=1e-4):
            raise Wrong(f"{where}: where both estimates are equal, the step should be DDIM's; it is not")
        seen = as_float64(line_step(x_t.clone(), x_0.clone(), before.clone(), *lambdas), shape)
        ddim = last / first * x_t + constant * x_0
        moment = last * (math.exp(lambdas[2]) * (h - 1) + math.exp(lambdas[1])) / h  # of e^l (l - lambda_t) / h
        if close(seen, ddim + moment * r * (x_0 - before), atol=1e-4):
            continue
        if close(seen, ddim + constant * r / 2 * (x_0 - before), atol=1e-4):
            raise Wrong("this is 2M's own rule, the line's value half-way; the exact integral is asked for")
        if close(seen, ddim, atol=1e-4):
            raise Wrong("this is DDIM's step: the estimate before plays no part in it")
        raise Wrong(
            f"{where}: the part that comes from the slope is not the integral of e^l (l - lambda_t) from lambda_t "
            "to lambda_s; integrate by parts"
        )


@exercise(
    "05.4",
    "the line, integrated exactly",
    check_line,
    hints=[
        "Write the line as x_0 + slope * (l - lambda_t), with slope = (x_0 - x_0_before) / (lambda_t - "
        "lambda_before), and put it into the integral of section 5.",
        "By parts: the integral of e^l (p + q l) is e^l (p + q l - q).",
        "x_s = sigma_s / sigma_t * x_t + sigma_s * (upper - lower), where upper is "
        "exp(lambda_s) * (x_0 + slope * (lambda_s - lambda_t - 1)) and lower is exp(lambda_t) * (x_0 - slope).",
    ],
)
def line_step(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    sigma_t = 1 / math.sqrt(1 + math.exp(2 * lambda_t))
    sigma_s = 1 / math.sqrt(1 + math.exp(2 * lambda_s))
    slope = (x_0 - x_0_before) / (lambda_t - lambda_before)
    # The line is x_0 + slope (l - lambda_t); times e^l, its integral is
    # e^l (x_0 + slope (l - lambda_t - 1)).
    upper = math.exp(lambda_s) * (x_0 + slope * (lambda_s - lambda_t - 1))
    lower = math.exp(lambda_t) * (x_0 - slope)
    return sigma_s / sigma_t * x_t + sigma_s * (upper - lower)
