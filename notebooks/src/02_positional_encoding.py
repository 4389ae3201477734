# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Positional encoding: telling the network what time it is
#
# {{badge}}
#
# ![The first 64 timesteps as binary numbers, and beside them as rows of sines and cosines: in both, fast columns flicker
# and slow ones hardly move](../data/pictures/02.png)
#
# *Timesteps as bits (left), and as the vector that you will write (right).*
#
# One network denoises at all thousand timesteps, so it must be told which one it is looking at. Nearly every
# diffusion model does that with the same odd-looking vector of sines and cosines. Why that vector? And what
# would be lost with something simpler?
#
# **At the end you have** written the sinusoidal encoding and a step in time on it, can read its picture, and have
# measured, on a problem whose best possible loss is known exactly, what a denoiser loses without $t$, with $t$ as a
# plain number, and with three kinds of features.
#
# **You need** Python, basic PyTorch (`nn.Module`, an optimiser), Bayes' rule. Helpful: notebook 01 (what $x_t$
# is); the one formula used from there is repeated.
#
# **Time:** about two minutes on two cores, most of it in the three cells that train. For you: 25 minutes of reading
# (sections marked *further* can wait) and 20 for your two pieces. The networks are so small that all work stays on the
# CPU; the GPU profile only trains more seeds for longer.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from utils.course import COLOURS, play
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import GaussianDiffusion, NoiseSchedule
from utils.diffusion.embeddings import TimestepEmbedding, sinusoidal_embedding

# %% [markdown]
# ## 1. Does the network need to know $t$? · *core*
#
# **The question: is the best answer to "what was $x_0$?" different at different $t$, for one and the same $x_t$?**
#
# We need data for which the best denoiser is a formula. Take points in the plane: one of eight centres $\mu_k$ on a
# circle, plus a little noise of standard deviation $c$ (a **mixture of Gaussians**).
# The forward process of notebook 01 (Ho et al. 2020, eq. 4) with the cosine schedule adds more:
#
# $$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sigma_t\, \epsilon, \qquad
# \sigma_t = \sqrt{1 - \bar\alpha_t}, \quad \epsilon \sim \mathcal N(0, I). $$

# %%
T = 1000  # number of timesteps, numbered 0 (least noise) to 999
K, SPREAD = 8, 0.1  # centres, and the standard deviation c around each
angles = 2 * math.pi * torch.arange(K) / K
CENTRES = torch.stack([angles.cos(), angles.sin()], dim=1)  # (K, 2)

schedule = NoiseSchedule.cosine(T)
signal = schedule.alphas_cumprod.sqrt().float()  # sqrt(alpha-bar_t), (T,)
sigma = (1 - schedule.alphas_cumprod).sqrt().float()  # sigma_t, (T,)


def draw_data(count, generator):
    """x_0 (count, 2) from the mixture."""
    k = torch.randint(K, (count,), generator=generator)
    return CENTRES[k] + SPREAD * torch.randn(count, 2, generator=generator)


def add_noise(x_0, t, noise):
    """x_t for x_0 and noise (..., 2) and timesteps t (...)."""
    return signal[t][..., None] * x_0 + sigma[t][..., None] * noise


# %% [markdown]
# **The best denoiser.** Among all functions $D(x_t, t)$ the squared error $\mathbb E\,\|x_0 - D(x_t, t)\|^2$ is
# smallest for the posterior mean $D^*(x_t, t) = \mathbb E[x_0 \mid x_t]$. Here it has a closed form:
#
# 1. *Which component was it?* If $x_0$ came from component $k$, then $x_t$ is Gaussian with mean
#    $\sqrt{\bar\alpha_t}\, \mu_k$ and variance $\bar\alpha_t c^2 + \sigma_t^2$ in each coordinate. By Bayes' rule,
#    $r_k(x_t) = p(k \mid x_t)$ is proportional to the density of that Gaussian at $x_t$: a softmax over $k$.
# 2. *Where in the component?* Given $k$, all is Gaussian, so the mean of $x_0$ is linear in $x_t$. Its slope is their
#    covariance, $\sqrt{\bar\alpha_t}\, c^2$, over the variance of $x_t$.
#
# $$ D^*(x_t, t) = \sum_k r_k(x_t) \Big[\mu_k + \frac{\sqrt{\bar\alpha_t}\, c^2}{\bar\alpha_t c^2 + \sigma_t^2}\,
# (x_t - \sqrt{\bar\alpha_t}\,\mu_k)\Big]. \tag{1} $$


# %%
def best_denoiser(x_t, t):
    """Eq. (1): E[x_0 | x_t] for x_t (..., 2), t (...); and log p(x_t) (...), for later."""
    a, noise_std = signal[t], sigma[t]
    variance = a**2 * SPREAD**2 + noise_std**2
    difference = x_t[..., None, :] - a[..., None, None] * CENTRES  # (..., K, 2)
    log_weights = -difference.square().sum(-1) / (2 * variance[..., None])  # (..., K)
    log_density = log_weights.logsumexp(-1) - torch.log(2 * math.pi * variance * K)
    gain = (a * SPREAD**2 / variance)[..., None, None]
    means = CENTRES + gain * difference
    return (log_weights.softmax(-1)[..., None] * means).sum(-2), log_density


# %% [markdown]
# **Was a slip made?** There is an independent way to the same answer. The **score** is the gradient of
# $\log p(x_t)$, and *Tweedie's formula* (Efron 2011) ties it to the posterior mean:
#
# $$ \nabla \log p(x_t) = \frac{\sqrt{\bar\alpha_t}\, D^*(x_t, t) - x_t}{\sigma_t^2}. \tag{2} $$
#
# (Differentiate $p(x_t) = \int p(x_0)\, \mathcal N(x_t; \sqrt{\bar\alpha_t}\, x_0, \sigma_t^2 I)\, dx_0$ under the
# integral, and divide by $p(x_t)$.) Autograd can differentiate our log density without knowing eq. (1):

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(0)
# Below t = 50, sigma_t^2 is so small that float32 loses digits.
t = torch.randint(50, T, (1000,), generator=generator)
x_t = torch.randn(1000, 2, generator=generator).requires_grad_()
denoised, log_density = best_denoiser(x_t, t)
(score,) = torch.autograd.grad(log_density.sum(), x_t)
tweedie = (signal[t][:, None] * denoised - x_t) / sigma[t][:, None] ** 2
torch.testing.assert_close(tweedie, score, rtol=1e-3, atol=1e-3)
print("The score by autograd and by the posterior mean agree at 1000 random points.")

# %% [markdown]
# **Predict before you run.** One fixed point, $x_t = (0.6,\ 0.1)$, is said to be a noisy point at $t = 100$; then at
# $t = 400$; then at $t = 800$. Where does the best denoiser put $x_0$ each time? Always at the nearest centre?

# %%
# NBVAL_CHECK_OUTPUT
point = torch.tensor([0.6, 0.1])
rows = []
for step in (100, 400, 800):
    answer = best_denoiser(point, torch.tensor(step))[0]
    numbers = [x.item() for x in (answer.norm(), signal[step], sigma[step])]
    rows.append([step, f"({answer[0]:.2f}, {answer[1]:.2f})", *numbers])
columns = ["t", "best x_0", "its distance from the origin", "signal", "sigma"]
pd.DataFrame(rows, columns=columns).set_index("t").round(2)

# %% [markdown]
# At $t = 100$ there is little noise, and the point is pulled most of the way to the nearest centre, $(1, 0)$. At
# $t = 800$ it is nearly all noise, and the best guess is not far from the mean of all data, the origin. **The same input
# needs different outputs, so a network that does not see $t$ cannot be right at all of them.**
#
# What is the best it can do? If $t$ is unknown and uniform, Bayes' rule gives a weight to each $t$, and the best answer
# is the average:
#
# $$ D^*_{\text{no } t}(x) = \sum_t p(t \mid x)\, D^*(x, t), \qquad
# p(t \mid x) = \frac{p_t(x)}{\sum_s p_s(x)}, \tag{3} $$
#
# where $p_t$ is the density of $x_t$. Both factors are known, so this is exact too.


# %%
def best_without_t(x, stride=5):
    """Eq. (3) for x (N, 2), with every `stride`-th timestep standing for its neighbours."""
    t = torch.arange(stride // 2, T, stride)[:, None].expand(-1, len(x))  # (T/stride, N)
    denoised, log_density = best_denoiser(x.expand(len(t), -1, -1), t)
    return (log_density.softmax(0)[..., None] * denoised).sum(0)


# %% tags=["figure"]
def headline(figure, text):
    figure.suptitle(text, x=0.01, ha="left")


line = torch.linspace(-1.4, 1.4, 9)
grid = torch.cartesian_prod(line, line)  # (81, 2)
fields = {}
for step in (100, 400, 800):
    fields[f"t = {step}"] = best_denoiser(grid, torch.full((len(grid),), step))[0]
fields["t unknown"] = best_without_t(grid)
figure, axes = plt.subplots(1, 4, figsize=(10, 3.1), sharex=True, sharey=True)
look = dict(angles="xy", scale_units="xy", scale=1, width=0.008, color=COLOURS[0])
for ax, (name, field) in zip(axes, fields.items()):
    ax.quiver(*grid.T, *(field - grid).T, **look)
    ax.plot(*CENTRES.T, "o", color=COLOURS[1], markersize=5)
    ax.set(title=name, aspect="equal", xlabel="first coordinate")
axes[0].set_ylabel("second coordinate")
title = "The best denoiser (arrow: from x to its answer) is another one at every t"
headline(figure, title)
plt.show()

# %% [markdown]
# At $t=100$ the arrows end near the nearest centre (orange), at $t=800$ all end near the middle. The last panel is a
# compromise that fits none of them.
#
# ## 2. Writing $t$ as a vector · *core*
#
# **The question: how do you hand a number between 0 and 999 to a network?**
#
# A network works best with inputs of size about one. The plain number 731 is huge, and the step to 732 changes it by a
# thousandth part. Scaled to $[-1, 1]$ it has a good size, but neighbouring timesteps differ by only 0.002. (Sections 6
# and 7 measure how bad that is.)
#
# The Transformer paper (Vaswani et al. 2017, section 3.5) had to number the words of a sentence and used sines and
# cosines at many frequencies. DDPM took that over for $t$. With $d$ numbers in all, $J = d/2$ frequencies and
# $M = 10{,}000$, called `max_period`:
#
# $$ \omega_i = M^{-i/(J-1)}, \quad i = 0, \dots, J-1, \qquad
# \mathrm{PE}(t) = \big(\sin \omega_0 t, \dots, \sin \omega_{J-1} t,\
# \cos \omega_0 t, \dots, \cos \omega_{J-1} t\big). \tag{4} $$
#
# The frequencies fall in equal *ratios* from $\omega_0 = 1$ to $\omega_{J-1} = 1/M$.
#
# ### Your turn: 02.1
#
# Write eq. (4) for a batch: every timestep of `t` becomes one row. `t.float()[:, None]` has shape (B, 1) and, times
# frequencies of shape (J,), gives all angles, (B, J).
#
# Write your lines in place of `raise NotImplementedError` and run the cell. `hint("02.1")` gives a hint, each call the
# next one; `solution("02.1")` shows an answer. You may also go on: the next cell has the course's version, and uses
# yours instead if it is right.


# %%
def encode(t, dim, max_period=10_000.0):
    """The sinusoidal encoding: sines, then cosines, at dim/2 frequencies.

    t: (B,) whole numbers. dim: even, at least 4. Returns float32, (B, dim).
    """
    raise NotImplementedError


check("02.1", encode)


# %%
def course_encode(t, dim, max_period=10_000.0):
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half) / (half - 1))
    angles = t.float()[:, None] * frequencies  # (B, 1) * (half,) -> (B, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


encode = choose("02.1", encode, course_encode)

# %% [markdown]
# **Check.** It is the function in `utils/diffusion/embeddings.py`.

# %%
# NBVAL_CHECK_OUTPUT
t = torch.arange(T)
torch.testing.assert_close(sinusoidal_embedding(t, 32), encode(t, 32), rtol=0, atol=1e-3)
first = encode(t[:1], dim=8)[0].tolist()
print(f"The same as utils for all {T} timesteps. t = 0 gives {first}")

# %% [markdown]
# ### Four arrangements under one name · *further*
#
# Implementations differ in two details: whether sines and cosines stand in two blocks or take turns (and which is
# first), and whether the exponent is $i/(J-1)$, which ends at $1/M$, or $i/J$, which ends a step before it. A
# network trained with one and run with another gets wrong timesteps and no error message.
#
# | who | order | exponent | in diffusers' terms |
# | --- | --- | --- | --- |
# | DDPM, this course, diffusers (1) | sines, cosines | $i/(J-1)$ | `flip_sin_to_cos=False`, `downscale_freq_shift=1` |
# | Stable Diffusion, diffusers (2) | cosines, sines | $i/J$ | `flip_sin_to_cos=True`, `downscale_freq_shift=0` |
# | the Transformer paper | taking turns | $i/J$ | none |
#
# (1) The bare function `get_timestep_embedding`. (2) Its network `UNet2DModel` by default.

# %%
try:
    from diffusers.models.embeddings import get_timestep_embedding
except (ImportError, RuntimeError):
    print("diffusers is not installed here (it need not be); the comparison is skipped.")
else:
    mine, theirs = encode(t, 32), get_timestep_embedding(t, 32)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)
    other = get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    print(f"diffusers' bare function: largest difference {(mine - theirs).abs().max():.0e}")
    print(f"the other arrangement: largest difference {(mine - other).abs().max():.1f}")

# %% [markdown]
# ## 3. Reading the heat map · *core*
#
# **The question: what do all those columns say?**
#
# Below: the encoding of the first 64 timesteps, one row each. Left of the white line the sines, right of it the
# cosines; in both blocks the frequency falls from left to right. Beside it the same timesteps as **binary numbers**.
#
# **Predict before you run.** A binary number's last bit flips at every step, the one before at every second step, and
# so on. Which columns of the encoding flip at nearly every step, and which hardly change?

# %% tags=["figure", "picture"]
bits = (torch.arange(64)[:, None] >> torch.arange(6)) & 1  # (64, 6), fastest bit first
figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), width_ratios=[1, 4])
axes[0].imshow(bits, aspect="auto")
axes[0].set(title="t in binary", xlabel="bit (fast to slow)", ylabel="timestep t")
picture = axes[1].imshow(encode(t[:64], dim=32), aspect="auto", vmin=-1, vmax=1)
axes[1].axvline(15.5, color="white", linewidth=2)
axes[1].set(title="Both count: fast columns left, slow columns right", ylabel="timestep t")
axes[1].set_xlabel("column: sines, fast to slow  |  cosines, fast to slow")
for ax in axes:
    ax.grid(False)
figure.colorbar(picture, ax=axes[1], label="value")
plt.show()

# %% [markdown]
# The left columns of each block flicker; the right ones hardly move. It is a counter with soft digits: a bit jumps, a
# sine slides, so that a small change of $t$ makes a small change of the vector.
#
# Or think of a **clock with sixteen hands**. The pair $(\cos\omega_i t, \sin\omega_i t)$ is the tip of
# hand $i$, at angle $\omega_i t$. The fastest hand tells neighbouring times apart but comes round again every
# $2\pi \approx 6.3$ steps; a slow hand is not precise, but says which round it is.

# %% tags=["figure"]
hands, times = [0, 3, 6, 9, 12, 15], [0, 1, 10, 100, 900]
frequencies = 10_000.0 ** (-torch.arange(16) / 15)
figure, axes = plt.subplots(len(times), len(hands), figsize=(7, 5.6))
for row, step in zip(axes, times):
    for ax, i in zip(row, hands):
        angle = float(frequencies[i] * step)
        ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.7"))
        ax.plot([0, math.cos(angle)], [0, math.sin(angle)], color=COLOURS[1], linewidth=2.5)
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    row[0].set_ylabel(f"t = {step}", rotation=0, ha="right", va="center")
for ax, i in zip(axes[0], hands):
    period = 2 * math.pi / frequencies[i]
    ax.set_title(f"hand {i}\nperiod {period:,.0f}", fontsize=9, loc="center")
title = "One timestep is one row: fast hands tell near times apart, slow hands far ones"
headline(figure, title)
plt.show()

# %% [markdown]
# Hand 15 has hardly moved at $t = 900$: the number 10,000 was chosen for sentences, and everybody kept it. How many
# hands do less than a quarter turn in our 1000 steps?

# %%
# NBVAL_CHECK_OUTPUT
lazy = {}
for max_period in (10_000, 1_000, 100):
    frequencies = max_period ** (-torch.arange(16, dtype=torch.float64) / 15)
    lazy[max_period] = int((frequencies * T < math.pi / 2).sum())
slowest = encode(t, dim=32)[:, 15]
print(f"The slowest sine at t = 999 is {slowest[999]:.4f}; 999/10000 = {999 / 10_000:.4f}")
column = f"of 16 hands, turn less than a quarter in {T} steps"
pd.DataFrame({column: lazy}).rename_axis("max_period")

# %% [markdown]
# Five of sixteen hands are lazy, but not useless: $\sin\omega t \approx \omega t$ for small angles, so the slowest
# sine is nearly $t/10{,}000$. **The encoding contains the raw timestep**, next to finer and finer versions of it.
#
# ## 4. A step in time is a rotation · *core*
#
# **The question: can a network tell from two encodings how far apart the timesteps are?**
#
# $n$ steps later, hand $i$ has turned by the angle $\omega_i n$, wherever it stood. So the encoding of $t + n$ follows
# from that of $t$ by one linear map, the same at all $t$: a linear layer can compute "ten steps later".
#
# ### Your turn: 02.2
#
# You get the encodings of some timesteps $t$, in the arrangement of eq. (4), and $n$ (`steps`), but not $t$. Write the
# encodings of $t + n$. What you need are the formulas for $\sin(\varphi + \psi)$ and $\cos(\varphi + \psi)$.
# `encoding.chunk(2, dim=1)` gives the sines and the cosines, (B, dim/2) each. (`hint("02.2")`, `solution("02.2")`.)


# %%
def advance(encoding, steps, max_period=10_000.0):
    """The encodings of t + steps, from the encodings of t alone.

    encoding: (B, dim), float32, stays as it is. steps: a whole number, may be negative.
    Returns float32, (B, dim).
    """
    raise NotImplementedError


check("02.2", advance)


# %%
def course_advance(encoding, steps, max_period=10_000.0):
    sines, cosines = encoding.chunk(2, dim=1)  # (B, half) each
    half = sines.shape[1]
    turn = steps * max_period ** (-torch.arange(half) / (half - 1))  # (half,)
    new_sines = sines * turn.cos() + cosines * turn.sin()
    new_cosines = cosines * turn.cos() - sines * turn.sin()
    return torch.cat([new_sines, new_cosines], dim=1)


advance = choose("02.2", advance, course_advance)

# %% [markdown]
# ### Dot products measure distance
#
# Multiply the encodings of $t$ and $s$ and use $\cos\varphi\cos\psi + \sin\varphi\sin\psi = \cos(\varphi - \psi)$:
#
# $$ \mathrm{PE}(t)\cdot\mathrm{PE}(s)
# = \sum_{i=0}^{J-1} \big(\sin\omega_i t \,\sin\omega_i s + \cos\omega_i t\,\cos\omega_i s\big)
# = \sum_{i=0}^{J-1} \cos\big(\omega_i (t - s)\big). \tag{5} $$
#
# The right side knows only the **distance** $t - s$: turning both clocks alike changes nothing. At distance 0 it is
# $J$, so all encodings have the same length $\sqrt J$.
#
# **Predict before you run.** Is the dot product of timesteps 100 and 110 larger than, equal to, or smaller than that
# of 900 and 910?

# %%
# NBVAL_CHECK_OUTPUT
encodings = encode(t, dim=32)
frequencies = 10_000.0 ** (-torch.arange(16) / 15)
rows = {}
for n in (1, 10, 200):
    later = advance(encodings, n)  # (T, 32): from t to t + n, without t
    torch.testing.assert_close(later[:-n], encodings[n:], rtol=0, atol=1e-3)
    products = (encodings * later).sum(1)  # PE(t) . PE(t + n), (T,)
    values = [products[100], products[900], torch.cos(frequencies * n).sum()]
    rows[n] = [x.item() for x in values]
columns = ["PE(t) . PE(t + n) at t = 100", "at t = 900", "eq. (5)"]
pd.DataFrame(rows, index=columns).T.rename_axis("n").round(2)

# %% tags=["figure"]
distance = torch.arange(0, 1000)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for anchor, style in ((0, "-"), (300, "--"), (600, ":")):
    values = encodings[anchor:] @ encodings[anchor] / 16
    axes[0].plot(values[:300], style, label=f"from t = {anchor}", linewidth=2)
axes[0].set(title="One curve, whatever the start", ylabel="dot product / J")
for max_period, colour in zip((100, 1_000, 10_000), COLOURS[3:]):
    frequencies = max_period ** (-torch.arange(16) / 15)
    curve = torch.cos(distance[:, None] * frequencies).mean(1)
    axes[1].plot(distance, curve, label=f"max_period {max_period:,}", color=colour)
axes[1].set_title("Lazy hands keep the curve up")
for ax in axes:
    ax.set_xlabel("distance |t - s|")
    ax.legend()
plt.show()

# %% [markdown]
# Equal. The curve falls steeply over the first few steps (the fast hands
# part company), then slowly (the slow ones still agree). Two things it is *not*:
#
# - **Not a ruler.** Timesteps 150 apart look nearer than timesteps 100 apart, because several hands happen to have come
#   round. "Near times have similar vectors" is true, the converse is not.
# - **Not zero for far times.** With $M = 10{,}000$ the lazy hands keep the similarity mostly above zero; with $M = 100$
#   only ripple around zero is left.
#
# ### Play · *further*
#
# The heat map shows all timesteps, the lines in it are the two that you pick (orange the first, blue the second); the
# dot marks their similarity.


# %% tags=["figure"]
def draw_encoding(dim=32, max_period=10_000, first=100, second=250):
    encodings = encode(torch.arange(T), dim, max_period)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    axes[0].imshow(encodings, aspect="auto", vmin=-1, vmax=1, interpolation="none")
    for step, colour in ((first, COLOURS[1]), (second, COLOURS[5])):
        axes[0].axhline(step, color=colour, linewidth=2)
    axes[0].set(xlabel="column (sines | cosines)", ylabel="timestep t")
    axes[0].set_title(f"dim {dim}, max_period {max_period:,}")
    axes[0].grid(False)
    similarity = encodings @ encodings[0] / (dim // 2)
    apart = abs(first - second)
    axes[1].plot(similarity)
    axes[1].plot(apart, similarity[apart], "o", color=COLOURS[1], markersize=9)
    axes[1].set(xlabel="distance |t - s|", ylabel="dot product / J", ylim=(-1.05, 1.05))
    axes[1].set_title(f"t = {first}, s = {second}: similarity {similarity[apart]:.2f}")
    return figure


draw_encoding()
plt.show()

# %%
periods = [100, 1_000, 10_000, 100_000]
steps = (0, 999)
play(draw_encoding, dim=[8, 16, 32, 64, 128], max_period=periods, first=steps, second=steps)

# %% [markdown]
# Try `dim` 8, a clock with four hands: timesteps 6 apart look more alike than those 3 apart. `dim` 128: the ripple
# shrinks. `max_period` 100,000: more hands fall asleep, and the curve moves up.
#
# ## 5. The alternatives · *core*
#
# **The question: what else could one hand to the network?** Four ways:
#
# - **Raw**: $t$ scaled to $[-1, 1]$. One number.
# - **Learned table**: a free vector for every timestep, found by training (`nn.Embedding`). Starts as random numbers.
# - **Fourier features** (Tancik et al. 2020): sines and cosines like ours, but at *random* frequencies. Their spread
#   `scale`, in turns over the whole process, sets how fine the features are.
# - **Sinusoidal**: eq. (4).
#
# **Predict before you run.** The pictures below show the similarity (dot product) of every pair of timesteps. For
# which of the four does it depend only on the distance, so that the picture consists of diagonal bands?


# %%
class RawTimestep(nn.Module):
    """t scaled to [-1, 1], as one number: (B,) -> (B, 1)."""

    def forward(self, t):
        return (2 * t.float() / (T - 1) - 1)[:, None]


class SinusoidalEmbedding(nn.Module):
    """Eq. (4) as a module: (B,) -> (B, dim)."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, t):
        return encode(t, self.dim)


# %%
class FourierFeatures(nn.Module):
    """Sines and cosines of t/T at random, fixed frequencies: (B,) -> (B, dim)."""

    def __init__(self, dim, scale, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        turns = scale * torch.randn(dim // 2, generator=generator)  # over the whole process
        self.register_buffer("turns", turns)

    def forward(self, t):
        angles = 2 * math.pi * (t.float() / T)[:, None] * self.turns
        return torch.cat([angles.sin(), angles.cos()], dim=1)


# %% tags=["figure"]
torch.manual_seed(0)
ways = {
    "raw t": RawTimestep(),
    "table, untrained": nn.Embedding(T, 32),
    "Fourier, scale 1": FourierFeatures(32, scale=1.0),
    "Fourier, scale 16": FourierFeatures(32, scale=16.0),
    "sinusoidal": SinusoidalEmbedding(32),
}
figure, axes = plt.subplots(1, 5, figsize=(11, 2.7), sharey=True)
for ax, (name, way) in zip(axes, ways.items()):
    with torch.no_grad():
        features = way(torch.arange(0, T, 5))  # every fifth timestep
    similarity = features @ features.T
    similarity = similarity / similarity.max()
    picture = ax.imshow(similarity, vmin=-1, vmax=1, extent=(0, T, T, 0))
    ax.set(title=name, xlabel="timestep s", xticks=(0, 500, 1000))
    ax.grid(False)
axes[0].set_ylabel("timestep t")
figure.colorbar(picture, ax=axes, label="dot product / largest")
title = "Bands: similarity by distance. The table knows no neighbours, raw t no distance"
headline(figure, title)
plt.show()

# %% [markdown]
# Sinusoidal and Fourier features: bands. They obey eq. (5), each with its own frequencies. At scale 1 the band is wide,
# at scale 16 narrow (the fainter stripes are chance, from 16 random frequencies). The untrained table: every timestep is
# like itself and no other, so what is learned at $t = 500$ says nothing about $t = 501$. Raw $t$ knows no distance.
#
# ## 6. What can a small network make of $t$? · *core*
#
# **The question: which functions of $t$ does a small MLP learn from which features?**
#
# Networks trained by gradient descent learn slowly varying functions first and quickly varying ones late or never:
# **spectral bias** (Rahaman et al. 2019). Features that vary quickly themselves are a way round it. The same small MLP
# shall learn a slow function, $\sin(2\pi t/T)$, and a fast one, $\sin(20 \cdot 2\pi t/T)$, twenty turns over the
# process. Every fourth timestep is held out. All networks of one kind, each with its own seed, train side by side: the
# gradient of a sum of losses is for each network its own.


# %%
def train(models, draw_batch, steps, bar, weight=lambda *inputs: 1.0):
    """Adam. draw_batch() gives (inputs, target) for each model; weight is for section 8."""
    learning_rate = 3e-3
    parameters = [p for model in models for p in model.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    for _ in range(steps):
        losses = [
            (weight(*inputs) * (model(*inputs) - target).square()).mean()
            for model, (inputs, target) in zip(models, draw_batch())
        ]
        optimiser.zero_grad()
        sum(losses).backward()
        optimiser.step()
        decay.step()
        bar.update()


class Unscaled(nn.Module):
    """The plain number 0 to 999: (B,) -> (B, 1)."""

    def forward(self, t):
        return t.float()[:, None]


# %%
def features_by_name(seed):
    """Each way to write t, and how many numbers it gives."""
    return {
        "raw t, not scaled": (Unscaled(), 1),
        "raw t": (RawTimestep(), 1),
        "sinusoidal": (SinusoidalEmbedding(32), 32),
        "Fourier, scale 1": (FourierFeatures(32, scale=1.0, seed=seed), 32),
        "Fourier, scale 16": (FourierFeatures(32, scale=16.0, seed=seed), 32),
        "learned table": (nn.Embedding(T, 32), 32),
    }


def make_mlp(name, seed):
    torch.manual_seed(seed)
    way, width = features_by_name(seed)[name]
    first, second, last = nn.Linear(width, 64), nn.Linear(64, 64), nn.Linear(64, 1)
    return nn.Sequential(way, first, nn.SiLU(), second, nn.SiLU(), last)


# %% [markdown]
# **Predict before you run.** Which features will fail on the fast function? Which on the held-out timesteps?

# %%
seeds = course.pick(test=2, cpu=5, gpu=8)
fit_steps = course.pick(test=60, cpu=800, gpu=1500)
targets = {
    "slow": torch.sin(2 * math.pi * t / T),
    "fast": torch.sin(20 * 2 * math.pi * t / T),
}
held_out = t % 4 == 2
seen = t[~held_out]
names = list(features_by_name(0))
fits = {}
total = 2 * len(names) * fit_steps
with tqdm(total=total, desc="six kinds of features, two functions", leave=False) as bar:
    for kind, target in targets.items():
        batches = [((seen,), target[seen][:, None])] * seeds  # all in one batch
        for name in names:
            models = [make_mlp(name, seed) for seed in range(seeds)]
            train(models, batches.copy, fit_steps, bar)
            with torch.no_grad():
                fits[kind, name] = torch.stack([model(t)[:, 0] for model in models])


# %%
def mean_and_std(values, form):
    return f"{values.mean():{form}} ± {values.std():{form}}"


rows = {name: {} for name in names}
for (kind, name), fit in fits.items():
    errors = (fit - targets[kind]).square()  # (seeds, T)
    rows[name][f"{kind}, seen"] = mean_and_std(errors[:, ~held_out].mean(1), ".1e")
    rows[name][f"{kind}, held out"] = mean_and_std(errors[:, held_out].mean(1), ".1e")
print(f"mean squared error (0.5 for predicting 0), mean ± std over {seeds} seeds")
pd.DataFrame(rows).T

# %% tags=["figure"]
shown = ["raw t, not scaled", "raw t", "sinusoidal", "learned table"]
figure, axes = plt.subplots(1, 4, figsize=(11, 2.8), sharey=True)
window = slice(400, 600)
for ax, name in zip(axes, shown):
    ax.plot(t[window], targets["fast"][window], color="0.6", linewidth=4)
    ax.plot(t[window], fits["fast", name][0, window], color=COLOURS[1])
    ax.set(title=name, xlabel="timestep t", ylim=(-2, 2))
axes[0].set_ylabel("value")
title = "Twenty turns: too fast for raw t, easy for features that turn fast themselves"
headline(figure, title)
plt.show()

# %% [markdown]
# - *Raw t* learns the slow function and not the fast one (grey: what is wanted; orange: what was learnt). *Fourier
#   features at scale 1* have the same trouble, only less of it: none of their random frequencies comes near twenty
#   turns.
# - *Sinusoidal* and *Fourier at scale 16* contain frequencies near the wanted one and learn both functions.
# - *The table* fails on the held-out timesteps, whose rows are still random. So it cannot serve continuous time, nor a
#   $T$ that changes between training and sampling.
# - *Raw t, not scaled*: **the pitfall.** The same number as raw $t$, but 500 times as large, and even the slow function
#   comes out more than a thousand times worse in the run shown. Scale what you feed a network.
#
# So features matter *if the function of $t$ that is wanted has fine detail*. Does denoising want such a function?
#
# ## 7. The measurement: a denoiser with and without $t$ · *core*
#
# **The question: how much worse than the best possible is a denoiser, for each way to tell it $t$?**
#
# Now the real task: given $x_t$ and $t$, predict $x_0$. The loss of a denoiser $D$ splits into two parts. Because $D^*$
# is the conditional mean, $x_0 - D^*$ is uncorrelated with every function of $(x_t, t)$, in particular with $D^* - D$,
# so
#
# $$ \mathbb E\,\|x_0 - D\|^2 = \underbrace{\mathbb E\,\|x_0 - D^*\|^2}_{\text{optimal loss: nobody can avoid it}}
#  + \underbrace{\mathbb E\,\|D^* - D\|^2}_{\text{excess loss: what this denoiser loses}}. \tag{6} $$
#
# The first part is far larger than the differences we look for. We know $D^*$, so we can measure the second directly.
# For a denoiser that does not see $t$ its smallest value is eq. (6) with eq. (3) for $D$. All losses below are per
# coordinate.

# %%
points_per_t = course.pick(test=64, cpu=256, gpu=1024)
generator = torch.Generator().manual_seed(1)
test_t = torch.arange(0, T, 10).repeat_interleave(points_per_t)  # every tenth timestep
test_x_0 = draw_data(len(test_t), generator)
test_x_t = add_noise(test_x_0, test_t, torch.randn(len(test_t), 2, generator=generator))
test_best, _ = best_denoiser(test_x_t, test_t)
test_blind = torch.cat([best_without_t(part) for part in test_x_t.split(2048)])


def by_timestep(x, y):
    """Mean squared difference at each test timestep: (..., N, 2) -> (..., 100)."""
    return (x - y).square().mean(-1).unflatten(-1, (-1, points_per_t)).mean(-1)


optimal = by_timestep(test_x_0, test_best)
floor_without_t = by_timestep(test_best, test_blind)
losses = {
    "predicting 0 everywhere": test_x_0.square().mean(),
    "optimal, knowing t": optimal.mean(),
    "optimal, not knowing t": by_timestep(test_x_0, test_blind).mean(),
    "the same by the right side of eq. (6)": optimal.mean() + floor_without_t.mean(),
    "excess that no denoiser without t can avoid": floor_without_t.mean(),
}
pd.DataFrame({"loss": {name: loss.item() for name, loss in losses.items()}}).round(4)

# %% [markdown]
# The loss without $t$ comes out alike by both ways, up to chance. Not knowing $t$ costs at least 0.05 here, about a
# sixth of the optimal loss.
#
# **The denoiser.** As in the U-Net of notebook 03, the features of $t$ go through two linear layers. Here they are
# simply *added* to the hidden units; there they become a scale and a shift. Everything but the features is the same for
# all.


# %%
class Denoiser(nn.Module):
    """x_0 from x_t (B, 2) and t (B,). `way` makes `width` features of t or is None."""

    def __init__(self, way, width, hidden=64):
        super().__init__()
        self.way = way
        self.point = nn.Linear(2, hidden)
        if way is not None:
            first, second = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
            self.time = nn.Sequential(first, nn.SiLU(), second)
        first, second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        last = nn.Linear(hidden, 2)
        self.body = nn.Sequential(nn.SiLU(), first, nn.SiLU(), second, nn.SiLU(), last)

    def forward(self, x_t, t):
        hidden = self.point(x_t)
        if self.way is not None:
            hidden = hidden + self.time(self.way(t))
        return self.body(hidden)


def make_denoiser(name, seed, hidden=64):
    torch.manual_seed(seed)
    way, width = (None, 0) if name == "no t" else features_by_name(seed)[name]
    return Denoiser(way, width, hidden)


# %% [markdown]
# **Check.** Two linear layers on sinusoidal features are the `TimestepEmbedding` of the course's U-Net.

# %%
# NBVAL_CHECK_OUTPUT
mine, theirs = make_denoiser("sinusoidal", seed=0), TimestepEmbedding(32, 64)
theirs.layers.load_state_dict(mine.time.state_dict())
torch.testing.assert_close(mine.time(mine.way(t)), theirs(t), rtol=0, atol=1e-3)
treatments = ["no t", *names]
weights = {}
for name in treatments:
    weights[name] = sum(p.numel() for p in make_denoiser(name, seed=0).parameters())
pd.DataFrame({"weights": weights})

# %% [markdown]
# Every seed sees the same data, noise and timesteps under all seven treatments. The training takes up to a minute.
#
# **Predict before you run.** Write down an order, from the largest excess to the smallest. And: at which timesteps
# will a denoiser without $t$ lose most, and at which least?

# %%
train_steps, batch_size = course.pick(test=40, cpu=2000, gpu=3000), 256


def make_batches(seed, count):
    """A function that draws ((x_t, t), x_0) for `count` models, alike every time."""
    generator = torch.Generator().manual_seed(seed)

    def draw_batch():
        x_0 = draw_data(count * batch_size, generator).unflatten(0, (count, batch_size))
        t = torch.randint(T, (count, batch_size), generator=generator)
        x_t = add_noise(x_0, t, torch.randn(x_0.shape, generator=generator))
        return zip(zip(x_t, t), x_0)

    return draw_batch


# %%
trained, excess = {}, {}
with tqdm(total=len(treatments) * train_steps, desc="seven treatments", leave=False) as bar:
    for name in treatments:
        trained[name] = [make_denoiser(name, seed) for seed in range(seeds)]
        train(trained[name], make_batches(seed=2, count=seeds), train_steps, bar)

for name in treatments:
    with torch.no_grad():
        output = torch.stack([model(test_x_t, test_t) for model in trained[name]])
    excess[name] = by_timestep(output, test_best)  # (seeds, 100): seed, test timestep

# %%
mean_excess = {name: excess[name].mean(1) for name in treatments}  # (seeds,) each
order = sorted(treatments, key=lambda name: mean_excess[name].mean())
rows = {}
for name in order:
    each = mean_excess[name]
    rows[name] = {
        "excess loss, mean ± std over seeds": mean_and_std(each, ".5f"),
        "of the optimal loss": f"{each.mean() / optimal.mean():.2%}",
    }
least = floor_without_t.mean()
print(f"least possible without t: {least:.5f}")
pd.DataFrame(rows).T

# %% tags=["figure"]
colour_of = dict(zip(treatments, [COLOURS[k] for k in (6, 4, 1, 0, 5, 2, 3)]))
figure, ax = plt.subplots(figsize=(8, 3.4))
for row, name in enumerate(order[::-1]):
    each = mean_excess[name]
    look = {"fmt": "s", "color": colour_of[name], "capsize": 5, "markersize": 7}
    ax.errorbar(each.mean(), row, xerr=each.std(), **look)
    ax.plot(each, [row - 0.25] * seeds, ".", color=colour_of[name], alpha=0.6)
ax.axvline(least, color="0.5", linestyle="--")
label = "no denoiser without t\ncan get below"
ax.text(least * 0.96, 1, label, ha="right", va="center", color="0.3")
ax.set(xscale="log", yticks=range(len(order)), yticklabels=order[::-1])
ax.set_xlabel("excess loss over the exact optimum (mean ± std over seeds; dots: seeds)")
ax.set_title("With t in almost any form: far below what is possible without it")
plt.show()

# %% [markdown]
# 1. *Not knowing $t$ costs most*, apart from the unscaled $t$, which is a plain mistake. The loss without $t$ is close
#    to the dashed line: nothing that sees only $x_t$ can do better, however large or well trained.
# 2. *Any sensible form of $t$ removes nearly all of that.* What is left is below one percent of the optimal loss.
# 3. *The pitfall is no better than no $t$ at all*, and with some seeds far worse: what training makes of inputs up to
#    999 is a matter of luck.
# 4. *Raw $t$ does nearly as well as the sinusoidal encoding.* The reason is section 6: the best denoiser depends on $t$
#    only through $\bar\alpha_t$, a slow, smooth curve, and slow functions of $t$ are what raw $t$ is good at.
#
# Are the small differences real? All treatments saw the same data seed by seed, so subtract seed by seed:

# %%
rows = {}
for name in names:
    if name != "sinusoidal":
        difference = (excess[name] - excess["sinusoidal"]).mean(1)
        error = difference.std() / math.sqrt(seeds)
        rows[name] = {
            "difference to sinusoidal": f"{difference.mean():+.5f} ± {error:.5f}",
            "in standard errors": f"{difference.mean() / error:+.1f}",
        }
print("on the same data, mean ± standard error over seeds")
pd.DataFrame(rows).T

# %% [markdown]
# With five seeds chance alone exceeds 2.8 standard errors once in twenty times (Student's t with 4 degrees of freedom).
# Five comparisons are five chances to be misled: for all together the yardstick is 4.6. By it only the learned table is
# clearly apart in the run shown; *raw t, not scaled* has by far the largest difference, but seeds far apart. *Fourier
# features at scale 1* are between the yardsticks, on the better side: if anything, they beat the sinusoidal encoding.
#
# ### Where does each one lose?


# %% tags=["figure"]
def smooth(values):
    """Four neighbouring test timesteps together: (..., 100) -> (..., 25)."""
    return values.unflatten(-1, (-1, 4)).mean(-1)


figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True, sharey=True)
axis_t, least = smooth(torch.arange(0.0, T, 10)), smooth(floor_without_t)
axes[0].plot(axis_t, least, "--", color="0.4", label="least without t (exact)")
for ax, shown in zip(axes, (["no t", "raw t, not scaled", "sinusoidal"], names[1:])):
    for name in shown:
        curve, colour = smooth(excess[name]), colour_of[name]  # (seeds, 25)
        ax.plot(axis_t, curve.mean(0), color=colour, label=name)
        ax.fill_between(axis_t, curve.amin(0), curve.amax(0), color=colour, alpha=0.2)
    ax.set(yscale="log", xlabel="timestep t", ylim=(1e-5, 0.9))  # room for a legend below
    ax.legend(fontsize=8, ncols=2)
axes[0].set_ylabel("excess loss (mean; band: range of seeds)")
axes[0].set_title("Without t: blind at both ends")
axes[1].set_title("With t: small everywhere")
plt.show()

# %% [markdown]
# **Without $t$** (left), the loss is large at both ends. Near $t = 0$ the denoiser should leave $x_t$ nearly alone, and
# near $t = 999$ it should ignore $x_t$; the compromise of eq. (3) does neither. (The measured curve may run below the
# exact one at some timesteps: only the *average* over $t$ cannot be beaten.)
#
# **With $t$** (right), most of what is left is at small $t$, for *all* features alike: there the best denoiser has
# sharp borders between the eight centres, and a network of this size, trained this briefly, rounds them off: spectral
# bias again, in $x_t$ this time. At larger $t$ *the learned table* loses most: what one row learns is of no use to its
# neighbour.
#
# **What follows for practice?** That *some* usable form of $t$ is there matters far more than which one. The wanted
# function of $t$ is slow here, and slow features suit it: scale 1 is at least as good as the sinusoidal encoding, raw
# $t$ nearly so. On the fast function of section 6 the same two failed. The sinusoidal encoding is close to the best
# here, copes with slow and fast functions alike, and has no weights to learn. It has a scale too, `max_period`, but a
# forgiving one: frequencies in equal ratios over four powers of ten hold both fast and slow ones for hundreds or
# thousands of steps. (For a $t$ from 0 to 1 it would not do: then all hands are lazy.)
#
# **A limit of this experiment.** Two coordinates say little about how much noise is in them. From an image's thousands
# of pixels a network can guess it: Sun et al. (2025) found that many image models lose little without $t$. Notebook 03
# measures it.
#
# ## 8. What it means for samples · *core*
#
# **The question: what do points look like that are drawn with such a denoiser?**
#
# Sampling (notebook 05) starts from pure noise and walks from $t = 999$ down to 0; at each step it asks the denoiser
# for $x_0$ and draws $x_{t-1}$ from the posterior $q(x_{t-1} \mid x_t, x_0)$ of notebook 01 with that answer. The errors
# of a thousand steps add up, so we train networks of twice the width four times as long, for less than a minute.
#
# One of them gets other weights. How wide a cluster comes out is decided in the last steps, where the noise is weaker
# than the cluster is wide ($\sigma_t < c$). What $x_t$ leaves open about $x_0$ is little there, so all errors are small,
# and a plain mean over all $t$ hardly notices them. The fourth network's squared errors are divided by $\sigma_t^2$, but
# by no less than $c^2$. What is best at a known $t$ stays the same.


# %%
def plain(x_t, t):
    return 1.0


def quiet_steps_count(x_t, t):
    """1 / sigma_t^2, at most 1 / c^2: the weight of a squared error, (B, 1)."""
    return 1 / sigma[t].square().clamp(min=SPREAD**2)[:, None]


plans = {name: (name, plain) for name in ("sinusoidal", "raw t", "no t")}
plans["sinusoidal, weighted"] = "sinusoidal", quiet_steps_count
long_steps = 4 * train_steps
denoisers = {"best denoiser": lambda x_t, t: best_denoiser(x_t, t)[0]}
with tqdm(total=len(plans) * long_steps, desc="four larger networks", leave=False) as bar:
    for label, (name, weight) in plans.items():
        denoisers[label] = make_denoiser(name, seed=0, hidden=128)
        batches = make_batches(seed=2, count=1)
        train([denoisers[label]], batches, long_steps, bar, weight)

# %% [markdown]
# First one step: 600 noisy points at three timesteps, and where each denoiser puts them. **Predict before you run:** at
# $t = 50$ the points are nearly clean, and a denoiser need do almost nothing. What will the one without $t$ do to them?


# %% tags=["figure"]
def plot_points(ax, points, colour):
    ax.plot(*points.T, ".", color=colour, markersize=2)
    ax.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), aspect="equal")


shown = {"noisy points": lambda x_t, t: x_t}
for name in ("best denoiser", "sinusoidal", "no t"):
    shown[name] = denoisers[name]
colours = ["0.5", COLOURS[6], COLOURS[0], COLOURS[1]]
generator = torch.Generator().manual_seed(3)
x_0, noise = draw_data(600, generator), torch.randn(600, 2, generator=generator)
figure, axes = plt.subplots(3, 4, figsize=(9.5, 7), sharex=True, sharey=True)
for row, step in zip(axes, (50, 400, 900)):
    steps = torch.full((600,), step)
    x_t = add_noise(x_0, steps, noise)
    for ax, denoise, colour in zip(row, shown.values(), colours):
        plot_points(ax, denoise(x_t, steps).detach(), colour)
    row[0].set_ylabel(f"t = {step}\nsecond coordinate")
for top, bottom, title in zip(axes[0], axes[-1], shown):
    top.set_title(title)
    bottom.set_xlabel("first coordinate")
headline(figure, "Without t nearly clean points are damaged, and noise is taken for data")
plt.show()

# %% [markdown]
# **Without $t$** the nearly clean points of the first row are pulled inwards: they might be a lucky draw at a late
# timestep. In the last row the best answer is near the middle, and it still answers as if there were something to see.
#
# Now all thousand steps:

# %%
diffusion = GaussianDiffusion(schedule, prediction="x_0")


@torch.no_grad()
def sample_points(denoise, count, seed=4):
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) with denoise(x_t, t) -> x_0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator)
    for step in range(T - 1, -1, -1):
        t = torch.full((count,), step)
        mean, variance = diffusion.q_posterior(denoise(x, t), x, t)
        x = mean + variance.sqrt() * torch.randn(count, 2, generator=generator)
    return x


count = course.pick(test=100, cpu=2000, gpu=2000)
drawn = {"real data": draw_data(count, torch.Generator().manual_seed(5))}
for name, denoise in denoisers.items():
    drawn[name] = sample_points(denoise, count)

# %%
rows = {}
for name, points in drawn.items():
    nearest = torch.cdist(points, CENTRES).min(1)
    shares = torch.bincount(nearest.indices, minlength=K) / count
    near = nearest.values < 3 * SPREAD
    rows[name] = {
        "near a centre": f"{near.float().mean():.1%}",
        "their scatter": f"{nearest.values[near].square().mean().div(2).sqrt():.3f}",
        "rarest of the eight": f"{shares.min():.1%}",
        "most frequent": f"{shares.max():.1%}",
        "mean distance from the origin": f"{points.norm(dim=1).mean():.2f}",
    }
pd.DataFrame(rows).T

# %% tags=["figure"]
figure, axes = plt.subplots(1, 5, figsize=(11, 2.9), sharex=True, sharey=True)
for ax, name in zip(axes, denoisers):
    plot_points(ax, drawn[name][:1000], COLOURS[0])
    ax.set(title=name, xlabel="first coordinate")
axes[0].set_ylabel("second coordinate")
headline(figure, "With t, in either form: eight clusters; without t: a heap in the middle")
plt.show()

# %% [markdown]
# "Near" means within three standard deviations of a centre. **With $t$**, in either form, nearly all samples are near a
# centre, and each centre gets about an eighth. **Without $t$** the samples collapse to the middle (none is near a
# centre, so they have no scatter: `nan`). How $t$ is written makes little difference, as section 7 let expect.
#
# **The plain loss makes clusters that are too narrow**: their scatter is less than half of the data's. With weights it
# comes near the data's, while a few more points lie between the clusters. (Weights also change what a network without
# $t$ compromises on: they tell eq. (3) which $t$ to serve. *Further:* give them to "no t". Does it still collapse?)
#
# ## 9. Exercises · *further*
#
# As in *your turn*, with `hint("02.3")`, `solution("02.3")`, and so on.
#
# ### 02.3 *(further)* The best denoiser of two points
#
# The smallest interesting data set: $x_0$ is $-1$ or $+1$, each with probability one half. Derive
# $\mathbb E[x_0 \mid x_t]$ and write it; the answer fits in one line. It must not overflow when the noise is small.


# %%
def denoise_two_points(x_t, signal, sigma):
    """E[x_0 | x_t], (B,), for x_t = signal * x_0 + sigma * noise, x_0 = -1 or +1."""
    raise NotImplementedError


check("02.3", denoise_two_points)

# %% [markdown]
# ### 02.4 *(further)* The best denoiser that is not told $t$
#
# The same data, but $t$ is unknown, each timestep equally likely: eq. (3). You may use your answer to 02.3.


# %%
def denoise_without_t(x_t, signals, sigmas):
    """E[x_0 | x_t], (B,), of the same data; each t of signals, sigmas (T,) as likely."""
    raise NotImplementedError


check("02.4", denoise_without_t)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $d$, $J = d/2$ | `dim`, `half` | length of the encoding; number of frequencies |
# | $M$ | `max_period` | $1/M$ is the lowest frequency; usually 10,000 |
# | $\omega_i = M^{-i/(J-1)}$ | `frequencies` | radians per timestep of hand $i$ |
# | $\mathrm{PE}(t)$ | `encode(t, dim)` | sines, then cosines, of $\omega_i t$; in utils `sinusoidal_embedding` |
# | $\sqrt{\bar\alpha_t}, \sigma_t$ | `signal`, `sigma` | weights of $x_0$ and of the noise in $x_t$ |
# | $D^*(x_t, t)$ | `best_denoiser` | $\mathbb E[x_0 \mid x_t]$, the denoiser with the least squared error |
#
# Three sentences. The best denoiser is a different function at every $t$, so the network must be told $t$; where it is
# not, the loss cannot fall below a floor that we computed. The sinusoidal encoding writes $t$ as a clock with many
# hands: a step in time turns them, and the dot product of two encodings depends on their distance only. On our problem
# simpler features do as well or nearly so, because the best denoiser changes slowly with $t$; the encoding is the safe
# choice, as it copes with slow and fast functions.
#
# **Next:** [03 U-Net](03_unet.ipynb) builds the network that receives this encoding, in every block.
#
# **References**
# - Vaswani et al. 2017, *Attention Is All You Need*, arXiv 1706.03762, section 3.5: the encoding.
# - Ho et al. 2020, *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239, section 4 and appendix B: the
#   encoding for $t$, added in every residual block; eq. 4 and Algorithm 2.
# - Tancik et al. 2020, *Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains*,
#   arXiv 2006.10739: random frequencies, and how their scale matters.
# - Rahaman et al. 2019, *On the Spectral Bias of Neural Networks*, arXiv 1806.08734.
# - Efron 2011, *Tweedie's Formula and Selection Bias*, Journal of the American Statistical Association 106: eq. (2).
# - Sun et al. 2025, *Is Noise Conditioning Necessary for Denoising Generative Models?*, arXiv 2502.13129: images
#   without $t$.
