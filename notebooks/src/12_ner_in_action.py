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
# ![Bars: recall of a CRF and a dictionary, and the CRF's precision, on seen names, known words and new names](../data/pictures/12.png)
#
# Abstracts in, entities out: then the questions of a reviewer, or of a curator who is to rely on it. How good is it, by
# which rules, how sure is that number, on which names does it fail, does it know when it fails, and how many more
# abstracts should be annotated?
#
# **At the end you have** a small reading tool with a text box; span F1 and the paired bootstrap, written by you; errors
# counted and drawn at random; a reliability diagram; a learning curve; active learning; and a cell for a file of yours.
#
# **You need** Python, some NumPy, and from probability: mean, variance, quantile, independence. The taggers come from
# `utils/ner`; notebook 11 builds them, and you can read that later. (`NBVAL_CHECK_OUTPUT` and `noqa` are for tools.)
#
# **Time:** a little over a minute and a half in the run shown, with the public corpora, on two cores with bf16
# instructions; less than a minute without the corpora. Machines without such instructions may take two to four times as
# long. For you: a quarter of an hour of reading for the *core*, sections 0 to 7, and half an hour for your two pieces.
# The taggers here are dictionaries and small CRFs, most of them trained on parts of corpora; what larger models reach
# from whole splits stands in `data/ner/results.md`.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import random
import warnings
from collections import Counter, defaultdict

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import binomtest
from tqdm.auto import tqdm

# %%
from utils.course import COLOURS, play
from utils.course.exercises import check, choose, hint, solution  # noqa: F401
from utils.ner import (
    CRFTagger,
    DictionaryTagger,
    Entity,
    Sentence,
    WordFeatures,
    difference,
    evaluate,
    load_corpus,
    load_tagger,
    read_pubtator,
    read_sentences,
    split_sentences,
    tokenize,
    write_jsonl,
    write_pubtator,
)

# %%
from utils.ner.bc2 import OfficialGold, official_counts, official_place
from utils.ner.display import show_entities
from utils.ner.evaluation import count, resample
from utils.ner.postprocess import documents_of
from utils.ner.tagger import entity_confidence

pd.set_option("display.max_colwidth", None)  # tables show their texts whole

# %% [markdown]
# ## 0. A text, tagged before anything is trained · *core*
#
# **Question:** which names does a ready tagger find in a paragraph?
#
# The course brings one for genes, diseases and chemicals: three CRFs (section 2 says what that is), one a type, that
# learnt from the public corpora of the next section ([its card](../data/checkpoints/tagger.md)). Names of two types may
# overlap; the text then stands once more, behind an arrow. The paragraph was written for this cell; put a text of yours
# in its place. On the command line it is `python -m utils.ner tag < text`.
#
# **Predict before you run:** which of the names will it miss, and which mark where there is nothing to mark?

# %%
paragraph = (
    "Patients with chronic myeloid leukemia (CML) carry the BCR-ABL1 fusion gene, whose "
    "product imatinib inhibits. Mutations in ABL1 such as T315I make the leukemia "
    "resistant. In 40 patients dasatinib led to pleural effusion and thrombocytopenia. "
    "Ketoconazole, which blocks cytochrome P450 3A4, raised its level in plasma; "
    "TP53 was mutated in six of the nine who died of pneumonia."
)
ready = load_tagger()
show_entities(ready.predict([Sentence(paragraph)]))

# %% [markdown]
# Most of it is right, but the drug *imatinib* is missed, though *dasatinib* is found. One paragraph says little, and
# whoever shows it may have chosen it. **How good is the tagger?** A number needs texts that it has not seen, people's
# annotation of them, and rules for what counts as found. This notebook trains small taggers of its own, so that each
# step can be seen and repeated here; the ready one learnt from "train" and "dev" of these corpora.

# %% [markdown]
# ## 1. What is read here · *core*
#
# **Question:** which texts do we have, and what was each of them made for?
#
# **BC5CDR** (chemicals and diseases) is what the reading tool learns from. **BC2GM** (genes) has official scoring rules
# of its own. **NCBI-disease** is used abstract by abstract, to ask how many of them are needed. Where a corpus is not
# at hand, the course's own small corpus stands in for it; the table says so. It is too small for conclusions.

# %%
bc5cdr, bc2gm, ncbi = map(load_corpus, ["bc5cdr", "bc2gm", "ncbi-disease"])
corpora = {corpus.name: corpus for corpus in (bc5cdr, bc2gm, ncbi)}
rows = {
    name: {
        **{f"{split} sentences": len(corpus.split(split)) for split in corpus.splits},
        "types": ", ".join(corpus.types),
        "the course's own in its place": "yes" if corpus.stands_in else "no",
    }
    for name, corpus in corpora.items()
}
pd.DataFrame(rows).T

# %% [markdown]
# Corpora are usually handed out as sentences, cut into tokens. A reader has **abstracts**, uncut. Of two corpora there
# are such originals in PubTator form: 50 abstracts of BC5CDR and all of NCBI-disease. Elsewhere neighbouring sentences
# are put together again.


# %%
def moved(entities, distance):
    return [Entity(e.start + distance, e.end + distance, e.type) for e in entities]


def joined(sentences, name):
    """Neighbouring sentences as one text, with their entities moved along."""
    text, entities = "", []
    for sentence in sentences:
        text += " " if text else ""
        entities += moved(sentence.entities, len(text))
        text += sentence.text
    return Sentence(text, None, entities, name)


def put_together(sentences):
    """Sentences joined by document, or ten by ten where their documents are not known."""
    documents = defaultdict(list)
    for number, sentence in enumerate(sentences):
        documents[sentence.document or str(number // 10)].append(sentence)
    return [joined(some, name) for name, some in documents.items()]


# %%
def originals(path):
    """The abstracts of a PubTator file; an id that comes twice counts once."""
    with warnings.catch_warnings():
        # One mention of NCBI-disease does not fit its text and is left out.
        warnings.simplefilter("ignore")
        return list({text.id: text for text in read_pubtator(path, "skip")}.values())


def abstracts(corpus, split, file):
    """Whole abstracts: the PubTator originals, or neighbouring sentences."""
    path = corpus.folder / "original" / file
    return originals(path) if path.exists() else put_together(corpus.split(split))


def diseases(split):
    """Abstracts of NCBI-disease; its kinds of disease are called "Disease", all of them."""
    return [
        text.with_entities(Entity(e.start, e.end, "Disease") for e in text.entities)
        for text in abstracts(ncbi, split, f"{split}.pubtator.txt")
    ]


# %%
reading = abstracts(bc5cdr, "test", "sample50.pubtator.txt")
pool, dev_abstracts, exam = map(diseases, ["train", "dev", "test"])
parts = {"to read": reading, "pool": pool, "dev": dev_abstracts, "exam": exam}
rows = {
    name: {
        "abstracts": len(texts),
        "tokens in each": np.mean([len(text.tokens) for text in texts]),
        "mentions in each": np.mean([len(text.entities) for text in texts]),
    }
    for name, texts in parts.items()
}
pd.DataFrame.from_dict(rows, orient="index").round(1)

# %% [markdown]
# ## 2. Entities out: a reading tool · *core*
#
# **Question:** what does a tagger trained on sentences find in abstracts that it has never seen?
#
# First, has it *really* never seen them? The 50 abstracts of BC5CDR were taken from the release's files, and nobody
# says from which split. So we look for the sentences of each split in them, without white space, since tokenisation has
# changed it.
#
# **Predict before you run:** from which split are they?


# %%
def squeezed(text):
    """A text without white space, in lower case: what tokenisation leaves alone."""
    return "".join(text.lower().split())


texts_to_read = [squeezed(abstract.text) for abstract in reading]


def is_to_be_read(sentence):
    """Whether the sentence stands in one of the abstracts to read."""
    return any(squeezed(sentence.text) in text for text in texts_to_read)


rows = {}
for split in bc5cdr.splits:
    there = [is_to_be_read(s) for s in bc5cdr.split(split) if len(s.tokens) > 5]
    rows[split] = {
        "sentences of more than 5 tokens": len(there),
        "in the texts to read": sum(there),
    }
pd.DataFrame(rows).T

# %% [markdown]
# Had we trained on all of "train" and shown the result on "50 real abstracts", the tagger would have learnt by heart
# every sentence that the table counts there. Section 7 measures what that is worth. Here we leave those sentences out,
# and keep a part of the rest.
#
# The tagger is a **CRF**: it weighs features of each word (its letters, its beginning and end, its neighbours) and
# picks the most probable sequence of tags (notebook 11).

# %%
FEATURES = WordFeatures(window=1, affixes=4, grams=(), stems=False, pairs=False)
ITERATIONS = course.pick(test=30, cpu=60, gpu=60)


def train_crf(sentences, features=FEATURES):
    """A small CRF; the same sentences always give the same tagger."""
    crf = CRFTagger(features, c1=0.1, c2=0.01, iterations=ITERATIONS, progress=False)
    return crf.fit(sentences)


def sample(sentences, size):
    """That many sentences, drawn at random, or all."""
    return random.Random(0).sample(sentences, min(len(sentences), size))


unseen = [sentence for sentence in bc5cdr.train if not is_to_be_read(sentence)]
train = sample(unseen, course.pick(test=120, cpu=1500, gpu=4000))
tagger = train_crf(train)
mentions = sum(len(sentence.entities) for sentence in train)
print(f"trained on {len(train):,} sentences of {bc5cdr.name} with {mentions:,} mentions")

# %% [markdown]
# It learnt from sentences, so we give it sentences: `read` cuts a text with `split_sentences` (notebook 10), tags the
# pieces, and moves the entities back to where they stand in the whole text.


# %%
def read(tagger, text):
    """The text with the entities found in it, tagged sentence by sentence."""
    spans, found = split_sentences(text), []
    tagged = tagger.predict([Sentence(text[begin:end]) for begin, end in spans])
    for (begin, _), sentence in zip(spans, tagged):
        found += moved(sentence.entities, begin)
    return Sentence(text, None, found)


# %%
def written(interval, form=".3f"):
    """An interval as text: "0.745 to 0.828"; one without width says nothing."""
    low, high = interval
    return f"{low:{form}} to {high:{form}}" if low < high else "none"


def score_table(report):
    """What `evaluate` says, a row for each type."""
    rows = {
        name: {
            "precision": scores.precision,
            "recall": scores.recall,
            "F1": scores.f1,
            "95% interval of F1": written(scores.intervals["f1"], ".4f"),
            "mentions": scores.support,
        }
        for name, scores in [*report.per_type.items(), ("all", report)]
    }
    return pd.DataFrame.from_dict(rows, orient="index").round(4)


# %%
found = [read(tagger, abstract.text) for abstract in reading]
print(f"{len(reading)} abstracts (section 4 explains the intervals):")
score_table(evaluate(reading, found))

# %% [markdown]
# Two of the abstracts, drawn at random, with what was found (not with what is true).

# %%
shown = random.Random(12).sample(range(len(reading)), 2)
titles = [f"abstract {reading[k].id}" for k in shown]
show_entities([found[k] for k in shown], titles)

# %% [markdown]
# **Now your own text.** Paste an abstract into the box and click outside it.
# Try what the tagger cannot know: a text on genes, a menu, a text in another language.

# %%
first = reading[shown[0]].text
layout = {"width": "98%", "height": "10em"}
box = ipywidgets.Textarea(first, layout=layout, continuous_update=False)
result = ipywidgets.HTML()


def show_what_is_read(change):
    result.value = show_entities(read(tagger, box.value)).data


show_what_is_read(None)
box.observe(show_what_is_read, "value")
display(ipywidgets.VBox([box, result]))

# %% [markdown]
# ## 3. One set of predictions, five scores · *core*
#
# **Question:** the same predictions on the same sentences are reported as F1 44.65 and as 58.97. How?
#
# **Precision** $P$ is the share of the predictions that is right, **recall** $R$ the share of the gold mentions that
# was found. (The *gold standard* is the annotation that counts as true.) $F_1$ is their harmonic mean, high only if
# both are. All three are counts divided by counts, added up over all sentences (*micro-averaged*):
#
# $$ P = \frac{\text{correct}}{\text{predicted}}, \qquad R = \frac{\text{correct}}{\text{gold}}, \qquad
# F_1 = \frac{2PR}{P + R} = \frac{2 \cdot \text{correct}}{\text{predicted} + \text{gold}} . \tag{1} $$
#
# All depends on what is called correct. **Strict** asks for the same start, end and type. It is the score of the CoNLL
# shared tasks and of the Python package `seqeval`, and what papers that mark mentions in BC5CDR and NCBI-disease
# report. (BC5CDR's own disease task was scored on identifiers: *entity linking*, which is another thing.)
#
# ### Your turn: 12.1
#
# Write strict scoring. Both lists have one set of spans for each sentence. Add up the three counts, then divide. Where
# there is nothing to divide by, the value is 0.
#
# Write your lines in place of `raise NotImplementedError` and run the cell: `check` says whether they are right, and if
# not, what is wrong. `hint("12.1")` gives a hint, each call the next one; `solution("12.1")` shows an answer. You may
# also go on: the next cell has the course's version, and uses yours instead if yours is right.


# %%
def span_f1(gold, predicted):
    """Strict precision, recall and F1 of all sentences together, each in [0, 1].

    gold, predicted: lists of equal length; item k is the set of the spans
        (start, end, type) of sentence k.
    Returns (precision, recall, F1); 0 where there is nothing to divide by.
    """
    raise NotImplementedError


check("12.1", span_f1)


# %%
def course_span_f1(gold, predicted):
    correct = sum(len(true & found) for true, found in zip(gold, predicted))
    in_all, asked = sum(map(len, predicted)), sum(map(len, gold))
    precision = correct / in_all if in_all else 0.0
    recall = correct / asked if asked else 0.0
    f1 = 2 * correct / (in_all + asked) if in_all + asked else 0.0
    return precision, recall, f1


span_f1 = choose("12.1", span_f1, course_span_f1)


# %%
def spans_of(sentences):
    return [{(e.start, e.end, e.type) for e in sentence.entities} for sentence in sentences]


by_hand = span_f1(spans_of(reading), spans_of(found))
print("precision {:.4f}, recall {:.4f}, F1 {:.4f}: ".format(*by_hand), end="")
print('the row "all" of section 2')

# %% [markdown]
# Three other rules are in use:
# - **partial**: the same characters 1 point, any overlap half a point, whatever the type.
# - **type**: any overlap with the right type 1 point.
# - **official, BioCreative II** (Smith et al. 2008): strict, but the annotators also listed **alternatives** that are
#   as good as the gold mention (file `ALTGENE`), for example with and without the word "human". A gold mention is found
#   if it or an alternative that overlaps it was predicted; a prediction is wrong if it is neither. Offsets count
#   characters without white space.


# %%
def official_by_hand(gold, alternatives, predicted):
    """Correct, predicted, gold of one sentence by the official rules.

    All are sets of places: (first, last) character, white space not counted.
    """
    accepted, found = predicted & alternatives, 0
    for first, last in gold:
        nearby = any(start <= last and first <= end for start, end in accepted)
        found += (first, last) in predicted or nearby
    wrong = predicted - gold - alternatives
    return found, found + len(wrong), len(gold)


# %% [markdown]
# The tagger is the simplest there is, a **gazetteer**: the dictionary of all mentions in train and dev, looked up in
# test. Beside it a CRF trained on part of BC2GM. Where BC2GM is not at hand we make alternatives up: a gold name of
# several words may lose its first or its last.


# %%
def places_of(entities, text):
    return [official_place(e, text) for e in entities]


def without_a_word(entity):
    """A name of several words without its first one, and without its last."""
    second, last = entity.text.index(" ") + 1, entity.text.rindex(" ")
    return [
        Entity(entity.start + second, entity.end, entity.type),
        Entity(entity.start, entity.start + last, entity.type),
    ]


def made_up(sentences):
    """The sentences' own gold, with alternatives by a rule in place of an annotator's."""
    genes, alternatives = {}, {}
    for sentence in sentences:
        several = [e for e in sentence.entities if " " in e.text]
        shorter = [part for e in several for part in without_a_word(e)]
        genes[sentence.id] = places_of(sentence.entities, sentence.text)
        alternatives[sentence.id] = places_of(shorter, sentence.text)
    return OfficialGold(genes, alternatives)


# %%
if bc2gm.stands_in:
    gene_test = bc2gm.test
    official = made_up(gene_test)
    print("alternatives: made up here by a rule, because BC2GM is not at hand")
else:
    gene_test = bc2gm.test[: course.pick(test=500, cpu=5000, gpu=5000)]
    whole, ids = bc2gm.official("test"), {sentence.id for sentence in gene_test}
    official = OfficialGold(
        *({k: part[k] for k in ids & {*part}} for part in (whole.genes, whole.alternatives))
    )
    print("alternatives: the task's own file ALTGENE")

dictionary = DictionaryTagger().fit(bc2gm.train, bc2gm.dev)
gene_train = sample(bc2gm.train, course.pick(test=120, cpu=1500, gpu=5000))
gene_crf = train_crf(gene_train)
gene_found = {
    "dictionary": dictionary.predict(gene_test),
    "CRF": gene_crf.predict(gene_test),
}
print(
    f"dictionary of {len(dictionary):,} names; CRF of {len(gene_train):,} sentences; ",
    end="",
)
print(f"tested on {len(gene_test):,}")

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
for name in gene_found:
    before = scores[name, "official, no alternatives"].f1
    gain = 100 * (scores[name, "official, alternatives"].f1 - before)
    print(f"the alternatives bring the {name} {gain:+.1f} points of F1")

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(8, 3.4))
for k, name in enumerate(gene_found):
    reports = [scores[name, rule] for rule in RULES]
    f1 = np.array([100 * report.f1 for report in reports])
    low, high = 100 * np.array([report.intervals["f1"] for report in reports]).T
    y = np.arange(len(RULES)) + 0.4 * (k - 0.5)
    axes.barh(y, f1, 0.38, color=COLOURS[k], label=name)
    axes.errorbar(
        f1, y, xerr=[f1 - low, high - f1], fmt="none", ecolor="black", elinewidth=1
    )
    for place, value in zip(y, f1):
        axes.text(1, place, f"{value:.2f}", va="center", color="white", fontsize=9)
axes.set(yticks=range(len(RULES)), yticklabels=RULES)
axes.set_xlabel("F1 in per cent, 95% bootstrap interval")
axes.invert_yaxis()
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
values = [100 * scores["dictionary", rule].f1 for rule in RULES]
finding = f"F1 from {min(values):.1f} to {max(values):.1f}"
axes.set_title(f"One dictionary, one set of predictions: {finding}")
plt.show()

# %% [markdown]
# With strict scoring, a boundary that an annotator would have accepted costs **twice**: once as a wrong prediction,
# once as a missed mention. The official rules take both back. So the gain depends on how often a tagger is *nearly*
# right; no constant converts one score into the other, and figures of the two kinds must never share a column. On the
# whole of BC2GM's test split, the dictionary's strict F1 of 44.65 and official F1 of 58.97 are the *same predictions*.
# (The first two rows differ by a trace: in four sentences the task's file has names inside names, which tags cannot
# hold.) A type-only score calls a one-word overlap with a five-word name right: not enough for a data base.
#
# Some sentences, drawn at random, in which the dictionary found an alternative and not the gold mention.


# %%
def at_places(sentence, places):
    """The sentence with genes at these places, which do not count white space."""
    seen = [k for k, letter in enumerate(sentence.text) if not letter.isspace()]
    spans = [(seen[first], seen[last] + 1) for first, last in places.get(sentence.id, [])]
    return sentence.with_entities(Entity(*span, "GENE") for span in spans)


both, changed = (official.genes, official.alternatives), []
for sentence, tagged in zip(gene_test, gene_found["dictionary"]):
    gold, accepted = (set(part.get(sentence.id, [])) for part in both)
    if (set(places_of(tagged.entities, sentence.text)) & accepted) - gold:
        changed.append((sentence, tagged))
views = []
for sentence, tagged in random.Random(1).sample(changed, min(3, len(changed))):
    views += [*(at_places(sentence, places) for places in both), tagged]
show_entities(views, ["gold", "alternatives", "predicted"] * (len(views) // 3))

# %% [markdown]
# ## 4. How sure is the number? · *core*
#
# **Question:** another test set of the same size and kind would have given another F1. How different?
#
# The **bootstrap** (Efron 1979) imitates other test sets: draw sentences from ours with replacement, as many as there
# are, compute F1 again, a thousand times. The middle 95% of these values are the **percentile interval**. F1 is not a
# mean over sentences but a ratio of sums, so for each sentence we keep the three counts of eq. 1 (correct, predicted,
# gold: `count` of `utils/ner/evaluation.py`) and add those up.


# %%
def f1_of(sums):
    """F1 (eq. 1) of summed counts, array (..., 3); 0 where there is nothing."""
    below = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], below, out=np.zeros_like(below), where=below > 0)


def bootstrap(rows, draws=1000, seed=0):
    """Summed counts of resampled test sets: array (draws, columns of `rows`)."""
    generator, n = np.random.default_rng(seed), len(rows)
    sums = []
    for _ in range(draws):
        times = np.bincount(generator.integers(n, size=n), minlength=n)
        sums.append(times @ rows)  # each sentence as often as it was drawn
    return np.stack(sums)


def interval(values):
    """The middle 95%."""
    return np.quantile(values, [0.025, 0.975])


# %%
test = bc5cdr.test[: course.pick(test=200, cpu=2500, gpu=5000)]
test_found = tagger.predict(test)
test_counts = count(test, test_found)
print(
    f"{bc5cdr.name}, {len(test):,} test sentences: F1 {f1_of(test_counts.sum(0)):.4f}, ",
    end="",
)
print(f"95% interval {written(interval(f1_of(bootstrap(test_counts))), '.4f')}")

# %% [markdown]
# **Sentences of one abstract are not independent.** An abstract on a rare drug names it in every sentence, and a tagger
# that misses it misses it ten times. So whole documents should be drawn, not sentences. Where their borders are lost,
# as in BC5CDR's tokenised files, **blocks of neighbours** can be drawn, about as long as an abstract. In `evaluate`
# that is `groups`, a label for each sentence: sentences of one label are drawn together.

# %%
BLOCK = 5 if bc5cdr.stands_in else 10


def in_blocks(rows, size):
    """Rows of neighbouring sentences added up, `size` at a time; the last may be fewer."""
    return np.add.reduceat(rows, np.arange(0, len(rows), size), axis=0)


blocks = in_blocks(test_counts, BLOCK)
groups = [number // BLOCK for number in range(len(test))]
low, high = interval(f1_of(bootstrap(blocks)))
theirs = evaluate(test, test_found, groups=groups)
np.testing.assert_allclose(theirs.intervals["f1"], (low, high), rtol=1e-12)
print("`evaluate` with the blocks as groups gives the interval of the last row")
intervals = {"sentences": interval(f1_of(bootstrap(test_counts))), "blocks": (low, high)}
table = pd.DataFrame(intervals, index=["low", "high"]).T
table.assign(width=table.high - table.low).round(4)

# %% [markdown]
# **Comparing two taggers.** Both are judged on the same documents, and a hard document is hard for both. So the
# question is not whether two intervals overlap but what the **difference** does when both are resampled *together*
# (paired).
#
# ### Your turn: 12.2
#
# You get the counts of two taggers on the same documents (here, blocks). Draw as many documents as there are, with
# replacement. Take F1 of the summed counts (eq. 1; 0 where there is nothing) for both taggers, on the **same**
# documents, and their difference, first minus second. Do that `draws` times; return the middle 95% of the differences.


# %%
def paired_bootstrap(first, second, draws=1000, seed=0):
    """(low, high): the 95% percentile interval of F1 of `first` minus F1 of `second`.

    first, second: arrays (documents, 3), counts (correct, predicted, gold) of two
        taggers on the same documents; F1 is between 0 and 1, as in eq. 1.
    draws: how many test sets are drawn. seed: of your np.random.default_rng.
    """
    raise NotImplementedError


check("12.2", paired_bootstrap)


# %%
def course_paired_bootstrap(first, second, draws=1000, seed=0):
    generator, n = np.random.default_rng(seed), len(first)
    changes = []
    for _ in range(draws):
        drawn = generator.integers(n, size=n)  # the same documents for both
        one, other = (f1_of(rows[drawn].sum(0)) for rows in (first, second))
        changes.append(one - other)
    return interval(changes)


paired_bootstrap = choose("12.2", paired_bootstrap, course_paired_bootstrap)

# %% [markdown]
# Now the same training sentences, with the beginnings and ends of words (affixes) as features and without.

# %%
no_affixes = WordFeatures(window=1, affixes=0, grams=(), stems=False, pairs=False)
plain_found = train_crf(train, no_affixes).predict(test)
plain_counts = count(test, plain_found)
plain_blocks = in_blocks(plain_counts, BLOCK)
drawn, plain_drawn = (f1_of(bootstrap(counts)) for counts in (blocks, plain_blocks))
apart = f1_of(bootstrap(plain_blocks, seed=1))  # another seed, so other blocks
with_affixes, without = (f1_of(counts.sum(0)) for counts in (test_counts, plain_counts))

# %%
gap = with_affixes - without
table = {
    "with affixes": (with_affixes, *interval(drawn)),
    "without affixes": (without, *interval(plain_drawn)),
    "difference, paired": (gap, *paired_bootstrap(blocks, plain_blocks)),
    "difference, unpaired, which is wrong here": (gap, *interval(drawn - apart)),
}
table = pd.DataFrame(table, index=["F1", "low", "high"]).T.astype(float)
table = table.assign(width=table.high - table.low)
ratio = table.width.iloc[3] / table.width.iloc[2]
print(f"the paired interval is {ratio:.1f} times narrower than the unpaired one")
table.round(4)

# %%
# NBVAL_CHECK_OUTPUT
theirs, edges = difference(test, test_found, plain_found, groups=groups)
np.testing.assert_allclose(theirs, gap, rtol=1e-9)
np.testing.assert_allclose(edges, course_paired_bootstrap(blocks, plain_blocks), rtol=1e-9)
print("`difference` of utils.ner says the same")

# %% [markdown]
# The paired interval is the narrower one, for the reason given. It speaks of *these two trained taggers* on other test
# sets. Other training sentences would give other taggers: that spread is another one, and sections 9 and 10 show it
# with several seeds. A p value comes from **approximate randomisation** (Yeh 2000): swap the two taggers' answers at
# random, document by document, and see how often the difference becomes as large.
#
# ### Does a 95% interval hold the truth 95 times in 100? · *further*
#
# To know, we need a truth. The training abstracts of NCBI-disease, whose borders are known, serve as the whole world: a
# CRF trained on others (`dev_abstracts`) has some F1 on all of them. From this world we draw small test sets of whole
# abstracts, give each an interval in three ways, and count.
#
# **Predict before you run:** which intervals are widest, those from sentences, from blocks or from abstracts? Which
# hold the truth most often?


# %%
def rows_within(gold, predicted):
    """Counts of one abstract, sentence by sentence; a mention counts where it begins."""
    pieces = [
        [[e for e in side.entities if start <= e.start < end] for side in (gold, predicted)]
        for start, end in split_sentences(gold.text)
    ]
    return count(*zip(*pieces))


def fast_interval(rows, generator, draws=400):
    """`interval(f1_of(bootstrap(rows)))` for all draws at once."""
    n = len(rows)
    chosen = generator.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    times = np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n)
    return interval(f1_of(times @ rows))


# %%
dev_tagger = train_crf(dev_abstracts)
world = [rows_within(abstract, read(dev_tagger, abstract.text)) for abstract in pool]
truth = f1_of(np.concatenate(world).sum(0))
length = np.mean([len(counts) for counts in world])
print(f"the world: {len(world)} abstracts, {length:.1f} sentences each; F1 {truth:.4f}")


# %%
def units_of(abstracts):
    """What is drawn from a test set in each of the three ways."""
    sentences = np.concatenate(abstracts)
    return {
        "sentences": sentences,
        "blocks": in_blocks(sentences, BLOCK),
        "abstracts": np.stack([counts.sum(0) for counts in abstracts]),
    }


generator = np.random.default_rng(0)
trials = course.pick(test=100, cpu=1000, gpu=1000)
sizes = [size for size in (5, 10, 20, 40) if size <= len(world)]
held, width = defaultdict(list), defaultdict(list)
for size in tqdm(sizes, "sizes of test set"):
    for _ in range(trials):
        drawn = generator.integers(len(world), size=size)  # a new test set
        for unit, units in units_of([world[k] for k in drawn]).items():
            low, high = fast_interval(units, generator)
            held[size, unit].append(low <= truth <= high)
            width[size, unit].append(high - low)

# %% tags=["figure"]
figure, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.2))
for k, unit in enumerate(["sentences", "blocks", "abstracts"]):
    hits = 100 * np.array([held[size, unit] for size in sizes])
    error = 2 * hits.std(1) / np.sqrt(trials)
    style = {"color": COLOURS[k], "label": f"draws {unit}"}
    left.errorbar(sizes, hits.mean(1), error, marker="o", capsize=3, **style)
    middle.plot(sizes, [np.mean(width[size, unit]) for size in sizes], "o-", **style)
left.axhline(95, color="grey", lw=1, ls="--")
left.set_ylabel("hold the truth, % (± 2 SE)")
middle.set(ylabel="mean width of the interval", ylim=(0, None))
for axes in (left, middle):
    axes.set(xlabel="abstracts in the test set", xscale="log")
    axes.set_xticks(sizes, sizes)
    axes.minorticks_off()
middle.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
share = {unit: np.mean(held[sizes[-1], unit]) for unit in ("sentences", "abstracts")}
finding = "from sentences {sentences:.1%}, from abstracts {abstracts:.1%}".format(**share)
left.set_title(f"{sizes[-1]} abstracts, held:\n{finding}", fontsize=10)
middle.set_title(f"{trials} test sets of each size", fontsize=10)
plt.show()

# %% [markdown]
# Where the curves of blocks and abstracts lie above that of sentences, neighbours do hang together, and the interval
# from sentences promised too much. Blocks recover a part of it; with few units even the interval from abstracts is too
# narrow, since the bootstrap sees only what is in the sample. So draw whole documents where you can, and report which
# unit you drew. From here on, intervals on BC5CDR draw blocks, and may still be too narrow.
#
# ## 5. Names seen and names never seen · *core*
#
# **Question:** how much of the score is memory?
#
# A gold mention of the test set is **seen** if the training sentences mark that name (upper and lower case not told
# apart) with that type; **known words** if not, but each of its words occurs inside some marked name of that type; else
# **new**.
#
# **Predict before you run:** what does the dictionary find of the names never seen? What does the CRF?

# %%
KINDS = ["seen", "known words", "new"]


def words_of(name):
    return tuple(token.text.lower() for token in tokenize(name))


def novelty(train):
    """A function that says which of KINDS a mention is, given the training sentences."""
    names = {(e.type, words_of(e.text)) for sentence in train for e in sentence.entities}
    words = {(kind, word) for kind, name in names for word in name}

    def kind_of(entity):
        name = words_of(entity.text)
        if (entity.type, name) in names:
            return "seen"
        known = all((entity.type, word) in words for word in name)
        return "known words" if known else "new"

    return kind_of


# %%
def share_by_novelty(asked, answers, kind_of):
    """For each kind an array (sentences, 2): mentions found, and mentions asked for."""
    tables = {kind: np.zeros((len(asked), 2)) for kind in KINDS}
    for row, (sentence, answer) in enumerate(zip(asked, answers)):
        for e in sentence.entities:
            tables[kind_of(e)][row] += e in answer.entities, 1
    return tables


def share_of(table):
    """Share of hits in rows (hits, mentions) and its 95% interval from blocks of rows."""
    hits, mentions = table.sum(0)
    if not mentions:
        return np.nan, np.nan, np.nan
    draws = bootstrap(in_blocks(table, BLOCK))
    draws = draws[draws[:, 1] > 0]  # those without a mention do not count
    return hits / mentions, *interval(draws[:, 0] / draws[:, 1])


# %%
kind_of = novelty(train)
small_dictionary = DictionaryTagger(lower=True).fit(train)
taggers = {"CRF": test_found, "dictionary": small_dictionary.predict(test)}
recall = {
    name: share_by_novelty(test, predicted, kind_of) for name, predicted in taggers.items()
}
precision = share_by_novelty(test_found, test, kind_of)
for name, sentences in [
    (f"these {len(train):,} sentences", train),
    ("all of train and dev", [*bc5cdr.train, *bc5cdr.dev]),
]:
    seen = share_by_novelty(test, test_found, novelty(sentences))["seen"]
    share = seen[:, 1].sum() / test_counts[:, 2].sum()
    print(f"seen in {name}: {share:.1%} of the mentions")

# %% tags=["figure", "picture"]
figure, axes = plt.subplots(figsize=(6.5, 3))
series = {
    "CRF, recall": recall["CRF"],
    "dictionary, recall": recall["dictionary"],
    "CRF, precision": precision,
}
for k, (name, tables) in enumerate(series.items()):
    x = np.arange(len(KINDS)) + 0.27 * (k - 1)
    share, low, high = 100 * np.transpose([share_of(tables[kind]) for kind in KINDS])
    reach = np.maximum([share - low, high - share], 0)
    axes.bar(x, share, 0.25, color=COLOURS[k], label=name)
    axes.errorbar(x, share, reach, fmt="none", ecolor="black", elinewidth=1)
labels = [f"{kind}\n{recall['CRF'][kind][:, 1].sum():,.0f} gold" for kind in KINDS]
axes.set(xticks=range(len(KINDS)), xticklabels=labels, ylabel="per cent", ylim=(0, 100))
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
seen, new = (100 * share_of(recall["CRF"][kind])[0] for kind in ("seen", "new"))
axes.set_title(f"The CRF finds {seen:.0f}% of seen names, {new:.0f}% of new ones")
plt.show()

# %% [markdown]
# A dictionary cannot find a name that it does not hold, so outside "seen" its recall is zero by construction. What the
# CRF finds there it found by letters and neighbours. (The third series sorts what the CRF *predicts* likewise.) A test
# set whose names were mostly seen flatters; say the share of unseen ones beside the score, and for which training set.
#
# ## 6. What kinds of errors? · *core*
#
# **Question:** when it is wrong, how is it wrong?
#
# Each gold mention that was not found, and each prediction that is not gold, is put into one class:
# - **boundary**: it overlaps one of the other side with the same type;
# - **type**: it overlaps only ones of another type;
# - **missed** (gold) or **spurious** (predicted): it overlaps nothing.


# %%
def error_class(entity, others, nothing):
    """One of the classes above; `nothing` is the class of an entity that overlaps none."""
    touched = {other.type for other in others if other.overlaps(entity)}
    if entity.type in touched:
        return "boundary"
    return "type" if touched else nothing


def errors(gold, predicted):
    """(class, side, sentence number, entity) of all that strict scoring calls wrong."""
    wrong = []
    for number, (sentence, tagged) in enumerate(zip(gold, predicted)):
        true, found = sentence.entities, tagged.entities
        for side, mine, others, nothing in [
            ("gold", true, found, "missed"),
            ("predicted", found, true, "spurious"),
        ]:
            for e in mine:
                if e not in others:
                    wrong.append((error_class(e, others, nothing), side, number, e))
    return wrong


# %%
table = {}
for name, predicted in taggers.items():
    wrong = errors(test, predicted)
    in_all = int(count(test, predicted)[:, 1:].sum())
    print(f"{name}: {len(wrong):,} wrong of {in_all:,} gold and predicted")
    counts = Counter((kind, side) for kind, side, *_ in wrong)
    table[name] = {key: f"{n:,} ({n / len(wrong):.0%})" for key, n in counts.most_common()}
pd.DataFrame(table).rename_axis(["class", "side"]).fillna("none")

# %% [markdown]
# Numbers do not tell why. For that one has to read errors, and it matters which. Errors picked by hand illustrate what
# the author believes already. So they are **drawn at random**, two of each class, with a fixed seed; change the seed
# and read others.


# %%
def window(sentence, e, around=60):
    """The text around an entity, with what lies whole in it."""
    begin, end = max(0, e.start - around), e.end + around
    inside = [
        other for other in sentence.entities if begin <= other.start < other.end <= end
    ]
    return Sentence(sentence.text[begin:end], None, moved(inside, -begin))


SEED = 0
by_class = defaultdict(list)
for kind, *error in errors(test, test_found):
    by_class[kind].append(error)
titles, views = [], []
for kind in ["boundary", "type", "missed", "spurious"]:
    chosen = random.Random(SEED).sample(by_class[kind], min(2, len(by_class[kind])))
    for side, number, e in chosen:
        titles += [f"{kind} ({side}: {e.text}, {e.type}). Gold:", "predicted:"]
        views += [window(annotated[number], e) for annotated in (test, test_found)]
show_entities(views, titles)

# %% [markdown]
# Judge each example yourself, and allow for a third answer beside "tagger wrong": *the annotation is wrong, or both are
# defensible*. Disagreements of annotators (notebook 09) are errors for every scorer. Twenty examples, drawn at random,
# give a share with a standard error of up to eleven points: enough to know whether the next day's work should go into
# boundaries, into types or into names that are missed.
#
# ## 7. Sentences that stand in train and in test · *core*
#
# **Question:** are there test sentences that were trained on, and what do they do to the score?
#
# Texts are the same here if they are equal without white space and case. In **near copies** at least half of a test
# sentence's runs of eight words stand in the training sentences.
#
# **Predict before you run:** BC2GM consists of single sentences from MEDLINE. How many of the test split's stand in
# train word for word: none, a few, or one in ten?


# %%
def runs_of(sentence, length=8):
    """All runs of `length` words, in lower case."""
    words = [word.lower() for word in sentence.words]
    return [tuple(words[k : k + length]) for k in range(len(words) - length + 1)]


def copies(train, test, share=0.5):
    """Numbers of the test sentences that are exact copies, and of those only near to it."""
    texts = {squeezed(sentence.text) for sentence in train}
    known = {run for sentence in train for run in runs_of(sentence)}
    exact, near = [], []
    for k, sentence in enumerate(test):
        here = runs_of(sentence)
        if squeezed(sentence.text) in texts:
            exact.append(k)
        elif here and sum(run in known for run in here) >= share * len(here):
            near.append(k)
    return exact, near


# %%
found_copies = {name: copies(corpus.train, corpus.test) for name, corpus in corpora.items()}
rows = {
    name: (len(corpora[name].test), len(exact), len(near))
    for name, (exact, near) in found_copies.items()
}
pd.DataFrame(rows, index=["test sentences", "exact copies", "near copies"]).T

# %% [markdown]
# Copies are few in these corpora, and most of them are scraps such as `Biol .` without any name. They are good for
# something: the same sentence was annotated twice, once for each split. Do the two annotations agree?


# %%
def gene_spans(sentences):
    """For each sentence the set of its genes, in places that do not count white space."""
    places = [places_of(sentence.entities, sentence.text) for sentence in sentences]
    return [{(first, last, "GENE") for first, last in some} for some in places]


twin = {squeezed(sentence.text): sentence for sentence in reversed(bc2gm.train)}
copied = [bc2gm.test[k] for k in found_copies[bc2gm.name][0]]
twins = [twin[squeezed(sentence.text)] for sentence in copied]
held = [len(sentence.entities) for sentence in copied]
print(f"{len(copied)} copies, {sum(map(bool, held))} of them with a name, ", end="")
print(f"{sum(held)} mentions in all; train's annotation scored ", end="")
agreed = span_f1(gene_spans(copied), gene_spans(twins))[2]
print(f"against test's: F1 {100 * agreed:.1f}" if sum(held) else "against test's: none")

# %% [markdown]
# The dangerous leak is another: whole documents. A careless split by sentence puts neighbours of one abstract into
# train and test; and the 50 abstracts of section 2 stand in the training split. How good would the reading tool have
# looked, had we not checked?

# %%
leak = [sentence for sentence in bc5cdr.train if is_to_be_read(sentence)]
if not leak:  # the course's own documents are in the test split
    leak = [sentence for sentence in bc5cdr.test if is_to_be_read(sentence)]
leaky = train_crf([*train[: max(len(train) - len(leak), len(train) // 2)], *leak])
leaky_found = [read(leaky, abstract.text) for abstract in reading]
change, edges = difference(reading, leaky_found, found)
leaked, honest = (f1_of(count(reading, some).sum(0)) for some in (leaky_found, found))
print(
    f"{len(reading)} abstracts; F1 of a tagger that was not trained on them: {honest:.3f}"
)
print(f"F1 of one that was, on their {len(leak)} sentences among others: {leaked:.3f}")
print(f"difference {change:+.3f}, paired interval over abstracts {written(edges)}")

# %% [markdown]
# No error message tells of such a leak. Compare texts before you compare taggers.
#
# ## 8. Does it know when it is wrong? · *further*
#
# **Question:** of the entities that the CRF is 80% sure of, are 80% right?
#
# `predict_proba` gives the **marginal** probability of each tag at each token (by forward and backward sums; notebook
# 11 takes the derivative of $\log Z$, which is the same). For an entity over tokens $i \dots j$ with tags $y_i \dots
# y_j$ and marginals $p_k = p(y_k \mid x)$, the probability that *all* these tags hold lies between two bounds
# (Fréchet):
#
# $$ \max\Big(0,\ 1 - \sum_{k=i}^{j} (1 - p_k)\Big) \;\le\; p(y_i, \dots, y_j \mid x) \;\le\; \min_k p_k . \tag{2} $$
#
# (If one tag fails with probability $1 - p_k$, any of them fails with at most the sum of these; and all hold together
# at most as often as the least likely one.) `entity_confidence` computes both. We take the upper bound as the
# **confidence**, and print how far the lower one is.


# %%
def scored(gold, predicted):
    """Bounds (entities, 2) of what was predicted, and whether each is right (entities,)."""
    both = np.concatenate(entity_confidence(tagger, predicted))
    pairs = zip(gold, predicted)
    right = [e in true.entities for true, tagged in pairs for e in tagged.entities]
    return both, np.array(right)


both_bounds, right = scored(test, test_found)
lower, confidence = both_bounds.T
gap = confidence - lower
print(f"{len(right):,} entities: mean confidence {confidence.mean():.3f}, ", end="")
print(f"precision {right.mean():.3f}")
print(f"upper minus lower bound: mean {gap.mean():.3f}; ", end="")
print(f"below 0.05 for {(gap < 0.05).mean():.0%} of them")

# %% [markdown]
# A **reliability diagram** puts predictions into $M$ bins by confidence and draws, for each, the share that is right.
# The **expected calibration error** is the weighted mean distance from the diagonal (Naeini et al. 2015; Guo et al.
# 2017, eq. 3), with $n_m$ of $n$ predictions in bin $m$:
#
# $$ \mathrm{ECE} = \sum_{m=1}^{M} \frac{n_m}{n} \, \big|\, \mathrm{acc}_m - \mathrm{conf}_m \,\big| . \tag{3} $$
#
# It is a mean of absolute values, so it is **biased upwards** when the true gaps are small: in a perfectly calibrated
# tagger each bin is off by chance. How much? We make such data: the same confidences, and "right" drawn with exactly
# that probability, independently. (Entities of one abstract are not, so chance can do more.)
#
# **Predict before you run:** does that bias grow or shrink with the number of bins? And with the number of predictions?


# %%
def bins_of(confidence, bins):
    """Bins with equally many predictions in each: a list of index arrays."""
    order = np.argsort(confidence, kind="stable")
    return [part for part in np.array_split(order, bins) if len(part)]


def ece(confidence, right, bins=10):
    """Expected calibration error, eq. 3, in bins of equal number."""
    total = 0.0
    for b in bins_of(confidence, bins):
        total += len(b) * abs(right[b].mean() - confidence[b].mean())
    return total / len(confidence)


def perfect_ece(confidence, bins=10, draws=200, seed=0):
    """The ECE of perfectly calibrated predictions with these confidences: (draws,)."""
    generator, n = np.random.default_rng(seed), len(confidence)
    drawn = (generator.random(n) < confidence for _ in range(draws))
    return np.array([ece(confidence, right, bins) for right in drawn])


# %%
generator, rows = np.random.default_rng(1), {}
for size in sorted({min(size, len(confidence)) for size in (100, 500, len(confidence))}):
    some = generator.choice(len(confidence), size, replace=False)
    for bins in (5, 10, 50):
        perfect = perfect_ece(confidence[some], bins)
        rows[size, bins] = {
            "ECE": f"{ece(confidence[some], right[some], bins):.3f}",
            "mean if perfectly calibrated": f"{perfect.mean():.3f}",
            "95% of draws": written(interval(perfect)),
        }
pd.DataFrame(rows).T.rename_axis(["predictions", "bins"])

# %% [markdown]
# The bias grows with the number of bins and shrinks with the number of predictions: what counts is how many fall into a
# bin. So an ECE means something only beside its value for perfect calibration at the same $n$ and $M$. (Roelofs et al.
# 2022 find bins of equal number less biased than bins of equal width, which is why they are used here.)
#
# Can it be mended? **Platt scaling** (Platt 1999): two numbers $a, b$ with
# $p' = \sigma(a \,\mathrm{logit}(p) + b)$. The logit $\log \frac{p}{1 - p}$ turns a probability into any number, and
# $\sigma$, the logistic function, is its inverse; so $a$ stretches the confidences on that scale, and $b$ shifts them.
# Both are chosen on `dev`, so that what happened there is as probable as possible, and tried on `test`.

# %%
dev = bc5cdr.dev[: course.pick(test=200, cpu=1500, gpu=4000)]
dev_bounds, dev_right = scored(dev, tagger.predict(dev))
dev_confidence = dev_bounds[:, 1]


def scaled(p, a, b):
    return expit(a * logit(np.clip(p, 1e-6, 1 - 1e-6)) + b)


def negative_log_likelihood(parameters):
    p = np.clip(scaled(dev_confidence, *parameters), 1e-9, 1 - 1e-9)
    return -np.where(dev_right, np.log(p), np.log(1 - p)).mean()


platt = minimize(negative_log_likelihood, [1.0, 0.0], method="Nelder-Mead").x
calibrations = {"as it is": confidence, "scaled on dev": scaled(confidence, *platt)}

# %%
a, b = platt
print(f"a = {a:.2f}, b = {b:.2f}, fitted on {len(dev_right):,} entities of dev")
rows = {}
for name, p in calibrations.items():
    perfect, measured = perfect_ece(p), ece(p, right)
    rows[name] = {
        "ECE on test": f"{measured:.3f}",
        "mean if perfectly calibrated": f"{perfect.mean():.3f}",
        "95% of draws": written(interval(perfect)),
        "more than chance": "yes" if measured > interval(perfect)[1] else "no",
    }
pd.DataFrame(rows).T

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(5, 3.6))
lowest = 1.0
for k, (name, p) in enumerate(calibrations.items()):
    bins = bins_of(p, 10)
    x, y = (np.array([values[b].mean() for b in bins]) for values in (p, right))
    error = np.sqrt(np.maximum(y * (1 - y), 1e-9) / [len(b) for b in bins])
    axes.errorbar(x, y, 2 * error, marker="o", capsize=3, color=COLOURS[k], label=name)
    lowest = min(lowest, x.min(), (y - 2 * error).min())
limits = (max(0, lowest - 0.03), 1.02)
axes.plot(limits, limits, color="grey", lw=1, ls="--")
axes.set(xlim=limits, ylim=limits)
axes.set(xlabel="mean confidence in the bin", ylabel="share that is right (± 2 SE)")
too = "too sure" if confidence.mean() > right.mean() else "not sure enough"
means = f"confidence {confidence.mean():.2f}, right {right.mean():.2f}"
axes.set_title(f"On the whole it is {too}: {means}", fontsize=10)
axes.legend(loc="upper left", fontsize=9)
plt.show()

# %% [markdown]
# In the run shown scaling more than halves the error, and more than chance is left. Is the CRF too sure only because
# the upper bound was taken? Not in the run shown: the lower bounds, on average 0.041 below the upper ones (0.884), are
# above the precision of 0.828, too. Calibration is measured on entities that were *predicted*; it says nothing of those
# that were missed. And it holds for texts like these: on another kind of text the confidences are not to be trusted
# before they are measured there.
#
# ## 9. The learning curve · *further*
#
# **Question:** would more annotated abstracts help?
#
# NCBI-disease, whole abstracts. We train on growing random choices and score on the official test abstracts; each seed
# is another order of the training abstracts, and each choice contains the smaller ones. It takes less than a minute on
# the `cpu` profile. A line such as *1 of 687 entities cannot be learnt* says that a mention begins or ends inside a
# token, so that no tags can say it (notebook 09).


# %%
def doubt(tagger, document):
    """Minus the log of the probability of the tagger's own best answer, at least 0."""
    (probability,) = tagger.confidence([document])
    return -np.log(max(probability, 1e-300))


def next_abstracts(strategy, candidates, number, tagger):
    """So many of the candidates (places in `pool`, in random order), by a strategy."""
    if strategy == "random":
        return candidates[:number]
    value = {}
    # To ask about all of them would cost time.
    for k in candidates[: course.pick(test=15, cpu=150, gpu=500)]:
        length = len(pool[k].tokens) if strategy == "doubt per token" else 1
        value[k] = doubt(tagger, pool[k]) / length
    return sorted(value, key=value.get, reverse=True)[:number]


# %%
def grow(seed, strategy, sizes):
    """Yields (abstracts, tokens, mentions, F1 on the exam) at each size."""
    order = random.Random(seed).sample(range(len(pool)), len(pool))
    chosen, tagger = [], None
    for size in sizes:
        rest = [k for k in order if k not in chosen]
        # The first few are random for every strategy, the same for all.
        how = strategy if tagger else "random"
        chosen += next_abstracts(how, rest, size - len(chosen), tagger)
        documents = [pool[k] for k in chosen]
        tagger = train_crf(documents)
        tokens = sum(len(document.tokens) for document in documents)
        mentions = sum(len(document.entities) for document in documents)
        f1 = evaluate(exam, tagger.predict(exam), resamples=0).f1
        yield len(chosen), tokens, mentions, f1


# %%
SEEDS = range(course.pick(test=2, cpu=6, gpu=8))
if len(pool) < 100:  # the course's own corpus
    few, more = [3, 6, 12], [24]
else:
    few = course.pick(test=[3, 6, 12], cpu=[10, 20, 40, 80], gpu=[10, 20, 40, 80, 160])
    more = course.pick(test=[24], cpu=[160, 320], gpu=[320])
many = [*few, *more, len(pool)]


def sizes_for(seed):
    """Large parts are dear, and all abstracts are the same set for every seed."""
    if seed == 0:
        return many
    return many[:-1] if seed < len(SEEDS) / 2 else many[: len(few) + 1]


runs = {"random": {}}
for seed in tqdm(SEEDS, "seeds"):
    runs["random"][seed] = list(grow(seed, "random", sizes_for(seed)))

# %% [markdown]
# Can one foretell, from half the data, what the whole will give? Two forms are common, for $N$ abstracts: a straight
# line in $\log N$, and a power law that levels off (Hestness et al. 2017 found such laws for errors in several fields):
#
# $$ F(N) = u + g \log_2 N, \qquad F(N) = u - g\, N^{-c} . \tag{4} $$
#
# Both are fitted without the largest size, which they then have to foretell. For a given $c$ the power law is linear in
# $u$ and $g$, so we try a grid of $c$. How sure is what they foretell? We resample the seeds, as section 4 does with
# sentences, and fit again.
#
# **Predict before you run:** which of the two foretells too much?


# %%
def least_squares(f, *columns):
    """The coefficients with which the columns fit f best, and the squared errors' sum."""
    design = np.stack(columns, axis=1)
    coefficients, *_ = np.linalg.lstsq(design, f, rcond=None)
    return coefficients, ((design @ coefficients - f) ** 2).sum()


def two_laws(n, f):
    """Eq. 4 fitted to F1 values f at sizes n: {name: (function of n, coefficients)}."""
    ones = np.ones_like(n)
    (start, gain), _ = least_squares(f, ones, np.log2(n))
    fits = {c: least_squares(f, ones, -(n**-c)) for c in np.arange(0.05, 2.01, 0.05)}
    below_1 = [c for c in fits if fits[c][0][0] <= 1]  # no F1 levels off above 1
    c = min(below_1, key=lambda c: fits[c][1], default=0.05)
    (top, drop), _ = fits[c]
    return {
        "straight line in log N": (lambda n: start + gain * np.log2(n), (start, gain)),
        "power law": (lambda n: top - drop * n**-c, (top, drop, c)),
    }


# %%
def standard_error(values):
    """Of the mean of some values; not a number where there is but one."""
    return np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan


def f1_at(step, some_runs):
    """F1 at that step of the runs that went so far."""
    return [run[step][3] for run in some_runs if step < len(run)]


curve = {size: f1_at(k, runs["random"].values()) for k, size in enumerate(many)}
n, f = np.array(many, float), np.array([np.mean(values) for values in curve.values()])
laws = two_laws(n[:-1], f[:-1])

# %%
steps = range(len(many) - 1)
long = [run for run in runs["random"].values() if len(run) >= len(steps)]
short = [run for run in runs["random"].values() if len(run) < len(steps)]
generator, again = random.Random(0), defaultdict(list)
for _ in range(200):
    # Resampled apart, so that there are always some with the larger sizes.
    drawn = generator.choices(long, k=len(long)) + generator.choices(short, k=len(short))
    means = np.array([np.mean(f1_at(k, drawn)) for k in steps])
    for name, (law, _) in two_laws(n[:-1], means).items():
        again[name].append(law(n[-1]))

# %%
(_, slope), (top, _, c) = (coefficients for _, coefficients in laws.values())
print(f"each doubling brings {100 * slope:.1f} points (line); ", end="")
print(f"the power law levels off at {top:.3f} (c = {c:.2f})")
rows = {
    name: {
        f"foretold for {many[-1]} abstracts": f"{law(n[-1]):.3f}",
        "seeds resampled": written(interval(again[name])),
        "measured": f"{f[-1]:.3f}",
        "points off": f"{100 * (law(n[-1]) - f[-1]):+.1f}",
    }
    for name, (law, _) in laws.items()
}
pd.DataFrame(rows).T

# %% tags=["figure"]
figure, axes = plt.subplots(figsize=(6.5, 3.3))
for run in runs["random"].values():
    sizes, _, _, values = zip(*run)
    axes.plot(sizes, values, color=COLOURS[0], alpha=0.25, lw=1)
error = [standard_error(values) for values in curve.values()]
label = "mean of the seeds ± SE"
axes.errorbar(n, f, error, marker="o", capsize=3, color=COLOURS[0], label=label)
grid = np.geomspace(n[0], 2 * n[-1], 100)
for k, (name, (law, _)) in enumerate(laws.items(), start=1):
    label = f"{name}, fitted without the last"
    axes.plot(grid, law(grid), ls="--", lw=1.2, color=COLOURS[k], label=label)
axes.set(xscale="log", xlabel="training abstracts")
axes.set_ylabel("F1 on the test abstracts, strict")
axes.set_xticks(many, many)
axes.minorticks_off()
axes.legend(fontsize=8, loc="lower right")
last = f"{100 * (f[-1] - f[-2]):+.1f} points of F1"
axes.set_title(f"From {many[-2]} to {many[-1]} abstracts: {last}")
plt.show()

# %% [markdown]
# The thin lines are single seeds: with few abstracts, much depends on *which* ones you happened to annotate. The large
# parts are dear, so their means are of fewer runs; the last point is one run, without an error. All seeds share one
# exam, whose own interval (section 4) comes on top. And that a law came near once does not make it a law for your
# corpus.
#
# ## 10. Which abstracts to annotate: active learning against chance · *further*
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
# A long text has a less probable best sequence because it is long, and costs more to annotate.
#
# **Predict before you run:** counted in abstracts, which strategy wins? Counted in tokens read?

# %%
for strategy in ["doubt", "doubt per token"]:
    runs[strategy] = {}
    for seed in tqdm(SEEDS, strategy):
        runs[strategy][seed] = list(grow(seed, strategy, few))


def gain_over_random(strategy, seed, step):
    """F1 above random choice with that seed: at equal abstracts, at equal tokens."""
    _, tokens, _, f1 = runs[strategy][seed][step]
    _, random_tokens, _, random_f1 = np.transpose(runs["random"][seed])
    at_these = np.interp(np.log(tokens), np.log(random_tokens), random_f1)
    return f1 - random_f1[step], f1 - at_these


def gains(strategy, step):
    """In points of F1, for each seed: array (seeds, 2)."""
    return 100 * np.array([gain_over_random(strategy, seed, step) for seed in SEEDS])


# %%
EQUAL = ["abstracts", "tokens"]
rows, compared = {}, {}
for strategy in ["doubt", "doubt per token"]:
    for k, size in list(enumerate(few))[1:]:
        row = {}
        for equal, values in zip(EQUAL, gains(strategy, k).T):
            mean, error = values.mean(), standard_error(values)
            row[f"above random at equal {equal}"] = f"{mean:+.1f} ± {error:.1f}"
            compared[strategy, size, equal] = mean / error
        rows[strategy, size] = row
far = [", ".join(map(str, key)) for key, away in compared.items() if abs(away) > 3]
print(f"of {len(compared)} differences, beyond 3 standard errors ", end="")
print(f"({len(SEEDS)} seeds): {'; '.join(far) or 'none'}")
pd.DataFrame(rows).T.rename_axis(["points of F1", "abstracts"])

# %% tags=["figure"]
figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for column, axes in enumerate(panels):
    for k, strategy in enumerate(runs):
        length = len(few) + 1 if strategy == "random" else len(few)
        values = np.array([runs[strategy][seed][:length] for seed in SEEDS])
        x, f1 = values[..., column].mean(0), values[..., 3].mean(0)
        error = [standard_error(step) for step in values[..., 3].T]
        bars = axes.errorbar(x, f1, error, marker="o", capsize=3, color=COLOURS[k])
        bars.set_label(strategy)
        if strategy == "random":
            ticks = x
    axes.set(xscale="log", xlabel=f"{EQUAL[column]} annotated")
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    last = [gains(name, len(few) - 1)[:, column] for name in ("doubt", "doubt per token")]
    doubts, per_token = (
        f"{gain.mean():+.1f} ± {standard_error(gain):.1f}" for gain in last
    )
    title = f"At equal {EQUAL[column]}, last step: doubt {doubts},"
    axes.set_title(f"{title}\ndoubt per token {per_token} points (SE)", fontsize=10)
panels[0].set_ylabel("F1 on the test abstracts (± SE)")
panels[0].legend(fontsize=9)
plt.show()

# %%
# (steps, 4), the mean over the seeds
chance = np.mean([run[: len(few) + 1] for run in runs["random"].values()], axis=0)


def needed_at_random(column, f1):
    """Abstracts (column 0) or tokens (1) with which random choice reaches an F1."""
    return np.exp(np.interp(f1, chance[:, 3], np.log(chance[:, column])))


# %%
rows = {}
for strategy in ("doubt", "doubt per token"):
    for column, equal in enumerate(EQUAL):
        used = np.mean([run[-1][column] for run in runs[strategy].values()])
        level = np.interp(np.log(used), np.log(chance[:, column]), chance[:, 3])
        gain = gains(strategy, len(few) - 1)[:, column] / 100
        ends = gain.mean() + standard_error(gain) * np.array([-2, 0, 2])
        low, middle, high = needed_at_random(column, level + ends)
        verdict = "fewer needed" if used < low else "more needed" if used > high else ""
        rows[strategy, equal] = {
            "used": f"{used:,.0f}",
            "random choice needs": f"{middle:,.0f}",
            "with the gain ± 2 SE": written((low, high), ",.0f"),
            "verdict": verdict or "nothing shown",
        }
print("to reach the F1 of the last step (read off the mean curve of random choice):")
pd.DataFrame(rows).T

# %% [markdown]
# Every seed starts all strategies from the same abstracts, so the differences are paired; but the seeds are few, and of
# many differences some lie beyond two standard errors by chance. In the run shown none lies beyond three; the farthest
# (-2.9 ± 1.0) speaks *against* doubt: its first choice, at equal tokens. The last table shows no saving, neither in
# abstracts nor in tokens. (With six seeds two standard errors are about a 90% interval.)
#
# This is a weak form of active learning: few rounds, each of which doubles the training set, and a random part of the
# pool to ask about. What any simulation leaves out: a training set chosen *by this CRF* need not suit the next model;
# and a test set must never be chosen that way.
#
# ## 11. Your own file · *further*
#
# **Question:** does any of this work on *your* entities?
#
# Every reader gives the same `Sentence`, and no part of the code knows the types beforehand. As an example we write a
# file about **minerals**, in CoNLL columns (a word and its *inside-outside* tag on each line, an empty line after each
# sentence; B- begins a name, I- is inside, O outside), and the same as JSONL and PubTator.


# %%
def names_listed(text):
    return [name.strip() for name in text.split(",")]


MINERALS = names_listed("""
    quartz, albite, pyrite, galena, olivine, iron sulfide, calcite, dolomite,
    potassium feldspar, halite, gypsum, zircon, rutile, barite, fluorite, kyanite,
    native copper, magnetite, hematite, white mica, augite, talc, beryl, apatite
""")
PLACES = names_listed("""
    a granite, the vein, a thin section, the basalt, an old quarry, the dry lake,
    a drill core
""")
FORMS = [
    "{a} and {b} were seen in {place} .",
    "In {place} , grains of {a} surround {b} .",
    "No {a} occurs in {place} .",
    "{place} is rich in {a} but poor in {b} .",
    "We dated {a} from {place} .",
    "Samples of {place} were polished .",
    "The contact between {a} and {b} is sharp .",
    "X-ray patterns of {a} changed after heating .",
]

# %%
draw = random.Random(0)


def mineral_sentence():
    """The lines of one sentence: a word and its tag, with a tab between."""
    names, lines = dict(zip(["{a}", "{b}"], draw.sample(MINERALS, 2))), []
    for word in draw.choice(FORMS).replace("{place}", draw.choice(PLACES)).split():
        first, *others = names.get(word, word).split()
        tags = ("B-Mineral", "I-Mineral") if word in names else ("O", "O")
        lines += [f"{first}\t{tags[0]}", *(f"{other}\t{tags[1]}" for other in others)]
    return [*lines, ""]


lines = [line for _ in range(150) for line in mineral_sentence()]
folder = course.build / "nb12"
folder.mkdir(parents=True, exist_ok=True)
(folder / "minerals.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
print("\n".join(lines[:11]))

# %%
# NBVAL_CHECK_OUTPUT
minerals = read_sentences(folder / "minerals.conll")
write_jsonl(minerals, folder / "minerals.jsonl")
write_pubtator(minerals, folder / "minerals.pubtator")
for name in ["minerals.jsonl", "minerals.pubtator"]:
    again = read_sentences(folder / name)
    assert [s.text for s in again] == [s.text for s in minerals]
    assert [s.entities for s in again] == [s.entities for s in minerals]
types = sorted({e.type for sentence in minerals for e in sentence.entities})
print(f"{len(minerals)} sentences, types {types}; three formats agree")

# %% [markdown]
# **Put the path of your file here.** `None` takes the minerals. Endings `.jsonl` and `.pubtator` (also `.pubtator.txt`)
# are read as that, everything else as CoNLL columns with the tag in the last one. A line that cannot be read is named
# with its number and what was expected.

# %%
MY_FILE = None  # for example "my/annotations.conll"


# %%
def split_by_document(sentences, test_share=0.3, seed=0):
    """Train and test; a sentence without a document's name is a document by itself."""
    documents = defaultdict(list)
    for sentence, document in zip(sentences, documents_of(sentences)):
        documents[document].append(sentence)
    order = list(documents.values())
    random.Random(seed).shuffle(order)
    cut = round(len(order) * test_share)
    parts = order[cut:], order[:cut]
    return [[sentence for document in part for sentence in document] for part in parts]


# %%
def recall_table(totals):
    """Names found, names asked for, and that share's exact interval (Clopper, Pearson)."""
    rows = {}
    for kind, (hits, mentions) in totals.items():
        exact = "none"
        if mentions:
            exact = written(
                binomtest(int(hits), int(mentions)).proportion_ci(method="exact")
            )
        rows[kind] = {"found": hits, "mentions": mentions, "recall, exact 95%": exact}
    return pd.DataFrame(rows).T


# %%
def study(path):
    """Train a CRF on a part of a file, and test it on the rest as this notebook does."""
    sentences = [sentence for sentence in read_sentences(path) if sentence.tokens]
    train, test = split_by_document(sentences)
    exact, near = copies(train, test)
    print(f"{len(train)} to train on, {len(test)} to test on; ", end="")
    print(f"{len(exact)} exact and {len(near)} near copies left out")
    test = [sentence for k, sentence in enumerate(test) if k not in {*exact, *near}]
    tagger = train_crf(train)
    predicted = tagger.predict(test)
    display(score_table(evaluate(test, predicted, groups=documents_of(test))))
    found_of = share_by_novelty(test, predicted, novelty(train))
    totals = {kind: table.sum(0).astype(int) for kind, table in found_of.items()}
    display(recall_table({**totals, "all": sum(totals.values())}))
    print("errors:", dict(Counter(kind for kind, *_ in errors(test, predicted))))
    return tagger, test, predicted


# %%
my_tagger, my_test, my_predicted = study(MY_FILE or folder / "minerals.conll")
show_entities(my_predicted[:3], titles=["found 1", "found 2", "found 3"])

# %% [markdown]
# Sentences made from eight patterns are easy; such a file says nothing about a real text. Where nothing is wrong the
# bootstrap has no mistake to draw: all its test sets score 1, and it gives no interval (*none* in the table). That does
# not make the score certain. The exact interval of the recall (Clopper & Pearson 1934, which takes mentions as
# independent) says so: in the run shown a tagger that misses one mention in twenty would still find all 54 of 54 in one
# test out of sixteen. If your sentences come from longer documents, say which (the key `document` in JSONL): `study`
# then keeps each document on one side (section 7) and draws whole documents for the interval (section 4).
#
# The tagger can be kept, loaded and used elsewhere, also without a notebook (`python -m utils.ner --help`).

# %%
my_tagger.save(folder / "my-crf")
again = load_tagger(folder / "my-crf")
assert again.predict(my_test) == my_predicted
print("saved, loaded, and the same predictions")
MY_TEXT = "Pyrite and native copper were found in the vein. No gypsum occurs in a granite."
show_entities(read(again, MY_TEXT))

# %% [markdown]
# ## 12. Check: the same thing in `utils` · *further*
#
# The rules and intervals are those of `utils/ner/evaluation.py` and `utils/ner/bc2.py`.

# %%
# NBVAL_CHECK_OUTPUT
report, drawn = evaluate(test, test_found), f1_of(bootstrap(test_counts))
theirs = report.precision, report.recall, report.f1
np.testing.assert_allclose(span_f1(spans_of(test), spans_of(test_found)), theirs, rtol=1e-6)
np.testing.assert_allclose(bootstrap(test_counts), resample(test_counts), rtol=1e-12)
np.testing.assert_allclose(report.intervals["f1"], interval(drawn), rtol=1e-12)
print("strict precision, recall, F1 and bootstrap interval agree")

# %%
# NBVAL_CHECK_OUTPUT
for predicted in gene_found.values():
    by_hand = []
    for sentence, tagged in zip(gene_test, predicted):
        gold = set(official.genes.get(sentence.id, []))
        accepted = set(official.alternatives.get(sentence.id, []))
        found_there = set(places_of(tagged.entities, sentence.text))
        by_hand.append(official_by_hand(gold, accepted, found_there))
    np.testing.assert_array_equal(by_hand, count(gene_test, predicted, "bc2", official))

generator = random.Random(0)


def random_places():
    starts = [generator.randrange(20) for _ in range(generator.randrange(5))]
    return {(start, start + generator.randrange(4)) for start in starts}


for _ in range(2000):
    sides = [random_places() for _ in range(3)]  # gold, alternatives, predicted
    assert official_by_hand(*sides) == official_counts(*map(list, sides))
print("official counts agree")

# %% [markdown]
# ## 13. Play: how sure must it be? · *further*
#
# A curator wants few wrong entities, a search engine few missed ones. Keep only entities whose confidence is at least a
# **threshold**.


# %%
def kept_at(threshold):
    """Correct, predicted, gold when only entities of at least that confidence are kept."""
    keep = confidence >= threshold
    return np.array([right[keep].sum(), keep.sum(), test_counts[:, 2].sum()], float)


THRESHOLDS = np.linspace(0, 0.99, 100)
CURVE = np.array([kept_at(threshold) for threshold in THRESHOLDS])
RECALL, PRECISION = CURVE[:, 0] / CURVE[:, 2], CURVE[:, 0] / np.maximum(CURVE[:, 1], 1)


# %% tags=["figure"]
def draw_threshold(threshold=0.5):
    """Precision against recall for all thresholds, and where this one lies."""
    correct, predicted, gold = counts = kept_at(threshold)
    recall, precision = correct / gold, correct / max(predicted, 1)
    figure, (left, middle) = plt.subplots(1, 2, figsize=(8.5, 3))
    left.plot(RECALL, PRECISION, color=COLOURS[0])
    left.plot(recall, precision, "o", color=COLOURS[1])
    left.set(xlabel="recall", ylabel="precision")
    left.set_title(f"Precision {precision:.3f}, recall {recall:.3f}")
    parts, edges = [confidence[right], confidence[~right]], np.linspace(0, 1, 21)
    middle.hist(parts, edges, stacked=True, color=COLOURS[:2], label=["right", "wrong"])
    middle.axvline(threshold, color="black", lw=1)
    middle.set(xlabel="confidence", ylabel="entities predicted")
    kept = f"Threshold {threshold:.2f} keeps {predicted:,.0f}"
    middle.set_title(f"{kept}: F1 {f1_of(counts):.3f}")
    middle.legend()
    return figure


# %%
for threshold in (0.0, 0.9):
    draw_threshold(threshold)
    plt.show()
f1 = f1_of(CURVE)
best = f1.argmax()
print(f"F1 without a threshold {f1[0]:.4f}; ", end="")
print(f"highest {f1[best]:.4f}, at {THRESHOLDS[best]:.2f}")

# %%
play(draw_threshold, threshold=(0.0, 0.99, 0.01))

# %% [markdown]
# A threshold only removes: recall can fall and never rise. The highest F1 printed is chosen on these very test
# sentences, so it flatters; a threshold is chosen on `dev`.
#
# ## 14. Exercises · *further*
#
# As in *your turn*, with `hint("12.3")`, `solution("12.3")`, and so on.
#
# ### 12.3 *(further)* Right at one end
#
# Tsai et al. (2006) compare matching criteria, among them left-match and right-match: only that boundary has to be
# right, and the type. Each gold mention pays for one prediction at most, and each prediction counts once. Count the
# correct ones of a sentence, as many as can be paired.


# %%
def one_end_correct(gold, predicted, end):
    """How many predictions pair with a gold mention of the same type and the same `end`.

    gold, predicted: sets of (start, end, type) of one sentence.
    end: "left" compares starts, "right" ends.
    """
    raise NotImplementedError


check("12.3", one_end_correct)

# %% [markdown]
# ### 12.4 *(further)* Calibration without the bias
#
# Eq. 3 takes absolute values. Take squares instead, and the part that is due to chance can be subtracted: if all
# predictions of bin $m$ have the same chance of being right, $\mathrm{acc}_m (1 - \mathrm{acc}_m) / (n_m - 1)$
# estimates it without bias (Bröcker 2012; Ferro & Fricker 2012; Kumar et al. 2019). Return
#
# $$ \sum_m \frac{n_m}{n}\Big[(\mathrm{acc}_m - \mathrm{conf}_m)^2 -
# \frac{\mathrm{acc}_m (1 - \mathrm{acc}_m)}{n_m - 1}\Big], $$
#
# which can be negative.


# %%
def debiased_squared_error(confidence, right, bins):
    """Squared calibration error without what is due to chance; it can be negative.

    confidence: (n,) in [0, 1]. right: (n,) booleans.
    bins: list of index arrays, each index in one of them, at least two in each.
    """
    raise NotImplementedError


check("12.4", debiased_squared_error)

# %% [markdown]
# ### 12.5 *(further)* A split that does not leak
#
# Sentences that share a run of `length` words are to stand on the same side, and so are those that hang together
# through others (A with B, B with C). Find the groups.


# %%
def groups_that_share(sentences, length):
    """Groups of sentences that hang together by shared runs of `length` words.

    sentences: list of lists of words.
    Returns a list of sets of sentence numbers; every number is in exactly one.
    Sentences may hang together directly or through others.
    """
    raise NotImplementedError


check("12.5", groups_that_share)

# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $P$, $R$, $F_1$ | `span_f1`; `evaluate(gold, predicted, mode)` | eq. 1, strict; also "partial", "type", "bc2" |
# | | `bootstrap(counts)`, `paired_bootstrap` | resampled test sets; interval of a difference |
# | $x$, $y_k$, $p_k$ | `tagger.predict_proba` | a text; the tag of its token $k$; that tag's marginal probability, eq. 2 |
# | $\sigma$, $a$, $b$ | `scaled`, `platt` | logistic function; Platt scaling |
# | $M$, $m$, $n$ | `bins_of` | number of bins; one of them; number of predictions |
# | $n_m$, $\mathrm{acc}_m$, $\mathrm{conf}_m$ | `ece` | size of a bin, share right in it, mean confidence; eq. 3 |
# | $N$, $F(N)$ | `two_laws` | abstracts to train on; F1 from so many, eq. 4 |
# | $u$, $g$, $c$ | `two_laws` | coefficients of that learning curve |
# | $\hat y$ | `doubt(tagger, document)` | the most probable tags; how hard a text is, eq. 5 |
#
# 1. A score without its rules, its interval and its share of unseen names cannot be compared with anything.
# 2. Errors are counted in classes and read at random; confidences are checked against what chance alone would show.
# 3. What helps can be asked by simulation on annotation that exists; and a leak between train and test undoes all of it
#    without a sound.
#
# **Next:** [13 · Domain adaptation](13_domain_adaptation.ipynb): what to do when the texts to be read are of another
# kind than the annotated ones.
#
# ### References
# - Smith et al. 2008, *Overview of BioCreative II gene mention recognition*, Genome Biology 9: S2.
# - Li et al. 2016, *BioCreative V CDR task corpus*, Database, baw068. Doğan, Leaman, Lu 2014, *NCBI disease corpus*, J.
#   Biomed. Inform. 47: 1.
# - Efron 1979, *Bootstrap methods: another look at the jackknife*, Annals of Statistics 7: 1.
# - Clopper, Pearson 1934, *The use of confidence or fiducial limits*, Biometrika 26: 404.
# - Yeh 2000, *More accurate tests for the statistical significance of result differences*, COLING.
# - Naeini, Cooper, Hauskrecht 2015, *Obtaining well calibrated probabilities using Bayesian binning*, AAAI.
# - Guo, Pleiss, Sun, Weinberger 2017, *On calibration of modern neural networks*, arXiv 1706.04599: section 2, eq. 3.
# - Kumar, Liang, Ma 2019, *Verified uncertainty calibration*, arXiv 1909.10155.
# - Roelofs, Cain, Shlens, Mozer 2022, *Mitigating bias in calibration error estimation*, arXiv 2012.08668; it cites
#   Bröcker 2012 and Ferro & Fricker 2012 for the debiased estimator.
# - Platt 1999, *Probabilistic outputs for support vector machines*, in Advances in Large Margin Classifiers.
# - Culotta, McCallum 2005, *Reducing labeling effort for structured prediction tasks*, AAAI.
# - Settles, Craven 2008, *An analysis of active learning strategies for sequence labeling tasks*, EMNLP.
# - Hestness et al. 2017, *Deep learning scaling is predictable, empirically*, arXiv 1712.00409.
# - Tsai et al. 2006, *Various criteria in the evaluation of biomedical named entity recognition*, BMC Bioinformatics 7:
#   92.
