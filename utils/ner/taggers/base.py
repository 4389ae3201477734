"""What every tagger can do: fit, predict, save, load."""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.sentence import Entity, Sentence

HEADER = "tagger.json"


class Tagger(ABC):
    """A tagger learns from sentences and marks entities in others.

    A kind of tagger gives itself a `name` and a `version` (raised when the saved form changes), and fills in `fit`,
    `_tag`, `_save` and `_load`.

    Attributes:
        interrupted: whether the last `fit` was broken off, in a kind that then keeps what it has learnt so far.
    """

    name: str
    version = 1
    interrupted = False

    @abstractmethod
    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = ()) -> Tagger:
        """Learn from `train`; `dev` is for choosing only. Returns the tagger itself."""

    def predict(self, sentences: Sequence[Sentence]) -> list[Sentence]:
        """The same sentences, in order, with the entities found in them; those they came with are not looked at."""
        return [one.with_entities(found) for one, found in zip(sentences, self._tag(sentences), strict=True)]

    def save(self, folder: str | Path) -> None:
        """Write the tagger into a folder, which is made where there is none."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save(folder)
        write_atomically(folder / HEADER, json.dumps({"tagger": self.name, "version": self.version}) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Tagger:
        """The tagger that `save` wrote.

        Raises:
            ValueError: the folder holds no tagger, one of another kind or version, or one that is not whole.
        """
        found = read_header(folder)
        if found != (cls.name, cls.version):
            raise ValueError(
                f"{folder} holds a tagger {found[0]}, version {found[1]}; expected {cls.name}, version {cls.version}; "
                "load it with its own class, or train and save it again"
            )
        try:
            return cls._load(Path(folder))
        except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{folder} is not whole: {error!r}; save the tagger again") from error

    @abstractmethod
    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        """For each sentence its entities."""

    @abstractmethod
    def _save(self, folder: Path) -> None: ...

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path) -> Tagger: ...


def read_header(folder: str | Path) -> tuple[str, int]:
    """Kind and version of the tagger in a folder. Raises ValueError where there is none."""
    path = Path(folder) / HEADER
    try:
        header = json.loads(path.read_text("utf-8"))
        return header["tagger"], header["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} holds no tagger: {path.name} cannot be read ({error})") from error


def fit_whole(tagger: Tagger, train: Sequence[Sentence], dev: Sequence[Sentence], folder: Path | None = None) -> Tagger:
    """`tagger.fit`, for callers that save what comes of it and so have no use for a half-trained tagger.

    Args:
        folder: keeps the state of the training, in a kind whose `fit` takes one, so that the same call goes on.
    Raises:
        KeyboardInterrupt: the training was interrupted, also in a kind that would have kept what it had by then.
    """
    resumes = folder is not None and "folder" in inspect.signature(tagger.fit).parameters
    tagger.fit(train, dev, **({"folder": folder} if resumes else {}))
    if tagger.interrupted:
        raise KeyboardInterrupt
    return tagger


def fingerprint(sentences: Sequence[Sentence]) -> str:
    """The first digits of a SHA-256 that changes with any text or entity."""
    content = repr([(one.text, one.tokens, one.entities) for one in sentences])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
