"""Sentences with their entities highlighted, by displaCy; readable also where a page keeps no styles and no HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from matplotlib.colors import to_hex, to_rgb
from spacy import displacy

from utils.course.plots import COLOURS
from utils.ner.types import Entity, Sentence

# GitHub strips every style and class from a notebook's HTML: bold names and lowered types are what it keeps.
TEMPLATE = (
    '<mark class="entity" style="background: {bg}; color: #000; padding: 0.2em 0.35em; border-radius: 0.35em; '
    'box-decoration-break: clone; -webkit-box-decoration-break: clone">'
    '<b style="font-weight: normal">{text}</b> <sub style="font-size: 0.7em; vertical-align: middle; '
    'font-weight: bold">{label}</sub></mark>'
)
AGAIN = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} "  # before a line that repeats the sentence above it
BLACK = "#000000"  # cannot be told from the text
PALE = 0.55  # share of white in a background, so that black text stands out on it
PALETTE = [to_hex([PALE + (1 - PALE) * part for part in to_rgb(colour)]) for colour in COLOURS if colour != BLACK]
# The same thing has the same colour whatever a corpus calls it; other types take the colours that are left.
FIXED = {"GENE": 0, "PROTEIN": 0, "DISEASE": 1, "CHEMICAL": 2}


@dataclass(frozen=True)
class EntityView:
    """What a notebook shows: HTML where it can, else plain text. Both say the same.

    Attributes:
        html: one line for each sentence, or several where entities overlap.
        text: the same with names and types in brackets, "[Warfarin | CHEMICAL] is ...".
    """

    html: str = field(repr=False)
    text: str = field(repr=False)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def show_entities(
    sentences: Sentence | Iterable[Sentence], titles: Sequence[str] | None = None, types: Iterable[str] | None = None
) -> EntityView:
    """Sentences with their entities highlighted; make it the last line of a cell, `display` it, or `print` it.

    Where entities nest or cross, the sentence stands on several lines, the longest entities on the first; the further
    ones begin with an arrow. The pieces of a discontinuous entity are highlighted one by one and numbered:
    "Disease 1/2".

    Args:
        sentences: one, or several; whole abstracts will do.
        titles: a line above each sentence, for example its id, or who annotated it.
        types: the types to highlight; all if None.
    Raises:
        ValueError: not one title a sentence.
    """
    sentences = [sentences] if isinstance(sentences, Sentence) else list(sentences)
    if titles is not None and len(titles) != len(sentences):
        raise ValueError(f"{len(titles)} titles for {len(sentences)} sentences; give one title to each sentence")
    if types is not None:
        wanted = set(types)
        sentences = [one.with_entities(e for e in one.entities if e.type in wanted) for one in sentences]
    options = {"template": TEMPLATE, "colors": _colours({e.type for one in sentences for e in one.entities})}
    marked, plain = [], []
    for number, sentence in enumerate(sentences):
        if titles is not None:
            marked.append(f'<div style="margin-top: 0.6em"><b>{html.escape(titles[number])}</b></div>')
            plain.append(titles[number])
        for further, layer in enumerate(_layers(sentence)):
            lead = AGAIN if further else ""
            marked.append(_as_html(sentence.text, layer, options, lead))
            plain.append(lead + _as_text(sentence.text, layer))
    # The class keeps MathJax from reading a "$" as the start of a formula.
    page = '<div class="tex2jax_ignore">' + "\n".join(marked) + "</div>"
    return EntityView(page, "\n".join(plain))


def _colours(types: set[str]) -> dict[str, str]:
    """A background for each label that displaCy may meet."""
    taken = {FIXED[one.upper()] for one in types if one.upper() in FIXED}
    # The fixed colours come last, so that no other type looks like a gene as long as there are colours enough.
    free = sorted({*range(len(PALETTE))} - taken, key=lambda index: (index in FIXED.values(), index))
    others = sorted(one for one in types if one.upper() not in FIXED)
    index = {one: free[k % len(free)] for k, one in enumerate(others)}
    return {one: PALETTE[index.get(one, FIXED.get(one.upper()))] for one in types}


def _layers(sentence: Sentence) -> list[list[Entity]]:
    """The entities in groups without overlap: longest first, each in the first group with room. One group at least."""
    layers: list[list[Entity]] = [[]]
    for entity in sorted(sentence.entities, key=lambda entity: (entity.start - entity.end, entity)):
        layer = next((one for one in layers if not any(map(entity.overlaps, one))), None)
        if layer is None:
            layers.append(layer := [])
        layer.append(entity)
    return [sorted(layer) for layer in layers]


def _pieces(layer: list[Entity]) -> list[tuple[int, int, str, str]]:
    """(start, end, type, label) of every stretch to highlight, from left to right."""
    pieces = []
    for entity in layer:
        parts = entity.fragments or ((entity.start, entity.end),)
        for number, (start, end) in enumerate(parts, 1):
            label = entity.type if len(parts) == 1 else f"{entity.type} {number}/{len(parts)}"
            pieces.append((start, end, entity.type, label))
    return pieces


def _as_html(text: str, layer: list[Entity], options: dict, lead: str) -> str:
    entities = []
    for start, end, kind, label in _pieces(layer):
        # displaCy escapes the text but not the label, and looks the colour up by the label in capitals.
        look = {"label": html.escape(label), "bg": options["colors"][kind]}
        entities.append({"start": start + len(lead), "end": end + len(lead), "label": kind, "params": look})
    record = {"text": lead + text, "ents": entities}
    return displacy.render(record, style="ent", manual=True, jupyter=False, options=options)


def _as_text(text: str, layer: list[Entity]) -> str:
    parts, last = [], 0
    for start, end, _, label in _pieces(layer):
        parts += [text[last:start], f"[{text[start:end]} | {label}]"]
        last = end
    return "".join([*parts, text[last:]])
