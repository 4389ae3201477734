"""Highlighted text: it says the same as HTML, as HTML without styles, and as plain text."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.ner.display import PALETTE, show_entities
from utils.ner.sentence import Entity, Sentence

TEXT = "Warfarin inhibits VKORC1 in atrial fibrillation."
SENTENCE = Sentence(TEXT, None, [Entity(0, 8, "CHEMICAL"), Entity(18, 24, "GENE"), Entity(28, 47, "DISEASE")])


class Reader(HTMLParser):
    """What is left of a page when every attribute is dropped: text, with the bold and lowered stretches marked."""

    def __init__(self, page):
        super().__init__()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.text += {"b": "«", "sub": "‹"}.get(tag, "")

    def handle_endtag(self, tag):
        self.text += {"b": "»", "sub": "›", "div": "\n"}.get(tag, "")

    def handle_data(self, data):
        self.text += data


def words(text):
    return " ".join(text.split())


def test_html_without_styles_still_shows_names_and_types():
    read = words(Reader(show_entities(SENTENCE).html).text)
    assert read == "«Warfarin» ‹CHEMICAL› inhibits «VKORC1» ‹GENE› in «atrial fibrillation» ‹DISEASE›."


def test_plain_text_and_the_bundle_of_a_notebook():
    view = show_entities(SENTENCE)
    assert str(view) == "[Warfarin | CHEMICAL] inhibits [VKORC1 | GENE] in [atrial fibrillation | DISEASE]."
    assert view._repr_mimebundle_() == {"text/html": view.html, "text/plain": view.text}


def test_it_is_displacy_that_renders():
    assert show_entities(SENTENCE).html.count('<mark class="entity"') == 3
    assert 'class="entities"' in show_entities(SENTENCE).html


def test_nothing_to_mark_and_nothing_at_all():
    assert str(show_entities(Sentence("No name here."))) == "No name here."
    assert "No name here." in show_entities(Sentence("No name here.")).html
    assert str(show_entities(Sentence(""))) == "" and str(show_entities([])) == ""


def test_nested_and_crossing_entities_stand_on_lines_of_their_own():
    nested = Sentence("insulin receptor gene", None, [Entity(0, 7, "protein"), Entity(0, 16, "protein")])
    assert str(show_entities(nested)) == "[insulin receptor | protein] gene\n↳ [insulin | protein] receptor gene"
    read = Reader(show_entities(nested).html).text.split("\n")
    assert [words(line) for line in read if line.strip()] == [
        "«insulin receptor» ‹protein› gene",
        "↳ «insulin» ‹protein› receptor gene",
    ]
    crossing = Sentence("a b c", None, [Entity(0, 3, "X"), Entity(2, 5, "X")])
    assert str(show_entities(crossing)) == "[a b | X] c\n↳ a [b c | X]"


def test_pieces_of_a_discontinuous_entity_are_numbered():
    one = Sentence("breast and ovarian cancer", None, [Entity(0, 25, "Disease", fragments=((0, 6), (19, 25)))])
    assert str(show_entities(one)) == "[breast | Disease 1/2] and ovarian [cancer | Disease 2/2]"
    assert words(Reader(show_entities(one).html).text) == "«breast» ‹Disease 1/2› and ovarian «cancer» ‹Disease 2/2›"


def test_titles_and_types():
    view = show_entities([SENTENCE, SENTENCE], titles=["first <1>", "second"], types=["GENE"])
    marked = TEXT.replace("VKORC1", "[VKORC1 | GENE]")
    assert str(view) == f"first <1>\n{marked}\nsecond\n{marked}"
    assert "«first <1>»" in Reader(view.html).text
    with pytest.raises(ValueError, match="1 titles for 2 sentences"):
        show_entities([SENTENCE, SENTENCE], titles=["first"])


def test_markup_in_text_and_types_is_shown_and_not_obeyed():
    odd = Sentence("<b>p53</b> & {text}", None, [Entity(3, 6, "<i>"), Entity(13, 19, "{bg}")])
    page = show_entities(odd).html
    assert "<i>" not in page and "<b>p53</b>" not in page
    assert words(Reader(page).text) == "<b>«p53» ‹<i>›</b> & «{text}» ‹{bg}›"


def test_types_have_colours_of_their_own():
    kinds = ["GENE", "Disease", "Chemical", "cell_line", "cell_type", "DNA"]
    one = Sentence("a b c d e f", None, [Entity(2 * k, 2 * k + 1, kind) for k, kind in enumerate(kinds)])
    found = re.findall(r"background: (#\w+)", show_entities(one).html)
    assert found[:3] == PALETTE[:3] and len(set(found)) == len(kinds)
    other = Sentence("a", None, [Entity(0, 1, "Modifier")])
    assert re.findall(r"background: (#\w+)", show_entities(other).html) == [PALETTE[3]]  # not that of genes
    swapped = Sentence("a b", None, [Entity(0, 1, "DISEASE"), Entity(2, 3, "protein")])
    assert re.findall(r"background: (#\w+)", show_entities(swapped).html) == [PALETTE[1], PALETTE[0]]


def test_spaces_are_kept_and_line_ends_are_shown():
    view = show_entities(Sentence("a    b\nc", None, [Entity(7, 8, "X")]))
    assert "a    b<br>" in view.html and str(view) == "a    b\n[c | X]"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), st.data())
def test_no_character_is_lost_or_changed(text, data):
    edges = data.draw(st.lists(st.integers(0, len(text)), unique=True, max_size=6).map(sorted))
    sentence = Sentence(text, None, [Entity(a, b, "T") for a, b in zip(edges[::2], edges[1::2])])
    read = re.sub(r"» ‹T›|«", "", Reader(show_entities(sentence).html).text) if not set("«»‹›") & set(text) else text
    assert words(read) == words(text)
