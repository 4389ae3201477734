"""The benchmark of networks that draw from text: what it asks for, and how it judges."""

import pytest

from tests.benchmarks import text_to_image as bench
from utils.diffusion import ImageQuality, conditioning, load_images
from utils.diffusion.prompts import NAMES, PHRASINGS, UNSEEN_PHRASINGS, describe, is_unseen, phrase
from utils.ner.encoders import find_minilm


@pytest.mark.parametrize("kind", bench.KINDS)
def test_requests_are_of_their_kind(kind):
    asked, new = bench.requests(kind, 200), kind == "unseen combinations"
    assert asked == bench.requests(kind, 200) and len({request.prompt for request in asked}) > 10
    forms = UNSEEN_PHRASINGS if kind == "unseen phrasings" else PHRASINGS
    for request in asked:
        assert is_unseen(request.name, request.words) == new and len(request.words) == 2
        assert request.prompt in [phrase(request.name, request.words, form) for form in forms]
    five = new or kind == "seen, the same five"
    assert {request.name for request in asked} == {*(bench.UNSEEN_COMBINATIONS if five else NAMES)}
    met = {request.prompt for request in asked if request.name == "sneaker"}
    pairs = {request.words for request in asked if request.name == "sneaker"}
    assert len(met) == len(pairs) * len(forms)  # every pair in every form


def test_real_images_agree_with_their_own_words_and_not_with_others():
    images = load_images("fashion-mnist", "test")
    x_0, labels = images[:300]
    own = [bench.Request(NAMES[k], words, "") for k, words in zip(labels.tolist(), describe(x_0, labels))]
    shares = bench.agreement(x_0, own, ImageQuality.load())
    assert shares["class"] == shares["both"] > 0.85 and shares["words"] == 1.0
    turned = {"dark": "bright", "bright": "dark"}
    others = [one for one in range(300) if turned.keys() & {*own[one].words}]
    wrong = [bench.Request(own[k].name, tuple(turned.get(w, w) for w in own[k].words), "") for k in others]
    assert bench.agreement(x_0[others], wrong, ImageQuality.load())["words"] == 0.0


@pytest.mark.skipif(find_minilm() is None, reason="the package with the small encoder is not installed")
def test_both_encoders_have_read_the_prompts(monkeypatch):
    monkeypatch.setattr(conditioning, "_ENCODERS", {})  # which have read nothing
    prompts = ["a dark, wide bag", "a sneaker"]
    labels = bench.both_encoders(prompts)
    for name in (bench.MINILM, bench.STAND_IN):
        words, mask = bench.text_encoder(name).look_up(labels)
        assert (words[mask] != 0).any(1).all() and mask.sum(1).min() >= 4


def test_a_table_of_other_settings_is_not_gone_on_with(monkeypatch, tmp_path):
    table = tmp_path / "table.csv"
    kept = "# python -m tests.benchmarks.text_to_image --seconds 180 --count 500; torch 2, 1 thread, today\n"
    table.write_text(kept + "variant,seed\nclass,0\n")
    monkeypatch.setattr(bench, "load", lambda count: None)
    monkeypatch.setattr("sys.argv", ["text_to_image", "--table", str(table), "--seconds", "5", "--limit", "0"])
    with pytest.raises(SystemExit, match="has rows of other settings than python .* --seconds 5 --count 500"):
        bench.main()
    monkeypatch.setattr("sys.argv", ["text_to_image", "--table", str(table), "--limit", "0"])
    bench.main()  # whose time is over before its first run
    assert table.read_text().startswith(kept)
