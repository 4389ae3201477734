"""Exercises of notebook 01, noise schedule. The checks use closed forms only, nothing of utils.diffusion."""

from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import as_float64, close
from utils.course.exercises import Wrong, exercise

# -- 01.1 ------------------------------------------------------------------------------------------


def check_respaced(respaced_betas: Callable) -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for keep in [torch.arange(0, 1000, 100), torch.tensor([3, 4, 500, 999]), torch.tensor([999])]:
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)[keep]
        new = as_float64(respaced_betas(betas.clone(), keep.clone()), (len(keep),))
        seen = torch.cumprod(1 - new, dim=0)
        if close(new, betas[keep]):
            raise Wrong(
                "the betas at the kept timesteps are returned as they were; but one step of the short chain "
                "has to add the noise of all the steps that it skips"
            )
        if not close(seen[:1], alphas_cumprod[:1], 1e-4):
            raise Wrong(
                f"after the first step of the short chain alpha-bar is {seen[0]:.6f}, but the long chain has "
                f"{alphas_cumprod[0]:.6f} at timestep {int(keep[0])}; before the first step it is 1"
            )
        if not close(seen, alphas_cumprod, 1e-4):
            k = int(((seen - alphas_cumprod).abs() / alphas_cumprod).argmax())
            raise Wrong(
                f"for keep = {keep.tolist()}, alpha-bar of your chain at step {k} is {seen[k]:.6f}; "
                f"the long chain has {alphas_cumprod[k]:.6f} at timestep {int(keep[k])}"
            )
    everything = torch.arange(1000)
    if not close(as_float64(respaced_betas(betas, everything), (1000,)), betas, 1e-4):
        raise Wrong("when every timestep is kept, the betas should come back as they were")


@exercise(
    "01.1",
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


# -- 01.2 ------------------------------------------------------------------------------------------


def check_snr(betas_from_snr: Callable) -> None:
    for high, low, steps in [(3, -3, 50), (4, -5, 1000), (0, 0, 1)]:
        snr = torch.logspace(high, low, steps, dtype=torch.float64)
        betas = as_float64(betas_from_snr(snr.clone()), (steps,))
        if steps > 1 and close(betas, snr / (1 + snr), 1e-4):
            raise Wrong("this is alpha-bar, the product of all alphas so far; the betas are asked for")
        if steps > 1 and close(betas, 1 / (1 + snr), 1e-4):
            raise Wrong(
                "this is 1 - alpha-bar, the noise of all steps so far together; beta_t is what step t alone adds"
            )
        if bool(((betas <= 0) | (betas >= 1)).any()):
            raise Wrong(f"every beta should lie between 0 and 1; yours go from {betas.min():.4g} to {betas.max():.4g}")
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        seen = alphas_cumprod / (1 - alphas_cumprod)
        if not close(seen, snr, 1e-3):
            t = int(((seen - snr).abs() / snr).argmax())
            raise Wrong(f"at t = {t} your betas give an SNR of {seen[t]:.4g} where {snr[t]:.4g} was asked for")


@exercise(
    "01.2",
    "a schedule from its SNR",
    check_snr,
    hints=[
        "Solve SNR = alpha-bar / (1 - alpha-bar) for alpha-bar first.",
        "alpha-bar = SNR / (1 + SNR). Then the betas follow from ratios of neighbours, as in betas_from_curve.",
    ],
)
def betas_from_snr(snr):
    alphas_cumprod = snr / (1 + snr)
    before = torch.cat([torch.ones(1, dtype=snr.dtype), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


# -- 01.3 ------------------------------------------------------------------------------------------


def check_posterior(posterior_mean_from_noise: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    betas = torch.linspace(0.005, 0.5, 20, dtype=torch.float64)
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    x_0, noise = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64)
    for t in [1, 7, 19, 0]:
        beta, alpha_bar = betas[t], alphas_cumprod[t]
        before = alphas_cumprod[t - 1] if t else torch.ones_like(beta)
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
        answer = posterior_mean_from_noise(x_t.clone(), noise.clone(), beta.clone(), alpha_bar.clone())
        seen = as_float64(answer, tuple(x_t.shape))
        right = (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)
        if torch.allclose(seen, right, rtol=1e-4, atol=1e-6):
            continue
        if torch.allclose(seen, x_0, rtol=1e-4, atol=1e-6):
            raise Wrong("this is the estimate of x_0; the posterior mean lies one step before x_t, not at the image")
        weights = torch.linalg.lstsq(torch.stack([x_t, noise]).flatten(1).T, seen.flatten()[:, None])
        x_t_weight, noise_weight = weights.solution.flatten().tolist()
        sigma = (1 - alpha_bar).sqrt()
        raise Wrong(
            f"at beta = {beta:.4f}, alpha-bar = {alpha_bar:.4f} your x_t has weight {x_t_weight:.4f} and "
            f"your noise {noise_weight:.4f}; putting x_0 = (x_t - {sigma:.4f} noise) / {alpha_bar.sqrt():.4f} "
            f"into the posterior mean of section 6 gives {1 / (1 - beta).sqrt():.4f} and "
            f"{-beta / sigma / (1 - beta).sqrt():.4f}"
        )


@exercise(
    "01.3",
    "the posterior mean in terms of the noise",
    check_posterior,
    hints=[
        "You need alpha_t and alpha-bar_{t-1}. Both follow from the two numbers you are given: "
        "alpha = 1 - beta, alpha-bar_{t-1} = alpha-bar_t / alpha.",
        "Nothing forces you to simplify: computing x_0 first and then the posterior mean is right as well.",
        "Simplified, the weight of x_t is 1 / sqrt(alpha), and that of the noise is "
        "-beta / (sqrt(alpha) sqrt(1 - alpha-bar)).",
    ],
)
def posterior_mean_from_noise(x_t, noise, beta, alpha_bar):
    return (x_t - beta / (1 - alpha_bar).sqrt() * noise) / (1 - beta).sqrt()


# -- 01.4 ------------------------------------------------------------------------------------------


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


def check_test(is_forward_process: Callable) -> None:
    # The answer draws random numbers; the same ones at every check, and the learner's own stream untouched.
    with torch.random.fork_rng(devices=[]):
        for seed in range(5):
            torch.manual_seed(seed)
            if not is_forward_process(_right):
                raise Wrong(
                    f"your test refuses the right forward process (at seed {seed}); allow for chance: a few "
                    "standard errors around the expected mean and variance"
                )
        for name, bug in BUGS.items():
            for seed in range(3):
                torch.manual_seed(seed)
                if is_forward_process(bug):
                    raise Wrong(f"your test lets a broken one pass: {name}")


@exercise(
    "01.4",
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
