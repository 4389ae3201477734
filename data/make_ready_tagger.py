"""Make data/checkpoints/tagger, which finds genes, diseases and chemicals: `python data/make_ready_tagger.py`.

No corpus here annotates all three. So a CRF for each type learns from the corpora that annotate it, and adds it to the
sentences of the others, where nothing annotated is in its way; one CRF then learns all three from all sentences.
COURSE_DATA=FOLDER says where the corpora are. What is printed are the tables of the card, data/checkpoints/tagger.md.

    python data/make_ready_tagger.py        # learns from train and dev, saves, scores on test
    python data/make_ready_tagger.py --dev  # learns from train, scores on dev: what the settings were chosen by
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.files import sha256_of
from utils.ner import CRFTagger, Sentence, WordFeatures, evaluate, lexicon_names, load_corpus, load_lexicon
from utils.ner.evaluation import Report
from utils.ner.tagger import READY, Tagger

# What each corpus annotates, and what it is called here.
ANNOTATED = {
    "bc2gm": {"GENE": "Gene"},
    "bc5cdr": {"Chemical": "Chemical", "Disease": "Disease"},
    "ncbi-disease": {"Disease": "Disease"},
}
TYPES = ("Gene", "Disease", "Chemical")
BLOCK = {"bc2gm": 1, "bc5cdr": 10, "ncbi-disease": 10}  # neighbouring sentences, about an abstract
Sentences = list[Sentence]


def read(name: str, *splits: str) -> Sentences:
    """The corpus's sentences, its types under the names they have here. SystemExit: the corpus is not to be had."""
    corpus, names = load_corpus(name), ANNOTATED[name]
    if corpus.stands_in:
        raise SystemExit(f"{name} itself is needed, and was not found; COURSE_DATA=FOLDER says where it is")
    sentences = [sentence for split in splits for sentence in corpus.split(split)]
    return [s.with_entities(replace(e, type=names[e.type]) for e in s.entities) for s in sentences]


def of_type(sentences: Sequence[Sentence], kind: str) -> Sentences:
    """The sentences with their entities of one type alone."""
    return [s.with_entities(e for e in s.entities if e.type == kind) for s in sentences]


def complete(sentences: Sentences, kind: str, teacher: Tagger) -> Sentences:
    """The sentences with the teacher's entities of a type added, but those that overlap one that is there."""
    completed = []
    for sentence, found in zip(sentences, of_type(teacher.predict(sentences), kind)):
        added = [e for e in found.entities if not any(map(e.overlaps, sentence.entities))]
        completed.append(sentence.with_entities([*sentence.entities, *added]))
    return completed


def learn(train: dict[str, Sentences]) -> CRFTagger:
    """One CRF for all types, from each corpus's sentences, which a CRF for each type completes."""
    features = WordFeatures(lexicons=map(load_lexicon, lexicon_names()))
    completed = dict(train)
    for kind in TYPES:
        having = [name for name in train if kind in ANNOTATED[name].values()]
        gold = [sentence for name in having for sentence in of_type(train[name], kind)]
        teacher = CRFTagger(features, iterations=ITERATIONS).fit(gold)
        for name in {*train} - {*having}:
            completed[name] = complete(completed[name], kind, teacher)
    everything = [sentence for name in train for sentence in completed[name]]
    return CRFTagger(features, c1=C1, iterations=ITERATIONS).fit(everything)


def row(where: str, kind: str, scores: Report) -> str:
    """A row of the card's table, in percent."""
    numbers = [f"{100 * value:.1f}" for value in (scores.precision, scores.recall, scores.f1)]
    low, high = scores.intervals["f1"]
    interval = f"{100 * low:.1f} to {100 * high:.1f}"
    return f"| {' | '.join([where, kind, *numbers, interval, f'{scores.support:,}'])} |"


def rows(tagger: Tagger, split: str) -> Iterator[str]:
    """How the tagger does on a split of each corpus, and what is its speed."""
    seconds, total = 0.0, 0
    for name, names in ANNOTATED.items():
        gold, started = read(name, split), time.perf_counter()
        predicted = tagger.predict(gold)
        seconds, total = seconds + time.perf_counter() - started, total + len(gold)
        groups = [place // BLOCK[name] for place in range(len(gold))]
        for kind in names.values():
            pair = of_type(gold, kind), of_type(predicted, kind)
            yield row(f"{name}, {split}", kind, evaluate(*pair, groups=groups))
        if name == "bc2gm":
            official = load_corpus(name).official(split)
            scores = evaluate(gold, of_type(predicted, "Gene"), mode="bc2", official=official, groups=groups)
            yield row(f"{name}, {split}, by the task's rules", "Gene", scores)
    yield f"{total:,} sentences in {seconds:.0f} s: {total / seconds:,.0f} a second"
