"""TransformerTagger: a pretrained encoder, read at the first (or all) word pieces of each token."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from utils.files import check_choice
from utils.ner.chain import TagHead
from utils.ner.encoders import as_classifier, load_encoder, pieces_of
from utils.ner.neural import FeatureEmbedding, NeuralTagger, Window
from utils.ner.sentence import Sentence
from utils.ner.tagger import Sentences

MAX_PIECES = 256  # of a window, where the encoder can read so many
Span = tuple[int, int]


def align(tokens: Sequence[Span], pieces: Sequence[Span]) -> list[Span]:
    """For each token (first piece, piece behind the last); tokens and pieces are (start, end) in characters.

    A piece belongs to every token it shares a character with. A token that no piece covers (a control character, which
    tokenizers drop) gets the piece before it, or the first of all; where there are no pieces at all, (0, 1).
    """
    begins, ends = [start for start, _ in pieces], [end for _, end in pieces]
    spans = []
    for start, end in tokens:
        first, last = bisect_right(ends, start), bisect_left(begins, end)
        spans.append((first, last) if last > first else (max(first - 1, 0), max(first, 1)))
    return spans


def cut_windows(spans: Sequence[Span], limit: int, overlap: int) -> list[Span]:
    """Stretches of at most `limit` pieces (or one token), each from some `overlap` pieces before the last one's end."""
    windows, start = [], 0
    while start < len(spans):
        end = start + 1
        while end < len(spans) and spans[end][1] - spans[start][0] <= limit:
            end += 1
        windows.append((start, end))
        if end == len(spans):
            break
        # Back by the overlap, as far as the next window still reaches one token farther than this one.
        start, behind = end, spans[end][1]
        while behind - spans[start - 1][0] <= limit and spans[end - 1][1] - spans[start - 1][0] <= overlap:
            start -= 1
    return windows


def span_means(x: Tensor, first: Tensor, behind: Tensor) -> Tensor:
    """Means (B, S, C) of rows `first` to before `behind`, both (B, S, 1), of x (B, N, C): from sums up to each row."""
    sums = nn.functional.pad(x.float().cumsum(1), (0, 0, 1, 0))  # (B, N + 1, C)
    return (sums.take_along_dim(behind, 1) - sums.take_along_dim(first, 1)) / (behind - first).clamp(min=1)


class TokenEncoder(nn.Module):
    """Encoder, one vector a token, features beside it."""

    def __init__(self, encoder, tokenizer, features: list[int], options: dict[str, Any]) -> None:
        super().__init__()
        self.encoder, self.pooling, self.piece_dropout = encoder, options["pooling"], options["piece_dropout"]
        self.mask = (tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id) or 0
        self.register_buffer("special", torch.tensor(tokenizer.all_special_ids), persistent=False)  # never masked
        self.features = FeatureEmbedding(features)
        self.dropout = nn.Dropout(options["dropout"])
        self.width = encoder.config.hidden_size + self.features.width
        self.new = [self.features]  # layers that begin from random weights

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """ids, attention (B, P), first piece, count of pieces (B, T), features (B, T, F) to vectors (B, T, width)."""
        ids = batch["ids"]
        if self.training and self.piece_dropout:  # names are to be known by their other pieces and the context, too
            chosen = torch.rand(ids.shape, device=ids.device) < self.piece_dropout
            ids = ids.masked_fill(chosen & ~torch.isin(ids, self.special), self.mask)
        hidden = self.encoder(input_ids=ids, attention_mask=batch["attention"]).last_hidden_state  # (B, P, H)
        first, count = batch["first"].unsqueeze(2), batch["count"].unsqueeze(2)  # (B, T, 1)
        if self.pooling == "first":
            tokens = hidden.take_along_dim(first, 1)  # (B, T, H)
        else:
            tokens = span_means(hidden, first, first + count)
        x = self.dropout(tokens)
        if self.features.width:
            x = torch.cat([x, self.features(batch["features"]).to(x.dtype)], dim=-1)
        return x


class EncoderNetwork(TokenEncoder):
    """One score a tag on top."""

    def __init__(self, encoder, tokenizer, features: list[int], head: TagHead, options: dict[str, Any]) -> None:
        super().__init__(encoder, tokenizer, features, options)
        self.scores, self.head = nn.Linear(self.width, head.count), head
        self.new += [self.scores, head]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """What TokenEncoder reads to emissions (B, T, K)."""
        return self.scores(super().forward(batch))


class TransformerTagger(NeuralTagger):
    """Any encoder of the Hugging Face hub with a score for each tag on top; all of it is trained.

    The tokenizer cuts the text into pieces, of which `align` finds each token's. Sentences of more pieces than the
    encoder can read are cut into windows that overlap; a token's scores come from where it is farther from the edge.

    Without a CRF, lists, shapes and means it is the plain network of BERT's paper, and `save` writes what
    `AutoModelForTokenClassification` and `pipeline("token-classification", aggregation_strategy="simple")` load. Tags
    are the same, but for steps that the scheme forbids, which only the tagger keeps out; the pipeline knows BIO alone.

    encoder: a folder, a name on the hub (such as `encoders.PUBMED`), None for the small all-MiniLM-L6-v2.
    pooling: a token is read at its "first" piece, or as the "mean" of all. crf: a LinearChainCRF on top, or softmaxes.
    shapes: tell the network how each token is written (capitals, digits), which an uncased encoder does not see.
    dropout: of the token vectors. piece_dropout: how often, in training, the encoder's mask hides a piece, in [0, 1).
    scheme, others, errors: as in NeuralTagger and `load_encoder`.
    """

    name = "transformer"

    def __init__(
        self,
        encoder: str | Path | None = None,
        pooling: str = "first",
        crf: bool = False,
        shapes: bool = False,
        dropout: float = 0.1,
        piece_dropout: float = 0.0,
        scheme: str = "BIO",
        **others: Any,
    ) -> None:
        check_choice("pooling", pooling, ("first", "mean"))
        if not 0 <= piece_dropout < 1:
            raise ValueError(f"expected 0 <= piece_dropout < 1, got {piece_dropout}")
        options = dict(encoder=encoder and str(encoder), pooling=pooling, crf=crf, shapes=shapes)
        options |= dict(dropout=dropout, piece_dropout=piece_dropout, scheme=scheme)
        super().__init__(options, **dict(epochs=5, learning_rate=2e-4, new_rate=5.0) | others)

    def _build(self, train: Sentences) -> None:
        encoder, self.tokenizer = load_encoder(self.options["encoder"])
        self._make_network(encoder)

    def _make_network(self, encoder: PreTrainedModel) -> None:
        tokenizer, self.network = self.tokenizer, self._network(encoder)
        ends = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._before, self._after = ([] if piece is None else [piece] for piece in ends)
        readable = getattr(encoder.config, "max_position_embeddings", MAX_PIECES)
        most = min(readable, tokenizer.model_max_length, MAX_PIECES)
        self._limit = most - len(self._before) - len(self._after)

    def _network(self, encoder: PreTrainedModel) -> TokenEncoder:
        head = TagHead(self.tags, self.scheme, self.options["crf"])
        network = EncoderNetwork(encoder, self.tokenizer, self.features.sizes, head, self.options)
        plain = not (self.options["crf"] or self.features.sizes) and self.options["pooling"] == "first"
        self._plain = as_classifier(encoder, network.scores, self.tags) if plain else None
        if self._plain and getattr(encoder, "pooler", None):
            encoder.pooler = None  # unused, and not in that network
        return network

    def _windows(self, sentence: Sentence) -> list[Window]:
        ((ids, offsets),) = pieces_of(self.tokenizer, [sentence.text])
        ids = ids or [self.tokenizer.unk_token_id or 0]
        spans = align([token[:2] for token in sentence.tokens], offsets)
        features = list(zip(*self.features(sentence)))  # of each token
        stretches = cut_windows(spans, self._limit, self._limit // 4)
        edges = [0, *((a[1] + b[0]) // 2 for a, b in pairwise(stretches)), len(spans)]
        windows = []
        for (start, end), keep in zip(stretches, pairwise(edges)):
            first, last = spans[start][0], min(spans[end - 1][1], spans[start][0] + self._limit)
            pieces = [*self._before, *ids[first:last], *self._after]
            inputs = {
                "ids": pieces,
                "attention": [1] * len(pieces),
                "first": [len(self._before) + a - first for a, _ in spans[start:end]],
                # A token of more pieces than the limit is read at those that fit.
                "count": [min(b, last) - a for a, b in spans[start:end]],
                "features": features[start:end],
            }
            windows.append(Window(start, end, keep, len(pieces), inputs))
        return windows

    def _batch(self, windows: Sequence[Window]) -> dict[str, Tensor]:
        fill = {"ids": self.tokenizer.pad_token_id or 0}
        columns = {name: [window.inputs[name] for window in windows] for name in windows[0].inputs}
        return {name: self._padded(rows, fill.get(name, 0)) for name, rows in columns.items()}

    def _examples(self, sentence: Sentence) -> list[tuple[Window, list[int]]]:
        """The plain network scores every piece, as it has no tokens: those behind a token's first one go on with it."""
        examples = super()._examples(sentence)
        going_on = [self.tags.index(f"I-{tag[2:]}") if tag != "O" else 0 for tag in self.tags]
        for i, (window, tags) in enumerate(examples if self._plain else ()):
            first, count = window.inputs["first"], window.inputs["count"]
            places = [place for a, n in zip(first, count) for place in range(a, a + n)]
            wanted = [number for tag, n in zip(tags, count) for number in [tag] + [going_on[tag]] * (n - 1)]
            inputs = {**window.inputs, "first": places, "count": [1] * len(places)}
            examples[i] = (window._replace(inputs=inputs), wanted)
        return examples

    def _save_parts(self, folder: Path) -> None:
        self.network.encoder.config.save_pretrained(folder / "encoder")
        self.tokenizer.save_pretrained(folder / "encoder")
        if self._plain:
            self.tokenizer.save_pretrained(folder)  # where transformers looks for it

    def _load_parts(self, folder: Path) -> None:
        how = dict(local_files_only=True, trust_remote_code=False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", **how)
        config = AutoConfig.from_pretrained(folder / "encoder", **how)
        self._make_network(AutoModel.from_config(config).float())
