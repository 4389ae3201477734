"""Answers to notebook 09's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from notebooks.exercises import nb09
from utils.course.exercises import grade
from utils.ner import tags_to_spans

# -- right ---------------------------------------------------------------------------------------------------


def spans_open(tags):
    """With the open mention kept, and closed at the end."""
    spans, start, kind = [], None, None
    for i, tag in enumerate([*tags, "O"]):
        goes_on = start is not None and tag == f"I-{kind}"
        if start is not None and not goes_on:
            spans.append((start, i, kind))
            start = None
        if tag != "O" and not goes_on:
            start, kind = i, tag.split("-", 1)[1]
    return spans


def spans_while(tags):
    spans, i = [], 0
    while i < len(tags):
        j = i + 1
        if tags[i] != "O":
            while j < len(tags) and tags[j] == "I" + tags[i][1:]:
                j += 1
            spans.append((i, j, tags[i][2:]))
        i = j
    return spans


def spans_grouped(tags):
    """Numbers for the mentions, then groups of equal numbers."""
    numbers, number, before = [], 0, "O"
    for tag in tags:
        number += tag == "O" or tag != "I" + before[1:]
        numbers.append(number)
        before = tag
    groups = [list(places) for _, places in itertools.groupby(range(len(tags)), numbers.__getitem__)]
    return [(group[0], group[-1] + 1, tags[group[0]][2:]) for group in groups if tags[group[0]] != "O"]


def spans_backwards(tags):
    spans, end = [], None
    for i in reversed(range(len(tags))):
        end = end or i + 1
        if tags[i] == "O":
            end = None
        elif i == 0 or tags[i][0] == "B" or tags[i - 1][2:] != tags[i][2:] or tags[i - 1] == "O":
            spans.append((i, end, tags[i][2:]))
            end = None
    return spans[::-1]


def kappa_counters(first, second):
    n, times, others = len(first), Counter(first), Counter(second)
    observed = sum(map(str.__eq__, first, second)) / n
    expected = sum(times[x] * others[x] for x in times.keys() & others.keys()) / n**2
    return 1 - (1 - observed) / (1 - expected)


def kappa_matrix(first, second):
    labels = sorted({*first, *second})
    table = np.zeros((len(labels), len(labels)))
    for a, b in zip(first, second):
        table[labels.index(a), labels.index(b)] += 1
    table /= table.sum()
    expected = table.sum(0) @ table.sum(1)
    return (np.trace(table) - expected) / (1 - expected)


def kappa_arrays(first, second):
    first, second = np.array(first), np.array(second)
    expected = sum((first == x).mean() * (second == x).mean() for x in np.unique([first, second]))
    return np.float64(((first == second).mean() - expected) / (1 - expected))


def layers_by_sweep(spans):
    events = sorted((place, change) for i, j, _ in spans for place, change in ((i, 1), (j, -1)))
    return max(itertools.accumulate(change for _, change in events), default=0)


def layers_by_counter(spans):
    covering = Counter(token for i, j, _ in spans for token in range(i, j))
    return max(covering.values(), default=0)


def layers_first_fit(spans):
    ends = []
    for i, j, _ in sorted(spans):
        free = next((k for k, end in enumerate(ends) if end <= i), None)
        if free is None:
            ends.append(j)
        else:
            ends[free] = j
    return len(ends)


def kind_of(span, others):
    i, j, kind = span
    touched = [other for other in others if max(i, other[0]) < min(j, other[1])]
    for name, holds in [
        ("type", lambda other: other[:2] == (i, j)),
        ("boundary", lambda other: other[2] == kind),
        ("both", lambda other: True),
    ]:
        if any(map(holds, touched)):
            return name
    return "missing"


def kinds_filled(first, second):
    found = Counter(dict.fromkeys(nb09.KINDS, 0))
    found.update(kind_of(span, second) for span in first - second)
    return found


def kinds_dict(first, second):
    found = [kind_of(span, second) for span in first if span not in second]
    return {name: found.count(name) for name in nb09.KINDS}


def kinds_by_tokens(first, second):
    counts = dict.fromkeys(nb09.KINDS, 0)
    for span in first:
        if span in second:
            continue
        tokens = set(range(*span[:2]))
        touched = [other for other in second if tokens & set(range(*other[:2]))]
        same = any(set(range(*other[:2])) == tokens for other in touched)
        alike = any(other[2] == span[2] for other in touched)
        counts["type" if same else "boundary" if alike else "both" if touched else "missing"] += 1
    return counts


RIGHT = [
    *(("09.1", answer) for answer in (tags_to_spans, spans_open, spans_while, spans_grouped, spans_backwards)),
    *(("09.2", answer) for answer in (cohen_kappa_score, kappa_counters, kappa_matrix, kappa_arrays)),
    *(("09.3", answer) for answer in (layers_by_sweep, layers_by_counter, layers_first_fit)),
    *(("09.4", answer) for answer in (kinds_dict, kinds_by_tokens, kinds_filled)),
]


@pytest.mark.parametrize(("number", "answer"), RIGHT)
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def spans(change):
    """The right spans, changed."""
    return lambda tags: change(nb09.my_spans(tags), tags)


def spans_last_lost(tags):
    found, start = [], None
    for i, tag in enumerate(tags):
        if start is not None and tag != "I" + tags[start][1:]:
            found.append((start, i, tags[start][2:]))
            start = None
        if tag != "O" and start is None:
            start = i
    return found


def spans_by_type(tags):
    """Neighbours of one type melt, as under IO."""
    groups = [list(group) for _, group in itertools.groupby(range(len(tags)), lambda i: tags[i][2:])]
    return [(group[0], group[-1] + 1, tags[group[0]][2:]) for group in groups if tags[group[0]] != "O"]


def spans_any_inside(tags):
    """An I- goes on whatever the type of the mention is."""
    found = []
    for i, tag in enumerate(tags):
        if tag[0] == "I" and found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1, found[-1][2])
        elif tag != "O":
            found.append((i, i + 1, tag[2:]))
    return found


def spans_over_gaps(tags):
    """An I- goes on with the last mention of its type, also after an O."""
    found = []
    for i, tag in enumerate(tags):
        if tag[0] == "I" and found and found[-1][2] == tag[2:]:
            found[-1] = (found[-1][0], i + 1, tag[2:])
        elif tag != "O":
            found.append((i, i + 1, tag[2:]))
    return found


def spans_first_only(tags):
    return [(i, i + 1, tag[2:]) for i, tag in enumerate(tags) if tag != "O"]


def spans_popping(tags):
    found = nb09.my_spans(tags)
    tags.clear()
    return found


def spans_refusing(tags):
    return tags_to_spans(tags, orphan="refuse")


def kappa_of(luck):
    def answer(first, second):
        observed = np.mean([a == b for a, b in zip(first, second)])
        expected = luck(first, second)
        return (observed - expected) / (1 - expected)

    return answer


def share(labels, label):
    return labels.count(label) / len(labels)


def luck(first, second):
    return sum(share(first, x) * share(second, x) for x in {*first, *second})


def observed(first, second):
    return sum(a == b for a, b in zip(first, second)) / len(first)


def kappa_lookup(first, second):
    times, others = dict(Counter(first)), dict(Counter(second))
    expected = sum(times[x] * others[x] for x in times) / len(first) ** 2
    return (observed(first, second) - expected) / (1 - expected)


def kappa_named(first, second):
    kept = [(a, b) for a, b in zip(first, second) if (a, b) != ("O", "O")]
    return nb09.kappa(*map(list, zip(*kept)))


WRONG = [
    ("09.1", spans(lambda found, tags: [(i, j - 1, kind) for i, j, kind in found]), "token behind the last one"),
    ("09.1", spans(lambda found, tags: found[::-1]), "from left to right"),
    ("09.1", spans(lambda found, tags: set(found)), "should be a list of tuples"),
    ("09.1", spans(lambda found, tags: [list(span) for span in found]), "should be a list of tuples"),
    ("09.1", spans(lambda found, tags: iter(found)), "should be a list of tuples"),
    ("09.1", spans(lambda found, tags: [(i, j) for i, j, _ in found]), "should be a list of tuples"),
    ("09.1", spans(lambda found, tags: [(i, j, tags[i]) for i, j, _ in found]), "all that stands behind B- or I-"),
    ("09.1", spans(lambda found, tags: [(i, j, k.split("-")[0]) for i, j, k in found]), "all that stands behind B- or"),
    ("09.1", spans(lambda found, tags: [span for span in found if tags[span[0]][0] == "B"]), "such an orphan begins"),
    ("09.1", spans(lambda found, tags: found + found[:1]), "each span once"),
    ("09.1", spans_last_lost, "reaches the last token is missing"),
    ("09.1", spans_by_type, "a B- always begins a new mention"),
    ("09.1", spans_any_inside, "an orphan, and begins a mention"),
    ("09.1", spans_over_gaps, "is O, which ends every mention"),
    ("09.1", spans_first_only, "goes on through every I-"),
    ("09.1", spans_popping, "changed the list it was given"),
    ("09.1", spans_refusing, "TagError.*continues nothing"),
    ("09.2", observed, "observed agreement p_o"),
    ("09.2", luck, "this is p_e"),
    ("09.2", lambda a, b: observed(a, b) - luck(a, b), "has to be divided"),
    ("09.2", lambda a, b: observed(a, b) - luck(a, b) / (1 - luck(a, b)), "brackets"),
    ("09.2", kappa_of(lambda a, b: sum(share(a + b, x) ** 2 for x in {*a, *b})), "Scott's pi"),
    ("09.2", kappa_of(lambda a, b: 1 / len({*a, *b})), "equally likely"),
    ("09.2", kappa_of(lambda a, b: luck(a, a)), "first annotator's shares twice"),
    ("09.2", kappa_of(lambda a, b: luck(b, b)), "second annotator's shares twice"),
    ("09.2", kappa_of(lambda a, b: share(a, "O") * share(b, "O")), "not O alone"),
    ("09.2", kappa_of(lambda a, b: luck(a, b) * len(a)), "p_o is .* and kappa .* you return"),
    ("09.2", lambda a, b: max(0, nb09.kappa(a, b)), "kappa can be below 0"),
    ("09.2", lambda a, b: str(nb09.kappa(a, b)), "should be a number"),
    ("09.2", kappa_named, "tokens that both call O are items too"),
    ("09.2", kappa_lookup, "KeyError"),
    ("09.3", len, "are enough"),
    ("09.3", lambda spans: 1, "0 layer|are needed"),
    ("09.3", lambda spans: max(nb09.layers_needed(spans), 1), "0 layer"),
    ("09.3", lambda spans: float(nb09.layers_needed(spans)), "should be a whole number"),
    ("09.3", lambda spans: nb09.layers_needed([(i, j + 1, k) for i, j, k in spans]), "share no token"),
    ("09.3", lambda spans: max(Counter(s[:1] for s in spans).values(), default=0), "are needed"),
    ("09.4", lambda a, b: {"type": len(a - b), "boundary": 0, "both": 0, "missing": 0}, "this is boundary"),
    ("09.4", lambda a, b: {k: n for k, n in kinds_dict(a, b).items() if n}, "needs all four keys"),
    ("09.4", lambda a, b: kinds_dict({s for s in a if kind_of(s, b) != "missing"}, b), "this is missing"),
    ("09.4", lambda a, b: kinds_dict(a, {(i, j + 1, k) for i, j, k in b}), "this is"),
    ("09.4", lambda a, b: {k: bool(n) and len(a) for k, n in kinds_dict(a, b).items()}, "the counts are"),
    ("09.4", lambda a, b: list(kinds_dict(a, b).values()), "should be a dict"),
]


@pytest.mark.parametrize(("number", "answer", "fault"), WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, fault):
    passed, message = grade(number, answer)
    assert passed is False, message
    assert re.search(fault, message), message
