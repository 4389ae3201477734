"""Pieces and exercises of notebook 12, NER in action. The checks count for themselves and use nothing of utils.ner."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np

from notebooks.exercises import as_number
from utils.course.exercises import Wrong, exercise

# -- 12.1 ------------------------------------------------------------------------------------------


def _spans(text: str) -> list[set[tuple[int, int, str]]]:
    """Sentences parted by "/", spans by spaces: "0-5X / 0-5X 7-9Y"."""
    sentences = [sentence.split() for sentence in text.split("/")]
    return [{(*map(int, span[:-1].split("-")), span[-1]) for span in spans} for spans in sentences]


CASES = [  # gold, predicted
    (_spans("0-5X 7-9Y / 2-4X"), _spans("0-5X 7-9Y / 2-4X")),
    (_spans("0-5X 7-9Y / 2-4X 6-9X 12-15Y / 0-3Y / 1-2X"), _spans("0-5X 7-9X / 2-5X 6-9X / 4-6Y /")),
    (_spans("0-5X / 3-9Y / 0-5X"), _spans("3-9Y / 0-5X 3-9Y / 0-5X 7-8X 10-12Y")),
    (_spans("0-5X 9-12Y / 2-4X"), _spans("1-5X 9-13Y / 2-4X")),
    (_spans("0-5X / 0-5X 6-8Y"), _spans("0-5X / 0-5X 6-8Y 9-12X 13-15Y")),
]
NOTHING = [  # one side is empty, or both are
    (_spans("0-5X / 3-4Y"), _spans(" / ")),
    (_spans(" / "), _spans("0-5X / 3-4Y")),
    (_spans(" / "), _spans(" / ")),
    ([], []),
]


def _prf(correct: float, predicted: float, gold: float) -> tuple[float, float, float]:
    p, r = (correct / n if n else 0.0 for n in (predicted, gold))
    return p, r, 2 * correct / (predicted + gold) if predicted + gold else 0.0


def _matches(equal: Callable) -> Callable:
    """Scores where a prediction is right that is `equal` to some gold span of its sentence."""

    def score(gold, predicted):
        right = sum(any(equal(s, g) for g in true) for true, found in zip(gold, predicted) for s in found)
        return _prf(right, sum(map(len, predicted)), sum(map(len, gold)))

    return score


def _without_sentences(gold, predicted):
    true, found = (set().union(*side) for side in (gold, predicted))
    return _prf(len(true & found), len(found), len(true))


def _by_sentence(gold, predicted):
    rows = [_prf(len(true & found), len(found), len(true)) for true, found in zip(gold, predicted)]
    return tuple(np.mean(rows, axis=0)) if rows else (0.0, 0.0, 0.0)


def _jaccard(f1: float) -> float:
    """Correct by all that is gold or predicted."""
    return f1 / (2 - f1)


_strict = _matches(lambda s, g: s == g)
SPAN_FAULTS = {
    "precision and recall have changed places: precision divides by what was predicted, recall by the gold": (
        lambda gold, predicted: (*_strict(gold, predicted)[1::-1], _strict(gold, predicted)[2])
    ),
    "spans of different sentences are mixed: equal offsets in two sentences are two spans": _without_sentences,
    "this averages the values of single sentences; add up the counts of all sentences first, then divide": _by_sentence,
    "the type has to be right too": _matches(lambda s, g: s[:2] == g[:2]),
    "an overlap is not enough: start and end both have to be right": (
        _matches(lambda s, g: s[0] < g[1] and g[0] < s[1] and s[2] == g[2])
    ),
    "an overlap is not enough: start, end and type all have to be right": (
        _matches(lambda s, g: s[0] < g[1] and g[0] < s[1])
    ),
    "F1 is the harmonic mean of precision and recall, not their plain mean": (
        lambda gold, predicted: (*_strict(gold, predicted)[:2], sum(_strict(gold, predicted)[:2]) / 2)
    ),
    "F1 is the harmonic mean, 2 * correct / (predicted + gold); what is correct stands in both of these counts": (
        lambda gold, predicted: (*_strict(gold, predicted)[:2], _jaccard(_strict(gold, predicted)[2]))
    ),
    "the values should lie in [0, 1], not in per cent": (
        lambda gold, predicted: tuple(100 * value for value in _strict(gold, predicted))
    ),
}


def _three(answer) -> list[float]:
    if isinstance(answer, (str, dict, set)) or not hasattr(answer, "__len__") or len(answer) != 3:
        raise Wrong(f"the result should be three numbers, precision, recall and F1; got {answer!r}")
    return [as_number(value, what) for value, what in zip(answer, ["precision", "recall", "F1"])]


def check_span_f1(span_f1: Callable) -> None:
    def ask(gold, predicted):
        return _three(span_f1([set(spans) for spans in gold], [set(spans) for spans in predicted]))

    seen = [ask(*case) for case in CASES]
    right = [_strict(*case) for case in CASES]
    if not np.allclose(seen, right, rtol=1e-6):
        for fault, score in SPAN_FAULTS.items():
            if np.allclose(seen, [score(*case) for case in CASES], rtol=1e-6):
                raise Wrong(fault)
        k = next(k for k in range(len(CASES)) if not np.allclose(seen[k], right[k], rtol=1e-6))
        gold, predicted = ([sorted(spans) for spans in side] for side in CASES[k])
        numbers = (", ".join(f"{value:.4f}" for value in values) for values in (right[k], seen[k]))
        raise Wrong("gold {}, predicted {}: {} expected, yours are {}".format(gold, predicted, *numbers))
    for gold, predicted in NOTHING:
        case = f"gold {[sorted(s) for s in gold]}, predicted {[sorted(s) for s in predicted]}: 0, 0, 0 expected"
        try:
            answer = ask(gold, predicted)
        except (ZeroDivisionError, Wrong) as error:
            raise Wrong(f"where there is nothing to divide by, the value is 0; {case}, got {error}") from error
        if any(answer):
            raise Wrong(f"where there is nothing to divide by, the value is 0; {case}, yours are {answer}")


@exercise(
    "12.1",
    "span F1",
    check_span_f1,
    hints=[
        "Spans are tuples in sets: `true & found` are those that agree in start, end and type.",
        "Go through the sentences with zip(gold, predicted) and add up three counts: correct, predicted, gold.",
        "Precision is correct / predicted, recall correct / gold, F1 is 2 * correct / (predicted + gold). Test each "
        "divisor for 0 first.",
    ],
)
def span_f1(gold, predicted):
    correct = in_all = asked = 0
    for true, found in zip(gold, predicted):
        correct += len(true & found)  # same start, end and type
        in_all += len(found)
        asked += len(true)
    precision = correct / in_all if in_all else 0.0
    recall = correct / asked if asked else 0.0
    f1 = 2 * correct / (in_all + asked) if in_all + asked else 0.0
    return precision, recall, f1


# -- 12.2 ------------------------------------------------------------------------------------------


DRAWS = 8000  # so that an end of the interval is known to about 0.75% of its width


@cache
def _two_taggers(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts of two taggers: on documents that are hard for both, or on four of which two hold nothing."""
    if kind == "empty":
        table = [[9, 12, 15], [0, 0, 0], [0, 0, 0], [8, 9, 10]], [[6, 9, 15], [0, 0, 0], [0, 0, 0], [7, 10, 10]]
        return np.array(table[0], float), np.array(table[1], float)
    generator = np.random.default_rng(4)
    gold = generator.integers(1, 30, 50)
    hard = generator.beta(1.2, 0.8, 50)  # small documents are the harder ones, and hard for both
    ease = np.clip(hard * gold / 18, 0.03, 0.97)
    tables = []
    for shift in (0.06, 0.0):
        correct = np.round(np.clip(ease + shift, 0, 1) * gold)
        tables.append(np.stack([correct, correct + generator.integers(0, 4, 50), gold], 1).astype(float))
    return tables[0], tables[1]


def _f1(sums: np.ndarray) -> np.ndarray:
    below = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], below, out=np.zeros_like(below), where=below > 0)


@cache
def _ways(kind: str) -> dict[str, np.ndarray]:
    """The interval, and those of answers that are wrong in a known way."""
    first, second = _two_taggers(kind)
    n, generator = len(first), np.random.default_rng(0)
    times, others, fewer = (generator.multinomial(m, np.full(n, 1 / n), 80_000) for m in (n, n, n // 2))

    def middle(values, outside=0.025):
        return np.quantile(values, [outside, 1 - outside])

    one, other = times @ first, times @ second
    gap, unpaired = _f1(one) - _f1(other), _f1(one) - _f1(others @ second)
    recall, precision = (
        one[:, 0] / np.maximum(one[:, k], 1) - other[:, 0] / np.maximum(other[:, k], 1) for k in (2, 1)
    )
    half = _f1(fewer @ first) - _f1(fewer @ second)
    return {
        "": middle(gap),
        "the sign is turned: F1 of `first` minus F1 of `second` is asked for": middle(-gap),
        "the difference should be of F1 in [0, 1], not in percentage points": 100 * middle(gap),
        "this is unpaired: both taggers have to be scored on the same drawn documents": middle(unpaired),
        "this subtracts the ends of two intervals; take the difference in each drawn test set, then the quantiles": (
            middle(_f1(one)) - middle(_f1(other))
        ),
        "this averages the F1 of single documents; add up the counts first and take F1 of the sums": (
            middle(times @ (_f1(first) - _f1(second)) / n)
        ),
        "this is the interval of `first` alone; the difference of the two is asked for": middle(_f1(one)),
        "this is the difference in recall, not in F1": middle(recall),
        "this is the difference in precision, not in F1": middle(precision),
        "this is the middle 90%: 2.5% of the differences should lie below the interval and 2.5% above": (
            middle(gap, 0.05)
        ),
        "this is mean and standard deviation; the quantiles of the differences are asked for": (
            gap.mean() + 1.96 * gap.std() * np.array([-1, 1])
        ),
        "too few documents are drawn: each test set has as many as there are": middle(half),
    }


def _same(seen: np.ndarray, right: np.ndarray, kind: str) -> bool:
    """Whether the ends differ by chance only: by less than 4.5% of the width, six standard errors."""
    width = max(np.ptp(right), np.ptp(_ways(kind)[""]))
    return bool(np.abs(seen - right).max() < 0.045 * width)


def _two(answer) -> np.ndarray:
    if isinstance(answer, (str, dict, set)) or not hasattr(answer, "__len__") or len(answer) != 2:
        got = f"{len(answer)} values" if hasattr(answer, "__len__") else repr(answer)
        raise Wrong(f"the result should be two numbers, low and high; got {got}")
    if np.isnan([float(end) for end in answer]).any():
        raise Wrong("where a drawn test set has nothing predicted and nothing gold, F1 is 0, not 0 / 0")
    return np.array([as_number(end, "each end of the interval") for end in answer])


def check_paired(paired_bootstrap: Callable) -> None:
    for kind in ("hard", "empty"):
        first, second = _two_taggers(kind)
        try:
            seen = _two(paired_bootstrap(first.copy(), second.copy(), DRAWS, 1))
        except ZeroDivisionError as error:
            if kind == "hard":
                raise
            raise Wrong("where a drawn test set has nothing predicted and nothing gold, F1 is 0, not 0 / 0") from error
        ways = _ways(kind)
        if _same(seen, ways[""], kind):
            continue
        numbers = f"about {ways[''].round(4).tolist()} expected, yours is {seen.round(4).tolist()}"
        if np.ptp(seen) < 1e-9:
            raise Wrong(f"every drawn test set is the same: draw anew each time, with replacement; {numbers}")
        for fault, interval in ways.items():
            if fault and _same(seen, interval, kind):
                raise Wrong(f"{fault}; {numbers}")
        if seen[0] > seen[1]:
            raise Wrong(f"the lower end comes first; {numbers}")
        raise Wrong(f"{numbers} (from {DRAWS:,} drawn test sets)")
    if np.ptp(_two(paired_bootstrap(*map(np.copy, _two_taggers("hard")), 1, 1))) > 1e-9:
        raise Wrong("`draws` is not used: with draws=1 there is one difference, and both ends are equal")
    one, again, other = (_two(paired_bootstrap(*map(np.copy, _two_taggers("hard")), 20, seed)) for seed in (1, 1, 2))
    if not np.array_equal(one, again):
        raise Wrong("two calls with the same seed differ: draw from np.random.default_rng(seed) alone")
    if np.array_equal(one, other):
        raise Wrong("`seed` is not used: another one should give other draws")


@exercise(
    "12.2",
    "the paired bootstrap",
    check_paired,
    hints=[
        "`generator.integers(n, size=n)` draws n row numbers with replacement; rows[drawn].sum(0) adds up the counts "
        "of these documents, one as often as it was drawn.",
        "Draw once for each test set, and index `first` and `second` with the same numbers: one difference of F1 for "
        "each test set.",
        "F1 is 2 * correct / (predicted + gold), 0 if that divisor is 0. At the end: "
        "np.quantile(changes, [0.025, 0.975]).",
    ],
)
def paired_bootstrap(first, second, draws=1000, seed=0):
    def f1(rows):
        correct, predicted, gold = rows.sum(0)
        return 2 * correct / (predicted + gold) if predicted + gold else 0.0

    generator, n, changes = np.random.default_rng(seed), len(first), []
    for _ in range(draws):
        drawn = generator.integers(n, size=n)  # the same documents for both
        changes.append(f1(first[drawn]) - f1(second[drawn]))
    low, high = np.quantile(changes, [0.025, 0.975])
    return low, high


# -- 12.3 ------------------------------------------------------------------------------------------


SENTENCES = [  # gold, predicted
    ({(0, 5, "X")}, {(0, 5, "X")}),
    ({(0, 5, "X"), (10, 15, "X"), (20, 25, "X")}, {(0, 4, "X"), (9, 15, "X"), (21, 25, "X")}),
    ({(0, 5, "X")}, {(0, 9, "X")}),
    ({(3, 9, "X")}, {(0, 9, "X")}),
    ({(0, 5, "X")}, {(0, 5, "Y")}),
    ({(0, 9, "X")}, {(0, 9, "X"), (0, 5, "X")}),
    ({(0, 9, "X"), (0, 5, "X")}, {(0, 7, "X")}),
    ({(0, 9, "X"), (0, 5, "X")}, {(0, 7, "X"), (0, 8, "X"), (0, 2, "X")}),
    ({(0, 5, "X"), (5, 8, "Y")}, {(5, 6, "Y"), (2, 5, "X")}),
    ({(0, 5, "X")}, set()),
    (set(), {(0, 5, "X")}),
    (set(), set()),
]


def _at(side: int, gold: set, predicted: set) -> int:
    counts = [Counter((span[side], span[2]) for span in spans) for spans in (gold, predicted)]
    return (counts[0] & counts[1]).total()


def check_one_end(one_end_correct: Callable) -> None:
    for gold, predicted in SENTENCES:
        for side, end in enumerate(["left", "right"]):
            answer = one_end_correct(set(gold), set(predicted), end)
            seen = as_number(answer, "the number of correct predictions")
            counts = [Counter((span[side], span[2]) for span in spans) for spans in (gold, predicted)]
            right = _at(side, gold, predicted)
            if seen == right:
                continue
            case = f"gold {sorted(gold)}, predicted {sorted(predicted)}, {end=}: {right} expected, yours is {seen:g}"
            if seen == len(gold & predicted):
                raise Wrong(f"this counts equal spans, but only one end has to be right; {case}")
            if seen == (Counter(s[side] for s in gold) & Counter(s[side] for s in predicted)).total():
                raise Wrong(f"the type has to be right too; {case}")
            if seen == len(counts[0].keys() & counts[1].keys()):
                raise Wrong(f"several spans may share that end, and each of them counts; {case}")
            if seen == _at(1 - side, gold, predicted):
                raise Wrong(f"this compares the other end: left is the start, right the end; {case}")
            if seen > right:
                raise Wrong(f"each gold mention pays for one prediction only, and each prediction counts once; {case}")
            raise Wrong(case)


@exercise(
    "12.3",
    "right at one end",
    check_one_end,
    hints=[
        "Reduce every span to what is compared: one of its ends, and its type. Two spans may then look alike.",
        "Go through the predictions and strike out the gold mention that each one takes; or count with a Counter: "
        "of each pair the smaller of the two counts is correct.",
    ],
)
def one_end_correct(gold, predicted, end):
    side = {"left": 0, "right": 1}[end]
    free, correct = [(span[side], span[2]) for span in gold], 0
    for span in predicted:
        if (span[side], span[2]) in free:
            free.remove((span[side], span[2]))  # a gold mention pays once
            correct += 1
    return correct


# -- 12.4 ------------------------------------------------------------------------------------------


def _squared_error(confidence, right, bins, chance: Callable) -> float:
    total = 0.0
    for b in bins:
        share, mean = sum(bool(right[k]) for k in b) / len(b), sum(confidence[k] for k in b) / len(b)
        total += len(b) / len(confidence) * ((share - mean) ** 2 - chance(share, len(b)))
    return total


def _one_bin(confidence, right, b) -> float:
    return _squared_error(confidence[b], right[b], [range(len(b))], lambda p, n: p * (1 - p) / (n - 1))


def _of_confidence(mean: float, share: float, n: int) -> float:
    return (share - mean) ** 2 - mean * (1 - mean) / (n - 1)


def check_debiased(debiased_squared_error: Callable) -> None:
    generator = np.random.default_rng(3)
    cases = []
    for n, count, shift in [(60, 5, 0.0), (203, 10, 0.2), (8, 4, 0.0)]:
        confidence = generator.random(n)
        right = generator.random(n) < np.clip(confidence - shift, 0, 1)
        cases.append((confidence, right, np.array_split(np.argsort(confidence), count)))
    confidence = np.full(30, 0.7)
    cases.append((confidence, np.arange(30) < 21, [np.arange(30)]))  # exactly 70% right: negative
    for confidence, right, bins in cases:
        answer = debiased_squared_error(confidence.copy(), right.copy(), [b.copy() for b in bins])
        seen = as_number(answer)
        expected = _squared_error(confidence, right, bins, lambda p, n: p * (1 - p) / (n - 1))
        if np.isclose(seen, expected, rtol=1e-6, atol=1e-12):
            continue
        if np.isclose(seen, _squared_error(confidence, right, bins, lambda p, n: 0)):
            raise Wrong("nothing is subtracted for chance")
        if np.isclose(seen, _squared_error(confidence, right, bins, lambda p, n: p * (1 - p) / n)):
            raise Wrong("the variance is divided by n_m; by n_m - 1 it is estimated without bias")
        if np.isclose(seen, np.mean([_one_bin(confidence, right, b) for b in bins])):
            raise Wrong("each bin counts by its share n_m / n of the predictions; these bins count alike")
        if expected < 0 and np.isclose(seen, 0):
            raise Wrong("a negative value was set to 0, which brings the bias back: it should average to 0, not above")
        if np.isclose(seen, sum(len(b) * abs(right[b].mean() - confidence[b].mean()) for b in bins) / len(right)):
            raise Wrong("these are the absolute values of eq. 3; the squares are asked for, less what is due to chance")
        turned = sum(len(b) * _of_confidence(confidence[b].mean(), right[b].mean(), len(b)) for b in bins) / len(right)
        if np.isclose(seen, turned):
            raise Wrong("chance has the variance of the share that is right, not of the confidence")
        raise Wrong(f"{len(confidence)} predictions in {len(bins)} bins: {expected:.6f} expected, yours is {seen:.6f}")


@exercise(
    "12.4",
    "calibration without the bias",
    check_debiased,
    hints=[
        "For each index array b: acc = right[b].mean() and conf = confidence[b].mean().",
        "Weigh each bin by len(b) / len(confidence); subtract acc * (1 - acc) / (len(b) - 1) inside the bracket.",
    ],
)
def debiased_squared_error(confidence, right, bins):
    total = 0.0
    for b in bins:
        acc, conf = right[b].mean(), confidence[b].mean()
        total += len(b) * ((acc - conf) ** 2 - acc * (1 - acc) / (len(b) - 1))
    return total / len(confidence)


# -- 12.5 ------------------------------------------------------------------------------------------


TEXTS = [
    ("a b c d", "x a b c", "p q r s", "q r s t", "e f"),
    ("a b c p q r", "a b c", "p q r", "z"),  # the first joins the other two
    ("a b c", "p q r", "x y z", "a b c p q r"),  # the last joins two that stood apart
    ("a b c", "d e f", "g h i", "c d", "a b c d", "d e f g h i", "b c d e f"),
    ("a b", "a b", "a"),  # too short to share a run of three
    (),
]


def _linked(sentences: list[list[str]], length: int) -> set[frozenset[int]]:
    runs = [{tuple(s[i : i + length]) for i in range(len(s) - length + 1)} for s in sentences]
    groups = set()
    for start in range(len(sentences)):
        reached, waiting = {start}, [start]
        while waiting:
            k = waiting.pop()
            for other in range(len(sentences)):
                if other not in reached and runs[k] & runs[other]:
                    reached.add(other)
                    waiting.append(other)
        groups.add(frozenset(reached))
    return groups


def check_groups(groups_that_share: Callable) -> None:
    cases = [([text.split() for text in texts], 3) for texts in TEXTS]
    generator = np.random.default_rng(5)
    for _ in range(20):
        cases.append(([list(generator.choice(list("abcdef"), generator.integers(0, 7))) for _ in range(14)], 3))
    for sentences, length in cases:
        answer = groups_that_share([list(words) for words in sentences], length)
        given = [k for group in answer for k in group]
        if sorted(given) != list(range(len(sentences))):
            raise Wrong(f"each number below {len(sentences)} should be in exactly one group, got {sorted(given)}")
        seen, right = {frozenset(group) for group in answer}, _linked(sentences, length)
        if seen != right:
            texts = [" ".join(words) for words in sentences]
            for group in seen - right:  # of which more than one right group is a part
                parts = sorted(sorted(g) for g in right if g <= group)
                if len(parts) > 1:
                    raise Wrong(
                        f"for {texts} and runs of {length}, {parts[0]} and {parts[1]} share no run with each other, "
                        f"but yours are together in {sorted(group)}"
                    )
            missed = next((g for g in right if g not in seen), None)
            raise Wrong(
                f"for {texts} and runs of {length}, {sorted(missed)} are one group "
                f"(directly or through others); yours are {sorted(map(sorted, seen))}"
            )


@exercise(
    "12.5",
    "a split that does not leak",
    check_groups,
    hints=[
        "Comparing all pairs works for a few sentences. For many, keep a dictionary from each run to the first "
        "sentence that has it.",
        "When a sentence shares a run with another, the whole groups of both become one, not only the two.",
        "Let groups[k] be the set that sentence k is in; to unite two, update one and let all members point to it.",
    ],
)
def groups_that_share(sentences, length):
    groups, of_run = [{k} for k in range(len(sentences))], {}
    for k, words in enumerate(sentences):
        for i in range(len(words) - length + 1):
            other = of_run.setdefault(tuple(words[i : i + length]), k)
            if groups[other] is not groups[k]:
                groups[k] |= groups[other]
                for member in groups[k]:
                    groups[member] = groups[k]
    return [group for k, group in enumerate(groups) if k == min(group)]
