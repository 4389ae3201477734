"""Sentences for spaCy: highlighted by displaCy, so that they can be read without styles too, and as `Doc`."""

import html
from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING

from utils.ner.sentence import Entity, Sentence
from utils.ner.tags import without_overlap

if TYPE_CHECKING:
    from IPython.display import HTML
    from spacy.tokens import Doc

# GitHub strips every style and class from a notebook's HTML: bold names and lowered types are what it keeps.
TEMPLATE = (
    '<mark class="entity" style="background: {bg}; color: #000; padding: 0.2em 0.35em; border-radius: 0.35em; '
    'box-decoration-break: clone; -webkit-box-decoration-break: clone">'
    '<b style="font-weight: normal">{text}</b> <sub style="font-size: 0.7em; vertical-align: middle; '
    'font-weight: bold">{label}</sub></mark>'
)
AGAIN = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} "  # before a line that repeats the sentence above it
# The course's colours (Okabe & Ito 2008) mixed with 55% white, so that black text stands out on them.
PALETTE = ("#8cc0dc", "#ecb78c", "#8cd3c0", "#e8c3d7", "#f4d48c", "#b3ddf5")
# The same thing has the same colour whatever a corpus calls it; other types take the colours that are left.
FIXED = {"GENE": PALETTE[0], "PROTEIN": PALETTE[0], "DISEASE": PALETTE[1], "CHEMICAL": PALETTE[2]}


def show_entities(sentences: Sentence | Iterable[Sentence], titles: Sequence[str] | None = None) -> "HTML":
    """Sentences with their entities highlighted; make it the last line of a cell, or `display` it. Needs spaCy.

    Where entities nest or cross, the sentence stands on several lines, the longest entities on the first; the further
    lines begin with an arrow. Pieces of a discontinuous entity are numbered: "Disease 1/2".

    titles: a line above each sentence, for example its id, or who annotated it; ValueError unless each has one.
    """
    from IPython.display import HTML

    sentences = [sentences] if isinstance(sentences, Sentence) else list(sentences)
    if titles is not None and len(titles) != len(sentences):
        raise ValueError(f"{len(titles)} titles for {len(sentences)} sentences; give one title to each sentence")
    colours = _colours({entity.type for sentence in sentences for entity in sentence.entities})
    lines = []
    for number, sentence in enumerate(sentences):
        if titles is not None:
            lines.append(f'<div style="margin-top: 0.6em"><b>{html.escape(titles[number])}</b></div>')
        for further, layer in enumerate(without_overlap(sentence.entities) or [[]]):
            lines.append(_render(AGAIN if further else "", sentence.text, layer, colours))
    # The class keeps MathJax from reading a "$" as the start of a formula.
    return HTML('<div class="tex2jax_ignore">' + "\n".join(lines) + "</div>")


def _colours(types: set[str]) -> dict[str, str]:
    fixed = {kind: FIXED[kind.upper()] for kind in types if kind.upper() in FIXED}
    # The fixed colours come last, so that no other type looks like a gene as long as there are colours enough.
    free = (colour for colour in (*PALETTE[3:], *PALETTE[:3]) if colour not in fixed.values())
    return fixed | dict(zip(sorted(types - {*fixed}), cycle(free)))


def _render(lead: str, text: str, layer: list[Entity], colours: dict[str, str]) -> str:
    """One line, in which no two entities overlap."""
    from spacy import displacy

    marks = []
    for entity in layer:
        for number, (start, end) in enumerate(entity.pieces, 1):
            label = entity.type + (f" {number}/{len(entity.pieces)}" if entity.fragments else "")
            # displaCy escapes the text but not the label, and looks the colour up by the label in capitals.
            look = {"label": html.escape(label), "bg": colours[entity.type]}
            marks.append({"start": start + len(lead), "end": end + len(lead), "label": entity.type, "params": look})
    record = {"text": lead + text, "ents": marks}
    return displacy.render(record, style="ent", manual=True, jupyter=False, options={"template": TEMPLATE})


def to_spacy(sentence: Sentence) -> "Doc":
    """The sentence as a spaCy `Doc` of the same text, whose tokens are cut at entities' edges as well.

    `doc.ents` has the longest entities that do not overlap, without those in several pieces; `doc.spans["sc"]` has all,
    each piece as a span whose `id_` is the entity's number, and their scores in `attrs["scores"]`. `kb_id_` is the
    concept.
    """
    import spacy

    text, numbered = sentence.text, enumerate(sentence.entities, 1)
    pieces = [(number, entity, *piece) for number, entity in numbered for piece in entity.pieces]
    edges = {0, len(text)}.union(*(piece[2:] for piece in pieces), *(token[:2] for token in sentence.tokens))
    words = [text[start:end] for start, end in pairwise(sorted(edges))]
    doc = spacy.tokens.Doc(spacy.blank("en").vocab, *spacy.util.get_words_and_spaces(words, text))
    spans = [doc.char_span(start, end, e.type, e.concept, span_id=str(number)) for number, e, start, end in pieces]
    scores = [entity.score for _, entity, *_ in pieces]
    doc.spans["sc"] = spacy.tokens.SpanGroup(doc, name="sc", spans=spans, attrs={"scores": scores})
    whole = [span for span, (_, entity, *_) in zip(spans, pieces) if not entity.fragments]
    doc.ents = spacy.util.filter_spans(whole)
    return doc
