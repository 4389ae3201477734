"""Answers to notebook 11's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import itertools

import pytest
import torch

from notebooks.exercises import nb11
from utils.course.exercises import grade
from utils.ner.chain import LinearChainCRF

# -- right ---------------------------------------------------------------------------------------------------


def forward_by_indices(emissions, start, transitions, end):
    n, K = emissions.shape
    alpha = [start[k] + emissions[0, k] for k in range(K)]
    for t in range(1, n):
        sums = [torch.stack([alpha[j] + transitions[j, k] for j in range(K)]).logsumexp(0) for k in range(K)]
        alpha = [emissions[t, k] + sums[k] for k in range(K)]
    return torch.stack([alpha[k] + end[k] for k in range(K)]).logsumexp(0)


def forward_by_scaling(emissions, start, transitions, end):
    """Sums of exponentials, divided by their total at every word."""
    weight, log_z = (start + emissions[0]).exp(), 0.0
    for row in emissions[1:]:
        log_z, weight = log_z + weight.sum().log(), weight / weight.sum()
        weight = (weight @ transitions.exp()) * row.exp()
    return log_z + (weight @ end.exp()).log()


def forward_from_the_end(emissions, start, transitions, end):
    """The backward algorithm's sum."""
    beta = end
    for row in emissions.flip(0)[:-1]:
        beta = torch.logsumexp(transitions + row + beta, dim=1)
    return (start + emissions[0] + beta).logsumexp(0)


def forward_of_utils(emissions, start, transitions, end):
    """As utils has it, with a batch of one, in float32."""
    crf = LinearChainCRF(len(start)).requires_grad_(False)
    for parameter, values in zip((crf.start, crf.transitions, crf.end), (start, transitions, end)):
        parameter.copy_(values)
    return crf.log_partition(emissions[None], torch.ones(1, len(emissions), dtype=torch.bool))[0]


def forward_in_an_array(emissions, start, transitions, end):
    alphas = torch.zeros_like(emissions)
    alphas[0] = start + emissions[0]
    for t in range(1, len(emissions)):
        alphas[t] = emissions[t] + torch.logsumexp(alphas[t - 1][:, None] + transitions, dim=0)
    return torch.logsumexp(alphas[-1] + end, dim=0)


def viterbi_with_tuples(emissions, start, transitions, end):
    """Every tag carries its whole best beginning along."""
    K = len(start)
    best = [(float(start[k] + emissions[0, k]), [k]) for k in range(K)]
    for row in emissions[1:]:
        best = [
            max((score + float(transitions[j, k] + row[k]), [*path, k]) for j, (score, path) in enumerate(best))
            for k in range(K)
        ]
    return max((score + float(end[k]), path) for k, (score, path) in enumerate(best))[1]


def viterbi_from_the_end(emissions, start, transitions, end):
    best, pointers = end, []
    for row in emissions.flip(0)[:-1]:
        best, goes_to = (transitions + row + best).max(1)
        pointers.append(goes_to)
    path = [(start + emissions[0] + best).argmax()]
    for goes_to in pointers[::-1]:
        path.append(goes_to[path[-1]])
    return path


def viterbi_in_an_array(emissions, start, transitions, end):
    n, K = emissions.shape
    score, came_from = torch.empty(n, K), torch.empty(n, K, dtype=torch.long)
    score[0] = start + emissions[0]
    for t in range(1, n):
        every = score[t - 1].unsqueeze(1) + transitions + emissions[t].unsqueeze(0)
        score[t], came_from[t] = every.max(0)
    tags = torch.zeros(n, dtype=torch.long)
    tags[-1] = (score[-1] + end).argmax()
    for t in range(n - 1, 0, -1):
        tags[t - 1] = came_from[t, tags[t]]
    return tags.tolist()


def viterbi_by_derivatives(emissions, start, transitions, end):
    """The derivative of the best score by the emissions is 1 on the path."""
    emissions = emissions.clone().requires_grad_()
    with torch.enable_grad():
        best = start + emissions[0]
        for row in emissions[1:]:
            best = row + (best[:, None] + transitions).amax(0)
        (best + end).max().backward()
    return emissions.grad.argmax(1).tolist()


def labels_by_first_places(tags, word_of_piece):
    labels = [-100] * len(word_of_piece)
    for word in set(word_of_piece) - {None}:
        labels[word_of_piece.index(word)] = tags[word]
    return labels


def labels_by_groups(tags, word_of_piece):
    labels = []
    for word, pieces in itertools.groupby(word_of_piece):
        first = -100 if word is None else tags[word]
        labels += [first] + [-100] * (len(list(pieces)) - 1)
    return labels


def labels_as_a_tensor(tags, word_of_piece):
    words = [-1 if word is None else word for word in word_of_piece]
    pairs = zip([-1, *words], words)
    return torch.tensor([tags[here] if here >= 0 and here != before else -100 for before, here in pairs])


def labels_by_a_set(tags, word_of_piece):
    done, labels = {None}, []
    for word in word_of_piece:
        labels.append(-100 if word in done else tags[word])
        done.add(word)
    return labels


def trusted_by_fractions(names, sentences, threshold):
    kept = set()
    for name in names:
        right = []
        for words, genes in sentences:
            ends = range(len(name), len(words) + 1)
            right += [(e - len(name), e) in genes for e in ends if tuple(words[e - len(name) : e]) == name]
        if not right or sum(right) / len(right) >= threshold:
            kept.add(name)
    return kept


def trusted_by_windows(names, sentences, threshold):
    counts = {name: [0, 0] for name in names}
    for words, genes in sentences:
        for a, b in itertools.combinations(range(len(words) + 1), 2):
            if tuple(words[a:b]) in counts:
                counts[tuple(words[a:b])][(a, b) in genes] += 1
    return frozenset(name for name, (no, yes) in counts.items() if yes >= threshold * (yes + no))


def trusted_by_taking_away(names, sentences, threshold):
    left = set(names)
    for name in names:
        places = [(s, i) for s in sentences for i in range(len(s[0])) if tuple(s[0][i : i + len(name)]) == name]
        if sum((i, i + len(name)) in genes for (_, genes), i in places) < threshold * len(places):
            left.discard(name)
    return left


def official_by_sets(gold, alternatives, predicted):
    accepted = predicted & (gold | alternatives)
    found = {g for g in gold if g in predicted or any(set_of(g) & set_of(a) for a in accepted & alternatives)}
    return len(found), len(predicted) - len(accepted)


def set_of(span):
    return set(range(span[0], span[1] + 1))


def official_by_intervals(gold, alternatives, predicted):
    found = wrong = 0
    for span in predicted:
        wrong += span not in gold and span not in alternatives
    for g in gold:
        ways = [g] + [a for a in alternatives if max(a[0], g[0]) <= min(a[1], g[1])]
        found += not predicted.isdisjoint(ways)
    return found, wrong


def official_as_tensors(gold, alternatives, predicted):
    hits = [any(a in predicted for a in {g} | {a for a in alternatives if set_of(a) & set_of(g)}) for g in gold]
    return torch.tensor(hits).sum(), len([p for p in predicted if p not in gold.union(alternatives)])


RIGHT = [
    ("11.1", forward_by_indices),
    ("11.1", forward_by_scaling),
    ("11.1", forward_from_the_end),
    ("11.1", forward_of_utils),
    ("11.1", forward_in_an_array),
    ("11.2", viterbi_with_tuples),
    ("11.2", viterbi_from_the_end),
    ("11.2", viterbi_in_an_array),
    ("11.2", viterbi_by_derivatives),
    ("11.3", labels_by_first_places),
    ("11.3", labels_by_groups),
    ("11.3", labels_as_a_tensor),
    ("11.3", labels_by_a_set),
    ("11.4", trusted_by_fractions),
    ("11.4", trusted_by_windows),
    ("11.4", trusted_by_taking_away),
    ("11.5", official_by_sets),
    ("11.5", official_by_intervals),
    ("11.5", official_as_tensors),
    ("11.5", lambda *sets: list(official_by_sets(*sets))),
]


@pytest.mark.parametrize(("number", "answer"), RIGHT, ids=lambda value: getattr(value, "__name__", value))
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong ---------------------------------------------------------------------------------------------------


def walk(emissions, start, transitions, end, dim=0, join=torch.logsumexp, first=True):
    alpha = start + emissions[0] if first else start
    for row in emissions[1:]:
        steps = alpha[:, None] + transitions if dim == 0 else transitions + alpha
        alpha = row + join(steps, dim)
    return alpha + end


def forward_as_z(*chain):
    return nb11.forward(*chain).exp()


def forward_without_end(emissions, start, transitions, end):
    return walk(emissions, start, transitions, 0 * end).logsumexp(0)


def forward_without_start(emissions, start, transitions, end):
    return walk(emissions, 0 * start, transitions, end).logsumexp(0)


def forward_without_the_first_word(emissions, start, transitions, end):
    return walk(emissions, start, transitions, end, first=False).logsumexp(0)


def forward_turned(*chain):
    return walk(*chain, dim=1).logsumexp(0)


def forward_of_words(emissions, start, transitions, end):
    return walk(emissions, start, 0 * transitions, end).logsumexp(0)


def forward_by_max(*chain):
    return walk(*chain, join=torch.amax).max()


def forward_to_alpha(*chain):
    return walk(*chain)


def forward_with_exponentials(emissions, start, transitions, end):
    weight = (start + emissions[0]).exp()
    for row in emissions[1:]:
        weight = (weight @ transitions.exp()) * row.exp()
    return (weight @ end.exp()).log()


def forward_as_a_float(*chain):
    return nb11.forward(*chain).item()


def forward_detached(emissions, *weights):
    return nb11.forward(emissions.detach(), *weights)


def forward_in_place(emissions, start, transitions, end):
    weight, log_z = (start + emissions[0]).exp(), 0.0
    for row in emissions[1:]:
        total = weight.sum()
        log_z, weight = log_z + total.log(), (weight @ transitions.exp()) / total
        weight *= row.exp()
        scale = weight.exp()
        scale *= 2
        weight = weight + 0 * scale
    return log_z + (weight @ end.exp()).log()


def forward_changing_emissions(emissions, start, transitions, end):
    emissions[0] += start
    return walk(emissions, 0 * start, transitions, end).logsumexp(0)


def forward_by_enumeration(emissions, start, transitions, end):
    scores = []
    for path in itertools.product(range(len(start)), repeat=len(emissions)):
        score = start[path[0]] + end[path[-1]] + sum(emissions[t, k] for t, k in enumerate(path))
        scores.append(score + sum(transitions[a, b] for a, b in itertools.pairwise(path)))
    return torch.logsumexp(torch.stack(scores), 0)


def viterbi_greedy(emissions, start, transitions, end):
    path = [int((start + emissions[0]).argmax())]
    for t, row in enumerate(emissions[1:], 2):
        path.append(int((row + transitions[path[-1]] + (end if t == len(emissions) else 0)).argmax()))
    return path


def viterbi_plain_greedy(emissions, start, transitions, end):
    path = [int((start + emissions[0]).argmax())]
    for row in emissions[1:]:
        path.append(int((row + transitions[path[-1]]).argmax()))
    return path


def viterbi_of_words(emissions, start, transitions, end):
    return emissions.argmax(1).tolist()


def viterbi_backwards(*chain):
    return nb11.viterbi(*chain)[::-1]


def viterbi_turned(emissions, start, transitions, end):
    return nb11.viterbi(emissions, start, transitions.T, end)


def viterbi_without_end(emissions, start, transitions, end):
    return nb11.viterbi(emissions, start, transitions, 0 * end)


def viterbi_without_start(emissions, start, transitions, end):
    return nb11.viterbi(emissions, 0 * start, transitions, end)


def viterbi_without_pointers(emissions, start, transitions, end):
    best = start + emissions[0]
    path = [int(best.argmax())]
    for row in emissions[1:]:
        best = row + (best[:, None] + transitions).max(0).values
        path.append(int(best.argmax()))
    return [*path[:-1], int((best + end).argmax())]


def viterbi_too_short(*chain):
    return nb11.viterbi(*chain)[1:]


def viterbi_as_a_tensor(*chain):
    return torch.tensor(nb11.viterbi(*chain))


def viterbi_as_a_score(*chain):
    return walk(*chain, join=torch.amax).max()


def viterbi_of_products(emissions, start, transitions, end):
    best, pointers = (start + emissions[0]).exp(), []
    for row in emissions[1:]:
        longer, came_from = (best[:, None] * transitions.exp()).max(0)
        best = row.exp() * longer
        pointers.append(came_from.tolist())
    path = [int((best * end.exp()).argmax())]
    for came_from in reversed(pointers):
        path.append(came_from[path[-1]])
    return path[::-1]


def labels_of_every_piece(tags, word_of_piece):
    return [-100 if word is None else tags[word] for word in word_of_piece]


def labels_without_word_0(tags, word_of_piece):
    pairs = zip([None, *word_of_piece], word_of_piece)
    return [tags[word] if word and word != before else -100 for before, word in pairs]


def labels_with_0(tags, word_of_piece):
    pairs = zip([None, *word_of_piece], word_of_piece)
    return [tags[word] if word is not None and word != before else 0 for before, word in pairs]


def labels_of_the_last_piece(tags, word_of_piece):
    return labels_by_first_places(tags, word_of_piece[::-1])[::-1]


def labels_in_turn(tags, word_of_piece):
    left, pairs = iter(tags), zip([None, *word_of_piece], word_of_piece)
    return [next(left, -100) if word is not None and word != before else -100 for before, word in pairs]


def labels_without_special_pieces(tags, word_of_piece):
    return [label for label, word in zip(nb11.piece_labels(tags, word_of_piece), word_of_piece) if word is not None]


def trusted_all_that_occur(names, sentences, threshold):
    text = {tuple(words[a:b]) for words, _ in sentences for a in range(len(words)) for b in range(a, len(words) + 1)}
    return nb11.trusted_names(names, sentences, threshold) & text


def trusted_above(names, sentences, threshold):
    return nb11.trusted_names(names, sentences, threshold + 1e-9)


def trusted_single_words(names, sentences, threshold):
    short = [(words, {(a, a + 1) for a, _ in genes}) for words, genes in sentences]
    return {name for name in names if (name[0],) in nb11.trusted_names({(n[0],) for n in names}, short, threshold)}


def trusted_by_sentences(names, sentences, threshold):
    kept = set()
    for name in names:
        there = [s for s in sentences if nb11.trusted_names({name}, [(s[0], set())], 0.5) == set()]
        right = [s for s in there if name in {tuple(s[0][a:b]) for a, b in s[1]}]
        if len(right) >= threshold * len(there):
            kept.add(name)
    return kept


def trusted_in_place(names, sentences, threshold):
    names &= nb11.trusted_names(names, sentences, threshold)
    return names


def trusted_as_a_list(names, sentences, threshold):
    return sorted(nb11.trusted_names(names, sentences, threshold))


def official_strict(gold, alternatives, predicted):
    return len(gold & predicted), len(predicted - gold)


def official_by_predictions(gold, alternatives, predicted):
    return len(predicted & (gold | alternatives)), len(predicted - gold - alternatives)


def official_by_overlap(gold, alternatives, predicted):
    near = {p for p in predicted for g in gold if set_of(p) & set_of(g)}
    return sum(any(set_of(p) & set_of(g) for p in predicted) for g in gold), len(predicted - near)


def official_open(gold, alternatives, predicted):
    accepted = alternatives & predicted
    found = sum(g in predicted or any(a < g[1] and g[0] < b for a, b in accepted) for g in gold)
    return found, len(predicted - gold - alternatives)


def official_any_alternative(gold, alternatives, predicted):
    found = sum(g in predicted or bool(alternatives & predicted) for g in gold)
    return found, len(predicted - gold - alternatives)


WRONG = [
    ("11.1", forward_as_z, "this is Z; its logarithm"),
    ("11.1", forward_without_end, "end is left out"),
    ("11.1", forward_without_start, "start is left out"),
    ("11.1", forward_without_the_first_word, "first word are left out"),
    ("11.1", forward_turned, "the wrong way round"),
    ("11.1", forward_of_words, "transitions are left out"),
    ("11.1", forward_by_max, "score of the best path"),
    ("11.1", forward_to_alpha, "alpha at the last word"),
    ("11.1", forward_with_exponentials, "overflow or vanish"),
    ("11.1", forward_as_a_float, "no gradient"),
    ("11.1", forward_detached, "no gradient"),
    ("11.1", forward_in_place, "written into in place"),
    ("11.1", forward_changing_emissions, "changes what it is given"),
    ("11.1", forward_by_enumeration, "without a list of all paths"),
    ("11.2", viterbi_greedy, "your path"),
    ("11.2", viterbi_plain_greedy, "greedy"),
    ("11.2", viterbi_of_words, "words' own best tags"),
    ("11.2", viterbi_backwards, "turn it round"),
    ("11.2", viterbi_turned, "the wrong way round"),
    ("11.2", viterbi_without_end, "end is left out"),
    ("11.2", viterbi_without_start, "start is left out"),
    ("11.2", viterbi_without_pointers, "along the pointers"),
    ("11.2", viterbi_too_short, "one tag for each of 1 words"),
    ("11.2", viterbi_as_a_tensor, "as a list of 1 whole numbers, got a tensor"),
    ("11.2", viterbi_as_a_score, "as a list of 1 whole numbers, got a tensor"),
    ("11.2", viterbi_of_products, "overflow or vanish"),
    ("11.3", labels_of_every_piece, "only the first piece of a word"),
    ("11.3", labels_without_word_0, "special pieces get -100|number 0"),
    ("11.3", labels_with_0, "special pieces get -100"),
    ("11.3", labels_of_the_last_piece, "only the first piece of a word"),
    ("11.3", labels_in_turn, "may have no piece at all"),
    ("11.3", labels_without_special_pieces, "need as many labels"),
    ("11.4", trusted_all_that_occur, "occurs nowhere"),
    ("11.4", trusted_above, "at least 0.5, so it is to stay"),
    ("11.4", trusted_single_words, "three words"),
    ("11.4", trusted_by_sentences, "places count, not sentences"),
    ("11.4", trusted_in_place, "was changed"),
    ("11.4", trusted_as_a_list, "expected a set"),
    ("11.5", official_strict, "in place of the gold mention"),
    ("11.5", official_by_predictions, "counts once"),
    ("11.5", official_by_overlap, "without alternatives another boundary is wrong"),
    ("11.5", official_open, "share character 4"),
    ("11.5", official_any_alternative, "only the mention that it overlaps"),
]


@pytest.mark.parametrize(("number", "answer", "why"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_a_wrong_answer_is_told_what_is_wrong(number, answer, why):
    passed, message = grade(number, answer)
    assert passed is False
    assert any(part in message for part in why.split("|")), message
