# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---



# %%
# Imports of sections 3 and 4, for the first cells of the notebook.
import math
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student_t
from torch import nn
from utils.diffusion.family import PATHS, denoiser, noise_levels, velocity

from utils.course import COLOURS, show_images
from utils.course.exercises import check, choose, hint, solution
from utils.diffusion import GaussianDiffusion, UNet, sample
from utils.diffusion.sampling import timestep_grid
from utils.diffusion.training import train

# %% [markdown]
# ## 3. What a loss weights · *core*
#
# **Question:** one network serves DDPM, EDM and flow matching (section 1). But each was trained with another loss. What
# is left of that difference?
#
# Two choices, no more: which noise levels a training draws, and by how much it multiplies the error there.
#
# **All errors are one error.** On any path $x = a\,x_0 + s\,\epsilon$. The network sees $x$, so its estimates of $x_0$
# and $\epsilon$ must add up to it: $a(x_0 - \hat x_0) = -s(\epsilon - \hat\epsilon)$. Every other error is then a
# multiple of that of the noise. For the velocity $\epsilon - x_0$ of the straight path, where $a + s = 1$:
#
# $$(\epsilon - x_0) - (\hat\epsilon - \hat x_0) = (\epsilon - \hat\epsilon) + \tfrac sa(\epsilon - \hat\epsilon)
# = \tfrac{a+s}{a}\,(\epsilon - \hat\epsilon) = \tfrac1a\,(\epsilon - \hat\epsilon).$$
#
# In the same way $v = a\,\epsilon - s\,x_0$ has the error $\frac{a^2+s^2}{a}(\epsilon - \hat\epsilon)$, with
# $a^2 + s^2 = 1$ again $\frac1a$ times that of the noise.
#
# **All clocks are one clock.** Timestep, $\sigma$ of EDM, time of flow matching: each only says how noisy $x$ is.
# Put them on one axis, $\ell = \log\mathrm{SNR} = \log(a^2/s^2)$ (twice the $\lambda$ of notebook 05). If a clock $u$
# runs from 0 to 1 and is drawn uniformly, a piece $du$ covers a piece $d\ell$ of the axis, so $\ell$ has the density
#
# $$p(\ell) = \left|\frac{du}{d\ell}\right|.$$
#
# **The scale of $x$ does not matter.** The multiples depend on $\ell$ alone (for $v$, $1/a^2 = 1 + e^{-\ell}$), and
# images of the same $\ell$ on two paths differ by a known factor, by which the network's input can be scaled (section
# 1). So *all* the losses can train one network, on one path.
#
# Together (Kingma & Gao 2023, section 3), where $w(\ell)$ is the multiple of the noise's squared error:
#
# $$L = \int W(\ell)\;\mathbb E\,\lVert\epsilon - \hat\epsilon\rVert^2\,d\ell, \qquad W(\ell) = w(\ell)\,p(\ell).$$
#
# Only $W$, the *effective weight*, decides what is minimised. How it is split into $w$ and $p$ decides how noisy the
# gradients are. The bound of notebook 04 is in the family: its terms were
# $\frac12(\mathrm{SNR}_{t-1} - \mathrm{SNR}_t)\lVert x_0 - \hat x_0\rVert^2$. For small steps the bracket is
# $\mathrm{SNR}\,d\ell$, and $\mathrm{SNR}\,\lVert x_0 - \hat x_0\rVert^2$ is the noise's squared error. So **the bound
# is $W = \frac12$ everywhere**; all the others bend that line.
#
# ### Your turn: 08.5
#
# Flow matching draws $u$ uniformly from 0 to 1, mixes $x = (1-u)\,x_0 + u\,\epsilon$, and takes the squared error of
# the velocity. Write $p(\ell)$ and $w(\ell)$. First solve $\ell = 2\log\frac{1-u}{u}$ for $u$. `hint("08.5")` and
# `solution("08.5")` help. You may also go on: the next cell has the course's version, and uses yours if it is right.


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
    u = torch.sigmoid(-log_snr / 2)
    return u * (1 - u) / 2, (1 + torch.exp(-log_snr / 2)) ** 2


flow_matching = choose("08.5", flow_matching, course_flow_matching)

# %% [markdown]
# Autograd knows the slope of $\ell(u)$, and random numbers know the errors; neither knows our formulas:

# %%
# NBVAL_CHECK_OUTPUT
u = torch.rand(200_000, generator=rng(0), dtype=torch.float64).requires_grad_()
flow_draws = 2 * torch.log((1 - u) / u)
(slope,) = torch.autograd.grad(flow_draws.sum(), u)
flow_draws, u = flow_draws.detach(), u.detach()
density, weight = flow_matching(flow_draws)
torch.testing.assert_close(density, 1 / slope.abs())

x_0, noise, noise_guess = torch.randn(3, len(u), generator=rng(1), dtype=torch.float64)
x = (1 - u) * x_0 + u * noise
x_0_guess = (x - u * noise_guess) / (1 - u)
error = (noise - x_0) - (noise_guess - x_0_guess)
torch.testing.assert_close(weight, error**2 / (noise - noise_guess) ** 2)
print("density and weight of flow matching agree with autograd and with random errors")

# %% [markdown]
# Now seven objectives, each as two functions of $\ell$: the density, and the weight of the noise's error. `bell` is the
# normal density.
#
# - **v** and **noise**, $u$ uniform on the cosine schedule, where $a = \cos\frac{\pi u}{2}$ (Salimans & Ho 2022; Nichol
#   & Dhariwal 2021). **The course's**: three quarters of $u$ are logit-normal about $-1$ (notebook 04).
# - **min-SNR-5**: the error of $x_0$ counts $\min(\mathrm{SNR}, 5)$ times (Hang et al. 2023, section 3).
# - **EDM**: $\log\sigma$ normal with mean $-1.2$ and standard deviation 1.2; the error of $x_0$ counts
#   $1/\sigma^2 + 1/0.5^2$ times (Karras et al. 2022, Table 1).
# - **Flow matching** with $u$ uniform, or logit-normal about 0 (Esser et al. 2024, section 3.1).


# %%
def bell(x, mean, std):
    return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def cosine_times(log_snr):
    return 1 / (2 * math.pi * torch.cosh(log_snr / 2))


def course_times(log_snr):
    u = torch.atan(torch.exp(-log_snr / 2)) * 2 / math.pi  # of the cosine schedule
    return cosine_times(log_snr) * (0.75 * bell(u.logit(), -1, 1) / (u * (1 - u)) + 0.25)


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
z, u = torch.randn(200_000, generator=rng(2)).double(), u.float().double()
middle = torch.where(torch.rand(len(u), generator=rng(3)) < 0.75, (z - 1).sigmoid(), u)
clocks = {
    "v, cosine": -2 * torch.tan(math.pi / 2 * u).log(),
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
# And which one cares most for nearly clean images?

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
    halves = [middle_half(curve) for curve in (density(shown), of_noise * shown.sigmoid())]
    rows[name] = [*halves, "yes" if bool((of_noise.diff() < 0).all()) else ""]
columns = ["half of the draws", "half of the weight", "W only falls"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# The right panel shows $a^2\,W$, the weight of *v's* error, with area 1: most $W$ grow without end to the left.
#
# **v on the cosine schedule and flow matching with uniform times are one objective**: both have $W \propto e^{-\ell/2}$
# (Kingma & Gao 2023, Table 1), and differ only in what they draw. Noise prediction cares most for nearly clean images.
# min-SNR is noise prediction with the weight cut where the SNR is above 5. EDM *draws* the cleanest images, but weighs
# them less. Where $W$ only falls with $\ell$ (last column), the loss is the bound for images with some noise added to
# them (their section 4).
#
# ### Trained
#
# Whoever knows $w$ and $p$ can train with them. `train` hands the process a uniform timestep; we exchange it for one of
# $T$ levels that follow $p$, and weigh the error. Nothing else changes.


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
# The comparison is stored: `tests/benchmarks/objectives.py` trains each objective three times for 280 steps, with the
# same network, start, images and noise for all. A step costs all of them the same, so these are equal seconds: half a
# minute of one processor core. The network always outputs $v$; factors are scaled to a mean of 1, so that gradients
# are clipped alike. Learning rates were *not* tuned for any of them. Measured: the Frechet distance of 1,000 images
# (2M, 20 evaluations), and $v$'s error at the least noisy 30% of the timesteps, the middle 40%, and the noisiest 30%.
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
seeds = len(of_seed)
figure.suptitle(
    f"Minus 'v, cosine', left is better; bars: 95% for the mean of {seeds} seeds"
)
plt.show()

# %% [markdown]
# Blue is told apart from "v, cosine" by these seeds, orange is not; grey dots are the seeds. Bars are by Student's $t$
# with two degrees of freedom, as in notebook 07: what they do not tell apart is *not* shown to be equal, and of 24
# bars one may miss the line by chance. "flow, uniform" is the control: it minimises the same loss as "v, cosine", so
# what parts the two is only what was drawn. Compare the three errors with the right panel above: where does each
# objective spend its half minute? Nobody should choose one after so short a training.
#
# ### 08.6 *(further)* Any weight, with any draws
#
# Since only $W = w\,p$ counts, a training may draw as it likes and make up for it by the weight. Write the factor of
# *v's* squared error that gives a wanted $W$. (Sigmoid weighting, Hoogeboom et al. 2024, is
# `wanted = lambda x: torch.sigmoid(2 - x)`.) And what speaks against drawing $\ell$ evenly from $-12$ to 12?


# %%
def factor_of_v(log_snr, wanted, density):
    """The factor of v's squared error in a training step.

    log_snr: a tensor. wanted, density: functions of it: the effective weight that the
    noise's squared error shall have, and how often a log-SNR is drawn. A tensor like log_snr.
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
# A wrapper of four lines, `train`, and `save_pretrained`. A few steps show the plumbing; the images would be noise.

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
from_course = course_images(FromDiffusers(loaded.unet))
torch.testing.assert_close(images_of(loaded), from_course, atol=1e-4, rtol=0)
print("their pipeline, loaded from disk, and sample: the same images")

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
torch.testing.assert_close(by_pipeline["pipeline"], right, atol=1e-4, rtol=0)
rows = {name: float((images - right).abs().max()) for name, images in by_pipeline.items()}
pd.DataFrame({"largest difference from sample": rows}).map("{:.1g}".format)

# %% tags=["figure"]
columns = torch.stack([right, *by_pipeline.values()], dim=1)[:2] * 2 - 1
titles = ["sample", *by_pipeline] + [""] * 6
finding = "The pipeline draws what sample draws, unless a convention is forgotten"
show_images(columns.flatten(0, 1), titles=titles, columns=6, scale=4, title=finding)

# %% [markdown]
# With nothing forgotten the images agree to rounding: theirs computes $\bar\alpha$ in float32. In the run shown the
# wrong prediction type is the worst. The two other defaults, *leading* and *unclipped*, change the images so little
# that nobody would notice, and so they stay in the code.
#
# ### One schedule, three schedulers
#
# A *scheduler* is one step of a sampler. DDIM and 2M (`DPMSolverMultistepScheduler`) take the schedule as above. That
# of flow matching takes no betas but the noise levels, the times $u = s/(a+s)$ of the straight path. It wants $x$ on
# that path, $x_u = x_t/(a+s)$, and the velocity $\hat\epsilon - \hat x_0$ (section 1). It knows one step, Euler's:
# $x_{u'} = x_u + (u' - u)\,(\hat\epsilon - \hat x_0)$.
#
# **Predict before you run:** with which sampler of notebook 05 will Euler's images agree?

# %%
jumps, straight = timestep_grid(T, 20), PATHS["flow"]
flow_levels = [straight.time(float(noise_levels(diffusion)[t])) for t in jumps]
without_label = denoiser(model, diffusion)


def v_at(x_t, t):
    return model(x_t, torch.full((len(x_t),), t, device=device))


def velocity_at(x_u, u):
    return velocity(without_label, straight, x_u, u)


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
    torch.testing.assert_close(walks[name], ends[sampler], atol=1e-4, rtol=0)
print("three schedulers of diffusers draw the course's images")

# %% [markdown]
# Euler on the straight path *is* DDIM: both hold $\hat x_0$ and $\hat\epsilon$ fixed during a step and mix them anew
# (notebook 05). "Flow matching" and "DDIM" are two names of one sampler on two scales of $x$.

# %% [markdown]
# ## Recap (these lines go into that of the notebook)
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $\ell$ | `log_snr` | $\log(a^2/s^2)$, twice the $\lambda$ of notebook 05 |
# | $p(\ell)$, $w(\ell)$ | `density`, `weight` | how often a log-SNR is drawn; what the noise's error counts |
# | $W = w\,p$ | | the effective weight: all that a loss minimises |
#
# - Kingma, Gao 2023, *Understanding diffusion objectives as the ELBO with simple data augmentation*, arXiv 2303.00848:
#   sections 3 and 4, Table 1.
# - Hang et al. 2023, *Efficient diffusion training via min-SNR weighting strategy*, arXiv 2303.09556: section 3.
# - Karras et al. 2022, arXiv 2206.00364: Table 1. Esser et al. 2024, arXiv 2403.03206: section 3.1.
# - Salimans, Ho 2022, arXiv 2202.00512: section 4. Nichol, Dhariwal 2021, arXiv 2102.09672: eq. 17.
# - Hoogeboom et al. 2024, *Simpler diffusion*, arXiv 2410.19324: sigmoid weighting.
