"""Exercises of notebook 11, models. The checks use enumeration and brute force only."""

import itertools

import torch

from utils.course.exercises import Wrong, exercise

# -- 11.1 --------------------------------------------------------------------------------------------------


def check_trusted_names(function) -> None:
    def ask(names, sentences, threshold):
        given = set(names)
        seen = function(given, [(list(words), set(genes)) for words, genes in sentences], threshold)
        if not isinstance(seen, (set, frozenset)):
            raise Wrong(f"expected a set, got {type(seen).__name__}")
        if given != set(names):
            raise Wrong("the set of names that you were given was changed; build a new one")
        return seen

    was, p53, il2 = ("was",), ("p53",), ("IL", "-", "2")
    text = ["p53", "was", "bound", "and", "was", "IL", "-", "2"]
    if ask({p53, was}, [(text, {(0, 1), (5, 8)})], 0.5) != {p53}:
        raise Wrong('"was" stands twice and is no gene, "p53" stands once and is one: only p53 is to stay at 0.5')
    if ask({p53, ("TP73",)}, [(text, {(0, 1)})], 0.5) != {p53, ("TP73",)}:
        raise Wrong("a name that occurs nowhere has not been wrong, and is to stay")
    if ask({il2, ("IL",), ("2",)}, [(text, {(5, 8)})], 0.5) != {il2}:
        raise Wrong("IL - 2 (three words) is the gene, and IL alone is not: compare whole spans, of any length")
    if ask({il2}, [(text, {(5, 6)})], 0.5):
        raise Wrong("where IL alone is marked, IL - 2 (three words) is wrong, and is to go")
    half = [(["was", "was"], {(0, 1)})]
    places = 'in the one sentence "was was" with the genes {(0, 1)} the name was stands twice, and is right once'
    if ask({was}, half, 0.5) != {was}:
        raise Wrong(f"{places}: at least 0.5, so it is to stay")
    if ask({was}, half, 0.6):
        raise Wrong(f"{places}: less than 0.6, so it is to go (places count, not sentences)")
    if ask({was}, [(["was"], {(0, 1)}), (["was"], set()), (["was"], set())], 0.5):
        raise Wrong("count over all sentences together: one of three is less than 0.5")
    twice = ("a", "a")
    if ask({twice}, [(["a", "a", "a"], {(0, 2)})], 0.5) != {twice}:
        raise Wrong("in a a a the name a a stands twice, once from each of the first two words; one of two is right")
    if ask({("Was",)}, [(["was"], set())], 0.5) != {("Was",)}:
        raise Wrong("words are compared as they are: Was does not occur where was stands")
    if ask(set(), [(text, set())], 0.5) != set() or ask({p53}, [], 0.5) != {p53}:
        raise Wrong("no names give no names, and without sentences all of them stay")


@exercise(
    "11.1",
    "a cleaner list",
    check_trusted_names,
    hints=[
        "Two counters: in how many places a name stands, and in how many of them it is right.",
        "Where can a name of `length` words stand? At every start from 0 to len(words) - length.",
        "tuple(words[start:start + length]) in names says whether a name stands there; "
        "(start, start + length) in genes says whether it is right.",
    ],
)
def trusted_names(names, sentences, threshold):
    seen, right = {}, {}
    for words, genes in sentences:
        for length in {len(name) for name in names}:
            for start in range(len(words) - length + 1):
                name = tuple(words[start : start + length])
                if name in names:
                    seen[name] = seen.get(name, 0) + 1
                    right[name] = right.get(name, 0) + ((start, start + length) in genes)
    return {name for name in names if right.get(name, 0) >= threshold * seen.get(name, 0)}


# -- 11.2 --------------------------------------------------------------------------------------------------


def _all_marginals(emissions, start, transitions, end) -> torch.Tensor:
    """By writing out every path."""
    length, count = emissions.shape
    total = torch.zeros(length, count, dtype=torch.float64)
    for path in itertools.product(range(count), repeat=length):
        score = start[path[0]] + end[path[-1]] + sum(emissions[t, k] for t, k in enumerate(path))
        score = score + sum(transitions[a, b] for a, b in itertools.pairwise(path))
        for t, k in enumerate(path):
            total[t, k] += score.exp()
    return total / total.sum(1, keepdim=True)


def check_marginals(function) -> None:
    generator = torch.Generator().manual_seed(2)
    for length, count in ((1, 3), (2, 2), (5, 3)):
        shapes = ((length, count), (count,), (count, count), (count,))
        given = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
        seen = function(*(tensor.clone() for tensor in given))
        if not isinstance(seen, torch.Tensor) or tuple(seen.shape) != (length, count):
            what = tuple(seen.shape) if isinstance(seen, torch.Tensor) else type(seen).__name__
            raise Wrong(f"expected a tensor of shape {(length, count)} for {length} words and {count} tags, got {what}")
        expected = _all_marginals(*given)
        if torch.allclose(seen.double(), expected, atol=1e-5):
            continue
        _name_the_slip(seen.detach().double(), given, expected)
    flat = [torch.zeros(shape, dtype=torch.float64) for shape in (2, (2, 2), 2)]
    long = function(torch.full((2000, 2), 3.0, dtype=torch.float64), *flat)
    if not torch.allclose(long.double(), torch.full((2000, 2), 0.5, dtype=torch.float64), atol=1e-3):
        raise Wrong("with 2000 words the numbers overflow or vanish: stay with logarithms until the last step")


def _name_the_slip(seen, given, expected) -> None:
    emissions, start, transitions, end = given
    if torch.allclose(seen.exp(), expected, atol=1e-5):
        raise Wrong("these are the logarithms of the right answer: take the exponential")
    if not torch.allclose(seen.sum(1), torch.ones(len(seen), dtype=torch.float64), atol=1e-4):
        sums = ", ".join(f"{value:.3f}" for value in seen.sum(1).tolist())
        raise Wrong(f"the probabilities of a word's tags sum to one; yours sum to {sums}")
    if torch.allclose(seen, emissions.softmax(1), atol=1e-5):
        raise Wrong("these are the words' own softmaxes: the chain is not in them")
    if torch.allclose(seen, _all_marginals(emissions, start, transitions.T, end), atol=1e-5):
        raise Wrong("transitions are taken the wrong way round: [from, to]")
    if torch.allclose(seen, _all_marginals(emissions, start, transitions, torch.zeros_like(end)), atol=1e-5):
        raise Wrong("end is left out: beta at the last word is b, not 0")
    if torch.allclose(seen[-1], expected[-1], atol=1e-5):
        raise Wrong("the last word is right and another is not: is beta there, and in the right order?")
    raise Wrong(f"not what enumerating all paths gives, for {len(seen)} words and {seen.shape[1]} tags")


@exercise(
    "11.2",
    "the backward algorithm",
    check_marginals,
    hints=[
        "It is the forward algorithm from the other end: begin with beta = end at the last word.",
        "One step back: torch.logsumexp(transitions + emissions[t + 1] + beta, dim=1). The sum is over the tag "
        "that comes after, the second index of transitions.",
        "Keep all alphas and all betas (turned round), stack them to (n, K), subtract log Z, take the exponential.",
    ],
)
def marginals(emissions, start, transitions, end):
    alphas, betas = [start + emissions[0]], [end]
    for row in emissions[1:]:
        alphas.append(row + torch.logsumexp(alphas[-1][:, None] + transitions, dim=0))
    for row in emissions[1:].flip(0):
        betas.append(torch.logsumexp(transitions + row + betas[-1], dim=1))
    log_z = torch.logsumexp(alphas[-1] + end, dim=0)
    return torch.exp(torch.stack(alphas) + torch.stack(betas[::-1]) - log_z)


# -- 11.3 --------------------------------------------------------------------------------------------------


PIECE_CASES = (
    ([7, 8], [None, 0, 1, None], "words of one piece keep their tags, special pieces get -100"),
    ([7, 8], [None, 0, 0, 0, 1, None], "only the first piece of a word gets its tag, the others -100"),
    ([5], [0, 0], "the first word has number 0, which Python takes for false like None"),
    ([0, 0, 3], [None, 0, 1, 2, 2, None], "tag 0 is a tag like any other, and equal tags do not make one word"),
    ([4, 5, 6], [None, 0, 2, 2, None], "a word may have no piece at all: look tags up by the word's number"),
    ([4, 5, 6], [None, 1, 1, 2, None], "a window may begin at a later word: look tags up by the word's number"),
    ([], [None, None], "a sentence without words has special pieces only"),
)


def check_piece_labels(function) -> None:
    for tags, word_of_piece, property_ in PIECE_CASES:
        expected, before = [], None
        for word in word_of_piece:
            expected.append(-100 if word is None or word == before else tags[word])
            before = word
        seen = function(list(tags), list(word_of_piece))
        seen = seen.tolist() if isinstance(seen, torch.Tensor) else list(seen)
        if len(seen) != len(word_of_piece):
            raise Wrong(f"{len(word_of_piece)} pieces need as many labels, got {len(seen)}")
        if seen != expected:
            raise Wrong(f"{property_}: tags {tags} and words {word_of_piece} should give {expected}, got {seen}")


@exercise(
    "11.3",
    "labels for pieces",
    check_piece_labels,
    hints=[
        "Walk through word_of_piece and remember the number of the piece before.",
        "A piece is the first of its word if its number is not None and not the one before.",
        "Beware of `if word`: the first word has number 0.",
    ],
)
def piece_labels(tags, word_of_piece):
    labels, before = [], None
    for word in word_of_piece:
        labels.append(-100 if word is None or word == before else tags[word])
        before = word
    return labels


# -- 11.4 --------------------------------------------------------------------------------------------------


# gold, alternatives, predicted, (found, wrong), and what a wrong answer breaks.
OFFICIAL_CASES = (
    ({(0, 4)}, set(), {(0, 4)}, (1, 0), "a gold mention that is predicted is found"),
    ({(0, 4)}, set(), {(0, 3)}, (0, 1), "without alternatives another boundary is wrong"),
    ({(0, 4)}, {(0, 3)}, {(0, 3)}, (1, 0), "an alternative in place of the gold mention finds it, and is not wrong"),
    ({(0, 4)}, {(0, 3)}, {(0, 3), (0, 4)}, (1, 0), "a mention counts once, however many accepted spans are predicted"),
    ({(0, 4)}, {(0, 3), (2, 4)}, {(0, 3), (2, 4)}, (1, 0), "two alternatives of one mention find it once"),
    ({(0, 4)}, {(0, 3)}, {(1, 3)}, (0, 1), "a span that is in neither list is wrong, although it overlaps"),
    ({(0, 4), (9, 9)}, {(0, 3)}, {(0, 3)}, (1, 0), "an alternative finds only the mention that it overlaps"),
    ({(0, 4)}, {(4, 8)}, {(4, 8)}, (1, 0), "both ends are inside, so (0, 4) and (4, 8) share character 4"),
    ({(0, 3), (4, 8)}, {(0, 8)}, {(0, 8)}, (2, 0), "one alternative may cover two gold mentions, and finds both"),
    (
        {(0, 3)},
        {(6, 8)},
        {(6, 8)},
        (0, 0),
        "an alternative that overlaps no gold mention finds nothing, nor is it wrong",
    ),
    (set(), set(), {(0, 1), (3, 4)}, (0, 2), "without gold mentions every prediction is wrong"),
    ({(0, 1)}, {(0, 2)}, set(), (0, 0), "nothing predicted: nothing found, nothing wrong"),
)


def check_official_score(function) -> None:
    for gold, alternatives, predicted, expected, property_ in OFFICIAL_CASES:
        seen = function(set(gold), set(alternatives), set(predicted))
        if not isinstance(seen, tuple) or len(seen) != 2:
            raise Wrong(f"expected a pair (found, wrong), got {seen!r}")
        found, wrong = map(int, seen)
        if (found, wrong) != expected:
            if found == expected[0] and wrong > expected[1] and predicted & alternatives:
                property_ = "a predicted alternative is not wrong, even where its mention is found already"
            raise Wrong(
                f"{property_}: gold {sorted(gold)}, alternatives {sorted(alternatives)}, predicted "
                f"{sorted(predicted)} should give {expected}, got {tuple(seen)}"
            )


@exercise(
    "11.4",
    "official scoring",
    check_official_score,
    hints=[
        "Alternatives that are not predicted do not matter: begin with alternatives & predicted.",
        "Go through the gold mentions, not through the predictions: then each counts once at most.",
        "(a, b) and (first, last), ends inside, share a character when a <= last and first <= b.",
    ],
)
def official_score(gold, alternatives, predicted):
    accepted = alternatives & predicted
    found = 0
    for first, last in gold:
        by_alternative = any(a <= last and first <= b for a, b in accepted)
        found += (first, last) in predicted or by_alternative
    return found, len(predicted - gold - alternatives)
