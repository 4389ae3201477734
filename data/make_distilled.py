"""Make data/checkpoints/distilled*.safetensors from the shipped model: `python data/make_distilled.py` (one thread).

`distilled` tells the ends of the teacher's trajectories, for 1, 2, 4 and 8 evaluations; `distilled-4` jumps four times
(notebook 08). `python data/make_distilled.py distilled-4` makes that one only. The trajectories are drawn once, and
kept in build/.
`python data/make_distilled.py measure` prints the table of both in data/results.md.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.device import autocast, find_precision
from utils.diffusion import ImageQuality, generate, load_images, load_model, save_model
from utils.diffusion.distill import EVALUATIONS, Trajectories, distill, draw_trajectories
from utils.diffusion.images import ROOT
from utils.diffusion.metrics import FOLDER, precision_recall
from utils.files import load_state, save_state, sha256_of

TEACHER, SEED = "unet-fashion-mnist", 0
JUMPS = {"distilled": None, "distilled-4": 4}  # of the files
COUNTS = {"distilled": 20_000, "distilled-4": 40_000}  # how many of the teacher's they learn from
STEPS = {"distilled": 6000, "distilled-4": 8000}
MEASURED = [("distilled", "consistency", n) for n in EVALUATIONS] + [("distilled-4", "ddim", 4)]
MEASURED += [(TEACHER, "ddim", n) for n in (1, 2, 4, 8)] + [(TEACHER, "dpmpp_2m", n) for n in (2, 4, 5, 8, 20)]


def trajectories_of(teacher, diffusion) -> Trajectories:
    count = max(COUNTS.values())
    path, teacher_file = ROOT / "build" / "trajectories.pt", FOLDER / f"{TEACHER}.safetensors"
    settings = {"seed": SEED, "count": count, "teacher": sha256_of(teacher_file)}
    if not path.exists():
        started = time.process_time()
        drawn = draw_trajectories(teacher, diffusion, count, seed=SEED)
        print(f"{count:,} trajectories: {time.process_time() - started:.0f} s of processor time", flush=True)
        save_state(path, {**drawn._asdict(), "settings": settings})
    saved = load_state(path, settings)
    return Trajectories(saved["x"], saved["y"])


def make(name: str) -> None:
    model, diffusion = load_model(FOLDER / f"{TEACHER}.safetensors")
    x, y = trajectories_of(model, diffusion)
    trajectories = Trajectories(x[: COUNTS[name]], y[: COUNTS[name]])
    started = time.process_time()
    for state in distill(model, diffusion, trajectories, steps=STEPS[name], jumps=JUMPS[name], seed=SEED):
        if state.step % 100 == 0:
            spent = time.process_time() - started
            print(f"step {state.step}  loss {state.loss:.4f}  {spent:.0f} s of processor time", flush=True)
    path, student = FOLDER / f"{name}.safetensors", state.ema_model
    notes = dict(distilled=student.distilled, teacher=TEACHER, steps=state.step, seed=SEED, size=28)
    save_model(path, student, diffusion, torch.float16, **notes)
    print(f"{path.name}: {path.stat().st_size:,} bytes, torch {torch.__version__}")


def measure(count: int = 1000, seeds: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Of a set for each seed: distances, precision and recall beside as many training images, and class accuracy."""
    quality, images = ImageQuality.load(), load_images("fashion-mnist")
    real = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    real = quality.features(images.pixels[real])
    networks = {name: load_model(FOLDER / f"{name}.safetensors") for name in (*JUMPS, TEACHER)}
    print("| network | sampler | evaluations | Frechet distance | its mean | precision | recall | class accuracy, % |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for name, sampler, steps in MEASURED:
        rows = []
        for seed in seeds:
            y = torch.randint(10, (count,), generator=torch.Generator().manual_seed(100 + seed))
            options = dict(y=y, seed=seed, sampler=sampler, steps=steps)
            with autocast(torch.device("cpu"), find_precision(torch.device("cpu"))), torch.no_grad():
                drawn = generate(*networks[name], count, **options)
            features, shares = quality.features(drawn), precision_recall(real, quality.features(drawn), k=3)
            right = (quality.classifier(drawn).argmax(1) == y).double().mean().item()
            rows.append((quality.frechet(features), shares["precision"], shares["recall"], 100 * right))
        distance, precision, recall, right = torch.tensor(rows).mean(0).tolist()
        each = ", ".join(f"{row[0]:.2f}" for row in rows)
        quality_of = f"{each} | {distance:.2f} | {precision:.2f} | {recall:.2f} | {right:.1f}"
        print(f"| {name} | {sampler} | {steps} | {quality_of} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        for name in sys.argv[1:] or JUMPS:
            make(name)
