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
# A network (notebook 03) and a way to make noisy images (notebook 01) become a trained model. You write
# the training loop by hand, show that it is the one in `utils/diffusion/training.py`, train on
# Fashion-MNIST, and measure what each part of the recipe is worth.
#
# **At the end you have**: Algorithm 1 in about 15 lines; a trained model, saved; its loss per timestep on
# images it never saw; a curve of image quality against training time, so that you know what to expect
# after how long; and a training that you can stop at any moment and take up again, to the same bits.
#
# **You need** Python, basic PyTorch (`backward`, an optimiser), mean and variance. From notebook 01 we use
# $x_t$ and the target $v$; both are repeated in a line. Sampling is a black box here, `generate`;
# notebook 05 opens it.
#
# **Time**: about 3 minutes on two cores with bf16 instructions (the run shown), a third of it in the cell that trains.
# Without such instructions, expect two to four times as long. The GPU profile has a budget of 15 minutes on a T4
# (not measured here).

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
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, plain_ticks, play, show_images
from utils.course.exercises import check, hint, solution  # noqa: F401
from utils.device import find_precision
from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, generate, load_images
from utils.diffusion.checkpoints import load_model, save_model
from utils.diffusion.metrics import ImageQuality
from utils.diffusion.training import (
    batch_at,
    stream_seed,
    train,
    update_ema,
    validation_loss,
)

# %% [markdown]
# ## 1. The data
#
# **Fashion-MNIST** (Xiao et al. 2017): 28x28 grey pictures of clothes, ten classes, 60,000 to train on and
# 10,000 that are kept apart. (Without the internet and without a copy on the machine, the course's own small
# set of 10,000 and 1,000 is used; everything below works with it.)
#
# They are kept as `uint8`, one byte a pixel, and each batch is turned into floats in [-1, 1] when it is
# needed. **Predict before you run:** how much memory does that save against float32?

# %%
data, held_out = load_images("fashion-mnist", "train"), load_images("fashion-mnist", "test")
mb = data.pixels.numel() / 1e6
print(f"{len(data):,} training images: {mb:.0f} MB as uint8, {4 * mb:.0f} MB as float32")
x_0, label = data[:1]  # one image, as training sees it
low, high = x_0.min(), x_0.max()
print(f"x_0: shape {tuple(x_0.shape)}, {x_0.dtype}, from {low:.2f} to {high:.2f}")
show_images(data[:24][0], columns=12, title="What the model is to learn to draw")

# %% [markdown]
# A factor of 4: a float32 takes four bytes. On big data sets this decides whether the data fit in memory.
#
# ## 2. Algorithm 1, line by line
#
# **Question:** what does a diffusion model do in one training step?
#
# Write $\bar\alpha_t$ for the share of the image's variance that is left at timestep $t$
# (`alphas_cumprod`, falling from about 1 to about 0), and $\epsilon$ for standard normal noise. Then
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon \qquad\text{(Ho et al. 2020, eq. 4)}$$
#
# and the network $\epsilon_\theta$ (weights $\theta$) is trained to tell the noise from $x_t$ and $t$:
#
# $$L(\theta) = \mathbb E_{t,\,x_0,\,\epsilon}\,
# \lVert \epsilon - \epsilon_\theta(x_t, t)\rVert^2 \qquad\text{(eq. 14)}$$
#
# **What is the best that any network can do?** Fix $x_t$ and $t$. Many pairs $(x_0, \epsilon)$ could have
# led to this $x_t$; the network must give one answer $f$ for all of them. With
# $m = \mathbb E[\epsilon \mid x_t]$, and since $\mathbb E[\epsilon - m \mid x_t] = 0$,
#
# $$\mathbb E\big[\lVert\epsilon - f\rVert^2 \mid x_t\big]
# = \mathbb E\big[\lVert\epsilon - m\rVert^2 \mid x_t\big] + \lVert m - f\rVert^2 .$$
#
# So the best answer is the **mean** $m$ of all the noises that are possible, and the first term stays
# whatever the network does. Keep this for section 6: **the loss has a floor above 0, and nobody tells us
# where it is.**
#
# Algorithm 1 of the paper, and the code for each line:
#
# | line | paper | code |
# | --- | --- | --- |
# | 1, 6 | repeat ... until converged | `for step in range(...)` |
# | 2 | $x_0 \sim q(x_0)$ | the next batch of a shuffled list of images |
# | 3 | $t \sim \mathrm{Uniform}(\{1, \dots, T\})$ | `torch.randint(T, (B,))`: 0 to $T-1$, one for **each image** |
# | 4 | $\epsilon \sim \mathcal N(0, I)$ | `torch.randn(x_0.shape)` |
# | 5 | gradient step on $\lVert\epsilon - \epsilon_\theta(x_t, t)\rVert^2$ | `loss.backward()`, `optimizer.step()` |
#
# ($B$ is the batch size. The paper sums over pixels, code takes the mean: a constant factor.) The lines 2
# to 5, by hand:

# %%
T = 1000
alphas_cumprod = NoiseSchedule.cosine(T).alphas_cumprod  # (T,), float64
signal_at = alphas_cumprod.sqrt().float().view(-1, 1, 1, 1)
sigma_at = (1 - alphas_cumprod).sqrt().float().view(-1, 1, 1, 1)


def loss_by_hand(model, x_0, t, noise, prediction="noise"):
    """Line 5: mean squared error of the answer. x_0, noise: (B, C, H, W); t: (B,)."""
    x_t = signal_at[t] * x_0 + sigma_at[t] * noise
    target = {"noise": noise, "v": signal_at[t] * noise - sigma_at[t] * x_0}[prediction]
    per_image = (model(x_t, t) - target).square().flatten(1).mean(1)  # (B,)
    return per_image.mean()


# %% [markdown]
# The course trains on $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$ (Salimans & Ho 2022;
# why, is in notebook 01, section 7). It is the same loop with another target, so both are in the function.
#
# **Predict before you run:** a new U-Net outputs exactly 0, because its last layer starts at zero. What is
# its loss with target $\epsilon$? And with target $v$, where the images have
# $\mathbb E[x_0^2] \approx 0.68$ and $\bar\alpha_t$ is 0.5 on average?

# %%
torch.manual_seed(0)
model = UNet(channels=16)
x_0, _ = data[:256]
t = torch.randint(T, (len(x_0),))
noise = torch.randn(x_0.shape)
mean_square, mean_a_bar = x_0.square().mean(), alphas_cumprod.mean()
print(f"mean of x_0 squared {mean_square:.2f}, mean of alpha-bar {mean_a_bar:.2f}")
with torch.no_grad():
    for prediction in ["noise", "v"]:
        loss = loss_by_hand(model, x_0, t, noise, prediction)
        print(f"loss before training, target {prediction}: {loss:.3f}")

# %% [markdown]
# $\mathbb E[\epsilon^2] = 1$; and $\mathbb E[v^2] = \bar\alpha_t + (1-\bar\alpha_t)\,\mathbb E[x_0^2]$,
# because $\epsilon$ and $x_0$ are independent, so about $0.5 + 0.5 \cdot 0.68 = 0.84$. **A first loss far
# from these numbers means a bug before the first step**, most often images in [0, 1] or uniform noise.
#
# Does `utils` compute the same? One thing to watch: a network that outputs 0 would hide most mistakes in
# how it is called, so its weights are shaken first.

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    for weight in model.parameters():
        weight.add_(0.05 * torch.randn(weight.shape))
    for prediction in ["noise", "v"]:
        theirs = GaussianDiffusion(NoiseSchedule.cosine(T), prediction=prediction)
        mine = loss_by_hand(model, x_0, t, noise, prediction)
        torch.testing.assert_close(mine, theirs.loss(model, x_0, t, noise))
        print(f"target {prediction}: the loss by hand equals diffusion.loss")

# %% [markdown]
# Now the loop. First the lines 2 to 4. Every step has a generator of its own, seeded by the training's seed (here 0)
# and the number of the step: whoever knows these two knows the step's random numbers, which will make stopping and
# going on simple (section 9). `stream_seed` makes one seed for each use of randomness, so that no two share their
# numbers. The order of the images is a shuffled list, as line 2 says.

# %%
small_batch, few_steps = course.pick(test=8, cpu=32, gpu=32), 12
shuffle = torch.Generator().manual_seed(stream_seed(0, "order", 0))
order = torch.randperm(len(data), generator=shuffle)  # one epoch


def draw(step):
    """Lines 2 to 4: images, timesteps and noise of one step."""
    x_0, _ = data[order[step * small_batch : (step + 1) * small_batch]]
    rng = torch.Generator().manual_seed(stream_seed(0, "step", step))
    t = torch.randint(T, (small_batch,), generator=rng)
    noise = torch.randn(x_0.shape, generator=rng)
    return x_0, t, noise


# %% [markdown]
# And this is all of Algorithm 1. (`channels_last` is how `train` lays the weights out in memory on a CPU: the same
# numbers, and the same rounding.)

# %%
torch.manual_seed(0)
model = UNet(channels=16).to(memory_format=torch.channels_last)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
losses_by_hand = []
for step in range(few_steps):
    loss = loss_by_hand(model, *draw(step), prediction="v")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses_by_hand.append(loss.item())
print("loss:", " ".join(f"{loss:.3f}" for loss in losses_by_hand))

# %% [markdown]
# `train` in `utils` is a **generator**: it does one step, hands you its state, and goes on when you ask for
# the next. What you do with the state (print, plot, save, stop) is yours. Everything it adds to Algorithm 1
# can be switched off, and then it must give the same losses from the same seed, bit for bit:

# %%
# NBVAL_CHECK_OUTPUT
diffusion = GaussianDiffusion(NoiseSchedule.cosine(T), prediction="v")
plain = dict(precision="no", device="cpu", progress=False, batch_size=small_batch)
switched_off = dict(learning_rate=1e-3, warmup=0, decay=False, max_gradient_norm=None)
torch.manual_seed(0)
model = UNet(channels=16)
states = train(model, diffusion, data, steps=few_steps, **switched_off, **plain)
assert [state.loss for state in states] == losses_by_hand
print("Algorithm 1 by hand and utils.diffusion.train: the same losses, to the last bit")

# %% [markdown]
# **Pitfalls**, all easy to write: one $t$ for the whole batch (it runs, but the gradient is far
# noisier); timesteps drawn from 1 to $T-1$, so that the least noisy one is never trained; uniform noise,
# `torch.rand`; and `optimizer.zero_grad()` forgotten, so that gradients of all steps add up.
#
# ## 3. What the recipe adds: three lines
#
# Algorithm 1 does not say how to take "a gradient step". The usual recipe adds three things.
#
# **1. A learning rate that rises and falls.** With $k$ steps done of $K$, and $w$ steps of warm-up:
#
# $$\eta_k = \eta_{\text{peak}} \cdot \min\!\Big(1, \tfrac{k+1}{w}\Big) \cdot
# \tfrac12\Big(1 + \cos\frac{\pi k}{K}\Big)$$
#
# The optimiser, **Adam**, divides each gradient by a running estimate of its size. In the first steps that
# estimate rests on very few gradients; warm-up keeps steps small meanwhile. (`train` never warms up over more
# than a tenth of the steps.) The fall at the end lets the weights settle: with a constant rate they keep
# jumping around a minimum.
#
# **2. Gradient clipping.** If the norm $g$ of the whole gradient is above a limit $c$, multiply the gradient
# by $c/g$. Its direction stays, and one bad batch cannot do much harm.
#
# **3. An exponential moving average (EMA) of the weights.** Beside the weights $\theta$ that are trained,
# keep an average $\bar\theta$ that is only used for sampling:
#
# $$\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta$$
#
# With decay $d$ it averages over about the last $1/(1-d)$ steps: 1000 for $d = 0.999$. A short training has
# fewer steps than that, or not many more, so the decay is warmed up: $d_k = \min\big(d, \tfrac{1+k}{10+k}\big)$.
#
# **Predict before you run:** after $k$ steps with $d_k = (1+k)/(10+k)$, about how far back does the average
# reach?


# %%
def learning_rate(step, steps, peak=2e-3, warmup=100):
    """The learning rate of the step that follows `step` finished ones."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * (step / steps)))
    return peak * rise * fall


def decay_at(step, decay=0.999):
    """The EMA's decay in that step."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def ema_step(ema_model, model, decay):
    """In place: decay * average + (1 - decay) * weights."""
    for average, weight in zip(ema_model.parameters(), model.parameters()):
        average.lerp_(weight, 1 - decay)


# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
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

# %%
# NBVAL_CHECK_OUTPUT
decays = pd.DataFrame(index=pd.Index([100, 400, 1000], name="steps so far"))
decays["decay d"] = [round(decay_at(k), 3) for k in decays.index]
decays["averages over about"] = [f"{1 / (1 - decay_at(k)):.0f} steps" for k in decays.index]
decays

# %% [markdown]
# $1 - d_k = 9/(10+k)$, so the average reaches back over about a ninth of the training so far, however long
# it is. Now all of it together, and the comparison with `utils`: losses, weights and averaged weights.

# %%
recipe_steps = 30
warmup = recipe_steps // 10  # `train` never warms up over more than a tenth of the steps
torch.manual_seed(0)
mine = UNet(channels=16).to(memory_format=torch.channels_last)
my_ema = copy.deepcopy(mine)
optimizer = torch.optim.Adam(mine.parameters())
losses_by_hand, rates_by_hand = [], []
for step in range(recipe_steps):
    loss = loss_by_hand(mine, *draw(step), prediction="v")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, recipe_steps, warmup=warmup)
    optimizer.step()
    ema_step(my_ema, mine, decay_at(step))
    losses_by_hand.append(loss.item())
    rates_by_hand.append(group["lr"])
first, last = losses_by_hand[0], losses_by_hand[-1]
print(f"loss: {first:.3f} at the first of {recipe_steps} steps, {last:.3f} at the last")

# %% [markdown]
# **Check: the same thing in `utils`.**

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
theirs, losses_of_train, rates = UNet(channels=16), [], []
for state in train(theirs, diffusion, data, steps=recipe_steps, **plain):
    losses_of_train.append(state.loss)
    rates.append(state.learning_rate)


def equal(a, b):
    """True if two networks have the same weights, bit for bit."""
    return all(map(torch.equal, a.parameters(), b.parameters()))


assert rates_by_hand == rates and losses_by_hand == losses_of_train
assert equal(mine, theirs) and equal(my_ema, state.ema_model)
print(f"{recipe_steps} steps: learning rates, losses, weights and averaged weights agree")

# %%
# NBVAL_CHECK_OUTPUT
again = copy.deepcopy(my_ema)
ema_step(my_ema, mine, decay=0.9)
update_ema(again, mine, decay=0.9)
assert equal(my_ema, again)
print("the EMA step by hand equals update_ema")

# %% [markdown]
# ## 4. Train
#
# Now for real, with a U-Net a little narrower than the standard one, so that a few minutes hold more steps. It takes
# **about a minute** on two cores with bf16 instructions, two to four minutes without; the bar shows the time that is
# left, and the curve is drawn anew every few seconds.
#
# **You can stop the kernel at any time** (the square button) and run the training cell again: it goes on
# where it was, because `train` saves its state in the folder `out`. (Section 9 proves it.) The first
# of the cells below starts from the beginning: it empties that folder. Run it only when you want that.
#
# At a few moments we put copies of the weights aside, those of the network and those of its EMA, to look at
# them afterwards.
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
# The next section looks at the pictures.
#
# (The validation loss is measured in another way: always on the same images, at ten fixed timesteps, by the
# averaged weights. So compare its dots with each other, not with the line. Section 6 measures training images in
# the same way.)
#
# ## 5. Image quality against minutes trained
#
# **Question:** how good are the images after how long, and when is it worth waiting?
#
# `generate` turns noise into images with a trained network (black box until notebook 05; here
# DPM-Solver++(2M) with few steps). We give **the same noise** to the network of each moment, so that what
# differs is the training alone.

# %%
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
# Read it downwards: noise, blobs of the right brightness, silhouettes, then clothes that you can name, and from
# there on less dirt and firmer outlines. Good they are not yet. Between the last rows the loss moved little.
#
# **A number for it.** A small classifier, trained on real Fashion-MNIST and kept in `data/checkpoints`,
# turns each image into 64 features. The **Frechet distance** (FD; Heusel et al. 2017) fits one Gaussian to
# the features of real images (mean $m_r$, covariance $C_r$) and one to those of generated images ($m_g$,
# $C_g$):
#
# $$\mathrm{FD} = \lVert m_r - m_g\rVert^2 + \mathrm{tr}\big(C_r + C_g - 2\,(C_r C_g)^{1/2}\big)$$
#
# 0 is perfect. But even *real* images do not get 0 when there are few of them. So the same number of real,
# held-out images is measured as well: the **floor**. FD is only comparable with the same features and the
# same number of images.
#
# **Predict before you run:** from half of the training to its end the loss hardly moves. What does FD do?

# %%
quality = ImageQuality.load()
floor = quality.floor(count)[0]  # of ten random sets of real images


def frechet(images):
    """Frechet distance of images to the training set."""
    return quality.frechet(quality.features(images))


fd_ema = {step: frechet(images) for step, images in drawn.items()}
real_against_real = f"real against real {floor.mean():.1f} ± {floor.std():.1f}"
print(f"{count} images each; {real_against_real}")
distances = pd.DataFrame(index=pd.Index(snapshots, name="step"))
distances["seconds"] = [round(seconds) for seconds, _, _ in snapshots.values()]
distances["FD (EMA)"] = fd_ema.values()
distances.round(1)

# %%
path = course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
longer, its_diffusion = load_model(path, course.device)  # it knows classes
classes = torch.randint(10, (count,), generator=torch.Generator().manual_seed(0))
images = generate(longer, its_diffusion, count, y=classes, **sampling)
fd_longer = frechet(images)
print(f"the course's trained model: {quality(images)}")

# %%
half_step = min(snapshots, key=lambda step: abs(step - total_steps // 2))
ratio = fd_ema[half_step] / fd_ema[total_steps]
figure, axes = plt.subplots(figsize=(8, 3.4))
minutes = [seconds / 60 for seconds, _, _ in snapshots.values()]
axes.semilogy(minutes, list(fd_ema.values()), "o-", label="this training, EMA (one run)")
axes.axhline(floor.mean(), color="black", ls=":", label=f"{count} real images")
axes.axhline(fd_longer, color=COLOURS[1], ls="--", label="the course's trained model")
axes.set(xlabel="minutes of training on this machine", ylabel="Frechet distance")
finding = f"FD falls by a factor of {ratio:.1f} in the second half"
axes.set_title(f"Images get better to the end: {finding}")
plain_ticks(axes)
axes.legend()
plt.show()

# %% [markdown]
# So the second half was not wasted: while the loss curve looks flat, the images keep getting better.
#
# What this tells you about patience: clothes that you can name come within the first quarter of the training in the
# run shown, and the rest of the way is long. So short a training leaves a distance far above that of real images; the
# dashed line is what about an hour on two cores without bf16 instructions reached, with a network more than twice as
# large that is told the class (see its model card). If your FD is well above the table's after as many steps, look
# for a bug; if not, train longer. A caution: this is one run, planned for this length. Its learning rate is still
# high in the middle, so a run planned to be half as long need not end where this one was at half its time.
#
# ## 6. Why the loss number says so little
#
# **Question:** the loss looks flat while the images improve. Where does it hide what we see?
#
# **First: it is an average over timesteps that differ a lot.** `validation_loss` gives the loss at ten
# timesteps, on the same images and the same noise at every call, so two calls differ by the network only.
#
# **Predict before you run:** target $v$. Is the loss highest where $x_t$ is nearly clean, nearly noise, or
# in the middle?

# %%
points = 10
centres = [int((k + 0.5) * T / points) for k in range(points)]
by_points = partial(validation_loss, points=points, device=course.device)


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

# %%
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
# For target $v$ the loss is high at **both ends**. Nearly clean images: $v \approx \epsilon$, and so little
# noise is hard to tell from texture. Nearly pure noise: $v \approx -x_0$, and which image it will become is
# not decided yet. What several answers have in common is all that can be learned there (section 2); how much of each
# value is such a floor cannot be read off one network. The loss of a batch is the average of all that.
#
# **Held-out and training images:** compare the two means with their standard errors. As long as each image was seen
# only a few times (0.8 times on average in the run shown; printed below the training curve), no difference is to be
# expected. Were the loss on training images to fall well below the other, the network would fit these images and not
# the rest; without a validation loss you would never know. Whether samples are *copies* is another question: notebook
# 05 looks.
#
# **Second: the number depends on how you ask.** The right panel is *one* network and *one* set of answers.
# From $v$ follow the noise and $x_0$ (notebook 01), and with $\delta$ for an error,
# $\lVert\delta\epsilon\rVert^2 = \bar\alpha_t\lVert\delta v\rVert^2$ and
# $\lVert\delta x_0\rVert^2 = (1-\bar\alpha_t)\lVert\delta v\rVert^2$. So losses of models with different
# targets or schedules cannot be compared. Verified with the answers themselves:

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
# **Third: chance.** A batch draws its images and timesteps at random, so its loss scatters although the
# network stands still. **Predict before you run:** is that scatter smaller or larger than the whole
# improvement of the second half of the training?

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
per_image = torch.cat(parts)
mean, std = per_image.mean(), per_image.std()
scatter = std / batch_size**0.5
gain = mean_loss[half_step] - mean_loss[total_steps]
many = len(per_image)
print(f"{many} images: mean loss {mean:.4f}, standard deviation of one image {std:.4f}")
print(f"a batch of {batch_size} therefore scatters by {scatter:.4f} (standard deviation)")
print(f"the second half of the training lowers the validation loss by {gain:.4f}, ", end="")
print(f"{gain / scatter:.1f} times that")

# %%
figure, axes = plt.subplots(figsize=(8, 3.4))
steps = [step for step in snapshots if step > 0]
falls = []
for values, marker in [(mean_loss, "o-"), (fd_ema, "s-")]:
    label = "validation loss" if values is mean_loss else "Frechet distance"
    axes.semilogy(steps, [values[k] / values[steps[0]] for k in steps], marker, label=label)
    falls.append(values[steps[0]] / values[total_steps])
axes.set(xlabel="step", ylabel=f"relative to step {steps[0]}")
finding = "the loss falls by a factor of {:.1f}, the Frechet distance by {:.1f}"
axes.set_title(f"Same networks: {finding.format(*falls)}")
axes.set_yticks([0.2, 0.3, 0.4, 0.5, 0.7, 1], ["0.2", "0.3", "0.4", "0.5", "0.7", "1"])
axes.minorticks_off()
axes.legend()
plt.show()

# %% [markdown]
# One batch scatters by about as much as the whole second half of the training gains, so in the losses of single
# batches that gain cannot be seen at all; only the fixed images and noise of the validation loss show it. And in the
# last figure the loss falls faster at first; then it bends towards its floor, while the Frechet distance goes on.
#
# **Fourth: it is not the likelihood.** The paper starts from a bound on the negative log-likelihood, a sum over all
# timesteps (Ho et al. 2020, eq. 5). Each term is the Kullback-Leibler divergence between the true posterior and the
# sampler's step, two normals with the same variance $\tilde\beta_t$ (notebook 01, section 6), and so (eq. 8)
#
# $$L_t = \mathbb E\,\frac{\lVert\tilde\mu_t(x_t, x_0) - \tilde\mu_t(x_t, \hat x_0)\rVert^2}{2\tilde\beta_t}
# = \tfrac12\big(\mathrm{SNR}_{t-1} - \mathrm{SNR}_t\big)\;\mathbb E\,\lVert x_0 - \hat x_0\rVert^2 .$$
#
# (The paper counts timesteps from 1 and writes $L_{t-1}$.) The second form follows because $\tilde\mu_t$ is linear in
# $x_0$ (insert eq. 7 and collect; Kingma et al. 2021, section 4, start from it). Training with eq. 14 leaves the
# weight out. Is that a detail? First the formula, against the divergence that PyTorch computes; then the share of the
# early timesteps in each of the two sums.
#
# **Predict before you run:** $\mathrm{SNR}_t$ is huge at small $t$ and falls steeply. Where does the bound get most
# of its size from, and where the loss?

# %%
# NBVAL_CHECK_OUTPUT
snr = diffusion.schedule.snr
snr_step = snr[:-1] - snr[1:]  # SNR_{t-1} - SNR_t, for t = 1 ... T-1
guess = diffusion.to_x_0(v, x_t, t)  # v at x_t: of the cell that verified the errors
clean = held_out[:32][0].to(course.device)
by_formula = 0.5 * snr_step.to(clean)[t - 1] * (guess - clean).square().flatten(1).sum(1)


def reverse_step(image):
    """The posterior of that image, as PyTorch's normal distribution."""
    mean, variance = diffusion.q_posterior(image, x_t, t)
    return torch.distributions.Normal(mean, variance.sqrt().expand_as(mean))


divergence = torch.distributions.kl_divergence(reverse_step(clean), reverse_step(guess))
divergence = divergence.flatten(1).sum(1)
torch.testing.assert_close(by_formula, divergence, rtol=2e-3, atol=1e-3)
print(
    "L_t by the formula equals the Kullback-Leibler divergence, for 32 images at random t"
)

# %%
probed = (
    torch.logspace(0, math.log10(T - 1), 24).round().long().unique()
)  # dense at the start
x_0 = held_out[:few][0].to(course.device)
noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).to(course.device)
errors = []
with torch.no_grad():
    for t in probed.to(course.device):
        errors.append(diffusion.loss(probe, x_0, t.expand(len(x_0)), noise).item())
every_t = np.arange(1, T)
error_v = np.interp(np.log(every_t), probed.log(), errors)
# What the bound multiplies the squared error in v with, per dimension
weight = 0.5 * (snr_step * (1 - alphas_cumprod[1:])).numpy()

# %%
figure, axes = plt.subplots(figsize=(8, 3.2))
sums = {"loss, target v": (error_v, "-"), "bound, eq. 5": (weight * error_v, "--")}
for name, (values, style) in sums.items():
    share = 100 * values.cumsum() / values.sum()
    label = f"{name}: half of it lies below t = {every_t[share >= 50][0]}"
    axes.semilogx(every_t, share, style, label=label)
axes.set(xlabel="t (log axis)", ylabel="% of the sum, up to t")
axes.set_title("The bound is made where there is little noise")
axes.legend()
plt.show()
bits = (weight * error_v).sum() / math.log(2)
print(f"L_1 + ... + L_(T-1) = {bits:.2f} bits per dimension")

# %% [markdown]
# The bound looks at one end of the process, where it counts errors in the finest details, far below what the eye sees;
# the loss spreads its attention over all timesteps. Ho et al. (section 3.4, Table 2) found that
# leaving the weight out makes better pictures. (The sum printed is not the whole bound: what is missing are the step
# to 8-bit pixels at $t = 0$ and the prior's term. Notebook 06 adds them.)
#
# So: **watch the validation loss for trouble** (NaN, a rise, a gap to the training loss), compare it between
# two settings only with the same target, schedule, images and noise, and **judge quality by samples**.
#
# ## 7. EMA on and off
#
# **Question:** what does the moving average of the weights buy?
#
# Both sets of weights come from the same run, so this costs no training: sample with either, from the same
# noise. **Predict before you run:** where will the difference be larger, in the middle of the training or
# at its end, where the learning rate goes to 0?

# %%
fd_raw = {step: frechet(images_from(raw)) for step, (_, raw, _) in snapshots.items()}
print(f"{count} images each, one run; {real_against_real}")
distances = pd.DataFrame({"FD without EMA": fd_raw, "FD with EMA": fd_ema})
distances.rename_axis("step").round(1)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3))
done = sorted(history)
for k, (label, colour) in enumerate([("the weight", COLOURS[1]), ("its EMA", COLOURS[0])]):
    values = [history[step][1 + k] for step in done]
    left.plot(done, values, color=colour, lw=0.8 + 0.8 * k, label=label)
left.set(xlabel="step", ylabel="one weight of the last layer")
left.set_title("The average lags while the weight moves")
left.legend()
for fd, style, colour in [(fd_raw, "s-", COLOURS[1]), (fd_ema, "o-", COLOURS[0])]:
    label = "with EMA" if fd is fd_ema else "without EMA"
    right.semilogy(steps, [fd[k] for k in steps], style, color=colour, label=label)
right.axhline(floor.mean(), color="black", ls=":", label=f"{count} real images")
gains = {k: fd_raw[k] / fd_ema[k] for k in steps}
best = max(steps[1:-1] or steps, key=gains.get)
finding = f"{gains[best]:.2f} at step {best}, {gains[total_steps]:.2f} at the end"
right.set(
    xlabel="step", ylabel="Frechet distance", title=f"FD without EMA / with: {finding}"
)
plain_ticks(right)
right.legend()
plt.show()

# %%
raw, ema = (images_from(snapshots[half_step][k], count=12) for k in (1, 2))
titles = ["without EMA"] + [""] * 11 + ["with EMA"] + [""] * 11
finding = f"Step {half_step}, the same noise: the weights of the moment, and their average"
show_images(torch.cat([raw, ema]), titles=titles, columns=12, scale=2, title=finding)

# %% [markdown]
# **Here the EMA buys little.** While the network learns fast, the average over the past lags behind what the network
# knows now (left panel), so early in the training its images are, if anything, the worse ones. And at the end the
# learning rate has gone down to 0, so there is no jitter left to average away, and the two are level. If it helps at
# all, then in between; the title of the right panel names the step at which it did best. This is one run, and the
# differences are small. Besides, the average is short: its decay is warmed up, so that after $k$ steps it reaches back
# over about $k/9$ of them.
#
# So why keep it? Its place is a long training at a rate that stays high: there the weights jump around a good place,
# because each batch pulls them elsewhere, and the average stays near the middle. Of the DDPM authors' own CIFAR-10
# weights the averaged ones have an FID of 3.21, the plain ones of 12.14 (50,000 samples, as measured in the repository
# zeqiang-lai/ddpmx; FID is the Frechet distance on the features of a large network, Inception). An EMA costs one line
# and a copy of the weights, and it lets you sample at any moment of a long training.
# Decay and EMA are two ways to weights that stand still; where the rate falls to 0, do not expect much of the EMA.
#
# **Pitfall: an EMA that is not warmed up.** With $d = 0.999$ from the first step the average still holds
# much of the random start, $0.999^K$ of it after $K$ steps:

# %%
# NBVAL_CHECK_OUTPUT
left = {k: f"{0.999**k:.0%}" for k in [100, 700, 5000]}
pd.DataFrame({"the random start's share of the average": left}).rename_axis("steps")

# %% [markdown]
# ## 8. Each part switched off
#
# **Question:** what do warm-up, decay and clipping buy, each by itself?
#
# Short trainings of a small network: everything on, then one part missing, from the same start and with the same
# batches, two seeds each. (Warm-up takes a tenth of the steps; see section 3.) Two pairs of rows ask what a part is
# *for*: warm-up, at five times the learning rate; clipping, when in the middle of the training one single gradient is
# 1000 times too large, as a broken image or a rare overflow can make it. After so few steps samples are blobs, so the
# measure is the validation loss, on the same images, timesteps and noise for all, of the weights as they are and of
# their EMA. It takes **about a minute**. The recipe is made for thousands of steps; do not expect it to win here, and
# ask why.
#
# **Predict before you run:** which missing part hurts most?

# %%
short_steps = course.pick(test=10, cpu=100, gpu=400)
short_batch = course.pick(test=8, cpu=32, gpu=64)
recipe = dict(learning_rate=2e-3, warmup=100, decay=True, max_gradient_norm=1.0)
recipe |= dict(steps=short_steps, batch_size=short_batch, device=course.device)


def measure(network):
    return validation_loss(network, diffusion, held_out, count=few).mean().item()


# %%
def short_run(seed, spike=False, **changes):
    """One short training: losses, gradient norms, validation loss without EMA and with it.

    spike: one gradient in the middle is 1000 times too large.
    """
    torch.manual_seed(seed)
    model = UNet(channels=16)
    losses, norms, hooks = [], [], []
    for state in train(
        model, diffusion, data, seed=seed, progress=False, **recipe | changes
    ):
        losses.append(state.loss)
        norms.append(state.gradient_norm)
        while hooks:
            hooks.pop().remove()
        if spike and state.step == short_steps // 2:  # only the next step's gradient
            hooks = [
                w.register_hook(lambda gradient: 1000 * gradient)
                for w in model.parameters()
            ]
    return losses, norms, [measure(network) for network in (model, state.ema_model)]


# %%
changes = {
    "everything on": {},
    "no warm-up": dict(warmup=0),
    "no decay": dict(decay=False),
    "no clipping": dict(max_gradient_norm=None),
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

# %%
rows = {}
for name, parts in runs.items():
    row = {}
    for kind, ema in enumerate(["without EMA", "with EMA"]):
        values = np.array([pair[kind] for _, _, pair in parts])
        base = np.array([pair[kind] for _, _, pair in runs["everything on"]])
        row[ema, "loss"] = "  ".join(f"{value:.3f}" for value in values)
        row[ema, "difference"] = "  ".join(f"{gap:+.3f}" for gap in values - base)
    row["steepest", "gradient"] = round(max(max(norms) for _, norms, _ in parts), 1)
    rows[name] = row
print(f"validation loss after {short_steps} steps, seeds {seeds}; difference:")
print("what it has more than 'everything on', seed by seed")
pd.DataFrame(rows).T

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3))
for kind, label in enumerate(["without EMA", "with EMA"]):
    marks = [
        (k + 0.24 * kind - 0.12, pair[kind])
        for k, name in enumerate(list(runs)[:6])
        for _, _, pair in runs[name]
    ]
    left.plot(*zip(*marks), "so"[kind], color=COLOURS[1 - kind], label=label)
names = [name.replace(", ", ",\n").replace("everything ", "everything\n") for name in runs]
left.set_xticks(range(6), names[:6], fontsize=7)
left.set(ylabel="validation loss", title="One part missing; each mark is one seed")
left.legend(loc="center right")
window = min(10, short_steps)
looks = {"spike, no clipping": "C1-", "spike": "C0-", "everything on": "k--"}
for name, look in looks.items():
    for k, (losses, _, _) in enumerate(runs[name]):
        means = torch.tensor(losses).unfold(0, window, 1).mean(1)
        label = name if k == 0 else None
        right.plot(range(window, short_steps + 1), means, look, label=label)
right.set(xlabel="step", ylabel=f"loss, mean of {window} batches")
right.set_title("One wild gradient, with and without clipping")
right.legend(loc="lower left")
plt.show()

# %% [markdown]
# How to read this: on the left, the lower the mark, the better. A difference above 0 says that the missing part was
# worth something; where the two seeds disagree, this measurement does not tell.
#
# - **The full recipe loses here.** After these few steps what counts is how far the weights have come. Warm-up and
#   decay both hold them back, and five times the rate beats all. A recipe for thousands of steps is too careful for a
#   hundred: never choose settings in runs much shorter than the one you mean to make. What decay is for, settling the
#   weights at the end, is not seen here, because there is nothing to settle yet.
# - **Warm-up may be an insurance.** Compare the two rows at five times the rate: in the run shown both seeds are a
#   little better with it, but two seeds cannot settle it.
# - **Clipping is one.** On ordinary gradients it changes little, and two seeds do not settle in which direction.
#   With one wild gradient (right panel) the clipped training goes on as if nothing had happened; without clipping the
#   loss climbs, and at the end it is far above the others.
# - **And the EMA is behind** everywhere, though not by much: it averages over weights of earlier steps, which were
#   worse.
#
# Why does *one* gradient do lasting harm? Adam keeps two running averages. That of the gradients, over about 10
# steps, now points along that one gradient, so for about ten steps the weights are carried away with it. That
# of the *squared* gradients, over about 1000 steps ($\beta_2 = 0.999$), has become huge, and Adam divides by its root:
# after that the steps are too small to come back soon.
#
# **bf16.** *Mixed precision* runs convolutions and matrix products in a 16-bit format and keeps weights,
# EMA and optimiser in float32. bf16 has the range of float32 but only 8 binary digits. That is why the
# averages must not be kept in it:

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
# Next to 1, bf16 has no number between 1 and 1.0078, so a step of 0.001 is rounded away, a thousand times.
#
# Is bf16 faster? That depends on the machine: with bf16 matrix instructions (recent server processors, GPUs
# since 2020), yes; without, the processor emulates them. So the course looks for them, and here we measure.
# **Predict before you run:** what will this machine say?

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
# Over these few steps the losses are nearly the same. The speed is the machine's matter, and so the course never
# assumes it. (fp16 has more digits and less range. Small gradients vanish in it, so the loss is
# scaled up before `backward` and the gradients down after it; that is the place where learners meet NaN. If
# it happens to you: `precision="no"`, or bf16.)
#
# ## 9. Stop in the middle, and go on
#
# **Question:** what must be saved so that a stopped training goes on as if nothing had happened?
#
# More than the weights: the EMA, **Adam's running averages**, and the number of steps. From that number follow the
# learning rate, the order of the images, and the **random numbers**: each step draws them anew from (seed, step)
# (section 2), so no state of a random generator has to be kept. `train` saves all of it in `out/checkpoint.pt`, every
# `save_every` steps and when you leave the loop or interrupt it; first under another name and then renamed, so that a
# half-written file never replaces a whole one.
#
# We test it with a small network on the CPU: one training that is never stopped, and one that is stopped
# twice: by leaving the loop, and by the stop button *in the middle of a step*. The button sends the signal
# SIGINT; we send it from inside the network's forward pass in step 18.
#
# **Predict before you run:** the state is saved every 5 steps. At which step does each resume begin?

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
# Leaving the loop saves at once, so that resume starts at step 9. The interrupt came in the middle of step
# 18: that step was lost, the 17 finished ones were saved on the way out. It is done again, with the same
# batch and the same noise, and the end is the same to the last bit. (Where the power fails, what comes after
# the last save is lost, up to 5 steps here, and done again in the same way.)
#
# What happens when something is left out? Exercise 04.4 lets you find out. (Bit for bit holds on a CPU with
# the same number of threads; a GPU may add numbers in another order.)
#
# ## 10. Save the model
#
# For sampling, only the averaged weights are needed. They are saved as **safetensors**: tensors and a text
# header. A file made with `pickle` (what `torch.save` writes) can run code when it is loaded; a safetensors
# file cannot. At the end of a training with `out`, `train` has written `model.safetensors`; half the size is
# enough for sampling:

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
full, short = fd_ema[total_steps], frechet(images)
print(f"FD of the saved weights: float32 {full:.1f}, float16 {short:.1f}")
finding = "Drawn by the model that was read back from the file"
show_images(images[:24], columns=12, scale=2, title=finding)

# %% [markdown]
# The training state is several times larger than the model: it holds weights, averaged weights, and two
# numbers for each weight that Adam remembers.
#
# From the command line, the same training without a notebook (started again, it resumes):
#
# ```
# python -m utils.diffusion train --data fashion-mnist --minutes 5 --out build/my-model
# python -m utils.diffusion sample build/my-model/model.safetensors --n 64 --out build/samples.png
# ```
#
# ## 11. Play
#
# The moments of the training, one at a time: what the network draws, and its loss per timestep. First three
# of them.

# %%
raw_drawn = {step: images_from(raw, count=32) for step, (_, raw, _) in snapshots.items()}


def draw_moment(moment=total_steps, ema=True):
    """Samples of one moment, and its loss per timestep among those of the others."""
    images = (drawn if ema else raw_drawn)[moment][:32]
    distance = (fd_ema if ema else fd_raw)[moment]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=[1.6, 1])
    show_images(images, columns=8, ax=left)
    kind = "with" if ema else "without"
    real = f"(real {floor.mean():.1f})"
    left.set_title(f"Step {moment}, {kind} EMA: FD {distance:.1f} {real}")
    for losses in by_t.values():
        right.plot(centres, losses, color="lightgrey", lw=1)
    right.plot(centres, by_t[moment], "o-", color=COLOURS[0])
    right.set(xlabel="t", ylabel="loss (target v)", ylim=(0, None))
    right.set_title(f"Loss, EMA: mean {mean_loss[moment]:.3f}")
    return figure


for moment in [moments[1], half_step, total_steps]:
    draw_moment(moment)
    plt.show()

# %% [markdown]
# Move through the moments, with the EMA and without. Watch one image: when is it decided what it will be?
# Which part of the loss curve still moves between the last moments?

# %%
times = {
    step: f"step {step}, {seconds:.0f} s" for step, (seconds, _, _) in snapshots.items()
}
play(draw_moment, moment={text: step for step, text in times.items()}, ema=True)

# %% [markdown]
# ## 12. Exercises
#
# Write your answer in place of `raise NotImplementedError` and run the cell: `check` says whether it is
# right, and if not, which property is broken. `hint("04.1")` gives a hint, each call the next one;
# `solution("04.1")` shows one answer. The same goes for the other numbers.
#
# ### 04.1 The loss per timestep from what training has anyway
#
# `diffusion.loss(..., reduction="none")` gives one loss per image, and you know each image's $t$. Sort a
# training's losses into equal parts of 0 to $T-1$, and no extra evaluation is needed.


# %%
def loss_by_timestep(losses, t, num_timesteps, parts):
    """Mean loss in each of `parts` equal parts of the timesteps 0..num_timesteps - 1.

    losses: (N,) floats, one for each image. t: (N,) whole numbers, its timestep.
    num_timesteps is a multiple of parts. Returns (parts,); NaN where a part has no image.
    """
    raise NotImplementedError


check("04.1", loss_by_timestep)

# %% [markdown]
# ### 04.2 What an EMA remembers
#
# With which weight does each step's network enter the average? The decay may be another one in every step,
# as when it is warmed up.


# %%
def ema_shares(decays):
    """How much of each network is in the average after len(decays) EMA steps.

    decays: (K,) floats; step k does
        average = decays[k] * average + (1 - decays[k]) * weights_k,
    starting from the untrained network. Returns (K + 1,): first the share of the untrained
    network, then those of the weights of step 0, 1, ..., K - 1.
    """
    raise NotImplementedError


check("04.2", ema_shares)

# %% [markdown]
# ### 04.3 A large batch on a small machine
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


check("04.3", accumulate_gradients)

# %% [markdown]
# ### 04.4 A checkpoint that is complete
#
# In section 9 each step makes its random numbers from (seed, step). Many trainings draw instead from *one*
# generator all along, and then its state belongs into the checkpoint too. Write the checkpoint of such a training. The
# check trains on, restores your checkpoint, trains again, and compares bit for bit.


# %%
def take_checkpoint(model, optimizer, generator, step):
    """Everything that a training needs to go on, as it is at this moment.

    generator: the torch.Generator of all timesteps and noise. Returns a dict with "model"
    and "optimizer" (as their load_state_dict takes them), "generator" (as its set_state
    takes it) and "step". Training on must not change it.
    """
    raise NotImplementedError


check("04.4", take_checkpoint)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $L(\theta)$ | `diffusion.loss(model, x_0)` | mean squared error of the network's answer (eq. 14) |
# | $\epsilon_\theta(x_t, t)$ | `model(x_t, t)` | the network; here its answer is $v$ |
# | $\eta_k$ | `state.learning_rate` | learning rate in step $k$ |
# | $g$, $c$ | `state.gradient_norm`, `max_gradient_norm` | norm of the gradient, and its limit |
# | $\bar\theta$, $d$ | `state.ema_model`, `ema_decay` | averaged weights, and their decay |
# | FD | `ImageQuality.load()(images).frechet` | Frechet distance on a classifier's features |
# | floor | `.frechet_floor` | the same for as many real images |
#
# 1. Training is Algorithm 1 (a batch, a random $t$ for each image, noise, a squared error) and three lines
#    more: a learning rate that rises and falls, clipping, an average of the weights.
# 2. The loss has a floor that nobody knows and flattens early, while the images keep getting better: judge
#    by samples, with the number of samples and the real-against-real floor beside every distance.
# 3. A training whose random numbers come from (seed, step), and that saves weights, averages, optimiser and
#    step, can be stopped at any moment and ends with the same bits.
#
# **Next:** [05 · Sampling](05_sampling.ipynb) opens the black box: how noise becomes an image.
#
# ### References
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: eq. 5, 8, 14; section 3.2
#   and Algorithm 1; section 4 and appendix B for the EMA and the settings of training.
# - Kingma, Salimans, Poole, Ho 2021, *Variational diffusion models*, arXiv 2107.00630: section 4, the bound by SNR.
# - Salimans, Ho 2022, *Progressive distillation*, arXiv 2202.00512: section 4 (target $v$).
# - Nichol, Dhariwal 2021, *Improved DDPM*, arXiv 2102.09672: section 3.3, the noise of the loss's gradient.
# - Kingma, Ba 2015, *Adam*, arXiv 1412.6980: Algorithm 1, and section 3 on its first steps.
# - Micikevicius et al. 2018, *Mixed precision training*, arXiv 1710.03740: what to keep in float32.
# - Heusel et al. 2017, *GANs trained by a two time-scale update rule*, arXiv 1706.08500: eq. 6, the Frechet
#   distance.
# - Xiao, Rasul, Vollgraf 2017, *Fashion-MNIST*, arXiv 1708.07747.
