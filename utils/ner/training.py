"""The training loop of all neural taggers, and of continued pretraining; one path for CPU and GPU."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
WARMUP = 0.1  # the share of all steps in which the learning rate rises
WEIGHT_DECAY = 0.01  # AdamW's, not for biases and normalisations
MAX_GRADIENT_NORM = 1.0  # gradients are scaled down to it


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train. Raises ValueError for a number, but the seed, that is not above 0."""

    epochs: int = 10
    batch_size: int = 32  # examples in a step
    batch_cells: int = 16_384  # their number times the longest one's length, at most: so much memory is enough
    learning_rate: float = 1e-3  # reached after the warm-up, then falling to 0 on a line
    new_rate: float = 1.0  # how many times as fast the layers learn that begin from random weights (`network.new`)
    save_every: int = 200  # steps between two saved states, when there is a folder
    seed: int = 0  # of initial weights, order, dropout

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "seed" and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")


def rate(done: float) -> float:
    """The share of the learning rate after the share `done` of the training."""
    return done / WARMUP if done < WARMUP else (1 - done) / (1 - WARMUP)


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
    """The batches of one epoch: shuffled by seed and epoch alone, of similar length within each to save padding."""
    generator = torch.Generator().manual_seed(stream_seed(recipe.seed, "order", epoch))
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = BUCKET * recipe.batch_size
    pools = [sorted(order[i : i + pool], key=lengths.__getitem__) for i in range(0, len(order), pool)]
    batches = [batch for part in pools for batch in cut_batches(part, lengths, recipe)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw by a seed; the caller's generators go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train_network(
    network: nn.Module,
    loss: Callable[[list[int]], Tensor],
    lengths: Sequence[int],
    recipe: Recipe,
    score: Callable[[], float] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    device: torch.device,
    precision: str = "no",
    folder: str | Path | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train `network` in place and leave it, in evaluation mode, with the weights of the best epoch.

    What a step draws (dropout, masks) depends on (seed, epoch, step) alone: on the CPU a resumed training is, bit for
    bit, one that was never interrupted.

    loss: of a batch, given the numbers of its examples. score: of an epoch, higher is better; else the last is best.
    folder: where checkpoint.pt is kept, from which training goes on. settings: what has to be the same then, too.
    Gives the history: for each epoch its number, mean loss and score (NaN without).
    Raises ValueError: a checkpoint that is damaged or of another training. TrainingDiverged: a loss or gradient that is
    not finite. KeyboardInterrupt: at Ctrl-C, once the state is in the folder.
    """
    settings = {**asdict(recipe), "precision": precision, "examples": len(lengths), **(settings or {})}
    optimizer = torch.optim.AdamW(parameter_groups(network, recipe), fused=device.type in ("cpu", "cuda"))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    parts = {"network": network, "optimizer": optimizer, "scaler": scaler}
    # `step` counts within the epoch, `loss` is its sum so far.
    state = {"epoch": 0, "step": 0, "loss": 0.0, "history": [], "best": {"score": -math.inf, "weights": None}}
    checkpoint = Path(folder) / "checkpoint.pt" if folder else None
    if checkpoint and checkpoint.exists():
        saved = load_state(checkpoint, settings)
        state = {name: saved[name] for name in state}
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    def save() -> None:
        if checkpoint:
            states = {name: part.state_dict() for name, part in parts.items()}
            save_state(checkpoint, {**state, **states, "settings": settings})

    off = not progress or None  # None: off unless in a terminal or a notebook
    bar = tqdm(total=recipe.epochs, initial=state["epoch"], unit="epoch", leave=False, disable=off)
    bar.bar_format = "{l_bar}{bar}| {n:.2f}/{total} epochs [{elapsed}<{remaining}{postfix}]"
    is_whole = True  # not while the weights move
    try:
        with bar, seeded(recipe.seed, device):
            while (epoch := state["epoch"]) < recipe.epochs:
                network.train()
                batches = epoch_batches(lengths, recipe, epoch)
                for step in range(state["step"], len(batches)):
                    torch.manual_seed(stream_seed(recipe.seed, "step", epoch, step))
                    with autocast(device, precision):
                        value = loss(batches[step])
                    value = _set_gradients(network, optimizer, scaler, value, f"epoch {epoch + 1}, step {step + 1}")
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak"] * rate((epoch + (step + 0.5) / len(batches)) / recipe.epochs)
                    is_whole = False
                    scaler.step(optimizer)
                    scaler.update()
                    state.update(step=step + 1, loss=state["loss"] + value)
                    is_whole = True
                    bar.set_postfix(loss=f"{state['loss'] / state['step']:.3f}", refresh=False)
                    bar.update(1 / len(batches))
                    if state["step"] % recipe.save_every == 0:
                        save()
                network.eval()
                _end_epoch(state, network, score() if score else math.nan)
                save()
    except KeyboardInterrupt:
        if is_whole:
            save()
        raise
    if weights := state["best"]["weights"]:
        network.load_state_dict(weights)
    network.eval()
    return state["history"]


def _set_gradients(network: nn.Module, optimizer, scaler, loss: Tensor, place: str) -> float:
    """Gradients of the loss, scaled down to MAX_GRADIENT_NORM; gives the loss as a number."""
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
    value, norm = torch.stack([loss.detach().float(), norm.float()]).tolist()  # the one wait for a GPU in a step
    # With fp16 the scaler leaves a step with an infinite gradient out and goes on.
    if not math.isfinite(value) or not (scaler.is_enabled() or math.isfinite(norm)):
        advice = 'try a lower learning_rate, or precision="no"'
        raise TrainingDiverged(f"{place}: loss {value}, gradient norm {norm}; {advice}")
    return value


def _end_epoch(state: dict[str, Any], network: nn.Module, score: float) -> None:
    """Add a row to the history, and keep the weights if they are the best so far."""
    row = {"epoch": state["epoch"] + 1, "loss": state["loss"] / state["step"], "score": score}
    best = state["best"]
    if score > best["score"]:  # never true of NaN
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        best = {"score": score, "weights": weights}
    # All at once, in case of an interrupt.
    state.update(epoch=row["epoch"], step=0, loss=0.0, history=[*state["history"], row], best=best)


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for AdamW by the `peak` of their learning rate and by weight decay."""
    new = {id(p) for module in getattr(network, "new", ()) for p in module.parameters()}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            peak = recipe.learning_rate * (recipe.new_rate if id(parameter) in new else 1)
            decay = WEIGHT_DECAY * (parameter.dim() > 1)
            group = groups.setdefault((peak, decay), {"params": [], "peak": peak, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())
