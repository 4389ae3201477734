"""Rules that mend entities: brackets, abbreviations, one sense in a document."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.work import steps
from utils.ner.combine import CorrectedTagger
from utils.ner.corpora import load_corpus
from utils.ner.lookup import DictionaryTagger, RegexTagger
from utils.ner.postprocess import STEPS, documents_of, postprocess
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import load_tagger


def marked(text, *names, kind="X", document=""):
    """A sentence with the first occurrence of each name as an entity."""
    entities = [Entity(text.index(name), text.index(name) + len(name), kind) for name in names]
    return Sentence(text, None, entities, document=document)


def texts(sentence):
    return [entity.text for entity in sentence.entities]


@pytest.mark.parametrize(
    "text, name, mended",
    [
        ("the BRCA1 (gene) here", "BRCA1 (gene", ["BRCA1 (gene)"]),  # widened to the right
        ("the ( alpha ) chain", "alpha ) chain", ["( alpha ) chain"]),  # and to the left
        ("a BRCA1 ( see text here", "BRCA1 ( see", ["BRCA1"]),  # cut before
        ("a b) BRCA1 gene", "b) BRCA1", ["BRCA1"]),  # and behind
        ("a) here", "a)", []),  # nothing is left
        ("a ( ( see ) here", "a ( ( see", ["a"]),  # widening would close one of two
        ("see ( x ) ) BRCA1", "x ) ) BRCA1", ["BRCA1"]),
        ("a ( ] ) BRCA1", "( ] ) BRCA1", ["BRCA1"]),  # cut twice
        ("a ( see ] b", "a ( see", ["a"]),
        ("a [ see ) b", "see ) b", ["b"]),  # another kind is not the missing one
        ("a ( see there ) b", "a ( see", ["a"]),  # the missing one is not next to it
        ("a ( [ b ) c", "( [ b )", []),
        ("1,25(OH)2D3 is", "1,25(OH)2D3", ["1,25(OH)2D3"]),
        ("p53 is", "p53", ["p53"]),
    ],
)
def test_brackets(text, name, mended):
    (found,) = postprocess([marked(text, name)], ["brackets"])
    assert texts(found) == mended and found.text == text


@given(st.text("()[] a", min_size=1, max_size=12), st.data())
def test_no_bracket_is_left_alone(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    entity = Entity(start, data.draw(st.integers(start + 1, len(text))), "X")
    assume(text[start : entity.end].strip())
    (mended,) = postprocess([Sentence(text, None, [entity])], ["brackets"])
    for name in texts(mended):
        while (shorter := re.sub(r"\([ a]*\)|\[[ a]*\]", "", name)) != name:
            name = shorter
        assert not set(name) & set("()[]")


def test_brackets_leave_pieces_alone():
    entity = Entity(0, 10, "X", "", ((0, 3), (9, 10)))
    sentence = Sentence("a (b c d e", None, [entity])
    assert postprocess([sentence], ["brackets"]) == [sentence]


def test_the_long_form_decides():
    text = "familial adenomatous polyposis (FAP) and FAP"
    both = ["familial adenomatous polyposis", "FAP", "FAP"]
    assert texts(postprocess([marked(text, both[0], kind="Disease")], ["abbreviations"])[0]) == both
    assert texts(postprocess([marked(text, "FAP")], ["abbreviations"])[0]) == []
    part = marked(text, "familial adenomatous", "FAP")  # the long form is marked in part: nothing is known
    assert postprocess([part], ["abbreviations"]) == [part]


@pytest.mark.parametrize(
    "names, kept",
    [
        ({"AKI": "CHEMICAL"}, {"AKI": "DISEASE"}),  # the type of the long form
        ({"AK": "CHEMICAL"}, {"AKI": "DISEASE"}),
        ({"AKI stage": "CHEMICAL"}, {"AKI": "DISEASE", "AKI stage": "CHEMICAL"}),  # longer than the short form
    ],
)
def test_the_short_form_gets_the_type_of_the_long_one(names, kept):
    text = "acute kidney injury ( AKI ) and AKI stage 3"
    places = [(*match.span(), kind) for name, kind in names.items() for match in re.finditer(name, text)]
    sentence = Sentence(text, None, [Entity(0, 19, "DISEASE"), *(Entity(*place) for place in places)])
    (found,) = postprocess([sentence], ["abbreviations"])
    assert {e.text: e.type for e in found.entities} == {"acute kidney injury": "DISEASE", **kept}
    assert len(found.entities) == 3
    (both,) = postprocess([sentence.with_entities([*sentence.entities, Entity(22, 25, "DISEASE")])], ["abbreviations"])
    assert both == found and postprocess([found], ["abbreviations"]) == [found]


def test_nothing_of_the_short_form_is_marked_where_nothing_of_the_long_one_is():
    text = "tumour necrosis factor - alpha ( TNF - alpha )"
    assert texts(postprocess([marked(text, "TNF")], ["abbreviations"])[0]) == []
    assert texts(postprocess([marked(text, text[:30], "TNF")], ["abbreviations"])[0]) == [text[:30], "TNF - alpha"]


def test_a_definition_holds_in_its_document_only():
    sentences = [
        marked("adenomatous polyposis coli (APC) is known", "adenomatous polyposis coli", document="d1"),
        marked("mutated APC", document="d1"),
        marked("mutated APC", document="d2"),
        marked("mutated APC"),
        marked("XAPCX", document="d1"),
    ]
    assert list(map(texts, postprocess(sentences, ["abbreviations"]))) == [
        ["adenomatous polyposis coli", "APC"],
        ["APC"],
        [],
        [],
        [],
    ]


def test_one_sense_in_a_document():
    sentences = [
        marked("p53 and WAS", "p53", document="d"),
        marked("p53 was", "p53", document="d"),
        marked("p53 here", document="d"),
        marked("the p53 gene", "p53 gene", document="d"),
        marked("p53", document="e"),
        marked("p53", "p53", document="e"),
    ]
    found = list(map(texts, postprocess(sentences, ["one-sense"])))
    assert found == [["p53"], ["p53"], ["p53"], ["p53 gene"], [], ["p53"]]
    beside = [marked("p53-/- mice", "-/-", document="f"), *[marked("p53", "p53", document="f")] * 2]
    assert texts(postprocess(beside, ["one-sense"])[0]) == ["p53", "-/-"]  # the token touches an entity, and is in none


def article(definitions):
    """Each defines a short form, marks it once of three times, and marks one bracket of two."""
    text, entities = "", []
    for k in range(definitions):
        pairs = [(f"heat shock {k}", f" (HS{k}) and "), (f"HS{k}", " of "), ("( the p53", f" ) , HS{k} . ")]
        for name, between in pairs:
            entities.append(Entity(len(text), len(text + name), "X"))
            text += name + between
    return Sentence(text, None, entities)


@pytest.mark.parametrize("step", STEPS)
def test_work_grows_with_the_text_and_not_faster(step):
    assert postprocess([article(2)], [step]) != [article(2)]
    few, many = (steps(postprocess, [article(n)], [step]) for n in (50, 100))
    assert many < 2.2 * few


def test_documents_are_said_and_not_guessed_from_ids():
    """PMID-11 and PMID-12 are two abstracts; what FAP stands for in one says nothing of the other."""
    sentences = [
        Sentence("", id="PMID-11"),
        Sentence("", id="PMID-12"),
        Sentence("", document="a"),
        Sentence("", document="a"),
        Sentence(""),
        Sentence(""),
    ]
    names = documents_of(sentences)
    assert names[2] == names[3] and len(set(names)) == 5
    own = load_corpus("course-corpus").test
    assert {one.id.rpartition("-")[0] for one in own} == {*documents_of(own)} and len({*documents_of(own)}) < len(own)


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="unknown step 'spelling'; choose one of brackets, abbreviations, one-sense"):
        CorrectedTagger(RegexTagger({}), ["spelling"])


def test_corrected_tagger_keeps_the_rules_that_help(tmp_path):
    tagger = CorrectedTagger(RegexTagger({"X": r"\w+ \(\w+"}))
    text = "a gene (TP53) here"
    assert texts(tagger.predict([Sentence(text)])[0]) == ["gene (TP53)"]
    tagger.fit([], [marked(text, "gene (TP53)")])
    assert tagger.steps == ["brackets"]
    tagger.save(tmp_path)
    again = load_tagger(tmp_path)
    assert again.steps == ["brackets"] and texts(again.predict([Sentence(text)])[0]) == ["gene (TP53)"]
    assert CorrectedTagger(DictionaryTagger()).fit([marked("p53", "p53")], [marked("p53", "p53")]).steps == []
