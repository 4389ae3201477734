"""`make bench-ner`: every tagger on every corpus's test split, as tables in Markdown (build/ner_bench/tables.md, those
of the public corpora also in data/ner/results.md).

There are two blocks. *Train only*: everything learns from train, dev chooses epochs, rules and weights. *Train + dev*:
what the train-only run of the same model and seed chose is kept, everything learns from both, nothing is chosen.

Each block, model, corpus and seed is measured once and kept in data/ner/runs, a JSON file beside a compressed one with
the names that it found; the tables are made of all the files there. So a run that was interrupted goes on where it
stopped, and can be done in parts:

    python -m tests.benchmarks.ner --models crf --corpora ncbi-disease --blocks train --again

Ensembles and votes are made of what is measured, and anew when there is more; what still lacks something is passed
over with a word. Votes are counted from what the members found. Ensembles and `--tag-again` need the trained models,
which lie in build/ner_bench; what was measured on another machine must be trained with `--again` before.

Training is given in seconds of processor time, which other work on the machine changes little; tagging in sentences a
second on the wall and of processor time. With `--tag-again` what is trained already only tags once more, for example
to measure its speed when the machine has nothing else to do.
"""

import argparse
import copy
import gzip
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.__main__ import machine
from utils.files import write_atomically
from utils.ner import Sentence, evaluate, load_corpus, load_tagger, make_tagger, read_pubtator
from utils.ner.combine import CorrectedTagger, VotingTagger
from utils.ner.corpora import Corpus
from utils.ner.evaluation import EDGES, Report, count, f1_of, resample
from utils.ner.neural import NeuralTagger
from utils.ner.sentence import Entity
from utils.ner.tagger import VOTERS, Tagger
from utils.ner.tags import from_tags

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "data" / "ner" / "runs"
# Around the tables in the page of results, data/ner/results.md.
TABLES = ("<!-- tables of make bench-ner -->\n\n", "\n<!-- end of the tables -->\n")
TRAINED = ROOT / "build" / "ner_bench"
CORPORA = ("ncbi-disease", "bc5cdr", "bc2gm")
BLOCKS = {"train": "Train only", "train+dev": "Train + dev"}
ENSEMBLES = {"bilstm-crf-ensemble": "bilstm-crf", "transformer-ensemble": "transformer"}  # of what, of all its seeds
VOTES = {"voting": VOTERS, "voting-ensembles": ("crf", "biotagger-gm", *ENSEMBLES), "voting-seeds": VOTERS}
OF_ALL_SEEDS = (*ENSEMBLES, "voting-seeds")
# In this order, so that what they are made of comes before ensembles and votes, and neighbours can be compared.
MODELS = ("dictionary", "crf", "biotagger-gm", "bilstm-crf", "bilstm-crf-ensemble", "transformer")
MODELS += ("transformer-ensemble", *VOTES)
# One seed says it all: they draw no random number, or have all measured seeds of another in them.
SEEDLESS = ("dictionary", "crf", "biotagger-gm", *OF_ALL_SEEDS, "voting-ensembles")
WITHOUT_RULES = ("dictionary", "biotagger-gm")  # BioTagger-GM's members have them already
ABSTRACTS = ("ncbi-disease", "bc5cdr")  # whole abstracts, one after the other; BC2GM has single sentences
BLOCK = 10  # sentences of an abstract, about
# BC2GM has two to three times as many sentences as the others: fewer passes over them, about as many steps.
EPOCHS = {("bc2gm", "transformer"): {"epochs": 4}, ("bc2gm", "bilstm-crf"): {"epochs": 8}}
TRAINING = ("train_seconds", "train_processor_seconds")
SPEEDS = ("sentences_per_second", "sentences_per_processor_second")


@dataclass(frozen=True)
class Run:
    """A model on a corpus, with a seed: what it learns from, and where the result is kept."""

    runs: Path  # results
    trained: Path  # models
    corpus: Corpus
    block: str  # of BLOCKS
    model: str  # of MODELS
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.corpus.name}--{self.model}--{self.seed}"

    @property
    def path(self) -> Path:
        return self.runs / self.block / f"{self.name}.json"

    @property
    def places(self) -> Path:
        """Of each sentence what it found there, and counts of it."""
        return self.path.with_suffix(".json.gz")

    @property
    def folder(self) -> Path:
        return self.trained / self.block / self.name

    @property
    def is_made_of_others(self) -> bool:
        return self.model in (*ENSEMBLES, *VOTES)

    def result(self) -> dict | None:
        """What was measured, or None."""
        return json.loads(self.path.read_text("utf-8")) if self.path.exists() else None

    def found(self, split: str) -> list[Sentence]:
        """The sentences of the split with what it found there."""
        return _marked(self.corpus.split(split), _unpacked(self.places)[split])

    def chosen_before(self) -> dict | None:
        """What the train-only run chose, or None where it is not measured."""
        result = replace(self, block="train").result()
        return result and result["chosen"]

    def members(self) -> list["Run"]:
        """What an ensemble or a vote is made of: all that is measured, or, on train + dev, what it was made of before;
        nothing for other models."""
        if not self.is_made_of_others:
            return []
        if self.block != "train":
            wanted = self.chosen_before()["members"]
        else:
            names = VOTES.get(self.model) or [ENSEMBLES[self.model]]
            wanted = [(name, seed) for name in names for seed in self._seeds(name)]
        members = [replace(self, model=model, seed=seed) for model, seed in wanted]
        return [one for one in members if one.path.exists()] if self.block == "train" else members

    def _seeds(self, member: str) -> list[int]:
        """Those of a member that are measured, for what is made of all seeds; else the one that belongs to it."""
        if self.model not in OF_ALL_SEEDS:
            return [0 if member in SEEDLESS else self.seed]
        measured = self.path.parent.glob(f"{self.corpus.name}--{member}--*.json")
        return sorted(int(path.stem.rpartition("--")[2]) for path in measured)

    def lacks(self) -> str:
        """What has to be measured before, in words; "" where nothing has."""
        if self.block != "train" and self.chosen_before() is None:
            return "its train-only run, whose choices it keeps"
        missing = [one.name for one in self.members() if not one.path.exists()]
        if self.is_made_of_others and len(self.members()) < 2:
            kinds = VOTES.get(self.model, [f"the seeds of {ENSEMBLES.get(self.model)}"])
            return f"two of {', '.join(kinds)}, found {len(self.members())}"
        return ", ".join(missing)

    def untrained(self) -> str:
        """Which of the trained models that tag are not here, in words; "" where none is missing."""
        runs = [] if self.model in VOTES else self.members() or [self]
        gone = ", ".join(one.name for one in runs if not one.is_trained())
        return gone and f"trained models in {self.trained} (--again trains them): {gone}"

    def is_trained(self) -> bool:
        """Whether the trained model is here, that of the result and no other."""
        mark = self.folder / "seconds.json"
        return mark.exists() and json.loads(mark.read_text("utf-8")) == self.result()["train_processor_seconds"]

    def parts(self) -> dict[str, float]:
        """The members as they are trained now, by the seconds that it took: no two trainings take the same."""
        measured = {one.name: one.result() for one in self.members()}
        return {name: result["train_processor_seconds"] for name, result in measured.items() if result}

    def is_stale(self, result: dict) -> bool:
        """Whether other members, or other choices of the train-only run, are there since it was measured."""
        kept = self.block == "train" or result["chosen"] == self.chosen_before()
        return not kept or result["parts"] != self.parts()


def measure(run: Run, before: dict | None = None) -> None:
    """Train (or put together what is trained), tag, score what is found in the test split, and keep all that.

    Args:
        before: what was measured when the saved model was trained; given, it is not trained again.
    """
    corpus = run.corpus
    learnt = {name: before[name] for name in (*TRAINING, "chosen", "bytes", "parts")} if before else _learn(run)
    found, speeds = _tag(run, learnt["chosen"])
    result = {
        "model": run.model,
        "corpus": corpus.name,
        "block": run.block,
        "source": corpus.source,
        "stands_in": corpus.stands_in,
        "seed": run.seed,
        "machine": machine(),
        **learnt,
        **speeds,
        "scores": _scores(corpus, found["test"]),
    }
    places = {split: _places(sentences) for split, sentences in found.items()}
    run.path.unlink(missing_ok=True)  # so that an interrupt leaves no figures beside places of another run
    write_atomically(run.places, _packed(places | {"counts": _counts(corpus, found["test"])}))
    write_atomically(run.path, json.dumps(result, indent=1) + "\n")


def _tag(run: Run, chosen: dict) -> tuple[dict[str, list[Sentence]], dict[str, float]]:
    """What is found in the test split and, by train-only runs, in dev, where votes choose; and the speed on test."""
    corpus = run.corpus
    splits = ["test", "dev"] if run.block == "train" else ["test"]
    if run.model in VOTES:  # the members are only counted: what they found is known
        vote = VotingTagger(run.members(), chosen["weights"], chosen["threshold"])
        found = {split: vote.combine([one.found(split) for one in run.members()]) for split in splits}
        members = [one.result() for one in run.members()]
        return found, {name: 1 / sum(1 / one[name] for one in members) for name in SPEEDS}
    tagger = _load(run, chosen)  # the saved one is what is measured; its stores are empty
    tagger.predict(corpus.test[:1])  # loads what is loaded once
    started = time.perf_counter(), time.process_time()
    found = {"test": tagger.predict(corpus.test)}
    times = time.perf_counter() - started[0], time.process_time() - started[1]
    if "dev" in splits:
        found["dev"] = tagger.predict(corpus.dev)
    return found, {name: len(corpus.test) / seconds for name, seconds in zip(SPEEDS, times)}


def _places(sentences: Sequence[Sentence]) -> list[list[list]]:
    """Of each sentence what is found in it, for JSON."""
    return [[[one.start, one.end, one.type] for one in sentence.entities] for sentence in sentences]


def _marked(sentences: Sequence[Sentence], places: list[list[list]]) -> list[Sentence]:
    """The sentences with what `_places` kept."""
    pairs = zip(sentences, places, strict=True)
    return [sentence.with_entities(Entity(*place) for place in found) for sentence, found in pairs]


def _packed(values: dict) -> bytes:
    return gzip.compress(json.dumps(values, separators=(",", ":")).encode(), mtime=0)  # the same bytes at any time


def _unpacked(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def _learn(run: Run) -> dict:
    """Train and save, or choose how to put members together; say how long it took, members and all."""
    started = time.perf_counter(), time.process_time()
    chosen = _choose(run) if run.is_made_of_others else _train(run)
    times = time.perf_counter() - started[0], time.process_time() - started[1]
    if not run.is_made_of_others:
        write_atomically(run.folder / "seconds.json", json.dumps(times[1]))  # by which it is known
    members = [one.result() for one in run.members()]
    learnt = {name: own + sum(one[name] for one in members) for name, own in zip(TRAINING, times)}
    files = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    return {**learnt, "chosen": chosen, "bytes": files + sum(one["bytes"] for one in members), "parts": run.parts()}


def _train(run: Run) -> dict:
    """Train and save; gives what was chosen on dev, now or by the train-only run."""
    corpus = run.corpus
    types = sorted({entity.type for sentence in corpus.train for entity in sentence.entities})
    tagger = make_tagger(run.model, types, run.seed, **EPOCHS.get((corpus.name, run.model), {}))
    if run.model not in WITHOUT_RULES:
        tagger = CorrectedTagger(tagger)
    if run.block == "train":
        # A dictionary has nothing to choose and would learn the names of dev, too.
        tagger.fit(corpus.train, () if run.model == "dictionary" else corpus.dev)
        chosen = _choices(tagger)
    else:
        chosen = run.chosen_before()
        _take(tagger, chosen)
        tagger.fit([*corpus.train, *corpus.dev])
    tagger.save(run.folder)
    return chosen


def _choices(tagger: Tagger) -> dict:
    """What dev chose: rules, the epoch of a network, weights and threshold of a vote and the same of its members."""
    if isinstance(tagger, CorrectedTagger):
        return _choices(tagger.tagger) | {"rules": tagger.steps}
    if isinstance(tagger, VotingTagger):
        own = {"weights": tagger.weights, "threshold": tagger.threshold}
        return own | {"parts": list(map(_choices, tagger.members))}
    if isinstance(tagger, NeuralTagger):
        return {"epochs": max(tagger.history, key=lambda row: row["score"])["epoch"]}  # of equals the first, as in fit
    return {}


def _take(tagger: Tagger, chosen: dict) -> None:
    """Set an untrained tagger to what was chosen for one that is made like it."""
    if isinstance(tagger, CorrectedTagger):
        tagger.steps = chosen["rules"]
        _take(tagger.tagger, chosen)
    elif isinstance(tagger, VotingTagger):
        tagger.weights, tagger.threshold = chosen["weights"], chosen["threshold"]
        for member, own in zip(tagger.members, chosen["parts"], strict=True):
            _take(member, own)
    elif isinstance(tagger, NeuralTagger):
        tagger.recipe = replace(tagger.recipe, epochs=chosen["epochs"])


def _choose(run: Run) -> dict:
    """How to put members together: rules of an ensemble, weights and threshold of a vote."""
    if run.block != "train":
        return run.chosen_before()
    members = run.members()
    if run.model in VOTES:  # the members are only counted: what they found is known
        vote = VotingTagger(members).choose(run.corpus.dev, [one.found("dev") for one in members])
        chosen = {"weights": vote.weights, "threshold": vote.threshold}
    else:
        chosen = _choices(CorrectedTagger(_averaged(members)).fit((), run.corpus.dev))
    return chosen | {"members": [[one.model, one.seed] for one in members]}


def _load(run: Run, chosen: dict) -> Tagger:
    """The saved tagger, or the ensemble of saved ones with the rules that were chosen."""
    return CorrectedTagger(_averaged(run.members()), chosen["rules"]) if run.members() else load_tagger(run.folder)


def _averaged(members: Sequence[Run]) -> "Ensemble":
    """Of the networks without their rules."""
    return Ensemble([load_tagger(one.folder).tagger for one in members])


class Ensemble(Tagger):
    """Trained networks of one kind, same tags and scheme (else ValueError). A path scores what it scores with all of
    them on average, so emissions and the steps of the chains are averaged before Viterbi."""

    name = "ensemble"

    def __init__(self, members: Sequence[NeuralTagger]) -> None:
        self.members, first = list(members), members[0]
        if different := [one.tags for one in members if (one.tags, one.scheme) != (first.tags, first.scheme)]:
            raise ValueError(f"expected networks with the same tags, got {first.tags} and {different[0]}")
        self.chain = copy.deepcopy(first.network.head.chain).cpu()
        for name, weights in self.chain.named_parameters():
            of_all = [one.network.head.chain.get_parameter(name).detach().cpu() for one in members]
            weights.data = torch.stack(of_all).mean(0)

    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder=None) -> "Ensemble":
        """Nothing to learn: the members have learnt."""
        return self

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        emissions = zip(*(member.emissions(sentences) for member in self.members))
        return [self._best(*pair) if pair[0].tokens else [] for pair in zip(sentences, emissions, strict=True)]

    def _best(self, sentence: Sentence, emissions: Sequence[Tensor]) -> list[Entity]:
        scores = torch.stack(emissions).mean(0).unsqueeze(0)
        (path,) = self.chain.viterbi(scores, torch.ones(scores.shape[:2]))
        tags = [self.members[0].tags[tag] for tag in path]
        return list(from_tags(sentence, tags, self.members[0].scheme).entities)


# -- documents and scores --------------------------------------------------------------------------


def with_documents(corpus: Corpus) -> Corpus:
    """The corpus, its sentences with the abstracts they are of where its original release lies beside it: rules agree
    on abbreviations within an abstract."""

    def read(split: str) -> list[Sentence]:
        original, sentences = corpus.folder / "original" / f"{split}.pubtator.txt", corpus.split(split)
        if not original.exists():
            return sentences
        whole = {one.id: _squeezed(one.text) for one in read_pubtator(original, mismatch="skip")}
        return [replace(s, document=name) for s, name in zip(sentences, _documents(sentences, whole), strict=True)]

    return replace(corpus, read=cache(read))


def _documents(sentences: Sequence[Sentence], whole: dict[str, str]) -> Iterable[str]:
    """For each sentence the name of the text that holds it; of several the one before it, else the first."""
    name = ""
    for sentence in sentences:
        text = _squeezed(sentence.text)
        if text not in whole.get(name, ""):
            name = next((other for other, content in whole.items() if text in content), name)
        yield name


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _scores(corpus: Corpus, predicted: Sequence[Sentence]) -> dict[str, dict]:
    """For each type (and "official", where the corpus has it) precision, recall, F1, and the interval of F1."""
    strict = evaluate(corpus.test, predicted, groups=_groups(corpus))
    found = {name: _row(one) for name, one in (strict.per_type | {"all": strict}).items()}
    if len(strict.per_type) == 1:
        del found["all"]
    if _has_official(corpus):
        found["official"] = _row(evaluate(corpus.test, predicted, mode="bc2", official=corpus.official("test")))
    return found


def _groups(corpus: Corpus) -> list | None:
    """What the bootstrap draws: abstracts where they are known, else blocks of neighbours; None for single ones."""
    if any(sentence.document for sentence in corpus.test):
        return [sentence.document for sentence in corpus.test]
    return [number // BLOCK for number in range(len(corpus.test))] if corpus.name in ABSTRACTS else None


def _counts(corpus: Corpus, predicted: Sequence[Sentence]) -> dict[str, list[list[int]]]:
    """For each row of the table how many entities are right, predicted and in the gold annotation, in each group that
    the bootstrap draws (`_groups`)."""

    def of(kinds: Sequence[str], sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [[entity for entity in sentence.entities if entity.type in kinds] for sentence in sentences]

    types = sorted({entity.type for sentence in (*corpus.test, *predicted) for entity in sentence.entities})
    rows = {kind: [kind] for kind in types} | ({"all": types} if len(types) > 1 else {})
    found = {name: count(of(kinds, corpus.test), of(kinds, predicted)) for name, kinds in rows.items()}
    if _has_official(corpus):
        found["official"] = count(corpus.test, predicted, "bc2", corpus.official("test"))
    groups = _groups(corpus) or range(len(corpus.test))
    return {name: _summed(table, groups).tolist() for name, table in found.items()}


def _summed(counts: np.ndarray, groups: Sequence) -> np.ndarray:
    """Rows of counts, those of a group added up, groups in the order in which they begin, as `resample` has them."""
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(places), counts.shape[1]), int)
    np.add.at(sums, [places[group] for group in groups], counts.astype(int))
    return sums


def _has_official(corpus: Corpus) -> bool:
    return (corpus.folder / "official" / "test.GENE.eval").exists() and not corpus.stands_in


def _row(scores: Report) -> dict:
    return asdict(scores) | {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}


# -- tables ----------------------------------------------------------------------------------------

Rows = dict[tuple[str, str], dict[str, list[dict]]]  # corpus and kind: model: its results, one a seed


def collect(runs: Path) -> list[dict]:
    """All results, in the order of blocks, corpora, models and seeds."""
    paths = [path for block in BLOCKS for path in sorted((runs / block).glob("*.json"))]
    counts = [_unpacked(path.with_suffix(".json.gz"))["counts"] for path in paths]
    results = [json.loads(path.read_text("utf-8")) | {"counts": one} for path, one in zip(paths, counts)]
    blocks = list(BLOCKS)
    place = {"block": blocks.index, "corpus": str, "model": MODELS.index, "seed": int}
    return sorted(results, key=lambda one: [order(one[name]) for name, order in place.items()])


def tables(results: list[dict]) -> str:
    """For each block F1 with corpora as rows and models as columns, differences, all figures; then what dev adds."""
    if not results:
        return "Nothing measured yet."
    blocks = {block: _rows(one for one in results if one["block"] == block) for block in BLOCKS}
    lines = []
    for block, rows in blocks.items():
        lines += _block(BLOCKS[block], rows) if rows else []
    if all(blocks.values()):
        lines += _added(*blocks.values())
    lines += [
        "Exact spans (strict); rows that say official accept the alternatives of the task.",
        "Mean over seeds, and the standard deviation over seeds where there are several.",
        "Intervals hold for the test set drawn anew: bootstrap of abstracts (NCBI-disease), of blocks of "
        f"{BLOCK} neighbouring sentences (BC5CDR, whose files do not say where an abstract ends), of sentences "
        "(BC2GM). Those of F1 are of the first seed's model; those of differences are paired, of the means over seeds.",
        "Training of an ensemble or a vote is that of all members and the choice on dev; tagging of a vote is that of "
        "all members. Training on train + dev is without the train-only run that chose for it.",
    ]
    stand_ins = sorted({f"{one['corpus']} ({one['source']})" for one in results if one["stands_in"]})
    if stand_ins:
        lines += ["", f"Not the real corpora, and not to be compared with anything: {'; '.join(stand_ins)}."]
    machines = sorted({one["machine"] for one in results})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}."])


def _rows(results: Iterable[dict]) -> Rows:
    rows: Rows = {}
    for one in results:
        for kind in one["scores"]:
            rows.setdefault((one["corpus"], kind), {}).setdefault(one["model"], []).append(one)
    return rows


def _models(*blocks: Rows) -> list[str]:
    """Those that every block has."""
    has = [{model for found in rows.values() for model in found} for rows in blocks]
    return [model for model in MODELS if all(model in some for some in has)]


def _block(title: str, rows: Rows) -> list[str]:
    models = _models(rows)
    lines = [f"## {title}", "", "### F1 on test, in percent", "", *_head(["corpus", *models])]
    for (corpus, kind), found in rows.items():
        lines.append(_line(corpus, kind, (_f1(found.get(model, []), kind) for model in models)))
    if len(models) > 1:
        lines += ["", "### F1 of each model less that of the one to its left, with 95% intervals", ""]
        lines += _head(["corpus", *(f"{model} - {left}" for left, model in pairwise(models))])
    for (corpus, kind), found in rows.items() if len(models) > 1 else ():
        pairs = ((found.get(left, []), found.get(model, [])) for left, model in pairwise(models))
        lines.append(_line(corpus, kind, (_change(*pair, kind) for pair in pairs)))
    names = "corpus | model | precision | recall | F1 | 95% interval | training, processor s | sentences/s"
    columns = [*names.split(" | "), "per processor s", "MiB", "seeds"]
    lines += ["", "### All figures", "", f"| {' | '.join(columns)} |", "| --- | --- |" + " ---: |" * (len(columns) - 2)]
    for (corpus, kind), found in rows.items():
        lines += [_details(f"{corpus}, {_says(kind)}", model, found[model], kind) for model in models if model in found]
    return [*lines, ""]


def _added(before: Rows, after: Rows) -> list[str]:
    """What learning from dev, too, brings."""
    models = _models(before, after)
    lines = ["## F1 by train + dev less that by train only, with 95% intervals", "", *_head(["corpus", *models])]
    for (corpus, kind), found in after.items():
        first = before.get((corpus, kind), {})
        changes = (_change(first.get(model, []), found.get(model, []), kind) for model in models)
        lines.append(_line(corpus, kind, changes))
    return [*lines, ""]


def _head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) - 1)]


def _line(corpus: str, kind: str, cells: Iterable[str]) -> str:
    return f"| {corpus}, {_says(kind)} | {' | '.join(cells)} |"


def _change(first: list[dict], second: list[dict], kind: str) -> str:
    if not (first and second):
        return ""
    here, low, high = (100 * value for value in change(first, second, kind))
    return f"{here:+.1f} ({low:+.1f} to {high:+.1f})"


def change(first: Sequence[dict], second: Sequence[dict], kind: str) -> tuple[float, float, float]:
    """F1 of `second` less that of `first`, each the mean over its results, and its 95% interval: low, high.

    All are scored on the same resampled groups (paired bootstrap), as in `utils.ner.evaluation.difference`.
    """
    rows = np.concatenate([np.array(one["counts"][kind], float) for one in (*first, *second)], axis=1)
    drawn = np.vstack([rows.sum(0), resample(rows)])  # the first row: as it is
    f1 = np.stack([f1_of(drawn[:, k : k + 3]) for k in range(0, drawn.shape[1], 3)])
    here, *changes = (f1[len(first) :].mean(0) - f1[: len(first)].mean(0)).tolist()
    return here, *np.quantile(changes, EDGES).tolist()


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
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the models that draw random numbers"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    parser.add_argument("--tag-again", action="store_true", help="tag and score anew what is there, without training")
    where = "where results are and go (default data/ner/runs, of other corpora build/ner_bench/runs)"
    parser.add_argument("--out", type=Path, help=where)
    parser.add_argument(
        "--trained", type=Path, default=TRAINED, help="where models and tables are and go (default build/ner_bench)"
    )
    args = parser.parse_args(arguments)
    used: dict[Path, None] = {}
    for name in args.corpora:
        corpus = with_documents(load_corpus(name))
        # What stands in, or is somebody's own, is never among the results of the public corpora.
        runs = args.out or (RUNS if name in CORPORA and not corpus.stands_in else args.trained / "runs")
        used[runs] = None
        for block in (one for one in BLOCKS if one in args.blocks):
            for model in (one for one in MODELS if one in args.models):
                for seed in args.seeds if model not in SEEDLESS else [0]:
                    run = Run(runs, args.trained, corpus, block, model, seed)
                    _measure_once(run, args.again, args.tag_again)
    texts = {runs: tables(collect(runs)) + "\n" for runs in used}
    text = "\n".join(texts.values())
    print(f"\n{text}")
    write_atomically(args.trained / "tables.md", text)
    if RUNS in texts:
        _put_into(RUNS.parent / "results.md", texts[RUNS])


def _put_into(page: Path, text: str) -> None:
    """Put the tables into the page of results, in place of those that stand between the two marks. Where these are not
    found the page stays as it is, so that no words are lost."""
    begin, end = TABLES
    before, found_begin, rest = (page.read_text("utf-8") if page.exists() else "").partition(begin)
    _, found_end, after = rest.partition(end)
    if found_begin and found_end:
        write_atomically(page, before + begin + text + end + after)
    else:
        print(f"{page} has no tables between {begin.strip()} and {end.strip()}, so they were not put there")


def _measure_once(run: Run, again: bool, tag_again: bool) -> None:
    """Measure what is not there, or not any more, and can be; say what is done."""
    about = f"{run.corpus.name}: {run.model}, seed {run.seed}, {BLOCKS[run.block].lower()}"
    before = None if again else run.result()
    if before and run.is_stale(before):
        run.path.unlink()  # nor is it in the tables where it cannot be made anew
        before = None
    if before and not tag_again:
        print(f"{about}: is there; --again measures it anew")
        return
    if lacks := run.lacks() or ((before or run.is_made_of_others) and run.untrained()):
        print(f"{about}: passed over, it needs {lacks}")
        return
    print(about, flush=True)
    measure(run, before)


if __name__ == "__main__":
    main()
