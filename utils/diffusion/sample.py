"""Command line: images from a trained model. `python -m utils.diffusion.sample --help` lists the options.

This file is a command, not a module to import: `from utils.diffusion import sample` is the function.
"""

if __name__ != "__main__":
    # Importing it would put this module in the place of the function of the same name.
    raise ImportError("utils.diffusion.sample is a command; `from utils.diffusion import sample` is the function")

import argparse
import sys
from pathlib import Path

import torch

from utils.device import find_device
from utils.diffusion.checkpoints import load_model, read_notes
from utils.diffusion.images import save_grid
from utils.diffusion.sampling import SAMPLERS, generate
from utils.files import write_atomically


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m utils.diffusion.sample",
        description="Draw images from a trained model and write them as one picture, or as a tensor.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="a model.safetensors that training wrote")
    add("--out", type=Path, default=Path("samples.png"), help=".png: a grid; .pt: (N, C, H, W) in [-1, 1]")
    add("--sampler", default="dpmpp_2m", help=f"one of {', '.join(SAMPLERS)}")
    add("--steps", type=int, help="network evaluations; by default what suits the sampler")
    add("--eta", type=float, default=0.0, help="fresh noise in DDIM, 0 to 1")
    add("--n", type=int, default=64, help="how many images")
    add("--size", type=int, help="height and width; that of the training images when not given")
    add("--label", type=int, help="class of all images; without it each class in turn, if there are classes")
    add("--no-clip", action="store_true", help="do not clamp the estimate of x_0")
    add("--batch-size", type=int, default=250, help="images at a time")
    add("--seed", type=int, default=0, help="for all noise")
    add("--device", help="cpu, cuda or mps; found out when not given")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.out.suffix not in (".png", ".pt"):
        raise ValueError(f"--out must end in .png or .pt, got {args.out.name!r}")
    if args.n < 1:
        raise ValueError(f"--n must be at least 1, got {args.n}")
    model, diffusion = load_model(args.checkpoint, find_device(args.device))
    y = None
    if args.label is not None:
        y = torch.full((args.n,), args.label)
    elif model.num_classes:
        y = torch.arange(args.n) % model.num_classes
    size = args.size or read_notes(args.checkpoint).get("size", 28)
    images = generate(
        model, diffusion, args.n, (model.config["in_channels"], size, size), batch_size=args.batch_size,
        y=y, seed=args.seed, progress=True, sampler=args.sampler, steps=args.steps, eta=args.eta,
        clip=not args.no_clip,
    )  # fmt: skip
    if args.out.suffix == ".pt":
        write_atomically(args.out, lambda part: torch.save(images, part))
    else:
        save_grid(images, args.out, scale=3)
    print(f"{args.n} images by {args.sampler}: {args.out}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
