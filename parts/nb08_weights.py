"""Exercises of notebook 08, sections 3 and 4. The checks use closed forms only, nothing of utils.diffusion."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import ONE_NUMBER, as_float64, called, close, refuse_changes
from utils.course.exercises import Wrong, exercise

# -- 08.5: density and weight of flow matching -------------------------------------------------------


def wrong_densities(log_snr: Tensor) -> dict[str, Tensor]:
    u = torch.sigmoid(-log_snr / 2)
    half = torch.sigmoid(-log_snr)
    return {
        "its sign is turned round: the log-SNR falls where u grows, and a density has no sign": -u * (1 - u) / 2,
        "a factor of 1/2 is missing: the log-SNR is 2 log((1 - u) / u)": u * (1 - u),
        "this is |d log_snr / du|; the density of log_snr is the inverse, |du / d log_snr|": 2 / (u * (1 - u)),
        "this is the density for log((1 - u) / u), half the log-SNR": half * (1 - half),
        "u is uniform, but the log-SNR is not: its density is |du / d log_snr|": torch.ones_like(u),
        "this is u itself, or 1 - u; its slope is the density": u,
        "this is the density of the cosine schedule, which has another clock": 1
        / (2 * math.pi * torch.cosh(log_snr / 2)),
        "this is the density times the weight; give the two apart": u / (1 - u) / 2,
    }


def wrong_weights(log_snr: Tensor) -> dict[str, Tensor]:
    u = torch.sigmoid(-log_snr / 2)
    return {
        "the errors are squared, so the factor is, too": 1 / (1 - u),
        "this is how many times the velocity's error the noise's is; it is asked the other way round": (1 - u) ** 2,
        "signal and noise are exchanged: the image has the weight 1 - u": 1 / u**2,
        "this is the factor of the error of x_0; the velocity is noise - x_0": (u / (1 - u)) ** 2,
        "this is the factor of v, where a**2 + s**2 = 1; on the straight path a + s = 1": 1 + torch.exp(-log_snr),
        "this is the weight times the density; give the two apart": u / (1 - u) / 2,
        "the velocity's error is not the noise's: that of x_0 comes with it": torch.ones_like(u),
        "the two errors add up before they are squared, as they have the same direction": 1 + (u / (1 - u)) ** 2,
    }


def check_flow_matching(flow_matching: Callable) -> None:
    for shape in [(41,), (3, 2)]:
        log_snr = torch.linspace(-9, 8, math.prod(shape), dtype=torch.float64).view(shape)
        given = log_snr.clone()
        answer = called(flow_matching, given, faults=ONE_NUMBER)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong(f"two tensors are asked for, density and weight; got {type(answer).__name__}")
        refuse_changes([given], [log_snr], "log_snr")
        u = torch.sigmoid(-log_snr / 2)
        compare("the density", answer[0], u * (1 - u) / 2, wrong_densities(log_snr), log_snr)
        compare("the weight", answer[1], 1 / (1 - u) ** 2, wrong_weights(log_snr), log_snr)


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
        "exp(log_snr / 2) = (1 - u) / u, so u = 1 / (1 + exp(log_snr / 2)): torch.sigmoid(-log_snr / 2).",
        "The slope of the sigmoid is sigmoid * (1 - sigmoid), and the inner -log_snr / 2 gives a factor of 1/2 "
        "(without its sign).",
        "The velocity's error is 1 / a times the noise's, with a = 1 - u. Square it.",
    ],
)
def flow_matching(log_snr):
    u = torch.sigmoid(-log_snr / 2)
    return u * (1 - u) / 2, 1 / (1 - u) ** 2


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
        "this takes s**2 = 1 - a**2 in the place of a**2": wanted / density * (1 - a2),
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
