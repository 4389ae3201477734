"""One tag a token (BIO, BIOES) and spans of tokens, in both directions; and what tags cannot say.

BIO (also IOB2): B- opens an entity, I- continues it, O is outside. BIOES adds E- for the last token of an entity and
S- for an entity of one token; BILOU, which writes L- and U- for these two, is read as BIOES. A span is (first token,
token behind the last, type).
"""

from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from utils.files import check_choice
from utils.ner.sentence import Entity, Sentence, Span

SCHEMES = {"BIO": ("B", "I"), "BIOES": ("B", "I", "E", "S")}
ON_LOSS = ("raise", "drop")


class TagError(ValueError):
    """A tag that is none, or one that cannot stand where it stands; `index` is its place in the sequence."""

    def __init__(self, index: int, problem: str, expected: str) -> None:
        super().__init__(f"tag {index}: {problem}; expected {expected}")
        self.index, self.problem, self.expected = index, problem, expected


class Loss(NamedTuple):
    """An entity that tags cannot hold, and why: "discontinuous", "misaligned" with the tokens, "nested", "crossing"."""

    entity: Entity
    reason: str


def tags_to_spans(tags: Sequence[str], scheme: str = "BIO", orphan: str = "repair") -> list[Span]:
    """The entities of a tag sequence, as spans of tokens in order.

    orphan: what becomes of a piece of an entity without a beginning (I- or E- after O or another type), and under BIOES
        without an end. "repair" takes it as an entity, as CoNLL's own scorer does; "drop" leaves it out, as strict
        scoring does (seqeval, `mode="strict"`); "refuse" raises.
    Raises TagError: a string that is no tag of the scheme, or an orphan when refused.
    """
    scheme = "BIOES" if scheme == "BILOU" else scheme
    check_choice("scheme", scheme, SCHEMES)
    check_choice("orphan", orphan, ("repair", "drop", "refuse"))
    pieces = [*(_split(i, tag, scheme) for i, tag in enumerate(tags)), ("O", "")]
    spans, start = [], 0
    for end, ((prefix, kind), (following, its_kind)) in enumerate(pairwise(pieces), 1):
        if prefix in ("B", "I") and following in ("I", "E") and kind == its_kind:
            continue  # the entity goes on
        problem = None
        if pieces[start][0] in ("I", "E"):
            problem = TagError(start, f"{tags[start]!r} continues nothing", f"B-{kind} or O")
        elif prefix in ("B", "I") and scheme == "BIOES":
            problem = TagError(end - 1, f"{tags[end - 1]!r} does not end its entity", f"E-{kind}")
        if problem and orphan == "refuse":
            raise problem
        if kind and (orphan == "repair" or not problem):
            spans.append((start, end, kind))
        start = end
    return spans


def _split(index: int, tag: str, scheme: str) -> tuple[str, str]:
    prefix, _, kind = tag.partition("-")
    prefix = {"L": "E", "U": "S"}.get(prefix, prefix) if scheme == "BIOES" else prefix
    if tag != "O" and (prefix not in SCHEMES[scheme] or not kind):
        forms = ", ".join(f"{letter}-TYPE" for letter in SCHEMES[scheme])
        raise TagError(index, f"{tag!r} is no {scheme} tag", f"O, {forms}")
    return prefix, kind


def spans_to_tags(spans: Iterable[Span], length: int, scheme: str = "BIO") -> list[str]:
    """One tag for each of `length` tokens. ValueError where two spans share a token or one is outside 0..length."""
    check_choice("scheme", scheme, SCHEMES)
    tags = ["O"] * length
    for start, end, kind in spans:
        if not 0 <= start < end <= length:
            raise ValueError(f"span ({start}, {end}, {kind!r}) is outside the {length} tokens")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"span ({start}, {end}, {kind!r}) shares a token with another span")
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
        if scheme == "BIOES":
            tags[end - 1] = f"S-{kind}" if end - start == 1 else f"E-{kind}"
    return tags


def convert_tags(tags: Sequence[str], source: str, target: str, orphan: str = "repair") -> list[str]:
    """Tags of one scheme in another; `orphan` as in `tags_to_spans`."""
    return spans_to_tags(tags_to_spans(tags, source, orphan), len(tags), target)


def from_tags(sentence: Sentence, tags: Sequence[str], scheme: str = "BIO", orphan: str = "repair") -> Sentence:
    """The sentence with the entities that its tags name, instead of those it has; not one tag a token: ValueError."""
    tokens = sentence.tokens
    if len(tags) != len(tokens):
        raise ValueError(f"{len(tags)} tags for the {len(tokens)} tokens of sentence {sentence.id!r}")
    spans = tags_to_spans(tags, scheme, orphan)
    return sentence.with_entities(Entity(tokens[i].start, tokens[j - 1].end, kind) for i, j, kind in spans)


def to_tags(sentence: Sentence, scheme: str = "BIO", on_loss: str = "raise") -> list[str]:
    """One tag a token. Of nested or crossing entities the longest is kept, of equals the first.

    on_loss: "raise" when an entity does not fit into tags, or "drop" it; `losses(sentence)` lists them.
    """
    return to_layers(sentence, 1, scheme, on_loss)[0]


def to_layers(sentence: Sentence, layers: int, scheme: str = "BIO", on_loss: str = "raise") -> list[list[str]]:
    """Several tag sequences that together hold nested entities, as `without_overlap` lays them; `on_loss` as above."""
    check_choice("on_loss", on_loss, ON_LOSS)
    if on_loss == "raise" and (lost := losses(sentence, layers)):
        some = f"{len(lost)} of {len(sentence.entities)} entities of sentence {sentence.id!r}"
        first = f'the first is {lost[0].entity.text!r}, {lost[0].reason}; use more layers, or on_loss="drop"'
        raise ValueError(f"{some} do not fit into {layers} layer(s) of tags; {first}")
    spans = token_spans(sentence)
    kept = [*without_overlap(spans), *[[]] * layers][:layers]
    return [spans_to_tags([spans[entity] for entity in layer], len(sentence.tokens), scheme) for layer in kept]


def losses(sentence: Sentence, layers: int = 1) -> list[Loss]:
    """The entities that so many layers of tags cannot hold."""
    spans = token_spans(sentence)
    kept = {entity for layer in without_overlap(spans)[:layers] for entity in layer}
    lost = []
    for entity in sentence.entities:
        if entity not in spans:
            lost.append(Loss(entity, "discontinuous" if entity.fragments else "misaligned"))
        elif entity not in kept:
            inside = any(other.start <= entity.start and entity.end <= other.end for other in kept)
            lost.append(Loss(entity, "nested" if inside else "crossing"))
    return lost


def lost_to_tags(sentences: Iterable[Sentence], layers: int = 1) -> Counter[str]:
    """How many entities so many layers of tags cannot hold, by reason (see `Loss`)."""
    return Counter(loss.reason for sentence in sentences for loss in losses(sentence, layers))


def at_token_edges(sentence: Sentence) -> Sentence:
    """The sentence with each entity, or piece of one, widened to the tokens it touches, if any."""
    starts, ends = [token.start for token in sentence.tokens], [token.end for token in sentence.tokens]
    moved = []
    for entity in sentence.entities:
        spans = [(bisect(ends, start), bisect_left(starts, end)) for start, end in entity.pieces]
        if touched := sorted({i for span in spans for i in range(*span)}):
            pieces = tuple((starts[i], ends[i]) for i in touched) if entity.fragments else ()
            entity = replace(entity, start=starts[touched[0]], end=ends[touched[-1]], text="", fragments=pieces)
        moved.append(entity)
    return sentence.with_entities(moved)


def token_spans(sentence: Sentence) -> dict[Entity, Span]:
    """Each entity in one piece that begins and ends where tokens do, as a span of tokens."""
    starts = {token.start: i for i, token in enumerate(sentence.tokens)}
    ends = {token.end: i + 1 for i, token in enumerate(sentence.tokens)}
    return {
        entity: (starts[entity.start], ends[entity.end], entity.type)
        for entity in sentence.entities
        if entity.start in starts and entity.end in ends and not entity.fragments
    }


def without_overlap(entities: Iterable[Entity]) -> list[list[Entity]]:
    """The entities, longest first, each in the first layer where it overlaps none; a layer goes from left to right."""
    layers: list[list[Entity]] = []
    for entity in sorted(entities, key=lambda entity: (entity.start - entity.end, entity)):
        for layer in layers:
            place = bisect(layer, entity)
            if not any(map(entity.overlaps, layer[max(place - 1, 0) : place + 1])):
                layer.insert(place, entity)
                break
        else:
            layers.append([entity])
    return layers
