"""Continued pretraining: an encoder reads raw text of the target domain before it sees a label.

BERT's masked language model (Devlin et al. 2019, section 3.1): of 15% of the pieces, 80% become [MASK], 10% a random
piece and 10% stay, and the network says what stood there. Gururangan et al. (2020) measured what this gives.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.device import autocast, find_device, find_precision
from utils.files import stream_seed
from utils.ner.encoders import load_encoder, pieces_of, save_encoder
from utils.ner.sentence import Sentence
from utils.ner.tagger import Folder
from utils.ner.training import Recipe, cut_batches, seeded, train_network

NOT_CHOSEN = -100
SHARE = 0.15  # of the pieces that are chosen
MAX_PIECES = 128  # that are read at once


class MaskedLanguageModel(nn.Module):
    """An encoder and a head that scores every piece of the vocabulary.

    The head's matrix is the encoder's own table of piece vectors (tied weights, as in BERT), since all-MiniLM-L6-v2
    comes without a head. New are only a linear layer, at first the identity, and a bias.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        pieces, width = encoder.get_input_embeddings().weight.shape
        self.turn = nn.Linear(encoder.config.hidden_size, width)
        nn.init.eye_(self.turn.weight)
        nn.init.zeros_(self.turn.bias)
        self.bias = nn.Parameter(torch.zeros(pieces))

    def forward(self, ids: Tensor, attention: Tensor, wanted: Tensor) -> Tensor:
        """The mean of -log p(piece) at the chosen places, 0 where none is: ids, attention and wanted (B, P)."""
        hidden = self.encoder(input_ids=ids, attention_mask=attention).last_hidden_state  # (B, P, H)
        chosen = wanted != NOT_CHOSEN
        table = self.encoder.get_input_embeddings().weight
        scores = self.turn(hidden[chosen]) @ table.T + self.bias  # (chosen, pieces)
        return nn.functional.cross_entropy(scores.float(), wanted[chosen], reduction="sum") / max(len(scores), 1)


def mask_pieces(
    ids: Tensor, special: Tensor, mask_id: int, count: int, share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(what the network reads, what it has to say), both (B, P) like `ids`; NOT_CHOSEN where nothing is asked.

    special: True at pieces that are never chosen. count: pieces in the vocabulary. share: of pieces that are chosen.
    """
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < share) & ~special
    read = ids.masked_fill(chosen & (draw < 0.8 * share), mask_id)
    anything = torch.randint(count, ids.shape, generator=generator)
    read = torch.where(chosen & (draw >= 0.9 * share), anything, read)
    return read, ids.masked_fill(~chosen, NOT_CHOSEN)


def continue_pretraining(
    texts: Sequence[str | Sentence],
    out: str | Path,
    encoder: str | Path | None = None,
    *,
    dev: Sequence[str | Sentence] = (),
    device: str | torch.device | None = None,
    precision: str | None = None,
    folder: Folder = None,
    progress: bool = True,
    **recipe: Any,
) -> list[dict[str, float]]:
    """Train an encoder further as a masked language model and save it in `out`: `TransformerTagger(encoder=out)`.

    texts: raw sentences (labels are not looked at). Never give it the test split. encoder: as in `load_encoder`.
    dev: texts to measure the loss on after every epoch, with the same masks each time; the best epoch is kept.
    device, precision: the best there is when None. folder: for resuming, as in `train_network`.
    recipe: numbers of `Recipe`; by default 3 epochs at 1e-4.
    Gives the history of the training; "score" is minus the loss on dev.
    Raises ValueError: no text with a piece, a tokenizer without [MASK], a number out of its range.
    """
    device = find_device(device)
    precision = precision or find_precision(device)
    recipe = Recipe(**dict(epochs=3, batch_size=32, learning_rate=1e-4) | recipe)
    with seeded(stream_seed(recipe.seed, "weights"), device):
        pretrained, tokenizer = load_encoder(encoder)
        model = MaskedLanguageModel(pretrained).to(device)
    before, after, padding = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    if tokenizer.mask_token_id is None:
        raise ValueError("this encoder's tokenizer has no mask piece; choose one pretrained as a masked language model")
    train, held_out = (_cut(tokenizer, part) for part in (texts, dev))
    if not train:
        raise ValueError(f"nothing to train on: {len(texts)} texts, none with a word piece")

    def loss(rows: list[list[int]], generator: torch.Generator | None = None) -> Tensor:
        whole = [torch.tensor([before, *row, after]) for row in rows]
        ids = nn.utils.rnn.pad_sequence(whole, batch_first=True, padding_value=padding)
        special = torch.isin(ids, torch.tensor([before, after, padding]))
        read, wanted = mask_pieces(ids, special, tokenizer.mask_token_id, len(model.bias), SHARE, generator)
        return model(read.to(device), (ids != padding).long().to(device), wanted.to(device))

    def score() -> float:
        generator = torch.Generator().manual_seed(stream_seed(recipe.seed, "masks of dev"))
        batches = cut_batches(range(len(held_out)), list(map(len, held_out)), recipe)
        with torch.no_grad(), autocast(device, precision):
            losses = [loss([held_out[i] for i in batch], generator).item() for batch in batches]
        return -sum(losses) / len(losses)

    how = dict(score=score if held_out else None, device=device, precision=precision, folder=folder, progress=progress)
    lengths = list(map(len, train))
    how["settings"] = {"task": "masked language model", "pieces": sum(lengths)}
    history = train_network(model, lambda numbers: loss([train[i] for i in numbers]), lengths, recipe, **how)
    save_encoder(out, pretrained, tokenizer)
    return history


def _cut(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | Sentence]) -> list[list[int]]:
    """The pieces of the texts, in stretches of at most MAX_PIECES, or what the encoder can read beside [CLS], [SEP]."""
    found = pieces_of(tokenizer, [text if isinstance(text, str) else text.text for text in texts])
    limit = min(MAX_PIECES, tokenizer.model_max_length - 2)
    return [ids[i : i + limit] for ids, _ in found for i in range(0, len(ids), limit)]
