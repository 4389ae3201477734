"""What diffusion adds to NER: taggers on one encoder, at equal seconds of processor time, three seeds each.

    python -m tests.benchmarks.diffusion_ner
    python -m tests.benchmarks.diffusion_ner --blocks models --corpora genia-nested --seeds 0

Each is trained on one thread until SECONDS are over, by a learning rate that falls with the clock and not with the
epochs, and then tested on the whole test split. "models" compares taggers; "parts" leaves one part of the
DiffusionTagger out, on nested GENIA; rows of the block "settings" tag with other steps and proposals than the default,
by the same weights. Nested GENIA has no train split here: its dev split is one, but for its last 200 sentences in a
row.

Finished rows are kept in data/ner/diffusion-ner.csv and left out by the next call, so that a call may be cut off. It
begins no training after `--limit` seconds.
"""

import argparse
import datetime
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from utils.diffusion import GaussianDiffusion, NoiseSchedule
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
SECONDS, SEEDS, CHOOSING = 300, 3, 200
CORPORA = ("genia-nested", "ncbi-disease", "bc5cdr")
READING = dict(pooling="mean", shapes=True, progress=False)  # how all of them read the encoder
LONGEST = 12  # tokens of a span that the span classifier looks at
SETTINGS = [{"steps": steps} for steps in (1, 2, 10)] + [{"proposals": K} for K in (10, 30, 120)]


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
    """Two token heads on one encoder: the outer names' and, of what is left, the inner ones'."""

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
        for self.network.scores.layer in range(2):
            for entities, more in zip(found, super()._tag(sentences)):
                entities += more
        return found


class SpanTagger(DiffusionTagger):
    """No diffusion: the judge looks at every span of up to LONGEST tokens."""

    def _spans(self, windows: Sequence[Window]) -> Tensor:
        """(B, S, 2); where a sentence has fewer spans than another they come again."""
        spans = []
        for n in (window.end - window.start for window in windows):
            spans.append([(a, b) for a in range(n) for b in range(a + 1, min(a + LONGEST, n) + 1)])
        most = max(map(len, spans))
        return self._padded([list(itertools.islice(itertools.cycle(some), most)) for some in spans])

    def _loss(self, windows: Sequence[Window], spans: Sequence[list[tuple[int, int, int]]]) -> Tensor:
        return self._judging(self.network(self._batch(windows)), self._spans(windows), spans)

    def denoise(self, sentences: Sequence[Sentence]) -> Iterator[tuple]:
        for windows, batch in self._batches(sentences):
            with torch.no_grad(), parts.autocast(self.device, self.precision):
                tokens = self.network(batch)
            yield windows, tokens, [(None, None, self._spans([window for _, window in windows]))]


class OneNoise(DiffusionTagger):
    """Trained and asked at t = T - 1 alone: no gold in the input, a set predictor with one step."""

    def __init__(self, **options) -> None:
        super().__init__(**options | {"steps": 1})
        nothing_left = NoiseSchedule.cosine(1000).alphas_cumprod[-1:]
        self.diffusion = GaussianDiffusion(NoiseSchedule.from_betas(1 - nothing_left), prediction="x_0")


class MatchedTagger(DiffusionTagger):
    """Hungarian matching, as in the paper: a proposal learns the gold span that its pointers are nearest to."""

    def _noised(self, x_0: Tensor) -> tuple[Tensor, Tensor]:
        with patch.object(parts, "pair_noise", any_pairing):
            return super()._noised(x_0)

    def _pointing(self, logits: Tensor, gold: Tensor) -> Tensor:
        chances = logits.detach().log_softmax(-1)  # (B, K, 2, T)
        first, last = (chances[:, :, k, :].take_along_dim((gold[..., k] - k).unsqueeze(1), 2) for k in range(2))
        order = np.stack([linear_sum_assignment(one, maximize=True)[1] for one in (first + last).cpu().numpy()])
        return super()._pointing(logits, gold.take_along_dim(torch.from_numpy(order).unsqueeze(-1), 1))


class KnownSpans(DiffusionTagger):
    """The judge is taught by gold and by what is nearly gold, not by what the proposals end at."""

    def _judging(self, tokens: Tensor, candidates: Tensor, spans) -> Tensor:
        return super()._judging(tokens, candidates[:, : 2 * parts.TRAINED], spans)


def any_pairing(noise: Tensor, x_0: Tensor) -> Tensor:
    """Each proposal has its own noise: the assignment is known by construction."""
    return noise


MODELS = {
    "token head": TransformerTagger,
    "two layers of tags": LayeredTagger,
    "all spans, no diffusion": SpanTagger,
    "diffusion": DiffusionTagger,
}
PARTS: dict[str, type] = {
    "no transport pairing": DiffusionTagger,
    "Hungarian matching instead": MatchedTagger,
    "left and right, not centre and width": DiffusionTagger,
    "trained at t = T - 1 alone": OneNoise,
    "judge taught by gold and near gold alone": KnownSpans,
}
# What stands in the place of names in `utils.ner.diffusion_ner`.
PATCHES: dict[str, dict[str, Callable]] = {
    "no transport pairing": {"pair_noise": any_pairing},
    "left and right, not centre and width": {
        "encode_spans": lambda spans, lengths: 2 * spans.float() / lengths.unsqueeze(-1) - 1,
        "edges": lambda points: points,
    },
}
BLOCKS = {"models": MODELS, "parts": PARTS}


def splits(name: str) -> tuple[list[Sentence], list[Sentence], list[Sentence]]:
    """To train on, to choose on, to test on."""
    corpus = load_corpus(name)
    if "train" in corpus.splits:
        return corpus.train, corpus.dev, corpus.test
    return corpus.dev[:-CHOOSING], corpus.dev[-CHOOSING:], corpus.test


class TimeIsUp(Exception):
    """The budget of a training is spent."""


def train_by_the_clock(tagger: Tagger, train: Sequence[Sentence], seconds: float) -> dict:
    """Fit a tagger until the processor seconds are over. Gives how many there were, and the steps."""
    clock, by_share = [time.process_time()], training.rate

    def rate(_: float) -> float:
        clock.append(time.process_time())
        if clock[-1] - clock[0] >= seconds:
            raise TimeIsUp
        return by_share((clock[-1] - clock[0]) / seconds)

    with patch.object(training, "rate", rate), suppress(TimeIsUp):
        tagger.fit(train)
    tagger.network.eval()
    return {"seconds": round(clock[-1] - clock[0], 1), "steps": len(clock) - 2}


def measure(block: str, name: str, corpus: str, seed: int, seconds: float) -> Iterator[dict]:
    """One training, as rows of the table: of the settings as they are, and where there is diffusion of others."""
    kind, (train, dev, test) = BLOCKS[block][name], splits(corpus)
    with ExitStack() as stack:
        for place, other in PATCHES.get(name, {}).items():
            stack.enter_context(patch.object(parts, place, other))
        tagger = kind(**READING, epochs=1000, seed=seed)
        row = {"block": block, "corpus": corpus, "model": name, "setting": "", "seed": seed}
        row |= train_by_the_clock(tagger, train, seconds)
        yield row | scores(tagger, test) | more_scores(tagger, dev, test)
        asked = SETTINGS if name == "diffusion" else SETTINGS[:1] if block == "parts" else ()
        for setting in asked if kind is not OneNoise else ():
            tagger.options |= {"steps": 5, "proposals": 60} | setting
            ((what, value),) = setting.items()
            yield row | {"block": "settings", "setting": f"{what} {value}"} | scores(tagger, test)


def scores(tagger: Tagger, test: Sequence[Sentence]) -> dict:
    """Exact spans on test, in per cent; of names that nest also the share found; and the speed."""
    started = time.process_time()
    found = tagger.predict(test)
    speed = len(test) / (time.process_time() - started)
    report = evaluate(test, found, resamples=0)
    row = {"F1": report.f1, "precision": report.precision, "recall": report.recall}
    for kind, place in (("inner", 0), ("outer", 1)):
        names = {(i, pair[place]) for i, one in enumerate(test) for pair in nested_pairs(one)}
        row[f"{kind} recall"] = sum(name in found[i].entities for i, name in names) / max(len(names), 1)
    return in_per_cent(row) | {"sentences a second": round(speed)}


def more_scores(tagger: Tagger, dev: Sequence[Sentence], test: Sequence[Sentence]) -> dict:
    """F1 on the sentences to choose on, and what the judge of spans is shown of the test split."""
    row = {"dev F1": evaluate(dev, tagger.predict(dev), resamples=0).f1}
    if isinstance(tagger, DiffusionTagger):
        row["proposed"] = proposed(tagger, test)
    return in_per_cent(row)


def in_per_cent(row: dict[str, float]) -> dict[str, float]:
    return {name: round(100 * value, 2) for name, value in row.items()}


def nested_pairs(sentence: Sentence) -> list[tuple[Entity, Entity]]:
    """(inner, outer) for each entity that is in another one, and shorter."""
    pairs = itertools.permutations(sentence.entities, 2)
    return [(a, b) for a, b in pairs if b.start <= a.start and a.end <= b.end and a.pieces != b.pieces]


def proposed(tagger: DiffusionTagger, sentences: Sequence[Sentence]) -> float:
    """The share of gold spans that are among those which the judge is shown."""
    found, gold = 0, [{span[:2] for span in token_spans(sentence).values()} for sentence in sentences]
    for windows, _, states in tagger.denoise(sentences):
        for (number, window), spans in zip(windows, states[-1][-1].tolist()):
            found += len(gold[number] & {(window.start + a, window.start + b) for a, b in spans})
    return found / sum(map(len, gold))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.diffusion_ner", description=__doc__)
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=CORPORA)
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *PARTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of training; ")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--limit", type=float, default=6 * 3600, help="seconds after which no training is begun")
    args, begun = parser.parse_args(), time.perf_counter()
    torch.set_num_threads(1)
    rows = read_rows(args.out)
    for block, seed, corpus in itertools.product(args.blocks, args.seeds, args.corpora):
        for name in BLOCKS[block] if args.models is None else (one for one in BLOCKS[block] if one in args.models):
            key = (block, corpus, name, seed)
            done = {(row["block"], row["corpus"], row["model"], row["seed"]) for row in rows}
            if key in done or (block == "parts" and corpus != CORPORA[0]):
                continue
            if time.perf_counter() - begun > args.limit:
                return
            rows += measure(block, name, corpus, seed, args.seconds)
            print(*(row for row in rows if (row["corpus"], row["model"], row["seed"]) == key[1:]), sep="\n", flush=True)
            threads = f"torch {torch.__version__}, 1 thread, {args.seconds:g} s of training each"
            about = f"# python -m tests.benchmarks.diffusion_ner; {threads}, {datetime.date.today()}\n"
            write_atomically(args.out, (about + pd.DataFrame(rows).to_csv(index=False)).encode())


def read_rows(path: Path) -> list[dict]:
    """The trainings that are finished."""
    return pd.read_csv(path, comment="#", keep_default_na=False).to_dict("records") if path.exists() else []


if __name__ == "__main__":
    main()
