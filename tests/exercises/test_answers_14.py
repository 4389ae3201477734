"""Answers to notebook 14's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re
from itertools import cycle, islice

import pytest
import torch

from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def row_by_row(spans, n):
    rows = [(2 * (a + b) / n - 2, 4 * (b - a) / n - 2) for a, b in spans.tolist()]
    return torch.tensor(rows)


def by_matrix(spans, n):
    return spans.float() @ torch.tensor([[2.0, -4.0], [2.0, 4.0]]) / n - 2


def by_cycle(points, noise, a_bar_t):
    x_0 = torch.stack(list(islice(cycle(points), len(noise))))
    return x_0, a_bar_t**0.5 * x_0 + (1 - a_bar_t) ** 0.5 * noise


def by_blocks(points, noise, a_bar_t):
    """Copies of one point side by side, as even as it goes."""
    order = (torch.arange(len(noise)) * len(points)) // len(noise) if len(noise) >= len(points) else range(len(noise))
    x_0 = points[torch.as_tensor(list(order))]
    return [x_0, math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise]


def step_by_sums(first, last, x_t, a_bar_t, a_bar_s):
    n, spans, starts, ends = first.shape[1], [], [], []
    for p, q in zip(first, last):
        starts.append(sum(p[k] * k for k in range(n)))
        ends.append(sum(q[k] * (k + 1) for k in range(n)))
        start = int(p.argmax())
        spans.append((start, max(int(q.argmax()), start) + 1))
    start, end = torch.stack(starts), torch.stack(ends)
    x_0 = torch.stack([2 * (start + end) / n - 2, 4 * (end - start) / n - 2], dim=1)
    ratio = math.sqrt((1 - a_bar_s) / (1 - a_bar_t))
    return ratio * x_t + (math.sqrt(a_bar_s) - ratio * math.sqrt(a_bar_t)) * x_0, torch.tensor(spans)


def crosses(a, b):
    return max(a[0], b[0]) < min(a[1], b[1]) and (a[0] - b[0]) * (a[1] - b[1]) > 0


def by_product(scored):
    kept = []
    for span in sorted(scored, key=lambda span: span[2], reverse=True):
        if not [one for one in kept if crosses(one, span)]:
            kept.append(span)
    return tuple(kept)


RIGHT = [("14.1", row_by_row), ("14.1", by_matrix), ("14.2", by_cycle), ("14.2", by_blocks), ("14.3", step_by_sums)]
RIGHT += [("14.4", by_product)]


@pytest.mark.parametrize(("number", "answer"), RIGHT, ids=lambda value: getattr(value, "__name__", None))
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def without_scale(spans, n):
    return by_matrix(spans, n) / 2


def in_0_1(spans, n):
    return (by_matrix(spans, n) / 2 + 1) / 2


def left_and_right(spans, n):
    return 4 * spans / n - 2


def last_token_counted_twice(spans, n):
    return by_matrix(spans + torch.tensor([0, 1]), n) - torch.tensor([2 / n, 0])


def by_n_minus_one(spans, n):
    return by_matrix(spans, max(n - 1, 1))


def turned(spans, n):
    return by_matrix(spans, n).flip(1)


def sums(spans, n):
    return by_matrix(spans, n) * torch.tensor([2.0, 1.0]) + torch.tensor([2.0, 0.0])


def half(spans, n):
    return by_matrix(spans, n) * torch.tensor([1.0, 0.5]) - torch.tensor([0.0, 1.0])


def padded_with_zeros(points, noise, a_bar_t):
    x_0 = torch.zeros_like(noise)
    x_0[: len(points)] = points[: len(noise)]
    return x_0, math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise


def the_last_again_and_again(points, noise, a_bar_t):
    x_0 = points[torch.arange(len(noise)).clamp(max=len(points) - 1)]
    return x_0, math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise


def without_roots(points, noise, a_bar_t):
    x_0, _ = by_cycle(points, noise, a_bar_t)
    return x_0, a_bar_t * x_0 + (1 - a_bar_t) * noise


def variance_for_root(points, noise, a_bar_t):
    x_0, _ = by_cycle(points, noise, a_bar_t)
    return x_0, a_bar_t**0.5 * x_0 + (1 - a_bar_t) * noise


def not_shrunk(points, noise, a_bar_t):
    x_0, x_t = by_cycle(points, noise, a_bar_t)
    return x_0, x_t + (1 - math.sqrt(a_bar_t)) * x_0


def exchanged(points, noise, a_bar_t):
    return by_cycle(points, noise, 1 - a_bar_t)


def x_t_alone(points, noise, a_bar_t):
    return by_cycle(points, noise, a_bar_t)[1]


def in_place(points, noise, a_bar_t):
    x_0, x_t = by_cycle(points, noise, a_bar_t)
    noise.copy_(x_t)
    return x_0, noise


def by_torch(points, noise, a_bar_t):
    return torch.sqrt(a_bar_t) * points, noise


def the_estimate(first, last, x_t, a_bar_t, a_bar_s):
    return step_by_sums(first, last, x_t, a_bar_t, 1.0)


def the_same_noise_level(first, last, x_t, a_bar_t, a_bar_s):
    return step_by_sums(first, last, x_t, a_bar_t, a_bar_t)


def inner_ends(first, last, x_t, a_bar_t, a_bar_s):
    _, spans = step_by_sums(first, last, x_t, a_bar_t, a_bar_s)
    x_0 = torch.stack(_start_end(first, last, 0, first.shape[1]), 1)
    return _ddim(x_0, x_t, a_bar_t, a_bar_s), spans


def _start_end(first, last, more, n):
    places = torch.arange(n).to(first)
    start, end = first @ places, last @ (places + more)
    return 2 * (start + end) / n - 2, 4 * (end - start) / n - 2


def _ddim(x_0, x_t, a, s):
    noise = (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)
    return math.sqrt(s) * x_0 + math.sqrt(1 - s) * noise


def by_argmax(first, last, x_t, a_bar_t, a_bar_s):
    _, spans = step_by_sums(first, last, x_t, a_bar_t, a_bar_s)
    n, start, end = first.shape[1], first.argmax(1), last.argmax(1) + 1
    x_0 = torch.stack([2 * (start + end) / n - 2, 4 * (end - start) / n - 2], 1)
    return _ddim(x_0, x_t, a_bar_t, a_bar_s), spans


def no_noise(first, last, x_t, a_bar_t, a_bar_s):
    x_0, spans = the_estimate(first, last, x_t, a_bar_t, a_bar_s)
    return math.sqrt(a_bar_s) * x_0, spans


def places_for_points(first, last, x_t, a_bar_t, a_bar_s):
    _, spans = step_by_sums(first, last, x_t, a_bar_t, a_bar_s)
    places = torch.arange(first.shape[1]).to(first)
    return _ddim(torch.stack([first @ places, last @ (places + 1)], 1), x_t, a_bar_t, a_bar_s), spans


def inclusive_ends(first, last, x_t, a_bar_t, a_bar_s):
    x_s, _ = step_by_sums(first, last, x_t, a_bar_t, a_bar_s)
    return x_s, torch.stack([first.argmax(1), last.argmax(1)], 1)


def rounded_means(first, last, x_t, a_bar_t, a_bar_s):
    x_s, _ = step_by_sums(first, last, x_t, a_bar_t, a_bar_s)
    places = torch.arange(first.shape[1]).to(first)
    return x_s, torch.stack([first @ places, last @ (places + 1)], 1).round()


def empty_spans(first, last, x_t, a_bar_t, a_bar_s):
    x_s, _ = step_by_sums(first, last, x_t, a_bar_t, a_bar_s)
    return x_s, torch.stack([first.argmax(1), last.argmax(1) + 1], 1)


def no_overlap(scored):
    kept = []
    for span in sorted(scored, key=lambda span: -span[2]):
        if not any(a < span[1] and span[0] < b for a, b, _ in kept):
            kept.append(span)
    return kept


def lowest_first(scored):
    kept = []
    for span in sorted(scored, key=lambda span: span[2]):
        if not any(crosses(one, span) for one in kept):
            kept.append(span)
    return kept


def everything(scored):
    return list(scored)


def with_all_surer(scored):
    ordered = sorted(scored, key=lambda span: -span[2])
    return [span for k, span in enumerate(ordered) if not any(crosses(one, span) for one in ordered[:k])]


def shared_edges_cross(scored):
    kept = []
    for a, b, score in sorted(scored, key=lambda span: -span[2]):
        if not any(c <= a < d <= b or a <= c < b <= d for c, d, _ in kept):
            kept.append((a, b, score))
    return kept


def shared_ends_cross(scored):
    kept = []
    for a, b, score in sorted(scored, key=lambda span: -span[2]):
        if not any(c < a < d <= b or a < c < b <= d for c, d, _ in kept):
            kept.append((a, b, score))
    return kept


def one_way_only(scored):
    kept = []
    for a, b, score in sorted(scored, key=lambda span: -span[2]):
        if not any(a < c < b < d for c, d, _ in kept):
            kept.append((a, b, score))
    return kept


def in_the_order_given(scored):
    kept = []
    for span in scored:
        if not any(crosses(one, span) for one in kept):
            kept.append(span)
    return kept


def sorts_in_place(scored):
    scored.sort(key=lambda span: -span[2])
    return by_product(scored)


def without_scores(scored):
    return [span[:2] for span in by_product(scored)]


WRONG = [
    ("14.3", rounded_means, "read off the most probable places, not off their means"),
    ("14.4", with_all_surer, "compare with the spans that were kept"),
    ("14.4", shared_edges_cross, "one edge in common nest"),
    ("14.4", shared_ends_cross, r"there should stay \[\(0, 5, 0.9\), \(3, 5, 0.8\)\]"),
    ("14.4", one_way_only, "cross in two ways"),
    ("14.1", without_scale, "the signal scale b = 2 is missing"),
    ("14.1", in_0_1, r"in \[0, 1\]: take them times 2"),
    ("14.1", left_and_right, "left and right edge"),
    ("14.1", last_token_counted_twice, r"without \+ 1"),
    ("14.1", by_n_minus_one, "not by n - 1"),
    ("14.1", turned, "centre and width are exchanged"),
    ("14.1", sums, "the centre is the mean of start and end"),
    ("14.1", half, "half the width"),
    ("14.2", padded_with_zeros, "none of the points; repeat them"),
    ("14.2", the_last_again_and_again, "its fair share"),
    ("14.2", without_roots, "the roots of alpha-bar"),
    ("14.2", variance_for_root, "a variance; take its root"),
    ("14.2", not_shrunk, "the points are not shrunk"),
    ("14.2", exchanged, "exchanged"),
    ("14.2", x_t_alone, "two tensors: x_0, x_t"),
    ("14.2", in_place, "changes what it is given"),
    ("14.2", by_torch, "math.sqrt"),
    ("14.3", the_estimate, "the estimate of x_0, not x_s"),
    ("14.3", the_same_noise_level, "put together with alpha-bar_t"),
    ("14.3", inner_ends, r"its place is j \+ 1"),
    ("14.3", by_argmax, "take the mean of the places"),
    ("14.3", no_noise, "of weight sqrt"),
    ("14.3", places_for_points, "the point of the span, as in 14.1"),
    ("14.3", inclusive_ends, "the token behind the last one: add 1"),
    ("14.3", empty_spans, "the first token alone"),
    ("14.4", no_overlap, "names that nest are thrown out"),
    ("14.4", lowest_first, "the higher score stays"),
    ("14.4", everything, "nothing is thrown out"),
    ("14.4", in_the_order_given, "the higher score stays"),
    ("14.4", sorts_in_place, "changes the list"),
    ("14.4", without_scores, "some of the spans given"),
]


@pytest.mark.parametrize(("number", "answer", "told"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
