"""Prompts for Fashion-MNIST: what is measured, which words fit, what is kept from training."""

import itertools

import numpy as np
import pytest
import torch

from utils.diffusion import load_images
from utils.diffusion.images import ImageSet
from utils.diffusion.prompts import (
    CLASSES,
    NAMES,
    PHRASINGS,
    UNSEEN_COMBINATIONS,
    UNSEEN_PHRASINGS,
    WORDS,
    describe,
    is_unseen,
    measure,
    phrase,
    with_prompts,
)


@pytest.fixture(scope="module")
def images():
    return load_images("fashion-mnist")


@pytest.mark.parametrize("columns", [3, 9, 24])
def test_a_bar_has_its_own_width(columns):
    """Plus 2: the mean of 3x3 pixels, a third of which are bright, is seen on both sides."""
    image = torch.full((1, 1, 28, 28), -1.0)
    image[..., 2 : 2 + columns] = 1.0
    for given, names in ((image, ("width", "height")), (image.mT, ("height", "width"))):
        found = measure(given)
        assert [found[name].item() for name in names] == pytest.approx([columns + 2, 28], rel=1e-5)


def test_the_measures_are_those_of_numpy_by_hand():
    pixels = torch.randint(0, 256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[:, :, :, :9] = 0
    found = {name: values.numpy() for name, values in measure(pixels).items()}
    for k, image in enumerate(pixels[:, 0].double().numpy() / 255):
        framed = np.pad(image, 1)
        smooth = np.mean([framed[i : i + 28, j : j + 28] for i, j in itertools.product(range(3), repeat=2)], axis=0)
        rows, columns = np.nonzero(smooth > 0.15)
        assert found["brightness"][k] == pytest.approx(smooth[rows, columns].mean(), rel=1e-5)
        assert found["width"][k] == pytest.approx(np.sqrt(12 * columns.var() + 1), rel=1e-4)
        assert found["height"][k] == pytest.approx(np.sqrt(12 * rows.var() + 1), rel=1e-4)


def test_an_empty_image_has_measures_too():
    assert all(value.isfinite() for value in measure(torch.full((1, 1, 28, 28), -1.0)).values())


def test_floats_and_pixels_measure_alike(images):
    few = images[:20][0]
    for name, values in measure(images.pixels[:20]).items():
        torch.testing.assert_close(values, measure(few)[name])


def test_the_ends_of_the_words_are_quantiles_of_the_training_images(images):
    if len(images) < 60_000:
        pytest.skip("they are of the full training set")
    found = measure(images.pixels)
    for label, (name, limits) in enumerate(CLASSES.items()):
        assert set(limits) <= set(WORDS)
        for attribute, ends in limits.items():
            own = found[attribute][images.labels == label].double()
            right = own.quantile(torch.tensor([0.3, 0.7]).double()).tolist()
            assert ends == pytest.approx(right, abs=0.0006 if attribute == "brightness" else 0.006), (name, attribute)


def test_each_word_fits_about_three_tenths_of_its_class(images):
    words = describe(images.pixels, images.labels)
    for label, (name, limits) in enumerate(CLASSES.items()):
        own = [found for found, k in zip(words, images.labels.tolist()) if k == label]
        for word in itertools.chain(*(WORDS[attribute] for attribute in limits)):
            assert sum(word in found for found in own) / len(own) == pytest.approx(0.3, abs=0.05), (name, word)


@pytest.mark.parametrize("fault", ["noise", "blur"])
def test_hardly_a_word_turns_into_its_opposite(images, fault):
    x, labels = images[:2000]
    if fault == "noise":
        changed = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    else:
        changed = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    opposite = {a: b for pair in WORDS.values() for a, b in (pair, pair[::-1])}
    pairs = list(zip(describe(x, labels), describe(changed, labels)))
    turned = sum(opposite[word] in after for before, after in pairs for word in before)
    assert turned / sum(len(before) for before, _ in pairs) < 0.01


def test_the_phrases_are_english():
    assert phrase("bag", ["dark", "wide"], PHRASINGS[0]) == "a dark, wide bag"
    assert phrase("ankle boot", [], PHRASINGS[0]) == "an ankle boot"
    assert phrase("ankle boot", ["low"], PHRASINGS[0]) == "a low ankle boot"
    assert phrase("dress", ["bright", "narrow"], PHRASINGS[3]) == "this dress is bright and narrow"
    for name, words, form in itertools.product(NAMES, [[], ["dark"], ["dark", "low"]], PHRASINGS + UNSEEN_PHRASINGS):
        text = phrase(name, words, form)
        assert name in text and all(word in text for word in words) and "{" not in text and "  " not in text


def test_no_phrase_is_both_seen_and_unseen():
    texts = [{phrase(name, [], form) for name in NAMES for form in forms} for forms in (PHRASINGS, UNSEEN_PHRASINGS)]
    assert not texts[0] & texts[1]


def test_unseen_combinations_are_ones_that_occur(images):
    words = describe(images.pixels, images.labels)
    for name, both in UNSEEN_COMBINATIONS.items():
        attributes = {attribute for attribute, pair in WORDS.items() if both & {*pair}}
        assert len(both) == len(attributes) == 2 and attributes <= set(CLASSES[name])
        count = sum(is_unseen(NAMES[k], own) for k, own in zip(images.labels.tolist(), words) if NAMES[k] == name)
        assert count > 0.01 * len(images) / 10, name
    assert not is_unseen("bag", ["dark", "wide"]) and not is_unseen("coat", ["dark", "narrow", "low"])
    assert is_unseen("bag", ["dark", "wide", "low"])


class Numbers:
    """Stands in for the text encoder."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += [text for text in texts if text not in self.texts]
        return torch.tensor([self.texts.index(text) for text in texts])


def test_each_prompt_fits_its_image_and_unseen_combinations_are_left_out(images):
    part = ImageSet(images.pixels[:2000], images.labels[:2000], images.classes, "part")
    text = Numbers()
    told = with_prompts(part, text)
    words = describe(*part[:])
    kept = [k for k, own in enumerate(words) if not is_unseen(NAMES[int(part.labels[k])], own)]
    assert torch.equal(told.pixels, part.pixels[kept]) and 1800 < len(kept) < 2000
    fitting = [words[k] for k in kept]
    every = {word for pair in WORDS.values() for word in pair}
    said = 0
    for number, own, k in zip(told.labels.tolist(), fitting, kept):
        prompt = text.texts[number]
        found = every & {*prompt.replace(",", "").split()}
        assert NAMES[int(part.labels[k])] in prompt and found <= {*own}
        said += len(found)
    assert said / sum(map(len, fitting)) == pytest.approx(0.75, abs=0.03)
    assert {*told.classes} == {*text.texts} and told.source == "part"


def test_the_seed_draws_the_prompts(images):
    part = ImageSet(images.pixels[:200], images.labels[:200], images.classes, "part")
    text = Numbers()
    first, again, other = (with_prompts(part, text, seed).labels for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
