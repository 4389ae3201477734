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
from utils.course import COLOURS, play, show_images
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
# | variance preserving, VP | $\cos(\pi t/2)$ | $\sin(\pi t/2)$ | Ho et al. 2020; the cosine of Nichol & Dhariwal 2021, without its offset |
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


# %%
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
# evenly spaced $\bar\sigma$ ($\rho = 1$) the steps are far too long where the blobs part. At 32 evaluations the error is
# many times larger, and Heun worse than Euler; at 512 the methods of order 2 are still on their way to it. An order is a
# statement about the limit.
#
# **The last step** goes to $\bar\sigma = 0$ from the lowest level of the grid, and is Euler's. The lowest level does not
# move when $N$ grows, so neither does that step's error. Now the whole way, from 80 to 0, with two lowest levels.
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
markers = dict(zip(methods, ["o-", "v:", "^:", "x--", "s-", "D--"]))
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
# With the lowest level 0.03 all three stop at one error, that of the last step; with EDM's 0.002 that lies far lower, but
# the way down to it costs: Heun with 8 evaluations is worse than Euler. So an order is measured without the last step,
# and a sampler chooses it for the number of evaluations that it has.
#
# ### On images, at equal cost
#
# The network errs, and 10 to 20 evaluations are far from the limit in which orders rule. The methods again, unchanged,
# with the shipped model in the place of `blobs`, on two grids: evenly spaced $t$, which `sample` uses, and EDM's, from
# 80 down to the network's lowest level, rounded to levels that it knows. Odd numbers, since Heun takes $2N - 1$.
#
# **Predict before you run:** does Heun beat 2M at the same number of evaluations? Does the grid matter as much as the
# method?

# %%
looks = course.pick(test=[3, 5], cpu=[9, 19], gpu=[9, 19, 39])
per_draw, draws = course.pick(test=10, cpu=90, gpu=1000), course.pick(test=2, cpu=3, gpu=5)
image_methods = {"DDIM": along(euler, "EDM"), "2M": two_m, "Heun": along(heun, "EDM")}


def grid_for(kind, steps):
    if kind == "EDM's grid":
        return round_levels(diffusion, edm_grid(steps, levels[0]))
    return [levels[t] for t in timestep_grid(T, steps)] + [0.0]


def images_by(method, kind, n, seed):
    """Images (per_draw, 1, 28, 28) on the CPU, n evaluations each."""
    x, y = normal((per_draw, 1, 28, 28), rng(seed)), classes_in_turn(per_draw)
    grid = grid_for(kind, (n + 1) // 2 if method == "Heun" else n)
    x = x if device.type == "mps" else x.double()
    end = image_methods[method](denoiser(model, diffusion, y), grid[0] * x, grid)
    return end.clamp(-1, 1).float().cpu()


# %%
kinds = ("even t", "EDM's grid")
runs = [(method, kind, n) for method in image_methods for kind in kinds for n in looks]
frechet = {}
for run in tqdm(runs, desc="samplers"):
    sets = [quality.features(images_by(*run, seed)) for seed in range(20, 20 + draws)]
    frechet[run] = np.array([quality.frechet(features) for features in sets])

# %%
drawn_floor, _ = quality.floor(per_draw)
rows = {}
for (method, kind, n), values in frechet.items():
    text = f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    gap = values - frechet["2M", "even t", n]
    error = gap.std(ddof=1) / draws**0.5
    row = rows.setdefault((method, kind), {})
    row[f"{n} evaluations"] = text
    row[f"minus 2M's, even t, {n}"] = f"{gap.mean():+.1f} ± {error:.1f}"
print(f"Frechet distance, {draws} times {per_draw} images: mean ± standard deviation,")
print("and the difference seed by seed, mean ± standard error.")
print(f"Floor, real against real: {drawn_floor.mean():.1f} ± {drawn_floor.std():.1f}")
pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "grid"])

# %% [markdown]
# The differences compare the same noise and labels, so they are known better than the distances; with three seeds one
# counts from about 4.3 standard errors (Student's $t$). **Heun on even $t$ is ruined** by its first step, which goes from
# $\bar\sigma \approx 20{,}000$ down to about ten: half the difference of two slopes, times 20,000. DDIM and 2M do not mind.
# On EDM's grid, which starts at 80, Heun works. With 9 evaluations it has five steps only, and is behind 2M, which gets
# its second slope from the step before at no cost; with 19 most of the gap is closed. Order decides when steps are short;
# with few evaluations the grid and the cost of a step do.
#
# ### Play
#
# Eight points on their way to the blobs (crosses), scaled onto the quarter circle; grey is the same method with 200
# steps. First for two numbers.


# %%
def draw_ways(evaluations=9):
    """Euler's and Heun's ways at this number of evaluations, an odd one."""
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
            ways = torch.stack([x / math.hypot(1, level) for x, level in zip(states, grid)])
            ax.plot(*ways.unbind(2), **{"color": COLOURS[0], "lw": 1} | look)
        ax.plot(*blob_centres.T, "x", color="black")
        ax.set(
            xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xlabel="first coordinate", aspect="equal"
        )
        ax.set_title(f"{solver.__name__.title()}, {steps} steps: {evaluations} evaluations")
    axes[0].set_ylabel("second coordinate")
    return figure


# %%
for evaluations in (5, 13):
    display(draw_ways(evaluations))
    plt.close()

# %%
play(draw_ways, evaluations=(3, 41, 2))

# %% [markdown]
# ### 08.4 *(further)* Is flow matching's path straight?
#
# The line from one noise to one image is straight, by definition. The ODE's path is not that line: its velocity is the
# *mean* over all images that may lie behind $x$. Liu et al. (2023, section 2) measure straightness by the mean over the
# time of $\lVert dx/dt - (x_1 - x_0)/(t_1 - t_0)\rVert^2$, here with segments for the derivative: 0 means straight and at
# constant speed, so that *one* Euler step is exact. Write it. `hint("08.4")`, `solution("08.4")`.


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

# %% [markdown]
# With one point behind all noise the paths are straight, and one step is enough. With six they bend where the choice
# between the blobs falls, and one step ends at their mean. *Rectified* flow trains a second network on the pairs of noise
# and image that the first one makes, whose lines cross less. Section 5 comes to few steps by another way.

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $a(t)$, $s(t)$ | `signal`, `sigma` | weights of image and noise along a path, $x = a\,x_0 + s\,\epsilon$ |
# | $\bar\sigma = s/a$ | `sigma_bar` | noise level, EDM's $\sigma$; the log-SNR is $-2\log\bar\sigma$ |
# | $\bar x = x/a$ | `x_bar` | the image in EDM's variables |
# | $D(\bar x; \bar\sigma)$ | `denoise` | the estimate $\hat x_0$ |
# | $u = dx/dt$ | `velocity` | $a'\hat x_0 + s'\hat\epsilon$, the velocity field |
# | $c_\text{skip}, c_\text{out}, c_\text{in}$ | `preconditioning` | EDM's wrapping; with $\sigma_d = 1$ it is $v$-prediction, $F = -v$ |
# | $N$, order | `budget` | an error of order $k$ falls like $N^{-k}$ |
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
#   Appendix D
# - Song, Meng & Ermon 2020, *Denoising Diffusion Implicit Models*, arXiv 2010.02502, eq. 12 to 14
# - Lu et al. 2022, *DPM-Solver++*, arXiv 2211.01095, Algorithm 2
# - Nichol & Dhariwal 2021, *Improved Denoising Diffusion Probabilistic Models*, arXiv 2102.09672, eq. 17
# - Ho et al. 2020, *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239, eq. 4
