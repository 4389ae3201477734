"""Highlighted text: it says the same with and without the page's styles."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb

from utils.course.plots import COLOURS
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


def lines(*arguments, **options):
    """What stands on each line of the highlighted text once styles are gone."""
    page = show_entities(*arguments, **options).data
    return [" ".join(line.split()) for line in Reader(page).text.split("\n") if line.strip()]


def test_html_without_styles_still_shows_names_and_types():
    assert lines(SENTENCE) == ["«Warfarin» ‹CHEMICAL› inhibits «VKORC1» ‹GENE› in «atrial fibrillation» ‹DISEASE›."]


def test_it_is_displacy_that_renders():
    page = show_entities(SENTENCE).data
    assert page.count('<mark class="entity"') == 3 and 'class="entities"' in page


def test_nothing_to_mark_and_nothing_at_all():
    assert lines(Sentence("No name here.")) == ["No name here."] and lines(Sentence("")) == lines([]) == []


def test_nested_and_crossing_entities_stand_on_lines_of_their_own():
    nested = Sentence("insulin receptor gene", None, [Entity(0, 7, "protein"), Entity(0, 16, "protein")])
    assert lines(nested) == ["«insulin receptor» ‹protein› gene", "↳ «insulin» ‹protein› receptor gene"]
    crossing = Sentence("a b c", None, [Entity(0, 3, "X"), Entity(2, 5, "X")])
    assert lines(crossing) == ["«a b» ‹X› c", "↳ a «b c» ‹X›"]


def test_pieces_of_a_discontinuous_entity_are_numbered():
    pieces = Sentence("breast and ovarian cancer", None, [Entity(0, 25, "Disease", fragments=((0, 6), (19, 25)))])
    assert lines(pieces) == ["«breast» ‹Disease 1/2› and ovarian «cancer» ‹Disease 2/2›"]


def test_titles():
    found = lines([SENTENCE, SENTENCE], titles=["first <1>", "second"])
    assert found == ["«first <1>»", *lines(SENTENCE), "«second»", *lines(SENTENCE)]
    with pytest.raises(ValueError, match="1 titles for 2 sentences"):
        show_entities([SENTENCE, SENTENCE], titles=["first"])


def test_markup_in_text_and_types_is_shown_and_not_obeyed():
    odd = Sentence("<b>p53</b> & {text}", None, [Entity(3, 6, "<i>"), Entity(13, 19, "{bg}")])
    assert lines(odd) == ["<b>«p53» ‹<i>›</b> & «{text}» ‹{bg}›"]


def colours(sentence):
    return re.findall(r"background: (#\w+)", show_entities(sentence).data)


def test_types_have_colours_of_their_own():
    kinds = ["GENE", "Disease", "Chemical", "cell_line", "cell_type", "DNA"]
    each = Sentence("a b c d e f", None, [Entity(2 * k, 2 * k + 1, kind) for k, kind in enumerate(kinds)])
    assert colours(each)[:3] == list(PALETTE[:3]) and len(set(colours(each))) == len(kinds)
    assert colours(Sentence("a", None, [Entity(0, 1, "Modifier")])) == [PALETTE[3]]  # not that of genes
    swapped = Sentence("a b", None, [Entity(0, 1, "DISEASE"), Entity(2, 3, "protein")])
    assert colours(swapped) == [PALETTE[1], PALETTE[0]]


def test_backgrounds_are_the_courses_colours_made_pale():
    pale = [to_hex([0.55 + 0.45 * part for part in to_rgb(colour)]) for colour in COLOURS if colour != "#000000"]
    assert pale == list(PALETTE)


def test_spaces_are_kept_and_line_ends_are_shown():
    assert "a    b<br>" in show_entities(Sentence("a    b\nc", None, [Entity(7, 8, "X")])).data


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), st.data())
def test_no_character_is_lost_or_changed(text, data):
    edges = data.draw(st.lists(st.integers(0, len(text)), unique=True, max_size=6).map(sorted))
    sentence = Sentence(text, None, [Entity(a, b, "T") for a, b in zip(edges[::2], edges[1::2])])
    if not set("«»‹›") & set(text):
        read = re.sub(r"» ‹T›|«", "", Reader(show_entities(sentence).data).text)
        assert read.split() == text.split()
