"""The training loop of all neural taggers, and of continued pretraining.

One path for CPU and GPU. What belongs to a task comes in as two functions: `loss` of a batch, and `score`, measured
after every epoch, by which the best weights are chosen.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.device import autocast
from utils.files import TrainingDiverged, load_state, save_state
from utils.ner.taggers.recipe import Recipe, epoch_batches


class Training(NamedTuple):
    """What came of a training.

    Attributes:
        history: for each finished epoch its number, mean loss, score (NaN without) and seconds.
        interrupted: whether it was broken off.
    """

    history: list[dict[str, float]]
    interrupted: bool


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a generator of its own; the caller's goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train_network(
    network: nn.Module,
    loss: Callable[[list[int]], Tensor],
    lengths: Sequence[int],
    recipe: Recipe,
    *,
    score: Callable[[], float] | None = None,
    device: torch.device,
    precision: str = "no",
    folder: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
) -> Training:
    """Train `network` in place and leave it, in evaluation mode, with the weights of the best epoch.

    An interrupt (KeyboardInterrupt) ends the training: what was best so far is kept, and a printed line says so.

    Args:
        loss: of a batch, given the numbers of its examples.
        lengths: of each example, for batches of similar length.
        score: what to choose by, higher is better; without it, or before the first score, the last weights stay.
        precision: of the forward pass ("no", "bf16", "fp16").
        folder: where checkpoint.pt is kept; when it is there already, training goes on from it. On the CPU the result
            is, bit for bit, that of a training never interrupted.
        settings: what else has to be the same on resuming (numbers, strings).
    Raises:
        ValueError: a checkpoint that is damaged or belongs to another training.
        TrainingDiverged: a loss or gradient that is not finite.
    """
    run = _Run(network, loss, lengths, recipe, score, device, precision)
    run.settings = {**asdict(recipe), "precision": precision, "examples": len(lengths), **(settings or {})}
    run.checkpoint = Path(folder) / "checkpoint.pt" if folder else None
    with seeded(recipe.seed + 1, device):
        if run.checkpoint and run.checkpoint.exists():
            run.restore()
        interrupted = False
        try:
            run.train(progress)
        except KeyboardInterrupt:
            interrupted = True
            chosen = f"best one, epoch {run.best['epoch']}" if run.best else "last step"
            resume = f"; the same call goes on from {run.checkpoint}" if run.checkpoint else ""
            print(f"interrupted in epoch {run.epoch + 1} of {recipe.epochs}: kept the weights of the {chosen}{resume}")
    if run.best:
        network.load_state_dict(run.best["weights"])
    network.eval()
    history = run.history
    del run  # and with it the optimizer's state
    release_memory()
    return Training(history, interrupted)


def release_memory() -> None:
    """Hand freed memory back to the system, where the C library can (glibc).

    What a training has freed lies between what is still in use, so glibc would keep it, and a process that trains one
    tagger after another would grow by hundreds of megabytes.
    """
    with suppress(OSError, AttributeError, TypeError):  # macOS, musl and Windows have no such function
        ctypes.CDLL(None).malloc_trim(0)


class _Run:
    """One training: its state and a step."""

    def __init__(self, network, loss, lengths, recipe, score, device, precision) -> None:
        self.network, self.loss, self.lengths, self.recipe, self.score = network, loss, lengths, recipe, score
        self.device, self.precision = device, precision
        self.optimizer = torch.optim.AdamW(parameter_groups(network, recipe), fused=device.type in ("cpu", "cuda"))
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.epoch, self.step, self.sums = 0, 0, [0.0, 0.0]  # step within the epoch; its loss and seconds so far
        self.best: dict[str, Any] | None = None
        self.history: list[dict[str, float]] = []

    def train(self, progress: bool) -> None:
        recipe = self.recipe
        bar = tqdm(total=recipe.epochs, initial=self.epoch, unit="epoch", leave=False, disable=not progress)
        bar.bar_format = "{l_bar}{bar}| {n:.2f}/{total} epochs [{elapsed}<{remaining}{postfix}]"
        with bar:
            while self.epoch < recipe.epochs and not self.is_patience_over():
                batches = epoch_batches(self.lengths, recipe, self.epoch)
                self.network.train()
                while self.step < len(batches):
                    done = self.epoch + (self.step + 0.5) / len(batches)
                    self.one_step(batches[self.step], recipe.rate(done / recipe.epochs))
                    bar.set_postfix(loss=f"{self.sums[0] / self.step:.3f}", **self.best_score(), refresh=False)
                    bar.update(1 / len(batches))
                    if self.checkpoint and self.step % recipe.save_every == 0:
                        self.save()
                self.finish_epoch()

    def one_step(self, batch: list[int], rate: float) -> None:
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        with autocast(self.device, self.precision):
            loss = self.loss(batch)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_gradient_norm)
        value = loss.item()
        # With fp16 the scaler leaves a step with an infinite gradient out and goes on.
        if not math.isfinite(value) or not (self.scaler.is_enabled() or norm.isfinite()):
            raise TrainingDiverged(
                f"epoch {self.epoch + 1}, step {self.step + 1}: loss {value}, gradient norm {norm.item()}; "
                'try a lower learning_rate, or precision="no"'
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step += 1
        self.sums = [self.sums[0] + value, self.sums[1] + time.perf_counter() - started]

    def finish_epoch(self) -> None:
        self.network.eval()
        score = self.score() if self.score else math.nan
        self.history.append({
            "epoch": self.epoch + 1, "loss": self.sums[0] / max(self.step, 1), "score": score, "seconds": self.sums[1],
        })  # fmt: skip
        if self.score and (self.best is None or score > self.best["score"]):
            weights = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            self.best = {"epoch": self.epoch + 1, "score": score, "weights": weights}
        self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0, 0.0]
        if self.checkpoint:
            self.save()

    def best_score(self) -> dict[str, str]:
        return {"best": f"{self.best['score']:.4f}"} if self.best else {}

    def is_patience_over(self) -> bool:
        patience = self.recipe.patience
        return bool(patience and self.best and self.epoch - self.best["epoch"] >= patience)

    def save(self) -> None:
        state = {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best,
            "scaler": self.scaler.state_dict(), "epoch": self.epoch, "step": self.step, "sums": self.sums,
            "history": self.history, "settings": self.settings, "random": torch.get_rng_state(),
        }  # fmt: skip
        if self.device.type == "cuda":
            state["device_random"] = torch.cuda.get_rng_state(self.device)
        save_state(self.checkpoint, state)

    def restore(self) -> None:
        saved = load_state(self.checkpoint)
        for key, here in self.settings.items():
            there = saved.get("settings", {}).get(key)
            if there != here:
                raise ValueError(
                    f"{self.checkpoint} is of a training with {key} {there!r}, this one has {here!r}; "
                    "use another folder, or the same settings"
                )
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.epoch, self.step, self.sums = saved["epoch"], saved["step"], saved["sums"]
        self.best, self.history = saved["best"], saved["history"]
        torch.set_rng_state(saved["random"])
        if self.device.type == "cuda" and "device_random" in saved:
            torch.cuda.set_rng_state(saved["device_random"], self.device)


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
