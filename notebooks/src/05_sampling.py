# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 05 · Sampling
#
# {{badge}}
#
# ![Four rows of pictures, from noise on the left to a boot, a T-shirt, a bag and a dress on the
# right](../data/pictures/05.png)
#
# *From noise to clothes, in 1000 steps of the sampler that you write first. The last one that you write gets by on 25.*
#
# A trained network looks at a noisy picture and guesses the clean one. This notebook turns that guess into new
# pictures, and shows why one recipe takes 1000 looks and another 20.
#
# **At the end you will have** three samplers, with their core lines written by you, equal to
# `utils/diffusion/sampling.py` step by step: DDPM (Algorithm 2), DDIM, and DPM-Solver++(2M). They are compared where
# the exact answer is known, and on images at equal cost.
#
# **You need** Python, basic PyTorch, and from probability: mean, variance, the normal distribution. Notebook 01 helps
# most. A trained network lies in `data/checkpoints`.
#
# **Time:** about 3 minutes on two cores with bf16 instructions (the run shown), about 8 without; a third of it in
# one cell (section 7). For you: 25 minutes of reading for the *core*, sections 0 to 7, and half an hour for your
# three pieces. Of 8 to 13 take what you like.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import math
import time
from functools import partial
from itertools import islice, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.integrate import solve_ivp
from tqdm.auto import tqdm

from utils.course import COLOURS, animate, denoising_strip, plain_ticks, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import ImageQuality, load_images, load_model, sample
from utils.diffusion.sampling import keep_known, slerp, timestep_grid

# %% [markdown]
# ## 0. A trained network, and a way to measure what it makes · *core*
#
# The file holds the network's weights (their moving average, notebook 04), the noise schedule, and what the network
# predicts. To use a network of your own, put the path of its `.safetensors` file here.

# %%
checkpoint = course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
device = course.device

began = time.perf_counter()
model, diffusion = load_model(checkpoint, device)
seconds, weights = time.perf_counter() - began, sum(p.numel() for p in model.parameters())
print(f"loaded in {seconds:.2f} s: {weights:,} weights")
print(f"schedule: {diffusion.schedule.name}, T = {diffusion.num_timesteps}")
print(f"the network predicts: {diffusion.prediction}, for {model.num_classes} classes")

train_set, test_set = load_images("fashion-mnist"), load_images("fashion-mnist", "test")
quality = ImageQuality.load()

# %% [markdown]
# **What the network gives us.** Notebook 01 wrote a noisy image as
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon \qquad\text{(Ho et al. 2020, eq. 4)}$$
#
# with the clean image $x_0$, standard normal noise $\epsilon$, and $\bar\alpha_t$ falling from nearly 1 (`t = 0`) to
# nearly 0 (`t = T-1`). The network sees $x_t$, $t$ and a class label $y$ (or none), and outputs an estimate of
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$. The two equations give an **estimate of the clean
# image**, $\hat x_0$, and an **estimate of the noise**, $\hat\epsilon$: one estimate in two forms, since each follows
# from the other and $x_t$.
#
# The label is a learned vector for each class, added to that of the timestep.

# %%
schedule, T = diffusion.schedule, diffusion.num_timesteps
betas, alphas = schedule.betas.tolist(), schedule.alphas.tolist()
a_bar = [*schedule.alphas_cumprod.tolist(), 1.0]  # a_bar[-1]: no noise is left


@torch.no_grad()
def network(x_t, t, y=None):
    """The network's v at timestep t. x_t: (B, 1, 28, 28); y: labels (B,), or None."""
    return model(x_t, torch.full((len(x_t),), t, device=x_t.device), y)


def estimates(v, x_t, t):
    """(x_0, noise) that v stands for (notebook 01, section 7)."""
    signal, sigma = math.sqrt(a_bar[t]), math.sqrt(1 - a_bar[t])
    return signal * x_t - sigma * v, sigma * x_t + signal * v


# %% [markdown]
# Helpers; noise is drawn on the CPU, so that a seed gives the same on every device.


# %%
def rng(seed):
    return torch.Generator().manual_seed(seed)


def normal(shape, generator):
    """Standard normal noise on the device."""
    return torch.randn(shape, generator=generator).to(device)


def classes_in_turn(count):
    return (torch.arange(count) % 10).to(device)


def table_of(cell, rows, columns, name="steps"):
    """A table: cell(row, column) for each of them."""
    cells = [[cell(row, column) for column in columns] for row in rows]
    return pd.DataFrame(cells, index=pd.Index(rows, name=name), columns=list(columns))


# %% [markdown]
# One look is not enough. Here is $\hat x_0$ for one boot of the test set, at more and more noise:
#
# **Predict before you run:** at `t = 999` the input is pure noise, and all the network can know is the label.
# Which picture has the smallest expected squared error then? And which one if there is no label either?

# %%
shown = [100, 300, 500, 700, 850, 999]
boot = test_set[test_set.labels == 9][0][:1].to(device)
noise = normal((6, 1, 28, 28), rng(0))
x_t = diffusion.q_sample(
    boot.expand(6, -1, -1, -1), torch.tensor(shown, device=device), noise
)
rows = {"x_t": x_t}
for name, y in {"'boot'": torch.tensor([9], device=device), "no label": None}.items():
    guesses = [estimates(network(x, t, y), x, t)[0] for x, t in zip(x_t.split(1), shown)]
    rows[name] = torch.cat(guesses)
titles = [f"t = {t}" for _ in rows for t in shown]
for k, name in enumerate(rows):
    titles[6 * k] = f"{name}, t = {shown[0]}"
finding = "The noisier the input, the blurrier the guess"
show_images(torch.cat([*rows.values()]), titles=titles, columns=6, scale=4, title=finding)

# %% [markdown]
# A squared error is smallest at the **mean** of all images that are possible given the input:
# $\hat x_0 \approx \mathbb E[x_0 \mid x_t]$ (notebook 00, section 3). From pure noise that is the mean boot, or without
# a label the mean of everything. So sampling goes a small way towards $\hat x_0$, looks again, and so on.
#
# **How good are the results?** Two distances between our images and the real training set, by the 64 features of a
# small classifier of the same data.
#
# - The **Frechet distance** (FD; Heusel et al. 2017, eq. 6) fits a Gaussian to the real images (mean $m_r$,
#   covariance $C_r$) and one to ours ($m_g$, $C_g$):
#   $\lVert m_r - m_g\rVert^2 + \mathrm{tr}\big(C_r + C_g - 2\,(C_r C_g)^{1/2}\big)$.
# - The **kernel distance** (KID; Binkowski et al. 2018) calls $(f\cdot f'/64 + 1)^3$ the similarity of two feature
#   vectors. It is the mean similarity within one set, plus that within the other, minus twice that between the sets.
#   The estimate is unbiased: 0 on average for equal distributions, by chance below 0.
#
# Papers' FID is the FD of another network's features. Beside every distance stands the **floor**: the same measure for
# as many real test images.
#
# **Predict before you run:** the floor compares real images with real images. Is it 0?


# %%
def mean_std(values, form=".2f"):
    """Mean ± standard deviation, as text; `form` is the mean's format."""
    return f"{values.mean():{form}} ± {values.std():{form.lstrip('+')}}"


def mean_error(values, form=".2f"):
    """Mean ± standard error of the mean."""
    error = values.std() / len(values) ** 0.5
    return f"{values.mean():{form}} ± {error:{form.lstrip('+')}}"


floors = quality.floor  # real test images, which the network never saw, in random sets
rows = []
for count in [100, 200, 500, 2000]:
    frechet, kernel = floors(count)
    rows.append([count, mean_std(frechet), mean_std(kernel, ".4f")])
columns = ["real images", "Frechet distance", "kernel distance"]
pd.DataFrame(rows, columns=columns).set_index("real images")

# %% [markdown]
# No. From few images the covariance of 64 features is poorly known, so their FD is biased upwards; the kernel distance
# is 0 up to chance at every number. An FD means something only beside the floor of the same number of images.

# %% [markdown]
# ## 1. Algorithm 2, derived · *core*
#
# **Question:** we hold $x_t$. How do we draw $x_{t-1}$?
#
# Notebook 01 (section 6) found the answer for somebody who knows the clean image. The **posterior** is normal:
#
# $$q(x_{t-1} \mid x_t, x_0) = \mathcal N(\tilde\mu_t,\ \tilde\beta_t I),\qquad
# \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0
# + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t,\qquad
# \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t$$
#
# (Ho et al. 2020, eq. 6 and 7; $\beta_t$ is the variance of the noise that step $t$ adds, $\alpha_t = 1-\beta_t$.) We
# do not know $x_0$. So we put the estimate $\hat x_0$ in its place.
#
# *Why is that allowed?* $\tilde\mu_t$ is linear in $x_0$, so averaged over all $x_0$ that are possible given $x_t$,
#
# $$\mathbb E[x_{t-1} \mid x_t] = \mathbb E\big[\tilde\mu_t(x_t, x_0) \mid x_t\big]
# = \tilde\mu_t\big(x_t,\ \mathbb E[x_0 \mid x_t]\big).$$
#
# A perfect $\hat x_0$ gives exactly the right mean, whatever the size of the step. But the true distribution of
# $x_{t-1}$ given $x_t$ is no normal (measured below), and it is wider, because $x_0$ is uncertain (section 2). For
# small steps neither matters.
#
# ### Your turn: 05.1
#
# Write the step: a draw from that normal distribution, its mean plus its standard deviation times the noise `z`.
# Nothing in it needs neighbouring timesteps, so write it from $t$ to *any* earlier $s$: $\bar\alpha_s$ takes the place
# of $\bar\alpha_{t-1}$. And what takes the place of $\alpha_t$, the share of the variance that the steps from $s$ to
# $t$ keep, when all you know is $\bar\alpha_t$ and $\bar\alpha_s$?
#
# `hint("05.1")`, `solution("05.1")` help. You may also go on: the next cell has the course's version, and uses yours
# instead if it is right.


# %%
def ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    """x_s, drawn from q(x_s | x_t, x_0) with the standard normal noise z.

    x_t, x_0, z: (B, C, H, W), x_0 the estimate. a_bar_t, a_bar_s: numbers, alpha-bar before
    and after the step; a_bar_s is 1 in the last one. previous: not needed (section 5).
    """
    raise NotImplementedError


check("05.1", ddpm_step)


# %%
def posterior_weights(a_bar_t, a_bar_s):
    """Weight of x_0, weight of x_t, and variance of q(x_s | x_t, x_0), where s < t."""
    alpha_ts = a_bar_t / a_bar_s
    x_0_weight = math.sqrt(a_bar_s) * (1 - alpha_ts) / (1 - a_bar_t)
    x_t_weight = math.sqrt(alpha_ts) * (1 - a_bar_s) / (1 - a_bar_t)
    variance = (1 - alpha_ts) * (1 - a_bar_s) / (1 - a_bar_t)
    return x_0_weight, x_t_weight, variance


def course_ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None):
    x_0_weight, x_t_weight, variance = posterior_weights(a_bar_t, a_bar_s)
    return x_0_weight * x_0 + x_t_weight * x_t + math.sqrt(variance) * z


ddpm_step = choose("05.1", ddpm_step, course_ddpm_step)

# %% [markdown]
# ### The paper's form
#
# Line 4 of Algorithm 2 contains no $x_0$ at all. The paper's network predicts the noise, so put
# $\hat x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\hat\epsilon)/\sqrt{\bar\alpha_t}$ into $\tilde\mu_t$ and collect. Since
# $\bar\alpha_t = \alpha_t\bar\alpha_{t-1}$, the factor $\sqrt{\bar\alpha_{t-1}}/\sqrt{\bar\alpha_t}$ is
# $1/\sqrt{\alpha_t}$. Then $x_t$ has the factor
#
# $$\frac{1}{\sqrt{\alpha_t}}\,\frac{\beta_t}{1-\bar\alpha_t}
# + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}
# = \frac{\beta_t + \alpha_t - \bar\alpha_t}{\sqrt{\alpha_t}\,(1-\bar\alpha_t)} = \frac{1}{\sqrt{\alpha_t}},$$
#
# and $\hat\epsilon$ has $-\beta_t/\big(\sqrt{\alpha_t}\sqrt{1-\bar\alpha_t}\big)$. That is eq. 11, and with fresh noise
# of standard deviation $\tilde\sigma_t$ it is line 4:
#
# $$x_{t-1} = \frac{1}{\sqrt{\alpha_t}}\Big(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,
# \hat\epsilon\Big) + \tilde\sigma_t z,\qquad z \sim \mathcal N(0, I).$$
#
# (The papers write $\sigma_t$ for it. In this course $\sigma_t = \sqrt{1-\bar\alpha_t}$ is how much noise there is
# in $x_t$, and $\tilde\sigma_t$ is how much a sampling step adds.)
#
# Here is the whole algorithm in that form, as a generator that hands out every state. The comments are the paper's
# lines; the paper counts $t = T, \dots, 1$, the code `t = T-1, ..., 0`, so its "$t > 1$" is `t > 0` here.


# %%
def mean_from_noise(x_t, noise, t):
    """Ho et al. 2020, eq. 11."""
    return (x_t - betas[t] / math.sqrt(1 - a_bar[t]) * noise) / math.sqrt(alphas[t])


def sigma_tilde(t):
    return math.sqrt(betas[t] * (1 - a_bar[t - 1]) / (1 - a_bar[t]))


def algorithm_2(x_T, y, generator):
    """Ho et al. 2020, Algorithm 2, line by line. Yields (x_{t-1}, x_0 estimate)."""
    x_t = x_T  # line 1: x_T ~ N(0, I)
    for t in reversed(range(T)):  # line 2: for t = T, ..., 1
        # line 3: z ~ N(0, I) if t > 1, else z = 0
        z = normal(x_t.shape, generator) if t > 0 else torch.zeros_like(x_t)
        x_0, noise = estimates(network(x_t, t, y), x_t, t)
        x_t = mean_from_noise(x_t, noise, t) + sigma_tilde(t) * z  # line 4
        yield x_t, x_0  # line 5: end for; line 6: the last x_t is the sample


# %%
x_t, noise, z = torch.randn(3, 1000, generator=rng(0), dtype=torch.float64)
for t in range(T):
    x_0 = (x_t - math.sqrt(1 - a_bar[t]) * noise) / math.sqrt(a_bar[t])
    step = ddpm_step(x_t, x_0, a_bar[t], a_bar[t - 1], z)
    line_4 = mean_from_noise(x_t, noise, t) + sigma_tilde(t) * z
    torch.testing.assert_close(step, line_4, rtol=1e-3, atol=1e-3)
print(f"the step from eq. 7 and line 4 of Algorithm 2 agree at all {T} timesteps")

# %% [markdown]
# Now we run it, and beside it `sample` from `utils` with the same noise: some 10 to 30 seconds on two cores.
#
# **Predict before you run:** the two differ by rounding only. 1000 steps, each fed with the result of the last:
# does the difference stay small?

# %%
count = course.pick(test=2, cpu=8, gpu=8)
compared = course.pick(test=20, cpu=T, gpu=T)
y = torch.tensor([9, 0, 8, 3, 7, 2, 5, 1], device=device)[:count]
x_T = normal((count, 1, 28, 28), rng(1))
options = dict(sampler="ddpm", steps=T, clip=False, y=y, x_T=x_T)
theirs = sample(model, diffusion, x_T.shape, generator=rng(2), **options)
mine = algorithm_2(x_T, y, rng(2))

states, guesses, differences = [x_T.cpu()], [], []
for x_t, x_0 in tqdm(mine, total=T, desc="Algorithm 2"):
    states.append(x_t.cpu())
    guesses.append(x_0.cpu())
    for other in islice(theirs, 1 if len(guesses) <= compared else 0):
        differences.append(float((other.x_t - x_t).abs().max()))
theirs.close()

largest, last = max(differences), differences[-1]
print(f"largest difference over {compared} steps: {largest:.0e}, at the last: {last:.0e}")
assert largest < 5e-3

# %% [markdown]
# It stays small, so Algorithm 2 as the paper prints it *is* the `ddpm` sampler of `utils` with `clip=False` (section 3
# is about that switch). The run as a strip, then as a film. **Predict before you press play:** which looks like clothes
# first, $x_t$ (above) or the guess $\hat x_0$ (below)?

# %% tags=["figure", "picture"]
columns = [0, 300, 500, 600, 700, 800, 900, T]
finding = "1000 small steps from noise to a boot, a T-shirt, a bag and a dress"
titles = [f"{k} steps" for k in columns]
denoising_strip([states[k][:4] for k in columns], titles=titles, title=finding)

# %% tags=["figure"]
frames = [*range(0, 600, 24), *range(600, T, 10), T - 1]
pairs = [torch.cat([states[k], guesses[k]]) for k in frames]
titles = [f"t = {T - 1 - k}: above x_t, below the estimate of x_0" for k in frames]
finding = "The guess is a garment long before x_t shows one"
animate(pairs, titles=titles, columns=count, title=finding)

# %% [markdown]
# The guess begins as a blurred mean of its class and gains detail as $x_t$ commits itself: first the outline, then the
# pattern.
#
# ### How wrong is the shape?
#
# Take the simplest data with two possible answers, $x_0 = -1$ or $x_0 = +1$, half and half. Given $x_t$, the true
# $q(x_s \mid x_t)$ is a mixture of the two posteriors, weighted by the probability of each answer. Beside it the normal
# with the same mean and variance, for three steps from one undecided $x_t$. The distance in the titles is the **total
# variation**: the largest error in any probability, from 0 to 1.
#
# **Predict before you run:** for which step is the true distribution furthest from a normal?

# %%
x_t, t = 0.1, 600  # an x_t that could still become either
answers = torch.tensor([-1.0, 1.0], dtype=torch.float64)
squares = (x_t - math.sqrt(a_bar[t]) * answers) ** 2
chances = (-squares / (2 * (1 - a_bar[t]))).softmax(0)
points = torch.linspace(-6, 6, 4001, dtype=torch.float64)  # wide enough for all mass


def density(mean, variance):
    return torch.distributions.Normal(mean, variance**0.5).log_prob(points).exp()


def true_and_normal(s):
    """q(x_s | x_t), a mixture of two posteriors; the normal of its mean and variance."""
    x_0_weight, x_t_weight, variance = posterior_weights(a_bar[t], a_bar[s])
    means = x_0_weight * answers + x_t_weight * x_t
    mean = (chances * means).sum()
    spread = (chances * (means - mean) ** 2).sum()
    true = sum(chance * density(one, variance) for chance, one in zip(chances, means))
    return true, density(mean, variance + spread)


# %% tags=["figure"]
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8))
for ax, s in zip(axes, [599, 450, 150]):
    true, single = true_and_normal(s)
    distance = 0.5 * torch.trapezoid((true - single).abs(), points)
    ax.plot(points, true, label="true")
    ax.plot(points, single, "--", label="normal")
    ax.set(title=f"{t} → {s}: distance {distance:.3f}", xlabel="$x_s$", yticks=[])
    ax.set_xlim(-3, 3)
axes[0].set_ylabel("density")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# The large step: there the answer is decided within one step, and the truth has two humps. A small step cannot decide
# anything, so its normal is nearly the truth: the reason for 1000 steps.

# %% [markdown]
# ## 2. How much noise? $\tilde\sigma_t$, and why none in the last step · *core*
#
# **Question:** the paper offers two variances, $\tilde\sigma_t^2 = \beta_t$ and $\tilde\sigma_t^2 = \tilde\beta_t$, and
# finds "similar results" (section 3.2). Where do they come from, and does it matter?
#
# The true variance of $x_{t-1}$ given $x_t$ has two parts (the law of total variance): the posterior's own, and what
# the uncertainty about $x_0$ adds, through the weight of $x_0$ in $\tilde\mu_t$:
#
# $$\mathrm{Var}(x_{t-1} \mid x_t) = \tilde\beta_t
# + \frac{\bar\alpha_{t-1}\,\beta_t^2}{(1-\bar\alpha_t)^2}\,\mathrm{Var}(x_0 \mid x_t).$$
#
# - If there is only one possible $x_0$, the second part is 0: the variance is $\tilde\beta_t$, the smallest possible.
# - If $x_0$ is itself standard normal, then $\mathrm{Var}(x_0 \mid x_t) = 1-\bar\alpha_t$, and the sum is
#   $\beta_t\,\frac{(1-\bar\alpha_{t-1}) + \bar\alpha_{t-1}\beta_t}{1-\bar\alpha_t} = \beta_t$.
#
# For data whose pixels have a variance of at most 1, it lies in between, pixel by pixel and on average over $x_t$. And
# **at the last step** $\bar\alpha_{t-1} = 1$, so $\tilde\beta_t = 0$: the mean is $\hat x_0$ itself, and noise on top
# of it would be noise in the picture (the paper's section 3.3: "we display $\mu_\theta(x_1, 1)$ noiselessly"; in the
# algorithm, the "else $z = 0$").
#
# ### One loop for every sampler
#
# Your step jumps over any number of timesteps, so 20 steps can replace 1000: evenly spaced and *starting at* $T-1$,
# since it is there that $x_t$ is noise (Lin et al. 2023). The loop calls the network, then the step, and tells it all
# that one of this notebook's samplers wants to know: $x_t$, $\hat x_0$, the two $\bar\alpha$, fresh noise, and the
# guess of the step before with its $\bar\alpha$ (for section 5).


# %%
def grid_of(steps):
    """`steps` timesteps, evenly spaced, from T-1 down."""
    return [round(T * (1 - k / steps)) - 1 for k in range(steps)]


def guess_x_0(x_t, t, y):
    return estimates(network(x_t, t, y), x_t, t)[0]


assert all(grid_of(steps) == timestep_grid(T, steps) for steps in range(1, T + 1))
print(f"10 steps visit t = {grid_of(10)}")


# %%
def run(step, x_T, y=None, steps=20, clip=True, generator=None, predict=guess_x_0):
    """Yields (x_s, x_0 estimate) after each network evaluation.

    steps: how many, or the timesteps themselves.
    """
    grid = grid_of(steps) if isinstance(steps, int) else steps
    generator, x_t, previous = generator or rng(0), x_T, None
    for t, s in zip(grid, [*grid[1:], -1]):
        a_bar_t, a_bar_s = a_bar[t], a_bar[s]  # after the last step 1: no noise is left
        x_0 = predict(x_t, t, y)
        x_0 = x_0.clamp(-1, 1) if clip else x_0
        z = normal(x_t.shape, generator).to(x_t)
        x_t = step(x_t, x_0, a_bar_t, a_bar_s, z, previous)
        previous = x_0, a_bar_t
        yield x_t, x_0


# %%
def last_of(states):
    """The sample: x_t after the last step."""
    for state in states:
        x_t = state[0]
    return x_t


def draw_images(step, steps, count, seed=0, **options):
    """`count` images of random classes; labels and x_T depend on the seed only."""
    generator = rng(seed)
    labels = torch.randint(10, (count,), generator=generator).to(device)
    x_T = normal((count, 1, 28, 28), generator)
    parts = []
    for x, y in zip(x_T.split(200), labels.split(200)):
        parts.append(last_of(run(step, x, y, steps, generator=generator, **options)))
    return torch.cat(parts).clamp(-1, 1).cpu()


def frechet_of(images):
    return quality.frechet(quality.features(images))


# %% [markdown]
# **Predict before you run:** in which chain does the choice between $\beta$ and $\tilde\beta$ matter more, one of 1000
# small steps or one of 20 large ones? And how visible is noise that is left on in the last step?


# %%
def beta_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, also_last=False):
    """`ddpm_step` with the variance beta, in the last step only where `also_last`."""
    x_0_weight, x_t_weight, _ = posterior_weights(a_bar_t, a_bar_s)
    variance = 1 - a_bar_t / a_bar_s if a_bar_s < 1 or also_last else 0.0
    return x_0_weight * x_0 + x_t_weight * x_t + math.sqrt(variance) * z


kinds = {
    "beta-tilde": ddpm_step,
    "beta": beta_step,
    "beta, also in the last step": partial(beta_step, also_last=True),
}

# %%
steps_tried = course.pick(test=[3, 5], cpu=[20, 50], gpu=[20, 50, 200])
count = course.pick(test=10, cpu=100, gpu=1000)
drawn = {
    (n, kind): draw_images(kinds[kind], n, count) for n in steps_tried for kind in kinds
}
floor = floors(count)[0].mean()
print(f"Frechet distance, {count} images, one seed (floor {floor:.1f}); DDPM with variance")
table = table_of(lambda n, kind: frechet_of(drawn[n, kind]), steps_tried, kinds).round(1)
last_noise = [math.sqrt(1 - a_bar[grid_of(n)[-1]]) for n in steps_tried]
table["std of the noise in the last step"] = np.round(last_noise, 3)
print(f"with {T} steps that noise would have {math.sqrt(1 - a_bar[0]):.3f}")
table

# %% tags=["figure"]
few = steps_tried[0]
pictures = torch.cat([drawn[few, kind][:2] for kind in kinds])
titles = ["beta-tilde", "", "beta", "", "beta, + last step", ""]
finding = "beta is too wide, and noise in the last step stays in the picture"
show_images(pictures, titles=titles, columns=6, scale=4, title=f"{few} steps: {finding}")

# %% [markdown]
# With few steps the choice matters a lot, and less as the steps get smaller, which is why the paper, at $T = 1000$, saw
# little of it. (Song et al. 2020, Table 1, CIFAR-10: at 10 steps FID 41 with $\tilde\beta$ and 367 with $\beta$, at
# 1000 steps 4.7 against 3.2, the other way round.) Noise in the last step comes from code whose loop runs from $T$ to 1
# and tests `if t > 0`.
#
# From here on DDPM means $\tilde\beta$, as in `utils`.

# %% [markdown]
# ## 3. Clipping the guess · *core*
#
# **Question:** the authors' code has a line that Algorithm 2 has not: in every step it **clamps $\hat x_0$ to
# $[-1, 1]$** and goes on with eq. 7 (`clip_denoised=True` in `diffusion_utils.py` of
# github.com/hojonathanho/diffusion). Why, and why does the paper not say so?
#
# For a perfect network it would do nothing: every image lies in $[-1,1]^{784}$, and so does every mean of images. A
# trained network errs, and clamping moves an outside pixel nearer to everything inside. How badly a guess errs depends
# on what the network predicts. From noise, $\hat x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\hat\epsilon)/\sqrt{\bar\alpha_t}$
# divides by nearly 0 at high $t$ (notebook 01, section 7). Ours predicts $v$, which divides by nothing. To see both we
# give our network's output an error, a normal one of standard deviation 0.05, once in $v$ and once in $\hat\epsilon$.
#
# **Predict before you run:** where does the clamp change most?


# %%
def with_error_in_v(x_t, t, y):
    v = network(x_t, t, y)
    return estimates(v + 0.05 * normal(v.shape, rng(t)), x_t, t)[0]


def with_error_in_noise(x_t, t, y):
    noise = estimates(network(x_t, t, y), x_t, t)[1]
    noise = noise + 0.05 * normal(noise.shape, rng(t))
    return (x_t - math.sqrt(1 - a_bar[t]) * noise) / math.sqrt(a_bar[t])


predictions = {
    "v, as it is": guess_x_0,
    "v, error 0.05": with_error_in_v,
    "noise, error 0.05": with_error_in_noise,
}

# %%
steps, seeds = course.pick(test=5, cpu=20, gpu=50), course.pick(test=2, cpu=3, gpu=5)
kept, rows = {True: [], False: []}, {}
for name, predict in predictions.items():
    distances = {}
    for clip in kept:
        draw = partial(draw_images, ddpm_step, steps, count, clip=clip, predict=predict)
        sets = [draw(seed=seed) for seed in range(seeds)]
        distances[clip] = torch.tensor([frechet_of(images) for images in sets])
        kept[clip].append(sets[0][:3])
    gap = mean_error(distances[False] - distances[True], "+.2f")
    rows[name] = [f"{distances[clip].mean():.2f}" for clip in kept] + [gap]
print(f"Frechet distance of {count} images, DDPM with {steps} steps, mean of {seeds} seeds")
print(f"(floor {floor:.1f}); difference ± standard error, seed by seed")
columns = ["clipped", "not clipped", "difference"]
table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
table.rename_axis("network predicts")

# %% tags=["figure"]
titles = [text for name in predictions for text in ("", name, "")] + [""] * 9
finding = "Above clipped, below not clipped: look at the right third"
show_images(torch.cat(kept[True] + kept[False]), titles=titles, columns=9, title=finding)

# %% [markdown]
# An error in the noise is where the clamp counts, as the arithmetic said: read the last column. For $v$ it matters far
# less, and need not help at all: a lower squared error is not the same as a better distribution. If somebody's samples
# are saturated blobs, ask first whether $\hat x_0$ is clipped. (Images that are not bounded, such as the latents of a
# latent diffusion model, must not be clipped.)

# %% [markdown]
# ## 4. DDIM: less noise, or none · *core*
#
# **Question:** must a sampler add fresh noise at every step?
#
# Training used $q(x_t \mid x_0)$ of eq. 4, one $t$ at a time, and never two neighbouring steps together. So any process
# with the same $q(x_t \mid x_0)$ at every $t$ has the same trained network. Song et al. (2020) write down a whole
# family. Given $x_0$ and $x_t$, the noise $\epsilon$ in $x_t$ is known: solve eq. 4 for it. Use part of it again, and
# fill up with new noise $z$:
#
# $$x_s = \underbrace{\sqrt{\bar\alpha_s}\;x_0}_{\text{the image}}
# + \underbrace{\sqrt{1-\bar\alpha_s-\tilde\sigma^2}\;\epsilon}_{\text{direction pointing to } x_t}
# + \underbrace{\tilde\sigma z}_{\text{new noise}}
# \qquad\text{(Song et al. 2020, eq. 12; their } \alpha \text{ is our } \bar\alpha).$$
#
# *Does it keep eq. 4?* Given $x_0$, $\epsilon$ and $z$ are independent standard normals, so $x_s$ has mean
# $\sqrt{\bar\alpha_s}\,x_0$ and variance $(1-\bar\alpha_s-\tilde\sigma^2) + \tilde\sigma^2 = 1-\bar\alpha_s$. Yes, for
# every $\tilde\sigma$ from 0 to $\sqrt{1-\bar\alpha_s}$, and every $s < t$. Write $\tilde\sigma$ in units of DDPM's:
#
# $$\tilde\sigma = \eta\,\sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\Big(1-\frac{\bar\alpha_t}{\bar\alpha_s}\Big)}
# \qquad\text{(eq. 16)}.$$
#
# So $\eta = 1$ has the variance $\tilde\beta$ of a DDPM step, and $\eta = 0$ adds nothing: that is notebook 00's step.
#
# ### Your turn: 05.2
#
# Write the step for any $\eta$ from 0 to 1, with the estimate in the place of $x_0$. `hint("05.2")`,
# `solution("05.2")`.


# %%
def ddim_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    """x_s by eq. 12 and 16 of Song et al. 2020. eta: from 0 to 1.

    The other arguments are those of `ddpm_step`.
    """
    raise NotImplementedError


check("05.2", ddim_step)


# %%
def course_ddim_step(x_t, x_0, a_bar_t, a_bar_s, z, previous=None, eta=0.0):
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    variance = (1 - a_bar_s) / (1 - a_bar_t) * (1 - a_bar_t / a_bar_s)
    sigma_tilde = eta * math.sqrt(variance)
    direction = math.sqrt(1 - a_bar_s - sigma_tilde**2) * noise
    return math.sqrt(a_bar_s) * x_0 + direction + sigma_tilde * z


ddim_step = choose("05.2", ddim_step, course_ddim_step)

# %% [markdown]
# **Predict before you run:** at $\eta = 1$ the variance is DDPM's. Is the mean as well?

# %%
x_t, x_0, z = torch.randn(3, 1000, dtype=torch.float64)
for t, s in [(999, 949), (500, 499), (500, 300), (49, 0)]:
    ddpm = ddpm_step(x_t, x_0, a_bar[t], a_bar[s], z)
    ddim = ddim_step(x_t, x_0, a_bar[t], a_bar[s], z, eta=1.0)
    torch.testing.assert_close(ddpm, ddim, rtol=1e-4, atol=1e-4)
print("DDIM with eta = 1 is DDPM")


def check_against_utils(name, step, steps, **options):
    y, x_T = classes_in_turn(4), normal((4, 1, 28, 28), rng(5))
    mine = run(step, x_T, y, steps, generator=rng(6))
    options |= dict(steps=steps, y=y, x_T=x_T, generator=rng(6))
    theirs = sample(model, diffusion, x_T.shape, sampler=name, **options)
    for (x_t, x_0), other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x_t, other.x_t, atol=5e-3, rtol=0)
        torch.testing.assert_close(x_0, other.x_0, atol=5e-3, rtol=0)


# %%
check_against_utils("ddpm", ddpm_step, steps=10)
print("ddpm: all 10 steps agree with utils")
for eta in [0.0, 0.5, 1.0]:
    check_against_utils("ddim", partial(ddim_step, eta=eta), steps=10, eta=eta)
    print(f"ddim with eta = {eta}: all 10 steps agree with utils")
check_against_utils(ddim_step, ddim_step, steps=10)
print("sample takes a function as well as a name")

# %% [markdown]
# Yes: the same step, so DDPM is one member of the family.
#
# **Predict before you run:** the same starting noise, 5 to 100 steps. With $\eta = 0$, does another number of steps
# give another picture? And with $\eta = 1$?

# %%
y = torch.tensor([9, 8, 0, 3], device=device)
x_T = normal((4, 1, 28, 28), rng(7))
numbers = course.pick(test=[2, 4], cpu=[5, 10, 20, 50, 100], gpu=[5, 10, 20, 50, 100, 500])
ends = {}
for eta in [0.0, 1.0]:
    for steps in numbers:
        states = run(partial(ddim_step, eta=eta), x_T, y, steps, generator=rng(8))
        ends[eta, steps] = last_of(states).cpu()
findings = {
    0.0: "eta = 0: x_T decides the picture",
    1.0: "eta = 1: each number of steps, another picture",
}
titles = [f"{steps} steps" for steps in numbers] + [""] * (3 * len(numbers))
for eta, finding in findings.items():
    rows = torch.stack([ends[eta, steps] for steps in numbers], dim=1)  # a row for each x_T
    grid = dict(columns=len(numbers), scale=3, titles=titles)
    display(show_images(rows.flatten(0, 1), title=finding, **grid))


# %%
def rms_gap(steps, eta):
    """Root mean squared difference from the picture with the most steps."""
    return float((ends[eta, steps] - ends[eta, numbers[-1]]).square().mean().sqrt())


print("root mean squared difference from the picture with the most steps")
table_of(rms_gap, numbers, [0.0, 1.0]).add_prefix("eta = ").round(2)

# %% [markdown]
# With $\eta = 0$ the picture is a function of $x_T$ alone, and more steps give *the same picture, better drawn*: the
# differences fall. With $\eta = 1$ each number of steps is another random walk to another picture.
#
# ### From a picture to its noise · *further*
#
# The limit of $\eta = 0$ is an ordinary differential equation, and an equation can be run **backwards**: a picture goes
# in, its noise comes out. The step is the same formula, with $s > t$.
#
# **Predict before you run:** encode real test images, decode again. What sets the error: the network's quality,
# or the number of steps? (No clipping: it could not be undone.)


# %%
def backward_step(x_t, x_0, a_bar_t, a_bar_s):
    """DDIM with eta = 0, in a form that also goes to more noise."""
    noise = (x_t - math.sqrt(a_bar_t) * x_0) / math.sqrt(1 - a_bar_t)
    return math.sqrt(a_bar_s) * x_0 + math.sqrt(1 - a_bar_s) * noise


def there_and_back(images, y, steps):
    """Encode to x_T along DDIM's path, then decode. Returns (x_T, reconstruction)."""
    x, rising = images, [0, *reversed(grid_of(steps))]
    for t, s in pairwise(rising):  # the image counts as x_t at t = 0
        x = backward_step(x, guess_x_0(x, t, y), a_bar[t], a_bar[s])
    return x, last_of(run(ddim_step, x, y, steps, clip=False))


# %%
count = course.pick(test=2, cpu=8, gpu=8)
images, y = (part.to(device) for part in test_set[:count])
trace = normal(images.shape, rng(10))
noised = diffusion.q_sample(images, torch.zeros_like(y), trace)
flat = images == -1  # the black background, about half of the pixels
decoded, rows = {}, []
for steps in course.pick(test=[5], cpu=[10, 50, 200], gpu=[10, 50, 200, 1000]):
    for name, begin in {"clean": images, "noised to t = 0": noised}.items():
        x_T, decoded[steps] = there_and_back(begin, y, steps)
        error = (decoded[steps] - images).square().mean().sqrt()
        rows.append([steps, name, *map(float, (error, x_T[flat].std(), x_T[~flat].std()))])
columns = ["steps", "start", "error", "std of x_T: background", "elsewhere"]
table = pd.DataFrame(rows, columns=columns).set_index(["steps", "start"])
table.round(dict(zip(table.columns, [3, 2, 2])))

# %% tags=["figure"]
shown = torch.cat([images, *decoded.values()]).cpu()
finding = "Test images (top); noised to t = 0, encoded and decoded with more and more steps"
show_images(shown, columns=count, title=finding)

# %% [markdown]
# The number of steps: the same network serves every row, and the error falls with the size of the step (Song et al.
# 2020, Table 2, measure the same on CIFAR-10). And look at $x_T$. From the clean image, its background is far from
# standard normal: the state at $t = 0$ is the image with a trace of noise (standard deviation 0.006), which the map
# turns into the noise of $x_T$, and a background that is exactly -1 has none to turn. With the trace, $x_T$ comes much
# nearer to noise.

# %% [markdown]
# ## 5. DPM-Solver++(2M): a line instead of a constant · *core*
#
# **Question:** DDIM needs many steps because each uses one guess, held fixed during the step. Can we do better
# without more network evaluations?
#
# Take DDIM's step at $\eta = 0$, with $\sigma_t = \sqrt{1-\bar\alpha_t}$ for the noise level at $t$, and divide by
# $\sigma_s$:
#
# $$\frac{x_s}{\sigma_s} = \frac{x_t}{\sigma_t}
# + \Big(\frac{\sqrt{\bar\alpha_s}}{\sigma_s} - \frac{\sqrt{\bar\alpha_t}}{\sigma_t}\Big)\,\hat x_0 .$$
#
# Write $\lambda = \log(\sqrt{\bar\alpha}/\sigma) = \tfrac12\log\mathrm{SNR}$; it rises during sampling. The bracket is
# $e^{\lambda_s} - e^{\lambda_t}$. For infinitely many steps, the sum of all these brackets times their guesses is an
# integral, because $e^\lambda$ has the derivative $e^\lambda$:
#
# $$\frac{x_s}{\sigma_s} = \frac{x_t}{\sigma_t} + \int_{\lambda_t}^{\lambda_s} e^{\lambda}\,\hat x_0(\lambda)\,d\lambda
# \qquad\text{(Lu et al. 2022, Proposition 4.1)}$$
#
# and it is exact. All we do not know is how $\hat x_0(\lambda)$ goes on between $t$ and $s$.
#
# - **Constant** $\hat x_0$: the integral of $e^\lambda$ is $e^{\lambda_s} - e^{\lambda_t}$. That is DDIM.
# - **A straight line** through the guess of this step, $\hat x_0$ at $\lambda_t$, and that of the step before,
#   $\hat x_0'$ at $\lambda'$, costs no further evaluation. 2M takes the line's value $D$ *half-way through the coming
#   step* and uses that for the whole of it ("2": second order; "M": multistep, since it looks back):
#
# $$x_s = \frac{\sigma_s}{\sigma_t}\,x_t + \sigma_s\big(e^{\lambda_s} - e^{\lambda_t}\big) D
# = \frac{\sigma_s}{\sigma_t}\,x_t - \sqrt{\bar\alpha_s}\,(e^{-h} - 1)\,D,\qquad h = \lambda_s - \lambda_t
# \qquad\text{(Lu et al. 2022, Algorithm 2),}$$
#
# since $\sigma_s\,e^{\lambda_s} = \sqrt{\bar\alpha_s}$ and $e^{\lambda_t} = e^{\lambda_s}\,e^{-h}$. ($D$ is a value of
# $\hat x_0$ here, one image; notebooks 02 and 08 write $D$ for the denoiser, the function that gives such a value.)
#
# ### Your turn: 05.3
#
# Write $D$, the one line that uses the previous guess, from $\hat x_0$, $\hat x_0'$, $h$ and
# $h' = \lambda_t - \lambda'$ (`h_before`). `hint("05.3")`, `solution("05.3")`.


# %%
def line_value(x_0, x_0_before, h, h_before):
    """Half-way through the coming step, the line through both guesses; like x_0.

    x_0, x_0_before: (B, C, H, W), the guesses of this step and of the one before.
    h, h_before: numbers, the lengths of the coming step and of the one before, in lambda.
    """
    raise NotImplementedError


check("05.3", line_value)

# %% [markdown]
# The slope is $(\hat x_0 - \hat x_0')/h'$, and half-way is $h/2$ from where the line has the value $\hat x_0$:
#
# $$D = \hat x_0 + \frac{h}{2h'}\,(\hat x_0 - \hat x_0').$$
#
# The first step has no guess before it, so it is a DDIM step. The last one goes to $\sigma_s = 0$, where $\lambda$
# is infinite; it ends at $\hat x_0$ itself.


# %%
def course_line_value(x_0, x_0_before, h, h_before):
    return x_0 + h / (2 * h_before) * (x_0 - x_0_before)


line_value = choose("05.3", line_value, course_line_value)


def half_log_snr(a):
    return 0.5 * math.log(a / (1 - a))


def dpmpp_2m_step(x_t, x_0, a_bar_t, a_bar_s, z, previous):
    """Lu et al. 2022, Algorithm 2. previous: x_0 and alpha-bar of the step before."""
    if a_bar_s == 1:
        return x_0
    h, line = half_log_snr(a_bar_s) - half_log_snr(a_bar_t), x_0
    if previous is not None:
        x_0_before, a_bar_before = previous
        h_before = half_log_snr(a_bar_t) - half_log_snr(a_bar_before)
        line = line_value(x_0, x_0_before, h, h_before)
    x_t_weight = math.sqrt((1 - a_bar_s) / (1 - a_bar_t))
    return x_t_weight * x_t - math.sqrt(a_bar_s) * math.expm1(-h) * line


# %%
check_against_utils("dpmpp_2m", dpmpp_2m_step, steps=10)
print("dpmpp_2m: all 10 steps agree with utils")
x_t, x_0 = torch.randn(2, 1000, dtype=torch.float64)
first_step = dpmpp_2m_step(x_t, x_0, a_bar[500], a_bar[300], None, None)
ddim = ddim_step(x_t, x_0, a_bar[500], a_bar[300], torch.zeros_like(x_t))
torch.testing.assert_close(first_step, ddim, rtol=1e-4, atol=1e-4)
print("without a step before it, a 2M step is a DDIM step")

# %% [markdown]
# ## 6. An exact test: where the perfect network is known · *core*
#
# **Question:** how wrong is each sampler with $N$ steps, when the network makes no errors?
#
# Take data that are normal, $x_0 \sim \mathcal N(m, c^2)$. Then the perfect guess is a formula:
#
# $$\mathbb E[x_0 \mid x_t] = m + \frac{\sqrt{\bar\alpha_t}\,c^2}{\bar\alpha_t c^2 + 1 - \bar\alpha_t}\,
# \big(x_t - \sqrt{\bar\alpha_t}\,m\big).$$
#
# Every step is then linear in $x_T$ and the noises $z_1, z_2, \dots$ The result of a whole run is
# $b + k_0 x_T + k_1 z_1 + k_2 z_2 + \dots$: a normal with mean $b$ and variance $k^2 = k_0^2 + k_1^2 + \dots$ We let
# the samplers work on that list of coefficients in place of images. *The step functions stay as they are*, and the
# answer is exact. The error is the Wasserstein-2 distance between $\mathcal N(b, k^2)$ and $\mathcal N(m, c^2)$:
# $\sqrt{(b-m)^2 + (k-c)^2}$.
#
# **Order.** An error that falls like $1/N$ has order 1, like $1/N^2$ order 2: twice the steps bring it to a half, or to
# a quarter. On two log axes that is a straight line of slope -1 or -2.
#
# **Predict before you run:** which slopes do you expect for DDPM, DDIM and 2M?

# %%
m, c = 0.3, 0.5


def coefficients_of_guess(x_t, a_bar_t):
    """E[x_0 | x_t] for x_t given as coefficients (constant, of x_T, of z_1, z_2, ...)."""
    k = math.sqrt(a_bar_t) * c**2 / (a_bar_t * c**2 + 1 - a_bar_t)
    x_0 = k * x_t
    x_0[0] += m - k * math.sqrt(a_bar_t) * m
    return x_0


def exact_result(step, path, mean, std):
    """Mean and standard deviation at the end of `path`, alpha-bars from noisy to clean."""
    x_t, previous = torch.zeros(len(path) + 1, dtype=torch.float64), None
    x_t[0], x_t[1] = mean, std
    for k, (a_bar_t, a_bar_s) in enumerate(pairwise(path)):
        z = torch.zeros_like(x_t)
        z[k + 2] = 1.0
        x_0 = coefficients_of_guess(x_t, a_bar_t)
        x_t, previous = step(x_t, x_0, a_bar_t, a_bar_s, z, previous), (x_0, a_bar_t)
    return float(x_t[0]), float(x_t[1:].norm())


# %%
samplers = {
    "DDPM (eta = 1)": ddpm_step,
    "DDIM, eta = 0.5": partial(ddim_step, eta=0.5),
    "DDIM, eta = 0": ddim_step,
    "DPM-Solver++(2M)": dpmpp_2m_step,
}
looks = dict(zip(samplers, zip(COLOURS, ["-", "-.", "--", "-"], "osD^")))


def middle_path(n):
    """Alpha-bars from SNR 1/100 to SNR 100, in n steps of equal length in lambda."""
    return torch.linspace(-2.3, 2.3, n + 1, dtype=torch.float64).mul(2).sigmoid().tolist()


def whole_path(n):
    """The way of a sampler: from T-1 over the grid to the clean end."""
    return [a_bar[t] for t in grid_of(n)] + [1.0]


# %%
def error_in_the_middle(step, n):
    """Along `middle_path`, starting from the exact distribution."""
    path = middle_path(n)
    start, end = (
        (math.sqrt(a) * m, math.sqrt(a * c**2 + 1 - a)) for a in (path[0], path[-1])
    )
    return math.dist(exact_result(step, path, *start), end)


def error_of_sampler(step, n):
    """The whole way, starting from N(0, 1), as a sampler does."""
    return math.dist(exact_result(step, whole_path(n), 0.0, 1.0), (m, c))


numbers = [4, 6, 10, 16, 25, 40, 64, 100, 160, 250, 400]
errors = {}
for name, step in samplers.items():
    errors["middle", name] = [error_in_the_middle(step, n) for n in numbers]
    errors["all", name] = [error_of_sampler(step, n) for n in numbers]

# %%
# NBVAL_CHECK_OUTPUT
order = {}
for name in samplers:
    error = dict(zip(numbers, errors["middle", name]))
    order[name] = round(math.log10(error[40] / error[400]), 1)
pd.DataFrame({"order: minus the slope from 40 to 400 steps, SNR from 1/100 to 100": order})

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
for ax, kind in zip(axes, ["middle", "all"]):
    for name, (colour, style, marker) in looks.items():
        look = dict(ls=style, color=colour, marker=marker, ms=4, label=name)
        ax.loglog(numbers, errors[kind, name], **look)
    ax.set_xlabel("steps")
for order, height in [(1, 0.25), (2, 0.04)]:
    line = [height * (numbers[0] / n) ** order for n in numbers]
    axes[0].loglog(numbers, line, ":", color="grey", lw=1)
    axes[0].text(numbers[-1], line[-1], f" -{order}", color="dimgrey", va="center")
axes[0].set_title("The middle, SNR 1/100 to 100: slopes 1 and 2")
axes[1].set_title("The whole sampler: the ends count too")
axes[0].set_ylabel("distance from the right distribution")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# First order for DDPM and DDIM, with a smaller constant for DDIM; second order for 2M. On the right, for the whole
# sampler, 2M is still far ahead, but its first and last step are of first order. (The dent where its error changes sign
# is chance.)


# %%
# NBVAL_CHECK_OUTPUT
def std_of_samples(n, name):
    return exact_result(samplers[name], whole_path(n), 0.0, 1.0)[1]


print(f"standard deviation of the samples (right: {c})")
table_of(std_of_samples, [5, 10, 20, 50, 1000], samplers).round(4)

# %% [markdown]
# DDPM and DDIM with few steps make data that are **too narrow**. For DDPM the reason is section 2: $\tilde\beta$ is the
# smallest possible variance. For DDIM: each step holds on to the guess of its noisier end, and that guess lies too near
# the mean.
#
# With several normals the sampler has to choose. A mixture in two dimensions also has a perfect guess in closed form: a
# mean of the single guesses, weighted by the probability that $x_t$ came from each.

# %%
angles = torch.arange(6, dtype=torch.float64) * math.pi / 3
centres = torch.stack([angles.cos(), angles.sin()], dim=1)  # six blobs on a circle
width = 0.12


def mixture_guess(x_t, a_bar_t):
    """E[x_0 | x_t] for the mixture; x_t (B, 2), at this alpha-bar."""
    signal, variance = math.sqrt(a_bar_t), a_bar_t * width**2 + 1 - a_bar_t
    offsets = x_t[:, None] - signal * centres  # (B, 6, 2)
    weights = (-offsets.square().sum(2) / (2 * variance)).softmax(dim=1)
    guesses = centres + signal * width**2 / variance * offsets
    return (weights[:, :, None] * guesses).sum(1)


def mixture_samples(count, generator):
    which = torch.randint(6, (count,), generator=generator)
    return centres[which] + width * torch.randn(
        count, 2, generator=generator, dtype=torch.float64
    )


# %%
def mixture_run(step, steps, count, seed=0):
    """All states of a run, x_T first: a list of (count, 2)."""
    generator = rng(seed)
    x_T = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    perfect = dict(clip=False, predict=lambda x_t, t, y: mixture_guess(x_t, a_bar[t]))
    states = run(step, x_T, None, steps, generator=generator, **perfect)
    return [x_T, *(x for x, _ in states)]


# %% tags=["figure"]
steps, points = 10, course.pick(test=300, cpu=1500, gpu=1500)
right_ones = mixture_samples(points, rng(1))
figure, axes = plt.subplots(1, 4, figsize=(9.4, 2.9), sharex=True, sharey=True)
axes[0].plot(*right_ones.T, ".", ms=2, color="grey", alpha=0.6)
axes[0].set(title="The data", ylabel="second coordinate")
for ax, name in zip(axes[1:], ["DDPM (eta = 1)", "DDIM, eta = 0", "DPM-Solver++(2M)"]):
    states = torch.stack(mixture_run(samplers[name], steps, points))
    ax.plot(*states[-1].T, ".", ms=2, color="grey", alpha=0.6)
    for k in range(8):
        ax.plot(*states[:, k].T, "-", lw=1, color=looks[name][0])
        ax.plot(*states[0, k], "o", ms=3, color="black")
    ax.set_title(name)
for ax in axes:
    ax.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), xlabel="first coordinate", aspect="equal")
finding = f"Eight paths of {steps} steps from noise (black): DDPM wanders, the ODE glides\n"
figure.suptitle(finding, x=0.01, ha="left")
plt.show()

# %% [markdown]
# The paths without noise are smooth, so a line through two guesses predicts them well.
#
# ### The equation behind $\eta = 0$
#
# Which differential equation does DDIM without noise approach? Divide the step by $\sqrt{\bar\alpha_s}$ and write
# $\bar x = x/\sqrt{\bar\alpha}$ and $\bar\sigma = \sigma/\sqrt{\bar\alpha}$:
#
# $$\bar x_s = \bar x_t + (\bar\sigma_s - \bar\sigma_t)\,\hat\epsilon
# \qquad\text{(Song et al. 2020, eq. 13), so}\qquad
# \frac{d\bar x}{d\bar\sigma} = \hat\epsilon = \frac{\bar x - \hat x_0}{\bar\sigma}
# \qquad\text{(eq. 14)}.$$
#
# A DDIM step is one **Euler step** of it. By Tweedie's formula (notebook 00, section 3),
# $\nabla \log p(x_t) = (\sqrt{\bar\alpha_t}\,\hat x_0 - x_t)/\sigma_t^2 = -\hat\epsilon/\sigma_t$: the predicted noise
# is the **score**, up to a factor. So this is the *probability-flow ODE* of Song et al. (2021, eq. 13), in another
# time: its solutions carry noise to data without any randomness.
#
# If that is right, an ODE solver that knows nothing of diffusion must reach the same points. We ask SciPy's, on the six
# blobs.
#
# **Predict before you run:** twice the steps: what becomes of DDIM's distance to SciPy's answer, and of 2M's?


# %%
def slope(sigma_bar, flat):
    """d x_bar / d sigma_bar for 20 points; alpha-bar is 1 / (1 + sigma_bar^2)."""
    x_bar, a_bar_t = torch.from_numpy(flat).view(-1, 2), 1 / (1 + sigma_bar**2)
    x_0 = mixture_guess(math.sqrt(a_bar_t) * x_bar, a_bar_t)
    return ((x_bar - x_0) / sigma_bar).flatten().numpy()


first, last = (1 / (1 + math.exp(-2 * value)) for value in (-2.3, 2.3))  # SNR 1/100 and 100
sigma_bars = [math.sqrt((1 - a) / a) for a in (first, last)]
points_T = torch.randn(20, 2, generator=rng(9), dtype=torch.float64)
x_bar = (points_T / math.sqrt(first)).flatten().numpy()
solved = solve_ivp(slope, sigma_bars, x_bar, method="DOP853", rtol=1e-10, atol=1e-10)
answer = math.sqrt(last) * torch.from_numpy(solved.y[:, -1]).view(-1, 2)


# %%
# NBVAL_CHECK_OUTPUT
def distance_to_answer(n, name):
    x_t, previous = points_T, None
    for a_bar_t, a_bar_s in pairwise(middle_path(n)):
        x_0, z = mixture_guess(x_t, a_bar_t), torch.zeros_like(x_t)
        x_t = samplers[name](x_t, x_0, a_bar_t, a_bar_s, z, previous)
        previous = x_0, a_bar_t
    return float((x_t - answer).norm(dim=1).max())


print("largest distance to SciPy's answer, 20 points")
columns = ["DDIM, eta = 0", "DPM-Solver++(2M)"]
table_of(distance_to_answer, [10, 20, 40, 80, 160], columns).round(5)

# %% [markdown]
# Twice the steps bring DDIM's distance to a half, and 2M's, in the end, to a quarter, as orders 1 and 2 should. Any ODE
# solver can be a sampler; what makes a good one is how few looks at the network it needs.

# %% [markdown]
# ## 7. One trained network, all samplers, equal cost · *core*
#
# **Question:** does the ranking hold for images and a network that errs?
#
# The cost of sampling is the number of network evaluations (NFE). Each sampler gets the same NFE, the same starting
# noise and the same labels (drawn at random, as the classes of the floor's real images are); several seeds give error
# bars. The long cell: about a minute on two cores with bf16 instructions, two to three without.
#
# **Predict before you run:** who wins with 5 evaluations, who with many? And what can no sampler reach?

# %%
evaluations = course.pick(test=[2, 4], cpu=[5, 10, 25], gpu=[5, 10, 20, 50, 100])
count, seeds = course.pick(test=10, cpu=100, gpu=2000), course.pick(test=2, cpu=5, gpu=5)
# (NFE, name) to FD and KID, (seeds,) each; and to one FD of all seeds together.
measured, pooled = {}, {}
every_look, began = len(samplers) * sum(evaluations) * count * seeds, time.perf_counter()
with tqdm(total=every_look, unit="look", desc="all samplers") as bar:
    for name, step in samplers.items():
        for nfe in evaluations:
            sets = [draw_images(step, nfe, count, seed) for seed in range(seeds)]
            features = [quality.features(images) for images in sets]
            both = [[quality.frechet(f), quality.kernel(f)] for f in features]
            measured[nfe, name] = torch.tensor(both).T
            pooled[nfe, name] = quality.frechet(torch.cat(features))
            bar.update(nfe * count * seeds)
seconds = time.perf_counter() - began
each = 1000 * seconds / every_look
print(f"{seconds:.0f} s, {each:.2f} ms for one network evaluation of one image")


# %%
def frechet_spread(nfe, name):
    return mean_std(measured[nfe, name][0], ".1f")


floor = floors(count, draws=10)
print(f"Frechet distance, {count} images, mean ± standard deviation over {seeds} seeds;")
print(f"real against real (floor): {mean_std(floor[0], '.1f')}")
table_of(frechet_spread, evaluations, samplers, "NFE")

# %%
everything = count * seeds
print(f"Frechet distance of all {everything} images together; ", end="")
print(f"real against real (floor): {mean_std(floors(everything, draws=10)[0])}")
table_of(lambda *key: pooled[key], evaluations, samplers, "NFE").round(2)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
names = ["Frechet distance", "kernel distance"]
for ax, k, label in zip(axes, (0, 1), names):
    for number, (name, (colour, style, marker)) in enumerate(looks.items()):
        values = torch.stack([measured[nfe, name][k] for nfe in evaluations])
        beside = [nfe * 1.03 ** (number - 1.5) for nfe in evaluations]  # side by side
        look = dict(ls=style, color=colour, marker=marker, ms=4, capsize=2, label=name)
        ax.errorbar(beside, values.mean(1), values.std(1), **look)
    low, high = (float(floor[k].mean() + sign * floor[k].std()) for sign in (-1, 1))
    ax.axhspan(low, high, color="grey", alpha=0.4, lw=0, label="floor: real images")
    ax.set(xscale="log", xlabel="network evaluations per image", ylabel=label)
    ax.set_xticks(evaluations, [str(nfe) for nfe in evaluations])
    ax.minorticks_off()
axes[0].set(yscale="log", ylabel="Frechet distance (log axis)")
plain_ticks(axes[0])
# Linear below 0.1: the unbiased estimate can be below 0.
axes[1].set_yscale("symlog", linthresh=0.1)
axes[1].set_yticks([0, 0.05, 0.1, 0.2, 0.5], ["0", "0.05", "0.1", "0.2", "0.5"])
axes[0].set_title("Few looks: the sampler decides")
axes[1].set_title("The same by the kernel distance")
axes[0].legend(fontsize=8)
plt.show()

# %%
y, x_T = torch.tensor([9, 0], device=device), normal((2, 1, 28, 28), rng(11))
rows = []
for step in samplers.values():
    for nfe in evaluations:
        rows.append(last_of(run(step, x_T, y, nfe, generator=rng(12))).cpu())
titles = [text for _ in samplers for nfe in evaluations for text in (f"NFE {nfe}", "")]
finding = "One noise, one label. Top to bottom: DDPM, DDIM (eta = 0.5), DDIM (eta = 0), 2M"
show_images(torch.cat(rows), titles=titles, columns=2 * len(evaluations), title=finding)

# %%
base = "DPM-Solver++(2M)"


def gap(nfe, name):
    return mean_error(measured[nfe, name][0] - measured[nfe, base][0], "+.2f")


print(f"Frechet distance minus that of {base}: mean ± standard error over {seeds} seeds")
table_of(gap, evaluations, [name for name in samplers if name != base], "NFE")

# %% [markdown]
# Why subtract? All samplers share labels and $x_T$ seed by seed, so what they have in common drops out of the
# difference. With 5 seeds, a difference below 2.8 standard errors lies within chance (Student's t, 4 degrees of
# freedom, 5%).
#
# In the pictures each number of evaluations has two columns, a boot and a T-shirt, each from a noise of its own. Bars
# and the grey band are one standard deviation each way. The order is that of section 6, and DDPM comes last; with more
# evaluations the gaps shrink. In the run shown 2M is within the floor of 100 images from 10 evaluations on. With all
# images together the floor is lower and scatters less, and 2M stays above it: 0.89 with 25 evaluations, against 0.54 ±
# 0.11. This is mostly the *network's* error, if section 6 is a guide, where 2M has next to no error left at 20 steps.
# An ODE carries it along; fresh noise can partly repair it, if enough steps are left (Karras et al. 2022, section 4).

# %% [markdown]
# ## 8. Between two noises: spherical interpolation · *further*
#
# **Question:** with $\eta = 0$ each $x_T$ is a picture. Which noise lies "half-way" between two?
#
# The straight line $(1-w)\,a + w\,b$ looks natural and is wrong. $a$ and $b$ are independent standard normals in 784
# dimensions, so their norms are close to $\sqrt{784} = 28$. The variance of the mixture is $(1-w)^2 + w^2$, half-way
# $\tfrac12$: the norm has dropped to $28/\sqrt2 \approx 20$. No noise that the network ever saw was that weak.
# **Slerp** (Shoemake 1985) walks along the arc instead. With $\varphi$ the angle between $a$ and $b$:
#
# $$\mathrm{slerp}(a, b, w) = \frac{\sin((1-w)\varphi)}{\sin\varphi}\,a + \frac{\sin(w\varphi)}{\sin\varphi}\,b .$$
#
# **Predict before you run:** what is the angle between two independent noises of 784 pixels? And what will the
# network make of noise that is too weak?


# %%
def angle_between(a, b):
    return math.acos(float((a * b).sum() / (a.norm() * b.norm())))


def my_slerp(a, b, weight):
    phi = angle_between(a, b)
    part_a, part_b = math.sin((1 - weight) * phi), math.sin(weight * phi)
    return (part_a * a + part_b * b) / math.sin(phi)


pairs = course.pick(test=2, cpu=20, gpu=20)
first, second = normal((2, pairs, 1, 28, 28), rng(13))
torch.testing.assert_close(
    my_slerp(first[0], second[0], 0.3), slerp(first[0], second[0], 0.3)
)
angles = [math.degrees(angle_between(a, b)) for a, b in zip(first, second)]
mean, std = np.mean(angles), np.std(angles)
print(f"angle between two noises: {mean:.1f} ± {std:.1f} degrees, over {pairs} pairs")

# %%
ways = {"straight line": lambda a, b, w: (1 - w) * a + w * b, "slerp": my_slerp}
points = course.pick(test=3, cpu=9, gpu=9)
weights = torch.linspace(0, 1, points).tolist()
y = torch.tensor([9, 0, 3, 8, 7], device=device).repeat(pairs)[:pairs]  # the same all along
measured, pictures = {}, {}
for name, between in ways.items():
    for w in weights:
        x_T = torch.stack([between(a, b, w) for a, b in zip(first, second)])
        images = last_of(run(dpmpp_2m_step, x_T, y, steps=15)).cpu()
        neighbours = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))
        measured[name, w] = x_T.flatten(1).norm(dim=1), neighbours  # (pairs,) each
        pictures[name, w] = images
gap = measured["slerp", 0.5][1] - measured["straight line", 0.5][1]
print(f"detail half-way, slerp minus straight line, pair by pair: {mean_error(gap, '.3f')}")

# %% tags=["figure"]
rows = [pictures[name, w][k] for k in range(2) for name in ways for w in weights]
titles = [f"w = {w:.2f}" for w in weights] + [""] * (3 * points)
finding = "Two pairs of noises: rows 1 and 3 straight line, 2 and 4 slerp"
show_images(torch.stack(rows), titles=titles, columns=points, title=finding)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for name, (colour, style) in zip(ways, [(COLOURS[1], "--"), (COLOURS[0], "-")]):
    for ax, k in zip(axes, range(2)):
        means = [float(measured[name, w][k].mean()) for w in weights]
        ax.plot(weights, means, style, color=colour, marker="o", ms=4, label=name)
formula = [28 * math.hypot(1 - w, w) for w in weights]
axes[0].plot(weights, formula, ":", color="black", label=r"$28\sqrt{(1-w)^2+w^2}$")
axes[0].set(xlabel="weight w", ylabel="norm of the noise")
axes[0].set_title("A straight line leaves the sphere")
axes[1].set(xlabel="weight w", ylabel="mean difference\nof neighbouring pixels")
axes[1].set_title(f"... and loses detail half-way ({pairs} pairs)")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# The network treats noise that is too weak as if there were an image in it already, a smooth one: its pictures lose
# detail half-way (right panel), while slerp keeps the level of the two ends.

# %% [markdown]
# ## 9. Filling in: inpainting without training · *further*
#
# **Question:** half of an image is known. Can the same network invent the other half?
#
# At every noise level we know what the known half should look like: eq. 4 says how to noise it. So after each step we
# **put the known pixels back, at the noise level of the moment** (Lugmayr et al. 2022, eq. 8), and let the network see
# both halves together at the next look.
#
# **Predict before you run:** compared with generating a whole picture and pasting the known half over it at the
# end, what should improve?


# %%
def inpaint(known, mask, y, steps, generator, noise_generator):
    """DDPM; where `mask` is true the pixels of `known` are put back after every step."""
    x_t, grid = normal(known.shape, generator), grid_of(steps)
    for t, s in zip(grid, [*grid[1:], -1]):
        a_bar_t, a_bar_s = a_bar[t], a_bar[s]
        x_0 = guess_x_0(x_t, t, y).clamp(-1, 1)
        x_s = ddpm_step(x_t, x_0, a_bar_t, a_bar_s, normal(x_t.shape, generator))
        noise = normal(x_t.shape, noise_generator)
        noisy = math.sqrt(a_bar_s) * known + math.sqrt(1 - a_bar_s) * noise
        x_t = torch.where(mask, noisy, x_s)
    return x_t


# %%
per_image, steps = course.pick(test=1, cpu=5, gpu=5), course.pick(test=5, cpu=50, gpu=250)
classes = [9, 0, 8, 3, 2, 7]
originals = [test_set[test_set.labels == k][0][0] for k in classes]
originals = torch.stack(originals).to(device)
known = originals.repeat_interleave(per_image, 0)
y = torch.tensor(classes, device=device).repeat_interleave(per_image)
mask = torch.zeros(1, 1, 28, 28, dtype=torch.bool, device=device)
mask[..., :14] = True  # the left half is known

filled = inpaint(known, mask, y, steps, rng(20), rng(21))
options = dict(
    steps=steps, y=y, generator=rng(20), constrain=keep_known(known, mask, rng(21))
)
theirs = last_of(sample(model, diffusion, known.shape, sampler="ddpm", **options))
torch.testing.assert_close(filled, theirs, atol=1e-2, rtol=0)
torch.testing.assert_close(filled[mask.expand_as(filled)], known[mask.expand_as(known)])
print("equal to keep_known of utils, and the known half is untouched")

# %% tags=["figure"]
free = last_of(run(ddpm_step, normal(known.shape, rng(20)), y, steps))
pasted = torch.where(mask, known, free)
holes = torch.where(mask, originals, torch.zeros_like(originals))
rows = []
for k in range(3):
    own = slice(k * per_image, (k + 1) * per_image)
    rows += [originals[k : k + 1], holes[k : k + 1], filled[own], pasted[own]]
titles = ["original", "known"] + ["filled in"] * per_image + ["pasted"] * per_image
grid = dict(columns=len(titles), titles=titles + [""] * (2 * len(titles)))
finding = "Given the left half: right halves that fit, and a paste-up that does not"
show_images(torch.cat(rows).cpu(), title=finding, **grid)


# %%
def jump_at_border(images):
    """Mean absolute difference of the columns left and right of it, one for each original.

    The fillings of one image are no independent measurements: they are averaged first.
    """
    jumps = (images[..., 14] - images[..., 13]).abs().mean((1, 2))
    return jumps.view(len(originals), -1).mean(1)


groups = {"real images": originals, "filled in": filled, "pasted at the end": pasted}
jumps = {name: jump_at_border(images) for name, images in groups.items()}
gap = jumps["pasted at the end"] - jumps["filled in"]
print(f"pasted minus filled in: {mean_error(gap)} (standard error, {len(gap)} images)")
rows = {name: float(values.mean()) for name, values in jumps.items()}
pd.DataFrame({"jump at the border": rows}).round(2)

# %% [markdown]
# The jump at the border is far below that of the paste-up, though still above that of the real images: some of the
# fillings plainly do not fit, such as the boot with a black half.
#
# **The known weakness.** The pixels that are put back are noised *independently* of what the sampler is inventing
# beside them, and at low noise little can be changed any more. RePaint (Lugmayr et al. 2022, section 4.2) therefore
# goes back: it noises $x_s$ up to $t$ again and repeats the step, several times (exercise 05.5).

# %% [markdown]
# ## 10. New pictures, or copies? · *further*
#
# **Question:** is the network drawing, or reciting the training set?
#
# For each sample find the **nearest training image**, by pixels and by features, and compare with the distances of
# *real test images* to the training set. A third group are copies: training images with a little noise on them.
#
# **Predict before you run:** the network's samples tend to be smooth. Does that make their *pixel* distance to
# the nearest training image larger or smaller than that of a real test image?

# %%
limit = course.pick(test=500, cpu=60_000, gpu=60_000)
count = course.pick(test=10, cpu=200, gpu=2000)
train_images = train_set[:limit][0]
generator = rng(30)
samples = draw_images(dpmpp_2m_step, 20, count, seed=31)
held_out = test_set[torch.randperm(len(test_set), generator=generator)[:count]][0]
copies = train_images[torch.randperm(len(train_images), generator=generator)[:count]]
copies = (copies + 0.1 * torch.randn(copies.shape, generator=generator)).clamp(-1, 1)
groups = {"samples": samples, "real test images": held_out, "noisy copies": copies}
print(f"{len(train_images):,} training images; three groups of {count}")

# %%
distances, indices = {}, {}
for space in ["pixels", "features"]:
    # Pixels / 28: the distance is then a root mean square per pixel.
    describe = quality.features if space == "features" else lambda x: x.flatten(1) / 28
    parts = [describe(part) for part in train_images.split(10_000)]
    for name, images in groups.items():
        asked = describe(images)
        gaps = torch.cat([torch.cdist(asked, part) for part in parts], dim=1)
        distances[space, name], indices[space, name] = gaps.min(1)


# %%
def share_near(space, name):
    """How many are nearer to a training image than 99% of the real test images."""
    limit = distances[space, "real test images"].quantile(0.01)
    return f"{(distances[space, name] < limit).double().mean():.1%}"


print("nearer to a training image than 99% of the real test images")
table_of(share_near, ["pixels", "features"], ["samples", "noisy copies"], "by")

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for ax, space in zip(axes, ["pixels", "features"]):
    furthest = float(max(distances[space, name].quantile(0.99) for name in groups))
    edges = np.linspace(0, furthest, 40)
    for name, colour, style in zip(groups, COLOURS, ["-", "--", ":"]):
        values = distances[space, name]
        label = f"{name}: median {values.median():.2f}"
        look = dict(histtype="step", color=colour, ls=style, lw=1.8, label=label)
        ax.hist(values, bins=edges, density=True, **look)
    ax.set_ylim(top=1.35 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize=8)
    ax.set(xlabel=f"distance to the nearest training image ({space})", ylabel="density")
axes[0].set_title("Copies would stand far left")
axes[1].set_title("By features planted copies go unseen")
plt.show()

# %% tags=["figure"]
closest = distances["pixels", "samples"].argsort()[:4]
chosen = torch.cat([closest, torch.arange(6)])
by_pixels = train_images[indices["pixels", "samples"][chosen]]
by_features = train_images[indices["features", "samples"][chosen]]
rows = torch.cat([samples[chosen], by_pixels, by_features])
finding = (
    "Samples (top), nearest by pixels, nearest by features. Left four: the closest of all"
)
show_images(rows, columns=len(chosen), title=finding)

# %% [markdown]
# By pixels the noisy copies are caught at once, and even the four closest samples differ in details from their
# neighbours. By features the copies are *not* caught: a little noise moves an image at least as far as the nearest
# other garment is. A test that cannot find planted copies must not be trusted when it finds none. (If the first cell of
# this section printed 10,000 training images and not 60,000, most copies would go unseen: the network was trained on
# all.)
#
# And your prediction? In the run shown the samples lie about as far from the training images as real test images do
# (medians in the left panel). A smaller distance need not have meant copying: a smooth picture is near to everything;
# left-over grain moves a sample away from everything.

# %% [markdown]
# ## 11. What goes wrong when $x_T$ is not noise · *further*
#
# Notebook 01 (section 5) met a common mistake: $T = 200$ with betas made for 1000 leaves $\sqrt{\bar\alpha_T} = 0.364$
# of the image in $x_T$. Training then never shows the network pure noise, but sampling starts from it. Our schedule
# passes the same noise level on its way. So we start ours there, once from pure noise, as that sampler would, and once
# as it should be: from real images noised to that level.
#
# **Predict before you run:** real images have a dark background, so their mean pixel is far below 0. Pure noise
# has mean 0. What will the network draw?

# %%
first_t = int((torch.tensor(a_bar).sqrt() - 0.364).abs().argmin())
steps, count = course.pick(test=3, cpu=25, gpu=25), course.pick(test=10, cpu=150, gpu=1000)
late = [round(first_t * (1 - k / steps)) for k in range(steps)]
print(f"sqrt(alpha-bar) = {math.sqrt(a_bar[first_t]):.3f} at t = {first_t}")
y, noise = classes_in_turn(count), normal((count, 1, 28, 28), rng(40))
own_class = [torch.nonzero(test_set.labels == k).flatten() for k in range(10)]
real = test_set[torch.stack([own_class[k % 10][k // 10] for k in range(count)])][0]
noised = math.sqrt(a_bar[first_t]) * real.to(device) + math.sqrt(1 - a_bar[first_t]) * noise


def finish(x_T, grid):
    return last_of(run(ddim_step, x_T, y, grid)).clamp(-1, 1).cpu()


results = {
    "from pure noise": finish(noise, late),
    "from noised real images": finish(noised, late),
    "from T-1, where x_T is noise": finish(noise, steps),
    "the real images themselves": real,
}
rows = {name: [float(x.mean()), frechet_of(x)] for name, x in results.items()}
columns = ["mean pixel", "Frechet distance"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(
    {columns[0]: 2, columns[1]: 1}
)

# %% tags=["figure"]
kept = torch.cat([images[:10] for images in results.values()][:3])
finding = "Begun late from pure noise (top), from noised images (middle); from T-1 (bottom)"
show_images(kept, columns=10, title=finding)

# %% [markdown]
# From pure noise the pictures come out too bright, with ragged textures where black background should be: the network
# took the mean of 0 for a property of the image. The middle row shows that starting in the middle is not itself the
# trouble. The training loss does not show the mistake.

# %% [markdown]
# ## 12. Play · *further*
#
# Sampler, number of steps and $\eta$, from one fixed noise, one image for each class. First for three settings.

# %%
fixed_x_T = normal((10, 1, 28, 28), rng(50))


def draw(sampler="ddim", steps=10, eta=0.0, clip=True):
    """Ten images, one for each class, from a fixed noise; eta counts for DDIM only."""
    options = dict(
        sampler=sampler, steps=steps, clip=clip, x_T=fixed_x_T, y=classes_in_turn(10)
    )
    name = sampler
    if sampler == "ddim":
        options["eta"], name = eta, f"ddim, eta = {eta:.1f}"
    states = sample(model, diffusion, fixed_x_T.shape, generator=rng(51), **options)
    finding = f"{name}: {steps} network evaluations"
    return show_images(last_of(states).cpu(), columns=10, scale=2, title=finding)


for sampler, steps in [("ddpm", 10), ("ddim", 10), ("dpmpp_2m", 10)]:
    display(draw(sampler, steps))

# %% [markdown]
# DDIM with $\eta = 0$: raise the steps from 2 to 30; the ten pictures get better and stay the same ones. Then raise
# $\eta$: they change.

# %%
choices = ["ddpm", "ddim", "dpmpp_2m"]
play(draw, sampler=choices, steps=(2, 30), eta=(0.0, 1.0, 0.1), clip=True)

# %% [markdown]
# ## 13. Exercises · *further*
#
# As in *your turn*, with `hint("05.4")`, `solution("05.4")`, and so on.
#
# ### 05.4 *(further)* Slerp for a batch
#
# `slerp` in `utils` takes two noises and treats each as one long vector. Given two *batches*, it would use one angle
# for all. Write a slerp in which every image has its own.


# %%
def slerp_batch(a, b, weight):
    """Spherical interpolation, each image with its own angle: weight 0 gives a, 1 gives b.

    a, b: (B, C, H, W), where a[k] and b[k] have the same norm. weight: from 0 to 1.
    Where a[k] equals b[k], so does the result.
    """
    raise NotImplementedError


check("05.4", slerp_batch)

# %% [markdown]
# ### 05.5 *(further)* The missing piece of RePaint
#
# RePaint goes back from $x_s$ to the noisier $x_t$ ($\bar\alpha_t < \bar\alpha_s$) by adding noise, as the forward
# process would, without knowing $x_0$. Write that step. With it you can repeat each step of `inpaint` a few times.


# %%
def noise_again(x_s, a_bar_s, a_bar_t, z):
    """From x_s at alpha-bar a_bar_s back to the noisier x_t at alpha-bar a_bar_t.

    0 < a_bar_t < a_bar_s <= 1. z: standard normal noise of the shape of x_s.
    """
    raise NotImplementedError


check("05.5", noise_again)

# %% [markdown]
# ### 05.6 *(further)* The line, integrated exactly
#
# 2M takes the line's value half-way through the step and treats it as constant. The integral of $e^\lambda$ times a
# straight line has a closed form. Derive it and write the step. Then put `exact_line_step` into `error_in_the_middle`
# (section 6). Which error is smaller, its own or 2M's? Why need the exact integral of a wrong line not win?
#
# ```python
# def exact_line_step(x_t, x_0, a_bar_t, a_bar_s, z, previous):
#     if previous is None or a_bar_s == 1:
#         return dpmpp_2m_step(x_t, x_0, a_bar_t, a_bar_s, z, previous)
#     lambdas = [half_log_snr(a) for a in (previous[1], a_bar_t, a_bar_s)]
#     return line_step(x_t, x_0, previous[0], *lambdas)
# ```


# %%
def line_step(x_t, x_0, x_0_before, lambda_before, lambda_t, lambda_s):
    """x_s after a step along the ODE; the estimate of x_0 is a straight line in lambda.

    The line goes through x_0_before at lambda_before and x_0 at lambda_t. x_t, x_0 and
    x_0_before: tensors of one shape; the lambdas: half the log of the SNR, rising numbers.
    sigma = 1 / sqrt(1 + exp(2 lambda)).
    """
    raise NotImplementedError


check("05.6", line_step)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $\hat x_0$, $\hat\epsilon$ | `x_0`, `noise` | the network's estimate of the clean image, of the noise |
# | $t \to s$ | `t`, `s` | a step from timestep $t$ to an earlier $s$ |
# | $\bar\alpha_t$, $\bar\alpha_s$ | `a_bar_t`, `a_bar_s` | alpha-bar before and after the step; 1 after the last |
# | $z$, $\tilde\sigma$ | `z`, `sigma_tilde` | fresh standard normal noise, and its factor in a step |
# | $\eta$ | `eta` | $\tilde\sigma$ in units of DDPM's: 1 is DDPM, 0 is deterministic |
# | $\lambda = \frac12\log\mathrm{SNR}$ | `half_log_snr(a)` | the time in which the ODE is simple |
# | NFE | `steps` | network evaluations, the cost of a sample |
#
# 1. Algorithm 2 is the posterior of notebook 01 with the network's guess in the place of $x_0$; clip the guess where
#    the network predicts noise, and add no noise in the last step.
# 2. DDIM needs no noise at all; DPM-Solver++(2M) follows the same path with a line through two guesses and far fewer
#    looks.
# 3. With few evaluations the sampler decides how good the pictures are, with many the network; measure against
#    the floor, with error bars.
#
# **Next:** [06 · Evaluation](06_evaluation.ipynb) asks how good the pictures are,
# [07 · Guidance](07_guidance.ipynb) which ones you get, [08 · One family](08_one_family.ipynb) how few evaluations are
# enough.
#
# ### References
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: Algorithm 2; eq. 4, 6, 7, 11;
#   sections 3.2 (the two variances) and 3.3 (the last step).
# - Song, Meng, Ermon 2020, *Denoising diffusion implicit models*, arXiv 2010.02502: eq. 12, 13, 14, 16; Tables 1, 2.
# - Song et al. 2021, *Score-based generative modeling through SDEs*, arXiv 2011.13456: eq. 13.
# - Lu et al. 2022, *DPM-Solver++*, arXiv 2211.01095: Proposition 4.1, Algorithm 2.
# - Heusel et al. 2017, arXiv 1706.08500: eq. 6, Frechet distance; Binkowski et al. 2018, arXiv 1801.01401: KID.
# - Karras, Aittala, Aila, Laine 2022, *Elucidating the design space*, arXiv 2206.00364: section 4.
# - Lin, Liu, Li, Yang 2023, *Common diffusion noise schedules and sample steps are flawed*, arXiv 2305.08891.
# - Lugmayr et al. 2022, *RePaint*, arXiv 2201.09865: eq. 8, section 4.2.
# - Shoemake 1985, *Animating rotation with quaternion curves*: slerp.
