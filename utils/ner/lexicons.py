"""`load_lexicon(name)`: lists of names of genes, diseases and chemicals.

Looked for in this order: data/cache/lexicons, COURSE_DATA/lexicons, and at last the mentions of the course's own train
split, which are a few hundred instead of many thousands. One printed line says which it was.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

from utils.ner.automaton import Automaton
from utils.ner.corpora import COURSE_CORPUS, ROOT
from utils.ner.formats.files import FormatError, read_lines
from utils.ner.formats.jsonl import read_jsonl
from utils.ner.words import cut_name

SHORTEST = 3  # characters; shorter symbols are mostly words: "WAS" is long enough to stay, "A" and "AT" are not


@dataclass(frozen=True)
class Lexicon:
    """Names of one kind of thing.

    Attributes:
        name: "genes", "diseases" or "chemicals", or what you call your own.
        names: as they are written, without duplicates, in the order of the source.
        lower: whether they are to be compared without regard to case. Gene symbols are not: "was" is no gene.
        source: where they came from, in a few words.
        stands_in: True for mentions of the course's own train split, in place of a list that is not there.
    """

    name: str
    names: tuple[str, ...] = field(repr=False)
    lower: bool = True
    source: str = "given"
    stands_in: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def typed(self, kind: str) -> list[tuple[str, str]]:
        """(name, kind) pairs as `DictionaryTagger` takes them; names of fewer than 3 characters are left out."""
        return [(name, kind) for name in self.names if len(name) >= SHORTEST]

    @cached_property
    def automaton(self) -> Automaton:
        """Finds the names in sentences of `name_parts`. Made when it is first asked for: the list of human genes takes
        seconds and tens of megabytes."""
        return Automaton({cut_name(name) for name in self.names})

    def to_json(self) -> dict:
        """What `from_json` makes the list of."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_json(cls, saved: Mapping) -> "Lexicon":
        """The list that `to_json` wrote, the one object of all equal ones (`shared`)."""
        return shared(cls(**saved | {"names": tuple(saved["names"])}))


_IN_USE: WeakValueDictionary[int, Lexicon] = WeakValueDictionary()


def shared(lexicon: Lexicon) -> Lexicon:
    """The same list, as the one object that all hold who use it: the members of a vote, loaded one by one, would have a
    copy of names and automaton each."""
    one = _IN_USE.setdefault(hash(lexicon), lexicon)
    return one if one == lexicon else lexicon


def turn_heading(heading: str) -> str:
    """An inverted heading of MeSH the way it is written in a text: "Abdomen, Acute" is "Acute Abdomen".

    Commas without a space behind them belong to the name ("1,2-Dipalmitoylphosphatidylcholine") and stay.
    """
    return " ".join(reversed(heading.split(", ")))


def _turned(headings: Iterable[str]) -> Iterable[str]:
    """Each heading, and its other order where it has one."""
    for heading in headings:
        yield heading
        yield turn_heading(heading)


@dataclass(frozen=True)
class _Source:
    """Files, for each the column with the names, and what makes names of them.

    The list is of an entity type that has one of `types` in its name; the first of them is the course's own type.
    """

    files: dict[str, tuple[str, Callable[[Iterable[str]], Iterable[str]]]]
    lower: bool
    types: tuple[str, ...]


SOURCES = {
    "genes": _Source({"genes_ncbi_human.tsv": ("symbol", iter)}, False, ("gene", "protein", "rna", "dna")),
    "diseases": _Source(
        {"diseases_do.tsv": ("term", iter), "diseases_mesh.tsv": ("name", _turned)}, True, ("disease", "disorder")
    ),
    "chemicals": _Source({"chemicals_mesh.tsv": ("name", _turned)}, True, ("chemical", "drug", "treatment")),
}


def lexicon_names() -> list[str]:
    """What `load_lexicon` knows."""
    return list(SOURCES)


def lexicon_for(kind: str) -> str | None:
    """Which list holds names of an entity type, by the type's name ("GENE", "Disease", "DrugName"), or None."""
    found = (name for name, source in SOURCES.items() if any(word in kind.lower() for word in source.types))
    return next(found, None)


def load_lexicon(name: str) -> Lexicon:
    """A list of names; prints one line that says where it came from.

    Raises:
        ValueError: an unknown name; the message lists the known ones. FormatError: a file without the column wanted.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown lexicon {name!r}; choose one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    folders = {"from the cache": ROOT / "data" / "cache" / "lexicons"}
    if os.environ.get("COURSE_DATA"):
        folders["from COURSE_DATA"] = Path(os.environ["COURSE_DATA"]) / "lexicons"
    for where, folder in folders.items():
        if all((folder / file).exists() for file in source.files):
            names, found, stands_in = _read(folder, source), where, False
            break
    else:
        names, stands_in = _own_names(source.types[0]), True
        found = "mentions in the course's own train split; COURSE_DATA=FOLDER says where the lists are"
    lexicon = shared(Lexicon(name, tuple(dict.fromkeys(names)), source.lower, found, stands_in))
    print(f"{name}: {len(lexicon):,} names ({found})")
    return lexicon


def load_lexicons(names: Iterable[str] | None = None) -> list[Lexicon]:
    """Several lists, all of them by default."""
    return [load_lexicon(name) for name in (lexicon_names() if names is None else names)]


def _read(folder: Path, source: _Source) -> Iterable[str]:
    for file, (column, names) in source.files.items():
        yield from names(_column(folder / file, column))


def _column(path: Path, column: str) -> Iterable[str]:
    lines = read_lines(path)
    number, head = next(lines, (1, ""))
    columns = head.split("\t")
    if column not in columns:
        raise FormatError(path, number, head, f"a header with a column {column!r}")
    place = columns.index(column)
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise FormatError(path, number, line, f"{len(columns)} columns with tabs between, got {len(cells)}")
        if cells[place].strip():
            yield cells[place].strip()


def _own_names(kind: str) -> Iterable[str]:
    for sentence in read_jsonl(ROOT / "data" / COURSE_CORPUS / "train.jsonl"):
        yield from (entity.text for entity in sentence.entities if entity.type.lower() == kind)
