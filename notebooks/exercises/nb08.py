"""Exercises of notebook 08, one family. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from notebooks.exercises import (
    ONE_NUMBER,
    PLAIN_NUMBERS,
    as_float64,
    as_number,
    called,
    close,
    normal,
    refuse_changes,
    refuse_dtype,
)
from utils.course.exercises import Wrong, exercise

# -- 08.1: the velocity field of any path -------------------------------------------------------------

ROOTS = {"must be Tensor, not float": "the weights are plain numbers: math.sqrt or math.hypot takes them"}
POINTS = {  # signal, sigma, and their derivatives
    "variance preserving": (0.6, 0.8, -1.2, 0.9),
    "EDM, sigma = 2": (1.0, 2.0, 0.0, 1.0),
    "flow matching, t = 0.3": (0.7, 0.3, -1.0, 1.0),
    "another path": (0.4, 1.5, 0.7, -0.2),
}


def wrong_velocities(x: Tensor, v: Tensor, a: float, s: float, da: float, ds: float) -> dict[str, Tensor]:
    """dx/dt by the most natural mistakes, by what is wrong with them."""
    r = math.hypot(a, s)
    x_0, noise = a / r * x / r - s / r * v, s / r * x / r + a / r * v
    raw_x_0, raw_noise = a * x - s * v, s * x + a * v  # as if the path were variance preserving
    return {
        "x and its weights have to be scaled to the network's own point, where the squares of the weights add to 1": da
        * raw_x_0
        + ds * raw_noise,
        "x is scaled, but its weights are not: divide signal and sigma by the same root": da * (a * x / r - s * v)
        + ds * (s * x / r + a * v),
        "the weights are scaled, but x is not: divide it by the same root": da * (a / r * x - s / r * v)
        + ds * (s / r * x + a / r * v),
        "the signs of v are exchanged: x_0 = signal x_t - sigma v, noise = sigma x_t + signal v": da
        * (a / r * x / r + s / r * v)
        + ds * (s / r * x / r - a / r * v),
        "image and noise are exchanged: the slope of the signal belongs to x_0": ds * x_0 + da * noise,
        "the part of the image is missing": ds * noise,
        "the part of the noise is missing": da * x_0,
        "this is x itself; take the derivatives of the weights, not the weights": a * x_0 + s * noise,
        "this is v; it is dx/dt only on the quarter circle, per unit of angle": v,
        "the sign of the slope of the signal is turned round; it is negative already where the image fades": -da * x_0
        + ds * noise,
    }


def check_velocity_from_v(velocity_from_v: Callable) -> None:
    for (where, numbers), shape in zip(POINTS.items(), [(3, 1, 2, 2), (2, 1, 3, 3), (4, 2), (3, 1, 2, 2)]):
        a, s, da, ds = numbers
        given = [normal(*shape, seed=seed).float() for seed in range(2)]
        x, v = (tensor.clone() for tensor in given)
        answer = called(velocity_from_v, x, v, *numbers, faults=ROOTS)
        refuse_changes([x, v], given, "x and v")
        refuse_dtype(answer, torch.float32, "the velocity", "x and v are of that kind")
        seen = as_float64(answer, shape, "the velocity")
        x, v = (tensor.double() for tensor in given)
        square = a**2 + s**2
        x_0, noise = a * x / square - s * v / math.sqrt(square), s * x / square + a * v / math.sqrt(square)
        right = da * x_0 + ds * noise
        if close(seen, right, 1e-4, 1e-5):
            continue
        for fault, found in wrong_velocities(x, v, *numbers).items():
            if close(seen, found, 1e-4, 1e-5):
                raise Wrong(f"{where}: {fault}")
        one = float(seen.flatten()[0]), float(right.flatten()[0])
        raise Wrong(f"{where}: the first value should be {one[1]:.4f}, got {one[0]:.4f}")


@exercise(
    "08.1",
    "the velocity field of any path",
    check_velocity_from_v,
    hints=[
        "The network's point is x_t = x / r, with r = math.sqrt(signal**2 + sigma**2). Its own weights are signal / r "
        "and sigma / r.",
        "With those weights: x_0 = signal x_t - sigma v, noise = sigma x_t + signal v.",
        "dx/dt = signal_slope * x_0 + sigma_slope * noise, with the slopes as they are given.",
    ],
)
def velocity_from_v(x, v, signal, sigma, signal_slope, sigma_slope):
    scale = math.sqrt(signal**2 + sigma**2)
    x_t, signal, sigma = x / scale, signal / scale, sigma / scale
    x_0 = signal * x_t - sigma * v
    noise = sigma * x_t + signal * v
    return signal_slope * x_0 + sigma_slope * noise


# -- 08.2: EDM's preconditioning ----------------------------------------------------------------------


def check_preconditioning(preconditioning: Callable) -> None:
    for sigma_bar, sigma_data in [(0.5, 0.5), (2.0, 1.0), (0.1, 0.7), (30.0, 0.25)]:
        answer = preconditioning(sigma_bar, sigma_data)
        if not isinstance(answer, (tuple, list)) or len(answer) != 3:
            raise Wrong(f"three numbers are wanted, c_skip, c_out and c_in, got {answer!r}")
        c_skip, c_out, c_in = (as_number(one, name) for one, name in zip(answer, ("c_skip", "c_out", "c_in")))
        where, data, noise = f"sigma_bar = {sigma_bar:g}, sigma_data = {sigma_data:g}", sigma_data**2, sigma_bar**2
        for name, value in {"c_in": c_in, "c_out": c_out}.items():
            if value <= 0:
                raise Wrong(f"{where}: {name} is {value:.4f}; it should be above 0, the positive root")
        refuse_input(c_in, data, noise, where)
        target = ((1 - c_skip) ** 2 * data + c_skip**2 * noise) / c_out**2
        least = math.sqrt(data * noise / (data + noise))
        if not math.isclose(target, 1, rel_tol=1e-4) and math.isclose(c_out, least**2, rel_tol=1e-4):
            raise Wrong(f"{where}: this c_out is the variance; take its root")
        if not math.isclose(target, 1, rel_tol=1e-4):
            raise Wrong(f"{where}: the target of F has variance {target:.4f} with your c_skip and c_out, not 1")
        if not math.isclose(c_out, least, rel_tol=1e-4):
            raise Wrong(
                f"{where}: input and target have variance 1, but c_out = {c_out:.4f} is not the least: another c_skip "
                f"brings it down to {least:.4f}"
            )


def refuse_input(c_in: float, data: float, noise: float, where: str) -> None:
    """Raises `Wrong` unless the scaled input has variance 1."""
    variance = c_in**2 * (data + noise)
    if math.isclose(c_in, 1 / (data + noise), rel_tol=1e-4) and not math.isclose(variance, 1, rel_tol=1e-4):
        raise Wrong(f"{where}: this c_in is one over the variance; take the root")
    if math.isclose(c_in, 1 / (math.sqrt(data) + math.sqrt(noise)), rel_tol=1e-4):
        raise Wrong(f"{where}: variances add, standard deviations do not: c_in = 1 / sqrt(sigma_data^2 + sigma_bar^2)")
    if not math.isclose(variance, 1, rel_tol=1e-4):
        raise Wrong(f"{where}: the input c_in x has variance {variance:.4f}, not 1")


@exercise(
    "08.2",
    "EDM's preconditioning",
    check_preconditioning,
    hints=[
        "Variances of independent parts add. Wish 1: c_in^2 (sigma_data^2 + sigma_bar^2) = 1.",
        "Wish 2: c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma_bar^2. Set its derivative with respect to "
        "c_skip to 0.",
        "c_skip = sigma_data^2 / (sigma_data^2 + sigma_bar^2); put it into wish 2 and take the root.",
    ],
)
def preconditioning(sigma_bar, sigma_data):
    c_skip = sigma_data**2 / (sigma_data**2 + sigma_bar**2)
    c_out = math.sqrt((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma_bar**2)
    c_in = 1 / math.sqrt(sigma_data**2 + sigma_bar**2)
    return c_skip, c_out, c_in


# -- 08.3: Heun's step --------------------------------------------------------------------------------


class CountingSlope:
    """A field in closed form that depends on x and t; it notes at which times it was asked."""

    def __init__(self):
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: float) -> Tensor:
        if not isinstance(x, Tensor):
            raise Wrong(f"slope is called as slope(x, t), x first; it got a {type(x).__name__} as x")
        self.times.append(float(t))
        return self.field(x, float(t))

    @staticmethod
    def field(x: Tensor, t: float) -> Tensor:
        return torch.sin(x) + t * x.roll(1, 0) - t**2


def wrong_steps(x: Tensor, t: float, s: float) -> dict[str, Tensor]:
    u, h = CountingSlope.field, s - t
    here = u(x, t)
    ahead, middle = x + h * here, x + h / 2 * here
    return {
        "this is Euler's step": ahead,
        "the second slope was taken at the old time; it belongs to s": x + h / 2 * (here + u(ahead, t)),
        "the second slope was taken at the old point; take an Euler step first": x + h / 2 * (here + u(x, s)),
        "only the slope at the far end is used; take the mean of both": x + h * u(ahead, s),
        "the two slopes are added; take their mean": x + h * (here + u(ahead, s)),
        "the mean slope starts from the far end; it starts from x": ahead + h / 2 * (here + u(ahead, s)),
        "the second slope was taken half-way: that is the midpoint method, also of order 2, but not Heun's": x
        + h * u(middle, (t + s) / 2),
        "the step is t - s; it goes from t to s, so it is s - t": x - h / 2 * (here + u(x - h * here, s)),
        "the step h is missing": x + 0.5 * (here + u(x + here, s)),
    }


def check_heun_step(heun_step: Callable) -> None:
    for t, s, shape in [(1.0, 0.4, (4, 2)), (0.2, 0.9, (3, 1, 2, 2)), (5.0, 4.5, (2, 3))]:
        given, slope = normal(*shape), CountingSlope()
        x = given.clone()
        answer = called(heun_step, slope, x, t, s, faults={})
        refuse_changes([x], [given], "x")
        seen, where = as_float64(answer, shape, "the new x"), f"from t = {t:g} to s = {s:g}"
        here = CountingSlope.field(given, t)
        right = given + (s - t) / 2 * (here + CountingSlope.field(given + (s - t) * here, s))
        if close(seen, right, 1e-6, 1e-8):
            if len(slope.times) > 2:
                raise Wrong(f"{where}: right, but slope was asked {len(slope.times)} times; keep what it said")
            continue
        for fault, found in wrong_steps(given, t, s).items():
            if close(seen, found, 1e-6, 1e-8):
                raise Wrong(f"{where}: {fault}")
        one = float(seen.flatten()[0]), float(right.flatten()[0])
        raise Wrong(f"{where}: the first value should be {one[1]:.4f}, got {one[0]:.4f}")


@exercise(
    "08.3",
    "one step of Heun's method",
    check_heun_step,
    hints=[
        "First Euler: the slope here, and the point ahead = x + (s - t) * here.",
        "Ask once more, at that point and at the time s.",
        "The step starts at x again, with the mean of the two slopes.",
    ],
)
def heun_step(slope, x, t, s):
    here = slope(x, t)
    there = slope(x + (s - t) * here, s)
    return x + (s - t) * (here + there) / 2


# -- 08.4: how straight is a path ---------------------------------------------------------------------


def check_straightness(straightness: Callable) -> None:
    times = [1.0, 0.7, 0.6, 0.1]
    states = [normal(3, 2, seed=seed) for seed in range(4)]
    kept = [state.clone() for state in states]
    line = [states[0] + (1 - t) * torch.tensor([3.0, -1.0], dtype=torch.float64) for t in times]
    answer = called(straightness, [state.clone() for state in line], times, faults={})
    if not close(as_float64(answer, (3,), "the result, one number for each point,"), torch.zeros(3).double(), 0, 1e-9):
        raise Wrong("a straight line at constant speed should have 0: compare each segment's slope with that of all")
    seen = as_float64(called(straightness, states, times, faults={}), (3,), "the result, one number for each point,")
    refuse_changes(states, kept, "states")
    found = {fault: measure(torch.stack(states), times) for fault, measure in MEASURES.items()}
    right = found.pop("")
    if close(seen, right, 1e-6, 1e-9):
        return
    for fault, wrong in found.items():
        if close(seen, wrong, 1e-6, 1e-9):
            raise Wrong(fault)
    raise Wrong(f"on a crooked path the first value should be {right[0]:.4f}, got {seen[0]:.4f}")


def measured(states: Tensor, times: list[float], shares: bool = True, norm: int = 2, of_all: bool = True) -> Tensor:
    moments = torch.tensor(times, dtype=torch.float64)
    lengths = moments[1:] - moments[:-1]
    slopes = (states[1:] - states[:-1]) / lengths[:, None, None]
    whole = (states[-1] - states[0]) / (moments[-1] - moments[0]) if of_all else slopes.mean(0)
    gaps = (slopes - whole).square().sum(2) if norm == 2 else (slopes - whole).norm(dim=2)
    weights = lengths / lengths.sum() if shares else torch.full((len(lengths),), 1 / len(lengths)).double()
    return (weights[:, None] * gaps).sum(0)


MEASURES = {
    "": measured,
    "every segment counts alike; each should count by its share of the time": lambda x, t: measured(x, t, shares=False),
    "square the length of the difference of the slopes": lambda x, t: measured(x, t, norm=1),
    "the slope of the whole is (last - first) / time, not the plain mean of the segments' slopes": lambda x, t: (
        measured(x, t, of_all=False)
    ),
    "add up the squares over the coordinates, do not average them": lambda x, t: measured(x, t) / x.shape[2],
    "divide by the whole time: the shares of the segments add to 1": lambda x, t: measured(x, t) * abs(t[-1] - t[0]),
    "the result is negative, since the times fall: use their shares of the whole": lambda x, t: (
        -measured(x, t) * abs(t[-1] - t[0])
    ),
}


@exercise(
    "08.4",
    "how straight a path is",
    check_straightness,
    hints=[
        "The slope of a segment is (states[k + 1] - states[k]) / (times[k + 1] - times[k]); that of the whole path "
        "uses its two ends.",
        "The square of a difference is summed over the coordinates, .square().sum(1), to one number a point.",
        "Each segment counts by its share (times[k + 1] - times[k]) / (times[-1] - times[0]); the shares add to 1.",
    ],
)
def straightness(states, times):
    span = times[-1] - times[0]
    whole = (states[-1] - states[0]) / span
    total = torch.zeros(len(whole), dtype=whole.dtype)
    for k in range(len(times) - 1):
        length = times[k + 1] - times[k]
        slope = (states[k + 1] - states[k]) / length
        total = total + length / span * (slope - whole).square().sum(1)
    return total


# -- 08.5: density and weight of flow matching -------------------------------------------------------


def wrong_densities(log_snr: Tensor) -> dict[str, Tensor]:
    tau = torch.sigmoid(-log_snr / 2)
    half = torch.sigmoid(-log_snr)
    return {
        "its sign is turned round: the log-SNR falls where tau grows, and a density has no sign": -tau * (1 - tau) / 2,
        "a factor of 1/2 is missing: the log-SNR is 2 log((1 - tau) / tau)": tau * (1 - tau),
        "this is |d log_snr / dtau|; the density of log_snr is the inverse, |dtau / d log_snr|": 2 / (tau * (1 - tau)),
        "this is the density for log((1 - tau) / tau), half the log-SNR": half * (1 - half),
        "tau is uniform, but the log-SNR is not: its density is |dtau / d log_snr|": torch.ones_like(tau),
        "this is tau itself, or 1 - tau; its slope is the density": tau,
        "this is the density of the cosine schedule, which has another clock": 1
        / (2 * math.pi * torch.cosh(log_snr / 2)),
        "this is the density times the weight; give the two apart": tau / (1 - tau) / 2,
    }


def wrong_weights(log_snr: Tensor) -> dict[str, Tensor]:
    tau = torch.sigmoid(-log_snr / 2)
    return {
        "the errors are squared, so the factor is, too": 1 / (1 - tau),
        "this is how many times the velocity's error the noise's is; it is asked the other way round": (1 - tau) ** 2,
        "signal and noise are exchanged: the image has the weight 1 - tau": 1 / tau**2,
        "this is the factor of the error of x_0; the velocity is noise - x_0": (tau / (1 - tau)) ** 2,
        "this is the factor of v, where a**2 + sigma**2 = 1; on the straight path a + sigma = 1": 1
        + torch.exp(-log_snr),
        "this is the weight times the density; give the two apart": tau / (1 - tau) / 2,
        "the velocity's error is not the noise's: that of x_0 comes with it": torch.ones_like(tau),
        "the two errors add up before they are squared, as they have the same direction": 1 + (tau / (1 - tau)) ** 2,
    }


def check_flow_matching(flow_matching: Callable) -> None:
    for shape in [(41,), (3, 2)]:
        log_snr = torch.linspace(-9, 8, math.prod(shape), dtype=torch.float64).view(shape)
        given = log_snr.clone()
        answer = called(flow_matching, given, faults=ONE_NUMBER)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong(f"two tensors are asked for, density and weight; got {type(answer).__name__}")
        refuse_changes([given], [log_snr], "log_snr")
        tau = torch.sigmoid(-log_snr / 2)
        if close(as_float64(answer[1], shape, "the weight"), tau * (1 - tau) / 2, 1e-4):
            raise Wrong("the two are in the wrong order: first the density, then the weight")
        compare("the density", answer[0], tau * (1 - tau) / 2, wrong_densities(log_snr), log_snr)
        compare("the weight", answer[1], 1 / (1 - tau) ** 2, wrong_weights(log_snr), log_snr)


def compare(what: str, answer: Tensor, right: Tensor, wrong: dict[str, Tensor], log_snr: Tensor) -> None:
    """Raises `Wrong` unless the answer is right; `wrong`: the most natural mistakes, by what is wrong with them."""
    seen = as_float64(answer, tuple(right.shape), what)
    if close(seen, right, 1e-4):
        return
    for fault, values in wrong.items():
        if close(seen, values, 1e-4):
            raise Wrong(f"{what}: {fault}")
    at = log_snr.abs().argmin()
    one = float(right.flatten()[at]), float(seen.flatten()[at])
    raise Wrong(f"{what}: at a log-SNR of {log_snr.flatten()[at]:.2f} it should be {one[0]:.4f}, got {one[1]:.4f}")


@exercise(
    "08.5",
    "flow matching on the axis of the log-SNR",
    check_flow_matching,
    hints=[
        "exp(log_snr / 2) = (1 - tau) / tau, so tau = 1 / (1 + exp(log_snr / 2)): torch.sigmoid(-log_snr / 2).",
        "The slope of the sigmoid is sigmoid * (1 - sigmoid), and the inner -log_snr / 2 gives a factor of 1/2 "
        "(without its sign).",
        "The velocity's error is 1 / a times the noise's, with a = 1 - tau. Square it.",
    ],
)
def flow_matching(log_snr):
    tau = torch.sigmoid(-log_snr / 2)
    return tau * (1 - tau) / 2, 1 / (1 - tau) ** 2


# -- 08.6: any effective weight, with any draws -------------------------------------------------------


def flat(log_snr: Tensor) -> Tensor:
    return torch.ones_like(log_snr)


def sigmoid_weight(log_snr: Tensor) -> Tensor:
    return torch.sigmoid(2 - log_snr)


def wide_bell(log_snr: Tensor) -> Tensor:
    return torch.exp(-((log_snr - 1) ** 2) / 18) / (3 * math.sqrt(2 * math.pi))


def cosine_draws(log_snr: Tensor) -> Tensor:
    return 1 / (2 * math.pi * torch.cosh(log_snr / 2))


def wrong_factors(log_snr: Tensor, wanted: Tensor, density: Tensor) -> dict[str, Tensor]:
    a2 = log_snr.sigmoid()
    return {
        "this is the factor of the noise's error; that of v is a**2 times it": wanted / density,
        "what is drawn often must count less: divide by the density": wanted * density * a2,
        "the density plays no part; what is drawn often must count less": wanted * a2,
        "the wanted weight plays no part": a2 / density,
        "v's error is 1 / a times the noise's, so the noise's is a times v's: multiply by a**2": wanted / density / a2,
        "this takes sigma**2 = 1 - a**2 in the place of a**2": wanted / density * (1 - a2),
        "the errors are squared: the factor is a**2, not a": wanted / density * a2.sqrt(),
        "a**2 is sigmoid(log_snr); here log_snr is the whole logarithm, not half": wanted
        / density
        * (2 * log_snr).sigmoid(),
        "this takes a**2 for the SNR; SNR = a**2 / (1 - a**2)": wanted / density * log_snr.exp(),
    }


def check_factor_of_v(factor_of_v: Callable) -> None:
    log_snr = torch.linspace(-8, 7, 31, dtype=torch.float64)
    for wanted, density in [(flat, cosine_draws), (sigmoid_weight, cosine_draws), (sigmoid_weight, wide_bell)]:
        given = log_snr.clone()
        faults = {"unsupported operand": "wanted and density are functions; call them with log_snr"} | ONE_NUMBER
        answer = called(factor_of_v, given, wanted, density, faults=faults)
        refuse_changes([given], [log_snr], "log_snr")
        values = wanted(log_snr), density(log_snr)
        right = values[0] / values[1] * log_snr.sigmoid()
        compare("the factor", answer, right, wrong_factors(log_snr, *values), log_snr)


@exercise(
    "08.6",
    "any weight, with any draws",
    check_factor_of_v,
    hints=[
        "The effective weight of the noise's squared error is w * p. It shall be `wanted`, and p is `density`: "
        "so what is w?",
        "The training sees v's error, which is 1 / a times the noise's. So w times the noise's squared error is "
        "w * a**2 times v's.",
        "a**2 / (1 - a**2) = exp(log_snr), so a**2 = torch.sigmoid(log_snr).",
    ],
)
def factor_of_v(log_snr, wanted, density):
    return wanted(log_snr) / density(log_snr) * torch.sigmoid(log_snr)


# -- 08.7: the noise that belongs to x_t and the end of its trajectory ----------------------------------


def wrong_pairs(x_t: Tensor, end: Tensor, a: Tensor) -> dict[str, Tensor]:
    signal, sigma = a.sqrt(), (1 - a).sqrt()
    return {
        "the division by sqrt(1 - a_bar_t) is missing": x_t - signal * end,
        "the end has the weight sqrt(a_bar_t), not 1": (x_t - end) / sigma,
        "a_bar_t is the square of the weight: the end is multiplied by its root": (x_t - a * end) / sigma,
        "1 - a_bar_t is a variance; divide by its root": (x_t - signal * end) / (1 - a),
        "the roots are exchanged": (x_t - sigma * end) / signal,
        "both roots are missing: a_bar_t and 1 - a_bar_t are the squares of the weights": (x_t - a * end) / (1 - a),
        "the difference is divided by sqrt(a_bar_t); the noise has the weight sqrt(1 - a_bar_t)": (x_t - signal * end)
        / signal,
        "the sign is turned round": (signal * end - x_t) / sigma,
        "this mixes x_t and the end once more; solve for the noise": signal * end + sigma * x_t,
        "this is the v of that pair; the noise is asked for": (signal * x_t - end) / sigma,
        "every image is treated like the first; each has an a_bar_t of its own": (x_t - signal[:1] * end) / sigma[:1],
    }


def check_paired_noise(paired_noise: Callable) -> None:
    a = torch.tensor([1e-4, 0.1, 0.5, 0.9]).view(-1, 1, 1, 1)
    given = [normal(4, 1, 3, 3).float(), normal(4, 1, 3, 3, seed=1).float().clamp(-1, 1), a]
    x_t, end, a_bar_t = (tensor.clone() for tensor in given)
    answer = called(paired_noise, x_t, end, a_bar_t, faults=ONE_NUMBER)
    refuse_changes([x_t, end, a_bar_t], given, "x_t, end and a_bar_t")
    refuse_dtype(answer, torch.float32, "the noise", "x_t and end are of that kind")
    seen = as_float64(answer, (4, 1, 3, 3), "the noise")
    x_t, end, a = (tensor.double() for tensor in given)
    right = (x_t - a.sqrt() * end) / (1 - a).sqrt()
    if close(seen, right, 1e-4, 1e-5):
        return
    for fault, wrong in wrong_pairs(x_t, end, a).items():
        if close(seen, wrong, 1e-4, 1e-5):
            raise Wrong(fault)
    mixed = a.sqrt() * end + (1 - a).sqrt() * seen
    one = [float(value.flatten()[0]) for value in (mixed, x_t)]
    raise Wrong(f"mixed with the end, your noise gives {one[0]:.4f} for the first value of x_t, which is {one[1]:.4f}")


@exercise(
    "08.7",
    "the noise of a pair that the teacher made",
    check_paired_noise,
    hints=[
        "Bring the end's part to the other side: x_t minus sqrt(a_bar_t) times the end is the noise's part.",
        "The noise's part is sqrt(1 - a_bar_t) times the noise: divide by that. a_bar_t is a tensor: a_bar_t.sqrt().",
        "(x_t - a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()",
    ],
)
def paired_noise(x_t, end, a_bar_t):
    return (x_t - a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()


# -- 08.8: one step of unmasking --------------------------------------------------------------------

MASK = -1  # as in the notebook

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
    "08.8",
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
    return torch.where((x_t == -1) & shown, drawn, x_t)


# -- 08.9: the gradient of log p(y | x_t) for one normal ----------------------------------------------

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
    "08.9",
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


# -- 08.10: one step of RePaint ------------------------------------------------------------------------

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
    "08.10",
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
