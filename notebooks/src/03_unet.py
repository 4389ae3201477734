# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 03 · The U-Net
#
# {{badge}}
#
# The network that removes the noise, built by hand: blocks, skips, timestep and class label.
#
# **At the end you have** a U-Net with three pieces of your own in it: the residual block, one level down, one level
# up. With the weights of the course's trained model it gives that model's outputs. And you have measured what its
# parts are worth.
#
# **You need** Python, basic PyTorch (`nn.Module`, `backward`, an optimiser), convolutions. What is used of notebooks 01
# and 02 is repeated.
#
# **Time:** for the machine about 2 minutes on two cores with bf16 instructions, about 5 without. For you: the *core*,
# sections 0 to 10, is a quarter of an hour of reading and half an hour for its three pieces. Sections marked
# *further* can wait.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from utils.course import COLOURS, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, load_images, load_model
from utils.diffusion.embeddings import TimestepEmbedding
from utils.diffusion.unet import Downsample, ResidualBlock, SelfAttention, Upsample

# %%
device = course.device
diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), prediction="v")


def first_images(split, count):
    """The first images of the set: (N, 1, 28, 28), values in [-1, 1]; their labels."""
    images, labels = load_images("fashion-mnist", split)[:count]
    return images.to(device), labels.to(device)


train_images, _ = first_images("train", course.pick(test=256, cpu=10_000, gpu=60_000))
test_images, test_labels = first_images("test", course.pick(test=64, cpu=256, gpu=1000))

# The course's trained model. It is what we build here, with 48 channels.
checkpoint = course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
shipped, _ = load_model(checkpoint)

# %% [markdown]
# ## 0. The network in one picture (*core*)
#
# The noisy image $x_t$ comes in on the left. The *stem* folds each 2x2 patch of pixels into channels. The network
# goes **down** to a small size, to see wide, and **up** again, to the full size. The arrows above are the **skips**,
# which carry fine detail across. The timestep $t$ and the class label $y$ become one vector, `emb`, which enters
# every residual block. (Below the boxes: channels and size; $c$ is the first level's width.)

# %% tags=["figure"]
BOXES = [  # name, kind, is it at 7x7?, shape; in the order they run
    ("stem", 2, 0, "c, 14x14"),
    ("block", 0, 0, "c, 14x14"),
    ("shrink", 4, 1, "c, 7x7"),
    ("block", 0, 1, "2c, 7x7"),
    ("block +\nattention", 1, 1, "2c, 7x7"),
    ("block", 0, 1, "2c, 7x7"),
    ("block", 0, 1, "2c, 7x7"),
    ("block", 0, 1, "2c, 7x7"),
    ("grow", 4, 0, "c, 14x14"),
    ("block", 0, 0, "c, 14x14"),
    ("block", 0, 0, "c, 14x14"),
    ("head", 2, 0, "4, 14x14"),
]
LEFT = 3.3  # of the first box


def arrow(ax, start, end, colour="0.35"):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.1})


def headline(fig, text):
    fig.suptitle(text, x=0.01, ha="left", fontsize=11)


# %% tags=["figure"]
def draw_boxes(ax):
    """The boxes, the way through them, and the vector's way into each block."""
    arrow(ax, (1.15, 6.5), (1.75, 6.5))  # from x_t to its four folded channels
    before = (2.5, 6.5)
    for k, (name, colour, low, shape) in enumerate(BOXES):
        left, y, height = LEFT + 1.3 * k, 2.6 if low else 6.5, 1.6 if low else 2.8
        corner = (left, y - height / 2)
        look = {"color": COLOURS[colour], "alpha": 0.85, "lw": 0}
        ax.add_patch(plt.Rectangle(corner, 0.85, height, **look))
        middle = left + 0.42
        ax.text(middle, corner[1] - 0.1, shape, ha="center", va="top", fontsize=7)
        ax.text(middle, y, name, ha="center", va="center", fontsize=7, rotation=90)
        arrow(ax, before, (left, y))
        if name.startswith("block"):
            arrow(ax, (middle, -0.2), (middle, corner[1] - 0.55), COLOURS[3])
        before = (left + 0.85, y)
    arrow(ax, before, (before[0] + 0.8, 6.5))


def draw_skips(ax):
    for source, target, high in ((0, 10, 8.9), (1, 9, 8.4), (2, 7, 4.4), (3, 6, 3.9)):
        x = [LEFT + 0.42 + 1.3 * k for k in (source, target)]
        top = 7.9 if high > 5 else 3.4
        ax.plot([x[0], x[0], x[1]], [top, high, high], color="0.35", lw=1.1)
        arrow(ax, (x[1], high), (x[1], top))


# %% tags=["figure"]
t = torch.tensor([400])
noise = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
x_t = diffusion.q_sample(test_images[:1].cpu(), t, noise)
with torch.no_grad():
    output = shipped(x_t, t, test_labels[:1].cpu())
fig, ax = plt.subplots(figsize=(9.5, 4.6))
draw_boxes(ax)
draw_skips(ax)
for left, image, name in ((-1.7, x_t, "x_t"), (19.7, output, "output: v")):
    box = (left, left + 2.8, 5.1, 7.9)
    ax.imshow(image[0, 0], extent=box, cmap="gray", vmin=-1, vmax=1)
    ax.text(left + 1.4, 8.0, f"{name}\n1, 28x28", ha="center", va="bottom", fontsize=8)
for k, channel in enumerate(F.pixel_unshuffle(x_t, 2)[0]):
    box = (1.8, 2.45, 7.25 - 0.72 * k, 7.9 - 0.72 * k)
    ax.imshow(channel, extent=box, cmap="gray", vmin=-1, vmax=1)
ax.text(2.1, 8.0, "2x2 folded\n4, 14x14", ha="center", va="bottom", fontsize=8)
ax.plot([2.2, 17.4], [-0.2, -0.2], color=COLOURS[3], lw=2)
way = "t: sines and cosines, two layers\ny: its row of a table\nsum, SiLU: emb (4c numbers)"
ax.text(-1.7, 1.6, way, fontsize=8, color=COLOURS[3], va="center")
arrow(ax, (0.8, 0.7), (2.2, -0.2), COLOURS[3])
ax.set(xlim=(-1.9, 22.7), ylim=(-0.6, 9.4))
ax.set_aspect("equal")
ax.set_axis_off()
ax.set_title("Four skips leave the way down, four arrive on the way up")
plt.show()

# %% [markdown]
# ## 1. What the network has to do (*core*)
#
# At timestep $t$ (0 to $T-1$) an image $x_0$ has become
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \epsilon, \qquad \epsilon \sim \mathcal N(0, I)$$
#
# (Ho et al. 2020, eq. 4), with noise $\epsilon$; $\bar\alpha_t$ falls from almost 1 to almost 0. The network gets
# $x_t$ and $t$ and is trained, with the mean squared error, to output
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$ (Salimans & Ho 2022, section 4): mostly noise where
# there is little noise, mostly (minus) the image where there is much. So it needs
#
# 1. an output of the **same shape** as its input, sharp to the pixel, because noise is;
# 2. a **wide view**, because only the whole picture tells that this is a boot;
# 3. to **know** $t$: the same grey patch is dirt at one noise level and a sleeve at another.

# %% tags=["figure"]
x_0 = test_images[:1].expand(6, -1, -1, -1)
t = torch.tensor([0, 100, 300, 500, 700, 999], device=device)
noise = torch.randn(1, 1, 28, 28, device=device).expand_as(x_0)
x_t, v = diffusion.q_sample(x_0, t, noise), diffusion.target(x_0, noise, t)
titles = [f"{name}, t = {k}" for name in ("x_t", "v") for k in t.tolist()]
title = "What goes in (above) and what should come out (below)"
show_images(torch.cat([x_t, v]).cpu(), titles=titles, columns=6, scale=4, title=title)

# %% [markdown]
# ## 2. The residual block (*core*)
#
# $$h = \mathrm{conv}_1(\mathrm{SiLU}(\mathrm{norm}_1(x))), \qquad
#   h' = \mathrm{norm}_2(h)\,(1 + \mathrm{scale}) + \mathrm{shift}, \qquad
#   \text{out} = \mathrm{shortcut}(x) + \mathrm{conv}_2(\mathrm{SiLU}(h'))$$
#
# This is the network's brick, the block of Ho et al. 2020 (appendix B). The timestep enters by *scale* and *shift*
# (Nichol & Dhariwal 2021, appendix A): two numbers per channel, from one linear layer on `emb`.
#
# **SiLU** is $x \cdot \mathrm{sigmoid}(x)$. **GroupNorm** (Wu & He 2018, eq. 1) brings each group of channels of each
# image to mean 0 and variance 1, over all pixels. Then each channel has its own weight and bias.


# %%
def group_norm(x, groups, weight, bias, eps=1e-5):
    """(B, C, H, W) -> (B, C, H, W)."""
    b, c, h, w = x.shape
    grouped = x.reshape(b, groups, c // groups * h * w)
    mean = grouped.mean(dim=2, keepdim=True)
    var = grouped.var(dim=2, keepdim=True, unbiased=False)
    normal = ((grouped - mean) / (var + eps).sqrt()).reshape(b, c, h, w)
    return normal * weight[:, None, None] + bias[:, None, None]


x = 3 + 5 * torch.randn(4, 16, 14, 14)
layer = nn.GroupNorm(8, 16)
torch.testing.assert_close(group_norm(x, 8, layer.weight, layer.bias), layer(x))
print("GroupNorm by hand agrees with PyTorch.")

# %% [markdown]
# **Predict before you run.** BatchNorm normalises over the whole batch. An image with faint features (standard
# deviation 0.1) comes with three copies of itself, or with three images whose features are ten times as strong. How
# strong are its features after either norm?

# %%
clean, loud = 0.1 * torch.randn(1, 16, 14, 14), torch.randn(3, 16, 14, 14)
company = {"copies of itself": clean.expand(3, -1, -1, -1), "noisier images": loud}
norms = {"GroupNorm": nn.GroupNorm(8, 16), "BatchNorm": nn.BatchNorm2d(16)}
table = {name: {} for name in norms}
for name, norm in norms.items():
    for label, others in company.items():
        first = norm(torch.cat([clean, others]))[0]
        table[name][f"beside {label}"] = f"{first.std().item():.2f}"
print("standard deviation of the first image's features")
pd.DataFrame(table).T

# %% [markdown]
# With BatchNorm an image's features depend on which timesteps its neighbours drew; with GroupNorm they do not.
#
# ### Your turn: 03.1
#
# The layers are given below. You write the way through them: the three equations above. `emb` has shape (B, `emb_dim`);
# `scale_shift` makes of it $2C$ numbers an image, first the scales, then the shifts. They must reach every pixel of
# their channel. The `emb` that you get has been through a SiLU already, which all blocks share.
#
# Write your lines in place of `raise NotImplementedError` and run the cell. Stuck? `hint("03.1")`, each call gives the
# next one; `solution("03.1")`. You may also go on: the cell after it has the course's version, and uses yours instead
# if yours is right.


# %%
def zero_init(layer):
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class BlockParts(nn.Module):
    def __init__(self, in_channels, out_channels, emb_dim):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)


# %%
def residual_block(parts, x, emb):
    """(B, in_channels, H, W) and emb (B, emb_dim) -> (B, out_channels, H, W).

    parts has the layers norm1, conv1, scale_shift, norm2, conv2 and shortcut.
    """
    raise NotImplementedError


check("03.1", residual_block)


# %%
def course_residual_block(parts, x, emb):
    h = parts.conv1(F.silu(parts.norm1(x)))
    both = parts.scale_shift(emb)[:, :, None, None]  # (B, 2C, 1, 1)
    scale, shift = both.chunk(2, dim=1)
    h = parts.norm2(h) * (1 + scale) + shift
    return parts.shortcut(x) + parts.conv2(F.silu(h))


residual_block = choose("03.1", residual_block, course_residual_block)


class MyResidualBlock(BlockParts):
    def forward(self, x, emb):
        return residual_block(self, x, emb)


# %% [markdown]
# One detail decides how training starts: the second convolution begins with **all weights zero**. **Predict before
# you run.** What does a fresh block do to its input, for any $t$?

# %%
# NBVAL_CHECK_OUTPUT
mine = MyResidualBlock(16, 16, emb_dim=64)
x, emb = torch.randn(4, 16, 14, 14), torch.randn(4, 64)
print("A fresh block changes its input by", (mine(x, emb) - x).abs().max().item())

# %% [markdown]
# By nothing at all: a fresh block is the identity (or, where the width changes, its 1x1 shortcut).
#
# **Check against `utils`.** Two fresh blocks would agree whatever is in them. So `wake` first gives every zeroed layer
# random weights.


# %%
def wake(model):
    """Give zero-initialised layers ordinary random weights. In place; returns the model."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            module.reset_parameters()
    return model


for in_channels, out_channels in [(16, 16), (48, 32)]:
    mine = wake(MyResidualBlock(in_channels, out_channels, emb_dim=64))
    theirs = ResidualBlock(in_channels, out_channels, emb_dim=64)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(4, in_channels, 14, 14)
    torch.testing.assert_close(mine(x, emb), theirs(x, emb))
print("My residual block is the course's.")

# %% [markdown]
# ## 3. Self-attention (*core*)
#
# **The question.** A 3x3 convolution sees its neighbours. How can the left sleeve see the right one?
#
# Each position makes a *query*, a *key* and a *value* (three 1x1 convolutions), vectors of length $d$: the rows of $Q$,
# $K$ and $V$. It takes the average of all values, weighted by how well its query matches their keys:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V$$
#
# (Vaswani et al. 2017, eq. 1). *Heads* do this several times side by side on slices of the channels. The result is
# added to the input. Without $\sqrt d$ the products grow with $d$, and the softmax picks one position (section 3.2.1
# there).


# %%
def attention(query, key, value):
    """(..., N, d) each -> (..., N, d)."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ value  # the weights are (..., N, N), rows sum to 1


class MySelfAttention(nn.Module):
    def __init__(self, channels, head_dim=32):
        super().__init__()
        self.heads = channels // head_dim
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        # each (B, heads, H*W, head_dim)
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        mixed = attention(query, key, value).transpose(-1, -2)
        return x + self.out(mixed.reshape(b, c, h, w))


# %%
mine, theirs = wake(MySelfAttention(64)), SelfAttention(64)
theirs.load_state_dict(mine.state_dict())
x = torch.randn(4, 64, 7, 7)
torch.testing.assert_close(mine(x), theirs(x))
print("My self-attention is the course's.")

# %% [markdown]
# **Predict before you run.** Shuffle the 49 positions of the input. What happens to the output? And what does attention
# cost, in multiply-adds, at 28x28, 14x14 and 7x7?

# %%
# NBVAL_CHECK_OUTPUT
order = torch.randperm(49, generator=torch.Generator().manual_seed(0))


def shuffle(x):
    return x.flatten(2)[:, :, order].reshape(x.shape)


torch.testing.assert_close(mine(shuffle(x)), shuffle(mine(x)), atol=1e-4, rtol=1e-4)
print("attention(shuffled) = shuffled attention: it does not know where a position lies.")
table = {}
for size in (28, 14, 7):
    n = size**2
    table[f"{size}x{size}"] = f"{n}x{n}", f"{2 * n * n * 64:,}"
columns = ["weights, used twice", "multiply-adds at 64 channels"]
pd.DataFrame(table, index=columns).T

# %% [markdown]
# The same values in the shuffled places: attention alone is blind to place. The cost grows with the *fourth* power of
# the side, so the course's network has attention only in the middle, at 7x7.
#
# ## 4. Down, up, and the stem (*core*)
#
# Down: a 3x3 convolution with stride 2. Up: repeat each pixel 2x2 (nearest neighbour), then a 3x3 convolution.


# %%
class MyDownsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


class MyUpsample(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x):
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


# %%
x = torch.randn(4, 32, 14, 14)
down, up = (MyDownsample(32), Downsample(32)), (MyUpsample(32, 16), Upsample(32, 16))
for mine, theirs in (down, up):
    theirs.load_state_dict(mine.state_dict())
    torch.testing.assert_close(mine(x), theirs(x))
    sizes = f"{tuple(x.shape)} -> {tuple(mine(x).shape)}"
    print(f"{type(theirs).__name__}: {sizes}, the same in utils")

# %% [markdown]
# **Predict before you run.** Many U-Nets go up with a *transposed* convolution of kernel 3 and stride 2. From an image
# of ones, with all weights $1/9$: does each way give a constant?

# %% tags=["figure"]
ones, kernel = torch.ones(1, 1, 8, 8), torch.full((1, 1, 3, 3), 1 / 9)
nearest = F.conv2d(F.interpolate(ones, scale_factor=2), kernel, padding=1)
transposed = F.conv_transpose2d(ones, kernel, stride=2, padding=1, output_padding=1)
images = {"nearest, then convolution": nearest, "transposed convolution": transposed}
fig, axes = plt.subplots(1, 2, figsize=(7, 3.1))
for ax, (name, image) in zip(axes, images.items()):
    inside = image[0, 0, 2:-2, 2:-2]
    picture = ax.imshow(image[0, 0], vmin=0, vmax=1)
    ax.set_title(f"{name}:\ninside {inside.min():.2f} to {inside.max():.2f}")
    ax.set(xlabel="column", ylabel="row")
    ax.grid(False)
fig.colorbar(picture, ax=axes, label="output for an input of ones")
headline(fig, "A transposed convolution turns a constant into a checkerboard")
plt.show()

# %% [markdown]
# (The dark rims come from the zeros of the padding.) The transposed one prints a checkerboard: its kernel of 3 covers
# the positions of a grid of 2 unevenly, one, two or four times (Odena et al. 2016).
#
# **The stem.** A convolution on 28x28 costs four times one on 14x14. So we fold each 2x2 patch into four channels.
# Nothing is averaged or dropped; `F.pixel_shuffle` undoes it at the other end.


# %%
def space_to_depth(x, r=2):
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // r, r, w // r, r)  # b c h i w j: pixel (i, j) of patch (h, w)
    x = x.permute(0, 1, 3, 5, 2, 4)  # b c i j h w
    return x.reshape(b, c * r * r, h // r, w // r)


x = torch.randn(4, 3, 28, 28)
torch.testing.assert_close(space_to_depth(x), F.pixel_unshuffle(x, 2), rtol=0, atol=0)
torch.testing.assert_close(F.pixel_shuffle(space_to_depth(x), 2), x, rtol=0, atol=0)
folded = space_to_depth(test_images[:1].cpu())[0]
titles = ["top left", "top right", "bottom left", "bottom right"]
title = "One 28x28 image as four 14x14 channels: no pixel is lost"
show_images(folded[:, None], titles=titles, scale=6, title=title)

# %% [markdown]
# Section 12 measures what this saves, and its price.
#
# ## 5. The timestep and the class label (*core*)
#
# **The question.** How does the network learn that a boot is wanted?
#
# Each class has a vector, a row of a table that is learned (`nn.Embedding`). The label's row is **added** to the
# timestep's vector (notebook 02). So the label goes where $t$ goes, into every block's scale and shift (Dhariwal &
# Nichol 2021, section 3.1), and no block has to change.
#
# The table has **one row more** than there are classes. That row means "no label"; it is used when `y` is `None`. It
# learns by *label dropout*: in training each label is replaced by "no label" with a chance of 0.1 (Ho & Salimans 2022,
# algorithm 1). So one network learns both.


# %%
class MyEmbedding(nn.Module):
    """t (B,) and labels y (B,) or None -> one vector an image (B, emb_dim)."""

    def __init__(self, dim, emb_dim, num_classes=10):
        super().__init__()
        self.time = TimestepEmbedding(dim, emb_dim)
        self.label = nn.Embedding(num_classes + 1, emb_dim)  # the last row: "no label"

    def forward(self, t, y=None):
        no_label = torch.full_like(t, self.label.num_embeddings - 1)
        return F.silu(self.time(t) + self.label(no_label if y is None else y))


# %%
mine = MyEmbedding(48, 4 * 48)
mine.time.load_state_dict(shipped.time_embedding.state_dict())
mine.label.load_state_dict(shipped.class_embedding.state_dict())
t, y = torch.arange(8) * 120, test_labels[:8].cpu()
torch.testing.assert_close(mine(t, y), shipped.embed(t, y))
torch.testing.assert_close(mine(t), shipped.embed(t))
print("The same vectors as in the trained model, with labels and without.")

# %% [markdown]
# **Predict before you run.** The trained model gets one and the same noisy boot, at little noise and at much, and ten
# different labels. Where does the label change its guess of $x_0$?

# %% tags=["figure"]
names = ["none", "T-shirt", "trousers", "pullover", "dress", "coat"]
names += ["sandal", "shirt", "sneaker", "bag", "boot"]
rows = []
for t in (300, 800, 950):
    t = torch.full((11,), t)
    x_0 = test_images[:1].cpu().expand(11, -1, -1, -1)
    noise = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    x_t = diffusion.q_sample(x_0, t, noise.expand_as(x_0))
    y = torch.tensor([10, *range(10)])  # 10: the row for "no label"
    with torch.no_grad():
        rows += [x_t[:1], diffusion.to_x_0(shipped(x_t, t, y), x_t, t)]
title = "x_t at t = 300, 800, 950, and the guesses of x_0 under each label"
titles = ["x_t", *names] + [""] * 24
show_images(torch.cat(rows), titles=titles, columns=12, scale=2, title=title)

# %%
count = min(len(test_images), 256)
x_0, labels = test_images[:count].cpu(), test_labels[:count].cpu()
t = torch.arange(count) * 1000 // count  # spread over 0 to 999
noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
fixed, losses = {"t": t, "noise": noise, "reduction": "none"}, {}
for name, y in {"right": labels, "none": None, "wrong": (labels + 5) % 10}.items():
    with torch.no_grad():
        losses[name] = diffusion.loss(shipped, x_0, y=y, **fixed)
table = {}
for name in ("none", "wrong"):
    for k in range(5):
        gap = (losses[name] - losses["right"])[t // 200 == k]
        error = gap.std() / len(gap) ** 0.5
        table.setdefault(name, {})[f"t {200 * k} on"] = f"{gap.mean():.3f} ± {error:.3f}"
print("loss minus that with the right label, ± standard error")
pd.DataFrame(table).T

# %% [markdown]
# The label hardly matters where the image is still to be seen. Where it is drowned, the label decides: in the last
# fifth of the timesteps a missing label costs most, and a wrong one far more.
#
# ## 6. One level down, one level up (*core*)
#
# **The question.** Which skip goes where?
#
# The network keeps a list, `skips`, on which the stem's output is pushed first. On the way **down** every output is
# pushed: that of a level's block, and that of the shrinking behind it. On the way **up** every block first joins a skip
# to what comes from below, as extra channels: below first, then the skip. It takes the one pushed *last*, so that the
# sizes fit, and removes it, so that each is used exactly once.
#
# ### Your turn: 03.2
#
# One level down. The next level goes on with what you return. On the lowest level `shrink` is `None`. (`hint("03.2")`,
# `solution("03.2")`)


# %%
def down_level(x, emb, skips, block, shrink):
    """One level down: gives x for the next level, and pushes each output on the list skips.

    x: (B, C, H, W). block(x, emb) gives (B, C', H, W); shrink(x) gives (B, C', H/2, W/2).
    """
    raise NotImplementedError


check("03.2", down_level)


# %%
def course_down_level(x, emb, skips, block, shrink):
    x = block(x, emb)
    skips.append(x)
    if shrink is not None:
        x = shrink(x)
        skips.append(x)
    return x


down_level = choose("03.2", down_level, course_down_level)

# %% [markdown]
# ### Your turn: 03.3
#
# One level up. It has one block more than on the way down, since the shrinking (or the stem) was pushed as well. The
# blocks come first, then `grow`, which is `None` on the topmost level. (`hint("03.3")`, `solution("03.3")`)


# %%
def up_level(x, emb, skips, blocks, grow):
    """One level up: gives x for the level above. Each block takes one skip off the list.

    x: (B, C, H, W) from below. block(x, emb) takes the channels of x and of its skip.
    """
    raise NotImplementedError


check("03.3", up_level)


# %%
def course_up_level(x, emb, skips, blocks, grow):
    for block in blocks:
        x = torch.cat([x, skips.pop()], dim=1)
        x = block(x, emb)
    return x if grow is None else grow(x)


up_level = choose("03.3", up_level, course_up_level)

# %% [markdown]
# ## 7. The whole network (*core*)
#
# The picture of section 0 in code. **Predict before you run:** why do the blocks of `up2` take $4c$ and $3c$ channels?


# %%
class MyUNet(nn.Module):
    def __init__(self, c=16, num_classes=10):
        super().__init__()
        e, block = 4 * c, MyResidualBlock
        self.embed = MyEmbedding(c, e, num_classes)
        self.stem = nn.Conv2d(4, c, 3, padding=1)
        self.down1, self.shrink = block(c, c, e), MyDownsample(c)
        self.down2 = block(c, 2 * c, e)
        self.middle1, self.look = block(2 * c, 2 * c, e), MySelfAttention(2 * c)
        self.middle2 = block(2 * c, 2 * c, e)
        self.up2 = nn.ModuleList([block(4 * c, 2 * c, e), block(3 * c, 2 * c, e)])
        self.grow = MyUpsample(2 * c, c)
        self.up1 = nn.ModuleList([block(2 * c, c, e), block(2 * c, c, e)])
        last = zero_init(nn.Conv2d(c, 4, 3, padding=1))
        self.head = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), last)

    def forward(self, x_t, t, y=None):
        emb, x = self.embed(t, y), self.stem(space_to_depth(x_t))
        skips = [x]
        x = down_level(x, emb, skips, self.down1, self.shrink)  # (B, c, 7, 7)
        x = down_level(x, emb, skips, self.down2, None)  # (B, 2c, 7, 7)
        x = self.middle2(self.look(self.middle1(x, emb)), emb)
        x = up_level(x, emb, skips, self.up2, self.grow)  # (B, c, 14, 14)
        x = up_level(x, emb, skips, self.up1, None)
        return F.pixel_shuffle(self.head(x), 2)  # (B, 1, 28, 28)


# %% [markdown]
# The first gets $2c$ from below and $2c$ from the skip of `down2`, the second $2c$ and the $c$ of `shrink`.
#
# **Check against `utils`.** The course's `UNet` builds the same parts in loops, for any number of levels. Its
# parameters have other names, but come in the same order. So we copy them one by one and compare outputs.

# %%
# NBVAL_CHECK_OUTPUT
random = wake(UNet(channels=16, num_classes=10))
for name, theirs, c in (("random weights", random, 16), ("the trained model", shipped, 48)):
    mine = MyUNet(c)
    weights = theirs.state_dict().values()
    mine.load_state_dict(dict(zip(mine.state_dict(), weights, strict=True)))
    x_t, t, y = torch.randn(8, 1, 28, 28), torch.arange(8) * 120, torch.arange(8)
    for labels in (y, None):
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(mine(x_t, t, labels), theirs(x_t, t, labels), **close)
    count = sum(p.numel() for p in mine.parameters())
    print(f"{name}, {c} channels: {count:,} parameters, equal outputs")

# %% [markdown]
# **What goes wrong: a skip that is pushed and never popped.** If a loop is one turn too short, the last in are the
# first out, and what stays on the list is the *first* one: the full-size one, with the finest detail. With blocks made
# for fewer channels nothing complains. One line at the end of `forward` catches it: `assert not skips`. Section 10
# measures the loss of both full-size skips. Notebook 06 (section 7) loses only the finest one: the network is a little
# weaker, and only a test finds it.
#
# ## 8. Zero-initialised outputs (*core*)
#
# **The question.** The last convolution of every residual branch, of attention and of the whole network starts at zero
# (Ho et al. 2020, in their code). The network outputs 0 for any input. Is that a good start?
#
# For an output of 0 the loss is the mean of $v^2$, known before any training, since $\epsilon$ is independent of $x_0$
# and has variance 1:
#
# $$\mathbb E\,[v^2] = \bar\alpha_t + (1-\bar\alpha_t)\,\mathbb E\,[x_0^2].$$
#
# **Predict before you run.** Will a fresh network without zero initialisation have a higher or a lower first loss?

# %%
# Timesteps are spread over 0 to 999.
timesteps = torch.arange(len(test_images), device=device) * 1000 // len(test_images)
fixed_noise = torch.randn(test_images.shape, generator=torch.Generator().manual_seed(1))
fixed_noise = fixed_noise.to(device)


@torch.no_grad()
def validation(model):
    """Loss of each test image (N,), always with the same timesteps and noise."""
    model.eval()
    parts = zip(test_images.split(128), timesteps.split(128), fixed_noise.split(128))
    losses = [diffusion.loss(model, a, t=b, noise=c, reduction="none") for a, b, c in parts]
    model.train()
    return torch.cat(losses).cpu()


# %%
share = diffusion.schedule.alphas_cumprod.float().to(device)[timesteps]
expected = share + (1 - share) * test_images.square().mean((1, 2, 3))
table = {"formula for an output of 0": (f"{expected.mean():.3f}", "")}
fresh = {"fresh, zero outputs": lambda model: model, "fresh, random outputs": wake}
for name, prepare in fresh.items():
    networks = [prepare(UNet(channels=16).to(device)) for _ in range(5)]
    firsts = [validation(model).mean().item() for model in networks]
    table[name] = f"{np.mean(firsts):.3f}", f"{np.std(firsts):.3f}"
pd.DataFrame(table, index=["first loss", "spread over 5 networks"]).T

# %% [markdown]
# Zero outputs begin where the formula says (the small difference comes from the noise drawn); random outputs begin
# higher. A first loss that is *not* what the formula says is a bug found before training: a wrong target, or images not
# in [-1, 1].
#
# **Predict before you run.** With all those zeros, which parameters get a gradient in the first step?

# %%
model = UNet(channels=16).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
count = sum(p.numel() for p in model.parameters())
table = {}
for step in range(1, 5):
    loss = diffusion.loss(model, train_images[:32])
    optimizer.zero_grad()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    alive = {n: g.numel() for n, g in gradients.items() if g.abs().max() > 0}
    parts = sorted({name.split(".")[0] for name in alive})
    table[step] = f"{sum(alive.values()) / count:.1%}", ", ".join(parts)
    optimizer.step()
pd.DataFrame(table, index=["parameters with a gradient", "in"]).T.rename_axis("step")

# %% [markdown]
# The network wakes from its output inwards: in step 1 only the head's last layer learns, since everything behind it is
# multiplied by zero. In step 2 follow the last layers of the branches and all that lies on the open path beside them;
# in step 3 what feeds the branches.
#
# ## 9. Overfit one batch (*core*)
#
# **The question.** Before hours of training: can the network learn *anything*? Give it one batch with fixed timesteps
# and noise, again and again. It must learn it by heart; if the loss stops early, something is broken.
#
# To see such a failure we add a classic one: a `tanh` behind the head. Values of $v$ beyond $\pm1$ are then out of
# reach, and the loss can never fall below the mean of $(|v|-1)_+^2$, where $(\cdot)_+$ is 0 for negative values.
# **Predict before you run.** What will the two curves look like?

# %%
batch, batch_noise = test_images[:16], fixed_noise[:16]
batch_t = torch.arange(16, device=device) * 66  # 0 to 990


def with_tanh(model):
    return lambda x_t, t: torch.tanh(model(x_t, t))


ends = {"the network": lambda model: model, "with tanh at the end": with_tanh}
curves = {name: [] for name in ends}
for name, end in ends.items():
    torch.manual_seed(0)
    model = UNet(channels=course.pick(test=16, cpu=16, gpu=32)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in tqdm(range(course.pick(test=5, cpu=300, gpu=1000)), desc=name, leave=False):
        loss = diffusion.loss(end(model), batch, t=batch_t, noise=batch_noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curves[name].append(loss.item())

# %% tags=["figure"]
v = diffusion.target(batch, batch_noise, batch_t)
bound = (v.abs() - 1).relu().square().mean().item()
fig, ax = plt.subplots()
for (name, losses), colour in zip(curves.items(), COLOURS):
    ax.plot(losses, label=f"{name}: gets to {min(losses):.4f}", color=colour)
label = f"the least that tanh allows: {bound:.3f}"
ax.axhline(bound, color="0.4", ls="--", lw=1, label=label)
ax.set(xlabel="step, always on the same 16 images", ylabel="loss", yscale="log")
ax.set_title("One batch is learnt by heart, unless something is broken")
ax.legend()
plt.show()

# %% [markdown]
# The network passes the dashed line in the first hundred steps and goes on falling. With `tanh` the loss settles just
# above its bound.
#
# ## 10. What is each part worth? (*core*)
#
# **The question.** Skips, timestep, zero initialisation: which of them matter in a short training?
#
# Five networks, several seeds each, without labels. All train on the same images, timesteps and noise with the same
# plain loop, and are compared by their loss on the same test images, timesteps and noise. The surgery is done by
# *hooks*, functions that PyTorch calls when a module runs: they put zeros where the skip or the timestep was.


# %%
def lose_skips(model, blocks):
    """Feed zeros in place of the skip to those up blocks. In place; returns the model."""
    for k in blocks:
        # Of the channels that come in, the last ones are the skip's.
        width = {0: 2, 1: 1, 3: 1, 4: 1}[k] * model.config["channels"]

        def cut(block, inputs, width=width):
            x, emb = inputs
            return torch.cat([x[:, :-width], torch.zeros_like(x[:, -width:])], dim=1), emb

        model.up[k].register_forward_pre_hook(cut)  # up[2] is the growing
    return model


def forget_time(model):
    def zeros(module, inputs, output):
        return torch.zeros_like(output)

    model.time_embedding.register_forward_hook(zeros)
    return model


# %%
WIDTH = course.pick(test=16, cpu=16, gpu=32)
NETWORKS = {
    "complete": lambda: UNet(channels=WIDTH),
    "no zero init": lambda: wake(UNet(channels=WIDTH)),
    "no timestep": lambda: forget_time(UNet(channels=WIDTH)),
    "full-size skips lost": lambda: lose_skips(UNet(channels=WIDTH), [3, 4]),
    "no skips": lambda: lose_skips(UNet(channels=WIDTH), [0, 1, 3, 4]),
}


def batches(seed, size):
    """Images, timesteps and noise: the same, in the same order, for one seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        index = torch.randint(len(train_images), (size,), generator=generator)
        t = torch.randint(1000, (size,), generator=generator)
        noise = torch.randn(size, 1, 28, 28, generator=generator)
        yield train_images[index.to(device)], t.to(device), noise.to(device)


# %%
BATCH = course.pick(test=8, cpu=32, gpu=128)
STEPS = course.pick(test=4, cpu=100, gpu=600)
EVERY = course.pick(test=2, cpu=25, gpu=50)  # steps between two validations
SEEDS = range(course.pick(test=2, cpu=3, gpu=5))


def fit(network, seed, steps=STEPS):
    """Train a fresh one. Returns {step: losses of the test images, (N,)}."""
    torch.manual_seed(seed)
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = {0: validation(model)}
    for step, (x_0, t, noise) in zip(range(1, steps + 1), batches(seed, BATCH)):
        loss = diffusion.loss(model, x_0, t=t, noise=noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0 or step == steps:
            losses[step] = validation(model)
    return losses


# %% [markdown]
# **Predict before you run.** Put the five in order of their final loss. (The cell takes about a minute on two cores.)

# %%
runs = {}  # the losses of single test images
bar = tqdm(total=len(SEEDS) * len(NETWORKS), desc="trainings", leave=False)
for seed in SEEDS:
    for name, network in NETWORKS.items():
        runs[name, seed] = fit(network, seed)
        bar.update()
bar.close()


# %%
def mean_and_sd(values):
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


final = {}
for name in NETWORKS:
    final[name] = np.array([float(runs[name, seed][STEPS].mean()) for seed in SEEDS])
table = {}
for name, losses in final.items():
    # Seed by seed: same start, images, timesteps and noise.
    gap = losses - final["complete"]
    error = gap.std(ddof=1) / len(gap) ** 0.5
    table[name] = mean_and_sd(losses), f"{gap.mean():+.3f} ± {error:.3f}"
columns = [f"loss after {STEPS} steps, ± sd", "minus complete, ± standard error"]
pd.DataFrame(table, index=columns).T

# %% [markdown]
# The skips decide. Without them everything has to pass through 7x7 positions, and the noise, which differs from pixel
# to pixel, does not fit. Losing only the full-size skips is just as bad: detail is gone at 7x7 already. And this
# network trains without any error.
#
# Without the timestep the loss is higher, but by much less: the network can guess the noise level from the picture.
# Zero initialisation makes a difference at the first step; after this short training of a shallow network none is to be
# seen. **Where** in $t$ do the other two hurt?

# %% tags=["figure"]
tenth = timesteps.cpu() * 10 // 1000  # 0 to 9, of each test image
middles = np.arange(50, 1000, 100)
fig, ax = plt.subplots()
for name, k in {"no skips": 4, "no timestep": 2}.items():
    gaps = []
    for seed in SEEDS:
        gap = runs[name, seed][STEPS] - runs["complete", seed][STEPS]
        gaps.append([gap[tenth == part].mean().item() for part in range(10)])
        ax.plot(middles, gaps[-1], ".", color=COLOURS[k], ms=4)
    gaps = np.array(gaps)
    error = gaps.std(0, ddof=1) / len(gaps) ** 0.5
    look = {"fmt": "-", "capsize": 3, "color": COLOURS[k], "label": name}
    ax.errorbar(middles, gaps.mean(0), error, **look)
ax.axhline(0, color="0.4", lw=1)
ax.set(xlabel="timestep t (tenths of the range)", ylabel="loss minus complete's")
marks = f"bar: ± 1 standard error, dots: {len(SEEDS)} seeds"
ax.set_title(f"Skips matter where the image is still to be seen\n({marks})")
ax.legend()
plt.show()

# %% [markdown]
# The skips are worth most where the noise is low to middling, and nothing in the last tenth: there the best guess is a
# blurred image, smooth enough for 7x7 positions. In that tenth the network that does not know $t$ fares worst;
# elsewhere the skips are worth more than the timestep, or neither is worth much. (This is one short training; the dots
# show how far its seeds differ.)
#
# ## 11. Shapes and costs (*further*)
#
# A forward hook on each stage notes its output; PyTorch's own counter gives the multiply-adds of one image (it counts
# each as two operations). **Predict before you run.** The 7x7 level has twice the channels of the 14x14 level. Which of
# them holds more parameters? Which costs more multiply-adds?


# %% tags=["figure"]
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def stages_of(model):
    """The pieces that forward() calls, by name: lists are opened, the rest stays whole."""
    stages = {}
    for name, child in model.named_children():
        parts = child.named_children() if isinstance(child, nn.ModuleList) else ()
        stages |= {f"{name}.{k}": part for k, part in parts} or {name: child}
    return stages


# %% tags=["figure"]
def watch(model, x_t, t):
    """Run the model once: {stage: what it gave}, and the model's "output"."""
    outputs, hooks = {}, []
    for name, stage in stages_of(model).items():

        def keep(module, inputs, output, name=name):
            outputs[name] = output

        hooks.append(stage.register_forward_hook(keep))
    outputs["output"] = model(x_t, t)
    for hook in hooks:
        hook.remove()
    return outputs


# %%
# NBVAL_CHECK_OUTPUT
def multiply_adds(model):
    """Of one image: {stage: multiply-adds}, "Global" for all."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(1, 1, 28, 28), torch.tensor([0]))
    counts = counter.get_flop_counts().items()
    return {name.removeprefix("UNet."): sum(n.values()) // 2 for name, n in counts}


network = UNet(channels=16, num_classes=10)
costs, stages = multiply_adds(network), stages_of(network)
outputs, rows = watch(network, torch.zeros(1, 1, 28, 28), torch.tensor([0])), {}
for name, stage in stages.items():
    size = "x".join(str(n) for n in outputs[name].shape[1:])
    rows[name] = size, sum(p.numel() for p in stage.parameters()), costs.get(name, 0)
table = pd.DataFrame(rows, index=["output", "parameters", "multiply-adds"]).T
for size in ("14x14", "7x7"):
    level = table[table["output"].str.endswith("x" + size)]
    table.loc[f"all at {size}"] = (
        "",
        level["parameters"].sum(),
        level["multiply-adds"].sum(),
    )
assert costs["Global"] == table["multiply-adds"][:-2].sum()
table

# %% [markdown]
# Twice the channels in and out make four times the weights, half the height and width a quarter of the positions: the
# parameters gather at the bottom, the work is spread evenly.
#
# ## 12. What the stem costs and what it buys (*further*)
#
# Without the stem the same network works at 28x28, with about four times the multiply-adds. Is it better for it: after
# equal steps, and after equal multiply-adds? A third network spends what the stem saves on twice the width. (The cell
# takes about a minute on two cores.)

# %%
STEMS = {
    "no stem": lambda: UNet(channels=WIDTH, stem=1),
    "stem": NETWORKS["complete"],
    "stem, twice as wide": lambda: UNet(channels=2 * WIDTH),
}
work = {name: multiply_adds(network())["Global"] for name, network in STEMS.items()}
same_work = {name: round(STEPS * work["no stem"] / work[name]) for name in STEMS}
stem_runs = {}
bar = tqdm(total=len(SEEDS) * len(STEMS), desc="trainings", leave=False)
for seed in SEEDS:
    for name, network in STEMS.items():
        stem_runs[name, seed] = fit(network, seed, same_work[name])
        bar.update()
bar.close()


# %%
def losses_at(name, steps):
    """Each seed's mean loss at those steps; between two validations on a straight line."""
    losses = []
    for seed in SEEDS:
        run = stem_runs[name, seed]
        means = [float(loss.mean()) for loss in run.values()]
        losses.append(np.interp(steps, list(run), means))
    return np.array(losses)  # (seeds, ...), as many as there are steps


table = {}
for name, network in STEMS.items():
    table[name] = {
        "parameters": f"{sum(p.numel() for p in network().parameters()):,}",
        "multiply-adds": f"{work[name]:,}",
        f"loss, {STEPS} steps": mean_and_sd(losses_at(name, STEPS)),
        "equal multiply-adds": mean_and_sd(losses_at(name, same_work[name])),
        "these are steps": same_work[name],
    }
pair = [multiply_adds(UNet(channels=48, stem=stem))["Global"] / 1e6 for stem in (2, 1)]
print("48 channels: {:.0f} million multiply-adds, without a stem {:.0f}".format(*pair))
pd.DataFrame(table).T

# %% tags=["figure"]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for name, colour in zip(STEMS, COLOURS):
    ends = (STEPS, 1), (same_work[name], work[name] * BATCH / 1e9)
    for ax, (end, unit) in zip(axes, ends):
        grid = np.linspace(0, end, 60)
        losses = losses_at(name, grid)
        mean, sd = losses.mean(0), losses.std(0, ddof=1)
        ax.plot(grid * unit, mean, color=colour, label=name)
        ax.fill_between(grid * unit, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)
axes[0].set(xlabel="step", ylabel="validation loss", yscale="log", title="equal steps")
axes[1].set(xlabel="billions of multiply-adds, forward", title="equal multiply-adds")
ticks = [0.25, 0.3, 0.4, 0.5, 0.6, 0.8]
axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
axes[0].minorticks_off()
axes[0].legend(fontsize=8)
title = "Without the stem a step teaches more and costs more"
headline(fig, f"{title} (band: ± 1 sd, {len(SEEDS)} seeds)")
plt.show()

# %% [markdown]
# In equal *steps* the network without the stem is far ahead. At equal *multiply-adds* the narrow network with the stem,
# which makes four times as many steps, is ahead for most of the way and level at the end; the wide one is behind
# throughout. (Seconds are another matter: they depend on the machine.) Whether the stem pays in a long training was not
# measured. The course keeps it to make its trained model, with 48 channels, cheap enough for a laptop: see the line
# above the table.
#
# ## 13. The receptive field (*further*)
#
# Which input pixels can change the middle pixel, at each depth? Those where the gradient of the middle value with
# respect to the input is not zero. In an image of 160x160 the field does not hit the border. **Predict before you
# run.** Which part, other than attention, lets one pixel depend on *all* others?


# %%
def without(model, kind):
    """A copy of the model in which every module of that kind gives its input unchanged."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, nn.Identity())
    return model


def influence(model, x_t, t, stage):
    """|d (middle pixel after that stage) / d x_t|: (B, H, W)."""
    x_t = x_t.clone().requires_grad_()
    output = watch(model, x_t, t)[stage]
    middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(output.shape[1], generator=generator)  # or channels might cancel
    (gradient,) = torch.autograd.grad((middle * signs.to(output)).sum(), x_t)
    return gradient.abs().sum(1)


# %%
# NBVAL_CHECK_OUTPUT
network = wake(UNet(channels=16)).double()  # float64: a gradient of 1e-20 is not zero
cases = {
    "convolutions only": without(without(network, SelfAttention), nn.GroupNorm),
    "with attention": without(network, nn.GroupNorm),
    "with GroupNorm": without(network, SelfAttention),
}
stages = [name for name in stages_of(network) if name != "time_embedding"]
big, t = torch.randn(1, 1, 160, 160, dtype=torch.float64), torch.tensor([500])
widths = {}
for label, model in cases.items():
    reached = [influence(model, big, t, name)[0] > 0 for name in stages]
    widths[label] = [int(field.any(0).sum()) for field in reached]
print(dict(zip(stages, widths["convolutions only"])))

# %% tags=["figure"]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), width_ratios=(3, 2))
for k, (label, seen) in enumerate(widths.items()):
    axes[0].plot(stages, seen, marker="os^"[k], color=COLOURS[k], label=label)
axes[0].axhline(28, color="0.4", ls="--", lw=1, label="28, a Fashion-MNIST image")
axes[0].set(xlabel="after this stage", ylabel="pixels across (of 160)")
axes[0].tick_params(axis="x", rotation=60)
axes[0].set_title("Attention sees all; so does GroupNorm")
for k, model in enumerate(cases.values()):
    seen = influence(model, big, t, "head")[0, 80]
    seen = seen / seen.max()
    seen[seen == 0] = float("nan")  # where there is no influence there is no line
    axes[1].semilogy(np.arange(-80, 80), seen, color=COLOURS[k], lw=1)
axes[1].set(xlabel="distance from the middle, pixels", ylabel="influence (largest = 1)")
axes[1].set_title("Far away: attention and GroupNorm, thinly")
entries = axes[0].get_legend_handles_labels()
fig.legend(*entries, loc="outside lower center", ncols=4, fontsize=8)
plt.show()

# %% [markdown]
# Convolutions see 14 pixels after the first block and the whole of a 28x28 image at 7x7, which is what going down is
# for. Attention sees everything at once. So does GroupNorm, thinly: its mean and variance are taken over *all* pixels.
# Even inside the convolutions' field the influence falls off fast: the *effective* receptive field is much smaller (Luo
# et al. 2016).
#
# ## 14. Inside the trained model (*further*)
#
# That is what the network *can* see. What does the course's trained model *use*? We take the influence of each input
# pixel on output pixel (14, 14), image by image, and its mean distance from there. **Predict before you run.** With
# more noise, does the model look at a wider or a narrower neighbourhood?

# %%
examples = test_images[:64].cpu()
example_noise = torch.randn(examples.shape, generator=torch.Generator().manual_seed(0))
pixels = torch.cartesian_prod(torch.arange(28.0), torch.arange(28.0))
distance = (pixels - 14).norm(dim=1).reshape(28, 28)  # from the middle


def influence_on(stage, t):
    """Share of each input pixel in what moves that stage's middle: (B, 28, 28), sum 1."""
    t = torch.full((len(examples),), t)
    x_t = diffusion.q_sample(examples, t, example_noise)
    seen = influence(shipped, x_t, t, stage)
    return seen / seen.sum((1, 2), keepdim=True)


# %%
shares = {t: influence_on("output", t) for t in (50, 300, 600, 900)}
reach = {t: (share * distance).sum((1, 2)) for t, share in shares.items()}
table = {}
for t, reached in reach.items():
    more = reached - reach[50]  # image by image
    cells = [
        f"{x.mean():.2f} ± {1.96 * x.std() / len(x) ** 0.5:.2f}" for x in (reached, more)
    ]
    table[f"t = {t}"] = cells
columns = ["mean distance, pixels", "more than at t = 50"]
print("± 95% interval over the images")
pd.DataFrame(table, index=columns).T


# %% tags=["figure"]
def show_influence(ax, seen):
    ax.grid(False)
    return ax.imshow(seen.clamp_min(1e-5), norm="log", vmin=1e-5, vmax=0.3)


fig, axes = plt.subplots(1, len(shares), figsize=(8.5, 2.7))
for ax, (t, share) in zip(axes, shares.items()):
    picture = show_influence(ax, share.mean(0))
    ax.set(xlabel="column")
    ax.set_title(f"t = {t}: {reach[t].mean():.1f} px", fontsize=10)
axes[0].set_ylabel("row")
fig.colorbar(picture, ax=axes, label="share of influence")
title = "With more noise the trained model looks further"
headline(fig, f"{title} (px: mean distance of the influence)")
plt.show()

# %% [markdown]
# Wider: at t = 900 about twice as far as at t = 50. (The intervals are over images. It is one trained model; whether
# every training ends so is not shown here.)
#
# **Feature maps.** For each stage we draw the channel that varies most over the image.


# %% tags=["figure"]
def features(t, image=0):
    """Of one test image: x_t, the guess of x_0, and the output of every stage."""
    t, this = torch.tensor([t]), slice(image, image + 1)
    x_t = diffusion.q_sample(examples[this], t, example_noise[this])
    with torch.no_grad():
        outputs = watch(shipped, x_t, t)
        guess = diffusion.to_x_0(shipped(x_t, t), x_t, t)
    return x_t, guess, {name: output[0] for name, output in outputs.items()}


def busiest(maps, count=1):
    """The channels that vary most, each scaled to [-1, 1]: (count, H, W)."""
    chosen = maps[maps.std((1, 2)).argsort(descending=True)[:count]]
    low, high = chosen.amin((1, 2), keepdim=True), chosen.amax((1, 2), keepdim=True)
    return 2 * (chosen - low) / (high - low + 1e-8) - 1


def show_map(ax, picture, title=None, cmap="cividis"):
    ax.imshow(picture, vmin=-1, vmax=1, cmap=cmap)
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize=8, loc="center")


# %% tags=["figure"]
shown = ("stem", "down.0", "down.2", "middle.1", "up.1", "up.4")
fig, axes = plt.subplots(3, len(shown) + 2, figsize=(8.5, 3.9))
for line, t in zip(axes, (100, 500, 900)):
    x_t, guess, maps = features(t)
    show_map(line[0], x_t[0, 0], t == 100 and "x_t", cmap="gray")
    for ax, name in zip(line[1:], shown):
        show_map(ax, busiest(maps[name])[0], t == 100 and name)
    show_map(line[-1], guess[0, 0], t == 100 and "guess of x_0", cmap="gray")
    line[0].set_ylabel(f"t = {t}")
headline(fig, "Coarse in the middle; the way up brings the detail back")
plt.show()

# %% [markdown]
# **Play.** Choose a stage and a timestep. On the right: which input pixels influence the middle of that stage, over all
# the images.


# %% tags=["figure"]
def draw(stage="down.2", t=300, image=0):
    x_t, guess, maps = features(t, image)
    fig, axes = plt.subplots(1, 9, figsize=(10, 1.75))
    show_map(axes[0], x_t[0, 0], "x_t", cmap="gray")
    show_map(axes[1], guess[0, 0], "guess of x_0", cmap="gray")
    for k, picture in enumerate(busiest(maps[stage], 6)):
        show_map(axes[k + 2], picture, f"busy channel {k + 1}")
    show_influence(axes[8], influence_on(stage, t).mean(0))
    axes[8].set_title("influence (log)", fontsize=8)
    axes[8].set(xticks=[], yticks=[])
    size = "x".join(str(n) for n in maps[stage].shape)
    fig.suptitle(f"after {stage} ({size}) at t = {t}", x=0.01, ha="left", fontsize=10)
    return fig


for stage in ("down.0", "middle.0"):
    draw(stage, 300)
plt.show()

# %%
play(draw, stage=stages, t=(0, 999, 50), image=(0, len(examples) - 1))

# %% [markdown]
# ## Exercises (*further*)
#
# **03.4 Unfold the stem.** Write the way back from `space_to_depth`, for any number of image channels and any patch
# size `r`. (`hint("03.4")`, `solution("03.4")`)


# %%
def depth_to_space(x, r):
    """Undo the stem: (B, C*r*r, H, W) -> (B, C, H*r, W*r), by reshape and permute."""
    raise NotImplementedError


check("03.4", depth_to_space)

# %% [markdown]
# **03.5 Count multiply-adds.** What section 11 read off a counter, from the sizes alone. Mind the stride and the
# padding.


# %%
def conv_multiply_adds(in_channels, out_channels, kernel, stride, padding, height, width):
    """Multiply-adds of a square convolution without bias on one height x width image."""
    raise NotImplementedError


check("03.5", conv_multiply_adds)

# %% [markdown]
# **03.6 Receptive field.** The widths of section 13, without a gradient. For a chain of layers `(kernel, stride)`,
# first layer first: how many input pixels across does one output value see?


# %%
def receptive_field(layers):
    """Input pixels across that one output value sees; layers: list of (kernel, stride)."""
    raise NotImplementedError


check("03.6", receptive_field)

# %% [markdown]
# The way to `down.2` in our network is `[(2, 2), (3, 1), (3, 1), (3, 1), (3, 2), (3, 1), (3, 1)]`: does your function
# give the width that section 13 printed?
#
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $v$ | `v` | $\sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$, what `model(x_t, t, y)` should output |
# | $y$ | `y` | class labels (B,); `None` is "no label" |
# | | `emb` | timestep and label as one vector; gives every block its `scale` and `shift` |
# | $Q, K, V$ | `query, key, value` | attention's three vectors of each position, of length $d$ |
# | $c$ | `channels` | width of the first level |
# | | `skips` | tensors pushed on the way down and popped on the way up |
#
# 1. A U-Net is residual blocks at several sizes, told timestep and label by scale and shift, with attention where the
#    image is small and skips that carry the detail across.
# 2. The full-size skips mattered most, and a network that loses them raises no error.
# 3. Before a long run: start the output at zero, compare the first loss with the formula, overfit one batch.
#
# **Next:** [04 Training](04_training.ipynb) trains this network properly.
#
# **References**
# - Ronneberger, Fischer, Brox 2015, *U-Net*, [arXiv 1505.04597](https://arxiv.org/abs/1505.04597): section 2, figure 1.
# - Ho, Jain, Abbeel 2020, *Denoising Diffusion Probabilistic Models*,
#   [arXiv 2006.11239](https://arxiv.org/abs/2006.11239): appendix B, the network.
# - Nichol, Dhariwal 2021, *Improved DDPM*, [arXiv 2102.09672](https://arxiv.org/abs/2102.09672): scale and shift.
# - Dhariwal, Nichol 2021, *Diffusion Models Beat GANs*, [arXiv 2105.05233](https://arxiv.org/abs/2105.05233):
#   section 3, which parts of the network pay.
# - Ho, Salimans 2022, *Classifier-Free Diffusion Guidance*, [arXiv 2207.12598](https://arxiv.org/abs/2207.12598):
#   algorithm 1, label dropout.
# - Salimans, Ho 2022, *Progressive Distillation*, [arXiv 2202.00512](https://arxiv.org/abs/2202.00512): section 4, $v$.
# - Wu, He 2018, *Group Normalization*, [arXiv 1803.08494](https://arxiv.org/abs/1803.08494).
# - Vaswani et al. 2017, *Attention Is All You Need*, [arXiv 1706.03762](https://arxiv.org/abs/1706.03762): section 3.2.
# - Odena, Dumoulin, Olah 2016, *Deconvolution and Checkerboard Artifacts*,
#   [distill.pub](https://distill.pub/2016/deconv-checkerboard/).
# - Luo et al. 2016, *Understanding the Effective Receptive Field*, [arXiv
#   1701.04128](https://arxiv.org/abs/1701.04128).
