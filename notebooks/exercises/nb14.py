"""Exercises of notebook 14, DiffusionNER. The checks count for themselves and use nothing of utils.ner."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.exercises import PLAIN_NUMBERS, as_float64, called, close, normal, refuse_changes
from utils.course.exercises import Wrong, exercise

# -- 14.1: a span as a point -------------------------------------------------------------------------


def _points(spans: Tensor, n: int) -> Tensor:
    start, end = spans.double().unbind(-1)
    return 2 * torch.stack([(start + end) / n - 1, 2 * (end - start) / n - 1], dim=-1)


def wrong_points(spans: Tensor, n: int) -> dict[str, Tensor]:
    start, end = spans.double().unbind(-1)
    centre, width = 2 * (start + end) / n - 2, 4 * (end - start) / n - 2
    return {
        "centre and width are exchanged": torch.stack([width, centre], -1),
        "these are in [-1, 1]: the signal scale b = 2 is missing": torch.stack([centre / 2, width / 2], -1),
        "these are in [0, 1]: take them times 2, less 1, and all that times 2": torch.stack(
            [centre / 4 + 0.5, width / 4 + 0.5], -1
        ),
        "these are left and right edge; centre and width are asked for": torch.stack(
            [4 * start / n - 2, 4 * end / n - 2], -1
        ),
        "the end is the token behind the last, so the width is end - start, without + 1": torch.stack(
            [centre, width + 4 / n], -1
        ),
        "divide by the n tokens, not by n - 1": torch.stack(
            [2 * (start + end) / max(n - 1, 1) - 2, 4 * (end - start) / max(n - 1, 1) - 2], -1
        ),
        "the centre is the mean of start and end": torch.stack([4 * (start + end) / n - 2, width], -1),
        "this is half the width": torch.stack([centre, 2 * (end - start) / n - 2], -1),
    }


def check_points(to_points: Callable) -> None:
    for rows, n in [([[2, 5], [0, 1], [7, 10]], 10), ([[0, 7], [3, 4]], 7), ([[0, 1]], 1)]:
        spans = torch.tensor(rows)
        answer = to_points(spans.clone(), n)
        seen, right = as_float64(answer, tuple(spans.shape), "the points"), _points(spans, n)
        if close(seen, right, 1e-5, 1e-6):
            continue
        for fault, found in wrong_points(spans, n).items():
            if close(seen, found, 1e-5, 1e-6):
                raise Wrong(f"{rows[0]} of {n} tokens: {fault}")
        (start, end), point = rows[0], [round(value, 3) for value in right[0].tolist()]
        raise Wrong(f"{start} to {end} of {n} tokens should be {point}, got {[round(v, 3) for v in seen[0].tolist()]}")


@exercise(
    "14.1",
    "a span as a point",
    check_points,
    hints=[
        "spans[:, 0] and spans[:, 1] are the starts and the ends. In [0, 1] the centre is (start + end) / 2 / n.",
        "The width in [0, 1] is (end - start) / n. Both times 2, less 1; then the whole times b = 2.",
    ],
)
def to_points(spans, n):
    start, end = spans[:, 0], spans[:, 1]
    centre, width = (start + end) / 2 / n, (end - start) / n
    return 2 * (2 * torch.stack([centre, width], dim=-1) - 1)


# -- 14.2: K proposals, noised -----------------------------------------------------------------------


def check_proposals(noised_proposals: Callable) -> None:
    for G, K, a in [(1, 4, 0.36), (3, 7, 0.9), (5, 5, 0.04), (4, 2, 0.5)]:
        given = [normal(G, 2, seed=G), normal(K, 2, seed=K + 50)]
        points, noise = (tensor.clone() for tensor in given)
        answer = called(noised_proposals, points, noise, a, faults=PLAIN_NUMBERS)
        refuse_changes([points, noise], given, "points and noise")
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong("the result should be two tensors: x_0, x_t")
        x_0, x_t = (as_float64(value, (K, 2), name) for value, name in zip(answer, ("x_0", "x_t")))
        counts = [sum(close(row, point, 1e-6, 1e-9) for row in x_0) for point in given[0]]
        if sum(counts) < K:
            order = "repeat them, add nothing, and return x_0 before x_t"
            raise Wrong(f"G = {G}, K = {K}: a row of x_0 is none of the points; {order}")
        if max(counts) - min(counts) > 1:
            raise Wrong(f"G = {G}, K = {K}: the points stand {counts} times in x_0; each should have its fair share")
        _check_mixture(x_0, x_t, given[1], a)


def _check_mixture(x_0: Tensor, x_t: Tensor, noise: Tensor, a: float) -> None:
    if close(x_t, math.sqrt(a) * x_0 + math.sqrt(1 - a) * noise, 1e-6, 1e-8):
        return
    faults = {
        "the weights are the roots of alpha-bar and of 1 - alpha-bar": a * x_0 + (1 - a) * noise,
        "the weights of points and noise are exchanged": math.sqrt(1 - a) * x_0 + math.sqrt(a) * noise,
        "the points are not shrunk": x_0 + math.sqrt(1 - a) * noise,
        "the noise has weight 1 - alpha-bar, a variance; take its root": math.sqrt(a) * x_0 + (1 - a) * noise,
        "this is the noise, without the points": math.sqrt(1 - a) * noise,
    }
    for fault, found in faults.items():
        if close(x_t, found, 1e-6, 1e-8):
            raise Wrong(f"alpha-bar {a}: {fault}")
    raise Wrong(f"alpha-bar {a}: x_t is not sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) noise, row by row")


@exercise(
    "14.2",
    "K proposals, noised",
    check_proposals,
    hints=[
        "K is len(noise). Proposal k is a copy of point k % G, with G = len(points): torch.arange(K) % G are the rows.",
        "x_0 = points[torch.arange(len(noise)) % len(points)]; then q_sample of notebook 01, with math.sqrt.",
    ],
)
def noised_proposals(points, noise, a_bar_t):
    x_0 = points[torch.arange(len(noise)) % len(points)]
    return x_0, math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise


# -- 14.3: the step from noise to spans --------------------------------------------------------------


def _means(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    places = torch.arange(first.shape[1], dtype=torch.float64)
    return first @ places, last @ places + 1


def _ddim(x_0: Tensor, x_t: Tensor, a: float, s: float) -> Tensor:
    noise = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
    return math.sqrt(s) * x_0 + math.sqrt(1 - s) * noise


def wrong_steps(first: Tensor, last: Tensor, x_t: Tensor, a: float, s: float) -> dict[str, Tensor]:
    n = first.shape[1]
    start, end = _means(first, last)
    x_0 = _points(torch.stack([start, end], -1), n)
    inner, shown = _points(torch.stack([start, end - 1], -1), n), torch.stack([first.argmax(1), last.argmax(1) + 1], -1)
    noise = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
    return {
        "this is the estimate of x_0, not x_s": x_0,
        "the end is behind the last token: its place is j + 1": _ddim(inner, x_t, a, s),
        "x_0 comes from the most probable places; take the mean of the places": _ddim(_points(shown, n), x_t, a, s),
        "x_s is put together with alpha-bar_t; the step goes to alpha-bar_s": _ddim(x_0, x_t, a, a),
        "the noise of x_s has to be the one in x_t, of weight sqrt(1 - alpha-bar_s)": math.sqrt(s) * x_0,
        "the weights are the roots of alpha-bar_s and of 1 - alpha-bar_s": s * x_0 + (1 - s) * noise,
        "start and end are places; x_0 is the point of the span, as in 14.1": _ddim(
            torch.stack([start, end], -1), x_t, a, s
        ),
    }


def check_step(denoise_step: Callable) -> None:
    for K, n, a, s, seed in [(4, 6, 0.1, 0.7, 0), (2, 11, 0.5, 0.9, 1), (3, 5, 0.01, 1.0, 2)]:
        first, last = (3 * normal(K, n, seed=seed + 9 * side) for side in range(2))
        given = [first.softmax(1), last.softmax(1), normal(K, 2, seed=seed + 40)]
        first, last, x_t = (tensor.clone() for tensor in given)
        answer = called(denoise_step, first, last, x_t, a, s, faults=PLAIN_NUMBERS)
        refuse_changes([first, last, x_t], given, "first, last and x_t")
        if not isinstance(answer, (tuple, list)) or len(answer) != 2:
            raise Wrong("the result should be two tensors: x_s, spans")
        first, last, x_t = given
        x_s, spans = as_float64(answer[0], (K, 2), "x_s"), as_float64(answer[1], (K, 2), "the spans")
        x_0 = _points(torch.stack(_means(first, last), -1), n)
        if not close(x_s, _ddim(x_0, x_t, a, s), 1e-5, 1e-6):
            for fault, found in wrong_steps(first, last, x_t, a, s).items():
                if close(x_s, found, 1e-5, 1e-6):
                    raise Wrong(fault)
            raise Wrong(f"alpha-bar {a} to {s}: x_s is not the DDIM step from x_t and the mean of the places")
        _check_spans(spans, first, last)


def _check_spans(spans: Tensor, first: Tensor, last: Tensor) -> None:
    """spans: the answer's. first, last: probabilities (K, n)."""
    start, end = first.argmax(1), last.argmax(1)
    right = torch.stack([start, end.maximum(start) + 1], -1).double()
    if torch.equal(spans, right):
        return
    if torch.equal(spans, torch.stack([start, end], -1).double()) or torch.equal(spans, right - torch.tensor([0, 1])):
        raise Wrong("the end of a span is the token behind the last one: add 1")
    if torch.equal(spans, torch.stack(_means(first, last), -1).round()):
        raise Wrong("a span is read off the most probable places, not off their means")
    if (spans[:, 1] <= spans[:, 0]).any():
        raise Wrong("where the last token lies before the first, the span should be the first token alone")
    raise Wrong(f"the pointers show {right.long().tolist()}, your spans are {spans.long().tolist()}")


@exercise(
    "14.3",
    "the step from noise to spans",
    check_step,
    hints=[
        "places = torch.arange(n); the mean start is first @ places, the mean end last @ (places + 1), of one dtype. "
        "to_points of both, stacked, is the estimate of x_0.",
        "The noise in x_t is (x_t - sqrt(a_bar_t) x_0) / sqrt(1 - a_bar_t); x_s is sqrt(a_bar_s) x_0 + "
        "sqrt(1 - a_bar_s) noise.",
        "For the spans: start = first.argmax(1), and the end is last.argmax(1).maximum(start) + 1.",
    ],
)
def denoise_step(first, last, x_t, a_bar_t, a_bar_s):
    places = torch.arange(first.shape[1]).to(first)
    x_0 = to_points(torch.stack([first @ places, last @ (places + 1)], dim=-1), len(places))
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    x_s = math.sqrt(a_bar_s) * x_0 + math.sqrt(1 - a_bar_s) * noise
    start = first.argmax(1)
    return x_s, torch.stack([start, last.argmax(1).maximum(start) + 1], dim=-1)


# -- 14.4: what may stand together -------------------------------------------------------------------

SCORED = [
    [(0, 5, 0.9), (1, 3, 0.8), (4, 7, 0.7)],
    [(0, 5, 0.6), (4, 7, 0.9), (5, 6, 0.5)],
    [(2, 4, 0.5), (2, 6, 0.8), (3, 8, 0.9), (0, 9, 0.1)],
    [(0, 2, 0.3), (2, 4, 0.2), (1, 3, 0.1)],
    [(1, 4, 0.7)],
    [(0, 8, 0.9), (0, 3, 0.8), (4, 6, 0.7)],
    [(0, 4, 0.9), (2, 6, 0.8), (5, 8, 0.7)],
    [(0, 5, 0.9), (3, 5, 0.8)],
    [],
]


def _kept(scored: list, crossing: Callable, order: int = -1, with_all: bool = False) -> set:
    """order: -1 surest first, 1 surest last, 0 as given. with_all: compared with those thrown out, too."""
    kept, seen = [], []
    for span in sorted(scored, key=lambda span: order * span[2]):
        if not any(crossing(span, other) for other in (seen if with_all else kept)):
            kept.append(span)
        seen.append(span)
    return set(kept)


def _crosses(a: tuple, b: tuple) -> bool:
    return a[0] < b[0] < a[1] < b[1] or b[0] < a[0] < b[1] < a[1]


def check_nesting(keep_nested: Callable) -> None:
    wrongs = {
        "names that nest are thrown out; only those that cross may not stand together": dict(
            crossing=lambda a, b: a[0] < b[1] and b[0] < a[1]
        ),
        "of two that cross, the one with the higher score stays": dict(crossing=_crosses, order=1),
        "go through them from the surest on, so that the one with the higher score stays": dict(
            crossing=_crosses, order=0
        ),
        "names that only touch do not cross: an end is behind the last token": dict(
            crossing=lambda a, b: a[0] < b[0] <= a[1] < b[1] or b[0] < a[0] <= b[1] < a[1]
        ),
        "compare with the spans that were kept, not with all that are surer": dict(crossing=_crosses, with_all=True),
        "names with one edge in common nest; they do not cross": dict(
            crossing=lambda a, b: a[0] <= b[0] < a[1] <= b[1] or b[0] <= a[0] < b[1] <= a[1]
        ),
        "two spans cross in two ways: the surer one may begin first, or last": dict(
            crossing=lambda a, b: a[0] < b[0] < a[1] < b[1]
        ),
        "nothing is thrown out": dict(crossing=lambda a, b: False),
    }
    answers = [_nested_answer(keep_nested, scored) for scored in SCORED]
    for scored, answer in zip(SCORED, answers):
        right = _kept(scored, _crosses)
        if set(answer) == right and len(answer) == len(right):
            continue
        for fault, how in wrongs.items():
            if all(set(seen) == _kept(given, **how) for given, seen in zip(SCORED, answers)):
                raise Wrong(f"of {scored}: {fault}")
        raise Wrong(f"of {scored} there should stay {sorted(right)}, got {sorted(answer)}")


def _nested_answer(keep_nested: Callable, scored: list) -> list:
    given = list(scored)
    answer = keep_nested(given)
    if given != scored:
        raise Wrong("your function changes the list that it is given; make a new one")
    if not isinstance(answer, (list, tuple, set)) or not set(answer) <= set(scored):
        raise Wrong(f"the result should be a list of some of the spans given, got {answer!r}")
    return list(answer)


@exercise(
    "14.4",
    "names that may stand together",
    check_nesting,
    hints=[
        "Go through the spans from the highest score down, and keep one unless it crosses a span kept before.",
        "Two spans cross if both edges of one lie on the same side of the other's, and they share a token: "
        "a < c < b < d, or c < a < d < b.",
    ],
)
def keep_nested(scored):
    kept = []
    for start, end, score in sorted(scored, key=lambda span: -span[2]):
        if not any(a < start < b < end or start < a < end < b for a, b, _ in kept):
            kept.append((start, end, score))
    return kept
