"""Make data/checkpoints/tagger, which finds genes, diseases and chemicals: `python data/make_ready_tagger.py`.

No corpus here annotates all three, so one CRF a type learns from the corpora that annotate it, and all that one of them
finds is kept. COURSE_DATA=FOLDER says where corpora and lists of names are. What is printed goes into the card,
data/checkpoints/tagger.md.

    python data/make_ready_tagger.py        # learns from train and dev, saves, scores on test: four minutes of one core
    python data/make_ready_tagger.py --dev  # learns from train, scores on dev: by which the settings were chosen
"""

import argparse
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pycrfsuite

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.files import sha256_of
from utils.ner import (
    CorrectedTagger,
    CRFTagger,
    Sentence,
    VotingTagger,
    WordFeatures,
    evaluate,
    load_corpus,
    load_lexicon,
    load_tagger,
)
from utils.ner.corpora import Corpus
from utils.ner.evaluation import Report
from utils.ner.lexicons import lexicon_for
from utils.ner.tagger import READY, Tagger

# What each corpus annotates, and what it is called here.
ANNOTATED = {
    "bc2gm": {"GENE": "Gene"},
    "bc5cdr": {"Chemical": "Chemical", "Disease": "Disease"},
    "ncbi-disease": {"Disease": "Disease"},
    "course-corpus": {"GENE": "Gene", "CHEMICAL": "Chemical", "DISEASE": "Disease"},
}
LEARNT_FROM = {"Gene": ["bc2gm"], "Disease": ["bc5cdr", "ncbi-disease"], "Chemical": ["bc5cdr"]}
KEPT = {"Gene": 25_000, "Disease": 13_000, "Chemical": 10_000}  # features: together they make 8 MB with the lists
BLOCK = {"bc2gm": 1}  # sentences that the bootstrap draws together: single ones, or 10 neighbours, about an abstract


def read(corpus: Corpus, splits: Sequence[str]) -> list[Sentence]:
    """The corpus's sentences, its types under the names they have here. SystemExit: the corpus is not to be had."""
    if corpus.stands_in:
        raise SystemExit(f"{corpus.name} itself is needed, and was not found; COURSE_DATA=FOLDER says where it is")
    names = ANNOTATED[corpus.name]
    sentences = [sentence for split in splits for sentence in corpus.split(split)]
    return [s.with_entities(replace(e, type=names[e.type]) for e in s.entities) for s in sentences]


def of_type(sentences: Sequence[Sentence], kind: str) -> list[Sentence]:
    """The sentences with their entities of one type alone."""
    return [s.with_entities(e for e in s.entities if e.type == kind) for s in sentences]


def strongest(tagger: CRFTagger, count: int) -> set[str]:
    """The features with the largest weights, whatever their sign and tag."""
    with TemporaryDirectory() as folder:
        tagger.save(folder)
        model = pycrfsuite.Tagger()
        model.open(str(Path(folder, "model.crfsuite")))
        weights = defaultdict(float)
        for (feature, _), weight in model.info().state_features.items():
            weights[feature] = max(weights[feature], abs(weight))
    return set(sorted(weights, key=lambda feature: (-weights[feature], feature))[:count])


def learn(kind: str, train: list[Sentence]) -> CorrectedTagger:
    """A small CRF: a first one chooses the features that matter, with an L1 penalty that makes most weights zero; the
    second learns from these alone with a lower penalty, which would keep far more features by itself."""
    lexicon = load_lexicon(lexicon_for(kind))
    if lexicon.stands_in:
        raise SystemExit(f"the list of {lexicon.name} is needed, and was not found; COURSE_DATA=FOLDER says where")
    features = WordFeatures(lexicons=[lexicon])
    kept = strongest(CRFTagger(features, c1=0.5, iterations=40).fit(train), KEPT[kind])

    def few(words: list[str]) -> list[list[str]]:
        return [[feature for feature in found if feature in kept] for found in features(words)]

    tagger = CRFTagger(few, iterations=50).fit(train)
    tagger.features = features  # it passes over those that it has no weight for
    return CorrectedTagger(tagger)


def row(where: str, kind: str, scores: Report) -> str:
    """A row of the card's table, in percent."""
    numbers = [f"{100 * value:.1f}" for value in (scores.precision, scores.recall, scores.f1)]
    low, high = scores.intervals["f1"]
    return f"| {' | '.join([where, kind, *numbers, f'{100 * low:.1f} to {100 * high:.1f}', f'{scores.support:,}'])} |"


def rows(tagger: Tagger, corpus: Corpus, splits: Sequence[str]) -> Iterator[str]:
    """How the tagger does on these sentences, a row for each type, and how fast."""
    gold, where = read(corpus, splits), f"{corpus.name}, {' + '.join(splits)}"
    started = time.perf_counter()
    predicted = tagger.predict(gold)
    seconds = time.perf_counter() - started
    groups = [sentence.document or place // BLOCK.get(corpus.name, 10) for place, sentence in enumerate(gold)]
    for kind in ANNOTATED[corpus.name].values():
        yield row(where, kind, evaluate(of_type(gold, kind), of_type(predicted, kind), groups=groups))
    if corpus.name == "bc2gm":
        official = {"mode": "bc2", "official": corpus.official(splits[0])}
        yield row(f"{where}, its own rules", "Gene", evaluate(gold, of_type(predicted, "Gene"), **official))
    yield f"{len(gold):,} sentences in {seconds:.1f} s, {len(gold) / seconds:,.0f} a second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="learn from train, save nothing, score on dev")
    args = parser.parse_args()
    started = time.perf_counter()
    corpora = {name: load_corpus(name) for name in ANNOTATED}
    members = []
    for kind, names in LEARNT_FROM.items():
        train = [s for name in names for s in read(corpora[name], ["train"] if args.dev else ["train", "dev"])]
        members.append(learn(kind, of_type(train, kind)))
    tagger = VotingTagger(members, threshold=0, overlaps=True)
    print(f"learnt in {time.perf_counter() - started:.0f} s")
    if not args.dev:
        shutil.rmtree(READY, ignore_errors=True)
        tagger.save(READY)
        tagger = load_tagger()
        for path in sorted(filter(Path.is_file, READY.rglob("*"))):
            print(f"{path.relative_to(READY)}: {path.stat().st_size:,} bytes, SHA-256 {sha256_of(path)}")
    for name, corpus in corpora.items():
        for line in rows(tagger, corpus, corpus.splits if name == "course-corpus" else ["dev" if args.dev else "test"]):
            print(line)


if __name__ == "__main__":
    main()
