"""Sentences of different documents that say nearly the same: `python data/course-corpus/overlap.py` lists them.

Two sentences are near-paraphrases if they share

- a name and at least a fifth of their content words (Jaccard: common words over all words of the two), or
- two names or more and at least 15% of their content words.

Content words are stems of the words that scikit-learn's stop list lacks. A name counts as one word; names in brackets
after another ("epidermal growth factor receptor (EGFR)") count as that other, in all documents.
"""

import re
from itertools import combinations

from agreement import FOLDER, SPLITS, read_jsonl
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from snowballstemmer import stemmer

WORD = re.compile(r"\w+(?:[-–]\w+)*")
ENOUGH = {1: 0.2, 2: 0.15}  # shared names -> the least share of common words
STEM = stemmer("english").stemWord


def first_forms(rows):
    """{name in brackets: name before them}, both as stems."""
    found = {}
    for row in rows:
        for first, *others in bracketed(row):
            found.update({name: first for name in others if name != first})
    return found


def bracketed(row):
    """Lists of neighbouring names of one type: one before a bracket, and those that stand in it."""
    groups = [[]]
    for before, entity in zip([None, *row["entities"]], row["entities"]):
        between = before and row["text"][before["end"] : entity["start"]]
        inside = between == " (" or (between == ", " and len(groups[-1]) > 1)
        if not (inside and before["type"] == entity["type"]):
            groups.append([])
        groups[-1].append(" ".join(stems(entity["text"])))
    return [group for group in groups if len(group) > 1]


def stems(text, without=()):
    return [STEM(word) for word in WORD.findall(text.lower()) if word not in without]


def described(row, forms):
    """(content words, names) of a sentence; a name is one word, in the form that stands before the brackets."""
    text, names = row["text"], set()
    for entity in reversed(row["entities"]):
        name = " ".join(stems(entity["text"]))
        names.add(forms.get(name, name))
        text = text[: entity["start"]] + text[entity["end"] :]
    return {*stems(text, ENGLISH_STOP_WORDS), *names}, names


def near_paraphrases(rows):
    """[(share of common words, common names, row, row)] of different documents, the most alike first."""
    forms, found = first_forms(rows), []
    every = [(row, *described(row, forms)) for row in rows]
    for (row, words, names), (other, other_words, other_names) in combinations(every, 2):
        common = sorted(names & other_names)
        if common and row["document"] != other["document"]:
            share = len(words & other_words) / len(words | other_words)
            if share >= ENOUGH[min(len(common), 2)]:
                found.append((share, common, row, other))
    return sorted(found, key=lambda pair: -pair[0])


def main():
    rows = [row | {"split": split} for split in SPLITS for row in read_jsonl(FOLDER / f"{split}.jsonl")]
    for share, common, *pair in near_paraphrases(rows):
        print(f"{share:.2f}  {', '.join(common)}")
        print(*(f"      {row['split']:<6}{row['id']}  {row['text']}" for row in pair), sep="\n")


if __name__ == "__main__":
    main()
