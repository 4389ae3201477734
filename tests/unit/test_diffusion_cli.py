"""The command line: in this process, which saves seconds, and once as people start it."""

import contextlib
import io
import itertools
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tests.tiny import tiny_diffusion, tiny_unet
from utils.diffusion import __main__ as cli
from utils.diffusion.__main__ import main
from utils.diffusion.autoencoder import Autoencoder
from utils.diffusion.checkpoints import load_model, read_notes, save_model
from utils.diffusion.conditioning import text_encoder
from utils.diffusion.guidance import ClassifierFreeGuidance
from utils.diffusion.sampling import generate
from utils.diffusion.transformer import DiT
from utils.files import load_state

TRAIN = ["train", "--data", "digits", "--steps", "6", "--batch-size", "16", "--channels", "16", "--timesteps", "50"]
TRAIN += ["--device", "cpu", "--precision", "no", "--log-every", "1"]


def command(*arguments):
    """What the command hands to sys.exit, 0 if nothing."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Stopped after 4 of 6 steps, by asking for 4, and started again with the same folder; and what was printed."""
    out, printed = tmp_path_factory.mktemp("trained"), []
    for extra in (["--steps", "4"], [], []):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            assert command(*TRAIN, "--out", out, *extra) == 0
        printed.append(text.getvalue())
    return out, printed


def steps_in(text):
    return [int(step) for step in re.findall(r"^step +(\d+)  loss \d", text, re.MULTILINE)]


def test_training_resumes_and_writes_the_model(trained):
    out, (first, second, third) = trained
    assert "training from the start, processes: 1" in first and steps_in(first) == [1, 2, 3, 4]
    assert "training resumed after step 4" in second and steps_in(second) == [4, 5, 6]
    assert "training resumed after step 6" in third and steps_in(third) == [6]
    assert "done: 6 steps" in second
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pt", "model.safetensors"]
    model, diffusion = load_model(out / "model.safetensors")
    assert model.num_classes == 10 and diffusion.num_timesteps == 50
    assert read_notes(out / "model.safetensors") == {"steps": 6, "size": 8}


def test_sampling_writes_a_picture(trained, tmp_path, capsys):
    options = ["--sampler", "dpmpp_2m", "--steps", "3", "--n", "10", "--out", tmp_path / "samples.png"]
    assert command("sample", trained[0] / "model.safetensors", *options) == 0
    assert "10 images by dpmpp_2m" in capsys.readouterr().out
    with Image.open(tmp_path / "samples.png") as picture:
        assert min(picture.size) >= 8


@pytest.mark.parametrize(
    "options, shape",
    [
        (["--n", "5", "--sampler", "ddim", "--steps", "2"], (5, 1, 8, 8)),
        (["--n", "3", "--sampler", "ddpm", "--steps", "5", "--size", "12", "--label", "3"], (3, 1, 12, 12)),
    ],
)
def test_sampling_writes_a_tensor(trained, tmp_path, options, shape):
    out, _ = trained
    for name in ("a.pt", "b.pt"):
        assert command("sample", out / "model.safetensors", *options, "--out", tmp_path / name) == 0
    images = torch.load(tmp_path / "a.pt", weights_only=True)
    assert images.shape == shape and images.dtype == torch.float32 and images.abs().max() <= 1
    assert torch.equal(images, torch.load(tmp_path / "b.pt", weights_only=True))


@pytest.mark.parametrize(
    "module, options",
    [
        ("train", ["--data", "--minutes", "--steps", "--out", "--seed", "--save-every", "--schedule", "--precision"]),
        ("sample", ["checkpoint", "--sampler", "--steps", "--n", "--out", "--seed", "--eta", "--label"]),
        ("sample", ["--guidance", "--negative-label", "--interval", "--rescale", "--prompt", "--negative"]),
    ],
)
def test_help_lists_the_options(capsys, module, options):
    assert command(module, "--help") == 0
    shown = capsys.readouterr().out
    for option in options:
        assert re.search(rf"^  {option}\b", shown, re.MULTILINE), option
    assert "default: " in shown


def test_an_error_is_one_line_and_no_traceback(root, tmp_path):
    """As people start it, in a process of its own."""
    line = [sys.executable, "-m", "utils.diffusion", *TRAIN, "--data", "cifar", "--out", str(tmp_path)]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: unknown data set 'cifar'; choose one of ")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--schedule", "quadratic"], "unknown schedule 'quadratic'; choose one of linear, cosine, sigmoid"),
        (["--variance", "free"], "unknown variance 'free'; choose one of fixed, learned"),
        (["--prediction", "score"], "unknown prediction 'score'; choose one of noise, x_0, v"),
        (["--device", "tpu"], "no device 'tpu' on this machine; choose one of "),
        (["--size", "10"], "image size 10x10 cannot be halved"),
        (["--learning-rate", "1e30"], "training stopped, and nothing had been saved"),
        (["--ema-decay", "2"], "ema_decay must be a number from 0 to 1, got 2.0"),
        (["--precision", "fp16"], "precision must be one of 'no', 'bf16' on this device (cpu), got 'fp16'"),
        (["--learning-rate", "nan"], "learning_rate must be a number of at least 0, got nan"),
    ],
)
def test_bad_training_options(tmp_path, options, message):
    code = command(*TRAIN, *options, "--out", tmp_path / "out")
    assert isinstance(code, str) and code.startswith("error: ") and message in code and "\n" not in code


@pytest.mark.parametrize("options", [["--batch-size", "0"], ["--size", "-28"], ["--n", "0"], ["--batch-size", "2.5"]])
def test_sampling_options_that_argparse_refuses(capsys, trained, options):
    assert command("sample", trained[0] / "model.safetensors", *options) == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "0"],
        ["--save-every", "0"],
        ["--batch-size", "-1"],
        ["--log-every", "0"],
        ["--minutes", "1"],
        ["--steps", "many"],
    ],
)
def test_options_that_argparse_refuses(capsys, tmp_path, options):
    assert command(*TRAIN, *options, "--out", tmp_path) == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_training_after_the_step_and_saves(tmp_path, monkeypatch, capsys, name):
    before = signal.getsignal(getattr(signal, name))

    def log_line(state):
        if state.step == 3:
            signal.raise_signal(getattr(signal, name))
        return f"step {state.step}  loss 0"

    monkeypatch.setattr(cli, "log_line", log_line)
    code = command(*TRAIN, "--out", tmp_path)
    assert re.fullmatch(rf"{name}: saved after step 3 in .*checkpoint.pt; the same command goes on from there", code)
    assert load_state(tmp_path / "checkpoint.pt")["step"] == 3 and os.listdir(tmp_path) == ["checkpoint.pt"]
    assert signal.getsignal(getattr(signal, name)) == before
    monkeypatch.undo()
    assert command(*TRAIN, "--out", tmp_path) == 0
    assert "resumed after step 3" in capsys.readouterr().out


def test_a_second_interrupt_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "log_line", lambda state: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    code = command(*TRAIN, "--out", tmp_path)
    assert code == "interrupted: the same command goes on from what was saved, if anything was"


@pytest.mark.parametrize("module", ["train", "sample"])
def test_an_interrupt_before_anything_was_made(trained, tmp_path, monkeypatch, module):
    """While images are read, and while they are drawn."""
    for name in ("load_images", "generate"):
        monkeypatch.setattr(cli, name, lambda *args, **options: signal.raise_signal(signal.SIGINT))
    line, message = {
        "train": ([*TRAIN, "--out", tmp_path / "out"], "the same command goes on from what was saved, if anything was"),
        "sample": (["sample", trained[0] / "model.safetensors"], "nothing was written"),
    }[module]
    monkeypatch.chdir(tmp_path)
    assert command(*line) == f"interrupted: {message}" and not os.listdir(tmp_path)


def test_a_place_that_cannot_be_written_is_found_before_sampling(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "generate", lambda *args, **options: pytest.fail("it was drawn"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for out, message in [("file/a.png", "that is no folder"), ("folder.png", "a folder of the name folder.png")]:
        code = command("sample", trained[0] / "model.safetensors", "--out", tmp_path / out)
        assert code.startswith("error: ") and message in code


def test_guided_sampling(trained, tmp_path):
    """Equal to the library's own call; weight 1 is as without; each option changes the images."""
    model, diffusion = load_model(trained[0] / "model.safetensors")
    options, drawn = ["--n", "4", "--sampler", "ddim", "--steps", "4", "--label", "3"], {}
    ways = {"plain": [], "one": ["--guidance", "1"], "three": ["--guidance", "3"]}
    ways["away"] = ["--guidance", "3", "--negative-label", "5"]
    ways["late"] = ["--guidance", "3", "--interval", "0", "20"]
    ways["rescaled"] = ["--guidance", "3", "--rescale", "1"]
    for name, more in ways.items():
        line = ["sample", trained[0] / "model.safetensors", *options, *more, "--out", tmp_path / "a.pt"]
        assert command(*line) == 0
        drawn[name] = torch.load(tmp_path / "a.pt", weights_only=True)
    guided = generate(model, diffusion, 4, (1, 8, 8), y=[3] * 4, sampler="ddim", steps=4, guidance=3)
    assert torch.equal(drawn["three"], guided) and torch.equal(drawn["one"], drawn["plain"])
    different = [name for name in ways if name != "one"]
    pairs = itertools.combinations(different, 2)
    assert not any(torch.allclose(drawn[a], drawn[b], rtol=0, atol=1e-6) for a, b in pairs)


def test_guidance_of_a_network_without_classes(tmp_path):
    save_model(tmp_path / "m.safetensors", tiny_unet(num_classes=None), tiny_diffusion(), size=8)
    code = command("sample", tmp_path / "m.safetensors", "--guidance", "2", "--out", tmp_path / "a.pt")
    assert code.startswith("error: guidance needs a network with classes, got one without")


def test_training_with_a_learned_variance(tmp_path):
    line = [*TRAIN, "--variance", "learned", "--steps", "2", "--out", tmp_path]
    assert command(*line) == 0 and command(*line) == 0
    model, diffusion = load_model(tmp_path / "model.safetensors")
    assert diffusion.variance == "learned" and model.config["out_channels"] == 2
    options = ["--n", "2", "--sampler", "ddpm", "--steps", "3", "--guidance", "2", "--out", tmp_path / "a.pt"]
    assert command("sample", tmp_path / "model.safetensors", *options) == 0
    assert torch.load(tmp_path / "a.pt", weights_only=True).shape == (2, 1, 8, 8)


@pytest.fixture
def with_prompts(tmp_path):
    """A network that is told words, with weights that let them through."""
    model = tiny_unet(num_classes=None, text="words", encoder="stand-in")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_model(tmp_path / "m.safetensors", model, tiny_diffusion(), size=8)
    return tmp_path / "m.safetensors"


def test_sampling_from_a_prompt(with_prompts, tmp_path):
    """Equal to the library's own call; each option changes the images; an empty prompt is none."""
    (model, diffusion), text, drawn = load_model(with_prompts), text_encoder("stand-in"), {}
    ways = {"bag": ["--prompt", "a bag"], "dark": ["--prompt", "a dark bag"], "none": ["--prompt", ""]}
    ways["more"] = ["--prompt", "a bag", "--guidance", "3"]
    ways["away"] = ["--prompt", "a bag", "--guidance", "3", "--negative", "a dark bag"]
    ways["no negative"] = ["--prompt", "a bag", "--guidance", "3", "--negative", ""]
    for name, options in ways.items():
        line = [*options, "--n", "3", "--sampler", "ddim", "--steps", "4", "--out", tmp_path / "a.pt"]
        assert command("sample", with_prompts, *line) == 0
        drawn[name] = torch.load(tmp_path / "a.pt", weights_only=True)
    options = dict(sampler="ddim", steps=4, seed=0)
    guided = ClassifierFreeGuidance(3.0, negative=int(text("a dark bag")))
    expected = generate(model, diffusion, 3, (1, 8, 8), y=text(["a bag"] * 3), guidance=guided, **options)
    assert torch.equal(drawn["away"], expected)
    assert torch.equal(drawn["none"], generate(model, diffusion, 3, (1, 8, 8), **options))
    assert torch.equal(drawn.pop("no negative"), drawn["more"])
    assert not any(torch.allclose(a, b, rtol=0, atol=1e-5) for a, b in itertools.combinations(drawn.values(), 2))


@pytest.mark.parametrize(
    "options, message",
    [
        ([], 'm.safetensors was trained with prompts; give --prompt "a dark, wide bag", say, and no label'),
        (["--prompt", "a bag", "--label", "3"], "was trained with prompts; give --prompt"),
        (["--prompt", "a bag", "--guidance", "2", "--negative-label", "3"], "was trained with prompts; give --prompt"),
        (
            ["--prompt", "a bag", "--negative", "a hat"],
            "--interval and --rescale belong to guidance; give --guidance 2",
        ),
        (["--prompt", "a bag " * 12], "a prompt may have 20 pieces, got 26; shorten 'a bag a bag "),
    ],
)
def test_bad_prompts(with_prompts, tmp_path, options, message):
    code = command("sample", with_prompts, *options, "--steps", "1", "--out", tmp_path / "a.pt")
    assert isinstance(code, str) and code.startswith("error: ") and message in code and "\n" not in code


@pytest.mark.parametrize("prompt", [[], ["--prompt", "a bag"]])
@pytest.mark.parametrize("make", [lambda: Autoencoder(channels=8), lambda: tiny_unet(in_channels=4, stem=1)])
def test_what_draws_no_images(tmp_path, make, prompt):
    save_model(tmp_path / "m.safetensors", make(), tiny_diffusion(), size=8)
    code = command("sample", tmp_path / "m.safetensors", *prompt, "--steps", "1", "--out", tmp_path / "a.png")
    assert code == "error: m.safetensors draws no images: it is an autoencoder, or draws the latents of one"
    assert not (tmp_path / "a.png").exists()


def test_a_transformer_draws(tmp_path):
    model = DiT(channels=32, depth=1, num_classes=3)
    save_model(tmp_path / "m.safetensors", model, tiny_diffusion(), size=8)
    assert command("sample", tmp_path / "m.safetensors", "--n", "2", "--steps", "1", "--out", tmp_path / "a.pt") == 0
    assert torch.load(tmp_path / "a.pt", weights_only=True).shape == (2, 1, 8, 8)


def test_images_that_are_not_square_are_drawn_as_they_were(tmp_path):
    save_model(tmp_path / "m.safetensors", tiny_unet(), tiny_diffusion(), size=[8, 12])
    assert command("sample", tmp_path / "m.safetensors", "--n", "2", "--steps", "1", "--out", tmp_path / "a.pt") == 0
    assert torch.load(tmp_path / "a.pt", weights_only=True).shape == (2, 1, 8, 12)


def test_an_empty_folder_as_data(tmp_path):
    code = command(*TRAIN, "--data", tmp_path, "--out", tmp_path / "out")
    assert code.startswith("error: no pictures in ")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--sampler", "euler"], "unknown sampler 'euler'; choose one of ddpm, ddim, dpmpp_2m"),
        (["--steps", "51"], "steps must lie in 1..50"),
        (["--label", "11"], "label 11 is outside the classes 0..9"),
        (["--guidance", "nan"], "weight must be a finite number, got nan"),
        (["--guidance", "2", "--negative-label", "11"], "label 11 is outside the classes 0..9"),
        (
            ["--guidance", "2", "--interval", "20", "50"],
            "interval must be two timesteps of 0..49, the lower first; got ",
        ),
        (
            ["--guidance", "2", "--interval", "20", "10"],
            "interval must be two timesteps of 0..49, the lower first; got ",
        ),
        (["--guidance", "2", "--rescale", "2"], "rescale must be a number from 0 to 1, got 2.0"),
        (["--negative-label", "1"], "--interval and --rescale belong to guidance; give --guidance 2"),
        (["--interval", "1", "2"], "--interval and --rescale belong to guidance; give --guidance 2"),
        (["--prompt", "a bag"], "model.safetensors was trained without prompts; leave --prompt and --negative out"),
        (["--negative", "a bag"], "model.safetensors was trained without prompts; leave --prompt and --negative out"),
        (["--device", "tpu"], "no device 'tpu' on this machine; choose one of "),
        (["--size", "9"], "image size 9x9 cannot be halved"),
        (["--out", "samples.gif"], "--out must end in .png or .pt, got 'samples.gif'"),
    ],
)
def test_bad_sampling_options(trained, monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    code = command("sample", trained[0] / "model.safetensors", "--out", "samples.pt", *options)
    assert isinstance(code, str) and code.startswith("error: ") and message in code and "\n" not in code
    assert not list(tmp_path.iterdir())


def test_bad_checkpoints(tmp_path, trained):
    whole = (trained[0] / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, message in (("half.safetensors", "cut short"), ("absent.safetensors", "no checkpoint absent")):
        assert message in command("sample", tmp_path / name, "--out", tmp_path / "a.pt")
    pickle_file = trained[0] / "checkpoint.pt"
    assert "is a pickle, not safetensors, and was refused" in command("sample", pickle_file)
