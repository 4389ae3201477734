"""A sentence as a spaCy Doc: the same text, and every entity in it."""

from hypothesis import given
from hypothesis import strategies as st

from utils.ner.display import to_spacy
from utils.ner.sentence import Entity, Sentence

TEXT = "  Hepatitis B and\nC raise α-fetoprotein. "
C = Entity(2, 19, "Disease", fragments=((2, 11), (18, 19)), concept="D019698")
ENTITIES = [Entity(2, 13, "Disease", concept="D006509", score=0.5), C, Entity(26, 39, "Gene"), Entity(30, 39, "Part")]


def test_every_entity_of_a_sentence_is_in_the_doc():
    doc = to_spacy(Sentence(TEXT, None, ENTITIES))
    assert doc.text == TEXT and [token.text for token in doc][1:5] == ["Hepatitis", "B", "and", "\n"]
    assert [(span.text, span.label_, span.kb_id_) for span in doc.ents] == [
        ("Hepatitis B", "Disease", "D006509"),
        ("α-fetoprotein", "Gene", ""),
    ]
    pieces = [("Hepatitis B", "1"), ("Hepatitis", "2"), ("C", "2"), ("α-fetoprotein", "3"), ("toprotein", "4")]
    assert [(span.text, span.id_) for span in doc.spans["sc"]] == pieces
    assert doc.spans["sc"].attrs["scores"] == [0.5, None, None, None, None]
    again = type(doc)(doc.vocab).from_bytes(doc.to_bytes())
    assert [span.id_ for span in again.spans["sc"]] == [number for _, number in pieces]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.data())
def test_any_text_is_the_same_in_spacy(text, data):
    places = [(i, j) for i in range(len(text)) for j in range(i + 1, len(text) + 1) if text[i:j].strip()]
    chosen = data.draw(st.lists(st.sampled_from(places), max_size=3)) if places else []
    sentence = Sentence(text, None, [Entity(i, j, "X") for i, j in chosen])
    doc = to_spacy(sentence)
    assert doc.text == text
    spans = [(span.start_char, span.end_char) for span in doc.spans["sc"]]
    assert spans == [(entity.start, entity.end) for entity in sentence.entities]
