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
# Named entity recognition (NER) finds the genes, diseases and chemicals in a text. This notebook is about the task
# itself, before any model: what counts as a name, how it is written down, and how far people agree on it. The answers
# come from counting in corpora and from two annotators whose mistakes we know.
#
# **At the end you will have** counted what makes biomedical names hard (synonyms, abbreviations, ambiguity, nesting,
# discontinuity, boundaries, names never seen in training); written the conversions between BIO, BIOES and spans and
# checked them against `utils/ner/tags.py`; measured what each of them loses; met precision, recall and F1, the scores
# of every later notebook (section 5); and built Cohen's kappa and F1 on spans, seen where they part, and why corpora
# are judged by the second.
#
# **You need** Python and a little probability. No biology beyond school, and no notebook before this one.
#
# **Time:** half a minute in the run shown, on two cores with bf16 instructions, most of it for reading and counting.
# Machines without them take two to four times as long; no GPU is used. Without the public corpora everything runs on
# the course's own small corpus, and each cell counts what it finds.
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
from utils.course import COLOURS, check, hint, play, solution  # noqa: F401
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
# ## 1. What is to be found
#
# **Question:** what does a named entity recogniser give back, and who wants it?
#
# A text goes in. Out come **mentions**: stretches of the text, each with a type. We write one as
#
# $$ m = (\text{start}, \text{end}, \text{type}), \tag{1} $$
#
# where `text[start:end]` names a thing of that type.
#
# Recognition ends there. To say *which* gene it is, by its number in a data base, is **normalisation** (or linking), a
# task of its own.
#
# Four uses, each with a source to read:
# - **Literature search.** *PubTator 3.0* marks genes, diseases, chemicals and variants in about 36 million abstracts
#   and lets people search for the thing instead of the word (Wei et al. 2024).
# - **Curation.** Data bases such as the Rat Genome Database are filled from papers; its curators choose and read them
#   with *OntoMate*, which tags genes, diseases and other terms in the abstracts (Liu et al. 2015).
# - **Pharmacovigilance.** Side effects are reported at every stage of a drug's life, in reports, labels and papers; a
#   panel of BioCreative VII sets out what text mining does and does not yet do there (Gonzalez-Hernandez et al. 2022).
# - **Knowledge graphs.** Mentions become nodes, relations between them edges: *iKraph* was built from all PubMed
#   abstracts that way (PMC10760044).
#
# Now the corpora. Those that this machine has are read; the course's own corpus is always there.

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
# Each name has a coloured ground and its type behind it. (Where a page keeps no colours, as on GitHub, the name is bold
# and the type lowered.) The course's corpus was written for this course, 290 sentences with hard cases chosen on
# purpose; its [README](../data/course-corpus/README.md) says how it was annotated. **Its counts show that a phenomenon
# exists, not how frequent it is in PubMed.** For that, look at the rows of the public corpora.
#
# ## 2. Five kinds of names
#
# **Question:** which types are there, and how many mentions of each do we have to learn from?
#
# The literature's usual five: genes and proteins, diseases, chemicals, species, cell lines. HunFlair2's models are for
# just these (section 14). Every corpus has its own type names and its own idea of what counts, so we group them.
#
# **Predict before you run:** which of the five has no corpus here at all?

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

# %%
figure, ax = plt.subplots(figsize=(7.5, 3))
left = 0
for colour, name in zip(COLOURS, corpora):
    ax.barh(table.index, table[name], left=left, color=colour, label=name)
    left = left + table[name]
ax.invert_yaxis()
ax.set_xlabel("annotated mentions")
ax.set_title(f"Mentions by type; none at hand for: {absent or 'no type'}")
ax.legend(fontsize=8, loc="lower right")
plt.show()

# %% [markdown]
# Species are marked in none of these corpora (Linnaeus and Species-800 are public corpora that do; they are not used
# here). They still matter: whether *human* belongs to "human insulin" is a question of boundaries. Corpora answer it
# differently, and it can be counted: a gene mention that *begins* with a species word, against one that has such a word
# right *before* it.

# %%
SPECIES = {"human", "mouse", "murine", "rat", "bovine", "yeast", "viral", "bacterial"}
SPECIES |= {"chicken", "drosophila"}
GENES = FAMILIES["gene or protein"]


def previous_word(sentence, entity):
    """The word before an entity, in lower case; "" where there is none."""
    words = sentence.text[: entity.start].split()
    return words[-1].lower() if words else ""


rows = {}
for name, part in sentences.items():
    genes = [(s, e) for s in part for e in s.entities if e.type in GENES]
    first = [e.text.split()[0].lower() in SPECIES for _, e in genes]
    before = [previous_word(s, e) in SPECIES for s, e in genes]
    if genes:
        rows[name] = {"first in the mention": sum(first), "right before it": sum(before)}
pd.DataFrame(rows).T.rename_axis("a species word stands")

# %% [markdown]
# Where a corpus takes the species in, a tagger trained on it will too, and will be wrong on a corpus that leaves it
# out. **A type is what the guideline of its corpus says it is.**
#
# ## 3. One thing, many names
#
# **Question:** how many names does one disease have?
#
# The untokenised releases of NCBI-disease and BC5CDR give each mention the number of its concept. Of BC5CDR's only a
# sample of 50 abstracts is used here, so most of what follows comes from NCBI-disease. For a concept $c$ with mentions
# $m$, count the different names, upper and lower case taken as one:
#
# $$ n_c = \big|\{\, \text{lower}(\text{text}(m)) : m \text{ has concept } c \,\}\big| . \tag{2} $$
#
# Where no release with concepts is at hand, a name in brackets behind another ("Paracetamol (APAP)") is taken as a
# second name for the same thing; that finds only a few. The cell says which it was.
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

# %%
figure, ax = plt.subplots(figsize=(7, 2.8))
names_per_concept = Counter(min(len(names), 15) for names in often)
ax.bar(list(names_per_concept), list(names_per_concept.values()), color=COLOURS[0])
ax.set(xlim=(0, 16), ylabel="concepts")
ax.set_xlabel("different names of a concept (15 and more together)")
ax.set_title(f"{1 - single:.0%} of these concepts go by more than one name\n(by {source})")
plt.show()

# %% [markdown]
# A search for one name misses what was written under the others: that is why people want recognition followed by
# normalisation. Some of the names differ by a plural or a hyphen only, some share no word (*tumor*, *cancer*).
#
# With NCBI-disease at hand the concept on top of the list is not one disease with very many names. It is a catch-all,
# inherited diseases in general: *autosomal recessive disorder* and *genetic defect* are no synonyms. For what a usual
# disease has, look at the highest bars of the figure.
#
# ## 4. Abbreviations
#
# **Question:** how many mentions are abbreviations, and is an abbreviation explained where it stands?
#
# We call a mention an abbreviation if, with spaces taken out, it has at most eight characters and at least two capital
# letters. That is a rule of thumb; notebook 10 builds Schwartz and Hearst's algorithm. A **definition** is a pair of
# section 3, long form and short form.
#
# **Predict before you run:** an abbreviation is defined once and then used. Take all mentions of short forms that are
# defined *somewhere* in the corpus: for what share of them does the definition stand in the same sentence?


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
# (The course's corpus was written to hold definitions.) Definitions are counted as different pairs. Where "explained
# here" is below one half, a short form mostly stands without its long form: a tagger that reads one sentence at a time
# has to know it, or to guess from the context. And a short form can have more than one long form. The last column,
# *unlike*, leaves out those whose long forms differ in spelling only (a likeness above 0.8, 1 being the same letters).
# Shown are, of each corpus, the two whose long forms are least alike (written without spaces, as they were compared):
# some are different words for one thing, some are different things, and some brackets define nothing, since the rule
# takes any name in brackets behind a name. So even *unlike* counts too many.
#
# ## 5. One name, many things
#
# **Question:** can the type be read off the name?
#
# Two counts. First: names that carry more than one type in the same corpus.


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
# A corpus with one type cannot show this. The second count, below, can. It needs three words that every later notebook
# uses too.
#
# ### Precision, recall, F1
#
# Lay what a tagger marked beside what people marked. The annotation that counts as true is called **gold**. A marked
# mention is *right* if the gold has one with the same start, the same end and the same type.
#
# | word | the question | the number | its name in medicine |
# | --- | --- | --- | --- |
# | **precision** $P$ | of what was marked, how much is right? | right / marked | positive predictive value |
# | **recall** $R$ | of what there is to find, how much was found? | right / gold | sensitivity |
# | **F1** | are both high? | $2PR / (P + R)$ | Dice coefficient (of two outlines in an image) |
#
# A tagger that marks only what it is sure of has a high precision and a low recall; one that marks everything that
# might be a gene has it the other way round. So neither says much alone. F1 is their *harmonic* mean, which stays near
# the lower of the two: with $P = 0.02$ and $R = 1$ the usual mean is 0.51, F1 is 0.04. (Medicine's specificity has no
# place here: it needs the number of things that are rightly *not* marked, and section 12 asks what that would be.)
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
# called **strict** or exact scoring; notebook 12 sets milder ones beside it.
#
# ### A gene symbol that is an English word
#
# For every gene name that is one word of letters, how often do the same letters, in any case, stand *outside* every
# gene mention? The quantity that matters to a dictionary is its precision on that word,
#
# $$ \text{precision}(w) = \frac{\text{occurrences of } w \text{ as a gene}}{\text{all occurrences of } w} . \tag{3} $$
#
# **Predict before you run:** name three English words that are also gene symbols.


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

# %%
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
# `was 2/10` reads: marked as a gene twice, in ten occurrences (those inside a longer gene name are not counted). (Many
# names occur only a few times, hence the peaks at simple fractions such as one half.) A dictionary that ignores case
# marks all of them; one that minds it still stumbles over headings and over symbols written small. Some of the
# "elsewhere" may be gene mentions that the annotators passed over: a count against human annotation inherits its slips.
#
# ## 6. Names inside names
#
# **Question:** how often does one mention lie inside another?
#
# $m$ is **nested** in $m'$ if $\text{start}' \le \text{start}$, $\text{end} \le \text{end}'$ and the two differ. Of
# the tokenised corpora only *genia-nested* annotates nesting (the untokenised ones may hold some; section 10 counts).
# In a **flat** corpus the longest name wins by rule, but the inner name is still there for the reader; we can look
# for it: a mention that contains, as whole tokens, another mention's name from the same corpus, where the annotation
# has no mention.
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
# Where names overlap, a sentence is shown on several lines, the longest names on the first. An arrow at the beginning
# of a line says that it is the sentence above once more.

# %%
candidates = [s for s in sentences.get("genia-nested", []) if len(s.text) < 90]
nested = [sentence for sentence in candidates if nested_pairs(sentence.entities)][:2]
if not nested:
    print("genia-nested is not at hand; an example made here instead:")
    text = "phenylalanine hydroxylase gene"
    nested = [Sentence(text, None, [Entity(0, 25, "protein"), Entity(0, 30, "DNA")])]
show_entities(nested)

# %% [markdown]
# Hidden names are partly noise (a mention as general as "cancer" is found in every "breast cancer"), but that is the
# point: the guideline decides that the inner name does not count, and a tagger has to learn that from examples. One tag
# per token cannot hold nested mentions at all; section 10 counts that loss, and notebook 14 finds spans without tags.
#
# ## 7. Names in pieces
#
# **Question:** which two diseases stand in "renal and hepatic failure"?
#
# Only *hepatic failure* stands there in one piece. *Renal failure* is in two: it is **discontinuous**. The corpora
# solve this in different ways:
# - NCBI-disease marks the whole as one mention of the type *CompositeMention*;
# - BC5CDR marks the whole and lists the names one by one in a further column (in its untokenised release, of which
#   a sample of 50 documents is at hand here if BC5CDR is);
# - the tokenised forms, from which taggers are trained, keep only the whole: BIO has no way to say more.
#
# None of them stores the pieces' offsets. With the list of names we can find them. The rule: take the
# words of the single name, in order, from the words of the whole.


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
# Rare, but not random: coordination is where several names are hidden in one mention. (Not every `/` joins two names:
# `sodium / proton exchanger` is one, so the count is a little too high.) A corpus that drops the pieces
# keeps a long mention that names no single disease. (BC5CDR's own list of names, if it is at hand, gives us
# *opistothonus dysfunction* above. The rule is right, the list hardly: opisthotonus, an arched back, is a sign by
# itself. Annotation is made by people.)
#
# ## 8. Where does the name end?
#
# **Question:** if two experts both see the gene, do they mark the same characters?
#
# The makers of BC2GM asked themselves that, and wrote down for many mentions further spans that they accept
# (`ALTGENE.eval`). A mention with an alternative is one on which right and wrong are a matter of taste. For a gold
# mention $g$ (section 5) the alternatives are the accepted spans that overlap it. Without BC2GM, the same count is made
# on two annotation passes of the course's corpus: what one reader marked and what the other marked in its place.
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

# %%
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
# In BC2GM the words in dispute are mostly generic nouns (*gene*, *protein*, *promoter*), a species (*human*), and the
# small words that join a longer name: does *protein* in
# "the p53 protein" belong to the name? That is why BC2GM has a score of its own that accepts the alternatives, and
# why its figures must not stand in one column with strict ones (notebook 12 computes both on the same predictions).
# (The task's own file, which this section reads, has 6,331 mentions in its test part. Six of them have no tag in the
# tokenised file, so other sections count 6,325.)
#
# ## 9. Names never seen
#
# **Question:** how far does learning names by heart go?
#
# $$ \text{unseen} = \frac{|\{ m \in \text{test} : \text{text}(m) \notin \text{names of train and dev} \}|}
# {|\text{test}|} \tag{4} $$
#
# One minus this is the best recall (section 5) that looking up the training names can reach.
#
# **Predict before you run:** genes, diseases, chemicals: which has the most names that were never seen?


# %%
def unseen_share(train, test, kind, fold=str.lower):
    """Eq. (4) for one type; `fold` says which spellings are the same name."""
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
# "Unseen" depends on when two spellings are one name: as they stand, with upper and lower case as one, or with only
# letters and digits compared. Say which, whenever you give such a figure. Does more training text cure it?

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
rows = {key: [f"{share:.1f}%" for share in y[-2:]] for key, (_, y) in curves.items()}
pd.DataFrame(rows, index=["unseen with half the text", "with all of it"]).T

# %%
figure, ax = plt.subplots(figsize=(8.5, 3.4))
for colour, ((name, kind), (sizes, shares)) in zip(COLOURS, curves.items()):
    style = "o--" if name == own.name else "o-"
    ax.plot(sizes, shares, style, markersize=3, color=colour, label=f"{name}, {kind}")
ax.set(xscale="log", ylim=(0, 100), xlabel="training sentences, chosen at random")
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
# A doubling takes off some points, and every doubling costs as much annotation as all that was done before. Models
# must recognise a name they never saw, by its form and by what stands around it: the subject of
# notebook 11. (A new name is not all: 100% minus this is what a dictionary could find *at best*; section 5 says why it
# falls short of that.)
#
# ## 10. Writing it down: spans, BIO, BIOES
#
# **Question:** how do mentions become something that a model predicts token by token?
#
# Cut the text into tokens $w_0, \dots, w_{n-1}$. A mention becomes a span $(i, j, \text{type})$ of tokens $i$ to
# $j-1$. Then give each token one tag:
#
# | scheme | first token | inside | last token | a mention of one token | outside |
# | --- | --- | --- | --- | --- | --- |
# | IO | I-X | I-X | I-X | I-X | O |
# | BIO (IOB2; Ramshaw & Marcus 1995 had a variant) | B-X | I-X | I-X | B-X | O |
# | BIOES | B-X | I-X | E-X | S-X | O |
#
# With $k$ types a tagger chooses between $k+1$, $2k+1$ and $4k+1$ tags. By hand, in both directions:


# %%
def my_bio(spans, length):
    """Tags of spans (start, end, type) that do not overlap."""
    tags = ["O"] * length
    for i, j, kind in spans:
        tags[i:j] = [f"B-{kind}"] + [f"I-{kind}"] * (j - i - 1)
    return tags


def my_spans(tags):
    """The spans of BIO tags. As in CoNLL's scorer, a lone I- begins a span."""
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

# %% [markdown]
# **Check:** the same as `utils/ner/tags.py`, on every sentence at hand whose mentions fit into tags, and on random tag
# sequences, with tags in them that continue nothing. (*CoNLL* is a yearly conference on language learning; its shared
# tasks gave the field this file format and its scorer.)

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
# `I-X` after `O` is an **orphan**. Taggers that choose each tag by itself produce them, and scorers treat them
# differently: "repair" takes such a piece as a mention, "drop" leaves it out. On a tagger's output the two give
# different F1 for the same predictions. From good BIO everything comes back; but not every annotation gets into BIO.
#
# ### What gets lost
#
# **Predict before you run:** there are four ways to lose a mention: two neighbours of one type melt (IO), a nested one
# has no room, a discontinuous one cannot be said, and a boundary falls inside a token. In which of the corpora at hand
# does BIO lose anything? (*BIO, 2 layers* stands for two tag sequences, the second with the names that found no room in
# the first. What BIO loses, IO loses too.)


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
# The tokenised corpora cannot show the other two ways: they hold only what fits into their tags. So the untokenised
# releases, cut into tokens by us. **Predict before you run:** which of the four is the most frequent, for tokens cut at
# white space only?

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
# Tokens at white space are the expensive mistake: a comma, a bracket or a hyphen that sticks to a name makes its
# boundary unreachable. That is notebook 10's subject. The tokenised forms of the public corpora have no nested and no
# discontinuous mention to lose (genia-nested apart), while the untokenised sample of BC5CDR holds nested ones, and
# coordinations with discontinuous ones in them (section 7): **what tags cannot say was lost before you got the
# corpus.** Beyond what BIO loses, IO loses only neighbours, which are rare, so it is not as bad as it looks; BIOES says
# nothing more than BIO, it only gives the tagger a chance to learn what last tokens look like. (Gu et al. 2020 report
# that complex schemes are unnecessary with BERT, a network that has read much text beforehand; notebook 11 uses such a
# one.)
#
# Where NCBI-disease is at hand, the two tables give it different numbers of mentions. The untokenised release has
# 6,892. One document, with 11 mentions, stands in it twice and in the tokenised form once; one mention is not the text
# at its offsets and is skipped here.
#
# ## 11. Two annotators, simulated
#
# **Question:** if we know exactly how two annotators err, what do the usual measures of agreement say?
#
# Both start from the same truth and change it independently of each other: with probability *miss* a mention is
# overlooked, with probability *shift* one of its two boundaries moves by one token, with probability *confuse* its type
# is another, and for every true mention, with probability *invent*, one token elsewhere is marked. Two measures:
#
# **Cohen's kappa** (1960) on the tags of tokens, the agreement beyond chance. With $p_o$ the share of tokens with equal
# tags, and $p_e = \sum_t s_1(t)\, s_2(t)$ what two readers who give tag $t$ to the shares $s_1(t)$ and $s_2(t)$ of the
# tokens would have in common by luck:
#
# $$ \kappa = \frac{p_o - p_e}{1 - p_e} . \tag{5} $$
#
# **F1 on spans**, one annotator taken as the reference. With $a$ spans in both, $b$ only in the first, $c$ only in the
# second:
#
# $$ F_1 = \frac{2a}{2a + b + c} , \tag{6} $$
#
# which does not change when the two are exchanged. It is the F1 of section 5: with the first annotator as gold,
# $P = a / (a + c)$ and $R = a / (a + b)$, and eq. (6) is $2PR / (P + R)$.


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


# %%
def kappa(first, second):
    """Eq. (5) for two lists of labels."""
    observed = np.mean([a == b for a, b in zip(first, second)])
    times = Counter(first), Counter(second)
    expected = sum(times[0][tag] * times[1][tag] for tag in times[0]) / len(first) ** 2
    return (observed - expected) / (1 - expected)


def span_f1(first, second):
    """Eq. (6) for two lists of spans, an entry a sentence."""
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
# **Check** before trusting any number: our kappa against scikit-learn's, our F1 against `evaluate`.

# %%
# NBVAL_CHECK_OUTPUT
tags = bio_tags(first), bio_tags(second)
np.testing.assert_allclose(kappa(*tags), cohen_kappa_score(*tags), rtol=1e-12)
annotated = [list(map(with_spans, truth, spans)) for spans in (first, second)]
np.testing.assert_allclose(f1, evaluate(*annotated, resamples=0).f1, rtol=1e-12)
print("kappa agrees with scikit-learn, F1 with utils.ner.evaluate")

# %% [markdown]
# One case can be worked out. Both only overlook, each with probability $q$. Of $N$ true spans both keep $(1-q)^2 N$,
# each keeps $(1-q) N$, so
#
# $$ F_1 \approx \frac{2 (1-q)^2 N}{2 (1-q) N} = 1 - q, \tag{7} $$
#
# which is also the recall of each against the truth. (Their F1 against the truth is higher, since they invent nothing:
# $2(1-q)/(2-q)$.) **Predict before you run:** now 20% of the mentions have a shifted boundary, for each annotator, and
# nothing is overlooked. Which of the two measures suffers more?

# %%
seeds = range(course.pick(test=3, cpu=10, gpu=10))
settings = {
    "miss 20%": dict(miss=0.2),
    "shift 20%": dict(shift=0.2),
    "confuse 20%": dict(confuse=0.2),
    "invent 20%": dict(invent=0.2),
    "10% of each": dict(miss=0.1, shift=0.1, confuse=0.1, invent=0.1),
}
measured, rows = {}, {}
for name, errors in settings.items():
    runs = np.array([two_annotators(seed, **errors)[:2] for seed in seeds])
    measured[name] = runs.mean(0), runs.std(0)
    (k, f), (sk, sf) = measured[name]
    rows[name] = f"{k:.3f} ± {sk:.3f}", f"{f:.3f} ± {sf:.3f}", f"{k - f:+.3f}"
print(f"course corpus, {len(truth)} sentences", end=", ")
print(f"{len(seeds)} seeds: mean and standard deviation over the seeds")
print(f"eq. (7) for miss 20%: F1 = {1 - 0.2:.3f}")
pd.DataFrame(rows, index=["kappa", "F1", "kappa - F1"]).T

# %%
figure, ax = plt.subplots(figsize=(7.5, 3))
at = np.arange(len(measured))
means, spreads = (np.array(values) for values in zip(*measured.values()))
for k, label in enumerate(["kappa on tokens", "F1 on spans"]):
    x, look = at + 0.36 * k - 0.18, dict(color=COLOURS[k], label=label)
    ax.bar(x, means[:, k], 0.34, yerr=spreads[:, k], **look)
ax.set(xticks=at, xticklabels=list(measured), ylabel="agreement")
ax.set(ylim=(0, 1.3), yticks=np.arange(0, 1.1, 0.2))
widest = list(measured)[np.argmax(abs(means[:, 0] - means[:, 1]))]
ax.set_title(f"The same errors, two measures: they part most for '{widest}'")
ax.legend(loc="upper right", ncols=2)
plt.show()

# %% [markdown]
# A shifted boundary leaves the other tokens of the name equal, and a wrong type leaves every `O` equal; so kappa stays
# above F1. But the span is another one, or of another kind, and whoever needs it gets a wrong one. In the run shown a
# shifted boundary parts the two measures most (by 0.131), a wrong type hardly less (0.128), and invented mentions by
# 0.042. Where mentions are only overlooked kappa lies a little *below* F1; section 12 says why. The ± holds the luck of
# the simulated slips only: the text is the same in every run, and another text, with more `O` in it, gives another
# kappa.
#
# ## 12. Why F1 and not kappa
#
# **Question:** kappa corrects for chance and F1 does not. Why do papers on named entities report F1?
#
# **First, tokens are not what was judged.** Nobody decided on each of the tokens; annotators marked names. Whether the
# measure is dominated by one long name, or by how the text was cut, is not their doing.
#
# **Second, the `O` tokens.** Their number depends on how much text without names is in the corpus. Take the two
# annotators as they are, and add sentences that hold no name and on which they agree:

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
# Not one judgement on a name has changed; F1 has not moved, kappa has, and plain agreement goes towards 100%. And
# the share of `O` is a property of the text that was chosen:

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
# What is $d$, the number of spans that *both* left unmarked? Of all spans of up to 3 tokens? Up to 10? All
# $n(n+1)/2$ of a sentence? Nobody considered them one by one. Putting the table into eq. (5) gives
#
# $$ \kappa = \frac{2\,(ad - bc)}{(a+b)(b+d) + (a+c)(c+d)}
# \ \xrightarrow{\ d \to \infty\ }\ \frac{2a}{2a + b + c} = F_1 . \tag{8} $$
#
# So whatever $d$ is, as long as it is large, kappa on spans *is* F1: Hripcsak and Rothschild (2005) show this, and
# recommend F1 where negatives cannot be counted. **Predict before you run:** with $d$ as small as the number of marked
# spans, is kappa above or below F1?


# %%
def kappa_of_table(a, b, c, d):
    """Eq. (8): a both, b only the first, c only the second, d neither."""
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


# %%
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
# left. In the table each row is a way to count by the longest span that is considered; longer ones are left out
# wherever they stand, among the marked too, so each row has an F1 of its own to be compared with. The figure has all
# that was marked; the green point is the table's last row. (On tokens it is the same: the course's corpus has few `O`,
# which is why kappa lay below F1 for overlooked mentions, and rose with empty sentences.)
#
# F1 has its own blind spot: it says nothing about *how* wrong a span is. Report the partial score beside it
# (notebook 12), and look at the disagreements, as we do now.
#
# ## 13. Annotators in earnest
#
# **Question:** how far do real annotations of one text agree?
#
# Four annotations of the course's corpus are in the repository. The *first* and *second* pass are by the annotator
# who had also written the text, soon after each other; the *final* annotation came from comparing them (37 sentences
# were written later and annotated once, hence two numbers of sentences). The *third*
# pass was made afterwards from the raw text and the guideline alone, without sight of the annotation or of the other
# passes; it did not change the final annotation ([README](../data/course-corpus/README.md)).
#
# The 95% interval says how far F1 would move if other documents had been annotated: documents are drawn at random,
# with replacement, and F1 is computed anew each time (the bootstrap, notebook 12). Whole documents are drawn, since the
# sentences of one document speak of the same things.
#
# **Predict before you run:** the third pass had a guideline that the first comparison had made more precise. Which
# pair agrees best: first and second (one annotator, twice), first and third, or final and third?


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
# Final and third agree best: they share the guideline. But read the figures with care. The first two passes are one
# annotator's: their agreement says how steady that one is. The third pass used a guideline in which cases from these
# very sentences had already been settled, so its agreement with the final annotation is more than two annotators
# should expect on new text. And where a name is simply a name, everybody marks it: what is left are boundaries and
# borderline cases, as section 8 tells of BC2GM.
#
# For comparison, a corpus of real abstracts: BC5CDR's makers report agreement between two independent annotators of
# 87.5% for diseases and 96.1% for chemicals, as a Jaccard coefficient on the test set (Li et al. 2016). For one table
# of counts Jaccard is $J = a/(a+b+c)$, so $F_1 = 2J/(1+J)$: an F1 of about 93% and 98%.
#
# The overview of the challenge that used the corpus (Wei et al. 2016) sets an agreement between people of 0.8875
# beside an F1 of 0.8646 for the best system and 0.8889 for all systems combined. The systems had to name the disease
# *identifiers* of an abstract, not the mentions, so these figures and those above are of two kinds. (How the 0.8875
# was computed, the overview's abstract does not say.)
#
# **Agreement between people is often called the ceiling of a score. It is not a strict one.** BC5CDR's gold is a
# consensus that was reached after the two had worked apart, and a system can agree with the consensus better than the
# two did with each other: the combined systems lie just above the 0.8875. Boguslav and Cohen (2017) present data that
# say the same of other tasks. But above the agreement of people be careful: what is gained there may be the habits of
# one corpus.
#
# ## 14. A short history
#
# **Question:** what did each well-known system add?
#
# - 2008, **BANNER**: a conditional random field in an open program that others could run and build on; deliberately
#   without semantic features, such as look-up in lists of names, and without rules for one domain. (Some rules it has:
#   its program mends unpaired brackets and has a step for abbreviations; Leaman & Gonzalez 2008.)
# - 2009, **BioTagger-GM**: large dictionaries and a combination. That look-up can be a *feature* was known, for one
#   from the JNLPBA task of 2004 (Kim et al. 2004); new were the size of the lists, BioThesaurus and the UMLS, and that
#   look-up, several machine learners, rules that correct and a vote work together (Torii et al. 2009).
# - 2015, **GNormPlus**: from the mention to the gene's *identifier* in one system, with gene families and protein
#   domains told apart and composite names resolved; and a corpus of 694 articles (Wei et al. 2015).
# - 2019, **BioBERT**: a language model, BERT, which had learned to fill gaps in general text, pretrained further on
#   PubMed abstracts and PMC articles, its vocabulary kept; no features by hand (Lee et al. 2020).
# - 2020, **PubMedBERT** (now BiomedBERT): pretrained on PubMed from scratch, which was better than going on from
#   general text on average over BLURB, a benchmark of several tasks that came with it (Gu et al. 2020). On
#   NCBI-disease, below, BioBERT is ahead.
# - 2024, **HunFlair2**: one tagger for five types, trained on many corpora; and the question asked *across* corpora,
#   where tools score clearly lower than on the corpus they were trained for (Sänger et al. 2024).
#
# Their scores are of two kinds, in two panels below, because they must not be compared: the official BioCreative II
# rules accept the alternatives of section 8, the strict ones do not. All on the left are on the official test set.
# (BioTagger-GM's is from its paper's Table 3. Table 2 has another figure, 86.87, for the training sentences in five
# times two-fold cross-validation: train on one half, test on the other, then exchange the halves. GNormPlus's 86.7% F1
# on BioCreative II is for identifiers, a third kind.)

# %%
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
# Sources of the figures: left, BANNER's page on SourceForge (which also gives 86.43 for a later version with a
# dictionary feature), Smith et al. 2008 for the first and for all submissions, Torii et al. 2009; right, Habibi et al.
# 2017 for the BiLSTM-CRF, Gu et al. 2020 (BLURB) for the others. "All submissions combined" is no tagger that one could
# have had: it was put together after the challenge, from its submissions. Different set-ups, one run or the mean of
# several: a difference of a few tenths is none.
#
# ## 15. Play
#
# Two annotators of your making: the tokens' kappa and the spans' F1, and kappa on spans for every number of negatives.
# First three fixed pairs.


# %%
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
# Now move the sliders. Find a pair with a kappa of 0.8 and an F1 as low as you can get it, and one with both equal.

# %%
share = (0.0, 0.5, 0.05)
play(draw, miss=share, shift=share, confuse=share, invent=share, seed=(0, 20))

# %% [markdown]
# ## 16. Exercises
#
# Write your answer in place of `raise NotImplementedError` and run the cell: `check` says whether it is right, and if
# not, which property is broken. `hint("09.1")` gives a hint, each call the next one; `solution("09.1")` shows one
# answer. The same goes for the other numbers.
#
# ### 09.1 An old scheme
#
# Files of the early CoNLL tasks use **IOB1**: a mention is `I-X` from its first token on; `B-X` stands only where a
# mention follows *directly* on another of the same type. Turn IOB1 into BIO.


# %%
def iob1_to_bio(tags):
    """BIO tags of IOB1 tags, as a list as long; `tags` stays as it is.

    tags: list of "O", "I-X", "B-X".
    """
    raise NotImplementedError


check("09.1", iob1_to_bio)


# %% [markdown]
# ### 09.2 As many layers as it takes
#
# Nested spans do not fit into one tag sequence, but into several. Find the smallest number of layers that holds all the
# spans of a sentence, if no two in one layer may share a token.


# %%
def layers_needed(spans):
    """The smallest number of layers.

    spans: list of (start, end, type), `end` behind the last token; may be empty.
    """
    raise NotImplementedError


check("09.2", layers_needed)


# %% [markdown]
# ### 09.3 Kappa on spans
#
# Compute Cohen's kappa of two annotators when every one of `candidates` possible spans is an item that each of them
# marked or did not mark. It should approach F1 as `candidates` grows.


# %%
def span_kappa(first, second, candidates):
    """Cohen's kappa over `candidates` items.

    first, second: sets of spans (start, end, type), the marked ones.
    """
    raise NotImplementedError


check("09.3", span_kappa)


# %% [markdown]
# ### 09.4 What did they disagree about?
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
# | $m$ | `Entity(start, end, type)` | a mention: offsets in characters, `end` not included |
# | $(i, j, \text{type})$ | a span of tokens | tokens $i$ to $j - 1$ |
# | $P$, $R$ | `.precision`, `.recall` of `evaluate` | share of the marked that is right; of the gold that is found |
# | B-, I-, O, E-, S- | `to_tags(sentence, "BIOES")` | begin, inside, outside, end, single |
# | | `losses(sentence)` | mentions that tags cannot hold, and why |
# | $n_c$ | `concepts` | different names of concept $c$ |
# | $p_o$, $p_e$ | `observed`, `expected` | agreement seen, and expected by luck |
# | $\kappa$ | `kappa(first, second)` | Cohen's kappa |
# | $a, b, c, d$ | `table_of(first, second)` | spans in both, in one only, in the other only, in neither |
# | $F_1$ | `evaluate(gold, predicted).f1` | $2PR / (P + R) = 2a / (2a + b + c)$ |
#
# 1. A biomedical name is one of many for its thing, often an abbreviation, sometimes an English word, and more often
#    than not (in BC2GM) one that training has never shown.
# 2. Tags hold flat, whole, aligned mentions; nested, discontinuous and misaligned ones are lost, often before the
#    corpus reaches you.
# 3. F1 on spans judges what annotators decided on and needs no count of negatives; kappa on spans becomes the same
#    number, and kappa on tokens measures something else.
#
# **Next:** [10 · Preprocessing](10_preprocessing.ipynb): how text is cut into tokens, and what that does to names.
#
# ### References
# - Cohen 1960, *A coefficient of agreement for nominal scales*, Educ. Psychol. Meas. 20: 37.
# - Hripcsak, Rothschild 2005, *Agreement, the F-measure, and reliability in information retrieval*, JAMIA 12: 296.
# - Smith et al. 2008, *Overview of BioCreative II gene mention recognition*, Genome Biology 9: S2.
# - Doğan, Leaman, Lu 2014, *NCBI disease corpus*, J. Biomed. Inform. 47: 1.
# - Li et al. 2016, *BioCreative V CDR task corpus*, Database, baw068; Wei et al. 2016, the task's overview, Database,
#   baw032.
# - Boguslav, Cohen 2017, *Inter-annotator agreement and the upper limit on machine performance*, Studies in Health
#   Technology and Informatics, PMID 29295103.
# - Kim et al. 2003, *GENIA corpus*, Bioinformatics 19: i180; nested form: Zheng et al. 2019, EMNLP, D19-1034.
# - Kim et al. 2004, *Introduction to the bio-entity recognition task at JNLPBA*, W04-1213.
# - Leaman, Gonzalez 2008, *BANNER: an executable survey of advances in biomedical named entity recognition*, Pacific
#   Symposium on Biocomputing 13: 652; figures: banner.sourceforge.net.
# - Torii, Hu, Wu, Liu 2009, *BioTagger-GM: a gene/protein name recognition system*, JAMIA 16: 247, PMC2649315.
# - Wei, Kao, Lu 2015, *GNormPlus*, BioMed Research International, 918710.
# - Lee et al. 2020, *BioBERT*, Bioinformatics 36: 1234.
# - Gu et al. 2020, *Domain-specific language model pretraining for biomedical NLP* (PubMedBERT), arXiv 2007.15779.
# - Sänger et al. 2024, *HunFlair2 in a cross-corpus evaluation*, Bioinformatics 40: btae564.
# - Habibi et al. 2017, *Deep learning with word embeddings improves biomedical NER*, Bioinformatics 33: i37.
# - Wei et al. 2024, *PubTator 3.0*, Nucleic Acids Research 52: W540. Liu et al. 2015, *OntoMate*, Database, bau129.
#   Gonzalez-Hernandez et al. 2022, *Challenges and opportunities for mining adverse drug reactions: perspectives from
#   pharma, regulatory agencies, healthcare providers and consumers*, Database, baac071. *iKraph*, PMC10760044.
