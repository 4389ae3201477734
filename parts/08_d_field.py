# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %%
import math
from functools import partial
from itertools import pairwise, permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from scipy.special import beta
from scipy.stats import entropy, wasserstein_distance
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal
from tqdm.auto import tqdm

from utils.course import COLOURS, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import GaussianDiffusion, load_images, sample
from utils.diffusion.metrics import frechet_distance, gaussian_of
from utils.diffusion.sampling import ddpm_step, timestep_grid

# %% [markdown]
# ## 6. A map of the field · *further*
#
# Everything so far was one family: an image, normal noise, a network. The field is wider. Three pieces of it fit into
# ten lines each and have a case where the right answer is known exactly; after them comes the map.
#
# ### 6.1 Noise without numbers: masking
#
# **Question:** text, genomes and categories have no "a little noise". What is a forward process on symbols?
#
# The simplest one hides them (Austin et al. 2021, the *absorbing* process). At time $t$, from 0 to 1, each pixel of
# $x_0$ is masked with probability $t$, by itself; a masked pixel stays masked. The network sees $x_t$ and tells, for
# each masked pixel, the probabilities of its levels. It needs no $t$: what the visible pixels say about a hidden one does
# not depend on how the others came to be hidden (Ou et al. 2024).
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
# #### Your turn: 08.d1
#
# Write the backward step. `hint("08.d1")` and `solution("08.d1")` help; an untried stub does not stop the notebook.


# %%
def unmask_step(x_t, logits, t, s, generator):
    """From time t back to s, 0 <= s < t <= 1: some masked symbols become visible.

    x_t: (B, N) whole numbers, MASK = -1 or a level. logits: (B, N, levels), some may be
    -inf. Returns x_s like x_t. generator: for torch.rand and torch.multinomial.
    """
    raise NotImplementedError


check("08.d1", unmask_step)


# %%
def course_unmask_step(x_t, logits, t, s, generator):
    chances = logits.softmax(-1).flatten(0, 1)  # one row for each symbol
    drawn = torch.multinomial(chances, 1, generator=generator).view(x_t.shape)
    shown = torch.rand(x_t.shape, generator=generator) < (t - s) / t
    return torch.where((x_t == MASK) & shown, drawn, x_t)


unmask_step = choose("08.d1", unmask_step, course_unmask_step)


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
# **Where all is known.** Four pixels, black or white, with 16 probabilities made up at random. The perfect network is a
# table. Three claims can be tested: revealing one pixel a step, in any order, gives the joint exactly; the bound is then
# the *entropy*, no more; and several pixels in one step are wrong, since they are drawn without regard to each other.

# %%
# NBVAL_CHECK_OUTPUT
states = torch.cartesian_prod(*[torch.arange(2)] * 4)  # (16, 4)
joint = torch.rand(16, generator=rng(0)).double() ** 3
joint /= joint.sum()


def perfect_network(x_t):
    """log p(level | visible pixels), (B, 4, 2)."""
    fits = ((x_t[:, None] == states) | (x_t[:, None] == MASK)).all(2)  # (B, 16)
    chances = fits * joint
    by_level = torch.stack([chances @ (states == k).double() for k in range(2)], dim=-1)
    return (by_level / chances.sum(1)[:, None, None]).log()


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
print(f"{steps} steps; last loss: {float(loss):.1f} nats per image")

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
# With one step the network is asked once, about an image that is all mask: it answers with each pixel's own
# frequencies, and the samples are as good as independent pixels, no better. With more steps later pixels see earlier
# ones, and strokes appear. (One step of the earlier notebooks gives a blur, the mean; here it gives pixels that do not
# know of each other.) And a pixel that has been shown is not revised any more.

# %% [markdown]
# ### 6.2 Inverse problems: a measurement and a trained prior
#
# **Question:** we measured $y = Ax + n$: fewer numbers than $x$ has, with normal noise of variance $\sigma_y^2$. Can an
# unconditional model sample $p(x \mid y)$?
#
# Notebook 07's Bayes rule says how: add $\nabla\log p(y \mid x_t)$ to the score. But only $p(y \mid x_0)$ is known. In
# between stands $p(x_0 \mid x_t)$, and methods differ in their guess of it:
#
# - **DPS** (Chung et al. 2022): all of it sits at $\hat x_0(x_t)$. Then $y$ has the mean $A\hat x_0$ and variance $\sigma_y^2$.
# - **ΠGDM** (Song et al. 2023): a normal round $\hat x_0$ of variance $1-\bar\alpha_t$, so that $y$ has the covariance
#   $(1-\bar\alpha_t)AA^\top + \sigma_y^2 I$.
# - **True variance** (as in Peng et al. 2024): a normal with the covariance that $p(x_0 \mid x_t)$ really has.
#
# Where data are *one* normal, $p(x_0 \mid x_t)$ is normal, and all can be written down.
#
# #### Your turn: 08.d2
#
# $x_0 \sim \mathcal N(m, \tau^2 I)$ and $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$. Write the exact
# $\nabla_{x_t}\log p(y \mid x_t)$. `hint("08.d2")`, `solution("08.d2")`.


# %%
def normal_gradient(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    """The gradient of log p(y | x_t), (B, D), for data from N(mean, variance * I).

    x_t: (B, D). y: (B, P), y = A x_0 + n. A: (P, D). mean: (D,). The others: numbers.
    """
    raise NotImplementedError


check("08.d2", normal_gradient)


# %%
def course_normal_gradient(x_t, y, a_bar_t, mean, variance, A, noise_variance):
    signal = math.sqrt(a_bar_t)
    total = a_bar_t * variance + 1 - a_bar_t  # of each coordinate of x_t
    gain = signal * variance / total
    x_0 = mean + gain * (x_t - signal * mean)  # E[x_0 | x_t]
    left = variance * (1 - a_bar_t) / total  # the variance of x_0 given x_t
    covariance = left * A @ A.T + noise_variance * torch.eye(len(A)).to(A)
    return gain * torch.linalg.solve(covariance, (y - x_0 @ A.T).T).T @ A


normal_gradient = choose("08.d2", normal_gradient, course_normal_gradient)

# %% [markdown]
# Now three normals in the plane; the first coordinate is measured, with noise. The posterior is again a mixture of
# three normals, with new weights, means and covariances: the truth to compare with. In the exact gradient of the
# mixture your function stands for each of the normals.

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
    variance = assumed(method, x_t, a_bar_t) + y_std**2  # taken as it is, no gradient
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
# The measure is the sliced Wasserstein distance of notebook 07: mean gap of the sorted projections, over 50 directions.
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


rows = {}
for name, points in found.items():
    gaps = sliced_distance(points, truth).numpy()  # (number of y, seeds)
    cells = [f"{v.mean():.3f} ± {v.std(ddof=1):.3f}" for v in gaps]
    narrow = (points[..., 0].std(-1) / truth[..., 0].std(-1)).mean()
    rows[name] = [*cells, f"{narrow:.2f}"]
columns = [f"y = {y}" for y in ys] + ["spread of A x, against exact"]
print(f"distance to the exact posterior, mean ± standard deviation of {y_seeds} seeds")
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
figure, panels = plt.subplots(1, 4, figsize=(11, 3.2), sharex=True, sharey=True)
grid_side = torch.linspace(-2, 2, 120).double()
plane = torch.cartesian_prod(grid_side, grid_side)
density = posterior(ys[1]).log_prob(plane).exp().view(120, 120)
for ax, (name, points) in zip(panels, found.items()):
    ax.plot(*points[1, 0, :800].T, ".", ms=2, color=COLOURS[0], alpha=0.5)
    levels = [float(density.max()) * share for share in (0.05, 0.3, 0.8)]
    ax.contour(grid_side, grid_side, density.T, levels=levels, colors="black", linewidths=1)
    ax.axvline(ys[1], ls=":", color=COLOURS[1])
    ax.set(xlim=(-2, 2), ylim=(-2, 2), title=name, xlabel="first coordinate, measured")
    ax.set_aspect("equal")
panels[0].set_ylabel("second coordinate")
finding = f"Points: samples for y = {ys[1]} (dotted). Contours: the exact posterior\n"
figure.suptitle(finding, x=0.01, ha="left")
plt.show()

# %% [markdown]
# The exact gradient reaches the floor, so the sampler is right, and what the others lack is their guess of
# $p(x_0 \mid x_t)$. None of the three is at the floor for all three measurements. DPS believes the measurement more than
# it should: its samples lie too close together along the measured direction (last column). ΠGDM errs the other way. The
# true variance mends that nearly, and yet the distance stays: what is wrong is the *weights* of the peaks. They are
# decided at high noise, where $p(x_0 \mid x_t)$ has several peaks and no normal fits. So these samplers give points that
# agree with the measurement, which is not yet the right uncertainty. (DPS as published has, in place of $1/\sigma_y^2$, a
# step size that is tuned for each task: its Algorithm 1.)
#
# **On images:** ΠGDM with the shipped network, no label. $A$ averages blocks of 4x4 pixels, so $AA^\top = I/16$: of 784
# pixels 49 numbers are left.

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
# The samples are sharp and fit the measurement nearly as well as its noise allows. Where they differ from each other is
# what the measurement does not tell. By squared error the mean of several is never worse than one sample on average,
# but it is smoother than any garment: which of the two is wanted depends on the use.

# %% [markdown]
# ### 6.3 RePaint: why inpainting goes back
#
# **Question:** notebook 05 filled in half an image by putting the known pixels back after every step. Does that sample
# the right distribution?
#
# RePaint (Lugmayr et al. 2022, Algorithm 1) repeats each step: having come from $t$ to $s$ and put the known pixels
# back, it adds noise up to $t$ again (exercise 05.5), so that the invented pixels can follow the known ones.
#
# #### Your turn: 08.d3
#
# Write one step with its repeats. `ddpm_step(x_t, x_0, a_bar_t, a_bar_s, z)` is that of notebook 05.
# `hint("08.d3")`, `solution("08.d3")`.


# %%
def repaint_step(x_t, guess, a_bar_t, a_bar_s, known, mask, repeats, noise):
    """From x_t to x_s, where the pixels under the mask are known; `repeats` evaluations.

    guess: called as guess(x_t), estimates x_0. known: like x_t; mask: bool, of its shape.
    noise: called as noise(), gives standard normal noise like x_t, new at every call.
    """
    raise NotImplementedError


check("08.d3", repaint_step)


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


repaint_step = choose("08.d3", repaint_step, course_repaint_step)


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
# **Where all is known:** the three normals again, with the first coordinate known to be 0.8, without noise. Then
# $p(x_2 \mid x_1)$ is a mixture in one dimension. Two ways to pay for repeats: with the same number of evaluations in all,
# so fewer steps, or with more evaluations.
#
# **Predict before you run:** can more repeats, at the same cost, make it worse?

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
left.legend(fontsize=8, title="Repeats bring the samples nearer")
shown = {(most // 2, n): example[most // 2, n] for n in (times_each[0], times_each[-1])}
bins = np.linspace(-2, 2, 50)
right.hist(reference, bins=bins, density=True, color="lightgrey", label="exact")
for (steps, repeats), values in shown.items():
    look = dict(histtype="step", label=f"{steps} steps, {repeats} each")
    right.hist(values, bins=bins, density=True, lw=1.8, **look)
right.set(xlabel="second coordinate, given the first", ylabel="density", ylim=(0, 1))
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# Without repeats the samples are wrong although the score is perfect: too many lie low, on the side of the normal that
# the known coordinate rules out. At every step the invented coordinate met a known one that had been noised afresh,
# independently of it. Repeats bring the samples nearer to the exact law. At a fixed number of evaluations they take
# steps away, and coarse steps have an error of their own: beyond some number of repeats it gets worse again. With more
# evaluations it does not.
#
# **On images.** The left half known, no label, 60 evaluations each way.


# %%
@torch.no_grad()
def guess_of_model(t, x_t):
    ts = torch.full((len(x_t),), t, device=x_t.device)
    return diffusion.to_x_0(model(x_t, ts), x_t, ts).clamp(-1, 1)


half_count = course.pick(test=4, cpu=100, gpu=500)
half_images, half_labels = test_set[200 : 200 + half_count]
half_mask = torch.zeros(1, 1, 28, 28, dtype=torch.bool, device=device)
half_mask[..., :14] = True
ways = course.pick(
    test=[(2, 1), (1, 2)],
    cpu=[(60, 1), (20, 3), (10, 6)],
    gpu=[(240, 1), (60, 4), (24, 10)],
)
halves = {"real images": half_images}
for steps, repeats in tqdm(ways):
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
    fd = quality.frechet(quality.features(images))
    rows[name] = [*map(with_error, own), *map(with_error, own - plain), f"{fd:.2f}"]
columns = ["jump at the border", "class right, %", "jump minus plain", "class minus plain"]
columns.append(f"Frechet distance of {half_count}")
print("± is half of a 95% interval; plain: each step once")
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% tags=["figure"]
masked = torch.where(half_mask.cpu(), half_images, torch.zeros_like(half_images))[:10]
rows = torch.cat([masked, *[images[:10] for images in halves.values()]])
finding = f"Given the left half. Top to bottom: known,\n{', '.join(halves)}"
show_images(rows, columns=min(10, half_count), scale=2, title=finding)

# %% [markdown]
# The columns "minus plain" compare the same images: where an interval holds 0, nothing can be told from chance with so
# few. The first row says how large a jump is natural at that place and how often the classifier knows a whole image.
# Read the Frechet distance too: fewer, longer steps draw worse images as such (notebook 05, section 7), and at one price
# for all, that is what repeats are paid with.

# %% [markdown]
# ### 6.4 The map
#
# What each family changes against notebooks 01 to 05. The pointers are public code that runs; the papers are where to
# begin.
#
# | family | what changes | papers | code | nearest here |
# | --- | --- | --- | --- | --- |
# | discrete data | noise replaces or masks symbols, and the network tells probabilities of symbols | Austin et al. 2021, [2107.03006](https://arxiv.org/abs/2107.03006); Sahoo et al. 2024, [2406.07524](https://arxiv.org/abs/2406.07524) | [kuleshov-group/mdlm](https://github.com/kuleshov-group/mdlm) | 6.1 |
# | latent diffusion | an autoencoder makes images small first, and the same process runs on its codes | Rombach et al. 2021, [2112.10752](https://arxiv.org/abs/2112.10752) | [CompVis/latent-diffusion](https://github.com/CompVis/latent-diffusion) | 04 |
# | diffusion Transformers | patches and attention take the place of the U-Net; timestep and label scale the norms | Peebles & Xie 2022, [2212.09748](https://arxiv.org/abs/2212.09748) | [facebookresearch/DiT](https://github.com/facebookresearch/DiT) | 03 |
# | consistency models | the network tells the end of the ODE's path from any point on it, so that one evaluation can do | Song et al. 2023, [2303.01469](https://arxiv.org/abs/2303.01469) | [openai/consistency_models](https://github.com/openai/consistency_models) | 05, 08 |
# | flows and bridges | a path joins two sets of samples, neither of which must be noise, and the network learns its velocity | Lipman et al. 2022, [2210.02747](https://arxiv.org/abs/2210.02747); De Bortoli et al. 2021, [2106.01357](https://arxiv.org/abs/2106.01357); Albergo et al. 2023, [2303.08797](https://arxiv.org/abs/2303.08797) | [atong01/conditional-flow-matching](https://github.com/atong01/conditional-flow-matching) | 08 |
# | inverse problems | the network stays as it is, and every step of the sampler is pulled towards a measurement | Chung et al. 2022, [2209.14687](https://arxiv.org/abs/2209.14687); Lugmayr et al. 2022, [2201.09865](https://arxiv.org/abs/2201.09865) | [DPS2022/diffusion-posterior-sampling](https://github.com/DPS2022/diffusion-posterior-sampling) | 6.2, 6.3, 07 |
# | control | a copy of the encoder reads edges or poses and adds to the frozen network through layers that start at zero | Zhang et al. 2023, [2302.05543](https://arxiv.org/abs/2302.05543) | [lllyasviel/ControlNet](https://github.com/lllyasviel/ControlNet) | 03, 07 |
# | language | a Transformer fills in masked words in any order, in place of the next word only | Nie et al. 2025, [2502.09992](https://arxiv.org/abs/2502.09992); Li et al. 2022, [2205.14217](https://arxiv.org/abs/2205.14217) | [ML-GSAI/LLaDA](https://github.com/ML-GSAI/LLaDA) | 6.1 |
# | audio | one dimension in place of two: dilated convolutions on the waveform, told a spectrogram | Kong et al. 2020, [2009.09761](https://arxiv.org/abs/2009.09761) | [lmnt-com/diffwave](https://github.com/lmnt-com/diffwave) | 03 |
# | video | one axis more: the U-Net also attends from frame to frame | Ho et al. 2022, [2204.03458](https://arxiv.org/abs/2204.03458) | [lucidrains/video-diffusion-pytorch](https://github.com/lucidrains/video-diffusion-pytorch) | 03 |
# | molecules | $x_0$ is a cloud of atoms, and the network turns its answer when the cloud is turned | Hoogeboom et al. 2022, [2203.17003](https://arxiv.org/abs/2203.17003); Xu et al. 2022 (GeoDiff), [2203.02923](https://arxiv.org/abs/2203.02923) | [ehoogeboom/e3_diffusion_for_molecules](https://github.com/ehoogeboom/e3_diffusion_for_molecules) | 01, 03 |
# | protein design | each residue is a place and a rotation, and rotations need a noise of their own | Yim et al. 2023 (FrameDiff), [2302.02277](https://arxiv.org/abs/2302.02277); Watson et al. 2023 (RFdiffusion), *Nature* 620 | [RosettaCommons/RFdiffusion](https://github.com/RosettaCommons/RFdiffusion) | 01, 07 |
# | structure prediction | AlphaFold 3's last part is a diffusion model of atom positions, told what the rest found in the sequence | Abramson et al. 2024, *Nature* 630 | [google-deepmind/alphafold3](https://github.com/google-deepmind/alphafold3) (weights on request) | 07, 08 |
# | policies | $x_0$ is a short run of a robot's actions, and the label is what its cameras see | Chi et al. 2023, [2303.04137](https://arxiv.org/abs/2303.04137) | [real-stanford/diffusion_policy](https://github.com/real-stanford/diffusion_policy) | 07 |
# | medical images | three dimensions, drawn for a given segmentation (Med-DDPM), or a scan from too few measurements as an inverse problem | Dorjsembe et al. 2023, [2305.18453](https://arxiv.org/abs/2305.18453); Chung & Ye 2021, [2110.05243](https://arxiv.org/abs/2110.05243) | [mobaidoctor/med-ddpm](https://github.com/mobaidoctor/med-ddpm), [HJ-harry/score-MRI](https://github.com/HJ-harry/score-MRI) | 03, 6.2 |
# | cells and genomes | $x_0$ is the code of a cell's gene counts, or DNA letters with a noise that keeps them probabilities | Luo et al. 2024 (scDiffusion), [2401.03968](https://arxiv.org/abs/2401.03968); Avdeyev et al. 2023, [2305.10699](https://arxiv.org/abs/2305.10699) | [EperLuo/scDiffusion](https://github.com/EperLuo/scDiffusion), [jzhoulab/ddsm](https://github.com/jzhoulab/ddsm) | 04, 6.1 |
#
# Read down the second column: the process, the network or the sampler changes, hardly ever two of them at once. The
# loop of notebook 00 stays.
#
# *References of this section that are not in the map:* Shi et al. 2024, *Simplified and Generalized Masked Diffusion for
# Discrete Data*, arXiv 2406.04329; Ou et al. 2024, *Your Absorbing Discrete Diffusion Secretly Models the Conditional
# Distributions of Clean Data*, arXiv 2406.03736; Song et al. 2023, *Pseudoinverse-Guided Diffusion Models for Inverse
# Problems*, ICLR; Peng et al. 2024, *Improving Diffusion Models for Inverse Problems Using Optimal Posterior Covariance*,
# arXiv 2402.02149.
