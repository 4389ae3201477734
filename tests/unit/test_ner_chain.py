"""LinearChainCRF against enumeration of all paths."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.ner.chain import IGNORED, LinearChainCRF, TagHead
from utils.ner.tags import TagError, tags_to_spans

BIOES = ["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"]


def random_crf(tags, seed, scheme=None, scale=2.0):
    crf = LinearChainCRF(tags, scheme)
    generator = torch.Generator().manual_seed(seed)
    for parameter in crf.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return crf, generator


def enumerate_paths(crf, emissions):
    """Every path of one sentence (T, K) with its score, by plain Python sums in float64."""
    start, transitions, end = (one.double().tolist() for one in crf.steps())
    rows = emissions.double().tolist()
    for path in itertools.product(range(len(start)), repeat=len(rows)):
        score = start[path[0]] + end[path[-1]] + sum(row[tag] for row, tag in zip(rows, path))
        yield path, score + sum(transitions[a][b] for a, b in itertools.pairwise(path))


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    tags=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    whole=st.booleans(),
)
def test_equals_enumeration(lengths, tags, seed, whole):
    crf, generator = random_crf(tags, seed)
    emissions = 2 * torch.randn(len(lengths), max(lengths), tags, generator=generator)
    if whole:  # whole numbers give many paths of the same score
        emissions = emissions.round()
        for parameter in crf.parameters():
            parameter.data.round_()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    emissions[~mask] = float("nan")  # what stands in the padding does not matter
    partition, marginals = crf.log_partition(emissions, mask), crf.marginals(emissions, mask)
    for b, length in enumerate(lengths):
        paths = list(enumerate_paths(crf, emissions[b, :length]))
        scores = torch.tensor([score for _, score in paths], dtype=torch.float64)
        torch.testing.assert_close(partition[b].double(), scores.logsumexp(0), rtol=1e-5, atol=1e-5)
        visited = torch.nn.functional.one_hot(torch.tensor([path for path, _ in paths]), tags).double()
        expected = torch.einsum("n,ntk->tk", scores.softmax(0), visited)
        torch.testing.assert_close(marginals[b, :length].double(), expected, rtol=1e-4, atol=1e-5)
        best = dict(paths)[tuple(crf.viterbi(emissions, mask)[b])]
        assert best == pytest.approx(scores.max().item(), abs=1e-5)
        picked = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        path, score = paths[seed % len(paths)]
        picked[b, :length] = torch.tensor(path)
        assert crf.score(emissions, picked, mask)[b].item() == pytest.approx(score, abs=1e-4)


def test_probabilities_of_all_paths_sum_to_one():
    crf, generator = random_crf(3, 1)
    paths = torch.tensor(list(itertools.product(range(3), repeat=4)))
    emissions = torch.randn(1, 4, 3, generator=generator).expand(len(paths), -1, -1)
    log_p = crf(emissions, paths, torch.ones(len(paths), 4, dtype=torch.bool))
    assert (log_p <= 0).all() and log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_padding_does_not_matter_and_gradients_are_finite():
    crf, generator = random_crf(BIOES, 2, "BIOES")
    emissions = torch.randn(1, 4, 9, generator=generator).requires_grad_()
    tags, mask = torch.tensor([[1, 3, 0, 8]]), torch.ones(1, 4, dtype=torch.bool)
    alone = crf(emissions, tags, mask)
    padded = torch.cat([emissions, torch.full((1, 3, 9), float("nan"))], 1)
    longer_mask = torch.tensor([[True] * 4 + [False] * 3])
    longer = crf(padded, torch.tensor([[1, 3, 0, 8, -100, -100, -100]]), longer_mask)
    torch.testing.assert_close(alone, longer, rtol=0, atol=0)
    assert crf.viterbi(emissions, mask) == crf.viterbi(padded, longer_mask)
    assert not crf.marginals(padded, longer_mask)[:, 4:].any()
    longer.sum().backward()
    for gradient in (emissions.grad, *(parameter.grad for parameter in crf.parameters())):
        assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_the_best_path_keeps_the_scheme_and_every_sound_path_is_allowed(scheme):
    names = BIOES if scheme == "BIOES" else ["O", "B-X", "I-X", "B-Y", "I-Y"]
    crf, generator = random_crf(names, 3, scheme)
    mask = torch.ones(50, 6, dtype=torch.bool)
    for path in crf.viterbi(5 * torch.randn(50, 6, len(names), generator=generator), mask):
        tags_to_spans([names[tag] for tag in path], scheme, orphan="refuse")
    flat = LinearChainCRF(names, scheme)
    for path in itertools.product(range(len(names)), repeat=3):
        try:
            tags_to_spans([names[tag] for tag in path], scheme, orphan="refuse")
            sound = True
        except TagError:
            sound = False
        score = flat.score(torch.zeros(1, 3, len(names)), torch.tensor([path]), torch.ones(1, 3, dtype=torch.bool))
        assert (score.item() == 0) is sound, [names[tag] for tag in path]


def test_long_and_half_precision():
    crf, generator = random_crf(5, 4)
    emissions = torch.randn(1, 10_000, 5, generator=generator)
    mask = torch.ones(1, 10_000, dtype=torch.bool)
    assert crf.log_partition(emissions, mask).isfinite() and len(crf.viterbi(emissions, mask)[0]) == 10_000
    assert crf.log_partition(emissions.bfloat16(), mask).dtype == torch.float32


def test_bad_input():
    with pytest.raises(ValueError, match="names of at least one tag"):
        LinearChainCRF([])
    with pytest.raises(ValueError, match="without a scheme"):
        LinearChainCRF(3, "BIO")
    crf = LinearChainCRF(3)
    with pytest.raises(ValueError, match=r"got \(1, 2, 3\) and \(1, 3\)"):
        crf.viterbi(torch.zeros(1, 2, 3), torch.ones(1, 3))
    for mask in ([False, False], [False, True]):
        with pytest.raises(ValueError, match="True at the first token"):
            crf.log_partition(torch.zeros(1, 2, 3), torch.tensor([mask]))


def test_head_without_a_crf_is_a_softmax_that_decodes_what_the_scheme_allows():
    head, emissions = TagHead(["O", "B-X", "I-X"], "BIO", crf=False), torch.randn(2, 3, 3)
    emissions[0, 0] = torch.tensor([2.0, 1.0, 3.0])  # best alone: I-X, which cannot begin a sentence
    tags = torch.tensor([[1, 2, 0], [0, 1, IGNORED]])
    own = emissions.log_softmax(-1)
    expected = -torch.stack([own[b, t, tags[b, t]] for b, t in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))]).mean()
    torch.testing.assert_close(head.loss(emissions, tags), expected)
    mask = tags != IGNORED
    torch.testing.assert_close(head.probabilities(emissions, mask), emissions.softmax(-1))
    assert head.chain.viterbi(emissions, mask)[0][0] != 2
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_head_with_a_crf_scores_whole_sentences():
    head, emissions = TagHead(["O", "B-X", "I-X"], "BIO", crf=True), torch.randn(2, 3, 3)
    head.chain.transitions.data.normal_()
    tags = torch.tensor([[1, 2, 0], [0, 1, IGNORED]])
    mask = tags != IGNORED
    torch.testing.assert_close(head.loss(emissions, tags), -head.chain(emissions, tags, mask).mean())
    torch.testing.assert_close(head.probabilities(emissions, mask), head.chain.marginals(emissions, mask))
    assert all(parameter.requires_grad for parameter in head.parameters())
