"""The two command lines, as people start them."""

import re
import runpy
import subprocess
import sys

import pytest
import torch
from PIL import Image

from utils.diffusion.checkpoints import load_model, read_notes

TRAIN = ["--data", "digits", "--steps", "6", "--batch-size", "16", "--channels", "32", "--timesteps", "50",
         "--device", "cpu", "--precision", "no", "--log-every", "1"]  # fmt: skip


def command(root, module, *arguments):
    """Run `python -m utils.diffusion.<module>` in a process of its own."""
    line = [sys.executable, "-m", f"utils.diffusion.{module}", *map(str, arguments)]
    return subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=600)


def inside(monkeypatch, module, *arguments):
    """The same in this process, which saves seconds: returns what was handed to sys.exit."""
    monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
    monkeypatch.delitem(sys.modules, f"utils.diffusion.{module}", raising=False)
    try:
        runpy.run_module(f"utils.diffusion.{module}", run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory, root):
    """Stopped after 4 of 6 steps, by asking for 4, and started again with the same folder."""
    out = tmp_path_factory.mktemp("trained")
    return out, [command(root, "train", *TRAIN, "--out", out, *extra) for extra in (["--steps", "4"], [], [])]


def steps_in(text):
    return [int(step) for step in re.findall(r"^step +(\d+)  loss \d", text, re.MULTILINE)]


def test_training_resumes_and_writes_the_model(trained):
    out, (first, second, third) = trained
    for run in (first, second, third):
        assert run.returncode == 0, run.stderr
    assert "training from the start, processes: 1" in first.stdout and steps_in(first.stdout) == [1, 2, 3, 4]
    assert "training resumed after step 4" in second.stdout and steps_in(second.stdout) == [4, 5, 6]
    assert "training resumed after step 6" in third.stdout and steps_in(third.stdout) == [6]
    assert "done: 6 steps" in second.stdout
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pt", "model.safetensors"]
    model, diffusion = load_model(out / "model.safetensors")
    assert model.num_classes == 10 and diffusion.num_timesteps == 50
    assert read_notes(out / "model.safetensors") == {"steps": 6, "size": 8}


def test_sampling_writes_a_picture(trained, root, tmp_path):
    out, _ = trained
    options = ["--sampler", "dpmpp_2m", "--steps", "3", "--n", "10"]
    done = command(root, "sample", out / "model.safetensors", *options, "--out", tmp_path / "samples.png")
    assert done.returncode == 0, done.stderr
    assert "10 images by dpmpp_2m" in done.stdout
    with Image.open(tmp_path / "samples.png") as picture:
        assert min(picture.size) >= 8


@pytest.mark.parametrize("options, shape", [
    (["--n", "5", "--sampler", "ddim", "--steps", "2"], (5, 1, 8, 8)),
    (["--n", "3", "--sampler", "ddpm", "--steps", "5", "--size", "12", "--label", "3"], (3, 1, 12, 12)),
])  # fmt: skip
def test_sampling_writes_a_tensor(trained, monkeypatch, tmp_path, options, shape):
    out, _ = trained
    for name in ("a.pt", "b.pt"):
        assert inside(monkeypatch, "sample", out / "model.safetensors", *options, "--out", tmp_path / name) == 0
    images = torch.load(tmp_path / "a.pt", weights_only=True)
    assert images.shape == shape and images.dtype == torch.float32 and images.abs().max() <= 1
    assert torch.equal(images, torch.load(tmp_path / "b.pt", weights_only=True))


@pytest.mark.parametrize("module, options", [
    ("train", ["--data", "--minutes", "--steps", "--out", "--seed", "--save-every", "--schedule", "--precision"]),
    ("sample", ["checkpoint", "--sampler", "--steps", "--n", "--out", "--seed", "--eta", "--label"]),
])  # fmt: skip
def test_help_lists_the_options(monkeypatch, capsys, module, options):
    assert inside(monkeypatch, module, "--help") == 0
    shown = capsys.readouterr().out
    for option in options:
        assert re.search(rf"^  {option}\b", shown, re.MULTILINE), option
    assert "default: " in shown


def test_an_error_is_one_line_and_no_traceback(root, tmp_path):
    done = command(root, "train", *TRAIN, "--data", "cifar", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: unknown data set 'cifar'; choose one of ")


@pytest.mark.parametrize("options, message", [
    (["--schedule", "quadratic"], "unknown schedule 'quadratic'; choose one of linear, cosine, sigmoid"),
    (["--prediction", "score"], "unknown prediction 'score'; choose one of noise, x_0, v"),
    (["--device", "tpu"], "no device 'tpu' on this machine; choose one of "),
    (["--size", "10"], "image size 10x10 cannot be halved"),
    (["--learning-rate", "nan"], "became nan at step"),
])  # fmt: skip
def test_bad_training_options(monkeypatch, tmp_path, options, message):
    code = inside(monkeypatch, "train", *TRAIN, *options, "--out", tmp_path / "out")
    assert isinstance(code, str) and code.startswith("error: ") and message in code and "\n" not in code


@pytest.mark.parametrize("options", [["--steps", "0"], ["--save-every", "0"], ["--batch-size", "-1"],
                                     ["--log-every", "0"], ["--minutes", "1"], ["--steps", "many"]])  # fmt: skip
def test_options_that_argparse_refuses(monkeypatch, capsys, tmp_path, options):
    assert inside(monkeypatch, "train", *TRAIN, *options, "--out", tmp_path) == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]


def test_an_empty_folder_as_data(monkeypatch, tmp_path):
    code = inside(monkeypatch, "train", *TRAIN, "--data", tmp_path, "--out", tmp_path / "out")
    assert code.startswith("error: no pictures in ")


@pytest.mark.parametrize("options, message", [
    (["--sampler", "euler"], "unknown sampler 'euler'; choose one of ddpm, ddim, dpmpp_2m"),
    (["--steps", "51"], "steps must lie in 1..50"),
    (["--label", "11"], "label 11 is outside the classes 0..9"),
    (["--device", "tpu"], "no device 'tpu' on this machine; choose one of "),
    (["--size", "9"], "image size 9x9 cannot be halved"),
    (["--n", "0"], "--n must be at least 1, got 0"),
    (["--out", "samples.gif"], "--out must end in .png or .pt, got 'samples.gif'"),
])  # fmt: skip
def test_bad_sampling_options(trained, monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    code = inside(monkeypatch, "sample", trained[0] / "model.safetensors", "--out", "samples.pt", *options)
    assert isinstance(code, str) and code.startswith("error: ") and message in code and "\n" not in code
    assert not list(tmp_path.iterdir())


def test_bad_checkpoints(monkeypatch, tmp_path, trained):
    whole = (trained[0] / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, message in (("half.safetensors", "cut short"), ("absent.safetensors", "no checkpoint absent")):
        assert message in inside(monkeypatch, "sample", tmp_path / name, "--out", tmp_path / "a.pt")
    pickle_file = trained[0] / "checkpoint.pt"
    assert "is a pickle, not safetensors, and was refused" in inside(monkeypatch, "sample", pickle_file)
