"""Nothing vanishes on the way through a file: whatever is written is read back equal or refused, and whatever is read
keeps every annotation or says which it dropped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.ner.formats import READERS, WRITERS
from utils.ner.sentence import Entity, Sentence

# Where formats are weak: their own marks, line ends, white space of all kinds, half characters.
CHARACTERS = st.one_of(st.sampled_from('ab#|=-;:{}[]"\\ \t\n\r\0\u00a0\u2028\ufeff\ud800ß'), st.characters())
TEXTS = st.text(CHARACTERS, max_size=12)
SPECIAL = st.sampled_from(["-DOCSTART-", "# text = a", "#", "# a", "1|t|b", "T1\tX 0 1\ta", "{}", "O"])
WORDS = st.one_of(st.text(CHARACTERS, min_size=1, max_size=4), SPECIAL)
KINDS = st.sampled_from(["Gene", "B-X", "Cell_Line", "β-Gène", ";", "E-", "relation"])
CONCEPTS = st.sampled_from(["", "D1", "D1|D2", "MESH:D1", "a b", "-1", "D1|D1|", "#1"])


@st.composite
def sentences(draw):
    if draw(st.booleans()):
        one = Sentence.from_words(draw(st.lists(WORDS, min_size=1, max_size=4)))
        edges = sorted({edge for token in one.tokens for edge in token[:2]})
    else:
        one = Sentence(draw(TEXTS))
        edges = range(len(one.text) + 1)
    entities = []
    for _ in range(draw(st.integers(0, 3)) if len(edges) > 1 else 0):
        places = sorted(draw(st.lists(st.sampled_from(edges), min_size=2, max_size=4, unique=True)))
        pieces = tuple(zip(places[::2], places[1::2]))
        score = draw(st.sampled_from([None, 0.0, 0.25]))
        entity = Entity(pieces[0][0], pieces[-1][1], draw(KINDS), "", pieces, draw(CONCEPTS), score)
        if entity.cut(one.text).strip():
            entities.append(entity)
    name = draw(st.one_of(st.just("n1"), TEXTS))
    return Sentence(one.text, one.tokens, entities, name, draw(st.sampled_from(["", "d"])))


def shown(sentence, form):
    """What a format promises to keep."""
    marks = [(*entity.span, entity.pieces, entity.text) for entity in sentence.entities]
    if form == "conll":
        starts = {token.start: number for number, token in enumerate(sentence.tokens)}
        ends = {token.end: number for number, token in enumerate(sentence.tokens)}
        return sentence.words, [(starts[e.start], ends[e.end], e.type) for e in sentence.entities]
    if form == "jsonl":
        scores = [entity.score for entity in sentence.entities]
        return sentence, marks, scores, [entity.concept for entity in sentence.entities]
    return sentence.text, sentence.id, marks, [entity.concept for entity in sentence.entities]


@pytest.mark.parametrize("form", list(WRITERS))
@settings(max_examples=200, deadline=None)
@given(st.lists(sentences(), max_size=2))
def test_what_is_written_is_read_back_equal_or_refused(tmp_path_factory, form, written):
    path = tmp_path_factory.mktemp("there") / "file"
    try:
        WRITERS[form](written, path)
    except ValueError:
        assert not path.exists()
        return
    if written:
        back = READERS[form](path)
        order = sorted(written, key=lambda one: one.id) if form == "brat" else written
        assert [shown(one, form) for one in back] == [shown(one, form) for one in order]
