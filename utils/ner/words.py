"""Words in other forms: their shape, their stem, with numbers and Greek letters made alike."""

import re
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase, digits

import snowballstemmer

GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
    "chi psi omega"
)
GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", GREEK_NAMES.split()))
GREEK_WORDS = frozenset(GREEK.values())
ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
RUNS = re.compile(r"(.)\1+")
DIGITS = re.compile(r"\d+")
PARTS = re.compile(r"[^\W\d_]+|\d+")
SHAPES = str.maketrans(ascii_uppercase + ascii_lowercase + digits, "A" * 26 + "a" * 26 + "0" * 10)
CACHE = 200_000  # words for which a result is kept; bounded, so that memory is

_stem = snowballstemmer.stemmer("english").stemWord


@lru_cache(CACHE)
def stem(word: str) -> str:
    """The Snowball stem of a word in lower case: "mutations" and "mutated" are both "mutat"."""
    return _stem(word)


def shape(word: str) -> str:
    """Each capital as A, other letter as a, digit as 0; the rest as it is: "IL-2Ralpha" is "AA-0Aaaaaa"."""
    if word.isascii():
        return word.translate(SHAPES)
    return "".join(
        "A" if letter.isupper() else "a" if letter.isalpha() else "0" if letter.isdigit() else letter for letter in word
    )


def short_shape(word: str) -> str:
    """The shape with runs of one sign cut to one: "IL-2Ralpha" is "A-0Aa"."""
    return RUNS.sub(r"\1", shape(word))


def normalise(word: str) -> str:
    """Lower case, each number as 0, Greek letters spelt out: "TGFβ12" is "tgfbeta0"."""
    lower = word.lower()
    spelt = lower if lower.isascii() else "".join(GREEK.get(letter, letter) for letter in lower)
    return DIGITS.sub("0", spelt)


def cut_name(word: str) -> tuple[str, ...]:
    """A word or name cut for look-up: runs of letters and of digits, lower case, Greek spelt out, marks left out.

    So IL2, IL-2 and il 2 are all ("il", "2").
    """
    lower = word.lower()
    spelt = lower if lower.isascii() else "".join(f" {GREEK[part]} " if part in GREEK else part for part in lower)
    return tuple(PARTS.findall(spelt))


name_parts = lru_cache(CACHE)(cut_name)  # for words of sentences, which come again and again; names come once
