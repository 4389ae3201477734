"""Answers to notebook 10's exercises: right ones of another kind pass, wrong ones are told what is wrong."""

import re
import unicodedata
from itertools import accumulate

import pytest

from notebooks.exercises import nb10
from utils.course.exercises import grade
from utils.ner.words import GREEK

# -- right ---------------------------------------------------------------------------------------------------


def aligned_by_regex(text, words):
    spans, end = [], 0
    for word in words:
        match = re.compile(r"\s*(" + re.escape(word) + ")").match(text, end)
        if not match:
            raise ValueError("no " + word)
        spans.append(match.span(1))
        end = match.end()
    return spans


def aligned_by_find(text, words):
    spans, end = (), 0
    for word in words:
        start = text.find(word, end)
        if start < 0 or text[end:start].strip():
            raise ValueError(f"{word} is not where it should be")
        end = start + len(word)
        spans += ([start, end],)
    return spans


def aligned_by_letters(text, words):
    visible = [k for k, letter in enumerate(text) if not letter.isspace()]
    spans, used = [], 0
    for word in words:
        places = visible[used : used + len(word)]
        if "".join(text[k] for k in places) != word or places[-1] - places[0] != len(word) - 1:
            raise ValueError(repr(word))
        spans.append((places[0], places[-1] + 1))
        used += len(word)
    return spans


def aligned_by_stripping(text, words):
    spans, rest = [], text
    for word in words:
        rest = rest.lstrip()
        if rest[: len(word)] != word:
            raise ValueError(f"expected {word!r}")
        start = len(text) - len(rest)
        spans.append((start, start + len(word)))
        rest = rest[len(word) :]
    return spans


def spelt_by_recursion(word, vocabulary, mark=""):
    if not word:
        return []
    for end in range(len(word), 0, -1):
        if mark + word[:end] in vocabulary:
            rest = spelt_by_recursion(word[end:], vocabulary, "##")
            return ["[UNK]"] if rest == ["[UNK]"] else [mark + word[:end], *rest]
    return ["[UNK]"]


def spelt_by_while(word, vocabulary):
    pieces = []
    rest = word
    while rest:
        piece = rest
        while piece and ("##" if pieces else "") + piece not in vocabulary:
            piece = piece[:-1]
        if not piece:
            return ["[UNK]"]
        pieces += ["##" + piece if pieces else piece]
        rest = rest[len(piece) :]
    return pieces


def spelt_by_startswith(word, vocabulary):
    pieces, text = (), word
    while text:
        fits = [piece for piece in vocabulary if text.startswith(piece) and (piece[:2] == "##") == bool(pieces)]
        if not fits:
            return ["[UNK]"]
        best = max(fits, key=len)
        pieces += (best,)
        text = text[len(best) :] and "##" + text[len(best) :]
    return pieces


def matched_by_regex(short, before):
    """On both texts turned round, where a lazy .*? takes the nearest letter."""
    letters = [re.escape(letter) for letter in short if letter.isalnum()][::-1]
    pattern = ".*?" + ".*?".join(letters) + r"(?![^\W_])\S*"
    match = re.match(pattern, before[::-1], re.IGNORECASE | re.DOTALL)
    return len(before) - match.end() if match else None


def matched_by_rfind(short, before):
    text, place = before.lower(), len(before)
    letters = [letter for letter in short.lower() if letter.isalnum()]
    for letter in letters[:0:-1]:
        if (place := text.rfind(letter, 0, place)) < 0:
            return None
    place = text.rfind(letters[0], 0, place)
    while place > 0 and before[place - 1].isalnum():
        place = text.rfind(letters[0], 0, place)
    return None if place < 0 else max(before.rfind(space, 0, place) for space in " \n") + 1


def matched_by_recursion(short, before, k=None):
    letters = "".join(filter(str.isalnum, short)).lower()
    for place in range(len(before))[::-1]:
        if before[place].lower() == letters[-1]:
            if len(letters) > 1:
                return matched_by_recursion(letters[:-1], before[:place])
            if not before[:place][-1:].isalnum():
                return place - len(re.search(r"\S*$", before[:place])[0])
    return None


def lowered_by_sums(text):
    lengths = [len(letter.lower()) for letter in text]
    ends = list(accumulate(lengths))
    return text.lower(), [next(k for k, end in enumerate(ends) if place < end) for place in range(len(text.lower()))]


def lowered_by_loop(text):
    origin = ()
    for k in range(len(text)):
        origin += (k,) * len(text[k].lower())
    return [text.lower(), origin]


def lowered_by_dotted_i(text):
    """Of all letters only İ becomes two."""
    origin = []
    for k, letter in enumerate(text):
        origin.extend([k, k] if letter == "İ" else [k])
    return text.lower(), origin


def greek_by_dictionary(short, before):
    def spelt(letter):
        return GREEK.get(letter.lower(), letter)

    long = "".join(map(spelt, before))
    place = nb10.long_form_start("".join(map(spelt, short)), long)
    if place is None:
        return None
    return next(k for k in range(len(before)) if len("".join(map(spelt, before[: k + 1]))) > place)


def greek_by_growing(short, before):
    """The shortest end of the text that begins a white-space word and matches, spelt out, from its first letter on."""
    spelt = ["".join(GREEK.get(letter.lower(), letter) for letter in text) for text in (short, before)]
    if nb10.match_long_form(*spelt) is None:
        return None
    starts = [k for k in range(len(before)) if k == 0 or before[k - 1].isspace()]
    for start in reversed(starts):
        end = "".join(GREEK.get(letter.lower(), letter) for letter in before[start:])
        if nb10.match_long_form(spelt[0], end) is not None:
            return start
    return None


def greek_by_translate(short, before):
    table = {ord(case): name for letter, name in GREEK.items() for case in (letter, letter.upper())}
    place = nb10.match_long_form(short.translate(table), before.translate(table))
    words = before.split(" ")
    for k in range(len(words)):
        start = sum(len(word) + 1 for word in words[:k])
        if place is not None and len(before[:start].translate(table)) == place:
            return start
    return None


RIGHT = [
    *(("10.1", f) for f in (aligned_by_regex, aligned_by_find, aligned_by_letters, aligned_by_stripping)),
    *(("10.2", f) for f in (spelt_by_recursion, spelt_by_while, spelt_by_startswith)),
    *(("10.3", f) for f in (matched_by_regex, matched_by_rfind, matched_by_recursion, nb10.match_long_form)),
    *(("10.4", f) for f in (lowered_by_sums, lowered_by_loop, lowered_by_dotted_i)),
    *(("10.5", f) for f in (greek_by_dictionary, greek_by_growing, greek_by_translate)),
]


@pytest.mark.parametrize(("number", "answer"), RIGHT, ids=lambda value: getattr(value, "__name__", value))
def test_another_right_answer_passes(number, answer):
    passed, message = grade(number, answer)
    assert passed, message


# -- wrong: 10.1 ---------------------------------------------------------------------------------------------


def always_from_the_beginning(text, words):
    return [(text.index(word), text.index(word) + len(word)) for word in words]


def over_what_lies_between(text, words):
    spans, place = [], 0
    for word in words:
        if (start := text.find(word, place)) < 0:
            raise ValueError(word)
        spans.append((start, place := start + len(word)))
    return spans


def start_and_length(text, words):
    return [(start, end - start) for start, end in nb10.align_words(text, words)]


def last_character_included(text, words):
    return [(start, end - 1) for start, end in nb10.align_words(text, words)]


def one_space_between(text, words):
    spans, place = [], 0
    for word in words:
        spans.append((place, place + len(word)))
        place += len(word) + 1
    return spans


def only_blanks(text, words):
    spans, place = [], 0
    for word in words:
        while text[place : place + 1] == " ":
            place += 1
        if not text.startswith(word, place):
            raise ValueError(word)
        spans.append((place, place + len(word)))
        place += len(word)
    return spans


def no_name_in_the_error(text, words):
    try:
        return nb10.align_words(text, words)
    except ValueError:
        raise ValueError("not found") from None


def an_assertion(text, words):
    try:
        return nb10.align_words(text, words)
    except ValueError as error:
        raise AssertionError(str(error)) from None


def any_case(text, words):
    return nb10.align_words(text.lower(), [word.lower() for word in words])


def starts_only(text, words):
    return [start for start, _ in nb10.align_words(text, words)]


# -- wrong: 10.2 ---------------------------------------------------------------------------------------------


def shortest_first(word, vocabulary):
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(start + 1, len(word) + 1)
        end = next((end for end in ends if mark + word[start:end] in vocabulary), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


def marks_lost(word, vocabulary):
    return [piece.removeprefix("##") for piece in nb10.spell(word, vocabulary)]


def unknown_rest_alone(word, vocabulary):
    for end in range(len(word), 0, -1):
        if nb10.spell(word[:end], vocabulary) != ["[UNK]"]:
            rest = ["[UNK]"] if end < len(word) else []
            return nb10.spell(word[:end], vocabulary) + rest
    return ["[UNK]"]


def mark_does_not_matter(word, vocabulary):
    both = vocabulary | {piece.removeprefix("##") for piece in vocabulary}
    return nb10.spell(word, both)


def goes_back(word, vocabulary, mark=""):
    if not word:
        return []
    for end in range(len(word), 0, -1):
        if mark + word[:end] in vocabulary:
            rest = goes_back(word[end:], vocabulary, "##")
            if rest != ["[UNK]"]:
                return [mark + word[:end], *rest]
    return ["[UNK]"]


def one_string(word, vocabulary):
    return " ".join(nb10.spell(word, vocabulary))


def whole_words_only(word, vocabulary):
    return [word] if word in vocabulary else ["[UNK]"]


# -- wrong: 10.3 ---------------------------------------------------------------------------------------------


def loose(short, before, letters=str.isalnum, same=str.lower, begins=True, every=False, step=0, word=True):
    """The match with its parts exchanged."""
    wanted, place = [same(letter) for letter in short if letters(letter)], len(before)
    while wanted and place > 0:
        place -= 1
        inside = place > 0 and before[place - 1].isalnum()
        bound = every or (begins and len(wanted) == 1)
        if same(before[place]) == wanted[-1] and not (bound and inside):
            wanted.pop()
            place += step
    if wanted:
        return None
    return place - len(re.search(r"\S*$", before[:place])[0]) if word else place


def case_matters(short, before):
    return loose(short, before, same=str)


def first_letter_anywhere(short, before):
    return loose(short, before, begins=False)


def every_letter_begins_a_word(short, before):
    return loose(short, before, every=True)


def hyphen_is_asked_for(short, before):
    return loose(short, before, letters=str)


def digits_left_out(short, before):
    return loose(short, before, letters=str.isalpha)


def the_letter_not_the_word(short, before):
    return loose(short, before, word=False)


def same_letter_twice(short, before):
    return loose(short, before, step=1)


def gives_up_at_the_first(short, before):
    place, letters = len(before), [letter for letter in short.lower() if letter.isalnum()]
    for letter in reversed(letters):
        if (place := before.lower().rfind(letter, 0, place)) < 0:
            return None
    if place > 0 and before[place - 1].isalnum():
        return None
    return place - len(re.search(r"\S*$", before[:place])[0])


def from_left_to_right(short, before):
    letters = [letter for letter in short.lower() if letter.isalnum()]
    for match in re.finditer(r"(?<![A-Za-z0-9])" + re.escape(letters[0]), before, re.IGNORECASE):
        place = match.start()
        for letter in letters[1:]:
            place = before.lower().find(letter, place + 1)
            if place < 0:
                break
        else:
            return match.start() - len(re.search(r"\S*$", before[: match.start()])[0])
    return None


def the_text_itself(short, before):
    start = nb10.long_form_start(short, before)
    return None if start is None else before[start:]


def words_between_blanks(short, before):
    start = nb10.long_form_start(short, before)
    return None if start is None else before.rfind(" ", 0, start) + 1


def minus_one_for_none(short, before):
    start = nb10.long_form_start(short, before)
    return -1 if start is None else start


def nothing_at_zero(short, before):
    return nb10.long_form_start(short, before) or None


# -- wrong: 10.4 ---------------------------------------------------------------------------------------------


def letter_by_letter(text):
    return "".join(letter.lower() for letter in text), nb10.lower_with_origin(text)[1]


def nothing_moves(text):
    return text.lower(), list(range(len(text.lower())))


def one_index_a_letter(text):
    return text.lower(), list(range(len(text)))


def case_folded(text):
    return text.casefold(), [k for k, letter in enumerate(text) for _ in letter.casefold()]


def counted_from_one(text):
    return text.lower(), [k + 1 for k in nb10.lower_with_origin(text)[1]]


def pairs_of_offsets(text):
    return text.lower(), [(k, k + 1) for k in nb10.lower_with_origin(text)[1]]


def accents_lost(text):
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    return plain, list(range(len(plain)))


def the_text_alone(text):
    return text.lower()


# -- wrong: 10.5 ---------------------------------------------------------------------------------------------


def spell_out(text):
    return "".join(GREEK.get(letter.lower(), letter) for letter in text)


def into_letters(text):
    for letter, name in GREEK.items():
        text = re.sub(name, letter, text, flags=re.IGNORECASE)
    return text


def as_before(short, before):
    return nb10.match_long_form(short, before)


def without_capitals(short, before):
    parts = [GREEK.get(letter, letter) for letter in before]
    origin = [k for k, part in enumerate(parts) for _ in part]
    start = nb10.match_long_form("".join(GREEK.get(letter, letter) for letter in short), "".join(parts))
    return None if start is None else origin[start]


def only_the_short_form(short, before):
    return nb10.match_long_form(spell_out(short), before)


def only_the_text(short, before):
    start = nb10.match_long_form(short, spell_out(before))
    return None if start is None else before.find(spell_out(before)[start:][:3])


def offset_in_the_new_text(short, before):
    return nb10.match_long_form(spell_out(short), spell_out(before))


def offset_among_letters(short, before):
    return nb10.match_long_form(into_letters(short), into_letters(before))


def greek_asks_for_nothing(short, before):
    return nb10.match_long_form(re.sub("beta|[α-ω]", "", short), before)


WRONG = [
    ("10.1", always_from_the_beginning, "begins before the last word ends; search on from there"),
    ("10.1", over_what_lies_between, r"should raise ValueError .*which would be lost"),
    ("10.1", start_and_length, "the second number is an end, not a length"),
    ("10.1", last_character_included, "the end is the place behind the last character"),
    ("10.1", one_space_between, r"'IL-2 binds IL-2R.': \d+:\d+ is '.*', not '-'"),
    ("10.1", only_blanks, "white space only between them .also tabs, line ends and no-break spaces"),
    ("10.1", no_name_in_the_error, "should name the word; it is 'not found'"),
    ("10.1", an_assertion, "should raise ValueError .*; your function raises AssertionError"),
    ("10.1", any_case, "not 'IL'|'The' has a capital"),
    ("10.1", starts_only, r"'the' needs a pair \(start, end\)"),
    ("10.2", shortest_first, "the longest piece first"),
    ("10.2", marks_lost, "every piece but the first carries ##"),
    ("10.2", unknown_rest_alone, "cannot be spelt .*, so it is"),
    ("10.2", mark_does_not_matter, "carries ##|only as '##nol'|not all of .* are in the vocabulary"),
    ("10.2", goes_back, "no shorter piece is tried again"),
    ("10.2", one_string, "should give a list of pieces"),
    ("10.2", whole_words_only, "'aminophenol' can be spelt with this vocabulary"),
    ("10.3", case_matters, "upper and lower case are alike"),
    ("10.3", first_letter_anywhere, "the first letter must begin a word"),
    ("10.3", every_letter_begins_a_word, "only the first letter must begin a word"),
    ("10.3", hyphen_is_asked_for, "the hyphen of the short form asks for nothing"),
    ("10.3", digits_left_out, "digits are asked for like letters"),
    ("10.3", the_letter_not_the_word, "begins with the white-space word, 'non-Hodgkin'"),
    ("10.3", same_letter_twice, "both letters took the same a"),
    ("10.3", gives_up_at_the_first, "the first letter goes on to the left"),
    ("10.3", from_left_to_right, "go from right to left; each letter takes the nearest equal one"),
    ("10.3", the_text_itself, "expected an offset .* return its offset"),
    ("10.3", words_between_blanks, "a line end is white space, too"),
    ("10.3", minus_one_for_none, "has no long form in .*; expected None, got -1"),
    ("10.3", nothing_at_zero, "0 is an offset, too; ask `is None`"),
    ("10.4", letter_by_letter, "a capital sigma at the end of a word"),
    ("10.4", nothing_moves, "came from index 0, got 1"),
    ("10.4", one_index_a_letter, "14 characters in lower case, but 12 indices"),
    ("10.4", case_folded, "this is casefold"),
    ("10.4", counted_from_one, "came from index 0, got 1"),
    ("10.4", pairs_of_offsets, "expected one index for each character"),
    ("10.4", accents_lost, "in lower case is"),
    ("10.4", the_text_alone, "expected the text and a list of indices"),
    ("10.5", as_before, "'TGF-β' stands for 'transforming growth factor beta'; got None"),
    ("10.5", without_capitals, "'Δ9-THC' stands for 'delta9"),
    ("10.5", only_the_short_form, "stands for '.*β'"),
    ("10.5", only_the_text, "'TGF-β' stands for"),
    ("10.5", offset_in_the_new_text, "is this an offset in the spelt-out text"),
    ("10.5", offset_among_letters, "with names replaced by letters|not the name of π"),
    ("10.5", greek_asks_for_nothing, "'β2AR' stands for 'β2-adrenergic receptor'; got None"),
]


@pytest.mark.parametrize(
    ("number", "answer", "told"), WRONG, ids=[f"{number}-{answer.__name__}" for number, answer, _ in WRONG]
)
def test_a_wrong_answer_is_told_why(number, answer, told):
    passed, message = grade(number, answer)
    assert passed is False
    assert re.search(told, message), message
