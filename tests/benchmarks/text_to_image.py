"""Networks that draw from text, at equal seconds of processor time on one thread, three seeds each.

    python -m tests.benchmarks.text_to_image

How a U-Net is told a prompt: by the mean of its words ("pooled"), by attention to each of them ("words"), by both, or
by the class alone; with random vectors in place of the encoder's. The same U-Net's small sister in the latents of an
autoencoder, whose own seconds count; scaled to a standard deviation of 1, and of 5, about as Stable Diffusion's are
before they are scaled. A diffusion Transformer in the U-Net's place, on pixels and latents, of about as many weights.

All learn from the same images, without the combinations that are kept from training; the reading of the prompts does
not count. Each is trained by `train`, all as by default, for as many steps as fit into the seconds, which a few steps
before tell. After each quarter a row tells the Frechet distance of COUNT images, without guidance, for prompts of real
test images. The last row also tells how often an image agrees with what was asked, at guidance weight GUIDANCE: with
its class, with all its words, and with both; on prompts like those of the training, in other phrasings, for
combinations kept from training, and for other combinations of the same classes.

Rows go to data/text-to-image.csv when a run is finished; a call leaves out what is there, so that it may be cut off. It
begins no run after `--limit` seconds.
"""

import argparse
import datetime
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from utils.diffusion import GaussianDiffusion, ImageQuality, ImageSet, NoiseSchedule, UNet, generate, load_images, train
from utils.diffusion.autoencoder import Autoencoder, Reconstruction
from utils.diffusion.conditioning import MINILM, STAND_IN, text_encoder
from utils.diffusion.prompts import (
    CLASSES,
    NAMES,
    PHRASINGS,
    UNSEEN_COMBINATIONS,
    UNSEEN_PHRASINGS,
    WORDS,
    describe,
    is_unseen,
    phrase,
    with_prompts,
)
from utils.diffusion.transformer import DiT
from utils.files import write_atomically

TABLE = Path(__file__).resolve().parents[2] / "data" / "text-to-image.csv"
GUIDANCE, EVALUATIONS, TIMED_STEPS = 2.0, 10, 15
ASKED = 300  # images for each kind of request
LATENT = dict(in_channels=4, channels=96, multipliers=(1,), stem=1)
# name: where it works, and its network
VARIANTS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "class": ("pixels", lambda: UNet(num_classes=10)),
    "pooled": ("pixels", lambda: UNet(text="pooled", encoder=MINILM)),
    "words": ("pixels", lambda: UNet(text="words", encoder=MINILM)),
    "both": ("pixels", lambda: UNet(text="both", encoder=MINILM)),
    "words, random vectors": ("pixels", lambda: UNet(text="words", encoder=STAND_IN)),
    "Transformer": ("pixels", lambda: DiT(channels=120, text="words", encoder=MINILM)),
    "latents": ("latents", lambda: UNet(**LATENT, text="words", encoder=MINILM)),
    "latents, s = 5": ("latents, five times", lambda: UNet(**LATENT, text="words", encoder=MINILM)),
    "latents, Transformer": ("latents", lambda: DiT(4, 120, patch=1, text="words", encoder=MINILM)),
}


@dataclass
class Data:
    """What all runs share: images to learn from, what is asked for by test images, and the meter."""

    images: ImageSet  # with classes
    told: ImageSet  # the same with prompts
    asked_class: Tensor
    asked: Tensor
    quality: ImageQuality


@dataclass(frozen=True)
class Request:
    """What is asked for: a thing, its words, and the prompt that says so."""

    name: str
    words: tuple[str, ...]
    prompt: str


def both_encoders(prompts: list[str]) -> Tensor:
    """Labels of the prompts, read by the encoder and by its stand-in: a label is the same for both."""
    text_encoder(STAND_IN)(prompts)
    return text_encoder(MINILM)(prompts)


def load(count: int) -> Data:
    images, test = seen(load_images("fashion-mnist")), seen(load_images("fashion-mnist", "test"))
    some = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:count]
    part = ImageSet(test.pixels[some], test.labels[some], test.classes, test.source)
    told, asked = with_prompts(images, both_encoders), with_prompts(part, both_encoders).labels
    return Data(images, told, part.labels, asked, ImageQuality.load())


def seen(images: ImageSet) -> ImageSet:
    """Without the combinations that are kept from training."""
    words = zip(images.labels.tolist(), describe(images.pixels, images.labels))
    kept = [k for k, (label, own) in enumerate(words) if not is_unseen(NAMES[label], own)]
    return ImageSet(images.pixels[kept], images.labels[kept], images.classes, images.source)


def pairs_of(name: str) -> list[tuple[str, str]]:
    """Every brightness with every other word of this class."""
    others = [word for attribute in CLASSES[name] if attribute != "brightness" for word in WORDS[attribute]]
    return [*itertools.product(WORDS["brightness"], others)]


def requests(kind: str, count: int) -> list[Request]:
    """`count` requests of that kind, the same ones at every call: classes in turn, each time another pair of words."""
    new = kind == "unseen combinations"
    names = list(UNSEEN_COMBINATIONS if new or kind == "seen, the same five" else NAMES)
    forms, found = UNSEEN_PHRASINGS if kind == "unseen phrasings" else PHRASINGS, []
    for k in range(count):
        name, turn = names[k % len(names)], k // len(names)
        pairs = [pair for pair in pairs_of(name) if is_unseen(name, pair) == new]
        words, form = pairs[turn % len(pairs)], forms[turn // len(pairs) % len(forms)]  # every pair in every form
        found.append(Request(name, words, phrase(name, words, form)))
    return found


KINDS = ("seen", "unseen phrasings", "seen, the same five", "unseen combinations")


def agreement(images: Tensor, asked: list[Request], quality: ImageQuality) -> dict[str, float]:
    """The share of images of the class that was asked for, of those that all words fit, and of those with both."""
    labels = torch.tensor([NAMES.index(request.name) for request in asked])
    with torch.no_grad():
        right = quality.classifier(images).argmax(1) == labels
    fits = torch.tensor([{*one.words} <= {*words} for one, words in zip(asked, describe(images, labels))])
    shares = {"class": right, "words": fits, "both": right & fits}
    return {what: float(hits.double().mean()) for what, hits in shares.items()}


class Run:
    """One network, what it learns from, and how its answers become images."""

    def __init__(self, name: str, seed: int, data: Data, autoencoder_seconds: float):
        self.name, self.seed, self.data = name, seed, data
        self.diffusion, self.before, self.came_with = GaussianDiffusion(NoiseSchedule.cosine(1000)), 0.0, None
        place, make = VARIANTS[name]
        self.images, self.options = data.images if name == "class" else data.told, {}
        if place != "pixels":
            self.images = self.latents(place, autoencoder_seconds)
        torch.manual_seed(seed)
        self.model = make()

    def latents(self, place: str, seconds: float) -> ImageSet:
        """The images as latents of an autoencoder trained for these seconds; they count, and the encoding does."""
        torch.manual_seed(self.seed)
        process, pixels = Reconstruction(), self.images
        steps = steps_in(seconds, Autoencoder(), process, pixels)
        started = time.process_time()
        *_, state = train(Autoencoder(), process, pixels, steps=steps, seed=self.seed, progress=False)
        autoencoder = state.ema_model
        latents = autoencoder.encode_set(pixels)
        self.before = time.process_time() - started
        self.came_with = float(1 / autoencoder.scale)
        spread = 5.0 if place == "latents, five times" else 1.0
        latents.pixels *= spread
        autoencoder.scale *= spread
        self.options = dict(image_shape=(4, 7, 7), decode=autoencoder.decode)
        return latents

    def rows(self, seconds: float, count: int) -> Iterator[dict]:
        """Train; a row after each quarter."""
        left = seconds - self.before
        steps = max(4, steps_in(left, VARIANTS[self.name][1](), self.diffusion, self.images))
        stops, spent, began = {steps * k // 4: k for k in (1, 2, 3, 4)}, self.before, time.process_time()
        for state in train(self.model, self.diffusion, self.images, steps=steps, seed=self.seed, progress=False):
            if state.step in stops:
                spent += time.process_time() - began
                row = {"variant": self.name, "seed": self.seed, "quarter": stops[state.step], "steps": state.step}
                row |= {"weights": sum(p.numel() for p in self.model.parameters()), "spread": self.came_with}
                row |= {"seconds": round(spent, 1), "before": round(self.before, 1)}
                row |= {"ms a step": round(1000 * (spent - self.before) / state.step, 2)}
                row |= self.distance(state.ema_model)
                yield row | (self.agreements(state.ema_model) if state.step == steps else {})
                began = time.process_time()

    def draw(self, model: nn.Module, y: Tensor, **options) -> Tensor:
        options = dict(sampler="dpmpp_2m", steps=EVALUATIONS, seed=self.seed) | self.options | options
        return generate(model, self.diffusion, len(y), y=y, **options)

    def distance(self, model: nn.Module) -> dict:
        y = self.data.asked_class if self.name == "class" else self.data.asked
        began = time.process_time()
        images = self.draw(model, y)
        cost = 1000 * (time.process_time() - began) / len(y)
        distance = self.data.quality.frechet(self.data.quality.features(images))
        return {"Frechet distance": round(distance, 3), "ms an image": round(cost, 2)}

    def agreements(self, model: nn.Module) -> dict:
        """The share of images that agree, for each kind of request."""
        found = {}
        for kind in KINDS:
            asked = requests(kind, ASKED)
            y = both_encoders([request.prompt for request in asked])
            if self.name == "class":
                y = torch.tensor([NAMES.index(request.name) for request in asked])
            shares = agreement(self.draw(model, y, guidance=GUIDANCE), asked, self.data.quality)
            found |= {f"{kind}: {what}": round(share, 4) for what, share in shares.items()}
        return found


def steps_in(seconds: float, model: nn.Module, diffusion: GaussianDiffusion, images: ImageSet) -> int:
    """How many steps fit, by a few timed ones."""
    clock = [time.process_time() for _ in train(model, diffusion, images, steps=TIMED_STEPS, progress=False)]
    return max(1, round(seconds / statistics.median(b - a for a, b in itertools.pairwise(clock[4:]))))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.text_to_image", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=180, help="of processor time, for each run, the autoencoder's included")
    add("--autoencoder-seconds", type=float, default=40)
    add("--seeds", type=int, default=3)
    add("--count", type=int, default=500, help="images of a Frechet distance")
    add("--limit", type=float, default=float("inf"), help="seconds after which no run is begun")
    add("--table", type=Path, default=TABLE)
    args, started = parser.parse_args(), time.monotonic()
    torch.set_num_threads(1)
    data = load(args.count)
    rows = pd.read_csv(args.table, comment="#").to_dict("records") if args.table.exists() else []
    about = f"# python -m tests.benchmarks.text_to_image --seconds {args.seconds:g} --count {args.count}; "
    if rows and not args.table.read_text().startswith(about):
        raise SystemExit(f"{args.table} has rows of other settings than {about[2:-2]}: give another file by --table")
    about += f"torch {torch.__version__.split('+')[0]}, 1 thread, {datetime.date.today()}\n"
    for seed, name in itertools.product(range(args.seeds), VARIANTS):
        if (name, seed) in {(row["variant"], row["seed"]) for row in rows}:
            continue
        if time.monotonic() - started > args.limit:
            print("the time is over; call it again to go on")
            return
        rows += Run(name, seed, data, args.autoencoder_seconds).rows(args.seconds, args.count)
        print(rows[-1], flush=True)
        write_atomically(args.table, (about + pd.DataFrame(rows).to_csv(index=False)).encode())


if __name__ == "__main__":
    main()
