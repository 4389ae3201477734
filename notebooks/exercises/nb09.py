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


# IOB1, and the same mentions in BIO.
IOB1_CASES = [
    ([], []),
    (["O", "O"], ["O", "O"]),
    (["I-X", "I-X", "O"], ["B-X", "I-X", "O"]),
    (["O", "I-X", "O", "I-X"], ["O", "B-X", "O", "B-X"]),
    (["I-X", "B-X", "I-X"], ["B-X", "B-X", "I-X"]),
    (["I-X", "I-Y", "I-Y"], ["B-X", "B-Y", "I-Y"]),
    (["I-X", "B-X", "B-X", "I-Y"], ["B-X", "B-X", "B-X", "B-Y"]),
    (["O", "I-cell_line", "I-cell-type"], ["O", "B-cell_line", "B-cell-type"]),
]


def check_iob1(iob1_to_bio: Callable) -> None:
    for tags, right in IOB1_CASES:
        given = list(tags)
        seen = iob1_to_bio(given)
        if given != tags:
            raise Wrong(f"your function changed the list it was given, {tags}; make a new one")
        seen = _list_of_tags(seen, len(tags))
        if seen == right:
            continue
        i = next(i for i, (tag, expected) in enumerate(zip(seen, right)) if tag != expected)
        why = {
            "B": "a mention begins there, so BIO writes B-",
            "I": "the mention goes on there, so it stays I-",
            "O": "no mention is there",
        }[right[i][0]]
        raise Wrong(f"for {tags}, tag {i} is {seen[i]!r} and should be {right[i]!r}: {why}")


def _list_of_tags(seen: Any, length: int) -> list[str]:
    if not isinstance(seen, (list, tuple)) or not all(isinstance(tag, str) for tag in seen):
        raise Wrong(f"the result should be a list of strings, got {seen!r}")
    if len(seen) != length:
        raise Wrong(f"{length} tags went in and {len(seen)} came out; every token needs one")
    return list(seen)


@exercise(
    "09.1",
    "an old scheme",
    check_iob1,
    hints=[
        "Only I- tags can change: in which case does an I- begin a mention?",
        "It begins one when the tag before it is O, or of another type. tag[2:] is the type, and '' for O.",
        "Go through the tags and remember the one before: if tag[0] == 'I' and before[2:] != tag[2:], write B-.",
    ],
)
def iob1_to_bio(tags):
    result, before = [], "O"
    for tag in tags:
        # An I- begins a mention unless the tag before it belongs to one of the same type.
        if tag[0] == "I" and before[2:] != tag[2:]:
            result.append("B" + tag[1:])
        else:
            result.append(tag)
        before = tag
    return result


# -- 09.2 ------------------------------------------------------------------------------------------


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
    "09.2",
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


# -- 09.3 ------------------------------------------------------------------------------------------


def _kappa_of_labels(first: set, second: set, candidates: int) -> float:
    """From the definition: one label for each item, items without a mark included."""
    items = sorted(first | second) + [None] * (candidates - len(first | second))
    labels, others = [item in first for item in items], [item in second for item in items]
    observed = sum(a == b for a, b in zip(labels, others)) / candidates
    expected = sum(labels.count(value) * others.count(value) for value in (True, False)) / candidates**2
    return (observed - expected) / (1 - expected)


def check_kappa(span_kappa: Callable) -> None:
    generator = random.Random(0)
    for _ in range(20):
        spans = _random_spans(generator, 10)
        first, second = set(spans[:7]), set(spans[generator.randint(1, 6) :])
        f1 = 2 * len(first & second) / (len(first) + len(second))
        for candidates in (50, 12, 5000):
            seen = as_number(span_kappa(set(first), set(second), candidates))
            right = _kappa_of_labels(first, second, candidates)
            if abs(seen - right) < 1e-6:
                continue
            where = (
                f"with {len(first & second)} spans in both, {len(first - second)} only in the first, "
                f"{len(second - first)} only in the second and {candidates} candidates"
            )
            if abs(seen - f1) < 1e-6:
                raise Wrong(f"{where} you return F1, {f1:.4f}; kappa is {right:.4f} and only approaches it")
            if abs(seen - (1 - len(first ^ second) / candidates)) < 1e-6:
                raise Wrong(f"{where} this is the observed agreement; what chance alone would give is not taken off")
            same = "two spans are the same only if start, end and type are"
            raise Wrong(f"{where} ({same}) kappa is {right:.4f}, you return {seen:.4f}")
    if abs(as_number(span_kappa({(0, 1, "X")}, {(0, 1, "X")}, 10)) - 1) > 1e-6:
        raise Wrong("two annotators who mark the same have a kappa of 1")


@exercise(
    "09.3",
    "kappa on spans",
    check_kappa,
    hints=[
        "Fill the table of section 12 first: a = len(first & second); what is d, out of `candidates`?",
        "d = candidates - len(first | second). p_o = (a + d) / candidates.",
        "With p and q the shares that each marks: p_e = p q + (1 - p) (1 - q). Then eq. (5); or eq. (8).",
    ],
)
def span_kappa(first, second, candidates):
    both = len(first & second)
    neither = candidates - len(first | second)
    observed = (both + neither) / candidates
    p, q = len(first) / candidates, len(second) / candidates  # how often each says "marked"
    expected = p * q + (1 - p) * (1 - q)
    return (observed - expected) / (1 - expected)


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
