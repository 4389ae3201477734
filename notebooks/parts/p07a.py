# %% [markdown]
# ## 6. Learned variance · *further*
#
# **Question:** a sampling step adds noise. How much? Notebook 05 took $\tilde\beta_t$ (its section 2 measures what
# $\beta_t$ does). Could the network tell?
#
# Ho et al. 2020 (section 3.2) name two ends. If the image were known for sure, the step should have the posterior's
# variance $\tilde\beta_t$; if nothing at all were known of it, $\beta_t$. The truth lies between. How far are the ends
# apart? Their ratio is $\beta_t/\tilde\beta_t = (1-\bar\alpha_t)/(1-\bar\alpha_s)$, with $s = t-1$, or an earlier $s$
# where the sampler leaves steps out.
#
# **Predict before you run:** where are the two ends far apart, at much noise or at little? And does the choice matter
# more with 1000 steps, or with 10?

# %%
from functools import partial
from itertools import pairwise

from scipy.stats import t as student_t

from utils.diffusion.sampling import ddpm_step, timestep_grid

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
# ### Your turn: 07.5
#
# Write it. `hint("07.5")`, `solution("07.5")` help, or go on.


# %%
def step_variance(second, beta, beta_tilde):
    """The variance of a step, for each pixel.

    second: (B, C, H, W), the network's second output: -1 means beta-tilde, 1 means beta.
    beta, beta_tilde: (B, 1, 1, 1).
    """
    raise NotImplementedError


check("07.5", step_variance)


# %%
def course_step_variance(second, beta, beta_tilde):
    v = (second + 1) / 2
    return torch.exp(v * beta.log() + (1 - v) * beta_tilde.log())


step_variance = choose("07.5", step_variance, course_step_variance)

# %% [markdown]
# What teaches it? Not the squared error, in which no variance occurs. The bound does: its term at $t$ is the divergence
# of the step from the posterior (notebook 04, section 2). But trained by the bound alone images get worse (their Tables
# 1 and 2). So both, with a small weight (eq. 16):
#
# $$L_\text{hybrid} = L_\text{simple} + 0.001\,L_\text{vlb}$$
#
# **The mean must not learn from $L_\text{vlb}$**, whose gradient is far noisier (their section 3.3). A *stopped
# gradient* keeps the two apart: within $L_\text{vlb}$ the mean counts as a constant.
#
# ### Your turn: 07.6
#
# Write the bound's term for $t > 0$, in bits per dimension, with the mean held fixed:
# $\frac12\big(\log\frac{\Sigma}{\tilde\beta} + \frac{\tilde\beta + (\tilde\mu - \mu_\theta)^2}{\Sigma} - 1\big)$ is the
# divergence of a pixel in nats.


# %%
def bound_term(true_mean, beta_tilde, mean, variance):
    """The divergence of q's step from the network's, in bits per dimension: (B,).

    true_mean, mean, variance: (B, C, H, W), means of q and of the network; its variance.
    beta_tilde: (B, 1, 1, 1), the variance of q. No gradient reaches `mean`.
    """
    raise NotImplementedError


check("07.6", bound_term)


# %%
def course_bound_term(true_mean, beta_tilde, mean, variance):
    gap = true_mean - mean.detach()
    nats = ((variance / beta_tilde).log() + (beta_tilde + gap**2) / variance - 1) / 2
    return nats.flatten(1).mean(1) / math.log(2)


bound_term = choose("07.6", bound_term, course_bound_term)

# %% [markdown]
# In `utils` the two are `GaussianDiffusion(..., variance="learned")`, its `bound_terms` and its `loss`. A small network
# was trained so for five minutes ([its card](../data/checkpoints/learned-variance.md)):

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
# All three variances below belong to *one* network and one mean: so nothing but the variance differs.

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
# most pixels want something near $\beta_t$, some (black background, for one, is known for sure) much less: one number
# for all pixels cannot do that.
#
# **And in images?** The three variances again, in DDPM with few steps. Song et al. 2020 (Table 1) found the large one
# ruinous there; with the learned one Nichol & Dhariwal (2021, section 4) needed fewer steps than with either end.
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
# The fewer the steps, the further apart are the images. With the large variance, noise that a long jump adds is still
# there at the end. The learned one does not fall into that trap. But it is not told from $\tilde\beta_t$ here either:
# in the run shown their bars overlap at every number of steps. With 1000 steps the rows look alike.
#
# DDIM and 2M add no noise and need no variance; they read the first output only. So where a fast sampler is used, a
# learned variance buys bits and nothing else.

# %% [markdown]
# ## 7. Which parts of the network matter · *further*
#
# **Question:** Dhariwal & Nichol (2021, section 3) changed the U-Net part by part before they guided it: more
# attention, residual blocks that halve and double the size, scale *and* shift by the embedding, width against depth.
# Their networks trained for 700,000 steps. What of it can be seen in half a minute?
#
# Six networks, each trained three times, for the *same processor time on one thread*, not the same number of steps: a
# part that costs more has to pay for itself. (The number of steps was fixed beforehand by a few timed ones, so that the
# seconds come out a little uneven.) `tests/benchmarks/parts.py` made the runs, and they are stored.
#
# - **as it is**: `UNet(channels=32)`, attention in the middle only, embedding as scale and shift.
# - **attention at every level**: 7x7 and 14x14 positions (theirs: at 32, 16 and 8).
# - **residual up- and down-sampling**: both branches of a residual block are resized (Brock et al. 2018).
# - **addition, no scale**: $h + e$ before the norm, where ours has $\mathrm{norm}(h)(1 + e_1) + e_2$ (their "AdaGN").
# - **wider**, 48 channels in place of 32, and **deeper**, 3 blocks a level in place of 1: about as many weights.
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
    ax.set(xlabel=f"{measure}, less that as it is", yticks=range(len(variants) - 1))
panels[0].set_yticklabels(variants[1:])
panels[0].invert_yaxis()
seeds = len(by_seed)
figure.suptitle(
    f"Left of 0 is better. Bars: 95% for the mean of {seeds} seeds; dots: seeds"
)
plt.show()

# %% [markdown]
# **What could be told apart** is what stands off the line with its whole bar: "yes" in the table. With three seeds a
# bar is $4.3/\sqrt3 \approx 2.5$ standard deviations of the differences long on each side, so only large effects are
# seen; and of ten comparisons at 95%, one stands out wrongly in 40 of 100 such tables. The rest is *not* shown to be
# equal. The validation loss has far less scatter than the distance of a few hundred samples: to choose between networks
# that learn the same target, it is the sharper measure (notebook 04, section 6: between different targets it is none).
#
# And these are half-minute trainings of small networks. Dhariwal & Nichol's own Table 1 was measured after 700,000
# steps; what pays late need not pay early, and the other way round.
