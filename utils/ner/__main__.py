"""Train a tagger and save it; find entities in texts with it.

    python -m utils.ner train --corpus ncbi-disease --model crf --out models/diseases
    python -m utils.ner train --corpus my/folder --model crf --out models/mine
    python -m utils.ner train --train mine.conll --dev mine-dev.conll --model crf --out models/mine
    python -m utils.ner tag models/diseases < abstracts.txt
    python -m utils.ner tag models/diseases --format jsonl < abstracts.txt > entities.jsonl
    python -m utils.ner tag models/diseases --input mine.conll --format brat --out folder

Training can be interrupted. The same command goes on where networks and votes stopped (their states are in DIR/training
until the end); a CRF or a dictionary begins again. `tag` takes one text a line.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.files import write_atomically
from utils.ner.corpora import corpus_names, load_corpus
from utils.ner.evaluation import evaluate
from utils.ner.formats import WRITERS, read_sentences
from utils.ner.sentence import Sentence
from utils.ner.tagger import load_tagger, make_tagger, model_names


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.ner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    _add_train(commands.add_parser("train", help="train a tagger and save it"))
    _add_tag(commands.add_parser("tag", help="find entities in texts with a saved tagger"))
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"{args.parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{args.parser.prog}: interrupted; the same command goes on or, where it cannot, begins again")


def _add_train(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    known = ", ".join(corpus_names())
    source.add_argument("--corpus", help=f"one of {known}; or a folder with your own train, dev and test files")
    source.add_argument("--train", type=Path, metavar="FILE", help="your own sentences: CoNLL, .jsonl or .pubtator")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="with --train: sentences to choose settings on")
    parser.add_argument("--model", choices=model_names(), default="crf")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the trained tagger")
    parser.add_argument("--seed", type=int, default=0, help="of networks; a dictionary and a CRF draw nothing")
    parser.set_defaults(run=train, parser=parser)


def train(args: argparse.Namespace) -> None:
    """Read the sentences, train, save; print the scores on dev."""
    if args.corpus:
        if args.dev:
            args.parser.error("--dev goes with --train; a corpus brings its own")
        if args.corpus not in corpus_names() and not Path(args.corpus).is_dir():
            args.parser.error(f"--corpus {args.corpus}: no folder, and not one of {', '.join(corpus_names())}")
        corpus = load_corpus(args.corpus)
        sentences, dev = corpus.train, corpus.dev
    else:
        sentences, dev = read_sentences(args.train), read_sentences(args.dev) if args.dev else []
    types = sorted({entity.type for sentence in sentences for entity in sentence.entities})
    print(f"{len(sentences):,} training sentences with {', '.join(types) or 'no entity'}; {len(dev):,} for choosing")
    started, states = time.perf_counter(), args.out / "training"
    tagger = make_tagger(args.model, types, args.seed).fit(sentences, dev, states)
    tagger.save(args.out)
    shutil.rmtree(states, ignore_errors=True)
    print(f"{args.model} trained in {time.perf_counter() - started:.0f} s, saved in {args.out}")
    if dev:
        print(f"on dev:\n{evaluate(dev, tagger.predict(dev))}")


def _add_tag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="folder that `train` or Tagger.save wrote")
    parser.add_argument("--input", type=Path, metavar="FILE", help="CoNLL, .jsonl or .pubtator, not stdin")
    parser.add_argument("--format", choices=["lines", *WRITERS], default="lines")
    parser.add_argument("--out", type=Path, metavar="PATH", help="file (a folder for brat) instead of stdout")
    parser.set_defaults(run=tag, parser=parser)


def tag(args: argparse.Namespace) -> None:
    """Read texts, tag them, write them."""
    if args.format == "brat" and not args.out:
        args.parser.error("brat writes two files for each text; say with --out FOLDER where")
    tagger = load_tagger(args.model)
    sentences = tagger.predict(read_sentences(args.input) if args.input else _texts(sys.stdin.buffer.read()))
    write = WRITERS.get(args.format, lambda sentences, path: write_atomically(path, as_lines(sentences)))
    if args.out:
        write(sentences, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(sentences, Path(folder) / "entities")
        content = (Path(folder) / "entities").read_bytes()
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def as_lines(sentences: Iterable[Sentence]) -> str:
    """Each text, and below it one line for each entity: start, end, type, text.

    The offsets count characters from 0 and the second is behind the last, as in `Entity`.
    """
    lines = []
    for sentence in sentences:
        rows = (f"{entity.start:>6} {entity.end:>6}  {entity.type:<12}  {entity.text}" for entity in sentence.entities)
        lines += [sentence.text, *rows, ""]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
