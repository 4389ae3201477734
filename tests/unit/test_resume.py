"""Training that is stopped and resumed ends with the same bits as training that was left alone."""

import pytest
import torch

from tests.tiny import OPTIONS, digits, tiny_diffusion, tiny_training, tiny_unet
from utils.diffusion.training import train
from utils.files import load_state

STEPS = 7


def same(a, b):
    """Equal to the last bit, through lists and dictionaries; the seconds differ."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    losses = [state.loss for state in tiny_training(steps=STEPS, out=folder, save_every=2)]
    return folder, losses


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_stopped_at_any_step(tmp_path, alone, stop):
    """The loop is left after `stop` steps; a new network and a new loop go on. Dropout is on."""
    folder, losses = alone
    for state in tiny_training(steps=STEPS, out=tmp_path, save_every=100):
        if state.step == stop:
            break
    del state
    torch.manual_seed(999)  # whatever the new process's random state is
    resumed = [state.loss for state in tiny_training(STEPS, model=tiny_unet(seed=123), out=tmp_path)]
    assert resumed == losses[stop - 1 :]
    assert same(load_state(tmp_path / "checkpoint.pt"), load_state(folder / "checkpoint.pt"))
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_killed_between_two_saved_states(tmp_path, alone):
    """Nothing is saved on the way out: what was done since the last saved state is done again."""
    folder, losses = alone
    steps = tiny_training(steps=STEPS, out=tmp_path, save_every=2)
    for _ in range(5):
        next(steps)
    state_4 = (tmp_path / "checkpoint.pt").read_bytes()
    steps.close()
    (tmp_path / "checkpoint.pt").write_bytes(state_4)
    resumed = [state.loss for state in tiny_training(steps=STEPS, out=tmp_path, save_every=2)]
    assert resumed == losses[3:]
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_stopped_again_and_again(tmp_path, alone):
    """Two states a life, of which the first is the restored one."""
    folder, _ = alone
    lives = 0
    while not (tmp_path / "model.safetensors").exists():
        for state, _ in zip(tiny_training(steps=STEPS, out=tmp_path, save_every=100), range(2)):
            assert state.step <= STEPS
        lives += 1
    assert lives > STEPS // 2
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_finished_training_stays_finished(tmp_path, alone):
    folder, _ = alone
    for name in ("checkpoint.pt", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert [state.step for state in tiny_training(steps=STEPS, out=tmp_path)] == [STEPS]
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_validation_does_not_change_the_training(tmp_path, alone):
    _, losses = alone
    seen = [s.loss for s in tiny_training(steps=STEPS, validation=digits(16, "test"), validate_every=2)]
    assert seen == losses


def test_a_longer_training_goes_on_from_a_shorter_one(tmp_path):
    for _ in tiny_training(steps=3, out=tmp_path):
        pass
    states = [s.step for s in train(tiny_unet(), tiny_diffusion(), digits(), steps=5, out=tmp_path, **OPTIONS)]
    assert states == [3, 4, 5]
