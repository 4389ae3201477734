# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 07 · Guidance
#
# {{badge}}
#
# ![Rows of pictures with one label each; from left to right the weight of guidance grows from 0 to 8, and most garments
# become more typical of their class, then harder in contrast and outline](../data/pictures/07.png)
#
# *One noise and one label a row, more and more guidance to the right. At weight 0 the label is ignored.*
#
# A network that was trained with labels draws what it is asked for, most of the time. *Guidance* makes it listen
# harder. Nearly every picture from a text prompt is made so. This notebook builds guidance three times: exactly, on a
# mixture of normals; with a classifier; and without one. Then it measures what guidance costs, and what helps.
#
# **At the end you have** guided samplers with their core lines written by you, equal to `sample(..., guidance=w)` in
# `utils`; a case where all is known exactly, which shows what strong guidance samples from and what not; and one figure
# with every variant on a plane of class accuracy and Frechet distance.
#
# **You need** Python, basic PyTorch, Bayes' rule and the gradient of a logarithm. The samplers come from notebook 05,
# the Frechet distance too; precision and recall (06) are told again. A trained network lies in `data/checkpoints`.
#
# **Time:** about four and a half minutes on two cores. For you: 25 minutes of reading for the *core*, sections 0 to 5,
# and half an hour for your three pieces.

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
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy.stats import t as student_t
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, plain_ticks, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import (
    GaussianDiffusion,
    ImageQuality,
    UNet,
    load_images,
    load_model,
    sample,
)
from utils.diffusion.batches import batch_at
from utils.diffusion.embeddings import TimestepEmbedding
from utils.diffusion.guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    dynamic_threshold,
)
from utils.diffusion.metrics import precision_recall
from utils.diffusion.sampling import ddpm_step, timestep_grid
from utils.diffusion.training import train, validation_loss
from utils.diffusion.unet import Downsample, ResidualBlock

# %% [markdown]
# ## 0. The finished thing · *core*
#
# The network is that of notebooks 03 to 05: it sees $x_t$, $t$ and a label $y$, or the label "none", and tells
# $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1-\bar\alpha_t}\,x_0$, from which the estimates $\hat x_0$ and
# $\hat\epsilon$ of the clean image and of the noise follow.

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
# `draw` is `sample` from notebook 05 with 2M and ten steps. It takes any *function* of $(x_t, t, y)$ in the network's
# place: all of guidance is a change of what the sampler hears. A step calls the function once, which with guidance may
# look at the network twice.


# %%
evaluations = course.pick(test=3, cpu=10, gpu=10)


def draw(network, y, seed, steps=evaluations, process=diffusion, **options):
    """Images (B, 1, 28, 28) on the CPU, for the labels y (B,), from noise of `seed`."""
    x_T = normal((len(y), 1, 28, 28), rng(seed))
    options = dict(sampler="dpmpp_2m", steps=steps, y=y, x_T=x_T, **options)
    for state in sample(network, process, x_T.shape, generator=rng(seed + 1), **options):
        last = state.x_t
    return last.clamp(-1, 1).cpu()


# %% [markdown]
# **Predict before you run:** each row has one noise and one label. Which changes with the weight: the garment, its
# style, or its contrast?

# %% tags=["figure", "picture"]
weights = [0, 1, 2, 3, 5, 8]
labels = torch.tensor([5, 9, 8, 6], device=device)
columns = torch.stack([draw(model, labels, seed=2, guidance=w) for w in weights], dim=1)
titles = [f"w = {w}" for w in weights] + [""] * (3 * len(weights))
shown = ", ".join(names[k] for k in labels.tolist())
finding = f"Asked for: {shown}. The weight grows to the right"
show_images(columns.flatten(0, 1), titles=titles, columns=6, scale=4, title=finding)

# %% [markdown]
# All three. At $w = 0$ the label is ignored; at 1 it is used as in training; above, the garment mostly changes to a
# more typical member of its class (the sandal's straps come apart instead), and at last contrast and outline grow hard.

# %% [markdown]
# ## 1. Labels, and leaving them out · *core*
#
# **Question:** how does one network learn to draw with a label and without?
#
# Each class has a learned vector, which is added to that of the timestep; one more vector stands for "no label"
# (notebook 03). In training a label is hidden with probability 0.1, for *each image* by itself (notebook 04; Ho &
# Salimans 2022, Algorithm 1). A common slip draws once for the whole *batch*. The gradient is right on average in both
# cases. With a batch of $B$ images the hidden share has the standard deviation $\sqrt{0.09/B}$ in the one case, and
# $\sqrt{0.09} = 0.3$ in the other: all or nothing.
#
# **Predict before you run:** small networks, trained both ways on the same images, timesteps and noise. Which loss
# suffers, that with labels or that without? And by how much?

# %%
narrow = course.pick(test=16, cpu=16, gpu=32)  # channels of a small network
short = course.pick(test=3, cpu=150, gpu=1000)
hide = {
    "each image": lambda count, generator: torch.rand(count, generator=generator) < 0.1,
    "whole batch": lambda count, generator: torch.rand(1, generator=generator) < 0.1,
}


# %%
def trained_briefly(way, seed):
    torch.manual_seed(seed)
    network = UNet(channels=narrow, num_classes=10).to(device)
    generator = rng(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(short):
        x_0, y = (part.to(device) for part in batch_at(train_set, step, 64, seed))
        y = torch.where(hide[way](len(y), generator).to(device), 10, y)
        loss = diffusion.loss(network, x_0, y=y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


# %%
seeds, count = course.pick(test=2, cpu=4, gpu=5), course.pick(test=16, cpu=200, gpu=2000)
without_labels = test_set[:count][0]
losses = {way: [] for way in hide}
for way in hide:
    for seed in tqdm(range(seeds), desc=way):
        network = trained_briefly(way, seed)
        pair = [test_set, without_labels]
        both = [validation_loss(network, diffusion, images, count=count) for images in pair]
        losses[way].append([float(values.mean()) for values in both])
one, other = (torch.tensor(losses[way]) for way in hide)
gaps = other - one
columns = ["with labels", "without labels"]
rows = {f"hidden for {way}": torch.tensor(losses[way]).mean(0).tolist() for way in hide}
rows["difference"] = gaps.mean(0).tolist()
rows["standard error"] = (gaps.std(0) / seeds**0.5).tolist()
pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(4)

# %% [markdown]
# The last two rows give the price of the slip: the difference, and how well it is known from these seeds. One that lies
# below about three standard errors is not told from chance (Student's t, 3 degrees of freedom, 5%). In the run shown
# *both* losses suffer, by a few percent. A likely reason: a batch without a single label pulls the whole network to the
# one task, and the nine that follow pull it back to the other. The slip is small and not fatal, but drawing for each
# image costs nothing.

# %% [markdown]
# ## 2. On a mixture, exactly · *core*
#
# **Question:** we have the score of $p(x)$. How do we sample from $p(x \mid y)$?
#
# Take logarithms in Bayes' rule, at noise level $t$, and gradients with respect to $x_t$; $p(y)$ drops out:
#
# $$\nabla\log p(x_t \mid y) = \nabla\log p(x_t) + \nabla\log p(y \mid x_t).$$
#
# The score of the class is the score of everything, plus the direction in which the label becomes more probable. With a
# **weight** $w$ in front of the second gradient:
#
# $$\nabla\log p_w(x_t \mid y) = \nabla\log p(x_t) + w\,\nabla\log p(y \mid x_t)
# \qquad\text{(Dhariwal \& Nichol 2021, section 4)}.$$
#
# At $w = 0$ the label is ignored, and $w = 1$ is Bayes' rule. Samplers take the noise instead of the score. The two are
# the same thing up to a factor (notebook 05, section 6), with $\sigma_t = \sqrt{1-\bar\alpha_t}$:
#
# $$\nabla\log p(x_t) = -\hat\epsilon/\sigma_t.$$
#
# ### Your turn: 07.1
#
# Write the guided noise, from the noise that belongs to $p(x_t)$ and the gradient of $\log p(y \mid x_t)$. `hint("07.1")`
# and `solution("07.1")` help. You may also go on: the next cell has the course's version, and uses yours if it is right.


# %%
def guided_noise(noise, gradient, a_bar_t, w):
    """The noise of the guided score.

    noise, gradient: tensors of one shape: the estimate of the noise in x_t without a label,
    and the gradient of log p(y | x_t). a_bar_t, w: numbers.
    """
    raise NotImplementedError


check("07.1", guided_noise)


# %%
def course_guided_noise(noise, gradient, a_bar_t, w):
    return noise - w * math.sqrt(1 - a_bar_t) * gradient


guided_noise = choose("07.1", guided_noise, course_guided_noise)

# %% [markdown]
# Now data where nothing has to be learned: four round normals in the plane; the first two form class 0. Noised, a
# mixture of normals stays one, so noise, score and $p(y \mid x_t)$ are formulas at every $t$. The perfect noise for any
# of the normals, `members`, is a weighted mean:

# %%
centres = torch.tensor([[-1.1, 0.4], [0.2, 0.8], [1.2, 0.0], [-0.1, -0.9]]).double()
width, member_of = 0.4, torch.tensor([0, 0, 1, 2])  # the class of each normal


def mixture_noise(x_t, a_bar_t, members):
    """E[noise | x_t] for the mixture of these normals, equally likely; x_t (B, 2)."""
    signal, variance = math.sqrt(a_bar_t), a_bar_t * width**2 + 1 - a_bar_t
    offsets = x_t[:, None] - signal * centres[members]  # (B, members, 2)
    chances = (-offsets.square().sum(2) / (2 * variance)).softmax(dim=1)
    return math.sqrt(1 - a_bar_t) / variance * (chances[:, :, None] * offsets).sum(1)


def label_gradient_of_mixture(x_t, a_bar_t, y):
    """The gradient of log p(y | x_t): the score of the class minus that of everything."""
    everything = mixture_noise(x_t, a_bar_t, range(4))
    of_class = mixture_noise(x_t, a_bar_t, member_of == y)
    return (everything - of_class) / math.sqrt(1 - a_bar_t)


# %% [markdown]
# Is that the gradient? PyTorch's own mixture and its autograd know nothing of our formula:


# %%
def mixture(members, a_bar_t=1.0):
    means = math.sqrt(a_bar_t) * centres[members]
    covariance = (a_bar_t * width**2 + 1 - a_bar_t) * torch.eye(2).double()
    parts = MultivariateNormal(means, covariance.expand(len(means), 2, 2))
    return MixtureSameFamily(Categorical(torch.ones(len(means)).double()), parts)


def log_label(x_t, a_bar_t, y):
    """log p(y | x_t), by Bayes' rule."""
    of_class = member_of == y
    share = math.log(of_class.double().mean())
    joint = mixture(of_class, a_bar_t).log_prob(x_t) + share
    return joint - mixture(range(4), a_bar_t).log_prob(x_t)


# %%
# NBVAL_CHECK_OUTPUT
x_t = torch.randn(100, 2, generator=rng(0)).double().requires_grad_()
for t in (0, 300, 600, 900):
    (right,) = torch.autograd.grad(log_label(x_t, a_bar[t], 0).sum(), x_t)
    torch.testing.assert_close(label_gradient_of_mixture(x_t, a_bar[t], 0), right)
print("the gradient of log p(y | x_t) agrees with autograd at four timesteps")

# %% [markdown]
# Two samplers of notebook 05, DDIM without noise and DDPM, both with so many steps that their own error is small. The
# distribution that many people have in mind for $w > 1$ is the **tilted** one, $p(x)\,p(y \mid x)^w$, divided by its
# sum. In the plane we know it too: on a fine grid.
#
# Two sets of points are compared by the *sliced Wasserstein* distance: project both on a line, sort, and take the mean
# gap between points of equal rank; then the mean over many directions. 0 means equal; the *floor* is what two sets of
# exact draws give. *Spread* is the root of the sum of the two coordinates' variances.
#
# **Predict before you run:** for $w = 1$ the guided samples should have $p(x \mid y)$. For $w = 4$, do they have the
# tilted distribution?

# %%
points = course.pick(test=200, cpu=4000, gpu=4000)
many = course.pick(test=20, cpu=1000, gpu=1000)
noise_view = GaussianDiffusion(schedule, prediction="noise")


def guided_points(w, sampler, y=0, seed=0):
    """Points (points, 2) of the guided sampler, with perfect noise and gradient."""

    def network(x_t, t):
        a_bar_t = a_bar[int(t[0])]
        gradient = label_gradient_of_mixture(x_t, a_bar_t, y)
        return guided_noise(mixture_noise(x_t, a_bar_t, range(4)), gradient, a_bar_t, w)

    x_T = torch.randn(points, 2, generator=rng(seed)).double()
    options = dict(steps=many, clip=False, x_T=x_T, generator=rng(seed + 1))
    *_, last = sample(network, noise_view, x_T.shape, sampler=sampler, **options)
    return last.x_t


# %%
side = torch.linspace(-3, 3, course.pick(test=61, cpu=301, gpu=301)).double()
grid = torch.cartesian_prod(side, side)


def tilted(w, y=0):
    """p(x) p(y | x)^w on the grid, so that all cells add up to 1."""
    return (mixture(range(4)).log_prob(grid) + w * log_label(grid, 1.0, y)).softmax(0)


def tilted_points(w, seed, y=0):
    """Draws of it: a cell of the grid, and a place in the cell."""
    generator = rng(seed)
    cells = torch.multinomial(tilted(w, y), points, replacement=True, generator=generator)
    places = torch.rand(points, 2, generator=generator) - 0.5
    return grid[cells] + places * (side[1] - side[0])


# %%
directions = torch.linspace(0, math.pi, 51)[:-1].double()
directions = torch.stack([directions.cos(), directions.sin()])  # (2, 50)


def distance_of_sets(a, b):
    """Sliced Wasserstein-1: the distance in one dimension, mean over 50 directions."""
    a, b = ((points @ directions).sort(0).values for points in (a, b))
    return float((a - b).abs().mean())


# %%
scales = [1, 2, 4]
clouds, rows = {}, []
for w in scales:
    exact = tilted_points(w, seed=10)
    clouds[w, "tilted"] = exact
    floor = [distance_of_sets(exact, tilted_points(w, seed)) for seed in range(11, 15)]
    row = [w, f"{np.mean(floor):.3f} ± {np.std(floor):.3f}"]
    for sampler in ("ddim", "ddpm"):
        clouds[w, sampler] = guided_points(w, sampler)
        row.append(round(distance_of_sets(clouds[w, sampler], exact), 3))
    for kind in ("tilted", "ddim", "ddpm"):
        row.append(float(clouds[w, kind].std(0).norm()))
    rows.append(row)
columns = ["w", "floor", "DDIM", "DDPM", "spread: tilted", "spread: DDIM", "spread: DDPM"]
print("distance to the tilted distribution; floor: two sets of exact draws")
pd.DataFrame(rows, columns=columns).set_index("w").round(3)

# %% tags=["figure"]
figure, axes = plt.subplots(2, 3, figsize=(9, 6), sharex=True, sharey=True)
square = [part.view(len(side), -1) for part in grid.T]
for row, kind in zip(axes, ["ddim", "ddpm"]):
    for ax, w in zip(row, scales):
        ax.plot(*clouds[w, kind][:1500].T, ".", ms=2, color=COLOURS[1], alpha=0.4)
        density = tilted(w).view(len(side), -1)
        levels = [float(density.max()) * share for share in (0.05, 0.3, 0.8)]
        ax.contour(*square, density, levels=levels, colors="black", linewidths=1)
        ax.plot(*centres[2:].T, "x", color="grey")
        ax.set(xlim=(-2.6, 2.2), ylim=(-1.6, 2.4), aspect="equal")
        ax.set_title(f"{kind.upper()}, w = {w}")
for ax in axes[1]:
    ax.set_xlabel("first coordinate")
for ax in axes[:, 0]:
    ax.set_ylabel("second coordinate")
finding = "Points: guided samples. Contours: p(x) p(y | x)^w. Crosses: other classes. "
finding += "They agree at w = 1 only\n"
figure.suptitle(finding, x=0.01, ha="left")
plt.show()

# %% [markdown]
# At $w = 1$ both samplers meet $p(x \mid y)$ up to chance. Above, neither meets the tilted distribution, and the two
# differ from each other. Their points lie further from the other classes, and closer together.
#
# *Why?* A sampler is right if its score at every $t$ is that of **one** distribution, noised to $t$. Ours at $t$ is that
# of $p(x_t)\,p(y \mid x_t)^w$: noised first, tilted afterwards. The target, noised, is tilted first and noised
# afterwards. For $w = 1$ Bayes' rule makes them the same; for other weights it does not. At high noise all classes
# overlap, so $p(y \mid x_t)$ still has a slope where $p(y \mid x)$ is flat at 1: guidance pushes a point on, though
# nobody could doubt its class. So above 1 a guided sampler has no target that can be written down simply, and two samplers
# end at two distributions (Bradley & Nakkiran 2024). What follows must be judged by measuring.

# %% [markdown]
# ## 3. Guidance by a classifier · *core*
#
# **Question:** on images nobody knows $p(y \mid x_t)$. Can it be learned?
#
# Dhariwal & Nichol (2021) train a classifier on *noisy* images. Theirs is the first half of a U-Net (section 4.3); ours
# too, a small one. One line is of our own making: the logits are multiplied by $\sqrt{\bar\alpha_t}$. Where the image has
# all but gone the true $p(y \mid x_t)$ no longer depends on $x_t$, and that line makes it so. Without it, a small error of
# the gradient at `t = 999` would be divided by $\sqrt{\bar\alpha_t} \approx 0$ on its way to $\hat x_0$.


# %%
class NoisyClassifier(nn.Module):
    """Logits (B, 10) of noisy images (B, 1, 28, 28) and their timesteps."""

    def __init__(self, width=32):
        super().__init__()
        self.time = nn.Sequential(TimestepEmbedding(width, 4 * width), nn.SiLU())
        self.stem = nn.Conv2d(4, width, 3, padding=1)
        self.first = ResidualBlock(width, width, 4 * width)
        self.down = Downsample(width)
        self.second = ResidualBlock(width, 2 * width, 4 * width)
        self.head = nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(2 * width * 49, 10))

    def forward(self, x_t, t):
        emb = self.time(t)
        x = self.first(self.stem(F.pixel_unshuffle(x_t, 2)), emb)  # (B, width, 14, 14)
        x = self.second(self.down(x), emb)  # (B, 2 * width, 7, 7)
        return schedule.alphas_cumprod.sqrt().to(x)[t][:, None] * self.head(x)


# %% [markdown]
# Training takes about a quarter of a minute on two cores.
#
# **Predict before you run:** chance is 10%. At which $t$ does the classifier lose sight of the label?

# %%
torch.manual_seed(0)
noisy_classifier = NoisyClassifier().to(device)
steps = course.pick(test=3, cpu=600, gpu=3000)
optimizer = torch.optim.Adam(noisy_classifier.parameters())
decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
began = time.perf_counter()
for step in tqdm(range(steps), desc="classifier"):
    x_0, y = (part.to(device) for part in batch_at(train_set, step, 128, seed=0))
    t = torch.randint(T, (len(x_0),), device=device)
    loss = F.cross_entropy(noisy_classifier(diffusion.q_sample(x_0, t), t), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()
noisy_classifier.eval().requires_grad_(False)
print(f"{steps} steps in {time.perf_counter() - began:.0f} s")

# %%
count = course.pick(test=50, cpu=1000, gpu=5000)
x_0, y = (part.to(device) for part in test_set[:count])
shares, timesteps = [], [*range(0, T, 100), T - 1]
for t in timesteps:
    ts = torch.full_like(y, t)
    x_t = diffusion.q_sample(x_0, ts, normal(x_0.shape, rng(t)))
    shares.append(float((noisy_classifier(x_t, ts).argmax(1) == y).double().mean()))
shares = np.array(shares)
error = 1.96 * np.sqrt(shares * (1 - shares) / count)


def accuracy(images, y):
    """The share of images that the course's classifier takes for their label."""
    with torch.no_grad():
        return float((quality.classifier(images).argmax(1) == y.cpu()).double().mean())


ceiling = accuracy(x_0.cpu(), y)
print(f"the course's classifier on these {count} clean test images: {ceiling:.1%}")

# %% tags=["figure"]
figure, ax = plt.subplots()
look = dict(fmt="o-", ms=4, capsize=2, label="classifier of noisy images")
ax.errorbar(timesteps, 100 * shares, 100 * error, **look)
ax.axhline(100 * ceiling, ls="--", color=COLOURS[1], label="the course's, on clean images")
ax.axhline(10, ls=":", color="black", label="chance")
ax.set(xlabel="timestep t", ylabel="test images classified right (%)", ylim=(0, 100))
ax.set_title(f"The label fades with the image ({count} images, 95% intervals)")
ax.legend(fontsize=8, loc="center left")
plt.show()

# %% [markdown]
# Late. A silhouette survives much noise: up to about the middle the label can be told nearly as well as from the clean
# image; at `t = 999` nothing is left. On clean images this small network is behind the course's, whose whole size serves
# one noise level.
#
# ### Your turn: 07.2
#
# Write the gradient of $\log p(y \mid x_t)$ with respect to $x_t$, for a batch. `sample` runs without gradients, so ask
# for them: `torch.enable_grad()`. `hint("07.2")`, `solution("07.2")`.


# %%
def label_gradient(classifier, x_t, t, y):
    """The gradient of log p(y | x_t) of each image, like x_t (B, C, H, W).

    classifier: called as classifier(x_t, t), gives logits (B, classes). t, y: (B,).
    Nothing else changes: neither x_t nor the classifier's weights get gradients.
    """
    raise NotImplementedError


check("07.2", label_gradient)


# %%
def course_label_gradient(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t).log_softmax(1)[torch.arange(len(y)), y]
        return torch.autograd.grad(log_p.sum(), x)[0]


label_gradient = choose("07.2", label_gradient, course_label_gradient)

# %% [markdown]
# The paper has two algorithms. **Algorithm 2**, for DDIM, changes the noise: your 07.1. **Algorithm 1**, for DDPM, moves
# the mean of the step by $w\Sigma\nabla\log p(y \mid x_t)$, with $\Sigma$ the variance of the step. Are they the same?
# DDPM's mean has the factor $-\beta_t/\big(\sqrt{\alpha_t}\,\sigma_t\big)$ for the noise (Ho et al. 2020, eq. 11), so a
# change of the noise by $-w\sigma_t\nabla$ moves it by $w\,\beta_t/\sqrt{\alpha_t}\,\nabla$. That is Algorithm 1 with
# $\Sigma = \beta_t$, up to the factor $1/\sqrt{\alpha_t}$:

# %%
betas, alphas = schedule.betas, schedule.alphas
tilde = betas * (1 - schedule.alphas_cumprod_prev) / (1 - schedule.alphas_cumprod)
columns = {
    "Algorithm 2, in a DDPM step": betas / alphas.sqrt(),
    "Algorithm 1, beta": betas,
    "Algorithm 1, beta-tilde": tilde,
}
print("how far the gradient moves the mean, for w = 1")
pd.DataFrame(columns).loc[[10, 100, 500, 900]].rename_axis("t").round(5)

# %% [markdown]
# With small steps they differ by little. We take Algorithm 2, which fits every sampler. The network gets **no label**:
# all it learns of the class comes through the classifier's gradient.


# %%
def by_classifier(w):
    """A stand-in for the network, which tells the guided noise; for `noise_view`."""

    def network(x_t, t, y):
        noise = diffusion.to_noise(model(x_t, t), x_t, t)
        gradient = label_gradient(noisy_classifier, x_t, t, y)
        return guided_noise(noise, gradient, a_bar[int(t[0])], w)

    return network


# %% [markdown]
# **Check:** the same object in `utils`, which `sample` takes as `guidance`:

# %%
# NBVAL_CHECK_OUTPUT
few = classes_in_turn(4)
mine = draw(by_classifier(2.0), few, seed=3, steps=5, process=noise_view)
theirs = draw(
    model, few, seed=3, steps=5, guidance=ClassifierGuidance(noisy_classifier, 2.0)
)
torch.testing.assert_close(mine, theirs, rtol=0, atol=5e-3)
print("five steps agree with sample(..., guidance=ClassifierGuidance(classifier, 2.0))")

# %% [markdown]
# Every measurement from here to section 5 has the same form: four sets of 100 images, each from a seed of its own with
# the labels in turn, ten steps of 2M. For each set the **class accuracy** (the share that the course's classifier takes
# for what was asked) and the **Frechet distance** (FD) to the training set. Real test images, in sets of the same size
# with as many of each class, say what accuracy and distance are natural: so few images are never at distance 0.

# %%
count, seeds = course.pick(test=10, cpu=100, gpu=500), course.pick(test=2, cpu=4, gpu=5)
in_turn = classes_in_turn(count)


def measure(network, **options):
    """Images (seeds * count, 1, 28, 28); accuracy and FD of each set, (seeds,) each."""
    sets = [draw(network, in_turn, seed=100 + 10 * k, **options) for k in range(seeds)]
    accuracies = np.array([accuracy(images, in_turn) for images in sets])
    distances = np.array([quality.frechet(quality.features(images)) for images in sets])
    return dict(images=torch.cat(sets), accuracy=accuracies, fd=distances)


# %%
def mean_std(values, form=".2f"):
    """Mean ± standard deviation over the sets, as text."""
    return f"{values.mean():{form}} ± {values.std(ddof=1):{form.lstrip('+')}}"


def table_of(results, name):
    """Accuracy and FD of each, as text, and of real test images."""
    rows = {
        key: [mean_std(100 * result["accuracy"], ".1f"), mean_std(result["fd"])]
        for key, result in results.items()
    }
    columns = ["class accuracy, %", f"FD of {count} images"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis(name)


# %%
order = torch.randperm(len(test_set), generator=rng(0))
by_class = [order[test_set.labels[order] == k][:count] for k in range(10)]
real_sets = torch.stack(by_class, dim=1).reshape(-1, count)  # labels in turn, as ours
rows = [test_set[index] for index in real_sets]
real = dict(
    images=torch.cat([images for images, _ in rows]),
    accuracy=np.array([accuracy(images, y) for images, y in rows]),
    fd=np.array([quality.frechet(quality.features(images)) for images, _ in rows]),
)

# %%
by_scale = {w: measure(by_classifier(w), process=noise_view) for w in (0, 1, 2, 4, 8)}
table_of(by_scale | {"real images": real}, "w")

# %% tags=["figure"]
rows = torch.cat([result["images"][:10] for result in by_scale.values()])
finding = f"Top to bottom: w = {', '.join(map(str, by_scale))}; a column for each label"
show_images(rows, columns=10, scale=2, title=finding)

# %% [markdown]
# The classifier steers a network that never heard the label. Bayes' rule says that $w = 1$ is enough if both networks
# are perfect. They are not: here more than 1 is needed to come near the real images' accuracy, as the paper found
# (section 4.3), and at 8 the distance grows again. (At 0 the classes fall as they like; uneven numbers of them alone
# add to the distance of so small a set.) The price is a second network, trained on noise, whose faults enter every
# step: a gradient is only where the classifier's opinion changes fastest, not where clothes are.

# %% [markdown]
# ## 4. Guidance without a classifier · *core*
#
# **Question:** does the network itself hold a classifier?
#
# On the mixture, section 2 found $\nabla\log p(y \mid x_t)$ as a difference: the score of the class minus that of
# everything. Our network knows both, with a label and without. Put the difference into the guided noise:
#
# $$\hat\epsilon_w = \hat\epsilon(x_t) + w\,\big(\hat\epsilon(x_t, y) - \hat\epsilon(x_t)\big).$$
#
# No classifier, no gradient; two evaluations (Ho & Salimans 2022). **Two conventions are in use**, and mixing them up is
# a common error:
#
# | | with the label alone | formula |
# | --- | --- | --- |
# | here; diffusers' `guidance_scale`; Imagen (Saharia et al. 2022) | $w = 1$ | $\hat\epsilon(x_t) + w\,(\hat\epsilon(x_t, y) - \hat\epsilon(x_t))$ |
# | Ho & Salimans 2022, eq. 6 | $w' = 0$ | $(1 + w')\,\hat\epsilon(x_t, y) - w'\,\hat\epsilon(x_t)$ |
#
# So $w = 1 + w'$. The network tells $v$, not the noise. For one $x_t$ both follow from each other by a straight line, and
# the two factors $w$ and $1 - w$ add up to 1: so the same formula holds for $v$, for $\hat\epsilon$ and for $\hat x_0$.
#
# ### Your turn: 07.3
#
# Write it, with both halves in **one batch** of $2B$ images: one large call is faster than two small ones.
# `hint("07.3")`, `solution("07.3")`.


# %%
def guided_output(model, x_t, t, y, w):
    """The network's output with guidance: w = 0 no label, 1 the label, above 1 more of it.

    model: called once, as model(x_t, t, y); label model.num_classes means "no label".
    x_t: (B, C, H, W). t, y: (B,). w: a number.
    """
    raise NotImplementedError


check("07.3", guided_output)


# %%
def course_guided_output(model, x_t, t, y, w):
    labels = torch.cat([torch.full_like(y, model.num_classes), y])
    both = model(torch.cat([x_t, x_t]), torch.cat([t, t]), labels)
    without, with_label = both.chunk(2)
    return without + w * (with_label - without)


guided_output = choose("07.3", guided_output, course_guided_output)


def guided(w):
    return lambda x_t, t, y: guided_output(model, x_t, t, y, w)


# %% [markdown]
# **Check:** both conventions, the noise in place of $v$, and `sample(..., guidance=w)`, which has the course's version
# inside (on the command line, `--guidance`).

# %%
# NBVAL_CHECK_OUTPUT
x_t = normal((4, 1, 28, 28), rng(1))
t, w_here, w_of_ho = torch.full_like(few, 400), 3.0, 2.0
with torch.no_grad():
    outputs = guided_output(model, x_t, t, few, w_here), model(x_t, t), model(x_t, t, few)
mine, without, with_label = (diffusion.to_noise(output, x_t, t) for output in outputs)
here = without + w_here * (with_label - without)
of_ho = (1 + w_of_ho) * with_label - w_of_ho * without
for noise in (here, of_ho):
    torch.testing.assert_close(mine, noise, rtol=1e-4, atol=1e-4)
print("w = 3 here is Ho & Salimans' w' = 2; the same in v as in the noise")

options = dict(y=few, seed=3, steps=5)
mine, theirs = draw(guided(3.0), **options), draw(model, guidance=3.0, **options)
torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
print("five steps agree with sample(..., guidance=3.0)")

# %% [markdown]
# ### What the weight buys, and what it costs
#
# Two more measures (notebook 06; Kynkäänniemi et al. 2019). A set's *manifold* is the union of balls round its points,
# each reaching to the point's third neighbour in the set (notebook 06 took the fifth, so the values there cannot be
# compared with these). **Precision** is the share of our images that lie in that of the real images: do they look real?
# **Recall** is the share of the real images that lie in ours: is all of the data covered?
#
# **Predict before you run:** the weight goes from 0 to 8. Which of the four measures rise all the way? The cell takes
# about a minute on two cores.


# %%
some = torch.randperm(len(train_set), generator=rng(1))[:1000]
real_points = quality.features(train_set[some][0])  # the test images are the floor's


def typical_and_varied(images):
    """Precision and recall of each set of `count` images, (seeds,) each."""
    sets = quality.features(images).split(count)
    found = [precision_recall(real_points, one, k=3) for one in sets]
    return [np.array([one[name] for one in found]) for name in ("precision", "recall")]


# %%
weights = [0, 1, 1.5, 2, 3, 5, 8]
by_weight = {}
for w in tqdm(weights, desc="weights"):
    by_weight[w] = measure(model, guidance=w)
for result in (*by_weight.values(), real):
    result["precision"], result["recall"] = typical_and_varied(result["images"])
table = table_of(by_weight | {"real images": real}, "w")
for name in ("precision", "recall"):
    table[name] = [mean_std(result[name]) for result in (*by_weight.values(), real)]
table


# %% tags=["figure"]
def curve_of(ax, results, keys, at=(4, 4), **look):
    """Mean and standard deviation of two measures against each other, by weight."""
    x, y = (np.array([result[key] for result in results.values()]) for key in keys)
    look = dict(fmt="o-", ms=4, lw=1, capsize=2) | look
    ax.errorbar(x.mean(1), y.mean(1), y.std(1, ddof=1), x.std(1, ddof=1), **look)
    for w, *place in zip(results, x.mean(1), y.mean(1)):
        near = dict(xytext=at, textcoords="offset points", fontsize=8)
        ax.annotate(f"{w:g}", place, color=look["color"], **near)


def mark_real(ax, keys):
    """Sets of real test images: the ceiling of the accuracy, the floor of the distance."""
    x, y = (real[key] for key in keys)
    look = dict(fmt="*", ms=12, color="grey", capsize=2, label="real images")
    ax.errorbar(x.mean(), y.mean(), y.std(ddof=1), x.std(ddof=1), **look)


# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
for ax, *keys in zip(axes, ("accuracy", "recall"), ("fd", "precision")):
    shown = {w: by_weight[w] for w in weights if w > 0 or ax is axes[1]}
    curve_of(ax, shown, keys, color=COLOURS[0])
    mark_real(ax, keys)
    ax.set(xlabel=keys[0], ylabel=keys[1])
axes[0].set(xlabel="class accuracy", ylabel=f"Frechet distance of {count} images")
axes[0].set_ylim(bottom=0)
axes[0].set_title("Obedience past the real images costs distance")
axes[1].set_title("... and recall (bars: standard deviation of sets)")
axes[0].legend(fontsize=8, loc="upper left")
plt.show()

# %% [markdown]
# The step from 0 to 1 is the label itself. At 1 the images are recognised nearly as often as real ones, which hold
# garments that could be two things. Of the four only accuracy rises all the way from 0 to 8, to 100% and *past* the
# real images. From 2 on the distance is clearly larger than at 1, and recall clearly lower. Precision rises little,
# since at $w = 1$ it is already at the real images' own, and strong weights lose it again: what is drawn too hard no
# longer lies among the real images. **Guidance trades variety for typicality.** A weight chosen by accuracy is too high
# for anybody who needs the distribution. (Where a network draws worse than this one, as on large and varied data, the
# best distance lies above $w = 1$: Ho & Salimans 2022, Table 1.)
#
# ### Which classes gain?

# %%
results = {f"w = {w:g}": by_weight[w]["images"] for w in (1, 2, 5)}
results["real images"] = real["images"]
right, spread = pd.DataFrame(index=names), pd.DataFrame(index=names)
for key, images in results.items():
    labels = classes_in_turn(len(images)).cpu()
    own = [labels == k for k in range(10)]
    features = quality.features(images)
    right[key] = [100 * accuracy(images[k], labels[k]) for k in own]
    spread[key] = [float(features[k].var(0).sum()) for k in own]

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
looks = list(zip("so^*", [COLOURS[k] for k in (0, 2, 3, 1)]))
for ax, table in zip(axes, (right, spread)):
    for key, (marker, colour) in zip(results, looks):
        ax.plot(table[key], names, marker, color=colour, label=key)
axes[0].set_xlabel("classified as asked (%)")
axes[1].set_xlabel("variance of the features")
axes[0].invert_yaxis()
axes[0].set_title("The classes that are confused gain")
axes[1].set_title("... and variety is lost, there and elsewhere")
handles = axes[0].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
plt.show()

# %% [markdown]
# The classes that can be mistaken for each other gain most, shirt and coat before all; trousers and shoes were nearly
# always right and have little to win. With 40 images a class one point of the left panel is uncertain by up to 16
# percentage points ($2\sqrt{0.25/40}$), so read the pattern and not single points. Variety falls in nearly all classes,
# also where nothing was to be gained.

# %% [markdown]
# ## 5. Saturation, and what helps · *core*
#
# **Question:** why do strongly guided images look hard, and can that be repaired?
#
# The guided $\hat x_0$ is an *extrapolation*: beyond $w = 1$ it need not lie in [-1, 1], nor anywhere near images. How far
# out is it?

# %%
y_some, outside = classes_in_turn(course.pick(test=10, cpu=50, gpu=200)), {}
for w in (1, 3, 8):
    x_T = normal((len(y_some), 1, 28, 28), rng(4))
    options = dict(sampler="dpmpp_2m", steps=evaluations, clip=False, y=y_some, x_T=x_T)
    states = sample(model, diffusion, x_T.shape, guidance=w, **options)
    shares = {s.t: float((s.x_0.abs() > 1.05).double().mean()) for s in states}
    outside[f"w = {w}"] = shares
print("share of pixels of the estimate outside ±1.05, by timestep; nothing is clipped")
pd.DataFrame(outside).map("{:.0%}".format).T

# %% [markdown]
# At weight 1 hardly a pixel; at 3 half of them in the first step and few after the third; at 8 a quarter or more at every
# timestep. Six remedies, each a change of what the sampler hears, or of what it does with it:
#
# - **Clipping** $\hat x_0$ to [-1, 1]: done in every run so far (notebook 05, section 3).
# - **Dynamic thresholding** (Saharia et al. 2022, section 2.3): let $s$ be the 99.5% quantile of $|\hat x_0|$ in an
#   image, at least 1. Clamp to $[-s, s]$ and divide by $s$. Clipping flattens what is outside; this brings it back in.
# - **Rescaling** (Lin et al. 2023, eq. 15, 16): guidance raises the output's standard deviation. Scale it back to that
#   of the output with the label, and mix 0.7 of the result with 0.3 of what it was.
# - **An interval** (Kynkäänniemi et al. 2024): guide only at middling noise levels (here $200 \le t \le 800$),
#   elsewhere use the label as it is.
#   The reason they give: at high noise guidance only narrows down what is drawn, at low noise it decides nothing more.
# - **Autoguidance** (Karras et al. 2024): in the place of "without label" put a *worse version of the network*, with
#   the same label and data. *If* both err alike, the worse one more, the difference points away from the error, and not
#   away from other classes.
# - **A negative label** in the place of "without label": away from *that* class. Here the class that the label is most
#   often confused with among real images.
#
# A dynamic threshold stands in the place of clipping; the last four are clipped as well.

# %%
low, high = 200, 800  # the interval of timesteps


def threshold(x_0, quantile=0.995):
    limit = x_0.abs().flatten(1).quantile(quantile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x_0.clamp(-limit, limit) / limit


def rescaled(w, share=0.7):
    def network(x_t, t, y):
        plain, with_label = guided(w)(x_t, t, y), model(x_t, t, y)
        stds = [output.std(dim=(1, 2, 3), keepdim=True) for output in (with_label, plain)]
        return share * plain * stds[0] / stds[1] + (1 - share) * plain

    return network


# %%
def in_interval(w):
    def network(x_t, t, y):
        return (guided(w) if low <= int(t[0]) <= high else model)(x_t, t, y)

    return network


def away_from(other, w):
    """other: called as other(x_t, t, y), takes the place of the answer without a label."""

    def network(x_t, t, y):
        worse = other(x_t, t, y)
        return worse + w * (model(x_t, t, y) - worse)

    return network


def of_negative_label(x_t, t, y):
    return model(x_t, t, negative[y])


# %% [markdown]
# The worse network has a ninth of the weights and little training. And from the confusions of the course's classifier
# on real images comes each class's negative label.

# %%
torch.manual_seed(1)
options = dict(steps=course.pick(test=3, cpu=300, gpu=1000), batch_size=128, seed=1)
network = UNet(channels=narrow, num_classes=10)
*_, state = train(network, diffusion, train_set, device=device, **options)
weak = state.ema_model
numbers = [sum(p.numel() for p in network.parameters()) for network in (weak, model)]
print("weights: {:,} of the weak network, {:,} of the model".format(*numbers))

# %%
count_real = course.pick(test=100, cpu=5000, gpu=10_000)
images, truth = test_set[:count_real]
with torch.no_grad():
    logits = torch.cat([quality.classifier(part) for part in images.split(500)])
confusions = torch.bincount(10 * truth + logits.argmax(1), minlength=100).view(10, 10)
negative = confusions.fill_diagonal_(-1).argmax(1).to(device)
pd.DataFrame({"label": names, "most often taken for": [names[k] for k in negative]}).T

# %% [markdown]
# **Check:** those that `utils` has, after five steps. (It has negative labels too, one for the whole batch:
# `negative=6`.)

# %%
# NBVAL_CHECK_OUTPUT
theirs = {
    "rescale": (rescaled(3.0), ClassifierFreeGuidance(3.0, rescale=0.7)),
    "interval": (in_interval(3.0), ClassifierFreeGuidance(3.0, interval=(low, high))),
    "weaker": (away_from(weak, 3.0), ClassifierFreeGuidance(3.0, weaker=weak)),
}
for name, (network, guidance) in theirs.items():
    both = draw(network, few, 3, steps=5), draw(model, few, 3, steps=5, guidance=guidance)
    torch.testing.assert_close(*both, rtol=0, atol=5e-3)
    print(f"ClassifierFreeGuidance(3.0, {name}=...) agrees")
torch.testing.assert_close(threshold(3 * x_t), dynamic_threshold(3 * x_t))
print("dynamic_threshold agrees")

# %% [markdown]
# **Predict before you run:** which of them keep a high accuracy at a small distance? All take ten steps, and have the
# noises and labels of section 4. The long cell, one to two minutes on two cores.

# %%
strengths = {"autoguidance": [1.25, 1.5, 2, 5]}  # the others: 2 and 5
methods = {
    "no clipping": lambda w: measure(guided(w), clip=False),
    "dynamic threshold": lambda w: measure(guided(w), clip=threshold),
    "rescaled": lambda w: measure(rescaled(w)),
    "interval": lambda w: measure(in_interval(w)),
    "autoguidance": lambda w: measure(away_from(weak, w)),
    "negative label": lambda w: measure(away_from(of_negative_label, w)),
}
plane = {("plain, clipped", w): by_weight[w] for w in by_weight if w > 0}
for name, method in tqdm(methods.items(), desc="methods"):
    plane |= {(name, w): method(w) for w in strengths.get(name, [2, 5])}


# %%
def gap(name, w):
    """FD minus that of plain guidance of the same weight, set by set."""
    return mean_std(plane[name, w]["fd"] - by_weight[w]["fd"], "+.2f")


results = {f"{name}, w = {w:g}": result for (name, w), result in plane.items()}
table = table_of(results | {"real images": real}, "method")
compared = {(name, w) for name, w in plane if name in methods and w in by_weight}
gaps = [gap(*key) if key in compared else "" for key in plane]
table["FD minus plain, same w"] = [*gaps, ""]
table

# %%
curves = {name: {} for name in ["plain, clipped", *methods]}
for (name, w), result in plane.items():
    curves[name][w] = result
curves["classifier (section 3)"] = {w: by_scale[w] for w in by_scale if w > 1}
for result in (*plane.values(), *by_scale.values(), real):
    result["missed"] = 100 * (1 - result["accuracy"])

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(9, 5))
beside = {"autoguidance": (-10, -12), "rescaled": (-9, -10), "no clipping": (-9, 5)}
looks = zip(curves.items(), ["black", *COLOURS[:6], "saddlebrown"], "osD^vPX<")
for (name, own), colour, marker in looks:
    look = dict(fmt=f"{marker}-", color=colour, ms=5, label=name)
    curve_of(ax, own, ("missed", "fd"), beside.get(name, (4, 6)), **look)
mark_real(ax, ("missed", "fd"))
ax.axvline(real["missed"].mean(), ls=":", color="grey")
ax.axhline(real["fd"].mean(), ls=":", color="grey")
ax.set_xscale("symlog", linthresh=1, linscale=0.6)  # below 1 no logarithm
ax.set_xticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
ax.set(xlabel="not classified as asked (%)", xlim=(-0.4, 50), yscale="log")
ax.set_ylabel(f"Frechet distance of {count} images")
plain_ticks(ax)
ax.set_title("Left is obedient, low is like the data; below black is better than plain")
ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% tags=["figure"]
strong = {"plain": by_weight[5], **{name: plane[name, 5] for name in methods}}
rows = torch.cat([result["images"][:10] for result in strong.values()])
finding = f"w = 5, the same noises. Top to bottom:\n{', '.join(strong)}"
show_images(rows, columns=10, scale=2, title=finding)

# %% [markdown]
# The table's last column compares each with plain guidance of the same weight, set by set, so what the sets have in
# common drops out. With four sets, a difference below about 1.6 of the standard deviations shown lies within chance
# (Student's t, 3 degrees of freedom, 5%). But a smaller distance at the same weight can also mean *less guidance*: so
# compare with the black line too, at equal accuracy. In the run shown:
#
# - **The interval** helps most: at weight 2 nearly three quarters of the excess over the real images' distance is gone,
#   at 5 half, with 16 looks at the network in place of 20. Beside the black line the gain is smaller: at weight 2 it lies
#   below, and at 5 it is no better than plain guidance at 2, whose accuracy is as high within chance.
# - **Clipping** matters at weight 5 and not at 2. **Rescaling** gives back a third of the excess at 2, and lies just
#   below the black line there; at 5 its gain is within chance. The variety that the direction has taken does not come
#   back with the range.
# - **Dynamic thresholding** is ruinous at 5. It was made for photographs. Half of our pixels are exactly -1, and dividing
#   by $s$ turns black into grey, again in each step: see its row above.
# - **Autoguidance** fails with *this* weak network: at none of its weights, not even 1.25, does it lie below the black
#   line, and at 5 the images are grainy and even accuracy falls. The likely reason: after 300 steps the network errs in
#   ways that the model does not. Karras et al. (2024, section 5) tune the weak network and the weight together.
# - **Negative labels** keep a high accuracy and cost the most distance for it. They push towards what a pullover has and
#   a coat has not, and not towards what pullovers are like.
# - **The classifier** of section 3 lies above the black line at each weight drawn.
# - Past the real images' accuracy nothing is won: what is recognised more surely than a real image is not more like one.

# %% [markdown]
# ## 6. Learned variance · *further*
#
# **Question:** a sampling step adds noise. How much? Notebook 05 took $\tilde\beta_t$ (its section 2 measures what
# $\beta_t$ does). Could the network tell?
#
# Ho et al. 2020 (section 3.2) name two ends. If all images were one and the same, the step should have the posterior's
# variance $\tilde\beta_t$; if they were standard normal noise, $\beta_t$. Real images lie between. How far are the ends
# apart? Their ratio is $\beta_t/\tilde\beta_t = (1-\bar\alpha_t)/(1-\bar\alpha_s)$, with $s = t-1$, or an earlier $s$
# where the sampler leaves steps out.
#
# **Predict before you run:** where are the two ends far apart, at much noise or at little? And does the choice matter
# more with 1000 steps, or with 10?

# %%
kept_s, kept_t = schedule.alphas_cumprod_prev, schedule.alphas_cumprod
small = schedule.betas * (1 - kept_s) / (1 - kept_t)  # beta-tilde, (T,)

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
steps_of_T = np.arange(1, T)
left.loglog(steps_of_T, schedule.betas[1:], label=r"$\beta_t$")
left.loglog(steps_of_T, small[1:], "--", label=r"$\tilde\beta_t$")
left.fill_between(steps_of_T, small[1:], schedule.betas[1:], alpha=0.3)
left.set(xlabel="t", ylabel="variance", title="The two ends meet, but for small t")
left.legend()
for steps, style in [(1000, "-"), (50, "o"), (25, "s"), (10, "^")]:
    grid = timestep_grid(T, min(steps, T))
    ratios = [(1 - a_bar[t]) / (1 - a_bar[s]) for t, s in pairwise(grid)]
    right.loglog(grid[:-1], ratios, style, ms=5, label=f"{steps} steps")
right.set(xlabel="t", ylabel=r"$\beta / \tilde\beta$ of the step")
right.set_title("With few steps the ends are far apart")
plain_ticks(right)
right.legend()
plt.show()

# %% [markdown]
# With 1000 steps the ends differ only where hardly any noise is left. The pictures care little about that, but the
# *bound* does (notebook 04, section 6: most of it is made there). With ten steps the ends differ nearly everywhere.
#
# Nichol & Dhariwal (2021, section 3.1) let the network have a second output of the image's shape, one number for each
# pixel, which moves the variance between the ends *on a log scale* (eq. 15):
#
# $$\Sigma_\theta(x_t, t) = \exp\big(v \log\beta_t + (1 - v)\log\tilde\beta_t\big)$$
#
# Their $v$ is no velocity. It runs from 0 to 1 as the network's output runs from -1 to 1; nothing holds it there.
#
# ### Your turn: 07.4
#
# Write it. `hint("07.4")`, `solution("07.4")` help, or go on.


# %%
def step_variance(second, beta, beta_tilde):
    """The variance of a step, for each pixel.

    second: (B, C, H, W), the network's second output: -1 means beta-tilde, 1 means beta.
    beta, beta_tilde: (B, 1, 1, 1).
    """
    raise NotImplementedError


check("07.4", step_variance)


# %%
def course_step_variance(second, beta, beta_tilde):
    v = (second + 1) / 2
    return torch.exp(v * beta.log() + (1 - v) * beta_tilde.log())


step_variance = choose("07.4", step_variance, course_step_variance)

# %% [markdown]
# What teaches it? Not the squared error, in which no variance occurs. The bound does: its term at $t$ is the divergence
# from the posterior to the step, $\mathrm{KL}(q \,\|\, p_\theta)$ (notebook 04, section 2). But trained by the bound
# alone the images got worse (their Tables 1 and 2). So both, with a small weight for the bound (eq. 16).
# $L_\text{simple}$ is the mean squared error that we have trained with so far, $L_\text{vlb}$ the bound $L$ of notebook
# 04, in their code in bits per dimension:
#
# $$L_\text{hybrid} = L_\text{simple} + 0.001\,L_\text{vlb}$$
#
# **The mean is to learn from $L_\text{simple}$** (their section 3.1); the gradient of $L_\text{vlb}$ is noisier (their
# section 3.3). A *stopped gradient* keeps the two apart: within $L_\text{vlb}$ the mean counts as a constant.
#
# ### Your turn: 07.5
#
# Write the bound's term for $t > 0$, in bits per dimension, with the mean held fixed:
# $\frac12\big(\log\frac{\Sigma}{\tilde\beta} + \frac{\tilde\beta + (\tilde\mu - \mu_\theta)^2}{\Sigma} - 1\big)$ is the
# divergence of a pixel in nats. On average it is least at
# $\Sigma = \tilde\beta + \mathbb{E}(\tilde\mu - \mu_\theta)^2$: the surer the guess of a pixel, the nearer to
# $\tilde\beta$.


# %%
def bound_term(true_mean, beta_tilde, mean, variance):
    """The divergence of q's step from the network's, in bits per dimension: (B,).

    true_mean, mean, variance: (B, C, H, W), means of q and of the network; its variance.
    beta_tilde: (B, 1, 1, 1), the variance of q. No gradient reaches `mean`.
    """
    raise NotImplementedError


check("07.5", bound_term)


# %%
def course_bound_term(true_mean, beta_tilde, mean, variance):
    gap = true_mean - mean.detach()
    nats = ((variance / beta_tilde).log() + (beta_tilde + gap**2) / variance - 1) / 2
    return nats.flatten(1).mean(1) / math.log(2)


bound_term = choose("07.5", bound_term, course_bound_term)

# %% [markdown]
# In `utils` the two are `GaussianDiffusion(..., variance="learned")`, its `bound_terms` and its `loss`. A small network
# was trained so for a few minutes ([its card](../data/checkpoints/learned-variance.md)):

# %%
path = course.root / "data" / "checkpoints" / "learned-variance.safetensors"
two_outputs, learned = load_model(path, device)
count = course.pick(test=4, cpu=200, gpu=500)
x_0, y_held = (part.to(device) for part in test_set[:count])


@torch.no_grad()
def looked_at(t, seed=0):
    """x_t at timestep t of held-out images, the estimate of x_0, and the second output."""
    ts = torch.full((count,), t, device=device)
    x_t = learned.q_sample(x_0, ts, normal(x_0.shape, rng(seed)))
    output, second = two_outputs(x_t, ts, y_held).chunk(2, dim=1)
    return ts, x_t, learned.to_x_0(output, x_t, ts), second


ts, x_t, guess, second = looked_at(5)
beta, beta_tilde = learned.at(ts, x_t, schedule.betas, small)
(true_mean, _), (mean, _) = (learned.q_posterior(image, x_t, ts) for image in (x_0, guess))
mine = bound_term(true_mean, beta_tilde, mean, step_variance(second, beta, beta_tilde))
theirs = learned.bound_terms(guess, (second + 1) / 2, x_0, x_t, ts)
torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
print("the term at t = 5, built by hand, equals that of utils")

# %% [markdown]
# **Predict before you run:** where will $v$ be near 1, where near 0? And how many bits does the right variance save?
#
# All three variances below belong to *one* network and one mean: so nothing but the variance differs. (At $t = 0$, where
# $\tilde\beta$ is 0, that of $t = 1$ stands in for it, as in their code.)

# %%
points = course.pick(test=6, cpu=30, gpu=60)
spread = np.logspace(0, np.log10(T - 1), points).round().astype(int)
probed = [0, *np.unique(spread)]
choices = ["beta-tilde", "beta", "learned"]
terms, v_seen = {name: [] for name in choices}, []
for t in tqdm(probed, desc="bound"):
    ts, x_t, guess, second = looked_at(int(t), seed=int(t))
    v = (second + 1) / 2
    v_seen.append(v.flatten().quantile(torch.tensor([0.1, 0.5, 0.9]).to(v)).cpu())
    for name, fraction in zip(choices, [0.0, 1.0, v]):
        terms[name].append(learned.bound_terms(guess, fraction, x_0, x_t, ts).cpu())
every_t = np.arange(1, T)


def bound_of(name):
    """Bits per dimension of each image (B,): t = 0, and the others by lines over log t."""
    first, *rest = torch.stack(terms[name]).double().numpy()
    at, known = np.log(every_t), np.log(probed[1:])
    lines = [np.interp(at, known, row) for row in np.transpose(rest)]
    return torch.from_numpy(first + np.sum(lines, axis=1))


bounds = {name: bound_of(name) for name in choices}

# %%
rows = {}
for name, bits in bounds.items():
    gap = bits - bounds["learned"]
    error = 2 * gap.std() / len(gap) ** 0.5
    rows[name] = [float(bits.mean()), f"{gap.mean():.4f} ± {error:.4f}"]
columns = ["bits per dimension", "more than learned, ± 2 standard errors"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns).round({columns[0]: 3})

# %% tags=["figure"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
low_v, middle_v, high_v = torch.stack(v_seen).T
left.plot(probed, middle_v)
left.fill_between(probed, low_v, high_v, alpha=0.3)
left.set_xscale("symlog")
left.set(xlabel="t", ylabel="v: median and 80% of pixels", title="What the network says")
for name, style in zip(choices[:2], ["--", ":"]):
    more = [float((one - best).mean()) for one, best in zip(terms[name], terms["learned"])]
    right.plot(probed, more, style, label=f"against {name}")
right.set_xscale("symlog")
right.set(xlabel="t", ylabel="bits per dimension", title="What it saves, by t")
right.legend()
plt.show()

# %% [markdown]
# The table compares the same images and noises, so its errors are those of the difference. The learned variance saves
# bits against either end, and it saves them at the smallest $t$, where the first figure had the ends far apart. There
# $v$ differs much between pixels, and one number for all of them cannot follow. In the left panel the median of $v$ falls
# from near $\beta$ at the smallest $t$ towards $\tilde\beta$; some pixels lie below 0, as nothing holds $v$ between the
# ends. At large $t$ the ends meet, and what $v$ says there changes nearly nothing.
#
# **And in images?** The three variances again, in DDPM with few steps, each between the ends *of the long step*. Song
# et al. 2020 (Table 1) found the large one ruinous there; Nichol & Dhariwal (2021, section 4) found that with few steps
# either end costs more quality than the learned one.
#
# **Predict before you run:** two of the three will be hard to tell apart. Which?


# %%
def ddpm_with(fraction):
    """DDPM's step with a fixed variance: 0 is beta-tilde, 1 is beta."""
    return partial(ddpm_step, fraction=fraction)


samplers = dict(zip(choices, [ddpm_with(0.0), ddpm_with(1.0), "ddpm"]))
per_set, sets = course.pick(test=10, cpu=150, gpu=500), course.pick(test=2, cpu=3, gpu=5)
budgets = course.pick(test=[2, 3], cpu=[10, 25, 50], gpu=[10, 25, 50, 100])


def drawn(name, steps, count, seed):
    """Images (count, 1, 28, 28) on the CPU, the classes in turn, from noise of `seed`."""
    x_T, y = normal((count, 1, 28, 28), rng(seed)), classes_in_turn(count)
    options = dict(steps=steps, y=y, x_T=x_T, generator=rng(seed + 1))
    for state in sample(two_outputs, learned, x_T.shape, sampler=samplers[name], **options):
        last = state.x_t
    return last.clamp(-1, 1).cpu()


distances = {name: {} for name in choices}
for steps in budgets:
    for name in choices:
        images = [drawn(name, steps, per_set, seed=60 + 2 * k) for k in range(sets)]
        distances[name][steps] = [quality.frechet(quality.features(x)) for x in images]
floor, _ = quality.floor(per_set)

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(8, 3.4))
for name, style in zip(choices, ["o--", "^:", "s-"]):
    values = np.array([distances[name][steps] for steps in budgets])
    bars = 2 * values.std(1, ddof=1) / sets**0.5
    axes.errorbar(budgets, values.mean(1), bars, fmt=style, capsize=3, label=name)
axes.axhline(float(floor.mean()), color="grey", lw=1, label="as many real images")
axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="Frechet distance")
axes.set_xticks(budgets, [str(steps) for steps in budgets])
plain_ticks(axes)
axes.set_title(f"One network, three variances ({sets} times {per_set} images)")
axes.legend()
plt.show()

# %%
few, long = course.pick(test=2, cpu=8, gpu=32), course.pick(test=4, cpu=1000, gpu=1000)
rows = {}
for steps in [*budgets, long]:
    images = {name: drawn(name, steps, few, seed=80) for name in choices}
    gaps = {name: images[name] - images["beta-tilde"] for name in choices}
    rows[steps] = {name: float(gap.square().mean().sqrt()) for name, gap in gaps.items()}
print("root mean square difference from the images with beta-tilde, same noises")
pd.DataFrame(rows).T.drop(columns="beta-tilde").rename_axis("steps").round(3)

# %% tags=["figure"]
finding = f"{long} steps, same noises. Top to bottom: {', '.join(choices)}"
show_images(torch.cat([*images.values()]), columns=few, scale=2, title=finding)

# %% [markdown]
# The fewer the steps, the further are the images with $\beta$ from those with $\tilde\beta$. $\tilde\beta$ leaves just
# the noise that belongs to $s$, if the estimate of $x_0$ is right. $\beta$ leaves more, in a long step much more, and
# the network was never trained on that. The learned one avoids it. But in the run shown the learned one is not told
# from $\tilde\beta$: their bars (two standard errors each way) overlap at every number of steps. With 1000 steps the
# rows look alike.
#
# DDIM and 2M add no noise and need no variance; they read the first output only. With them a learned variance improves
# the bound and changes no image.

# %% [markdown]
# ## 7. Which parts of the network matter · *further*
#
# **Question:** Dhariwal & Nichol (2021, section 3) changed the U-Net part by part before they guided it: more
# attention, residual blocks that halve and double the size, scale *and* shift by the embedding, width against depth.
# Their networks trained for hundreds of thousands of steps. What of it can be seen in half a minute?
#
# Six networks, each trained three times, for the *same processor time on one thread*, not the same number of steps: a
# part that costs more has to pay for itself. (The number of steps was fixed beforehand by a few timed ones, so that the
# seconds come out a little uneven.) `tests/benchmarks/parts.py` made the runs, and they are stored.
#
# - **as it is**: `UNet(channels=32)`, attention in the middle only, embedding as scale and shift.
# - **attention at every level**: 7x7 and 14x14 positions (theirs: at 32, 16 and 8).
# - **residual up- and down-sampling**: both branches of a residual block are resized (Brock et al. 2018).
# - **addition, no scale**: $h + e$ before the norm, where ours has $\mathrm{norm}(h)(1 + e_1) + e_2$ (their "AdaGN").
# - **wider**, 48 channels in place of 32, and **deeper**, 3 blocks a level in place of 1: each about twice the weights.
#
# **Predict before you run:** which of the five makes the loss *worse* in equal time? Which makes the fewest steps?

# %%
stored = pd.read_csv(course.root / "data" / "network-parts.csv", comment="#")
base, measures = "as it is", ["validation loss", "Frechet distance"]
by_seed = stored.pivot(index="seed", columns="variant", values=measures).dropna()
variants = list(dict.fromkeys(stored["variant"]))
t_value = student_t.ppf(0.975, len(by_seed) - 1)  # for a mean of so few numbers


def against_base(variant, measure):
    """Mean difference from "as it is", seed by seed, and half of its 95% interval."""
    gap = by_seed[measure][variant] - by_seed[measure][base]
    return gap.mean(), t_value * gap.std() / len(gap) ** 0.5


columns = ["weights", "steps", "seconds", *measures]
table = stored.groupby("variant", sort=False)[columns].mean()
for measure in measures:
    gaps = {name: against_base(name, measure) for name in variants}
    told = ["yes" if abs(gap) > half else "" for gap, half in gaps.values()]
    table[f"{measure}: told apart"] = told
digits = {"weights": 0, "steps": 0, "seconds": 1}
table.round(digits | {"validation loss": 4, "Frechet distance": 2})

# %% tags=["figure"]
figure, panels = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
for ax, measure in zip(panels, measures):
    for row, name in enumerate(variants[1:]):
        gap, half = against_base(name, measure)
        ax.errorbar(gap, row, xerr=half, fmt="o", capsize=3, color=COLOURS[0])
        single = by_seed[measure][name] - by_seed[measure][base]
        ax.plot(single, [row + 0.2] * len(single), ".", color=COLOURS[1])
    ax.axvline(0, color="grey", lw=1)
    ax.set(xlabel=f"{measure}, minus 'as it is'", yticks=range(len(variants) - 1))
panels[0].set_yticklabels(variants[1:])
panels[0].invert_yaxis()
seeds = len(by_seed)
figure.suptitle(
    f"Left of 0 is better. Bars: 95% for the mean of {seeds} seeds; dots: each seed"
)
plt.show()

# %% [markdown]
# All five have the higher mean loss here; attention at every level makes the fewest steps.
#
# **Read the steps first.** In equal time a part that costs more makes fewer steps, and so early in training each step
# still counts much. The variants with far fewer steps have the higher loss: for them the table shows mostly what a step
# costs, not what the part is worth once trained. The addition makes about as many steps as ours, so there the part
# itself is compared: without the scale the loss is a little higher. The wider and the deeper network make about as many
# steps as each other: of these two the wider one has the lower loss. Dhariwal & Nichol too weighed depth against
# training time, and took width (section 3). Still, nobody should choose an architecture after 30 seconds.
#
# **What could be told apart** is what stands off the line with its whole bar: "yes" in the table. Bars are by Student's
# $t$ with two degrees of freedom: $4.3/\sqrt3 \approx 2.5$ standard deviations of the differences on each side. So only
# what is far above the scatter of the seeds is seen, and the rest is *not* shown to be equal. With ten bars one may
# miss the line by chance. For its size the validation loss scatters far less than the distance of a few hundred samples:
# between networks that learn the same target it is the sharper measure (notebook 04, section 6: between different
# targets it is none).

# %% [markdown]
# ## 8. Play · *further*
#
# The weight, the label "to be away from" (none: the usual guidance), and clipping, from one fixed noise, one image for
# each class. First for three weights. Then set *away from* to Shirt, and watch T-shirt, pullover and coat.


# %%
def draw_ten(weight=3.0, negative="none", clip=True):
    """Ten images, one for each class, from a fixed noise."""
    k = 10 if negative == "none" else names.index(negative)
    network = away_from(lambda x_t, t, y: model(x_t, t, torch.full_like(y, k)), weight)
    finding = f"weight {weight:g}, away from: {negative}, {'' if clip else 'not '}clipped"
    images = draw(network, classes_in_turn(10), seed=50, clip=clip)
    return show_images(images, columns=10, scale=2, title=finding)


for w in (1, 3, 8):
    display(draw_ten(w))

# %%
play(draw_ten, weight=(0.0, 10.0, 0.5), negative=["none", *names], clip=True)

# %% [markdown]
# ## 9. Exercises · *further*
#
# ### 07.6 *(further)* Several labels at once
#
# What lies between a shirt and a dress? Add the difference of *each* label to the answer without one, each with a weight
# of its own; a negative weight pushes away (Liu et al. 2022, section 4):
# $\hat v(x_t) + \sum_k w_k\,\big(\hat v(x_t, k) - \hat v(x_t)\big)$. Write it with one call of the network. (3 is dress,
# 5 sandal, 6 shirt, 9 ankle boot.) Then draw what `{3: 2, 6: 2}` and `{9: 3, 5: -1}` give, with
# `draw(lambda x_t, t, y: composed_output(model, x_t, t, {3: 2, 6: 2}),
# classes_in_turn(10), seed=0)`.


# %%
def composed_output(model, x_t, t, weights):
    """The network's output with several labels.

    model: called once, as model(x_t, t, y); label model.num_classes means "no label".
    x_t: (B, C, H, W). t: (B,). weights: {label: weight}; none at all means no label.
    """
    raise NotImplementedError


check("07.6", composed_output)

# %% [markdown]
# Further questions, without a check: does the best interval of section 5 lie higher or lower than 200 to 800? What does
# autoguidance do with a *better* weak network? And does the distance of section 2 shrink if the weight falls with $t$?

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $y$ | `y` | class labels (B,); `num_classes` stands for "no label" |
# | $w$ | `w`, `guidance` | weight: 0 no label, 1 the label alone; Ho & Salimans' is $w' = w - 1$ |
# | $\nabla\log p(y \mid x_t)$ | `label_gradient` | where the label becomes more probable |
# | $\hat\epsilon_w$ | `guided_noise` | $\hat\epsilon - w\,\sigma_t\nabla\log p(y \mid x_t)$ |
# | $\hat\epsilon(x_t, y) - \hat\epsilon(x_t)$ | `with_label - without` | the same gradient, from the network itself, times $-\sigma_t$ |
#
# 1. Guidance is Bayes' rule for scores with a weight; at weight 1 it samples $p(x \mid y)$, above 1 nothing that can be
#    written down simply, and not $p(x)\,p(y \mid x)^w$.
# 2. A network trained with hidden labels is its own classifier: two halves of one batch give the direction.
# 3. More weight gives obedient, typical and less varied images; measure accuracy *and* distance, and ask when and away
#    from what to guide before asking how strongly.
#
# **Next:** [08 · One family](08_one_family.ipynb) shows DDPM, EDM and flow matching as one model, and draws in four
# evaluations.
#
# **References**
#
# - Dhariwal & Nichol 2021, *Diffusion Models Beat GANs on Image Synthesis*, arXiv 2105.05233, sections 3 and
#   4, Algorithms 1, 2
# - Nichol & Dhariwal 2021, *Improved Denoising Diffusion Probabilistic Models*, arXiv 2102.09672, section 3, eq. 15, 16
# - Brock et al. 2018, *Large Scale GAN Training for High Fidelity Natural Image Synthesis*, arXiv 1809.11096
# - Ho & Salimans 2022, *Classifier-Free Diffusion Guidance*, arXiv 2207.12598, eq. 6, Algorithms 1 and 2
# - Saharia et al. 2022, *Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding*, arXiv
#   2205.11487, section 2.3
# - Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, arXiv 2305.08891, section 3.4
# - Kynkäänniemi et al. 2024, *Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
#   Diffusion Models*, arXiv 2404.07724, section 3
# - Karras et al. 2024, *Guiding a Diffusion Model with a Bad Version of Itself*, arXiv 2406.02507, sections 4 and 5
# - Bradley & Nakkiran 2024, *Classifier-Free Guidance is a Predictor-Corrector*, arXiv 2408.09000, section 3
# - Liu et al. 2022, *Compositional Visual Generation with Composable Diffusion Models*, arXiv 2206.01714, section 4
# - Kynkäänniemi et al. 2019, *Improved Precision and Recall Metric for Assessing Generative Models*, arXiv 1904.06991
