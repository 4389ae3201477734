"""Make data/checkpoints/distilled.safetensors from the shipped model: `python data/make_distilled.py` (one thread).

One network for 1, 2, 4 and 8 evaluations (notebook 08). The teacher's trajectories are drawn once, and kept in build/.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.diffusion import load_model, save_model
from utils.diffusion.distill import EVALUATIONS, Trajectories, distill, draw_trajectories
from utils.diffusion.images import ROOT
from utils.diffusion.metrics import FOLDER
from utils.files import load_state, save_state

TEACHER, SEED, COUNT, STEPS = "unet-fashion-mnist", 0, 20_000, 6000


def trajectories_of(teacher, diffusion) -> Trajectories:
    path, settings = ROOT / "build" / "trajectories.pt", {"seed": SEED, "count": COUNT}
    if not path.exists():
        drawn = draw_trajectories(teacher, diffusion, COUNT, seed=SEED)
        save_state(path, {**drawn._asdict(), "settings": settings})
    saved = load_state(path, settings)
    return Trajectories(saved["x"], saved["y"])


def main() -> None:
    model, diffusion = load_model(FOLDER / f"{TEACHER}.safetensors")
    started = time.process_time()
    trajectories = trajectories_of(model, diffusion)
    print(f"{COUNT:,} trajectories: {time.process_time() - started:.0f} s of processor time", flush=True)
    started = time.process_time()
    for state in distill(model, diffusion, trajectories, steps=STEPS, seed=SEED):
        if state.step % 100 == 0:
            spent = time.process_time() - started
            print(f"step {state.step}  loss {state.loss:.4f}  {spent:.0f} s of processor time", flush=True)
    path = FOLDER / "distilled.safetensors"
    notes = dict(evaluations=EVALUATIONS, teacher=TEACHER, steps=state.step, seed=SEED, size=28)
    save_model(path, state.ema_model, diffusion, torch.float16, **notes)
    print(f"{path.name}: {path.stat().st_size:,} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
