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
# ![A table in colours: seven faulty sets of images down the side, seven measures across, and in each cell how many
# standard deviations the measure moves](../data/pictures/06.png)
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
# **Time:** about 4 minutes on two cores. For you: 20 minutes of reading for the *core*, sections 0 to 4, and half an
# hour for your four pieces.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import math
import time
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.linalg
import torch
from torch.distributions import Normal
from torchvision.transforms.v2.functional import gaussian_blur
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import ImageQuality, generate, load_images, load_model
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
    """`count` images of the shipped model, as many of each class, by DPM-Solver++(2M)."""
    y = torch.arange(count) % 10
    options = dict(sampler="dpmpp_2m", steps=steps, y=y, seed=seed, progress=True)
    return generate(model, diffusion, count, **options)


began = time.perf_counter()
samples = {steps: draw_images(steps) for steps in (many, few)}
print(f"2 times {count} samples, {time.perf_counter() - began:.0f} s")

# %% [markdown]
# The faults, made from real test images. Each **draw** takes other images, so that every measure comes with its spread.


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


# %%
model_sets = {f"model, {steps} looks": samples[steps] for steps in (many, few)}
shown = {**faulty_sets(0), **model_sets}
titles = [text for name in shown for text in ("", name, *[""] * 8)]
finding = "Ten of each set: in single pictures only blur and noise show"
show_images(
    torch.cat([x[:10] for x in shown.values()]), titles=titles, columns=10, title=finding
)

# %% [markdown]
# A *look* is one evaluation of the network (notebook 05). **Predict before you go on:** which of these would you find
# by looking at pictures one by one?

# %% [markdown]
# ## 1. One number: Frechet and kernel distance · *core*
#
# **Question:** how far apart are two sets of images?
#
# Pixel by pixel they cannot be compared, as no picture belongs to another. So each picture becomes a list of numbers,
# its **features** (here 64, of the course's classifier), and the two clouds of points are compared.
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
print(f"{by_scipy:.4f}: yours, the course's and SciPy's matrix root agree")

# %% [markdown]
# ### Too large with few images
#
# Mean and covariance are estimated from $N$ images, and errors of the estimate part the two Gaussians further, on
# average. So FD is biased upwards, and for large $N$ the bias falls like $1/N$ (Chong & Forsyth 2020). Drawn against
# $1/N$, the distance is then nearly a straight line, and where it meets $1/N = 0$ is the distance for infinitely many.
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

# %% [markdown]
# ### A distance without that bias
#
# Let $k(x, y)$ be the similarity of two feature vectors; here $(x\cdot y/D + 1)^3$ (Binkowski et al. 2018). The squared
# **maximum mean discrepancy** is the mean similarity within the one distribution, plus that within the other, minus
# twice that between them (Gretton et al. 2012, Lemma 6). Each part is a mean over pairs, and the mean over a sample's
# pairs is right on average, **if** no image is paired with itself: an image is more similar to itself than to another.
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


def similarity(a, b):
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


mine = unbiased_mmd(similarity(a, a), similarity(b, b), similarity(a, b))
assert math.isclose(mine, kernel_distance(a, b), rel_tol=1e-6, abs_tol=1e-9)
print(f"{mine:.5f}: equal to kernel_distance of utils")

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
# Real images are far from the real training set if there are only 100. That is the **floor**, and an FD without its $N$
# and its floor says nothing. The line is fitted without the smallest $N$, where it bends.
# The extrapolated values of the model stay above 0: what is left is the model's error and not the number of images.
# The kernel distance needs no line; it scatters instead.

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
ranks = table.drop("training images").rank()
figure, ax = plt.subplots(figsize=(7, 3.2))
for (name, row), colour in zip(ranks.iterrows(), COLOURS):
    ax.plot(range(3), row, "o-", color=colour)
    ax.text(2.06, row.iloc[2], name, va="center", fontsize=9, color=colour)
ax.set_xticks(range(3), ranks.columns)
ax.set(
    ylabel="rank (1: nearest to real)",
    xlim=(-0.2, 2.9),
    title="Other features, another ranking",
)
ax.invert_yaxis()
plt.show()

# %% [markdown]
# The order is not a property of the sets alone. To the classifier blur is by far the worst fault, as it looks at
# textures. By pixels it is a small one, noise is next to none, and repeated images are the worst. So a model may win by
# one kind of features and lose by another. Report which, and never compare numbers across.

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
# Now all measures meet all sets. The last one is that of section 3: the nearest training image against the nearest
# image that was not trained on. Each cell is a measure's mean over the draws, **minus that of the clean set, in units
# of the clean set's own standard deviation** from draw to draw. So 2 may be chance, and 20 is not. (The model's rows
# are one set each.)
#
# **Predict before you run:** which faults can precision not see? And which fault can none of the first six see?


# %%
def all_measures(images):
    features = quality.features(images)
    ratio = nearest_ratio(images, known, unseen).median()
    distances = {"Frechet": quality.frechet(features), "kernel": quality.kernel(features)}
    shares = precision_recall(real, features, k)
    return {**distances, **shares, "nearest ratio": float(ratio)}


draws = course.pick(test=3, cpu=8, gpu=20)
found, began = [], time.perf_counter()
for draw in tqdm(range(draws), desc="draws"):
    sets = faulty_sets(draw) | (model_sets if draw == 0 else {})
    found += [{"set": name, **all_measures(images)} for name, images in sets.items()]
by_set = pd.DataFrame(found).groupby("set", sort=False)
means, spread = by_set.mean(), by_set.std().loc["clean"]
print(f"{draws} draws of {count} images, {time.perf_counter() - began:.0f} s; their means:")
pd.concat([means, spread.to_frame("(spread of clean)").T]).round(3)

# %% tags=["figure", "picture"]
moved = ((means - means.loc["clean"]) / spread).drop("clean")
figure, ax = plt.subplots(figsize=(9, 3.6))
ax.imshow(moved.clip(-20, 20), cmap="PuOr", vmin=-20, vmax=20, aspect="auto")
for (row, column), value in np.ndenumerate(moved.to_numpy()):
    ink = "white" if abs(value) > 12 else "black"
    weight = "bold" if abs(value) > 4 else "normal"
    ax.text(
        column, row, f"{value:+.0f}", ha="center", va="center", color=ink, weight=weight
    )
ax.set_xticks(range(moved.shape[1]), moved.columns)
ax.set_yticks(range(len(moved)), moved.index)
ax.grid(False)
ax.spines[:].set_visible(False)
ax.set_title(
    "Which measure sees which fault: change in standard deviations of clean real images"
)
plt.show()

# %% [markdown]
# Read it row by row.
#
# - **One class missing:** the distances and coverage see it, recall little of it. Precision and density see nothing:
#   what is there is real.
# - **A tenth, ten times:** recall falls to 0, since the nearest five of a picture are its own copies, and its ball has
#   no size. Precision sees nothing.
# - **Blurred** and **noisy:** the distances, recall, density and coverage see both. Precision, which is meant to find
#   unfaithful pictures, sees little of the one and nothing of the other.
# - **Training images:** only the ratio. For every measure that compares distributions they are a *perfect* model.
# - **The model:** in the run shown its precision is, with few looks, *above* that of real images, and its recall below:
#   it draws what is typical. The distance alone says "worse", and not how.
#
# No column is enough. Report a distance with its floor, one of recall or coverage, and a test for copies.

# %% [markdown]
# ## 3. New, or copied? · *core*
#
# **Question:** from how many training images on does a network invent?
#
# Take as many images that the network was **not** trained on as it was trained on, of the same source. For a sample,
# compare its distance $d$ to the nearest of each kind:
#
# $$r = \frac{d(\text{nearest training image})}{d(\text{nearest held-out image})}.$$
#
# If the training images are nothing special to the network, $r$ lies about 1, as often above as below. A copy has an
# $r$ near 0. How far below 1 is too far? Real test images tell: we call **copied** what lies below 99% of theirs.
#
# Four networks of one shape were trained with the same number of steps, on 50, 200, 1,000 and 5,000 images
# (`data/make_small_models.py`). They are small and see pictures of 14x14, so that minutes are enough to learn 50 by
# heart.
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
    share = (ratio < threshold).double().mean()
    error = (share * (1 - share) / number).sqrt()
    rows[size] = [f"{ratio.median():.2f}", f"{of_real.median():.2f}", f"{threshold:.2f}"]
    rows[size].append(f"{100 * share:.1f} ± {100 * error:.1f}")
columns = ["median r, samples", "median r, real", "threshold", "copied, %"]
print(f"{number} samples each; ± is a standard error; of the real images 1% are below")
pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("trained on")

# %% tags=["figure"]
figure, axes = plt.subplots(1, len(sizes), figsize=(9, 2.6), sharey=True)
looks = dict(bins=np.linspace(0, 2, 33), density=True, histtype="step", lw=1.6)
for ax, (size, (_, ratio, of_real)) in zip(axes, results.items()):
    ax.hist(ratio, color=COLOURS[1], label="samples", **looks)
    ax.hist(of_real, color=COLOURS[0], ls="--", label="real", **looks)
    ax.axvline(float(of_real.quantile(0.01)), color="grey", lw=1, ls=":")
    ax.set(title=f"trained on {size:,}", xlabel="r")
axes[0].set_ylabel("density")
axes[-1].legend(fontsize=8)
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
# With 50 images most samples are copies. With 200 few pass for copies, but all ratios are shifted below 1: copying
# begins in between and fades. With 1,000 and 5,000, samples are as far from the training images as real ones are. The
# border is that of this network after these 3,000 steps; another network, or a longer training (`STEPS` in the script),
# has another. Large models copy too: Carlini et al. (2023) drew training images out of Stable Diffusion.
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
# \log p_{\phi_0}(x) = \log \mathcal N(x_T; 0, I) + \int_{\phi_0}^{\pi/2} \nabla\!\cdot\hat v\; d\phi .$$
#
# So: follow the picture to its noise, add up the divergence on the way, and look the noise up in the normal density.
#
# **The divergence of 784 numbers** would cost 784 gradients. *Hutchinson's trick* takes one. For a matrix $J$ and a
# **probe** $u$ of independent $\pm1$, $\mathbb E[u^\top J u] = \sum_{ij} J_{ij}\,\mathbb E[u_i u_j] = \mathrm{tr}\,J$.
# And $u^\top J$ is the gradient of the number $u\cdot\hat v(x)$.
#
# ### Your turn: 06.4
#
# Write the right-hand side of both equations. `hint("06.4")`, `solution("06.4")`.


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
# With small steps the ODE gives the true $\log p$. Four times the steps, about a sixteenth of the error: order 2. One
# probe is right on average and scatters, and smaller steps do not mend that.

# %% [markdown]
# ### Images
#
# A pixel is one of 256 values, and a density of single values has no upper limit: a model could put a spike on each
# and gain without end. So noise as wide as the step from one value to the next is added (**uniform dequantisation**).
# The density of that, averaged over a pixel's bin, can be no more than the bin's probability over the bin's width
# (Theis et al. 2016, section 3.1). In bits, for $D$ pixels and bins of width $2/255$:
#
# $$\text{bits per dimension} = -\frac{\log_2 p(x)}{D} + \log_2\frac{255}{2}.$$
#
# **Two floors.** No model can get below 0 bits that way. And ours stops at $t = 0$, where noise of standard deviation
# $\sigma_0$ is left: even of a pixel that is always black it can only say "black, up to $\sigma_0$".

# %%
sigma = float((1 - a_bar[0]).sqrt())
u = torch.linspace(-1 / 255, 1 / 255, 1001, dtype=torch.float64)
least = math.log2(127.5) - float(Normal(0.0, sigma).log_prob(u).mean()) / math.log(2)
print(f"noise at t = 0: {sigma:.4f}, half a bin: {1 / 255:.4f}")
print(f"the least for a pixel that is always the same: {least:.2f} bits")


def shipped_velocity(x, t):
    return model(x, torch.full((len(x),), t, device=x.device))


x = test_set[:2][0].to(device)
probe = (torch.randint(2, x.shape, generator=rng(5)) * 2.0 - 1).to(device)
mine = my_log_likelihood(shipped_velocity, x, probe, steps=3)
theirs = log_likelihood(model, diffusion, x, steps=3, generator=rng(5))
torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=0.5)
print("equal to log_likelihood of utils, whatever the network predicts")

# %% [markdown]
# **Predict before you run:** pictures the network never saw: scikit-learn's digits, noise, flat grey ones, blurred
# clothes. Which does it find *more* probable than real clothes? (About half a minute.)

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
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(8, 2.8))
for row, values in enumerate(bits.values()):
    jitter = row + 0.25 * (torch.rand(len(values), generator=rng(row)) - 0.5)
    ax.plot(values, jitter, "o", ms=3, alpha=0.6, color=COLOURS[row])
ax.axvline(least, color="grey", lw=1, ls="--")
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
# And the bound of notebook 04, for the same network and images. It belongs to another model, the chain of noisy steps,
# whose last one goes to 8-bit values (Ho et al. 2020, eq. 13), where the ODE stops at $t = 0$. So the two need not be
# in order.


# %%
def last_step_in_nats(x_0, noise):
    """L_0: minus the mean log-probability of the right 8-bit values."""
    t = torch.zeros(len(x_0), dtype=torch.long, device=device)
    x_t = diffusion.q_sample(x_0, t, noise)
    guess = diffusion.to_x_0(model(x_t, t), x_t, t).double().cpu()
    clean, pixel = x_0.double().cpu(), Normal(guess, sigma)
    upper = torch.where(clean > 0.999, 1.0, pixel.cdf(clean + 1 / 255))
    lower = torch.where(clean < -0.999, 0.0, pixel.cdf(clean - 1 / 255))
    return -float((upper - lower).clamp(min=1e-12).log().mean())


# %%
@torch.no_grad()
def bound_in_bits(pixels):
    """L_0 + ... + L_(T-1), a mean over the images, interpolated between 24 of the L_t."""
    x_0 = pixels.to(device) / 127.5 - 1
    noise = torch.randn(x_0.shape, generator=rng(9)).to(device)
    every_t = np.arange(1, diffusion.num_timesteps)
    probed = np.unique(np.geomspace(1, every_t[-1], 24).round().astype(int))
    times = torch.tensor(probed, device=device)[:, None].expand(-1, len(x_0))
    errors = [float(diffusion.loss(model, x_0, t, noise)) for t in times]
    snr = diffusion.schedule.snr
    weights = 0.5 * (snr[:-1] - snr[1:]) * (1 - a_bar[1:])
    terms = weights.numpy() * np.interp(np.log(every_t), np.log(probed), errors)
    return (terms.sum() + last_step_in_nats(x_0, noise)) / math.log(2)


print(f"the bound: {bound_in_bits(chosen):.2f} bits per dimension, ", end="")
print(f"the ODE: {real_bits.mean():.2f}")

# %% [markdown]
# Large steps flatter: with more of them the bits rise, and settle. Noise and probe scatter far less than images do.
#
# Likelihood tells noise from clothes at once: it costs more than the 8 bits of a model to which all values are equally
# probable. Digits overlap with clothes. And a smooth picture that looks like nothing in the data can be *more* probable
# than real clothes: most of the bits are spent on fine texture, and where there is none, none are needed. That is known
# of other families of models as well (Nalisnick et al. 2019). So a high likelihood is no proof that a picture is in the
# data, and a good likelihood no proof of good samples (Theis et al. 2016, section 3).

# %% [markdown]
# ## 5. Play · *further*
#
# How many images, and which $k$: real test images against the model. First for two numbers.


# %%
def measures_of(pool, number, k):
    """Frechet distance and recall of ten random parts of the features `pool`: (10, 2)."""
    parts = [random_part(pool, number, seed) for seed in range(10)]
    recalls = [precision_recall(real, part, k)["recall"] for part in parts]
    return np.array([[quality.frechet(part) for part in parts], recalls]).T


# %%
def draw_measures(number=100, k=5):
    """Two measures of `number` images, real and the model's, ten draws of each."""
    pools = {"real": held_out, "model": of_model[f"model, {many} looks"]}
    figure, axes = plt.subplots(1, 2, figsize=(8, 1.8))
    for row, pool in enumerate(pools.values()):
        for ax, values in zip(axes, measures_of(pool, number, k).T):
            ax.plot(values, [row] * 10, "o", alpha=0.6, color=COLOURS[row])
    for ax, label in zip(axes, ["Frechet distance", f"recall, k = {k}"]):
        ax.set_yticks([0, 1], pools)
        ax.set(xlabel=label, ylim=(1.5, -0.5))
    axes[0].set_title(f"{number} images: real is not at 0")
    return figure


for number in course.pick(test=(20, 50), cpu=(50, 400), gpu=(50, 400)):
    draw_measures(number)
    plt.show()

# %%
play(draw_measures, number=(30, count, 10), k=(1, 10))

# %% [markdown]
# <!-- sections 6 and 7 -->

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $m$, $C$ | `gaussian_of(features)` | mean and covariance of a set's features |
# | FD | `frechet_distance` | squared Wasserstein-2 distance of two Gaussians; biased upwards by few images |
# | $k(x, y)$ | `kernel_distance` | mean similarities within and between two sets; no bias |
# | $k$ | `precision_recall(real, generated, k)` | the ball around a point reaches to its $k$-th nearest other |
# | $r$ | `nearest_ratio` | distance to the nearest training image over that to the nearest held-out one |
# | $\phi$ | `phi` | the angle with $\cos\phi = \sqrt{\bar\alpha_t}$, in which the ODE is $dx/d\phi = v$ |
# | $u$ | `probe` | independent $\pm1$, for Hutchinson's estimate of a trace |
#
# 1. A distance needs its number of images, its features and its floor, and does not say what is wrong.
# 2. Precision asks whether what is drawn is real, recall whether what is real is drawn; a copied training set passes
#    both, and only the comparison with held-out images finds it.
# 3. The ODE gives an exact likelihood, but the probable is not the typical: smooth pictures that are no clothes can
#    be more probable than clothes.
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
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: eq. 13.
# - Salimans, Ho 2022, *Progressive distillation*, arXiv 2202.00512: appendix D.
# - Theis, van den Oord, Bethge 2016, *A note on the evaluation of generative models*, arXiv 1511.01844: section 3.
# - Nalisnick et al. 2019, *Do deep generative models know what they don't know?*, arXiv 1810.09136.
