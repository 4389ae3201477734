"""Exercises of notebook 02, positional encoding. The checks use closed forms only."""

import torch

from notebooks.exercises import as_float64, close
from utils.course.exercises import Wrong, exercise


def _frequencies(half: int, steps: int, max_period: float = 10_000.0) -> torch.Tensor:
    """max_period^(-i / steps) for i = 0 .. half-1, in float64."""
    return max_period ** (-torch.arange(half, dtype=torch.float64) / steps)


def _sines_then_cosines(t: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    angles = t.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


# -- 02.1 --------------------------------------------------------------------------------------------------


def check_transformer_encoding(function) -> None:
    for dim in (8, 6):
        position = torch.tensor([0, 1, 7, 40, 950])
        angles = position.double()[:, None] * _frequencies(dim // 2, dim // 2)
        expected = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        seen = as_float64(function(position, dim), (5, dim), f"the encoding of 5 positions with dim={dim}")
        if close(seen, expected, atol=1e-3):
            continue
        if close(seen, torch.cat([angles.sin(), angles.cos()], dim=1), atol=1e-3):
            raise Wrong("the frequencies are right, the order is not: sine and cosine should alternate")
        diffusion = _sines_then_cosines(position, _frequencies(dim // 2, dim // 2 - 1))
        if close(seen.sort(dim=1).values, diffusion.sort(dim=1).values, atol=1e-3):
            raise Wrong("these are the frequencies of diffusion models: the last one is not 1/10000 here")
        if close(seen.sort(dim=1).values, expected.sort(dim=1).values, atol=1e-3):
            raise Wrong("the right values in the wrong columns: even columns are sines, odd ones cosines")
        if not close(seen[0], expected[0], atol=1e-3):
            first = [round(v, 3) for v in seen[0].tolist()]
            raise Wrong(f"position 0 should give 0, 1, 0, 1, ...; got {first}")
        column = int(((seen - expected).abs() > 1e-3).any(0).nonzero()[0])
        raise Wrong(f"column {column} (the first is 0) is wrong for dim={dim}; look at its frequency")


@exercise(
    "02.1",
    "the Transformer's own arrangement",
    check_transformer_encoding,
    hints=[
        "PE(pos, 2i) = sin(pos / 10000^(2i/dim)), PE(pos, 2i+1) = cos of the same angle.",
        "The exponents 2i/dim are torch.arange(0, dim, 2) / dim: the last one stays below 1.",
        "To let them alternate: torch.stack([sin, cos], dim=2) has shape (B, dim/2, 2); flatten it.",
    ],
)
def transformer_encoding(position, dim):
    frequencies = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = position.float()[:, None] * frequencies
    # (B, dim/2, 2) and then flat: sine and cosine of the same frequency stand side by side.
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


# -- 02.2 --------------------------------------------------------------------------------------------------


def check_advance(function) -> None:
    for dim, k, max_period in ((32, 5, 10_000.0), (16, -40, 10_000.0), (8, 3, 500.0)):
        frequencies = _frequencies(dim // 2, dim // 2 - 1, max_period)
        t = torch.tensor([40, 41, 300, 900])
        before = _sines_then_cosines(t, frequencies).float()
        seen = as_float64(function(before.clone(), k, max_period), (4, dim), f"the result for dim={dim}")
        if close(seen, _sines_then_cosines(t + k, frequencies), atol=1e-3):
            continue
        if close(seen, _sines_then_cosines(t - k, frequencies), atol=1e-3):
            raise Wrong(f"you turned the hands backwards: for k={k} this is the encoding of t - k")
        norm = seen[:, 0].square() + seen[:, dim // 2].square()
        if not close(norm, torch.ones(4), atol=1e-3):
            raise Wrong("sin^2 + cos^2 of a pair is no longer 1: a step in time only turns each hand")
        right = _sines_then_cosines(t + k, frequencies)
        row, column = divmod(int((seen - right).abs().argmax()), dim)
        raise Wrong(
            f"not the encoding of t + k for dim={dim}, k={k}, max_period={max_period:g}: at t={t[row]} column "
            f"{column} (the first is 0) should be {right[row, column]:.3f}, got {seen[row, column]:.3f}"
        )


@exercise(
    "02.2",
    "a step in time is a rotation",
    check_advance,
    hints=[
        "sin(a + b) = sin a cos b + cos a sin b, and cos(a + b) = cos a cos b - sin a sin b.",
        "Here a = frequency * t is unknown, but its sine and cosine are the encoding; b = frequency * k.",
        "encoding.chunk(2, dim=1) gives sines and cosines; the frequencies are "
        "max_period ** (-torch.arange(half) / (half - 1)).",
    ],
)
def advance(encoding, k, max_period=10_000.0):
    sines, cosines = encoding.chunk(2, dim=1)
    half = sines.shape[1]
    turn = k * max_period ** (-torch.arange(half) / (half - 1))
    new_sines = sines * turn.cos() + cosines * turn.sin()
    new_cosines = cosines * turn.cos() - sines * turn.sin()
    return torch.cat([new_sines, new_cosines], dim=1)


# -- 02.3 --------------------------------------------------------------------------------------------------


def check_two_points(function) -> None:
    x_t = torch.tensor([-3.0, -0.5, -0.1, 0.0, 0.2, 1.0, 4.0])
    for signal, sigma in ((0.8, 0.6), (0.6, 0.8), (0.28, 0.96)):
        expected = torch.tanh(signal * x_t.double() / sigma**2)
        seen = as_float64(function(x_t.clone(), signal, sigma), (7,), "the result for 7 points")
        if close(seen, expected, atol=1e-4):
            continue
        if not close(seen[3], torch.zeros(()), atol=1e-3):
            raise Wrong(f"at x_t = 0 both answers are equally likely, so the mean is 0; got {seen[3]:.3f}")
        if bool((seen.abs() > 1 + 1e-4).any()):
            raise Wrong("a mean of -1 and +1 cannot lie outside [-1, 1]")
        if close(seen, x_t.sign().double(), atol=1e-3):
            raise Wrong("this is the likelier of the two points; the least squared error needs their mean")
        if close(seen, torch.tanh(signal * x_t.double() / (2 * sigma**2)), atol=1e-4):
            raise Wrong("the slope at 0 is half of what it should be: compare p(x_t | +1) with p(x_t | -1)")
        raise Wrong(
            f"not the posterior mean at signal={signal}, sigma={sigma}; x_t=0.2 should give "
            f"{expected[4]:.3f}, got {seen[4]:.3f}"
        )
    x_t = torch.tensor([-1.0, -0.2, 0.0, 0.2, 1.0])  # also far from both points, where both densities vanish
    for signal, sigma in ((0.9999, 0.0141), (1.0, 0.02), (1.0, 0.002)):
        seen = as_float64(function(x_t.clone(), signal, sigma), (5,), "the result for 5 points", finite=False)
        if not close(seen, x_t.sign().double(), atol=1e-3):
            raise Wrong(
                f"with almost no noise (signal={signal}, sigma={sigma}), x_t = {_listed(x_t)} should give "
                f"{_listed(x_t.sign())}; got {_listed(seen)} (does an exponential leave the range of floats?)"
            )


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{value:g}" for value in values.tolist())


@exercise(
    "02.3",
    "the best denoiser of two points",
    check_two_points,
    hints=[
        "The mean is p(+1 | x_t) - p(-1 | x_t); by Bayes each is proportional to a Gaussian density.",
        "In exp(-(x - a)^2 / 2s^2) and exp(-(x + a)^2 / 2s^2) the factor exp(-(x^2 + a^2) / 2s^2) "
        "is common and cancels.",
        "(e^u - e^-u) / (e^u + e^-u) = tanh(u).",
    ],
)
def denoise_two_points(x_t, signal, sigma):
    return torch.tanh(signal * x_t / sigma**2)


# -- 02.4 --------------------------------------------------------------------------------------------------


def check_without_t(function) -> None:
    signals, sigmas = torch.tensor([0.96, 0.6, 0.28]), torch.tensor([0.28, 0.8, 0.96])
    x_t = torch.tensor([-2.0, -0.9, -0.3, 0.0, 0.5, 1.0, 2.5])
    x, a, s = x_t.double()[:, None], signals.double(), sigmas.double()
    known_t = torch.tanh(a * x / s**2)
    kernel = torch.exp(-((x - a) ** 2) / (2 * s**2)) + torch.exp(-((x + a) ** 2) / (2 * s**2))
    answer = function(x_t.clone(), signals.clone(), sigmas.clone())
    seen = as_float64(answer, (7,), "the result for 7 points")
    expected = ((kernel / s) * known_t).sum(1) / (kernel / s).sum(1)
    if close(seen, expected, atol=1e-3):
        return
    if close(seen, known_t.mean(1), atol=1e-3):
        raise Wrong("a plain mean over t: but x_t itself says which t is likely, so weigh by p(x_t | t)")
    if close(seen, (kernel * known_t).sum(1) / kernel.sum(1), atol=1e-3):
        raise Wrong("the weights lack the density's factor 1/sigma: a narrow Gaussian is also a tall one")
    if bool((seen.abs() > 1 + 1e-4).any()):
        raise Wrong("a mean of -1 and +1 cannot lie outside [-1, 1]: do the weights sum to one?")
    k = int((seen - expected).abs().argmax())
    raise Wrong(f"not the mean over p(t | x_t): x_t = {x_t[k]:g} should give {expected[k]:.3f}, got {seen[k]:.3f}")


@exercise(
    "02.4",
    "the best denoiser that is not told t",
    check_without_t,
    hints=[
        "E[x_0 | x_t] = sum over t of p(t | x_t) E[x_0 | x_t, t]; the second factor is that of 02.3.",
        "p(t | x_t) is proportional to p(x_t | t), the mean of two Gaussians. Keep their 1/sigma.",
        "In logarithms: torch.logaddexp of the two, then .softmax over t.",
    ],
)
def denoise_without_t(x_t, signals, sigmas):
    x = x_t[:, None]  # (B, 1) against (T,)
    known_t = torch.tanh(signals * x / sigmas**2)
    log_plus = -((x - signals) ** 2) / (2 * sigmas**2) - sigmas.log()
    log_minus = -((x + signals) ** 2) / (2 * sigmas**2) - sigmas.log()
    weights = torch.logaddexp(log_plus, log_minus).softmax(dim=1)  # p(t | x_t)
    return (weights * known_t).sum(dim=1)
