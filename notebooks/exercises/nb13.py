"""Exercises of notebook 13, domain adaptation. The checks count for themselves and use nothing of utils.ner."""

import math
from collections import Counter
from collections.abc import Callable

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


FEATURES = [["bias", "lower=renal", "end=al"], ["bias", "lower=failure"], ["bias"]]


def _copies(augment: Callable, features: list, domain: str) -> list[list[str]]:
    """The answer, one list of strings for each word."""
    given = [list(found) for found in features]
    answer = augment(given, domain)
    if given != features:
        raise Wrong("your function changes the lists that it is given; make new ones")
    if not isinstance(answer, (list, tuple)):
        raise Wrong(f"the result should be a list with one list for each word, got {type(answer).__name__}")
    if len(answer) != len(features) or any(isinstance(found, str) for found in answer):
        raise Wrong(f"{len(features)} words should give {len(features)} lists of strings, got {len(answer)} items")
    for found in answer:
        if not isinstance(found, (list, tuple, set)) or not all(isinstance(name, str) for name in found):
            raise Wrong(f"each word should get a list of strings, got {found!r}")
    return [list(found) for found in answer]


def check_augment(augment: Callable) -> None:
    alone = {}  # (feature, domain) -> its strings
    for domain in ("source", "target", "web"):
        for name in {name for found in FEATURES for name in found}:
            alone[name, domain] = _copies(augment, [[name]], domain)[0]
    for (name, domain), found in alone.items():
        _check_pair(name, domain, found, alone)
    own = {name: set(alone[name, "source"]) for name, _ in alone}
    for name, other in ((a, b) for a in own for b in own if a < b):
        if shared := own[name] & own[other]:
            raise Wrong(f"{name!r} and {other!r} both become {shared.pop()!r}; a copy has to keep the feature's name")
    for domain in ("source", "target"):
        for found, seen in zip(FEATURES, _copies(augment, FEATURES, domain)):
            right = sorted(copy for name in found for copy in alone[name, domain])
            if sorted(seen) != right:
                raise Wrong(f"the word with {found} in the {domain} should get {right}, got {sorted(seen)}")
    if augment([], "source"):
        raise Wrong("no words should give no lists")


def _check_pair(name: str, domain: str, found: list[str], alone: dict) -> None:
    """That one feature has become two strings, one of which it has in every domain and one in this domain alone."""
    others = [set(alone[name, other]) for other in ("source", "target", "web") if other != domain]
    if len(others[0] | others[1] | set(found)) == len(set(found)):
        raise Wrong(f"the same strings in every domain, {found}: the domain has to stand in one of the copies")
    shared = set(found) & others[0] & others[1]
    if not shared:
        raise Wrong(f"{name!r} has no string that all domains share; the first copy is without the domain")
    if len(found) != 2:
        raise Wrong(f"one feature should become two strings, got {found}")
    if own := (set(found) - shared) & (others[0] | others[1]):
        raise Wrong(f"{own.pop()!r} stands for {name!r} in two domains; the second copy is one domain's alone")


@exercise(
    "13.1",
    "every feature twice",
    check_augment,
    hints=[
        "Keep the list of a word as it is, and add the same features once more, with the domain's name before each.",
        'For one word: found + [f"{domain}:{name}" for name in found]. Do this for every word. `+` makes a new list.',
    ],
)
def augment(features, domain):
    return [found + [f"{domain}:{name}" for name in found] for found in features]


# -- 13.2 ------------------------------------------------------------------------------------------


TEXTS = [
    ("a b a c", "a d d"),
    ("no history of stroke", "history of stroke and of cancer in the family"),
    ("x", "y"),
    ("p q r s t", "p q r s t"),
]


def _ratios(first: list, second: list, a: float, base: float = 2, size: Callable = len, sizes: tuple = ()) -> dict:
    """The right answer, or one with another logarithm, another size of a text, or other sizes V of the vocabulary."""
    words = {*first, *second}
    total = [size(part) + a * V for part, V in zip((first, second), sizes or (len(words), len(words)))]
    shares = [{w: (part.count(w) + a) / below for w in words} for part, below in zip((first, second), total)]
    return {w: math.log(shares[0][w] / shares[1][w]) / math.log(base) for w in words}


def check_telling(telling_words: Callable) -> None:
    for texts in TEXTS:
        first, second = (text.split() for text in texts)
        for a in (0.5, 2.0):
            given = list(first), list(second)
            answer = telling_words(*given, a)
            if given != (first, second):
                raise Wrong("your function changes the lists that it is given; leave them as they are")
            right = _ratios(first, second, a)
            seen = _as_numbers(answer, set(right), "number")
            if not (word := _differs(seen, right)):
                continue
            different = len({*first}), len({*second})
            wrongs = {
                "the sign is turned: positive should be what `first` has more of": {w: -x for w, x in right.items()},
                "these are natural logarithms; bits are asked for, log2": _ratios(first, second, a, math.e),
                "these are ratios; take their logarithm": {w: 2**value for w, value in right.items()},
                "the sum of c_v counts every occurrence, not every different word": _ratios(
                    first, second, a, size=lambda part: len(set(part))
                ),
                "V counts the words of both lists together; it is the same in both": _ratios(
                    first, second, a, sizes=different
                ),
                "the sums below need a V as well, or the shares do not add up to 1": _ratios(
                    first, second, a, sizes=(1e-12, 1e-12)
                ),
                "a is not 0.5 always; it is an argument": _ratios(first, second, 0.5),
            }
            for why, wrong in wrongs.items():
                if not _differs(seen, wrong):
                    raise Wrong(why)
            case = f"{' '.join(first)!r} and {' '.join(second)!r}, a = {a}"
            raise Wrong(f"{case}: {word!r} should have {right[word]:.4f}, yours is {seen[word]:.4f}")


@exercise(
    "13.2",
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


# -- 13.3 ------------------------------------------------------------------------------------------


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
    "13.3",
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
