# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 00 · The whole thing in 75 lines
#
# {{badge}}
#
# A diffusion model makes new pictures out of noise. This notebook builds one from nothing, small enough to hold in
# your head: first for points in the plane, where you can see everything, then, with the same lines, for pictures of
# digits. Three pieces of it you write yourself: mixing, the training step, the reverse step.
#
# **At the end you will have** a working diffusion model with code of your own in it, samples that are counted and
# not only looked at, and a map of which line each later notebook opens up.
#
# **You need** Python, a little PyTorch (tensors, one training loop seen before), and from probability: mean, variance,
# the normal distribution.
#
# **Time:** about a minute on a laptop CPU (2 cores), about a third of it in section 6. For you: 20 minutes of reading,
# and as much again for the three pieces. All work here stays on the CPU, so a GPU changes nothing. Everything is
# *core*, except what is marked *further*. (Comments such as `noqa` and `NBVAL_CHECK_OUTPUT` speak to the course's
# tests.)

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import inspect
import math
import time

import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import nn
from tqdm.auto import tqdm

# The course's own tools and models: for section 0 and for the comparison in section 7.
from utils.course import COLOURS, animate, play, show_images
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.diffusion import GaussianDiffusion, NoiseSchedule, load_images, load_model
from utils.diffusion import sample as course_sample
from utils.diffusion.embeddings import sinusoidal_embedding
from utils.diffusion.sampling import ddim_step, ddpm_step

# %% [markdown]
# ## 0. The finished thing
#
# Two processes (Sohl-Dickstein et al. 2015). The **forward process** takes an image $x_0$ and mixes noise into it, step
# by step, until only noise is left. Nothing is learned there. The **reverse process** starts from fresh noise and takes
# it away, step by step, until an image is left that nobody has drawn. A network does that. Here it is one that was
# trained for this course on clothes (Fashion-MNIST), and lies in `data/checkpoints`.

# %%
# The course's finished model, used as a black box: no need to follow this cell.
checkpoint = course.root / "data" / "checkpoints" / "unet-fashion-mnist.safetensors"
unet, diffusion = load_model(checkpoint)
clothes = load_images("fashion-mnist", "test")
boot, bag = (clothes[clothes.labels == label][0][:1] for label in (9, 8))
x_T = torch.randn(2, 1, 28, 28)
labels = torch.tensor([9, 8])  # a boot and a bag, please
run = course_sample(unet, diffusion, x_T.shape, sampler="ddim", steps=50, y=labels, x_T=x_T)
reverse = [x_T, *(state.x_t for state in run)]  # reverse[k]: after k of 50 steps

shown = [199, 399, 499, 599, 699, 799, 999]  # timesteps, from little noise to all noise
noise = torch.randn_like(boot).expand(len(shown), -1, -1, -1)
rows = []
for x_0 in (boot, bag):
    x_t = diffusion.q_sample(x_0.expand_as(noise), torch.tensor(shown), noise)
    rows.append(torch.cat([x_0, x_t]))
# A step goes down by 20 timesteps: pick the states that are as noisy as the mixtures.
at_the_same_noise = torch.stack([reverse[50], *(reverse[(999 - t) // 20] for t in shown)])
rows += [at_the_same_noise[:, k] for k in range(2)]

# %% tags=["figure"]
titles = ["no noise", *(f"t = {t}" for t in shown)] + [""] * 24
finding = "Rows 1, 2 to the right: images drown. Rows 3, 4 to the left: new ones appear"
show_images(torch.cat(rows), titles=titles, columns=8, title=finding)

# %% [markdown]
# ### How would you do it?
#
# Pretend that you have read no paper. You can mix an image with any amount of noise. You can train a network to give
# the image back. So: start from pure noise, ask the network for the image, done?
#
# **Predict before you run:** the network is shown pure noise, and must name one image, so that the mean squared error
# is as small as possible. Which one?

# %%
mean_image = load_images("fashion-mnist")[:10_000][0].mean(0, keepdim=True)
x_T = torch.randn(4, 1, 28, 28)
drawn = {}
for steps in [1, 2, 5, 50]:
    states = course_sample(unet, diffusion, x_T.shape, sampler="ddim", steps=steps, x_T=x_T)
    drawn["1 step" if steps == 1 else f"{steps} steps"] = list(states)[-1].x_t
compared = {"the mean image": mean_image, **drawn, "real images": clothes[:1000][0]}
rms = {name: (x - mean_image).square().mean().sqrt().item() for name, x in compared.items()}
pd.DataFrame({"distance to the mean image (RMS per pixel)": rms}).round(3)

# %% tags=["figure"]
pictures = torch.cat([mean_image.expand(4, -1, -1, -1), *drawn.values()])
columns = pictures.view(5, 4, 1, 28, 28).transpose(0, 1).flatten(0, 1)
titles = ["mean image", *drawn] + [""] * 15
finding = "One step gives the mean of everything; many steps decide"
show_images(columns, titles=titles, columns=5, scale=4, title=finding)

# %% [markdown]
# The mean of all images. Pure noise says nothing about the image, so every image is possible, and the guess with the
# smallest squared error is their mean: a blur, whatever noise you start from. In the table, one step ends close to the
# mean image, and real images are far from it. (In the last column only the first row is a good garment: the network is
# small and was asked for no class.)
#
# The way out: go only **part of the way** towards the blurred guess. Now the picture has a hint of something in it,
# fewer images are possible, and the next guess is less blurred. Repeat. That is the whole idea, and the rest of this
# notebook is its code.
#
# ## 1. Data you can see: eight blobs
#
# Pictures have hundreds of numbers each; we want to *see*. So take points in the plane, in eight round blobs on a circle.
# New points should lie in the blobs, in all eight equally often. Both can be counted.

# %%
angles = torch.arange(8) * torch.pi / 4
centres = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)  # (8, 2)
SPREAD = 0.2  # standard deviation of a blob


def make_blobs(count):
    """(count, 2) points: a random blob, then a random place in it."""
    which = torch.randint(8, (count,))
    return centres[which] + SPREAD * torch.randn(count, 2)


def count_blobs(points):
    """Share of points within three standard deviations of a centre; share of each blob."""
    nearest = torch.cdist(points, centres).min(1)
    near = (nearest.values < 3 * SPREAD).double().mean().item()
    return near, torch.bincount(nearest.indices, minlength=8) / len(points)


blobs = make_blobs(20_000)
near, shares = count_blobs(blobs)
print(f"the data itself: {near:.1%} within three standard deviations of a centre")
print(f"shares of the eight: {shares.min():.1%} to {shares.max():.1%}")

# %% [markdown]
# ## 2. Mixing
#
# **Question:** how much noise at which step?
#
# Number the steps $t = 0 \dots T-1$, from hardly any noise to nothing else. ($x_0$ is always the clean data, not the
# state at $t = 0$: papers count from 1, and code from 0.) Let $\bar\alpha_t$ (`alphas_cumprod`) say
# how much of the data is left after step $t$: it falls from nearly 1 to nearly 0. That list is the **schedule**. Ours
# is the *cosine* schedule, with $T = 200$. Then
#
# $$x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\qquad \epsilon \sim \mathcal N(0, I)
# \qquad\text{(Ho et al. 2020, eq. 4)}$$
#
# with standard normal noise $\epsilon$ (`noise`). Why roots? Variances add with the *squares* of the weights. The
# squares add up to 1, so data of variance 1 stay at variance 1 all the way; our blobs, each of whose two numbers has a
# variance of about 2, shrink towards it. (The clothes above had $T = 1000$.)


# %%
def cosine_schedule(num_timesteps):
    """alpha-bar after each step (Nichol & Dhariwal 2021, eq. 17)."""
    u = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
    curve = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)  # keeps alpha-bar above 0
    return torch.cumprod(1 - betas, dim=0).float()


num_timesteps = 200
alphas_cumprod = cosine_schedule(num_timesteps)  # (200,)

# %% [markdown]
# ### Your turn: 00.1
#
# Write the equation as code. `x_0` is a batch, and every item has a `t` of its own. `alphas_cumprod[t]` has shape
# (B,); `.view(-1, *[1] * (x_0.ndim - 1))` makes it (B, 1, ...), so that it multiplies whole items, points or images.
#
# Write your lines in place of `raise NotImplementedError` and run the cell. `check` says whether they are right, and if
# not, what is wrong. Stuck? `hint("00.1")` gives a hint, each call the next one; `solution("00.1")` shows an answer.
# You may also go on: the cell after it has the course's version, and uses yours instead if yours is right.


# %%
def q_sample(x_0, t, noise, alphas_cumprod):
    """x_t, for each item at its own step.

    x_0, noise: (B, ...). t: (B,) whole numbers. alphas_cumprod: (T,).
    """
    raise NotImplementedError


check("00.1", q_sample)


# %%
def course_q_sample(x_0, t, noise, alphas_cumprod):
    alpha_bar = alphas_cumprod[t].view(-1, *[1] * (x_0.ndim - 1))  # (B, 1, ..., 1)
    return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise


q_sample = choose("00.1", q_sample, course_q_sample)

# %% tags=["figure"]
steps_shown, some = [0, 60, 120, 199], blobs[:1500]
noise = torch.randn_like(some)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.9), sharex=True, sharey=True)
for ax, t in zip(axes, steps_shown):
    x_t = q_sample(some, torch.full((len(some),), t), noise, alphas_cumprod)
    ax.scatter(*x_t.T, s=2, color=COLOURS[0])
    title = rf"t = {t}: $\bar\alpha_t$ = {alphas_cumprod[t]:.2f}"
    ax.set(title=title, xlabel="first number", aspect=1)
axes[0].set_ylabel("second number")
figure.suptitle(
    "Eight blobs melt into one normal cloud", x=0.01, ha="left", fontsize=12, y=1.0
)
plt.show()

# %% [markdown]
# ($\bar\alpha_t$ is the square of the data's weight; for data of variance 1 that is their share of the variance.) The
# last cloud is almost exactly a standard normal one. That is why sampling can start there: a standard normal is
# something that we can draw.
#
# ## 3. Why squared error is enough
#
# **Question:** what does a network learn that is trained to give $x_0$ back?
#
# Training uses only sentence 1. The other two say why it is enough; $\nabla$ is the gradient by $x_t$, and
# $\log p(x_t)$ is largest where the points are densest.
#
# 1. Of all answers to $x_t$, the mean squared error is smallest for the mean of all $x_0$ that are possible given $x_t$,
#    each counted as much as it is probable: the **posterior mean** $\mathbb E[x_0 \mid x_t]$. So that is what the network
#    approaches.
# 2. The posterior mean tells in which direction $x_t$ becomes more probable, the **score**:
#    $\nabla \log p(x_t) = \big(\sqrt{\bar\alpha_t}\,\mathbb E[x_0 \mid x_t] - x_t\big) / (1 - \bar\alpha_t)$
#    (Robbins 1956, Tweedie's formula).
# 3. A small move of every point along its score, and a small stretch of everything (the weight of the data grows), turn
#    the cloud of $x_t$ into the cloud of $x_s$, at a slightly earlier step $s < t$ (Song et al. 2021, section 4.3); that is
#    the **reverse step**.
#
# For eight blobs the posterior mean is known exactly. The next cell writes it down (its formula is *further*;
# `exact_x_0` comes back as a yardstick), and the one after it tests sentence 2.


# %%
def log_density(x_t, t):
    """log p(x_t), up to a constant that has no x_t in it; and its parts, one a blob."""
    a_bar = alphas_cumprod[t][:, None]
    squares = torch.cdist(x_t[:, None], a_bar.sqrt()[..., None] * centres)[:, 0] ** 2
    parts = -squares / (2 * (a_bar * SPREAD**2 + 1 - a_bar))  # (B, 8)
    return parts.logsumexp(1), parts


def exact_x_0(x_t, t):
    """E[x_0 | x_t] for the eight blobs. x_t: (B, 2), t: (B,)."""
    a_bar = alphas_cumprod[t][:, None]
    variance = a_bar * SPREAD**2 + 1 - a_bar  # of x_t, within one blob
    chances = log_density(x_t, t)[1].softmax(1)  # of each blob
    centre = chances @ centres
    pull = a_bar.sqrt() * SPREAD**2 / variance  # what of the way from there is no noise
    return centre + pull * (x_t - a_bar.sqrt() * centre)


# %%
t = torch.randint(num_timesteps, (1000,))
x_t = q_sample(blobs[:1000], t, torch.randn(1000, 2), alphas_cumprod).requires_grad_()
(score,) = torch.autograd.grad(log_density(x_t, t)[0].sum(), x_t)
x_t, a_bar = x_t.detach(), alphas_cumprod[t][:, None]
by_mean = (a_bar.sqrt() * exact_x_0(x_t, t) - x_t) / (1 - a_bar)
torch.testing.assert_close(score, by_mean, rtol=1e-3, atol=1e-3)
print("the gradient of log p(x_t) and the formula of sentence 2 agree, at 1000 points")

# %% tags=["figure"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True)
start_x_0, fixed = torch.tensor([[1.9, 0.3]]), torch.tensor([[-0.4, 0.8]])
for ax, step, what in zip(axes, [190, 110, 30], ["any blob", "several", "nearly only one"]):
    t = torch.tensor([step])
    x_t = q_sample(start_x_0, t, fixed, alphas_cumprod)
    a_bar = alphas_cumprod[t]
    away = (x_t - a_bar.sqrt() * blobs[:1200]).square().sum(1)
    chances = (-away / (2 * (1 - a_bar))).softmax(0)
    strong = chances > 0.05 * chances.max()
    sizes = 0.5 + 15 * chances[strong] / chances.max()
    ax.scatter(*blobs[:1200].T, s=4, color="0.85")
    ax.scatter(*blobs[:1200][strong].T, s=sizes, color=COLOURS[5], label="possible")
    ax.plot(*x_t[0], "x", color=COLOURS[1], ms=9, mew=2, label="$x_t$")
    ax.plot(*exact_x_0(x_t, t)[0], "*", color="black", ms=13, label="mean")
    ax.set(title=f"t = {step}: {what}", xlabel="first number", aspect=1)
axes[0].set_ylabel("second number")
finding = "The best answer is the mean of what is possible"
figure.suptitle(finding, x=0.01, y=1.06, ha="left", fontsize=12)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
plt.show()

# %% [markdown]
# (Coloured: at least 5% as probable as the most probable point; larger means more probable.) Left, the best answer lies
# in the middle, where there are no data at all: the blur of section 0. (With other weights for the steps, the same loss
# also bounds how likely the data are under the model; notebook 04 derives the *bound*.)
#
# ## 4. The network, and the training step
#
# The network is called as `model(x_t, t)` and answers with a guess of $x_0$. It has to know $t$, since the best answer
# depends on it. A bare number is hard to use for a network, so $t$ becomes 32 numbers, the sines and cosines of 16
# waves of different lengths (notebook 02). The rest is the plainest network there is: three hidden layers. For points
# in the plane its output is not the guess itself but the correction to $x_t$: `PlaneMLP` guesses
# $\sqrt{\bar\alpha_t}\,x_t - \sqrt{1-\bar\alpha_t}\cdot$output. At little noise $x_t$ is nearly the answer, and the
# network need not learn to copy it. (This output is called $v$: Salimans & Ho 2022, section 4; notebook 01.)


# %%
def encode(t, dim=32):
    """(B,) steps as (B, dim): sines and cosines of falling frequency."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2 - 1))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


# %%
class MLP(nn.Module):
    """Guesses x_0, of `size` numbers, from x_t and t."""

    def __init__(self, size, width, hidden=3):
        super().__init__()
        layers, inputs = [], size + 32
        for _ in range(hidden):
            layers += [nn.Linear(inputs, width), nn.SiLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(width, size))

    def forward(self, x_t, t):
        return self.layers(torch.cat([x_t.flatten(1), encode(t)], dim=1)).view_as(x_t)


class PlaneMLP(MLP):
    """The same for points: what the layers answer is a correction to x_t."""

    def forward(self, x_t, t):
        a_bar = alphas_cumprod[t][:, None]
        return a_bar.sqrt() * x_t - (1 - a_bar).sqrt() * super().forward(x_t, t)


# %% [markdown]
# ### Your turn: 00.2
#
# One step of training (Algorithm 1 of Ho et al. 2020, there with the noise as the target):
#
# 1. Draw a step $t$ for each item of the batch, every step from 0 to $T-1$ equally likely.
# 2. Draw noise, and mix it in: `q_sample`.
# 3. Ask the network for $x_0$; its answer is $\hat x_0$. The loss is the mean of
#    $(\hat x_0 - x_0)^2 / \max(1-\bar\alpha_t,\ 0.1)$.
# 4. Move the weights: the three lines of every PyTorch loop.
#
# Why divide? With the plain error the loud steps drown the quiet ones, and it is at little noise that the blobs get
# their edges (section 5 measures it). What is best at any single $t$ stays the posterior mean. The limit keeps the
# quietest steps from drowning the rest. Its value was chosen among four, with one seed and by the samples you will see.
# (Salimans & Ho 2022, section 4, and min-SNR, Hang et al. 2023, section 3, choose such weights with more thought.)


# %%
def training_step(model, optimizer, x_0, alphas_cumprod):
    """One step of training on the batch x_0 (B, ...). Returns loss.item(), a float.

    model: called as model(x_t, t). alphas_cumprod: (T,), T of any length.
    """
    raise NotImplementedError


check("00.2", training_step)


# %%
def course_training_step(model, optimizer, x_0, alphas_cumprod):
    t = torch.randint(len(alphas_cumprod), (len(x_0),))  # a step for each item
    noise = torch.randn_like(x_0)
    x_t = q_sample(x_0, t, noise, alphas_cumprod)
    variance = 1 - alphas_cumprod[t].view(-1, *[1] * (x_0.ndim - 1))  # of the noise
    loss = ((model(x_t, t) - x_0).square() / variance.clamp(min=0.1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


training_step = choose("00.2", training_step, course_training_step)

# %% [markdown]
# **Predict before you run:** the loss cannot go to 0. Why not?


# %%
def train(model, data, steps, batch_size=512, learning_rate=5e-3, step=training_step):
    """Train with Adam and a falling learning rate. Returns the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    losses = []
    for _ in tqdm(range(steps), desc="training"):
        x_0 = data[torch.randint(len(data), (batch_size,))]
        losses.append(step(model, optimizer, x_0, alphas_cumprod))
        decay.step()
    return losses


began = time.perf_counter()
train_steps = course.pick(test=300, cpu=3000, gpu=3000)
model = PlaneMLP(size=2, width=128)
losses = train(model, blobs, train_steps)
print(f"{train_steps} steps in {time.perf_counter() - began:.0f} s")
first, last = sum(losses[:100]) / 100, sum(losses[-100:]) / 100
print(f"mean loss of the first 100 steps: {first:.2f}, of the last 100: {last:.2f}")

# %%
new = make_blobs(20_000)  # points that the network was not trained on
t = torch.randint(num_timesteps, (20_000,))
x_t = q_sample(new, t, torch.randn_like(new), alphas_cumprod)
with torch.no_grad():
    answers = {"the network": model(x_t, t), "the exact mean": exact_x_0(x_t, t)}
errors = {name: (x_0 - new).square().mean().item() for name, x_0 in answers.items()}
pd.DataFrame({"mean squared error": errors}).round(4)

# %% [markdown]
# Because several $x_0$ are possible given $x_t$, and nobody can know which it was. No network can do better than the
# exact mean on new points, except by chance in these draws; ours comes close.
#
# ## 5. The reverse step
#
# **Question:** we hold $x_t$ and a guess of $x_0$. What is $x_s$, at an earlier step $s < t$?
#
# If the guess were right, we would know which noise is in $x_t$: solve the mixing equation for it. Then **mix again**,
# the same guess and the same noise, but as step $s$ does it. That goes part of the way from $x_t$ to the guess, and
# leaves as much noise as step $s$ should have. (It is the move of sentence 3 in section 3, made in one go, and is
# called DDIM: Song, Meng & Ermon 2020, eq. 12, with no fresh noise. After the last step nothing is left of the
# noise: $\bar\alpha_s = 1$.)
#
# ### Your turn: 00.3
#
# Two lines: the noise that the guess implies, and the new mixture. Here $\bar\alpha_t$ and $\bar\alpha_s$ are plain
# numbers, since the whole batch is at the same step.


# %%
def reverse_step(x_t, x_0, a_bar_t, a_bar_s):
    """x_s: the guess x_0 and the noise of x_t, mixed with less noise.

    x_t, x_0: (B, ...). a_bar_t < a_bar_s <= 1: numbers, alpha-bar at t and at s.
    """
    raise NotImplementedError


check("00.3", reverse_step)


# %%
def course_reverse_step(x_t, x_0, a_bar_t, a_bar_s):
    noise = (x_t - a_bar_t**0.5 * x_0) / (1 - a_bar_t) ** 0.5  # the noise it implies
    return a_bar_s**0.5 * x_0 + (1 - a_bar_s) ** 0.5 * noise


reverse_step = choose("00.3", reverse_step, course_reverse_step)


@torch.no_grad()
def sample(model, shape, steps=num_timesteps, step=reverse_step):
    """From pure noise to samples. Yields every state, x_T first."""
    a_bar = [*alphas_cumprod.tolist(), 1.0]  # a_bar[-1]: no noise is left
    visited = [round(num_timesteps * (1 - k / steps)) - 1 for k in range(steps)]
    x_t = torch.randn(shape)
    yield x_t
    for t, s in zip(visited, [*visited[1:], -1]):
        x_0 = model(x_t, torch.full(shape[:1], t))
        x_t = step(x_t, x_0, a_bar[t], a_bar[s])
        yield x_t


# %% [markdown]
# That is all. How many lines is it, without blank lines and descriptions?

# %%
pieces = [cosine_schedule, q_sample, encode]
pieces += [MLP.__init__, MLP.forward, PlaneMLP.forward]
pieces += [training_step, train, reverse_step, sample, make_blobs]


def code_lines(piece):
    text = "".join(inspect.getsource(piece).split('"""')[::2])  # without the docstring
    return sum(bool(line.strip()) for line in text.splitlines())


lines = {piece.__qualname__: code_lines(piece) for piece in pieces}
OTHER = 4 + 4 + 2 + 2 + 3  # imports, data, schedule, class lines, calls: counted by hand
total = sum(lines.values())
print(f"{total} lines; {total + OTHER} with everything around them")
pd.DataFrame({"lines": lines})

# %% [markdown]
# **Predict before you run:** the network has learned from blobs with the right shares. Is anything forcing the samples
# to have them too?

# %%
states = list(sample(model, (2000, 2)))
palette = [*COLOURS, "0.5"]
ends = [palette[k] for k in torch.cdist(states[-1], centres).argmin(1)]  # a blob, a colour
figure, axes = plt.subplots(1, 4, figsize=(9, 2.9), sharex=True, sharey=True)
for ax, k in zip(axes, [0, 80, 140, 200]):
    ax.scatter(*states[k].T, s=2, c=ends)
    ax.set(title=f"after {k} steps", xlabel="first number", aspect=1)
    ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
axes[0].set_ylabel("second number")
finding = "Coloured by the blob they end in: where a point starts decides"
figure.suptitle(finding, x=0.01, ha="left", fontsize=12, y=1.02)
plt.show()

# %% [markdown]
# It looks right. Now count, with three networks trained from three seeds. Beside them the same sampler with the exact
# mean in place of a network: what that row lacks is the sampler's doing, the rest is the network's. The last row is a
# network that was trained on the plain error, not divided.


# %%
def undivided_step(model, optimizer, x_0, alphas_cumprod):
    """The training step with the plain squared error."""
    t, noise = torch.randint(len(alphas_cumprod), (len(x_0),)), torch.randn_like(x_0)
    x_t = q_sample(x_0, t, noise, alphas_cumprod)
    loss = (model(x_t, t) - x_0).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


# %%
def tally(points):
    """One row of the table."""
    near, shares = count_blobs(points)
    furthest = 100 * (shares - 1 / 8).abs().max().item()
    return [f"{near:.1%}", f"{shares.min():.1%}", f"{shares.max():.1%}", f"{furthest:.1f}"]


count, models = course.pick(test=500, cpu=5000, gpu=5000), []
rows = {"data": tally(blobs), "exact mean": tally(list(sample(exact_x_0, (count, 2)))[-1])}
runs = {f"seed {seed}": (seed, training_step) for seed in range(3)}
runs["seed 0, not divided"] = (0, undivided_step)
for name, (seed, step) in runs.items():
    torch.manual_seed(seed)
    models.append(PlaneMLP(size=2, width=128))
    train(models[-1], blobs, train_steps, step=step)
    rows[name] = tally(list(sample(models[-1], (count, 2)))[-1])
columns = ["within 3 standard deviations", "smallest share", "largest share"]
columns.append("furthest from 12.5%, points")
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# Nothing forces the shares but the squared error: the network has to put the borders between the eight sectors in the
# right places. In the last column 0.5 and 1.2 cannot be told apart: one share of 5,000 samples has a standard error of
# 0.5 points, and this is the largest of eight. The first column shows the networks somewhat behind the exact mean, and
# the plain error far behind them. *Further:* how could they come closer? Try a larger network, or more training.
#
# ### Play: one step, a few, many
#
# The number of steps is free: a reverse step may jump. First for four values.


# %%
def draw(steps=5, seed=0, ax=None):
    """1000 samples in so many steps, and how many of them lie in a blob."""
    torch.manual_seed(seed)
    *_, points = sample(models[0], (1000, 2), steps)
    ax = ax or plt.subplots(figsize=(4, 3.6))[1]
    ax.scatter(*blobs[:1000].T, s=2, color="0.8")
    ax.scatter(*points.T, s=2, color=COLOURS[1])
    word = "step" if steps == 1 else "steps"
    ax.set(title=f"{steps} {word}: {count_blobs(points)[0]:.0%} in a blob")
    ax.set(xlabel="first number", aspect=1, xlim=(-3, 3), ylim=(-3, 3))


figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), sharey=True)
for ax, steps in zip(axes, [1, 3, 10, 200]):
    draw(steps, ax=ax)
axes[0].set_ylabel("second number")
figure.suptitle("Ten steps already do most of it", x=0.01, ha="left", fontsize=12)
plt.show()

# %% [markdown]
# One big step takes every point to the mean of all data: the blur again, in the plane. That is the price of diffusion.
# A GAN or a VAE draws in one look of its network, this model in many. Notebook 05 comes down to some 20; Stable
# Diffusion makes each look cheap by working on small, encoded pictures (Rombach et al. 2022; notebook 15). Find the
# smallest number of steps that satisfies you.

# %%
play(draw, steps=(1, 200), seed=(0, 5))

# %% [markdown]
# ## 6. The same lines on pictures
#
# Now scikit-learn's digits: 8 by 8 pixels, scaled to $[-1, 1]$. **Two things are exchanged, the data and the network**
# (the plain `MLP`, wider, for 64 numbers; it trains for 5,000 steps instead of 3,000). All other functions are those
# above, untouched. 1,400 digits are for training, the rest is held out. This takes less than half a minute.
#
# **Predict before you run:** an MLP does not know which pixels are neighbours. Will that be enough for digits?

# %%
data = load_digits()
images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1  # (1797, 1, 8, 8)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train_digits, real_digits = images[order[:1400]], images[order[1400:]]
train_labels, real_labels = torch.tensor(data.target)[order].split([1400, 397])

began = time.perf_counter()
torch.manual_seed(0)
digit_model = MLP(size=64, width=256)
train(digit_model, train_digits, course.pick(test=300, cpu=5000, gpu=5000))
films = list(sample(digit_model, (course.pick(test=60, cpu=1000, gpu=1000), 1, 8, 8)))
digits = films[-1]
print(f"trained and sampled in {time.perf_counter() - began:.0f} s")

# %% tags=["figure"]
pair = torch.cat([digits[:40].view(4, 10, 1, 8, 8), real_digits[:40].view(4, 10, 1, 8, 8)])
gap = torch.ones(1, 10, 1, 8, 8)
both = torch.cat([pair[:4], gap, pair[4:]]).flatten(0, 1)
show_images(
    both, columns=10, scale=6, title="Drawn by the network (top), real digits (bottom)"
)

# %% tags=["figure"]
finding = "The first forty: digits show through the noise well before it is gone"
shown = range(0, 201, 4)
titles = [f"after {k} of 200 steps" for k in shown]
animate([films[k][:40] for k in shown], titles=titles, columns=10, title=finding)

# %% [markdown]
# Looking is not counting. So a classifier is trained on the same 1,400 digits. It *recognises* a picture if it gives
# some digit a probability above 90%. Such a judge can be fooled, so it also has to judge held-out real digits, which
# should pass, and three kinds of pictures that should not: noise, two different digits laid over each other, and our
# network's answer in one big step.


# %%
flat = [x.flatten(1).numpy() for x in (train_digits, real_digits)]
judge = MLPClassifier((128,), alpha=0.1, max_iter=400, random_state=0)
judge.fit(flat[0], train_labels)
print(f"right on held-out digits: {judge.score(flat[1], real_labels):.1%}")


def verdict(x):
    """Share recognised; smallest and largest class; distance to the training set."""
    chances = torch.tensor(judge.predict_proba(x.clamp(-1, 1).flatten(1).numpy()))
    shares = torch.bincount(chances.argmax(1), minlength=10) / len(x)
    nearest = torch.cdist(x.flatten(1) / 8, train_digits.flatten(1) / 8).min(1).values
    sure = (chances.max(1).values > 0.9).double().mean()
    shown = f"{shares.min():.0%} to {shares.max():.0%}"
    return [f"{sure:.0%}", shown, f"{nearest.median():.2f}"]


# %%
judged = {"real, held out": real_digits, "drawn, 200 steps": digits}
for steps in [20, 5, 1]:
    word = "step" if steps == 1 else "steps"
    judged[f"drawn, {steps} {word}"] = list(sample(digit_model, digits.shape, steps))[-1]
differ = real_labels[:198] != real_labels[198:396]
judged["two digits, half each"] = (real_digits[:198] + real_digits[198:396])[differ] / 2
judged["noise"] = torch.randn_like(digits)
columns = ["recognised", "shares of the ten digits", "to nearest training digit (RMS)"]
rows = {name: verdict(x) for name, x in judged.items()}
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# It is nearly enough for 8 by 8 pixels. The judge is lenient: it passes many of the overlays and some of the noise, so
# read the drawn digits' share against those rows and against that of real digits. Read the last column too: the drawn
# digits are *nearer* to a training digit than new real digits are. They may be smoother, or the network may have begun
# to learn 1,400 pictures by heart; this column cannot tell which (notebook 05, section 10, shows how to tell). Notebook
# 03 builds the network that knows about neighbours. *Further:* do the digits need the division at all? Train with
# `step=undivided_step`, and ask the judge.
#
# ## 7. Check: the same thing in `utils`
#
# On the same numbers, what you built gives what the course's module gives. Then the paper's own reverse step, from the
# module: Algorithm 2 of Ho et al. (2020) uses only part of the noise again, and draws the rest fresh (notebook 05).

# %%
# NBVAL_CHECK_OUTPUT
theirs = GaussianDiffusion(NoiseSchedule.cosine(num_timesteps), prediction="v")
torch.testing.assert_close(alphas_cumprod, theirs.schedule.alphas_cumprod.float())
t, noise = torch.arange(num_timesteps), torch.randn(num_timesteps, 2)
x_0 = blobs[:num_timesteps]
x_t = q_sample(x_0, t, noise, alphas_cumprod)
torch.testing.assert_close(x_t, theirs.q_sample(x_0, t, noise))
torch.testing.assert_close(encode(t), sinusoidal_embedding(t, 32))
# Without the limit, our loss is the squared error of v, which is what the layers answer.
v_model = super(PlaneMLP, model).forward
loss = ((model(x_t, t) - x_0).square() / (1 - alphas_cumprod[t][:, None])).mean()
torch.testing.assert_close(loss, theirs.loss(v_model, x_0, t, noise))
mine = reverse_step(x_t, x_0, 0.3, 0.7)
torch.testing.assert_close(mine, ddim_step(x_t, x_0, 0.3, 0.7, z=0.0))
print("schedule, mixing, encoding, loss and reverse step agree")


# %%
def paper_step(x_t, x_0, a_bar_t, a_bar_s):
    """Algorithm 2: mean and variance of q(x_s | x_t, x_0), and fresh noise."""
    return ddpm_step(x_t, x_0, a_bar_t, a_bar_s, torch.randn_like(x_t))


rows = {}
for name, step in {"noise used again": reverse_step, "Algorithm 2": paper_step}.items():
    points = list(sample(models[0], (count, 2), step=step))[-1]
    pictures = list(sample(digit_model, digits.shape, step=step))[-1]
    near, shares = count_blobs(points)
    furthest = 100 * (shares - 1 / 8).abs().max().item()
    rows[name] = [f"{near:.1%}", f"{furthest:.1f}", verdict(pictures)[0]]
columns = ["blobs: near a centre", "blobs: furthest share, points", "digits: recognised"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# Both work, from the same networks. On the blobs Algorithm 2 is a little ahead, by more than the samples' chance (a
# standard error of about 0.2 points each); the other differences are within it.
#
# ## 8. The map
#
# Every later notebook opens up one line of this one.
#
# | notebook | line of this notebook | what it asks |
# | --- | --- | --- |
# | [01](01_noise_schedule.ipynb) | `cosine_schedule`, `q_sample` | Why this curve? Why may we jump to any $t$? What else can a network predict? |
# | [02](02_positional_encoding.ipynb) | `encode(t)` | Why waves, and what happens without? |
# | [03](03_unet.ipynb) | `class MLP` | A network that knows which pixels are neighbours, and the class label. |
# | [04](04_training.ipynb) | `training_step`, `train` | Why is this loss a bound on likelihood? Averaged weights, resuming. |
# | [05](05_sampling.ipynb) | `reverse_step`, `sample` | Algorithm 2 derived, and 20 steps instead of 1000. |
# | [06](06_evaluation.ipynb) | `count_blobs`, `verdict` | How good are pictures, in numbers that can be trusted? |
# | [07](07_guidance.ipynb) | `model(x_t, t)` | A third argument: which picture would you like? |
# | [08](08_one_family.ipynb) | the loss's target, the step | EDM and flow matching: the same model in other letters. |
#
# The second track finds the names of genes, diseases and chemicals in biomedical text. It needs nothing of this one.
# [09](09_biomedical_ner.ipynb) sets the task, [10](10_preprocessing.ipynb) cuts text into tokens,
# [11](11_ner_models.ipynb) goes from rules to Transformers, [12](12_ner_in_action.ipynb) reads and doubts a tagger,
# [13](13_domain_adaptation.ipynb) moves one to other texts. [14](14_diffusion_ner.ipynb) joins the tracks: it takes this
# reverse process to the borders of names in a sentence. [15](15_text_to_image.ipynb) gives `model` a sentence to listen to.
#
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $x_0$, $x_t$ | `x_0`, `x_t` | clean data; the same after step $t$ |
# | $T$ | `num_timesteps` | number of steps; in code $t$ runs from 0 to $T-1$ |
# | $\bar\alpha_t$ | `alphas_cumprod`, `a_bar_t` | the square of the data's weight in $x_t$ |
# | $\epsilon$ | `noise` | standard normal noise |
# | $\mathbb E[x_0 \mid x_t]$ | `model(x_t, t)` | posterior mean; the network's guess of it |
# | $\nabla\log p(x_t)$ | `score` | direction in which $x_t$ becomes more probable |
# | $t \to s$ | `reverse_step` | from a step to an earlier one |
#
# 1. Mixing noise in needs no learning, and any $x_t$ costs one line.
# 2. Squared error teaches a network the mean of what is possible, which is a blur in one step, and all that is
#    needed in many.
# 3. A reverse step mixes guess and noise again, with less noise.
#
# **Next:** [01 · Noise schedule](01_noise_schedule.ipynb), the first line, opened up.
#
# ### References
# - Alpaydin, Kaynak 1998, *Optical recognition of handwritten digits*, UCI repository: the 8 by 8 digits.
# - Hang et al. 2023, *Efficient diffusion training via min-SNR weighting strategy*, arXiv 2303.09556: section 3.
# - Ho, Jain, Abbeel 2020, *Denoising diffusion probabilistic models*, arXiv 2006.11239: eq. 4, Algorithms 1 and 2.
# - Nichol, Dhariwal 2021, *Improved DDPM*, arXiv 2102.09672: eq. 17 (cosine).
# - Rombach et al. 2022, *High-resolution image synthesis with latent diffusion models*, arXiv 2112.10752: section 3.
# - Robbins 1956, *An empirical Bayes approach to statistics*: the posterior mean from the density; Efron 2011,
#   *Tweedie's formula and selection bias*, section 1, names it.
# - Salimans, Ho 2022, *Progressive distillation*, arXiv 2202.00512: section 4 ($v$, loss weights).
# - Sohl-Dickstein et al. 2015, *Deep unsupervised learning using nonequilibrium thermodynamics*, arXiv 1503.03585.
# - Song, Meng, Ermon 2020, *Denoising diffusion implicit models*, arXiv 2010.02502: eq. 12.
# - Song et al. 2021, *Score-based generative modeling through SDEs*, arXiv 2011.13456: section 4.3.
# - Xiao, Rasul, Vollgraf 2017, *Fashion-MNIST*, arXiv 1708.07747.
