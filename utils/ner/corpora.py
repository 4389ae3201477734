"""`load_corpus(name)`: the corpora of the course, from wherever this machine can get them.

Looked for in this order: the course's cache (data/cache/ner), a copy the machine has (COURSE_DATA/ner), the public
source that data/ner/sources.json names, and at last the small corpus written for this course (data/course-corpus), with
the types that stand in for the wanted ones. One printed line says which it was. A folder of your own is read as it is.
"""

import json
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from utils.files import ROOT, download, find_copy, say, sha256_of
from utils.ner.bc2 import OfficialGold, read_official
from utils.ner.formats import read_conll, read_jsonl, read_lines, read_sentences
from utils.ner.sentence import Sentence

SPLITS = ("train", "dev", "test")
COURSE_CORPUS = "course-corpus"
OWN_ENDINGS = (".conll", ".tsv", ".txt", ".iob", ".jsonl", ".json", ".pubtator", ".pubtator.txt", "")


@dataclass
class Corpus:
    """Three lists of sentences, each read when first asked for."""

    name: str  # as given to `load_corpus`
    source: str  # where it came from, in a few words
    splits: tuple[str, ...]  # the names of those it has
    read: Callable[[str], list[Sentence]] = field(repr=False)  # the sentences of a split; it keeps them
    folder: Path = field(repr=False)
    stands_in: bool = False  # this is the course's own small corpus in place of one that could not be had

    def split(self, name: str) -> list[Sentence]:
        """The sentences of "train", "dev" or "test". Raises ValueError where the corpus has no such split."""
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}; choose one of {', '.join(self.splits)}")
        return self.read(name)

    train = property(lambda self: self.split("train"))
    dev = property(lambda self: self.split("dev"))
    test = property(lambda self: self.split("test"))

    @property
    def types(self) -> list[str]:
        """The entity types in all splits; reads them all."""
        sentences = (sentence for name in self.splits for sentence in self.split(name))
        return sorted({entity.type for sentence in sentences for entity in sentence.entities})

    def official(self, split: str) -> OfficialGold:
        """What `evaluate(..., mode="bc2")` scores against: ValueError unless it is dev or test of bc2gm."""
        paths = [self.folder / "official" / f"{split}.{kind}.eval" for kind in ("GENE", "ALTGENE")]
        if not all(path.exists() for path in paths):
            where = f"{self.name} {split} ({self.source})"
            raise ValueError(f"no official alternatives for {where}; bc2gm has them, for dev and test")
        return OfficialGold(*map(read_official, paths))


def corpus_names() -> list[str]:
    """What `load_corpus` knows."""
    return [*_sources(), COURSE_CORPUS]


def load_corpus(name: str | Path, mismatch: str = "refuse") -> Corpus:
    """A corpus by name; prints one line that says where it came from.

    name: one of `corpus_names()`, or a folder with a file for each split, "train", "dev" and "test" or some of them:
        train.conll (or .tsv, .txt, .iob: columns, the tag last), train.jsonl, train.pubtator, a folder train (brat).
    mismatch: for a folder of your own, as in `read_sentences`.
    Raises ValueError: an unknown name, or a folder with no split or two files for one.
    """
    sources = _sources()
    if name == COURSE_CORPUS:
        corpus = _own_corpus(name, "the small corpus written for this course")
    elif name in sources:
        corpus = _find(name, sources[name])
    elif Path(name).is_dir():
        corpus = _own_folder(Path(name), mismatch)
    else:
        own = "read your own file with read_conll(path), or give a folder with train, dev and test files"
        raise ValueError(f"unknown corpus {str(name)!r}; choose one of {', '.join(corpus_names())}, or {own}")
    say(f"{corpus.name}: {corpus.source} ({', '.join(corpus.splits)})")
    return corpus


def _sources() -> dict[str, dict]:
    return json.loads((ROOT / "data" / "ner" / "sources.json").read_text("utf-8"))


def _find(name: str, about: dict) -> Corpus:
    cached = ROOT / "data" / "cache" / "ner" / name
    needed = [f"{split}.tsv" for split in about["splits"]]
    if all(_is_whole(cached / file, about["files"].get(file, {})) for file in needed):
        return _columns(name, about, cached, "from the cache")
    if folder := find_copy(needed, f"ner/{name}", name):
        return _columns(name, about, folder, "from COURSE_DATA")
    try:
        _download_all(name, about, cached)
        return _columns(name, about, cached, "downloaded")
    except OSError as error:
        own = f"the small corpus written for this course: no copy here and none to be had ({error})"
        return _own_corpus(name, f"{own}; COURSE_DATA=FOLDER says where a copy is", about["stand_in"])


def _is_whole(path: Path, about: dict) -> bool:
    whole = path.exists() and sha256_of(path) == about.get("sha256")
    if path.exists() and about and not whole:  # without a checksum nobody knows
        warnings.warn(f"{path} is damaged (its SHA-256 is wrong) and is passed over; delete it", stacklevel=2)
    return whole


def _download_all(name: str, about: dict, folder: Path) -> None:
    """The splits, or OSError; then what else the source has, whose absence is borne."""
    files = about["files"]
    if not files:
        raise OSError(f"{name} has no file to download in the form used here, see {about['page']}")
    for file in sorted(files, key=lambda file: "/" in file):
        with suppress(OSError) if "/" in file else nullcontext():
            download(files[file]["url"], folder / file, files[file]["sha256"])


def _columns(name: str, about: dict, folder: Path, source: str) -> Corpus:
    def read(split: str) -> list[Sentence]:
        sentences = read_conll(folder / f"{split}.tsv", tags=about.get("tags", -1))
        official = folder / "official" / f"{split}.in"
        if not official.exists():
            return sentences
        ids = (line.split(" ", 1)[0] for _, line in read_lines(official))
        return [replace(sentence, id=id) for sentence, id in zip(sentences, ids, strict=True)]

    return Corpus(name, source, tuple(about["splits"]), cache(read), folder)


def _own_folder(folder: Path, mismatch: str) -> Corpus:
    files = {}
    for split in SPLITS:
        paths = [path for end in OWN_ENDINGS if (path := folder / f"{split}{end}").exists()]
        if len(paths) > 1:
            raise ValueError(f"{folder} has {paths[0].name} and {paths[1].name}; expected one file a split")
        if paths:
            files[split] = paths[0]
    if not files:
        wanted = f"train, dev and test or some of them, ending in {', '.join(OWN_ENDINGS[:-1])}, or folders (brat)"
        raise ValueError(f"{folder} has no split; expected files {wanted}")
    read = cache(lambda split: read_sentences(files[split], mismatch=mismatch))
    return Corpus(folder.resolve().name, "a folder of your own", tuple(files), read, folder)


def _own_corpus(name: str, source: str, names: dict[str, str] | None = None) -> Corpus:
    """The course's own corpus; its types under the names of the corpus it stands in for, the others left out."""
    folder = ROOT / "data" / COURSE_CORPUS

    def read(split: str) -> list[Sentence]:
        sentences = read_jsonl(folder / f"{split}.jsonl")
        return sentences if names is None else list(map(renamed, sentences))

    def renamed(sentence: Sentence) -> Sentence:
        kept = (entity for entity in sentence.entities if entity.type in names)
        return sentence.with_entities(replace(entity, type=names[entity.type]) for entity in kept)

    return Corpus(name, source, SPLITS, cache(read), folder, stands_in=names is not None)
