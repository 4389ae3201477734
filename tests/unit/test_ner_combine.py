"""VotingTagger, BioTagger-GM, and taggers by name."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.ner import Entity, Sentence, evaluate, load_corpus, load_tagger, make_tagger
from utils.ner.combine import BioTaggerGM, VotingTagger
from utils.ner.lookup import DictionaryTagger, RegexTagger
from utils.ner.tagger import MODELS

TEXT = "abcdefgh"


def votes(*lists):
    """What members predict on one sentence, each as (start, end, type)."""
    return [[Sentence(TEXT, None, [Entity(*span) for span in spans])] for spans in lists]


def elected(tagger, *lists):
    return [entity.span for entity in tagger.combine(votes(*lists))[0].entities]


def members(count):
    return [RegexTagger({}) for _ in range(count)]


def test_majority_and_weights():
    one, other = (0, 2, "X"), (0, 2, "Y")
    assert elected(VotingTagger(members(3)), [one], [one], []) == [one]
    assert elected(VotingTagger(members(3)), [one], [], []) == []
    assert elected(VotingTagger(members(2)), [one], []) == []  # half is no majority
    assert elected(VotingTagger(members(3), [3, 1, 1]), [one], [other], [other]) == [one]
    assert elected(VotingTagger(members(3), threshold=0.3), [one], [other], []) == [one]  # a tie: the first type
    assert elected(VotingTagger(members(3), threshold=0.3), [(0, 2, "X")], [(1, 5, "X")], []) == [(1, 5, "X")]
    assert elected(VotingTagger(members(3), threshold=0.3), [(0, 2, "X")], [(1, 3, "X")], []) == [(0, 2, "X")]


SPANS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(4, 8), st.sampled_from("XY")).map(lambda one: (*one[:2], one[2])),
    max_size=3,
)


@given(st.lists(SPANS, min_size=1, max_size=4), st.sampled_from([0.0, 0.3, 0.5]))
def test_elected_spans_were_voted_for_and_do_not_overlap(lists, threshold):
    tagger = VotingTagger(members(len(lists)), threshold=threshold)
    found = elected(tagger, *lists)
    for span in found:
        assert sum(span in one for one in lists) > threshold * len(lists)
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    assert found == elected(tagger, *lists[::-1])  # equal weights: no member comes first


def test_weights_are_chosen_on_dev():
    names = {"good": "p53", "bad": "gene", "worse": "the"}
    dev = [Sentence("the p53 gene", None, [Entity(4, 7, "X")])] * 3
    tagger = VotingTagger([RegexTagger({"X": pattern}) for pattern in names.values()])
    assert evaluate(dev, tagger.predict(dev), resamples=0).f1 == 0
    tagger.fit([], dev)
    assert evaluate(dev, tagger.predict(dev), resamples=0).f1 == 1
    again = VotingTagger(tagger.members).choose(dev)
    assert (again.weights, again.threshold) == (tagger.weights, tagger.threshold)


def test_a_vote_is_for_the_pieces_of_a_mention():
    pieces, whole = Entity(0, 8, "X", fragments=((0, 2), (6, 8)), score=0.9), Entity(0, 8, "X")
    ballots = [[Sentence(TEXT, None, [entity])] for entity in (pieces, pieces, whole)]
    (found,) = VotingTagger(members(3)).combine(ballots)
    assert found.entities == (pieces,) and found.entities[0].score is None
    dev = [Sentence(TEXT, None, [pieces])]
    chosen = VotingTagger(members(2)).choose(dev, [[Sentence(TEXT, None, [one])] for one in (whole, pieces)])
    assert chosen.weights[0] < chosen.weights[1]  # the first finds the same outer edges, and that is wrong


def test_bad_votes():
    for arguments, message in (
        (([],), "at least one member"),
        ((members(2), [1]), "expected 2 weights"),
        ((members(1), [0]), "one above"),
        ((members(1), [-1]), "none below 0"),
        ((members(1), None, 1.0), "expected 0 <= threshold < 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            VotingTagger(*arguments)


class Counting(DictionaryTagger):
    fits = 0

    def fit(self, train, dev=(), folder=None):
        Counting.fits += 1
        if Counting.fits == 2:
            raise KeyboardInterrupt
        return super().fit(train, dev)


def test_training_goes_on_with_the_member_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "fits", 0)
    train = [Sentence("p53", None, [Entity(0, 3, "X")])]
    with pytest.raises(KeyboardInterrupt):
        VotingTagger([Counting(), Counting()]).fit(train, folder=tmp_path)
    tagger = VotingTagger([Counting(), Counting()]).fit(train, folder=tmp_path)
    assert Counting.fits == 3 and tagger.predict([Sentence("p53")]) == [train[0]]
    VotingTagger([Counting(), Counting()]).fit([*train, *train], folder=tmp_path)
    assert Counting.fits == 5  # other sentences: nothing of the old is used


def test_entities_of_members_for_different_types_may_overlap(tmp_path):
    members = [RegexTagger({"Gene": "APC gene|APC"}), RegexTagger({"Disease": "APC"})]
    flat, both = VotingTagger(members, threshold=0), VotingTagger(members, threshold=0, overlaps=True)
    both.save(tmp_path)
    spans = [[entity.span for entity in tagger.predict([Sentence("APC gene")])[0].entities] for tagger in (flat, both)]
    assert spans == [[(0, 8, "Gene")], [(0, 3, "Disease"), (0, 8, "Gene")]]
    assert load_tagger(tmp_path).overlaps and not flat.overlaps


def test_saved_and_loaded(tmp_path):
    tagger = VotingTagger([RegexTagger({"X": "p53"}), DictionaryTagger([("p53", "X")])], [2, 1], 0.4)
    tagger.save(tmp_path)
    again = load_tagger(tmp_path)
    assert (again.weights, again.threshold) == ([2, 1], 0.4)
    assert [one.text for one in again.predict([Sentence("a p53")])[0].entities] == ["p53"]


def test_biotagger_gm_on_the_course_corpus(tmp_path):
    corpus = load_corpus("course-corpus")
    tagger = BioTaggerGM(iterations=20).fit(corpus.train[:60], corpus.dev)
    assert [member.tagger.backward for member in tagger.members] == [False, True, False, False]
    report = evaluate(corpus.test, tagger.predict(corpus.test), resamples=0)
    assert report.f1 > 0.3
    tagger.save(tmp_path)
    again = load_tagger(tmp_path)
    assert type(again) is VotingTagger and again.predict(corpus.test) == tagger.predict(corpus.test)


def test_taggers_by_name(tmp_path):
    assert "regex" not in MODELS and {"crf", "biotagger-gm"} <= {*MODELS}
    with pytest.raises(ValueError, match="unknown model 'regex'; choose one of dictionary, crf"):
        make_tagger("regex")
    with pytest.raises(ValueError, match="holds no tagger: tagger.json cannot be read"):
        load_tagger(tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps({"tagger": "hmm", "version": 1}))
    with pytest.raises(ValueError, match="unknown tagger 'hmm'; choose one of regex, dictionary, crf"):
        load_tagger(tmp_path)
    RegexTagger({"X": "x"}).save(tmp_path)
    assert type(load_tagger(tmp_path)) is RegexTagger


def test_a_dictionary_starts_with_the_lists_of_its_types(capsys):
    tagger = make_tagger("dictionary", ["DISEASE", "person"])
    assert tagger.lower and len(tagger) > 50 and "diseases: " in capsys.readouterr().out
    assert len(make_tagger("dictionary", ["person"])) == 0
