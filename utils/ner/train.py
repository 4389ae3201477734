"""Train a tagger from the command line and save it.

    python -m utils.ner.train --corpus ncbi-disease --model crf --out models/diseases
    python -m utils.ner.train --corpus my/folder --model crf --out models/mine
    python -m utils.ner.train --train mine.conll --dev mine-dev.conll --model crf --out models/mine

Training can be interrupted. The same command goes on where networks and votes stopped (their states are in DIR/training
until the end); a CRF or a dictionary begins again.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from utils.ner.corpora import corpus_names, load_corpus
from utils.ner.evaluation import evaluate
from utils.ner.formats import read_sentences
from utils.ner.sentence import Sentence
from utils.ner.taggers.base import fit_whole
from utils.ner.taggers.registry import make_tagger, model_names


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the sentences, train, save; print the scores on dev."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.ner.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    known = ", ".join(corpus_names())
    source.add_argument("--corpus", help=f"one of {known}; or a folder with your own train, dev and test files")
    source.add_argument("--train", type=Path, metavar="FILE", help="your own sentences: CoNLL, .jsonl or .pubtator")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="with --train: sentences to choose settings on")
    parser.add_argument("--model", choices=model_names(), default="crf")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the trained tagger")
    parser.add_argument("--seed", type=int, default=0, help="of networks; a dictionary and a CRF draw nothing")
    args = parser.parse_args(arguments)
    if args.corpus and args.dev:
        parser.error("--dev goes with --train; a corpus brings its own")
    if args.corpus and args.corpus not in corpus_names() and not Path(args.corpus).is_dir():
        parser.error(f"--corpus {args.corpus}: no folder, and not one of {known}")
    try:
        _run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: interrupted; the same command goes on or, where it cannot, begins again")


def _run(args: argparse.Namespace) -> None:
    train, dev = _sentences(args)
    types = sorted({entity.type for sentence in train for entity in sentence.entities})
    print(f"{len(train):,} training sentences with {', '.join(types) or 'no entity'}; {len(dev):,} for choosing")
    tagger = make_tagger(args.model, types, args.seed)
    started = time.perf_counter()
    states = args.out / "training"
    fit_whole(tagger, train, dev, states)
    tagger.save(args.out)
    shutil.rmtree(states, ignore_errors=True)
    print(f"{args.model} trained in {time.perf_counter() - started:.0f} s, saved in {args.out}")
    if dev:
        print(f"on dev:\n{evaluate(dev, tagger.predict(dev))}")


def _sentences(args: argparse.Namespace) -> tuple[list[Sentence], list[Sentence]]:
    if args.corpus:
        corpus = load_corpus(args.corpus)
        return corpus.train, corpus.dev
    return read_sentences(args.train), read_sentences(args.dev) if args.dev else []


if __name__ == "__main__":
    main()
