"""`load_lexicon(name)`: lists of names of genes, diseases and chemicals.

Looked for in this order: data/cache/lexicons, COURSE_DATA/lexicons, and at last the mentions of the course's own train
split, which are a few hundred instead of many thousands. One printed line says which it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from utils.files import ROOT, check_choice, find_copy
from utils.ner.corpora import COURSE_CORPUS
from utils.ner.formats import FormatError, read_jsonl, read_lines
from utils.ner.words import Automaton, cut_name

SHORTEST = 3  # characters; shorter symbols are mostly words: "WAS" is long enough to stay, "A" and "AT" are not


@dataclass(frozen=True)
class Lexicon:
    """Names of one kind of thing."""

    name: str  # "genes", "diseases" or "chemicals", or what you call your own
    names: tuple[str, ...] = field(repr=False)  # as they are written, without duplicates, in the order of the source
    lower: bool = True  # to be compared without regard to case; gene symbols are not: "was" is no gene
    source: str = "given"  # where they came from, in a few words
    stands_in: bool = False  # mentions of the course's own train split, in place of a list that is not there

    def __len__(self) -> int:
        return len(self.names)

    def typed(self, kind: str) -> list[tuple[str, str]]:
        """(name, kind) pairs as `DictionaryTagger` takes them; names of fewer than 3 characters are left out."""
        return [(name, kind) for name in self.names if len(name) >= SHORTEST]

    @classmethod
    def from_json(cls, saved: dict) -> "Lexicon":
        """From what `dataclasses.asdict` made of one."""
        return cls(**saved | {"names": tuple(saved["names"])})


@lru_cache(6)
def automaton_of(names: tuple[str, ...]) -> Automaton:
    """Finds the names in sentences of `name_parts`. It is kept, since the members of a vote use the same lists: the
    course's three take 0.7 s and 68 MB each time."""
    return Automaton({cut_name(name) for name in names})


# Where a list comes from: files with the column of their names; `lower`; the entity types it speaks of (a part of the
# type's name is enough; the first is the course's own type).
SOURCES = {
    "genes": ({"genes_ncbi_human.tsv": "symbol"}, False, ("gene", "protein", "rna", "dna")),
    "diseases": ({"diseases_do.tsv": "term", "diseases_mesh.tsv": "name"}, True, ("disease", "disorder")),
    "chemicals": ({"chemicals_mesh.tsv": "name"}, True, ("chemical", "drug", "treatment")),
}


def lexicon_names() -> list[str]:
    """What `load_lexicon` knows."""
    return list(SOURCES)


def lexicon_for(kind: str) -> str | None:
    """Which list holds names of an entity type, by the type's name ("GENE", "Disease", "DrugName"), or None."""
    found = (name for name, (*_, types) in SOURCES.items() if any(word in kind.lower() for word in types))
    return next(found, None)


def load_lexicon(name: str) -> Lexicon:
    """A list of names. Raises ValueError for an unknown name, FormatError for a file without the column wanted."""
    check_choice("lexicon", name, SOURCES)
    files, lower, types = SOURCES[name]
    where, folder = "from the cache", ROOT / "data" / "cache" / "lexicons"
    if not all((folder / file).exists() for file in files):
        where, folder = "from COURSE_DATA", find_copy(files, "lexicons", "")
    if folder:
        names = (name for file, column in files.items() for name in _read(folder / file, column))
    else:
        where = "mentions in the course's own train split; COURSE_DATA=FOLDER says where the lists are"
        own = read_jsonl(ROOT / "data" / COURSE_CORPUS / "train.jsonl")
        names = (e.text for sentence in own for e in sentence.entities if e.type.lower() == types[0])
    lexicon = Lexicon(name, tuple(dict.fromkeys(names)), lower, where, stands_in=not folder)
    print(f"{name}: {len(lexicon):,} names ({where})")
    return lexicon


def _read(path: Path, column: str) -> Iterator[str]:
    """The names in a column; headings of MeSH also turned round."""
    lines = read_lines(path)
    number, head = next(lines, (1, ""))
    columns = head.split("\t")
    if column not in columns:
        raise FormatError(path, number, head, f"a header with a column {column!r}")
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise FormatError(path, number, line, f"{len(columns)} columns with tabs between, got {len(cells)}")
        if name := cells[columns.index(column)].strip():
            yield name
            if "mesh" in path.name:  # texts have "Acute Abdomen" for "Abdomen, Acute"; commas without a space stay
                yield " ".join(reversed(name.split(", ")))
