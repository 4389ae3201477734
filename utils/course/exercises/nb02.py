"""Exercises of notebook 02, positional encoding. The checks use closed forms only."""

import torch

from utils.course.exercises import Exercise, Wrong


def _frequencies(half: int, steps: int, max_period: float = 10_000.0) -> torch.Tensor:
    """max_period^(-i / steps) for i = 0 .. half-1, in float64."""
    return max_period ** (-torch.arange(half, dtype=torch.float64) / steps)


def _sines_then_cosines(t: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    angles = t.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _need_shape(seen: object, shape: tuple[int, ...], what: str) -> torch.Tensor:
    if not isinstance(seen, torch.Tensor):
        raise Wrong(f"{what} should be a tensor, got {type(seen).__name__}")
    if tuple(seen.shape) != shape:
        raise Wrong(f"{what} should have shape {shape}, got {tuple(seen.shape)}")
    return seen.double()


def _close(seen: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-3) -> bool:
    return bool(seen.isfinite().all()) and bool((seen - expected).abs().max() < tolerance)


# -- 02.1 --------------------------------------------------------------------------------------------------

STUB_1 = '''\
def transformer_encoding(position, dim):
    """position (B,) -> (B, dim), as in section 3.5 of "Attention Is All You Need"."""
    raise NotImplementedError
'''

SOLUTION_1 = '''\
def transformer_encoding(position, dim):
    """position (B,) -> (B, dim), as in section 3.5 of "Attention Is All You Need"."""
    frequencies = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    angles = position.float()[:, None] * frequencies
    # (B, dim/2, 2) and then flat: sine and cosine of the same frequency stand side by side.
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
'''


def check_transformer_encoding(function) -> None:
    for dim in (8, 6):
        position = torch.tensor([0, 1, 7, 40, 950])
        angles = position.double()[:, None] * _frequencies(dim // 2, dim // 2)
        expected = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        seen = _need_shape(function(position, dim), (5, dim), f"the encoding of 5 positions with dim={dim}")
        if _close(seen, expected):
            continue
        if _close(seen, torch.cat([angles.sin(), angles.cos()], dim=1)):
            raise Wrong("the frequencies are right, the order is not: sine and cosine should alternate")
        diffusion = _sines_then_cosines(position, _frequencies(dim // 2, dim // 2 - 1))
        if _close(seen.sort(dim=1).values, diffusion.sort(dim=1).values):
            raise Wrong("these are the frequencies of diffusion models: the last one is not 1/10000 here")
        if _close(seen.sort(dim=1).values, expected.sort(dim=1).values):
            raise Wrong("the right values in the wrong columns: even columns are sines, odd ones cosines")
        if not _close(seen[0], expected[0]):
            first = [round(v, 3) for v in seen[0].tolist()]
            raise Wrong(f"position 0 should give 0, 1, 0, 1, ...; got {first}")
        column = int(((seen - expected).abs() > 1e-3).any(0).nonzero()[0])
        raise Wrong(f"column {column} (the first is 0) is wrong for dim={dim}; look at its frequency")


# -- 02.2 --------------------------------------------------------------------------------------------------

STUB_2 = '''\
def advance(encoding, k, max_period=10_000.0):
    """The encoding of t + k, from the encoding of t (B, dim) and k alone."""
    raise NotImplementedError
'''

SOLUTION_2 = '''\
def advance(encoding, k, max_period=10_000.0):
    """The encoding of t + k, from the encoding of t (B, dim) and k alone."""
    sines, cosines = encoding.chunk(2, dim=1)
    half = sines.shape[1]
    turn = k * max_period ** (-torch.arange(half) / (half - 1))
    new_sines = sines * turn.cos() + cosines * turn.sin()
    new_cosines = cosines * turn.cos() - sines * turn.sin()
    return torch.cat([new_sines, new_cosines], dim=1)
'''


def check_advance(function) -> None:
    for dim, k, max_period in ((32, 5, 10_000.0), (16, -40, 10_000.0), (8, 3, 500.0)):
        frequencies = _frequencies(dim // 2, dim // 2 - 1, max_period)
        t = torch.tensor([40, 41, 300, 900])
        before = _sines_then_cosines(t, frequencies).float()
        seen = _need_shape(function(before.clone(), k, max_period), (4, dim), f"the result for dim={dim}")
        if _close(seen, _sines_then_cosines(t + k, frequencies)):
            continue
        if _close(seen, _sines_then_cosines(t - k, frequencies)):
            raise Wrong(f"you turned the hands backwards: for k={k} this is the encoding of t - k")
        norm = seen[:, 0].square() + seen[:, dim // 2].square()
        if not _close(norm, torch.ones(4)):
            raise Wrong("sin^2 + cos^2 of a pair is no longer 1: a step in time only turns each hand")
        raise Wrong(f"not the encoding of t + k for dim={dim}, k={k}, max_period={max_period:g}")


# -- 02.3 --------------------------------------------------------------------------------------------------

STUB_3 = '''\
def denoise_two_points(x_t, signal, sigma):
    """E[x_0 | x_t], (B,), for x_t = signal * x_0 + sigma * noise and x_0 = -1 or +1, equally likely."""
    raise NotImplementedError
'''

SOLUTION_3 = '''\
def denoise_two_points(x_t, signal, sigma):
    """E[x_0 | x_t], (B,), for x_t = signal * x_0 + sigma * noise and x_0 = -1 or +1, equally likely."""
    return torch.tanh(signal * x_t / sigma**2)
'''


def check_two_points(function) -> None:
    x_t = torch.tensor([-3.0, -0.5, -0.1, 0.0, 0.2, 1.0, 4.0])
    for signal, sigma in ((0.8, 0.6), (0.6, 0.8), (0.28, 0.96)):
        expected = torch.tanh(signal * x_t.double() / sigma**2)
        seen = _need_shape(function(x_t.clone(), signal, sigma), (7,), "the result for 7 points")
        if _close(seen, expected, 1e-4):
            continue
        if not _close(seen[3], torch.zeros(())):
            raise Wrong(f"at x_t = 0 both answers are equally likely, so the mean is 0; got {seen[3]:.3f}")
        if bool((seen.abs() > 1 + 1e-4).any()):
            raise Wrong("a mean of -1 and +1 cannot lie outside [-1, 1]")
        if _close(seen, x_t.sign().double()):
            raise Wrong("this is the likelier of the two points; the least squared error needs their mean")
        if _close(seen, torch.tanh(signal * x_t.double() / (2 * sigma**2)), 1e-4):
            raise Wrong("the slope at 0 is half of what it should be: compare p(x_t | +1) with p(x_t | -1)")
        raise Wrong(
            f"not the posterior mean at signal={signal}, sigma={sigma}; x_t=0.2 should give "
            f"{expected[4]:.3f}, got {seen[4]:.3f}"
        )
    ends = torch.tensor([-1.0, 1.0])
    extreme = _need_shape(function(ends.clone(), 0.9999, 0.0141), (2,), "the result for 2 points")
    if not _close(extreme, ends.double()):
        raise Wrong(
            f"with almost no noise, x_t = -1 and 1 should give -1 and 1; got {extreme.tolist()} "
            "(an exponential that is too large or too small for a float?)"
        )


# -- 02.4 --------------------------------------------------------------------------------------------------

STUB_4 = '''\
def denoise_without_t(x_t, signals, sigmas):
    """E[x_0 | x_t], (B,), same data, when t is unknown: every t of signals, sigmas (T,) is as likely."""
    raise NotImplementedError
'''

SOLUTION_4 = '''\
def denoise_without_t(x_t, signals, sigmas):
    """E[x_0 | x_t], (B,), same data, when t is unknown: every t of signals, sigmas (T,) is as likely."""
    x = x_t[:, None]  # (B, 1) against (T,)
    known_t = torch.tanh(signals * x / sigmas**2)
    log_plus = -((x - signals) ** 2) / (2 * sigmas**2) - sigmas.log()
    log_minus = -((x + signals) ** 2) / (2 * sigmas**2) - sigmas.log()
    weights = torch.logaddexp(log_plus, log_minus).softmax(dim=1)  # p(t | x_t)
    return (weights * known_t).sum(dim=1)
'''


def check_without_t(function) -> None:
    signals, sigmas = torch.tensor([0.96, 0.6, 0.28]), torch.tensor([0.28, 0.8, 0.96])
    x_t = torch.tensor([-2.0, -0.9, -0.3, 0.0, 0.5, 1.0, 2.5])
    x, a, s = x_t.double()[:, None], signals.double(), sigmas.double()
    known_t = torch.tanh(a * x / s**2)
    kernel = torch.exp(-((x - a) ** 2) / (2 * s**2)) + torch.exp(-((x + a) ** 2) / (2 * s**2))
    answer = function(x_t.clone(), signals.clone(), sigmas.clone())
    seen = _need_shape(answer, (7,), "the result for 7 points")
    if _close(seen, ((kernel / s) * known_t).sum(1) / (kernel / s).sum(1)):
        return
    if _close(seen, known_t.mean(1)):
        raise Wrong("a plain mean over t: but x_t itself says which t is likely, so weigh by p(x_t | t)")
    if _close(seen, (kernel * known_t).sum(1) / kernel.sum(1)):
        raise Wrong("the weights lack the density's factor 1/sigma: a narrow Gaussian is also a tall one")
    if bool((seen.abs() > 1 + 1e-4).any()):
        raise Wrong("a mean of -1 and +1 cannot lie outside [-1, 1]: do the weights sum to one?")
    raise Wrong(f"not the mean over p(t | x_t); at x_t = 0.5 got {seen[4]:.3f}")


EXERCISES = [
    Exercise(
        "02.1",
        "the Transformer's own arrangement",
        STUB_1,
        [
            "PE(pos, 2i) = sin(pos / 10000^(2i/dim)), PE(pos, 2i+1) = cos of the same angle.",
            "The exponents 2i/dim are torch.arange(0, dim, 2) / dim: the last one stays below 1.",
            "To let them alternate: torch.stack([sin, cos], dim=2) has shape (B, dim/2, 2); flatten it.",
        ],
        SOLUTION_1,
        "transformer_encoding",
        check_transformer_encoding,
        setup="import torch",
    ),
    Exercise(
        "02.2",
        "a step in time is a rotation",
        STUB_2,
        [
            "sin(a + b) = sin a cos b + cos a sin b, and cos(a + b) = cos a cos b - sin a sin b.",
            "Here a = frequency * t is unknown, but its sine and cosine are the encoding; b = frequency * k.",
            "encoding.chunk(2, dim=1) gives sines and cosines; the frequencies are "
            "max_period ** (-torch.arange(half) / (half - 1)).",
        ],
        SOLUTION_2,
        "advance",
        check_advance,
        setup="import torch",
    ),
    Exercise(
        "02.3",
        "the best denoiser of two points",
        STUB_3,
        [
            "The mean is p(+1 | x_t) - p(-1 | x_t); by Bayes each is proportional to a Gaussian density.",
            "In exp(-(x - a)^2 / 2s^2) and exp(-(x + a)^2 / 2s^2) the factor exp(-(x^2 + a^2) / 2s^2) "
            "is common and cancels.",
            "(e^u - e^-u) / (e^u + e^-u) = tanh(u).",
        ],
        SOLUTION_3,
        "denoise_two_points",
        check_two_points,
        setup="import torch",
    ),
    Exercise(
        "02.4",
        "the best denoiser that is not told t",
        STUB_4,
        [
            "E[x_0 | x_t] = sum over t of p(t | x_t) E[x_0 | x_t, t]; the second factor is that of 02.3.",
            "p(t | x_t) is proportional to p(x_t | t), the mean of two Gaussians. Keep their 1/sigma.",
            "In logarithms: torch.logaddexp of the two, then .softmax over t.",
        ],
        SOLUTION_4,
        "denoise_without_t",
        check_without_t,
        setup="import torch",
    ),
]
