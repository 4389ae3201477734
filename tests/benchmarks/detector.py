"""Benchmark 5: can a network tell the model's samples from real images it has not seen? 50% is perfect.

The course's classifier network, with two classes, learns from 3,000 real test images and as many samples, and is asked
about 1,000 others of each. Samples are rounded to 8 bits as the real ones are. Three seeds of the detector.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.quality import shown
from utils.diffusion import generate, load_images, load_model
from utils.diffusion.metrics import FOLDER, Classifier

KNOWN, ASKED, EPOCHS, BATCH = 3000, 1000, 8, 64


def held_out_accuracy(real: Tensor, drawn: Tensor, seed: int) -> float:
    """Share of the last `ASKED` of each, (N, 1, 28, 28) in [-1, 1], that a network trained on the others gets right."""
    torch.manual_seed(seed)
    detector = Classifier()
    detector.head = nn.Linear(detector.head.in_features, 2)
    optimizer = torch.optim.Adam(detector.parameters(), 1e-3)
    x, y = torch.cat([real[:KNOWN], drawn[:KNOWN]]), torch.arange(2).repeat_interleave(KNOWN)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(detector(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    detector.eval()
    with torch.no_grad():
        answers = [detector(part[-ASKED:]).argmax(1) for part in (real, drawn)]
    return torch.cat([answers[0] == 0, answers[1] == 1]).double().mean().item()


def measure(path: Path, seeds: int) -> dict:
    """Accuracies of the detectors on samples of this model, classes in turn, by DPM-Solver++(2M), 20 evaluations."""
    model, diffusion = load_model(path)
    count = KNOWN + ASKED
    generator = torch.Generator().manual_seed(0)
    pixels = load_images("fashion-mnist", "test").pixels
    if len(pixels) < count:
        seen = f"{len(pixels):,} real test images, and {count:,} are needed"
        raise SystemExit(f"here are {seen}: COURSE_DATA=FOLDER says where the whole Fashion-MNIST is")
    real = pixels[torch.randperm(len(pixels), generator=generator)[:count]].float() / 127.5 - 1
    drawn = generate(model, diffusion, count, y=torch.arange(count) % model.num_classes, sampler="dpmpp_2m", steps=20)
    drawn = ((drawn + 1) * 127.5).round() / 127.5 - 1
    return {"accuracy": [held_out_accuracy(real, drawn, seed) for seed in range(seeds)]}


def report(row: dict) -> str:
    several = f"{len(row['accuracy'])} seeds, 95% interval" if len(row["accuracy"]) > 1 else "one seed"
    return (
        f"A network that learnt from {KNOWN:,} samples and as many real test images tells {ASKED:,} others of each "
        f"apart with {shown(row['accuracy'], '.1%')} accuracy ({several}); 50% is perfect."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=FOLDER / "unet-fashion-mnist.safetensors")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    row = measure(args.checkpoint, args.seeds)
    print(report(row), file=sys.stderr)
    print(json.dumps(row))
