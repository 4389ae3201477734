"""Command line: train a diffusion model. `python -m utils.diffusion.train --help` lists the options.

This file is a command, not a module to import: `from utils.diffusion import train` is the function.
"""

if __name__ != "__main__":
    # Importing it would put this module in the place of the function of the same name.
    raise ImportError("utils.diffusion.train is a command; `from utils.diffusion import train` is the function")

import argparse
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from utils.diffusion.batches import stream_seed
from utils.diffusion.images import load_images
from utils.diffusion.process import PREDICTIONS, GaussianDiffusion
from utils.diffusion.schedules import SCHEDULES, NoiseSchedule
from utils.diffusion.training import TrainingDiverged, train
from utils.diffusion.unet import UNet


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


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
    length.add_argument("--steps", type=positive, help="train this many steps")
    add("--seed", type=int, default=0, help="for weights, batches and noise")
    add("--save-every", type=positive, default=200, help="steps between two saved states")
    add("--log-every", type=positive, default=100, help="steps between two printed lines")
    add("--batch-size", type=positive, default=128, help="images in a step, over all processes")
    add("--learning-rate", type=float, default=2e-3, help="peak of the schedule")
    add("--ema-decay", type=float, default=0.999, help="of the moving average of the weights")
    add("--label-dropout", type=float, default=0.1, help="how often a label is hidden")
    add("--unconditional", action="store_true", help="train without labels")
    add("--schedule", default="cosine", help=f"one of {', '.join(SCHEDULES)}")
    add("--timesteps", type=positive, default=1000, help="T")
    add("--prediction", default="v", help=f"one of {', '.join(PREDICTIONS)}")
    add("--size", type=positive, help="resize images to this height and width")
    add("--channels", type=positive, default=48, help="width of the U-Net's first level")
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
    torch.manual_seed(stream_seed(args.seed, "weights"))
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
    started = False
    for state in states:
        processes = PartialState()
        if not started and processes.is_main_process:
            where = f"resumed after step {state.step}" if state.step > 1 else "from the start"
            print(f"training {where}, processes: {processes.num_processes}", flush=True)
        started = True
        if state.step % args.log_every == 0 and processes.is_main_process:
            checked = "" if state.validation_loss is None else f"  validation {state.validation_loss:.4f}"
            print(f"step {state.step:6d}  loss {state.loss:.5f}{checked}  {state.seconds:7.0f} s", flush=True)
    if processes.is_main_process:
        print(f"done: {state.step} steps in {state.seconds:.0f} s; {args.out / 'model.safetensors'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, TrainingDiverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last saved state")
