# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 06 · Evaluation
#
# {{badge}}
#
# ![A table in colours: seven sets of images down the side, five of them with a fault, seven measures
# across, and in each cell how many standard deviations the measure moves](../data/pictures/06.png)
#
# *Seven sets of images, five with a fault made on purpose and two by the model, and seven measures. No measure sees
# every fault, and one fault is seen by one measure only.*
#
# A model draws pictures. Are they good, are they all of them, are they new, and how probable does the model find real
# ones? Each question has a measure, and each measure has something that it cannot see.
#
# **At the end you will have** Frechet and kernel distance, precision and recall, a test for copies and an exact
# likelihood, their cores written by you, and a table that says which of them sees which fault.
#
# **You need** Python, basic PyTorch, means and covariances. Notebook 05 helps. A trained network, and four small ones
# for section 3, lie in `data/checkpoints`.
#
# **Time:** about 4 minutes and a half on two cores. For you: 40 minutes of reading for the *core*, sections 0 to 4, and
# half an hour for your four pieces. The GAN and the museum (6 and 7) are as long again.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import copy
import math
import time
from functools import partial
from itertools import pairwise, permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn
from torch.distributions import Normal
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, plain_ticks, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.device import autocast, find_precision
from utils.diffusion import (
    GaussianDiffusion,
    ImageQuality,
    NoiseSchedule,
    UNet,
    generate,
    load_images,
    load_model,
    sample,
)

# %%
from utils.diffusion.embeddings import sinusoidal_embedding
from utils.diffusion.likelihood import angle_grid, bits_per_dimension, log_likelihood
from utils.diffusion.metrics import (
    Classifier,
    extract_features,
    frechet_distance,
    gaussian_of,
    kernel_distance,
    nearest_ratio,
    precision_recall,
)
from utils.diffusion.process import posterior_weights
from utils.diffusion.sampling import ddim_step, ddpm_step
from utils.diffusion.training import update_ema

# %% [markdown]
# ## 0. What could "good" mean? · *core*
#
# Four things, at least.
#
# - **Faithful:** each picture could be a real one.
# - **Complete:** all that is in the data also comes out, as often as it should.
# - **New:** the pictures are not the training set, recited.
# - **Probable:** the model finds real pictures that it has not seen likely.
#
# A set can have any of these without the others. Training images, recited, are perfectly faithful and complete. So we
# test the measures before we trust them, on sets whose fault we know because we made it.

# %%
device = course.device
model, diffusion = load_model(
    course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors", device
)
train_set, test_set = load_images("fashion-mnist"), load_images("fashion-mnist", "test")
quality = ImageQuality.load()
count = course.pick(test=100, cpu=500, gpu=500)

# %%
few, many = course.pick(test=(2, 4), cpu=(5, 20), gpu=(5, 20))


def rng(seed):
    return torch.Generator().manual_seed(seed)


def draw_images(steps, seed=0):
    """`count` images of the shipped model, of random classes, by DPM-Solver++(2M)."""
    y = torch.randint(10, (count,), generator=rng(seed))
    options = dict(sampler="dpmpp_2m", steps=steps, y=y, seed=seed, progress=True)
    return generate(model, diffusion, count, **options)


began = time.perf_counter()
samples = {steps: draw_images(steps) for steps in (many, few)}
print(f"2 times {count} samples, {time.perf_counter() - began:.0f} s")

# %% [markdown]
# The labels are drawn at random, as the classes of random real images are: with exactly as many of each the model would
# seem nearer to the truth than real images, which vary in these shares.
#
# The faults are made from real test images. Each **draw** takes other images, so that every measure comes with its
# spread.


# %%
half = min(course.pick(test=500, cpu=10_000, gpu=10_000), len(train_set) // 2)
order = torch.randperm(len(train_set), generator=rng(1))
known, unseen = (train_set[part][0] for part in order.split(half)[:2])


def add_noise(images, generator):
    return (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


# %%
def faulty_sets(draw):
    """Six sets of `count` images each. The class that is missing is draw, modulo 10."""
    generator = rng(100 + draw)
    order = torch.randperm(len(test_set), generator=generator)
    others = order[test_set.labels[order] != draw % 10]
    images = test_set[order[:count]][0]
    copied = known[torch.randperm(len(known), generator=generator)[:count]]
    return {
        "clean": images,
        "one class missing": test_set[others[:count]][0],
        "a tenth, ten times": images[: count // 10].repeat(10, 1, 1, 1),
        "blurred": gaussian_blur(images, [5, 5], [0.7, 0.7]),
        "noisy": add_noise(images, generator),
        "training images": copied,
    }


# %% [markdown]
# A *look* is one evaluation of the network (notebook 05). **Predict before you run:** which of these faults would you
# find by looking at pictures one by one?

# %%
model_sets = {f"model, {steps} looks": samples[steps] for steps in (many, few)}
shown = {**faulty_sets(0), **model_sets}
titles = [text for name in shown for text in ("", name, *[""] * 8)]
finding = "Ten of each: of the faults, single pictures show only blur and noise"
show_images(
    torch.cat([x[:10] for x in shown.values()]), titles=titles, columns=10, title=finding
)

# %% [markdown]
# ## 1. One number: Frechet and kernel distance · *core*
#
# **Question:** how far apart are two sets of images?
#
# Pixel by pixel they cannot be compared, as no picture belongs to another. So each picture becomes a list of numbers,
# its **features** (here 64, of the course's classifier), and the two clouds of points are compared. (`ImageQuality` has
# the classifier and, in `reference`, the features of real images.)
#
# **In one dimension, for two Gaussians.** Move a heap of sand of the shape $\mathcal N(m_a, s_a^2)$ into one of the
# shape $\mathcal N(m_b, s_b^2)$ and pay the squared way of each grain. What is the cheapest plan? Let $X$ be where a
# grain was and $Y$ where it goes:
#
# $$\mathbb E(X-Y)^2 = (m_a - m_b)^2 + s_a^2 + s_b^2 - 2\,\mathrm{Cov}(X, Y)
# \ \ge\ (m_a-m_b)^2 + (s_a - s_b)^2,$$
#
# since a covariance is at most $s_a s_b$ (Cauchy-Schwarz). It is reached where $Y$ is a rising linear function of $X$.
# This least cost is the squared **Wasserstein-2 distance**, which for Gaussians is also called the Frechet distance.
# In $D$ dimensions the covariances of all coordinates together reach the trace of a matrix's root at most (Dowson &
# Landau 1982):
#
# $$\mathrm{FD} = \lVert m_a - m_b\rVert^2 + \mathrm{tr}\big(C_a + C_b - 2\,(C_a C_b)^{1/2}\big)
# \qquad\text{(Heusel et al. 2017, eq. 6)}.$$
#
# For $D = 1$ it is the line above. $(C_a C_b)^{1/2}$ is the matrix that gives $C_a C_b$ when multiplied by itself.
# Clouds of features are not Gaussian. FD sees their means and covariances only.
#
# ### Your turn: 06.1
#
# Write it. `hint("06.1")`, `solution("06.1")` help. You may also go on: the next cell has the course's version, and
# uses yours instead if it is right.


# %%
def frechet(mean_a, cov_a, mean_b, cov_b):
    """The squared Frechet distance of two Gaussians, a number.

    Means (D,) and covariances (D, D), tensors in float64; a covariance may be singular.
    """
    raise NotImplementedError


check("06.1", frechet)

# %% [markdown]
# A root of the matrix is not needed, only its trace, and that is the sum of the roots of the eigenvalues. $C_a C_b$ is
# not symmetric. But $C_a^{1/2} C_b\, C_a^{1/2}$ is, and has the same eigenvalues.


# %%
def course_frechet(mean_a, cov_a, mean_b, cov_b):
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    gap = (mean_a - mean_b).square().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * cross)


frechet = choose("06.1", frechet, course_frechet)

a, b = (quality.features(samples[steps]) for steps in (many, few))
(m_a, C_a), (m_b, C_b) = gaussian_of(a), gaussian_of(b)
root = torch.from_numpy(scipy.linalg.sqrtm((C_a @ C_b).numpy()).real)
by_scipy = float((m_a - m_b).square().sum() + (C_a + C_b - 2 * root).trace())
assert math.isclose(frechet(m_a, C_a, m_b, C_b), by_scipy, rel_tol=1e-4)
assert math.isclose(frechet_distance(m_a, C_a, m_b, C_b), by_scipy, rel_tol=1e-4)
print(f"{by_scipy:.4f}: the version in use, utils and SciPy's matrix root agree")

# %% [markdown]
# ### Too large with few images
#
# Mean and covariance are estimated from $N$ images, and errors of the estimate part the two Gaussians further, on
# average. So FD is biased upwards, and for large $N$ the bias falls like $1/N$ (Chong & Forsyth 2020). Drawn against
# $1/N$, the distance is then nearly a straight line, and where it meets $1/N = 0$ is the distance for infinitely many.
# Their main point: the bias depends on the *model* too, so that an equal $N$ does not make a ranking fair.
#
# **Predict before you run:** real test images against the real training set. What is FD for 100 of them, what for
# 2,000, and what at $1/N = 0$?

# %%
held_out = quality.reference["test.features"].float()
few_numbers, all_numbers = [100, 200, 500], [100, 200, 500, 1000, 2000]
numbers = course.pick(test=few_numbers, cpu=all_numbers, gpu=all_numbers)
draws = course.pick(test=3, cpu=20, gpu=20)


def random_part(features, number, seed):
    return features[torch.randperm(len(features), generator=rng(seed))[:number]]


real_fd, real_kd = {}, {}
for number in numbers:
    parts = [random_part(held_out, number, seed) for seed in range(draws)]
    real_fd[number] = torch.tensor([quality.frechet(part) for part in parts])
    real_kd[number] = torch.tensor([quality.kernel(part) for part in parts])


# %%
def at_infinity(features, seed=0):
    """FD at 1/N = 0, by a line in 1/N through parts of the features (N, 64)."""
    sizes = (len(features) / torch.linspace(4, 1, 10)).long().tolist()
    distances = [quality.frechet(random_part(features, n, seed + n)) for n in sizes]
    return np.polyfit([1 / n for n in sizes], distances, 1)[1]


# %%
ends = [at_infinity(random_part(held_out, count, seed)) for seed in range(draws)]
starts = [quality.frechet(random_part(held_out, count, seed)) for seed in range(draws)]
of_model = {name: quality.features(images) for name, images in model_sets.items()}
rows = {"real": [f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in (starts, ends)]}
for name, features in of_model.items():
    values = quality.frechet(features), at_infinity(features)
    rows[name] = [f"{value:.2f}" for value in values]
print(f"± is the standard deviation over {draws} sets of real test images")
pd.DataFrame.from_dict(rows, orient="index", columns=[f"FD of {count}", "FD at 1/N = 0"])

# %%
floors = {number: round(float(v.mean()), 2) for number, v in real_fd.items()}
pd.DataFrame(floors, index=["mean FD of real images"])

# %% [markdown]
# **Your prediction:** real images are far from the real training set if there are only 100 (2.66), near with 2,000
# (0.12), and at about 0 at $1/N = 0$. What real images have is the **floor**, and an FD without its $N$ and its floor
# says nothing. The extrapolated value has lost the bias and scatters *more* than the plain one. Where a model's lies
# above 0 by far more than that scatter, as with few looks, what is left is the model's error and not the number of
# images. With many looks it is less than two of those standard deviations above 0, and this does not settle it.

# %% [markdown]
# ### A distance without that bias
#
# Let $\kappa(x, y)$ be the similarity of two feature vectors; here $(x\cdot y/D + 1)^3$ (Binkowski et al. 2018). The
# squared **maximum mean discrepancy** is the mean similarity within the one distribution, plus that within the other,
# minus twice that between them (Gretton et al. 2012, Lemma 6). Each part is a mean over pairs, and the mean over a
# sample's pairs is right on average, **if** no image is paired with itself: an image is more similar to itself than to
# another.
#
# ### Your turn: 06.2
#
# Write the estimate, from the three matrices of similarities. `hint("06.2")`, `solution("06.2")`.


# %%
def unbiased_mmd(within_a, within_b, between):
    """The squared maximum mean discrepancy without bias, a number, which may be below 0.

    within_a: (N, N), the similarity of every a with every a, the diagonal included;
    within_b: (M, M); between: (N, M). All float64.
    """
    raise NotImplementedError


check("06.2", unbiased_mmd)


# %%
def course_unbiased_mmd(within_a, within_b, between):
    def mean_of_pairs(kernel):
        pairs = len(kernel) * (len(kernel) - 1)
        return float((kernel.sum() - kernel.diagonal().sum()) / pairs)

    return mean_of_pairs(within_a) + mean_of_pairs(within_b) - 2 * float(between.mean())


unbiased_mmd = choose("06.2", unbiased_mmd, course_unbiased_mmd)


# %%
def similarity(a, b):
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def by_pairs(a, b):
    """The same by its definition, pair by pair."""

    def mean_of(pairs):
        return np.mean([(float(x @ y) / len(x) + 1) ** 3 for x, y in pairs])

    within = sum(mean_of(permutations(part, 2)) for part in (a, b))
    return within - 2 * mean_of((x, y) for x in a for y in b)


small = a[:20].double(), b[:20].double()
(x, y), slow = small, by_pairs(*small)
fast = unbiased_mmd(similarity(x, x), similarity(y, y), similarity(x, y))
assert math.isclose(fast, slow, rel_tol=1e-9, abs_tol=1e-9)
assert math.isclose(kernel_distance(x, y), slow, rel_tol=1e-9, abs_tol=1e-9)
print(f"20 images of each: {slow:.5f}, here, by utils and pair by pair")

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
at = [1 / number for number in numbers]
for ax, values in zip(axes, (real_fd, real_kd)):
    means = torch.stack([*values.values()]).mean(1)
    stds = torch.stack([*values.values()]).std(1)
    ax.errorbar(at, means, stds, fmt="o", ms=4, capsize=3, label="real test images")
    ax.set_xticks([0, *at[:3]], ["0", *(f"1/{number}" for number in numbers[:3])])
    ax.set_xlabel(f"1/N; mean ± std of {draws} draws")
means = [float(v.mean()) for v in real_fd.values()]
slope, end = np.polyfit(at[1:], means[1:], 1)
line = [end, end + slope * at[0]]
axes[0].plot([0, at[0]], line, "--", color=COLOURS[1], label=f"line: {end:.2f} at 0")
axes[1].axhline(0, color="grey", lw=1)
axes[0].set(ylabel="Frechet distance", title="Frechet: the fewer, the larger")
axes[1].set(ylabel="kernel distance", title="Kernel: right on average at any N")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# The kernel distance needs no line; it scatters instead. (The Frechet line is fitted without the smallest $N$.)

# %% [markdown]
# ### Which features? · *further*
#
# A distance sees what its features see. Three kinds: the course's classifier; the pixels, as their 64 principal
# components; and a network of the classifier's shape with **random weights**. (Papers take Inception, a classifier of
# photographs: its 100 MB of weights are a download, and would be a fourth column here.)
#
# **Predict before you run:** principal components are what varies most, which is large shapes. Where will the blurred
# set stand by pixels, and where by the classifier?

# %%
base = train_set[order[: course.pick(test=500, cpu=5000, gpu=10_000)]][0]
centre = base.flatten(1).mean(0)
axes_of_pixels = torch.pca_lowrank(base.flatten(1), q=64, niter=4)[2]
torch.manual_seed(0)
untrained = Classifier().eval()
scale = extract_features(untrained, base).std(0)
spaces = {
    "classifier": quality.features,
    "pixels": lambda images: (images.flatten(1) - centre) @ axes_of_pixels,
    "random network": lambda images: extract_features(untrained, images) / scale,
}
references = {name: gaussian_of(features(base)) for name, features in spaces.items()}


def distance_in(space, images):
    return frechet_distance(*gaussian_of(spaces[space](images)), *references[space])


# %%
repeats = course.pick(test=2, cpu=4, gpu=8)
drawn = [faulty_sets(draw) for draw in range(repeats)]
in_units = {}
for space in spaces:
    clean = np.mean([distance_in(space, sets["clean"]) for sets in drawn])
    of_sets = {
        name: np.mean([distance_in(space, s[name]) for s in drawn]) for name in drawn[0]
    }
    of_models = {name: distance_in(space, images) for name, images in model_sets.items()}
    in_units[space] = pd.Series({**of_sets, **of_models}) / clean
table = pd.DataFrame(in_units)
print(f"Frechet distance of {count} images, in units of clean real images; {repeats} draws")
table.round(1)

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(7, 3.2))
for (name, row), colour in zip(table.drop("clean").iterrows(), COLOURS):
    ax.plot(range(3), row, "o-", color=colour, label=name)
ax.set_xticks(range(3), table.columns)
ax.set(yscale="log", ylabel="distance, times clean", title="Other features, another order")
plain_ticks(ax)
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The order is not a property of the sets alone. To the classifier blur is by far the worst fault, and noise a large one.
# By pixels blur is only three times clean, noise is next to none, and repeated images are the worst. To the random
# network, which learned nothing, blur is the worst too, and it hardly sees noise. And few looks lie nearer than a set
# without one class to the classifier, but further by pixels and to the random network. So a model may win by one kind
# of features and lose by another. Report which, and never compare numbers across.

# %% [markdown]
# ## 2. Two numbers: precision and recall · *core*
#
# **Question:** the distance is large. Are the pictures bad, or are some missing?
#
# Kynkäänniemi et al. (2019) draw a ball around every real point, which reaches to its $k$-th nearest other real point.
# All balls together stand for the region where real images are.
#
# - **Precision:** the share of generated points that lie in a real ball. *Are they faithful?*
# - **Recall:** the same with the roles exchanged: the share of real points in a generated ball. *Are they complete?*
#
# One real outlier has a huge ball, in which anything counts as faithful. Naeem et al. (2020) therefore count:
#
# - **Density:** in how many real balls a generated point lies, divided by $k$. On average 1 for equal distributions,
#   and it may be more.
# - **Coverage:** the share of real balls in which there is a generated point.
#
# ### Your turn: 06.3
#
# Write precision. `hint("06.3")`, `solution("06.3")`.


# %%
def precision(real, generated, k):
    """The share, 0 to 1, of generated points that lie in some real point's ball.

    real: (N, D), generated: (M, D), float64. k: the ball of a real point reaches to its
    k-th nearest other real point (1 is the nearest), the edge included.
    """
    raise NotImplementedError


check("06.3", precision)


# %%
def course_precision(real, generated, k):
    reach = torch.cdist(real, real).kthvalue(k + 1).values  # the first is the point itself
    inside = torch.cdist(real, generated) <= reach[:, None]
    return float(inside.any(0).double().mean())


precision = choose("06.3", precision, course_precision)

k, real_count = 5, course.pick(test=100, cpu=1000, gpu=2000)
real = random_part(quality.reference["train.features"].float(), real_count, seed=2)
measured = precision_recall(real, a, k)
assert abs(precision(real.double(), a.double(), k) - measured["precision"]) < 2e-3
swapped = precision(a.double(), real.double(), k)
assert abs(swapped - measured["recall"]) < 2e-3
print(f"model, {many} looks, against {real_count} training images:")
print(", ".join(f"{name} {value:.2f}" for name, value in measured.items()))

# %% [markdown]
# The four depend on $k$ and on both numbers of points. For equal distributions the mean coverage is known:
# $1 - \prod_{i=1}^{k}\frac{N-i}{M+N-i}$ for $N$ real and $M$ generated points (Naeem et al. 2020, Lemma 2).
#
# ### A table of faults against measures
#
# Now all measures meet all sets. The last measure, *nearest ratio*, is explained in section 3: an image's distance to
# the nearest of those training images that the copies were taken from, divided by its distance to the nearest of as
# many other training images. A copy has a ratio near 0. The model was trained on both groups, so its ratio would say
# nothing and is left out. Each cell is a measure's mean over the draws, **minus that of the clean set, in units of the
# clean set's own standard deviation** from draw to draw.
#
# **Predict before you run:** which faults can precision not see? And which fault can none of the first six see?


# %%
def all_measures(images):
    features = quality.features(images)
    ratio = nearest_ratio(images, known, unseen).median()
    distances = {"Frechet": quality.frechet(features), "kernel": quality.kernel(features)}
    shares = precision_recall(real, features, k)
    return {**distances, **shares, "nearest ratio": float(ratio)}


# %%
draws = course.pick(test=3, cpu=8, gpu=20)
found, began = [], time.perf_counter()
for draw in tqdm(range(draws), desc="draws"):
    sets = faulty_sets(draw) | (model_sets if draw == 0 else {})
    found += [{"set": name, **all_measures(images)} for name, images in sets.items()]
by_set = pd.DataFrame(found).groupby("set", sort=False)
means, spread = by_set.mean(), by_set.std().loc["clean"]
means.loc[[*model_sets], "nearest ratio"] = math.nan  # trained on both halves
others = [real_count - i for i in range(1, k + 1)]
expected = 1 - math.prod(other / (count + other) for other in others)
print(f"Lemma 2, coverage of equal distributions: {expected:.3f}")
print(f"{draws} draws of {count} images, {time.perf_counter() - began:.0f} s; their means:")
pd.concat([means, spread.to_frame("(spread of clean)").T]).round(3)


# %%
def as_label(value):
    if math.isnan(value):
        return "n/a"
    if abs(value) > 50:
        return "> +50" if value > 0 else "< -50"
    return f"{round(value):+d}" if round(value) else "0"


# %% tags=["figure", "picture"]
moved = ((means - means.loc["clean"]) / spread).drop("clean")
figure, ax = plt.subplots(figsize=(9, 3.6))
ax.imshow(moved.clip(-20, 20), cmap="PuOr", vmin=-20, vmax=20, aspect="auto")
for (row, column), value in np.ndenumerate(moved.to_numpy()):
    ink = "white" if abs(value) > 12 else "black"
    weight = "bold" if abs(value) > 4 else "normal"
    place = dict(ha="center", va="center", color=ink, weight=weight)
    ax.text(column, row, as_label(value), **place)
ax.set_xticks(range(moved.shape[1]), moved.columns)
ax.set_yticks(range(len(moved)), moved.index)
ax.grid(False)
ax.spines[:].set_visible(False)
ax.set_title(
    "Which measure sees which fault: change in standard deviations of clean real images"
)
plt.show()

# %% [markdown]
# Purple is more than for clean images, orange less, and 20 is the full colour. A fault's cell is the difference of two
# means of eight draws: its standard error is about 0.5, a model's (one set) about 1.06, and the unit itself, from eight
# draws, is known to about a quarter. **Bold**, beyond 4, is what we call *seen*.
#
# - **One class missing:** the distances and coverage see it, and recall does, near the border. Precision and density
#   see nothing: what is there is real.
# - **A tenth, ten times:** the distances and coverage see it. Recall falls to 0, since the nearest five of a picture
#   are its own copies, and its ball has no size. Precision and density do not see it.
# - **Blurred** and **noisy:** the distances, recall, density and coverage see both. Precision, which is meant to find
#   unfaithful pictures, sees blur far less than recall does, and noise not at all.
# - **Training images:** only the ratio. For every measure that compares distributions they are a *perfect* model.
# - **The model:** with few looks the distances are large, recall is far too low and density too high: it draws what is
#   typical. With many looks recall is still too low. The distance alone says "worse", not how.
#
# The kernel distance moves less than Frechet in every row: it scatters more, beside what it moves.
# No column is enough. Report a distance with its floor, one of recall or coverage, and a test for copies.

# %% [markdown]
# ## 3. New, or copied? · *core*
#
# **Question:** from how many training images on does a network invent?
#
# Take as many images that the network was **not** trained on as it was trained on, of the same source. For a sample,
# compare its distance $d$, of pixels, to the nearest of each kind:
#
# $$r = \frac{d(\text{nearest training image})}{d(\text{nearest held-out image})}.$$
#
# If the training images are nothing special to the network, $r$ lies about 1, as often above as below. A copy has an
# $r$ near 0. How far below 1 is too far? Real test images tell: we call **copied** what lies below 99% of theirs.
#
# Four networks of one shape were trained with the same number of steps, on 50, 200, 1,000 and 5,000 images
# (`data/make_small_models.py`). They are small and see pictures of 14x14, so that minutes are enough.
#
# **Predict before you run:** which of the four copy?

# %%
small_train = load_images("fashion-mnist", size=14)
small_test = load_images("fashion-mnist", "test", size=14)
tested = small_test[torch.randperm(len(small_test), generator=rng(3))[:1000]][0]
sizes, number = [50, 200, 1000, 5000], course.pick(test=20, cpu=500, gpu=1000)


def of_each_class(images, first, last):
    """Images first to last - 1 of a set of ten equal classes, in the order of the file."""
    own_class = (torch.nonzero(images.labels == k).flatten() for k in range(10))
    return images[torch.cat([own[first // 10 : last // 10] for own in own_class])][0]


def samples_of(size):
    """Images by the network that was trained on `size`."""
    path = course.root / "data" / "checkpoints" / f"small-{size}.safetensors"
    options = dict(image_shape=(1, 14, 14), sampler="dpmpp_2m", steps=many)
    return generate(*load_model(path, device), number, **options)


# %%
results = {}  # size: samples, their ratios, those of real test images
for size in sizes:
    trained_on = of_each_class(small_train, 0, size)
    others = of_each_class(small_train, size, 2 * size)
    drawn = samples_of(size)
    ratios = [nearest_ratio(images, trained_on, others) for images in (drawn, tested)]
    results[size] = drawn, *ratios

# %%
rows = {}
for size, (_, ratio, of_real) in results.items():
    threshold = of_real.quantile(0.01)
    copied = int((ratio < threshold).sum())
    low, high = binomtest(copied, number).proportion_ci()
    rows[size] = [f"{ratio.median():.2f}", f"{of_real.median():.2f}", f"{threshold:.2f}"]
    rows[size] += [f"{copied} of {number}", f"{100 * low:.1f} to {100 * high:.1f}"]
columns = ["median r, samples", "median r, real", "threshold", "copied", "95%, in %"]
print("1% of real images are below the threshold, by construction: so much is no copying")
pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("trained on")

# %% tags=["figure"]
figure, axes = plt.subplots(1, len(sizes), figsize=(9, 2.6), sharey=True)
looks = dict(bins=np.linspace(0, 2, 33), density=True, histtype="step", lw=1.6)
for ax, (size, (_, ratio, of_real)) in zip(axes, results.items()):
    ax.hist(ratio, color=COLOURS[1], label="samples", **looks)
    ax.hist(of_real, color=COLOURS[0], ls="--", label="real", **looks)
    ax.axvline(float(of_real.quantile(0.01)), color="grey", ls=":", label="threshold")
    ax.set(title=f"trained on {size:,}", xlabel="r")
axes[0].set_ylabel("density")
axes[0].legend(fontsize=8)
plt.show()

# %% tags=["figure"]
rows, shown = [], 10
for size in (sizes[0], sizes[-1]):
    drawn, trained_on = results[size][0][:shown], of_each_class(small_train, 0, size)
    nearest = torch.cdist(drawn.flatten(1), trained_on.flatten(1)).argmin(1)
    rows += [drawn, trained_on[nearest]]
titles = [""] * (4 * shown)
names = ["trained on 50", "nearest of them", "trained on 5,000", "nearest of them"]
for row, name in enumerate(names):
    titles[row * shown + 1] = name
finding = "Samples and the nearest training image: copies above, relatives below"
show_images(torch.cat(rows), titles=titles, columns=shown, title=finding)

# %% [markdown]
# With 50 images most samples are copies. With 200 about a fifth are, and the ratios as a whole still lie below 1. With
# 1,000 and 5,000 none is, and samples are no nearer to the training images than to others. It is one training for each
# size, and the border is that of this network after these 3,000 steps; another network, or a longer training (`STEPS`
# in the script), has another. Large models copy too: Carlini et al. (2023) drew training images out of Stable
# Diffusion.
#
# The ratio sees copies by pixels only. A mirrored or shifted copy would pass.

# %% [markdown]
# ## 4. How probable is a picture? · *core*
#
# **Question:** notebook 04 (section 6) bounded $-\log p(x_0)$ by the sum of all the terms of the loss. Can we have
# $p$ itself?
#
# Yes, since DDIM's limit is an ODE, and an ODE moves probability without losing any. Let $\phi$ be the angle with
# $\cos\phi = \sqrt{\bar\alpha_t}$ and $\sin\phi = \sqrt{1-\bar\alpha_t}$, so that
# $x_\phi = \cos\phi\,x_0 + \sin\phi\,\epsilon$. Differentiate, with the network's guesses for $x_0$ and $\epsilon$:
#
# $$\frac{dx}{d\phi} = \cos\phi\,\hat\epsilon - \sin\phi\,\hat x_0 = \hat v(x, \phi)
# \qquad\text{(Salimans \& Ho 2022, appendix D)}.$$
#
# The network's $v$ is the velocity. Where neighbours move apart, probability thins out; how fast they do is the
# **divergence**, the sum of $\partial \hat v_i/\partial x_i$. Along a solution (Song et al. 2021, section 4.3 and eq.
# 39)
#
# $$\frac{d}{d\phi}\log p_\phi(x) = -\nabla\!\cdot\hat v
# \quad\Rightarrow\quad
# \log p_{\phi_0}(x) = \log \mathcal N(x_T; 0, I) + \int_{\phi_0}^{\pi/2} \nabla\!\cdot\hat v\; d\phi ,$$
#
# where $\phi_0$ is the angle at $t = 0$. So: follow the picture to its noise, add up the divergence on the way, and look
# the noise up in the normal density.
#
# **The divergence of 784 numbers** would cost 784 gradients. *Hutchinson's trick* takes one. For a matrix $J$ and a
# **probe** $u$ of independent $\pm1$, $\mathbb E[u^\top J u] = \sum_{ij} J_{ij}\,\mathbb E[u_i u_j] = \mathrm{tr}\,J$.
# And $u^\top J$ is the gradient of the number $u\cdot\hat v(x)$.
#
# ### Your turn: 06.4
#
# Write a function that returns $v$ and Hutchinson's estimate $u^\top J u$ of the divergence (no minus sign).
# `hint("06.4")`, `solution("06.4")`.


# %%
def v_and_divergence(velocity, x, probe):
    """velocity(x), shaped as x, and the estimate probe . (dv/dx) probe, (B,).

    velocity: a function that takes each row by itself. x: (B, ...). probe: +1 and -1, as
    many. Neither result asks for a gradient, and x is left as it is.
    """
    raise NotImplementedError


check("06.4", v_and_divergence)


# %%
def course_v_and_divergence(velocity, x, probe):
    x = x.detach().requires_grad_()
    v = velocity(x)
    (gradient,) = torch.autograd.grad((v * probe).sum(), x)
    return v.detach(), (gradient * probe).flatten(1).sum(1)


v_and_divergence = choose("06.4", v_and_divergence, course_v_and_divergence)

# %% [markdown]
# Heun's method for both: the mean of the slopes at both ends of a step. The steps are closest at little noise, where
# the divergence changes fastest.

# %%
a_bar = diffusion.schedule.alphas_cumprod
phi = a_bar.sqrt().acos().tolist()


def my_log_likelihood(velocity, x, probe, steps):
    """log p of x at timestep 0, (B,). velocity(x, t) is v at the integer timestep t."""
    gained = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for t, s in pairwise(angle_grid(phi, steps)):
        h = phi[s] - phi[t]
        v, divergence = v_and_divergence(partial(velocity, t=t), x, probe)
        ahead, further = v_and_divergence(partial(velocity, t=s), x + h * v, probe)
        x = x + h / 2 * (v + ahead)
        gained = gained + h / 2 * (divergence + further)
    return gained + Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)


# %% [markdown]
# ### Where the answer is known
#
# Three normals in the plane. Noised, they are three wider normals, so $\log p$ and the perfect velocity are formulas.
# In two dimensions the probes $(1, 1)$ and $(1, -1)$ together give the exact divergence: what is off the diagonal drops
# out of their mean.

# %%
shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
centres = torch.tensor([[-0.6, 0.0], [0.5, 0.4], [0.3, -0.7]], dtype=torch.float64)
width = 0.15


def parts_of(x, t):
    """Gaps to the noised centres (B, 3, 2), the noised variance, log-densities (B, 3)."""
    a = float(a_bar[t])
    gap, variance = x[:, None] - a**0.5 * centres, a * width**2 + 1 - a
    logs = shares.log() - gap.square().sum(-1) / (2 * variance)
    return gap, variance, logs - math.log(2 * math.pi * variance)


def exact_velocity(x, t):
    gap, variance, logs = parts_of(x, t)
    signal, sigma = math.cos(phi[t]), math.sin(phi[t])
    noise = sigma * gap / variance
    x_0 = centres + signal * width**2 / variance * gap
    return (logs.softmax(1)[..., None] * (signal * noise - sigma * x_0)).sum(1)


# %%
spread_out = torch.randn(200, 2, generator=rng(4), dtype=torch.float64)
points = (
    centres[torch.multinomial(shares, 200, True, generator=rng(5))] + width * spread_out
)
exact = parts_of(points, 0)[2].logsumexp(1)
errors = {}
for steps in course.pick(test=[25, 50], cpu=[25, 100, 400, 999], gpu=[25, 100, 400, 999]):
    both = []
    for probe in ([1.0, 1.0], [1.0, -1.0]):
        probe = torch.tensor(probe, dtype=torch.float64).expand(points.shape)
        both.append(my_log_likelihood(exact_velocity, points, probe, steps))
    errors[steps] = [
        float((sum(both) / 2 - exact).abs().max()),
        float((both[0] - exact).std()),
    ]
assert course.profile == "test" or errors[steps][0] < 1e-3
columns = ["largest error, two probes", "scatter with one probe"]
pd.DataFrame.from_dict(errors, orient="index", columns=columns).rename_axis("steps").round(
    5
)

# %% [markdown]
# With small steps the ODE gives the true $\log p$. Four times the steps, at first about a sixteenth of the error: order 2.
# Near 1e-4 it levels off, because $x_T$ is only nearly normal and $t$ is an integer. One probe is right on average and
# scatters, and smaller steps do not mend that.

# %% [markdown]
# ### Images
#
# A pixel is one of 256 values, and a density of single values has no upper limit: a model could put a spike on each
# and gain without end. So noise as wide as the step from one value to the next is added (**uniform dequantisation**).
# The density's mean over a bin is the bin's probability over its width; the mean of its *logarithm* is at most the
# logarithm of that (Jensen; Theis et al. 2016, section 3.1). So what follows is, on average over the noise, at least
# the bits of the 8-bit values, for $D$ pixels and bins of width $2/255$:
#
# $$\text{bits per dimension} = -\frac{\log_2 p(x)}{D} + \log_2\frac{255}{2}.$$
#
# **Two floors.** On average no model gets below 0 bits. And ours stops at $t = 0$, where noise of standard deviation
# $\sigma_0$ is left. A *perfect* model's density there is that of the data, smoothed by this noise: even of a pixel that
# is always black it can only say "black, up to $\sigma_0$".

# %%
sigma = float((1 - a_bar[0]).sqrt())
u = torch.linspace(-1 / 255, 1 / 255, 1001, dtype=torch.float64)
least = math.log2(127.5) - float(Normal(0.0, sigma).log_prob(u).mean()) / math.log(2)
print(f"noise at t = 0: {sigma:.4f}, half a bin: {1 / 255:.4f}")
print(f"a perfect model's least, for a pixel that is always the same: {least:.2f} bits")


def shipped_velocity(x, t):
    return model(x, torch.full((len(x),), t, device=x.device))


x = test_set[:2][0].to(device)
probe = (torch.randint(2, x.shape, generator=rng(5)) * 2.0 - 1).to(device)
mine = my_log_likelihood(shipped_velocity, x, probe, steps=3)
theirs = log_likelihood(model, diffusion, x, steps=3, generator=rng(5))
torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=0.5)
print("equal to log_likelihood of utils, whatever the network predicts")


# %%
def estimates(probes):
    """probe . (dv/dx) probe at one noised image, for each probe (N, 1, 28, 28)."""
    noise = torch.randn(x[:1].shape, generator=rng(6)).to(device)
    one = diffusion.q_sample(x[:1], torch.tensor([100], device=device), noise)
    velocity = partial(shipped_velocity, t=100)
    parts = probes.to(device).split(98)
    found = [v_and_divergence(velocity, one.expand(part.shape), part)[1] for part in parts]
    return torch.cat(found).double().cpu()


trace = float(estimates(torch.eye(784).view(784, 1, 28, 28)).sum())  # entry by entry
guesses = estimates(torch.randint(2, (392, 1, 28, 28), generator=rng(5)) * 2.0 - 1)
error = float(guesses.std()) / len(guesses) ** 0.5
assert math.isclose(float(guesses.mean()), trace, rel_tol=0.01)
print(f"divergence: {trace:.0f} exactly, {guesses.mean():.0f} ± {error:.0f} by 392 probes")

# %% [markdown]
# **Predict before you run:** pictures the network never saw: scikit-learn's digits, noise, flat ones from black to white,
# blurred clothes. Which does it find *more* probable than real clothes? (About 20 seconds.)

# %%
each, steps = course.pick(test=3, cpu=50, gpu=200), course.pick(test=3, cpu=25, gpu=50)
chosen = test_set.pixels[torch.randperm(len(test_set), generator=rng(6))[:each]]
digits = load_images("digits", "test", size=28).pixels
levels = torch.linspace(0, 255, each).round().to(torch.uint8)
blurry = gaussian_blur(chosen.float(), [5, 5], [0.7, 0.7]).round().to(torch.uint8)
groups = {
    "real test images": chosen,
    "real, blurred": blurry,
    f"model, {many} looks": ((samples[many][:each] + 1) * 127.5).round().to(torch.uint8),
    "digits": digits[:each],
    "flat, black to white": levels.view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous(),
    "noise": torch.randint(256, (each, 1, 28, 28), generator=rng(7), dtype=torch.uint8),
}

# %%
bits, began = {}, time.perf_counter()
for name, pixels in tqdm(groups.items()):
    options = dict(steps=steps, generator=rng(8))
    bits[name] = bits_per_dimension(model, diffusion, pixels.to(device), **options).cpu()
seconds = (time.perf_counter() - began) / each / len(groups)
print(f"{seconds:.2f} s an image: {2 * steps} evaluations with gradient")

# %%
real_bits, rows = bits["real test images"], {}
for name, values in bits.items():
    error = 1.96 * float(values.std()) / each**0.5
    likelier = float((values[:, None] < real_bits).double().mean())
    rows[name] = [f"{values.mean():.2f} ± {error:.2f}", f"{100 * likelier:.0f}"]
columns = ["bits per dimension", "% likelier than a real image"]
print(f"{each} images each, mean ± 95% interval; {steps} steps of Heun")
print(f"interval of the last column: about ± {196 / math.sqrt(6 * each):.0f}")
paired = bits["real, blurred"] - real_bits
error = 1.96 * float(paired.std()) / each**0.5
print(f"blurred minus the same image, sharp: {paired.mean():+.2f} ± {error:.2f}")
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(8, 2.8))
for row, values in enumerate(bits.values()):
    jitter = row + 0.25 * (torch.rand(len(values), generator=rng(row)) - 0.5)
    ax.plot(values, jitter, "o", ms=3, alpha=0.6, color=COLOURS[row])
ax.axvline(least, color="grey", lw=1, ls="--", label="least of a perfect model")
ax.legend(fontsize=8, loc="lower center")
ax.set_yticks(range(len(bits)), bits)
ax.invert_yaxis()
ax.set(
    xlabel="bits per dimension (less is more probable)",
    title="Probable is not the same as typical",
)
plt.show()

# %% [markdown]
# How much is the method's own error? The same eight images with other steps, and with another noise and probe.

# %%
few_images = chosen[: course.pick(test=2, cpu=8, gpu=32)].to(device)
rows = {}
for steps in course.pick(test=[2, 4], cpu=[12, 25, 50], gpu=[12, 25, 50, 100]):
    runs = []
    for seed in (8, 9):
        options = dict(steps=steps, generator=rng(seed))
        runs.append(bits_per_dimension(model, diffusion, few_images, **options).cpu())
    change = (runs[1] - runs[0]).std() / 2**0.5
    rows[steps] = [float(runs[0].mean()), float(change)]
columns = ["bits per dimension", "std with noise and probe"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("steps").round(3)

# %% [markdown]
# And the bound of notebook 04 (`bound_terms` of `utils`), for the same network and images. It belongs to another model,
# the chain of noisy steps with variances $\tilde\beta_t$, so it bounds that model's bits and not the ODE's: the two need
# not be in order. That they are near each other is what to look for.


# %%
@torch.no_grad()
def bound_in_bits(pixels):
    """The sum of all its terms, a mean over the images, interpolated between two dozen."""
    x_0, every_t = pixels.to(device) / 127.5 - 1, np.arange(1, diffusion.num_timesteps)
    noise = torch.randn(x_0.shape, generator=rng(9)).to(device)
    probed, terms = np.unique(np.geomspace(1, every_t[-1], 24).round().astype(int)), []
    for t in (0, *probed.tolist()):
        ts = torch.full((len(x_0),), t, device=device)
        x_t = diffusion.q_sample(x_0, ts, noise)
        guess = diffusion.to_x_0(model(x_t, ts), x_t, ts)
        terms.append(float(diffusion.bound_terms(guess, 0.0, x_0, x_t, ts).mean()))
    between = np.interp(np.log(every_t), np.log(probed), np.log(terms[1:]))
    return terms[0] + np.exp(between).sum()


print(f"the bound: {bound_in_bits(chosen):.2f} bits per dimension, ", end="")
print(f"the ODE: {real_bits.mean():.2f}")

# %% [markdown]
# Few, large steps make the bits look too low: with more of them the bits rise, and settle. Noise and probe scatter far
# less than images do.
#
# **Your prediction.** Noise is told from clothes at once: it costs more than the 8 bits of a model to which all values
# are equally probable. Digits overlap with clothes. Blur changes little beside the spread of the images (the paired
# difference above the table). Flat pictures, which are no clothes, are at least as probable as clothes, and black, the
# leftmost, is below the dashed line. A perfect model could not go below; ours does: its field is not that of any
# smoothed density. Other families of models find foreign data likely too (Nalisnick et al. 2019). Probable is not
# typical: a high likelihood is no proof that a picture is in the data, and a good one no proof of good samples (Theis
# et al. 2016, section 3).

# %% [markdown]
# ## 5. Play · *further*
#
# How many images, and which $k$: real test images against the model. First for two numbers of images: with 50 the model
# is not told from real images, with 250 both measures put it behind. (The model's parts come from one pool, and share
# images: the more, the larger they are.)


# %%
def measures_of(pool, number, k):
    """Frechet distance and recall of ten random parts of the features `pool`: (10, 2)."""
    parts = [random_part(pool, number, seed) for seed in range(10)]
    recalls = [precision_recall(real, part, k)["recall"] for part in parts]
    return np.array([[quality.frechet(part) for part in parts], recalls]).T


# %%
def draw_measures(number=50, k=5):
    """Two measures of `number` images, real and the model's, ten draws of each."""
    pools = {"real": held_out, "model": of_model[f"model, {many} looks"]}
    found = [measures_of(pool, number, k) for pool in pools.values()]
    figure, axes = plt.subplots(1, 2, figsize=(8, 1.8))
    for row, values in enumerate(found):
        for ax, one in zip(axes, values.T):
            ax.plot(one, [row] * 10, "o", alpha=0.6, color=COLOURS[row])
    for ax, label in zip(axes, ["Frechet distance", f"recall, k = {k}"]):
        ax.set_yticks([0, 1], pools)
        ax.set(xlabel=label, ylim=(1.5, -0.5))
    means = [values[:, 0].mean() for values in found]
    axes[0].set_title("{} images: real at {:.1f}, model at {:.1f}".format(number, *means))
    return figure


for number in course.pick(test=(20, 50), cpu=(50, 250), gpu=(50, 250)):
    draw_measures(number)
    plt.show()

# %%
play(draw_measures, number=(30, count // 2, 10), k=(1, 10))

# %% [markdown]
# ## 6. A GAN beside it · *further*
#
# **Question:** before diffusion, the best pictures came from **generative adversarial networks** (GANs). Dhariwal and
# Nichol (2021, section 1) say that those collapse unless their settings are chosen with care, and that diffusion covers
# the distribution better, by a training with one fixed aim. Is it so, at our size?
#
# A GAN is two networks (Goodfellow et al. 2014). The **generator** $G$ turns random numbers $z$ into an image, in one
# go. The **critic** $D$ (also *discriminator*) gives each image a number, large if it takes it for real. They are
# trained in turn, against each other, so there is no loss whose fall says how far one is. Two well-known ways:
#
# - **Non-saturating** (their section 3), with $\mathrm{softplus}(u) = \log(1 + e^u)$. The critic lowers
#   $\mathrm{softplus}(-D(x)) + \mathrm{softplus}(D(G(z)))$ on average; the generator lowers
#   $\mathrm{softplus}(-D(G(z)))$.
# - **WGAN-GP** (Gulrajani et al. 2017, eq. 3). The critic lowers
#   $D(G(z)) - D(x) + 10\,\big(\lVert\nabla D(\hat x)\rVert - 1\big)^2$, the generator lowers $-D(G(z))$. The last term,
#   the **gradient penalty**, keeps the critic from being steep: $\hat x$ is a point on the line between a real image
#   and a made one, and $\nabla$ the gradient by $\hat x$. (The paper moves the generator in every fifth step only.)
#
# ### Your turn: 06.5
#
# Write the gradient penalty. `torch.autograd.grad(numbers.sum(), x, create_graph=True)` returns the gradient by `x` as
# a tuple of one, and lets you differentiate through it again. Each image has its own norm, over all of its numbers.


# %%
def gradient_penalty(critic, real, fake, mix):
    """Mean over the images of (norm of the critic's gradient - 1)^2, between real and fake.

    real, fake: (B, ...), without gradients. mix: (B, 1, ...), the share of the real image,
    from 0 to 1. critic: (B, ...) to (B, 1). A scalar that can be differentiated.
    """
    raise NotImplementedError


check("06.5", gradient_penalty)


# %%
def course_gradient_penalty(critic, real, fake, mix):
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    numbers = critic(between).sum()  # an image's number depends on that image alone
    (gradient,) = torch.autograd.grad(numbers, between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


gradient_penalty = choose("06.5", gradient_penalty, course_gradient_penalty)
line = nn.Linear(3, 1)  # its gradient is its weight, everywhere
found = gradient_penalty(line, torch.randn(5, 3), torch.randn(5, 3), torch.rand(5, 1))
assert torch.isclose(found, (line.weight.norm() - 1) ** 2, atol=1e-6)


# %%
def critic_loss(critic, real, fake, wasserstein):
    on_real, on_fake = critic(real), critic(fake)
    if not wasserstein:
        return (F.softplus(-on_real) + F.softplus(on_fake)).mean()
    mix = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    return (on_fake - on_real).mean() + 10 * gradient_penalty(critic, real, fake, mix)


def generator_loss(critic, fake, wasserstein):
    on_fake = critic(fake)
    return (-on_fake if wasserstein else F.softplus(-on_fake)).mean()


# %%
class Gan:
    """Two networks, two optimisers. generator: (B, latent) to data; critic: to (B, 1)."""

    def __init__(self, generator, critic, latent, rate, wasserstein=False, critic_steps=1):
        self.generator, self.critic, self.latent = generator, critic, latent
        self.wasserstein, self.critic_steps, self.steps = wasserstein, critic_steps, 0
        betas = (0.0, 0.9) if wasserstein else (0.5, 0.999)  # as in the papers
        networks = (generator, critic)
        self.adams = [torch.optim.Adam(net.parameters(), rate, betas) for net in networks]

    def draw(self, count):
        where = next(self.generator.parameters()).device
        return self.generator(torch.randn(count, self.latent, device=where))


def descend(network, optimizer, loss):
    network.zero_grad()
    loss.backward()
    optimizer.step()


# %%
def gan_step(gan, real):
    """A step of the critic; after every `critic_steps` of them one of the generator."""
    with torch.no_grad():
        fake = gan.draw(len(real))
    loss = critic_loss(gan.critic, real, fake, gan.wasserstein)
    descend(gan.critic, gan.adams[1], loss)
    gan.steps += 1
    if gan.steps % gan.critic_steps == 0:
        loss = generator_loss(gan.critic, gan.draw(len(real)), gan.wasserstein)
        descend(gan.generator, gan.adams[0], loss)


# %% [markdown]
# ### Eight blobs in the plane
#
# First where everything can be counted: notebook 00's eight blobs on a circle. A GAN that leaves blobs out has
# **dropped modes**. A blob counts as *kept* if it receives at least a quarter of its fair share, $1/8$, within three
# standard deviations of its centre; where fewer than half of all points are near a centre, the row says *not trained*.
# All methods have about as many weights and the same batches, a step each.
#
# **Predict before you run:** nothing rewards a generator for making *all* kinds, as long as each of its points looks
# real. How many of the eight will it make?

# %%
angles = torch.arange(8) * math.pi / 4
centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)  # (8, 2)
spread = 0.2  # standard deviation of a blob


def make_blobs(count):
    return centres[torch.randint(8, (count,))] + spread * torch.randn(count, 2)


def count_blobs(points):
    """Blobs kept, share of points near a centre, and the smallest share of a blob."""
    near = torch.cdist(points, centres) < 3 * spread  # circles that do not meet
    shares = near.double().mean(0)
    return int((shares >= 1 / 32).sum()), float(shares.sum()), float(shares.min())


def mlp(inputs, outputs, width):
    layers = []
    for size in (inputs, width, width):
        layers += [nn.Linear(size, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


# %%
class PlaneNet(nn.Module):
    """Predicts v for points in the plane; t is encoded as in notebook 02."""

    def __init__(self):
        super().__init__()
        self.layers = mlp(34, 2, 128)

    def forward(self, x_t, t, y=None):
        return self.layers(torch.cat([x_t, sinusoidal_embedding(t, 32)], 1))


def plane_gan(**options):
    """Trains a GAN and returns 2000 points of it."""
    gan = Gan(mlp(8, 2, 92), mlp(2, 1, 92), latent=8, rate=1e-3, **options)
    for _ in range(plane_steps):
        gan_step(gan, make_blobs(256))
    with torch.no_grad():
        return gan.draw(2000)


# %%
def plane_diffusion():
    network, process = PlaneNet(), GaussianDiffusion(NoiseSchedule.cosine(200))
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(plane_steps):
        descend(network, adam, process.loss(network, make_blobs(256)))
    *_, state = sample(network, process, (2000, 2), sampler="ddim", steps=50, clip=False)
    return state.x_t


plane_steps = course.pick(test=20, cpu=1500, gpu=1500)
plane_seeds = course.pick(test=2, cpu=4, gpu=10)
plane_methods = {
    "non-saturating GAN": plane_gan,
    "WGAN-GP": lambda: plane_gan(wasserstein=True, critic_steps=5),
    "diffusion": plane_diffusion,
}
plane_points = {name: [] for name in plane_methods}
for seed in tqdm(range(plane_seeds), desc="eight blobs"):
    for name, method in plane_methods.items():
        torch.manual_seed(seed)
        plane_points[name].append(method())

# %%
rows = {}
for name, sets in plane_points.items():
    kept, near, least = zip(*map(count_blobs, sets))
    shares = [f"{np.mean(values):.1%}" for values in (near, least)]
    trained = "" if np.mean(near) >= 0.5 else "not trained: "
    rows[name] = [trained + ", ".join(map(str, kept)), *shares]
kept, near, least = count_blobs(make_blobs(2000))
rows["the data itself"] = [str(kept), f"{near:.1%}", f"{least:.1%}"]
networks = {"a GAN": (mlp(8, 2, 92), mlp(2, 1, 92)), "diffusion": (PlaneNet(),)}
for name, parts in networks.items():
    print(
        f"weights of {name}: {sum(p.numel() for net in parts for p in net.parameters()):,}"
    )
columns = [f"blobs kept, {plane_seeds} seeds", "points near a centre", "in the rarest blob"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True)
method_colours = dict(zip(plane_methods, COLOURS))
for ax, (name, sets) in zip(axes, plane_points.items()):
    kept = [count_blobs(points)[0] for points in sets]
    worst = int(np.argmin(kept))
    ax.scatter(*sets[worst].T, s=2, color=method_colours[name])
    ax.plot(*centres.T, "+", color="black", ms=8)
    ax.set(title=f"{name}: {kept[worst]} of 8", xlabel="first number", aspect=1)
    ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
axes[0].set_ylabel("second number")
figure.suptitle("The worst seed of each (crosses: centres)", x=0.01, ha="left")
plt.show()

# %% [markdown]
# **Your prediction:** the non-saturating GAN keeps all eight, with every seed. But *kept* is a coarse word; look at the
# picture (of each method the seed that keeps the fewest blobs, the first of equal ones) and at the other two columns. A
# generator is one continuous map of one cloud, so it can only reach eight separate blobs by drawing bridges between
# them, and points on a bridge lie in no blob. The diffusion model is a continuous map as well, but one of 50 looks,
# which can be far steeper. And its loss asks for every blob as often as it occurs in the data. WGAN-GP's generator
# moves in every fifth step, as in the paper, and had not got that far: a smear says nothing about dropped modes. (Plain
# MLPs, rates that were not tuned.)
#
# ### Images, at the same seconds
#
# Now Fashion-MNIST. What both sides have alike:
#
# - about as many weights: a DCGAN (Radford et al. 2016), generator and critic together, and a `UNet(channels=16)`;
# - the same 20 seconds of processor time on one thread, the same batch, Adam, the same rise and fall of its rate, an
#   average of the weights for sampling, bf16 where it is fast.
#
# What they have not: a learning rate was tuned beforehand for each on one seed, among rates a factor of 3 apart, but
# five were tried for the non-saturating GAN, three for WGAN-GP with each of two numbers of critic steps, and three for
# diffusion, whose best was the largest tried.
#
# Then three new seeds, at a third of that rate, at it, and at three times it. Laid down before these runs: a run has
# **failed** if its last Frechet distance is not finite, or above twice the median of its own method at the tuned rate.
# Too long to run here; `python -m tests.benchmarks.gan` made the file that the next cells read.
#
# **Predict before you run:** which of the three is best after these seconds? Which minds the learning rate most?

# %%
runs_file = course.root / "data" / "gan-runs.csv"
print(runs_file.read_text().splitlines()[0].lstrip("# "))
runs = pd.read_csv(runs_file, comment="#")
settings = ["method", "critic_steps", "factor", "rate", "seed"]
last_rows = runs.groupby(settings, sort=False).tail(1).reset_index(drop=True)
tuned = last_rows[last_rows.factor == "as tuned"]
medians = tuned.groupby("method").frechet.median()
last_rows["failed"] = ~(last_rows.frechet <= 2 * last_rows.method.map(medians))
gan_floor = quality.floor(500)[0].mean().item()
made = tuned.groupby("method", sort=False).steps.median()
print(f"{len(last_rows)} runs; 500 samples each, as many real images: {gan_floor:.1f}")
print("steps made:", ", ".join(f"{name} {count:.0f}" for name, count in made.items()))

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(7, 3.4))
for name, colour in method_colours.items():
    own = last_rows[last_rows.method == name]
    five = own.critic_steps == 5
    parts = [
        ("o", own[~five & ~own.failed], ""),
        ("x", own[~five & own.failed], ", failed"),
    ]
    for mark, part, text in [*parts, ("+", own[five], ", 5 critic steps")]:
        if len(part):
            ax.plot(
                part.rate, part.frechet, mark, color=colour, label=name + text, alpha=0.7
            )
ax.set(xscale="log", yscale="log", xlabel="learning rate (tuning and final runs)")
ax.set_ylabel("Frechet distance after 20 s")
ax.set_title("Each method has a range of rates that work")
plain_ticks(ax)
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(7, 3.2))
for name, own in runs[runs.factor == "as tuned"].groupby("method", sort=False):
    for seed, line in own.groupby("seed"):
        label = name if seed == 0 else None
        colour = method_colours[name]
        ax.plot(line.seconds, line.frechet, "o-", ms=4, color=colour, label=label)
ax.set(xlabel="seconds of training", ylabel="Frechet distance", ylim=(15, 50))
ax.set_title(f"The non-saturating GAN is ahead so far; all are far from {gan_floor:.1f}")
ax.legend(fontsize=8)
plt.show()


# %%
def failures(failed):
    """How many of the runs failed, and the exact 95 % interval of the share."""
    result = binomtest(int(failed.sum()), len(failed))
    low, high = result.proportion_ci(method="exact")
    return f"{result.k} of {result.n} ({low:.0%} to {high:.0%})"


final = last_rows[last_rows.factor != "tuning"]
table = final.groupby(["method", "factor"]).failed.apply(failures).unstack()
table[["a third", "as tuned", "three times"]]

# %% [markdown]
# **After 20 seconds the non-saturating GAN is ahead**, at every point of the tuned curves, with every seed. Twenty
# seconds of one thread are a few hundred steps, early for all three, and say nothing about finished models. The
# diffusion model in `data/checkpoints`, trained for far longer, is much nearer to the floor than any of these runs
# (section 1 has its distance and number of images).
#
# **Which minds the learning rate?** After 20 seconds they are not told apart. The diffusion model fails at 0.06 with
# all three seeds; but its tuned rate, 0.02, was the largest tried, chosen over 0.006 with one seed, and the final runs
# show no difference between 0.02 and a third of it. Had 0.006 been picked, three times it would have worked. What can
# be read off the first figure is a range that works: from 0.002 to 0.02 for diffusion, from 0.001 to 0.01 for WGAN-GP
# with one critic step, and from 0.0002, the smallest tried, for the non-saturating GAN, which at 0.018 works with two
# seeds and fails with the third. The exact intervals of three runs are wide: 3 of 3 and 1 of 3 overlap. (The plus signs
# of five critic steps do not show who failed: one did, at a distance of 80.)
#
# ### One GAN, live
#
# So that you can watch one: the networks, the rate (0.006) and the average of those runs, half a minute of the clock.
# Warm-up, decay and bf16 are left out, so that the code is short; the cell prints its steps and distance beside theirs.


# %%
def image_generator(latent=32):
    """Two transposed convolutions, as in a DCGAN: (B, latent) to (B, 1, 28, 28)."""
    return nn.Sequential(
        nn.Linear(latent, 64 * 49),
        nn.Unflatten(1, (64, 7, 7)),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),  # to 14x14
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),  # to 28x28
        nn.Tanh(),
    )


# %%
def image_critic():
    """The way back: (B, 1, 28, 28) to (B, 1)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64 * 49, 1),
    )


torch.manual_seed(0)
networks = image_generator().to(device), image_critic().to(device)
gan = Gan(*networks, latent=32, rate=6e-3)
gan_average = copy.deepcopy(gan.generator)
shown_z = torch.randn(10, 32, device=device)
gan_seconds = course.pick(test=0.5, cpu=30, gpu=30)
moments = [gan_seconds * part for part in (0.0, 0.1, 0.3, 1.0)]
gan_rows = {}  # a row of images for each moment

# %%
began = time.perf_counter()
while (spent := time.perf_counter() - began) < gan_seconds or len(gan_rows) < len(moments):
    if spent >= moments[len(gan_rows)]:
        with torch.no_grad():  # batch norm uses this batch's statistics, as in training
            gan_rows[gan.steps] = gan_average(shown_z).cpu()
    x_0 = train_set[torch.randint(len(train_set), (64,))][0].to(device)
    gan_step(gan, x_0)
    decay = min(0.999, (1 + gan.steps) / (10 + gan.steps))
    update_ema(gan_average, gan.generator, decay)
with torch.no_grad():
    images = gan_average(torch.randn(500, 32, device=device))
distance = quality.frechet(quality.features(images))
live_rate = last_rows[(last_rows.method == "non-saturating GAN") & (last_rows.rate == 6e-3)]
print(f"here: {gan.steps} steps; Frechet distance of {len(images)} samples: {distance:.1f}")
print(f"the runs: {live_rate.steps.median():.0f} steps; {live_rate.frechet.median():.1f}")

# %% tags=["figure"]
titles = [text for k in gan_rows for text in [f"{k} steps", *[""] * 9]]
finding = "Ten fixed random inputs as the generator learns"
show_images(torch.cat([*gan_rows.values()]), titles=titles, columns=10, title=finding)

# %% [markdown]
# ### Where the GAN wins
#
# **Predict before you run:** a GAN calls its network once for a batch. A diffusion model of the same size calls it 10
# times, or 1000. What does one image cost?

# %%
speed_count = course.pick(test=10, cpu=250, gpu=1000)
small_unet = UNet(channels=16).to(device)
process = GaussianDiffusion(NoiseSchedule.cosine(1000))
unet_draw = partial(generate, small_unet, process, speed_count, sampler="dpmpp_2m")


@torch.no_grad()
def milliseconds(draw):
    """Per image; the second of two calls, since the first prepares what both need."""
    for _ in range(2):
        began = time.perf_counter()
        draw().cpu()
    return 1000 * (time.perf_counter() - began) / speed_count


# %%
z = torch.randn(speed_count, 32, device=device)
costs = {"the GAN": milliseconds(lambda: gan_average(z))}
for steps in [1, 10]:
    name = f"UNet(channels=16), {steps} evaluation{'s' * (steps > 1)}"
    costs[name] = milliseconds(partial(unet_draw, steps=steps))
pd.DataFrame({"milliseconds per image": costs}).round(3)

# %% [markdown]
# The GAN needs one evaluation for an image, and that of a smaller network, since the generator is only a part of its
# weights. So it is cheaper by a larger factor than the number of evaluations of the diffusion model.
#
# **What was found.** Dhariwal and Nichol compare large models, trained until they are done. Here:
#
# 1. *Does a GAN leave modes out?* After these 1500 steps in the plane the non-saturating one did not; the WGAN-GP had
#    not got that far. The diffusion model comes nearest to the data. Nothing about finished models.
# 2. *Is a GAN more easily upset by its learning rate?* After 20 seconds, with three seeds: not told apart. Nothing
#    about finished models.
# 3. *Which is better?* After 20 seconds the non-saturating GAN, and it is cheaper for each image. Nothing about
#    finished models. All runs were far from done: the live GAN above, with a constant rate and about twice the steps, is
#    well ahead of the same networks in the runs. (How much is due to the steps and how much to the rate is not told.)
# 4. What stays true by construction: the diffusion loss has one fixed aim, so that it can be watched, and measured on
#    held-out images (notebook 04). The two losses of a GAN only tell who is winning.
#
# ### Exercise 06.6 *(further)*: what a critic knows
#
# At its best, the non-saturating loss makes $\mathrm{sigmoid}(D(x)) = \frac{p(x)}{p(x) + q(x)}$, with the density $p$
# of the data and $q$ of the generator (Goodfellow et al. 2014, Proposition 1). So a critic that is thrown away after
# training knows which samples are too frequent. **Rejection sampling** (Azadi et al. 2019) uses it: keep each sample
# with a chance in proportion to $p/q$, and what is kept is distributed as the data. Write the chances for a batch; the
# largest should be 1, so that no more is thrown away than need be.


# %%
def acceptance(logits):
    """Chances (B,) from 0 to 1, in proportion to p/q, the largest 1.

    logits: the critic's numbers D(x) of B samples, (B,), from -100 to 100 or so.
    """
    raise NotImplementedError


check("06.6", acceptance)

# %% [markdown]
# ## 7. A museum of bugs · *further*
#
# **Question:** samples are bad. What is wrong? A bug in a diffusion model rarely raises an error: a wrong formula gives
# numbers like a right one. Here are the bugs that widely read tutorials and their readers' questions are full of, each
# put in on purpose, one at a time. (Notebook 01, section 9, has those of the forward process.)
#
# For each we want a picture, a distance with its error, and **the test that would have caught it**: one line that the
# healthy part passes and the faulty one does not. Tests of that kind ask for a *property*. One property covers most
# samplers. Whoever knows the clean $x_0$, and steps from $x_t \sim q(x_t \mid x_0)$ to an earlier $s$, has to land in
# $q(x_s \mid x_0)$ (Ho et al. 2020, eq. 4):
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon \quad\Longrightarrow\quad
# x_s = \sqrt{\bar\alpha_s}\,x_0 + \text{noise of mean } 0 \text{ and variance } 1-\bar\alpha_s.$$
#
# DDPM's step does with the variance $\tilde\beta$ of its eq. 7, and so does DDIM's with any $\eta$ (notebook 05,
# section 4). Ho et al.'s other choice, $\tilde\sigma^2 = \beta$, does not for a known $x_0$: it fails this test and is
# no bug.
#
# ### Your turn: 06.7
#
# Somebody hands you `step(x_t, x_0, a_bar_t, a_bar_s, z)`, which claims to have that property. Write the test. You
# choose $x_0$ and the $\bar\alpha$, which are plain numbers, and draw $\epsilon$ and $z$, both standard normal. 50,000
# numbers and a tolerance of 0.03 do. Mind the last step, where $\bar\alpha_s = 1$.


# %%
def keeps_eq_4(step):
    """True if x_s = step(x_t, x_0, a_bar_t, a_bar_s, z) has the mean and variance of eq. 4.

    step: takes tensors of one shape (z: standard normal) and two plain numbers,
    0 < a_bar_t < a_bar_s <= 1.
    """
    raise NotImplementedError


check("06.7", keeps_eq_4)


# %%
def course_keeps_eq_4(step):
    generator = torch.Generator().manual_seed(0)
    x_0, noise, z = torch.randn(3, 50_000, generator=generator)
    for a_bar_t, a_bar_s in [(0.1, 0.3), (0.5, 0.6), (0.6, 1.0)]:
        x_t = math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise
        rest = step(x_t, x_0, a_bar_t, a_bar_s, z) - math.sqrt(a_bar_s) * x_0
        # no mean, nothing of the image, and the right variance
        found = torch.stack([rest.mean(), (rest * x_0).mean(), rest.var() - (1 - a_bar_s)])
        if float(found.abs().max()) > 0.03:
            return False
    return True


keeps_eq_4 = choose("06.7", keeps_eq_4, course_keeps_eq_4)

# %% [markdown]
# ### Faults of sampling: the shipped model
#
# The first hall needs no training. `museum_draw` samples from the shipped model with DDIM; each of its arguments is a
# part that can be exchanged. The labels, the noise and the number of evaluations are always the same.

# %%
museum_count = course.pick(test=16, cpu=128, gpu=500)
museum_steps = course.pick(test=3, cpu=12, gpu=20)
museum_T, museum_rng = diffusion.num_timesteps, torch.Generator().manual_seed(70)
museum_x_T = torch.randn(museum_count, 1, 28, 28, generator=museum_rng)
museum_y = torch.arange(museum_count) % 10


def to_bytes(images):
    """Images in [-1, 1] as uint8 pixels."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


healthy = dict(
    model=model,
    diffusion=diffusion,
    told=lambda t: t,  # what the network is told about t
    step=ddim_step,
    x_T=museum_x_T,
    y=museum_y,
    clip=True,
    save=to_bytes,  # what is measured and shown is what would lie on the disk
)


# %%
def museum_draw(**changes):
    """Images as uint8 (N, 1, 28, 28), by the healthy parts but for the changes."""
    parts = healthy | changes

    def network(x_t, t, y):
        return parts["model"](x_t, parts["told"](t), y)

    x_T, generator = parts["x_T"].to(device), torch.Generator().manual_seed(71)
    options = dict(sampler=parts["step"], steps=museum_steps, clip=parts["clip"], x_T=x_T)
    options |= dict(y=parts["y"].to(device), generator=generator)
    *_, state = sample(network, parts["diffusion"], x_T.shape, **options)
    return parts["save"](state.x_t.cpu())


# %%
def redrawn_distances(images):
    """Frechet distance, and 30 more of images drawn again, with the same picks for all."""
    features = quality.features(images)
    picks = torch.randint(len(features), (30, len(features)), generator=rng(0))
    return np.array([quality.frechet(part) for part in (features, *features[picks])])


def compare(galleries):
    """Of each: distance, difference to the first, standard error of that difference."""
    values = {name: redrawn_distances(images) for name, images in galleries.items()}
    less = {name: own - next(iter(values.values())) for name, own in values.items()}
    rows = {name: [values[name][0], less[name][0], less[name][1:].std()] for name in less}
    columns = ["Frechet distance", "above healthy", "±"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(1)


# %%
def balanced_floor(labels, draws=10):
    """Frechet distances of real test images with as many of each class as `labels` has."""
    distances = []
    for seed in range(draws):
        order = torch.randperm(len(test_set), generator=rng(seed))
        of_order = test_set[order][1]
        parts = [order[of_order == y][:n] for y, n in enumerate(labels.bincount().tolist())]
        distances.append(quality.frechet(quality.features(test_set[torch.cat(parts)][0])))
    return np.array(distances)


def gallery(galleries, table, title):
    """A row of eight images for each name, under its name and Frechet distance."""
    texts = [f"{name}: {table.loc[name, 'Frechet distance']:.1f}" for name in galleries]
    titles = [text for middle in texts for text in ["", "", "", middle, "", "", "", ""]]
    images = torch.cat([images[:8] for images in galleries.values()])
    return show_images(images / 127.5 - 1, titles=titles, columns=8, scale=2, title=title)


# %% [markdown]
# The faults, as functions. (`a / b` is $\alpha$ of the step; notebook 05, section 2, derives the variances.)


# %%
def noise_in_last_step(x_t, x_0, a, b, z, previous=None):
    x_0_weight, x_t_weight, variance = posterior_weights(a, b)
    variance = variance if b < 1 else 1 - a / b
    return x_0_weight * x_0 + x_t_weight * x_t + math.sqrt(variance) * z


def variance_for_std(x_t, x_0, a, b, z, previous=None):
    x_0_weight, x_t_weight, variance = posterior_weights(a, b)
    return x_0_weight * x_0 + x_t_weight * x_t + variance * z


def patches_swapped(x_t, t, y):
    """Of each 2x2 patch that the stem folds into channels, two pixels come back swapped."""
    out = F.pixel_unshuffle(model(x_t, t, y), 2)
    return F.pixel_shuffle(out[:, [0, 2, 1, 3]], 2)


def to_bytes_wrapped(images):
    return ((images + 1) * 127.5).round().int().remainder(256).byte()  # what 8 bits keep


def to_bytes_half(images):
    return ((images.clamp(-1, 1) / 2 + 1) * 127.5).round().byte()  # images put in [0, 1]


# %%
halfway = (museum_x_T + museum_x_T.flip(0)) / 2  # on a straight line between two
uniform = torch.rand(museum_x_T.shape, generator=torch.Generator().manual_seed(72))
linear = GaussianDiffusion(NoiseSchedule.linear(museum_T), diffusion.prediction)
of_noise = GaussianDiffusion(diffusion.schedule, "noise")
museum = {  # the first part that is named is the faulty one
    "DDPM, noise in the last step": dict(step=noise_in_last_step),
    "DDPM, variance for its root": dict(step=variance_for_std),
    "uniform x_T": dict(x_T=uniform),
    "uniform x_T, DDPM": dict(x_T=uniform, step=ddpm_step),
    "x_T half-way between two": dict(x_T=halfway),
    "another schedule": dict(diffusion=linear),
    "v taken for the noise": dict(diffusion=of_noise),
    "patches swapped": dict(model=patches_swapped),
    "t counted in steps": dict(told=lambda t: t * museum_steps // museum_T),
    "t off by one": dict(told=lambda t: (t - 1).clamp(min=0)),
    "neither clipped nor clamped": dict(save=to_bytes_wrapped, clip=False),
    "left in [0, 1]": dict(save=to_bytes_half),
    "estimate not clipped": dict(clip=False),
    "one label for all": dict(y=torch.full_like(museum_y, 8)),
}

# %% [markdown]
# The tests, one for each part. The most useful one needs no sampling: noise *real* images, let network and process
# estimate $x_0$ **once**, and look at the error. Another takes the place of the network: a **spy** keeps the times and
# labels that the program around it really passes on.


# %%
@torch.no_grad()
def one_look_error(network, process):
    """Root mean square error of the estimate of x_0 for real images, alpha-bar 0.65."""
    x_0, y = test_set[:64]
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).to(device)
    x_0, y = x_0.to(device), y.to(device)
    t = (process.schedule.alphas_cumprod - 0.65).abs().argmin().expand(64).to(device)
    x_t = process.q_sample(x_0, t, noise)
    estimate = process.to_x_0(network(x_t, t, y), x_t, t)
    return float((estimate - x_0).square().mean().sqrt())


# %%
class Spy(nn.Module):
    """Predicts 0 and keeps the t and the labels that it is given, one tensor a call."""

    def __init__(self):
        super().__init__()
        self.weight, self.t, self.y = nn.Parameter(torch.zeros(())), [], []

    def forward(self, x_t, t, y):
        self.t.append(t.cpu())
        self.y.append(y.cpu())
        return self.weight * x_t


def seen_in_sampling(**changes):
    """First t and all labels that a network meets."""
    spy = Spy()
    museum_draw(model=spy, **changes)
    return int(spy.t[0].max()), sorted(spy.y[0].unique().tolist())


# %%
def largest_estimate(clip, network=model, process=diffusion):
    """Largest absolute value of the estimates of x_0 in a run of two images."""
    options = dict(x_T=museum_x_T[:2].to(device), y=museum_y[:2], clip=clip)
    states = sample(network, process, (2, 1, 28, 28), steps=museum_steps, **options)
    return max(float(state.x_0.abs().max()) for state in states)


# %%
def is_normal(x_T):
    """Mean 0 and variance 1, as far as so many numbers tell."""
    return abs(float(x_T.mean())) < 0.03 and abs(float(x_T.var()) - 1) < 0.05


sides, last_t = torch.tensor([-1.2, -1.0, 1.0, 1.2]), museum_T - 1
museum_tests = {  # part: the test in words, the test
    "step": ("keeps_eq_4(step)", keeps_eq_4),
    "x_T": ("is_normal(x_T)", is_normal),
    "diffusion": ("one_look_error < 0.25", lambda one: one_look_error(model, one) < 0.25),
    "model": ("one_look_error < 0.25", lambda one: one_look_error(one, diffusion) < 0.25),
    "told": ("spy: t starts at T - 1", lambda f: seen_in_sampling(told=f)[0] == last_t),
    "save": ("-1 is 0, 1 is 255", lambda save: save(sides).tolist() == [0, 0, 255, 255]),
    "clip": ("|estimate| <= 1", lambda clip: largest_estimate(clip) <= 1),
    "y": ("spy: all labels", lambda y: seen_in_sampling(y=y)[1] == [*range(10)]),
}

# %% [markdown]
# **Predict before you run:** which of these ruins the images most? Which cost (almost) nothing?

# %%
galleries = {"healthy (DDIM)": museum_draw(), "healthy DDPM": museum_draw(step=ddpm_step)}
caught_by = dict.fromkeys(galleries, "")
for name, changes in tqdm(museum.items(), desc="museum"):
    part, faulty = next(iter(changes.items()))
    caught_by[name], test = museum_tests[part]
    assert test(healthy[part]), f"{caught_by[name]} should pass on the healthy {part}"
    assert not test(faulty), f"{caught_by[name]} should fail: {name}"
    galleries[name] = museum_draw(**changes)
looks = {"healthy": (model, diffusion), "another schedule": (model, linear)}
looks |= {"v for the noise": (model, of_noise), "swapped": (patches_swapped, diffusion)}
found = [f"{name} {one_look_error(*pair):.2f}" for name, pair in looks.items()]
print("Every test passes on the healthy part and fails on the faulty one.")
print("one_look_error:", ", ".join(found))

# %%
museum_table = compare(galleries)
museum_table["caught by"] = pd.Series(caught_by)
museum_floor = balanced_floor(museum_y)
print(f"{museum_count} images; as many real ones, as many of each class:")
print(
    f"{museum_floor.mean():.1f}, spread {museum_floor.std():.1f}. ± is the standard error"
)
print("of the difference, by other images of the same labels and model.")
museum_table

# %% tags=["figure"]
gallery(galleries, museum_table, "One fault each, same noises and labels; Frechet distance")

# %% [markdown]
# - **The network is asked what training never asked**: $t$ counted in steps (0 to 11 where it expects 0 to 999) gives
#   texture and no shape, another schedule garments drowned in texture, $v$ taken for the noise black and white specks,
#   and patches swapped a checkerboard. One look at a noised real image finds all of them but the first.
# - **A wrong $x_T$ counts with DDIM**, which keeps it to the end, and hardly with DDPM, whose fresh noise replaces it.
#   Uniform noise has a mean of 0.5, and the network takes it for a white picture. Half-way between two noises is too
#   little noise, and the garments come out smooth; the cure is `slerp`.
# - **Some spoil what is good underneath**: noise left on in the last step gives grain; with the variance in the place
#   of its root too little noise is added, and texture is lost; values outside 0 to 255 wrap around to specks of the
#   other colour; [0, 1] gives grey where black should be. The last has a huge distance, although a human sees good
#   garments: the classifier has never seen a grey background.
# - **One label for all** draws bags only. No single image shows the fault; a measure of the whole set does.
# - **Two are not told apart from the healthy row here**: $t$ off by one ($T$ is 1000, so neighbours are alike) and no
#   clipping (the network predicts $v$). They wait for another $T$ or another prediction; only a test finds them.
#
# ### Faults of training
#
# The second hall trains: a small U-Net, the same seed, the same few hundred steps at a constant rate, with one part
# exchanged. Such a short training is far from finished; read each distance beside that of the healthy one.

# %%
short_steps = course.pick(test=4, cpu=300, gpu=2000)
sound = dict(
    process=GaussianDiffusion(NoiseSchedule.cosine(1000)),
    network=lambda: UNet(channels=16, num_classes=10),
    data=lambda images: images,
    noise=torch.randn_like,
    told=lambda t: t,
    draw_t=lambda count, T: torch.randint(T, (count,), device=device),
    rate=2e-3,
    steps=short_steps,
)


# %%
def short_training(**changes):
    """Network, its average, loss of the last tenth; sound parts but for the changes."""
    parts, losses = sound | changes, []
    torch.manual_seed(0)
    network, process = parts["network"]().to(device).train(), parts["process"]
    average = copy.deepcopy(network).requires_grad_(False)
    adam = torch.optim.Adam(network.parameters(), parts["rate"])
    for k in range(parts["steps"]):
        x_0, y = train_set[torch.randint(len(train_set), (64,))]
        x_0 = parts["data"](x_0.to(device))
        t, noise = parts["draw_t"](64, process.num_timesteps), parts["noise"](x_0)
        x_t, target = process.q_sample(x_0, t, noise), process.target(x_0, noise, t)
        with autocast(device, find_precision(device)):
            output = network(x_t, parts["told"](t), y.to(device))
        loss = (output.float() - target).square().mean()
        descend(network, adam, loss)
        update_ema(average, network, min(0.99, (1 + k) / (10 + k)))
        losses.append(loss.item())
    return network, average, float(np.mean(losses[-max(1, len(losses) // 10) :]))


# %%
def without_a_skip():
    """A U-Net whose finest skip, pushed first, reaches nobody."""

    def forget(stage, inputs):
        x, emb = inputs
        return torch.cat([x[:, :-16], torch.zeros_like(x[:, -16:])], 1), emb

    network = UNet(channels=16, num_classes=10)
    network.up[-1].register_forward_pre_hook(forget)
    return network


def all_channels_learn(make):
    """True if after three steps every channel of every norm has a gradient."""
    network = short_training(network=make, steps=3)[0]
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    return all(bool((norm.weight.grad != 0).all()) for norm in norms)


# %%
unscaled = GaussianDiffusion(NoiseSchedule.linear(200, rescale=False))


def range_of_t(**changes):
    """Smallest and largest t that a network meets in 200 steps of training."""
    spy = short_training(network=Spy, steps=200, **changes)[0]
    return [int(end) for end in torch.cat(spy.t).aminmax()]


# %%
short_museum = {
    "T = 200, betas as for 1000": ("process", unscaled),
    "trained on [0, 1]": ("data", lambda images: (images + 1) / 2),
    "uniform noise": ("noise", torch.rand_like),
    "t not told": ("told", lambda t: 0 * t),
    "index 0 never trained": ("draw_t", lambda count, T: 1 + sound["draw_t"](count, T - 1)),
    "a skip never popped": ("network", without_a_skip),
}
short_tests = {
    "process": ("x_T is noise", lambda one: one.schedule.alphas_cumprod[-1] < 0.01),
    "data": ("smallest pixel is -1", lambda one: float(one(test_set[:64][0]).min()) == -1),
    "noise": ("is_normal(noise)", lambda noise: is_normal(noise(museum_x_T))),
    "told": ("spy: t from 0 to T - 1", lambda told: range_of_t(told=told) == [0, 999]),
    "draw_t": ("spy: t from 0 to T - 1", lambda f: range_of_t(draw_t=f) == [0, 999]),
    "network": ("every channel has a gradient", all_channels_learn),
}

# %%
trained, short_caught = {"healthy training": short_training()}, {"healthy training": ""}
for name, (part, faulty) in tqdm(short_museum.items(), desc="trainings"):
    short_caught[name], test = short_tests[part]
    assert test(sound[part]), f"{short_caught[name]} should pass on the sound {part}"
    assert not test(faulty), f"{short_caught[name]} should fail: {name}"
    trained[name] = short_training(**{part: faulty})

short_galleries = {}
for name, (_, average, _) in trained.items():
    parts = sound | dict([short_museum.get(name, ("rate", 2e-3))])
    parts = dict(diffusion=parts["process"], told=parts["told"])
    short_galleries[name] = museum_draw(model=average.eval(), **parts)

# %% [markdown]
# Three more faults use trainings that are there or short: sampling with the last weights and not their average; a
# training that goes on from the healthy one at ten times the rate, as after a restart that forgot the schedule of the
# rate; and the estimate that is not clipped, with a network that predicts the *noise* (linear betas), where it matters.

# %%
network, average, loss = trained["healthy training"]
raw = copy.deepcopy(network).eval()
more = dict(rate=2e-2, steps=max(2, short_steps // 4))
again = short_training(network=lambda: copy.deepcopy(raw), **more)
noisy = GaussianDiffusion(NoiseSchedule.linear(1000), "noise")
by_noise = short_training(process=noisy)


def are_equal(a, b):
    return all(map(torch.equal, a.parameters(), b.parameters()))


assert are_equal(raw, network) and not are_equal(average, network)
largest = [largest_estimate(clip, by_noise[1], noisy) for clip in (True, False)]
assert largest[0] <= 1 < largest[1]
on = short_training(
    network=lambda: copy.deepcopy(raw), steps=more["steps"]
)  # a right restart
print(
    f"loss over that before: {on[2] / loss:.1f}; at 10 times the rate {again[2] / loss:.1f}"
)

# %%
extra = {
    "no average": (raw, sound["process"], True, loss),
    "gone on at 10 times the rate": (again[0].eval(), sound["process"], True, again[2]),
    "predicts noise, clipped": (by_noise[1].eval(), noisy, True, by_noise[2]),
    "predicts noise, not clipped": (by_noise[1].eval(), noisy, False, by_noise[2]),
}
for name, (model_used, process, clip, _) in extra.items():
    short_galleries[name] = museum_draw(model=model_used, diffusion=process, clip=clip)

# %%
short_losses = {name: loss for name, (_, _, loss) in trained.items()}
short_losses |= {name: loss for name, (_, _, _, loss) in extra.items()}
short_caught |= {
    "no average": "not the trained weights",
    "gone on at 10 times the rate": "loss < 1.5 times that before",
    "predicts noise, clipped": "",
    "predicts noise, not clipped": "|estimate| <= 1",
}
short_table = compare(short_galleries)
short_table["loss at the end"] = pd.Series(short_losses).round(3)
short_table["caught by"] = pd.Series(short_caught)
print("± is by other images of the same network; another training seed is not in it")
short_table

# %% tags=["figure"]
gallery(
    short_galleries, short_table, "One fault each, same short training; Frechet distance"
)

# %% [markdown]
# The loss column first: **the two lowest losses of the $v$ networks belong to two of the worst rows.** Uniform noise
# and images in [0, 1] are easier to predict, and a loss of another task says nothing. So a falling loss proves little;
# tests and samples do.
#
# - **Uniform noise** ruins everything: sampling starts from a noise that training never showed. **[0, 1]** gives grey
#   pictures. $T = 200$ **with betas for 1000** gives shapes too bright and frayed: $x_T$ was never noise (notebook 05,
#   section 11).
# - **Gone on at ten times the rate**: shapes that were there are nearly lost in noise, within a few dozen steps.
# - **Predicts noise, not clipped**: saturated black and white. The *distance* does not see it: it is even a little less
#   than with clipping, here where both rows are poor. The picture shows it. No number replaces looking.
# - **Not told apart from the healthy one by one seed each**: index 0 never trained (one of 1000), a skip never popped
#   (the finest of the two full-size ones: the network is a weaker one, no broken one; notebook 03 lost both), $t$ not
#   told (the noise level can be guessed from the picture; notebook 02, Sun et al. 2025). Only a test finds them.
# - **No average** is not worse in so short a training: the average still has much of the early weights in it. The usual
#   advice is for long ones (Ho et al. 2020, appendix B, use a decay of 0.9999). Notebook 04 measures it.
#
# One seed each: read a difference of a few units as nothing.
#
# ### My samples are noise, what is wrong?
#
# The part to keep. Each row was reproduced above.
#
# | what you see | ask first (the fault above) | the test | the cure |
# | --- | --- | --- | --- |
# | noise or texture, hardly a shape | $t$ counted in steps; another schedule; $v$ taken for the noise; uniform noise in training | a spy: $t$ starts at $T - 1$; one look at a noised real image; mean 0 and variance 1 | keep schedule and prediction with the weights; `torch.randn`, not `torch.rand` |
# | checkerboard | patches swapped | one look; unfold, then fold, gives the image back | fold in the order of unfolding |
# | grain over good shapes | noise in the last step | eq. 4 at $\bar\alpha_s = 1$ | no noise where $\bar\alpha_s = 1$ |
# | smooth, no texture | variance for its root; a half-way $x_T$ | eq. 4; variance of $x_T$ | the root; `slerp` |
# | grey instead of black | left in [0, 1], when saved or in training | -1 is 0 and 1 is 255; smallest pixel -1 | one place where pixels are scaled, and its inverse |
# | saturated: black, white | predicts noise, not clipped; uniform $x_T$ | estimates in [-1, 1]; mean 0 and variance 1 | clip the estimate; `torch.randn` |
# | specks of the other colour | neither clipped nor clamped | -1 is 0, 1 is 255, and so beyond them | clamp, then convert |
# | one class only | one label for all | all labels; count kinds of samples | a label for each image; more than one kind of measure |
# | fine loss, bad samples | [0, 1] and uniform noise in training; every fault of the first hall | the tests of `noise` and data; one look | test sampler and data apart from the training |
# | too bright, frayed | $T = 200$, betas for 1000 | $\bar\alpha_T < 0.01$ | scale the betas by $1000/T$ |
# | shapes that were there are lost | gone on at 10 times the rate | the loss after a restart below 1.5 times that before | save and restore the optimiser and the rate |
# | nothing, or only worse than published | a skip never popped; $t$ not told; index 0 | a gradient in every channel; a spy: $t$ from 0 to $T - 1$ | the test; then patience |

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $m$, $C$ | `gaussian_of(features)` | mean and covariance of a set's features |
# | FD | `frechet_distance` | squared Wasserstein-2 distance of two Gaussians; biased upwards by few images |
# | $\kappa(x, y)$ | `kernel_distance` | mean similarities within and between two sets; no bias |
# | $k$ | `precision_recall(real, generated, k)` | the ball around a point reaches to its $k$-th nearest other |
# | $r$ | `nearest_ratio` | distance to the nearest training image over that to the nearest held-out one |
# | $\phi$ | `phi` | the angle with $\cos\phi = \sqrt{\bar\alpha_t}$, in which the ODE is $dx/d\phi = v$ |
# | $u$ | `probe` | independent $\pm1$, for Hutchinson's estimate of a trace |
#
# 1. A distance needs its number of images, its features and its floor, and does not say what is wrong.
# 2. Precision asks whether what is drawn is real, recall whether what is real is drawn; a copied training set passes
#    both, and only the comparison with held-out images finds it.
# 3. The ODE gives an exact likelihood, but the probable is not the typical: a black picture, which is no clothes, is
#    more probable than clothes.
#
# **Next:** guidance (07): the same model, told what to draw.
#
# ### References
# - Heusel et al. 2017, *GANs trained by a two time-scale update rule*, arXiv 1706.08500: eq. 6, the Frechet distance.
# - Dowson, Landau 1982, *The Fréchet distance between multivariate normal distributions*.
# - Chong, Forsyth 2020, *Effectively unbiased FID and Inception score*, arXiv 1911.07023.
# - Binkowski et al. 2018, *Demystifying MMD GANs*, arXiv 1801.01401: the kernel distance.
# - Gretton et al. 2012, *A kernel two-sample test*: Lemma 6.
# - Kynkäänniemi et al. 2019, *Improved precision and recall metric*, arXiv 1904.06991: eq. 1 and 2.
# - Naeem et al. 2020, *Reliable fidelity and diversity metrics*, arXiv 2002.09797: section 3, Lemma 2.
# - Carlini et al. 2023, *Extracting training data from diffusion models*, arXiv 2301.13188.
# - Song et al. 2021, *Score-based generative modeling through SDEs*, arXiv 2011.13456: section 4.3, eq. 39.
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: eq. 4, 6, 7, 13; section 3.3 (the
#   last step). The clipping of the estimate is in their code: `clip_denoised` in `diffusion_utils.py` of
#   github.com/hojonathanho/diffusion.
# - Salimans, Ho 2022, *Progressive distillation*, arXiv 2202.00512: appendix D.
# - Theis, van den Oord, Bethge 2016, *A note on the evaluation of generative models*, arXiv 1511.01844: section 3.
# - Nalisnick et al. 2019, *Do deep generative models know what they don't know?*, arXiv 1810.09136.
# - Goodfellow et al. 2014, *Generative adversarial nets*, arXiv 1406.2661: section 3 (non-saturating loss),
#   Proposition 1.
# - Radford, Metz, Chintala 2016, *DCGAN*, arXiv 1511.06434: section 3.
# - Gulrajani et al. 2017, *Improved training of Wasserstein GANs*, arXiv 1704.00028: eq. 3, Algorithm 1, section 4.
# - Azadi et al. 2019, *Discriminator rejection sampling*, arXiv 1810.06758.
# - Dhariwal, Nichol 2021, *Diffusion models beat GANs on image synthesis*, arXiv 2105.05233: section 1.
# - Song, Meng, Ermon 2020, arXiv 2010.02502: eq. 12 (every sampler that keeps eq. 4).
# - Shoemake 1985, *Animating rotation with quaternion curves*: the cure for straight lines between noises.
