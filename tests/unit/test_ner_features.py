"""What a CRF sees of a word."""

import json

import pytest

from utils.ner.features import WordFeatures, bracket_labels
from utils.ner.lexicons import Lexicon
from utils.ner.words import name_parts, normalise, shape, short_shape, stem


def test_shapes_and_normal_forms():
    assert (shape("IL-2Rαx"), short_shape("IL-2Rαx"), short_shape("BRCA12")) == ("AA-0Aaa", "A-0Aa", "A0")
    assert shape("ABZabz019-_") == "AAAaaa000-_"
    assert normalise("TGFβ12") == "tgfbeta0" and stem("mutations") == stem("mutated") == "mutat"
    assert name_parts("IL2") == name_parts("IL-2") == name_parts("il") + name_parts("2") == ("il", "2")
    assert name_parts("TGF-β") == ("tgf", "beta") and name_parts("-/") == ()


def test_features_of_a_word_and_its_neighbours():
    own, other = WordFeatures()(["BRCA1", "genes"])
    assert {
        "word=BRCA1",
        "lower=brca1",
        "norm=brca0",
        "shape=AAAA0",
        "short=A0",
        "begin=br",
        "end=rca1",
        "gram=^br",
        "lower[-1]=^",
        "lower[1]=genes",
        "stem[1]=gene",
        "lower[0,1]=brca1|genes",
    } <= set(own)
    assert {"stem=gene", "lower[-1]=brca1", "lower[-1,0]=brca1|genes", "short[-1]=A0"} <= set(other)
    assert {"greek"} <= set(WordFeatures()(["alpha"])[0]) and {"roman"} <= set(WordFeatures()(["IV"])[0])
    assert "roman" not in WordFeatures()(["IIX"])[0]


@pytest.mark.parametrize(
    "option, gone",
    [
        ({"window": 0}, "lower[1]"),
        ({"stems": False}, "stem"),
        ({"shapes": False}, "sh"),
        ({"affixes": 0}, "end"),
        ({"grams": ()}, "gram"),
        ({"pairs": False}, "lower[0,1]"),
        ({"brackets": False}, "brackets"),
    ],
)
def test_each_kind_can_be_switched_off(option, gone):
    words = ["the", "(", "WAS", ")", "genes"]
    assert any(one.startswith(gone) for found in WordFeatures()(words) for one in found)
    assert not any(one.startswith(gone) for found in WordFeatures(**option)(words) for one in found)


@pytest.mark.parametrize(
    "words, labels",
    [
        ("a ( b ) ( c [ d ] e ( f", {2: "alone", 7: "alone"}),
        ("( a b ) ) (", {1: "in", 2: "in"}),
        ("", {}),
        ("( a [ b ] )", {1: "in", 2: "in", 3: "alone", 4: "in"}),
        ("( a ] b", {}),  # another kind does not close
        ("[ a ) b ] c )", {1: "in", 2: "in", 3: "in"}),
        ("( a [ b ) c", {1: "in", 2: "in", 3: "in"}),
    ],
)
def test_brackets(words, labels):
    assert {i: label for i, label in enumerate(bracket_labels(words.split())) if label} == labels


def test_look_up_in_a_list():
    genes = Lexicon("genes", ("IL2", "IL2 receptor alpha chain", "p53"))
    features = WordFeatures(lexicons=(genes,))(["IL", "-", "2", "and", "il-2", "receptor", "α", "chain"])
    here = [[one[9:] for one in found if one.startswith("genes[0]=")] for found in features]
    assert here == [["B"], ["I"], ["E"], [], ["B"], ["I"], ["I"], ["E"]]
    assert "genes[1]=B" in features[3] and "genes[-1]=E" in features[3]
    assert not any("genes[0]" in one for one in WordFeatures(lexicons=(genes,))(["p53x2"])[0])  # not a whole word


def test_the_same_words_give_the_same_features():
    features = WordFeatures()
    words = ["p53", "binds", "p53"]
    first = features(words)
    first[0].append("spoilt")  # what a caller does to its lists does not reach the store
    assert features(words)[0] == features(words)[0] != first[0]
    assert features([]) == []
    options = json.loads(json.dumps(WordFeatures(window=1, grams=(4,)).options))
    assert WordFeatures(**options)(words) == WordFeatures(window=1, grams=(4,))(words) != first
    with pytest.raises(ValueError, match="expected window >= 0"):
        WordFeatures(window=-1)
