# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 12 · NER in action: evaluation and error analysis
#
# {{badge}}
#
# Abstracts in, entities out: then the questions that a reviewer, or a curator who is to rely on it, will ask. How good
# is it, by which rules, how sure is that number, on which names does it fail, does it know when it fails, and how many
# abstracts would have to be annotated to make it better?
#
# **At the end you will have** a small reading tool with a text box; the strict rules of scoring and the official ones
# of BioCreative II written by hand and checked against `utils/ner/evaluation.py`, beside two looser ones; bootstrap
# intervals and a test of how often they hold the truth; a table of errors with examples drawn at random; a reliability
# diagram; a learning curve; active learning simulated against random choice; and a cell for a file of yours.
#
# **You need** Python, some NumPy, and from probability: mean, variance, quantile, and what it means that events are
# independent. The taggers come from `utils/ner`; notebook 11 builds them, and you can read that later. Comments with
# `NBVAL_CHECK_OUTPUT`, `fmt: skip` or `noqa` are for the tools that test this page.
#
# **Time:** about two minutes with the public corpora on a laptop CPU (2 cores), less than one without them. No GPU is
# used: everything here is a CRF, trained on parts of corpora, so the scores are lower than the best that notebook 11
# reaches. What is measured here is how to measure.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import html
import random
import re
import warnings
from collections import Counter, defaultdict
from itertools import pairwise

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from scipy.optimize import minimize
from scipy.special import expit, logit
from tqdm.auto import tqdm

from utils.course import COLOURS, check, hint, play, solution  # noqa: F401
from utils.ner import (
    CRFTagger,
    DictionaryTagger,
    Entity,
    OfficialGold,
    Sentence,
    WordFeatures,
    evaluate,
    load_corpus,
    load_tagger,
    read_pubtator,
    read_sentences,
    to_tags,
    write_jsonl,
    write_pubtator,
)
from utils.ner.bc2 import official_counts, official_place
from utils.ner.display import show_entities

# %% [markdown]
# ## 1. What is read here
#
# **Question:** which texts do we have, and what was each of them made for?
#
# Three corpora serve. **BC5CDR** (chemicals and diseases) is what the reading tool learns from. **BC2GM** (genes) has
# official scoring rules of its own. **NCBI-disease** is used abstract by abstract, to ask how many of them are needed.
# Where a corpus is not at hand, the course's own small corpus stands in for it with the types that it has; the lines
# below say which it was. That corpus is too small for conclusions: read its figures as a demonstration that the code
# works.

# %%
bc5cdr, bc2gm, ncbi = (load_corpus(name) for name in ["bc5cdr", "bc2gm", "ncbi-disease"])
print()
for corpus in (bc5cdr, bc2gm, ncbi):
    sizes = ", ".join(f"{split} {len(corpus.split(split)):,}" for split in corpus.splits)
    print(f"{corpus.name:<13} sentences: {sizes}; types: {', '.join(corpus.types)}")
names = [corpus.name for corpus in (bc5cdr, bc2gm, ncbi) if corpus.stands_in]
print("\nthe course's own corpus stands in for:", ", ".join(names) or "none of them")

# %% [markdown]
# Corpora are usually handed out as sentences, already cut into tokens. A reader has **abstracts**, uncut. Of two
# corpora there are such originals in PubTator form, with the annotators' offsets in the raw text: 50 abstracts of
# BC5CDR and all of NCBI-disease. Where they are missing, neighbouring sentences are put together again (by document in
# the course's corpus, ten by ten elsewhere).


# %%
def joined(sentences, name):
    """Neighbouring sentences as one text, with their entities moved along."""
    text, entities = "", []
    for one in sentences:
        shift = len(text) + 1 if text else 0
        text = f"{text} {one.text}" if text else one.text
        entities += [Entity(e.start + shift, e.end + shift, e.type) for e in one.entities]
    return Sentence(text, None, entities, name)


def abstracts(corpus, split, file, one_type=None):
    """Whole abstracts: the PubTator originals, or neighbouring sentences. one_type: a name for all entity types."""
    path = corpus.folder / "original" / file
    if path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # one mention of NCBI-disease does not fit its text and is left out
            found = {
                one.id: one for one in read_pubtator(path, mismatch="skip")
            }  # an id that comes twice counts once
        found = list(found.values())
    else:
        groups = defaultdict(list)
        for number, one in enumerate(corpus.split(split)):
            groups[one.document or str(number // 10)].append(one)
        found = [joined(some, name) for name, some in groups.items()]
    if one_type:
        found = [
            one.with_entities(Entity(e.start, e.end, one_type) for e in one.entities)
            for one in found
        ]
    return found


# %%
reading = abstracts(bc5cdr, "test", "sample50.pubtator.txt")
pool = abstracts(ncbi, "train", "train.pubtator.txt", "Disease")
dev_abstracts = abstracts(ncbi, "dev", "dev.pubtator.txt", "Disease")
exam = abstracts(ncbi, "test", "test.pubtator.txt", "Disease")
for name, some in [
    ("to read", reading),
    ("pool", pool),
    ("dev", dev_abstracts),
    ("exam", exam),
]:
    tokens = [len(one.tokens) for one in some]
    print(f"{name:<8} {len(some):>4} abstracts, {np.mean(tokens):.0f} tokens and "
          f"{np.mean([len(one.entities) for one in some]):.1f} mentions each")  # fmt: skip

# %% [markdown]
# ## 2. Entities out: a reading tool
#
# **Question:** what does a tagger trained on sentences find in abstracts that it has never seen?
#
# First, has it *really* never seen them? The 50 abstracts of BC5CDR were taken from the release's files, and nobody
# says from which split. So we look for the test's, dev's and training sentences in them, with white space removed,
# since tokenisation has changed it.
#
# **Predict before you run:** from which split are they?


# %%
def squeezed(text):
    """A text without white space, in lower case: what tokenisation leaves alone."""
    return "".join(text.lower().split())


whole = [squeezed(one.text) for one in reading]
for split in bc5cdr.splits:
    there = [
        any(squeezed(one.text) in text for text in whole)
        for one in bc5cdr.split(split)
        if len(one.tokens) > 5
    ]
    print(
        f"{split:<5} {sum(there):>4} of {len(there):,} sentences (of more than 5 tokens) are in the texts to read"
    )

# %% [markdown]
# Had we trained on the training split and shown the result on "50 real abstracts", every one of them would have been an
# abstract it had learnt by heart, wherever the line above says "train". Section 10 measures what that is worth. Here we
# leave those sentences out of training, and keep a part of the rest.
#
# The tagger is a **CRF**: it weighs features of each word (its letters, its beginning and end, its neighbours) and
# picks the most probable sequence of tags. Notebook 11 builds one. We take few features, so that training is quick.

# %%
FEATURES = WordFeatures(window=1, affixes=4, grams=(), stems=False, pairs=False)
ITERATIONS = course.pick(test=30, cpu=60, gpu=60)


def train_crf(sentences, features=FEATURES):
    """A small CRF; the same sentences always give the same tagger."""
    return CRFTagger(features, c1=0.1, c2=0.01, iterations=ITERATIONS).fit(
        sentences, progress=False
    )


unseen = [
    one for one in bc5cdr.train if not any(squeezed(one.text) in text for text in whole)
]
train = random.Random(0).sample(
    unseen, min(len(unseen), course.pick(test=120, cpu=1500, gpu=4000))
)
tagger = train_crf(train)
print(
    f"trained on {len(train):,} sentences of {bc5cdr.name} with {sum(len(one.entities) for one in train):,} mentions"
)


# %% [markdown]
# It learnt from sentences, so we give it sentences: `read` cuts a text where a full stop, a space and a capital follow
# each other, tags the pieces, and moves the entities back to where they stand in the whole text. (Whether that matters
# is the last line printed.)

# %%
SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z(\[])")


def edges_of(text):
    """Where its sentences begin, and where the text ends."""
    return [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]


def read(tagger, text):
    """The text with the entities found in it, tagged sentence by sentence."""
    starts = edges_of(text)
    pieces = [Sentence(text[start:end]) for start, end in pairwise(starts)]
    found = [
        Entity(e.start + start, e.end + start, e.type)
        for start, one in zip(starts, tagger.predict(pieces))
        for e in one.entities
    ]
    return Sentence(text, None, found)


found = [read(tagger, one.text) for one in reading]
report = evaluate(reading, found)
in_one_piece = evaluate(reading, tagger.predict(reading), resamples=0)
print(
    f"{len(reading)} abstracts, found against annotated, intervals from resampled abstracts (section 4):\n{report}\n"
)
print(f"the same, each abstract tagged as one long sentence: f1 {in_one_piece.f1:.4f}")

# %% [markdown]
# Two of the abstracts, drawn at random, with what was found (not with what is true). Read them. You will find mistakes:
# they are what the rest of this notebook is about.

# %%
shown = random.Random(12).sample(range(len(reading)), 2)
show_entities(
    [found[k] for k in shown], titles=[f"abstract {reading[k].id}" for k in shown]
)

# %% [markdown]
# The tool shows a text like that, with a list of what was found below it. The list of the second abstract:


# %%
def listed(one):
    """A line for each name that was found, the most frequent first."""
    counts = Counter((e.text, e.type) for e in one.entities)
    return [f"{name} ({kind}, {times}x)" for (name, kind), times in counts.most_common()]


def page(text):
    """What the tool shows for a text: the text with highlights, and the list."""
    one = read(tagger, text)
    rows = "".join(
        f"<li>{html.escape(line)}</li>" for line in listed(one) or ["nothing found"]
    )
    return f"{show_entities(one).html}<ul>{rows}</ul>"


print("\n".join(listed(found[shown[1]]) or ["nothing found"]))

# %% [markdown]
# **Now your own text.** Paste an abstract into the box and click outside it. (Without a kernel the box is not shown.)
# Try what the tagger cannot know: a text on genes, a menu, a text in another language.

# %%
box = ipywidgets.Textarea(
    reading[shown[0]].text,
    layout={"width": "98%", "height": "10em"},
    continuous_update=False,
)
result = ipywidgets.HTML(page(box.value))
box.observe(lambda change: setattr(result, "value", page(change["new"])), "value")
display(ipywidgets.VBox([box, result]))

# %% [markdown]
# ## 3. One set of predictions, five scores
#
# **Question:** the same predictions on the same sentences are reported as F1 44.7 and as 58.97. How?
#
# **Precision** $P$ is the share of the predictions that is right, **recall** $R$ the share of the gold mentions (the
# annotated ones, which count as true) that was found. $F_1$ is their harmonic mean, high only if both are. All three
# are counts divided by counts:
#
# $$ P = \frac{\text{correct}}{\text{predicted}}, \qquad R = \frac{\text{correct}}{\text{gold}}, \qquad
# F_1 = \frac{2PR}{P + R} = \frac{2 \cdot \text{correct}}{\text{predicted} + \text{gold}} . \tag{1} $$
#
# All depends on what is called correct:
# - **strict**: same start, same end, same type. The score of the CoNLL shared tasks, and what papers that mark mentions
#   in BC5CDR and NCBI-disease report. (BC5CDR's own disease task was scored on identifiers, which is another thing.)
# - **partial**: the same characters 1 point, any overlap half a point, whatever the type.
# - **type**: any overlap with the right type 1 point.
# - **official, BioCreative II** (Smith et al. 2008): strict, but the annotators also listed **alternatives** that are
#   as good as the gold mention (file `ALTGENE`), for example with and without the word "human". A gold mention is found
#   if it or an alternative that overlaps it was predicted; a prediction is wrong if it is neither. Offsets count
#   characters without white space.
#
# The first and the last of these rules by hand:


# %%
def strict_by_hand(gold, predicted):
    """Correct, predicted, gold of one sentence; spans are sets of (start, end, type)."""
    return len(gold & predicted), len(predicted), len(gold)


def official_by_hand(gold, alternatives, predicted):
    """Correct, predicted, gold of one sentence; places are (first, last) character, white space not counted."""
    accepted = [one for one in predicted if one in alternatives]
    found = 0
    for first, last in gold:
        same = (first, last) in predicted
        found += same or any(start <= last and first <= end for start, end in accepted)
    wrong = [one for one in predicted if one not in gold and one not in alternatives]
    return found, found + len(wrong), len(gold)


# %% [markdown]
# The tagger is the simplest there is: the **dictionary of all mentions in train and dev**, looked up in test. Beside it
# a CRF trained on part of BC2GM. Where BC2GM is not at hand there are no official alternatives, so we make some up: a
# gold name of several words may lose its first or its last. (The line printed says so. Real alternatives are chosen by
# people, one by one.)

# %%
if bc2gm.stands_in:
    gene_test = bc2gm.test
    places = {
        one.id: [official_place(e, one.text) for e in one.entities] for one in gene_test
    }
    shorter = defaultdict(list)
    for one in gene_test:
        for e in (e for e in one.entities if " " in e.text):
            for start, end in [
                (e.start + e.text.index(" ") + 1, e.end),
                (e.start, e.start + e.text.rindex(" ")),
            ]:
                shorter[one.id].append(official_place(Entity(start, end, e.type), one.text))
    official = OfficialGold(places, dict(shorter))
    print("alternatives: made up here by a rule, because BC2GM is not at hand")
else:
    gene_test = bc2gm.test[: course.pick(test=500, cpu=5000, gpu=5000)]
    official = bc2gm.official("test")
    print("alternatives: the task's own file ALTGENE")

dictionary = DictionaryTagger().fit(bc2gm.train, bc2gm.dev)
gene_train = random.Random(0).sample(
    bc2gm.train, min(len(bc2gm.train), course.pick(test=120, cpu=1500, gpu=5000))
)
gene_crf = train_crf(gene_train)
gene_found = {
    "dictionary": dictionary.predict(gene_test),
    "CRF": gene_crf.predict(gene_test),
}
print(
    f"dictionary of {len(dictionary):,} names; CRF of {len(gene_train):,} sentences; tested on {len(gene_test):,}"
)

# %% [markdown]
# **Predict before you run:** order the five by F1 (strict, partial, type, official without and with alternatives). And:
# will the CRF gain as much from the alternatives as the dictionary?

# %%
RULES = {
    "strict": {"mode": "strict"},
    "official, no alternatives": {"mode": "bc2", "official": OfficialGold(official.genes)},
    "partial": {"mode": "partial"},
    "official, alternatives": {"mode": "bc2", "official": official},
    "type": {"mode": "type"},
}
scores = {
    (name, rule): evaluate(gene_test, predicted, **options)
    for name, predicted in gene_found.items()
    for rule, options in RULES.items()
}
print(
    f"{'tagger':<12}{'rule':<28}{'correct':>9}{'predicted':>11}{'gold':>7}{'P':>8}{'R':>8}{'F1':>8}"
)
for (name, rule), r in scores.items():
    counts = f"{r.correct:>9,.1f}{r.predicted:>11,}{r.support:>7,}"
    print(
        f"{name:<12}{rule:<28}{counts}{100 * r.precision:>8.2f}{100 * r.recall:>8.2f}{100 * r.f1:>8.2f}"
    )
print()
for name in gene_found:
    without, with_them = (
        scores[name, f"official, {kind}alternatives"].f1 for kind in ("no ", "")
    )
    print(
        f"the alternatives bring the {name} {100 * (with_them - without):+.1f} points of F1"
    )

# %% [markdown]
# Two things about the counts. *Gold*: 6 of the task's 6,331 mentions in BC2GM's test split have no tag in the tokenised
# file, so on the whole split the official rules count 6,331, the others 6,325. *Predicted*: the official rules count
# mentions found, and what is wrong. One accepted alternative may find two mentions, or none that is not found already;
# so found plus wrong need not be the number of predictions.

# %%
figure, axes = plt.subplots(figsize=(8, 3.4))
for k, name in enumerate(gene_found):
    values = [scores[name, rule] for rule in RULES]
    f1 = np.array([100 * r.f1 for r in values])
    edges = 100 * np.array([r.intervals["f1"] for r in values]).T
    where = np.arange(len(RULES)) + 0.4 * (k - 0.5)
    axes.barh(where, f1, 0.38, color=COLOURS[k], label=name, xerr=[f1 - edges[0], edges[1] - f1],
              error_kw={"elinewidth": 1})  # fmt: skip
    for y, value in zip(where, f1):
        axes.text(1, y, f"{value:.1f}", va="center", color="white", fontsize=9)
axes.set(
    yticks=range(len(RULES)),
    yticklabels=list(RULES),
    xlabel="F1 in per cent, 95% bootstrap interval",
)
axes.invert_yaxis()
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
lowest, highest = (
    f(100 * scores["dictionary", rule].f1 for rule in RULES) for f in (min, max)
)
axes.set_title(
    f"One dictionary, one set of predictions: F1 from {lowest:.1f} to {highest:.1f}"
)
plt.show()

# %% [markdown]
# Where does the difference come from? We take the dictionary's predictions apart: every prediction is a gold mention,
# an accepted alternative, or wrong; every gold mention is found as it stands, found through an alternative, or missed.

# %%
tally = Counter()
changed = []  # sentences where a prediction is an alternative and no gold mention
for one, other in zip(gene_test, gene_found["dictionary"]):
    gold, accepted = (
        set(official.genes.get(one.id, [])),
        set(official.alternatives.get(one.id, [])),
    )
    predicted = {official_place(e, one.text) for e in other.entities}
    tally["predictions: gold mentions"] += len(predicted & gold)
    tally["predictions: accepted alternatives"] += len((predicted & accepted) - gold)
    tally["predictions: wrong"] += len(predicted - gold - accepted)
    found_count, _, _ = official_by_hand(gold, accepted, predicted)
    tally["gold: found as it stands"] += len(predicted & gold)
    tally["gold: found through an alternative"] += found_count - len(predicted & gold)
    tally["gold: missed"] += len(gold) - found_count
    if (predicted & accepted) - gold:
        changed.append((one, other))
for name, number in tally.items():
    total = sum(n for key, n in tally.items() if key.split(":")[0] == name.split(":")[0])
    print(f"{name:<36}{number:>6,}  {number / total:>6.1%}")


# %%
def surface(text, place):
    """The characters from the first to the last of a place that does not count white space."""
    seen = [k for k, letter in enumerate(text) if not letter.isspace()]
    return text[seen[place[0]] : seen[place[1]] + 1]


for one, other in random.Random(1).sample(changed, min(4, len(changed))):
    print(one.text if len(one.text) < 160 else one.text[:157] + "...")
    print(
        "   gold:        ",
        " | ".join(surface(one.text, p) for p in official.genes.get(one.id, [])),
    )
    print(
        "   alternatives:",
        " | ".join(surface(one.text, p) for p in official.alternatives.get(one.id, [])),
    )
    print("   predicted:   ", " | ".join(e.text for e in other.entities), "\n")

# %% [markdown]
# With strict scoring, a boundary that an annotator would have accepted costs **twice**: once as a wrong prediction,
# once as a missed mention. The official rules take both back. So the gain depends on how often a tagger is *nearly*
# right: compare the two taggers below the table. No constant converts one score into the other, and figures of the two
# kinds must never share a column. On the whole of BC2GM's test split, the dictionary's strict F1 of 44.65 (44.7) and
# official F1 of 58.97 are the *same predictions*. (The official rules here are those of the task's own script,
# `alt_eval.perl`, which counts a prediction that is listed twice as two; here none is.)
#
# Partial and type-only scores are for understanding. A type-only score calls a one-word overlap with a five-word name
# right. If your use needs only "this abstract speaks of a gene here", it is the score you want; if the name goes on to
# a data base, it is not.

# %% [markdown]
# ## 4. How sure is the number?
#
# **Question:** another test set of the same size and kind would have given another F1. How different?
#
# The **bootstrap** (Efron 1979) imitates other test sets: draw sentences from ours with replacement, as many as there
# are, compute F1 again, a thousand times. The middle 95% of these values are the **percentile interval**. F1 is not a
# mean of sentences but a ratio of sums, so for each sentence we keep the three counts and add those up.


# %%
def strict_rows(gold, predicted):
    """Counts (correct, predicted, gold) for each sentence: array (sentences, 3)."""
    spans = [[{e.span for e in one.entities} for one in some] for some in (gold, predicted)]
    return np.array([strict_by_hand(*pair) for pair in zip(*spans)], dtype=float)


def f1_of(sums):
    """F1 (eq. 1) of summed counts, array (..., 3); 0 where there is nothing."""
    below = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], below, out=np.zeros_like(below), where=below > 0)


def bootstrap(rows, draws=1000, seed=0):
    """Summed counts of resampled test sets: array (draws, columns of `rows`)."""
    generator, n = np.random.default_rng(seed), len(rows)
    times = (
        np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(draws)
    )  # how often each is drawn
    return np.stack([one @ rows for one in times])


def interval(values):
    """The middle 95%."""
    return np.quantile(values, [0.025, 0.975])


# %%
test = bc5cdr.test[: course.pick(test=200, cpu=2500, gpu=5000)]
test_found = tagger.predict(test)
rows = strict_rows(test, test_found)
low, high = interval(f1_of(bootstrap(rows)))
print(
    f"{bc5cdr.name}, {len(test):,} test sentences: F1 {f1_of(rows.sum(0)):.4f}, 95% interval {low:.4f} to {high:.4f}"
)

# %% [markdown]
# Two things to know before you trust it.
#
# **Sentences of one abstract are not independent.** An abstract on a rare drug names it in every sentence, and a tagger
# that misses it misses it ten times. So whole abstracts should be drawn, not sentences. Where the borders of abstracts
# are lost, as in BC5CDR's tokenised files, **blocks of neighbours** can be drawn, about as long as an abstract. They do
# not begin where abstracts do, so one abstract may lie in two blocks that count as independent.
#
# **It is itself an estimate.** Does a "95% interval" hold the truth 95 times in 100? To know, we need a truth. The
# training abstracts of NCBI-disease, whose borders are known, serve as the whole world: a CRF trained on others
# (`dev_abstracts`) has some F1 on all of them. From this world we draw small test sets of whole abstracts, give each an
# interval in three ways, and count. Only the abstracts are drawn by the rules of the world; who draws sentences or
# blocks acts as if the borders were not known.
#
# **Predict before you run:** which intervals are widest, those from sentences, from blocks or from abstracts? Which
# hold the truth most often?


# %%
def rows_within(gold, predicted):
    """Counts of one abstract, sentence by sentence: array (sentences, 3). A mention counts where it begins."""
    spans = [
        [
            {e.span for e in one.entities if start <= e.start < end}
            for start, end in pairwise(edges_of(gold.text))
        ]
        for one in (gold, predicted)
    ]
    return np.array([strict_by_hand(*pair) for pair in zip(*spans)], dtype=float)


def in_blocks(rows, size):
    """Rows of neighbouring sentences added up, `size` at a time; the last block may be shorter."""
    return np.add.reduceat(rows, np.arange(0, len(rows), size), axis=0)


def fast_interval(rows, generator, draws=400):
    """`interval(f1_of(bootstrap(rows)))` for all draws at once."""
    n = len(rows)
    chosen = generator.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return interval(
        f1_of(np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n) @ rows)
    )


dev_tagger = train_crf(dev_abstracts)
world = [rows_within(one, read(dev_tagger, one.text)) for one in pool]
truth = f1_of(np.concatenate(world).sum(0))
BLOCK = 5 if bc5cdr.stands_in else 10
print(
    f"the world: {len(world)} abstracts, {np.mean([len(one) for one in world]):.1f} sentences each; F1 {truth:.4f}"
)

# %%
generator = np.random.default_rng(0)
trials = course.pick(test=100, cpu=1000, gpu=1000)
sizes = [size for size in (5, 10, 20, 40) if size <= len(world)]
held, width = defaultdict(list), defaultdict(list)
for size in tqdm(sizes, "sizes of test set"):
    for _ in range(trials):
        small = [
            world[k] for k in generator.integers(len(world), size=size)
        ]  # a new test set
        each = np.concatenate(small)
        whole_ones = np.stack([one.sum(0) for one in small])
        drawn_as = {
            "sentences": each,
            "blocks": in_blocks(each, BLOCK),
            "abstracts": whole_ones,
        }
        for unit, units in drawn_as.items():
            low, high = fast_interval(units, generator)
            held[unit, size].append(low <= truth <= high)
            width[unit, size].append(high - low)
print(
    f"{'abstracts in the test set':<27}{'drawn':<12}{'mean width':>11}{'holds the truth':>17}   ({trials} test sets)"
)
for (unit, size), hits in held.items():
    share, error = np.mean(hits), np.sqrt(np.mean(hits) * (1 - np.mean(hits)) / trials)
    print(
        f"{size:<27}{unit:<12}{np.mean(width[unit, size]):>11.3f}{share:>12.1%} ± {error:.1%}"
    )

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.2))
for k, unit in enumerate(["sentences", "blocks", "abstracts"]):
    share = np.array([np.mean(held[unit, size]) for size in sizes])
    error = np.sqrt(share * (1 - share) / trials)
    axes.errorbar(
        sizes,
        100 * share,
        200 * error,
        marker="o",
        capsize=3,
        color=COLOURS[k],
        label=f"draws {unit}",
    )
axes.axhline(95, color="grey", lw=1, ls="--")
axes.set(
    xlabel="abstracts in the test set",
    ylabel="intervals that hold the truth, %",
    xscale="log",
)
axes.set_xticks(sizes, [str(size) for size in sizes])
axes.minorticks_off()
axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
largest = [
    100 * np.mean(held[unit, sizes[-1]]) for unit in ("sentences", "blocks", "abstracts")
]
axes.set_title(f"{sizes[-1]} abstracts: a 95% interval from sentences holds the truth\n{largest[0]:.1f}% of the time, "
               f"from blocks {largest[1]:.1f}%, from abstracts {largest[2]:.1f}% (± 2 SE)", fontsize=10)  # fmt: skip
plt.show()

# %% [markdown]
# Read the three curves at both ends. Where those of blocks and abstracts lie above that of sentences, neighbours do
# hang together, and the interval from sentences promised too much. Blocks then recover a part of it; with few units
# even the interval from abstracts is too narrow, since the bootstrap sees only what is in the sample. So draw whole
# documents where you can, and report which unit you drew. In `evaluate` that is `groups`, a label for each sentence:
# sentences of one label are drawn together. From here on, intervals on BC5CDR draw blocks, and may still be too narrow.
# (BC2GM consists of single sentences; there we draw sentences.)

# %%
print(f"F1 on all {len(rows):,} test sentences {f1_of(rows.sum(0)):.4f}")
for unit, units in [("sentences", rows), ("blocks", in_blocks(rows, BLOCK))]:
    low, high = interval(f1_of(bootstrap(units)))
    print(f"95% interval from {unit:<10}{low:.4f} to {high:.4f}, width {high - low:.4f}")
theirs = evaluate(test, test_found, groups=[number // BLOCK for number in range(len(test))])
np.testing.assert_allclose(theirs.intervals["f1"], (low, high), rtol=1e-12)
print("`evaluate` with the blocks as groups gives the same interval as the last line")

# %% [markdown]
# **Comparing two taggers.** Both are judged on the same sentences, and a hard sentence is hard for both. So the
# question is not whether two intervals overlap but what the **difference** does when both are resampled *together*
# (paired). Below: the same training sentences, with the beginnings and ends of words among the features and without.

# %%
plain = train_crf(
    train, WordFeatures(window=1, affixes=0, grams=(), stems=False, pairs=False)
)
plain_rows = strict_rows(test, plain.predict(test))
blocks, plain_blocks = (in_blocks(one, BLOCK) for one in (rows, plain_rows))
drawn, plain_drawn = (
    f1_of(bootstrap(blocks)),
    f1_of(bootstrap(plain_blocks)),
)  # the same seed, so the same blocks
apart = f1_of(bootstrap(plain_blocks, seed=1))  # another seed: other blocks
difference = f1_of(rows.sum(0)) - f1_of(plain_rows.sum(0))
print(f"with affixes    {f1_of(rows.sum(0)):.4f}, interval {interval(drawn).round(4)}")
print(
    f"without affixes {f1_of(plain_rows.sum(0)):.4f}, interval {interval(plain_drawn).round(4)}"
)
print(
    f"difference      {difference:+.4f}, paired interval {interval(drawn - plain_drawn).round(4)}"
)
print(f"                unpaired, which is wrong here: {interval(drawn - apart).round(4)}")
widths = [np.diff(interval(values))[0] for values in (drawn - plain_drawn, drawn - apart)]
print(f"the paired interval is {widths[1] / widths[0]:.1f} times narrower")

# %% [markdown]
# The paired interval is the narrower one, for the reason given. It speaks of *these two trained taggers* on other test
# sets. Other training sentences would give other taggers: that spread is another one, and sections 8 and 9 show it with
# several seeds.
#
# Who asks for a p value usually means **approximate randomisation** (Yeh 2000): swap the two taggers' answers at
# random, document by document, and see how often the difference becomes as large as it is. Berg-Kirkpatrick et al.
# (2012) study such paired tests on several tasks, and what they say about text of another domain.
#
# ## 5. Names seen and names never seen
#
# **Question:** how much of the score is memory?
#
# A gold mention of the test set is **seen** if the training sentences mark that name (upper and lower case not told
# apart) with that type; **known words** if not, but each of its words occurs inside some marked name of that type; else
# **new**. The dictionary of the same training sentences is there for comparison.
#
# **Predict before you run:** what does the dictionary find of the names never seen? What does the CRF?


# %%
def novelty(train):
    """A function that calls a mention "seen", "known words" or "new", given the training sentences."""
    mentions = [
        (e.type, tuple(t.text.lower() for t in Sentence(e.text).tokens))
        for s in train
        for e in s.entities
    ]
    names, words = set(mentions), {(kind, word) for kind, name in mentions for word in name}

    def kind_of(entity):
        name = tuple(token.text.lower() for token in Sentence(entity.text).tokens)
        if (entity.type, name) in names:
            return "seen"
        return (
            "known words" if all((entity.type, word) in words for word in name) else "new"
        )

    return kind_of


def share_by_novelty(asked, answers, kind_of):
    """For each kind, rows (hit, 1) summed a sentence: how many of the mentions asked for are among the answers."""
    tables = {kind: np.zeros((len(asked), 2)) for kind in ("seen", "known words", "new")}
    for row, (one, other) in enumerate(zip(asked, answers)):
        given = {e.span for e in other.entities}
        for e in one.entities:
            tables[kind_of(e)][row] += e.span in given, 1
    return tables


def share_of(table):
    """Share of hits and its 95% interval from blocks of rows (hits, mentions); draws without a mention do not count."""
    hits, mentions = table.sum(0)
    draws = bootstrap(in_blocks(table, BLOCK))
    draws = draws[draws[:, 1] > 0]
    return (
        (hits / mentions, *interval(draws[:, 0] / draws[:, 1]))
        if mentions
        else (np.nan, np.nan, np.nan)
    )


# %%
kind_of = novelty(train)
small_dictionary = DictionaryTagger(lower=True).fit(train)
taggers = {"CRF": test_found, "dictionary": small_dictionary.predict(test)}
recall = {
    name: share_by_novelty(test, predicted, kind_of) for name, predicted in taggers.items()
}
precision = share_by_novelty(test_found, test, kind_of)
print(f"{'':<21}{'mentions':>9}   recall, 95% interval")
for name, tables in recall.items():
    for kind, table in tables.items():
        share, low, high = share_of(table)
        print(
            f"{name:<11} {kind:<12}{table[:, 1].sum():>6,.0f}   {share:>6.1%}, {low:.1%} to {high:.1%}"
        )
print()
for name, some in [
    (f"these {len(train):,} sentences", train),
    ("all of train and dev", [*bc5cdr.train, *bc5cdr.dev]),
]:
    known = share_by_novelty(test, test_found, novelty(some))["seen"][:, 1].sum()
    print(f"seen in {name}: {known / rows[:, 2].sum():.1%} of the mentions")

# %%
figure, axes = plt.subplots(figsize=(6.5, 3))
kinds = list(precision)
series = {
    "CRF, recall": recall["CRF"],
    "dictionary, recall": recall["dictionary"],
    "CRF, precision": precision,
}
for k, (name, tables) in enumerate(series.items()):
    for i, kind in enumerate(kinds):
        middle, low, high = 100 * np.array(share_of(tables[kind]))
        axes.bar(i + 0.27 * (k - 1), middle, 0.25, color=COLOURS[k], label=name if i == 0 else None,
                 yerr=[[max(middle - low, 0)], [max(high - middle, 0)]], error_kw={"elinewidth": 1})  # fmt: skip
labels = [f"{kind}\n{recall['CRF'][kind][:, 1].sum():,.0f} gold" for kind in kinds]
axes.set(xticks=range(len(kinds)), xticklabels=labels, ylabel="per cent", ylim=(0, 100))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
seen, new = (100 * share_of(recall["CRF"][kind])[0] for kind in ("seen", "new"))
axes.set_title(f"The CRF finds {seen:.0f}% of seen names, {new:.0f}% of new ones")
plt.show()

# %% [markdown]
# A dictionary cannot find a name that it does not hold, so outside "seen" its bars are at zero by construction. (Of the
# seen names it may miss a few, where a longer listed name overlaps them and takes their place.) What the CRF finds
# there it found by letters and neighbours. What a tagger *predicts* can be sorted likewise, which gives the third
# series. "Seen" depends on the training set: the last lines printed give the share for the part we train on, and for
# everything annotated. One total F1 hides this split. A test set whose names were mostly seen flatters; say the share
# of unseen ones beside the score.
#
# ## 6. What kinds of errors?
#
# **Question:** when it is wrong, how is it wrong?
#
# Each gold mention that was not found, and each prediction that is not gold, is put into one class:
# - **boundary**: it overlaps one of the other side with the same type;
# - **type**: it overlaps only ones of another type;
# - **missed** (gold) or **spurious** (predicted): it overlaps nothing.


# %%
def errors(gold, predicted):
    """(class, side, sentence number, entity) for everything that strict scoring calls wrong."""
    wrong = []
    for number, (one, other) in enumerate(zip(gold, predicted)):
        sides = [
            ("gold", one.entities, other.entities),
            ("predicted", other.entities, one.entities),
        ]
        for side, mine, theirs in sides:
            for e in (e for e in mine if e.span not in {x.span for x in theirs}):
                touched = {x.type for x in theirs if x.overlaps(e)}
                nothing = "missed" if side == "gold" else "spurious"
                kind = "boundary" if e.type in touched else "type" if touched else nothing
                wrong.append((kind, side, number, e))
    return wrong


def classify(name, predicted):
    wrong = errors(test, predicted)
    counts = Counter((kind, side) for kind, side, *_ in wrong)
    print(f"{name}: {len(wrong):,} wrong of {len(wrong) + 2 * int(strict_rows(test, predicted)[:, 0].sum()):,} "
          "gold and predicted")  # fmt: skip
    for (kind, side), number in counts.most_common():
        print(f"   {kind:<9} ({side:<9}) {number:>5,}  {number / len(wrong):.0%}")
    return wrong


wrong = classify("CRF", test_found)
_ = classify("dictionary", taggers["dictionary"])

# %% [markdown]
# Numbers do not tell why. For that one has to read errors, and it matters which. Errors picked by hand illustrate what
# the author believes already. So they are **drawn at random**, three of each class, with a fixed seed; change the seed
# and read others.


# %%
def in_context(text, e, around=45):
    """The entity in brackets with some text on both sides."""
    left, right = max(0, e.start - around), min(len(text), e.end + around)
    return (
        f"{text[left : e.start]}[{text[e.start : e.end]} | {e.type}]{text[e.end : right]}"
    )


SEED = 0
by_kind = defaultdict(list)
for kind, side, number, e in wrong:
    by_kind[kind].append((side, number, e))
for kind in ["boundary", "type", "missed", "spurious"]:
    print(f"-- {kind}")
    for side, number, e in random.Random(SEED).sample(
        by_kind[kind], min(3, len(by_kind[kind]))
    ):
        theirs = (test_found if side == "gold" else test)[number].entities
        touched = (
            ", ".join(f"{x.text} ({x.type})" for x in theirs if x.overlaps(e)) or "nothing"
        )
        print(f"   {side:>9}: ...{in_context(test[number].text, e)}...")
        print(f"   {'predicted' if side == 'gold' else 'gold':>9}: {touched}")

# %% [markdown]
# The sentences of two more errors, drawn the same way, with both annotations whole.

# %%
for number in random.Random(SEED + 1).sample(
    sorted({number for _, _, number, _ in wrong}), 2
):
    display(show_entities([test[number], test_found[number]], titles=["gold", "predicted"]))

# %%
outcomes = Counter()
for _, side, number, e in wrong:
    if side == "predicted":
        for x in test[number].entities:
            if x.overlaps(e) and x.type == e.type:
                left = (
                    "start right"
                    if e.start == x.start
                    else "starts early"
                    if e.start < x.start
                    else "starts late"
                )
                right = (
                    "end right"
                    if e.end == x.end
                    else "ends late"
                    if e.end > x.end
                    else "ends early"
                )
                outcomes[f"{left}, {right}"] += 1
print(
    "boundary errors of predictions, against each gold mention of the type that they overlap:"
)
for name, number in outcomes.most_common():
    print(f"   {name:<26}{number:>5}")

# %% [markdown]
# Judge each example yourself, and allow for a third answer beside "tagger wrong": *the annotation is wrong, or both are
# defensible*. Disagreements of annotators (notebook 09) are errors for every scorer. A count of such cases needs two
# readers and a sample drawn at random; twenty examples give a share with a standard error of about ten points, enough
# to know whether the next day's work should go into boundaries, into types or into names that are missed.

# %% [markdown]
# ## 7. Does it know when it is wrong?
#
# **Question:** of the entities that the CRF is 80% sure of, are 80% right?
#
# `predict_proba` gives the **marginal** probability of each tag at each token (forward and backward sums, notebook 11).
# For an entity over tokens $i \dots j$ with tags $y_i \dots y_j$ and marginals $p_k = p(y_k \mid x)$, the probability
# that *all* these tags hold lies between two bounds (Fréchet):
#
# $$ \max\Big(0,\ 1 - \sum_{k=i}^{j} (1 - p_k)\Big) \;\le\; p(y_i, \dots, y_j \mid x) \;\le\; \min_k p_k . \tag{2} $$
#
# (If one tag fails with probability $1 - p_k$, any of them fails with at most the sum of these; and all hold together
# at most as often as the least likely one.) We take the upper bound as the **confidence**, and print how far the lower
# one is. For one token both are the exact value.


# %%
def with_confidence(tagger, sentences, predicted):
    """(sentence number, entity, upper bound, lower bound) of each predicted entity."""
    column = {tag: k for k, tag in enumerate(tagger.tags)}
    rows = []
    for number, (one, marginals) in enumerate(
        zip(predicted, tagger.predict_proba(sentences))
    ):
        padded = np.pad(
            marginals, ((0, 0), (0, 1))
        )  # a last column of zeros, for a tag that it does not know
        tags = to_tags(one, tagger.scheme)
        p = padded[np.arange(len(tags)), [column.get(tag, -1) for tag in tags]]
        for e in one.entities:
            inside = p[[e.start <= token.start < e.end for token in one.tokens]]
            rows.append((number, e, inside.min(), max(0.0, 1 - (1 - inside).sum())))
    return rows


def scored(tagger, gold, predicted):
    """Confidence, and whether it is right, of each predicted entity: arrays (entities,)."""
    rows = with_confidence(tagger, gold, predicted)
    right = np.array(
        [e.span in {x.span for x in gold[number].entities} for number, e, *_ in rows]
    )
    return np.array([upper for *_, upper, _ in rows]), right, rows


confidence, right, entity_rows = scored(tagger, test, test_found)
gap = np.array([upper - lower for *_, upper, lower in entity_rows])
print(
    f"{len(confidence):,} entities: mean confidence {confidence.mean():.3f}, precision {right.mean():.3f}"
)
print(
    f"upper minus lower bound: mean {gap.mean():.3f}; below 0.05 for {(gap < 0.05).mean():.0%} of them"
)

# %% [markdown]
# Where between the bounds does the exact value lie? The probability of the tags is the share of $Z$, the sum over all
# tag sequences, that is left when the entity's tokens may have no other tags (Culotta & McCallum 2004). CRFsuite does
# not give it, but shows its weights, and `LinearChainCRF` of notebook 11 sums over sequences. On the first entities:


# %%
import pycrfsuite
import torch
from utils.ner.linear_chain import FORBIDDEN, LinearChainCRF


def chain_of(tagger, folder):
    """CRFsuite's weights: of the steps, as a chain; of the features, as a table {feature: a weight for each tag}."""
    tagger.save(folder)
    model = pycrfsuite.Tagger()
    model.open(str(folder / "model.crfsuite"))
    info, column = model.info(), {tag: k for k, tag in enumerate(tagger.tags)}
    chain, weights = LinearChainCRF(tagger.tags), defaultdict(lambda: np.zeros(len(column)))
    for (before, after), weight in info.transitions.items():
        chain.transitions.data[column[before], column[after]] = weight
    for (feature, tag), weight in info.state_features.items():
        weights[feature][column[tag]] = weight
    return chain, weights


# %%
def exact_confidence(tagger, chain, weights, predicted, rows):
    """The probability that all tags of an entity hold, for each of the rows of `with_confidence`."""
    known, nothing, result = weights.keys(), np.zeros(len(tagger.tags)), []
    for number, e, *_ in rows:
        one = predicted[number]
        scores = [
            sum((weights[name] for name in known & set(names)), nothing)
            for names in FEATURES(one.words)
        ]
        emissions = torch.tensor(np.stack(scores)).float()
        only = emissions.clone()
        for k, tag in enumerate(to_tags(one, tagger.scheme)):
            if e.start <= one.tokens[k].start < e.end:
                only[
                    k, [other for other, name in enumerate(tagger.tags) if name != tag]
                ] = FORBIDDEN
        both = torch.stack([emissions, only])
        whole_sum, rest = chain.log_partition(
            both, torch.ones(both.shape[:2], dtype=torch.bool)
        ).tolist()
        result.append(np.exp(rest - whole_sum))
    return np.array(result)


some = entity_rows[: course.pick(test=100, cpu=500, gpu=1000)]
with torch.no_grad():
    exact_values = exact_confidence(
        tagger, *chain_of(tagger, course.build / "nb12" / "reader"), test_found, some
    )
upper, lower = np.array([row[2:] for row in some]).T
assert (lower - 1e-4 < exact_values).all() and (exact_values < upper + 1e-4).all()
print(f"{len(some):,} entities, mean: lower bound {lower.mean():.4f}, exact {exact_values.mean():.4f}, "
      f"upper bound {upper.mean():.4f}; precision {right[: len(some)].mean():.4f}")  # fmt: skip

# %% [markdown]
# On the average the upper bound is much nearer to the exact value than the lower one: tags of one entity stand or fall
# together. So what follows would look much the same with the exact value.
#
# A **reliability diagram** puts predictions into $M$ bins by confidence and draws, for each, the share that is right.
# The **expected calibration error** is the weighted mean distance from the diagonal (Naeini et al. 2015; Guo et al.
# 2017, eq. 3), with $n_m$ of $n$ predictions in bin $m$:
#
# $$ \mathrm{ECE} = \sum_{m=1}^{M} \frac{n_m}{n} \, \big|\, \mathrm{acc}_m - \mathrm{conf}_m \,\big| . \tag{3} $$
#
# It is a mean of absolute values, so it is **biased upwards** when the true gaps are small: a perfectly calibrated
# tagger has an ECE above 0, since each bin is off by chance. How much? We make its data: the same confidences, and
# "right" drawn with exactly that probability. (And independently of each other. Entities of one abstract are not, so
# chance alone can do somewhat more than this.)
#
# **Predict before you run:** does that bias grow or shrink with the number of bins? And with the number of predictions?


# %%
def bins_of(confidence, count):
    """Bins with equally many predictions in each: a list of index arrays."""
    return [
        part
        for part in np.array_split(np.argsort(confidence, kind="stable"), count)
        if len(part)
    ]


def ece(confidence, right, count=10):
    """Expected calibration error, eq. 3, in bins of equal number."""
    gaps = [
        len(b) * abs(right[b].mean() - confidence[b].mean())
        for b in bins_of(confidence, count)
    ]
    return sum(gaps) / len(confidence)


def perfect_ece(confidence, count=10, draws=200, seed=0):
    """What the ECE is for perfectly calibrated predictions with these confidences: array (draws,)."""
    generator = np.random.default_rng(seed)
    return np.array(
        [
            ece(confidence, generator.random(len(confidence)) < confidence, count)
            for _ in range(draws)
        ]
    )


generator = np.random.default_rng(1)
print(
    f"{'predictions':>11}{'bins':>6}{'ECE':>8}   if perfectly calibrated: mean, 95% of draws"
)
for size in sorted({min(size, len(confidence)) for size in (100, 500, len(confidence))}):
    some = generator.choice(len(confidence), size, replace=False)
    for count in (5, 10, 50):
        null = perfect_ece(confidence[some], count)
        low, high = interval(null)
        seen_ece = ece(confidence[some], right[some], count)
        print(
            f"{size:>11,}{count:>6}{seen_ece:>8.3f}   {null.mean():.3f}, {low:.3f} to {high:.3f}"
        )

# %% [markdown]
# The bias grows with the number of bins and shrinks with the number of predictions: what counts is how many fall into a
# bin. So an ECE means something only beside its value for perfect calibration at the same $n$ and $M$; subtracting the
# mean is a rough correction (Roelofs et al. 2022 study better ones, and find bins of equal number less biased than bins
# of equal width, which is why they are used here). And an ECE over *tokens* would look splendid for another reason:
# most tokens are "O" with a probability near 1.
#
# Can it be mended? **Platt scaling** (Platt 1999): two numbers $a, b$ with
# $p' = \sigma(a \,\mathrm{logit}(p) + b)$. The logit $\log \frac{p}{1 - p}$ turns a probability into any number, and
# $\sigma$ is its inverse; so $a$ stretches the confidences on that scale, and $b$ shifts them. Both are chosen so that
# what happened on `dev` is as probable as possible (maximum likelihood), and tried on `test`.

# %%
dev = bc5cdr.dev[: course.pick(test=200, cpu=1500, gpu=4000)]
dev_confidence, dev_right, _ = scored(tagger, dev, tagger.predict(dev))


def scaled(p, parameters):
    return expit(parameters[0] * logit(np.clip(p, 1e-6, 1 - 1e-6)) + parameters[1])


def negative_log_likelihood(parameters):
    p = np.clip(scaled(dev_confidence, parameters), 1e-9, 1 - 1e-9)
    return -np.where(dev_right, np.log(p), np.log(1 - p)).mean()


platt = minimize(negative_log_likelihood, [1.0, 0.0], method="Nelder-Mead").x
print(
    f"a = {platt[0]:.2f}, b = {platt[1]:.2f}, fitted on {len(dev_right):,} entities of dev"
)
for name, p in [("as it is", confidence), ("scaled", scaled(confidence, platt))]:
    null = perfect_ece(p)
    low, high = interval(null)
    verdict = (
        "more than chance alone gives"
        if ece(p, right) > high
        else "no more than chance alone gives"
    )
    print(
        f"{name:<9} test: ECE {ece(p, right):.3f}; if perfect {null.mean():.3f}, {low:.3f} to {high:.3f}: {verdict}"
    )

# %%
figure, (left, right_axes) = plt.subplots(
    1, 2, figsize=(9.5, 3.6), gridspec_kw={"wspace": 0.35}
)
lowest = 1.0
for k, (name, p) in enumerate(
    [("as it is", confidence), ("scaled on dev", scaled(confidence, platt))]
):
    groups = bins_of(p, 10)
    x, y = (np.array([values[b].mean() for b in groups]) for values in (p, right))
    error = np.sqrt(np.maximum(y * (1 - y), 1e-9) / [len(b) for b in groups])
    left.errorbar(x, y, 2 * error, marker="o", capsize=3, color=COLOURS[k], label=name)
    lowest = min(lowest, x.min(), (y - 2 * error).min())
    low, high = interval(perfect_ece(p))
    right_axes.plot([low, high], [k, k], color="grey", lw=8, alpha=0.5, solid_capstyle="butt",
                    label="chance alone, 95%" if k == 0 else None)  # fmt: skip
    right_axes.plot(ece(p, right), k, "D", color=COLOURS[k], label=f"{name}, measured")
limits = (max(0, lowest - 0.03), 1.02)
left.plot(limits, limits, color="grey", lw=1, ls="--")
left.set(
    xlabel="mean confidence in the bin",
    ylabel="share that is right",
    xlim=limits,
    ylim=limits,
)
too = "too sure" if confidence.mean() > right.mean() else "not sure enough"
left.set_title(
    f"On the whole it is {too}:\nconfidence {confidence.mean():.2f}, right {right.mean():.2f}"
)
left.legend(loc="upper left", fontsize=9)
right_axes.set(
    xlabel="ECE, 10 bins",
    yticks=[0, 1],
    yticklabels=["as it is", "scaled"],
    ylim=(1.6, -0.6),
)
right_axes.set_xlim(left=0)
before, after = (ece(p, right) for p in (confidence, scaled(confidence, platt)))
right_axes.set_title(f"ECE {before:.3f} as it is,\n{after:.3f} scaled on dev")
right_axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# "No more than chance" is the weak side of a test: it does not show that the calibration is perfect. And the bands,
# like the error bars, take entities as independent. Those of one abstract are not, so chance alone can do more than is
# shown.
#
# Calibration is measured on entities that were *predicted*; it says nothing of those that were missed. And it holds for
# texts like these: on another kind of text the confidences are not to be trusted before they are measured there.
#
# ## 8. The learning curve
#
# **Question:** would more annotated abstracts help?
#
# NCBI-disease, whole abstracts. We train on growing random choices and score on the official test abstracts; each seed
# is another order of the training abstracts, and each choice contains the smaller ones. Many trainings: less than a
# minute on the `cpu` profile, with a bar. `grow` also serves the next section, where abstracts are not chosen at
# random.


# %%
def doubt(tagger, document):
    """How unlikely the tagger finds its own best answer: minus the log of that answer's probability, at least 0."""
    return -np.log(max(tagger.confidence([document])[0], 1e-300))


def choose(strategy, candidates, count, tagger):
    """`count` of the candidates (numbers in `pool`, in random order), by a strategy."""
    if strategy == "random":
        return candidates[:count]
    ask = candidates[
        : course.pick(test=15, cpu=150, gpu=500)
    ]  # to ask them all would cost time
    per_token = strategy == "doubt per token"
    value = {
        k: doubt(tagger, pool[k]) / (len(pool[k].tokens) if per_token else 1) for k in ask
    }
    return sorted(ask, key=value.get, reverse=True)[:count]


def grow(seed, strategy, sizes):
    """Yields (abstracts, tokens, mentions, F1 on the exam) as annotated abstracts are added up to each size."""
    order, chosen, tagger = (
        random.Random(seed).sample(range(len(pool)), len(pool)),
        [],
        None,
    )
    for size in sizes:
        rest = [k for k in order if k not in set(chosen)]
        how = (
            strategy if tagger else "random"
        )  # the first few are random for every strategy, the same for all
        chosen += choose(how, rest, size - len(chosen), tagger)
        documents = [pool[k] for k in chosen]
        tagger = train_crf(documents)
        f1 = evaluate(exam, tagger.predict(exam), resamples=0).f1
        yield (
            len(chosen),
            sum(len(d.tokens) for d in documents),
            sum(len(d.entities) for d in documents),
            f1,
        )


# %%
SEEDS = range(course.pick(test=2, cpu=6, gpu=8))
if len(pool) < 100:  # the course's own corpus
    few, more = [3, 6, 12], [24]
else:
    few = course.pick(test=[3, 6, 12], cpu=[10, 20, 40, 80], gpu=[10, 20, 40, 80, 160])
    more = course.pick(test=[24], cpu=[160, 320], gpu=[320])
many = [*few, *more, len(pool)]
runs = {"random": {}}
for seed in tqdm(SEEDS, "seeds"):
    # All abstracts are the same set for every seed, and large parts are dear: half of the seeds do without them.
    sizes = (
        many if seed == 0 else many[:-1] if seed < len(SEEDS) / 2 else many[: len(few) + 1]
    )
    runs["random"][seed] = list(grow(seed, "random", sizes))
curve = {
    size: [run[k][3] for run in runs["random"].values() if k < len(run)]
    for k, size in enumerate(many)
}


def standard_error(values):
    """Of the mean of some values; 0 where there is but one."""
    return np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0


for size, values in curve.items():
    spread = f"± {standard_error(values):.4f} (standard error of {len(values)} seeds)"
    print(
        f"{size:>4} abstracts: F1 {np.mean(values):.4f} {spread if len(values) > 1 else '(all of them, once)'}"
    )
print(
    f"at {few[0]} abstracts, single seeds lie between {min(curve[few[0]]):.2f} and {max(curve[few[0]]):.2f}"
)

# %% [markdown]
# Can one foretell, from half the data, what the whole will give? Two forms are common: a straight line in $\log n$, and
# a power law that levels off (Hestness et al. 2017 found such laws for errors in several fields):
#
# $$ F(n) = a + b \log_2 n, \qquad F(n) = a - b\, n^{-c} . \tag{4} $$
#
# Both are fitted without the largest size, which they then have to foretell. For a given $c$ the power law is linear in
# $a$ and $b$, so we try a grid of $c$. How sure is what they foretell? We resample the seeds, as section 4 does with
# sentences, and fit again.
#
# **Predict before you run:** which of the two foretells too much?


# %%
def fit_curve(n, f, columns):
    """Least squares of f on functions of n; the coefficients and the sum of squared errors."""
    design = np.stack([column(n) for column in columns], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, f, rcond=None)
    return coefficients, ((design @ coefficients - f) ** 2).sum()


def two_laws(n, f):
    """Both forms of eq. 4 fitted to F1 values f at sizes n: {name: (function of n, coefficients)}."""
    (a, b), _ = fit_curve(n, f, [np.ones_like, np.log2])
    fits = {
        c: fit_curve(n, f, [np.ones_like, lambda x, c=c: -(x**-c)])
        for c in np.arange(0.05, 2.01, 0.05)
    }
    c = min(
        (c for c in fits if fits[c][0][0] <= 1), key=lambda c: fits[c][1], default=0.05
    )  # F1 levels off below 1
    (a_power, b_power), _ = fits[c]
    return {
        "straight line in log n": (lambda x: a + b * np.log2(x), (a, b)),
        "power law": (lambda x: a_power - b_power * x**-c, (a_power, b_power, c)),
    }


# %%
n, f = np.array(many, float), np.array([np.mean(curve[size]) for size in many])
laws = two_laws(n[:-1], f[:-1])
generator, again = random.Random(0), defaultdict(list)
long = [
    run for run in runs["random"].values() if len(run) >= len(many) - 1
]  # these have the larger sizes too
short = [run for run in runs["random"].values() if len(run) < len(many) - 1]
for _ in range(200):
    drawn = [run for some in (long, short) for run in generator.choices(some, k=len(some))]
    means = np.array(
        [
            np.mean([run[k][3] for run in drawn if k < len(run)])
            for k in range(len(many) - 1)
        ]
    )
    for name, (law, _) in two_laws(n[:-1], means).items():
        again[name].append(law(n[-1]))
line, power = (laws[name][1] for name in laws)
print(f"each doubling brings {100 * line[1]:.1f} points (line); "
      f"the power law levels off at {power[0]:.3f} (c = {power[2]:.2f})")  # fmt: skip
for name, (law, _) in laws.items():
    low, high = interval(again[name])
    print(f"{name:<24} foretells {law(n[-1]):.3f} ({low:.3f} to {high:.3f}, seeds resampled) for {many[-1]} abstracts; "
          f"measured {f[-1]:.3f}, {100 * (law(n[-1]) - f[-1]):+.1f} points off")  # fmt: skip

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.3))
for run in runs["random"].values():
    axes.plot([r[0] for r in run], [r[3] for r in run], color=COLOURS[0], alpha=0.25, lw=1)
error = [standard_error(values) for values in curve.values()]
axes.errorbar(
    n, f, error, marker="o", capsize=3, color=COLOURS[0], label="mean of the seeds ± SE"
)
grid = np.geomspace(n[0], 2 * n[-1], 100)
for k, (name, (law, _)) in enumerate(laws.items()):
    axes.plot(
        grid,
        law(grid),
        ls="--",
        lw=1.2,
        color=COLOURS[k + 1],
        label=f"{name}, fitted without the last",
    )
axes.set(
    xscale="log", xlabel="training abstracts", ylabel="F1 on the test abstracts, strict"
)
axes.set_xticks(many, [str(size) for size in many])
axes.minorticks_off()
axes.legend(fontsize=8, loc="lower right")
last = f[-1] - f[-2]
axes.set_title(f"From {many[-2]} to {many[-1]} abstracts: {100 * last:+.1f} points of F1")
plt.show()

# %% [markdown]
# The thin lines are single seeds: with few abstracts, much depends on *which* ones you happened to annotate (the line
# below the table says how much). That is why one seed proves nothing at the left end of such a curve. The errors shown
# hold that choice only: all seeds share one exam, whose own interval (section 4) comes on top and moves all points
# together. And this is one corpus and one value foretold, from a handful of means: that a law came near once does not
# make it a law for your corpus.
#
# ## 9. Which abstracts to annotate: active learning against chance
#
# **Question:** if the tagger may choose what is annotated next, how many abstracts does that save?
#
# **Active learning**: train on a few, ask the tagger which unannotated text it finds hardest, annotate that, train
# again. Here it is simulated: the annotation is there, hidden until asked for. The measure of hardness is the
# probability of the tagger's own best tag sequence $\hat y$, by "least confidence" (Culotta & McCallum 2005; Settles &
# Craven 2008):
#
# $$ \text{doubt}(x) = -\log p(\hat y \mid x), \qquad
# \text{doubt per token}(x) = \text{doubt}(x) / \text{tokens}(x) . \tag{5} $$
#
# A long text has a less probable best sequence because it is long. So the first form likes long abstracts, and long
# abstracts cost more to annotate. Whoever counts *abstracts* does not notice.
#
# **Predict before you run:** counted in abstracts, which strategy wins? Counted in tokens read?

# %%
for strategy in ["doubt", "doubt per token"]:
    runs[strategy] = {}
    for seed in tqdm(SEEDS, strategy):
        runs[strategy][seed] = list(grow(seed, strategy, few))


def gain_over_random(strategy, seed, k):
    """F1 above random choice at step k with the same seed: at equally many abstracts, and at equally many tokens."""
    _, tokens, _, f1 = runs[strategy][seed][k]
    chance = np.array(runs["random"][seed])
    return f1 - chance[k, 3], f1 - np.interp(
        np.log(tokens), np.log(chance[:, 1]), chance[:, 3]
    )


compared = []
print(
    f"{'strategy':<17}{'abstracts':>9}{'tokens':>8}{'mentions':>9}{'F1':>7}   above random, abstracts / tokens equal"
)
for strategy, by_seed in runs.items():
    for k, size in enumerate(few):
        _, tokens, mentions, f1 = np.mean([by_seed[seed][k] for seed in SEEDS], axis=0)
        text = ""
        if strategy != "random" and k:
            gains = 100 * np.array([gain_over_random(strategy, seed, k) for seed in SEEDS])
            se = gains.std(0, ddof=1) / np.sqrt(len(gains))
            text = " / ".join(f"{m:+.1f} ± {e:.1f}" for m, e in zip(gains.mean(0), se))
            compared += [
                (abs(m) > 3 * e, strategy, size, m) for m, e in zip(gains.mean(0), se)
            ]
        print(
            f"{strategy:<17}{size:>9}{tokens:>8,.0f}{mentions:>9,.0f}{100 * f1:>7.1f}   {text}"
        )
print(f"\nof {len(compared)} differences, beyond 3 standard errors (with {len(SEEDS)} seeds):",
      [f"{strategy}, {size} abstracts: {m:+.1f}" for far, strategy, size, m in compared if far] or "none")  # fmt: skip

# %%
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for axes, column, unit in zip(panels, (0, 1), ("abstracts", "tokens")):
    for k, strategy in enumerate(runs):
        length = len(few) + 1 if strategy == "random" else len(few)
        values = np.array(
            [runs[strategy][seed][:length] for seed in SEEDS]
        )  # (seeds, steps, 4)
        error = values[..., 3].std(0, ddof=1) / np.sqrt(len(SEEDS))
        axes.errorbar(values[..., column].mean(0), values[..., 3].mean(0), error, marker="o", capsize=3,
                      color=COLOURS[k], label=strategy)  # fmt: skip
    axes.set(xscale="log", xlabel=f"{unit} annotated")
    last = [100 * np.array([gain_over_random(name, seed, len(few) - 1)[column] for seed in SEEDS])
            for name in ("doubt", "doubt per token")]  # fmt: skip
    doubts, per_token = (f"{one.mean():+.1f} ± {standard_error(one):.1f}" for one in last)
    axes.set_title(
        f"At equal {unit}, last step: doubt {doubts},\ndoubt per token {per_token} points (SE)",
        fontsize=10,
    )
    ticks = np.mean(
        [[r[column] for r in run[: len(few) + 1]] for run in runs["random"].values()],
        axis=0,
    )
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
panels[0].set_ylabel("F1 on the test abstracts (± SE)")
panels[0].legend(fontsize=9)
plt.show()

# %%
chance = np.mean(
    [run[: len(few) + 1] for run in runs["random"].values()], axis=0
)  # (steps, 4), mean over the seeds
print(
    "to reach the F1 of the last step, random choice needs (gain ± 2 SE, read off its mean curve):"
)
for strategy in ("doubt", "doubt per token"):
    for column, unit in enumerate(("abstracts", "tokens")):
        used = np.mean([run[-1][column] for run in runs[strategy].values()])
        level = np.interp(np.log(used), np.log(chance[:, column]), chance[:, 3])
        gains = [gain_over_random(strategy, seed, len(few) - 1)[column] for seed in SEEDS]
        ends = [np.mean(gains) + k * standard_error(gains) for k in (-2, 0, 2)]
        low, middle, high = (
            np.exp(np.interp(level + end, chance[:, 3], np.log(chance[:, column])))
            for end in ends
        )
        verdict = (
            "fewer needed"
            if used < low
            else "more needed"
            if used > high
            else "nothing shown"
        )
        needed = f"random {middle:>8,.0f}, from {low:,.0f} to {high:,.0f}"
        print(f"   {strategy:<16}{used:>8,.0f} {unit:<10} {needed:<38} {verdict}")

# %% [markdown]
# Before you believe that one strategy wins, look at the standard errors: every seed starts all strategies from the same
# abstracts, so the differences are paired, but the seeds are few, and many differences are printed: some lie beyond two
# standard errors by chance. In the run shown one lies beyond three, and it speaks *against* doubt: its first choice, at
# equal tokens. Where the range of what random choice needs includes what the strategy used, nothing is shown to be
# saved. (With six seeds two standard errors are about a 90% interval, so "fewer needed" at the very edge is not much of
# a finding.) Look at the columns of tokens and mentions, too: what was chosen may be longer, or fuller of names, than a
# random choice, and an annotator's time is neither abstracts nor tokens. As in section 8, the errors hold the choice of
# training abstracts only, not that of the exam.
#
# This is a weak form of active learning. There are few rounds, and each doubles the training set; the tagger is asked
# about a random part of the pool, not about all of it; and nothing keeps it from choosing several abstracts on one
# thing. More rounds and batches chosen for variety might save more. What any simulation leaves out: the training set
# that was chosen *by this CRF* is tilted towards what this CRF finds hard and need not suit the next model; and a test
# set must never be chosen that way.
#
# ## 10. Sentences that stand in train and in test
#
# **Question:** are there test sentences that were trained on, and what do they do to the score?
#
# Two texts are the same here if they are equal without white space and without regard to case. Beside exact copies we
# look for **near copies**: at least half of a test sentence's runs of eight words stand in the training sentences.
#
# **Predict before you run:** BC2GM consists of single sentences from MEDLINE. How many of the test split's stand in
# train word for word: none, a few, or one in ten?


# %%
def runs_of(sentence, length=8):
    """All runs of `length` words, in lower case."""
    words = [word.lower() for word in sentence.words]
    return [tuple(words[k : k + length]) for k in range(len(words) - length + 1)]


def copies(train, test, share=0.5):
    """Numbers of the test sentences that are exact copies, and of those that are near copies only."""
    texts, known = (
        {squeezed(one.text) for one in train},
        {run for one in train for run in runs_of(one)},
    )
    exact = [k for k, one in enumerate(test) if squeezed(one.text) in texts]
    near = [
        k
        for k, one in enumerate(test)
        if (r := runs_of(one)) and sum(x in known for x in r) >= share * len(r)
    ]
    return exact, sorted(set(near) - set(exact))


found_copies = {}
print(f"{'corpus':<14}{'test sentences':>15}{'exact copies':>14}{'near copies':>13}")
for corpus in (bc5cdr, bc2gm, ncbi):
    exact, near = found_copies[corpus.name] = copies(corpus.train, corpus.test)
    print(f"{corpus.name:<14}{len(corpus.test):>15,}{len(exact):>14}{len(near):>13}")

# %% [markdown]
# Copies are few in these corpora, and most of them are scraps such as `Biol .` without any name; the line below says
# how many names they hold. First something that they are good for: the same sentence was annotated twice, once for each
# split. Do the two annotations agree? That is one more, rough, look at how far people agree. Then the effect: we train
# the CRF on a part of BC2GM twice, once with the twins of the copied test sentences and once with other sentences in
# their place, and score copies and other test sentences apart. (Where a corpus has hardly any, we plant some: the line
# says so.)

# %%
train_texts = defaultdict(list)
for one in bc2gm.train:
    train_texts[squeezed(one.text)].append(one)
exact = found_copies[bc2gm.name][0]
if len(exact) >= 10:
    pairs = [(train_texts[squeezed(bc2gm.test[k].text)][0], bc2gm.test[k]) for k in exact]
    texts = [(squeezed(a.text), squeezed(b.text)) for a, b in pairs]
    spans = [
        [{official_place(e, one.text) for e in one.entities} for one in pair]
        for pair in pairs
    ]
    agreed = f1_of(np.array([strict_by_hand(*pair) for pair in spans], float).sum(0))
    held = [len(one.entities) for _, one in pairs]
    print(
        f"{len(pairs)} real copies, {sum(map(bool, held))} of them with a name, {sum(held)} mentions in all"
    )
    print(f"the train annotation scored against the test annotation: F1 {100 * agreed:.1f}")
else:
    planted = random.Random(0).sample(bc2gm.test, min(15, len(bc2gm.test)))
    pairs = [(one, one) for one in planted]
    print(
        f"{len(exact)} real copies, too few: {len(pairs)} test sentences are planted in the training sentences"
    )

twins = [a for a, _ in pairs]
copied_texts = {squeezed(b.text) for _, b in pairs}
others = [one for one in bc2gm.test if squeezed(one.text) not in copied_texts]
others = others[: course.pick(test=100, cpu=1000, gpu=3000)]
clean = [one for one in gene_train if squeezed(one.text) not in copied_texts]
with_twins = train_crf([*clean[: max(len(clean) - len(twins), 1)], *twins])
without = train_crf(clean)

# %%
copied = [b for _, b in pairs]
effect = {}
for name, some in [("copied", copied), ("other", others)]:
    counts = [strict_rows(some, one.predict(some)) for one in (with_twins, without)]
    leaked, honest = (f1_of(one.sum(0)) for one in counts)
    low, high = interval(f1_of(bootstrap(counts[0])) - f1_of(bootstrap(counts[1])))
    effect[name] = [one.sum(0) for one in counts]
    print(f"{name:<7} test sentences ({len(some):>4}): F1 {leaked:.3f} with twins in training, {honest:.3f} without; "
          f"difference {leaked - honest:+.3f}, interval {low:+.3f} to {high:+.3f}")  # fmt: skip
rest = (
    effect["other"][1] * (len(bc2gm.test) - len(copied)) / len(others)
)  # counts, scaled up to all other sentences
moved = 100 * (f1_of(effect["copied"][0] + rest) - f1_of(effect["copied"][1] + rest))
mentions = [sum(len(one.entities) for one in some) for some in (copied, bc2gm.test)]
print(f"\ncopies are {len(copied) / len(bc2gm.test):.1%} of the test sentences and hold "
      f"{mentions[0] / mentions[1]:.1%} of the mentions; learnt by heart, they move the whole\nscore by about "
      f"{moved:+.2f} points (twins are {len(twins) / len(clean):.1%} of the sentences trained on here; "
      f"of all of train they would be {len(twins) / len(bc2gm.train):.1%})")  # fmt: skip

# %% [markdown]
# The difference on the copies is what memory is worth. Compare the score on copies that were trained on with how well
# the two annotations agree, where both are printed: in the run shown they are equal. The tagger has learnt the twins by
# heart, with whatever the annotators did differently the first time. With so few mentions all of this is rough, as the
# interval says. The whole score moves by about the difference times the copies' share of the *mentions*. That holds for
# a training set of the size used here: where the twins are a smaller part of it, the effect may be another.
#
# The dangerous leak is another: whole documents. A careless split by sentence puts neighbours of one abstract into
# train and test; and the 50 abstracts of section 2 stand in the training split. How good would the reading tool have
# looked, had we not checked?

# %%
leak = [one for one in bc5cdr.train if any(squeezed(one.text) in text for text in whole)]
if (
    not leak
):  # the course's own documents are in the test split: take their sentences from there
    leak = [one for one in bc5cdr.test if any(squeezed(one.text) in text for text in whole)]
leaky = train_crf([*train[: max(len(train) - len(leak), len(train) // 2)], *leak])
leaky_rows = strict_rows(reading, [read(leaky, one.text) for one in reading])
honest_rows = strict_rows(reading, found)
drawn = f1_of(bootstrap(leaky_rows)) - f1_of(bootstrap(honest_rows))
print(
    f"{len(reading)} abstracts; F1 of a tagger that was not trained on them: {f1_of(honest_rows.sum(0)):.3f}"
)
print(
    f"F1 of one that was, on their {len(leak)} sentences among others: {f1_of(leaky_rows.sum(0)):.3f}"
)
lift = f1_of(leaky_rows.sum(0)) - f1_of(honest_rows.sum(0))
print(f"difference {lift:+.3f}, paired interval over abstracts {interval(drawn).round(3)}")

# %% [markdown]
# No error message tells of such a leak, and the score it gives is the one people like to publish. Compare texts before
# you compare taggers; `copies` takes seconds.
#
# ## 11. Your own file
#
# **Question:** does any of this work on *your* entities?
#
# Every reader gives the same `Sentence`, and no part of the code knows the types beforehand. To show it we write a file
# about something that this course has nothing to do with, **minerals**, in CoNLL columns (a word and its tag on each
# line, an empty line after each sentence), and the same as JSONL and PubTator.

# %%
MINERALS = [
    "quartz", "albite", "pyrite", "galena", "olivine", "iron sulfide", "calcite", "dolomite", "potassium feldspar",
    "halite", "gypsum", "zircon", "rutile", "barite", "fluorite", "kyanite", "native copper", "magnetite", "hematite",
    "white mica", "augite", "talc", "beryl", "apatite",
]  # fmt: skip
PLACES = [
    "a granite",
    "the vein",
    "a thin section",
    "the basalt",
    "an old quarry",
    "the dry lake",
    "a drill core",
]
FORMS = [
    "{a} and {b} were seen in {place} .", "In {place} , grains of {a} surround {b} .", "No {a} occurs in {place} .",
    "{place} is rich in {a} but poor in {b} .", "We dated {a} from {place} .", "Samples of {place} were polished .",
    "The contact between {a} and {b} is sharp .", "X-ray patterns of {a} changed after heating .",
]  # fmt: skip
draw = random.Random(0)
lines = []
for _ in range(150):
    names = dict(zip("ab", draw.sample(MINERALS, 2)))
    for word in draw.choice(FORMS).replace("{place}", draw.choice(PLACES)).split():
        parts = names[word[1]].split() if word in ("{a}", "{b}") else [word]
        tags = (
            ["B-Mineral", *["I-Mineral"] * (len(parts) - 1)]
            if word in ("{a}", "{b}")
            else ["O"]
        )
        lines += [f"{part}\t{tag}" for part, tag in zip(parts, tags)]
    lines.append("")
folder = course.build / "nb12"
folder.mkdir(exist_ok=True)
(folder / "minerals.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
print("\n".join(lines[:20]))

# %%
# NBVAL_CHECK_OUTPUT
minerals = read_sentences(folder / "minerals.conll")
write_jsonl(minerals, folder / "minerals.jsonl")
write_pubtator(minerals, folder / "minerals.pubtator")
for name in ["minerals.jsonl", "minerals.pubtator"]:
    again = read_sentences(folder / name)
    assert [one.text for one in again] == [one.text for one in minerals]
    assert [one.entities for one in again] == [one.entities for one in minerals]
print(
    f"{len(minerals)} sentences, types {sorted({e.type for s in minerals for e in s.entities})}; three formats agree"
)

# %% [markdown]
# **Put the path of your file here.** `None` takes the minerals. Endings `.jsonl` and `.pubtator` (also `.pubtator.txt`)
# are read as that, everything else as CoNLL columns with the tag in the last one; `read_sentences(path, "pubtator")`
# says it outright. A line that cannot be read is named with its number and what was expected.

# %%
MY_FILE = None  # for example "my/annotations.conll"


# %%
def study(path, test_share=0.3, seed=0):
    """Split a file by document, train a CRF on one part, and report on the other what this notebook is about."""
    documents = defaultdict(list)
    for number, one in enumerate(read_sentences(path)):
        if one.tokens:
            documents[one.document or number].append(
                one
            )  # without a document's name each sentence is one
    order = list(documents.values())
    random.Random(seed).shuffle(order)
    cut = round(len(order) * test_share)
    test, train = (
        [one for document in some for one in document]
        for some in (order[:cut], order[cut:])
    )
    exact, near = copies(train, test)
    print(
        f"{len(train)} to train on, {len(test)} to test on; {len(exact)} exact and {len(near)} near copies left out"
    )
    test = [one for k, one in enumerate(test) if k not in {*exact, *near}]
    tagger = train_crf(train)
    predicted = tagger.predict(test)
    print(
        evaluate(
            test,
            predicted,
            groups=[one.document or number for number, one in enumerate(test)],
        )
    )
    for kind, table in share_by_novelty(test, predicted, novelty(train)).items():
        print(
            f"   recall of {kind:<12}{table[:, 0].sum():>5.0f} of {table[:, 1].sum():.0f}"
        )
    print("   errors:", dict(Counter(kind for kind, *_ in errors(test, predicted))))
    return tagger, test, predicted


my_tagger, my_test, my_predicted = study(MY_FILE or folder / "minerals.conll")
show_entities(my_predicted[:3], titles=["found 1", "found 2", "found 3"])

# %% [markdown]
# Sentences that are made from eight patterns are easy; a score near 1 is no wonder, and the copies that the first line
# counts show why such a file says nothing about a real text. If your sentences come from longer documents, say which:
# JSONL has a key `document` for it, and `study` then keeps each document on one side (section 10) and draws whole
# documents for the interval (section 4). Abstracts in PubTator form are one text each, which does the same.
#
# The tagger can be kept, loaded and used elsewhere. On the command line, without a notebook:
#
# ```sh
# python -m utils.ner.train --train mine.conll --dev mine-dev.conll --model crf --out models/mine
# python -m utils.ner.tag models/mine < texts.txt
# ```

# %%
my_tagger.save(folder / "my-crf")
again = load_tagger(folder / "my-crf")
assert again.predict(my_test) == my_predicted
print("saved, loaded, and the same predictions")
MY_TEXT = "Pyrite and native copper were found in the vein. No gypsum occurs in a granite."
print(read(again, MY_TEXT).entities)

# %% [markdown]
# ## 12. Check: the same thing in `utils`
#
# The rules and the intervals that you wrote by hand are those of `utils/ner/evaluation.py` and `utils/ner/bc2.py`, on
# what was predicted above and on random spans: counts exactly, F1 to twelve digits. (Section 4 has compared the
# intervals from blocks.)

# %%
# NBVAL_CHECK_OUTPUT
report = evaluate(test, test_found)
assert (report.correct, report.predicted, report.support) == tuple(rows.sum(0))
np.testing.assert_allclose(report.f1, f1_of(rows.sum(0)), rtol=1e-12)
np.testing.assert_allclose(
    report.intervals["f1"], interval(f1_of(bootstrap(rows))), rtol=1e-12
)
print("strict counts and bootstrap interval agree")

for predicted in gene_found.values():
    total = np.zeros(3)
    for one, other in zip(gene_test, predicted):
        sides = official.genes.get(one.id, []), official.alternatives.get(one.id, [])
        total += official_by_hand(
            *map(set, sides), {official_place(e, one.text) for e in other.entities}
        )
    theirs = evaluate(gene_test, predicted, "bc2", official=official, resamples=0)
    assert tuple(total) == (theirs.correct, theirs.predicted, theirs.support)
generator = random.Random(0)
for _ in range(2000):
    gold, accepted, predicted = (
        {
            (start := generator.randrange(20), start + generator.randrange(4))
            for _ in range(generator.randrange(5))
        }
        for _ in range(3)
    )
    assert official_by_hand(gold, accepted, predicted) == official_counts(
        list(gold), list(accepted), list(predicted)
    )
print("official counts agree")

# %% [markdown]
# ## 13. Play: how sure must it be?
#
# A curator wants few wrong entities, a search engine few missed ones. Keep only entities whose confidence is at least a
# **threshold**. First for two thresholds, then with a slider.


# %%
def kept_at(threshold):
    """Correct, predicted, gold when only entities of at least that confidence are kept."""
    keep = confidence >= threshold
    return np.array([right[keep].sum(), keep.sum(), rows[:, 2].sum()], float)


THRESHOLDS = np.linspace(0, 0.99, 100)
CURVE = np.array([kept_at(threshold) for threshold in THRESHOLDS])
RECALL, PRECISION = CURVE[:, 0] / CURVE[:, 2], CURVE[:, 0] / np.maximum(CURVE[:, 1], 1)


def draw_threshold(threshold=0.5):
    """Precision against recall for all thresholds, and where this one lies."""
    correct, predicted, gold = kept_at(threshold)
    figure, (left, middle) = plt.subplots(1, 2, figsize=(8.5, 3))
    left.plot(RECALL, PRECISION, color=COLOURS[0])
    left.plot(correct / gold, correct / max(predicted, 1), "o", color=COLOURS[1])
    left.set(xlabel="recall", ylabel="precision")
    left.set_title(
        f"Precision {correct / max(predicted, 1):.3f}, recall {correct / gold:.3f}"
    )
    edges = np.linspace(0, 1, 21)
    middle.hist([confidence[right], confidence[~right]], edges, stacked=True, color=COLOURS[:2],
                label=["right", "wrong"])  # fmt: skip
    middle.axvline(threshold, color="black", lw=1)
    middle.set(xlabel="confidence", ylabel="entities predicted")
    f1 = f1_of(np.array([correct, predicted, gold]))
    middle.set_title(f"Threshold {threshold:.2f} keeps {predicted:,.0f}: F1 {f1:.3f}")
    middle.legend()
    return figure


# %%
for threshold in (0.0, 0.9):
    draw_threshold(threshold)
    plt.show()
best = f1_of(CURVE).argmax()
print(
    f"F1 without a threshold {f1_of(CURVE)[0]:.4f}; highest {f1_of(CURVE)[best]:.4f}, at {THRESHOLDS[best]:.2f}"
)

# %%
play(draw_threshold, threshold=(0.0, 0.99, 0.01))

# %% [markdown]
# A threshold only removes: recall can fall and never rise. Is F1 ever higher than at 0? The line above the slider says
# it, chosen on these very test sentences, so it flatters. Where would you choose a threshold? (On `dev`.)
#
# ## 14. Exercises
#
# Write your answer in place of `raise NotImplementedError` and run the cell: `check` says whether it is right, and if
# not, which property is broken. Stuck? `hint("12.1")` gives a hint, each call the next one; `solution("12.1")` shows
# one answer. The same goes for the other numbers.
#
# ### 12.1 Right at one end
#
# Tsai et al. (2006) compare matching criteria, among them left-match and right-match: only that boundary has to be
# right, and the type. Each gold mention pays for one prediction at most, and each prediction counts once. Count the
# correct ones of a sentence, as many as can be paired.


# %%
def one_end_correct(gold, predicted, end):
    """How many predictions can be paired with a gold mention of the same type and the same `end`.

    gold, predicted: sets of (start, end, type) of one sentence. end: "left" compares starts, "right" ends.
    """
    raise NotImplementedError


check("12.1", one_end_correct)

# %% [markdown]
# ### 12.2 Is the difference real?
#
# You get the counts of two taggers on the same sentences, and which sentences were drawn for each resampled test set.
# Give the percentile interval of the difference in F1, second minus first, in percentage points.


# %%
def paired_interval(first, second, draws, confidence=0.95):
    """(low, high): percentile interval of F1 of `second` minus F1 of `first`, in percentage points.

    first, second: arrays (sentences, 3), counts (correct, predicted, gold) of two taggers on the same sentences.
    draws: whole numbers (draws, sentences), row k the sentences of the k-th resampled test set. F1 is 0 where
    nothing is predicted and nothing is gold. Quantiles are those of np.quantile.
    """
    raise NotImplementedError


check("12.2", paired_interval)

# %% [markdown]
# ### 12.3 Calibration without the bias
#
# Eq. 3 takes absolute values. Take squares instead, and the part that is due to chance can be subtracted. In a bin of
# $n_m$ predictions of which a share $\mathrm{acc}_m$ is right, chance alone gives
# $(\mathrm{acc}_m - \mathrm{conf}_m)^2$ an expected size; if all predictions of the bin have the same chance of being
# right, $\mathrm{acc}_m (1 - \mathrm{acc}_m) / (n_m - 1)$ estimates it without bias (Bröcker 2012; Ferro & Fricker
# 2012; Kumar et al. 2019). Return
#
# $$ \sum_m \frac{n_m}{n}\Big[(\mathrm{acc}_m - \mathrm{conf}_m)^2 -
# \frac{\mathrm{acc}_m (1 - \mathrm{acc}_m)}{n_m - 1}\Big], $$
#
# which can be negative.


# %%
def debiased_squared_error(confidence, right, bins):
    """Squared calibration error without the part that is due to chance; it can be negative.

    confidence: (n,) in [0, 1]. right: (n,) booleans. bins: list of index arrays, each index in one of them, at least
    two in each.
    """
    raise NotImplementedError


check("12.3", debiased_squared_error)

# %% [markdown]
# ### 12.4 A split that does not leak
#
# Sentences that share a run of `length` words are to stand on the same side, and so are those that hang together
# through others (A with B, B with C). Find the groups.


# %%
def groups_that_share(sentences, length):
    """Groups of sentences that hang together by shared runs of `length` words, directly or through others.

    sentences: list of lists of words. Returns a list of sets of sentence numbers; every number is in exactly one.
    """
    raise NotImplementedError


check("12.4", groups_that_share)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $P$, $R$, $F_1$ | `evaluate(gold, predicted, mode)` | eq. 1, by the rules "strict", "partial", "type", "bc2" |
# | | `official_by_hand` | counts by the rules of BioCreative II, with alternatives |
# | | `rows`, `bootstrap(rows)` | counts for each sentence; summed counts of resampled test sets |
# | | `in_blocks`, `groups` in `evaluate` | what is drawn together: neighbours, or documents |
# | $p_k$ | `tagger.predict_proba` | marginal probability of a tag at token $k$ |
# | | `confidence` | of an entity, $\min_k p_k$: upper bound of eq. 2 |
# | $\sigma$, $a$, $b$ | `scaled`, `platt` | inverse of the logit; Platt scaling |
# | $M$, $n_m$, $\mathrm{acc}_m$, $\mathrm{conf}_m$ | `bins_of`, `ece` | bins; size, share right, confidence; eq. 3 |
# | $a, b, c$ | `two_laws` | coefficients of a learning curve, eq. 4 |
# | $-\log p(\hat y \mid x)$ | `doubt(tagger, document)` | how hard a text is for the tagger, eq. 5 |
#
# 1. A score without its rules, its interval and its share of unseen names cannot be compared with anything.
# 2. Errors are counted in classes and read at random; confidences are checked against what chance alone would show.
# 3. What helps can be asked by simulation on annotation that exists: how many abstracts, chosen how; and a leak
#    between train and test undoes all of it without a sound.
#
# **Next:** [13 · Domain adaptation](13_domain_adaptation.ipynb): what to do when the texts to be read are of another
# kind than the annotated ones.
#
# ### References
# - Smith et al. 2008, *Overview of BioCreative II gene mention recognition*, Genome Biology 9: S2.
# - Li et al. 2016, *BioCreative V CDR task corpus*, Database, baw068. Doğan, Leaman, Lu 2014, *NCBI disease corpus*, J.
#   Biomed. Inform. 47: 1.
# - Lafferty, McCallum, Pereira 2001, *Conditional random fields*, ICML.
# - Efron 1979, *Bootstrap methods: another look at the jackknife*, Annals of Statistics 7: 1.
# - Yeh 2000, *More accurate tests for the statistical significance of result differences*, COLING.
# - Berg-Kirkpatrick, Burkett, Klein 2012, *An empirical investigation of statistical significance in NLP*, EMNLP-CoNLL.
# - Naeini, Cooper, Hauskrecht 2015, *Obtaining well calibrated probabilities using Bayesian binning*, AAAI.
# - Guo, Pleiss, Sun, Weinberger 2017, *On calibration of modern neural networks*, arXiv 1706.04599: section 2, eq. 3.
# - Kumar, Liang, Ma 2019, *Verified uncertainty calibration*, arXiv 1909.10155.
# - Roelofs, Cain, Shlens, Mozer 2022, *Mitigating bias in calibration error estimation*, arXiv 2012.08668; it cites
#   Bröcker 2012 and Ferro & Fricker 2012 for the debiased estimator.
# - Platt 1999, *Probabilistic outputs for support vector machines*, in Advances in Large Margin Classifiers.
# - Culotta, McCallum 2004, *Confidence estimation for information extraction*, HLT-NAACL.
# - Culotta, McCallum 2005, *Reducing labeling effort for structured prediction tasks*, AAAI.
# - Settles, Craven 2008, *An analysis of active learning strategies for sequence labeling tasks*, EMNLP.
# - Hestness et al. 2017, *Deep learning scaling is predictable, empirically*, arXiv 1712.00409.
# - Tsai et al. 2006, *Various criteria in the evaluation of biomedical named entity recognition*, BMC Bioinformatics 7:
#   92.
