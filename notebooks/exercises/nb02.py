"""Exercises of notebook 02, positional encoding. The checks use closed forms only."""

import math

import torch
from torch import Tensor

from notebooks.exercises import ONE_NUMBER, as_float64, called, close
from utils.course.exercises import Wrong, exercise


def _frequencies(half: int, steps: float, max_period: float = 10_000.0) -> Tensor:
    """max_period^(-i / steps) for i = 0 .. half-1, in float64."""
    return max_period ** (-torch.arange(half, dtype=torch.float64) / steps)


def _blocks(t: Tensor, frequencies: Tensor) -> Tensor:
    """Sines, then cosines."""
    angles = t.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _exchanged(encoding: Tensor) -> Tensor:
    return torch.cat(encoding.chunk(2, dim=1)[::-1], dim=1)


def _taking_turns(encoding: Tensor) -> Tensor:
    return torch.stack(encoding.chunk(2, dim=1), dim=2).flatten(1)


def _name_the_fault(seen: Tensor, faults: list[tuple[Tensor, str]]) -> None:
    for values, message in faults:
        if close(seen, values, atol=3e-4):
            raise Wrong(message)


def _first_difference(seen: Tensor, right: Tensor, t: Tensor) -> str:
    row, column = divmod(int((seen - right).abs().argmax()), seen.shape[1])
    return (
        f"at t={t[row]} column {column} (the first is 0) should be {right[row, column]:.3f}, "
        f"got {seen[row, column]:.3f}"
    )


def _float32(answer: object) -> None:
    if not isinstance(answer, Tensor) or answer.dtype != torch.float32:
        kind = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        raise Wrong(f"the values are right, but the network's weights are float32, and you return {kind}")


# -- 02.1 --------------------------------------------------------------------------------------------------


def check_encode(function) -> None:
    t = torch.tensor([3, 0, 1, 7, 40, 999])
    for dim, max_period in ((8, 10_000.0), (32, 10_000.0), (16, 500.0), (4, 10_000.0)):
        given = t.clone()
        misfit = {"size of tensor": "t and frequencies do not fit: t.float()[:, None] is (B, 1), frequencies (J,)"}
        args = (given, dim) if dim == 8 else (given, dim, max_period)
        answer = called(function, *args, faults=ONE_NUMBER | misfit)
        if isinstance(answer, Tensor) and answer.shape == (12, dim // 2):
            raise Wrong("sines and cosines stand one below the other; side by side is torch.cat(..., dim=1)")
        if isinstance(answer, Tensor) and answer.shape == (6, 2 * dim):
            raise Wrong(f"{2 * dim} numbers for dim={dim}: take J = dim/2 frequencies, each gives two numbers")
        seen = as_float64(answer, (6, dim), f"the encoding of 6 timesteps with dim={dim}")
        if not torch.equal(given, t):
            raise Wrong("t was changed in place: whoever called still needs it")
        right = _blocks(t, _frequencies(dim // 2, dim // 2 - 1, max_period))
        if not close(seen, right, atol=3e-4):
            _name_the_fault(seen, _faults_of_encoding(t, dim, max_period))
            growing = _blocks(t[2:3], _frequencies(dim // 2, 1 - dim // 2, max_period))
            if close(seen[2:3], growing, atol=1e-2):  # float32 keeps few digits of such angles
                raise Wrong("the frequencies grow, from 1 to max_period: the exponent needs a minus")
            where = _first_difference(seen, right, t)
            raise Wrong(f"not eq. (4) for dim={dim}, max_period={max_period:g}: {where}")
        _float32(answer)


def _faults_of_encoding(t: Tensor, dim: int, max_period: float) -> list[tuple[Tensor, str]]:
    half = dim // 2
    ours, other = (_frequencies(half, steps, max_period) for steps in (half - 1, half))
    right, shifted = _blocks(t, ours), _blocks(t, other)
    sines, cosines = right.chunk(2, dim=1)
    falls = f"the last frequency should be 1/max_period = {1 / max_period:g}"
    linear = torch.linspace(1, 1 / max_period, half, dtype=torch.float64)
    faults = [
        (_exchanged(right), "the cosines stand first; eq. (4) has the sines first"),
        (_taking_turns(right), "sines and cosines take turns; eq. (4) has two blocks, all sines and then all cosines"),
        (shifted, f"{falls}: the exponent is i/(J-1), not i/J"),
        (_exchanged(shifted), f"cosines first and exponent i/J, as in Stable Diffusion; here sines first, and {falls}"),
        (_taking_turns(shifted), f"this is the Transformer paper's arrangement; here two blocks, and {falls}"),
        (_blocks(t, ours.flip(0)), "the frequencies run from low to high; the first is 1, the highest"),
        (_blocks(t, 2 * math.pi * ours), "an extra factor of 2 pi: the frequencies are in radians per step"),
        (_blocks(t, linear), "the frequencies fall in equal steps; they should fall in equal ratios"),
        (torch.cat([sines, sines], dim=1), "both halves are sines; the second should be cosines"),
        (torch.cat([cosines, cosines], dim=1), "both halves are cosines; the first should be sines"),
        (_blocks(t, _frequencies(half, half - 1)), "max_period is ignored: it is not always 10,000"),
        (_blocks(t.double(), ours) * torch.cat([ours, ours]), "the frequency counts twice: inside the sine only"),
        (torch.cat([t[:, None].sin() * ours, t[:, None].cos() * ours], 1), "the frequency belongs inside the sine"),
    ]
    for steps in (dim, dim - 1, dim - 2 if dim > 4 else dim):
        if steps != half:
            few = _blocks(t, _frequencies(half, steps, max_period))
            faults.append((few, f"{falls}: there are J = dim/2 frequencies, so divide i by J-1"))
    for count in (999, 1000):
        faults.append((_blocks(t / count, ours), "t is divided by the number of timesteps; use it as it is"))
    return faults


@exercise(
    "02.1",
    "the sinusoidal encoding",
    check_encode,
    hints=[
        "The exponents -i/(J-1) of all frequencies at once: -torch.arange(half) / (half - 1).",
        "max_period ** exponents gives the frequencies, (half,); t.float()[:, None] * frequencies the angles.",
        "torch.cat([angles.sin(), angles.cos()], dim=1) sets the two blocks side by side.",
    ],
)
def encode(t, dim, max_period=10_000.0):
    half = dim // 2
    frequencies = max_period ** (-torch.arange(half) / (half - 1))  # from 1 to 1/max_period
    angles = t.float()[:, None] * frequencies  # (B, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


# -- 02.2 --------------------------------------------------------------------------------------------------


def check_advance(function) -> None:
    t = torch.tensor([40, 41, 300, 900])
    for dim, steps, max_period in ((32, 5, 10_000.0), (16, -40, 10_000.0), (8, 3, 500.0)):
        frequencies = _frequencies(dim // 2, dim // 2 - 1, max_period)
        before = _blocks(t, frequencies).float()
        given = before.clone()
        args = (given, steps) if dim == 32 else (given, steps, max_period)
        answer = called(function, *args, faults=ONE_NUMBER)
        seen = as_float64(answer, (4, dim), f"the result for dim={dim}")
        if not torch.equal(given, before):
            raise Wrong("the encoding that was given was changed in place: make a new tensor")
        right = _blocks(t + steps, frequencies)
        if not close(seen, right, atol=3e-4):
            _name_the_fault(seen, _faults_of_advance(t, steps, dim, max_period))
            what = f"dim={dim}, steps={steps}, max_period={max_period:g}"
            length = seen.unflatten(1, (2, -1)).square().sum(1)  # of each hand
            if not close(length, torch.ones_like(length), atol=1e-3):
                raise Wrong(f"sin^2 + cos^2 of a pair is no longer 1 for {what}: a step in time only turns each hand")
            raise Wrong(f"not the encoding of t + n for {what}: {_first_difference(seen, right, t)}")
        _float32(answer)


def _faults_of_advance(t: Tensor, steps: int, dim: int, max_period: float) -> list[tuple[Tensor, str]]:
    half = dim // 2
    frequencies = _frequencies(half, half - 1, max_period)
    turned = {name: _blocks(t, frequencies).unflatten(1, (2, -1)) for name in ("by 1", "by 1/h", "usual", "full")}
    turns = {
        "by 1": torch.full((half,), float(steps), dtype=torch.float64),
        "by 1/h": steps * _frequencies(half, half, max_period),
        "usual": steps * _frequencies(half, half - 1),
        "full": 2 * math.pi * steps * frequencies,
    }
    for name, turn in turns.items():
        sines, cosines = turned[name].unbind(1)
        new = [sines * turn.cos() + cosines * turn.sin(), cosines * turn.cos() - sines * turn.sin()]
        turned[name] = torch.cat(new, dim=1)
    now, later = _blocks(t, frequencies), _blocks(t + steps, frequencies)
    return [
        (
            _blocks(t - steps, frequencies),
            f"you turned the hands backwards: for n={steps} this is the encoding of t - n",
        ),
        (now, f"for n={steps} the encoding came back as it was: hand i should turn by omega_i * n"),
        (_exchanged(later), "the right values, but the cosines stand first"),
        (_taking_turns(later), "the right values, but sines and cosines take turns; keep the two blocks"),
        (now + _blocks(torch.tensor([steps]), frequencies), "encodings do not add up: turn each hand by omega_i * n"),
        (turned["by 1"], "every hand was turned by n; hand i turns by omega_i * n"),
        (turned["by 1/h"], "the frequencies have the exponent i/J; in eq. (4) it is i/(J-1)"),
        (turned["usual"], "max_period is ignored: it is not always 10,000"),
        (turned["full"], "an extra factor of 2 pi: the frequencies are in radians per step"),
    ]


@exercise(
    "02.2",
    "a step in time is a rotation",
    check_advance,
    hints=[
        "sin(a + b) = sin a cos b + cos a sin b, and cos(a + b) = cos a cos b - sin a sin b.",
        "Here a = frequency * t is unknown, but its sine and cosine are the encoding; b = frequency * n.",
        "encoding.chunk(2, dim=1) gives sines and cosines; the frequencies are "
        "max_period ** (-torch.arange(half) / (half - 1)).",
    ],
)
def advance(encoding, steps, max_period=10_000.0):
    sines, cosines = encoding.chunk(2, dim=1)
    half = sines.shape[1]
    turn = steps * max_period ** (-torch.arange(half) / (half - 1))
    new_sines = sines * turn.cos() + cosines * turn.sin()
    new_cosines = cosines * turn.cos() - sines * turn.sin()
    return torch.cat([new_sines, new_cosines], dim=1)


# -- 02.3 --------------------------------------------------------------------------------------------------


def check_two_points(function) -> None:
    x_t = torch.tensor([-3.0, -0.5, -0.1, 0.0, 0.2, 1.0, 4.0])
    for signal, sigma in ((0.8, 0.6), (0.6, 0.8), (0.28, 0.96)):
        expected = torch.tanh(signal * x_t.double() / sigma**2)
        answer = called(function, x_t.clone(), signal, sigma, faults=ONE_NUMBER)
        seen = as_float64(answer, (7,), "the result for 7 points")
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
        if close(seen, torch.tanh(2 * signal * x_t.double() / sigma**2), atol=1e-4):
            raise Wrong("the slope at 0 is twice what it should be: the density has 2 sigma^2 under the square")
        faults = {"the signal is missing": 1 / sigma**2, "sigma is not squared": signal / sigma}
        faults["signal is squared"] = signal**2 / sigma**2
        for fault, slope in faults.items():
            if close(seen, torch.tanh(slope * x_t.double()), atol=1e-4):
                raise Wrong(f"the slope at 0 should be signal / sigma^2: {fault}")
        if close(seen, (signal * x_t.double() / sigma**2).clamp(-1, 1), atol=1e-4):
            raise Wrong("the right slope at 0, but the mean bends towards -1 and +1; it has no corner")
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


def _listed(values: Tensor) -> str:
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
    misfit = {"size of tensor": "7 points and 3 timesteps do not fit: x_t[:, None] is (B, 1), signals and sigmas (T,)"}
    answer = called(function, x_t.clone(), signals.clone(), sigmas.clone(), faults=ONE_NUMBER | misfit)
    seen = as_float64(answer, (7,), "the result for 7 points")
    expected = ((kernel / s) * known_t).sum(1) / (kernel / s).sum(1)
    if close(seen, expected, atol=1e-3):
        return
    if close(seen, known_t.mean(1), atol=1e-3):
        raise Wrong("a plain mean over t: but x_t itself says which t is likely, so weigh by p(x_t | t)")
    if close(seen, (kernel * known_t).sum(1) / kernel.sum(1), atol=1e-3):
        raise Wrong("the weights lack the density's factor 1/sigma: a narrow Gaussian is also a tall one")
    plus = torch.exp(-((x - a) ** 2) / (2 * s**2)) / s
    if close(seen, (plus * known_t).sum(1) / plus.sum(1), atol=1e-3):
        raise Wrong("the weights are p(x_t | t, x_0 = +1); p(x_t | t) has the half of x_0 = -1 in it too")
    if close(seen, (kernel / s**2 * known_t).sum(1) / (kernel / s**2).sum(1), atol=1e-3):
        raise Wrong("the density has the factor 1/sigma, not 1/sigma^2")
    if close(seen, (kernel / s / (kernel / s).sum(0) * known_t).sum(1), atol=1e-3):
        raise Wrong("the weights add up to 1 over the points; they should over t, dim=1")
    likeliest = known_t.gather(1, (kernel / s).argmax(1, keepdim=True))[:, 0]
    if close(seen, likeliest, atol=1e-3):
        raise Wrong("this is the answer of the likeliest t alone; the least squared error needs the mean over all t")
    if close(seen, torch.tanh(a.mean() * x / s.mean() ** 2)[:, 0], atol=1e-3):
        raise Wrong("signal and sigma were averaged first; it is the answers of all t that are averaged")
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
