"""Rules that mend what a tagger got wrong: each takes sentences and gives the same ones with mended entities."""

import re
from bisect import bisect, bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter

from utils.files import check_choice
from utils.ner.abbreviations import LONGEST, find_abbreviations
from utils.ner.sentence import Entity, Sentence, Token

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
        lone, tokens = sentence.text[start + (closing + opening)[0]], sentence.tokens
        before = bisect(tokens, start, key=attrgetter("end")) - 1
        beside = before if closing else bisect_left(tokens, end, key=attrgetter("start"))
        for token in tokens[beside : beside + 1]:
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
        over, types = _entities_over(sentence), {entity.end: entity.type for entity in sentence.entities}
        for pair in find_abbreviations(sentence.text):
            kind = types.get(pair.long_end, "")
            if kind or over.keys().isdisjoint(range(pair.long_start, pair.long_end)):
                found[document].setdefault(pair.short, kind)
    return [_with_short_forms(sentence, found[document]) for sentence, document in zip(sentences, documents)]


def _with_short_forms(sentence: Sentence, kinds: dict[str, str]) -> Sentence:
    over, places = _entities_over(sentence), defaultdict(list)  # where each run of tokens stands, from left to right
    for i, first in enumerate(sentence.tokens if kinds else ()):
        for last in sentence.tokens[i : i + LONGEST]:
            places[sentence.text[first.start : last.end]].append((first.start, last.end))
    for short, kind in kinds.items():
        for start, end in places[short]:
            touched = {entity for place in range(start, end) for entity in over[place]}
            if all(start <= entity.start and entity.end <= end for entity in touched):  # none is longer, or crosses
                right = [entity for entity in touched if entity.span == (start, end, kind)]
                marked = (right or [Entity(start, end, kind)]) if kind else []
                over.update(dict.fromkeys(range(start, end), marked))
    return sentence.with_entities(dict.fromkeys(entity for entities in over.values() for entity in entities))


def _entities_over(sentence: Sentence) -> dict[int, list[Entity]]:
    """The entities over each character that has any."""
    over: dict[int, list[Entity]] = defaultdict(list)
    for entity in sentence.entities:
        for place in range(entity.start, entity.end):
            over[place].append(entity)
    return over


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
    over, found = _entities_over(sentence), []
    for token in sentence.tokens:
        alone = token[:2] in marked or over.keys().isdisjoint(range(*token[:2]))
        if alone and SHORT.fullmatch(token.text):
            found.append((token, marked.get(token[:2], "")))
    return found


def _with_one_sense(sentence: Sentence, votes: dict[str, Counter]) -> Sentence:
    changed = {}
    for token, kind in _symbols(sentence):
        ranked = votes[token.text].most_common(2)
        if ranked[0][0] != kind and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]):
            changed[token[:2]] = ranked[0][0]
    kept = [entity for entity in sentence.entities if (entity.start, entity.end) not in changed]
    return sentence.with_entities([*kept, *(Entity(*place, kind) for place, kind in changed.items() if kind)])


STEPS = {"brackets": repair_brackets, "abbreviations": agree_on_abbreviations, "one-sense": one_sense}


def postprocess(sentences: Sequence[Sentence], steps: Iterable[str]) -> list[Sentence]:
    """The rules one after the other. Raises ValueError for an unknown one; the message lists the known ones."""
    for step in steps:
        check_choice("step", step, STEPS)
        sentences = STEPS[step](sentences)
    return list(sentences)
