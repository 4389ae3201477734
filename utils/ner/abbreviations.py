"""Abbreviations that a text defines itself: "familial adenomatous polyposis (FAP)".

The algorithm of Schwartz & Hearst 2003, "A simple algorithm for identifying abbreviation definitions in biomedical
text", Pacific Symposium on Biocomputing 8:451-462. Beyond the paper: character offsets, square brackets, and texts
whose tokens are divided by spaces ("adenomatous polyposis coli ( APC )").
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

CLOSING = {")": "(", "]": "["}
QUOTES = "\"'“”‘’"
ROMAN = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"]
# Three letters or digits before the mark, so that "St. Louis" and "vs. Placebo" stay in one piece.
SENTENCE_END = re.compile(r"(?<=\w\w\w)\s?[.?!]\s+(?=[A-Z])")
# Between white space, with a letter or digit in it; what has none is read once and not from each of its characters.
WORD = re.compile(r"(?<!\S)[^\w\s]*\w\S*")
REACH = 2000  # characters before a bracket and in it that are looked at; so that long texts take time in proportion
BESIDE = 5  # brackets side by side that a long form may stand before; likewise
LONGEST = 10  # characters but white space in a short form


class Abbreviation(NamedTuple):
    """`short`, text[short_start:short_end], is defined to stand for `long`, text[long_start:long_end]."""

    short_start: int
    short_end: int
    long_start: int
    long_end: int
    short: str
    long: str


def find_abbreviations(text: str) -> list[Abbreviation]:
    """The definitions in a text (a sentence or an abstract), in the order of their short forms.

    "long form (SF)" comes first. Where the bracket cannot hold a short form, "SF (long form)" is tried: SF is the word
    before the bracket, with a capital letter; the long form begins where the bracket does. A semicolon ends what is
    read in a bracket, as in "(FAP; OMIM 175100)", and behind a short form a comma does, too.
    """
    found = []
    for opening, start, end, floor in _brackets(text):
        end = min(end, start + REACH)
        content = re.split(r"\s?;\s", text[start:end], maxsplit=1)[0].rstrip()
        head = re.split(r"\s?,\s", content, maxsplit=1)[0].rstrip()
        # In "5'" the prime at the end is no quote.
        first, last = _strip(text, start, start + len(head), QUOTES if head[:1] in QUOTES else "")
        if not is_short_form(text[first:last]):
            found.append(_defined_inside(text, opening, start, start + len(content), floor))
        elif not _counts(text[first:last], text[max(0, opening - REACH) : end + REACH]):
            found.append(_defined_before(text, opening, first, last, floor))
    return sorted(filter(None, found))


def _counts(short: str, around: str) -> bool:
    """Whether "(iv)" numbers a part of a list, with "(iii)" or "(v)" around it, and stands for nothing."""
    place = ROMAN.index(short.lower()) if short.lower() in ROMAN else 0
    beside = "|".join(ROMAN[place - 1 : place] + ROMAN[place + 1 : place + 2])
    return place > 0 and bool(re.search(rf"[(\[]\s?({beside})\s?[)\]]", around, re.I))


def is_short_form(short: str) -> bool:
    """Whether this can be an abbreviation: one or two words, 2 to 10 characters but white space, of which the first is
    a letter or digit and any a letter. Beside a hyphen or slash white space divides no words: "IL - 2" is one."""
    fits = 2 <= len("".join(short.split())) <= LONGEST and len(re.findall(r"\w\s+(?=\w)", short)) <= 1
    return fits and short[0].isalnum() and any(map(str.isalpha, short))


def match_long_form(short: str, before: str) -> int | None:
    """Where in `before` the long form of `short` begins; it goes on to the end of `before`. None if there is none.

    From right to left, each letter or digit of the short form takes the nearest equal one, upper and lower case alike;
    the first must also begin a word. The long form then begins with the white-space word of that place.
    """
    place, wanted = len(before), [letter.lower() for letter in short if letter.isalnum()]
    while wanted and place > 0:
        place -= 1
        inside_word = place > 0 and before[place - 1].isalnum()
        if before[place].lower() == wanted[-1] and not (len(wanted) == 1 and inside_word):
            wanted.pop()
    if wanted or place == len(before):
        return None
    return place - len(re.split(r"\s", before[:place])[-1])


def _brackets(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Of brackets behind white space: opening, start and end of the content, and where the bracket around begins."""
    around: list[int] = []
    for place, letter in enumerate(text):
        if letter in CLOSING.values():
            around.append(place)
        elif letter in CLOSING and around and text[around[-1]] == CLOSING[letter]:
            opening = around.pop()
            start, end = _strip(text, opening + 1, place)
            if start < end and opening and text[opening - 1].isspace():
                yield opening, start, end, around[-1] + 1 if around else 0


def _strip(text: str, start: int, end: int, more: str = "") -> tuple[int, int]:
    """The same stretch without white space, and without the characters `more`, at its ends."""
    while start < end and (text[start].isspace() or text[start] in more):
        start += 1
    while start < end and (text[end - 1].isspace() or text[end - 1] in more):
        end -= 1
    return start, end


def _most_words(short: str) -> int:
    """How many words a long form may have: min(|A| + 5, 2 |A|), where |A| letters and digits are in the short form."""
    length = sum(map(str.isalnum, short))
    return min(length + 5, 2 * length)


def _defined_before(text: str, opening: int, start: int, end: int, floor: int, past: int = 0) -> Abbreviation | None:
    """The short form is text[start:end], in the bracket; the long form ends before the bracket opens."""
    floor, stop = _strip(text, max(floor, opening - REACH), opening, QUOTES)
    floor = max([floor, *(match.end() for match in SENTENCE_END.finditer(text, floor, stop))])
    words = [floor + match.start() for match in WORD.finditer(text[floor:stop])][-_most_words(text[start:end]) :]
    first = words[0] if words else stop
    place = match_long_form(text[start:end], text[first:stop])
    if place is None:
        return None
    beside = re.search(r"[(\[][^()\[\]]*[)\]]$", text[first:stop])
    if beside and place >= beside.start():  # in "interleukin 2 (IL-2) [IL2]" it ends before both brackets
        return _defined_before(text, first + beside.start(), start, end, floor, past + 1) if past < BESIDE else None
    return _checked(text, start, end, first + place, stop)


def _defined_inside(text: str, opening: int, start: int, end: int, floor: int) -> Abbreviation | None:
    """The long form is text[start:end], in the bracket; the short form is the word before it."""
    floor = max(floor, opening - REACH)
    word = re.search(r"(?<!\S)\S*\s*$", text[floor:opening])
    first, last = _strip(text, floor + word.start(), opening, QUOTES if word[0][:1] in QUOTES else "")
    short, long = text[first:last], text[start:end]
    fits = is_short_form(short) and any(map(str.isupper, short)) and len(WORD.findall(long)) <= _most_words(short)
    if not fits or match_long_form(short, long) != 0:
        return None
    return _checked(text, first, last, start, end)


def _checked(text: str, short_start: int, short_end: int, long_start: int, long_end: int) -> Abbreviation | None:
    """None where the long form is no longer than the short one, or has it among its words."""
    long_start, long_end = _strip(text, long_start, long_end, QUOTES)
    short, long = text[short_start:short_end], text[long_start:long_end]
    if len(long) <= len(short) or re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long):
        return None
    return Abbreviation(short_start, short_end, long_start, long_end, short, long)
