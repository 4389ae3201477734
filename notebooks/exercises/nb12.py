"""Exercises of notebook 12, NER in action. The checks count for themselves and use nothing of utils.ner."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from notebooks.exercises import as_number
from utils.course.exercises import Wrong, exercise

# -- 12.1 ------------------------------------------------------------------------------------------


SENTENCES = [  # gold, predicted
    ({(0, 5, "X")}, {(0, 5, "X")}),
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


def check_one_end(one_end_correct: Callable) -> None:
    for gold, predicted in SENTENCES:
        for side, end in enumerate(["left", "right"]):
            answer = one_end_correct(set(gold), set(predicted), end)
            seen = as_number(answer, "the number of correct predictions")
            counts = [Counter((span[side], span[2]) for span in spans) for spans in (gold, predicted)]
            right = (counts[0] & counts[1]).total()
            if seen == right:
                continue
            case = f"gold {sorted(gold)}, predicted {sorted(predicted)}, {end=}: {right} expected, yours is {seen:g}"
            if seen == len(gold & predicted):
                raise Wrong(f"this counts equal spans, but only one end has to be right; {case}")
            if seen == (Counter(s[side] for s in gold) & Counter(s[side] for s in predicted)).total():
                raise Wrong(f"the type has to be right too; {case}")
            if seen == len(counts[0].keys() & counts[1].keys()):
                raise Wrong(f"several spans may share that end, and each of them counts; {case}")
            if seen > right:
                raise Wrong(f"each gold mention pays for one prediction only, and each prediction counts once; {case}")
            raise Wrong(case)


@exercise(
    "12.1",
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


# -- 12.2 ------------------------------------------------------------------------------------------


def _two_taggers(seed: int, sentences: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 6, sentences)
    tables = []
    for chance in (0.55, 0.7):
        correct = generator.binomial(gold, chance)
        tables.append(np.stack([correct, correct + generator.integers(0, 2, sentences), gold], 1).astype(float))
    return tables[0], tables[1]


def _plain_f1(rows: list) -> float:
    correct, predicted, gold = (sum(row[k] for row in rows) for k in range(3))
    return 2 * correct / (predicted + gold) if predicted + gold else 0.0


def check_paired(paired_interval: Callable) -> None:
    for seed, sentences, count, confidence in [(0, 40, 200, 0.95), (1, 3, 60, 0.8), (2, 150, 100, 0.9)]:
        first, second = _two_taggers(seed, sentences)
        draws = np.random.default_rng(seed + 9).integers(sentences, size=(count, sentences))
        if seed == 1:
            first[0], second[0], draws[0] = 0, 0, 0  # a test set with nothing in it
        gaps = [_plain_f1([second[k] for k in row]) - _plain_f1([first[k] for k in row]) for row in draws]
        outside = (1 - confidence) / 2
        right = 100 * np.quantile(gaps, [outside, 1 - outside])
        answer = paired_interval(first.copy(), second.copy(), draws.copy(), confidence)
        try:
            seen = np.array([as_number(end, "each end of the interval") for end in answer])
        except TypeError as error:
            raise Wrong(f"the result should be two numbers, got {answer!r}") from error
        if seen.shape != (2,):
            raise Wrong(f"the result should be two numbers, low and high; got {len(seen)}")
        if np.allclose(seen, right, rtol=1e-6, atol=1e-9):
            continue
        if np.allclose(seen, 100 * np.quantile(gaps, [0.025, 0.975])):
            raise Wrong(f"`confidence` is {confidence} here and is not used: yours is the interval for 0.95")
        _explain_interval(seen, right, first, second, draws, outside)


def _explain_interval(seen, right, first, second, draws, outside) -> None:
    if np.allclose(seen, right / 100):
        raise Wrong("the interval is right but not in percentage points")
    if np.allclose(seen, -right[::-1]):
        raise Wrong("the sign is turned: second minus first is asked for")
    edges = [outside, 1 - outside]
    two = [np.quantile([_plain_f1([rows[k] for k in row]) for row in draws], edges) for rows in (first, second)]
    if np.allclose(seen, 100 * (two[1] - two[0])):
        raise Wrong("this subtracts the ends of two intervals; take the difference in each resampled test set")
    by_sentence = [np.array([_plain_f1([row]) for row in rows]) for rows in (first, second)]
    means = (by_sentence[1] - by_sentence[0])[draws].mean(1)
    if np.allclose(seen, 100 * np.quantile(means, edges)):
        raise Wrong("this averages the F1 of single sentences; add up the counts first and take F1 of the sums")
    raise Wrong(f"expected {right.round(3).tolist()} percentage points, yours are {seen.round(3).tolist()}")


@exercise(
    "12.2",
    "is the difference real?",
    check_paired,
    hints=[
        "rows[draws] has shape (draws, sentences, 3). Sum over the sentences first, then take F1 of the sums.",
        "Both taggers with the same row of draws: one difference for each resampled test set, then its quantiles.",
        "outside = (1 - confidence) / 2; np.quantile(differences, [outside, 1 - outside]), times 100. Where "
        "nothing is predicted and nothing gold, F1 is 0, not a division by 0.",
    ],
)
def paired_interval(first, second, draws, confidence=0.95):
    def f1(rows):
        correct, predicted, gold = np.moveaxis(rows[draws].sum(1), -1, 0)
        below = predicted + gold
        return np.divide(2 * correct, below, out=np.zeros(len(draws)), where=below > 0)

    outside = (1 - confidence) / 2
    return tuple(100 * np.quantile(f1(second) - f1(first), [outside, 1 - outside]))


# -- 12.3 ------------------------------------------------------------------------------------------


def _squared_error(confidence, right, bins, chance: Callable) -> float:
    total = 0.0
    for b in bins:
        share, mean = sum(bool(right[k]) for k in b) / len(b), sum(confidence[k] for k in b) / len(b)
        total += len(b) / len(confidence) * ((share - mean) ** 2 - chance(share, len(b)))
    return total


def _one_bin(confidence, right, b) -> float:
    return _squared_error(confidence[b], right[b], [range(len(b))], lambda p, n: p * (1 - p) / (n - 1))


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
        raise Wrong(f"{len(confidence)} predictions in {len(bins)} bins: {expected:.6f} expected, yours is {seen:.6f}")


@exercise(
    "12.3",
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


# -- 12.4 ------------------------------------------------------------------------------------------


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
            missed = next((g for g in right if g not in seen), None)
            raise Wrong(
                f"for {[' '.join(words) for words in sentences]} and runs of {length}, {sorted(missed)} are one group "
                f"(directly or through others); yours are {sorted(map(sorted, seen))}"
            )


@exercise(
    "12.4",
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
