"""How far the passes of annotation agree, from the files in `passes/`: `python data/course-corpus/agreement.py`.

Two measures, because they answer different questions:

- F1 on spans, with one of the two as reference: a span counts when start, end and type are all equal. Exchanging the
  two exchanges precision and recall and leaves F1 as it is.
- Cohen's kappa on BIO tags of tokens (Cohen 1960): (p_o - p_e) / (1 - p_e), where p_o is the share of tokens that
  carry the same tag and p_e the share expected if both passes drew tags at random from their own frequencies.

`--differences` lists every sentence on which the first and second pass differ, with what was decided.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SPLITS = ("train", "dev", "test")
TYPES = ("GENE", "DISEASE", "CHEMICAL")
TOKEN = re.compile(r"\w+|[^\w\s]")


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def load_sentences(folder=FOLDER):
    """All sentences of the three splits, in the order of the documents: dict of id -> row as in the files."""
    rows = [row for split in SPLITS for row in read_jsonl(folder / f"{split}.jsonl")]
    return {row["id"]: row for row in sorted(rows, key=lambda row: (row["document"], row["sentence"]))}


def load_twice_annotated(folder=FOLDER):
    """(sentences, first pass, second pass) of the documents that were annotated twice."""
    sentences = load_sentences(folder)
    first, second = load_pass("first", sentences, folder), load_pass("second", sentences, folder)
    if first.keys() != second.keys():
        lacking = sorted(first.keys() ^ second.keys())
        raise ValueError(f"{len(lacking)} sentences stand in one pass only, first {lacking[:3]}; both need the same")
    return {name: row for name, row in sentences.items() if name in first}, first, second


def find_occurrence(text, surface, occurrence):
    """Start of the `occurrence`-th (from 1) place where `surface` stands in `text`, overlaps not counted."""
    start = -len(surface)
    for _ in range(occurrence):
        start = text.find(surface, start + len(surface)) if start >= 0 else text.find(surface)
        if start < 0:
            raise ValueError(f"{surface!r} does not occur {occurrence} times in {text!r}")
    return start


def load_pass(name, sentences, folder=FOLDER):
    """One pass as dict of sentence id -> set of (start, end, type).

    `passes/<name>.jsonl` holds for each sentence a list of [surface, occurrence, type]; the offsets are found here.
    Raises ValueError if a surface is not in its sentence.
    """
    spans = {}
    for row in read_jsonl(folder / "passes" / f"{name}.jsonl"):
        text = sentences[row["id"]]["text"]
        found = [(find_occurrence(text, surface, nth), surface, kind) for surface, nth, kind in row["mentions"]]
        spans[row["id"]] = {(start, start + len(surface), kind) for start, surface, kind in found}
    return spans


def final_spans(sentences):
    return {
        name: {(entity["start"], entity["end"], entity["type"]) for entity in row["entities"]}
        for name, row in sentences.items()
    }


def span_scores(reference, other, kind=None):
    """(precision, recall, F1, spans in the reference, spans in the other), each score in [0, 1]."""
    first = {(name, *span) for name, spans in reference.items() for span in spans if kind in (None, span[2])}
    second = {(name, *span) for name, spans in other.items() for span in spans if kind in (None, span[2])}
    same = len(first & second)
    return same / len(second), same / len(first), 2 * same / (len(first) + len(second)), len(first), len(second)


def bio_tags(text, spans):
    """One tag per token; a token belongs to a span if it lies wholly inside it."""
    tags = []
    for token in TOKEN.finditer(text):
        inside = [span for span in spans if span[0] <= token.start() and token.end() <= span[1]]
        tags.append(("B-" if token.start() == inside[0][0] else "I-") + inside[0][2] if inside else "O")
    return tags


def cohen_kappa(first, second):
    """Kappa of two equally long lists of labels, at most 1; 0 is agreement by chance."""
    count = len(first)
    observed = sum(a == b for a, b in zip(first, second)) / count
    frequency_first, frequency_second = Counter(first), Counter(second)
    expected = sum(frequency_first[tag] * frequency_second[tag] for tag in frequency_first) / count**2
    return (observed - expected) / (1 - expected)


def token_agreement(sentences, first, second):
    """(kappa, share of tokens with equal tags, number of tokens)."""
    pairs = []
    for name, row in sentences.items():
        pairs += zip(bio_tags(row["text"], first[name]), bio_tags(row["text"], second[name]))
    return cohen_kappa(*zip(*pairs)), sum(a == b for a, b in pairs) / len(pairs), len(pairs)


def table(sentences, first, second, names):
    """A markdown table with a row for each type and one for all, `first` as reference, and a line with kappa."""
    lines = [f"| | {names[0]} | {names[1]} | precision | recall | F1 |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for kind in (*TYPES, None):
        precision, recall, f1, in_first, in_second = span_scores(first, second, kind)
        cells = f"{100 * precision:.1f} | {100 * recall:.1f} | {100 * f1:.1f}"
        lines.append(f"| {kind or 'all'} | {in_first} | {in_second} | {cells} |")
    kappa, equal, tokens = token_agreement(sentences, first, second)
    lines.append(f"Cohen's kappa on {tokens:,} tokens: {kappa:.3f} ({100 * equal:.1f}% of them have equal tags)")
    return lines


def report(folder=FOLDER):
    """The lines of the first table that the README shows: the first pass against the second."""
    sentences, first, second = load_twice_annotated(folder)
    lines = table(sentences, first, second, ("first pass", "second pass"))
    final = final_spans(sentences)
    for name, spans in (("first", first), ("second", second)):
        lines.append(f"F1 of the {name} pass against the final annotation: {100 * span_scores(final, spans)[2]:.1f}")
    differing = sum(first[name] != second[name] for name in sentences)
    lines.append(f"Sentences on which the passes differ: {differing} of {len(sentences)}")
    return lines


def report_third(folder=FOLDER):
    """The lines of the README's other two tables: the third pass against the final annotation, and against the first.

    Where the final annotation is the reference, all sentences count; the first pass covers fewer.
    """
    sentences = load_sentences(folder)
    third = load_pass("third", sentences, folder)
    if third.keys() != sentences.keys():
        raise ValueError(f"the third pass has {len(third)} of {len(sentences)} sentences; it needs them all")
    lines = table(sentences, final_spans(sentences), third, ("final", "third pass"))
    twice, first, _ = load_twice_annotated(folder)
    return lines + table(twice, first, {name: third[name] for name in twice}, ("first pass", "third pass"))


def differences(folder=FOLDER):
    """For each sentence on which the two passes differ: its text and what stands in one only, `*` if it was kept."""
    sentences, first, second = load_twice_annotated(folder)
    final = final_spans(sentences)
    for name, row in sentences.items():
        if first[name] == second[name]:
            continue
        yield f"{name}  {row['text']}"
        for label, spans in (("first ", first[name] - second[name]), ("second", second[name] - first[name])):
            for span in sorted(spans):
                kept = "*" if span in final[name] else " "
                yield f"    {label} {kept} {span[2]:8} {row['text'][span[0] : span[1]]}"


if __name__ == "__main__":
    print("\n".join(differences() if "--differences" in sys.argv[1:] else report() + report_third()))
