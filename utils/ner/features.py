"""What a CRF sees of a token: strings such as "lower[-1]=breast", computed for a whole sentence at once.

The kinds of features are those of published gene and disease taggers with a CRF, BANNER (Leaman & Gonzalez 2008),
GNormPlus (Wei, Kao & Lu 2015) and BioTagger-GM (Torii et al. 2009): the word, its lower case, stem, shape, beginnings,
ends and letter n-grams, the same of its neighbours, pairs of neighbours, brackets, and look-up in lists of names.
Left out are part-of-speech tags, for which the course has no tagger.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import snowballstemmer

from utils.ner.automaton import Automaton, leftmost_longest
from utils.ner.lexicons import Lexicon

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "ο": "omicron", "π": "pi", "ρ": "rho",
    "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega",
}  # fmt: skip
GREEK_WORDS = frozenset(GREEK.values())
ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
RUNS = re.compile(r"(.)\1+")
PARTS = re.compile(r"[^\W\d_]+|\d+")
CACHE = 200_000  # words whose features are kept; beyond it the store is emptied, so that memory stays bounded

_stem = lru_cache(CACHE)(snowballstemmer.stemmer("english").stemWord)


def shape(word: str) -> str:
    """Each capital as A, other letter as a, digit as 0; the rest as it is: "IL-2Ralpha" is "AA-0Aaaaaa"."""
    return "".join(
        "A" if letter.isupper() else "a" if letter.isalpha() else "0" if letter.isdigit() else letter for letter in word
    )


def short_shape(word: str) -> str:
    """The shape with runs of one sign cut to one: "IL-2Ralpha" is "A-0Aa"."""
    return RUNS.sub(r"\1", shape(word))


def normalise(word: str) -> str:
    """Lower case, each number as 0, Greek letters spelt out: "TGFβ12" is "tgfbeta0"."""
    return re.sub(r"\d+", "0", "".join(GREEK.get(letter, letter) for letter in word.lower()))


def name_parts(word: str) -> tuple[str, ...]:
    """A word cut for look-up: runs of letters and of digits, lower case, Greek spelt out, marks left out.

    So IL2, IL-2 and il 2 are all ("il", "2").
    """
    spelt = "".join(f" {GREEK[letter]} " if letter in GREEK else letter for letter in word.lower())
    return tuple(PARTS.findall(spelt))


class LexiconMatcher:
    """Looks sentences up in lists, without regard to case, hyphens and spaces (`name_parts`)."""

    def __init__(self, lexicons: Sequence[Lexicon]) -> None:
        self._automata = {one.name: Automaton({name_parts(name) for name in one.names}) for one in lexicons}
        self._parts = lru_cache(CACHE)(name_parts)

    def labels(self, words: Sequence[str]) -> dict[str, list[str]]:
        """For each list and word B, I, E or S where the word stands in a name of the list, else "".

        Of names that overlap the first and then the longest counts; a name begins and ends where words do.
        """
        if not self._automata:
            return {}
        parts: list[str] = []
        first, last = {}, {}  # the word that begins at a part, and the one behind the word that ends before a part
        for i, word in enumerate(words):
            if cut := self._parts(word):
                first[len(parts)] = i
                parts += cut
                last[len(parts)] = i + 1
        found = {}
        for name, automaton in self._automata.items():
            whole = [(first[a], last[b]) for a, b in automaton.matches(parts) if a in first and b in last]
            found[name] = labels = [""] * len(words)
            for start, end in leftmost_longest(whole):
                labels[start:end] = ["B", *"I" * (end - start - 2), "E"] if end - start > 1 else ["S"]
        return found


@dataclass(frozen=True)
class WordFeatures:
    """Turns the words of a sentence into one list of features for each.

    It is a callable, `words -> list of lists of strings`, and any other such callable can take its place in a
    `CRFTagger`, for example one that stems the words first and then calls this.

    Attributes:
        window: how many neighbours to each side are described.
        affixes: the longest beginning and end of a word, from 2 letters on; 0 for none.
        grams: lengths of letter n-grams within the word.
        stems: Snowball stems of the word and its neighbours, beside the words themselves.
        shapes: shapes of the word and its neighbours.
        pairs: pairs of neighbouring words and triples of shapes.
        brackets: whether a word stands in brackets, and alone in them.
        lexicons: lists of names to look words up in.
    """

    window: int = 2
    affixes: int = 5
    grams: tuple[int, ...] = (2, 3)
    stems: bool = True
    shapes: bool = True
    pairs: bool = True
    brackets: bool = True
    lexicons: tuple[Lexicon, ...] = ()
    known: Collection[str] | None = None  # features that a model has weights for; the others are left out

    def __post_init__(self) -> None:
        if self.window < 0 or self.affixes < 0 or any(length < 1 for length in self.grams):
            raise ValueError(
                f"expected window >= 0, affixes >= 0 and grams >= 1, got {self.window}, {self.affixes}, {self.grams}"
            )
        object.__setattr__(self, "_matcher", LexiconMatcher(self.lexicons))
        object.__setattr__(self, "_stored", {})

    def only(self, known: Collection[str]) -> WordFeatures:
        """The same, without the features that are not in `known`: what a trained model has no weight for costs time."""
        slim = replace(self, known=frozenset(known), lexicons=())
        object.__setattr__(slim, "_matcher", self._matcher)
        return slim

    def options(self) -> dict:
        """What `WordFeatures(**options)` needs, without the lexicons; for JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("lexicons", "known")}

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        """Features of each word, in order; an empty list for no words."""
        around = range(-self.window, self.window + 1)
        described = [self._describe(word) for word in words]
        edge = self._describe("")
        padded = [edge] * self.window + described + [edge] * self.window
        lists = []
        for i, (own, *_) in enumerate(described):
            found = own.copy()
            for place, offset in enumerate(around):
                if offset:
                    found += padded[i + place][1][offset]
            lists.append(found)
        if self.pairs:
            self._add_pairs(lists, [edge, edge, *described, edge, edge])
        if self.brackets:
            self._add(lists, bracket_labels(words), "brackets", (0,))
        for name, labels in self._matcher.labels(words).items():
            self._add(lists, labels, name, (-1, 0, 1))
        return lists

    def _describe(self, word: str) -> tuple[list[str], dict[int, list[str]], str, str, str]:
        """(own features, features for neighbours at each offset, lower case, stem, short shape), kept for later."""
        stored = self._stored.get(word)
        if stored is None:
            if len(self._stored) >= CACHE:
                self._stored.clear()
            stored = self._stored[word] = self._compute(word)
        return stored

    def _compute(self, word: str) -> tuple[list[str], dict[int, list[str]], str, str, str]:
        lower, outline = word.lower() or "^", short_shape(word) or "^"
        stem = _stem(lower) if self.stems else ""
        context = {"lower": lower}
        if self.shapes:
            context["shape"] = outline
        if self.stems:
            context["stem"] = stem
        if self.affixes:
            context["end3"] = lower[-3:]
        offsets = [offset for offset in range(-self.window, self.window + 1) if offset]
        around = {
            offset: self._kept(f"{name}[{offset}]={value}" for name, value in context.items()) for offset in offsets
        }
        return self._kept(self._own(word, lower, stem, outline)), around, lower, stem, outline

    def _own(self, word: str, lower: str, stem: str, outline: str) -> Iterable[str]:
        yield from ("bias", f"word={word}", f"lower={lower}", f"norm={normalise(word)}", f"length={min(len(word), 10)}")
        if self.stems:
            yield f"stem={stem}"
        if self.shapes:
            yield from (f"shape={shape(word)[:12]}", f"short={outline}")
        for length in range(2, min(self.affixes, len(lower) - 1) + 1):
            yield from (f"begin={lower[:length]}", f"end={lower[-length:]}")
        framed = f"^{lower}$"
        for length in self.grams:
            yield from (f"gram={framed[k : k + length]}" for k in range(len(framed) - length + 1))
        if lower in GREEK_WORDS or lower in GREEK:
            yield "greek"
        if word and ROMAN.fullmatch(word):
            yield "roman"

    def _kept(self, features: Iterable[str]) -> list[str]:
        unique = dict.fromkeys(features)
        return list(unique) if self.known is None else [one for one in unique if one in self.known]

    def _add_pairs(self, lists: list[list[str]], padded: list[tuple]) -> None:
        """Two words side by side, to the left and right; stems likewise; three shapes in a row."""
        known = self.known
        for i, found in enumerate(lists):
            (*_, a, _, p), (*_, b, s, q), (*_, c, t, r), (*_, d, u, v), (*_, e, _, w) = padded[i : i + 5]
            new = [f"lower[-1,0]={b}|{c}", f"lower[0,1]={c}|{d}", f"lower[-2,-1]={a}|{b}", f"lower[1,2]={d}|{e}",
                   f"lower[-1,1]={b}|{d}"]  # fmt: skip
            if self.shapes:
                new += [f"short[-1,0,1]={q}|{r}|{v}", f"short[-2,-1,0]={p}|{q}|{r}", f"short[0,1,2]={r}|{v}|{w}"]
            if self.stems:
                new += [f"stem[-1,0]={s}|{t}", f"stem[0,1]={t}|{u}"]
            found += new if known is None else [one for one in new if one in known]

    @staticmethod
    def _add(lists: list[list[str]], labels: Sequence[str], name: str, offsets: Sequence[int]) -> None:
        """Tell each word of its own label and of those of its neighbours."""
        for i, label in enumerate(labels):
            if label:
                for offset in offsets:
                    if 0 <= i - offset < len(lists):
                        lists[i - offset].append(f"{name}[{offset}]={label}")


def bracket_labels(words: Sequence[str]) -> list[str]:
    """For each word "in" where it stands in round or square brackets, "alone" where nothing else does, else ""."""
    labels, opened = [""] * len(words), []
    for i, word in enumerate(words):
        if word in "([" and word:
            opened.append(i)
        elif word in ")]" and word and opened:
            start = opened.pop()
            labels[start + 1 : i] = [label or "in" for label in labels[start + 1 : i]]
            if i - start == 2:
                labels[start + 1] = "alone"
    return labels
