"""Rules that mend what a tagger got wrong: each takes sentences and gives the same ones with mended entities."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from utils.ner.abbreviations import find_abbreviations
from utils.ner.sentence import Entity, Sentence, Token
from utils.ner.words import check_choice

PAIRS = {")": "(", "]": "[", "}": "{"}
PARTNERS = PAIRS | {opening: closing for closing, opening in PAIRS.items()}
SHORT = re.compile(r"[^\W_]*[A-Z0-9][^\W_]*")  # a word with a capital or digit: an abbreviation or symbol


def documents_of(sentences: Sequence[Sentence]) -> list[str | int]:
    """For each sentence its document, or, where that is not known, its place: it is a document by itself."""
    return [sentence.document or place for place, sentence in enumerate(sentences)]


def repair_brackets(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Every bracket in an entity has its partner there: it is widened by a token that is the missing one, or else cut
    behind the last that has no opening one and before the first that has no closing one. What is empty is dropped."""
    return [s.with_entities(filter(None, (_balanced(s, entity) for entity in s.entities))) for s in sentences]


def _balanced(sentence: Sentence, entity: Entity) -> Entity | None:
    start, end = entity.start, entity.end
    closing, opening = _unmatched(sentence.text[start:end])
    if entity.fragments or not closing + opening:
        return entity
    if len(closing + opening) == 1:
        lone = sentence.text[start + (closing + opening)[0]]
        before = [token for token in sentence.tokens if token.end <= start][-1:]
        after = [token for token in sentence.tokens if token.start >= end][:1]
        for token in before if closing else after:
            if token.text == PARTNERS[lone]:
                return Entity(min(start, token.start), max(end, token.end), entity.type)
    if opening:
        end = start + opening[0]
    if closing:
        start += closing[-1] + 1
    # Once more, since a bracket that was cut away may have had its partner in what is left: "( ] ) a".
    return _balanced(sentence, Entity(start, end, entity.type)) if sentence.text[start:end].strip() else None


def _unmatched(text: str) -> tuple[list[int], list[int]]:
    """Places of closing brackets without an opening one, and of opening ones without a closing one."""
    opened, closing = [], []
    for place, letter in enumerate(text):
        if letter in PAIRS.values():
            opened.append(place)
        elif letter in PAIRS and opened and text[opened[-1]] == PAIRS[letter]:
            opened.pop()
        elif letter in PAIRS:
            closing.append(place)
    return closing, opened


def agree_on_abbreviations(sentences: Sequence[Sentence]) -> list[Sentence]:
    """The short and the long form of a definition get the same decision, and so does the short form later on.

    The long form decides, as it has more words to judge by. Where it is marked up to its end, the short form is marked
    with its type in all sentences of the document, whatever it or a part of it was taken for; where no token of it is
    marked, the short form is not marked either. All else, and what is longer than a short form, stays as it was.
    """
    found: dict[str | int, dict[str, str]] = defaultdict(dict)  # document: short form: type, or "" for none
    documents = documents_of(sentences)
    for sentence, document in zip(sentences, documents):
        for pair in find_abbreviations(sentence.text):
            inside = [e for e in sentence.entities if e.start < pair.long_end and pair.long_start < e.end]
            whole = [entity for entity in inside if entity.end == pair.long_end]
            if whole or not inside:
                found[document].setdefault(pair.short, whole[-1].type if whole else "")
    return [_with_short_forms(sentence, found.get(document, {})) for sentence, document in zip(sentences, documents)]


def _with_short_forms(sentence: Sentence, kinds: dict[str, str]) -> Sentence:
    entities = list(sentence.entities)
    starts, ends = {token.start for token in sentence.tokens}, {token.end for token in sentence.tokens}
    for short, kind in kinds.items():
        for start, end in (match.span() for match in re.finditer(re.escape(short), sentence.text)):
            others = [entity for entity in entities if entity.start < start or end < entity.end]
            if start in starts and end in ends and all(e.end <= start or end <= e.start for e in others):
                right = [entity for entity in entities if entity.span == (start, end, kind)]
                entities = others + (right or [Entity(start, end, kind)] if kind else [])
    return sentence.with_entities(entities)


def one_sense(sentences: Sequence[Sentence]) -> list[Sentence]:
    """A symbol, a word with a capital letter or a digit, is in all of a document what it was mostly taken for (Gale,
    Church & Yarowsky 1992). Inside longer entities it is left alone and does not count; ties leave all as it was."""
    votes: dict[str | int, dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
    documents = documents_of(sentences)
    for sentence, document in zip(sentences, documents):
        for token, kind in _symbols(sentence):
            votes[document][token.text][kind] += 1
    return [_with_one_sense(sentence, votes[document]) for sentence, document in zip(sentences, documents)]


def _symbols(sentence: Sentence) -> list[tuple[Token, str]]:
    """Each token that is a symbol and not part of a longer entity, with its type or ""."""
    marked = {(entity.start, entity.end): entity.type for entity in sentence.entities}
    found = []
    for token in sentence.tokens:
        alone = token[:2] in marked or not any(entity.overlaps(token) for entity in sentence.entities)
        if alone and SHORT.fullmatch(token.text):
            found.append((token, marked.get(token[:2], "")))
    return found


def _with_one_sense(sentence: Sentence, votes: dict[str, Counter]) -> Sentence:
    entities = list(sentence.entities)
    for token, kind in _symbols(sentence):
        ranked = votes[token.text].most_common(2)
        if ranked[0][0] != kind and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]):
            entities = [entity for entity in entities if (entity.start, entity.end) != token[:2]]
            entities += [Entity(*token[:2], ranked[0][0])] if ranked[0][0] else []
    return sentence.with_entities(entities)


STEPS = {"brackets": repair_brackets, "abbreviations": agree_on_abbreviations, "one-sense": one_sense}


def postprocess(sentences: Sequence[Sentence], steps: Iterable[str]) -> list[Sentence]:
    """The rules one after the other. Raises ValueError for an unknown one; the message lists the known ones."""
    for step in steps:
        check_choice("step", step, STEPS)
        sentences = STEPS[step](sentences)
    return list(sentences)
