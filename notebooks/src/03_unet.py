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
# The network that removes the noise: built by hand, with every skip accounted for.
#
# **At the end you have** built a U-Net block by block and shown that it is the network in
# `utils/diffusion/unet.py`, output for output. You have a table of its shapes and costs and a picture of
# it, both read off the running network; you have followed every skip from the push to the pop; and you
# have measured what each part is worth: skips, timestep, zero initialisation, the stem.
#
# **You need** Python, basic PyTorch (`nn.Module`, `backward`, an optimiser), convolutions. Helpful:
# notebook 01 (what $x_t$ is) and 02 (how a timestep becomes a vector); the two facts used here are
# repeated.
#
# **Time:** about 2 minutes on two cores with bf16 instructions (the run shown), about 5 on two cores without; most
# of it in one cell that trains small networks.
# The GPU profile has a budget of 15 minutes on a T4 (not measured here).

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import copy
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from utils.course import COLOURS, check, hint, play, show_images, solution  # noqa: F401
from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, load_images
from utils.diffusion.embeddings import TimestepEmbedding
from utils.diffusion.unet import Downsample, ResidualBlock, SelfAttention, Upsample

# %% [markdown]
# ## 1. What the network has to do
#
# A diffusion model adds noise to an image $x_0$. At timestep $t$ (0 to $T-1$) it has become
#
# $$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1-\bar\alpha_t}\, \epsilon, \qquad \epsilon \sim \mathcal N(0, I)$$
#
# (Ho et al. 2020, eq. 4). Here $\epsilon$ is the noise and $\bar\alpha_t$ a number that falls from almost
# 1 to almost 0 as $t$ grows: the image's share of the variance. A network gets $x_t$ and $t$, and is
# trained to output the *target*. We use the target
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$ (Salimans & Ho 2022, section 4): mostly
# noise where there is little noise, mostly (minus) the image where there is much. The loss is the mean
# squared error. So the network needs
#
# 1. an output of the **same shape** as its input, sharp to the pixel, because noise differs from pixel to
#    pixel;
# 2. a **wide view**, because only the whole picture tells that this is a boot;
# 3. to **know** $t$: the same grey patch is dirt at one noise level and a sleeve at another.
#
# A U-Net (Ronneberger et al. 2015) goes down to few pixels to see wide, up again to the full size, and
# carries the fine detail across by *skips*.

# %%
device = course.device
diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), prediction="v")


def first_images(split, count):
    """The first images of the set: (N, 1, 28, 28), values in [-1, 1]."""
    images, _ = load_images("fashion-mnist", split)[:count]
    return images.to(device)


train_images = first_images("train", course.pick(test=256, cpu=10_000, gpu=60_000))
test_images = first_images("test", course.pick(test=64, cpu=256, gpu=1000))

# %%
x_0 = test_images[:1].expand(6, -1, -1, -1)
t = torch.tensor([0, 100, 300, 500, 700, 999], device=device)
noise = torch.randn(1, 1, 28, 28, device=device).expand_as(x_0)
x_t, v = diffusion.q_sample(x_0, t, noise), diffusion.target(x_0, noise, t)
titles = [f"{name}, t = {k}" for name in ("x_t", "v") for k in t.tolist()]
title = "What goes in (above) and what should come out (below)"
show_images(torch.cat([x_t, v]).cpu(), titles=titles, columns=6, scale=4, title=title)

# %% [markdown]
# ## 2. The residual block
#
# **The question.** What is the brick that the network is made of?
#
# $$h = \mathrm{conv}_1(\mathrm{SiLU}(\mathrm{norm}_1(x))), \qquad
#   h' = \mathrm{norm}_2(h)\,(1 + s(t)) + b(t), \qquad
#   \text{out} = \mathrm{shortcut}(x) + \mathrm{conv}_2(\mathrm{SiLU}(h'))$$
#
# This is the block of Ho et al. 2020 (appendix B), with the *scale* $s(t)$ and *shift* $b(t)$ of Nichol &
# Dhariwal 2021 (appendix A; "AdaGN" in Dhariwal & Nichol 2021, section 3.1): two numbers per channel, from
# one linear layer on the timestep's vector. Its three ingredients, one at a time.
#
# **GroupNorm** (Wu & He 2018, eq. 1) splits the $C$ channels into groups and brings each group of each
# image to mean 0 and variance 1, over the group's channels and all pixels. Then each channel has its own
# weight and bias. Unlike BatchNorm it never looks at the other images, which here carry other amounts of
# noise.


# %%
def group_norm(x, groups, weight, bias, eps=1e-5):
    """(B, C, H, W) -> (B, C, H, W)."""
    b, c, h, w = x.shape
    grouped = x.reshape(b, groups, c // groups * h * w)
    mean = grouped.mean(dim=2, keepdim=True)
    var = grouped.var(dim=2, keepdim=True, unbiased=False)
    normal = ((grouped - mean) / (var + eps).sqrt()).reshape(b, c, h, w)
    return normal * weight[:, None, None] + bias[:, None, None]


def silu(x):
    return x * torch.sigmoid(x)


x = 3 + 5 * torch.randn(4, 16, 14, 14)
layer = nn.GroupNorm(8, 16)
torch.testing.assert_close(group_norm(x, 8, layer.weight, layer.bias), layer(x))
torch.testing.assert_close(silu(x), F.silu(x))
print("GroupNorm and SiLU by hand agree with PyTorch.")

# %% [markdown]
# **Predict before you run.** BatchNorm normalises over the whole batch. Take an image with faint features
# (standard deviation 0.1) and put beside it three copies of itself, or three images with features ten
# times as strong. How strong are its features after the norm, with GroupNorm and with BatchNorm?

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
# With BatchNorm an image's features depend on which timesteps its neighbours drew. GroupNorm gives the same
# answer in any company, and at sampling time as in training.
#
# Now the block. The dropout that `utils` also has is left out, since it is 0 by default. One detail
# decides how training starts: the second convolution begins with **all weights zero**.
#
# **Predict before you run.** What does a fresh block do to its input, for any $t$?


# %%
def zero_init(layer):
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class MyResidualBlock(nn.Module):
    def __init__(self, in_channels, out_channels, emb_dim):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x)))
        # (B, C, 1, 1) each
        scale, shift = self.scale_shift(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(F.silu(h))


# %%
# NBVAL_CHECK_OUTPUT
mine = MyResidualBlock(16, 16, emb_dim=64)
x, emb = torch.randn(4, 16, 14, 14), torch.randn(4, 64)
print("A fresh block changes its input by", (mine(x, emb) - x).abs().max().item())

# %% [markdown]
# By nothing at all: a fresh block whose width does not change is the identity (else it is its 1x1 shortcut), and a
# deep stack of them passes the image (and the gradient) through untouched. Sections 9 and 11 measure what that buys.
#
# ### Check against `utils`
# A comparison of two fresh blocks would prove nothing, since both are the identity. So `wake` first gives
# every zeroed layer random weights. Then we copy my block's `state_dict` into the course's and compare.


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
# ## 3. Self-attention
#
# **The question.** A 3x3 convolution sees its neighbours. How can the left sleeve see the right one?
#
# Each position makes a *query* $q$, a *key* $k$ and a *value* $v$ (three 1x1 convolutions), all vectors
# of length $d$. It takes the average of all values, weighted by how well its query matches their keys:
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\!\left(q k^\top / \sqrt{d}\right) v$$
#
# (Vaswani et al. 2017, eq. 1; this $v$ has nothing to do with the target $v$). *Heads* do this several
# times side by side on slices of the channels. The result is added to the input.


# %%
def attention(q, k, v):
    """(..., N, d) each -> (..., N, d)."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1) @ v  # the weights are (..., N, N), rows sum to 1


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
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H*W, head_dim)
        mixed = attention(q, k, v).transpose(-1, -2).reshape(b, c, h, w)
        return x + self.out(mixed)


# %%
mine, theirs = wake(MySelfAttention(64)), SelfAttention(64)
theirs.load_state_dict(mine.state_dict())
x = torch.randn(4, 64, 7, 7)
torch.testing.assert_close(mine(x), theirs(x))
print("My self-attention is the course's.")

# %% [markdown]
# **Predict before you run.** Shuffle the 49 positions of the input. What happens to the output: something
# new, or the same values in the shuffled places? And what does attention cost, in multiply-adds, at
# 28x28, 14x14 and 7x7?

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
# The same values in the shuffled places. Attention alone is blind to place; in a U-Net it learns about
# place from the zero padding of the convolutions around it. The cost grows with the *fourth* power of the
# side, so the course's network has attention only in the middle, at 7x7.
#
# **What goes wrong without $\sqrt d$.** Products of $d$ random numbers grow like $\sqrt d$; then the
# softmax picks one position and ignores the rest, and hardly any gradient reaches the others.

# %%
d = 128
q, k = torch.randn(2, 49, d), torch.randn(2, 49, d)
largest = {}
for name, scale in {"with 1/sqrt(d)": d**-0.5, "without": 1.0}.items():
    weights = (scale * q @ k.transpose(1, 2)).softmax(-1)
    largest[name] = weights.max(-1).values.mean().item()
pd.DataFrame({"largest of 49 weights, on average": largest}).round(2)

# %% [markdown]
# ## 4. Down and up
#
# **The question.** How do we halve the size and double it again? Down: a 3x3 convolution with stride 2.
# Up: repeat each pixel 2x2 (nearest neighbour), then a 3x3 convolution. Each is one line.


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
# **Predict before you run.** Many U-Nets go up with a *transposed* convolution of kernel 3 and stride 2.
# Feed both kinds a constant image of ones, with all weights $1/9$. Is what comes out constant too?


# %%
def headline(fig, text):
    fig.suptitle(text, x=0.01, ha="left", fontsize=11)


ones, kernel = torch.ones(1, 1, 8, 8), torch.full((1, 1, 3, 3), 1 / 9)
doubled = F.interpolate(ones, scale_factor=2)
nearest = F.conv2d(doubled, kernel, padding=1)
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
# The nearest-neighbour path stays constant away from the border. The transposed one prints a
# checkerboard: its kernel of 3 covers the positions of a grid of 2 unevenly, one, two or four times
# (Odena et al. 2016). Training can learn to undo this; it is simpler not to start with it.
#
# ## 5. The space-to-depth stem
#
# **The question.** A convolution on 28x28 costs four times one on 14x14. Can the whole network work at
# half the size without losing a pixel?
#
# Fold each 2x2 patch into four channels: $(B, C, H, W) \to (B, 4C, H/2, W/2)$. Nothing is averaged or
# dropped; it is a relabelling that `F.pixel_shuffle` undoes at the other end.


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
# The cost: the first convolution sees patches, not pixels, and the last one must write four pixels from one
# position. Section 11 measures both sides, cost and benefit.
#
# ## 6. The whole network
#
# **The question.** How do the parts fit together? Two levels, at 14x14 with $c$ channels and at 7x7 with
# $2c$. On the way down we keep four tensors, `s0` to `s3`. On the way up each is joined to what comes
# from below, as extra channels (`torch.cat`), and used exactly once, last one first.
#
# First the parts, with their widths. A block on the way up gets the channels from below and those of its skip.


# %%
class Parts(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        e = 4 * c
        self.time = TimestepEmbedding(c, e)  # notebook 02: sines and cosines, two layers
        self.stem = nn.Conv2d(4, c, 3, padding=1)
        self.down1, self.shrink = MyResidualBlock(c, c, e), MyDownsample(c)
        self.down2 = MyResidualBlock(c, 2 * c, e)
        self.middle1, self.look = MyResidualBlock(2 * c, 2 * c, e), MySelfAttention(2 * c)
        self.middle2 = MyResidualBlock(2 * c, 2 * c, e)
        self.up2a = MyResidualBlock(4 * c, 2 * c, e)
        self.up2b = MyResidualBlock(3 * c, 2 * c, e)
        self.grow = MyUpsample(2 * c, c)
        self.up1a, self.up1b = MyResidualBlock(2 * c, c, e), MyResidualBlock(2 * c, c, e)
        last = zero_init(nn.Conv2d(c, 4, 3, padding=1))
        self.head = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), last)


# %% [markdown]
# Then the way through them. Follow each `s` from where it is made to where it is used.


# %%
class MyUNet(Parts):
    def forward(self, x_t, t):
        emb = F.silu(self.time(t))  # (B, 4c)
        s0 = self.stem(space_to_depth(x_t))  # (B, c, 14, 14)
        s1 = self.down1(s0, emb)  # (B, c, 14, 14)
        s2 = self.shrink(s1)  # (B, c, 7, 7)
        s3 = self.down2(s2, emb)  # (B, 2c, 7, 7)
        x = self.middle2(self.look(self.middle1(s3, emb)), emb)
        x = self.up2a(torch.cat([x, s3], dim=1), emb)
        x = self.up2b(torch.cat([x, s2], dim=1), emb)
        x = self.grow(x)  # (B, c, 14, 14)
        x = self.up1a(torch.cat([x, s1], dim=1), emb)
        x = self.up1b(torch.cat([x, s0], dim=1), emb)
        return F.pixel_shuffle(self.head(x), 2)  # (B, 1, 28, 28)


# %% [markdown]
# ### Check against `utils`
# The course's `UNet` builds the same list of parts in loops, for any number of levels. Its parameters
# have other names, but come in the same order. So we copy them one by one and compare the outputs.

# %%
# NBVAL_CHECK_OUTPUT
mine, theirs = MyUNet(16), wake(UNet(channels=16))
weights = theirs.state_dict().values()
mine.load_state_dict(dict(zip(mine.state_dict(), weights, strict=True)))
x_t, t = torch.randn(8, 1, 28, 28), torch.arange(8) * 120
torch.testing.assert_close(mine(x_t, t), theirs(x_t, t))
count = sum(p.numel() for p in mine.parameters())
print(f"MyUNet is the course's UNet: {count:,} parameters, equal outputs.")

# %% [markdown]
# ## 7. The table: shapes, parameters, multiply-adds
#
# **The question.** Where do the parameters sit, and where does the time go? Not typed in: a *forward
# hook* is a function that PyTorch calls whenever a module has run, with its inputs and its output. We
# hang one on every module and send one image through the course's network.
#
# One output value of a convolution with kernel $k$ costs $k^2 \cdot$ (input channels) multiply-adds, one
# of a linear layer costs (input features), and attention over $N$ positions with $C$ channels costs
# $2N^2C$.


# %%
def multiply_adds(module, output):
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        # Weights for one output value: of a convolution, k * k * (input channels).
        return output.numel() * module.weight[0].numel()
    if isinstance(module, SelfAttention):  # its 1x1 convolutions are counted by themselves
        b, c, h, w = output.shape
        return 2 * b * (h * w) ** 2 * c
    return 0


def stages_of(model):
    """The pieces that forward() calls, by name: lists are opened, the rest stays whole."""
    stages = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            stages |= {f"{name}.{k}": part for k, part in enumerate(child)}
        else:
            stages[name] = child
    return stages


# %%
def record(model, x_t, t):
    """Run the model once. What each stage took and gave, a list in the order they ran."""
    rows, handles = [], []
    for name, stage in stages_of(model).items():
        row = {"name": name, "stage": stage, "multiply_adds": 0}
        row["parameters"] = sum(p.numel() for p in stage.parameters())

        def count(module, inputs, output, row=row):
            row["multiply_adds"] += multiply_adds(module, output)

        def finish(module, inputs, output, row=row):
            rows.append(row | {"input": inputs[0], "output": output})

        handles += [module.register_forward_hook(count) for module in stage.modules()]
        handles.append(stage.register_forward_hook(finish))
    with torch.no_grad():
        model(x_t, t)
    for handle in handles:
        handle.remove()
    return rows


# %%
def shape(tensor):
    return "x".join(str(n) for n in tensor.shape[1:])


def total(rows, what):
    """The parameters or multiply-adds of all these stages."""
    return sum(row[what] for row in rows)


def kind(stage):
    """What a stage is, in a word or two."""
    if isinstance(getattr(stage, "attention", None), SelfAttention):
        return "res. + attention"
    name = type(stage).__name__
    return {"_Stage": "residual block", "Sequential": "norm, SiLU, conv"}.get(name, name)


# %% [markdown]
# **Predict before you run.** The 7x7 level has twice the channels of the 14x14 level. Which of them holds
# more parameters? Which costs more multiply-adds?

# %%
# NBVAL_CHECK_OUTPUT
network = wake(UNet(channels=16))
x_t, t = torch.randn(1, 1, 28, 28), torch.tensor([500])
rows = record(network, x_t, t)
table = {}
for row in rows:
    sizes = shape(row["input"]) or "t", shape(row["output"])
    costs = f"{row['parameters']:,}", f"{row['multiply_adds']:,}"
    table[row["name"]] = kind(row["stage"]), *sizes, *costs
costs = f"{total(rows, 'parameters'):,}", f"{total(rows, 'multiply_adds'):,}"
table["sum"] = "", "", "", *costs
pd.DataFrame(table, index=["kind", "in", "out", "parameters", "multiply-adds"]).T

# %% [markdown]
# Did the hooks miss something? PyTorch's own counter works below the modules, on the operations. It
# counts a multiply-add as two operations.

# %%
# NBVAL_CHECK_OUTPUT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
    network(x_t, t)
assert total(rows, "parameters") == sum(p.numel() for p in network.parameters())
assert 2 * total(rows, "multiply_adds") == counter.get_total_flops()
print("Hooks and PyTorch's counter agree, and no parameter is missing from the table.")
images = [row for row in rows if row["output"].ndim == 4]
table = {}
for size in (14, 7):
    here = [row for row in images if row["output"].shape[-1] == size]
    costs = f"{total(here, 'parameters'):,}", f"{total(here, 'multiply_adds'):,}"
    table[f"{size}x{size}"] = costs
pd.DataFrame(table, index=["parameters", "multiply-adds"]).T

# %% [markdown]
# Twice the channels in and out make four times the weights, and half the height and width a quarter of
# the positions. So a block at 7x7 holds four times the parameters of one at 14x14 for the same work: the
# parameters gather at the bottom, the work is spread evenly. A network that kept twice the channels at
# 14x14 would pay four times the work instead.
#
# ## 8. Every skip that is pushed is popped
#
# **The question.** `forward` pushes tensors on a list and pops them later. How do we *know* that each one
# arrives, at the right block? We look at the tensors of a real run. What a stage receives beyond the
# output of the stage before must have come over a skip; we look for the earlier output that equals it,
# bit for bit.
#
# (The network is awake here. In a fresh one every residual block is the identity, so the stem's output
# and that of the first block would be equal and no test could tell which of the two arrived.)


# %%
def images_of(rows):
    """Those stages that give images, and not the timestep's vector."""
    return [row for row in rows if row["output"].ndim == 4]


def find_skips(rows):
    """In order: the names of what is pushed, and pairs (from, to) of what is popped."""
    images, skips = images_of(rows), []
    for before, row in pairwise(images):
        # The channels that the stage before did not make.
        extra = row["input"][:, before["output"].shape[1] :]
        if extra.shape[1] > 0:
            same = [
                other["name"] for other in images if torch.equal(other["output"], extra)
            ]
            skips.append((same[0] if same else "zeros, from nowhere", row["name"]))
    pushed = [row["name"] for row in images if row["name"].startswith(("stem", "down"))]
    return pushed, skips


pushed, skips = find_skips(rows)
print("pushed:", ", ".join(pushed))
print("popped:", ", ".join(f"{source} -> {target}" for source, target in skips))
assert [source for source, _ in skips] == pushed[::-1]
print("Each is popped once, the last pushed first.")

# %% [markdown]
# ### The picture, drawn from the model
# The same record is enough to draw the network. Each box is a stage: its height is the size of the
# feature map, its width grows with the number of channels. The dark arrows are the skips just found.


# %%
# Of the boxes that are not plain residual blocks.
COLOUR_OF = {"Conv2d": 2, "norm, SiLU, conv": 2, "res. + attention": 1}
COLOUR_OF |= {"Downsample": 4, "Upsample": 4}


def draw_box(ax, row, left, width, y, h):
    """One stage, h high around y, with its name and shape below."""
    colour = COLOURS[COLOUR_OF.get(kind(row["stage"]), 0)]
    corner = (left, y - h / 2)
    ax.add_patch(plt.Rectangle(corner, width, h, color=colour, alpha=0.85, lw=0))
    text = f"{row['name']}\n{shape(row['output'])}"
    ax.text(left + width / 2, corner[1] - 0.6, text, ha="center", va="top", fontsize=7)


def draw_arrow(ax, start, end, colour, lw):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": lw})


def draw_skip(ax, start, end, lift):
    """Up from one box, across, and down on another of the same height."""
    high = start[1] + lift
    ax.plot([start[0], start[0], end[0]], [start[1], high, high], color="0.35", lw=1.2)
    draw_arrow(ax, (end[0], high), end, "0.35", 1.2)


# %%
def draw_network(rows, skips, ax):
    images = images_of(rows)
    full, left, bottom = images[0]["output"].shape[-1], 0.0, 0.0
    tops, before = {}, None
    for row in images:
        _, c, h, _ = row["output"].shape
        width, y = 0.15 * c + 1.6, -2.5 * (full - h)
        draw_box(ax, row, left, width, y, h)
        if before:
            draw_arrow(ax, before, (left, y), "0.7", 1)
        tops[row["name"]] = (left + width / 2, y + h / 2)
        before, bottom = (left + width, y), min(bottom, y - h)
        left += width + 2.4
    for k, (source, target) in enumerate(skips):
        draw_skip(ax, tops[source], tops[target], lift=0.7 + 1.5 * (k % 2))
    ax.set(xlim=(-1, left), ylim=(bottom - 2, full / 2 + 4))
    ax.set_axis_off()


# %%
fig, ax = plt.subplots(figsize=(8.5, 4.2))
draw_network(rows, skips, ax)
legend = {"residual block": 0, "with attention": 1, "down, up": 4, "stem, head": 2}
for label, k in legend.items():
    ax.bar(0, 0, color=COLOURS[k], label=label)
ax.legend(loc="lower left", fontsize=8)
ax.set_title(f"{len(pushed)} skips leave the way down, {len(skips)} arrive on the way up")
plt.show()

# %% [markdown]
# ### What goes wrong: a skip that is pushed and never popped
# A loop that is one turn too short is easy to write: three levels push, only two pop. Nothing complains,
# because the channel numbers still fit.

# %%
# NBVAL_CHECK_OUTPUT
stack = []
for size in ("28x28", "14x14", "7x7"):
    stack.append(size)  # each level pushes on the way down
for _ in range(2):
    stack.pop()  # only the levels that are followed by an upsampling pop
print("left on the stack, and lost:", stack)

# %% [markdown]
# The last in is the first out, so the skip that is lost is the *first* one: the full-size one, with the
# finest detail. One line at the end of `forward` catches it: `assert not skips`.
#
# To measure what it costs, we need the course's network with some skips lost and everything else equal,
# the number of parameters too. Hooks do such surgery without a new class: a *pre*-hook may change what a
# stage is given. Ours replaces the last channels, the skip, by zeros. The trace from above then shows
# what is missing.


# %%
def lose_skips(model, targets):
    """Feed zeros in place of the skip to those up stages. In place; returns the model."""
    awake = wake(copy.deepcopy(model)).cpu()
    rows = record(awake, torch.randn(1, 1, 28, 28), torch.tensor([500]))
    for before, row in pairwise(images_of(rows)):
        keep = before["output"].shape[1]  # channels from below; the rest is the skip
        if row["name"] in targets:

            def cut(stage, inputs, keep=keep):
                x, emb = inputs
                return torch.cat([x[:, :keep], torch.zeros_like(x[:, keep:])], dim=1), emb

            stages_of(model)[row["name"]].register_forward_pre_hook(cut)
    return model


forgetful = lose_skips(wake(UNet(channels=16)), ["up.3", "up.4"])
pushed, found = find_skips(record(forgetful, x_t, t))
print("popped:", ", ".join(f"{source} -> {target}" for source, target in found))
print("never popped:", ", ".join(name for name in pushed if name not in dict(found)))

# %% [markdown]
# Both skips at 14x14 are gone. Section 11 trains this network beside the complete one.
#
# ## 9. Zero-initialised outputs
#
# **The question.** The last convolution of every residual branch, of attention and of the whole network
# starts at zero (Ho et al. 2020 do so in their code; Dhariwal & Nichol 2021 keep it). The network outputs
# 0 for any input. Is that a good start?
#
# For an output of 0 the loss is the mean of $v^2$. Since $\epsilon$ is independent of $x_0$ and has
# variance 1,
#
# $$\mathbb E\,[v^2] = \bar\alpha_t + (1-\bar\alpha_t)\,\mathbb E\,[x_0^2],$$
#
# and both sides can be computed before any training. **Predict before you run.** Will the fresh network
# without zero initialisation have a higher or a lower first loss?

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
# Zero outputs begin where the formula says, with the same loss for every seed (the small difference comes
# from the noise drawn). Random outputs begin higher: the network first has to unlearn what its random
# weights say. A first loss that is *not* what the formula says is a bug found before training: a wrong
# target, or images not in [-1, 1].
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
# The network wakes from its output inwards: in step 1 only the head's last layer learns, since everything
# behind it is multiplied by zero. In step 2 follow the last layers of the branches, and all that lies on the
# open path beside them (stem, down- and upsampling, shortcuts); in step 3 what feeds the branches.
#
# **What goes wrong with one zero too many.** A product of two things that are both zero has gradient zero
# for both, for ever: a gate that starts at 0 in front of a convolution that starts at 0 never learns.

# %%
# NBVAL_CHECK_OUTPUT
x = torch.randn(8, 16, 7, 7, generator=torch.Generator().manual_seed(0))
for gate_start in (1.0, 0.0):
    gate = nn.Parameter(torch.tensor(gate_start))
    conv = zero_init(nn.Conv2d(16, 16, 3, padding=1))
    (gate * conv(x) - x).square().mean().backward()
    parameters = {"gate": gate, "conv": conv.weight}
    moves = [name for name, p in parameters.items() if p.grad.abs().max() > 0]
    print(f"gate starts at {gate_start}: gradient reaches", ", ".join(moves) or "nothing")

# %% [markdown]
# ## 10. Overfit one batch
#
# **The question.** Before hours of training: can the network learn *anything*? Give it one batch with
# fixed timesteps and fixed noise, again and again. A network of this size must learn such a batch by
# heart. If the loss stops early, something is broken, and you know within half a minute.
#
# To see such a failure we add a classic one: a `tanh` behind the head, as image generators often have.
# Values of $v$ beyond $\pm1$ are then out of reach, and the loss can never fall below the mean of
# $(|v|-1)_+^2$, where $(\cdot)_+$ is 0 for negative values.
#
# **Predict before you run.** What will the two curves look like? (Less than half a minute on a fast machine.)

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

# %%
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
# The network passes the dashed line in the first hundred steps and goes on falling: it can represent and
# learn what we ask of it. With `tanh` the loss settles just above its bound, and no learning rate would
# help. (The spikes come from a high, constant learning rate; notebook 04 lets it decay.)

# %% [markdown]
# ## 11. What is each part worth?
#
# **The question.** Skips, timestep, zero initialisation, the stem: which of them matter in a short
# training? First a question of speed, since it decides how many steps we can afford. PyTorch can keep
# images in memory channel by channel (`contiguous`) or pixel by pixel (`channels_last`). The results are
# the same, the speed is not; which is faster depends on the processor, so we measure it here.

# %%
BATCH = course.pick(test=8, cpu=32, gpu=128)


def training_step(model, optimizer, x_0, t=None, noise=None):
    loss = diffusion.loss(model, x_0, t=t, noise=noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()  # waits for a GPU to finish


def step_seconds(networks):
    """Seconds of a step for each (model, layout): the fastest of several, in turns."""
    ready, fastest = {}, dict.fromkeys(networks, float("inf"))
    for name, (model, layout) in networks.items():
        model = model.to(device, memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
        ready[name] = model, optimizer, train_images[:BATCH].to(memory_format=layout)
    for _ in range(course.pick(test=3, cpu=10, gpu=20)):
        for name, (model, optimizer, images) in ready.items():
            began = time.perf_counter()
            training_step(model, optimizer, images)
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    return fastest


# %%
layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
table = {}
for channels in course.pick(test=(16,), cpu=(16, 48), gpu=(16, 48)):
    networks = {name: (UNet(channels=channels), layouts[name]) for name in layouts}
    speeds = step_seconds(networks)
    table[f"{channels} channels"] = {name: round(1000 * s) for name, s in speeds.items()}
best = min(speeds, key=speeds.get)
layout = layouts[best]
ratio = max(speeds.values()) / min(speeds.values())
at = f"{channels} channels"
print(f"From here on: {best}, {ratio:.2f} times as fast at {at}. Milliseconds a step:")
pd.DataFrame(table).T

# %% [markdown]
# ### The experiment
# Seven networks, several seeds each. All train on the same images with the same plain loop: Adam,
# learning rate $2\cdot 10^{-3}$, batches of 32 (notebook 04 is about doing this well). The quality is the
# loss on the same test images, timesteps and noise for all. The seconds of a step are measured
# beforehand, in turns, so that a moment in which the machine is busy hits all alike.


# %%
def forget_time(model):
    def zeros(module, inputs, output):
        return torch.zeros_like(output)

    model.time_embedding.register_forward_hook(zeros)
    return model


WIDTH = course.pick(test=16, cpu=16, gpu=32)
NETWORKS = {
    "no stem": lambda: UNet(channels=WIDTH, stem=1),
    "complete": lambda: UNet(channels=WIDTH),
    "no skips": lambda: lose_skips(UNet(channels=WIDTH), ["up.0", "up.1", "up.3", "up.4"]),
    "full-size skips lost": lambda: lose_skips(UNet(channels=WIDTH), ["up.3", "up.4"]),
    "no timestep": lambda: forget_time(UNet(channels=WIDTH)),
    "no zero init": lambda: wake(UNet(channels=WIDTH)),
    "stem, twice as wide": lambda: UNet(channels=2 * WIDTH),
}


# %%
def batches(seed, size):
    """Images, timesteps and noise: the same, in the same order, for one seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        index = torch.randint(len(train_images), (size,), generator=generator)
        t = torch.randint(1000, (size,), generator=generator)
        noise = torch.randn(size, 1, 28, 28, generator=generator)
        images = train_images[index.to(device)].to(memory_format=layout)
        yield images, t.to(device), noise.to(device)


# %%
STEPS = course.pick(test=4, cpu=100, gpu=600)
EVERY = course.pick(test=2, cpu=25, gpu=50)  # steps between two validations


def fit(name, seed, steps):
    """Train. Returns the model, and {step: losses of the test images, (N,)}."""
    torch.manual_seed(seed)
    model = NETWORKS[name]().to(device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = {0: validation(model)}
    for step, (x_0, t, noise) in zip(range(1, steps + 1), batches(seed, BATCH)):
        training_step(model, optimizer, x_0, t, noise)
        if step % EVERY == 0 or step == steps:
            losses[step] = validation(model)
    return model, losses


# How long is a step with and without the stem? How many steps fit into the same seconds?
trio = ("no stem", "complete", "stem, twice as wide")
seconds = step_seconds({name: (NETWORKS[name](), layout) for name in trio})
same_seconds = {name: round(STEPS * seconds["no stem"] / seconds[name]) for name in trio}
print("steps in the time of", STEPS, "without a stem:", same_seconds)

# %% [markdown]
# **Predict before you run.** Put these in order of their final loss: complete, no skips, full-size skips
# lost, no timestep, no zero init. And the network without the stem: better or worse than the complete one
# after equal steps? After equal seconds?
#
# This is the long cell: about a minute and a half on two idle cores in the run shown, about three minutes on slower
# ones.

# %%
SEEDS = range(course.pick(test=2, cpu=3, gpu=5))
singles, models = {}, {}  # the losses of single test images; the models of the last seed
bar = tqdm(total=len(SEEDS) * len(NETWORKS), desc="trainings", leave=False)
for seed in SEEDS:
    for name in NETWORKS:
        steps = max(STEPS, same_seconds.get(name, 0))
        models[name], singles[name, seed] = fit(name, seed, steps)
        bar.update()
bar.close()

# %% [markdown]
# ### The stem: what it costs and what it buys


# %%
def losses_at(name, step):
    """Each seed's mean loss at that step; between two validations on a straight line."""
    losses = []
    for seed in SEEDS:
        single = singles[name, seed]
        means = [float(loss.mean()) for loss in single.values()]
        losses.append(np.interp(step, list(single), means))
    return np.array(losses)  # (seeds, ...), as many as there are steps


def mean_and_sd(values):
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


table = {}
for name in trio:
    stages = record(NETWORKS[name](), torch.randn(1, 1, 28, 28), torch.tensor([0]))
    table[name] = {
        "parameters": f"{total(stages, 'parameters'):,}",
        "multiply-adds": f"{total(stages, 'multiply_adds'):,}",
        "ms a step": f"{1000 * seconds[name]:.0f}",
        "equal steps": mean_and_sd(losses_at(name, STEPS)),
        "equal seconds": mean_and_sd(losses_at(name, same_seconds[name])),
    }
pd.DataFrame(table).T

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for name, colour in zip(trio, COLOURS):
    label = name.replace("complete", "with stem (complete)")
    for ax, end, unit in zip(axes, (STEPS, same_seconds[name]), (1, seconds[name])):
        grid = np.linspace(0, end, 60)
        losses = losses_at(name, grid)
        mean, sd = losses.mean(0), losses.std(0, ddof=1)
        ax.plot(grid * unit, mean, color=colour, label=label)
        ax.fill_between(grid * unit, mean - sd, mean + sd, color=colour, alpha=0.2, lw=0)
axes[0].set(xlabel="step", ylabel="validation loss", yscale="log", title="equal steps")
axes[1].set(xlabel="seconds of training (steps x seconds a step)", title="equal seconds")
ticks = [0.25, 0.3, 0.4, 0.5, 0.6, 0.8]
axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
axes[0].minorticks_off()
axes[0].legend(fontsize=8)
title = "Without the stem a step teaches more and costs more"
headline(fig, f"{title} (band: ± 1 sd, {len(SEEDS)} seeds)")
plt.show()

# %% [markdown]
# In equal *steps* the network without the stem is far ahead. It computes on four times as many positions, and it
# can treat the four pixels of a patch alike, where the stem has to learn each of them anew. It pays four times
# the multiply-adds for that. In equal *seconds* (right) most of its lead is gone: the cheap steps are ahead at
# first, then the lines cross. Where, and what is left at the end, depends on the machine. The third network
# spends what the stem saves on twice the width: about as many multiply-adds as without the stem, in fewer and
# larger pieces, which run faster. So what a stem buys is cheap steps, or four times the parameters at the price
# of a narrow network at full size. At these widths and in so short a training that was not enough to win; a
# hundred steps decide nothing about a long training. The course keeps the stem for its trained model because a
# wider network (48 channels, 1.5 million weights) then still makes a step in well under a second on two cores
# (this section's first table), and without a stem its multiply-adds would be four times as many.
#
# ### Skips, timestep, zero initialisation

# %%
kinds = ("complete", "no zero init", "no timestep", "full-size skips lost", "no skips")
final = {name: losses_at(name, STEPS) for name in kinds}
table = {}
for name in kinds:
    # Seed by seed: same start, images, timesteps and noise.
    gap = final[name] - final["complete"]
    error = gap.std(ddof=1) / len(gap) ** 0.5
    table[name] = mean_and_sd(final[name]), f"{gap.mean():+.3f} ± {error:.3f}"
columns = [f"loss after {STEPS} steps", "minus complete ± standard error"]
pd.DataFrame(table, index=columns).T

# %%
fig, ax = plt.subplots(figsize=(7.5, 3.0))
for k, losses in enumerate(final.values()):
    look = {"fmt": "o", "color": COLOURS[k], "capsize": 4}
    ax.errorbar(losses.mean(), k, xerr=losses.std(ddof=1), **look)
    ax.plot(losses, [k + 0.22] * len(SEEDS), "|", color=COLOURS[k], ms=7)
ax.set_yticks(range(len(kinds)), kinds)
ax.invert_yaxis()
marks = f"dot: mean, bar: ± 1 sd, ticks: the {len(SEEDS)} seeds"
ax.set_xlabel(f"validation loss after {STEPS} steps ({marks})")
ax.set_title("Losing the full-size skips is as bad as losing all of them")
plt.show()

# %% [markdown]
# The skips decide. Without them everything has to pass through 7x7 positions, and the noise, which
# differs from pixel to pixel, does not fit. Losing only the full-size skips is just as bad: the skips at
# 7x7 are no help for detail that is gone there already. That is the price of the loop that was one turn
# too short, and the network with this bug still trains, without any error.
#
# Without the timestep the loss is somewhat higher, but not by much: the network can guess the noise level
# from the picture. Zero initialisation makes a difference at the first step; after this short training of
# a shallow network it is within the spread of the seeds. **Where** in $t$ do the other two hurt?

# %%
tenth = timesteps.cpu() * 10 // 1000  # 0 to 9, of each test image
middles = range(50, 1000, 100)


def by_tenth(losses):
    return [losses[tenth == k].mean().item() for k in range(10)]


def always_zero(x_t, t):
    return torch.zeros_like(x_t)


fixed = {"t": timesteps, "noise": fixed_noise, "reduction": "none"}
zero = diffusion.loss(always_zero, test_images, **fixed).cpu()
fig, ax = plt.subplots()
ax.plot(middles, by_tenth(zero), color="0.4", ls=":", label="output 0")
for name, k in {"no skips": 4, "no timestep": 2, "complete": 0}.items():
    losses = np.array([by_tenth(singles[name, seed][STEPS]) for seed in SEEDS])
    look = {"fmt": "o-", "capsize": 3, "color": COLOURS[k], "label": name}
    ax.errorbar(middles, losses.mean(0), losses.std(0, ddof=1), **look)
ax.set(xlabel="timestep t (tenths of the range)", ylabel="validation loss", ylim=(0, None))
ax.set_title("The skips matter where noise and image are both there to be seen")
ax.legend()
plt.show()

# %% [markdown]
# The dotted line is a network that always says 0. At the lowest noise even the complete network has
# learnt little after so few steps: there $v$ is almost all noise, and faint noise is hard to tell from
# the image's own texture. In the middle the complete network leaves the one without skips far behind. At
# the highest noise $v$ is the (negative) image, smooth enough for 7x7 positions, and the skips are worth
# nothing. The timestep matters less than the skips in the first eight of these tenths. In the last it is the other
# way round: there, in the run shown, the network that does not know it fares worst.

# %% [markdown]
# ## 12. The receptive field
#
# **The question.** Which input pixels can change the middle pixel, at each depth? By calculus: those
# where the gradient of the middle value with respect to the input is not zero. The network is
# convolutional, so it also takes a larger image, on which the field does not hit the border. We use
# 160x160.
#
# **Predict before you run.** How wide does the network see after its first residual block, in the middle,
# and at the end? And which part, other than attention, lets one pixel depend on *all* others?


# %%
def without(model, kind):
    """A copy of the model in which every module of that kind gives its input unchanged."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, nn.Identity())
    return model


# %%
def influence(model, x_t, t, name):
    """|d (middle pixel after that stage) / d x_t|, summed over a batch: (H, W)."""
    x_t, caught = x_t.clone().requires_grad_(), []

    def catch(module, inputs, output):
        caught.append(output)

    hook = stages_of(model)[name].register_forward_hook(catch)
    model(x_t, t)
    hook.remove()
    (output,) = caught
    middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(output.shape[1], generator=generator)  # or channels might cancel
    (gradient,) = torch.autograd.grad((middle * signs.to(output)).sum(), x_t)
    return gradient.abs().sum((0, 1)).detach().cpu()


# %%
# NBVAL_CHECK_OUTPUT
network = wake(UNet(channels=16)).double()  # float64: a gradient of 1e-20 is not zero
plain = without(without(network, SelfAttention), nn.GroupNorm)
cases = {
    "convolutions only": plain,
    "with attention": without(network, nn.GroupNorm),
    "with GroupNorm": without(network, SelfAttention),
}
names = [row["name"] for row in images_of(rows)]
big, t = torch.randn(1, 1, 160, 160, dtype=torch.float64), torch.tensor([500])
widths = {}
for label, model in cases.items():
    reached = [influence(model, big, t, name) > 0 for name in names]
    widths[label] = [int(field.any(0).sum()) for field in reached]
pd.DataFrame(widths, index=pd.Index(names, name="width in pixels after"))

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), width_ratios=(3, 2))
for k, (label, seen) in enumerate(widths.items()):
    axes[0].plot(names, seen, marker="os^"[k], color=COLOURS[k], label=label)
axes[0].axhline(28, color="0.4", ls="--", lw=1, label="28, a Fashion-MNIST image")
axes[0].set(xlabel="after this stage", ylabel="pixels across (of 160)")
axes[0].tick_params(axis="x", rotation=60)
axes[0].set_title("Attention sees all; so does GroupNorm")
for k, model in enumerate(cases.values()):
    seen = influence(model, big, t, "head")[80]
    seen = seen / seen.max()
    seen[seen == 0] = float("nan")  # where there is no influence there is no line
    axes[1].semilogy(np.arange(-80, 80), seen, color=COLOURS[k], lw=1)
axes[1].set(xlabel="distance from the middle, pixels", ylabel="influence (largest = 1)")
axes[1].set_title("Far away: attention and GroupNorm, thinly")
entries = axes[0].get_legend_handles_labels()
fig.legend(*entries, loc="outside lower center", ncols=4, fontsize=8)
plt.show()

# %% [markdown]
# Convolutions see 14 pixels after the first block and the whole of a 28x28 image at 7x7, which is what
# going down is for. Attention sees everything at once. The surprise is GroupNorm: its mean and variance
# are taken over *all* pixels, so from the first block on every pixel depends on every other, though
# thinly. Count the field of a network with norms by "gradient not zero", and you count this. Without
# norms the convolutions' field has a sharp edge, and even inside it the influence falls off fast: the
# *effective* receptive field is much smaller than the possible one (Luo et al. 2016).
#
# ## 13. Inside a trained network
#
# **The question.** That is what the network *can* see. What does it *use*? We take the complete network
# trained in section 11 and ask for the influence of each input pixel on the middle output pixel, averaged
# over test images.
#
# **Predict before you run.** With more noise, does it look at a wider or a narrower neighbourhood?

# %%
trained = models["complete"].cpu().to(memory_format=torch.contiguous_format).eval()
examples = test_images[: course.pick(test=4, cpu=32, gpu=32)].cpu()
example_noise = torch.randn(examples.shape, generator=torch.Generator().manual_seed(0))
pixels = torch.cartesian_prod(torch.arange(28.0), torch.arange(28.0))
distance = (pixels - 14).norm(dim=1).reshape(28, 28)  # from the middle


def influence_on(stage, t):
    """Share of each input pixel in what moves the middle of that stage: (28, 28), sum 1."""
    t = torch.full((len(examples),), t)
    x_t = diffusion.q_sample(examples, t, example_noise)
    seen = influence(trained, x_t, t, stage)
    return seen / seen.sum()


def show_influence(ax, seen):
    ax.grid(False)
    return ax.imshow(seen.clamp_min(1e-5), norm="log", vmin=1e-5, vmax=0.3)


# %%
shown = (50, 300, 600, 900)
fig, axes = plt.subplots(1, len(shown), figsize=(8.5, 2.7))
for ax, t in zip(axes, shown):
    seen = influence_on("head", t)
    picture = show_influence(ax, seen)
    ax.set(xlabel="column")
    ax.set_title(f"t = {t}: {(seen * distance).sum():.1f} px", fontsize=10)
axes[0].set_ylabel("row")
fig.colorbar(picture, ax=axes, label="share of influence")
title = "At much noise this trained network looks further"
headline(fig, f"{title} (px: mean distance of the influence)")
plt.show()

# %% [markdown]
# The bright spot is the pixel itself with its nearest neighbours; around it lies the thin influence that
# reaches everywhere. Up to t = 600 little changes. At t = 900 no single pixel can be trusted, and this
# network gathers more of its evidence from far away. Nobody told it to. (It is one network, of one seed, after
# a short training; whether others do the same is not shown here.)
#
# ### Feature maps
# The same hooks give the feature maps. For each stage we draw the channel that varies most over the image.


# %%
def features(t, image=0):
    """Of one test image: x_t, the guess of x_0, and the output of every stage."""
    t, this = torch.tensor([t]), slice(image, image + 1)
    x_t = diffusion.q_sample(examples[this], t, example_noise[this])
    with torch.no_grad():
        guess = diffusion.to_x_0(trained(x_t, t), x_t, t)
    return x_t, guess, {row["name"]: row["output"][0] for row in record(trained, x_t, t)}


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


# %%
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
# ### Play
# Choose a stage and a timestep. You see the input, the guess of $x_0$, the busiest channels after that
# stage, and on the right which input pixels influence the middle of that stage.


# %%
def draw(stage="down.2", t=300, image=0):
    x_t, guess, maps = features(t, image)
    fig, axes = plt.subplots(1, 9, figsize=(10, 1.75))
    show_map(axes[0], x_t[0, 0], "x_t", cmap="gray")
    show_map(axes[1], guess[0, 0], "guess of x_0", cmap="gray")
    for k, picture in enumerate(busiest(maps[stage], 6)):
        show_map(axes[k + 2], picture, f"busy channel {k + 1}")
    show_influence(axes[8], influence_on(stage, t))
    axes[8].set_title("influence (log)", fontsize=8)
    axes[8].set(xticks=[], yticks=[])
    title = f"after {stage} ({shape(maps[stage][None])}) at t = {t}"
    fig.suptitle(title, x=0.01, ha="left", fontsize=10)
    return fig


for stage in ("down.0", "middle.0"):
    draw(stage, 300)
plt.show()

# %%
play(draw, stage=names, t=(0, 999, 50), image=(0, len(examples) - 1))

# %% [markdown]
# ## Exercises
#
# Each has hints, `hint("03.1")` (call it again for the next one), and an answer to compare with,
# `solution("03.1")`.
#
# **03.1 Unfold the stem.** `space_to_depth` folds pixels into channels. Write the way back with `reshape`
# and `permute` only, for any number of image channels and any patch size `r`.


# %%
def depth_to_space(x, r):
    """Undo the stem: (B, C*r*r, H, W) -> (B, C, H*r, W*r), by reshape and permute."""
    raise NotImplementedError


check("03.1", depth_to_space)

# %% [markdown]
# Stuck? `hint("03.1")`. To compare with another answer: `solution("03.1")`.
#
# **03.2 Count multiply-adds.** What section 7 read off an output, worked out beforehand from the sizes
# alone. Mind the stride and the padding.


# %%
def conv_multiply_adds(in_channels, out_channels, kernel, stride, padding, height, width):
    """Multiply-adds of a square convolution without bias on one height x width image."""
    raise NotImplementedError


check("03.2", conv_multiply_adds)

# %% [markdown]
# Stuck? `hint("03.2")`; `solution("03.2")`.
#
# **03.3 Receptive field.** The widths of section 12, without a gradient. For a chain of layers `(kernel,
# stride)`, first layer first: how many input pixels across does one output value see?


# %%
def receptive_field(layers):
    """Input pixels across that one output value sees; layers: list of (kernel, stride)."""
    raise NotImplementedError


check("03.3", receptive_field)

# %% [markdown]
# Stuck? `hint("03.3")`; `solution("03.3")`. The stem and the way down of our network are `[(2, 2), (3,
# 1), (3, 1), (3, 1), (3, 2), (3, 1), (3, 1)]`: does your function give the width that section 12 measured
# after `down.2`?
#
# **03.4 Account for every skip.** How many input channels does each block on the way up need? The
# course's `UNet` answers this with a list that it pushes to and pops from. The names are those of its
# arguments.


# %%
def up_widths(channels, multipliers, blocks):
    """in_channels of every residual block on the way up, in the order they run.

    Down: the stem's output is pushed (width `channels`); then each level pushes after each
    of its `blocks` blocks (width channels * multiplier), and again after its downsampling,
    which the last level has not and which keeps the width. Up: each level, last one first,
    has blocks + 1 blocks; each pops one skip. Upsampling gives the next level's width.
    """
    raise NotImplementedError


check("03.4", up_widths)

# %% [markdown]
# Stuck? `hint("03.4")`; `solution("03.4")`.
#
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $v_\theta$ | `model(x_t, t)` | the network, which is trained to output $v$ |
# | $v$ | `v` | $\sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$, the target |
# | $s(t), b(t)$ | `scale, shift` | two numbers per channel, from the timestep's vector |
# | $q, k, v$ in attention | `q, k, v` | query, key and value of each position |
# | $d$ | `head_dim` | length of a query or key |
# | $c$ | `channels` | width of the first level |
# | | `skips` | tensors pushed on the way down and popped on the way up |
#
# 1. A U-Net is residual blocks at several sizes, told the timestep by scale and shift, with attention
#    where the image is small and with skips that carry the detail across.
# 2. Hooks show what a network really does: its shapes, its costs, and whether every skip arrives. The
#    full-size skips mattered most here, and a network that loses them raises no error.
# 3. Start the output at zero, overfit one batch before a long run, and choose the memory layout and the
#    stem by measuring on the machine at hand.
#
# **Next:** [04 Training](04_training.ipynb) trains this network properly.
#
# **References**
# - Ronneberger, Fischer, Brox 2015, *U-Net*, [arXiv 1505.04597](https://arxiv.org/abs/1505.04597):
#   section 2, figure 1.
# - Ho, Jain, Abbeel 2020, *Denoising Diffusion Probabilistic Models*, [arXiv
#   2006.11239](https://arxiv.org/abs/2006.11239): appendix B, the network.
# - Nichol, Dhariwal 2021, *Improved DDPM*, [arXiv 2102.09672](https://arxiv.org/abs/2102.09672):
#   scale-shift conditioning.
# - Dhariwal, Nichol 2021, *Diffusion Models Beat GANs*, [arXiv
#   2105.05233](https://arxiv.org/abs/2105.05233): section 3, which parts of the network pay.
# - Salimans, Ho 2022, *Progressive Distillation*, [arXiv 2202.00512](https://arxiv.org/abs/2202.00512):
#   section 4, $v$.
# - Wu, He 2018, *Group Normalization*, [arXiv 1803.08494](https://arxiv.org/abs/1803.08494): section 3.
# - Vaswani et al. 2017, *Attention Is All You Need*, [arXiv
#   1706.03762](https://arxiv.org/abs/1706.03762): section 3.2.
# - Odena, Dumoulin, Olah 2016, *Deconvolution and Checkerboard Artifacts*,
#   [distill.pub](https://distill.pub/2016/deconv-checkerboard/).
# - Luo et al. 2016, *Understanding the Effective Receptive Field*, [arXiv
#   1701.04128](https://arxiv.org/abs/1701.04128).
