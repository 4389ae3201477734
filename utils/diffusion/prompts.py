"""Prompts for Fashion-MNIST: a grammar over its classes and over what can be measured in an image.

An attribute's words mean the lowest and the highest three tenths of a class: a dress is narrow beside other dresses.
What fills the frame from top to bottom has a width, what fills it from side to side a height; bags have both.
"""

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.diffusion.images import ImageSet, to_float

WORDS = {"brightness": ("dark", "bright"), "width": ("narrow", "wide"), "height": ("low", "tall")}
# Each class with the 0.3 and 0.7 quantiles of its 6,000 training images: the ends of the words.
CLASSES = {
    "T-shirt": {"brightness": (0.446, 0.653), "width": (16.79, 18.66)},
    "pair of trousers": {"brightness": (0.497, 0.602), "width": (10.93, 12.19)},
    "pullover": {"brightness": (0.448, 0.662), "width": (19.90, 21.65)},
    "dress": {"brightness": (0.499, 0.660), "width": (11.69, 14.32)},
    "coat": {"brightness": (0.570, 0.688), "width": (18.51, 20.85)},
    "sandal": {"brightness": (0.343, 0.444), "height": (10.68, 18.54)},
    "shirt": {"brightness": (0.394, 0.629), "width": (18.08, 20.79)},
    "sneaker": {"brightness": (0.451, 0.554), "height": (9.56, 11.90)},
    "bag": {"brightness": (0.528, 0.641), "width": (23.02, 26.13), "height": (18.74, 23.10)},
    "ankle boot": {"brightness": (0.565, 0.644), "height": (17.28, 22.27)},
}
NAMES = tuple(CLASSES)
# With words and without; {list} is "dark, wide", {both} is "dark and wide".
PHRASINGS = [("a {list} {name}", "a {name}"), ("a picture of a {list} {name}", "a picture of a {name}")]
PHRASINGS += [("{name}, {both}", "{name}"), ("this {name} is {both}", "this is a {name}")]
# Kept from training: these phrasings, and all images of these classes that both words fit.
UNSEEN_PHRASINGS = [("the {name} should be {both}", "it should be a {name}")]
UNSEEN_PHRASINGS += [("please draw one {list} {name} for the shop", "please draw one {name} for the shop")]
UNSEEN_COMBINATIONS = {"pair of trousers": {"dark", "wide"}, "dress": {"bright", "narrow"}, "shirt": {"dark", "narrow"}}
UNSEEN_COMBINATIONS |= {"sneaker": {"bright", "tall"}, "bag": {"dark", "low"}}


def measure(images: Tensor) -> dict[str, Tensor]:
    """Brightness, 0 to 1, width and height, in pixels, of what is seen on black, (N,) each.

    images: (N, 1, H, W), floats in [-1, 1] or uint8; each pixel first becomes the mean of the 3x3 around it, so that
    noise and a little blur hardly turn a word round. w columns that are seen equally often have the width w.
    """
    smooth = F.avg_pool2d((to_float(images).float() + 1) / 2, 3, stride=1, padding=1)[:, 0]
    area = (seen := (smooth > 0.15).float()).sum((1, 2)).clamp(min=1)
    found = {"brightness": (smooth * seen).sum((1, 2)) / area}
    for name, across in (("width", 1), ("height", 2)):
        shares = seen.sum(across) / area[:, None]
        places = torch.arange(shares.shape[1], device=shares.device).float()
        variance = shares @ places.square() - (shares @ places).square()
        found[name] = (12 * variance.clamp(min=0) + 1).sqrt()
    return found


def describe(images: Tensor, labels: Tensor) -> list[tuple[str, ...]]:
    """The words that fit each image (N, 1, H, W) as one of its class, in the order of WORDS. labels: (N,), 0 to 9."""
    found = {name: values.tolist() for name, values in measure(images).items()}
    words = []
    for k, label in enumerate(labels.tolist()):
        ends = CLASSES[NAMES[label]].items()
        out = [(name, found[name][k] > high) for name, (low, high) in ends if not low <= found[name][k] <= high]
        words.append(tuple(WORDS[name][above] for name, above in out))
    return words


def phrase(name: str, words: Sequence[str], phrasing: tuple[str, str]) -> str:
    """A thing and words for it as a text: phrase("bag", ["dark", "wide"], PHRASINGS[0]) is "a dark, wide bag"."""
    text = phrasing[not words].format(name=name, list=", ".join(words), both=" and ".join(words))
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def is_unseen(name: str, words: Sequence[str]) -> bool:
    """Whether this class with these words is a combination that is kept from training."""
    return name in UNSEEN_COMBINATIONS and UNSEEN_COMBINATIONS[name] <= {*words}


def with_prompts(images: ImageSet, text: Callable[[list[str]], Tensor], seed: int = 0) -> ImageSet:
    """Each image labelled, by a text encoder, with a prompt of 3 in 4 fitting words; without unseen combinations."""
    rng, words = torch.Generator().manual_seed(seed), describe(images.pixels, images.labels)
    chances = torch.rand(len(words), 1 + len(WORDS), generator=rng).tolist()
    prompts = {}
    for k, (label, own, (form, *said)) in enumerate(zip(images.labels.tolist(), words, chances)):
        if not is_unseen(NAMES[label], own):
            some = [word for word, chance in zip(own, said) if chance < 0.75]
            prompts[k] = phrase(NAMES[label], some, PHRASINGS[int(form * len(PHRASINGS))])
    texts = [*prompts.values()]
    return ImageSet(images.pixels[[*prompts]], text(texts), tuple(sorted({*texts})), images.source)
