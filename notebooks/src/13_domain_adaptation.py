# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 13 · Domain adaptation
#
# {{badge}}
#
# The texts that are to be read are seldom of the kind that was annotated. Here the annotated ones are abstracts, and
# the texts to be read are the eligibility criteria of clinical trials: short, lower-cased, hardly a verb. What does a
# tagger lose on the way, and what brings it back when only a few criteria can be annotated?
#
# **At the end you will have** measured how far five corpora lie apart; a matrix of taggers across corpora; ways of
# adapting a CRF and a Transformer, compared in one figure against the number of annotated criteria, every training
# shown: training on the criteria alone, joint training, feature augmentation (built by hand), a dictionary, fine-tuning
# from one corpus to the next, replay, continued pretraining (its masking built by hand) and self-training; and a
# measure of what a tagger forgets meanwhile.
#
# **You need** Python, and what F1 on spans, a CRF and a Transformer with a token head are (notebooks 09 and 11).
#
# **Time:** six minutes in the run shown, on two cores with bf16 instructions. Machines without them take two to four
# times as long: with one thread, beside other work, it was 24 minutes. No GPU is needed; the `gpu` profile takes larger
# samples and another encoder (not measured here). Without the public corpora only the machinery can be seen.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import copy
import itertools
import math
import random
from collections import Counter, defaultdict
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import t as student
from tqdm.auto import tqdm

pd.set_option("display.max_colwidth", None)  # tables show their texts whole

# %%
from utils.course import COLOURS, check, hint, play, solution  # noqa: F401
from utils.ner import (
    CRFTagger,
    Entity,
    Sentence,
    TransformerTagger,
    WordFeatures,
    continue_pretraining,
    evaluate,
    from_tags,
    load_corpus,
    load_lexicon,
)
from utils.ner.display import show_entities
from utils.ner.encoders import INSTALL, PUBMED, load_encoder, make_random_encoder
from utils.ner.pretraining import NOT_CHOSEN, mask_pieces

# %% [markdown]
# ## 1. How far apart are the texts?
#
# **Question:** what is a *domain*, in numbers?
#
# Five corpora. **WNUT17**: posts and comments from the web, with persons, places, products. **NCBI-disease**,
# **BC5CDR**, **BC2GM**: sentences of PubMed abstracts, with diseases, with chemicals and diseases, with genes. And the
# target, **ctp-eligibility**: criteria of clinical trials, from Facebook's Clinical Trial Parser, with numbers masked.
# Its splits are one file, shuffled and cut by sentence: criteria of one trial may stand on both sides, and 18 of the
# 982 test criteria stand word for word in the training split. So scores of taggers that learn from criteria are a
# little too good. Where a corpus is not at hand, the course's own small corpus stands in for it. Stand-ins for all of
# them are *one and the same* text: then there is no other domain, the target's training sentences are also the
# source's, and what follows only shows that the code runs. The last line says how it is here.

# %%
NAMES = {
    "WNUT17": "wnut17",
    "NCBI": "ncbi-disease",
    "BC5CDR": "bc5cdr",
    "BC2GM": "bc2gm",
    "criteria": "ctp-eligibility",
}
corpora = {name: load_corpus(whole) for name, whole in NAMES.items()}
criteria = corpora["criteria"]
stand_ins = [name for name in corpora if corpora[name].stands_in]
print("\nthe course's own corpus stands in for:", ", ".join(stand_ins) or "none")

# %%
shown = []
for number, name in enumerate(("NCBI", "BC5CDR", "criteria", "criteria")):
    short = [s for s in corpora[name].train if len(s.tokens) < 30 and len(s.entities) > 1]
    shown.append((name, random.Random(number).choice(short)))
show_entities([sentence for _, sentence in shown], titles=[name for name, _ in shown])

# %% [markdown]
# A distance between texts. Count words (in lower case) in both, so that $p$ and $q$ are their shares. The
# **Jensen-Shannon divergence** (Lin 1991) asks how much better each is coded on its own than by their mean,
#
# $$ D(p, q) = H\!\left(\frac{p + q}{2}\right) - \frac{H(p) + H(q)}{2}, \qquad
# H(p) = -\sum_w p_w \log_2 p_w , \tag{1} $$
#
# in bits, 0 for equal shares and 1 where no word is common. It has a trap: two samples of the *same* text do not agree
# either, because rare words are in one of them only, and the fewer words, the worse. So all samples have the same
# number of words, and each corpus is also compared with itself, one half with the other. That is the **floor**.
#
# **Predict before you run:** which of the other four is nearest to the criteria? Do you expect the abstracts to lie
# nearer to the criteria or to the posts?


# %%
def entropy(p):
    """H(p) in bits."""
    p = p[p > 0]
    return -(p * np.log2(p)).sum()


def divergence(first, second):
    """Eq. 1 of two lists of words."""
    counts = Counter(first), Counter(second)
    vocabulary = sorted({*first, *second})
    p, q = (np.array([c[word] for word in vocabulary]) / c.total() for c in counts)
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


# %%
WORDS = course.pick(test=1000, cpu=20_000, gpu=20_000)


def draw(sentences, count, seed=0):
    """`count` of the sentences at random, or all."""
    return random.Random(seed).sample(sentences, min(count, len(sentences)))


def words_of(sentences):
    """`WORDS` words of the sentences, in lower case."""
    words = [word.lower() for sentence in sentences for word in sentence.words]
    assert len(words) >= WORDS
    return words[:WORDS]


halves = {}
for name, corpus in corpora.items():
    order = draw(corpus.train, len(corpus.train))
    halves[name] = words_of(order[::2]), words_of(order[1::2])
apart = [[divergence(halves[a][0], halves[b][1]) for b in corpora] for a in corpora]
apart = np.array(apart)

# %% [markdown]
# **Check** against SciPy, whose function gives the square root:

# %%
# NBVAL_CHECK_OUTPUT
for first, second in [("WNUT17", "criteria"), ("NCBI", "BC5CDR")]:
    words = halves[first][0], halves[second][1]
    counts = [Counter(part) for part in words]
    p, q = ([c[word] for word in sorted({*words[0], *words[1]})] for c in counts)
    assert math.isclose(divergence(*words), jensenshannon(p, q, base=2) ** 2)
print("By hand and by SciPy: the same divergence.")

# %% [markdown]
# Three more measures. What share of the words of the criteria's test split does a sample of the corpus not have? What
# share of the *mentions* of conditions (all of a mention's words as one name) is no annotated mention of the corpus?
# And how do the texts look: words in a sentence, words with a capital, word pieces for each word.
#
# The pieces are those of the encoder that we shall use. **One constant chooses it.** `None` is the small
# all-MiniLM-L6-v2, a sentence encoder for general use, whose training pairs include titles and abstracts of papers; a
# name is looked for on the Hugging Face hub. On the `gpu` profile that is BiomedBERT (PubMedBERT's new name),
# pretrained on PubMed abstracts; you may set it on a CPU too, and wait. What cannot be had falls back to MiniLM, and
# without that to a small encoder with random weights, with which the cells run but mean nothing.

# %%
WANTED = course.pick(test=None, cpu=None, gpu=PUBMED)
FOLDER = course.build / "notebook13"
for ENCODER in dict.fromkeys([WANTED, None]):
    title = ENCODER or "all-MiniLM-L6-v2"
    try:
        encoder, tokenizer = load_encoder(ENCODER)
        break
    except OSError:
        print(f"{title} is neither here nor to be had")
else:
    title = "a small one with RANDOM weights"
    print("To get a real encoder:", INSTALL)
    texts = [sentence.text for sentence in corpora["BC5CDR"].train]
    ENCODER = make_random_encoder(FOLDER / "random-encoder", texts)
    encoder, tokenizer = load_encoder(ENCODER)
weights = sum(parameter.numel() for parameter in encoder.parameters())
print(f"encoder: {title}, {weights / 1e6:.1f} million weights")
del encoder  # each tagger below loads its own

# %%
# What counts as a condition in the criteria.
MAPPING = {"chronic_disease": "Disease", "cancer": "Disease"}
test_words = [word.lower() for sentence in criteria.test for word in sentence.words]
test_entities = [e for sentence in criteria.test for e in sentence.entities]
conditions = [e.text.lower() for e in test_entities if e.type in MAPPING]


def describe(sentences):
    """How the sentences look, in three numbers."""
    words = [word for sentence in sentences for word in sentence.words]
    texts = [sentence.text for sentence in sentences]
    pieces = tokenizer(texts, add_special_tokens=False)["input_ids"]
    capitals = np.mean([word != word.lower() for word in words])
    return {
        "words in a sentence": f"{len(words) / len(sentences):.1f}",
        "with a capital": f"{capitals:.0%}",
        "pieces a word": f"{sum(map(len, pieces)) / len(words):.2f}",
    }


# %%
unseen, rows = {}, {}
for name, corpus in corpora.items():
    vocabulary = {*halves[name][0]}
    unseen[name] = np.mean([word not in vocabulary for word in test_words])
    annotated = {e.text.lower() for sentence in corpus.train for e in sentence.entities}
    new = np.mean([text not in annotated for text in conditions])
    rows[name] = describe(draw(corpus.train, 1000)) | {
        "criteria: words not in sample": f"{unseen[name]:.0%}",
        "conditions not annotated": f"{new:.0%}",
    }
pd.DataFrame(rows).T


# %%
def draw_matrix(ax, values, names, digits, **look):
    """Numbers in colour and in writing."""
    picture = ax.imshow(values, **look)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if sum(picture.to_rgba(value)[:3]) < 1.5 else "black"
        text = f"{value:.{digits}f}"
        ax.text(column, row, text, ha="center", va="center", color=colour)
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names)
    ax.grid(False)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[3, 2])
draw_matrix(left, apart, list(corpora), 2, cmap="cividis_r", vmin=0, vmax=apart.max())
others = [name for name in corpora if name != "criteria"]
near = min(range(len(others)), key=lambda k: apart[k, -1])
bits, floor = apart[near, -1], max(apart[-1, -1], apart[near, near])
result = f"{others[near]}, {bits:.2f} bit (floor {floor:.2f})"
left.set_title(f"Nearest to the criteria: {result}")
right.barh(list(unseen), [100 * share for share in unseen.values()], color=COLOURS[0])
right.set_xlabel("per cent of the words in the criteria's test split")
right.invert_yaxis()
right.set_title(f"Words that a sample of {WORDS:,} does not have")
plt.show()

# %% [markdown]
# **What just happened.** Read the matrix against its diagonal: what is not clearly above the floor is no distance. A
# pair has two floors, one of each corpus; the larger of them is the careful choice. The floor is a little too low where
# sentences of one document fall into both halves, as with the abstracts of NCBI and BC5CDR. For the second prediction
# compare the row of WNUT17 with the row of the criteria. Words say nothing of labels, though, and labels are the second
# thing that differs.
#
# ### What is a condition?
#
# The criteria have fifteen types, made for another purpose. We want *Disease* as the abstracts have it, and call
# `chronic_disease` and `cancer` that. Is it the same thing? For each of the ten most frequent types: how many mentions
# are, word for word, a Disease or a Chemical of BC5CDR's training split; and mentions drawn at random.

# %%
known, mentions = defaultdict(set), defaultdict(list)
for sentence in corpora["BC5CDR"].train:
    for e in sentence.entities:
        known[e.type].add(e.text.lower())
for sentence in criteria.train:
    for e in sentence.entities:
        mentions[e.type].append(e.text)
rows = {}
for kind, texts in sorted(mentions.items(), key=lambda pair: -len(pair[1]))[:10]:
    rows[kind] = {"mentions": len(texts)}
    for other in ("Disease", "Chemical"):
        share = np.mean([text.lower() in known[other] for text in texts])
        rows[kind][other] = f"{share:.0%}"
    some = random.Random(3).sample(texts, min(4, len(texts)))
    rows[kind]["drawn at random"] = " | ".join(text[:28] for text in some)
pd.DataFrame(rows).T

# %% [markdown]
# Read the drawn mentions. `treatment` of the criteria holds drugs, but procedures and the bare word "treatment" too:
# calling it Chemical would ask for what no chemical tagger was taught, and we leave it out. `chronic_disease` and
# `cancer` have what any guideline calls a disease, and phrases for which guidelines differ: a whole class ("metabolic
# disorder"), adjectives inside or outside, conditions that exclude a patient ("serious illness"). The column *Disease*
# says how many are literally known; one that is not may be a new name or a phrase that BC5CDR's annotators would never
# have marked. A tagger that were perfect by BC5CDR's guideline would hardly reach F1 100 on this target. So part of
# what "adaptation" gains below may be learning the *guideline*, not the language; this is not measured here.


# %%
def renamed(sentences, names):
    """The sentences with the types in `names` renamed, and other entities left out."""
    changed = []
    for sentence in sentences:
        kept = [e for e in sentence.entities if e.type in names]
        new = [Entity(e.start, e.end, names[e.type]) for e in kept]
        changed.append(sentence.with_entities(new))
    return changed


def lower_letter(letter):
    """In lower case, but for a letter whose small form is longer, so that offsets hold."""
    return letter.lower() if len(letter.lower()) == 1 else letter


def lowered(sentences):
    """The same sentences in lower case."""
    changed = []
    for sentence in sentences:
        tokens = [(token.start, token.end) for token in sentence.tokens]
        entities = [Entity(*e.span) for e in sentence.entities]
        text = "".join(map(lower_letter, sentence.text))
        changed.append(Sentence(text, tokens, entities, sentence.id))
    return changed


# %%
SIZE = course.pick(test=40, cpu=200, gpu=4000)
# Of the criteria twice as many are tested: most is measured there.
TESTED = course.pick(test=30, cpu=150, gpu=1000)
DISEASES = {"Disease": "Disease"}
ONLY = {"NCBI": DISEASES, "BC5CDR": DISEASES, "criteria": MAPPING}
domains = ["WNUT17", *ONLY]
train, test, rows = {}, {}, {}
for name in domains:
    tested = TESTED * (1 + (name == "criteria"))
    train[name] = draw(corpora[name].train, SIZE)
    test[name] = draw(corpora[name].test, tested)
    if name in ONLY:  # WNUT17 keeps its types
        train[name] = renamed(train[name], ONLY[name])
        test[name] = renamed(test[name], ONLY[name])
    rows[name] = {
        "sentences to train on": len(train[name]),
        "to test on": len(test[name]),
        "mentions in these": sum(len(sentence.entities) for sentence in test[name]),
    }
low_train = {name: lowered(part) for name, part in train.items()}
low_test = {name: lowered(part) for name, part in test.items()}
pd.DataFrame(rows).T

# %% [markdown]
# ## 2. Zero-shot: what a tagger is worth elsewhere
#
# **Question:** train on one corpus, test on another: what is left?
#
# Two taggers: a CRF with few features (notebook 11 has more), and the encoder with a token head. Each learns from equal
# numbers of sentences of each corpus. WNUT17 has no diseases, so its types mean nothing on the others. To give it a
# fair hearing, types are ignored here: a prediction is right when it covers **exactly the right words, whatever it is
# called**.
#
# The criteria are in lower case (the mask `@NUMBER` apart, and where they are not stood in for). The simplest
# adaptation of all is to write the *training* text the same way. The CRF is trained both ways, and tested on text
# written likewise. The encoder's vocabulary has no capitals anyway, but `TransformerTagger` tells it how a word is
# written; here it gets lower-cased text throughout.
#
# **Predict before you run:** what does lower-casing cost at home, on NCBI and BC5CDR? What does it bring on the
# criteria? And which wins on the criteria, the tagger of NCBI or that of BC5CDR?

# %%
FEATURES = WordFeatures(window=1, affixes=4, grams=(), stems=False, pairs=False)
ITERATIONS = course.pick(test=30, cpu=50, gpu=100)
SOURCE_EPOCHS = course.pick(test=3, cpu=4, gpu=4)
FEW = 8  # sentences in a step, where there are few in all
BATCH = course.pick(test=FEW, cpu=16, gpu=32)
CELLS = 1024  # word pieces in a step, so that a few long sentences do not fill the memory
RATE = 5e-4 if weights < 5e7 else 1e-4  # small encoders bear higher rates than large ones


def train_crf(sentences, features=FEATURES):
    """A small CRF; the same sentences always give the same tagger."""
    crf = CRFTagger(features, c1=0.1, c2=0.01, iterations=ITERATIONS, progress=False)
    return crf.fit(sentences)


def train_encoder(sentences, epochs, seed=0, encoder=ENCODER, batch_size=BATCH):
    """The encoder with a new token head, all of it trained."""
    recipe = dict(epochs=epochs, learning_rate=RATE, batch_size=batch_size, seed=seed)
    recipe |= dict(shapes=True, batch_cells=CELLS, progress=False)
    return TransformerTagger(encoder, **recipe).fit(sentences)


def learn_few(sentences, epochs, seed, encoder=ENCODER):
    """The same from a few sentences: few in a step, or there would be no time to learn."""
    return train_encoder(sentences, epochs, seed, encoder, batch_size=FEW)


# %%
def untyped(sentences):
    """The same entities, all of one type."""
    spans = [[(e.start, e.end) for e in sentence.entities] for sentence in sentences]
    return [
        sentence.with_entities(Entity(*span, "any") for span in inside)
        for sentence, inside in zip(sentences, spans)
    ]


def f1(gold, predicted):
    """Exact spans and types, in per cent."""
    return 100 * evaluate(gold, predicted, resamples=0).f1


def row(tagger, tests):
    """F1 of a tagger on each test set, types ignored, and what it finds in the criteria."""
    found = {name: tagger.predict(part) for name, part in tests.items()}
    f1s = [f1(untyped(tests[name]), untyped(found[name])) for name in tests]
    return f1s, found["criteria"]


# %%
gold = low_test["criteria"]
matrices, on_criteria = {}, {}
for case, learn, tests in [
    ("CRF, as written", train, test),
    ("CRF, lower case", low_train, low_test),
]:
    rows = []
    for name in tqdm(domains, case):
        f1s, found = row(train_crf(learn[name]), tests)
        rows.append(f1s)
        on_criteria[f"CRF, trained on {name}"] = found  # the second kind replaces the first
    matrices[case] = np.array(rows)

# %%
rows = []
for name in tqdm(domains, "encoder"):
    tagger = train_encoder(low_train[name], SOURCE_EPOCHS)
    f1s, on_criteria[f"encoder, trained on {name}"] = row(tagger, low_test)
    rows.append(f1s)
    if name == "WNUT17":
        tagger.save_encoder(FOLDER / "wnut17")
    elif name == "BC5CDR":
        start_from = tagger  # the others are not needed any more
del tagger
matrices["encoder, lower case"] = np.array(rows)

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True)
for ax, (case, values) in zip(axes, matrices.items()):
    draw_matrix(ax, values, domains, 0, cmap="cividis", vmin=0, vmax=100)
    ax.tick_params(axis="x", rotation=30)
    ax.set_xlabel("tested on")
    *elsewhere, home = values[:, -1]
    best = int(np.argmax(elsewhere))
    result = f"to the criteria: {domains[best]}, {elsewhere[best]:.0f}; home {home:.0f}"
    ax.set_title(f"{case}\n{result}")
axes[0].set_ylabel("trained on")
figure.suptitle("F1 on exact spans, types ignored, per cent", fontsize=10)
plt.show()

# %% [markdown]
# What lower case changes in the F1 of the CRF:

# %%
change = (matrices["CRF, lower case"] - matrices["CRF, as written"])[1:, 1:]
trained_on = [f"trained on {name}" for name in domains[1:]]
pd.DataFrame(change.round(1), trained_on, [f"tested on {name}" for name in domains[1:]])

# %% [markdown]
# Where is the loss? A prediction that merely *touches* a gold condition is often a matter of borders. So for the
# criteria, the share of gold mentions that are touched by any prediction, and the share of predictions that touch any
# gold mention, beside the exact scores:


# %%
def touching(first, second):
    """The share of the entities in `first` that share a character with one in `second`."""
    found = []
    for here, there in zip(first, second):
        found += [any(e.overlaps(other) for other in there.entities) for e in here.entities]
    return np.mean(found) if found else 0.0


rows = {}
for name, found in on_criteria.items():
    score = evaluate(untyped(gold), untyped(found), resamples=0)
    exact = {"P": score.precision, "R": score.recall, "F1": score.f1}
    rows[name] = {
        "predicted": score.predicted,
        **{measure: f"{100 * value:.1f}" for measure, value in exact.items()},
        "P touching": f"{touching(found, gold):.0%}",
        "R touching": f"{touching(gold, found):.0%}",
    }
pd.DataFrame(rows).T

# %% [markdown]
# **What just happened.** Read along a row: so far a tagger falls from its score at home. Read down a column: what a
# tagger of that corpus itself would have had. Does the distance of section 1 order the sources, and does it do so for
# both taggers? In the run shown it does for the CRF, not for the encoder, which does better from NCBI than from BC5CDR,
# though that is nearer. The encoder of NCBI even passes the one trained on the criteria themselves: no score at home is
# a ceiling, where 200 sentences and few epochs are all a tagger has. Words are only one part of it. Many predictions
# touch a condition and miss its borders. Before you blame the guidelines, look at the rows trained on the criteria:
# there the guideline is the target's own, so a gap between touching and exact scores in those rows is the tagger's
# weakness with few sentences. Only what goes beyond it can be the guideline; in the run shown it is the encoder trained
# on the criteria that has the widest gap in precision. Each number is one training and one sample of test sentences.
# With about 200 gold mentions, as in the run shown, the luck of the test sentences alone is worth up to 7 points either
# way (roughly, as for a share; 95%). For two taggers on the same sentences part of it cancels out, which is not
# computed here: take small differences as not shown. Most effects of lower case are as small; but in the run shown the
# CRF of WNUT17 loses nearly all at home (16 to 2), so it leaned on capitals.
#
# From here on, the **source** is BC5CDR (diseases only) in lower case, the **target** the criteria. The choice does not
# follow the scores above: where another source did better on the criteria, what follows might start higher.

# %% [markdown]
# ## 3. A few annotated criteria: what to do with them
#
# **Question:** with $n$ annotated sentences of the target, which way of using them is best, and does it depend on $n$?
#
# How sure a score is, **seeds** say: each seed draws another sample of $n$ criteria (a larger sample contains the
# smaller, so the columns are not independent). For an encoder it also draws the random numbers of the training, and the
# weights of a head that is new; a CRF has none. Not varied: the source sentences, the one source tagger, the one
# encoder that read on, and the test sentences. Their luck does not show; that of the test sentences touches all lines,
# so *differences* between strategies of the same seed are what to look at.

# %%
SIZES = course.pick(test=[8, 16], cpu=[20, 40, 80], gpu=[20, 80, 320, 1280])
EPOCHS = dict(zip(SIZES, course.pick(test=[2, 1], cpu=[6, 4, 3], gpu=[20, 12, 6, 4])))
FRESH = 2  # times as many epochs where the head begins from random weights
CRF_SEEDS = range(course.pick(test=2, cpu=6, gpu=8))  # CRFs are cheap
SEEDS = CRF_SEEDS[: course.pick(test=2, cpu=3, gpu=5)]
UNLABELLED = course.pick(test=10, cpu=120, gpu=1000)
everything = lowered(renamed(criteria.train, MAPPING))
shuffled = {seed: draw(everything, len(everything), seed) for seed in CRF_SEEDS}
target = {(seed, n): shuffled[seed][:n] for seed in CRF_SEEDS for n in SIZES}
unlabelled = {seed: shuffled[seed][max(SIZES) :][:UNLABELLED] for seed in SEEDS}
source = low_train["BC5CDR"]
rows = {}
for n in SIZES:
    counts = [sum(len(s.entities) for s in target[seed, n]) for seed in CRF_SEEDS]
    rows[f"n = {n}"] = {
        "mentions on average": f"{np.mean(counts):.0f}",
        "epochs of the encoder": EPOCHS[n],
        "with a new head": FRESH * EPOCHS[n],
    }
pd.DataFrame(rows).T

# %% [markdown]
# ### With a CRF
#
# 1. **target only**.
# 2. **target + dictionary**: a list of diseases (the one that the line below names) is looked up, and each word is told
#    what was found. A list knows no domain.
# 3. **joint**: train on source and target together. With few target sentences the source may drown them, so
# 4. **joint, repeated**: the target sentences repeated until there are about as many as source sentences.
# 5. **augmented**: feature augmentation (Daumé III 2007). Every feature is there once for all domains, and once more
#    for its own domain alone.
#
# Feature augmentation turns the features $\phi(x)$ of a word into
#
# $$ \Phi_{\text{source}}(x) = \langle \phi(x), \phi(x), 0 \rangle, \qquad
# \Phi_{\text{target}}(x) = \langle \phi(x), 0, \phi(x) \rangle . \tag{2} $$
#
# What holds everywhere can be learnt in the first copy, from all sentences; what holds in one domain only, in its own.
# With features that are strings, that is one line: repeat each with the domain's name before it.
#
# **Predict before you run:** which of the five is best with the fewest sentences, and which with the most?


# %%
of_source = {tuple(sentence.words) for sentence in source}


def augmented(words):
    """Eq. 2: each feature, and once more with the sentence's domain before it."""
    domain = "source" if tuple(words) in of_source else "target"
    return [found + [f"{domain}:{name}" for name in found] for found in FEATURES(words)]


diseases = load_lexicon("diseases")
looked_up = WordFeatures(**FEATURES.options, lexicons=[diseases])


def crf_strategies(few):
    """(strategy, tagger trained by it) for a few target sentences."""
    yield "CRF: target only", train_crf(few)
    yield "CRF: target + dictionary", train_crf(few, looked_up)
    yield "CRF: joint", train_crf(source + few)
    yield "CRF: joint, repeated", train_crf(source + few * max(1, len(source) // len(few)))
    yield "CRF: augmented", train_crf(source + few, augmented)


# %%
# NBVAL_CHECK_OUTPUT
words = source[0].words
for plain, both in zip(FEATURES(words), augmented(words)):
    assert both == plain + [f"source:{name}" for name in plain]
assert augmented(["no", "such", "sentence"])[0][-1].startswith("target:")
print("Every feature is there twice, once for all domains and once for its own.")

# %%
scores = defaultdict(lambda: defaultdict(list))  # strategy -> n -> F1 for each seed
for seed, n in tqdm(list(target), "CRFs"):
    for strategy, tagger in crf_strategies(target[seed, n]):
        scores[strategy][n].append(f1(gold, tagger.predict(gold)))


# %%
def paired(values, others):
    """The mean difference, seed by seed, and half of its 95% interval (Student's t)."""
    gaps = np.subtract(values, others)
    half = student.ppf(0.975, len(gaps) - 1) / math.sqrt(len(gaps))
    return gaps.mean(), half * gaps.std(ddof=1)


def score_table(family, baseline):
    """Mean F1 of each strategy by n, and its paired difference to the baseline."""
    table = defaultdict(dict)
    for strategy in [name for name in scores if name.startswith(family)]:
        for n in SIZES:
            gap, half = paired(scores[strategy][n], scores[baseline][n])
            star = "*" if abs(gap) > half else ""
            note = f" ({gap:+.1f} ± {half:.1f}{star})" if strategy != baseline else ""
            table[f"n = {n}"][strategy] = f"{np.mean(scores[strategy][n]):.1f}{note}"
    print(f"mean F1 of {len(scores[baseline][n])} seeds; in brackets: difference to")
    print(f'"{baseline}" of the same seed, ± half of its 95% interval; * does not hold 0')
    return pd.DataFrame(table)


score_table("CRF", "CRF: target only")

# %% [markdown]
# **What just happened.** Daumé III offers augmentation for the case that the target sentences alone already do slightly
# better than the source alone. Compare *target only* with the dashed line of the figure below: where it lies under it,
# the method is tried outside its own condition. All have the same penalties, though augmentation doubles the features
# and repeating weighs the target's sentences more. And the dictionary is knowledge that the others did not get; both
# together were not tried. How much the source drowns anything, the difference between *joint* and *joint, repeated*
# says.
#
# The intervals use Student's $t$ with few degrees of freedom: a difference earns its star when it is large and steady
# enough for so few seeds. A difference without one is *not shown*, which is not the same as absent. With stars one has
# to be careful in the other direction: many differences are looked at, and where there is none in truth, one in twenty
# still gets a star by chance. Each star compares with *target only*. Which of joint training and feature augmentation
# is better, say, is another question, with its own paired differences, which this table does not give.
#
# ### With an encoder
#
# 1. **target only**: the pretrained encoder, a new head.
# 2. **pretrained on** (pretraining goes on): the encoder first reads *unlabelled* text, two thirds of it of the target,
#    then as 1.
# 3. **fine-tuned**: begin with the tagger that was trained on the source, go on with the target. "Sequential transfer".
# 4. **with replay**: the same, but half as many source sentences as target sentences are mixed in. Joint training,
#    begun at the source tagger; section 4 says what it is for.
# 5. **self-training**: begin with 3 as a teacher; it labels unlabelled target sentences, and goes on with those that it
#    is sure of.
#
# They do not train equally long. Replay takes about half as many steps again as 3, self-training goes on training
# after 3, and 1 and 2 have twice the epochs. A gain of 4 or 5 over 3 can be the longer training; to tell, 3 would have
# to be given as many steps.
#
# **Continued pretraining** (Gururangan et al. 2020) uses BERT's task: some pieces are hidden, and the encoder has to
# say what stood there. Of all pieces 15% are chosen; of these 80% become `[MASK]`, 10% a random piece, and 10% stay as
# they are (Devlin et al. 2019, section 3.1). By hand (in the example 30% are chosen, so that there is more to see):


# %%
def my_mask(ids, special, mask_id, count, share, generator):
    """(what is read, what has to be said): NOT_CHOSEN where nothing is asked."""
    draw = torch.rand(ids.shape, generator=generator)
    anything = torch.randint(count, ids.shape, generator=generator)
    chosen = (draw < share) & ~special
    # Below the share, the same number also says which of the three it is: 80%, 10%, 10%.
    read = torch.where(draw < 0.9 * share, ids, anything)
    read = torch.where(draw < 0.8 * share, mask_id, read)
    return torch.where(chosen, read, ids), torch.where(chosen, ids, NOT_CHOSEN)


text = max(gold[:20], key=lambda sentence: len(sentence.tokens)).text
ids = torch.tensor([tokenizer(text)["input_ids"]])
special = torch.isin(ids, torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
sizes = tokenizer.mask_token_id, len(tokenizer)
read, wanted = my_mask(ids, special, *sizes, 0.3, torch.Generator().manual_seed(1))
asked = tokenizer.convert_ids_to_tokens(wanted[wanted != NOT_CHOSEN].tolist())
print("read:  ", tokenizer.decode(read[0]))
print("wanted:", ", ".join(asked))

# %%
# NBVAL_CHECK_OUTPUT
ids = torch.randint(2000, (50, 60), generator=torch.Generator().manual_seed(0))
case = ids, ids < 100, 3, 2000, 0.15
for seed in range(20):
    mine = my_mask(*case, torch.Generator().manual_seed(seed))
    theirs = mask_pieces(*case, torch.Generator().manual_seed(seed))
    assert all(map(torch.equal, mine, theirs))
print("By hand and by utils: the same pieces masked.")

# %% [markdown]
# The text to read on: criteria of the training split, and half as many sentences of abstracts. Their labels are not
# looked at. All are from training splits (a few criteria stand word for word in the test split too, see section 1).

# %%
READ = course.pick(test=20, cpu=300, gpu=10_000)
raw = draw(everything, READ, 1) + lowered(draw(corpora["NCBI"].train, READ // 2, 1))
held_out = lowered(draw(criteria.dev, 100))
recipe = dict(epochs=course.pick(test=1, cpu=2, gpu=3), batch_size=16, batch_cells=CELLS)
history = continue_pretraining(
    raw, FOLDER / "read-on", ENCODER, dev=held_out, progress=False, **recipe
)
losses = ", ".join(f"{-epoch['score']:.2f}" for epoch in history)
print(f"{len(raw):,} sentences read; loss on the criteria's dev split by epoch: {losses}")
blind = math.log(len(tokenizer))
print(f"nats for each hidden piece; guessing among all pieces would cost {blind:.2f}")

# %% [markdown]
# (Nats: the loss takes logarithms to base e.) Blind guessing is a weak yardstick: whoever knows only how frequent each
# piece is does better. MiniLM comes without a trained head for this task, so much of this short reading goes into the
# head, which is thrown away afterwards. Gururangan et al. read far more text, or the task's own text for many more
# epochs, and measured classification, not NER. If *pretrained on* gains nothing here, that says nothing about the
# method.
#
# **Self-training** (Yarowsky 1995): the teacher's own labels become training labels. (Yarowsky repeats this, and may
# take labels back; here it is one round.) Wrong ones can do harm, so we keep the sentences of which the teacher is
# sure: with $p_k(y)$ its probability of tag $y$ at word $k$,
#
# $$ \text{confidence}(x) = \prod_k \max_y p_k(y) \ge 0.9 . \tag{3} $$
#
# Since these sentences do have labels, hidden from the teacher, we can measure how many of the kept ones are right.
#
# **Predict before you run:** will the kept sentences be like the others? Which sentences is a tagger sure of?

# %%
THRESHOLD = 0.9


def pseudo(teacher, sentences):
    """The sentences with the teacher's labels, and eq. 3 of each."""
    labels, confidence = [], []
    for sentence, rows in zip(sentences, teacher.predict_proba(sentences)):
        tags = [teacher.tags[k] for k in rows.argmax(1)]
        labels.append(from_tags(sentence, tags, teacher.scheme))
        confidence.append(rows.max(1).prod())
    return labels, np.array(confidence)


def adapt(tagger, sentences, epochs, seed):
    """A copy of a tagger, trained further on other sentences."""
    tagger = copy.deepcopy(tagger)
    changed = dict(epochs=epochs, seed=seed, batch_size=FEW, learning_rate=0.4 * RATE)
    tagger.recipe = replace(tagger.recipe, **changed)
    return tagger.fine_tune(sentences)


# %%
labelled = {}  # (seed, n) -> the teacher's labels, and its confidence
STUDENT_EPOCHS = course.pick(test=1, cpu=1, gpu=2)


def encoder_strategies(seed, n):
    """(strategy, tagger trained by it)."""
    few, epochs = target[seed, n], EPOCHS[n]
    yield "encoder: target only", learn_few(few, FRESH * epochs, seed)
    yield "encoder: pretrained on", learn_few(few, FRESH * epochs, seed, FOLDER / "read-on")
    teacher = adapt(start_from, few, epochs, seed)
    yield "encoder: fine-tuned", teacher
    replayed = few + draw(source, n // 2, seed)
    yield "encoder: with replay", adapt(start_from, replayed, epochs, seed)
    labels, sure = labelled[seed, n] = pseudo(teacher, unlabelled[seed])
    kept = [labels[k] for k in np.flatnonzero(sure >= THRESHOLD)]
    yield "encoder: self-training", adapt(teacher, few + kept, STUDENT_EPOCHS, seed)


# %%
# What is forgotten is measured on the source's own test sentences.
home, home_f1 = low_test["BC5CDR"], defaultdict(lambda: defaultdict(list))
for seed, n in tqdm([(seed, n) for seed in SEEDS for n in SIZES], "encoders"):
    for strategy, tagger in encoder_strategies(seed, n):
        scores[strategy][n].append(f1(gold, tagger.predict(gold)))
        if strategy in ("encoder: fine-tuned", "encoder: with replay"):
            home_f1[strategy][n].append(f1(home, tagger.predict(home)))
        del tagger  # or two would be kept while the next one is trained

# %%
score_table("encoder", "encoder: target only")

# %%
score_table("encoder", "encoder: fine-tuned")

# %%
ENCODERS = [name for name in scores if name.startswith("encoder")]
pairs = {
    frozenset((name, baseline))
    for name in ENCODERS
    for baseline in ("encoder: target only", "encoder: fine-tuned")
    if name != baseline
}
differences = [paired(*(scores[name][n] for name in pair)) for pair in pairs for n in SIZES]
stars = sum(abs(gap) > half for gap, half in differences)
print(
    f"in both tables {len(differences)} different differences, {stars} with a star;",
    end=" ",
)
print(f"where there is no difference, chance gives about {0.05 * len(differences):.0f}")

# %% [markdown]
# A mean of so few trainings can hide what they were, so here is each of them. Fine-tuning an encoder on few sentences
# is known to be **unstable**: with the same settings, another seed alone can make a training break down (Mosbach et al.
# 2021, who find vanishing gradients behind it). A sign of it where a training *begins* with a tagger: it ends below the
# tagger that it began with.

# %%
FAMILIES = ("CRF", "encoder")


def on_the_criteria(corpus):
    """F1 on the criteria of the CRF and of the encoder that were trained on a corpus."""
    found = {family: on_criteria[f"{family}, trained on {corpus}"] for family in FAMILIES}
    return {family: f1(gold, predicted) for family, predicted in found.items()}


zero, full = on_the_criteria("BC5CDR"), on_the_criteria("criteria")
rows = {}
for name in ENCODERS:
    rows[name] = {
        f"n = {n}": ", ".join(f"{value:.1f}" for value in scores[name][n]) for n in SIZES
    }
    below = sum(value < zero["encoder"] for n in SIZES for value in scores[name][n])
    rows[name][f"below {zero['encoder']:.1f}"] = f"{below} of {len(SIZES) * len(SEEDS)}"
print(
    f"F1 of each seed. The source tagger has {zero['encoder']:.1f}; *fine-tuned* and *with"
)
print("replay* begin there, *self-training* goes on from *fine-tuned*.")
pd.DataFrame(rows).T

# %% [markdown]
# **The figure.** Points: single trainings; lines: their means. Dashed: the source tagger, no target sentence at all; a
# strategy below it would have done better to use that tagger as it is. Dotted: a tagger trained on as many sentences of
# the target as the source tagger had of the source. It is one training with the settings of section 2, and no ceiling:
# for the encoder its epochs, and the sentences in a step, are not those of *target only*, and the CRF's dictionary is
# knowledge that it did not have; so a strategy with fewer target sentences can lie above it.


# %%
def draw_curves(ax, strategies):
    """F1 of each training against the number of sentences, and a line through the means."""
    for k, strategy in enumerate(strategies):
        values = np.array([scores[strategy][n] for n in SIZES])
        # Side by side, or the points would hide each other.
        x = np.array(SIZES) * 1.04 ** (k - len(strategies) / 2)
        look = dict(marker="osD^v"[k], color=COLOURS[k])
        ax.plot(x, values, **look, markersize=4, alpha=0.6, linestyle="")
        label = strategy.split(": ")[1]
        ax.plot(x, values.mean(1), color=COLOURS[k], linewidth=1.2)
        ax.plot([], [], **look, markersize=4, linewidth=1.2, label=label)


def title_of(family, strategies):
    """The strategies with the highest mean for the fewest and for the most sentences."""
    parts = []
    for n in (SIZES[0], SIZES[-1]):
        means = {name: np.mean(scores[name][n]) for name in strategies}
        top = max(means, key=means.get)
        gain = means[top] - means[strategies[0]]
        parts.append(f"at n = {n}: {top.split(': ')[1]} ({gain:+.1f}")
    return f"{family}, highest mean {parts[0]})\n{parts[1]} over target only)"


# %%
full_size = len(low_train["criteria"])
figure, axes = plt.subplots(1, 2, figsize=(10.5, 5), sharey=True)
for ax, family in zip(axes, FAMILIES):
    strategies = [strategy for strategy in scores if strategy.startswith(family)]
    draw_curves(ax, strategies)
    line = dict(color="black", linewidth=1)
    ax.axhline(zero[family], ls="--", label="no target sentence", **line)
    ax.axhline(full[family], ls=":", label=f"{full_size} target sentences", **line)
    ax.set(xscale="log", xlabel="annotated target sentences")
    ax.set_xticks(SIZES, [str(n) for n in SIZES])
    ax.minorticks_off()
    ax.set_title(title_of(family, strategies))
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
axes[0].set_ylabel("F1 on the criteria's test sentences")
plt.show()
print(f"{len(CRF_SEEDS)} seeds (CRF), {len(SEEDS)} (encoder); {len(gold)} test sentences")

# %% [markdown]
# Were the teacher's labels right? For the *kept* sentences and for all of them: the share in which the teacher found
# any condition; its labels and their precision; the hidden gold conditions in these sentences and the recall of them.


# %%
def labels_above(n, threshold):
    """The teachers' labels of at least this confidence, and the gold ones; all seeds."""
    labels, truth = [], []
    for seed in SEEDS:
        found, sure = labelled[seed, n]
        kept = np.flatnonzero(sure >= threshold)
        labels += [found[k] for k in kept]
        truth += [unlabelled[seed][k] for k in kept]
    return labels, truth


def share(part, whole):
    return f"{part / whole:.0%}" if whole else "-"


# %%
rows = {}
for n, (which, threshold) in itertools.product(SIZES, [("kept", THRESHOLD), ("all", 0)]):
    labels, truth = labels_above(n, threshold)
    score = evaluate(truth, labels, resamples=0)
    rows[f"n = {n}, {which}"] = {
        "sentences": len(labels),
        "any found": share(sum(bool(s.entities) for s in labels), len(labels)),
        "labels": score.predicted,
        "precision": share(score.correct, score.predicted),
        "conditions": score.support,
        "recall": share(score.correct, score.support),
    }
pd.DataFrame(rows).T

# %% [markdown]
# **What just happened.** The kept labels ought to be right more often than all of them: compare the two precisions, but
# look first at how few labels a precision rests on. In the run shown the kept sentences hold one label in all, so there
# is nothing to compare: nearly all that the students learn from are sentences that the teachers call empty. A kept
# sentence without a label is a statement too, that there is no condition; the recall says how many conditions such
# silence denies. Compare the shares of sentences with any condition too. A tagger can be sure that a sentence has none
# long before it is sure of both ends of a long name; and eq. 3 is a product over the words, so a short sentence passes
# more easily (not measured here). Then what is kept is emptier than the text, and the student learns from its teacher's
# silence. Exercise 13.3 is about that.
#
# **Read the figure** together with its tables. Points that mix do not say that two strategies are equal: the paired
# difference is the sharper tool, and where it has no star, more seeds might show one. A title names the highest of five
# means, which is partly the luckiest: look up in the table whether its gain has a star, and do not read a ranking out
# of it. The line printed below the tables says how many stars chance alone may give. The luck of the test sentences,
# the same for all, does not show.
#
# **Single trainings.** Where a point of *fine-tuned* lies far below the others of its column, that training has broken
# down. Then the mean stands where no training was, the intervals of the second table, which compares with it, become so
# wide that nothing can have a star, and neither says what fine-tuning gives when it works. No seed is left out or
# replaced here. In the run shown five of the nine fine-tuned trainings end below the tagger that they began with, one
# of them at 0. Three trainings for each $n$ are too few to say how often it happens, but one is enough to know that it
# does. Self-training goes on from these very taggers. Where it stands high again, the training was at fault, not the
# sentences. Whether replay, which begins where *fine-tuned* begins, is steadier, so few seeds do not show. Mosbach et
# al. recommend small rates that rise slowly at first, and many more passes; that is not tried here. If you fine-tune on
# a few dozen sentences, train several seeds and look at each.
#
# **How the encoder's settings came about** does not show either. Rates for *target only* were tried on dev
# sentences (one seed). A first full run of this notebook with the `cpu` sizes then gave *target only* a rate of 1e-3
# and few epochs; it did worse with the most sentences than with fewer. After seeing that run's scores on these very
# test sentences, the rates of all encoder strategies and of the source taggers were lowered, and epochs were raised,
# doubled where a new head begins. So the encoder's scores are not those of an untouched test, and the gap between
# *target only* and the others depends strongly on these settings: in the first run it was much larger. The CRF's
# settings were not changed after that run. (Numbers of sentences, and the epochs with the fewest, were cut once more
# later, to save time.) For a claim, choose settings on dev and score once on test sentences that
# nobody has looked at.
#
# ## 4. From one to the next, and what is forgotten
#
# **Question:** does a step through general text help, and what becomes of the source?
#
# **The chain**: general (WNUT17), then biomedical (BC5CDR), then the criteria. The types of WNUT17 are of no use to the
# next step, so only the encoder is handed on, with a new head. Four ways to the same $n$ criteria.
#
# **Predict before you run:** is WNUT17, annotated for other types, a better start than the pretrained encoder itself?

# %%
MIDDLE = SIZES[1]
both = train_encoder(source, SOURCE_EPOCHS, encoder=FOLDER / "wnut17")
from_wnut17, from_both = [], []
for seed in tqdm(SEEDS, "chains"):
    few, epochs = target[seed, MIDDLE], EPOCHS[MIDDLE]
    tagger = learn_few(few, FRESH * epochs, seed, FOLDER / "wnut17")
    from_wnut17.append(f1(gold, tagger.predict(gold)))
    from_both.append(f1(gold, adapt(both, few, epochs, seed).predict(gold)))
print(f"no target sentence: after BC5CDR {zero['encoder']:.1f},", end=" ")
print(f"after WNUT17 and BC5CDR {f1(gold, both.predict(gold)):.1f}")

# %%
alone = scores["encoder: target only"][MIDDLE]
from_bc5cdr = scores["encoder: fine-tuned"][MIDDLE]
chains = {  # F1 for each seed, and of what it is compared with
    "criteria": (alone, alone),
    "WNUT17, criteria": (from_wnut17, alone),
    "BC5CDR, criteria": (from_bc5cdr, alone),
    "WNUT17, BC5CDR, criteria": (from_both, alone),
}
rows = {}
for name, (values, others) in chains.items():
    gap, half = paired(values, others)
    over = f"{gap:+.1f} ± {half:.1f}" if name != "criteria" else ""
    each = ", ".join(f"{value:.1f}" for value in values)
    rows[name] = {"mean F1": f"{np.mean(values):.1f}", "each seed": each}
    rows[name]["over criteria alone"] = over
gap, half = paired(from_both, from_bc5cdr)
print(f"n = {MIDDLE}; WNUT17 before BC5CDR, against BC5CDR alone: {gap:+.1f} ± {half:.1f}")
pd.DataFrame(rows).T

# %% [markdown]
# **What just happened.** ± is half of the 95% interval of the paired difference, as in section 3. Where it is larger
# than the difference, the step is shown neither to help nor to harm. *BC5CDR, criteria* are the fine-tuned trainings of
# section 3, whatever became of them: look at each seed before you compare means. The scores *no target sentence* are of
# one training each. And a longer chain is more training, not only other text.
#
# **Forgetting** (McCloskey & Cohen 1989: catastrophic interference): the fine-tuned tagger had learnt BC5CDR. What is
# left? We tested every fine-tuned tagger on BC5CDR's test sentences too, and those with replay, which saw half as many
# source sentences as target ones in every epoch.
#
# **Predict before you run:** how many points does the source lose? Does replay cost the target anything?

# %%
before = f1(home, start_from.predict(home))
print(f"before: BC5CDR {before:.1f}, criteria {zero['encoder']:.1f}")


def mean_and_error(values):
    return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


times = student.ppf(0.975, len(SEEDS) - 1)
rows = {}
for strategy, n in itertools.product(home_f1, SIZES):
    here, there = (mean_and_error(values[strategy][n]) for values in (home_f1, scores))
    change = here[0] - before
    rows[f"{strategy.split(': ')[1]}, n = {n}"] = {
        "BC5CDR": "{:.1f} ± {:.1f}".format(*here),
        "change": f"{change:+.1f}",
        f"shown (beyond {times:.1f} errors)": "yes"
        if abs(change) > times * here[1]
        else "no",
        "criteria": "{:.1f} ± {:.1f}".format(*there),
    }
pd.DataFrame(rows).T

# %%
figure, ax = plt.subplots(figsize=(7, 4))
ax.plot(zero["encoder"], before, "*", color="black", markersize=13, label="source tagger")
ax.axvline(zero["encoder"], color="grey", linewidth=0.8, linestyle=":")
ax.axhline(before, color="grey", linewidth=0.8, linestyle=":")
lost = []
for (strategy, by_size), colour, mark in zip(home_f1.items(), COLOURS, "os"):
    name, both_lost = strategy.split(": ")[1], 0
    for i, n in enumerate(SIZES):
        x, y = np.array(scores[strategy][n]), np.array(by_size[n])
        both_lost += sum((x < zero["encoder"]) & (y < before))
        label = name if i == len(SIZES) - 1 else None
        look = dict(color=colour, markersize=4 + 3 * i, alpha=0.6, label=label)
        ax.plot(x, y, mark, **look)
    lost.append(f"{both_lost} {name}")
ax.set(xlabel="F1 on the criteria (target)", ylabel="F1 on BC5CDR (source)")
ax.set_title(
    f"Trainings that lost on both, of {len(SIZES) * len(SEEDS)} each: {', '.join(lost)}"
)
ax.legend(title=f"larger mark: larger n ({', '.join(map(str, SIZES))})", title_fontsize=9)
plt.show()

# %% [markdown]
# **What just happened.** Each mark is one training. From the star to the right is learning, downwards is forgetting. In
# the run shown nine of the twelve marks to the right lie higher than the star as well: who learnt the criteria mostly
# kept or bettered BC5CDR. Most of what the means in the table have lost comes from the trainings on the left. Left
# *and* down is neither: where a tagger has lost on the target too, its training has broken down (section 3), and its
# loss on the source must not be called forgetting, nor a second guideline learnt. Such trainings are in the means of
# the table, too. There ± is one standard error, not half of a 95% interval; the column *shown* applies Student's $t$.
# More target sentences need not mean more forgetting: the epochs differ with $n$ (the largest sample still takes the
# most steps), and a source tagger that was not trained to its end may gain on the source while it goes on with similar
# text. Where the target has gained, some of a loss on the source can also be a second guideline learnt: whoever leaves
# out what the annotators of the criteria leave out is wrong by BC5CDR's rules. We did not separate the two. What replay
# costs or brings on the target is in the second table of the encoder in section 3; mind that with replay an epoch has
# half as many sentences again, so that tagger is also trained for more steps. Where the guidelines contradict each
# other, no tagger can follow both with one label *Disease*. Features of a word's own domain (eq. 2), or a label for
# each corpus, can.
#
# ## 5. What pretraining on the domain is worth: published figures
#
# **Question:** our encoder read on through the sentences counted above; what if it had been all of PubMed?
#
# Three encoders of the same size (BERT base), the same task head, the benchmark BLURB (Gu et al. 2020). **BERT** read
# books and Wikipedia. **BioBERT** (Lee et al. 2020) is BERT that read on, through PubMed: continued pretraining at full
# scale. It began at the *cased* BERT, while the BERT of this figure is the uncased one, so its gain also holds a change
# of case. **PubMedBERT** read PubMed from the start, with a vocabulary made from it. F1 on the test splits, exact
# spans, full training splits; these are not our numbers, and nothing above can be set beside them.

# %%
PUBLISHED = pd.DataFrame(  # BLURB
    {
        "BERT base": [85.67, 81.44, 89.25, 80.90, 77.69],
        "BioBERT": [89.13, 84.70, 92.85, 83.82, 78.55],
        "PubMedBERT": [87.82, 85.62, 93.33, 84.52, 79.10],
    },
    index=["NCBI-disease", "BC5CDR disease", "BC5CDR chemical", "BC2GM", "JNLPBA"],
)
figure, ax = plt.subplots(figsize=(7.5, 3.2))
for k, (name, values) in enumerate(PUBLISHED.items()):
    ax.plot(values, PUBLISHED.index, "osD"[k], color=COLOURS[k], label=name)
lowest, highest = PUBLISHED.min(axis=1), PUBLISHED.max(axis=1)
ax.hlines(PUBLISHED.index, lowest, highest, color="grey", lw=1, zorder=0)
ax.set_xlabel("F1 on test, published")
ax.invert_yaxis()
bert, biobert, pubmedbert = PUBLISHED.mean() - PUBLISHED["BERT base"].mean()
gains = f"BioBERT {biobert:+.1f}, PubMedBERT {pubmedbert:+.1f} points"
ax.set_title(f"Over BERT, on average: {gains}")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# Of what BERT lacks to 100, the other two bring this share:

# %%
base = PUBLISHED["BERT base"]
gains = PUBLISHED[["BioBERT", "PubMedBERT"]].sub(base, axis=0).div(100 - base, axis=0)
gains.map("{:.0%}".format)

# %% [markdown]
# That gain goes with reading the abstracts of PubMed, not a handful of sentences (PubMedBERT has its own vocabulary
# besides, and BioBERT is the better one on NCBI-disease); it is measured with *full* training splits. To see it with
# few sentences, set `WANTED = PUBMED` in section 1, where the hub can be reached, and run all cells again: every cell
# that says "encoder" then uses it.
#
# ## 6. Play: how sure must the teacher be?
#
# The threshold of eq. 3, on the labels that the teachers of section 3 gave. First for two thresholds, then with
# sliders.


# %%
def kept_above(threshold, n):
    """In per cent: sentences kept, those with any condition found; precision, recall."""
    labels, truth = labels_above(n, threshold)
    score = evaluate(truth, labels, resamples=0)
    shares = [
        (len(labels), len(labels_above(n, 0)[0])),
        (sum(bool(sentence.entities) for sentence in labels), len(labels)),
        (score.correct, score.predicted),
        (score.correct, score.support),
    ]
    return [100 * part / whole if whole else np.nan for part, whole in shares]


# %%
def draw_threshold(threshold=0.9, n=SIZES[0]):
    """What is kept at a threshold, and how right it is; all seeds together."""
    grid = np.linspace(0, 0.99, 34)
    curves = np.transpose([kept_above(bound, n) for bound in grid])
    names = ["sentences kept", "any condition found", "precision", "recall"]
    figure, ax = plt.subplots(figsize=(7.5, 3.2))
    for name, curve, colour in zip(names, curves, COLOURS):
        ax.plot(grid, curve, color=colour, label=name)
    ax.axvline(threshold, color="black", lw=1)
    ax.set(xlabel="threshold on the confidence, eq. 3", ylabel="per cent", ylim=(0, 102))
    kept, _, precision, _ = kept_above(threshold, n)
    says = "no label in them" if np.isnan(precision) else f"precision {precision:.0f}%"
    ax.set_title(f"n = {n}, threshold {threshold:.2f}: {kept:.0f}% kept, {says}")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# %%
for threshold in (0.5, 0.9):
    draw_threshold(threshold)
    plt.show()

# %%
play(draw_threshold, threshold=(0.0, 0.99, 0.03), n=SIZES)

# %% [markdown]
# Follow the curve *any condition found* (a share of the **kept** sentences) from its left end, where all are kept.
# Exercise 13.3 does something about it. At the far right no
# condition may be left among the kept labels: the line of the precision ends there, as no label is left to be right or
# wrong; conditions that were missed still are. The sentences of all seeds are put together, as in the table of section
# 3.
#
# ## 7. Exercises
#
# Write your answer in place of `raise NotImplementedError` and run the cell: `check` says whether it is right, and if
# not, which property is broken. Stuck? `hint("13.1")` gives a hint, each call the next one; `solution("13.1")` shows
# one answer. The same goes for the other numbers.
#
# ### 13.1 The words that make the difference
#
# Which words tell two domains apart? Divide the smoothed shares of each word, and take the log:
#
# $$ \lambda_w = \log_2 \frac{(c_w + a) / (\sum_v c_v + a V)}{(d_w + a) / (\sum_v d_v + a V)} $$
#
# with $c_w$, $d_w$ the counts of word $w$ in the two samples, $V$ the number of different words in both together, $a$ a
# small number that keeps 0 away.


# %%
def telling_words(first, second, a=0.5):
    """{word: log ratio in bits} for every word of two lists of words.

    It is positive where `first` has more of the word.
    """
    raise NotImplementedError


check("13.1", telling_words)

# %% [markdown]
# Try it on `halves["criteria"][0]` and `halves["BC5CDR"][0]`, and look at the twenty highest and lowest.
#
# ### 13.2 Repeats
#
# "Joint, repeated" made both domains equally large. Between that and plain joint training there is a dial, used
# for multilingual models (Conneau et al. 2020, section 3.1): draw from a domain with $s_i$ sentences with the chance
# $p_i = s_i^a / \sum_j s_j^a$. With $a = 1$ that is plain joint training; $a = 0$ draws from all domains equally often.
# How often is each *single* sentence of a domain seen, on average, among `draws` drawn
# sentences?


# %%
def expected_visits(sizes, a, draws):
    """{domain: how often each of its sentences is drawn on average}.

    sizes: {domain: number of its sentences, above 0}.
    """
    raise NotImplementedError


check("13.2", expected_visits)

# %% [markdown]
# ### 13.3 Sure, but not empty
#
# Where a teacher is surest of sentences without any entity, a threshold keeps too many of them. Choose `count`
# sentences so that the share of those *with* an entity is as in all of the unlabelled text, and within each kind the
# surest.


# %%
def choose_balanced(confidence, has_entity, count):
    """The numbers of the chosen sentences, as a set.

    confidence: list of numbers, no two equal. has_entity: list of bool.
    Of the `count` (at most all), the number with an entity is count times their share in
    the whole list, rounded with round(); the others have none.
    """
    raise NotImplementedError


check("13.3", choose_balanced)

# %% [markdown]
# Try it: `labels, sure = labelled[0, SIZES[0]]`, `full = [bool(sentence.entities) for sentence in labels]`, then
# `choose_balanced(list(sure), full, len(sure) // 2)`. How right are these labels, beside those above the threshold?
# Note that the teacher's own labels have to stand in for the true share.
#
# ### 13.4 Between two taggers
#
# Another remedy for forgetting needs no training: a weighted mean of the two sets of weights (Wortsman et al. 2022).
# Tensors of floating-point numbers are mixed, all others (counters, positions) are taken from the fine-tuned one.


# %%
def mix_weights(before, after, share):
    """{name: tensor}: (1 - share) times `before` plus share times `after`.

    Both are state dicts with the same names, and must not be changed. Tensors that do not
    hold floating-point numbers come from `after`.
    """
    raise NotImplementedError


check("13.4", mix_weights)

# %% [markdown]
# Try it: `after = adapt(start_from, target[0, SIZES[0]], EPOCHS[SIZES[0]], 0)`, `mixed = copy.deepcopy(start_from)`,
# `states = [tagger.network.state_dict() for tagger in (start_from, after)]`; then for shares of 0, 0.25, 0.5, 0.75 and
# 1 `mixed.network.load_state_dict(mix_weights(*states, share))`. Draw F1 on source and target, as in section 4.
#
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $D(p, q)$, $H$ | `divergence`, `entropy` | Jensen-Shannon divergence of word shares, eq. 1; entropy in bits |
# | $\phi$, $\Phi$ | `FEATURES`, `augmented` | features of a word; the same for all domains and for its own, eq. 2 |
# | $n$ | `SIZES` | annotated sentences of the target |
# | | `my_mask`, `mask_pieces` | what the encoder reads and has to say in masked language modelling |
# | $p_k(y)$ | `tagger.predict_proba` | probability of a tag at a word |
# | | `pseudo` | the teacher's labels, and its confidence, eq. 3 |
# | | `adapt`, `fine_tune` | train a tagger further |
#
# 1. A score at home says little about other texts; measure on the texts that you will read, however few are annotated.
# 2. What differs between domains is words, case and length, and also the guideline; a mapping of types hides the last.
# 3. Compare strategies on the same samples, seed by seed: with few sentences the sample, and with an encoder the luck
#    of its training, can move F1 as much as the strategy; and test the source again afterwards.
#
# **Next:** 14 · DiffusionNER, where the two tracks of the course meet: entity boundaries from noise.
#
# ### References
# - Lin 1991, *Divergence measures based on the Shannon entropy*, IEEE Transactions on Information Theory 37: 145.
# - Derczynski et al. 2017, *Results of the WNUT2017 shared task*, W-NUT. Doğan, Leaman, Lu 2014, *NCBI disease corpus*,
#   J. Biomed. Inform. 47: 1. Li et al. 2016, *BioCreative V CDR task corpus*, Database, baw068. Smith et al. 2008,
#   *Overview of BioCreative II gene mention recognition*, Genome Biology 9: S2.
# - Facebook Research, *Clinical Trial Parser*, github.com/facebookresearch/Clinical-Trial-Parser: the criteria.
# - Daumé III 2007, *Frustratingly easy domain adaptation*, ACL: section 3.
# - Yarowsky 1995, *Unsupervised word sense disambiguation rivaling supervised methods*, ACL.
# - Devlin et al. 2019, *BERT*, arXiv 1810.04805: section 3.1 (masking).
# - Gururangan et al. 2020, *Don't stop pretraining*, arXiv 2004.10964: section 3 (domain) and 4 (task).
# - Lee et al. 2020, *BioBERT*, Bioinformatics 36: 1234. Gu et al. 2020, *Domain-specific language model pretraining for
#   biomedical natural language processing* (PubMedBERT and BLURB), arXiv 2007.15779.
# - Mosbach, Andriushchenko, Klakow 2021, *On the stability of fine-tuning BERT*, arXiv 2006.04884.
# - McCloskey, Cohen 1989, *Catastrophic interference in connectionist networks*, Psychology of Learning and Motivation
#   24: 109.
# - Conneau et al. 2020, *Unsupervised cross-lingual representation learning at scale*, arXiv 1911.02116: section 3.1.
# - Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*, arXiv 2109.01903.
# - Student 1908, *The probable error of a mean*, Biometrika 6: 1.
