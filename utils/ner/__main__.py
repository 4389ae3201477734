"""Train a tagger and save it; find entities in texts with it, or with the one that the course brings.

    python -m utils.ner tag < abstracts.txt
    python -m utils.ner train --corpus ncbi-disease --model crf --out models/diseases
    python -m utils.ner train --train mine.conll --dev mine-dev.conll --model crf --out models/mine
    python -m utils.ner tag models/diseases < abstracts.txt
    python -m utils.ner tag models/diseases --input mine.conll --format brat --out folder

After an interruption the same command goes on where networks and votes stopped (their states are in DIR/training until
the end); a CRF or a dictionary begins again. `tag` takes one text a line, from standard input or a .txt.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from utils.files import TrainingDiverged, check_writable, write_atomically
from utils.ner.corpora import OWN_ENDINGS, corpus_names, load_corpus
from utils.ner.evaluation import evaluate
from utils.ner.formats import MISMATCHES, READERS, WRITERS, read_lines, read_sentences
from utils.ner.sentence import Sentence
from utils.ner.tagger import HEADER, MODELS, NETWORKS, load_tagger, make_tagger
from utils.ner.tags import ON_LOSS, at_token_edges

# What messages of the library advise, and the switch for it.
SWITCHES = {'mismatch="skip"': "--mismatch skip", 'on_loss="drop"': "--on-loss drop", "`tags.at_token_edges`": "--snap"}
SWITCHES |= {"lower learning_rate": "lower --learning-rate", 'precision="no"': "--precision no"}


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for. A stream that is closed shows nothing, a letter that it lacks is an escape."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    sys.stdout.reconfigure(errors="backslashreplace")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m utils.ner", description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True)
    _add_train(commands.add_parser("train", help="train a tagger and save it"))
    _add_tag(commands.add_parser("tag", help="find entities in texts with a saved tagger"))
    about = "a mention whose text is another than the text at its offsets is an error, or left out"
    for command in commands.choices.values():
        command.add_argument("--mismatch", choices=MISMATCHES, default="refuse", help=about)
    args = parser.parse_args(arguments)
    problem = None
    try:
        args.run(args)
    except (ValueError, OSError, TrainingDiverged) as error:
        problem = str(error) or repr(error)
        for advice, switch in SWITCHES.items():
            problem = problem.replace(advice, switch)
    except KeyboardInterrupt:
        problem = "interrupted; the same command goes on or, where it cannot, begins again"
    try:
        sys.stdout.flush()
    except OSError as error:
        problem = problem or str(error)
        with suppress(OSError):
            sys.stdout.close()  # so that Python does not try again at its end
    if problem:
        sys.exit(f"{args.parser.prog}: {problem}")


def _add_train(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--corpus", help=f"one of {', '.join(corpus_names())}; or a folder of your own files")
    source.add_argument("--train", type=Path, metavar="FILE", help="your own sentences: CoNLL, .jsonl or .pubtator")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="with --train: sentences to choose settings on")
    parser.add_argument("--model", choices=MODELS, default="crf")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the trained tagger")
    parser.add_argument("--seed", type=int, default=0, help="of networks; a dictionary and a CRF draw nothing")
    parser.add_argument("--snap", action="store_true", help="move entities to the edges of the tokens that they touch")
    parser.add_argument("--learning-rate", type=float, help="of a network; a lower one is safer")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], help="of a network")
    parser.set_defaults(run=train, parser=parser)


def train(args: argparse.Namespace) -> None:
    """Read the sentences, train, save; print the scores on dev."""
    if args.corpus:
        if args.dev:
            args.parser.error("--dev goes with --train; a corpus brings its own")
        corpus = load_corpus(args.corpus, args.mismatch)
        sentences, dev = corpus.train, corpus.dev if "dev" in corpus.splits else []
    else:
        read = partial(read_sentences, mismatch=args.mismatch)
        sentences, dev = read(args.train), read(args.dev) if args.dev else []
    if args.snap:
        sentences, dev = (list(map(at_token_edges, some)) for some in (sentences, dev))
    types = sorted({entity.type for sentence in sentences for entity in sentence.entities})
    print(f"{len(sentences):,} training sentences with {', '.join(types) or 'no entity'}; {len(dev):,} for choosing")
    started, states = time.perf_counter(), args.out / "training"
    options = {name: vars(args)[name] for name in ("learning_rate", "precision") if vars(args)[name] is not None}
    if options and args.model not in NETWORKS:
        networks = f"{', '.join(NETWORKS[:-1])} and {NETWORKS[-1]}"
        args.parser.error(f"--learning-rate and --precision are for {networks}, not for {args.model}")
    tagger = make_tagger(args.model, types, args.seed, **options)
    check_writable(args.out / HEADER)
    tagger.fit(sentences, dev, states)
    tagger.save(args.out)
    shutil.rmtree(states, ignore_errors=True)
    print(f"{args.model} trained in {time.perf_counter() - started:.0f} s, saved in {args.out}")
    if dev:
        print(f"on dev:\n{evaluate(dev, tagger.predict(dev))}")


def _add_tag(parser: argparse.ArgumentParser) -> None:
    about = "folder that `train` or Tagger.save wrote; without it genes, diseases and chemicals are found"
    parser.add_argument("model", type=Path, nargs="?", help=about)
    parser.add_argument("--input", type=Path, metavar="PATH", help="a file, or a brat folder, instead of stdin")
    about = "of --input; by default what its name ends in: .txt is one text a line"
    parser.add_argument("--input-format", choices=["lines", *READERS], help=about)
    parser.add_argument("--format", choices=["lines", *WRITERS], default="lines")
    parser.add_argument("--out", type=Path, metavar="PATH", help="file (a folder for brat) instead of stdout")
    parser.add_argument("--on-loss", choices=ON_LOSS, default="raise", help="of what conll or pubtator cannot hold")
    parser.add_argument("--layers", type=int, default=1, help="of tags in conll, for nested entities")
    parser.set_defaults(run=tag, parser=parser)


def tag(args: argparse.Namespace) -> None:
    """Read texts, tag them, write them; what cannot be written is said before the work."""
    if args.input_format not in (None, "lines") and not args.input:
        args.parser.error(f"--input-format {args.input_format} is of a file; name it with --input")
    if args.format == "brat" and not args.out:
        args.parser.error("brat writes two files for each text; say with --out FOLDER where")
    if args.out and args.out.exists() and args.out.is_dir() != (args.format == "brat"):
        args.parser.error(f"--out {args.out} is {'a' if args.out.is_dir() else 'no'} folder; brat alone writes folders")
    if not ((args.input or sys.stdin) and (args.out or sys.__stdout__)):
        raise ValueError("standard input or output is closed; say with --input what to read, with --out where to write")
    tagger, sentences = load_tagger(args.model), _read(args)
    options = {"conll": {"layers": args.layers, "on_loss": args.on_loss}, "pubtator": {"on_loss": args.on_loss}}
    write = partial(WRITERS.get(args.format, write_lines), **options.get(args.format, {}))
    with tempfile.TemporaryDirectory() as folder:
        entities = Path(folder) / "entities"
        if args.format == "brat":  # what the folder holds, it holds in the trial too
            entities.mkdir()
            for path in args.out.glob("*"):
                (entities / path.name).touch()
        write([sentence.with_entities(()) for sentence in sentences], entities)
        if args.out:
            check_writable(args.out / "1.txt" if args.format == "brat" else args.out)
        write(tagger.predict(sentences), args.out or entities)
        content = b"" if args.out else entities.read_bytes()
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(args: argparse.Namespace) -> list[Sentence]:
    """What is to be tagged; of plain text each line that is not empty, by its number."""
    path = args.input or Path("standard input")
    plain = path.suffix.lower() == ".txt" and not {*path.with_suffix("").suffixes} & {*OWN_ENDINGS}
    form = args.input_format or ("auto" if args.input and not plain else "lines")
    if form != "lines":
        return read_sentences(path, form, args.mismatch)
    content = None if args.input else sys.stdin.buffer.read()
    return [Sentence(line, id=str(number)) for number, line in read_lines(path, content) if line.strip()]


def write_lines(sentences: Iterable[Sentence], path: Path) -> None:
    """Each text, and below it one line for each entity: start, end (as in `Entity`), type, text."""
    content = ""
    for sentence in sentences:
        rows = (f"{entity.start:>6} {entity.end:>6}  {entity.type:<12}  {entity.text}" for entity in sentence.entities)
        content += "\n".join([sentence.text, *rows, "", ""])
    write_atomically(path, content)


if __name__ == "__main__":
    for name in {"SIGTERM", "SIGHUP"} & {*dir(signal)}:  # as Ctrl-C: what has been learnt is saved first
        if signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
            signal.signal(getattr(signal, name), signal.default_int_handler)
    main()
