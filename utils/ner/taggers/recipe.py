"""How neural taggers are trained: a recipe of numbers, and the batches it cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

BUCKET = 50  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the examples.
        batch_size: examples in a step, and `batch_cells` their number times the longest one's length at most, so that
            a few long ones do not fill the memory.
        learning_rate: reached after the share `warmup` of all steps, then falling to 0 on a line.
        new_rate: how many times as fast the layers learn that begin from random weights (`network.new`).
        weight_decay: AdamW's, not for biases and normalisations.
        max_gradient_norm: gradients are scaled down to this norm.
        patience: stop after so many epochs without a better score; None never.
        save_every: steps between two saved states, when there is a folder.
        seed: of initial weights, order, dropout.
    Raises:
        ValueError: a number out of its range.
    """

    epochs: int = 10
    batch_size: int = 32
    batch_cells: int = 16_384
    learning_rate: float = 1e-3
    new_rate: float = 1.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_gradient_norm: float = 1.0
    patience: int | None = None
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        above = {name: value for name, value in asdict(self).items() if name not in ("seed", "warmup", "weight_decay")}
        for name, value in above.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if not 0 <= self.warmup <= 1 or self.weight_decay < 0:
            raise ValueError(
                f"expected 0 <= warmup <= 1 and weight_decay >= 0, got {self.warmup} and {self.weight_decay}"
            )

    def rate(self, done: float) -> float:
        """The share of the learning rate after the share `done` of the training."""
        return min(done / self.warmup if done < self.warmup else 1.0, (1 - done) / max(1 - self.warmup, 1e-9))


def cut_batches(order: Sequence[int], lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """The examples in this order, cut into batches of at most `batch_size` examples and `batch_cells` cells."""
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        fits = batches and len(batches[-1]) < recipe.batch_size
        if not fits or longest * (len(batches[-1]) + 1) > recipe.batch_cells:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return batches


def epoch_batches(lengths: Sequence[int], recipe: Recipe, epoch: int) -> list[list[int]]:
    """The batches of one epoch: shuffled, yet of similar length within each, so that little is padding.

    The order depends on the seed and the epoch only, so that a resumed training finds its place in it.
    """
    generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = BUCKET * recipe.batch_size
    pools = [sorted(order[i : i + pool], key=lambda one: lengths[one]) for i in range(0, len(order), pool)]
    batches = [batch for part in pools for batch in cut_batches(part, lengths, recipe)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
