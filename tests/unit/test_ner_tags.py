"""Sentences, entities and tags: offsets give back the surface, tags round-trip through spans, losses are named."""

import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import utils.ner
from utils.ner.sentence import Entity, Sentence, Token, split_sentences, tokenize
from utils.ner.tags import (
    TagError,
    at_token_edges,
    convert_tags,
    from_tags,
    losses,
    lost_to_tags,
    spans_to_tags,
    tags_to_spans,
    to_layers,
    to_tags,
)

KINDS = ("Gene", "creative-work")
BIO = st.lists(st.sampled_from(["O", *(f"{p}-{kind}" for p in "BI" for kind in KINDS)]), max_size=12)
BIOES = st.lists(st.sampled_from(["O", *(f"{p}-{kind}" for p in "BIES" for kind in KINDS)]), max_size=12)
WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), max_size=8)


@st.composite
def flat_spans(draw):
    edges = draw(st.lists(st.integers(0, 15), unique=True, max_size=10).map(sorted))
    return [(a, b, draw(st.sampled_from(KINDS))) for a, b in zip(edges[::2], edges[1::2])]


@given(flat_spans(), st.sampled_from(["BIO", "BIOES"]), st.sampled_from(["repair", "drop", "refuse"]))
def test_spans_to_tags_and_back(spans, scheme, orphan):
    assert tags_to_spans(spans_to_tags(spans, 15, scheme), scheme, orphan) == spans


@given(BIO)
def test_any_bio_sequence_round_trips_once_repaired(tags):
    spans = tags_to_spans(tags)
    whole = spans_to_tags(spans, len(tags))
    assert tags_to_spans(whole, orphan="refuse") == spans
    assert [tag == "O" for tag in whole] == [tag == "O" for tag in tags]
    assert convert_tags(convert_tags(whole, "BIO", "BIOES"), "BIOES", "BIO", "refuse") == whole
    assert set(tags_to_spans(tags, orphan="drop")) <= set(spans)


@given(BIOES)
def test_any_bioes_sequence_round_trips_once_repaired(tags):
    spans = tags_to_spans(tags, "BIOES")
    assert tags_to_spans(spans_to_tags(spans, len(tags), "BIOES"), "BIOES", "refuse") == spans
    kept = tags_to_spans(tags, "BIOES", "drop")
    assert all(
        tags[start:end] == spans_to_tags([(0, end - start, kind)], end - start, "BIOES") for start, end, kind in kept
    )


@pytest.mark.parametrize(
    "tags, scheme, repaired, dropped",
    [
        (["I-X", "I-X", "O"], "BIO", [(0, 2, "X")], []),
        (["B-X", "I-Y"], "BIO", [(0, 1, "X"), (1, 2, "Y")], [(0, 1, "X")]),
        (["B-X", "B-X"], "BIO", [(0, 1, "X"), (1, 2, "X")], [(0, 1, "X"), (1, 2, "X")]),
        (["B-X", "O"], "BIOES", [(0, 1, "X")], []),
        (["O", "E-X"], "BIOES", [(1, 2, "X")], []),
        (["S-X", "I-X", "E-X"], "BIOES", [(0, 1, "X"), (1, 3, "X")], [(0, 1, "X")]),
    ],
)
def test_orphans(tags, scheme, repaired, dropped):
    assert tags_to_spans(tags, scheme, "repair") == repaired
    assert tags_to_spans(tags, scheme, "drop") == dropped
    if repaired != dropped:
        with pytest.raises(TagError, match="expected"):
            tags_to_spans(tags, scheme, "refuse")


def test_bad_tags_and_choices():
    for tags, index, problem in ((["O", "B-X", "O"], 1, "'B-X' does not end"), (["O", "E-X"], 1, "'E-X' continues")):
        with pytest.raises(TagError, match=f"tag {index}: {problem}") as caught:
            tags_to_spans(tags, "BIOES", "refuse")
        assert caught.value.index == index
    for tag in ("X", "B", "B-", "-X", "E-X", "b-X", "", "BI-X"):
        with pytest.raises(TagError, match="tag 1: .* is no BIO tag; expected O, B-TYPE, I-TYPE") as caught:
            tags_to_spans(["O", tag])
        assert caught.value.index == 1
    with pytest.raises(ValueError, match="unknown scheme 'IO'; choose one of BIO, BIOES"):
        tags_to_spans([], "IO")
    with pytest.raises(ValueError, match="unknown scheme 'IO'"):
        spans_to_tags([], 3, "IO")
    with pytest.raises(ValueError, match="unknown on_loss 'mend'; choose one of"):
        to_layers(Sentence.from_words(["a"], []), 1, on_loss="mend")
    with pytest.raises(ValueError, match="unknown orphan 'mend'; choose one of repair, drop, refuse"):
        tags_to_spans([], orphan="mend")
    with pytest.raises(ValueError, match="shares a token"):
        spans_to_tags([(0, 2, "X"), (1, 3, "Y")], 3)
    with pytest.raises(ValueError, match="outside the 3 tokens"):
        spans_to_tags([(2, 4, "X")], 3)


def test_what_tags_cannot_hold():
    text = "human IL-2 receptor alpha chain"
    words = tokenize(text)
    whole, inner = Entity(6, 19, "protein"), Entity(6, 10, "protein")
    crossing, cut = Entity(11, 31, "protein"), Entity(7, 10, "DNA")
    pieces = Entity(0, 31, "protein", fragments=((0, 5), (20, 31)))
    sentence = Sentence(text, words, [whole, inner, crossing, cut, pieces])
    found = {loss.entity: loss.reason for loss in losses(sentence)}
    assert found == {whole: "crossing", cut: "misaligned", pieces: "discontinuous"}
    with pytest.raises(ValueError, match="of 5 entities .* do not fit into 1 layer"):
        to_tags(sentence)
    flat = sentence.with_entities([whole, inner])
    assert [loss.reason for loss in losses(flat)] == ["nested"] and losses(flat, 2) == []
    assert [loss.reason for loss in losses(flat.with_entities([whole, Entity(11, 19, "DNA")]))] == ["nested"]
    outer, within = to_layers(flat, 2)
    assert outer == ["O", "B-protein", "I-protein", "I-protein", "I-protein", "O", "O"]
    assert within == ["O", "B-protein", "I-protein", "I-protein", "O", "O", "O"]
    assert to_tags(flat, on_loss="drop") == outer
    assert from_tags(flat, outer).entities == (whole,)


@given(WORDS, BIO)
def test_offsets_always_give_back_the_surface(words, tags):
    tags = (tags + ["O"] * len(words))[: len(words)]
    spans = tags_to_spans(tags)
    sentence = Sentence.from_words(words, spans)
    assert sentence.words == words
    assert all(sentence.text[token.start : token.end] == token.text for token in sentence.tokens)
    assert all(sentence.text[entity.start : entity.end] == entity.text for entity in sentence.entities)
    assert tags_to_spans(to_tags(sentence)) == spans
    assert from_tags(sentence, tags) == sentence


@given(st.text())
def test_tokens_cover_every_visible_character(text):
    tokens = tokenize(text)
    covered = {i for token in tokens for i in range(token.start, token.end)}
    assert covered == {i for i, letter in enumerate(text) if not letter.isspace()}
    assert Sentence(text).tokens == tuple(tokens)


def test_tokens_of_a_name():
    assert [token.text for token in tokenize("IL-2Rα, p53-/- (5 mg)")] == [
        "IL",
        "-",
        "2Rα",
        ",",
        "p53",
        "-",
        "/",
        "-",
        "(",
        "5",
        "mg",
        ")",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["Sjo\u0308gren", "syndrome"],  # an accent as a character of its own
        ["cafe\u0301", "a", "\u03b1\u0301"],
        ["hepato\u00adtoxicity"],  # a soft hyphen
        ["un\u200d\u0308seen", "a\u2060b\ufeffc"],
        ["\u0915\u094d\u0937\u093f"],  # vowel signs and joiners of Devanagari
        ["\u2265\u0338", "p53"],  # a sign with a stroke through it
        ["\ufeff", "BRCA1", "\u200b", ")"],  # beside a word, what is not seen stays out of it
    ],
)
def test_marks_and_invisible_characters_cut_no_word(words):
    text = "".join(words) if words[0] == "\ufeff" else " ".join(words)
    assert [token.text for token in tokenize(text)] == words


@pytest.mark.parametrize(
    "text",
    [
        "One ends. | Two ends! | 3 begins? | (Four) does.",
        'He said "yes." | Then (he left.) | She stayed.',
        "No end",
        "A dose of 0. 05 mg i.v. Cisplatin, vs. Placebo, by St. Louis.",
        "The gene (see ref. 3. It is long) ends. | Next.",
        "By J. Smith, of Rome. | Type B. | Results follow.",
        "Fig. 2. | Al. Nos. 3 and E. coli.",
        "lower. case stays.",
        "A title.\n| An abstract. | ",
        " Space before. | And  |",
        "He [p. 3. Here] ends. | So.",
        "Vitamin D. | 5 mg.",
        "",
    ],
)
def test_where_sentences_end(text):
    """A | stands where a sentence begins; with it goes the white space behind the sentence before."""
    pieces = [piece.rstrip() for piece in re.split(r"\| ?", text)]
    plain = re.sub(r"\| ?", "", text)
    spans = split_sentences(plain)
    assert [plain[start:end] for start, end in spans] == [piece for piece in pieces if piece]


@given(st.text("Aa1. (\n", max_size=30))
def test_sentences_hold_every_visible_character(text):
    spans = split_sentences(text)
    kept = "".join(text[start:end] for start, end in spans)
    assert "".join(kept.split()) == "".join(text.split())
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_a_very_long_and_an_empty_sentence():
    long = Sentence.from_words(["word"] * 10_000, [(0, 10_000, "Gene")])
    assert tags_to_spans(to_tags(long)) == [(0, 10_000, "Gene")] and len(long.entities[0].text) == 49_999
    empty = Sentence("")
    assert empty.tokens == () and empty.entities == () and to_tags(empty) == []


def test_sentences_sort_and_fill_in():
    sentence = Sentence("a b c", [(0, 1), (4, 5)], [Entity(4, 5, "X"), Entity(0, 1, "X"), Entity(0, 1, "X")], "7")
    assert sentence.tokens == (Token(0, 1, "a"), Token(4, 5, "c"))
    assert [entity.text for entity in sentence.entities] == ["a", "c"]
    assert Entity(0, 5, "X", fragments=((0, 1), (4, 5))).cut("a b c") == "a c"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Entity(3, 3, "X"), "0 <= start < end, got start 3 and end 3"),
        (lambda: Entity(-1, 3, "X"), "got start -1"),
        (lambda: Entity(0, 3, ""), "type must be a word"),
        (lambda: Entity(0, 3, "a b"), "type must be a word"),
        (lambda: Entity(0, 5, "X", fragments=((0, 2), (1, 5))), "do not go in order from 0 to 5"),
        (lambda: Entity(0, 5, "X", fragments=((0, 2), (3, 4))), "do not go in order from 0 to 5"),
        (lambda: Sentence("abc", None, [Entity(0, 4, "X")], "s1"), "X 0 to 4 reaches beyond sentence 's1' of 3"),
        (lambda: Sentence("abc", None, [Entity(0, 2, "X", "zz")]), "the text at 0:2 is 'ab'"),
        (lambda: Sentence("abc", [(0, 2), (1, 3)]), "out of order or outside"),
        (lambda: Sentence("abc", [Token(0, 2, "zz")]), "the text at 0:2 is 'ab'"),
        (lambda: Sentence("abc", [(0, 4)]), "out of order or outside"),
        (lambda: Sentence.from_words(["a", ""]), "token 2 to 2 of '' is out of order"),
        (lambda: from_tags(Sentence("a b"), ["O"]), "1 tags for the 2 tokens"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_reading_and_scoring_load_no_heavy_package():
    heavy = {"torch", "transformers", "matplotlib", "IPython", "ipywidgets", "spacy"}
    code = f"""
import sys, utils.ner
from utils.ner import CRFTagger, evaluate, load_corpus, postprocess, read_sentences
from utils.ner.display import show_entities
print(sorted({heavy} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    assert {name for name in dir(utils.ner) if getattr(utils.ner, name) is None} == set()
    with pytest.raises(AttributeError, match="has no attribute 'evalute'"):
        _ = utils.ner.evalute


# -- what entities are, and what tags lose ----------------------------------------------------------


@pytest.mark.parametrize(
    "text, given, kept",
    [
        ("We saw GENE1 .", Entity(6, 12, "G"), Entity(7, 12, "G")),
        ("We saw GENE1 \n", Entity(7, 14, "G", "GENE1 \n"), Entity(7, 12, "G")),
        ("heat\nshock", Entity(0, 10, "G", fragments=((0, 4), (5, 10))), Entity(0, 10, "G")),
        ("heat shock", Entity(0, 10, "G", fragments=((0, 5), (5, 10))), Entity(0, 10, "G")),
        ("heat or cold shock", Entity(0, 18, "G", fragments=((13, 18), (0, 5))), ((0, 4), (13, 18))),
        ("a, b c", Entity(0, 6, "G", fragments=((0, 1), (2, 4), (4, 6))), ((0, 1), (3, 6))),
        ("\u00a0x\u2009", Entity(0, 3, "G"), Entity(1, 2, "G")),
        ("one piece", Entity(0, 3, "G", fragments=((0, 3),)), Entity(0, 3, "G")),
    ],
)
def test_outer_blanks_go_and_pieces_without_a_gap_are_one(text, given, kept):
    (entity,) = Sentence(text, None, [given]).entities
    assert entity == kept if isinstance(kept, Entity) else entity.fragments == kept
    assert entity.text == entity.cut(text) == entity.text.strip()


def test_blanks_that_are_a_token_s_stay_and_blanks_alone():
    words = Sentence.from_words(["\u00a0mg", "x"], [(0, 1, "G")])
    assert words.entities == (Entity(0, 3, "G"),) == words.with_entities(words.entities).entities
    alone = Sentence("a b", None, [Entity(1, 2, "G")])
    assert alone.entities == (Entity(1, 2, "G"),) and lost_to_tags([alone]) == {"misaligned": 1}
    for wrong in ([(0, 3), (2, 5)], [(0, 0), (0, 5)], [(0, 2), (3, 4)], [(0, 5), (0, 5)], [(0, 1, 5)], [()]):
        with pytest.raises(ValueError, match="do not go in order from 0 to 5"):
            Entity(0, 5, "G", fragments=tuple(wrong))


def test_duplicates_keep_all_concepts_and_score_is_no_part_of_equality():
    three = [Entity(0, 1, "G", concept=concept, score=0.5) for concept in ("D1", "D2|D1", "")]
    (entity,) = Sentence("a b", None, three).entities
    assert (entity.concept, entity.score) == ("D1|D2", 0.5) and entity == Entity(0, 1, "G")


def test_what_tags_lose_is_counted_and_edges_can_move():
    text = "We saw GENE1, GENE2 and 3 of heat or cold shock"
    lost = [Entity(7, 11, "G"), Entity(14, 25, "G"), Entity(14, 19, "G"), Entity(20, 28, "G")]
    pieces = Entity(30, 47, "G", fragments=((30, 33), (38, 39), (40, 41), (43, 47)))
    sentence = Sentence(text, None, [*lost, pieces, Entity(9, 10, "G")])
    assert lost_to_tags([sentence] * 2) == {"misaligned": 4, "nested": 2, "crossing": 2, "discontinuous": 2}
    moved = at_token_edges(sentence)
    assert [entity.text for entity in moved.entities] == [
        "GENE1",
        "GENE2",
        "GENE2 and 3",
        "and 3 of",
        "heat cold shock",
    ]
    assert lost_to_tags([moved], layers=3) == {"discontinuous": 1}
    assert at_token_edges(moved) == moved
    bare = Sentence("ab cd", [(0, 2)], [Entity(3, 5, "G")])
    assert at_token_edges(bare) == bare


def test_bilou_is_read_as_bioes():
    bilou, bioes = ["B-X", "I-X", "L-X", "O", "U-Y"], ["B-X", "I-X", "E-X", "O", "S-Y"]
    assert convert_tags(bilou, "BILOU", "BIOES", "refuse") == convert_tags(bilou, "BIOES", "BIOES") == bioes
    assert tags_to_spans(["L-X", "U-X"], "BILOU") == [(0, 1, "X"), (1, 2, "X")]
    assert tags_to_spans(["B-X", "L-Y"], "BILOU", "drop") == []
    with pytest.raises(TagError, match="'L-X' is no BIO tag"):
        tags_to_spans(["L-X"], "BIO")
