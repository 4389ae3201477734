"""The U-Net: an image and its timestep in, the prediction out, of the same shape.

    (B, C, H, W) -> stem -> [down level]* -> middle -> [up level]* -> head -> (B, C, H, W)

Every tensor that a down level pushes as a skip is popped by exactly one block of the up level of the same size.
Ho et al. 2020, appendix B, with scale-shift conditioning (Nichol & Dhariwal 2021, appendix A; Dhariwal & Nichol 2021,
section 3.1) and an optional space-to-depth stem.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.diffusion.checks import check_labels, check_numbers
from utils.diffusion.conditioning import DEFAULT_ENCODER, ENCODERS, NO_PROMPT, WAYS, WIDTH, CrossAttention, text_encoder
from utils.diffusion.embeddings import TimestepEmbedding


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with as many groups, up to 8, as divide the channels."""
    return nn.GroupNorm(max(g for g in range(1, 9) if channels % g == 0), channels)


def zero_init(layer: nn.Module) -> nn.Module:
    """Zero weights and biases: the branch starts as if it were not there."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, twice, plus the input; emb (B, emb_dim) scales and shifts the second norm. Keeps H and W."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.scale_shift(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Every position looks at every other: (B, C, H, W) -> (B, C, H, W), added to the input."""

    def __init__(self, channels: int, head_dim: int = 32):
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"attention needs channels divisible by {head_dim}, got {channels}")
        self.heads = channels // head_dim
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H*W, head_dim)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(-1, -2).reshape(b, c, h, w))


class Downsample(nn.Module):
    """Half the height and width, by a convolution with stride 2: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution: (B, in_channels, H, W) -> (B, out_channels, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Conditioned(nn.Module):
    """What UNet and DiT share: their options, timestep and label as one vector, and the words of a prompt."""

    distilled: dict | None = None

    def __init__(self, config: dict, dim: int, emb_dim: int, text: str | None = None, encoder: str | None = None):
        super().__init__()
        self.config, self.num_classes, self.encoder_name = config, config["num_classes"], None
        if encoder is not None and (text is None or encoder not in ENCODERS):
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, for a network with text; got {encoder!r}")
        if text is not None:
            if text not in WAYS or self.num_classes is not None:
                raise ValueError(f"text must be one of {', '.join(WAYS)}, without classes; got {text!r}, {config}")
            self.num_classes, self.encoder_name = NO_PROMPT, encoder or DEFAULT_ENCODER
            self.config |= {"text": text, "encoder": self.encoder_name}  # else left out, as out_channels is
        self.time_embedding, self.class_embedding = TimestepEmbedding(dim, emb_dim), None
        if text in ("pooled", "both"):
            self.class_embedding = nn.Linear(WIDTH, emb_dim)
        elif text is None and self.num_classes is not None:
            self.class_embedding = nn.Embedding(self.num_classes + 1, emb_dim)

    def embed(self, t: Tensor, y: Tensor | None = None, words: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Timestep and label as one vector (B, emb_dim), already through the SiLU all blocks share; words: of y."""
        emb = self.time_embedding(t)
        if self.class_embedding is not None:
            words = words or self.words(t, y)
            told = self._labels(t, y) if words is None else words[0].sum(1) / words[1].sum(1, keepdim=True)
            emb = emb + self.class_embedding(told)
        return F.silu(emb)

    def words(self, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """The words of each prompt (B, LENGTH, WIDTH), and their mask; None for a network that is told no prompts."""
        if self.encoder_name is None:
            return None
        words, mask = text_encoder(self.encoder_name).look_up(self._labels(t, y))
        return words.to(self.stem.weight.dtype), mask

    def _labels(self, t: Tensor, y: Tensor | None) -> Tensor:
        return torch.full_like(t, self.num_classes, dtype=torch.long) if y is None else y.long()

    def _check(self, x_t: Tensor, y: Tensor | None) -> None:
        channels, height, width = x_t.shape[1:]
        if channels != self.config["in_channels"]:
            raise ValueError(f"images have {channels} channels, but the network {self.config['in_channels']}")
        if height % self.size_multiple or width % self.size_multiple:
            advice = f"multiples of {self.size_multiple}; resize or pad the images, or build it otherwise"
            raise ValueError(f"image size {height}x{width} cannot be halved or cut by this network: it takes {advice}")
        if y is not None and self.num_classes is None:
            raise ValueError("labels were given, but this network has no classes; build it with num_classes=...")
        if y is not None and (y.dtype.is_floating_point or y.shape != x_t.shape[:1]):
            raise ValueError(f"y must hold one whole number per image; got {y.dtype} of shape {tuple(y.shape)}")
        if y is not None and y.device.type == "cpu":  # a GPU would have to wait
            check_labels(y, self.num_classes, hidden=True)


class UNet(Conditioned):
    """The denoising network.

    in_channels: channels of the image (1 grey, 3 colour).
    channels: width of the first level.
    multipliers: width of each level, as a multiple of `channels`; each further level halves the size.
    blocks: residual blocks per level on the way down (one more on the way up).
    attention: levels (0 is the first) that have self-attention; the middle always has it.
    stem: 1 takes pixels as they are; 2 folds each 2x2 patch into channels, and all works at half the size.
    num_classes: with classes, y (B,) holds labels 0..num_classes-1; num_classes stands for "no label", as y=None.
    dropout: in the residual blocks, 0 to 1.
    out_channels: channels of the result, by default as many as in; twice as many for a learned variance.
    text: y holds labels of prompts (`conditioning`), and the network is told the mean of their words ("pooled"), looks
        at each in the middle and on the way up ("words"), or "both". encoder: the name of theirs.

    Call as model(x_t, t, y=None): x_t (B, C, H, W), t (B,) integers, result (B, out_channels, H, W). Raises ValueError
    where H or W cannot be halved often enough, y has another shape, or, on the CPU, a label is of no class or prompt.
    Attribute distilled: {"sampler": ..., "evaluations": [...]} that a distilled network is for; None for any other.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 48,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        stem: int = 2,
        num_classes: int | None = None,
        dropout: float = 0.0,
        out_channels: int | None = None,
        text: str | None = None,
        encoder: str | None = None,
    ):
        numbers = dict(in_channels=in_channels, channels=channels, blocks=blocks, num_classes=num_classes)
        if out_channels is not None:  # else left out, so that older settings stay equal to newer ones
            numbers["out_channels"] = out_channels
        levels = dict(multipliers=[int(m) for m in multipliers], attention=[int(level) for level in attention])
        config = check_numbers(**numbers, **levels, stem=int(stem), dropout=dropout)
        if stem not in (1, 2):
            raise ValueError(f"stem must be 1 or 2, got {stem}")
        emb_dim, words = 4 * channels, text in ("words", "both")
        super().__init__(config, channels, emb_dim, text, encoder)
        self.stem_size, self.size_multiple = stem, stem * 2 ** (len(multipliers) - 1)
        self.stem = nn.Conv2d(in_channels * stem**2, channels, 3, padding=1)

        widths = [channels * m for m in multipliers]
        skips, width = [channels], channels  # widths of what is pushed, in order
        self.down = nn.ModuleList()
        for level, level_width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(_Stage(width, level_width, emb_dim, dropout, level in attention))
                width = level_width
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Downsample(width))
                skips.append(width)
        self.middle = nn.ModuleList(_Stage(width, width, emb_dim, dropout, first, words) for first in (True, False))
        self.up = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(_Stage(width + skips.pop(), level_width, emb_dim, dropout, level in attention, words))
                width = level_width
            if level > 0:
                self.up.append(Upsample(width, widths[level - 1]))
                width = widths[level - 1]
        last = zero_init(nn.Conv2d(width, (out_channels or in_channels) * stem**2, 3, padding=1))
        self.head = nn.Sequential(group_norm(width), nn.SiLU(), last)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self._check(x_t, y)
        words = self.words(t, y)
        told = [part for part in (self.embed(t, y, words), words) if part is not None]
        x = self.stem(F.pixel_unshuffle(x_t, self.stem_size))
        skips = [x]
        for stage in self.down:
            x = stage(x, *told) if isinstance(stage, _Stage) else stage(x)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, *told)
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], dim=1), *told) if isinstance(stage, _Stage) else stage(x)
        return F.pixel_shuffle(self.head(x), self.stem_size)


class _Stage(nn.Module):
    """A residual block, self-attention behind it where the level has it, attention to words where there are any."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float, attention: bool, words=False):
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels, emb_dim, dropout)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()
        self.words = CrossAttention(out_channels) if words else None

    def forward(self, x: Tensor, emb: Tensor, words: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.attention(self.block(x, emb))
        if self.words is None:
            return x
        return self.words(x.flatten(2).mT, *words).mT.unflatten(2, x.shape[2:])
