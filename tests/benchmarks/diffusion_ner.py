"""What diffusion adds to NER: taggers on one encoder, at equal seconds of processor time, three seeds each.

    python -m tests.benchmarks.diffusion_ner
    python -m tests.benchmarks.diffusion_ner --blocks models --corpora genia-nested --seeds 0

Each is trained on one thread until `--seconds` are over, loading the encoder and cutting the texts included, by a
learning rate that falls with the clock and not with the epochs, and then tested on the whole test split. "models"
compares taggers; "parts" changes one part, on nested GENIA; rows of the block "settings" ask the diffusion's own
weights in another way, most of them on the sentences to choose on alone. Nested GENIA has no train split here: its dev
split is one, but for its last 199 sentences, which begin with an abstract. Of these all but the last four, whose
abstract goes on in test, are to choose on.

Finished rows are kept in data/ner/diffusion-ner.csv and left out by the next call, so that a call may be cut off. It
begins no training after `--limit` seconds.
"""

import argparse
import copy
import dataclasses
import datetime
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from utils.device import autocast, find_device, find_precision
from utils.diffusion import GaussianDiffusion, NoiseSchedule, sample
from utils.files import write_atomically
from utils.ner import diffusion_ner as parts
from utils.ner import evaluate, load_corpus, training
from utils.ner.diffusion_ner import DiffusionTagger
from utils.ner.neural import Window
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import Tagger
from utils.ner.tags import to_layers, token_spans
from utils.ner.transformer import EncoderNetwork, TransformerTagger

TABLE = Path(__file__).resolve().parents[2] / "data" / "ner" / "diffusion-ner.csv"
SECONDS, SEEDS = 300, 3
CHOOSING, SHARED = 199, 4  # sentences at the end of GENIA's dev; of these, in an abstract that goes on in test
CORPORA = ("genia-nested", "ncbi-disease", "bc5cdr")
READING = dict(pooling="mean", shapes=True, progress=False)  # how all of them read the encoder
LONGEST = 12  # tokens of a span that the span classifier looks at


class LayerScores(nn.Module):
    """The scores of two layers of tags, or of the one that is asked for."""

    def __init__(self, width: int, tags: int) -> None:
        super().__init__()
        self.layers, self.layer = nn.ModuleList(nn.Linear(width, tags) for _ in range(2)), None

    def forward(self, x: Tensor) -> Tensor:
        if self.layer is not None:
            return self.layers[self.layer](x)
        return torch.cat([layer(x) for layer in self.layers])


class LayeredTagger(TransformerTagger):
    """Two token heads on one encoder: the outer names' and, of what is left, the inner ones'. It reads each sentence
    twice to tag, which it need not; so its speed tells nothing."""

    _layers = 2

    def _network(self, encoder) -> EncoderNetwork:
        network = super()._network(encoder)
        network.new.remove(network.scores)
        network.scores = LayerScores(network.width, len(self.tags))
        network.new.append(network.scores)
        return network

    def _examples(self, sentence: Sentence) -> list[tuple[Window, list[list[int]]]]:
        layers = to_layers(sentence, 2, self.scheme, on_loss="drop")
        pairs = [[self.tags.index(tag) for tag in pair] for pair in zip(*layers)]
        return [(window, pairs[window.start : window.end]) for window in self._windows(sentence)]

    def _loss(self, windows: Sequence[Window], tags: Sequence[list[list[int]]]) -> Tensor:
        wanted = self._padded(tags, -100)  # (B, T, 2)
        self.network.scores.layer = None
        return self.network.head.loss(self.network(self._batch(windows)), torch.cat(wanted.unbind(-1)))

    def _tag(self, sentences: Sequence[Sentence]) -> list[list[Entity]]:
        found: list[list[Entity]] = [[] for _ in sentences]
        for layer in range(2):
            self.network.scores.layer = layer
            for entities, more in zip(found, super()._tag(sentences)):
                entities += more
        return found


@functools.cache
def all_spans(n: int) -> Tensor:
    """(S, 2): every span of n tokens that has at most LONGEST."""
    return torch.tensor([(a, b) for a in range(n) for b in range(a + 1, min(a + LONGEST, n) + 1)])


class SpanTagger(DiffusionTagger):
    """No diffusion: the judge looks at every span of up to LONGEST tokens, in training and afterwards."""

    def _spans(self, windows: Sequence[Window]) -> Tensor:
        """(B, S, 2); where a sentence has fewer spans than another they come again."""
        spans = [all_spans(window.end - window.start) for window in windows]
        number = torch.arange(max(map(len, spans)))
        return torch.stack([some[number % len(some)] for some in spans]).to(self.device)

    def _loss(self, windows: Sequence[Window], spans: Sequence[list[tuple[int, int, int]]]) -> Tensor:
        return self._judging(self.network(self._batch(windows)), self._spans(windows), spans)

    def denoise(self, sentences: Sequence[Sentence]) -> Iterator[tuple]:
        for windows, batch in self._batches(sentences):
            with torch.no_grad(), autocast(self.device, self.precision):
                tokens = self.network(batch)
            yield windows, tokens, [(None, None, self._spans([window for _, window in windows]))]


class SpanTaggerTaughtByFew(SpanTagger):
    """The judge is taught as the diffusion's is: by gold, what is nearly gold, and spans of noise."""

    def _loss(self, windows: Sequence[Window], spans: Sequence[list[tuple[int, int, int]]]) -> Tensor:
        tokens, lengths = self.network(self._batch(windows)), self._lengths(windows)
        gold = self._repeated(spans)
        near = gold + torch.randint(-parts.JITTER, parts.JITTER + 1, gold.shape, device=self.device)
        noise = torch.randn(len(windows), 2 * parts.TRAINED, 2, device=self.device)
        found = [parts.decode_spans(points, lengths) for points in (parts.encode_spans(near, lengths), noise)]
        return self._judging(tokens, torch.cat([gold, *found], dim=1), spans)


class OneNoise:
    """Trained and asked at pure noise alone, in one step: without gold in its input it is no diffusion."""

    def __init__(self, **options) -> None:
        super().__init__(**options | {"steps": 1})
        nothing_left = NoiseSchedule.cosine(1000).alphas_cumprod[-1:]
        self.diffusion = GaussianDiffusion(NoiseSchedule.from_betas(1 - nothing_left), prediction="x_0")


class OneShotTagger(OneNoise, DiffusionTagger):
    """Noise paired with names by transport, as in the diffusion."""


class MatchedTagger(DiffusionTagger):
    """Hungarian matching, as in the paper: a proposal learns the gold span that its pointers are nearest to."""

    def _pointing(self, logits: Tensor, gold: Tensor) -> Tensor:
        chances = logits.detach().log_softmax(-1)  # (B, K, 2, T)
        first, last = (chances[:, :, k, :].take_along_dim((gold[..., k] - k).unsqueeze(1), 2) for k in range(2))
        order = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in (first + last).cpu().numpy()])
        return super()._pointing(logits, gold.take_along_dim(torch.from_numpy(order).unsqueeze(-1), 1))


class OneShotMatchedTagger(OneNoise, MatchedTagger):
    """Hungarian matching at pure noise alone."""


class KnownSpans(DiffusionTagger):
    """The judge is taught by gold and by what is nearly gold, not by what the proposals end at."""

    def _judging(self, tokens: Tensor, candidates: Tensor, spans) -> Tensor:
        return super()._judging(tokens, candidates[:, : 2 * parts.TRAINED], spans)


def any_pairing(noise: Tensor, x_0: Tensor) -> Tensor:
    """Each proposal has its own noise: the assignment is known by construction."""
    return noise


MODELS = {
    "token head": TransformerTagger,
    "two layers of tags": LayeredTagger,  # where names nest; elsewhere the second is empty
    "all spans, no diffusion": SpanTagger,
    "one shot, no diffusion": OneShotTagger,
    "diffusion": DiffusionTagger,
}
PARTS: dict[str, type] = {
    "no transport pairing": DiffusionTagger,
    "Hungarian matching instead": MatchedTagger,
    "Hungarian matching, one shot": OneShotMatchedTagger,
    "left and right, not centre and width": DiffusionTagger,
    "signal scale 1": DiffusionTagger,
    "judge taught by gold and near gold alone": KnownSpans,
    "all spans, taught by few": SpanTaggerTaughtByFew,
    "token head, CRF and BIOES": functools.partial(TransformerTagger, crf=True, scheme="BIOES"),
}
# What stands in the place of names in `utils.ner.diffusion_ner`, by part or setting.
PATCHES: dict[str, dict[str, Callable | float]] = {
    "no transport pairing": {"pair_noise": any_pairing},
    "Hungarian matching instead": {"pair_noise": any_pairing},
    "Hungarian matching, one shot": {"pair_noise": any_pairing},
    "left and right, not centre and width": {
        "encode_spans": lambda spans, lengths: parts.SCALE * (2 * spans.float() / lengths.unsqueeze(-1) - 1),
        "edges": lambda points: points / parts.SCALE,
    },
    "signal scale 1": {"SCALE": 1.0},
    "eta 1": {"sample": functools.partial(sample, eta=1.0)},
    "argmax, not the mean": {"mean_places": lambda logits: parts.shown(logits).float()},
}
# How else the diffusion's weights are asked: options; "judge" is another way to the judge's spans.
SETTINGS: dict[str, dict] = {
    **{f"steps {steps}": {"steps": steps} for steps in (1, 2, 10, 20)},
    **{f"proposals {K}": {"proposals": K} for K in (10, 30, 120, 240)},
    "eta 1": {},
    "argmax, not the mean": {},
    **{f"noise {seed}": {} for seed in (1, 2, 3)},
    "judge all spans": {},
    "sure as chosen": {},
    "judge all spans, sure as chosen": {},
}
# The others look at the sentences to choose on alone.
ON_TEST = ("steps 1", "judge all spans", "sure as chosen", "judge all spans, sure as chosen")
SURE = [*(round(0.05 * k, 2) for k in range(2, 20)), 0.97, 0.98, 0.99]  # how probable an entity has to be
BLOCKS = {"models": MODELS, "parts": PARTS}


def splits(name: str) -> tuple[list[Sentence], list[Sentence], list[Sentence]]:
    """To train on, to choose on, to test on; nothing is chosen on the corpora that have a dev split.

    Raises SystemExit where the corpus is not at hand: rows of the one that stands in would bear its name.
    """
    corpus = load_corpus(name)
    if corpus.stands_in:
        raise SystemExit(f"{name} is not at hand, so nothing is measured; COURSE_DATA=FOLDER says where it is")
    if "train" in corpus.splits:
        return corpus.train, [], corpus.test
    return corpus.dev[:-CHOOSING], corpus.dev[-CHOOSING:-SHARED], corpus.test


class TimeIsUp(Exception):
    """The budget of a training is spent."""


def train_by_the_clock(tagger: Tagger, train: Sequence[Sentence], seconds: float) -> dict:
    """Fit a tagger until the processor seconds are over. Gives how many there were, the steps and the epochs."""
    clock, by_share = [time.process_time()], training.rate

    def rate(_: float) -> float:
        clock.append(time.process_time())
        if clock[-1] - clock[0] >= seconds:
            raise TimeIsUp
        return by_share((clock[-1] - clock[0]) / seconds)

    with patch.object(training, "rate", rate), suppress(TimeIsUp):
        tagger.fit(train)
    tagger.network.eval()
    groups = len(training.parameter_groups(tagger.network, tagger.recipe))  # each asks for its rate
    steps = (len(clock) - 2) // groups
    epochs = round(steps * tagger.recipe.batch_size / len(train), 1)
    return {"seconds": round(clock[-1] - clock[0], 1), "steps": steps, "epochs": epochs}


def measure(block: str, name: str, corpus: str, seed: int, seconds: float) -> Iterator[dict]:
    """One training, as rows of the table: of the tagger as it is, and, on nested GENIA, asked in other ways."""
    train, dev, test = splits(corpus)
    row = {"budget": seconds, "block": block, "corpus": corpus, "model": name, "setting": "", "seed": seed}
    with replaced(name):
        tagger = BLOCKS[block][name](**READING, epochs=1000, seed=seed)
        row |= train_by_the_clock(tagger, train, seconds)
        yield row | scores(tagger, test) | on_dev(tagger, dev)
        for setting in settings_of(block, name, corpus):
            other = asked_by(tagger, setting)
            with replaced(setting):
                if "sure" in setting:
                    other.options["sure"] = surest(other, dev)
                more = scores(other, test) if setting in ON_TEST else {}
                asked = {"block": "settings", "setting": setting, "sure": other.options["sure"]}
                yield row | asked | more | on_dev(other, dev)


def settings_of(block: str, name: str, corpus: str) -> list[str]:
    """All for the diffusion, one step for what is changed in it, and sureness wherever there is a judge."""
    if corpus != CORPORA[0] or name.startswith(("token head", "two layers")):
        return []
    if name == "diffusion":
        return list(SETTINGS)
    has_steps = block == "parts" and PARTS[name] not in (OneShotMatchedTagger, SpanTaggerTaughtByFew)
    return ["steps 1", "sure as chosen"] if has_steps else ["sure as chosen"]


@contextmanager
def replaced(name: str) -> Iterator[None]:
    """What a part or a setting needs in the place of names in `utils.ner.diffusion_ner`."""
    with ExitStack() as stack:
        for place, other in PATCHES.get(name, {}).items():
            stack.enter_context(patch.object(parts, place, other))
        yield


def asked_by(tagger: DiffusionTagger, setting: str) -> DiffusionTagger:
    """The same weights, asked in another way."""
    other = copy.copy(tagger)
    other.options = tagger.options | SETTINGS[setting]
    if setting.startswith("judge all spans"):
        other.__class__ = SpanTagger
    if setting.startswith("noise"):
        other.recipe = dataclasses.replace(tagger.recipe, seed=1000 + int(setting.split()[1]))
    return other


def surest(tagger: DiffusionTagger, dev: Sequence[Sentence]) -> float:
    """The `sure` with the best F1; what is found with a higher one is a part of what is found with the lowest."""
    tagger.options["sure"] = SURE[0]
    found = tagger.predict(dev)

    def f1(sure: float) -> float:
        kept = [one.with_entities([e for e in one.entities if e.score >= sure]) for one in found]
        return evaluate(dev, kept, resamples=0).f1

    return max(SURE, key=f1)


def scores(tagger: Tagger, sentences: Sequence[Sentence]) -> dict:
    """Exact spans, in per cent; of names that nest the share found; what the judge of spans was shown; the speed."""
    found, shown, seconds = predict_and_watch(tagger, sentences)
    report = evaluate(sentences, found, resamples=0)
    row = {"F1": report.f1, "precision": report.precision, "recall": report.recall}
    for kind, place in (("inner", 0), ("outer", 1)):
        names = {(i, pair[place]) for i, one in enumerate(sentences) for pair in nested_pairs(one)}
        if names:
            row[f"{kind} recall"] = sum(name in found[i].entities for i, name in names) / len(names)
    row = {name: round(100 * value, 2) for name, value in row.items()}
    if isinstance(tagger, DiffusionTagger):
        gold = [{span[:2] for span in token_spans(one).values()} for one in sentences]
        seen = sum(len(some & spans) for some, spans in zip(gold, shown))
        row["proposed"] = round(100 * seen / sum(map(len, gold)), 2)
        row["spans judged"] = round(sum(map(len, shown)) / len(sentences), 1)  # a sentence
    return row | {"sentences a second": round(len(sentences) / seconds)}


def on_dev(tagger: Tagger, dev: Sequence[Sentence]) -> dict:
    """F1, and what was proposed, on the sentences to choose on."""
    row = scores(tagger, dev) if dev else {}
    return {f"dev {name}": row[name] for name in ("F1", "inner recall", "proposed") if name in row}


def predict_and_watch(tagger: Tagger, sentences: Sequence[Sentence]) -> tuple[list[Sentence], list[set], float]:
    """What the tagger finds, the spans (start, end) of each sentence that its judge was shown, and the seconds."""
    seen, denoise = [], getattr(tagger, "denoise", None)

    def watched(sentences: Sequence[Sentence]) -> Iterator[tuple]:
        for windows, tokens, states in denoise(sentences):
            seen.append((windows, states[-1][-1]))
            yield windows, tokens, states

    begun = time.process_time()
    with patch.object(tagger, "denoise", watched) if denoise else nullcontext():
        found = tagger.predict(sentences)
    seconds, shown = time.process_time() - begun, [set() for _ in sentences]
    for windows, spans in seen:
        for (number, window), some in zip(windows, spans.tolist()):
            places = ((window.start + a, window.start + b) for a, b in some)
            shown[number] |= {place for place in places if window.keep[0] <= place[0] < window.keep[1]}
    return found, shown, seconds


def nested_pairs(sentence: Sentence) -> list[tuple[Entity, Entity]]:
    """(inner, outer) for each entity that is in another one, and shorter."""
    pairs = itertools.permutations(sentence.entities, 2)
    return [(a, b) for a, b in pairs if b.start <= a.start and a.end <= b.end and a.pieces != b.pieces]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.diffusion_ner", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=CORPORA)
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *PARTS], default=[*MODELS, *PARTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of processor time for each training")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--limit", type=float, default=6 * 3600, help="seconds after which no training is begun")
    args, begun = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not be one
    for block, seed, corpus, name in trainings(args):
        rows = read_rows(args.out)
        key = {"budget": args.seconds, "block": block, "corpus": corpus, "model": name, "seed": seed}
        if any(key.items() <= row.items() for row in rows):
            continue
        if time.perf_counter() - begun > args.limit:
            return
        new = list(measure(block, name, corpus, seed, args.seconds))
        print(*new, sep="\n", flush=True)
        write_rows(args.out, read_rows(args.out) + new)


def trainings(args: argparse.Namespace) -> Iterator[tuple[str, int, str, str]]:
    """(block, seed, corpus, model): of each seed all, so that models are measured under the same load."""
    for block, seed, corpus in itertools.product(args.blocks, args.seeds, args.corpora):
        nests = corpus == CORPORA[0]
        for name in BLOCKS[block]:
            if name in args.models and (nests or (block == "models" and name != "two layers of tags")):
                yield block, seed, corpus, name


def write_rows(path: Path, rows: list[dict]) -> None:
    """The table, behind a line that says where it is from."""
    about = f"# python -m tests.benchmarks.diffusion_ner; torch {torch.__version__}, {find_precision(find_device())}"
    about += f", 1 thread, processor seconds, {datetime.date.today()}\n"
    rows = sorted(rows, key=lambda row: (row["block"], row["corpus"], row["model"], row["seed"], row["budget"]))
    write_atomically(path, (about + pd.DataFrame(rows).to_csv(index=False)).encode())


def read_rows(path: Path) -> list[dict]:
    """The trainings that are finished."""
    return pd.read_csv(path, comment="#", keep_default_na=False).to_dict("records") if path.exists() else []


if __name__ == "__main__":
    main()
