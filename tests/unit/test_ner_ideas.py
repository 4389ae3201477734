"""The ideas for taggers do what they say; what they are worth is in data/ner/results.md."""

from functools import partial

import pytest
import torch

from tests.benchmarks import ner_ideas
from tests.tiny_ner import make_corpus, make_encoder
from utils.ner import CRFTagger, Entity, RegexTagger, Sentence, continue_pretraining
from utils.ner.encoders import load_encoder


def alike(words):
    """Features that tell the first word of a sentence from the others, and nothing else."""
    return [["first" if i == 0 else "later"] for i in range(len(words))]


def test_a_second_order_chain_remembers_one_tag_more():
    words = [["x"] * n for n in (6, 7, 8, 9)] * 5
    train = [Sentence.from_words(one, [(0, 4, "T")]) for one in words]
    lengths = {
        kind: {
            len(s.entities[0].text.split())
            for s in kind(alike, iterations=50, progress=False).fit(train).predict(train)
        }
        for kind in (CRFTagger, ner_ideas.SecondOrder)
    }
    assert lengths[ner_ideas.SecondOrder] == {4} and lengths[CRFTagger] != {4}


def test_two_domains_share_features_and_have_their_own():
    here, there = Sentence("a b"), Sentence("a c")
    tagger = ner_ideas.TwoDomains(lambda words: [[f"w={word}"] for word in words], [there])
    assert tagger._items(here) == [["w=a", "False:w=a"], ["w=b", "False:w=b"]]
    assert tagger._items(there)[0] == ["w=a", "True:w=a"]


def test_labels_reach_the_neighbours():
    lists = ner_ideas.Labelled(("kind", lambda words: ["K", "", ""]))(["a", "b", "c"])
    assert [[f for f in one if f.startswith("kind")] for one in lists] == [["kind[0]=K"], ["kind[-1]=K"], []]


class Echo(RegexTagger):
    """Finds every number, and remembers what it was given."""

    def fit(self, train, dev=(), folder=None):
        self.given = train, dev
        return self


def test_sentences_of_an_abstract_are_read_together_and_answered_alone():
    texts = [("one 1", "A"), ("two 22 and 3", "A"), ("none", "B"), ("4", ""), ("5", "")]
    sentences = [Sentence(text, document=document) for text, document in texts]
    tagger = ner_ideas.Joined(Echo({"N": r"\d+"}))
    expected = [[text for text in words if text.isdecimal()] for words in (t.split() for t, _ in texts)]
    assert [[one.text for one in s.entities] for s in tagger.predict(sentences)] == expected
    tagger.fit(tagger.predict(sentences), sentences[:1])
    assert [one.text for one in tagger.network.given[0]] == ["one 1 two 22 and 3", "none", "4", "5"]
    assert [(one.start, one.text) for one in tagger.network.given[0][0].entities] == [(4, "1"), (10, "22"), (17, "3")]


def test_a_name_across_sentences_is_left_out():
    sentences = [Sentence("one 1", document="A"), Sentence("2 two", document="A")]
    assert [s.entities for s in ner_ideas.Joined(Echo({"N": r"\d \d"})).predict(sentences)] == [(), ()]


def test_a_network_that_goes_on_gives_the_types_of_the_new_corpus_alone():
    network = RegexTagger({"Disease": "flu", "Chemical": "iron"})
    network.fine_tune = lambda train, dev: None
    tagger = ner_ideas.GoingOn(network).fit([Sentence("flu", entities=[Entity(0, 3, "Disease")])])
    assert [one.type for one in tagger.predict([Sentence("iron and flu")])[0].entities] == ["Disease"]


def test_an_encoder_reads_all_texts_but_those_of_test_first(monkeypatch, tmp_path):
    """What it then tags with are the weights that it has read with; a second call goes on where the first one ended."""
    corpus = type("Corpus", (), {"train": make_corpus(9, 1), "dev": make_corpus(3, 2)})  # test is not there to be asked
    monkeypatch.setattr(ner_ideas, "corpus_of", lambda name: corpus)
    monkeypatch.setattr(ner_ideas.ner, "TRAINED", tmp_path)
    read, start = [], make_encoder(tmp_path / "start")
    reading = partial(continue_pretraining, encoder=start, epochs=1, progress=False, device="cpu")
    monkeypatch.setattr(
        ner_ideas, "continue_pretraining", lambda texts, *p, **n: read.append(texts) or reading(texts, *p, **n)
    )
    taggers = [ner_ideas.after_reading(corpus) for _ in range(2)]
    assert read[0] == read[1] == 3 * [s.text for s in (*corpus.train, *corpus.dev)]
    encoders = [load_encoder(place)[0].state_dict() for place in (start, *(t.options["encoder"] for t in taggers))]
    name = next(name for name in encoders[0] if "query" in name)
    assert torch.equal(encoders[1][name], encoders[2][name]) and not torch.equal(encoders[0][name], encoders[1][name])


def test_words_in_the_same_places_are_of_one_cluster(monkeypatch):
    rows = [f"{a} {b} {c}" for a in ("the", "a") for b in ("cat", "dog", "cow") for c in ("sleeps", "eats", "runs")]
    corpus = type("Corpus", (), {"train": [Sentence(row) for row in rows], "dev": []})
    monkeypatch.setattr(ner_ideas, "corpus_of", lambda name: corpus)
    monkeypatch.setattr(ner_ideas.ner, "CORPORA", ("some",))
    monkeypatch.setattr(ner_ideas, "WIDTH", 3)
    ner_ideas.clusters.cache_clear()
    found = ner_ideas.clusters(3)
    ner_ideas.clusters.cache_clear()
    groups = [{"the", "a"}, {"cat", "dog", "cow"}, {"sleeps", "eats", "runs"}]
    assert all(len({found[word] for word in group}) == 1 for group in groups) and len({*found.values()}) == 3


def test_a_call_adds_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ner_ideas, "KEPT", tmp_path)
    tried = []
    monkeypatch.setattr(ner_ideas, "try_out", lambda idea, corpus: tried.append(idea))
    monkeypatch.setattr(ner_ideas, "tables", lambda: "")
    monkeypatch.setattr(ner_ideas, "corpus_of", lambda name: type("Corpus", (), {"name": name}))
    (tmp_path / "bc2gm--clusters.json.gz").touch()
    ner_ideas.main(["--ideas", "clusters", "second-order", "both-diseases", "--corpora", "bc2gm"])
    assert tried == ["second-order"]
    ner_ideas.main(["--ideas", "clusters", "--corpora", "bc2gm", "--again"])
    assert tried == ["second-order", "clusters"]


def test_what_stands_in_for_a_corpus_is_refused(monkeypatch):
    corpus = type("Corpus", (), {"stands_in": True, "source": "COURSE_DATA=FOLDER says where a copy is"})
    monkeypatch.setattr(ner_ideas, "load_corpus", lambda name: corpus)
    with pytest.raises(ValueError, match="bc2gm: COURSE_DATA=FOLDER says where a copy is; ideas are tried on"):
        ner_ideas.corpus_of("bc2gm")
