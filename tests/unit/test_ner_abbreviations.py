"""Definitions of abbreviations: the rules of Schwartz & Hearst 2003, offsets, and the match against brute force."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.work import steps
from utils.ner import abbreviations, load_corpus
from utils.ner.abbreviations import find_abbreviations, is_short_form, match_long_form


def pairs(text):
    found = find_abbreviations(text)
    for one in found:
        assert text[one.short_start : one.short_end] == one.short
        assert text[one.long_start : one.long_end] == one.long
    assert found == sorted(found)
    return [(one.short, one.long) for one in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The heat shock protein (HSP) folds.", ("HSP", "heat shock protein")),
        ("In adenomatous polyposis coli ( APC ) , mutations", ("APC", "adenomatous polyposis coli")),
        ("tumor necrosis factor - alpha ( TNF - alpha ) rose", ("TNF - alpha", "tumor necrosis factor - alpha")),
        ("a drug (familial adenomatous polyposis (FAP))", ("FAP", "familial adenomatous polyposis")),
        ("of ifosfamide, vincristine and dactinomycin [IVA]", ("IVA", "ifosfamide, vincristine and dactinomycin")),
        ("familial adenomatous polyposis (FAP; OMIM 175100)", ("FAP", "familial adenomatous polyposis")),
        ("APC (adenomatous polyposis coli) is lost", ("APC", "adenomatous polyposis coli")),
        ("5 mM ATP (adenosine triphosphate; 5 mM) was", ("ATP", "adenosine triphosphate")),
        ("CMT1A (Charcot-Marie-Tooth disease, type 1A) is", ("CMT1A", "Charcot-Marie-Tooth disease, type 1A")),
        ('so-called "restless legs syndrome" (RLS)', ("RLS", "restless legs syndrome")),
        ("the x-linked recessive non-Hodgkin lymphoma (HL)", ("HL", "non-Hodgkin lymphoma")),
        ("St. Louis encephalitis (SLE)", ("SLE", "St. Louis encephalitis")),
        ("α-synuclein (AS) and 6-mercaptopurine riboside (6-MPR)", ("6-MPR", "6-mercaptopurine riboside")),
        ("tricyclic antidepressants\u2028(TCAs)", ("TCAs", "tricyclic antidepressants")),
        ('the Proceeds of Crime Act 2002 ("PoCA 2002") says', ("PoCA 2002", "Proceeds of Crime Act 2002")),
        ("heat shock protein (“HSP”, of 70 kDa)", ("HSP", "heat shock protein")),
        ('"APC" ("adenomatous polyposis coli")', ("APC", "adenomatous polyposis coli")),
        ("of intravenous (iv) injection, (i) at once", ("iv", "intravenous")),
    ],
)
def test_definitions(text, expected):
    assert pairs(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "( )",
        "()",
        "(AB)",
        " (AB)",
        ")(",
        "(a(b)c",
        "[FAP)",
        "1,25(OH)2D3 is oxygen and hydrogen(OH)",  # no space before the bracket
        "Signs were shown. Patients (SP) came",  # over the end of a sentence
        "patients (n = 12) and mice (2) with p53 (17)",
        "the HSP protein (HSP) and protein (HSP)",  # holds its short form; or does not match
        "the gene (a) and the gene (ab cd ef)",
        "analysis of the protein (P)",  # one letter
        "the word (which is always long enough)",  # no capital letter before the bracket
        "BRCA1 (in breast cancer 1 and others)",  # the long form does not begin the bracket
        "heat and then a shock (HS)",  # five words, more than min(|A| + 5, 2|A|) = 4
        "Large effects (of nerves (LN))",  # out of the bracket around it
        "transforming growth factor beta (TGF-β)",  # β is no letter of "beta"
        "(i) heat, (ii) cold, (iii) light and (iv) vibration",  # numbers of a list
        "first ( II ) inner infusion ( III ) and last",
        "[i] inner, [ii] inner infusion",
        "the word (abc) (ABC)",  # what stands in the bracket beside it is no long form
    ],
)
def test_no_definitions(text):
    assert pairs(text) == []


@pytest.mark.parametrize("text", ["interleukin 2 (IL-2) [IL2]", "interleukin 2 ( IL-2 ) ( IL2 )"])
def test_two_short_forms_in_brackets_side_by_side(text):
    assert pairs(text) == [("IL-2", "interleukin 2"), ("IL2", "interleukin 2")]


def test_what_can_be_a_short_form():
    assert all(map(is_short_form, ("AB", "p53", "5-HT", "IL - 2", "TNF alpha", "1,25(OH)2D3"[:10], "TNF / R")))
    assert not any(map(is_short_form, ("", "A", "12", "-AB", "one two three", "elevenchars", "(AB")))


def test_several_in_order_and_long_texts_stay_fast():
    text = "Wilson disease (WD), copper toxicosis (CT). "
    assert pairs(text) == [("WD", "Wilson disease"), ("CT", "copper toxicosis")]
    assert len(find_abbreviations(text * 1000)) == 2000
    assert find_abbreviations("(" * 100_000 + "word " * 100_000) == []


class Read(str):
    """A text that counts the characters which are cut out of it."""

    count = 0

    def __getitem__(self, key):
        piece = super().__getitem__(key)
        self.count += len(piece)
        return piece


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "( ab " * n + ") " * n,
        lambda n: "AB (ab " * n + ") " * n,
        lambda n: "ab (ab; " * n + ") " * n,
        lambda n: "heat shock protein (HSP) " * n,
        lambda n: "ab" + " (AB)" * n,
        lambda n: "heat " + " [(iv)]" * n,
    ],
)
def test_work_grows_with_the_text_and_not_faster(monkeypatch, make):
    monkeypatch.setattr(abbreviations, "REACH", 50)
    few, many = Read(make(100)), Read(make(200))
    assert steps(find_abbreviations, many) < 2.1 * steps(find_abbreviations, few)
    assert many.count < 2.1 * few.count


ALPHABET = st.text(alphabet="abAB1 -(", max_size=14)


def brute_force(short, before):
    """The latest beginning of a word from which the short form's letters can be read in order."""
    letters = [re.escape(letter) for letter in short.lower() if letter.isalnum()]
    pattern = re.compile(".*?".join(letters), re.DOTALL)
    starts = [k for k in range(len(before)) if k == 0 or not before[k - 1].isalnum()]
    for start in reversed(starts):
        if letters and pattern.match(before.lower(), start):
            return max(before.rfind(" ", 0, start) + 1, 0)
    return None


@given(ALPHABET, ALPHABET)
def test_the_match_is_the_shortest_there_is(short, before):
    assert match_long_form(short, before) == brute_force(short, before)


@given(st.text(alphabet="abA1β \t.,;-()[]\n\0é\u0345İ", max_size=60))
def test_offsets_on_any_text(text):
    for short, long in pairs(text):
        assert len(long) > len(short) >= 2


def test_the_courses_own_corpus_defines_some():
    corpus = load_corpus("course-corpus")
    texts = [sentence.text for split in corpus.splits for sentence in corpus.split(split)]
    found = [pair for text in texts for pair in pairs(text)]
    assert len(found) >= 10
    assert all(any(letter.isalpha() for letter in short) for short, _ in found)
