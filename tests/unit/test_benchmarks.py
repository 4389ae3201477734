"""What the benchmarks of the image model say about their figures; the figures themselves take an hour."""

import math

import pytest
import scipy.stats
import torch

from tests.benchmarks import detector, parts, quality
from utils.diffusion.images import ImageSet


def rows(seed, own):
    row = {"steps": 10 + seed, "seconds": 3.0, "broken": 0.0, "frechet": 2.0 + seed, "kernel": 0.1, "floor": 0.3}
    return row | ({"own": 5.0, "own_floor": 0.4} if own and seed == 0 else {})


def measured(module, name, *options):
    return rows(int(options[options.index("--seed") + 1]), name != "course")


@pytest.fixture(autouse=True)
def no_peak(monkeypatch):
    monkeypatch.setattr(quality, "matmul_peak", lambda precision: 1e9)


def test_the_interval_is_students():
    values = [3.0, 5.0, 10.0]
    low, high = scipy.stats.t.interval(0.95, 2, 6.0, scipy.stats.sem(values))
    mean, half = quality.mean_and_interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert quality.mean_and_interval([4.0])[0] == 4.0 and math.isnan(quality.mean_and_interval([4.0])[1])


def test_several_seeds_have_an_interval_and_one_has_none():
    one, three = (quality.report(3, 40, seeds, measured) for seeds in (1, 3))
    assert "| course | 10 | 3 | 2.00 | 1.0 | 0.100 | the same |" in one and "±" not in one and "1 seed," in one
    assert "| annotated recipe | 11 | 3 | 3.00 ± 2.48 | 1.0 | 0.100 ± 0.000 | 5.00 |" in three
    assert "3 seeds," in three and "40 samples of the first seed; as many real images: 0.40" in three


def test_the_detector_tells_noise_from_blanks_and_not_from_noise(monkeypatch):
    for name, value in {"KNOWN": 200, "ASKED": 100, "EPOCHS": 2}.items():
        monkeypatch.setattr(detector, name, value)
    noise = torch.rand(2, 300, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert detector.held_out_accuracy(noise[0], torch.zeros_like(noise[0]), seed=0) > 0.95
    assert 0.35 < detector.held_out_accuracy(*noise, seed=0) < 0.65


def test_the_detector_refuses_too_few_real_images(monkeypatch, root):
    few = ImageSet(torch.zeros(1000, 1, 28, 28, dtype=torch.uint8), torch.zeros(1000).long(), ("a",), "few")
    monkeypatch.setattr(detector, "load_images", lambda *args: few)
    with pytest.raises(SystemExit, match="1,000 real test images, and 4,000 are needed: COURSE_DATA=FOLDER"):
        detector.measure(root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors", 1)


def test_the_detector_says_how_many_seeds():
    assert "with 75.0% accuracy (one seed)" in detector.report({"accuracy": [0.75]})
    assert "± " in detector.report({"accuracy": [0.7, 0.8]})


@pytest.mark.parametrize("name", parts.VARIANTS)
def test_variants_of_the_network(name):
    model, x_t, t = parts.made(name, 0), torch.randn(2, 1, 8, 8), torch.tensor([0, 900])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    output = model(x_t, t, torch.tensor([1, 2]))
    output.square().sum().backward()
    assert output.shape == x_t.shape and all(p.grad.abs().sum() > 0 for p in model.parameters() if p.numel())
    assert not torch.allclose(model(x_t, t), output, atol=1e-3)  # the embedding gets through


def test_finished_runs_are_left_out(monkeypatch, tmp_path, capsys):
    def measure(name, seed, *_):
        return {"variant": name, "seed": seed, "steps": 3}

    monkeypatch.setattr(parts, "TABLE", tmp_path / "parts.csv")
    monkeypatch.setattr(parts, "measure", measure)
    monkeypatch.setattr(parts, "load_images", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    counts = []
    for limit in ("-1", "60", "60"):
        monkeypatch.setattr("sys.argv", ["parts", "--limit", limit])
        parts.main()
        counts.append(len(parts.read_rows()))
    assert counts == [0, 18, 18] and capsys.readouterr().out.count("\n") == 18
    assert parts.TABLE.read_text().startswith("# python -m tests.benchmarks.parts; torch ")
