"""The protocol of the taggers, and the two that need no training."""

import copy
import io
import itertools
import json
import os
import sys

import pytest
import torch

from utils.ner import CRFTagger, DictionaryTagger, RegexTagger, Tagger, load_tagger
from utils.ner.bilstm_crf import BiLSTMCRFTagger
from utils.ner.chain import LinearChainCRF
from utils.ner.combine import CorrectedTagger, VotingTagger
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import entity_confidence
from utils.ner.tags import tags_to_spans


def found(tagger, text):
    (one,) = tagger.predict([Sentence(text, id="s")])
    assert one.id == "s" and one.text == text
    return [(entity.text, entity.type) for entity in one.entities]


def make_dictionary():
    train = [Sentence("IL-2 binds IL-2 receptor", None, [Entity(0, 4, "Drug"), Entity(11, 24, "Gene")])]
    more = [Sentence("IL-2", None, [Entity(0, 4, "Gene")])] * 2
    return DictionaryTagger([("aspirin", "Drug"), ("...", "Mark"), (" ", "None")]).fit(train, more)


def make_bilstm():
    return BiLSTMCRFTagger(None, hidden=8, epochs=1, device="cpu", progress=False)


def test_dictionary_takes_the_longest_name_and_the_frequent_type():
    tagger = make_dictionary()
    assert len(tagger) == 4
    assert found(tagger, "aspirin and IL - 2 receptor, IL-2") == [
        ("aspirin", "Drug"),
        ("IL - 2 receptor", "Gene"),
        ("IL-2", "Gene"),
    ]
    assert found(tagger, "") == found(tagger, "Aspirin, IL-") == []
    assert found(tagger, "IL-2") == [("IL-2", "Gene")]  # a longer name reaches beyond the end


def test_dictionary_in_either_case():
    assert found(DictionaryTagger([("Aspirin", "Drug")], lower=True), "ASPIRIN") == [("ASPIRIN", "Drug")]


def test_names_seen_with_two_types_equally_often():
    assert found(DictionaryTagger([("was", "Gene"), ("was", "Disease")]), "was") == [("was", "Disease")]


NESTED = ("heat shock protein 70", [Entity(0, 10, "G"), Entity(0, 18, "G"), Entity(5, 21, "G")])
PIECES = ("heat and cold shock", [Entity(0, 19, "G", fragments=((0, 4), (14, 19)))])
LOST = [
    (("GENE1x here", [Entity(0, 5, "G")]), "1 misaligned", "1 misaligned"),
    (PIECES, "1 discontinuous", "1 discontinuous"),
    (NESTED, "1 nested, 1 crossing", None),
]


@pytest.mark.parametrize("make", [DictionaryTagger, lambda: CRFTagger(iterations=3, progress=False), make_bilstm])
@pytest.mark.parametrize("annotated, from_tags, from_names", LOST)
def test_fit_says_what_it_cannot_learn(make, annotated, from_tags, from_names, capsys):
    """Counted by kind before the training; an error where nothing is left, and nothing is widened."""
    text, given = annotated
    lossy, good = Sentence(text, None, given), Sentence("a p53", None, [Entity(2, 5, "G")])
    kinds = from_names if make is DictionaryTagger else from_tags
    make().fit([good] * 3)
    assert capsys.readouterr().out == ""
    tagger = make().fit([good] * 3 + [lossy])
    count, given = 2 if from_names is None else 1, 3 + len(given)
    assert capsys.readouterr().out == (f"{count} of {given} entities cannot be learnt: {kinds}\n" if kinds else "")
    if make is DictionaryTagger:
        assert len(tagger) == (4 if annotated is NESTED else 1) and found(tagger, "GENE1x") == []
    if annotated is not NESTED:
        with pytest.raises(ValueError, match=f"nothing to learn from: 2 of 2 entities cannot be learnt: 2 {kinds[2:]}"):
            make().fit([lossy] * 2)


def test_regex_takes_the_first_and_longest():
    tagger = RegexTagger({"Gene": r"[A-Z]{2,}\d*", "Long": r"BRCA1 gene", "Nothing": "x*"}).fit([])
    assert found(tagger, "the BRCA1 gene and TP53") == [("BRCA1 gene", "Long"), ("TP53", "Gene")]
    with pytest.raises(ValueError, match=r"the pattern of Gene, '\(', is no regular expression"):
        RegexTagger({"Gene": "("})


@pytest.mark.parametrize("tagger", [make_dictionary(), RegexTagger({"Gene": "IL-[0-9α]+"})], ids=lambda one: one.name)
def test_saved_and_loaded(tagger, tmp_path):
    tagger.save(tmp_path / "deep" / "model")
    again = type(tagger).load(tmp_path / "deep" / "model")
    text = "aspirin, IL-2 receptor and IL-2"
    assert found(again, text) == found(tagger, text) != []
    again.save(tmp_path / "again")
    for one in (tmp_path / "again").iterdir():
        assert one.read_bytes() == (tmp_path / "deep" / "model" / one.name).read_bytes()


def test_models_that_cannot_be_loaded(tmp_path):
    RegexTagger({"X": "x"}).save(tmp_path)
    with pytest.raises(ValueError, match="holds a tagger regex, version 1; expected dictionary, version 1"):
        DictionaryTagger.load(tmp_path)
    (tmp_path / "tagger.json").write_text(json.dumps({"tagger": "regex", "version": 99}))
    with pytest.raises(ValueError, match="version 99; expected regex, version 1; load it with its own class, or train"):
        RegexTagger.load(tmp_path)
    for content in ("", "[]", "{}"):
        (tmp_path / "tagger.json").write_text(content)
        with pytest.raises(ValueError, match="holds no tagger: tagger.json cannot be read"):
            RegexTagger.load(tmp_path)
    with pytest.raises(ValueError, match="holds no tagger"):
        RegexTagger.load(tmp_path / "nowhere")


WHOLE = [
    RegexTagger({"Gene": "p53"}),
    make_dictionary(),
    CorrectedTagger(RegexTagger({"Gene": "p53"})),
    VotingTagger([RegexTagger({"Gene": "p53"})]),
    CRFTagger(iterations=1, progress=False).fit([Sentence("p53", None, [Entity(0, 3, "Gene")])]),
]


@pytest.mark.parametrize("tagger", WHOLE, ids=lambda one: one.name)
def test_models_that_are_not_whole(tagger, tmp_path):
    """Whichever of its files is missing, cut short or of another form: an error that says so, and nothing else."""
    tagger.save(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and path != tmp_path / "tagger.json"]:
        whole = path.read_bytes()
        for content in (None, whole[:-3], b"5", b"\xff"):
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(ValueError, match="is not whole|is damaged|holds no tagger"):
                load_tagger(tmp_path)
        path.write_bytes(whole)
    assert type(load_tagger(tmp_path)) is type(tagger)


@pytest.mark.parametrize("tagger", WHOLE, ids=lambda one: one.name)
def test_a_save_that_stops_half_way_leaves_the_old_tagger_or_one_that_is_refused(tagger, tmp_path, monkeypatch):
    tagger.save(tmp_path / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    whole, stops = os.replace, 0
    while True:
        moves, stops = [], stops + 1

        def stopping(source, target, moves=moves, stops=stops):
            moves.append(target)
            if len(moves) == stops:
                raise KeyboardInterrupt
            whole(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping)
            try:
                other_like(tagger).save(tmp_path / "old")
                break
            except KeyboardInterrupt:
                pass
        changed = [path for path, content in before.items() if path.read_bytes() != content]
        if changed:
            with pytest.raises(ValueError, match="is damaged or of another tagger"):
                load_tagger(tmp_path / "old")
        else:
            load_tagger(tmp_path / "old")
        tagger.save(tmp_path / "old")
    assert stops > 2 and not list((tmp_path / "old").rglob(".*"))
    load_tagger(tmp_path / "old")


def other_like(tagger):
    """Another tagger of the same kind."""
    other = copy.deepcopy(tagger)
    inner = getattr(other, "tagger", None) or getattr(other, "members", [other])[0]
    if isinstance(inner, RegexTagger):
        inner.patterns["Gene"] = "p63"
    else:
        inner.fit([Sentence("p63 p63", None, [Entity(0, 3, "Genes")])])
    return other


def test_the_base_class_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Tagger()


class Chain:
    """A tagger whose distribution over tag sequences is a small chain, which can be enumerated."""

    tags, scheme = ("O", "B-X", "I-X"), "BIO"

    def __init__(self, seed, length):
        torch.manual_seed(seed)
        self.chain, self.emissions = LinearChainCRF(self.tags, "BIO"), 2 * torch.randn(1, length, 3)
        self.mask = torch.ones(1, length, dtype=torch.bool)
        for parameter in self.chain.parameters():
            parameter.data.normal_()

    def predict_proba(self, sentences):
        return [self.chain.marginals(self.emissions, self.mask)[0].numpy() for _ in sentences]

    def joint(self, span):
        """The probability of the entity, by enumeration: it begins, goes on and ends where the span does."""
        paths = itertools.product(range(3), repeat=self.mask.shape[1])
        whole = torch.tensor(
            [path for path in paths if span in tags_to_spans([self.tags[k] for k in path], "BIO", "drop")]
        )
        count = len(whole)
        log_p = self.chain(self.emissions.expand(count, -1, -1), whole, self.mask.expand(count, -1))
        return log_p.exp().sum().item()


@pytest.mark.parametrize("seed", range(5))
def test_entity_confidence_bounds_the_probability_of_an_entity(seed):
    tagger, words = Chain(seed, 4), ["a", "b", "c", "d"]
    for spans in ([(0, 1, "X"), (3, 4, "X")], [(1, 4, "X")], [(0, 2, "X"), (2, 4, "X")], [(0, 3, "X"), (1, 2, "X")]):
        sentence = Sentence.from_words(words, spans)
        (bounds,) = entity_confidence(tagger, [sentence])
        assert bounds.shape == (len(spans), 2)
        for (low, high), span in zip(bounds, spans):
            assert low - 1e-6 <= tagger.joint(span) <= high + 1e-6
            if span == (3, 4, "X"):  # one token, and the sentence ends behind it
                assert low == pytest.approx(high, abs=1e-6)
    (other,) = entity_confidence(tagger, [Sentence.from_words(words, [(0, 2, "Never")])])
    assert other.tolist() == [[0, 0]]
    assert entity_confidence(tagger, [Sentence.from_words(words)])[0].shape == (0, 2)
    off = Sentence("a b c d", None, [Entity(0, 7, "X", fragments=((0, 1), (6, 7))), Entity(2, 3, "X")])
    assert entity_confidence(tagger, [off])[0][0].tolist() == [0, 0]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("make", [lambda: CRFTagger(iterations=3), lambda: BiLSTMCRFTagger(None, epochs=1, hidden=8)])
def test_bars_are_for_terminals(make, terminal, monkeypatch):
    """Off in a log; in a notebook tqdm's own class draws them."""
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", written)
    make().fit([Sentence("a p53", None, [Entity(2, 5, "G")])] * 3)
    assert bool(written.getvalue()) == terminal
