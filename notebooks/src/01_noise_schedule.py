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
# A diffusion model learns to undo noise. So the first thing to build is the noise: how it is added, how
# much at each step, and what can be computed about it in closed form. No network is trained here, and none
# is needed: everything in this notebook is exact.
#
# **At the end you will have**, written by hand and checked against `utils/diffusion`:
# the forward process step by step and in one jump; the linear, cosine and sigmoid schedules for any number
# of steps; the posterior $q(x_{t-1} \mid x_t, x_0)$, derived and confirmed by simulation, which notebook 05
# turns into a sampler; and the three things a network can be asked to predict, with the conversions between
# them.
#
# **You need**: Python, a little PyTorch (tensors, broadcasting), and from probability: mean, variance,
# the normal distribution, Bayes' rule.
#
# **Time**: about ten seconds on two cores in the run shown (allow half a minute on a slower machine), plus your
# reading. All work here stays on the CPU, so a GPU changes nothing.

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

from utils.course import COLOURS, animate, check, hint, play, show_images, solution  # noqa
from utils.diffusion import GaussianDiffusion, NoiseSchedule, load_images

# %% [markdown]
# ## 0. One image, and what its numbers are
#
# We use one real image all the way through, chosen by a rule and not by looks: the **first ankle boot of
# Fashion-MNIST's test set** (Xiao et al. 2017). Images are stored as whole numbers 0 to 255. The model
# works with floats in **[-1, 1]**: black is -1, white is +1. `load_images` does that conversion.
#
# **Predict before you run:** much of a typical Fashion-MNIST image is black background. What does that do to
# the mean pixel value in [-1, 1]: is it about 0, or not?

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

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), width_ratios=[1, 2])
show_images(x_0, ax=left)
left.set_title("The image")
right.hist(x_0.flatten(), bins=40, color=COLOURS[0])
right.set(xlabel="pixel value", ylabel="pixels")
right.set_title("Its pixels: mostly background, no bell curve")
plt.show()

# %% [markdown]
# The mean is clearly below 0, because the background sits at -1. Keep this histogram in mind: the
# forward process will turn it into a standard bell curve, and the reverse process has to turn it back.
#
# ## 1. Adding noise, one step at a time
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
# every pixel gets its own independent noise. $\beta_t$ (`betas[t]`) is a small number between 0 and 1,
# the **variance of the noise added at step $t$**; the list of all of them is the **noise schedule**. We
# start with the schedule of the DDPM paper: 1000 values from 0.0001 to 0.02, evenly spaced.
#
# **A trap in the numbering.** Papers count steps from 1 to $T$, code counts from 0:
#
# | paper | code | meaning |
# | --- | --- | --- |
# | $x_0$ | `x_0` | the clean image, always |
# | $\beta_1$, $x_1$ | `betas[0]`, `x_t` with `t = 0` | after the first step: a trace of noise |
# | $\beta_T$, $x_T$ | `betas[T-1]`, `x_t` with `t = T-1` | after the last step: noise |
#
# So "`x_t` at `t = 0`" is *not* `x_0`. Forget that, and the least noisy step is never trained, or noise is
# added once too often when sampling; both are easy to write.
#
# Why multiply by $\sqrt{1-\beta_t}$ before adding noise? Look at one pixel with variance $V$ over the data
# set. After the step its variance is $(1-\beta_t)V + \beta_t$, since a factor $c$ multiplies a variance by
# $c^2$ and variances of independent terms add. With $V = 1$ it stays 1; any other $V$ moves towards 1,
# because its distance from 1 is multiplied by $1-\beta_t$ at every step.
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

# %%
shown = [0, 50, 100, 200, 300, 400, 600, 999]
show_images(
    torch.cat([states[t] for t in shown]),
    titles=[f"t = {t}" for t in shown],
    title="A thousand small steps leave nothing of the boot",
)

# %% [markdown]
# With shrinking we end at mean 0 and standard deviation 1 (up to chance: 784 pixels): a standard normal,
# whatever the image was. That is the point of it: sampling will *start* from a standard normal. Without
# shrinking the variance is the image's own plus the sum of the betas, and the image's mean is still there.
#
# Note also where the boot disappears to the eye: long before the end. How fast it goes is what the schedule
# decides, and section 3 is about that.

# %% [markdown]
# ## 2. All steps in one jump
#
# **Question:** training needs $x_t$ for millions of random $t$. Must we walk through all the steps before?
#
# No. Write $\alpha_t = 1-\beta_t$ (`alphas`) and $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$
# (`alphas_cumprod`), and put one step into the next. With independent standard normals
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
# Repeating this down to $x_0$ gives
#
# $$q(x_t \mid x_0) = \mathcal N\!\left(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\right)
# \qquad\text{(Ho et al. 2020, eq. 4)}$$
#
# or, as code needs it, $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ with
# $\epsilon \sim \mathcal N(0, I)$ (`noise`).

# %%
alphas = 1 - betas
alphas_cumprod = torch.cumprod(alphas, dim=0)


def at(table, t, like):
    """table[t] as (B, 1, 1, 1), so that each value multiplies a whole image of `like`."""
    return table.to(like.dtype)[t].view(-1, *[1] * (like.ndim - 1))


def q_sample(x_0, t, noise, alphas_cumprod):
    """x_t in one jump (eq. 4). x_0, noise (B, ...); t (B,) whole numbers, one per image."""
    # The roots are taken in float64: in float32 1 - alpha-bar loses digits near 0.
    signal = at(alphas_cumprod.sqrt(), t, x_0)
    sigma = at((1 - alphas_cumprod).sqrt(), t, x_0)
    return signal * x_0 + sigma * noise


# %% [markdown]
# Does it agree with the walk? A derivation can have a slip and code can have a bug, so we test it:
# **10,000 draws** of $x_t$ both ways, on a grid of pixels of the boot, at five values of $t$. Two samples
# never agree exactly. The yardstick is the **standard error** (SE), the standard deviation that the
# difference would have by chance alone. For $n$ draws with variances $V_1, V_2$:
#
# $$\mathrm{SE}(\text{difference of means}) = \sqrt{\tfrac{V_1 + V_2}{n}},\qquad
# \mathrm{SE}(\text{difference of variances}) = \sqrt{\tfrac{2(V_1^2 + V_2^2)}{n-1}}\ \text{ (for normals).}$$
#
# **Predict before you run:** if both ways are right, how often should a difference exceed 2 SE?
#
# The walk takes a few seconds.

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
    jumped[step] = q_sample(starts, t, torch.randn_like(starts), alphas_cumprod)
seconds_jump = (time.perf_counter() - began) / len(checkpoints)
print(f"{draws:,} draws of x_999, {len(pixels)} pixels:")
print(f"{seconds_walk:.1f} s step by step, {seconds_jump:.3f} s in one jump")

# %%
brightest = int(pixels.argmax())  # the brightest pixel of the grid goes into the table
rows, z_scores = [], {"mean": [], "variance": []}
for t in checkpoints:
    # Over the draws: one value for each pixel.
    mean_1, var_1 = walked[t].mean(0), walked[t].var(0)
    mean_2, var_2 = jumped[t].mean(0), jumped[t].var(0)
    se_mean = ((var_1 + var_2) / draws).sqrt()
    se_var = (2 * (var_1**2 + var_2**2) / (draws - 1)).sqrt()
    formula_var = (1 - alphas_cumprod[t]).expand(len(pixels))
    for name, formula, first, second, se in [
        ("mean", alphas_cumprod[t].sqrt() * pixels, mean_1, mean_2, se_mean),
        ("variance", formula_var, var_1, var_2, se_var),
    ]:
        z_scores[name].append((first - second) / se)
        values = (formula, first, second, first - second, se)
        rows.append([t, name, *(float(value[brightest]) for value in values)])

# %%
for name, values in z_scores.items():
    z = torch.cat(values)
    print(f"{name}: {len(z)} differences, {percent(z.abs() > 2, 1)} of them beyond 2 SE")
print(f"one pixel with x_0 = {pixels[brightest]:.3f}, {draws:,} draws:")
columns = ["formula", "stepwise", "one jump", "difference", "standard error"]
table = pd.DataFrame(rows, columns=["t", "quantity", *columns])
table.set_index(["t", "quantity"]).round(5)


# %%
def bell(x, mean=0.0, std=1.0):
    """Density of a normal distribution."""
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * (2 * torch.pi) ** 0.5)


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for t, colour in zip([100, 300, 999], COLOURS):
    look = {"bins": 50, "density": True, "color": colour}
    left.hist(jumped[t][:, brightest], alpha=0.3, label=f"t = {t}", **look)
    left.hist(walked[t][:, brightest], histtype="step", **look)
    mean, std = alphas_cumprod[t].sqrt() * pixels[brightest], (1 - alphas_cumprod[t]).sqrt()
    grid = torch.linspace(mean - 4 * std, mean + 4 * std, 200)
    left.plot(grid, bell(grid, mean, std), color="black", lw=1)
left.set(xlabel="value of one pixel in x_t", ylabel="density")
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
# of that size (the states of one walk at different $t$ hang together, so the shares scatter a bit). Means
# and variances agree to within chance, and the left panel shows that the whole distribution is the normal
# of eq. 4. And the jump is hundreds of times faster (in the run shown; the times are printed above).
#
# **A way to test this wrongly:** summing the signed differences over all pixels. Errors of opposite sign
# cancel, and a wrong formula can pass. Compare pixel by pixel, each against its own standard error, as
# above.

# %% [markdown]
# ## 3. Three schedules, for any number of steps
#
# **Question:** which betas? And what if we want 50 or 4000 steps instead of 1000?
#
# What matters is not a single beta but the curve $\bar\alpha_t$: how much of the image is left. It should
# fall from about 1 to about 0, **whatever $T$ is**. There are two ways to get this.
#
# *Fix the betas and scale them.* **Linear** (Ho et al. 2020, section 4): $10^{-4}$ to $0.02$, chosen for
# $T = 1000$. Since $\ln(1-\beta) \approx -\beta$ for small $\beta$,
#
# $$\bar\alpha_T = \prod_t (1-\beta_t) \approx e^{-\sum_t \beta_t},\qquad
# \sum_t \beta_t = T \cdot \tfrac{10^{-4} + 0.02}{2} \approx 10 \text{ at } T = 1000 .$$
#
# To keep the sum for another $T$, multiply all betas by $1000/T$. (Below $T = 20$ the largest would pass 1; the course
# caps betas at 0.999.)
#
# *Fix the curve and read the betas off.* Let $u = t/T$ run from 0 to 1 and choose $\bar\alpha(u)$ directly;
# then $\beta_t = 1 - \bar\alpha(t/T)\,/\,\bar\alpha((t-1)/T)$ with the paper's $t = 1 \dots T$.
#
# - **Cosine** (Nichol & Dhariwal 2021, eq. 17):
#   $\bar\alpha(u) = f(u)/f(0)$, $f(u) = \cos^2\!\left(\frac{u+s}{1+s}\cdot\frac{\pi}{2}\right)$, $s = 0.008$.
# - **Sigmoid** (Jabri et al. 2022; Chen 2023), with $\ell(z) = 1/(1+e^{-z})$, the logistic function:
#   $\bar\alpha(u) = \frac{\ell(3) - \ell(6u - 3)}{\ell(3) - \ell(-3)}$.
#
# Both curves reach exactly 0 at $u = 1$. The last beta would then be 1 and $1/\sqrt{\bar\alpha_T}$
# infinite, so betas are capped at 0.999.

# %%
MAX_BETA = 0.999


def linear_betas(num_timesteps, rescale=True):
    """(T,) betas; without rescale they are those of T = 1000 spread over whatever T is."""
    scale = 1000 / num_timesteps if rescale else 1.0
    betas = torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)
    return betas.clamp(max=MAX_BETA)


# %%
def betas_from_alpha_bar(alpha_bar, num_timesteps):
    """The betas of a curve alpha_bar(u), where u runs from 0 to 1."""
    curve = alpha_bar(torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64))
    return (1 - curve[1:] / curve[:-1]).clamp(max=MAX_BETA)


def cosine_betas(num_timesteps, s=0.008):
    def alpha_bar(u):
        return torch.cos((u + s) / (1 + s) * torch.pi / 2) ** 2

    return betas_from_alpha_bar(alpha_bar, num_timesteps)


def sigmoid_betas(num_timesteps, start=-3.0, end=3.0):
    ends = torch.tensor([start, end], dtype=torch.float64).sigmoid()

    def alpha_bar(u):
        return (ends[1] - (u * (end - start) + start).sigmoid()) / (ends[1] - ends[0])

    return betas_from_alpha_bar(alpha_bar, num_timesteps)


# %% [markdown]
# (The division by $f(0)$ is missing in `cosine_betas`, and may be: the betas use ratios only.)
#
# **Predict before you run:** with the sum rule above, what is $\sqrt{\bar\alpha_T}$, the share of the image
# left in $x_T$, for *unscaled* linear betas at $T = 200$? ($e^{-1} \approx 0.37$.)

# %%
# NBVAL_CHECK_OUTPUT
schedules = {
    "linear, unscaled": functools.partial(linear_betas, rescale=False),
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}


def alpha_bars(betas):
    return torch.cumprod(1 - betas, dim=0)


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
# Read the first column. The unscaled linear schedule leaves 0.0064 of the image at $T = 1000$, for which it
# was made; 0.364 at $T = 200$ (the rule of thumb said $e^{-1} \approx 0.37$); and most of it at $T = 20$. At
# $T = 4000$ the betas add up to four times what is needed, so many steps at the end only stir noise. The
# other columns stay near 0 at every $T$. In the left panel the dots of 50 steps lie on (cosine, sigmoid) or
# close to (linear) the line of 1000.
#
# Now to the eye: the same noise, three schedules, at the same fractions of the way.

# %%
noise = torch.randn_like(x_0)
fractions = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
t = torch.tensor([round(1000 * u) - 1 for u in fractions])
rows, titles = [], []
for name in ["linear", "cosine", "sigmoid"]:
    curve = alpha_bars(schedules[name](1000))
    rows.append(q_sample(x_0.expand(len(t), -1, -1, -1), t, noise, curve))
    titles += [f"{name}, t = {t[0]}"] + [f"t = {k}" for k in t[1:].tolist()]
title = "Linear noise swallows the boot first; cosine and sigmoid keep it longer"
show_images(torch.cat(rows), titles=titles, columns=len(fractions), title=title)

# %%
steps = torch.linspace(0, 999, 24).round().long()
curves = [alpha_bars(schedules[name](1000)) for name in ["linear", "cosine", "sigmoid"]]
frames = [torch.cat([q_sample(x_0, t.view(1), noise, c) for c in curves]) for t in steps]
titles = [f"t = {t}" for t in steps.tolist()]
animate(frames, titles=titles, fps=6, title="Linear, cosine, sigmoid: T = 1000")

# %% [markdown]
# This is why Nichol & Dhariwal (2021, section 3.2) proposed the cosine: with linear betas the last part of
# the chain is nearly pure noise, and a network spends a good part of its training on steps where there is
# little to learn. Section 5 puts a number to it.

# %% [markdown]
# ## 4. What goes wrong: 200 steps, betas left as they were
#
# It is tempting to shorten the chain to $T = 200$ to save time, and to keep betas from $10^{-4}$ to $0.02$.
# Nothing crashes, so the mistake stays unseen. We measure it.
#
# The **signal-to-noise ratio** compares the squared factors of image and noise in eq. 4:
# $\mathrm{SNR}(t) = \bar\alpha_t / (1-\bar\alpha_t)$ (`snr`). At $T$ it should be about 0.
#
# **Predict before you run:** sampling starts from pure noise and shows it to the network at $t = T-1$. What
# did the network see at $t = T-1$ in training, with these betas?

# %%
# NBVAL_CHECK_OUTPUT
short = {
    "unscaled": alpha_bars(linear_betas(200, rescale=False)),
    "scaled": alpha_bars(linear_betas(200)),
}
last = torch.stack([curve[-1] for curve in short.values()])
table = {"sqrt(alpha-bar_T)": last.sqrt(), "SNR(T)": last / (1 - last)}
pd.DataFrame(table, index=pd.Index(list(short), name="betas, T = 200")).round(5)


# %%
def last_state(x, curve):
    """x_T for each image of x: what a network sees in training at t = T-1."""
    t = torch.full((len(x),), len(curve) - 1)
    return q_sample(x, t, torch.randn_like(x), curve)


many = x_0.expand(2000, -1, -1, -1)
means = {name: last_state(many, c).mean(0, keepdim=True) for name, c in short.items()}
panels, titles = [x_0], ["x_0"]
for name, curve in short.items():
    panels += [last_state(x_0, curve), means[name]]
    titles += [f"x_T, {name}", "mean of 2000"]
title = "Unscaled at T = 200, x_T is a boot on average; scaled, it is nothing"
show_images(torch.cat(panels), titles=titles, columns=5, scale=4, title=title)

# %%
centred = x_0 - x_0.mean()
rows = []
for name, mean in means.items():
    # Least squares: mean image = slope * x_0 + constant.
    slope = (centred * mean).sum() / centred.square().sum()
    rows.append((slope.item(), short[name][-1].sqrt().item()))
print("how many times the mean of 2000 draws of x_T contains the boot")
pd.DataFrame(rows, index=list(means), columns=["measured", "by eq. 4"]).round(3)

# %% [markdown]
# So in training the last step was never noise: the network learned to find a faint image in $x_T$ and to
# trust it. The sampler then hands it noise in which there is none. How large is the gap for the network?
# Two measurements over the test set:
#
# 1. The **mean pixel** of $x_T$. For pure noise it is 0 up to $1/\sqrt{784} = 1/28$, since an image has
#    784 pixels. A network can read this off with one average.
# 2. The **class**. We guess which garment $x_T$ was, in the simplest way: take the mean image of each class
#    (from the first half of the test set), and for an $x_T$ of the second half pick the class whose mean,
#    shrunk by $\sqrt{\bar\alpha_T}$, is nearest. If $x_T$ is noise, the guess is right 10% of the time.

# %%
half = len(images) // 2
rest, rest_labels = images[half:], labels[half:]
class_means = torch.stack([images[:half][labels[:half] == c].mean(0) for c in range(10)])


def guessed_right(x, signal):
    """How often the nearest class mean is that of the image's class."""
    distances = torch.cdist(x.flatten(1), float(signal) * class_means.flatten(1))
    return percent(distances.argmin(1) == rest_labels)


print(f"clean images: class guessed right {guessed_right(rest, 1.0)}")
last = {name: last_state(rest, curve) for name, curve in short.items()}
last["pure noise"] = torch.randn_like(rest)
rows = []
for name, x_t in last.items():
    signal = short[name][-1].sqrt() if name in short else 1.0
    rows.append((guessed_right(x_t, signal), percent(x_t.mean((1, 2, 3)).abs() > 2 / 28)))
pd.DataFrame(rows, index=list(last), columns=["class guessed right", "|mean pixel| > 2/28"])

# %%
figure, axes = plt.subplots(figsize=(7, 3))
edges = torch.linspace(-0.5, 0.3, 81)
for (name, x_t), colour, style in zip(last.items(), COLOURS, ["-", "-", "--"]):
    label = name if name == "pure noise" else f"x_T, betas {name}"
    look = {"histtype": "step", "color": colour, "lw": 1.8, "ls": style, "label": label}
    axes.hist(x_t.mean((1, 2, 3)), bins=edges, density=True, **look)
axes.set(xlabel="mean pixel of x_T", ylabel="density over test images")
axes.set_title("Unscaled, training never sees at T what the sampler starts from")
axes.legend()
plt.show()

# %% [markdown]
# That is the answer to the question above: with unscaled betas $x_T$ in training is a faded photograph. The
# class can be read from it nearly as well as from the clean image, by the crude guess used here, and its mean
# pixel gives away most images, while noise has neither. Scaled betas pass both tests. A sampler that starts from
# noise on the unscaled schedule begins outside of what the network was trained on.
#
# A milder form is common: even at $T = 1000$ the linear schedule keeps $\sqrt{\bar\alpha_T} = 0.0064$. In 28×28
# images that is invisible. Lin et al. (2023) show what it does to large images, where averages over very many
# pixels are precise, on Stable Diffusion's schedule, which keeps ten times as much ($0.068$): samples that are
# never very dark or very bright.

# %% [markdown]
# ## 5. The signal-to-noise ratio on a log axis
#
# **Question:** two schedules, two values of $T$: what do we compare?
#
# The SNR. $t$ is only a label for a noise level: Kingma et al. (2021) show that, in the limit of many steps,
# the likelihood loss depends on the schedule only through the SNR at its two ends. The SNR spans many powers
# of ten, so it belongs on a log axis.
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

# %%
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
# The linear schedule does: about a third of its steps lie below 0.01; with cosine and sigmoid it is a few in
# a hundred. The dashed line stops at 0.15, as section 4 measured.
#
# A caution for later: the same SNR does not look equally noisy at every resolution. Averaging 2×2 pixels
# quarters the variance of independent noise but hardly changes a smooth image, so a larger picture of the
# same scene needs more noise to be destroyed (Chen 2023). A schedule is chosen for an image size.

# %% [markdown]
# ## 6. The posterior: one step back, if we knew the image
#
# **Question:** sampling has to go backwards, from $x_t$ to $x_{t-1}$. What is the right step?
#
# $q(x_{t-1} \mid x_t)$ alone cannot be written down: it depends on the distribution of all images. But
# given the clean image as well, it can. Notebook 05 will put the network's *estimate* of $x_0$ in its
# place, and that is the DDPM sampler.
#
# All distributions here are independent for each pixel, so take one pixel. Write
# $\bar\alpha_{t-1}$ for the product up to the step before (1 at the first step). By Bayes' rule, and since
# $x_t$ depends on $x_0$ only through $x_{t-1}$,
#
# $$q(x_{t-1} \mid x_t, x_0) \;\propto\; \underbrace{q(x_t \mid x_{t-1})}_{\text{eq. 2}}\;
# \underbrace{q(x_{t-1} \mid x_0)}_{\text{eq. 4}}
# \;\propto\; \exp\left(-\tfrac12\left[\frac{(x_t - \sqrt{\alpha_t}\,x_{t-1})^2}{\beta_t} +
# \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\,x_0)^2}{1-\bar\alpha_{t-1}}\right]\right).$$
#
# The bracket is a quadratic in $x_{t-1}$, so the posterior is a normal distribution; we only have to read
# off its mean and variance. Multiply out and sort by powers of $x_{t-1}$:
#
# $$[\;\cdot\;] = A\,x_{t-1}^2 - 2B\,x_{t-1} + \text{const},\qquad
# A = \frac{\alpha_t}{\beta_t} + \frac{1}{1-\bar\alpha_{t-1}},\qquad
# B = \frac{\sqrt{\alpha_t}}{\beta_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0 .$$
#
# **Complete the square**: $A x^2 - 2Bx = A\,(x - B/A)^2 - B^2/A$. So the mean is $B/A$ and the variance
# $1/A$. Bring $A$ to a common denominator, and use $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and
# $\alpha_t + \beta_t = 1$:
#
# $$A = \frac{\alpha_t(1-\bar\alpha_{t-1}) + \beta_t}{\beta_t(1-\bar\alpha_{t-1})}
# = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}.$$
#
# Hence $q(x_{t-1}\mid x_t,x_0) = \mathcal N(x_{t-1};\ \tilde\mu_t,\ \tilde\beta_t I)$ (Ho et al. 2020,
# eq. 6 and 7) with
#
# $$\tilde\beta_t = \frac1A = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t,\qquad
# \tilde\mu_t = \frac BA =
# \underbrace{\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}}_{\text{weight of } x_0} x_0
# + \underbrace{\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}}_{\text{weight of } x_t} x_t .$$


# %%
def posterior_weights(a_bar_t, a_bar_s):
    """Weight of x_0, weight of x_t, and variance of q(x_s | x_t, x_0), (eq. 6, 7).

    s is t - 1. a_bar_t, a_bar_s: alpha-bar at t and s, where it is 1 for the clean image.
    """
    alpha_ts = a_bar_t / a_bar_s  # alpha_t
    x_0_weight = a_bar_s**0.5 * (1 - alpha_ts) / (1 - a_bar_t)
    x_t_weight = alpha_ts**0.5 * (1 - a_bar_s) / (1 - a_bar_t)
    variance = (1 - alpha_ts) * (1 - a_bar_s) / (1 - a_bar_t)
    return x_0_weight, x_t_weight, variance


def posterior_of(betas):
    """Both weights and the variance at every step of the chain with these betas."""
    a_bar = alpha_bars(betas)
    a_bar_prev = torch.cat([torch.ones(1, dtype=betas.dtype), a_bar[:-1]])
    return posterior_weights(a_bar, a_bar_prev)


# %% [markdown]
# ### Verified by simulation
#
# The formula says: among all chains that start at the same $x_0$ and come through the same $x_t$, the
# values of $x_{t-1}$ have this mean and this variance. That can be tried without Bayes' rule. Run very
# many chains *forward* from one pixel value, keep the pairs $(x_{t-1}, x_t)$, sort them into narrow bins
# by $x_t$, and look at $x_{t-1}$ in each bin. We take a short chain, $T = 20$ (cosine), because its steps
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

# %%
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
# No, the variance is the same in every bin: nothing in $1/A$ depends on $x_t$ or $x_0$. That is why a
# sampler can use a fixed table of variances. It is smaller than $\beta_t$, because knowing $x_0$ narrows
# down where the chain came from.
#
# The figure used one pixel value. For the weight of $x_0$ we let $x_0$ vary: pixels of the boot, drawn at
# random. Since the mean is linear in $x_0$ and $x_t$, an ordinary **least-squares regression** of $x_{t-1}$
# on the two must find the two weights, and its residual variance must be $\tilde\beta_t$.


# %%
def simulate_weights(betas, t, pairs):
    """Both weights and the variance, and their standard errors, from simulation alone."""
    start = x_0.flatten().double()[torch.randint(x_0.numel(), (pairs,))]
    x_prev, x_t = simulate(start, betas, t)
    design = torch.stack([start, x_t], dim=1)
    inverse = (design.T @ design).inverse()
    weights = inverse @ (design.T @ x_prev)
    residual = (x_prev - design @ weights).var()
    errors = (residual * inverse.diagonal()).sqrt()
    error_of_variance = residual * (2 / pairs) ** 0.5
    return torch.stack([*weights, residual]), torch.stack([*errors, error_of_variance])


# %%
formulas = torch.stack(posterior_of(few), dim=1)  # (20, 3)
rows, z_scores = [], []
for t in range(1, 20):
    values, errors = simulate_weights(few, t, pairs // 4)
    z = (values - formulas[t]) / errors
    z_scores.append(z)
    for k, name in enumerate(["weight of x_0", "weight of x_t", "variance"]):
        seen = f"{values[k]:.5f} ± {errors[k]:.5f}"
        rows.append((t, name, seen, f"{formulas[t, k]:.5f}", f"{z[k]:.1f}"))
z = torch.cat(z_scores)
near = int((z.abs() < 2).sum())
print(f"all t from 1 to 19: {near} of {len(z)} differences are within 2 standard errors")
columns = ["t", "quantity", "simulated ± SE", "formula", "difference / SE"]
pd.DataFrame(rows, columns=columns).set_index(["t", "quantity"]).loc[[1, 5, 9, 15]]

# %% [markdown]
# Chance alone puts one difference in twenty beyond 2 standard errors, and that is about what we see: the
# algebra is right.
#
# ### What the weights look like over a whole chain
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

# %%
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
# **no noise is added in the last step of sampling**. (Code that adds some there, because its loop starts at 1 and its
# test is `if t > 0`, leaves that noise in the samples.) In the last ten or so steps of sampling $x_0$ counts for much
# (its weight is still 0.12 at $t = 10$); before them, one step goes only a little way from $x_t$ towards $x_0$ (0.02
# at $t = 100$), so a poor $x_0$ estimate at high $t$ can still be mended later. (The many small steps add up, of
# course: what the image will be is decided much earlier than this figure suggests at first sight. The drop of the
# cosine at the right end comes from its last beta, capped at 0.999: the last state is nearly all new noise and says
# almost nothing about the state before it.)
#
# On the right: Ho et al. (2020, section 3.2) try both $\beta_t$ and $\tilde\beta_t$ as the sampler's
# variance and report similar results. The ratio shows why one would expect that at $T = 1000$: beyond the
# first few dozen steps they are nearly the same. With few steps they are not (the dashed line in section 6's first
# figure).

# %% [markdown]
# ## 7. What should a network predict: noise, x_0 or v?
#
# **Question:** the sampler needs an estimate of $x_0$. Must the network output that?
#
# Write $a_t = \sqrt{\bar\alpha_t}$ (`signal`) and $\sigma_t = \sqrt{1-\bar\alpha_t}$ (`sigma`), so
# $a_t^2 + \sigma_t^2 = 1$ and $x_t = a_t\,x_0 + \sigma_t\,\epsilon$. ($\sigma_t$ keeps this meaning in all notebooks; many
# papers write it for something else, see notebook 05.) The network is given $x_t$ and $t$. One equation ties $x_0$ and
# $\epsilon$ together, so knowing either of them, or another mixture, is knowing both. The third target in
# use is
#
# $$v = a_t\,\epsilon - \sigma_t\,x_0 \qquad\text{(Salimans \& Ho 2022, section 4).}$$
#
# The pair $(x_t, v)$ is the pair $(x_0, \epsilon)$ turned by an angle, because $a_t$ and $\sigma_t$ are a cosine and a
# sine:
#
# $$\begin{pmatrix} x_t \\ v\end{pmatrix} = \begin{pmatrix} a_t & \sigma_t \\ -\sigma_t & a_t \end{pmatrix}
# \begin{pmatrix} x_0 \\ \epsilon\end{pmatrix}.$$
#
# A rotation is undone by its transpose, which gives the last row of this table at once. The others follow by
# solving $x_t = a_t\,x_0 + \sigma_t\,\epsilon$ for what is missing.
#
# | the network outputs | $x_0 =$ | $\epsilon =$ | $v =$ |
# | --- | --- | --- | --- |
# | noise $\epsilon$ | $(x_t - \sigma_t\,\epsilon)/a_t$ | $\epsilon$ | $(\epsilon - \sigma_t\,x_t)/a_t$ |
# | $x_0$ | $x_0$ | $(x_t - a_t\,x_0)/\sigma_t$ | $(a_t\,x_t - x_0)/\sigma_t$ |
# | $v$ | $a_t\,x_t - \sigma_t\,v$ | $\sigma_t\,x_t + a_t\,v$ | $v$ |
#
# We check every entry, on real pixels, at every one of 1000 timesteps.


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
# $\delta$. Put that into the table, with $x_t$ known exactly:
#
# | $\delta$ in | error in $x_0$ | error in $\epsilon$ | error in $v$ |
# | --- | --- | --- | --- |
# | $\epsilon$ | $\delta\, \sigma_t/a_t$ | $\delta$ | $\delta / a_t$ |
# | $x_0$ | $\delta$ | $\delta\, a_t/\sigma_t$ | $\delta / \sigma_t$ |
# | $v$ | $\delta\, \sigma_t$ | $\delta\, a_t$ | $\delta$ |
#
# **Predict before you run:** which of the three targets gives $x_0$ with the largest error at high $t$,
# where $a_t$ is nearly 0? Which one makes the error in $\epsilon$ explode, and where?

# %%
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
left.semilogy(t, 1 / a_t, ":", color="black", label=r"$1/a_t$")
left.set_ylabel("error factor (1: as large as\nthe network's own error)")
left.legend(fontsize=8, loc="upper center")
right.legend(fontsize=8, loc="upper center")
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("cosine, T = 1000; error in x_0 for an error of 0.1 in the network's output")
columns = ["noise: 0.1 sigma/a", "x_0: 0.1", "v: 0.1 sigma", "for comparison: 1/a"]
errors = torch.stack([0.1 * sigma_t / a_t, 0.1 * same, 0.1 * sigma_t, 1 / a_t], dim=1)
table = pd.DataFrame(errors, columns=columns).rename_axis("t").round(3)
table.loc[[10, 100, 500, 900, 990]]

# %%
shown, rows, titles = [10, 100, 500, 900, 990], [], []
error = 0.1 * torch.randn(784, dtype=torch.float64)  # the same error in every case
for prediction, output in [("noise", noise), ("x_0", clean), ("v", v)]:
    estimate = convert(output + error, x_t, signal, sigma, prediction)[0]
    rows.append(estimate[shown].view(-1, 1, 28, 28))
    titles += [f"from {prediction}, t = {t}" for t in shown]
title = "The same error of 0.1: noise prediction loses x_0 at high t"
show_images(torch.cat(rows), titles=titles, columns=len(shown), scale=4, title=title)

# %% [markdown]
# Noise prediction divides by $a_t = \sqrt{\bar\alpha_t}$: at high $t$ a small error in $\epsilon$ becomes a
# huge one in $x_0$. It is **ill-conditioned** there. $x_0$ prediction is the mirror image: the noise is
# ruined at low $t$. With $v$ no factor is ever above 1, since $a_t$ and $\sigma_t$ are not. That, and that $v$ has
# about unit size at every $t$, is why this course trains on $v$.
#
# A fair remark: at high $t$ the noise is easy to predict ($x_t$ is nearly it), so a network's error there
# is small as well. The target does not change what the *best* answer is. It changes what a given error
# costs, and with it what the loss cares about. From the table, squared:
#
# $$\lVert\text{error in } \epsilon\rVert^2 = \mathrm{SNR}(t)\,\lVert\text{error in } x_0\rVert^2,\qquad
# \lVert\text{error in } v\rVert^2 = (\mathrm{SNR}(t) + 1)\,\lVert\text{error in } x_0\rVert^2,$$
#
# because $a_t^2/\sigma_t^2 = \mathrm{SNR}$ and $1/\sigma_t^2 = \mathrm{SNR}+1$. A plain loss on $\epsilon$ gives high $t$
# no weight at all; a loss on $v$ gives it weight 1.
#
# One place where rounding alone shows this: below, the *exact* noise in float32, turned into $x_0$.

# %%
diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), prediction="noise")
exact = torch.randn(1000, *x_0.shape[1:])
all_t = torch.arange(1000)
all_x_t = diffusion.q_sample(x_0.expand_as(exact), all_t, exact)
rounding = (diffusion.to_x_0(exact, all_x_t, all_t) - x_0).abs().amax((1, 2, 3))
shown = pd.Index([0, 500, 900, 999], name="t")
pd.DataFrame({"largest error in x_0": [f"{rounding[t]:.0e}" for t in shown]}, index=shown)

# %% [markdown]
# At $t = 999$ the division by $a_t$ turns rounding in the seventh digit into an error of 0.002.
#
# ## 8. Check: the same thing in `utils`
#
# What you saw here is what `utils/diffusion/schedules.py` and `process.py` contain: open them, you will recognise
# every line that computes something (the loss at the end of `process.py` belongs to notebook 04). What is added checks
# the arguments and moves the tables to where the images are; `linear` counts from its last beta, so that a chain of one
# step ends in noise too, and `sigmoid` has a width, `tau`. The check is strict: same numbers, for several $T$ and all
# three targets.

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

betas_1000 = cosine_betas(1000)
batch, t = images[:64], torch.arange(64) * 15
noise = torch.randn_like(batch)
x_t = q_sample(batch, t, noise, alpha_bars(betas_1000))
torch.testing.assert_close(x_t, diffusion.q_sample(batch, t, noise))
weights = [at(table, t, batch) for table in posterior_of(betas_1000)]
x_0_weight, x_t_weight, variance = weights
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
# ## 9. A museum of bugs
#
# Five mistakes that are easy to make. Each runs without an error message. Here is what each does to the numbers.
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
pd.DataFrame(rows, index=list(wrongs), columns=columns).round(2)

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
# Compare each row with "right". At $T$ you catch uniform noise (mean 0.5, standard deviation
# $1/\sqrt{12} \approx 0.29$) and the missing shrinking (the mean is that of the images, the standard deviation too
# large). You miss "variance", since $1-\bar\alpha_T \approx 1$ is its own root: only in the middle of the
# chain is its standard deviation too small. And you miss [0, 1], whose $x_T$ is perfect noise: in the
# middle its mean has the wrong sign. Images in [0, 1] have half the spread, so the true SNR is a quarter
# of what the schedule says, and a sampler that clips its estimates to [-1, 1] clips to the wrong range.
#
# So test the forward process **in the middle of the chain**, not only at its end. Exercise 01.4 asks you
# to write that test. As to wrap-around: clamp to [-1, 1] before you convert, as `show_images` does. (We
# wrapped with `% 256` because converting an out-of-range float to uint8 directly is not even defined: the
# result depends on the machine.)

# %% [markdown]
# ## 10. Play
#
# The image at step `t`, its pixels' histogram against the standard normal, and where `t` lies on the SNR
# curve. First for three fixed values.

# %%
fixed_noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))


def draw(schedule="linear", num_timesteps=1000, t=300):
    """Image, histogram and SNR of x_t for one schedule, T and t."""
    curve = alpha_bars(schedules[schedule](num_timesteps))
    signal, sigma, snr = curve.sqrt(), (1 - curve).sqrt(), curve / (1 - curve)
    x_t = q_sample(x_0, torch.tensor([t]), fixed_noise, curve)
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
# Now move the sliders. Things to try: at $T = 200$, compare "linear, unscaled" with "linear" at the last
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
# ## 11. Exercises
#
# Write your answer in place of `raise NotImplementedError` and run the cell: `check` says whether it is
# right, and if not, which property is broken. Stuck? `hint("01.1")` gives a hint, each call the next one;
# `solution("01.1")` shows one answer. The same goes for the other numbers. (Comments such as `NBVAL_CHECK_OUTPUT`
# and `noqa` in the cells speak to the course's tests and to the linter; pass over them.)
#
# ### 01.1 A shorter chain out of a long one
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


check("01.1", respaced_betas)

# %%
hint("01.1")

# %% [markdown]
# ### 01.2 A schedule from its SNR
#
# You want a schedule with a given SNR curve. Which betas give it?


# %%
def betas_from_snr(snr):
    """The betas of the schedule with this signal-to-noise ratio.

    snr: (T,) float64, falling. Returns (T,) betas.
    """
    raise NotImplementedError


check("01.2", betas_from_snr)

# %% [markdown]
# ### 01.3 The posterior mean in terms of the noise
#
# DDPM's network predicts $\epsilon$. Put $x_0 = (x_t - \sigma_t\,\epsilon)/a_t$ into the posterior mean of section
# 6 and simplify: $x_0$ disappears, and what is left is short. It is line 4 of Algorithm 2 in Ho et al.
# (2020), without its noise, and you will meet it in notebook 05.


# %%
def posterior_mean_from_noise(x_t, noise, beta, alpha_bar):
    """Mean of q(x_{t-1} | x_t, x_0) in terms of the noise in x_t.

    x_t, noise: images of one shape. beta, alpha_bar: beta_t and alpha-bar_t, 0-dimensional.
    """
    raise NotImplementedError


check("01.3", posterior_mean_from_noise)


# %% [markdown]
# ### 01.4 A test that catches the bugs
#
# Somebody hands you `forward(x_0, alpha_bar)`, which claims to draw $x_t$ from eq. 4. Write a test that
# is passed by the right one, every time, and by none that has another mean or variance: not by the last four bugs of
# section 9, nor by an image shrunk by $\bar\alpha_t$ instead of its root, nor by one with its sign turned. You may call
# it as often as you like, with any images you make up.


# %%
def is_forward_process(forward):
    """True if x_t = forward(x_0, alpha_bar) has the mean and variance of eq. 4, else False.

    forward takes a float tensor of any shape and a number alpha_bar in (0, 1); it returns
    x_t of that shape.
    """
    raise NotImplementedError


check("01.4", is_forward_process)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $x_0$, $x_t$ | `x_0`, `x_t` | clean image in [-1, 1]; the same after step $t$ |
# | $T$ | `num_timesteps` | number of steps; in code $t$ runs from 0 to $T-1$ |
# | $\beta_t$ | `betas` | variance of the noise that step $t$ adds |
# | $\alpha_t = 1-\beta_t$ | `alphas` | |
# | $\bar\alpha_t = \prod_{i\le t}\alpha_i$ | `alphas_cumprod` | share of the image in $x_t$, squared |
# | $a_t = \sqrt{\bar\alpha_t}$, $\sigma_t = \sqrt{1-\bar\alpha_t}$ | `signal`, `sigma` | $x_t = a_t x_0 + \sigma_t \epsilon$ |
# | $\epsilon$ | `noise` | standard normal noise |
# | $\bar\alpha_t/(1-\bar\alpha_t)$ | `snr` | signal-to-noise ratio |
# | $\tilde\mu_t$, $\tilde\beta_t$ | `diffusion.q_posterior(...)` | mean, variance of the posterior |
# | $v = a_t\,\epsilon - \sigma_t\,x_0$ | `v` | the target this course trains on |
#
# 1. Adding noise in $T$ small steps is the same as adding it in one jump, so any $x_t$ costs one line.
# 2. A schedule is a curve from all image to all noise; it must arrive, whatever $T$ is, or the sampler
#    starts from something the network never saw.
# 3. Given $x_0$, the way back is a normal distribution with known mean and variance, and noise, $x_0$ and
#    $v$ are three ways to ask for the same thing that differ in what an error costs.
#
# **Next:** [02 · Positional encoding](02_positional_encoding.ipynb): how a network is told which $t$ it
# is looking at. The posterior comes back in [05 · Sampling](05_sampling.ipynb).
#
# ### References
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: sections 2 and 3,
#   eq. 2, 4, 6, 7.
# - Nichol, Dhariwal 2021, *Improved DDPM*, arXiv 2102.09672: section 3.2 (cosine), section 4 (fewer steps).
# - Salimans, Ho 2022, *Progressive distillation*, arXiv 2202.00512: section 4 (targets and loss weights).
# - Kingma, Salimans, Poole, Ho 2021, *Variational diffusion models*, arXiv 2107.00630: the SNR view.
# - Jabri, Fleet, Chen 2022, arXiv 2212.11972, and Chen 2023, *On the importance of noise scheduling for
#   diffusion models*, arXiv 2301.10972: the sigmoid schedule, and noise against image size.
# - Lin, Liu, Li, Yang 2023, *Common diffusion noise schedules and sample steps are flawed*, arXiv
#   2305.08891.
# - Xiao, Rasul, Vollgraf 2017, *Fashion-MNIST*, arXiv 1708.07747.
