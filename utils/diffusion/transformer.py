"""A diffusion Transformer (Peebles & Xie 2023), in the place of the U-Net: the image as a row of patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.diffusion.checks import check_numbers
from utils.diffusion.conditioning import CrossAttention, attention
from utils.diffusion.embeddings import sinusoidal_embedding
from utils.diffusion.unet import Conditioned, zero_init


def position_embedding(rows: int, columns: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Sines of the row, then of the column, of each patch, row by row: (rows * columns, dim); dim divisible by 4."""
    place = torch.arange(rows * columns, device=device)
    return torch.cat([sinusoidal_embedding(at, dim // 2) for at in (place // columns, place % columns)], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, channels), normalised without weights, then scaled and shifted by numbers of each image."""
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Block(nn.Module):
    """Attention between patches, to words if there are any, and two layers for each patch: (B, N, C) -> (B, N, C).

    emb (B, C) makes shift, scale and gate of two branches, all zero at first (adaLN-Zero, section 3.2).
    """

    def __init__(self, channels: int, heads: int, words: bool = False):
        super().__init__()
        self.heads = heads
        self.modulation = zero_init(nn.Linear(channels, 6 * channels))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.words = CrossAttention(channels, heads=heads) if words else None
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU("tanh"), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, emb: Tensor, words: tuple[Tensor, Tensor] | None = None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        x = x + gate_1 * self.attend(modulate(x, shift_1, scale_1))
        if self.words is not None:
            x = self.words(x, *words)
        return x + gate_2 * self.mlp(modulate(x, shift_2, scale_2))

    def attend(self, x: Tensor) -> Tensor:  # (B, N, C) -> (B, N, C)
        return self.out(attention(*self.qkv(x).chunk(3, dim=-1), self.heads)[0])


class DiT(Conditioned):
    """The denoising network as a Transformer: (B, C, H, W) -> patches (B, N, channels) -> blocks -> (B, C, H, W).

    channels: width of a patch's vector, divisible by 4 and by heads. patch: its side, which divides height and width.
    depth: blocks. heads: of each attention. in_channels, num_classes, text, encoder, call, ValueErrors: as in UNet,
    except that none learns a variance.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 128,
        depth: int = 5,
        heads: int = 4,
        patch: int = 4,
        num_classes: int | None = None,
        text: str | None = None,
        encoder: str | None = None,
    ):
        numbers = dict(in_channels=in_channels, channels=channels, depth=depth, heads=heads, patch=patch)
        super().__init__(check_numbers(**numbers, num_classes=num_classes), channels, channels, text, encoder)
        if channels % heads or channels % 4 or channels < 8:
            raise ValueError(f"channels must be 8 or more, a multiple of 4 and of the {heads} heads, got {channels}")
        self.patch = self.size_multiple = patch
        self.stem = nn.Conv2d(in_channels, channels, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(channels, heads, text in ("words", "both")) for _ in range(depth))
        last = nn.Linear(channels, in_channels * patch**2)
        self.head = zero_init(nn.ModuleDict({"modulation": nn.Linear(channels, 2 * channels), "out": last}))

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self._check(x_t, y)
        emb = self.embed(t, y, words := self.words(t, y))
        rows, columns = (side // self.patch for side in x_t.shape[2:])
        x = self.stem(x_t).flatten(2).mT
        x = x + position_embedding(rows, columns, x.shape[2], x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, emb, words)
        x = self.head["out"](modulate(x, *self.head["modulation"](emb)[:, None].chunk(2, dim=-1)))
        return F.pixel_shuffle(x.mT.unflatten(2, (rows, columns)), self.patch)
