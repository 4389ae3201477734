"""Command line: `python -m utils.diffusion train --help` and `... sample --help` list the options."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from utils.device import find_device
from utils.diffusion.checkpoints import load_model, read_notes
from utils.diffusion.conditioning import text_encoder
from utils.diffusion.guidance import ClassifierFreeGuidance
from utils.diffusion.images import SOURCES, load_images, save_grid
from utils.diffusion.process import PREDICTIONS, VARIANCES, GaussianDiffusion
from utils.diffusion.sampling import SAMPLERS, generate
from utils.diffusion.schedules import SCHEDULES, NoiseSchedule
from utils.diffusion.training import Settings, TrainState, train
from utils.diffusion.unet import Conditioned, UNet
from utils.files import TrainingDiverged, check_writable, save_state, stream_seed


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def add_train_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_train, interrupted="the same command goes on from what was saved, if anything was")
    add = parser.add_argument
    add("--data", default="fashion-mnist", help=f"{', '.join(SOURCES)}, or a folder of pictures")
    add("--out", required=True, type=Path, help="folder for checkpoint.pt and model.safetensors")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train this long")
    length.add_argument("--steps", type=positive, help="train this many steps")
    add("--seed", type=int, default=0, help="for weights, batches and noise")
    add("--save-every", type=positive, default=200, help="steps between two saved states")
    add("--log-every", type=positive, default=100, help="steps between two printed lines")
    add("--batch-size", type=positive, default=Settings.batch_size, help="images in a step, over all processes")
    add("--learning-rate", type=float, default=Settings.learning_rate, help="peak of the schedule")
    add("--ema-decay", type=float, default=Settings.ema_decay, help="of the moving average of the weights")
    add("--schedule", default="cosine", help=f"one of {', '.join(SCHEDULES)}")
    add("--timesteps", type=positive, default=1000, help="T")
    add("--prediction", default="v", help=f"one of {', '.join(PREDICTIONS)}")
    add("--variance", default="fixed", help=f"of a sampling step, one of {', '.join(VARIANCES)}")
    add("--size", type=positive, help="resize images to this height and width")
    add("--channels", type=positive, default=48, help="width of the U-Net's first level")
    add("--dropout", type=float, default=0.0, help="in the residual blocks")
    add("--precision", choices=("no", "bf16", "fp16"), help="found out when not given")
    add("--device", help="cpu, cuda or mps; found out when not given")


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run_sample, interrupted="nothing was written")
    add = parser.add_argument
    add("checkpoint", type=Path, help="a model.safetensors that training wrote")
    add("--out", type=Path, default=Path("samples.png"), help=".png: a grid; .pt: (N, C, H, W) in [-1, 1]")
    add("--sampler", help=f"one of {', '.join(SAMPLERS)}; found out when not given")
    add("--steps", type=int, help="network evaluations; by default what suits the sampler")
    add("--eta", type=float, default=0.0, help="fresh noise in DDIM, 0 to 1")
    add("--n", type=positive, default=64, help="how many images")
    add("--size", type=positive, help="height and width; that of the training images when not given")
    add("--label", type=int, help="class of all images; without it each class in turn, if there are classes")
    add("--prompt", help="what all images show, in words, for a model that was trained with prompts")
    add("--guidance", type=float, help="weight of classifier-free guidance: 0 no label, 1 as without this, 2 more")
    add("--negative-label", type=int, help="with --guidance: the class to go away from, instead of no label")
    add("--negative", metavar="PROMPT", help="with --guidance: the prompt to go away from, instead of none")
    add("--interval", type=int, nargs=2, metavar=("LOW", "HIGH"), help="with --guidance: only at these timesteps")
    add("--rescale", type=float, default=0.0, help="with --guidance: 0 to 1, against too much contrast")
    add("--batch-size", type=positive, default=250, help="images at a time")
    add("--seed", type=int, default=0, help="for all noise")
    add("--device", help="cpu, cuda or mps; found out when not given")


def run_train(args: argparse.Namespace) -> None:
    schedule = NoiseSchedule.named(args.schedule, args.timesteps)
    diffusion = GaussianDiffusion(schedule, args.prediction, args.variance)
    images = load_images(args.data, "train", size=args.size)
    validation = load_images(args.data, "test", size=args.size) if not Path(args.data).is_dir() else None
    torch.manual_seed(stream_seed(args.seed, "weights"))
    channels = images.pixels.shape[1]
    more = {"out_channels": 2 * channels} if args.variance == "learned" else {}
    model = UNet(channels, args.channels, num_classes=len(images.classes) or None, dropout=args.dropout, **more)
    same = "steps minutes out save_every device precision seed batch_size learning_rate ema_decay"
    options = {name: getattr(args, name) for name in same.split()} | {"validation": validation}
    with noted_signals() as noted, contextlib.closing(train(model, diffusion, images, **options)) as states:
        for k, state in enumerate(states):
            show = PartialState().print  # on the first process
            if k == 0:
                where = f"resumed after step {state.step}" if state.step > 1 else "from the start"
                show(f"training {where}, processes: {PartialState().num_processes}", flush=True)
            if state.step % args.log_every == 0:
                show(log_line(state), flush=True)
            if stop := gather_object(noted):  # of all processes, since none can go on alone
                saved = f"saved after step {state.step} in {args.out / 'checkpoint.pt'}"
                sys.exit(f"{stop[0]}: {saved}; the same command goes on from there")  # closing saves
    show(f"done: {state.step} steps in {state.seconds:.0f} s; {args.out / 'model.safetensors'}")


@contextlib.contextmanager
def noted_signals() -> Iterator[list[str]]:
    """A signal to stop is noted, so that the step in hand is finished and saved; the same one again ends at once."""
    noted: list[str] = []

    def note(number: int, frame) -> None:
        noted.append(signal.Signals(number).name)
        signal.signal(number, signal.default_int_handler)

    stopping = {"SIGINT", "SIGTERM", "SIGHUP"}  # Ctrl-C; the end of a job; a closed terminal, which Windows lacks
    with contextlib.ExitStack() as stack:
        for number in signal.Signals:
            if number.name in stopping and signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                stack.callback(signal.signal, number, signal.signal(number, note))
        yield noted


def log_line(state: TrainState) -> str:
    checked = "" if state.validation_loss is None else f"  validation {state.validation_loss:.4f}"
    return f"step {state.step:6d}  loss {state.loss:.5f}{checked}  {state.seconds:7.0f} s"


def run_sample(args: argparse.Namespace) -> None:
    if args.out.suffix not in (".png", ".pt"):
        raise ValueError(f"--out must end in .png or .pt, got {args.out.name!r}")
    check_writable(args.out)
    model, diffusion = load_model(args.checkpoint, find_device(args.device))
    if not isinstance(model, Conditioned) or model.config["in_channels"] not in (1, 3):
        raise ValueError(f"{args.checkpoint.name} draws no images: it is an autoencoder, or draws the latents of one")
    args.sampler = args.sampler or (model.distilled or {"sampler": "dpmpp_2m"})["sampler"]
    read_prompts(args, model)
    each = torch.arange(args.n) % model.num_classes if model.num_classes else None
    y = each if args.label is None else torch.full((args.n,), args.label)
    size = args.size or read_notes(args.checkpoint).get("size", 28)
    shape = (model.config["in_channels"], *(size if isinstance(size, list) else (size, size)))
    options = {name: getattr(args, name) for name in ("sampler", "steps", "eta", "batch_size", "seed")}
    images = generate(model, diffusion, args.n, shape, y=y, guidance=guidance_of(args), progress=True, **options)
    if args.out.suffix == ".pt":
        save_state(args.out, images)
    else:
        save_grid(images, args.out, scale=3)
    print(f"{args.n} images by {args.sampler}: {args.out}")


def read_prompts(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Put the labels of --prompt and --negative where those of classes stand."""
    name, prompts, labels = args.checkpoint.name, (args.prompt, args.negative), (args.label, args.negative_label)
    if model.encoder_name is None and prompts != (None, None):
        raise ValueError(f"{name} was trained without prompts; leave --prompt and --negative out")
    if model.encoder_name is not None and (args.prompt is None or labels != (None, None)):
        raise ValueError(f'{name} was trained with prompts; give --prompt "a dark, wide bag", say, and no label')
    if model.encoder_name is not None:
        text = text_encoder(model.encoder_name)
        args.label, args.negative_label = (None if one is None else int(text(one)) for one in prompts)


def guidance_of(args: argparse.Namespace) -> ClassifierFreeGuidance | None:
    """What the options of guidance say; None without --guidance, which the others need."""
    others = {"negative": args.negative_label, "interval": args.interval, "rescale": args.rescale}
    if args.guidance is not None:
        return ClassifierFreeGuidance(args.guidance, **others)
    if any(value not in (None, 0.0) for value in others.values()):
        raise ValueError("--negative, --negative-label, --interval and --rescale belong to guidance; give --guidance 2")
    return None


def main(argv: list[str] | None = None) -> None:
    """Run a command; an error the user can mend ends it with one line."""
    if hasattr(sys.stdout, "reconfigure"):  # names in letters that the console lacks are shown as escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="python -m utils.diffusion", description="Diffusion models of images.")
    commands, form = parser.add_subparsers(required=True, metavar="COMMAND"), argparse.ArgumentDefaultsHelpFormatter
    about = "train a U-Net to denoise images; started again with the same --out, it resumes"
    add_train_options(commands.add_parser("train", help=about, description=about, formatter_class=form))
    about = "draw images from a trained model into one picture, or a tensor"
    add_sample_options(commands.add_parser("sample", help=about, description=about, formatter_class=form))
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, TrainingDiverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {args.interrupted}")


if __name__ == "__main__":
    main()
