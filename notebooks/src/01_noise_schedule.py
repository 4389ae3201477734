# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01 · Noise schedule
#
# {{badge}}
#
# ![One ankle boot under more and more noise, three times: by a linear schedule it is lost early, by the cosine and the
# sigmoid schedule it can be seen longer](../data/pictures/01.png)
#
# *Three ways to drown a boot, each computed in one jump; you write the jump and the schedule of the second row.*
#
# A diffusion model learns to undo noise. So the first thing to build is the noise: how it is added, how much at each
# step, and what can be computed about it. No network is trained: everything here is exact.
#
# **At the end you will have**, checked against `utils/diffusion`: the forward process step by step and in one jump;
# three schedules for any number of steps; the posterior $q(x_{t-1} \mid x_t, x_0)$, which notebook 05 turns into a
# sampler; and the three things a network can be asked to predict. The jump, the cosine schedule and the posterior you
# write yourself.
#
# **You need**: Python, a little PyTorch (tensors, broadcasting), and from probability: mean, variance,
# the normal distribution, Bayes' rule.
#
# **Time**: about ten seconds on two cores in the run shown, all on the CPU. For you: 20 minutes of reading for the
# *core* sections and half an hour for the three pieces; *further* is for a second reading. (Comments such as `noqa` and
# `NBVAL_CHECK_OUTPUT` speak to the course's tests.)

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import functools
import time

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import torch
from tqdm.auto import tqdm

from utils.course import COLOURS, animate, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import GaussianDiffusion, NoiseSchedule, load_images

# %% [markdown]
# ## 0. One image, and what its numbers are · *core*
#
# We use one real image all the way through, the first ankle boot of Fashion-MNIST's test set (Xiao et al. 2017).
# `load_images` turns the stored whole numbers 0 to 255 into floats in **[-1, 1]**: black is -1, white is +1.
#
# **Predict before you run:** much of a typical Fashion-MNIST image is black background. What does that do to
# the mean pixel value: is it about 0, or not?

# %%
data = load_images("fashion-mnist", "test")
images, labels = data.images, data.labels
boot = data.classes.index("Ankle boot")
x_0 = images[labels == boot][:1]  # (1, 1, 28, 28): a batch of one image


def percent(condition, digits=0):
    """How often the condition is true."""
    return f"{condition.double().mean():.{digits}%}"


print(f"x_0: shape {tuple(x_0.shape)}, from {x_0.min():.2f} to {x_0.max():.2f}")
rows = [(f"{x.mean():.2f}", f"{x.std():.2f}", percent(x == -1)) for x in (x_0, images)]
columns = ["mean", "standard deviation", "pixels that are exactly -1"]
pd.DataFrame(rows, index=["this boot", "all images"], columns=columns)

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), width_ratios=[1, 2])
show_images(x_0, ax=left)
left.set_title("The image")
right.hist(x_0.flatten(), bins=40, color=COLOURS[0])
right.set(xlabel="pixel value", ylabel="pixels")
right.set_title("Its pixels: mostly background, no bell curve")
plt.show()

# %% [markdown]
# Clearly below 0, because the background sits at -1. The forward process will turn this histogram into a standard bell
# curve, and the reverse process has to turn it back.
#
# ## 1. Adding noise, one step at a time · *core*
#
# **Question:** how do we destroy an image in $T$ small steps, so that what is left is pure noise of a known
# kind?
#
# The **forward process** is a chain $x_0 \to x_1 \to \dots \to x_T$. Each step draws
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\left(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\right)
# \qquad\text{(Ho et al. 2020, eq. 2)}$$
#
# $\mathcal N(x; m, V)$ is the normal distribution of $x$ with mean $m$ and variance $V$; $I$ says that
# every pixel gets its own independent noise. $\beta_t$ (`betas[t]`), between 0 and 1, is
# the **variance of the noise added at step $t$**; the list of all of them is the **noise schedule**. We
# start with that of the DDPM paper: 1000 values from 0.0001 to 0.02, evenly spaced.
#
# **A trap in the numbering.** Papers count steps from 1 to $T$, code from 0 to $T-1$: $\beta_1$ is `betas[0]`, and
# `x_t` at `t = 0` is the image after the *first* step, $x_1$. The clean image is always `x_0`.
#
# Why multiply by $\sqrt{1-\beta_t}$ before adding noise? Take one pixel with variance $V$ over the data
# set. After the step its variance is $(1-\beta_t)V + \beta_t$, since a factor $c$ multiplies a variance by
# $c^2$ and variances of independent terms add. With $V = 1$ it stays 1; any other $V$ moves towards 1.
#
# **Predict before you run:** the 1000 betas add up to about 10. If we leave the shrinking out and only add
# noise, what is the standard deviation of the pixels at the end, and what is it with shrinking?

# %%
num_timesteps = 1000
betas = torch.linspace(1e-4, 0.02, num_timesteps, dtype=torch.float64)


def add_step(x, beta, noise):
    """x_{t-1} to x_t (eq. 2). beta is a variance, so its square root scales the noise."""
    return (1 - beta).sqrt() * x + beta.sqrt() * noise


states, x_t, x_not_shrunk = [], x_0, x_0
for t in range(num_timesteps):
    noise = torch.randn_like(x_0)  # randn: normal. rand would be uniform, see section 9
    x_t = add_step(x_t, betas[t], noise)
    x_not_shrunk = x_not_shrunk + betas[t].sqrt() * noise
    states.append(x_t)

print(f"sum of the betas {betas.sum():.2f}; after {num_timesteps} steps:")
ends = {"with shrinking": x_t, "without shrinking": x_not_shrunk}
rows = [(x.mean().item(), x.std().item()) for x in ends.values()]
pd.DataFrame(rows, index=list(ends), columns=["mean", "standard deviation"]).round(2)

# %% tags=["figure"]
shown = [0, 50, 100, 200, 300, 400, 600, 999]
show_images(
    torch.cat([states[t] for t in shown]),
    titles=[f"t = {t}" for t in shown],
    title="A thousand small steps leave nothing of the boot",
)

# %% [markdown]
# With shrinking we end at mean 0 and standard deviation 1 (up to chance: 784 pixels), a standard normal
# whatever the image was; so sampling can *start* from one. Without, the variance is the image's own plus
# the sum of the betas, and the image's mean is still there.

# %% [markdown]
# ## 2. All steps in one jump · *core*
#
# **Question:** training needs $x_t$ for millions of random $t$. Must we walk through all the steps before?
#
# Write $\alpha_t = 1-\beta_t$ (`alphas`), and put one step into the next, with independent standard normals
# $\epsilon_t, \epsilon_{t-1}$:
#
# $$x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t
# = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} +
# \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\,\epsilon_{t-1} +
# \sqrt{1-\alpha_t}\,\epsilon_t}_{\text{noise}}$$
#
# A sum of independent normals is normal, and the variances add:
#
# $$\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\alpha_{t-1}.$$
#
# So two steps have the form of one step, with the product $\alpha_t\alpha_{t-1}$ in the place of $\alpha_t$.
# And three steps, and $t$ steps?


# %%
def at(table, t, like):
    """table[t] as (B, 1, 1, 1), so that each value multiplies a whole image of `like`."""
    return table.to(like.dtype)[t].view(-1, *[1] * (like.ndim - 1))


# %% [markdown]
# ### Your turn: 01.1
#
# Continue down to $x_0$ on paper, then write the jump. (In notebook 00 the finished product was given; here you have
# only the single steps, `betas`.) Each image has a `t` of its own, and step $t$ itself counts. `at` takes the values of
# a table (T,) at the steps `t`, ready to multiply images.
#
# Write your lines in place of `raise NotImplementedError` and run the cell: `check` says what is
# right or wrong. `hint("01.1")` gives a hint, each call the next one; `solution("01.1")` shows an answer.
# You may also go on: the course's version follows, and yours is used instead if it is right.


# %%
def q_sample(x_0, t, noise, betas):
    """x_t in one jump, for each image at its own step.

    x_0, noise: (B, ...) float32. t: (B,) whole numbers; t = 0 is after the first step.
    betas: (T,) float64. Returns x_t, of the shape and dtype of x_0.
    """
    raise NotImplementedError


check("01.1", q_sample)

# %% [markdown]
# With every step one more factor: $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$ (`alphas_cumprod`), and
#
# $$q(x_t \mid x_0) = \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\right)
# \qquad\text{(Ho et al. 2020, eq. 4)}$$
#
# or, as code needs it, $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ with
# $\epsilon \sim \mathcal N(0, I)$ (`noise`).


# %%
def alpha_bars(betas):
    """alpha-bar at every step of the chain with these betas, (T,)."""
    return torch.cumprod(1 - betas, dim=0)


def course_q_sample(x_0, t, noise, betas):
    alphas_cumprod = alpha_bars(betas)
    # The roots are taken in float64: in float32 1 - alpha-bar loses digits near 0.
    signal = at(alphas_cumprod.sqrt(), t, x_0)
    sigma = at((1 - alphas_cumprod).sqrt(), t, x_0)
    return signal * x_0 + sigma * noise


q_sample = choose("01.1", q_sample, course_q_sample)
alphas_cumprod = alpha_bars(betas)

# %% [markdown]
# Does it agree with the walk? We draw $x_t$ **10,000 times** both ways, on a grid of pixels, at five
# values of $t$. The yardstick is the **standard error** (SE), the standard deviation
# that a difference has by chance alone. For $n$ draws with variances $V_1, V_2$:
#
# $$\mathrm{SE}(\text{difference of means}) = \sqrt{\tfrac{V_1 + V_2}{n}},\qquad
# \mathrm{SE}(\text{difference of variances}) = \sqrt{\tfrac{2(V_1^2 + V_2^2)}{n-1}}\ \text{ (for normals).}$$
#
# **Predict before you run:** if both ways are right, how often should a difference exceed 2 SE?

# %%
draws = 10_000
checkpoints = [10, 100, 300, 600, 999]
stride = course.pick(test=8, cpu=4, gpu=4)
pixels = x_0[0, 0, ::stride, ::stride].flatten()  # a grid of pixels over the whole image
starts = pixels.repeat(draws, 1)  # (10000, pixels): each row a new try from one x_0

began = time.perf_counter()
x_t, walked = starts, {}
for t in tqdm(range(num_timesteps), desc="steps"):
    x_t = add_step(x_t, betas[t], torch.randn_like(x_t))
    if t in checkpoints:
        walked[t] = x_t
seconds_walk = time.perf_counter() - began

began = time.perf_counter()
jumped = {}
for step in checkpoints:
    t = torch.full((draws,), step)
    jumped[step] = q_sample(starts, t, torch.randn_like(starts), betas)
seconds_jump = (time.perf_counter() - began) / len(checkpoints)
print(f"{draws:,} draws of x_999, {len(pixels)} pixels:")
print(f"{seconds_walk:.1f} s step by step, {seconds_jump:.3f} s in one jump")

# %%
z_scores = {"mean": [], "variance": []}
for t in checkpoints:
    # Over the draws: one value for each pixel.
    mean_1, var_1 = walked[t].mean(0), walked[t].var(0)
    mean_2, var_2 = jumped[t].mean(0), jumped[t].var(0)
    se_mean = ((var_1 + var_2) / draws).sqrt()
    se_var = (2 * (var_1**2 + var_2**2) / (draws - 1)).sqrt()
    z_scores["mean"].append((mean_1 - mean_2) / se_mean)
    z_scores["variance"].append((var_1 - var_2) / se_var)
for name, values in z_scores.items():
    z = torch.cat(values)
    print(f"{name}: {len(z)} differences, {percent(z.abs() > 2, 1)} of them beyond 2 SE")


# %%
def bell(x, mean=0.0, std=1.0):
    """Density of a normal distribution."""
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * (2 * torch.pi) ** 0.5)


# %% tags=["figure"]
brightest = int(pixels.argmax())
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for t, colour in zip([100, 300, 999], COLOURS):
    look = {"bins": 50, "density": True, "color": colour}
    left.hist(jumped[t][:, brightest], alpha=0.3, label=f"t = {t}", **look)
    left.hist(walked[t][:, brightest], histtype="step", **look)
    mean, std = alphas_cumprod[t].sqrt() * pixels[brightest], (1 - alphas_cumprod[t]).sqrt()
    grid = torch.linspace(mean - 4 * std, mean + 4 * std, 200)
    left.plot(grid, bell(grid, mean, std), color="black", lw=1)
left.set(xlabel="brightest pixel in x_t", ylabel="density")
left.set_title("Walk (outline) and jump (filled) follow eq. 4 (black)")
left.legend()
z = torch.cat(z_scores["mean"] + z_scores["variance"])
right.hist(z, bins=20, density=True, color=COLOURS[0], alpha=0.6)
grid = torch.linspace(-4, 4, 200)
right.plot(grid, bell(grid), color="black", lw=1)
right.set(xlabel="difference / standard error", ylabel="density")
right.set_title("They differ as chance alone predicts (black)")
plt.show()

# %% [markdown]
# A normal variable is beyond two standard deviations 4.6% of the time, and the two shares printed above are
# of that size (the states of one walk hang together, so the shares scatter a bit). On the left the whole distribution
# is the normal of eq. 4. And the jump is hundreds of times faster in the run shown.

# %% [markdown]
# ## 3. Three schedules, for any number of steps · *core*
#
# **Question:** which betas, for 1000 steps, for 50, for 4000?
#
# What matters is the curve $\bar\alpha_t$: how much of the image is left. It should
# fall from about 1 to about 0, **whatever $T$ is**. There are two ways to get this.
#
# *Fix the betas and scale them.* **Linear** (Ho et al. 2020, section 4): $10^{-4}$ to $0.02$, chosen for
# $T = 1000$. Since $\ln(1-\beta) \approx -\beta$ for small $\beta$,
#
# $$\bar\alpha_T = \prod_t (1-\beta_t) \approx e^{-\sum_t \beta_t},\qquad
# \sum_t \beta_t = T \cdot \tfrac{10^{-4} + 0.02}{2} \approx 10 \text{ at } T = 1000 .$$
#
# To keep the sum for another $T$, multiply all betas by $1000/T$.
#
# *Fix the curve and read the betas off.* Let $u = t/T$ run from 0 to 1 and choose $\bar\alpha(u)$ directly;
# then $\beta_t = 1 - \bar\alpha(t/T)\,/\,\bar\alpha((t-1)/T)$ with the paper's $t = 1 \dots T$.
#
# - **Cosine** (Nichol & Dhariwal 2021, eq. 17):
#   $\bar\alpha(u) = f(u)/f(0)$, $f(u) = \cos^2\!\left(\frac{u+0.008}{1.008}\cdot\frac{\pi}{2}\right)$.
# - **Sigmoid** (Jabri et al. 2022; Chen 2023), with $\ell(z) = 1/(1+e^{-z})$, the logistic function:
#   $\bar\alpha(u) = \frac{\ell(3) - \ell(6u - 3)}{\ell(3) - \ell(-3)}$.
#
# Both curves reach exactly 0 at $u = 1$. The last beta would then be 1 and $1/\sqrt{\bar\alpha_T}$
# infinite, so all betas (the linear ones too) are capped at 0.999.
#
# ### Your turn: 01.2
#
# Write the cosine schedule: its betas, for any $T$. How many values of the curve do $T$ betas need? Work in float64
# (`dtype=torch.float64`): 1 minus a ratio close to 1 loses digits.


# %%
def cosine_betas(num_timesteps):
    """The betas of the cosine schedule, none above 0.999: (num_timesteps,) float64."""
    raise NotImplementedError


check("01.2", cosine_betas)

# %%
MAX_BETA = 0.999


def betas_from_alpha_bar(alpha_bar, num_timesteps):
    """The betas of a curve alpha_bar(u), where u runs from 0 to 1."""
    curve = alpha_bar(torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64))
    return (1 - curve[1:] / curve[:-1]).clamp(max=MAX_BETA)


def course_cosine_betas(num_timesteps):
    def alpha_bar(u):  # not divided by f(0): the betas use ratios only
        return torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2

    return betas_from_alpha_bar(alpha_bar, num_timesteps)


cosine_betas = choose("01.2", cosine_betas, course_cosine_betas)


# %%
def linear_betas(num_timesteps, rescale=True):
    """(T,) betas; without rescale they are those of T = 1000 spread over whatever T is."""
    scale = 1000 / num_timesteps if rescale else 1.0
    betas = torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)
    return betas.clamp(max=MAX_BETA)


def sigmoid_betas(num_timesteps, start=-3.0, end=3.0):
    ends = torch.tensor([start, end], dtype=torch.float64).sigmoid()

    def alpha_bar(u):
        return (ends[1] - (u * (end - start) + start).sigmoid()) / (ends[1] - ends[0])

    return betas_from_alpha_bar(alpha_bar, num_timesteps)


# %% [markdown]
# **Predict before you run:** with the sum rule above, what is $\sqrt{\bar\alpha_T}$, the weight of the image
# in $x_T$, for *unscaled* linear betas at $T = 200$? ($e^{-1} \approx 0.37$.)

# %%
# NBVAL_CHECK_OUTPUT
schedules = {
    "linear, unscaled": functools.partial(linear_betas, rescale=False),
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}
lengths = [20, 50, 200, 1000, 4000]
left_over = {
    name: [alpha_bars(make(steps))[-1].sqrt().item() for steps in lengths]
    for name, make in schedules.items()
}
print("sqrt(alpha-bar_T), what is left of the image in x_T")
pd.DataFrame(left_over, index=pd.Index(lengths, name="T")).round(4)


# %%
def fractions_of(steps):
    """(t + 1) / T for every step."""
    return (torch.arange(steps) + 1) / steps


# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
unscaled = alpha_bars(linear_betas(200, rescale=False))
left.plot(fractions_of(200), unscaled, "k--", label="linear, unscaled, T = 200")
for name, colour in zip(["linear", "cosine", "sigmoid"], COLOURS):
    make = schedules[name]
    left.plot(fractions_of(1000), alpha_bars(make(1000)), color=colour, label=name)
    left.plot(fractions_of(50), alpha_bars(make(50)), "o", color=colour, ms=3)
    right.semilogy(fractions_of(1000), make(1000), color=colour)
left.plot([], [], "o", color="grey", ms=3, label="the same with T = 50")
left.set(xlabel="(t + 1) / T", ylabel=r"$\bar\alpha_t$")
left.set_title("Scaled, the curve hardly depends on T")
left.legend(fontsize=8)
right.set(xlabel="(t + 1) / T", ylabel=r"$\beta_t$ at T = 1000")
right.set_title("Cosine and sigmoid keep large betas for the end")
plt.show()

# %% [markdown]
# The unscaled linear schedule leaves 0.0064 of the image at $T = 1000$, for which it
# was made; 0.364 at $T = 200$ (the rule of thumb said 0.37); and most of it at $T = 20$. The
# other columns stay near 0 at every $T$.
#
# Now to the eye: the same noise, three schedules, at the same fractions of the way.

# %% tags=["figure", "picture"]
noise = torch.randn_like(x_0)
fractions = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
t = torch.tensor([round(1000 * u) - 1 for u in fractions])
rows, titles = [], []
for name in ["linear", "cosine", "sigmoid"]:
    batch = x_0.expand(len(t), -1, -1, -1)
    rows.append(q_sample(batch, t, noise.expand_as(batch), schedules[name](1000)))
    titles += [f"{name}, t = {t[0]}"] + [f"t = {k}" for k in t[1:].tolist()]
title = "Linear noise swallows the boot first; cosine and sigmoid keep it longer"
show_images(torch.cat(rows), titles=titles, columns=len(fractions), title=title)

# %% tags=["figure"]
steps = torch.linspace(0, 999, 24).round().long()
all_betas = [schedules[name](1000) for name in ["linear", "cosine", "sigmoid"]]
frames = [torch.cat([q_sample(x_0, t.view(1), noise, b) for b in all_betas]) for t in steps]
titles = [f"t = {t}" for t in steps.tolist()]
animate(frames, titles=titles, fps=6, title="Linear, cosine, sigmoid: T = 1000")

# %% [markdown]
# With linear betas the last part of the chain is nearly pure noise, and a network spends a good part of its training
# on steps where there is little to learn: the reason for the cosine (Nichol & Dhariwal 2021, section 3.2).

# %% [markdown]
# ## 4. The signal-to-noise ratio · *core*
#
# **Question:** two schedules, two values of $T$: what do we compare?
#
# The **signal-to-noise ratio** compares the squared factors of image and noise in eq. 4:
# $\mathrm{SNR}(t) = \bar\alpha_t / (1-\bar\alpha_t)$ (`snr`). $t$ is only a label for a noise level: Kingma et al.
# (2021) show that, in the limit of many steps, the likelihood loss depends on the schedule only through the SNR at its
# two ends.
#
# **Predict before you run:** which schedule spends the largest share of its steps where the SNR is below
# 0.01, that is, where the squared factor of the noise is at least 100 times that of the image?


# %%
# NBVAL_CHECK_OUTPUT
def snr_of(betas):
    return alpha_bars(betas) / (1 - alpha_bars(betas))


snrs = {name: snr_of(schedules[name](1000)) for name in ["linear", "cosine", "sigmoid"]}
rows = {}
for name, snr in snrs.items():
    rows[name] = {
        "SNR > 10": percent(snr > 10),
        "10 to 0.1": percent((snr <= 10) & (snr > 0.1)),
        "0.1 to 0.01": percent((snr <= 0.1) & (snr > 0.01)),
        "SNR < 0.01": percent(snr <= 0.01),
        # The SNR only falls, so this is the first t where it is 1 or less.
        "SNR = 1 at t =": int((snr > 1).sum()),
    }
print("share of 1000 steps with")
pd.DataFrame(rows).T

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(7, 3.4))
for (name, snr), colour in zip(snrs.items(), COLOURS):
    axes.semilogy(fractions_of(1000), snr, color=colour, label=name)
unscaled = snr_of(linear_betas(200, rescale=False))
axes.semilogy(fractions_of(200), unscaled, "k--", label="linear, unscaled, T = 200")
axes.axhline(1, color="grey", lw=0.8)
axes.axhspan(1e-9, 1e-2, color="grey", alpha=0.12, lw=0)
axes.text(0.02, 2e-5, "SNR below 0.01:\nlittle to see", fontsize=9, color="dimgrey")
axes.set(xlabel="(t + 1) / T", ylabel="SNR", ylim=(1e-6, 1e5))
axes.set_title("Linear spends a third of its steps in the dark; unscaled never gets there")
axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# Linear: about a third of its steps lie below 0.01; with cosine and sigmoid it is a few in
# a hundred. The dashed line stops at 0.15; section 5 shows what that costs.
#
# A schedule is chosen for an image size: averaging 2×2 pixels quarters the variance of independent noise but hardly
# changes a smooth image, so a larger picture of the same scene needs more noise to be destroyed (Chen 2023).

# %% [markdown]
# ## 5. What goes wrong: 200 steps, betas left as they were · *further*
#
# It is tempting to shorten the chain to $T = 200$ and to keep betas from $10^{-4}$ to $0.02$. Nothing crashes, so the
# mistake stays unseen.
#
# **Predict before you run:** sampling starts from pure noise and shows it to the network at $t = T-1$. What
# did the network see at $t = T-1$ in training, with these betas?

# %%
# NBVAL_CHECK_OUTPUT
short = {"unscaled": linear_betas(200, rescale=False), "scaled": linear_betas(200)}
last = {name: alpha_bars(betas)[-1].item() for name, betas in short.items()}
rows = [(a_bar**0.5, a_bar / (1 - a_bar)) for a_bar in last.values()]
index = pd.Index(list(short), name="betas, T = 200")
pd.DataFrame(rows, index=index, columns=["sqrt(alpha-bar_T)", "SNR(T)"]).round(5)


# %%
def last_state(x, betas):
    """x_T for each image of x: what a network sees in training at t = T-1."""
    t = torch.full((len(x),), len(betas) - 1)
    return q_sample(x, t, torch.randn_like(x), betas)


many = x_0.expand(2000, -1, -1, -1)
panels, titles = [x_0], ["x_0"]
for name, betas in short.items():
    panels += [last_state(x_0, betas), last_state(many, betas).mean(0, keepdim=True)]
    titles += [f"x_T, {name}", "mean of 2000"]
title = "Unscaled at T = 200, x_T is a boot on average; scaled, it is nothing"
show_images(torch.cat(panels), titles=titles, columns=5, scale=4, title=title)

# %% [markdown]
# So in training the network could find a faint image in $x_T$. The sampler then hands it noise in which there is none.
# Two measurements over the test set: the **mean pixel** of $x_T$, which for pure noise is 0 up to
# $1/\sqrt{784} = 1/28$; and the **class**, guessed as the one whose mean image (shrunk by $\sqrt{\bar\alpha_T}$) is
# nearest, which from noise is right 10% of the time.

# %%
half = len(images) // 2
rest, rest_labels = images[half:], labels[half:]
class_means = torch.stack([images[:half][labels[:half] == c].mean(0) for c in range(10)])


def guessed_right(x, signal):
    """How often the nearest class mean is that of the image's class."""
    distances = torch.cdist(x.flatten(1), signal * class_means.flatten(1))
    return percent(distances.argmin(1) == rest_labels)


print(f"clean images: class guessed right {guessed_right(rest, 1.0)}")
states = {name: last_state(rest, betas) for name, betas in short.items()}
states["pure noise"] = torch.randn_like(rest)
rows = []
for name, x_t in states.items():
    signal = last[name] ** 0.5 if name in last else 1.0
    rows.append((guessed_right(x_t, signal), percent(x_t.mean((1, 2, 3)).abs() > 2 / 28)))
pd.DataFrame(
    rows, index=list(states), columns=["class guessed right", "|mean pixel| > 2/28"]
)

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(7, 3))
edges = torch.linspace(-0.5, 0.3, 81)
for (name, x_t), colour, style in zip(states.items(), COLOURS, ["-", "-", "--"]):
    label = name if name == "pure noise" else f"x_T, betas {name}"
    look = {"histtype": "step", "color": colour, "lw": 1.8, "ls": style, "label": label}
    axes.hist(x_t.mean((1, 2, 3)), bins=edges, density=True, **look)
axes.set(xlabel="mean pixel of x_T", ylabel="density over test images")
axes.set_title("Unscaled, training never sees at T what the sampler starts from")
axes.legend()
plt.show()

# %% [markdown]
# With unscaled betas $x_T$ in training is a faded photograph: the class can be read from it nearly as well as from the
# clean image, and its mean pixel gives most images away. Scaled betas pass both tests.
#
# A milder form is common: Stable Diffusion's schedule keeps $\sqrt{\bar\alpha_T} = 0.068$, and its samples are never
# very dark or very bright (Lin et al. 2023).

# %% [markdown]
# ## 6. The posterior: one step back, if we knew the image · *core*
#
# **Question:** sampling has to go backwards, from $x_t$ to $x_{t-1}$. What is the right step?
#
# $q(x_{t-1} \mid x_t)$ alone cannot be written down: it depends on the distribution of all images. Given the clean
# image as well, it can. (Notebook 05 puts the network's *estimate* of $x_0$ in its place: the DDPM sampler.)
#
# Take one pixel; all are independent here. Let $\bar\alpha_{t-1}$ be the product up to the step before (1 at the
# first step). By Bayes' rule, and since $x_t$ depends on $x_0$ only through $x_{t-1}$,
#
# $$q(x_{t-1} \mid x_t, x_0) \;\propto\; \underbrace{q(x_t \mid x_{t-1})}_{\text{eq. 2}}\;
# \underbrace{q(x_{t-1} \mid x_0)}_{\text{eq. 4}}
# \;\propto\; \exp\left(-\tfrac12\left[\frac{(x_t - \sqrt{\alpha_t}\,x_{t-1})^2}{\beta_t} +
# \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}}\right]\right).$$
#
# The bracket is a quadratic in $x_{t-1}$, so the posterior is a normal distribution. Multiply out and sort by powers of
# $x_{t-1}$:
#
# $$[\;\cdot\;] = P\,x_{t-1}^2 - 2R\,x_{t-1} + \text{const},\qquad
# P = \frac{\alpha_t}{\beta_t} + \frac{1}{1-\bar\alpha_{t-1}},\qquad
# R = \frac{\sqrt{\alpha_t}}{\beta_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0 .$$
#
# **Complete the square**: $P x^2 - 2Rx = P\,(x - R/P)^2 - R^2/P$. So the mean is $R/P$ and the variance
# $1/P$.
#
# ### Your turn: 01.3
#
# The mean is linear: a weight times $x_0$ plus a weight times $x_t$. Write both weights and the variance, for all steps
# at once, from $\bar\alpha_t$ (`a_bar_t`) and $\bar\alpha_{t-1}$ (`a_bar_s`: in code the earlier step $t-1$ is called
# $s$). First bring $P$ to a common denominator: it becomes simple with $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and
# $\alpha_t + \beta_t = 1$, and nothing is divided by $1-\bar\alpha_{t-1}$ any more, which is 0 at the first step.


# %%
def posterior_weights(a_bar_t, a_bar_s):
    """Weight of x_0, weight of x_t, and variance of q(x_s | x_t, x_0), where s is t - 1.

    a_bar_t, a_bar_s: (T,) float64, alpha-bar at each step t and at the step before it;
    a_bar_s[0] is 1, the clean image. Returns three tensors (T,).
    """
    raise NotImplementedError


check("01.3", posterior_weights)

# %% [markdown]
# The common denominator gives
#
# $$P = \frac{\alpha_t(1-\bar\alpha_{t-1}) + \beta_t}{\beta_t(1-\bar\alpha_{t-1})}
# = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}.$$
#
# Hence $q(x_{t-1}\mid x_t,x_0) = \mathcal N(x_{t-1};\ \tilde\mu_t,\ \tilde\beta_t I)$ (Ho et al. 2020,
# eq. 6 and 7) with
#
# $$\tilde\beta_t = \frac1P = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t,\qquad
# \tilde\mu_t = \frac RP =
# \underbrace{\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}}_{\text{weight of } x_0} x_0
# + \underbrace{\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}}_{\text{weight of } x_t} x_t .$$


# %%
def course_posterior_weights(a_bar_t, a_bar_s):
    alpha_ts = a_bar_t / a_bar_s  # alpha_t
    x_0_weight = a_bar_s**0.5 * (1 - alpha_ts) / (1 - a_bar_t)
    x_t_weight = alpha_ts**0.5 * (1 - a_bar_s) / (1 - a_bar_t)
    variance = (1 - alpha_ts) * (1 - a_bar_s) / (1 - a_bar_t)
    return x_0_weight, x_t_weight, variance


posterior_weights = choose("01.3", posterior_weights, course_posterior_weights)


def posterior_of(betas):
    """Both weights and the variance at every step of the chain with these betas."""
    a_bar = alpha_bars(betas)
    a_bar_prev = torch.cat([torch.ones(1, dtype=betas.dtype), a_bar[:-1]])
    return posterior_weights(a_bar, a_bar_prev)


# %% [markdown]
# ### Verified by simulation
#
# Without Bayes' rule: run very many chains *forward* from one pixel value, keep the pairs $(x_{t-1}, x_t)$, sort them
# into narrow bins by $x_t$, and look at $x_{t-1}$ in each bin. The chain is short, $T = 20$ (cosine), so that its steps
# are large enough to see.
#
# **Predict before you run:** the mean of $x_{t-1}$ changes from bin to bin. Does its variance?

# %%
few = cosine_betas(20)
pairs = course.pick(test=200_000, cpu=1_000_000, gpu=1_000_000)


def simulate(x_0, betas, t):
    """x_{t-1} by eq. 4, and one forward step from there to x_t: eq. 2, nothing else."""
    a_bar_prev = alpha_bars(betas)[t - 1]
    x_prev = a_bar_prev.sqrt() * x_0 + (1 - a_bar_prev).sqrt() * torch.randn_like(x_0)
    return x_prev, add_step(x_prev, betas[t], torch.randn_like(x_0))


t, pixel = 9, 0.6
x_prev, x_t = simulate(torch.full((pairs,), pixel, dtype=torch.float64), few, t)

# %%
x_0_weight, x_t_weight, variance = (values[t] for values in posterior_of(few))
width, rows = 0.2, []
for low in torch.arange(-2.0, 2.8, width).tolist():
    inside = (x_t >= low) & (x_t < low + width)
    previous, current = x_prev[inside], x_t[inside]
    # Inside a bin x_t varies a little. Around the formula's own line that plays no part.
    around = previous - (x_0_weight * pixel + x_t_weight * current)
    means = current.mean(), previous.mean(), around.mean()
    rows.append([*means, around.var(), len(current)])
centre, mean_seen, offset, variance_seen, count = torch.tensor(rows, dtype=torch.float64).T

z_mean = offset / (variance_seen / count).sqrt()
z_var = (variance_seen - variance) / (variance * (2 / (count - 1)).sqrt())
fewest, most = int(count.min()), int(count.max())
print(f"{pairs:,} pairs, {len(rows)} bins with {fewest:,} to {most:,} pairs each")
for name, z in [("means", z_mean), ("variances", z_var)]:
    near = int((z.abs() < 2).sum())
    print(f"{name}: {near} of {len(rows)} bins within 2 standard errors of the formula")

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
dots = {"color": "grey", "ms": 2, "alpha": 0.5, "label": "3000 of the pairs"}
left.plot(x_t[:3000], x_prev[:3000], ".", **dots)
line = torch.linspace(-2.6, 3, 2, dtype=torch.float64)
formula = x_0_weight * pixel + x_t_weight * line
left.plot(line, formula, color=COLOURS[1], label="posterior mean (eq. 7)")
band = (formula - variance.sqrt(), formula + variance.sqrt())
left.fill_between(line, *band, color=COLOURS[1], alpha=0.2, lw=0, label="± posterior std")
left.plot(centre, mean_seen, "o", color=COLOURS[0], ms=4, label="mean in a bin")
left.set(xlabel=r"$x_t$", ylabel=r"$x_{t-1}$")
left.set_title("The mean is a straight line in x_t ...")
left.legend(fontsize=8)
bars = 2 * variance_seen * (2 / (count - 1)).sqrt()
label = "variance around the line in a bin, ± 2 SE"
points = {"fmt": "o", "ms": 4, "capsize": 2, "label": label}
right.errorbar(centre, variance_seen, bars, **points)
right.axhline(variance, color=COLOURS[1], label=r"$\tilde\beta_t$ (eq. 7)")
right.axhline(few[t], color="black", ls="--", lw=1, label=r"$\beta_t$, for comparison")
right.set(xlabel=r"$x_t$", ylabel=r"variance of $x_{t-1}$")
right.set_ylim(0, 1.25 * float(few[t]))
right.set_title("... and the variance does not depend on it")
right.legend(fontsize=8, loc="lower center")
plt.show()

# %% [markdown]
# No: nothing in $1/P$ depends on $x_t$ or $x_0$, and a sampler can use a fixed table of variances. They are smaller
# than $\beta_t$, because knowing $x_0$ narrows down where the chain came from.
#
# ### The weights over a whole chain
#
# **Predict before you run:** at the very first step (`t = 0`) the previous state *is* the clean image. What
# must the two weights and the variance be there?

# %%
# NBVAL_CHECK_OUTPUT
betas_1000 = cosine_betas(1000)
first, second, var = posterior_of(betas_1000)
table = torch.stack([first, second, var.sqrt(), betas_1000.sqrt()], dim=1)
columns = ["weight of x_0", "weight of x_t", "std", "sqrt(beta)"]
print("cosine, T = 1000")
table = pd.DataFrame(table, columns=columns).rename_axis("t").round(4)
table.loc[[0, 1, 10, 100, 500, 900, 999]]

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
t = torch.arange(1000) + 1
for name, colour in zip(["linear", "cosine"], COLOURS):
    betas_1000 = schedules[name](1000)
    first, second, var = posterior_of(betas_1000)
    left.semilogx(t, first, color=colour, label=f"weight of x_0, {name}")
    left.semilogx(t, second, color=colour, ls="--", label=f"weight of x_t, {name}")
    right.semilogx(t, var / betas_1000, color=colour, label=name)
left.set(xlabel="t + 1 (log axis)", ylabel="weight in the posterior mean")
left.set_title("x_0 outweighs x_t only in the last steps of sampling")
left.legend(fontsize=8, loc="center", bbox_to_anchor=(0.57, 0.5))
right.set(xlabel="t + 1 (log axis)", ylabel=r"$\tilde\beta_t \,/\, \beta_t$")
right.set_title("The two variances differ only at small t")
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# At `t = 0` the weight of $x_0$ is 1, that of $x_t$ is 0 and the variance is 0: the posterior is the clean image and
# **no noise is added in the last step of sampling**. In the last ten or so steps of sampling $x_0$ counts for much
# (its weight is still 0.12 at $t = 10$); before them, one step goes only a little way from $x_t$ towards $x_0$ (0.02
# at $t = 100$), so a poor $x_0$ estimate at high $t$ can still be mended later. (The cosine's drop at the right end
# comes from its last beta, capped at 0.999.)
#
# On the right: Ho et al. (2020, section 3.2) try both $\beta_t$ and $\tilde\beta_t$ as the sampler's
# variance and report similar results. At $T = 1000$ the two are nearly the same beyond the first few dozen steps; with
# few steps they are not (dashed in this section's first figure).

# %% [markdown]
# ## 7. What should a network predict: noise, x_0 or v? · *core*
#
# **Question:** the sampler needs an estimate of $x_0$. Must the network output that?
#
# Write $a_t = \sqrt{\bar\alpha_t}$ (`signal`) and $\sigma_t = \sqrt{1-\bar\alpha_t}$ (`sigma`), so
# $a_t^2 + \sigma_t^2 = 1$ and $x_t = a_t\,x_0 + \sigma_t\,\epsilon$. ($\sigma_t$ keeps this meaning in all notebooks;
# many papers give it another. The noise that a sampling step adds is $\tilde\sigma_t$.) Since $x_t$ and $t$ are known,
# knowing $x_0$ or $\epsilon$, or another mixture of them, is knowing both. The third target in use is
#
# $$v = a_t\,\epsilon - \sigma_t\,x_0 \qquad\text{(Salimans \& Ho 2022, section 4).}$$
#
# The pair $(x_t, v)$ is the pair $(x_0, \epsilon)$ turned by an angle of cosine $a_t$ and sine $\sigma_t$.
# Turning back gives the last row of this table. The others follow by solving
# $x_t = a_t\,x_0 + \sigma_t\,\epsilon$ for what is missing.
#
# | the network outputs | $x_0 =$ | $\epsilon =$ | $v =$ |
# | --- | --- | --- | --- |
# | noise $\epsilon$ | $(x_t - \sigma_t\,\epsilon)/a_t$ | $\epsilon$ | $(\epsilon - \sigma_t\,x_t)/a_t$ |
# | $x_0$ | $x_0$ | $(x_t - a_t\,x_0)/\sigma_t$ | $(a_t\,x_t - x_0)/\sigma_t$ |
# | $v$ | $a_t\,x_t - \sigma_t\,v$ | $\sigma_t\,x_t + a_t\,v$ | $v$ |


# %%
def convert(output, x_t, signal, sigma, prediction):
    """(x_0, noise, v) for the output of a network that predicts `prediction`."""
    if prediction == "noise":
        return (x_t - sigma * output) / signal, output, (output - sigma * x_t) / signal
    if prediction == "x_0":
        return output, (x_t - signal * output) / sigma, (signal * x_t - output) / sigma
    return signal * x_t - sigma * output, sigma * x_t + signal * output, output


curve = alpha_bars(cosine_betas(1000)).view(-1, 1)
signal, sigma = curve.sqrt(), (1 - curve).sqrt()  # (1000, 1): one row for each timestep
clean = x_0.flatten().double().expand(1000, -1)  # (1000, 784)
noise = torch.randn_like(clean)
x_t, v = signal * clean + sigma * noise, signal * noise - sigma * clean
for prediction, output in [("noise", noise), ("x_0", clean), ("v", v)]:
    converted = convert(output, x_t, signal, sigma, prediction)
    for got, expected in zip(converted, [clean, noise, v]):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
print("all nine conversions agree at all 1000 timesteps")

# %% [markdown]
# In exact arithmetic the three are interchangeable. A network is not exact. Suppose its output is off by
# $\delta$. Put that into the table, with $x_t$ known exactly (signs left out):
#
# | $\delta$ in | error in $x_0$ | error in $\epsilon$ | error in $v$ |
# | --- | --- | --- | --- |
# | $\epsilon$ | $\delta\, \sigma_t/a_t$ | $\delta$ | $\delta / a_t$ |
# | $x_0$ | $\delta$ | $\delta\, a_t/\sigma_t$ | $\delta / \sigma_t$ |
# | $v$ | $\delta\, \sigma_t$ | $\delta\, a_t$ | $\delta$ |
#
# **Predict before you run:** which of the three targets gives $x_0$ with the largest error at high $t$,
# where $a_t$ is nearly 0? Which one makes the error in $\epsilon$ explode, and where?

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
a_t, sigma_t, t = signal.flatten(), sigma.flatten(), torch.arange(1000)
same = torch.ones(1000)
factors = {left: [sigma_t / a_t, same, sigma_t], right: [same, a_t / sigma_t, a_t]}
for axes, lines in factors.items():
    for name, factor, style in zip(["noise", "x_0", "v"], lines, ["-", "-.", "--"]):
        axes.semilogy(t, factor, style, label=f"network predicts {name}")
    axes.set(xlabel="step t (cosine, T = 1000)", ylim=(1e-3, 1e4))
left.set_title("The error in x_0: from noise, it explodes at high t")
right.set_title("The error in the noise: from x_0, it grows at low t")
left.set_ylabel("error factor (1: as large as\nthe network's own error)")
left.legend(fontsize=8, loc="upper center")
right.legend(fontsize=8, loc="upper center")
plt.show()

# %% tags=["figure"]
shown, rows, titles = [10, 100, 500, 900, 990], [], []
error = 0.1 * torch.randn(784, dtype=torch.float64)  # the same error in every case
for prediction, output in [("noise", noise), ("x_0", clean), ("v", v)]:
    estimate = convert(output + error, x_t, signal, sigma, prediction)[0]
    rows.append(estimate[shown].view(-1, 1, 28, 28))
    titles += [f"from {prediction}, t = {t}" for t in shown]
title = "The same error of 0.1: noise prediction loses x_0 at high t"
show_images(torch.cat(rows), titles=titles, columns=len(shown), scale=4, title=title)

# %% [markdown]
# Noise prediction is **ill-conditioned** at high $t$, where it divides by $a_t$; $x_0$ prediction ruins the noise at
# low $t$. With $v$ no factor is ever above 1, since $a_t$ and $\sigma_t$ are not. So this course trains on $v$.
#
# But at high $t$ the noise is easy to predict ($x_t$ is nearly it), so a network's error there
# is small as well. The target does not change what the *best* answer is. It changes what a given error
# costs, and with it what the loss cares about. From the table, squared:
#
# $$\lVert\text{error in } \epsilon\rVert^2 = \mathrm{SNR}(t)\,\lVert\text{error in } x_0\rVert^2,\qquad
# \lVert\text{error in } v\rVert^2 = (\mathrm{SNR}(t) + 1)\,\lVert\text{error in } x_0\rVert^2,$$
#
# because $a_t^2/\sigma_t^2 = \mathrm{SNR}$ and $1/\sigma_t^2 = \mathrm{SNR}+1$. At high $t$, where the SNR goes to 0, a
# plain loss on $\epsilon$ gives an error in $x_0$ almost no weight; a loss on $v$ gives it weight 1.

# %% [markdown]
# ## 8. Check: the same thing in `utils` · *core*
#
# Open `utils/diffusion/schedules.py` and `process.py`: you will recognise every line that computes something, up to
# `target`, `to_x_0` and `to_noise`, which are the table of section 7. (`loss` and `answer`, at the end of `process.py`,
# belong to notebook 04.) Five things differ. Arguments are checked. Tables move to where the images are. The cosine's
# 0.008 is an argument. `linear` fills its list from the last beta backwards: with $T = 1$ the only beta is the largest
# one, and the chain still ends in noise. `sigmoid` has one more argument, `tau`, which makes the curve steeper or
# flatter. The numbers are the same, for several $T$ and all three targets:

# %%
# NBVAL_CHECK_OUTPUT
for steps in [20, 200, 1000, 4000]:
    for name in ["linear", "cosine", "sigmoid"]:
        mine, theirs = schedules[name](steps), NoiseSchedule.named(name, steps)
        torch.testing.assert_close(mine, theirs.betas)
        torch.testing.assert_close(alpha_bars(mine), theirs.alphas_cumprod)
    unscaled = NoiseSchedule.linear(steps, rescale=False).betas
    torch.testing.assert_close(linear_betas(steps, rescale=False), unscaled)
print("schedules agree")

# %%
# NBVAL_CHECK_OUTPUT
betas_1000 = cosine_betas(1000)
diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000))
batch, t = images[:64], torch.arange(64) * 15
noise = torch.randn_like(batch)
x_t = q_sample(batch, t, noise, betas_1000)
theirs = diffusion.q_sample(batch, t, noise)
torch.testing.assert_close(x_t, theirs, rtol=1e-4, atol=1e-4)  # yours may round earlier
tables = posterior_of(betas_1000)
x_0_weight, x_t_weight, variance = (at(table, t, batch) for table in tables)
mean, var = diffusion.q_posterior(batch, x_t, t)
torch.testing.assert_close(x_0_weight * batch + x_t_weight * x_t, mean)
torch.testing.assert_close(variance, var)
print("q_sample and q_posterior agree")

# %%
# NBVAL_CHECK_OUTPUT
curve = alpha_bars(betas_1000)[t].view(-1, 1, 1, 1)
signal, sigma = curve.sqrt(), (1 - curve).sqrt()
batch, noise = batch.double(), noise.double()
x_t = signal * batch + sigma * noise
for prediction in ["noise", "x_0", "v"]:
    theirs = GaussianDiffusion(NoiseSchedule.cosine(1000), prediction=prediction)
    output = theirs.target(batch, noise, t)
    mine = convert(output, x_t, signal, sigma, prediction)
    torch.testing.assert_close(mine[0], theirs.to_x_0(output, x_t, t))
    torch.testing.assert_close(mine[1], theirs.to_noise(output, x_t, t))
print("targets and conversions agree")

# %% [markdown]
# ## 9. A museum of bugs · *further*
#
# Five easy mistakes. None raises an error.
#
# - **uint8 wrap-around.** $x_t$ leaves [-1, 1]; written to 8 bits without clamping, 256 becomes 0.
# - **Images in [0, 1]** instead of [-1, 1].
# - **Uniform noise**: `torch.rand` for `torch.randn`.
# - **Variance for standard deviation**: $(1-\bar\alpha_t)\,\epsilon$ for $\sqrt{1-\bar\alpha_t}\,\epsilon$.
# - **No shrinking**: $x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$.
#
# **Predict before you run:** you only look at $x_T$, and test that its mean is 0 and its standard
# deviation 1. Which of the last four do you catch?

# %%
wrongs = {
    "right": lambda x, noise, a, sigma: a * x + sigma * noise,
    "in [0, 1]": lambda x, noise, a, sigma: a * (x + 1) / 2 + sigma * noise,
    "uniform": lambda x, noise, a, sigma: a * x + sigma * torch.rand_like(noise),
    "variance": lambda x, noise, a, sigma: a * x + sigma**2 * noise,
    "no shrinking": lambda x, noise, a, sigma: x + sigma * noise,
}
curve = alpha_bars(linear_betas(1000))
signal, sigma = curve.sqrt(), (1 - curve).sqrt()
some = images[:1000]
noise = torch.randn_like(some)
rows = []
for wrong in wrongs.values():
    middle, end = (wrong(some, noise, signal[t], sigma[t]) for t in [250, 999])
    rows.append([x.item() for x in (middle.mean(), middle.std(), end.mean(), end.std())])
print("1000 test images")
columns = ["t = 250: mean", "t = 250: std", "t = 999: mean", "t = 999: std"]
table = pd.DataFrame(rows, index=list(wrongs), columns=columns)
table.round(2) + 0.0  # a small negative number is rounded to -0.0; this makes it 0.0

# %%
noise, t = torch.randn_like(x_0), 200
variants = [wrong(x_0, noise, signal[t], sigma[t]) for wrong in wrongs.values()]
levels = ((variants[0] + 1) * 127.5).round().int()
kept = levels % 256  # what 8 bits keep of a number too large for them
wrapped = kept.float() / 127.5 - 1
outside = percent((levels < 0) | (levels > 255))
print(f"uint8: at t = {t}, {outside} of the pixels lie outside 0..255 and wrap around")
title = f"The same boot and noise at t = {t}: no bug raises an error, and some look better"
titles = [*wrongs, "uint8 wrap"]
show_images(torch.cat([*variants, wrapped]), titles=titles, columns=6, title=title)

# %% [markdown]
# At $T$ you catch uniform noise (mean 0.5, standard deviation
# $1/\sqrt{12} \approx 0.29$) and the missing shrinking. You miss "variance", since $1-\bar\alpha_T \approx 1$ is its
# own root: only in the middle of the chain is its standard deviation too small. And you miss [0, 1], whose $x_T$ is
# perfect noise: in the middle its mean has the wrong sign.
#
# So test the forward process **in the middle of the chain** (exercise 01.6). Against wrap-around,
# clamp to [-1, 1] before you convert, as `show_images` does.

# %% [markdown]
# ## 10. Play · *further*
#
# The image at step `t`, its pixels' histogram beside the standard normal (black; bars above the frame are cut off), and
# where `t` lies on the SNR curve (grey: SNR 1). First for three fixed values.

# %% tags=["figure"]
fixed_noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))


def draw(schedule="linear", num_timesteps=1000, t=300):
    """Image, histogram and SNR of x_t for one schedule, T and t."""
    betas = schedules[schedule](num_timesteps)
    curve = alpha_bars(betas)
    signal, sigma, snr = curve.sqrt(), (1 - curve).sqrt(), curve / (1 - curve)
    x_t = q_sample(x_0, torch.tensor([t]), fixed_noise, betas)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.7), width_ratios=[1, 1.4, 1.4])
    left, middle, right = axes
    show_images(x_t, ax=left)
    left.set_title(f"x_t, {schedule}")
    edges, grid = torch.linspace(-4, 4, 41), torch.linspace(-4, 4, 100)
    middle.hist(x_t.flatten(), bins=edges, density=True, color=COLOURS[0])
    middle.plot(grid, bell(grid), color="black", lw=1)
    middle.set(xlabel="pixel value", ylabel="density", ylim=(0, 1.2))
    middle.set_title(f"{signal[t]:.3f} x_0 + {sigma[t]:.3f} noise")
    right.semilogy(torch.arange(num_timesteps), snr, color=COLOURS[0])
    right.plot(t, snr[t], "o", color=COLOURS[1])
    right.axhline(1, color="grey", lw=0.8)
    right.set(xlabel=f"step t (T = {num_timesteps})", ylabel="SNR", ylim=(1e-6, 1e5))
    right.set_title(f"SNR({t}) = {snr[t]:.2g}")
    return figure


# %%
for t in [50, 300, 999]:
    draw("linear", 1000, t)
    plt.show()

# %% [markdown]
# At $T = 200$, compare "linear, unscaled" with "linear" at the last
# $t$. Find the $t$ at which you can no longer tell that it is a boot, for each schedule, and read the SNR
# there: is it the same?

# %%
slider = functools.partial(ipywidgets.IntSlider, continuous_update=False)
T_slider = slider(1000, 10, 1000, 10, description="T")
t_slider = slider(300, 0, 999, 1, description="t")


def end_before_T(change):
    t_slider.max = change["new"] - 1


T_slider.observe(end_before_T, "value")
play(draw, schedule=list(schedules), num_timesteps=T_slider, t=t_slider)

# %% [markdown]
# ## 11. Exercises · *further*
#
# ### 01.4 A shorter chain out of a long one
#
# A sampler that visits only some timesteps (say 0, 100, 200, ...) needs the betas of *that* shorter
# chain: one of its steps does the work of many. $\bar\alpha$ at the visited timesteps must stay what it
# was (Nichol & Dhariwal 2021, section 4).


# %%
def respaced_betas(betas, keep):
    """The betas of the chain that visits only the timesteps in `keep`.

    betas: (T,) float64. keep: (K,) whole numbers, rising. Returns (K,) betas: their
    alpha-bar at step k is the long chain's alpha-bar at timestep keep[k].
    """
    raise NotImplementedError


check("01.4", respaced_betas)

# %% [markdown]
# ### 01.5 A schedule from its SNR
#
# You want a schedule with a given SNR curve. Which betas give it?


# %%
def betas_from_snr(snr):
    """The betas of the schedule with this signal-to-noise ratio.

    snr: (T,) float64, falling. Returns (T,) betas.
    """
    raise NotImplementedError


check("01.5", betas_from_snr)

# %% [markdown]
# ### 01.6 A test that catches the bugs
#
# Somebody hands you `forward(x_0, alpha_bar)`, which claims to draw $x_t$ from eq. 4. Write a test that
# is passed by the right one, every time, and by none that has another mean or variance: not by the last four bugs of
# section 9, nor by an image shrunk by $\bar\alpha_t$ instead of its root, nor by one with its sign turned. Call
# it as often as you like, with any images.


# %%
def is_forward_process(forward):
    """True if x_t = forward(x_0, alpha_bar) has the mean and variance of eq. 4, else False.

    forward takes a float tensor of any shape and a number alpha_bar in (0, 1); it returns
    x_t of that shape.
    """
    raise NotImplementedError


check("01.6", is_forward_process)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $\beta_t$ | `betas` | variance of the noise that step $t$ adds; $\alpha_t = 1-\beta_t$ |
# | $\bar\alpha_t = \prod_{i\le t}\alpha_i$ | `alphas_cumprod` | squared weight of the image in $x_t$ |
# | $a_t$, $\sigma_t$ | `signal`, `sigma` | roots of $\bar\alpha_t$ and $1-\bar\alpha_t$: weights of image and noise |
# | $\bar\alpha_t/(1-\bar\alpha_t)$ | `snr` | signal-to-noise ratio |
# | $\tilde\mu_t$, $\tilde\beta_t$ | `q_posterior(...)` | mean, variance of the posterior |
# | $v = a_t\,\epsilon - \sigma_t\,x_0$ | `v` | the target this course trains on |
#
# 1. Adding noise in $t$ small steps is the same as adding it in one jump.
# 2. A schedule is a curve from all image to all noise; it must arrive, whatever $T$ is, or the sampler
#    starts from something the network never saw.
# 3. Given $x_0$, the way back is a normal distribution with known mean and variance, and noise, $x_0$ and
#    $v$ are three ways to ask for the same thing that differ in what an error costs.
#
# **Next:** [02 · Positional encoding](02_positional_encoding.ipynb): how a network is told which $t$ it
# is looking at.
#
# ### References
# - Ho, Jain, Abbeel 2020, arXiv 2006.11239: sections 2 and 3, eq. 2, 4, 6, 7.
# - Nichol, Dhariwal 2021, arXiv 2102.09672: section 3.2 (cosine), section 4 (fewer steps).
# - Salimans, Ho 2022, arXiv 2202.00512: section 4 (targets and loss weights).
# - Kingma, Salimans, Poole, Ho 2021, arXiv 2107.00630: the SNR view.
# - Jabri, Fleet, Chen 2022, arXiv 2212.11972: the sigmoid schedule. Chen 2023, arXiv 2301.10972: noise and image size.
# - Lin, Liu, Li, Yang 2023, arXiv 2305.08891: schedules that do not end in noise.
# - Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747: Fashion-MNIST.
