"""Files on disk: written whole or not at all, refused when they are damaged, foreign or dangerous."""

import json
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset, TensorDataset

from tests.tiny import OPTIONS, digits, tiny_diffusion, tiny_training, tiny_unet
from utils.diffusion.batches import look_through
from utils.diffusion.checkpoints import load_model, read_notes, save_model
from utils.diffusion.images import ImageSet
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.training import train
from utils.files import load_state, save_state, write_atomically


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_model_there_and_back(tmp_path, dtype):
    model, diffusion = tiny_unet(3), GaussianDiffusion(NoiseSchedule.sigmoid(77), "noise")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_model(tmp_path / "m.safetensors", model, diffusion, dtype=dtype, steps=5, words="two words")
    loaded, process = load_model(tmp_path / "m.safetensors")
    assert loaded.config == model.config and not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(dtype).float())
    assert process.prediction == "noise" and process.schedule.name == "sigmoid"
    assert torch.equal(process.schedule.betas, diffusion.schedule.betas)  # float64, to the last bit
    assert read_notes(tmp_path / "m.safetensors") == {"steps": 5, "words": "two words"}


def test_a_learned_variance_there_and_back(tmp_path):
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(50), "v", variance="learned")
    save_model(tmp_path / "m.safetensors", tiny_unet(out_channels=2), diffusion)
    loaded, process = load_model(tmp_path / "m.safetensors")
    assert loaded.config["out_channels"] == 2 and process.variance == "learned"
    save_model(tmp_path / "m.safetensors", tiny_unet(), tiny_diffusion())
    loaded, process = load_model(tmp_path / "m.safetensors")
    assert "out_channels" not in loaded.config and process.variance == "fixed"


def test_equal_models_are_equal_files(tmp_path):
    for k in range(8):  # the order of the header's entries is random in safetensors
        save_model(tmp_path / str(k), tiny_unet(3), tiny_diffusion(), steps=5)
    assert len({(tmp_path / str(k)).read_bytes() for k in range(8)}) == 1


def test_state_there_and_back(tmp_path):
    state = {"a": torch.randn(3), "nested": {"b": [1, 2.5, "text", None]}}
    save_state(tmp_path / "s.pt", state)
    loaded = load_state(tmp_path / "s.pt")
    assert torch.equal(loaded["a"], state["a"]) and loaded["nested"] == state["nested"]


def test_absent_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint m.safetensors in .*; train one, or check the path"):
        load_model(tmp_path / "m.safetensors")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "s.pt")


# -- damaged and foreign files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save_model(folder / "model.safetensors", tiny_unet(), tiny_diffusion())
    save_state(folder / "checkpoint.pt", {"model": tiny_unet().state_dict(), "step": 3})
    return folder


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_cut_short(tmp_path, saved, share):
    for name, load, message in [
        ("model.safetensors", load_model, "get a whole copy"),
        ("checkpoint.pt", load_state, "elete it to start anew"),
    ]:
        whole = (saved / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=f"{name} (is cut short|was refused).*{message}"):
            load(tmp_path / name)


def test_safetensors_of_another_program(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors is no model of this course: its format is None"):
        load_model(tmp_path / "other.safetensors")


@pytest.mark.parametrize("change", [dict(channels=64), dict(num_classes=None), dict(width=3), dict(channels="wide")])
def test_weights_that_do_not_fit_the_settings(tmp_path, saved, change):
    content = (saved / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["unet"] = json.dumps({**json.loads(header["__metadata__"]["unet"]), **change})
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(ValueError, match="^no network can be built from the weights in m.safetensors: .*") as error:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


class Malicious:
    """What an attacker puts into a pickle: code that runs while it is read."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("as_torch_file", [True, False])
@pytest.mark.parametrize("load", [load_state, load_model])
def test_a_pickle_that_wants_to_run_code(tmp_path, load, as_torch_file):
    path, victim = tmp_path / "evil.pt", tmp_path / "code-ran"
    content = {"step": 3, "model": Malicious(victim)}
    if as_torch_file:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="evil.pt (was refused|is a pickle).*run code"):
        load(path)
    assert not victim.exists()
    pickle.loads(pickle.dumps(content))  # the same bytes do run code where nobody refuses them
    assert victim.exists()


def test_training_refuses_a_dangerous_state(tmp_path):
    torch.save({"model": Malicious(tmp_path / "code-ran")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="checkpoint.pt was refused"):
        next(tiny_training(out=tmp_path))
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(model=tiny_unet(channels=64)), "config .*64.*use another folder, or the same settings"),
        (dict(diffusion=tiny_diffusion("noise")), "prediction 'v', but this training has 'noise'"),
        (dict(learning_rate=0.5), "learning_rate 0.002, but this training has 0.5; use another folder"),
        (dict(ema_decay=0.5), "ema_decay 0.999, but this training has 0.5"),
        (dict(max_gradient_norm=None), "max_gradient_norm 1.0, but this training has None"),
        (dict(warmup=50), "warmup 3, but this training has 50"),
        (dict(seed=1), "seed 0, but this training has 1"),
        (dict(batch_size=8), "batch_size 16, but this training has 8"),
        (dict(images=digits(32)), "number of images 64, but this training has 32"),
        (
            dict(diffusion=tiny_diffusion(num_timesteps=60)),
            "schedule 'cosine, 50 timesteps.*, but this .* 60 timesteps",
        ),
    ],
)
def test_resuming_with_other_settings(tmp_path, change, message):
    for _ in tiny_training(steps=1, out=tmp_path):
        pass
    arguments = {"model": tiny_unet(), "diffusion": tiny_diffusion(), "images": digits(), **OPTIONS, **change}
    with pytest.raises(ValueError, match=message):
        next(train(steps=3, out=tmp_path, **arguments))


def pixel_changed():
    other = digits()
    other.pixels = other.pixels.clone()
    other.pixels[-1, 0, 7, 7] ^= 1
    return other


def as_pairs(labels):
    return TensorDataset(digits().images, labels)


@pytest.mark.parametrize(
    "first, then",
    [
        (digits(), pixel_changed()),
        (digits(), ImageSet(digits().pixels, digits().labels.flip(0), digits().classes)),
        (digits(), ImageSet(digits().pixels, digits().labels)),
        (digits(), ImageSet(digits().pixels.repeat(1, 1, 2, 2), digits().labels, digits().classes)),
        (as_pairs(digits().labels), as_pairs(digits().labels.flip(0))),
        (torch.zeros(64, 1, 8, 8), torch.zeros(64, 1, 12, 12)),
    ],
)
def test_resuming_with_other_images_or_labels(tmp_path, first, then):
    options = dict(steps=3, out=tmp_path, **OPTIONS)
    begun = train(tiny_unet(), tiny_diffusion(), first, **options)
    next(begun), begun.close()
    with pytest.raises(
        ValueError, match="was trained with images '.*', but this training has '.*'; use another folder"
    ):
        next(train(tiny_unet(), tiny_diffusion(), then, **options))
    assert next(train(tiny_unet(), tiny_diffusion(), first, **options)).step == 1


def test_labels_that_the_network_does_not_know_are_no_matter(tmp_path):
    for labels in (digits().labels, digits().labels.flip(0)):
        network = tiny_unet(num_classes=None)
        list(train(network, tiny_diffusion(), as_pairs(labels), steps=1, out=tmp_path, **OPTIONS))


def test_what_may_differ_on_resuming_is_named(tmp_path):
    list(tiny_training(steps=2, out=tmp_path))
    saved = load_state(tmp_path / "checkpoint.pt")
    saved["scaler"] = {"scale": 65536.0, "growth_factor": 2.0}  # as fp16 on a GPU leaves it
    saved["free"] |= {"precision": "fp16", "device": "cuda"}
    save_state(tmp_path / "checkpoint.pt", saved)
    with pytest.warns(UserWarning) as told:
        assert next(tiny_training(steps=5, out=tmp_path)).step == 2
    told = str(told[0].message)
    for part in ("after step 2", "precision 'no', before 'fp16'", "device 'cpu', before 'cuda'", "steps 5, before 2"):
        assert part in told
    assert told.endswith("so that the learning rate, which falls over the whole length, goes up again")


@pytest.mark.parametrize("then", [dict(steps=50, decay=False), dict(steps=30)])
def test_a_rate_that_does_not_go_up_is_not_said_to(tmp_path, then):
    """It does neither where it never falls nor where the training is shorter, though it may still warm up."""
    decay = then.get("decay", True)
    begun = tiny_training(steps=40, out=tmp_path, decay=decay)
    next(begun), begun.close()
    with pytest.warns(UserWarning, match=f"after step 1 with steps {then['steps']}, before 40$"):
        assert next(tiny_training(**then, out=tmp_path)).step == 1


class Flipped(Dataset):
    """Digits, mirrored or not as it happens."""

    def __init__(self):
        self.kept = digits()

    def __len__(self):
        return len(self.kept)

    def __getitem__(self, index):
        image, label = self.kept[index]
        return (image.flip(-1) if torch.rand(()) < 0.5 else image), label


def test_images_that_change_at_random_do_not_keep_a_training_from_going_on(tmp_path):
    for seed in range(2):
        begun = train(tiny_unet(), tiny_diffusion(), Flipped(), steps=2, out=tmp_path, **OPTIONS)
        torch.manual_seed(seed)
        assert next(begun).step == 1
        begun.close()
    others = TensorDataset(torch.zeros(64, 1, 8, 8), digits().labels)
    with pytest.raises(ValueError, match="was trained with images '.*', but this training has '.*'; use another"):
        next(train(tiny_unet(), tiny_diffusion(), others, steps=2, out=tmp_path, **OPTIONS))


def test_looking_through_images_leaves_the_callers_random_state_alone():
    model = tiny_unet()
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    assert look_through(Flipped(), model)[0].shape == (0, 1, 8, 8)
    assert torch.rand(()) == expected


def test_resuming_from_something_else(tmp_path):
    save_state(tmp_path / "checkpoint.pt", {"weights": torch.zeros(2)})
    with pytest.raises(ValueError, match="is no training state of this course: it holds no settings; use another"):
        next(tiny_training(out=tmp_path))


# -- writing ---------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(part):
        part.write_bytes(b"half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="could not save file: .*No space left.*the old file stays.*Is the disk full?"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with pytest.raises(OSError, match="nothing was written"):
        write_atomically(tmp_path / "new", fail)


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(part):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupt)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="this system does not tell which processes live")
def test_what_a_killed_writer_left_is_cleared(tmp_path):
    path, begun = tmp_path / "file", []
    write_atomically(path, lambda part: (begun.append(part.name), part.write_bytes(b"new")))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()

    def name(process, file="file"):
        return begun[0].replace(f"-{os.getpid()}.", f"-{process}.").replace("file", file)

    for left in (name(ended.pid), name(ended.pid, "other"), name(os.getppid())):
        (tmp_path / left).write_bytes(b"half")
    write_atomically(path, b"newer")
    assert set(os.listdir(tmp_path)) == {"file", name(ended.pid, "other"), name(os.getppid())}


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from tests.tiny import tiny_diffusion, tiny_unet
    from utils.files import save_state
    from utils.diffusion.checkpoints import save_model

    folder, model = Path(sys.argv[1]), tiny_unet()
    # No file may grow beyond this: writes fail in the middle, as they do on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    for name, save in [("checkpoint.pt", lambda path: save_state(path, {"model": model.state_dict()})),
                       ("model.safetensors", lambda path: save_model(path, model, tiny_diffusion()))]:
        try:
            save(folder / name)
        except OSError as error:
            print(error)
"""


def test_a_full_disk(tmp_path, saved, root):
    """In a process of its own, because the limit cannot be taken back: torch and safetensors fail half-way."""
    pytest.importorskip("resource")
    for name in ("checkpoint.pt", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    program = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("checkpoint.pt", "model.safetensors"):
        assert f"could not save {name}: " in done.stdout
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    assert done.stdout.count("the old file stays as it was. Is the disk full?") == 2
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "model.safetensors"]
