"""Exercises of notebook 09, biomedical NER. The checks use enumeration and closed forms, nothing of utils.ner."""

import itertools
import random
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

from notebooks.exercises import as_number
from utils.course.exercises import Wrong, exercise

Span = tuple[int, int, str]


def _random_spans(generator: random.Random, count: int, length: int = 12) -> list[Span]:
    """Spans of up to 5 tokens anywhere in a sentence, no two equal; they may nest and cross."""
    found = set()
    while len(found) < count:
        start = generator.randrange(length)
        found.add((start, min(length, start + generator.randint(1, 5)), generator.choice("XY")))
    return sorted(found)


# -- 09.1 ------------------------------------------------------------------------------------------


# BIO tags, orphans among them, and their spans.
TAG_CASES: list[tuple[list[str], list[Span]]] = [
    ([], []),
    (["O", "O"], []),
    (["O", "B-X", "I-X", "O"], [(1, 3, "X")]),
    (["B-X", "O", "B-Y", "O"], [(0, 1, "X"), (2, 3, "Y")]),
    (["O", "B-X", "I-X", "I-X"], [(1, 4, "X")]),
    (["B-X", "B-X", "I-X"], [(0, 1, "X"), (1, 3, "X")]),
    (["B-X", "I-X", "B-Y", "I-Y"], [(0, 2, "X"), (2, 4, "Y")]),
    (["O", "B-cell-line", "I-cell-line", "O"], [(1, 3, "cell-line")]),
    (["B-O", "I-O", "O"], [(0, 2, "O")]),
    (["O", "I-X", "I-X", "O"], [(1, 3, "X")]),
    (["I-X", "O"], [(0, 1, "X")]),
    (["B-X", "I-Y", "I-Y"], [(0, 1, "X"), (1, 3, "Y")]),
    (["B-X", "I-Y", "I-X"], [(0, 1, "X"), (1, 2, "Y"), (2, 3, "X")]),
    (["B-X", "O", "I-X"], [(0, 1, "X"), (2, 3, "X")]),
]


def spans_by_pairs(tags: list[str]) -> list[Span]:
    """From the definition: token i begins a mention unless it is an I- right behind a tag of its type."""
    goes_on = [i > 0 and tag[0] == "I" and tags[i - 1][1:] == tag[1:] for i, tag in enumerate(tags)]
    starts = [i for i, tag in enumerate(tags) if tag != "O" and not goes_on[i]]
    ends = [next(j for j in range(i + 1, len(tags) + 1) if not [*goes_on, False][j]) for i in starts]
    return [(i, j, tags[i][2:]) for i, j in zip(starts, ends)]


def check_spans(my_spans: Callable) -> None:
    generator = random.Random(0)
    lengths = [generator.randint(1, 9) for _ in range(200)]
    tags = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    cases = TAG_CASES + [(case, spans_by_pairs(case)) for case in (generator.choices(tags, k=n) for n in lengths)]
    for case, right in cases:
        given = list(case)
        seen = my_spans(given)
        if given != case:
            raise Wrong(f"your function changed the list it was given, {case}; leave it as it is")
        if not isinstance(seen, list) or not all(isinstance(span, tuple) and len(span) == 3 for span in seen):
            raise Wrong(f"for {case} the result should be a list of tuples (i, j, type), got {seen!r}")
        if seen != right:
            raise Wrong(f"for {case} the spans are {right}, you return {seen}: {_why_spans(case, seen, right)}")


def _why_spans(tags: list[str], seen: list[Span], right: list[Span]) -> str:
    if [(i, j + 1, kind) for i, j, kind in seen] == right:
        return "j is the token behind the last one, so that tags[i:j] is the mention"
    if set(seen) == set(right):
        return "each span once, and from left to right"
    if [span[:2] for span in seen] == [span[:2] for span in right]:
        return "the type is all that stands behind B- or I-"
    if set(seen) == {span for span in right if span[1] < len(tags)}:
        return "the mention that reaches the last token is missing"
    for i, j, kind in right:
        if (i, j, kind) in seen:
            continue
        if tags[i][0] == "I" and not any(start <= i < end for start, end, _ in seen):
            return f"tag {i}, {tags[i]!r}, continues nothing; such an orphan begins a mention, and none is there"
        if j < len(tags) and any(start <= i and end > j for start, end, _ in seen):
            return {
                "B": f"tag {j} is {tags[j]!r}, and a B- always begins a new mention",
                "I": f"tag {j}, {tags[j]!r}, is of another type than the tag before: an orphan, and begins a mention",
                "O": f"tag {j} is O, which ends every mention",
            }[tags[j][0]]
        if any(start == i and end < j for start, end, _ in seen):
            return f"the mention that begins at {i} goes on through every I- of its type, up to {j}"
        return f"the mention ({i}, {j}, {kind!r}) is missing"
    return "there is a span too many"


@exercise(
    "09.1",
    "tags to spans",
    check_spans,
    hints=[
        "Go through the tags with their places and skip every O. For the others there are two cases: go on, or begin.",
        "A tag goes on if it is an I- and the last span so far ends exactly here and has its type, tag[2:].",
        "Going on: replace the last span by one with j + 1. Else append (i, i + 1, tag[2:]). Orphans need no case of "
        "their own.",
    ],
)
def my_spans(tags):
    spans = []
    for i, tag in enumerate(tags):
        if tag == "O":
            continue
        # An I- goes on where a span of its type ends; every other tag begins a span.
        if tag[0] == "I" and spans and spans[-1][1:] == (i, tag[2:]):
            spans[-1] = (spans[-1][0], i + 1, tag[2:])
        else:
            spans.append((i, i + 1, tag[2:]))
    return spans


# -- 09.2 ------------------------------------------------------------------------------------------


def kappa_by_pairs(first: list[str], second: list[str]) -> float:
    """From the definition: luck is the agreement of every label of the one with every label of the other."""
    observed = sum(a == b for a, b in zip(first, second)) / len(first)
    expected = sum(a == b for a in first for b in second) / len(first) ** 2
    return (observed - expected) / (1 - expected)


# Answers that are something else than kappa, and what is wrong with them.
def _observed(first: list[str], second: list[str]) -> float:
    return sum(a == b for a, b in zip(first, second)) / len(first)


def _expected(first: list[str], second: list[str]) -> float:
    return sum(first.count(x) * second.count(x) for x in {*first, *second}) / len(first) ** 2


def _pooled(first: list[str], second: list[str]) -> float:
    return sum(((first + second).count(x) / (2 * len(first))) ** 2 for x in {*first, *second})


def _without_o(first: list[str], second: list[str]) -> float:
    named = [pair for pair in zip(first, second) if pair != ("O", "O")]
    return kappa_by_pairs(*map(list, zip(*named)))


def _over(luck: Callable) -> Callable:
    return lambda first, second: (_observed(first, second) - luck(first, second)) / (1 - luck(first, second))


NOT_KAPPA: list[tuple[Callable, str]] = [
    (_observed, "this is the observed agreement p_o; what luck alone would give is not taken off"),
    (_expected, "this is p_e, the agreement that luck alone would give"),
    (lambda a, b: _observed(a, b) - _expected(a, b), "p_o - p_e has to be divided by 1 - p_e"),
    (lambda a, b: _observed(a, b) - _expected(a, b) / (1 - _expected(a, b)), "brackets: all of p_o - p_e is divided"),
    (_over(_pooled), "p_e is from the annotators' mean shares (Scott's pi); kappa multiplies the two shares"),
    (_over(lambda a, b: 1 / len({*a, *b})), "p_e takes every label as equally likely; use how often each is given"),
    (_over(lambda a, b: _expected(a, a)), "p_e uses the first annotator's shares twice"),
    (_over(lambda a, b: _expected(b, b)), "p_e uses the second annotator's shares twice"),
    (_over(lambda a, b: a.count("O") * b.count("O") / len(a) ** 2), "p_e is a sum over all labels, not O alone"),
    (_without_o, "tokens that both call O are items too; none may be left out"),
]


def check_kappa(kappa: Callable) -> None:
    generator = random.Random(0)
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    cases = [(["O", "B-X", "O", "O"], ["O", "B-Y", "B-Z", "O"])]
    for _ in range(20):
        first = generator.choices(labels, [6, 2, 2, 1, 1], k=40)
        second = [x if generator.random() < 0.7 else generator.choice(labels[:2]) for x in first]
        cases.append((first, second))
    for first, second in cases[1:] + cases[:1]:
        seen = as_number(kappa(list(first), list(second)))
        right = kappa_by_pairs(first, second)
        if abs(seen - right) < 1e-6:
            continue
        short = f"for {first} and {second}" if len(first) < 9 else f"for two lists of {len(first)} labels"
        for other, why in NOT_KAPPA:
            if abs(seen - other(first, second)) < 1e-6:
                raise Wrong(f"{short} kappa is {right:.4f}, you return {seen:.4f}: {why}")
        raise Wrong(
            f"{short} p_o is {_observed(first, second):.4f}, p_e is {_expected(first, second):.4f} and kappa "
            f"{right:.4f}; you return {seen:.4f}"
        )
    same = ["O", "B-X", "I-X"]
    if abs(as_number(kappa(list(same), list(same))) - 1) > 1e-6:
        raise Wrong("two annotators who label everything alike have a kappa of 1")
    if abs(as_number(kappa(["O", "B-X"], ["B-X", "O"])) + 1) > 1e-6:
        raise Wrong("kappa can be below 0: for ['O', 'B-X'] and ['B-X', 'O'] it is -1")


@exercise(
    "09.2",
    "Cohen's kappa",
    check_kappa,
    hints=[
        "p_o is the mean of a == b over zip(first, second).",
        "Counter(first)[x] / len(first) is the share s_1(x). A Counter gives 0 for a label that it has not.",
        "p_e is the sum of s_1(x) * s_2(x) over the labels x of the first; then (p_o - p_e) / (1 - p_e).",
    ],
)
def kappa(first, second):
    count = len(first)
    observed = sum(a == b for a, b in zip(first, second)) / count
    # Two readers who draw their labels blindly, each with shares of their own.
    shares = [(first.count(x) / count, second.count(x) / count) for x in set(first)]
    expected = sum(p * q for p, q in shares)
    return (observed - expected) / (1 - expected)


# -- 09.3 ------------------------------------------------------------------------------------------


def fewest_layers(spans: list[Span]) -> int:
    """By trying every assignment of spans to layers: the definition, slow."""
    clash = [
        (i, j)
        for (i, first), (j, second) in itertools.combinations(enumerate(spans), 2)
        if first[0] < second[1] and second[0] < first[1]
    ]
    for layers in range(1, len(spans) + 1):
        for chosen in itertools.product(range(layers), repeat=len(spans)):
            if all(chosen[i] != chosen[j] for i, j in clash):
                return layers
    return 0


# Spans that "each into the first layer with room" puts into one layer too many when it takes them in another order than
# by their start: as they are given, by their end, the longest first.
FIRST_FIT_FAILS = [
    [(0, 1, "X"), (6, 11, "X"), (0, 5, "X"), (3, 8, "X")],
    [(7, 8, "X"), (6, 11, "X"), (2, 6, "X"), (5, 7, "X")],
    [(5, 10, "X"), (3, 5, "X"), (0, 4, "X"), (4, 6, "X")],
]


def check_layers(layers_needed: Callable) -> None:
    generator = random.Random(0)
    cases: list[list[Span]] = [
        [],
        [(0, 2, "X")],
        [(0, 2, "X"), (2, 4, "X")],
        [(0, 3, "X"), (1, 2, "Y")],
        [(0, 2, "X"), (1, 4, "X"), (3, 6, "X")],
        [(0, 9, "X"), (0, 2, "X"), (4, 6, "X")],
        *FIRST_FIT_FAILS,
        *(_random_spans(generator, generator.randint(2, 6)) for _ in range(200)),
    ]
    for spans in cases:
        right = fewest_layers(spans)
        for order in [spans, *(generator.sample(spans, len(spans)) for _ in range(4))]:
            _check_layer_count(order, layers_needed(list(order)), right)


def _check_layer_count(spans: list[Span], seen: Any, right: int) -> None:
    if isinstance(seen, bool) or not isinstance(seen, Integral):
        raise Wrong(f"for {spans} the result should be a whole number, got {seen!r}")
    if seen < right:
        raise Wrong(f"{seen} layers do not hold {spans}: some two in one layer share a token; {right} are needed")
    if seen > right:
        why = f"no token lies in more than {right} of them (the first layer with room is not always the best)"
        if right == 1:
            why = "spans that only touch, like 0-2 and 2-4, share no token"
        raise Wrong(f"{right} layer(s) are enough for {spans}, you answer {seen}: {why}")


@exercise(
    "09.3",
    "as many layers as it takes",
    check_layers,
    hints=[
        "Look at one token: how many layers do the spans that cover it need?",
        "The largest such number over all tokens is needed, and for intervals it is also enough.",
        "max over i of sum(start <= i < end for start, end, kind in spans), and 0 without spans.",
    ],
)
def layers_needed(spans):
    # Spans over one token need layers of their own; as many as meet at the busiest token
    # are enough. That token is the first of some span: only there does the number grow.
    meeting = [sum(start <= i < end for start, end, kind in spans) for i, _, _ in spans]
    return max(meeting, default=0)


# -- 09.4 ------------------------------------------------------------------------------------------


KINDS = ("type", "boundary", "both", "missing")
ONE: set[Span] = {(2, 5, "X")}
# What the second annotator marked where the first has tokens 2 to 4 as X, and the kind of that disagreement.
KIND_CASES: list[tuple[set[Span], str | None]] = [
    ({(2, 5, "X")}, None),
    ({(2, 5, "Y")}, "type"),
    ({(2, 4, "X")}, "boundary"),
    ({(4, 9, "X")}, "boundary"),
    ({(0, 9, "X")}, "boundary"),
    ({(3, 4, "Y")}, "both"),
    (set(), "missing"),
    ({(5, 7, "X")}, "missing"),
    ({(0, 2, "X")}, "missing"),
    ({(2, 5, "Y"), (2, 4, "X")}, "type"),
    ({(1, 3, "Y"), (4, 6, "X")}, "boundary"),
]


def check_kinds(disagreements: Callable) -> None:
    for second, right in KIND_CASES:
        seen = _counts(disagreements(set(ONE), set(second)))
        expected = {kind: int(kind == right) for kind in KINDS}
        if seen != expected:
            said = next((kind for kind in KINDS if seen[kind]), "no disagreement")
            raise Wrong(
                f"the first marked {sorted(ONE)}, the second {sorted(second) or 'nothing'}: this is "
                f"{right or 'no disagreement'}, you count {said if sum(seen.values()) < 2 else seen}"
            )
    several = {(0, 2, "X"), (3, 4, "X"), (6, 8, "Y"), (9, 10, "X")}
    others = {(0, 2, "X"), (3, 4, "Y"), (6, 7, "Y"), (11, 12, "X")}
    seen = _counts(disagreements(set(several), set(others)))
    expected = {"type": 1, "boundary": 1, "both": 0, "missing": 1}
    if seen != expected:
        raise Wrong(f"for {sorted(several)} and {sorted(others)} the counts are {expected}, you return {seen}")


def _counts(seen: Any) -> dict[str, int]:
    if not isinstance(seen, Mapping):
        raise Wrong(f"the result should be a dict, got {type(seen).__name__}")
    lacking = [kind for kind in KINDS if kind not in seen]  # a Counter gives 0 for a key that it has not
    if lacking:
        raise Wrong(
            f"the dict needs all four keys, also where the count is 0; it lacks {', '.join(map(repr, lacking))}"
        )
    if len(seen) > len(KINDS):
        raise Wrong(f"the dict should have the four keys {', '.join(map(repr, KINDS))} and no other, got {dict(seen)}")
    return {kind: seen[kind] for kind in KINDS}


@exercise(
    "09.4",
    "what did they disagree about?",
    check_kinds,
    hints=[
        "first - second are the spans to sort. For each, collect the spans of the second that overlap it.",
        "Two spans overlap if each begins before the other ends: other[0] < end and start < other[1].",
        "The order of the questions matters: same boundaries, then an overlap of the same type, then any overlap.",
    ],
)
def disagreements(first, second):
    counts = {"type": 0, "boundary": 0, "both": 0, "missing": 0}
    for start, end, kind in first - second:
        touched = [other for other in second if other[0] < end and start < other[1]]
        if any(other[:2] == (start, end) for other in touched):
            counts["type"] += 1
        elif any(other[2] == kind for other in touched):
            counts["boundary"] += 1
        elif touched:
            counts["both"] += 1
        else:
            counts["missing"] += 1
    return counts
