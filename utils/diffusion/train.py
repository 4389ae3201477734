"""Command line: train a diffusion model. `python -m utils.diffusion.train --help` lists the options.

This file is a command, not a module to import: `from utils.diffusion import train` is the function.
"""

import argparse
import sys
from pathlib import Path

import torch

from utils.diffusion.images import load_images
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion
from utils.diffusion.schedules import SCHEDULES, NoiseSchedule
from utils.diffusion.training import TrainingDiverged, train
from utils.diffusion.unet import UNet


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m utils.diffusion.train",
        description="Train a U-Net to denoise images. Started again with the same --out, it resumes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="fashion-mnist", help="fashion-mnist, digits, or a folder of pictures")
    add("--out", required=True, type=Path, help="folder for checkpoint.pt and model.safetensors")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train this long")
    length.add_argument("--steps", type=int, help="train this many steps")
    add("--seed", type=int, default=0, help="for weights, batches and noise")
    add("--save-every", type=int, default=200, help="steps between two saved states")
    add("--batch-size", type=int, default=128, help="images in a step, over all processes")
    add("--learning-rate", type=float, default=2e-3, help="peak of the schedule")
    add("--ema-decay", type=float, default=0.999, help="of the moving average of the weights")
    add("--label-dropout", type=float, default=0.1, help="how often a label is hidden")
    add("--unconditional", action="store_true", help="train without labels")
    add("--schedule", default="cosine", help=f"one of {', '.join(SCHEDULES)}")
    add("--timesteps", type=int, default=1000, help="T")
    add("--prediction", default="v", help=f"one of {', '.join(PREDICTIONS)}")
    add("--size", type=int, help="resize images to this height and width")
    add("--channels", type=int, default=48, help="width of the U-Net's first level")
    add("--dropout", type=float, default=0.0, help="in the residual blocks")
    add("--precision", choices=("no", "bf16", "fp16"), help="found out when not given")
    add("--device", help="cpu, cuda or mps; found out when not given")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    diffusion = GaussianDiffusion(NoiseSchedule.named(args.schedule, args.timesteps), args.prediction)
    images = load_images(args.data, "train", size=args.size)
    validation = load_images(args.data, "test", size=args.size) if not Path(args.data).is_dir() else None
    classes = len(images.classes) or None
    torch.manual_seed(args.seed)
    model = UNet(
        in_channels=images.pixels.shape[1],
        channels=args.channels,
        num_classes=None if args.unconditional else classes,
        dropout=args.dropout,
    )
    states = train(
        model, diffusion, images, steps=args.steps, minutes=args.minutes, label_dropout=args.label_dropout,
        batch_size=args.batch_size, learning_rate=args.learning_rate, ema_decay=args.ema_decay,
        validation=validation, out=args.out, save_every=args.save_every, precision=args.precision,
        device=args.device, seed=args.seed,
    )  # fmt: skip
    for state in states:
        if state.step % 100 == 0:
            checked = "" if state.validation_loss is None else f"  validation {state.validation_loss:.4f}"
            print(f"step {state.step:6d}  loss {state.loss:.4f}{checked}  {state.seconds:7.0f} s", flush=True)
    print(f"done: {state.step} steps in {state.seconds:.0f} s; {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, TrainingDiverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last saved state")
