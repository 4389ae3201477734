# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 14 · DiffusionNER
#
# {{badge}}
#
# ![Sixty bars per sentence, at random places in the first row, drawn together around the names of the sentence in the last one](../data/pictures/14.png)
#
# *The diffusion model of notebooks 01 to 05 finds names in text: it denoises not pixels but the places where names
# begin and end.*
#
# This is where the two tracks of the course meet. The method is DiffusionNER (Shen et al. 2023), made small enough for
# a laptop. It finds names inside names, which one row of BIO tags cannot say. And it asks a question that many papers
# leave open: what does the diffusion add? A tagger without it stands in every table.
#
# **At the end you will have** written yourself: how a name becomes a point, how such points are noised, and the step
# from noise back to names. And you will have seen why the noise has to be *paired* with the names, checked by
# experiment, and what that costs and buys beside a token head and beside a plain classifier of spans.
#
# **You need** Python, PyTorch, and two ideas: noising and DDIM (notebooks 01 and 05), an encoder with a token head
# (notebook 11).
#
# **Time:** about four minutes on two cores with bf16 instructions, nearly all of it in the training of section 0. For
# you: 30 minutes for the *core*, sections 0 to 7, and half an hour for the three pieces.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import io
import itertools
import math
import time
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student

from utils.course import COLOURS, animate, check, choose, hint, play, solution  # noqa: F401
from utils.diffusion.embeddings import sinusoidal_embedding
from utils.diffusion.sampling import ddim_step, timestep_grid
from utils.files import stream_seed
from utils.ner import DiffusionTagger, evaluate, load_corpus
from utils.ner.diffusion_ner import decode_spans, edges, encode_spans, pair_noise
from utils.ner.display import show_entities
from utils.ner.encoders import INSTALL, load_encoder, make_random_encoder
from utils.ner.tags import losses, token_spans

# %% [markdown]
# ## 0. The finished thing · *core*
#
# **Question:** what does it look like when names come out of noise?
#
# The corpus is GENIA: MEDLINE abstracts with names of proteins, DNA, RNA, cell types and cell lines, one inside the
# other where they are so. Its train split is not at hand in this form, so we train on the dev split, less its last 200
# sentences, and test on the test split. (Both in a row, since sentences of one abstract resemble each other.) The
# encoder is all-MiniLM-L6-v2, as in notebook 11. What is not at hand is replaced, and a line says so; then the cells
# run, but their figures mean nothing.

# %%
corpus = load_corpus("genia-nested")
train, test = corpus.dev[:-200] or corpus.dev, corpus.test
if corpus.stands_in:
    train = corpus.train
    print("The course's own corpus stands in for GENIA: it has no name inside another.")
train = train[: course.pick(test=48, cpu=1469, gpu=1469)]
test = test[: course.pick(test=24, cpu=600, gpu=1854)]
print(f"{len(train):,} sentences to train on, {len(test):,} to test on")

# %%
ENCODER = None
try:
    encoder, _ = load_encoder(ENCODER)
except OSError:
    print("No encoder at hand, so a small one with RANDOM weights stands in.")
    print("To get one:", INSTALL)
    texts = [sentence.text for sentence in train]
    ENCODER = make_random_encoder(course.build / "notebook14" / "random-encoder", texts)
    encoder, _ = load_encoder(ENCODER)
print(f"encoder: {sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} million weights")
del encoder  # the tagger loads its own

# %% [markdown]
# `DiffusionTagger` is a tagger like the others: `fit`, `predict`, `save`, `load`. On two cores this takes about three
# minutes.

# %%
EPOCHS = course.pick(test=1, cpu=8, gpu=20)
tagger = DiffusionTagger(ENCODER, epochs=EPOCHS, seed=0)
began = time.process_time()
tagger.fit(train)
trained = time.process_time() - began
print(f"{trained:.0f} processor seconds, {EPOCHS} epochs")
pd.DataFrame(tagger.history).set_index("epoch")[["loss"]].round(3).T

# %% [markdown]
# **The film.** Some sentences of the test split, in the order of their abstracts; the tagger has not seen them. Each
# bar is a *proposal*: it begins where noise puts it, and 24 steps of DDIM move it. (Five do for tagging; 24 make a
# smoother film.) Below the text: the annotators' names. A bar is green if it ends at one of them, grey if the *judge*,
# a small network that looks at where bars have ended, calls it no name, and orange where the judge errs.
#
# **Predict before you run:** sixty bars, two or three names. Where do the others go?

# %% tags=["figure"]
WIDE, HIGH, FONT = 7.4, 1.15, 6.5  # inches, points
LETTERS = int(0.97 * WIDE * 72 / (0.602 * FONT))  # of a monospaced font in a line
GREEN, ORANGE, GREY = COLOURS[2], COLOURS[1], "#bbbbbb"


def film_of(sentences, steps, proposals=60):
    """For each sentence: edges in tokens after 0, 1, ... steps, and colours."""
    before = dict(tagger.options)
    tagger.options |= {"steps": steps, "proposals": proposals}
    film = [None] * len(sentences)
    found = [{e.span for e in one.entities} for one in tagger.predict(sentences)]
    for windows, _, states in tagger.denoise(sentences):
        first = start_noise(proposals).expand_as(states[0][0])
        points = [first, *(state[0].cpu() for state in states)]
        moved = (edges(torch.stack(points)) + 1) / 2
        for row, (number, window) in enumerate(windows):
            n, spans = window.end - window.start, states[-1][2][row].tolist()
            hues = colours(sentences[number], spans, found[number])
            film[number] = moved[:, row] * n, hues
    tagger.options |= before
    return film


# %% tags=["figure"]
def start_noise(proposals):
    """The tagger's own x_T."""
    generator = torch.Generator().manual_seed(stream_seed(tagger.recipe.seed, "proposals"))
    return torch.randn(proposals, 2, generator=generator)


def colours(sentence, spans, found):
    """Of each proposal, by where it ends."""
    gold, tokens = {e.span[:2] for e in sentence.entities}, sentence.tokens
    judged, result = {span[:2] for span in found}, []
    for first, behind in spans:
        place = tokens[first].start, tokens[behind - 1].end
        if place in gold and place in judged:
            result.append(GREEN)
        else:
            result.append(ORANGE if (place in gold) != (place in judged) else GREY)
    return result


# %% tags=["figure"]
def draw_strip(ax, sentence, bars, bar_colours):
    """The text, the proposals above it, the annotated names below."""
    tokens = sentence.tokens
    letters = [*(token.start for token in tokens), len(sentence.text)]
    places = range(len(letters))
    left, right = (np.interp(edge, places, letters) for edge in np.asarray(bars).T)
    height = 0.35 + 0.65 * (np.arange(len(left)) % 20) / 20
    order = np.argsort([colour != GREY for colour in bar_colours], kind="stable")
    for k in order:
        ends = sorted((left[k], right[k]))
        ax.hlines(height[k], *ends, color=bar_colours[k], linewidth=1.6, alpha=0.8)
    ax.text(0, 0.12, sentence.text, family="monospace", fontsize=FONT, va="center")
    for e in sentence.entities:
        around = [o for o in sentence.entities if o.start <= e.start and e.end <= o.end]
        depth = len(around) - 1
        ax.hlines(-0.08 - 0.1 * depth, e.start, e.end, color=COLOURS[0], linewidth=2)
    ax.set(xlim=(-1, LETTERS), ylim=(-0.35, 1.05))
    ax.set_axis_off()


# %% tags=["figure"]
def frame(sentences, film, step):
    """All strips after so many steps, as a picture."""
    figure, axes = plt.subplots(len(sentences), figsize=(WIDE, HIGH * len(sentences)))
    for ax, sentence, (bars, colour) in zip(np.atleast_1d(axes), sentences, film):
        draw_strip(ax, sentence, bars[step], colour)
    return figure


# %% tags=["figure"]
def as_image(figure):
    """(1, 3, H, W) in [-1, 1], and the figure closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    pixels = plt.imread(io.BytesIO(buffer.getvalue()))[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] * 2 - 1


short = [s for s in test if s.entities and len(s.text) <= LETTERS]
actors = short[: course.pick(test=2, cpu=4, gpu=4)]
FRAMES = course.pick(test=3, cpu=24, gpu=24)
film = film_of(actors, FRAMES)
pictures = [as_image(frame(actors, film, step)) for step in range(FRAMES + 1)]
labels = ["pure noise", *(f"after {k} of {FRAMES} steps" for k in range(1, FRAMES + 1))]
animate(pictures, titles=labels, fps=6, title="Sixty proposals drift from noise to names")

# %% [markdown]
# Most bars find a name, several the same one; bars that end at one place are one find. What is left over ends at
# something that looks like a name, and the judge has the last word. The same, standing still:

# %% tags=["figure", "picture"]
figure, axes = plt.subplots(4, 1, figsize=(WIDE, 4 * HIGH))
moments = [0, FRAMES // 3, 2 * FRAMES // 3, FRAMES]
nested = max(range(len(actors)), key=lambda k: len(actors[k].entities))
for ax, step in zip(axes, moments):
    draw_strip(ax, actors[nested], film[nested][0][step], film[nested][1])
    ax.set_title(labels[step], fontsize=8)
plt.show()

# %% [markdown]
# ## 1. What one row of tags cannot say · *core*
#
# **Question:** how many names are inside others, and what do BIO tags do to them?
#
# A protein may give its name to a gene, and a cell type to a cell line: then a shorter name stands in a longer one. BIO
# gives each word one tag (notebook 09), so of two names that share a word it keeps one, here the longer. Counted over
# the sentences that we train and test on:


# %%
def nested_pairs(sentence):
    """(inner, outer) for every name that lies inside a longer one."""
    pairs = itertools.permutations(sentence.entities, 2)
    inside = [(a, b) for a, b in pairs if b.start <= a.start and a.end <= b.end]
    return [(a, b) for a, b in inside if a.pieces != b.pieces]


rows = {}
for name, part in {"train": train, "test": test}.items():
    lost = Counter(loss.reason for sentence in part for loss in losses(sentence))
    names = sum(len(sentence.entities) for sentence in part)
    pairs = [pair for sentence in part for pair in nested_pairs(sentence)]
    same = sum((a.start == b.start) or (a.end == b.end) for a, b in pairs)
    rows[name] = {"names": names, "in one row of tags": names - lost.total()} | dict(lost)
    rows[name] |= {"pairs that nest": len(pairs), "of these with one edge in common": same}
pd.DataFrame(rows).T.fillna(0).astype(int)

# %%
deep = [s for s in test if losses(s)] or test[:1]
show_entities(deep[:3])

# %% [markdown]
# The arrow repeats a sentence for its inner names. A tagger with one row of tags can find at most the names in the
# second column; a tagger that names *spans* is not bound to that. There are about $n^2/2$ spans in a sentence of $n$
# words. One way is to look at all of them; that is the tagger *all spans* in section 6. Another is to let a few points
# find them.
#
# ## 2. A name as a point · *core*
#
# **Question:** what is there to add noise to?
#
# A name is a span of tokens, `start` the first and `end` the one behind the last. Two numbers, its centre and its width
# as shares of the sentence, scaled to $[-1, 1]$:
#
# $$ x_0 = \left( 2\,\frac{\text{start} + \text{end}}{2n} - 1,\;\; 2\,\frac{\text{end} - \text{start}}{n} - 1 \right) .
# \tag{1} $$
#
# (Shen et al. 2023 speak of left and right edge; their public code turns them into centre, or left edge, and width.)
#
# ### Your turn: 14.1
#
# Write eq. 1 for the spans of one sentence. `hint("14.1")` helps, `solution("14.1")` shows one answer; an untried stub
# does not stop the notebook.


# %%
def to_points(spans, n):
    """Eq. 1: spans (G, 2), start and end in tokens, as points (G, 2), centre and width.

    n: tokens of the sentence.
    """
    raise NotImplementedError


check("14.1", to_points)


# %%
def course_to_points(spans, n):
    start, end = spans[:, 0], spans[:, 1]
    return torch.stack([(start + end) / n - 1, 2 * (end - start) / n - 1], dim=-1)


to_points = choose("14.1", to_points, course_to_points)


# %% [markdown]
# The way back: edges from centre and width, times $n$, rounded, and cut so that at least one token is left. Whatever
# point the diffusion ends at, it is a span.


# %%
def to_spans(points, n):
    """Points (K, 2) as spans (K, 2) of a sentence of n tokens."""
    centre, width = (points[:, 0] + 1) / 2 * n, (points[:, 1] + 1) / 2 * n
    start = (centre - width / 2).round().long().clamp(0, n - 1)
    end = (centre + width / 2).round().long()
    return torch.stack([start, end.maximum(start + 1).clamp(max=n)], dim=-1)


# %% [markdown]
# **Check:** without noise every span comes back exactly, and `utils` agrees.

# %%
# NBVAL_CHECK_OUTPUT
for n in (1, 8, 40):
    every = torch.tensor([(a, b) for a in range(n) for b in range(a + 1, n + 1)])
    torch.testing.assert_close(
        to_points(every, n).float(), encode_spans(every, torch.tensor(n))
    )
    assert torch.equal(to_spans(to_points(every, n), n), every)
    anywhere = 3 * torch.randn(500, 2)
    assert torch.equal(to_spans(anywhere, n), decode_spans(anywhere, torch.tensor(n)))
print("All spans of 1, 8 and 40 tokens come back.")

# %% tags=["figure"]
points, inner = [], []
for sentence in train:
    nested_here = {a for a, _ in nested_pairs(sentence)}
    for e, span in token_spans(sentence).items():
        points.append(to_points(torch.tensor([span[:2]]), len(sentence.tokens))[0])
        inner.append(e in nested_here)
points, inner = torch.stack(points), np.array(inner)
figure, ax = plt.subplots(figsize=(6, 3.4))
for which, colour, name in [
    (~inner, COLOURS[0], "others"),
    (inner, COLOURS[1], "inner names"),
]:
    ax.plot(*points[torch.from_numpy(which)].T, ".", color=colour, markersize=3, label=name)
small = (points[:, 1] < -0.5).float().mean()
ax.set(xlabel="centre", ylabel="width", xlim=(-1, 1), ylim=(-1, 1))
ax.set_title(f"Names are short: {small:.0%} have a width below -0.5")
ax.legend()
plt.show()

# %% [markdown]
# No name can be wider than the room to its sides, hence the empty corners. The point knows nothing of words. That is
# the network's task: given the sentence, a noised point and its $t$, say where the point came from.
#
# ## 3. Noise, proposals, and who belongs to whom · *core*
#
# **Question:** a sentence has two names, another five. How can both be noised, and what does the network learn from it?
#
# As many points for every sentence: the names' points are repeated until there are $K$, the **proposals**, and each is
# noised as in notebook 01,
#
# $$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon . \tag{2} $$
#
# ### Your turn: 14.2
#
# Write it for one sentence and one $\bar\alpha_t$, a plain number. Each point gets its fair share of the $K$ proposals
# (all the same number, or one more).


# %%
def noised_proposals(points, noise, a_bar_t):
    """(x_0, x_t), each (K, 2): the points (G, 2), repeated, and eq. 2.

    noise: (K, 2), standard normal.
    """
    raise NotImplementedError


check("14.2", noised_proposals)


# %%
def course_noised_proposals(points, noise, a_bar_t):
    x_0 = points[torch.arange(len(noise)) % len(points)]
    return x_0, math.sqrt(a_bar_t) * x_0 + math.sqrt(1 - a_bar_t) * noise


noised_proposals = choose("14.2", noised_proposals, course_noised_proposals)

# %% [markdown]
# **Check** against the process of notebook 01:

# %%
# NBVAL_CHECK_OUTPUT
a_bar = tagger.diffusion.schedule.alphas_cumprod
gold = torch.rand(3, 2)
for t in (0, 400, 999):
    noise = torch.randn(8, 2)
    x_0, x_t = noised_proposals(gold, noise, float(a_bar[t]))
    by_utils = tagger.diffusion.q_sample(x_0, torch.full((8,), t), noise)
    torch.testing.assert_close(x_t, by_utils, rtol=1e-4, atol=1e-5)
print("By hand and by utils: the same noised points.")

# %% [markdown]
# **The trap.** At $t = T-1$ a point is nothing but noise. The best answer, for the squared error, is the mean of all
# names that it might have come from; and if names and noise were paired at random, that is the *same* mean for every
# point, somewhere between the names. All proposals say the same, and it is no name.
#
# With images it is the same at first: the mean of all images is a blur, which later steps sharpen. Here, too, more
# steps can help (the table of parts in section 6 has one step and five). But we may also choose which noise goes with
# which copy. Take the pairing that moves the points least, **optimal transport**: the permutation $\pi$ of the $K$
# noise points with the smallest $\sum_k \lVert \epsilon_{\pi(k)} - x_{0,k} \rVert^2$. SciPy finds it
# (`linear_sum_assignment`). Then noise on the left belongs to names on the left.
#
# **Predict before you run:** three names; at pure noise, the mean name of all points whose noise has its centre near
# $c$, as a function of $c$: what does it look like with random pairing, and with transport?


# %%
def pair_by_hand(noise, x_0):
    """The noise (K, 2) in the order that moves it least to x_0 (K, 2)."""
    distances = torch.cdist(x_0, noise).square()
    _, order = linear_sum_assignment(distances.numpy())
    return noise[order]


three = torch.tensor([[-0.7, -0.9], [0.1, -0.8], [0.6, -0.95]])
x_0, _ = noised_proposals(three, torch.zeros(30, 2), 1.0)
pairs = {"at random": [], "by transport": []}
for _ in range(course.pick(test=20, cpu=400, gpu=400)):
    noise = torch.randn(30, 2)
    pairs["at random"].append(torch.stack([noise[:, 0], x_0[:, 0]]))
    pairs["by transport"].append(torch.stack([pair_by_hand(noise, x_0)[:, 0], x_0[:, 0]]))
# Copies of one name may exchange their noise; what is the same is the sum.
by_hand, by_utils = pair_by_hand(noise, x_0), pair_noise(noise[None], x_0[None])[0]
sums = [(paired - x_0).square().sum() for paired in (by_hand, by_utils)]
torch.testing.assert_close(*sums)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
bins = np.linspace(-2, 2, 17)
for ax, (name, drawn) in zip(axes, pairs.items()):
    noise_at, name_at = torch.cat(drawn, dim=1).numpy()
    ax.plot(noise_at[:1500], name_at[:1500], ".", color=GREY, markersize=3)
    which = np.digitize(noise_at, bins)
    filled = [name_at[which == k] for k in range(1, 17)]
    means = [some.mean() if len(some) else np.nan for some in filled]
    ax.plot((bins[1:] + bins[:-1]) / 2, means, "o-", color=COLOURS[0], markersize=4)
    ax.set(xlabel="centre of the noise", xlim=(-2, 2))
    spread = np.nanmax(means) - np.nanmin(means)
    ax.set_title(f"Paired {name}: the mean answers span {spread:.1f}")
axes[0].set_ylabel("centre of its name")
plt.show()

# %% [markdown]
# Blue is what a network that minimises the squared error would answer, and the mean of the probabilities with which
# ours will answer. Paired at random the answer does not depend on the point. Paired by transport it is a staircase from
# name to name: even the first step already leads to different names.
#
# Shen et al. have another remedy, from DETR (Carion et al. 2020): **Hungarian matching** of what the network *answers*
# with the names, in the loss. Each proposal is taught the name that its answer is nearest to. Then the point of noise
# need not tell anything; the table of parts in section 6 has a tagger trained so, and one that is trained on pure noise
# alone, without a name in its input.
#
# ## 4. The network · *core*
#
# **Question:** how does a network that reads words answer with a place?
#
# The encoder gives each token a vector $h_j$. A proposal becomes a *query*: the mean of the vectors that it covers, its
# left and right edge as sines and cosines (the encoding of notebook 02, of a place instead of a timestep), and $t$ in
# the same form. Each token becomes two *keys*, of $h_j$ and its own place. A **pointer** is a softmax over the tokens,
#
# $$ p^{\text{first}}_{kj} = \operatorname{softmax}_j \frac{q^{\text{first}}_k \cdot k^{\text{first}}_j}{\sqrt d},
# \qquad p^{\text{last}}_{kj} \text{ likewise} . \tag{3} $$
#
# By hand, with the weights of the trained network:


# %%
def places(x):
    """Numbers in [-1, 1], of any shape, as 64 sines and cosines each."""
    return sinusoidal_embedding(100 * x.flatten(), 64).view(*x.shape, 64)


def pointers_by_hand(h, x_t, t):
    """Logits (K, 2, n) of eq. 3 for token vectors h (n, width), points (K, 2) and one t."""
    network, n = tagger.network, len(h)
    covered = [h[start:end].mean(0) for start, end in to_spans(x_t, n).tolist()]
    time_code = network.time(torch.tensor([t])).expand(len(x_t), -1)
    left_right = places(edges(x_t)).flatten(1)
    queries = network.query(torch.cat([torch.stack(covered), left_right, time_code], 1))
    number, logits = torch.arange(n), []
    for side, query in enumerate(queries.chunk(2, dim=1)):
        keys = network.keys[side](torch.cat([h, places(2 * (number + side) / n - 1)], 1))
        logits.append(query @ keys.T / math.sqrt(keys.shape[1]))
    return torch.stack(logits, dim=1)


# %% [markdown]
# **Check** against `utils`, on noise and a sentence of the test split:

# %%
# NBVAL_CHECK_OUTPUT
tagger.network.cpu().float()
tagger.device, tagger.precision = torch.device("cpu"), "no"
sentence = actors[nested]
(_, h, steps), *_ = tagger.denoise([sentence])
h, n = h[0].float(), len(sentence.tokens)
x_T = start_noise(60)
with torch.no_grad():
    by_hand = pointers_by_hand(h, x_T, 999)
    at = torch.full((1, 60), 999)
    by_utils = tagger.network.pointers(h[None], torch.tensor([[n]]), x_T[None], at)[0]
torch.testing.assert_close(by_hand, by_utils, rtol=1e-3, atol=1e-3)
print("By hand and by utils: the same pointers.")

# %% [markdown]
# **Training.** The loss of the pointers is the cross-entropy with the first and last token of the proposal's name; with
# it comes the cross-entropy of the **judge**, a small network on first token, last token and mean of a span, that says
# a type or *none*. It is taught by four kinds of spans: the names, names with edges moved by up to two tokens, the
# noised spans, and what the pointers show. Proposals do not look at each other, so each can have a $t$ of its own in
# training: thirty levels of noise for one reading of the sentence by the encoder, which is what costs.
#
# The authors' network has more: an LSTM, two layers of attention among the spans and to the sentence, types from the
# queries, an encoder that is frozen at first. Here the plain parts alone are to show how far they go; section 8 has a
# list of the differences.
#
# ## 5. From noise to names · *core*
#
# **Question:** the network answers with probabilities. What is its estimate of $x_0$?
#
# The one that minimises the squared error: the mean. With $\bar s_k = \sum_j p^{\text{first}}_{kj}\, j$ and $\bar e_k =
# \sum_j p^{\text{last}}_{kj}\,(j + 1)$, $\hat x_0$ is eq. 1 of $(\bar s_k, \bar e_k)$. While a pointer doubts between
# two names the estimate lies between them, and the next step, with less noise, decides. The rest is DDIM (notebook 05,
# Song et al. 2020, eq. 12):
#
# $$ \hat\epsilon = \frac{x_t - \sqrt{\bar\alpha_t}\,\hat x_0}{\sqrt{1 - \bar\alpha_t}}, \qquad
# x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1 - \bar\alpha_s}\,\hat\epsilon . \tag{4} $$
#
# At the end no mean is wanted but a span: the most probable first token and the most probable last one; where the last
# comes before the first, the first alone.
#
# ### Your turn: 14.3


# %%
def denoise_step(first, last, x_t, a_bar_t, a_bar_s):
    """(x_s, spans), each (K, 2): eq. 4, and what the pointers show.

    first, last: probabilities (K, n) of the first and of the last token. x_t: (K, 2).
    a_bar_t, a_bar_s: plain numbers; a_bar_s is 1 in the last step. to_points is eq. 1.
    """
    raise NotImplementedError


check("14.3", denoise_step)


# %%
def course_denoise_step(first, last, x_t, a_bar_t, a_bar_s):
    number = torch.arange(first.shape[1]).to(first)
    means = torch.stack([first @ number, last @ (number + 1)], dim=-1)
    x_0 = to_points(means, len(number))
    x_s = ddim_step(x_t, x_0, a_bar_t, a_bar_s, torch.zeros_like(x_t))
    start = first.argmax(1)
    return x_s, torch.stack([start, last.argmax(1).maximum(start) + 1], dim=-1)


denoise_step = choose("14.3", denoise_step, course_denoise_step)

# %% [markdown]
# **Check:** five steps with your pieces, from the tagger's own noise, end where the tagger ends.

# %%
# NBVAL_CHECK_OUTPUT
grid = timestep_grid(1000, tagger.options["steps"])
x, levels = x_T, [*a_bar.tolist(), 1.0]
for (t, s), (x_t, _, _) in zip(itertools.pairwise([*grid, -1]), steps):
    with torch.no_grad():
        first, last = pointers_by_hand(h, x, t).softmax(-1).unbind(1)
    x, mine = denoise_step(first, last, x, levels[t], levels[s])
    torch.testing.assert_close(x, x_t[0].float(), rtol=1e-2, atol=1e-2)
same = (mine == steps[-1][2][0]).all(1).float().mean()
assert same > 0.9
print("By hand and by utils: the same steps.")

# %% [markdown]
# **The judge** then looks at each span, and what it calls a name stays; of two that cross, the surer one. (Names that
# nest may stay together where the training sentences have such.)

# %%
with torch.no_grad():
    verdict = tagger.network.judge_spans(h[None], mine[None])[0].softmax(-1)
kinds, rows = ["none", *tagger.types], Counter()
for (here, behind), chances in zip(mine.tolist(), verdict):
    name = " ".join(sentence.words[here:behind])
    rows[name, kinds[int(chances.argmax())], f"{float(chances.max()):.2f}"] += 1
table = [(*row, count) for row, count in rows.most_common(12)]
pd.DataFrame(table, columns=["span", "verdict", "probability", "proposals"])

# %% [markdown]
# What the tagger makes of it, beside the annotators:

# %%
shown_here = actors[:3]
guesses = tagger.predict(shown_here)
lines = [line for pair in zip(shown_here, guesses) for line in pair]
show_entities(lines, titles=["annotated", "found"] * len(shown_here))

# %% [markdown]
# ## 6. What does the diffusion add? · *core*
#
# **Question:** is it better than a token head, and if so, because of the diffusion?
#
# First the tagger of this page. *Inner* names are those inside a longer one, *outer* those that hold one.


# %%
def recall_of(gold, found, kind):
    """The share of inner (0) or outer (1) names that were found."""
    right, count = 0, 0
    for sentence, guess in zip(gold, found):
        names = {pair[kind] for pair in nested_pairs(sentence)}
        right, count = right + len(names & {*guess.entities}), count + len(names)
    return right / max(count, 1)


found = tagger.predict(test)
score = evaluate(test, found)
low, high = score.intervals["f1"]
print(
    f"F1 {100 * score.f1:.1f} (95% interval {100 * low:.1f} to {100 * high:.1f}),", end=" "
)
print(f"precision {100 * score.precision:.1f}, recall {100 * score.recall:.1f}")
print(f"inner names found: {recall_of(test, found, 0):.0%},", end=" ")
print(f"outer: {recall_of(test, found, 1):.0%}")

# %% [markdown]
# One training says little. The tables below come from trainings of **five minutes of processor time on one core each**,
# with several seeds, on whole corpora: `python -m tests.benchmarks.diffusion_ner` makes them, and
# `data/ner/diffusion-ner.csv` keeps them. All read the same encoder in the same way. Beside the diffusion stand
#
# - a **token head**: one row of BIO tags (notebook 11);
# - **two layers of tags**: two token heads on one encoder, for outer and for inner names;
# - **all spans, no diffusion**: the same judge looks at every span of up to 12 tokens.
#
# **Predict before you run:** which of the four wins on NCBI-disease, where nothing nests? Which finds the most inner
# names on GENIA?

# %%
TABLE = course.root / "data" / "ner" / "diffusion-ner.csv"
runs = pd.read_csv(TABLE, comment="#", keep_default_na=False)
seeds = runs.groupby(["block", "corpus", "model", "setting"]).seed.nunique()
print(f"{len(runs):,} rows, {seeds.min()} to {seeds.max()} seeds each;", end=" ")
print(f"{runs.seconds.min():.0f} to {runs.seconds.max():.0f} processor seconds of training")


def with_interval(values):
    """The mean and half of its 95% interval (Student's t), over seeds."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return f"{values.mean():.1f}"
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}"


# %%
CORPORA = ["ncbi-disease", "bc5cdr", "genia-nested"]
MODELS = ["token head", "two layers of tags", "all spans, no diffusion", "diffusion"]
models = runs[runs.block == "models"]


def table_of(rows, column, across):
    """Mean and interval over seeds: a row for each model, a column for each `across`."""
    cells = (
        rows.groupby(["model", across])[column].agg(with_interval).unstack(fill_value="")
    )
    order = [name for name in MODELS if name in cells.index]
    return cells.reindex([*order, *(name for name in cells.index if name not in order)])


table_of(models, "F1", "corpus").reindex(columns=CORPORA, fill_value="")

# %%
genia = models[models.corpus == "genia-nested"]
columns = ["F1", "precision", "recall", "inner recall", "outer recall", "proposed"]
columns += ["sentences a second"]
measured = genia.melt(["model", "seed"], columns, "what").replace("", np.nan).dropna()
table_of(measured.assign(value=measured.value.astype(float)), "value", "what")[columns]

# %% [markdown]
# *Proposed* is the share of the annotated names that the judge gets to see at all. Read it beside *recall*: what is
# proposed and not found, the judge has missed.

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
names = [name for name in MODELS if name in set(models.model)]
for k, name in enumerate(names):
    look = dict(marker="osD^"[k], color=COLOURS[k], linestyle="")
    rows = models[models.model == name]
    at = [CORPORA.index(one) + 0.15 * (k - 1.5) for one in rows.corpus]
    axes[0].plot(at, rows.F1, **look, label=name)
    inner = rows[rows.corpus == "genia-nested"]["inner recall"]
    axes[1].plot(inner, [k] * len(inner), **look)
axes[0].set_xticks(range(len(CORPORA)), CORPORA)
axes[0].set_ylabel("F1 on test, per cent")
axes[0].legend(fontsize=7)
highest = genia.groupby("model").F1.mean()
axes[0].set_title(f"GENIA: highest mean {highest.max():.1f}, {highest.idxmax()}")
axes[1].set_yticks(range(len(names)), names)
axes[1].set(xlabel="inner names of GENIA found, per cent")
share = genia.groupby("model")["inner recall"].mean()
axes[1].set_title(f"From {share.min():.0f}% ({share.idxmin()}) to {share.max():.0f}%")
plt.show()

# %% [markdown]
# The two taggers that share encoder, judge and seconds, *diffusion* and *all spans*, and the diffusion beside the token
# head: differences in F1 of the same seed.

# %%
by_model = models.pivot_table(index=["corpus", "seed"], columns="model", values="F1")
rows = {}
for other in [name for name in MODELS[:3] if name in by_model]:
    gap = (by_model["diffusion"] - by_model[other]).dropna()
    rows[f"diffusion, less {other}"] = gap.groupby("corpus").agg(with_interval)
pd.DataFrame(rows).T.reindex(columns=CORPORA).astype(object).fillna("")

# %% [markdown]
# **How to read this.** *Nesting*: one row of tags cannot hold an inner name together with its outer one, so the token
# head finds hardly any; the others are not bound to that. *Diffusion or not*: the difference to *all spans* is what the
# diffusion adds, or takes, since all else is the same. The column *proposed* says why it can take: a span that no
# proposal ends at is lost before the judge has seen it, while *all spans* shows the judge every one of up to 12 tokens.
# What the diffusion can give is a shorter list: the judge has fewer spans to err on. An interval of few seeds is wide,
# and one that holds 0 means that no difference is shown.
#
# ### Steps and proposals · *core*
#
# The same trained taggers, asked with other numbers of steps (60 proposals) and of proposals (5 steps).

# %%
asked = runs[(runs.block == "settings") & (runs.model == "diffusion")].copy()
base = models[models.model == "diffusion"]
defaults = [base.assign(setting=setting) for setting in ("steps 5", "proposals 60")]
asked = pd.concat([asked, *defaults])
asked[["what", "count"]] = asked.setting.str.split(" ", expand=True)
asked["count"] = asked["count"].astype(int)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
for k, (name, rows) in enumerate(asked.groupby("corpus")):
    for ax, what in zip(axes, ("steps", "proposals")):
        mean = rows[rows.what == what].groupby("count").F1.agg(["mean", "min", "max"])
        ax.fill_between(mean.index, mean["min"], mean["max"], color=COLOURS[k], alpha=0.2)
        ax.plot(mean.index, mean["mean"], "o-", color=COLOURS[k], markersize=4, label=name)
        ax.set(xscale="log", xlabel=f"{what} (band: all seeds)")
        ax.set_xticks(mean.index, mean.index)
        ax.minorticks_off()
    speed = rows[rows.what == "steps"].groupby("count")["sentences a second"].mean()
    axes[2].plot(speed.index, speed, "o-", color=COLOURS[k], markersize=4)
axes[0].set_ylabel("F1 on test, per cent")
means = asked[asked.corpus == "genia-nested"].groupby("setting").F1.mean()
for ax, (few, many) in zip(
    axes, [("steps 1", "steps 5"), ("proposals 10", "proposals 60")]
):
    gain = means[many] - means[few]
    ax.set_title(f"GENIA: {few} to {many.split()[1]}, {gain:+.1f}")
axes[2].set(xscale="log", yscale="log", xlabel="steps", ylabel="sentences a second")
axes[2].set_xticks(speed.index, speed.index)
axes[2].set_title("What steps cost")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# Averaging several draws of noise, as samplers of images do to lower their variance, is here the same as more
# proposals: they do not look at each other, and the judge takes what any of them finds.
#
# ### Which parts are needed? · *further*
#
# Each left out, or replaced, once, on GENIA, with the same five minutes.

# %%
inside = runs[(runs.corpus == "genia-nested") & (runs.block.isin(["parts", "settings"]))]
whole = genia[genia.model == "diffusion"]
inside = pd.concat([inside, whole]).replace({"model": {"diffusion": "as it is"}})
five = inside[inside.setting == ""]
one = inside[inside.setting == "steps 1"]
table = {
    "F1": five.groupby("model").F1.agg(with_interval),
    "F1, one step": one.groupby("model").F1.agg(with_interval),
    "inner recall": five.groupby("model")["inner recall"].agg(with_interval),
    "proposed": five.groupby("model")["proposed"].agg(with_interval),
    "seeds": five.groupby("model").seed.nunique(),
}
pd.DataFrame(table).astype(object).fillna("")

# %% [markdown]
# Look at the two columns of F1. *No transport pairing* is the assignment that is known by construction: its first step
# can only answer with a mixture, and the steps have to bring the names back. Where a tagger has as much with one step
# as with five, the steps are decoration, and it is a set predictor with noise for an input. *Trained at t = T - 1
# alone* is that on purpose, hence without a second figure.
#
# ## 7. Play: stop the film anywhere · *core*

# %% tags=["figure"]
films = {}


def draw_film(step=5, steps=5, proposals=60, sentence=0):
    """One sentence after so many of its steps."""
    key = steps, proposals, sentence
    if key not in films:
        films[key] = film_of([actors[sentence]], steps, proposals)[0]
    bars, colour = films[key]
    step = min(step, steps)
    figure, ax = plt.subplots(figsize=(WIDE, 1.5))
    draw_strip(ax, actors[sentence], bars[step], colour)
    ends = Counter(colour)
    ax.set_title(
        f"step {step} of {steps}: {ends[GREEN]} proposals end at a name, "
        f"{ends[ORANGE]} at a mistake",
        fontsize=9,
    )
    return figure


for steps in (1, 5):
    draw_film(steps, steps)
    plt.show()

# %%
play(
    draw_film,
    step=(0, 20),
    steps=[1, 2, 5, 10, 20],
    proposals=[5, 20, 60, 120],
    sentence=list(range(len(actors))),
)

# %% [markdown]
# Try five proposals: which names have no bar that ends at them? Where do the orange ones end?
#
# ## 8. Side by side with the authors' code · *further*
#
# | | Shen et al. 2023, public code | here | why |
# | --- | --- | --- | --- |
# | point | centre or left edge, and width | centre and width | the same |
# | proposals | 60 | 30 to train, 60 to tag | seconds |
# | who belongs to whom | Hungarian matching of the answers | transport of the noise | section 3 |
# | pointers | a sigmoid for each token | a softmax over the tokens | a pointer points at one place |
# | type | from the query | a judge of the span | it can be taught by any span |
# | between proposals | 2 layers of attention | nothing | each may have its own $t$ in training |
# | encoder | BioBERT-large, frozen at first, and a BiLSTM | MiniLM, trained from the start | a laptop |
# | DDIM | 5 steps, eta 1 | 5 steps, eta 0 | nothing is drawn but the start |
# | lengths | divided by n in training, by n - 1 in the head | by n | spans without noise come back |
# | kept | p(left) + p(right) + p(type) above 2.5, no overlap | the judge's word; no crossing | names nest |
# | GENIA | F1 81.5, whole train split, as published | section 6, a tenth of the sentences | |
#
# The two figures in the last line must not be compared: encoder, sentences and hours of training differ.
#
# ## 9. Exercise · *further*
#
# ### 14.4 Names that may stand together
#
# The judge's finds may cross, which names hardly ever do. Keep the surest, and of the others those that cross none kept
# before. To cross is to share a token while both edges lie on the same side of the other's.


# %%
def keep_nested(scored):
    """Those of the spans (start, end, score) that may stand together, surest first.

    A list, of the same tuples. Scores differ; an end is behind the last token.
    """
    raise NotImplementedError


check("14.4", keep_nested)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $n$, $K$ | `T`, `K` in shapes | tokens of a sentence; proposals |
# | $x_0$ | `encode_spans` | a name: centre and width in $[-1, 1]$, eq. 1 |
# | $x_t$ | `q_sample` | the noised point, eq. 2 |
# | $\pi$ | `pair_noise` | which noise goes with which name |
# | $p^{\text{first}}, p^{\text{last}}$ | `pointers` | where a name begins and ends, eq. 3 |
# | $\hat x_0$, $x_s$ | `steps` | the pointers' mean; the next point, eq. 4 |
# | | `judge_spans` | the type of a span, or none |
#
# 1. A name is a point, so the process and the sampler of notebooks 01 and 05 serve unchanged; what is new is a network
#    that reads words and answers with places.
# 2. What the first step can know is settled by how noise and names are paired. Transport gives each stretch of noise a
#    name of its own.
# 3. The judge decides what is a name, and it can judge any span. So a comparison with a tagger that shows it all spans is
#    the one that tells what the diffusion adds.
#
# **When to take what.** Nothing nests, or speed counts: a token head, which reads a sentence once and is done. Names
# nest: a tagger of spans; with short sentences all of them can be judged. Proposals from noise may be worth their steps
# where there are too many spans to look at: long names, long texts, names in pieces. That case is not measured here.
#
# **Next:** 15 · text to image (planned), where a text encoder steers the diffusion model.
#
# ### References
# - Shen et al. 2023, *DiffusionNER: boundary diffusion for named entity recognition*, ACL, arXiv 2305.13298: section 3.
# - Carion et al. 2020, *End-to-end object detection with Transformers* (DETR), arXiv 2005.12872: section 3.1.
# - Chen et al. 2022, *DiffusionDet: diffusion model for object detection*, arXiv 2211.09788: boxes from noise.
# - Pooladian et al. 2023, *Multisample flow matching: straightening flows with minibatch couplings*, arXiv 2304.14772;
#   Tong et al. 2023, *Improving and generalizing flow-based generative models with minibatch optimal transport*, arXiv
#   2302.00482: noise paired with data by transport.
# - Kuhn 1955, *The Hungarian method for the assignment problem*, Naval Research Logistics Quarterly 2: 83. SciPy solves
#   the problem by Crouse 2016, *On implementing 2D rectangular assignment algorithms*, IEEE TAES 52: 1679.
# - Song, Meng, Ermon 2020, *Denoising diffusion implicit models*, arXiv 2010.02502: eq. 12.
# - Kim et al. 2003, *GENIA corpus*, Bioinformatics 19: i180; its terms: data/README.md.
# - Doğan, Leaman, Lu 2014, *NCBI disease corpus*, J. Biomed. Inform. 47: 1. Li et al. 2016, *BioCreative V CDR task
#   corpus*, Database, baw068.
# - Wang et al. 2020, *MiniLM*, arXiv 2002.10957.
