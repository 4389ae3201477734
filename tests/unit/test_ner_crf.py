"""CRFTagger: its probabilities against enumeration, what it learns, and what it does with odd input."""

import copy
import itertools
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from utils.ner import CRFTagger, Entity, Sentence, WordFeatures, crf, evaluate, load_corpus, read_conll
from utils.ner.lexicons import Lexicon
from utils.ner.tagger import entity_confidence
from utils.ner.tags import tags_to_spans
from utils.ner.words import stem

TRAIN = [
    Sentence.from_words(["the", "BRCA1", "gene", "and", "p53"], [(1, 3, "Gene"), (4, 5, "Gene")]),
    Sentence.from_words(["aspirin", "inhibits", "COX", "-", "2", "."], [(0, 1, "Drug"), (2, 5, "Gene")]),
    Sentence.from_words(["no", "name", "here"]),
]


def small(**options):
    options = {"scheme": "BIO", "c1": 0.0, "c2": 0.1, "iterations": 30, "progress": False} | options
    return CRFTagger(**options).fit(TRAIN)


def enumerated(tagger, words, backward=False):
    """Every tag sequence with its probability, from the weights CRFsuite reports: no dynamic programming."""
    info = crf._opened(tagger._model).info()
    active = [set(found) for found in tagger.features(words)][:: -1 if backward else 1]
    scores = {}
    for path in itertools.product(tagger.tags, repeat=len(words)):
        state = sum(info.state_features.get((one, tag), 0.0) for found, tag in zip(active, path) for one in found)
        scores[path] = state + sum(info.transitions.get(pair, 0.0) for pair in itertools.pairwise(path))
    total = sum(np.exp(score) for score in scores.values())
    return {path: np.exp(score) / total for path, score in scores.items()}


def test_probabilities_equal_enumeration():
    tagger = small()
    sentence = Sentence("the COX and aspirin")
    paths = enumerated(tagger, sentence.words)
    assert tagger.tags == ["B-Drug", "B-Gene", "I-Gene", "O"] and len(paths) == 4**4
    marginals = np.zeros((4, len(tagger.tags)))
    for path, probability in paths.items():
        for place, tag in enumerate(path):
            marginals[place, tagger.tags.index(tag)] += probability
    (found,) = tagger.predict_proba([sentence])
    np.testing.assert_allclose(found, marginals, atol=1e-5)
    best = max(paths, key=paths.get)
    ((_, tags),) = tagger._read([sentence])
    assert tags == list(best)
    np.testing.assert_allclose(tagger.confidence([sentence]), [paths[best]], atol=1e-5)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@pytest.mark.parametrize("backward", [False, True])
def test_scores_bound_the_probability_of_an_entity(scheme, backward):
    tagger = small(scheme=scheme, backward=backward)
    sentence = Sentence("the COX 2 gene")
    (found,) = tagger.predict([sentence])
    assert found.entities
    paths = enumerated(tagger, sentence.words, backward)
    (bounds,) = entity_confidence(tagger, [found])
    for entity, (low, high) in zip(found.entities, bounds):
        start, end = (sentence.text[:place].count(" ") for place in (entity.start, entity.end))
        span = (start, end + 1, entity.type)
        span = (4 - span[1], 4 - span[0], entity.type) if backward else span
        exact = sum(p for path, p in paths.items() if span in tags_to_spans(path, scheme, "drop"))
        assert low - 1e-6 <= exact <= high + 1e-6 and entity.score == pytest.approx(high)


def test_learns_the_training_sentences():
    for options in ({}, {"scheme": "BIOES"}, {"backward": True}, {"backward": True, "scheme": "BIOES"}):
        assert small(**options).predict(TRAIN) == TRAIN


def test_the_same_data_give_the_same_model():
    assert small()._model == small()._model


def test_training_ends_when_the_loss_stands_still(monkeypatch):
    lines = []
    monkeypatch.setattr(crf._Trainer, "message", lambda self, line: lines.append(line))
    ran = []
    for delta in (0.5, 0.05, 0):
        lines.clear()
        small(iterations=60, delta=delta)
        ran.append(sum(line.startswith("***** Iteration") for line in lines))
    assert 10 < ran[0] < ran[1] < ran[2]


def test_scores_are_the_same_as_of_all_marginals():
    """`predict` asks for those near entities only."""
    for options in ({}, {"scheme": "BIOES"}, {"backward": True}):
        tagger = small(**options)
        (found,) = tagger.predict([Sentence("the COX 2 gene is not here and aspirin")])
        (bounds,) = entity_confidence(tagger, [found])
        assert len(bounds) >= 2 and [entity.score for entity in found.entities] == bounds[:, 1].tolist()


def test_direction_matters_with_bio_and_not_with_bioes():
    sentence = Sentence("the aspirin COX and BRCA1 of p53 - 2 gene")
    tokens = len(sentence.tokens)
    for scheme, same in (("BIO", False), ("BIOES", True)):
        pair = [small(scheme=scheme, backward=backward, iterations=2000, delta=0) for backward in (False, True)]
        outside = [tagger.predict_proba([sentence])[0][:, tagger.tags.index("O")] for tagger in pair]
        assert outside[0].shape == (tokens,)
        assert np.allclose(*outside, atol=2e-3) == same


def test_course_corpus():
    corpus = load_corpus("course-corpus")
    tagger = CRFTagger(iterations=60, progress=False).fit(corpus.train, corpus.dev)
    report = evaluate(corpus.test, tagger.predict(corpus.test), resamples=0)
    assert report.f1 > 0.5
    assert set(report.per_type) == {"GENE", "DISEASE", "CHEMICAL"}


def test_a_corpus_and_a_type_never_named(tmp_path):
    path = tmp_path / "stars.conll"
    path.write_text("Vega\tB-Star\nshines\tO\n\nnear\tO\nAlpha\tB-Star\nLyrae\tI-Star\n\n" * 3)
    sentences = read_conll(path)
    tagger = CRFTagger(iterations=30, progress=False).fit(sentences)
    report = evaluate(sentences, tagger.predict(sentences))
    assert report.f1 == 1 and list(report.per_type) == ["Star"]


def test_odd_sentences():
    tagger = small()
    empty = Sentence("", id="empty")
    unknown = Sentence("p53 here", None, [Entity(0, 3, "NeverSeen")])
    blank = Sentence(" \n ")
    found = tagger.predict([empty, unknown, blank])
    assert found[0] == empty and found[2] == blank
    assert [one.type for one in found[1].entities] in ([], ["Gene"])
    assert [one.shape for one in tagger.predict_proba([empty, unknown])] == [(0, 4), (2, 4)]
    assert tagger.confidence([empty]) == [1.0]
    assert tagger.predict([]) == []


def test_ten_thousand_tokens():
    words = ["the", "BRCA1", "gene", "and"] * 2500
    (found,) = small().predict([Sentence.from_words(words)])
    assert len(found.entities) == 2500
    (marginals,) = small(backward=True).predict_proba([Sentence.from_words(words)])
    np.testing.assert_allclose(marginals.sum(1), 1, atol=1e-6)


def test_saved_and_loaded(tmp_path):
    lexicon = Lexicon("genes", ("p53", "COX-2"), False, "given")
    tagger = small(features=WordFeatures(window=1, lexicons=(lexicon,)), backward=True)
    tagger.save(tmp_path / "model")
    again = CRFTagger.load(tmp_path / "model")
    sentences = [Sentence("a p53 gene and COX-2, aspirin")]
    assert again.predict(sentences) == tagger.predict(sentences) != sentences
    assert again.features.options == tagger.features.options and again.features.lexicons == (lexicon,)
    assert again.tags == tagger.tags and again.backward
    again.save(tmp_path / "again")
    for one in (tmp_path / "model").iterdir():
        assert one.read_bytes() == (tmp_path / "again" / one.name).read_bytes()


def test_models_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="learnt nothing yet; call fit"):
        CRFTagger().predict([Sentence("x")])
    with pytest.raises(ValueError, match="learnt nothing yet; call fit"):
        CRFTagger().save(tmp_path)
    small().save(tmp_path)
    model = tmp_path / "model.crfsuite"
    model.write_bytes(model.read_bytes()[:-50])
    with pytest.raises(ValueError, match="model.crfsuite is damaged"):
        CRFTagger.load(tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps({"tagger": "crf", "version": CRFTagger.version + 1}))
    with pytest.raises(ValueError, match=f"version {CRFTagger.version + 1}; expected crf, version"):
        CRFTagger.load(tmp_path)


def test_features_of_ones_own(tmp_path):
    def first_letters(words):
        return [[f"first={word[0]}"] for word in words]

    tagger = small(features=first_letters)
    assert tagger.predict(TRAIN)[0].text == TRAIN[0].text
    tagger.save(tmp_path)
    again = CRFTagger.load(tmp_path)
    with pytest.raises(ValueError, match="trained with features of its own; set `tagger.features`"):
        again.predict(TRAIN)
    again.features = first_letters
    assert again.predict(TRAIN) == tagger.predict(TRAIN)
    with pytest.raises(ValueError, match="features gave 1 lists for the 5 tokens"):
        small(features=lambda words: [["x"]])


def test_bad_settings():
    for options, message in (
        ({"scheme": "IOB"}, "unknown scheme 'IOB'; choose one of BIO, BIOES"),
        ({"c1": -1}, "got -1, 0.05, 0.05 and 150"),
        ({"delta": -0.1}, "delta >= 0 and iterations >= 1, got 0.05, 0.05, -0.1 and 150"),
        ({"iterations": 0}, "iterations >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            CRFTagger(**options)
    with pytest.raises(ValueError, match="nothing to learn from: 1 sentences, none with a token"):
        CRFTagger().fit([Sentence("")])


def test_an_interruption_leaves_the_tagger_as_it_was(monkeypatch):
    tagger = small()
    before = tagger._model

    def interrupt(self, line):
        if line.startswith("***** Iteration #2"):
            raise KeyboardInterrupt

    monkeypatch.setattr(crf._Trainer, "message", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tagger.fit(TRAIN[:1])
    assert tagger._model == before and tagger.predict(TRAIN) == TRAIN


@contextmanager
def often_switched():
    """Threads take turns after a microsecond, so that what they share shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_eight_threads_get_the_answers_of_one():
    tagger = small(features=WordFeatures(lexicons=(Lexicon("genes", ("p53", "COX-2"), False, "given"),)))
    words = ["the", "BRCA1", "gene", "and", "p53", "aspirin", "inhibits", "COX", "-", "2", "."]
    sentences = [Sentence.from_words((words * 3)[i % 11 : i % 11 + i % 20]) for i in range(200)]
    alone = (tagger.predict(sentences), tagger.confidence(sentences))
    marginals = tagger.predict_proba(sentences)
    with often_switched(), ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda: (tagger.predict(sentences), tagger.confidence(sentences))) for _ in range(8)]
        rows = list(pool.map(lambda one: tagger.predict_proba([one])[0], sentences))
        assert all(job.result() == alone for job in jobs)
    assert all((a == b).all() for a, b in zip(rows, marginals))


def test_stems_in_threads():
    words = [
        f"{letter}{end}" for letter in "abcdefghij" for end in ("mutations", "nationally", "hopefulness", "digitizers")
    ]
    with often_switched(), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(stem.__wrapped__, words * 40))
    assert found == list(map(stem.__wrapped__, words)) * 40


@pytest.mark.parametrize("again", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy], ids=["pickle", "copy"])
def test_pickled_and_copied(again):
    lexicon = Lexicon("genes", ("p53", "COX-2"), False, "given")
    tagger = small(features=WordFeatures(window=1, grams=(3,), lexicons=(lexicon,)), backward=True)
    tagger.predict(TRAIN)
    other = again(tagger)
    assert other.features is not tagger.features and other.features.options == tagger.features.options
    assert other.features._describe.cache_info().currsize == 0
    assert other.predict(TRAIN) == tagger.predict(TRAIN) == TRAIN and other.tags == tagger.tags
    untrained = again(CRFTagger(c1=1))
    assert untrained.options["c1"] == 1 and small(features=untrained.features).predict(TRAIN) == TRAIN
