# %% [markdown]
# Imports of this part, to be merged into those of the notebook:

# %%
import copy
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from utils.course import COLOURS, plain_ticks, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.device import autocast, find_precision
from utils.diffusion import distill as distillation
from utils.diffusion import generate, load_model
from utils.diffusion.distill import distill, draw_trajectories
from utils.diffusion.metrics import precision_recall
from utils.diffusion.sampling import consistency_step, timestep_grid

# %% [markdown]
# ## 5. Few steps · *core*
#
# **Question:** what is lost when a step is long, and can a network learn to do without the short ones?
#
# The shipped model needs about 20 evaluations. The reason is what it was trained to say: $\hat x_0$ is the *mean* of all
# the images that $x_t$ could have come from. A short step follows the mean a little way, and asks again. A step from
# pure noise to the end lands in the mean itself, and a mean of shirts is no shirt.
#
# **Predict before you run:** the upper row is the network's one-step answer. Do its ten pictures depend on the noise, or
# on the label only?

# %%
distilled, _ = load_model(
    course.root / "data" / "checkpoints" / "distilled.safetensors", device
)
print(f"distilled for {distilled.evaluations} evaluations")


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
    "distilled, 2": (distilled, 2, "consistency"),
    "distilled, 4": (distilled, 4, "consistency"),
    "the teacher, 20": (model, 20, "dpmpp_2m"),
}
row_images = torch.cat([draw_fast(*row) for row in shown_rows.values()])
row_titles = [text for name in shown_rows for text in ["", "", name, *[""] * 7]]
finding = "The same ten noises and labels: one evaluation can do without the blur"
show_images(row_images, titles=row_titles, columns=10, scale=2, title=finding)

# %% [markdown]
# The first row is nearly the mean of each class. The second comes from the same network, trained on: this section does
# that. (With 2 and 4 evaluations fresh noise enters, so these are other garments than the teacher's.)
#
# ### The end of the way
#
# The probability-flow equation (section 2) has no noise of its own: from one $x_T$ it leads to one image. So for an
# $x_t$ *on its way* the end is no mean of many. It is a function of $x_t$ and $t$, the *consistency function* (Song et
# al. 2023, section 3), and a network may learn it. The direct way to teach it: let the teacher walk many ways once, and
# keep some places of each and its end. (For $x_T$ alone this is the distillation of Luhman & Luhman 2021. Song et al.
# do without stored ways: there the student's own answer a step further is the target. Salimans & Ho 2022 halve the
# number of steps again and again.)
#
# Loss and network stay as they are. In notebook 04 an image and a noise were drawn independently, and mixed to $x_t$.
# Now $x_t$ and the image, the end, are given by the teacher. Which noise would have made this $x_t$ of this image? With
# it, the end and $t$, `diffusion.loss` can be called as ever.
#
# ### Your turn: 08.7
#
# Solve $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ for the noise, where $x_0$ is the end.
# `hint("08.7")` and `solution("08.7")` help. You may also go on: the next cell has the course's version, and uses
# yours if it is right.


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
way_count, way_steps = course.pick(test=(20, 8), cpu=(2000, 16), gpu=(20_000, 24))
ways = draw_trajectories(model, diffusion, way_count, steps=way_steps, seed=1)
places = timestep_grid(T, distillation.STOPS)
print(f"{way_count} ways, x: {tuple(ways.x.shape)}; kept are t = {places}, and the end")

# %% [markdown]
# **Check:** on the ways themselves, against `utils`; and the noise does make $x_t$ of the end.

# %%
# NBVAL_CHECK_OUTPUT
x_t, end = ways.x[:8, :-1].flatten(0, 1).float(), ways.x[:8, -1:].float()
end = end.expand(-1, distillation.STOPS, -1, -1, -1).flatten(0, 1)
t = torch.tensor(places).repeat(8)
noise = paired_noise(x_t, end, schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1))
theirs = distillation.paired_noise(diffusion, x_t, end, t)
torch.testing.assert_close(noise, theirs, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(diffusion.q_sample(end, t, noise), x_t, rtol=1e-4, atol=1e-4)
print("the noise agrees with utils.diffusion.distill, and leads back to x_t")

# %% [markdown]
# **Predict before you run:** in notebook 04 the loss could not fall to 0, however good the network: many pairs of image
# and noise make the same $x_t$. What is its lower limit here?
#
# A minute of distillation, from the teacher's weights. Half of each batch begins at $x_T$, where the end is hardest to
# tell.

# %%
distill_steps = course.pick(test=3, cpu=150, gpu=1500)
student, losses = copy.deepcopy(model), []
for state in distill(student, diffusion, ways, steps=distill_steps, seed=1, device=device):
    losses.append(state.loss)
student = state.ema_model

# %%
fresh = draw_trajectories(
    model, diffusion, course.pick(test=10, cpu=100, gpu=500), steps=24, seed=2
)


@torch.no_grad()
def distance_to_end(network):
    """How far the network's x_0 lies from the end of the way, at each place: (STOPS,)."""
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
ax.set_title("The student tells the end of ways that it has not seen")
ax.legend()
# %% [markdown]
# The distance is the root of the mean square over pixels of $[-1, 1]$. The teacher's is that of a mean to one image. The
# student's limit is 0, since the end is a function of $x_t$. It does not get there: early on the function is so steep
# that a network of this size errs, and what it errs towards is a mean again, if of fewer images. On the ways that it was
# taught, the shipped student's distance at $x_T$ is half of that here ([results.md](../data/results.md)): more ways than
# 20,000 would help.
#
# ### Several evaluations
#
# What can more evaluations do for a network that jumps to the end at once? Put noise on its answer, up to a lower level
# $s$, and ask again (Song et al. 2023, Algorithm 1):
#
# $$x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1-\bar\alpha_s}\,z, \qquad z \sim \mathcal N(0, 1).$$
#
# It is DDIM's step (notebook 05; Song et al. 2020, eq. 12) with $\sigma$ as large as it can be: nothing of the old noise
# is kept. The student knows the eight places, so it takes 1, 2, 4 or 8 evaluations; `sample` refuses other numbers. On
# the command line the file itself says how it is sampled:
# `python -m utils.diffusion sample data/checkpoints/distilled.safetensors --steps 4`.

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
# **Predict before you run:** the student at 1, 2, 4 and 8 evaluations, beside its teacher's samplers: with how many
# does the teacher overtake?

# %%
few_count = course.pick(test=20, cpu=500, gpu=2000)
few_labels = torch.randint(10, (few_count,), generator=rng(0))
rivals = {
    "DDIM": (model, "ddim"),
    "2M": (model, "dpmpp_2m"),
    f"distilled, {distill_steps} steps": (student, "consistency"),
    "distilled, shipped": (distilled, "consistency"),
}
few_runs = {}
for name, (network, kind) in rivals.items():
    few_runs |= {(name, n): (network, n, kind) for n in (1, 2, 4, 8)}
few_runs["2M", 20] = (model, 20, "dpmpp_2m")

# %%
few_results = {}
for key, run in few_runs.items():
    began = time.perf_counter()
    images = draw_fast(*run, count=few_count, seed=0, labels=few_labels)
    spent = 1000 * (time.perf_counter() - began) / few_count
    features = quality.features(images)
    picks = torch.randint(few_count, (30, few_count), generator=rng(0))
    redrawn = np.array([quality.frechet(features[pick]) for pick in picks])
    few_results[key] = features, quality.frechet(features), redrawn.std(), spent


# %%
few_table = pd.DataFrame()
for (name, n), (_, distance, error, _) in few_results.items():
    few_table.loc[name, f"{n} evaluations"] = f"{distance:.2f} ± {error:.2f}"
few_floor, _ = quality.floor(few_count)
print(f"Frechet distance of {few_count} images ± standard error (bootstrap).")
print(f"As many real images: {few_floor.mean():.2f} ± {few_floor.std():.2f}")
few_table.fillna("").rename_axis("sampler")

# %% tags=["figure"]
fig, ax = plt.subplots(figsize=(6.5, 3.2))
for (name, (_, kind)), colour in zip(rivals.items(), COLOURS):
    numbers = [1, 2, 4, 8]
    values, errors = zip(*[few_results[name, n][1:3] for n in numbers])
    style = dict(ls="-" if kind == "consistency" else "--", color=colour, capsize=2)
    ax.errorbar(numbers, values, errors, marker="o", label=name, **style)
ax.axhline(few_results["2M", 20][1], color="black", lw=1, label="2M, 20 evaluations")
ax.axhline(few_floor.mean(), color="0.5", ls=":", label="as many real images")
ax.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="Frechet distance")
plain_ticks(ax)
ax.set_xticks(numbers, map(str, numbers))
ax.minorticks_off()
ax.set_title("Up to four evaluations the student is far ahead")
ax.legend(fontsize=8)
# %% [markdown]
# What does the student lose? Precision asks whether its images look real, recall whether all kinds of real images are
# there (notebook 06).

# %%
few_real = torch.randperm(len(train_set), generator=rng(1))[:few_count]
few_real = quality.features(train_set[few_real][0])
few_rows = {}
for key in [("2M", 20), ("2M", 4), *[("distilled, shipped", n) for n in (1, 2, 4, 8)]]:
    features, distance, _, milliseconds = few_results[key]
    row = precision_recall(few_real, features, k=3)
    row = {name: row[name] for name in ("precision", "recall")}
    few_rows[key] = {"Frechet distance": distance, **row, "ms per image": milliseconds}
lost_table = pd.DataFrame.from_dict(few_rows, orient="index").round(2)
lost_table.rename_axis(["sampler", "evaluations"])

# %% [markdown]
# In one evaluation, where the teacher has a blur, the student has garments; a minute of distillation brings most of that.
# The longer the step, the more it gains: at eight evaluations the teacher's own 2M has nearly caught up. From four to
# eight the student gains nothing. Its errors are those of the noisy places, which every way begins with, and at low noise
# there is little left to repair. One set of images is not enough to tell four evaluations from the teacher's twenty: on
# four sets of 1,000 the student is behind (results.md).
#
# **What it cost:** on one core 9 minutes for 20,000 ways and 17 for the training, once. **What it lost:** recall, most in
# one evaluation, where whole kinds of detail fall together; and what only a denoiser can do. The student's $\hat x_0$ is
# no mean any more, so DDIM, 2M, a likelihood, or the way from an image to its noise cannot be had from it, and guidance
# GUIDANCE
#
# No real image was used, and not the classifier on whose features the distance is measured: trained on the ruler, a
# student would please the ruler.
