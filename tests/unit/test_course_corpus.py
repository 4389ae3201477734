"""The corpus written for the course: offsets, splits, and the figures that its README gives."""

import importlib.util
import json
import re
from collections import Counter

import pytest

SPLITS = ("train", "dev", "test")
TYPES = ("GENE", "DISEASE", "CHEMICAL")


@pytest.fixture(scope="module")
def folder(root):
    return root / "data" / "course-corpus"


@pytest.fixture(scope="module")
def splits(folder):
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def sentences(splits):
    return [row for split in SPLITS for row in splits[split]]


@pytest.fixture(scope="module")
def agreement(folder):
    spec = importlib.util.spec_from_file_location("course_corpus_agreement", folder / "agreement.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def overlap(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module("overlap")


@pytest.fixture(scope="module")
def readme(folder):
    return (folder / "README.md").read_text("utf-8")


def test_offsets_give_back_the_surface(sentences):
    for row in sentences:
        for entity in row["entities"]:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"], row["id"]
            assert entity["text"] and entity["text"] == entity["text"].strip(), row["id"]


def test_entities_are_in_order_and_do_not_overlap(sentences):
    for row in sentences:
        for before, after in zip(row["entities"], row["entities"][1:]):
            assert before["end"] <= after["start"], row["id"]


def test_entities_begin_and_end_with_whole_words(sentences):
    for row in sentences:
        for entity in row["entities"]:
            before, after = row["text"][: entity["start"]], row["text"][entity["end"] :]
            assert not re.search(r"\w$", before) and not re.match(r"\w", after), (row["id"], entity["text"])


def test_types_are_known(sentences):
    assert {entity["type"] for row in sentences for entity in row["entities"]} == set(TYPES)


def test_large_enough_and_ids_unique(sentences):
    assert len(sentences) >= 150
    ids = [row["id"] for row in sentences]
    assert len(set(ids)) == len(ids)
    assert len({row["text"] for row in sentences}) == len(ids)
    assert all(row["id"] == f"{row['document']}-{row['sentence']}" for row in sentences)


def test_no_document_is_in_two_splits(splits):
    documents = [{row["document"] for row in splits[split]} for split in SPLITS]
    assert sum(map(len, documents)) == len(set.union(*documents))


def test_no_sentence_is_nearly_the_same_as_one_of_another_split(overlap, splits, sentences, readme):
    split_of = {row["id"]: split for split in SPLITS for row in splits[split]}
    pairs = [(a["id"], b["id"]) for _, _, a, b in overlap.near_paraphrases(sentences)]
    assert not [(a, b) for a, b in pairs if split_of[a] != split_of[b]]
    assert f"lists the {len(pairs)} pairs" in readme
    # Pairs that a reader would call the same statement; were one not found, the measure would be too lax.
    found = set(map(frozenset, pairs))
    for known in ("cc47-3 cc21-5", "cc49-2 cc26-4", "cc49-3 cc26-6", "cc46-2 cc12-4", "cc37-4 cc51-4"):
        assert frozenset(known.split()) in found


def test_long_and_short_forms_are_one_name_and_a_name_is_one_word(overlap):
    def row(document, text, *names):
        found = [(text.index(name), text.index(name) + len(name), name) for name in names]
        entities = [{"start": a, "end": b, "type": "GENE", "text": name} for a, b, name in found]
        return {"id": document, "document": document, "text": text, "entities": entities}

    long = row("a", "Growth factor receptor (ERBB1, EGFR) is lost.", "Growth factor receptor", "ERBB1", "EGFR")
    short, other = row("b", "EGFR is not lost here.", "EGFR"), row("c", "MET is lost.", "MET")
    ((share, common, first, second),) = overlap.near_paraphrases([long, short, other])
    assert (share, common) == (1, ["growth factor receptor"]) and {first["id"], second["id"]} == {"a", "b"}
    assert not overlap.near_paraphrases([short, {**long, "document": "b"}])
    assert not overlap.near_paraphrases([row("a", "It is."), row("b", "That was it.")])  # no word that counts


def test_documents_are_whole(sentences):
    numbers = {}
    for row in sentences:
        numbers.setdefault(row["document"], []).append(row["sentence"])
    for document, found in numbers.items():
        assert found == list(range(1, len(found) + 1)) and 4 <= len(found) <= 6, document


def counts(rows, token):
    types = Counter(entity["type"] for row in rows for entity in row["entities"])
    tokens = sum(len(token.findall(row["text"])) for row in rows)
    empty = sum(not row["entities"] for row in rows)
    return [len({row["document"] for row in rows}), len(rows), tokens, *(types[kind] for kind in TYPES), empty]


def test_readme_counts(splits, sentences, agreement, readme):
    for name, rows in (*splits.items(), ("all", sentences)):
        cells = re.search(rf"^\| {name} \| (.*) \|$", readme, re.MULTILINE).group(1).split(" | ")
        assert [int(cell.replace(",", "")) for cell in cells] == counts(rows, agreement.TOKEN), name


def test_readme_unseen_names(splits, readme):
    known = {entity["text"].lower() for row in splits["train"] for entity in row["entities"]}
    mentions = [entity["text"].lower() for row in splits["test"] for entity in row["entities"]]
    unseen = sum(mention not in known for mention in mentions)
    sentence = f"of the {len(mentions)} mentions in the test split, {unseen} ({100 * unseen / len(mentions):.0f}%)"
    assert sentence in readme.replace("\n", " ")


def test_readme_agreement_is_what_the_script_prints(agreement, readme):
    for line in agreement.report():
        assert line in readme


def test_readme_agreement_of_the_third_pass_is_what_the_script_prints(agreement, readme):
    lines = agreement.report_third()
    assert len(lines) == 14 and all(line in readme for line in lines)


def test_the_third_pass_has_every_sentence_and_no_overlap(agreement):
    sentences = agreement.load_sentences()
    third = agreement.load_pass("third", sentences)
    assert list(third) == list(sentences)
    for name, spans in third.items():
        assert {span[2] for span in spans} <= set(TYPES), name
        assert all(before[1] <= after[0] for before, after in zip(sorted(spans), sorted(spans)[1:])), name


def test_a_third_pass_with_a_sentence_missing_is_refused(agreement, folder, tmp_path):
    for path in (*folder.glob("*.jsonl"), *folder.glob("passes/*.jsonl")):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(exist_ok=True)
        lines = path.read_text("utf-8").splitlines()
        copy.write_text("\n".join(lines[: -1 if path.name == "third.jsonl" else None]) + "\n", "utf-8")
    with pytest.raises(ValueError, match="289 of 290"):
        agreement.report_third(tmp_path)


def test_readme_says_how_differences_were_decided(agreement, readme):
    sentences, first, second = agreement.load_twice_annotated()
    final = agreement.final_spans(sentences)
    differing = [name for name in sentences if first[name] != second[name]]
    by_first = sum(final[name] == first[name] for name in differing)
    by_second = sum(final[name] == second[name] for name in differing)
    assert by_first + by_second == len(differing)
    text = readme.replace("\n   ", " ")
    assert f"Of the {len(differing)} sentences that differ, the final annotation follows the second pass in " in text
    assert f"in {by_second} and the first in {by_first}." in text
    assert f"({len(sentences)} sentences)" in text


def test_where_both_passes_agree_one_mention_was_taken_out(agreement):
    sentences, first, second = agreement.load_twice_annotated()
    final = agreement.final_spans(sentences)
    changed = {name for name in sentences if first[name] == second[name] != final[name]}
    assert changed == {"cc02-4"}
    ((start, end, _),) = first["cc02-4"] - final["cc02-4"]
    assert sentences["cc02-4"]["text"][start:end] == "centrilobular necrosis" and final["cc02-4"] < first["cc02-4"]


def test_every_difference_is_listed_once(agreement):
    sentences, first, second = agreement.load_twice_annotated()
    listed = [line.split("  ")[0] for line in agreement.differences() if not line.startswith(" ")]
    assert listed == [name for name in sentences if first[name] != second[name]]


def test_kappa_and_f1_against_values_worked_out_by_hand(agreement):
    # Observed 3/4; expected (2*1 + 2*3) / 16 = 1/2; kappa (3/4 - 1/2) / (1 - 1/2) = 1/2.
    assert agreement.cohen_kappa(["A", "A", "B", "B"], ["A", "B", "B", "B"]) == pytest.approx(0.5)
    first = {"x": {(0, 2, "GENE"), (5, 9, "GENE")}}
    second = {"x": {(0, 2, "GENE"), (5, 8, "GENE"), (10, 12, "DISEASE")}}
    assert agreement.span_scores(first, second)[:3] == pytest.approx((1 / 3, 1 / 2, 2 / 5))


def test_occurrences_are_counted_from_one(agreement):
    assert agreement.find_occurrence("p53 and p53", "p53", 2) == 8
    with pytest.raises(ValueError, match="does not occur 3 times"):
        agreement.find_occurrence("p53 and p53", "p53", 3)
