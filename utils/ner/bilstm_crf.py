"""BiLSTMCRFTagger: words and characters, a bidirectional LSTM, a CRF (Lample et al. 2016; Ma & Hovy 2016)."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from utils.files import write_atomically
from utils.ner.chain import TagHead
from utils.ner.encoders import find_minilm, load_encoder, pieces_of
from utils.ner.neural import FeatureEmbedding, NeuralTagger, Window
from utils.ner.sentence import Sentence
from utils.ner.tagger import Sentences

PADDING, UNKNOWN = 0, 1  # the first two numbers of words and of characters
LONGEST = 30  # characters of a word that are read
WIDTH = 100  # of a word's vector


class CharacterCNN(nn.Module):
    """The characters of words (N, L) as one vector each (N, width): convolutions, and the maximum over the word."""

    def __init__(self, count: int, size: int = 32, width: int = 96) -> None:
        super().__init__()
        self.table = nn.Embedding(count, size, padding_idx=PADDING)
        self.convolutions = nn.ModuleList(nn.Conv1d(size, width // 2, kernel, padding="same") for kernel in (3, 5))
        self.width = width

    def forward(self, characters: Tensor) -> Tensor:
        x = self.table(characters).transpose(1, 2)  # (N, size, L)
        there = (characters != PADDING).unsqueeze(1)
        return torch.cat([convolution(x).relu() * there for convolution in self.convolutions], dim=1).amax(2)


class PieceVectors(nn.Module):
    """Fixed vectors of word pieces; of words (N, P), 0 in the padding, the means of their pieces' vectors (N, width).
    The first row of the table is never a word's."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(count, width, dtype=torch.float16))

    def forward(self, pieces: Tensor) -> Tensor:
        there = (pieces != PADDING).unsqueeze(2)
        return (self.table[pieces].float() * there).sum(1) / there.sum(1).clamp(min=1)


class BiLSTMNetwork(nn.Module):
    """Words (their own vectors and, if `pieces` is the shape of a table and not None, those of their pieces),
    characters and features; BiLSTM; one score a tag."""

    def __init__(self, words: int, characters: int, pieces, features: list[int], hidden: int, head: TagHead) -> None:
        super().__init__()
        self.words = nn.Embedding(words, WIDTH, padding_idx=PADDING)
        self.characters = CharacterCNN(characters)
        self.pieces = PieceVectors(*pieces) if pieces else None
        if pieces:
            self.from_pieces = nn.Linear(pieces[1], WIDTH, bias=False)
            nn.init.zeros_(self.words.weight)  # what a word means beyond its pieces is learned
        self.features = FeatureEmbedding(features)
        self.dropout = nn.Dropout(0.5)
        width = WIDTH + self.characters.width + self.features.width
        self.lstm = nn.LSTM(width, hidden, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(2 * hidden, head.count)
        self.head = head

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Emissions (B, T, K). `word` (B, T) numbers the distinct words of the batch, whose characters (N, L), pieces
        (N, P) and places in the vocabulary (N) stand in the others."""
        words = batch["words"]
        if self.training:  # one word in ten is taken for an unknown one
            dropped = torch.rand(words.shape, device=words.device) < 0.1
            words = words.masked_fill(dropped, UNKNOWN)
        vectors = self.words(words)
        if self.pieces:
            vectors = vectors + self.from_pieces(self.pieces(batch["pieces"]))
        vectors = torch.cat([vectors, self.characters(batch["characters"])], dim=1)
        # Not vectors[word]: with several threads the gradient of that is added up in an order that changes.
        vectors = nn.functional.embedding(batch["word"], vectors)  # (B, T, ...)
        x = self.dropout(torch.cat([vectors, self.features(batch["features"])], dim=-1))
        # Packed, so that the direction from right to left begins at the last token and not in the padding.
        packed = nn.utils.rnn.pack_padded_sequence(x, batch["lengths"], batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.scores(self.dropout(y))


class BiLSTMCRFTagger(NeuralTagger):
    """The neural tagger of before Transformers, trained from scratch but for the vectors of its words.

    A token is its lower-cased word (those seen once in training count as unknown), its characters, its casing, and,
    with `vectors`, the mean of its pieces' vectors in a pretrained encoder's first layer.

    vectors: of which encoder, as `load_encoder` takes it; None for none; "auto" for all-MiniLM-L6-v2 where its package
        is installed. hidden: of each direction. crf, scheme, others: as in NeuralTagger; precision "no" if left out.
    """

    name = "bilstm-crf"
    tokenizer: PreTrainedTokenizerBase | None = None  # where words have vectors of their pieces

    def __init__(
        self,
        vectors: str | Path | None = "auto",
        hidden: int = 200,
        crf: bool = True,
        scheme: str = "BIOES",
        **others: Any,
    ) -> None:
        options = dict(vectors=vectors and str(vectors), hidden=hidden, crf=crf, scheme=scheme)
        defaults = dict(precision="no", epochs=15, batch_size=16, learning_rate=3e-3)
        super().__init__(options, **defaults | others)

    def _build(self, train: Sentences) -> None:
        words = [word for sentence in train for word in sentence.words]
        counts = Counter(map(str.lower, words))
        self.words = ["", "?", *sorted(word for word, count in counts.items() if count > 1)]
        self.characters = ["", "?", *sorted(set("".join(words)))]
        vectors = find_minilm() if self.options["vectors"] == "auto" else self.options["vectors"]
        if vectors is None:
            self._make_network(None)
            return
        encoder, self.tokenizer = load_encoder(vectors)
        table = encoder.get_input_embeddings().weight.detach()
        self._make_network(table.shape)
        self.network.pieces.table.copy_(table / table.std())

    def _make_network(self, pieces: Sequence[int] | None) -> None:
        self._word_number = {word: number for number, word in enumerate(self.words)}
        self._character_number = {letter: number for number, letter in enumerate(self.characters)}
        self._pieces: dict[str, list[int]] = {}
        sizes = (len(self.words), len(self.characters), pieces, self.features.sizes, self.options["hidden"])
        self.network = BiLSTMNetwork(*sizes, TagHead(self.tags, self.scheme, self.options["crf"]))

    def _windows(self, sentence: Sentence) -> list[Window]:
        features, count = list(zip(*self.features(sentence))), len(sentence.tokens)  # features of each token
        inputs = {"words": sentence.words, "features": features}
        return [Window(0, count, (0, count), count, inputs)] if count else []

    def _batch(self, windows: Sequence[Window]) -> dict[str, Tensor]:
        numbers: dict[str, int] = {}  # of the distinct words
        word = [[numbers.setdefault(text, len(numbers)) for text in window.inputs["words"]] for window in windows]
        letters = self._character_number
        batch = {
            "word": self._padded(word),
            "words": self._padded([[self._word_number.get(text.lower(), UNKNOWN) for text in numbers]])[0],
            "characters": self._padded([[letters.get(sign, UNKNOWN) for sign in text[:LONGEST]] for text in numbers]),
            "lengths": torch.tensor([window.length for window in windows]),  # on the CPU, where packing wants them
            "features": self._padded([window.inputs["features"] for window in windows]),
        }
        if self.tokenizer is not None:
            unseen = [text for text in numbers if text not in self._pieces]
            found = pieces_of(self.tokenizer, unseen)
            self._pieces.update((text, ids[:LONGEST] or [PADDING]) for text, (ids, _) in zip(unseen, found))
            batch["pieces"] = self._padded([self._pieces[text] for text in numbers])
        return batch

    def _save_parts(self, folder: Path) -> None:
        pieces = list(self.network.pieces.table.shape) if self.tokenizer is not None else None
        parts = {"words": self.words, "characters": self.characters, "pieces": pieces}
        write_atomically(folder / "vocabulary.json", json.dumps(parts, ensure_ascii=False) + "\n")
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder / "pieces")

    def _load_parts(self, folder: Path) -> None:
        parts = json.loads((folder / "vocabulary.json").read_text("utf-8"))
        self.words, self.characters = parts["words"], parts["characters"]
        if parts["pieces"]:
            self.tokenizer = AutoTokenizer.from_pretrained(folder / "pieces", local_files_only=True)
        self._make_network(parts["pieces"])
