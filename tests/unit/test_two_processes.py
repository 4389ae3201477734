"""Two processes under `accelerate launch` train as one process does with the same total batch."""

import os
import re
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file

TRAIN = "-m utils.diffusion train --data digits --steps 8 --batch-size 32 --channels 32 --device cpu --precision no"
TRAIN = [*TRAIN.split(), "--log-every", "1", "--out"]
# --multi_gpu is what makes accelerate start several processes on one machine; --device cpu puts them on the CPU.
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
LAUNCH = [*LAUNCH.split(), "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]


def losses(root, *arguments):
    """Losses by step, and the number of processes that the command says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=root, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^step +(\d+)  loss ([\d.]+)", done.stdout, re.MULTILINE)
    assert [int(step) for step, _ in found] == list(range(1, 9))  # printed by one process only
    return [float(loss) for _, loss in found], re.search(r"processes: (\d+)", done.stdout).group(1)


def free_port():
    """Asked of the system: with the oldest accelerate that is admitted, port 0 is taken by its word and never found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_train_as_one(root, tmp_path):
    alone, one = losses(root, *TRAIN, tmp_path / "one")
    together, two = losses(root, *LAUNCH, free_port(), *TRAIN, tmp_path / "two")
    assert (one, two) == ("1", "2")
    assert len(set(alone)) == 8
    assert together == pytest.approx(alone, abs=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        # Sums are rounded in another order, and Adam makes steps of one size of gradients however small: the mean.
        assert (weights[1][name] - value).abs().mean() < 1e-4, name


SCRIPT = """
import os
import sys
from accelerate import PartialState
from tests.tiny import OPTIONS, digits, tiny_diffusion, tiny_unet
from utils.diffusion.conditioning import text_encoder
from utils.diffusion.images import ImageSet
from utils.diffusion.training import train

text, names = text_encoder("stand-in"), [f"a picture of {label}" for label in range(10)]
if os.environ.get("RANK") == "1":  # in an order of its own
    text(names[::-1])
images = ImageSet(digits().pixels, text([names[label] for label in digits().labels]), tuple(names))
model = tiny_unet(num_classes=None, dropout=0.0, text="both", encoder="stand-in")
for state in train(model, tiny_diffusion(), images, steps=8, out=sys.argv[1], **OPTIONS):
    PartialState().print(f"step {state.step}  loss {state.loss:.5f}, processes: {PartialState().num_processes}")
"""


@pytest.mark.slow
def test_two_processes_learn_from_prompts_as_one(root, tmp_path):
    (tmp_path / "script.py").write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n{SCRIPT}")
    alone, one = losses(root, tmp_path / "script.py", tmp_path / "one")
    together, two = losses(root, *LAUNCH, free_port(), tmp_path / "script.py", tmp_path / "two")
    assert (one, two) == ("1", "2")
    assert together == pytest.approx(alone, abs=1e-4)
