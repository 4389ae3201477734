"""Exercises of notebook 13, domain adaptation. The checks count for themselves and use nothing of utils.ner."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from utils.course.exercises import Wrong, exercise


def _as_numbers(answer: object, names: set, what: str) -> dict:
    """The answer as {name: finite number}, with exactly these names."""
    if not isinstance(answer, dict):
        raise Wrong(f"the result should be a dict, got {type(answer).__name__}")
    if set(answer) != names:
        missing, more = sorted(map(str, names - set(answer))), sorted(map(str, set(answer) - names))
        raise Wrong(f"there should be one {what} for each of {len(names)}; missing {missing[:3]}, too many {more[:3]}")
    try:
        numbers = {name: float(value) for name, value in answer.items()}
    except (TypeError, ValueError) as error:
        raise Wrong(f"each {what} should be a number ({error})") from error
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise Wrong(f"the {what} of {name!r} is {value}, which is not finite")
    return numbers


def _differs(seen: dict, right: dict) -> str | None:
    return next((name for name in right if not math.isclose(seen[name], right[name], rel_tol=1e-6, abs_tol=1e-9)), None)


# -- 13.1 ------------------------------------------------------------------------------------------


TEXTS = [
    ("a b a c", "a d d"),
    ("no history of stroke", "history of stroke and of cancer in the family"),
    ("x", "y"),
    ("p q r s t", "p q r s t"),
]


def _ratios(first: list, second: list, a: float, base: float = 2, size: Callable = len) -> dict:
    words = sorted({*first, *second})
    total = [size(part) + a * len(words) for part in (first, second)]
    shares = [{w: (sum(x == w for x in part) + a) / total[k] for w in words} for k, part in enumerate((first, second))]
    return {w: math.log(shares[0][w] / shares[1][w]) / math.log(base) for w in words}


def check_telling(telling_words: Callable) -> None:
    for texts in TEXTS:
        first, second = (text.split() for text in texts)
        for a in (0.5, 2.0):
            answer = telling_words(list(first), list(second), a)
            right = _ratios(first, second, a)
            seen = _as_numbers(answer, set(right), "number")
            if not (word := _differs(seen, right)):
                continue
            if not _differs(seen, {w: -value for w, value in right.items()}):
                raise Wrong("the sign is turned: positive should be what `first` has more of")
            if not _differs(seen, _ratios(first, second, a, math.e)):
                raise Wrong("these are natural logarithms; bits are asked for, log2")
            if not _differs(seen, _ratios(first, second, a, size=lambda part: len(set(part)))):
                raise Wrong("the sum of c_v counts every occurrence, not every different word")
            given = f"{' '.join(first)!r} and {' '.join(second)!r}, a = {a}"
            raise Wrong(f"{given}: {word!r} should have {right[word]:.4f}, yours is {seen[word]:.4f}")


@exercise(
    "13.1",
    "the words that make the difference",
    check_telling,
    hints=[
        "Counter(first)[word] is 0 for a word that is not there, so one formula serves all words of both lists.",
        "The sum of all counts is len(first); V is len({*first, *second}), the same in both denominators.",
    ],
)
def telling_words(first, second, a=0.5):
    c, d, words = Counter(first), Counter(second), {*first, *second}
    below = [len(part) + a * len(words) for part in (first, second)]
    odds = {word: (c[word] + a) / below[0] / ((d[word] + a) / below[1]) for word in words}
    return {word: math.log2(ratio) for word, ratio in odds.items()}


# -- 13.2 ------------------------------------------------------------------------------------------


SIZES = [({"source": 900, "target": 100}, 1000), ({"source": 4000, "target": 20, "web": 300}, 500), ({"only": 7}, 21)]


def check_visits(expected_visits: Callable) -> None:
    for sizes, draws in SIZES:
        for a in (1.0, 0.5, 0.0):
            answer = expected_visits(dict(sizes), a, draws)
            chances = {name: size**a / sum(other**a for other in sizes.values()) for name, size in sizes.items()}
            right = {name: draws * chances[name] / sizes[name] for name in sizes}
            seen = _as_numbers(answer, set(right), "number")
            if not (name := _differs(seen, right)):
                continue
            case = f"sizes {sizes}, a = {a:g}, {draws} draws: {name!r} should have {right[name]:.4f}"
            if not _differs(seen, chances):
                raise Wrong(f"these are the chances p_i of the domains; how often is one sentence seen? {case}")
            if not _differs(seen, {domain: draws * chances[domain] for domain in sizes}):
                raise Wrong(f"this counts the draws of a whole domain; divide by its sentences. {case}")
            if a == 1.0:
                raise Wrong(f"with a = 1 every sentence of every domain has the same chance. {case}")
            raise Wrong(f"{case}, yours is {seen[name]:.4f}")


@exercise(
    "13.2",
    "repeats",
    check_visits,
    hints=[
        "First the chance of each domain: p_i = s_i**a over the sum of all s_j**a. a = 1 is plain joint training, "
        "a = 0 makes all domains equally likely.",
        "A domain is drawn draws * p_i times on average, and these draws are spread over its s_i sentences.",
    ],
)
def expected_visits(sizes, a, draws):
    total = sum(size**a for size in sizes.values())
    return {domain: draws * size**a / total / size for domain, size in sizes.items()}


# -- 13.3 ------------------------------------------------------------------------------------------


def check_balanced(choose_balanced: Callable) -> None:
    generator = np.random.default_rng(0)
    for size, share, count in [(10, 0.5, 4), (40, 0.3, 11), (40, 0.3, 40), (25, 0.0, 6), (25, 1.0, 6), (12, 0.5, 0)]:
        has_entity = [bool(full) for full in generator.permutation(size) < round(share * size)]
        # Sentences without an entity are the surer ones, as in life.
        confidence = [float(c) for c in generator.permutation(size) / size + 0.5 * ~np.array(has_entity)]
        answer = choose_balanced(list(confidence), list(has_entity), count)
        try:
            seen = {int(number) for number in answer}
        except (TypeError, ValueError) as error:
            raise Wrong(f"the result should be a set of numbers, got {answer!r}") from error
        if not seen <= set(range(size)) or len(list(answer)) != count or len(seen) != count:
            raise Wrong(f"{count} different numbers below {size} expected, got {sorted(seen)}")
        wanted = round(count * sum(has_entity) / size)
        found = sum(has_entity[k] for k in seen)
        if found != wanted:
            raise Wrong(f"{sum(has_entity)} of {size} have an entity, so {wanted} of {count} should; yours: {found}")
        for kind in (True, False):
            group = [k for k in range(size) if has_entity[k] is kind]
            surest = sorted(group, key=lambda k: -confidence[k])[: sum(has_entity[k] is kind for k in seen)]
            if not set(surest) <= seen:
                raise Wrong(f"of those {'with' if kind else 'without'} an entity, the surest should be chosen")


@exercise(
    "13.3",
    "sure, but not empty",
    check_balanced,
    hints=[
        "Sort the numbers of the sentences by confidence, the surest first, then make two lists of them: with an "
        "entity and without.",
        "wanted = round(count * number with an entity / number of all); take so many from the first list and "
        "count - wanted from the second.",
    ],
)
def choose_balanced(confidence, has_entity, count):
    order = sorted(range(len(confidence)), key=lambda k: -confidence[k])
    full = [k for k in order if has_entity[k]]
    empty = [k for k in order if not has_entity[k]]
    wanted = round(count * len(full) / len(order))
    return {*full[:wanted], *empty[: count - wanted]}


# -- 13.4 ------------------------------------------------------------------------------------------


def _states(seed: int) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)
    floats = {"weight": torch.randn(3, 4, generator=generator), "bias": torch.randn(3, generator=generator)}
    floats["half"] = torch.randn(2, generator=generator).bfloat16()
    before = floats | {"count": torch.tensor(5), "mask": torch.tensor([True, False])}
    after = {name: values + 1 for name, values in floats.items()}
    return before, after | {"count": torch.tensor(8), "mask": torch.tensor([True, True])}


def check_mix(mix_weights: Callable) -> None:
    for seed, share in [(0, 0.0), (1, 0.25), (2, 1.0)]:
        (before, after), (first, second) = _states(seed), _states(seed)
        answer = mix_weights(before, after, share)
        if not isinstance(answer, dict) or set(answer) != set(first):
            raise Wrong(f"the result should be a dict with the names {sorted(first)}")
        for name in first:
            if not torch.equal(before[name], first[name]) or not torch.equal(after[name], second[name]):
                raise Wrong(f"{name!r} of an argument was changed; make new tensors")
            seen = answer[name]
            if not isinstance(seen, torch.Tensor) or seen.shape != first[name].shape:
                raise Wrong(f"{name!r} should be a tensor of shape {tuple(first[name].shape)}, got {seen!r}")
            if not first[name].is_floating_point():
                if not torch.equal(seen, second[name]):
                    raise Wrong(f"{name!r} holds no floating-point numbers and should come from `after`, got {seen}")
                continue
            if seen.dtype != first[name].dtype:
                raise Wrong(f"{name!r} should stay {first[name].dtype}, got {seen.dtype}")
            right = (1 - share) * first[name].float() + share * second[name].float()
            turned = share * first[name].float() + (1 - share) * second[name].float()
            if torch.allclose(seen.float(), right, atol=0.05 if name == "half" else 1e-5):
                continue
            if torch.allclose(seen.float(), turned, atol=0.05):
                raise Wrong("a share of 0 should give `before`, a share of 1 `after`; it is the other way round")
            raise Wrong(f"share {share}: {name!r} is not (1 - share) times `before` plus share times `after`")


@exercise(
    "13.4",
    "between two taggers",
    check_mix,
    hints=[
        "Go through the names; tensor.is_floating_point() says which of the two cases a tensor is.",
        "(1 - share) * before[name] + share * after[name] makes a new tensor; += or mul_ would change an argument.",
    ],
)
def mix_weights(before, after, share):
    mixed = {name: new.clone() for name, new in after.items()}
    for name, new in after.items():
        if new.is_floating_point():
            mixed[name] = (1 - share) * before[name] + share * new
    return mixed
