"""What the neural taggers share: a network that scores tags, its training, and its predictions.

A sentence becomes one or more `Window`s (a long one several that overlap), windows become batches, the network turns
a batch into emissions, a score for each token and tag, and a `TagHead` turns the emissions of a sentence into tags.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from utils.device import DTYPES, autocast, find_device, find_precision
from utils.files import check_choice, load_weights, save_weights, stream_seed, write_atomically
from utils.ner.chain import IGNORED
from utils.ner.evaluation import evaluate
from utils.ner.features import TokenFeatures
from utils.ner.lexicons import Lexicon
from utils.ner.sentence import Entity, Sentence
from utils.ner.tagger import Folder, Sentences, Tagger, fingerprint, learnable, scored
from utils.ner.tags import SCHEMES, convert_tags, from_tags, to_tags
from utils.ner.training import Recipe, cut_batches, seeded, train_network


class Window(NamedTuple):
    """A stretch of a sentence, tokens `start` to `end`, that goes through the network at once."""

    start: int
    end: int
    keep: tuple[int, int]  # the tokens whose emissions are taken from here, where windows overlap
    length: int  # in what the network counts, tokens or pieces
    inputs: dict[str, list]


class FeatureEmbedding(nn.Module):
    """Features (B, T, F), numbers of `TokenFeatures`, as vectors (B, T, width)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, 12, padding_idx=0) for count in sizes)
        self.width = 12 * len(sizes)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([table(numbers) for table, numbers in zip(self.tables, features.unbind(-1))], dim=-1)


class NeuralTagger(Tagger):
    """A kind of neural tagger fills in

    - `_build(train)`: makes vocabularies and `network`, which has a TagHead as its `head`, for sentences and `tags`;
    - `_windows(sentence)`: a list of `Window` that together keep every token once; none for no tokens;
    - `_batch(windows)`: what the network reads, a dictionary of tensors on the device;
    - `_save_parts(folder)`, `_load_parts(folder)`: write and read what `_build` made, but for the weights;
    - where it scores something else than tags: `_examples`, `_loss` and `_tag` of its own.

    options: the kind's own, as JSON values, among them scheme ("BIO" or "BIOES") and crf (whether the tags of a
        sentence are scored together). lexicons: lists of names; the network is told which tokens stand in one.
    device: the best there is when None. precision: of the forward pass, "no" (fp32), "bf16" or "fp16"; what is fast on
        the device when None. progress: whether `fit` shows a bar. recipe: numbers of `Recipe` (TypeError for others).
    Attributes: `tags`, the K tags in the order of emissions and probabilities; `history`, see `train_network`;
    `network`, of which `network(batch)` gives emissions (B, T, K).
    Raises ValueError: an unknown scheme or precision, a device that is not there, a number out of its range.
    """

    _plain: PreTrainedModel | None = None  # the network in the form that transformers knows, where it has one
    _layers = 1  # of tags, which hold what it can learn
    version = 4

    def __init__(
        self,
        options: dict[str, Any],
        lexicons: Sequence[Lexicon] = (),
        device: str | torch.device | None = None,
        precision: str | None = None,
        progress: bool = True,
        **recipe: Any,
    ) -> None:
        self.device = find_device(device)
        self.precision, self.progress = precision or find_precision(self.device), progress
        check_choice("scheme", options["scheme"], SCHEMES)
        check_choice("precision", self.precision, DTYPES)
        self.options, self.scheme = options, options["scheme"]
        self.features = TokenFeatures(lexicons, options.get("shapes", True))
        self.recipe = Recipe(**recipe)
        self.tags: list[str] = []
        self.network: nn.Module | None = None
        self.history: list[dict[str, float]] = []

    def fit(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> "NeuralTagger":
        """Learn from `train`; with `dev`, the epoch with the best strict F1 on it is chosen, else the last.

        Raises ValueError: nothing that tags can hold (what they cannot is printed); and what `train_network` raises.
        """
        train = learnable(train, self._layers)
        with seeded(stream_seed(self.recipe.seed, "weights"), self.device):
            self.tags = ["O", *(f"{prefix}-{kind}" for kind in _types(train) for prefix in SCHEMES[self.scheme])]
            self._build(train)
        return self._train(train, dev, folder, "random weights")

    def fine_tune(self, train: Sentences, dev: Sentences = (), folder: Folder = None) -> "NeuralTagger":
        """Like `fit`, but from the weights it has, with other sentences of the same types (ValueError for new ones)."""
        self._check_trained()
        if new := [kind for kind in _types(train) if kind not in self.types]:
            known = ", ".join(self.types)
            raise ValueError(f"cannot go on with {', '.join(new)}: it knows {known}; rename, or fit anew")
        return self._train(learnable(train, self._layers), dev, folder, "weights it had")

    @property
    def types(self) -> list[str]:
        """Of the entities that it knows."""
        return sorted({tag[2:] for tag in self.tags} - {""})

    def _train(self, train: Sentences, dev: Sentences, folder: Folder, start: str) -> "NeuralTagger":
        self.network.to(self.device)
        examples = [example for sentence in train for example in self._examples(sentence)]

        def loss(numbers: list[int]) -> Tensor:
            return self._loss(*zip(*(examples[i] for i in numbers)))

        settings = {"tagger": self.name, "options": json.dumps(self.options), "start": start}
        settings |= {"sentences": fingerprint(train), "dev sentences": fingerprint(dev)}
        computing = dict(device=self.device, precision=self.precision, folder=folder, progress=self.progress)
        score = (lambda: evaluate(dev, self.predict(dev), resamples=0).f1) if dev else None
        lengths = [window.length for window, _ in examples]
        self.history = train_network(self.network, loss, lengths, self.recipe, score, settings, **computing)
        return self

    def _loss(self, windows: Sequence[Window], tags: Sequence[list[int]]) -> Tensor:
        return self.network.head.loss(self.network(self._batch(windows)), self._padded(tags, IGNORED))

    def _batches(self, sentences: Sentences) -> Iterator[tuple[list[tuple[int, Window]], dict[str, Tensor]]]:
        """The windows of all sentences, each with its sentence's number, in batches, and what the network reads."""
        self._check_trained()
        windows = [(number, window) for number, sentence in enumerate(sentences) for window in self._windows(sentence)]
        lengths = [window.length for _, window in windows]
        self.network.eval()
        for batch in cut_batches(sorted(range(len(windows)), key=lengths.__getitem__), lengths, self.recipe):
            yield [windows[i] for i in batch], self._batch([windows[i][1] for i in batch])

    def emissions(self, sentences: Sentences) -> list[Tensor]:
        """The network's scores: for each sentence a float32 tensor (tokens, K)."""
        found = [torch.empty(len(sentence.tokens), len(self.tags)) for sentence in sentences]
        for windows, batch in self._batches(sentences):
            with torch.no_grad(), autocast(self.device, self.precision):
                scores = self.network(batch).float().cpu()
            for (number, window), rows in zip(windows, scores):
                start, end = window.keep
                found[number][start:end] = rows[start - window.start : end - window.start]
        return found

    def predict_proba(self, sentences: Sentences) -> list[np.ndarray]:
        """For each sentence the probability of every tag at every token: float32 (tokens, K), tags as in `tags`."""
        found = [np.empty((0, len(self.tags)), np.float32)] * len(sentences)
        for numbers, scores, mask in self._sentence_batches(self.emissions(sentences)):
            for i, rows in zip(numbers, self.network.head.probabilities(scores, mask).cpu().numpy()):
                found[i] = rows[: len(sentences[i].tokens)]
        return found

    def _tag(self, sentences: Sentences) -> list[list[Entity]]:
        found: list[list[Entity]] = [[] for _ in sentences]
        for numbers, scores, mask in self._sentence_batches(self.emissions(sentences)):
            marginals = self.network.head.probabilities(scores, mask).cpu().numpy()
            for i, path, rows in zip(numbers, self.network.head.chain.viterbi(scores, mask), marginals):
                tagged = from_tags(sentences[i], [self.tags[tag] for tag in path], self.scheme)
                found[i] = scored(self, tagged, rows[: len(path)])
        return found

    def _sentence_batches(self, emissions: list[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """(numbers of sentences, emissions (B, T, K), mask (B, T)); sentences without a token are left out."""
        lengths = [len(rows) for rows in emissions]
        order = sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__)
        for batch in cut_batches(order, lengths, self.recipe):
            scores = pad_sequence([emissions[i] for i in batch], batch_first=True)
            mask = torch.arange(scores.shape[1]) < torch.tensor([lengths[i] for i in batch]).unsqueeze(1)
            yield batch, scores.to(self.device), mask.to(self.device)

    def _examples(self, sentence: Sentence) -> list[tuple[Window, list[int]]]:
        """The windows of a sentence, each with its tags as numbers."""
        tags = to_tags(sentence, self.scheme, on_loss="drop")
        examples = []
        for window in self._windows(sentence):
            # An entity that the edge of a window cuts is an entity of its own there.
            inside = convert_tags(tags[window.start : window.end], self.scheme, self.scheme)
            examples.append((window, list(map(self.tags.index, inside))))
        return examples

    def _padded(self, rows: Sequence[Sequence], fill: int = 0) -> Tensor:
        """Integers (B, longest, ...) on the device."""
        whole = [torch.tensor(row, dtype=torch.long) for row in rows]
        return pad_sequence(whole, batch_first=True, padding_value=fill).to(self.device)

    def _check_trained(self) -> None:
        if self.network is None:
            raise ValueError(f"this {type(self).__name__} has learned nothing yet; call fit, or load a saved one")

    def _save(self, folder: Path) -> None:
        self._check_trained()
        self._save_parts(folder)
        lists = list(map(asdict, self.features.lexicons))
        write_atomically(folder / "lexicons.json", json.dumps(lists, ensure_ascii=False) + "\n")
        save_weights(folder / "model.safetensors", self._plain or self.network)
        config = {"options": self.options, "recipe": asdict(self.recipe), "tags": self.tags}
        if self._plain:
            config = self._plain.config.to_dict() | config
        write_atomically(folder / "config.json", json.dumps(config, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def _load(cls, folder: Path) -> "NeuralTagger":
        config = json.loads((folder / "config.json").read_text("utf-8"))
        lists = json.loads((folder / "lexicons.json").read_text("utf-8"))
        tagger = cls(**config["options"], **config["recipe"], lexicons=list(map(Lexicon.from_json, lists)))
        tagger.tags = list(config["tags"])
        tagger._load_parts(folder)
        load_weights(folder / "model.safetensors", tagger._plain or tagger.network)
        tagger.network.to(tagger.device).eval()
        return tagger


def _types(sentences: Sentences) -> list[str]:
    return sorted({entity.type for sentence in sentences for entity in sentence.entities})
