"""Make data/checkpoints/unet-fashion-mnist.safetensors, half the size of what a training wrote, its weights in float16.

OMP_NUM_THREADS=1 python -m utils.diffusion train --data fashion-mnist --steps 20000 --seed 0 --out build/shipped
python data/make_checkpoint.py build/shipped
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.diffusion import load_model
from utils.diffusion.checkpoints import MODEL, read_notes, save_model
from utils.diffusion.images import ROOT
from utils.files import sha256_of


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("say which folder a training wrote: python data/make_checkpoint.py build/shipped")
    source, target = Path(sys.argv[1], MODEL), ROOT / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
    save_model(target, *load_model(source), dtype=torch.float16, **read_notes(source))
    print(f"{target.name}: {target.stat().st_size:,} bytes, SHA-256 {sha256_of(target)}")


if __name__ == "__main__":
    main()
