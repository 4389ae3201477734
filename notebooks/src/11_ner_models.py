# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 11 · NER models
#
# {{badge}}
#
# One task, one scorer, a ladder of models. The task is to find gene and protein names in sentences from MEDLINE. We
# climb from a regular expression to a Transformer and to several systems that vote, and measure on every rung what
# the step has bought and what it has cost.
#
# **At the end you will have** built by hand, and checked against `utils/ner`: Aho and Corasick's automaton; a
# linear-chain CRF (forward algorithm, Viterbi, training) in less than 60 lines of PyTorch; a character CNN and the
# alignment of words with word pieces; the vote of BioTagger-GM. And a figure of F1 against training time.
#
# **You need** Python, basic PyTorch (`nn.Module`, an optimiser), what training a network means (*loss*: the number that
# is made small; *epoch*: one pass over the training sentences), and what BIO tags and F1 on spans are (notebook 09).
# Without the PyTorch, read sections 1 to 3, 7 and 8, and of sections 4 to 6 the text and the results.
#
# **Time:** three and a half minutes in the run shown, on two cores with bf16 instructions. Machines without them take
# two to four times as long: with one thread, beside other work, it was 12 minutes. Every rung learns from a part of the
# corpus, the same for all. The GPU profile takes all of it (not measured here). The longest cells are the CRFs of
# sections 4 and 7 and the training of sections 5 and 6. Comments that say `noqa` or `NBVAL_CHECK_OUTPUT` are for the
# tools that test this page.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import itertools
import json
import math
import random
import re
import time
from collections import Counter, deque
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pycrfsuite
import torch
from IPython.display import display
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm

pd.set_option("display.max_colwidth", None)

# %%
from utils.course import COLOURS, check, hint, name_bars, play, solution  # noqa: F401
from utils.ner import (
    Automaton,
    BiLSTMCRFTagger,
    BioTaggerGM,
    CRFTagger,
    DictionaryTagger,
    Entity,
    LinearChainCRF,
    RegexTagger,
    Sentence,
    TransformerTagger,
    VotingTagger,
    WordFeatures,
    difference,
    evaluate,
    from_tags,
    lexicon_names,
    load_corpus,
    load_lexicon,
    to_tags,
)

# %%
from utils.ner.bc2 import OfficialGold
from utils.ner.bilstm_crf import CharacterCNN
from utils.ner.display import show_entities
from utils.ner.encoders import INSTALL, find_minilm, load_encoder, make_random_encoder
from utils.ner.features import LexiconMatcher
from utils.ner.postprocess import STEPS, documents_of, postprocess
from utils.ner.transformer import align

# %% [markdown]
# ## 1. The task and the scorer
#
# **Question:** what is asked of every model, and how will we know which is better?
#
# The corpus is BC2GM, the gene mention task of BioCreative II: sentences of MEDLINE abstracts, one entity type,
# `GENE`, which stands for genes and proteins alike. Training all rungs on all of it takes too long for a lesson on
# two cores, so a part is drawn at random, **the same part for every rung**: what differs is the model, not the data.
# Where the corpus is not at hand, the course's own small corpus stands in, with its genes alone. The printed lines
# say which it is; scores on the own corpus say nothing about MEDLINE.

# %%
corpus = load_corpus("bc2gm")
counts = course.pick(test=(120, 40, 50), cpu=(1000, 300, 1000), gpu=(12_500, 2_500, 5_000))
SPLITS = ["train", "dev", "test"]


def draw_part(sentences, count):
    """`count` sentences at random, in the corpus's order; all where there are fewer."""
    chosen = random.Random(0).sample(range(len(sentences)), min(count, len(sentences)))
    return [sentences[i] for i in sorted(chosen)]


train, dev, test = (draw_part(corpus.split(name), n) for name, n in zip(SPLITS, counts))
rows = [
    {
        "sentences": len(part),
        "of": len(corpus.split(name)),
        "gene names": sum(len(sentence.entities) for sentence in part),
    }
    for name, part in zip(SPLITS, (train, dev, test))
]
pd.DataFrame(rows, index=SPLITS)


# %%
def words_of(sentence, entity):
    """The words that an entity covers."""
    return tuple(token.text for token in sentence.tokens if is_in(token, entity))


def is_in(token, entity):
    return entity.start < token.end and token.start < entity.end


def mentions_of(sentences):
    """The words of every gene name, sentence by sentence."""
    return [words_of(sentence, e) for sentence in sentences for e in sentence.entities]


mentions = set(mentions_of(train))
unseen = np.mean([words not in mentions for words in mentions_of(test)])
print(f"{unseen:.0%} of the names in test are no name in train, letter by letter")

# %% [markdown]
# The fewer sentences, the more names of the test part are new: with all 15,000 sentences of train and dev about 60% of
# BC2GM's test mentions are (notebook 09).

# %%
with_names = [sentence for sentence in train if sentence.entities]
empty = 1 - len(with_names) / len(train)
print(f"{empty:.0%} of the training sentences have no gene name; four of the others:")
show_entities(with_names[:4])

# %% [markdown]
# **The scorer.** A mention counts as found when its first character, its last character and its type are right. With
# $c$ correct mentions among $p$ predicted and $g$ gold ones,
#
# $$ P = \frac cp, \qquad R = \frac cg, \qquad F_1 = \frac{2PR}{P+R} = \frac{2c}{p+g} . \tag{1} $$
#
# The test part is a sample, so $F_1$ has an error. The **bootstrap** estimates it: draw as many sentences, with
# replacement, a thousand times, and see how far $F_1$ moves (Efron 1979). To compare *two* models, take the same
# draws for both and look at the difference: a sentence that is hard for both then cancels out. `evaluate` gives the
# interval of one model, `difference` that of two. Sentences of one document resemble each other, so whole documents
# are drawn (notebook 12); BC2GM's sentences come without their documents, so there each is one.


# %%
def f1_by_hand(gold, predicted):
    """Eq. (1)."""
    pairs = [(set(a.entities), set(b.entities)) for a, b in zip(gold, predicted)]
    correct = sum(len(true & found) for true, found in pairs)
    return 2 * correct / sum(len(true) + len(found) for true, found in pairs)


documents = documents_of(test)


def compare(first, second):
    """The difference of two predictions' F1, with its 95% interval, as text."""
    change, (low, high) = difference(test, first, second, groups=documents)
    return f"{100 * change:+.1f} (95% interval {100 * low:+.1f} to {100 * high:+.1f})"


# %% [markdown]
# **Check** against `evaluate`, on a prediction that forgets every third mention:

# %%
# NBVAL_CHECK_OUTPUT
forgetful = []
for sentence in test:
    kept = [e for k, e in enumerate(sentence.entities) if k % 3 < 2]
    forgetful.append(sentence.with_entities(kept))
by_utils = evaluate(test, forgetful, resamples=0).f1
assert math.isclose(f1_by_hand(test, forgetful), by_utils)
assert math.isclose(difference(test, test, forgetful)[0], 1 - by_utils)
assert compare(test, test).startswith("+0.0 ")
print("By hand and by utils: the same F1.")

# %% [markdown]
# **The ladder.** `climb` trains a tagger, times it, saves it to see how large it is, tags the test part, and puts the
# result on the ladder. Two clocks run. *Seconds on the wall* are what you wait; they grow when other work runs on the
# machine. *Processor seconds* (CPU s), all cores added up, grow far less; comparisons use them. The networks keep both
# cores busy, so that on two idle cores the wait is about half of their processor seconds, and beside other work longer;
# CRFsuite uses one core only. *sent./s* is how many sentences are tagged in a processor second (of a fast tagger, in
# the best of up to five runs; the CRFs, which remember the features of a word, have met the words by then). *MiB* is
# the size of the saved tagger. P, R, F1 and the interval of F1 are in per cent.


# %%
@dataclass
class Rung:
    """One measured model."""

    predicted: list  # on the test part
    training: np.ndarray  # seconds on the wall, of the processor
    tagging: np.ndarray
    size: int  # bytes on disk
    score: object  # what `evaluate` says


rungs = {}
FOLDER = course.build / "notebook11"


# %%
def read_clocks():
    return np.array([time.perf_counter(), time.process_time()])


def time_tagging(predict):
    """The test part as `predict` tags it, and the clocks of that."""
    predict(test[:1])  # what is loaded or compiled once is not counted
    runs = []
    # What is fast is timed five times, and the best counts: short times are soon disturbed.
    while not runs or (len(runs) < 5 and sum(runs)[1] < 2):
        started = read_clocks()
        predicted = predict(test)
        runs.append(read_clocks() - started)
    return predicted, min(runs, key=lambda run: run[1])


# %%
def ladder(names):
    """The table of these rungs."""
    rows = []
    for rung in (rungs[name] for name in names):
        low, high = rung.score.intervals["f1"]
        rows.append(
            {
                "wall s": f"{rung.training[0]:.1f}",
                "CPU s": f"{rung.training[1]:.1f}",
                # Two digits, as the clock holds no more.
                "sent./s": f"{float(f'{len(test) / rung.tagging[1]:.2g}'):,.0f}",
                "MiB": f"{rung.size / 2**20:.2f}",
                "P": f"{100 * rung.score.precision:.1f}",
                "R": f"{100 * rung.score.recall:.1f}",
                "F1": f"{100 * rung.score.f1:.1f}",
                "95% interval": f"{100 * low:.1f} to {100 * high:.1f}",
            }
        )
    return pd.DataFrame(rows, index=names)


# %%
def add_rung(name, predicted, tagging, training, size):
    """Score the tagged test part, keep what comes of it, and show it."""
    score = evaluate(test, predicted, groups=documents)
    rungs[name] = Rung(predicted, training, tagging, size, score)
    display(ladder([name]))


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def climb(name, tagger, train=train, dev=dev):
    """Train a tagger and add it to the ladder."""
    started = read_clocks()
    tagger.fit(train, dev)
    training = read_clocks() - started
    folder = FOLDER / name.replace(" ", "-")
    tagger.save(folder)
    add_rung(name, *time_tagging(tagger.predict), training, bytes_in(folder))


# %% [markdown]
# A score alone teaches little. So for every rung, mistakes **drawn at random**, a few of each kind (the number of all
# of that kind is in brackets):
#
# - *missed*: a gold mention that no prediction touches,
# - *invented*: a prediction that touches no gold mention,
# - *boundary*: a gold mention that is touched, but not by its equal.

# %%
KINDS = ("missed", "invented", "boundary")


def find_mistakes(predicted):
    """(kind, sentence, mention, what was predicted there) for every mistake on test."""
    for gold, found in zip(test, predicted):
        for e in set(gold.entities) - set(found.entities):
            touching = [other for other in found.entities if other.overlaps(e)]
            yield "boundary" if touching else "missed", gold, e, touching
        for e in set(found.entities) - set(gold.entities):
            if not any(e.overlaps(other) for other in gold.entities):
                yield "invented", gold, e, []


# %%
def show_mistakes(name, count=2):
    """`count` mistakes of each kind, drawn at random from all of that rung."""
    found = sorted(find_mistakes(rungs[name].predicted), key=lambda m: (m[1].text, m[2]))
    table = {}
    for kind in KINDS:
        some = [mistake for mistake in found if mistake[0] == kind]
        chosen = random.Random(11).sample(some, min(count, len(some)))
        for number, (_, sentence, e, touching) in enumerate(chosen, 1):
            table[f"{kind} ({len(some)})", number] = {
                "before": sentence.text[: e.start][-45:],
                "mention": e.text,
                "after": sentence.text[e.end :][:30],
                "predicted there": " | ".join(other.text for other in touching),
            }
    return pd.DataFrame(table).T


# %% [markdown]
# ## 2. Rung one: regular expressions
#
# **Question:** how far do you get with a look at the training sentences and half an hour?
#
# Many gene names *look* like gene names: letters with a number (`p53`), Greek letters (`TGF - beta`), a word such as
# `kinase` at the end. (BC2GM stores its tokens apart, so hyphens come with spaces around them; `HYPHEN` allows both.)
# Each idea is one expression. Its precision on the training part says what it is worth.
#
# **Predict before you run:** which of the five has the best precision? And will all five together have a better
# recall or a better precision?

# %%
HYPHEN = r"(?: ?- ?)"
HEADS = r"(?:protein|receptor|kinase|gene|factor|antigen|polymerase|phosphatase|oncogene)s?"
NO_GENES = r"(?:DNA|RNA|mRNA|cDNA|ATP|PCR|CI|RT|II|III|IV|USA|HIV)\b"
IDEAS = {
    "letters and number": rf"\b[A-Za-z]{{1,6}}{HYPHEN}?\d{{1,3}}[A-Za-z]?\b",
    "capitals": rf"\b(?!{NO_GENES})[a-z]?[A-Z]{{3,6}}\b",
    "Greek": rf"\b[A-Z][A-Za-z]*{HYPHEN}(?:alpha|beta|gamma|delta|kappa|α|β|γ|δ|κ)\b",
    "head word": rf"\b[A-Za-z]+{HYPHEN}?[A-Za-z\d]* {HEADS}\b",
    "ending": r"\b[a-z]{3,}(?:ase|globin|insulin)s?\b",
}
# Alternatives are tried in order, so the longest names come first.
ORDER = ("head word", "Greek", "letters and number", "capitals", "ending")
together = "|".join(IDEAS[name] for name in ORDER)


# %%
def my_regex_tagger(sentence, pattern):
    """The sentence with every match as a gene."""
    matches = re.finditer(pattern, sentence.text)
    return sentence.with_entities(Entity(*match.span(), "GENE") for match in matches)


rows = []
for pattern in (*IDEAS.values(), together):
    score = evaluate(train, [my_regex_tagger(s, pattern) for s in train], resamples=0)
    shares = {"precision": f"{score.precision:.1%}", "recall": f"{score.recall:.1%}"}
    rows.append({"matches in train": score.predicted, **shares})
pd.DataFrame(rows, index=[*IDEAS, "all together"])

# %% [markdown]
# **Check**, and the first rung. `RegexTagger` is the same loop, for several types.

# %%
regex = RegexTagger({"GENE": together})
assert regex.predict(test) == [my_regex_tagger(sentence, together) for sentence in test]
climb("regular expressions", regex)

# %%
show_mistakes("regular expressions")

# %% [markdown]
# **What just happened.** An expression sees letters, not what they stand for: a catalogue number, a cell line and a
# gene are all letters with a number. Compare the counts of the mistakes: invented names lead, so looks alone say too
# little; and of the names that a rule touches, many end or begin at the wrong place. A further idea helps here and
# harms there. That labour is what the next rungs leave to the machine.
#
# ## 3. Rung two: a dictionary
#
# **Question:** why not simply list all genes?
#
# Lists exist: NCBI Gene has more than a hundred thousand human symbols and synonyms. Trying each of them on each
# sentence would take a hundred thousand scans. **Aho and Corasick (1975)** find all names of a list in one pass:
#
# 1. Put the names into a *trie*: a state stands for a beginning of names, an arrow for one more word.
# 2. Give each state a *failure link*: to the longest proper ending of what was read that is a beginning of a name too.
# 3. Read the sentence once. Where no arrow fits, follow failure links; what they lead to has been read already.
#
# The letters of their paper are whole words here.


# %%
def build_trie(names):
    """For each state {word: next state}, and the lengths of the names that end there."""
    children, ends = [{}], [set()]
    for name in names:
        state = 0
        for word in name:
            if word not in children[state]:
                children[state][word] = len(children)
                children.append({})
                ends.append(set())
            state = children[state][word]
        ends[state].add(len(name))
    return children, ends


# %%
def step(children, fail, state, word):
    """The state after one more word: an arrow, its own or that of the first failure link
    that has one, or else the root."""
    while state and word not in children[state]:
        state = fail[state]
    return children[state].get(word, 0)


def link(children, ends):
    """Failure links, breadth first: each leads to a shorter beginning, done already."""
    fail, queue = [0] * len(children), deque(children[0].values())
    while queue:
        state = queue.popleft()
        for word, following in children[state].items():
            fail[following] = step(children, fail, fail[state], word)
            ends[following] |= ends[fail[following]]  # a shorter name may end here too
            queue.append(following)
    return fail


# %% [markdown]
# **Predict before you run:** three names, `nuclear factor kappa B`, `factor kappa B kinase` and `kappa B`. Where does
# the failure link of the state "nuclear factor kappa B" lead?

# %%
texts = ["nuclear factor kappa B", "factor kappa B kinase", "kappa B"]
few = [text.split() for text in texts]
children, ends = build_trie(few)
fail = link(children, ends)
place, words = {0: (0.0, 0.0)}, {0: "start"}
for row, name in enumerate(few):
    state = 0
    for depth, word in enumerate(name, 1):
        state = children[state][word]
        place[state], words[state] = (depth, -row), word

# %%
figure, ax = plt.subplots(figsize=(8.5, 3.2))
arrow = dict(arrowstyle="->", shrinkA=16)
dashed = dict(arrow, shrinkB=16, color=COLOURS[1], linestyle="--")
for state, here in place.items():
    for following in children[state].values():
        ax.annotate("", place[following], here, arrowprops=dict(arrow, shrinkB=24))
    if fail[state]:
        ax.annotate("", place[fail[state]], here, arrowprops=dashed)
    filling = COLOURS[4] if ends[state] else "white"
    box = dict(boxstyle="round", facecolor=filling, edgecolor="0.5")
    ax.text(*here, words[state], ha="center", va="center", bbox=box)
ax.set(xlim=(-0.4, 4.5), ylim=(-2.5, 0.5))
ax.set_title("A trie and its failure links (dashed; those to the start left out)")
ax.set_axis_off()
plt.show()

# %% [markdown]
# In a filled state a name ends; in "factor kappa B" it is the shorter "kappa B". After "nuclear factor kappa B" the
# link leads to "factor kappa B", whose own link leads to "kappa B": so the second name that ends here is found without
# reading a word twice.


# %%
class MyAutomaton:
    """All occurrences of names (tuples of words) in a list of words."""

    def __init__(self, names):
        self.children, self.ends = build_trie(names)
        self.fail = link(self.children, self.ends)

    def matches(self, words):
        state, found = 0, []
        for end, word in enumerate(words, 1):
            state = step(self.children, self.fail, state, word)
            lengths = sorted(self.ends[state], reverse=True)
            found += [(end - length, end) for length in lengths]
        return found

    def longest(self, words):
        """Without overlap: the first, of equals the longest, and so on behind its end."""
        kept = []
        for span in sorted(self.matches(words), key=lambda span: (span[0], -span[1])):
            if not kept or span[0] >= kept[-1][1]:
                kept.append(span)
        return kept


# %%
mine = MyAutomaton(mentions)
print(f"{len(mentions):,} different names in train, {len(mine.children):,} states")

# %% [markdown]
# **Check** against brute force, against `Automaton`, and, as a tagger, against `DictionaryTagger`. That one learns the
# names of dev too, if `fit` is given dev. Dev is for choosing only in this notebook, so the dictionaries here get none.

# %%
# NBVAL_CHECK_OUTPUT
dictionary, theirs = DictionaryTagger().fit(train), Automaton(mentions)
for sentence, tagged in zip(test[:300], dictionary.predict(test[:300])):
    words, tokens = sentence.words, sentence.tokens
    spans = itertools.combinations(range(len(words) + 1), 2)
    brute = {(a, b) for a, b in spans if tuple(words[a:b]) in mentions}
    assert set(mine.matches(words)) == brute
    assert mine.matches(words) == theirs.matches(words)
    longest = [(tokens[a].start, tokens[b - 1].end) for a, b in mine.longest(words)]
    assert sorted(longest) == [(e.start, e.end) for e in tagged.entities]
print("By hand, brute force, Automaton and DictionaryTagger find the same names.")

# %% [markdown]
# How does the time grow with the list? A scan for each name, against one pass of the automaton, on the same sentences:

# %%
names = [" ".join(name) for name in mentions]
lexicon = load_lexicon("genes")
pool = list(dict.fromkeys([*names, *lexicon.names]))
random.Random(0).shuffle(pool)
sample = test[: course.pick(test=20, cpu=100, gpu=100)]
scan, single_pass = {}, {}
for size in [10**k for k in range(1, 6) if 10**k <= len(pool)]:
    automaton = MyAutomaton([tuple(name.split()) for name in pool[:size]])
    for _ in range(2):  # the first time is for warming up
        started = time.perf_counter()
        for sentence in sample:
            automaton.matches(sentence.words)
        single_pass[size] = (time.perf_counter() - started) / len(sample)
    if size <= 10_000:
        started = time.perf_counter()
        for sentence in sample:
            sum(name in sentence.text for name in pool[:size])
        scan[size] = (time.perf_counter() - started) / len(sample)

# %%
figure, ax = plt.subplots()
curves = {"a scan for each name": scan, "one pass of the automaton": single_pass}
for (label, times), marker in zip(curves.items(), "os"):
    milliseconds = [1e3 * seconds for seconds in times.values()]
    ax.plot(list(times), milliseconds, marker=marker, label=label)
ax.set(xscale="log", yscale="log")
ax.set(xlabel="names in the list", ylabel="milliseconds a sentence")
largest = max(scan)
factor = scan[largest] / single_pass[largest]
ax.set_title(
    f"{largest:,} names: one pass is {factor:,.0f} times as fast as a scan for each"
)
ax.legend()
plt.show()

# %% [markdown]
# The time of the scan grows in step with the list, that of the automaton far less: it takes at most about two steps a
# word, and one for each match, whatever the number of names; only its tables grow. For a short list the scan, which
# Python does in C and which also finds names inside words, is the faster one. The factor in the title is against a scan
# for each name, the simplest rival and the worst. A better one looks every run of words up in a Python set, up to the
# length of the longest name; its time does not grow with the number of names either. It is not measured here.
#
# Now the rungs: the names of the training part; the term list alone; and both. **Predict before you run:** the list
# is many times as long. Which has the better precision, which the better recall?

# %%
climb("dictionary of training names", DictionaryTagger(), dev=())
climb("dictionary of both", DictionaryTagger(lexicon.typed("GENE")), dev=())
listed = DictionaryTagger(lexicon.typed("GENE"))
alone = listed.predict(test)
score = evaluate(test, alone)
shares = f"P {score.precision:.1%}, R {score.recall:.1%}, F1 {score.f1:.1%}"
print(f"the term list alone ({len(listed):,} names): {shares}")
if lexicon.stands_in:
    print("   (no term list at hand: names of the course's own training sentences)")
both, learned = (rungs[f"dictionary of {what}"] for what in ("both", "training names"))
print("both, against training names alone:", compare(both.predicted, learned.predicted))

# %%
wrong = Counter()
for gold, found in zip(train, listed.predict(train)):
    wrong.update(e.text for e in found.entities if e not in gold.entities)
print("listed names most often wrong in train:")
del listed, alone, pool, automaton  # a hundred thousand names each
pd.DataFrame(wrong.most_common(8), columns=["name", "times"]).set_index("name").T

# %%
show_mistakes("dictionary of both")

# %% [markdown]
# **What just happened.** A dictionary cannot find a name that it does not hold, and section 1 counted how many those
# are. A long list is no way out. NCBI Gene's table has symbols and not the names that sentences spell out; and the
# table above counts listed symbols that mean something else, or only a part of the name. The best example is `not`:
# NCBI Gene has it, in small letters, as a synonym of gene 10195, so that regarding case does not help. *Names have no
# end, and a match is no proof.* What is lacking is the context. (Exercise 11.1 makes a list cleaner.)

# %% [markdown]
# ## 4. Rung three: a linear-chain CRF
#
# **Question:** how can a model weigh evidence for every word, and still give tags that fit together?
#
# **An example first.** Two words, `p53 binds`, and two tags, `O` and `B`. Let each word have a score for each tag:
# `p53` 0 for `O` and 2 for `B`; `binds` 1 for `O` and 0 for `B`. And let steps have scores: 0.5 from `B` to `O`, -1
# from `B` to `B`, 0 for the two from `O`. There are four ways to tag the two words. The score of each is the sum along
# the way; $e^{\text{score}}$ makes it positive; and its share of the total is its probability:
#
# | p53 | binds | word + step + word | $e^{\text{score}}$ | probability |
# | --- | --- | --- | ---: | ---: |
# | `O` | `O` | 0 + 0 + 1 = 1 | 2.72 | 0.07 |
# | `O` | `B` | 0 + 0 + 0 = 0 | 1.00 | 0.03 |
# | `B` | `O` | 2 + 0.5 + 1 = 3.5 | 33.12 | 0.84 |
# | `B` | `B` | 2 - 1 + 0 = 1 | 2.72 | 0.07 |
# | | | | total 39.55 | 1 |
#
# That is the whole model; the rest of this section says it in symbols, and how to do without the list of all ways.
#
# Each word $t$ of a sentence gets a score $e_{t,k}$ for each tag $k$, its **emissions**. Tags also depend on their
# neighbours (an `I` needs a `B` or `I` before it), so every step from tag $j$ to tag $k$ has a score $A_{jk}$ too, and
# beginning and end have $a_k$ and $b_k$. A whole path $y_1 \dots y_n$ of tags scores
#
# $$ s(y) = a_{y_1} + \sum_{t=1}^{n} e_{t, y_t} + \sum_{t=2}^{n} A_{y_{t-1}, y_t} + b_{y_n}, \qquad
# p(y) = \frac{e^{s(y)}}{Z}, \quad Z = \sum_{y'} e^{s(y')} \tag{2} $$
#
# (Lafferty, McCallum & Pereira 2001; in this form, with the emissions of a network, Lample et al. 2016, section 2.2).
# $Z$ is the total of the table. The sum runs over all $K^n$ paths. With $K = 3$ tags (`O`, `B`, `I`) and a sentence of
# 25 words that is $8 \cdot 10^{11}$. But the paths share their beginnings. Let $\alpha_{t,k}$ be the log of the sum
# over all beginnings that end at word $t$ in tag $k$. Then (the **forward algorithm**)
#
# $$ \alpha_{1,k} = a_k + e_{1,k}, \qquad
# \alpha_{t,k} = e_{t,k} + \log \sum_j e^{\alpha_{t-1,j} + A_{jk}}, \qquad
# \log Z = \log \sum_k e^{\alpha_{n,k} + b_k} \tag{3} $$
#
# costs $nK^2$ steps. Replace the sum by a maximum, remember where each maximum came from, and the same walk gives the
# **best** path: Viterbi's algorithm.


# %%
def path_score(emissions, path, start, transitions, end):
    """s(y) of eq. (2): emissions (n, K), path a list of n tags, start and end (K),
    transitions (K, K) [from, to]."""
    of_words = sum(emissions[t, tag] for t, tag in enumerate(path))
    of_steps = sum(transitions[step] for step in itertools.pairwise(path))
    return start[path[0]] + of_words + of_steps + end[path[-1]]


def forward(emissions, start, transitions, end):
    """log Z by eq. (3)."""
    alpha = start + emissions[0]  # (K)
    for row in emissions[1:]:
        alpha = row + torch.logsumexp(alpha[:, None] + transitions, dim=0)
    return torch.logsumexp(alpha + end, dim=0)


# %%
def viterbi(emissions, start, transitions, end):
    """The path with the highest score, as a list."""
    best, pointers = start + emissions[0], []
    for row in emissions[1:]:
        longer, came_from = (best[:, None] + transitions).max(dim=0)
        best = row + longer
        pointers.append(came_from.tolist())
    path = [int((best + end).argmax())]
    for came_from in reversed(pointers):
        path.append(came_from[path[-1]])
    return path[::-1]


# %% [markdown]
# **Check** against enumeration: for short sentences all paths can be written out.

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(0)
for length in range(1, 7):
    shapes = (length, 3), (3,), (3, 3), (3,)
    chain = [torch.randn(*shape, generator=generator).double() for shape in shapes]
    emissions, *weights = chain  # start, transitions, end
    paths = list(itertools.product(range(3), repeat=length))
    scores = torch.stack([path_score(emissions, path, *weights) for path in paths])
    torch.testing.assert_close(forward(*chain), torch.logsumexp(scores, 0))
    assert viterbi(*chain) == list(paths[int(scores.argmax())])
print(f"1 to {length} words, up to {len(paths)} paths: log Z and best path agree.")

# %% [markdown]
# **Training** maximises $\log p(y) = s(y) - \log Z$ of the annotated paths. No backward algorithm has to be written:
# autograd differentiates eq. (3). To be quick, a batch goes through at once; sentences differ in length, so a mask says
# where words are. This class is the rest of the sixty lines or less.


# %%
class ChainCRF(nn.Module):
    """Eqs. (2) and (3) for a batch: emissions (B, T, K), tags (B, T), mask (B, T), True at
    words, False behind them."""

    def __init__(self, count):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(count))
        self.transitions = nn.Parameter(torch.zeros(count, count))
        self.end = nn.Parameter(torch.zeros(count))

    def log_partition(self, emissions, mask):
        alpha = self.start + emissions[:, 0]  # (B, K)
        for t in range(1, emissions.shape[1]):
            steps = alpha[:, :, None] + self.transitions  # (B, K, K)
            longer = torch.logsumexp(steps, dim=1) + emissions[:, t]
            alpha = torch.where(mask[:, t, None], longer, alpha)  # at its end it stays
        return torch.logsumexp(alpha + self.end, dim=1)

    def forward(self, emissions, tags, mask):
        """log p(tags) of each sentence (B)."""
        last = tags.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        of_words = (emissions.gather(2, tags[:, :, None])[:, :, 0] * mask).sum(1)
        of_steps = (self.transitions[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]).sum(1)
        score = self.start[tags[:, 0]] + of_words + of_steps + self.end[last]
        return score - self.log_partition(emissions, mask)


# %% [markdown]
# **Check** against `LinearChainCRF` of `utils/ner/chain.py`: the same numbers, and the same gradients.

# %%
# NBVAL_CHECK_OUTPUT
mine, theirs = ChainCRF(5), LinearChainCRF(5)
with torch.no_grad():
    for parameter in mine.parameters():
        parameter.normal_(generator=generator)
theirs.load_state_dict(mine.state_dict())
emissions = torch.randn(8, 12, 5, generator=generator)
tags = torch.randint(5, (8, 12), generator=generator)
mask = torch.arange(12) < torch.tensor([12, 1, 5, 7, 12, 3, 9, 2])[:, None]
torch.testing.assert_close(mine(emissions, tags, mask), theirs(emissions, tags, mask))
for crf in (mine, theirs):
    crf(emissions, tags, mask).sum().backward()
torch.testing.assert_close(mine.transitions.grad, theirs.transitions.grad)
weights = mine.start, mine.transitions, mine.end
paths = [viterbi(row[: int(n)], *weights) for row, n in zip(emissions, mask.sum(1))]
assert paths == theirs.viterbi(emissions, mask)
print("Log-probabilities, gradients and best paths agree.")

# %% [markdown]
# Where do emissions come from? In the classical CRF from **features**: strings that say something about a word. Every
# feature has one weight for each tag, and an emission is the sum of the weights of the features that are present.
# That is an embedding table of width $K$ and a sum, so PyTorch's `EmbeddingBag` does it. Eight features to begin with:


# %%
def shape(word):
    """Runs of capitals as A, of small letters as a, of digits as 0: "IL2Ra" is "A0Aa"."""
    return re.sub(r"\d+", "0", re.sub("[a-z]+", "a", re.sub("[A-Z]+", "A", word)))


def my_features(words):
    """For each word of a sentence a list of strings."""
    lower = ["^", *(word.lower() for word in words), "$"]
    lists = []
    for word, before, here, after in zip(words, lower, lower[1:], lower[2:]):
        found = dict(word=word, lower=here, before=before, after=after)
        found |= dict(begin=here[:3], end=here[-3:], shape=shape(word))
        lists.append(["bias", *(f"{name}={value}" for name, value in found.items())])
    return lists


# %%
class HandCRF(nn.Module):
    """Features of words to log p(tags): a weight for each feature and tag, and a chain."""

    def __init__(self, features, tags):
        super().__init__()
        self.number, self.tags = {feature: i for i, feature in enumerate(features)}, tags
        self.weights = nn.EmbeddingBag(len(features), len(tags), mode="sum")
        nn.init.zeros_(self.weights.weight)
        self.crf = ChainCRF(len(tags))

    def emissions(self, sentences):
        """For each sentence, given as its features, a tensor (words, K).

        Unknown features say nothing."""
        words = [word for sentence in sentences for word in sentence]
        bags = [[self.number[f] for f in word if f in self.number] for word in words]
        offsets = list(itertools.accumulate(map(len, bags), initial=0))[:-1]
        flat = torch.tensor([number for bag in bags for number in bag])
        return self.weights(flat, torch.tensor(offsets)).split(list(map(len, sentences)))


# %%
def pad(rows):
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def train_by_hand(model, sentences, epochs, batch_size=32):
    """Maximise log p(tags), by Adam."""
    features = [my_features(sentence.words) for sentence in sentences]
    tags = [torch.tensor([model.tags.index(tag) for tag in to_tags(s)]) for s in sentences]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in tqdm(range(epochs), unit="epoch", leave=False):
        for batch in torch.randperm(len(sentences), generator=generator).split(batch_size):
            mask = pad([torch.ones_like(tags[i], dtype=torch.bool) for i in batch])
            emissions = pad(model.emissions([features[i] for i in batch]))
            loss = -model.crf(emissions, pad([tags[i] for i in batch]), mask).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


# %%
def chain_weights(model, strength=1.0):
    """Scores of beginning, steps and end, times strength; 0 is a chain without links."""
    crf = model.crf
    return [strength * part.detach() for part in (crf.start, crf.transitions, crf.end)]


@torch.no_grad()
def tag_by_hand(sentences, model, strength=1.0):
    weights, tagged = chain_weights(model, strength), []
    scores = model.emissions([my_features(sentence.words) for sentence in sentences])
    for sentence, rows in zip(sentences, scores):
        tags = [model.tags[k] for k in viterbi(rows, *weights)]
        tagged.append(from_tags(sentence, tags))
    return tagged


# %% [markdown]
# **Predict before you run:** the dictionary knew every training name by heart. This model knows eight things about a
# word. Which recall will be higher?

# %%
started = read_clocks()
lists = [words for sentence in train for words in my_features(sentence.words)]
known_features = list(dict.fromkeys(itertools.chain(*lists)))
by_hand = HandCRF(known_features, ["O", "B-GENE", "I-GENE"])
train_by_hand(by_hand, train, epochs=course.pick(test=3, cpu=5, gpu=5))
training = read_clocks() - started
folder = FOLDER / "CRF-by-hand"
folder.mkdir(parents=True, exist_ok=True)
save_file(by_hand.state_dict(), folder / "model.safetensors")
(folder / "features.json").write_text(json.dumps(known_features), "utf-8")
tagged = time_tagging(lambda sentences: tag_by_hand(sentences, by_hand))
add_rung("CRF by hand", *tagged, training, bytes_in(folder))

# %%
print(f"{len(known_features):,} features with {len(by_hand.tags)} weights each;")
print("the learned scores of the steps between tags:")
pd.DataFrame(
    by_hand.crf.transitions.tolist(),
    index=[f"from {tag}" for tag in by_hand.tags],
    columns=[f"to {tag}" for tag in by_hand.tags],
).round(1)

# %%
show_mistakes("CRF by hand")

# %% [markdown]
# From `O` to `I-GENE` is a step that never occurs in training. Nobody forbade it; compare its score with the others.
#
# **To see the chain at work**, take it away. `strength` multiplies the scores of beginning, steps and end: 0 is a chain
# without links, where each word gets the tag that is best for itself. In how many test sentences are all names right
# and none too many, with the chain and without?

# %%
chained, single = (tag_by_hand(test, by_hand, strength) for strength in (1.0, 0.0))
right = [
    ("right" if a == gold else "wrong", "right" if b == gold else "wrong")
    for gold, a, b in zip(test, chained, single)
]
sides = pd.DataFrame(right, columns=["with the chain", "each word for itself"])
pd.crosstab(sides.iloc[:, 0], sides.iloc[:, 1])


# %% [markdown]
# One of the sentences that the chain mends, chosen for that: a short one, with as many of its words in names as any. In
# colour $p(y_t = k)$ of each word, as the derivative of $\log Z$ by the emissions; as a line the best path; as crosses
# what each word would get for itself, without its neighbours.


# %%
def share_in_names(sentence):
    """The share of its words that stand in gene names."""
    return sum(map(len, mentions_of([sentence]))) / len(sentence.words)


mended = [s for s, pair in zip(test, right) if pair == ("right", "wrong") and s.entities]
short = [s for s in mended or test if 5 <= len(s.words) <= 14 and s.entities]
shown = max(short or test[:1], key=share_in_names)
annotated = [by_hand.tags.index(tag) for tag in to_tags(shown)]


# %%
def draw_trellis(strength=1.0):
    """Marginals, best path, annotation, and each word's own best tag in one sentence."""
    emissions = by_hand.emissions([my_features(shown.words)])[0].detach()
    weights = chain_weights(by_hand, strength)
    path, alone = viterbi(emissions, *weights), emissions.argmax(1)
    emissions.requires_grad_()
    (marginals,) = torch.autograd.grad(forward(emissions, *weights), emissions)
    figure, ax = plt.subplots(figsize=(9, 2.9))
    picture = ax.imshow(marginals.T, aspect="auto", vmin=0, vmax=1, cmap="cividis")
    ax.plot(annotated, color=COLOURS[2], linewidth=9, alpha=0.8, label="annotated")
    ax.plot(path, "-o", color="white", linewidth=2.5)
    ax.plot(path, "-o", color=COLOURS[1], label="best path")
    ax.plot(alone, "x", color="white", markersize=11, markeredgewidth=4)
    cross = dict(color=COLOURS[3], markersize=9, markeredgewidth=2)
    ax.plot(alone, "x", **cross, label="each word for itself")
    ax.set(yticks=range(3), yticklabels=by_hand.tags, xticks=range(len(path)))
    ax.set_xticklabels(shown.words, rotation=45, ha="right")
    ax.grid(False)
    differs = f"at {int((torch.tensor(path) != alone).sum())} of {len(path)} words"
    ax.set_title(f"strength {strength:g}: the path differs from single decisions {differs}")
    figure.colorbar(picture, label="p(tag)")
    figure.legend(loc="outside lower right", ncols=3, fontsize=8)
    return figure


# %%
rows, strengths = [], (0.0, 1.0, 2.0)
for strength in strengths:
    draw_trellis(strength)
    plt.show()
    score = evaluate(test, tag_by_hand(test, by_hand, strength), resamples=0)
    shares = dict(P=score.precision, R=score.recall, F1=score.f1)
    rows.append({name: f"{value:.1%}" for name, value in shares.items()})
names = [f"strength {strength:g}, whole test part" for strength in strengths]
pd.DataFrame(rows, index=names)

# %% [markdown]
# **What the chain did.** Such a picture of tags over words is called a *trellis*. Its colours are the **marginals**: of
# all paths, each counted by its probability, the share that passes there. At strength 0 each word decides for itself.
# With the learned steps (1), a tag that does not fit its neighbours gives way: the crosses that are off the line. In
# the run shown that is `mouse`: for itself it would be `O`, in front of two words that *continue* a name. The path is
# the annotation (broad green line), since the sentence was chosen so. It is not always so: the table above counts the
# sentences where single words were right and the chain is wrong. On the whole test part the learned steps pay: in the
# run shown F1 is 33 without them, 53 with them, and 33 again at strength 2, where steps count twice and words as
# before.

# %%
play(draw_trellis, strength=(0.0, 3.0, 0.25))

# %% [markdown]
# **CRFsuite** (Okazaki 2007) is the same model in C (without scores for beginning and end, which stay 0), with another
# optimiser (L-BFGS, which looks at all sentences before every step) and penalties on the weights (L1: on their absolute
# values, L2: on their squares). Is it *really* the same? Train it on our eight features, read its weights out of the
# saved file, put them into our CRF, and compare the probability of its best path.

# %%
iterations = course.pick(test=30, cpu=80, gpu=150)
same = CRFTagger(my_features, scheme="BIO", iterations=iterations).fit(train)
folder = FOLDER / "CRFsuite-same-features"
same.save(folder)
suite = pycrfsuite.Tagger()
suite.open(str(folder / "model.crfsuite"))
learned, tags = suite.info(), suite.labels()
copy = HandCRF(dict.fromkeys(feature for feature, _ in learned.state_features), tags)
with torch.no_grad():
    for (feature, tag), weight in learned.state_features.items():
        copy.weights.weight[copy.number[feature], tags.index(tag)] = weight
    for (before, after), weight in learned.transitions.items():
        copy.crf.transitions[tags.index(before), tags.index(after)] = weight

# %%
for sentence in test[:50]:
    features = my_features(sentence.words)
    suite.set(features)
    with torch.no_grad():
        emissions = copy.emissions([features])[0]
        best = viterbi(emissions, *chain_weights(copy))
        mask = torch.ones(1, len(best), dtype=torch.bool)
        mine = copy.crf(emissions[None], torch.tensor([best]), mask).exp()
    assert [tags[k] for k in best] == suite.tag()
    theirs = suite.probability(suite.tag())
    torch.testing.assert_close(float(mine), theirs, rtol=1e-2, atol=1e-4)
print("With CRFsuite's weights, on 50 sentences, our Viterbi finds its tags,")
print("and our p(y) is its probability.")
f1 = evaluate(test, same.predict(test), resamples=0).f1
print(f"its F1 with the eight features: {f1:.1%}")
del same, suite, learned, copy

# %% [markdown]
# **Real features.** `WordFeatures` has the kinds that gene taggers of that time used: beginnings and ends, letter
# n-grams (n letters in a row), stems, shapes, neighbours and pairs of them, brackets. Which of them matter? They are
# added group by group and judged on dev: what is chosen must not be chosen on test. (The test part is not unseen any
# more. Its scores and mistakes were shown after every rung, and `strength` was tried on it. No setting was taken from
# there; who takes one needs other sentences for the last figure.)
#
# **Predict before you run:** which group helps most?

# %%
off = dict(stems=False, shapes=False, pairs=False, brackets=False)
options = dict(window=0, affixes=0, grams=(), **off)
groups = {
    "the word": {},
    "+ neighbours": dict(window=2),
    "+ shapes, ends": dict(shapes=True, affixes=5),
    "+ n-grams, stems": dict(grams=(2, 3), stems=True),
}


def new_crf(features):
    return CRFTagger(features, scheme="BIO", iterations=iterations)


on_dev = {}
for features, added in groups.items():
    options |= added
    tagger = new_crf(WordFeatures(**options)).fit(train)
    on_dev[features] = evaluate(dev, tagger.predict(dev), groups=documents_of(dev))

# %% [markdown]
# All of them together are what `WordFeatures()` makes by itself, and this makes the rung. A penalty keeps hundreds of
# thousands of weights from learning the training sentences by heart; with L1 in it most become zero.

# %%
tagger = new_crf(WordFeatures())
climb("CRF", tagger)
on_dev["+ pairs, brackets"] = evaluate(dev, tagger.predict(dev), groups=documents_of(dev))
del tagger
change = compare(rungs["CRF"].predicted, rungs["CRF by hand"].predicted)
print(f"real features against eight: {change}")

# %%
figure, ax = plt.subplots(figsize=(8, 2.8))
values = np.array([100 * score.f1 for score in on_dev.values()])
edges = 100 * np.array([score.intervals["f1"] for score in on_dev.values()])
look = dict(fmt="o", color=COLOURS[0], capsize=3)
ax.errorbar(values, range(len(values)), xerr=abs(edges.T - values), **look)
ax.set(yticks=range(len(values)), yticklabels=list(on_dev))
ax.set_xlabel("F1 on dev, per cent (95% intervals)")
ax.invert_yaxis()
steps = np.diff(values)
most = f"{list(on_dev)[int(steps.argmax()) + 1].removeprefix('+ ')} ({steps.max():+.1f})"
ax.set_title(f"From {values[0]:.0f} to {values[-1]:.0f}; the largest step here is {most}")
plt.show()

# %% [markdown]
# The order matters: a group added late has less left to explain. And the bars are wide next to most of the steps.

# %%
show_mistakes("CRF")

# %% [markdown]
# **What just happened.** The same names as before are there to be learned from, but now as evidence (`ase` at the
# end, a number, `expression` to the left) that carries over to names never seen. Boundaries remain: whether `human`,
# `gene` or `protein` belongs to the name is a habit of the annotators.
#
# More sentences instead of a better model? The CRF is cheap enough to try: the same on three times as many. This is no
# rung, as it breaks the rule of section 1; it stands beside the ladder, to measure the others by.

# %%
more = draw_part(corpus.train, 3 * len(train))
MORE = f"CRF on {len(more):,} sentences"
climb(MORE, new_crf(WordFeatures()), train=more)
change = compare(rungs[MORE].predicted, rungs["CRF"].predicted)
print("against the same CRF on the training part:", change)

# %% [markdown]
# ## 5. Rung four: BiLSTM-CRF
#
# **Question:** can the features be learned too?
#
# The neural tagger of before Transformers (Lample et al. 2016; Ma & Hovy 2016) keeps the chain on top and replaces
# features by vectors:
#
# - a **vector for each word**, from a table; it starts, where the encoder of section 6 is at hand, from the vectors
#   that this encoder has for the word's pieces (its input vectors, which know no context), as earlier systems started
#   from word2vec;
# - a **character encoding**: the letters' vectors, convolutions over three and over five of them, and the maximum over
#   the word. It stands in for `begin=` and `end=`, also for words never seen;
# - a **small vector for how the word is written** (small letters, capitals, digits inside ...), as the Transformer of
#   section 6 gets one;
# - a **bidirectional LSTM** that reads the sentence from both ends, so that each word's vector knows its context;
# - a linear layer that turns it into emissions, and the CRF of section 4.


# %%
class MyCharacterCNN(nn.Module):
    """Characters of words (N, L), 0 behind a word's end, as one vector each (N, width)."""

    def __init__(self, count, size=32, width=96):
        super().__init__()
        self.table = nn.Embedding(count, size, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, width // 2, kernel, padding="same") for kernel in (3, 5)
        )

    def forward(self, characters):
        x = self.table(characters).transpose(1, 2)  # (N, size, L)
        there = (characters != 0)[:, None]  # (N, 1, L)
        found = [convolution(x).relu() * there for convolution in self.convolutions]
        return torch.cat(found, 1).amax(2)


# %% [markdown]
# **Check** against `utils`, and that padding does not matter: a word has one encoding, however long its neighbours are.

# %%
# NBVAL_CHECK_OUTPUT
mine, theirs = MyCharacterCNN(40), CharacterCNN(40)
mine.load_state_dict(theirs.state_dict())
characters = torch.randint(1, 40, (20, 12), generator=generator)
characters[:, 9:] = 0
torch.testing.assert_close(mine(characters), theirs(characters))
torch.testing.assert_close(mine(characters), mine(characters[:, :9]))
print("The same vectors as utils, and no trace of the padding.")

# %% [markdown]
# **The pitfall of the LSTM.** Sentences of a batch are padded to one length, and the direction from right to left
# begins at the right: in the padding. **Predict before you run:** two copies of one sentence, one alone, one padded
# with 30 zeros. How much do their outputs differ, if nobody tells the LSTM about the padding?

# %%
torch.manual_seed(0)
lstm = nn.LSTM(8, 16, bidirectional=True, batch_first=True)
sentence = torch.randn(1, 10, 8)
padded = nn.functional.pad(sentence, (0, 0, 0, 30))
packed = nn.utils.rnn.pack_padded_sequence(padded, torch.tensor([10]), batch_first=True)
with torch.no_grad():
    alone, careless = lstm(sentence)[0], lstm(padded)[0][:, :10]
    careful = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]
changes = {
    "left to right, padded": careless[..., :16] - alone[..., :16],
    "right to left, padded": careless[..., 16:] - alone[..., 16:],
    "packed (the length is told)": careful - alone,
}
largest = {name: f"{values.abs().max():.2g}" for name, values in changes.items()}
pd.DataFrame({"largest difference": largest})

# %% [markdown]
# Without packing, a sentence's tags depend on which other sentences share its batch, and no error is raised.
# `BiLSTMCRFTagger` packs.
#
# **Predict before you run:** the network starts with no idea of endings and of context, and the training part is small.
# Will it beat the CRF? (`fit` keeps the weights of the epoch that is best on dev.)


# %%
def history_of(tagger):
    """Loss, and F1 on dev, epoch by epoch."""
    rows = [[f"{row['loss']:.2f}", f"{row['score']:.0%}"] for row in tagger.history]
    epochs = [f"epoch {row['epoch']}" for row in tagger.history]
    return pd.DataFrame(rows, index=epochs, columns=["loss", "F1 on dev"]).T


epochs = course.pick(test=2, cpu=10, gpu=15)
bilstm = BiLSTMCRFTagger(epochs=epochs, hidden=course.pick(test=50, cpu=150, gpu=200))
here = find_minilm()
print("word vectors: from", "the encoder" if here else "nothing (no encoder package here)")
climb("BiLSTM-CRF", bilstm)
print("against the CRF:", compare(rungs["BiLSTM-CRF"].predicted, rungs["CRF"].predicted))
history_of(bilstm)

# %% [markdown]
# What did the characters learn? Words of the test part that no training sentence has, and the training words whose
# character encodings are most like theirs. Likeness is the cosine, the angle between two vectors, once the mean of all
# of them is taken off (*centred*):

# %%
number = {letter: i for i, letter in enumerate(bilstm.characters)}


@torch.no_grad()
def encode_letters(words):
    """The trained character encodings, centred, of length 1: (words, width)."""
    rows = [torch.tensor([number.get(letter, 1) for letter in word[:30]]) for word in words]
    encoder = bilstm.network.characters
    vectors = encoder(pad(rows).to(encoder.table.weight.device)).cpu()
    return nn.functional.normalize(vectors - vectors.mean(0), dim=1)


seen = sorted({word for sentence in train for word in sentence.words if len(word) > 3})
in_names = {word for words in mentions_of(test) for word in words if len(word) > 3}
new = sorted(in_names - set(seen))
new = random.Random(5).sample(new, min(6, len(new)))
likeness = encode_letters(new + seen)
nearest = (likeness[: len(new)] @ likeness[len(new) :].T).topk(4).indices
table = [[seen[i] for i in row] for row in nearest]
pd.DataFrame(table, index=new, columns=["nearest", "second", "third", "fourth"])

# %%
show_mistakes("BiLSTM-CRF")

# %% [markdown]
# **What just happened.** Most of the neighbours are words written alike, in letters, digits or capitals: features that
# nobody wrote. Not all of this network is learned here: how a word is written was told, and the word vectors came from
# the encoder, where it is at hand. The character encodings and the LSTM had to be learned from the same sentences that
# the CRF used for the weights of ready features. Look at the first epoch on dev: in the run shown it has less than half
# of the F1 that comes later. The next rung brings more that has been learned before.
#
# ## 6. Rung five: a Transformer with a token head
#
# **Question:** what if the reading has been learned before, from text without annotation?
#
# A pretrained encoder gives every position of a text a vector that knows its whole context. The tagger adds a **token
# head**, one linear layer with a score for each tag, and trains everything together for a few epochs (Devlin et al.
# 2019, section 5.3).
#
# Here the encoder is all-MiniLM-L6-v2: 6 layers, 384 numbers a position, *uncased* (it takes capitals for small
# letters), with BERT's vocabulary, which is of general English. It was trained as a sentence encoder, to tell which two
# texts belong together, on more than a billion pairs; nearly a fifth of those that its model card lists are titles,
# abstracts and citations of scientific papers (S2ORC). So it has met scientific text, without any annotation, and
# sentences of this corpus may be among it. Without the package that carries it, and without a network, a small encoder
# with *random* weights takes its place, so that every cell runs; then this rung shows the machinery and no more.

# %%
try:
    source, name = None, "all-MiniLM-L6-v2"
    encoder, tokenizer = load_encoder()
except OSError:
    print(f"here is no real encoder. To get one: {INSTALL}")
    texts = [sentence.text for sentence in train]
    source, name = make_random_encoder(FOLDER / "random-encoder", texts), "RANDOM weights"
    encoder, tokenizer = load_encoder(source)
weights = sum(parameter.numel() for parameter in encoder.parameters())
print(f"encoder: {name}, {weights / 1e6:.1f} million weights")
del encoder  # only its tokenizer is needed here; `TransformerTagger` loads it again

# %% [markdown]
# **Sub-word alignment.** The encoder does not see words. Its tokenizer cuts the text into pieces of its own vocabulary,
# and a gene name falls into many. Tags belong to words; so each word has to know its pieces. Both have offsets into the
# text, and that settles it: *a piece belongs to every word it shares a character with*.
#
# **Predict before you run:** into how many pieces does `IL-2Ralpha` fall?


# %%
def my_align(tokens, pieces):
    """For each token (first piece, piece behind the last); none is without a piece.

    Tokens and pieces are given as (start, end) in characters."""
    spans = []
    for left, right in tokens:
        inside = [i for i, (a, b) in enumerate(pieces) if a < right and left < b]
        spans.append((inside[0], inside[-1] + 1))
    return spans


# %%
def cut(text):
    """Pieces of a text, and their offsets."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return tokenizer.convert_ids_to_tokens(found["input_ids"]), found["offset_mapping"]


def offsets_of(sentence):
    return [(token.start, token.end) for token in sentence.tokens]


text = "IL-2Ralpha activates p53 in hepatocytes ."
example = Sentence(text, [match.span() for match in re.finditer(r"\S+", text)])
pieces, offsets = cut(text)
spans = my_align(offsets_of(example), offsets)
rows = [" ".join(pieces[first:last]) for first, last in spans]
pd.DataFrame({"pieces": rows}, index=example.words)

# %%
# NBVAL_CHECK_OUTPUT
for sentence in test:
    given = offsets_of(sentence), cut(sentence.text)[1]
    assert my_align(*given) == align(*given)
print("By hand and by utils: the same pieces for every word of the test part.")

# %%
of_genes, of_others = [], []
for sentence in test:
    spans = my_align(offsets_of(sentence), cut(sentence.text)[1])
    for token, (first, last) in zip(sentence.tokens, spans):
        inside = any(is_in(token, e) for e in sentence.entities)
        (of_genes if inside else of_others).append(last - first)
figure, ax = plt.subplots(figsize=(7, 2.6))
values = [np.minimum(counts, 8) for counts in (of_others, of_genes)]
shares = [np.full(len(counts), 100 / len(counts)) for counts in values]
labels = ["other words", "words in gene names"]
ax.hist(values, np.arange(0.5, 9), weights=shares, label=labels)
ax.set(xlabel="pieces (8 and more together)", ylabel="per cent of words")
means = np.mean(of_genes), np.mean(of_others)
ax.set_title("A word in a gene name has {:.2f} pieces, another word {:.2f}".format(*means))
ax.legend()
plt.show()

# %% [markdown]
# Three decisions follow, and each can go wrong in silence.
#
# - **Which piece speaks for a word?** The first one, as in BERT's paper (`pooling="first"`), or the mean of all.
#   The loss must look at words, not at pieces, or long words count several times (exercise 11.3).
# - **Long sentences.** An encoder reads a limited number of pieces. What lies beyond must not be cut off in silence;
#   `TransformerTagger` cuts windows that overlap.
# - **What the vocabulary cannot see.** An uncased one takes `WAS` and `was` for the same. Ask it:

# %%
words = ["WAS", "was", "CAT", "cat"]
pd.DataFrame({"pieces": [" ".join(cut(word)[0]) for word in words]}, index=words)

# %% [markdown]
# Where the two rows of a pair are equal, a gene and a common word are the same to the encoder. So with
# `shapes=True` `TransformerTagger` tells the head beside the vector how each word is written (small, capitals, digits
# inside ...).
#
# In training each word's scores go through a softmax by themselves. In prediction the chain of section 4, with all its
# weights 0, only keeps out steps that BIO forbids, such as from `O` to `I`. A table below, of F1 alone, says what that
# is worth against taking each word's best tag, with the two things that can be done about such a step.
#
# The learning rate is 2e-4, four to ten times what BERT's paper takes (appendix A.3): MiniLM is small, and the rate was
# taken over from trials on another corpus, NCBI-disease. The new layers learn five times as fast. A batch holds 32
# sentences, or fewer where they are long (`batch_cells`), so that a laptop's memory is enough. The line below names the
# precision of the computation.
#
# **Predict before you run:** it sees each training sentence a few times only. Where will it stand against the CRF?

# %%
transformer = TransformerTagger(
    source,
    shapes=True,
    epochs=course.pick(test=1, cpu=5, gpu=5),
    learning_rate=2e-4 if source is None else 2e-3,
    batch_cells=course.pick(test=768, cpu=768, gpu=16_384),
)
precision = {"no": "32-bit numbers"}.get(transformer.precision, transformer.precision)
print(f"computing in {precision}, {transformer.recipe.epochs} epochs")
climb("Transformer", transformer)
print("against the CRF:", compare(rungs["Transformer"].predicted, rungs["CRF"].predicted))
history_of(transformer)

# %%
rows = transformer.emissions(test)
best_tags = [[transformer.tags[k] for k in scores.argmax(1)] for scores in rows]
f1 = {"only steps that BIO allows": rungs["Transformer"].score.f1}
for what, orphan in (("begins a name", "repair"), ("is left out", "drop")):
    plain = [from_tags(s, tags, orphan=orphan) for s, tags in zip(test, best_tags)]
    f1[f"best tags, an I after O {what}"] = evaluate(test, plain, resamples=0).f1
pd.DataFrame({"F1": {name: f"{value:.1%}" for name, value in f1.items()}})

# %%
show_mistakes("Transformer")

# %%
short = [i for i, s in enumerate(test) if s.entities and len(s.text) < 160]
titles, rows = [], []
for i in random.Random(2).sample(short, 2):
    titles += ["gold", "CRF", "Transformer"]
    rows += [test[i], *(rungs[name].predicted[i] for name in titles[-2:])]
show_entities(rows, titles=titles)

# %% [markdown]
# **What just happened.** The encoder can read and has met scientific abstracts; but it was trained to tell texts apart,
# not to mark names, and its vocabulary is general English without capitals. Decoding matters, too: in the run shown,
# keeping forbidden steps out is worth 2.3 points against letting a stray `I` begin a name, and hardly anything (0.1)
# against leaving it out. Whether its reading outweighs features made for the purpose, the difference to the CRF says;
# where its interval holds 0, that is not shown. The cost, in seconds and megabytes, is certain. An encoder trained on
# PubMed is the better start where it can be downloaded:
# `TransformerTagger("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", learning_rate=5e-5)`. Notebook 13 goes that
# way. Look also at the epochs: where the loss goes on falling and F1 on dev stands still or falls, the training
# sentences are being learned by heart, and more epochs do not help. The rung has the weights of the best epoch on dev,
# not of the last. Boundary mistakes stay in the list, as on every rung: what the annotators took for the name is
# learned from annotation only.

# %% [markdown]
# ## 7. Rung six: BioTagger-GM, look-up and a vote
#
# **Question:** the rungs so far make different mistakes. Can they be put together?
#
# **BioTagger-GM** (Torii, Hu, Wu & Liu 2009) has four parts: *dictionary look-up* (names of BioThesaurus and terms of
# the UMLS are tagged in the text); *machine learning* with the look-up as one kind of feature; *post-processing* by
# rules; and *system combination* by a vote. The tables of the paper, on which this section rests, say what votes:
# **four systems of three kinds**, two CRFs (ABNER, of first order, and one from the toolkit MALLET), a maximum entropy
# Markov model (MALLET too), and LingPipe (a language model of characters). They also say what the parts are worth. On
# the task's test split it reports F = 0.8887 (P 0.8821, R 0.8952; Table 3); in cross-validation on the training
# sentences 0.8687, and there (Table 2):
#
# | Table 2, F | without | with | difference |
# | --- | ---: | ---: | ---: |
# | look-up in BioThesaurus, for their CRF | 0.8170 | 0.8481 | +3.1 |
# | look-up in the UMLS, for their CRF | 0.8417 | 0.8481 | +0.6 |
# | post-processing, for their CRF | 0.8415 | 0.8481 | +0.7 |
# | the vote of four, against their CRF, the best of them | 0.8481 | 0.8687 | +2.1 |
#
# **What the tables do not say:** how look-up is encoded as features, what the rules are, how votes are weighed. That is
# *our* choice below. Three things are different. Our four members are all CRFs by CRFsuite, more alike than theirs, so
# our vote has less to gain. Part-of-speech tags and a list of false positives are left out. And the UMLS needs a
# licence of its own, and neither it nor BioThesaurus comes with the course, so human gene symbols of NCBI Gene and
# names of the Disease Ontology and of MeSH stand for them, much smaller lists. So this is a rebuilding of the recipe,
# not of the system.
#
# ### Look-up as a feature
#
# A match in a list proves little, as section 3 saw. As a *feature* it need not: the CRF learns how far to trust each
# list. Hyphens, case and spaces are disregarded, and a word is told whether it begins (`B`), continues (`I`) or ends
# (`E`) a listed name, or is one by itself (`S`).

# %%
lists = [lexicon for lexicon in map(load_lexicon, lexicon_names()) if not lexicon.stands_in]
if not lists:
    # Names of the course's own training sentences would be in every one of them:
    # the CRF would trust them blindly.
    print("No term lists are at hand: look-up has nothing to say, the four CRFs are left.")
matcher = LexiconMatcher(lists)
with_of = [s for s in test if "of" in s.words and len(s.words) <= 14 and s.entities]
words = (with_of or test)[0].words
pd.DataFrame(matcher.labels(words), index=words)

# %% [markdown]
# How far is each list to be trusted? Over the training part: the share of words that it labels, how many of those stand
# in a gene name, and the words that it labels most often.

# %%
labelled, inside = {lexicon.name: Counter() for lexicon in lists}, Counter()
for sentence in train:
    in_gene = [any(is_in(token, e) for e in sentence.entities) for token in sentence.tokens]
    for name, found in matcher.labels(sentence.words).items():
        hits = [i for i, label in enumerate(found) if label]
        labelled[name].update(sentence.words[i].lower() for i in hits)
        inside[name] += sum(in_gene[i] for i in hits)
words = sum(len(sentence.words) for sentence in train)
table = {}
for name, hits in labelled.items():
    table[name] = {
        "of all words": f"{hits.total() / words:.0%}",
        "of these in gene names": f"{inside[name] / max(1, hits.total()):.0%}",
        "most often": ", ".join(f"{word} {n}" for word, n in hits.most_common(6)),
    }
pd.DataFrame(table).T

# %% [markdown]
# That is why `of` has the label `S` under `genes`: without regard to case it is `OF`, a synonym of three genes in the
# list. (`DictionaryTagger` in section 3 did regard case: to it `of` is no match, and its worst mistake was `not`, which
# the list has in small letters.) The paper met the same: look-up in BioThesaurus alone has a precision of 0.2253, and
# of 0.5000 once a *false-positive list* takes out what is mostly wrong (Table 2). A CRF can bear more than a
# dictionary: `word=of` is a feature too, and its weight can outweigh the list's.
#
# ### Four CRFs, rules, and weights
#
# `BioTaggerGM` trains four CRFs that differ in direction, tags and features. (Reading from right to left makes another
# model only under BIO, where `B` then marks a name's *last* word.) For each, the rules that help on dev are kept; then
# weights of the votes and a threshold are chosen on dev. (Each member announces itself as `corrected`: that is the name
# of the class that puts rules behind a tagger.)
#
# **Predict before you run:** what will help more, the look-up, the rules or the vote?

# %%
gm = BioTaggerGM(lists, iterations=iterations)
climb("BioTagger-GM", gm)
others = ("CRF", "BiLSTM-CRF", "Transformer")
found = rungs["BioTagger-GM"].predicted
change = [compare(found, rungs[name].predicted) for name in others]
pd.DataFrame({"BioTagger-GM against it": change}, index=others)

# %% [markdown]
# Part by part. The first member has the same features, tags and sentences as the rung "CRF", and the look-up besides:
# their difference is what look-up is worth.

# %%
raw = [member.tagger.predict(test) for member in gm.members]
votes = [postprocess(found, member.steps) for found, member in zip(raw, gm.members)]
print(f"look-up as a feature: {compare(raw[0], rungs['CRF'].predicted)}")
print(f"a span is elected with more than {gm.threshold:.0%} of the weight")
rows = []
for member, before, after, weight in zip(gm.members, raw, votes, gm.weights):
    crf, features = member.tagger, member.tagger.features
    f1, mended = (f"{evaluate(test, v, resamples=0).f1:.1%}" for v in (before, after))
    about = {
        "tags": crf.scheme,
        "reads": "leftwards" if crf.backward else "rightwards",
        "window": features.window,
        "n-grams": "+".join(map(str, features.grams)),
    }
    rules = ", ".join(member.steps) or "none"
    about |= {"F1": f1, "with rules": mended, "weight": weight, "rules kept": rules}
    rows.append(about)
pd.DataFrame(rows, index=[f"member {k + 1}" for k in range(len(rows))])

# %% [markdown]
# **Post-processing**, rule by rule, on the first member's output, whether dev kept it or not. *brackets*: no name with
# half a pair of brackets. *abbreviations*: in "tumour necrosis factor (TNF)" the long form decides for the short one.
# Where it is marked up to its end, the short form is marked with the same type; where nothing of it is marked, neither
# is the short form; where another part of it is marked, the rule says nothing. *one-sense*: a symbol is in one document
# what it mostly was (BC2GM's sentences come without their documents, so there a document is one sentence).

# %%
rows = []
for rule in STEPS:
    mended = postprocess(raw[0], [rule])
    changed = [(old, new) for old, new in zip(raw[0], mended) if old != new]
    row = {"sentences changed": len(changed), "F1": compare(mended, raw[0])}
    for old, new in random.Random(1).sample(changed, min(1, len(changed))):
        row["before"] = " | ".join(e.text for e in old.entities if e not in new.entities)
        row["after"] = " | ".join(e.text for e in new.entities if e not in old.entities)
    rows.append(row)
pd.DataFrame(rows, index=list(STEPS)).fillna("")

# %% [markdown]
# **The vote**, built by hand. A vote is for a whole span. With equal weights a span needs more than half; and no two
# spans that overlap can both have that, as one voter would have to have voted for both. Below one half they can; then
# `VotingTagger` keeps the one with more weight, of equals the longer.


# %%
def my_vote(votes):
    """Sentences with the spans that more than half of the voters have.

    votes: for each voter its sentences."""
    elected = []
    for ballots in zip(*votes):
        count = Counter(e for ballot in ballots for e in ballot.entities)
        winners = [e for e, n in count.items() if n > len(votes) / 2]
        elected.append(ballots[0].with_entities(winners))
    return elected


# %%
# NBVAL_CHECK_OUTPUT
assert my_vote(votes) == VotingTagger(gm.members).combine(votes)
assert gm.combine(votes) == rungs["BioTagger-GM"].predicted
print("By hand and by utils: the same election.")

# %% [markdown]
# What does choosing on dev buy? Four ways to use the same four members, each on dev, where threshold and weights were
# chosen, and on test, where they were not. The member here is the one that is best on dev.

# %%
dev_votes = [member.predict(dev) for member in gm.members]
scores = [evaluate(dev, found, resamples=0).f1 for found in dev_votes]
first = scores.index(max(scores))
ways = {
    "simple majority": VotingTagger(gm.members),
    f"{gm.threshold:.0%} of the votes": VotingTagger(gm.members, threshold=gm.threshold),
    "with weights": gm,
}
found = {name: (way.combine(dev_votes), way.combine(votes)) for name, way in ways.items()}
found = {"best member": (dev_votes[first], votes[first]), **found}
table, before = {}, None
for name, (of_dev, of_test) in found.items():
    table[name] = {
        "F1 on dev": f"{evaluate(dev, of_dev, resamples=0).f1:.1%}",
        "on test": f"{evaluate(test, of_test, resamples=0).f1:.1%}",
        "on test, against the line before": compare(of_test, before) if before else "",
    }
    before = of_test
print(f"all of it, against the best member: {compare(before, votes[first])}")
pd.DataFrame(table).T

# %% [markdown]
# **What helped more?** In the run shown nothing stands out by itself: look-up (+0.8), the simple majority against the
# best member (-0.2) and the weights (+0.7) each have an interval that holds 0, and that of a lower threshold (+1.1)
# begins at 0. The rules add 0.2 to 0.5 to a member. Together, threshold and weights make the vote better than its best
# member (+1.6, 0.3 to 2.9); on dev, which chose them, the gain looks larger (59.8 to 62.1). A threshold below one half
# lets a minority elect a span, which trades precision for recall. In the paper (by the task's scoring, and from many
# more sentences) look-up is worth more, from lists that are far larger, the rules about the same, and the vote, of
# systems that are less alike, 2.1 points. All this is from one training part and, for what was chosen, from the names
# of one small dev part.
#
# Any tagger can vote. The four CRFs, the BiLSTM-CRF and the Transformer together are something that the paper of 2009
# could not have. (What each of them found is known already, so only the votes are counted anew; the seconds are those
# of all parts together.)

# %%
everyone = VotingTagger([*gm.members, bilstm, transformer])
parts = [rungs[name] for name in ("BioTagger-GM", "BiLSTM-CRF", "Transformer")]
started = read_clocks()
dev_votes += [bilstm.predict(dev), transformer.predict(dev)]
everyone.choose(dev, dev_votes)
training = read_clocks() - started + sum(rung.training for rung in parts)
started = read_clocks()
predicted = everyone.combine([*votes, *(rung.predicted for rung in parts[1:])])
tagging = read_clocks() - started + sum(rung.tagging for rung in parts)
size = sum(rung.size for rung in parts)
add_rung("all six vote", predicted, tagging, training, size)
flattered = evaluate(dev, everyone.combine(dev_votes), resamples=0).f1
print(f"weights {everyone.weights}, threshold {everyone.threshold:.0%};", end=" ")
print(f"{sum(weight > 0 for weight in everyone.weights)} of six have a voice")
print(f"on dev, which chose them, F1 {flattered:.1%}")
others = ("BioTagger-GM", "Transformer")
change = [compare(predicted, rungs[name].predicted) for name in others]
pd.DataFrame({"all six, against it": change}, index=others)

# %%
show_mistakes("all six vote")

# %% [markdown]
# ### The task's own scoring
#
# BioCreative II does not insist on one boundary: for many mentions the annotators listed **alternatives**
# (`ALTGENE`). A gold mention counts as found if it, or an alternative that overlaps it, is predicted. A prediction is
# wrong only if it is neither. Strict and official figures are two different measures: they must never stand in one
# column.
#
# **Predict before you run:** how many points does the same prediction gain?


# %%
def of_part(places):
    """The task's places of the sentences of the test part alone."""
    return {sentence.id: places[sentence.id] for sentence in test if sentence.id in places}


try:
    whole = corpus.official("test")
    official = OfficialGold(of_part(whole.genes), of_part(whole.alternatives))
except ValueError:
    official = None
    print("The task's files are not at hand, so there are no alternatives:")
    print("official equals strict below.")

# %%
table, rules = {}, dict(mode="bc2", official=official, groups=documents)
for name, rung in rungs.items():
    score = evaluate(test, rung.predicted, **rules)
    low, high = score.intervals["f1"]
    table[name] = {
        "strict F1": f"{rung.score.f1:.1%}",
        "official F1": f"{score.f1:.1%}",
        "gain, points": f"{100 * (score.f1 - rung.score.f1):+.1f}",
        "95% interval": f"{low:.1%} to {high:.1%}",
    }
pd.DataFrame(table).T

# %% [markdown]
# The official figure of "BioTagger-GM" here is *not* to be set beside the paper's 0.8887: the measure is the same, but
# it is from a part of the training sentences and of the official test split, other lists and other systems. The figure
# to set beside it is that of the whole splits, which `make bench-ner` measures and `data/ner/results.md` holds.
#
# ## 8. The ladder
#
# **Question:** what does a point of F1 cost?

# %%
stand_in = " (the own corpus stands in)" if corpus.stands_in else ""
print(f"{corpus.name}{stand_in}, exact spans, one seed, {len(test):,} test sentences,")
print(f"{len(train):,} training sentences unless the name says otherwise")
ladder(list(rungs))

# %% [markdown]
# **Read the table with this in mind.** The rungs use dev differently. The CRFs choose nothing on it: their penalties
# (0.05 each) and the number of iterations were fixed beforehand, as were the learning rates of the networks. The
# BiLSTM-CRF and the Transformer choose their best epoch on dev; BioTagger-GM its rules, four weights and a threshold;
# the vote of all six chooses on predictions that were themselves chosen on the same sentences. So a score on dev
# flatters the later rungs most; test does not.
#
# **And the order is that of little data.** With all of BC2GM's training sentences it is another. Published, strict, on
# the whole test split: BiLSTM-CRF 77.8 (Habibi et al. 2017); BERT 80.9, BioBERT 83.8, PubMedBERT 84.5 (BLURB, Gu et al.
# 2020). What this course's taggers reach on the whole splits stands in `data/ner/results.md`. (Its dictionary, unlike
# the others, has the names of dev besides those of train; the page says what it reaches without them.) With that
# much to learn from, Transformers stand above the BiLSTM-CRF, and those that have read PubMed highest.

# %%
figure, ax = plt.subplots(figsize=(9, 4.2))
FLOOR = 0.01  # an axis in powers of ten has no place for 0 seconds
bars = {}
for k, (name, rung) in enumerate(rungs.items()):
    low, high = (100 * edge for edge in rung.score.intervals["f1"])
    x, f1 = max(rung.training[1], FLOOR), 100 * rung.score.f1
    bars[name] = (x, low, high)
    look = dict(color=COLOURS[k % 7], marker="o", markersize=8, capsize=3, linestyle="")
    look |= dict(markerfacecolor="white") if name == MORE else {}
    ax.errorbar(x, f1, yerr=[[f1 - low], [high - f1]], **look)
best = max((name for name in rungs if name != MORE), key=lambda name: rungs[name].score.f1)
classic = rungs["CRF"]
gain = f"{100 * (rungs[best].score.f1 - classic.score.f1):+.1f} from the CRF"
factor = f"{rungs[best].training[1] / classic.training[1]:.0f} times its training time"
ax.set_title(f'Best on this test part: "{best}", {gain} at {factor}')
ax.set(xscale="log", xlabel=f"processor seconds of training ({FLOOR:g} and less together)")
ax.set_ylabel("F1 on test, strict, per cent")
longest = max(rung.training[1] for rung in rungs.values())
powers = [10.0**k for k in range(-2, math.ceil(math.log10(longest)) + 1)]
ax.set_xticks(powers, [f"{power:g}" for power in powers])
ax.margins(y=0.12)
name_bars(ax, bars)
plt.show()

# %% [markdown]
# The hollow point had three times as many sentences (where there are so many), so it is beside the ladder, not on it.
# What would have been the better use of your time: another model, or more annotation?

# %%
three = ("BiLSTM-CRF", "Transformer", "BioTagger-GM")
other = max(three, key=lambda name: rungs[name].score.f1)
choices = {
    f"the same CRF on {len(more):,} sentences": MORE,
    f"{other}, the highest of three on {len(train):,}": other,
    f"all six vote on {len(train):,}": "all six vote",
}
changes = [compare(rungs[name].predicted, classic.predicted) for name in choices.values()]
pd.DataFrame({f"against the CRF on {len(train):,}": changes}, index=list(choices))

# %% [markdown]
# Read figure and lines with care. The bars are the bootstrap over test sentences; they do not hold the luck of the
# training part and of the seed, of which there is one here. Overlapping bars do not mean that two rungs are equal:
# the paired differences printed on the way are the sharper tool. Seconds are those of one machine.
#
# **What is still wrong**, rung by rung: how many mistakes of which kind, and how many of the names that no training
# sentence has were found.

# %%
kinds, found = {}, {}
new = {
    (i, e)
    for i, sentence in enumerate(test)
    for e in sentence.entities
    if words_of(sentence, e) not in mentions
}
for name, rung in rungs.items():
    kinds[name] = Counter(mistake[0] for mistake in find_mistakes(rung.predicted))
    found[name] = 100 * np.mean([e in rung.predicted[i].entities for i, e in new])
share = {name: n["boundary"] / max(1, n.total()) for name, n in kinds.items()}
parts = {name: f"{part:.0%}" for name, part in share.items()}
pd.DataFrame({"boundaries among the mistakes": parts})

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, width_ratios=[3, 2])
left, places = np.zeros(len(rungs)), np.arange(len(rungs))
for kind, colour in zip(("missed", "boundary", "invented"), COLOURS):
    values = np.array([kinds[name][kind] for name in rungs])
    axes[0].barh(places, values, left=left, color=colour, label=kind)
    left += values
axes[0].set(yticks=places, yticklabels=list(rungs), xlabel="mistakes on the test part")
axes[0].set_title(f'Boundaries: {share[best]:.0%} of the mistakes of "{best}"')
axes[0].invert_yaxis()
axes[0].legend(fontsize=8)
axes[1].barh(places, list(found.values()), color=COLOURS[5])
axes[1].set_title(f"The {len(new):,} names not in training")
axes[1].set_xlabel("per cent found exactly")
plt.show()

# %% [markdown]
# The dictionary of training names finds none of the names on the right, by construction. (The CRF with more sentences
# has seen some of them.) On the later rungs (below), look at how the share of boundary mistakes moves. One would expect
# it to rise with F1: the better a model knows *that* something is a gene, the more what is left is a matter of *where
# it ends*, on which the annotators themselves allowed alternatives. In the run shown it does so only loosely, and so
# few rungs of one run do not show it.
#
# **For full-size figures** (the whole training splits, the whole test splits, three corpora, several seeds) run
# `make bench-ner`; its tables are kept in `data/ner/results.md`. Notebook 12 looks at mistakes in earnest.
#
# ## 9. Exercises
#
# Write your answer in place of `raise NotImplementedError` and run the cell: `check` says whether it is right, and if
# not, which property is broken. `hint("11.1")` gives a hint, each call the next one; `solution("11.1")` shows one
# answer. The same goes for the other numbers.
#
# ### 11.1 A cleaner list
#
# A list holds names that are mostly something else (`WAS`). Training sentences tell which: keep the names that are
# right in at least `threshold` of the places where they stand, and those that stand nowhere.


# %%
def trusted_names(names, sentences, threshold):
    """The set of the names that are right in at least `threshold` of their occurrences, or
    never occur.

    names: a set of tuples of words.
    sentences: a list of (words, genes), genes a set of spans (start, end) of words.
    An occurrence is any place where the words of the name stand in a row; it is right if
    that span is in genes.
    """
    raise NotImplementedError


check("11.1", trusted_names)

# %% [markdown]
# Try it on `mentions` or the term list, with `threshold=0.5`: what does the dictionary's precision gain, what does its
# recall lose? Stuck? `hint("11.1")`.
#
# ### 11.2 The backward algorithm
#
# The trellis got its marginals from autograd. Compute them yourself: with $\beta_{n,k} = b_k$ and
# $\beta_{t,j} = \log \sum_k e^{A_{jk} + e_{t+1,k} + \beta_{t+1,k}}$, the log of the sum over all *endings* behind word
# $t$, the marginal is $p(y_t = k) = e^{\alpha_{t,k} + \beta_{t,k} - \log Z}$.


# %%
def marginals(emissions, start, transitions, end):
    """p(y_t = k), (n, K).

    emissions: (n, K). start, end: (K). transitions: (K, K) [from, to].
    """
    raise NotImplementedError


check("11.2", marginals)

# %% [markdown]
# Stuck? `hint("11.2")`, and in the end `solution("11.2")`.
#
# ### 11.3 Labels for pieces
#
# Most libraries train on pieces, not on words. Then each piece needs a label: the word's tag at its first piece, and
# -100, which PyTorch's cross-entropy ignores, at its other pieces and at special ones.


# %%
def piece_labels(tags, word_of_piece):
    """One integer for each piece.

    tags: an integer for each word.
    word_of_piece: for each piece the number of its word, in order, or None for a special
    piece such as [CLS].
    """
    raise NotImplementedError


check("11.3", piece_labels)

# %% [markdown]
# Stuck? `hint("11.3")`, and in the end `solution("11.3")`.
#
# ### 11.4 Official scoring
#
# Count what BioCreative II counts in one sentence, by the rules of section 7. Spans are (first, last), *both inside*.


# %%
def official_score(gold, alternatives, predicted):
    """(found, wrong): gold mentions found, and predictions that are wrong.

    All three are sets of (first, last). A gold mention is found, once, if it or an
    alternative that shares a character with it is predicted.
    """
    raise NotImplementedError


check("11.4", official_score)

# %% [markdown]
# Stuck? `hint("11.4")`, and in the end `solution("11.4")`.
#
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $P, R, F_1$ | `evaluate(gold, predicted)` | precision, recall and their harmonic mean, on exact spans |
# | $n$, $K$ | `T`, `K` in shapes | words of a sentence; tags |
# | $e_{t,k}$ | `emissions` (n, K) | score of tag $k$ at word $t$ |
# | $A_{jk}$ | `transitions` (K, K) | score of the step from tag $j$ to tag $k$ |
# | $a_k, b_k$ | `start`, `end` (K) | score of beginning and ending with tag $k$ |
# | $s(y)$, $Z$ | `path_score`, `forward` | score of a path; sum of $e^{s}$ over all paths |
# | $\alpha_{t,k}$ | `alpha` | log of the sum over beginnings that end at word $t$ in tag $k$ |
# | | `align` | which pieces each word has |
#
# 1. Lists know names, and rules know what names look like; a CRF weighs many such hints at once; its sums over all
#    paths cost $nK^2$ steps, and libraries compute just what you wrote by hand.
# 2. Neural taggers learn their features, and need sentences, seconds and megabytes for that; what they gain depends
#    on how much they see, and on what their vectors have read before.
# 3. Look-up and rules are cheap, a vote costs what its members cost together, and each can be measured by itself; what
#    a comparison says depends on the data, the scoring and the intervals, which have to be printed beside it.
#
# **Next:** [12 · NER in action](12_ner_in_action.ipynb): abstracts in, entities out, and where the mistakes come from.
#
# ### References
# - Aho, Corasick 1975, *Efficient string matching*, Communications of the ACM 18: 333.
# - Efron 1979, *Bootstrap methods: another look at the jackknife*, Annals of Statistics 7: 1.
# - Lafferty, McCallum, Pereira 2001, *Conditional random fields*, ICML: sections 2 and 3.
# - Okazaki 2007, *CRFsuite: a fast implementation of conditional random fields*, chokkan.org/software/crfsuite.
# - Smith et al. 2008, *Overview of BioCreative II gene mention recognition*, Genome Biology 9: S2.
# - Torii, Hu, Wu, Liu 2009, *BioTagger-GM: a gene/protein name recognition system*, JAMIA 16: 247, PMC2649315:
#   Tables 2 and 3.
# - Habibi et al. 2017, *Deep learning with word embeddings improves biomedical NER*, Bioinformatics 33: i37.
# - Gu et al. 2020, *Domain-specific language model pretraining for biomedical NLP* (PubMedBERT), arXiv 2007.15779.
# - Lample et al. 2016, *Neural architectures for named entity recognition*, arXiv 1603.01360, section 2.
# - Ma, Hovy 2016, *End-to-end sequence labeling via bi-directional LSTM-CNNs-CRF*, arXiv 1603.01354, section 2.
# - Devlin et al. 2019, *BERT*, arXiv 1810.04805, section 5.3: token tagging from an encoder; appendix A.3.
# - Wang et al. 2020, *MiniLM*, arXiv 2002.10957; and the model card of sentence-transformers/all-MiniLM-L6-v2.
