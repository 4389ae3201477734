"""Exercises of notebook 08, section 6. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from notebooks.exercises import PLAIN_NUMBERS, as_float64, called, close, normal, refuse_changes
from utils.course.exercises import Wrong, exercise

MASK = -1  # as in the notebook

# -- 08.d1: one step of unmasking --------------------------------------------------------------------

NOT_ROWS = {
    "must be 1 or 2 dim": "torch.multinomial takes one row of probabilities for each symbol: flatten (B, N, levels) to "
    "(B * N, levels), and give the draws the shape of x_t",
    "probability tensor contains": "torch.multinomial takes probabilities, not logits: logits.softmax(-1)",
    "invalid multinomial distribution": "torch.multinomial takes probabilities, not logits: logits.softmax(-1)",
}
SHARES = {
    "that is t - s; of the symbols masked at t, the share (t - s) / t was visible at s": lambda t, s: t - s,
    "that is s / t, the share that stays masked": lambda t, s: s / t,
    "that is 1 - s; the symbols of this step are masked at t for certain": lambda t, s: 1 - s,
    "that is all of them; the others wait for later steps": lambda t, s: 1.0,
}


def unmasked(step: Callable, x_t: Tensor, logits: Tensor, t: float, s: float) -> Tensor:
    """The answer's x_s, int64. Raises `Wrong` unless it is one and the visible symbols are as they were."""
    given = [x_t.clone(), logits.clone()]
    x_s = called(step, *given, t, s, torch.Generator().manual_seed(0), faults=NOT_ROWS)
    refuse_changes(given, [x_t, logits], "x_t and logits")
    seen = as_float64(x_s, tuple(x_t.shape), "x_s").long()
    if x_s.is_floating_point():
        raise Wrong(f"x_s should hold whole numbers like x_t, got {x_s.dtype}")
    if not torch.equal(seen[x_t != MASK], x_t[x_t != MASK]):
        raise Wrong("a symbol that is visible in x_t stays as it is; yours draws it anew or masks it")
    if not bool(((seen >= MASK) & (seen < logits.shape[-1])).all()):
        raise Wrong(f"x_s holds something that is neither the mask nor a level: {sorted(set(seen.flatten().tolist()))}")
    return seen


def check_unmask_step(unmask_step: Callable) -> None:
    count, logits = 20_000, torch.tensor([[0.2, 1.5, 2.0], [0.0, 0.0, -math.inf], [3.0, 1.0, 1.0], [-2.0, -1.0, -3.0]])
    x_t, given = torch.full((count, 4), MASK), logits.expand(count, 4, 3)
    x_t[::2, 0] = 2
    masked = x_t == MASK
    for t, s in [(0.8, 0.6), (1.0, 0.25), (0.5, 0.0)]:
        seen, right = unmasked(unmask_step, x_t, given, t, s), (t - s) / t
        shown = (seen != MASK) & masked
        share = float(shown.sum() / masked.sum())
        where = f"from t = {t:g} to s = {s:g}"
        if s == 0 and share < 1:
            raise Wrong(f"{where}: at s = 0 nothing is masked any more; {1 - share:.0%} of the symbols still are")
        if abs(share - right) > 0.02:
            said = f"{where}: {share:.0%} of the masked symbols became visible, expected {right:.0%}"
            found = [fault for fault, wrong in SHARES.items() if abs(share - wrong(t, s)) <= 0.02]
            raise Wrong(f"{said}; {found[0]}" if found else f"{said}, the share (t - s) / t")
        together = float((shown[1::2].all(1) | ~shown[1::2].any(1)).double().mean())
        if s > 0 and together > right**4 + (1 - right) ** 4 + 0.05:
            raise Wrong(f"{where}: all symbols of a row become visible together; each needs a number of its own")
        refuse_draws(seen, shown, logits.softmax(-1), where)


def refuse_draws(seen: Tensor, shown: Tensor, chances: Tensor, where: str) -> None:
    """Raises `Wrong` unless the new symbols of each place have its probabilities."""
    for place, wanted in enumerate(chances):
        drawn = seen[shown[:, place], place]
        shares = torch.bincount(drawn, minlength=3)[:3] / len(drawn)
        if (shares - wanted).abs().max() <= 0.03:
            continue
        said = ", ".join(f"{share:.2f}" for share in shares.tolist())
        meant = ", ".join(f"{share:.2f}" for share in wanted.tolist())
        if shares.max() > 0.999:
            raise Wrong(f"{where}: always the same level is taken; *draw* it, with the probabilities {meant}")
        raise Wrong(f"{where}: the levels of one place came with the shares {said}; softmax(logits) is {meant}")


@exercise(
    "08.d1",
    "one step of unmasking",
    check_unmask_step,
    hints=[
        "Two draws for every symbol: whether it becomes visible, and which level it then has.",
        "torch.rand(x_t.shape, generator=generator) < (t - s) / t says which become visible.",
        "torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(x_t.shape) draws the levels; "
        "torch.where takes them where x_t == MASK and the symbol becomes visible, and x_t elsewhere.",
    ],
)
def unmask_step(x_t, logits, t, s, generator):
    chances = logits.softmax(-1).flatten(0, 1)
    drawn = torch.multinomial(chances, 1, generator=generator).view(x_t.shape)
    shown = torch.rand(x_t.shape, generator=generator) < (t - s) / t
    return torch.where((x_t == MASK) & shown, drawn, x_t)


# -- 08.d2: the gradient of log p(y | x_t) for one normal ----------------------------------------------

A_IS = {
    "mat1 and mat2": "the shapes of a matrix product do not fit: A is (P, D), x (B, D), so A x of a batch is x @ A.T",
    "size of tensor": "shapes do not fit: A x of a batch is x @ A.T, (B, P), and its covariance is (P, P)",
    **PLAIN_NUMBERS,
}


def joint_gradient(x_t: Tensor, y: Tensor, a: float, mean: Tensor, variance: float, A: Tensor, noise: float) -> Tensor:
    """By another way: x_t and y are jointly normal, so y given x_t is a regression; autograd does the rest."""
    total = a * variance + 1 - a
    x = x_t.clone().requires_grad_()
    slope = math.sqrt(a) * variance / total * A  # Cov(y, x_t) / Var(x_t)
    expected = mean @ A.T + (x - math.sqrt(a) * mean) @ slope.T
    own = variance * A @ A.T + noise * torch.eye(len(A)).double()
    covariance = own - total * slope @ slope.T
    log_p = MultivariateNormal(expected, covariance).log_prob(y)
    return torch.autograd.grad(log_p.sum(), x)[0]


def wrong_gradients(x_t, y, a, mean, variance, A, noise) -> dict[str, Tensor]:
    signal, total, eye = math.sqrt(a), a * variance + 1 - a, torch.eye(len(A)).double()
    gain, left = signal * variance / total, variance * (1 - a) / total
    x_0 = mean + gain * (x_t - signal * mean)

    def gradient(gap, spread, noise_variance=noise, factor=gain):
        return factor * torch.linalg.solve(spread * A @ A.T + noise_variance * eye, gap.T).T @ A

    gap = y - x_0 @ A.T
    return {
        "the sign is turned round": gradient(-gap, left),
        "x_0 given x_t still varies, and y with it: add its variance times A A^T (yours is DPS)": gradient(gap, 0.0),
        "1 - alpha-bar is PiGDM's guess; the variance of x_0 given x_t is known here": gradient(gap, 1 - a),
        "the variance of x_0 *given x_t* is smaller than that of the data": gradient(gap, variance),
        "noise_variance is a variance already; do not square it": gradient(gap, left, noise**2),
        "noise_variance is a variance; do not take its root": gradient(gap, left, math.sqrt(noise)),
        "the noise of the measurement is left out": gradient(gap, left, 0.0) if len(A) < A.shape[1] else 0 * x_t,
        "the gradient is with respect to x_t, not x_0: the chain rule's factor d x_0 / d x_t is missing": gradient(
            gap, left, factor=1.0
        ),
        "y is compared with A x_t; compare it with A times the estimate of x_0": gradient(y - x_t @ A.T, left),
        "y is compared with A x_t / sqrt(alpha-bar), as if the noise in x_t were 0": gradient(
            y - x_t @ A.T / signal, left
        ),
        "the residual is not divided by the covariance of y": gain * gap @ A,
    }


def check_normal_gradient(normal_gradient: Callable) -> None:
    for a, variance, noise, shape in [(0.6, 0.5, 0.1, (1, 2)), (0.2, 2.0, 0.3, (2, 3)), (0.95, 1.5, 0.05, (1, 1))]:
        A, (P, D) = normal(*shape, seed=3), shape
        given = [normal(5, D), normal(5, P, seed=1), normal(D, seed=2), A]
        x_t, y, mean, A = (tensor.clone() for tensor in given)
        answer = called(normal_gradient, x_t, y, a, mean, variance, A, noise, faults=A_IS)
        refuse_changes([x_t, y, mean, A], given, "x_t, y, mean and A")
        seen = as_float64(answer, (5, D), "the gradient")
        arguments = (given[0], given[1], a, given[2], variance, given[3], noise)
        right = joint_gradient(*arguments)
        if close(seen, right, 1e-5, 1e-8):
            continue
        where = f"alpha-bar {a}, variance {variance}, noise variance {noise}"
        for fault, found in wrong_gradients(*arguments).items():
            if close(seen, found, 1e-5, 1e-8):
                raise Wrong(f"{where}: {fault}")
        one = float(right.flatten()[0]), float(seen.flatten()[0])
        raise Wrong(f"{where}: the first value should be {one[0]:.4f}, got {one[1]:.4f}")


@exercise(
    "08.d2",
    "the gradient of log p(y | x_t)",
    check_normal_gradient,
    hints=[
        "x_0 given x_t is normal. Its mean is mean + gain * (x_t - sqrt(a) mean) with "
        "gain = sqrt(a) variance / (a variance + 1 - a), where a is alpha-bar.",
        "Its variance is variance (1 - a) / (a variance + 1 - a), call it left. Given x_t, y is normal with mean A x_0 "
        "and covariance C = left A A^T + noise_variance I, which does not depend on x_t.",
        "The gradient is gain A^T C^-1 (y - A x_0). For a batch: "
        "gain * torch.linalg.solve(C, (y - x_0 @ A.T).T).T @ A.",
    ],
)
def normal_gradient(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    signal = math.sqrt(a_bar_t)
    total = a_bar_t * variance + 1 - a_bar_t
    gain = signal * variance / total
    x_0 = mean + gain * (x_t - signal * mean)
    left = variance * (1 - a_bar_t) / total
    covariance = left * A @ A.T + noise_variance * torch.eye(len(A)).to(A)
    return gain * torch.linalg.solve(covariance, (y - x_0 @ A.T).T).T @ A


# -- 08.d3: one step of RePaint ------------------------------------------------------------------------

MIX = torch.tensor([[0.5, 0.3], [0.3, 0.5]], dtype=torch.float64)  # the estimate of x_0 is MIX x_t
IS_KNOWN = torch.tensor([True, False])


def repaint_law(x_t, a_t, a_s, known, repeats, **wrong) -> tuple[Tensor, Tensor]:
    """Mean (2,) and covariance (2, 2) of x_s; `wrong` switches the most natural mistakes on."""
    alpha = a_t / a_s
    reverse = math.sqrt(a_s) * (1 - alpha) / (1 - a_t) * MIX
    reverse = reverse + math.sqrt(alpha) * (1 - a_s) / (1 - a_t) * torch.eye(2).double()
    variance = (1 - alpha) * (1 - a_s) / (1 - a_t)
    mean, covariance = x_t, torch.zeros(2, 2).double()
    place = ~IS_KNOWN if wrong.get("other_half") else IS_KNOWN
    put, put_variance = (1.0, 0.0) if wrong.get("clean") else (math.sqrt(a_s), 1 - a_s)
    up, up_variance = wrong.get("up", (math.sqrt(alpha), 1 - alpha))
    for repeat in range(repeats):
        mean, covariance = reverse @ mean, reverse @ covariance @ reverse.T + variance * torch.eye(2).double()
        if not wrong.get("never") and (repeat == repeats - 1 or not wrong.get("at_the_end")):
            mean = torch.where(place, put * known, mean)
            covariance = covariance * torch.outer(~place, ~place) + put_variance * torch.diag(place.double())
        if repeat < repeats - 1 or wrong.get("up_at_the_end"):
            mean, covariance = up * mean, up**2 * covariance + up_variance * torch.eye(2).double()
    return mean, covariance


REPAINT_FAULTS = {
    "the known pixels are not put back": dict(never=True),
    "the pixels *outside* the mask are replaced; the mask is true where they are known": dict(other_half=True),
    "the known pixels are put back without noise; x_s holds them at the noise level of s": dict(clean=True),
    "the known pixels are put back in the last repeat only": dict(at_the_end=True),
    "noise is added after the last repeat too; the step ends at s": dict(up_at_the_end=True),
    "going back to t, x_s is not shrunk: its factor is sqrt(a_bar_t / a_bar_s)": "no shrinking",
    "going back to t, x_s is shrunk by sqrt(a_bar_t), as if it were clean": "from clean",
    "going back to t is missing: every repeat starts where the one before ended, at s": "no noise",
}


def faults_at(a_t: float, a_s: float) -> dict[str, dict]:
    ups = {"no shrinking": (1.0, 1 - a_t / a_s), "from clean": (math.sqrt(a_t), 1 - a_t), "no noise": (1.0, 0.0)}
    return {fault: dict(up=ups[w]) if isinstance(w, str) else w for fault, w in REPAINT_FAULTS.items()}


def check_repaint_step(repaint_step: Callable) -> None:
    start, known, count = torch.tensor([0.7, -1.2]).double(), torch.tensor([1.5, 9.0]).double(), 40_000
    for a_t, a_s, repeats in [(0.3, 0.5, 1), (0.3, 0.6, 2), (0.1, 0.4, 4), (0.9, 1.0, 1)]:
        generator, asked = torch.Generator().manual_seed(repeats), []

        def noise(generator=generator):
            return torch.randn(count, 2, generator=generator, dtype=torch.float64)

        def guess(x, asked=asked):
            asked.append(len(x))
            return x @ MIX

        given = [start.expand(count, 2).clone(), known.expand(count, 2).clone()]
        mask = IS_KNOWN.expand(count, 2)
        answer = called(repaint_step, given[0], guess, a_t, a_s, given[1], mask, repeats, noise, faults=PLAIN_NUMBERS)
        refuse_changes(given, [start.expand(count, 2), known.expand(count, 2)], "x_t and known")
        seen = as_float64(answer, (count, 2), "x_s")
        if len(asked) != repeats:
            raise Wrong(f"repeats = {repeats}, but the network was asked {len(asked)} times")
        compare_laws(seen, (start, a_t, a_s, known, repeats))


def compare_laws(seen: Tensor, arguments: tuple) -> None:
    """Raises `Wrong` unless mean and covariance of x_s are those of the right step, up to chance."""
    where = "alpha-bar {1} to {2}, {4} repeats".format(*arguments)
    if same_law(seen, *repaint_law(*arguments)):
        return
    for fault, wrong in faults_at(*arguments[1:3]).items():
        if same_law(seen, *repaint_law(*arguments, **wrong)):
            raise Wrong(f"{where}: {fault}")
    mean, covariance = repaint_law(*arguments)
    expected = [f"{m:.2f} ± {v:.2f}" for m, v in zip(mean.tolist(), covariance.diagonal().sqrt().tolist())]
    got = [f"{m:.2f} ± {v:.2f}" for m, v in zip(seen.mean(0).tolist(), seen.std(0).tolist())]
    raise Wrong(
        f"{where}: the known and the unknown pixel should be {' and '.join(expected)} (mean ± standard deviation), "
        f"got {' and '.join(got)}"
    )


def same_law(seen: Tensor, mean: Tensor, covariance: Tensor) -> bool:
    return close(seen.mean(0), mean, atol=0.03) and close(seen.T.cov(), covariance, atol=0.03)


@exercise(
    "08.d3",
    "one step of RePaint",
    check_repaint_step,
    hints=[
        "A loop over `repeats`: a reverse step, the known pixels put back at noise level s, then noise up to t again.",
        "Put back: torch.where(mask, sqrt(a_bar_s) known + sqrt(1 - a_bar_s) noise(), x_s).",
        "Up again, but not after the last repeat: with alpha = a_bar_t / a_bar_s, x_t = sqrt(alpha) x_s + "
        "sqrt(1 - alpha) noise().",
    ],
)
def repaint_step(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    for repeat in range(repeats):
        x_s = ddpm_step(x_t, guess(x_t), a_bar_t, a_bar_s, noise())
        noisy = math.sqrt(a_bar_s) * known + math.sqrt(1 - a_bar_s) * noise()
        x_s = torch.where(mask, noisy, x_s)
        if repeat < repeats - 1:
            alpha = a_bar_t / a_bar_s
            x_t = math.sqrt(alpha) * x_s + math.sqrt(1 - alpha) * noise()
    return x_s


def ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z):
    """That of notebook 05, which the notebook hands to the learner; here for the answer above."""
    alpha = a_bar_t / a_bar_s
    mean = math.sqrt(a_bar_s) * (1 - alpha) * x_0 + math.sqrt(alpha) * (1 - a_bar_s) * x_t
    return (mean + math.sqrt((1 - alpha) * (1 - a_bar_s) * (1 - a_bar_t)) * z) / (1 - a_bar_t)
