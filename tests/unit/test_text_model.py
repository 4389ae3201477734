"""The script that makes the model of notebook 15: which guidance weight it takes, and on which draws it reports."""

from types import SimpleNamespace

import torch

from data import make_text_model as script


def test_weight_is_the_smallest_as_good_as_the_best_on_draws_of_its_own(monkeypatch):
    both = {1.0: 70.0, 1.5: 90.0, 2.0: 96.0, 3.0: 96.25, 5.0: 98.0}  # Wilson's interval of 392 of 400 begins at 96.11
    asked = []

    def shares(network, data, kind, count, seed, weight):
        asked.append((kind, seed, weight))
        return torch.tensor([99.0, 99.0, both[weight] + seed - script.CHOSEN_BY])

    quality = SimpleNamespace(floor=lambda count: (torch.ones(3), None), features=lambda x: x, frechet=lambda x: x)
    data = SimpleNamespace(quality=quality, asked=torch.zeros(400), asked_class=torch.ones(400))
    monkeypatch.setattr(script, "shares", shares)
    monkeypatch.setattr(script, "load_model", lambda path: path.stem)
    monkeypatch.setattr(script, "draw", lambda network, y, seed, weight: 100 * float(y[0]) + 10 * weight + seed)
    card = script.measure(script.FOLDER / "text-to-image.safetensors", data, 400)

    assert "At 3, the smallest weight with at least 96.1% of both" in card
    assert {(seed, weight) for kind, seed, weight in asked if seed != script.CHOSEN_BY} == {(s, 3.0) for s in (2, 3, 4)}
    assert script.CHOSEN_BY not in script.REPORTED
    assert {kind for kind, seed, _ in asked if seed == script.CHOSEN_BY} == {"seen"}  # unseen words choose nothing
    assert "| unseen combinations | 99.0, 99.0, 99.0 | 99.0, 99.0, 99.0 | 97.2, 98.2, 99.2 |" in card
    assert "| text-to-image | 3 | 32.00, 33.00, 34.00 |" in card
    assert "| unet-fashion-mnist | 1 | 112.00, 113.00, 114.00 |" in card
