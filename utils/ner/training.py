"""The training loop of all neural taggers, and of continued pretraining.

One path for CPU and GPU. What belongs to a task comes in as two functions: `loss` of a batch, and `score`, measured
after every epoch, by which the best weights are chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.device import autocast
from utils.files import TrainingDiverged, load_state, save_state, stream_seed

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
    generator = torch.Generator().manual_seed(stream_seed(recipe.seed, "order", epoch))
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = BUCKET * recipe.batch_size
    pools = [sorted(order[i : i + pool], key=lengths.__getitem__) for i in range(0, len(order), pool)]
    batches = [batch for part in pools for batch in cut_batches(part, lengths, recipe)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers by a seed; the caller's generators go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train_network(
    network: nn.Module,
    loss: Callable[[list[int]], Tensor],
    lengths: Sequence[int],
    recipe: Recipe,
    *,
    device: torch.device,
    score: Callable[[], float] | None = None,
    precision: str = "no",
    folder: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `network` in place and leave it, in evaluation mode, with the weights of the best epoch.

    What a step draws (dropout, masks) depends on (seed, epoch, step) alone; on the CPU a resumed training is, bit for
    bit, one that was never interrupted.

    Args:
        loss: of a batch, given the numbers of its examples.
        lengths: of each example, for batches of similar length.
        score: what to choose by, higher is better; without it the last weights stay.
        precision: of the forward pass ("no", "bf16", "fp16").
        folder: where checkpoint.pt is kept; when it is there already, training goes on from it.
        settings: what else has to be the same on resuming (numbers, strings).
    Returns:
        The history: for each epoch its number, mean loss, score (NaN without) and seconds of training.
    Raises:
        ValueError: a checkpoint that is damaged or belongs to another training.
        TrainingDiverged: a loss or gradient that is not finite.
        KeyboardInterrupt: at Ctrl-C, once the state is in the folder.
    """
    settings = {**asdict(recipe), "precision": precision, "examples": len(lengths), **(settings or {})}
    checkpoint = Path(folder) / "checkpoint.pt" if folder else None
    optimizer = torch.optim.AdamW(parameter_groups(network, recipe), fused=device.type in ("cpu", "cuda"))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    parts = {"network": network, "optimizer": optimizer, "scaler": scaler}
    # `step` counts within the epoch, `loss` and `seconds` are its sums so far; `best` has the weights, too.
    state: dict[str, Any] = {"epoch": 0, "step": 0, "loss": 0.0, "seconds": 0.0, "history": [], "best": None}
    if checkpoint and checkpoint.exists():
        saved = load_state(checkpoint, settings)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        state = {name: saved[name] for name in state}

    def save() -> None:
        if checkpoint:
            states = {name: part.state_dict() for name, part in parts.items()}
            save_state(checkpoint, {**state, **states, "settings": settings})

    is_whole = True  # not while the weights move
    bar = tqdm(total=recipe.epochs, initial=state["epoch"], unit="epoch", leave=False, disable=not progress)
    bar.bar_format = "{l_bar}{bar}| {n:.2f}/{total} epochs [{elapsed}<{remaining}{postfix}]"
    try:
        with bar, seeded(recipe.seed, device):
            while state["epoch"] < recipe.epochs and not _is_patience_over(state, recipe):
                batches = epoch_batches(lengths, recipe, state["epoch"])
                network.train()
                for step in range(state["step"], len(batches)):
                    started = time.perf_counter()
                    torch.manual_seed(stream_seed(recipe.seed, "step", state["epoch"], step))
                    with autocast(device, precision):
                        value = loss(batches[step])
                    value = _set_gradients(network, optimizer, scaler, value, recipe, (state["epoch"], step))
                    is_whole = False
                    for group in optimizer.param_groups:
                        done = state["epoch"] + (step + 0.5) / len(batches)
                        group["lr"] = group["peak"] * recipe.rate(done / recipe.epochs)
                    scaler.step(optimizer)
                    scaler.update()
                    seconds = time.perf_counter() - started
                    state.update(step=step + 1, loss=state["loss"] + value, seconds=state["seconds"] + seconds)
                    is_whole = True
                    bar.set_postfix(loss=f"{state['loss'] / state['step']:.3f}", refresh=False)
                    bar.update(1 / len(batches))
                    if state["step"] % recipe.save_every == 0:
                        save()
                network.eval()
                state.update(_next_epoch(state, network, score() if score else math.nan))
                save()
    except KeyboardInterrupt:
        if is_whole:
            save()
        raise
    if state["best"]:
        network.load_state_dict(state["best"]["weights"])
    network.eval()
    return state["history"]


def _set_gradients(network, optimizer, scaler, loss: Tensor, recipe: Recipe, place: tuple[int, int]) -> float:
    """Gradients of the loss, scaled down to `max_gradient_norm`; gives the loss as a number."""
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.max_gradient_norm)
    value, norm = torch.stack([loss.detach().float(), norm.float()]).tolist()  # the one wait for a GPU in a step
    # With fp16 the scaler leaves a step with an infinite gradient out and goes on.
    if not math.isfinite(value) or not (scaler.is_enabled() or math.isfinite(norm)):
        raise TrainingDiverged(
            f"epoch {place[0] + 1}, step {place[1] + 1}: loss {value}, gradient norm {norm}; "
            'try a lower learning_rate, or precision="no"'
        )
    return value


def _next_epoch(state: dict[str, Any], network: nn.Module, score: float) -> dict[str, Any]:
    """The state at the beginning of the next epoch, with this one's row of the history and the best weights so far."""
    epoch, best = state["epoch"] + 1, state["best"]
    row = {"epoch": epoch, "loss": state["loss"] / max(state["step"], 1), "score": score, "seconds": state["seconds"]}
    if not math.isnan(score) and (best is None or score > best["score"]):
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        best = {"epoch": epoch, "score": score, "weights": weights}
    return {"epoch": epoch, "step": 0, "loss": 0.0, "seconds": 0.0, "history": [*state["history"], row], "best": best}


def _is_patience_over(state: dict[str, Any], recipe: Recipe) -> bool:
    best = state["best"]
    return bool(recipe.patience and best and state["epoch"] - best["epoch"] >= recipe.patience)


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Four groups for AdamW: pretrained or new (`network.new` lists those modules), with or without weight decay; each
    with the `peak` of its learning rate."""
    new = {id(p) for module in getattr(network, "new", ()) for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in new, parameter.dim() > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": recipe.learning_rate * (recipe.new_rate if is_new else 1.0),
            "weight_decay": recipe.weight_decay if is_matrix else 0.0,
        }
        for (is_new, is_matrix), parameters in groups.items()
    ]
