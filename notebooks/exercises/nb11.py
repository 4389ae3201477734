"""Exercises of notebook 11, models. The checks use enumeration and brute force only."""

import itertools
import math
import time

import torch

from notebooks.exercises import as_float64, close, normal, refuse_changes
from utils.course.exercises import Wrong, exercise

CHAIN = "emissions, start, transitions and end"
SIZES = ((1, 3), (2, 2), (3, 4), (5, 3))  # words, tags
LONG = 400  # words; e to the score of such a path is more than a float64 holds


def _chain(length, count, seed):
    """Scores of a chain: emissions (n, K), start (K), transitions (K, K), end (K)."""
    shapes = ((length, count), (count,), (count, count), (count,))
    return [normal(*shape, seed=10 * seed + k) for k, shape in enumerate(shapes)]


def _ask(function, given):
    """The answer to a chain, which has to stay as it is."""
    mine = [part.clone() for part in given]
    seen = function(*mine)
    refuse_changes(mine, given, CHAIN)
    return seen


def _refuse_enumeration(function):
    """Raises `Wrong` if ten words take so long that every path must have been written out."""
    seconds = math.inf
    for _ in range(2):  # once more, as another program may have been in the way
        started = time.perf_counter()
        function(*_chain(10, 3, seed=9))
        seconds = min(seconds, time.perf_counter() - started)
        if seconds < 0.1:
            return
    raise Wrong(f"10 words and 3 tags took {seconds:.1f} seconds; go from word to word, without a list of all paths")


def _paths(length, count):
    return list(itertools.product(range(count), repeat=length))


def _scores(emissions, start, transitions, end) -> torch.Tensor:
    """s(y) of every path, by eq. (2), as one tensor in the order of `_paths`."""
    scores = []
    for path in _paths(*emissions.shape):
        score = start[path[0]] + end[path[-1]] + sum(emissions[t, k] for t, k in enumerate(path))
        scores.append(score + sum(transitions[a, b] for a, b in itertools.pairwise(path)))
    return torch.stack(scores)


def _slipped(emissions, start, transitions, end) -> dict[str, list[torch.Tensor]]:
    """The chains that natural slips walk instead, by what is wrong with them."""
    none, first = torch.zeros_like(start), emissions.clone()
    first[0] = 0
    return {
        "end is left out: every path gets b of its last tag": [emissions, start, transitions, none],
        "start is left out: alpha begins with a plus the first word's emissions": [emissions, none, transitions, end],
        "the emissions of the first word are left out": [first, start, transitions, end],
        "transitions are taken the wrong way round: they are [from, to]": [emissions, start, transitions.T, end],
        "transitions are left out: every word decides for itself": [emissions, start, 0 * transitions, end],
        "the emissions are left out": [0 * emissions, start, transitions, end],
        "start and end are exchanged": [emissions, end, transitions, start],
    }


# -- 11.1 --------------------------------------------------------------------------------------------------


def check_forward(function) -> None:
    for seed, (length, count) in enumerate(SIZES, 1):
        given = _chain(length, count, seed)
        scores, seen = _scores(*given), _ask(function, given)
        if isinstance(seen, torch.Tensor) and tuple(seen.shape) == (count,):
            raise Wrong("one value for each tag is alpha at the last word; log Z is one number, the sum over them too")
        seen = as_float64(seen, (), "log Z", finite=False)
        right = torch.logsumexp(scores, 0)
        if close(seen, right):
            continue
        _name_the_sum(seen, scores)
        # With one word, or two, several slips give the same.
        for fault, other in _slipped(*given).items():
            if length > 2 and close(seen, torch.logsumexp(_scores(*other), 0)):
                raise Wrong(fault)
        if length > 2 or seed == 1:
            where = f"{length} word{'s' * (length > 1)} and {count} tags"
            if length == 1:
                _name_the_first_word(seen, given)
            raise Wrong(f"for {where} all paths together give log Z = {right:.4f}, you have {seen:.4f}")
    _check_gradient(function)
    _refuse_enumeration(function)
    flat = [torch.zeros(shape, dtype=torch.float64) for shape in (2, (2, 2), 2)]
    for score in (3.0, -3.0):
        long = as_float64(function(torch.full((LONG, 2), score, dtype=torch.float64), *flat), (), "log Z", finite=False)
        if not close(long, torch.tensor(LONG * (score + math.log(2)))):
            raise Wrong(
                f"with {LONG} words the numbers overflow or vanish (log Z became {long:.4g}): "
                "stay with logarithms, by torch.logsumexp"
            )


def _name_the_first_word(seen, given) -> None:
    emissions, start, _, end = given
    for fault, alpha in {
        "end is left out: every path gets b of its last tag": start + emissions[0],
        "start is left out: alpha begins with a plus the first word's emissions": emissions[0] + end,
        "the emissions of the first word are left out": start + end,
        "one word has no step: transitions have no part in it": start + emissions[0] + end + given[2].logsumexp(0),
    }.items():
        if close(seen, torch.logsumexp(alpha, 0)):
            raise Wrong(fault)


def _name_the_sum(seen, scores) -> None:
    if close(seen, scores.exp().sum()):
        raise Wrong("this is Z; its logarithm is asked for")
    if close(seen, scores.max()):
        raise Wrong("this is the score of the best path: here the paths are summed (logsumexp), not compared (max)")
    if close(seen, scores.sum()):
        raise Wrong("this is the sum of the scores; sum e to the score, and take the logarithm: torch.logsumexp")


def _check_gradient(function) -> None:
    emissions, *rest = _chain(4, 3, seed=7)
    expected = torch.zeros_like(emissions)
    for path, share in zip(_paths(4, 3), _scores(emissions, *rest).softmax(0)):
        for t, k in enumerate(path):
            expected[t, k] += share
    emissions.requires_grad_()
    with torch.enable_grad():
        seen = function(emissions, *rest)
    if not isinstance(seen, torch.Tensor) or not seen.requires_grad:
        raise Wrong(
            "the number is right, but it has no gradient, which training needs: return a tensor, "
            "without .item(), .detach(), float() or numpy on the way"
        )
    try:
        (gradient,) = torch.autograd.grad(seen, emissions)
    except RuntimeError as error:
        raise Wrong(
            "the number is right, but autograd cannot go back, as a tensor is written into in place; "
            "make a new alpha for every word"
        ) from error
    if not close(gradient, expected, rtol=1e-4):
        raise Wrong("the number is right, but its gradient by the emissions is not p(y_t = k); is a part detached?")


@exercise(
    "11.1",
    "the forward algorithm",
    check_forward,
    hints=[
        "Keep one vector alpha of K numbers, and walk over the words. At the first it is start + emissions[0].",
        "alpha[:, None] + transitions is (K, K): row j, column k. Which of the two is the tag before, to be summed?",
        "torch.logsumexp(alpha[:, None] + transitions, dim=0) sums over the tag before; add the word's emissions. "
        "After the last word add end, and take logsumexp once more.",
    ],
)
def forward(emissions, start, transitions, end):
    alpha = start + emissions[0]
    for row in emissions[1:]:
        alpha = row + torch.logsumexp(alpha[:, None] + transitions, dim=0)
    return torch.logsumexp(alpha + end, dim=0)


# -- 11.2 --------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_viterbi(function) -> None:
    asked = []
    for seed, (length, count) in enumerate(SIZES * 3, 20):
        given = _chain(length, count, seed)
        asked.append((given, _as_path(_ask(function, given), length, count)))
    for given, path in asked:
        scores, paths = _scores(*given), _paths(*given[0].shape)
        mine, best = scores[paths.index(path)], scores.max()
        # Of equally good paths any one will do.
        if not close(mine, best):
            _name_the_path(asked)
            raise Wrong(
                f"for {len(path)} word{'s' * (len(path) > 1)} and {len(given[1])} tags your path {list(path)} scores "
                f"{mine:.3f}, and {list(paths[int(scores.argmax())])} scores {best:.3f}"
            )
    _refuse_enumeration(function)
    flat = [torch.zeros(shape, dtype=torch.float64) for shape in (2, (2, 2), 2)]
    for level in (3.0, -3.0):
        long = level + 0.1 * normal(LONG, 2, seed=3)
        if list(_as_path(function(long, *flat), LONG, 2)) != long.argmax(1).tolist():
            raise Wrong(
                f"with {LONG} words and no scores of steps every word's best tag is the path, and yours is another: "
                "add scores; do not multiply their exponentials, which overflow or vanish"
            )


def _as_path(seen, length, count) -> tuple[int, ...]:
    if not isinstance(seen, list):
        what = f"a tensor of shape {tuple(seen.shape)}" if isinstance(seen, torch.Tensor) else repr(seen)[:60]
        raise Wrong(f"expected the path as a list of {length} whole numbers, got {what}")
    if len(seen) != length:
        raise Wrong(f"expected one tag for each of {length} words, got {len(seen)}")
    try:
        path = tuple(k.__index__() for k in seen)
    except (AttributeError, TypeError) as error:
        raise Wrong(f"expected whole numbers, got {seen[:4]}") from error
    if not all(0 <= k < count for k in path):
        raise Wrong(f"tags go from 0 to {count - 1}, got {path}")
    return path


def _name_the_path(asked) -> None:
    """Raises `Wrong` with a slip that explains all the answers."""
    explained = None
    for given, path in asked:
        ways = _ways(*given)
        mine = {fault for fault, way in ways.items() if way == path}
        explained = mine if explained is None else explained & mine
    for fault in ways:
        if fault in explained:
            raise Wrong(fault)


def _ways(emissions, start, transitions, end) -> dict[str, tuple[int, ...]]:
    """The paths of natural slips, by what is wrong with them."""
    chain = emissions, start, transitions, end
    best = _best(*chain)
    greedy = [int((start + emissions[0]).argmax())]
    for row in emissions[1:]:
        greedy.append(int((row + transitions[greedy[-1]]).argmax()))
    ways = {
        "this is the best path from its end to its beginning; turn it round": best[::-1],
        "the path is shifted by one word: its first tag is missing, its last one there twice": (*best[1:], best[-1]),
        "these are the words' own best tags: the chain is not in them": tuple(emissions.argmax(1).tolist()),
        "this takes the best next tag at every word (greedy). A tag that is second best here may lead to a better "
        "path: remember, for every tag, where its best beginning came from": tuple(greedy),
        "these are the last tags of the best beginnings, word by word; the path is read from its end, along the "
        "pointers": _tops(*chain),
    }
    return ways | {fault: _best(*other) for fault, other in _slipped(*chain).items()}


def _best(*chain) -> tuple[int, ...]:
    return _paths(*chain[0].shape)[int(_scores(*chain).argmax())]


def _tops(emissions, start, transitions, end) -> tuple[int, ...]:
    """The last tag of the best beginning, at each word."""
    best = start + emissions[0]
    tops = [int(best.argmax())]
    for row in emissions[1:]:
        best = row + (best[:, None] + transitions).max(0).values
        tops.append(int(best.argmax()))
    return (*tops[:-1], int((best + end).argmax()))


@exercise(
    "11.2",
    "Viterbi's algorithm",
    check_viterbi,
    hints=[
        "Walk as in the forward algorithm, with max for logsumexp: best holds the best score that ends in each tag.",
        "longer, came_from = (best[:, None] + transitions).max(dim=0) gives the maxima and the tags before; "
        "keep came_from of every word in a list.",
        "The last tag is (best + end).argmax(). From there walk the list backwards: the tag before k is "
        "came_from[k]. At the end turn the path round.",
    ],
)
def viterbi(emissions, start, transitions, end):
    best, pointers = start + emissions[0], []
    for row in emissions[1:]:
        longer, came_from = (best[:, None] + transitions).max(dim=0)
        best = row + longer
        pointers.append(came_from.tolist())
    path = [int((best + end).argmax())]
    for came_from in reversed(pointers):
        path.append(came_from[path[-1]])
    return path[::-1]


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
    "11.4",
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


# -- 11.5 --------------------------------------------------------------------------------------------------


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
        if not isinstance(seen, (tuple, list)) or len(seen) != 2:
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
    "11.5",
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
