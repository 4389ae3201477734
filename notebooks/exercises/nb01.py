"""Exercises of notebook 01, noise schedule. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import (
    SHAPES,
    as_float64,
    called,
    close,
    normal,
    refuse_changes,
    refuse_dtype,
    shaped,
    wrong_mixtures,
)
from utils.course.exercises import Wrong, exercise


def same(seen: Tensor, wrong: Tensor) -> bool:
    """Whether the answer is that wrong one, not-a-numbers included."""
    return torch.allclose(seen, wrong.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def shifted(alphas_cumprod: Tensor) -> Tensor:
    """alpha-bar before each step: 1 before the first."""
    return torch.cat([torch.ones(1, dtype=alphas_cumprod.dtype), alphas_cumprod[:-1]])


# -- 01.1 ------------------------------------------------------------------------------------------

STEPS = 40
BETAS = torch.linspace(0.01, 0.3, STEPS, dtype=torch.float64)  # alpha-bar falls from 0.99 to 0.001


def wrong_products(t: Tensor) -> dict[str, Tensor]:
    """What may be taken for alpha-bar at the steps t, by what is wrong with it."""
    alphas = 1 - BETAS
    right = alphas.cumprod(0)
    return {
        "this is what step t alone does; alpha-bar is the product of 1 - beta over all steps up to t": alphas[t],
        "the betas are added up; what is left of the image is multiplied by 1 - beta at every step": 1
        - BETAS.cumsum(0)[t],
        "exp(-sum of the betas) is an approximation for small betas; take the product of 1 - beta": (
            BETAS.cumsum(0).neg().exp()[t]
        ),
        "this is the product of the betas; what is left after a step is 1 - beta": BETAS.cumprod(0)[t],
        "the product runs over the batch; it should run over the steps, and then be read at t": alphas[t].cumprod(0),
        "step t itself is missing from the product; t = 0 is after the first step": shifted(right)[t],
        "the product runs over the whole chain, whatever t is": alphas.prod().expand(len(t)),
        "the root is taken twice: of every alpha, and of their product": right.sqrt()[t],
    }


def same_noise_at_every_step(x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    x_t = x_0.clone()
    for k, beta in enumerate(BETAS):
        step = (1 - beta).sqrt() * x_t + beta.sqrt() * noise
        x_t = torch.where(shaped(t >= k, x_0), step, x_t)
    return x_t


def check_jump(q_sample: Callable) -> None:
    alphas_cumprod = (1 - BETAS).cumprod(0)
    for shape in [(3, 3), (4, 2), (5, 1, 8, 8)]:
        x_0, noise = normal(*shape).float(), normal(*shape, seed=1).float()
        t = torch.tensor([17, 0, STEPS - 1, 5, 30])[: shape[0]]
        try:
            given = [x_0.clone(), t.clone(), noise.clone(), BETAS.clone()]
            answer = q_sample(*given)
        except RuntimeError as error:
            if "size of tensor" in str(error):
                raise Wrong(f"the weights do not fit x_0 of shape {shape}: {SHAPES}") from error
            raise
        refuse_changes(given, [x_0, t, noise, BETAS], "x_0, t, noise and betas")
        seen = as_float64(answer, shape, "x_t", finite=False)
        a_bar = shaped(alphas_cumprod[t], x_0)
        if close(seen, a_bar.sqrt() * x_0 + (1 - a_bar).sqrt() * noise, 1e-4, 1e-5):
            why = "the networks and images are float32: convert the weights, as `at` does"
            refuse_dtype(answer, x_0.dtype, "x_t", why)
            continue
        for fault, product in wrong_products(t).items():
            product = shaped(product, x_0)
            if same(seen, product.sqrt() * x_0 + (1 - product).sqrt() * noise):
                raise Wrong(fault)
        for fault, wrong in wrong_mixtures(x_0, noise, t, alphas_cumprod).items():
            if same(seen, wrong):
                raise Wrong(fault)
        if same(seen, same_noise_at_every_step(x_0, noise, t)):
            raise Wrong(
                "the same noise is added at every step, so that it piles up; steps have independent noises, whose "
                "variances add: mix once, with 1 - alpha-bar as the variance"
            )
        seen = as_float64(answer, shape, "x_t")
        if not torch.equal(seen, as_float64(q_sample(x_0, t, noise, BETAS), shape, "x_t")):
            raise Wrong("two calls with the same noise differ: mix in the noise that is given, draw none of your own")
        weights = torch.linalg.lstsq(torch.stack([x_0[0], noise[0]]).double().flatten(1).T, seen[0].flatten()[:, None])
        image, other = weights.solution.flatten().tolist()
        product = alphas_cumprod[17]
        raise Wrong(
            f"where the product of the alphas is {product:.4f}, your x_0 has weight {image:.4f} and your noise "
            f"{other:.4f}; right are the roots of that product and of 1 minus it: {product.sqrt():.4f} and "
            f"{(1 - product).sqrt():.4f}"
        )


@exercise(
    "01.1",
    "all steps in one jump",
    check_jump,
    hints=[
        "Two steps: the image keeps the root of alpha_t alpha_{t-1}. With every further step comes one more factor, "
        "and the squares of the two weights always add up to 1.",
        "alphas_cumprod = torch.cumprod(1 - betas, dim=0) has the product up to and including each step, (T,).",
        "at(alphas_cumprod.sqrt(), t, x_0) is the weight of the image, (B, 1, ...), and "
        "at((1 - alphas_cumprod).sqrt(), t, x_0) that of the noise.",
    ],
)
def q_sample(x_0, t, noise, betas):
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)  # (T,)
    a_bar = alphas_cumprod[t].view(-1, *[1] * (x_0.ndim - 1))  # (B, 1, ..., 1)
    signal, sigma = a_bar.sqrt().to(x_0.dtype), (1 - a_bar).sqrt().to(x_0.dtype)
    return signal * x_0 + sigma * noise


# -- 01.2 ------------------------------------------------------------------------------------------

MAX_BETA = 0.999
READ = "T betas are T ratios of neighbours, so the curve is read at T + 1 values of u, from 0 to 1"


def cosine(u: Tensor, stretch: float = 1.008, angle: float = math.pi / 2, power: int = 2) -> Tensor:
    return torch.cos((u + 0.008) / stretch * angle) ** power


def betas_of(curve: Tensor) -> Tensor:
    return 1 - curve[1:] / curve[:-1]


def wrong_cosines(steps: int) -> list[tuple[str, Tensor]]:
    """What the most natural mistakes give, after what is wrong with them."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    inner, one = torch.linspace(0, 1, steps, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    f = cosine(u)
    curves = "this is alpha-bar, the curve itself; beta is 1 minus the ratio of two neighbours"
    total = "this is 1 - alpha-bar, the noise of all steps so far together; beta_t is what step t alone adds"
    found = [
        *[(curves, curve) for curve in (f[1:], f[1:] / f[0], f[:-1], f[:-1] / f[0], cosine(inner))],
        *[(total, 1 - curve) for curve in (f[1:], f[1:] / f[0], f[:-1] / f[0], cosine(inner))],
        ("these are the alphas, the ratios; beta is 1 minus that", f[1:] / f[:-1]),
        ("this is the difference of neighbours; beta is 1 minus their ratio", f[:-1] - f[1:]),
        ("this is the difference of neighbours; beta is 1 minus their ratio", (f[:-1] - f[1:]) / f[0]),
        ("the ratio is upside down: alpha-bar at the later step over that at the earlier", 1 - f[:-1] / f[1:]),
        ("the cosine is not squared", betas_of(cosine(u, power=1))),
        ("the offset 0.008 is missing, so the first betas are far too small", betas_of(cosine(u - 0.008, 1))),
        ("u + 0.008 has to be divided by 1.008, so that the curve ends in 0", betas_of(cosine(u, 1))),
        ("the angle runs to pi; it should run to pi/2, where the cosine is 0", betas_of(cosine(u, angle=math.pi))),
        *[(READ, betas_of(torch.cat([one, cosine(v)]))) for v in (inner, u[:-1], u[1:])],
        *[(READ, betas_of(torch.cat([cosine(v[:1]), cosine(v)]))) for v in (inner, u[:-1])],
    ]
    return found


def check_cosine(cosine_betas: Callable) -> None:
    for steps in [20, 1000, 1]:
        answer = cosine_betas(steps)
        if isinstance(answer, Tensor) and answer.shape == (steps - 1,):
            raise Wrong(f"for T = {steps} there should be {steps} betas, got {steps - 1}: {READ}")
        seen = as_float64(answer, (steps,), "the betas", finite=False)
        uncapped = betas_of(cosine(torch.linspace(0, 1, steps + 1, dtype=torch.float64)))
        right = uncapped.clamp(max=MAX_BETA)
        if close(seen, right):
            refuse_dtype(answer, torch.float64, "the betas", "1 minus a ratio close to 1 loses digits in float32")
            continue
        if steps > 1 and close(seen[:-1], right[:-1]):
            raise Wrong(f"the last beta is {seen[-1]:.4f}; it should be capped at {MAX_BETA}: .clamp(max=0.999)")
        for fault, wrong in wrong_cosines(steps):
            if any(same_ratio(seen, other) for other in (wrong, wrong.clamp(max=MAX_BETA), wrong.clamp(0, MAX_BETA))):
                raise Wrong(fault)
        seen = as_float64(answer, (steps,), "the betas")
        refuse_dtype(answer, torch.float64, "the betas", "1 minus a ratio close to 1 loses digits in float32")
        if close(seen, right, 1e-2):
            raise Wrong("nearly right: digits are lost; compute in float64 from the first line on")
        t = int(((seen - right).abs() / right).argmax())
        raise Wrong(f"for T = {steps}, betas[{t}] should be {right[t]:.6g}, got {seen[t]:.6g}")


def same_ratio(seen: Tensor, wrong: Tensor) -> bool:
    return torch.allclose(seen, wrong, rtol=1e-4, atol=1e-8, equal_nan=True)


@exercise(
    "01.2",
    "the cosine schedule",
    check_cosine,
    hints=[
        f"{READ}: torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64).",
        "f(0) cancels in a ratio of two values of the curve, so f will do. curve[1:] / curve[:-1] are the ratios: the "
        "alphas.",
        "The betas are 1 minus those; .clamp(max=0.999) caps them.",
    ],
)
def cosine_betas(num_timesteps):
    u = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
    curve = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)


# -- 01.3 ------------------------------------------------------------------------------------------

NAMES = ("the weight of x_0", "the weight of x_t", "the variance")


def wrong_weights(a_t: Tensor, a_s: Tensor) -> list[tuple[int, str, Tensor]]:
    """What the most natural mistakes give: which of the three, what is wrong with it, its values."""
    alpha, beta = a_t / a_s, 1 - a_t / a_s
    root_s, root = a_s.sqrt(), alpha.sqrt()
    variance = beta * (1 - a_s) / (1 - a_t)
    undivided = "this is its factor in R; the mean is R / P"
    from_s = "divide by 1 - alpha-bar at t, not at s"
    return [
        (0, undivided, root_s / (1 - a_s)),
        (0, "take the root of alpha-bar at s", a_s * beta / (1 - a_t)),
        (0, "the image's factor is the root of alpha-bar at s, not at t", a_t.sqrt() * beta / (1 - a_t)),
        (0, from_s, root_s * beta / (1 - a_s)),
        (0, "beta itself belongs here, not its root", root_s * beta.sqrt() / (1 - a_t)),
        (0, "beta_t is 1 - a_bar_t / a_bar_s, what this step adds; 1 - a_bar_t is what all have added", root_s),
        (0, "beta_t is 1 minus the ratio a_bar_t / a_bar_s, not their difference", root_s * (a_s - a_t) / (1 - a_t)),
        (0, "beta_t is 1 minus this step's alpha, not that alpha", root_s * alpha / (1 - a_t)),
        (1, undivided, root / beta),
        (1, "take the root of alpha", alpha * (1 - a_s) / (1 - a_t)),
        (1, "alpha_t is this step's own, a_bar_t / a_bar_s; here stands alpha-bar", a_t.sqrt() * (1 - a_s) / (1 - a_t)),
        (1, "the root of alpha is missing", (1 - a_s) / (1 - a_t)),
        (1, "the fraction is upside down", root * (1 - a_t) / (1 - a_s)),
        (1, "the factor 1 - alpha-bar at s is missing", root / (1 - a_t)),
        (1, "the two weights do not add up to 1: work it out from R / P", 1 - root_s * beta / (1 - a_t)),
        (2, "this is beta_t, the variance of the step forward; knowing x_0 makes it smaller", beta),
        (2, "this is P; the variance is 1 / P", 1 / variance),
        (2, "this is the standard deviation; square it", variance.sqrt()),
        (2, "the fraction is upside down", beta * (1 - a_t) / (1 - a_s)),
        (2, "the factor beta_t is missing", (1 - a_s) / (1 - a_t)),
        (2, "this is the variance of x_s when only x_0 is known; x_t tells more", 1 - a_s),
        (2, "the factor 1 - alpha-bar at s is missing", beta / (1 - a_t)),
        (2, "this is the square of the variance", variance**2),
    ]


def check_posterior(posterior_weights: Callable) -> None:
    a_t = torch.cumprod(1 - torch.linspace(0.005, 0.5, 20, dtype=torch.float64), dim=0)
    a_s = shifted(a_t)
    given = [a_t.clone(), a_s.clone()]
    answer = posterior_weights(*given)
    refuse_changes(given, [a_t, a_s], "a_bar_t and a_bar_s")
    try:
        answer = list(answer)
    except TypeError as error:
        raise Wrong(f"return three tensors: {', '.join(NAMES)}") from error
    if len(answer) != 3:
        raise Wrong(f"return three tensors ({', '.join(NAMES)}), got {len(answer)}")
    seen = [as_float64(one, a_t.shape, name, finite=False) for one, name in zip(answer, NAMES)]
    alpha = a_t / a_s
    x_0_weight, x_t_weight = a_s.sqrt() * (1 - alpha) / (1 - a_t), alpha.sqrt() * (1 - a_s) / (1 - a_t)
    right = [x_0_weight, x_t_weight, (1 - alpha) * (1 - a_s) / (1 - a_t)]
    if close(seen[0][1:], x_t_weight[1:], 1e-4) and close(seen[1][1:], x_0_weight[1:], 1e-4):
        raise Wrong("the two weights are exchanged: that of x_0 comes first")
    for which, fault, wrong in wrong_weights(a_t, a_s):
        if close(seen[which][1:], wrong[1:], 1e-4):
            raise Wrong(f"{NAMES[which]}: {fault}")
    for name, one, value in zip(NAMES, seen, right):
        if not bool(one.isfinite().all()):
            t = int((~one.isfinite()).nonzero()[0, 0])
            raise Wrong(
                f"{name} is {one[t]} at t = {t}, where alpha-bar at s is {a_s[t]:.4g}: nothing may be divided by "
                "1 - a_bar_s, which is 0 at the first step; multiply it out"
            )
        if not close(one, value, 1e-4, 1e-9):
            t = int((one - value).abs().argmax())
            raise Wrong(
                f"{name} at alpha-bar_t = {a_t[t]:.4f}, alpha-bar_s = {a_s[t]:.4f} is {one[t]:.5f}; R / P and 1 / P "
                f"give {value[t]:.5f}"
            )
    for one, name in zip(answer, NAMES):
        refuse_dtype(one, torch.float64, name, "work with the tensors as they are given")


@exercise(
    "01.3",
    "the posterior: its mean and variance",
    check_posterior,
    hints=[
        "Only this step's alpha and beta are not given: alpha_t = a_bar_t / a_bar_s, beta_t = 1 - alpha_t.",
        "P over the common denominator beta_t (1 - a_bar_s) has the numerator alpha_t (1 - a_bar_s) + beta_t = "
        "alpha_t - a_bar_t + beta_t = 1 - a_bar_t. The variance is 1 / P.",
        "Multiply both terms of R by 1 / P = beta_t (1 - a_bar_s) / (1 - a_bar_t): in that of x_t the beta_t cancels, "
        "in that of x_0 the 1 - a_bar_s.",
    ],
)
def posterior_weights(a_bar_t, a_bar_s):
    alpha = a_bar_t / a_bar_s
    beta = 1 - alpha
    x_0_weight = a_bar_s**0.5 * beta / (1 - a_bar_t)
    x_t_weight = alpha**0.5 * (1 - a_bar_s) / (1 - a_bar_t)
    variance = beta * (1 - a_bar_s) / (1 - a_bar_t)
    return x_0_weight, x_t_weight, variance


# -- 01.4 ------------------------------------------------------------------------------------------


def check_respaced(respaced_betas: Callable) -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for keep in [torch.arange(0, 1000, 100), torch.tensor([3, 4, 500, 999]), torch.tensor([999])]:
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)[keep]
        answer = respaced_betas(betas.clone(), keep.clone())
        if isinstance(answer, Tensor) and answer.shape == (len(keep) - 1,):
            raise Wrong("there is one beta too few: the first step, from the clean image, where alpha-bar is 1, counts")
        new = as_float64(answer, (len(keep),), "the betas")
        seen = torch.cumprod(1 - new, dim=0)
        if close(seen, alphas_cumprod, 1e-4):
            continue
        refuse_wrong_spacing(new, betas, keep)
        if not close(seen[:1], alphas_cumprod[:1], 1e-4):
            raise Wrong(
                f"after the first step of the short chain alpha-bar is {seen[0]:.6f}, but the long chain has "
                f"{alphas_cumprod[0]:.6f} at timestep {int(keep[0])}; before the first step it is 1"
            )
        k = int(((seen - alphas_cumprod).abs() / alphas_cumprod).argmax())
        raise Wrong(
            f"for keep = {keep.tolist()}, alpha-bar of your chain at step {k} is {seen[k]:.6f}; "
            f"the long chain has {alphas_cumprod[k]:.6f} at timestep {int(keep[k])}"
        )
    everything = torch.arange(1000)
    if not close(as_float64(respaced_betas(betas, everything), (1000,)), betas, 1e-4):
        raise Wrong("when every timestep is kept, the betas should come back as they were")


def refuse_wrong_spacing(new: Tensor, betas: Tensor, keep: Tensor) -> None:
    """Raises `Wrong` for the most natural mistakes."""
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)[keep]
    sums = betas.cumsum(0)[keep]
    own = torch.diff(sums, prepend=torch.zeros(1, dtype=sums.dtype))
    longer = torch.cumprod(1 - betas, dim=0)[keep - 1]  # at -1 stands the last one
    scaled = new / betas[keep]
    if len(keep) > 1 and scaled[0] != 1 and close(scaled, scaled[:1].expand_as(scaled)):
        raise Wrong(
            "the betas at the kept timesteps are all multiplied by the same factor; that keeps their sum, roughly, but "
            "alpha-bar must stay what it was"
        )
    named = {
        "this divides by alpha-bar at keep - 1, the step before in the long chain; in the short one the step before is "
        "the timestep that was kept before": 1 - alphas_cumprod / longer,
        "the betas at the kept timesteps are returned as they were; but one step of the short chain "
        "has to add the noise of all the steps that it skips": betas[keep],
        "this is alpha-bar at the kept timesteps, the product of all alphas so far; the betas are asked for": (
            alphas_cumprod
        ),
        "this is 1 - alpha-bar, the noise of all steps so far together; a beta is what one step alone adds": 1
        - alphas_cumprod,
        "these are the alphas of the short chain; the betas are 1 minus them": alphas_cumprod / shifted(alphas_cumprod),
        "the betas of the skipped steps are added up; that is right for small betas only: multiply their alphas": own,
    }
    for fault, wrong in named.items():
        if close(new, wrong):
            raise Wrong(fault)


@exercise(
    "01.4",
    "a shorter chain out of a long one",
    check_respaced,
    hints=[
        "Work with alpha-bar, not with the betas. Which values of alpha-bar must the short chain have?",
        "alpha-bar is a running product, so one factor is a ratio of neighbours: alpha_k = alpha-bar_k / "
        "alpha-bar_{k-1}. Before the first step alpha-bar is 1.",
        "kept = torch.cumprod(1 - betas, dim=0)[keep]; shift it by one with a 1 in front; the betas are 1 - ratio.",
    ],
)
def respaced_betas(betas, keep):
    kept = torch.cumprod(1 - betas, dim=0)[keep]
    before = torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    return 1 - kept / before


# -- 01.5 ------------------------------------------------------------------------------------------


def wrong_betas_of(snr: Tensor) -> dict[str, Tensor]:
    """What the most natural mistakes give, by what is wrong with them."""
    a_bar, squared = snr / (1 + snr), snr**2 / (1 + snr**2)
    before = torch.cat([snr[:1], snr[:-1]])
    return {
        "this is alpha-bar, the product of all alphas so far; the betas are asked for": a_bar,
        "this is 1 - alpha-bar, the noise of all steps so far together; beta_t is what step t alone adds": 1 - a_bar,
        "these are the alphas; the betas are 1 minus them": a_bar / shifted(a_bar),
        "these are ratios of the SNR itself; solve SNR = alpha-bar / (1 - alpha-bar) for alpha-bar first": 1
        - snr / before,
        "the SNR is squared; it is already a ratio of squared factors": 1 - squared / shifted(squared),
        "the root of alpha-bar is taken; the SNR is alpha-bar itself over 1 - alpha-bar": 1
        - (a_bar / shifted(a_bar)).sqrt(),
        "1 / (1 + SNR) is 1 - alpha-bar; alpha-bar is SNR / (1 + SNR)": 1 - (1 - a_bar) / shifted(1 - a_bar),
        "SNR = alpha-bar / (1 - alpha-bar) gives alpha-bar = SNR / (1 + SNR), with a plus": 1
        - snr / (1 - snr) / shifted(snr / (1 - snr)),
        "the difference of neighbouring alpha-bars is taken; a beta is 1 minus their ratio": shifted(a_bar) - a_bar,
        "the difference of neighbouring alpha-bars, turned round, is taken; a beta is 1 minus their ratio": a_bar
        - shifted(a_bar),
    }


def check_snr(betas_from_snr: Callable) -> None:
    for high, low, steps in [(3, -3, 50), (4, -5, 1000), (0, 0, 1)]:
        snr = torch.logspace(high, low, steps, dtype=torch.float64)
        answer = betas_from_snr(snr.clone())
        if steps > 1 and isinstance(answer, Tensor) and answer.shape == (steps - 1,):
            raise Wrong("there is one beta too few: before the first step alpha-bar is 1")
        betas = as_float64(answer, (steps,), "the betas")
        for fault, wrong in wrong_betas_of(snr).items() if steps > 1 else ():
            if close(betas, wrong, 1e-4):
                raise Wrong(fault)
        if bool(((betas <= 0) | (betas >= 1)).any()):
            raise Wrong(f"every beta should lie between 0 and 1; yours go from {betas.min():.4g} to {betas.max():.4g}")
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        seen = alphas_cumprod / (1 - alphas_cumprod)
        if not close(seen, snr, 1e-3):
            t = int(((seen - snr).abs() / snr).argmax())
            raise Wrong(f"at t = {t} your betas give an SNR of {seen[t]:.4g} where {snr[t]:.4g} was asked for")


@exercise(
    "01.5",
    "a schedule from its SNR",
    check_snr,
    hints=[
        "Solve SNR = alpha-bar / (1 - alpha-bar) for alpha-bar first.",
        "alpha-bar = SNR / (1 + SNR). Then the betas follow from ratios of neighbours, as in betas_from_alpha_bar.",
    ],
)
def betas_from_snr(snr):
    alphas_cumprod = snr / (1 + snr)
    before = torch.cat([torch.ones(1, dtype=snr.dtype), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


# -- 01.6 ------------------------------------------------------------------------------------------


def _right(x_0: Tensor, alpha_bar: float) -> Tensor:
    return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * torch.randn_like(x_0)


BUGS = {
    "uniform noise (torch.rand)": lambda x, a: a**0.5 * x + (1 - a) ** 0.5 * torch.rand_like(x),
    "noise scaled by 1 - alpha-bar, the variance, instead of its root": lambda x, a: (
        a**0.5 * x + (1 - a) * torch.randn_like(x)
    ),
    "an image that is not shrunk": lambda x, a: x + (1 - a) ** 0.5 * torch.randn_like(x),
    "an image shrunk by alpha-bar instead of its root": lambda x, a: a * x + (1 - a) ** 0.5 * torch.randn_like(x),
    "images moved to [0, 1] first": lambda x, a: _right((x + 1) / 2, a),
    "an image with its sign turned": lambda x, a: _right(-x, a),
}


FLOATS = {"not implemented for": "give forward floats: torch.full((n,), -1.0), not torch.full((n,), -1)"}


def verdict_of(is_forward_process: Callable, forward: Callable, what: str) -> bool:
    try:
        return bool(called(is_forward_process, forward, faults=FLOATS))
    except AssertionError as error:
        raise Wrong(f"on {what} your test raises AssertionError; return False there") from error


def check_test(is_forward_process: Callable) -> None:
    # The answer draws random numbers; the same ones at every check, and the learner's own stream untouched.
    with torch.random.fork_rng(devices=[]):
        for seed in range(5):
            torch.manual_seed(seed)
            if not verdict_of(is_forward_process, _right, "the right forward process"):
                raise Wrong(
                    f"your test refuses the right forward process (at seed {seed}); allow for chance: a few "
                    "standard errors around the expected mean and variance"
                )
        for name, bug in BUGS.items():
            for seed in range(3):
                torch.manual_seed(seed)
                if verdict_of(is_forward_process, bug, f"a broken one ({name})"):
                    raise Wrong(f"your test lets a broken one pass: {name}")


@exercise(
    "01.6",
    "a test that catches the bugs",
    check_test,
    hints=[
        "Give it the same pixel value many times: forward(torch.full((100_000,), value), alpha_bar). "
        "What should mean and variance be?",
        "In the middle of the chain (alpha_bar = 0.5, say) every bug shows; near 0 or 1 some do not. "
        "One pixel value is not enough: an error may vanish at just that value, so try a negative and a "
        "positive one.",
        "The mean of n draws has a standard error of sqrt(variance / n), their variance one of "
        "variance * sqrt(2 / (n - 1)). Allow four or five of them.",
    ],
)
def is_forward_process(forward):
    n = 100_000
    for alpha_bar in [0.1, 0.5, 0.9]:
        for value in [-1.0, 0.5]:  # two pixel values, so that no offset can hide
            x_t = forward(torch.full((n,), value), alpha_bar)
            mean, variance = alpha_bar**0.5 * value, 1 - alpha_bar
            # Five standard errors: a right process is refused once in a million times.
            if abs(x_t.mean() - mean) > 5 * (variance / n) ** 0.5:
                return False
            if abs(x_t.var() - variance) > 5 * variance * (2 / n) ** 0.5:
                return False
    return True
