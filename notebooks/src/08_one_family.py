# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 08 · One family
#
# {{badge}}
#
# ![Rows of garments from the same noise: the teacher with one evaluation is a blur; two students with one and with four
# evaluations, and the teacher with 20, draw garments](../data/pictures/08.png)
#
# *One network, five names, and in the end a student that draws in four evaluations, nearly as well as its teacher in
# twenty.*
#
# DDPM, score matching, EDM, flow matching: the papers differ in letters, signs and times. This notebook shows that the
# network of this course is all of them at once, and that what remains of the difference is which noise levels a loss
# counts, and how a solver steps.
#
# **At the end you have** the shipped model as an EDM denoiser, a score and a velocity field, by algebra that you wrote;
# Heun's method with its order measured; each training objective as a weight over noise levels; the way to diffusers and
# back; a model that draws in four evaluations; and a map of the field beyond images.
#
# **You need** Python, basic PyTorch, and derivatives. Samplers come from notebook 05, the Frechet distance from
# notebook 06. Trained networks lie in `data/checkpoints`.
#
# **Time:** about three minutes on two cores. For you: 35 minutes of reading for the *core*, sections 0 to 3 and 5, and
# half an hour for its five pieces (08.1 to 08.3, 08.5, 08.7).

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import math
import shutil
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.integrate import solve_ivp
from scipy.stats import t as student_t
from scipy.stats import wasserstein_distance
from torch import nn
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, plain_ticks, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import (
    GaussianDiffusion,
    ImageQuality,
    UNet,
    generate,
    load_images,
    load_model,
    sample,
)
from utils.diffusion.family import (
    PATHS,
    denoiser,
    edm_grid,
    euler,
    heun,
    noise_levels,
    round_levels,
    velocity,
)
from utils.diffusion.sampling import dpmpp_2m_step, timestep_grid
from utils.diffusion.training import train

# %% [markdown]
# ## 0. The finished thing · *core*
#
# The network of notebooks 03 to 05. It sees $x_t$, $t$ and a label, or "none", and tells
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$.

# %%
checkpoint = course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
device = course.device
model, diffusion = load_model(checkpoint, device)
schedule, T = diffusion.schedule, diffusion.num_timesteps
a_bar = schedule.alphas_cumprod.tolist()
train_set, test_set = load_images("fashion-mnist"), load_images("fashion-mnist", "test")
quality = ImageQuality.load()


# %%
def rng(seed):
    return torch.Generator().manual_seed(seed)


def normal(shape, generator):
    """Standard normal noise, drawn on the CPU: a seed gives the same on every device."""
    return torch.randn(shape, generator=generator).to(device)


def classes_in_turn(count):
    return (torch.arange(count) % 10).to(device)


# %% [markdown]
# What the five papers call its answer. Each form is computed from the one $v$, and $\hat x_0$ is computed back from
# each. $\bar\sigma = \sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t}$ is the noise per unit of signal (notebook 05, section
# 6), and $\bar x = x_t/\sqrt{\bar\alpha_t}$. They are EDM's $\sigma$ and $x$.
#
# **Predict before you run:** which of the five grow without bound when the noise goes to 0, and which when it grows?


# %%
@torch.no_grad()
def five_forms(t, count=8):
    """Rows (paper, form, its standard deviation, the x_0 that it stands for)."""
    x_0, y = (part.to(device) for part in test_set[:count])
    ts = torch.full_like(y, t)
    x_t = diffusion.q_sample(x_0, ts, normal(x_0.shape, rng(0)))
    signal, sigma = math.sqrt(a_bar[t]), math.sqrt(1 - a_bar[t])
    v = model(x_t, ts, y)
    noise, denoised = sigma * x_t + signal * v, signal * x_t - sigma * v
    score, flow = -noise / sigma, noise - denoised
    x_flow = x_t / (signal + sigma)  # the same image on the straight path (section 1)
    return [
        ("Ho et al. 2020", "noise", noise, (x_t - sigma * noise) / signal),
        ("Salimans & Ho 2022", "v", v, signal * x_t - sigma * v),
        ("Song et al. 2021", "score", score, (x_t + sigma**2 * score) / signal),
        ("Karras et al. 2022", "D(x; sigma)", denoised, denoised),
        ("Lipman et al. 2023", "velocity", flow, x_flow - sigma / (signal + sigma) * flow),
    ]


# %%
rows, gaps = {}, {}
for t in (20, 500, 980):
    five = five_forms(t)
    by_velocity = five[-1][3]
    for paper, form, values, found in five:
        rows.setdefault((paper, form), {})[f"std at t = {t}"] = float(values.std())
        gap = float((found - by_velocity).abs().max())
        gaps[paper, form] = max(gap, gaps.get((paper, form), 0.0))
forms_table = pd.DataFrame.from_dict(rows, orient="index")
forms_table["x_0 differs"] = pd.Series(gaps)
forms_table.rename_axis(["paper", "what the network tells"]).round(5)

# %% [markdown]
# All give one $\hat x_0$, by construction; the last column shows the rounding. Only the score grows, towards no noise;
# the others stay bounded. But bounded is not enough: from the noise, $\hat x_0$ is found by dividing by
# $\sqrt{\bar\alpha_t}$, which is nearly 0 at the noisy end and magnifies an error (notebook 05, section 3).

# %% [markdown]
# ## 1. One line, many names · *core*
#
# **Question:** what is different between the papers, if not the network?
#
# They all mix an image and noise, with two functions of a time:
#
# $$x = a(t)\,x_0 + \sigma(t)\,\epsilon .$$
#
# | path | signal $a(t)$ | noise $\sigma(t)$ | from |
# | --- | --- | --- | --- |
# | variance preserving, VP | $\cos(\pi t/2)$ | $\sin(\pi t/2)$ | Ho et al. 2020; the cosine of Nichol & Dhariwal 2021, without its offset |
# | variance exploding, VE | $1$ | $0.01 \cdot 5000^t$ | Song et al. 2021, Appendix C |
# | EDM | $1$ | $t$ | Karras et al. 2022, Table 1 |
# | flow matching, rectified flow | $1-t$ | $t$ | Lipman et al. 2023; Liu et al. 2023 |
#
# (Ho's linear schedule goes along VP's circle by another clock. Lipman's flow runs the other way, with noise at
# $t = 0$; here $t$ grows with the noise in all of them. Karras' $s(t)$ is $a$ here, and his $\sigma$ is
# $\bar\sigma = \sigma/a$.)

# %% tags=["figure"]
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.4))
moments = np.linspace(0, 1, 400)
styles = ["-", ":", "--", "-."]
for (name, path), colour, style in zip(PATHS.items(), COLOURS, styles):
    weights_at = np.array([path.at(t)[:2] for t in moments])
    left.plot(moments, weights_at[:, 0], style, color=colour, label=name)
    middle.plot(moments, weights_at[:, 1], style, color=colour)
    width = 4 if name == "EDM" else 1.6
    right.plot(*weights_at.T, style, color=colour, lw=width, alpha=0.6 if width > 2 else 1)
right.plot([1, 1], [1, 1.5], "--", color=COLOURS[2], lw=4, alpha=0.6)  # EDM, for t above 1
for ratio in (0.25, 1, 3):
    right.plot([0, 1.5], [0, 1.5 * ratio], color="grey", lw=0.8)
    for name in ("VP", "EDM", "flow"):
        point = PATHS[name].at(PATHS[name].time(ratio))[:2]
        right.plot(*point, "o", ms=4, color="black")
left.set(xlabel="t", ylabel="signal a(t)", title="Image")
middle.set(xlabel="t", ylabel=r"noise $\sigma(t)$", ylim=(0, 1.5), title="Noise")
right.set(xlabel="signal", ylabel="noise", xlim=(0, 1.1), ylim=(0, 1.5))
right.set_title("On one ray: one image")
left.legend(fontsize=8)
plt.show()

# %% [markdown]
# Look at the right panel. On one ray from the corner the noise level $\bar\sigma = \sigma/a$ is the same, and so is the
# log-SNR, $-2\log\bar\sigma$. (The two axes have different units, so the quarter circle is drawn as an ellipse.) The
# points on it differ by a factor only, for $x/a = x_0 + \bar\sigma\,\epsilon$. So a network of one path answers for
# all: scale $x$ onto the quarter circle, where the squares of the weights add to 1, and ask. (VE lies on EDM's line,
# and goes along it at another speed.)
#
# What does a sampler need? The slope of $x$ along its path, with the network's estimates in place of what is unknown:
#
# $$\frac{dx}{dt} = a'(t)\,\hat x_0 + \sigma'(t)\,\hat\epsilon .$$
#
# With numbers, on the straight path: $x_0 = 2$, $\epsilon = -1$, $t = \frac14$. Then
# $x = \frac34\cdot 2 + \frac14\cdot(-1) = 1.25$, and the slope is $\epsilon - x_0 = -3$. One step of $-\frac14$ along
# it ends at $1.25 + 0.75 = 2$, the image.
#
# That is the *velocity field* of flow matching (Lipman et al. 2023), and the probability-flow ODE of notebook 05 (there
# only for $a = 1$, $\sigma = \bar\sigma$; Karras et al. 2022, eq. 4, has all).
#
# ### Your turn: 08.1
#
# Write it, for any path, from what a $v$-network says. `hint("08.1")` and `solution("08.1")` help. You may also go on:
# the next cell has the course's version, and uses yours if it is right.


# %%
def velocity_from_v(x, v, signal, sigma, signal_slope, sigma_slope):
    """dx/dt at a point of any path; like x.

    x: (B, C, H, W), signal * x_0 + sigma * noise. v: of that shape, what the network says
    at x / sqrt(signal**2 + sigma**2), its point of the same noise level. The rest: numbers,
    the path's weights and their derivatives.
    """
    raise NotImplementedError


check("08.1", velocity_from_v)


# %%
def course_velocity_from_v(x, v, signal, sigma, signal_slope, sigma_slope):
    scale = math.hypot(signal, sigma)
    x_t, cos, sin = x / scale, signal / scale, sigma / scale
    x_0, noise = cos * x_t - sin * v, sin * x_t + cos * v
    return signal_slope * x_0 + sigma_slope * noise


velocity_from_v = choose("08.1", velocity_from_v, course_velocity_from_v)

# %% [markdown]
# In `utils` the middle of it is EDM's denoiser, $D(\bar x; \bar\sigma) = \hat x_0$, which is the same for all paths.
# `denoiser(model, diffusion, y)` finds the timestep whose $\bar\sigma$ is nearest, scales, asks, and turns the answer
# into $\hat x_0$. `velocity` makes the slope from it.

# %%
levels = noise_levels(diffusion).tolist()  # sigma_bar at every timestep, rising
print(f"sigma_bar from {levels[0]:.4f} at t = 0 to {levels[-1]:.0f} at t = {T - 1}")
y = classes_in_turn(4)
denoise = denoiser(model, diffusion, y)
rows = {}
for name, path in PATHS.items():
    for t in (100, 500, 900):
        moment = path.time(levels[t])
        signal, sigma, *slopes = path.at(moment)
        x = signal * test_set[:4][0].to(device) + sigma * normal((4, 1, 28, 28), rng(t))
        with torch.no_grad():
            v = model(x / math.hypot(signal, sigma), torch.full_like(y, t), y)
            theirs = velocity(denoise, path, x, moment)
        mine = velocity_from_v(x, v, signal, sigma, *slopes)
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        rows.setdefault(name, {})[f"speed at t = {t}"] = float(mine.square().mean().sqrt())
print("equal to velocity of utils at three levels on each path; root mean square:")
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ### The same images from the same noise
#
# Now samplers with 20 evaluations at the same noise levels. DDIM of notebook 05, in $(x_t, t)$; Euler's method,
# $x \leftarrow x + (s - t)\,dx/dt$, in EDM's $(\bar x, \bar\sigma)$; Euler's in flow matching's $(x, t)$, once with
# the velocity and once as Song et al. write it, with the score:
#
# $$\frac{dx}{dt} = f\,x - \tfrac12\,g^2\,\nabla\log p, \qquad f = \frac{a'}{a}, \quad g^2 = 2\sigma\sigma' - 2\sigma^2\frac{a'}{a}
# \qquad\text{(2021, eq. 13).}$$
#
# And Euler's in VP's and VE's own times. All start from one noise, scaled to the path, and end with one last
# $\hat x_0$.
#
# **Predict before you run:** which of them draw the same images?

# %%
same_steps, y = course.pick(test=3, cpu=20, gpu=20), classes_in_turn(8)
denoise, start_noise = denoiser(model, diffusion, y), normal((8, 1, 28, 28), rng(3))
if device.type != "mps":  # which has no float64; sigma_bar is 20,000 at first
    start_noise = start_noise.double()
level_grid = [levels[t] for t in timestep_grid(T, same_steps)]


def score_slope(denoise, path, x, t):
    """dx/dt as f x - g^2 / 2 times the score."""
    signal, sigma, signal_slope, sigma_slope = path.at(t)
    f = signal_slope / signal
    half_g_squared = sigma * sigma_slope - sigma**2 * f
    score = (signal * denoise(x / signal, sigma / signal) - x) / sigma**2
    return f * x - half_g_squared * score


# %%
@torch.no_grad()
def euler_along(path, slope=velocity):
    """Images by Euler's method in the path's own time, at the levels of `level_grid`."""
    times = [path.time(level) for level in level_grid]
    x = start_noise * math.hypot(*path.at(times[0])[:2])
    for t, later in pairwise(times):
        x = x + (later - t) * slope(denoise, path, x, t)
    return denoise(x / path.at(times[-1])[0], level_grid[-1])


# %%
options = dict(sampler="ddim", steps=same_steps, clip=False, y=y, x_T=start_noise)
*_, last = sample(model, diffusion, start_noise.shape, **options)
by_way = {"DDIM by sample": last.x_t}
by_way |= {f"Euler in {name}": euler_along(PATHS[name]) for name in ("EDM", "flow")}
by_way["Euler in flow by the score"] = euler_along(PATHS["flow"], score_slope)
by_way |= {f"Euler in {name}": euler_along(PATHS[name]) for name in ("VP", "VE")}

# %%
rows = {}
for way, images in by_way.items():
    gap = images - by_way["DDIM by sample"]
    rows[way] = [float(gap.square().mean().sqrt()), float(gap.abs().max())]
for way in list(by_way)[:4]:
    assert rows[way][1] < 1e-4
columns = ["root mean square", "largest"]
print(f"difference from DDIM, {same_steps} evaluations, the same noise and levels")
pd.DataFrame.from_dict(rows, orient="index", columns=columns).map("{:.1e}".format)

# %% tags=["figure"]
finding = f"Top to bottom:\n{', '.join(by_way)}"
rows_of_images = torch.cat([*by_way.values()]).float().cpu()
show_images(rows_of_images, columns=8, scale=2, title=finding)

# %% [markdown]
# DDIM, EDM's Euler and flow matching's Euler, by velocity or by score, are one sampler; what is left is rounding.
# *Why?* Hold the estimates $\hat x_0$ and $\hat\epsilon$ fixed during a step. Where $a$ and $\sigma$ are both straight
# lines in the time, $a\,\hat x_0 + \sigma\,\hat\epsilon$ is one too, and an Euler step lands exactly where these
# estimates belong, at the new noise level. DDIM puts them there by construction. So **DDIM is Euler on every path that
# is straight in its time**, as EDM's and flow matching's are, and flow matching adds no sampler to it.
#
# The other two are not. In VP's own time the point moves on a circle, and Euler leaves it along the tangent: a little
# longer at each step. In VE's time $\bar\sigma$ is an exponential, whose tangent overshoots where the levels lie far
# apart, as they do at first. (VE ends at $\bar\sigma = 50$; here it goes on to the schedule's 20,000.) So the times
# are no matter of taste once a solver takes finite steps; with infinitely many all agree.

# %% [markdown]
# ### What the network should see and say: EDM's preconditioning
#
# In EDM's variables the input grows with $\bar\sigma$, to a size that no network likes. EDM wraps the network $F$:
#
# $$D(\bar x;\bar\sigma) = c_\text{skip}\,\bar x + c_\text{out}\,F(c_\text{in}\,\bar x;\,t)
# \qquad\text{(Karras et al. 2022, eq. 7; their $c_\text{noise}(\bar\sigma)$ is the timestep here)}$$
#
# and derives the factors (their Appendix B.6), for data of mean 0 and variance $\sigma_d^2$, from three wishes:
#
# 1. The input $c_\text{in}\,\bar x$ has variance 1, where $\bar x$ has $\sigma_d^2 + \bar\sigma^2$.
# 2. The target of $F$, which is $(x_0 - c_\text{skip}\,\bar x)/c_\text{out}
# = \big((1-c_\text{skip})\,x_0 - c_\text{skip}\,\bar\sigma\,\epsilon\big)/c_\text{out}$, has variance 1.
# 3. An error of $F$ reaches $D$ times $c_\text{out}$: so $c_\text{skip}$ is chosen to make $c_\text{out}$ least.
#
# ### Your turn: 08.2
#
# From 2, $c_\text{out}^2$ is a quadratic in $c_\text{skip}$; find its minimum. `hint("08.2")`, `solution("08.2")`.


# %%
def preconditioning(sigma_bar, sigma_data):
    """(c_skip, c_out, c_in), three numbers, c_out and c_in above 0."""
    raise NotImplementedError


check("08.2", preconditioning)


# %%
def course_preconditioning(sigma_bar, sigma_data):
    variance = sigma_bar**2 + sigma_data**2  # of the noisy image
    c_skip = sigma_data**2 / variance
    c_out = sigma_bar * sigma_data / math.sqrt(variance)
    return c_skip, c_out, 1 / math.sqrt(variance)


preconditioning = choose("08.2", preconditioning, course_preconditioning)

# %% [markdown]
# For $\sigma_d = 1$ these are old friends: $c_\text{in} = 1/\sqrt{1+\bar\sigma^2} = \sqrt{\bar\alpha_t}$, so the
# network sees $x_t$; $c_\text{skip} = \bar\alpha_t$; $c_\text{out} = \sqrt{1-\bar\alpha_t}$. Then
# $D = \sqrt{\bar\alpha_t}\,x_t + \sqrt{1-\bar\alpha_t}\,F$. Beside
# $\hat x_0 = \sqrt{\bar\alpha_t}\,x_t - \sqrt{1-\bar\alpha_t}\,v$ of notebook 01 that says $F = -v$: **the $v$ of
# Salimans & Ho is EDM's preconditioning for data of variance 1, but for the sign.** In the open, and for our images
# too, whose $\sigma_d$ we measure:

# %%
some = course.pick(test=100, cpu=2000, gpu=5000)
clean, labels = (part.to(device) for part in test_set[:some])
sigma_data = float(clean.std())
print(f"sigma_data of {some} test images: {sigma_data:.3f} (EDM takes 0.5 for its own)")

# %%
rows, few = {}, slice(16)
for t in (50, 300, 500, 700, 950):
    noisy = clean + levels[t] * normal(clean.shape, rng(t))
    row = rows[round(levels[t], 3)] = {}
    for name, spread in {"v": 1.0, "EDM": sigma_data}.items():
        c_skip, c_out, c_in = preconditioning(levels[t], spread)
        row[f"{name}: input"] = float((c_in * noisy).std())
        row[f"{name}: target"] = float(((clean - c_skip * noisy) / c_out).std())
    c_skip, c_out, c_in = preconditioning(levels[t], 1.0)
    with torch.no_grad():
        v = model(c_in * noisy[few], torch.full_like(labels[few], t), labels[few])
        theirs = denoiser(model, diffusion, labels[few])(noisy[few], levels[t])
    torch.testing.assert_close(
        c_skip * noisy[few] - c_out * v, theirs, rtol=1e-4, atol=1e-4
    )
print(
    "c_skip x - c_out v is D: F = -v. Standard deviations of what a network sees and says:"
)
pd.DataFrame.from_dict(rows, orient="index").rename_axis("sigma_bar").round(2)

# %% tags=["figure"]
figure, ax = plt.subplots()
at = np.geomspace(levels[0], 200, 200)
ax.loglog(at, at, ":", label="network predicts the noise")
ax.loglog(at, np.ones_like(at), "-.", label="network predicts $x_0$")
for name, spread, style in [("v", 1.0, "-"), ("EDM, our images", sigma_data, "--")]:
    ax.loglog(at, [preconditioning(one, spread)[1] for one in at], style, label=name)
ax.set(xlabel=r"noise level $\bar\sigma$", ylabel="factor", ylim=(3e-3, 2e2))
ax.set_title("How an error of the network is multiplied on its way to $x_0$")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# With the measured $\sigma_d$ both deviations are 1 at every level. With $\sigma_d = 1$ the input falls to $\sigma_d$
# at the clean end and the target at the noisy end, a small matter. The figure is what the third wish bought: with
# little noise an error shrinks as for a network that predicts the noise, with much noise it does not grow, as for one
# that predicts $x_0$.

# %% [markdown]
# ## 2. Heun's method, and what order means · *core*
#
# **Question:** one evaluation more a step: is it worth it?
#
# Euler takes the slope where it stands for the whole step. Heun's method looks at the far end too:
#
# $$\tilde x = x + h\,u(x, t),\qquad x \leftarrow x + \tfrac h2\big(u(x, t) + u(\tilde x, s)\big),\qquad h = s - t,$$
#
# with $u = dx/dt$. Two evaluations a step; its error falls with the square of their number, Euler's only like its
# inverse. EDM's sampler is this in $(\bar x, \bar\sigma)$ (Karras et al. 2022, Algorithm 1). At $\bar\sigma = 0$ there
# is no slope, since it divides by $\bar\sigma$: the last step stays Euler's. $N$ steps cost $2N - 1$ evaluations.
#
# ### Your turn: 08.3
#
# Write one step. `hint("08.3")`, `solution("08.3")`.


# %%
def heun_step(slope, x, t, s):
    """x at time s, from x at time t. slope: called as slope(x, t), gives dx/dt like x.

    x: a tensor. t, s: numbers, in any order.
    """
    raise NotImplementedError


check("08.3", heun_step)


# %%
def course_heun_step(slope, x, t, s):
    here = slope(x, t)
    there = slope(x + (s - t) * here, s)
    return x + (s - t) / 2 * (here + there)


heun_step = choose("08.3", heun_step, course_heun_step)

# %% [markdown]
# ### Orders, where the answer is known
#
# Six round blobs in the plane (notebook 05): $D$ is a formula, and SciPy solves the ODE to a tolerance of 1e-10. All
# methods start at the same 50 points. First they go over the middle of the way only, from $\bar\sigma = 10$ to $0.1$,
# over EDM's grid (their eq. 5: evenly spaced in $\bar\sigma^{1/\rho}$ with $\rho = 7$; $\rho = 1$ is even spacing in
# $\bar\sigma$).
#
# **Predict before you run:** which of these have order 1, which order 2: DDIM, Euler in VP's time and in VE's, Euler at
# evenly spaced times of flow matching, Heun in EDM's time and in flow's, 2M of notebook 05?

# %%
angles = torch.arange(6, dtype=torch.float64) * math.pi / 3
blob_centres, blob_width = torch.stack([angles.cos(), angles.sin()], dim=1), 0.12


def blobs(x_bar, sigma_bar):
    """D(x_bar; sigma_bar) of the six blobs; x_bar (B, 2)."""
    variance = blob_width**2 + sigma_bar**2
    offsets = x_bar[:, None] - blob_centres  # (B, 6, 2)
    chances = (-offsets.square().sum(2) / (2 * variance)).softmax(dim=1)
    guesses = blob_centres + blob_width**2 / variance * offsets
    return (chances[:, :, None] * guesses).sum(1)


# %%
def exact_end(x_bar, high, low):
    """Where the ODE takes x_bar (B, 2), by SciPy."""

    def slope(sigma_bar, flat):
        x = torch.from_numpy(flat).view(-1, 2)
        return ((x - blobs(x, sigma_bar)) / sigma_bar).flatten().numpy()

    options = dict(method="DOP853", rtol=1e-10, atol=1e-10)
    solved = solve_ivp(slope, [high, low], x_bar.flatten().numpy(), **options)
    return torch.from_numpy(solved.y[:, -1]).view(-1, 2)


# %%
@torch.no_grad()
def two_m(denoise, x_bar, grid):
    """2M of notebook 05: x_bar at the end of a falling grid of levels."""
    squares = [1 / (1 + level**2) for level in grid]  # alpha-bar
    x_t, previous = x_bar * math.sqrt(squares[0]), None
    for level, a_bar_t, a_bar_s in zip(grid, squares, squares[1:]):
        x_0 = denoise(x_t / math.sqrt(a_bar_t), level)
        x_t = dpmpp_2m_step(x_t, x_0, a_bar_t, a_bar_s, None, previous)
        previous = x_0, a_bar_t
    return x_t / math.sqrt(squares[-1])


# %%
def along(solver, name):
    """That solver in the time of that path, as a function of (denoise, x_bar, grid)."""
    path = PATHS[name]

    def solve(denoise, x_bar, grid):
        times = [path.time(level) for level in grid]
        *_, x = solver(denoise, path, x_bar * path.at(times[0])[0], times)
        return x / path.at(times[-1])[0]

    return solve


# %%
def my_heun(denoise, x_bar, grid):
    for t, s in pairwise(grid):
        x_bar = heun_step(lambda x, t: velocity(denoise, PATHS["EDM"], x, t), x_bar, t, s)
    return x_bar


def even_flow(denoise, x_bar, grid):
    """Euler along the flow, at evenly spaced times between the grid's ends."""
    first, last = (PATHS["flow"].time(level) for level in (grid[0], grid[-1]))
    times = np.linspace(first, last, len(grid)).tolist()
    return along(euler, "flow")(denoise, x_bar, [t / (1 - t) for t in times])


# %%
methods = {
    "DDIM (Euler in EDM or flow)": along(euler, "EDM"),
    "Euler in VP's time": along(euler, "VP"),
    "Euler in VE's time": along(euler, "VE"),
    "Euler, even times of flow": even_flow,
    "Heun in EDM": along(heun, "EDM"),
    "Heun in flow": along(heun, "flow"),
    "2M": two_m,
}


# %%
def grid_between(high, low, steps, rho=7.0):
    return edm_grid(steps + 1, low, high, rho)[:-1]


def error_of(name, grid, right):
    """Root mean square distance to `right`; Heun needs half the steps."""
    end = methods[name](blobs, grid[0] * start_points, grid)
    return float((end - right).square().sum(1).mean().sqrt())


# %%
start_points = torch.randn(50, 2, generator=rng(4)).double()
right = exact_end(10 * start_points, 10, 0.1)
heun_grid = grid_between(10, 0.1, 10)
mine, theirs = (
    way(blobs, 10 * start_points, heun_grid) for way in (my_heun, along(heun, "EDM"))
)
torch.testing.assert_close(mine, theirs)
budget = [8, 16, 32, 64, 128, 256, 512]
errors = {name: [] for name in methods}
for name in methods:
    for n in budget:
        steps = n // 2 if "Heun" in name else n
        errors[name].append(error_of(name, grid_between(10, 0.1, steps), right))
print("your Heun step is that of utils")


# %%
# NBVAL_CHECK_OUTPUT
rows = {}
for name in methods:
    steps = [n // 2 if "Heun" in name else n for n in (32, 256, 512)]
    for rho in (7.0, 1.0):
        early, late, last = (
            error_of(name, grid_between(10, 0.1, n, rho), right) for n in steps
        )
        row = rows.setdefault(name, {})
        row[f"rho = {rho:g}: order, 256 to 512"] = round(math.log2(late / last), 1)
        row["error at 32" if rho == 7 else "error at 32, rho = 1"] = round(early, 3)
pd.DataFrame.from_dict(rows, orient="index")

# %% [markdown]
# Orders 1 and 2, whichever the time: that is the method's. The *size* of the error is the time's and the grid's. With
# evenly spaced $\bar\sigma$ ($\rho = 1$; the even times of flow know no $\rho$) the steps are far too long where the
# blobs part. At 32 evaluations the error is 4 to 50 times larger, and Heun in EDM's time worse than Euler; at 512 Heun
# is still on its way to its order, and 2M falls faster than its own. An order is a statement about the limit.
#
# **The last step** goes to $\bar\sigma = 0$ from the lowest level of the grid, and is Euler's. The lowest level does
# not move when $N$ grows, so neither does that step's error. Now the whole way, from 80 to 0, with two lowest levels.
#
# **Predict before you run:** what becomes of Heun's order?

# %%
exact = exact_end(80 * start_points, 80, 1e-6)
whole = {}
for name in ("DDIM (Euler in EDM or flow)", "2M", "Heun in EDM"):
    for lowest in (0.03, 0.002):
        for n in budget:
            steps = n // 2 if "Heun" in name else n
            error = error_of(name, edm_grid(steps, lowest), exact)
            whole.setdefault((name, lowest), []).append(error)

# %% tags=["figure"]
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
markers = dict(zip(methods, ["o-", "v:", "^:", "x--", "s-", "*-", "D--"]))
for name, values in errors.items():
    left.loglog(budget, values, markers[name], ms=4, label=name)
for (name, lowest), values in whole.items():
    colour = COLOURS[[*methods].index(name)]
    style = markers[name] if lowest < 0.01 else ":"
    label = f"{name.split(' ')[0]}, lowest level {lowest}"
    right_panel.loglog(budget, values, style, color=colour, ms=4, label=label)
for panel in (left, right_panel):
    panel.set_xlabel("evaluations")
    panel.set_xticks(budget, [str(n) for n in budget])
    panel.minorticks_off()
left.set(ylabel="distance from the exact end", title="The middle: slopes -1 and -2")
right_panel.set_title("The whole way: the last step sets a floor")
left.legend(fontsize=7)
right_panel.legend(fontsize=7)
plt.show()

# %% [markdown]
# With the lowest level 0.03 all three stop at one error, that of the last step; with EDM's 0.002 that lies lower than
# any curve here. With 8 evaluations Heun has four steps, and from 80 these are too long for a mean of two slopes in
# $\bar\sigma$: it is worse than Euler, and with 16 still. So an order is measured without the last step, and says
# little about few steps.
#
# ### Noise on the way *(further)*
#
# Every ODE here has noisy siblings: for any $\zeta \ge 0$,
#
# $$d\bar x = (1+\zeta^2)\,\frac{\bar x - D(\bar x;\bar\sigma)}{\bar\sigma}\,d\bar\sigma +
# \zeta\sqrt{2\bar\sigma}\,d\bar w ,$$
#
# run from high to low $\bar\sigma$, passes through the same distributions (Karras et al. 2022, eq. 6). $d\bar w$ stands
# for fresh normal noise: over a step of length $h$ in $\bar\sigma$ its variance is $h$, so such a step adds
# $\zeta\sqrt{2\bar\sigma h}\,z$. $\zeta = 0$ is the ODE and $\zeta = 1$ the reverse SDE of Song et al. (2021, eq. 6),
# whose $f$ and $g^2$ stand in section 1; on the VP path $g^2$ is the $\beta$ of notebook 01, per unit of time.
#
# **Predict before you run:** the network is exact here. Does noise help, do harm, or neither, with 20 steps and with
# 400?


# %%
def noisy_way(x_bar, grid, strength, generator):
    """Euler-Maruyama down the grid; strength is zeta, and 0 is Euler's method."""
    for level, lower in pairwise(grid):
        slope = (x_bar - blobs(x_bar, level)) / level
        z = torch.randn(x_bar.shape, generator=generator, dtype=x_bar.dtype)
        noise = strength * math.sqrt(2 * level * (level - lower)) * z
        x_bar = x_bar + (1 + strength**2) * (lower - level) * slope + noise
    return x_bar


def from_blobs(count, generator):
    kinds = torch.randint(6, (count,), generator=generator)
    spread = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return blob_centres[kinds] + blob_width * spread


def mean_wasserstein(a, b):
    return np.mean([wasserstein_distance(*both) for both in zip(a.T, b.T)])


# %%
noisy_count, rows = course.pick(test=100, cpu=3000, gpu=10_000), {}
exact_draws = from_blobs(100_000, rng(0))
for strength in (0, 1, 2):
    for steps in (20, 100, 400):
        found = []
        for seed in range(3):
            begin = 80 * torch.randn(noisy_count, 2, generator=rng(seed)).double()
            end = noisy_way(begin, grid_between(80, 0.01, steps), strength, rng(10 + seed))
            found.append(mean_wasserstein(end, exact_draws))
        text = f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}"
        rows.setdefault(f"zeta = {strength}", {})[f"{steps} steps"] = text
chance = [mean_wasserstein(from_blobs(noisy_count, rng(k)), exact_draws) for k in (1, 2, 3)]
spread = f"{np.mean(chance):.3f} ± {np.std(chance, ddof=1):.3f}"
print(f"Wasserstein distance, mean of both coordinates; exact draws: {spread}")
pd.DataFrame(rows).T

# %% [markdown]
# With many steps all three are where exact draws are: noise on the way changes the path, not the law. With few steps
# the ODE's solver error is what some noise can repair; more of it asks for small steps again. That it repairs the
# errors of a *network* too is the claim of Karras et al. (2022, section 4); with an exact $D$ it cannot be seen.
#
# ### On images, at equal cost
#
# With 5 to 39 evaluations we are far from the limit in which orders rule. The methods again, with the shipped model in
# the place of `blobs`, on two grids: evenly spaced $t$, which `sample` uses and which begins at
# $\bar\sigma = 20{,}000$, and EDM's, from 80 down to the network's lowest level, rounded to levels that it knows. The
# truth is the same network's own ODE, solved with ten times as many steps; so this is the error of the solver and of
# nothing else.
#
# **Predict before you run:** does Heun beat 2M at the same number of evaluations? Does the grid matter as much as the
# method?

# %%
looks = course.pick(test=[3, 5], cpu=[5, 9, 19, 39], gpu=[5, 9, 19, 39])
solved = course.pick(test=2, cpu=12, gpu=100)  # how many images
image_methods = {
    "DDIM": along(euler, "EDM"),
    "2M": two_m,
    "Heun in EDM": along(heun, "EDM"),
    "Heun in flow": along(heun, "flow"),
}
kinds = ("even t", "EDM's grid")
solver_noise = normal((solved, 1, 28, 28), rng(20))
if device.type != "mps":
    solver_noise = solver_noise.double()


def images_by(method, kind, n):
    """Where n evaluations lead: (solved, 1, 28, 28)."""
    steps = (n + 1) // 2 if "Heun" in method else n
    grid = [levels[t] for t in timestep_grid(T, steps)] + [0.0]
    if kind == "EDM's grid":
        grid = round_levels(diffusion, edm_grid(steps, levels[0]))
    by_network = denoiser(model, diffusion, classes_in_turn(solved))
    return image_methods[method](by_network, grid[0] * solver_noise, grid)


# %%
def rms_gap(a, b):
    """The root mean square difference of pixels."""
    return float((a - b).square().mean().sqrt())


many_looks = course.pick(test=19, cpu=399, gpu=399)
truths = {kind: images_by("Heun in flow", kind, many_looks) for kind in kinds}
solver_errors = {}
for method in tqdm(image_methods, desc="solvers"):
    for kind in kinds:
        found = [rms_gap(images_by(method, kind, n), truths[kind]) for n in looks]
        solver_errors[method, kind] = dict(zip(looks, found))
other_truth = rms_gap(images_by("2M", "even t", many_looks + 1), truths["even t"])
print(f"2M with {many_looks + 1} evaluations is {other_truth:.3f} from the truth on even t")
columns = {n: f"{n} evaluations" for n in looks}
pd.DataFrame(solver_errors).T.rename(columns=columns).round(3)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
for ax, kind in zip(axes, kinds):
    for method, mark, colour in zip(image_methods, ["o-", "D--", "s-", "^:"], COLOURS):
        found = solver_errors[method, kind].values()
        ax.loglog(looks, found, mark, color=colour, ms=4, label=method)
    ax.set(xlabel="evaluations", ylim=(2e-3, 4))
    ax.set_xticks(looks, [str(n) for n in looks])
    ax.minorticks_off()
axes[0].set_title("Even t (Heun in EDM is far above)")
axes[1].set_title("EDM's grid: 2M is ahead")
axes[0].set_ylabel("difference from the network's own ODE")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# On EDM's grid 2M is ahead at every number of evaluations. It needs this grid: on even $t$ its error is about 1.5 to
# 3 times larger, and from 19 evaluations Heun in flow's time is about level with it. DDIM hardly feels the grid.
# Heun's second evaluation buys no more than 2M's memory of the last step, which costs nothing. Heun in EDM's time on
# even $t$ is ruined by its first step, which is thousands long in $\bar\sigma$; in flow's time the same step is a
# fraction of 1, and Heun is well. For Euler the two times are one, for Heun they are not. (How good the pictures are
# is another question, since the network errs too: section 5 measures that.)
#
# ### Play
#
# Eight points on their way to the blobs (crosses), scaled onto the quarter circle; grey is the same method with 200
# steps. First for two numbers: with 5 evaluations Heun's three steps throw points out of the picture. From which number
# on are all its ends nearer than Euler's? Try it.


# %%
def draw_solvers(evaluations=9):
    """Euler's and Heun's trajectories at this number of evaluations, an odd one."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), sharex=True, sharey=True)
    begin = 10 * start_points[:8]
    for ax, solver, steps in zip(
        axes, (euler, heun), (evaluations, (evaluations + 1) // 2)
    ):
        for count, look in (
            (200, dict(color="grey", lw=3)),
            (steps, dict(marker="o", ms=3)),
        ):
            grid = edm_grid(count, 0.02, 10)
            states = [begin, *solver(blobs, PATHS["EDM"], begin, grid)]
            scaled = [x / math.hypot(1, level) for x, level in zip(states, grid)]
            ax.plot(*torch.stack(scaled).unbind(2), **{"color": COLOURS[0], "lw": 1} | look)
        ax.plot(*blob_centres.T, "x", color="black")
        ax.set(
            xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xlabel="first coordinate", aspect="equal"
        )
        ax.set_title(f"{solver.__name__.title()}, {steps} steps: {evaluations} evaluations")
    axes[0].set_ylabel("second coordinate")
    return figure


# %%
for evaluations in (5, 13):
    display(draw_solvers(evaluations))
    plt.close()

# %%
play(draw_solvers, evaluations=(3, 41, 2))

# %% [markdown]
# ### 08.4 *(further)* Is flow matching's path straight?
#
# The line from one noise to one image is straight, by definition. The ODE's path is not that line: its velocity is the
# *mean* over all images that may lie behind $x$. Liu et al. (2023, section 2) measure straightness by the mean over the
# time of $\lVert dx/dt - (x_\text{end} - x_\text{start})/(t_\text{end} - t_\text{start})\rVert^2$. We know $x$ at some
# times only, so the slope between two neighbouring times stands for $dx/dt$; what bends within such a segment is not
# seen. 0 means straight and at constant speed, so that *one* Euler step is exact. Write it. `hint("08.4")`,
# `solution("08.4")`.


# %%
def straightness(states, times):
    """Mean square distance of the segments' slopes from that of the whole path; (B,).

    states: a list of (B, 2), x at each of the times. times: falling numbers, not evenly
    spaced: each segment counts by its share of the whole time.
    """
    raise NotImplementedError


check("08.4", straightness)


# %%
def course_straightness(states, times):
    span = times[-1] - times[0]
    whole, total = (states[-1] - states[0]) / span, 0.0
    for (x, x_next), (t, s) in zip(pairwise(states), pairwise(times)):
        slope = (x_next - x) / (s - t)
        total = total + (s - t) / span * (slope - whole).square().sum(1)
    return total


straightness = choose("08.4", straightness, course_straightness)

# %% [markdown]
# **Predict before you run:** one Euler step of the *exact* flow, from noise to the end. Where do all points land, when
# there are six blobs?


# %%
def one_blob(x_bar, sigma_bar):
    """D of a single point, the first blob's centre."""
    return blob_centres[:1].expand_as(x_bar)


flow_path, rows = PATHS["flow"], {}
flow_times = np.linspace(0.999, 0.001, 500).tolist()
for name, of_data in {"one point": one_blob, "six blobs": blobs}.items():
    states = [start_points, *heun(of_data, flow_path, start_points, flow_times)]
    *_, single = euler(of_data, flow_path, start_points, [flow_times[0], flow_times[-1]])
    values, missed = straightness(states, flow_times), (single - states[-1]).norm(dim=1)
    rows[name] = [float(values.mean()), float(values.max()), float(missed.mean())]
columns = ["straightness: mean", "largest", "one Euler step misses by"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(3)

# %% tags=["figure"]
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(8, 4.2), sharex=True, sharey=True)
partners = from_blobs(len(start_points), rng(5))
left.plot(*torch.stack([start_points, partners]).unbind(2), color=COLOURS[0], lw=0.7)
flow_trajectories = torch.stack(states)  # those of the six blobs
right_panel.plot(*flow_trajectories.unbind(2), color=COLOURS[0], lw=0.7)
right_panel.plot(*single.T, "s", ms=5, color=COLOURS[1], label="one step of the exact flow")
for ax in (left, right_panel):
    ax.plot(*start_points.T, ".", ms=4, color="grey")
    ax.plot(*blob_centres.T, "x", color="black")
    ax.set(xlabel="first coordinate", aspect="equal")
left.set(ylabel="second coordinate", title="Straight: noise and data, paired by chance")
right_panel.set_title("Bent: the flow that this trains")
right_panel.legend(fontsize=8)
plt.show()

# %% [markdown]
# With one point behind all noise the paths are straight, and one step is enough. With six they bend where the choice
# between the blobs falls, and one step ends near the mean of all data. *Straight pairs* do not make a *straight flow*.
# Rectified flow trains a second network on the pairs of noise and image that the first one makes, to straighten it (Liu
# et al. 2023, section 2). Section 5 comes to few steps by another way.

# %% [markdown]
# ## 3. What a loss weights · *core*
#
# **Question:** one network serves DDPM, EDM and flow matching (section 1). But each was trained with another loss. What
# is left of that difference?
#
# Two choices: which noise levels a training draws, and by how much it multiplies the error there.
#
# **All errors are one error.** On any path $x = a\,x_0 + \sigma\,\epsilon$. The network sees $x$, so its estimates of
# $x_0$ and $\epsilon$ must add up to it: $a(x_0 - \hat x_0) = -\sigma(\epsilon - \hat\epsilon)$. Every other error is
# then a multiple of that of the noise. For the velocity $\epsilon - x_0$ of the straight path, where $a + \sigma = 1$:
#
# $$(\epsilon - x_0) - (\hat\epsilon - \hat x_0) = (\epsilon - \hat\epsilon) + \tfrac{\sigma}{a}(\epsilon - \hat\epsilon)
# = \tfrac{a+\sigma}{a}\,(\epsilon - \hat\epsilon) = \tfrac1a\,(\epsilon - \hat\epsilon).$$
#
# In the same way $v = a\,\epsilon - \sigma\,x_0$ has the error $\frac{a^2+\sigma^2}{a}(\epsilon - \hat\epsilon)$, with
# $a^2 + \sigma^2 = 1$ again $\frac1a$ times that of the noise.
#
# **All clocks are one clock.** Timestep, $\sigma$ of EDM, time of flow matching: each only says how noisy $x$ is.
# Put them on one axis, $\ell = \log\mathrm{SNR} = \log(a^2/\sigma^2)$. If a clock $\tau$ runs from 0 to 1 and is drawn
# uniformly, a piece $d\tau$ covers a piece $d\ell$ of the axis, so $\ell$ has the density
#
# $$p(\ell) = \left|\frac{d\tau}{d\ell}\right|.$$
#
# **The scale of $x$ does not matter.** The multiples depend on $\ell$ alone (for $v$, $1/a^2 = 1 + e^{-\ell}$), and the
# network's input can be scaled (section 1). So *all* the losses can train one network, on one path.
#
# Together (Kingma & Gao 2023, section 3), where $w(\ell)$ is the multiple of the noise's squared error:
#
# $$L = \int W(\ell)\;\mathbb E\,\lVert\epsilon - \hat\epsilon\rVert^2\,d\ell, \qquad W(\ell) = w(\ell)\,p(\ell).$$
#
# Only $W$, the *effective weight*, decides what is minimised. How it is split into $w$ and $p$ decides how noisy the
# gradients are. (Letters: Kingma & Gao's $\lambda$ is our $\ell$, and their $w(\lambda)$ is our $W$, up to a factor.
# The $\lambda$ of notebook 05 is half of $\ell$.) The bound of notebook 04 is in the family: its terms were
# $\frac12(\mathrm{SNR}_{t-1} - \mathrm{SNR}_t)\lVert x_0 - \hat x_0\rVert^2$. For small steps the bracket is
# $\mathrm{SNR}\,d\ell$, and $\mathrm{SNR}\,\lVert x_0 - \hat x_0\rVert^2$ is the noise's squared error. So **the bound
# is $W = \frac12$ everywhere**; all the others bend that line.
#
# ### Your turn: 08.5
#
# Flow matching draws $\tau$ uniformly from 0 to 1, mixes $x = (1-\tau)\,x_0 + \tau\,\epsilon$, and takes the squared
# error of the velocity. Write $p(\ell)$ and $w(\ell)$. First solve $\ell = 2\log\frac{1-\tau}{\tau}$ for $\tau$.
# `hint("08.5")` and `solution("08.5")` help.


# %%
def flow_matching(log_snr):
    """Flow matching with uniform times, on the axis of the log-SNR.

    log_snr: a tensor. Returns two of its shape: the density with which a log-SNR is drawn,
    and how many times the noise's squared error the velocity's is.
    """
    raise NotImplementedError


check("08.5", flow_matching)


# %%
def course_flow_matching(log_snr):
    tau = torch.sigmoid(-log_snr / 2)
    return tau * (1 - tau) / 2, (1 + torch.exp(-log_snr / 2)) ** 2


flow_matching = choose("08.5", flow_matching, course_flow_matching)

# %% [markdown]
# Autograd knows the slope of $\ell(\tau)$, and random numbers know the errors; neither knows our formulas:

# %%
# NBVAL_CHECK_OUTPUT
tau = torch.rand(200_000, generator=rng(0), dtype=torch.float64).requires_grad_()
flow_draws = 2 * torch.log((1 - tau) / tau)
(slope,) = torch.autograd.grad(flow_draws.sum(), tau)
flow_draws, tau = flow_draws.detach(), tau.detach()
density, weight = flow_matching(flow_draws)
torch.testing.assert_close(density, 1 / slope.abs())

x_0, noise, noise_guess = torch.randn(3, len(tau), generator=rng(1), dtype=torch.float64)
x = (1 - tau) * x_0 + tau * noise
x_0_guess = (x - tau * noise_guess) / (1 - tau)
error = (noise - x_0) - (noise_guess - x_0_guess)
torch.testing.assert_close(weight, error**2 / (noise - noise_guess) ** 2)
print("density and weight of flow matching agree with autograd and with random errors")

# %% [markdown]
# Now seven objectives, each as two functions of $\ell$: the density, and the weight of the noise's error. `bell` is the
# normal density.
#
# - **v** and **noise**, $\tau$ uniform on the cosine schedule, where $a = \cos\frac{\pi\tau}{2}$ (Salimans & Ho 2022;
#   Nichol & Dhariwal 2021). **The course's**: three quarters of $\tau$ are logit-normal about $-1$ (notebook 04).
# - **min-SNR-5**: the error of $x_0$ counts $\min(\mathrm{SNR}, 5)$ times (Hang et al. 2023, section 3).
# - **EDM** with its published numbers: $\log\bar\sigma$ normal with mean $-1.2$ and standard deviation 1.2; the error of
#   $x_0$ counts $1/\bar\sigma^2 + 1/0.5^2$ times (Karras et al. 2022, Table 1). They were tuned for data of standard
#   deviation 0.5; section 1 measured that of our images.
# - **Flow matching** with $\tau$ uniform, or logit-normal about 0 (Esser et al. 2024, section 3.1).


# %%
def bell(x, mean, std):
    return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def cosine_times(log_snr):
    return 1 / (2 * math.pi * torch.cosh(log_snr / 2))


def course_times(log_snr):
    tau = torch.atan(torch.exp(-log_snr / 2)) * 2 / math.pi  # of the cosine schedule
    logit_normal = bell(tau.logit(), -1, 1) / (tau * (1 - tau))
    return cosine_times(log_snr) * (0.75 * logit_normal + 0.25)


def of_v(log_snr):
    return 1 + torch.exp(-log_snr)


# %%
objectives = {
    "v, cosine": (cosine_times, of_v),
    "noise, cosine": (cosine_times, torch.ones_like),
    "min-SNR-5": (cosine_times, lambda x: (5 * torch.exp(-x)).clamp(max=1)),
    "EDM": (lambda x: bell(x, 2.4, 2.4), lambda x: 1 + torch.exp(-x) / 0.5**2),
    "flow, uniform": (lambda x: flow_matching(x)[0], lambda x: flow_matching(x)[1]),
    "flow, logit-normal": (lambda x: bell(x, 0, 2), lambda x: flow_matching(x)[1]),
    "the course's": (course_times, of_v),
}

# %% [markdown]
# Each density beside what its own clock draws: the largest gap between the two distribution functions. With so many
# draws chance alone gives about 0.002.

# %%
z = torch.randn(200_000, generator=rng(2)).double()
middle = torch.where(torch.rand(len(tau), generator=rng(3)) < 0.75, (z - 1).sigmoid(), tau)
clocks = {
    "v, cosine": -2 * torch.tan(math.pi / 2 * tau).log(),
    "EDM": -2 * (1.2 * z - 1.2),
    "flow, uniform": flow_draws,
    "flow, logit-normal": 2 * (1 / z.sigmoid() - 1).log(),
    "the course's": -2 * torch.tan(math.pi / 2 * middle).log(),
}
axis = torch.linspace(-30, 30, 6001, dtype=torch.float64)  # of the log-SNR
gaps = {}
for name, drawn in clocks.items():
    below = torch.cumulative_trapezoid(objectives[name][0](axis), axis)
    seen = torch.searchsorted(drawn.sort().values, axis[1:]) / len(drawn)
    gaps[name] = float((below - seen).abs().max())
assert max(gaps.values()) < 0.005
pd.DataFrame({"largest gap": gaps}).round(4)

# %% [markdown]
# **Predict before you run:** two of the seven have *the same* effective weight, so they minimise the same loss. Which?
# And which two put the most weight of *v's* error on nearly clean images, with $\ell > 4$?

# %% tags=["figure"]
shown = axis[(axis > -12) & (axis < 12)]
figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharex=True)
for k, (name, (density, weight)) in enumerate(objectives.items()):
    look = dict(color=COLOURS[k], ls="--" if name == "flow, uniform" else "-", label=name)
    look["lw"] = 4 if name == "v, cosine" else 1.6
    drawn = density(shown)
    effective = drawn * weight(shown) * shown.sigmoid()
    panels[0].plot(shown, drawn, **look)
    panels[1].plot(shown, effective / torch.trapezoid(effective, shown), **look)
panels[0].set(title="What is drawn", xlabel="log-SNR (right: clean)", ylabel="density")
panels[1].set(
    title="What is weighted: two are one", xlabel="log-SNR", ylabel="weight of v's error"
)
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()


# %% tags=["figure"]
def middle_half(curve):
    """Between which log-SNR the middle half of a curve's area lies."""
    below = torch.cumulative_trapezoid(curve, shown)
    ends = [float(shown[:-1][below > part * below[-1]][0]) for part in (0.25, 0.75)]
    return "{:.1f} to {:.1f}".format(*ends)


rows = {}
for name, (density, weight) in objectives.items():
    of_noise = density(shown) * weight(shown)
    of_its_v = of_noise * shown.sigmoid()
    halves = [middle_half(curve) for curve in (density(shown), of_its_v)]
    clean = float(of_its_v[shown > 4].sum() / of_its_v.sum())
    falls = "yes" if bool((of_noise.diff() < 0).all()) else ""
    rows[name] = [*halves, f"{clean:.1%}", falls]
columns = ["half of the draws", "half of the weight", "weight above l = 4", "W only falls"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# The right panel shows $a^2\,W$, the weight of *v's* error, with area 1. For three of the seven $W$ itself falls all
# the way from left to right (last column); towards the left it grows without limit. For the other four it goes to 0 at
# the left end. (Left panel: *v*, *noise* and *min-SNR-5* draw alike, so their curves lie on each other.) Where $W$ only
# falls with $\ell$, the loss is the bound for images with some noise added to them (Kingma & Gao 2023, section 4).
#
# **v on the cosine schedule and flow matching with uniform times are one objective**: both have $W \propto e^{-\ell/2}$
# (Kingma & Gao 2023, Table 1), and differ only in what they draw. Noise prediction and EDM care most for nearly clean
# images: EDM draws them more often, and weighs them less. min-SNR is noise prediction with the weight cut where the SNR
# is above 5.
#
# ### Trained
#
# Whoever knows $w$ and $p$ can train with them. `train` hands the process a uniform timestep; we exchange it for one
# of $T$ levels that follow $p$, and weigh the error. Nothing else changes: every row trains a network that says $v$,
# on the levels of the course's schedule. EDM's preconditioning (section 1) is thus not compared.


# %%
class Weighted(GaussianDiffusion):
    """The process with another loss: levels by `density`, the noise's error by `weight`."""

    def __init__(self, schedule, density, weight):
        super().__init__(schedule, prediction="v")
        log_snr, T = schedule.snr.log(), schedule.num_timesteps
        shares = density(log_snr) * torch.gradient(log_snr)[0].abs()
        up_to = (shares / shares.sum()).cumsum(0)
        self.levels = torch.searchsorted(up_to, (torch.arange(T).double() + 0.5) / T)
        factor = weight(log_snr) * log_snr.sigmoid()  # of the squared error of v
        self.factor = factor / factor[self.levels].mean()

    def loss(self, model, x_0, t, noise, y=None):
        """t, uniform, chooses one of T levels, all equally likely."""
        t = self.levels.to(t.device)[t]
        error = super().loss(model, x_0, t, noise, y, reduction="none")
        return (self.factor.float().to(t.device)[t] * error).mean()


# %%
live_steps = course.pick(test=3, cpu=60, gpu=280)
torch.manual_seed(0)
live_network = UNet(channels=course.pick(test=16, cpu=32, gpu=32), num_classes=10)
live = Weighted(schedule, *objectives["flow, logit-normal"])
how = dict(steps=live_steps, middle=0, device=device)
live_losses = [state.loss for state in train(live_network, live, train_set, **how)]
last = np.mean(live_losses[-10:])
print(f"loss: {live_losses[0]:.2f} at first, {last:.2f} as the mean of the last ten")

# %% [markdown]
# The comparison is stored: `tests/benchmarks/objectives.py` trains each objective with a few seeds, with the same
# network, start, images and noise for all. A step costs all of them the same, so these are equal seconds of one
# processor core (first column). Factors are scaled to a mean of 1, so that gradients are clipped alike. Learning rates
# were *not* tuned for any of them. Measured: the Frechet distance of 1,000 images (2M, 20 evaluations), and $v$'s error
# at the least noisy 30% of the timesteps, the middle 40%, and the noisiest 30%.
#
# **Predict before you run:** which objective has the smallest error where there is little noise? And is it the one with
# the best images?

# %%
stored = pd.read_csv(course.root / "data" / "objectives.csv", comment="#")
measures = [name for name in stored.columns if name.startswith("error of v")]
measures = ["Frechet distance", *measures]
of_seed = stored.pivot(index="seed", columns="objective", values=measures).dropna()
t_of_seeds = student_t.ppf(0.975, len(of_seed) - 1)  # for a mean of so few numbers


def mean_and_half(values):
    """The mean over the seeds, and half of its 95% interval."""
    return values.mean(), t_of_seeds * values.std() / len(values) ** 0.5


table = stored.groupby("objective", sort=False)[["seconds", *measures]].mean()
real_floor = quality.floor(1000)[0].mean()
print(f"{len(of_seed)} seeds, {stored['steps'].max()} steps each")
print(f"real images, 1,000 of them: Frechet distance {real_floor:.2f}")
table.round({"seconds": 1, "Frechet distance": 1} | dict.fromkeys(measures[1:], 4))

# %% tags=["figure"]
figure, panels = plt.subplots(1, 4, figsize=(11, 3.4), sharey=True)
for ax, measure in zip(panels, measures):
    for row, name in enumerate(objectives):
        gaps = of_seed[measure][name] - of_seed[measure]["v, cosine"]
        mean, half = mean_and_half(gaps)
        told = abs(mean) > half
        ax.errorbar(
            mean, row, xerr=half, fmt="o", capsize=3, color=COLOURS[0 if told else 1]
        )
        ax.plot(gaps, [row + 0.25] * len(gaps), ".", ms=4, color="grey")
    ax.axvline(0, color="grey", lw=1)
    ax.set_title(measure.replace("error of v, ", "error of v,\n"))
panels[0].set_yticks(range(len(objectives)), objectives)
panels[0].invert_yaxis()
count = f"{len(of_seed)} seeds (t with {len(of_seed) - 1} degrees of freedom)"
figure.suptitle(f"Minus 'v, cosine', left is better; bars: 95% for the mean of {count}")
plt.show()

# %% [markdown]
# Blue is told apart from "v, cosine" by these seeds, orange is not; grey dots are the seeds. Bars are by Student's
# $t$, as in notebook 07: what they do not tell apart is *not* shown to be equal, and of 24 bars one may miss the line
# by chance. "flow, uniform" is the control: it has the effective weight of "v, cosine". What parts the two is what was
# drawn, up to the $T$ levels, the clipping of gradients and Adam.
#
# An objective pays where it does not look. Noise prediction, EDM and the course's have a smaller error than "v,
# cosine" where there is little noise and a larger one where there is much; min-SNR-5 and logit-normal flow have a
# smaller one in the middle and larger ones at both ends. Images are told apart far less: by the Frechet distance
# logit-normal flow is better, the control by a little, and none of the three with the smallest error at little noise,
# though the course's has the best mean. All are far from the floor: nobody should choose an objective after so short a
# training.
#
# ### 08.6 *(further)* Any weight, with any draws
#
# Since only $W = w\,p$ counts, a training may draw as it likes and make up for it by the weight. Write the factor of
# *v's* squared error that gives a wanted $W$. (Sigmoid weighting, Kingma & Gao 2023, and Hoogeboom et al. 2024 with
# another bias, is `wanted = lambda x: torch.sigmoid(2 - x)`.) Why not draw $\ell$ evenly from $-12$ to 12? Because most
# of a batch would then lie where the wanted weight is almost 0.


# %%
def factor_of_v(log_snr, wanted, density):
    """The factor of v's squared error in a training step.

    log_snr: a tensor. wanted, density: functions of it: the effective weight that the
    noise's squared error shall have, and how often a log-SNR is drawn. Like log_snr.
    """
    raise NotImplementedError


check("08.6", factor_of_v)

# %% [markdown]
# ## 4. To diffusers and back · *further*
#
# **Question:** most published models come for Hugging Face's library *diffusers*. Can its networks be trained here, and
# ours run there?
#
# The mathematics is the same, the conventions differ. Each line is a way to get bad images from good weights:
#
# | here | in diffusers | its default |
# | --- | --- | --- |
# | `NoiseSchedule`, float64 | `trained_betas=[...]`, float32 | linear betas |
# | `prediction="v"` | `prediction_type="v_prediction"` | `"epsilon"`, the noise |
# | timesteps from $T-1$ down | `timestep_spacing="trailing"` | `"leading"`: begins below $T-1$ |
# | the noise of the *clipped* $\hat x_0$ | `use_clipped_model_output=True` | of the unclipped one |
# | images in $[-1, 1]$ | pipelines give $[0, 1]$ | |
# | `model(x_t, t, y)`, a tensor | `unet(x_t, t).sample` | |
#
# ### Theirs, trained here
#
# A small wrapper, `train`, and `save_pretrained`. A few steps show the plumbing; the images would be noise.

# %%
from diffusers import (
    ConfigMixin,
    DDIMPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
    UNet2DModel,
)
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.utils.logging import disable_progress_bar

disable_progress_bar()
exported = course.build / "notebook08" / "diffusers"
shutil.rmtree(exported, ignore_errors=True)


# %%
class FromDiffusers(nn.Module):
    """A network of diffusers, called as the course calls one."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x_t, t):
        return self.unet(x_t, t).sample


torch.manual_seed(0)
blocks = dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8)
blocks |= dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)
theirs = UNet2DModel(sample_size=28, in_channels=1, out_channels=1, **blocks)
few = dict(steps=course.pick(test=2, cpu=30, gpu=50), batch_size=32, device=device)
*_, state = train(FromDiffusers(theirs), diffusion, train_set, **few)
print(
    f"{sum(p.numel() for p in theirs.parameters()):,} weights, last loss {state.loss:.2f}"
)

# %%
in_their_words = dict(num_train_timesteps=T, trained_betas=schedule.betas.tolist())
in_their_words |= dict(prediction_type="v_prediction", timestep_spacing="trailing")
pipeline = DDIMPipeline(state.ema_model.unet, DDIMScheduler(**in_their_words))
pipeline.save_pretrained(exported / "theirs")
loaded = DDIMPipeline.from_pretrained(exported / "theirs").to(device)


def images_of(pipeline, clipped=True):
    """Four images (4, 1, 28, 28) in [0, 1], by 20 steps of their DDIM."""
    pipeline.set_progress_bar_config(disable=True)
    options = dict(num_inference_steps=20, use_clipped_model_output=clipped)
    images = pipeline(4, generator=rng(0), output_type="np", **options).images
    return torch.from_numpy(images).movedim(-1, 1)


def course_images(network, **options):
    """The same four by `sample`."""
    options = dict(sampler="ddim", steps=20, generator=rng(0)) | options
    *_, last = sample(network, diffusion, (4, 1, 28, 28), **options)
    return (last.x_t / 2 + 0.5).clamp(0, 1).cpu()


# %%
close = dict(atol=1e-5 if device.type == "cpu" else 1e-4, rtol=0)  # images in [0, 1]
from_pipeline, from_course = images_of(loaded), course_images(FromDiffusers(loaded.unet))
torch.testing.assert_close(from_pipeline, from_course, **close)
print(f"largest difference from sample: {(from_pipeline - from_course).abs().max():.0e}")

# %% [markdown]
# ### Ours, in their pipeline
#
# `ModelMixin` and `ConfigMixin` give our network what a pipeline asks for: a configuration, a number format, and
# `save_pretrained`. This pipeline knows no labels, so the images are drawn without. Beside them, what happens when one
# convention is forgotten.
#
# **Predict before you run:** which is worse, the wrong timesteps or the wrong prediction type?


# %%
class CourseUNet(ModelMixin, ConfigMixin):
    """The course's network as diffusers calls one. settings: those of UNet."""

    @register_to_config
    def __init__(self, sample_size, in_channels, settings):
        super().__init__()
        self.network = UNet(**settings)

    def forward(self, sample, timestep, class_labels=None):
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        return UNet2DOutput(self.network(sample, t, class_labels))


ours = CourseUNet(28, 1, model.config)
ours.network.load_state_dict(model.state_dict())
ours.save_pretrained(exported / "ours")
ours = CourseUNet.from_pretrained(exported / "ours").to(device)
files = sorted(path.name for path in (exported / "ours").iterdir())
print(", ".join(files))

# %%
right = course_images(model)
forgotten = {
    "pipeline": {},
    "leading": dict(timestep_spacing="leading"),
    "linear betas": dict(trained_betas=None),
    "v as noise": dict(prediction_type="epsilon"),
}
by_pipeline = {}
for name, default in forgotten.items():
    by_pipeline[name] = images_of(
        DDIMPipeline(ours, DDIMScheduler(**in_their_words | default))
    )
by_pipeline["unclipped"] = images_of(
    DDIMPipeline(ours, DDIMScheduler(**in_their_words)), False
)
torch.testing.assert_close(by_pipeline["pipeline"], right, **close)
rows = {}
for name, images in by_pipeline.items():
    gap = (images - right).abs()
    rows[name] = [float(gap.max()), float(gap.mean())]
columns = ["largest difference from sample", "mean difference"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns).map("{:.1g}".format)

# %% tags=["figure"]
columns = torch.stack([right, *by_pipeline.values()], dim=1)[:2] * 2 - 1
titles = ["sample", *by_pipeline] + [""] * 6
finding = "The pipeline draws what sample draws, unless a convention is forgotten"
show_images(columns.flatten(0, 1), titles=titles, columns=6, scale=4, title=finding)

# %% [markdown]
# With nothing forgotten the images agree up to rounding (theirs keeps $\bar\alpha$ in float32). By the mean the wrong
# prediction type and the wrong betas are the worst. The two other defaults, *leading* and *unclipped*,
# shift the images less, by the mean: *unclipped* hardly at all, *leading* by a few hundredths, but by half of the
# range in single pixels. Nobody would call the images broken, and so such faults stay in the code.
#
# ### One schedule, three schedulers
#
# A *scheduler* is one step of a sampler. DDIM and 2M (`DPMSolverMultistepScheduler`) take the schedule as above. That
# of flow matching takes no betas but the times $\tau = \sigma/(a+\sigma)$ of the straight path, as in section 3. It
# wants $x$ on that path, $x_\tau = x_t/(a+\sigma)$, and the velocity $\hat\epsilon - \hat x_0$ (section 1). It knows
# one step, Euler's: $x_{\tau'} = x_\tau + (\tau' - \tau)\,(\hat\epsilon - \hat x_0)$.
#
# **Predict before you run:** with which sampler of notebook 05 will Euler's images agree?

# %%
jumps, straight = timestep_grid(T, 20), PATHS["flow"]
flow_levels = [straight.time(levels[t]) for t in jumps]
without_label = denoiser(model, diffusion)


def v_at(x_t, t):
    return model(x_t, torch.full((len(x_t),), t, device=device))


def velocity_at(x_tau, tau):
    return velocity(without_label, straight, x_tau, tau)


@torch.no_grad()
def walk(scheduler, network, x, times):
    """Images (4, 1, 28, 28) in [0, 1], from x; the network is asked at `times`."""
    for their_t, t in zip(scheduler.timesteps, times):
        x = scheduler.step(network(x, t), their_t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1).cpu()


# %%
ddim = DDIMScheduler(**in_their_words, clip_sample=False)
multistep = dict(algorithm_type="dpmsolver++", final_sigmas_type="zero")
two_m_scheduler = DPMSolverMultistepScheduler(**in_their_words, **multistep)
flow_euler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
for scheduler in (ddim, two_m_scheduler):
    scheduler.set_timesteps(20)
flow_euler.set_timesteps(sigmas=flow_levels)
x_T = normal((4, 1, 28, 28), rng(0))
x_1 = x_T / (math.sqrt(a_bar[-1]) + math.sqrt(1 - a_bar[-1]))  # on the straight path
walks = {
    "DDIM": walk(ddim, v_at, x_T, jumps),
    "2M": walk(two_m_scheduler, v_at, x_T, jumps),
    "flow matching": walk(flow_euler, velocity_at, x_1, flow_levels),
}

# %%
unclipped = dict(x_T=x_T, clip=False)
ends = {
    name: course_images(model, sampler=name, **unclipped) for name in ("ddim", "dpmpp_2m")
}
rows = {
    name: [f"{float((end - x).abs().max()):.0e}" for end in ends.values()]
    for name, x in walks.items()
}
pd.DataFrame.from_dict(rows, orient="index", columns=["from ddim", "from dpmpp_2m"])

# %%
# NBVAL_CHECK_OUTPUT
for name, sampler in {"DDIM": "ddim", "2M": "dpmpp_2m", "flow matching": "ddim"}.items():
    torch.testing.assert_close(walks[name], ends[sampler], **close)
print("three schedulers of diffusers draw the course's images")

# %% [markdown]
# Euler on the straight path *is* DDIM: both hold $\hat x_0$ and $\hat\epsilon$ fixed during a step and mix them anew
# (notebook 05). "Flow matching" and "DDIM" are two names of one sampler on two scales of $x$.

# %% [markdown]
# ## 5. Few steps · *core*
#
# **Question:** what is lost when a step is long, and can a network learn to do without the short ones?
#
# The shipped model needs about 20 evaluations. The reason is what it was trained to say: $\hat x_0$ is the *mean* of
# all the images that $x_t$ could have come from. A short step follows the mean a little way, and asks again. A step
# from pure noise to the end lands in the mean itself, and a mean of shirts is no shirt.
#
# **Predict before you run:** the upper row is the network's one-step answer. Do its ten pictures depend on the noise,
# or on the label only?

# %%
import copy
import time

from utils.device import autocast, find_precision
from utils.diffusion.distill import STOPS, distill, draw_trajectories, landing
from utils.diffusion.distill import paired_noise as theirs_paired_noise
from utils.diffusion.metrics import precision_recall
from utils.diffusion.sampling import consistency_step, ddim_step

# %%
distilled, _ = load_model(checkpoint.with_name("distilled.safetensors"), device)
jumping, _ = load_model(checkpoint.with_name("distilled-4.safetensors"), device)
print("distilled:", distilled.distilled)
print("distilled-4:", jumping.distilled)


# %%
def draw_fast(network, steps, sampler, count=10, seed=80, labels=None):
    """Images (count, 1, 28, 28) on the CPU; classes in turn if labels is None."""
    y = classes_in_turn(count) if labels is None else labels
    options = dict(y=y, seed=seed, sampler=sampler, steps=steps)
    with autocast(device, find_precision(device)):
        return generate(network, diffusion, count, **options)


# %% tags=["figure", "picture"]
shown_rows = {
    "the teacher, 1 evaluation": (model, 1, "ddim"),
    "distilled, 1 evaluation": (distilled, 1, "consistency"),
    "distilled, 4, with fresh noise": (distilled, 4, "consistency"),
    "distilled to jump, 4": (jumping, 4, "ddim"),
    "the teacher, 20": (model, 20, "dpmpp_2m"),
}
row_images = torch.cat([draw_fast(*row) for row in shown_rows.values()])
row_titles = [text for name in shown_rows for text in ["", "", name, *[""] * 7]]
finding = "The same ten noises and labels: one evaluation can do without the blur"
show_images(row_images, titles=row_titles, columns=10, scale=2, title=finding)

# %% [markdown]
# The first row is nearly the mean of each class. The next three come from the same network, trained on, in two ways
# that this section builds: the teacher draws many trajectories from noise to image once; the loss stays as it is;
# another target takes the place of the image. (Where fresh noise enters, the garments are others than the teacher's.)
#
# ### The end of the trajectory
#
# The probability-flow equation (section 2) has no noise of its own: from one $x_T$ it leads to one image. So for an
# $x_t$ *on its trajectory* the end is no mean of many. It is a function of $x_t$ and $t$, the *consistency function*
# (Song et al. 2023, section 3), and a network may learn it. The direct way to teach it: let the teacher draw many
# trajectories once, and keep some places of each and its end. (For $x_T$ alone this is the distillation of Luhman &
# Luhman 2021. Song et al. do without stored trajectories: there the student's own answer a step further is the
# target.)

# %% tags=["figure"]
fine_grid = edm_grid(200, 0.02, 10)
furthest = start_points.norm(dim=1).argmax()
one_start = 10 * start_points[furthest, None]
one_trajectory = torch.cat([one_start, *heun(blobs, PATHS["EDM"], one_start, fine_grid)])
scales = torch.tensor([math.hypot(1, level) for level in fine_grid])[:, None]
on_circle = one_trajectory / scales  # x_t, as in Play
figure, ax = plt.subplots(figsize=(5, 4.2))
ax.plot(*on_circle.T, color="grey", lw=2)
ax.plot(*blob_centres.T, "x", color="black")
for k, colour in zip((0, 60, 100, 130, 160), COLOURS):
    guess = blobs(one_trajectory[k : k + 1], fine_grid[k])[0]
    ax.plot(*on_circle[k], "o", color=colour)
    ax.annotate("", guess, on_circle[k], arrowprops=dict(arrowstyle="->", color=colour))
ax.plot(*one_trajectory[-1], "*", ms=14, color="black")
ax.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
ax.set_title("One trajectory, one end (star), five means")
plt.show()

# %% [markdown]
# The blobs of section 2. From each of five places on it the exact $D$ guesses (arrows) the mean of what may come; the
# consistency function says the star, from all of them. *A student that learns from its own answers has to say the same
# all along a trajectory. Which function does that at once, and is useless?* A constant. Song et al. forbid it by a
# boundary condition: where there is no noise, the answer is the input. With stored trajectories the end is given, and
# the question does not come up.
#
# Loss and network stay as they are. In notebook 04 an image and a noise were drawn independently, and mixed to $x_t$.
# Now $x_t$ and the image, the end, are given by the teacher. Which noise would have made this $x_t$ of this image?
# With it, the end and $t$, `diffusion.loss` can be called as ever. (That noise is not standard normal, nor independent
# of the image: this is the whole difference. The error of $v$ is that of $\hat x_0$ over $\sqrt{1-\bar\alpha_t}$, as
# ever.)
#
# ### Your turn: 08.7
#
# Solve $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ for the noise, where $x_0$ is the end.
# `hint("08.7")` and `solution("08.7")` help.


# %%
def paired_noise(x_t, end, a_bar_t):
    """The noise that makes x_t of the image `end`; shape of x_t.

    x_t, end: (B, 1, H, W). a_bar_t: alpha-bar of each image's timestep, (B, 1, 1, 1).
    """
    raise NotImplementedError


check("08.7", paired_noise)


# %%
def course_paired_noise(x_t, end, a_bar_t):
    return (x_t - a_bar_t.sqrt() * end) / (1 - a_bar_t).sqrt()


paired_noise = choose("08.7", paired_noise, course_paired_noise)

# %% [markdown]
# The teacher walks: 2M in short steps, of which eight places and the end are kept (`draw_trajectories`). Each has a
# random label, or in one of ten cases none.

# %%
trajectory_count, trajectory_steps = course.pick(
    test=(20, 8), cpu=(2000, 16), gpu=(20_000, 24)
)
trajectories = draw_trajectories(
    model, diffusion, trajectory_count, steps=trajectory_steps, seed=1
)
places = timestep_grid(T, STOPS)
print(f"{trajectory_count} trajectories, x: {tuple(trajectories.x.shape)}")
print(f"kept are t = {places}, and the end")

# %% [markdown]
# **Check:** on the trajectories themselves, against `utils`; and the noise does make $x_t$ of the end.

# %%
# NBVAL_CHECK_OUTPUT
x_t, end = trajectories.x[:8, :-1].flatten(0, 1).float(), trajectories.x[:8, -1:].float()
end = end.expand(-1, STOPS, -1, -1, -1).flatten(0, 1)
t = torch.tensor(places).repeat(8)
noise = paired_noise(x_t, end, schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1))
theirs = theirs_paired_noise(diffusion, x_t, end, t)
torch.testing.assert_close(noise, theirs, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(diffusion.q_sample(end, t, noise), x_t, rtol=1e-4, atol=1e-4)
print("the noise agrees with utils.diffusion.distill, and leads back to x_t")

# %% [markdown]
# **Predict before you run:** in notebook 04 the loss could not fall to 0, however good the network: many pairs of image
# and noise make the same $x_t$. What is its lower limit here?
#
# A short distillation, from the teacher's weights. Half of each batch begins at $x_T$, where the end is hardest to
# tell.

# %%
distill_steps = course.pick(test=3, cpu=150, gpu=1500)
student, losses = copy.deepcopy(model), []
for state in distill(
    student, diffusion, trajectories, steps=distill_steps, seed=1, device=device
):
    losses.append(state.loss)
student = state.ema_model

# %%
fresh = draw_trajectories(
    model, diffusion, course.pick(test=10, cpu=100, gpu=500), steps=24, seed=2
)


@torch.no_grad()
def distance_to_end(network):
    """How far the network's x_0 lies from the trajectory's end, at each place: (STOPS,)."""
    found = []
    for k, place in enumerate(places):
        x_t, end = (fresh.x[:, part].float().to(device) for part in (k, -1))
        t = torch.full((len(x_t),), place, device=device)
        x_0 = diffusion.to_x_0(network(x_t, t, fresh.y.to(device)), x_t, t)
        found.append((x_0.clamp(-1, 1) - end).square().mean().sqrt().item())
    return found


# %% tags=["figure"]
fig, ax = plt.subplots(figsize=(6.5, 3))
walkers = {
    "teacher": model,
    f"{distill_steps} steps of distillation": student,
    "shipped": distilled,
}
for name, network in walkers.items():
    ax.plot(places, distance_to_end(network), "o-", label=name)
ax.set(xlabel="$t$", ylabel="distance to the end", ylim=0)
ax.set_title("On trajectories not seen before, the student is nearer to the end")
ax.legend()
plt.show()

# %% [markdown]
# The distance is the root of the mean square over pixels of $[-1, 1]$. The teacher's is that of a mean to one image.
# The student's limit is 0, since the end is a function of $x_t$ (nearly: the stored trajectories are 2M's, which
# remembers a step, clips, and was kept in 16 bits). It does not get there: early on the function is so steep that a
# network of this size errs, and what it errs towards is a mean again, if of fewer images. On the trajectories that it
# was taught, the shipped student's distance at $x_T$ is half of that here ([results.md](../data/results.md)): more
# trajectories than 20,000 should help (not tried).
#
# ### Several evaluations
#
# What can more evaluations do for a network that jumps to the end at once? Put noise on its answer, up to a lower level
# $s$, and ask again (Song et al. 2023, Algorithm 1):
#
# $$x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1-\bar\alpha_s}\,z, \qquad z \sim \mathcal N(0, 1).$$
#
# It is DDIM's step (notebook 05; Song et al. 2020, eq. 12) with $\tilde\sigma$ as large as it can be: nothing of the
# old noise is kept. The student knows the eight places, so it takes 1, 2, 4 or 8 evaluations; `sample` refuses other
# numbers. On the command line the file itself says how it is sampled: `python -m utils.diffusion sample
# data/checkpoints/distilled.safetensors --steps 4`.

# %%
# NBVAL_CHECK_OUTPUT
a, z = a_bar[places[4]], torch.randn(4, 1, 28, 28, generator=rng(3))
x_s = consistency_step(None, end[:4], None, a, z)
torch.testing.assert_close(x_s, a**0.5 * end[:4] + (1 - a) ** 0.5 * z)
try:
    draw_fast(distilled, 3, "consistency")
except ValueError as error:
    print(error)

# %% [markdown]
# ### Four jumps
#
# Fresh noise throws away what was right, too. The other way to several evaluations keeps to the teacher's trajectory,
# and jumps to the next of $N$ places on it. With which $\hat x_0$ does DDIM's step from $x_t$ land on the place $x_s$?
# With that of the straight line through both:
#
# $$\hat x_0 = \frac{x_s - r\,x_t}{\sqrt{\bar\alpha_s} - r\sqrt{\bar\alpha_t}}, \qquad
# r = \frac{\sqrt{1-\bar\alpha_s}}{\sqrt{1-\bar\alpha_t}}
# \qquad\text{(Salimans \& Ho 2022, Algorithm 2).}$$
#
# At the end $r = 0$, and it is the end itself. So the loss stays, and the target is another: `distill(..., jumps=4)`.
# (In their *progressive* distillation two steps of one student become one step of the next, until one is left. Here
# all of the teacher's between two places become one, at once.) The network `distilled-4` is for four evaluations by
# DDIM and nothing else.

# %%
# NBVAL_CHECK_OUTPUT
x_t, x_s = trajectories.x[:8, 2].float(), trajectories.x[:8, 4].float()
t, s = (torch.full((8,), places[k]) for k in (2, 4))
x_0 = landing(diffusion, x_t, x_s, t, s)
landed = ddim_step(x_t, x_0, a_bar[places[2]], a_bar[places[4]], z=0)
torch.testing.assert_close(landed, x_s, rtol=1e-4, atol=1e-4)
print(f"from t = {places[2]} DDIM lands on the place at t = {places[4]}")

# %% [markdown]
# **Predict before you run:** the students beside their teacher's samplers at 1, 2, 4 and 8 evaluations: with how many
# does the teacher overtake? And which is better with four, ends or jumps?

# %%
few_count = course.pick(test=20, cpu=500, gpu=2000)
few_labels = torch.randint(10, (few_count,), generator=rng(0))
rivals = {
    "DDIM": (model, "ddim", [1, 2, 4, 8]),
    "2M": (model, "dpmpp_2m", [1, 2, 4, 5, 8, 20]),
    f"ends, {distill_steps} steps": (student, "consistency", [1, 2, 4, 8]),
    "ends, shipped": (distilled, "consistency", [1, 2, 4, 8]),
    "jumps, shipped": (jumping, "ddim", [4]),
}
few_runs = {
    (name, n): (network, n, kind)
    for name, (network, kind, numbers) in rivals.items()
    for n in numbers
}
picks = torch.randint(few_count, (100, few_count), generator=rng(0))

# %%
few_results = {}
for key, run in few_runs.items():
    began = time.perf_counter()
    images = draw_fast(*run, count=few_count, seed=0, labels=few_labels)
    spent = 1000 * (time.perf_counter() - began) / few_count
    features = quality.features(images)
    redrawn = np.array([quality.frechet(features[pick]) for pick in picks])
    few_results[key] = features, quality.frechet(features), redrawn, spent


# %%
few_table = {}
for (name, n), (_, distance, redrawn, _) in sorted(
    few_results.items(), key=lambda x: x[0][1]
):
    few_table.setdefault(f"{n}", {})[name] = f"{distance:.2f} ± {redrawn.std():.2f}"
few_floor, _ = quality.floor(few_count)
print(
    f"Frechet distance of {few_count} images ± standard error (bootstrap), by evaluations."
)
print(f"As many real images: {few_floor.mean():.2f} ± {few_floor.std():.2f}")
few_table = pd.DataFrame(few_table).reindex(rivals)
few_table.fillna("").rename_axis("sampler")

# %%
pairs = [(("jumps, shipped", 4), ("2M", 20)), (("ends, shipped", 4), ("2M", 20))]
pairs.append((("ends, shipped", 1), ("2M", 5)))
rows = {}
for ours, beside in pairs:
    ratio = few_results[ours][1] / few_results[beside][1]
    low, high = np.percentile(few_results[ours][2] / few_results[beside][2], [2.5, 97.5])
    label = f"{ours[0]}: {ours[1]}, over {beside[0]}: {beside[1]}"
    rows[label] = {"ratio": f"{ratio:.2f}", "95%": f"{low:.2f} to {high:.2f}"}
pd.DataFrame(rows).T.rename_axis("evaluations; the same draws for both")

# %% tags=["figure"]
fig, ax = plt.subplots(figsize=(6.5, 3.2))
for (name, (network, _, numbers)), colour in zip(rivals.items(), COLOURS):
    values = [few_results[name, n][1] for n in numbers]
    errors = [few_results[name, n][2].std() for n in numbers]
    style = dict(ls="--" if network is model else "-", color=colour, capsize=2)
    marker = "*" if name.startswith("jumps") else "o"
    ax.errorbar(numbers, values, errors, marker=marker, label=name, **style)
ax.axhline(few_floor.mean(), color="0.5", ls=":", label="as many real images")
ax.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="Frechet distance")
plain_ticks(ax)
numbers = [1, 2, 4, 8, 20]
ax.set_xticks(numbers, map(str, numbers))
ax.minorticks_off()
ax.set_title("Students (solid) and their teacher (dashed)")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# What does the student lose? Precision asks whether its images look real, recall whether all kinds of real images are
# there (notebook 06).

# %%
few_real = torch.randperm(len(train_set), generator=rng(1))[:few_count]
few_real = quality.features(train_set[few_real][0])
few_rows = {}
shown = [("2M", 20), ("2M", 4), ("jumps, shipped", 4)]
shown += [("ends, shipped", n) for n in (1, 2, 4, 8)]
for key in shown:
    features, distance, _, milliseconds = few_results[key]
    row = precision_recall(few_real, features, k=3)
    row = {name: row[name] for name in ("precision", "recall")}
    few_rows[key] = {"Frechet distance": distance, **row, "ms per image": milliseconds}
lost_table = pd.DataFrame.from_dict(few_rows, orient="index").round(2)
lost_table.rename_axis(["sampler", "evaluations"])

# %% [markdown]
# In one evaluation, where the teacher has a blur, the student of ends has garments; the short distillation brings most
# of that. The longer the step, the more is gained: at eight evaluations the teacher's own 2M has nearly caught up with
# the shipped student, and the short run is no longer ahead of it. From four to eight the student of ends gains
# nothing: its errors are those of the noisy places, which every trajectory begins with. The student of jumps draws its
# teacher's garments (the picture above).
#
# With one set of 500 images neither student with four is told from the teacher's twenty, nor one evaluation from 2M's
# five: look at the intervals, and a floor of about a half pulls every ratio towards 1. Four sets of 1,000
# ([results.md](../data/results.md)) tell more. The mean distances are 0.80 for jumps, 1.08 for ends with four and 0.61
# for the teacher's twenty: both students are behind it on every set. With one evaluation it is 1.93, where 2M's five
# have 2.59: the student is ahead on every set. One training each was made.
#
# **What it cost:** on one core 12 to 18 minutes for 40,000 trajectories (the ends took half of them), 960,000
# evaluations of the teacher, and 17 and 23 for the two trainings, once. Consistency training without stored
# trajectories and progressive halving were not compared. **What it lost:** recall, some of it, against the teacher's
# twenty (jumps the least); and what only a denoiser can do. The student's $\hat x_0$ is no mean any more, so 2M, DDIM
# with as many steps as one likes, a likelihood, or the way from an image to its noise cannot be had from it. Guidance
# (notebook 07) then mixes two ends, not two means: with four evaluations it works as the teacher's, with one it makes
# no image more typical ([results.md](../data/results.md)).
#
# No real image was used, and not the classifier on whose features the distance is measured: trained on the ruler, a
# student would please the ruler.

# %% [markdown]
# ## 6. A map of the field · *further*
#
# Three pieces of the wider field, whose core fits into ten lines each, and each with a case where the right answer is
# known exactly; after them comes the map.
#
# ### 6.1 Noise without numbers: masking
#
# **Question:** text, genomes and categories have no "a little noise". What is a forward process on symbols?
#
# The simplest one hides them (Austin et al. 2021, the *absorbing* process). At time $t$, from 0 to 1, each pixel of
# $x_0$ is masked with probability $t$, by itself; a masked pixel stays masked. The network sees $x_t$ and tells, for
# each masked pixel, the probabilities of its levels. It needs no $t$: what the visible pixels say about a hidden one
# does not depend on how the others came to be hidden (Ou et al. 2024).
#
# **Backwards**, from $t$ to $s < t$: a pixel that is masked at $t$ was already visible at $s$ with probability
# $(t-s)/t$. Then it is drawn from the network's probabilities. **The bound** is a cross-entropy over masked pixels:
#
# $$-\log p(x_0) \;\le\; \int_0^1 \frac1t\; \mathbb E\Big[\sum_{i\ \text{masked}}
# -\log p_\theta\big(x_0^i \mid x_t\big)\Big]\,dt
# \qquad\text{(Sahoo et al. 2024; Shi et al. 2024)}.$$
#
# Our symbols are the pixels of scikit-learn's digits, 8x8, in four levels. This part runs on the processor.

# %%
from functools import partial
from itertools import permutations

import torch.nn.functional as F
from matplotlib.colors import to_rgb
from scipy.special import beta
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from utils.diffusion.metrics import frechet_distance, gaussian_of
from utils.diffusion.sampling import ddpm_step

# %%
MASK, num_levels = -1, 4
parts = [load_images("digits"), load_images("digits", "test")]
pixels, digit_labels = (
    torch.cat(own) for own in zip(*[(part.pixels, part.labels) for part in parts])
)
shuffled = torch.randperm(len(pixels), generator=rng(0))  # the file is not in random order
digits_train, digits_test = (pixels[shuffled].long() // 64).flatten(1).split([1500, 297])


def mask_some(x_0, t, generator):
    """Each symbol of x_0 (B, N) masked with probability t, a number or (B, 1)."""
    return torch.where(torch.rand(x_0.shape, generator=generator) < t, MASK, x_0)


# %% tags=["figure"]
def as_picture(x):
    """Levels (B, 64) as colour images (B, 3, 8, 8); masked pixels are orange."""
    grey = (2 * x / (num_levels - 1) - 1)[:, None].expand(-1, 3, -1)
    orange = 2 * torch.tensor(to_rgb(COLOURS[1])).view(3, 1) - 1
    return torch.where((x == MASK)[:, None], orange, grey).view(-1, 3, 8, 8)


times = [0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1]
rows = [mask_some(digits_test[k : k + 1], t, rng(k)) for k in range(2) for t in times]
titles = [f"t = {t}" for t in times] + [""] * len(times)
finding = "The forward process: pixels vanish, one by one, into the mask (orange)"
show_images(as_picture(torch.cat(rows)), titles=titles, columns=8, title=finding)

# %% [markdown]
# #### Your turn: 08.8
#
# Write the backward step. `hint("08.8")` and `solution("08.8")` help.


# %%
def unmask_step(x_t, logits, t, s, generator):
    """From time t back to s, 0 <= s < t <= 1: some masked symbols become visible.

    x_t: (B, N) whole numbers, MASK = -1 or a level. logits: (B, N, levels), some may be
    -inf. Returns x_s like x_t. generator: for torch.rand and torch.multinomial.
    """
    raise NotImplementedError


check("08.8", unmask_step)


# %%
def course_unmask_step(x_t, logits, t, s, generator):
    chances = logits.softmax(-1).flatten(0, 1)  # one row for each symbol
    drawn = torch.multinomial(chances, 1, generator=generator).view(x_t.shape)
    shown = torch.rand(x_t.shape, generator=generator) < (t - s) / t
    return torch.where((x_t == MASK) & shown, drawn, x_t)


unmask_step = choose("08.8", unmask_step, course_unmask_step)


# %% [markdown]
# With it, all of absorbing diffusion, loss and sampler:


# %%
def masked_bound(network, x_0, generator):
    """The bound on -log p(x_0) in nats, one draw of t each: (B,)."""
    even = torch.arange(len(x_0)) / len(x_0)  # times spread evenly, with a common shift
    t = ((even + torch.rand(1, generator=generator)) % 1).clamp(min=1e-4)[:, None]
    x_t = mask_some(x_0, t, generator)
    log_p = network(x_t).log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
    return -torch.where(x_t == MASK, log_p, 0).sum(1) / t[:, 0]


@torch.no_grad()
def sample_masked(network, count, size, steps, generator):
    """(count, size) symbols in `steps` network evaluations."""
    x = torch.full((count, size), MASK)
    for t, s in pairwise(torch.linspace(1, 0, steps + 1).tolist()):
        x = unmask_step(x, network(x), t, s, generator)
    return x


# %% [markdown]
# **Where all is known.** Four pixels, black or white, with 16 probabilities made up at random. The perfect network is
# a table. Three claims can be tested: revealing one pixel a step, in any order, gives the joint exactly; the bound is
# then the *entropy*, no more; and several pixels in one step are wrong, since they are drawn without regard to each
# other.

# %%
states = torch.cartesian_prod(*[torch.arange(2)] * 4)  # (16, 4)
joint = torch.rand(16, generator=rng(0)).double() ** 3
joint /= joint.sum()


def perfect_network(x_t):
    """log p(level | visible pixels), (B, 4, 2)."""
    fits = ((x_t[:, None] == states) | (x_t[:, None] == MASK)).all(2)  # (B, 16)
    chances = fits * joint
    by_level = torch.stack([chances @ (states == k).double() for k in range(2)], dim=-1)
    return (by_level / chances.sum(1)[:, None, None]).log()


# %%
# NBVAL_CHECK_OUTPUT
def log_p_in_order(order):
    """log of the product of the conditionals, pixels revealed in that order: (16,)."""
    x, total = torch.full_like(states, MASK), 0
    for i in order:
        total = total + perfect_network(x)[torch.arange(16), i, states[:, i]]
        x[:, i] = states[:, i]
    return total


for order in permutations(range(4)):
    torch.testing.assert_close(log_p_in_order(order).exp(), joint)
print("one pixel a step: the joint exactly, in each of the 24 orders")

# %% [markdown]
# The bound, once as a sum over the 16 ways to hide pixels (a way that hides $k$ of four has the weight
# $\int_0^1 t^{k-1}(1-t)^{4-k}dt$, a Beta function), and once with `masked_bound`, the code that will train:

# %%
total = 0.0
for hidden in states[1:].bool():  # every choice of hidden pixels but none
    log_p = perfect_network(torch.where(hidden, MASK, states))
    own = log_p.gather(-1, states[..., None])[..., 0][:, hidden].sum(1)
    count = int(hidden.sum())
    total -= float(joint @ own) * beta(count, 5 - count)
many = course.pick(test=1000, cpu=200_000, gpu=200_000)
index = torch.multinomial(joint, many, replacement=True, generator=rng(1))
draws = masked_bound(perfect_network, states[index], rng(2))
error = 2 * draws.std() / len(draws) ** 0.5
values = {
    "entropy (SciPy)": f"{entropy(joint):.6f}",
    "bound, all masks": f"{total:.6f}",
    "bound, by masked_bound": f"{draws.mean():.4f} ± {error:.4f} (2 standard errors)",
}
np.testing.assert_allclose(total, entropy(joint), rtol=1e-10)
pd.DataFrame({"nats": values})

# %% [markdown]
# **Predict before you run:** the same network, sampled in $K$ = 1, 2, 4, 16 and 64 steps. The total variation is the
# share of probability that lies in the wrong place.


# %%
def total_variation(x):
    """Half the sum of |frequency - probability| over the 16 states."""
    code = (x * torch.tensor([8, 4, 2, 1])).sum(1)
    shares = torch.bincount(code, minlength=16).double() / len(x)
    return float((shares - joint).abs().sum() / 2)


white = (joint[:, None] * states).sum(0)  # each pixel's own probability
independent = torch.where(states == 1, white, 1 - white).prod(1)
rows = {"independent pixels, exactly": float((independent - joint).abs().sum() / 2)}
fewer = course.pick(test=1000, cpu=40_000, gpu=200_000)
for steps in (1, 2, 4, 16, 64):
    x = sample_masked(perfect_network, fewer, 4, steps, rng(steps))
    rows[f"K = {steps}"] = total_variation(x)
rows["draws of the joint (floor)"] = total_variation(states[index[:fewer]])
pd.DataFrame({"total variation": rows}).round(4)

# %% [markdown]
# One step has the error of independent pixels, though the network is perfect: the fault is in the sampler. More steps
# make two pixels in one step rarer, and the error falls towards the floor.
#
# **On digits.** Two layers of 512, a few seconds of training.


# %%
class Unmasker(nn.Module):
    """Logits (B, N, levels) for symbols (B, N): an MLP that sees all of them at once."""

    def __init__(self, size=64, width=512):
        super().__init__()
        wide = [nn.Linear(width, width), nn.SiLU(), nn.Dropout(0.2)]
        first = nn.Linear(size * (num_levels + 1), width)
        last = nn.Linear(width, size * num_levels)
        self.layers = nn.Sequential(first, nn.SiLU(), nn.Dropout(0.2), *wide, last)

    def forward(self, x):
        seen = F.one_hot(x + 1, num_levels + 1).float()  # the mask is a symbol of its own
        return self.layers(seen.flatten(1)).view(*x.shape, num_levels)


# %%
torch.manual_seed(0)
unmasker, generator = Unmasker(), rng(0)
steps = course.pick(test=5, cpu=1500, gpu=1500)
optimizer = torch.optim.AdamW(unmasker.parameters())
decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
for _ in tqdm(range(steps), desc="unmasker"):
    index = torch.randint(len(digits_train), (256,), generator=generator)
    loss = masked_bound(unmasker, digits_train[index], generator).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()
unmasker.eval().requires_grad_(False)
print(f"{steps} steps; last loss: {loss.item():.1f} nats per image")

# %%
repeats = course.pick(test=2, cpu=50, gpu=50)
bounds = [float(masked_bound(unmasker, digits_test, rng(k)).mean()) for k in range(repeats)]
counts = F.one_hot(digits_train, num_levels).sum(0) + 1.0
shares = counts / counts.sum(1, keepdim=True)  # (64, levels), each pixel by itself
alone = -shares.log()[torch.arange(64), digits_test].sum(1).mean()
bits = np.array([np.mean(bounds), float(alone)]) / (64 * math.log(2))
index = ["masked diffusion (bound)", "independent pixels"]
pd.DataFrame({"bits per pixel, test digits": bits}, index=index).round(3)

# %% [markdown]
# Two measures of samples: the Frechet distance (notebook 06) on 20 principal components of real digits, and the share
# that a logistic regression, trained on real digits, recognises as *some* digit with a probability above 0.9. Test
# digits give the floor of the one and the ceiling of the other.

# %%
components = PCA(20).fit(digits_train.numpy())
reader = LogisticRegression(max_iter=2000)
reader.fit(digits_train.numpy(), digit_labels[shuffled][:1500].numpy())


def in_components(x):
    return torch.from_numpy(components.transform(x.numpy()))


def judged(sets):
    """Frechet distance and recognised share of sets (B, 64): mean ± standard deviation."""
    real = gaussian_of(in_components(digits_train))
    fd = [frechet_distance(*gaussian_of(in_components(x)), *real) for x in sets]
    sure = [100 * (reader.predict_proba(x.numpy()).max(1) > 0.9).mean() for x in sets]
    return [f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in (fd, sure)]


# %%
halves_of_test = torch.randperm(len(digits_test), generator=rng(3)).chunk(2)
size, budgets = len(halves_of_test[0]), [1, 4, 16, 64]
by_steps = {
    K: [sample_masked(unmasker, size, 64, K, rng(10 + seed)) for seed in range(4)]
    for K in budgets
}
rows = {f"K = {K}": judged(sets) for K, sets in by_steps.items()}
alone = [
    torch.multinomial(shares, size, replacement=True, generator=rng(20 + seed)).T
    for seed in range(4)
]
rows["independent pixels"] = judged(alone)
rows["test digits, two halves"] = judged([digits_test[part] for part in halves_of_test])
columns = ["Frechet distance", "recognised, %"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
rows = [by_steps[K][0][:12] for K in budgets] + [digits_test[:12]]
finding = f"Top to bottom: K = {', '.join(map(str, budgets))}, and real test digits"
show_images(as_picture(torch.cat(rows)), columns=12, title=finding)

# %% [markdown]
# With one step the samples are as good as independent pixels, no better. With more steps later pixels see earlier ones,
# and strokes appear. But a pixel that has been shown is not revised any more.

# %% [markdown]
# ### 6.2 Inverse problems: a measurement and a trained prior
#
# **Question:** we measured $y = Ax + n$: fewer numbers than $x$ has, with normal noise of variance $\sigma_y^2$. Can an
# unconditional model sample $p(x \mid y)$? (In 6.2 $y$ is a measurement, not a label.)
#
# Notebook 07's Bayes rule says how: add $\nabla\log p(y \mid x_t)$ to the score. But only $p(y \mid x_0)$ is known. In
# between stands $p(x_0 \mid x_t)$, and methods differ in their guess of it:
#
# - **DPS** (Chung et al. 2022): all of it sits at $\hat x_0(x_t)$. Then $y$ has the mean $A\hat x_0$ and variance $\sigma_y^2$.
# - **ΠGDM** (Song, Vahdat et al. 2023): a normal round $\hat x_0$ of variance $1-\bar\alpha_t$, so that $y$ has the
#   covariance $(1-\bar\alpha_t)AA^\top + \sigma_y^2 I$. This is exact for data from $\mathcal N(0, I)$.
# - **True variance** (as in Peng et al. 2024): a normal with the covariance that $p(x_0 \mid x_t)$ really has. Its gradient
#   leaves out that this covariance changes with $x_t$.
#
# We compare the three guesses in one sampler, DDPM; the published samplers differ. DPS has in place of $1/\sigma_y^2$ a
# step size that is tuned for each task (its Algorithm 1), and ΠGDM takes DDIM's steps with its guidance rescaled.
#
# Where data are *one* normal, $p(x_0 \mid x_t)$ is normal, and all can be written down.
#
# #### Your turn: 08.9
#
# $x_0 \sim \mathcal N(m, \sigma_d^2 I)$ and $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$. Write
# the exact $\nabla_{x_t}\log p(y \mid x_t)$. `hint("08.9")`, `solution("08.9")`.


# %%
def normal_gradient(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    """The gradient of log p(y | x_t), (B, D), for data from N(mean, variance * I).

    x_t: (B, D). y: (B, P), y = A x_0 + n. A: (P, D). mean: (D,). The others: numbers.
    """
    raise NotImplementedError


check("08.9", normal_gradient)


# %%
def course_normal_gradient(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    signal = math.sqrt(a_bar_t)
    total = a_bar_t * variance + 1 - a_bar_t  # of each coordinate of x_t
    gain = signal * variance / total
    x_0 = mean + gain * (x_t - signal * mean)  # E[x_0 | x_t]
    left = variance * (1 - a_bar_t) / total  # the variance of x_0 given x_t
    covariance = left * A @ A.T + noise_variance * torch.eye(len(A)).to(A)
    return gain * torch.linalg.solve(covariance, (y - x_0 @ A.T).T).T @ A


normal_gradient = choose("08.9", normal_gradient, course_normal_gradient)

# %% [markdown]
# Now three normals in the plane; the first coordinate is measured, with noise. The posterior is again a mixture of
# three normals: the truth to compare with. In the exact gradient your function stands for each of them.

# %%
peaks = torch.tensor([[-0.9, -0.9], [0.8, 0.8], [0.8, -0.7]]).double()
peak_std, y_std, A = 0.35, 0.2, torch.tensor([[1.0, 0.0]]).double()


def of_each_peak(x_t, a_bar_t):
    """For each normal: E[x_0 | x_t] (B, 3, 2), log of its share in x_t (B, 3); variance."""
    total = a_bar_t * peak_std**2 + 1 - a_bar_t
    offsets = x_t[:, None] - math.sqrt(a_bar_t) * peaks
    log_share = (-offsets.square().sum(2) / (2 * total)).log_softmax(1)
    guesses = peaks + math.sqrt(a_bar_t) * peak_std**2 / total * offsets
    return guesses, log_share, peak_std**2 * (1 - a_bar_t) / total


def x_0_of_peaks(x_t, a_bar_t):
    guesses, log_share, _ = of_each_peak(x_t, a_bar_t)
    return (log_share.exp()[..., None] * guesses).sum(1)


# %%
def exact_gradient(x_t, a_bar_t, y):
    """The gradient of log p(y | x_t) of the mixture, (B, 2). y: (B, 1)."""
    guesses, log_share, left = of_each_peak(x_t, a_bar_t)
    likelihood = Normal((guesses @ A.T)[..., 0], math.sqrt(left + y_std**2)).log_prob(y)
    with_y = (log_share + likelihood).softmax(1)[..., None]  # each normal's share given y
    scores = (math.sqrt(a_bar_t) * guesses - x_t[:, None]) / (1 - a_bar_t)
    rest = peak_std**2, A, y_std**2
    own = [normal_gradient(x_t, y, a_bar_t, m, *rest) for m in peaks]
    without_y = (log_share.exp()[..., None] * scores).sum(1)
    return (with_y * (scores + torch.stack(own, dim=1))).sum(1) - without_y


def posterior(y, a_bar_t=1.0):
    """p(x_t | y) for a number y; a_bar_t = 1 is the posterior of x_0 itself."""
    variance = peak_std**2 * (A @ A.T) + y_std**2  # of y, for each normal
    gaps = y - peaks @ A.T
    means = peaks + peak_std**2 * gaps / variance @ A
    eye = torch.eye(2).double()
    covariance = peak_std**2 * eye - peak_std**4 / variance * A.T @ A
    covariance = a_bar_t * covariance + (1 - a_bar_t) * eye
    parts = MultivariateNormal(math.sqrt(a_bar_t) * means, covariance.expand(3, 2, 2))
    return MixtureSameFamily(Categorical(logits=(-(gaps**2) / (2 * variance))[:, 0]), parts)


# %%
# NBVAL_CHECK_OUTPUT
x_t = torch.randn(100, 2, generator=rng(0)).double().requires_grad_()
for t in (0, 300, 600, 900):
    log_p = posterior(0.8, a_bar[t]).log_prob(x_t).sum()
    (right,) = torch.autograd.grad(log_p, x_t)
    score = (math.sqrt(a_bar[t]) * x_0_of_peaks(x_t, a_bar[t]) - x_t) / (1 - a_bar[t])
    y = torch.full((100, 1), 0.8, dtype=torch.float64)
    torch.testing.assert_close(score + exact_gradient(x_t, a_bar[t], y), right)
print("score + exact gradient is the score of the noised posterior, by autograd")


# %% [markdown]
# The three methods in one function: they differ in one number, the variance of $A x_0$ that they assume.


# %%
def assumed(method, x_t, a_bar_t):
    """The variance of A x_0 given x_t that a method assumes: a number or (B, 1)."""
    if method != "true variance":
        return {"DPS": 0.0, "ΠGDM": 1 - a_bar_t}[method]
    guesses, log_share, left = of_each_peak(x_t, a_bar_t)
    along, share = guesses @ A.T, log_share.exp()[..., None]  # (B, 3, 1) each
    return left + (share * (along - (share * along).sum(1, keepdim=True)) ** 2).sum(1)


def assumed_gradient(method, x_t, a_bar_t, y):
    variance = assumed(method, x_t, a_bar_t) + y_std**2  # no gradient through it
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = -(y - x_0_of_peaks(x, a_bar_t) @ A.T).square() / (2 * variance)
        return torch.autograd.grad(log_p.sum(), x)[0]


# %%
noise_form = GaussianDiffusion(schedule, prediction="noise")
ys, y_seeds = [-0.6, 0.1, 0.8], 3
per_y = course.pick(test=50, cpu=1500, gpu=2000)
all_y = torch.tensor(ys, dtype=torch.float64)
all_y = all_y.repeat_interleave(y_seeds * per_y)[:, None]


def posterior_points(gradient):
    """DDPM with the guided score: points (number of y, seeds, per_y, 2)."""

    def network(x_t, t):
        a_bar_t = a_bar[int(t[0])]
        noise = x_t - math.sqrt(a_bar_t) * x_0_of_peaks(x_t, a_bar_t)
        noise = noise / math.sqrt(1 - a_bar_t)
        return noise - math.sqrt(1 - a_bar_t) * gradient(x_t, a_bar_t, all_y)

    x_T = torch.randn(len(all_y), 2, generator=rng(0)).double()
    options = dict(steps=course.pick(test=5, cpu=250, gpu=1000), clip=False, x_T=x_T)
    *_, last = sample(network, noise_form, x_T.shape, generator=rng(1), **options)
    return last.x_t.view(len(ys), y_seeds, per_y, 2)


# %% [markdown]
# Measured: the sliced Wasserstein distance of notebook 07, the mean gap of the sorted projections, over 50 directions;
# and, with each point given to the nearest peak, the shares of the peaks and the standard deviation of $Ax$ within a
# peak.
#
# **Predict before you run:** DPS leaves out a variance, ΠGDM puts in one. Which error can be seen in the picture, and
# does the true variance repair it?

# %%
methods = {"exact gradient": exact_gradient}
for name in ("DPS", "ΠGDM", "true variance"):
    methods[name] = partial(assumed_gradient, name)
found = {name: posterior_points(gradient) for name, gradient in methods.items()}
torch.manual_seed(0)  # torch.distributions draws from torch's own stream
truth, again = (
    torch.stack([posterior(y).sample((y_seeds, per_y)) for y in ys]) for _ in range(2)
)
found["two exact sets (floor)"] = again

# %%
angles = torch.linspace(0, math.pi, 51)[:-1].double()
axes_round = torch.stack([angles.cos(), angles.sin()])  # (2, 50)


def sliced_distance(a, b):
    a, b = ((points @ axes_round).sort(-2).values for points in (a, b))
    return (a - b).abs().mean((-2, -1))


def by_peak(points):
    """Shares of the peaks (..., 3), and the standard deviation of A x within one (...)."""
    nearest = F.one_hot(torch.cdist(points, peaks).argmin(-1), 3).double()
    shares, first = nearest.mean(-2), points[..., :1]
    centres = (nearest * first).sum(-2) / nearest.sum(-2).clamp(min=1)
    own = (nearest * centres[..., None, :]).sum(-1)
    return shares, (first[..., 0] - own).square().mean(-1).sqrt()


# %%
true_shares, true_std = by_peak(truth)
rows = {}
for name, points in found.items():
    gaps = sliced_distance(points, truth).numpy()  # (number of y, seeds)
    cells = [f"{v.mean():.3f} ± {v.std(ddof=1):.3f}" for v in gaps]
    shares, std = by_peak(points)
    wrong = (shares.mean(1) - true_shares.mean(1)).abs().sum(-1).mean() / 2
    of_peaks = " ".join(f"{share:.2f}" for share in shares[1].mean(0))
    rows[name] = [*cells, of_peaks, f"{wrong:.3f}", f"{(std / true_std).mean():.2f}"]
columns = [f"y = {y}" for y in ys] + [f"peaks at y = {ys[1]}", "peaks, total variation"]
print(f"distance to the exact set, mean ± standard deviation of {y_seeds} seeds")
pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "std within, ratio"])

# %% tags=["figure"]
figure, panels = plt.subplots(1, 4, figsize=(11, 3.2), sharex=True, sharey=True)
grid_side = torch.linspace(-2, 2, 120).double()
plane = torch.cartesian_prod(grid_side, grid_side)
density = posterior(ys[1]).log_prob(plane).exp().view(120, 120)
for ax, (name, points) in zip(panels, found.items()):
    ax.plot(*points[1, 0, :800].T, ".", ms=2, color=COLOURS[0], alpha=0.5)
    heights = [float(density.max()) * share for share in (0.05, 0.3, 0.8)]
    ax.contour(grid_side, grid_side, density.T, heights, colors="black", linewidths=1)
    ax.axvline(ys[1], ls=":", color=COLOURS[1])
    ax.set(xlim=(-2, 2), ylim=(-2, 2), title=name, xlabel="first coordinate, measured")
    ax.set_aspect("equal")
panels[0].set_ylabel("second coordinate")
finding = f"Points: samples for y = {ys[1]} (dotted). Contours: the exact posterior\n"
figure.suptitle(finding, x=0.01, ha="left")
plt.show()

# %% [markdown]
# The exact gradient comes within the seeds' spread of the floor, or nearly, so the sampler is right and its row is
# the one to judge the others by: what they lack is their guess of $p(x_0 \mid x_t)$. None of the three comes as near
# for all three measurements. DPS believes the measurement more than it should: within a peak its samples lie too
# close together, and its shares of the peaks are the worst. At $y = -0.6$, where one peak holds nearly all, it is
# nonetheless the best of the three. The other two have about the right width within a peak (last column), and are
# near at $y = 0.8$. At the other two they are not; for $y = 0.1$ the table shows that the *shares* are wrong. They
# are decided at high noise, where $p(x_0 \mid x_t)$ has several peaks and no normal fits, the one with the true
# variance neither. So these samplers give points that agree with the measurement, which is not yet the right
# uncertainty.
#
# **On images:** ΠGDM with the shipped network, no label. $A$ averages blocks of 4x4 pixels, so $AA^\top = I/16$: of 784
# pixels 49 numbers are left. (`sample` clips $\hat x_0$ to $[-1, 1]$ here, as it does by default.)

# %%
block, image_y_std = 4, 0.05
few_images, draws_each = course.pick(test=(1, 2), cpu=(8, 4), gpu=(16, 8))
sharp = test_set[:few_images][0].to(device)
measured = F.avg_pool2d(sharp, block)
measured = measured + image_y_std * normal(measured.shape, rng(40))
repeated = measured.repeat(draws_each, 1, 1, 1)


def by_pigdm(x_t, t):
    """The noise of the score that is guided by the measurement, for `noise_form`."""
    a_bar_t = a_bar[int(t[0])]
    variance = (1 - a_bar_t) / block**2 + image_y_std**2
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        output = model(x, t)
        gap = repeated - F.avg_pool2d(diffusion.to_x_0(output, x, t), block)
        gradient = torch.autograd.grad(-gap.square().sum() / (2 * variance), x)[0]
    noise = diffusion.to_noise(output.detach(), x_t, t)
    return noise - math.sqrt(1 - a_bar_t) * gradient


# %%
x_T = normal((len(repeated), 1, 28, 28), rng(41))
options = dict(sampler="ddpm", steps=course.pick(test=2, cpu=50, gpu=250), x_T=x_T)
*_, last = sample(by_pigdm, noise_form, x_T.shape, generator=rng(42), **options)
drawn = last.x_t.clamp(-1, 1).view(draws_each, few_images, 1, 28, 28)
results = {
    "pixels repeated": F.interpolate(measured, scale_factor=block)[None],
    "bicubic": F.interpolate(measured, scale_factor=block, mode="bicubic")[None],
    "one sample": drawn,
    f"mean of {draws_each} samples": drawn.mean(0, keepdim=True),
}
rows = {}
for name, images in results.items():
    error = (images - sharp).square().mean((2, 3, 4)).sqrt().mean()
    pooled = F.avg_pool2d(images.flatten(0, 1), block).unflatten(0, images.shape[:2])
    misfit = (pooled - measured).square().mean((2, 3, 4)).sqrt().mean()
    rows[name] = [float(error), float(misfit)]
columns = ["root mean square error", f"misfit to y (its noise: {image_y_std})"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(3)

# %% tags=["figure"]
small = results["pixels repeated"][0]
rows = torch.cat([sharp, small, drawn[0], drawn[1], drawn.mean(0)]).cpu()
finding = f"Top to bottom: true, measured, two samples, mean of {draws_each}"
show_images(rows, columns=few_images, title=finding)

# %% [markdown]
# Where the samples differ from each other is what the measurement does not tell. By squared error their mean is never
# worse than one of them on average, but it is smoother than any garment. And nothing asks for a *linear* $A$: any loss
# of $\hat x_0$ in the place of $-\log p(y\mid\hat x_0)$ pulls the samples, and the classifier of notebook 07 was such
# a loss.
#
# ### 6.3 RePaint: why inpainting goes back
#
# **Question:** notebook 05 filled in half an image by putting the known pixels back after every step. Does that sample
# the right distribution?
#
# RePaint (Lugmayr et al. 2022, Algorithm 1) repeats each step: having come from $t$ to $s$ and put the known pixels
# back, it adds noise up to $t$ again (exercise 05.5), so that the invented pixels can follow the known ones.
#
# #### Your turn: 08.10
#
# Write one step with its repeats. `ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z)` is that of notebook 05.
# `hint("08.10")`, `solution("08.10")`.


# %%
def repaint_step(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    """From x_t to x_s, where the pixels under the mask are known; `repeats` evaluations.

    guess: called as guess(x_t), estimates x_0. known: like x_t; mask: bool, of its shape.
    noise: called as noise(), gives standard normal noise like x_t, new at every call.
    """
    raise NotImplementedError


check("08.10", repaint_step)


# %%
def course_repaint_step(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    for repeat in range(repeats):
        x_s = ddpm_step(x_t, guess(x_t), a_bar_t, a_bar_s, noise())
        noisy = math.sqrt(a_bar_s) * known + math.sqrt(1 - a_bar_s) * noise()
        x_s = torch.where(mask, noisy, x_s)
        if repeat < repeats - 1:
            alpha = a_bar_t / a_bar_s
            x_t = math.sqrt(alpha) * x_s + math.sqrt(1 - alpha) * noise()
    return x_s


repaint_step = choose("08.10", repaint_step, course_repaint_step)


# %%
def repaint(guess_at, known, mask, steps, repeats, seed):
    """steps * repeats evaluations; guess_at: called as guess_at(t, x_t)."""
    generator = rng(seed)

    def noise():
        return torch.randn(known.shape, generator=generator).to(known)

    x_t, mask = noise(), mask.expand(known.shape)
    for t, s in pairwise([*timestep_grid(T, steps), -1]):
        a_bar_s = a_bar[s] if s >= 0 else 1.0
        guess = partial(guess_at, t)
        x_t = repaint_step(x_t, guess, a_bar[t], a_bar_s, known, mask, repeats, noise)
    return x_t


# %% [markdown]
# **Where all is known:** the three normals again, with the first coordinate known to be 0.8, without noise. Repeats are
# paid for with fewer steps, at the same number of evaluations, or with more evaluations.
#
# **Predict before you run:** at the same cost, do more and more repeats keep helping?

# %%
known_first = torch.tensor([0.8, 0.0]).double()
is_known = torch.tensor([True, False])
first_gaps = known_first[0] - peaks[:, 0]
shares_of_peaks = (-(first_gaps**2) / (2 * peak_std**2)).softmax(0)


def exact_second(count, seed):
    """Draws of p(x_2 | x_1), (count,)."""
    generator = rng(seed)
    kind = torch.multinomial(shares_of_peaks, count, replacement=True, generator=generator)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return peaks[kind, 1] + peak_std * noise


def guess_of_peaks(t, x_t):
    return x_0_of_peaks(x_t, a_bar[t])


# %%
filled_count = course.pick(test=50, cpu=4000, gpu=5000)
known_plane = known_first.expand(filled_count, 2)
most = course.pick(test=4, cpu=200, gpu=200)  # evaluations, or twice the steps
times_each = course.pick(test=[1, 2], cpu=[1, 2, 5, 10], gpu=[1, 2, 5, 10])
settings = {
    f"{most} evaluations": [(most // n, n) for n in times_each],
    f"{most // 2} steps": [(most // 2, n) for n in times_each],
}
reference = exact_second(50_000, seed=0)
exact_sets = [exact_second(filled_count, seed) for seed in range(1, 4)]
floor = [wasserstein_distance(one, reference) for one in exact_sets]
gaps, example = {}, {}
for steps, repeats in tqdm({pair for pairs in settings.values() for pair in pairs}):
    runs = []
    for seed in range(3):
        options = dict(steps=steps, repeats=repeats, seed=50 + seed)
        runs.append(repaint(guess_of_peaks, known_plane, is_known, **options)[:, 1])
    gaps[steps, repeats] = [wasserstein_distance(run, reference) for run in runs]
    example[steps, repeats] = runs[0]

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
for (name, pairs), style in zip(settings.items(), ["o-", "s--"]):
    values = np.array([gaps[pair] for pair in pairs])
    repeats = [pair[1] for pair in pairs]
    bars = values.std(1, ddof=1)
    left.errorbar(repeats, values.mean(1), bars, fmt=style, capsize=3, label=name)
left.axhline(np.mean(floor), color="grey", lw=1, label="exact draws (floor)")
left.set(xscale="log", xlabel="repeats of each step", ylabel="Wasserstein distance")
left.set_xticks(times_each, [str(n) for n in times_each])
left.minorticks_off()
left.set_ylim(bottom=0)
left.set_title("Repeats bring the samples nearer")
right.set_title("One of three seeds")
left.legend(fontsize=8)
shown = {(most // 2, n): example[most // 2, n] for n in (times_each[0], times_each[-1])}
bins = np.linspace(-2, 2, 50)
right.hist(reference, bins=bins, density=True, color="lightgrey", label="exact")
for (steps, repeats), values in shown.items():
    look = dict(histtype="step", label=f"{steps} steps, {repeats} each")
    right.hist(values, bins=bins, density=True, lw=1.8, **look)
right.set(xlabel="second coordinate, given the first", ylabel="density", ylim=(0, 1))
right.legend(fontsize=8)
plt.show()

# %%
rows = {name: [gaps[pair] for pair in pairs] for name, pairs in settings.items()}
rows = {
    name: [f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}" for v in values]
    for name, values in rows.items()
}
print(f"Wasserstein distance, 3 seeds; exact draws: {np.mean(floor):.3f}")
columns = [f"{n} each" for n in times_each]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# Without repeats the samples are wrong although the score is perfect: too many lie low, on the side of the normal that
# the known coordinate rules out. At every step the invented coordinate met a known one that had been noised afresh,
# independently of it. Repeats bring the samples nearer to the exact law (bars: standard deviation of three seeds). At a
# fixed number of evaluations (first row) they take steps away, coarse steps have an error of their own, and the gain
# stops; with more evaluations the samples come nearer. (Even endless repeats would not settle on the exact law: of the
# known part a reverse step sees only a noised copy, drawn independently of the invented one.)
#
# **On images.** The left half known, no label, the same number of evaluations each way.
#
# **Predict before you run:** do the repeats make the jump at the border smaller?


# %%
@torch.no_grad()
def guess_of_model(t, x_t):
    ts = torch.full((len(x_t),), t, device=x_t.device)
    return diffusion.to_x_0(model(x_t, ts), x_t, ts).clamp(-1, 1)


half_count = course.pick(test=4, cpu=100, gpu=500)
half_images, half_labels = test_set[200 : 200 + half_count]
half_mask = torch.zeros(1, 1, 28, 28, dtype=torch.bool, device=device)
half_mask[..., :14] = True
half_settings = course.pick(
    test=[(2, 1), (1, 2)],
    cpu=[(60, 1), (20, 3), (10, 6)],
    gpu=[(240, 1), (60, 4), (24, 10)],
)
halves = {"real images": half_images}
print(f"evaluations: {', '.join(str(steps * repeats) for steps, repeats in half_settings)}")
for steps, repeats in tqdm(half_settings):
    options = dict(mask=half_mask, steps=steps, repeats=repeats, seed=60)
    filled = repaint(guess_of_model, half_images.to(device), **options)
    halves[f"{steps} steps, {repeats} each"] = filled.clamp(-1, 1).cpu()


# %%
def measures_of(images):
    """For each image: the jump at the border, and whether its class is recognised."""
    jumps = (images[..., 14] - images[..., 13]).abs().mean((1, 2))
    with torch.no_grad():
        right = quality.classifier(images).argmax(1) == half_labels
    return torch.stack([jumps.double(), 100 * right.double()])


def with_error(values):
    return f"{values.mean():.3g} ± {1.96 * values.std() / len(values) ** 0.5:.2g}"


plain = measures_of(halves[list(halves)[1]])
rows = {}
for name, images in halves.items():
    own = measures_of(images)
    rows[name] = [*map(with_error, own), *map(with_error, own - plain)]
columns = ["jump at the border", "class right, %", "jump minus plain", "class minus plain"]
print(f"{half_count} images; ± is half of a 95% interval; plain: each step once")
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
masked = torch.where(half_mask.cpu(), half_images, torch.zeros_like(half_images))[:10]
rows = torch.cat([masked, *[images[:10] for images in halves.values()]])
finding = f"Given the left half. Top to bottom: known;\n{'; '.join(halves)}"
show_images(rows, columns=min(10, half_count), scale=2, title=finding)

# %% [markdown]
# The columns "minus plain" compare the same images: where an interval holds 0, nothing can be told from chance with so
# few. The first row says how large a jump is natural at that place and how often the classifier knows a whole image.
# With repeats the jump at the border is smaller, about as small as it is in nature; the class is not told apart. More
# repeats are fewer, longer steps here, so not all of the change need come from the repeats.

# %% [markdown]
# ### 6.4 The map
#
# What each family changes against notebooks 01 to 05, papers to begin with, and public code.
#
# | family | what changes | papers | code | nearest here |
# | --- | --- | --- | --- | --- |
# | discrete data | noise replaces or masks symbols, and the network tells probabilities of symbols | Austin et al. 2021, [2107.03006](https://arxiv.org/abs/2107.03006); Sahoo et al. 2024, [2406.07524](https://arxiv.org/abs/2406.07524) | [kuleshov-group/mdlm](https://github.com/kuleshov-group/mdlm) | 6.1 |
# | latent diffusion | an autoencoder makes images small first, and the same process runs on its codes | Rombach et al. 2021, [2112.10752](https://arxiv.org/abs/2112.10752) | [CompVis/latent-diffusion](https://github.com/CompVis/latent-diffusion) | 15 |
# | text to image | the label becomes a sentence: a text encoder's words are read by cross-attention, and guidance is that of 07 | Saharia et al. 2022 (Imagen), [2205.11487](https://arxiv.org/abs/2205.11487); Esser et al. 2024 (SD3, flow matching), [2403.03206](https://arxiv.org/abs/2403.03206) | [huggingface/diffusers](https://github.com/huggingface/diffusers) | 15 |
# | diffusion Transformers | patches and attention take the place of the U-Net; timestep and label scale the norms | Peebles & Xie 2022, [2212.09748](https://arxiv.org/abs/2212.09748) | [facebookresearch/DiT](https://github.com/facebookresearch/DiT) | 15 |
# | consistency models | the network tells the end of the ODE's path from any point on it, so that one evaluation can do | Song, Dhariwal et al. 2023, [2303.01469](https://arxiv.org/abs/2303.01469) | [openai/consistency_models](https://github.com/openai/consistency_models) | section 5 |
# | flows and bridges | a path joins two sets of samples, neither of which must be noise, and the network learns its velocity | Lipman et al. 2023, [2210.02747](https://arxiv.org/abs/2210.02747); De Bortoli et al. 2021, [2106.01357](https://arxiv.org/abs/2106.01357); Albergo et al. 2023, [2303.08797](https://arxiv.org/abs/2303.08797) | [atong01/conditional-flow-matching](https://github.com/atong01/conditional-flow-matching) | sections 1, 2 |
# | inverse problems | the network stays as it is, and every step of the sampler is pulled towards a measurement | Chung et al. 2022, [2209.14687](https://arxiv.org/abs/2209.14687); Lugmayr et al. 2022, [2201.09865](https://arxiv.org/abs/2201.09865) | [DPS2022/diffusion-posterior-sampling](https://github.com/DPS2022/diffusion-posterior-sampling) | 6.2, 6.3, 07 |
# | control | a copy of the encoder reads edges or poses and adds to the frozen network through layers that start at zero | Zhang et al. 2023, [2302.05543](https://arxiv.org/abs/2302.05543) | [lllyasviel/ControlNet](https://github.com/lllyasviel/ControlNet) | 03, 07 |
# | language | a Transformer fills in masked words in any order, in place of the next word only (LLaDA); or normal noise is put on the words' embeddings (Diffusion-LM) | Nie et al. 2025 (LLaDA), [2502.09992](https://arxiv.org/abs/2502.09992); Li et al. 2022 (Diffusion-LM), [2205.14217](https://arxiv.org/abs/2205.14217) | [ML-GSAI/LLaDA](https://github.com/ML-GSAI/LLaDA) | 6.1 |
# | audio | one dimension in place of two: dilated convolutions on the waveform, told a spectrogram | Kong et al. 2020, [2009.09761](https://arxiv.org/abs/2009.09761) | [lmnt-com/diffwave](https://github.com/lmnt-com/diffwave) | 03 |
# | video | one axis more: the U-Net also attends from frame to frame | Ho et al. 2022, [2204.03458](https://arxiv.org/abs/2204.03458) | [lucidrains/video-diffusion-pytorch](https://github.com/lucidrains/video-diffusion-pytorch) | 03 |
# | molecules | $x_0$ is a cloud of atoms, and the network turns its answer when the cloud is turned | Hoogeboom et al. 2022, [2203.17003](https://arxiv.org/abs/2203.17003); Xu et al. 2022 (GeoDiff), [2203.02923](https://arxiv.org/abs/2203.02923) | [ehoogeboom/e3_diffusion_for_molecules](https://github.com/ehoogeboom/e3_diffusion_for_molecules) | 01, 03 |
# | protein design | each residue is a place and a rotation, and rotations need a noise of their own | Yim et al. 2023 (FrameDiff), [2302.02277](https://arxiv.org/abs/2302.02277); Watson et al. 2023 (RFdiffusion), *Nature* 620 | [RosettaCommons/RFdiffusion](https://github.com/RosettaCommons/RFdiffusion) | 01, 07 |
# | structure prediction | AlphaFold 3's last part is a diffusion model of atom positions, told what the rest found in the sequence | Abramson et al. 2024, *Nature* 630 | [google-deepmind/alphafold3](https://github.com/google-deepmind/alphafold3) (weights on request) | 07 |
# | policies | $x_0$ is a short run of a robot's actions, and the label is what its cameras see | Chi et al. 2023, [2303.04137](https://arxiv.org/abs/2303.04137) | [real-stanford/diffusion_policy](https://github.com/real-stanford/diffusion_policy) | 07 |
# | medical images | three dimensions, drawn for a given segmentation (Med-DDPM), or a scan from too few measurements as an inverse problem | Dorjsembe et al. 2023, [2305.18453](https://arxiv.org/abs/2305.18453); Chung & Ye 2021, [2110.05243](https://arxiv.org/abs/2110.05243) | [mobaidoctor/med-ddpm](https://github.com/mobaidoctor/med-ddpm), [HJ-harry/score-MRI](https://github.com/HJ-harry/score-MRI) | 03, 6.2 |
# | cells and genomes | $x_0$ is the code of a cell's gene counts, or DNA letters with a noise that keeps them probabilities | Luo et al. 2024 (scDiffusion), [2401.03968](https://arxiv.org/abs/2401.03968); Avdeyev et al. 2023, [2305.10699](https://arxiv.org/abs/2305.10699) | [EperLuo/scDiffusion](https://github.com/EperLuo/scDiffusion), [jzhoulab/ddsm](https://github.com/jzhoulab/ddsm) | 04, 6.1 |
#
# Read down the second column and mark which of process, network, loss and sampler each row changes. The training loop
# of notebook 00 stays.
#
# *References of this section that are not in the map:* Shi et al. 2024, *Simplified and Generalized Masked Diffusion
# for Discrete Data*, arXiv 2406.04329; Ou et al. 2024, *Your Absorbing Discrete Diffusion Secretly Models the
# Conditional Distributions of Clean Data*, arXiv 2406.03736; Song, Vahdat, Mardani, Kautz 2023, *Pseudoinverse-Guided
# Diffusion Models for Inverse Problems*, ICLR; Peng et al. 2024, *Improving Diffusion Models for Inverse Problems Using
# Optimal Posterior Covariance*, arXiv 2402.02149.

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $a(t)$, $\sigma(t)$ | `signal`, `sigma` | weights of image and noise along a path, $x = a\,x_0 + \sigma\,\epsilon$ |
# | $\bar\sigma = \sigma/a$ | `sigma_bar` | noise level, EDM's $\sigma$; the log-SNR is $-2\log\bar\sigma$ |
# | $\bar x = x/a$ | `x_bar` | the image in EDM's variables |
# | $D(\bar x; \bar\sigma)$ | `denoise` | the estimate $\hat x_0$ |
# | $u = dx/dt$ | `velocity` | $a'\hat x_0 + \sigma'\hat\epsilon$, the velocity field |
# | $c_\text{skip}, c_\text{out}, c_\text{in}$ | `preconditioning` | EDM's wrapping; with $\sigma_d = 1$ it is $v$-prediction, $F = -v$ |
# | $\zeta$ | `strength` | noise on the way: 0 the ODE, 1 the reverse SDE |
# | $N$, order | `budget` | an error of order $k$ falls like $N^{-k}$ |
# | $\ell$ | `log_snr` | $\log(a^2/\sigma^2)$, twice the $\lambda$ of notebook 05 |
# | $\tau$ | `tau` | a clock from 0 to 1, drawn uniformly where nothing else is said |
# | $p(\ell)$, $w(\ell)$ | `density`, `weight` | how often a log-SNR is drawn; what the noise's squared error counts |
# | $W = w\,p$ | | the effective weight: all that decides what a loss minimises |
#
# 1. Paths that pass the same noise level hold the same image up to a scale, so one network serves DDPM, EDM and flow
#    matching, and DDIM is Euler's method of the latter two.
# 2. What differs is where a loss looks, as a weight over noise levels, and how a solver steps; and the choices can be
#    measured at equal cost.
# 3. Few steps need another network, trained to jump where its teacher walks.
#
# **Next:** the second track begins with [09 · Biomedical NER](09_biomedical_ner.ipynb).
#
# **References**
#
# - Karras et al. 2022, *Elucidating the Design Space of Diffusion-Based Generative Models*, arXiv 2206.00364, eq. 4, 5,
#   7, Table 1, Algorithm 1, Appendices B.6, C.3
# - Lipman et al. 2023, *Flow Matching for Generative Modeling*, arXiv 2210.02747, section 4
# - Liu et al. 2023, *Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow*, arXiv
#   2209.03003, section 2
# - Song et al. 2021, *Score-Based Generative Modeling through Stochastic Differential Equations*, arXiv 2011.13456,
#   section 4.3, Appendix C
# - Salimans & Ho 2022, *Progressive Distillation for Fast Sampling of Diffusion Models*, arXiv 2202.00512, section 4,
#   Algorithm 2, Appendix D
# - Song, Dhariwal, Chen & Sutskever 2023, *Consistency Models*, arXiv 2303.01469, Algorithm 1 (the "Song et al. 2023" of
#   section 5; ΠGDM, of the same year, is in section 6)
# - Luhman & Luhman 2021, *Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed*, arXiv
#   2101.02388
# - Kingma & Gao 2023, *Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation*, arXiv 2303.00848,
#   sections 3 and 4, Table 1
# - Hang et al. 2023, *Efficient Diffusion Training via Min-SNR Weighting Strategy*, arXiv 2303.09556, section 3
# - Esser et al. 2024, *Scaling Rectified Flow Transformers for High-Resolution Image Synthesis*, arXiv 2403.03206,
#   section 3.1
# - Hoogeboom et al. 2024, *Simpler Diffusion (SiD2)*, arXiv 2410.19324
# - Song, Meng & Ermon 2020, *Denoising Diffusion Implicit Models*, arXiv 2010.02502, eq. 12 to 14
# - Lu et al. 2022, *DPM-Solver++*, arXiv 2211.01095, Algorithm 2
# - Nichol & Dhariwal 2021, *Improved Denoising Diffusion Probabilistic Models*, arXiv 2102.09672, eq. 17
# - Ho et al. 2020, *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239, eq. 4
