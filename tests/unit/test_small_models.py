"""The four small models of notebook 06, and the script that makes them."""

import pytest
import torch

from data.make_small_models import SIZES, STEPS, first_of_each_class
from utils.diffusion import load_model
from utils.diffusion.checkpoints import read_notes
from utils.diffusion.images import ImageSet
from utils.diffusion.metrics import FOLDER


def test_training_images_are_the_first_of_each_class():
    labels = torch.arange(300) % 10
    images = ImageSet(torch.arange(300).view(-1, 1, 1, 1).to(torch.uint8), labels)
    assert sorted(first_of_each_class(images, 50).flatten().tolist()) == list(range(50))


@pytest.mark.parametrize("count", SIZES)
def test_each_shipped_model_is_of_the_script(count):
    path = FOLDER / f"small-{count}.safetensors"
    model, _ = load_model(path)
    assert read_notes(path) == {"images": count, "steps": STEPS, "seed": 0}
    assert path.stat().st_size < 700_000
    assert model(torch.zeros(2, 1, 14, 14), torch.zeros(2, dtype=torch.long)).isfinite().all()
