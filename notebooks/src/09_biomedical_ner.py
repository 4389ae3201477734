# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 09 · Biomedical named entity recognition: the task
#
# {{badge}}
#
# ![A sentence with its genes and chemicals in coloured boxes, and under each token its tag B, I or O](../data/pictures/09.png)
#
# Named entity recognition (NER) finds the genes, diseases and chemicals in a text. This notebook is about the task
# itself, before any model: what counts as a name, how it is written down, and how far people agree on it.
#
# **At the end you will have** counted what makes biomedical names hard; written the step from BIO tags to spans, and
# Cohen's kappa, and checked both; met precision, recall and F1; and measured why corpora are judged by F1 on spans and
# not by kappa.
#
# **You need** Python and a little probability. No biology beyond school, and no notebook before this one.
#
# **Time:** half a minute in the run shown, on two cores without a GPU. For you: about 20 minutes of reading for the
# *core*, sections 1 to 3, 5, 9 to 12 and 15, and half an hour for the two pieces you write. The rest is *further*.
#
# Comments that begin with `noqa` or `NBVAL` are for the tools that test this page.

# %% tags=["setup"]
from utils.course import start

course = start(seed=0)

# %%
import csv
import json
import random
import re
import warnings
from collections import Counter, defaultdict
from difflib import SequenceMatcher
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

# %%
from utils.course import COLOURS, check, choose, hint, play, solution  # noqa: F401
from utils.ner import (
    Entity,
    Sentence,
    convert_tags,
    evaluate,
    load_corpus,
    losses,
    read_pubtator,
    spans_to_tags,
    tags_to_spans,
    to_tags,
)
from utils.ner.display import show_entities
from utils.ner.tags import token_spans

pd.set_option("display.max_colwidth", None)  # tables show their texts whole

# %% [markdown]
# ## 1. What is to be found · *core*
#
# **Question:** what does a named entity recogniser give back, and who wants it?
#
# A text goes in. Out come **mentions**:
#
# $$ m = (\text{start}, \text{end}, \text{type}), \tag{1} $$
#
# where `text[start:end]` names a thing of that type. Recognition ends there. To say *which* gene it is, by its number
# in a data base, is **entity linking** (or normalisation), a task of its own.
#
# Four uses:
#
# - **Literature search.** *PubTator 3.0* marks genes, diseases, chemicals and variants in about 36 million abstracts,
#   so that one searches for the thing instead of the word (Wei et al. 2024).
# - **Curation.** The curators of the Rat Genome Database find their papers with *OntoMate*, which tags genes, diseases
#   and other terms in the abstracts (Liu et al. 2015).
# - **Pharmacovigilance.** A panel of BioCreative VII sets out what text mining does and does not yet do for reports of
#   side effects (Gonzalez-Hernandez et al. 2022).
# - **Knowledge graphs.** Mentions become nodes, relations edges: *iKraph*, from all PubMed abstracts (PMC10760044).
#
# Now the corpora. Those that this machine has are read; the course's own small corpus is always there, and everything
# runs on it alone.

# %%
NAMES = ["ncbi-disease", "bc5cdr", "bc2gm", "genia-nested"]
public = [load_corpus(name) for name in NAMES]
own = load_corpus("course-corpus")
corpora = {c.name: c for c in public if not c.stands_in} | {own.name: own}
sentences = {
    name: [sentence for split in corpus.splits for sentence in corpus.split(split)]
    for name, corpus in corpora.items()
}
mentions = {name: [e for s in part for e in s.entities] for name, part in sentences.items()}
missing = [name for name in NAMES if name not in corpora]
print("not at hand, so not counted below:", ", ".join(missing) or "none")
pd.DataFrame({"sentences": {name: len(part) for name, part in sentences.items()}})

# %%
show_entities(own.train[:3], titles=[sentence.id for sentence in own.train[:3]])

# %% [markdown]
# The course's corpus was written for this course, 290 sentences with hard cases chosen on purpose; section 13 says who
# annotated it. **Its counts show that a phenomenon exists, not how frequent it is in PubMed.**
#
# ## 2. Five kinds of names · *core*
#
# **Question:** which types are there, and how many mentions of each?
#
# The literature's usual five: genes and proteins, diseases, chemicals, species, cell lines. Every corpus has its own
# type names and its own idea of what counts, so we group them. **Predict before you run:** which of the five has no
# corpus here at all?

# %%
FAMILIES = {
    "gene or protein": {"GENE", "protein", "DNA", "RNA"},
    "disease": {"Disease", "DISEASE"},
    "chemical": {"Chemical", "CHEMICAL"},
    "species": {"species", "organism"},
    "cell line": {"cell_line"},
    "cell type": {"cell_type"},
}
counts = {name: Counter(e.type for e in found) for name, found in mentions.items()}
table = pd.DataFrame(
    {
        name: {kin: sum(count[t] for t in types) for kin, types in FAMILIES.items()}
        for name, count in counts.items()
    }
)
absent = ", ".join(table.index[table.sum(axis=1) == 0])
print("no corpus at hand for:", absent or "none")
table

# %% [markdown]
# Species are marked in none of these corpora (Linnaeus and Species-800 are public corpora that do). They still matter:
# is *human* part of "human insulin"? The course's guideline says no, BC2GM often accepts both (section 8). **A type is
# what the guideline of its corpus says it is.**
#
# ## 3. One thing, many names · *core*
#
# **Question:** how many names does one thing, say a disease, have?
#
# The untokenised releases of NCBI-disease and BC5CDR (of the latter a sample of 50 abstracts is used here) give each
# mention the number of its concept. For each concept we count the different names, case ignored. Without such a release
# a name in brackets behind another ("Paracetamol (APAP)") is taken as a second name.
#
# **Predict before you run:** what share of the concepts that are mentioned at least five times has only one name?


# %%
def read_originals(corpus):
    """The untokenised documents of a corpus, from its PubTator files, if it has any."""
    documents = []
    for path in sorted((corpus.folder / "original").glob("*.pubtator.txt")):
        with warnings.catch_warnings():
            # One mention of NCBI-disease is not the text at its offsets.
            warnings.simplefilter("ignore")
            documents += read_pubtator(path, mismatch="skip")
    return documents


def bracket_pairs(part):
    """(long, short) where a mention in brackets follows one of its type."""
    for sentence in part:
        text = sentence.text
        for long, short in pairwise(sentence.entities):
            opens = text[long.end : short.start].strip() == "("
            closes = text[short.end :].lstrip().startswith(")")
            if opens and closes and long.type == short.type:
                yield long.text, short.text


# %%
originals = {name: read_originals(corpus) for name, corpus in corpora.items()}
concepts = defaultdict(Counter)
for e in (e for part in originals.values() for document in part for e in document.entities):
    # "D1|D2" and "D1+D2" are several concepts under one name.
    if e.concept not in ("", "-1") and not re.search(r"[|+]", e.concept):
        concepts[e.concept][e.text.lower()] += 1
source = "concept number"
if not concepts:
    source = "brackets in the course corpus: two names by construction"
    for long, short in bracket_pairs(sentences["course-corpus"]):
        concepts[long.lower()] += Counter([long.lower(), short.lower()])

often = [names for names in concepts.values() if names.total() >= 5]
often = often or list(concepts.values())
single = np.mean([len(names) == 1 for names in often])
print(f"{len(concepts):,} concepts, by {source}")
print(f"of the {len(often)} looked at, {single:.0%} have one name")

# %%
rows = [
    {
        "names": len(names),
        "mentions": names.total(),
        "the most frequent": ", ".join(name for name, _ in names.most_common(7)),
    }
    for names in sorted(often, key=len, reverse=True)[:3]
]
pd.DataFrame(rows).set_axis(["most names", "second", "third"])

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(7, 2.8))
names_per_concept = Counter(min(len(names), 15) for names in often)
ax.bar(list(names_per_concept), list(names_per_concept.values()), color=COLOURS[0])
ax.set(xlim=(0, 16), ylabel="concepts")
ax.set_xlabel("different names of a concept (15 and more together)")
ax.set_title(f"{1 - single:.0%} of these concepts go by more than one name\n(by {source})")
plt.show()

# %% [markdown]
# A search for one name misses what was written under the others: that is why recognition is followed by linking. Some
# names differ by a plural or a hyphen only, some share no word (*tumor*, *cancer*). With NCBI-disease at hand the
# concept on top of the list is a catch-all, inherited diseases in general; for a usual disease look at the highest
# bars.
#
# ## 4. Abbreviations · *further*
#
# **Question:** how many mentions are abbreviations, and is an abbreviation explained where it stands?
#
# An abbreviation is here a mention of at most eight characters, two or more of them capital letters (notebook 10 builds
# Schwartz and Hearst's algorithm). A **definition** is a name with another in brackets behind it.
#
# **Predict before you run:** take all mentions of short forms that are defined *somewhere* in the corpus: for what
# share of them does the definition stand in the same sentence?


# %%
def is_abbreviation(name):
    name = name.replace(" ", "")
    return len(name) <= 8 and sum(letter.isupper() for letter in name) >= 2


def spelling(name):
    """A name's letters and digits in lower case: without hyphens, spaces and capitals."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def likeness(names):
    """How alike the two least similar of some names are, from 0 to 1."""
    pairs = combinations(sorted(names), 2)
    return min(SequenceMatcher(None, *pair).ratio() for pair in pairs)


def explained_here(part, shorts):
    """For each mention that is one of those short forms: is it defined in its sentence?"""
    for sentence in part:
        here = {short for _, short in bracket_pairs([sentence])}
        yield from (e.text in here for e in sentence.entities if e.text in shorts)


# %%
several, rows = {}, {}
for name, part in sentences.items():
    meanings = defaultdict(set)
    for long, short in bracket_pairs(part):
        meanings[short].add(spelling(long))
    several[name] = {short: longs for short, longs in meanings.items() if len(longs) > 1}
    short = [is_abbreviation(e.text) for e in mentions[name]]
    here = list(explained_here(part, meanings))
    rows[name] = {
        "abbreviations": f"{np.mean(short):.0%}",
        "definitions": sum(map(len, meanings.values())),
        "explained here": f"{np.mean(here or [0]):.0%}",
        "several long forms": len(several[name]),
        "unlike": sum(likeness(longs) <= 0.8 for longs in several[name].values()),
    }
pd.DataFrame(rows).T

# %%
rows = [
    (name, short, " | ".join(sorted(longs)))
    for name, examples in several.items()
    for short, longs in sorted(examples.items(), key=lambda pair: likeness(pair[1]))[:2]
]
columns = ["corpus", "short form", "its long forms"]
pd.DataFrame(rows, columns=columns).set_index("corpus")

# %% [markdown]
# Where "explained here" is below one half, a short form mostly stands without its long form, and a tagger that reads
# one sentence has to know it or to guess. *Unlike* counts short forms whose long forms differ by more than spelling;
# the two least alike of each corpus are shown, without spaces, as they were compared. Some are different things, some
# are one thing in other words, and some brackets define nothing, so even *unlike* counts too many.
#
# ## 5. One name, many things · *core*
#
# **Question:** can the type be read off the name?
#
# First, names that carry more than one type in the same corpus:


# %%
def with_counts(kinds):
    return ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())


rows = {}
for name, found in mentions.items():
    types = defaultdict(Counter)
    for e in found:
        types[e.text.lower()][e.type] += 1
    mixed = {text: kinds for text, kinds in types.items() if len(kinds) > 1}
    order = sorted(mixed, key=lambda text: -min(mixed[text].values()))
    rows[name] = {
        "names": len(types),
        "with two types or more": len(mixed),
        "mentions of these": sum(kinds.total() for kinds in mixed.values()),
        "the most mixed": "; ".join(f"{t}: {with_counts(mixed[t])}" for t in order[:3]),
    }
pd.DataFrame(rows).T

# %% [markdown]
# A second count, below, needs three words.
#
# ### Precision, recall, F1
#
# The annotation that counts as true is called the **gold standard**, or *gold*. A marked mention is *right* if the gold
# has one with the same start, the same end and the same type.
#
# - **Precision** $P$ = right / marked: of what was marked, how much is right? (In medicine: positive predictive value.)
# - **Recall** $R$ = right / gold: of what there is to find, how much was found? (Sensitivity.)
# - **F1** = $2PR / (P + R)$: are both high? (Dice coefficient.)
#
# A tagger that marks only what it is sure of has a high precision and a low recall; one that marks everything has it
# the other way round. F1, their *harmonic* mean, stays near the lower of the two: with $P = 0.02$ and $R = 1$ the usual
# mean is 0.51, F1 is 0.04.
#
# **Predict before you run:** take `cc01-3`, the third sentence of section 1. A tagger finds *warfarin* and *CYP2C9*,
# but *cytochrome P450 2C9* without its last word, and it marks the letter *S* as a gene. What are its precision and
# recall?

# %%
# NBVAL_CHECK_OUTPUT
gold = own.train[2]
drug, gene, symbol = gold.entities
letter = gold.text.index("S")
shorter = Entity(gene.start, gene.end - len(" 2C9"), "GENE")
tagged = gold.with_entities([drug, shorter, symbol, Entity(letter, letter + 1, "GENE")])
right = len(set(gold.entities) & set(tagged.entities))
p, r = right / len(tagged.entities), right / len(gold.entities)
print(f"marked {len(tagged.entities)}, to find {len(gold.entities)}, right {right}")
report = evaluate([gold], [tagged], resamples=0)
rows = {
    "by hand": (p, r, 2 * p * r / (p + r)),
    "evaluate": (report.precision, report.recall, report.f1),
}
pd.DataFrame(rows, index=["precision", "recall", "F1"]).T.round(3)

# %%
show_entities([gold, tagged], titles=["gold", "tagger"])

# %% [markdown]
# The name that was cut short counts twice: what was marked is wrong, and what was to be found was missed. That rule is
# called **strict** scoring; notebook 12 sets milder ones beside it.
#
# ### A gene symbol that is an English word
#
# For every gene name that is one word of letters, how often do the same letters, in any case, stand *outside* every
# gene mention? A dictionary's precision on the word is its occurrences as a gene, divided by all its occurrences.
# **Predict before you run:** name three such words.


# %%
def as_gene_and_elsewhere(part):
    """How often each word is a gene mention, and how often it stands outside of all."""
    as_gene, elsewhere = Counter(), Counter()
    for sentence in part:
        whole = {(e.start, e.end) for e in sentence.entities if e.type == "GENE"}
        covered = {i for start, end in whole for i in range(start, end)}
        for token in sentence.tokens:
            if token[:2] in whole and token.text.isalpha() and len(token.text) > 1:
                as_gene[token.text.lower()] += 1
            elif token.start not in covered:
                elsewhere[token.text.lower()] += 1
    return as_gene, elsewhere


# %%
word_counts, rows = {}, {}
for name in [name for name in ("bc2gm", "course-corpus") if name in corpora]:
    genes, others = as_gene_and_elsewhere(sentences[name])
    shared = sorted((w for w in genes if others[w]), key=lambda w: -others[w])
    word_counts[name] = {word: (genes[word], others[word]) for word in shared}
    ratios = [f"{word} {genes[word]}/{genes[word] + others[word]}" for word in shared]
    rows[name] = {
        "one-word gene names": len(genes),
        "also where no gene is meant": len(shared),
        "as a gene / all": ", ".join(ratios[:12]),
    }
pd.DataFrame(rows).T

# %%
symbols = ["WAS", "CAT", "MICE", "REST"]


def in_both_cases(sentence):
    return any({symbol, symbol.lower()} <= set(sentence.words) for symbol in symbols)


show_entities(list(filter(in_both_cases, sentences["course-corpus"]))[:3])

# %% tags=["figure"]
name, words = next(iter(word_counts.items()))
values = np.array([100 * genes / (genes + others) for genes, others in words.values()])
low = np.mean(values < 50)
figure, ax = plt.subplots(figsize=(7, 2.8))
ax.hist(values, bins=np.arange(0, 101, 10), color=COLOURS[0])
ax.set(xlabel="precision of looking the word up, per cent", ylabel="gene names")
finding = f"{low:.0%} of these {len(values)} names are more often no gene than a gene"
ax.set_title(f"{name}: {finding}")
plt.show()

# %% [markdown]
# `was 2/10` reads: marked as a gene twice, in ten occurrences (those inside a longer gene name are not counted). A
# dictionary that ignores case marks all of them; one that minds it still stumbles over headings and over symbols
# written small.
#
# ## 6. Names inside names · *further*
#
# **Question:** how often does one mention lie inside another?
#
# A mention is **nested** in another if it lies within it and the two differ. Of the tokenised corpora only
# *genia-nested* annotates nesting. In a **flat** corpus the longest name wins by rule, but we can look for hidden ones:
# mentions that contain, as whole tokens, another mention's name from the same corpus.
#
# **Predict before you run:** which share is larger, the annotated nesting or the hidden one?


# %%
def nested_pairs(entities):
    """(inner, outer) for every entity that lies inside another."""
    return [
        (inner, outer)
        for inner in entities
        for outer in entities
        if inner != outer and outer.start <= inner.start and inner.end <= outer.end
    ]


def hides_a_name(sentence, entity, known):
    """Whether a known name of over two characters is in the entity, not annotated."""
    inside = [t for t in sentence.tokens if entity.start <= t.start and t.end <= entity.end]
    runs = {(a.start, b.end) for i, a in enumerate(inside) for b in inside[i:]}
    runs -= {(e.start, e.end) for e in sentence.entities}
    names = [sentence.text[start:end].lower() for start, end in runs]
    return any(len(name) > 2 and name in known for name in names)


# %%
rows = {}
for name, part in sentences.items():
    inner = sum(len({inner for inner, _ in nested_pairs(s.entities)}) for s in part)
    known = {e.text.lower() for e in mentions[name]}
    hiding = [hides_a_name(s, e, known) for s in part for e in s.entities]
    rows[name] = {
        "mentions inside another": f"{inner / len(hiding):.1%}",
        "mentions that hide a known name": f"{np.mean(hiding):.1%}",
    }
pd.DataFrame(rows).T

# %% [markdown]
# Where names overlap, an arrow marks the sentence above once more.

# %%
candidates = [s for s in sentences.get("genia-nested", []) if len(s.text) < 90]
nested = [sentence for sentence in candidates if nested_pairs(sentence.entities)][:2]
if not nested:
    print("genia-nested is not at hand; an example made here instead:")
    text = "phenylalanine hydroxylase gene"
    nested = [Sentence(text, None, [Entity(0, 25, "protein"), Entity(0, 30, "DNA")])]
show_entities(nested)

# %% [markdown]
# Hidden names are partly noise ("cancer" in every "breast cancer"). One tag per token cannot hold nested mentions at
# all; section 10 counts that loss.
#
# ## 7. Names in pieces · *further*
#
# **Question:** which two diseases stand in "renal and hepatic failure"?
#
# *Renal failure* stands there in two pieces: it is **discontinuous**. NCBI-disease marks the whole as one
# *CompositeMention*; BC5CDR marks the whole and lists the single names in a further column of its untokenised release;
# the tokenised forms, from which taggers are trained, keep only the whole. None of them stores the pieces' offsets. To
# find them, take the words of the single name, in order, from the words of the whole.


# %%
def find_pieces(text, start, end, name):
    """Where the words of `name` stand in text[start:end]; None if one is missing."""
    pieces, at = [], start
    for word in name.split():
        found = text.find(word, at, end)
        if found < 0:
            return None
        at = found + len(word)
        if pieces and text[pieces[-1][1] : found].strip() == "":
            pieces[-1] = (pieces[-1][0], at)  # only white space between: one piece
        else:
            pieces.append((found, at))
    return pieces


whole_text = "He died of renal and hepatic failure."
for name in ["renal failure", "hepatic failure"]:
    pieces = find_pieces(whole_text, 11, 36, name)
    print(f"{name}: {[whole_text[a:b] for a, b in pieces]} at {pieces}")


# %%
def single_names(corpus):
    """(document, start, end, names) for each mention with a column of single names."""
    for path in sorted((corpus.folder / "original").glob("*.pubtator.txt")):
        with open(path, encoding="utf-8") as file:
            for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                if len(row) > 6 and row[1].isdigit() and row[6]:
                    yield row[0], int(row[1]), int(row[2]), row[6].split("|")


# %%
composite, spelt_out = 0, []  # spelt_out: (text of the mention, pieces of its single names)
for name, corpus in corpora.items():
    documents = {document.id: document for document in originals[name]}
    kinds = [e.type for document in documents.values() for e in document.entities]
    composite += kinds.count("CompositeMention")
    for document, first, behind, names in single_names(corpus):
        text = documents[document].text[first:behind]
        spelt_out.append((text, [find_pieces(text, 0, len(text), name) for name in names]))

sizes = Counter(len(pieces or ()) for _, found in spelt_out for pieces in found)
print("composite mentions in NCBI-disease:", composite)
print("mentions with single names in BC5CDR's sample:", len(spelt_out))
print(f"single names in one piece: {sizes[1]}", end=", ")
print(f"discontinuous: {sizes.total() - sizes[0] - sizes[1]}", end=", ")
print(f"not all words in the mention: {sizes[0]}")
if not spelt_out:
    print("Neither is at hand; the example is from the course corpus, by the same rule.")
    text = "breast and ovarian cancer"
    spelt_out = [(text, [find_pieces(text, 0, len(text), "breast cancer")])]

# %%
discontinuous = []
for text, found in spelt_out:
    several_pieces = [tuple(pieces) for pieces in found if len(pieces or ()) > 1]
    diseases = [
        Entity(pieces[0][0], pieces[-1][1], "Disease", fragments=pieces)
        for pieces in several_pieces
    ]
    if diseases:
        discontinuous.append(Sentence(text, None, diseases))
show_entities(discontinuous[:4])

# %%
COORDINATED = re.compile(r"\b(?:and|or)\b|/")
rows = {}
for name, found in mentions.items():
    joined = [e.text for e in found if COORDINATED.search(e.text)]
    rows[name] = {
        "hold 'and', 'or' or '/'": len(joined),
        "of all mentions": f"{len(joined) / len(found):.1%}",
        "for example": joined[0],
    }
pd.DataFrame(rows).T

# %% [markdown]
# Rare, but not random: coordination is where several names are hidden in one mention. (Not every `/` joins two names,
# so the count is a little too high.) A corpus that drops the pieces keeps a long mention that names no single disease.
# And the column of single names has slips of its own: in the sample of BC5CDR it makes an "opistothonus dysfunction" of
# a list that begins with opisthotonus, a spasm of the back.
#
# ## 8. Where does the name end? · *further*
#
# **Question:** if two experts both see the gene, do they mark the same characters?
#
# The makers of BC2GM wrote down for many mentions further spans that they accept (`ALTGENE.eval`). For a gold mention
# the alternatives are the accepted spans that overlap it. Without BC2GM, the same count is made on two annotation
# passes of the course's corpus.
#
# **Predict before you run:** for what share of the gene mentions did the makers accept another boundary?


# %%
def nth_place(text, surface, occurrence):
    """Where `surface` begins for the n-th time (from 1) in `text`."""
    start = -len(surface)
    for _ in range(occurrence):
        start = text.index(surface, max(0, start + len(surface)))
    return start


def load_pass(name):
    """A pass over the course's corpus: sentence id -> sentence with the entities of it."""
    by_id = {sentence.id: sentence for sentence in sentences["course-corpus"]}
    read = {}
    for line in (own.folder / "passes" / f"{name}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        sentence, marked = by_id[row["id"]], []
        for surface, occurrence, kind in row["mentions"]:
            start = nth_place(sentence.text, surface, occurrence)
            marked.append(Entity(start, start + len(surface), kind, surface))
        read[sentence.id] = sentence.with_entities(marked)
    return read


passes = {name: load_pass(name) for name in ["first", "second", "third"]}
passes["final"] = {sentence.id: sentence for sentence in sentences["course-corpus"]}
print(", ".join(f"{name}: {len(read)} sentences" for name, read in passes.items()))


# %%
def official_spans(corpus):
    """(text, gold spans, further accepted spans) of each BC2GM test sentence."""
    official = corpus.official("test")
    both = official.genes, official.alternatives
    for sentence in corpus.test:
        # The task's offsets do not count white space, and its end is the last character.
        visible = [i for i, letter in enumerate(sentence.text) if not letter.isspace()]
        found = [places.get(sentence.id, []) for places in both]
        genes, others = (
            [(visible[i], visible[j] + 1) for i, j in places] for places in found
        )
        yield sentence.text, genes, others


def spans_of_two_passes():
    """The same of the course's corpus: the spans of the first pass and of the third."""
    for name, first in passes["first"].items():
        both = first.entities, passes["third"][name].entities
        yield first.text, *([(e.start, e.end) for e in found] for found in both)


def other_boundaries(gold, spans):
    """The spans that overlap `gold` and differ from it."""
    return [s for s in spans if s != gold and s[0] < gold[1] and gold[0] < s[1]]


# %%
if "bc2gm" in corpora:
    which, annotated = "BC2GM test, ALTGENE", official_spans(corpora["bc2gm"])
else:
    which, annotated = "course corpus, first and third pass", spans_of_two_passes()
accepted = [
    (text, gold, other_boundaries(gold, spans))
    for text, genes, spans in annotated
    for gold in genes
]
disputed = [(text, gold, others) for text, gold, others in accepted if others]
shorter = [any(g[0] <= o[0] and o[1] <= g[1] for o in others) for _, g, others in disputed]
longer = [any(o[0] <= g[0] and g[1] <= o[1] for o in others) for _, g, others in disputed]
share = len(disputed) / len(accepted)
print(f"{which}: {len(accepted):,} mentions, {share:.1%} with another boundary;")
print(f"of these {len(disputed):,}, a shorter one for {sum(shorter):,},", end=" ")
print(f"a longer one for {sum(longer):,}")

# %% tags=["figure"]
edge_words = Counter()
for text, gold, others in disputed:
    for other in others:
        for edges in zip(gold, other):  # the two beginnings, then the two ends
            words = text[min(edges) : max(edges)].lower().split()
            edge_words.update(word for word in words if word.isalpha() and len(word) > 1)
words, times = zip(*edge_words.most_common(12)[::-1])
figure, ax = plt.subplots(figsize=(7, 3.2))
ax.barh(words, times, color=COLOURS[0])
ax.set_xlabel("times the word is inside one boundary and outside the other")
common = ", ".join(words[:-4:-1])
ax.set_title(f"In dispute: {common} and other words at the edge of a name")
plt.show()

# %% [markdown]
# In BC2GM the words in dispute are mostly generic nouns (*gene*, *protein*), a species (*human*), and small words that
# join a longer name. That is why BC2GM has a score of its own that accepts the alternatives, and why its figures must
# not stand in one column with strict ones (notebook 12 computes both). (A mention may have both a shorter and a longer
# alternative, so the two counts overlap. Six of the 6,331 mentions in the task's own test file have no tag in the
# tokenised file, so other sections count 6,325.)
#
# ## 9. Names never seen · *core*
#
# **Question:** how far does a list of names go?
#
# A list to look names up in is called a **gazetteer** (also lexicon or dictionary). The simplest one holds the names of
# the training text. Of the test mentions it cannot find
#
# $$ \text{unseen} = \frac{|\{ m \in \text{test} : \text{text}(m) \notin \text{names of train and dev} \}|}
# {|\text{test}|} \tag{2} $$
#
# and one minus this is the best recall it can reach.
#
# **Predict before you run:** genes, diseases, chemicals: which has the most names that were never seen?


# %%
def unseen_share(train, test, kind, fold=str.lower):
    """Eq. (2) for one type; `fold` says which spellings are the same name."""
    known = {fold(e.text) for s in train for e in s.entities if e.type == kind}
    names = [fold(e.text) for s in test for e in s.entities if e.type == kind]
    return np.mean([name not in known for name in names])


def as_it_stands(name):
    return name


folds = {"unseen": as_it_stands, "case folded": str.lower, "letters only": spelling}
with_train = {name: corpus for name, corpus in corpora.items() if "train" in corpus.splits}
rows = {}
for name, corpus in with_train.items():
    train, test = [*corpus.train, *corpus.dev], corpus.test
    for kind in corpus.types:
        total = sum(e.type == kind for s in test for e in s.entities)
        shares = {label: unseen_share(train, test, kind, f) for label, f in folds.items()}
        shares = {label: f"{share:.1%}" for label, share in shares.items()}
        rows[name, kind] = {"test mentions": total, **shares}
pd.DataFrame(rows).T

# %% [markdown]
# "Unseen" depends on when two spellings are one name, so say it with the figure. The course's corpus is small, and by
# design its test repeats little of train: documents with sentences that say nearly the same stand in one split. So
# nearly all of its genes are new in test. Does more training text cure it?

# %%
generator, curves = random.Random(0), {}
for name, corpus in with_train.items():
    for kind in corpus.types:
        train = [*corpus.train, *corpus.dev]
        train = generator.sample(train, len(train))
        sizes = [len(train) // 2**k for k in range(8, -1, -1)]
        sizes = [size for size in sizes if size >= 25]
        shares = [100 * unseen_share(train[:size], corpus.test, kind) for size in sizes]
        curves[name, kind] = sizes, shares

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(8.5, 3.4))
for colour, ((name, kind), (sizes, shares)) in zip(COLOURS, curves.items()):
    style = "o--" if name == own.name else "o-"
    ax.plot(sizes, shares, style, markersize=3, color=colour, label=f"{name}, {kind}")
ax.set(xscale="log", ylim=(0, 103), xlabel="training sentences, chosen at random")
ax.set_ylabel("unseen test mentions, %")
last = {key: shares[-2:] for key, (_, shares) in curves.items()}
only_own = len(with_train) == 1
gains = [a - b for (name, _), (a, b) in last.items() if only_own or name != own.name]
which = "the course's corpus" if only_own else "the public corpora"
finding = f"took off {min(gains):.0f} to {max(gains):.0f} points"
ax.set_title(f"The last doubling of {which} {finding}")
order = np.argsort([-whole for _, whole in last.values()])  # as the lines end on the right
handles = [ax.lines[k] for k in order]
figure.legend(handles=handles, fontsize=8, loc="outside right center")
plt.show()

# %% [markdown]
# A doubling takes off some points, and costs as much annotation as all before. Models must recognise a name they never
# saw, by its form and by what stands around it: the subject of notebook 11.
#
# ## 10. Writing it down: tags and spans · *core*
#
# **Question:** how do mentions become something that a model predicts token by token?
#
# Cut the text into $n$ tokens. A mention becomes a span $(i, j, \text{type})$ of tokens $i$ to $j-1$. Then give each
# token one tag: **inside-outside tagging**.
#
# | scheme | first token | inside | last token | only token | outside |
# | --- | --- | --- | --- | --- | --- |
# | IO | I-X | I-X | I-X | I-X | O |
# | BIO (also IOB2) | B-X | I-X | I-X | B-X | O |
# | BIOES (also BILOU) | B-X | I-X | E-X | S-X | O |
#
# Begin, inside, outside, end, single. From spans to BIO is two lines:


# %%
def my_bio(spans, length):
    """Tags of spans (start, end, type) that do not overlap."""
    tags = ["O"] * length
    for i, j, kind in spans:
        tags[i:j] = [f"B-{kind}"] + [f"I-{kind}"] * (j - i - 1)
    return tags


my_bio([(0, 1, "CHEMICAL"), (3, 5, "GENE")], length=6)

# %% [markdown]
# ### Your turn: 09.1
#
# Now back, from BIO tags to spans. A mention begins at a `B-` and goes on through every `I-` of the same type that
# follows directly; `j` is the token *behind* its last one. A `B-` always begins a new mention, also next to one of its
# own type.
#
# One case needs a decision: an `I-` that continues nothing, because it stands first, after `O`, or after a tag of
# another type. It is called an **orphan**; a tagger that chooses each tag by itself writes some. Do what the scorer of
# the CoNLL shared tasks does, which gave the field this format: **an orphan begins a mention**, and `I-`s of its type
# behind it belong to it.
#
# Write your lines in place of `raise NotImplementedError` and run the cell. `check` says whether they are right, and if
# not, what is wrong. Stuck? `hint("09.1")` gives a hint, each call the next one; `solution("09.1")` shows an answer.
# You may also go on: the next cell goes on with the course's version, or with yours if it is right.


# %%
def my_spans(tags):
    """The spans of BIO tags: a list of tuples (i, j, type), from left to right.

    tags: list of "O", "B-X", "I-X", where X is a type, any string. The list may be empty.
    """
    raise NotImplementedError


check("09.1", my_spans)


# %%
def course_my_spans(tags):
    spans = []
    for i, tag in enumerate(tags):
        if tag == "O":
            continue
        kind = tag[2:]
        continues = tag[0] == "I" and spans and spans[-1][1:] == (i, kind)
        if continues:
            spans[-1] = (spans[-1][0], i + 1, kind)
        else:
            spans.append((i, i + 1, kind))
    return spans


my_spans = choose("09.1", my_spans, course_my_spans)


# %%
def my_bioes(tags):
    """BIO to BIOES: a token is the last of its mention if the next tag is not its I-."""
    result = []
    for tag, after in zip(tags, [*tags[1:], "O"]):
        last = tag != "O" and after != f"I-{tag[2:]}"
        result.append({"B": "S", "I": "E"}[tag[0]] + tag[1:] if last else tag)
    return result


# %%
example = own.train[2]
tags = my_bio(token_spans(example).values(), len(example.tokens))
columns = {
    "IO": [tag.replace("B-", "I-") for tag in tags],
    "BIO": tags,
    "BIOES": my_bioes(tags),
}
pd.DataFrame(columns, index=example.words)

# %% tags=["figure", "picture"]
figure, ax = plt.subplots(figsize=(9.5, 1.7))
look = dict(ha="center", va="center", family="monospace")
for k, character in enumerate(example.text):
    ax.text(k + 0.5, 0, character, fontsize=12, **look)
hues = dict(zip(("GENE", "DISEASE", "CHEMICAL"), COLOURS))
for entity in example.entities:
    box = (entity.start, -0.4), entity.end - entity.start, 0.8
    ax.add_patch(plt.Rectangle(*box, color=hues[entity.type], alpha=0.3, lw=0))
    ax.text(entity.start, 0.5, entity.type, va="bottom", fontsize=8)
for token, tag in zip(example.tokens, tags):
    bold = "normal" if tag == "O" else "bold"
    ax.text((token.start + token.end) / 2, -0.9, tag[0], weight=bold, **look)
ax.set(xlim=(0, len(example.text)), ylim=(-1.3, 1.1))
finding = f"the same as one tag for each of {len(tags)} tokens"
ax.set_title(f"{len(example.entities)} mentions in the text; below, {finding}")
ax.set_axis_off()
plt.show()

# %% [markdown]
# **Check:** the same as `utils/ner/tags.py`, on every sentence at hand whose mentions fit into tags, and on random tag
# sequences, orphans among them.

# %%
checked = 0
for part in sentences.values():
    for sentence in part:
        theirs = to_tags(sentence, on_loss="drop")
        spans = tags_to_spans(theirs)
        assert my_bio(spans, len(theirs)) == theirs and my_spans(theirs) == spans
        assert my_bioes(theirs) == convert_tags(theirs, "BIO", "BIOES")
        checked += 1
print(f"{checked:,} sentences agree")

# %%
# NBVAL_CHECK_OUTPUT
generator = random.Random(0)
for _ in range(2000):
    tags = generator.choices(["O", "B-X", "I-X", "B-Y", "I-Y"], k=12)
    spans = my_spans(tags)
    assert spans == tags_to_spans(tags, orphan="repair")
    repaired = my_bio(spans, 12)
    assert repaired == spans_to_tags(spans, 12) and my_spans(repaired) == spans
    assert convert_tags(my_bioes(repaired), "BIOES", "BIO", orphan="refuse") == repaired
print("2,000 random sequences agree")
orphaned = ["O", "I-X", "I-X", "B-X", "I-Y"]
for orphan in ["repair", "drop"]:
    print(f"{orphan}: {tags_to_spans(orphaned, orphan=orphan)}")

# %% [markdown]
# There are two customs: "repair" takes an orphan as a mention, as you did, "drop" leaves it out, and the same
# predictions get another F1. ("Repair" also reads **IOB1**, the scheme of early CoNLL files, which writes `B-` only
# where a mention touches one of its own type.)
#
# ### What gets lost
#
# There are four ways to lose a mention: two neighbours of one type melt (IO), a nested one has no room, a discontinuous
# one cannot be said, and a boundary falls inside a token. **Predict before you run:** in which of the corpora does BIO
# lose anything? (*2 layers*: a second tag sequence holds names that found no room in the first.)


# %%
def io_spans(sentence):
    """What a round trip through IO leaves: neighbours of one type have melted."""
    tags = [tag.replace("B-", "I-") for tag in to_tags(sentence, on_loss="drop")]
    return set(my_spans(tags))


def at_white_space(sentence):
    """The same text and entities, with tokens cut at white space only."""
    words = [match.span() for match in re.finditer(r"\S+", sentence.text)]
    return Sentence(sentence.text, words, sentence.entities, sentence.id)


rows = {}
for name, part in sentences.items():
    total = len(mentions[name])
    kept = sum(len(io_spans(s) & set(token_spans(s).values())) for s in part)
    one_layer, two_layers = (sum(len(losses(s, n)) for s in part) for n in (1, 2))
    rows[name] = total, total - kept, one_layer, two_layers
columns = ["mentions", "lost in IO", "in BIO", "in BIO, 2 layers"]
pd.DataFrame(rows, index=columns).T

# %% [markdown]
# The tokenised corpora hold only what fits into their tags, so we cut the untokenised releases ourselves. **Predict
# before you run:** which of the four is the most frequent, for tokens cut at white space only?

# %%
untokenised = {
    "course-corpus": sentences["course-corpus"],
    "made in section 7": discontinuous,
}
for name, documents in originals.items():
    if documents:
        untokenised[f"{name}, original"] = documents


# %%
def lost_in_bio(part):
    """The mentions that BIO loses, by reason, in words."""
    reasons = Counter(loss.reason for sentence in part for loss in losses(sentence))
    words = [f"{reason} {n:,}" for reason, n in sorted(reasons.items())]
    return ", ".join(words) or "nothing"


rows = {
    name: {
        "mentions": sum(len(sentence.entities) for sentence in part),
        "lost, tokens at white space": lost_in_bio(map(at_white_space, part)),
        "lost, the course's tokens": lost_in_bio(part),
    }
    for name, part in untokenised.items()
}
pd.DataFrame(rows).T

# %% [markdown]
# Tokens at white space are the expensive mistake: a comma or a hyphen that sticks to a name makes its boundary
# unreachable (notebook 10). The untokenised sample of BC5CDR holds nested mentions and discontinuous ones, its
# tokenised form neither: **what tags cannot say was lost before you got the corpus.** BIOES says nothing more than BIO;
# it gives the tagger a chance to learn what last tokens look like. (Gu et al. 2020 find complex schemes unnecessary
# with BERT.)
#
# (NCBI-disease has 10 mentions more here: a document with 11 stands twice in the untokenised release, and one mention
# that is not the text at its offsets is skipped.)
#
# ## 11. Two annotators, simulated · *core*
#
# **Question:** if we know exactly how two annotators err, what do the usual measures of agreement say?
#
# Both start from the same truth and change each mention independently: with probability *miss* it is overlooked, with
# *shift* one boundary moves by one token, with *confuse* its type is another, and with *invent* one token elsewhere is
# marked besides. Two limits: no boundary moves into a neighbour or out of the sentence, and a name of one token whose
# boundary moves inwards is gone.

# %%
KINDS = ("GENE", "DISEASE", "CHEMICAL")


def with_slips(true, length, rng, miss, shift, confuse):
    """The true spans (i, j, type), some of them overlooked, renamed or moved."""
    spans = []
    for i, j, kind in true:
        if rng.random() < miss:
            continue
        if rng.random() < confuse:
            kind = rng.choice([other for other in KINDS if other != kind])
        following = min((start for start, _, _ in true if start >= j), default=length)
        if rng.random() < shift:
            i, j = rng.choice([(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)])
        # No boundary crosses a neighbour or the sentence's end; an empty span is gone.
        i, j = max(i, spans[-1][1] if spans else 0), min(j, following)
        if i < j:
            spans.append((i, j, kind))
    return spans


# %%
def annotate(sentence, rng, miss=0.0, shift=0.0, confuse=0.0, invent=0.0):
    """Spans (i, j, type) of a simulated annotator: the sentence's own, with slips."""
    length, true = len(sentence.tokens), sorted(token_spans(sentence).values())
    spans = with_slips(true, length, rng, miss, shift, confuse)
    for _ in true:
        taken = {k for i, j, _ in [*true, *spans] for k in range(i, j)}
        free = [k for k in range(length) if k not in taken]
        if free and rng.random() < invent:
            k = rng.choice(free)
            spans.append((k, k + 1, rng.choice(KINDS)))
    return sorted(spans)


# %% [markdown]
# Two measures. **F1 on spans**, one annotator taken as the reference: with $a$ spans in both, $b$ only in the first,
# $c$ only in the second,
#
# $$ F_1 = \frac{2a}{2a + b + c} , \tag{3} $$
#
# which does not change when the two are exchanged. It is the F1 of section 5: with the first annotator as gold,
# $P = a / (a + c)$ and $R = a / (a + b)$.
#
# **Cohen's kappa** (1960) on the tags of tokens, the agreement beyond chance. With $p_o$ the share of tokens with equal
# tags, and $p_e = \sum_x s_1(x)\, s_2(x)$ what two readers who give tag $x$ to the shares $s_1(x)$ and $s_2(x)$ of the
# tokens would have in common by luck:
#
# $$ \kappa = \frac{p_o - p_e}{1 - p_e} . \tag{4} $$
#
# ### Your turn: 09.2
#
# Write eq. (4). The two lists are as long as each other; a label may occur in one of them only.


# %%
def kappa(first, second):
    """Cohen's kappa, a number, of two annotators who labelled the same items.

    first, second: lists of strings, an entry an item; not all entries are equal.
    """
    raise NotImplementedError


check("09.2", kappa)


# %%
def course_kappa(first, second):
    observed = np.mean([a == b for a, b in zip(first, second)])
    times = Counter(first), Counter(second)
    expected = sum(times[0][tag] * times[1][tag] for tag in times[0]) / len(first) ** 2
    return (observed - expected) / (1 - expected)


kappa = choose("09.2", kappa, course_kappa)


def span_f1(first, second):
    """Eq. (3) for two lists of spans, an entry a sentence."""
    both = sum(len(set(a) & set(b)) for a, b in zip(first, second))
    return 2 * both / (sum(map(len, first)) + sum(map(len, second)))


# %% [markdown]
# Two annotators, then, and the first sentence in which both slipped, each in another way:

# %%
truth = sentences["course-corpus"]


def bio_tags(spans):
    """The BIO tags of all tokens of the course's corpus in one list."""
    return [tag for s, found in zip(truth, spans) for tag in my_bio(found, len(s.tokens))]


def two_annotators(seed=0, **errors):
    """(kappa on BIO tags, F1 on spans, spans of the first, of the second)."""
    rng = random.Random(seed)
    first, second = ([annotate(s, rng, **errors) for s in truth] for _ in range(2))
    return kappa(bio_tags(first), bio_tags(second)), span_f1(first, second), first, second


# %%
def with_spans(sentence, spans):
    tokens = sentence.tokens
    return sentence.with_entities(
        Entity(tokens[i].start, tokens[j - 1].end, kind) for i, j, kind in spans
    )


_, f1, first, second = two_annotators(miss=0.1, shift=0.1)
true = [sorted(token_spans(sentence).values()) for sentence in truth]
unlike = [len({*map(tuple, three)}) == 3 for three in zip(true, first, second)]
k = unlike.index(True)
views = [truth[k], with_spans(truth[k], first[k]), with_spans(truth[k], second[k])]
show_entities(views, titles=["truth", "first annotator", "second annotator"])

# %% [markdown]
# **Check:** kappa against scikit-learn's, F1 against `evaluate`.

# %%
# NBVAL_CHECK_OUTPUT
tags = bio_tags(first), bio_tags(second)
np.testing.assert_allclose(kappa(*tags), cohen_kappa_score(*tags), rtol=1e-6)
annotated = [list(map(with_spans, truth, spans)) for spans in (first, second)]
np.testing.assert_allclose(f1, evaluate(*annotated, resamples=0).f1, rtol=1e-12)
print("kappa agrees with scikit-learn, F1 with utils.ner.evaluate")

# %% [markdown]
# One case can be worked out. Both only overlook, each with probability $q$. Of $N$ true spans both keep $(1-q)^2 N$,
# each keeps $(1-q) N$, so
#
# $$ F_1 \approx \frac{2 (1-q)^2 N}{2 (1-q) N} = 1 - q. \tag{5} $$
#
# **Predict before you run:** now each annotator shifts a boundary of 20% of the mentions and makes no other slip. Which
# of the two measures suffers more?

# %%
seeds = range(course.pick(test=3, cpu=10, gpu=10))
settings = {
    "miss 20%": dict(miss=0.2),
    "shift 20%": dict(shift=0.2),
    "confuse 20%": dict(confuse=0.2),
    "invent 20%": dict(invent=0.2),
    "10% of each": dict(miss=0.1, shift=0.1, confuse=0.1, invent=0.1),
}
rows = {}
for name, errors in settings.items():
    runs = np.array([two_annotators(seed, **errors)[:2] for seed in seeds])
    (k, f), (sk, sf) = runs.mean(0), runs.std(0)
    rows[name] = f"{k:.3f} ± {sk:.3f}", f"{f:.3f} ± {sf:.3f}", f"{k - f:+.3f}"
print(f"course corpus, {len(truth)} sentences", end=", ")
print(f"{len(seeds)} seeds: mean and standard deviation over the seeds")
print(f"eq. (5) for miss 20%: F1 = {1 - 0.2:.3f}")
pd.DataFrame(rows, index=["kappa", "F1", "kappa - F1"]).T

# %% [markdown]
# A shifted boundary leaves the other tokens of the name equal, and a wrong type leaves every `O` equal; so kappa stays
# above F1. But whoever needs the span gets a wrong one. In the run shown a shifted boundary parts the two measures most
# (by 0.137), a wrong type hardly less (0.129), and invented mentions by 0.041. Where mentions are only overlooked kappa
# lies *below* F1, by 0.037; section 12 says why. The ± holds the luck of the simulated slips only.
#
# ## 12. Why F1 and not kappa · *core*
#
# **Question:** kappa corrects for chance and F1 does not. Why do papers on named entities report F1?
#
# **First, tokens are not what was judged.** Annotators marked names; nobody decided on each token.
#
# **Second, the `O` tokens.** Take the two annotators as they are, and add sentences that hold no name and on which they
# agree:

# %%
_, _, first, second = two_annotators(0, **settings["10% of each"])
rows = {}
for times in [0, 1, 5, 50]:
    extra = ["O"] * (times * sum(len(sentence.tokens) for sentence in truth))
    tags = bio_tags(first) + extra, bio_tags(second) + extra
    rows[f"{times} x the corpus"] = {
        "kappa": f"{kappa(*tags):.3f}",
        "F1": f"{span_f1(first, second):.3f}",
        "share of O": f"{tags[0].count('O') / len(tags[0]):.1%}",
        "equal tags": f"{np.mean([a == b for a, b in zip(*tags)]):.1%}",
    }
pd.DataFrame(rows).T.rename_axis("added empty sentences")

# %% [markdown]
# Not one judgement on a name has changed; F1 has not moved, kappa has. And the share of `O` is a property of the text
# that was chosen:

# %%
rows = {}
for name, part in sentences.items():
    tokens = sum(len(sentence.tokens) for sentence in part)
    spans = [token_spans(sentence).values() for sentence in part]
    named = sum(len({k for i, j, _ in found for k in range(i, j)}) for found in spans)
    rows[name] = f"{1 - named / tokens:.1%}"
pd.DataFrame({"tokens that stand in no name": rows})

# %% [markdown]
# **Third, on spans kappa is not even defined.** Take spans as the items. Two annotators either mark a span or not:
#
# | | second marks it | second does not |
# | --- | --- | --- |
# | first marks it | $a$ | $b$ |
# | first does not | $c$ | $d$ |
#
# What is $d$, the number of spans that *both* left unmarked? Of all spans of up to 3 tokens? All $n(n+1)/2$ of a
# sentence? Nobody considered them one by one. Putting the table into eq. (4) gives
#
# $$ \kappa = \frac{2\,(ad - bc)}{(a+b)(b+d) + (a+c)(c+d)}
# \ \xrightarrow{\ d \to \infty\ }\ \frac{2a}{2a + b + c} = F_1 . \tag{6} $$
#
# So whatever $d$ is, as long as it is large, kappa on spans *is* F1: Hripcsak and Rothschild (2005) show this, and
# recommend F1 where negatives cannot be counted. **Predict before you run:** with $d$ as small as the number of marked
# spans, is kappa above or below F1?


# %%
def kappa_of_table(a, b, c, d):
    """Eq. (6): a both, b only the first, c only the second, d neither."""
    return 2 * (a * d - b * c) / ((a + b) * (b + d) + (a + c) * (c + d))


def table_of(first, second):
    """(a, b, c) of two lists of spans, an entry a sentence."""
    both = sum(len(set(a) & set(b)) for a, b in zip(first, second))
    return both, sum(map(len, first)) - both, sum(map(len, second)) - both


def table_up_to(limit):
    """(a, b, c, d) if only spans of up to `limit` tokens exist, marked or not."""
    short = [
        [[(i, j, kind) for i, j, kind in found if j - i <= limit] for found in side]
        for side in (first, second)
    ]
    a, b, c = table_of(*short)
    places = sum(
        max(0, len(sentence.tokens) - k) for sentence in truth for k in range(limit)
    )
    # Each place may have a span of one of the types.
    return a, b, c, len(KINDS) * places - a - b - c


# %%
longest = max(j - i for side in (first, second) for found in side for i, j, _ in found)
rows = {}
for limit in (1, 2, 3, 5, 10, longest):
    a, b, c, d = table = table_up_to(limit)
    rows[f"up to {limit} tokens"] = *table, kappa_of_table(*table), 2 * a / (2 * a + b + c)
columns = ["both", "only first", "only second", "neither", "kappa", "F1"]
table = pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("spans of")
table.assign(**{"F1 - kappa": table["F1"] - table["kappa"]}).round(4)


# %% tags=["figure"]
def draw_negatives(ax, a, b, c):
    """Kappa on spans against the number of negatives, with F1 as its limit."""
    d = np.geomspace(a + b + c, 1e3 * (a + b + c), 60)
    f1 = 2 * a / (2 * a + b + c)
    ax.semilogx(d, kappa_of_table(a, b, c, d), color=COLOURS[0], label="kappa on spans")
    ax.axhline(f1, color=COLOURS[1], linestyle="--", label=f"F1 = {f1:.3f}")
    ax.set(xlabel="negatives d: spans that neither marked", ylabel="agreement")
    ax.legend(loc="lower right")


figure, ax = plt.subplots(figsize=(7, 3))
a, b, c, d = table_up_to(longest)
draw_negatives(ax, a, b, c)
point = d, kappa_of_table(a, b, c, d)
ax.plot(*point, "o", color=COLOURS[2])
look = dict(textcoords="offset points", fontsize=8)
ax.annotate(f"all spans of up to {longest} tokens", point, (-60, -14), **look)
ax.set_title("However negatives are counted: with many of them kappa becomes F1")
plt.show()

# %% [markdown]
# Below F1: with few negatives there is chance agreement to subtract. With as many as a text has, next to nothing is
# left. Each row of the table leaves out longer spans wherever they stand, among the marked too, so it has an F1 of its
# own. (On tokens it is the same: the course's corpus has few `O`, which is why kappa lay below F1 for overlooked
# mentions, and rose with empty sentences.)
#
# F1 has its own blind spot: it says nothing about *how* wrong a span is. Report the partial score beside it (notebook
# 12), and look at the disagreements, as we do now.
#
# ## 13. Annotators in earnest · *further*
#
# **Question:** how far do real annotations of one text agree?
#
# Four annotations of the course's corpus are in the repository ([README](../data/course-corpus/README.md)). Plainly,
# who made them:
#
# - *First* and *second* pass: one annotator, who had also written the sentences and the guideline, in two sittings soon
#   after each other. This is one reader twice, not two people.
# - *Final*, the annotation that the notebooks use: that annotator's decision on each difference of the two. 37
#   sentences were written later and annotated once, hence two numbers of sentences. One mention that every pass has was
#   taken out of it later, as the guideline forbids it.
# - *Third*: a reading of the raw text by the guideline alone, made afterwards, without sight of the other annotations.
#   It changed nothing in the final one.
#
# No expert of biology or medicine is named as having checked any of them. So this is good for learning the craft, and
# no gold standard to judge a tagger by.
#
# The 95% interval comes from drawing whole documents anew (the bootstrap, notebook 12).
#
# **Predict before you run:** the third pass had a guideline that the first comparison had made more precise. Which pair
# agrees best: first and second, first and third, or final and third?


# %%
def agreement(reference, other):
    """How far two passes agree on the sentences that both have."""
    ids = [name for name in passes[reference] if name in passes[other]]
    gold, predicted = ([passes[name][i] for i in ids] for name in (reference, other))
    tags = ([tag for s in side for tag in to_tags(s)] for side in (gold, predicted))
    report = evaluate(gold, predicted, groups=[s.document for s in gold], seed=0)
    partial = evaluate(gold, predicted, mode="partial", resamples=0)
    low, high = report.intervals["f1"]
    return {
        "sentences": len(ids),
        "kappa": f"{kappa(*tags):.3f}",
        "F1": f"{report.f1:.3f}",
        "95% interval": f"{low:.3f} to {high:.3f}",
        "partial": f"{partial.f1:.3f}",
        **{f"F1, {kind}": f"{score.f1:.3f}" for kind, score in report.per_type.items()},
    }


pairs = [("first", "second"), ("first", "third"), ("final", "third")]
pd.DataFrame({", ".join(pair): agreement(*pair) for pair in pairs}).T

# %%
final, third = passes["final"], passes["third"]
differing = [i for i in third if set(final[i].entities) != set(third[i].entities)]
print(f"final and third differ in {len(differing)} of {len(third)} sentences")
shown = [(i, name) for i in differing[-2:] for name in ("final", "third")]
show_entities(
    [passes[name][i] for i, name in shown], titles=[f"{i}, {n}" for i, n in shown]
)

# %% [markdown]
# Final and third agree best: they share the guideline. But cases from these very sentences had been settled in it, so
# this is more than two annotators should expect on new text; and first and second only say how steady one annotator is.
#
# For comparison, a corpus of real abstracts: BC5CDR's makers report agreement between two independent annotators of
# 87.5% for diseases and 96.1% for chemicals, as a Jaccard coefficient on the test set (Li et al. 2016). Jaccard is
# $J = a/(a+b+c)$, so $F_1 = 2J/(1+J)$: about 93% and 98%.
#
# **Agreement between people is often called the ceiling of a score. It is not a strict one.** The gold is a consensus
# reached afterwards, and a system can agree with it better than the two did with each other: in the challenge that used
# BC5CDR people agreed by 0.8875, and all systems combined had 0.8889 (Wei et al. 2016; for the disease *identifiers* of
# an abstract, not for mentions; how the first was computed, the overview's abstract does not say). Boguslav and Cohen
# (2017) say the same of other tasks. But such a gain may be the habits of one corpus.
#
# ## 14. A short history · *further*
#
# **Question:** what did each well-known system add?
#
# - 2008, **BANNER**: a conditional random field in an open program; deliberately without look-up in lists of names and
#   without rules for one domain, though it mends unpaired brackets and has a step for abbreviations (Leaman & Gonzalez
#   2008).
# - 2009, **BioTagger-GM**: size and combination. Look-up in lists as a *feature* was known, for instance from the
#   JNLPBA task (Kim et al. 2004); new were the size of the lists, BioThesaurus and the UMLS, and the combination of
#   look-up, several machine learners, rules that correct, and a vote (Torii et al. 2009).
# - 2015, **GNormPlus**: from the mention to the gene's *identifier* in one system (Wei et al. 2015).
# - 2019, **BioBERT**: a language model, BERT, pretrained further on PubMed abstracts and PMC articles, its vocabulary
#   kept; no features by hand (Lee et al. 2020).
# - 2020, **PubMedBERT** (now BiomedBERT): pretrained on PubMed from scratch, better than going on from general text on
#   average over BLURB, a benchmark of several tasks (Gu et al. 2020); on NCBI-disease, below, BioBERT is ahead.
#
# Their scores are of two kinds that must not be compared: the official BioCreative II rules accept the alternatives of
# section 8, the strict ones do not.

# %% tags=["figure"]
official = {  # BC2GM, official rules
    "BANNER, as published": 84.92,
    "Ando, first in the challenge": 87.21,
    "BioTagger-GM": 88.87,
    "all submissions combined": 90.66,
}
models = ["BiLSTM-CRF", "BERT", "BioBERT", "PubMedBERT"]
strict = {  # exact spans
    "NCBI-disease": [84.44, 85.67, 89.13, 87.82],
    "BC2GM": [77.82, 80.90, 83.82, 84.52],
}
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3))
left.plot(list(official.values()), list(official), "o", color=COLOURS[0])
left.set(xlabel="F1, official rules", title="BC2GM with alternatives: combinations lead")
for (corpus, scores), marker, colour in zip(strict.items(), "os", COLOURS[1::-1]):
    right.plot(scores, models, marker, color=colour, label=corpus)
right.set(xlabel="F1, exact spans", title="Exact spans: PubMed text helps BERT")
for ax in (left, right):
    ax.set_xlim(75, 92)
    ax.margins(y=0.15)
figure.legend(loc="outside right center")
plt.show()

# %% [markdown]
# Sources of the figures: left, BANNER's page on SourceForge, Smith et al. 2008 for the first and for all submissions,
# Torii et al. 2009 (Table 3); right, Habibi et al. 2017 for the BiLSTM-CRF, Gu et al. 2020 (BLURB) for the others.
# Set-ups differ: a difference of a few tenths is none.
#
# ### Where it stands today
#
# Nothing in this paragraph was run for this course; it reports its sources. *scispaCy* (Neumann et al. 2019) is a spaCy
# pipeline with four taggers, each trained on one corpus; its site gives an F1 of 84.28 on BC5CDR. *HunFlair2* (Sänger
# et al. 2024) is one tagger for the five types of section 2; on corpora that none of five tools had learnt from, its
# page gives a mean F1 of 58.8, the best of the five (for finding *and* linking, a boundary one character off allowed).
# *GLiNER* (Zaratiana et al. 2024) is a small encoder that reads the names of the wanted types together with the text
# and matches spans to them, so that a type need not have been in its training; *GLiNER-BioMed* (Yazdani et al. 2025) is
# trained on biomedical text annotated by language models. *Large language models* can be asked in a prompt: on twelve
# biomedical benchmarks Chen et al. (2025) find that fine-tuned BERT and BART models beat zero- and few-shot prompts in
# most tasks, and that answers are missing or made up.
#
# ## 15. Play · *core*
#
# Two annotators of your making; first three fixed pairs.


# %% tags=["figure"]
def draw(miss=0.1, shift=0.1, confuse=0.0, invent=0.0, seed=0):
    """Agreement of two simulated annotators of the course corpus."""
    errors = dict(miss=miss, shift=shift, confuse=confuse, invent=invent)
    k, f, first, second = two_annotators(seed, **errors)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.7), width_ratios=[1, 1.8])
    left.bar(["kappa\n(tokens)", "F1\n(spans)"], [k, f], color=COLOURS[:2])
    for x, value in enumerate([k, f]):
        left.text(x, value + 0.02, f"{value:.3f}", ha="center")
    left.set(ylim=(0, 1.15), ylabel="agreement")
    draw_negatives(right, *table_of(first, second))
    right.set(ylim=(0, 1.15))
    found = f"{abs(k - f):.3f} {'above' if k > f else 'below'} F1"
    if abs(k - f) < 0.0005:
        found = "as F1"
    setting = ", ".join(f"{name} {share:.0%}" for name, share in errors.items())
    title = f"{setting}: the tokens' kappa is {found}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


for miss, shift, invent in [(0.3, 0, 0), (0, 0.3, 0), (0.1, 0.1, 0.3)]:
    draw(miss=miss, shift=shift, invent=invent)
    plt.show()

# %% [markdown]
# Find a pair with a kappa of 0.8 and an F1 as low as you can get it, and one with both equal.

# %%
share = (0.0, 0.5, 0.05)
play(draw, miss=share, shift=share, confuse=share, invent=share, seed=(0, 20))

# %% [markdown]
# ## 16. Exercises · *further*
#
# As before: `check`, `hint("09.3")`, `solution("09.3")`.
#
# ### 09.3 *(further)* As many layers as it takes
#
# Nested spans do not fit into one tag sequence, but into several. Find the smallest number of layers that holds all the
# spans of a sentence, if no two in one layer may share a token.


# %%
def layers_needed(spans):
    """The smallest number of layers.

    spans: list of (start, end, type), `end` behind the last token; may be empty.
    """
    raise NotImplementedError


check("09.3", layers_needed)


# %% [markdown]
# ### 09.4 *(further)* What did they disagree about?
#
# Sort every disagreement of two annotators into one kind. For each span of the first that is not in the second: "type"
# if the second has the same boundaries with another type; else "boundary" if the second has an overlapping span of the
# same type; else "both" if it has an overlapping span at all; else "missing". Count them.


# %%
def disagreements(first, second):
    """Counts of "type", "boundary", "both", "missing" as a dict with all four keys.

    first, second: sets of spans (start, end, type) of one sentence, `end` behind the last
    token.
    """
    raise NotImplementedError


check("09.4", disagreements)


# %% [markdown]
# ## Recap
#
# | symbol | code | meaning |
# | --- | --- | --- |
# | $m$ | `Entity(start, end, type)` | a mention, in characters |
# | $(i, j, \text{type})$ | `my_spans(tags)` | a span of tokens, $i$ to $j - 1$ |
# | $\kappa$ | `kappa(first, second)` | Cohen's kappa |
# | $a, b, c, d$ | `table_of(first, second)` | spans in both, in one only, in the other only, in neither |
# | $F_1$ | `evaluate(gold, predicted).f1` | $2a / (2a + b + c)$ |
#
# 1. A biomedical name is one of many for its thing, often an abbreviation, sometimes an English word, and often one
#    that training has never shown.
# 2. Tags hold flat, whole, aligned mentions; what else there is, is often lost before the corpus reaches you.
# 3. F1 on spans judges what annotators decided on and needs no count of negatives.
#
# **Next:** [10 · Preprocessing](10_preprocessing.ipynb): how text is cut into tokens, and what that does to names.
#
# ### References
# - Cohen 1960, *A coefficient of agreement for nominal scales*, Educ. Psychol. Meas. 20: 37.
# - Hripcsak, Rothschild 2005, *Agreement, the F-measure, and reliability in information retrieval*, JAMIA 12: 296.
# - Smith et al. 2008, *Overview of BioCreative II gene mention recognition*, Genome Biology 9: S2.
# - Li et al. 2016, *BioCreative V CDR task corpus*, Database, baw068; Wei et al. 2016, the overview, baw032.
# - Boguslav, Cohen 2017, *Inter-annotator agreement and the upper limit on machine performance*, PMID 29295103.
# - Corpora: Doğan et al. 2014, *NCBI disease corpus*, J. Biomed. Inform. 47: 1. Kim et al. 2003, *GENIA corpus*,
#   Bioinformatics 19: i180; nested form: Zheng et al. 2019, D19-1034.
# - Kim et al. 2004, *Introduction to the bio-entity recognition task at JNLPBA*, W04-1213.
# - Leaman, Gonzalez 2008, *BANNER*, Pacific Symposium on Biocomputing 13: 652; figures: banner.sourceforge.net.
# - Torii, Hu, Wu, Liu 2009, *BioTagger-GM*, JAMIA 16: 247, PMC2649315.
# - Wei, Kao, Lu 2015, *GNormPlus*, BioMed Research International, 918710.
# - Habibi et al. 2017, *Deep learning with word embeddings improves biomedical NER*, Bioinformatics 33: i37.
# - Lee et al. 2020, *BioBERT*, Bioinformatics 36: 1234. Gu et al. 2020, PubMedBERT, arXiv 2007.15779.
# - Neumann et al. 2019, *ScispaCy*, W19-5034; figure: allenai.github.io/scispacy.
# - Sänger et al. 2024, *HunFlair2 in a cross-corpus evaluation*, Bioinformatics 40: btae564; figure: HUNFLAIR2.md in
#   Flair's repository.
# - Zaratiana et al. 2024, *GLiNER*, arXiv 2311.08526. Yazdani et al. 2025, *GLiNER-BioMed*, arXiv 2504.00676.
# - Chen et al. 2025, *Benchmarking large language models for biomedical NLP*, Nature Communications, PMID 40188094.
# - Wei et al. 2024, *PubTator 3.0*, Nucleic Acids Research 52: W540. Liu et al. 2015, *OntoMate*, Database, bau129.
#   Gonzalez-Hernandez et al. 2022, *Challenges and opportunities for mining adverse drug reactions: perspectives from
#   pharma, regulatory agencies, healthcare providers and consumers*, Database, baac071. *iKraph*, PMC10760044.
