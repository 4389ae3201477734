"""Exercises of notebook 08, one family. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import as_float64, as_number, called, close, normal, refuse_changes, refuse_dtype
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
