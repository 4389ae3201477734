"""Answers to notebook 12's pieces and exercises: right ones of another kind pass, wrong ones are told what is wrong."""

from collections import Counter
from itertools import product

import numpy as np
import pandas as pd
import pytest

from utils.course.exercises import choose, grade

# -- 12.1 ----------------------------------------------------------------------------------------------------


def flattened(gold, predicted):
    true, found = ({(k, *span) for k, spans in enumerate(side) for span in spans} for side in (gold, predicted))
    p, r = (len(true & found) / max(len(side), 1) for side in (found, true))
    return p, r, 2 * p * r / (p + r) if p + r else 0


def by_loops(gold, predicted):
    correct, wrong, missed = 0, 0, 0
    for true, found in zip(gold, predicted):
        for start, end, kind in found:
            hit = any((start, end, kind) == span for span in true)
            correct, wrong = correct + hit, wrong + (not hit)
        missed += sum(span not in found for span in true)
    scores = [correct / n if n else 0.0 for n in (correct + wrong, correct + missed)]
    return [*scores, correct / (correct + (wrong + missed) / 2) if correct else 0.0]


def by_array(gold, predicted):
    counts = [(len(g & p), len(p), len(g)) for g, p in zip(gold, predicted)]
    correct, found, asked = np.array(counts, float).reshape(-1, 3).sum(0)
    above, below = np.array([correct, correct, 2 * correct]), np.array([found, asked, found + asked])
    return np.divide(above, below, out=np.zeros(3), where=below > 0)


def sums(gold, predicted):
    return sum(len(g & p) for g, p in zip(gold, predicted)), sum(map(len, predicted)), sum(map(len, gold))


def safe(correct, found, asked):
    return correct / max(found, 1), correct / max(asked, 1), 2 * correct / max(found + asked, 1)


def swapped(gold, predicted):
    p, r, f1 = flattened(gold, predicted)
    return r, p, f1


def mixed_sentences(gold, predicted):
    true, found = set().union(*gold), set().union(*predicted)
    return safe(len(true & found), len(found), len(true))


def averaged(gold, predicted):
    rows = [flattened([g], [p]) for g, p in zip(gold, predicted)]
    return tuple(np.mean(rows, axis=0)) if rows else (0, 0, 0)


def any_type(gold, predicted):
    without = [[{span[:2] for span in spans} for spans in side] for side in (gold, predicted)]
    return safe(*sums(*without))


def overlaps_count(gold, predicted):
    hits = sum(
        any(a < end and start < b and kind == other for a, b, other in true)
        for true, found in zip(gold, predicted)
        for start, end, kind in found
    )
    return safe(hits, *sums(gold, predicted)[1:])


def plain_mean(gold, predicted):
    p, r, _ = flattened(gold, predicted)
    return p, r, (p + r) / 2


def in_per_cent(gold, predicted):
    return tuple(100 * value for value in flattened(gold, predicted))


def divides_by_zero(gold, predicted):
    correct, found, asked = sums(gold, predicted)
    return correct / found, correct / asked, 2 * correct / (found + asked)


def nan_where_nothing(gold, predicted):
    correct, found, asked = np.array(sums(gold, predicted), float)
    with np.errstate(invalid="ignore"):
        return correct / found, correct / asked, 2 * correct / (found + asked)


def perfect_where_nothing(gold, predicted):
    return flattened(gold, predicted) if sum(map(len, predicted)) else (1, 0, 0)


def only_f1(gold, predicted):
    return flattened(gold, predicted)[2]


def jaccard(gold, predicted):
    correct, found, asked = sums(gold, predicted)
    p, r, _ = safe(correct, found, asked)
    return p, r, correct / max(found + asked - correct, 1)


# -- 12.2 ----------------------------------------------------------------------------------------------------


def f1(totals):
    below = totals[..., 1] + totals[..., 2]
    return np.divide(2 * totals[..., 0], below, out=np.zeros_like(below), where=below > 0)


def all_at_once(first, second, draws=1000, seed=0):
    drawn = np.random.default_rng(seed).integers(len(first), size=(draws, len(first)))
    changes = f1(first[drawn].sum(1)) - f1(second[drawn].sum(1))
    return np.quantile(changes, [0.025, 0.975])


def by_multinomial(first, second, draws=1000, seed=0):
    n = len(first)
    times = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=draws)
    return tuple(np.percentile(f1(times @ first) - f1(times @ second), [2.5, 97.5]))


def same_seed_twice(first, second, draws=1000, seed=0):
    """Two passes, each with a generator of its own: the same seed draws the same documents."""

    def one(rows):
        generator = np.random.default_rng(seed)
        return np.array([f1(rows[generator.choice(len(rows), len(rows))].sum(0)) for _ in range(draws)])

    return pd.Series(one(first) - one(second)).quantile([0.025, 0.975]).tolist()


def sorted_by_hand(first, second, draws=1000, seed=0):
    generator, changes = np.random.default_rng(seed), []
    both = np.concatenate([first, second], axis=1)
    for _ in range(draws):
        totals = generator.choice(both, len(both)).sum(0)
        changes.append(float(f1(totals[:3]) - f1(totals[3:])))
    changes.sort()
    return changes[int(0.025 * (draws - 1))], changes[int(0.975 * (draws - 1))]


def differences(first, second, draws, seed, unpaired=False, size=None, replace=True, score=f1):
    generator, n = np.random.default_rng(seed), len(first)
    result = []
    for _ in range(draws):
        drawn = generator.choice(n, size or n, replace=replace)
        other = generator.choice(n, n) if unpaired else drawn
        result.append(score(first[drawn].sum(0)) - score(second[other].sum(0)))
    return result


def middle(values, outside=0.025):
    return tuple(np.quantile(values, [outside, 1 - outside]))


def unpaired(first, second, draws=1000, seed=0):
    return middle(differences(first, second, draws, seed, unpaired=True))


def second_minus_first(first, second, draws=1000, seed=0):
    return all_at_once(second, first, draws, seed)


def in_points(first, second, draws=1000, seed=0):
    return 100 * all_at_once(first, second, draws, seed)


def ends_subtracted(first, second, draws=1000, seed=0):
    drawn = np.random.default_rng(seed).integers(len(first), size=(draws, len(first)))
    one, other = (np.quantile(f1(rows[drawn].sum(1)), [0.025, 0.975]) for rows in (first, second))
    return one - other


def mean_of_documents(first, second, draws=1000, seed=0):
    drawn = np.random.default_rng(seed).integers(len(first), size=(draws, len(first)))
    return middle((f1(first) - f1(second))[drawn].mean(1))


def not_replaced(first, second, draws=1000, seed=0):
    return middle(differences(first, second, draws, seed, replace=False))


def middle_90(first, second, draws=1000, seed=0):
    return middle(differences(first, second, draws, seed), 0.05)


def half_as_many(first, second, draws=1000, seed=0):
    return middle(differences(first, second, draws, seed, size=len(first) // 2))


def normal_interval(first, second, draws=1000, seed=0):
    changes = differences(first, second, draws, seed)
    return np.mean(changes) - 1.96 * np.std(changes), np.mean(changes) + 1.96 * np.std(changes)


def nan_for_nothing(first, second, draws=1000, seed=0):
    with np.errstate(invalid="ignore"):
        return middle(differences(first, second, draws, seed, score=lambda s: 2 * s[0] / (s[1] + s[2])))


def only_recall(first, second, draws=1000, seed=0):
    return middle(differences(first, second, draws, seed, score=lambda s: s[0] / max(s[2], 1)))


def draws_ignored(first, second, draws=1000, seed=0):
    return all_at_once(first, second, 20_000, seed)


def all_differences(first, second, draws=1000, seed=0):
    return differences(first, second, draws, seed)


# -- 12.3 ----------------------------------------------------------------------------------------------------


def by_counter(gold, predicted, end):
    side = ["left", "right"].index(end)
    one, other = (Counter((span[side], span[2]) for span in spans) for spans in (gold, predicted))
    return (one & other).total()


def by_smaller_counts(gold, predicted, end):
    def keys(spans):
        return [(span[0] if end == "left" else span[1], span[2]) for span in spans]

    return sum(min(keys(gold).count(key), keys(predicted).count(key)) for key in set(keys(gold)))


def by_sorted_lists(gold, predicted, end):
    side = 0 if end == "left" else 1
    one, other = (sorted((span[side], span[2]) for span in spans) for spans in (gold, predicted))
    i = j = hits = 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            i, j, hits = i + 1, j + 1, hits + 1
        elif one[i] < other[j]:
            i += 1
        else:
            j += 1
    return np.int64(hits)


def both_ends(gold, predicted, end):
    return len(gold & predicted)


def end_without_type(gold, predicted, end):
    side = end == "right"
    return (Counter(s[side] for s in gold) & Counter(s[side] for s in predicted)).total()


def ends_as_sets(gold, predicted, end):
    side = end == "right"
    return len({(s[side], s[2]) for s in gold} & {(s[side], s[2]) for s in predicted})


def gold_pays_often(gold, predicted, end):
    side = end == "right"
    return sum((s[side], s[2]) in {(g[side], g[2]) for g in gold} for s in predicted)


def sides_turned(gold, predicted, end):
    return by_counter(gold, predicted, {"left": "right", "right": "left"}[end])


def always_left(gold, predicted, end):
    return by_counter(gold, predicted, "left")


# -- 12.4 ----------------------------------------------------------------------------------------------------


def in_squares(confidence, right, bins, chance=lambda acc, n: acc * (1 - acc) / (n - 1)):
    parts = [(len(b), np.mean(right[b]), np.mean(confidence[b])) for b in bins]
    return sum(n * ((acc - conf) ** 2 - chance(acc, n)) for n, acc, conf in parts) / sum(n for n, _, _ in parts)


def by_variance(confidence, right, bins):
    total = [len(b) * ((right[b].mean() - confidence[b].mean()) ** 2 - np.var(right[b], ddof=1) / len(b)) for b in bins]
    return float(np.sum(total) / len(right))


def by_pandas(confidence, right, bins):
    number = np.empty(len(right), int)
    for k, b in enumerate(bins):
        number[b] = k
    frame = pd.DataFrame({"p": confidence, "y": right.astype(float)}).groupby(number).agg(["mean", "size"])
    acc, n = frame["y", "mean"], frame["y", "size"]
    return ((acc - frame["p", "mean"]).pow(2) - acc * (1 - acc) / (n - 1)).mul(n).sum() / n.sum()


def nothing_for_chance(confidence, right, bins):
    return in_squares(confidence, right, bins, lambda acc, n: 0)


def divided_by_n(confidence, right, bins):
    return in_squares(confidence, right, bins, lambda acc, n: acc * (1 - acc) / n)


def bins_alike(confidence, right, bins):
    return np.mean([in_squares(confidence[b], right[b], [np.arange(len(b))]) for b in bins])


def never_negative(confidence, right, bins):
    return max(in_squares(confidence, right, bins), 0.0)


def absolute_values(confidence, right, bins):
    return sum(len(b) * abs(right[b].mean() - confidence[b].mean()) for b in bins) / len(right)


def chance_of_confidence(confidence, right, bins):
    total = 0.0
    for b in bins:
        acc, conf = right[b].mean(), confidence[b].mean()
        total += len(b) * ((acc - conf) ** 2 - conf * (1 - conf) / (len(b) - 1))
    return total / len(right)


# -- 12.5 ----------------------------------------------------------------------------------------------------


def runs_in(words, length):
    return {tuple(words[k : k + length]) for k in range(len(words) - length + 1)}


def all_pairs(sentences, length):
    runs = [runs_in(words, length) for words in sentences]
    label = list(range(len(sentences)))
    for i, j in product(label[:], repeat=2):
        if runs[i] & runs[j]:
            old, new = label[i], label[j]
            label = [new if one == old else one for one in label]
    return [{k for k, one in enumerate(label) if one == name} for name in dict.fromkeys(label)]


def merged_sets(sentences, length):
    groups = []  # (numbers, runs)
    for k, words in enumerate(sentences):
        numbers, runs, rest = {k}, runs_in(words, length), []
        for group in groups:
            if group[1] & runs_in(words, length):
                numbers, runs = numbers | group[0], runs | group[1]
            else:
                rest.append(group)
        groups = [*rest, (numbers, runs)]
    return [numbers for numbers, _ in groups]


def by_search(sentences, length):
    runs, left, groups = [runs_in(words, length) for words in sentences], set(range(len(sentences))), []
    while left:
        group, waiting = set(), [left.pop()]
        while waiting:
            group.add(k := waiting.pop())
            near = {other for other in left if runs[k] & runs[other]}
            left, waiting = left - near, [*waiting, *near]
        groups.append(frozenset(group))
    return tuple(groups)


def only_direct(sentences, length):
    runs, left, groups = [runs_in(words, length) for words in sentences], list(range(len(sentences))), []
    while left:
        group = {k for k in left if k == left[0] or runs[k] & runs[left[0]]}
        left, groups = [k for k in left if k not in group], [*groups, group]
    return groups


def into_the_first_group(sentences, length):
    """Joins the first group that it meets and does not unite groups."""
    groups = []
    for k, words in enumerate(sentences):
        mine = runs_in(words, length)
        for group in groups:
            if any(mine & runs_in(sentences[other], length) for other in group):
                group.add(k)
                break
        else:
            groups.append({k})
    return groups


def overlapping_groups(sentences, length):
    runs = [runs_in(words, length) for words in sentences]
    return [{j for j in range(len(runs)) if i == j or runs[i] & runs[j]} for i in range(len(runs))]


def without_the_single(sentences, length):
    return [group for group in by_search(sentences, length) if len(group) > 1]


def shared_words(sentences, length):
    return by_search([sorted(set(words)) for words in sentences], 1)


def shorter_runs(sentences, length):
    return by_search(sentences, length - 1)


def all_in_one(sentences, length):
    return [set(range(len(sentences)))] if sentences else []


RIGHT = {
    "12.1": [flattened, by_loops, by_array],
    "12.2": [all_at_once, by_multinomial, same_seed_twice, sorted_by_hand],
    "12.3": [by_counter, by_smaller_counts, by_sorted_lists],
    "12.4": [in_squares, by_variance, by_pandas],
    "12.5": [all_pairs, merged_sets, by_search],
}

WRONG = [
    ("12.1", swapped, "precision and recall have changed places"),
    ("12.1", mixed_sentences, "spans of different sentences are mixed"),
    ("12.1", averaged, "averages the values of single sentences"),
    ("12.1", any_type, "the type has to be right too"),
    ("12.1", overlaps_count, "an overlap is not enough"),
    ("12.1", plain_mean, "harmonic mean"),
    ("12.1", in_per_cent, "not in per cent"),
    ("12.1", divides_by_zero, "where there is nothing to divide by, the value is 0"),
    ("12.1", nan_where_nothing, "where there is nothing to divide by, the value is 0"),
    ("12.1", perfect_where_nothing, "where there is nothing to divide by, the value is 0"),
    ("12.1", only_f1, "should be three numbers"),
    ("12.1", jaccard, "F1 is the harmonic mean"),
    ("12.2", unpaired, "this is unpaired"),
    ("12.2", second_minus_first, "the sign is turned"),
    ("12.2", in_points, "not in percentage points"),
    ("12.2", ends_subtracted, "subtracts the ends of two intervals"),
    ("12.2", mean_of_documents, "averages the F1 of single documents"),
    ("12.2", not_replaced, "with replacement"),
    ("12.2", middle_90, "the middle 90%"),
    ("12.2", half_as_many, "too few documents are drawn"),
    ("12.2", normal_interval, "the quantiles of the differences are asked for"),
    ("12.2", nan_for_nothing, "F1 is 0, not 0 / 0"),
    ("12.2", only_recall, "difference in recall"),
    ("12.2", lambda first, second, draws=1000, seed=0: all_at_once(first, second, draws, 7), "`seed` is not used"),
    ("12.2", lambda first, second, draws=1000, seed=0: all_at_once(first, second, draws, None), "same seed differ"),
    ("12.2", draws_ignored, "`draws` is not used"),
    ("12.2", all_differences, "should be two numbers, low and high; got 8000 values"),
    ("12.3", both_ends, "only one end has to be right"),
    ("12.3", end_without_type, "the type has to be right too"),
    ("12.3", ends_as_sets, "several spans may share that end"),
    ("12.3", gold_pays_often, "each gold mention pays for one prediction only"),
    ("12.3", sides_turned, "this compares the other end"),
    ("12.3", always_left, "this compares the other end"),
    ("12.4", nothing_for_chance, "nothing is subtracted for chance"),
    ("12.4", divided_by_n, "divided by n_m; by n_m - 1"),
    ("12.4", bins_alike, "each bin counts by its share"),
    ("12.4", never_negative, "a negative value was set to 0"),
    ("12.4", absolute_values, "absolute values"),
    ("12.4", chance_of_confidence, "of the share that is right, not of the confidence"),
    ("12.5", only_direct, "directly or through others"),
    ("12.5", into_the_first_group, "directly or through others"),
    ("12.5", overlapping_groups, "in exactly one group"),
    ("12.5", without_the_single, "in exactly one group"),
    ("12.5", shared_words, "share no run"),
    ("12.5", shorter_runs, "share no run"),
    ("12.5", all_in_one, "share no run"),
]


@pytest.mark.parametrize(("number", "answer"), [(number, one) for number, several in RIGHT.items() for one in several])
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


@pytest.mark.parametrize(("number", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert told in message, message


def test_the_notebook_goes_on_with_a_right_answer_and_not_with_a_wrong_one():
    assert choose("12.1", flattened, by_loops) is flattened
    assert choose("12.1", swapped, by_loops) is by_loops
    assert choose("12.2", unpaired, all_at_once) is all_at_once
