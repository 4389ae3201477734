"""Aho and Corasick's automaton against looking at every span."""

from hypothesis import given
from hypothesis import strategies as st

from utils.ner.lookup import Automaton, DictionaryTagger, leftmost_longest
from utils.ner.sentence import Sentence

WORDS = st.lists(st.sampled_from("abc"), max_size=12)
NAMES = st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=8)


def every_span(names, words):
    spans = [(i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    return {(i, j) for i, j in spans if words[i:j] in names}


@given(NAMES, WORDS)
def test_finds_every_occurrence_once(names, words):
    found = Automaton(names).matches(words)
    assert len(found) == len(set(found))
    assert set(found) == every_span(names, words)


@given(NAMES, WORDS)
def test_longest_from_left_to_right(names, words):
    expected, i = [], 0
    while i < len(words):
        ends = [j for j in range(len(words), i, -1) if words[i:j] in names]
        if ends:
            expected.append((i, ends[0]))
        i = ends[0] if ends else i + 1
    assert Automaton(names).longest(words) == expected
    tagger = DictionaryTagger([(" ".join(name), "X") for name in names])
    sentence = Sentence.from_words(words)
    (found,) = tagger.predict([sentence])
    assert found == Sentence.from_words(words, [(start, end, "X") for start, end in expected])


def test_a_name_inside_another_that_is_not_completed():
    automaton = Automaton([["a", "b", "c", "d"], ["b", "c"], ["c"], []])
    assert automaton.matches(["a", "b", "c", "x"]) == [(1, 3), (2, 3)]
    assert automaton.longest(["a", "b", "c", "x"]) == [(1, 3)]
    assert automaton.matches([]) == []
    assert leftmost_longest([(2, 3), (0, 1), (0, 2), (1, 3)]) == [(0, 2), (2, 3)]
