"""Exercises of notebook 10, preprocessing. The checks use small texts and properties that any right answer has."""

import re

from utils.course.exercises import Wrong, exercise
from utils.ner.abbreviations import match_long_form
from utils.ner.words import GREEK


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 90 else text[:87] + "..."


# -- 10.1 ------------------------------------------------------------------------------------------


ALIGNED = [
    ("IL-2 binds IL-2R.", ["IL", "-", "2", "binds", "IL", "-", "2R", "."]),
    ("  p53-/-  mice\n", ["p53", "-", "/", "-", "mice"]),
    ("a aa a\u00a0aaa", ["a", "aa", "a", "aaa"]),
    ("", []),
]
NOT_ALIGNED = [
    ("IL-2 and IL-3", ["IL", "-", "3"], "between '-' and '3' stands '2 and IL-', which would be lost"),
    ("the gene", ["gene"], "'the' stands before the first word and was passed over"),
    ("p53", ["p53", "-"], "the text has ended before the word '-'"),
]


def check_align_words(function) -> None:
    for text, words in ALIGNED:
        spans = function(text, list(words))
        if not isinstance(spans, (list, tuple)) or len(spans) != len(words):
            raise Wrong(f"{len(words)} words of {text!r} need {len(words)} pairs (start, end); got {_show(spans)}")
        last = 0
        for word, span in zip(words, spans):
            start, end = span
            if text[start:end] != word:
                raise Wrong(f"{text!r}: {start}:{end} is {text[start:end]!r}, not {word!r}")
            if start < last:
                raise Wrong(f"{text!r}: {word!r} at {start} begins before the last word ends; search on from there")
            if text[last:start].strip():
                raise Wrong(f"{text!r}: {text[last:start].strip()!r} between two words got lost")
            last = end
    for text, words, reason in NOT_ALIGNED:
        try:
            spans = function(text, list(words))
        except ValueError as error:
            if not any(word in str(error) for word in words):
                raise Wrong(f"the message of the ValueError should name the word; it is {str(error)!r}") from error
            continue
        raise Wrong(f"{text!r} with {words} should raise ValueError ({reason}); got {_show(spans)}")


@exercise(
    "10.1",
    "where are the words?",
    check_align_words,
    hints=[
        "Keep one number, the place where the last word ended, and go on from there.",
        "Skip white space, and nothing else: text.find(word, place) would jump over text that belongs to no word.",
        "text.startswith(word, place) says whether the word is there.",
    ],
)
def align_words(text, words):
    spans, place = [], 0
    for word in words:
        # Between two words stands white space only: anything else would be lost.
        while place < len(text) and text[place].isspace():
            place += 1
        if not text.startswith(word, place):
            raise ValueError(f"word {word!r} is not at {place}: {text[place:][:20]!r}")
        spans.append((place, place + len(word)))
        place += len(word)
    return spans


# -- 10.2 ------------------------------------------------------------------------------------------


VOCABULARY = {"a", "am", "amino", "##i", "##ino", "##no", "phe", "##phe", "##nol", "##n", "##ol", "in", "##in", "##o"}
SPELLED = {
    "amino": ["amino"],
    "aminophenol": ["amino", "##phe", "##nol"],
    "amin": ["am", "##in"],
    "ino": ["in", "##o"],
    "phenol": ["phe", "##nol"],
    "aminox": ["[UNK]"],
    "xamino": ["[UNK]"],
    "nol": ["[UNK]"],
}


def check_spell(function) -> None:
    for word, expected in SPELLED.items():
        seen = list(function(word, set(VOCABULARY)))
        if seen == expected:
            continue
        if seen == ["[UNK]"]:
            raise Wrong(f"{word!r} can be spelt with this vocabulary: {expected}; got ['[UNK]']")
        joined = "".join(piece.removeprefix("##") for piece in seen)
        if expected == ["[UNK]"]:
            why = "'nol' is in it only as '##nol', inside a word" if word == "nol" else "some rest has no piece"
            raise Wrong(f"{word!r} cannot be spelt with this vocabulary ({why}), so it is ['[UNK]']; got {seen}")
        if any(not piece.startswith("##") for piece in seen[1:]):
            raise Wrong(f"{word!r}: every piece but the first carries ##; got {seen}")
        if any(piece not in VOCABULARY for piece in seen):
            raise Wrong(f"{word!r}: not all of {seen} are in the vocabulary")
        if joined != word:
            raise Wrong(f"the pieces of {word!r} join to {joined!r}")
        raise Wrong(f"{word!r} should be {expected}, the longest piece first; got {seen}")


@exercise(
    "10.2",
    "spelling by WordPiece",
    check_spell,
    hints=[
        "From each place try the longest end first: end = len(word), len(word) - 1, ...",
        "A piece that does not begin the word is looked up with ## before it, and so is in another place of the "
        "vocabulary than the same letters at the beginning.",
        'If no end fits, return ["[UNK]"] at once, whatever was found before.',
    ],
)
def spell(word, vocabulary):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        lengths = range(len(word), start, -1)
        end = next((end for end in lengths if mark + word[start:end] in vocabulary), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


# -- 10.3 ------------------------------------------------------------------------------------------


LOWERED = ["IL-2Rα", "İL-2 binds İ", "", "ΟΔΟΣ NF-ΚB", "e\u0301 E\u0301", "Straße"]


def check_lower(function) -> None:
    for text in LOWERED:
        answer = function(text)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Wrong(f"expected the text and a list of indices; got {_show(answer)}")
        lowered, origin = answer[0], list(answer[1])
        if lowered != text.lower():
            hint = "; a capital sigma at the end of a word becomes ς, so lower the whole text" if "Σ" in text else ""
            raise Wrong(f"{text!r} in lower case is {text.lower()!r}, got {lowered!r}{hint}")
        if len(origin) != len(lowered):
            raise Wrong(f"{text!r}: {len(lowered)} characters in lower case, but {len(origin)} indices")
        expected = [k for k, letter in enumerate(text) for _ in letter.lower()]
        if origin != expected:
            place = next(k for k in range(len(origin)) if origin[k] != expected[k])
            raise Wrong(
                f"{text!r}: character {place} of the lower-cased text, {lowered[place]!r}, came from index "
                f"{expected[place]}, got {origin[place]}"
            )


@exercise(
    "10.3",
    "lower case that keeps offsets",
    check_lower,
    hints=[
        "For each letter, how many characters does letter.lower() have? So often its index is repeated.",
        "[k for k, letter in enumerate(text) for _ in letter.lower()] is the list of indices.",
        'Lower the whole text for the first result: "ΟΔΟΣ".lower() ends in ς, which "Σ".lower() does not give.',
    ],
)
def lower_with_origin(text):
    # Only a Greek capital sigma looks at its neighbours: at a word's end it becomes another
    # letter. One letter either way, so the lengths of the single letters are right.
    origin = [k for k, letter in enumerate(text) for _ in letter.lower()]
    return text.lower(), origin


# -- 10.4 ------------------------------------------------------------------------------------------


GREEK_CASES = [
    ("TGF-β", "the transforming growth factor beta", 4),
    ("TGF-beta", "the transforming growth factor β", 4),
    ("TGF-β", "the transforming growth factor-β", 4),
    ("GSK-3β", "α, β or γ glycogen synthase kinase 3β", 10),
    ("Aβ", "deposits of αβγ and amyloid-β", 20),
    ("β2AR", "the β2-adrenergic receptor", 4),
    ("IFN-γ", "βββ interferon gamma", 4),
    ("HSP", "the heat shock protein", 4),
    ("TGF-β", "alpha and transforming growth factor beta", 10),
    ("TNF-α", "mutants and tumour necrosis factor alpha", 12),
    ("PI", "the protein inhibitor", 4),
    ("TGF-β", "the transforming growth factor alpha", None),
    ("XY", "α", None),
]


def check_greek_long_form(function) -> None:
    for short, before, expected in GREEK_CASES:
        seen = function(short, before)
        if seen == expected:
            continue
        if expected is None:
            raise Wrong(f"{short!r} does not stand for {before!r}; expected None, got {seen!r}")
        if seen is None:
            why = "; these two letters are not the name of π" if short == "PI" else ""
            raise Wrong(f"{short!r} stands for {before[expected:]!r}; got None{why}")
        why = _moved(before, expected)
        raise Wrong(f"the long form of {short!r} in {before!r} begins at {expected}, got {seen!r}{why}")


def _moved(before: str, expected: int) -> str:
    """What may have moved an offset: what stands before the long form and changes its length when it is replaced."""
    if spelt := len(re.findall("[α-ω]", before[:expected])):
        return f"; {spelt} Greek letters stand before it: is this an offset in the spelt-out text?"
    if name := re.search("alpha|mu", before[:expected]):
        return f"; {name[0]!r} stands before it: is this an offset in a text with names replaced by letters?"
    return ""


@exercise(
    "10.4",
    "a Greek letter and its name",
    check_greek_long_form,
    hints=[
        "Spell out every Greek letter on both sides, then match_long_form does the rest.",
        "What it returns counts characters of the spelt-out text. Build, beside that text, a list that has for "
        "each of its characters the index in `before`.",
        "GREEK.get(letter.lower(), letter) spells one letter; its index is repeated len(part) times.",
    ],
)
def greek_long_form(short, before):
    spelt, origin = "", []
    for k, letter in enumerate(before):
        part = GREEK.get(letter.lower(), letter)
        spelt += part
        origin += [k] * len(part)
    # The name "beta" in the short form is then asked for letter by letter; harmless, for it
    # now stands in the long form letter by letter too.
    spelt_short = "".join(GREEK.get(letter.lower(), letter) for letter in short)
    start = match_long_form(spelt_short, spelt)
    return None if start is None else origin[start]
