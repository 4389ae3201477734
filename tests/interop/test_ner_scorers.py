"""`evaluate` against seqeval and nervaluate, to the last digit: random annotation, and corpora perturbed at random."""

import os
import random
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.ner.corpora import load_corpus
from utils.ner.evaluation import evaluate
from utils.ner.sentence import Entity
from utils.ner.tags import tags_to_spans, to_tags

seqeval_metrics = pytest.importorskip("seqeval.metrics", reason="needs the extra test: pip install -e .[test]")
nervaluate = pytest.importorskip("nervaluate", reason="needs the extra test: pip install -e .[test]")
from seqeval.scheme import IOB2  # noqa: E402

MODES = {"strict": "strict", "partial": "partial", "type": "ent_type"}
TAGS = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in ("Gene", "Disease", "Chemical"))]
PAIR = st.integers(1, 10).flatmap(
    lambda length: st.tuples(*(st.lists(st.sampled_from(TAGS), min_size=length, max_size=length) for _ in range(2)))
)
PAIRS = st.lists(PAIR, min_size=1, max_size=6)
CORPORA = ["course-corpus", "ncbi-disease", "bc5cdr", "bc2gm", "wnut17", "ctp-eligibility"]


def annotation(tags):
    """Entities of a tag sequence, with tokens as their unit; what has no B- is left out, as strict scoring does."""
    return [Entity(*span) for span in tags_to_spans(tags, orphan="drop")]


def agree_with_seqeval(gold_tags, found_tags):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ratios with nothing below the line are 0 in both
        theirs = seqeval_metrics.classification_report(
            gold_tags, found_tags, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
        )
    mine = evaluate(list(map(annotation, gold_tags)), list(map(annotation, found_tags)), resamples=0)
    for name, one in {"micro avg": mine, **mine.per_type}.items():
        expected = theirs[name]
        mine_here = {"precision": one.precision, "recall": one.recall, "f1-score": one.f1, "support": one.support}
        assert mine_here == expected


def agree_with_nervaluate(gold, found):
    types = sorted({entity.type for one in (*gold, *found) for entity in one})
    records = [
        [[{"label": e.type, "start": e.start, "end": e.end - 1} for e in sorted(one)] for one in side]
        for side in (gold, found)
    ]
    theirs = nervaluate.Evaluator(*records, tags=types, loader="dict").evaluate()
    for mode, name in MODES.items():
        mine = evaluate(gold, found, mode, resamples=0)
        pairs = [(mine, theirs["overall"][name])]
        pairs += [(mine.per_type[kind], theirs["entities"][kind][name]) for kind in types]
        for one, expected in pairs:
            assert (one.precision, one.recall, one.f1) == (expected.precision, expected.recall, expected.f1), mode
            assert (one.predicted, one.support) == (expected.actual, expected.possible)


@given(PAIRS)
def test_seqeval_on_random_tags(pairs):
    """Any tags, I- without B- included."""
    gold_tags, found_tags = ([pair[side] for pair in pairs] for side in (0, 1))
    if any(annotation(tags) for tags in (*gold_tags, *found_tags)):  # seqeval refuses to score nothing at all
        agree_with_seqeval(gold_tags, found_tags)


@given(PAIRS)
def test_nervaluate_on_random_tags(pairs):
    agree_with_nervaluate(*([annotation(pair[side]) for pair in pairs] for side in (0, 1)))


NESTED = st.lists(
    st.builds(
        lambda start, length, kind: Entity(start, start + length, kind),
        st.integers(0, 8),
        st.integers(1, 6),
        st.sampled_from(["Gene", "Disease"]),
    ),
    max_size=4,
    unique=True,
)


@settings(max_examples=200)
@given(st.lists(st.tuples(NESTED, NESTED), min_size=1, max_size=3))
def test_nervaluate_on_overlapping_entities_partial_and_type(pairs):
    """Nested and crossing entities too. Not "strict": nervaluate may there give a gold entity away to an overlap."""
    gold, found = ([pair[side] for pair in pairs] for side in (0, 1))
    records = [
        [
            [{"label": e.type, "start": e.start, "end": e.end - 1} for e in sorted(one, key=lambda e: e.span)]
            for one in side
        ]
        for side in (gold, found)
    ]
    theirs = nervaluate.Evaluator(*records, tags=["Gene", "Disease"], loader="dict").evaluate()["overall"]
    for mode in ("partial", "type"):
        mine, expected = evaluate(gold, found, mode, resamples=0), theirs[MODES[mode]]
        assert (mine.precision, mine.recall, mine.f1) == (expected.precision, expected.recall, expected.f1)


@pytest.mark.parametrize("name", CORPORA)
def test_both_on_a_corpus_perturbed_at_random(name):
    if name != "course-corpus" and not os.environ.get("COURSE_DATA"):
        pytest.skip(f"needs {name}; COURSE_DATA=FOLDER with ner/{name}/test.tsv runs it")
    generator = random.Random(name)
    gold_tags = [to_tags(one, on_loss="drop") for one in load_corpus(name).test[:600]]
    kinds = sorted({tag[2:] for tags in gold_tags for tag in tags} - {""})
    found_tags = [[perturbed(tag, kinds, generator) for tag in tags] for tags in gold_tags]
    agree_with_seqeval(gold_tags, found_tags)
    agree_with_nervaluate(list(map(annotation, gold_tags)), list(map(annotation, found_tags)))


def perturbed(tag, kinds, generator):
    """One tag in twelve becomes another one."""
    if generator.random() > 1 / 12:
        return tag
    return generator.choice(["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in kinds)])
