"""Answers to notebook 13's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import math
import re
from collections import Counter

import pytest
import torch

from utils.course.exercises import grade

# -- right ---------------------------------------------------------------------------------------------------


def own_copy_first(features, domain):
    return [[f"{domain}|{name}" for name in found] + list(found) for found in features]


def shared_copy_named_too(features, domain):
    result = []
    for found in features:
        result.append([])
        for name in found:
            result[-1] += [f"all:{name}", f"{domain}:{name}"]
    return result


def domain_behind(features, domain):
    return [[*found, *map(f"{{}}@{domain}".format, found)] for found in features]


def tuples_of_them(features, domain):
    return tuple((*found, *(domain + "/" + name for name in found)) for found in features)


def by_subtraction(first, second, a=0.5):
    def log_shares(words):
        counts = Counter(words)
        return {w: math.log2((counts[w] + a) / (len(words) + a * len(vocabulary))) for w in vocabulary}

    vocabulary = sorted(set(first) | set(second))
    here, there = log_shares(first), log_shares(second)
    return {w: here[w] - there[w] for w in vocabulary}


def with_tensors(first, second, a=0.5):
    words = list(dict.fromkeys(first + second))
    counts = torch.tensor([[part.count(w) for w in words] for part in (first, second)], dtype=torch.float64) + a
    shares = counts / counts.sum(1, keepdim=True)
    return dict(zip(words, (shares[0] / shares[1]).log2()))


def natural_then_bits(first, second, a=0.5):
    c, d = Counter(first), Counter(second)
    V = len(c.keys() | d.keys())
    turn = math.log((d.total() + a * V) / (c.total() + a * V))
    return {w: (math.log((c[w] + a) / (d[w] + a)) + turn) / math.log(2) for w in c | d}


def by_lerp(before, after, share):
    pairs = {name: (before[name], after[name]) for name in after}
    return {n: torch.lerp(x, y, share) if torch.is_floating_point(y) else y for n, (x, y) in pairs.items()}


def by_step(before, after, share):
    mixed = dict(after)
    for name in mixed:
        if mixed[name].dtype.is_floating_point:
            mixed[name] = before[name] + share * (after[name] - before[name])
    return mixed


def in_place_on_copies(before, after, share):
    mixed = {}
    for name, new in after.items():
        mixed[name] = new.clone()
        if new.is_floating_point():
            mixed[name].mul_(share).add_(before[name], alpha=1 - share)
    return mixed


RIGHT = [
    ("13.1", own_copy_first),
    ("13.1", shared_copy_named_too),
    ("13.1", domain_behind),
    ("13.1", tuples_of_them),
    ("13.2", by_subtraction),
    ("13.2", with_tensors),
    ("13.2", natural_then_bits),
    ("13.3", by_lerp),
    ("13.3", by_step),
    ("13.3", in_place_on_copies),
]


@pytest.mark.parametrize(("number", "answer"), RIGHT, ids=lambda value: getattr(value, "__name__", None))
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def only_its_own(features, domain):
    return [[f"{domain}:{name}" for name in found] for found in features]


def without_the_domain(features, domain):
    return [found + [f"again:{name}" for name in found] for found in features]


def the_domain_as_one_feature(features, domain):
    return [[*found, f"domain={domain}"] for found in features]


def in_both_domains(features, domain):
    return [[*found, *(f"{d}:{name}" for d in ("source", "target") for name in found)] for found in features]


def in_place(features, domain):
    for found in features:
        found += [f"{domain}:{name}" for name in found]
    return features


def in_one_list(features, domain):
    return [copy for found in features for name in found for copy in (name, f"{domain}:{name}")]


def pairs(features, domain):
    return [[*found, *((domain, name) for name in found)] for found in features]


def numbered(features, domain):
    return [found + [f"{domain}:{k}" for k in range(len(found))] for found in features]


def the_source_alone(features, domain):
    return [found + [f"source:{name}" for name in found if domain == "source"] for found in features]


def the_first_word_alone(features, domain):
    return [features[0] + [f"{domain}:{name}" for name in features[0]], *features[1:]] if features else []


def two_domains_by_hand(features, domain):
    name_of = "source" if domain == "source" else "target"
    return [found + [f"{name_of}:{name}" for name in found] for found in features]


def turned(first, second, a=0.5):
    return by_subtraction(second, first, a)


def nats(first, second, a=0.5):
    return {w: value * math.log(2) for w, value in by_subtraction(first, second, a).items()}


def ratios(first, second, a=0.5):
    return {w: 2**value for w, value in by_subtraction(first, second, a).items()}


def vocabularies_of_their_own(first, second, a=0.5):
    c, d = Counter(first), Counter(second)
    below = [len(part) + a * len({*part}) for part in (first, second)]
    return {w: math.log2((c[w] + a) / below[0] / ((d[w] + a) / below[1])) for w in c | d}


def not_smoothed_below(first, second, a=0.5):
    c, d = Counter(first), Counter(second)
    return {w: math.log2((c[w] + a) / len(first) / ((d[w] + a) / len(second))) for w in c | d}


def different_words_as_the_sum(first, second, a=0.5):
    c, d = Counter(first), Counter(second)
    V = len(c | d)
    return {w: math.log2((c[w] + a) / (len(c) + a * V) / ((d[w] + a) / (len(d) + a * V))) for w in c | d}


def the_words_of_first(first, second, a=0.5):
    found = by_subtraction(first, second, a)
    return {w: found[w] for w in first}


def half_always(first, second, a=0.5):
    return by_subtraction(first, second)


def exchanged(before, after, share):
    return by_step(before, after, 1 - share)


def writes_into_after(before, after, share):
    for name, new in after.items():
        if new.is_floating_point():
            new.mul_(share).add_((1 - share) * before[name])
    return after


def all_mixed(before, after, share):
    return {name: (1 - share) * before[name] + share * after[name] for name in after}


def counters_of_before(before, after, share):
    return {**before, **{n: x for n, x in by_step(before, after, share).items() if x.is_floating_point()}}


def floats_only(before, after, share):
    return {name: x for name, x in by_step(before, after, share).items() if x.is_floating_point()}


def in_float32(before, after, share):
    return {n: x.float() if x.is_floating_point() else x for n, x in by_step(before, after, share).items()}


def a_sum(before, after, share):
    return {n: before[n] + share * after[n] if after[n].is_floating_point() else after[n] for n in after}


WRONG = [
    ("13.1", only_its_own, "has no string that all domains share"),
    ("13.1", without_the_domain, "the same strings in every domain.*the domain has to stand in one"),
    ("13.1", the_domain_as_one_feature, "both become 'domain=source'; a copy has to keep the feature's name"),
    ("13.1", in_both_domains, "the same strings in every domain"),
    ("13.1", in_place, "changes the lists that it is given"),
    ("13.1", in_one_list, "lists of strings"),
    ("13.1", pairs, "a list of strings"),
    ("13.1", numbered, "both become 'source:0'; a copy has to keep the feature's name"),
    ("13.1", the_source_alone, "the domain has to stand in one of the copies"),
    ("13.1", the_first_word_alone, r"the word with \['bias', 'lower=failure'\] in the source should get"),
    ("13.1", two_domains_by_hand, "stands for .* in two domains"),
    ("13.2", turned, "the sign is turned"),
    ("13.2", nats, "natural logarithms"),
    ("13.2", ratios, "take their logarithm"),
    ("13.2", vocabularies_of_their_own, "V counts the words of both lists together"),
    ("13.2", not_smoothed_below, "the sums below need a V as well"),
    ("13.2", different_words_as_the_sum, "counts every occurrence"),
    ("13.2", the_words_of_first, r"missing \['d'\]"),
    ("13.2", half_always, "a is not 0.5 always"),
    ("13.3", exchanged, "the other way round"),
    ("13.3", writes_into_after, "an argument was changed"),
    ("13.3", all_mixed, "should come from `after`|TypeError|RuntimeError"),
    ("13.3", counters_of_before, "should come from `after`"),
    ("13.3", floats_only, "a dict with the names"),
    ("13.3", in_float32, "should stay torch.bfloat16"),
    ("13.3", a_sum, r"is not \(1 - share\) times `before` plus share times `after`"),
]


@pytest.mark.parametrize(("number", "answer", "told"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
