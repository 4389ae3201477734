"""`make bench-ner`: every tagger on every corpus's test split, as tables in Markdown, also in build/ner_bench.md.

Each model, corpus and seed is measured once and kept as a JSON file in build/ner_bench; the tables are made of all the
files there. So a run that was interrupted goes on where it stopped, and one model can be measured again by itself:

    python -m tests.benchmarks.ner --models crf --corpora ncbi-disease --again

Models are trained on train; dev is for choosing only. Training is given in seconds of processor time, which other work
on the machine changes little; tagging in sentences a second on the wall and of processor time. With `--tag-again` what
is trained already only tags once more, for example to measure its speed when the machine has nothing else to do.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.__main__ import machine
from utils.files import write_atomically
from utils.ner import Sentence, evaluate, load_corpus, load_tagger, make_tagger, read_pubtator
from utils.ner.combine import VotingTagger
from utils.ner.corpora import Corpus
from utils.ner.evaluation import Report
from utils.ner.tagger import HEADER, MODELS, VOTERS, Tagger

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "ner_bench"
CORPORA = ("ncbi-disease", "bc5cdr", "bc2gm")
SEEDLESS = ("dictionary", "crf", "biotagger-gm")  # draw no random number: one seed says it all
ABSTRACTS = ("ncbi-disease", "bc5cdr")  # whole abstracts, one after the other; BC2GM has single sentences
BLOCK = 10  # sentences of an abstract, about
# BC2GM has two to three times as many sentences as the others: fewer passes over them, about as many steps.
EPOCHS = {("bc2gm", "transformer"): {"epochs": 4}, ("bc2gm", "bilstm-crf"): {"epochs": 8}}
TRAINING = ("train_seconds", "train_processor_seconds")


def measure(model: str, corpus: Corpus, seed: int, out: Path, before: dict | None = None) -> dict:
    """Train (or, for a vote, load what is trained), tag the test split, score it.

    Args:
        before: what was measured when the saved model was trained; given, it is not trained again.
    """
    folder = out / "models" / f"{corpus.name}--{model}--{seed}"
    times = {name: before[name] for name in TRAINING} if before else _train(model, corpus, seed, out, folder)
    tagger = load_tagger(folder)  # the saved one is what is measured; its stores are empty
    tagger.predict(corpus.test[:1])  # loads what is loaded once
    started = time.perf_counter(), time.process_time()
    predicted = tagger.predict(corpus.test)
    wall, processor = time.perf_counter() - started[0], time.process_time() - started[1]
    return {
        "model": model,
        "corpus": corpus.name,
        "source": corpus.source,
        "stands_in": corpus.stands_in,
        "seed": seed,
        "machine": machine(),
        **times,
        "sentences_per_second": len(corpus.test) / wall,
        "sentences_per_processor_second": len(corpus.test) / processor,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "scores": _scores(corpus, predicted),
    }


def _train(model: str, corpus: Corpus, seed: int, out: Path, folder: Path) -> dict[str, float]:
    """Train and save, and say how long it took."""
    started = time.perf_counter(), time.process_time()
    tagger = _trained(model, corpus, seed, out)
    times = dict(zip(TRAINING, (time.perf_counter() - started[0], time.process_time() - started[1])))
    tagger.save(folder)
    return times


def _trained(model: str, corpus: Corpus, seed: int, out: Path) -> Tagger:
    if model != "voting":
        types = sorted({entity.type for sentence in corpus.train for entity in sentence.entities})
        tagger = make_tagger(model, types, seed, **EPOCHS.get((corpus.name, model), {}))
        return tagger.fit(corpus.train, corpus.dev)
    places = [out / "models" / f"{corpus.name}--{voter}--{0 if voter in SEEDLESS else seed}" for voter in VOTERS]
    # Of the voters, those that are measured.
    members = [load_tagger(place) for place in places if (place / HEADER).exists()]
    if len(members) < 2:
        names = ", ".join(VOTERS)
        raise SystemExit(f"voting on {corpus.name} needs two of {names} measured before, found {len(members)}")
    return VotingTagger(members).choose(corpus.dev)


def _scores(corpus: Corpus, predicted: Sequence[Sentence]) -> dict[str, dict]:
    """For each type (and "official", where the corpus has it) precision, recall, F1, and the interval of F1."""
    strict = evaluate(corpus.test, predicted, groups=_groups(corpus))
    found = {name: _row(one) for name, one in (strict.per_type | {"all": strict}).items()}
    if len(strict.per_type) == 1:
        del found["all"]
    if (corpus.folder / "official" / "test.GENE.eval").exists() and not corpus.stands_in:
        found["official"] = _row(evaluate(corpus.test, predicted, mode="bc2", official=corpus.official("test")))
    return found


def _groups(corpus: Corpus) -> list | None:
    """What the bootstrap draws: abstracts, as the original release or the sentences name them, else blocks of
    neighbours; None for single sentences."""
    original = corpus.folder / "original" / "test.pubtator.txt"
    if any(sentence.document for sentence in corpus.test):
        return [sentence.document for sentence in corpus.test]
    if corpus.name not in ABSTRACTS:
        return None
    if not original.exists():
        return [number // BLOCK for number in range(len(corpus.test))]
    whole = {one.id: _squeezed(one.text) for one in read_pubtator(original, mismatch="skip")}
    names: list[str] = []
    for sentence in corpus.test:
        found = [name for name, text in whole.items() if _squeezed(sentence.text) in text]
        # A short sentence may stand in several; then it goes with the one before it.
        names.append(names[-1] if names and names[-1] in found else found[0])
    return names


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _row(scores: Report) -> dict:
    return asdict(scores) | {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}


# -- tables ----------------------------------------------------------------------------------------


def collect(out: Path) -> list[dict]:
    """All results, in the order of models and seeds."""
    results = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*.json"))]
    return sorted(results, key=lambda one: (one["corpus"], MODELS.index(one["model"]), one["seed"]))


def tables(results: list[dict]) -> str:
    """F1 with corpora as rows and models as columns, then all figures."""
    if not results:
        return "Nothing measured yet."
    models = list(dict.fromkeys(one["model"] for one in sorted(results, key=lambda one: MODELS.index(one["model"]))))
    groups: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for one in results:
        for kind in one["scores"]:
            groups.setdefault((one["corpus"], kind), {}).setdefault(one["model"], []).append(one)
    head = f"| corpus | {' | '.join(models)} |"
    lines = ["### F1 on test, in percent", "", head, "| --- |" + " ---: |" * len(models)]
    for (corpus, kind), found in groups.items():
        cells = [_f1(found.get(model, []), kind) for model in models]
        lines.append(f"| {corpus}, {_says(kind)} | {' | '.join(cells)} |")
    lines += [
        "",
        "Exact spans (strict); rows that say official accept the alternatives of the task.",
        "Mean over seeds, and the standard deviation over seeds where there are several.",
        "Intervals are those of the first seed's model: bootstrap of abstracts (NCBI-disease), of blocks of "
        f"{BLOCK} neighbouring sentences (BC5CDR, whose files do not say where an abstract ends), of sentences "
        "(BC2GM).",
        "",
        "### All figures",
        "",
        "| corpus | model | precision | recall | F1 | 95% interval | training, processor s | sentences/s | "
        "per processor s | MiB | seeds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (corpus, kind), found in groups.items():
        for model in sorted(found, key=MODELS.index):
            lines.append(_details(f"{corpus}, {_says(kind)}", model, found[model], kind))
    stand_ins = sorted({f"{one['corpus']} ({one['source']})" for one in results if one["stands_in"]})
    if stand_ins:
        lines += ["", f"Not the real corpora, and not to be compared with anything: {'; '.join(stand_ins)}."]
    machines = sorted({one["machine"] for one in results})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}."])


def _says(kind: str) -> str:
    return "official (ALTGENE)" if kind == "official" else kind


def _f1(results: list[dict], kind: str) -> str:
    values = [100 * one["scores"][kind]["f1"] for one in results]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _details(row: str, model: str, results: list[dict], kind: str) -> str:
    def mean(values: Iterable[float]) -> float:
        return statistics.mean(list(values))

    scores = [one["scores"][kind] for one in results]
    precision, recall = (100 * mean(one[name] for one in scores) for name in ("precision", "recall"))
    low, high = (100 * edge for edge in scores[0]["intervals"]["f1"])
    seconds = mean(one["train_processor_seconds"] for one in results)
    speed, per_processor = (
        mean(one[name] for one in results) for name in ("sentences_per_second", "sentences_per_processor_second")
    )
    size = mean(one["bytes"] for one in results) / 2**20
    return (
        f"| {row} | {model} | {precision:.1f} | {recall:.1f} | {_f1(results, kind)} | {low:.1f} to {high:.1f} | "
        f"{seconds:,.0f} | {speed:,.0f} | {per_processor:,.0f} | {size:.1f} | {len(results)} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--corpora", nargs="+", default=CORPORA, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the models that draw random numbers")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    parser.add_argument("--tag-again", action="store_true", help="tag and score anew what is there, without training")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(arguments)
    for name in args.corpora:
        corpus = load_corpus(name)
        for model in args.models:
            for seed in args.seeds if model not in SEEDLESS else [0]:
                path = args.out / f"{corpus.name}--{model}--{seed}.json"
                before = json.loads(path.read_text("utf-8")) if path.exists() and not args.again else None
                if before and not args.tag_again:
                    print(f"{path.name} is there; --again measures it anew")
                    continue
                print(f"{corpus.name}: {model}, seed {seed}", flush=True)
                write_atomically(path, json.dumps(measure(model, corpus, seed, args.out, before), indent=1) + "\n")
    text = tables(collect(args.out)) + "\n"
    print(f"\n{text}")
    write_atomically(args.out.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
