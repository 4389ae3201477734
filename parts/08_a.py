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
# ![Rows of garments drawn by the distilled model with 1, 2 and 4 evaluations beside its teacher with
# 20](../data/pictures/08.png)
#
# *One network, five names, and in the end a pupil that needs four looks where its teacher took twenty.*
#
# DDPM, score matching, EDM, flow matching: the papers differ in letters, signs and times. This notebook shows that the
# network of this course is all of them at once, and that what remains of the difference is which noise levels a loss
# counts, and how a solver steps.
#
# **At the end you have** the shipped model as an EDM denoiser, a score and a velocity field, by algebra that you wrote;
# Heun's method with its order measured; each training objective as a weight over noise levels; the way to diffusers and
# back; a model that draws in four evaluations; and a map of the field beyond images.
#
# **You need** Python, basic PyTorch, and derivatives. Samplers come from notebook 05, the Frechet distance from 05 and
# 06. Trained networks lie in `data/checkpoints`.
#
# **Time:** about five minutes on two cores. For you: 25 minutes of reading for the *core*, and half an hour for your
# pieces.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy.integrate import solve_ivp
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, plain_ticks, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import ImageQuality, load_images, load_model, sample
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
names = [name.split("/")[0] for name in train_set.classes]  # "T-shirt/top" is long
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
rows = {}
for t in (20, 500, 980):
    *_, (_, _, _, by_velocity) = five = five_forms(t)
    for paper, form, values, found in five:
        row = rows.setdefault((paper, form), {})
        row[f"std at t = {t}"] = float(values.std())
        gap = float((found - by_velocity).abs().max())
        row["x_0 differs"] = max(gap, row.get("x_0 differs", 0.0))
forms_table = pd.DataFrame.from_dict(rows, orient="index")
forms_table.rename_axis(["paper", "what the network tells"]).round(5)

# %% [markdown]
# All give one $\hat x_0$, up to rounding. Only the score grows, towards no noise; the others stay bounded. But bounded
# is not enough: from the noise, $\hat x_0$ is found by dividing by $\sqrt{\bar\alpha_t}$, which is nearly 0 at the noisy
# end and magnifies an error (notebook 05, section 3).

# %% [markdown]
# ## 1. One line, many names · *core*
#
# **Question:** what is different between the papers, if not the network?
#
# They all mix an image and noise, with two functions of a time:
#
# $$x = a(t)\,x_0 + s(t)\,\epsilon .$$
#
# | path | signal $a(t)$ | noise $s(t)$ | from |
# | --- | --- | --- | --- |
# | variance preserving, VP | $\cos(\pi t/2)$ | $\sin(\pi t/2)$ | Ho et al. 2020; cosine: Nichol & Dhariwal 2021 |
# | variance exploding, VE | $1$ | $0.01 \cdot 5000^t$ | Song et al. 2021, Appendix C |
# | EDM | $1$ | $t$ | Karras et al. 2022, Table 1 |
# | flow matching, rectified flow | $1-t$ | $t$ | Lipman et al. 2023; Liu et al. 2023 |
#
# (Their flow runs the other way, noise at $t = 0$; here $t$ grows with the noise in all of them.)

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
middle.set(xlabel="t", ylabel="noise s(t)", ylim=(0, 1.5), title="Noise")
right.set(xlabel="signal", ylabel="noise", xlim=(0, 1.1), ylim=(0, 1.5))
right.set_title("On one ray: one image")
left.legend(fontsize=8)
plt.show()

# %% [markdown]
# Look at the right panel. On one ray from the corner the noise level $\bar\sigma = s/a$ is the same, and so is the
# log-SNR, $-2\log\bar\sigma$. The points on it differ by a factor only, for $x/a = x_0 + \bar\sigma\,\epsilon$. So a
# network of one path answers for all: scale $x$ onto the quarter circle, where the squares of the weights add to 1, and
# ask. (VE lies on EDM's line, and goes along it at another speed.)
#
# What does a sampler need? The slope of $x$ along its path, with the network's estimates in place of what is unknown:
#
# $$\frac{dx}{dt} = a'(t)\,\hat x_0 + s'(t)\,\hat\epsilon .$$
#
# That is the *velocity field* of flow matching (Lipman et al. 2023), and the probability-flow ODE of notebook 05 (there
# only for $a = 1$, $s = \bar\sigma$; Karras et al. 2022, eq. 4, has all).
#
# ### Your turn: 08.1
#
# Write it, for any path, from what a $v$-network says. `hint("08.1")` and `solution("08.1")` help. You may also go on:
# the next cell has the course's version, and uses yours if it is right.


# %%
def velocity_from_v(x, v, signal, sigma, signal_slope, sigma_slope):
    """dx/dt at a point of any path; like x.

    x: (B, C, H, W), signal * x_0 + sigma * noise. v: of that shape, what the network says at
    x / sqrt(signal**2 + sigma**2), its point of the same noise level. The rest: numbers, the
    path's weights and their derivatives.
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
# Now three samplers with 20 evaluations at the same noise levels. DDIM of notebook 05, in $(x_t, t)$; Euler's method,
# $x \leftarrow x + (s - t)\,dx/dt$, in EDM's $(\bar x, \bar\sigma)$; Euler's in flow matching's $(x, t)$. And Euler's in
# VP's and VE's own times. All start from one noise, scaled to the path, and end with one last $\hat x_0$.
#
# **Predict before you run:** which of them draw the same images?

# %%
same_steps, y = course.pick(test=3, cpu=20, gpu=20), classes_in_turn(8)
denoise, start_noise = denoiser(model, diffusion, y), normal((8, 1, 28, 28), rng(3))
if (
    device.type != "mps"
):  # which has no float64; sigma_bar is 20,000 at first, so digits count
    start_noise = start_noise.double()
level_grid = [levels[t] for t in timestep_grid(T, same_steps)]


@torch.no_grad()
def euler_along(path):
    """Images by Euler's method in the path's own time, at the levels of `level_grid`."""
    times = [path.time(level) for level in level_grid]
    begin = start_noise * math.hypot(*path.at(times[0])[:2])
    *_, x = euler(denoise, path, begin, times)
    return denoise(x / path.at(times[-1])[0], level_grid[-1])


options = dict(sampler="ddim", steps=same_steps, clip=False, y=y, x_T=start_noise)
*_, last = sample(model, diffusion, start_noise.shape, **options)
by_way = {"DDIM, `sample`": last.x_t}
by_way |= {
    f"Euler, {name}": euler_along(PATHS[name]) for name in ("EDM", "flow", "VP", "VE")
}

# %%
rows = {}
for way, images in by_way.items():
    gap = images - by_way["DDIM, `sample`"]
    rows[way] = [float(gap.square().mean().sqrt()), float(gap.abs().max())]
for way in ("Euler, EDM", "Euler, flow"):
    assert rows[way][1] < 1e-4
columns = ["root mean square", "largest"]
print(f"difference from DDIM, {same_steps} evaluations, the same noise and levels")
pd.DataFrame.from_dict(rows, orient="index", columns=columns).map("{:.1e}".format)

# %% tags=["figure"]
finding = f"Top to bottom: {', '.join(by_way)}"
rows_of_images = torch.cat([*by_way.values()]).float().cpu()
show_images(rows_of_images, columns=8, scale=2, title=finding)

# %% [markdown]
# DDIM, EDM's Euler and flow matching's Euler are one sampler; what is left is rounding. *Why?* Hold the estimates
# $\hat x_0$ and $\hat\epsilon$ fixed during a step. Then $\hat x_0 + \bar\sigma\,\hat\epsilon$ is a straight line in
# $\bar\sigma$, and $(1-t)\,\hat x_0 + t\,\hat\epsilon$ one in $t$: an Euler step lands exactly where these estimates
# belong, at the new noise level. And DDIM puts them there by construction. So **DDIM is Euler where noise over signal is
# the time**, and flow matching adds no sampler to it.
#
# The other two are not. In VP's own time the point moves on a circle, and Euler leaves it along the tangent: a little
# longer at each step. In VE's time $\bar\sigma$ is an exponential, whose tangent overshoots where the levels lie far
# apart, as they do at first. So the times are no matter of taste once a solver takes finite steps; with infinitely many
# all agree.

# %% [markdown]
# ### What the network should see and say: EDM's preconditioning
#
# In EDM's variables the input grows with $\bar\sigma$, to a size that no network likes. EDM wraps the network $F$:
#
# $$D(\bar x;\bar\sigma) = c_\text{skip}\,\bar x + c_\text{out}\,F(c_\text{in}\,\bar x)
# \qquad\text{(Karras et al. 2022, eq. 7)}$$
#
# and derives the factors (their Appendix B.6), for data of variance $\sigma_d^2$, from three wishes:
#
# 1. The input $c_\text{in}\,\bar x$ has variance 1, where $\bar x$ has $\sigma_d^2 + \bar\sigma^2$.
# 2. The target of $F$, which is $(x_0 - c_\text{skip}\,\bar x)/c_\text{out}
#    = \big((1-c_\text{skip})\,x_0 - c_\text{skip}\,\bar\sigma\,\epsilon\big)/c_\text{out}$, has variance 1.
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
# For $\sigma_d = 1$ these are old friends: $c_\text{in} = 1/\sqrt{1+\bar\sigma^2} = \sqrt{\bar\alpha_t}$, so the network
# sees $x_t$; $c_\text{skip} = \bar\alpha_t$; $c_\text{out} = \sqrt{1-\bar\alpha_t}$. Then
# $D = \sqrt{\bar\alpha_t}\,x_t + \sqrt{1-\bar\alpha_t}\,F$. Beside
# $\hat x_0 = \sqrt{\bar\alpha_t}\,x_t - \sqrt{1-\bar\alpha_t}\,v$ of notebook 01 that says $F = -v$: **the $v$ of Salimans
# & Ho is EDM's preconditioning for data of variance 1, but for the sign.** In the open, and for our images too, whose
# $\sigma_d$ we measure:

# %%
some = course.pick(test=100, cpu=2000, gpu=5000)
clean, labels = (part.to(device) for part in test_set[:some])
sigma_data = float(clean.std())
print(f"sigma_data of {some} test images: {sigma_data:.3f} (EDM takes 0.5 for its own)")
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
# With the measured $\sigma_d$ both deviations are 1 at every level; with $\sigma_d = 1$ they fall to $\sigma_d$ at one
# end, a small matter. The figure is what the third wish bought: never worse than the better of the two simple choices.

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
# inverse. EDM's sampler is this in $(\bar x, \bar\sigma)$ (Karras et al. 2022, Algorithm 1). At $\bar\sigma = 0$ there is
# no slope, since it divides by $\bar\sigma$: the last step stays Euler's. $N$ steps cost $2N - 1$ evaluations.
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
# Six round blobs in the plane (notebook 05): $D$ is a formula, and SciPy solves the ODE to ten digits. All methods start
# at the same 50 points. First they go over the middle of the way only, from $\bar\sigma = 10$ to $0.1$, over EDM's grid
# (their eq. 5: evenly spaced in $\bar\sigma^{1/7}$).
#
# **Predict before you run:** which of these have order 1, which order 2: DDIM, Euler in VP's time and in VE's, Euler at
# evenly spaced times of flow matching, Heun, 2M of notebook 05?

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
    """2M of notebook 05, in EDM's variables: x_bar at the end of a falling grid of levels."""
    squares = [1 / (1 + level**2) for level in grid]  # alpha-bar
    x_t, previous = x_bar * math.sqrt(squares[0]), None
    for level, a_bar_t, a_bar_s in zip(grid, squares, squares[1:]):
        x_0 = denoise(x_t / math.sqrt(a_bar_t), level)
        x_t = dpmpp_2m_step(x_t, x_0, a_bar_t, a_bar_s, None, previous)
        previous = x_0, a_bar_t
    return x_t / math.sqrt(squares[-1])


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


methods = {
    "DDIM (Euler in EDM or flow)": along(euler, "EDM"),
    "Euler in VP's time": along(euler, "VP"),
    "Euler in VE's time": along(euler, "VE"),
    "Euler, even times of flow": even_flow,
    "Heun in EDM": along(heun, "EDM"),
    "2M": two_m,
}


# %%
def grid_between(high, low, steps, rho=7.0):
    return edm_grid(steps + 1, low, high, rho)[:-1]


def error_of(name, grid, right):
    """Root mean square distance to `right` at the end; Heun's grid must have half the steps."""
    end = methods[name](blobs, grid[0] * start_points, grid)
    return float((end - right).square().sum(1).mean().sqrt())


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
slopes = {name: round(math.log2(es[-2] / es[-1]), 1) for name, es in errors.items()}
pd.DataFrame({"order, from 256 to 512 evaluations": slopes})
