# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04 · Training
#
# {{badge}}
#
# ![Rows of pictures that one network makes from the same noise at several moments of its training: noise, blobs,
# silhouettes, clothes](../data/pictures/04.png)
#
# *What the model of section 4 draws after more and more seconds of training, from the same noise.*
#
# A network (notebook 03) and noisy images (notebook 01) become a trained model. We derive what is to be minimised; you
# write the training step and the average of the weights; then we train on Fashion-MNIST, and switch off one part of the
# recipe after the other.
#
# **At the end you have** a trained model, saved; its loss per timestep on images it never saw; image quality against
# training time; every term of the bound, measured; and a training that can be stopped and taken up again, to the same
# bits.
#
# **You need** Python, basic PyTorch (`backward`, an optimiser), mean and variance. Sampling is a black box here,
# `generate`; notebook 05 opens it.
#
# **Time:** about 3 minutes on two cores with bf16 instructions (the run shown), two to four times as long without. For
# you: 20 minutes of reading for the *core*, sections 1 to 7, and half an hour for your two pieces.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import copy
import math
import shutil
import signal
import statistics
import time
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from safetensors import safe_open
from torch.distributions import Normal, kl_divergence
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, plain_ticks, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.device import find_precision
from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, generate, load_images
from utils.diffusion.checkpoints import load_model, save_model
from utils.diffusion.metrics import ImageQuality
from utils.diffusion.training import batch_at, stream_seed, train, validation_loss

# %% [markdown]
# ## 1. The data · *core*
#
# **Fashion-MNIST** (Xiao et al. 2017): 28x28 grey pictures of clothes, ten classes, 60,000 to train on and 10,000 kept
# apart. They stay `uint8`, a quarter of float32's size; each batch becomes floats in [-1, 1] when it is needed.

# %%
data, held_out = load_images("fashion-mnist", "train"), load_images("fashion-mnist", "test")
mb = data.pixels.numel() / 1e6
print(f"{len(data):,} training images: {mb:.0f} MB as uint8, {4 * mb:.0f} MB as float32")
x_0, y = data[:256]  # as training sees them
print(f"x_0: shape {tuple(x_0.shape)}, from {x_0.min():.2f} to {x_0.max():.2f}, ", end="")
print(f"mean of the squares {x_0.square().mean():.2f}; y: {y[:5].tolist()} ...")
show_images(x_0[:24], columns=12, title="What the model is to learn to draw")

# %% [markdown]
# ## 2. From the bound to Algorithm 1 · *core*
#
# **Question:** the training images should be *likely* under the model. Why does that end in a squared error?
#
# The model makes an image by a chain. It draws $x_T$ from a standard normal $p(x_T)$. Then, for $t = T, \dots, 1$, it
# draws $x_{t-1}$ from a normal $p_\theta(x_{t-1} \mid x_t)$, whose mean comes from the network with weights $\theta$.
# (Here $t$ counts from 1, as in the paper; in code, from 0.) The probability of $x_0$ is the sum over all chains
# $x_{0:T}$ that end in it, $p_\theta(x_0) = \int p_\theta(x_{0:T})\,dx_{1:T}$. Nobody can compute that.
#
# **Step 1: only the chains that matter.** The forward process $q$ makes chains that belong to $x_0$. Take the mean over
# those, and divide by how often $q$ makes them:
#
# $$-\log p_\theta(x_0) = -\log \mathbb E_q \frac{p_\theta(x_{0:T})}{q(x_{1:T} \mid x_0)}
# \;\le\; \mathbb E_q\Big[-\log p(x_T)
# - \sum_{t \ge 1} \log \frac{p_\theta(x_{t-1} \mid x_t)}{q(x_t \mid x_{t-1})}\Big] = L
# \qquad\text{(Ho et al. 2020, eq. 3)}$$
#
# The minus logarithm of a mean is at most the mean of the minus logarithms (Jensen). So $L$ is a **bound**:
# $-\log p_\theta(x_0)$ lies below it, whatever the weights.
#
# **Step 2: both in the same direction.** $p_\theta$ goes from $x_t$ to $x_{t-1}$, $q$ the other way. Bayes' rule, with
# $x_0$ given, turns $q$ round:
#
# $$q(x_t \mid x_{t-1}) = q(x_{t-1} \mid x_t, x_0)\,\frac{q(x_t \mid x_0)}{q(x_{t-1} \mid x_0)}
# \qquad (t > 1)$$
#
# Both factors are known normals: $q(x_t \mid x_0)$ is notebook 01's mixture,
# $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ (eq. 4), and
# $q(x_{t-1} \mid x_t, x_0)$ the posterior, with mean $\tilde\mu_t(x_t, x_0)$ and variance $\tilde\beta_t$ (eq. 6, 7).
# Insert. In the sum the fractions cancel, against each other and against the first step's $q(x_1 \mid x_0)$; only
# $q(x_T \mid x_0)$ is left. A mean of $\log(q/p)$ under $q$ is a Kullback-Leibler divergence, KL, and so
#
# $$L = \mathbb E_q\Big[
# \underbrace{\mathrm{KL}\big(q(x_T \mid x_0)\,\|\,p(x_T)\big)}_{L_T}
# + \sum_{t>1} \underbrace{\mathrm{KL}\big(q(x_{t-1} \mid x_t, x_0)\,\|\,
# p_\theta(x_{t-1} \mid x_t)\big)}_{L_{t-1}}
# \;\underbrace{-\log p_\theta(x_0 \mid x_1)}_{L_0}\Big] \qquad\text{(eq. 5)}$$
#
# $L_T$ has nothing to train in it. $L_0$ is the last step, to pixels of 8 bits. Each of the others needs one $t$ only,
# so a training step may draw a single $t$ instead of walking the chain.
#
# **Step 3: two normals of the same variance.** Let $\hat x_0$ be what the network holds for $x_0$, and give $p_\theta$
# the mean $\tilde\mu_t(x_t, \hat x_0)$ and the variance $\tilde\beta_t$. Then the divergence is a squared distance of
# means. $x_0$ has in $\tilde\mu_t$ the weight $k = \sqrt{\bar\alpha_{t-1}}\,\beta_t/(1-\bar\alpha_t)$ (notebook 01), so
# the factor is
# $k^2/(2\tilde\beta_t) = \tfrac12\,\bar\alpha_{t-1}\beta_t \big/ \big((1-\bar\alpha_t)(1-\bar\alpha_{t-1})\big)$. With
# $\bar\alpha_{t-1}\beta_t = \bar\alpha_{t-1} - \bar\alpha_t$ and $\mathrm{SNR}_t = \bar\alpha_t/(1-\bar\alpha_t)$ that
# gives
#
# $$L_{t-1} = \mathbb E\,\frac{\lVert\tilde\mu_t(x_t, x_0) - \tilde\mu_t(x_t, \hat x_0)\rVert^2}{2\tilde\beta_t}
# = \tfrac12\big(\mathrm{SNR}_{t-1} - \mathrm{SNR}_t\big)\;\mathbb E\,\lVert x_0 - \hat x_0\rVert^2$$
#
# (eq. 8; Kingma et al. 2021, section 4). **The bound is a weighted squared error.** Section 6 measures all its terms.
#
# **The loss.** Ho et al. leave the weight out and let the network tell the noise (eq. 14); from it and $x_t$ follows
# $\hat x_0$. The course lets it tell $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$, from which
# $\hat x_0$ follows too (Salimans & Ho 2022; notebook 01). With a class label $y$:
#
# $$\mathbb E_{t,\,x_0,\,\epsilon}\,\lVert v - v_\theta(x_t, t, y)\rVert^2$$
#
# For one $x_t$ many $v$ are possible. The best single answer is their mean (notebook 00, section 3); their scatter
# around it stays. **The loss has a floor above 0, and nobody tells us where it is.**
#
# ### Your turn: 04.1
#
# Algorithm 1 of Ho et al. repeats one step. Write it, for a batch `x_0` (B, C, H, W) with labels `y` (B,):
#
# 1. Draw $t$ for *each* image, every one of $0 \dots T-1$ equally likely; draw noise; mix $x_t$ (eq. 4).
# 2. **Label dropout:** replace each label, by itself and with probability `label_dropout`, by `model.num_classes`,
#    which stands for "no label". So one network learns to draw with a label and without (Ho & Salimans 2022).
# 3. The loss is the mean of $(v_\theta - v)^2$ over images and pixels.
# 4. Move the weights: `zero_grad`, `backward`, `step`.
#
# `hint("04.1")` and `solution("04.1")` help. You may also go on: the next cell has the course's version, and uses yours
# instead if it is right.


# %%
def training_step(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    """One step on images x_0 (B, C, H, W) with labels y (B,). Returns the loss, a float.

    model: called as model(x_t, t, y). alphas_cumprod: (T,), float32. y stays as it is.
    """
    raise NotImplementedError


check("04.1", training_step)


# %%
def course_training_step(model, optimizer, x_0, y, alphas_cumprod, label_dropout=0.1):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))  # one for each image
    noise = torch.randn_like(x_0)
    alpha_bar = alphas_cumprod[t].view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t, v = signal * x_0 + sigma * noise, signal * noise - sigma * x_0
    hidden = torch.rand(len(y)) < label_dropout
    y = torch.where(hidden, model.num_classes, y)
    loss = (model(x_t, t, y) - v).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


training_step = choose("04.1", training_step, course_training_step)

# %% [markdown]
# The rest is a loop over a shuffled list of images. **Predict before you run:** a new U-Net outputs
# exactly 0, because its last layer starts at zero. What is its first loss, where $\mathbb E[x_0^2] \approx 0.68$
# (printed above) and $\bar\alpha_t$ is 0.5 on average?

# %%
T = 1000
alphas_cumprod = NoiseSchedule.cosine(T).alphas_cumprod  # (T,)
small_batch = course.pick(test=8, cpu=32, gpu=32)
few_steps = course.pick(test=12, cpu=100, gpu=100)
torch.manual_seed(0)
model = UNet(channels=16, num_classes=10)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
order = torch.randperm(len(data))  # one epoch
losses = []
for step in range(few_steps):
    x_0, y = data[order[step * small_batch : (step + 1) * small_batch]]
    losses.append(training_step(model, optimizer, x_0, y, alphas_cumprod.float()))
last = statistics.fmean(losses[-10:])
print(f"loss: {losses[0]:.2f} at first; mean of the last ten of {few_steps}: {last:.2f}")

# %% [markdown]
# $\mathbb E[v^2] = \bar\alpha_t + (1-\bar\alpha_t)\,\mathbb E[x_0^2]$, because $\epsilon$ and $x_0$ are independent:
# about $0.5 + 0.5 \cdot 0.68 = 0.84$, give or take what one batch scatters. **A first loss far from it means a bug
# before the first step**, often images in [0, 1] or uniform noise.
#
# **Check:** the loss in `utils`, from the same random numbers.

# %%
# NBVAL_CHECK_OUTPUT
diffusion = GaussianDiffusion(NoiseSchedule.cosine(T), prediction="v")
x_0, y = data[:64]
torch.manual_seed(1)
t, noise = torch.randint(T, (64,)), torch.randn_like(x_0)
with torch.no_grad():
    theirs = diffusion.loss(model, x_0, t, noise, torch.where(torch.rand(64) < 0.1, 10, y))
torch.manual_seed(1)  # the course's step draws in this order; another is as right
mine = course_training_step(model, optimizer, x_0, y, alphas_cumprod.float())
torch.testing.assert_close(torch.tensor(mine), theirs, rtol=1e-5, atol=0)
print("the loss of the training step equals diffusion.loss")

# %% [markdown]
# ## 3. What the recipe adds: five parts · *core*
#
# **1. More timesteps from the middle.** Near $T$ there is hardly an image to see, near 0 hardly any noise to remove. So
# three quarters of the timesteps are drawn in between, on a *logit-normal* law (Esser et al. 2024, section 3.1), and a
# quarter evenly: a sampler begins at $T$, so no timestep may be left out. ("The middle" leans towards the image: the
# density is highest at $0.16\,T$, and above the even one from $0.04\,T$ to $0.49\,T$.)
#
# $$t = \lfloor T u \rfloor, \qquad u = \frac{1}{1 + e^{1 - z}} \;\text{ with } z \sim \mathcal N(0, 1),
# \qquad\text{or } u \text{ uniform}$$
#
# **2. A learning rate that rises and falls.** With $k$ steps done of $K$, and $w$ steps of warm-up:
#
# $$\eta_k = \eta_{\text{peak}} \cdot \min\!\Big(1, \tfrac{k+1}{w}\Big) \cdot
# \tfrac12\Big(1 + \cos\frac{\pi k}{K}\Big)$$
#
# The optimiser, **Adam**, divides each gradient by a running estimate of its size, which in the first steps rests on
# very few gradients; warm-up keeps steps small meanwhile. The fall lets the weights settle: at a constant rate they
# keep jumping around a minimum.
#
# **3. Gradient clipping.** If the norm $g$ of the whole gradient is above a limit $c$, multiply the gradient by $c/g$.
# Its direction stays, and one bad batch cannot do much harm.
#
# **4. Steps as long in every direction: Muon** (Jordan et al. 2024). Adam treats each weight by itself. But the weights
# of a convolution are a *matrix*: one row per output channel, one column per weight that feeds it. Any matrix can be
# written as $G = U S V^\top$. The columns of $V$ are directions of the input, those of $U$ of the output, each of
# length 1 and at right angles to the others. $S$ is diagonal; its entries, the **singular values**, say how strongly
# $G$ joins one direction of the input to one of the output. In a layer's gradient a few are large and many small: a
# step along $G$ moves the layer mostly in a few directions. Muon steps along $U V^\top$: the same directions, all
# equally far.
#
# For that it need not compute $U$, $S$ and $V$. Begin with $X = G / \lVert G\rVert$; now no singular value exceeds 1. A
# polynomial of odd powers of $X$ keeps $U$ and $V$ and acts on each singular value $s$ by itself,
#
# $$X \leftarrow 3.4445\,X - 4.775\,(X X^\top) X + 2.0315\,(X X^\top)^2 X \quad\text{makes}\quad
# s \leftarrow 3.4445\,s - 4.775\,s^3 + 2.0315\,s^5,$$
#
# and after five rounds every $s$ that began between 0.002 and 1 lies between about 0.7 and 1.2.
#
# - **What $G$ is:** an average of the gradients over about 20 steps, looking one step ahead (*Nesterov*): the average
#   as it would be if the newest gradient came once more.
# - **How long a step is** does not depend on the gradient's size. It is scaled so that a matrix's entries change by
#   about 0.2 times the learning rate (root mean square), much as with Adam; so one rate serves both (Liu et al. 2025,
#   section 2.2).
# - **Adam keeps the rest:** the biases, the norms, the first and last layers, and the table of the classes.
#
# **Predict before you run:** the largest singular value of a layer's gradient over the median one: how much before, how
# much after?


# %%
def orthogonalize(matrix, rounds=5):
    """Nearly U V^T, where matrix = U S V^T; (rows, columns)."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)  # no singular value above 1
    for _ in range(rounds):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T


# %%
layer = model.down[0].block.conv1.weight  # of the network that section 2 trained
model.zero_grad()
diffusion.loss(model, x_0, y=y).backward()
gradient = layer.grad.flatten(1)
before, after = (torch.linalg.svdvals(g) for g in (gradient, orthogonalize(gradient)))
print(f"weights {tuple(layer.shape)}, as a matrix {tuple(gradient.shape)}")
ratios = [(values[0] / values.median()).item() for values in (before, after)]
print("largest over median: {:.1f} before, {:.1f} after".format(*ratios))

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(6, 2.8))
for values, label, colour in zip([before, after], ["gradient", "Muon's step"], COLOURS):
    axes.semilogy(values / values[0], "o-", ms=3, color=colour, label=label)
axes.set(xlabel="singular values, by size", ylabel="relative to the largest")
axes.set_title("The gradient has a few strong directions, Muon's step has many")
axes.legend()
plt.show()

# %% [markdown]
# **5. An exponential moving average (EMA) of the weights.** Beside the weights $\theta$ that are trained, keep an
# average $\bar\theta$ that is only used for sampling:
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta$$
#
# With decay $d$ it averages over about the last $1/(1-d)$ steps: 1000 for $d = 0.999$. After 700 steps it would still
# be half random start ($0.999^{700} = 0.50$). So the decay is warmed up: $d_k = \min\big(d, \tfrac{1+k}{10+k}\big)$.
# Then $1 - d_k = 9/(10+k)$: the average reaches back over about a ninth of the training so far.
#
# ### Your turn: 04.2
#
# Write one EMA step. `ema_model` and `model` are alike; their `parameters()` come in the same order. Change those of
# `ema_model` **in place**, without a gradient, and return it. (`hint("04.2")`, `solution("04.2")`.)


# %%
def ema_step(ema_model, model, decay):
    """In place: decay * average + (1 - decay) * weights. Returns ema_model.

    decay: a number from 0 to 1. `model` stays as it is.
    """
    raise NotImplementedError


check("04.2", ema_step)


# %%
@torch.no_grad()
def course_ema_step(ema_model, model, decay):
    for average, weight in zip(ema_model.parameters(), model.parameters()):
        average.lerp_(weight, 1 - decay)  # average + (1 - decay) * (weight - average)
    return ema_model


ema_step = choose("04.2", ema_step, course_ema_step)


# %%
def learning_rate(step, steps, peak=2e-3, warmup=100):
    """The learning rate of the step that follows `step` finished ones."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * (step / steps)))
    return peak * rise * fall


def decay_at(step, decay=0.999):
    """The EMA's decay in that step."""
    return min(decay, (1 + step) / (10 + step))


# %% tags=["figure"]
figure, (first, left, right) = plt.subplots(1, 3, figsize=(12, 3))
u = torch.linspace(0.001, 0.999, 999)
bell = Normal(-1, 1).log_prob(u.logit()).exp() / (u * (1 - u))
first.plot(u, 0.75 * bell + 0.25)
first.axhline(1, color="black", lw=0.8, ls="--", label="uniform")
first.set(xlabel="t / T", ylabel="density", ylim=(0, None))
first.set_title("More timesteps from the middle")
first.legend()
steps = range(1000)
left.plot(steps, [1e3 * learning_rate(k, 1000) for k in steps])
left.set(xlabel="step (of 1000)", ylabel="learning rate / 0.001")
left.set_title("Up in 100 steps, down along a cosine")
for k, colour in zip([100, 400, 1000], COLOURS):
    decays = torch.tensor([decay_at(step) for step in range(k)])
    # A step's weights enter with 1 - d and are multiplied by every later d.
    later = torch.cat([decays.flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])
    right.plot(range(k), (1 - decays) * later, color=colour, label=f"after {k} steps")
right.set(xlabel="step", ylabel="share in the average", ylim=(0, None))
right.set_title("The EMA forgets the beginning")
right.legend(loc="upper center")
plt.show()

# %% [markdown]
# **All of it together, and the same as `utils` to the last bit.** `train` in `utils` is a **generator**: it does one
# step, hands you its state, and goes on when you ask for the next. To get its very numbers, draw them as it does: from
# a generator for each step, seeded by the training's seed (here 0) and the number of the step.

# %%
recipe_steps = 30
warmup = recipe_steps // 10  # `train` never warms up over more than a tenth of the steps
shuffle = torch.Generator().manual_seed(stream_seed(0, "order", 0))
order = torch.randperm(len(data), generator=shuffle)


def draw(step):
    """Images, timesteps, noise, and labels with some of them hidden, of one step."""
    x_0, y = data[order[step * small_batch : (step + 1) * small_batch]]
    rng = torch.Generator().manual_seed(stream_seed(0, "step", step))
    choice, anywhere, chance = torch.rand(3, small_batch, generator=rng)
    middle = (torch.randn(small_batch, generator=rng) - 1).sigmoid()
    t = (T * torch.where(choice < 0.75, middle, anywhere)).long()
    noise = torch.randn(x_0.shape, generator=rng)
    return x_0, t, noise, torch.where(chance < 0.1, 10, y)


# %%
torch.manual_seed(0)
mine = UNet(channels=16, num_classes=10)
mine.to(memory_format=torch.channels_last)  # how `train` lays out weights on a CPU
my_ema = copy.deepcopy(mine)
ends = ("stem", "head", "class_embedding")
named = list(mine.named_parameters())
matrices = [w for name, w in named if w.ndim >= 2 and not name.startswith(ends)]
others = [w for name, w in named if w.ndim < 2 or name.startswith(ends)]
averages = [torch.zeros_like(w) for w in matrices]
adam = torch.optim.Adam(others)


def muon_step(rate):
    """Move every matrix along its averaged gradient made orthogonal, in place."""
    for weight, average in zip(matrices, averages):
        average.lerp_(weight.grad, 0.05)
        ahead = weight.grad.lerp(
            average, 0.95
        )  # the average if this gradient came once more
        update = orthogonalize(ahead.flatten(1))
        size = 0.2 * math.sqrt(max(update.shape))  # about as long as a step of Adam's
        weight.data.sub_(update.view_as(weight), alpha=size * rate)


# %%
losses_by_hand, rates_by_hand = [], []
for step in range(recipe_steps):
    loss = diffusion.loss(mine, *draw(step))
    mine.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
    rate = learning_rate(step, recipe_steps, warmup=warmup)
    adam.param_groups[0]["lr"] = rate
    adam.step()
    muon_step(rate)
    ema_step(my_ema, mine, decay_at(step))
    losses_by_hand.append(loss.item())
    rates_by_hand.append(rate)
first, last = losses_by_hand[0], losses_by_hand[-1]
print(f"loss: {first:.3f} at the first of {recipe_steps} steps, {last:.3f} at the last")

# %%
# NBVAL_CHECK_OUTPUT
plain = dict(precision="no", device="cpu", progress=False, batch_size=small_batch)
torch.manual_seed(0)
theirs, losses_of_train, rates = UNet(channels=16, num_classes=10), [], []
for state in train(theirs, diffusion, data, steps=recipe_steps, **plain):
    losses_of_train.append(state.loss)
    rates.append(state.learning_rate)


def equal(a, b):
    """True if two networks have the same weights, bit for bit."""
    return all(map(torch.equal, a.parameters(), b.parameters()))


assert rates_by_hand == rates and losses_by_hand == losses_of_train and equal(mine, theirs)
print(f"{recipe_steps} steps: learning rates, losses and weights agree, bit for bit")
for average, other in zip(my_ema.parameters(), state.ema_model.parameters()):
    torch.testing.assert_close(average, other)
print("averaged weights agree, up to rounding: an average can be written in several ways")

# %% [markdown]
# ## 4. Train · *core*
#
# Now for real, with a wider U-Net, for **about a minute** on two cores with bf16 instructions, two to four minutes
# without. To keep things simple it has no classes; `train` then leaves the labels out.
#
# **You can stop the kernel at any time** (the square button) and run the training cell again: it goes on where it was,
# because `train` saves its state in the folder `out` (section 9). The first of the cells below empties that folder, to
# begin anew. At a few moments we put copies of the weights aside, with the EMA and without.
#
# **Predict before you run:** after half of the steps, how much of the fall of the loss will be behind us?

# %%
total_steps = course.pick(test=24, cpu=704, gpu=6000)
batch_size = course.pick(test=16, cpu=64, gpu=128)
channels = course.pick(test=16, cpu=32, gpu=48)
moments = sorted({total_steps * k // 16 for k in [0, 1, 2, 4, 8, 12, 16]})
often = total_steps // 8
few = course.pick(test=32, cpu=128, gpu=256)  # held-out images, always the same ones

out = course.build / "notebook04" / "main"
shutil.rmtree(out, ignore_errors=True)  # begin anew
torch.manual_seed(0)
model = UNet(channels=channels)
size = sum(p.numel() for p in model.parameters())
print(f"U-Net of {size:,} weights, {total_steps} steps of {batch_size} images")
print(f"snapshots after steps {moments}")

# %%
history = {}  # step -> (batch loss, one weight, the same weight in the EMA)
validation_curve = {}  # step -> validation loss of the EMA
snapshots = {}  # step -> (seconds, weights, weights of the EMA)


def keep_snapshot(step, seconds, *networks):
    weights = [copy.deepcopy(network.state_dict()) for network in networks]
    snapshots[step] = (seconds, *weights)


keep_snapshot(0, 0.0, model, model)


# %%
def draw_curve(axes, title):
    """The loss curve so far."""
    steps = sorted(history)
    losses = torch.tensor([history[k][0] for k in steps])
    window = min(25, len(losses))
    means = losses.unfold(0, window, 1).mean(1)
    middles = steps[window // 2 :][: len(means)]
    axes.clear()
    axes.plot(steps, losses, color=COLOURS[5], lw=0.7, label="one batch")
    axes.plot(middles, means, color=COLOURS[0], label="mean of 25")
    dots = dict(ls="", marker="o", color=COLOURS[1], label="validation, EMA")
    axes.plot(list(validation_curve), list(validation_curve.values()), **dots)
    axes.set(xlabel="step", ylabel="loss (target v)", ylim=(0, 0.9), title=title)
    axes.legend(loc="upper right", ncols=3)


# %%
plan = dict(steps=total_steps, batch_size=batch_size, device=course.device)
plan |= dict(validation=held_out[:few][0], validate_every=often, out=out, save_every=often)
figure, axes = plt.subplots(figsize=(8, 3.2))
plt.close(figure)  # else the notebook shows it a second time when the cell ends
page, drawn_at = display(figure, display_id=True), time.perf_counter()
for state in train(model, diffusion, data, **plan):
    networks = state.model, state.ema_model
    weights = [network.head[-1].weight[0, 0, 1, 1].item() for network in networks]
    history[state.step] = (state.loss, *weights)
    if state.step % often == 0:
        validation_curve[state.step] = state.validation_loss
    if state.step in moments:
        keep_snapshot(state.step, state.seconds, *networks)
    if time.perf_counter() - drawn_at > 4:
        draw_curve(axes, f"step {state.step}")
        page.update(figure)
        drawn_at = time.perf_counter()

# %%
middle = [k for k in history if abs(k - total_steps // 2) <= total_steps // 16]
late = [k for k in history if k > total_steps * 15 // 16]
begin, half, end = (
    statistics.fmean(history[k][0] for k in part) for part in ([1], middle, late)
)
share = (begin - half) / (begin - end)
finding = f"{share:.0%} of the fall of the loss comes in the first half of the training"
draw_curve(axes, finding)
page.update(figure)

minutes, passes = state.seconds / 60, total_steps * batch_size / len(data)
fall = f"{begin:.3f} -> {half:.3f} -> {end:.3f}"
print(f"{state.step} steps in {minutes:.1f} minutes: loss {fall}")
print(f"validation loss at the end: {state.validation_loss:.3f}")
print(f"each training image was seen {passes:.1f} times")

# %% [markdown]
# Nearly all of the fall comes early; after that the curve looks flat. Is the rest of the training wasted?
#
# (The validation loss is measured on fixed images and evenly spread timesteps, by the averaged weights; a batch has
# more timesteps from the middle. So compare its dots with each other only.)

# %% tags=["picture"]
count = course.pick(test=40, cpu=300, gpu=2000)
sampling = dict(sampler="dpmpp_2m", steps=course.pick(test=4, cpu=10, gpu=20), seed=0)
probe = UNet(channels=channels).to(course.device).eval()


def images_from(weights, count=count):
    """Images that a network with these weights draws, from the same noise at every call."""
    probe.load_state_dict(weights)
    return generate(probe, diffusion, count, **sampling)


drawn = {step: images_from(ema) for step, (_, _, ema) in snapshots.items()}
shown = torch.cat([images[:10] for images in drawn.values()])
titles = []
for seconds, _, _ in snapshots.values():
    titles += [f"{seconds:.0f} s"] + [""] * 9
finding = "The same noise, after more and more training"
show_images(shown, titles=titles, columns=10, scale=2, title=finding)

# %% [markdown]
# Downwards: noise, blobs, silhouettes, then clothes, most of which you can name.
#
# ## 5. A number for the images · *core*
#
# **Question:** the loss looks flat; how good are the images, in a number?
#
# A small classifier, trained on real Fashion-MNIST, turns each image into 64 features. The **Frechet distance** (FD;
# Heusel et al. 2017) fits one Gaussian to the features of real images (mean $m_r$, covariance $C_r$) and one to those
# of generated images ($m_g$, $C_g$):
#
# $$\mathrm{FD} = \lVert m_r - m_g\rVert^2 + \mathrm{tr}\big(C_r + C_g - 2\,(C_r C_g)^{1/2}\big)$$
#
# 0 is perfect, but few images do not get 0 even when they are *real*. So as many real, held-out images are measured as
# well: the **floor**. FD is only comparable with the same features and the same number of images.
#
# **How sure is it?** Other noise would give another FD. To estimate how far off, leave out a twentieth of the images at
# a time and see how the distance moves (the *jackknife*); for a difference of two distances, leave out the same noises
# in both. It says nothing about another *training*.
#
# **Predict before you run:** from half of the training to its end the loss hardly moves. What does FD do?

# %%
quality = ImageQuality.load()
floor = quality.floor(count)[0]  # of ten random sets of real images


def frechet(images):
    """(21,): Frechet distance to the training set; then with each twentieth left out."""
    features, group = quality.features(images), torch.arange(len(images)) % 20
    kept = [features, *(features[group != k] for k in range(20))]
    return np.array([quality.frechet(part) for part in kept])


def with_error(distances):
    """The distance, or difference of distances, and its standard error."""
    left_out = distances[1:]
    return distances[0], (19 / 20 * ((left_out - left_out.mean()) ** 2).sum()) ** 0.5


# %%
def text(distances):
    return "{:.1f} ± {:.1f}".format(*with_error(distances))


fd_ema = {step: frechet(images) for step, images in drawn.items()}
distances = pd.DataFrame(index=pd.Index(snapshots, name="step"))
distances["seconds"] = [round(seconds) for seconds, _, _ in snapshots.values()]
distances["FD ± standard error"] = [text(fd) for fd in fd_ema.values()]
distances

# %%
path = course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
longer, its_diffusion = load_model(path, course.device)  # it knows classes
classes = torch.randint(10, (count,), generator=torch.Generator().manual_seed(0))
images = generate(longer, its_diffusion, count, y=classes, **sampling)
fd_longer = frechet(images)
half_step = min(snapshots, key=lambda step: abs(step - total_steps // 2))
print(f"{count} images each")
print(f"real images: {floor.mean():.1f}, ± {floor.std():.1f} from one set to the next")
print(f"the course's trained model: {text(fd_longer)}")
print(f"the second half lowers FD by {text(fd_ema[half_step] - fd_ema[total_steps])}")

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(8, 3.4))
minutes = [seconds / 60 for seconds, _, _ in snapshots.values()]
values, errors = np.array([with_error(fd) for fd in fd_ema.values()]).T
label = "this training, EMA (one run); bars: ± 2 standard errors"
axes.errorbar(minutes, values, 2 * errors, fmt="o-", capsize=2, label=label)
axes.set_yscale("log")
axes.axhline(floor.mean(), color="black", ls=":", label=f"{count} real images")
axes.axhline(fd_longer[0], color=COLOURS[1], ls="--", label="the course's trained model")
axes.set(xlabel="minutes of training on this machine", ylabel="Frechet distance")
ratio = fd_ema[half_step][0] / fd_ema[total_steps][0]
axes.set_title(f"FD falls by a factor of {ratio:.1f} in the second half of the training")
plain_ticks(axes)
axes.legend(loc="center left")
plt.show()

# %% [markdown]
# The second half was not wasted: the images get better, by many standard errors. The dashed line is what 20,000 steps
# with the same recipe reached, in 64 minutes on one core with bf16 instructions, with a network more than twice as
# large that is told the class (see its model card).
#
# ## 6. Why the loss number says so little · *core*
#
# **Question:** where does the loss hide what we see?
#
# **First: it is an average over timesteps that differ a lot.** `validation_loss` gives the loss at ten timesteps, on
# the same images and noise at every call, so two calls differ by the network only. **Predict before you run:** is the
# loss highest where $x_t$ is nearly clean, nearly noise, or in the middle?

# %%
points = 10
centres = [int((k + 0.5) * T / points) for k in range(points)]
by_points = partial(validation_loss, points=points)


def losses_by_t(weights, images):
    """The loss at ten timesteps, (10,), of a network with these weights."""
    probe.load_state_dict(weights)
    return by_points(probe, diffusion, images, count=few)


by_t = {step: losses_by_t(ema, held_out) for step, (_, _, ema) in snapshots.items()}
mean_loss = {step: losses.mean().item() for step, losses in by_t.items()}

# %%
first_steps = range(math.ceil(few / batch_size))  # of the training above
trained_on = torch.cat([batch_at(data, step, batch_size, 0)[0] for step in first_steps])
rows = {}
for name, images in {"held out": held_out[:few][0], "training": trained_on[:few]}.items():
    at_t = losses_by_t(snapshots[total_steps][2], images)
    groups = [by_points(probe, diffusion, part).mean() for part in images.split(16)]
    error = torch.stack(groups).std() / len(groups) ** 0.5
    rows[name] = [*(f"{loss:.3f}" for loss in at_t), f"{at_t.mean():.4f} ± {error:.4f}"]
print(f"loss at t and its mean ± standard error, {few} images each")
columns = [*(f"t = {t}" for t in centres), "mean"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
shades = plt.get_cmap("viridis")(torch.linspace(0.9, 0.0, len(by_t)).numpy())
for (step, losses), shade in zip(by_t.items(), shades):
    left.plot(centres, losses, "o-", ms=3, color=shade, label=f"step {step}")
left.set(xlabel="t", ylabel="loss (target v)", ylim=(0, 1.4))
left.set_title("The loss is high at both ends")
left.legend(fontsize=7, ncols=4, loc="upper center")
a_bar, final = alphas_cumprod[centres].float(), by_t[total_steps]
measures = {"v": final, "noise": a_bar * final, "x_0": (1 - a_bar) * final}
for (name, losses), marker in zip(measures.items(), "os^"):
    right.plot(centres, losses, f"{marker}-", label=f"{name}: mean {losses.mean():.3f}")
right.set(xlabel="t", title="One network, three losses", ylim=(0, None))
right.legend(fontsize=8, title="error measured in")
plt.show()

# %% [markdown]
# Why at **both ends**? Nearly clean images: $v \approx \epsilon$, and so little noise is hard to tell from texture.
# Nearly pure noise: $v \approx -x_0$, and which image it will become is not decided yet.
#
# **Held-out and training images:** as long as each image was seen only a few times, no difference beyond the standard
# errors is to be expected; in a long training, a gap would say that the network fits these images and not the rest.
#
# **Second: the number depends on how you ask** (right panel). With $\delta$ for an error,
# $\lVert\delta\epsilon\rVert^2 = \bar\alpha_t\lVert\delta v\rVert^2$ and
# $\lVert\delta x_0\rVert^2 = (1-\bar\alpha_t)\lVert\delta v\rVert^2$. So losses of models with different targets or
# schedules cannot be compared. Verified with the answers themselves:

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
probe.load_state_dict(snapshots[total_steps][2])
x_0 = held_out[:32][0].to(course.device)
t = torch.randint(1, T, (32,), device=course.device)
noise = torch.randn_like(x_0)
x_t = diffusion.q_sample(x_0, t, noise)
with torch.no_grad():
    v = probe(x_t, t)


def error(answer, truth):
    return (answer - truth).square().flatten(1).mean(1)


error_v = error(v, diffusion.target(x_0, noise, t))
error_noise = error(diffusion.to_noise(v, x_t, t), noise)
error_x_0 = error(diffusion.to_x_0(v, x_t, t), x_0)
share = alphas_cumprod.float().to(course.device)[t]
torch.testing.assert_close(error_noise, share * error_v, rtol=1e-3, atol=1e-5)
torch.testing.assert_close(error_x_0, (1 - share) * error_v, rtol=1e-3, atol=1e-5)
print("error in the noise = alpha-bar * error in v")
print("error in x_0 = (1 - alpha-bar) * error in v")

# %% [markdown]
# **Third: chance.** A batch draws its images and timesteps at random, so its loss scatters although the network stands
# still. **Predict before you run:** is that scatter smaller or larger than the whole improvement of the second half of
# the training?

# %%
torch.manual_seed(0)
many = course.pick(test=64, cpu=1024, gpu=4096)
probe.load_state_dict(snapshots[half_step][2])
parts = []
with torch.no_grad():
    for index in torch.arange(many).split(64):
        x_0, _ = held_out[index % len(held_out)]  # a small set is gone through again
        losses = diffusion.loss(probe, x_0.to(course.device), reduction="none")
        parts.append(losses.cpu())  # t and noise were drawn inside
scatter = torch.cat(parts).std() / batch_size**0.5
halfway, finished = mean_loss[half_step], mean_loss[total_steps]
print(f"a batch of {batch_size} scatters by {scatter:.4f} (standard deviation)")
print(
    f"second half of the training: validation loss down by {halfway - finished:.4f}", end=""
)
print(f", {(halfway - finished) / scatter:.1f} times that")
print(f"as a factor: validation loss {halfway / finished:.2f}, FD {ratio:.2f}")

# %% [markdown]
# One batch scatters by more, so two single batches do not show the gain; the fixed images and noise of the validation
# loss do.
#
# **Fourth: it is not the bound.** Training leaves out the weight of section 2, step 3. First the bound's formula
# against the divergence of the two normals as PyTorch computes it. (Code counts $t$ from 0. So the divergence at its
# $t$ is $L_t$, $t = 1 \dots T-1$.)

# %%
# NBVAL_CHECK_OUTPUT
snr = diffusion.schedule.snr
snr_step = snr[:-1] - snr[1:]  # SNR_{t-1} - SNR_t, for t = 1 ... T-1
guess = diffusion.to_x_0(v, x_t, t)  # v at x_t: of the cell that verified the errors
clean = held_out[:32][0].to(course.device)
by_formula = 0.5 * snr_step.to(clean)[t - 1] * (guess - clean).square().flatten(1).sum(1)


def posterior(image):
    """q(x_{t-1} | x_t, image), as PyTorch's normal distribution."""
    mean, variance = diffusion.q_posterior(image, x_t, t)
    return Normal(mean, variance.sqrt().expand_as(mean))


divergence = kl_divergence(posterior(clean), posterior(guess)).flatten(1).sum(1)
torch.testing.assert_close(by_formula, divergence, rtol=2e-3, atol=1e-3)
print("L_t by the formula equals the divergence, for 32 images at random t")

# %% [markdown]
# **Predict before you run:** $\mathrm{SNR}_t$ is huge at small $t$ and falls steeply. Where does the bound get most of
# its size from, and where the loss?

# %%
probed = torch.logspace(0, math.log10(T - 1), 24).round().long().unique()
x_0 = held_out[:few][0].to(course.device)
noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).to(course.device)
probe.load_state_dict(snapshots[total_steps][2])
errors = []
with torch.no_grad():
    for t in probed.to(course.device):
        errors.append(diffusion.loss(probe, x_0, t.expand(len(x_0)), noise).item())
every_t = np.arange(1, T)
error_v = np.interp(np.log(every_t), probed.log(), errors)
# What the bound multiplies the squared error in v with, per dimension
weight = 0.5 * (snr_step * (1 - alphas_cumprod[1:])).numpy()

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(8, 3.2))
sums = {"loss, target v": (error_v, "-"), "bound, L_1 to L_(T-1)": (weight * error_v, "--")}
for name, (values, style) in sums.items():
    share = 100 * values.cumsum() / values.sum()
    label = f"{name}: half of it lies below t = {every_t[share >= 50][0]}"
    axes.semilogx(every_t, share, style, label=label)
axes.set(xlabel="t (log axis)", ylabel="% of the sum, up to t")
axes.set_title("The bound is made where there is little noise")
axes.legend()
plt.show()

# %% [markdown]
# Now the two ends. $L_T$ compares $q(x_T \mid x_0)$ with a standard normal. In the last step the posterior's variance
# is 0; there the sampler takes the noise's own, $1-\bar\alpha$, and $L_0$ counts how much of that normal lies in the
# bin of the right 8-bit value (Ho et al. 2020, eq. 13).

# %%
t = torch.zeros(len(x_0), dtype=torch.long, device=course.device)
x_t = diffusion.q_sample(x_0, t, noise)
with torch.no_grad():
    guess = diffusion.to_x_0(probe(x_t, t), x_t, t).double().cpu()
clean = x_0.double().cpu()
last, pixel = alphas_cumprod[-1], Normal(guess, (1 - alphas_cumprod[0]) ** 0.5)
prior = kl_divergence(Normal(last**0.5 * clean, (1 - last) ** 0.5), Normal(0.0, 1.0))
# The first and the last bin reach out to infinity.
upper = torch.where(clean > 0.999, 1.0, pixel.cdf(clean + 1 / 255))
lower = torch.where(clean < -0.999, 0.0, pixel.cdf(clean - 1 / 255))
nats = {"L_T: the noise at the end": prior.mean().item()}
nats["L_1 + ... + L_(T-1)"] = (weight * error_v).sum()
nats["L_0: to 8-bit pixels"] = -(upper - lower).clamp(min=1e-12).log().mean().item()
nats["L: the bound"] = sum(nats.values())
pd.DataFrame({"bits per dimension": pd.Series(nats) / math.log(2)}).round(4)

# %% [markdown]
# $L_T$ is 0 to all digits shown. The bound counts errors in the finest details; the loss spreads its attention over all
# timesteps. On CIFAR-10 the bound's weights gave Ho et al. the better bound, 3.70 against 3.75 bits, and the worse
# images: an FID of 13.51 against 3.17 (Table 1, fixed variance; FID is the Frechet distance on the features of a large
# network, Inception).
#
# So: **watch the validation loss for trouble** (NaN, a rise, a gap to training images at the same timesteps), compare
# it between two settings only with the same target, schedule, images, timesteps and noise, and **judge quality by
# samples**.
#
# ## 7. EMA on and off · *core*
#
# **Question:** what does the moving average of the weights buy? Both sets of weights come from the same run; sample
# with either, from the same noise. **Predict before you run:** where will the difference be larger, in the middle of
# the training or at its end, where the learning rate goes to 0?

# %%
raw_drawn = {step: images_from(raw) for step, (_, raw, _) in snapshots.items()}
fd_raw = {step: frechet(images) for step, images in raw_drawn.items()}
distances = pd.DataFrame(index=pd.Index(list(snapshots)[1:], name="step"))
distances["FD without EMA"] = [fd_raw[k][0].round(1) for k in distances.index]
distances["FD with EMA"] = [fd_ema[k][0].round(1) for k in distances.index]
gains = {k: fd_raw[k] - fd_ema[k] for k in distances.index}
distances["without - with, ± standard error"] = [text(gain) for gain in gains.values()]
distances

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3))
done = sorted(history)
for k, (label, colour) in enumerate([("the weight", COLOURS[1]), ("its EMA", COLOURS[0])]):
    values = [history[step][1 + k] for step in done]
    left.plot(done, values, color=colour, lw=0.8 + 0.8 * k, label=label)
left.set(xlabel="step", ylabel="one weight of the last layer")
left.set_title("The average lags while the weight moves")
left.legend()
values, errors = np.array([with_error(gain) for gain in gains.values()]).T
right.errorbar(list(gains), values, 2 * errors, fmt="o-", capsize=2)
right.axhline(0, color="black", lw=0.8)
right.set(xlabel="step", ylabel="FD without EMA - FD with")
right.set_title("Above 0 the EMA helps; bars: ± 2 standard errors")
plt.show()

# %% [markdown]
# **Early the EMA makes a difference, at the end none.** At step 44 the network learns so fast that the lag of the
# average (left) raises FD by a ninth. At steps 88 and 176 the rate is high, there is jitter to average away, and FD is
# lower with the EMA, by a tenth and almost a quarter. At the end the rate is near 0, hardly any jitter is left, and the
# two are equal. (This is one training; in another the signs on the way may differ.)
#
# The EMA's place is a long training at a rate that stays high: there each batch pulls the weights elsewhere, and the
# average stays near the middle. Of the DDPM authors' own CIFAR-10 weights the averaged ones have an FID of 3.21 and the
# plain ones of 12.14 (50,000 samples against the training set, measured in
# [zeqiang-lai/ddpmx](https://github.com/zeqiang-lai/ddpmx)).
#
# ## 8. Each part switched off · *further*
#
# **Question:** what does each part of the recipe buy, by itself?
#
# Short trainings of a small network: everything on, then one part missing, from the same start and with the same
# batches, two seeds each. Two pairs ask what a part is *for*: warm-up, at five times the learning rate; clipping, when
# in the middle one single gradient is 1000 times too large. After so few steps samples are blobs, so the measure is the
# validation loss. It takes **about a minute**. **Predict before you run:** which missing part hurts most?

# %%
short_steps = course.pick(test=10, cpu=100, gpu=400)
short_batch = course.pick(test=8, cpu=32, gpu=64)
recipe = dict(learning_rate=2e-3, warmup=100, decay=True, max_gradient_norm=1.0)
recipe |= dict(steps=short_steps, batch_size=short_batch, device=course.device)


def measure(network):
    return validation_loss(network, diffusion, held_out, count=few).mean().item()


# %%
def short_run(seed, spike=False, **changes):
    """One short training: its losses, and the validation loss without EMA and with it.

    spike: one gradient in the middle is 1000 times too large.
    """
    torch.manual_seed(seed)
    model = UNet(channels=16)
    losses, hooks = [], []
    how = dict(seed=seed, progress=False) | recipe | changes
    for state in train(model, diffusion, data, **how):
        losses.append(state.loss)
        while hooks:
            hooks.pop().remove()
        if spike and state.step == short_steps // 2:  # only the next step's gradient
            for weight in model.parameters():
                hooks.append(weight.register_hook(lambda gradient: 1000 * gradient))
    return losses, [measure(network) for network in (model, state.ema_model)]


# %%
changes = {
    "everything on": {},
    "no warm-up": dict(warmup=0),
    "no decay": dict(decay=False),
    "no clipping": dict(max_gradient_norm=None),
    "no Muon": dict(muon=False),
    "uniform timesteps": dict(middle=0),
    "5x rate": dict(learning_rate=1e-2),
    "5x rate, no warm-up": dict(learning_rate=1e-2, warmup=0),
    "spike": dict(spike=True),
    "spike, no clipping": dict(spike=True, max_gradient_norm=None),
}
seeds = course.pick(test=[0], cpu=[0, 1], gpu=[0, 1, 2])
runs = {name: [] for name in changes}
every_run = [(name, seed) for name in changes for seed in seeds]
for name, seed in tqdm(every_run, desc="short trainings"):
    runs[name].append(short_run(seed, **changes[name]))

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
for kind, label in enumerate(["without EMA", "with EMA"]):
    marks = [
        (pair[kind], k + 0.24 * kind - 0.12)
        for k, name in enumerate(runs)
        for _, pair in runs[name]
    ]
    left.plot(*zip(*marks), "so"[kind], color=COLOURS[1 - kind], label=label)
left.set_yticks(range(len(runs)), list(runs))
left.invert_yaxis()
left.set(xlabel="validation loss", title="One part missing; each mark is one seed")
left.legend(loc="upper right")
window = min(10, short_steps)
looks = {"spike, no clipping": "C1-", "spike": "C0-", "everything on": "k--"}
for name, look in looks.items():
    for k, (losses, _) in enumerate(runs[name]):
        means = torch.tensor(losses).unfold(0, window, 1).mean(1)
        label = name if k == 0 else None
        right.plot(range(window, short_steps + 1), means, look, label=label)
right.set(xlabel="step", ylabel=f"loss, mean of {window} batches")
right.set_ylim(bottom=0)  # room for the legend
right.set_title("One wild gradient, with and without clipping")
right.legend(loc="lower left")
plt.show()

# %% [markdown]
# Where marks of two rows mix (left), this measurement does not tell. (In the row of uniform timesteps the marks of the
# two seeds coincide.)
#
# - **The full recipe loses here**, to itself without decay, and at five times the rate. It is made for thousands of
#   steps; after a hundred, what counts is how far the weights have come, and decay and a small rate hold them back.
#   Never choose settings in runs much shorter than the one you mean to make.
# - **Muon and the timesteps from the middle** make no difference that this measurement shows.
# - **Clipping is an insurance.** On ordinary gradients it changes next to nothing. With one wild gradient (right) the
#   clipped training goes on as if nothing had happened; without clipping the loss climbs and stays far above the
#   others.
# - **Warm-up** makes no difference that this measurement shows, at either rate.
#
# What the parts do for *images*, in trainings of equal time, stands in `data/results.md`, "The speedrun: what was
# tried". From seed to seed FD differs there by 0.7 to 1.0. The whole recipe gains far more. A batch of 64 in place of
# 128 and Muon gain two to three times that (one seed of the line that each is compared with). The timesteps from the
# middle gain 1.0 ± 0.7 at twice the rate that `train` keeps; at that rate they are not told apart from even ones (-0.7
# ± 1.8; three seeds each).
#
# Why does *one* gradient do lasting harm? Muon's average points along it for more than 50 steps, and the length of
# Muon's steps does not depend on the average's size. Adam's average of the *squared* gradients, over about 1000 steps,
# becomes huge, and Adam divides by its root: soon its steps are too small to come back.
#
# **bf16.** *Mixed precision* runs convolutions and matrix products in a 16-bit format and keeps weights, EMA and
# optimiser in float32 (`train` computes the products inside `orthogonalize` in bf16, too). bf16 has only 8 binary
# digits, no number between 1 and 1.0078; so an average kept in it stands still:

# %%
# NBVAL_CHECK_OUTPUT
averages = {}
for dtype in [torch.float32, torch.bfloat16]:
    average, weight = torch.tensor(1.0, dtype=dtype), torch.tensor(2.0, dtype=dtype)
    for _ in range(1000):
        average = average + (weight - average) * 0.001
    averages[str(dtype)[6:]] = round(average.item(), 3)
pd.DataFrame({"EMA of a weight of 2, from 1, after 1000 steps": averages})

# %% [markdown]
# Is bf16 faster? That depends on the machine's instructions:

# %%
timing = dict(
    steps=course.pick(test=3, cpu=8, gpu=50), batch_size=batch_size, progress=False
)
formats = {"cuda": ["no", "bf16", "fp16"], "cpu": ["no", "bf16"]}
times, losses = {}, {}
for precision in formats.get(course.device.type, ["no"]):
    torch.manual_seed(0)
    model = UNet(channels=channels)
    times[precision], losses[precision], began = [], [], time.perf_counter()
    how = dict(precision=precision, device=course.device, **timing)
    for state in train(model, diffusion, data, **how):
        times[precision].append(time.perf_counter() - began)
        losses[precision].append(state.loss)
        began = time.perf_counter()
seconds = {precision: statistics.median(values[1:]) for precision, values in times.items()}
rows = [(f"{seconds[p]:.3f}", f"{losses[p][-1]:.4f}") for p in losses]
names = [precision.replace("no", "fp32") for precision in losses]
pd.DataFrame(rows, index=names, columns=["seconds a step", "last loss"])

# %%
if "bf16" in seconds:
    ratio = seconds["no"] / seconds["bf16"]
    gap = max(abs(a - b) for a, b in zip(losses["no"], losses["bf16"]))
    verdict = "faster" if ratio > 1 else "slower"
    print(f"on this machine bf16 is {max(ratio, 1 / ratio):.1f} times {verdict}")
    print(f"the losses differ by at most {gap:.4f}")
print(f"the course would choose: {find_precision(course.device).replace('no', 'fp32')}")

# %% [markdown]
# (A difference of 0.0000 is one below 0.00005: over so few steps the rounding of bf16 moves the loss by no more.) fp16
# has less range than either. If you meet NaN there: `precision="no"`, or bf16.
#
# ## 9. Stop in the middle, and go on · *further*
#
# **Question:** what must be saved so that a stopped training goes on as if nothing had happened?
#
# More than the weights: the EMA, **the running averages of Muon and Adam**, and the number of steps. From that number
# follow the learning rate, the order of the images, and the random numbers (section 3). `train` saves all of it in
# `out/checkpoint.pt`, every `save_every` steps and when you leave the loop or interrupt it.
#
# The test: one small training is never stopped; the other is stopped twice, by leaving the loop and by the stop button
# *in the middle of step 18* (its signal, SIGINT). **Predict before you run:** the state is saved every 5 steps. At
# which step does each resume begin?

# %%
folder = course.build / "notebook04" / "resume"
small = dict(steps=24, batch_size=16, precision="no", device="cpu", progress=False)
saved = dict(out=folder, save_every=5, **small)
pictures = data[:512][0]  # any tensor of images will do


def new_network():
    torch.manual_seed(0)
    return UNet(channels=16)


never_stopped = new_network()
*_, state = train(never_stopped, diffusion, pictures, **small)
ema_never_stopped = state.ema_model

shutil.rmtree(folder, ignore_errors=True)
for state in train(new_network(), diffusion, pictures, **saved):
    if state.step == 9:
        break
files = ", ".join(path.name for path in folder.iterdir())
print(f"1. left the loop after step {state.step}; in the folder: {files}")

# %%
model = new_network()  # as after a restart of the kernel: everything comes from the file
calls = []


def press_stop(*_):
    calls.append(1)
    if len(calls) == 9:
        signal.raise_signal(signal.SIGINT)


button = model.register_forward_hook(press_stop)
try:
    for state in train(model, diffusion, pictures, **saved):
        if not calls:
            print(f"2. resumed at step {state.step}")
except KeyboardInterrupt:
    print(f"   stopped inside step {state.step + 1}")
button.remove()

# %%
# NBVAL_CHECK_OUTPUT
model = new_network()
steps_seen = [state.step for state in train(model, diffusion, pictures, **saved)]
print(f"3. resumed at step {steps_seen[0]}, finished at step {steps_seen[-1]}")
resumed_ema, _ = load_model(folder / "model.safetensors")
assert equal(model, never_stopped) and equal(resumed_ema, ema_never_stopped)
print("twice stopped or never stopped: all weights and averaged weights equal, bit for bit")

# %% [markdown]
# Leaving the loop saves at once, so that resume starts at step 9. Step 18, cut off, is done again, with the same batch
# and noise. (Bit for bit holds on a CPU with the same number of threads; a GPU may add numbers in another order.)
#
# ## 10. Save the model · *further*
#
# For sampling, only the averaged weights are needed, as **safetensors**: tensors and a text header. A file made with
# `pickle` (what `torch.save` writes) can run code when it is loaded; a safetensors file cannot. Half the size is
# enough:

# %%
seconds, _, ema = snapshots[total_steps]
probe.load_state_dict(ema)
path = course.build / "notebook04" / "model-fp16.safetensors"
notes = dict(steps=total_steps, seconds=round(seconds))
save_model(path, probe, diffusion, dtype=torch.float16, **notes)
with safe_open(path, framework="pt") as file:
    header = file.metadata()
names = ["schedule", "prediction", "unet", "notes"]
print("header: " + ", ".join(f"{name} {header[name]}" for name in names))
files = [out / "checkpoint.pt", out / "model.safetensors", path]
rows = {f.relative_to(course.root).as_posix(): f.stat().st_size / 1e6 for f in files}
pd.DataFrame({"MB": rows}).round(1)

# %%
restored, its_diffusion = load_model(path, course.device)
images = generate(restored, its_diffusion, count, **sampling)
change = frechet(images) - fd_ema[total_steps]
print("FD, float16 minus float32: {:+.2f} ± {:.2f}".format(*with_error(change)))
finding = "Drawn by the model that was read back from the file"
show_images(images[:24], columns=12, scale=2, title=finding)

# %% [markdown]
# The training state holds the weights and the optimisers' averages too. A training with the same recipe from the
# command line (started again, it resumes):
#
# ```
# python -m utils.diffusion train --data fashion-mnist --minutes 5 --out build/my-model
# python -m utils.diffusion sample build/my-model/model.safetensors --n 64 --out build/samples.png
# ```
#
# ## 11. Play · *further*
#
# Watch one image: when is it decided what it will be? Which part of the loss curve still moves at the end? (Grey: the
# curves of the other moments.)


# %%
def draw_moment(moment=total_steps, ema=True):
    """Samples of one moment, and its loss per timestep among those of the others."""
    images = (drawn if ema else raw_drawn)[moment][:32]
    distance = (fd_ema if ema else fd_raw)[moment]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=[1.6, 1])
    show_images(images, columns=8, ax=left)
    kind = "with" if ema else "without"
    left.set_title(
        f"Step {moment}, {kind} EMA: FD {text(distance)} (real {floor.mean():.1f})"
    )
    for losses in by_t.values():
        right.plot(centres, losses, color="lightgrey", lw=1)
    right.plot(centres, by_t[moment], "o-", color=COLOURS[0])
    right.set(xlabel="t", ylabel="loss (target v)", ylim=(0, None))
    right.set_title(f"Loss, EMA: mean {mean_loss[moment]:.3f}")
    return figure


for moment in [moments[1], half_step, total_steps]:
    draw_moment(moment)
    plt.show()

# %%
times = {
    step: f"step {step}, {seconds:.0f} s" for step, (seconds, _, _) in snapshots.items()
}
play(draw_moment, moment={text: step for step, text in times.items()}, ema=True)

# %% [markdown]
# ## 12. Exercises · *further*
#
# As in *your turn*, with `hint("04.3")`, `solution("04.3")`, and so on.
#
# ### 04.3 *(further)* The loss per timestep from what training has anyway
#
# `diffusion.loss(..., reduction="none")` gives one loss per image, and you know each image's $t$. Sort a training's
# losses into equal parts of 0 to $T-1$.


# %%
def loss_by_timestep(losses, t, num_timesteps, parts):
    """Mean loss in each of `parts` equal parts of the timesteps 0..num_timesteps - 1.

    losses: (N,) floats, one for each image. t: (N,) whole numbers, its timestep.
    num_timesteps is a multiple of parts. Returns (parts,); NaN where a part has no image.
    """
    raise NotImplementedError


check("04.3", loss_by_timestep)

# %% [markdown]
# ### 04.4 *(further)* What an EMA remembers
#
# With which weight does each step's network enter the average? The decay may be another one in every step.


# %%
def ema_shares(decays):
    """How much of each network is in the average after len(decays) EMA steps.

    decays: (K,) floats; step k does
        average = decays[k] * average + (1 - decays[k]) * weights_k,
    starting from the untrained network. Returns (K + 1,): first the share of the untrained
    network, then those of the weights of step 0, 1, ..., K - 1.
    """
    raise NotImplementedError


check("04.4", ema_shares)

# %% [markdown]
# ### 04.5 *(further)* A large batch on a small machine
#
# A batch does not fit into memory. Run it in parts and let the gradients add up: the result must be the
# gradient of the *whole* batch's mean loss, also when the last part is smaller.


# %%
def accumulate_gradients(model, mean_loss, batch, part_size):
    """Leave in every parameter's .grad the gradient of mean_loss(model, batch).

    mean_loss(model, items) gives the mean loss of some items, at most part_size at a time.
    batch: (N, ...). Gradients that were there before are dropped. Returns the mean loss of
    the whole batch, a float.
    """
    raise NotImplementedError


check("04.5", accumulate_gradients)

# %% [markdown]
# ### 04.6 *(further)* A checkpoint that is complete
#
# Many trainings draw all random numbers from *one* generator, and then its state belongs into the checkpoint too. Write
# the checkpoint of such a training. The check trains on, restores your checkpoint, trains again, and compares bit for
# bit.


# %%
def take_checkpoint(model, optimizer, generator, step):
    """Everything that a training needs to go on, as it is at this moment.

    generator: the torch.Generator of all timesteps and noise. Returns a dict with "model"
    and "optimizer" (as their load_state_dict takes them), "generator" (as its set_state
    takes it) and "step". Training on must not change it.
    """
    raise NotImplementedError


check("04.6", take_checkpoint)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $L$, $L_t$ | | the bound on $-\log p_\theta(x_0)$, and its terms (eq. 3, 5) |
# | $v_\theta(x_t, t, y)$ | `model(x_t, t, y)` | the network |
# | $\eta_k$ | `state.learning_rate` | learning rate in step $k$ |
# | $U S V^\top$ | `orthogonalize` | singular values and directions of a matrix; Muon's step is about $U V^\top$ |
# | $g$, $c$ | `state.gradient_norm`, `max_gradient_norm` | norm of the gradient, its limit |
# | $\bar\theta$, $d$ | `state.ema_model`, `ema_decay` | averaged weights, their decay |
# | FD | `ImageQuality.load()(images)` | Frechet distance |
#
# 1. The bound is a weighted squared error. Algorithm 1 leaves the weight out; the recipe adds more timesteps
#    from the middle, a learning rate that rises and falls, clipping, orthogonal steps, and an average of the weights.
# 2. The loss flattens early, while the images keep getting better: judge by samples, with their number, the floor and a
#    standard error beside every distance.
# 3. A training whose random numbers come from (seed, step), and that saves weights, averages, optimiser and step, can
#    be stopped at any moment and ends with the same bits.
#
# **Next:** [05 · Sampling](05_sampling.ipynb) opens the black box: how noise becomes an image.
#
# ### References
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: eq. 3 to 8, 13, 14;
#   section 3 and Algorithm 1; Tables 1, 2; section 4 and appendix B for the EMA and the settings of training.
# - Kingma, Salimans, Poole, Ho 2021, *Variational diffusion models*, arXiv 2107.00630: section 4, the bound by SNR.
# - Salimans, Ho 2022, *Progressive distillation*, arXiv 2202.00512: section 4 (target $v$).
# - Esser et al. 2024, *Scaling rectified flow Transformers*, arXiv 2403.03206: section 3.1, logit-normal timesteps.
# - Ho, Salimans 2022, *Classifier-free diffusion guidance*, arXiv 2207.12598: section 3, label dropout.
# - Kingma, Ba 2015, *Adam*, arXiv 1412.6980: Algorithm 1, and section 3 on its first steps.
# - Jordan et al. 2024, *Muon: an optimizer for hidden layers in neural networks*,
#   [kellerjordan.github.io/posts/muon](https://kellerjordan.github.io/posts/muon/); Liu et al. 2025, *Muon is scalable
#   for LLM training*, arXiv 2502.16982: section 2.2, the length of a step.
# - Micikevicius et al. 2018, *Mixed precision training*, arXiv 1710.03740: what to keep in float32.
# - Heusel et al. 2017, *GANs trained by a two time-scale update rule*, arXiv 1706.08500: eq. 6, the Frechet
#   distance.
# - Xiao, Rasul, Vollgraf 2017, *Fashion-MNIST*, arXiv 1708.07747.
