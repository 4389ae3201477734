"""Find entities in texts with a saved tagger: one text a line in, entities out.

python -m utils.ner.tag models/diseases < abstracts.txt
python -m utils.ner.tag models/diseases --format jsonl < abstracts.txt > entities.jsonl
python -m utils.ner.tag models/diseases --input mine.conll --format brat --out folder
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.formats import WRITERS, read_sentences
from utils.ner.sentence import Sentence
from utils.ner.taggers.registry import load_tagger

FORMATS = ("lines", *WRITERS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read texts, tag them, write them."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.ner.tag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder that utils.ner.train or Tagger.save wrote")
    parser.add_argument("--input", type=Path, metavar="FILE", help="CoNLL, .jsonl or .pubtator, not stdin")
    parser.add_argument("--format", choices=FORMATS, default="lines")
    parser.add_argument("--out", type=Path, metavar="PATH", help="file (a folder for brat) instead of stdout")
    args = parser.parse_args(arguments)
    if args.format == "brat" and not args.out:
        parser.error("brat writes two files for each text; say with --out FOLDER where")
    try:
        tagger = load_tagger(args.model)
        sentences = read_sentences(args.input) if args.input else _texts(sys.stdin.buffer.read())
        _write(tagger.predict(sentences), args.format, args.out)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


def _texts(raw: bytes) -> list[Sentence]:
    """Each line that is not empty as a text whose id is the line's number."""
    sentences = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} of the input is no UTF-8: {line[:80]!r} ({error.reason})") from error
        if text.strip():
            sentences.append(Sentence(text, id=str(number)))
    return sentences


def _write(sentences: Sequence[Sentence], form: str, out: Path | None) -> None:
    if out:
        WRITERS[form](sentences, out) if form in WRITERS else write_atomically(out, as_lines(sentences))
        return
    text = as_lines(sentences)
    if form in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            WRITERS[form](sentences, Path(folder) / "entities")
            text = (Path(folder) / "entities").read_bytes().decode("utf-8")
    sys.stdout.buffer.write(text.encode("utf-8"))


def as_lines(sentences: Iterable[Sentence]) -> str:
    """Each text, and below it one line for each entity: start, end, type, text.

    The offsets count characters from 0 and the second is behind the last, as in `Entity`.
    """
    blocks = []
    for sentence in sentences:
        rows = [f"{one.start:>6} {one.end:>6}  {one.type:<12}  {one.text}\n" for one in sentence.entities]
        blocks.append(f"{sentence.text}\n{''.join(rows)}\n")
    return "".join(blocks)


if __name__ == "__main__":
    main()
