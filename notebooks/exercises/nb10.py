"""Exercises of notebook 10, preprocessing. The checks use small texts and properties that any right answer has."""

import random
import re
from collections.abc import Callable
from typing import Any

from utils.course.exercises import Wrong, exercise
from utils.ner.abbreviations import match_long_form
from utils.ner.words import GREEK


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 90 else text[:87] + "..."


def _is_offset(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


# -- 10.1 ------------------------------------------------------------------------------------------


ALIGNED = [
    ("the gene", ["the", "gene"]),
    ("IL-2 binds IL-2R.", ["IL", "-", "2", "binds", "IL", "-", "2R", "."]),
    ("  p53-/-  mice\n", ["p53", "-", "/", "-", "mice"]),
    ("a aa a\u00a0aaa\t\na", ["a", "aa", "a", "aaa", "a"]),
    ("1.5 (mg/kg) [a+b]*", ["1.5", "(", "mg", "/", "kg", ")", "[", "a+b", "]", "*"]),
    ("Straße", ["Straße"]),
    ("", []),
    (" \n", []),
]
NOT_ALIGNED = [
    ("IL-2 and IL-3", ["IL", "-", "3"], "between '-' and '3' stands '2 and IL-', which would be lost"),
    ("the gene", ["gene"], "'the' stands before the first word and was passed over"),
    ("the gene", ["the", "mouse"], "'mouse' is not in the text"),
    ("The gene", ["the"], "'The' has a capital"),
    ("p53", ["p53", "-"], "the text has ended before the word '-'"),
]


def check_align_words(function: Callable) -> None:
    for text, words in ALIGNED:
        try:
            spans = function(text, list(words))
        except ValueError as error:
            raise Wrong(
                f"every one of {words} is in {text!r}, with white space only between them (also tabs, line ends and "
                f"no-break spaces); your function raises ValueError: {error}"
            ) from error
        _check_spans(text, words, spans)
    for text, words, reason in NOT_ALIGNED:
        must = f"{text!r} with {words} should raise ValueError ({reason})"
        try:
            spans = function(text, list(words))
        except ValueError as error:
            if not any(word in str(error) for word in words):
                raise Wrong(f"the message of the ValueError should name the word; it is {str(error)!r}") from error
            continue
        except (IndexError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise Wrong(f"{must}; your function raises {type(error).__name__}") from error
        raise Wrong(f"{must}; got {_show(spans)}")


def _check_spans(text: str, words: list[str], spans: Any) -> None:
    if not isinstance(spans, (list, tuple)) or len(spans) != len(words):
        raise Wrong(f"{len(words)} words of {text!r} need {len(words)} pairs (start, end); got {_show(spans)}")
    last = 0
    for word, span in zip(words, spans):
        if not isinstance(span, (list, tuple)) or len(span) != 2 or not all(map(_is_offset, span)):
            raise Wrong(f"{text!r}: {word!r} needs a pair (start, end) of whole numbers; got {_show(span)}")
        start, end = span
        if start < last:
            raise Wrong(f"{text!r}: {word!r} at {start} begins before the last word ends; search on from there")
        if text[start:end] != word:
            raise Wrong(f"{text!r}: {start}:{end} is {text[start:end]!r}, not {word!r}{_end_meant(text, word, span)}")
        if text[last:start].strip():
            raise Wrong(f"{text!r}: {text[last:start].strip()!r} between two words got lost")
        last = end


def _end_meant(text: str, word: str, span: Any) -> str:
    start, end = span
    if text[start : end + 1] == word:
        return "; the end is the place behind the last character"
    return "; the second number is an end, not a length" if text[start : start + end] == word else ""


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
VOCABULARY |= {"##inol", "#", "x", "##-"}
SPELLED = {
    "amino": ["amino"],
    "aminophenol": ["amino", "##phe", "##nol"],
    "amin": ["am", "##in"],
    "ino": ["in", "##o"],
    "phenol": ["phe", "##nol"],
    "#-a": ["[UNK]"],
    "#": ["#"],
    "aminox": ["[UNK]"],
    "xamino": ["[UNK]"],
    "nol": ["[UNK]"],
    "aminol": ["[UNK]"],  # am ##inol would do, but the longest piece is amino, and no ##l is there
}
UNKNOWN = {
    "nol": "'nol' is in it only as '##nol', inside a word",
    "aminol": "the longest piece is 'amino', for the rest there is none, and no shorter piece is tried again",
}


def check_spell(function: Callable) -> None:
    for word, expected in SPELLED.items():
        seen = function(word, set(VOCABULARY))
        if not isinstance(seen, (list, tuple)) or not all(isinstance(piece, str) for piece in seen):
            raise Wrong(f"{word!r} should give a list of pieces such as {expected}; got {_show(seen)}")
        seen = list(seen)
        if seen == expected:
            continue
        if seen == ["[UNK]"]:
            raise Wrong(f"{word!r} can be spelt with this vocabulary, the longest piece first: {expected}; got {seen}")
        if expected == ["[UNK]"]:
            why = UNKNOWN.get(word, "some rest has no piece")
            raise Wrong(f"{word!r} cannot be spelt with this vocabulary ({why}), so it is ['[UNK]']; got {seen}")
        if any(not piece.startswith("##") for piece in seen[1:]):
            raise Wrong(f"{word!r}: every piece but the first carries ##; got {seen}")
        if any(piece not in VOCABULARY for piece in seen):
            raise Wrong(f"{word!r}: not all of {seen} are in the vocabulary")
        joined = "".join(piece.removeprefix("##") for piece in seen)
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


NEAREST = "go from right to left; each letter takes the nearest equal one"
INSIDE = "the first letter must begin a word, and the c's of 'success' do not"
# (short form, text before the bracket, where the long form begins, what another answer shows).
MATCHES: list[tuple[str, str, int | None, dict[Any, str]]] = [
    ("hsp", "the heat shock protein", 4, {}),  # what nearly any answer finds comes first
    ("FAP", "patients with familial adenomatous polyposis", 14, {None: "upper and lower case are alike"}),
    ("AA", "an amino acid", 3, {0: NEAREST, 9: "both letters took the same a; after a match go on to its left"}),
    ("GM", "a gene of the genome", 14, {2: NEAREST, None: "only the first letter must begin a word"}),
    ("TK", "thymidine kinase", 0, {None: "0 is an offset, too; ask `is None`"}),
    ("MRNA", "the messenger ribonucleic acid", 4, {None: "only the first letter must begin a word"}),
    ("IL-2", "the growth factor interleukin 2", 18, {None: "the hyphen of the short form asks for nothing"}),
    ("IL2", "interleukin 4", None, {0: "the digit 2 is not there: digits are asked for like letters"}),
    (
        "HL",
        "a non-Hodgkin lymphoma",
        2,
        {6: "the long form begins with the white-space word, 'non-Hodgkin'", None: "behind a hyphen a word begins too"},
    ),
    (
        "CS",
        "a Cockayne syndrome of success",
        2,
        {None: "the first letter goes on to the left until a c begins a word", 23: INSIDE, 26: INSIDE},
    ),
    (
        "TT",
        "tetanus toxin at night",
        8,
        {0: NEAREST, 14: "the first letter must begin a word, and the t of 'at' does not"},
    ),
    ("HL", "a\nnon-Hodgkin lymphoma", 2, {0: "a line end is white space, too"}),
    ("RA", "the βreceptor agonist", None, {4: "β is a letter, so no word begins behind it"}),
    ("DM", "congenital myotonic dystrophy", None, {}),
    ("PK", "", None, {}),
    ("ab", "b a", None, {2: "the letters of the short form stand in its order in the long form"}),
]


def check_long_form_start(function: Callable) -> None:
    for short, before, expected, reasons in MATCHES:
        _check_start(function(short, before), short, before, expected, reasons)
    # Any letters: what is right there is decided by the rule alone.
    generator = random.Random(0)
    for _ in range(300):
        short = "".join(generator.choices("abAB1-", k=generator.randint(1, 4)))
        before = "".join(generator.choices("abAB1 -(", k=generator.randint(0, 12)))
        if any(map(str.isalnum, short)):
            _check_start(function(short, before), short, before, match_long_form(short, before), {})


def _check_start(seen: Any, short: str, before: str, expected: int | None, reasons: dict[Any, str]) -> None:
    if seen is not None and not _is_offset(seen):
        hint = "; return its offset, before[start:] is the long form" if isinstance(seen, str) else ""
        raise Wrong(f"expected an offset in `before`, an int, or None; got {_show(seen)}{hint}")
    if seen == expected:
        return
    why = f"; {reasons[seen]}" if reasons.get(seen) else ""
    if expected is None:
        raise Wrong(f"{short!r} has no long form in {before!r}; expected None, got {seen!r}{why}")
    if seen is None:
        raise Wrong(f"{short!r} stands for {before[expected:]!r} in {before!r}; got None{why}")
    raise Wrong(f"the long form of {short!r} in {before!r} begins at {expected}, got {seen!r}{why}")


@exercise(
    "10.3",
    "Schwartz and Hearst's match",
    check_long_form_start,
    hints=[
        "Only letters and digits of `short` count: wanted = [letter.lower() for letter in short if letter.isalnum()].",
        "One loop over the places of `before`, the last first: if before[place].lower() == wanted[-1], wanted.pop().",
        "When only one is wanted, it must begin a word: place == 0 or not before[place - 1].isalnum(). If not, go on.",
        "When nothing is wanted any more, go left from there until white space or the beginning of `before`.",
    ],
)
def long_form_start(short, before):
    wanted = [letter.lower() for letter in short if letter.isalnum()]
    for place in reversed(range(len(before))):
        begins_word = place == 0 or not before[place - 1].isalnum()
        if before[place].lower() == wanted[-1] and (begins_word or len(wanted) > 1):
            wanted.pop()
        if not wanted:
            while place > 0 and not before[place - 1].isspace():
                place -= 1
            return place
    return None


# -- 10.4 ------------------------------------------------------------------------------------------


LOWERED = ["IL-2Rα", "Straße", "İL-2 binds İ", "", "ΟΔΟΣ NF-ΚB", "e\u0301 E\u0301"]


def check_lower(function: Callable) -> None:
    for text in LOWERED:
        answer = function(text)
        if not isinstance(answer, (tuple, list)) or len(answer) != 2 or not isinstance(answer[0], str):
            raise Wrong(f"expected the text and a list of indices; got {_show(answer)}")
        lowered, origin = answer[0], list(answer[1])
        if lowered != text.lower():
            hint = "; a capital sigma at the end of a word becomes ς, so lower the whole text" if "Σ" in text else ""
            hint = "; ß is a small letter already, this is casefold" if "ß" in text and "ss" in lowered else hint
            raise Wrong(f"{text!r} in lower case is {text.lower()!r}, got {lowered!r}{hint}")
        if len(origin) != len(lowered):
            raise Wrong(f"{text!r}: {len(lowered)} characters in lower case, but {len(origin)} indices")
        if not all(map(_is_offset, origin)):
            raise Wrong(f"{text!r}: expected one index for each character; got {_show(origin)}")
        expected = [k for k, letter in enumerate(text) for _ in letter.lower()]
        if origin != expected:
            place = next(k for k in range(len(origin)) if origin[k] != expected[k])
            raise Wrong(
                f"{text!r}: character {place} of the lower-cased text, {lowered[place]!r}, came from index "
                f"{expected[place]}, got {origin[place]}"
            )


@exercise(
    "10.4",
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


# -- 10.5 ------------------------------------------------------------------------------------------


GREEK_CASES = [
    ("HSP", "the heat shock protein", 4),
    ("TGF-β", "the transforming growth factor beta", 4),
    ("TGF-beta", "the transforming growth factor β", 4),
    ("TGF-β", "the transforming growth factor-β", 4),
    ("GSK-3β", "α, β or γ glycogen synthase kinase 3β", 10),
    ("Aβ", "deposits of αβγ and amyloid-β", 20),
    ("β2AR", "the β2-adrenergic receptor", 4),
    ("IFN-γ", "βββ interferon gamma", 4),
    ("TGF-β", "alpha and transforming growth factor beta", 10),
    ("TNF-α", "mutants and tumour necrosis factor alpha", 12),
    ("PI", "the protein inhibitor", 4),
    ("Δ9-THC", "the delta9-tetrahydrocannabinol", 4),
    ("delta-FR", "a Δ-fluorinated ring", 2),
    ("TGF-β", "the transforming growth factor alpha", None),
    ("XY", "α", None),
]


def check_greek_long_form(function: Callable) -> None:
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
    "10.5",
    "a Greek letter and its name",
    check_greek_long_form,
    hints=[
        "Spell out every Greek letter on both sides, then long_form_start does the rest.",
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
