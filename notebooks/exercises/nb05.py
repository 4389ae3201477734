"""Exercises of notebook 05, sampling. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import (
    ONE_NUMBER,
    PLAIN_NUMBERS,
    as_float64,
    called,
    close,
    normal,
    refuse_changes,
    refuse_dtype,
)
from utils.course.exercises import Wrong, exercise

# -- 05.1 and 05.2: one step from alpha-bar a to alpha-bar b ---------------------------------------

STEPS = [(0.3, 0.5), (0.01, 0.2), (0.9, 0.99), (0.6, 1.0)]
SHAPE = (2, 1, 4, 4)


def taken(step: Callable, a: float, b: float, **options: float) -> tuple[Tensor, list[Tensor]]:
    """The answer's x_s in float64, and the x_t, x_0, z that it was given. Raises `Wrong` if it isn't such a tensor."""
    for dtype in (torch.float32, torch.float64):
        given = [normal(*SHAPE, seed=seed).to(dtype) for seed in range(3)]
        x_t, x_0, z = (tensor.clone() for tensor in given)
        try:
            answer = step(x_t, x_0, a, b, z, None, **options)
        except (AttributeError, TypeError) as error:
            if "sqrt" in str(error):
                raise Wrong("a_bar_t and a_bar_s are plain numbers: take their roots with math.sqrt") from error
            raise
        except ZeroDivisionError as error:
            if b == 1:
                raise Wrong("the last step has a_bar_s = 1: nothing may be divided by 1 - a_bar_s") from error
            raise
        refuse_changes([x_t, x_0, z], given, "x_t, x_0 and z")
        refuse_dtype(answer, dtype, "x_s", "x_t, x_0 and z are of that kind, the other arguments plain numbers")
        seen = as_float64(answer, SHAPE, "x_s")
    again = step(*(tensor.clone() for tensor in given[:2]), a, b, z, None, **options)
    if not torch.equal(seen, as_float64(again, SHAPE)):
        raise Wrong("two calls with the same z differ: use the z that is given, draw no noise of your own")
    return seen, given


def compare(seen: Tensor, given: list[Tensor], right: list[float], wrong: dict[str, list[float]], where: str) -> None:
    """Raises `Wrong` unless x_s has the right weights of x_t, x_0 and z. wrong: weights by what is wrong with them."""

    def made(weights: list[float]) -> Tensor:
        return sum(weight * one for weight, one in zip(weights, given))

    if close(seen, made(right), 1e-4, 1e-5):
        return
    for fault, weights in wrong.items():
        if close(seen, made(weights), 1e-4, 1e-5):
            raise Wrong(f"{where}: {fault}")
    design = torch.stack(given).flatten(1).T
    own = torch.linalg.lstsq(design, seen.flatten()[:, None]).solution.flatten().tolist()
    if not close(seen, made(own), 1e-4, 1e-4):
        raise Wrong(
            f"{where}: x_s should be a weight times x_t, plus one times x_0, plus one times z, and nothing else"
        )
    names = [f"{name} {mine:.4f} (right: {value:.4f})" for name, mine, value in zip(["x_t", "x_0", "z"], own, right)]
    raise Wrong(f"{where}: your x_s has these weights: {', '.join(names)}")


def ddpm_weights(a: float, b: float) -> list[float]:
    """Weights of x_t, x_0 and z."""
    alpha = a / b
    std = math.sqrt((1 - alpha) * (1 - b) / (1 - a))
    return [math.sqrt(alpha) * (1 - b) / (1 - a), math.sqrt(b) * (1 - alpha) / (1 - a), std]


def wrong_ddpm(a: float, b: float) -> dict[str, list[float]]:
    alpha, beta, rest = a / b, 1 - a / b, 1 - a
    of_x_t, of_x_0, std = ddpm_weights(a, b)
    kept = math.sqrt((1 - b) / rest)
    mean = [of_x_t, of_x_0]
    return {
        "this is the mean alone; the fresh noise is missing: its standard deviation times z": [*mean, 0.0],
        "z is multiplied with the variance; take its root": [*mean, std**2],
        "z has the standard deviation of beta, the forward step's; beta-tilde is asked for, which is 0 in the last "
        "step": [*mean, math.sqrt(beta)],
        "z has the standard deviation of all the noise at s; that of this step alone is asked for": [
            *mean,
            math.sqrt(1 - b),
        ],
        "the weights of x_0 and x_t are exchanged": [of_x_0, of_x_t, std],
        "this is notebook 00's step: it takes the noise in x_t again, and none of z": [
            kept,
            math.sqrt(b) - math.sqrt(a) * kept,
            0.0,
        ],
        "alpha_t is this step's own, a_bar_t / a_bar_s; here stands alpha-bar": [
            math.sqrt(a) * (1 - b) / rest,
            math.sqrt(b),
            math.sqrt(1 - b),
        ],
        "the step keeps the ratio a_bar_t / a_bar_s; yours is 1 minus their difference": [
            math.sqrt(1 - b + a) * (1 - b) / rest,
            math.sqrt(b) * (b - a) / rest,
            math.sqrt((b - a) * (1 - b) / rest),
        ],
        "both roots are missing, of alpha and of alpha-bar at s": [alpha * (1 - b) / rest, b * beta / rest, std],
        "the weight of x_t needs the root of alpha": [alpha * (1 - b) / rest, of_x_0, std],
        "the weight of x_0 needs the root of alpha-bar at s": [of_x_t, b * beta / rest, std],
        "the weight of x_0 has the root of alpha-bar at s in it, not at t": [of_x_t, math.sqrt(a) * beta / rest, std],
        "this mixes the guess with fresh noise; x_t plays no part": [0.0, math.sqrt(b), math.sqrt(1 - b)],
        "this is the paper's line 4 with x_0 where the noise belongs; take eq. 7": [
            1 / math.sqrt(alpha),
            -beta / math.sqrt(rest) / math.sqrt(alpha),
            std,
        ],
        "this is a forward step, which adds noise": [math.sqrt(alpha), 0.0, math.sqrt(beta)],
    }


def check_ddpm(ddpm_step: Callable) -> None:
    for a, b in STEPS:
        seen, given = taken(ddpm_step, a, b)
        compare(seen, given, ddpm_weights(a, b), wrong_ddpm(a, b), f"from alpha-bar {a} to {b}")


@exercise(
    "05.1",
    "the reverse step of Algorithm 2",
    check_ddpm,
    hints=[
        "Only alpha_t and beta_t are not given. The step from s to t keeps a_bar_t / a_bar_s: that is alpha_t, and "
        "beta_t = 1 - alpha_t.",
        "Weight of x_0: sqrt(a_bar_s) * beta / (1 - a_bar_t). Weight of x_t: sqrt(alpha) * (1 - a_bar_s) / "
        "(1 - a_bar_t).",
        "Add the root of beta-tilde times z; beta-tilde = beta * (1 - a_bar_s) / (1 - a_bar_t).",
    ],
)
def ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    alpha = a_bar_t / a_bar_s  # of the step from s to t
    beta = 1 - alpha
    x_0_weight = math.sqrt(a_bar_s) * beta / (1 - a_bar_t)
    x_t_weight = math.sqrt(alpha) * (1 - a_bar_s) / (1 - a_bar_t)
    variance = beta * (1 - a_bar_s) / (1 - a_bar_t)
    return x_0_weight * x_0 + x_t_weight * x_t + math.sqrt(variance) * z


def ddim_weights(a: float, b: float, of_z: float, of_noise: float) -> list[float]:
    """Weights of x_t, x_0 and z, where x_s = sqrt(b) x_0 + of_noise * noise + of_z * z."""
    kept = of_noise / math.sqrt(1 - a)
    return [kept, math.sqrt(b) - math.sqrt(a) * kept, of_z]


def wrong_ddim(a: float, b: float, eta: float) -> dict[str, list[float]]:
    share = (1 - b) / (1 - a) * (1 - a / b)
    most, rest = math.sqrt(1 - b), math.sqrt(1 - a)
    sigma = eta * math.sqrt(share)

    def filled(of_z: float) -> list[float]:
        return ddim_weights(a, b, of_z, math.sqrt(max(0.0, 1 - b - of_z**2)))

    direction = math.sqrt(max(0.0, 1 - b - sigma**2))
    return {
        "this is the step for eta = 0; eta plays no part in yours": filled(0.0),
        "this is the step for eta = 1; eta plays no part in yours": filled(math.sqrt(share)),
        "the noise is not made less: 1 - a_bar_s is the variance of old and new noise together, so the old one's is "
        "1 - a_bar_s - sigma_tilde**2": ddim_weights(a, b, sigma, most),
        "variances are subtracted, not standard deviations: the root of (1 - a_bar_s - sigma_tilde**2)": ddim_weights(
            a, b, sigma, most - sigma
        ),
        "in eq. 16 the root is missing": filled(eta * share),
        "eta belongs before the root of eq. 16, not under it": filled(math.sqrt(eta * share)),
        "sigma_tilde is eta in units of DDPM's standard deviation (eq. 16), not of all the noise at s": filled(
            eta * most
        ),
        "sigma_tilde is eta itself; multiply it with DDPM's standard deviation (eq. 16)": filled(eta),
        "under the root of the direction sigma_tilde is squared": ddim_weights(
            a, b, sigma, math.sqrt(max(0.0, 1 - b - sigma))
        ),
        "z is multiplied with sigma_tilde squared": ddim_weights(a, b, sigma**2, direction),
        "sigma_tilde counts in the direction, but z is not added": ddim_weights(a, b, 0.0, direction),
        "the direction needs a root: of 1 - a_bar_s - sigma_tilde**2": ddim_weights(a, b, sigma, 1 - b - sigma**2),
        "x_t minus the guess's part is not yet the noise: divide by the root of 1 - a_bar_t": [
            direction,
            math.sqrt(b) - math.sqrt(a) * direction,
            sigma,
        ],
        "the noise is what is in x_t besides sqrt(a_bar_t) x_0; yours takes away x_0 whole": [
            direction / rest,
            math.sqrt(b) - direction / rest,
            sigma,
        ],
        "x_t is mixed in as if it were the noise; take the guess out of it first": [direction, math.sqrt(b), sigma],
        "the image should have its weight at s, sqrt(a_bar_s); yours has that at t": [
            direction / rest,
            math.sqrt(a) - math.sqrt(a) * direction / rest,
            sigma,
        ],
        "the weight of the image is the root of alpha-bar at s": [
            direction / rest,
            b - math.sqrt(a) * direction / rest,
            sigma,
        ],
        "z stands where the noise in x_t belongs too": [0.0, math.sqrt(b), direction + sigma],
    }


def check_ddim(ddim_step: Callable) -> None:
    for eta in (0.0, 0.5, 1.0):
        for a, b in STEPS:
            seen, given = taken(ddim_step, a, b, eta=eta)
            sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
            right = ddim_weights(a, b, sigma, math.sqrt(max(0.0, 1 - b - sigma**2)))
            where = f"from alpha-bar {a} to {b} with eta = {eta}"
            compare(seen, given, right, wrong_ddim(a, b, eta), where)


@exercise(
    "05.2",
    "the DDIM step",
    check_ddim,
    hints=[
        "Three lines: the noise in x_t, if x_0 is the image; sigma_tilde; the sum of three parts.",
        "noise = (x_t - sqrt(a_bar_t) * x_0) / sqrt(1 - a_bar_t); "
        "sigma_tilde = eta * sqrt((1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s)).",
        "x_s = sqrt(a_bar_s) * x_0 + sqrt(1 - a_bar_s - sigma_tilde**2) * noise + sigma_tilde * z.",
    ],
)
def ddim_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    variance = (1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s)
    sigma_tilde = eta * math.sqrt(variance)
    direction = math.sqrt(1 - a_bar_s - sigma_tilde**2) * noise
    return math.sqrt(a_bar_s) * x_0 + direction + sigma_tilde * z


# -- 05.3 ------------------------------------------------------------------------------------------


def wrong_lines(h: float, h_before: float) -> dict[str, float]:
    """What the most natural mistakes add to x_0, in units of x_0 - x_0_before."""
    return {
        "this is the guess itself, as in DDIM; the one before plays no part": 0.0,
        "this is the line's value at the end of the step; half-way is asked for": h / h_before,
        "this is the line's value half-way through the step before; go on beyond x_0, to later": -0.5,
        "this is the guess of the step before; the line should go on beyond x_0": -1.0,
        "the line goes the wrong way: the slope is (x_0 - x_0_before) / h_before": -h / (2 * h_before),
        "this goes backwards along the line, a whole step": -h / h_before,
        "the slope is the difference over h_before, the distance between the two guesses, not over h": h_before
        / (2 * h),
        "this is right only where both steps are equally long; the slope is the difference over h_before": 0.5,
        "a whole difference is added; half a step at the slope of the line is h / 2 * slope": 1.0,
        "the difference is not divided by h_before: it is no slope yet": h / 2,
        "this is the slope times the whole way from the guess before, h_before + h / 2, added to x_0; count from x_0, "
        "or start at x_0_before": 1 + h / (2 * h_before),
    }


def check_line_value(line_value: Callable) -> None:
    x_0, before = normal(*SHAPE), normal(*SHAPE, seed=1)
    for h, h_before in [(0.5, 0.2), (0.3, 0.7), (0.4, 0.4)]:
        given = [x_0.clone(), before.clone()]
        answer = line_value(*given, h, h_before)
        refuse_changes(given, [x_0, before], "x_0 and x_0_before")
        refuse_dtype(answer, torch.float64, "the value", "that of x_0 and x_0_before")
        seen, difference = as_float64(answer, SHAPE), x_0 - before
        if close(seen, x_0 + h / (2 * h_before) * difference, 1e-4, 1e-5):
            continue
        where = f"with h = {h} and h_before = {h_before}"
        for fault, weight in wrong_lines(h, h_before).items():
            if close(seen, x_0 + weight * difference, 1e-4, 1e-5):
                raise Wrong(f"{where}: {fault}")
        if close(seen, h / (2 * h_before) * difference, 1e-4, 1e-5):
            raise Wrong(f"{where}: this is what the line has gained since x_0; add x_0")
        design = torch.stack([x_0, before]).flatten(1).T
        own = torch.linalg.lstsq(design, seen.flatten()[:, None]).solution.flatten().tolist()
        right = h / (2 * h_before)
        raise Wrong(
            f"{where}: your value has the weight {own[0]:.4f} of x_0 and {own[1]:.4f} of x_0_before; the line half-way "
            f"has {1 + right:.4f} and {-right:.4f}"
        )


@exercise(
    "05.3",
    "2M's line",
    check_line_value,
    hints=[
        "The line's slope: what the guess has gained from the step before to this one, over the distance h_before.",
        "Half-way through the step is a distance of h / 2 from lambda_t, where the line has the value x_0.",
    ],
)
def line_value(x_0, x_0_before, h, h_before):
    slope = (x_0 - x_0_before) / h_before
    return x_0 + h / 2 * slope


# -- 05.4 ------------------------------------------------------------------------------------------


ANGLES = ONE_NUMBER | {
    "size of tensor": "one angle for each image is (B,); .view(-1, 1, 1, 1) lets each meet its own image",
    "must be a 2-tuple": "a norm over three axes: flatten(1) first, then .norm(dim=1)",
}


def check_slerp(slerp_batch: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 1, 8, 8, generator=generator, dtype=torch.float64)
    b[1] = a[1] + 0.5 * b[1]  # a small angle, a large one, and one and the same noise
    b[2] = -a[2] + 0.5 * b[2]
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    b[3] = a[3]
    shape, norms = tuple(a.shape), a.flatten(1).norm(dim=1)
    angles = torch.acos(((a * b).flatten(1).sum(1) / norms**2).clamp(-1, 1))
    one = torch.acos((a * b).sum() / (a.norm() * b.norm()))  # for the whole batch
    for weight in [0.0, 1.0, 0.5, 0.2]:
        answer = called(slerp_batch, a.clone(), b.clone(), weight, faults=ANGLES)
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
            if close(seen, (torch.sin((1 - weight) * one) * a + torch.sin(weight * one) * b) / one.sin(), atol=1e-5):
                why = "; you use one angle for the whole batch, each image has its own"
            raise Wrong(f"the norm should stay {norms[k]:.3f}; at weight {weight}, image {k} has {own[k]:.3f}{why}")
        turned = torch.acos(((a * seen).flatten(1).sum(1) / (norms * own)).clamp(-1, 1))
        if not torch.allclose(turned, weight * angles, atol=1e-4):
            k = int((turned - weight * angles).abs().argmax())
            raise Wrong(
                f"at weight {weight} image {k} should have turned by {weight:g} of its own angle, "
                f"{weight * angles[k]:.3f}; yours has turned by {turned[k]:.3f}"
            )


@exercise(
    "05.4",
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


# -- 05.5 ------------------------------------------------------------------------------------------


TURNED = "you take the root of a number below 0: a_bar_t / a_bar_s is the ratio below 1, not the other way round"
UPSIDE_DOWN = {"math domain error": TURNED, "nonnegative": TURNED}


def check_again(noise_again: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    x_s, z = torch.randn(2, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    for a_bar_s, a_bar_t in [(0.5, 0.3), (1.0, 0.4), (0.02, 0.001), (0.99, 0.98)]:
        given = [x_s.clone(), z.clone()]
        answer = called(noise_again, given[0], a_bar_s, a_bar_t, given[1], faults=PLAIN_NUMBERS | UPSIDE_DOWN)
        refuse_changes(given, [x_s, z], "x_s and z")
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
        if signal < 0:
            raise Wrong(f"{where}: your factor of x_s, {signal:.4f}, turns the image into its negative")
        variance = signal**2 * (1 - a_bar_s) + sigma**2
        if not abs(variance - (1 - a_bar_t)) <= 1e-6:
            raise Wrong(
                f"{where}: the noise in x_s (variance {1 - a_bar_s:.4f}) and yours together have the variance "
                f"{variance:.4f}; x_t should have {1 - a_bar_t:.4f}"
            )


@exercise(
    "05.5",
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


# -- 05.6 ------------------------------------------------------------------------------------------


PLAIN_LAMBDAS = dict.fromkeys(PLAIN_NUMBERS, "the lambdas are plain numbers: use math.sqrt and math.exp")


def check_line(line_step: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, x_0, before = torch.randn(3, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    zero, shape = torch.zeros_like(x_t), tuple(x_t.shape)
    for lambdas in [(-1.5, -0.5, 1.0), (-3.0, -2.5, -1.5), (0.0, 0.2, 1.7)]:
        first, last = (1 / math.sqrt(1 + math.exp(2 * value)) for value in lambdas[1:])
        h, r = lambdas[2] - lambdas[1], (lambdas[2] - lambdas[1]) / (lambdas[1] - lambdas[0])
        where = f"at lambdas {lambdas}"
        answer = called(line_step, x_t.clone(), zero.clone(), zero.clone(), *lambdas, faults=PLAIN_LAMBDAS)
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
        slope, ends = last * (x_0 - before) / (lambdas[1] - lambdas[0]), [math.exp(value) for value in lambdas[1:]]
        faults = {
            "by parts leaves a second term: the integral of e^l l is e^l (l - 1), not e^l l": slope * ends[1] * h,
            "the second term of the integral by parts has a minus: e^l (l - 1)": slope * (ends[1] * (h + 1) - ends[0]),
            "the slope is the difference over lambda_t - lambda_before, the distance between the two estimates": moment
            * (x_0 - before),
        }
        for fault, part in faults.items():
            if close(seen, ddim + part, atol=1e-4):
                raise Wrong(f"{where}: {fault}")
        raise Wrong(
            f"{where}: the part that comes from the slope is not the integral of e^l (l - lambda_t) from lambda_t "
            "to lambda_s; integrate by parts"
        )


@exercise(
    "05.6",
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
